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

    def encode(self, message: Outgoing, origin: str, number: int) -> bytes:
        """Put a message into its envelope.

        :param message: the message
        :param origin: who sends it; letters and digits
        :param number: counts up
        :return: what lies in the stream
        """
        trace = f',"traceparent":"{message.traceparent}"' if message.traceparent else ""
        return (
            (
                f'{{"v":{VERSION},"id":"{origin}-{number}","topic":{self._topic}'
                f',"time":{message.time:.6f},"origin":"{origin}","type":"application/json"{trace}'
                ',"data":'
            ).encode()
            + message.data
            + b"}"
        )

    def decode(self, encoded: bytes) -> Envelope[T]:
        """Read what lies in a stream.

        :param encoded: an envelope
        :return: the envelope and its payload
        :raises ~pydantic.ValidationError: if it is none, is of another version, or its payload is
            not of the topic's type
        """
        return self._envelope.validate_json(encoded)
