"""Groups: made late, their tasks removed, stopped and added, at any moment."""

from __future__ import annotations

import anyio
import pytest
from anyio import current_time
from support import SOON, settle
from support.diary import Diary, Leisurely, Worker, add

from orchestrio import LifecycleError, RestartPolicy, Scheduler, TaskState


async def test_the_name_of_a_group_is_unique_in_its_scheduler(scheduler: Scheduler) -> None:
    scheduler.group("outer").group("inner")
    with pytest.raises(LifecycleError, match="a group named 'inner' exists already"):
        scheduler.group("inner")


async def test_a_group_can_be_made_and_filled_after_the_start(
    scheduler: Scheduler, diary: Diary
) -> None:
    async with scheduler:
        await scheduler.start()
        group = scheduler.group("outer").group("late", strategy="one_for_all")
        task = add(group, diary, "a")
        add(group, diary, "b", 1, restart=SOON)
        await settle()
        assert sorted(diary.who("work")) == ["a", "b"], "on trio, either may be the first"
        assert scheduler.status(task).group == "outer/late"
        diary.turn_the_page()
        await anyio.sleep(100)
        assert diary.hooks == ["down b", "down a", "up a", "up b"]


async def test_a_stopped_scheduler_takes_no_groups(scheduler: Scheduler) -> None:
    async with scheduler:
        await scheduler.start()
    with pytest.raises(LifecycleError, match="it takes no new groups"):
        scheduler.group("late")


@pytest.mark.parametrize("how", ["stop", "remove"])
async def test_a_task_stopped_in_a_back_off_does_not_come_back_but_the_others_do(
    scheduler: Scheduler, diary: Diary, how: str
) -> None:
    group = scheduler.group("group", strategy="one_for_all")
    add(group, diary, "a")
    task = add(group, diary, "b", 1, restart=SOON)
    add(group, diary, "c")
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(1.5)
        await (scheduler.stop_task(task) if how == "stop" else scheduler.remove_task(task))
        assert current_time() == 1.5, "there is nothing to wait for"
        await anyio.sleep(100)
        assert diary.who("up") == ["a", "b", "c", "a", "c"]
        assert diary.when("up", "c") == [0, 2]
        names = [(shot.name, shot.state.value) for shot in scheduler.status()]
        stopped = [("b", "stopped")] if how == "stop" else []
        assert names == [("a", "running"), *stopped, ("c", "running")]


async def test_run_ends_when_all_of_a_group_are_stopped_in_its_back_off(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group", strategy="one_for_all")
    tasks = [add(group, diary, "a"), add(group, diary, "b", 1, restart=SOON)]
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(1.5)
        for task in tasks:
            await scheduler.remove_task(task)
        with anyio.fail_after(100):
            await scheduler.run()
        assert diary.who("up") == ["a", "b"]


async def test_a_task_that_is_just_being_stopped_by_hand_does_not_come_back_with_its_group(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group", strategy="one_for_all")
    slow = Leisurely("slow", diary, end=5)
    task = group.register_background_task(slow, name="slow")
    add(group, diary, "failing", 3, restart=SOON)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(1)
        with anyio.fail_after(50):
            await scheduler.stop_task(task)  # until 6
        await anyio.sleep(100)
        assert scheduler.status(task).state is TaskState.STOPPED
        assert diary.who("up") == ["slow", "failing", "failing"]


async def test_a_task_that_joins_in_a_back_off_starts_at_once(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group", strategy="one_for_all")
    add(group, diary, "a", 1, restart=RestartPolicy(initial_delay=10, jitter=0))
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(5)
        add(group, diary, "b")
        await settle()
        assert diary.when("work", "b") == [5]
        await anyio.sleep(100)
        assert diary.who("up") == ["a", "b", "a"]


@pytest.mark.parametrize("at", [1.5, 3, 6, 8.5, 20])
async def test_a_shutdown_in_any_phase_of_a_group_restart_leaves_nothing_open(
    scheduler: Scheduler, diary: Diary, at: float
) -> None:
    class Lengthy(Worker):
        async def initialize(self) -> None:
            await super().initialize()
            if self.diary.who("fail"):
                await anyio.sleep(2)

        async def shutdown(self) -> None:
            if len(self.diary.when("up", self.name)) == 1:
                await anyio.sleep(1)
            await super().shutdown()

    group = scheduler.group("group", strategy="one_for_all")
    patient = RestartPolicy(initial_delay=4, jitter=0)
    for name in "abc":
        worker = Lengthy(name, diary, *([1] if name == "b" else []))
        group.register_background_task(worker, name=name, restart=patient)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(at)
        with anyio.fail_after(4):
            await scheduler.shutdown()
    assert {shot.state for shot in scheduler.status()} <= {TaskState.STOPPED, TaskState.FAILED}
    if at in (6, 8.5):  # one was cancelled in its initialize()
        assert len(diary.who("up")) == len(diary.who("down")) + 1
    else:
        assert len(diary.who("up")) == len(diary.who("down"))
