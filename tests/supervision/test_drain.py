"""What a stop waits for: what was published before it, and what handling that leads to."""

from __future__ import annotations

import anyio
import pytest
from anyio import create_task_group, current_time
from support import NUMBERS, settle

from orchestrio import LifecycleError, Scheduler, TaskSnapshot, Topic

COMMANDS = ["stop_task", "remove_task", "restart_task", "stop group", "restart group", "shutdown"]


class Stage:
    """A producer that never ends, and a handler for which it is too fast."""

    def __init__(self, scheduler: Scheduler, concurrency: int) -> None:
        self.scheduler = scheduler
        self.sent = 0
        self.handled: list[int] = []
        self.seconds = 2.4 * concurrency
        self.group = scheduler.group("group")
        self.group.on(NUMBERS, name="reader", concurrency=concurrency)(self.handle)
        scheduler.background(name="neighbour")(anyio.sleep_forever)

    async def handle(self, number: int) -> None:
        await anyio.sleep(self.seconds)
        self.handled.append(number)

    async def publish(self) -> None:
        try:
            while True:
                await self.scheduler.publish(NUMBERS, self.sent)
                self.sent += 1
                await anyio.sleep(2)
        except LifecycleError:
            pass  # it has stopped

    @property
    def status(self) -> TaskSnapshot:
        (task,) = [task for task in self.scheduler.status() if task.name == "reader"]
        return task

    async def command(self, command: str) -> None:
        if command.endswith("group"):
            await getattr(self.group, command.removesuffix(" group"))()
        elif command == "shutdown":
            await self.scheduler.shutdown()
        else:
            await getattr(self.scheduler, command)(self.status.task_id)


@pytest.fixture
def stage(scheduler: Scheduler, concurrency: int) -> Stage:
    return Stage(scheduler, concurrency)


@pytest.mark.parametrize("command", COMMANDS)
async def test_a_producer_that_goes_on_holds_no_stop_up(
    stage: Stage, command: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with create_task_group() as outside, stage.scheduler as scheduler:
        await scheduler.start()
        outside.start_soon(stage.publish)
        await anyio.sleep(9)
        published = stage.sent
        await stage.command(command)
        assert set(stage.handled) >= set(range(published)), "what was published before is handled"
        # A pool finishes what it has in hand, one message of which waits for a worker.
        assert current_time() < 9 + 10 + (0 if stage.seconds < 3 else stage.seconds)
        handled = len(stage.handled)
        if command != "remove_task":
            assert (stage.status.handled, stage.status.failed) == (handled, 0)
        if "restart" in command:
            await anyio.sleep(20)
            assert len(stage.handled) > handled
            assert sorted(stage.handled)[: handled + 1] == list(range(handled + 1)), "it waits"
        else:
            assert "task 'reader' ended with" in caplog.text, "and this is told"
        assert "was cancelled while it handled" not in caplog.text
        outside.cancel_scope.cancel()


async def test_what_was_published_before_has_its_drain_timeout_all_the_same(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    async with create_task_group() as outside, stage.scheduler as scheduler:
        await scheduler.start()
        for _ in range(20):
            await scheduler.publish(NUMBERS, stage.sent)
            stage.sent += 1
        outside.start_soon(stage.publish)
        await settle()
        await stage.command("stop_task")
        assert current_time() == 10
        outside.cancel_scope.cancel()
    assert "was cancelled while it handled" in caplog.text


@pytest.mark.parametrize("length", [1, 2, 5])
async def test_a_chain_of_handlers_is_followed_to_its_end_while_a_producer_goes_on(
    scheduler: Scheduler, length: int
) -> None:
    topics = [Topic(f"topic {number}", int) for number in range(length)]
    reached: list[int] = []

    def add(place: int) -> None:
        scheduler.add_channel(topics[place])

        @scheduler.on(topics[place], name=f"link {place}")
        async def handle(number: int) -> None:
            await anyio.sleep(1)
            if place + 1 < length:
                await scheduler.publish(topics[place + 1], number)
            else:
                reached.append(number)

    async def publish() -> None:
        number = 0
        while True:
            await scheduler.publish(topics[-1], number)
            number -= 1
            await anyio.sleep(0.8)

    for place in reversed(range(length)):
        add(place)
    async with create_task_group() as outside:
        async with scheduler:
            await scheduler.start()
            outside.start_soon(publish)
            await settle()
            await scheduler.publish(topics[0], 1)
            await scheduler.publish(topics[0], 2)
        outside.cancel_scope.cancel()
    assert [number for number in reached if number > 0] == [1, 2]


async def test_handlers_that_publish_in_a_circle_are_followed_once_around(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    there = Topic("there", int)
    scheduler.add_channel(there)

    @scheduler.on(NUMBERS, name="here")
    async def here(number: int) -> None:
        await anyio.sleep(1)
        await scheduler.publish(there, number + 1)

    @scheduler.on(there, name="there")
    async def back(number: int) -> None:
        await anyio.sleep(1)
        await scheduler.publish(NUMBERS, number + 1)

    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 0)
        await settle()
        await scheduler.shutdown()
        assert current_time() < 5
    assert "was cancelled while it handled" not in caplog.text


async def test_what_a_task_publishes_for_itself_is_all_handled_when_the_work_is_done(
    scheduler: Scheduler,
) -> None:
    seen: list[int] = []

    @scheduler.on(NUMBERS, drain_timeout=100)
    async def crawl(number: int) -> None:
        await anyio.sleep(1)
        seen.append(number)
        if number < 20:
            await scheduler.publish(NUMBERS, number + 1)

    @scheduler.background()
    async def seed() -> None:
        await scheduler.publish(NUMBERS, 0)

    await scheduler.run()
    assert seen == list(range(21))


async def test_a_message_in_hand_after_the_drain_may_be_finished_within_stop_timeout(
    scheduler: Scheduler, concurrency: int, caplog: pytest.LogCaptureFixture
) -> None:
    ended: list[tuple[int, float]] = []

    @scheduler.on(NUMBERS, name="reader", concurrency=concurrency, drain_timeout=20, stop_timeout=5)
    async def reader(seconds: int) -> None:
        await anyio.sleep(seconds)
        ended.append((seconds, current_time()))

    async def publish_later() -> None:
        await anyio.sleep(0.5)
        for _ in range(concurrency):
            await scheduler.publish(NUMBERS, 100)

    async with create_task_group() as outside, scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 1)
        await settle()
        outside.start_soon(publish_later)
        await scheduler.shutdown()
        assert 6 <= current_time() < 6.2
    assert ended == [(1, 1)]
    assert caplog.text.count("'reader' was cancelled while it handled") == 1
