"""`AsyncioBell`: what `anyio.Event` is on asyncio, for one ring and without its layers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:  # a program on trio needs no asyncio
    from asyncio import Future

__all__ = ["AsyncioBell", "asyncio_bells"]


@final
class AsyncioBell:
    """Wakes those that wait, once. A wait is one future: no frame to wake up through."""

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


def asyncio_bells(loop: object) -> Callable[[], AsyncioBell] | None:
    """Return what makes bells for an event loop; `None` if it is none of asyncio's."""
    if "asyncio" not in sys.modules:
        return None
    from asyncio import AbstractEventLoop

    return partial(AsyncioBell, loop.create_future) if isinstance(loop, AbstractEventLoop) else None
