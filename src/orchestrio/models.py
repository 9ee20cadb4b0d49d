"""What users configure and what they are shown: Pydantic models, frozen, with nothing extra."""

import math
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self, TypeAlias, final

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

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

#: What a full channel does with one more item.
Overflow: TypeAlias = Literal["drop_oldest", "block", "drop_newest", "error"]

#: What a handler that raised means for its task.
OnError: TypeAlias = Literal["restart", "skip", "stop"]

#: Which ends of a task are followed by another run; Erlang/OTP's temporary, transient, permanent.
RestartMode: TypeAlias = Literal["never", "on_failure", "always"]

#: Who is restarted with a task or group that is: nobody, all of its group, or those after it.
Strategy: TypeAlias = Literal["one_for_one", "one_for_all", "rest_for_one"]

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

#: A span of time in seconds that has an end.
FiniteSeconds: TypeAlias = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]

#: A span of time in seconds in which something is to happen; infinity means never mind.
Deadline: TypeAlias = Annotated[float, Field(strict=True, gt=0), AfterValidator(_not_nan)]


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
    #: ended and shut down, waiting for its restart
    BACKING_OFF = "backing_off"
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


class Backoff(_Model):
    """How long to wait before the next attempt: longer each time, up to a cap, with jitter.

    The n-th wait is ``initial_delay * multiplier ** (n - 1)``, at most `max_delay`. Of that, the
    share `jitter` is random: with 1, *full jitter*, a wait is anything between nothing and all of
    it, so that many that failed together do not come back together
    (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
    """

    #: the first wait, before jitter, in seconds
    initial_delay: FiniteSeconds = 1.0
    #: the longest wait, in seconds
    max_delay: FiniteSeconds = 60.0
    #: by how much each wait is longer than the one before
    multiplier: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 2.0
    #: which share of a wait is random, from 0 (none of it) to 1 (all of it)
    jitter: Annotated[float, Field(ge=0, le=1)] = 1.0

    def delay(self, attempt: int, random: float) -> float:
        """Return how long to wait before an attempt.

        :param attempt: 1 for the first wait, 2 for the second, and so on
        :param random: a random number, from 0 up to 1
        :return: the wait in seconds
        """
        try:
            whole = min(self.initial_delay * self.multiplier ** (attempt - 1), self.max_delay)
        except OverflowError:
            whole = self.max_delay if self.initial_delay else 0.0
        return whole * (1 - self.jitter * random)


class RestartPolicy(Backoff):
    """When a task that ended runs again, how soon, and how often before that is too often.

    Given to a group, it says the same of the group as a whole. Semantics are those of the
    supervisors of Erlang/OTP, except that each task and each group has a count of its own.
    """

    #: ``"on_failure"``: after a failure (OTP: transient). ``"always"``: also after it returned
    #: (permanent). ``"never"``: it stays ended; a failure is reported and the others go on
    #: (temporary).
    mode: RestartMode = "on_failure"
    #: how many restarts `within` that time; one more failure is a failure of its group, or at the
    #: top, of the run. `None` sets no limit
    max_restarts: Annotated[int, Field(strict=True, ge=0)] | None = 5
    #: the time in which `max_restarts` are counted, a window that slides, in seconds
    within: Deadline = 60.0


class TaskMetadata(_Model):
    """Description of a task, given when it is registered. All times are in seconds."""

    #: unique in its scheduler; the name of the class or function, numbered, if not given
    name: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    #: what the task is for, in the user's words
    description: str = ""
    #: labels of the user's own, kept in the order given
    tags: tuple[str, ...] = ()
    #: when a task that ended runs again; `None`: never, and a failure is one of its group
    restart: RestartPolicy | None = None
    #: names of the tasks that are initialised and ready before this one, and shut down after it
    depends_on: tuple[str, ...] = ()
    #: whether this task is restarted whenever one that it depends on is
    bind_to: Annotated[bool, Field(strict=True)] = False
    #: whether its group, or at the top the run, ends when this task ends: a "main" task
    significant: Annotated[bool, Field(strict=True)] = False
    #: how many messages one event task handles at a time; with more than 1, order is not kept
    concurrency: Annotated[int, Field(strict=True, ge=1, le=10_000)] = 1
    #: how long one attempt at handling a message may take
    timeout: Deadline = math.inf
    #: how often a handler that failed is called with the same message again
    retries: Annotated[int, Field(strict=True, ge=0)] = 0
    #: how long to wait before each of these
    retry_backoff: Backoff = Backoff(initial_delay=0.1, max_delay=10.0)
    #: what a handler that raised, for the last time, means; `None` leaves it to `restart`
    on_error: OnError | None = None
    #: whether the task says itself when it is ready, with ``current_task_context().ready()``
    reports_ready: Annotated[bool, Field(strict=True)] = False
    #: how long the task may do without ``current_task_context().beat()`` before it is taken for
    #: hung and fails; an event task also beats by handling messages, or by having none
    watchdog: Deadline = math.inf
    #: how long ``initialize()``, becoming ready, or waiting for its dependencies may take, each
    start_timeout: Seconds = math.inf
    #: how long it may take to heed ``current_task_context().stopping`` before it is cancelled, and
    #: then to end before it is reported as stuck
    stop_timeout: Seconds = 10.0
    #: how long an event task may go on handling what was published before it was stopped
    drain_timeout: Seconds = 10.0
    #: how long ``shutdown()`` may take
    shutdown_timeout: Seconds = 10.0

    @model_validator(mode="after")
    def _rules_agree(self) -> Self:
        if self.on_error == "restart" and self.restart and self.restart.mode == "never":
            raise ValueError("on_error='restart' contradicts a restart policy of mode 'never'")
        return self

    @property
    def policy(self) -> RestartPolicy | None:
        """The restart policy that applies: ``on_error="restart"`` asks for the default one."""
        if self.restart is None and self.on_error == "restart":
            return _DEFAULT_POLICY
        return self.restart


_DEFAULT_POLICY: Final = RestartPolicy()


class TaskSnapshot(_Model):
    """How one task stands at one moment."""

    #: identity of the task
    task_id: TaskId
    #: its name
    name: str
    #: background or event
    kind: TaskKind
    #: the group it is in, ``"outer/inner"`` if nested; `None` for a task of the scheduler itself
    group: str | None = None
    #: where it stands in its life
    state: TaskState
    #: what it was registered with
    metadata: TaskMetadata
    #: the event it subscribes to, in words; `None` for a background task
    event: str | None = None
    #: whether it works and, if it reports that itself, has said that it is ready
    ready: bool = False
    #: whether it ignores its cancellation: only the end of the process will end it
    stuck: bool = False
    #: how often the scheduler restarted it after it had ended
    restarts: int = 0
    #: messages handled, or ticks of a periodic task done, without an error
    handled: int = 0
    #: messages or ticks whose handler raised
    failed: int = 0
    #: messages overwritten before this task read them (lag), or ticks of a periodic task skipped
    missed: int = 0
    #: messages published and not handled yet
    unread: int = 0
    #: what ended it, in words; `None` if nothing did
    error: str | None = None


class HealthReport(_Model):
    """How a scheduler and its tasks are, for a probe such as those of Kubernetes."""

    #: whether it runs, starts or stops, and no task is stuck; if not, only a new process helps
    live: bool
    #: whether it has started, is not stopping, and each of its tasks is ready or has completed
    ready: bool
    #: how each task stands, in the order of registration
    tasks: tuple[TaskSnapshot, ...]
