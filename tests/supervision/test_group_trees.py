"""Groups: any tree of them, with any failures, any orders and a stop at any time."""

from __future__ import annotations

import random

import anyio
import pytest
from support import SOON
from support.diary import Diary, Leisurely, every_hook_ran_in_its_turn

from orchestrio import Group, Scheduler, Strategy, TaskId, TaskState


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
                restart_with_dependencies=dice.random() < 0.5,
            )
            names.append(name)

    fill(scheduler, 0)
    return scheduler


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
