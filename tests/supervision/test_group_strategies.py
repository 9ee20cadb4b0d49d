"""Groups: who is restarted with whom, in which order, and who is left alone."""

from __future__ import annotations

import anyio
import pytest
from support import NEVER, SOON
from support.diary import Diary, add

from orchestrio import Scheduler, Strategy, TaskState, current_task_context


@pytest.mark.parametrize(
    ("strategy", "hooks"),
    [
        ("one_for_one", ["down b", "up b"]),
        ("rest_for_one", ["down c", "down b", "up b", "up c"]),
        ("one_for_all", ["down c", "down b", "down a", "up a", "up b", "up c"]),
    ],
)
@pytest.mark.parametrize("at_the_top", [False, True])
async def test_a_strategy_says_who_is_stopped_in_reverse_and_started_in_order(
    strategy: Strategy, hooks: list[str], at_the_top: bool, diary: Diary
) -> None:
    scheduler = Scheduler(strategy=strategy if at_the_top else "one_for_one")
    group = scheduler if at_the_top else scheduler.group("group", strategy=strategy)
    for name in "abc":
        add(group, diary, name, *([10] if name == "b" else []), restart=SOON)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(5)
        diary.turn_the_page()
        await anyio.sleep(100)
        assert diary.hooks == hooks
        assert diary.when("down", "b") == [10], "at once"
        assert diary.when("up", "b") == [11], "after the delay"


async def test_a_group_is_restarted_in_the_order_of_its_start(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group", strategy="one_for_all")
    add(group, diary, "b", depends_on=["a"])
    add(group, diary, "a")
    add(group, diary, "c", 1, restart=SOON)
    async with scheduler:
        await scheduler.start()
        assert diary.hooks == ["up a", "up b", "up c"]
        diary.turn_the_page()
        await anyio.sleep(100)
        assert diary.hooks == ["down c", "down b", "down a", "up a", "up b", "up c"]


async def test_tasks_outside_a_group_are_not_restarted_with_it(
    scheduler: Scheduler, diary: Diary
) -> None:
    add(scheduler, diary, "before")
    group = scheduler.group("group", strategy="one_for_all")
    add(scheduler, diary, "after")
    add(group, diary, "a", 1, restart=SOON)
    add(group, diary, "b")
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
        assert sorted(diary.who("up")) == ["a", "a", "after", "b", "b", "before"]


async def test_rest_for_one_goes_by_the_places_of_nested_groups(diary: Diary) -> None:
    scheduler = Scheduler(strategy="rest_for_one")
    first = scheduler.group("first")
    add(scheduler, diary, "b", 1, restart=SOON)
    last = scheduler.group("last")
    add(last, diary, "c")
    add(first, diary, "a")
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(0.5)
        diary.turn_the_page()
        await anyio.sleep(100)
        assert diary.hooks == ["down c", "down b", "up b", "up c"]


async def test_a_failure_deep_inside_is_dealt_with_there(
    scheduler: Scheduler, diary: Diary
) -> None:
    outer = scheduler.group("outer", strategy="one_for_all", restart=SOON)
    add(outer, diary, "a")
    inner = outer.group("inner")
    add(inner, diary, "b", 1, restart=SOON)
    add(inner, diary, "c")
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(0.5)
        diary.turn_the_page()
        await anyio.sleep(100)
        assert diary.hooks == ["down b", "up b"]


async def test_one_for_all_includes_the_groups_inside(scheduler: Scheduler, diary: Diary) -> None:
    outer = scheduler.group("outer", strategy="one_for_all")
    inner = outer.group("inner")
    add(outer, diary, "c", 1, restart=SOON)
    add(inner, diary, "a")
    add(inner, diary, "b")
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(0.5)
        diary.turn_the_page()
        await anyio.sleep(100)
        assert diary.hooks == ["down c", "down b", "down a", "up a", "up b", "up c"]


async def test_tasks_start_in_the_order_of_the_tree(scheduler: Scheduler, diary: Diary) -> None:
    first = scheduler.group("first")
    nested = first.group("nested")
    add(scheduler, diary, "third")
    last = scheduler.group("last")
    add(scheduler, diary, "fifth")
    add(last, diary, "fourth")
    add(first, diary, "second")
    add(nested, diary, "first")
    async with scheduler:
        await scheduler.start()
    names = ["first", "second", "third", "fourth", "fifth"]
    assert diary.who("up") == names
    assert diary.who("down") == names[::-1]


async def test_a_sibling_of_mode_never_is_stopped_and_not_started_again(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group", strategy="one_for_all")
    temporary = add(group, diary, "temporary", restart=NEVER)
    add(group, diary, "failing", 1, restart=SOON)
    async with scheduler:
        await scheduler.start()
        with anyio.fail_after(50):
            shot = await scheduler.wait_stopped(temporary)
        await anyio.sleep(50)
        assert (shot.name, scheduler.status(temporary).state) == ("temporary", TaskState.STOPPED)
        assert diary.who("up") == ["temporary", "failing", "failing"]
        assert diary.who("down") == ["failing", "temporary"]


async def test_a_sibling_that_has_completed_is_started_again(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group", strategy="one_for_all")
    runs: list[int] = []

    @group.background()
    async def job() -> None:
        runs.append(current_task_context().run)

    add(group, diary, "failing", 1, restart=SOON)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
    assert runs == [1, 2]


async def test_a_task_stopped_by_hand_stays_stopped_when_its_group_restarts(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group", strategy="one_for_all")
    stopped = add(group, diary, "stopped")
    add(group, diary, "failing", 1, restart=SOON)
    async with scheduler:
        await scheduler.start()
        await scheduler.stop_task(stopped)
        await anyio.sleep(100)
        assert scheduler.status(stopped).state is TaskState.STOPPED
        assert diary.who("up") == ["stopped", "failing", "failing"]


async def test_a_task_that_was_left_alone_stays_down_when_its_group_restarts(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group", strategy="one_for_all")
    add(group, diary, "dead", 1, restart=NEVER)
    add(group, diary, "failing", 5, restart=SOON)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
        assert diary.who("up") == ["dead", "failing", "failing"]


async def test_a_task_restarted_by_hand_does_not_take_its_group_along(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group", strategy="one_for_all")
    add(group, diary, "a")
    task = add(group, diary, "b")
    async with scheduler:
        await scheduler.start()
        await scheduler.restart_task(task)
        assert diary.who("up") == ["a", "b", "b"]
