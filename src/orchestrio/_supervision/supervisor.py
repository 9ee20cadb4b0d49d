"""The supervisor: brings what is to what is wanted, for all tasks of a scheduler.

Commands, policies and the stop of everything say what is *wanted* of a worker. From that, and from
the phase of its run, follows what is done: `Supervisor._start_run` is the one place where a run
begins, and `stopping.end` is the one way in which it ends. What a failure means, the rules of the
`tree` say.

Who owns what, from the outside in:

    the task that entered the scheduler
     └─ the block's task group        cancelled from outside, or when a task failed unheard
         └─ Supervisor.run            shielded: nothing outside cancels what is below. It always
             │                        stops in the same way, bounded by the time-outs of the tasks;
             │                        then it waits for those that ignore their cancellation
             └─ watch group           Turns.watch, Deadlocks.watch and what `watch` starts, such as
                 │                    for signals; cancelled when the group below has ended
                 ├─ Report            tells what a start, a stop, a command or restarts wait for,
                 │                    which cancel it at their end
                 └─ task group        cancelled as a whole only if something breaks out of a run, as
                     │                a cancel scope does that a hook has left open: then all stops
                     ├─ Run           one task for each, in a cancel scope of its own, which `Run`
                     │   │            alone cancels: to end the work
                     │   └─ shutdown  in a shielded scope of its own, if that one was cancelled;
                     │                `Run.cancel_shutdown` cancels it, on a time-out
                     ├─ _end          one for each stop or restart; nobody cancels it
                     └─ watch         one for each run with a watchdog; ends with it
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import copy_context
from enum import Enum, auto
from math import inf
from typing import Any, Final, Generic, cast, final
from weakref import WeakValueDictionary

from anyio import CancelScope, Event, TaskHandle, create_task_group, get_cancelled_exc_class
from anyio.abc import TaskGroup
from typing_extensions import TypeVar

from .._broadcast.bus import EventBus, begin_to_end, end_guests, note_home, require_thread
from .._model._loops.cancellations import cancellations_here
from .._model._loops.wakeup import Wakeup, bells
from .._model.errors import LifecycleError, SchedulerError
from .._model.log import logger
from .._model.settings import RestartPolicy, Strategy
from .._model.snapshots import TaskId
from .._model.tracebacks import leaves_of
from .._tasks.context import Services, current_run
from .._tasks.events import DEAD_LETTERS, TASK_EVENTS, DeadLetter, Publisher, TaskEvent, TaskFailed
from .._tasks.failures import error_in, raised, undisturbed
from .._tasks.registry import TaskRegistry, is_registered
from .._tasks.timetables import WALL_CLOCK
from .._workers.phases import Outcome, Phase
from .._workers.run import FORCED, Run
from .._workers.tree import Branch, Failure, Node
from .._workers.wanted import ENDS, Wanted
from .._workers.worker import Worker
from .deadlocks import Deadlocks
from .dependencies import Dependencies, workers_below
from .escalation import Escalation
from .outcome import RunOutcome
from .report import Report, what_ends_the_run
from .restarts import Restarts
from .starting import Start
from .stopping import Turns, ask_to_end, end, enough_rounds, runs_of, wait_down
from .waits import Wait, waits_for_stuck, waits_of_back_off, waits_of_start, waits_of_stop
from .watchdog import needs_watching, watch
from .workload import Workload

__all__ = ["Stage", "Supervisor"]

E = TypeVar("E", bound=Hashable, default=Hashable)


_COMMAND: Final = (
    "have that event loop call this, by anyio.from_thread.run(..., token=...) or"
    " asyncio.run_coroutine_threadsafe(); for messages, there is send_from_thread()"
)


#: Those that were started and have not stopped, by their identity; what is garbage runs no task.
_RUNNING: Final[WeakValueDictionary[int, Supervisor[Any]]] = WeakValueDictionary()


class Stage(Enum):
    """Where a scheduler stands in its one life."""

    NEW = auto()  # made, not entered
    OPEN = auto()  # entered, nothing started
    STARTING = auto()
    RUNNING = auto()
    STOPPING = auto()
    STOPPED = auto()


# They are asked for with each task, and a member of an enumeration is found slowly on Python 3.11.
_TAKING_PART: Final = (Stage.STARTING, Stage.RUNNING)
_ENDING: Final = (Stage.STOPPING, Stage.STOPPED)


@final
class Supervisor(Generic[E]):
    """Owns the tasks of one scheduler."""

    def __init__(
        self,
        registry: TaskRegistry[E],
        bus: EventBus[E],
        alarm: Callable[[], None],
        strategy: Strategy,
        random: Callable[[], float],
    ) -> None:
        self.registry = registry
        self._bus = bus  # closed when everything has stopped
        self._alarm = alarm  # called when a task has failed
        self.random = random
        #: the tree of groups, whose root is the scheduler itself
        self.root: Branch = Branch("scheduler", None, strategy)
        #: groups by name
        self.groups: dict[str, Branch] = {}
        self.stage: Stage = Stage.NEW
        #: all tasks, in the order of registration
        self.workers: dict[TaskId, Worker] = {}
        #: notified when there is nothing more to run for, or a stop was asked for
        self.finished: Wakeup = Wakeup()
        #: set when tasks can be started
        self.opened: Event = Event()
        #: set when a stop begins, whoever asked for it
        self.stopping: Event = Event()
        #: set when everything has stopped
        self.stopped: Event = Event()
        #: what ends the process if a task does not end, if anything does; see `waits_for_stuck`
        self.way_out: str = ""
        #: what went wrong, and has not been raised yet
        self.outcome: RunOutcome = RunOutcome()
        self.task_events: Publisher[TaskEvent] = Publisher(bus, TASK_EVENTS)
        self.services: Services = Services(bus, self.task_events)
        self.dead_letters: Publisher[DeadLetter] = Publisher(bus, DEAD_LETTERS)
        self._dependencies = Dependencies(registry.get_by_name, self.workers, self.groups)
        self.restarts: Restarts = Restarts(self._dependencies, self._start_run)
        self._escalation = Escalation(self)
        self._turns = Turns()
        #: returns whether it is the turn of a run to shut down; then it does so at once
        self.take_turn: Callable[[Run], bool] = self._turns.take_turn
        self._abandoned: set[Run] = set()  # those that have not ended, also of tasks that are gone
        self._number = 0  # how many tasks have got a place in the order of registration
        self._startup = Start(self._start_run)
        self._workload = Workload()
        self._has_finished = False  # whether it stops since the work is done
        self._deadlocks = Deadlocks(self)
        self._tasks: TaskGroup | None = None  # around all runs
        self._watching: TaskGroup | None = None  # around that one
        self._report = Report()

    @property
    def is_stopping(self) -> bool:
        """Whether a stop was asked for, or is over."""
        return self.stage in _ENDING

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing more to run for, or a stop was asked for."""
        return self.is_stopping or (self._workload.is_done and self.stage is Stage.RUNNING)

    @property
    def is_live(self) -> bool:
        """Whether it has not stopped, and no task ignores its cancellation."""
        return self.stage is not Stage.STOPPED and not self._abandoned

    @property
    def is_starting(self) -> bool:
        """Whether no task works before all are initialised."""
        return self.stage is Stage.STARTING

    @property
    def takes_part(self) -> bool:
        """Whether a task that comes now begins at once."""
        return self.stage in _TAKING_PART

    def require_thread(self) -> None:
        """See that a command is given in the thread of the event loop, once it is known.

        :raises LifecycleError: if it is given in another one
        """
        if self.stage is not Stage.NEW:
            require_thread(self._bus, "the scheduler", _COMMAND)

    def own_worker(self) -> Worker | None:
        """The task that is running, if it is one of ours."""
        self.require_thread()
        info = current_run.get()
        if info is not None:
            worker = self.workers.get(info.task_id)
            if worker is not None and worker.run is not None and worker.run.info is info:
                return worker
        return None

    # -- the one task --------------------------------------------------------------------------

    async def run(self) -> None:
        """Own all runs until a stop is asked for, and stop everything then, whatever happens."""
        note_home(self._bus)
        with CancelScope(shield=True):
            try:
                async with create_task_group() as self._watching:
                    self._watching.start_soon(undisturbed, self._turns.watch)
                    self._watching.start_soon(undisturbed, self._deadlocks.watch)
                    async with create_task_group() as self._tasks:
                        self.services.wall_clock = WALL_CLOCK.get()
                        self.services.new_bell = bells()
                        self.services.cancellations = cancellations_here()
                        if not self.is_stopping:
                            self.stage = Stage.OPEN
                        self.opened.set()
                        await self._until_stopping()
                        telling = self._report.telling(self._watching, self._waits_of_stop)
                        # If a task broke out, all in this group is cancelled.
                        with CancelScope(shield=True), telling:
                            await undisturbed(self._stop_everything)
                            await undisturbed(self._wait_for_abandoned)
                    self._watching.cancel_scope.cancel()
            except BaseExceptionGroup as errors:
                for error in leaves_of(errors):
                    self.outcome.fail(_broke_out(error))
                self._alarm()
            finally:
                self._bus.close()
                self.stage = Stage.STOPPED
                _RUNNING.pop(id(self), None)
                for worker in self.workers.values():
                    worker.scheduler_ended()
                    if worker.run is not None:
                        self.outcome.shutdown_errors += worker.run.report()
                self.stopped.set()
                self._report.stopped(self.workers.values())

    async def _until_stopping(self) -> None:
        while not self.is_stopping:
            try:
                await self.stopping.wait()
            except get_cancelled_exc_class() as error:
                if error_in(error) is None:
                    self.ask_to_stop("a task broke out of its supervision")
                else:  # asyncio does so to all that is left in a loop that closes
                    self.ask_to_stop("its event loop closes")

    def watch(
        self, watch: Callable[[Supervisor[E]], Coroutine[None, None, None]]
    ) -> TaskHandle[None]:
        """Have something watch this until everything has stopped, or the handle cancels it.

        :param watch: a function that gets the supervisor
        :return: the handle
        """
        assert self._watching is not None
        return self._watching.start_soon(undisturbed, watch, self)

    def finish(self) -> None:
        """Have everything stop since the work is done: event tasks handle all that there is."""
        self._has_finished = not self.is_stopping
        self.ask_to_stop("all work is done")

    def ask_to_stop(self, why: str) -> None:
        """Have everything stop, once; nobody is waited for.

        :param why: the reason, to be read after "because"
        """
        if not self.is_stopping:
            self.stage = Stage.STOPPING
            begin_to_end(self._bus)
            try:
                self._report.stopping(why)
                self._want_end()
            finally:  # a handler of log records may end the process, as any code that runs here
                self.stopping.set()
                self.finished.notify_all()
                self._startup.stop_waiting()

    def _want_end(self) -> None:
        self.restarts.drop_all()
        for worker in self.workers.values():
            if worker.wanted not in ENDS:
                worker.want(Wanted.STOP)
        self._begin_to_end(runs_of(self.workers.values()))

    async def _stop_everything(self) -> None:
        self._want_end()  # what is left of that
        runs = runs_of(self.workers.values())
        await end(runs, inf if self._has_finished else enough_rounds(runs))
        end_guests(self._bus)  # before the first hook, which may wait for who reads there
        self._turns.allow(runs)
        await wait_down(runs)

    async def _wait_for_abandoned(self) -> None:
        for run in list(self._abandoned):
            await run.wait_ended()

    def telling(self, workers: Sequence[Worker]) -> AbstractContextManager[None]:
        """Tell what a command waits for, while the block runs; a stop of everything tells itself.

        :param workers: whom the command concerns
        """
        if self.stage is not Stage.RUNNING or all(worker.is_down for worker in workers):
            return nullcontext()
        assert self._watching is not None

        def waits() -> Iterator[Wait]:
            if not self.is_stopping:
                yield from waits_of_stop(workers)
                yield from waits_of_back_off(workers)

        return self._report.telling(self._watching, waits)

    def _waits_of_stop(self) -> Iterator[Wait]:
        yield from waits_of_stop(self.workers.values())
        yield from waits_for_stuck(self._abandoned, self.way_out)

    def force_stop(self) -> None:
        """Stop at once: no waiting for what is left, and no time for ``shutdown()``."""
        runs = runs_of(self.workers.values())
        self._turns.force([*runs, *self._abandoned.difference(runs)], FORCED)

    def add_group(
        self,
        name: str,
        parent: Branch,
        strategy: Strategy,
        restart: RestartPolicy | None,
        significant: bool,
    ) -> Branch:
        """Make a group; see `Group.group`."""
        self.require_thread()
        if name in self.groups:
            raise LifecycleError(f"a group named {name!r} exists already: give it another name")
        if self.is_stopping:
            raise LifecycleError("the scheduler is stopping: it takes no new groups")
        parent.see_that_it_runs(f"group {name!r} cannot be made")
        self.groups[name] = branch = Branch(name, parent, strategy, restart, significant)
        return branch

    # -- stopping ------------------------------------------------------------------------------

    def stop(self, workers: Iterable[Worker], wanted: Wanted, own: Worker | None = None) -> None:
        """Say that tasks are wanted down, and see to it."""
        workers = list(workers)
        self.restarts.drop(workers)
        for worker in workers:
            if not worker.is_gone and worker.wanted is not Wanted.REMOVE:
                worker.want(wanted)
        self.bring_down(workers, own, drain=True)
        for worker in workers:
            if worker.wanted is Wanted.REMOVE and worker.is_down:
                self.forget(worker)
        self._look_whether_finished()

    def bring_down(self, workers: list[Worker], own: Worker | None, *, drain: bool) -> None:
        """End the runs of tasks that are not wanted as they are.

        :param own: the task that asks, which must not be waited for
        :param drain: whether event tasks handle what was published
        """
        assert self._tasks is not None
        for worker in workers:
            self._workload.note(worker)
        runs = runs_of(workers)
        self._begin_to_end(runs)
        if own in workers and own.run is not None and not own.run.is_over:
            runs.remove(own.run)
            ask_to_end(own.run, finish=True)  # it is to get no other message, starting now
            self._tasks.start_soon(undisturbed, self._end, [own.run], 0)
        if all(run.is_over for run in runs):
            self._turns.allow(runs)
        else:
            rounds = enough_rounds(runs) if drain else 0
            self._tasks.start_soon(undisturbed, self._end, runs, rounds)

    def _begin_to_end(self, runs: list[Run]) -> None:
        """Have those that started before wait for these, and end at once what has not begun."""
        self._turns.enter(runs)
        for run in runs:
            if run.phase is Phase.PENDING:
                run.cancel()

    async def _end(self, runs: list[Run], rounds: float) -> None:
        """Bring the work of runs to its end, and let them shut down."""
        await end(runs, rounds)
        self._turns.allow(runs)

    def say_what_went_wrong(self, worker: Worker, run: Run) -> None:
        """Log what nobody waits for; at the stop of everything, it is raised in the end."""
        if run.waiters:
            return
        errors = run.report()
        if self.is_stopping:
            self.outcome.shutdown_errors += errors
            return
        for error in errors:
            if error not in run.logged:
                logger.error("%s", error, exc_info=error, extra=worker.extra())

    # -- starting ------------------------------------------------------------------------------

    def adopt(self, worker: Worker, parent: Branch) -> None:
        """Take a task over: now it waits for the start, or after the start, begins at once.

        :raises LifecycleError: if its group has ended, or a dependency is not registered or leads
            in a circle or to its own group (after the start)
        :raises InvalidChannelError: if its event has no channel (after the start)
        """
        parent.see_that_it_runs(f"{worker.title} cannot be registered")
        if self.takes_part:
            self._see_that_nobody_else_runs([worker])
            self._dependencies.check(worker)
            worker.subscribe()
        self.workers[worker.entry.task_id] = worker
        worker.join()
        self._dependencies.add(worker)
        if self.takes_part:
            self._number += 1
            worker.enrol(self._number)
            try:
                if self._dependencies.place_late(worker):
                    self._turns.sort()
            except LifecycleError:
                worker.unsubscribe()
                del self.workers[worker.entry.task_id]
                worker.leave()
                self._dependencies.remove(worker)
                raise
            if self.stage is Stage.STARTING:
                self._startup.add(worker)
            else:
                self._start_run(worker)

    def _see_that_nobody_else_runs(self, workers: Iterable[Worker]) -> None:
        """See that tasks belong to no other scheduler that runs: their hooks would be called twice."""
        for reference in _RUNNING.valuerefs():  # a list: they come and go in other threads
            other = reference()
            if other is None or other is self or not other.takes_part:
                continue
            for worker in workers:
                if is_registered(other.registry, worker.entry.task):
                    raise LifecycleError(
                        f"{worker.title} belongs to another scheduler, which runs: make another"
                        f" {type(worker.entry.task).__name__} for this one"
                    )

    async def start(self) -> None:
        """Start all tasks, in order; see `Scheduler.start`."""
        workers = list(workers_below(self.root))
        for self._number, worker in enumerate(workers, 1):
            worker.enrol(self._number)
        workers = self._dependencies.in_order_of_start(workers)
        self._see_that_nobody_else_runs(workers)
        try:
            for worker in workers:
                worker.subscribe()
        except BaseException:
            for worker in workers:
                worker.unsubscribe()
            raise
        self.stage = Stage.STARTING
        _RUNNING[id(self)] = self
        self._report.starting()
        assert self._watching is not None
        try:
            ambient = copy_context()
            for worker in workers:
                worker.adopt(ambient)
                self._workload.note(worker)
            with self._report.telling(
                self._watching, lambda: waits_of_start(self.workers.values())
            ):
                await self._startup.initialize(workers)
                if not self.is_stopping:
                    self.stage = Stage.RUNNING
                    self._startup.begin_work()
                    self._look_whether_finished()
                    await self._startup.wait_ready()
            if not self.is_stopping:
                self._report.started(len(self.workers))
            else:
                await self.stopped.wait()
        except get_cancelled_exc_class():
            self.ask_to_stop("its start was cancelled")
            raise
        if self.is_stopping:
            self.outcome.raise_failures()
            raise LifecycleError("the scheduler was stopped while it was starting")

    def _start_run(
        self,
        worker: Worker,
        *,
        not_before: float = 0.0,
        begun: Callable[[], None] | None = None,
    ) -> bool:
        """Start the next run of a task: the one place where a run begins.

        There is none while the scheduler stops, and none beside one that has not ended. It waits by
        itself for its time, and for what it depends on.

        :param not_before: when it may begin, in seconds on the event loop's clock
        :param begun: called when it is initialised, or never will be
        :return: whether there is a run; not if the event of the task has ended
        """
        assert self._tasks is not None
        assert self.takes_part
        broken: Exception | None = None
        is_back = worker.wanted is not Wanted.RUN  # otherwise it is subscribed already
        if is_back:
            try:
                worker.subscribe()
            except SchedulerError as error:  # its event has ended: there is nothing to run for
                logger.warning("%s stays stopped: %s", worker.title, error, extra=worker.extra())
                worker.want(Wanted.STOP)
                self._workload.note(worker)
                self._look_whether_finished()
                return False
            except Exception as error:  # the task itself says what it subscribes to
                broken = LifecycleError(f"its subscription {raised(error)}")
                broken.__cause__ = error
        run = worker.new_run(self._startup, not_before, begun)
        if is_back:
            worker.want(Wanted.RUN)
        run.start(self._tasks, worker.context)
        self._workload.note(worker)
        if self.stage is Stage.RUNNING and self._watching is not None:
            self._report.begins(self._watching, worker, not_before)
        if broken is not None:
            run.fail(broken)
        return True

    # -- what a run tells ----------------------------------------------------------------------

    def dependencies_of(self, worker: Worker) -> list[Worker]:
        """Return what a task depends on, as the names stand now."""
        return self._dependencies.of(worker)

    def work_began(self, worker: Worker) -> None:
        """Watch the work of a run, if it has deadlines."""
        if worker.kind == "event":
            self._workload.note(worker)
            self._look_whether_finished()  # perhaps it was all that was waited for
        if needs_watching(worker.entry.metadata):
            assert self._tasks is not None
            assert worker.run is not None
            name = f"watchdog of {worker.entry.name}"
            self._tasks.start_soon(
                undisturbed, watch, worker, worker.run, self.end_the_run, name=name
            )

    def became_ready(self, worker: Worker) -> None:
        """Tell those that depend on a task that was restarted, unless they begin anew as well."""
        self._report.is_ready(worker)
        if worker.runs > 1:
            for dependant in self._dependencies.dependants_of(worker):
                if dependant.run is not None and dependant.run.is_working:
                    dependant.run.info.tell_restarted(worker.entry.name)

    def work_ended(self, worker: Worker, run: Run) -> None:
        """Decide what the end of one task's work means for it and for the others."""
        self._report.ended(worker)
        failure = run.failure
        if failure is not None and self.task_events.wanted:
            self.task_events.publish(TaskFailed(error=failure, **worker.identity()))
        if failure is None:
            if worker.wanted is Wanted.RUN and run.outcome is Outcome.RETURNED:
                self._escalation.returned(worker)
        elif not isinstance(failure, Exception):
            self.end_the_run(failure)  # SystemExit and its like are nobody's to mend
        elif worker.wanted is not Wanted.RUN or self.is_stopping or run.is_stuck:
            self._escalation.failed_while_stopping(worker, run, failure)
        elif self.stage is Stage.STARTING:
            self.end_the_run(failure)
        elif run.spares_others:
            self._escalation.left_alone(worker, failure)
        else:
            self._escalation.failed(worker, cast("Failure", failure))
        self._workload.note(worker)
        if worker.wanted is not Wanted.RUN:
            self._turns.advance()
        self._look_whether_finished()

    def run_ended(self, worker: Worker, run: Run) -> None:
        """Decide what follows when nothing is left of a run."""
        if run.shutdown_errors:
            self.say_what_went_wrong(worker, run)
        self._abandoned.discard(run)
        self._turns.leave(run)
        if worker.wanted is Wanted.REMOVE:
            self.forget(worker)
        else:
            self.restarts.advance(worker)

    def run_abandoned(self, worker: Worker, run: Run) -> None:
        """Go on without a task that ignores its cancellation; where it stands is in the log."""
        self._abandoned.add(run)
        if worker.wanted is Wanted.RESTART:
            what = " cannot be restarted: it was cancelled, and does not end"
            self.end_the_run(worker.execution_error(what))
        elif worker.wanted is Wanted.REMOVE:
            self.forget(worker)
        if self.is_stopping:  # otherwise it is in the log
            self.say_what_went_wrong(worker, run)
        self._turns.leave(run)
        self.restarts.advance(worker)
        self._workload.note(worker)
        self._look_whether_finished()

    def forget_group(self, branch: Branch) -> None:
        """Let go of a group and of those within it; their names are free again."""
        for one in list(branch.branches()):
            if self.groups.get(one.name) is one:
                del self.groups[one.name]
        branch.leave()

    def _look_whether_finished(self) -> None:
        if self.is_finished:
            self.finished.notify_all()

    # -- what a failure leads to ---------------------------------------------------------------

    def restart(self, node: Node, failure: Failure, delay: float) -> None:
        """Restart a task or group that failed, and whom its group's strategy adds to it."""
        assert node.parent is not None
        restart = self.restarts.schedule(node, node.parent, failure, delay)
        self.bring_down(restart.concerned, None, drain=False)
        self.restarts.go_on(restart)

    def end_group(self, branch: Branch) -> None:
        """Stop the tasks of one group; the others go on, and nothing in it is started any more."""
        branch.end()
        self.stop(workers_below(branch), Wanted.STOP)

    def end_the_run(self, failure: BaseException) -> None:
        """Stop everything, and raise this to whoever waits for the run."""
        self.outcome.fail(failure)
        self.ask_to_stop(what_ends_the_run(failure))
        self._alarm()

    def forget(self, worker: Worker) -> None:
        """Let go of a task; its name is free again."""
        task_id = worker.entry.task_id
        if self.workers.pop(task_id, None) is not None:
            self.registry.remove(task_id)
            self._dependencies.remove(worker)
            self.restarts.drop([worker])
            self._report.gone(worker)
            worker.be_gone()
            self._workload.note(worker)


def _broke_out(error: BaseException) -> BaseException:
    """Say what it means that something came out of a run which is none of its hooks' failures."""
    if not isinstance(error, Exception):
        return error
    failure = SchedulerError(
        f"a task broke out of its supervision, and everything was stopped: {raised(error)}. A cancel"
        " scope does so that a hook has left open, such as one around a yield in an async generator"
        " that nobody closed: use contextlib.aclosing()."
    )
    failure.__cause__ = error
    return failure
