"""What the simulation finds today, by seed: strict expected failures, until they are mended.

There are none just now. A seed decides on a run only together with the versions of what the run is
made of: with others the same faults are found, but with other seeds.
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


FAULTS: Final[Mapping[str, Fault]] = {}

#: By order and backend: each seed, and what it finds. All of the first 500 are here, and of those
#: that come later one for each fault.
SEEDS: Final[Mapping[tuple[str, str], Mapping[int, str]]] = {}


def is_recorded_with_what_is_here() -> bool:
    """Whether the seeds were recorded with the versions that are installed."""
    here = {name: _minor(version(name)) for name in RECORDED_WITH if name != "python"}
    return {"python": _minor(sys.version), **here} == RECORDED_WITH


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
