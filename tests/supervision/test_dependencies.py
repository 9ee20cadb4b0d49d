"""What ``depends_on`` says: order, waiting until ready, and who is concerned by a restart."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest
from anyio import current_time
from support import settle
from typing_extensions import Unpack

from orchestrio import (
    BackgroundTask,
    Group,
    LifecycleError,
    RestartPolicy,
    Scheduler,
    TaskExecutionError,
    TaskId,
    TaskInitializationError,
    TaskOptions,
    TaskState,
    current_task_context,
)

SOON = RestartPolicy(initial_delay=1, multiplier=1, jitter=0, max_restarts=None)


class TroubleError(Exception):
    pass


Log = list[tuple[str, float]]


class Worker(BackgroundTask):
    """Fails after each of some spans of time, then works for ever."""

    def __init__(self, name: str, log: Log, *spans: float) -> None:
        self.name = name
        self.log = log
        self.spans = list(spans)

    async def initialize(self) -> None:
        self.log.append((f"up {self.name}", current_time()))

    async def execute(self) -> None:
        self.log.append((f"work {self.name}", current_time()))
        if not self.spans:
            await anyio.sleep_forever()
        await anyio.sleep(self.spans.pop(0))
        raise TroubleError(f"trouble of {self.name}")

    async def shutdown(self) -> None:
        self.log.append((f"down {self.name}", current_time()))


@pytest.fixture
def log() -> Log:
    return []


@pytest.fixture
def scheduler() -> Scheduler:
    return Scheduler(random=lambda: 0.0)


def add(group: Group, log: Log, who: str, *spans: float, **options: Unpack[TaskOptions]) -> TaskId:
    options["name"] = who
    return group.register_background_task(Worker(who, log, *spans), **options)


def hooks(log: Log) -> list[str]:
    return [what for what, _ in log if not what.startswith("work")]


def when(log: Log, what: str) -> list[float]:
    return [time for event, time in log if event == what]


# -- order ---------------------------------------------------------------------------------------------


async def test_a_task_starts_after_a_whole_group_that_it_depends_on(
    scheduler: Scheduler, log: Log
) -> None:
    add(scheduler, log, "web", depends_on=["storage"])
    add(scheduler, log, "other")
    storage = scheduler.group("storage")
    add(storage, log, "database")
    add(storage.group("inner"), log, "cache")
    async with scheduler:
        await scheduler.start()
    names = ["other", "database", "cache", "web"]
    assert hooks(log) == [f"up {name}" for name in names] + [f"down {name}" for name in names[::-1]]


async def test_a_task_in_a_group_may_depend_on_one_in_another(
    scheduler: Scheduler, log: Log
) -> None:
    front = scheduler.group("front")
    back = scheduler.group("back")
    add(front, log, "web", depends_on=["database"])
    add(back, log, "database")
    async with scheduler:
        await scheduler.start()
        assert hooks(log) == ["up database", "up web"]


async def test_a_task_is_meant_where_a_group_has_the_same_name(
    scheduler: Scheduler, log: Log
) -> None:
    add(scheduler, log, "web", depends_on=["storage"])
    add(scheduler.group("storage"), log, "inside")
    add(scheduler, log, "storage")
    async with scheduler:
        await scheduler.start()
        assert hooks(log) == ["up inside", "up storage", "up web"]
        # Of two orders that are possible, the one that shows what was depended on:
    other = Scheduler()
    log.clear()
    group = other.group("storage")
    add(other, log, "storage")
    add(other, log, "web", depends_on=["storage"])
    add(group, log, "inside", depends_on=["web"])
    async with other:
        await other.start()
        assert hooks(log) == ["up storage", "up web", "up inside"], "and there is no circle"


async def test_a_dependency_that_is_neither_task_nor_group_is_an_error(
    scheduler: Scheduler, log: Log
) -> None:
    add(scheduler, log, "first")
    add(scheduler.group("front"), log, "web", depends_on=["storage"])
    async with scheduler:
        with pytest.raises(LifecycleError, match=r"'web' depends on another: .*'storage'"):
            await scheduler.start()
    assert log == []


async def test_a_circle_through_a_group_is_an_error(scheduler: Scheduler, log: Log) -> None:
    add(scheduler, log, "web", depends_on=["storage"])
    add(scheduler.group("storage"), log, "database", depends_on=["web"])
    async with scheduler:
        with pytest.raises(LifecycleError, match="circle: .*'web'.*"):
            await scheduler.start()
    assert log == []


async def test_a_task_that_depends_on_its_own_group_is_an_error(
    scheduler: Scheduler, log: Log
) -> None:
    add(scheduler.group("storage"), log, "database", depends_on=["storage"])
    async with scheduler:
        with pytest.raises(LifecycleError, match="circle"):
            await scheduler.start()
    assert log == []


async def test_a_task_that_depends_on_itself_is_an_error_also_after_the_start(
    scheduler: Scheduler, log: Log
) -> None:
    async with scheduler:
        await scheduler.start()
        with pytest.raises(LifecycleError, match="circle: 'web' -> 'web'"):
            add(scheduler, log, "web", depends_on=["web"])
        add(scheduler, log, "web")
        await anyio.sleep(1)
    assert hooks(log) == ["up web", "down web"]


async def test_an_unknown_dependency_after_the_start_is_an_error_and_registers_nothing(
    scheduler: Scheduler, log: Log
) -> None:
    async with scheduler:
        await scheduler.start()
        with pytest.raises(LifecycleError, match="'web' depends on another"):
            add(scheduler, log, "web", depends_on=["storage"])
        assert scheduler.status() == []
        scheduler.group("storage")
        add(scheduler, log, "web", depends_on=["storage"])
        await settle()
        assert when(log, "work web") == [0], "a group without tasks does not hold it up"


# -- bind_to -------------------------------------------------------------------------------------------


async def test_a_bound_task_is_restarted_with_its_dependency(
    scheduler: Scheduler, log: Log
) -> None:
    add(scheduler, log, "web", depends_on=["database"], bind_to=True)
    add(scheduler, log, "database", 1, restart=SOON)
    add(scheduler, log, "other", depends_on=["database"])
    async with scheduler:
        await scheduler.start()
        log.clear()
        await anyio.sleep(100)
        assert hooks(log) == ["down web", "down database", "up database", "up web"]
        assert when(log, "up web") == [2]


async def test_bonds_are_transitive_and_keep_the_order(scheduler: Scheduler, log: Log) -> None:
    add(scheduler, log, "c", depends_on=["b"], bind_to=True)
    add(scheduler, log, "b", depends_on=["a"], bind_to=True)
    add(scheduler, log, "a", 1, restart=SOON)
    async with scheduler:
        await scheduler.start()
        log.clear()
        await anyio.sleep(100)
        assert hooks(log) == ["down c", "down b", "down a", "up a", "up b", "up c"]


async def test_a_bond_ends_at_one_that_is_not_bound(scheduler: Scheduler, log: Log) -> None:
    add(scheduler, log, "a", 1, restart=SOON)
    add(scheduler, log, "b", depends_on=["a"])
    add(scheduler, log, "c", depends_on=["b"], bind_to=True)
    async with scheduler:
        await scheduler.start()
        log.clear()
        await anyio.sleep(100)
        assert hooks(log) == ["down a", "up a"]


async def test_a_dependency_is_not_restarted_with_what_is_bound_to_it(
    scheduler: Scheduler, log: Log
) -> None:
    add(scheduler, log, "database")
    add(scheduler, log, "web", 1, depends_on=["database"], bind_to=True, restart=SOON)
    async with scheduler:
        await scheduler.start()
        log.clear()
        await anyio.sleep(100)
        assert hooks(log) == ["down web", "up web"]


async def test_a_bound_task_is_restarted_with_one_that_is_restarted_by_hand(
    scheduler: Scheduler, log: Log
) -> None:
    database = add(scheduler, log, "database")
    add(scheduler, log, "web", depends_on=["database"], bind_to=True)
    async with scheduler:
        await scheduler.start()
        log.clear()
        await scheduler.restart_task(database)
        await settle()
        assert hooks(log) == ["down web", "down database", "up database", "up web"]


async def test_a_bond_with_a_group_is_one_with_each_of_its_tasks(
    scheduler: Scheduler, log: Log
) -> None:
    storage = scheduler.group("storage")
    add(storage, log, "database")
    add(storage.group("inner"), log, "cache", 1, restart=SOON)
    add(scheduler, log, "web", depends_on=["storage"], bind_to=True)
    async with scheduler:
        await scheduler.start()
        log.clear()
        await anyio.sleep(100)
        assert hooks(log) == ["down web", "down cache", "up cache", "up web"]


async def test_a_bond_reaches_those_that_a_strategy_restarts(
    scheduler: Scheduler, log: Log
) -> None:
    storage = scheduler.group("storage", strategy="one_for_all")
    add(storage, log, "database")
    add(storage, log, "cache", 1, restart=SOON)
    add(scheduler, log, "web", depends_on=["database"], bind_to=True)
    async with scheduler:
        await scheduler.start()
        log.clear()
        await anyio.sleep(100)
        assert hooks(log) == [
            *("down web", "down cache", "down database"),
            *("up database", "up cache", "up web"),
        ]


async def test_two_dependencies_that_fail_one_after_the_other_wait_for_what_is_bound_to_both(
    scheduler: Scheduler, log: Log
) -> None:
    class Slow(Worker):
        async def shutdown(self) -> None:
            await anyio.sleep(5)
            await super().shutdown()

    add(scheduler, log, "a", 1, restart=SOON)
    add(scheduler, log, "b", 2, restart=SOON)
    scheduler.register_background_task(
        Slow("c", log), name="c", depends_on=["a", "b"], bind_to=True
    )
    async with scheduler:
        await scheduler.start()
        log.clear()
        await anyio.sleep(100)
        assert [shot.state for shot in scheduler.status()] == [TaskState.RUNNING] * 3
        assert hooks(log)[0] == "down c"
        assert hooks(log)[-1] == "up c"
        assert sorted(hooks(log)[1:-1]) == ["down a", "down b", "up a", "up b"]
        assert when(log, "up c") == [6]


async def test_a_bound_task_that_was_stopped_stays_so(scheduler: Scheduler, log: Log) -> None:
    add(scheduler, log, "database", 1, restart=SOON)
    web = add(scheduler, log, "web", depends_on=["database"], bind_to=True)
    async with scheduler:
        await scheduler.start()
        await scheduler.stop_task(web)
        log.clear()
        await anyio.sleep(100)
        assert hooks(log) == ["down database", "up database"]


# -- hearing of restarts -------------------------------------------------------------------------------


def listener(heard: Log) -> Callable[[], Awaitable[None]]:
    async def listen() -> None:
        while True:
            name = await current_task_context().dependency_restarted()
            heard.append((name, current_time()))

    return listen


async def test_a_task_hears_when_one_it_depends_on_is_back(scheduler: Scheduler, log: Log) -> None:
    add(scheduler, log, "database", 1, restart=SOON)
    add(scheduler, log, "cache", 5, restart=SOON)
    add(scheduler, log, "other", 1, restart=SOON)
    heard: Log = []
    scheduler.background(depends_on=["database", "cache"])(listener(heard))
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
    assert heard == [("database", 2), ("cache", 6)]


async def test_a_task_hears_of_a_dependency_when_that_works(scheduler: Scheduler, log: Log) -> None:
    class SlowAgain(Worker):
        async def initialize(self) -> None:
            await super().initialize()
            if not self.spans:
                await anyio.sleep(10)

    heard: Log = []
    slow = SlowAgain("database", log, 1)
    scheduler.register_background_task(slow, name="database", restart=SOON)
    scheduler.background(depends_on=["database"])(listener(heard))
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
    assert heard == [("database", 12)]


async def test_restarts_that_were_not_waited_for_are_told_once_each(
    scheduler: Scheduler, log: Log
) -> None:
    add(scheduler, log, "a", 1, 1, 1, restart=SOON)
    add(scheduler, log, "b", 2, restart=SOON)
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


async def test_a_cancelled_wait_for_restarts_loses_none(scheduler: Scheduler, log: Log) -> None:
    add(scheduler, log, "database", 1, restart=SOON)
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


async def test_a_bound_task_hears_nothing_of_what_it_was_restarted_with(
    scheduler: Scheduler, log: Log
) -> None:
    add(scheduler, log, "database", 1, restart=SOON)
    heard: Log = []
    scheduler.background(depends_on=["database"], bind_to=True)(listener(heard))
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
        assert scheduler.status()[1].restarts == 1
    assert heard == []


async def test_a_task_hears_of_a_restart_in_a_group_it_depends_on(
    scheduler: Scheduler, log: Log
) -> None:
    add(scheduler.group("storage"), log, "database", 1, restart=SOON)
    heard: Log = []
    scheduler.background(depends_on=["storage"])(listener(heard))
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
    assert heard == [("database", 2)]


# -- ready ---------------------------------------------------------------------------------------------


class Reporter(Worker):
    """Is ready some time after it has begun to work."""

    def __init__(self, name: str, log: Log, *delays: float) -> None:
        super().__init__(name, log)
        self.delays = list(delays)

    async def execute(self) -> None:
        self.log.append((f"work {self.name}", current_time()))
        await anyio.sleep(self.delays.pop(0))
        current_task_context().ready()
        self.log.append((f"ready {self.name}", current_time()))
        await anyio.sleep_forever()


def add_reporter(
    group: Group, log: Log, who: str, *delays: float, **options: Unpack[TaskOptions]
) -> TaskId:
    options["name"] = who
    options["reports_ready"] = True
    return group.register_background_task(Reporter(who, log, *delays), **options)


async def test_a_task_works_when_its_dependency_has_said_that_it_is_ready(
    scheduler: Scheduler, log: Log
) -> None:
    add_reporter(scheduler, log, "database", 5)
    add(scheduler, log, "web", depends_on=["database"])
    add(scheduler, log, "other")
    async with scheduler:
        await scheduler.start()
        await settle()
    assert when(log, "up web") == [0], "it is initialised meanwhile"
    assert when(log, "work web") == [5]
    assert when(log, "work other") == [0]


async def test_a_task_works_when_all_of_a_group_are_ready(scheduler: Scheduler, log: Log) -> None:
    storage = scheduler.group("storage")
    add_reporter(storage, log, "database", 5)
    add_reporter(storage, log, "cache", 7)
    add(scheduler, log, "web", depends_on=["storage"])
    async with scheduler:
        await scheduler.start()
        await settle()
    assert when(log, "work web") == [7]


async def test_start_waits_until_all_are_ready(scheduler: Scheduler, log: Log) -> None:
    add_reporter(scheduler, log, "a", 5)
    add_reporter(scheduler, log, "b", 3)
    async with scheduler:
        await scheduler.start()
        assert current_time() == 5
        assert all(shot.ready for shot in scheduler.status())


async def test_start_does_not_wait_for_one_that_ended_before_it_was_ready(
    scheduler: Scheduler, log: Log
) -> None:
    @scheduler.background(reports_ready=True)
    async def job() -> None:
        await anyio.sleep(2)

    add(scheduler, log, "web", depends_on=["job"])
    async with scheduler:
        with anyio.fail_after(100):
            await scheduler.start()
        assert current_time() == 2
        await settle()
        assert when(log, "work web") == [2]


async def test_a_task_is_ready_once_and_says_so_in_its_snapshot(
    scheduler: Scheduler, log: Log
) -> None:
    async with scheduler:
        await scheduler.start()
        task = add_reporter(scheduler, log, "late", 5)
        await anyio.sleep(4)
        shot = scheduler.status(task)
        assert (shot.state, shot.ready) == (TaskState.RUNNING, False)
        await anyio.sleep(2)
        assert scheduler.status(task).ready


async def test_after_a_restart_a_task_reports_again(scheduler: Scheduler, log: Log) -> None:
    database = add_reporter(scheduler, log, "database", 1, 5)
    add(scheduler, log, "web", depends_on=["database"], bind_to=True)
    async with scheduler:
        await scheduler.start()
        with anyio.fail_after(1):
            await scheduler.restart_task(database)
        assert not scheduler.status(database).ready
        await anyio.sleep(50)
        assert when(log, "work web") == [1, 6]


# -- start_timeout -------------------------------------------------------------------------------------


async def test_an_initialize_that_takes_too_long_fails_the_start(
    scheduler: Scheduler, log: Log
) -> None:
    class Slow(Worker):
        async def initialize(self) -> None:
            await anyio.sleep(10)

    add(scheduler, log, "first")
    scheduler.register_background_task(Slow("slow", log), name="slow", start_timeout=5)
    async with scheduler:
        with pytest.raises(TaskInitializationError, match=r"'slow' could not start.* 5 s"):
            await scheduler.start()
        assert current_time() == 5
    assert hooks(log) == ["up first", "down first"]


async def test_a_task_that_is_not_ready_in_time_fails_the_start(
    scheduler: Scheduler, log: Log
) -> None:
    add(scheduler, log, "first")
    add_reporter(scheduler, log, "slow", 10, start_timeout=5)
    async with scheduler:
        with pytest.raises(
            TaskInitializationError, match=r"'slow' could not start.*not ready .*5 s"
        ):
            await scheduler.start()
        assert current_time() == 5
    assert hooks(log) == ["up first", "up slow", "down slow", "down first"]


async def test_a_task_that_is_ready_in_time_is_not_bothered(scheduler: Scheduler, log: Log) -> None:
    task = add_reporter(scheduler, log, "slow", 4, start_timeout=5)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
        assert scheduler.status(task).state is TaskState.RUNNING


async def test_initialize_and_becoming_ready_have_a_start_timeout_each(
    scheduler: Scheduler, log: Log
) -> None:
    class Slow(Reporter):
        async def initialize(self) -> None:
            await anyio.sleep(4)

    slow = Slow("slow", log, 4)
    scheduler.register_background_task(slow, name="slow", reports_ready=True, start_timeout=5)
    async with scheduler:
        await scheduler.start()
        assert current_time() == 8


async def test_one_who_waits_too_long_for_a_dependency_fails_the_start(
    scheduler: Scheduler, log: Log
) -> None:
    add_reporter(scheduler, log, "slow", 10)
    add(scheduler, log, "web", depends_on=["slow"], start_timeout=5)
    async with scheduler:
        with pytest.raises(
            TaskInitializationError,
            match=r"'web' could not start: task 'slow', on which it depends, was not ready .*5 s",
        ):
            await scheduler.start()
        assert current_time() == 5
    assert when(log, "down web") == [5]


async def test_time_spent_waiting_for_a_dependency_is_not_held_against_becoming_ready(
    scheduler: Scheduler, log: Log
) -> None:
    add_reporter(scheduler, log, "slow", 4)
    add_reporter(scheduler, log, "web", 4, depends_on=["slow"], start_timeout=5)
    async with scheduler:
        await scheduler.start()
        assert current_time() == 8


async def test_a_task_that_is_not_ready_in_time_after_a_restart_is_restarted(
    scheduler: Scheduler, log: Log
) -> None:
    # Ready at once, then too late, then in time.
    task = add_reporter(scheduler, log, "slow", 0, 10, 1, start_timeout=5, restart=SOON)
    async with scheduler:
        await scheduler.start()
        await scheduler.restart_task(task)
        await anyio.sleep(100)
        shot = scheduler.status(task)
        assert (shot.state, shot.ready, shot.restarts) == (TaskState.RUNNING, True, 2)
        assert when(log, "up slow") == [0, 0, 6]


async def test_a_task_registered_late_that_is_not_ready_in_time_is_restarted(
    scheduler: Scheduler, log: Log
) -> None:
    async with scheduler:
        await scheduler.start()
        add_reporter(scheduler, log, "slow", 10, 1, start_timeout=5, restart=SOON)
        await anyio.sleep(100)
        assert when(log, "up slow") == [0, 6]
        assert when(log, "ready slow") == [7]


async def test_a_task_that_never_gets_ready_in_time_ends_the_run(
    scheduler: Scheduler, log: Log
) -> None:
    policy = RestartPolicy(initial_delay=1, jitter=0, max_restarts=2)
    with pytest.raises(TaskExecutionError, match=r"failed 3 times.*could not start.*ready"):
        async with scheduler:
            await scheduler.start()
            add_reporter(scheduler, log, "slow", *[10] * 10, start_timeout=5, restart=policy)
            await anyio.sleep(1000)
    assert when(log, "up slow") == [0, 6, 13]


# -- dependencies that are gone ------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stop", "remove"])
async def test_a_dependency_that_is_taken_away_holds_nobody_up(
    scheduler: Scheduler, log: Log, how: str
) -> None:
    async with scheduler:
        await scheduler.start()
        slow = add_reporter(scheduler, log, "slow", 100)
        add(scheduler, log, "web", depends_on=["slow"])
        await anyio.sleep(3)
        assert when(log, "work web") == []
        await (scheduler.stop_task(slow) if how == "stop" else scheduler.remove_task(slow))
        await settle()
        assert when(log, "work web") == [3]


async def test_a_dependency_that_has_completed_does_not_hold_up_a_restart(
    scheduler: Scheduler, log: Log
) -> None:
    @scheduler.background()
    async def migration() -> None: ...

    add(scheduler, log, "web", 1, depends_on=["migration"], restart=SOON)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
        assert when(log, "work web") == [0, 2]


async def test_a_dependency_that_was_removed_does_not_hold_up_a_restart(
    scheduler: Scheduler, log: Log
) -> None:
    database = add(scheduler, log, "database")
    add(scheduler, log, "web", 1, depends_on=["database"], restart=SOON)
    async with scheduler:
        await scheduler.start()
        await scheduler.remove_task(database)
        await anyio.sleep(100)
        assert when(log, "work web") == [0, 2]


async def test_a_restarted_task_waits_for_a_dependency_in_back_off(
    scheduler: Scheduler, log: Log
) -> None:
    patient = RestartPolicy(initial_delay=10, jitter=0)
    add(scheduler, log, "database", 1, restart=patient)
    add(scheduler, log, "web", 2, depends_on=["database"], restart=SOON)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
        assert when(log, "work database") == [0, 11]
        assert when(log, "work web") == [0, 11]


async def test_a_task_called_scheduler_is_a_task_like_any_other() -> None:
    scheduler = Scheduler()
    runs: list[int] = []
    scheduler.background(name="scheduler")(anyio.sleep_forever)

    @scheduler.background(depends_on=["scheduler"], bind_to=True)
    async def bound() -> None:
        runs.append(current_task_context().run)
        await anyio.sleep_forever()

    scheduler.background(name="other")(anyio.sleep_forever)
    async with scheduler:
        await scheduler.start()
        await scheduler.restart_task(scheduler.registry.get_by_name("other").task_id)
        await anyio.sleep(1)
    assert runs == [1]
