"""Schedulers with a bridge, as each process of a cluster has one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from anyio import Event, fail_after
from support import IN_TIME

from orchestrio import ChannelConfig, Scheduler, Topic
from orchestrio.redis import RedisBridge

T = TypeVar("T")


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
