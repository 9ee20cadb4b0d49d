"""The life of an event task: its work is a delivery, and a rule for what goes wrong."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from math import inf
from typing import Any, Generic, TypeVar, cast, final

from anyio import ClosedResourceError, EndOfStream, current_time
from anyio.lowlevel import checkpoint
from typing_extensions import override

from .._broadcast.acknowledgements import Reader
from .._broadcast.delivery import Delivery, Workers
from .._broadcast.streams import BroadcastReceiveStream, cursor_of
from .._model.errors import LaggedError
from .._model.snapshots import TaskState
from .._tasks.events import DEAD_LETTERS, DeadLetter, TaskLagged
from .._tasks.registry import RegisteredTask
from .._tasks.retries import with_retries
from .._tasks.task import EventTask
from .tree import Branch
from .worker import Life, Supervisor, reason

__all__ = ["EventLife"]

T = TypeVar("T")

logger: logging.Logger = logging.getLogger("orchestrio")


@final
class EventLife(Life, Generic[T]):
    """The life of an event task: a delivery is kept from run to run, with what is in hand."""

    __slots__ = (
        "_accounted",
        "_delivery",
        "_failed",
        "_gave_up",
        "_handle",
        "_left",
        "_pausing",
        "_progress",
        "_reader",
        "_skipped",
        "_stream",
        "_subscribe",
        "_task",
        "_workers",
    )

    def __init__(
        self,
        entry: RegisteredTask,
        task: EventTask[T],
        subscribe: Callable[[], BroadcastReceiveStream[T]],
        parent: Branch,
        supervisor: Supervisor,
    ) -> None:
        super().__init__(entry, parent, supervisor)
        self._task = task
        self._subscribe = subscribe
        self._handle = task.handler
        self._stream: BroadcastReceiveStream[T] | None = None  # kept, or it would warn
        self._delivery: Delivery[T] | None = None
        self._workers: Workers[T] | None = None
        self._failed = 0  # messages whose handler raised or was cancelled
        self._skipped = 0  # those of them after which it went on
        self._left = 0  # messages that nobody will handle any more
        self._gave_up = False  # whether a handler's error ended the work
        self._accounted = False  # whether what is in hand is counted as failed already
        self._pausing = False  # whether it ends after the message in hand
        self._reader: Reader | None = None  # as whom it acknowledges what it has handled
        self._progress = 0  # how far it had come when the watchdog last looked

    @property
    @override
    def doing(self) -> str:
        return "handle_event()"

    @override
    def subscribe(self) -> None:
        self._gave_up = self._accounted = self._pausing = False
        self._handle = with_retries(
            self._task.handler, self.entry.metadata, self._supervisor.random, self.extra
        )
        if self._delivery is None or self._delivery.cursor.closed:
            self._stream = self._subscribe()
            self._delivery = Delivery(cursor_of(self._stream))
            count = self.entry.metadata.concurrency
            self._workers = Workers(self._delivery, count) if count > 1 else None
            self._failed = self._skipped = self._left = 0
        else:
            self._delivery.resume()

    @override
    def unsubscribe(self) -> None:
        # A handler that is running finishes what it has in hand.
        delivery = self._delivery
        if delivery is not None and not delivery.cursor.closed:
            self._left = delivery.abandon()
            acknowledgements = delivery.cursor.channel.acknowledgements
            if self._reader is not None and acknowledgements is not None:
                acknowledgements.leave(self._reader)
                self._reader = None
            if self._stream is not None:
                self._stream.close()
            if self._left and self.state is not TaskState.REGISTERED:
                logger.warning(
                    "task %r ended with %d messages unhandled",
                    self.entry.name,
                    self._left,
                    extra=self.extra(unhandled=self._left),
                )

    @override
    def pause(self) -> None:
        delivery = self._delivery
        if delivery is not None and self.is_working:
            self._pausing = True
            delivery.pause()

    @property
    @override
    def heeds_stopping(self) -> bool:
        return self._pausing or super().heeds_stopping

    @property
    @override
    def settled(self) -> bool:
        delivery = self._delivery
        assert delivery is not None
        return delivery.is_drained and (self._workers is None or not self._workers.in_hand)

    @override
    async def wait_settled(self) -> None:
        delivery = self._delivery
        assert delivery is not None
        while not (self.over or self.settled):
            await delivery.drained.wait()

    @override
    def finish(self) -> None:
        self.end_asked = True
        self.unsubscribe()

    @override
    def work(self) -> Awaitable[None]:
        delivery = self._delivery
        assert delivery is not None
        acknowledgements = delivery.cursor.channel.acknowledgements
        if acknowledgements is not None and self._reader is None:
            self._reader = acknowledgements.join()
        if self._workers is not None:
            return self._work_in_pool(self._workers)
        handle = self._handle if self._reader is None else self._handle_and_acknowledge
        return delivery.run(handle, self._go_on_after)

    async def _handle_and_acknowledge(self, item: T) -> None:
        assert self._delivery is not None
        number = self._delivery.number
        self._begin(number)
        try:
            await self._handle(item)
        except BaseException as error:
            self._acknowledge(number, error)
            raise
        self._acknowledge(number)

    def _begin(self, number: int) -> None:
        """Tell a bridge, if there is one, that a message is about to be handled in this task."""
        delivery = self._delivery
        if self._reader is not None and delivery is not None:
            acknowledgements = delivery.cursor.channel.acknowledgements
            assert acknowledgements is not None
            acknowledgements.begun(number)

    def _acknowledge(self, number: int, error: BaseException | None = None) -> None:
        """Tell a bridge, if there is one, whether a message has been handled."""
        delivery = self._delivery
        if self._reader is not None and delivery is not None:
            acknowledgements = delivery.cursor.channel.acknowledgements
            assert acknowledgements is not None
            acknowledgements.settle(self._reader, number, error)

    async def _work_in_pool(self, workers: Workers[T]) -> None:
        while True:
            try:
                await workers.run(self._handle_in_pool)
            except Exception as error:
                if self._gave_up:
                    raise  # one of the workers did
                if not await self._go_on_after(error, None):
                    return

    async def _go_on_after(self, error: Exception, item: T | None) -> bool:
        """Find out what an error of the delivery or of the handler means: go on, end, or raise."""
        delivery = self._delivery
        assert delivery is not None
        if self._workers is None and delivery.in_hand:
            self._accounted = True
            self._handler_raised(error, cast("T", item))
            await checkpoint()  # or a handler that always raises would let nobody run
            self._accounted = False
            return True
        if isinstance(error, LaggedError):
            await self._lagged(error.missed)
            return True
        if isinstance(error, (EndOfStream, ClosedResourceError)):
            return False
        raise error

    async def _handle_in_pool(self, item: T, number: int) -> None:
        self._begin(number)
        try:
            await self._handle(item)
        except Exception as error:
            self._acknowledge(number, error)
            self._handler_raised(error, item)
        except BaseException as error:
            self._acknowledge(number, error)
            raise
        else:
            self._acknowledge(number)

    def _handler_raised(self, error: Exception, item: T) -> None:
        """Apply ``on_error``: return to go on with the next message, or raise."""
        self._failed += 1
        metadata = self.entry.metadata
        if self._task.subscribed_event != DEAD_LETTERS:  # or it would feed itself
            self._supervisor.dead_letters.publish(
                DeadLetter(
                    task_id=self.entry.task_id,
                    task_name=self.entry.name,
                    event=self._task.subscribed_event,
                    message=item,
                    error=error,
                    attempts=metadata.retries + 1,
                    time=current_time(),
                )
            )
        if metadata.on_error == "skip":
            self._skipped += 1
            logger.error(
                "task %r skipped a message: its handler %s",
                self.entry.name,
                reason(error),
                exc_info=error,
                extra=self.extra(attempts=metadata.retries + 1),
            )
            return
        self._gave_up = True
        self.fatal: bool = metadata.on_error != "stop"
        raise error

    async def _lagged(self, missed: int) -> None:
        logger.warning(
            "task %r lagged: %d messages were overwritten before it read them",
            self.entry.name,
            missed,
            extra=self.extra(missed=missed),
        )
        publisher = self._supervisor.task_events
        if publisher.wanted:
            publisher.publish(TaskLagged(missed=missed, **self.identity()))
        await self._task.handle_lag(missed)

    @override
    def release(self) -> None:
        delivery = self._delivery
        if delivery is not None:
            began = self.works_since < inf  # or what is in hand is still that of the run before
            if began and self._workers is None and delivery.in_hand and not self._accounted:
                self._failed += 1  # cancelled while it was being handled
                logger.warning(
                    "task %r was cancelled while it handled a message",
                    self.entry.name,
                    extra=self.extra(),
                )
            if not self.keep_subscription:
                self.unsubscribe()
            delivery.drained.notify_all()

    @override
    def last_beat(self) -> float:
        delivery = self._delivery
        assert delivery is not None
        progress = delivery.started
        if self._workers is not None:
            progress += self._workers.finished
        if progress != self._progress or self.settled:
            self._progress = progress
            self.run.last_beat = current_time()
        return self.run.last_beat

    @override
    def facts(self) -> dict[str, Any]:
        facts = super().facts()
        facts["event"] = str(self._task.subscribed_event)
        delivery = self._delivery
        if delivery is not None:
            started = delivery.started
            if self._workers is not None:
                in_hand = self._workers.in_hand if self.is_working else 0
                handled = self._workers.finished - self._skipped
            else:
                in_hand = 1 if self.is_working and delivery.in_hand and not self._accounted else 0
                handled = started - self._failed - in_hand
            facts["handled"] = handled
            facts["failed"] = started - handled - in_hand
            facts["in_hand"] = in_hand
            facts["missed"] = delivery.cursor.missed + delivery.cursor.overwritten
            facts["unread"] = self._left or delivery.unread
        return facts
