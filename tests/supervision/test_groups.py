"""Groups: who is restarted with whom, where failures go, and what ends with what."""

from __future__ import annotations

import logging
import random

import anyio
import pytest
from anyio import current_time
from support import NUMBERS, SOON, TroubleError, settle
from support.diary import Diary, Leisurely, Worker, add

from orchestrio import (
    EventTask,
    Group,
    LifecycleError,
    RestartPolicy,
    Scheduler,
    Strategy,
    TaskExecutionError,
    TaskId,
    TaskShutdownError,
    TaskState,
    Topic,
    current_task_context,
)

ONCE = RestartPolicy(initial_delay=1, multiplier=1, jitter=0, max_restarts=1, within=1000)
NEVER = RestartPolicy(mode="never")


# -- who is restarted with whom ------------------------------------------------------------------------


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


# -- where failures go ---------------------------------------------------------------------------------


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
        "group 'outer' failed 2 times: max_restarts=1 within 1000 s allows no other restart."
        " The last time: group 'inner' failed 2 times: max_restarts=1 within 1000 s allows no"
        " other restart. The last time: task 'failing' failed 2 times: max_restarts=1 within"
        " 1000 s allows no other restart. The last time: task 'failing' failed: its execute()"
        " raised TroubleError: trouble of failing"
    )

    def history(error: BaseException, title: str) -> tuple[Exception, ...]:
        group = error.__cause__
        assert isinstance(group, ExceptionGroup)
        assert group.message == f"the failures of {title}, first to last"
        return group.exceptions

    for of_inner in history(error, "group 'outer'"):
        assert of_inner.__notes__ == ["It was too much for group 'outer'."]
        for of_task in history(of_inner, "group 'inner'"):
            assert of_task.__notes__ == ["It was too much for group 'inner'."]
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


# -- significant tasks ---------------------------------------------------------------------------------


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


# -- siblings that do not stop well --------------------------------------------------------------------


async def test_a_sibling_that_hangs_in_shutdown_is_cut_and_restarted(
    scheduler: Scheduler, diary: Diary, caplog: pytest.LogCaptureFixture
) -> None:
    class Hanging(Worker):
        async def shutdown(self) -> None:
            await super().shutdown()
            if len(self.diary.when("down", "hanging")) == 1:
                await anyio.sleep_forever()

    group = scheduler.group("group", strategy="one_for_all")
    add(group, diary, "a")
    group.register_background_task(Hanging("hanging", diary), name="hanging", shutdown_timeout=5)
    add(group, diary, "failing", 1, restart=SOON)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
        assert diary.when("down", "a") == [6], "its turn comes when the one before it was cut"
        assert diary.who("up") == ["a", "hanging", "failing"] * 2
        assert diary.when("up", "hanging") == [0, 6], "the back-off was over by then"
    assert "its shutdown() ran longer than shutdown_timeout (5 s)" in caplog.text


async def test_a_short_shutdown_timeout_holds_after_a_slow_shutdown_with_a_long_one(
    scheduler: Scheduler, diary: Diary
) -> None:
    class Slow(Worker):
        async def shutdown(self) -> None:
            await super().shutdown()
            if self.name == "hanging" and len(self.diary.when("down", "hanging")) == 1:
                await anyio.sleep_forever()
            await anyio.sleep(1)

    group = scheduler.group("group", strategy="one_for_all")
    group.register_background_task(Slow("hanging", diary), name="hanging", shutdown_timeout=2)
    slow = Slow("slow", diary, 1)
    group.register_background_task(slow, name="slow", shutdown_timeout=30, restart=SOON)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
        assert diary.when("up", "hanging") == [0, 4]


async def test_a_sibling_that_ignores_its_cancellation_ends_the_run(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group", strategy="one_for_all", restart=SOON)

    @group.background(stop_timeout=5)
    async def stubborn() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(100)

    add(group, diary, "failing", 1, restart=SOON)
    what = "task 'stubborn' cannot be restarted: it was cancelled, and does not end"
    with pytest.raises((TaskExecutionError, ExceptionGroup)) as caught:
        await scheduler.run()
    error = caught.value
    if isinstance(error, ExceptionGroup):
        assert caught.group_contains(TaskExecutionError, match=what)
    else:
        assert what in str(error)
    assert diary.who("up") == ["failing"]
    assert current_time() == 100


async def test_a_sibling_that_ends_late_but_in_time_is_restarted(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group", strategy="one_for_all")
    runs: list[tuple[int, float]] = []

    @group.background(stop_timeout=5)
    async def slow() -> None:
        runs.append((current_task_context().run, current_time()))
        with anyio.CancelScope(shield=True):
            await anyio.sleep(4)
        await anyio.sleep_forever()

    add(group, diary, "failing", 1, restart=SOON)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
    assert runs == [(1, 0), (2, 4)]
    assert diary.when("up", "failing") == [0, 4]


async def test_a_sibling_that_heeds_stopping_may_finish_what_it_does(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group", strategy="one_for_all")
    finished: list[float] = []

    @group.background()
    async def polite() -> None:
        await current_task_context().stopping.wait()
        await anyio.sleep(3)
        finished.append(current_time())

    add(group, diary, "failing", 1, restart=SOON)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(50)
        assert finished == [4]
        assert diary.when("up", "failing") == [0, 4]


# -- one after the other, and all at once --------------------------------------------------------------


async def test_others_of_a_group_crash_while_one_is_in_back_off(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group")
    patient = RestartPolicy(initial_delay=10, jitter=0)
    add(group, diary, "patient", 1, restart=patient)
    add(group, diary, "quick", 3, restart=SOON)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
        assert diary.when("up", "patient") == [0, 11]
        assert diary.when("up", "quick") == [0, 4]


async def test_a_task_in_back_off_comes_back_with_an_earlier_one_that_crashes(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group", strategy="rest_for_one")
    add(group, diary, "a", 3, restart=SOON)
    add(group, diary, "b")
    add(group, diary, "c", 1, restart=RestartPolicy(initial_delay=10, jitter=0))
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(2)
        diary.turn_the_page()
        await anyio.sleep(100)
        assert diary.hooks == ["down b", "down a", "up a", "up b", "up c"]
        assert diary.when("up", "c") == [4]


async def test_tasks_in_back_off_come_back_with_their_group(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group", restart=SOON)
    patient = RestartPolicy(initial_delay=50, max_delay=50, jitter=0)
    add(group, diary, "a", 1, restart=patient)
    add(group, diary, "b", 1, restart=patient)
    add(group, diary, "c", 3)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(200)
        assert diary.who("up") == ["a", "b", "c"] * 2
        assert diary.when("up", "a") == [0, 4]
        assert len(diary.who("down")) == 3
    assert len(diary.who("down")) == 6


async def test_a_group_that_is_stopped_takes_its_back_offs_along(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group", restart=NEVER)
    task = add(group, diary, "a", 1, restart=RestartPolicy(initial_delay=50, jitter=0))
    add(group, diary, "b", 3)
    add(scheduler, diary, "other")
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(200)
        assert diary.who("up") == ["a", "b", "other"]
        assert scheduler.status(task).state is TaskState.STOPPED


@pytest.mark.parametrize("strategy", ["one_for_one", "one_for_all"])
async def test_a_restart_by_hand_ends_a_back_off(
    scheduler: Scheduler, diary: Diary, strategy: Strategy
) -> None:
    group = scheduler.group("group", strategy=strategy)
    patient = RestartPolicy(initial_delay=50, jitter=0)
    task = add(group, diary, "a", 1, restart=patient)
    add(group, diary, "b")
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(5)
        await scheduler.restart_task(task)
        assert scheduler.status(task).state is TaskState.RUNNING
        await anyio.sleep(200)
        assert diary.when("up", "a") == [0, 5]
        assert diary.when("up", "b") == ([0] if strategy == "one_for_one" else [0, 51])


@pytest.mark.parametrize("how", ["stop", "remove"])
async def test_a_single_task_stopped_in_its_back_off_does_not_come_back(
    scheduler: Scheduler, diary: Diary, how: str
) -> None:
    group = scheduler.group("group")
    task = add(group, diary, "a", 1, restart=RestartPolicy(initial_delay=50, jitter=0))
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(5)
        await (scheduler.stop_task(task) if how == "stop" else scheduler.remove_task(task))
        with anyio.fail_after(100):
            await scheduler.run()
        assert current_time() == 5
        assert diary.hooks == ["up a", "down a"]


async def test_a_sibling_waits_in_line_when_its_back_off_is_over_first(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group", strategy="rest_for_one")
    add(group, diary, "a", 3, restart=RestartPolicy(initial_delay=10, jitter=0))
    add(group, diary, "b", 2.5, restart=SOON)  # would be back at 3.5
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
        assert diary.when("up", "a") == [0, 13]
        assert diary.when("up", "b") == [0, 13]


async def test_two_that_crash_at_the_same_moment_count_once(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group", strategy="one_for_all")
    for name in "abc":
        add(group, diary, name, 1, restart=ONCE)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
        assert diary.who("up") == ["a", "b", "c"] * 2
        assert diary.when("up", "c") == [0, 2]
        assert [shot.restarts for shot in scheduler.status()] == [1, 1, 1]


class Unsteady(Worker):
    """Cannot be initialised at some of its starts."""

    def __init__(self, name: str, diary: Diary, *bad: int, spans: tuple[float, ...] = ()) -> None:
        super().__init__(name, diary, *spans)
        self.bad = bad

    async def initialize(self) -> None:
        self.diary.note("try", self.name)
        if len(self.diary.when("try", self.name)) in self.bad:
            raise TroubleError("not now")
        await super().initialize()


async def test_an_initialize_that_fails_in_a_group_restart_is_another_failure(
    scheduler: Scheduler, diary: Diary
) -> None:
    growing = RestartPolicy(initial_delay=1, jitter=0, max_restarts=3)
    group = scheduler.group("group", strategy="one_for_all")
    add(group, diary, "a")
    unsteady = Unsteady("b", diary, 2, 3, spans=(1,))
    group.register_background_task(unsteady, name="b", restart=growing)
    add(group, diary, "c")
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
        assert diary.when("try", "b") == [0, 2, 4, 8], "the back-off goes on"
        assert diary.when("up", "a") == [0, 2, 4, 8]
        assert diary.when("up", "c")[-1] == 8
        assert all(shot.state is TaskState.RUNNING for shot in scheduler.status())


async def test_an_initialize_that_keeps_failing_in_restarts_ends_the_run(
    scheduler: Scheduler, diary: Diary
) -> None:
    policy = RestartPolicy(initial_delay=1, jitter=0, max_restarts=3)
    group = scheduler.group("group", strategy="one_for_all")
    add(group, diary, "a")
    unsteady = Unsteady("b", diary, *range(2, 100), spans=(1,))
    group.register_background_task(unsteady, name="b", restart=policy)
    with pytest.raises(TaskExecutionError, match="task 'b' failed 4 times.*not now"):
        await scheduler.run()
    assert diary.when("try", "b") == [0, 2, 4, 8]
    assert len(diary.who("up")) == len(diary.who("down"))


async def test_a_sibling_that_cannot_be_initialised_again_is_a_failure_of_the_group(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group", strategy="one_for_all", restart=SOON)
    group.register_background_task(Unsteady("a", diary, 2), name="a")
    add(group, diary, "failing", 1, restart=SOON)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
        assert diary.when("try", "a") == [0, 2, 3]
        assert all(shot.state is TaskState.RUNNING for shot in scheduler.status())


async def test_a_crash_storm_is_weathered(scheduler: Scheduler, diary: Diary) -> None:
    group = scheduler.group("group")
    for number in range(1000):
        add(group, diary, f"task {number}", 1, restart=ONCE)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(10)
        shots = scheduler.status()
        assert {shot.restarts for shot in shots} == {1}
        assert {shot.state for shot in shots} == {TaskState.RUNNING}
    assert len(diary.who("up")) == len(diary.who("down")) == 2000


async def test_a_crash_storm_in_one_for_all_is_one_restart(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group", strategy="one_for_all")
    names = [f"task {number}" for number in range(300)]
    for name in names:
        add(group, diary, name, 1, restart=ONCE)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(10)
        assert diary.who("up") == names * 2
        assert {shot.restarts for shot in scheduler.status()} == {1}


async def test_a_group_restart_that_meets_a_smaller_one_in_its_shutdown_takes_it_over(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group", strategy="rest_for_one")
    add(group, diary, "a", 2, restart=SOON)
    add(group, diary, "b", 1, restart=SOON)
    group.register_background_task(Leisurely("c", diary, end=5), name="c")
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(0.5)
        diary.turn_the_page()
        await anyio.sleep(100)
        assert diary.hooks == ["down c", "down b", "down a", "up a", "up b", "up c"]
        assert diary.when("up", "c") == [6]


async def test_a_group_restart_waits_for_the_shutdown_of_one_that_restarts_by_itself(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group", restart=SOON)
    slow = Leisurely("slow", diary, 1, end=5)
    group.register_background_task(slow, name="slow", restart=SOON)
    add(group, diary, "failing", 2)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(0.5)
        diary.turn_the_page()
        await anyio.sleep(100)
        assert sorted(diary.hooks[:2]) == ["down failing", "down slow"]
        assert diary.hooks[2:] == ["up slow", "up failing"]
        assert diary.when("up", "failing") == [6]


async def test_a_group_restart_that_meets_another_in_its_start_begins_again(
    scheduler: Scheduler, diary: Diary
) -> None:
    outer = scheduler.group("outer", strategy="one_for_all")
    inner = outer.group("inner", strategy="one_for_all")
    inner.register_background_task(Leisurely("a", diary, begin=5), name="a")
    add(inner, diary, "b", 1, restart=SOON)
    add(outer, diary, "c", 4, restart=SOON)
    async with scheduler:
        await scheduler.start()
        assert current_time() == 5
        diary.turn_the_page()
        # b fails at 6, so that a is initialised from 7 to 12; c fails at 9.
        await anyio.sleep(100)
        assert diary.when("up", "a") == [15]
        assert diary.hooks == ["down b", "down a", "down c", "up a", "up b", "up c"]


async def test_one_that_is_being_initialised_late_is_restarted_with_its_group(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group", strategy="one_for_all")
    add(group, diary, "failing", 5, restart=SOON)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(4)
        group.register_background_task(Leisurely("late", diary, begin=3), name="late")
        await anyio.sleep(100)
        assert diary.when("up", "late") == [9]
        assert all(shot.state is TaskState.RUNNING for shot in scheduler.status())


async def test_a_task_is_not_done_while_its_group_restarts(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group", strategy="one_for_all")
    task = add(group, diary, "a")
    add(group, diary, "b", 1, 1, 1, restart=SOON)
    async with scheduler:
        await scheduler.start()
        with anyio.move_on_after(100) as scope:
            await scheduler.wait_stopped(task)
        assert scope.cancelled_caught


def any_tree(diary: Diary, dice: random.Random) -> Scheduler:
    strategies: list[Strategy] = ["one_for_one", "one_for_all", "rest_for_one"]
    scheduler = Scheduler(strategy=dice.choice(strategies), random=dice.random)
    names: list[str] = []

    def fill(group: Group, depth: int) -> None:
        for _ in range(dice.randrange(1, 5)):
            if depth < 3 and dice.random() < 0.4:
                name = f"group {dice.random()}"
                fill(group.group(name, strategy=dice.choice(strategies), restart=SOON), depth + 1)
                continue
            name = f"task {len(names)}"
            spans = [dice.choice([0, 1, 2, 3, 5.5]) for _ in range(dice.randrange(4))]
            worker = Leisurely(
                name, diary, *spans, begin=dice.choice([0, 0, 2]), end=dice.choice([0, 0, 3])
            )
            group.register_background_task(
                worker,
                name=name,
                restart=SOON if depth == 0 else dice.choice([SOON, None]),
                depends_on=dice.sample(names, min(len(names), dice.randrange(2))),
                bind_to=dice.random() < 0.5,
            )
            names.append(name)

    fill(scheduler, 0)
    return scheduler


def every_hook_ran_in_its_turn(diary: Diary) -> bool:
    hooks: dict[str, list[str]] = {}
    for what, who, _ in diary.entries:
        if what in ("up", "down"):
            hooks.setdefault(who, []).append(what)
    return all(own == ["up", "down"] * (len(own) // 2) for own in hooks.values())


async def test_one_that_cannot_start_again_does_not_hold_up_those_after_it(
    scheduler: Scheduler, diary: Diary
) -> None:
    class Unsteady(Worker):
        async def initialize(self) -> None:
            await super().initialize()
            if current_task_context().run == 2:
                raise TroubleError("not now")

    group = scheduler.group("group", restart=SOON)
    add(group, diary, "a", 1)
    slow = RestartPolicy(initial_delay=30, jitter=0)
    group.register_background_task(Unsteady("b", diary), name="b", restart=slow)
    add(group, diary, "c")
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
        assert diary.when("up", "c") == [0, 2]
        assert diary.when("up", "b") == [0, 2, 32]


async def test_the_back_off_of_one_whose_group_was_stopped_does_not_hold_up_the_run(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group", restart=RestartPolicy(mode="never"))
    add(group, diary, "a", 1)
    add(group, diary, "b", 1, restart=RestartPolicy(initial_delay=50, max_delay=50, jitter=0))
    await scheduler.run()
    assert anyio.current_time() == 1


@pytest.mark.parametrize("seed", range(100))
async def test_any_tree_comes_to_rest_with_all_tasks_running(diary: Diary, seed: int) -> None:
    scheduler = any_tree(diary, random.Random(seed))
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(10_000)
        assert {shot.state for shot in scheduler.status()} == {TaskState.RUNNING}
        assert scheduler.health().ready
    assert every_hook_ran_in_its_turn(diary)


@pytest.mark.parametrize("seed", range(50))
async def test_any_tree_can_be_stopped_at_any_time(diary: Diary, seed: int) -> None:
    dice = random.Random(seed)
    scheduler = any_tree(diary, dice)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(dice.uniform(0, 20))
        with anyio.fail_after(3 * len(scheduler.registry) + 5):
            await scheduler.shutdown()
    assert {shot.state for shot in scheduler.status()} <= {TaskState.STOPPED, TaskState.FAILED}
    assert every_hook_ran_in_its_turn(diary)


@pytest.mark.parametrize("seed", range(50))
async def test_any_tree_obeys_orders_amid_its_restarts(diary: Diary, seed: int) -> None:
    dice = random.Random(seed)
    scheduler = any_tree(diary, dice)
    stopped: set[TaskId] = set()

    async def give_an_order(after: float, how: str, task: TaskId) -> None:
        await anyio.sleep(after)
        with anyio.fail_after(1000):
            if how == "restart":
                await scheduler.restart_task(task)
            elif how == "stop":
                await scheduler.stop_task(task)
            else:
                await scheduler.remove_task(task)

    async with scheduler:
        await scheduler.start()
        tasks = [shot.task_id for shot in scheduler.status()]
        async with anyio.create_task_group() as group:
            for task in dice.sample(tasks, min(len(tasks), 5)):
                how = dice.choice(["stop", "remove", "restart"])
                if how != "restart":
                    stopped.add(task)
                group.start_soon(give_an_order, dice.uniform(0, 15), how, task)
        await anyio.sleep(10_000)
        for shot in scheduler.status():
            if shot.task_id not in stopped:
                assert shot.state is TaskState.RUNNING
            else:
                assert shot.state in (TaskState.STOPPED, TaskState.FAILED)
    assert every_hook_ran_in_its_turn(diary)


# -- event tasks ---------------------------------------------------------------------------------------


class Slow(EventTask[int]):
    """Takes some seconds for each message."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.seen: list[tuple[int, int]] = []

    @property
    def subscribed_event(self) -> Topic[int]:
        return NUMBERS

    async def handle_event(self, event: int) -> None:
        await anyio.sleep(self.seconds)
        self.seen.append((current_task_context().run, event))


async def test_an_event_task_finishes_its_message_and_keeps_the_rest_over_a_group_restart(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group", strategy="one_for_all")
    slow = Slow(5)
    group.register_event_task(slow)
    add(group, diary, "failing", 1, restart=SOON)
    async with scheduler:
        await scheduler.start()
        for number in range(3):
            await scheduler.publish(NUMBERS, number)
        await anyio.sleep(100)
        assert slow.seen == [(1, 0), (2, 1), (2, 2)]
        assert diary.when("up", "failing") == [0, 5]


async def test_messages_published_in_a_back_off_are_handled_after_it(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group", strategy="one_for_all")
    slow = Slow(0)
    task = group.register_event_task(slow)
    patient = RestartPolicy(initial_delay=10, jitter=0)
    add(group, diary, "failing", 1, restart=patient)
    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 1)
        await anyio.sleep(5)
        assert scheduler.status(task).state is TaskState.BACKING_OFF
        assert await scheduler.publish(NUMBERS, 2) == 1, "it is still a receiver"
        assert scheduler.status(task).unread == 1
        await anyio.sleep(5.5)
        assert slow.seen == [(1, 1)]
        await anyio.sleep(5)
        assert slow.seen == [(1, 1), (2, 2)]


async def test_a_concurrent_event_task_keeps_its_messages_over_a_group_restart(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group", strategy="one_for_all")
    slow = Slow(5)
    group.register_event_task(slow, concurrency=2)
    add(group, diary, "failing", 1, restart=SOON)
    async with scheduler:
        await scheduler.start()
        for number in range(5):
            await scheduler.publish(NUMBERS, number)
        await anyio.sleep(100)
        assert sorted(event for _, event in slow.seen) == list(range(5)), "each of them once"
        runs = {event: run for run, event in slow.seen}
        assert (runs[0], runs[1], runs[3], runs[4]) == (1, 1, 2, 2)


# -- made late, removed, stopped -----------------------------------------------------------------------


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
        assert diary.who("work") == ["a", "b"]
        assert scheduler.status(task).group == "outer/late"
        await anyio.sleep(100)
        assert diary.who("up") == ["a", "b"] * 2


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


async def test_a_shutdown_that_fails_in_a_group_restart_is_logged_and_not_raised(
    scheduler: Scheduler, diary: Diary, caplog: pytest.LogCaptureFixture
) -> None:
    class Messy(Worker):
        async def shutdown(self) -> None:
            await super().shutdown()
            if len(self.diary.when("down", self.name)) == 1:
                raise TroubleError("messy")

    group = scheduler.group("group", strategy="one_for_all")
    group.register_background_task(Messy("messy", diary), name="messy")
    add(group, diary, "failing", 1, restart=SOON)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
        assert diary.who("up") == ["messy", "failing"] * 2
    (record,) = [
        record for record in caplog.records if "messy" in record.message and record.exc_info
    ]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], TaskShutdownError)
