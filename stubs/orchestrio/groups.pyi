from collections.abc import Awaitable, Callable, Hashable, Iterable
from datetime import tzinfo
from typing import Generic, Literal, TypedDict, overload

from typing_extensions import TypeVar, Unpack

from .models import Backoff, OnError, RestartPolicy, Strategy, TaskId, TaskMetadata
from .tasks import BackgroundTask, EventTask
from .topics import Topic

__all__ = ["Group", "TaskOptions"]

E = TypeVar("E", bound=Hashable, default=Hashable)
T = TypeVar("T")
R = TypeVar("R", bound=Awaitable[object])
B = TypeVar("B", bound=Callable[[], Awaitable[object]])

class TaskOptions(TypedDict, total=False):
    name: str
    description: str
    tags: Iterable[str]
    restart: RestartPolicy | None
    depends_on: Iterable[str]
    bind_to: bool
    significant: bool
    concurrency: int
    timeout: float
    retries: int
    retry_backoff: Backoff
    on_error: OnError | None
    singleton: bool
    reports_ready: bool
    watchdog: float
    start_timeout: float
    stop_timeout: float
    drain_timeout: float
    shutdown_timeout: float

class Group(Generic[E]):
    @property
    def name(self) -> str: ...
    def group(
        self,
        name: str,
        *,
        strategy: Strategy = "one_for_one",
        restart: RestartPolicy | None = None,
        significant: bool = False,
    ) -> Group[E]: ...
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
    def every(
        self,
        seconds: float,
        *,
        fixed: Literal["rate", "delay"] = "rate",
        **options: Unpack[TaskOptions],
    ) -> Callable[[B], B]: ...
    def cron(
        self, expression: str, *, tz: tzinfo | None = None, **options: Unpack[TaskOptions]
    ) -> Callable[[B], B]: ...
    @overload
    def on(
        self, event: Topic[T], **options: Unpack[TaskOptions]
    ) -> Callable[[Callable[[T], R]], Callable[[T], R]]: ...
    @overload
    def on(
        self, event: E, **options: Unpack[TaskOptions]
    ) -> Callable[[Callable[[str], R]], Callable[[str], R]]: ...
