"""`ThreadTurn`: how other threads send, each in its turn; the event loop does it for them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, Generic, final

from anyio import CancelScope, ClosedResourceError, RunFinishedError
from typing_extensions import TypeVar

from ..backpressure import Sender, current_sender
from ..channel import Channel
from ..home import see_whether_cancelled

__all__ = ["ThreadTurn", "wait_confirmed"]

T = TypeVar("T")


@final
class ThreadTurn(Generic[T]):
    """What a thread sends: stored in the event loop as there is room, while the thread waits.

    :param channel: where to
    :param items: what
    :param send: sends all of it or raises, in the event loop; raises if the sender is closed
    """

    __slots__ = (
        "_admitted",
        "_channel",
        "_is_called",
        "_is_of_task",
        "_items",
        "_queue",
        "_result",
        "_send",
        "_sender",
        "_sent",
    )

    def __init__(
        self, channel: Channel[T], items: list[T], send: Callable[[list[T]], None]
    ) -> None:
        self._channel = channel
        self._items = items
        self._send = send
        self._sent = 0
        self._is_called = False  # whether it is to look soon
        self._admitted: list[Any] = []  # as they are to be stored, from the one at `_sent` on
        self._queue: Channel[Any] | None = None  # in which it waits for room
        self._result: Future[tuple[Channel[Any], int]] = Future()
        # The context of a thread that AnyIO runs is that of the task.
        self._sender: Sender | None = current_sender.get()
        self._is_of_task = self._sender is not None

    def take(self) -> tuple[Channel[Any], int]:
        """Send, in the thread that waits for it.

        :return: where the last item lies, and its number there
        """
        see_whether_cancelled()
        self._demand_life()  # a thread that is told without a hop is told in time
        home = self._channel.home
        try:
            home.hand_over(self._step)
            return home.wait_for(self._result, self._look)
        except RunFinishedError as ended:
            ended.add_note(f"Subscribe to {self._channel}, or wait in it, in the new one first.")
            queue = self._channel if self._queue is None else self._queue
            queue.forget(partial(self._end, ended), wake=False)  # nobody is to wait behind it
            raise

    def notify_all(self) -> None:
        """Look, as soon as the event loop can, whether its turn has come."""
        if not self._is_called:
            self._is_called = True
            with suppress(RunFinishedError):  # the thread hears of that by itself
                self._channel.home.hand_over(self._step)

    def _look(self) -> None:
        try:
            see_whether_cancelled()
        except BaseException as cancelled:
            self._channel.home.hand_over(partial(self._end, cancelled))

    def _demand_life(self) -> None:
        if self._channel.has_ended:
            raise ClosedResourceError(f"{self._channel} takes nothing any more: it has been closed")

    def _step(self) -> None:
        self._is_called = False
        if self._result.done():
            return
        try:
            sent = self._send_what_fits()
        except BaseException as error:
            self._end(error)
        else:
            if sent:
                self._end(None)

    def _send_what_fits(self) -> bool:
        """Return whether all has been sent."""
        self._demand_life()
        channel = self._channel.destination
        if self._has_lost_its_readers(channel):
            raise ClosedResourceError(f"{self._channel} has no reader left: its scheduler stops")
        if channel.overflow != "block" or not channel.receivers:
            self._send(self._items[self._sent :])
            return True
        self._send([])
        if self._queue is not channel:  # for the first time, or a bridge has come in between
            self._leave()
            self._admitted = [channel.admit(item) for item in self._items[self._sent :]]
            self._queue = channel
            sender = self._sender
            if sender is not None and not sender.waits.begin(sender, self, channel):
                self._sender = None
            channel.wait_in_turn(self)
        while self._admitted and channel.blocked[0] is self and not channel.is_full():
            tail = channel.tail
            part = self._admitted[: channel.room()]
            if not channel.append_many(part, tail):
                continue
            self._sent += len(part)
            del self._admitted[: len(part)]
        return not self._admitted

    def _has_lost_its_readers(self, channel: Channel[T]) -> bool:
        """Return whether a stop has left it without a reader in the middle of what it sends.

        The thread of a task, such as a handler with its last message, ends with that: it sends to
        nobody, as `publish()` does. So does any other that begins before draining is over.
        """
        is_under_way = self._queue is not None and not self._is_of_task
        return is_under_way and not channel.receivers and channel.home.is_stopping

    def _leave(self) -> None:
        """Let those behind look for room."""
        queue, self._queue = self._queue, None
        if queue is not None:
            queue.wait_no_more(self)
            if self._sender is not None:
                self._sender.waits.end(self._sender, self)
            elif queue.wait_ended is not None:
                queue.wait_ended()

    def _end(self, error: BaseException | None) -> None:
        if not self._result.done():
            self._leave()
            if error is None:
                destination = self._channel.destination
                self._result.set_result((destination, destination.tail - 1))
            else:
                self._result.set_exception(error)


async def wait_confirmed(
    channel: Channel[T], confirmation: Callable[[int], Awaitable[None]], number: int
) -> None:
    """Wait, in a thread's stead, until an item is safe, or nobody is to wait for that any more.

    :param channel: where it was sent
    :param confirmation: awaited with its number
    :param number: its number in the channel of the bridge
    :raises ~anyio.ClosedResourceError: if it may not be safe
    """
    with CancelScope() as scope:
        channel.threads.add(scope)
        try:
            if not channel.has_ended:
                await confirmation(number)
                return
        finally:
            channel.threads.discard(scope)
    raise ClosedResourceError
