"""Broadcast memory object streams (fan-out): each clone of a receive stream gets every item.

AnyIO's own memory object streams are queues: clones of a receive stream *compete*, and each item
reaches one of them. Here all senders write to one bounded log, and each receiver reads it at a
cursor of its own:

    send, send, send ──▶ [ 5 | 6 | 7 | 8 | 9 ]
                               ▲           ▲
                     slow receiver      fast receiver, waiting for the next

A receiver that falls more than `capacity` items behind is told exactly how many it missed
(`LaggedError`) and goes on at the oldest item still held, unless the channel was asked to block
(backpressure), to refuse, or to fail instead (`overflow`).

Every ``await`` here is a checkpoint on a budget: an operation that need not wait lets other tasks
run after at most 256 items, and no more than half of the capacity. All operations are atomic under
cancellation: an item was sent or it was not, was returned or is still to be read.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from threading import get_ident
from types import TracebackType
from typing import Any, Self, cast, final
from warnings import warn

from anyio import ClosedResourceError, EndOfStream, from_thread
from anyio.abc import ObjectReceiveStream, ObjectSendStream
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled
from typing_extensions import TypeVar

from .._model.errors import LifecycleError
from .._model.refusals import invalid
from .._model.settings import ChannelConfig, Overflow
from .backpressure import append_in_turn
from .channel import BUDGET, FOR_TASKS, Channel, ChannelStatistics
from .cursor import Cursor
from .home import Home
from .threads import ThreadTurn, wait_confirmed

__all__ = [
    "BroadcastReceiveStream",
    "BroadcastSendStream",
    "ReceiverStatistics",
    "create_broadcast_stream",
]

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


class _BroadcastStream(ABC):
    """What both streams do: close once, also as garbage, and warn then; work in ``with``."""

    __slots__ = ()

    _channel: Channel[Any]
    _closed: bool

    _has_owner = False
    """Whether somebody else closes it in the end."""

    @property
    @abstractmethod
    def _finalizer(self) -> Callable[[], None] | None:
        """What closes it when it is garbage; see `Channel.forget`."""

    @abstractmethod
    def close(self) -> None:
        """Close this stream; doing it again does nothing."""

    async def aclose(self) -> None:
        """Close this stream, as `close` does; a checkpoint for cancellation only."""
        self.close()
        await checkpoint_if_cancelled()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if self._closed:
            return
        channel = self._channel
        if not sys.is_finalizing():
            channel.forget(self._finalizer, wake=not self._has_owner)
        if not (channel.shut or self._has_owner):
            warn(
                f"unclosed {self!r}: call close() or use it in a 'with' block",
                ResourceWarning,
                stacklevel=1,
                source=self,
            )

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<{type(self).__name__} of {self._channel}, {state}>"


@final
class BroadcastSendStream(_BroadcastStream, ObjectSendStream[T]):
    """The sending half: each item goes to every receiver.

    Made by `create_broadcast_stream` or taken from a bus with ``clone_sender``. Use it from the
    event loop's thread: elsewhere there are `send_from_thread`, `send_many_from_thread` and `close`.
    The others raise `LifecycleError` there before they do anything; but a send that nobody waits
    for, since all have something left to read, is not looked at so closely.
    """

    __slots__ = ("_budget", "_channel", "_closed", "_slice")

    def __init__(self, channel: Channel[T]) -> None:
        self._closed = False
        self._channel = channel
        channel.bury()
        # A sender that never waits must not run away from receivers that are quick to read.
        self._slice = min(BUDGET, max(1, channel.capacity // 2))
        self._budget = self._slice
        channel.senders += 1

    @property
    def _has_owner(self) -> bool:  # type: ignore[override]  # read-only is enough
        return self._channel.owned  # the bus closes its channels

    @property
    def _finalizer(self) -> None:
        return None

    # The hot path. One item costs one list store and, if anybody waits, one bell; nothing here
    # grows with the number of receivers. It repeats `Channel.append`, and looks whether anybody
    # waits before it notifies them, because a call costs as much as all of it does.
    def send_nowait(self, item: T) -> None:
        """Send one item to every receiver without waiting.

        :param item: the item
        :raises ~anyio.ClosedResourceError: if this stream or its channel has been closed
        :raises ~anyio.WouldBlock: if the channel is full and ``overflow="block"``
        :raises EventSendError: if the channel is full and ``overflow="error"``, if there is no
            receiver and ``require_receivers=True``, or if the item is not valid for its topic
        """
        if self._closed:
            raise ClosedResourceError
        channel = self._channel
        if channel.caught_up and channel.home.thread != get_ident():
            # Whoever is to be woken waits in the event loop, or is about to; it may be elsewhere.
            channel.home.require_thread(channel)
        tail = channel.tail
        if tail >= channel.clear_until:
            if tail >= channel.valid_until or channel.check is None:
                channel.send(item)
                return
            item = channel.check(item)
            if self._closed:
                raise ClosedResourceError
            tail = channel.tail
            if tail >= channel.valid_until:  # by what was done as it was checked
                channel.put(item)
                return
        # From here on nothing is called, or a finalizer could send in between.
        channel.tail = tail + 1
        channel.caught_up = 0
        place = tail - channel.origin
        if place < channel.capacity:
            channel.items.append(item)
        else:
            channel.items[place % channel.capacity] = item
        if channel.changed.bell is not None:
            channel.changed.notify_all()

    async def send(self, item: T) -> None:
        """Send one item to every receiver, waiting for room if ``overflow="block"``.

        Blocked senders are served in order. If this is cancelled, the item was not sent.

        :param item: the item
        :raises ~anyio.ClosedResourceError: if this stream or its channel is closed, also meanwhile
        :raises EventSendError: as `send_nowait` does
        """
        if send_at_once(self, item) is None:
            await self._send_slowly(item)

    async def _send_slowly(self, item: T) -> int:
        """Send an item where that may take an ``await``.

        :return: how many receivers it went to; 0 if it was dropped
        """
        if self._budget <= 0:
            self._budget = self._slice  # now: one that is always cancelled here gets on, too
            await checkpoint()
        while True:
            if self._closed:
                self._budget = 0
                raise ClosedResourceError
            self._budget -= 1
            channel = self._channel.destination
            admitted = channel.admit(item)
            if self._closed or channel is not self._channel.destination:
                continue
            if not channel.is_to_wait():
                receivers = channel.put(admitted)
            elif await self._send_in_turn(channel, admitted):
                receivers = channel.receivers
            else:
                continue  # by way of a bridge that has come in between, or without it again
            if channel.confirmation is not None:
                await channel.confirmation(channel.tail - 1)
            return receivers

    async def _send_in_turn(self, channel: Channel[T], item: T) -> bool:
        """Wait for room behind the senders that came first; return whether the item was sent."""

        def is_wanted() -> bool:
            if self._closed:
                raise ClosedResourceError
            if channel is not self._channel.destination:  # a bridge has come, or gone
                return False
            channel.require_open()
            return True

        sent = await append_in_turn(channel, item, is_wanted)
        self._budget = 0 if self._closed else self._slice
        return sent

    def send_many_nowait(self, items: Iterable[T]) -> None:
        """Send several items to every receiver, in order, without waiting: all or none.

        Cheaper than as many `send_nowait` calls. All of the iterable is read first, so it must have an
        end, and fit into memory. Only ``overflow="drop_newest"`` may store a
        part: what fits is sent, the rest is counted.

        :param items: the items
        :raises ~anyio.ClosedResourceError: if this stream or its channel has been closed
        :raises ~anyio.WouldBlock: if not all of them fit and ``overflow="block"``
        :raises EventSendError: as `send_nowait` does, before any item is sent
        :raises ~pydantic.ValidationError: if `items` cannot be iterated
        """
        if self._closed:
            raise ClosedResourceError
        channel = self._channel
        batch = _list_of(items, "send_many_nowait()")
        if channel.home.thread != get_ident():
            channel.home.require_thread(channel)
        if channel.check is not None or channel.keeps or channel.clear_until < 0:
            channel = channel.destination
            batch = [channel.admit(item) for item in batch]
        channel.put_many(batch)

    def send_from_thread(self, item: T) -> None:
        """Send one item from any other thread, and return when it has been sent.

        The thread waits for its turn in the event loop and, with ``overflow="block"``, for room.
        Items of one thread keep their order. If AnyIO runs the thread for a task that is cancelled,
        this raises that cancellation, and the item was not sent.

        :param item: the item
        :raises LifecycleError: if called in the event loop's own thread (use `send_nowait`
            there), or before any event loop has used this channel
        :raises ~anyio.RunFinishedError: if the event loop has ended
        :raises ~anyio.ClosedResourceError: as `send` does; on a scheduler's bus also when that is
            stopping and has handled what was published, so that threads end with it
        :raises EventSendError: as `send_nowait` does
        """
        self.send_many_from_thread((item,))

    def send_many_from_thread(self, items: Iterable[T]) -> None:
        """Send several items from any other thread, in order; return when all have been sent.

        Much cheaper than as many `send_from_thread` calls, for the thread waits for its turn in the
        event loop once. The iterable is read before, in the thread. As by `send_many_nowait`, all
        are sent or none; but with ``overflow="block"`` they are sent as there is room, and what was
        sent before an error or a cancellation stays sent.

        :param items: the items
        :raises LifecycleError: as `send_from_thread` does, as are the others
        :raises ~anyio.RunFinishedError: see `send_from_thread`
        :raises ~anyio.ClosedResourceError: see `send_from_thread`
        :raises EventSendError: as `send_many_nowait` does
        :raises ~pydantic.ValidationError: see `send_many_nowait`
        """
        channel = self._channel
        home = channel.home
        batch = _list_of(items, "send_many_from_thread()")
        if home.token is None:
            raise LifecycleError(
                f"{channel} has no event loop yet that another thread could reach: create it, or"
                " subscribe to it, in one that runs, or start its scheduler"
            )
        if home.is_here and not channel.has_ended:
            raise LifecycleError(
                "send_from_thread() in the event loop's own thread would wait for itself: call"
                " send_nowait(), or await send(), there"
            )
        destination, number = ThreadTurn(channel, batch, self.send_many_nowait).take()
        confirmation = destination.confirmation
        if confirmation is not None:
            from_thread.run(wait_confirmed, channel, confirmation, number, token=home.token)

    def clone(self) -> BroadcastSendStream[T]:
        """Make another sender of the same channel, to be closed on its own.

        :return: the clone
        :raises ~anyio.ClosedResourceError: if this stream or its channel has been closed
        """
        if self._closed or self._channel.shut:
            raise ClosedResourceError
        return BroadcastSendStream(self._channel)

    def subscribe(self) -> BroadcastReceiveStream[T]:
        """Make a new receiver: it gets the last `replay` items, then all that is sent from now on.

        :return: the receiver, to be closed by whoever asked for it
        :raises ~anyio.ClosedResourceError: if this stream or its channel has been closed, or the
            scheduler that owns it is stopping and has handled what was published
        :raises LifecycleError: if a bridge with ``mode="compete"`` carries it
        """
        channel = self._channel
        if self._closed or channel.has_ended:
            raise ClosedResourceError
        if channel.is_for_tasks:
            raise LifecycleError(f"nobody can subscribe to {channel}: {FOR_TASKS}")
        return BroadcastReceiveStream(Cursor(channel, replay=channel.replay, is_guest=True))

    async def wait_no_receivers(self) -> None:
        """Wait until the last receiver is closed; return at once if there is none.

        :raises ~anyio.ClosedResourceError: if this stream has been closed
        """
        if self._closed:
            raise ClosedResourceError
        channel = self._channel
        channel.arrive()
        await checkpoint()
        while channel.receivers:
            await channel.no_receivers.wait()

    def close(self) -> None:
        """Close this sender; when the last is closed, receivers drain and then end.

        A task blocked in `send` on this very stream gets `~anyio.ClosedResourceError`. Closing
        again does nothing.
        """
        if not self._closed:
            self._closed = True
            self._budget = 0  # whoever looks at that need not look whether this is closed
            self._channel.close_by(None)

    def statistics(self) -> ChannelStatistics:
        """Return how the channel stands now."""
        return self._channel.statistics()


@final
class BroadcastReceiveStream(_BroadcastStream, ObjectReceiveStream[T_co]):
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


@final
class create_broadcast_stream(tuple[BroadcastSendStream[T], BroadcastReceiveStream[T]]):
    """Create a broadcast channel; return its first sender and its first receiver.

    Say what it carries in brackets: ``create_broadcast_stream[Order](capacity=64)``.

    Example::

        import anyio

        from orchestrio import create_broadcast_stream

        async def main() -> None:
            send, first = create_broadcast_stream[int](capacity=16)
            with send, first, first.clone() as second:
                await send.send(7)
                print(await first.receive(), await second.receive())  # 7 7

        anyio.run(main)

    :param capacity: how many items the channel holds: exact, at least 1
    :param overflow: what happens to one item more: ``"drop_oldest"`` (a slow receiver lags and is
        told), ``"block"`` (senders wait), ``"drop_newest"`` (counted) or ``"error"``
    :param replay: how many of the last items a new subscriber gets first, at most `capacity`
    :param require_receivers: whether sending to nobody is an `EventSendError`
    :return: a tuple ``(send stream, receive stream)``
    :raises ~pydantic.ValidationError: if an option is not valid; it names the field
    """

    __slots__ = ()

    def __new__(  # type: ignore[misc]  # returns the plain tuple that it describes
        cls,
        capacity: int = 1024,
        *,
        overflow: Overflow = "drop_oldest",
        replay: int = 0,
        require_receivers: bool = False,
    ) -> tuple[BroadcastSendStream[T], BroadcastReceiveStream[T]]:
        config = ChannelConfig(
            capacity=capacity,
            overflow=overflow,
            replay=replay,
            require_receivers=require_receivers,
        )
        send = BroadcastSendStream[T](Channel(config, None, None, Home()))
        return send, send.subscribe()


def _nothing() -> Iterator[Any]:
    return iter(())


def _list_of(items: Iterable[T], call: str) -> list[T]:
    """Read what is to be sent, and see that it can be iterated."""
    is_text = isinstance(items, (str, bytes, bytearray))  # one item, and not its letters
    try:
        if not is_text:
            return list(items)
    except TypeError:
        if isinstance(cast("object", items), Iterable):
            raise  # it comes from what makes the items
    raise invalid(call, "items", items, "it takes several items: a list of them, say")


def _require_count(max_items: object, call: str) -> None:
    """See that what is no plain `int` is one by another name, and that it is 1 or more."""
    if isinstance(max_items, bool) or not isinstance(max_items, int) or max_items < 1:
        raise invalid(call, "max_items", max_items, "max_items is a whole number, 1 or more")


def create_sender(
    config: ChannelConfig,
    event: object,
    check: Callable[[T], T] | None,
    home: Home,
) -> BroadcastSendStream[T]:
    """Create the first sender of a channel that has no receiver yet; for the bus.

    :param config: settings of the channel
    :param event: what errors call it
    :param check: returns the item to store, or raises `EventSendError`
    :param home: the event loop in which the bus was used last
    :return: the sender
    """
    return BroadcastSendStream(Channel(config, event, check, home, owned=True))


def subscribe_for_good(sender: BroadcastSendStream[T]) -> BroadcastReceiveStream[T]:
    """Make a receiver that ends with its channel, as no guest does; see `end_guests`."""
    channel = sender._channel  # pyright: ignore[reportPrivateUsage]  # a friend, in this module
    return BroadcastReceiveStream(Cursor(channel, replay=channel.replay))


def send_and_count(sender: BroadcastSendStream[T], item: T) -> int:
    """Do what `BroadcastSendStream.send_nowait` does. For the bus.

    :return: how many receivers got the item; 0 if it was dropped
    """
    channel = sender._channel.destination  # pyright: ignore[reportPrivateUsage]  # a friend, here
    dropped = channel.dropped
    sender.send_nowait(item)
    return channel.receivers if channel.dropped == dropped else 0


# A message published by `await` goes through three frames so, where it took seven. That it repeats
# `send_nowait` once more makes a fifth of its speed.
def send_at_once(sender: BroadcastSendStream[T], item: T) -> int | None:
    """Do what `BroadcastSendStream.send` does, unless that takes an ``await``.

    :return: how many receivers got the item; `None` if it was not sent, for that takes more
    """
    budget = sender._budget  # pyright: ignore[reportPrivateUsage]  # a friend, in this module
    if budget <= 0:
        return None
    channel = sender._channel  # pyright: ignore[reportPrivateUsage]
    if channel.caught_up and channel.home.thread != get_ident():
        channel.home.require_thread(channel)
    tail = channel.tail
    if tail >= channel.clear_until:
        if (
            channel.shut  # its error is that of the bus
            or channel.relayed_to is not None  # where there may be something to confirm
            or (channel.overflow == "block" and (channel.check is not None or channel.is_to_wait()))
        ):
            return None
        sender._budget = budget - 1  # pyright: ignore[reportPrivateUsage]
        return channel.send(item)
    sender._budget = budget - 1  # pyright: ignore[reportPrivateUsage]
    channel.tail = tail + 1
    channel.caught_up = 0
    place = tail - channel.origin
    if place < channel.capacity:
        channel.items.append(item)
    else:
        channel.items[place % channel.capacity] = item
    if channel.changed.bell is not None:
        channel.changed.notify_all()
    return channel.receivers


async def send_slowly(sender: BroadcastSendStream[T], item: T) -> int:
    """Do what `BroadcastSendStream.send` does where `send_at_once` does not. For the bus.

    :return: how many receivers got the item; 0 if it was dropped
    """
    return await sender._send_slowly(item)  # pyright: ignore[reportPrivateUsage]


def channel_of(sender: BroadcastSendStream[T]) -> Channel[T]:
    """Return what a sender writes to. For those who look at it more often than they send."""
    return sender._channel  # pyright: ignore[reportPrivateUsage]  # a friend, in this module


def cursor_of(stream: BroadcastReceiveStream[T]) -> Cursor[T]:
    """Return what a receiver reads with. For delivery, which hands over without the stream."""
    return stream._cursor  # pyright: ignore[reportPrivateUsage]  # a friend, in this module


def shut_channel(sender: BroadcastSendStream[T]) -> None:
    """Close a whole channel: every sender at once; receivers drain and then end. For the bus."""
    sender._channel.shut_down()  # pyright: ignore[reportPrivateUsage]  # a friend, in this module
