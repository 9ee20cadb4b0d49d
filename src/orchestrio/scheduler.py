"""`Scheduler`: owns tasks and a bus, and takes both through one lifecycle.

This is what users talk to. What happens to the tasks, and in which order, is the keeper's.
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
)
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from typing import Any, Final, Generic, Literal, Self, TypedDict, cast, final, overload

import anyio
from anyio import (
    AsyncContextManagerMixin,
    CancelScope,
    create_task_group,
    get_cancelled_exc_class,
)
from anyio.abc import TaskGroup, TaskStatus
from anyio.lowlevel import checkpoint
from typing_extensions import TypeVar, Unpack

from .bus import EventBus
from .errors import LifecycleError, SchedulerError
from .keeper import Command, Keeper, Phase
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
from .supervision import BackgroundLife, EventLife, Life
from .tasks import BackgroundFunction, BackgroundTask, EventFunction, EventTask
from .topics import Topic

__all__ = ["Scheduler", "TaskOptions"]

E = TypeVar("E", bound=Hashable, default=Hashable)
T = TypeVar("T")
B = TypeVar("B", bound=Callable[[], Awaitable[object]])

logger = logging.getLogger("orchestrio")

_DEFAULTS: Final = TaskMetadata()


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
        self._keeper = Keeper(self._registry, self._bus, self._alarm)
        self._on_end = self._keeper.life_ended  # one bound method for all lives
        self._listeners = 0  # calls that will raise a failure, so that the body need not be told
        self._block: TaskGroup | None = None  # around the body of the `async with` block

    def __repr__(self) -> str:
        return f"<Scheduler: {len(self._registry)} tasks, {self._keeper.phase.name.lower()}>"

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
        if self._keeper.is_stopping:
            raise LifecycleError("the scheduler is stopping: it takes no new tasks")
        entry = self._registry.add(task, metadata)
        try:
            self._keeper.adopt(give_life(entry))
        except SchedulerError:
            self._registry.remove(entry.task_id)
            raise
        return entry.task_id

    # -- lifecycle -----------------------------------------------------------------------------

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        if self._keeper.phase is not Phase.NEW:
            raise LifecycleError("a scheduler lives once: make a new one to run again")
        error: BaseException | None = None
        try:
            async with create_task_group() as self._block:
                with CancelScope(shield=True):  # a keeper half started could not be stopped
                    await self._block.start(self._keeper.keep)
                try:
                    yield self
                except get_cancelled_exc_class():
                    raise
                except BaseException as raised:  # goes out below, with what the tasks raised
                    error = raised
                finally:
                    self._keeper.ask_to_stop()
                    with CancelScope(shield=True):
                        await self._keeper.stopped.wait()
        finally:
            self._keeper.raise_outcome(error)

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
        if self._keeper.phase is not Phase.OPEN:
            raise LifecycleError(
                "the scheduler has been started before"
                if self._keeper.phase is not Phase.NEW
                else "enter the scheduler first: 'async with Scheduler() as scheduler', or run()"
            )
        with self._listening():
            await self._keeper.start()

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
        if self._keeper.phase is Phase.NEW:
            async with self:
                await self.run()
            return
        if self._keeper.phase is Phase.STOPPED or self._block is None:
            raise LifecycleError("a scheduler lives once: make a new one to run again")
        if self._keeper.own_life() is not None:
            raise LifecycleError("run() would wait for the very task that calls it")
        with self._listening():
            signals = await self._block.start(self._watch_signals)
            try:
                if self._keeper.phase is Phase.OPEN:
                    try:
                        await self.start()
                    except LifecycleError:
                        if not self._keeper.is_stopping:
                            raise
                await self._keeper.finished.wait()
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
        if self._keeper.phase is Phase.NEW:
            return
        await checkpoint()
        self._keeper.ask_to_stop()
        if self._keeper.own_life() is not None:
            return
        with self._listening():
            await self._keeper.stopped.wait()
            self._keeper.raise_outcome(None)

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
        return [life.snapshot() for life in self._keeper.lives.values()]

    async def wait_stopped(self, task_id: TaskId) -> TaskSnapshot:
        """Wait until a task's work has ended: it returned, was stopped, or failed.

        :param task_id: the identity
        :return: how it stands then
        :raises TaskNotFoundError: if there is no such task
        :raises LifecycleError: if a task would wait for itself
        """
        life = self._life(task_id)
        if life is self._keeper.own_life():
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
        await self._keeper.order(Command("retire", self._life(task_id)))

    async def restart_task(self, task_id: TaskId) -> None:
        """Stop one task and start it again: ``shutdown()``, then ``initialize()``.

        An event task handles what was published, and what is published meanwhile waits for it.

        :param task_id: the identity
        :raises TaskNotFoundError: if there is no such task
        :raises LifecycleError: if the scheduler does not run
        :raises InvalidChannelError: if its event has no channel any more
        :raises TaskShutdownError: if its ``shutdown()`` fails; it is started again all the same
        """
        if self._keeper.phase is not Phase.RUNNING:
            raise LifecycleError("only a running scheduler can restart a task")
        life = self._life(task_id)
        if life.over:
            life.subscribe()
        await self._keeper.order(Command("restart", life))

    async def remove_task(self, task_id: TaskId) -> None:
        """Stop one task, as `stop_task` does, and forget it; its name is free again.

        :param task_id: the identity
        :raises TaskNotFoundError: if there is no such task
        :raises TaskShutdownError: if its ``shutdown()`` fails; it is removed all the same
        """
        await self._keeper.order(Command("remove", self._life(task_id)))

    def _life(self, task_id: TaskId) -> Life:
        return self._keeper.lives[self._registry.get(task_id).task_id]

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
                if self._keeper.is_stopping:
                    logger.warning("%s again: stopping at once", signum.name)
                    self._keeper.hurry()
                else:
                    logger.info("%s: stopping; once more stops at once", signum.name)
                    self._keeper.ask_to_stop()

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
        if self._keeper.failures and not self._listeners and self._block is not None:
            self._block.cancel_scope.cancel()
