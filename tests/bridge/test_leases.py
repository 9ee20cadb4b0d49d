"""``singleton=True``: one process of a cluster runs it, and soon another if that one has died."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from math import inf
from pathlib import Path

import pytest
from anyio import Event, fail_after, sleep, sleep_forever
from redis_server import RedisServer
from support import IN_TIME, until
from tcp_proxy import Proxy

from orchestrio import (
    LifecycleError,
    Scheduler,
    TaskExecutionError,
    Topic,
    current_task_context,
)
from orchestrio.redis import RedisBridge, RedisSettings

NOTHING = Topic("nothing", int)
SINGLETON = Path(__file__).parent / "singleton.py"


class Leader:
    """Works alone, and says under which leases."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.works = False

    async def execute(self) -> None:
        self.tokens.append(current_task_context().fencing_token)
        self.works = True
        try:
            await sleep_forever()
        finally:
            self.works = False


@asynccontextmanager
async def candidate(
    server: RedisServer,
    leader: Leader,
    *,
    lease: float = 0.4,
    port: int | None = None,
    watchdog: float = inf,
) -> AsyncGenerator[Scheduler]:
    settings = RedisSettings(host="127.0.0.1", port=port or server.port, response_timeout=0.3)
    async with Scheduler() as scheduler:
        scheduler.add_channel(NOTHING)
        scheduler.register_background_task(
            RedisBridge(settings, topics=[NOTHING], namespace="test", lease=lease)
        )
        scheduler.background(singleton=True, name="leader", watchdog=watchdog)(leader.execute)
        with fail_after(IN_TIME):
            await scheduler.start()
        yield scheduler


async def test_one_of_several_works(server: RedisServer) -> None:
    leaders = [Leader() for _ in range(3)]
    async with (
        candidate(server, leaders[0]),
        candidate(server, leaders[1]),
        candidate(server, leaders[2]),
    ):
        await until(lambda: any(leader.works for leader in leaders))
        for _ in range(10):
            await sleep(0.1)  # more than twice as long as a lease lasts
            assert sum(leader.works for leader in leaders) == 1
    assert sum(len(leader.tokens) for leader in leaders) == 1


async def test_one_that_waits_for_its_lease_is_no_silent_one(server: RedisServer) -> None:
    first, second = Leader(), Leader()
    async with candidate(server, first):
        await until(lambda: first.works)
        async with candidate(server, second, watchdog=0.1) as other:
            await sleep(0.5)
            assert other.health().ready


async def test_another_takes_over_when_one_stops(server: RedisServer) -> None:
    first, second = Leader(), Leader()
    async with candidate(server, second, lease=10.0) as other:
        await until(lambda: second.works)
        async with candidate(server, first, lease=10.0):
            began = time.monotonic()
            await other.shutdown()
            await until(lambda: first.works)
            assert time.monotonic() - began < 9.0  # it was given up, and did not run out
    assert first.tokens[0] > second.tokens[0]


async def test_another_takes_over_also_if_the_memory_of_the_server_is_full(
    server: RedisServer,
) -> None:
    leader = Leader()
    server.ask("CONFIG", "SET", "maxmemory", 1)
    async with candidate(server, leader) as scheduler:
        await until(lambda: leader.works)
        await scheduler.shutdown()


async def test_it_stops_at_once_when_the_lease_is_lost(server: RedisServer) -> None:
    leader = Leader()
    async with candidate(server, leader) as scheduler:
        await until(lambda: leader.works)
        (key,) = [key for key in server.all_keys() if key.endswith("lease:leader}")]
        server.ask("SET", key, "somebody else", "PX", 300)
        await until(lambda: not leader.works)
        assert scheduler.health().live
        await until(lambda: leader.works)  # again, when the other has gone
    assert leader.tokens == sorted(set(leader.tokens))
    assert len(leader.tokens) == 2


async def test_it_stops_in_time_when_the_server_is_away(server: RedisServer) -> None:
    """Before another can have the lease: the two never work at the same time."""
    first, second = Leader(), Leader()
    both = False
    with Proxy(server.port) as proxy:
        async with candidate(server, first, port=proxy.port):
            await until(lambda: first.works)
            async with candidate(server, second):
                proxy.silent = True

                def moved() -> bool:
                    nonlocal both
                    both = both or (first.works and second.works)
                    return second.works

                await until(moved)
                assert not first.works
                proxy.silent = False
    assert not both
    assert second.tokens[0] > first.tokens[0]


@contextmanager
def process(server: RedisServer, file: Path, backend: str) -> Iterator[subprocess.Popen[bytes]]:
    file.touch()
    command = [sys.executable, str(SINGLETON), backend, server.url, str(file)]
    with subprocess.Popen(command) as running:
        try:
            yield running
        finally:
            running.kill()


def times(file: Path) -> list[tuple[int, float]]:
    """Under which token a process worked, and when."""
    lines = [line.split() for line in file.read_text().splitlines()]
    return [(int(words[0]), float(words[1])) for words in lines if len(words) == 2]


async def test_another_takes_over_when_one_is_killed(
    server: RedisServer, tmp_path: Path, anyio_backend_name: str
) -> None:
    files = [tmp_path / "first", tmp_path / "second"]
    with process(server, files[0], anyio_backend_name) as first:
        await until(lambda: len(times(files[0])) > 3)
        with process(server, files[1], anyio_backend_name):
            await until(lambda: "ready" in files[1].read_text())
            assert times(files[1]) == []
            first.send_signal(signal.SIGKILL)
            killed = time.time()
            await until(lambda: len(times(files[1])) > 3)
    last_token, last = times(files[0])[-1]
    token, began = times(files[1])[0]
    assert last < began
    assert token > last_token
    assert began - killed < 0.5 * 1.25 + 2.0  # what is promised, and a slow machine


async def test_a_task_that_returns_lets_the_next_one_work(server: RedisServer) -> None:
    done: list[int] = []

    class Short(Leader):
        async def execute(self) -> None:
            done.append(current_task_context().fencing_token)

    async with candidate(server, Short()), candidate(server, Short()):
        await until(lambda: len(done) == 2)
    assert done == sorted(set(done))


async def test_its_failure_is_one_as_ever(server: RedisServer) -> None:
    class Faulty(Leader):
        async def execute(self) -> None:
            raise OSError("no disk")

    with pytest.raises(TaskExecutionError, match="'leader' failed: its execute.. raised OSError"):
        async with candidate(server, Faulty()) as scheduler:
            await scheduler.run()
    assert not [key for key in server.all_keys() if key.endswith("lease:leader}")]


async def test_without_a_bridge_it_cannot_work() -> None:
    scheduler = Scheduler()

    @scheduler.background(singleton=True)
    async def alone() -> None: ...

    with pytest.raises(TaskExecutionError, match="register a RedisBridge"):
        await scheduler.run()


async def test_other_tasks_have_no_fencing_token() -> None:
    scheduler, asked = Scheduler(), Event()

    @scheduler.background()
    async def usual() -> None:
        with pytest.raises(LifecycleError, match="'usual' works under no lease"):
            print(current_task_context().fencing_token)
        asked.set()

    await scheduler.run()
    assert asked.is_set()


async def test_of_two_bridges_the_first_has_the_leases_in_each_process(
    server: RedisServer,
) -> None:
    """Or one process might hold the lease of one bridge, and one that of the other."""

    def two_bridges(leader: Leader) -> Scheduler:
        scheduler = Scheduler()
        for number in range(2):
            topic = Topic(f"nothing {number}", int)
            scheduler.add_channel(topic)
            carrier = RedisBridge(server.url, topics=[topic], namespace=f"n{number}", lease=0.4)
            scheduler.register_background_task(carrier, name=f"bridge {number}")
        scheduler.background(singleton=True, name="leader")(leader.execute)
        return scheduler

    here, there = Leader(), Leader()
    async with two_bridges(here) as one, two_bridges(there) as other:
        with fail_after(IN_TIME):
            await one.start()
            await until(lambda: here.works)
            await other.start()
            # What is initialised last must not make the others' lease another one.
            for name in ("bridge 0", "leader"):
                await other.restart_task(other.registry.get_by_name(name).task_id)
        await sleep(1)
        assert (here.works, there.works) == (True, False)


async def test_a_bridge_is_no_singleton() -> None:
    """Or all processes but one would seem ready, and carry nothing."""
    bridge = RedisBridge("redis://localhost", topics=[NOTHING], namespace="test")
    with pytest.raises(LifecycleError, match="a bridge cannot be a singleton"):
        Scheduler().register_background_task(bridge, singleton=True)
    scheduler = Scheduler(defaults={"singleton": True})
    scheduler.register_background_task(bridge)  # it is for those that can be
    assert [snapshot.metadata.singleton for snapshot in scheduler.status()] == [False]


async def test_an_event_task_is_no_singleton() -> None:
    scheduler = Scheduler()
    with pytest.raises(LifecycleError, match='mode="compete"'):

        @scheduler.on("news", singleton=True)
        async def read(item: str) -> None: ...
