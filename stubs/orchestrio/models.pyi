from enum import StrEnum
from typing import Any, ClassVar, Literal, TypeAlias, final

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema

__all__ = [
    "ChannelConfig",
    "OnError",
    "Overflow",
    "RestartPolicy",
    "TaskId",
    "TaskKind",
    "TaskMetadata",
    "TaskSnapshot",
    "TaskState",
]

Overflow: TypeAlias = Literal["drop_oldest", "block", "drop_newest", "error"]
OnError: TypeAlias = Literal["restart", "skip", "stop"]
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

class RestartPolicy(_Model):
    mode: Literal["never"]

class TaskMetadata(_Model):
    name: str | None
    description: str
    tags: tuple[str, ...]
    restart: RestartPolicy
    depends_on: tuple[str, ...]
    concurrency: int
    on_error: OnError | None
    start_timeout: float
    stop_timeout: float
    drain_timeout: float
    shutdown_timeout: float

class TaskSnapshot(_Model):
    task_id: TaskId
    name: str
    kind: TaskKind
    state: TaskState
    metadata: TaskMetadata
    event: str | None
    handled: int
    failed: int
    missed: int
    unread: int
    error: str | None
