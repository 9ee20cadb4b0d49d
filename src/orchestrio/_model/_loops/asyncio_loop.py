"""Event loops of asyncio: their clock, and what tasks wait on, without AnyIO's layers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast, final

if TYPE_CHECKING:  # a program on trio needs no asyncio
    from asyncio import AbstractEventLoop, Future

__all__ = ["AsyncioBell", "asyncio_bells", "asyncio_cancellations", "asyncio_clock"]


@final
class AsyncioBell:
    """Wakes those that wait, once, as an `anyio.Event`.

    A wait is one future: no frame to wake up through.
    """

    __slots__ = ("_create_future", "_has_rung", "_waiters")

    def __init__(self, create_future: Callable[[], Future[Any]]) -> None:
        self._create_future = create_future
        self._waiters: dict[Future[Any], None] = {}
        self._has_rung = False

    @property
    def waiting(self) -> int:
        """How many tasks wait."""
        return len(self._waiters)

    def wait(self) -> Future[Any]:
        """Return what to await; `forget` it if that was cancelled."""
        waiter = self._create_future()
        if self._has_rung:  # also since it was asked for this, by what is garbage
            waiter.set_result(None)
        else:
            self._waiters[waiter] = None
        return waiter

    def forget(self, waiter: Any) -> None:
        """Note that nobody awaits `waiter` any more."""
        self._waiters.pop(waiter, None)

    def set(self) -> None:
        """Wake all that wait."""
        self._has_rung = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)


def asyncio_bells(loop: object) -> Callable[[], AsyncioBell]:
    """Return what makes bells for an event loop of asyncio, or for what does as one."""
    return partial(AsyncioBell, cast("AbstractEventLoop", loop).create_future)


def asyncio_cancellations() -> Callable[[], int]:
    """Return what says how often the task that runs was cancelled, heard of or to come."""
    from asyncio import current_task

    def cancellations() -> int:
        task = current_task()
        return 0 if task is None else task.cancelling()

    return cancellations


def asyncio_clock(loop: object) -> Callable[[], float]:
    """Return what tells the time of such an event loop."""
    return cast("AbstractEventLoop", loop).time
