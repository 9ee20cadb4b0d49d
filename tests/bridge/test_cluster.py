"""Three masters on which the topics of a bridge lie, and slots that move while messages flow."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from anyio import create_task_group, sleep
from anyio.to_thread import run_sync
from processes import Inbox, process
from redis_server import Cluster, slot_of
from support import until

from orchestrio import ChannelConfig, Scheduler, Topic
from orchestrio.redis import RedisBridge, RedisSettings

JOBS = Topic("jobs", int)
BLOCK = ChannelConfig(capacity=64, overflow="block")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path)
    try:
        yield cluster.start()
    finally:
        cluster.kill()


def bridge(cluster: Cluster, mode: str) -> RedisBridge:
    settings = RedisSettings.from_url(cluster.url)
    if mode == "broadcast":
        return RedisBridge(settings, topics=[JOBS], namespace="test")
    return RedisBridge(settings, topics=[JOBS], namespace="test", mode="compete", claim_after=1)


@pytest.mark.parametrize("mode", ["broadcast", "compete"])
async def test_a_slot_moves_while_messages_flow(cluster: Cluster, mode: str) -> None:
    """To both other nodes, one after the other; every message is handled."""
    slot = slot_of("test:jobs")
    first = cluster.owner(slot)
    others = [node for node in cluster.nodes if node is not first]
    inboxes = [Inbox[int](), Inbox[int]()]
    bridges = [bridge(cluster, mode) for _ in range(3)]
    published, moved = 0, 0

    async def move() -> None:
        nonlocal moved
        for target in others:
            seen = len(inboxes[1].items) + 20
            await until(partial(more_than, seen))
            source = await run_sync(cluster.begin_move, slot, target)
            await sleep(0.3)  # while some keys are here, and new ones there
            await run_sync(cluster.end_move, slot, source, target)
            moved += 1

    def more_than(seen: int) -> bool:
        return len(inboxes[1].items) > seen

    async with (
        process(bridges[0], JOBS, config=BLOCK) as publisher,
        process(bridges[1], JOBS, inboxes[0].put, config=BLOCK),
        process(bridges[2], JOBS, inboxes[1].put, config=BLOCK),
        create_task_group() as group,
    ):
        group.start_soon(move)
        after = 0
        while after < 100:
            await publisher.publish(JOBS, published)
            published += 1
            after += moved == 2
            await sleep(0.002)

        def all_came() -> bool:
            got = [set(inbox.items) for inbox in inboxes]
            everything = set(range(published))
            if mode == "broadcast":
                return got == [everything, everything]
            return got[0] | got[1] == everything

        await until(all_came)
        await until(lambda: bridges[0].statistics().unsent == 0)
    assert cluster.owner(slot) is others[1]
    if mode == "broadcast":
        assert [inbox.items for inbox in inboxes] == [list(range(published))] * 2


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
    inbox, carrier = Inbox[int](), bridge(cluster, "compete")
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
