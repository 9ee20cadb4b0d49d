"""`Run`: one attempt of a task, from its first wait to the end of ``shutdown()``.

A run is made anew each time and never used twice. It is one task of the event loop, in a cancel
scope of its own that nobody but this module cancels:

    PENDING ─▶ INITIALIZING ─▶ INITIALIZED ─▶ WORKING ─▶ STOPPING ─▶ SHUTTING_DOWN ─▶ ENDED
       │              │              ╰────── no work ───────▲                           ▲
       ╰──────────────╰──────────── nothing to shut down ───────────────────────────────╯

It goes through its phases by itself, does what it is told (`ask`, `cancel`, `fail`), and says
what became of it. What that means for others is its supervisor's to decide. Whatever a hook raises
ends here: no exception, and no cancellation, leaves the task of the event loop.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from datetime import datetime, timedelta
from math import inf
from typing import Final, final

from anyio import (
    CancelScope,
    TaskHandle,
    current_time,
    get_cancelled_exc_class,
    sleep_until,
)
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from .._broadcast.backpressure import Waits, current_sender
from .._broadcast.hand import current_hand
from .._model._loops.wakeup import Bell
from .._model.errors import TaskExecutionError, TaskInitializationError, TaskShutdownError
from .._model.log import logger
from .._model.tracebacks import trim, users_line
from .._tasks.context import RunInfo, Services, current_run
from .._tasks.failures import error_in, raised, within
from .._tasks.task import Task
from .host import Host, Startup
from .phase_log import is_told, tell
from .phases import NEXT, Outcome, Phase
from .stack import task_stack

__all__ = ["FORCED", "Run"]

#: Why a ``shutdown()`` was cut short when everything was told to stop at once.
FORCED: Final = "its shutdown() was cut short by a second request to stop"


_PAST_START: Final = (Phase.INITIALIZED, Phase.WORKING)


@final
class Run:
    """One run of a task."""

    # Ten thousand runs are not unusual, and their dicts would make up half of their memory.
    __slots__ = (
        "_begun",
        "_doom",
        "_handle",
        "_not_before",
        "_reported",
        "_shutdown_scope",
        "_startup",
        "_take_turn",
        "_turn",
        "_why_cut",
        "cancel_asked",
        "failure",
        "failure_before",
        "host",
        "info",
        "is_restart",
        "logged",
        "outcome",
        "phase",
        "retry_at",
        "shutdown_errors",
        "since",
        "spares_others",
        "started_at",
        "waiters",
        "works_since",
    )

    def __init__(
        self,
        host: Host,
        services: Services,
        startup: Startup,
        take_turn: Callable[[Run], bool],
        *,
        not_before: float = 0.0,
        begun: Callable[[], None] | None = None,
        is_restart: bool = False,
        failure_before: BaseException | None = None,
    ) -> None:
        """Make a run.

        :param host: the worker
        :param services: what all tasks share
        :param startup: the start of all tasks, in which nobody works before all are initialised
        :param take_turn: returns whether it is the turn of a run to shut down
        :param not_before: when it may begin, in seconds on the event loop's clock
        :param begun: called when it is initialised, or never will be: it lets the next one begin
        :param is_restart: whether it follows another one
        :param failure_before: what ended the run before this one
        """
        entry = host.entry
        #: the worker that it is a run of
        self.host: Host = host
        self._startup = startup
        self._take_turn = take_turn
        self._not_before = not_before
        self._begun = begun
        #: what the task sees of it
        self.info: RunInfo = RunInfo(
            entry.task_id, entry.name, services, host, bool(entry.metadata.depends_on)
        )
        self.phase: Phase = Phase.PENDING
        self.outcome: Outcome | None = None
        #: what ended the work, if something went wrong
        self.failure: BaseException | None = None
        self.is_restart: bool = is_restart
        self.failure_before: BaseException | None = failure_before
        #: what went wrong after the work
        self.shutdown_errors: tuple[TaskShutdownError, ...] = ()
        #: those of them that are in the log
        self.logged: tuple[TaskShutdownError, ...] = ()
        self._reported = 0  # how many of them have been told
        #: how many wait for its end, and raise what goes wrong
        self.waiters: int = 0
        #: whether its cancellation was asked for; any other cancellation is a failure
        self.cancel_asked: bool = False
        #: whether its failure concerns nobody else, as ``on_error="stop"`` says
        self.spares_others: bool = False
        #: when it began to work, in seconds on the event loop's clock
        self.works_since: float = inf
        #: the same in UTC
        self.started_at: datetime | None = None
        #: when it may begin, in UTC, while it waits for that
        self.retry_at: datetime | None = None
        if not_before:
            self.retry_at = _later(services.wall_clock(), not_before - current_time())
        #: since when it does what it does, on the same clock; `None` if nobody is told of it
        self.since: float | None = inf if is_told(logging.INFO) else None
        self._handle: TaskHandle[None] | None = None  # the task of the event loop that it is
        self._doom: Exception | None = None  # why it was cancelled, if that is a failure
        self._turn: Bell | None = None  # set when it may be its turn to shut down
        self._shutdown_scope: CancelScope | TaskHandle[None] | None = None
        self._why_cut: str | None = None  # why shutdown() may not finish

    # -- how it stands -------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether its work has come to its end, or nobody waits for that any more."""
        return self.outcome is not None

    @property
    def is_down(self) -> bool:
        """Whether all of it has come to its end, or nobody waits for that any more."""
        return self.phase is Phase.ENDED or self.outcome is Outcome.ABANDONED

    @property
    def is_working(self) -> bool:
        """Whether it is past its start, and its work is not over."""
        return self.phase is Phase.WORKING and self.outcome is None

    @property
    def came_to_work(self) -> bool:
        """Whether its work has begun, be it over or not."""
        return self.works_since < inf

    @property
    def is_initialized(self) -> bool:
        """Whether ``initialize()`` has returned and the work is not over."""
        return self.outcome is None and self.phase in _PAST_START

    @property
    def is_stuck(self) -> bool:
        """Whether it ignores its cancellation."""
        return self.outcome is Outcome.ABANDONED and self.phase is not Phase.ENDED

    @property
    def listens(self) -> bool:
        """Whether the task hears of a stop, so that it may end by itself."""
        may_hear = self.phase in (Phase.INITIALIZING, Phase.WORKING)
        return may_hear and self.info.stopping is not None and not self.info.resting

    @property
    def is_cut_short(self) -> bool:
        """Whether ``shutdown()`` may not finish."""
        return self._why_cut is not None

    @property
    def stop_asked(self) -> bool:
        """Whether its end was asked for, so that it is no surprise."""
        return self.cancel_asked or self.info.stop_asked

    @property
    def has_hook(self) -> bool:
        """Whether the task has a ``shutdown()`` of its own: a plain function has none."""
        return getattr(self.host.entry.task.shutdown, "__func__", None) is not Task.shutdown

    @property
    def hook(self) -> str:
        """Which hook it is in, if it is in one."""
        if self.phase is Phase.WORKING:
            return self.host.doing
        return "shutdown()" if self.phase is Phase.SHUTTING_DOWN else "initialize()"

    @property
    def waits(self) -> Waits:
        """Where it is noted while it waits for room in a channel."""
        return self.info.services.waits

    @property
    def coroutine(self) -> object:
        """What it is to the event loop; `None` before and after that."""
        return None if self._handle is None else self._handle.coro

    @property
    def waits_for_turn(self) -> bool:
        """Whether all that it has to do yet is to shut down, when it may."""
        return self.phase is Phase.STOPPING and self._turn is not None

    @property
    def waits_for_others(self) -> bool:
        """Whether it is initialised, and those that start with it are not."""
        return self.phase is Phase.INITIALIZED and self._startup.is_on

    async def wait_over(self) -> None:
        """Wait until `is_over` holds."""
        while self.outcome is None:
            await self.host.changed.wait()

    async def wait_down(self) -> None:
        """Wait until `is_down` holds."""
        while not self.is_down:
            await self.host.changed.wait()

    async def wait_ended(self) -> None:
        """Wait until nothing is left of it, however long that takes."""
        while self.phase is not Phase.ENDED:
            await self.host.changed.wait()

    def where(self) -> str:
        """Say which line of which function it awaits, outermost first, as a traceback does."""
        return "" if self._handle is None else task_stack(self._handle.coro, without=__file__)

    # -- what it is told -----------------------------------------------------------------------

    def start(self, tasks: TaskGroup, context: Context) -> None:
        """Begin, as a task of the event loop.

        :param tasks: the group that owns it
        :param context: the context variables; it gets a copy, so the next run does not see what it
            sets
        """
        name = self.host.entry.name
        self._handle = tasks.create_task(self._run(), name=name, context=context)

    def ask(self) -> None:
        """Show that the work is to end, and tell the task if it listens."""
        if self.since is not None and not self.stop_asked and self.outcome is None:
            self.since = current_time()
        self.info.ask_to_stop()
        self.host.tell()

    def cancel(self) -> None:
        """End the work, wherever it stands."""
        if self.outcome is None and not self.cancel_asked:
            self.cancel_asked = True
            if self.since is not None:
                self.since = current_time()
            self.host.tell()
            assert self._handle is not None
            self._handle.cancel()

    def fail(self, why: Exception) -> None:
        """Cancel the work, as a failure.

        :param why: what the task did wrong
        """
        if self.outcome is None and not self.cancel_asked:
            self._doom = why
            self.cancel()

    def look_at_turn(self) -> None:
        """Have it ask whether it is its turn to shut down, if it waits for that."""
        if self._turn is not None:
            self._turn.set()

    def cancel_shutdown(self, why: str) -> None:
        """Cancel ``shutdown()`` at its next checkpoint.

        :param why: what happened to it, for the error
        """
        if self._why_cut is None:
            self._why_cut = why
            if self._shutdown_scope is not None:
                self._shutdown_scope.cancel()

    def abandon(self, what: str, deadline: str) -> None:
        """Wait no longer for one that ignores its cancellation, and say in the log where it stands.

        :param what: what it does, for the error
        :param deadline: the option whose time is up
        """
        was_abandoned = self.outcome is Outcome.ABANDONED  # and has come as far as its shutdown()
        self.outcome = Outcome.ABANDONED
        error = self._note(what, TimeoutError(deadline))
        self.logged += (error,)
        stack = self.where()
        error.add_note(f"It stands here:\n{stack}")
        logger.warning("%s. It stands here:\n%s", error, stack, extra=self.host.extra(stack=stack))
        if not was_abandoned:
            self.host.tell()
            self.host.run_abandoned()
            self._tell_begun()  # those that begin after it wait no more

    def expect_report(self) -> None:
        """Count one more that waits for it, and raises what went wrong."""
        self.waiters += 1

    def expect_report_no_more(self) -> None:
        """Count one less."""
        self.waiters -= 1

    def report(self) -> tuple[TaskShutdownError, ...]:
        """Return what went wrong after the work, each error once."""
        errors = self.shutdown_errors[self._reported :]
        self._reported += len(errors)
        return errors

    # -- what it does --------------------------------------------------------------------------

    async def _run(self) -> None:
        """Go through all phases, and come to the end whatever breaks out.

        That is what no task may do: leave a cancel scope open, say. All others end by it too.
        """
        current_run.set(self.info)
        current_sender.set(self)
        if current_hand.get() is not None:  # it was registered by a handler
            current_hand.set(None)
        try:
            try:
                if not self.cancel_asked:
                    await self._begin()
                    if self.phase is Phase.WORKING:
                        await self.host.work()
                if self._doom is not None:
                    raise self._doom  # it has swallowed the cancellation
            except BaseException as error:  # whatever it is, the supervisor is told
                self._fail(error)
                await self._hear_cancellation()
            self._end_work()
            # Nothing has cancelled its own scope: another one is a third of all that is done here.
            if self.phase is Phase.STOPPING and not self.cancel_asked:
                await self._shut_down(self._handle)
            if self.phase is Phase.STOPPING:  # or something has cancelled all of them together
                with CancelScope(shield=True) as scope:
                    await self._shut_down(scope)
            self._enter(Phase.ENDED)
        finally:
            if self.phase is not Phase.ENDED:  # a hook has left a scope open, say: it breaks out
                self.phase = Phase.ENDED
                self.outcome = self.outcome or Outcome.FAILED
                self.host.tell()
            self._shutdown_scope = self._handle = self._turn = None
            self._report(self.host.run_ended)

    async def _hear_cancellation(self) -> None:
        """Let a cancellation come here that a failing hook has asked for in its last step.

        On asyncio it would come when the run has ended, and be one of all runs.
        """
        if not self.cancel_asked and self.info.services.cancellations():
            with suppress(get_cancelled_exc_class()), CancelScope(shield=True):
                await checkpoint()

    async def _begin(self) -> None:
        """Come as far as the work."""
        metadata = self.host.entry.metadata
        if self._not_before:
            await sleep_until(self._not_before)
            self.retry_at = None
        if metadata.depends_on:
            if self.since is not None:
                self.since = current_time()
            await self.host.wait_for_dependencies()
        if self.cancel_asked:
            await checkpoint_if_cancelled()  # what it waited for has come of a stop, its own too
        self.failure_before = None  # with its traceback, it would keep a whole run alive
        self.info.begin(self.host.run_initializes())
        self._enter(Phase.INITIALIZING)
        if metadata.start_timeout == inf:
            await self.host.entry.task.initialize()
        else:
            await within(metadata.start_timeout, "start_timeout", self.host.entry.task.initialize)
        self._enter(Phase.INITIALIZED)
        self._tell_begun()
        while self._startup.is_on and not self.info.stop_asked:
            await self._startup.over.wait()
        if self.info.stop_asked:
            return
        if self.phase is Phase.INITIALIZED:  # not let work with those that start together
            if not self.host.are_dependencies_ready():
                await self.host.wait_until_dependencies_are_ready()
            if self.cancel_asked:
                await checkpoint_if_cancelled()  # the other thing that came was its end
            self.begin_work(current_time())

    def begin_work(self, now: float) -> None:
        """Show that nothing holds the work up any more; it begins when its task gets to run.

        :param now: the present, in seconds on the event loop's clock
        """
        asked = self.info.stop_asked  # in initialize(), which did not mind
        if self.phase is Phase.INITIALIZED and not asked and self.host.are_dependencies_ready():
            self.works_since = now
            self.started_at = self.info.services.wall_clock()
            self.info.beat(now)
            self._enter(Phase.WORKING)
            self.host.run_works()
            if not self.host.entry.metadata.reports_ready:
                self.info.become_ready()

    def _tell_begun(self) -> None:
        begun, self._begun = self._begun, None
        if begun is not None:
            begun()

    def _enter(self, phase: Phase) -> None:
        before = self.phase
        assert phase in NEXT[before], f"{self.host.title}: {phase} after {before}"
        self.phase = phase
        if self.since is not None:
            outcome, worked = self.outcome, self.works_since
            errors = len(self.shutdown_errors) - (outcome is Outcome.ABANDONED)
            self.since = tell(self.host, before, phase, outcome, self.since, worked, errors)
        if phase is not Phase.SHUTTING_DOWN:  # which shows nowhere
            self.host.tell()

    def _end_work(self) -> None:
        if self.outcome is None:  # not abandoned meanwhile
            if self.failure is not None:
                self.outcome = Outcome.FAILED
            else:
                self.outcome = Outcome.STOPPED if self.stop_asked else Outcome.RETURNED
        if self.phase in _PAST_START:  # so a shutdown() is owed
            self._enter(Phase.STOPPING)
        else:
            self.host.tell()
        self._report(self.host.work_ended)
        self._tell_begun()  # stopped or failed before it was initialised

    def _report(self, tell: Callable[[], None]) -> None:
        """Tell the supervisor; what comes of that may call what users have given, which may raise."""
        try:
            tell()
        except BaseException as error:
            self.host.process_ends(error)

    async def _shut_down(self, scope: CancelScope | TaskHandle[None] | None) -> None:
        """Shut down when it is its turn; do nothing if that is cancelled before.

        :param scope: what it runs in, not cancelled yet
        """
        while not self._take_turn(self):
            self._turn = self.info.services.new_bell()
            try:
                await self._turn.wait()
            except get_cancelled_exc_class() as error:
                if error_in(error) is None:
                    return  # a scope around it was cancelled, and would be again and again
                # It must not leave this task: all others would be cancelled.
                logger.warning(
                    "%s was cancelled by something other than its scheduler when its work was over",
                    self.host.title,
                    extra=self.host.extra(),
                )
        self._enter(Phase.SHUTTING_DOWN)
        if not self.has_hook:
            return
        self._shutdown_scope = scope
        if self._why_cut is not None and scope is not None:
            scope.cancel()
        cancellations = self.info.services.cancellations
        before = cancellations()
        try:
            await self.host.entry.task.shutdown()
            if cancellations() > before:
                await checkpoint()  # it comes now, and not when the run has ended
        except BaseException as error:
            self._shutdown_failed(error)

    def _shutdown_failed(self, raised_error: BaseException) -> None:
        """Keep what went wrong in ``shutdown()``."""
        errors = self.shutdown_errors
        try:
            self._explain_shutdown(raised_error)
        except BaseException as trouble:
            self.shutdown_errors = errors
            self._note(self._unexplained(trouble), RuntimeError(type(trouble).__name__))
            if not isinstance(trouble, Exception):
                self.host.process_ends(trouble)

    def _explain_shutdown(self, raised_error: BaseException) -> None:
        error = error_in(raised_error)
        if error is None:
            why = self._why_cut or "its shutdown() was cancelled: another task broke out"
            self._note(why, TimeoutError(why).with_traceback(users_line(raised_error)))
        elif isinstance(error, Exception):
            self._note(f"its shutdown() {raised(error)}", error)
        else:
            self.host.process_ends(error)

    def _note(self, what: str, cause: BaseException) -> TaskShutdownError:
        """Keep what went wrong after the work, to be told with the others'."""
        entry = self.host.entry
        error = TaskShutdownError(
            f"{self.host.title} did not shut down well: {what}", entry.task_id, entry.name
        )
        error.__cause__ = cause
        trim(cause)
        self.shutdown_errors += (error,)
        return error

    def _fail(self, raised_error: BaseException) -> None:
        """Keep what ended the work."""
        try:
            self._explain(raised_error)
        except BaseException as trouble:
            what, entry = self._unexplained(trouble), self.host.entry
            self.failure = TaskExecutionError(
                f"{self.host.title} failed: {what}", entry.task_id, entry.name
            )
            if not isinstance(trouble, Exception):
                self.failure = trouble

    def _unexplained(self, trouble: BaseException) -> str:
        """Say what is known of an error that raises itself when it is looked into."""
        what = f"an error that raises {type(trouble).__name__} itself when it is looked into"
        return f"its {self.hook} raised {what}"

    def _explain(self, raised_error: BaseException) -> None:
        """Keep what ended the work, in the words of a task's failure."""
        doom = self._doom
        error = doom if raised_error is doom else error_in(raised_error)
        if error is not None and not isinstance(error, Exception):
            self.failure = error  # SystemExit and its like go out as they are
            return
        cause = error
        if doom is not None:
            # Where it stood when it was cancelled for that; it may have been raised here.
            doom.__traceback__ = users_line(raised_error) if error is None else None
            if error is not None and error is not doom:
                what = "it was cancelled for what it did, and its clean-up failed"
                cause = ExceptionGroup(what, [doom, error])
            else:
                cause = doom
            error = doom
        if error is None or (cause is doom and self.outcome is Outcome.ABANDONED):
            return  # that was told when it was abandoned
        host = self.host
        entry = host.entry
        if error is doom or self.phase in (Phase.PENDING, Phase.INITIALIZED):
            what = str(error)  # said here, and not by the task
        else:
            what = f"its {self.hook} {raised(error)}"
        if self.phase is Phase.WORKING and (self.info.is_ready or error is not doom):
            failure: TaskExecutionError | TaskInitializationError = TaskExecutionError(
                f"{host.title} failed: {what}", entry.task_id, entry.name
            )
        else:
            failure = TaskInitializationError(
                f"{host.title} could not start: {what}", entry.task_id, entry.name
            )
        failure.__cause__ = cause
        trim(failure)
        self.failure = failure


def _later(now: datetime, seconds: float) -> datetime:
    try:
        return now + timedelta(seconds=seconds)
    except OverflowError:  # a policy may have anybody wait for ever
        return datetime.max.replace(tzinfo=now.tzinfo)
