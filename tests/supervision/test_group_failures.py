"""Groups: where failures go, from a task to its group and all the way up."""

from __future__ import annotations

import logging

import anyio
import pytest
from support import NEVER, ONCE, SOON, TroubleError
from support.diary import Diary, add

from orchestrio import RestartPolicy, Scheduler, TaskExecutionError, TaskState


async def test_a_failure_too_many_is_one_of_the_group_which_restarts_as_a_whole(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group", restart=SOON)
    add(group, diary, "a")
    add(group, diary, "b", 1, 1, restart=ONCE)
    add(group, diary, "c")
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(2.5)
        assert diary.when("up", "b") == [0, 2], "the first time by itself"
        diary.turn_the_page()
        await anyio.sleep(100)
        assert diary.hooks == ["down c", "down b", "down a", "up a", "up b", "up c"]
        assert diary.when("up", "a") == [4]


async def test_after_the_restart_of_its_group_a_task_counts_afresh(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group", restart=ONCE)
    add(group, diary, "a")
    add(group, diary, "b", 1, 1, 1, restart=ONCE)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
        assert diary.who("up") == ["a", "b", "b", "a", "b", "b"]


async def test_a_group_without_a_policy_passes_a_failure_on(
    scheduler: Scheduler, diary: Diary
) -> None:
    outer = scheduler.group("outer", restart=SOON)
    add(outer, diary, "a")
    inner = outer.group("inner")
    add(inner, diary, "b", 1)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(0.5)
        diary.turn_the_page()
        await anyio.sleep(100)
        assert diary.hooks == ["down b", "down a", "up a", "up b"]


async def test_the_strategy_around_a_group_applies_when_it_restarts(
    scheduler: Scheduler, diary: Diary
) -> None:
    outer = scheduler.group("outer", strategy="rest_for_one")
    add(outer, diary, "before")
    inner = outer.group("inner", restart=SOON)
    add(outer, diary, "after")
    add(inner, diary, "a")
    add(inner, diary, "b", 1)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(0.5)
        diary.turn_the_page()
        await anyio.sleep(100)
        assert diary.hooks == ["down after", "down b", "down a", "up a", "up b", "up after"]


async def test_what_no_policy_deals_with_ends_the_run(scheduler: Scheduler, diary: Diary) -> None:
    add(scheduler.group("outer").group("inner"), diary, "failing", 1)
    add(scheduler, diary, "other")
    with pytest.raises(TaskExecutionError, match="task 'failing' failed: .*trouble") as caught:
        await scheduler.run()
    assert caught.value.task_name == "failing"
    assert caught.value.__notes__ == [
        "It was too much for group 'inner'.",
        "It was too much for group 'outer'.",
    ]
    assert sorted(diary.who("down")) == ["failing", "other"]


async def test_a_failure_that_goes_all_the_way_up_carries_its_history(
    scheduler: Scheduler, diary: Diary
) -> None:
    outer = scheduler.group("outer", restart=ONCE)
    inner = outer.group("inner", restart=ONCE)
    # Two runs of the task for each of the inner group, and two of that for each of the outer one.
    add(inner, diary, "failing", *[1] * 8, restart=ONCE)
    with pytest.raises(TaskExecutionError) as caught:
        await scheduler.run()
    assert len(diary.who("fail")) == 8
    error = caught.value
    assert error.task_name == "failing"
    assert str(error) == (
        "group 'outer' failed 2 times: max_restarts=1 within 16 min 40 s allows no other restart."
        " The last time: group 'inner' failed 2 times: max_restarts=1 within 16 min 40 s allows no"
        " other restart. The last time: task 'failing' failed 2 times: max_restarts=1 within"
        " 16 min 40 s allows no other restart. The last time: task 'failing' failed: its execute()"
        " raised TroubleError: trouble of failing"
    )

    def history(error: BaseException, title: str) -> tuple[Exception, ...]:
        group = error.__cause__
        assert isinstance(group, ExceptionGroup)
        assert group.message == f"the failures of {title}, first to last"
        return group.exceptions

    for of_inner in history(error, "group 'outer'"):
        assert of_inner.__notes__[0] == "It was too much for group 'outer'."
        for of_task in history(of_inner, "group 'inner'"):
            assert of_task.__notes__[0] == "It was too much for group 'inner'."
            for failure in history(of_task, "task 'failing'"):
                assert isinstance(failure.__cause__, TroubleError)


async def test_a_task_of_mode_never_fails_alone(
    scheduler: Scheduler, diary: Diary, caplog: pytest.LogCaptureFixture
) -> None:
    group = scheduler.group("group", strategy="one_for_all", restart=SOON)
    other = add(group, diary, "other")
    add(group, diary, "failing", 1, restart=NEVER)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
        assert scheduler.status(other).state is TaskState.RUNNING
    assert diary.who("up") == ["other", "failing"]
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "task 'failing' stopped, the others go on: task 'failing' failed" in record.message
    assert record.exc_info is not None


async def test_a_group_of_mode_never_is_stopped_and_the_others_go_on(
    scheduler: Scheduler, diary: Diary, caplog: pytest.LogCaptureFixture
) -> None:
    group = scheduler.group("group", restart=NEVER)
    tasks = [
        add(group, diary, "a"),
        add(group, diary, "b", 1),
        add(group.group("nested"), diary, "c"),
    ]
    other = add(scheduler, diary, "other")
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(0.5)
        diary.turn_the_page()
        await anyio.sleep(100)
        assert diary.hooks == ["down c", "down b", "down a"]
        assert [scheduler.status(task).state for task in tasks] == [
            TaskState.STOPPED,
            TaskState.FAILED,
            TaskState.STOPPED,
        ]
        assert scheduler.status(other).state is TaskState.RUNNING
    assert "group 'group' stopped, the others go on" in caplog.text


async def test_a_group_of_mode_always_is_restarted_after_a_failure(
    scheduler: Scheduler, diary: Diary
) -> None:
    always = RestartPolicy(mode="always", initial_delay=1, jitter=0)
    add(scheduler.group("group", restart=always), diary, "a", 1)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
        assert diary.when("up", "a") == [0, 2]
