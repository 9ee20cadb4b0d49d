"""What a server loses is counted and told, and the bridge goes on with what comes afterwards."""

from __future__ import annotations

import pytest
from anyio import Event, sleep, sleep_forever
from processes import Inbox, process
from redis_server import RedisServer
from support import until

from orchestrio import (
    ChannelConfig,
    InvalidChannelError,
    Scheduler,
    TaskInitializationError,
    Topic,
    current_task_context,
)
from orchestrio.redis import BridgeOptions, RedisBridge

JOBS = Topic("jobs", int)
STREAM = "{test:jobs}"
WIDE = ChannelConfig(capacity=4096, overflow="block")


def bridge(server: RedisServer, options: BridgeOptions | None = None) -> RedisBridge:
    return RedisBridge(server.url, topics=[JOBS], namespace="test", **(options or {}))


class Slow:
    """A handler that waits until it may go on."""

    def __init__(self) -> None:
        self.inbox = Inbox[int]()
        self.go = Event()

    async def __call__(self, number: int) -> None:
        await self.inbox.put(number)
        await self.go.wait()


async def test_what_comes_after_a_stream_was_deleted_is_not_counted(server: RedisServer) -> None:
    """The counter is there, and so the ordinals go on."""
    options: BridgeOptions = {"mode": "compete", "prefetch": 10}
    carriers, slow = [bridge(server, options) for _ in range(2)], [Slow(), Slow()]
    async with (
        process(carriers[0], JOBS, slow[0], config=WIDE) as publisher,
        process(carriers[1], JOBS, slow[1], config=WIDE),
    ):
        for number in range(50):
            await publisher.publish(JOBS, number)
        await until(lambda: sum(one.statistics().in_hand for one in carriers) == 20)
        await until(lambda: server.ask("XLEN", STREAM) == 50)
        server.ask("DEL", STREAM)
        for number in range(50, 70):
            await publisher.publish(JOBS, number)
        await until(lambda: sum(one.statistics().missed for one in carriers) > 0)
        for one in slow:
            one.go.set()
        await until(lambda: sum(len(one.inbox.items) for one in slow) >= 40)
        await sleep(0.5)
        handled = {number for one in slow for number in one.inbox.items}
        assert len(handled) + sum(one.statistics().missed for one in carriers) == 70


@pytest.mark.parametrize(
    "lose", ["FLUSHALL", "DEL {test:jobs}", "DEL {test:jobs} {test:jobs}:count"]
)
async def test_a_backlog_that_is_gone_is_counted_exactly(
    server: RedisServer, caplog: pytest.LogCaptureFixture, lose: str
) -> None:
    carrier, slow = bridge(server, {"mode": "compete", "prefetch": 10}), Slow()
    async with process(carrier, JOBS, slow, config=WIDE) as scheduler:
        for number in range(100):
            await scheduler.publish(JOBS, number)
        await until(lambda: carrier.statistics().unsent == 0)
        await until(lambda: carrier.statistics().in_hand == 10)
        server.ask(*lose.split())
        await until(lambda: carrier.statistics().missed > 0)
        slow.go.set()
        await slow.inbox.wait_for(10)
        await scheduler.publish(JOBS, 100)
        assert await slow.inbox.wait_for(11) == [*range(10), 100]
        assert carrier.statistics().missed == 90
    assert f"topic 'jobs' ({STREAM}) has lost 90 messages" in caplog.text


async def test_what_is_trimmed_before_anybody_has_read_it_is_counted(server: RedisServer) -> None:
    carrier, slow = bridge(server, {"mode": "compete", "prefetch": 10}), Slow()
    async with process(carrier, JOBS, slow, config=WIDE) as scheduler:
        for number in range(100):
            await scheduler.publish(JOBS, number)
        await until(lambda: carrier.statistics().unsent == 0)
        await until(lambda: carrier.statistics().in_hand == 10)
        server.ask("XTRIM", STREAM, "MAXLEN", 20)
        await until(lambda: carrier.statistics().missed > 0)
        slow.go.set()
        assert await slow.inbox.wait_for(30) == [*range(10), *range(80, 100)]
        await until(lambda: carrier.statistics().acknowledged >= 20)
        assert carrier.statistics().missed == 70


async def test_what_is_deleted_while_it_waits_to_be_tried_again_is_counted(
    server: RedisServer,
) -> None:
    carrier = bridge(server, {"mode": "compete", "claim_after": 2})

    async def fail(number: int) -> None:
        raise ValueError(number)

    async with process(carrier, JOBS, fail) as scheduler:
        await scheduler.publish(JOBS, 1)
        await until(lambda: carrier.statistics().failed == 1)
        server.ask("XTRIM", STREAM, "MAXLEN", 0)
        await until(lambda: carrier.statistics().missed == 1)


@pytest.mark.parametrize("after", [0.0, 0.2, 1.2])  # s
async def test_of_several_processes_one_counts_what_is_gone(
    server: RedisServer, after: float
) -> None:
    options: BridgeOptions = {"mode": "compete", "prefetch": 2}
    carriers, other = [bridge(server, options) for _ in range(3)], bridge(server, options)
    slow = [Slow() for _ in carriers]
    async with (
        process(other, JOBS, config=WIDE) as publisher,
        process(carriers[0], JOBS, slow[0], config=WIDE),
        process(carriers[1], JOBS, slow[1], config=WIDE),
        process(carriers[2], JOBS, slow[2], config=WIDE),
    ):
        for number in range(50):
            await publisher.publish(JOBS, number)
        await until(lambda: sum(one.statistics().in_hand for one in carriers) == 6)
        await until(lambda: server.ask("XLEN", STREAM) == 50)
        await sleep(after)
        server.ask("FLUSHALL")
        counting = [*carriers, other]
        await until(lambda: sum(one.statistics().missed for one in counting) > 0)
        await sleep(0.5)
        assert sum(one.statistics().missed for one in counting) == 44
        for one in slow:
            one.go.set()


@pytest.mark.parametrize(
    "lose", ["FLUSHALL", "DEL {test:jobs}", "DEL {test:jobs} {test:jobs}:count"]
)
async def test_of_several_groups_each_counts_what_is_gone(server: RedisServer, lose: str) -> None:
    carriers = [
        bridge(server, {"mode": "compete", "prefetch": 10, "group": group})
        for group in ("one", "other")
    ]
    slow = [Slow() for _ in carriers]
    async with (
        process(carriers[0], JOBS, slow[0], config=WIDE) as publisher,
        process(carriers[1], JOBS, slow[1], config=WIDE),
    ):
        for number in range(50):
            await publisher.publish(JOBS, number)
        await until(lambda: all(one.statistics().in_hand == 10 for one in carriers))
        await until(lambda: server.ask("XLEN", STREAM) == 50)
        await sleep(1.2)  # a beat: both know how far it has come
        server.ask(*lose.split())
        await until(lambda: all(one.statistics().missed > 0 for one in carriers))
        await sleep(0.5)
        assert [one.statistics().missed for one in carriers] == [40, 40]
        for one in slow:
            one.go.set()


async def test_a_group_that_comes_later_does_not_have_others_begin_anew(
    server: RedisServer,
) -> None:
    """What it noted was of the stream that is gone."""
    one, other = (
        bridge(server, {"mode": "compete", "prefetch": 2, "group": group})
        for group in ("one", "other")
    )
    slow, inbox = Slow(), Inbox[int]()
    async with process(one, JOBS, slow, config=WIDE) as publisher:
        slow.go.set()
        async with process(other, JOBS, inbox.put, config=WIDE):
            for number in range(10):
                await publisher.publish(JOBS, number)
            await until(lambda: one.statistics().acknowledged == 10)
            await until(lambda: other.statistics().acknowledged == 10)
            await sleep(1.2)  # a beat: it is noted
        slow.go = Event()
        server.ask("DEL", STREAM)
        await until(lambda: server.ask("EXISTS", STREAM) == 1)
        for number in range(10, 30):
            await publisher.publish(JOBS, number)
        await until(lambda: one.statistics().in_hand == 2)
        await until(lambda: server.ask("XLEN", STREAM) == 20)
        late = bridge(server, {"mode": "compete", "group": "other"})
        born = server.ask("HGET", f"{STREAM}:about", "born")
        async with process(late, JOBS, inbox.put, config=WIDE):
            await inbox.wait_for(30)
        assert server.ask("HGET", f"{STREAM}:about", "born") == born
        slow.go.set()
        assert await slow.inbox.wait_for(30) == [*range(30)]
        assert one.statistics().missed == 0


async def test_readers_of_a_broadcast_notice_that_a_stream_began_anew(
    server: RedisServer,
) -> None:
    """Also if the clock of the server was set back meanwhile: its identifiers are behind."""
    carrier, inbox = bridge(server), Inbox[int]()
    async with process(carrier, JOBS, inbox.put) as scheduler:
        await scheduler.publish(JOBS, 1)
        await inbox.wait_for(1)
        server.ask("DEL", STREAM)
        server.ask("XADD", STREAM, "1-1", "v", 2, "n", 1, "id", "x", "time", "x", "data", "0")
        server.ask("XTRIM", STREAM, "MAXLEN", 0)
        server.ask("XGROUP", "CREATE", STREAM, "keep", "0")  # its last identifier stays 1-1
        await sleep(1.5)
        fields: list[str | int] = [
            "v",
            2,
            "n",
            2,
            "id",
            "abcdefgh9",
            "time",
            "2026-01-01T00:00:00.000Z",
        ]
        server.ask("XADD", STREAM, "1-2", *fields, "data", "2")
        assert await inbox.wait_for(2) == [1, 2]


@pytest.mark.parametrize("after", [0.2, 1.2])  # s
async def test_a_broadcast_counts_what_was_flushed_before_it_read_it(
    server: RedisServer, after: float
) -> None:
    small = ChannelConfig(capacity=4, overflow="block")
    reader, slow = bridge(server), Slow()
    async with (
        process(bridge(server), JOBS, config=WIDE) as publisher,
        process(reader, JOBS, slow, config=small),
    ):
        for number in range(1000):
            await publisher.publish(JOBS, number)
        await until(lambda: server.ask("XLEN", STREAM) == 1000)
        await sleep(after)
        server.ask("FLUSHALL")
        await until(lambda: reader.statistics().missed > 0)
        slow.go.set()
        await publisher.publish(JOBS, -1)
        await until(lambda: -1 in slow.inbox.items)
        assert reader.statistics().missed + len(slow.inbox.items) == 1001


async def test_a_broadcast_tells_of_no_loss_where_there_is_none(server: RedisServer) -> None:
    """What it asks and what it sends cross each other, and answers come in any order."""
    carrier, done = bridge(server), 0

    async def handle(number: int) -> None:
        nonlocal done
        done += 1
        await sleep(0.0005)

    small = ChannelConfig(capacity=4, overflow="block")
    async with process(carrier, JOBS, handle, config=small) as scheduler:
        for number in range(2000):
            await scheduler.publish(JOBS, number)
        await until(lambda: done == 2000)
        assert carrier.statistics().missed == 0


@pytest.mark.parametrize(("first", "second"), [("compete", "broadcast"), ("broadcast", "compete")])
async def test_a_topic_has_one_mode(server: RedisServer, first: str, second: str) -> None:
    def of(mode: str) -> RedisBridge:
        return bridge(server, {"mode": "compete" if mode == "compete" else "broadcast"})

    async with process(of(first), JOBS), Scheduler() as scheduler:
        scheduler.add_channel(JOBS)
        scheduler.register_background_task(of(second))
        with pytest.raises(TaskInitializationError) as caught:
            await scheduler.start()
    cause = caught.value.__cause__
    assert isinstance(cause, InvalidChannelError)
    assert f"'jobs' ({STREAM}) is carried with mode=\"{first}\"" in str(cause)


def test_two_topics_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidChannelError, match="2 of the topics are called 'jobs'"):
        RedisBridge("redis://localhost", topics=[JOBS, "jobs"], namespace="test")


@pytest.mark.parametrize("other", [Topic("jobs", str), "jobs"])
async def test_two_topics_of_one_name_are_refused_on_two_bridges(
    server: RedisServer, other: Topic[str] | str
) -> None:
    def of(namespace: str) -> RedisBridge:
        return RedisBridge(server.url, topics=[other], namespace=namespace)

    async with process(bridge(server), JOBS) as scheduler:
        scheduler.add_channel(other)
        scheduler.register_background_task(of("other"))  # two streams
    async with Scheduler() as scheduler:
        scheduler.add_channel(JOBS)
        scheduler.add_channel(other)
        scheduler.register_background_task(bridge(server), name="first")
        scheduler.register_background_task(of("test"), name="second")
        with pytest.raises(TaskInitializationError, match="'second'") as caught:
            await scheduler.start()
    assert isinstance(caught.value.__cause__, InvalidChannelError)
    assert "called 'jobs' in the namespace 'test'" in str(caught.value)


async def test_fencing_tokens_grow_also_if_the_server_was_emptied(server: RedisServer) -> None:
    tokens = Inbox[int]()
    async with Scheduler() as scheduler:
        scheduler.add_channel(JOBS)
        scheduler.register_background_task(bridge(server, {"lease": 0.4}))

        @scheduler.background(singleton=True)
        async def leader() -> None:
            await tokens.put(current_task_context().fencing_token)
            await sleep_forever()

        await scheduler.start()
        for term in range(1, 4):
            await tokens.wait_for(term)
            server.ask("FLUSHALL")
        await tokens.wait_for(4)
    assert tokens.items == sorted(set(tokens.items))


async def test_a_program_is_not_ready_while_its_server_is_away_for_long(
    server: RedisServer,
) -> None:
    async with process(bridge(server), JOBS) as scheduler:
        assert scheduler.health().ready
        server.kill()
        await sleep(1)
        assert scheduler.health().ready  # a short outage concerns nobody
        await until(lambda: not scheduler.health().ready)
        assert scheduler.health().live
        (task,) = scheduler.status()
        assert task.waiting_for == f"Redis at 127.0.0.1:{server.port}, database 0 to answer"
        server.start()
        await until(lambda: scheduler.health().ready)
