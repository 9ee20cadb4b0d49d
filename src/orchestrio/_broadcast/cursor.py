"""`Cursor`: one reader of a channel, and the rule of what it gets.

Nothing in here awaits: whatever it does happened or did not, also under cancellation.
"""

from __future__ import annotations

from typing import Generic, final

from anyio import ClosedResourceError, EndOfStream, WouldBlock
from typing_extensions import TypeVar

from .._model.errors import LaggedError
from .channel import Channel

__all__ = ["Cursor"]

T = TypeVar("T")


@final
class Cursor(Generic[T]):
    """One reader of a channel: the number of the item it reads next, and how many it missed.

    :param channel: what it reads
    :param position: the number of the item that it reads first
    :param guest: whether it ends when a scheduler has handled what was published, in its stop
    """

    __slots__ = ("channel", "closed", "fast", "halted", "missed", "position")

    def __init__(self, channel: Channel[T], position: int, *, guest: bool = False) -> None:
        self.channel: Channel[T] = channel
        self.position: int = position
        self.missed: int = 0
        self.closed: bool = False
        self.halted: bool = False  # whether there is nothing to read here: closed, or paused
        #: whether reading need not be told to blocked senders
        self.fast: bool = channel.readers_at is None
        channel.attach(position)
        if guest:
            channel.guests.add(self)

    @property
    def must_wait(self) -> bool:
        """Whether there is nothing to read and nothing to report yet."""
        channel = self.channel
        return self.position == channel.tail and channel.senders > 0 and not self.halted

    @property
    def is_over(self) -> bool:
        """Whether everything was read, and nothing can come any more."""
        return self.closed or (self.channel.shut and not len(self))

    def take(self, max_items: int) -> list[T]:
        """Copy out the next items, at least one, and move past them; one slice for the batch.

        This is the one place for the rule of what a reader gets.
        """
        channel = self.channel
        position = self.position
        count = channel.tail - position
        if self.halted:
            raise ClosedResourceError
        if count == 0:
            if channel.senders:
                raise WouldBlock
            raise EndOfStream
        if count > channel.capacity:
            self.lag(count - channel.capacity)
        count = min(count, max_items)
        start = (position - channel.origin) % channel.capacity
        stop = start + count
        batch = channel.items[start:stop]
        if stop > channel.capacity:
            batch += channel.items[: stop - channel.capacity]
        self.position = position + count
        channel.move(position, self.position)
        return batch

    @property
    def overwritten(self) -> int:
        """How many items it has missed and not been told of yet."""
        return (
            0 if self.closed else max(0, self.channel.tail - self.position - self.channel.capacity)
        )

    def skip(self, missed: int) -> None:
        """Count what was overwritten, and move past it."""
        self.position += missed
        self.missed += missed
        self.channel.missed += missed

    def lag(self, missed: int) -> None:
        """Skip what was overwritten, and say so."""
        self.skip(missed)
        channel = self.channel
        raise LaggedError(
            f"a receiver of {channel} missed {missed} items: it fell more than {channel.capacity}"
            " behind. It goes on at the oldest item held. Raise the capacity, make the receiver"
            ' faster, or choose overflow="block".',
            missed,
        )

    def close(self) -> None:
        """Stop reading: what was not read is let go, whoever waits here or for room is woken."""
        if not self.closed:
            self.closed = self.halted = True
            self.fast = False
            self.channel.guests.discard(self)
            self.channel.detach(self.position)

    def pause(self) -> None:
        """Give nothing more to whoever reads here, as if closed, but keep its place."""
        self.halted = True
        self.fast = False
        self.channel.changed.notify_all()

    def resume(self) -> None:
        """Be read again, from the same place."""
        self.halted = self.closed
        self.fast = self.channel.readers_at is None and not self.closed

    def __len__(self) -> int:
        return 0 if self.closed else min(self.channel.tail - self.position, self.channel.capacity)
