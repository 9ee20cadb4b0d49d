"""Retries: a time limit for each attempt of a handler, and a back-off before the next one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from math import inf
from typing import TypeVar

from anyio import move_on_after, sleep

from .._model.log import logger
from .._model.settings import TaskMetadata, wait_before
from .failures import failure_in, in_words

__all__ = ["with_retries"]

T = TypeVar("T")


def with_retries(
    handle: Callable[[T], Awaitable[object]],
    metadata: TaskMetadata,
    random: Callable[[], float],
    extra: Callable[[], dict[str, object]],
) -> Callable[[T], Awaitable[object]]:
    """Give a handler the ``attempt_timeout`` and ``retries`` of its task; none costs nothing.

    :param handle: the handler
    :param metadata: has the limits
    :param random: returns numbers from 0 up to 1, for the jitter of the back-off
    :param extra: returns what a log record about the task carries
    :return: the handler itself if there are no limits; or a function that calls it, and raises
        what it raised the last time, or `TimeoutError`
    """
    timeout = metadata.attempt_timeout
    retries = metadata.retries
    if timeout == inf and not retries:
        return handle

    async def attempt(message: T) -> None:
        with move_on_after(timeout) as scope:
            await handle(message)
        if scope.cancelled_caught:
            raise TimeoutError(f"it took longer than its attempt_timeout ({timeout:g} s)")

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
                about = extra()
                logger.info(
                    "task %r: attempt %d of %d failed, the next in %g s: %s: %s",
                    about.get("task_name"),
                    number,
                    retries + 1,
                    delay,
                    type(error).__name__,
                    in_words(error),
                    extra=about | {"attempt": number, "delay": delay, "error": error},
                )
                await sleep(delay)
                number += 1

    return retry if retries else once
