"""`Format`: how a message looks between processes: a small JSON envelope around its payload.

The payload is JSON as Pydantic writes and reads its type. Nothing is ever unpickled or evaluated.
"""

from __future__ import annotations

import json
import re
import time
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, TypeVar, final

from pydantic import BaseModel, PydanticUserError, TypeAdapter
from pydantic_core import PydanticSerializationError

from .._model.errors import EventSendError, InvalidChannelError
from .._model.topics import Topic

__all__ = ["Envelope", "Format", "Outgoing", "traceparent"]

T = TypeVar("T")

VERSION: Final = 1

traceparent: Final[ContextVar[str | None]] = ContextVar("orchestrio_traceparent", default=None)
"""The trace that the present work belongs to, as a ``traceparent`` of W3C Trace Context.

What is set when a message is published travels with it, and is set where it is handled. See
https://www.w3.org/TR/trace-context/#traceparent-header. Anything that is none does not travel.
"""

_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class Envelope(BaseModel, Generic[T]):
    """A message as it lies in a stream."""

    v: Literal[1]
    """Version of this format."""
    id: str
    """Unique: the origin, and a number that counts up."""
    topic: str
    """Name of the topic."""
    time: float
    """When it was published, in seconds since 1970."""
    origin: str
    """Which bridge published it."""
    type: Literal["application/json"]
    """What `data` is."""
    traceparent: str | None = None
    """The trace it belongs to."""
    data: T
    """The payload."""


@final
@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message on its way out, but for its number."""

    data: bytes
    time: float
    traceparent: str | None


@final
class Format(Generic[T]):
    """The envelope of one topic.

    :param event: the topic, or a plain key, which carries `str`
    :param limit: how many bytes a payload may have as JSON
    :raises InvalidChannelError: if its name is not text, or Pydantic knows no JSON for its payload
    """

    def __init__(self, event: Topic[T] | str, limit: int) -> None:
        self.event: Topic[T] | str = event
        name = event.key if isinstance(event, Topic) else event
        if not isinstance(name, str):
            raise InvalidChannelError(
                f"event {event!r} cannot go to other processes: its key is no text", event
            )
        self.name: str = str(name)
        payload: Any = event.payload if isinstance(event, Topic) else str
        try:
            self._adapter: TypeAdapter[T] = TypeAdapter(payload)
            model: Any = Envelope
            self._envelope: TypeAdapter[Envelope[T]] = TypeAdapter(model[payload])
        except PydanticUserError as error:
            raise InvalidChannelError(
                f"event {event!r} cannot go to other processes: Pydantic knows no JSON for its"
                f" payload. {error}",
                event,
            ) from error
        self._limit = limit
        self._topic = json.dumps(self.name)

    def pack(self, message: T) -> Outgoing:
        """Turn a message into JSON, in the task that publishes it.

        :param message: the payload
        :return: what to send
        :raises EventSendError: if it has no JSON, or too much
        """
        try:
            data = self._adapter.dump_json(message, warnings="error")
        except (PydanticSerializationError, ValueError) as error:
            raise EventSendError(
                f"a message for {self.event} was not sent: it is not of the topic's type, or has"
                f" no JSON. {error}",
                self.event,
            ) from error
        if len(data) > self._limit:
            raise EventSendError(
                f"a message for {self.event} was not sent: it has {len(data)} bytes as JSON, and"
                f" the bridge takes {self._limit}. Send a reference, or raise max_bytes.",
                self.event,
            )
        trace = traceparent.get()
        if trace is not None and _TRACEPARENT.fullmatch(trace) is None:
            trace = None
        return Outgoing(data, time.time(), trace)

    @property
    def about(self):
        return {"v": "2", "specversion": "1.0", "source": f"/x/{self.name}", "type": self.name, "datacontenttype": "application/json"}

    def decode(self, fields):
        if b"m" in fields:
            try:
                return self._envelope.validate_json(fields[b"m"])
            except ValueError as e:
                raise Unreadable(str(e), passing=True)
        if b"data" not in fields:
            raise Unreadable("it has no data: no bridge has written it", passing=False)
        try:
            data = self._adapter.validate_json(fields[b"data"])
        except ValueError as e:
            raise Unreadable(str(e), passing=True)
        tp = fields.get(b"traceparent")
        return Envelope2(fields[b"id"].decode(), time.time(), fields[b"id"][:8].decode(), tp.decode() if tp else None, data)

    def export(self, fields):
        return b'{"data":' + fields.get(b"data", b"null") + b'}'


@dataclass
class Envelope2:
    id: str
    time: float
    origin: str
    traceparent: str | None
    data: Any


class Unreadable(Exception):
    def __init__(self, reason, *, passing):
        super().__init__(reason)
        self.passing = passing


def time_text(seconds):
    import datetime
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
