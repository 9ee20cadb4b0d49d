"""Groups: what ends with a significant task or group."""

from __future__ import annotations

import anyio
import pytest
from support import NEVER, SOON, TroubleError
from support.diary import Diary, add

from orchestrio import RestartPolicy, Scheduler, TaskState


async def test_a_group_ends_with_its_significant_task(scheduler: Scheduler, diary: Diary) -> None:
    group = scheduler.group("group", restart=SOON)
    add(group, diary, "helper")

    @group.background(significant=True)
    async def main() -> None:
        await anyio.sleep(1)

    other = add(scheduler, diary, "other")
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
        states = [shot.state for shot in scheduler.status() if shot.group == "group"]
        assert states == [TaskState.STOPPED, TaskState.STOPPED]
        assert diary.when("down", "helper") == [1]
        assert scheduler.status(other).state is TaskState.RUNNING


async def test_a_group_ends_with_a_significant_group_inside(
    scheduler: Scheduler, diary: Diary
) -> None:
    outer = scheduler.group("outer")
    add(outer, diary, "helper")
    inner = outer.group("inner", significant=True)

    @inner.background(significant=True)
    async def main() -> None:
        await anyio.sleep(1)

    other = add(scheduler, diary, "other")
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
        assert diary.when("down", "helper") == [1]
        assert scheduler.status(other).state is TaskState.RUNNING


@pytest.mark.parametrize("fails", [False, True])
async def test_a_significant_group_inside_one_that_always_restarts_begins_anew_with_it(
    scheduler: Scheduler, diary: Diary, fails: bool
) -> None:
    always = RestartPolicy(mode="always", initial_delay=1, jitter=0, max_delay=1, max_restarts=None)
    outer = scheduler.group("outer", restart=always)
    add(outer, diary, "helper")
    middle = outer.group("middle", significant=True, restart=NEVER if fails else None)
    inner = middle.group("inner", significant=True)
    began: list[float] = []

    @inner.background(significant=True)
    async def main() -> None:
        began.append(anyio.current_time() - start)
        await anyio.sleep(10)
        if fails:
            raise TroubleError

    async with scheduler:
        start = anyio.current_time()
        await scheduler.start()
        await anyio.sleep(35)
        assert [round(at) for at in began] == [0, 11, 22, 33]
        assert len(diary.when("up", "helper")) == 4
        assert not any(group.ended for group in scheduler.groups.values())


async def test_an_end_that_is_not_significant_ends_nothing(
    scheduler: Scheduler, diary: Diary
) -> None:
    outer = scheduler.group("outer")
    helper = add(outer, diary, "helper")
    inner = outer.group("inner")

    @inner.background(significant=True)
    async def main() -> None: ...

    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
        assert scheduler.status(helper).state is TaskState.RUNNING


@pytest.mark.parametrize("nested", [False, True])
async def test_the_run_ends_well_with_what_is_significant_at_the_top(
    scheduler: Scheduler, diary: Diary, nested: bool
) -> None:
    group = scheduler.group("group", significant=True) if nested else scheduler

    @group.background(significant=True)
    async def main() -> None:
        await anyio.sleep(1)

    add(scheduler, diary, "other")
    with anyio.fail_after(100):
        await scheduler.run()
    assert diary.when("down", "other") == [1]


async def test_a_significant_task_that_fails_for_good_ends_its_group(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group")
    add(group, diary, "helper")
    add(group, diary, "main", 1, significant=True, restart=NEVER)
    other = add(scheduler, diary, "other")
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
        assert diary.when("down", "helper") == [1]
        assert scheduler.status(other).state is TaskState.RUNNING


async def test_a_significant_task_that_is_stopped_by_a_command_ends_nothing(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group")
    helper = add(group, diary, "helper")
    main = add(group, diary, "main", significant=True)
    async with scheduler:
        await scheduler.start()
        await scheduler.stop_task(main)
        await anyio.sleep(100)
        assert scheduler.status(helper).state is TaskState.RUNNING


async def test_a_significant_task_that_is_restarted_has_not_ended(
    scheduler: Scheduler, diary: Diary
) -> None:
    add(scheduler, diary, "main", 1, significant=True, restart=SOON)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
        assert diary.when("work", "main") == [0, 2]
        assert not diary.who("down")[1:]


async def test_a_significant_task_without_a_policy_is_a_failure_of_its_group(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group", restart=SOON)
    add(group, diary, "helper")
    add(group, diary, "main", 1, significant=True)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
        assert diary.when("up", "helper") == [0, 2]
