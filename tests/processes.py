"""Schedulers with a bridge, as each process of a cluster has one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from anyio import Event, create_task_group, fail_after, sleep
from support import IN_TIME, until

from orchestrio import ChannelConfig, Scheduler, Topic
from orchestrio.redis import RedisBridge, RedisSettings

T = TypeVar("T")

JOBS: Final = Topic("jobs", int)


def bridge_of_jobs(settings: RedisSettings, mode: str) -> RedisBridge:
    """A bridge that carries jobs alone."""
    if mode == "broadcast":
        return RedisBridge(settings, topics=[JOBS], namespace="test")
    return RedisBridge(settings, topics=[JOBS], namespace="test", mode="compete", claim_after=1)


@dataclass
class Inbox(Generic[T]):
    """What the handlers of one process got."""

    items: list[T] = field(default_factory=list)
    _news: Event = field(default_factory=Event)

    async def put(self, item: T) -> None:
        self.items.append(item)
        self._news.set()
        self._news = Event()

    async def wait_for(self, count: int) -> list[T]:
        """Wait until so many items have come."""
        with fail_after(IN_TIME):
            while len(self.items) < count:
                await self._news.wait()
        return self.items


@asynccontextmanager
async def process(
    bridge: RedisBridge,
    topic: Topic[T],
    handle: Callable[[T], Awaitable[object]] | None = None,
    *,
    config: ChannelConfig | None = None,
) -> AsyncGenerator[Scheduler]:
    """A scheduler that carries a topic over a bridge, started."""
    async with Scheduler() as scheduler:
        scheduler.add_channel(topic, config or ChannelConfig(overflow="block"))
        scheduler.register_background_task(bridge)
        if handle is not None:
            scheduler.on(topic, on_error="skip")(handle)
        with fail_after(IN_TIME):
            await scheduler.start()
        yield scheduler
        with fail_after(IN_TIME):
            await scheduler.shutdown()


async def all_come_while(
    settings: RedisSettings, mode: str, happens: Callable[[Inbox[int]], Awaitable[None]]
) -> RedisBridge:
    """Publish jobs to two processes while something happens, and 100 more; every one is handled.

    In broadcast each process gets all, in order and once.

    :param settings: where the server is
    :param mode: that of the bridges
    :param happens: called with what one of the processes gets
    :return: the bridge of the process that published
    """
    inboxes = [Inbox[int](), Inbox[int]()]
    bridges = [bridge_of_jobs(settings, mode) for _ in range(3)]
    config = ChannelConfig(capacity=64, overflow="block")
    published = 0
    over = False

    async def happen() -> None:
        nonlocal over
        await happens(inboxes[1])
        over = True

    async with (
        process(bridges[0], JOBS, config=config) as publisher,
        process(bridges[1], JOBS, inboxes[0].put, config=config),
        process(bridges[2], JOBS, inboxes[1].put, config=config),
        create_task_group() as group,
    ):
        group.start_soon(happen)
        after = 0
        while after < 100:
            await publisher.publish(JOBS, published)
            published += 1
            after += over
            await sleep(0.002)

        def all_came() -> bool:
            got = [set(inbox.items) for inbox in inboxes]
            everything = set(range(published))
            if mode == "broadcast":
                return got == [everything, everything]
            return got[0] | got[1] == everything

        await until(all_came)
        await until(lambda: bridges[0].statistics().unsent == 0)
    if mode == "broadcast":
        assert [inbox.items for inbox in inboxes] == [list(range(published))] * 2
    return bridges[0]
