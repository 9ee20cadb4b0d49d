"""What a scheduler tells about itself, on two topics that are on the bus of every scheduler.

`TASK_EVENTS` carries what happens to tasks, for dashboards, metrics and tests. `DEAD_LETTERS`
carries the messages whose handler failed for good. Both cost nothing while nobody subscribes.
"""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Generic, final

from anyio import WouldBlock
from typing_extensions import TypeVar

from .._broadcast._streams.send import BroadcastSendStream, channel_of
from .._broadcast.bus import EventBus
from .._broadcast.channel import Channel
from .._model.errors import EventSendError, InvalidChannelError, LifecycleError
from .._model.log import logger
from .._model.snapshots import TaskId, TaskState
from .._model.topics import Topic

__all__ = [
    "DEAD_LETTERS",
    "TASK_EVENTS",
    "DeadLetter",
    "Publisher",
    "RestartScheduled",
    "StateChanged",
    "TaskEvent",
    "TaskFailed",
    "TaskLagged",
]

E = TypeVar("E", bound=Hashable, default=Hashable)
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEvent:
    """Something that happened to a task; which, its class says."""

    task_id: TaskId
    """Identity of the task."""
    task_name: str
    """Its name."""
    group: str | None
    """The group it is in, ``"outer/inner"`` if nested; `None` for one of the scheduler itself."""
    time: float
    """When it happened, in seconds on the event loop's clock."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StateChanged(TaskEvent):
    """A task went from one state to another."""

    previous: TaskState
    """Where it stood."""
    state: TaskState
    """Where it stands now."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RestartScheduled(TaskEvent):
    """A task will be restarted: it failed, or another did with which it is restarted."""

    delay: float
    """How many seconds after its end at the earliest."""
    cause: BaseException | None
    """What made it necessary; `None` if somebody asked for it."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TaskLagged(TaskEvent):
    """An event task was too slow, and messages were overwritten before it read them."""

    missed: int
    """How many, exactly."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFailed(TaskEvent):
    """A task failed; what that means for others, its policy says."""

    error: BaseException
    """A `SchedulerError` that names the task, or a `KeyboardInterrupt` and its like."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A message whose handler failed for good, after all retries."""

    task_id: TaskId
    """Identity of the task that could not handle it."""
    task_name: str
    """Its name."""
    event: object
    """The event it was published on."""
    message: object
    """The message as it was published."""
    error: Exception
    """What the handler raised the last time."""
    attempts: int
    """How often the handler was called with it."""
    time: float
    """When it failed for good, in seconds on the event loop's clock."""


TASK_EVENTS: Final = Topic("orchestrio.task_events", TaskEvent)
"""What happens to the tasks of a scheduler: each is of a subclass of `TaskEvent`."""

DEAD_LETTERS: Final = Topic("orchestrio.dead_letters", DeadLetter)
"""The messages that no retry helped."""


@final
class Publisher(Generic[T]):
    """One of the two topics: publishes if anybody subscribes, and never gets in the way.

    Users may take its channel off the bus, or put one with other settings in its place.
    """

    __slots__ = ("_bus", "_sender", "_topic", "channel")

    def __init__(self, bus: EventBus[E], topic: Topic[T]) -> None:
        bus.add_channel(topic)
        self._bus: EventBus[Any] = bus
        self._topic = topic
        self._find_channel()

    def _find_channel(self) -> None:
        self._sender: BroadcastSendStream[T] = self._bus.clone_sender(self._topic)
        #: knows whether anybody would get a message, so that it need not be made otherwise
        self.channel: Channel[T] = channel_of(self._sender)

    @property
    def wanted(self) -> bool:
        """Whether anybody may get a message."""
        return self.channel.receivers > 0 or self.channel.shut

    def publish(self, message: T) -> None:
        """Publish a message, if anybody gets it; what the channel refuses is logged."""
        if self.channel.shut:
            with suppress(InvalidChannelError, LifecycleError):
                self._find_channel()
        if self.channel.receivers and not self.channel.shut:
            try:
                self._sender.send_nowait(message)
            except (WouldBlock, EventSendError):
                logger.error("the channel of %s is full: not published: %r", self._topic, message)
