"""What happens again and again is in the log a few times, and then as a number; nothing is lost."""

from __future__ import annotations

import logging

import anyio
import pytest
from support import NUMBERS, TroubleError

from orchestrio import (
    TASK_EVENTS,
    Backoff,
    ChannelConfig,
    EventTask,
    RestartPolicy,
    Scheduler,
    TaskLagged,
    Topic,
)


@pytest.fixture
def scheduler() -> Scheduler:
    return Scheduler(random=lambda: 0.0)


class Watcher(EventTask[int]):
    """Slower than what it watches."""

    def __init__(self) -> None:
        self.missed: list[int] = []

    @property
    def subscribed_event(self) -> Topic[int]:
        return NUMBERS

    async def handle_event(self, event: int, /) -> None:
        await anyio.sleep(0.1)

    async def handle_lag(self, missed: int) -> None:
        self.missed.append(missed)


def lags(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if "lagged" in record.msg]


def missed_by(records: list[logging.LogRecord]) -> int:
    return sum(getattr(record, "missed", 0) for record in records)


async def test_a_watch_that_lags_is_told_once_and_then_counted(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler.add_channel(NUMBERS, ChannelConfig(capacity=1, replay=1))
    watcher = Watcher()
    task = scheduler.register_event_task(watcher, drain_timeout=0)
    events: list[TaskLagged] = []
    async with scheduler, scheduler.subscribe(TASK_EVENTS) as told:
        await scheduler.start()
        for number in range(2_000):  # 100 seconds
            scheduler.bus.publish_nowait(NUMBERS, number)
            await anyio.sleep(0.05)
            while len(told):
                event = told.receive_nowait()
                if isinstance(event, TaskLagged):
                    events.append(event)
        assert len(lags(caplog)) == 7, "at 0, 10, 30 and 70 seconds, and what came in between"
        await scheduler.stop_task(task)
        shot = scheduler.status(task)
        events += [
            event for event in told.receive_many_nowait(100) if isinstance(event, TaskLagged)
        ]
    assert len(lags(caplog)) == 8
    assert len(watcher.missed) == len(events) > 900
    assert sum(watcher.missed) == sum(event.missed for event in events)
    assert missed_by(lags(caplog)) == sum(watcher.missed)
    assert shot.missed >= sum(watcher.missed)
    assert {record.levelno for record in lags(caplog)} == {logging.WARNING}


async def test_a_lag_now_and_then_is_told_each_time(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler.add_channel(NUMBERS, ChannelConfig(capacity=1))
    scheduler.register_event_task(Watcher())
    async with scheduler:
        await scheduler.start()
        for _ in range(3):
            for number in range(4):
                scheduler.bus.publish_nowait(NUMBERS, number)
            await anyio.sleep(60)
    assert [record.getMessage() for record in lags(caplog)] == [
        "task 'Watcher' lagged: 3 messages were overwritten before it read them"
    ] * 3


def skips(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if "skipped" in record.msg]


def skipped_by(records: list[logging.LogRecord]) -> int:
    return sum(getattr(record, "skipped", 1) for record in records)


@pytest.mark.parametrize("alike", [True, False])
async def test_messages_that_are_skipped_by_the_hundred_are_counted(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture, concurrency: int, alike: bool
) -> None:
    scheduler.add_channel(NUMBERS)

    @scheduler.on(NUMBERS, on_error="skip", concurrency=concurrency)
    async def failing(number: int) -> None:
        raise TroubleError("boom" if alike else f"boom {number}")

    async with scheduler:
        await scheduler.start()
        for number in range(300):
            await scheduler.publish(NUMBERS, number)
        await anyio.sleep(1)
        assert len(skips(caplog)) == 5
        tracebacks = [record for record in skips(caplog) if record.exc_info]
        assert len(tracebacks) == (1 if alike else 5)
        assert scheduler.status()[0].failed == 300
    (rest,) = skips(caplog)[5:]
    assert rest.levelno == logging.ERROR
    assert "'failing' skipped" in rest.getMessage()
    assert ("TroubleError: boom" if alike else "TroubleError: boom 299") in rest.getMessage()
    assert skipped_by(skips(caplog)) == 300


async def test_ticks_that_are_skipped_by_the_hundred_are_counted(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[None] = []

    @scheduler.every(0.01, on_error="skip")
    async def failing() -> None:
        calls.append(None)
        raise TroubleError("boom")

    async with scheduler:
        await scheduler.start()
        await anyio.sleep(5)
    first, *_, rest = skips(caplog)
    assert first.exc_info
    assert len(skips(caplog)) == 6
    assert getattr(rest, "task_name", None) == "failing"
    assert f"{len(calls) - 5} ticks more" in rest.getMessage()


def retries(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = [record.getMessage() for record in caplog.records]
    return [line for line in lines if "attempt" in line]


#: Each message and tick fails twice, and takes so long by that that it is told in three windows.
OFTEN = Backoff(initial_delay=0.0123456, multiplier=1, jitter=0)


async def test_attempts_at_messages_that_fail_by_the_hundred_are_counted(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "orchestrio")
    scheduler.add_channel(NUMBERS)
    calls = 0

    @scheduler.on(NUMBERS, retries=2, retry_backoff=OFTEN, name="shaky", drain_timeout=60)
    async def handle(_: int) -> None:
        nonlocal calls
        calls += 1
        if calls % 3:
            raise TroubleError("boom")

    async with scheduler:
        await scheduler.start()
        for number in range(300):
            await scheduler.publish(NUMBERS, number)
    first = "task 'shaky': attempt 1 of 3 failed, the next in 0.012 s: TroubleError: boom"
    told = retries(caplog)
    assert told[0] == first
    assert told[5:] == ["task 'shaky': 595 attempts more failed and were tried again"]
    assert [getattr(one, "retried", 0) for one in caplog.records if "more" in one.msg] == [595]


async def test_attempts_at_ticks_that_fail_by_the_hundred_are_counted(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "orchestrio")
    calls = 0

    @scheduler.every(0.05, retries=2, retry_backoff=OFTEN)
    async def tick() -> None:
        nonlocal calls
        calls += 1
        if calls % 3:
            raise TroubleError("boom")
        if calls == 300:
            await scheduler.shutdown()

    await scheduler.run()
    assert retries(caplog)[5:] == ["task 'tick': 195 attempts more failed and were tried again"]


async def test_what_the_last_of_many_ticks_raised_is_told_with_their_number(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    ticks = 0

    @scheduler.every(0.1, on_error="skip")
    async def tick() -> None:
        nonlocal ticks
        ticks += 1
        if ticks == 7:
            await scheduler.shutdown()
        raise TroubleError(f"boom {ticks}")

    await scheduler.run()
    assert caplog.messages[-1] == (
        "task 'tick' skipped 2 ticks more; the last one raised TroubleError: boom 7"
    )


@pytest.mark.parametrize("count", [1, 2])
async def test_one_is_told_as_one(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture, count: int
) -> None:
    scheduler.add_channel(NUMBERS, ChannelConfig(capacity=2))

    @scheduler.on(NUMBERS, drain_timeout=0, stop_timeout=1, name="it")
    async def handle(_: int) -> None:
        await anyio.sleep(0.5)

    async with scheduler:
        await scheduler.start()
        for number in range(2 + count):
            scheduler.bus.publish_nowait(NUMBERS, number)
        await anyio.sleep(0.25)
    were = "1 message was overwritten before it read it" if count == 1 else "2 messages were"
    assert f"task 'it' lagged: {were}" in caplog.text
    assert "task 'it' ended with 1 message unhandled" in caplog.messages


@pytest.mark.parametrize("how", ["returns", "fails", "by hand", "with another"])
async def test_restarts_by_the_hundred_are_counted(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    caplog.set_level(logging.INFO, "orchestrio")
    policy = RestartPolicy(mode="always", initial_delay=0.01, max_delay=0.01, max_restarts=None)
    restart = None if how == "by hand" else policy
    group = scheduler.group("group", strategy="one_for_all")

    @group.background(restart=restart, name="busy")
    async def work() -> None:
        if how == "by hand":
            await anyio.sleep_forever()
        await anyio.sleep(0.001)
        if how == "fails":
            raise TroubleError("boom")

    group.background(name="other")(anyio.sleep_forever)
    async with scheduler:
        await scheduler.start()
        (task,) = [one for one in scheduler.status() if one.name == "busy"]
        for _ in range(500):
            await anyio.sleep(0.01)
            if how == "by hand":
                await scheduler.restart_task(task.task_id)
        await scheduler.shutdown()
    name = "other" if how == "with another" else "busy"
    (task,) = [one for one in scheduler.status() if one.name == name]
    about = [one for one in caplog.records if getattr(one, "task_name", None) == name]
    told = [one for one in about if "restart" in one.getMessage()]
    assert len(told) == 11
    assert {one.levelno for one in told} == {logging.WARNING if how == "fails" else logging.INFO}
    counted = getattr(told[-1], "restarts", 0)
    assert f"restarted {counted} times more" in told[-1].getMessage()
    assert 10 + counted in (task.restarts, task.restarts + 1), "the last one may not come to begin"
