"""`Format`: how a message looks between processes, as the fields of an entry in a stream.

Version 2, in this order: ``v`` the version, ``n`` the ordinal, ``id``, ``time``, ``data`` and, if
there is one, ``traceparent``. The id is the origin, 8 characters, and a number that counts up. In
version 1, which is still read, an entry had ``n`` and ``m``: all in one JSON object.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, Generic, TypeAlias, TypeVar, final
from uuid import uuid4

from pydantic import ValidationError
from pydantic_core import from_json

from ..._broadcast.acknowledgements import MessageInfo
from ..._model.errors import EventSendError
from ..._model.payloads import PayloadCodec
from ..._model.topic_names import name_of
from ..._model.topics import Topic
from ..._model.traces import trace_in, traceparent
from .cloud_events import constants, structured, time_text

__all__ = [
    "VERSION",
    "Envelope",
    "Format",
    "Outgoing",
    "Unreadable",
    "time_text",
]

T = TypeVar("T")

#: The version that is written.
VERSION: Final = 2
_WRITTEN: Final = str(VERSION).encode()

#: An `Envelope`, but for the JSON of its payload.
_Parts: TypeAlias = tuple[str, datetime, str, str | None, bytes]

#: An origin of 8 characters and a number; that of a message which was stored for version 1 has 32.
_ID: Final = re.compile(rb"([0-9a-f]{32}|[A-Za-z0-9_-]{8})[0-9]{1,20}")
_NEWER: Final = re.compile(rb"[1-9][0-9]{0,8}")


@final
class Unreadable(Exception):
    """An entry in which there is no message for this process.

    :param reason: what is wrong with it
    :param passing: whether another version of the program may be able to read it
    """

    def __init__(self, reason: str, *, passing: bool) -> None:
        super().__init__(reason)
        self.reason: str = reason
        self.passing: bool = passing


# Made for each message that comes in: a frozen one takes four times as long.
@final
@dataclass(slots=True)
class Envelope(Generic[T]):
    """A message as it came in."""

    id: str
    """Unique: the origin, and a number that counts up."""
    time: datetime
    """When it was published, in UTC."""
    origin: str
    """Which bridge published it."""
    traceparent: str | None
    """The trace it belongs to."""
    data: T
    """The payload."""

    def info(self, deliveries: int) -> MessageInfo:
        """Return what a handler may know of it.

        :param deliveries: how often its handling began before this time
        """
        return MessageInfo(self.id, self.time, self.origin, self.traceparent, deliveries)


@final
@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message on its way out, but for its number."""

    data: bytes
    time: float
    traceparent: str | None


@final
class Format(Generic[T]):
    """How the messages of one topic look.

    :param event: the topic, or a plain key, which carries `str`
    :param namespace: that of the bridge
    :param limit: how many bytes a payload may have as JSON
    :raises InvalidChannelError: if its name is not text, or Pydantic knows no JSON for its payload
    """

    def __init__(self, event: Topic[T] | str, namespace: str, limit: int) -> None:
        self.event: Topic[T] | str = event
        self.name: str = name_of(event)
        self._codec = PayloadCodec(event)
        payload: object = event.payload if isinstance(event, Topic) else str
        #: the attributes that all messages have in common
        self.about: Mapping[str, str] = MappingProxyType(constants(namespace, self.name, payload))
        self._limit = limit

    def pack(self, message: T) -> Outgoing:
        """Turn a message into JSON, in the task that publishes it.

        :param message: the payload
        :return: what to send
        :raises EventSendError: if it has no JSON of which the same message can be made, or too much
        """
        data = self._codec.encode(message)
        if len(data) > self._limit:
            raise EventSendError(
                f"a message for {self.event} was not sent: it has {len(data)} bytes as JSON, and"
                f" the bridge takes {self._limit}. Send a reference, or raise max_bytes.",
                self.event,
            )
        return Outgoing(data, time.time(), trace_in(traceparent.get()))

    def decode(self, fields: Mapping[bytes, bytes]) -> Envelope[T]:
        """Read the message in an entry.

        :param fields: the entry's fields
        :return: the message, and what is known of it
        :raises Unreadable: if there is none, or it is not of the topic's type here
        """
        identifier, moment, origin, trace, encoded = _open(fields)
        try:
            data = self._codec.decode(encoded)
        except ValidationError as error:
            is_json = error.errors(include_url=False)[0]["type"] != "json_invalid"
            raise Unreadable(str(error), passing=is_json) from error
        except Exception as error:  # of a validator of the payload
            raise Unreadable(f"{type(error).__name__}: {error}", passing=True) from error
        return Envelope(identifier, moment, origin, trace, data)

    def export(self, fields: Mapping[bytes, bytes]) -> bytes:
        """Return an entry as structured JSON, also if it is not of the topic's type.

        :param fields: the entry's fields
        :return: a JSON object; what cannot be read at all is its ``data_base64``
        """
        try:
            identifier, moment, _, trace, data = _open(fields)
        except Unreadable:
            return structured(self.about, uuid4().hex, _rest(fields), is_json=False)
        return structured(
            self.about,
            identifier,
            data,
            is_json=_is_json(data),
            time=moment,
            traceparent=trace,
        )


def _open(fields: Mapping[bytes, bytes]) -> _Parts:
    """Return what lies in an entry, with the JSON of the payload.

    :raises Unreadable: if no bridge wrote it that this one understands
    """
    version = fields.get(b"v")
    if version is None and b"m" in fields:
        return _open_version_1(fields[b"m"])
    if version != _WRITTEN:
        if version is not None and _NEWER.fullmatch(version) and int(version) > VERSION:
            raise Unreadable(
                f"it is of version {int(version)} of the wire format, and this program reads up to"
                f" {VERSION}: a newer one has published it",
                passing=True,
            )
        raise Unreadable(
            f"it has no field 'v' that says {VERSION}: no bridge wrote it", passing=False
        )
    try:
        identifier = fields[b"id"]
        parts = _ID.fullmatch(identifier)
        if parts is None:
            raise ValueError(f"{identifier!r} is no id")
        moment = datetime.fromisoformat(fields[b"time"].decode())
        if moment.utcoffset() is None:
            raise ValueError(f"{fields[b'time']!r} is no time in UTC")
        if moment.tzinfo is not UTC:
            moment = moment.astimezone(UTC)
        data = fields[b"data"]
    except (KeyError, ValueError, OverflowError) as error:
        missing = f"it has no field {error}" if isinstance(error, KeyError) else str(error)
        raise Unreadable(f"no bridge wrote it: {missing}", passing=False) from error
    trace = fields.get(b"traceparent")
    return (
        identifier.decode(),
        moment,
        parts[1].decode(),
        None if trace is None else trace_in(trace.decode(errors="replace")),
        data,
    )


def _open_version_1(encoded: bytes) -> _Parts:
    try:
        found: Any = json.loads(encoded)
        if found["v"] != 1:
            raise ValueError(f"{found['v']!r} is no version")
        return (
            str(found["id"]),
            datetime.fromtimestamp(found["time"], UTC),
            str(found["origin"]),
            trace_in(found.get("traceparent")),
            json.dumps(found["data"]).encode(),
        )
    except Exception as error:
        raise Unreadable(
            f"its field 'm' is no message of a bridge: {type(error).__name__}: {error}",
            passing=False,
        ) from error


def _is_json(data: bytes) -> bool:
    try:
        from_json(data, allow_inf_nan=False)
    except ValueError:
        return False
    return True


def _rest(fields: Mapping[bytes, bytes]) -> bytes:
    """Return what is worth keeping of an entry that cannot be read."""
    for name in (b"data", b"m"):
        if name in fields:
            return fields[name]
    texts = {
        name.decode(errors="backslashreplace"): value.decode(errors="backslashreplace")
        for name, value in fields.items()
    }
    return json.dumps(texts).encode()
