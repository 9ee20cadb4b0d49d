"""`Worker`: what the supervisor has for each task, for as long as the task is registered.

It knows what is *wanted* of its task, and has a `Run` for what is: whoever gives a command, and
whatever policy decides, does nothing but say what is wanted. What follows from both is the
supervisor's to do.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable
from contextvars import Context, copy_context
from datetime import datetime
from math import inf
from typing import Any, Final, Protocol

from anyio import CancelScope, current_time, sleep_forever

from .._broadcast.backpressure import Waits
from .._broadcast.channel import Channel
from .._broadcast.pool import Pool
from .._model._loops.wakeup import Wakeup
from .._model.errors import LifecycleError, SchedulerError, TaskExecutionError
from .._model.log import logger
from .._model.snapshots import TaskKind, TaskSnapshot, TaskState
from .._model.tracebacks import Repeats
from .._model.words import counted, in_seconds, in_words
from .._tasks.context import Services
from .._tasks.events import DeadLetter, Publisher, StateChanged, TaskEvent
from .._tasks.registry import RegisteredTask
from .._tasks.tally import Tally
from .host import Startup
from .phases import BEFORE_OUTCOME, Outcome, Phase
from .run import Run
from .tree import Branch, Node
from .waiting import what_holds_up
from .wanted import ENDS, MAY_FOLLOW, WITHOUT_RUN, Wanted

__all__ = ["Supervision", "Worker"]

#: How many restarts of one task in each window are in the log by themselves; see `Tally`.
_RESTARTS: Final = 10


class Supervision(Protocol):
    """Whom a worker tells what became of it, and what it has from there."""

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

    @property
    def take_turn(self) -> Callable[[Run], bool]:
        """Returns whether it is the turn of a run to shut down; then it does so at once."""
        ...

    def dependencies_of(self, worker: Worker) -> Iterable[Worker]:
        """Return what a task depends on, as the names stand now."""
        ...

    def work_began(self, worker: Worker) -> None:
        """Hear that the work of a run begins."""

    def became_ready(self, worker: Worker) -> None:
        """Hear that a task is ready, so that those that depend on it may work."""

    def work_ended(self, worker: Worker, run: Run) -> None:
        """Hear that the work of a run has ended, and decide what that means."""

    def run_ended(self, worker: Worker, run: Run) -> None:
        """Hear that nothing is left of a run, and decide what that means."""

    def run_abandoned(self, worker: Worker, run: Run) -> None:
        """Hear that a task ignores its cancellation, and decide what that means."""

    def end_the_run(self, failure: BaseException) -> None:
        """Stop everything, and raise this to whoever waits for the run."""


class Worker(Node, ABC):
    """One registered task, and what is wanted of it."""

    # Ten thousand workers are not unusual, and their dicts would make up half of their memory.
    __slots__ = (
        "_changed",
        "_repeats",
        "_restarts_told",
        "_told",
        "context",
        "entry",
        "is_gone",
        "kind",
        "last_error",
        "number",
        "rank",
        "run",
        "runs",
        "supervision",
        "wanted",
    )

    def __init__(self, entry: RegisteredTask, parent: Branch, supervision: Supervision) -> None:
        metadata = entry.metadata
        super().__init__(f"task {entry.name!r}", parent, metadata.policy, metadata.significant)
        self.entry: RegisteredTask = entry
        self.kind: TaskKind = entry.kind
        self.supervision: Supervision = supervision
        self.wanted: Wanted = Wanted.RUN
        #: the run it is in, or was in last
        self.run: Run | None = None
        #: how many runs have come to ``initialize()``
        self.runs: int = 0
        #: its place among all tasks: in the order of registration
        self.number: int = 0
        #: its place in the order of start, in which those it depends on come before it
        self.rank: int = 0
        self._changed: Wakeup | None = None
        #: whether it has been removed
        self.is_gone: bool = False
        #: the context variables that every run of it begins with
        self.context: Context = copy_context()
        #: what went wrong last, in words, and when, in UTC
        self.last_error: tuple[str, datetime] | None = None
        self._repeats: Repeats | None = None
        self._restarts_told: Tally | None = None
        self._told = TaskState.REGISTERED  # how it stood when that was told last

    # -- what is wanted ------------------------------------------------------------------------

    def want(self, wanted: Wanted) -> None:
        """Say what is to become of the task from now on."""
        assert wanted in MAY_FOLLOW[self.wanted], f"{self.title}: {wanted} after {self.wanted}"
        comes_no_more = self.wanted is Wanted.RESTART and wanted in ENDS
        if comes_no_more and self.run is not None and self.run.phase is Phase.ENDED:
            self.run = None  # what ended it was to be mended by the run that will not come
        self.wanted = wanted
        if self._restarts_told is not None and wanted in ENDS:
            self._restarts_told.settle()
        self.update_subscription()
        self.tell()

    def enrol(self, number: int) -> None:
        """Give it its place in the order of registration."""
        self.number = number

    def put_at(self, rank: int) -> None:
        """Give it its place in the order of start."""
        self.rank = rank

    def adopt(self, ambient: Context) -> None:
        """Add the context variables of the start to those of the registration, the later value wins.

        :param ambient: the context that the scheduler is started in
        """
        for variable, value in ambient.items():
            if self.context.get(variable) is not value:
                self.context.run(variable.set, value)

    def be_gone(self) -> None:
        """Note that it has been removed."""
        self.leave()
        self.is_gone = True
        if self.wanted is not Wanted.REMOVE:
            self.want(Wanted.REMOVE)
        self.changed.notify_all()

    def new_run(self, startup: Startup, not_before: float, begun: Callable[[], None] | None) -> Run:
        """Make the next run; there must be none that has not ended.

        :param startup: the start of all tasks
        :param not_before: when it may begin, in seconds on the event loop's clock
        :param begun: called when it is initialised, or never will be
        """
        before = None if self.run is None else self.run.failure
        assert self.run is None or self.run.phase is Phase.ENDED, f"{self.title} runs already"
        self.run = Run(
            self,
            self.supervision.services,
            startup,
            self.supervision.take_turn,
            not_before=not_before,
            begun=begun,
            is_restart=self.wanted is Wanted.RESTART,
            failure_before=before,
        )
        return self.run

    # -- how it stands -------------------------------------------------------------------------

    @property
    def state(self) -> TaskState:
        """How it stands, for users: it follows from what is wanted and how far its run is."""
        run = self.run
        if run is None:
            return WITHOUT_RUN[self.wanted]
        if run.outcome is None:
            if run.is_restart and run.phase is Phase.PENDING:
                return TaskState.BACKING_OFF
            if run.stop_asked and run.phase is Phase.WORKING:
                return TaskState.STOPPING
            return BEFORE_OUTCOME[run.phase]
        if run.phase is Phase.ENDED:
            if self.wanted is Wanted.RESTART:
                return TaskState.BACKING_OFF
            return TaskState.STOPPED if run.failure is None else TaskState.FAILED
        if run.failure is not None:
            return TaskState.FAILED
        return TaskState.COMPLETED if run.outcome is Outcome.RETURNED else TaskState.STOPPING

    @property
    def is_done(self) -> bool:
        """Whether its work is over, or never began, and no other run follows."""
        run = self.run
        if run is not None:
            return run.outcome is not None and self.wanted is not Wanted.RESTART
        return self.wanted in ENDS

    @property
    def is_down(self) -> bool:
        """Whether nothing of it runs, or nobody waits for that any more."""
        return self.run is None or self.run.is_down

    @property
    def is_ready(self) -> bool:
        """Whether those that depend on it may work."""
        run = self.run
        return run is not None and run.outcome is None and run.info.is_ready

    @property
    def waits(self) -> Waits:
        """Where it is noted while its work waits for room in a channel; see `Sender`."""
        return self.supervision.services.waits

    @property
    def is_fit(self) -> bool:
        """Whether it is ready, and nothing keeps it from its work for good."""
        return self.is_ready and self not in self.waits.deadlocked

    @property
    def failed_to_start(self) -> bool:
        """Whether it has failed for good before those that depend on it might work."""
        run = self.run
        return (
            self.is_done and run is not None and run.failure is not None and not run.info.is_ready
        )

    @property
    def comes_back(self) -> bool:
        """Whether it is started again if others with which it is stopped are."""
        if self.wanted is Wanted.RESTART:
            return True  # it is to be started anyway
        never = self.policy is not None and self.policy.mode == "never"
        return not never and self.run is not None and self.run.failure is None

    @property
    def up_since(self) -> float:
        """When its work began, in seconds on the event loop's clock; infinity if it did not."""
        return inf if self.run is None else self.run.works_since

    @property
    def repeats(self) -> Repeats:
        """The errors that the log has told of: the same are counted, and not told again."""
        if self._repeats is None:  # most never fail
            self._repeats = Repeats()
        return self._repeats

    @property
    def restarts_told(self) -> Tally:
        """Which of its restarts are in the log by themselves."""
        if self._restarts_told is None:
            self._restarts_told = Tally(_RESTARTS, self._tell_restarts)
        return self._restarts_told

    def _tell_restarts(self, times: int, _: int) -> None:
        failed = "" if self.last_error is None else f"; the last error: {self.last_error[0]}"
        logger.log(
            logging.WARNING if failed else logging.INFO,
            "%s restarted %s more%s",
            self.title,
            counted(times, "times"),
            failed,
            extra=self.extra(restarts=times),
        )

    @property
    def changed(self) -> Wakeup:
        """Where those wait who want to know when anything about it has changed."""
        if self._changed is None:  # most are never waited for
            self._changed = Wakeup()
        return self._changed

    async def wait_until(self, true: Callable[[], bool]) -> None:
        """Wait until something holds that only a change of this worker can bring about."""
        while not true():
            await self.changed.wait()

    # -- what it depends on --------------------------------------------------------------------

    async def wait_for_dependencies(self) -> None:
        """Wait until all that it depends on is initialised.

        :raises TimeoutError: if that takes longer than ``start_timeout``
        :raises LifecycleError: if one of them has failed before it was ready
        """
        await self._wait_for(lambda one: one.run is not None and one.run.is_initialized)

    async def wait_until_dependencies_are_ready(self) -> None:
        """Wait until all that it depends on is ready; see `wait_for_dependencies`."""
        await self._wait_for(lambda one: one.is_ready)

    def are_dependencies_ready(self) -> bool:
        """Whether it need not wait for that."""
        if not self.entry.metadata.depends_on:
            return True
        return all(
            one.is_ready or (one.is_done and not one.failed_to_start)
            for one in self.supervision.dependencies_of(self)
        )

    async def _wait_for(self, holds: Callable[[Worker], bool]) -> None:
        timeout = self.entry.metadata.start_timeout
        waiting_for = ""
        with CancelScope(deadline=inf if timeout == inf else current_time() + timeout) as scope:
            has_waited = True
            while has_waited:  # meanwhile, another may have got the name
                has_waited = False
                for one in self.supervision.dependencies_of(self):
                    waiting_for = one.title
                    while not (holds(one) or one.is_done or one.is_gone):
                        has_waited = True
                        await one.changed.wait()
                    if one.failed_to_start and self.wanted is not Wanted.RUN:
                        await sleep_forever()  # its own end is under way
                    if one.failed_to_start:
                        raise LifecycleError(
                            f"{one.title}, on which it depends, failed before it was ready"
                        )
        if scope.cancelled_caught:
            if self.wanted is not Wanted.RUN:
                await sleep_forever()  # likewise
            raise TimeoutError(
                f"{waiting_for}, on which it depends, was not ready within the start_timeout"
                f" ({in_seconds(timeout)}) of {self.title}"
            )

    # -- what its run tells --------------------------------------------------------------------

    def run_initializes(self) -> int:
        """Count one more run, and return its number."""
        self.runs += 1
        return self.runs

    def run_works(self) -> None:
        """Pass on that the work begins."""
        self.supervision.work_began(self)

    def run_is_ready(self) -> None:
        """Pass on that it is ready."""
        if self._changed is not None:
            self._changed.notify_all()
        self.supervision.became_ready(self)

    def work_ended(self) -> None:
        """Pass on that the work has ended, and let go of what it needed."""
        assert self.run is not None
        if self.run.failure is not None:
            self.note_error(self.run.failure)
        self.release(self.run)
        self.supervision.work_ended(self, self.run)
        self.update_subscription()

    def run_ended(self) -> None:
        """Pass on that nothing is left of a run."""
        assert self.run is not None
        if self.run.shutdown_errors:
            self.note_error(self.run.shutdown_errors[-1])
        self.supervision.run_ended(self, self.run)

    def run_abandoned(self) -> None:
        """Pass on that it ignores its cancellation."""
        assert self.run is not None
        self.note_error(self.run.shutdown_errors[-1])
        self.update_subscription()
        self.supervision.run_abandoned(self, self.run)

    def process_ends(self, error: BaseException) -> None:
        """Pass on that the process is to end."""
        self.supervision.end_the_run(error)

    def tell(self) -> None:
        """Tell those who wait that something has changed, and publish what users see of it."""
        if self._changed is not None:
            self._changed.notify_all()
        state = self.state
        if state is not self._told:
            publisher = self.supervision.task_events
            channel = publisher.channel
            # As `publisher.wanted`, which is asked so often that the call would cost.
            if channel.receivers or channel.shut:
                publisher.publish(StateChanged(previous=self._told, state=state, **self.identity()))
            self._told = state

    # -- what it does --------------------------------------------------------------------------

    @abstractmethod
    def work(self) -> Awaitable[None]:
        """Do what the task is for, until it has ended or is cancelled."""

    @property
    @abstractmethod
    def doing(self) -> str:
        """Which hook does the work, for messages."""

    def subscribe(self) -> None:
        """Take a place in a channel, if it has an event, so that no message is missed from now on.

        :raises InvalidChannelError: if the event has no channel
        """

    def unsubscribe(self) -> None:
        """Give up its place in a channel, if it has one."""

    def update_subscription(self) -> None:
        """Give up its place in a channel if nobody works there, nor will.

        A message in hand, and what was published before the work ended, are for the next run.
        """
        over = self.run.is_over if self.run is not None else self.wanted is not Wanted.RUN
        if over and self.wanted is not Wanted.RESTART:
            self.unsubscribe()

    def receive_no_more(self) -> bool:
        """Have a bridge bring in nothing more.

        :return: whether it is one
        """
        return False

    def scheduler_ended(self) -> None:
        """Hear that all tasks have come to their end."""

    async def catch_up(self) -> None:
        """Have a bridge bring in what was published here; see `Bridge.catch_up`."""

    def finish_current(self) -> bool:
        """Have the work end after the message in hand, if it has an event; the rest is kept.

        :return: whether it has one
        """
        return False

    @property
    def published(self) -> int:
        """The number that the next message in its channel gets; 0 for a task without event."""
        return 0

    def has_handled(self, goal: int) -> bool:
        """Whether it has handled all messages before this number; a task without event always has."""
        return True

    @property
    def is_drained(self) -> bool:
        """Whether it has handled all messages published so far."""
        return self.has_handled(self.published)

    async def wait_handled(self, goal: int) -> None:
        """Wait until `has_handled` holds or the work is over.

        With others published after them, it may hold for some time before this returns.
        """

    @property
    def holds_back(self) -> Channel[Any] | None:
        """The channel that has no room before this one has read on; `None` if there is none."""
        return None

    @property
    def pool(self) -> Pool[Any] | None:
        """Who does its work, if that are several; `None` if it is done by the run itself."""
        return None

    def release(self, run: Run) -> None:
        """Let go of what the work needed and ``shutdown()`` and the next run do not."""

    def last_beat(self) -> float:
        """When it last showed that it is alive, on the event loop's clock."""
        assert self.run is not None
        return self.run.info.last_beat

    # -- what is told of it --------------------------------------------------------------------

    def note_error(self, error: BaseException) -> None:
        """Keep in mind, in words, what went wrong last: the error would keep its frames alive."""
        words = in_words(error)
        if not isinstance(error, SchedulerError):  # which says what it is of
            words = f"{type(error).__name__}: {words}"
        self.last_error = words, self.supervision.services.wall_clock()

    def waiting_for(self) -> str | None:
        """Say in words what holds it up just now, if anything does."""
        run = self.run
        if run is None:
            return None
        waits = self.waits
        if channels := waits.channels_of(self) or waits.channels_of(run):
            return f"room in channel {in_words(channels[0].event)}"
        if run.is_working:
            return None
        if run.phase is Phase.ENDED and self.wanted is Wanted.RESTART:
            return "the end of those that are restarted with it"
        return what_holds_up(run, self.supervision.dependencies_of(self))

    def execution_error(self, what: str) -> TaskExecutionError:
        """Return an error of its work.

        :param what: what happened, to be read after ``task 'web'``
        """
        return TaskExecutionError(f"{self.title}{what}", self.entry.task_id, self.entry.name)

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
            "task_run": 0 if self.run is None else self.run.info.number,
            **more,
        }

    @property
    def group(self) -> str | None:
        """The group it is in, after those around it; `None` for a task of the scheduler itself."""
        return None if self.parent is None else self.parent.path

    def snapshot(self) -> TaskSnapshot:
        """Return how the task stands now."""
        return TaskSnapshot(**self.facts())

    def facts(self) -> dict[str, Any]:
        """The fields of the snapshot."""
        run = self.run
        state = self.state
        error: BaseException | None = None
        last_error, last_error_at = self.last_error or (None, None)
        if run is not None:
            error = run.failure or next(iter(run.shutdown_errors), None)
            if state is TaskState.BACKING_OFF:
                error = error or run.failure_before
        return {
            "task_id": self.entry.task_id,
            "name": self.entry.name,
            "kind": self.kind,
            "group": self.group,
            "state": state,
            "metadata": self.entry.metadata,
            "ready": self.is_fit,
            "stuck": run is not None and run.is_stuck,
            "restarts": max(0, self.runs - 1),
            "error": None if error is None else in_words(error) or repr(error),
            "started_at": None if run is None else run.started_at,
            "last_error": last_error,
            "last_error_at": last_error_at,
            "next_retry_at": run.retry_at if run and state is TaskState.BACKING_OFF else None,
            "waiting_for": self.waiting_for(),
        }
