"""A pool: the items of one delivery, handled several at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from math import inf
from typing import Generic, final

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

from .._model._loops.wakeup import Wakeup
from .._model.errors import LaggedError
from .channel import BUDGET
from .delivery import Delivery
from .hand import Hand, current_hand

__all__ = ["Pool"]

T = TypeVar("T")


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
        except BaseException as error:
            if not self._failures:
                raise
            # None of them is to be lost; but a cancellation that was asked for is no failure.
            asked = current_effective_deadline() == -inf
            if not (asked and isinstance(error, get_cancelled_exc_class())):
                self._failures.append(error)
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
