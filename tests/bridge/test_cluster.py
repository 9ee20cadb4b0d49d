"""Three masters on which the topics of a bridge lie, and slots that move while messages flow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from anyio import sleep
from anyio.to_thread import run_sync
from processes import JOBS, Inbox, all_come_while, bridge_of_jobs, process
from redis_server import Cluster, slot_of
from support import until

from orchestrio import ChannelConfig, Scheduler, Topic
from orchestrio.redis import RedisBridge, RedisSettings

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
        await until(lambda: carrier.statistics().outages == 1)
        await sleep(3)
        owner.start()
        assert await inbox.wait_for(2) == [1, 2]
    assert carrier.statistics().outages == 1
