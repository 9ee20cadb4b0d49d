"""What users give to the scheduler may raise as well, and whoever does so ends nobody else."""

from __future__ import annotations

import logging

import anyio
import pytest
from support import NUMBERS, ONCE, SOON, TroubleError, settle
from support.diary import Diary, add

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
