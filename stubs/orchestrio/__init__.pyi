from abc import ABC, abstractmethod
from collections.abc import (
    Awaitable,
    Callable,
    Hashable,
    Iterable,
    Iterator,
    Mapping,
)
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from enum import StrEnum
from types import TracebackType
from typing import (
    Any,
    ClassVar,
    Final,
    Generic,
    Literal,
    Protocol,
    Self,
    TypeAlias,
    TypedDict,
    final,
    overload,
)

from anyio import Event
from anyio.abc import ObjectReceiveStream, ObjectSendStream
from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema
from typing_extensions import TypeForm, TypeVar, Unpack

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

__version__: str

_E = TypeVar("_E", bound=Hashable, default=Hashable)
_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)
_Payload = TypeVar("_Payload", default=str)
_R = TypeVar("_R", bound=Awaitable[object])
_B = TypeVar("_B", bound=Callable[[], Awaitable[object]])

# -- settings and snapshots ----------------------------------------------------------------------

Overflow: TypeAlias = Literal["drop_oldest", "block", "drop_newest", "error"]
OnError: TypeAlias = Literal["restart", "skip", "stop"]
RestartMode: TypeAlias = Literal["never", "on_failure", "always"]
Strategy: TypeAlias = Literal["one_for_one", "one_for_all", "rest_for_one"]
TaskKind: TypeAlias = Literal["background", "event"]

class _Model(BaseModel, frozen=True):
    model_config: ClassVar[ConfigDict]

@final
class TaskId(str):
    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type[Any], handler: GetCoreSchemaHandler
    ) -> CoreSchema: ...

class TaskState(StrEnum):
    REGISTERED = "registered"
    INITIALIZING = "initializing"
    READY = "ready"
    RUNNING = "running"
    BACKING_OFF = "backing_off"
    COMPLETED = "completed"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"

class ChannelConfig(_Model, frozen=True):
    capacity: int = 1024
    description: str = ""
    overflow: Overflow = "drop_oldest"
    replay: int = 0
    require_receivers: bool = False

class Backoff(_Model, frozen=True):
    initial_delay: float = 1.0
    max_delay: float = 60.0
    multiplier: float = 2.0
    jitter: float = 1.0
    def __init__(
        self,
        *,
        initial_delay: float | timedelta = 1.0,
        max_delay: float | timedelta = 60.0,
        multiplier: float = 2.0,
        jitter: float = 1.0,
    ) -> None: ...
    def delay(self, attempt: int, random: float) -> float: ...

class RestartPolicy(Backoff, frozen=True):
    mode: RestartMode = "on_failure"
    max_restarts: int | None = 5
    within: float = 60.0
    def __init__(
        self,
        *,
        mode: RestartMode = "on_failure",
        max_restarts: int | None = 5,
        within: float | timedelta = 60.0,
        initial_delay: float | timedelta = 1.0,
        max_delay: float | timedelta = 60.0,
        multiplier: float = 2.0,
        jitter: float = 1.0,
    ) -> None: ...

class TaskMetadata(_Model, frozen=True):
    name: str | None = None
    description: str = ""
    tags: tuple[str, ...] = ()
    restart: RestartPolicy | None = None
    depends_on: tuple[str, ...] = ()
    restart_with_dependencies: bool = False
    significant: bool = False
    concurrency: int = 1
    attempt_timeout: float = ...
    retries: int = 0
    retry_backoff: Backoff = ...
    on_error: OnError | None = None
    singleton: bool = False
    reports_ready: bool = False
    watchdog: float = ...
    start_timeout: float = ...
    stop_timeout: float = 10.0
    drain_timeout: float = 10.0
    shutdown_timeout: float = 10.0
    def __init__(self, **options: Unpack[TaskOptions]) -> None: ...
    @property
    def policy(self) -> RestartPolicy | None: ...

class _OfAnyTask(TypedDict, total=False):
    tags: Iterable[str]
    restart: RestartPolicy | None
    restart_with_dependencies: bool
    singleton: bool
    reports_ready: bool
    watchdog: float | timedelta
    start_timeout: float | timedelta
    stop_timeout: float | timedelta
    drain_timeout: float | timedelta
    shutdown_timeout: float | timedelta

class TaskDefaults(_OfAnyTask, total=False):
    concurrency: int
    attempt_timeout: float | timedelta
    retries: int
    retry_backoff: Backoff
    on_error: OnError | None

class _OfOneTask(TypedDict, total=False):
    name: str | None
    description: str
    depends_on: Iterable[str]
    significant: bool

class TaskOptions(TaskDefaults, _OfOneTask, total=False): ...

class BackgroundOptions(_OfAnyTask, _OfOneTask, total=False):
    on_error: Literal["restart", "stop"] | None

class TaskSnapshot(_Model, frozen=True):
    task_id: TaskId
    name: str
    kind: TaskKind
    group: str | None = None
    state: TaskState
    metadata: TaskMetadata
    event: str | None = None
    ready: bool = False
    stuck: bool = False
    restarts: int = 0
    handled: int = 0
    failed: int = 0
    in_hand: int = 0
    missed: int = 0
    unread: int = 0
    error: str | None = None
    started_at: datetime | None = None
    last_error: str | None = None
    last_error_at: datetime | None = None
    next_retry_at: datetime | None = None
    waiting_for: str | None = None

class GroupSnapshot(_Model, frozen=True):
    name: str
    group: str | None = None
    strategy: Strategy
    restart: RestartPolicy | None = None
    significant: bool = False
    ended: bool = False
    restarts: int = 0
    tasks: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()

class ProbeReport(_Model, frozen=True):
    live: bool
    ready: bool
    tasks: dict[TaskState, int]
    not_ready: tuple[str, ...] = ()

class HealthReport(_Model, frozen=True):
    live: bool
    ready: bool
    tasks: tuple[TaskSnapshot, ...]

# -- errors --------------------------------------------------------------------------------------

class SchedulerError(Exception): ...
class LifecycleError(SchedulerError): ...

class _TaskError(SchedulerError):
    task_id: TaskId
    task_name: str
    def __init__(self, message: str, task_id: TaskId, task_name: str) -> None: ...

class TaskInitializationError(_TaskError):
    shutdown_errors: tuple[TaskShutdownError, ...]

class TaskExecutionError(_TaskError):
    shutdown_errors: tuple[TaskShutdownError, ...]

class TaskShutdownError(_TaskError): ...

class TaskNotFoundError(SchedulerError):
    task_id: TaskId
    def __init__(self, message: str, task_id: TaskId) -> None: ...

class InvalidChannelError(SchedulerError):
    event: object
    def __init__(self, message: str, event: object) -> None: ...

class EventSendError(SchedulerError):
    event: object
    def __init__(self, message: str, event: object = None) -> None: ...

class EventReceiveError(SchedulerError): ...

class LaggedError(EventReceiveError):
    missed: int
    def __init__(self, message: str, missed: int) -> None: ...

# -- topics and streams --------------------------------------------------------------------------

@final
@dataclass(frozen=True, init=False, match_args=False)
class Topic(Generic[_Payload]):
    key: Hashable
    payload: TypeForm[_Payload]
    validate: bool = ...
    @overload
    def __init__(self: Topic[str], key: Hashable, *, validate: bool = False) -> None: ...
    @overload
    def __init__(
        self, key: Hashable, payload: TypeForm[_Payload], *, validate: bool = False
    ) -> None: ...
    def __getstate__(self) -> tuple[Hashable, Any, bool]: ...
    def __setstate__(self, state: tuple[Hashable, Any, bool]) -> None: ...
    def __hash__(self) -> object: ...  # type: ignore[override]  # no Hashable to a checker: see the class

@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    capacity: int
    buffered: int
    sent: int
    dropped: int
    missed: int
    senders: int
    receivers: int
    tasks_waiting_send: int
    tasks_waiting_receive: int

@dataclass(frozen=True, slots=True)
class ReceiverStatistics:
    unread: int
    missed: int
    channel: ChannelStatistics

class _BroadcastStream(ABC):
    @abstractmethod
    def close(self) -> None: ...
    async def aclose(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None: ...
    def __del__(self) -> None: ...

@final
class BroadcastSendStream(_BroadcastStream, ObjectSendStream[_T]):
    def send_nowait(self, item: _T) -> None: ...
    async def send(self, item: _T) -> None: ...
    def send_many_nowait(self, items: Iterable[_T]) -> None: ...
    def send_from_thread(self, item: _T) -> None: ...
    def send_many_from_thread(self, items: Iterable[_T]) -> None: ...
    def clone(self) -> BroadcastSendStream[_T]: ...
    def subscribe(self) -> BroadcastReceiveStream[_T]: ...
    async def wait_no_receivers(self) -> None: ...
    def close(self) -> None: ...
    def statistics(self) -> ChannelStatistics: ...

@final
class BroadcastReceiveStream(_BroadcastStream, ObjectReceiveStream[_T_co]):
    def receive_nowait(self) -> _T_co: ...
    def receive_many_nowait(self, max_items: int) -> list[_T_co]: ...
    async def receive(self) -> _T_co: ...
    async def receive_many(self, max_items: int) -> list[_T_co]: ...
    def clone(self) -> BroadcastReceiveStream[_T_co]: ...
    def resubscribe(self) -> BroadcastReceiveStream[_T_co]: ...
    def close(self) -> None: ...
    def statistics(self) -> ReceiverStatistics: ...
    def __len__(self) -> int: ...
    def __bool__(self) -> bool: ...

@final
class create_broadcast_stream(tuple[BroadcastSendStream[_T], BroadcastReceiveStream[_T]]):
    def __new__(  # type: ignore[misc]  # returns the plain tuple that it describes
        cls,
        capacity: int = 1024,
        *,
        overflow: Overflow = "drop_oldest",
        replay: int = 0,
        require_receivers: bool = False,
    ) -> tuple[BroadcastSendStream[_T], BroadcastReceiveStream[_T]]: ...

# -- the bus -------------------------------------------------------------------------------------

@final
class EventBus(Generic[_E]):
    def __init__(self) -> None: ...
    @property
    def channels(self) -> Mapping[object, ChannelConfig]: ...
    @overload
    def add_channel(self, event: Topic[_T], config: ChannelConfig | None = None) -> None: ...
    @overload
    def add_channel(self, event: _E, config: ChannelConfig | None = None) -> None: ...
    @overload
    def remove_channel(self, event: Topic[_T]) -> None: ...
    @overload
    def remove_channel(self, event: _E) -> None: ...
    @overload
    def clone_sender(self, event: Topic[_T]) -> BroadcastSendStream[_T]: ...
    @overload
    def clone_sender(self, event: _E) -> BroadcastSendStream[str]: ...
    @overload
    def subscribe(self, event: Topic[_T]) -> BroadcastReceiveStream[_T]: ...
    @overload
    def subscribe(self, event: _E) -> BroadcastReceiveStream[str]: ...
    @overload
    def publish_nowait(self, event: Topic[_T], item: _T) -> int: ...
    @overload
    def publish_nowait(self, event: _E, item: str) -> int: ...
    @overload
    async def publish(self, event: Topic[_T], item: _T) -> int: ...
    @overload
    async def publish(self, event: _E, item: str) -> int: ...
    @overload
    async def wait_for(
        self, event: Topic[_T], predicate: Callable[[_T], bool] | None = None
    ) -> _T: ...
    @overload
    async def wait_for(self, event: _E, predicate: Callable[[str], bool] | None = None) -> str: ...
    def statistics(self) -> Mapping[object, ChannelStatistics]: ...
    def close(self) -> None: ...

# -- tasks ---------------------------------------------------------------------------------------

class Task(ABC):
    async def initialize(self) -> None: ...
    async def shutdown(self) -> None: ...
    @property
    def default_name(self) -> str: ...

class BackgroundTask(Task):
    @abstractmethod
    async def execute(self) -> None: ...

class EventTask(Task, Generic[_Payload]):
    @property
    def handler(self) -> Callable[[_Payload], Awaitable[object]]: ...
    @abstractmethod
    async def handle_event(self, event: _Payload, /) -> None: ...
    async def handle_lag(self, missed: int) -> None: ...

class Subscriber(Protocol[_Payload]):
    @property
    def subscribed_event(self) -> Topic[_Payload] | Hashable: ...
    @property
    def default_name(self) -> str: ...
    @property
    def handler(self) -> Callable[[_Payload], Awaitable[object]]: ...
    async def handle_event(self, event: _Payload, /) -> None: ...
    async def handle_lag(self, missed: int) -> None: ...
    async def initialize(self) -> None: ...
    async def shutdown(self) -> None: ...

@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    topic: object
    number: int
    attempt: int
    id: str | None = ...
    published_at: datetime | None = ...
    origin: str | None = ...
    traceparent: str | None = ...

@final
class TaskContext:
    @property
    def task_id(self) -> TaskId: ...
    @property
    def task_name(self) -> str: ...
    @property
    def bus(self) -> EventBus[Hashable]: ...
    @property
    def fencing_token(self) -> int: ...
    @property
    def run(self) -> int: ...
    @property
    def message(self) -> Message: ...
    @property
    def stopping(self) -> Event: ...
    def ready(self) -> None: ...
    def beat(self) -> None: ...
    async def dependency_restarted(self) -> str: ...

def current_task_context() -> TaskContext: ...

@final
@dataclass(frozen=True, slots=True, eq=False)
class RegisteredTask:
    task_id: TaskId
    name: str
    task: Task
    metadata: TaskMetadata
    @property
    def event(self) -> object: ...
    @property
    def kind(self) -> TaskKind: ...

@final
class TaskRegistry(Generic[_E]):
    def __init__(self) -> None: ...
    def add(self, task: Task, metadata: TaskMetadata | None = None) -> RegisteredTask: ...
    def remove(self, task_id: TaskId) -> RegisteredTask: ...
    def get(self, task_id: TaskId) -> RegisteredTask: ...
    def get_by_name(self, name: str) -> RegisteredTask: ...
    def subscribers(self, event: object) -> list[RegisteredTask]: ...
    def __iter__(self) -> Iterator[RegisteredTask]: ...
    def __len__(self) -> int: ...
    def __contains__(self, task_id: object) -> bool: ...

# -- events of tasks -----------------------------------------------------------------------------

@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEvent:
    task_id: TaskId
    task_name: str
    group: str | None
    time: float

@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StateChanged(TaskEvent):
    previous: TaskState
    state: TaskState

@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RestartScheduled(TaskEvent):
    delay: float
    cause: BaseException | None

@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TaskLagged(TaskEvent):
    missed: int

@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFailed(TaskEvent):
    error: BaseException

@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    task_id: TaskId
    task_name: str
    event: object
    message: object
    error: Exception
    attempts: int
    time: float

TASK_EVENTS: Final[Topic[TaskEvent]]
DEAD_LETTERS: Final[Topic[DeadLetter]]

# -- the scheduler -------------------------------------------------------------------------------

class Group(Generic[_E]):
    @property
    def name(self) -> str: ...
    def group(
        self,
        name: str,
        *,
        strategy: Strategy = "one_for_one",
        restart: RestartPolicy | None = None,
        significant: bool = False,
        defaults: TaskDefaults | None = None,
    ) -> Group[_E]: ...
    async def stop(self) -> None: ...
    async def restart(self) -> None: ...
    async def remove(self) -> None: ...
    def register_background_task(
        self,
        task: BackgroundTask,
        metadata: TaskMetadata | None = None,
        **options: Unpack[BackgroundOptions],
    ) -> TaskId: ...
    def register_event_task(
        self,
        task: Subscriber[_T],
        metadata: TaskMetadata | None = None,
        **options: Unpack[TaskOptions],
    ) -> TaskId: ...
    @overload
    def background(self, function: _B, /) -> _B: ...
    @overload
    def background(
        self, function: None = None, /, **options: Unpack[BackgroundOptions]
    ) -> Callable[[_B], _B]: ...
    def every(
        self,
        seconds: float | timedelta,
        *,
        fixed: Literal["rate", "delay"] = "rate",
        **options: Unpack[TaskOptions],
    ) -> Callable[[_B], _B]: ...
    def cron(
        self, expression: str, *, tz: tzinfo | None = None, **options: Unpack[TaskOptions]
    ) -> Callable[[_B], _B]: ...
    @overload
    def on(
        self, event: Topic[_T], **options: Unpack[TaskOptions]
    ) -> Callable[[Callable[[_T], _R]], Callable[[_T], _R]]: ...
    @overload
    def on(
        self, event: _E, **options: Unpack[TaskOptions]
    ) -> Callable[[Callable[[str], _R]], Callable[[str], _R]]: ...

@final
class Scheduler(Group[_E]):
    def __init__(
        self,
        *,
        strategy: Strategy = "one_for_one",
        random: Callable[[], float] | None = None,
        defaults: TaskDefaults | None = None,
    ) -> None: ...
    @property
    def bus(self) -> EventBus[_E]: ...
    @property
    def registry(self) -> TaskRegistry[_E]: ...
    @property
    def stopping(self) -> Event: ...
    @overload
    def add_channel(self, event: Topic[_T], config: ChannelConfig | None = None) -> None: ...
    @overload
    def add_channel(self, event: _E, config: ChannelConfig | None = None) -> None: ...
    @overload
    def clone_sender(self, event: Topic[_T]) -> BroadcastSendStream[_T]: ...
    @overload
    def clone_sender(self, event: _E) -> BroadcastSendStream[str]: ...
    @overload
    def subscribe(self, event: Topic[_T]) -> BroadcastReceiveStream[_T]: ...
    @overload
    def subscribe(self, event: _E) -> BroadcastReceiveStream[str]: ...
    @overload
    async def publish(self, event: Topic[_T], item: _T) -> int: ...
    @overload
    async def publish(self, event: _E, item: str) -> int: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None: ...
    async def start(self) -> None: ...
    async def run(self) -> None: ...
    def run_sync(
        self,
        backend: Literal["asyncio", "trio"] = "asyncio",
        backend_options: Mapping[str, object] | None = None,
    ) -> None: ...
    async def shutdown(self) -> None: ...
    @overload
    def status(self, task_id: None = None) -> list[TaskSnapshot]: ...
    @overload
    def status(self, task_id: TaskId) -> TaskSnapshot: ...
    def health(self) -> HealthReport: ...
    def probe(self) -> ProbeReport: ...
    @property
    def groups(self) -> Mapping[str, GroupSnapshot]: ...
    async def wait_stopped(self, task_id: TaskId) -> TaskSnapshot: ...
    async def stop_task(self, task_id: TaskId) -> None: ...
    async def restart_task(self, task_id: TaskId) -> None: ...
    async def remove_task(self, task_id: TaskId) -> None: ...
