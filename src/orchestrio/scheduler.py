"""`Scheduler`: owns tasks and a bus, and takes both through one lifecycle, in order.

One task of the event loop, the keeper, owns the tasks of all lives in a task group that nothing
outside can cancel. It takes commands from a queue, one at a time: start this life, retire that
one, stop. So whatever happens, an outside cancellation included, every stop goes the same way:

1. background tasks are cancelled: nothing is produced any more;
2. event tasks handle what was already published, up to their ``drain_timeout``;
3. ``shutdown()`` of each task, in reverse order of start, shielded, up to ``shutdown_timeout``.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Hashable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass, replace
from enum import Enum, auto
from graphlib import CycleError, TopologicalSorter
from heapq import heappop, heappush
from math import inf
from typing import Any, Final, Generic, Literal, Self, TypedDict, cast, final, overload

import anyio
from anyio import (
    AsyncContextManagerMixin,
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
from typing_extensions import TypeVar, Unpack

from .bus import EventBus
from .errors import LifecycleError, SchedulerError, TaskNotFoundError, TaskShutdownError
from .models import (
    ChannelConfig,
    OnError,
    RestartPolicy,
    TaskId,
    TaskMetadata,
    TaskSnapshot,
)
from .registry import RegisteredTask, TaskRegistry
from .streams import BroadcastReceiveStream, BroadcastSendStream
from .supervision import BackgroundLife, EventLife, Life, current_life
from .tasks import BackgroundFunction, BackgroundTask, EventFunction, EventTask
from .topics import Topic

__all__ = ["Scheduler", "TaskOptions"]

E = TypeVar("E", bound=Hashable, default=Hashable)
T = TypeVar("T")
B = TypeVar("B", bound=Callable[[], Awaitable[object]])

logger = logging.getLogger("orchestrio")

#: How long after its own deadline a ``shutdown()`` may still ignore its cancellation (seconds).
_LAST_RESORT: Final = 1.0

_DEFAULTS: Final = TaskMetadata()

_HURRY: Final = "its shutdown() was cut short by a second request to stop"


class TaskOptions(TypedDict, total=False):
    """The fields of `TaskMetadata` as keywords; all times are in seconds."""

    name: str
    description: str
    tags: Iterable[str]
    restart: RestartPolicy
    depends_on: Iterable[str]
    concurrency: int
    on_error: OnError | None
    start_timeout: float
    stop_timeout: float
    drain_timeout: float
    shutdown_timeout: float


class _Phase(Enum):
    NEW = auto()  # made, not entered
    OPEN = auto()  # entered, nothing started
    STARTING = auto()
    RUNNING = auto()
    STOPPING = auto()
    STOPPED = auto()


@dataclass(frozen=True, slots=True)
class _Command:
    """What the keeper is told to do, and with which life."""

    what: Literal["launch", "retire", "restart", "remove", "stop"]
    life: Life | None = None
    #: whether the life's own task asks, which must not be waited for
    own: bool = False
    #: set when it has been done
    done: Event | None = None


@final
class Scheduler(AsyncContextManagerMixin, Generic[E]):
    """Owns tasks and an event bus, and runs them through one lifecycle.

    Use it as an async context manager, or call `run`. `E` narrows the plain event keys, as in
    ``Scheduler[MyEnum]()``. It lives once: after a stop, make a new one.

    A task that fails stops everything, in order, and its error is raised to whoever waits in
    `start`, `run` or `shutdown`; if nobody does, the body of the ``async with`` block is cancelled
    and the block raises it.
    """

    def __init__(self) -> None:
        self._bus = EventBus[E]()
        self._registry = TaskRegistry[E]()
        self._lives: dict[TaskId, Life] = {}
        self._started: dict[TaskId, Life] = {}  # in order of start
        self._phase = _Phase.NEW
        self._go = Event()  # set once all tasks are initialised
        self._finished = Event()  # set when there is nothing more to run for
        self._stopped = Event()
        self._listeners = 0  # calls that will raise a failure, so that the body need not be told
        self._working = {"background": 0, "event": 0}
        self._produced = False  # whether a background task ever worked
        self._busy_restarting = 0
        self._failures: list[BaseException] = []
        self._shutdown_failures: list[TaskShutdownError] = []
        self._hurried = False
        self._patience: CancelScope | None = None
        self._on_end = self._life_ended  # one bound method for all lives
        self._commands: MemoryObjectSendStream[_Command] | None = None
        self._block: TaskGroup | None = None  # around the body of the `async with` block
        self._tasks: TaskGroup | None = None  # around all lives; owned by the keeper

    def __repr__(self) -> str:
        return f"<Scheduler: {len(self._registry)} tasks, {self._phase.name.lower()}>"

    # -- what it is made of --------------------------------------------------------------------

    @property
    def bus(self) -> EventBus[E]:
        """The bus on which its tasks talk."""
        return self._bus

    @property
    def registry(self) -> TaskRegistry[E]:
        """The tasks it owns. Register through the scheduler, not here."""
        return self._registry

    @overload
    def add_channel(self, event: Topic[T], config: ChannelConfig | None = None) -> None: ...
    @overload
    def add_channel(self, event: E, config: ChannelConfig | None = None) -> None: ...
    def add_channel(self, event: Any, config: ChannelConfig | None = None) -> None:
        """Open a channel for an event; see `EventBus.add_channel`."""
        self._bus.add_channel(event, config)

    @overload
    def clone_sender(self, event: Topic[T]) -> BroadcastSendStream[T]: ...
    @overload
    def clone_sender(self, event: E) -> BroadcastSendStream[str]: ...
    def clone_sender(self, event: Any) -> Any:
        """Return a sender of the event's channel; see `EventBus.clone_sender`."""
        return self._bus.clone_sender(event)

    @overload
    def subscribe(self, event: Topic[T]) -> BroadcastReceiveStream[T]: ...
    @overload
    def subscribe(self, event: E) -> BroadcastReceiveStream[str]: ...
    def subscribe(self, event: Any) -> Any:
        """Return a new receiver of the event; see `EventBus.subscribe`."""
        return self._bus.subscribe(event)

    @overload
    async def publish(self, event: Topic[T], item: T) -> int: ...
    @overload
    async def publish(self, event: E, item: str) -> int: ...
    async def publish(self, event: Any, item: Any) -> int:
        """Publish one item and return how many receivers it went to; see `EventBus.publish`."""
        return await self._bus.publish(event, item)

    # -- registration --------------------------------------------------------------------------

    def register_background_task(
        self,
        task: BackgroundTask,
        metadata: TaskMetadata | None = None,
        **options: Unpack[TaskOptions],
    ) -> TaskId:
        """Take over a background task.

        Before `start` it waits there; afterwards it is initialised at once, in the background,
        and a failure in it is a task failure like any other.

        :param task: the task
        :param metadata: its description, or
        :param options: the fields of one
        :return: its identity
        :raises LifecycleError: if the name is taken, a dependency is not registered (after
            `start`), or the scheduler is stopping
        :raises ~pydantic.ValidationError: if an option is not valid; it names the field
        """
        return self._register(
            task, metadata, options, lambda entry: BackgroundLife(entry, task, self._on_end)
        )

    def register_event_task(
        self,
        task: EventTask[T],
        metadata: TaskMetadata | None = None,
        **options: Unpack[TaskOptions],
    ) -> TaskId:
        """Take over an event task; after `start` it is subscribed when this returns.

        :param task: the task
        :param metadata: its description, or
        :param options: the fields of one
        :return: its identity
        :raises InvalidChannelError: if its event has no channel (after `start`)
        :raises LifecycleError: as `register_background_task` does
        :raises ~pydantic.ValidationError: if an option is not valid; it names the field
        """

        def subscribe() -> BroadcastReceiveStream[T]:
            return self._bus.subscribe(cast("Topic[T]", task.subscribed_event))

        return self._register(
            task,
            metadata,
            options,
            lambda entry: EventLife(entry, task, subscribe, self._on_end),
        )

    def background(self, **options: Unpack[TaskOptions]) -> Callable[[B], B]:
        """Register the decorated async function as a background task.

        :param options: the fields of `TaskMetadata`; the name defaults to the function's
        :return: the decorator, which returns the function as it is
        :raises LifecycleError: as `register_background_task` does
        :raises ~pydantic.ValidationError: if an option is not valid
        """

        def register(function: B) -> B:
            self.register_background_task(BackgroundFunction(function), **options)
            return function

        return register

    @overload
    def on(
        self, event: Topic[T], **options: Unpack[TaskOptions]
    ) -> Callable[[Callable[[T], Awaitable[object]]], Callable[[T], Awaitable[object]]]: ...
    @overload
    def on(
        self, event: E, **options: Unpack[TaskOptions]
    ) -> Callable[[Callable[[str], Awaitable[object]]], Callable[[str], Awaitable[object]]]: ...
    def on(self, event: Any, **options: Unpack[TaskOptions]) -> Any:
        """Register the decorated async function as the handler of an event.

        :param event: the key
        :param options: the fields of `TaskMetadata`; the name defaults to the function's
        :return: the decorator, which returns the function as it is
        :raises InvalidChannelError: as `register_event_task` does
        :raises LifecycleError: as `register_background_task` does
        :raises ~pydantic.ValidationError: if an option is not valid
        """

        def register(
            function: Callable[[object], Awaitable[object]],
        ) -> Callable[[object], Awaitable[object]]:
            self.register_event_task(EventFunction(event, function), **options)
            return function

        return register

    def _register(
        self,
        task: BackgroundTask | EventTask[T],
        metadata: TaskMetadata | None,
        options: TaskOptions,
        give_life: Callable[[RegisteredTask], Life],
    ) -> TaskId:
        if metadata is None:
            metadata = TaskMetadata(**cast("dict[str, Any]", options)) if options else _DEFAULTS
        elif options:
            raise LifecycleError("give the metadata or its fields as keywords, not both")
        if self._phase in (_Phase.STOPPING, _Phase.STOPPED):
            raise LifecycleError("the scheduler is stopping: it takes no new tasks")
        entry = self._registry.add(task, metadata)
        life = give_life(entry)
        if self._phase in (_Phase.STARTING, _Phase.RUNNING):
            try:
                for name in metadata.depends_on:
                    self._dependency(entry, name)
                life.subscribe()
            except SchedulerError:
                self._registry.remove(entry.task_id)
                raise
            self._tell(_Command("launch", life))
        self._lives[entry.task_id] = life
        return entry.task_id

    # -- lifecycle -----------------------------------------------------------------------------

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        if self._phase is not _Phase.NEW:
            raise LifecycleError("a scheduler lives once: make a new one to run again")
        error: BaseException | None = None
        try:
            async with create_task_group() as self._block:
                with CancelScope(shield=True):  # a keeper half started could not be stopped
                    await self._block.start(self._keep)
                try:
                    yield self
                except get_cancelled_exc_class():
                    raise
                except BaseException as raised:  # goes out below, with what the tasks raised
                    error = raised
                finally:
                    self._ask_to_stop()
                    with CancelScope(shield=True):
                        await self._stopped.wait()
        finally:
            self._raise_outcome(error)

    async def start(self) -> None:
        """Subscribe all event tasks, initialise all tasks in order, then let them work.

        When this returns every task is initialised and subscribed, and all of them run. If it is
        cancelled, the scheduler stops.

        :raises LifecycleError: if it was started before or not entered, if a ``depends_on`` names
            no task or goes in a circle, or if a stop was asked for meanwhile
        :raises InvalidChannelError: if an event task's event has no channel; nothing was started,
            and `start` may be called again
        :raises TaskInitializationError: if a task's ``initialize()`` fails; those initialised
            before it have been shut down in reverse order
        """
        if self._phase is not _Phase.OPEN:
            raise LifecycleError(
                "the scheduler has been started before"
                if self._phase is not _Phase.NEW
                else "enter the scheduler first: 'async with Scheduler() as scheduler', or run()"
            )
        lives = self._in_order_of_start()
        try:
            for life in lives:
                life.subscribe()
        except SchedulerError:
            for life in lives:
                life.unsubscribe()
            raise
        self._phase = _Phase.STARTING
        with self._listening():
            try:
                ambient = copy_context()
                # All of them live from now on, but each waits for the one before it. Where tasks
                # run in the order they were started in, that is no wait at all.
                before = None
                for life in lives:
                    life.adopt(ambient)
                    self._launch(life, before)
                    before = life
                if before is not None:
                    await before.wait_initialized()  # the last: so all are, or will never be
                if self._is_stopping:
                    await self._stopped.wait()
            except get_cancelled_exc_class():
                self._ask_to_stop()
                raise
            if self._is_stopping:
                self._raise_failures()
                raise LifecycleError("the scheduler was stopped while it was starting")
        self._phase = _Phase.RUNNING
        self._go.set()
        for life in self._started.values():
            life.let_work()
        self._look_whether_finished()

    async def run(self) -> None:
        """Start, wait until there is nothing left to run for or a stop is asked for, shut down.

        It is over when every background task has ended (event tasks then handle what was
        published), or without background tasks, when every event has ended. In the main thread
        SIGINT and SIGTERM ask for a stop; a second one stops at once, cutting drains and
        ``shutdown()`` short.

        Enters the scheduler if it is not entered, and starts it if it is not started.

        :raises LifecycleError: if it ran before, or is called by one of its own tasks
        :raises TaskInitializationError: as `start` does
        :raises TaskExecutionError: if a task failed; all were shut down
        :raises ExceptionGroup: of all the failures, if there are several, or of the
            `TaskShutdownError` of each ``shutdown()`` that failed
        """
        if self._phase is _Phase.NEW:
            async with self:
                await self.run()
            return
        if self._phase is _Phase.STOPPED or self._block is None:
            raise LifecycleError("a scheduler lives once: make a new one to run again")
        if self._own_life() is not None:
            raise LifecycleError("run() would wait for the very task that calls it")
        with self._listening():
            signals = await self._block.start(self._watch_signals)
            try:
                if self._phase is _Phase.OPEN:
                    try:
                        await self.start()
                    except LifecycleError:
                        if not self._is_stopping:
                            raise
                await self._finished.wait()
                await self.shutdown()
            finally:
                signals.cancel()

    def run_sync(
        self,
        backend: Literal["asyncio", "trio"] = "asyncio",
        backend_options: Mapping[str, object] | None = None,
    ) -> None:
        """Run in a new event loop, for the ``main()`` of a program; see `run`.

        :param backend: which event loop
        :param backend_options: passed to `anyio.run`, such as ``{"use_uvloop": True}``
        :raises RuntimeError: if an event loop runs in this thread already
        :raises BaseException: as `run` does
        """
        options = None if backend_options is None else dict(backend_options)
        anyio.run(self.run, backend=backend, backend_options=options)

    async def shutdown(self) -> None:
        """Stop in order: producers, what was already published, each ``shutdown()`` in reverse.

        Twice, or from two tasks at once, is the same as once; what went wrong is raised once. A
        task of this scheduler that calls it asks for the stop and returns at once, since nobody
        can wait for their own end. If this is cancelled, the stop goes on.

        :raises TaskExecutionError: if a task failed and nobody was told yet
        :raises ExceptionGroup: of the `TaskShutdownError` of each ``shutdown()`` that failed
        """
        if self._phase is _Phase.NEW:
            return
        await checkpoint()
        self._ask_to_stop()
        if self._own_life() is not None:
            return
        with self._listening():
            await self._stopped.wait()
            self._raise_outcome(None)

    # -- single tasks --------------------------------------------------------------------------

    @overload
    def status(self, task_id: None = None) -> list[TaskSnapshot]: ...
    @overload
    def status(self, task_id: TaskId) -> TaskSnapshot: ...
    def status(self, task_id: TaskId | None = None) -> list[TaskSnapshot] | TaskSnapshot:
        """Return how one task stands, or all of them, in the order of registration.

        :param task_id: the identity; all tasks if not given
        :return: a snapshot, or a list of them
        :raises TaskNotFoundError: if there is no such task
        """
        if task_id is not None:
            return self._life(task_id).snapshot()
        return [life.snapshot() for life in self._lives.values()]

    async def wait_stopped(self, task_id: TaskId) -> TaskSnapshot:
        """Wait until a task's work has ended: it returned, was stopped, or failed.

        :param task_id: the identity
        :return: how it stands then
        :raises TaskNotFoundError: if there is no such task
        :raises LifecycleError: if a task would wait for itself
        """
        life = self._life(task_id)
        if life is self._own_life():
            raise LifecycleError(f"task {life.entry.name!r} would wait for itself to stop")
        await checkpoint()
        await life.wait_over()
        return life.snapshot()

    async def stop_task(self, task_id: TaskId) -> None:
        """Stop one task, in order: an event task handles what was published, then ``shutdown()``.

        Stopping a stopped task does nothing. A task that stops itself is not waited for: a
        background task is cancelled at its next checkpoint, a handler finishes its message and
        gets no other. If this is cancelled, the stop goes on.

        :param task_id: the identity
        :raises TaskNotFoundError: if there is no such task
        :raises TaskShutdownError: if its ``shutdown()`` fails
        """
        await self._order(_Command("retire", self._life(task_id)))

    async def restart_task(self, task_id: TaskId) -> None:
        """Stop one task and start it again: ``shutdown()``, then ``initialize()``.

        An event task handles what was published, and what is published meanwhile waits for it.

        :param task_id: the identity
        :raises TaskNotFoundError: if there is no such task
        :raises LifecycleError: if the scheduler does not run
        :raises InvalidChannelError: if its event has no channel any more
        :raises TaskShutdownError: if its ``shutdown()`` fails; it is started again all the same
        """
        if self._phase is not _Phase.RUNNING:
            raise LifecycleError("only a running scheduler can restart a task")
        life = self._life(task_id)
        if life.over:
            life.subscribe()
        await self._order(_Command("restart", life))

    async def remove_task(self, task_id: TaskId) -> None:
        """Stop one task, as `stop_task` does, and forget it; its name is free again.

        :param task_id: the identity
        :raises TaskNotFoundError: if there is no such task
        :raises TaskShutdownError: if its ``shutdown()`` fails; it is removed all the same
        """
        await self._order(_Command("remove", self._life(task_id)))

    def _life(self, task_id: TaskId) -> Life:
        return self._lives[self._registry.get(task_id).task_id]

    def _own_life(self) -> Life | None:
        """The life of the task that is running, if it is one of ours."""
        life = current_life.get()
        if life is not None and self._lives.get(life.entry.task_id) is life:
            return life
        return None

    async def _order(self, command: _Command) -> None:
        """Have the keeper do something with one life, and wait for it."""
        life = command.life
        assert life is not None
        own = life is self._own_life()
        await checkpoint()
        if self._phase in (_Phase.STARTING, _Phase.RUNNING):
            done = Event()
            if own and command.what == "restart":
                life.keep_subscription = True
                life.end()
            elif own:
                life.finish()
            self._tell(replace(command, done=done, own=own))
            if own:
                return
            await done.wait()
        elif self._phase is _Phase.STOPPING:
            if own:
                return
            await self._stopped.wait()
            if command.what == "remove":
                self._forget(life)
        elif command.what == "remove":
            self._forget(life)
        for error in self._shutdown_failures:
            if error.task_id == life.entry.task_id:
                self._shutdown_failures.remove(error)
                raise error

    # -- the keeper ----------------------------------------------------------------------------

    async def _keep(self, *, task_status: TaskStatus[None]) -> None:
        """Own all lives, obey commands, and stop everything in the end, whatever happens."""
        send, commands = create_memory_object_stream[_Command](inf)
        with CancelScope(shield=True), send, commands:
            self._commands = send
            try:
                async with create_task_group() as self._tasks:
                    self._phase = _Phase.OPEN
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
                for life in self._lives.values():
                    life.skip()
                self._phase = _Phase.STOPPED
                self._stopped.set()

    def _tell(self, command: _Command) -> None:
        assert self._commands is not None
        self._commands.send_nowait(command)

    @property
    def _is_stopping(self) -> bool:
        return self._phase in (_Phase.STOPPING, _Phase.STOPPED)

    def _ask_to_stop(self) -> None:
        if not self._is_stopping:
            self._phase = _Phase.STOPPING
            self._finished.set()
            self._tell(_Command("stop"))

    async def _obey(self, command: _Command) -> None:
        life = command.life
        assert life is not None
        try:
            if command.what == "launch":
                await self._launch_after_dependencies(life)
                return
            restart = command.what == "restart"
            self._busy_restarting += restart
            try:
                await self._retire(life, keep_subscription=restart, own=command.own)
                if restart and not self._is_stopping:
                    life.prepare()
                    life.subscribe()
                    self._launch(life)
                    await life.wait_initialized()
            finally:
                self._busy_restarting -= restart
                self._look_whether_finished()
            if command.what == "remove":
                self._forget(life)
        finally:
            if command.done is not None:
                command.done.set()

    def _forget(self, life: Life) -> None:
        task_id = life.entry.task_id
        if self._lives.pop(task_id, None) is not None:
            self._registry.remove(task_id)
            self._started.pop(task_id, None)
            life.skip()

    def _launch(self, life: Life, after: Life | None = None) -> None:
        """Let a life begin, in the context it was registered in."""
        assert self._tasks is not None
        self._started[life.entry.task_id] = life
        self._working[life.entry.kind] += 1
        self._produced |= life.entry.kind == "background"
        life.gone = False
        life.handle = self._tasks.create_task(
            life.live(self._go, after), name=life.entry.name, context=life.context
        )

    async def _launch_after_dependencies(self, life: Life) -> None:
        for name in life.entry.metadata.depends_on:
            entry = self._dependency(life.entry, name)
            await self._lives[entry.task_id].wait_initialized()
        if self._is_stopping:
            life.skip()
        elif not life.over:
            self._launch(life)

    def _life_ended(self, life: Life) -> None:
        """Decide what the end of one task's work means for the others."""
        self._working[life.entry.kind] -= 1
        if life.failure is not None and life.fatal:
            self._failures.append(life.failure)
            self._ask_to_stop()
            self._alarm()
        elif life.failure is not None:
            logger.error(
                "task %r stopped, the others go on: %s",
                life.entry.name,
                life.failure,
                exc_info=life.failure,
            )
        self._look_whether_finished()

    @contextmanager
    def _listening(self) -> Generator[None]:
        """Say that the caller raises what goes wrong, so that the body need not be told."""
        self._listeners += 1
        try:
            yield
        finally:
            self._listeners -= 1
            self._alarm()

    def _alarm(self) -> None:
        """Cancel the body of the block if a task failed and nobody else will say so."""
        if self._failures and not self._listeners and self._block is not None:
            self._block.cancel_scope.cancel()

    def _look_whether_finished(self) -> None:
        if (
            self._phase is _Phase.RUNNING
            and not self._busy_restarting
            and not self._working["background"]
            and (self._produced or not self._working["event"])
        ):
            self._finished.set()

    # -- stopping ------------------------------------------------------------------------------

    async def _stop_all(self) -> None:
        self._phase = _Phase.STOPPING
        self._finished.set()
        lives = list(self._started.values())
        with CancelScope() as self._patience:
            if self._hurried:
                self._patience.cancel()
            await self._end([life for life in lives if life.entry.kind == "background"])
            await self._drain([life for life in lives if life.entry.kind == "event"])
        await self._end(lives)
        await self._shut_down(lives)

    async def _retire(self, life: Life, *, keep_subscription: bool, own: bool) -> None:
        """Stop one life in the order of a whole stop; end when it is gone."""
        if life.gone:
            life.skip()
            return
        life.keep_subscription = keep_subscription
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
        before = None
        for life in reversed(waiting):
            if self._hurried:
                life.cut_short(_HURRY)
            life.allow_shutdown(before)
            before = life
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
                self._shutdown_failures += waiting.pop().report()

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

    def _hurry(self) -> None:
        """Stop at once: no waiting for what is left, and no time for ``shutdown()``."""
        self._hurried = True
        if self._patience is not None:
            self._patience.cancel()
        for life in self._started.values():
            life.cut_short(_HURRY)

    async def _watch_signals(self, *, task_status: TaskStatus[CancelScope]) -> None:
        with CancelScope() as scope, ExitStack() as stack:
            signals: AsyncIterator[signal.Signals] | None = None
            if threading.current_thread() is threading.main_thread():
                # asyncio on Windows has no signal handlers: there, Ctrl-C cancels the run.
                with suppress(NotImplementedError):
                    signals = stack.enter_context(
                        anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM)
                    )
            task_status.started(scope)
            if signals is None:
                return
            async for signum in signals:
                if self._is_stopping:
                    logger.warning("%s again: stopping at once", signum.name)
                    self._hurry()
                else:
                    logger.info("%s: stopping; once more stops at once", signum.name)
                    self._ask_to_stop()

    # -- order and outcome -----------------------------------------------------------------------

    def _dependency(self, entry: RegisteredTask, name: str) -> RegisteredTask:
        try:
            return self._registry.get_by_name(name)
        except TaskNotFoundError as error:
            raise LifecycleError(f"task {entry.name!r} depends on another: {error}") from error

    def _in_order_of_start(self) -> list[Life]:
        """All lives in the order of registration, each after those it depends on."""
        lives = list(self._lives.values())
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

    def _raise_failures(self) -> None:
        """Raise what ended the run, once."""
        failures, self._failures = self._failures, []
        if len(failures) == 1:
            raise failures[0]
        if failures:
            raise BaseExceptionGroup("several tasks failed", failures)

    def _raise_outcome(self, error: BaseException | None) -> None:
        """Raise `error` and all that went wrong and was not reported yet, alone or as a group."""
        failures, self._failures = self._failures, []
        shutdown_failures, self._shutdown_failures = self._shutdown_failures, []
        if error is not None:
            failures.insert(0, error)
        if shutdown_failures and not failures:
            raise ExceptionGroup("tasks did not shut down well", shutdown_failures)
        if len(failures) == 1 and not shutdown_failures:
            raise failures[0]
        if failures:
            raise BaseExceptionGroup("the scheduler stopped", [*failures, *shutdown_failures])
