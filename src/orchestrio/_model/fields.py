"""The base of all models, and what their fields may be: spans of time, texts, names."""

import math
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Self, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from .near import near_names

__all__ = ["Deadline", "FiniteSeconds", "Model", "Name", "Seconds", "Settings", "Text"]


def _in_seconds(value: object) -> object:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise PydanticCustomError("seconds_type", "Give a number of seconds, or a timedelta")
    return value


def _no_none(value: object) -> object:
    if value is None:
        raise PydanticCustomError("seconds_type", "Give math.inf for no limit, or leave it out")
    return value


def _not_nan(value: float) -> float:
    if math.isnan(value):
        raise ValueError("a time in seconds must be a number, not NaN")
    return value


def _null_is_infinity(value: object, info: ValidationInfo) -> object:
    return math.inf if value is None and info.mode == "json" else value


def _infinity_is_null(value: float) -> float | None:
    return None if value == math.inf else value


def _default_is_null(schema: dict[str, Any]) -> None:
    if schema.get("default") == math.inf:
        schema["default"] = None


#: A time that may be infinite; the one that stands last is asked first.
_IN_SECONDS: Final = (BeforeValidator(_in_seconds), BeforeValidator(_no_none))

#: JSON has no infinity: there it is ``null``, as JavaScript has it.
_AS_JSON: Final = (
    Field(json_schema_extra=_default_is_null),
    BeforeValidator(_null_is_infinity, json_schema_input_type=float | None),
    PlainSerializer(_infinity_is_null, return_type=float | None, when_used="json"),
)


def _as_unicode(text: str) -> str:
    """Write what is no Unicode, as in a file name that is not UTF-8, with a backslash."""
    return text.encode("utf-8", "backslashreplace").decode()


Seconds: TypeAlias = Annotated[
    float, Field(ge=0), *_IN_SECONDS, AfterValidator(_not_nan), *_AS_JSON
]
"""A span of time in seconds, or a `timedelta`, zero or more; infinity, in JSON ``null``, means no
limit.
"""

FiniteSeconds: TypeAlias = Annotated[
    float, Field(ge=0, allow_inf_nan=False), BeforeValidator(_in_seconds)
]
"""A span of time in seconds, or a `timedelta`, that has an end."""

Deadline: TypeAlias = Annotated[
    float, Field(gt=0), *_IN_SECONDS, AfterValidator(_not_nan), *_AS_JSON
]
"""A span of time in seconds, or a `timedelta`, in which something is to happen; infinity, in JSON
``null``, means never mind.
"""

Text: TypeAlias = Annotated[
    str, Field(strict=True), PlainSerializer(_as_unicode, return_type=str, when_used="json")
]
"""Any text, and no bytes; in JSON, which is Unicode, what is none is written as ``\\udc80``."""

Name: TypeAlias = Annotated[Text, Field(min_length=1, max_length=200)]
"""What a task or a group is called."""


# Frozen by a keyword of the class, here and below: that is where type checkers look for it.
class Model(BaseModel, frozen=True):
    """Base of all settings and snapshots."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid",
        ser_json_inf_nan="null",
        defer_build=True,  # until it is used: building all of them took a fifth of the import
    )


class Settings(Model, frozen=True):
    """Base of what users configure: who misspells a field is told which one was meant."""

    if not TYPE_CHECKING:  # who know the fields, and that they go by name

        def __new__(cls, *given, **_):
            if given:
                inherited = getattr(cls.__mro__[1], "model_fields", {})
                name = next(name for name in cls.model_fields if name not in inherited)
                call = f"{cls.__name__}({name}=...)"
                why = PydanticCustomError(
                    "wrong_use", "Give each field by name, as in {call}", {"call": call}
                )
                wrong = [InitErrorDetails(type=why, input=value) for value in given]
                raise ValidationError.from_exception_data(cls.__name__, wrong)
            return super().__new__(cls)

    @model_validator(mode="wrap")
    @classmethod
    def _did_you_mean(cls, given: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return validate(given)
        except ValidationError as error:
            unknown = [
                InitErrorDetails(
                    type=PydanticCustomError(
                        "extra_forbidden", "{what}", {"what": cls._no_option(str(one["loc"][0]))}
                    ),
                    loc=one["loc"],
                    input=one["input"],
                )
                for one in error.errors(include_url=False)
                if one["type"] == "extra_forbidden" and len(one["loc"]) == 1
            ]
            if not unknown:
                raise
            raise ValidationError.from_exception_data(error.title, unknown) from None

    @classmethod
    def _no_option(cls, name: str) -> str:
        near = near_names(name, cls.model_fields)
        if near:
            return f"There is no such option: did you mean {near[0]!r}?"
        return f"There is no such option; there are {', '.join(cls.model_fields)}"
