"""orchestrio: long-running tasks that talk to each other, on asyncio and trio alike.

A `Scheduler` runs background tasks and event tasks through one lifecycle, and an `EventBus`
broadcasts typed messages between them. See the README for the idea and a first example.
"""

from .bus import EventBus as EventBus
from .errors import (
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
from .log import ChannelStatistics as ChannelStatistics
from .models import (
    ChannelConfig as ChannelConfig,
    OnError as OnError,
    Overflow as Overflow,
    RestartPolicy as RestartPolicy,
    TaskId as TaskId,
    TaskKind as TaskKind,
    TaskMetadata as TaskMetadata,
    TaskSnapshot as TaskSnapshot,
    TaskState as TaskState,
)
from .registry import RegisteredTask as RegisteredTask, TaskRegistry as TaskRegistry
from .scheduler import Scheduler as Scheduler, TaskOptions as TaskOptions
from .streams import (
    BroadcastReceiveStream as BroadcastReceiveStream,
    BroadcastSendStream as BroadcastSendStream,
    ReceiverStatistics as ReceiverStatistics,
    create_broadcast_stream as create_broadcast_stream,
)
from .tasks import BackgroundTask as BackgroundTask, EventTask as EventTask
from .topics import Topic as Topic

__version__ = "0.1.0"

# Public names say where users find them, in tracebacks and help().
for _name, _value in list(globals().items()):
    if not _name.startswith("_") and getattr(_value, "__module__", "").startswith(__name__ + "."):
        _value.__module__ = __name__
