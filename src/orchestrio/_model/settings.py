"""What users configure: Pydantic models, frozen, with nothing extra."""

import math
from collections.abc import Iterable
from datetime import timedelta
from typing import (
    TYPE_CHECKING,
    Annotated,
    ClassVar,
    Final,
    Literal,
    Self,
    TypeAlias,
    TypedDict,
    get_args,
)

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError
from typing_extensions import Unpack

from .fields import Deadline, FiniteSeconds, Model, Name, Seconds, Settings, Text

__all__ = [
    "BackgroundOptions",
    "Backoff",
    "ChannelConfig",
    "OnError",
    "Overflow",
    "RestartMode",
    "RestartPolicy",
    "Strategy",
    "TaskDefaults",
    "TaskMetadata",
    "TaskOptions",
    "wait_before",
]

Overflow: TypeAlias = Literal["drop_oldest", "block", "drop_newest", "error"]
"""What a full channel does with one more item."""

OnError: TypeAlias = Literal["restart", "skip", "stop"]
"""What a handler that raised means for its task."""

RestartMode: TypeAlias = Literal["never", "on_failure", "always"]
"""Which ends of a task another run follows; Erlang/OTP's temporary, transient, permanent."""

Strategy: TypeAlias = Literal["one_for_one", "one_for_all", "rest_for_one"]
"""Who is restarted with a task or group that is: nobody, all of its group, or those after it."""

# An index into a channel must stay a machine word; beyond it a capacity is a mistake, not a wish.
_MAX_CAPACITY = 2**31 - 1


def _no_text(value: object) -> object:
    if isinstance(value, str):
        raise PydanticCustomError("texts_type", "Give a list: [{text}]", {"text": repr(value)})
    return value


def _no_mode(value: object) -> object:
    if isinstance(value, str) and value in get_args(RestartMode):
        raise PydanticCustomError(
            "policy_type", "Give RestartPolicy(mode={mode})", {"mode": repr(value)}
        )
    if value is not None and not issubclass(type(value), (RestartPolicy, dict)):
        raise PydanticCustomError("policy_type", "Give a policy, such as RestartPolicy(), or None")
    return value


def _no_number(value: object) -> object:
    if isinstance(value, (int, float, timedelta)):
        raise PydanticCustomError(
            "backoff_type", "Give Backoff(initial_delay={delay})", {"delay": repr(value)}
        )
    return value


class ChannelConfig(Settings, frozen=True):
    """Settings of one channel of a bus."""

    capacity: Annotated[int, Field(strict=True, ge=1, le=_MAX_CAPACITY)] = 1024
    """How many items it holds: exact, at least 1. An event task has one more in hand, with
    ``concurrency`` as many as that.
    """
    description: Text = ""
    """What the channel is for, in the user's words."""
    overflow: Overflow = "drop_oldest"
    """What happens to one item more than `capacity`."""
    replay: Annotated[int, Field(strict=True, ge=0)] = 0
    """How many of the last items a new subscriber gets first, at most `capacity`."""
    require_receivers: Annotated[bool, Field(strict=True)] = False
    """Whether sending to nobody is an `EventSendError`."""

    @field_validator("replay")
    @classmethod
    def _replay_fits(cls, value: int, info: ValidationInfo) -> int:
        capacity = info.data.get("capacity")
        if capacity is not None and value > capacity:
            raise ValueError(f"cannot replay {value} items from a channel of capacity {capacity}")
        return value


class Backoff(Settings, frozen=True):
    """How long to wait before the next attempt: longer each time, up to a cap, with jitter.

    The n-th wait is ``initial_delay * multiplier ** (n - 1)``, at most `max_delay`. Of that, the
    share `jitter` is random: with 1, *full jitter*, a wait is anything between nothing and all of
    it, so that many that failed together do not come back together
    (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
    """

    initial_delay: FiniteSeconds = 1.0
    """The first wait, before jitter, in seconds."""
    max_delay: FiniteSeconds = 60.0
    """The longest wait, in seconds."""
    multiplier: Annotated[float, Field(strict=True, ge=1, allow_inf_nan=False)] = 2.0
    """By how much each wait is longer than the one before."""
    jitter: Annotated[float, Field(strict=True, ge=0, le=1)] = 1.0
    """Which share of a wait is random, from 0 (none of it) to 1 (all of it)."""

    @model_validator(mode="after")
    def _first_wait_is_no_longer_than_the_longest(self) -> Self:
        # The default gives way to a cap below it, also when it is read from JSON.
        if self.max_delay < self.initial_delay != type(self).model_fields["initial_delay"].default:
            why = PydanticCustomError(
                "wrong_use",
                "It must be at most max_delay, which is {longest} s: raise that too",
                {"longest": f"{self.max_delay:g}"},
            )
            wrong = InitErrorDetails(type=why, loc=("initial_delay",), input=self.initial_delay)
            raise ValidationError.from_exception_data(type(self).__name__, [wrong])
        return self

    if TYPE_CHECKING:  # what is read is not all that may be given

        def __init__(
            self,
            *,
            initial_delay: float | timedelta = 1.0,
            max_delay: float | timedelta = 60.0,
            multiplier: float = 2.0,
            jitter: float = 1.0,
        ) -> None: ...

    def delay(self, attempt: int, random: float) -> float:
        """Return how long to wait before an attempt.

        :param attempt: 1 for the first wait, 2 for the second, and so on
        :param random: a random number, from 0 up to 1
        :return: the wait in seconds
        :raises ~pydantic.ValidationError: if an argument is no such number
        """
        _Attempt(attempt=attempt, random=random)
        return wait_before(attempt, self, random)


class _Attempt(Model, frozen=True):
    """What `Backoff.delay` is given."""

    model_config: ClassVar[ConfigDict] = ConfigDict(title="delay()")

    attempt: Annotated[int, Field(strict=True, ge=1)]
    random: Annotated[float, Field(strict=True, ge=0, le=1)]


def wait_before(attempt: int, backoff: Backoff, random: float) -> float:
    """Return how long to wait before an attempt, as `Backoff.delay` does, for those who know.

    :param attempt: 1 for the first wait, 2 for the second, and so on
    :param backoff: how waits grow
    :param random: a random number, from 0 up to 1
    :return: the wait in seconds
    :raises ValueError: if it is none
    """
    if not 0 <= random <= 1:
        raise ValueError(f"the source of randomness gave {random!r}, no number from 0 to 1")
    try:
        whole = min(backoff.initial_delay * backoff.multiplier ** (attempt - 1), backoff.max_delay)
    except OverflowError:
        whole = backoff.max_delay if backoff.initial_delay else 0.0
    return whole * (1 - backoff.jitter * random)


class RestartPolicy(Backoff, frozen=True):
    """When a task that ended runs again, how soon, and how often before that is too often.

    Given to a group, it says the same of the group as a whole. Semantics are those of the
    supervisors of Erlang/OTP, except that each task and each group has a count of its own.
    """

    mode: RestartMode = "on_failure"
    """``"on_failure"``: after a failure (OTP: transient). ``"always"``: also after it returned
    (permanent). ``"never"``: it stays ended; a failure is reported and the others go on
    (temporary).
    """
    max_restarts: Annotated[int, Field(strict=True, ge=0)] | None = 5
    """How many restarts `within` that time; one more failure is a failure of its group, or at the
    top, of the run. `None` sets no limit.
    """
    within: Deadline = 60.0
    """The time in which `max_restarts` are counted, a window that slides, in seconds."""

    if TYPE_CHECKING:

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


Policy: TypeAlias = Annotated[RestartPolicy, BeforeValidator(_no_mode)]
"""A restart policy, and not the word for one."""


class TaskMetadata(Settings, frozen=True):
    """Description of a task, given when it is registered.

    All times are in seconds; a `~datetime.timedelta` is read as well.
    """

    name: Name | None = None
    """Unique in its scheduler; the name of the class or function, numbered, if not given."""
    description: Text = ""
    """What the task is for, in the user's words."""
    tags: Annotated[tuple[Text, ...], BeforeValidator(_no_text)] = ()
    """Labels of the user's own, kept in the order given."""
    restart: Policy | None = None
    """When a task that ended runs again; `None`: never, and a failure is one of its group."""
    depends_on: Annotated[tuple[Text, ...], BeforeValidator(_no_text)] = ()
    """Names of the tasks that are initialised and ready before this one, and shut down after it."""
    restart_with_dependencies: Annotated[bool, Field(strict=True)] = False
    """Whether this task is restarted whenever one that it depends on is."""
    significant: Annotated[bool, Field(strict=True)] = False
    """Whether its group, or at the top the run, ends when this task ends by itself, and not by a
    command such as ``stop_task()``: a "main" task.
    """
    concurrency: Annotated[int, Field(strict=True, ge=1, le=10_000)] = 1
    """How many messages one event task handles at a time; with more than 1, order is not kept."""
    attempt_timeout: Deadline = math.inf
    """How long one attempt at handling a message, or at a tick, may take."""
    retries: Annotated[int, Field(strict=True, ge=0)] = 0
    """How often a handler that failed is called with the same message again."""
    retry_backoff: Annotated[Backoff, BeforeValidator(_no_number)] = Backoff.model_construct(
        initial_delay=0.1, max_delay=10.0
    )
    """How long to wait before each of these."""
    on_error: OnError | None = None
    """What a handler that raised, for the last time, means; `None` leaves it to `restart`."""
    singleton: Annotated[bool, Field(strict=True)] = False
    """Whether one process of a cluster alone runs it, by a lease; for background tasks, with a
    `RedisBridge`. ``execute()`` waits for the lease, and is cancelled when it is lost.
    """
    reports_ready: Annotated[bool, Field(strict=True)] = False
    """Whether the task says itself when it is ready, with ``current_task_context().ready()``."""
    watchdog: Deadline = math.inf
    """How long the task may do without ``current_task_context().beat()`` before it is taken for
    hung and fails; an event task also beats by handling messages, or by having none, a periodic
    one by each tick, and by waiting for the next.
    """
    start_timeout: Seconds = math.inf
    """How long ``initialize()``, becoming ready, or waiting for its dependencies may take, each."""
    stop_timeout: Seconds = 10.0
    """How long it may take to heed ``current_task_context().stopping`` before it is cancelled, and
    then to end before it is reported as stuck, for which it has 0.1 s in any case.
    """
    drain_timeout: Seconds = 10.0
    """How long an event task may go on handling what was published before it was stopped."""
    shutdown_timeout: Seconds = 10.0
    """How long ``shutdown()`` may take."""

    if TYPE_CHECKING:

        def __init__(self, **options: Unpack["TaskOptions"]) -> None: ...

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


_DEFAULT_POLICY: Final = RestartPolicy.model_construct()


class _OfAnyTask(TypedDict, total=False):
    """Options of tasks of both kinds."""

    tags: Iterable[str]
    """Labels of the user's own, kept in the order given."""
    restart: RestartPolicy | None
    """When a task that ended runs again; `None`: never, and a failure is one of its group."""
    restart_with_dependencies: bool
    """Whether this task is restarted whenever one that it depends on is."""
    singleton: bool
    """Whether one process of a cluster alone runs it, by a lease; for background tasks, with a
    `RedisBridge`. ``execute()`` waits for the lease, and is cancelled when it is lost.
    """
    reports_ready: bool
    """Whether the task says itself when it is ready, with ``current_task_context().ready()``."""
    watchdog: float | timedelta
    """How long the task may do without ``current_task_context().beat()`` before it is taken for
    hung and fails; an event task also beats by handling messages, or by having none, a periodic
    one by each tick, and by waiting for the next.
    """
    start_timeout: float | timedelta
    """How long ``initialize()``, becoming ready, or waiting for its dependencies may take, each."""
    stop_timeout: float | timedelta
    """How long it may take to heed ``current_task_context().stopping`` before it is cancelled, and
    then to end before it is reported as stuck, for which it has 0.1 s in any case.
    """
    drain_timeout: float | timedelta
    """How long an event task may go on handling what was published before it was stopped."""
    shutdown_timeout: float | timedelta
    """How long ``shutdown()`` may take."""


class TaskDefaults(_OfAnyTask, total=False):
    """What a scheduler or a group says for all of its tasks; times are seconds, or a `timedelta`.

    These are the options of `TaskOptions` but those that say which task it is. What is for event
    tasks and ticks only, a background task does not take from here.
    """

    concurrency: int
    """How many messages one event task handles at a time; with more than 1, order is not kept."""
    attempt_timeout: float | timedelta
    """How long one attempt at handling a message, or at a tick, may take."""
    retries: int
    """How often a handler that failed is called with the same message again."""
    retry_backoff: Backoff
    """How long to wait before each of these."""
    on_error: OnError | None
    """What a handler that raised, for the last time, means; `None` leaves it to `restart`."""


class _OfOneTask(TypedDict, total=False):
    """Options that say which task it is."""

    name: str | None
    """Unique in its scheduler; the name of the class or function, numbered, if not given."""
    description: str
    """What the task is for, in the user's words."""
    depends_on: Iterable[str]
    """Names of the tasks that are initialised and ready before this one, and shut down after it."""
    significant: bool
    """Whether its group, or at the top the run, ends when this task ends by itself, and not by a
    command such as ``stop_task()``: a "main" task.
    """


class TaskOptions(TaskDefaults, _OfOneTask, total=False):
    """The fields of `TaskMetadata` as keywords; all times are in seconds, or a `timedelta`.

    For functions of your own that pass them on: ``def mine(**options: Unpack[TaskOptions])``.
    """


class BackgroundOptions(_OfAnyTask, _OfOneTask, total=False):
    """Those of `TaskOptions` that mean something for a background task that is called once."""

    on_error: Literal["restart", "stop"] | None
    """What it means that it raised; `None` leaves it to `restart`."""
