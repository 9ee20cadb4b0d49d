"""What a scheduler tells about its tasks: on a topic, and in its log."""

from __future__ import annotations

import anyio
import pytest
from anyio import current_time
from support import settle

from orchestrio import (
    TASK_EVENTS,
    BroadcastReceiveStream,
    ChannelConfig,
    RestartPolicy,
    RestartScheduled,
    Scheduler,
    StateChanged,
    TaskEvent,
    TaskExecutionError,
    TaskFailed,
    TaskLagged,
    Topic,
    current_task_context,
)

NUMBERS = Topic("numbers", int)
SOON = RestartPolicy(initial_delay=2, jitter=0)


class TroubleError(Exception):
    pass


@pytest.fixture
def scheduler() -> Scheduler:
    return Scheduler()


def told(events: BroadcastReceiveStream[TaskEvent]) -> list[TaskEvent]:
    return events.receive_many_nowait(1000) if len(events) else []


async def test_the_life_of_a_task_is_told_state_by_state(scheduler: Scheduler) -> None:
    @scheduler.background()
    async def job() -> None:
        await anyio.sleep(3)

    with scheduler.subscribe(TASK_EVENTS) as events:
        await scheduler.run()
        changes = [event for event in told(events) if isinstance(event, StateChanged)]
    assert [(change.state.value, change.time) for change in changes] == [
        ("initializing", 0),
        ("ready", 0),
        ("running", 0),
        ("completed", 3),
        ("stopped", 3),
    ]
    states = [change.state for change in changes]
    assert [change.previous for change in changes][1:] == states[:-1]
    assert {change.task_name for change in changes} == {"job"}


async def test_a_failure_and_its_restart_are_told_with_the_group(scheduler: Scheduler) -> None:
    group = scheduler.group("outer").group("inner")

    @group.background(restart=SOON)
    async def failing() -> None:
        await anyio.sleep(1)
        if current_task_context().run == 1:
            raise TroubleError("boom")

    with scheduler.subscribe(TASK_EVENTS) as events:
        await scheduler.run()
        news = told(events)
    (failed,) = [event for event in news if isinstance(event, TaskFailed)]
    (restart,) = [event for event in news if isinstance(event, RestartScheduled)]
    assert isinstance(failed.error, TaskExecutionError)
    assert isinstance(failed.error.__cause__, TroubleError)
    assert (failed.time, failed.group, failed.task_name) == (1, "outer/inner", "failing")
    assert (restart.time, restart.delay, restart.cause) == (1, 2, failed.error)
    states = [event.state.value for event in news if isinstance(event, StateChanged)]
    assert states[3:6] == ["failed", "backing_off", "initializing"]


async def test_a_lag_is_told_with_its_count(scheduler: Scheduler) -> None:
    scheduler.add_channel(NUMBERS, ChannelConfig(capacity=1))

    @scheduler.on(NUMBERS)
    async def slow(number: int) -> None: ...

    with scheduler.subscribe(TASK_EVENTS) as events:
        async with scheduler:
            await scheduler.start()
            for number in range(5):
                scheduler.bus.publish_nowait(NUMBERS, number)
        (lag,) = [event for event in told(events) if isinstance(event, TaskLagged)]
    assert lag.missed == 4


async def test_a_task_of_the_scheduler_may_listen_itself(scheduler: Scheduler) -> None:
    failures: list[str] = []

    @scheduler.on(TASK_EVENTS)
    async def listen(event: TaskEvent) -> None:
        if isinstance(event, TaskFailed):
            failures.append(event.task_name)

    @scheduler.background(restart=RestartPolicy(mode="never"))
    async def failing() -> None:
        raise TroubleError

    async with scheduler:
        await scheduler.start()
        await settle()
    assert failures == ["failing"]


async def test_the_channel_may_be_taken_off_and_put_back(scheduler: Scheduler) -> None:
    @scheduler.background(restart=SOON)
    async def failing() -> None:
        await anyio.sleep(1)
        raise TroubleError

    async with scheduler:
        scheduler.bus.remove_channel(TASK_EVENTS)
        await scheduler.start()
        await anyio.sleep(5)
        scheduler.add_channel(TASK_EVENTS)
        with scheduler.subscribe(TASK_EVENTS) as events:
            await anyio.sleep(5)
            assert [event.time for event in told(events) if isinstance(event, TaskFailed)]


async def test_log_records_carry_what_they_are_about(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    group = scheduler.group("group")

    @group.background(restart=SOON)
    async def failing() -> None:
        if current_task_context().run == 1:
            raise TroubleError

    await scheduler.run()
    (record,) = [record for record in caplog.records if "restarts in" in record.message]
    facts = vars(record)
    (shot,) = scheduler.status()
    assert facts["task_id"] == shot.task_id
    assert (facts["task_name"], facts["task_group"], facts["task_run"]) == ("failing", "group", 1)
    assert (facts["task_state"], facts["delay"]) == ("failed", 2)
    assert current_time() == 2
