"""Groups that compete for a topic: which there are, who is alive, and forgetting one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from redis_server import RedisServer

from orchestrio.redis import ConsumerGroup, TopicAdmin

STREAM = "{shop:orders}"


def admin(server: RedisServer) -> TopicAdmin:
    return TopicAdmin(server.url, "orders", namespace="shop")


def publish(server: RedisServer, count: int) -> None:
    for _ in range(count):
        ordinal = server.ask("INCR", f"{STREAM}:count")
        assert isinstance(ordinal, int)
        server.ask(
            *("XADD", STREAM, "*", "v", 2, "n", ordinal, "id", "AbCd_-121"),
            *("time", "2026-11-26T12:18:30.123Z", "data", ordinal),
        )


def join(server: RedisServer, group: str, *, reads: int = 0) -> None:
    server.ask("XGROUP", "CREATE", STREAM, group, "0", "MKSTREAM")
    if reads:
        server.ask("XREADGROUP", "GROUP", group, "me", "COUNT", reads, "STREAMS", STREAM, ">")


def heard(server: RedisServer, place: str, *seconds_ago: float) -> datetime:
    found = server.ask("TIME")
    assert isinstance(found, list)
    seconds, micro = (int(part) for part in found if isinstance(part, bytes))
    now = seconds * 1000 + micro // 1000
    for number, ago in enumerate(seconds_ago):
        server.ask("ZADD", f"{place}:alive", int(now - ago * 1000), f"consumer{number}")
    return datetime.fromtimestamp((now - min(seconds_ago) * 1000) / 1000, UTC)


async def test_where_nobody_competes_there_are_no_groups(server: RedisServer) -> None:
    assert await admin(server).groups() == []
    assert not await admin(server).drop_group("workers")
    publish(server, 1)
    assert await admin(server).groups() == []
    assert not await admin(server).drop_group("workers")


async def test_each_group_is_named_with_what_it_has_before_it(server: RedisServer) -> None:
    join(server, "w:1")
    publish(server, 10)
    join(server, "audit", reads=10)
    join(server, "mail", reads=4)
    publish(server, 5)
    last = heard(server, f"{STREAM}:w%3A1", 90, 10, 20)
    long_ago = heard(server, f"{STREAM}:mail", 7200)
    assert await admin(server).groups() == [
        ConsumerGroup("audit", alive=0, pending=10, lag=5, last_heartbeat=None),
        ConsumerGroup("mail", alive=0, pending=4, lag=11, last_heartbeat=long_ago),
        ConsumerGroup("w:1", alive=2, pending=0, lag=15, last_heartbeat=last),
    ]
    groups = await admin(server).groups(alive_within=timedelta(hours=3))
    assert [group.alive for group in groups] == [0, 1, 3]


async def test_lag_is_exact_also_where_the_server_gives_none(server: RedisServer) -> None:
    """It knows no lag of a group that was made in the midst of a stream, or after a deletion."""
    publish(server, 6)
    entries = server.ask("XRANGE", STREAM, "-", "+")
    assert isinstance(entries, list)
    third = entries[2]
    assert isinstance(third, list)
    assert isinstance(third[0], bytes)
    server.ask("XGROUP", "CREATE", STREAM, "workers", third[0])
    server.ask("XTRIM", STREAM, "MAXLEN", 4)
    (group,) = await admin(server).groups()
    assert group.lag == 3
    join(server, "all", reads=100)
    groups = await admin(server).groups()
    assert [group.lag for group in groups] == [0, 3]


async def test_the_lag_of_a_stream_in_which_others_write_is_not_known(server: RedisServer) -> None:
    join(server, "workers")
    server.ask("XADD", STREAM, "*", "of", "others")
    (group,) = await admin(server).groups()
    assert group.lag is None


async def test_a_group_that_is_dropped_leaves_nothing(server: RedisServer) -> None:
    publish(server, 2)
    for group in ("gone", "stays"):
        join(server, group, reads=1)
        heard(server, f"{STREAM}:{group}", 600)
        server.ask("HSET", f"{STREAM}:{group}:tries", "1-1", 1)
        server.ask("ZADD", f"{STREAM}:{group}:later", 1, "1-1")
    assert await admin(server).drop_group("gone")
    assert [group.name for group in await admin(server).groups()] == ["stays"]
    own = [f"{STREAM}:stays:{what}" for what in ("alive", "later", "tries")]
    assert server.all_keys() == [STREAM, f"{STREAM}:count", *own]
    assert not await admin(server).drop_group("gone")


async def test_what_a_group_leaves_goes_also_where_the_stream_was_deleted(
    server: RedisServer,
) -> None:
    server.ask("HSET", f"{STREAM}:workers:tries", "1-1", 1)
    assert await admin(server).drop_group("workers")
    assert server.all_keys() == []


async def test_a_group_that_is_in_use_is_not_dropped_unless_it_is_forced(
    server: RedisServer,
) -> None:
    join(server, "workers")
    heard(server, f"{STREAM}:workers", 5, 6, 600)
    with pytest.raises(RuntimeError, match=r"'workers' was not dropped: 2 of its consumers are"):
        await admin(server).drop_group("workers")
    assert len(await admin(server).groups()) == 1
    assert await admin(server).drop_group("workers", force=True)
    assert await admin(server).groups() == []


async def test_how_long_a_consumer_counts_as_alive_can_be_said(server: RedisServer) -> None:
    join(server, "workers")
    heard(server, f"{STREAM}:workers", 30)
    assert await admin(server).drop_group("workers", alive_within=10)
    with pytest.raises(ValueError, match="alive_within"):
        await admin(server).groups(alive_within=-1)
