"""How a message looks between processes: the fields of an entry, and one JSON object outside."""

from __future__ import annotations

import enum
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.formats.json import JSONFormat
from pydantic import BaseModel, ConfigDict, Field
from redis_server import RedisServer
from support.payloads import Computed, Exploding, Order

from orchestrio import EventSendError, InvalidChannelError, Topic
from orchestrio.redis import traceparent
from orchestrio.redis._wire.envelope import Format, Unreadable, time_text

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
NUMBERS = Topic("numbers", int)
NOON = datetime(2026, 11, 26, 12, 18, 30, 123000, tzinfo=UTC)

FIELDS = {
    b"v": b"2",
    b"n": b"1",
    b"id": b"Ab-_c1237",
    b"time": b"2026-11-26T12:18:30.123Z",
    b"data": b"7",
    b"traceparent": TRACE.encode(),
}


class Named(BaseModel):
    model_config = ConfigDict(json_schema_extra={"$id": "https://example.com/named.json"})
    name: str = Field(alias="theName")


def numbers(limit: int = 1000) -> Format[int]:
    return Format(NUMBERS, "shop", limit)


def parse(exported: bytes) -> BaseCloudEvent:
    """Read structured JSON as the library of CloudEvents does."""
    return JSONFormat().read(None, exported)


def with_(**fields: bytes) -> dict[bytes, bytes]:
    return FIELDS | {name.encode(): value for name, value in fields.items()}


def without(*names: str) -> dict[bytes, bytes]:
    return {name: value for name, value in FIELDS.items() if name.decode() not in names}


# -- constants ---------------------------------------------------------------------------------


def test_what_all_messages_of_a_topic_have_in_common() -> None:
    assert dict(numbers().about) == {
        "specversion": "1.0",
        "source": "/shop/numbers",
        "type": "numbers",
        "datacontenttype": "application/json",
    }
    assert Format(Topic("named", Named), "shop", 100).about["dataschema"] == (
        "https://example.com/named.json"
    )


class Key(str, enum.Enum):  # noqa: UP042  # whose str() is not its text
    NUMBERS = "numbers"


def test_keys_that_are_equal_are_one_name() -> None:
    assert Topic(Key.NUMBERS) == Topic("numbers")
    assert Format(Topic(Key.NUMBERS), "shop", 100).name == "numbers"


@pytest.mark.parametrize("name", ["a b/ü?#%", "new\nline", "\x7f"])
def test_any_text_is_a_name(name: str) -> None:
    about = Format(name, "my shop/ä", 100).about
    assert about["source"].startswith("/my%20shop%2F%C3%A4/")
    assert about["source"].isascii()
    assert about["type"].isprintable()
    assert parse(Format(name, "shop", 100).export(FIELDS)).get_type() == about["type"]


@pytest.mark.parametrize(
    ("event", "what"),
    [
        (Topic(7, int), "its key is no text"),
        ("", "its key is empty"),
        ("\ud800", "its key has no UTF-8"),
        (Topic("t", RedisServer), "Pydantic knows no JSON"),
    ],
)
def test_what_cannot_leave_the_process_is_refused(event: Any, what: str) -> None:
    with pytest.raises(InvalidChannelError, match=what):
        Format(event, "shop", 100)


# -- on its way out ----------------------------------------------------------------------------


def test_a_message_is_packed_with_its_time_and_its_trace() -> None:
    token = traceparent.set(TRACE)
    packed = numbers().pack(7)
    traceparent.set("none at all")
    assert numbers().pack(7).traceparent is None
    traceparent.reset(token)
    assert (packed.data, packed.traceparent) == (b"7", TRACE)
    assert abs(packed.time - datetime.now(UTC).timestamp()) < 60
    assert numbers().pack(7).traceparent is None


@pytest.mark.parametrize(
    "found",
    [
        TRACE.encode(),
        5,
        f"00-{'0' * 32}-{'b' * 16}-01",
        f"00-{'a' * 32}-{'0' * 16}-01",
        f"ff-{'a' * 32}-{'b' * 16}-01",
    ],
)
def test_what_is_no_trace_does_not_travel(found: object) -> None:
    token = traceparent.set(found)  # type: ignore[arg-type]  # that is the point
    assert numbers().pack(7).traceparent is None
    traceparent.reset(token)
    trace = str(found).encode()
    assert numbers().decode(with_(traceparent=trace)).traceparent is None


def test_what_is_too_long_or_has_no_json_is_refused() -> None:
    with pytest.raises(EventSendError, match=r"it has 4 bytes as JSON, and the bridge takes 3\."):
        numbers(3).pack(1000)
    with pytest.raises(EventSendError, match="not of the topic's type"):
        numbers().pack("seven")  # type: ignore[arg-type]  # on purpose


def test_aliases_are_what_is_written() -> None:
    order = Order.model_validate({"userId": 7, "items": [{"unitPrice": 5}]})
    packed = Format(Topic("orders", Order), "shop", 1000).pack(order)
    assert json.loads(packed.data) == {
        "userId": 7,
        "items": [{"unitPrice": 5}],
        "by_name": {},
    }
    assert Format(Topic("c", Computed), "shop", 100).pack(Computed(width=2)).data == b'{"width":2}'


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (NOON.timestamp(), "2026-11-26T12:18:30.123Z"),
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1.9999, "1970-01-01T00:00:01.999Z"),
    ],
)
def test_a_time_is_written_in_utc_with_milliseconds(seconds: float, text: str) -> None:
    assert time_text(seconds) == text


# -- on its way in -----------------------------------------------------------------------------


def test_an_entry_is_read() -> None:
    message = numbers().decode(FIELDS)
    assert (message.id, message.origin, message.time, message.traceparent, message.data) == (
        "Ab-_c1237",
        "Ab-_c123",
        NOON,
        TRACE,
        7,
    )
    assert message.time.tzinfo is UTC
    info = message.info(2)
    assert (info.id, info.published_at, info.deliveries) == (message.id, NOON, 2)
    assert numbers().decode(without("traceparent")).traceparent is None


def test_what_a_later_release_adds_is_passed_over() -> None:
    assert numbers().decode(with_(more=b"x", traceparent=b"\xff")).traceparent is None
    assert numbers().decode(with_(time=b"2026-11-26T13:18:30.123+01:00")).time == NOON


def version_1(**changes: object) -> dict[bytes, bytes]:
    envelope = {
        "v": 1,
        "id": "0123abc-7",
        "topic": "numbers",
        "time": NOON.timestamp(),
        "origin": "0123abc",
        "type": "application/json",
        "traceparent": TRACE,
        "data": 7,
    }
    return {b"n": b"1", b"m": json.dumps(envelope | changes).encode()}


def test_an_entry_of_version_1_is_read() -> None:
    message = numbers().decode(version_1())
    assert (message.id, message.origin, message.time, message.traceparent, message.data) == (
        "0123abc-7",
        "0123abc",
        NOON,
        TRACE,
        7,
    )
    assert numbers().decode(version_1(traceparent=None)).traceparent is None
    orders = Format(Topic("orders", Order), "shop", 1000)
    assert orders.decode(version_1(data={"user_id": 1, "items": [{"unit_price": 2}]})).data == (
        Order.model_validate({"userId": 1, "items": [{"unitPrice": 2}]})
    )


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (with_(v=b"3"), "version 3 of the wire format, and this program reads up to 2"),
        (with_(data=b'"seven"'), "Input should be a valid integer"),
        (version_1(data="seven"), "Input should be a valid integer"),
    ],
)
def test_what_another_release_may_read_is_told_apart(
    fields: dict[bytes, bytes], reason: str
) -> None:
    with pytest.raises(Unreadable, match=reason) as raised:
        numbers().decode(fields)
    assert raised.value.passing
    assert raised.value.reason == str(raised.value)


def test_what_a_validator_raises_makes_a_message_unreadable() -> None:
    with pytest.raises(Unreadable, match="KeyError: 'a validator") as raised:
        Format[Any](Topic("t", Exploding), "shop", 100).decode(FIELDS)
    assert raised.value.passing


GARBAGE: list[dict[bytes, bytes]] = [
    {},
    {b"a": b"b", b"\xff": b"\xfe"},
    without("v"),
    without("id"),
    without("time"),
    without("data"),
    with_(v=b""),
    with_(v=b"1"),
    with_(v=b"0"),
    with_(v=b"two"),
    with_(v=b"9" * 400),
    with_(id=b""),
    with_(id=b"short1"),
    with_(id=b"Ab-_c123"),
    with_(id=b"\xffb-_c1237"),
    with_(id=b"Ab-_c123" + b"9" * 400),
    with_(time=b""),
    with_(time=b"noon"),
    with_(time=b"\xff"),
    with_(time=b"2026-11-26T12:18:30.123"),
    with_(time=b"9999-12-31T23:59:59-23:00"),
    with_(data=b""),
    with_(data=b"\xff"),
    with_(data=b"{"),
    with_(data=b"[" * 100_000),
    {b"m": b""},
    {b"m": b"\xff"},
    {b"m": b"7"},
    {b"m": b"[" * 100_000},
    version_1(v=3),
    version_1(time="noon"),
    version_1(time=1e300),
    {b"m": b'{"v":1}'},
]


@pytest.mark.parametrize("fields", GARBAGE, ids=lambda fields: repr(fields)[:60])
def test_what_no_bridge_wrote_is_told_apart_and_can_be_exported(
    fields: dict[bytes, bytes],
) -> None:
    with pytest.raises(Unreadable) as raised:
        numbers().decode(fields)
    assert not raised.value.passing
    event = parse(numbers().export(fields))
    assert (event.get_source(), event.get_type()) == ("/shop/numbers", "numbers")
    data = event.get_data()
    assert isinstance(data, bytes)
    kept = fields.get(b"data", fields.get(b"m"))
    assert data == kept if kept is not None else json.loads(data) is not None


# -- outside -----------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"7", b'"seven"', b'{"a": [1.5, null]}', b"null"])
def test_an_entry_is_exported_as_a_cloud_event_of_structured_json(data: bytes) -> None:
    event = parse(numbers().export(with_(data=data)))
    assert event.get_attributes() == {
        "specversion": "1.0",
        "id": "Ab-_c1237",
        "source": "/shop/numbers",
        "type": "numbers",
        "time": NOON,
        "datacontenttype": "application/json",
        "traceparent": TRACE,
    }
    assert event.get_data() == json.loads(data)


def test_an_entry_of_version_1_is_exported_as_well() -> None:
    event = parse(numbers().export(version_1()))
    assert (event.get_id(), event.get_time()) == ("0123abc-7", NOON)
    assert event.get_data() == json.loads("7")


def test_the_schema_is_exported_where_it_is_known() -> None:
    named = Format(Topic("named", Named), "shop", 100)
    data = named.pack(Named.model_validate({"theName": "x"})).data
    assert json.loads(named.export(with_(data=data)))["dataschema"] == (
        "https://example.com/named.json"
    )
    assert "dataschema" not in json.loads(named.export({}))
