"""`harness`: a scheduler that runs for the time of a test, and tells what became of each message."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable, Iterable
from contextlib import asynccontextmanager
from difflib import ndiff
from typing import Any, Generic, cast, final, overload

from anyio import Event, create_task_group, get_cancelled_exc_class
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint
from typing_extensions import TypeVar

from orchestrio import (
    DEAD_LETTERS,
    TASK_EVENTS,
    DeadLetter,
    EventTask,
    RestartScheduled,
    Scheduler,
    StateChanged,
    Task,
    TaskEvent,
    TaskSnapshot,
    TaskState,
    Topic,
)

from ._probe import Hook, Observer, observe
from ._recorder import Recorder

E = TypeVar("E", bound=Hashable, default=Hashable)
T = TypeVar("T")

#: Where a task that has messages to handle will come to it.
_AT_IT = frozenset(
    {
        TaskState.REGISTERED,
        TaskState.INITIALIZING,
        TaskState.READY,
        TaskState.RUNNING,
        TaskState.BACKING_OFF,
        TaskState.STOPPING,
    }
)

#: How many turns of the others `Harness.idle` waits for the books of a task to be closed.
_TURNS = 100


@final
class Harness(Generic[E]):
    """What a test asks about a scheduler that runs; see `harness`."""

    def __init__(self, scheduler: Scheduler[E], observer: Observer | None = None) -> None:
        self._scheduler = scheduler
        self._observer = observer
        self._recorders: dict[object, Recorder[Any]] = {}
        self._counted: dict[object, int] = {}  # recorders of each event, those of `record` as well
        self._handled: list[tuple[str, object, object]] = []  # task, event, message
        self._inside = 0  # handlers that run just now
        self._coming_back: set[str] = set()  # tasks whose restart was announced
        self._events_seen = 0
        self._names: dict[int, tuple[Task, str]] = {}
        self._changed = Event()
        self._group: TaskGroup | None = None

    # -- what it is given ----------------------------------------------------------------------

    @property
    def scheduler(self) -> Scheduler[E]:
        """The scheduler."""
        return self._scheduler

    @overload
    async def publish(self, event: Topic[T], message: T) -> int: ...
    @overload
    async def publish(self, event: E, message: str) -> int: ...
    async def publish(self, event: Topic[T] | E, message: T | str) -> int:
        """Publish one message on the bus of the scheduler; see `Scheduler.publish`.

        :param event: the key
        :param message: the payload
        :return: how many receivers it went to, without the harness's own
        :raises InvalidChannelError: as `Scheduler.publish` does, as are all other errors
        """
        receivers = await self._scheduler.bus.publish(event, cast("Any", message))
        return max(0, receivers - self._counted.get(event, 0))

    @overload
    def record(self, event: Topic[T]) -> Recorder[T]: ...
    @overload
    def record(self, event: E) -> Recorder[str]: ...
    def record(self, event: Topic[T] | E) -> Recorder[T] | Recorder[str]:
        """Subscribe a recorder, which gets all that is published from now on.

        :param event: the key
        :return: the recorder; it is closed with the harness
        :raises InvalidChannelError: if the event has no channel
        """
        recorder = Recorder[Any](self._scheduler.bus.subscribe(cast("Any", event)), self._tell)
        self._counted[event] = self._counted.get(event, 0) + 1
        assert self._group is not None
        self._group.start_soon(recorder.run)
        return recorder

    # -- what it has seen ----------------------------------------------------------------------

    async def idle(self) -> None:
        """Wait until everything that was published has been handled.

        Messages of a task that is being restarted wait for it, and so does this; those of a task
        that has ended for good are not waited for. What a background task will publish later is
        not foreseen.
        """
        await checkpoint()
        turns = _TURNS
        while not self._is_idle():
            # The last handler may have returned, and its task not have closed the books yet.
            if not self._inside and turns:
                turns -= 1
                await checkpoint()
            else:
                await self._changed.wait()
                turns = _TURNS

    def _is_idle(self) -> bool:
        self._read_task_events()
        return not any(
            (task.unread or task.in_hand)
            and (task.state in _AT_IT or task.name in self._coming_back)
            for task in self._scheduler.status()
            if task.kind == "event"
        )

    @overload
    def handled(self, event: Topic[T], *, by: str | None = None) -> list[T]: ...
    @overload
    def handled(self, event: E, *, by: str | None = None) -> list[str]: ...
    def handled(self, event: object, *, by: str | None = None) -> list[Any]:
        """Return the messages of an event whose handler has returned, in that order.

        :param event: the key
        :param by: the name of a task, to ask about its handler alone; otherwise a message is there
            once for each task that has handled it
        """
        return [
            message for task, key, message in self._handled if key == event and by in (None, task)
        ]

    @overload
    def published(self, event: Topic[T]) -> list[T]: ...
    @overload
    def published(self, event: E) -> list[str]: ...
    def published(self, event: object) -> list[Any]:
        """Return the messages published on an event since the harness was opened, in order.

        :param event: the key; its channel was there when the harness was opened
        :raises KeyError: if it was not, or asks for receivers of its own (``require_receivers``)
        :raises AssertionError: if some were overwritten before the harness could read them
        """
        recorder = self._recorders[event]
        if recorder.missed:
            raise AssertionError(
                f"{recorder.missed} messages of {event!s} were overwritten before the harness read"
                " them: give its channel more capacity"
            )
        return recorder.messages

    @property
    def dead_letters(self) -> list[DeadLetter]:
        """The messages whose handler failed for good, in order."""
        return self.published(DEAD_LETTERS)

    @property
    def task_events(self) -> list[TaskEvent]:
        """What happened to tasks, in order; see `TASK_EVENTS`."""
        return self.published(TASK_EVENTS)

    def _read_task_events(self) -> None:
        """Find out who will come back."""
        events = self.task_events
        for event in events[self._events_seen :]:
            if isinstance(event, RestartScheduled):
                self._coming_back.add(event.task_name)
            elif isinstance(event, StateChanged) and event.state in (
                TaskState.INITIALIZING,
                TaskState.STOPPED,
            ):
                self._coming_back.discard(event.task_name)
        self._events_seen = len(events)

    def task(self, name: str) -> TaskSnapshot:
        """Return how a task stands, by its name.

        :param name: the name
        :raises TaskNotFoundError: if there is no task of that name; the message lists near names
        """
        return self._scheduler.status(self._scheduler.registry.get_by_name(name).task_id)

    # -- assertions ----------------------------------------------------------------------------

    @overload
    def assert_handled(
        self, event: Topic[T], expected: Iterable[T], *, by: str | None = None
    ) -> None: ...
    @overload
    def assert_handled(
        self, event: E, expected: Iterable[str], *, by: str | None = None
    ) -> None: ...
    def assert_handled(
        self, event: Any, expected: Iterable[object], *, by: str | None = None
    ) -> None:
        """Assert that exactly these messages of an event were handled, in this order.

        :param event: the key
        :param expected: the messages
        :param by: the name of a task, to ask about its handler alone
        :raises AssertionError: if others were; it shows what is missing and what is too much
        """
        _compare(f"handled of {event!s}", self.handled(event, by=by), list(expected))

    @overload
    def assert_published(self, event: Topic[T], expected: Iterable[T]) -> None: ...
    @overload
    def assert_published(self, event: E, expected: Iterable[str]) -> None: ...
    def assert_published(self, event: Any, expected: Iterable[object]) -> None:
        """Assert that exactly these messages were published on an event, in this order.

        :param event: the key
        :param expected: the messages
        :raises AssertionError: if others were; it shows what is missing and what is too much
        """
        _compare(f"published on {event!s}", self.published(event), list(expected))

    # -- how it works --------------------------------------------------------------------------

    async def call(
        self, task: Task, hook: Hook, work: Callable[[], Awaitable[object]], message: object
    ) -> object:
        """Keep which messages were handled; the harness is the `Observer` of the tasks."""
        self._inside += 1
        try:
            if self._observer is None:
                result = await work()
            else:
                result = await self._observer.call(task, hook, work, message)
        finally:
            self._inside -= 1
            self._tell()
        if hook == "handle_event":
            event = cast("EventTask[Any]", task).subscribed_event
            self._handled.append((self.name_of(task), event, message))
        return result

    def name_of(self, task: Task) -> str:
        """Return what a task is called in the scheduler, or was before it was removed."""
        known = self._names.get(id(task))
        if known is None:
            found = (entry.name for entry in self._scheduler.registry if entry.task is task)
            known = self._names[id(task)] = task, next(found, task.default_name)
        return known[1]

    def open(self, group: TaskGroup) -> None:
        """Begin to see everything.

        :param group: in which the recorders run
        """
        self._group = group
        for entry in self._scheduler.registry:
            observe(entry.task, self)
        self._observe_newcomers()
        for event, config in self._scheduler.bus.channels.items():
            if not config.require_receivers:
                self._recorders[event] = self.record(cast("Any", event))

    def _observe_newcomers(self) -> None:
        """Observe what is registered from now on, too, with the scheduler itself."""
        for name in ("register_background_task", "register_event_task"):
            register = getattr(self._scheduler, name)

            def observed(task: Any, *args: Any, _register: Any = register, **options: Any) -> Any:
                if isinstance(task, Task):
                    observe(task, self)
                return _register(task, *args, **options)

            setattr(self._scheduler, name, observed)

    @property
    def recorders(self) -> dict[object, Recorder[Any]]:
        """The recorder of each event that had a channel when the harness was opened."""
        return self._recorders

    def recorders_of(self, event: object) -> int:
        """Return how many receivers of an event are the harness's own."""
        return self._counted.get(event, 0)

    def close(self) -> None:
        """Read what is left."""
        for recorder in self._recorders.values():
            recorder.close()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = Event()


@asynccontextmanager
async def harness(scheduler: Scheduler[E], /) -> AsyncGenerator[Harness[E]]:
    """Run a scheduler for the time of a test: all is initialised when the block begins.

    It is the scheduler as ever; a recorder subscribes to each of its channels, and what its tasks
    handle is kept. A task that fails for good ends the block, and the test in it, with that
    failure. Leaving the block stops all tasks.

    Example::

        import anyio

        from orchestrio import Scheduler, Topic
        from orchestrio.testing import harness

        ORDERS = Topic("orders", int)
        BILLS = Topic("bills", str)
        scheduler = Scheduler()
        scheduler.add_channel(ORDERS)
        scheduler.add_channel(BILLS)

        @scheduler.on(ORDERS)
        async def bill(order: int) -> None:
            await scheduler.publish(BILLS, f"bill for {order}")

        async def main() -> None:
            async with harness(scheduler) as h:
                await h.publish(ORDERS, 7)
                await h.idle()
                h.assert_handled(ORDERS, [7])
                print(h.published(BILLS))  # ['bill for 7']

        anyio.run(main)

    :param scheduler: the scheduler, not entered yet
    :return: a context manager; its value is the `Harness`
    :raises LifecycleError: if the scheduler was entered before
    :raises TaskExecutionError: if a task fails for good, as `Scheduler.run` does
    """
    h = Harness(scheduler)
    error: BaseException | None = None
    async with create_task_group() as recorders:
        try:
            async with scheduler:
                h.open(recorders)
                await scheduler.start()
                yield h
        except get_cancelled_exc_class():
            raise
        except BaseException as raised:  # goes out below, or the task group would wrap it
            error = raised
        finally:
            h.close()
            recorders.cancel_scope.cancel()
    if error is not None:
        raise error


def _compare(what: str, actual: list[Any], expected: list[object]) -> None:
    if actual != expected:
        lines = ndiff([repr(item) for item in expected], [repr(item) for item in actual])
        raise AssertionError("\n".join([f"{what}: - is missing, + is too much", *lines]))
