"""`BroadcastSendStream`: the end of a channel that each item enters by. The library's hot path."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from threading import get_ident
from typing import cast, final

from anyio import ClosedResourceError, from_thread
from anyio.abc import ObjectSendStream
from anyio.lowlevel import checkpoint
from typing_extensions import TypeVar

from ..._model.errors import LifecycleError
from ..._model.refusals import invalid
from ..._model.settings import ChannelConfig
from ..backpressure import append_in_turn
from ..channel import BUDGET, FOR_TASKS, Channel, ChannelStatistics
from ..cursor import Cursor
from ..home import Home
from .receive import BroadcastReceiveStream
from .stream import BroadcastStream
from .threads import ThreadTurn, wait_confirmed

__all__ = [
    "BroadcastSendStream",
    "channel_of",
    "create_sender",
    "send_and_count",
    "send_at_once",
    "send_slowly",
    "shut_channel",
    "subscribe_for_good",
]

T = TypeVar("T")


@final
class BroadcastSendStream(BroadcastStream, ObjectSendStream[T]):
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

        Blocked senders are served in order. If this is cancelled, the item was not sent, unless a
        bridge with an outbox on disk has it already.

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


def shut_channel(sender: BroadcastSendStream[T]) -> None:
    """Close a whole channel: every sender at once; receivers drain and then end. For the bus."""
    sender._channel.shut_down()  # pyright: ignore[reportPrivateUsage]  # a friend, in this module
