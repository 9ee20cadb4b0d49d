"""orchestrio: long-running tasks that talk to each other, on asyncio and trio alike.

A `Scheduler` runs background tasks and event tasks through one lifecycle, and an `EventBus`
broadcasts typed messages between them. See the README for the idea and a first example.
"""

from inspect import isfunction as _isfunction

from ._broadcast._streams.create import create_broadcast_stream
from ._broadcast._streams.receive import BroadcastReceiveStream, ReceiverStatistics
from ._broadcast._streams.send import BroadcastSendStream
from ._broadcast.bus import EventBus
from ._broadcast.channel import ChannelStatistics
from ._model.errors import (
    EventReceiveError,
    EventSendError,
    InvalidChannelError,
    LaggedError,
    LifecycleError,
    SchedulerError,
    TaskExecutionError,
    TaskInitializationError,
    TaskNotFoundError,
    TaskShutdownError,
)
from ._model.settings import (
    BackgroundOptions,
    Backoff,
    ChannelConfig,
    OnError,
    Overflow,
    RestartMode,
    RestartPolicy,
    Strategy,
    TaskDefaults,
    TaskMetadata,
    TaskOptions,
)
from ._model.snapshots import (
    GroupSnapshot,
    HealthReport,
    ProbeReport,
    TaskId,
    TaskKind,
    TaskSnapshot,
    TaskState,
)
from ._model.topics import Topic
from ._scheduler.group import Group
from ._scheduler.scheduler import Scheduler
from ._tasks.context import TaskContext, current_task_context
from ._tasks.events import (
    DEAD_LETTERS,
    TASK_EVENTS,
    DeadLetter,
    RestartScheduled,
    StateChanged,
    TaskEvent,
    TaskFailed,
    TaskLagged,
)
from ._tasks.message import Message
from ._tasks.registry import RegisteredTask, TaskRegistry
from ._tasks.task import BackgroundTask, EventTask, Subscriber, Task

__all__ = [
    "DEAD_LETTERS",
    "TASK_EVENTS",
    "BackgroundOptions",
    "BackgroundTask",
    "Backoff",
    "BroadcastReceiveStream",
    "BroadcastSendStream",
    "ChannelConfig",
    "ChannelStatistics",
    "DeadLetter",
    "EventBus",
    "EventReceiveError",
    "EventSendError",
    "EventTask",
    "Group",
    "GroupSnapshot",
    "HealthReport",
    "InvalidChannelError",
    "LaggedError",
    "LifecycleError",
    "Message",
    "OnError",
    "Overflow",
    "ProbeReport",
    "ReceiverStatistics",
    "RegisteredTask",
    "RestartMode",
    "RestartPolicy",
    "RestartScheduled",
    "Scheduler",
    "SchedulerError",
    "StateChanged",
    "Strategy",
    "Subscriber",
    "Task",
    "TaskContext",
    "TaskDefaults",
    "TaskEvent",
    "TaskExecutionError",
    "TaskFailed",
    "TaskId",
    "TaskInitializationError",
    "TaskKind",
    "TaskLagged",
    "TaskMetadata",
    "TaskNotFoundError",
    "TaskOptions",
    "TaskRegistry",
    "TaskShutdownError",
    "TaskSnapshot",
    "TaskState",
    "Topic",
    "create_broadcast_stream",
    "current_task_context",
]

__version__ = "0.2.0"

# Public names and their methods say where users find them, in tracebacks and help().
for _name in __all__:
    _value = globals()[_name]
    if callable(_value) and getattr(_value, "__module__", "").startswith(__name__ + "."):
        for _named in (_value, *filter(_isfunction, vars(_value).values())):
            _named.__module__ = __name__


def __dir__() -> list[str]:
    """Return the public names: `dir()` and the completion of a shell show no rooms."""
    return list(__all__)
