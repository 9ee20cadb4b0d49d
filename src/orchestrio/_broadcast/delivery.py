"""Delivery: what a receiver gets, handed to a handler in batches. The library's hot path."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from math import inf
from operator import length_hint
from typing import Final, Generic, Never, final

from anyio import (
    CancelScope,
    ClosedResourceError,
    EndOfStream,
    Event,
    TaskHandle,
    create_memory_object_stream,
    create_task_group,
    current_effective_deadline,
    current_time,
    get_cancelled_exc_class,
)
from anyio.lowlevel import checkpoint
from anyio.streams.memory import MemoryObjectReceiveStream
from typing_extensions import TypeVar

from .._model.errors import LaggedError
from .._model.wakeup import Wakeup
from .channel import BUDGET
from .cursor import Cursor

__all__ = ["Delivery", "Pool"]

T = TypeVar("T")

#: The batch of a delivery that has nothing in hand: not even an item being handled.
_NOTHING: Final[Iterator[Never]] = iter(())

#: The batch of a delivery whose single item is being handled; no iterator has to be made for it.
_IN_HAND: Final[Iterator[Never]] = iter(())


@final
class Delivery(Generic[T]):
    """Hands the items under a cursor to a handler, and knows exactly how far it has come.

    The batch in hand is kept here, not in the coroutine: whatever ends `run` (an exception of the
    handler, a cancellation, a lag), the next `run` goes on with the item after the last one that
    was handed over.
    """

    __slots__ = ("_batch", "_held", "_start", "cursor", "drained")

    def __init__(self, cursor: Cursor[T]) -> None:
        self.cursor: Cursor[T] = cursor
        #: notified when it may be that everything has been handled: see `has_handled`
        self.drained: Wakeup = Wakeup()
        self._batch: Iterator[T] = _NOTHING
        self._held: list[T] = []  # the rest of the batch, while it is paused or does not run
        self._start = cursor.position

    @property
    def started(self) -> int:
        """How many items the handler was called with."""
        cursor = self.cursor
        return cursor.position - self._start - cursor.missed - self._in_batch

    @property
    def unread(self) -> int:
        """How many items have been sent and not handed over yet."""
        return len(self.cursor) + self._in_batch

    @property
    def _in_batch(self) -> int:
        return length_hint(self._batch) + len(self._held)

    def has_handled(self, goal: int) -> bool:
        """Whether the handler has returned from all items before this number, or will get none."""
        if self.cursor.closed:
            return not self.in_hand
        return self.cursor.position - self._in_batch - self.in_hand >= goal

    @property
    def in_hand(self) -> bool:
        """Whether an item was handed over and the handler has not returned from it."""
        return self._batch is not _NOTHING

    @property
    def is_over(self) -> bool:
        """Whether everything was handed over, and nothing can come any more."""
        return self.cursor.is_over and not self._in_batch

    @property
    def number(self) -> int:
        """The number in the channel of the item that was handed over last."""
        return self.cursor.position - self._in_batch - 1

    def pause(self) -> None:
        """Let `run` end when the handler has finished what it has in hand; nothing is let go."""
        self._held += self._batch
        self.cursor.pause()

    def resume(self) -> None:
        """Let the next `run` go on where the last one has ended."""
        self.cursor.resume()

    def put_down(self) -> None:
        """Note that `run` has ended: nothing is in hand any more, the rest is for the next one."""
        self._held += self._batch
        self._batch = _NOTHING

    def put_back(self, item: T) -> bool:
        """Take an item back that was handed over and not looked at: it is the next again.

        :return: whether there will be a next; not after `abandon`
        """
        if self.cursor.closed:
            return False
        self._batch = iter([item, *self._batch])
        return True

    def abandon(self) -> int:
        """Close the cursor: the handler finishes what it has in hand, and `run` ends.

        :return: how many items were sent and will not be handed over
        """
        unread = self.unread
        self.cursor.skip(self.cursor.overwritten)
        self.pause()
        self._start += len(self._held)  # these do not count as handed over
        self._held = []
        self.cursor.close()
        return unread

    # One function, so that a message costs one call of the handler and little else, and so that
    # waking up goes through as few frames as can be. What is repeated here of `Cursor.take` is
    # the common case of a reader that keeps up with a log that has not wrapped around: it makes up
    # a third of an idle wake-up when taken through calls.
    async def run(
        self,
        handle: Callable[[T], Awaitable[object]],
        recover: Callable[[BaseException, T | None], Awaitable[bool]],
    ) -> None:
        """Hand over item by item until `recover` says that it is over.

        A batch that leaves nothing unread needs no checkpoint, for the wait that follows is one;
        a reader that always has more yields every 256 items.

        :param handle: awaited with each item, one at a time
        :param recover: awaited with what `handle` raised and the item (then `in_hand` holds), or
            what reading did: `~anyio.EndOfStream` when all senders are closed and everything was
            handed over, `~anyio.ClosedResourceError` when the cursor was closed or paused,
            `LaggedError` when items were overwritten. Returns whether to go on, or raises; for
            a cancellation, too, it is to say whether that was meant for this.
        """
        cursor = self.cursor
        channel = cursor.channel
        changed = channel.changed
        drained = self.drained
        since_yield = 0
        item: T | None = None
        if self._held and not cursor.halted:
            self._batch = iter(self._held)
            self._held = []
        while True:
            try:
                for item in self._batch:
                    await handle(item)
                self._batch = _NOTHING
                position = cursor.position
                if position == (tail := channel.tail):
                    if drained.event is not None:
                        drained.notify_all()
                    since_yield = 0
                    item = None  # or this frame would keep it while it waits
                    while (
                        position == (tail := channel.tail) and channel.senders and not cursor.halted
                    ):
                        # What `changed.wait()` does, with a frame less to wake up through.
                        if (event := changed.event) is None:
                            event = changed.event = Event()
                        await event.wait()
                elif since_yield >= BUDGET:
                    since_yield = 0
                    await checkpoint()
                    tail = channel.tail
                if cursor.fast and 0 < (count := tail - position) <= BUDGET:
                    start = position - channel.origin
                    items = channel.items
                    if start + count == len(items):
                        item = items[start]
                        self._batch = _IN_HAND if count == 1 else iter(items[start:])
                        cursor.position = tail
                        channel.caught_up = caught_up = channel.caught_up + 1
                        if caught_up == channel.receivers:
                            channel.release()
                        since_yield += count
                        if count == 1:
                            await handle(item)
                        continue
                self._batch = iter(cursor.take(BUDGET))
                since_yield += BUDGET
            except BaseException as error:
                if not await recover(error, item):
                    return


@final
class Pool(Generic[T]):
    """Handles the items of one delivery `count` at a time; order is not kept.

    Its handlers compete for the items, so AnyIO's memory object stream, whose clones do just that,
    is what stands between them and the delivery.
    """

    __slots__ = (
        "_count",
        "_cut",
        "_delivery",
        "_failures",
        "_feeding",
        "_name",
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
        self._feeding = self._scope = CancelScope()
        self._cut = 0  # items whose handler was cancelled
        #: the tasks of the event loop that handle them, while it runs
        self.workers: list[TaskHandle[None]] = []
        #: items whose handler has returned
        self.finished: int = 0
        #: items that were taken and whose handler has not returned yet, by their numbers; each is
        #: in its slot until a handler is called with it
        self.in_hand: dict[int, list[tuple[T, int]]] = {}

    def cut_off(self) -> int:
        """Return how many items were in hand when all was cancelled, once."""
        cut = self._cut + len(self.in_hand)
        self._cut = 0
        self.in_hand.clear()
        return cut

    async def run(self, handle: Callable[[T, int], Awaitable[object]]) -> None:
        """Handle item by item until the event ends, as `Delivery.run` does.

        When `handle` raises, nothing is handed over any more, and the others finish what they have.
        So it is when a worker is cancelled by something other than a scope around this.

        :param handle: awaited with each item and its number
        :raises BaseException: what `handle` raised, in a group if several did, or else what
            `Delivery.run` did once all have finished
        """
        send, receive = create_memory_object_stream[list[tuple[T, int]]](0)

        async def hand(item: T) -> None:
            number = self._delivery.number
            slot = self.in_hand[number] = [(item, number)]
            try:
                await send.send(slot)
            except get_cancelled_exc_class():
                self._put_back()  # a handler has raised
                raise

        self._failures = []
        self.workers = []
        ended: EndOfStream | ClosedResourceError | LaggedError = ClosedResourceError()
        try:
            with CancelScope() as self._scope:
                async with create_task_group() as group:
                    with send, receive:
                        for number in range(1, self._count + 1):
                            name = f"{self._name}, worker {number}"
                            work = self._work(receive.clone(), handle)
                            self.workers.append(group.create_task(work, name=name))
                        with CancelScope() as self._feeding:
                            try:
                                await self._delivery.run(hand, _raise)
                            except (EndOfStream, ClosedResourceError, LaggedError) as end:
                                ended = end
                            except get_cancelled_exc_class() as error:
                                self._cancelled(error)
        except BaseException as cancelled:
            if self._failures:  # none of them is to be lost
                self._failures.append(cancelled)
            else:
                raise
        finally:
            self.workers = []
            self._put_back()  # a worker may have been cancelled as it was given one
        if len(self._failures) > 1:
            raise BaseExceptionGroup("several handlers failed", self._failures)
        raise self._failures[0] if self._failures else ended

    async def _work(
        self,
        receive: MemoryObjectReceiveStream[list[tuple[T, int]]],
        handle: Callable[[T, int], Awaitable[object]],
    ) -> None:
        try:
            with receive:
                async for slot in receive:
                    if not slot:
                        continue
                    item, number = slot.pop()
                    try:
                        await handle(item, number)
                        self.finished += 1
                    except get_cancelled_exc_class():
                        self._cut += 1
                        raise
                    finally:
                        del item  # or this frame would keep it while it waits
                        del self.in_hand[number]
                        self._delivery.drained.notify_all()
        except get_cancelled_exc_class() as error:
            self._cancelled(error)
        except BaseException as error:
            # It must not leave this task: the others would be cancelled at once.
            self._stop_after(error)

    def _put_back(self) -> None:
        """Leave what no worker has unpacked for the next run."""
        for number, slot in reversed(list(self.in_hand.items())):
            if slot and self._delivery.put_back(slot.pop()[0]):
                del self.in_hand[number]

    def _cancelled(self, error: BaseException) -> None:
        """Go on with a cancellation that was asked for; any other one is a failure."""
        if current_effective_deadline() == -inf:
            raise error
        self._stop_after(error)

    def _stop_after(self, error: BaseException) -> None:
        """Hand over nothing any more, and give the others some time."""
        if not self._failures:
            self._scope.deadline = current_time() + self._stop_timeout
        self._failures.append(error)
        self._feeding.cancel()


async def _raise(error: BaseException, item: object) -> bool:
    raise error
