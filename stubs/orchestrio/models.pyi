from enum import StrEnum
from typing import Any, ClassVar, Literal, TypeAlias, final

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema

__all__ = [
    "Backoff",
    "ChannelConfig",
    "HealthReport",
    "OnError",
    "Overflow",
    "RestartMode",
    "RestartPolicy",
    "Strategy",
    "TaskId",
    "TaskKind",
    "TaskMetadata",
    "TaskSnapshot",
    "TaskState",
]

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
    def delay(self, attempt: int, random: float) -> float: ...

class RestartPolicy(Backoff, frozen=True):
    mode: RestartMode = "on_failure"
    max_restarts: int | None = 5
    within: float = 60.0

class TaskMetadata(_Model, frozen=True):
    name: str | None = None
    description: str = ""
    tags: tuple[str, ...] = ()
    restart: RestartPolicy | None = None
    depends_on: tuple[str, ...] = ()
    bind_to: bool = False
    significant: bool = False
    concurrency: int = 1
    timeout: float = ...
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
    @property
    def policy(self) -> RestartPolicy | None: ...

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

class HealthReport(_Model, frozen=True):
    live: bool
    ready: bool
    tasks: tuple[TaskSnapshot, ...]
