"""One task's life: initialise, work, stop, shut down, and perhaps all of it again.

A `Life` is what the keeper has for each task. Each run of it is one task of the event loop:

    REGISTERED ─▶ INITIALIZING ─▶ READY ─▶ RUNNING ─▶ COMPLETED ─▶ STOPPED
                   ▲    │                     │  ╰─▶ STOPPING ──▶╯    ▲
                   │    ╰────────▶ FAILED ◀───╯         ╰─▶ FAILED, after shutdown() as well
                   ╰─ BACKING_OFF ◀─╯ if it is to be restarted

The life does what it is told (`end`, `allow_shutdown`, `cut_short`) and says what became of it;
what that means for the others is the keeper's to decide.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from contextvars import Context, copy_context
from math import inf
from typing import Any, Final, Protocol

from anyio import (
    CancelScope,
    Event,
    TaskHandle,
    current_time,
    fail_after,
    get_cancelled_exc_class,
    sleep_until,
)

from .._model.errors import TaskExecutionError, TaskInitializationError, TaskShutdownError
from .._model.snapshots import TaskSnapshot, TaskState
from .._tasks.context import RunInfo, Services, current_run
from .._tasks.events import DeadLetter, Publisher, StateChanged, TaskEvent
from .._tasks.registry import RegisteredTask
from .stack import task_stack
from .tree import Branch, Node

__all__ = ["Life", "Supervisor", "reason"]

logger: logging.Logger = logging.getLogger("orchestrio")

_NOT_BEGUN: Final = (TaskState.REGISTERED, TaskState.BACKING_OFF)


class Supervisor(Protocol):
    """Whom a life tells what became of it."""

    @property
    def random(self) -> Callable[[], float]:
        """The source of randomness for delays."""
        ...

    @property
    def services(self) -> Services:
        """What all tasks share."""
        ...

    @property
    def task_events(self) -> Publisher[TaskEvent]:
        """Where it is told what happens to tasks."""
        ...

    @property
    def dead_letters(self) -> Publisher[DeadLetter]:
        """Where messages go that nobody could handle."""
        ...

    def life_ended(self, life: Life) -> None:
        """Decide what the end of one task's work means for it and for the others."""

    def life_begins_again(self, life: Life) -> None:
        """Prepare the next run of a life that goes on by itself."""

    def life_is_back(self, life: Life) -> None:
        """Hear that a task works again after a restart."""


class Life(Node, ABC):
    """The life of one registered task."""

    # Ten thousand lives are not unusual, and their dicts would make up half of their memory.
    __slots__ = (
        "_changed",
        "_cut_short",
        "_killed",
        "_may_shut_down",
        "_reported",
        "_shutdown_scope",
        "_supervisor",
        "_turn_began",
        "alone",
        "cancelled",
        "context",
        "dependencies",
        "end_asked",
        "entry",
        "failure",
        "fatal",
        "given_up",
        "gone",
        "handle",
        "holders",
        "initialized",
        "keep_subscription",
        "last_failure",
        "not_before",
        "over",
        "predecessors",
        "rank",
        "recovering",
        "retired",
        "run",
        "shutdown_failures",
        "starts",
        "state",
        "stuck",
        "successors",
        "works_since",
    )

    def __init__(self, entry: RegisteredTask, parent: Branch, supervisor: Supervisor) -> None:
        metadata = entry.metadata
        super().__init__(f"task {entry.name!r}", parent, metadata.policy, metadata.significant)
        self.entry: RegisteredTask = entry
        self._supervisor = supervisor
        self.state: TaskState = TaskState.REGISTERED
        #: the run it is in, or was in last
        self.run: RunInfo = RunInfo(
            entry.task_id, entry.name, supervisor.services, self._ring, self.extra
        )
        #: how many of its runs have begun
        self.starts: int = 0
        #: its place in the order of start
        self.rank: int = 0
        #: the tasks that must be ready before it works
        self.dependencies: tuple[Life, ...] = ()
        #: what ended the work, if something went wrong
        self.failure: BaseException | None = None
        #: what went wrong after the work
        self.shutdown_failures: tuple[TaskShutdownError, ...] = ()
        self._reported = 0  # how many of them
        #: whether ``initialize()`` has returned, so that ``shutdown()`` is owed
        self.initialized: bool = False
        #: whether the work has come to its end, for whatever reason
        self.over: bool = False
        #: whether `live` is not running: not yet, or no more
        self.gone: bool = True
        #: whether another run will follow this one
        self.recovering: bool = False
        #: whether it restarts itself, since no other life is concerned
        self.alone: bool = False
        #: when its next run may begin, in seconds on the event loop's clock
        self.not_before: float = 0.0
        #: whether its task of the event loop was cancelled, and cannot go on
        self.cancelled: bool = False
        #: what ended the run before this one
        self.last_failure: BaseException | None = None
        #: how many are stopping it just now, and must not meet its next run
        self.holders: int = 0
        #: whether somebody wants it stopped, so that no restart of others brings it back
        self.retired: bool = False
        #: whether it ignores its cancellation
        self.stuck: bool = False
        #: whether nobody waits for its ``shutdown()`` any more
        self.given_up: bool = False
        #: whether its failure concerns others; not if ``on_error="stop"`` says so
        self.fatal: bool = True
        #: whether a subscription outlives the work, for the next run
        self.keep_subscription: bool = False
        self.context: Context = copy_context()
        #: the task of the event loop that it lives in
        self.handle: TaskHandle[None] | None = None
        #: whether the scheduler has asked for the end of the work
        self.end_asked: bool = False
        self._changed: Event | None = None
        self._killed: BaseException | None = None  # why it was cancelled, if that is a failure
        self._shutdown_scope: CancelScope | None = None
        self._may_shut_down = False
        #: those that shut down after this one
        self.successors: tuple[Life, ...] = ()
        #: how many must shut down before this one
        self.predecessors: int = 0
        self._turn_began = inf  # when shutdown() did
        self._cut_short: str | None = None  # why it may not finish
        #: when it began to work, on the event loop's clock
        self.works_since: float = inf

    # -- what the keeper tells it --------------------------------------------------------------

    def adopt(self, ambient: Context) -> None:
        """Add the context variables of the start to those of the registration, the later value wins.

        :param ambient: the context that the scheduler is started in
        """
        for variable, value in ambient.items():
            if self.context.get(variable) is not value:
                self.context.run(variable.set, value)

    def prepare(self) -> None:
        """Make it ready to `live` once more."""
        self.run = RunInfo(
            self.entry.task_id,
            self.entry.name,
            self._supervisor.services,
            self._ring,
            self.extra,
        )
        self.last_failure = self.failure
        self.failure = self._killed = None
        self.shutdown_failures = ()
        self._reported = 0
        self.initialized = self.over = self.recovering = self.cancelled = False
        self.fatal = True
        self.retired = False
        self.end_asked = self._may_shut_down = self.given_up = self.keep_subscription = False
        self._shutdown_scope = self._cut_short = None
        self._turn_began = self.works_since = inf

    def skip(self) -> None:
        """Note that it will not live, or not again, if it is not living."""
        if self.state in _NOT_BEGUN and self.gone:
            self.over = True
            self.keep_subscription = False
            self.unsubscribe()
            self.move_to(TaskState.STOPPED)

    def subscribe(self) -> None:
        """Take a place in a channel, if it has an event, so that no message is missed from now on.

        :raises InvalidChannelError: if the event has no channel
        """

    def unsubscribe(self) -> None:
        """Give up its place in a channel, if it has one."""

    def pause(self) -> None:
        """Let it finish the message in hand, if it has an event, and end; the rest is kept."""

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

    @property
    def is_ready(self) -> bool:
        """Whether those that depend on it may work."""
        return self.run.is_ready and not self.over

    @property
    def done(self) -> bool:
        """Whether its work is over and no other run follows."""
        return self.over and not self.recovering

    @property
    def comes_back(self) -> bool:
        """Whether it is started again if others with which it is stopped are."""
        if self.recovering:
            return True  # it is to be started anyway
        never = self.policy is not None and self.policy.mode == "never"
        return not never and self.failure is None

    def restart_alone(self, not_before: float) -> None:
        """Have it restart itself: nobody else is stopped or started with it.

        :param not_before: when its next run may begin, in seconds on the event loop's clock
        """
        self.alone = True
        self.not_before = not_before
        self.allow_shutdown()

    def let_go(self) -> None:
        """Count one less of those that are stopping it."""
        self.holders -= 1
        self._ring()

    @property
    def stop_asked(self) -> bool:
        """Whether its end was asked for, so that it is no surprise."""
        return self.end_asked or self.run.stop_asked

    @property
    def heeds_stopping(self) -> bool:
        """Whether it may be waited for, for some time, before it is cancelled."""
        return self.run.stopping is not None and not self.run.resting

    def ask_to_stop(self) -> None:
        """Show that the work is to end, and tell the task if it listens."""
        self.run.ask_to_stop()
        if self.is_working:
            self.move_to(TaskState.STOPPING)

    def let_work(self) -> None:
        """Show that nothing holds the work up any more; it begins when its task gets to run."""
        if self.state is TaskState.READY and all(
            dependency.is_ready or dependency.done for dependency in self.dependencies
        ):
            self.works_since = self.run.last_beat = current_time()
            if not self.entry.metadata.reports_ready:
                self.run.is_ready = True
            self.move_to(TaskState.RUNNING)
            if self.starts > 1:
                self._supervisor.life_is_back(self)

    def end(self) -> None:
        """End the work by cancelling it, wherever it stands."""
        self.end_asked = True
        self._cancel()

    def finish(self) -> None:
        """End the work from within itself: what it is just doing may go on to its next await."""
        self.end()

    def kill(self, why: BaseException) -> None:
        """Cancel the work, as a failure.

        :param why: what the task did wrong
        """
        self._killed = why
        self._cancel()

    def _cancel(self) -> None:
        if self.handle is not None and not self.over:
            self.cancelled = True
            self.handle.cancel()

    def shut_down_after(self, other: Life) -> None:
        """Do not let ``shutdown()`` run before that of another life.

        Several may ask for that; as long as all do so in the order of start, no circle can come.
        """
        other.successors += (self,)
        self.predecessors += 1

    def allow_shutdown(self) -> None:
        """Let ``shutdown()`` run when it is this task's turn."""
        self._may_shut_down = True
        if not self.predecessors:
            self._ring()

    def pass_on(self) -> None:
        """Give the turn to shut down to the next life: this one is gone, or given up."""
        for life in self.successors:
            life.predecessors -= 1
            life.allow_shutdown()
        self.successors = ()

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
        publisher = self._supervisor.task_events
        channel = publisher.channel
        # As `publisher.wanted`, which is asked so often that the call would cost.
        if (channel.receivers or channel.shut) and state is not self.state:
            change = StateChanged(previous=self.state, state=state, **self.identity())
            publisher.publish(change)
        self.state = state
        self._ring()

    async def wait_until(self, true: Callable[[], bool]) -> None:
        """Wait until something holds that only a change of this life can bring about."""
        while not true():
            await self._next_change().wait()

    async def wait_free(self) -> None:
        """Wait until nobody is stopping it any more."""
        await self.wait_until(lambda: not self.holders)

    async def wait_begun(self) -> None:
        """Wait until this run's ``initialize()`` has ended, one way or the other."""
        run = self.run
        await self.wait_until(lambda: self.initialized or self.over or self.run is not run)

    async def wait_initialized(self) -> None:
        """Wait until ``initialize()`` has returned, or the task is done."""
        await self.wait_until(lambda: (self.initialized and not self.over) or self.done)

    async def wait_ready(self) -> None:
        """Wait until those that depend on it may work, or the task is done."""
        await self.wait_until(lambda: self.is_ready or self.done)

    async def wait_over(self) -> None:
        """Wait until the work of the present run has ended."""
        run = self.run
        await self.wait_until(lambda: self.over or self.run is not run)

    async def wait_done(self) -> None:
        """Wait until the work has ended and no other run follows."""
        await self.wait_until(lambda: self.done)

    def has_left(self, run: RunInfo) -> bool:
        """Whether a run of it has come to its end, ``shutdown()`` included."""
        return self.gone or self.run is not run

    async def wait_left(self, run: RunInfo) -> None:
        """Wait until a run of it has come to its end."""
        await self.wait_until(lambda: self.has_left(run))

    async def wait_gone(self) -> None:
        """Wait until `live` has returned."""
        await self.wait_until(lambda: self.gone)

    def _next_change(self) -> Event:
        if self._changed is None:
            self._changed = Event()
        return self._changed

    def _ring(self) -> None:
        """Tell those who wait for a change to look again."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    # -- what it does ------------------------------------------------------------------------

    async def live(self, go: Event, then: Callable[[], None] | None = None) -> None:
        """Live from ``initialize()`` to ``shutdown()``; only a cancellation escapes.

        A life that failed, and nobody else with it, goes on here with its next run.

        :param go: set when all tasks that start together are initialised
        :param then: called when this one is, or never will be: it launches the next
        """
        while True:
            again = False
            current_run.set(self.run)
            try:
                if not self.end_asked:
                    if self.alone:
                        await self._wait_for_restart()
                    await self._initialize()
                    if then is not None:
                        then()
                        then = None
                    if not go.is_set():
                        await go.wait()
                    if self.dependencies:
                        await self._wait_for_dependencies()
                    self.let_work()
                    await self.work()
                if self._killed is not None:
                    self._fail(self._killed)  # it has swallowed the cancellation
            except get_cancelled_exc_class() as error:
                self.cancelled = True
                if self._killed is not None:
                    self._fail(self._killed)
                elif not self.end_asked:
                    self._fail(error)  # by something that is not the scheduler
                raise
            except BaseException as error:  # whatever it is, the keeper is told
                self._fail(error)
            finally:
                self._leave_work()
                if then is not None:
                    then()  # stopped or failed before it was initialised
                    then = None
                if self.initialized:
                    with CancelScope(shield=True) as scope:
                        while self.predecessors or not self._may_shut_down:
                            await self._next_change().wait()
                        self._shutdown_scope = scope
                        self._turn_began = current_time()
                        await self._shut_down(scope)
                    if scope.cancelled_caught:
                        what = self._cut_short or "its shutdown() was cancelled"
                        self.note_shutdown_failure(what, TimeoutError(what))
                self.stuck = False
                again = self.alone and self.recovering
                if not again:
                    self._leave()
            if not again:
                return
            for slip in self.report():
                logger.error("%s", slip, exc_info=slip, extra=self.extra())
            self._supervisor.life_begins_again(self)

    async def _wait_for_restart(self) -> None:
        self.move_to(TaskState.BACKING_OFF)
        await sleep_until(self.not_before)  # a checkpoint at least
        for dependency in self.dependencies:
            await dependency.wait_initialized()
        self.alone = False

    def _leave(self) -> None:
        """Be gone, with nothing left to do in this task of the event loop."""
        self.gone = True
        self.handle = None
        if self.recovering:
            self.move_to(TaskState.BACKING_OFF)
        else:
            self.move_to(TaskState.STOPPED if self.failure is None else TaskState.FAILED)
        self.pass_on()

    async def _initialize(self) -> None:
        self.starts += 1
        self.run.number = self.starts
        self.last_failure = None  # with its traceback, it would keep a whole run alive
        self.move_to(TaskState.INITIALIZING)
        timeout = self.entry.metadata.start_timeout
        with nullcontext() if timeout == inf else fail_after(timeout):
            await self.entry.task.initialize()
        self.initialized = True
        self.move_to(TaskState.READY)

    async def _wait_for_dependencies(self) -> None:
        timeout = self.entry.metadata.start_timeout
        deadline = current_time() + timeout
        for dependency in self.dependencies:
            if not dependency.is_ready:
                with CancelScope(deadline=deadline) as scope:
                    await dependency.wait_ready()
                if scope.cancelled_caught:
                    raise TimeoutError(
                        f"{dependency.title}, on which it depends, was not ready within its"
                        f" start_timeout ({timeout:g} s)"
                    )

    @abstractmethod
    def work(self) -> Awaitable[None]:
        """Do what the task is for, until it has ended or is cancelled."""

    def _fail(self, error: BaseException) -> None:
        """Keep what ended the work, in the words of a task's failure."""
        if isinstance(error, get_cancelled_exc_class()):
            what = "it was cancelled by something other than its scheduler"
        elif not isinstance(error, Exception):
            self.failure = error  # KeyboardInterrupt and its like go out as they are
            return
        elif error is self._killed or (self.initialized and self.works_since == inf):
            what = str(error)
        else:
            what = f"its {self.doing if self.initialized else 'initialize()'} {reason(error)}"
        entry = self.entry
        if self.works_since < inf and (self.run.is_ready or error is not self._killed):
            self.failure = self.execution_error(f" failed: {what}")
        else:
            timeout = entry.metadata.start_timeout
            if isinstance(error, TimeoutError) and not self.initialized and timeout < inf:
                what += f" (start_timeout is {timeout:g} s)"
            self.failure = TaskInitializationError(
                f"{self.title} could not start: {what}", entry.task_id, entry.name
            )
        self.failure.__cause__ = error

    def execution_error(self, what: str) -> TaskExecutionError:
        """Return an error of its work.

        :param what: what happened, to be read after ``task 'web'``
        """
        return TaskExecutionError(f"{self.title}{what}", self.entry.task_id, self.entry.name)

    @property
    @abstractmethod
    def doing(self) -> str:
        """Which hook does the work, for messages."""

    def _leave_work(self) -> None:
        self.over = True
        if self.failure is not None:
            self.move_to(TaskState.FAILED)
        elif self.stop_asked or not self.initialized:
            self.move_to(TaskState.STOPPING)
        else:
            self.move_to(TaskState.COMPLETED)
        self._supervisor.life_ended(self)
        self.release()

    def release(self) -> None:
        """Let go of what the work needed and ``shutdown()`` and the next run do not."""

    async def _shut_down(self, scope: CancelScope) -> None:
        if self._cut_short is not None:
            scope.cancel()
        try:
            await self.entry.task.shutdown()
        except get_cancelled_exc_class():
            raise
        except BaseException as error:
            self.note_shutdown_failure(f"its shutdown() {reason(error)}", error)

    def note_shutdown_failure(self, what: str, cause: BaseException) -> TaskShutdownError:
        """Keep what went wrong after the work, to be reported with the others'."""
        entry = self.entry
        error = TaskShutdownError(
            f"{self.title} did not shut down well: {what}", entry.task_id, entry.name
        )
        error.__cause__ = cause
        self.shutdown_failures += (error,)
        return error

    def note_stuck(self, what: str, cause: BaseException) -> TaskShutdownError:
        """Keep that it does not end, and say in the log where it stands."""
        self.stuck = True
        error = self.note_shutdown_failure(what, cause)
        stack = self.where()
        error.add_note(f"It stands here:\n{stack}")
        logger.warning("%s. It stands here:\n%s", error, stack, extra=self.extra(stack=stack))
        return error

    def report(self) -> tuple[TaskShutdownError, ...]:
        """Return what went wrong after the work, each error once."""
        new = self.shutdown_failures[self._reported :]
        self._reported += len(new)
        return new

    # -- how it stands -------------------------------------------------------------------------

    def identity(self) -> dict[str, Any]:
        """The fields that every event about it has."""
        return {
            "task_id": self.entry.task_id,
            "task_name": self.entry.name,
            "group": self.group,
            "time": current_time(),
        }

    def extra(self, **more: object) -> dict[str, object]:
        """What a log record about it carries beside the text."""
        return {
            "task_id": str(self.entry.task_id),
            "task_name": self.entry.name,
            "task_group": self.group,
            "task_state": self.state.value,
            "task_run": self.run.number,
            **more,
        }

    @property
    def group(self) -> str | None:
        """The group it is in, after those around it; `None` for a task of the scheduler itself."""
        return None if self.parent is None else self.parent.path

    def where(self) -> str:
        """Say which line of which function it awaits, outermost first, as a traceback does."""
        return "" if self.handle is None else task_stack(self.handle.coro, without=__file__)

    def last_beat(self) -> float:
        """When it last showed that it is alive, on the event loop's clock."""
        return self.run.last_beat

    def snapshot(self) -> TaskSnapshot:
        """Return how the task stands now."""
        return TaskSnapshot(**self.facts())

    def facts(self) -> dict[str, Any]:
        """The fields of the snapshot."""
        error = self.failure or next(iter(self.shutdown_failures), None)
        if self.state is TaskState.BACKING_OFF:
            error = error or self.last_failure
        return {
            "task_id": self.entry.task_id,
            "name": self.entry.name,
            "kind": self.entry.kind,
            "group": self.group,
            "state": self.state,
            "metadata": self.entry.metadata,
            "ready": self.is_ready,
            "stuck": self.stuck,
            "restarts": max(0, self.starts - 1),
            "error": None if error is None else str(error) or repr(error),
        }


def reason(error: BaseException) -> str:
    """Say what was raised, for the middle of a sentence."""
    return f"raised {type(error).__name__}: {error}"
