"""What a restart policy does with one task: how soon it runs again, how often, and what is kept."""

from __future__ import annotations

import logging

import anyio
import pytest
from anyio import current_time
from support import TroubleError, settle

from orchestrio import (
    BackgroundTask,
    LifecycleError,
    RestartPolicy,
    Scheduler,
    TaskExecutionError,
    TaskId,
    TaskInitializationError,
    TaskState,
    current_task_context,
)


class Worker(BackgroundTask):
    """Fails after each of some spans of time, then works for ever; keeps when it did what."""

    def __init__(self, *spans: float) -> None:
        self.spans = list(spans)
        self.log: list[tuple[str, float]] = []

    def note(self, what: str) -> None:
        self.log.append((what, current_time()))

    def times(self, what: str) -> list[float]:
        return [time for event, time in self.log if event == what]

    async def initialize(self) -> None:
        self.note("initialize")

    async def execute(self) -> None:
        self.note("execute")
        if not self.spans:
            await anyio.sleep_forever()
        await anyio.sleep(self.spans.pop(0))
        raise TroubleError(f"trouble {len(self.times('execute'))}")

    async def shutdown(self) -> None:
        self.note("shutdown")


PATIENT = RestartPolicy(initial_delay=1, max_delay=60, jitter=0, max_restarts=None)


@pytest.fixture
def scheduler() -> Scheduler:
    return Scheduler(random=lambda: 0.5)


# -- how soon ----------------------------------------------------------------------------------------


async def test_all_hooks_run_again_and_the_delays_grow(scheduler: Scheduler) -> None:
    worker = Worker(0, 0, 0)
    scheduler.register_background_task(worker, restart=PATIENT)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
    hooks = ["initialize", "execute", "shutdown"]
    assert [what for what, _ in worker.log] == hooks * 4
    assert worker.times("execute") == [0, 1, 3, 7]
    assert worker.times("initialize") == worker.times("execute")
    assert worker.times("shutdown")[:3] == [0, 1, 3], "at once, before the back-off"


async def test_a_delay_is_capped(scheduler: Scheduler) -> None:
    worker = Worker(0, 0, 0, 0, 0)
    policy = PATIENT.model_copy(update={"max_delay": 3.0})
    scheduler.register_background_task(worker, restart=policy)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
    assert worker.times("execute") == [0, 1, 3, 6, 9, 12]


async def test_jitter_takes_a_random_share_off_the_delay(scheduler: Scheduler) -> None:
    worker = Worker(0, 0)
    policy = PATIENT.model_copy(update={"jitter": 1.0})
    scheduler.register_background_task(worker, restart=policy)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
    assert worker.times("execute") == [0, 0.5, 1.5], "half of it, says the random source"


async def test_a_run_that_stayed_up_long_enough_resets_the_back_off(scheduler: Scheduler) -> None:
    worker = Worker(0, 0, 59.9, 60, 0)
    scheduler.register_background_task(worker, restart=PATIENT)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(1000)
    starts = worker.times("execute")
    ends = worker.times("shutdown")
    assert [start - end for start, end in zip(starts[1:], ends, strict=False)] == pytest.approx(
        [1, 2, 4, 1, 2]
    )


async def test_hours_of_back_offs_are_over_at_once(scheduler: Scheduler) -> None:
    worker = Worker(*[0.0] * 500)
    scheduler.register_background_task(worker, restart=PATIENT)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(6 * 3600)
        assert scheduler.status()[0].restarts == 364, "six growing delays, then one a minute"


async def test_without_a_delay_a_crash_loop_lets_others_run(scheduler: Scheduler) -> None:
    turns = 0

    @scheduler.background(restart=RestartPolicy(initial_delay=0, max_restarts=None))
    async def crashes() -> None:
        raise TroubleError

    @scheduler.background()
    async def bystander() -> None:
        nonlocal turns
        for _ in range(50):
            await anyio.lowlevel.checkpoint()
            turns += 1

    async with scheduler:
        await scheduler.start()
        await settle(200)
        assert turns == 50
        assert scheduler.status()[0].restarts > 10


# -- when --------------------------------------------------------------------------------------------


async def test_on_failure_does_not_run_again_what_returned(scheduler: Scheduler) -> None:
    runs: list[int] = []

    @scheduler.background(restart=PATIENT)
    async def job() -> None:
        runs.append(current_task_context().run)
        if len(runs) == 1:
            raise TroubleError

    with anyio.fail_after(100):
        await scheduler.run()
    assert runs == [1, 2]


async def test_always_runs_again_what_returned(scheduler: Scheduler) -> None:
    runs: list[float] = []

    @scheduler.background(restart=RestartPolicy(mode="always", jitter=0, max_restarts=2))
    async def job() -> None:
        runs.append(current_time())

    with pytest.raises(TaskExecutionError, match=r"'job' failed 3 times.*its work has ended"):
        await scheduler.run()
    assert runs == [0, 1, 3]


async def test_never_leaves_the_others_alone(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    failing = scheduler.register_background_task(Worker(0), restart=RestartPolicy(mode="never"))
    other = scheduler.register_background_task(Worker(), name="other")
    async with scheduler:
        await scheduler.start()
        shot = await scheduler.wait_stopped(failing)
        assert shot.state is TaskState.FAILED
        assert "trouble 1" in str(shot.error)
        assert scheduler.status(other).state is TaskState.RUNNING
    assert "'Worker' stopped, the others go on" in caplog.text


async def test_on_error_stop_is_never_for_a_background_task(scheduler: Scheduler) -> None:
    failing = scheduler.register_background_task(Worker(0), on_error="stop", restart=PATIENT)
    other = scheduler.register_background_task(Worker(), name="other")
    async with scheduler:
        await scheduler.start()
        assert (await scheduler.wait_stopped(failing)).state is TaskState.FAILED
        assert scheduler.status(other).state is TaskState.RUNNING


async def test_waiting_for_a_task_waits_through_its_restarts(scheduler: Scheduler) -> None:
    worker = scheduler.register_background_task(Worker(5, 5), restart=PATIENT)
    async with scheduler:
        await scheduler.start()
        with anyio.move_on_after(100) as scope:
            await scheduler.wait_stopped(worker)
        assert scope.cancelled_caught


# -- how often ---------------------------------------------------------------------------------------


async def test_one_failure_too_many_ends_the_run_with_the_whole_history(
    scheduler: Scheduler,
) -> None:
    policy = RestartPolicy(max_restarts=2, within=100, jitter=0)
    scheduler.register_background_task(Worker(1, 1, 1), name="shaky", restart=policy)
    other = Worker()
    scheduler.register_background_task(other, name="other")
    with pytest.raises(TaskExecutionError) as caught:
        await scheduler.run()
    assert "task 'shaky' failed 3 times: max_restarts=2 within 100 s" in str(caught.value)
    assert caught.value.task_name == "shaky"
    history = caught.value.__cause__
    assert isinstance(history, ExceptionGroup)
    assert "the failures of task 'shaky', first to last" in str(history)
    assert [str(failure.__cause__) for failure in history.exceptions] == [
        "trouble 1",
        "trouble 2",
        "trouble 3",
    ]
    assert other.times("shutdown"), "and all others were shut down"


async def test_the_window_slides(scheduler: Scheduler) -> None:
    # The third failure comes when the first is just out of the window.
    policy = RestartPolicy(max_restarts=2, within=10, initial_delay=0)
    worker = Worker(0, 4, 6, 1)
    scheduler.register_background_task(worker, restart=policy)
    with pytest.raises(TaskExecutionError, match="failed 3 times"), anyio.fail_after(100):
        await scheduler.run()
    assert worker.times("execute") == [0, 0, 4, 10]


async def test_no_restarts_allowed_is_the_first_failure(scheduler: Scheduler) -> None:
    scheduler.register_background_task(Worker(0), restart=RestartPolicy(max_restarts=0))
    with pytest.raises(TaskExecutionError, match="failed 1 times"):
        await scheduler.run()


# -- failing hooks -----------------------------------------------------------------------------------


class Unsteady(Worker):
    """Cannot be initialised at some of its starts."""

    def __init__(self, *bad: int) -> None:
        super().__init__(0)
        self.bad = bad

    async def initialize(self) -> None:
        await super().initialize()
        if len(self.times("initialize")) in self.bad:
            raise TroubleError("not now")


async def test_a_restart_whose_initialize_fails_is_tried_again(scheduler: Scheduler) -> None:
    worker = Unsteady(2, 3)
    scheduler.register_background_task(worker, restart=PATIENT)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
    assert worker.times("initialize") == [0, 1, 3, 7]
    assert worker.times("execute") == [0, 7]
    assert len(worker.times("shutdown")) == 2, "only what was initialised is shut down"


async def test_a_first_initialize_that_fails_ends_the_start_whatever_the_policy(
    scheduler: Scheduler,
) -> None:
    scheduler.register_background_task(Unsteady(1), restart=PATIENT)
    async with scheduler:
        with pytest.raises(TaskInitializationError, match="not now"):
            await scheduler.start()


async def test_a_task_registered_later_may_fail_its_first_initialize(
    scheduler: Scheduler,
) -> None:
    worker = Unsteady(1)
    async with scheduler:
        await scheduler.start()
        scheduler.register_background_task(worker, restart=PATIENT)
        await anyio.sleep(100)
    assert worker.times("initialize")[:2] == [0, 1]


async def test_a_failing_shutdown_does_not_prevent_the_restart(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    class Messy(Worker):
        async def shutdown(self) -> None:
            await super().shutdown()
            if len(self.times("shutdown")) == 1:
                raise TroubleError("messy")

    worker = Messy(0)
    scheduler.register_background_task(worker, restart=PATIENT)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
    assert worker.times("execute") == [0, 1]
    assert "its shutdown() raised TroubleError: messy" in caplog.text


async def test_a_shutdown_that_hangs_is_cut_before_the_restart(scheduler: Scheduler) -> None:
    class Hanging(Worker):
        async def shutdown(self) -> None:
            await super().shutdown()
            if len(self.times("shutdown")) == 1:
                await anyio.sleep_forever()

    worker = Hanging(0)
    scheduler.register_background_task(worker, restart=PATIENT, shutdown_timeout=5)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
    assert worker.times("execute") == [0, 5], "its back-off was over by then"


async def test_a_shutdown_that_ignores_its_cancellation_ends_the_run(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    class Stubborn(Worker):
        async def shutdown(self) -> None:
            await super().shutdown()
            with anyio.CancelScope(shield=True):
                await anyio.sleep(30)

    worker = Stubborn(0)
    scheduler.register_background_task(worker, name="stubborn", restart=PATIENT, shutdown_timeout=5)
    with caplog.at_level(logging.WARNING), pytest.raises(TaskExecutionError) as caught:
        await scheduler.run()
    assert str(caught.value).startswith("task 'stubborn' cannot be restarted")
    (after,) = caught.value.shutdown_errors
    assert "ignores its cancellation" in str(after)
    assert "in shutdown" in caplog.text, "it says where the task stands"
    assert len(worker.times("execute")) == 1


# -- by hand -----------------------------------------------------------------------------------------


async def test_a_restart_by_hand_is_not_counted_and_resets_nothing(scheduler: Scheduler) -> None:
    worker = Worker(0)
    policy = RestartPolicy(max_restarts=1, jitter=0)
    task = scheduler.register_background_task(worker, restart=policy)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(10)
        for _ in range(5):
            await scheduler.restart_task(task)
        await settle()
        shot = scheduler.status(task)
        assert (shot.state, shot.restarts) == (TaskState.RUNNING, 6)


async def test_a_task_in_back_off_says_so_and_why(scheduler: Scheduler) -> None:
    task = scheduler.register_background_task(Worker(0), restart=PATIENT)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(0.5)
        shot = scheduler.status(task)
        assert shot.state is TaskState.BACKING_OFF
        assert not shot.ready
        assert "trouble 1" in str(shot.error)
        await anyio.sleep(1)
        shot = scheduler.status(task)
        assert (shot.state, shot.error, shot.ready) == (TaskState.RUNNING, None, True)


async def test_run_goes_on_while_its_last_task_is_in_back_off(scheduler: Scheduler) -> None:
    ends: list[float] = []

    @scheduler.background(restart=PATIENT)
    async def job() -> None:
        if current_task_context().run < 4:
            raise TroubleError
        ends.append(current_time())

    await scheduler.run()
    assert ends == [7]


async def test_the_context_is_there_for_tasks_only(scheduler: Scheduler) -> None:
    with pytest.raises(LifecycleError, match="no such task is running here"):
        current_task_context()
    found: list[tuple[TaskId, str]] = []

    @scheduler.background()
    async def look() -> None:
        context = current_task_context()
        found.append((context.task_id, context.task_name))

    await scheduler.run()
    (shot,) = scheduler.status()
    assert found == [(shot.task_id, "look")]
