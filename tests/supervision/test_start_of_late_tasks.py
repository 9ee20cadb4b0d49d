"""Tasks that are registered while others start, work or end: whose start they belong to."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

import anyio
import pytest
from anyio import CancelScope, create_task_group, current_time, fail_after
from support import NEVER, NUMBERS, SOON, TroubleError, settle
from support.diary import Diary, Leisurely, Worker, add

from orchestrio import (
    BackgroundTask,
    EventTask,
    LifecycleError,
    RestartPolicy,
    Scheduler,
    TaskExecutionError,
    TaskInitializationError,
    TaskState,
    Topic,
    current_task_context,
)


class Registrar(Worker):
    """Calls a function in its ``initialize()``, and takes a second for it."""

    def __init__(self, name: str, diary: Diary, register: Callable[[], object]) -> None:
        super().__init__(name, diary)
        self.register = register

    async def initialize(self) -> None:
        self.register()
        await anyio.sleep(1)
        await super().initialize()


# -- registered while the scheduler starts ---------------------------------------------------------------


async def test_start_waits_for_a_task_that_was_registered_meanwhile(
    scheduler: Scheduler, diary: Diary
) -> None:
    def register() -> None:
        late = Leisurely("late", diary, begin=5)
        scheduler.register_background_task(late, name="late", depends_on=["last"])

    scheduler.register_background_task(Registrar("first", diary, register), name="first")
    add(scheduler, diary, "last")
    async with scheduler:
        await scheduler.start()
        assert current_time() == 6
        assert diary.who("up") == ["first", "last", "late"]
        await settle()
        assert sorted(diary.who("work")) == ["first", "last", "late"]
        assert {time for what, _, time in diary.entries if what == "work"} == {6}
    assert diary.who("down") == ["late", "last", "first"]


async def test_start_waits_until_a_task_that_was_registered_meanwhile_is_ready(
    scheduler: Scheduler, diary: Diary
) -> None:
    async def slow() -> None:
        await anyio.sleep(5)
        current_task_context().ready()
        await anyio.sleep_forever()

    def register() -> None:
        scheduler.background(name="slow", reports_ready=True)(slow)

    scheduler.register_background_task(Registrar("first", diary, register), name="first")
    async with scheduler:
        await scheduler.start()
        assert current_time() == 6
        assert scheduler.health().ready


async def test_a_task_registered_by_one_that_was_registered_meanwhile_belongs_to_the_start_too(
    scheduler: Scheduler, diary: Diary
) -> None:
    def register() -> None:
        second = Registrar("second", diary, lambda: add(scheduler, diary, "third"))
        scheduler.register_background_task(second, name="second")

    scheduler.register_background_task(Registrar("first", diary, register), name="first")
    async with scheduler:
        await scheduler.start()
        assert sorted(diary.who("up")) == ["first", "second", "third"]
        assert {shot.state for shot in scheduler.status()} == {TaskState.RUNNING}


async def test_start_fails_with_a_task_that_was_registered_meanwhile(
    scheduler: Scheduler, diary: Diary
) -> None:
    class Broken(BackgroundTask):
        async def initialize(self) -> None:
            await anyio.sleep(3)
            raise TroubleError("no disk")

        async def execute(self) -> None: ...

    first = Registrar("first", diary, lambda: scheduler.register_background_task(Broken()))
    scheduler.register_background_task(first, name="first")
    async with scheduler:
        with pytest.raises(TaskInitializationError, match="'Broken' could not start.*no disk"):
            await scheduler.start()
    assert diary.hooks == ["up first", "down first"]


@pytest.mark.parametrize("how", ["stop", "remove"])
async def test_start_does_not_wait_for_one_that_was_registered_and_taken_away_meanwhile(
    scheduler: Scheduler, diary: Diary, how: str
) -> None:
    def register() -> None:
        task = add(scheduler, diary, "late", depends_on=["last"])
        command = scheduler.stop_task if how == "stop" else scheduler.remove_task
        others.start_soon(command, task)

    scheduler.register_background_task(Registrar("first", diary, register), name="first")
    add(scheduler, diary, "last")
    async with create_task_group() as others, scheduler:
        with fail_after(10):
            await scheduler.start()
        assert diary.who("up") == ["first", "last"]


async def test_a_start_that_fails_lets_those_go_that_wait_for_one_that_has_not_begun(
    scheduler: Scheduler, diary: Diary
) -> None:
    class Broken(Registrar):
        async def initialize(self) -> None:
            await super().initialize()
            raise TroubleError("no database")

    first = Broken("first", diary, lambda: add(scheduler, diary, "late", depends_on=["last"]))
    scheduler.register_background_task(first, name="first")
    add(scheduler, diary, "last")
    with pytest.raises(TaskInitializationError, match="no database"):
        async with scheduler:
            await scheduler.start()
    assert current_time() == 1
    assert [shot.state for shot in scheduler.status()] == ["failed", "stopped", "stopped"]
    assert diary.hooks == ["up first"]


@pytest.mark.parametrize("how", ["stopped", "cancelled"])
async def test_a_start_that_is_cut_short_lets_those_go_that_wait_for_one_that_has_not_begun(
    scheduler: Scheduler, diary: Diary, how: str
) -> None:
    first = Registrar("first", diary, lambda: add(scheduler, diary, "late", depends_on=["last"]))
    scheduler.register_background_task(first, name="first")
    add(scheduler, diary, "last")
    async with scheduler, create_task_group() as group:
        with CancelScope() as scope:

            async def cut_short() -> None:
                await anyio.sleep(0.5)
                if how == "cancelled":
                    scope.cancel()
                else:
                    await scheduler.shutdown()

            group.start_soon(cut_short)
            with pytest.raises(LifecycleError) if how == "stopped" else CancelScope():
                await scheduler.start()
    assert current_time() == 0.5
    assert {shot.state for shot in scheduler.status()} == {TaskState.STOPPED}
    assert diary.entries == []


async def test_a_task_does_not_begin_at_a_stop_because_its_dependency_does_not_come_back(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group", strategy="one_for_all")
    add(group, diary, "database", 1, restart=SOON)
    group.register_background_task(Leisurely("slow", diary, end=5), name="slow")
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(2)  # the database has ended, and waits for the slow one
        add(scheduler, diary, "web", depends_on=["database"])
        await anyio.sleep(1)
        await scheduler.shutdown()
    assert diary.when("up", "web") == []


@pytest.mark.parametrize("what", ["the scheduler", "the group"])
@pytest.mark.parametrize("waits_for", ["its back-off", "its dependency"])
async def test_an_event_task_does_not_begin_any_more_while_a_stop_waits_for_a_producer(
    scheduler: Scheduler, diary: Diary, waits_for: str, what: str
) -> None:
    class Slow(EventTask[int]):
        """Is initialised after three seconds, and fails then, to come back after three more."""

        @property
        def subscribed_event(self) -> Topic[int]:
            return NUMBERS

        async def initialize(self) -> None:
            diary.note("up", "slow")
            await anyio.sleep(3 if current_task_context().run == 1 else 0)

        async def handle_event(self, event: int, /) -> None:
            raise TroubleError

    group = scheduler.group("group")
    leader = anyio.Event()
    group.background(significant=True)(leader.wait)

    @group.background(stop_timeout=20)
    async def producer() -> None:
        await current_task_context().stopping.wait()
        await anyio.sleep(15)

    back = RestartPolicy(initial_delay=3, multiplier=1, jitter=0)
    async with scheduler:
        await scheduler.start()
        await settle()
        group.register_event_task(Slow(), name="slow", restart=back)
        if waits_for == "its dependency":

            @group.on(NUMBERS, depends_on=["slow"])
            async def waiting(number: int) -> None:
                diary.note("work", "waiting")

        await scheduler.publish(NUMBERS, 1)
        await anyio.sleep(1 if waits_for == "its dependency" else 4)
        if what == "the group":
            leader.set()
            await anyio.sleep(50)
    assert diary.who("up") == ["slow"]
    assert diary.who("work") == []


async def test_a_task_that_was_stopped_during_the_start_has_the_context_of_the_start_later(
    scheduler: Scheduler,
) -> None:
    variable: ContextVar[str] = ContextVar("variable", default="unset")
    got: list[str] = []

    class First(BackgroundTask):
        async def initialize(self) -> None:
            await scheduler.stop_task(scheduler.registry.get_by_name("last").task_id)

        async def execute(self) -> None: ...

    scheduler.register_background_task(First())

    @scheduler.background()
    async def last() -> None:
        got.append(variable.get())

    async with scheduler:
        variable.set("of the start")
        await scheduler.start()
        await scheduler.restart_task(scheduler.registry.get_by_name("last").task_id)
        await settle()
    assert got == ["of the start"]


# -- registered by those that work, or end ---------------------------------------------------------------


@pytest.mark.parametrize("hook", ["initialize", "execute", "handle_event", "shutdown"])
async def test_a_task_registered_in_a_hook_of_another_begins_at_once(
    scheduler: Scheduler, diary: Diary, hook: str
) -> None:
    class Late(Worker):
        async def initialize(self) -> None:
            await super().initialize()
            self.register_in("initialize")

        async def execute(self) -> None:
            self.register_in("execute")
            await super().execute()

        async def shutdown(self) -> None:
            self.register_in("shutdown")
            await super().shutdown()

        def register_in(self, here: str) -> None:
            if here == hook:
                add(scheduler, diary, "late")

    @scheduler.on(NUMBERS)
    async def register(number: int) -> None:
        add(scheduler, diary, "late")

    async with scheduler:
        await scheduler.start()
        task = scheduler.register_background_task(Late("task", diary), name="task")
        await anyio.sleep(1)
        if hook == "handle_event":
            await scheduler.publish(NUMBERS, 1)
        if hook == "shutdown":
            await scheduler.stop_task(task)
        await settle()
        assert diary.when("work", "late") == [1 if hook in ("handle_event", "shutdown") else 0]


async def test_a_shutdown_registers_nothing_when_everything_stops(
    scheduler: Scheduler, diary: Diary
) -> None:
    refused: list[LifecycleError] = []

    class Late(Worker):
        async def shutdown(self) -> None:
            try:
                add(scheduler, diary, "late")
            except LifecycleError as error:
                refused.append(error)

    scheduler.register_background_task(Late("task", diary))
    async with scheduler:
        await scheduler.start()
    assert "it takes no new tasks" in str(refused)
    assert [shot.name for shot in scheduler.status()] == ["Late"]
    assert diary.who("up") == ["task"]


# -- what a late task waits for --------------------------------------------------------------------------


async def test_the_wait_of_a_late_task_for_a_dependency_is_bounded_by_its_start_timeout(
    scheduler: Scheduler, diary: Diary
) -> None:
    async with scheduler:
        await scheduler.start()
        scheduler.register_background_task(Leisurely("slow", diary, begin=1000), name="slow")
        task = add(scheduler, diary, "late", depends_on=["slow"], start_timeout=5, restart=NEVER)
        await anyio.sleep(50)
        shot = scheduler.status(task)
        assert shot.state is TaskState.FAILED
        assert shot.error is not None
        what = "task 'slow', on which it depends, was not ready within the start_timeout (5 s)"
        assert f"{what} of task 'late'" in shot.error
    assert diary.who("up") == []


async def test_a_late_task_that_waited_too_long_is_restarted_by_its_policy(
    scheduler: Scheduler, diary: Diary
) -> None:
    async with scheduler:
        await scheduler.start()
        scheduler.register_background_task(Leisurely("slow", diary, begin=13), name="slow")
        add(scheduler, diary, "late", depends_on=["slow"], start_timeout=5, restart=SOON)
        await anyio.sleep(50)  # it waits up to 5, and from 6 to 11, and from 12 on
        assert diary.when("up", "late") == [13]
        assert diary.when("work", "late") == [13]


async def test_a_late_task_that_waited_too_long_is_a_failure_like_any_other(
    scheduler: Scheduler, diary: Diary
) -> None:
    with pytest.raises(TaskInitializationError, match=r"start_timeout \(5 s\)"):
        async with scheduler:
            await scheduler.start()
            scheduler.register_background_task(Leisurely("slow", diary, begin=1000), name="slow")
            add(scheduler, diary, "late", depends_on=["slow"], start_timeout=5)
            await anyio.sleep(50)
    assert current_time() == 5


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("failure", ["is not ready in time", "fails before"])
async def test_a_task_never_works_whose_dependency_has_never_become_ready(
    scheduler: Scheduler, diary: Diary, failure: str, late: bool
) -> None:
    @scheduler.background(name="keep")
    async def keep() -> None:
        await anyio.sleep_forever()

    async def database() -> None:
        if failure == "fails before":
            await anyio.sleep(5)
            raise TroubleError
        await anyio.sleep_forever()

    def register() -> None:
        scheduler.background(reports_ready=True, start_timeout=5, restart=NEVER)(database)
        add(scheduler, diary, "web", depends_on=["database"], restart=NEVER)

    if not late:
        register()
    with CancelScope() as scope:
        async with scheduler:
            try:
                await scheduler.start()
            except (TaskInitializationError, TaskExecutionError):
                scope.cancel()
            if late:
                register()
            await anyio.sleep(50)
            (web,) = [shot for shot in scheduler.status() if shot.name == "web"]
            assert web.error is not None
            assert "'database', on which it depends, failed before it was ready" in web.error
    assert diary.who("work") == []


# -- in a group that has ended ---------------------------------------------------------------------------


async def test_a_late_task_that_waits_does_not_begin_when_its_group_has_ended(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group")

    @group.background(significant=True)
    async def leader() -> None:
        await anyio.sleep(5)

    async with scheduler:
        await scheduler.start()
        scheduler.register_background_task(Leisurely("slow", diary, begin=20), name="slow")
        task = add(group.group("inner"), diary, "late", depends_on=["slow"])
        await anyio.sleep(50)
        assert diary.who("up") == ["slow"]
        assert scheduler.status(task).state is TaskState.STOPPED


@pytest.mark.parametrize("inner", [False, True])
async def test_a_group_that_has_ended_takes_no_task(
    scheduler: Scheduler, diary: Diary, inner: bool
) -> None:
    outer = scheduler.group("outer", restart=NEVER)
    group = outer.group("inner") if inner else outer
    add(outer, diary, "failing", 1)
    task = add(group, diary, "other")
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(2)
        with pytest.raises(LifecycleError, match="'late' cannot be registered.*has ended"):
            add(group, diary, "late")
        with pytest.raises(LifecycleError, match="'other' cannot be restarted.*has ended"):
            await scheduler.restart_task(task)
        await anyio.sleep(50)
        assert sorted(shot.name for shot in scheduler.status()) == ["failing", "other"]
        assert sorted(diary.who("up")) == ["failing", "other"]
        add(scheduler, diary, "late")  # elsewhere its name is free
        await settle()
        assert diary.who("work")[-1] == "late"
