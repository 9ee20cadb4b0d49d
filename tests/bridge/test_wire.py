"""What lies in the server, and what becomes of it: the fields of entries, dead letters, versions."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from itertools import chain
from typing import Any, Literal

import pytest
from cloudevents.core.formats.json import JSONFormat
from documented import DOCS
from processes import Inbox, process
from pydantic import BaseModel, ConfigDict
from redis_server import RedisServer
from support import until
from support.payloads import (
    Apart,
    Computed,
    Dog,
    Excluding,
    Float,
    Login,
    Order,
    Puppy,
)

from orchestrio import EventSendError, Message, Topic, current_task_context
from orchestrio.redis import RedisBridge, TopicAdmin, traceparent

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
NUMBERS = Topic("numbers", int)


class Named(BaseModel):
    """A payload whose schema has a name."""

    model_config = ConfigDict(json_schema_extra={"$id": "https://example.com/named.json"})

    number: int


STREAM = "{test:numbers}"

Mode = Literal["broadcast", "compete"]


@pytest.fixture(params=["broadcast", "compete"])
def mode(request: pytest.FixtureRequest) -> Mode:
    return request.param  # type: ignore[no-any-return]  # one of these


def bridge(
    server: RedisServer, mode: Mode = "broadcast", topic: Topic[Any] = NUMBERS
) -> RedisBridge:
    return RedisBridge(server.url, topics=[topic], namespace="test", mode=mode, claim_after=0.2)


async def put(server: RedisServer, **fields: bytes | str | int) -> None:
    """Have an entry in the stream that another program wrote."""
    server.ask("XADD", STREAM, "*", *chain.from_iterable(fields.items()))


async def test_an_entry_has_the_attributes_of_a_cloud_event(
    server: RedisServer, mode: Mode
) -> None:
    async with process(bridge(server, mode), NUMBERS) as publisher:
        token = traceparent.set(TRACE)
        await publisher.publish(NUMBERS, 5)
        traceparent.reset(token)
        await publisher.publish(NUMBERS, 6)
    first, second = server.entries(STREAM)
    assert list(first) == ["v", "n", "id", "time", "data", "traceparent"]
    assert list(second) == ["v", "n", "id", "time", "data"]
    assert (first["v"], first["n"], first["data"]) == (b"2", b"1", b"5")
    assert first["traceparent"] == TRACE.encode()
    origin, number = first["id"][:8], first["id"][8:]
    assert second["id"] == origin + b"%d" % (int(number) + 1)
    published = datetime.fromisoformat(first["time"].decode())
    assert abs((published - datetime.now(UTC)).total_seconds()) < 60
    assert len(first["time"]) == len("2026-11-26T12:18:30.123Z")


async def test_what_all_entries_have_in_common_is_kept_once(
    server: RedisServer, mode: Mode
) -> None:
    async with process(bridge(server, mode), NUMBERS):
        found = server.ask("HGETALL", f"{STREAM}:about")
    assert isinstance(found, list)
    about = dict(zip(found[::2], found[1::2], strict=True))
    assert {name: about[name] for name in (b"specversion", b"source", b"type")} == {
        b"specversion": b"1.0",
        b"source": b"/test/numbers",
        b"type": b"numbers",
    }
    assert about[b"datacontenttype"] == b"application/json"
    assert about[b"mode"] == mode.encode()


async def test_entries_of_both_versions_are_read_side_by_side(
    server: RedisServer, mode: Mode
) -> None:
    inbox = Inbox[int]()
    old = {"id": "abc-1", "topic": "numbers", "time": 1.5, "origin": "abc", "data": 1}
    async with process(bridge(server, mode), NUMBERS, inbox.put) as publisher:
        await put(server, n=1, m=json.dumps({"v": 1, "type": "application/json", **old}))
        await put(server, v=2, n=2, id="abcdefgh7", time="2026-11-26T12:18:30.123Z", data="2")
        assert await inbox.wait_for(2) == [1, 2]
        await publisher.publish(NUMBERS, 3)
        assert await inbox.wait_for(3) == [1, 2, 3]


async def test_a_dead_letter_is_a_cloud_event(server: RedisServer, mode: Mode) -> None:
    carrier = bridge(server, mode)
    async with process(carrier, NUMBERS, Inbox[int]().put):
        await put(server, v=2, n=1, id="abcdefgh7", time="2026-11-26T12:18:30.123Z", data="{")
        await put(server, something="else")
        await until(lambda: carrier.statistics().buried == 2)
    events = [JSONFormat().read(None, dead["m"]) for dead in server.entries(f"{STREAM}:dead")]
    assert [event.get_source() for event in events] == ["/test/numbers"] * 2
    assert (events[0].get_id(), events[0].get_data()) == ("abcdefgh7", b"{")
    assert events[1].get_data() == b'{"something": "else"}'


def fields_told_under(title: str) -> set[str]:
    """The fields in the table of a section of the page about the envelope."""
    page = (DOCS / "reference" / "envelope.md").read_text("utf-8")
    (section,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    return set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))


async def test_the_page_about_the_envelope_tells_of_each_field(server: RedisServer) -> None:
    topic = Topic("numbers", Named)

    async def refuse(_: Named) -> None:
        raise OSError("never")

    token = traceparent.set(TRACE)
    async with process(bridge(server, "compete", topic), topic, refuse) as publisher:
        await publisher.publish(topic, Named(number=5))
        await until(lambda: bool(server.entries(f"{STREAM}:dead")))
        admin = TopicAdmin(server.url, topic, namespace="test")
        (letter,) = (await admin.dead_letters()).letters
        await admin.requeue(letter.id)
        await until(lambda: bool(server.entries(f"{STREAM}:dead")))
    traceparent.reset(token)
    entries = server.entries(STREAM)
    assert fields_told_under("An entry of the stream") == {name for one in entries for name in one}
    (dead,) = server.entries(f"{STREAM}:dead")
    assert fields_told_under("A dead letter") == set(dead)
    shared = json.loads(dead["m"]).keys() - {"id", "time", "data", "traceparent"}
    assert fields_told_under("What all messages of a topic share") == shared
    about = server.ask("HKEYS", f"{STREAM}:about")
    assert isinstance(about, list)
    assert shared <= {name.decode() for name in about if isinstance(name, bytes)}


# -- payloads ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        Order.model_validate({"userId": 7, "items": [{"unitPrice": 5}]}),
        Apart.model_validate({"in": 1, "two": 2}),
        Computed(width=3),
    ],
    ids=lambda message: type(message).__name__,
)
async def test_what_is_published_arrives_as_it_is(
    server: RedisServer, mode: Mode, message: BaseModel
) -> None:
    topic, inbox = Topic("things", type(message)), Inbox[BaseModel]()
    async with process(bridge(server, mode, topic), topic, inbox.put) as publisher:
        await publisher.publish(topic, message)
        assert await inbox.wait_for(1) == [message]


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (float, math.nan),
        (Float, Float(x=math.inf)),
        (Login, Login.model_validate({"user": "ann", "password": "sesame"})),
        (Excluding, Excluding(x=1, secret="s")),
        (Dog, Puppy(name="Rex", age=3)),
        (str, "\ud800"),
    ],
)
async def test_what_would_arrive_as_something_else_is_refused(
    server: RedisServer, payload: Any, message: object
) -> None:
    topic = Topic[Any]("things", payload)
    async with process(bridge(server, topic=topic), topic) as publisher:
        with pytest.raises(EventSendError, match="does not go through JSON"):
            await publisher.publish(topic, message)
        assert server.entries("{test:things}") == []


# -- what a handler may know -------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_a_handler_knows_what_lies_in_the_entry(
    server: RedisServer, mode: Mode, concurrency: int
) -> None:
    seen = Inbox[tuple[int, Message]]()

    async def handle(number: int) -> None:
        await seen.put((number, current_task_context().message))

    async with process(bridge(server, mode), NUMBERS) as scheduler:
        scheduler.on(NUMBERS, concurrency=concurrency)(handle)
        await until(lambda: scheduler.probe().ready)
        for number in (5, 6):
            traceparent.set(TRACE if number == 5 else None)
            await scheduler.publish(NUMBERS, number)
        await seen.wait_for(2)
    entries = server.entries(STREAM)
    for (number, message), entry in zip(sorted(seen.items, key=str), entries, strict=True):
        assert entry["data"] == b"%d" % number
        assert message == Message(
            topic=NUMBERS,
            number=number - 4,
            attempt=1,
            id=entry["id"].decode(),
            published_at=datetime.fromisoformat(entry["time"].decode()),
            origin=entry["id"][:8].decode(),
            traceparent=TRACE if number == 5 else None,
        )


async def test_a_delivery_that_began_before_is_an_attempt(server: RedisServer) -> None:
    attempts = Inbox[tuple[int, str | None]]()

    async def handle(_: int) -> None:
        message = current_task_context().message
        await attempts.put((message.attempt, message.id))
        if message.attempt < 3:
            raise OSError("not yet")

    async with process(bridge(server, "compete"), NUMBERS, handle) as publisher:
        await publisher.publish(NUMBERS, 1)
        await attempts.wait_for(3)
    assert [attempt for attempt, _ in attempts.items] == [1, 2, 3]
    assert len({identifier for _, identifier in attempts.items}) == 1
