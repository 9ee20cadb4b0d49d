"""`Cursor`: one reader of a channel, and the rule of what it gets.

Nothing in here awaits but `Cursor.wait`: whatever else it does happened or did not, also under
cancellation.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from operator import length_hint
from typing import Generic, Protocol, cast, final

from anyio import ClosedResourceError, EndOfStream, WouldBlock
from typing_extensions import TypeVar

from .._model.errors import LaggedError
from .._model.words import counted
from .channel import Channel

__all__ = ["Cursor"]

T = TypeVar("T")


class _ListIterator(Protocol):
    """What a list's iterator can beside iterating."""

    def __setstate__(self, index: int, /) -> None: ...


@final
class Cursor(Generic[T]):
    """One reader of a channel: the number of the item it reads next, and how many it missed.

    One that walks has given an iterator of the log itself to somebody, and asks that how far it
    has come: `position` is where the walk began, and `where` tells the truth.

    :param channel: what it reads
    :param position: the number of the item that it reads first; `None` stands for the next one
    :param replay: how many of the last items it reads before that, if they are held
    :param is_guest: whether it ends when a scheduler has handled what was published, in its stop
    """

    __slots__ = (
        "_slot_0",
        "channel",
        "closed",
        "halted",
        "is_at_work",
        "is_guest",
        "missed",
        "position",
        "walk",
    )

    def __init__(
        self,
        channel: Channel[T],
        position: int | None = None,
        *,
        replay: int = 0,
        is_guest: bool = False,
    ) -> None:
        self.channel: Channel[T] = channel
        self.position: int = 0 if position is None else position
        self.missed: int = 0
        self.closed: bool = False
        self.halted: bool = False  # whether there is nothing to read here: closed, or paused
        self.is_guest: bool = is_guest
        #: whether the work of an event task reads here
        self.is_at_work: bool = False
        #: an iterator of the log, while it walks
        self.walk: Iterator[T] | None = None
        self._slot_0 = 0  # the number of the item in the log's slot 0, as the walk counts
        channel.attach(self, None if position is not None else replay)

    @property
    def where(self) -> int:
        """The number of the item that it reads next, at this very moment."""
        walk = self.walk
        if walk is None:
            return self.position
        return self._slot_0 + len(self.channel.items) - length_hint(walk)

    @property
    def has_caught_up(self) -> bool:
        """Whether it has read everything; one that walks comes to that when it stops."""
        return self.walk is None and self.position == self.channel.tail

    @property
    def must_wait(self) -> bool:
        """Whether there is nothing to read and nothing to report yet."""
        channel = self.channel
        return self.position == channel.tail and channel.senders > 0 and not self.halted

    @property
    def is_over(self) -> bool:
        """Whether everything was read, and nothing can come any more."""
        return self.closed or (self.channel.shut and not len(self))

    async def wait(self) -> None:
        """Wait for the next change, unless there is something to read or to report by now."""
        changed = self.channel.changed
        bell = changed.next_bell()  # before the look: what comes after that rings it
        if self.must_wait:
            await changed.wait(bell)

    def take(self, max_items: int) -> list[T]:
        """Copy out the next items, at least one, and move past them; one slice for the batch.

        This is the one place for the rule of what a reader gets.
        """
        channel = self.channel
        while True:
            if self.walk is not None:
                self.stand()
            if self.halted:
                raise ClosedResourceError
            position = self.position
            tail = channel.tail
            count = tail - position
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
            # The garbage collector may have run, and a finalizer have sent, read on or closed this.
            if channel.tail == tail and self.position == position and not self.halted:
                break
        self.position = position + count
        channel.leave(position)
        channel.reach(self.position)
        return batch

    # An iterator of the log costs less than to note the position with each item, and keeps none of
    # them, as a copy would. It is never used up, so it can always be asked.
    def walk_on(self, count: int) -> Iterator[T]:
        """Iterate over the next items where they lie, until the channel stops that.

        :param count: how many at most, all of them unread; it ends at the end of the ring, too
        """
        channel = self.channel
        start = (self.position - channel.origin) % channel.capacity
        walk = iter(channel.items)
        cast("_ListIterator", walk).__setstate__(start)
        items = islice(walk, min(count, channel.capacity - start))
        self._slot_0 = self.position - start
        self.walk = walk
        channel.begin_walk(self)
        if channel.tail - self.position >= channel.capacity:  # by what is garbage by now
            self.stand()
        return items

    def stop_walk(self, position: int) -> None:
        """Stand still, after a walk."""
        self.walk = None
        self.position = position
        self.channel.reach(position)

    def stand(self) -> None:
        """Stop a walk, wherever it is: whoever walks finds nothing more."""
        walk = self.walk
        if walk is not None:
            where = self.where
            cast("_ListIterator", walk).__setstate__(len(self.channel.items))
            next(walk, None)  # now it is used up, also if the log grows
            self.stop_walk(where)

    @property
    def overwritten(self) -> int:
        """How many items it has missed and not been told of yet."""
        return 0 if self.closed else max(0, self.channel.tail - self.where - self.channel.capacity)

    def skip(self, missed: int) -> None:
        """Count what was overwritten, and move past it."""
        if not missed:
            return
        position = self.position
        self.position = position + missed
        self.channel.leave(position)
        self.missed += missed
        self.channel.missed += missed

    def lag(self, missed: int) -> None:
        """Skip what was overwritten, and say so."""
        self.skip(missed)
        channel = self.channel
        raise LaggedError(
            f"a receiver of {channel} missed {counted(missed, 'items')}: it fell more than {channel.capacity}"
            " behind. It goes on at the oldest item held. Raise the capacity, make the receiver"
            ' faster, or choose overflow="block".',
            missed,
        )

    def close(self) -> None:
        """Stop reading: what was not read is let go, whoever waits here or for room is woken."""
        if not self.closed:
            self.closed = self.halted = True  # first: what is let go may close this again
            self.stand()
            self.channel.detach(self)

    def pause(self) -> None:
        """Give nothing more to whoever reads here, as if closed, but keep its place."""
        self.stand()
        self.halted = True
        self.channel.changed.notify_all()

    def resume(self) -> None:
        """Be read again, from the same place."""
        self.halted = self.closed

    def __len__(self) -> int:
        return 0 if self.closed else min(self.channel.tail - self.where, self.channel.capacity)
