"""`Scheduler`: owns tasks and a bus, and takes both through one lifecycle.

This is what users talk to. What happens to the tasks, and in which order, is the supervisor's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import (
    AsyncGenerator,
    Callable,
    Generator,
    Hashable,
    Mapping,
)
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from random import random as uniform
from types import TracebackType
from typing import Any, Final, Literal, Self, cast, final, overload

import anyio
from anyio import (
    CancelScope,
    Event,
    create_task_group,
    get_cancelled_exc_class,
    get_current_task,
)
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint, current_token
from typing_extensions import TypeVar, override

from .._broadcast._streams.receive import BroadcastReceiveStream
from .._broadcast._streams.send import BroadcastSendStream, send_at_once
from .._broadcast.bus import EventBus, senders_of
from .._model.arguments import RunArguments, SchedulerArguments, options_of
from .._model.errors import LifecycleError
from .._model.settings import ChannelConfig, Strategy, TaskDefaults
from .._model.snapshots import (
    GroupSnapshot,
    HealthReport,
    ProbeReport,
    TaskId,
    TaskSnapshot,
    TaskState,
)
from .._model.topics import Topic
from .._model.tracebacks import UsersFrames
from .._supervision.supervisor import Stage, Supervisor
from .._tasks.registry import TaskRegistry
from .._workers.tree import Branch
from .._workers.worker import Worker
from .group import Group
from .process import feed_watchdog, heed_signals
from .signals import SIGNALS
from .systemd import Notifier

__all__ = ["Scheduler"]

E = TypeVar("E", bound=Hashable, default=Hashable)
T = TypeVar("T")

#: Tasks that are no less ready for not working.
_SETTLED: Final = (TaskState.COMPLETED, TaskState.STOPPED)

#: What nobody publishes.
_NONE: Final = object()

_LIVES_ONCE: Final = "a scheduler lives once: make a new one to run again"

_ENTER_FIRST: Final = "enter the scheduler first: 'async with Scheduler() as scheduler', or run()"

_LEFT_ELSEWHERE: Final = (
    "the scheduler was entered in one task of the event loop and left in another, as setUp and tearDown"
    " of IsolatedAsyncioTestCase and the fixtures of pytest-asyncio are; its own tasks have been"
    " stopped. Enter and leave it in one: by 'async with' in the test, or by run() in a task of its own"
)


@final
class Scheduler(Group[E]):
    """Owns tasks and an event bus, and runs them through one lifecycle.

    Use it as an async context manager, or call `run`. `E` narrows the plain event keys, as in
    ``Scheduler[MyEnum]()``. It lives once: after a stop, make a new one.

    A task that fails, and that no policy restarts, stops everything gracefully, and its error is
    raised to whoever waits in `start`, `run` or `shutdown`; if nobody does, the body of the
    ``async with`` block is cancelled and the block raises it.

    Example::

        from orchestrio import Scheduler, Topic

        TICKS = Topic("ticks", int)
        scheduler = Scheduler()
        scheduler.add_channel(TICKS)

        @scheduler.background()
        async def clock() -> None:
            await scheduler.publish(TICKS, 1)

        @scheduler.on(TICKS)
        async def show(number: int) -> None:
            print("tick", number)  # tick 1

        scheduler.run_sync()

    :param strategy: who is restarted with one of its own tasks or groups; see `group`
    :param random: returns numbers from 0 up to 1, for the jitter of delays; `random.random` if not
        given
    :param defaults: options that tasks take if they, and the groups around them, do not say
        otherwise
    :raises ~pydantic.ValidationError: if an argument is not valid; it names it
    """

    def __init__(
        self,
        *,
        strategy: Strategy = "one_for_one",
        random: Callable[[], float] | None = None,
        defaults: TaskDefaults | None = None,
    ) -> None:
        checked = SchedulerArguments.model_validate(
            {"strategy": strategy, "random": random, "defaults": defaults}
        )
        self._registry = TaskRegistry[E]()
        bus = EventBus[E]()
        supervisor = Supervisor(self._registry, bus, self._alarm, strategy, random or uniform)
        super().__init__(supervisor.root, supervisor, bus, options_of(checked.defaults))
        self._senders = senders_of(
            bus
        )  # looked up here, or each message would take a coroutine more
        self._last_event: object = _NONE  # that was published, and
        self._last_sender: Any = None  # with what
        self._listeners = 0  # calls that will raise a failure, so that the body need not be told
        self._block: TaskGroup | None = None  # around the body of the `async with` block
        self._lifetime: AbstractAsyncContextManager[None, bool | None] | None = None  # that block

    @override
    def __repr__(self) -> str:
        return f"<Scheduler: {len(self._registry)} tasks, {self._supervisor.stage.name.lower()}>"

    # -- what it is made of --------------------------------------------------------------------

    @property
    def bus(self) -> EventBus[E]:
        """The bus on which its tasks talk."""
        return self._bus

    @property
    def registry(self) -> TaskRegistry[E]:
        """The tasks it owns. Register through the scheduler, not here."""
        return self._registry

    @property
    def stopping(self) -> Event:
        """Set when the scheduler begins to stop, for those outside that are to end with it.

        Event tasks then handle what was published. After that, and before the first ``shutdown()``,
        whatever was subscribed from outside ends by itself, and threads cannot send any more.

        What is a task of the scheduler asks `current_task_context` for its own.
        """
        return self._supervisor.stopping

    @overload
    def add_channel(self, event: Topic[T], config: ChannelConfig | None = None) -> None: ...
    @overload
    def add_channel(self, event: E, config: ChannelConfig | None = None) -> None: ...
    def add_channel(self, event: Topic[T] | E, config: ChannelConfig | None = None) -> None:
        """Open a channel for an event on the scheduler's bus.

        :param event: the key: a `Topic`, or a plain hashable for `str`
        :param config: its settings; those of ``ChannelConfig()`` if not given
        :raises InvalidChannelError: if the event has a channel already, can be no key, or is to be
            validated and Pydantic does not know how
        :raises LifecycleError: if the scheduler has stopped, or `config` is something else
        """
        self._bus.add_channel(event, config)

    @overload
    def clone_sender(self, event: Topic[T]) -> BroadcastSendStream[T]: ...
    @overload
    def clone_sender(self, event: E) -> BroadcastSendStream[str]: ...
    def clone_sender(
        self, event: Topic[T] | E
    ) -> BroadcastSendStream[T] | BroadcastSendStream[str]:
        """Return a sender of the event's channel: the fastest way to publish often.

        The scheduler closes it when it stops; closing it earlier is allowed.

        :param event: the key
        :return: the sender
        :raises InvalidChannelError: if the event has no channel
        :raises LifecycleError: if the scheduler has stopped
        """
        return self._bus.clone_sender(event)

    @overload
    def subscribe(self, event: Topic[T]) -> BroadcastReceiveStream[T]: ...
    @overload
    def subscribe(self, event: E) -> BroadcastReceiveStream[str]: ...
    def subscribe(
        self, event: Topic[T] | E
    ) -> BroadcastReceiveStream[T] | BroadcastReceiveStream[str]:
        """Return a new receiver of the event; it gets all that is published from now on.

        It ends when the scheduler stops: once event tasks have handled what was published, and
        before the first ``shutdown()``.

        :param event: the key
        :return: the receiver, to be closed by the caller; it gets the channel's `replay` first
        :raises InvalidChannelError: if the event has no channel
        :raises LifecycleError: if the scheduler has stopped, or come so far in its stop
        """
        return self._bus.subscribe(event)

    @overload
    async def publish(self, event: Topic[T], item: T) -> int: ...
    @overload
    async def publish(self, event: E, item: str) -> int: ...
    async def publish(self, event: Topic[T] | E, item: T | str) -> int:
        """Publish one message, waiting for room if ``overflow="block"``.

        If this is cancelled, the message was not sent, unless a bridge with an outbox on disk has it
        already.

        :param event: the key
        :param item: the payload, a message
        :return: how many receivers it went to; 0 if ``overflow="drop_newest"`` dropped it
        :raises InvalidChannelError: if the event has no channel
        :raises LifecycleError: if the scheduler has stopped
        :raises ~anyio.ClosedResourceError: if the channel is removed while this waits for room
        :raises EventSendError: if the channel refused the message, or it is not valid
        """
        # To hash a topic, which takes a call of its own, is a tenth of all this; so the last one is
        # known again. One whose channel was removed meanwhile cannot be sent at once.
        if event is self._last_event:
            receivers = send_at_once(self._last_sender, item)
        else:
            receivers = self._look_up_and_send(event, item)
        if receivers is None:
            self._last_event = _NONE
            receivers = await self._bus.publish(event, cast("Any", item))
        return receivers

    def _look_up_and_send(self, event: object, item: object) -> int | None:
        """Do what `send_at_once` does; `None` also if the bus is to say what is wrong."""
        try:
            sender = self._senders[event]
        except (KeyError, TypeError):
            return None
        self._last_event, self._last_sender = event, sender
        return send_at_once(sender, item)

    # -- lifecycle -----------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Own the tasks while the ``async with`` block runs; leaving it stops them gracefully.

        :raises LifecycleError: if the scheduler was entered before
        """
        lifetime = self._live()
        await lifetime.__aenter__()
        self._lifetime = lifetime
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """Stop the tasks gracefully, and raise what went wrong.

        :raises LifecycleError: if it is left in another task of the event loop than it was entered in;
            then its tasks have been stopped all the same
        :raises TaskExecutionError: if a task failed and nobody was told yet
        :raises ExceptionGroup: of the `TaskShutdownError` of each ``shutdown()`` that failed
        """
        lifetime, self._lifetime = self._lifetime, None  # it would be part of a reference cycle
        if lifetime is None:
            raise LifecycleError(_ENTER_FIRST)
        return await lifetime.__aexit__(exc_type, exc_value, traceback)

    @asynccontextmanager
    async def _live(self) -> AsyncGenerator[None]:
        if self._supervisor.stage is Stage.STOPPED:
            raise LifecycleError(_LIVES_ONCE)
        if self._block is not None:  # also of one that is about to: it has not begun to run
            raise LifecycleError(
                "the scheduler has been entered already: it lives once, in one 'async with' block or"
                " one run()"
            )
        self._block = create_task_group()
        error: BaseException | None = None
        entered_in = get_current_task().id
        why = "its block was left"
        try:
            async with self._block:
                try:
                    # AnyIO's `start()` would wait for its end if a native cancellation came here.
                    self._block.start_soon(self._supervisor.run)
                    with CancelScope(shield=True):  # one half started could not be stopped
                        await self._supervisor.opened.wait()
                    yield
                except get_cancelled_exc_class():
                    why = "it was cancelled"
                    raise
                except BaseException as raised:  # goes out below, with what the tasks raised
                    error = raised
                    why = f"its block raised {type(raised).__name__}"
                finally:
                    self._supervisor.ask_to_stop(why)
                    with CancelScope(shield=True):
                        await self._supervisor.stopped.wait()
        except RuntimeError as wrong:
            if error is not None or get_current_task().id == entered_in:
                raise
            error = LifecycleError(_LEFT_ELSEWHERE)
            error.__cause__ = wrong
        finally:
            with UsersFrames():
                self._supervisor.outcome.raise_all(error)

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
        if self._supervisor.stage is not Stage.OPEN:
            raise LifecycleError(
                "the scheduler has been started before"
                if self._supervisor.stage is not Stage.NEW
                else _ENTER_FIRST
            )
        with UsersFrames(), self._listening():
            await self._supervisor.start()

    async def run(self) -> None:
        """Start, wait until there is nothing left to run for or a stop is asked for, shut down.

        It is over when every background task has ended (event tasks then handle what was
        published), or without background tasks, when every event has ended.

        In the main thread SIGINT and SIGTERM (and Ctrl-Break) ask for a stop; a second one stops at
        once, cutting drains and ``shutdown()`` short, and a third ends the process, by that signal,
        whatever Python code blocks it. If that is one long call into C, when the call returns. They
        are counted for the process, over all calls of this in the main thread, and reach all of
        them; one that begins after the first signal stops as well. When none of them is left, the
        handlers of the program are put back. A signal that the program ignores stays ignored.
        A task that ignores its cancellation is waited for; only a third signal does not wait.

        Enters the scheduler if it is not entered, and starts it if it is not started.

        :raises LifecycleError: if it ran before, or is called by one of its own tasks
        :raises TaskInitializationError: as `start` does
        :raises TaskExecutionError: if a task failed; all were shut down
        :raises ExceptionGroup: of all the failures, if there are several, or of the
            `TaskShutdownError` of each ``shutdown()`` that failed
        """
        if self._supervisor.stage is Stage.NEW:
            with UsersFrames(), SIGNALS.caught():
                async with self:  # heeded to the end of the stop, also of a cancelled one
                    self._supervisor.watch(heed_signals)
                    await self._run()
            return
        if self._supervisor.stage is Stage.STOPPED or self._block is None:
            raise LifecycleError(_LIVES_ONCE)
        if self._supervisor.own_worker() is not None:
            raise LifecycleError("run() would wait for the very task that calls it")
        with UsersFrames(), SIGNALS.caught():
            signals = self._supervisor.watch(heed_signals)
            try:
                await self._run()
            finally:
                signals.cancel()

    async def _run(self) -> None:
        assert self._block is not None
        with self._listening():
            if self._supervisor.stage is Stage.OPEN:
                try:
                    await self.start()
                except LifecycleError:
                    if not self._supervisor.is_stopping:
                        raise
            with Notifier() as systemd:
                if not self._supervisor.is_stopping:
                    systemd.ready()
                alive = await self._block.start(feed_watchdog, self._supervisor, systemd)
                try:
                    while not self._supervisor.is_finished:
                        await self._supervisor.finished.wait()
                    self._supervisor.finish()  # before another task can be registered
                    systemd.stopping()
                    await self.shutdown()
                finally:
                    alive.cancel()

    def run_sync(
        self,
        backend: Literal["asyncio", "trio"] = "asyncio",
        backend_options: Mapping[str, object] | None = None,
    ) -> None:
        """Run in a new event loop, for the ``main()`` of a program; see `run`.

        :param backend: which event loop
        :param backend_options: passed to `anyio.run`, such as ``{"use_uvloop": True}``
        :raises ~pydantic.ValidationError: if `backend` is none of them, or `backend_options` is no
            mapping
        :raises LifecycleError: if an event loop runs in this thread already
        :raises BaseException: as `run` does
        """
        RunArguments.model_validate({"backend": backend, "backend_options": backend_options})
        if _is_in_an_event_loop():
            raise LifecycleError(
                "run_sync() begins an event loop, and one runs in this thread already: call"
                " 'await scheduler.run()' there"
            )
        options = None if backend_options is None else dict(backend_options)
        with UsersFrames():
            anyio.run(self.run, backend=backend, backend_options=options)

    async def shutdown(self) -> None:
        """Stop gracefully: producers, what was already published, each ``shutdown()`` in reverse.

        What handlers publish meanwhile is handled too, as far as a chain of all event tasks goes;
        handlers that publish in a circle are not followed for ever, but finish what they have.

        Twice, or from two tasks at once, is the same as once; what went wrong is raised once. A
        task of this scheduler that calls it asks for the stop and returns at once, since nobody
        can wait for their own end. If this is cancelled, the stop goes on.

        :raises TaskExecutionError: if a task failed and nobody was told yet
        :raises ExceptionGroup: of the `TaskShutdownError` of each ``shutdown()`` that failed
        """
        if self._block is None:  # not entered
            return
        own = self._supervisor.own_worker()
        await checkpoint()
        by = "" if own is None else f" by {own.title}"
        self._supervisor.ask_to_stop(f"shutdown() was called{by}")
        if own is not None:
            return
        with UsersFrames(), self._listening():
            if not self._supervisor.stopped.is_set():  # or this may be another event loop
                await self._supervisor.stopped.wait()
            self._supervisor.outcome.raise_all()

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
            return self._worker(task_id).snapshot()
        return [worker.snapshot() for worker in self._supervisor.workers.values()]

    def health(self) -> HealthReport:
        """Return how the scheduler and its tasks are, for a liveness and a readiness probe.

        :return: a report that can be sent as JSON with ``model_dump_json()``; `probe` returns a
            small one
        """
        tasks = tuple(self.status())
        return HealthReport(
            live=self._supervisor.is_live,
            ready=self._supervisor.stage is Stage.RUNNING
            and all(task.ready or task.state in _SETTLED for task in tasks),
            tasks=tasks,
        )

    def probe(self) -> ProbeReport:
        """Return what `health` does in a few lines, however many tasks there are.

        :return: a report that can be sent as JSON with ``model_dump_json()``
        """
        workers = self._supervisor.workers.values()
        states = {worker: worker.state for worker in workers}
        late = [one for one, state in states.items() if not one.is_fit and state not in _SETTLED]
        return ProbeReport(
            live=self._supervisor.is_live,
            ready=self._supervisor.stage is Stage.RUNNING and not late,
            tasks=Counter(states.values()),
            not_ready=tuple(worker.entry.name for worker in late[:10]),
        )

    @property
    def groups(self) -> Mapping[str, GroupSnapshot]:
        """How each group stands now, by name, in the order in which they were made."""
        return {name: _snapshot(branch) for name, branch in self._supervisor.groups.items()}

    async def wait_stopped(self, task_id: TaskId) -> TaskSnapshot:
        """Wait until a task's work has ended for good: it returned, was stopped, or failed.

        A task that is to be restarted has not.

        :param task_id: the identity
        :return: how it stands then
        :raises TaskNotFoundError: if there is no such task
        :raises LifecycleError: if a task would wait for itself
        """
        worker = self._worker(task_id)
        if worker is self._supervisor.own_worker():
            raise LifecycleError(f"task {worker.entry.name!r} would wait for itself to stop")
        await checkpoint()
        await worker.wait_until(lambda: worker.is_done or worker.is_gone)
        return worker.snapshot()

    async def stop_task(self, task_id: TaskId) -> None:
        """Stop one task gracefully: an event task handles what was published, then ``shutdown()``.

        What is published after that, by its own handler too, is not waited for: the message in
        hand is finished, within ``stop_timeout``, and how many are unread is in the log.

        Stopping a stopped task does nothing. A task that stops itself is not waited for: a
        background task is cancelled at its next checkpoint, unless it listens to
        ``context.stopping``; a handler finishes its message and gets no other. If this is
        cancelled, the stop goes on.

        :param task_id: the identity
        :raises TaskNotFoundError: if there is no such task
        :raises TaskShutdownError: if its ``shutdown()`` fails
        """
        await self._commands.stop_tasks([self._worker(task_id)])

    async def restart_task(self, task_id: TaskId) -> None:
        """Stop one task and start it again: ``shutdown()``, then ``initialize()``.

        An event task handles what was published, and what is published meanwhile waits for it. A
        task that restarts itself is not waited for, as by `stop_task`. If this is cancelled, the
        restart goes on. A task that does not come so far, because what it depends on is not there
        in time or ``initialize()`` fails, has failed like any other, and this does not raise that.

        :param task_id: the identity
        :raises TaskNotFoundError: if there is no such task, or it is being removed
        :raises LifecycleError: if the scheduler does not run, the task's group has ended, or the
            task is stopped before it is initialised again
        :raises InvalidChannelError: if its event has no channel any more
        :raises TaskShutdownError: if its ``shutdown()`` fails; it is started again all the same
        """
        await self._commands.restart_task(self._worker(task_id))

    async def remove_task(self, task_id: TaskId) -> None:
        """Stop one task, as `stop_task` does, and forget it; its name is free again.

        :param task_id: the identity
        :raises TaskNotFoundError: if there is no such task
        :raises TaskShutdownError: if its ``shutdown()`` fails; it is removed all the same
        """
        await self._commands.stop_tasks([self._worker(task_id)], remove=True)

    def _worker(self, task_id: TaskId) -> Worker:
        return self._supervisor.workers[self._registry.get(task_id).task_id]

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
        if self._supervisor.outcome.failures and not self._listeners and self._block is not None:
            self._block.cancel_scope.cancel()


def _is_in_an_event_loop() -> bool:
    try:
        current_token()
    except RuntimeError:  # also that of asyncio or trio, where a context says that one ran
        return False
    return True


def _snapshot(branch: Branch) -> GroupSnapshot:
    """Say how a group stands."""
    assert branch.parent is not None
    return GroupSnapshot(
        name=branch.name,
        group=branch.parent.path,
        strategy=branch.strategy,
        restart=branch.policy,
        significant=branch.significant,
        ended=branch.has_ended,
        restarts=branch.restarted,
        tasks=tuple(one.entry.name for one in branch.children if isinstance(one, Worker)),
        groups=tuple(one.name for one in branch.children if isinstance(one, Branch)),
    )
