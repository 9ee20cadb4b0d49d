"""Delivery: what a receiver gets, handed to a handler one by one. The library's hot path."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, cast, final

from anyio.lowlevel import checkpoint
from typing_extensions import TypeVar

from .._model._loops.wakeup import Wakeup, bells
from .channel import BUDGET
from .cursor import Cursor
from .hand import Hand, current_hand

__all__ = ["Delivery"]

T = TypeVar("T")


@final
class Delivery(Generic[T]):
    """Hands the items under a cursor to a handler, and knows exactly how far it has come.

    Nothing is taken out of the log but what a handler has in hand, so what ends `run` (an exception
    of the handler, a cancellation, a lag) loses no more than that: the next `run` goes on with the
    item after the last one that was handed over.
    """

    __slots__ = ("_skipped", "_start", "cursor", "drained", "in_hand")

    def __init__(self, cursor: Cursor[T]) -> None:
        self.cursor: Cursor[T] = cursor
        #: notified when it may be that everything has been handled: see `has_handled`
        self.drained: Wakeup = Wakeup()
        #: whether an item was handed over and the handler has not returned from it
        self.in_hand: bool = False
        self._start = cursor.position
        self._skipped = 0  # items let go with the rest, after the one in hand

    @property
    def started(self) -> int:
        """How many items the handler was called with."""
        cursor = self.cursor
        return cursor.where - self._start - cursor.missed

    @property
    def unread(self) -> int:
        """How many items have been sent and not handed over yet."""
        return len(self.cursor)

    def has_handled(self, goal: int) -> bool:
        """Whether the handler has returned from all items before this number, or will get none."""
        if self.cursor.closed:
            return not self.in_hand
        return self.cursor.where - self.in_hand >= goal

    @property
    def is_over(self) -> bool:
        """Whether everything was handed over, and nothing can come any more."""
        return self.cursor.is_over

    @property
    def number(self) -> int:
        """The number in the channel of the item that was handed over last."""
        return self.cursor.where - 1 - self._skipped

    def number_in_hand(self) -> int | None:
        """Return the number in the channel of the item in hand; `None` if nothing is."""
        return self.number if self.in_hand else None

    def pause(self) -> None:
        """Let `run` end when the handler has finished what it has in hand; nothing is let go."""
        self.cursor.pause()

    def resume(self) -> None:
        """Let the next `run` go on where the last one has ended."""
        self.cursor.resume()

    def put_down(self) -> None:
        """Note that `run` has ended: nothing is in hand any more, the rest is for the next one."""
        self.cursor.stand()
        self.in_hand = False

    def abandon(self) -> int:
        """Close the cursor: the handler finishes what it has in hand, and `run` ends.

        :return: how many items were sent and will not be handed over
        """
        cursor = self.cursor
        cursor.stand()
        self._skipped = cursor.overwritten
        cursor.skip(self._skipped)
        unread = len(cursor)
        cursor.close()
        return unread

    # One function, so that a message costs one call of the handler and little else, and so that
    # waking up goes through as few frames as can be. What is repeated here of `Cursor.take` is
    # the one item that a reader finds who keeps up: it makes up a third of an idle wake-up when
    # taken through calls.
    async def run(
        self,
        handle: Callable[[T], Awaitable[object]],
        recover: Callable[[BaseException, T | None], Awaitable[bool]],
    ) -> None:
        """Hand over item by item until `recover` says that it is over.

        A reader that has read everything needs no checkpoint, for the wait that follows is one; one
        that always has more yields every 256 items.

        :param handle: awaited with each item, one at a time
        :param recover: awaited with what `handle` raised and the item (then `in_hand` holds), or
            what reading did: `~anyio.EndOfStream` when all senders are closed and everything was
            handed over, `~anyio.ClosedResourceError` when the cursor was closed or paused,
            `LaggedError` when items were overwritten. Returns whether to go on, or raises; for
            a cancellation, too, it is to say whether that was meant for this.
        """
        cursor = self.cursor
        channel = cursor.channel
        capacity = channel.capacity
        changed = channel.changed
        drained = self.drained
        current_hand.set(Hand(channel, self.number_in_hand))
        make_bell = bells()
        since_yield = 0
        end = 0
        items = iter(cast("tuple[T, ...]", ()))
        item: T | None = None
        while True:
            try:
                for item in items:
                    await handle(item)
                self.in_hand = False
                if cursor.walk is not None:
                    cursor.stop_walk(end)
                position = cursor.position
                if position == (tail := channel.tail):
                    if drained.bell is not None:
                        drained.notify_all()
                    since_yield = 0
                    item = None  # or this frame would keep it while it waits
                    while (
                        position == (tail := channel.tail) and channel.senders and not cursor.halted
                    ):
                        # What `Cursor.wait` does, with a frame less to wake up through.
                        if (bell := changed.bell) is None:
                            changed.bell = make_bell()
                            continue  # what is garbage by now may have sent something
                        waiter = bell.wait()
                        try:
                            await waiter
                        except BaseException:
                            bell.forget(waiter)
                            changed.left(bell)
                            raise
                elif since_yield >= BUDGET:
                    since_yield = 0
                    await checkpoint()
                    tail = channel.tail
                count = tail - position
                if cursor.halted or not 0 < count < capacity:
                    item = cursor.take(1)[0]
                elif count == 1:
                    item = channel.items[(position - channel.origin) % capacity]
                    cursor.position = tail
                    channel.caught_up = caught_up = channel.caught_up + 1
                    if caught_up == channel.receivers:
                        channel.release()
                else:
                    start = (position - channel.origin) % capacity
                    count = min(count, BUDGET - since_yield, capacity - start)
                    end = position + count
                    since_yield += count
                    items = cursor.walk_on(count)
                    self.in_hand = True
                    continue
                since_yield += 1
                self.in_hand = True
                await handle(item)
            except BaseException as error:
                if not await recover(error, item):
                    return
