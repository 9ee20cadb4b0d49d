"""orchestrio: long-running tasks that talk to each other, on asyncio and trio alike.

A `Scheduler` runs background tasks and event tasks through one lifecycle, and an `EventBus`
broadcasts typed messages between them. See the README for the idea and a first example.
"""

from inspect import isfunction as _isfunction

from ._broadcast.bus import EventBus as EventBus
from ._broadcast.channel import ChannelStatistics as ChannelStatistics
from ._broadcast.streams import (
    BroadcastReceiveStream as BroadcastReceiveStream,
    BroadcastSendStream as BroadcastSendStream,
    ReceiverStatistics as ReceiverStatistics,
    create_broadcast_stream as create_broadcast_stream,
)
from ._model.errors import (
    EventReceiveError as EventReceiveError,
    EventSendError as EventSendError,
    InvalidChannelError as InvalidChannelError,
    LaggedError as LaggedError,
    LifecycleError as LifecycleError,
    SchedulerError as SchedulerError,
    TaskExecutionError as TaskExecutionError,
    TaskInitializationError as TaskInitializationError,
    TaskNotFoundError as TaskNotFoundError,
    TaskShutdownError as TaskShutdownError,
)
from ._model.settings import (
    Backoff as Backoff,
    ChannelConfig as ChannelConfig,
    OnError as OnError,
    Overflow as Overflow,
    RestartMode as RestartMode,
    RestartPolicy as RestartPolicy,
    Strategy as Strategy,
    TaskMetadata as TaskMetadata,
    TaskOptions as TaskOptions,
)
from ._model.snapshots import (
    HealthReport as HealthReport,
    TaskId as TaskId,
    TaskKind as TaskKind,
    TaskSnapshot as TaskSnapshot,
    TaskState as TaskState,
)
from ._model.topics import Topic as Topic
from ._scheduler.group import Group as Group
from ._scheduler.scheduler import Scheduler as Scheduler
from ._tasks.context import TaskContext as TaskContext, current_task_context as current_task_context
from ._tasks.events import (
    DEAD_LETTERS as DEAD_LETTERS,
    TASK_EVENTS as TASK_EVENTS,
    DeadLetter as DeadLetter,
    RestartScheduled as RestartScheduled,
    StateChanged as StateChanged,
    TaskEvent as TaskEvent,
    TaskFailed as TaskFailed,
    TaskLagged as TaskLagged,
)
from ._tasks.registry import RegisteredTask as RegisteredTask, TaskRegistry as TaskRegistry
from ._tasks.task import BackgroundTask as BackgroundTask, EventTask as EventTask, Task as Task

__version__ = "0.1.0"

# Public names and their methods say where users find them, in tracebacks and help().
for _name, _value in list(globals().items()):
    if callable(_value) and getattr(_value, "__module__", "").startswith(__name__ + "."):
        for _named in (_value, *filter(_isfunction, vars(_value).values())):
            _named.__module__ = __name__
