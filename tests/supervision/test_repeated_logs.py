"""What happens again and again is in the log a few times, and then as a number; nothing is lost."""

from __future__ import annotations

import logging

import anyio
import pytest
from support import NUMBERS, TroubleError

from orchestrio import TASK_EVENTS, ChannelConfig, EventTask, Scheduler, TaskLagged, Topic


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
