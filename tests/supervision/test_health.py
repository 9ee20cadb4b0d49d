"""How a scheduler says how it is, and what it does about tasks that hang."""

from __future__ import annotations

import asyncio
import logging
from typing import Literal

import anyio
import pytest
import sniffio
from anyio import current_time
from support import NUMBERS, SOON, TroubleError, settle
from support.diary import Diary, add
from support.hooks import Collector, Forever

from orchestrio import (
    BackgroundTask,
    HealthReport,
    LifecycleError,
    RestartPolicy,
    Scheduler,
    TaskExecutionError,
    TaskId,
    TaskInitializationError,
    TaskShutdownError,
    TaskState,
    current_task_context,
)


def standing(scheduler: Scheduler) -> tuple[bool, bool]:
    report = scheduler.health()
    return report.live, report.ready


def jump(seconds: float) -> None:
    """Let time pass for nobody, as a clock that jumps or a call that blocks the event loop does."""
    if sniffio.current_async_library() == "trio":
        import trio.testing

        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock)
        clock.jump(seconds)
    else:
        vars(asyncio.get_running_loop())["_clock"].now += seconds


# -- health --------------------------------------------------------------------------------------------


async def test_a_scheduler_is_live_from_beginning_to_end_and_ready_in_between(
    scheduler: Scheduler,
) -> None:
    seen: dict[str, tuple[bool, bool]] = {}

    class Witness(BackgroundTask):
        async def initialize(self) -> None:
            seen["starting"] = standing(scheduler)

        async def execute(self) -> None:
            await anyio.sleep_forever()

        async def shutdown(self) -> None:
            seen["stopping"] = standing(scheduler)

    scheduler.register_background_task(Witness())
    seen["new"] = standing(scheduler)
    async with scheduler:
        seen["entered"] = standing(scheduler)
        await scheduler.start()
        seen["running"] = standing(scheduler)
    seen["stopped"] = standing(scheduler)
    assert seen == {
        "new": (True, False),
        "entered": (True, False),
        "starting": (True, False),
        "running": (True, True),
        "stopping": (True, False),
        "stopped": (False, False),
    }


async def test_a_scheduler_is_not_ready_before_its_tasks_are(scheduler: Scheduler) -> None:
    @scheduler.background(reports_ready=True)
    async def slow() -> None:
        await anyio.sleep(5)
        current_task_context().ready()
        await anyio.sleep_forever()

    async with scheduler, anyio.create_task_group() as group:
        group.start_soon(scheduler.start)
        await anyio.sleep(4)
        assert standing(scheduler) == (True, False)
        await anyio.sleep(2)
        assert standing(scheduler) == (True, True)


async def test_a_scheduler_is_not_ready_while_a_task_is_in_back_off(scheduler: Scheduler) -> None:
    @scheduler.background(restart=SOON)
    async def failing() -> None:
        if current_task_context().run == 1:
            await anyio.sleep(5)
            raise TroubleError
        await anyio.sleep_forever()

    async with scheduler:
        await scheduler.start()
        assert standing(scheduler) == (True, True)
        await anyio.sleep(5.5)
        report = scheduler.health()
        assert (report.live, report.ready) == (True, False)
        assert report.tasks[0].state is TaskState.BACKING_OFF
        await anyio.sleep(1)
        assert standing(scheduler) == (True, True)


async def test_tasks_that_have_completed_or_were_stopped_do_not_count(
    scheduler: Scheduler,
) -> None:
    @scheduler.background()
    async def job() -> None: ...

    stopped = scheduler.register_background_task(Forever(), name="stopped")
    scheduler.register_background_task(Forever())
    async with scheduler:
        await scheduler.start()
        await scheduler.stop_task(stopped)
        await settle()
        assert [shot.state.value for shot in scheduler.status()] == [
            "completed",
            "stopped",
            "running",
        ]
        assert standing(scheduler) == (True, True)


async def test_a_task_that_failed_for_good_leaves_a_scheduler_not_ready(
    scheduler: Scheduler,
) -> None:
    @scheduler.background(restart=RestartPolicy(mode="never"))
    async def failing() -> None:
        raise TroubleError

    async with scheduler:
        await scheduler.start()
        await settle()
        assert standing(scheduler) == (True, False)


async def test_a_health_report_is_json(scheduler: Scheduler) -> None:
    @scheduler.background(name="worker", description="works", tags=["a"])
    async def worker() -> None:
        await anyio.sleep_forever()

    @scheduler.on(NUMBERS, restart=SOON)
    async def handler(number: int) -> None: ...

    async with scheduler:
        await scheduler.start()
        report = scheduler.health()
    assert HealthReport.model_validate_json(report.model_dump_json()) == report
    assert [shot.name for shot in report.tasks] == ["worker", "handler"]


# -- watchdog ------------------------------------------------------------------------------------------


async def test_a_task_that_gives_no_sign_of_life_fails(scheduler: Scheduler) -> None:
    @scheduler.background(watchdog=5)
    async def hanging() -> None:
        for _ in range(10):
            await anyio.sleep(2)
            current_task_context().beat()
        await anyio.sleep_forever()

    with pytest.raises(
        TaskExecutionError, match=r"'hanging' failed: .*no sign of life for 5 s, its watchdog"
    ) as caught:
        await scheduler.run()
    assert isinstance(caught.value.__cause__, TimeoutError)
    assert current_time() == 25, "five seconds after the last beat"


async def test_a_task_that_beats_in_time_is_left_alone(scheduler: Scheduler) -> None:
    @scheduler.background(watchdog=5)
    async def lively() -> None:
        while True:
            await anyio.sleep(4.9)
            current_task_context().beat()

    async with scheduler:
        await scheduler.start()
        await anyio.sleep(10_000)
        shot = scheduler.status()[0]
        assert (shot.state, shot.restarts) == (TaskState.RUNNING, 0)


@pytest.mark.parametrize("fixed", ["rate", "delay"])
async def test_a_periodic_task_is_alive_between_its_ticks(
    scheduler: Scheduler, fixed: Literal["rate", "delay"]
) -> None:
    @scheduler.every(103, fixed=fixed, watchdog=5)
    async def tick() -> None:
        await anyio.sleep(4.9)

    async with scheduler:
        await scheduler.start()
        await anyio.sleep(10_000)
        assert scheduler.status()[0].handled > 90


async def test_a_tick_that_hangs_fails(scheduler: Scheduler) -> None:
    began: list[float] = []

    @scheduler.every(103, watchdog=5)
    async def tick() -> None:
        began.append(current_time())
        if len(began) == 3:
            await anyio.sleep_forever()

    with pytest.raises(TaskExecutionError, match="'tick' failed.*its watchdog"):
        await scheduler.run()
    assert current_time() == began[2] + 5


async def test_a_beat_in_another_thread_is_refused(scheduler: Scheduler) -> None:
    said: list[str] = []

    @scheduler.background(reports_ready=True)
    async def blocking() -> None:
        context = current_task_context()
        for call in (context.beat, context.ready):
            with pytest.raises(
                LifecycleError, match="'blocking'.*another thread.*from_thread"
            ) as no:
                await anyio.to_thread.run_sync(call)
            said.append(str(no.value))
        for call in (context.beat, context.ready):
            await anyio.to_thread.run_sync(anyio.from_thread.run_sync, call)

    await scheduler.run()
    assert len(said) == 2


async def test_a_watchdog_watches_every_run(scheduler: Scheduler) -> None:
    starts: list[float] = []

    @scheduler.background(watchdog=5, restart=SOON)
    async def hanging() -> None:
        starts.append(current_time())
        while len(starts) > 3:
            await anyio.sleep(4)
            current_task_context().beat()
        await anyio.sleep_forever()

    async with scheduler:
        await scheduler.start()
        await anyio.sleep(1000)
        assert starts == [0, 6, 12, 18]
        assert scheduler.status()[0].state is TaskState.RUNNING


async def test_a_task_that_hangs_is_shut_down(scheduler: Scheduler, diary: Diary) -> None:
    add(scheduler, diary, "hanging", watchdog=5)
    with pytest.raises(TaskExecutionError, match="watchdog"):
        await scheduler.run()
    assert diary.when("down", "hanging") == [5]


async def test_a_task_that_swallows_its_cancellation_has_hung_all_the_same(
    scheduler: Scheduler,
) -> None:
    @scheduler.background(watchdog=5)
    async def swallowing() -> None:
        try:
            await anyio.sleep_forever()
        except BaseException:
            return

    with pytest.raises(TaskExecutionError, match="watchdog"):
        await scheduler.run()


async def test_a_watchdog_does_not_count_the_wait_for_a_dependency(scheduler: Scheduler) -> None:
    @scheduler.background(reports_ready=True)
    async def slow() -> None:
        await anyio.sleep(50)
        current_task_context().ready()
        await anyio.sleep_forever()

    @scheduler.background(depends_on=["slow"], watchdog=5)
    async def lively() -> None:
        while True:
            await anyio.sleep(4)
            current_task_context().beat()

    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
        assert [shot.state for shot in scheduler.status()] == [TaskState.RUNNING] * 2


async def test_a_watchdog_does_not_bark_at_a_shutdown(scheduler: Scheduler) -> None:
    class Slow(BackgroundTask):
        async def execute(self) -> None:
            await anyio.sleep(1)

        async def shutdown(self) -> None:
            await anyio.sleep(8)

    task = scheduler.register_background_task(Slow(), watchdog=5)
    with anyio.fail_after(100):
        await scheduler.run()
    assert current_time() == 9
    assert scheduler.status(task).state is TaskState.STOPPED


class Handler(Collector):
    """Takes as many seconds for a message as it says."""

    async def handle_event(self, event: int) -> None:
        await anyio.sleep(event)
        await super().handle_event(event)


async def test_an_event_task_may_be_idle_for_long(scheduler: Scheduler) -> None:
    handler = Handler()
    task = scheduler.register_event_task(handler, watchdog=5)
    async with scheduler:
        await scheduler.start()
        for _ in range(3):
            await anyio.sleep(1003)
            await scheduler.publish(NUMBERS, 4)
        await anyio.sleep(1000)
        assert scheduler.status(task).state is TaskState.RUNNING
    assert handler.seen == [4, 4, 4]


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_an_event_task_beats_by_handling_messages(
    scheduler: Scheduler, concurrency: int
) -> None:
    handler = Handler()
    task = scheduler.register_event_task(handler, watchdog=5, concurrency=concurrency)
    async with scheduler:
        await scheduler.start()
        for _ in range(20):
            await scheduler.publish(NUMBERS, 4)
        await anyio.sleep(100)
        assert scheduler.status(task).handled == 20


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_an_event_task_that_was_idle_has_all_its_time_for_a_message(
    scheduler: Scheduler, concurrency: int
) -> None:
    handler = Handler()
    task = scheduler.register_event_task(handler, watchdog=5, concurrency=concurrency)
    async with scheduler:
        await scheduler.start()
        for _ in range(10):
            await anyio.sleep(10.7)
            await scheduler.publish(NUMBERS, 4)
        await anyio.sleep(50)
        assert scheduler.status(task).handled == 10


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("idle", [0, 103])
async def test_an_event_task_whose_handler_hangs_fails(
    scheduler: Scheduler, concurrency: int, idle: int
) -> None:
    scheduler.register_event_task(Handler(), name="slow", watchdog=5, concurrency=concurrency)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(idle)
        await scheduler.publish(NUMBERS, 1000)
        with pytest.raises(TaskExecutionError, match="'slow' failed.*its watchdog"):
            await scheduler.run()
        assert idle + 5 <= current_time() <= idle + 10


async def test_a_handler_may_beat_as_well(scheduler: Scheduler) -> None:
    handled: list[int] = []

    @scheduler.on(NUMBERS, watchdog=5)
    async def long(number: int) -> None:
        for _ in range(100):
            await anyio.sleep(4)
            current_task_context().beat()
        handled.append(number)

    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 1)
        await anyio.sleep(500)
        assert handled == [1]


# -- clocks that jump ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [6, 7, 50])
async def test_nobody_is_taken_for_hung_because_the_clock_has_jumped(
    scheduler: Scheduler, seconds: float
) -> None:
    class Lively(BackgroundTask):
        async def execute(self) -> None:
            while True:
                await anyio.sleep(1)
                current_task_context().beat()

    # Many of them, as event loops may wake up in any order whose time has come.
    for number in range(50):
        scheduler.register_background_task(Lively(), name=f"lively {number}", watchdog=5)
    async with scheduler:
        await scheduler.start()
        for _ in range(5):
            await anyio.sleep(2.5)
            jump(seconds)
        await anyio.sleep(50)
        assert {shot.state for shot in scheduler.status()} == {TaskState.RUNNING}


async def test_a_task_that_hangs_is_found_after_the_clock_has_jumped(
    scheduler: Scheduler,
) -> None:
    @scheduler.background(watchdog=5, restart=RestartPolicy(mode="never"))
    async def hanging() -> None:
        await anyio.sleep_forever()

    async with scheduler:
        await scheduler.start()
        await anyio.sleep(2.5)
        jump(50)
        await anyio.sleep(11)
        assert scheduler.status()[0].state is TaskState.FAILED


# -- stuck ---------------------------------------------------------------------------------------------


async def ignore_everything(seconds: float) -> None:
    with anyio.CancelScope(shield=True):
        await anyio.sleep(seconds)


async def test_a_watched_task_that_ignores_its_cancellation_ends_the_run(
    scheduler: Scheduler, diary: Diary, caplog: pytest.LogCaptureFixture
) -> None:
    seen: dict[float, tuple[bool, bool]] = {}

    @scheduler.background(name="stuck", watchdog=5, stop_timeout=3, restart=SOON)
    async def stuck() -> None:
        await ignore_everything(100)

    add(scheduler, diary, "other")

    async def probe() -> None:
        for time in (7, 9, 50):
            await anyio.sleep_until(time)
            seen[time] = (scheduler.health().live, scheduler.status()[0].stuck)

    caplog.set_level(logging.WARNING)
    with pytest.raises(ExceptionGroup) as caught:
        async with anyio.create_task_group() as group:
            group.start_soon(probe)
            await scheduler.run()
    assert seen == {7: (True, False), 9: (False, True), 50: (False, True)}
    assert diary.when("down", "other") == [8], "the others are shut down"
    what = "task 'stuck' failed: it gave no sign of life for 5 s, its watchdog; .*ignores it"
    assert caught.group_contains(TaskExecutionError, match=what)
    record = next(record for record in caplog.records if "It stands here" in record.message)
    assert record.levelno == logging.WARNING
    assert "in ignore_everything" in record.message, "it says where"
    assert "more than stop_timeout (3 s)" in record.message


async def test_a_task_that_ignores_its_cancellation_is_reported_once(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    @scheduler.background(name="stuck", watchdog=5, stop_timeout=3, restart=SOON)
    async def stuck() -> None:
        await ignore_everything(100)

    with pytest.raises((ExceptionGroup, TaskExecutionError)) as caught:
        await scheduler.run()
    error = caught.value
    errors = error.exceptions if isinstance(error, ExceptionGroup) else (error,)
    assert sum(isinstance(error, TaskExecutionError) for error in errors) == 1
    assert caplog.text.count("It stands here") == 1


async def test_a_task_that_does_not_get_ready_and_ignores_its_cancellation_is_reported_once(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    @scheduler.background(reports_ready=True, start_timeout=5, watchdog=5, stop_timeout=3)
    async def stuck() -> None:
        await ignore_everything(100)

    with pytest.raises(ExceptionGroup) as at_the_end:
        async with scheduler:
            # Alone, and not once more when it ends after all.
            with pytest.raises(
                (TaskExecutionError, TaskInitializationError), match="was not ready .*ignores it"
            ):
                await scheduler.start()
    assert [type(error) for error in at_the_end.value.exceptions] == [TaskShutdownError]
    assert caplog.text.count("It stands here") == 1


async def test_a_task_that_ends_late_is_stuck_no_more(scheduler: Scheduler) -> None:
    ids: list[TaskId] = []

    class Late(BackgroundTask):
        async def execute(self) -> None:
            await ignore_everything(20)

    ids.append(scheduler.register_background_task(Late(), stop_timeout=3))
    states: list[tuple[bool, bool]] = []

    async with scheduler, anyio.create_task_group() as group:
        await scheduler.start()
        await settle()

        async def stop() -> None:
            with pytest.raises(ExceptionGroup):
                await scheduler.shutdown()

        group.start_soon(stop)
        await anyio.sleep(10)
        states.append((scheduler.status(ids[0]).stuck, scheduler.health().live))
        await anyio.sleep(15)
        states.append((scheduler.status(ids[0]).stuck, scheduler.health().live))
    assert states == [(True, False), (False, False)]
    assert scheduler.status(ids[0]).state is TaskState.STOPPED


async def test_a_task_that_ends_within_stop_timeout_was_never_stuck(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    runs: list[float] = []

    @scheduler.background(watchdog=5, stop_timeout=10, restart=SOON)
    async def slow() -> None:
        runs.append(current_time())
        if len(runs) == 1:
            await ignore_everything(8)
        while True:
            await anyio.sleep(1)
            current_task_context().beat()

    async with scheduler:
        await scheduler.start()
        await anyio.sleep(7)
        assert scheduler.health().live
        await anyio.sleep(100)
        assert standing(scheduler) == (True, True)
        assert runs == [0, 9]
    assert "It stands here" not in caplog.text
