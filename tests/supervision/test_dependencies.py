"""What ``depends_on`` says: order, waiting until ready, and who is concerned by a restart."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest
from anyio import current_time
from support import SOON, TroubleError, settle
from support.diary import Diary, Leisurely, Worker, add
from typing_extensions import Unpack

from orchestrio import (
    BackgroundOptions,
    BackgroundTask,
    Group,
    LifecycleError,
    RestartPolicy,
    Scheduler,
    TaskExecutionError,
    TaskId,
    TaskInitializationError,
    TaskState,
    current_task_context,
)

# -- order ---------------------------------------------------------------------------------------------


async def test_a_task_starts_after_a_whole_group_that_it_depends_on(
    scheduler: Scheduler, diary: Diary
) -> None:
    add(scheduler, diary, "web", depends_on=["storage"])
    add(scheduler, diary, "other")
    storage = scheduler.group("storage")
    add(storage, diary, "database")
    add(storage.group("inner"), diary, "cache")
    async with scheduler:
        await scheduler.start()
    names = ["other", "database", "cache", "web"]
    assert diary.hooks == [f"up {name}" for name in names] + [
        f"down {name}" for name in names[::-1]
    ]


async def test_a_task_in_a_group_may_depend_on_one_in_another(
    scheduler: Scheduler, diary: Diary
) -> None:
    front = scheduler.group("front")
    back = scheduler.group("back")
    add(front, diary, "web", depends_on=["database"])
    add(back, diary, "database")
    async with scheduler:
        await scheduler.start()
        assert diary.hooks == ["up database", "up web"]


async def test_a_task_is_meant_where_a_group_has_the_same_name(
    scheduler: Scheduler, diary: Diary
) -> None:
    add(scheduler, diary, "web", depends_on=["storage"])
    add(scheduler.group("storage"), diary, "inside")
    add(scheduler, diary, "storage")
    async with scheduler:
        await scheduler.start()
        assert diary.hooks == ["up inside", "up storage", "up web"]
        # Of two orders that are possible, the one that shows what was depended on:
    other = Scheduler()
    diary.turn_the_page()
    group = other.group("storage")
    add(other, diary, "storage")
    add(other, diary, "web", depends_on=["storage"])
    add(group, diary, "inside", depends_on=["web"])
    async with other:
        await other.start()
        assert diary.hooks == ["up storage", "up web", "up inside"], "and there is no circle"


async def test_a_dependency_that_is_neither_task_nor_group_is_an_error(
    scheduler: Scheduler, diary: Diary
) -> None:
    add(scheduler, diary, "first")
    add(scheduler.group("front"), diary, "web", depends_on=["storage"])
    async with scheduler:
        with pytest.raises(LifecycleError, match="'web' depends on 'storage', but no group has"):
            await scheduler.start()
    assert diary.entries == []


async def test_a_circle_through_a_group_is_an_error(scheduler: Scheduler, diary: Diary) -> None:
    add(scheduler, diary, "web", depends_on=["storage"])
    add(scheduler.group("storage"), diary, "database", depends_on=["web"])
    async with scheduler:
        with pytest.raises(LifecycleError, match="circle: .*'web'.*"):
            await scheduler.start()
    assert diary.entries == []


async def test_a_task_that_depends_on_its_own_group_is_an_error(
    scheduler: Scheduler, diary: Diary
) -> None:
    add(scheduler.group("storage"), diary, "database", depends_on=["storage"])
    async with scheduler:
        with pytest.raises(LifecycleError, match="'database' depends on group 'storage', which it"):
            await scheduler.start()
    assert diary.entries == []


async def test_a_late_task_that_depends_on_a_group_around_it_is_an_error(
    scheduler: Scheduler, diary: Diary
) -> None:
    async with scheduler:
        await scheduler.start()
        inner = scheduler.group("storage").group("inner")
        with pytest.raises(LifecycleError, match="'database' depends on group 'storage', which it"):
            add(inner, diary, "database", depends_on=["storage"])
        assert scheduler.status() == []


async def test_a_task_that_depends_on_itself_is_an_error_also_after_the_start(
    scheduler: Scheduler, diary: Diary
) -> None:
    async with scheduler:
        await scheduler.start()
        with pytest.raises(LifecycleError, match="circle: 'web' -> 'web'"):
            add(scheduler, diary, "web", depends_on=["web"])
        add(scheduler, diary, "web")
        await anyio.sleep(1)
    assert diary.hooks == ["up web", "down web"]


async def test_an_unknown_dependency_after_the_start_is_an_error_and_registers_nothing(
    scheduler: Scheduler, diary: Diary
) -> None:
    async with scheduler:
        await scheduler.start()
        with pytest.raises(
            LifecycleError, match="'web' depends on 'storage', but no .* no task named"
        ):
            add(scheduler, diary, "web", depends_on=["storage"])
        assert scheduler.status() == []
        scheduler.group("storage")
        add(scheduler, diary, "web", depends_on=["storage"])
        await settle()
        assert diary.when("work", "web") == [0], "a group without tasks does not hold it up"


# -- restart_with_dependencies ----------------------------------------------------------------


async def test_a_task_that_asks_for_it_is_restarted_with_its_dependency(
    scheduler: Scheduler, diary: Diary
) -> None:
    add(scheduler, diary, "web", depends_on=["database"], restart_with_dependencies=True)
    add(scheduler, diary, "database", 1, restart=SOON)
    add(scheduler, diary, "other", depends_on=["database"])
    async with scheduler:
        await scheduler.start()
        diary.turn_the_page()
        await anyio.sleep(100)
        assert diary.hooks == ["down web", "down database", "up database", "up web"]
        assert diary.when("up", "web") == [2]


async def test_restarts_reach_the_dependants_of_dependants_and_keep_the_order(
    scheduler: Scheduler, diary: Diary
) -> None:
    add(scheduler, diary, "c", depends_on=["b"], restart_with_dependencies=True)
    add(scheduler, diary, "b", depends_on=["a"], restart_with_dependencies=True)
    add(scheduler, diary, "a", 1, restart=SOON)
    async with scheduler:
        await scheduler.start()
        diary.turn_the_page()
        await anyio.sleep(100)
        assert diary.hooks == ["down c", "down b", "down a", "up a", "up b", "up c"]


async def test_a_restart_goes_no_further_than_one_that_does_not_ask_for_it(
    scheduler: Scheduler, diary: Diary
) -> None:
    add(scheduler, diary, "a", 1, restart=SOON)
    add(scheduler, diary, "b", depends_on=["a"])
    add(scheduler, diary, "c", depends_on=["b"], restart_with_dependencies=True)
    async with scheduler:
        await scheduler.start()
        diary.turn_the_page()
        await anyio.sleep(100)
        assert diary.hooks == ["down a", "up a"]


async def test_a_dependency_is_not_restarted_with_its_dependant(
    scheduler: Scheduler, diary: Diary
) -> None:
    add(scheduler, diary, "database")
    add(
        scheduler,
        diary,
        "web",
        1,
        depends_on=["database"],
        restart_with_dependencies=True,
        restart=SOON,
    )
    async with scheduler:
        await scheduler.start()
        diary.turn_the_page()
        await anyio.sleep(100)
        assert diary.hooks == ["down web", "up web"]


async def test_a_dependant_is_restarted_with_one_that_is_restarted_by_hand(
    scheduler: Scheduler, diary: Diary
) -> None:
    database = add(scheduler, diary, "database")
    add(scheduler, diary, "web", depends_on=["database"], restart_with_dependencies=True)
    async with scheduler:
        await scheduler.start()
        diary.turn_the_page()
        await scheduler.restart_task(database)
        await settle()
        assert diary.hooks == ["down web", "down database", "up database", "up web"]


async def test_a_dependency_on_a_group_is_one_on_each_of_its_tasks(
    scheduler: Scheduler, diary: Diary
) -> None:
    storage = scheduler.group("storage")
    add(storage, diary, "database")
    add(storage.group("inner"), diary, "cache", 1, restart=SOON)
    add(scheduler, diary, "web", depends_on=["storage"], restart_with_dependencies=True)
    async with scheduler:
        await scheduler.start()
        diary.turn_the_page()
        await anyio.sleep(100)
        assert diary.hooks == ["down web", "down cache", "up cache", "up web"]


async def test_a_restart_by_a_strategy_reaches_dependants(
    scheduler: Scheduler, diary: Diary
) -> None:
    storage = scheduler.group("storage", strategy="one_for_all")
    add(storage, diary, "database")
    add(storage, diary, "cache", 1, restart=SOON)
    add(scheduler, diary, "web", depends_on=["database"], restart_with_dependencies=True)
    async with scheduler:
        await scheduler.start()
        diary.turn_the_page()
        await anyio.sleep(100)
        assert diary.hooks == [
            *("down web", "down cache", "down database"),
            *("up database", "up cache", "up web"),
        ]


async def test_two_dependencies_that_fail_one_after_the_other_wait_for_what_depends_on_both(
    scheduler: Scheduler, diary: Diary
) -> None:
    add(scheduler, diary, "a", 1, restart=SOON)
    add(scheduler, diary, "b", 2, restart=SOON)
    slow = Leisurely("c", diary, end=5)
    scheduler.register_background_task(
        slow, name="c", depends_on=["a", "b"], restart_with_dependencies=True
    )
    async with scheduler:
        await scheduler.start()
        diary.turn_the_page()
        await anyio.sleep(100)
        assert [shot.state for shot in scheduler.status()] == [TaskState.RUNNING] * 3
        assert diary.hooks[0] == "down c"
        assert diary.hooks[-1] == "up c"
        assert sorted(diary.hooks[1:-1]) == ["down a", "down b", "up a", "up b"]
        assert diary.when("up", "c") == [6]


async def test_a_dependant_that_was_stopped_stays_so(scheduler: Scheduler, diary: Diary) -> None:
    add(scheduler, diary, "database", 1, restart=SOON)
    web = add(scheduler, diary, "web", depends_on=["database"], restart_with_dependencies=True)
    async with scheduler:
        await scheduler.start()
        await scheduler.stop_task(web)
        diary.turn_the_page()
        await anyio.sleep(100)
        assert diary.hooks == ["down database", "up database"]


# -- hearing of restarts -------------------------------------------------------------------------------


Heard = list[tuple[str, float]]


def listener(heard: Heard) -> Callable[[], Awaitable[None]]:
    async def listen() -> None:
        while True:
            name = await current_task_context().dependency_restarted()
            heard.append((name, current_time()))

    return listen


async def test_a_task_hears_when_one_it_depends_on_is_back(
    scheduler: Scheduler, diary: Diary
) -> None:
    add(scheduler, diary, "database", 1, restart=SOON)
    add(scheduler, diary, "cache", 5, restart=SOON)
    add(scheduler, diary, "other", 1, restart=SOON)
    heard: Heard = []
    scheduler.background(depends_on=["database", "cache"])(listener(heard))
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
    assert heard == [("database", 2), ("cache", 6)]


async def test_a_task_hears_of_a_dependency_when_that_works(
    scheduler: Scheduler, diary: Diary
) -> None:
    class SlowAgain(Worker):
        async def initialize(self) -> None:
            await super().initialize()
            if not self.spans:
                await anyio.sleep(10)

    heard: Heard = []
    slow = SlowAgain("database", diary, 1)
    scheduler.register_background_task(slow, name="database", restart=SOON)
    scheduler.background(depends_on=["database"])(listener(heard))
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
    assert heard == [("database", 12)]


class Ready(BackgroundTask):
    """Works for a second, or for ever, and is ready some time after its work began."""

    def __init__(self, *waits: float | None) -> None:
        self.waits = waits

    async def execute(self) -> None:
        context = current_task_context()
        wait = self.waits[context.run - 1]
        if wait is not None:
            await anyio.sleep(wait)
            context.ready()
        if context.run == len(self.waits):
            await anyio.sleep_forever()
        await anyio.sleep(1)
        raise TroubleError


async def test_a_task_hears_of_a_dependency_when_that_is_ready_again(scheduler: Scheduler) -> None:
    heard: Heard = []
    task = Ready(2, 5)
    scheduler.register_background_task(task, name="database", reports_ready=True, restart=SOON)
    scheduler.background(depends_on=["database"])(listener(heard))
    async with scheduler:
        await scheduler.start()
        assert current_time() == 2
        await anyio.sleep(100)
    assert heard == [("database", 9)], "it failed at 3, works again from 4, and is ready at 9"


async def test_a_run_that_never_got_ready_is_not_told_of(scheduler: Scheduler) -> None:
    heard: Heard = []
    task = Ready(2, None, None, 3)
    scheduler.register_background_task(task, name="database", reports_ready=True, restart=SOON)
    scheduler.background(depends_on=["database"])(listener(heard))
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
    assert heard == [("database", 11)]


async def test_a_restart_by_hand_is_told_when_the_dependency_is_ready_again(
    scheduler: Scheduler,
) -> None:
    heard: Heard = []

    class Slow(BackgroundTask):
        async def initialize(self) -> None:
            await anyio.sleep(1)

        async def execute(self) -> None:
            await anyio.sleep(5)
            current_task_context().ready()
            await anyio.sleep_forever()

    shot = scheduler.register_background_task(Slow(), name="database", reports_ready=True)
    scheduler.background(depends_on=["database"])(listener(heard))
    async with scheduler:
        await scheduler.start()
        assert current_time() == 6
        await scheduler.restart_task(shot)
        assert current_time() == 7, "it is initialised, and not ready yet"
        await anyio.sleep(100)
    assert heard == [("database", 12)]


async def test_a_task_hears_when_one_of_a_group_that_it_depends_on_is_ready_again(
    scheduler: Scheduler,
) -> None:
    heard: Heard = []
    group = scheduler.group("storage")
    group.register_background_task(Ready(1, 4), name="database", reports_ready=True, restart=SOON)
    group.register_background_task(Ready(0), name="cache", reports_ready=True)
    scheduler.background(depends_on=["storage"])(listener(heard))
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
    assert heard == [("database", 7)]


async def test_restarts_that_were_not_waited_for_are_told_once_each(
    scheduler: Scheduler, diary: Diary
) -> None:
    add(scheduler, diary, "a", 1, 1, 1, restart=SOON)
    add(scheduler, diary, "b", 2, restart=SOON)
    heard: list[str] = []

    @scheduler.background(depends_on=["a", "b"])
    async def sleeper() -> None:
        await anyio.sleep(50)
        with anyio.move_on_after(10):
            while True:
                heard.append(await current_task_context().dependency_restarted())
        heard.append("no more")

    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
    assert heard == ["a", "b", "no more"]


async def test_a_cancelled_wait_for_restarts_loses_none(scheduler: Scheduler, diary: Diary) -> None:
    add(scheduler, diary, "database", 1, restart=SOON)
    heard: list[str] = []

    @scheduler.background(depends_on=["database"])
    async def impatient() -> None:
        context = current_task_context()
        while True:
            with anyio.move_on_after(0.5):
                heard.append(await context.dependency_restarted())

    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
    assert heard == ["database"]


async def test_a_dependant_hears_nothing_of_what_it_was_restarted_with(
    scheduler: Scheduler, diary: Diary
) -> None:
    add(scheduler, diary, "database", 1, restart=SOON)
    heard: Heard = []
    scheduler.background(depends_on=["database"], restart_with_dependencies=True)(listener(heard))
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
        assert scheduler.status()[1].restarts == 1
    assert heard == []


async def test_a_task_hears_of_a_restart_in_a_group_it_depends_on(
    scheduler: Scheduler, diary: Diary
) -> None:
    add(scheduler.group("storage"), diary, "database", 1, restart=SOON)
    heard: Heard = []
    scheduler.background(depends_on=["storage"])(listener(heard))
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
    assert heard == [("database", 2)]


# -- ready ---------------------------------------------------------------------------------------------


class Reporter(Worker):
    """Is ready some time after it has begun to work."""

    def __init__(self, name: str, diary: Diary, *delays: float) -> None:
        super().__init__(name, diary)
        self.delays = list(delays)

    async def execute(self) -> None:
        self.diary.note("work", self.name)
        await anyio.sleep(self.delays.pop(0))
        current_task_context().ready()
        self.diary.note("ready", self.name)
        await anyio.sleep_forever()


def add_reporter(
    group: Group, diary: Diary, who: str, *delays: float, **options: Unpack[BackgroundOptions]
) -> TaskId:
    options["name"] = who
    options["reports_ready"] = True
    return group.register_background_task(Reporter(who, diary, *delays), **options)


async def test_a_task_works_when_its_dependency_has_said_that_it_is_ready(
    scheduler: Scheduler, diary: Diary
) -> None:
    add_reporter(scheduler, diary, "database", 5)
    add(scheduler, diary, "web", depends_on=["database"])
    add(scheduler, diary, "other")
    async with scheduler:
        await scheduler.start()
        await settle()
    assert diary.when("up", "web") == [0], "it is initialised meanwhile"
    assert diary.when("work", "web") == [5]
    assert diary.when("work", "other") == [0]


async def test_a_task_works_when_all_of_a_group_are_ready(
    scheduler: Scheduler, diary: Diary
) -> None:
    storage = scheduler.group("storage")
    add_reporter(storage, diary, "database", 5)
    add_reporter(storage, diary, "cache", 7)
    add(scheduler, diary, "web", depends_on=["storage"])
    async with scheduler:
        await scheduler.start()
        await settle()
    assert diary.when("work", "web") == [7]


async def test_start_waits_until_all_are_ready(scheduler: Scheduler, diary: Diary) -> None:
    add_reporter(scheduler, diary, "a", 5)
    add_reporter(scheduler, diary, "b", 3)
    async with scheduler:
        await scheduler.start()
        assert current_time() == 5
        assert all(shot.ready for shot in scheduler.status())


async def test_start_does_not_wait_for_one_that_ended_before_it_was_ready(
    scheduler: Scheduler, diary: Diary
) -> None:
    @scheduler.background(reports_ready=True)
    async def job() -> None:
        await anyio.sleep(2)

    add(scheduler, diary, "web", depends_on=["job"])
    async with scheduler:
        with anyio.fail_after(100):
            await scheduler.start()
        assert current_time() == 2
        await settle()
        assert diary.when("work", "web") == [2]


async def test_a_task_is_ready_once_and_says_so_in_its_snapshot(
    scheduler: Scheduler, diary: Diary
) -> None:
    async with scheduler:
        await scheduler.start()
        task = add_reporter(scheduler, diary, "late", 5)
        await anyio.sleep(4)
        shot = scheduler.status(task)
        assert (shot.state, shot.ready) == (TaskState.RUNNING, False)
        await anyio.sleep(2)
        assert scheduler.status(task).ready


async def test_after_a_restart_a_task_reports_again(scheduler: Scheduler, diary: Diary) -> None:
    database = add_reporter(scheduler, diary, "database", 1, 5)
    add(scheduler, diary, "web", depends_on=["database"], restart_with_dependencies=True)
    async with scheduler:
        await scheduler.start()
        with anyio.fail_after(1):
            await scheduler.restart_task(database)
        assert not scheduler.status(database).ready
        await anyio.sleep(50)
        assert diary.when("work", "web") == [1, 6]


# -- start_timeout -------------------------------------------------------------------------------------


async def test_an_initialize_that_takes_too_long_fails_the_start(
    scheduler: Scheduler, diary: Diary
) -> None:
    add(scheduler, diary, "first")
    slow = Leisurely("slow", diary, begin=10)
    scheduler.register_background_task(slow, name="slow", start_timeout=5)
    async with scheduler:
        with pytest.raises(TaskInitializationError, match=r"'slow' could not start.*\(5 s"):
            await scheduler.start()
        assert current_time() == 5
    assert diary.hooks == ["up first", "down first"]


async def test_a_task_that_is_not_ready_in_time_fails_the_start(
    scheduler: Scheduler, diary: Diary
) -> None:
    add(scheduler, diary, "first")
    add_reporter(scheduler, diary, "slow", 10, start_timeout=5)
    async with scheduler:
        with pytest.raises(
            TaskInitializationError, match=r"'slow' could not start.*not ready .*5 s"
        ):
            await scheduler.start()
        assert current_time() == 5
    assert diary.hooks == ["up first", "up slow", "down slow", "down first"]
    assert diary.who("ready") == []


async def test_a_task_that_is_ready_in_time_is_not_bothered(
    scheduler: Scheduler, diary: Diary
) -> None:
    task = add_reporter(scheduler, diary, "slow", 4, start_timeout=5)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
        assert scheduler.status(task).state is TaskState.RUNNING


async def test_initialize_and_becoming_ready_have_a_start_timeout_each(
    scheduler: Scheduler, diary: Diary
) -> None:
    class Slow(Reporter):
        async def initialize(self) -> None:
            await anyio.sleep(4)

    slow = Slow("slow", diary, 4)
    scheduler.register_background_task(slow, name="slow", reports_ready=True, start_timeout=5)
    async with scheduler:
        await scheduler.start()
        assert current_time() == 8


async def test_one_who_waits_too_long_for_a_dependency_fails_the_start(
    scheduler: Scheduler, diary: Diary
) -> None:
    add_reporter(scheduler, diary, "slow", 10)
    add(scheduler, diary, "web", depends_on=["slow"], start_timeout=5)
    async with scheduler:
        with pytest.raises(
            TaskInitializationError,
            match=r"'web' could not start: task 'slow', on which it depends, was not ready .*5 s",
        ):
            await scheduler.start()
        assert current_time() == 5
    assert diary.when("down", "web") == [5]


async def test_time_spent_waiting_for_a_dependency_is_not_held_against_becoming_ready(
    scheduler: Scheduler, diary: Diary
) -> None:
    add_reporter(scheduler, diary, "slow", 4)
    add_reporter(scheduler, diary, "web", 4, depends_on=["slow"], start_timeout=5)
    async with scheduler:
        await scheduler.start()
        assert current_time() == 8


async def test_a_task_that_is_not_ready_in_time_after_a_restart_is_restarted(
    scheduler: Scheduler, diary: Diary
) -> None:
    # Ready at once, then too late, then in time.
    task = add_reporter(scheduler, diary, "slow", 0, 10, 1, start_timeout=5, restart=SOON)
    async with scheduler:
        await scheduler.start()
        await scheduler.restart_task(task)
        await anyio.sleep(100)
        shot = scheduler.status(task)
        assert (shot.state, shot.ready, shot.restarts) == (TaskState.RUNNING, True, 2)
        assert diary.when("up", "slow") == [0, 0, 6]


async def test_a_task_registered_late_that_is_not_ready_in_time_is_restarted(
    scheduler: Scheduler, diary: Diary
) -> None:
    async with scheduler:
        await scheduler.start()
        add_reporter(scheduler, diary, "slow", 10, 1, start_timeout=5, restart=SOON)
        await anyio.sleep(100)
        assert diary.when("up", "slow") == [0, 6]
        assert diary.when("ready", "slow") == [7]


async def test_a_task_that_never_gets_ready_in_time_ends_the_run(
    scheduler: Scheduler, diary: Diary
) -> None:
    policy = RestartPolicy(initial_delay=1, jitter=0, max_restarts=2)
    with pytest.raises(TaskExecutionError, match=r"failed 3 times.*could not start.*ready"):
        async with scheduler:
            await scheduler.start()
            add_reporter(scheduler, diary, "slow", *[10] * 10, start_timeout=5, restart=policy)
            await anyio.sleep(1000)
    assert diary.when("up", "slow") == [0, 6, 13]


# -- dependencies that are gone ------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stop", "remove"])
async def test_a_dependency_that_is_taken_away_holds_nobody_up(
    scheduler: Scheduler, diary: Diary, how: str
) -> None:
    async with scheduler:
        await scheduler.start()
        slow = add_reporter(scheduler, diary, "slow", 100)
        add(scheduler, diary, "web", depends_on=["slow"])
        await anyio.sleep(3)
        assert diary.when("work", "web") == []
        await (scheduler.stop_task(slow) if how == "stop" else scheduler.remove_task(slow))
        await settle()
        assert diary.when("work", "web") == [3]


async def test_a_dependency_that_has_completed_does_not_hold_up_a_restart(
    scheduler: Scheduler, diary: Diary
) -> None:
    @scheduler.background()
    async def migration() -> None: ...

    add(scheduler, diary, "web", 1, depends_on=["migration"], restart=SOON)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
        assert diary.when("work", "web") == [0, 2]


async def test_a_dependency_that_was_removed_does_not_hold_up_a_restart(
    scheduler: Scheduler, diary: Diary
) -> None:
    database = add(scheduler, diary, "database")
    add(scheduler, diary, "web", 1, depends_on=["database"], restart=SOON)
    async with scheduler:
        await scheduler.start()
        await scheduler.remove_task(database)
        await anyio.sleep(100)
        assert diary.when("work", "web") == [0, 2]


async def test_a_restarted_task_waits_for_a_dependency_in_back_off(
    scheduler: Scheduler, diary: Diary
) -> None:
    patient = RestartPolicy(initial_delay=10, jitter=0)
    add(scheduler, diary, "database", 1, restart=patient)
    add(scheduler, diary, "web", 2, depends_on=["database"], restart=SOON)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
        assert diary.when("work", "database") == [0, 11]
        assert diary.when("work", "web") == [0, 11]


@pytest.mark.parametrize("whole", [False, True], ids=["task", "group"])
async def test_a_restart_by_hand_ends_when_a_dependency_backs_off_for_too_long(
    whole: bool, scheduler: Scheduler, diary: Diary
) -> None:
    seldom = RestartPolicy(initial_delay=100, max_delay=100, jitter=0)
    add(scheduler, diary, "database", 1, restart=seldom)
    front = scheduler.group("front")
    never = RestartPolicy(mode="never")
    web = add(front, diary, "web", depends_on=["database"], start_timeout=5, restart=never)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(2)
        diary.turn_the_page()
        await (front.restart() if whole else scheduler.restart_task(web))
        assert current_time() == 7
        shot = scheduler.status(web)
        assert shot.state is TaskState.FAILED
        assert "task 'database', on which it depends, was not ready" in str(shot.error)
        assert diary.hooks == ["down web"]


async def test_a_task_called_scheduler_is_a_task_like_any_other() -> None:
    scheduler = Scheduler()
    runs: list[int] = []
    scheduler.background(name="scheduler")(anyio.sleep_forever)

    @scheduler.background(depends_on=["scheduler"], restart_with_dependencies=True)
    async def dependant() -> None:
        runs.append(current_task_context().run)
        await anyio.sleep_forever()

    scheduler.background(name="other")(anyio.sleep_forever)
    async with scheduler:
        await scheduler.start()
        await scheduler.restart_task(scheduler.registry.get_by_name("other").task_id)
        await anyio.sleep(1)
    assert runs == [1]
