"""A clean-up that fails while its hook is cancelled: the error is told, and is that task's alone.

A child in a task group of the hook's own raises as it is cancelled. On trio the error comes out in
one group with the cancellation, which must not pass for one that ends other tasks, or the run.
"""

from __future__ import annotations

from collections.abc import Iterator

import anyio
import pytest
from anyio import current_time
from support import NEVER, NUMBERS, SOON, TroubleError, errors, settle

from orchestrio import (
    BackgroundTask,
    Backoff,
    DeadLetter,
    EventTask,
    OnError,
    RestartPolicy,
    Scheduler,
    TaskExecutionError,
    TaskId,
    TaskInitializationError,
    TaskShutdownError,
    TaskState,
    Topic,
    current_task_context,
)


async def be_messy(first: float = float("inf")) -> None:
    """Work in a child that raises as it is cancelled."""

    async def child() -> None:
        try:
            await anyio.sleep(first)
        except BaseException:
            raise TroubleError("lost while closing") from None

    async with anyio.create_task_group() as group:
        group.start_soon(child)
        await anyio.sleep(first)


class Messy(BackgroundTask):
    """Has a clean-up that fails, in one of its hooks."""

    def __init__(self, hook: str = "execute") -> None:
        self.hook = hook
        self.hooks: list[str] = []

    async def in_hook(self, hook: str) -> None:
        self.hooks.append(f"{hook} {current_task_context().run}")
        if hook == self.hook and current_task_context().run == 1:
            await be_messy()

    async def initialize(self) -> None:
        await self.in_hook("initialize")

    async def execute(self) -> None:
        await self.in_hook("execute")
        await anyio.sleep_forever()

    async def shutdown(self) -> None:
        await self.in_hook("shutdown")


class Neighbour(BackgroundTask):
    """Beats once a second."""

    def __init__(self) -> None:
        self.beats = 0
        self.down = False

    async def execute(self) -> None:
        while True:
            await anyio.sleep(1)
            self.beats += 1

    async def shutdown(self) -> None:
        self.down = True


@pytest.fixture
def neighbour(scheduler: Scheduler) -> Neighbour:
    task = Neighbour()
    scheduler.register_background_task(task, name="neighbour")
    return task


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors in a group and in those within it."""
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from leaves(one)
    else:
        yield error


def tells_of(error: BaseException | None) -> bool:
    """Whether the error of a task comes from the one of its clean-up, and from that alone."""
    assert error is not None
    assert error.__cause__ is not None
    (cause,) = leaves(error.__cause__)
    return isinstance(cause, TroubleError)


def is_logged_once(caplog: pytest.LogCaptureFixture) -> bool:
    (record,) = errors(caplog)
    assert record.exc_info is not None
    return tells_of(record.exc_info[1])


# -- execute() -------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["stop_task", "remove_task"])
@pytest.mark.parametrize("policy", [SOON, NEVER, RestartPolicy(mode="always")])
async def test_of_a_task_with_a_policy_that_is_stopped_it_is_logged_and_the_others_go_on(
    scheduler: Scheduler,
    neighbour: Neighbour,
    policy: RestartPolicy,
    command: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    task = Messy()
    shot = scheduler.register_background_task(task, restart=policy)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(1.5)
        await getattr(scheduler, command)(shot)
        await anyio.sleep(20)
        assert neighbour.beats == 21
        assert task.hooks == ["initialize 1", "execute 1", "shutdown 1"], "it does not come back"
    assert is_logged_once(caplog)


async def test_of_a_task_that_no_policy_guards_it_ends_the_run_aloud(
    scheduler: Scheduler, neighbour: Neighbour
) -> None:
    shot = scheduler.register_background_task(Messy(), name="messy")
    with pytest.raises(TaskExecutionError, match="'messy' failed: its execute") as caught:
        async with scheduler:
            await scheduler.start()
            await settle()
            await scheduler.stop_task(shot)
            await anyio.sleep(20)
    assert tells_of(caught.value)
    assert neighbour.down


async def test_at_the_stop_of_everything_it_is_raised(
    scheduler: Scheduler, neighbour: Neighbour, caplog: pytest.LogCaptureFixture
) -> None:
    task = Messy()
    scheduler.register_background_task(task, name="messy")
    with pytest.raises(TaskExecutionError, match="'messy' failed: its execute") as caught:
        async with scheduler:
            await scheduler.start()
            await settle()
            await scheduler.shutdown()
    assert tells_of(caught.value)
    assert task.hooks == ["initialize 1", "execute 1", "shutdown 1"]
    assert neighbour.down
    assert not errors(caplog), "what is raised need not be logged"


async def test_at_the_stop_of_everything_a_policy_makes_it_a_line_in_the_log(
    scheduler: Scheduler, neighbour: Neighbour, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler.register_background_task(Messy(), restart=SOON)
    async with scheduler:
        await scheduler.start()
        await settle()
    assert neighbour.down
    assert is_logged_once(caplog)


async def test_when_the_block_is_cancelled_it_is_raised_all_the_same(
    scheduler: Scheduler, neighbour: Neighbour
) -> None:
    scheduler.register_background_task(Messy(), name="messy")
    with pytest.raises(TaskExecutionError) as caught, anyio.move_on_after(1):
        async with scheduler:
            await scheduler.start()
            await anyio.sleep_forever()
    assert tells_of(caught.value)
    assert neighbour.down


async def test_a_restart_by_hand_goes_on_after_it(
    scheduler: Scheduler, neighbour: Neighbour, caplog: pytest.LogCaptureFixture
) -> None:
    task = Messy()
    shot = scheduler.register_background_task(task)
    async with scheduler:
        await scheduler.start()
        await settle()
        await scheduler.restart_task(shot)
        await settle()
        runs = ["initialize 1", "execute 1", "shutdown 1", "initialize 2", "execute 2"]
        assert task.hooks == runs
        await anyio.sleep(5.5)
        assert neighbour.beats == 5
    assert is_logged_once(caplog)


@pytest.mark.parametrize("strategy", ["one_for_all", "rest_for_one"])
async def test_a_restart_of_its_group_goes_on_after_it(
    scheduler: Scheduler, neighbour: Neighbour, strategy: str, caplog: pytest.LogCaptureFixture
) -> None:
    task = Messy()
    group = scheduler.group("group", strategy=strategy, restart=SOON)  # type: ignore[arg-type]

    @group.background(name="failing")
    async def failing() -> None:
        await anyio.sleep(2)
        if current_task_context().run == 1:
            raise OSError("down")
        await anyio.sleep_forever()

    group.register_background_task(task)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(10.5)
        runs = ["initialize 1", "execute 1", "shutdown 1", "initialize 2", "execute 2"]
        assert task.hooks == runs
        assert neighbour.beats == 10
    assert is_logged_once(caplog)


async def test_a_failure_that_cancels_the_others_leaves_both_errors_to_be_read(
    scheduler: Scheduler,
) -> None:
    scheduler.register_background_task(Messy(), name="messy")

    @scheduler.background(name="first")
    async def first() -> None:
        await anyio.sleep(1)
        raise OSError("down")

    with pytest.raises(ExceptionGroup) as caught:
        await scheduler.run()
    told: dict[str, TaskExecutionError] = {}
    for error in caught.value.exceptions:
        assert isinstance(error, TaskExecutionError)
        told[error.task_name] = error
    assert set(told) == {"first", "messy"}
    assert tells_of(told["messy"])


# -- initialize() and shutdown() -------------------------------------------------------------


@pytest.mark.parametrize("policy", [None, SOON])
async def test_an_initialize_that_takes_too_long_and_cannot_clean_up_fails_the_start(
    scheduler: Scheduler, neighbour: Neighbour, policy: RestartPolicy | None
) -> None:
    task = Messy("initialize")
    scheduler.register_background_task(task, name="messy", start_timeout=5, restart=policy)
    with pytest.raises(TaskInitializationError, match="'messy' could not start") as caught:
        await scheduler.run()
    assert tells_of(caught.value)
    assert current_time() == 5
    assert task.hooks == ["initialize 1"]
    assert neighbour.down


async def test_a_late_task_stopped_in_its_initialize_may_fail_to_clean_up(
    scheduler: Scheduler, neighbour: Neighbour, caplog: pytest.LogCaptureFixture
) -> None:
    async with scheduler:
        await scheduler.start()
        shot = scheduler.register_background_task(Messy("initialize"), restart=SOON)
        await settle()
        await scheduler.stop_task(shot)
        await anyio.sleep(5.5)
        assert neighbour.beats == 5
    assert is_logged_once(caplog)


async def test_a_shutdown_that_takes_too_long_and_cannot_clean_up_is_an_error_of_it(
    scheduler: Scheduler, neighbour: Neighbour
) -> None:
    task = Messy("shutdown")
    scheduler.register_background_task(task, name="messy", shutdown_timeout=5)
    with pytest.raises(ExceptionGroup) as caught:
        async with scheduler:
            await scheduler.start()
    (error,) = caught.value.exceptions
    assert isinstance(error, TaskShutdownError)
    assert tells_of(error)
    assert current_time() == 5
    assert neighbour.down


@pytest.mark.parametrize("command", ["stop_task", "remove_task", "restart_task"])
async def test_a_command_raises_what_a_shutdown_could_not_clean_up(
    scheduler: Scheduler, neighbour: Neighbour, command: str
) -> None:
    shot = scheduler.register_background_task(Messy("shutdown"), shutdown_timeout=5)
    async with scheduler:
        await scheduler.start()
        with pytest.raises(TaskShutdownError) as caught:
            await getattr(scheduler, command)(shot)
        assert tells_of(caught.value)
        await anyio.sleep(5.5)
        assert neighbour.beats == 10


# -- handle_event() --------------------------------------------------------------------------


class Handler(EventTask[int]):
    """Is slow, and fails to clean up when that is cut short."""

    def __init__(self, slow: int) -> None:
        self.slow = slow
        self.calls: list[int] = []
        self.handled: list[int] = []

    @property
    def subscribed_event(self) -> Topic[int]:
        return NUMBERS

    async def handle_event(self, event: int, /) -> None:
        self.calls.append(event)
        if event == self.slow and self.calls.count(event) == 1:
            await be_messy(100)
        self.handled.append(event)


async def start_and_publish(scheduler: Scheduler, numbers: range) -> None:
    await scheduler.start()
    for number in numbers:
        await scheduler.publish(NUMBERS, number)
    await settle(50)


def counts(scheduler: Scheduler, shot: TaskId) -> tuple[int, int, int]:
    snapshot = scheduler.status(shot)
    return snapshot.handled, snapshot.failed, snapshot.in_hand


@pytest.mark.parametrize("on_error", ["skip", "stop", "restart"])
async def test_a_handler_that_is_cut_short_and_cannot_clean_up_spares_the_others(
    scheduler: Scheduler,
    neighbour: Neighbour,
    letters: list[DeadLetter],
    on_error: OnError,
    concurrency: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    task = Handler(slow=2)
    shot = scheduler.register_event_task(
        task, concurrency=concurrency, on_error=on_error, drain_timeout=3, stop_timeout=1
    )
    async with scheduler:
        await start_and_publish(scheduler, range(3))
        await scheduler.stop_task(shot)
        assert counts(scheduler, shot) == (2, 1, 0)
        await anyio.sleep(10)
        assert neighbour.beats > 10
        assert scheduler.status(shot).state in (TaskState.STOPPED, TaskState.FAILED)
    assert task.calls == [0, 1, 2], "what failed is not handled again"
    assert [letter.message for letter in letters] == [2]
    told = [record for record in errors(caplog) if record.exc_info]
    assert len(told) == 1


async def test_without_a_policy_it_ends_the_run_aloud(
    scheduler: Scheduler, neighbour: Neighbour, concurrency: int
) -> None:
    task = Handler(slow=2)
    scheduler.register_event_task(
        task, name="messy", concurrency=concurrency, drain_timeout=3, stop_timeout=1
    )
    with pytest.raises(TaskExecutionError, match="'messy' failed: its handle_event") as caught:
        async with scheduler:
            await start_and_publish(scheduler, range(3))
    assert caught.value.__cause__ is not None
    assert [type(leaf) for leaf in leaves(caught.value.__cause__)] == [TroubleError]
    assert neighbour.down


async def test_an_attempt_that_takes_too_long_and_cannot_clean_up_is_tried_again(
    scheduler: Scheduler, letters: list[DeadLetter], concurrency: int
) -> None:
    task = Handler(slow=1)
    shot = scheduler.register_event_task(
        task,
        concurrency=concurrency,
        attempt_timeout=5,
        retries=1,
        retry_backoff=Backoff(initial_delay=1, jitter=0),
    )
    async with scheduler:
        await start_and_publish(scheduler, range(3))
        await anyio.sleep(10)
        assert counts(scheduler, shot) == (3, 0, 0)
    assert sorted(task.handled) == [0, 1, 2]
    assert letters == []


# -- ticks -----------------------------------------------------------------------------------


async def test_a_tick_that_is_cut_short_and_cannot_clean_up_spares_the_others(
    scheduler: Scheduler, neighbour: Neighbour, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler.every(100, name="messy", restart=SOON)(be_messy)
    async with scheduler:
        await scheduler.start()
        await settle()
        (shot,) = [task.task_id for task in scheduler.status() if task.name == "messy"]
        await scheduler.stop_task(shot)
        await anyio.sleep(5.5)
        assert neighbour.beats == 5
    assert is_logged_once(caplog)


async def test_a_tick_that_may_be_skipped_is_the_last_one_when_it_is_stopped(
    scheduler: Scheduler, neighbour: Neighbour, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler.every(1, name="messy", on_error="skip")(be_messy)
    async with scheduler:
        await scheduler.start()
        await settle()
        (shot,) = [task.task_id for task in scheduler.status() if task.name == "messy"]
        await scheduler.stop_task(shot)
        await anyio.sleep(5.5)
        assert neighbour.beats == 5
        assert scheduler.status(shot).state is TaskState.STOPPED
    assert len(errors(caplog)) == 1


# -- deadlines -------------------------------------------------------------------------------


async def test_a_task_that_a_watchdog_cancels_and_that_cannot_clean_up_is_restarted(
    scheduler: Scheduler, neighbour: Neighbour, caplog: pytest.LogCaptureFixture
) -> None:
    task = Messy()
    scheduler.register_background_task(task, name="messy", watchdog=5, restart=SOON)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(8.5)
        assert task.hooks[-2:] == ["initialize 2", "execute 2"]
        assert neighbour.beats == 8
    assert "gave no sign of life for 5 s" in caplog.text
