"""What the simulation finds today, by seed: strict expected failures, until they are mended.

A seed decides on a run only together with the versions of what the run is made of: with others the
same faults are found, but with other seeds.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.metadata import version
from typing import Final, NamedTuple

RECORDED_WITH: Final = {"python": "3.11", "anyio": "4.16", "trio": "0.35"}


class Fault(NamedTuple):
    """A fault of the library: the rule that it breaks, what happens, and the issue that mends it."""

    rule: str
    what: str
    issue: str


FAULTS: Final[Mapping[str, Fault]] = {
    "dependant": Fault(
        "shutdown_order",
        "a task shuts down while one that depends on it still does",
        "house",
    ),
    "order": Fault(
        "shutdown_order",
        "a task that somebody stops shuts down in a stop of everything before those after it",
        "house",
    ),
    "restart at the stop": Fault(
        "stop_in_time",
        "a task whose restart is under way when everything stops is started again, for ever",
        "house",
    ),
    "start": Fault(
        "stop_in_time",
        "a start that fails never ends, if a task that was registered meanwhile depends on one that"
        " has not begun",
        "house",
    ),
    "two runs": Fault(
        "no_overlap",
        "a task that waits for its dependency is restarted by hand, and runs twice",
        "house",
    ),
    "subscription": Fault(
        "nothing_left",
        "a task that is stopped in its shutdown() before a restart stays subscribed",
        "house",
    ),
    "given up": Fault(
        "nothing_left",
        "a task stays subscribed whose restart_task() was cancelled",
        "house",
    ),
    "ghost": Fault(
        "nothing_left",
        "a task that is removed while it is restarted runs on unseen",
        "house",
    ),
    "untold": Fault(
        "errors_told_once",
        "a failure just after stop_task() or remove_task() is neither logged nor raised",
        "house",
    ),
    "states": Fault(
        "legal_states",
        "a task that has stopped is told to be stopping, when it is restarted and stopped at once",
        "house",
    ),
    "not ready": Fault(
        "no_deadlock",
        "a task is told to be running while it waits for a dependency that has failed meanwhile",
        "house",
    ),
}

#: By order and backend: each seed, and what it finds. All of the first 500 are here, and of those
#: that come later one for each fault.
SEEDS: Final[Mapping[tuple[str, str], Mapping[int, str]]] = {}


def is_recorded_with_what_is_here() -> bool:
    """Whether the seeds were recorded with the versions that are installed."""
    here = {name: _minor(version(name)) for name in RECORDED_WITH if name != "python"}
    return {"python": _minor(sys.version), **here} == RECORDED_WITH


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
