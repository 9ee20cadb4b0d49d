"""`Report`: what the log says of the life of a scheduler, from its start to its end.

A line when all is started, one when a stop begins, and why, one when all has stopped; and every few
seconds of a start or a stop, what it waits for. With nobody who reads `logging.INFO`, nothing of it
is even looked at.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from itertools import islice
from math import inf
from typing import Any, Final, final

from anyio import current_time, sleep
from anyio.abc import TaskGroup

from .._model.errors import SchedulerError
from .._model.log import logger
from .._model.words import counted, in_seconds
from .._tasks.failures import undisturbed
from .._workers.worker import Worker
from .waits import Wait

__all__ = ["Report", "what_ends_the_run"]

#: How often it is told what is waited for, in seconds; of a long wait, less and less often.
_EVERY: Final = 2.0

#: After how many seconds nobody is told any more: a clock that jumps must come to rest.
_AT_MOST: Final = 1e6

#: How many things that are waited for are named.
_MOST: Final = 3

#: What is summed up in the end, over all tasks.
_TOTALS: Final[tuple[str, ...]] = ("handled", "failed", "missed", "restarts")


@final
class Report:
    """Tells of one scheduler."""

    __slots__ = ("_gone", "_since", "_totals", "_was_started")

    def __init__(self) -> None:
        self._since = inf  # when the start or the stop began, in seconds of the event loop's clock
        self._was_started = False
        self._gone = 0  # tasks that were removed
        self._totals: dict[str, int] = dict.fromkeys(_TOTALS, 0)  # of those that were

    def starting(self) -> None:
        """Note that the start begins."""
        self._was_started = True
        if logger.isEnabledFor(logging.INFO):
            self._since = current_time()

    def started(self, tasks: int) -> None:
        """Tell that all tasks are ready.

        :param tasks: how many there are
        """
        if logger.isEnabledFor(logging.INFO):
            took = current_time() - self._since
            what = "started %s, ready in %s"
            logger.info(what, counted(tasks, "tasks"), in_seconds(took), extra={"tasks": tasks})

    def stopping(self, why: str) -> None:
        """Tell that everything stops.

        :param why: the reason, to be read after "because"
        """
        if self._was_started and logger.isEnabledFor(logging.INFO):
            self._since = current_time()
            logger.info("stopping because %s", why)

    def gone(self, worker: Worker) -> None:
        """Count what a task has done that is removed."""
        if logger.isEnabledFor(logging.INFO):
            self._gone += 1
            _add(self._totals, worker)

    def stopped(self, workers: Iterable[Worker]) -> None:
        """Tell that everything has stopped, and what all tasks have done.

        :param workers: those that were not removed
        """
        if not (self._was_started and logger.isEnabledFor(logging.INFO)):
            return
        totals: dict[str, int] = dict(self._totals)
        tasks = self._gone
        for worker in workers:
            tasks += 1
            _add(totals, worker)
        logger.info(
            "stopped in %s: %s, %s handled, %s failed, %s missed, %s",
            in_seconds(current_time() - self._since),
            counted(tasks, "tasks"),
            counted(totals["handled"], "messages"),
            f"{totals['failed']:,}",
            f"{totals['missed']:,}",
            counted(totals["restarts"], "restarts"),
            extra={"tasks": tasks, **totals},
        )

    @contextmanager
    def telling(self, group: TaskGroup, waits: Callable[[], Iterable[Wait]]) -> Generator[None]:
        """Tell every few seconds what is waited for, while the block runs.

        :param group: what owns the task that does so; it is cancelled when the block is left
        :param waits: returns what is waited for just now
        """
        if not logger.isEnabledFor(logging.INFO):
            yield
            return
        teller = group.create_task(
            undisturbed(_tell_again_and_again, waits), name="orchestrio tells of waits"
        )
        try:
            yield
        finally:
            teller.cancel()


async def _tell_again_and_again(waits: Callable[[], Iterable[Wait]]) -> None:
    passed = 0.0
    while passed < _AT_MOST:
        pause = max(_EVERY, passed / 4)
        await sleep(pause)
        passed += pause
        found = list(waits())
        if found:
            now = current_time()
            words = [wait.in_words(now) for wait in islice(found, _MOST)]
            if len(found) > _MOST:
                words.append(f"and {len(found) - _MOST} more")
            extra = found[0].worker.extra() if len(found) == 1 else {}
            extra["waits"] = len(found)
            logger.info("still waiting for %s", "; ".join(words), extra=extra)


def _add(totals: dict[str, int], worker: Worker) -> None:
    facts: dict[str, Any] = worker.facts()
    for name in _TOTALS:
        totals[name] += facts.get(name, 0)


def what_ends_the_run(failure: BaseException) -> str:
    """Say what a failure is, in one line."""
    if isinstance(failure, SchedulerError):
        return str(failure).partition("\n")[0]
    return f"a task raised {type(failure).__name__}"
