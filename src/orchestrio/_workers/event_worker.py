"""The worker of an event task: its work is a delivery, and a rule for what goes wrong."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Any, Generic, TypeVar, cast, final

from anyio import ClosedResourceError, EndOfStream, current_time
from anyio.lowlevel import checkpoint
from typing_extensions import override

from .._broadcast._streams.receive import BroadcastReceiveStream, cursor_of
from .._broadcast.acknowledgements import Reader
from .._broadcast.backpressure import current_sender
from .._broadcast.channel import Channel
from .._broadcast.delivery import Delivery
from .._broadcast.pool import Pool
from .._model.errors import LaggedError
from .._model.log import logger
from .._model.tracebacks import trim
from .._model.words import counted, in_words
from .._tasks.events import DEAD_LETTERS, DeadLetter, TaskLagged
from .._tasks.failures import failure_in, raised
from .._tasks.registry import RegisteredTask
from .._tasks.retries import tally_of_retries, with_retries
from .._tasks.tally import AT_ONCE, Tally
from .._tasks.task import EventTask, event_of
from .run import Run
from .tree import Branch
from .wanted import Wanted
from .worker import Supervision, Worker

__all__ = ["EventWorker"]

T = TypeVar("T")


@final
class EventWorker(Worker, Generic[T]):
    """The worker of an event task: a delivery is kept from run to run, with what is in hand."""

    __slots__ = (
        "_accounted",
        "_delivery",
        "_event",
        "_failed",
        "_handle",
        "_handler_failed",
        "_lags",
        "_left",
        "_pool",
        "_progress",
        "_reader",
        "_reserved",
        "_skipped",
        "_skips",
        "_stream",
        "_subscribe",
        "_task",
        "_tries",
        "_within",
    )

    def __init__(
        self,
        entry: RegisteredTask,
        task: EventTask[T],
        subscribe: Callable[[], BroadcastReceiveStream[T]],
        parent: Branch,
        supervision: Supervision,
    ) -> None:
        super().__init__(entry, parent, supervision)
        self._task = task
        self._subscribe = subscribe
        self._event = event_of(task)  # as the task said when it was subscribed
        self._handle = task.handler
        self._stream: BroadcastReceiveStream[T] | None = None  # kept, or it would warn
        self._reserved: BroadcastReceiveStream[T] | None = None  # for the next run
        self._delivery: Delivery[T] | None = None
        self._pool: Pool[T] | None = None
        self._failed = 0  # messages whose handler raised or was cancelled
        self._skipped = 0  # those of them after which it went on
        self._left = 0  # messages that nobody will handle any more
        self._handler_failed = False  # whether a handler's error ended the work
        self._accounted = False  # whether what is in hand is counted as failed already
        self._reader: Reader | None = None  # as whom it acknowledges what it has handled
        self._progress = 0  # how far it had come when the watchdog last looked
        self._within = "handle_event()"  # the hook that it is in
        self._lags: Tally | None = None  # what of it is in the log; most never lag, nor skip
        self._skips: Tally | None = None
        self._tries: Tally | None = tally_of_retries(entry.metadata, self.extra)

    @property
    @override
    def doing(self) -> str:
        return self._within

    @override
    def subscribe(self) -> None:
        if self.run is not None and not self.run.is_over:
            self._reserve()
            return
        self._handler_failed = self._accounted = False
        self._handle = with_retries(
            self._task.handler,
            self.entry.metadata,
            self.supervision.random,
            self.extra,
            self._tries,
        )
        if self._delivery is None or self._delivery.is_over:
            self._reserve()
            stream, self._reserved = self._reserved, None
            assert stream is not None
            if self._stream is not None:
                self._stop_acknowledging()
                self._stream.close()
            self._stream = stream
            self._delivery = Delivery(cursor_of(stream))
            count = self.entry.metadata.concurrency
            stop_timeout = self.entry.metadata.stop_timeout
            name = self.entry.name
            self._pool = Pool(self._delivery, count, stop_timeout, name) if count > 1 else None
            self._failed = self._skipped = self._left = 0
        else:
            self._delivery.resume()

    def _reserve(self) -> None:
        """Take a place in the channel for the next run, unless there is one that it can go on in.

        What still runs may have given its own up already, and finish what it has in hand.
        """
        if self._reserved is not None and cursor_of(self._reserved).is_over:
            self._reserved.close()
            self._reserved = None
        if self._reserved is None and (self._delivery is None or self._delivery.is_over):
            self._event = event_of(self._task)
            self._reserved = self._subscribe()

    @override
    def update_subscription(self) -> None:
        if self._reserved is not None and self.wanted is not Wanted.RESTART:
            unread = len(self._reserved)
            self._reserved.close()
            self._reserved = None
            self._leave_unhandled(unread)
        super().update_subscription()

    @override
    def unsubscribe(self) -> None:
        # A handler that is running finishes what it has in hand.
        delivery = self._delivery
        if delivery is not None and not delivery.cursor.closed:
            in_hand = self._in_hand
            left = delivery.abandon()
            self._stop_acknowledging(in_hand)
            if self._stream is not None:
                self._stream.close()
            self._leave_unhandled(left)

    def _leave_unhandled(self, count: int) -> None:
        """Note how many messages nobody will handle any more, and say so."""
        self._left += count
        if count and (self.run is not None or self.runs):
            logger.warning(
                "task %r ended with %s unhandled",
                self.entry.name,
                counted(count, "messages"),
                extra=self.extra(unhandled=count),
            )

    @property
    def _in_hand(self) -> Collection[int]:
        """The messages that the work will still handle, by their numbers, when it reads no more."""
        delivery = self._delivery
        if delivery is None or self.run is None or self.run.is_over:
            return ()
        if self._pool is not None:
            return self._pool.in_hand.copy()
        return (delivery.number,) if delivery.in_hand else ()

    def _stop_acknowledging(self, in_hand: Collection[int] = ()) -> None:
        """Tell a bridge, if there is one, that nothing more is handled but what is in hand."""
        assert self._delivery is not None
        acknowledgements = self._delivery.cursor.channel.acknowledgements
        if self._reader is not None and acknowledgements is not None:
            acknowledgements.leave(self._reader, in_hand)
        if not in_hand:
            self._reader = None

    @override
    def finish_current(self) -> bool:
        if self.run is not None and self.run.is_working:
            if self.wanted is Wanted.RESTART:
                assert self._delivery is not None
                self._delivery.pause()
            else:
                self.unsubscribe()
        return True

    @property
    @override
    def published(self) -> int:
        assert self._delivery is not None
        return self._delivery.cursor.channel.tail

    @override
    def has_handled(self, goal: int) -> bool:
        delivery = self._delivery
        assert delivery is not None
        pool = self._pool
        if pool is not None and any(number < goal for number in pool.in_hand):
            return False
        return delivery.has_handled(goal)

    @override
    async def wait_handled(self, goal: int) -> None:
        delivery = self._delivery
        run = self.run
        assert delivery is not None
        assert run is not None
        while not (run.is_over or self.has_handled(goal)):
            await delivery.drained.wait()

    @override
    def run_abandoned(self) -> None:
        super().run_abandoned()
        self._settle_tallies()
        assert self._delivery is not None
        if self._delivery.cursor.closed:
            self._stop_acknowledging()  # what it has in hand is for somebody else
        self._delivery.drained.notify_all()

    @override
    def work(self) -> Awaitable[None]:
        delivery = self._delivery
        assert delivery is not None
        current_sender.set(self)  # what initialize() has started is not the work
        acknowledgements = delivery.cursor.channel.acknowledgements
        if acknowledgements is not None and self._reader not in acknowledgements.readers:
            self._reader = acknowledgements.join()
        delivery.cursor.is_at_work = True
        if self._pool is not None:
            return self._pool.run(self._begin_in_pool, self._failed_in_pool, self._go_on_after_lag)
        handle = self._handle if self._reader is None else self._handle_and_acknowledge
        return delivery.run(handle, self._go_on_after)

    async def _handle_and_acknowledge(self, item: T) -> None:
        assert self._delivery is not None
        await self._handle_as_reader(item, self._delivery.number)

    async def _handle_as_reader(self, item: T, number: int) -> None:
        """Handle a message, and tell a bridge, if there is one, what became of it."""
        delivery = self._delivery
        assert delivery is not None
        acknowledgements = delivery.cursor.channel.acknowledgements
        if self._reader is None or acknowledgements is None:
            await self._handle(item)
            return
        reader = self._reader
        try:
            begun = acknowledgements.begun(number)
            if begun is not None:
                await begun
            await self._handle(item)
        except BaseException as error:
            # A cancellation that nobody here has asked for is a failure as any other.
            acknowledgements.settle(reader, number, failure_in(error) or error)
            raise
        acknowledgements.settle(reader, number, None)

    async def _go_on_after(self, error: BaseException, item: T | None) -> bool:
        """Find out what an error of the delivery or of the handler means: go on, end, or raise."""
        delivery = self._delivery
        assert delivery is not None
        if delivery.in_hand:
            failure = failure_in(error)
            if failure is None:
                raise error
            self._accounted = True
            self._handler_raised(failure, cast("T", item))
            await checkpoint()  # or a handler that always raises would let nobody run
            self._accounted = False
            return True
        if isinstance(error, LaggedError):
            await self._lagged(error.missed)
            return True
        if isinstance(error, (EndOfStream, ClosedResourceError)):
            return False
        raise error

    def _begin_in_pool(self, item: T, number: int) -> Awaitable[object]:
        if self._reader is None:
            return self._handle(item)
        return self._handle_as_reader(item, number)

    def _failed_in_pool(self, error: BaseException, item: T) -> None:
        failure = failure_in(error)
        if failure is None:
            raise error
        self._handler_raised(failure, item)

    async def _go_on_after_lag(self, lag: LaggedError) -> None:
        await self._lagged(lag.missed)

    def _handler_raised(self, error: Exception, item: T) -> None:
        """Apply ``on_error``: return to go on with the next message, or raise."""
        self._failed += 1
        self.note_error(error)
        metadata = self.entry.metadata
        if self._event != DEAD_LETTERS:  # or it would feed itself
            self.supervision.dead_letters.publish(
                DeadLetter(
                    task_id=self.entry.task_id,
                    task_name=self.entry.name,
                    event=self._event,
                    message=item,
                    error=error,
                    attempts=metadata.retries + 1,
                    time=current_time(),
                )
            )
        if metadata.on_error == "skip":
            self._skipped += 1
            trim(error)
            if self._skips is None:
                self._skips = Tally(AT_ONCE, self._tell_skips)
            again = self.repeats.count(error) > 1
            if self._skips.note(current_time()):
                logger.error(
                    "task %r skipped a message: its handler %s",
                    self.entry.name,
                    raised(error),
                    exc_info=None if again else error,
                    extra=self.extra(attempts=metadata.retries + 1, error=error),
                )
            return
        self._handler_failed = True
        raise error

    def _tell_skips(self, times: int, _: int) -> None:
        logger.error(
            "task %r skipped %s more; the last error: %s",
            self.entry.name,
            counted(times, "messages"),
            self.last_error[0] if self.last_error else "",
            extra=self.extra(skipped=times),
        )

    def _tell_lags(self, times: int, missed: int) -> None:
        logger.warning(
            "task %r lagged %s more: %s overwritten before it read %s",
            self.entry.name,
            counted(times, "times"),
            *_overwritten(missed),
            extra=self.extra(missed=missed, times=times),
        )

    def _settle_tallies(self) -> None:
        """Tell what was only counted."""
        for tally in (self._lags, self._skips, self._tries):
            if tally is not None:
                tally.settle()

    async def _lagged(self, missed: int) -> None:
        if self._lags is None:
            self._lags = Tally(1, self._tell_lags)
        if self._lags.note(current_time(), missed):
            logger.warning(
                "task %r lagged: %s overwritten before it read %s",
                self.entry.name,
                *_overwritten(missed),
                extra=self.extra(missed=missed),
            )
        publisher = self.supervision.task_events
        if publisher.wanted:
            publisher.publish(TaskLagged(missed=missed, **self.identity()))
        self._within = "handle_lag()"
        await self._task.handle_lag(missed)
        self._within = "handle_event()"

    @override
    def release(self, run: Run) -> None:
        delivery = self._delivery
        self._settle_tallies()
        run.spares_others = self._handler_failed and self.entry.metadata.on_error == "stop"
        self._within = "handle_event()"
        if delivery is None or not run.came_to_work:
            return  # what is in hand is still that of the run before
        if self._pool is not None:
            cut = self._pool.cut_off()
        else:
            cut = 1 if delivery.in_hand and not self._accounted else 0
        if cut:
            self._failed += cut
            logger.warning(
                "task %r was cancelled while it handled %s",
                self.entry.name,
                "a message" if cut == 1 else f"{cut} messages",
                extra=self.extra(),
            )
        delivery.put_down()
        delivery.cursor.is_at_work = False
        if delivery.cursor.closed:
            self._stop_acknowledging()
        delivery.drained.notify_all()

    @property
    @override
    def holds_back(self) -> Channel[Any] | None:
        if self._delivery is None:
            return None
        cursor = self._delivery.cursor
        channel = cursor.channel
        is_full = not cursor.closed and channel.is_full()
        return channel if is_full and cursor.where == channel.oldest else None

    @property
    @override
    def pool(self) -> Pool[Any] | None:
        return self._pool

    @override
    def last_beat(self) -> float:
        delivery = self._delivery
        assert delivery is not None
        assert self.run is not None
        progress = delivery.started
        if self._pool is not None:
            progress += self._pool.finished
        if progress != self._progress or self.is_drained:
            self._progress = progress
            self.run.info.beat(current_time())
        return self.run.info.last_beat

    @override
    def facts(self) -> dict[str, Any]:
        facts = super().facts()
        facts["event"] = in_words(self._event)
        delivery = self._delivery
        if delivery is not None:
            started = delivery.started
            if self._pool is not None:
                in_hand = len(self._pool.in_hand)
                handled = self._pool.finished - self._skipped
            else:
                in_hand = 1 if delivery.in_hand and not self._accounted else 0
                handled = started - self._failed - in_hand
            facts["handled"] = handled
            facts["failed"] = started - handled - in_hand
            facts["in_hand"] = in_hand
            facts["missed"] = delivery.cursor.missed + delivery.cursor.overwritten
            waiting = 0 if self._reserved is None else len(self._reserved)
            facts["unread"] = self._left + delivery.unread + waiting
        return facts


def _overwritten(missed: int) -> tuple[str, str]:
    """Say how many messages were overwritten, and what the others call them."""
    return ("1 message was", "it") if missed == 1 else (f"{missed:,} messages were", "them")
