"""On a stop, those who subscribed by themselves end before the first ``shutdown()``."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from anyio import (
    ClosedResourceError,
    EndOfStream,
    Event,
    create_task_group,
    fail_after,
    move_on_after,
    to_thread,
)
from support import NUMBERS, WORDS, TroubleError, settle

from orchestrio import (
    BackgroundTask,
    BroadcastSendStream,
    ChannelConfig,
    EventReceiveError,
    LifecycleError,
    Scheduler,
    TaskInitializationError,
    Topic,
)
from orchestrio.testing import MemoryBridge, MemoryServer, harness

IN_TIME = 10.0


class Witness(BackgroundTask):
    """Works for ever, and calls something in its ``shutdown()``."""

    def __init__(self, look: Callable[[], Any]) -> None:
        self.look = look

    async def execute(self) -> None:
        await anyio.sleep_forever()

    async def shutdown(self) -> None:
        await self.look()


@pytest.fixture
def scheduler() -> Scheduler:
    scheduler = Scheduler()
    scheduler.add_channel(NUMBERS, ChannelConfig(capacity=4, overflow="block"))
    return scheduler


async def test_a_hook_may_wait_for_those_who_read(scheduler: Scheduler) -> None:
    read: list[int] = []
    ended = Event()

    async def connection() -> None:
        with scheduler.subscribe(NUMBERS) as numbers:
            read.extend([number async for number in numbers])
        ended.set()

    async def publish_and_wait() -> None:
        await ended.wait()

    async with create_task_group() as group, scheduler:
        scheduler.register_background_task(Witness(publish_and_wait), shutdown_timeout=5)
        await scheduler.start()
        group.start_soon(connection)
        await settle()
        await scheduler.publish(NUMBERS, 1)
    assert read == [1]


async def test_they_end_after_what_was_published_in_the_drain(scheduler: Scheduler) -> None:
    scheduler.add_channel(WORDS)
    release = Event()

    @scheduler.on(NUMBERS)
    async def tell(number: int) -> None:
        await release.wait()
        await scheduler.publish(WORDS, f"number {number}")

    async with create_task_group() as group:
        with scheduler.subscribe(WORDS) as words:
            async with scheduler:
                await scheduler.start()
                await scheduler.publish(NUMBERS, 1)
                await settle()
                group.start_soon(scheduler.shutdown)
                await settle()
                assert scheduler.stopping.is_set()
                with move_on_after(0.01) as waiting:
                    await words.receive()
                assert waiting.cancelled_caught, "it has not ended while others drain"
                release.set()
            assert await words.receive() == "number 1"
            with pytest.raises(EndOfStream):
                await words.receive()


async def test_they_get_the_rest_and_nothing_that_a_hook_publishes(scheduler: Scheduler) -> None:
    reached: list[int] = []

    async def publish() -> None:
        for number in range(100, 110):  # more than there is room for: nobody holds it up
            reached.append(await scheduler.publish(NUMBERS, number))

    scheduler.register_background_task(Witness(publish))
    with scheduler.subscribe(NUMBERS) as numbers, numbers.clone() as clone:
        async with scheduler:
            await scheduler.start()
            for number in range(3):
                await scheduler.publish(NUMBERS, number)
            assert await clone.receive() == 0
        assert numbers.statistics().unread == len(numbers) == 3
        assert numbers.statistics().channel.senders == 0
        with numbers.clone() as late, numbers.resubscribe() as later:
            assert [number async for number in numbers] == [0, 1, 2]
            assert [number async for number in late] == [0, 1, 2]
            assert [number async for number in clone] == [1, 2]
            with pytest.raises(EndOfStream):
                later.receive_nowait()
    assert reached == [0] * 10


async def test_one_that_lags_is_told_of_it_after_the_end() -> None:
    scheduler = Scheduler()
    scheduler.add_channel(NUMBERS, ChannelConfig(capacity=2))
    with scheduler.subscribe(NUMBERS) as numbers:
        async with scheduler:
            await scheduler.start()
            for number in range(5):
                await scheduler.publish(NUMBERS, number)
        with pytest.raises(Exception, match="missed 3 items"):
            await numbers.receive()
        assert [number async for number in numbers] == [3, 4]
        assert scheduler.bus.statistics()[NUMBERS].missed == 3


async def test_what_they_have_read_is_let_go(scheduler: Scheduler) -> None:
    with scheduler.subscribe(NUMBERS) as numbers:
        async with scheduler:
            await scheduler.start()
            await scheduler.publish(NUMBERS, 1)
        assert numbers.statistics().channel.buffered == 1
        await numbers.receive()
        assert numbers.statistics().channel.buffered == 0
        assert scheduler.bus.statistics()[NUMBERS].receivers == 1, "it is still to be closed"
    assert scheduler.bus.statistics()[NUMBERS].receivers == 0


async def test_a_publisher_that_they_held_up_goes_on(scheduler: Scheduler) -> None:
    async def publish() -> None:
        for number in range(9):
            await scheduler.publish(NUMBERS, number)

    async with create_task_group() as group:
        with scheduler.subscribe(NUMBERS) as numbers:
            async with scheduler:
                await scheduler.start()
                group.start_soon(publish)
                await settle()
                assert scheduler.bus.statistics()[NUMBERS].tasks_waiting_send == 1
            assert [number async for number in numbers] == [0, 1, 2, 3]


async def test_wait_for_ends_with_an_error(scheduler: Scheduler) -> None:
    ended = Event()

    async def wait() -> None:
        with pytest.raises(EventReceiveError, match="its scheduler stopped"):
            await scheduler.bus.wait_for(NUMBERS)
        ended.set()

    async with create_task_group() as group, scheduler:
        scheduler.register_background_task(Witness(ended.wait), shutdown_timeout=5)
        await scheduler.start()
        group.start_soon(wait)
        await settle()


async def test_nobody_can_subscribe_any_more(scheduler: Scheduler) -> None:
    seen: list[str] = []

    async def look() -> None:
        late = Topic("late", int)
        scheduler.add_channel(late)
        for topic in (NUMBERS, late):
            with pytest.raises(LifecycleError, match="stopping"):
                scheduler.subscribe(topic)
            with pytest.raises(LifecycleError, match="stopping"):
                await scheduler.bus.wait_for(topic)
            with scheduler.clone_sender(topic) as sender, pytest.raises(ClosedResourceError):
                sender.subscribe()
            assert await scheduler.publish(topic, 1) == 0
        seen.append("all of it")

    scheduler.register_background_task(Witness(look))
    async with scheduler:
        await scheduler.start()
    assert seen == ["all of it"]


async def test_they_end_when_a_start_fails(scheduler: Scheduler) -> None:
    ended = Event()

    async def connection() -> None:
        with scheduler.subscribe(NUMBERS) as numbers:
            async for _ in numbers:
                pass
        ended.set()

    class Failing(Witness):
        async def initialize(self) -> None:
            raise TroubleError

    async with create_task_group() as group, scheduler:
        scheduler.register_background_task(Witness(ended.wait), shutdown_timeout=5)
        scheduler.register_background_task(Failing(settle))
        group.start_soon(connection)
        await settle()
        with pytest.raises(TaskInitializationError):
            await scheduler.start()
    assert ended.is_set()


async def test_a_recorder_of_the_harness_gets_what_hooks_publish(scheduler: Scheduler) -> None:
    async def publish() -> None:
        await scheduler.publish(NUMBERS, 7)

    scheduler.register_background_task(Witness(publish))
    async with harness(scheduler) as h:
        recorder = h.record(NUMBERS)
    assert h.published(NUMBERS) == recorder.messages == [7]


async def test_a_bridge_sends_on_what_hooks_publish() -> None:
    def process(server: MemoryServer) -> Scheduler:
        scheduler = Scheduler()
        scheduler.add_channel(NUMBERS)
        scheduler.register_background_task(MemoryBridge(server, topics=[NUMBERS]))
        return scheduler

    server = MemoryServer()
    here, there = process(server), process(server)

    async def publish() -> None:
        await here.publish(NUMBERS, 7)

    here.register_background_task(Witness(publish))
    async with harness(there) as h:
        recorder = h.record(NUMBERS)
        with here.subscribe(NUMBERS) as outside:
            async with here:
                await here.start()
            with fail_after(IN_TIME):
                assert await recorder.wait_for(1) == [7]
            with pytest.raises(EndOfStream):
                outside.receive_nowait()


# -- threads -----------------------------------------------------------------------------------


class Sensor(BackgroundTask):
    """A thread that sends for as long as it can, and is waited for."""

    def __init__(self, send: Callable[[], None]) -> None:
        self.send = send
        self.told: list[BaseException] = []

    def measure(self) -> None:
        try:
            while True:
                self.send()
        except BaseException as error:
            self.told.append(error)

    async def execute(self) -> None:
        self.thread = threading.Thread(target=self.measure, daemon=True)
        self.thread.start()
        await anyio.sleep_forever()

    async def shutdown(self) -> None:
        await to_thread.run_sync(self.thread.join, 5)


async def sends(sender: BroadcastSendStream[int], at_least: int) -> None:
    with fail_after(IN_TIME):
        while sender.statistics().sent < at_least:  # noqa: ASYNC110  # a thread tells nobody
            await anyio.sleep(0.001)


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("bridged", [False, True])
async def test_a_thread_is_told(scheduler: Scheduler, many: bool, bridged: bool) -> None:
    sender = scheduler.clone_sender(NUMBERS)
    if bridged:
        bridge = MemoryBridge(MemoryServer(), topics=[NUMBERS])
        scheduler.register_background_task(bridge)

    @scheduler.on(NUMBERS, drain_timeout=0.1)
    async def keep(number: int) -> None: ...

    def send() -> None:
        if many:
            sender.send_many_from_thread(range(10))
        else:
            sender.send_from_thread(1)

    sensor = Sensor(send)
    with fail_after(IN_TIME):
        async with scheduler:
            scheduler.register_background_task(sensor, shutdown_timeout=6)
            await scheduler.start()
            await sends(sender, 0 if bridged else 20)
    assert [type(error) for error in sensor.told] == [ClosedResourceError]
    assert "channel" in str(sensor.told[0])
    assert not sensor.thread.is_alive()


async def test_a_thread_that_waits_for_room_is_told(scheduler: Scheduler) -> None:
    sender = scheduler.clone_sender(NUMBERS)
    sensor = Sensor(lambda: sender.send_many_from_thread(range(100)))
    with fail_after(IN_TIME), scheduler.subscribe(NUMBERS) as numbers:
        async with scheduler:
            scheduler.register_background_task(sensor, shutdown_timeout=6)
            await scheduler.start()
            while not sender.statistics().tasks_waiting_send:  # noqa: ASYNC110  # as above
                await anyio.sleep(0.001)
        assert [number async for number in numbers] == [0, 1, 2, 3]
    assert [type(error) for error in sensor.told] == [ClosedResourceError]


async def test_a_thread_that_a_task_runs_ends_with_its_task(scheduler: Scheduler) -> None:
    sender = scheduler.clone_sender(NUMBERS)

    def measure() -> None:
        while True:
            sender.send_from_thread(1)

    @scheduler.on(NUMBERS)
    async def keep(number: int) -> None: ...

    @scheduler.background()
    async def sensor() -> None:
        await to_thread.run_sync(measure)

    with fail_after(IN_TIME):
        async with scheduler:
            await scheduler.start()
            await sends(sender, 20)
    assert {task.error for task in scheduler.status()} == {None}
