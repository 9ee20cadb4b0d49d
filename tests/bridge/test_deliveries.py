"""``mode="compete"``: what counts as a delivery, how many are in hand, and who gets what next."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from anyio import Event, create_task_group, current_time, fail_after, sleep, sleep_forever
from anyio.abc import Process
from processes import Inbox, process
from redis_server import RedisServer
from support import IN_TIME, until

from orchestrio import ChannelConfig, RestartPolicy, Scheduler, Topic
from orchestrio.redis import BridgeOptions, RedisBridge
from orchestrio.redis._scripts.groups import PENDING
from orchestrio.redis._server.connection import Connection, Script

JOBS = Topic("jobs", int)
OTHERS = Topic("others", int)
STREAM = "{test:jobs}"
POISONED = Path(__file__).parent / "poisoned.py"
POISON = 7
WIDE = ChannelConfig(capacity=4096, overflow="block")


def bridge(server: RedisServer, options: BridgeOptions | None = None) -> RedisBridge:
    options = {"mode": "compete", **(options or {})}
    return RedisBridge(server.url, topics=[JOBS], namespace="test", **options)


async def fill(server: RedisServer, count: int) -> None:
    async with process(bridge(server), JOBS, config=WIDE) as publisher:
        for number in range(count):
            await publisher.publish(JOBS, number)


def dead(server: RedisServer) -> list[dict[str, bytes]]:
    return server.entries(f"{STREAM}:dead")


def tries(server: RedisServer) -> object:
    return server.ask("HGETALL", f"{STREAM}:workers:tries")


# -- what counts -----------------------------------------------------------------------------


async def test_a_failing_message_costs_its_neighbours_no_delivery(server: RedisServer) -> None:
    """Its task is restarted each time, and hands back what it has not begun."""
    await fill(server, 60)
    handled = Inbox[int]()
    carrier = bridge(server, {"claim_after": 0.3, "max_deliveries": 3})
    async with Scheduler() as scheduler:
        scheduler.add_channel(JOBS, WIDE)
        scheduler.register_background_task(carrier)

        @scheduler.on(JOBS, restart=RestartPolicy(initial_delay=0.01, max_delay=0.01))
        async def work(number: int) -> None:
            if number == POISON:
                raise ValueError("cannot be handled")
            await handled.put(number)

        await scheduler.start()
        await handled.wait_for(59)
        await until(lambda: carrier.statistics().buried == 1)
        assert carrier.statistics().failed == 3
    assert sorted(handled.items) == [number for number in range(60) if number != POISON]
    (letter,) = dead(server)
    assert letter["deliveries"] == b"3"
    assert b"cannot be handled" in letter["error"]


async def test_graceful_stops_cost_no_delivery_of_what_no_handler_began(
    server: RedisServer,
) -> None:
    await fill(server, 40)
    begun: Counter[int] = Counter()

    async def hold(number: int) -> None:
        begun[number] += 1
        await sleep_forever()

    async def begin_one_more() -> None:
        before = begun.total()
        async with Scheduler() as scheduler:
            scheduler.add_channel(JOBS, WIDE)
            scheduler.register_background_task(bridge(server, {"max_deliveries": 3}))
            scheduler.on(JOBS, drain_timeout=0.05)(hold)
            await scheduler.start()
            await until(lambda: begun.total() == before + 1)

    for _ in range(5):
        await begin_one_more()
    assert begun == {0: 3, 1: 2}
    inbox = Inbox[int]()
    async with process(bridge(server), JOBS, inbox.put):
        assert sorted(await inbox.wait_for(39)) == list(range(1, 40))
    assert [letter["deliveries"] for letter in dead(server)] == [b"3"]


async def test_a_message_that_kills_processes_is_buried_and_its_neighbours_are_handled(
    server: RedisServer, tmp_path: Path, anyio_backend_name: str
) -> None:
    await fill(server, 30)
    file = tmp_path / "handled"
    file.touch()
    command = [sys.executable, str(POISONED), anyio_backend_name, server.url, str(file)]
    deaths = 0

    def done() -> bool:
        return len(set(file.read_text().split())) == 29 and len(dead(server)) == 1

    running: Process | None = None
    try:
        with anyio.fail_after(60):
            while not done():
                if running is None or running.returncode is not None:
                    deaths += running is not None
                    running = await anyio.open_process(command, stderr=subprocess.DEVNULL)
                await sleep(0.02)
    finally:
        if running is not None:
            if running.returncode is None:
                running.kill()
            await running.wait()
            await running.aclose()
    # The first time nothing may have been heard of it: it dies in the moment in which it begins.
    assert deaths in (3, 4)
    (letter,) = dead(server)
    assert letter["deliveries"] == b"3"


async def test_what_a_handler_has_begun_is_noted_and_forgotten_when_it_is_handled(
    server: RedisServer,
) -> None:
    go, began = Event(), Inbox[int]()
    carrier = bridge(server)

    async def work(number: int) -> None:
        await began.put(number)
        await go.wait()

    async with process(carrier, JOBS, work) as scheduler:
        for number in range(3):
            await scheduler.publish(JOBS, number)
        await began.wait_for(1)
        await until(lambda: tries(server) != [])
        noted = tries(server)
        assert isinstance(noted, list)
        assert noted[1::2] == [b"1"]
        go.set()
        await until(lambda: carrier.statistics().acknowledged == 3)
        await until(lambda: tries(server) == [])


# -- how many --------------------------------------------------------------------------------


async def test_there_is_never_more_in_hand_than_asked_for(server: RedisServer) -> None:
    """While what a dead process had is claimed, what is new is read, and what failed comes again."""
    await fill(server, 600)
    server.ask("XREADGROUP", "GROUP", "workers", "gone", "COUNT", 300, "STREAMS", STREAM, ">")
    server.ask("ZADD", f"{STREAM}:workers:alive", 0, "gone")
    carrier = bridge(server, {"prefetch": 5, "claim_after": 0.2})
    seen: Counter[int] = Counter()
    most = 0

    async def work(number: int) -> None:
        nonlocal most
        seen[number] += 1
        most = max(most, carrier.statistics().in_hand)
        await anyio.lowlevel.checkpoint()
        if seen[number] == 1 and number % 7 == 0:
            raise ValueError("not this time")

    async with process(carrier, JOBS, work, config=WIDE):
        await until(lambda: carrier.statistics().acknowledged == 600)
    assert most <= 5
    assert set(seen) == set(range(600))


async def test_what_failed_comes_again_as_fast_as_there_is_room(server: RedisServer) -> None:
    away, done = True, Inbox[int]()
    carrier = bridge(server, {"claim_after": 1.5, "prefetch": 16})

    async def work(number: int) -> None:
        if away:
            raise ConnectionError("the database is away")
        await done.put(number)

    await fill(server, 600)
    async with process(carrier, JOBS, work, config=WIDE):
        await until(lambda: carrier.statistics().failed == 600)
        away = False
        since = current_time()
        assert sorted(await done.wait_for(600)) == list(range(600))
        assert current_time() - since < 12  # 19 s, when there was one prefetch every 0.5 s


async def test_a_topic_without_room_does_not_hold_up_another(server: RedisServer) -> None:
    go, jobs, others = Event(), Inbox[int](), Inbox[int]()
    carrier = RedisBridge(
        server.url, topics=[JOBS, OTHERS], namespace="test", mode="compete", prefetch=2
    )
    async with Scheduler() as scheduler:
        for topic in (JOBS, OTHERS):
            scheduler.add_channel(topic, WIDE)
        scheduler.register_background_task(carrier)

        @scheduler.on(JOBS)
        async def hold(number: int) -> None:
            await jobs.put(number)
            await go.wait()

        scheduler.on(OTHERS)(others.put)
        await scheduler.start()
        for number in range(10):
            await scheduler.publish(JOBS, number)
        await jobs.wait_for(1)
        for number in range(100):
            await scheduler.publish(OTHERS, number)
        assert await others.wait_for(100) == list(range(100))
        assert carrier.statistics().in_hand == 2
        go.set()
        assert await jobs.wait_for(10) == list(range(10))


# -- who gets it next ------------------------------------------------------------------------


async def test_what_is_handed_back_goes_to_another_at_once(server: RedisServer) -> None:
    """Not when some part of `claim_after` is over, which is half a minute."""
    begun, inbox = Inbox[int](), Inbox[int]()

    async def hold(number: int) -> None:
        await begun.put(number)
        await sleep_forever()

    staying = Scheduler()
    staying.add_channel(JOBS, WIDE)
    staying.register_background_task(bridge(server))
    staying.on(JOBS)(inbox.put)
    async with staying:
        async with Scheduler() as leaving:
            leaving.add_channel(JOBS, WIDE)
            carrier = bridge(server)
            leaving.register_background_task(carrier)
            leaving.on(JOBS, drain_timeout=0.05)(hold)
            await leaving.start()
            for number in range(50):
                await leaving.publish(JOBS, number)
            await until(lambda: carrier.statistics().in_hand == 50)
            await staying.start()
        since = current_time()
        await inbox.wait_for(50)
        assert current_time() - since < 15
    assert sorted(inbox.items) == list(range(50))


async def test_a_message_is_renewed_while_its_process_drains(server: RedisServer) -> None:
    begun, ended = Inbox[str](), Inbox[str]()
    options: BridgeOptions = {"claim_after": 0.4}

    def worker(name: str, seconds: float) -> Scheduler:
        scheduler = Scheduler()
        scheduler.add_channel(JOBS)
        scheduler.register_background_task(bridge(server, options))

        @scheduler.on(JOBS, drain_timeout=30)
        async def work(number: int) -> None:
            await begun.put(name)
            await sleep(seconds)
            await ended.put(name)

        return scheduler

    async with create_task_group() as group:

        async def old() -> None:
            async with worker("old", 2) as scheduler:
                await scheduler.start()
                await scheduler.publish(JOBS, 1)
                await begun.wait_for(1)

        group.start_soon(old)
        await begun.wait_for(1)
        async with worker("new", 0) as scheduler:
            await scheduler.start()
            await ended.wait_for(1)
            await sleep(0.1)
    assert begun.items == ended.items == ["old"]


async def test_what_handlers_publish_while_they_drain_goes_out_at_once(
    server: RedisServer,
) -> None:
    begun, others = Inbox[int](), Inbox[int]()
    go = Event()

    def scheduler_of() -> Scheduler:
        scheduler = Scheduler()
        for topic in (JOBS, OTHERS):
            scheduler.add_channel(topic, ChannelConfig(capacity=2, overflow="block"))
        scheduler.register_background_task(
            RedisBridge(server.url, topics=[JOBS, OTHERS], namespace="test", mode="compete")
        )
        return scheduler

    here, there = scheduler_of(), scheduler_of()

    @here.on(JOBS, drain_timeout=30)
    async def work(number: int) -> None:
        await begun.put(number)
        await go.wait()
        for part in range(20):  # more than the outbox holds
            await here.publish(OTHERS, part)

    there.on(OTHERS)(others.put)
    async with there:
        await there.start()
        async with here:
            await here.start()
            await here.publish(JOBS, 1)
            await begun.wait_for(1)
            async with create_task_group() as group:
                group.start_soon(here.shutdown)
                await until(here.stopping.is_set)
                go.set()
                assert await others.wait_for(20) == list(range(20))


async def test_what_the_server_gives_for_an_old_request_is_handled(server: RedisServer) -> None:
    """It was on its way for so long that it came when nobody waited for an answer any more."""
    begun, go = Inbox[int](), Event()
    carrier = bridge(server, {"claim_after": 0.4, "prefetch": 2})

    async def work(number: int) -> None:
        await begun.put(number)
        await go.wait()

    async with process(carrier, JOBS, work, config=WIDE) as publisher:
        for number in range(8):
            await publisher.publish(JOBS, number)
        await until(lambda: carrier.statistics().in_hand == 2)
        ((_, me),) = consumers(server)
        request = ("XREADGROUP", "GROUP", "workers", me, "COUNT", 4, "STREAMS", STREAM, ">")
        await until(lambda: carrier.statistics().unsent == 0)
        assert server.ask(*request) is not None
        go.set()
        await until(lambda: carrier.statistics().acknowledged == 8)
    assert sorted(begun.items) == list(range(8))


def consumers(server: RedisServer) -> list[tuple[int, bytes]]:
    """How many entries each consumer has, and its name."""
    found = server.ask("XPENDING", STREAM, "workers")
    assert isinstance(found, list)
    assert isinstance(found[3], list)
    pairs = [pair for pair in found[3] if isinstance(pair, list)]
    return [(int(n), who) for who, n in pairs if isinstance(n, bytes) and isinstance(who, bytes)]


async def test_what_is_told_of_while_it_is_recovered_is_not_handled_again(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server says what this process has, and hears that it is done before that arrives."""
    begun, go, asked, told = Inbox[int](), Event(), Event(), Event()
    run = Connection.run

    async def answer_late(
        self: Connection, script: Script, keys: list[str], arguments: list[str | bytes | int]
    ) -> object:
        answer: object = await run(self, script, keys, arguments)
        if script is PENDING and begun.items:
            asked.set()
            await told.wait()
        return answer

    async def work(number: int) -> None:
        await begun.put(number)
        await go.wait()

    monkeypatch.setattr(Connection, "run", answer_late)
    carrier = bridge(server)
    async with process(carrier, JOBS, work) as publisher:
        await publisher.publish(JOBS, 1)
        await begun.wait_for(1)
        server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        with fail_after(IN_TIME):
            await asked.wait()
        go.set()
        await until(lambda: carrier.statistics().acknowledged == 1)
        told.set()
        await publisher.publish(JOBS, 2)
        await until(lambda: carrier.statistics().acknowledged >= 2)
    assert begun.items == [1, 2]


async def test_what_cannot_be_read_here_is_left_to_a_process_that_can(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """As while a new version is rolled out."""
    words = Topic("jobs", str)
    new, old = Inbox[str](), Inbox[int]()

    def of(topic: Topic[int] | Topic[str]) -> RedisBridge:
        return RedisBridge(
            server.url, topics=[topic], namespace="test", mode="compete", claim_after=1
        )

    async with process(of(JOBS), JOBS, old.put), process(of(words), words) as publisher:
        await publisher.publish(words, "seven")
        await until(lambda: "is left to others" in caplog.text)
    async with process(of(JOBS), JOBS, old.put), process(of(words), words, new.put):
        assert await new.wait_for(1) == ["seven"]
    assert old.items == []
    assert dead(server) == []


async def test_what_nobody_can_read_is_a_dead_letter_in_the_end(server: RedisServer) -> None:
    words = Topic("jobs", str)
    sender = RedisBridge(server.url, topics=[words], namespace="test", mode="compete")
    async with process(sender, words) as publisher:
        await publisher.publish(words, "seven")
    carrier = bridge(server, {"claim_after": 0.1})
    async with process(carrier, JOBS, Inbox[int]().put):
        await until(lambda: carrier.statistics().buried == 1)
    (letter,) = dead(server)
    assert letter["deliveries"] == b"0"
