"""Retries: a time limit for each attempt of a handler, and a back-off before the next one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from math import inf
from typing import TypeVar

from anyio import current_time, sleep

from .._broadcast.hand import begin_attempt
from .._model._loops.clocks import clock_here
from .._model.log import logger
from .._model.settings import TaskMetadata, wait_before
from .._model.words import counted, in_seconds, in_words
from .failures import failure_in, within
from .tally import AT_ONCE, Tally

__all__ = ["tally_of_retries", "with_retries"]

T = TypeVar("T")


def tally_of_retries(
    metadata: TaskMetadata, extra: Callable[[], dict[str, object]]
) -> Tally | None:
    """Return what decides which retries of a task are in the log; `None` if it has none.

    Whoever has the task settles it when the work is over.

    :param metadata: that of the task
    :param extra: returns what a log record about the task carries
    """

    def tell(times: int, _: int) -> None:
        about = extra()
        what = "task %r: %s more failed and were tried again"
        how_often = counted(times, "attempts")
        logger.info(what, about.get("task_name"), how_often, extra=about | {"retried": times})

    return Tally(AT_ONCE, tell) if metadata.retries else None


def with_retries(
    handle: Callable[[T], Awaitable[object]],
    metadata: TaskMetadata,
    random: Callable[[], float],
    extra: Callable[[], dict[str, object]],
    tally: Tally | None,
) -> Callable[[T], Awaitable[object]]:
    """Give a handler the ``attempt_timeout`` and ``retries`` of its task; none costs nothing.

    :param handle: the handler
    :param metadata: has the limits
    :param random: returns numbers from 0 up to 1, for the jitter of the back-off
    :param extra: returns what a log record about the task carries
    :param tally: decides which attempts that failed are in the log; see `tally_of_retries`
    :return: the handler itself if there are no limits; or a function that calls it, and raises
        what it raised the last time, or `TimeoutError`
    """
    timeout = metadata.attempt_timeout
    retries = metadata.retries
    if timeout == inf and not retries:
        return handle

    clock: Callable[[], float] | None = None

    def attempt(message: T) -> Awaitable[None]:  # a coroutine more would be dear
        nonlocal clock
        if clock is None:  # it may be made before an event loop runs
            clock = clock_here()
        return within(timeout, "attempt_timeout", handle, message, clock=clock)

    # A scope costs ten times what a call does, and one without a deadline is never needed.
    once = handle if timeout == inf else attempt

    async def retry(message: T) -> None:
        number = 1
        while True:
            try:
                await once(message)
                return
            except BaseException as raised:
                error = failure_in(raised) if number <= retries else None
                if error is None:
                    raise
                delay = wait_before(number, metadata.retry_backoff, random())
                if tally is None or tally.note(current_time()):
                    about = extra()
                    logger.info(
                        "task %r: attempt %d of %d failed, the next in %s: %s: %s",
                        about.get("task_name"),
                        number,
                        retries + 1,
                        in_seconds(delay),
                        type(error).__name__,
                        in_words(error),
                        extra=about | {"attempt": number, "delay": delay, "error": error},
                    )
                await sleep(delay)
                number += 1
                begin_attempt(number)

    return retry if retries else once
