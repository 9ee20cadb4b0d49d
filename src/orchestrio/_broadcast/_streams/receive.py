"""`BroadcastReceiveStream`: the end of a channel at which each reader gets every item."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import get_ident
from typing import Any, final

from anyio import ClosedResourceError, EndOfStream
from anyio.abc import ObjectReceiveStream
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled
from typing_extensions import TypeVar

from ..._model.refusals import invalid
from ..channel import BUDGET, Channel, ChannelStatistics
from ..cursor import Cursor
from .stream import BroadcastStream

__all__ = ["BroadcastReceiveStream", "ReceiverStatistics", "cursor_of"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class ReceiverStatistics:
    """How one receiver of a channel stands at one moment."""

    unread: int
    """Items still to be read."""
    missed: int
    """Items this receiver was told it missed."""
    channel: ChannelStatistics
    """The channel it reads."""


@final
class BroadcastReceiveStream(BroadcastStream, ObjectReceiveStream[T_co]):
    """The receiving half: a cursor of its own in the shared log.

    A clone starts at the same position, and from then on both get every item. One task at a time
    is what a receiver is made for; give each task a clone. ``async for`` reads until the last
    sender is closed and everything has been read, and raises `LaggedError` where items were
    missed; iterate again to go on.
    """

    __slots__ = ("_closed", "_cursor", "_next_items", "_yield_at")

    def __init__(self, cursor: Cursor[T_co]) -> None:
        self._closed = False
        self._cursor = cursor
        self._next_items: Iterator[T_co] = _nothing()  # what it may return without a closer look
        self._yield_at = cursor.position + BUDGET  # where it lets others run before it reads on

    @property
    def _channel(self) -> Channel[T_co]:  # type: ignore[override]  # read-only is enough
        return self._cursor.channel

    @property
    def _finalizer(self) -> Callable[[], None]:
        return self._cursor.close

    def receive_nowait(self) -> T_co:
        """Return the next item without waiting.

        :return: the item
        :raises ~anyio.WouldBlock: if everything sent so far has been read
        :raises ~anyio.EndOfStream: if it has, and all senders are closed
        :raises ~anyio.ClosedResourceError: if this stream has been closed
        :raises LaggedError: if items were overwritten before they were read; once for each gap
        """
        if self._channel.home.thread != get_ident():
            self._channel.home.require_thread(self._channel)
        return self._cursor.take(1)[0]

    def receive_many_nowait(self, max_items: int) -> list[T_co]:
        """Return the next items, at least one, without waiting.

        :param max_items: how many at most, 1 or more
        :return: the items, in order
        :raises ~pydantic.ValidationError: if `max_items` is no whole number of 1 or more
        :raises ~anyio.WouldBlock: as `receive_nowait` does, as are the others
        :raises ~anyio.EndOfStream: see `receive_nowait`
        :raises ~anyio.ClosedResourceError: see `receive_nowait`
        :raises LaggedError: see `receive_nowait`
        """
        if type(max_items) is not int or max_items < 1:
            _require_count(max_items, "receive_many_nowait()")
        if self._channel.home.thread != get_ident():
            self._channel.home.require_thread(self._channel)
        return self._cursor.take(max_items)

    # Of several unread items all but the last are read by a walk, as handlers read them: to take
    # each by the rule costs ten times as much, and to look at the channel with each, twice. The last
    # one goes by the rule, since it may have to be released. `__anext__` repeats this, since it costs
    # half as much again to await `receive` there.
    async def receive(self) -> T_co:
        """Return the next item, waiting for it if need be.

        If this is cancelled, the item is still to be read.

        :return: the item
        :raises ~anyio.EndOfStream: if everything was read and all senders are closed
        :raises ~anyio.ClosedResourceError: if this stream has been closed, also while waiting
        :raises LaggedError: if items were overwritten before they were read; once for each gap
        """
        for item in self._next_items:
            return item
        [item] = await self.receive_many(1)
        if self._cursor.position != self._cursor.channel.tail:
            self._walk_on()
        return item

    async def __anext__(self) -> T_co:
        for item in self._next_items:
            return item
        try:
            [item] = await self.receive_many(1)
        except EndOfStream:
            raise StopAsyncIteration from None
        if self._cursor.position != self._cursor.channel.tail:
            self._walk_on()
        return item

    def _walk_on(self) -> None:
        """Read the next items by a walk, if there are several, and all of them are still held."""
        cursor = self._cursor
        unread = cursor.channel.tail - cursor.position
        count = min(unread - 1, self._yield_at - cursor.position)
        if count > 0 and unread < cursor.channel.capacity:
            self._next_items = cursor.walk_on(count)

    async def receive_many(self, max_items: int) -> list[T_co]:
        """Return the next items, at least one, waiting for the first if need be.

        If this is cancelled, all of them are still to be read.

        :param max_items: how many at most, 1 or more
        :return: the items, in order
        :raises ~pydantic.ValidationError: if `max_items` is no whole number of 1 or more
        :raises ~anyio.EndOfStream: as `receive` does, as are the others
        :raises ~anyio.ClosedResourceError: see `receive`
        :raises LaggedError: see `receive`
        """
        if type(max_items) is not int or max_items < 1:
            _require_count(max_items, "receive_many()")
        if self._closed:
            raise ClosedResourceError
        cursor = self._cursor
        if cursor.walk is not None:
            cursor.stand()
        if cursor.position >= self._yield_at:
            self._yield_at = cursor.position + BUDGET
            await checkpoint()
        if not cursor.must_wait:
            return cursor.take(max_items)
        if cursor.channel.forgotten or cursor.channel.home.thread != get_ident():
            cursor.channel.arrive()
        await checkpoint_if_cancelled()  # asyncio would not say so if an item comes at once
        while cursor.must_wait:
            await cursor.wait()
        items = cursor.take(max_items)
        self._yield_at = cursor.position + BUDGET
        return items

    def clone(self) -> BroadcastReceiveStream[T_co]:
        """Make another receiver at the same position: both get every item from here on.

        :return: the clone
        :raises ~anyio.ClosedResourceError: if this stream has been closed
        """
        return self._sibling(self._cursor.where)

    def resubscribe(self) -> BroadcastReceiveStream[T_co]:
        """Make another receiver that gets only what is sent from now on, without replay.

        :return: the new receiver
        :raises ~anyio.ClosedResourceError: if this stream has been closed
        """
        return self._sibling(None)

    def _sibling(self, position: int | None) -> BroadcastReceiveStream[T_co]:
        if self._closed:
            raise ClosedResourceError
        cursor = self._cursor
        channel = cursor.channel
        return BroadcastReceiveStream(Cursor(channel, position, is_guest=cursor.is_guest))

    def close(self) -> None:
        """Close this receiver; what it had not read is let go, and a sender it held up goes on.

        A task waiting in it gets `~anyio.ClosedResourceError`. Closing again does nothing.
        """
        self._closed = True
        self._next_items = _nothing()  # whoever reads there need not look whether this is closed
        if not self._cursor.closed:
            self._channel.close_by(self._cursor.close)

    def statistics(self) -> ReceiverStatistics:
        """Return how this receiver and its channel stand now."""
        return ReceiverStatistics(
            unread=len(self), missed=self._cursor.missed, channel=self._channel.statistics()
        )

    def __len__(self) -> int:
        """Items still to read, without those that were overwritten."""
        return len(self._cursor)

    def __bool__(self) -> bool:
        """A stream is there even when it is empty."""
        return True


def _nothing() -> Iterator[Any]:
    return iter(())


def _require_count(max_items: object, call: str) -> None:
    """See that what is no plain `int` is one by another name, and that it is 1 or more."""
    if isinstance(max_items, bool) or not isinstance(max_items, int) or max_items < 1:
        raise invalid(call, "max_items", max_items, "max_items is a whole number, 1 or more")


def cursor_of(stream: BroadcastReceiveStream[T]) -> Cursor[T]:
    """Return what a receiver reads with. For delivery, which hands over without the stream."""
    return stream._cursor  # pyright: ignore[reportPrivateUsage]  # a friend, in this module
