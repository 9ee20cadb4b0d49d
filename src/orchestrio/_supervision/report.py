"""`Report`: what the log says of the life of a scheduler, from its start to its end.

A line when all is started, one when a stop begins, and why, one when all has stopped; and every few
seconds of a start, a stop or a restart, what it waits for. With nobody who reads `logging.INFO`, nothing of it
is even looked at.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from math import inf
from typing import Any, Final, final

from anyio import TaskHandle, current_time, sleep, sleep_until
from anyio.abc import TaskGroup

from .._model.errors import SchedulerError
from .._model.log import logger
from .._model.words import counted, in_seconds
from .._tasks.failures import undisturbed
from .._workers.worker import Worker
from .waits import Wait, waits_of_start

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

    __slots__ = ("_beginning", "_gone", "_look_at", "_since", "_teller", "_totals", "_was_started")

    def __init__(self) -> None:
        self._since = inf  # when the start or the stop began, in seconds of the event loop's clock
        self._was_started = False
        self._gone = 0  # tasks that were removed
        self._totals: dict[str, int] = dict.fromkeys(_TOTALS, 0)  # of those that were
        # Those that begin by themselves, on the event loop's clock: since when, and when that is to
        # be told next.
        self._beginning: dict[Worker, tuple[float, float]] = {}
        self._look_at = inf  # when the first of them is to be told
        self._teller: TaskHandle[None] | None = None  # who does so

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
        self._beginning.clear()
        self._rest()
        if self._was_started and logger.isEnabledFor(logging.INFO):
            self._since = current_time()
            logger.info("stopping because %s", why)

    def begins(self, group: TaskGroup, worker: Worker, not_before: float) -> None:
        """Tell every few seconds what a task waits for that begins by itself, until it is ready.

        :param group: what owns the task that does so for all of them
        :param worker: the task, that of a restart or a late one
        :param not_before: when it may begin, in seconds on the event loop's clock
        """
        if logger.isEnabledFor(logging.INFO):
            since = max(not_before, current_time())
            self._beginning[worker] = since, since + _EVERY
            if since + _EVERY < self._look_at:
                self._rest()
                self._look_at = since + _EVERY
                name = "orchestrio tells of restarts"
                self._teller = group.create_task(undisturbed(self._tell_beginning), name=name)

    def is_ready(self, worker: Worker) -> None:
        """Tell that a task is ready that took long for it."""
        if worker in self._beginning:
            took = current_time() - self._beginning[worker][0]
            self.ended(worker)
            if took >= _EVERY:
                again = " again" if worker.runs > 1 else ""
                what = "%s is ready%s, after %s"
                logger.info(what, worker.title, again, in_seconds(took), extra=worker.extra())

    def ended(self, worker: Worker) -> None:
        """Tell no more what a task waits for."""
        if self._beginning.pop(worker, None) is not None and not self._beginning:
            self._rest()

    def _rest(self) -> None:
        teller, self._teller = self._teller, None
        self._look_at = inf
        if teller is not None:
            teller.cancel()

    async def _tell_beginning(self) -> None:
        while self._beginning:
            self._look_at = min(look_at for _, look_at in self._beginning.values())
            await sleep_until(self._look_at)
            now = current_time()
            for worker, (since, look_at) in list(self._beginning.items()):
                if now - since > _AT_MOST:
                    del self._beginning[worker]
                elif look_at <= now:
                    self._beginning[worker] = since, now + max(_EVERY, (now - since) / 4)
            begun = [worker for worker, (since, _) in self._beginning.items() if since < now]
            _tell(list(waits_of_start(begun)))
        self._teller, self._look_at = None, inf

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
        _tell(list(waits()))


def _tell(found: list[Wait]) -> None:
    if found:
        now = current_time()
        words = [wait.in_words(now) for wait in found[:_MOST]]
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
