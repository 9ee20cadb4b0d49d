"""What users are shown of tasks and schedulers: Pydantic models, frozen, with nothing extra."""

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, TypeAlias, final

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from .fields import Model, Text
from .settings import RestartPolicy, Strategy, TaskMetadata

__all__ = [
    "GroupSnapshot",
    "HealthReport",
    "ProbeReport",
    "TaskId",
    "TaskKind",
    "TaskSnapshot",
    "TaskState",
]

TaskKind: TypeAlias = Literal["background", "event"]
"""Background tasks run; event tasks get each message of the event they subscribe to."""


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

    REGISTERED = "registered"
    """Known to the registry, not yet started."""
    INITIALIZING = "initializing"
    """Inside ``initialize()``."""
    READY = "ready"
    """Initialised, waiting for the others."""
    RUNNING = "running"
    """``execute()`` runs, or messages are being awaited and handled."""
    BACKING_OFF = "backing_off"
    """Ended and shut down, waiting for its restart."""
    COMPLETED = "completed"
    """``execute()`` returned or the event ended; ``shutdown()`` comes when the task is stopped."""
    STOPPING = "stopping"
    """Asked to stop: handling what is left, or waiting for its turn to shut down."""
    STOPPED = "stopped"
    """After ``shutdown()``, or never started."""
    FAILED = "failed"
    """One of its hooks or handlers raised."""


class TaskSnapshot(Model, frozen=True):
    """How one task stands at one moment."""

    task_id: TaskId
    """Identity of the task."""
    name: Text
    """Its name."""
    kind: TaskKind
    """Background or event."""
    group: Text | None = None
    """The group it is in, ``"outer/inner"`` if nested; `None` for one of the scheduler itself."""
    state: TaskState
    """Where it stands in its life."""
    metadata: TaskMetadata
    """What it was registered with."""
    event: Text | None = None
    """The event it subscribes to, in words; `None` for a background task."""
    ready: bool = False
    """Whether it works and, if it reports that itself, has said that it is ready."""
    stuck: bool = False
    """Whether it ignores its cancellation: only the end of the process will end it."""
    restarts: int = 0
    """How often the scheduler restarted it after it had ended."""
    handled: int = 0
    """Messages handled, or ticks of a periodic task done, without an error."""
    failed: int = 0
    """Messages or ticks whose handler raised."""
    in_hand: int = 0
    """Messages being handled just now."""
    missed: int = 0
    """Messages overwritten before this task read them, or ticks of a periodic task skipped."""
    unread: int = 0
    """Messages published that no handler has begun. With `handled`, `failed`, `in_hand` and
    `missed` they are all that was published since the task subscribed.
    """
    error: Text | None = None
    """What ended it, in words; `None` if nothing did."""
    started_at: datetime | None = None
    """When its work began, in UTC; `None` before that, also while it is restarted."""
    last_error: Text | None = None
    """What went wrong in it last, in whichever run: a failure, or a message or tick that no retry
    helped; `None` if nothing did. Of a very long text, the first 10,000 characters.
    """
    last_error_at: datetime | None = None
    """When that was, in UTC."""
    next_retry_at: datetime | None = None
    """When it is restarted, in UTC, while it is backing off; `None` otherwise."""
    waiting_for: Text | None = None
    """What holds it up just now, in words: ``task 'db'``, ``room in channel pages (int)``, ``its
    turn to shut down``, ``the lease 'cron'``; `None` if it is at work, or waits for messages.
    """


class GroupSnapshot(Model, frozen=True):
    """How one group stands at one moment."""

    name: Text
    """Its name."""
    group: Text | None = None
    """The group around it, ``"outer/inner"`` if nested; `None` if that is the scheduler."""
    strategy: Strategy
    """Who is restarted with one of its tasks or groups."""
    restart: RestartPolicy | None = None
    """When the group as a whole is restarted."""
    significant: bool = False
    """Whether the group around it ends when this one ends by itself."""
    ended: bool = False
    """Whether it was stopped as a whole, so that nothing in it is started any more."""
    restarts: int = 0
    """How often it was restarted as a whole."""
    tasks: tuple[Text, ...] = ()
    """The names of its own tasks, in the order of registration."""
    groups: tuple[Text, ...] = ()
    """The names of the groups in it."""


class ProbeReport(Model, frozen=True):
    """How a scheduler is, in a few lines, however many tasks it has."""

    live: bool
    """Whether it runs, starts or stops, and no task is stuck; if not, only a new process helps."""
    ready: bool
    """Whether it has started, is not stopping, and each of its tasks is ready or has completed."""
    tasks: dict[TaskState, int]
    """How many tasks are in each state, without the states that none is in."""
    not_ready: tuple[Text, ...] = ()
    """The names of the first ten tasks that are not ready, and have not completed."""


class HealthReport(Model, frozen=True):
    """How a scheduler and its tasks are, for a probe such as those of Kubernetes."""

    live: bool
    """Whether it runs, starts or stops, and no task is stuck; if not, only a new process helps."""
    ready: bool
    """Whether it has started, is not stopping, and each of its tasks is ready or has completed."""
    tasks: tuple[TaskSnapshot, ...]
    """How each task stands, in the order of registration."""
