"""Delivery: what a receiver gets, handed to a handler one by one. The library's hot path."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from math import inf
from typing import Generic, cast, final

from anyio import (
    CancelScope,
    ClosedResourceError,
    EndOfStream,
    TaskHandle,
    create_task_group,
    current_effective_deadline,
    current_time,
    get_cancelled_exc_class,
)
from anyio.lowlevel import checkpoint
from typing_extensions import TypeVar

from .._model.errors import LaggedError
from .._model.wakeup import Wakeup, bells
from .channel import BUDGET
from .cursor import Cursor
from .hand import Hand, current_hand

__all__ = ["Delivery", "Pool"]

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


@final
class Pool(Generic[T]):
    """Handles the items of one delivery `count` at a time; order is not kept.

    Its workers take what is next themselves, each when it has nothing in hand. Of those that find
    nothing one waits for the channel, and the others for their turn to: a message wakes one.
    """

    __slots__ = (
        "_count",
        "_cut",
        "_delivery",
        "_ended",
        "_failures",
        "_is_over",
        "_is_watched",
        "_name",
        "_parked",
        "_scope",
        "_stop_timeout",
        "finished",
        "in_hand",
        "workers",
    )

    def __init__(self, delivery: Delivery[T], count: int, stop_timeout: float, name: str) -> None:
        """Make a pool.

        :param delivery: where the items come from
        :param count: how many are handled at a time
        :param stop_timeout: how many seconds the others may finish what they have in hand when a
            handler has raised
        :param name: what the tasks of the event loop are called that handle them, with a number
        """
        self._name = name
        self._delivery = delivery
        self._count = count
        self._stop_timeout = stop_timeout
        self._failures: list[BaseException] = []
        self._scope = CancelScope()
        self._cut = 0  # items whose handler was cancelled
        self._is_over = False  # whether no item is taken any more
        self._ended = Wakeup()  # of that
        self._is_watched = False  # whether a worker waits for the channel
        self._parked: deque[Wakeup] = deque()  # what the others wait for
        #: the tasks of the event loop that handle them, while it runs
        self.workers: list[TaskHandle[None]] = []
        #: items whose handler has returned
        self.finished: int = 0
        #: the numbers of the items that were taken and whose handler has not returned yet
        self.in_hand: set[int] = set()

    def cut_off(self) -> int:
        """Return how many items were in hand when all was cancelled, once."""
        cut = self._cut + len(self.in_hand)
        self._cut = 0
        self.in_hand.clear()
        return cut

    async def run(
        self,
        handle: Callable[[T, int], Awaitable[object]],
        failed: Callable[[BaseException, T], None],
        lagged: Callable[[LaggedError], Awaitable[object]],
    ) -> None:
        """Handle item by item until nothing comes any more, or the delivery is paused or abandoned.

        When `failed` raises, nothing is handed over any more, and the others finish what they have.
        So it is when a worker is cancelled by something other than a scope around this.

        :param handle: awaited with each item and its number
        :param failed: called with what `handle` raised, and the item; returns to go on
        :param lagged: awaited when items were overwritten; others are handled meanwhile
        :raises BaseException: what `failed` or `lagged` raised, in a group if several did, once all
            have finished
        """
        self._failures = []
        self._is_over = False
        self._is_watched = False
        self._parked.clear()
        try:
            with CancelScope() as self._scope:
                async with create_task_group() as group:
                    self.workers = [
                        group.create_task(
                            self._work(handle, failed, lagged),
                            name=f"{self._name}, worker {number}",
                        )
                        for number in range(1, self._count + 1)
                    ]
                    try:
                        while not self._is_over:
                            await self._ended.wait()
                    except get_cancelled_exc_class() as error:
                        self._cancelled(error)
        except BaseException as cancelled:
            if self._failures:  # none of them is to be lost
                self._failures.append(cancelled)
            else:
                raise
        finally:
            self.workers = []
        if len(self._failures) > 1:
            raise BaseExceptionGroup("several handlers failed", self._failures)
        for failure in self._failures:
            raise failure

    # What is repeated here of `Cursor.take` is the common case, see `Delivery.run`.
    async def _work(
        self,
        handle: Callable[[T, int], Awaitable[object]],
        failed: Callable[[BaseException, T], None],
        lagged: Callable[[LaggedError], Awaitable[object]],
    ) -> None:
        delivery = self._delivery
        cursor = delivery.cursor
        channel = cursor.channel
        capacity = channel.capacity
        drained = delivery.drained
        in_hand = self.in_hand
        budget = max(1, BUDGET // self._count)  # all of them together yield as one does
        since_yield = 0
        number = -1
        current_hand.set(Hand(channel, lambda: number if number in in_hand else None))
        try:
            while not self._is_over:
                number = cursor.position
                unread = channel.tail - number
                if not unread and cursor.must_wait:
                    await self._wait()
                    since_yield = 0
                    continue
                if since_yield >= budget:
                    since_yield = 0
                    await checkpoint()
                    continue
                if 1 < unread < capacity and not cursor.halted:
                    cursor.position = number + 1
                    item = channel.items[(number - channel.origin) % capacity]
                else:
                    try:
                        [item] = cursor.take(1)
                    except (EndOfStream, ClosedResourceError):
                        self._hand_over_no_more()
                        return
                    except LaggedError as lag:
                        self._wake_one()  # the others go on meanwhile
                        await lagged(lag)
                        continue
                in_hand.add(number)
                if self._parked:
                    self._wake_one()
                since_yield += 1
                try:
                    await handle(item, number)
                    self.finished += 1
                except BaseException as error:
                    try:
                        failed(error, item)
                    except get_cancelled_exc_class():
                        self._cut += 1
                        raise
                    since_yield = budget  # or one that always fails would let nobody run
                    self.finished += 1
                finally:
                    del item  # or this frame would keep it while it waits
                    in_hand.discard(number)
                    if drained.bell is not None:
                        drained.notify_all()
        except get_cancelled_exc_class() as error:
            self._cancelled(error)
        except BaseException as error:
            # It must not leave this task: the others would be cancelled at once.
            self._stop_after(error)

    async def _wait(self) -> None:
        """Wait until there may be an item for this worker."""
        if self._is_watched:
            turn = Wakeup()
            self._parked.append(turn)
            try:
                await turn.wait()
            except BaseException:
                if turn in self._parked:
                    self._parked.remove(turn)
                else:
                    self._wake_one()  # it was the turn of this one, which cannot take it
                raise
            return
        self._is_watched = True
        try:
            await self._delivery.cursor.wait()
        except BaseException:
            self._is_watched = False
            self._wake_one()
            raise
        self._is_watched = False

    def _wake_one(self) -> None:
        if self._parked:
            self._parked.pop().notify_all()

    def _cancelled(self, error: BaseException) -> None:
        """Go on with a cancellation that was asked for; any other one is a failure."""
        if current_effective_deadline() == -inf:
            raise error
        self._stop_after(error)

    def _hand_over_no_more(self) -> None:
        """Let all workers end, when they have finished what they have in hand."""
        self._is_over = True
        self._ended.notify_all()
        while self._parked:
            self._wake_one()
        if self._is_watched:
            self._delivery.cursor.channel.changed.notify_all()

    def _stop_after(self, error: BaseException) -> None:
        """Hand over nothing any more, and give the others some time."""
        if not self._failures:
            self._scope.deadline = current_time() + self._stop_timeout
        self._failures.append(error)
        self._hand_over_no_more()
