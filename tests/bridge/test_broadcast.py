"""``mode="broadcast"``: every process gets every message, in one order, once."""

from __future__ import annotations

import json
from base64 import b64decode
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

import pytest
from anyio import create_task_group
from processes import Inbox, process
from redis_server import RedisServer
from support import until

from orchestrio import (
    TASK_EVENTS,
    ChannelConfig,
    EventSendError,
    TaskEvent,
    TaskLagged,
    Topic,
)
from orchestrio.redis import RedisBridge, traceparent

NUMBERS = Topic("numbers", int)
STREAM = "{test:numbers}"


def bridge(server: RedisServer, *, max_bytes: int = 1000) -> RedisBridge:
    return RedisBridge(server.url, topics=[NUMBERS], namespace="test", max_bytes=max_bytes)


async def test_every_process_gets_every_message_in_one_order(server: RedisServer) -> None:
    inboxes = [Inbox[int]() for _ in range(3)]
    async with (
        process(bridge(server), NUMBERS, inboxes[0].put) as first,
        process(bridge(server), NUMBERS, inboxes[1].put) as second,
        process(bridge(server), NUMBERS, inboxes[2].put),
    ):

        async def publish(scheduler: object, numbers: range) -> None:
            for number in numbers:
                await (first if scheduler is first else second).publish(NUMBERS, number)

        async with create_task_group() as group:
            group.start_soon(publish, first, range(500))
            group.start_soon(publish, second, range(500, 1000))
        got = [await inbox.wait_for(1000) for inbox in inboxes]
    assert got[0] == got[1] == got[2]
    assert sorted(got[0]) == list(range(1000))  # its own messages too, each once
    assert [n for n in got[0] if n < 500] == list(range(500))
    assert [n for n in got[0] if n >= 500] == list(range(500, 1000))


async def test_a_newcomer_gets_what_is_published_from_now_on(server: RedisServer) -> None:
    early, late = Inbox[int](), Inbox[int]()
    async with process(bridge(server), NUMBERS, early.put) as publisher:
        await publisher.publish(NUMBERS, 1)
        await early.wait_for(1)
        async with process(bridge(server), NUMBERS, late.put):
            await publisher.publish(NUMBERS, 2)
            assert await late.wait_for(1) == [2]


async def test_what_was_published_before_the_end_reaches_the_others(server: RedisServer) -> None:
    inbox = Inbox[int]()
    async with process(bridge(server), NUMBERS, inbox.put):
        async with process(bridge(server), NUMBERS) as publisher:
            for number in range(100):
                await publisher.publish(NUMBERS, number)
        assert await inbox.wait_for(100) == list(range(100))


async def test_receivers_get_messages_as_ever(server: RedisServer) -> None:
    async with process(bridge(server), NUMBERS) as here, process(bridge(server), NUMBERS) as there:
        with there.subscribe(NUMBERS) as stream:
            assert await here.publish(NUMBERS, 7) == 1  # the bridge
            assert await stream.receive() == 7


@dataclass
class Order:
    number: int
    placed: datetime
    lines: list[str]


async def test_payloads_arrive_as_they_were(server: RedisServer) -> None:
    orders = Topic("orders/éß {x}", Order)
    order = Order(1, datetime(2026, 1, 2, tzinfo=UTC), ['"quoted"', "\n", "ä"])
    inbox = Inbox[Order]()

    def carrier() -> RedisBridge:
        return RedisBridge(server.url, topics=[orders], namespace="a:b")

    async with process(carrier(), orders, inbox.put), process(carrier(), orders) as publisher:
        await publisher.publish(orders, order)
        assert await inbox.wait_for(1) == [order]
    assert "{a%3Ab:orders%2F%C3%A9%C3%9F%20%7Bx%7D}" in server.all_keys()


async def test_the_trace_is_that_of_the_message_where_it_is_handled(server: RedisServer) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    traces = Inbox[str | None]()

    async def handle(number: int) -> None:
        await traces.put(traceparent.get())

    async with process(bridge(server), NUMBERS, handle) as publisher:
        for number in range(6):
            traceparent.set([None, trace, "no trace"][number % 3])
            await publisher.publish(NUMBERS, number)
        traceparent.set("of nobody")
        assert await traces.wait_for(6) == [None, trace, None, None, trace, None]


async def test_a_message_that_is_none_goes_to_the_dead_letters_once(server: RedisServer) -> None:
    inboxes = [Inbox[int](), Inbox[int]()]
    bridges = [bridge(server), bridge(server)]
    async with (
        process(bridges[0], NUMBERS, inboxes[0].put) as publisher,
        process(bridges[1], NUMBERS, inboxes[1].put),
    ):
        server.ask("XADD", STREAM, "*", "m", '{"v":1,"data":"words"}')
        server.ask("XADD", STREAM, "*", "something", "else")
        server.ask("XADD", STREAM, "*", "m", b"\xff\x00not json")
        await publisher.publish(NUMBERS, 1)
        for inbox in inboxes:
            assert await inbox.wait_for(1) == [1]
    dead = server.entries(f"{STREAM}:dead")
    assert [letter["deliveries"] for letter in dead] == [b"0"] * 3  # no handler has begun
    assert sum(one.statistics().buried for one in bridges) == 3
    assert b"no message of a bridge: KeyError: 'id'" in dead[0]["error"]
    assert b"no field 'v' that says 2" in dead[1]["error"]
    found = [b64decode(json.loads(letter["m"])["data_base64"]) for letter in dead]
    assert found == [b'{"v":1,"data":"words"}', b'{"something": "else"}', b"\xff\x00not json"]


async def test_what_has_no_json_or_too_much_is_refused_at_publish(server: RedisServer) -> None:
    small = bridge(server, max_bytes=3)
    async with process(small, NUMBERS) as publisher:
        with pytest.raises(EventSendError, match="not of the topic's type"):
            await publisher.publish(NUMBERS, cast("int", "words"))
        with pytest.raises(EventSendError, match="4 bytes as JSON, and the bridge takes 3"):
            await publisher.publish(NUMBERS, 1000)
        await publisher.publish(NUMBERS, 999)
        await until(lambda: small.statistics().sent == 1)
    assert len(server.entries(STREAM)) == 1


async def test_a_lag_is_exact_when_the_stream_was_trimmed(server: RedisServer) -> None:
    reading, inbox = bridge(server), Inbox[int]()
    lags: list[TaskLagged] = []

    async def listen(event: TaskEvent) -> None:
        if isinstance(event, TaskLagged):
            lags.append(event)

    async with process(reading, NUMBERS, inbox.put) as publisher:
        publisher.on(TASK_EVENTS)(listen)
        await publisher.publish(NUMBERS, 0)
        await inbox.wait_for(1)
        # In one step, so that nobody reads in between: 30 messages come and 20 are trimmed.
        script = (
            "for n = 1, 30 do redis.call('XADD', KEYS[1], '*', 'n', 1 + n, 'm',"
            ' \'{"v":1,"id":"x","topic":"numbers","time":1,"origin":"x",'
            '"type":"application/json","data":\' .. n .. \'}\') end'
            " redis.call('SET', KEYS[1] .. ':count', 31)"
            " return redis.call('XTRIM', KEYS[1], 'MAXLEN', '=', 10)"
        )
        assert server.ask("EVAL", script, 1, STREAM) == 21
        assert await inbox.wait_for(11) == [0, *range(21, 31)]
        assert reading.statistics().missed == 20
        assert [lag.missed for lag in lags] == [20]


async def test_a_slow_server_is_felt_by_publishers(server: RedisServer) -> None:
    carrier = bridge(server)
    config = ChannelConfig(capacity=4, overflow="block")
    async with process(carrier, NUMBERS, config=config) as publisher:
        server.ask("CLIENT", "PAUSE", 300, "WRITE")
        for number in range(2000):
            await publisher.publish(NUMBERS, number)
            assert carrier.statistics().unsent <= 4 + 256
        await until(lambda: carrier.statistics().unsent == 0)
    assert len(server.entries(STREAM)) == 2000


async def test_what_was_published_before_a_stop_is_handled_here_as_well(
    server: RedisServer,
) -> None:
    inbox = Inbox[int]()
    async with process(bridge(server), NUMBERS, inbox.put) as scheduler:
        for number in range(20):
            await scheduler.publish(NUMBERS, number)
    assert inbox.items == list(range(20))
