"""What the log says of the runs of tasks: how far each has come, and how long that took."""

from __future__ import annotations

import logging
from math import inf
from typing import Final

from anyio import current_time

from .._model.log import logger
from .._model.words import in_seconds
from .host import Host
from .phases import Outcome, Phase

__all__ = ["is_told", "tell"]

#: Whether anybody reads what is told at `logging.INFO`; whoever reads nothing pays for nothing.
is_told = logger.isEnabledFor

_ENDS: Final = {
    Outcome.RETURNED: "it returned",
    Outcome.STOPPED: "it was stopped",
    Outcome.FAILED: "it failed",
    Outcome.ABANDONED: "it ignores its cancellation",
}


def tell(
    host: Host,
    before: Phase,
    phase: Phase,
    outcome: Outcome | None,
    since: float,
    worked: float,
    errors: int,
) -> float:
    """Log that a run has come to its next phase.

    :param host: the worker of the run
    :param before: the phase it was in
    :param phase: the phase that it is in now
    :param outcome: what became of its work
    :param since: when the phase before began, in seconds on the event loop's clock
    :param worked: when it began to work
    :param errors: how many times ``shutdown()`` failed
    :return: when this phase began
    """
    now = current_time()
    if logger.isEnabledFor(logging.DEBUG):
        what = ""
        if phase is Phase.INITIALIZED:
            what = f"initialised in {in_seconds(now - since)}"
        elif phase is Phase.WORKING:
            what = "begins to work"
        elif phase is Phase.STOPPING and outcome is not None:
            after = f" after {in_seconds(now - worked)}" if worked < inf else ""
            what = f"ended its work{after}: {_ENDS[outcome]}"
        elif before is Phase.SHUTTING_DOWN:
            did = "failed to shut down" if errors else "shut down"
            what = f"{did} in {in_seconds(now - since)}"
        if what:
            logger.debug("%s %s", host.title, what, extra=host.extra())
    return now
