"""``mode="compete"``: each message is handled in one process, at least once."""

from __future__ import annotations

import json
import signal
from base64 import b64encode
from collections import Counter
from time import process_time

import pytest
from anyio import Event, current_time, fail_after, sleep, sleep_forever
from processes import Inbox, process
from redis_server import RedisServer, free_port
from support import IN_TIME, until
from tcp_proxy import Proxy

from orchestrio import ChannelConfig, Scheduler, TaskInitializationError, Topic
from orchestrio.redis import RedisBridge, RedisSettings
from orchestrio.redis._scripts.groups import SWEEP
from orchestrio.redis._server.connection import connected
from orchestrio.redis._wire.keys import Keys

JOBS = Topic("jobs", int)
STREAM = "{test:jobs}"


def bridge(
    server: RedisServer,
    *,
    prefetch: int = 64,
    claim_after: float = 30.0,
    max_deliveries: int = 5,
) -> RedisBridge:
    return RedisBridge(
        server.url,
        topics=[JOBS],
        namespace="test",
        mode="compete",
        prefetch=prefetch,
        claim_after=claim_after,
        max_deliveries=max_deliveries,
    )


def pending(server: RedisServer, group: str = "workers") -> int:
    found = server.ask("XPENDING", STREAM, group)
    assert isinstance(found, list)
    assert isinstance(found[0], int)
    return found[0]


async def test_each_message_is_handled_in_one_process(server: RedisServer) -> None:
    inboxes = [Inbox[int]() for _ in range(3)]
    bridges = [bridge(server, prefetch=8) for _ in range(3)]
    async with (
        process(bridges[0], JOBS, inboxes[0].put) as publisher,
        process(bridges[1], JOBS, inboxes[1].put),
        process(bridges[2], JOBS, inboxes[2].put),
    ):
        for number in range(1000):
            await publisher.publish(JOBS, number)
        await until(lambda: sum(one.statistics().acknowledged for one in bridges) == 1000)
        assert pending(server) == 0
    handled = Counter(item for inbox in inboxes for item in inbox.items)
    assert handled == Counter(range(1000))
    assert all(inbox.items == sorted(inbox.items) for inbox in inboxes)


async def test_each_group_gets_all(server: RedisServer) -> None:
    mail, stock = Inbox[int](), Inbox[int]()

    def of(group: str) -> RedisBridge:
        return RedisBridge(server.url, topics=[JOBS], namespace="test", mode="compete", group=group)

    async with process(of("mail"), JOBS, mail.put), process(of("stock"), JOBS, stock.put) as here:
        for number in range(10):
            await here.publish(JOBS, number)
        assert await mail.wait_for(10) == await stock.wait_for(10) == list(range(10))


async def test_a_group_begins_with_what_nobody_has_handled(server: RedisServer) -> None:
    async with process(bridge(server), JOBS) as publisher:  # nobody handles jobs here
        for number in range(10):
            await publisher.publish(JOBS, number)
    inbox = Inbox[int]()
    async with process(bridge(server), JOBS, inbox.put):
        assert await inbox.wait_for(10) == list(range(10))


async def test_a_message_is_acknowledged_after_it_was_handled(server: RedisServer) -> None:
    begun, go = Event(), Event()

    async def handle(number: int) -> None:
        begun.set()
        await go.wait()

    carrier = bridge(server)
    async with process(carrier, JOBS, handle) as publisher:
        await publisher.publish(JOBS, 1)
        with fail_after(IN_TIME):
            await begun.wait()
        assert carrier.statistics().in_hand == 1
        assert pending(server) == 1
        go.set()
        await until(lambda: pending(server) == 0)
        await until(lambda: carrier.statistics().acknowledged == 1)


async def test_a_process_takes_no_more_than_it_may_have_in_hand(server: RedisServer) -> None:
    go = Event()

    async def handle(number: int) -> None:
        await go.wait()

    carrier = bridge(server, prefetch=3)
    async with process(carrier, JOBS, handle) as publisher:
        for number in range(10):
            await publisher.publish(JOBS, number)
        await until(lambda: pending(server) == 3)
        go.set()
        await until(lambda: carrier.statistics().acknowledged == 10)


async def test_what_is_handled_during_the_stop_is_acknowledged(server: RedisServer) -> None:
    begun, go = Event(), Event()
    carrier = bridge(server)

    async def handle(number: int) -> None:
        begun.set()
        await go.wait()

    async with Scheduler() as scheduler:
        scheduler.add_channel(JOBS)
        scheduler.register_background_task(carrier)
        scheduler.on(JOBS)(handle)
        waiting = Event()

        @scheduler.background()
        async def producer() -> None:
            try:
                waiting.set()
                await sleep_forever()
            finally:
                go.set()  # the stop has begun: the handler may end

        await scheduler.start()
        await scheduler.publish(JOBS, 1)
        with fail_after(IN_TIME):
            await begun.wait()
            await waiting.wait()

    assert pending(server) == 0
    assert carrier.statistics().acknowledged == 1
    assert server.ask("XINFO", "CONSUMERS", STREAM, "workers") == []


async def test_a_failed_message_is_delivered_again(server: RedisServer) -> None:
    attempts = Inbox[int]()

    async def handle(number: int) -> None:
        await attempts.put(number)
        if len(attempts.items) == 1:
            raise OSError("not now")

    carrier = bridge(server, claim_after=0.2)
    async with process(carrier, JOBS, handle) as publisher:
        await publisher.publish(JOBS, 1)
        assert await attempts.wait_for(2) == [1, 1]
        await until(lambda: pending(server) == 0)
        await until(lambda: carrier.statistics().acknowledged == 1)
        assert carrier.statistics().failed == 1


async def test_a_message_that_always_fails_goes_to_the_dead_letters(server: RedisServer) -> None:
    attempts, good = Inbox[int](), Inbox[int]()

    async def handle(number: int) -> None:
        if number == 13:
            await attempts.put(number)
            raise OSError("never")
        await good.put(number)

    carrier = bridge(server, claim_after=0.1, max_deliveries=3)
    async with process(carrier, JOBS, handle) as publisher:
        for number in (12, 13, 14):
            await publisher.publish(JOBS, number)
        await until(lambda: carrier.statistics().buried == 1)
        assert good.items == [12, 14]
    assert len(attempts.items) == 3
    (dead,) = server.entries(f"{STREAM}:dead")
    assert b'"data":13' in dead["m"]
    assert dead["deliveries"] == b"3"
    assert dead["group"] == b"workers"
    assert dead["error"] == b"it was delivered 3 times. OSError: never"
    assert pending(server) == 0


async def test_a_message_that_is_none_goes_to_the_dead_letters(server: RedisServer) -> None:
    inbox = Inbox[int]()
    async with process(bridge(server), JOBS, inbox.put) as publisher:
        server.ask("XADD", STREAM, "*", "m", '{"v":2}')
        await publisher.publish(JOBS, 1)
        assert await inbox.wait_for(1) == [1]
        await until(lambda: pending(server) == 0)
    (dead,) = server.entries(f"{STREAM}:dead")
    assert json.loads(dead["m"])["data_base64"] == b64encode(b'{"v":2}').decode()


async def test_a_handler_that_takes_long_keeps_its_message(server: RedisServer) -> None:
    began = Inbox[int]()
    go = Event()

    async def handle(number: int) -> None:
        await began.put(number)
        await go.wait()

    bridges = [bridge(server, claim_after=0.6) for _ in range(2)]
    async with (
        process(bridges[0], JOBS, handle) as publisher,
        process(bridges[1], JOBS, handle),
    ):
        await publisher.publish(JOBS, 1)
        await began.wait_for(1)
        since = heard(server)
        await until(lambda: heard(server) > since + 2400)  # four times what it takes to be claimed
        assert began.items == [1]
        go.set()
        await until(lambda: pending(server) == 0)


async def test_the_silence_of_a_server_is_not_that_of_its_consumers(server: RedisServer) -> None:
    """It was away for long, and one has not found back to it yet."""
    began, go = Inbox[int](), Event()

    async def handle(number: int) -> None:
        await began.put(number)
        await go.wait()

    with Proxy(server.port) as proxy:
        settings = RedisSettings(host="127.0.0.1", port=proxy.port)
        here = RedisBridge(
            settings, topics=[JOBS], namespace="test", mode="compete", claim_after=0.4
        )
        there = bridge(server, claim_after=0.4)
        async with process(here, JOBS, handle) as publisher, process(there, JOBS, handle):
            await publisher.publish(JOBS, 1)
            await began.wait_for(1)
            proxy.target = free_port()
            server.kill()
            await until(lambda: min(here.statistics().outages, there.statistics().outages) >= 1)
            await sleep(1.5)
            server.start()
            await until(lambda: there.statistics().connected)
            await sleep(0.3)
            proxy.target = server.port
            await until(lambda: here.statistics().connected)
            await sleep(0.3)
            go.set()
            await until(lambda: pending(server) == 0)
    assert began.items == [1]


def heard(server: RedisServer) -> int:
    """When something was heard of both consumers, in milliseconds since 1970."""
    found = server.ask("ZRANGE", f"{STREAM}:workers:alive", 0, -1, "WITHSCORES")
    assert isinstance(found, list)
    return min(int(score) for score in found[1::2] if isinstance(score, bytes))


async def test_an_old_message_is_claimed_from_behind_many_others(server: RedisServer) -> None:
    """Those before it are being handled by somebody, and cannot be claimed."""
    inbox, go = Inbox[int](), Event()
    carrier = bridge(server, claim_after=3, prefetch=1)

    async def handle(number: int) -> None:
        await inbox.put(number)
        await go.wait()

    server.ask("XGROUP", "CREATE", STREAM, "workers", "0", "MKSTREAM")
    for number in range(200):
        body = f'{{"v":1,"id":"x","topic":"jobs","time":1,"origin":"x","type":"application/json","data":{number}}}'
        server.ask("XADD", STREAM, "*", "m", body)
    found = server.ask(
        "XREADGROUP", "GROUP", "workers", "busy", "COUNT", 199, "STREAMS", STREAM, ">"
    )
    assert found is not None
    server.ask("XREADGROUP", "GROUP", "workers", "dead", "COUNT", 1, "STREAMS", STREAM, ">")
    far = 10**15
    server.ask("ZADD", f"{STREAM}:workers:alive", 0, "dead", far, "busy")
    async with process(carrier, JOBS, handle):
        assert await inbox.wait_for(1) == [199]
        go.set()


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest", "error"])
async def test_no_policy_of_the_channel_loses_a_message(server: RedisServer, overflow: str) -> None:
    """Also with a handler that does not get on, and holds all room."""
    inbox, carrier = Inbox[int](), bridge(server, prefetch=16)
    go = Event()

    async def slow(number: int) -> None:
        del number
        await go.wait()

    config = ChannelConfig.model_validate({"capacity": 4, "overflow": overflow})
    async with (
        process(bridge(server), JOBS) as publisher,
        process(carrier, JOBS, inbox.put, config=config) as scheduler,
    ):
        scheduler.on(JOBS)(slow)
        for number in range(100):
            await publisher.publish(JOBS, number)
        await until(lambda: len(inbox.items) >= 4)
        go.set()
        assert await inbox.wait_for(100) == list(range(100))
        await until(lambda: carrier.statistics().acknowledged == 100)


async def test_what_a_group_that_is_made_anew_has_not_got_is_not_trimmed(
    server: RedisServer,
) -> None:
    """Somebody has destroyed it; what was to come again is noted before the rest is read again."""
    for _ in range(300):
        server.ask("XADD", STREAM, "*", "v", "2")
    server.ask("XGROUP", "CREATE", STREAM, "workers", "0")
    last = server.ask("XADD", STREAM, "*", "v", "2")
    assert isinstance(last, bytes)
    server.ask("ZADD", f"{STREAM}:workers:later", "1", last)
    keys = Keys("test", "jobs")
    at = keys.group("workers")
    async with connected(RedisSettings(host="127.0.0.1", port=server.port)) as connection:
        await connection.run(SWEEP, [keys.stream, at.later, at.alive], ["workers", 86_400_000])
    assert pending(server) == 1
    assert server.ask("XLEN", STREAM) == 301


async def test_what_all_have_handled_is_trimmed(server: RedisServer) -> None:
    inbox = Inbox[int]()
    async with process(bridge(server), JOBS, inbox.put) as publisher:
        for number in range(1000):
            await publisher.publish(JOBS, number)
        await inbox.wait_for(1000)
    assert server.ask("XLEN", STREAM) in range(1, 200)  # the server trims by whole nodes


async def test_a_process_without_a_handler_takes_nothing(server: RedisServer) -> None:
    inbox = Inbox[int]()
    async with process(bridge(server), JOBS) as publisher, process(bridge(server), JOBS, inbox.put):
        for number in range(100):
            await publisher.publish(JOBS, number)
        assert await inbox.wait_for(100) == list(range(100))


async def test_workers_of_one_task_acknowledge_each_message(server: RedisServer) -> None:
    carrier = bridge(server)
    done: list[int] = []
    async with Scheduler() as scheduler:
        scheduler.add_channel(JOBS)
        scheduler.register_background_task(carrier)

        @scheduler.on(JOBS, concurrency=4, on_error="skip")
        async def work(number: int) -> None:
            if number % 10 == 0:
                raise ValueError("a tenth fails")
            done.append(number)

        await scheduler.start()
        for number in range(100):
            await scheduler.publish(JOBS, number)
        await until(lambda: carrier.statistics().acknowledged == 90)
        assert carrier.statistics().failed == 10
        assert pending(server) == 10
    assert sorted(done) == [number for number in range(100) if number % 10]


async def test_a_message_is_done_when_all_event_tasks_have_handled_it(server: RedisServer) -> None:
    carrier, go = bridge(server), Event()
    quick = Inbox[int]()
    async with Scheduler() as scheduler:
        scheduler.add_channel(JOBS)
        scheduler.register_background_task(carrier)
        scheduler.on(JOBS)(quick.put)

        @scheduler.on(JOBS)
        async def slow(number: int) -> None:
            await go.wait()

        await scheduler.start()
        await scheduler.publish(JOBS, 1)
        await quick.wait_for(1)
        assert carrier.statistics().in_hand == 1
        go.set()
        await until(lambda: carrier.statistics().acknowledged == 1)


async def test_a_second_bridge_of_one_channel_is_refused(server: RedisServer) -> None:
    async with Scheduler() as scheduler:
        scheduler.add_channel(JOBS)
        scheduler.register_background_task(bridge(server))
        scheduler.register_background_task(bridge(server))
        with pytest.raises(TaskInitializationError, match="has a bridge already"):
            await scheduler.start()


def leave_to_the_dead(server: RedisServer, count: int) -> list[bytes]:
    """Have so many messages in the stream, all given to a consumer that died; return which."""
    server.ask("XGROUP", "CREATE", STREAM, "workers", "0", "MKSTREAM")
    script = """
    for number = 0, ARGV[2] - 1 do
        local body = string.gsub(ARGV[1], 'NUMBER', number)
        redis.call('XADD', KEYS[1], '*', 'm', body)
    end
    local found = redis.call('XREADGROUP', 'GROUP', 'workers', 'dead', 'COUNT', ARGV[2],
        'STREAMS', KEYS[1], '>')
    return found[1][2]
    """
    body = '{"v":1,"id":"x","topic":"jobs","time":1,"origin":"x","type":"application/json"'
    found = server.ask("EVAL", script, 1, STREAM, body + ',"data":NUMBER}', count)
    assert isinstance(found, list)
    return [entry[0] for entry in found if isinstance(entry, list) and isinstance(entry[0], bytes)]


async def took_over(server: RedisServer, count: int) -> tuple[float, int]:
    """Take so many messages over; return the processor's time, and the most without a pause."""
    leave_to_the_dead(server, count)
    carrier = bridge(server, claim_after=0.2, prefetch=10_000)
    inbox = Inbox[int]()
    most = before = 0
    async with Scheduler() as scheduler:
        scheduler.add_channel(JOBS, ChannelConfig(capacity=10_000))
        scheduler.register_background_task(carrier)
        scheduler.on(JOBS)(inbox.put)
        await scheduler.start()
        began = process_time()
        with fail_after(IN_TIME):
            while before < count:
                await sleep(0.001)
                now = carrier.statistics().received
                most = max(most, now - before)
                before = now
        took = process_time() - began
        await until(lambda: carrier.statistics().acknowledged == count)
    assert inbox.items == list(range(count))
    return took, most


async def test_a_clock_that_was_put_back_keeps_nobody_alive(server: RedisServer) -> None:
    leave_to_the_dead(server, 2)
    server.ask("ZADD", f"{STREAM}:workers:alive", 10**15, "dead")
    inbox = Inbox[int]()
    async with process(bridge(server, claim_after=0.4), JOBS, inbox.put):
        with fail_after(10):
            assert await inbox.wait_for(2) == [0, 1]


async def test_what_a_dead_process_had_is_taken_over_soon_and_in_small_steps(
    server: RedisServer,
) -> None:
    few, _ = await took_over(server, 500)
    server.ask("FLUSHALL")
    many, most = await took_over(server, 4000)
    assert many < 16 * few  # 8 times as many; 20 to 40 times when each was compared with all
    assert most < 1000  # while the event loop did nothing else


async def test_what_one_had_that_died_while_the_server_was_away_is_taken_over(
    server: RedisServer,
) -> None:
    """The others have four times as long to be heard of; who is silent then is dead."""
    inbox, carrier = Inbox[int](), bridge(server, claim_after=1.5)
    leave_to_the_dead(server, 3)
    async with process(carrier, JOBS, inbox.put):
        now = server.ask("EVAL", "return redis.call('TIME')[1]", 0)
        assert isinstance(now, bytes)
        server.ask("ZADD", f"{STREAM}:workers:alive", int(now) * 1000 + 999, "dead")
        server.signal(signal.SIGSTOP)
        await sleep(1.3)
        server.signal(signal.SIGCONT)
        began = current_time()
        assert await inbox.wait_for(3) == [0, 1, 2]
        assert current_time() - began > 2.4  # it might have come back


async def test_what_a_process_did_not_get_is_found_when_it_has_a_connection_again(
    server: RedisServer,
) -> None:
    inbox = Inbox[int]()
    left = leave_to_the_dead(server, 500)  # more than are asked for at a time
    async with process(bridge(server, prefetch=1000), JOBS, inbox.put) as publisher:
        await publisher.publish(JOBS, -1)
        assert await inbox.wait_for(1) == [-1]
        consumers = server.ask("XINFO", "CONSUMERS", STREAM, "workers")
        assert isinstance(consumers, list)
        names = [it[1] for it in consumers if isinstance(it, list) and isinstance(it[1], bytes)]
        (here,) = {*names} - {b"dead"}
        server.ask("XCLAIM", STREAM, "workers", here, 0, *left, "JUSTID")
        server.ask("CLIENT", "KILL", "TYPE", "normal")
        assert await inbox.wait_for(501) == [-1, *range(500)]
        await until(lambda: pending(server) == 0)


async def test_a_group_that_nobody_uses_is_named_once(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.ask("XADD", STREAM, "1000-0", "v", 2, "n", 1)  # long ago
    server.ask("XGROUP", "CREATE", STREAM, "forgotten", "0")
    inbox = Inbox[int]()
    async with process(bridge(server, claim_after=0.3), JOBS, inbox.put) as publisher:
        await publisher.publish(JOBS, 1)
        await inbox.wait_for(1)
        await until(lambda: "group 'forgotten' of topic 'jobs'" in caplog.text)
        await sleep(0.5)
    assert caplog.text.count("group 'forgotten' of topic 'jobs'") == 1
