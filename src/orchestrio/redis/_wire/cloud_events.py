"""What a message is to the world: an event with the attributes of CloudEvents 1.0.

In a stream these lie beside the payload, each a field of the entry, as in the specification's
binary mode; those that are the same for all messages of a topic are kept once. What leaves the
stream is one JSON object, as in its structured mode. See
https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import cast
from urllib.parse import quote, urlsplit

__all__ = ["constants", "structured", "time_text"]


def constants(namespace: str, name: str, payload: object) -> dict[str, str]:
    """Return the attributes that all messages of a topic have in common.

    :param namespace: that of the bridge
    :param name: that of the topic; not empty
    :param payload: the type of its messages; its schema is known if its configuration names one,
        as in ``ConfigDict(json_schema_extra={"$id": "https://example.com/order.json"})``
    """
    found = {
        "specversion": "1.0",
        "source": f"/{quote(namespace, safe='')}/{quote(name, safe='')}",
        # Control characters are the only ones that an attribute may not have.
        "type": name if name.isprintable() else quote(name, safe=""),
        "datacontenttype": "application/json",
    }
    schema = _schema(payload)
    if schema is not None:
        found["dataschema"] = schema
    return found


def _schema(payload: object) -> str | None:
    for where in ("model_config", "__pydantic_config__"):
        config = getattr(payload, where, None)
        extra = cast("Mapping[str, object]", config).get("json_schema_extra") if config else None
        if isinstance(extra, Mapping):
            identifier = cast("Mapping[str, object]", extra).get("$id")
            if isinstance(identifier, str) and urlsplit(identifier).scheme:
                return identifier
    return None


def time_text(seconds: float) -> str:
    """Write a time as RFC 3339 does: in UTC, with milliseconds.

    :param seconds: since 1970
    """
    whole, microseconds = divmod(round(seconds * 1_000_000), 1_000_000)
    return f"{_second(whole)}.{microseconds // 1000:03d}Z"


@lru_cache(maxsize=8)  # thousands of messages are published within one
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:-6]


def structured(
    about: Mapping[str, str],
    identifier: str,
    data: bytes,
    *,
    is_json: bool,
    time: datetime | None = None,
    traceparent: str | None = None,
) -> bytes:
    """Return an event as one JSON object.

    :param about: its constant attributes
    :param identifier: its ``id``
    :param data: its payload
    :param is_json: whether that is JSON; otherwise it is written in Base64
    :param time: when it was published, in UTC; `None` if that is unknown
    :param traceparent: the trace it belongs to
    """
    event = dict(about) | {"id": identifier}
    if time is not None:
        event["time"] = time.isoformat(timespec="milliseconds")[:-6] + "Z"
    if traceparent is not None:
        event["traceparent"] = traceparent
    if is_json:
        return _compact(event)[:-1] + b',"data":' + data + b"}"
    event["datacontenttype"] = "application/octet-stream"
    event.pop("dataschema", None)
    event["data_base64"] = b64encode(data).decode()
    return _compact(event)


def _compact(event: dict[str, str]) -> bytes:
    return json.dumps(event, separators=(",", ":")).encode()
