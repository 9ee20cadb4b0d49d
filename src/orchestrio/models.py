"""What users configure and what they are shown: Pydantic models, frozen, with nothing extra."""

import math
from enum import StrEnum
from typing import Annotated, Any, Literal, TypeAlias, final

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationInfo,
    field_validator,
)
from pydantic_core import CoreSchema, core_schema

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

#: What a full channel does with one more item.
Overflow: TypeAlias = Literal["drop_oldest", "block", "drop_newest", "error"]

#: What a handler that raised means for its task.
OnError: TypeAlias = Literal["restart", "skip", "stop"]

#: Background tasks run; event tasks get each message of the event they subscribe to.
TaskKind: TypeAlias = Literal["background", "event"]

# An index into a log must stay a machine word; beyond it a capacity is a mistake, not a wish.
_MAX_CAPACITY = 2**31 - 1


def _not_nan(value: float) -> float:
    if math.isnan(value):
        raise ValueError("a time in seconds must be a number, not NaN")
    return value


#: A span of time in seconds, zero or more; infinity means no limit.
Seconds: TypeAlias = Annotated[float, Field(strict=True, ge=0), AfterValidator(_not_nan)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


@final
class TaskId(str):
    """Identity of a task: opaque, unique in its process, printable and hashable."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<TaskId {self!s}>"

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type[Any], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(cls, core_schema.str_schema())


class TaskState(StrEnum):
    """Where a task stands in its life."""

    #: known to the registry, not yet started
    REGISTERED = "registered"
    #: inside ``initialize()``
    INITIALIZING = "initializing"
    #: initialised, waiting for the others
    READY = "ready"
    #: ``execute()`` runs, or messages are being awaited and handled
    RUNNING = "running"
    #: ``execute()`` returned or the event ended; ``shutdown()`` comes when the task is stopped
    COMPLETED = "completed"
    #: asked to stop: handling what is left, or waiting for its turn to shut down
    STOPPING = "stopping"
    #: after ``shutdown()``, or never started
    STOPPED = "stopped"
    #: one of its hooks or handlers raised
    FAILED = "failed"


class ChannelConfig(_Model):
    """Settings of one channel of a bus."""

    #: how many items the log holds: exact, at least 1; an event task has up to 256 more in hand
    capacity: Annotated[int, Field(strict=True, ge=1, le=_MAX_CAPACITY)] = 1024
    #: what the channel is for, in the user's words
    description: str = ""
    #: what happens to one item more than `capacity`
    overflow: Overflow = "drop_oldest"
    #: how many of the last items a new subscriber gets first, at most `capacity`
    replay: Annotated[int, Field(strict=True, ge=0)] = 0
    #: whether sending to nobody is an `EventSendError`
    require_receivers: Annotated[bool, Field(strict=True)] = False

    @field_validator("replay")
    @classmethod
    def _replay_fits(cls, value: int, info: ValidationInfo) -> int:
        capacity = info.data.get("capacity")
        if capacity is not None and value > capacity:
            raise ValueError(f"cannot replay {value} items from a log of capacity {capacity}")
        return value


class RestartPolicy(_Model):
    """When a task that ended runs again.

    ``"never"`` is what there is: a failure ends the run, and nothing fails in silence.
    """

    #: the only rule so far: a task that ended stays ended
    mode: Literal["never"] = "never"


class TaskMetadata(_Model):
    """Description of a task, given when it is registered. All times are in seconds."""

    #: unique in its scheduler; the name of the class or function, numbered, if not given
    name: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    #: what the task is for, in the user's words
    description: str = ""
    #: labels of the user's own, kept in the order given
    tags: tuple[str, ...] = ()
    #: when a task that ended runs again
    restart: RestartPolicy = RestartPolicy()
    #: names of the tasks that are initialised before this one and shut down after it
    depends_on: tuple[str, ...] = ()
    #: how many messages one event task handles at a time; with more than 1, order is not kept
    concurrency: Annotated[int, Field(strict=True, ge=1, le=10_000)] = 1
    #: what a handler that raised means; `None` leaves it to `restart`
    on_error: OnError | None = None
    #: how long ``initialize()`` may take
    start_timeout: Seconds = math.inf
    #: how long ``execute()`` may go on after it was cancelled before it is reported as stuck
    stop_timeout: Seconds = 10.0
    #: how long an event task may go on handling what was published before it was stopped
    drain_timeout: Seconds = 10.0
    #: how long ``shutdown()`` may take
    shutdown_timeout: Seconds = 10.0


class TaskSnapshot(_Model):
    """How one task stands at one moment."""

    #: identity of the task
    task_id: TaskId
    #: its name
    name: str
    #: background or event
    kind: TaskKind
    #: where it stands in its life
    state: TaskState
    #: what it was registered with
    metadata: TaskMetadata
    #: the event it subscribes to, in words; `None` for a background task
    event: str | None = None
    #: messages handled without an error
    handled: int = 0
    #: messages whose handler raised
    failed: int = 0
    #: messages overwritten before this task read them (lag)
    missed: int = 0
    #: messages published and not handled yet
    unread: int = 0
    #: what ended it, in words; `None` if nothing did
    error: str | None = None
