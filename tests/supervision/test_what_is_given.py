"""What users give to the scheduler may raise as well, and whoever does so ends nobody else."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import anyio
import pytest
from support import NUMBERS, ONCE, SOON, TroubleError, settle
from support.diary import Diary, Worker, add

from orchestrio import (
    EventTask,
    RestartPolicy,
    Scheduler,
    TaskExecutionError,
    TaskState,
    Topic,
)


class Fickle(EventTask[int]):
    """Does not know what it subscribes to any more, from some time on."""

    def __init__(self) -> None:
        self.is_lost = False

    @property
    def subscribed_event(self) -> Topic[int]:
        if self.is_lost:
            raise TroubleError("which one was it?")
        return NUMBERS

    async def handle_event(self, event: int, /) -> None:
        raise TroubleError


async def test_a_subscription_that_raises_in_a_restart_is_a_failure_of_that_task(
    scheduler: Scheduler, diary: Diary, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="orchestrio")  # which sums up what all tasks have done
    add(scheduler, diary, "other")
    group = scheduler.group("group", restart=ONCE)
    add(group, diary, "failing", 1)
    fickle = Fickle()
    group.register_event_task(fickle, name="fickle", on_error="stop")
    with pytest.raises(TaskExecutionError, match="'fickle' could not start: its subscription rai"):
        async with scheduler:
            await scheduler.start()
            await scheduler.publish(NUMBERS, 1)
            await settle()
            fickle.is_lost = True
            await anyio.sleep(10)
    assert diary.hooks[-2:] == ["down failing", "down other"]


async def test_a_source_of_randomness_that_raises_ends_the_run_and_reaches_the_caller(
    diary: Diary,
) -> None:
    def no_luck() -> float:
        raise TroubleError("no luck")

    scheduler = Scheduler(random=no_luck)
    add(scheduler, diary, "other")
    add(scheduler, diary, "failing", 1, restart=RestartPolicy())
    with pytest.raises(TroubleError, match="no luck"):
        async with scheduler:
            await scheduler.start()
            await anyio.sleep(10)
    assert diary.hooks == ["up other", "up failing", "down failing", "down other"]


async def test_many_tasks_whose_event_has_ended_hold_no_restart_up(diary: Diary) -> None:
    scheduler = Scheduler(strategy="one_for_all")
    scheduler.add_channel(NUMBERS)

    async def handle(number: int) -> None: ...

    for number in range(1000):
        scheduler.on(NUMBERS, name=f"handler {number}")(handle)
    add(scheduler, diary, "failing", 1, restart=SOON)
    add(scheduler, diary, "other")
    async with scheduler:
        await scheduler.start()
        scheduler.bus.remove_channel(NUMBERS)
        await anyio.sleep(5)
        states = [shot.state for shot in scheduler.status()]
        assert states == [TaskState.STOPPED] * 1000 + [TaskState.RUNNING] * 2


@pytest.mark.parametrize("number", [float("nan"), 5.0, -1.0])
async def test_a_source_of_randomness_that_gives_no_number_from_0_to_1_is_told(
    diary: Diary, number: float
) -> None:
    scheduler = Scheduler(random=lambda: number)
    add(scheduler, diary, "failing", 1, restart=RestartPolicy())
    with pytest.raises(ValueError, match="source of randomness gave"):
        async with scheduler:
            await scheduler.start()
            await anyio.sleep(10)
    assert diary.hooks == ["up failing", "down failing"]


async def test_a_policy_may_have_a_task_wait_for_longer_than_there_are_dates(
    scheduler: Scheduler, diary: Diary
) -> None:
    forever = RestartPolicy(initial_delay=1e12, max_delay=1e12, jitter=0)
    task = add(scheduler, diary, "failing", 1, restart=forever)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(10)
        assert scheduler.status(task).state is TaskState.BACKING_OFF
        assert scheduler.status(task).waiting_for == "its restart"
        scheduler.health().model_dump_json()


@dataclass(frozen=True)
class FrozenError(Exception):
    """Refuses that anything is set on it, its traceback included."""

    what: str


async def test_an_error_that_refuses_all_changes_is_a_failure_like_any_other(
    scheduler: Scheduler, diary: Diary
) -> None:
    handled: list[int] = []

    @scheduler.on(NUMBERS, on_error="skip")
    async def handle(number: int) -> None:
        if number < 3:
            raise FrozenError("number")
        handled.append(number)

    @scheduler.background(restart=ONCE)
    async def failing() -> None:
        await anyio.sleep(1)
        raise FrozenError("work")

    @scheduler.every(1, on_error="skip")
    async def tick() -> None:
        raise FrozenError("tick")

    class Closing(Worker):
        async def shutdown(self) -> None:
            await super().shutdown()
            raise FrozenError("shutdown")

    add(scheduler, diary, "first")
    scheduler.register_background_task(Closing("closing", diary))
    with pytest.raises(TaskExecutionError, match="'failing' failed 2 times") as caught:
        async with scheduler:
            await scheduler.start()
            for number in range(5):
                await scheduler.publish(NUMBERS, number)
            await anyio.sleep(10)
    assert handled == [3, 4]
    (at_the_end,) = caught.value.shutdown_errors
    assert isinstance(at_the_end.__cause__, FrozenError)
    assert diary.hooks == ["up first", "up closing", "down closing", "down first"]


@pytest.mark.parametrize("words", ["started", "stopping because", "stopped in", "restarts in", ""])
async def test_a_log_filter_that_raises_ends_nothing(
    scheduler: Scheduler,
    diary: Diary,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    words: str,
) -> None:
    def broken(record: logging.LogRecord) -> bool:
        if words in record.getMessage():
            raise TroubleError("filter")
        return True

    caplog.set_level(logging.DEBUG, logger="orchestrio")
    caplog.handler.addFilter(broken)
    try:
        add(scheduler, diary, "first")
        add(scheduler, diary, "failing", 1, restart=SOON)
        with anyio.fail_after(100):
            async with scheduler:
                await scheduler.start()
                await anyio.sleep(10)
    finally:
        caplog.handler.removeFilter(broken)
    assert diary.hooks[-2:] == ["down failing", "down first"]
    assert diary.who("up").count("failing") == 2
    assert "TroubleError: filter" in capsys.readouterr().err


async def test_messages_that_no_other_run_will_handle_are_no_end_without_an_error(
    scheduler: Scheduler,
) -> None:
    @scheduler.on(NUMBERS, name="handler", restart=SOON)
    async def handle(number: int) -> None:
        await anyio.sleep(1)
        if number == 2:
            raise TroubleError("lost")

    @scheduler.background()
    async def publish() -> None:
        for number in range(5):
            await scheduler.publish(NUMBERS, number)

    with pytest.raises(TaskExecutionError, match="'handler' failed.*lost"):
        await scheduler.run()
    (shot,) = [shot for shot in scheduler.status() if shot.name == "handler"]
    assert (shot.handled, shot.failed, shot.unread) == (2, 1, 2)


async def test_a_task_and_a_group_of_one_name_are_told_apart_by_those_that_depend_on_it(
    scheduler: Scheduler, diary: Diary
) -> None:
    add(scheduler, diary, "storage")
    add(scheduler.group("storage"), diary, "inside", 1, restart=SOON)
    add(scheduler, diary, "web", depends_on=["storage"], restart_with_dependencies=True)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(10)
        assert diary.who("up") == ["storage", "inside", "web", "inside"], "the task is meant"
        await scheduler.restart_task(scheduler.registry.get_by_name("storage").task_id)
        await settle()
        assert diary.who("up")[4:] == ["storage", "web"]
