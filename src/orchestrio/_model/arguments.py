"""What calls of a scheduler are given beside tasks: models that check it and name what is wrong."""

from collections.abc import Callable, Mapping
from datetime import tzinfo
from inspect import iscoroutinefunction
from typing import Annotated, Any, ClassVar, Final, Literal, cast

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from .fields import FiniteSeconds, Model, Name
from .refusals import invalid
from .settings import Policy, Strategy, TaskDefaults, TaskMetadata, TaskOptions

__all__ = [
    "CronArguments",
    "Defaults",
    "EveryArguments",
    "GroupArguments",
    "RunArguments",
    "SchedulerArguments",
    "merged",
    "options_of",
    "require_meant_for",
]

_OF_ONE_TASK: Final = TaskOptions.__annotations__.keys() - TaskDefaults.__annotations__.keys()


#: What `anyio.run` knows of each.
_BACKEND_OPTIONS: Final = {
    "asyncio": ("debug", "loop_factory", "use_uvloop"),
    "trio": (
        "clock",
        "instruments",
        "restrict_keyboard_interrupt_to_checkpoints",
        "strict_exception_groups",
    ),
}


def _is_a_dictionary(value: object) -> object:
    if value is not None and not issubclass(type(value), dict):
        raise PydanticCustomError(
            "defaults_type",
            "Give a dictionary of options, such as {example}",
            {"example": _EXAMPLE},
        )
    return value


_EXAMPLE: Final = '{"on_error": "skip"}'


class Defaults(TaskMetadata, frozen=True):
    """`TaskDefaults`, checked; only the fields that were given mean anything."""

    @model_validator(mode="before")
    @classmethod
    def _is_for_many(cls, given: Any) -> Any:
        if isinstance(cast("object", given), dict):
            for name in _OF_ONE_TASK & given.keys():
                raise ValueError(f"{name} is for one task: give it where that is registered")
        return given


def _not_async(value: object) -> object:
    if iscoroutinefunction(value):
        raise PydanticCustomError("async_function", "Give a plain function: it is not awaited")
    return value


class SchedulerArguments(Model, frozen=True):
    """What `Scheduler` is given."""

    model_config: ClassVar[ConfigDict] = ConfigDict(title="Scheduler()")

    strategy: Strategy
    random: Annotated[Callable[[], float] | None, BeforeValidator(_not_async)]
    defaults: Annotated[Defaults | None, BeforeValidator(_is_a_dictionary)]


class GroupArguments(Model, frozen=True):
    """What `Group.group` is given."""

    model_config: ClassVar[ConfigDict] = ConfigDict(title="group()")

    name: Name
    strategy: Strategy
    restart: Policy | None
    significant: Annotated[bool, Field(strict=True)]
    defaults: Annotated[Defaults | None, BeforeValidator(_is_a_dictionary)]


def _not_bare(value: object) -> object:
    if callable(value):
        raise PydanticCustomError(
            "bare", "Say when, as in @scheduler.every(5) or @scheduler.cron('*/5 * * * *')"
        )
    return value


class EveryArguments(Model, frozen=True):
    """What `Group.every` is given."""

    model_config: ClassVar[ConfigDict] = ConfigDict(title="every()")

    fixed: Literal["rate", "delay"]
    seconds: Annotated[FiniteSeconds, BeforeValidator(_not_bare)]

    @field_validator("seconds")
    @classmethod
    def _is_some_time(cls, value: float, info: ValidationInfo) -> float:
        if value < 1e-6 and info.data.get("fixed") == "rate":
            raise ValueError("a fixed rate is a finite time above 0 seconds: a microsecond or more")
        return value


def _no_name_of_a_zone(value: object) -> object:
    if isinstance(value, str):
        raise PydanticCustomError(
            "tz_type", "Give zoneinfo.ZoneInfo({name})", {"name": repr(value)}
        )
    return value


class CronArguments(Model, frozen=True):
    """What `Group.cron` is given."""

    model_config: ClassVar[ConfigDict] = ConfigDict(title="cron()", arbitrary_types_allowed=True)

    expression: Annotated[str, BeforeValidator(_not_bare)]
    tz: Annotated[tzinfo | None, BeforeValidator(_no_name_of_a_zone)]


class RunArguments(Model, frozen=True):
    """What `Scheduler.run_sync` is given."""

    model_config: ClassVar[ConfigDict] = ConfigDict(title="run_sync()")

    backend: Literal["asyncio", "trio"]
    backend_options: Mapping[str, Any] | None

    @field_validator("backend_options")
    @classmethod
    def _are_known(
        cls, value: Mapping[str, Any] | None, info: ValidationInfo
    ) -> Mapping[str, Any] | None:
        known = _BACKEND_OPTIONS.get(info.data.get("backend", ""))
        unknown = [name for name in value or () if known and name not in known]
        if known and unknown:  # on asyncio AnyIO would not even say so
            raise ValueError(f"no option: {', '.join(unknown)}; there are {', '.join(known)}")
        return value


_NOT_FOR_BACKGROUND: Final[dict[str, str]] = {
    "concurrency": "is for event tasks: register a background task several times, or have it"
    " start tasks of its own in an anyio.create_task_group()",
    **dict.fromkeys(
        ("attempt_timeout", "retries", "retry_backoff"),
        "is for messages and ticks, and a background task is called once: give it"
        " restart=RestartPolicy(...), or make it a periodic one with @scheduler.every()",
    ),
    "on_error": "can be 'restart' or 'stop': a background task has no message to skip. To run it"
    " again, give it restart=RestartPolicy(...); on_error='stop' ends it alone",
}

#: What means nothing to a task of a kind, unless it is the default, and what to do instead.
_NOT_FOR: Final[dict[str, dict[str, str]]] = {
    "background": _NOT_FOR_BACKGROUND,
    "bridge": _NOT_FOR_BACKGROUND,
    "periodic": {"concurrency": "is for event tasks: one tick ends before the next one begins"},
    "event": {},
}


def require_meant_for(kind: str, call: str, given: TaskMetadata) -> None:
    """See that no option of one task means nothing to it.

    :param kind: ``"background"``, ``"bridge"``, ``"periodic"`` or ``"event"``
    :param call: how users write the call
    :param given: the options, without the defaults of others
    :raises ~pydantic.ValidationError: if one does
    """
    said = given.model_fields_set
    for name, why in _NOT_FOR[kind].items():
        if name not in said:  # to read what nobody said takes a twentieth of a start
            continue
        value = getattr(given, name)
        is_default = value == TaskMetadata.model_fields[name].default
        if not is_default and (name != "on_error" or value == "skip"):
            raise invalid(call, name, value, f"{name} {why}")


def options_of(metadata: TaskMetadata | None) -> dict[str, Any]:
    """Return the options that somebody has given, as they were checked.

    :param metadata: what they were given to, if anything
    """
    if metadata is None:
        return {}
    return {name: getattr(metadata, name) for name in metadata.model_fields_set}


def merged(outer: Mapping[str, Any], inner: Mapping[str, Any]) -> dict[str, Any]:
    """Return what options and those around them come to: the inner ones win.

    An outer one that contradicts an inner one is no mistake: it gives way.
    """
    options = {**outer, **inner}
    policy = options.get("restart")
    if options.get("on_error") == "restart" and policy and policy.mode == "never":
        for name in {"on_error", "restart"} - inner.keys():
            del options[name]
    return options
