"""A cancellation at every turn of a whole run: what was initialised is shut down, in order, once."""

from __future__ import annotations

from collections import Counter

import anyio
import pytest
from anyio import CancelScope, create_task_group
from anyio.lowlevel import checkpoint
from support import settle

from orchestrio import BackgroundTask, ChannelConfig, EventTask, Overflow, Scheduler, Topic

NUMBERS = Topic("numbers", int)


class Hooked(BackgroundTask):
    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self.log = log

    async def initialize(self) -> None:
        await checkpoint()
        self.log.append(f"up {self.name}")

    async def execute(self) -> None:
        await anyio.sleep_forever()

    async def shutdown(self) -> None:
        await checkpoint()
        await checkpoint()
        self.log.append(f"down {self.name}")


class Producer(Hooked):
    def __init__(self, name: str, log: list[str], scheduler: Scheduler) -> None:
        super().__init__(name, log)
        self.scheduler = scheduler
        self.published = 0

    async def execute(self) -> None:
        for number in range(20):
            await self.scheduler.publish(NUMBERS, number)
            self.published += 1
            await checkpoint()


class Consumer(EventTask[int]):
    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.seen: list[int] = []

    @property
    def subscribed_event(self) -> Topic[int]:
        return NUMBERS

    async def initialize(self) -> None:
        await checkpoint()
        self.log.append("up consumer")

    async def handle_event(self, event: int) -> None:
        await checkpoint()
        self.seen.append(event)

    async def shutdown(self) -> None:
        await checkpoint()
        self.log.append("down consumer")


@pytest.mark.parametrize("overflow", ["drop_oldest", "block"])
@pytest.mark.parametrize("turns", range(0, 60, 2))
async def test_whenever_it_is_cancelled_it_stops_in_order_and_loses_nothing(
    turns: int, overflow: Overflow
) -> None:
    log: list[str] = []
    scheduler = Scheduler()
    capacity = 2 if overflow == "block" else 64
    scheduler.add_channel(NUMBERS, ChannelConfig(capacity=capacity, overflow=overflow))
    consumer = Consumer(log)
    producer = Producer("producer", log, scheduler)
    scheduler.register_background_task(Hooked("first", log))
    scheduler.register_event_task(consumer)
    scheduler.register_background_task(producer)
    before = len(anyio.get_running_tasks())

    async def cancel(scope: CancelScope) -> None:
        for _ in range(turns):
            await checkpoint()
        scope.cancel()

    async with create_task_group() as group:
        with CancelScope() as scope:
            group.start_soon(cancel, scope)
            await scheduler.run()
    await settle(2)

    assert len(anyio.get_running_tasks()) == before, "no task is left behind"
    ups = [line[3:] for line in log if line.startswith("up ")]
    downs = [line[5:] for line in log if line.startswith("down ")]
    assert downs == ups[::-1], "in reverse order, each once"
    assert max(Counter(log).values(), default=1) == 1
    assert consumer.seen == list(range(len(consumer.seen))), "in order, nothing twice"
    assert len(consumer.seen) >= producer.published, "all that was published was handled"
