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

__version__: str
