"""``current_task_context().message``: what a handler may know of the message it handles."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from anyio import Event, create_task_group, fail_after, sleep
from anyio.lowlevel import checkpoint
from typing_extensions import override

from orchestrio import (
    BackgroundTask,
    ChannelConfig,
    EventTask,
    LifecycleError,
    Message,
    Scheduler,
    Topic,
    current_task_context,
)

NUMBERS = Topic("numbers", int)
NO_BACKOFF: dict[str, Any] = {"retry_backoff": {"initial_delay": 0, "max_delay": 0}}


def this() -> Message:
    return current_task_context().message


def numbers_of(capacity: int = 100) -> Scheduler:
    scheduler = Scheduler()
    scheduler.add_channel(NUMBERS, ChannelConfig(capacity=capacity))
    return scheduler


async def test_a_message_has_its_topic_and_its_number_from_1() -> None:
    scheduler, seen = numbers_of(), list[tuple[int, Message]]()

    @scheduler.on(NUMBERS)
    async def keep(number: int) -> None:
        seen.append((number, this()))
        await checkpoint()
        assert this() == seen[-1][1]

    async with scheduler:
        await scheduler.publish(NUMBERS, 1)  # nobody has subscribed yet
        await scheduler.start()
        for number in range(2, 700):
            scheduler.bus.publish_nowait(NUMBERS, number)
            if number % 60 == 0:  # so that some are read in one go, and some are not
                await sleep(0.001)
                scheduler.bus.publish_nowait(NUMBERS, number)
    assert [message.number for _, message in seen] == list(range(2, len(seen) + 2))
    assert seen[0][1] == Message(
        topic=NUMBERS,
        number=2,
        attempt=1,
        id=None,
        published_at=None,
        origin=None,
        traceparent=None,
    )


async def test_a_plain_key_is_a_topic_too() -> None:
    scheduler, seen = Scheduler(), list[object]()
    scheduler.add_channel("log")

    @scheduler.on("log")
    async def keep(_: str) -> None:
        seen.append(this().topic)

    async with scheduler:
        await scheduler.start()
        await scheduler.publish("log", "a")
    assert seen == ["log"]


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_a_retry_is_another_attempt_at_the_same_message(concurrency: int) -> None:
    scheduler, seen = numbers_of(), list[tuple[int, int, int]]()

    @scheduler.on(NUMBERS, retries=2, on_error="skip", concurrency=concurrency, **NO_BACKOFF)
    async def keep(number: int) -> None:
        seen.append((number, this().number, this().attempt))
        if number == 1 or (number == 2 and this().attempt == 1):
            raise ValueError

    async with scheduler:
        await scheduler.start()
        for number in (1, 2, 3):
            await scheduler.publish(NUMBERS, number)
    assert sorted(seen) == [(1, 1, 1), (1, 1, 2), (1, 1, 3), (2, 2, 1), (2, 2, 2), (3, 3, 1)]


async def test_each_worker_of_a_pool_has_its_own_message() -> None:
    scheduler, seen, all_there = numbers_of(), set[tuple[int, int]](), Event()

    @scheduler.on(NUMBERS, concurrency=4)
    async def keep(number: int) -> None:
        if number == 4:
            all_there.set()
        await all_there.wait()
        await checkpoint()
        seen.add((number, this().number))

    async with scheduler:
        await scheduler.start()
        for number in range(1, 13):
            await scheduler.publish(NUMBERS, number)
    assert seen == {(number, number) for number in range(1, 13)}


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_tasks_that_a_handler_starts_may_ask_as_well(concurrency: int) -> None:
    scheduler, seen = numbers_of(), list[tuple[int, int]]()

    class Keeper(EventTask[int]):
        subscribed_event = NUMBERS

        @override
        async def handle_event(self, event: int, /) -> None:
            async with create_task_group() as group:
                group.start_soon(self.child, event)

        async def child(self, number: int) -> None:
            await checkpoint()
            seen.append((number, this().number))

    scheduler.register_event_task(Keeper(), concurrency=concurrency)
    async with scheduler:
        await scheduler.start()
        for number in (1, 2, 3):
            await scheduler.publish(NUMBERS, number)
    assert sorted(seen) == [(1, 1), (2, 2), (3, 3)]


async def test_a_message_is_known_while_it_is_the_last_before_a_stop() -> None:
    scheduler, begun, seen = numbers_of(4), Event(), list[int]()

    @scheduler.on(NUMBERS, drain_timeout=0.01, stop_timeout=5)
    async def keep(_: int) -> None:
        begun.set()
        await current_task_context().stopping.wait()
        await sleep(1)  # the rest is let go meanwhile
        seen.append(this().number)

    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 1)
        await begun.wait()
        for number in range(2, 12):  # more than the channel holds
            await scheduler.publish(NUMBERS, number)
    assert seen == [1]


async def test_after_a_lag_the_numbers_go_on_where_the_messages_do() -> None:
    scheduler, begun, go_on, seen = numbers_of(4), Event(), Event(), list[tuple[int, int]]()
    lags = list[str]()

    class Keeper(EventTask[int]):
        subscribed_event = NUMBERS

        @override
        async def handle_event(self, event: int, /) -> None:
            begun.set()
            await go_on.wait()
            seen.append((event, this().number))

        @override
        async def handle_lag(self, missed: int) -> None:
            with pytest.raises(LifecycleError, match="'Keeper' handles no message"):
                this()
            lags.append(f"{missed} missed")

    scheduler.register_event_task(Keeper(), name="Keeper")
    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 1)
        await begun.wait()
        for number in range(2, 12):
            await scheduler.publish(NUMBERS, number)
        go_on.set()
    assert seen == [(1, 1), (8, 8), (9, 9), (10, 10), (11, 11)]
    assert lags == ["6 missed"]


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_elsewhere_there_is_no_message(concurrency: int) -> None:
    scheduler, wrong, ended = numbers_of(), list[str](), list[str]()

    def ask(where: str) -> None:
        try:
            wrong.append(f"{where}: {this()}")
        except LifecycleError:
            ended.append(where)

    class Other(BackgroundTask):
        @override
        async def execute(self) -> None:
            ask("a background task that a handler registered")

    class Keeper(EventTask[int]):
        subscribed_event = NUMBERS

        @override
        async def initialize(self) -> None:
            ask("initialize()")

        @override
        async def handle_event(self, event: int, /) -> None:
            if event == 1:
                scheduler.register_background_task(Other())
                await sleep(0.01)
            elif this().attempt == 1:
                raise ValueError

        @override
        async def shutdown(self) -> None:
            ask("shutdown()")

    scheduler.register_event_task(Keeper(), concurrency=concurrency, retries=1, **NO_BACKOFF)
    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 1)
        await scheduler.publish(NUMBERS, 2)
        await sleep(0.02)
    assert not wrong
    assert ended == ["initialize()", "a background task that a handler registered", "shutdown()"]


async def test_an_event_task_that_a_handler_registered_has_messages_of_its_own() -> None:
    scheduler, seen = numbers_of(), list[tuple[str, int, int]]()
    scheduler.add_channel("texts")
    done = Event()

    async def read(text: str) -> None:
        seen.append((text, this().number, this().attempt))
        done.set()

    @scheduler.on(NUMBERS, retries=1, **NO_BACKOFF)
    async def keep(_: int) -> None:
        if this().attempt == 1:
            raise ValueError
        scheduler.on("texts")(read)
        while scheduler.bus.statistics()["texts"].receivers == 0:
            await checkpoint()
        await scheduler.publish("texts", "a")
        await done.wait()

    async with scheduler:
        await scheduler.start()
        with fail_after(5):
            await scheduler.publish(NUMBERS, 1)
            await done.wait()
    assert seen == [("a", 1, 1)]


def test_a_message_may_be_made_for_a_test() -> None:
    message = Message(
        topic="log", number=1, attempt=2, published_at=datetime(2026, 1, 1, tzinfo=UTC)
    )
    assert message.id is None
    with pytest.raises(AttributeError):
        message.number = 3  # type: ignore[misc]  # it is frozen
