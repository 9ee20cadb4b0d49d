"""Three masters on which the topics of a bridge lie, and slots that move while messages flow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from anyio import create_task_group, sleep
from anyio.to_thread import run_sync
from processes import JOBS, Inbox, all_come_while, bridge_of_jobs, process
from redis_server import Cluster, RedisServer, free_port, slot_of
from support import until

from orchestrio import ChannelConfig, Scheduler, Topic
from orchestrio.redis import RedisBridge, RedisSettings
from orchestrio.redis._server.connection import connected

BLOCK = ChannelConfig(capacity=64, overflow="block")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path)
    try:
        yield cluster.start()
    finally:
        cluster.kill()


@pytest.mark.parametrize("mode", ["broadcast", "compete"])
async def test_a_slot_moves_while_messages_flow(cluster: Cluster, mode: str) -> None:
    """To both other nodes, one after the other; every message is handled."""
    slot = slot_of("test:jobs")
    first = cluster.owner(slot)
    others = [node for node in cluster.nodes if node is not first]

    async def move(inbox: Inbox[int]) -> None:
        for target in others:
            await inbox.wait_for(len(inbox.items) + 20)
            source = await run_sync(cluster.begin_move, slot, target)
            await sleep(0.3)  # while some keys are here, and new ones there
            await run_sync(cluster.end_move, slot, source, target)

    await all_come_while(RedisSettings.from_url(cluster.url), mode, move)
    assert cluster.owner(slot) is others[1]


async def test_the_topics_of_a_bridge_may_lie_on_several_nodes(cluster: Cluster) -> None:
    topics = [Topic(f"topic-{number}", int) for number in range(4)]
    owners = {cluster.owner(slot_of(f"test:{topic.key}")).port for topic in topics}
    assert len(owners) == 3
    inbox = Inbox[int]()
    async with Scheduler() as scheduler:
        for topic in topics:
            scheduler.add_channel(topic, BLOCK)
            scheduler.on(topic)(inbox.put)
        scheduler.register_background_task(
            RedisBridge(cluster.url, topics=topics, namespace="test")
        )
        await scheduler.start()
        for number, topic in enumerate(topics):
            await scheduler.publish(topic, number)
        assert sorted(await inbox.wait_for(4)) == [0, 1, 2, 3]


async def test_a_node_that_is_away_is_waited_for(cluster: Cluster) -> None:
    """Those that are left answer CLUSTERDOWN after a while, as nobody has its slots."""
    slot = slot_of("test:jobs")
    owner = cluster.owner(slot)
    inbox, carrier = Inbox[int](), bridge_of_jobs(RedisSettings.from_url(cluster.url), "compete")
    async with process(carrier, JOBS, inbox.put) as publisher:
        await publisher.publish(JOBS, 1)
        await inbox.wait_for(1)
        await until(lambda: carrier.statistics().acknowledged == 1)
        owner.kill()
        await publisher.publish(JOBS, 2)
        await until(lambda: carrier.statistics().outages >= 1)
        await sleep(3)
        owner.start()
        assert await inbox.wait_for(2) == [1, 2]
    assert carrier.statistics().outages == 1


async def test_a_node_that_is_cut_off_is_not_believed(cluster: Cluster, tmp_path: Path) -> None:
    """It says CLUSTERDOWN of all slots, while the others have them."""
    with cut_off(tmp_path, 4) as nodes:
        settings = RedisSettings(cluster=(*nodes, f"127.0.0.1:{cluster.nodes[0].port}"))
        inbox, carrier = Inbox[int](), bridge_of_jobs(settings, "compete")
        async with process(carrier, JOBS, inbox.put) as publisher:
            await publisher.publish(JOBS, 1)
            assert await inbox.wait_for(1) == [1]
            await until(lambda: carrier.statistics().acknowledged == 1)
    assert carrier.statistics().outages == 0


async def test_nor_by_any_of_those_who_ask_at_once(cluster: Cluster, tmp_path: Path) -> None:
    with cut_off(tmp_path, 4) as nodes:
        settings = RedisSettings(cluster=(*nodes, f"127.0.0.1:{cluster.nodes[0].port}"))
        async with connected(settings) as connection, create_task_group() as group:
            for _ in range(20):
                group.start_soon(connection.ping, ["{test:jobs}"])


async def test_a_cluster_is_down_if_every_node_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with cut_off(tmp_path, 7) as nodes:  # more than it takes redirections
        carrier = bridge_of_jobs(RedisSettings(cluster=nodes), "compete")
        async with Scheduler() as scheduler, create_task_group() as group:
            scheduler.add_channel(JOBS, BLOCK)
            scheduler.register_background_task(carrier)
            group.start_soon(scheduler.start)
            await until(lambda: carrier.statistics().outages >= 1)
            group.cancel_scope.cancel()
    assert "CLUSTERDOWN" in caplog.text
    assert "do not agree" not in caplog.text


@contextmanager
def cut_off(folder: Path, count: int) -> Iterator[tuple[str, ...]]:
    """Have nodes that no other knows."""
    with ExitStack() as stack:
        nodes: list[RedisServer] = []
        for number in range(count):
            (folder / f"alone{number}").mkdir()
            bus = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
            nodes.append(RedisServer(folder / f"alone{number}", *bus))
            stack.callback(nodes[-1].kill)
            nodes[-1].start()
        yield tuple(f"127.0.0.1:{node.port}" for node in nodes)
