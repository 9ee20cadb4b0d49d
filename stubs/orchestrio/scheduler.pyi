from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Generic, Literal, Self, TypedDict, final, overload

from anyio import AsyncContextManagerMixin
from typing_extensions import TypeVar, Unpack

from .bus import EventBus
from .models import ChannelConfig, OnError, RestartPolicy, TaskId, TaskMetadata, TaskSnapshot
from .registry import TaskRegistry
from .streams import BroadcastReceiveStream, BroadcastSendStream
from .tasks import BackgroundTask, EventTask
from .topics import Topic

__all__ = ["Scheduler", "TaskOptions"]

E = TypeVar("E", bound=Hashable, default=Hashable)
T = TypeVar("T")
B = TypeVar("B", bound=Callable[[], Awaitable[object]])

class TaskOptions(TypedDict, total=False):
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
    def __init__(self) -> None: ...
    @property
    def bus(self) -> EventBus[E]: ...
    @property
    def registry(self) -> TaskRegistry[E]: ...
    @overload
    def add_channel(self, event: Topic[T], config: ChannelConfig | None = None) -> None: ...
    @overload
    def add_channel(self, event: E, config: ChannelConfig | None = None) -> None: ...
    @overload
    def clone_sender(self, event: Topic[T]) -> BroadcastSendStream[T]: ...
    @overload
    def clone_sender(self, event: E) -> BroadcastSendStream[str]: ...
    @overload
    def subscribe(self, event: Topic[T]) -> BroadcastReceiveStream[T]: ...
    @overload
    def subscribe(self, event: E) -> BroadcastReceiveStream[str]: ...
    @overload
    async def publish(self, event: Topic[T], item: T) -> int: ...
    @overload
    async def publish(self, event: E, item: str) -> int: ...
    def register_background_task(
        self,
        task: BackgroundTask,
        metadata: TaskMetadata | None = None,
        **options: Unpack[TaskOptions],
    ) -> TaskId: ...
    def register_event_task(
        self,
        task: EventTask[T],
        metadata: TaskMetadata | None = None,
        **options: Unpack[TaskOptions],
    ) -> TaskId: ...
    def background(self, **options: Unpack[TaskOptions]) -> Callable[[B], B]: ...
    @overload
    def on(
        self, event: Topic[T], **options: Unpack[TaskOptions]
    ) -> Callable[[Callable[[T], Awaitable[object]]], Callable[[T], Awaitable[object]]]: ...
    @overload
    def on(
        self, event: E, **options: Unpack[TaskOptions]
    ) -> Callable[[Callable[[str], Awaitable[object]]], Callable[[str], Awaitable[object]]]: ...
    @asynccontextmanager
    def __asynccontextmanager__(self) -> AsyncGenerator[Self]: ...
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
    async def wait_stopped(self, task_id: TaskId) -> TaskSnapshot: ...
    async def stop_task(self, task_id: TaskId) -> None: ...
    async def restart_task(self, task_id: TaskId) -> None: ...
    async def remove_task(self, task_id: TaskId) -> None: ...
