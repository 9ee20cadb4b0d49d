"""The keeper: owns the lives of all tasks, and starts and stops them in order.

One task of the event loop, in which all lives run in a task group that nothing outside can cancel.
It takes commands from a queue, one at a time: launch this life, retire that one, stop. So whatever
happens, an outside cancellation included, every stop goes the same way:

1. background tasks are cancelled: nothing is produced any more;
2. event tasks handle what was already published, up to their ``drain_timeout``;
3. ``shutdown()`` of each task, in reverse order of start, shielded, up to ``shutdown_timeout``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, replace
from enum import Enum, auto
from graphlib import CycleError, TopologicalSorter
from heapq import heappop, heappush
from math import inf
from typing import Final, Generic, Literal, final

from anyio import (
    CancelScope,
    Event,
    create_memory_object_stream,
    create_task_group,
    current_time,
    get_cancelled_exc_class,
    move_on_after,
    move_on_at,
)
from anyio.abc import TaskGroup, TaskStatus
from anyio.lowlevel import checkpoint
from anyio.streams.memory import MemoryObjectSendStream
from typing_extensions import TypeVar

from .bus import EventBus
from .errors import LifecycleError, SchedulerError, TaskNotFoundError, TaskShutdownError
from .models import TaskId
from .registry import RegisteredTask, TaskRegistry
from .supervision import Life, current_life

__all__ = ["Command", "Keeper", "Phase"]

E = TypeVar("E", bound=Hashable, default=Hashable)

logger = logging.getLogger("orchestrio")

#: How long after its own deadline a ``shutdown()`` may still ignore its cancellation (seconds).
_LAST_RESORT: Final = 1.0

_HURRY: Final = "its shutdown() was cut short by a second request to stop"


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
        self, registry: TaskRegistry[E], bus: EventBus[E], alarm: Callable[[], None]
    ) -> None:
        self._registry = registry
        self._bus = bus  # closed when everything has stopped
        self._alarm = alarm  # called when a task has failed
        self.phase = Phase.NEW
        #: all lives, in order of registration
        self.lives: dict[TaskId, Life] = {}
        #: set when there is nothing more to run for, or a stop was asked for
        self.finished = Event()
        #: set when everything has stopped
        self.stopped = Event()
        #: what ended the run and has not been raised yet
        self.failures: list[BaseException] = []
        #: what went wrong after the work and has not been raised yet
        self.shutdown_failures: list[TaskShutdownError] = []
        self._started: dict[TaskId, Life] = {}  # in order of start
        self._all_initialized = Event()  # or never will be
        self._go = Event()  # set once all tasks are initialised
        self._working = {"background": 0, "event": 0}
        self._produced = False  # whether a background task ever worked
        self._restarting = 0
        self._hurried = False
        self._patience: CancelScope | None = None
        self._commands: MemoryObjectSendStream[Command] | None = None
        self._tasks: TaskGroup | None = None  # around all lives

    @property
    def is_stopping(self) -> bool:
        """Whether a stop was asked for, or is over."""
        return self.phase in (Phase.STOPPING, Phase.STOPPED)

    def own_life(self) -> Life | None:
        """The life of the task that is running, if it is one of ours."""
        life = current_life.get()
        if life is not None and self.lives.get(life.entry.task_id) is life:
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

    def _tell(self, command: Command) -> None:
        assert self._commands is not None
        self._commands.send_nowait(command)

    def ask_to_stop(self) -> None:
        """Have everything stop, once; nobody is waited for."""
        if not self.is_stopping:
            self.phase = Phase.STOPPING
            self.finished.set()
            self._all_initialized.set()
            self._tell(Command("stop"))

    async def order(self, command: Command) -> None:
        """Have the keeper do something with one life, and wait for it."""
        life = command.life
        assert life is not None
        own = life is self.own_life()
        await checkpoint()
        if self.phase in (Phase.STARTING, Phase.RUNNING):
            done = Event()
            life.keep_subscription = command.what == "restart"
            if own and command.what == "restart":
                life.end()
            elif own:
                life.finish()
            self._tell(replace(command, done=done, own=own))
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
                return
            restart = command.what == "restart"
            self._restarting += restart
            try:
                await self._retire(life, own=command.own)
                if restart and not self.is_stopping:
                    life.prepare()
                    life.subscribe()
                    self._launch(life)
                    await life.wait_initialized()
            finally:
                self._restarting -= restart
                self._look_whether_finished()
            if command.what == "remove":
                self._forget(life)
        finally:
            if command.done is not None:
                command.done.set()

    def _forget(self, life: Life) -> None:
        task_id = life.entry.task_id
        if self.lives.pop(task_id, None) is not None:
            self._registry.remove(task_id)
            self._started.pop(task_id, None)
            life.skip()

    # -- starting ------------------------------------------------------------------------------

    def adopt(self, life: Life) -> None:
        """Take a life over: now it waits for the start, or after the start, begins at once.

        :raises LifecycleError: if a dependency is not registered (after the start)
        :raises InvalidChannelError: if its event has no channel (after the start)
        """
        if self.phase in (Phase.STARTING, Phase.RUNNING):
            for name in life.entry.metadata.depends_on:
                self._dependency(life.entry, name)
            life.subscribe()
            self._tell(Command("launch", life))
        self.lives[life.entry.task_id] = life

    async def start(self) -> None:
        """Start all lives, in order; see `Scheduler.start`."""
        lives = self._in_order_of_start()
        try:
            for life in lives:
                life.subscribe()
        except SchedulerError:
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
            if self.is_stopping:
                await self.stopped.wait()
        except get_cancelled_exc_class():
            self.ask_to_stop()
            raise
        if self.is_stopping:
            self.raise_failures()
            raise LifecycleError("the scheduler was stopped while it was starting")
        self.phase = Phase.RUNNING
        self._go.set()
        for life in self._started.values():
            life.let_work()
        self._look_whether_finished()

    def _launch(self, life: Life, then: Callable[[], None] | None = None) -> None:
        """Let a life begin, in the context it was registered in."""
        assert self._tasks is not None
        self._started[life.entry.task_id] = life
        self._working[life.entry.kind] += 1
        self._produced |= life.entry.kind == "background"
        life.gone = False
        life.handle = self._tasks.create_task(
            life.live(self._go, then), name=life.entry.name, context=life.context
        )

    async def _launch_after_dependencies(self, life: Life) -> None:
        for name in life.entry.metadata.depends_on:
            with suppress(TaskNotFoundError):  # removed meanwhile: nothing to wait for
                entry = self._registry.get_by_name(name)
                await self.lives[entry.task_id].wait_initialized()
        if self.is_stopping:
            life.skip()
        elif not life.over:
            self._launch(life)

    def _dependency(self, entry: RegisteredTask, name: str) -> RegisteredTask:
        try:
            return self._registry.get_by_name(name)
        except TaskNotFoundError as error:
            raise LifecycleError(f"task {entry.name!r} depends on another: {error}") from error

    def _in_order_of_start(self) -> list[Life]:
        """All lives in the order of registration, each after those it depends on."""
        lives = list(self.lives.values())
        if not any(life.entry.metadata.depends_on for life in lives):
            return lives
        place = {life.entry.name: index for index, life in enumerate(lives)}
        graph: dict[int, list[int]] = {}
        for index, life in enumerate(lives):
            entry = life.entry
            graph[index] = [
                place[self._dependency(entry, name).name] for name in entry.metadata.depends_on
            ]
        sorter = TopologicalSorter(graph)
        try:
            sorter.prepare()
        except CycleError as error:
            circle: list[int] = error.args[1]
            names = " -> ".join(repr(lives[index].entry.name) for index in circle)
            raise LifecycleError(f"tasks depend on each other in a circle: {names}") from None
        order: list[Life] = []
        ready: list[int] = []
        while sorter.is_active():
            for index in sorter.get_ready():
                heappush(ready, index)
            first = heappop(ready)
            order.append(lives[first])
            sorter.done(first)
        return order

    def life_ended(self, life: Life) -> None:
        """Decide what the end of one task's work means for the others."""
        self._working[life.entry.kind] -= 1
        if life.failure is not None and life.fatal:
            self.failures.append(life.failure)
            self.ask_to_stop()
            self._alarm()
        elif life.failure is not None:
            logger.error(
                "task %r stopped, the others go on: %s",
                life.entry.name,
                life.failure,
                exc_info=life.failure,
            )
        self._look_whether_finished()

    def _look_whether_finished(self) -> None:
        if (
            self.phase is Phase.RUNNING
            and not self._restarting
            and not self._working["background"]
            and (self._produced or not self._working["event"])
        ):
            self.finished.set()

    # -- stopping ------------------------------------------------------------------------------

    async def _stop_all(self) -> None:
        self.phase = Phase.STOPPING
        self.finished.set()
        lives = list(self._started.values())
        with CancelScope() as self._patience:
            if self._hurried:
                self._patience.cancel()
            await self._end([life for life in lives if life.entry.kind == "background"])
            await self._drain([life for life in lives if life.entry.kind == "event"])
        await self._end(lives)
        await self._shut_down(lives)

    async def _retire(self, life: Life, *, own: bool) -> None:
        """Stop one life in the order of a whole stop; end when it is gone."""
        if life.gone:
            life.skip()
            return
        if own:
            with move_on_after(life.entry.metadata.stop_timeout):
                await life.wait_over()
        else:
            await self._drain([life])
        await self._end([life])
        await self._shut_down([life])

    async def _drain(self, lives: Sequence[Life]) -> None:
        """Wait until event tasks have handled all that was published, what they publish included.

        A handler may publish for another, so all of them must have come to rest in one look.
        """
        since = current_time()
        for life in lives:
            life.move_on_to_stopping()
        while waiting := [
            life
            for life in lives
            if life.is_working
            and not life.settled
            and current_time() < since + life.entry.metadata.drain_timeout
        ]:
            for life in waiting:
                with move_on_at(since + life.entry.metadata.drain_timeout):
                    await life.wait_settled()

    async def _end(self, lives: Sequence[Life]) -> None:
        """Cancel the work of each and wait until it is over, or say who does not end."""
        since = current_time()
        lives = [life for life in lives if not (life.over or life.gone)]
        for life in lives:
            life.move_on_to_stopping()
            life.end()
        for life in lives:
            if not (life.over or life.shutdown_failures):
                timeout = life.entry.metadata.stop_timeout
                with move_on_at(since + timeout):
                    await life.wait_over()
                if not life.over:
                    error = life.note_shutdown_failure(
                        f"its {life.doing} went on for more than stop_timeout ({timeout:g} s)"
                        " after it was cancelled",
                        TimeoutError("stop_timeout"),
                    )
                    logger.warning("%s", error)

    async def _shut_down(self, lives: Sequence[Life]) -> None:
        """Let lives shut down one after the other, the last one first, and wait within bounds."""
        waiting = [life for life in lives if not life.gone]
        for life in waiting:
            if not life.over:
                life.allow_shutdown()  # named already: it shuts down if it ends after all
        waiting = [life for life in waiting if life.over]
        for life, following in zip(waiting[1:], waiting, strict=False):
            life.next_to_shut_down = following
        if self._hurried:
            for life in waiting:
                life.cut_short(_HURRY)
        if waiting:
            waiting[-1].allow_shutdown()
        await checkpoint()  # most are gone when it returns, and need no timer
        while waiting:
            life = waiting[-1]  # the one that has its turn
            timeout = life.entry.metadata.shutdown_timeout
            if not life.gone:
                # Wait for the last turn, not for each: ten thousand wake-ups are dear.
                final = next(life for life in waiting if not life.gone)
                with move_on_at(life.turn_began + timeout):
                    await final.wait_gone()
            if not life.gone and current_time() >= life.turn_began + timeout:
                await self._cut_short(life, timeout)
            while waiting and (waiting[-1].gone or waiting[-1].given_up):
                self.shutdown_failures += waiting.pop().report()

    async def _cut_short(self, life: Life, timeout: float) -> None:
        """Cancel a ``shutdown()`` that takes too long, and give it up if that does not help."""
        life.cut_short(f"its shutdown() ran longer than shutdown_timeout ({timeout:g} s)")
        with move_on_after(_LAST_RESORT):
            await life.wait_gone()
        if not life.gone:
            error = life.note_shutdown_failure(
                f"it ignores its cancellation {_LAST_RESORT:g} s after shutdown_timeout"
                f" ({timeout:g} s); the others are shut down without it",
                TimeoutError("shutdown_timeout"),
            )
            logger.warning("%s", error)
            life.give_up()

    def hurry(self) -> None:
        """Stop at once: no waiting for what is left, and no time for ``shutdown()``."""
        self._hurried = True
        if self._patience is not None:
            self._patience.cancel()
        for life in self._started.values():
            life.cut_short(_HURRY)

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
