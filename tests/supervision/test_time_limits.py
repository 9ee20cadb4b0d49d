"""The time limits of a stop: each task has its own, from when it is asked, whoever asks."""

from __future__ import annotations

from typing import Final, Literal, get_args

import anyio
import pytest
from anyio import CancelScope, create_task_group, current_time
from support import NUMBERS, SOON, TroubleError, settle
from support.diary import Diary, add

from orchestrio import (
    BackgroundTask,
    Group,
    LifecycleError,
    Scheduler,
    TaskShutdownError,
    TaskSnapshot,
    TaskState,
    current_task_context,
)

#: Who asks for a stop.
Way = Literal["stop_task", "remove_task", "restart_task", "the group", "the scheduler", "the block"]

WAYS: Final[tuple[Way, ...]] = get_args(Way)


class Stage:
    """A scheduler with a group whose tasks are to be stopped, in one way or another."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.group: Group = scheduler.group("group")
        self.leader = anyio.Event()  # set for the group to end
        #: how and when that ended which a task did, by its name
        self.ends: dict[str, tuple[str, float]] = {}

        @scheduler.background(name="other")
        async def other() -> None:
            await anyio.sleep_forever()

        @self.group.background(name="leader", significant=True)
        async def leader() -> None:
            await self.leader.wait()

    async def work(self, name: str, seconds: float, *, listens: bool) -> None:
        """Take some seconds for something from 0 on, and note how it ends."""
        if listens:
            assert not current_task_context().stopping.is_set()
        try:
            await anyio.sleep(seconds)
        except anyio.get_cancelled_exc_class():
            self.ends.setdefault(name, ("cancelled", current_time()))
            raise
        self.ends.setdefault(name, ("finished", current_time()))

    async def stop(self, way: Way) -> None:
        """Stop the tasks of the group."""
        if way == "the group":
            self.leader.set()
            for task in self._of_group():
                await self.scheduler.wait_stopped(task.task_id)
        elif way == "the scheduler":
            await self.scheduler.shutdown()
        elif way != "the block":
            async with create_task_group() as group:
                for task in self._of_group():
                    if task.name != "leader":
                        group.start_soon(getattr(self.scheduler, way), task.task_id)

    def _of_group(self) -> list[TaskSnapshot]:
        return [task for task in self.scheduler.status() if task.group == "group"]


@pytest.fixture
def stage(scheduler: Scheduler) -> Stage:
    return Stage(scheduler)


# -- one task: in each way of stopping it, the same ------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize(
    ("listens", "seconds", "end"),
    [
        (False, 1.5, ("finished", 1.5)),  # within the drain
        (False, 4, ("cancelled", 2)),  # after it
        (True, 1.5, ("finished", 1.5)),
        (True, 4, ("finished", 4)),  # it is given time to end by itself
        (True, 40, ("cancelled", 5)),
    ],
)
@pytest.mark.parametrize("way", WAYS)
async def test_an_event_task_that_listens_has_its_stop_timeout_after_the_drain_whoever_stops_it(
    stage: Stage,
    way: Way,
    listens: bool,
    seconds: float,
    end: tuple[str, float],
    concurrency: int,
) -> None:
    @stage.group.on(NUMBERS, drain_timeout=2, stop_timeout=3, concurrency=concurrency)
    async def handle(number: int) -> None:
        await stage.work("handler", seconds, listens=listens)

    async with stage.scheduler:
        await stage.scheduler.start()
        await stage.scheduler.publish(NUMBERS, 1)
        await settle()
        await stage.stop(way)
    assert stage.ends == {"handler": end}
    assert current_time() == end[1]


@pytest.mark.parametrize(
    ("listens", "seconds", "end"),
    [
        (False, 40, ("cancelled", 0)),
        (True, 2, ("finished", 2)),
        (True, 40, ("cancelled", 3)),
    ],
)
@pytest.mark.parametrize("way", WAYS)
async def test_a_background_task_that_listens_has_its_stop_timeout_whoever_stops_it(
    stage: Stage, way: Way, listens: bool, seconds: float, end: tuple[str, float]
) -> None:
    @stage.group.background(stop_timeout=3)
    async def task() -> None:
        await stage.work("task", seconds, listens=listens)

    async with stage.scheduler:
        await stage.scheduler.start()
        await settle()
        await stage.stop(way)
    assert stage.ends == {"task": end}
    # A restart has begun another run, which is stopped in the end.
    assert current_time() == end[1] or way == "restart_task"


@pytest.mark.parametrize("way", WAYS)
async def test_an_event_task_hears_of_the_stop_when_its_drain_begins(
    stage: Stage, way: Way
) -> None:
    heard: list[float] = []
    handled: list[int] = []

    @stage.group.on(NUMBERS, drain_timeout=10, stop_timeout=3)
    async def handle(number: int) -> None:
        if number == 0:
            await current_task_context().stopping.wait()
            heard.append(current_time())
        await anyio.sleep(1)
        handled.append(number)

    async with stage.scheduler:
        await stage.scheduler.start()
        for number in range(4):
            await stage.scheduler.publish(NUMBERS, number)
        await anyio.sleep(1)
        await stage.stop(way)
    assert heard == [1]
    assert handled == [0, 1, 2, 3], "it goes on until all is handled"
    assert current_time() == 5


@pytest.mark.parametrize("listens", [False, True])
@pytest.mark.parametrize("concurrency", [1, 2])
async def test_a_restart_by_a_policy_lets_a_handler_finish_within_its_stop_timeout(
    stage: Stage, listens: bool, concurrency: int
) -> None:
    siblings = stage.scheduler.group("siblings", strategy="one_for_all")

    @siblings.on(NUMBERS, stop_timeout=3, concurrency=concurrency)
    async def handle(number: int) -> None:
        await stage.work(f"handler {number}", 3.5 if number == 0 else 40, listens=listens)

    @siblings.background(restart=SOON)
    async def failing() -> None:
        await anyio.sleep(1)
        if current_task_context().run == 1:
            raise TroubleError
        await anyio.sleep_forever()

    async with stage.scheduler:
        await stage.scheduler.start()
        await stage.scheduler.publish(NUMBERS, 0)
        if concurrency == 2:
            await stage.scheduler.publish(NUMBERS, 1)
        await anyio.sleep(10)
        assert stage.ends.pop("handler 0") == ("finished", 3.5)
        assert stage.ends == ({"handler 1": ("cancelled", 4)} if concurrency == 2 else {})


# -- several tasks: side by side -------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_a_task_is_cancelled_at_its_own_stop_timeout_whoever_else_is_waited_for(
    stage: Stage, way: Way
) -> None:
    for name, seconds, timeout in (("patient", 50, 60), ("short", 40, 1), ("middle", 40, 9)):

        @stage.group.background(name=name, stop_timeout=timeout)
        async def task(name: str = name, seconds: float = seconds) -> None:
            await stage.work(name, seconds, listens=True)

    async with stage.scheduler:
        await stage.scheduler.start()
        await settle()
        await stage.stop(way)
    assert stage.ends == {
        "short": ("cancelled", 1),
        "middle": ("cancelled", 9),
        "patient": ("finished", 50),
    }


@pytest.mark.parametrize("way", WAYS)
async def test_a_drain_ends_at_the_drain_timeout_of_each_task_whoever_else_is_waited_for(
    stage: Stage, way: Way
) -> None:
    for name, seconds, timeout in (("patient", 50, 60), ("short", 40, 1), ("middle", 40, 9)):

        @stage.group.on(NUMBERS, name=name, drain_timeout=timeout)
        async def handle(number: int, name: str = name, seconds: float = seconds) -> None:
            await stage.work(name, seconds, listens=False)

    async with stage.scheduler:
        await stage.scheduler.start()
        await stage.scheduler.publish(NUMBERS, 1)
        await settle()
        await stage.stop(way)
    assert stage.ends == {
        "short": ("cancelled", 1),
        "middle": ("cancelled", 9),
        "patient": ("finished", 50),
    }


@pytest.mark.parametrize("way", WAYS)
async def test_a_drain_and_the_time_to_end_after_it_are_those_of_each_task(
    stage: Stage, way: Way
) -> None:
    for name, drain, stop in (("quick", 1, 2), ("slow", 6, 7), ("third", 8, 1)):

        @stage.group.on(NUMBERS, name=name, drain_timeout=drain, stop_timeout=stop)
        async def handle(number: int, name: str = name) -> None:
            await stage.work(name, 40, listens=True)

    async with stage.scheduler:
        await stage.scheduler.start()
        await stage.scheduler.publish(NUMBERS, 1)
        await settle()
        await stage.stop(way)
    assert stage.ends == {
        "quick": ("cancelled", 3),
        "third": ("cancelled", 9),
        "slow": ("cancelled", 13),
    }


@pytest.mark.parametrize("way", ["the group", "the scheduler", "the block"])
async def test_the_drain_begins_for_all_when_the_last_producer_has_ended(
    stage: Stage, way: Way
) -> None:
    @stage.group.background(stop_timeout=5)
    async def producer() -> None:
        await stage.work("producer", 4, listens=True)

    for name, timeout in (("short", 1), ("patient", 20)):

        @stage.group.on(NUMBERS, name=name, drain_timeout=timeout)
        async def handle(number: int, name: str = name) -> None:
            await stage.work(name, 10, listens=False)

    async with stage.scheduler:
        await stage.scheduler.start()
        await stage.scheduler.publish(NUMBERS, 1)
        await settle()
        await stage.stop(way)
    assert stage.ends == {
        "producer": ("finished", 4),
        "short": ("cancelled", 5),
        "patient": ("finished", 10),
    }


@pytest.mark.parametrize("way", ["the group", "the scheduler"])
async def test_one_that_ignores_its_cancellation_costs_the_others_its_own_time_and_no_more(
    stage: Stage, way: Way
) -> None:
    @stage.group.background(stop_timeout=2)
    async def stubborn() -> None:
        with CancelScope(shield=True):
            await anyio.sleep(60)

    for name, timeout in (("short", 1), ("patient", 20)):

        @stage.group.background(name=name, stop_timeout=timeout)
        async def task(name: str = name) -> None:
            await stage.work(name, 10, listens=True)

    with pytest.raises(ExceptionGroup) as caught:
        async with stage.scheduler:
            await stage.scheduler.start()
            await settle()
            await stage.stop(way)
            # It is told of in the log, and in the end.
    assert caught.group_contains(TaskShutdownError, match="stop_timeout")
    assert stage.ends == {"short": ("cancelled", 1), "patient": ("finished", 10)}


async def test_stops_that_are_asked_one_after_the_other_have_their_times_from_then(
    stage: Stage,
) -> None:
    tasks = {}
    for name in ("first", "second", "third"):

        @stage.group.background(name=name, stop_timeout=5)
        async def task(name: str = name) -> None:
            await stage.work(name, 40, listens=True)

        tasks[name] = stage.scheduler.registry.get_by_name(name).task_id

    async def restart_in_vain() -> None:
        with pytest.raises(LifecycleError, match="was stopped while it was being restarted"):
            await stage.scheduler.restart_task(tasks["second"])

    async with create_task_group() as group, stage.scheduler:
        await stage.scheduler.start()
        await settle()
        group.start_soon(stage.scheduler.stop_task, tasks["first"])
        await anyio.sleep(1)
        group.start_soon(restart_in_vain)
        await anyio.sleep(1)
        group.start_soon(stage.scheduler.stop_task, tasks["second"])
        await anyio.sleep(1)
    assert stage.ends == {
        "first": ("cancelled", 5),
        "second": ("cancelled", 6),
        "third": ("cancelled", 8),
    }


class StuckAtTheStart(BackgroundTask):
    """Ignores its cancellation in one of its ``initialize()``, for a minute and a half."""

    def __init__(self, run: int) -> None:
        self.run = run

    async def initialize(self) -> None:
        if current_task_context().run == self.run:
            with CancelScope(shield=True):
                await anyio.sleep(90)

    async def execute(self) -> None:
        await anyio.sleep(1)
        raise TroubleError


async def test_one_that_is_stuck_in_its_start_holds_the_restart_of_its_group_up_no_more(
    scheduler: Scheduler,
) -> None:
    group = scheduler.group("group", strategy="one_for_all")
    stuck = group.register_background_task(
        StuckAtTheStart(2), name="stuck", restart=SOON, stop_timeout=2
    )

    @group.background(name="other")
    async def other() -> None:
        await anyio.sleep_forever()

    async with scheduler:
        await scheduler.start()
        await anyio.sleep(5)
        with pytest.raises(
            TaskShutdownError, match=r"its initialize\(\) went on for more than stop"
        ):
            await scheduler.stop_task(stuck)
        await settle()
        assert [shot.state for shot in scheduler.status()][1] is TaskState.RUNNING
        assert current_time() == 7


async def test_one_that_is_stuck_in_its_start_holds_the_start_up_no_more(
    scheduler: Scheduler,
) -> None:
    async def interrupt() -> None:
        await anyio.sleep(1)
        with pytest.raises(TaskShutdownError):
            await scheduler.remove_task(stuck)

    stuck = scheduler.register_background_task(StuckAtTheStart(1), stop_timeout=2)
    async with create_task_group() as group, scheduler:
        group.start_soon(interrupt)
        await scheduler.start()
        assert current_time() == 3


async def test_the_time_limit_of_a_start_counts_no_more_when_a_stop_is_under_way(
    scheduler: Scheduler,
) -> None:
    @scheduler.on(NUMBERS, name="slow", reports_ready=True)
    async def slow(number: int) -> None:
        await anyio.sleep(5)

    @scheduler.on(NUMBERS, name="dependant", depends_on=["slow"], start_timeout=2)
    async def dependant(number: int) -> None: ...

    async def start() -> None:
        with pytest.raises(LifecycleError, match="stopped while it was starting"):
            await scheduler.start()

    async with create_task_group() as group, scheduler:
        group.start_soon(start)
        await anyio.sleep(1)
        await scheduler.publish(NUMBERS, 1)
        await scheduler.shutdown()
    assert {shot.error for shot in scheduler.status()} == {None}


async def test_a_task_that_is_being_stopped_does_not_wait_for_one_that_shuts_down_after_it(
    scheduler: Scheduler, diary: Diary
) -> None:
    first = add(scheduler, diary, "first")

    @scheduler.on(NUMBERS)
    async def handle(number: int) -> None:
        await anyio.sleep(2)
        await scheduler.stop_task(first)
        diary.note("handled", "number")

    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 1)
        await anyio.sleep(1)
        await scheduler.shutdown()
        assert current_time() == 2
    assert diary.who("handled") == ["number"]
    assert diary.hooks[-1] == "down first"


@pytest.mark.parametrize("listens", [False, True])
@pytest.mark.parametrize("way", WAYS)
async def test_one_without_time_to_stop_has_the_time_that_its_task_groups_take_to_close(
    stage: Stage, way: Way, listens: bool
) -> None:
    async def nest(depth: int) -> None:
        async with create_task_group() as group:
            if depth:
                group.start_soon(nest, depth - 1)
            await anyio.sleep_forever()

    @stage.group.background(name="deep", stop_timeout=0)
    async def deep() -> None:
        if listens:
            assert current_task_context().stopping
        await nest(5)

    async with stage.scheduler:
        await stage.scheduler.start()
        await settle()
        await stage.stop(way)
    assert current_time() == 0, "and no more than that"
