"""Groups: failures and restarts one after the other, amid each other, and all at once."""

from __future__ import annotations

import anyio
import pytest
from anyio import current_time
from support import NEVER, ONCE, SOON, TroubleError
from support.diary import Diary, Leisurely, Worker, add, every_hook_ran_in_its_turn

from orchestrio import (
    RestartPolicy,
    Scheduler,
    Strategy,
    TaskExecutionError,
    TaskState,
    current_task_context,
)


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
    for number in range(300):
        add(group, diary, f"task {number}", 1, restart=ONCE)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(10)
        shots = scheduler.status()
        assert {shot.restarts for shot in shots} == {1}
        assert {shot.state for shot in shots} == {TaskState.RUNNING}
    assert len(diary.who("up")) == len(diary.who("down")) == 600


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


async def test_two_restarts_that_wait_for_one_dependency_start_a_task_once(
    scheduler: Scheduler, diary: Diary
) -> None:
    add(scheduler, diary, "database", 1, restart=RestartPolicy(initial_delay=10, jitter=0))
    group = scheduler.group("group", strategy="one_for_all")
    web = add(group, diary, "web", depends_on=["database"])
    add(group, diary, "cache", 2, restart=SOON)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(5)  # since 3, the group waits for the database, which is back at 11
        assert diary.when("up", "cache") == [0], "it begins after web, which waits"
        await scheduler.restart_task(web)  # this takes web out of the restart of the group
        await anyio.sleep(100)
        assert diary.when("up", "web") == [0, 11]
        assert diary.when("up", "cache") == [0, 5], "web holds it up no more"
    assert every_hook_ran_in_its_turn(diary)


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
