"""One task's life: initialise, work, stop, shut down.

A `Life` is what the keeper has for each task. All of it runs in one task of the event loop:

    REGISTERED ─▶ INITIALIZING ─▶ READY ─▶ RUNNING ─▶ COMPLETED ─▶ STOPPED
                        │                     │  ╰─▶ STOPPING ──▶╯    ▲
                        ╰────────▶ FAILED ◀───╯         ╰─▶ FAILED, after shutdown() as well

The life does what it is told (`end`, `allow_shutdown`, `cut_short`) and says what became of it;
what that means for the others is the keeper's to decide.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from contextvars import Context, ContextVar, copy_context
from math import inf
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, final

from anyio import (
    CancelScope,
    ClosedResourceError,
    EndOfStream,
    Event,
    TaskHandle,
    current_time,
    fail_after,
    get_cancelled_exc_class,
)
from anyio.lowlevel import checkpoint
from typing_extensions import override

from .delivery import Delivery, Workers
from .errors import (
    LaggedError,
    TaskExecutionError,
    TaskInitializationError,
    TaskShutdownError,
)
from .models import TaskSnapshot, TaskState
from .streams import cursor_of
from .tasks import BackgroundTask, EventTask

if TYPE_CHECKING:
    from .registry import RegisteredTask
    from .streams import BroadcastReceiveStream

__all__ = ["BackgroundLife", "EventLife", "Life", "current_life"]

T = TypeVar("T")

logger = logging.getLogger("orchestrio")

#: The life whose hook or handler is running, also in tasks that it started.
current_life: Final[ContextVar[Life | None]] = ContextVar("orchestrio_current_life", default=None)

_NOT_STARTED = (TaskState.REGISTERED, TaskState.INITIALIZING)


class Life(ABC):
    """The life of one registered task."""

    # Ten thousand lives are not unusual, and their dicts would make up half of their memory.
    __slots__ = (
        "_changed",
        "_cut_short",
        "_end_asked",
        "_may_shut_down",
        "_on_end",
        "_reported",
        "_shutdown_scope",
        "_turn_began",
        "context",
        "entry",
        "failure",
        "fatal",
        "given_up",
        "gone",
        "handle",
        "initialized",
        "keep_subscription",
        "next_to_shut_down",
        "over",
        "shutdown_failures",
        "state",
    )

    def __init__(self, entry: RegisteredTask, on_end: Callable[[Life], None]) -> None:
        self.entry = entry
        self.state = TaskState.REGISTERED
        #: what ended the work, if something went wrong
        self.failure: BaseException | None = None
        #: what went wrong after the work
        self.shutdown_failures: tuple[TaskShutdownError, ...] = ()
        self._reported = 0  # how many of them
        #: whether ``initialize()`` has returned, so that ``shutdown()`` is owed
        self.initialized = False
        #: whether the work has come to its end, for whatever reason
        self.over = False
        #: whether `live` is not running: not yet, or no more
        self.gone = True
        #: whether it ignores its cancellation, and nobody waits for it any more
        self.given_up = False
        #: whether its failure ends the run; not if ``on_error="stop"`` says so
        self.fatal = True
        #: whether a subscription outlives the work, for the next life
        self.keep_subscription = False
        self.context: Context = copy_context()
        #: the task of the event loop that it lives in
        self.handle: TaskHandle[None] | None = None
        self._on_end = on_end
        self._changed: Event | None = None
        self._shutdown_scope: CancelScope | None = None
        self._end_asked = False
        self._may_shut_down = False
        #: whose turn to shut down it is after this one
        self.next_to_shut_down: Life | None = None
        self._turn_began = inf  # when shutdown() did
        self._cut_short: str | None = None  # why it may not finish

    # -- what the scheduler tells it ---------------------------------------------------------

    def adopt(self, ambient: Context) -> None:
        """Add the context variables of the start to those of the registration, the later value wins.

        :param ambient: the context that the scheduler is started in
        """
        for variable, value in ambient.items():
            if self.context.get(variable) is not value:
                self.context.run(variable.set, value)

    def prepare(self) -> None:
        """Make it ready to `live` once more."""
        self.state = TaskState.REGISTERED
        self.failure = None
        self.shutdown_failures = ()
        self._reported = 0
        self.initialized = self.over = False
        self.fatal = True
        self._end_asked = self._may_shut_down = self.given_up = False
        self._shutdown_scope = self._cut_short = None
        self._turn_began = inf

    def skip(self) -> None:
        """Note that it will not live, if it has not begun to."""
        if self.state is TaskState.REGISTERED:
            self.over = True
            self.unsubscribe()
            self.move_to(TaskState.STOPPED)

    def subscribe(self) -> None:
        """Take a place in a channel, if it has an event, so that no message is missed from now on.

        :raises InvalidChannelError: if the event has no channel
        """

    def unsubscribe(self) -> None:
        """Give up its place in a channel, if it has one."""

    @property
    def settled(self) -> bool:
        """Whether it has handled all messages published so far; a task without event always has."""
        return True

    async def wait_settled(self) -> None:
        """Wait until `settled` holds or the work is over."""

    @property
    def is_working(self) -> bool:
        """Whether it is past its start and not over."""
        return not self.over and self.state in (TaskState.RUNNING, TaskState.STOPPING)

    def move_on_to_stopping(self) -> None:
        """Show that the work is being ended."""
        if self.is_working:
            self.move_to(TaskState.STOPPING)

    def let_work(self) -> None:
        """Show that nothing holds the work up any more; it begins when its task gets to run."""
        if self.state is TaskState.READY:
            self.move_to(TaskState.RUNNING)

    def end(self) -> None:
        """End the work by cancelling it, wherever it stands."""
        self._end_asked = True
        if self.handle is not None and not self.over:
            self.handle.cancel()

    def finish(self) -> None:
        """End the work from within itself: what it is just doing may go on to its next await."""
        self.end()

    def allow_shutdown(self) -> None:
        """Let ``shutdown()`` run, now that it is this task's turn."""
        self._may_shut_down = True
        self._ring()

    def pass_on(self) -> None:
        """Give the turn to shut down to the next life: this one is gone, or given up."""
        if self.next_to_shut_down is not None:
            self.next_to_shut_down.allow_shutdown()
            self.next_to_shut_down = None

    def give_up(self) -> None:
        """Do not let others wait for this one, which does not end."""
        self.given_up = True
        self.pass_on()

    @property
    def turn_began(self) -> float:
        """When ``shutdown()`` began, on the event loop's clock; the present if it has not."""
        return self._turn_began if self._turn_began < inf else current_time()

    def cut_short(self, why: str) -> None:
        """Cancel ``shutdown()`` at its next checkpoint.

        :param why: what happened to it, for the error
        """
        self._cut_short = why
        if self._shutdown_scope is not None:
            self._shutdown_scope.cancel()

    def move_to(self, state: TaskState) -> None:
        """Note a change of state and tell those who wait for it."""
        self.state = state
        self._ring()

    async def wait_until(self, true: Callable[[], bool]) -> None:
        """Wait until something holds that only a change of this life can bring about."""
        while not true():
            await self._next_change().wait()

    async def wait_initialized(self) -> None:
        """Wait until ``initialize()`` has ended, one way or the other."""
        await self.wait_until(lambda: self.state not in _NOT_STARTED)

    async def wait_over(self) -> None:
        """Wait until the work has ended."""
        await self.wait_until(lambda: self.over)

    async def wait_gone(self) -> None:
        """Wait until `live` has returned."""
        await self.wait_until(lambda: self.gone)

    def _next_change(self) -> Event:
        if self._changed is None:
            self._changed = Event()
        return self._changed

    def _ring(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    # -- what it does ------------------------------------------------------------------------

    async def live(self, go: Event, then: Callable[[], None] | None = None) -> None:
        """Live from ``initialize()`` to ``shutdown()``; only a cancellation escapes.

        :param go: set when all tasks that start together are initialised
        :param then: called when this one is, or never will be: it launches the next
        """
        current_life.set(self)
        try:
            if not self._end_asked:
                await self._initialize()
                if then is not None:
                    then()
                    then = None
                if not go.is_set():
                    await go.wait()
                self.let_work()
                await self.work()
        except get_cancelled_exc_class() as error:
            if not self._end_asked:
                self._fail(error)  # by something that is not the scheduler
            raise
        except BaseException as error:  # whatever it is ends the run; nothing fails in silence
            self._fail(error)
        finally:
            self._leave_work()
            if then is not None:
                then()  # stopped or failed before it was initialised
            if self.initialized:
                with CancelScope(shield=True) as scope:
                    while not self._may_shut_down:
                        await self._next_change().wait()
                    self._shutdown_scope = scope
                    self._turn_began = current_time()
                    await self._shut_down(scope)
                if scope.cancelled_caught:
                    what = self._cut_short or "its shutdown() was cancelled"
                    self.note_shutdown_failure(what, TimeoutError(what))
            self.gone = True
            self.handle = None
            self.move_to(TaskState.STOPPED if self.failure is None else TaskState.FAILED)
            self.pass_on()

    async def _initialize(self) -> None:
        self.move_to(TaskState.INITIALIZING)
        timeout = self.entry.metadata.start_timeout
        with nullcontext() if timeout == inf else fail_after(timeout):
            await self.entry.task.initialize()
        self.initialized = True
        self.move_to(TaskState.READY)

    @abstractmethod
    def work(self) -> Awaitable[None]:
        """Do what the task is for, until it has ended or is cancelled."""

    def _fail(self, error: BaseException) -> None:
        """Keep what ended the work, in the words of a task's failure."""
        entry = self.entry
        if isinstance(error, get_cancelled_exc_class()):
            what = "it was cancelled by something other than its scheduler"
        elif not isinstance(error, Exception):
            self.failure = error  # KeyboardInterrupt and its like go out as they are
            return
        else:
            what = f"its {self.doing if self.initialized else 'initialize()'} {_reason(error)}"
        if self.initialized:
            self.failure = TaskExecutionError(
                f"task {entry.name!r} failed: {what}", entry.task_id, entry.name
            )
        else:
            if isinstance(error, TimeoutError) and entry.metadata.start_timeout < inf:
                what += f" (start_timeout is {entry.metadata.start_timeout:g} s)"
            self.failure = TaskInitializationError(
                f"task {entry.name!r} could not start: {what}", entry.task_id, entry.name
            )
        self.failure.__cause__ = error

    @property
    @abstractmethod
    def doing(self) -> str:
        """Which hook does the work, for messages."""

    def _leave_work(self) -> None:
        self.release()
        self.over = True
        if self.failure is not None:
            self.state = TaskState.FAILED
        elif self._end_asked or not self.initialized:
            self.state = TaskState.STOPPING
        else:
            self.state = TaskState.COMPLETED
        self._ring()
        self._on_end(self)

    def release(self) -> None:
        """Let go of what the work needed and ``shutdown()`` does not."""

    async def _shut_down(self, scope: CancelScope) -> None:
        if self._cut_short is not None:
            scope.cancel()
        try:
            await self.entry.task.shutdown()
        except get_cancelled_exc_class():
            raise
        except BaseException as error:
            self.note_shutdown_failure(f"its shutdown() {_reason(error)}", error)

    def note_shutdown_failure(self, what: str, cause: BaseException) -> TaskShutdownError:
        """Keep what went wrong after the work, to be reported with the others'."""
        entry = self.entry
        error = TaskShutdownError(
            f"task {entry.name!r} did not shut down well: {what}", entry.task_id, entry.name
        )
        error.__cause__ = cause
        self.shutdown_failures += (error,)
        return error

    def report(self) -> tuple[TaskShutdownError, ...]:
        """Return what went wrong after the work, each error once."""
        new = self.shutdown_failures[self._reported :]
        self._reported += len(new)
        return new

    def snapshot(self) -> TaskSnapshot:
        """Return how the task stands now."""
        return TaskSnapshot(**self.facts())

    def facts(self) -> dict[str, Any]:
        """The fields of the snapshot."""
        error = self.failure or next(iter(self.shutdown_failures), None)
        return {
            "task_id": self.entry.task_id,
            "name": self.entry.name,
            "kind": self.entry.kind,
            "state": self.state,
            "metadata": self.entry.metadata,
            "error": None if error is None else str(error) or repr(error),
        }


@final
class BackgroundLife(Life):
    """The life of a background task."""

    __slots__ = ("_task",)

    def __init__(
        self, entry: RegisteredTask, task: BackgroundTask, on_end: Callable[[Life], None]
    ) -> None:
        super().__init__(entry, on_end)
        self._task = task

    @property
    @override
    def doing(self) -> str:
        return "execute()"

    @override
    def work(self) -> Awaitable[None]:
        return self._task.execute()


@final
class EventLife(Life, Generic[T]):
    """The life of an event task: its work is a delivery, and a rule for what goes wrong."""

    __slots__ = (
        "_delivery",
        "_failed",
        "_gave_up",
        "_left",
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
        on_end: Callable[[Life], None],
    ) -> None:
        super().__init__(entry, on_end)
        self._task = task
        self._subscribe = subscribe
        self._stream: BroadcastReceiveStream[T] | None = None  # kept, or it would warn
        self._delivery: Delivery[T] | None = None
        self._workers: Workers[T] | None = None
        self._failed = 0  # messages whose handler raised or was cancelled
        self._skipped = 0  # those of them after which it went on
        self._left = 0  # messages that nobody will handle any more
        self._gave_up = False  # whether a handler's error ended the work

    @property
    @override
    def doing(self) -> str:
        return "handle_event()"

    @override
    def subscribe(self) -> None:
        self.keep_subscription = False
        if self._delivery is None or self._delivery.cursor.closed:
            self._stream = self._subscribe()
            self._delivery = Delivery(cursor_of(self._stream))
            count = self.entry.metadata.concurrency
            self._workers = Workers(self._delivery, count) if count > 1 else None
            self._failed = self._skipped = self._left = 0

    @override
    def unsubscribe(self) -> None:
        # A handler that is running finishes what it has in hand.
        delivery = self._delivery
        if delivery is not None and not delivery.cursor.closed:
            self._left = delivery.abandon()
            if self._stream is not None:
                self._stream.close()
            if self._left and self.state is not TaskState.REGISTERED:
                logger.warning(
                    "task %r ended with %d messages unhandled", self.entry.name, self._left
                )

    @property
    @override
    def settled(self) -> bool:
        delivery = self._delivery
        assert delivery is not None
        return delivery.settled and (self._workers is None or not self._workers.in_hand)

    @override
    async def wait_settled(self) -> None:
        delivery = self._delivery
        assert delivery is not None
        while not (self.over or self.settled):
            if delivery.idle is None:
                delivery.idle = Event()
            await delivery.idle.wait()

    @override
    def finish(self) -> None:
        self._end_asked = True
        self.unsubscribe()

    @override
    def work(self) -> Awaitable[None]:
        delivery = self._delivery
        assert delivery is not None
        if self._workers is not None:
            return self._work_in_pool(self._workers)
        return delivery.run(self._task.handler, self._go_on_after)

    async def _work_in_pool(self, workers: Workers[T]) -> None:
        while True:
            try:
                await workers.run(self._handle_in_pool)
            except Exception as error:
                if self._gave_up:
                    raise  # one of the workers did
                if not await self._go_on_after(error):
                    return

    async def _go_on_after(self, error: Exception) -> bool:
        """Find out what an error of the delivery or of the handler means: go on, end, or raise."""
        delivery = self._delivery
        assert delivery is not None
        if self._workers is None and delivery.in_hand:
            self._handler_raised(error)
            await checkpoint()  # or a handler that always raises would let nobody run
            return True
        if isinstance(error, LaggedError):
            await self._lagged(error.missed)
            return True
        if isinstance(error, (EndOfStream, ClosedResourceError)):
            return False
        raise error

    async def _handle_in_pool(self, item: T) -> None:
        try:
            await self._task.handler(item)
        except Exception as error:
            self._handler_raised(error)

    def _handler_raised(self, error: Exception) -> None:
        """Apply ``on_error``: return to go on with the next message, or raise."""
        self._failed += 1
        rule = self.entry.metadata.on_error
        if rule == "skip":
            self._skipped += 1
            logger.error(
                "task %r skipped a message: its handler %s",
                self.entry.name,
                _reason(error),
                exc_info=error,
            )
            return
        self._gave_up = True
        self.fatal = rule != "stop"
        raise error

    async def _lagged(self, missed: int) -> None:
        logger.warning(
            "task %r lagged: %d messages were overwritten before it read them",
            self.entry.name,
            missed,
        )
        await self._task.handle_lag(missed)

    @override
    def prepare(self) -> None:
        super().prepare()
        self._gave_up = False

    @override
    def release(self) -> None:
        delivery = self._delivery
        if delivery is not None:
            if self._workers is None and delivery.in_hand and not self._gave_up:
                self._failed += 1  # cancelled while it was being handled
            if not self.keep_subscription:
                self.unsubscribe()
            delivery.ring()

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
                in_hand = 1 if self.is_working and delivery.in_hand and not self._gave_up else 0
                handled = started - self._failed - in_hand
            facts["handled"] = handled
            facts["failed"] = started - handled - in_hand
            facts["missed"] = delivery.cursor.missed
            facts["unread"] = self._left or delivery.unread
        return facts


def _reason(error: BaseException) -> str:
    return f"raised {type(error).__name__}: {error}"
