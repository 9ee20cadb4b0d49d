"""Who shuts down after whom: of all that are being stopped, whoever is depended on goes last."""

from __future__ import annotations

from itertools import permutations

import anyio
import pytest
from anyio import CancelScope, create_task_group, current_time, fail_after
from anyio.lowlevel import checkpoint
from support import SOON, settle
from support.diary import Diary, Worker, add

from orchestrio import (
    LifecycleError,
    Scheduler,
    TaskId,
    TaskShutdownError,
    TaskState,
    current_task_context,
)


class Slow(Worker):
    """Notes when its ``shutdown()`` begins, and takes its time for it."""

    def __init__(self, name: str, diary: Diary, *spans: float, end: float = 1) -> None:
        super().__init__(name, diary, *spans)
        self.end = end

    async def shutdown(self) -> None:
        self.diary.note("ends", self.name)
        await anyio.sleep(self.end)
        await super().shutdown()


def one_after_the_other(diary: Diary) -> list[str]:
    """Return who shut down, in order, if no two of them did so at the same time."""
    hooks = [(what, who) for what, who, _ in diary.entries if what in ("ends", "down")]
    begun, ended = hooks[::2], hooks[1::2]
    assert [what for what, _ in begun] == ["ends"] * len(begun)
    assert [who for _, who in begun] == [who for _, who in ended]
    return [who for _, who in ended]


def is_before(diary: Diary, first: str, second: str) -> bool:
    """Whether one thing was written down before another one, such as ``down web``."""
    moments = [f"{what} {who}" for what, who, _ in diary.entries]
    return moments.index(first) < moments.index(second)


def add_slow(
    scheduler: Scheduler, diary: Diary, name: str, *depends_on: str, end: float = 1
) -> TaskId:
    slow = Slow(name, diary, end=end)
    return scheduler.register_background_task(slow, name=name, depends_on=depends_on)


# -- one is being stopped when all of them are -----------------------------------------------------------


@pytest.mark.parametrize("command", ["stop", "remove", "restart"])
@pytest.mark.parametrize("which", ["a", "b", "c", "d"])
async def test_a_dependency_goes_after_its_dependant_whoever_is_being_stopped_by_somebody_else(
    scheduler: Scheduler, diary: Diary, which: str, command: str
) -> None:
    tasks = {name: add_slow(scheduler, diary, name) for name in "ab"}
    tasks |= {name: add_slow(scheduler, diary, name, "a", end=3) for name in "cd"}

    async def give() -> None:
        commands = {
            "stop": scheduler.stop_task,
            "remove": scheduler.remove_task,
            "restart": scheduler.restart_task,
        }
        with pytest.raises(LifecycleError) if command == "restart" else CancelScope():
            await commands[command](tasks[which])

    async with create_task_group() as group, scheduler:
        await scheduler.start()
        group.start_soon(give)
        await anyio.sleep(0.5)
        assert diary.who("ends") == [which], "it is in the midst of its shutdown()"
        await scheduler.shutdown()
    for name in "cd":
        assert which == "a" or is_before(diary, f"down {name}", "ends a")
    begun = [name for name in diary.who("ends") if name != which]
    assert begun == sorted(begun, reverse=True)
    assert len(diary.who("ends")) == len(diary.who("down")) == 4


@pytest.mark.parametrize("steps", range(9))
async def test_the_order_is_kept_from_the_first_moment_on(
    scheduler: Scheduler, diary: Diary, steps: int
) -> None:
    add_slow(scheduler, diary, "a")
    middle = add_slow(scheduler, diary, "b")
    add_slow(scheduler, diary, "c", "a", end=3)
    async with create_task_group() as group, scheduler:
        await scheduler.start()
        group.start_soon(scheduler.stop_task, middle)
        for _ in range(steps):
            await checkpoint()
        await scheduler.shutdown()
    for name in "bc":
        assert is_before(diary, f"down {name}", "ends a")


@pytest.mark.parametrize("order", list(permutations("abc")), ids="".join)
async def test_those_that_are_stopped_one_by_one_at_the_same_time_go_in_reverse(
    scheduler: Scheduler, diary: Diary, order: tuple[str, ...]
) -> None:
    tasks = {name: add_slow(scheduler, diary, name) for name in "abc"}
    async with scheduler:
        await scheduler.start()
        async with create_task_group() as group:
            for name in order:
                group.start_soon(scheduler.stop_task, tasks[name])
        # Whoever is heard first begins at once, with nobody else to wait for.
        rest = one_after_the_other(diary)[1:]
        assert rest == sorted(rest, reverse=True)


async def test_one_that_is_asked_first_and_leaves_late_waits_for_its_dependant(
    scheduler: Scheduler, diary: Diary
) -> None:
    class Polite(Slow):
        async def execute(self) -> None:
            await current_task_context().stopping.wait()
            await anyio.sleep(3)

    database = scheduler.register_background_task(Polite("database", diary), name="database")
    web = add_slow(scheduler, diary, "web", "database", end=5)
    async with scheduler:
        await scheduler.start()
        await settle()
        async with create_task_group() as group:
            group.start_soon(scheduler.stop_task, database)
            await anyio.sleep(1)
            group.start_soon(scheduler.stop_task, web)
    assert one_after_the_other(diary) == ["web", "database"]
    assert diary.when("ends", "web") == [1]
    assert diary.when("ends", "database") == [6]


async def test_a_dependency_waits_for_a_dependant_that_is_shut_down_before_its_restart(
    scheduler: Scheduler, diary: Diary
) -> None:
    database = add_slow(scheduler, diary, "database")
    web = add_slow(scheduler, diary, "web", "database", end=5)
    async with scheduler:
        await scheduler.start()
        async with create_task_group() as group:
            group.start_soon(scheduler.restart_task, web)
            await anyio.sleep(1)
            await scheduler.stop_task(database)
            assert current_time() == 6
    assert one_after_the_other(diary) == ["web", "database", "web"]


# -- who holds nobody up ---------------------------------------------------------------------------------


async def test_a_dependant_that_nobody_stops_holds_nobody_up(
    scheduler: Scheduler, diary: Diary
) -> None:
    database = add_slow(scheduler, diary, "database")
    web = add_slow(scheduler, diary, "web", "database")
    async with scheduler:
        await scheduler.start()
        await scheduler.stop_task(database)
        assert current_time() == 1
        assert scheduler.status(web).state is TaskState.RUNNING


async def test_one_that_has_completed_and_is_still_to_be_shut_down_holds_nobody_up(
    scheduler: Scheduler, diary: Diary
) -> None:
    class Brief(Slow):
        async def execute(self) -> None: ...

    database = add_slow(scheduler, diary, "database")
    scheduler.register_background_task(Brief("web", diary), name="web", depends_on=["database"])
    async with scheduler:
        await scheduler.start()
        await settle()
        await scheduler.stop_task(database)
        assert current_time() == 1
        assert diary.who("ends") == ["database"]


@pytest.mark.parametrize("then", ["shutdown", "stop", "restart"])
async def test_a_shutdown_that_was_given_up_holds_nobody_up_later(
    scheduler: Scheduler, diary: Diary, then: str
) -> None:
    class Stuck(Slow):
        async def shutdown(self) -> None:
            self.diary.note("ends", self.name)
            with CancelScope(shield=True):
                await anyio.sleep(100)

    first = add_slow(scheduler, diary, "a")
    task = scheduler.register_background_task(
        Stuck("b", diary), name="b", depends_on=["a"], shutdown_timeout=2
    )
    add_slow(scheduler, diary, "c", "a")
    async with scheduler:
        await scheduler.start()
        with pytest.raises(TaskShutdownError, match="it ignores its cancellation"):
            await scheduler.stop_task(task)
        assert current_time() == 3
        assert scheduler.status(task).stuck
        with fail_after(10):
            if then == "stop":
                await scheduler.stop_task(first)
            elif then == "restart":
                await scheduler.restart_task(first)
            else:
                scheduler.stopping.set()
        if then != "shutdown":
            assert diary.when("down", "a") == [4]
    if then == "shutdown":
        assert diary.when("down", "c") == [4]
        assert diary.when("down", "a") == [5]


async def test_a_work_that_was_given_up_holds_nobody_up_later(
    scheduler: Scheduler, diary: Diary
) -> None:
    class Stuck(Slow):
        async def execute(self) -> None:
            with CancelScope(shield=True):
                await anyio.sleep(100)

    add_slow(scheduler, diary, "a")
    task = scheduler.register_background_task(
        Stuck("b", diary), name="b", depends_on=["a"], stop_timeout=2
    )
    add_slow(scheduler, diary, "c", "a")
    async with scheduler:
        await scheduler.start()
        with pytest.raises(TaskShutdownError, match="stop_timeout"):
            await scheduler.stop_task(task)
        assert current_time() == 2
    assert diary.when("down", "c") == [3]
    assert diary.when("down", "a") == [4]
    assert diary.when("ends", "b") == [100], "it is shut down when it has ended after all"


class Late(Slow):
    """Heeds its cancellation ten seconds late."""

    async def execute(self) -> None:
        with CancelScope(shield=True):
            await anyio.sleep(10)


async def test_one_that_was_given_up_and_ends_after_all_waits_for_its_dependant(
    scheduler: Scheduler, diary: Diary
) -> None:
    scheduler.register_background_task(Late("a", diary), name="a", stop_timeout=2)
    add_slow(scheduler, diary, "b", "a", end=9)
    with fail_after(100), pytest.raises(ExceptionGroup, match="did not shut down well"):
        async with scheduler:
            await scheduler.start()
    assert current_time() == 12
    assert one_after_the_other(diary) == ["b", "a"]


@pytest.mark.parametrize("heeds", [True, False])
async def test_the_shutdown_of_one_that_was_given_up_and_ends_after_all_is_bounded(
    scheduler: Scheduler, diary: Diary, heeds: bool
) -> None:
    class Endless(Late):
        async def shutdown(self) -> None:
            self.diary.note("ends", self.name)
            with CancelScope(shield=not heeds):
                await anyio.sleep(100)

    scheduler.register_background_task(
        Endless("a", diary), name="a", stop_timeout=2, shutdown_timeout=5
    )
    add_slow(scheduler, diary, "b", "a")
    with pytest.raises(ExceptionGroup, match="did not shut down well") as caught:
        async with scheduler:
            await scheduler.start()
    assert diary.when("ends", "a") == [10]
    assert current_time() == (15 if heeds else 110)
    assert "shutdown_timeout (5 s)" in str(caught.value.exceptions[-1])


# -- who depends on whom, as the names stand now ---------------------------------------------------------


@pytest.mark.parametrize("times", [1, 3])
async def test_a_dependency_that_was_replaced_goes_after_its_dependant(
    scheduler: Scheduler, diary: Diary, times: int
) -> None:
    task = add_slow(scheduler, diary, "database")
    add_slow(scheduler, diary, "web", "database")
    add_slow(scheduler, diary, "other")
    async with scheduler:
        await scheduler.start()
        for _ in range(times):
            await scheduler.remove_task(task)
            task = add_slow(scheduler, diary, "database")
        await settle()
        diary.turn_the_page()
    assert is_before(diary, "down web", "ends database")


async def test_a_dependency_that_was_replaced_begins_before_its_dependant(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group", strategy="one_for_all")
    first = add(group, diary, "database")
    add(group, diary, "web", depends_on=["database"])
    failing = Worker("failing", diary, 5)
    group.register_background_task(failing, name="failing", restart=SOON)
    async with scheduler:
        await scheduler.start()
        await scheduler.remove_task(first)
        add(group, diary, "database")
        await anyio.sleep(1)
        diary.turn_the_page()
        await anyio.sleep(50)
        assert is_before(diary, "down web", "down database")
        assert is_before(diary, "up database", "up web")


async def test_a_dependency_of_a_dependency_is_known_when_it_comes_late(
    scheduler: Scheduler, diary: Diary
) -> None:
    middle = add_slow(scheduler, diary, "middle")
    add_slow(scheduler, diary, "web", "middle")
    async with scheduler:
        await scheduler.start()
        add_slow(scheduler, diary, "database")
        await scheduler.remove_task(middle)
        add_slow(scheduler, diary, "middle", "database")
        await settle()
        diary.turn_the_page()
    assert one_after_the_other(diary) == ["web", "middle", "database"]


async def test_a_replaced_dependency_is_refused_where_it_would_lead_in_a_circle(
    scheduler: Scheduler, diary: Diary
) -> None:
    task = add_slow(scheduler, diary, "database")
    add_slow(scheduler, diary, "web", "database")
    async with scheduler:
        await scheduler.start()
        await scheduler.remove_task(task)
        with pytest.raises(LifecycleError, match="'database' -> 'web' -> 'database'|circle"):
            add_slow(scheduler, diary, "database", "web")
        assert [shot.name for shot in scheduler.status()] == ["web"]
        add_slow(scheduler, diary, "database")
        await settle()
    assert diary.who("down") == ["database", "web", "database"]


@pytest.mark.parametrize("inner", [False, True])
async def test_a_new_member_of_a_group_goes_after_those_that_depend_on_the_group(
    scheduler: Scheduler, diary: Diary, inner: bool
) -> None:
    group = scheduler.group("storage")
    add(group, diary, "disk")
    add(scheduler, diary, "web", depends_on=["storage"])
    add(scheduler, diary, "other")
    async with scheduler:
        await scheduler.start()
        add(group.group("inner") if inner else group, diary, "cache")
        await settle()
        assert diary.who("up")[-1] == "cache"
    assert is_before(diary, "down web", "down cache")
    assert is_before(diary, "down web", "down disk")


async def test_a_new_member_of_a_group_that_was_empty_goes_after_those_that_depend_on_it(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("storage")
    add(scheduler, diary, "web", depends_on=["storage"])
    async with scheduler:
        await scheduler.start()
        add(group, diary, "cache")
        await settle()
    assert diary.who("down") == ["web", "cache"]


async def test_a_new_member_of_a_group_that_is_being_stopped_with_its_dependant_keeps_the_order(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("storage")
    group.register_background_task(Slow("disk", diary), name="disk")
    web = add_slow(scheduler, diary, "web", "storage", end=5)
    async with create_task_group() as others, scheduler:
        await scheduler.start()
        others.start_soon(scheduler.stop_task, web)
        await anyio.sleep(1)  # web is in its shutdown() until 5
        group.register_background_task(Slow("cache", diary), name="cache")
        await settle()
        await scheduler.shutdown()
    order = one_after_the_other(diary)
    assert order[0] == "web"
    assert sorted(order[1:]) == ["cache", "disk"]


# -- where no dependency decides -------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["a", "b", "c"])
async def test_restarts_do_not_change_the_order(
    scheduler: Scheduler, diary: Diary, which: str
) -> None:
    tasks = {name: add_slow(scheduler, diary, name) for name in "abc"}
    async with scheduler:
        await scheduler.start()
        await scheduler.restart_task(tasks[which])
        await scheduler.stop_task(tasks[which])
        await scheduler.restart_task(tasks[which])
        diary.turn_the_page()
    assert one_after_the_other(diary) == ["c", "b", "a"]


async def test_failures_do_not_change_the_order(scheduler: Scheduler, diary: Diary) -> None:
    for name in "abc":
        spans = [1.0, 1.0] if name == "a" else []
        scheduler.register_background_task(Slow(name, diary, *spans), name=name, restart=SOON)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(10)
        diary.turn_the_page()
    assert one_after_the_other(diary) == ["c", "b", "a"]


async def test_late_tasks_go_first(scheduler: Scheduler, diary: Diary) -> None:
    add_slow(scheduler, diary, "a")
    async with scheduler:
        await scheduler.start()
        for name in "bcd":
            add_slow(scheduler, diary, name)
            await settle()
    assert one_after_the_other(diary) == ["d", "c", "b", "a"]


async def test_a_dependency_registered_after_its_dependant_goes_after_it(
    scheduler: Scheduler, diary: Diary
) -> None:
    add_slow(scheduler, diary, "web", "cache", "database")
    add_slow(scheduler, diary, "cache", "database")
    add_slow(scheduler, diary, "database")
    async with scheduler:
        await scheduler.start()
    assert one_after_the_other(diary) == ["web", "cache", "database"]
