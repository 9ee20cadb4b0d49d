"""What a bridge shares its server, its channel and its process with, and goes on beside."""

from __future__ import annotations

import os
import warnings

import pytest
from anyio import Event, create_task_group, fail_after, sleep
from processes import Inbox, process
from redis_server import RedisServer
from support import IN_TIME, until

from orchestrio import (
    ChannelConfig,
    EventSendError,
    LifecycleError,
    Scheduler,
    TaskInitializationError,
    Topic,
)
from orchestrio.redis import BridgeOptions, RedisBridge

JOBS = Topic("jobs", int)
OTHERS = Topic("others", int)
STREAM = "{test:jobs}"
BLOCK = ChannelConfig(overflow="block")
MODES = pytest.mark.parametrize("mode", ["broadcast", "compete"])


def bridge(server: RedisServer, mode: str, options: BridgeOptions | None = None) -> RedisBridge:
    given: BridgeOptions = {"mode": "compete" if mode == "compete" else "broadcast"}
    given.update(options or {})
    return RedisBridge(server.url, topics=[JOBS], namespace="test", **given)


@MODES
async def test_much_that_cannot_be_read_holds_up_nothing(server: RedisServer, mode: str) -> None:
    """More of it than there is room for."""
    inbox, carrier = Inbox[int](), bridge(server, mode, {"prefetch": 4})
    async with process(carrier, JOBS, inbox.put) as publisher:
        for number in range(50):
            server.ask("XADD", STREAM, "*", "no", number)
        await publisher.publish(JOBS, 7)
        assert await inbox.wait_for(1) == [7]
        await until(lambda: carrier.statistics().buried == 50)


@MODES
@pytest.mark.parametrize("n", ["abc", "1.5", "", "9" * 30, "-5"])
async def test_an_entry_with_a_strange_ordinal_ends_nobody(
    server: RedisServer, mode: str, n: str
) -> None:
    inbox, carrier = Inbox[int](), bridge(server, mode)
    async with process(carrier, JOBS, inbox.put) as publisher:
        await publisher.publish(JOBS, 1)
        await inbox.wait_for(1)
        fields = ("id", "abcdefgh9", "time", "2026-01-01T00:00:00.000Z", "data", 2)
        server.ask("XADD", STREAM, "*", "v", 2, "n", n, *fields)
        await publisher.publish(JOBS, 3)
        assert await inbox.wait_for(3) == [1, 2, 3]
        assert carrier.statistics().missed == 0


async def test_a_second_task_comes_when_the_first_has_handled_a_message(
    server: RedisServer,
) -> None:
    inbox, late = Inbox[int](), Inbox[int]()
    carrier = bridge(server, "compete")
    config = ChannelConfig(overflow="block", replay=1)
    async with process(carrier, JOBS, inbox.put, config=config) as scheduler:
        await scheduler.publish(JOBS, 1)
        await until(lambda: carrier.statistics().acknowledged == 1)
        scheduler.on(JOBS, name="late")(late.put)
        assert await late.wait_for(1) == [1]
        await scheduler.publish(JOBS, 2)
        assert await late.wait_for(2) == [1, 2]
        await until(lambda: carrier.statistics().acknowledged == 2)


async def test_a_full_server_is_told_what_was_handled_by_one_that_publishes_too(
    server: RedisServer,
) -> None:
    inbox, go, carrier = Inbox[int](), Event(), bridge(server, "compete")

    async def work(number: int) -> None:
        await go.wait()
        await inbox.put(number)

    async with process(carrier, JOBS, work, config=BLOCK) as scheduler:
        for number in range(50):
            await scheduler.publish(JOBS, number)
        await until(lambda: carrier.statistics().unsent == 0)
        server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
        server.ask("CONFIG", "SET", "maxmemory", "1")
        await scheduler.publish(JOBS, 50)
        await until(lambda: not carrier.statistics().connected)
        go.set()
        await until(lambda: carrier.statistics().acknowledged == 50)
        assert carrier.statistics().unsent == 1
        server.ask("CONFIG", "SET", "maxmemory", "0")
        assert await inbox.wait_for(51) == list(range(51))


@MODES
async def test_what_is_unsent_at_a_stop_goes_to_a_server_that_came_back_empty(
    server: RedisServer, mode: str
) -> None:
    carrier = bridge(server, mode)
    async with process(carrier, JOBS) as scheduler:
        await scheduler.publish(JOBS, 0)
        await until(lambda: carrier.statistics().sent == 1)
        server.kill()
        await until(lambda: not carrier.statistics().connected)
        for number in range(1, 5):
            await scheduler.publish(JOBS, number)
        server.start()
        server.ask("FLUSHALL")
    assert [entry["data"] for entry in server.entries(STREAM)] == [b"1", b"2", b"3", b"4"]


async def test_what_a_removed_bridge_has_delivered_is_handled_once(server: RedisServer) -> None:
    here, there, go = Inbox[int](), Inbox[int](), Event()

    async def work(number: int) -> None:
        await go.wait()
        await here.put(number)

    carrier = bridge(server, "compete", {"claim_after": 0.5})
    async with Scheduler() as scheduler:
        scheduler.add_channel(JOBS, BLOCK)
        entry = scheduler.register_background_task(carrier)
        scheduler.on(JOBS)(work)
        with fail_after(IN_TIME):
            await scheduler.start()
        for number in range(10):
            await scheduler.publish(JOBS, number)
        await until(lambda: carrier.statistics().in_hand == 10)
        async with process(bridge(server, "compete", {"claim_after": 0.5}), JOBS, there.put):
            async with create_task_group() as group:
                group.start_soon(scheduler.remove_task, entry)
                await sleep(0.3)
                go.set()
            assert await here.wait_for(10) == list(range(10))
            await sleep(1)
            assert there.items == []
        await scheduler.publish(JOBS, 10)  # to the handler here alone
        assert (await here.wait_for(11))[-1] == 10


async def test_a_bridge_that_was_removed_cannot_be_used_again(server: RedisServer) -> None:
    carrier = bridge(server, "broadcast")
    async with Scheduler() as scheduler:
        scheduler.add_channel(JOBS)
        entry = scheduler.register_background_task(carrier)
        await scheduler.start()
        await scheduler.remove_task(entry)
    async with Scheduler() as other:
        other.add_channel(JOBS)
        other.register_background_task(carrier)
        with pytest.raises(TaskInitializationError, match="make a new RedisBridge") as caught:
            await other.start()
    assert isinstance(caught.value.__cause__, LifecycleError)


async def test_handlers_go_on_when_the_bridge_is_stopped_alone(server: RedisServer) -> None:
    """Also those of what a dead consumer had, which else wait until that is noted."""
    server.ask("XGROUP", "CREATE", STREAM, "workers", "0", "MKSTREAM")
    async with process(bridge(server, "compete"), JOBS) as publisher:
        for number in range(5):
            await publisher.publish(JOBS, number)
        await until(lambda: server.ask("XLEN", STREAM) == 5)
    server.ask("XREADGROUP", "GROUP", "workers", "dead", "STREAMS", STREAM, ">")
    server.ask("ZADD", f"{STREAM}:workers:alive", 0, "dead")
    inbox, go, carrier = Inbox[int](), Event(), bridge(server, "compete")

    async def work(number: int) -> None:
        await inbox.put(number)
        await go.wait()

    async with Scheduler() as scheduler:
        scheduler.add_channel(JOBS, BLOCK)
        entry = scheduler.register_background_task(carrier)
        scheduler.on(JOBS)(work)
        await scheduler.start()
        await until(lambda: carrier.statistics().in_hand == 5)
        await inbox.wait_for(1)
        await scheduler.stop_task(entry)
        go.set()
        assert await inbox.wait_for(5) == list(range(5))


def said_by_a_fork(scheduler: Scheduler) -> str:
    """Fork now, publish in the child, and return what it got for that."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which it does without
        child = os.fork()
    if child == 0:
        try:
            scheduler.bus.publish_nowait(JOBS, 1)
        except EventSendError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


@MODES
async def test_a_fork_of_a_process_that_works_cannot_publish(
    server: RedisServer, mode: str
) -> None:
    """What it would send, the server would take for what its parent sends."""
    inbox = Inbox[int]()
    async with process(bridge(server, mode), JOBS, inbox.put) as scheduler:
        assert "was forked from the one in which the bridge works" in said_by_a_fork(scheduler)
        await scheduler.publish(JOBS, 2)
        assert await inbox.wait_for(1) == [2]
