"""What users write: `BackgroundTask` runs, `EventTask` gets each message of one event."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Hashable
from typing import TYPE_CHECKING, Generic, Protocol, cast, final

from typing_extensions import TypeVar

from .._model.topics import Topic

__all__ = [
    "BackgroundFunction",
    "BackgroundTask",
    "EventFunction",
    "EventTask",
    "Subscriber",
    "Task",
    "event_of",
    "name_of",
]

T = TypeVar("T", default=str)


class Task(ABC):
    """What both kinds of task have: something before the work, and something after it.

    All hooks of a task run in one task of the event loop, so a context variable set in `initialize`
    is seen by the others; with ``concurrency`` above 1 handlers have tasks and copies of their own.
    A cancel scope or task group must be left in the hook that entered it.
    """

    async def initialize(self) -> None:
        """Get ready: called once in each run, before any work, in the order of registration.

        Raising ends the start: what was initialised before is shut down in reverse order. In a
        restart it is a failure as any other.
        """

    async def shutdown(self) -> None:
        """Release what `initialize` took: called once in each run, shielded, in reverse order.

        It runs whatever happened before, within ``shutdown_timeout``.
        """

    @property
    def default_name(self) -> str:
        """What the task is called if its registration does not say: the name of its class."""
        return type(self).__name__


class BackgroundTask(Task):
    """A task that runs for as long as it has work.

    Example::

        from orchestrio import BackgroundTask, Scheduler

        class Countdown(BackgroundTask):
            async def initialize(self) -> None:
                self.left = 3

            async def execute(self) -> None:
                while self.left:
                    self.left -= 1

            async def shutdown(self) -> None:
                print(self.left, "left")  # 0 left

        scheduler = Scheduler()
        scheduler.register_background_task(Countdown(), name="countdown")
        scheduler.run_sync()
    """

    @abstractmethod
    async def execute(self) -> None:
        """Do the work.

        Returning is success. Raising is a failure, and the restart policy decides; with none the
        scheduler stops everything. When the task is to stop, this is cancelled.
        """


class EventTask(Task, Generic[T]):
    """A task that gets each message of the event it subscribes to, in order.

    It handles one at a time, with ``concurrency`` as many as that.

    Example::

        from orchestrio import EventTask, Scheduler, Topic

        NUMBERS = Topic("numbers", int)

        class Adder(EventTask[int]):
            subscribed_event = NUMBERS  # or a property, if it is not the same for all of them
            total = 0

            async def handle_event(self, number: int) -> None:
                self.total += number

            async def shutdown(self) -> None:
                print(self.total)  # 6

        scheduler = Scheduler()
        scheduler.add_channel(NUMBERS)
        scheduler.register_event_task(Adder())

        @scheduler.background()
        async def count() -> None:
            for number in (1, 2, 3):
                await scheduler.publish(NUMBERS, number)

        scheduler.run_sync()
    """

    @property
    def handler(self) -> Callable[[T], Awaitable[object]]:
        """What is awaited with each message; saves plain functions a call for each."""
        return self.handle_event

    # A type checker that saw the name here would want it overridden by a property alone, or by an
    # attribute alone: what it checks is the `Subscriber` that registering asks for.
    if not TYPE_CHECKING:

        @property
        @abstractmethod
        def subscribed_event(self) -> Topic[T] | Hashable:
            """The event: a `Topic` of the payload type, or a plain key for `str`."""

    @abstractmethod
    async def handle_event(self, event: T, /) -> None:
        """Handle one message.

        Raising is a failure, and ``on_error`` decides. It is called in a tight loop: a handler
        that computes for long should pass a checkpoint now and then. It may call its message what
        it likes.

        :param event: the message
        """

    async def handle_lag(self, missed: int) -> None:
        """Hear that messages were overwritten before this task read them; does nothing.

        The number is in the task's snapshot and in a log warning either way.

        :param missed: how many, exactly
        """


class Subscriber(Protocol[T]):
    """An `EventTask` that says which event it subscribes to, for type checkers.

    It is what `Group.register_event_task` takes, and what a function of your own takes that passes
    event tasks on: ``def add(task: Subscriber[Order])``. Whether `subscribed_event` is a property or
    an attribute of the class is all the same, but pyright wants the latter without `ClassVar` and
    `Final`, and neither is an ``@override``: to type checkers an `EventTask` has no such name.
    """

    @property
    def subscribed_event(self) -> Topic[T] | Hashable:
        """The event: a `Topic` of the payload type, or a plain key for `str`."""
        ...

    @property
    def default_name(self) -> str:
        """What the task is called if its registration does not say."""
        ...

    @property
    def handler(self) -> Callable[[T], Awaitable[object]]:
        """What is awaited with each message."""
        ...

    async def handle_event(self, event: T, /) -> None:
        """Handle one message.

        :param event: the message
        """
        ...

    async def handle_lag(self, missed: int) -> None:
        """Hear that messages were overwritten before this task read them.

        :param missed: how many, exactly
        """
        ...

    async def initialize(self) -> None:
        """Get ready."""
        ...

    async def shutdown(self) -> None:
        """Release what `initialize` took."""
        ...


def event_of(task: EventTask[T]) -> Topic[T] | Hashable:
    """Return the event that a task subscribes to."""
    return cast("Subscriber[T]", task).subscribed_event


@final
class BackgroundFunction(BackgroundTask):
    """A plain async function as a background task."""

    def __init__(self, function: Callable[[], Awaitable[object]]) -> None:
        self._function = function

    @property
    def default_name(self) -> str:
        return name_of(self._function)

    async def execute(self) -> None:
        await self._function()


@final
class EventFunction(EventTask[T]):
    """A plain async function of one message as an event task."""

    def __init__(
        self, event: Topic[T] | Hashable, function: Callable[[T], Awaitable[object]]
    ) -> None:
        self._event = event
        self._function = function

    @property
    def default_name(self) -> str:
        return name_of(self._function)

    @property
    def handler(self) -> Callable[[T], Awaitable[object]]:
        return self._function

    @property
    def subscribed_event(self) -> Topic[T] | Hashable:
        return self._event

    async def handle_event(self, event: T, /) -> None:
        await self._function(event)


def name_of(function: Callable[..., object]) -> str:
    """Return what a task made of a function is called."""
    return getattr(function, "__name__", type(function).__name__)
