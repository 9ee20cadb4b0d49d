"""How wrong use is refused: what is said of a value that a call cannot take."""

from __future__ import annotations

from reprlib import Repr
from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from .errors import LifecycleError

__all__ = ["in_short", "invalid", "require_instance"]

T = TypeVar("T")

_short = Repr()
_short.maxstring = _short.maxother = 60  # a message is to be read, and a `repr` may be a page


def in_short(value: object) -> str:
    """Say what a value is, for the middle of a sentence.

    :param value: the value, of any type
    :return: its `repr`, shortened, or what class it is
    """
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"{_short.repr(value)} ({type(value).__name__})"


def invalid(call: str, parameter: str, value: object, why: str) -> ValidationError:
    """Return the error for a value that a call cannot take, as Pydantic says it of a field.

    :param call: how users write the call, such as ``every()``
    :param parameter: the name of what was given
    :param value: what was given for it
    :param why: what is wrong, and what to give instead
    """
    reason = PydanticCustomError("wrong_use", "{why}", {"why": why})
    return ValidationError.from_exception_data(
        call, [InitErrorDetails(type=reason, loc=(parameter,), input=value)]
    )


def require_instance(value: object, kind: type[T], what: str) -> None:
    """See that an object is of the kind that a call works with.

    :param value: the object
    :param kind: what it must be
    :param what: what it is for, such as ``the config of a channel``
    :raises LifecycleError: if it is something else
    """
    if not isinstance(value, kind):
        hint = f": make one, {kind.__name__}()" if value is kind else ""
        raise LifecycleError(f"{what} must be a {kind.__name__}, not {in_short(value)}{hint}.")
