"""`Wakeup`: how tasks of one event loop wait for each other.

There is one way to wait in the library: look, wait, and look again, as in
``while not there_is_something(): await wakeup.wait()``.
"""

from __future__ import annotations

from typing import final

from anyio import Event

__all__ = ["Wakeup"]


@final
class Wakeup:
    """Wakes all that wait; a condition variable without a lock, as one event loop needs none.

    It costs nothing while nobody waits: the event is made by the first that does, and a
    notification takes it off.
    """

    __slots__ = ("event",)

    def __init__(self) -> None:
        #: what they wait on, if any do; for whoever cannot afford a call to find that out
        self.event: Event | None = None

    @property
    def waiting(self) -> int:
        """How many tasks wait."""
        return 0 if self.event is None else self.event.statistics().tasks_waiting

    async def wait(self) -> None:
        """Wait for the next notification. Cancelling this is safe: there is nothing to lose."""
        event = self.event
        if event is None:
            event = self.event = Event()
        try:
            await event.wait()
        except BaseException:
            # Nobody is left to wait, and in another event loop nobody could.
            if self.event is event and not self.waiting:
                self.event = None
            raise

    def notify_all(self) -> None:
        """Wake all that wait now."""
        event = self.event
        if event is not None:
            self.event = None
            event.set()
