"""`Cursor`: one reader of a channel, and the rule of what it gets.

Nothing in here awaits: whatever it does happened or did not, also under cancellation.
"""

from __future__ import annotations

from typing import Generic, final

from anyio import ClosedResourceError, EndOfStream, WouldBlock
from typing_extensions import TypeVar

from .._model.errors import LaggedError
from .channel import Log

__all__ = ["Cursor"]

T = TypeVar("T")


@final
class Cursor(Generic[T]):
    """One reader of a log: the number of the item it reads next, and how many it missed."""

    __slots__ = ("closed", "fast", "halted", "log", "missed", "position")

    def __init__(self, log: Log[T], position: int) -> None:
        self.log: Log[T] = log
        self.position: int = position
        self.missed: int = 0
        self.closed: bool = False
        self.halted: bool = False  # whether there is nothing to read here: closed, or paused
        self.fast: bool = log.behind is None  # whether reading need not be told to blocked senders
        log.attach(position)

    @property
    def must_wait(self) -> bool:
        """Whether there is nothing to read and nothing to report yet."""
        log = self.log
        return self.position == log.tail and log.senders > 0 and not self.halted

    def take(self, max_items: int) -> list[T]:
        """Copy out the next items, at least one, and move past them; one slice for the batch.

        This is the one place for the rule of what a reader gets.
        """
        log = self.log
        position = self.position
        count = log.tail - position
        if self.halted:
            raise ClosedResourceError
        if count == 0:
            if log.senders:
                raise WouldBlock
            raise EndOfStream
        if count > log.capacity:
            self.lag(count - log.capacity)
        count = min(count, max_items)
        start = (position - log.origin) % log.capacity
        stop = start + count
        batch = log.items[start:stop]
        if stop > log.capacity:
            batch += log.items[: stop - log.capacity]
        self.position = position + count
        log.move(position, self.position)
        return batch

    @property
    def overwritten(self) -> int:
        """How many items it has missed and not been told of yet."""
        return 0 if self.closed else max(0, self.log.tail - self.position - self.log.capacity)

    def skip(self, missed: int) -> None:
        """Count what was overwritten, and move past it."""
        self.position += missed
        self.missed += missed
        self.log.missed += missed

    def lag(self, missed: int) -> None:
        """Skip what was overwritten, and say so."""
        self.skip(missed)
        log = self.log
        raise LaggedError(
            f"a receiver of {log} missed {missed} items: it fell more than {log.capacity} behind."
            " It goes on at the oldest item held. Raise the capacity, make the receiver faster,"
            ' or choose overflow="block".',
            missed,
        )

    def close(self) -> None:
        """Stop reading: what was not read is let go, whoever waits here or for room is woken."""
        if not self.closed:
            self.closed = self.halted = True
            self.fast = False
            self.log.detach(self.position)

    def pause(self) -> None:
        """Give nothing more to whoever reads here, as if closed, but keep its place in the log."""
        self.halted = True
        self.fast = False
        self.log.changed.notify_all()

    def resume(self) -> None:
        """Be read again, from the same place."""
        self.halted = self.closed
        self.fast = self.log.behind is None and not self.closed

    def __len__(self) -> int:
        return 0 if self.closed else min(self.log.tail - self.position, self.log.capacity)
