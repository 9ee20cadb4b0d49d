"""`PayloadCodec`: messages as JSON and back, so that what arrives is what was sent.

Pydantic writes and reads the JSON; nothing is ever unpickled or evaluated. What it writes it may
not read again, or read as something else: a secret is stars, NaN is null, a field of a subclass is
left out. So what was written is read before it is sent, and compared.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Generic, TypeVar, cast, final

from pydantic import BaseModel, PydanticUserError, RootModel, TypeAdapter, ValidationError

from .errors import EventSendError, InvalidChannelError
from .refusals import in_short
from .topics import Topic

__all__ = ["PayloadCodec"]

T = TypeVar("T")

_CURE: Final = "Its type must write all of it, in a form that it reads as the same."


@final
class PayloadCodec(Generic[T]):
    """Writes and reads the messages of one topic.

    Fields have their aliases in JSON, as a model's serialisation says. If it reads other ones than
    it writes, they have their names: reading takes both.

    :param event: the topic, or a plain key, which carries `str`
    :raises InvalidChannelError: if Pydantic knows no JSON for the payload
    """

    def __init__(self, event: Topic[T] | str) -> None:
        payload: Any = event.payload if isinstance(event, Topic) else str
        try:
            self._adapter = TypeAdapter[T](payload)
            #: whether `==` tells all that is different
            self._is_told_apart = all(map(_compares_all, _classes_in(self._adapter.core_schema)))
        except PydanticUserError as error:
            raise InvalidChannelError(
                f"event {event!r} cannot go to other processes: Pydantic knows no JSON for its"
                f" payload. {error}",
                event,
            ) from error
        self._event: Topic[T] | str = event
        self._is_exact = payload is str  # what JSON carries as it is, or not at all
        self._by_alias = True

    # Reading what was written takes about as long as writing it; to look at the schema instead
    # would not do, since a message may be of a subclass, or changed since it was validated.
    def encode(self, message: T) -> bytes:
        """Write a message as JSON.

        :param message: the message
        :return: what `decode` makes the same message of
        :raises EventSendError: if there is no such JSON
        """
        data = b""
        try:
            data = self._write(message, by_alias=self._by_alias)
            arrives = self._is_exact or (self._is_told_apart and bool(self.decode(data) == message))
        except Exception:  # a model may have code of its own, which raises whatever it likes
            arrives = False
        return data if arrives else self._encode_otherwise(message)

    def decode(self, data: bytes) -> T:
        """Read a message.

        :param data: its JSON
        :raises ~pydantic.ValidationError: if it is no JSON, or not of the topic's type
        """
        return cast("T", self._adapter.validator.validate_json(data, by_alias=True, by_name=True))

    def _write(self, message: T, *, by_alias: bool) -> bytes:
        # For the way back, computed fields are left out, and what was parsed is text again.
        return self._adapter.serializer.to_json(
            message, by_alias=by_alias, round_trip=True, warnings="error"
        )

    def _encode_otherwise(self, message: T) -> bytes:
        """Write a message that `==` does not find to arrive, or say what is wrong with it."""
        refusal: EventSendError | None = None
        for by_alias in (self._by_alias, not self._by_alias):
            cause: Exception | None = None
            try:
                data = self._write(message, by_alias=by_alias)
            except Exception as error:
                what, cause = f"It is not of the topic's type, or has none. {error}", error
            else:
                try:
                    change = _change(message, self.decode(data), "", self._is_told_apart)
                    if change is None:
                        self._by_alias = by_alias
                        return data
                    what = f"Not all of it would arrive as it is: {change}. {_CURE}"
                except Exception as error:
                    what, cause = f"It could not be read again. {_in_words(error)}. {_CURE}", error
            if refusal is None:
                refusal = EventSendError(
                    f"a message for {self._event} was not sent: it does not go through JSON. {what}",
                    self._event,
                )
                refusal.__cause__ = cause
        assert refusal is not None
        raise refusal


def _in_words(error: Exception) -> str:
    """Say what is wrong with JSON, without what is in it: it may be a secret."""
    if not isinstance(error, ValidationError):
        return f"{type(error).__name__}: {error}"
    details = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(
        ".".join(map(str, detail["loc"])) + ": " * bool(detail["loc"]) + detail["msg"]
        for detail in details[:3]
    )


def _classes_in(schema: object) -> Iterator[type[object]]:
    """Find the classes of which what a schema of Pydantic reads may be."""
    if isinstance(schema, Mapping):
        parts = cast("Mapping[object, object]", schema)
        is_one = isinstance(parts.get("type"), str)  # or it has one of each field, by its name
        for name, part in parts.items():
            if name == "cls" and isinstance(part, type):
                yield cast("type[object]", part)
            elif not (is_one and name in ("default", "metadata")):
                yield from _classes_in(part)
    elif isinstance(schema, (list, tuple)):
        for part in cast("Sequence[object]", schema):
            yield from _classes_in(part)


def _compares_all(kind: type[object]) -> bool:
    """Whether `==` looks at all that an instance holds, and not at its identifier alone, say."""
    if issubclass(kind, BaseModel):
        return kind.__eq__ in (BaseModel.__eq__, RootModel[Any].__eq__)
    if is_dataclass(kind):
        code = getattr(kind.__eq__, "__code__", None)
        is_made = code is not None and code.co_filename == "<string>"  # by the decorator
        return is_made and all(field.compare for field in fields(kind))
    return True


def _change(sent: object, arrived: object, where: str, is_told_apart: bool) -> str | None:
    """Say what is not as it was sent; `None` if all is.

    It is for what `==` takes for different: NaN, a time in the hour that comes twice, and objects
    that are equal to nothing but themselves. Private attributes of a model are no part of it.

    :param sent: what was sent, or a part of it
    :param arrived: what arrives of it
    :param where: which part
    :param is_told_apart: whether `==` tells all that is different
    """
    if sent is arrived or (is_told_apart and _are_equal(sent, arrived)):
        return None
    parts = _parts(sent)
    if parts is None and not is_told_apart and _are_equal(sent, arrived):
        return None
    others = _parts(arrived)
    if _kind(sent) is not _kind(arrived) or parts is None or others is None:
        instead = "" if type(sent) is type(arrived) else f" instead of {type(sent).__qualname__}"
        return f"{where or 'it'} would arrive as {in_short(arrived)}{instead}"
    if parts.keys() != others.keys():
        lost = [str(part) for part in parts if part not in others]
        return f"{where or 'it'} would arrive {'without ' + ', '.join(lost) if lost else 'as more'}"
    for part, value in parts.items():
        change = _change(value, others[part], f"{where}{part}", is_told_apart)
        if change is not None:
            return change
    return None


def _are_equal(sent: object, arrived: object) -> bool:
    try:
        if sent == arrived:
            return True
    except Exception:  # arrays compare item by item, and have no truth
        return False
    if isinstance(sent, datetime) and isinstance(arrived, datetime):
        # Of two time zones, no times are equal of which one is in the hour that comes twice.
        aware = sent.utcoffset() is not None and arrived.utcoffset() is not None
        return aware and not (sent - arrived)
    if isinstance(sent, (float, complex, Decimal)) and type(sent) is type(arrived):
        return sent != sent and arrived != arrived  # noqa: PLR0124  # both are NaN
    return False


def _kind(value: object) -> type:
    """Return the class of a value, as `==` does: a generic model's is that without parameters."""
    if isinstance(value, BaseModel):
        return value.__pydantic_generic_metadata__["origin"] or type(value)
    if isinstance(value, dict):  # what is of a subclass arrives as one of these
        return dict
    return list if isinstance(value, list) else type(value)


def _parts(value: object) -> Mapping[str, object] | None:
    """Return what a value consists of, by how one would get at it; `None` if that is unknown."""
    if isinstance(value, BaseModel):
        found = {name: getattr(value, name) for name in type(value).model_fields}
        return {f".{name}": part for name, part in (found | (value.model_extra or {})).items()}
    if is_dataclass(value):
        return {f".{field.name}": getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value)
        return {f"[{key!r}]": part for key, part in items.items()}
    if isinstance(value, (list, tuple, deque)):
        sequence = cast("Sequence[object]", value)
        return {f"[{index}]": part for index, part in enumerate(sequence)}
    if type(value).__eq__ is object.__eq__ and hasattr(value, "__dict__"):
        return {f".{name}": part for name, part in vars(value).items()}
    return None
