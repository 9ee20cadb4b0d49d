"""A primary is demoted and a replica promoted while messages flow, by hand and by a sentinel.

Replication is asynchronous: what a primary has taken and not passed on is lost with it, whatever a
client does. So, as `FAILOVER` does, writes are held up for the moment in which the replica catches
up; from then on it is for the bridge that nothing gets lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from anyio import create_task_group
from anyio.to_thread import run_sync
from processes import JOBS, Inbox, all_come_while, bridge_of_jobs, process
from redis_server import RedisServer, Sentinel, free_port
from support import until
from tcp_proxy import Proxy

from orchestrio.redis import RedisSettings

MODES = pytest.mark.parametrize("mode", ["broadcast", "compete"])


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[RedisServer, RedisServer]]:
    """A primary and its replica."""
    folders = [tmp_path / "primary", tmp_path / "replica"]
    for folder in folders:
        folder.mkdir()
    primary = RedisServer(folders[0], "--repl-diskless-sync-delay", "0").start()
    replica = RedisServer(folders[1], "--replicaof", "127.0.0.1", str(primary.port))
    try:
        replica.start()
        replica.wait_for("master_link_status", "up")
        yield primary, replica
    finally:
        primary.kill()
        replica.kill()


def hold_up_writes(primary: RedisServer, replica: RedisServer) -> None:
    """Have the replica catch up; who writes to the primary waits, until it is a replica itself."""
    primary.ask("CLIENT", "PAUSE", 20_000, "WRITE")
    replica.wait_until(
        lambda: replica.info("slave_repl_offset") == primary.info("master_repl_offset")
    )


async def goes_on(settings: RedisSettings, mode: str, failover: Callable[[], None]) -> None:
    """Publish while it happens, and afterwards; every message is handled, and nothing else is."""

    async def fail_over(inbox: Inbox[int]) -> None:
        await inbox.wait_for(20)
        await run_sync(failover)

    publishing = await all_come_while(settings, mode, fail_over)
    assert publishing.statistics().outages >= 1


@MODES
async def test_a_primary_is_demoted_by_hand(
    pair: tuple[RedisServer, RedisServer], mode: str
) -> None:
    """The address goes to the other one, as a name or a virtual address does."""
    primary, replica = pair
    with Proxy(primary.port) as proxy:

        def failover() -> None:
            hold_up_writes(primary, replica)
            replica.ask("REPLICAOF", "NO", "ONE")
            proxy.target = replica.port
            primary.ask("REPLICAOF", "127.0.0.1", replica.port)
            primary.ask("CLIENT", "UNPAUSE")

        settings = RedisSettings(host="127.0.0.1", port=proxy.port)
        await goes_on(settings, mode, failover)


@pytest.fixture
def sentinel(pair: tuple[RedisServer, RedisServer], tmp_path: Path) -> Iterator[Sentinel]:
    (tmp_path / "sentinel").mkdir()
    sentinel = Sentinel(tmp_path / "sentinel", pair[0])
    try:
        sentinel.start().wait_for_replicas(1)
        yield sentinel
    finally:
        sentinel.kill()


@MODES
async def test_a_replica_is_promoted_by_a_sentinel(
    pair: tuple[RedisServer, RedisServer], sentinel: Sentinel, mode: str
) -> None:
    primary, replica = pair

    def failover() -> None:
        hold_up_writes(primary, replica)
        primary.ask("CONFIG", "SET", "min-replicas-to-write", 1)  # and then it will have none
        sentinel.ask("SENTINEL", "FAILOVER", "main")
        replica.wait_for("role", "master")
        primary.ask("CLIENT", "UNPAUSE")
        primary.wait_for("role", "slave")

    # Of several sentinels some may be away; which one is asked first is a matter of chance.
    url = f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{sentinel.port}/main/0"
    await goes_on(RedisSettings.from_url(url), mode, failover)
    assert replica.ask("EXISTS", "{test:jobs}:count") == 1


async def test_a_service_that_no_sentinel_knows_is_waited_for(
    sentinel: Sentinel, caplog: pytest.LogCaptureFixture
) -> None:
    """It may be configured later, as operators of Kubernetes do."""
    settings = RedisSettings(sentinels=(f"127.0.0.1:{sentinel.port}",), service="other")
    carrier, inbox = bridge_of_jobs(settings, "broadcast"), Inbox[int]()

    async def configure() -> None:
        await until(lambda: carrier.statistics().outages >= 1)
        sentinel.ask("SENTINEL", "MONITOR", "other", "127.0.0.1", sentinel.primary.port, 1)

    async with create_task_group() as group:
        group.start_soon(configure)
        async with process(carrier, JOBS, inbox.put) as publisher:
            await publisher.publish(JOBS, 1)
            assert await inbox.wait_for(1) == [1]
    assert "none of the sentinels knows 'other'" in caplog.text


async def test_what_a_sentinel_takes_for_the_primary_must_be_one(
    pair: tuple[RedisServer, RedisServer], sentinel: Sentinel, caplog: pytest.LogCaptureFixture
) -> None:
    """It is behind for a moment; and a replica would take reads for a long time."""
    primary, replica = pair
    settings = RedisSettings(sentinels=(f"127.0.0.1:{sentinel.port}",), service="main")
    sentinel.ask("SENTINEL", "REMOVE", "main")
    sentinel.ask("SENTINEL", "MONITOR", "main", "127.0.0.1", replica.port, 1)
    carrier, inbox = bridge_of_jobs(settings, "broadcast"), Inbox[int]()

    async def configure() -> None:
        await until(lambda: carrier.statistics().outages >= 1)
        sentinel.ask("SENTINEL", "REMOVE", "main")
        sentinel.ask("SENTINEL", "MONITOR", "main", "127.0.0.1", primary.port, 1)

    async with create_task_group() as group:
        group.start_soon(configure)
        async with process(carrier, JOBS, inbox.put) as publisher:
            await publisher.publish(JOBS, 1)
            assert await inbox.wait_for(1) == [1]
    assert f"127.0.0.1:{replica.port}, which is to be 'main', is a replica" in caplog.text


async def test_sentinels_with_a_password_of_their_own(
    pair: tuple[RedisServer, RedisServer], sentinel: Sentinel
) -> None:
    sentinel.ask("ACL", "SETUSER", "default", "resetpass", ">of-the-sentinel")
    settings = RedisSettings.from_url(f"redis+sentinel://127.0.0.1:{sentinel.port}/main")
    fields = settings.model_dump() | {"sentinel_password": "of-the-sentinel"}
    inbox = Inbox[int]()
    carrier = bridge_of_jobs(RedisSettings.model_validate(fields), "broadcast")
    async with process(carrier, JOBS, inbox.put) as publisher:
        await publisher.publish(JOBS, 1)
        assert await inbox.wait_for(1) == [1]
