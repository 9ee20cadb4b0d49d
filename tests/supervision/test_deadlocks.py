"""Tasks that wait for room that only they can make: told within seconds, once, and nobody else is."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from threading import Thread

import anyio
import pytest
import sniffio
from support import SOON, settle

from orchestrio import (
    BackgroundTask,
    ChannelConfig,
    EventTask,
    Scheduler,
    TaskState,
    Topic,
    create_broadcast_stream,
    current_task_context,
)

PAGES = Topic("pages", int)
LINKS = Topic("links", int)

BRIEF = 0.1


@pytest.fixture
def scheduler() -> Scheduler:
    scheduler = Scheduler(random=lambda: 0.0)
    for topic in (PAGES, LINKS):
        scheduler.add_channel(topic, ChannelConfig(capacity=2, overflow="block"))
    return scheduler


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "orchestrio")


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno == logging.WARNING and "deadlock" in record.getMessage()
    ]


def recoveries(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "no deadlock" in record.msg]


async def publish_thrice(scheduler: Scheduler, topic: Topic[int] = PAGES) -> None:
    for number in range(3):
        await scheduler.publish(topic, number)


async def publish_at_once(scheduler: Scheduler) -> None:
    async with anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(scheduler.publish, PAGES, number)


async def publish_from_thread(scheduler: Scheduler) -> None:
    with scheduler.clone_sender(PAGES) as sender:
        for number in range(3):
            await anyio.to_thread.run_sync(sender.send_from_thread, number)


async def publish_in_a_task_of_asyncio(scheduler: Scheduler) -> None:
    await asyncio.create_task(publish_thrice(scheduler))


async def gather(scheduler: Scheduler) -> None:
    await asyncio.gather(*(scheduler.publish(PAGES, number) for number in range(3)))


async def gather_others(scheduler: Scheduler) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(scheduler.publish(PAGES, number))


async def publish_in_asyncios_thread(scheduler: Scheduler) -> None:
    with scheduler.clone_sender(PAGES) as sender:
        await asyncio.to_thread(sender.send_many_from_thread, range(3))


async def wait_for_them(scheduler: Scheduler) -> None:
    await asyncio.wait([asyncio.create_task(publish_thrice(scheduler))])


#: On asyncio alone, and in real time.
OF_ASYNCIO = [
    publish_in_a_task_of_asyncio,
    gather,
    gather_others,
    publish_in_asyncios_thread,
    wait_for_them,
]


async def publish_by_sender(scheduler: Scheduler) -> None:
    with scheduler.clone_sender(PAGES) as sender:
        for number in range(3):
            await sender.send(number)


Publishing = Callable[[Scheduler], Awaitable[None]]


@pytest.mark.parametrize("publishing", [publish_thrice, publish_at_once, publish_by_sender])
@pytest.mark.parametrize("retries", [0, 2])
async def test_a_handler_that_waits_for_itself_is_told_within_seconds(
    scheduler: Scheduler,
    caplog: pytest.LogCaptureFixture,
    publishing: Publishing,
    concurrency: int,
    retries: int,
) -> None:
    @scheduler.on(
        PAGES, concurrency=concurrency, retries=retries, drain_timeout=0, stop_timeout=BRIEF
    )
    async def crawler(depth: int) -> None:
        await publishing(scheduler)

    async with scheduler:
        await scheduler.start()
        for depth in range(concurrency):
            with anyio.move_on_after(0.1):  # some have to wait themselves
                await scheduler.publish(PAGES, depth)
        await anyio.sleep(5)
        (told,) = warnings(caplog)
        assert "'crawler'" in told
        assert "pages" in told
        assert "which only it can make" in told
        assert "capacity" in told, "the cure"
        report = scheduler.health()
        (task,) = report.tasks
        assert (report.live, report.ready, task.ready) == (True, False, False)
        assert task.waiting_for is not None
        assert "pages" in task.waiting_for
        assert scheduler.probe().not_ready == ("crawler",)
        await anyio.sleep(1000)
        assert len(warnings(caplog)) == 1, "once"


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_a_handler_that_waits_for_itself_in_a_thread_is_told(
    caplog: pytest.LogCaptureFixture, scheduler: Scheduler
) -> None:
    @scheduler.on(PAGES, drain_timeout=0, stop_timeout=2)
    async def crawler(depth: int) -> None:
        await publish_from_thread(scheduler)

    async with scheduler:
        await scheduler.start()
        await scheduler.publish(PAGES, 0)
        await anyio.sleep(3.5)
        assert len(warnings(caplog)) == 1
        assert not scheduler.probe().ready


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("publishing", OF_ASYNCIO)
async def test_a_handler_that_waits_for_itself_by_asyncio_is_told(
    caplog: pytest.LogCaptureFixture, scheduler: Scheduler, publishing: Publishing
) -> None:
    @scheduler.on(PAGES, drain_timeout=0, stop_timeout=2)
    async def crawler(depth: int) -> None:
        await publishing(scheduler)

    async with scheduler:
        await scheduler.start()
        await scheduler.publish(PAGES, 0)
        await anyio.sleep(3.5)
        assert len(warnings(caplog)) == 1
        assert not scheduler.probe().ready


async def with_fail_after(scheduler: Scheduler) -> None:
    with anyio.fail_after(60):
        await publish_thrice(scheduler)


async def with_children(scheduler: Scheduler) -> None:
    with anyio.move_on_after(60):
        await publish_at_once(scheduler)


async def with_wait_for(scheduler: Scheduler) -> None:
    await asyncio.wait_for(publish_thrice(scheduler), 60)


async def with_timeout(scheduler: Scheduler) -> None:
    async with asyncio.timeout(60):
        await publish_thrice(scheduler)


@pytest.mark.parametrize(
    "publishing", [with_fail_after, with_children, with_wait_for, with_timeout]
)
@pytest.mark.parametrize("attempt_timeout", [math.inf, 1000.0])
async def test_a_handler_that_waits_until_its_own_time_out_is_in_no_deadlock(
    scheduler: Scheduler,
    caplog: pytest.LogCaptureFixture,
    publishing: Publishing,
    attempt_timeout: float,
    concurrency: int,
) -> None:
    if publishing in (with_wait_for, with_timeout) and sniffio.current_async_library() == "trio":
        pytest.skip("of asyncio")

    @scheduler.on(
        PAGES,
        attempt_timeout=attempt_timeout,
        on_error="skip",
        concurrency=concurrency,
        drain_timeout=0,
        stop_timeout=BRIEF,
    )
    async def crawler(depth: int) -> None:
        await publishing(scheduler)

    async with scheduler:
        await scheduler.start()
        for depth in range(concurrency):
            await scheduler.publish(PAGES, depth)
        await anyio.sleep(30)
        assert scheduler.health().ready
        assert not warnings(caplog)
        (told,) = [line for line in caplog.messages if "only a time-out ends this" in line]
        assert "'crawler' waits for room in channel pages" in told
        await anyio.sleep(1000)
        assert sum("only a time-out" in line for line in caplog.messages) == 1, "once"


async def test_two_that_wait_for_each_other_are_told_together(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    @scheduler.on(PAGES, drain_timeout=0)
    async def fetch(number: int) -> None:
        await publish_thrice(scheduler, LINKS)

    @scheduler.on(LINKS, drain_timeout=0)
    async def follow(number: int) -> None:
        await publish_thrice(scheduler, PAGES)

    @scheduler.on(LINKS, drain_timeout=0)
    async def count(number: int) -> None: ...

    async with scheduler:
        await scheduler.start()
        await scheduler.publish(PAGES, 0)
        await anyio.sleep(5)
        (told,) = warnings(caplog)
        for name in ("'fetch'", "'follow'", "pages", "links"):
            assert name in told
        assert "'count'" not in told
        ready = {task.name: task.ready for task in scheduler.status()}
        assert ready == {"fetch": False, "follow": False, "count": True}


async def test_who_waits_for_a_deadlocked_task_is_not_part_of_it(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    @scheduler.on(PAGES, drain_timeout=0)
    async def crawler(number: int) -> None:
        await publish_thrice(scheduler)

    @scheduler.on(LINKS, drain_timeout=0)
    async def tail(number: int) -> None:
        await publish_thrice(scheduler)

    @scheduler.background()
    async def producer() -> None:
        await publish_thrice(scheduler, LINKS)
        for _ in range(2):  # more than there can be room for
            await publish_thrice(scheduler, PAGES)

    async with scheduler:
        await scheduler.start()
        await anyio.sleep(5)
        (told,) = warnings(caplog)
        assert "'crawler'" in told
        assert "'tail'" not in told
        assert "'producer'" not in told
        shots = {task.name: task for task in scheduler.status()}
        assert (shots["tail"].ready, shots["producer"].ready) == (True, True)
        assert "pages" in (shots["tail"].waiting_for or "")
        assert "pages" in (shots["producer"].waiting_for or "")


async def test_a_slow_consumer_is_no_deadlock(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    @scheduler.on(PAGES)
    async def slow(number: int) -> None:
        await anyio.sleep(30)

    @scheduler.on(LINKS)
    async def between(number: int) -> None:
        await scheduler.publish(PAGES, number)

    @scheduler.background()
    async def producer() -> None:
        for number in range(10):
            await scheduler.publish(LINKS, number)

    await scheduler.run()
    assert not warnings(caplog)


async def test_a_pool_in_which_one_still_works_is_no_deadlock(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    @scheduler.on(PAGES, concurrency=2, drain_timeout=0, stop_timeout=BRIEF)
    async def crawler(number: int) -> None:
        if number == 1:
            await anyio.sleep(50)  # and then it reads on
        elif number == 0:
            for _ in range(5):
                await scheduler.publish(PAGES, 2)

    async with scheduler:
        await scheduler.start()
        await scheduler.publish(PAGES, 1)
        await scheduler.publish(PAGES, 0)
        await anyio.sleep(100)
        assert not warnings(caplog)
        assert scheduler.status()[0].handled == 7


@pytest.mark.parametrize("begins", ["initialize", "handle_event"])
async def test_what_a_task_has_started_beside_its_handler_may_wait_for_it(
    caplog: pytest.LogCaptureFixture, scheduler: Scheduler, begins: str, concurrency: int
) -> None:
    async def pump() -> None:
        for _ in range(5):
            await scheduler.publish(PAGES, 1)

    class Crawler(EventTask[int]):
        @property
        def subscribed_event(self) -> Topic[int]:
            return PAGES

        async def initialize(self) -> None:
            if begins == "initialize":
                outside.start_soon(pump)

        async def handle_event(self, number: int) -> None:
            if number == 0 and begins == "handle_event":
                outside.start_soon(pump)
            await anyio.sleep(20)

    scheduler.register_event_task(Crawler(), concurrency=concurrency, drain_timeout=1000)
    async with anyio.create_task_group() as outside, scheduler:
        await scheduler.start()
        await scheduler.publish(PAGES, 0)
        await anyio.sleep(500)
        assert not warnings(caplog)
        assert scheduler.status()[0].handled == 6


async def test_one_that_gets_room_after_all_is_told_too(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    @scheduler.on(PAGES, attempt_timeout=20, on_error="skip", drain_timeout=0)
    async def crawler(number: int) -> None:
        if number == 7:
            await publish_thrice(scheduler)

    async with scheduler:
        await scheduler.start()
        await scheduler.publish(PAGES, 7)
        await anyio.sleep(10)
        assert (len(warnings(caplog)), recoveries(caplog)) == (1, [])
        assert not scheduler.health().ready
        await anyio.sleep(15)
        (told,) = recoveries(caplog)
        assert "'crawler'" in told
        assert scheduler.health().ready
    assert len(warnings(caplog)) == 1


async def test_a_restart_frees_it_and_it_may_be_told_again(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    @scheduler.on(PAGES, restart=SOON, attempt_timeout=8, drain_timeout=0)
    async def crawler(number: int) -> None:
        if current_task_context().run < 3:
            await publish_thrice(scheduler)

    async with scheduler:
        await scheduler.start()
        await scheduler.publish(PAGES, 0)
        await anyio.sleep(100)
    assert len(warnings(caplog)) == 2
    assert len(recoveries(caplog)) == 2


@pytest.mark.parametrize("is_behind_others", [False, True])
async def test_one_that_another_holds_up_first_may_be_in_a_deadlock_later(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture, is_behind_others: bool
) -> None:
    """First a slow one holds the room back, then the handler itself does."""

    @scheduler.on(PAGES)
    async def slow(number: int) -> None:
        if number == 0:
            await anyio.sleep(30)

    @scheduler.on(PAGES, drain_timeout=0)
    async def crawler(number: int) -> None:
        if number == 1:
            await anyio.sleep(1)
            await publish_thrice(scheduler)

    async with anyio.create_task_group() as outside, scheduler:
        await scheduler.start()
        await scheduler.publish(PAGES, 0)
        await settle()
        await scheduler.publish(PAGES, 1)
        await settle()
        if is_behind_others:
            await scheduler.publish(PAGES, 2)
            outside.start_soon(scheduler.publish, PAGES, 3)
        await anyio.sleep(29)
        assert not warnings(caplog)
        await anyio.sleep(6)
        (told,) = warnings(caplog)
        assert "'crawler'" in told
        outside.cancel_scope.cancel()


@pytest.mark.parametrize("order", ["reader first", "reader last", "reader depends on it"])
async def test_a_start_in_which_the_room_comes_after_the_start_is_told(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture, order: str
) -> None:
    class Seed(BackgroundTask):
        async def initialize(self) -> None:
            await publish_thrice(scheduler)

        async def execute(self) -> None: ...

    if order == "reader last":
        scheduler.register_background_task(Seed())

    @scheduler.on(PAGES, depends_on=["Seed"] if order == "reader depends on it" else [])
    async def reader(number: int) -> None: ...

    if order != "reader last":
        scheduler.register_background_task(Seed())
    async with scheduler:
        with anyio.move_on_after(10):
            await scheduler.start()
        (told,) = warnings(caplog)
        for word in ("'Seed'", "'reader'", "pages", "start", "publish in execute()"):
            assert word in told
        assert "does not read there" not in told, "the cure for a handler"
        assert not any(task.ready for task in scheduler.status())


async def test_one_that_is_slow_to_begin_is_in_no_deadlock(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    """Meanwhile another waits for room, but what it has started is beside its start."""

    class Crawler(EventTask[int]):
        @property
        def subscribed_event(self) -> Topic[int]:
            return PAGES

        async def initialize(self) -> None:
            outside.start_soon(publish_thrice, scheduler)

        async def handle_event(self, number: int) -> None: ...

    class Slow(EventTask[int]):
        @property
        def subscribed_event(self) -> Topic[int]:
            return LINKS

        async def initialize(self) -> None:
            await anyio.sleep(10)

        async def handle_event(self, number: int) -> None: ...

    scheduler.register_event_task(Crawler())
    scheduler.register_event_task(Slow())
    async with anyio.create_task_group() as outside, scheduler:
        await scheduler.start()
        assert not warnings(caplog)


async def test_an_event_task_that_fills_its_own_channel_when_it_begins_is_told(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    class Crawler(EventTask[int]):
        @property
        def subscribed_event(self) -> Topic[int]:
            return PAGES

        async def initialize(self) -> None:
            await publish_thrice(scheduler)

        async def handle_event(self, number: int) -> None: ...

    async with scheduler:
        await scheduler.start()
        task = scheduler.register_event_task(Crawler(), start_timeout=100, on_error="stop")
        await anyio.sleep(5)
        (told,) = warnings(caplog)
        assert "'Crawler'" in told
        assert "publish in execute()" in told
        assert scheduler.status(task).state is TaskState.INITIALIZING
        await scheduler.remove_task(task)


async def test_nothing_moves_while_nothing_changes(scheduler: Scheduler) -> None:
    """The event loop has nothing to do while tasks wait for each other: no polling."""

    @scheduler.on(PAGES, drain_timeout=0)
    async def crawler(number: int) -> None:
        await publish_thrice(scheduler)

    async with scheduler:
        await scheduler.start()
        await scheduler.publish(PAGES, 0)
        await anyio.sleep(10)
        looks: list[None] = []
        sleep = anyio.sleep

        async def counted(seconds: float) -> None:
            looks.append(None)
            await sleep(seconds)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("orchestrio._supervision.deadlocks.sleep", counted)
            await sleep(1000)
        assert not looks


async def test_an_event_loop_of_its_own_in_a_thread_waits_for_itself(scheduler: Scheduler) -> None:
    """A thread has the context of the handler that started it."""

    async def program() -> None:
        send, receive = create_broadcast_stream[int](capacity=1, overflow="block")
        with send, receive:
            await send.send(1)
            with anyio.move_on_after(0.01):
                await send.send(2)

    @scheduler.on(PAGES)
    async def handler(number: int) -> None:
        context = copy_context()
        context.run(sniffio.current_async_library_cvar.set, None)  # as `to_thread` does
        thread = Thread(target=context.run, args=(anyio.run, program))
        thread.start()
        thread.join()
        waits.append(scheduler.status()[0].waiting_for)

    waits: list[str | None] = []
    async with scheduler:
        await scheduler.start()
        await scheduler.publish(PAGES, 0)
    assert waits == [None]
    assert scheduler.status()[0].handled == 1
