"""The event loop of trio: its clock, and what tasks wait on, without AnyIO's layers."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:  # a program on asyncio needs no trio
    from trio import Event

__all__ = ["TrioBell", "trio_bells", "trio_cancellations", "trio_clock"]


@final
class TrioBell:
    """Wakes those that wait, once, as an `anyio.Event`, whose layer is a twentieth of a wake-up."""

    __slots__ = ("_event",)

    def __init__(self, new_event: Callable[[], Event]) -> None:
        self._event = new_event()

    @property
    def waiting(self) -> int:
        """How many tasks wait."""
        return self._event.statistics().tasks_waiting

    def wait(self) -> Awaitable[None]:
        """Return what to await; `forget` it if that was cancelled."""
        return self._event.wait()

    def forget(self, waiter: Any) -> None:
        """The event has done so."""

    def set(self) -> None:
        """Wake all that wait."""
        self._event.set()


def trio_bells(loop: object) -> Callable[[], TrioBell] | None:
    """Return what makes bells for an event loop; `None` if it is not trio's."""
    if not _is_trio(loop):
        return None
    from trio import Event

    return partial(TrioBell, Event)


def trio_cancellations(loop: object) -> Callable[[], int] | None:
    """Return what counts cancellations without a scope: there are none; `None` if it is not trio's."""
    return int if _is_trio(loop) else None


def trio_clock(loop: object) -> Callable[[], float] | None:
    """Return what tells the time of an event loop; `None` if it is not trio's."""
    if not _is_trio(loop):
        return None
    from trio import current_time

    return current_time


def _is_trio(loop: object) -> bool:
    """Whether it is trio's: of asyncio is whatever does as one of its loops."""
    if "trio" not in sys.modules:
        return False
    from trio.lowlevel import TrioToken

    return isinstance(loop, TrioToken)
