"""`Wakeup`: how tasks of one event loop wait for each other.

There is one way to wait in the library: look, wait, and look again, as in
``while not there_is_something(): await wakeup.wait()``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, final

from anyio.lowlevel import current_token

from .asyncio_loop import asyncio_bells
from .trio_loop import trio_bells

__all__ = ["Bell", "Wakeup", "bells"]


class Bell(Protocol):
    """Wakes those that wait, once."""

    @property
    def waiting(self) -> int:
        """How many tasks wait."""
        ...

    def wait(self) -> Awaitable[Any]:
        """Return what to await; `forget` it if that was cancelled."""
        ...

    def forget(self, waiter: Any) -> None:
        """Note that nobody awaits `waiter` any more."""
        ...

    def set(self) -> None:
        """Wake all that wait."""
        ...


def bells() -> Callable[[], Bell]:
    """Return what makes bells in the event loop that runs here.

    Whoever waits often asks once: to find out where one is costs more than a bell.
    """
    loop = current_token().native_token
    return trio_bells(loop) or asyncio_bells(loop)


@final
class Wakeup:
    """Wakes all that wait; a condition variable without a lock, as one event loop needs none.

    It costs nothing while nobody waits: the bell is made by the first that does, and a
    notification takes it off.
    """

    __slots__ = ("bell",)

    def __init__(self) -> None:
        #: what they wait on, if any do; for whoever cannot afford a call to find that out
        self.bell: Bell | None = None

    @property
    def waiting(self) -> int:
        """How many tasks wait."""
        return 0 if self.bell is None else self.bell.waiting

    def next_bell(self) -> Bell:
        """Return what the next notification rings, for whoever looks after that and before a wait."""
        bell = self.bell
        if bell is None:
            bell = self.bell = bells()()
        return bell

    async def wait(self, bell: Bell | None = None) -> None:
        """Wait for the next notification. Cancelling this is safe: there is nothing to lose.

        :param bell: the `next_bell`, if that was asked for before; it may have rung since
        """
        bell = bell or self.next_bell()
        waiter = bell.wait()
        try:
            await waiter
        except BaseException:
            bell.forget(waiter)
            self.left(bell)
            raise

    def left(self, bell: Bell) -> None:
        """Take a bell off if nobody is left to wait: in another event loop nobody could."""
        if self.bell is bell and not bell.waiting:
            self.bell = None

    def notify_all(self) -> None:
        """Wake all that wait now."""
        bell = self.bell
        if bell is not None:
            self.bell = None
            bell.set()
