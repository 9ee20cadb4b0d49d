"""What a scheduler tells about its tasks: on a topic, and in its log."""

from __future__ import annotations

import logging
from typing import Literal

import anyio
import pytest
from anyio import current_time
from support import NUMBERS, TroubleError, settle

from orchestrio import (
    TASK_EVENTS,
    BackgroundTask,
    Backoff,
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
    TaskState,
    current_task_context,
)
from orchestrio.testing import harness

SOON = RestartPolicy(initial_delay=2, jitter=0)


@pytest.fixture
def scheduler() -> Scheduler:
    return Scheduler()


def told(events: BroadcastReceiveStream[TaskEvent]) -> list[TaskEvent]:
    return events.receive_many_nowait(1000) if len(events) else []


async def test_the_life_of_a_task_is_told_state_by_state(scheduler: Scheduler) -> None:
    @scheduler.background()
    async def job() -> None:
        await anyio.sleep(3)

    async with harness(scheduler) as h:
        await scheduler.run()
    changes = [event for event in h.task_events if isinstance(event, StateChanged)]
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


# -- more of what is told ------------------------------------------------------------------------------


def states_of(news: list[TaskEvent], name: str) -> list[str]:
    """Return the states that a task went through."""
    changes = [event for event in news if isinstance(event, StateChanged)]
    return [change.state.value for change in changes if change.task_name == name]


async def test_the_life_of_a_task_that_is_stopped_is_told(scheduler: Scheduler) -> None:
    scheduler.add_channel(NUMBERS)

    @scheduler.on(NUMBERS)
    async def listen(number: int) -> None: ...

    scheduler.background(name="forever")(anyio.sleep_forever)
    async with harness(scheduler) as h:
        await settle()
    news = h.task_events
    whole = ["initializing", "ready", "running", "stopping", "stopped"]
    assert states_of(news, "listen") == whole
    assert states_of(news, "forever") == whole


async def test_a_task_that_may_end_by_itself_is_told_as_stopping_from_when_it_was_asked(
    scheduler: Scheduler,
) -> None:
    @scheduler.background()
    async def polite() -> None:
        await current_task_context().stopping.wait()
        await anyio.sleep(4)

    async with harness(scheduler) as h:
        await anyio.sleep(1)
    changes = [event for event in h.task_events if isinstance(event, StateChanged)]
    assert [(change.state.value, change.time) for change in changes][-2:] == [
        ("stopping", 1),
        ("stopped", 5),
    ]


async def test_the_states_of_a_restart_follow_each_other_without_a_gap(
    scheduler: Scheduler,
) -> None:
    @scheduler.background(restart=SOON)
    async def failing() -> None:
        if current_task_context().run < 3:
            raise TroubleError

    async with harness(scheduler) as h:
        await scheduler.run()
    news = h.task_events
    run = ["initializing", "ready", "running"]
    again = ["failed", "backing_off"]
    assert states_of(news, "failing") == [*run, *again, *run, *again, *run, "completed", "stopped"]
    changes = [event for event in news if isinstance(event, StateChanged)]
    assert [change.previous for change in changes[1:]] == [change.state for change in changes[:-1]]
    restarts = [event for event in news if isinstance(event, RestartScheduled)]
    assert [(restart.time, restart.delay) for restart in restarts] == [(0, 2), (2, 4)]


async def test_times_never_go_back_and_identities_are_those_of_the_snapshot(
    scheduler: Scheduler,
) -> None:
    @scheduler.group("group").background(restart=SOON)
    async def failing() -> None:
        await anyio.sleep(1)
        if current_task_context().run == 1:
            raise TroubleError

    with scheduler.subscribe(TASK_EVENTS) as events:
        await scheduler.run()
        news = told(events)
    (shot,) = scheduler.status()
    assert {(event.task_id, event.task_name, event.group) for event in news} == {
        (shot.task_id, "failing", "group")
    }
    times = [event.time for event in news]
    assert times == sorted(times)
    assert times[-1] == current_time() == 4


async def test_a_restart_by_hand_has_no_cause(scheduler: Scheduler) -> None:
    scheduler.background(name="forever")(anyio.sleep_forever)
    async with scheduler:
        await scheduler.start()
        with scheduler.subscribe(TASK_EVENTS) as events:
            await scheduler.restart_task(scheduler.status()[0].task_id)
            (restart,) = [event for event in told(events) if isinstance(event, RestartScheduled)]
    assert (restart.cause, restart.delay, restart.group) == (None, 0, None)


async def test_those_restarted_with_a_task_that_failed_are_told_with_its_failure(
    scheduler: Scheduler,
) -> None:
    group = scheduler.group("group", strategy="one_for_all")

    @group.background(restart=SOON)
    async def failing() -> None:
        await anyio.sleep(1)
        if current_task_context().run == 1:
            raise TroubleError

    group.background(name="other")(anyio.sleep_forever)
    with scheduler.subscribe(TASK_EVENTS) as events:
        async with scheduler:
            await scheduler.start()
            await anyio.sleep(10)
            news = told(events)
    restarts = [event for event in news if isinstance(event, RestartScheduled)]
    assert {restart.task_name for restart in restarts} == {"failing", "other"}
    (failed,) = [event for event in news if isinstance(event, TaskFailed)]
    assert {restart.cause for restart in restarts} == {failed.error}


async def test_a_failure_that_ends_the_run_is_told(scheduler: Scheduler) -> None:
    @scheduler.background()
    async def failing() -> None:
        raise TroubleError

    with scheduler.subscribe(TASK_EVENTS) as events:
        with pytest.raises(TaskExecutionError) as caught:
            await scheduler.run()
        (failed,) = [event for event in told(events) if isinstance(event, TaskFailed)]
    assert failed.error is caught.value


async def test_a_lag_in_a_back_off_is_told_when_it_is_over(scheduler: Scheduler) -> None:
    scheduler.add_channel(NUMBERS, ChannelConfig(capacity=2))

    @scheduler.on(NUMBERS, restart=SOON)
    async def fragile(number: int) -> None:
        if number == 0:
            raise TroubleError

    with scheduler.subscribe(TASK_EVENTS) as events:
        async with scheduler:
            await scheduler.start()
            await scheduler.publish(NUMBERS, 0)
            await settle()
            for number in range(1, 6):
                await scheduler.publish(NUMBERS, number)
            await anyio.sleep(5)
        (lag,) = [event for event in told(events) if isinstance(event, TaskLagged)]
    assert (lag.missed, lag.time) == (3, 2)


async def test_a_late_subscriber_is_told_from_then_on(scheduler: Scheduler) -> None:
    @scheduler.background()
    async def job() -> None:
        await anyio.sleep(3)

    async with scheduler:
        await scheduler.start()
        await anyio.sleep(1)
        with scheduler.subscribe(TASK_EVENTS) as events:
            await anyio.sleep(5)
            assert states_of(told(events), "job") == ["completed"]


# -- that it gets in nobody's way ----------------------------------------------------------------------


async def test_nothing_is_published_while_nobody_subscribes(scheduler: Scheduler) -> None:
    scheduler.background(name="job")(settle)
    async with scheduler:
        await scheduler.start()
        await settle()
        assert scheduler.bus.statistics()[TASK_EVENTS].sent == 0


async def test_the_channel_may_be_removed_while_tasks_work(scheduler: Scheduler) -> None:
    @scheduler.background(restart=SOON)
    async def failing() -> None:
        await anyio.sleep(1)
        if current_task_context().run == 1:
            raise TroubleError

    with scheduler.subscribe(TASK_EVENTS) as events:
        async with scheduler:
            await scheduler.start()
            scheduler.bus.remove_channel(TASK_EVENTS)
            await scheduler.run()
            assert current_time() == 4
        assert states_of(told(events), "failing") == ["initializing", "ready", "running"]


async def test_closing_the_bus_breaks_no_task(scheduler: Scheduler) -> None:
    @scheduler.background(restart=SOON)
    async def failing() -> None:
        await anyio.sleep(1)
        if current_task_context().run == 1:
            raise TroubleError

    with scheduler.subscribe(TASK_EVENTS):
        async with scheduler:
            await scheduler.start()
            scheduler.bus.close()
            await scheduler.run()
            assert current_time() == 4
    (shot,) = scheduler.status()
    assert (shot.restarts, shot.error) == (1, None)


@pytest.mark.parametrize("overflow", ["error", "block"])
async def test_a_subscriber_that_does_not_read_holds_nobody_up(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture, overflow: Literal["error", "block"]
) -> None:
    scheduler.bus.remove_channel(TASK_EVENTS)
    scheduler.add_channel(TASK_EVENTS, ChannelConfig(capacity=2, overflow=overflow))
    scheduler.background(name="job")(settle)
    with scheduler.subscribe(TASK_EVENTS) as events:
        await scheduler.run()
        assert states_of(told(events), "job") == ["initializing", "ready"]
    assert scheduler.status()[0].state is TaskState.STOPPED
    # Those that subscribe by themselves have ended when the task shuts down, and miss nothing more.
    assert caplog.text.count("is full: not published") == 2


async def test_a_listener_of_the_scheduler_that_fails_is_restarted_like_any(
    scheduler: Scheduler,
) -> None:
    seen: list[str] = []

    @scheduler.on(TASK_EVENTS, restart=SOON)
    async def listen(event: TaskEvent) -> None:
        if isinstance(event, TaskFailed) and event.task_name == "failing" and not seen:
            seen.append("the first time")
            raise TroubleError
        if isinstance(event, TaskFailed):
            seen.append(event.task_name)

    @scheduler.background(restart=RestartPolicy(mode="never"))
    async def failing() -> None:
        raise TroubleError

    async with scheduler:
        await scheduler.start()
        await anyio.sleep(10)
    assert seen == ["the first time", "listen"]


# -- the log -------------------------------------------------------------------------------------------


def record_of(caplog: pytest.LogCaptureFixture, text: str) -> dict[str, object]:
    """Return the fields of the only record of the library that has this in its message."""
    (record,) = [record for record in caplog.records if text in record.getMessage()]
    assert record.name == "orchestrio"
    return vars(record)


FIELDS = {"task_id", "task_name", "task_group", "task_state", "task_run"}


async def test_the_record_of_a_lag_carries_what_it_is_about(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler.add_channel(NUMBERS, ChannelConfig(capacity=1))

    @scheduler.group("group").on(NUMBERS)
    async def slow(number: int) -> None: ...

    async with scheduler:
        await scheduler.start()
        for number in range(5):
            scheduler.bus.publish_nowait(NUMBERS, number)
        await settle()
    facts = record_of(caplog, "lagged")
    assert facts["task_id"] == scheduler.status()[0].task_id
    assert (facts["task_name"], facts["task_group"]) == ("slow", "group")
    assert (facts["task_state"], facts["task_run"], facts["missed"]) == ("running", 1, 4)


async def test_the_record_of_a_skipped_message_carries_what_it_is_about(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler.add_channel(NUMBERS)

    @scheduler.on(NUMBERS, on_error="skip", retries=1)
    async def failing(number: int) -> None:
        raise TroubleError("boom")

    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 1)
        await anyio.sleep(20)
    facts = record_of(caplog, "skipped a message")
    assert (facts["task_name"], facts["task_group"], facts["task_run"]) == ("failing", None, 1)
    assert (facts["task_state"], facts["attempts"]) == ("running", 2)
    assert isinstance(facts["exc_info"], tuple)
    assert isinstance(facts["exc_info"][1], TroubleError)


async def test_the_record_of_a_retry_carries_what_it_is_about(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler.add_channel(NUMBERS)
    calls: list[int] = []

    @scheduler.on(NUMBERS, retries=2, retry_backoff=Backoff(initial_delay=3, jitter=0))
    async def failing(number: int) -> None:
        calls.append(number)
        if len(calls) == 1:
            raise TroubleError("boom")

    with caplog.at_level(logging.INFO, "orchestrio"):
        async with scheduler:
            await scheduler.start()
            await scheduler.publish(NUMBERS, 1)
            await anyio.sleep(20)
    facts = record_of(
        caplog, "task 'failing': attempt 1 of 3 failed, the next in 3 s: TroubleError: boom"
    )
    assert facts.keys() >= FIELDS
    assert (facts["task_name"], facts["attempt"], facts["delay"]) == ("failing", 1, 3)


async def test_the_record_of_a_skipped_tick_carries_what_it_is_about(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    @scheduler.group("group").every(10, on_error="skip")
    async def tick() -> None:
        raise TroubleError

    async with scheduler:
        await scheduler.start()
        await anyio.sleep(5)
    facts = record_of(caplog, "skipped")
    assert facts["task_name"] == "tick"
    assert FIELDS - facts.keys() == set()


@pytest.mark.parametrize("strategy", ["one_for_one", "one_for_all"])
async def test_the_record_of_a_bad_shutdown_in_a_restart_carries_what_it_is_about(
    scheduler: Scheduler,
    caplog: pytest.LogCaptureFixture,
    strategy: Literal["one_for_one", "one_for_all"],
) -> None:
    class Messy(BackgroundTask):
        async def execute(self) -> None:
            if current_task_context().run == 1:
                raise TroubleError("boom")
            await anyio.sleep_forever()

        async def shutdown(self) -> None:
            if current_task_context().run == 1:
                raise TroubleError("messy")

    group = scheduler.group("group", strategy=strategy)
    group.register_background_task(Messy(), restart=SOON)
    group.background(name="other")(anyio.sleep_forever)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(10)
    facts = record_of(caplog, "messy")
    assert facts["task_name"] == "Messy"
    assert FIELDS - facts.keys() == set()


async def test_the_record_of_a_task_that_stays_down_carries_what_it_is_about(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    @scheduler.background(restart=RestartPolicy(mode="never"))
    async def failing() -> None:
        raise TroubleError

    await scheduler.run()
    facts = record_of(caplog, "the others go on")
    assert facts.keys() >= FIELDS
    assert (facts["task_name"], facts["task_state"]) == ("failing", "failed")
