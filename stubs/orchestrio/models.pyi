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

class _Model(BaseModel):
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

class ChannelConfig(_Model):
    capacity: int
    description: str
    overflow: Overflow
    replay: int
    require_receivers: bool

class Backoff(_Model):
    initial_delay: float
    max_delay: float
    multiplier: float
    jitter: float
    def delay(self, attempt: int, random: float) -> float: ...

class RestartPolicy(Backoff):
    mode: RestartMode
    max_restarts: int | None
    within: float

class TaskMetadata(_Model):
    name: str | None
    description: str
    tags: tuple[str, ...]
    restart: RestartPolicy | None
    depends_on: tuple[str, ...]
    bind_to: bool
    significant: bool
    concurrency: int
    timeout: float
    retries: int
    retry_backoff: Backoff
    on_error: OnError | None
    reports_ready: bool
    watchdog: float
    start_timeout: float
    stop_timeout: float
    drain_timeout: float
    shutdown_timeout: float
    @property
    def policy(self) -> RestartPolicy | None: ...

class TaskSnapshot(_Model):
    task_id: TaskId
    name: str
    kind: TaskKind
    group: str | None
    state: TaskState
    metadata: TaskMetadata
    event: str | None
    ready: bool
    stuck: bool
    restarts: int
    handled: int
    failed: int
    missed: int
    unread: int
    error: str | None

class HealthReport(_Model):
    live: bool
    ready: bool
    tasks: tuple[TaskSnapshot, ...]
