"""The keeper: owns the lives of all tasks, and starts, restarts and stops them in order.

One task of the event loop, in which all lives run in a task group that nothing outside can cancel.
It takes commands from a queue: launch this life, retire that one, stop. So whatever happens, an
outside cancellation included, every stop goes the same way:

1. background tasks are asked to stop and cancelled: nothing is produced any more;
2. event tasks handle what was already published, up to their ``drain_timeout``;
3. ``shutdown()`` of each task, in reverse order of start, shielded, up to ``shutdown_timeout``.

What a failure means, the rules of `supervision` say: a restart, which is for `recovery` to do, or
the end of the run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from contextvars import copy_context
from dataclasses import dataclass, replace
from enum import Enum, auto
from math import inf
from typing import Generic, Literal, cast, final

from anyio import (
    CancelScope,
    Event,
    create_memory_object_stream,
    create_task_group,
    current_time,
    get_cancelled_exc_class,
    move_on_after,
)
from anyio.abc import TaskGroup, TaskStatus
from anyio.lowlevel import checkpoint
from anyio.streams.memory import MemoryObjectSendStream
from typing_extensions import TypeVar

from .._broadcast.bus import EventBus
from .._model.errors import LifecycleError, TaskShutdownError
from .._model.settings import Strategy
from .._model.snapshots import TaskId
from .._tasks.context import Services, current_run
from .._tasks.events import DEAD_LETTERS, TASK_EVENTS, DeadLetter, Publisher, TaskEvent, TaskFailed
from .._tasks.registry import TaskRegistry
from .._workers.tree import Branch, Failure, Node
from .._workers.worker import Life
from .dependencies import Dependencies, lives_below
from .restarts import Recoveries
from .stopping import HURRY, drain, end, held, shut_down
from .watchdog import needs_watching, watch

__all__ = ["Command", "Keeper", "Phase"]

E = TypeVar("E", bound=Hashable, default=Hashable)

logger: logging.Logger = logging.getLogger("orchestrio")


class Phase(Enum):
    """Where a scheduler stands in its one life."""

    NEW = auto()  # made, not entered
    OPEN = auto()  # entered, nothing started
    STARTING = auto()
    RUNNING = auto()
    STOPPING = auto()
    STOPPED = auto()


@final
@dataclass(frozen=True, slots=True)
class Command:
    """What the keeper is told to do, and with which life."""

    what: Literal["launch", "retire", "restart", "remove", "stop"]
    life: Life | None = None
    #: whether the life's own task asks, which must not be waited for
    own: bool = False
    #: set when it has been done
    done: Event | None = None


@final
class Keeper(Generic[E]):
    """Owns the lives of one scheduler's tasks."""

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
        self.phase: Phase = Phase.NEW
        #: all lives, in order of registration
        self.lives: dict[TaskId, Life] = {}
        #: set when there is nothing more to run for, or a stop was asked for
        self.finished: Event = Event()
        #: set when a stop begins, whoever asked for it
        self.stopping: Event = Event()
        #: set when everything has stopped
        self.stopped: Event = Event()
        #: what ended the run and has not been raised yet
        self.failures: list[BaseException] = []
        #: what went wrong after the work and has not been raised yet
        self.shutdown_failures: list[TaskShutdownError] = []
        self.task_events: Publisher[TaskEvent] = Publisher(bus, TASK_EVENTS)
        self.services: Services = Services(bus, self.task_events)
        self.dead_letters: Publisher[DeadLetter] = Publisher(bus, DEAD_LETTERS)
        self._started: dict[TaskId, Life] = {}  # in order of start
        self._ranks = 0  # how many were ever started
        self._dependencies = Dependencies(registry.get_by_name, self.lives, self.groups)
        self._recoveries = Recoveries(self, self._dependencies, self._launch, self._end_the_run)
        self._all_initialized = Event()  # or never will be
        self._go = Event()  # set once all tasks are initialised
        self._working = {"background": 0, "event": 0}
        self._produced = False  # whether a background task ever worked
        self._hurried = False
        self._patience: CancelScope | None = None
        self._commands: MemoryObjectSendStream[Command] | None = None
        self._tasks: TaskGroup | None = None  # around all lives

    @property
    def is_stopping(self) -> bool:
        """Whether a stop was asked for, or is over."""
        return self.phase in (Phase.STOPPING, Phase.STOPPED)

    @property
    def is_live(self) -> bool:
        """Whether it has not stopped, and no task ignores its cancellation."""
        return self.phase is not Phase.STOPPED and not any(
            life.stuck for life in self.lives.values()
        )

    @property
    def takes_part(self) -> bool:
        """Whether a life that comes now begins at once."""
        return self.phase in (Phase.STARTING, Phase.RUNNING)

    def own_life(self) -> Life | None:
        """The life of the task that is running, if it is one of ours."""
        run = current_run.get()
        if run is not None:
            life = self.lives.get(run.task_id)
            if life is not None and life.run is run:
                return life
        return None

    # -- the one task --------------------------------------------------------------------------

    async def keep(self, *, task_status: TaskStatus[None]) -> None:
        """Own all lives, obey commands, and stop everything in the end, whatever happens."""
        send, commands = create_memory_object_stream[Command](inf)
        with CancelScope(shield=True), send, commands:
            self._commands = send
            try:
                async with create_task_group() as self._tasks:
                    self.phase = Phase.OPEN
                    task_status.started()
                    try:
                        async for command in commands:
                            if command.what == "stop":
                                break
                            self._tasks.start_soon(self._obey, command)
                    finally:
                        with CancelScope(shield=True):
                            await self._stop_all()
            finally:
                self._bus.close()
                for life in self._started.values():
                    self.shutdown_failures += life.report()  # of those that ended after all
                for life in self.lives.values():
                    life.skip()
                self.phase = Phase.STOPPED
                self.stopped.set()

    def _tell_keeper(self, command: Command) -> None:
        assert self._commands is not None
        self._commands.send_nowait(command)

    def ask_to_stop(self) -> None:
        """Have everything stop, once; nobody is waited for."""
        if not self.is_stopping:
            self.phase = Phase.STOPPING
            self.stopping.set()
            self.finished.set()
            self._all_initialized.set()
            self._tell_keeper(Command("stop"))

    async def order(self, command: Command) -> None:
        """Have the keeper do something with one life, and wait for it."""
        life = command.life
        assert life is not None
        own = life is self.own_life()
        await checkpoint()
        if self.takes_part:
            done = Event()
            restart = command.what == "restart"
            if not restart:
                self._recoveries.retire(life)
            life.keep_subscription = restart
            if own and restart:
                life.end()
            elif own:
                life.finish()
            self._tell_keeper(replace(command, done=done, own=own))
            if own:
                return
            await done.wait()
        elif self.phase is Phase.STOPPING:
            if own:
                return
            await self.stopped.wait()
            if command.what == "remove":
                self._forget(life)
        elif command.what == "remove":
            self._forget(life)
        for error in self.shutdown_failures:
            if error.task_id == life.entry.task_id:
                self.shutdown_failures.remove(error)
                raise error

    async def _obey(self, command: Command) -> None:
        life = command.life
        assert life is not None
        try:
            if command.what == "launch":
                await self._launch_after_dependencies(life)
            elif command.what == "restart":
                recovery = self._recoveries.schedule_by_hand(life)
                failed = await self._recoveries.recover_by_hand(recovery)
                self.shutdown_failures += failed
                await life.wait_initialized()
            else:
                await self._retire(life, own=command.own)
                self._look_whether_finished()
                if command.what == "remove":
                    self._forget(life)
        finally:
            if command.done is not None:
                command.done.set()

    def _forget(self, life: Life) -> None:
        task_id = life.entry.task_id
        if self.lives.pop(task_id, None) is not None:
            self.registry.remove(task_id)
            self._started.pop(task_id, None)
            self._dependencies.remove(life)
            if life.parent is not None:
                life.parent.children.pop(life, None)
            life.skip()

    # -- starting ------------------------------------------------------------------------------

    def adopt(self, life: Life, parent: Branch) -> None:
        """Take a life over: now it waits for the start, or after the start, begins at once.

        :raises LifecycleError: if a dependency is not registered (after the start)
        :raises InvalidChannelError: if its event has no channel (after the start)
        """
        if self.takes_part:
            self._dependencies.resolve(life)
            life.subscribe()
            self._tell_keeper(Command("launch", life))
        self.lives[life.entry.task_id] = life
        parent.children[life] = None
        self._dependencies.add(life)

    async def start(self) -> None:
        """Start all lives, in order; see `Scheduler.start`."""
        lives = self._dependencies.in_order_of_start(self.root)
        try:
            for life in lives:
                life.subscribe()
        except BaseException:
            for life in lives:
                life.unsubscribe()
            raise
        self.phase = Phase.STARTING
        try:
            ambient = copy_context()
            # Each launches the next when it is initialised: nobody in between has to be woken.
            remaining = iter(lives)

            def launch_next() -> None:
                life = next((life for life in remaining if not life.over), None)
                if life is None or self.is_stopping:
                    self._all_initialized.set()
                else:
                    life.adopt(ambient)
                    self._launch(life, launch_next)

            launch_next()
            await self._all_initialized.wait()
            if not self.is_stopping:
                self.phase = Phase.RUNNING
                self._go.set()
                for life in list(self._started.values()):
                    life.let_work()
                self._look_whether_finished()
                for life in lives:
                    if not life.is_ready:  # it says so itself, or depends on one that does
                        await life.wait_ready()
            if self.is_stopping:
                await self.stopped.wait()
        except get_cancelled_exc_class():
            self.ask_to_stop()
            raise
        if self.is_stopping:
            self.raise_failures()
            raise LifecycleError("the scheduler was stopped while it was starting")

    def _launch(self, life: Life, then: Callable[[], None] | None = None) -> None:
        """Let a life begin, in the context it was registered in."""
        assert self._tasks is not None
        entry = life.entry
        if not life.rank:
            self._ranks = life.rank = self._ranks + 1
        self._started[entry.task_id] = life
        self._produced |= entry.kind == "background"
        life.gone = False
        life.handle = self._tasks.create_task(
            life.live(self._go, then), name=entry.name, context=life.context
        )
        self._begins(life)

    def _begins(self, life: Life) -> None:
        assert self._tasks is not None
        self._working[life.entry.kind] += 1
        if needs_watching(life.entry.metadata):
            self._tasks.start_soon(watch, life, self._end_the_run)

    def life_begins_again(self, life: Life) -> None:
        """Prepare the next run of a life that goes on by itself."""
        self._recoveries.begin_again(life)
        self._begins(life)

    async def _launch_after_dependencies(self, life: Life) -> None:
        for dependency in life.dependencies:
            await dependency.wait_initialized()
        if self.is_stopping:
            life.skip()
        elif not life.over:
            self._launch(life)

    # -- what an end means ---------------------------------------------------------------------

    def life_ended(self, life: Life) -> None:
        """Decide what the end of one task's work means for it and for the others."""
        self._working[life.entry.kind] -= 1
        failure = life.failure
        if failure is not None and self.task_events.wanted:
            self.task_events.publish(TaskFailed(error=failure, **life.identity()))
        if failure is not None and not isinstance(failure, Exception):
            self._end_the_run(failure)  # KeyboardInterrupt and its like are nobody's to mend
        elif life.recovering or self.is_stopping or life.stop_asked:
            if failure is not None:
                self._failed_while_stopping(life, failure)
        elif failure is None:
            if life.policy is not None and life.policy.mode == "always":
                self._failed(life, life.execution_error(": its work has ended"))
            else:
                self._ended(life)
        elif self.phase is Phase.STARTING and not life.initialized and life.starts <= 1:
            self._end_the_run(failure)
        elif life.fatal:
            self._failed(life, cast("Failure", failure))
        else:
            self._left_alone(life, failure)
        self._look_whether_finished()

    def life_is_back(self, life: Life) -> None:
        """Tell those that depend on a task that was restarted, unless they are restarted too."""
        for dependant in self._dependencies.dependants_of(life):
            if not dependant.recovering:
                dependant.run.tell_restarted(life.entry.name)

    def _failed(self, node: Node, failure: Failure) -> None:
        """Do what the policy of a task or group says to a failure of it."""
        restarts = node.restarts
        if node.parent is None:
            self._end_the_run(failure)
        elif restarts is None:
            self._escalate(node.parent, failure)
        elif restarts.policy.mode == "never":
            self._left_alone(node, failure)
        else:
            now = current_time()
            up_for = now - node.works_since if isinstance(node, Life) else 0.0
            delay = restarts.next_delay(failure, now, up_for, self.random)
            if delay is None:
                self._escalate(node.parent, restarts.give_up(node.title, failure))
            else:
                assert self._tasks is not None
                recovery = self._recoveries.schedule(node, node.parent, failure, delay)
                self._tasks.start_soon(self._recoveries.recover, recovery)

    def _escalate(self, branch: Branch, failure: Failure) -> None:
        if branch.parent is not None:
            failure.add_note(f"It was too much for {branch.title}.")
        self._failed(branch, failure)

    def _end_the_run(self, failure: BaseException) -> None:
        """Stop everything, and raise this to whoever waits for the run."""
        self.failures.append(failure)
        self.ask_to_stop()
        self._alarm()

    def _failed_while_stopping(self, life: Life, failure: Exception) -> None:
        if life.recovering or life.policy is not None or life.stuck or not life.fatal:
            logger.error("%s, while it was stopping", failure, exc_info=failure, extra=life.extra())
        else:
            self._end_the_run(failure)

    def _left_alone(self, node: Node, failure: Exception) -> None:
        logger.error(
            "%s stopped, the others go on: %s",
            node.title,
            failure,
            exc_info=failure,
            extra=node.extra() if isinstance(node, Life) else {"task_group": node.title},
        )
        if isinstance(node, Branch):
            self._stop_group(node)
        self._ended(node)

    def _ended(self, node: Node) -> None:
        """End the group of a significant task or group that has ended."""
        branch = node.parent
        if branch is None or not node.significant:
            return
        if branch.parent is None:
            self.ask_to_stop()
        else:
            self._stop_group(branch)
            self._ended(branch)

    def _look_whether_finished(self) -> None:
        if (
            self.phase is Phase.RUNNING
            and not self._recoveries
            and not self._working["background"]
            and (self._produced or not self._working["event"])
        ):
            self.finished.set()

    # -- stopping ------------------------------------------------------------------------------

    def _stop_group(self, branch: Branch) -> None:
        """Stop the tasks of one group, in order; the others go on."""
        lives = [life for life in lives_below(branch) if life.recovering or not life.gone]
        for life in lives:
            self._recoveries.retire(life)
            life.skip()
        assert self._tasks is not None
        lives.sort(key=lambda life: life.rank)
        self._tasks.start_soon(self._stop_lives, lives)

    async def _stop_lives(self, lives: list[Life]) -> None:
        with held(lives) as up:
            await end(life for life in up if life.entry.kind == "background")
            await drain(life for life in up if life.entry.kind == "event")
            await end(up)
            failed = await shut_down(up)
            self.shutdown_failures += failed

    async def _stop_all(self) -> None:
        self.phase = Phase.STOPPING
        self.stopping.set()
        self.finished.set()
        self._recoveries.give_up_all()
        lives = sorted(self._started.values(), key=lambda life: life.rank)
        with CancelScope() as self._patience:
            if self._hurried:
                self._patience.cancel()
            await end(life for life in lives if life.entry.kind == "background")
            await drain(life for life in lives if life.entry.kind == "event")
        for life in lives:
            life.end()
        await end(lives)
        failed = await shut_down(lives)
        self.shutdown_failures += failed

    async def _retire(self, life: Life, *, own: bool) -> None:
        """Stop one life in the order of a whole stop; end when it is gone."""
        if life.gone:
            life.skip()
            return
        with held([life]):
            if own:
                with move_on_after(life.entry.metadata.stop_timeout):
                    await life.wait_over()
            else:
                await drain([life])
            await end([life])
            failed = await shut_down([life])
            self.shutdown_failures += failed

    def hurry(self) -> None:
        """Stop at once: no waiting for what is left, and no time for ``shutdown()``."""
        self._hurried = True
        if self._patience is not None:
            self._patience.cancel()
        for life in self._started.values():
            life.cut_short(HURRY)

    # -- raising -------------------------------------------------------------------------------

    def raise_failures(self) -> None:
        """Raise what ended the run, once."""
        failures, self.failures = self.failures, []
        if len(failures) == 1:
            raise failures[0]
        if failures:
            raise BaseExceptionGroup("several tasks failed", failures)

    def raise_outcome(self, error: BaseException | None) -> None:
        """Raise `error` and all that went wrong and was not reported yet, alone or as a group."""
        failures, self.failures = self.failures, []
        shutdown_failures, self.shutdown_failures = self.shutdown_failures, []
        if error is not None:
            failures.insert(0, error)
        if shutdown_failures and not failures:
            raise ExceptionGroup("tasks did not shut down well", shutdown_failures)
        if len(failures) == 1 and not shutdown_failures:
            raise failures[0]
        if failures:
            raise BaseExceptionGroup("the scheduler stopped", [*failures, *shutdown_failures])
