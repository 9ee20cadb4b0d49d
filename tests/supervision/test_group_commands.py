"""Groups by hand: stopped, restarted and removed as a whole, and shown as they stand."""

from __future__ import annotations

import anyio
import pytest
from anyio import create_task_group
from support import SOON, TroubleError, settle
from support.diary import Diary, Leisurely, Worker, add

from orchestrio import (
    ChannelConfig,
    GroupSnapshot,
    LifecycleError,
    RestartPolicy,
    Scheduler,
    TaskShutdownError,
    TaskState,
    Topic,
    current_task_context,
)

ORDERS = Topic("orders", int)


async def test_a_group_is_stopped_as_a_whole_and_the_others_go_on(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group")
    add(group, diary, "a")
    add(group.group("inner"), diary, "b")
    add(scheduler, diary, "other")
    async with scheduler:
        await scheduler.start()
        diary.turn_the_page()
        await group.stop()
        assert diary.hooks == ["down b", "down a"]
        states = {shot.name: shot.state for shot in scheduler.status()}
        assert states == {
            "a": TaskState.STOPPED,
            "b": TaskState.STOPPED,
            "other": TaskState.RUNNING,
        }
        await group.stop()
        assert diary.hooks == ["down b", "down a"], "once more does nothing"


@pytest.mark.parametrize("how", ["by hand", "by its policy"])
async def test_nothing_is_started_in_a_group_that_has_ended(
    scheduler: Scheduler, diary: Diary, how: str
) -> None:
    group = scheduler.group("group", restart=RestartPolicy(mode="never"))
    inner = group.group("inner")
    task = add(inner, diary, "a", 1)
    async with scheduler:
        await scheduler.start()
        if how == "by hand":
            await group.stop()
        else:
            await anyio.sleep(2)
        diary.turn_the_page()
        for place in (group, inner):
            with pytest.raises(LifecycleError, match=r"'late' cannot be registered: group .* has"):
                add(place, diary, "late")
            with pytest.raises(LifecycleError, match="'newer' cannot be made: group"):
                place.group("newer")
        with pytest.raises(LifecycleError, match="'a' cannot be restarted: group 'inner' has end"):
            await scheduler.restart_task(task)
        with pytest.raises(LifecycleError, match="'inner' cannot be restarted: group 'group' has"):
            await inner.restart()
        await settle()
        assert diary.entries == []
        assert [shot.name for shot in scheduler.status()] == ["a"]


async def test_a_group_that_was_stopped_can_be_restarted_with_all_that_is_in_it(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group")
    inner = group.group("inner")
    add(inner, diary, "a")
    b = add(group, diary, "b")
    add(group, diary, "c", depends_on=["b"])
    async with scheduler:
        await scheduler.start()
        await scheduler.stop_task(b)
        await group.stop()
        diary.turn_the_page()
        await group.restart()
        assert diary.hooks == ["up a", "up b", "up c"]
        assert {shot.state for shot in scheduler.status()} == {TaskState.RUNNING}
        add(inner, diary, "late")
        await settle()
        assert diary.hooks[-1] == "up late"


async def test_a_group_that_runs_is_restarted_in_order(scheduler: Scheduler, diary: Diary) -> None:
    group = scheduler.group("group")
    add(group, diary, "a")
    add(group, diary, "b")
    add(scheduler, diary, "bound", depends_on=["a"], restart_with_dependencies=True)
    add(scheduler, diary, "other", depends_on=["a"])
    async with scheduler:
        await scheduler.start()
        diary.turn_the_page()
        await group.restart()
        await settle()
        assert diary.hooks == [
            *("down bound", "down b", "down a"),
            *("up a", "up b", "up bound"),
        ]
        assert scheduler.groups["group"].restarts == 1


async def test_what_failed_before_a_restart_of_the_group_does_not_count(
    scheduler: Scheduler, diary: Diary
) -> None:
    once = RestartPolicy(max_restarts=1, within=1000, initial_delay=1, jitter=0)
    group = scheduler.group("group")
    add(group.group("inner"), diary, "a", 1, 1, 1, 1, restart=once)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(2.5)  # it has failed once
        await group.restart()
        await anyio.sleep(1.5)  # it has failed again, and may once
        assert diary.who("fail") == ["a", "a"]
        await group.restart()
        await anyio.sleep(1.5)
        assert diary.who("fail") == ["a", "a", "a"]


async def test_messages_published_while_a_group_restarts_wait_for_it(scheduler: Scheduler) -> None:
    group = scheduler.group("group")
    scheduler.add_channel(ORDERS, ChannelConfig(overflow="block"))
    got: list[int] = []

    @group.on(ORDERS)
    async def keep(number: int) -> None:
        await anyio.sleep(1)
        got.append(number)

    async with scheduler, create_task_group() as tasks:
        await scheduler.start()
        for number in range(3):
            await scheduler.publish(ORDERS, number)
        tasks.start_soon(group.restart)
        await anyio.sleep(0.5)
        assert await scheduler.publish(ORDERS, 3) == 1
        await anyio.sleep(100)
        assert got == [0, 1, 2, 3]


async def test_a_group_that_is_removed_leaves_its_names(scheduler: Scheduler, diary: Diary) -> None:
    group = scheduler.group("group")
    inner = group.group("inner")
    add(inner, diary, "a")
    add(group, diary, "b", depends_on=["a"])
    async with scheduler:
        await scheduler.start()
        await group.remove()
        assert diary.hooks == ["up a", "up b", "down b", "down a"]
        assert scheduler.status() == []
        assert len(scheduler.registry) == 0
        assert scheduler.groups == {}
        with pytest.raises(LifecycleError, match="'group' has been removed"):
            await group.restart()
        for removed in (group, inner):
            with pytest.raises(LifecycleError, match=r"has ended\. It was removed: make a new one"):
                add(removed, diary, "a")
        again = scheduler.group("group")
        add(again.group("inner"), diary, "a")
        await settle()
        assert diary.hooks[-1] == "up a"
        assert list(scheduler.groups) == ["group", "inner"]


async def test_a_group_can_be_removed_before_the_start_and_after_the_end(
    scheduler: Scheduler, diary: Diary
) -> None:
    first, second = scheduler.group("first"), scheduler.group("second")
    add(first, diary, "a")
    add(second, diary, "b")
    await first.stop()  # nothing runs yet
    await first.remove()
    assert list(scheduler.groups) == ["second"]
    async with scheduler:
        await scheduler.start()
    assert diary.hooks == ["up b", "down b"]
    await second.remove()
    assert scheduler.groups == {}
    assert scheduler.status() == []


@pytest.mark.parametrize("how", ["stop", "restart", "remove"])
async def test_a_task_of_a_group_may_command_it_and_is_not_waited_for(
    scheduler: Scheduler, diary: Diary, how: str
) -> None:
    group = scheduler.group("group")

    class Commander(Worker):
        async def execute(self) -> None:
            if current_task_context().run == 1:
                await {"stop": group.stop, "restart": group.restart, "remove": group.remove}[how]()
                self.diary.note("asked", self.name)
            await anyio.sleep_forever()

    group.register_background_task(Commander("commander", diary), name="commander")
    add(group, diary, "member")
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(1)
        assert diary.who("asked") == ["commander"]
        ups = ["commander", "member"]
        assert diary.who("up") == (ups * 2 if how == "restart" else ups)
        assert diary.who("down") == ["member", "commander"]
        assert len(scheduler.status()) == (0 if how == "remove" else 2)


@pytest.mark.parametrize("how", ["stop", "restart", "remove"])
async def test_what_goes_wrong_in_the_end_of_a_group_is_raised_there(
    scheduler: Scheduler, diary: Diary, how: str
) -> None:
    class Fragile(Worker):
        async def shutdown(self) -> None:
            await super().shutdown()
            if len(self.diary.when("down", self.name)) == 1:
                raise TroubleError(self.name)

    group = scheduler.group("group")
    for name in "ab":
        group.register_background_task(Fragile(name, diary), name=name)
    async with scheduler:
        await scheduler.start()
        with pytest.raises(ExceptionGroup) as caught:
            await {"stop": group.stop, "restart": group.restart, "remove": group.remove}[how]()
        assert [type(error) for error in caught.value.exceptions] == [TaskShutdownError] * 2
        assert len(diary.who("up")) == (4 if how == "restart" else 2)


async def test_a_restart_of_a_group_that_is_being_removed_is_refused(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group")
    inner = group.group("inner")
    inner.register_background_task(Leisurely("a", diary, end=2), name="a")
    async with create_task_group() as tasks, scheduler:
        await scheduler.start()
        tasks.start_soon(group.remove)
        await anyio.sleep(1)
        for one in (group, inner):
            with pytest.raises(LifecycleError, match="has been removed"):
                await one.restart()
            with pytest.raises(LifecycleError, match="has ended. It was removed"):
                add(one, diary, "b")
        assert scheduler.groups["group"].ended
        await anyio.sleep(2)
        assert scheduler.groups == {}


async def test_a_stop_crosses_a_restart_of_the_group(scheduler: Scheduler, diary: Diary) -> None:
    group = scheduler.group("group", strategy="one_for_all")
    for name in "abc":
        group.register_background_task(Leisurely(name, diary, begin=2, end=2), name=name)
    outcomes: list[str] = []

    async def restart() -> None:
        try:
            await group.restart()
        except LifecycleError as error:
            outcomes.append(str(error))

    for moment in range(1, 14):
        async with create_task_group() as tasks:
            scheduler = Scheduler()
            group = scheduler.group("group")
            for name in "abc":
                group.register_background_task(Leisurely(name, diary, begin=2, end=2), name=name)
            async with scheduler:
                await scheduler.start()
                tasks.start_soon(restart)
                await anyio.sleep(moment)
                with anyio.fail_after(100):
                    await group.stop()
                assert {shot.state for shot in scheduler.status()} == {TaskState.STOPPED}
    assert outcomes, "a restart that is overtaken says so"
    assert all("was stopped while it was being restarted" in outcome for outcome in outcomes)


async def test_the_snapshots_of_groups_say_what_they_are(
    scheduler: Scheduler, diary: Diary
) -> None:
    outer = scheduler.group("outer", strategy="one_for_all", restart=SOON, significant=True)
    inner = outer.group("inner")
    add(outer, diary, "a")
    add(inner, diary, "b")
    add(inner, diary, "c")
    assert scheduler.groups == {
        "outer": GroupSnapshot(
            name="outer",
            strategy="one_for_all",
            restart=SOON,
            significant=True,
            tasks=("a",),
            groups=("inner",),
        ),
        "inner": GroupSnapshot(
            name="inner", group="outer", strategy="one_for_one", tasks=("b", "c")
        ),
    }
    async with scheduler:
        await scheduler.start()
        await inner.stop()
        assert [shot.ended for shot in scheduler.groups.values()] == [False, True]


async def test_the_scheduler_is_no_group_of_another(scheduler: Scheduler) -> None:
    async with scheduler:
        await scheduler.start()
        for command in (scheduler.stop, scheduler.restart, scheduler.remove):
            with pytest.raises(LifecycleError, match="stopped with shutdown"):
                await command()


async def test_default_names_are_numbered_anew_when_the_last_is_gone(scheduler: Scheduler) -> None:
    async def work() -> None:
        await anyio.sleep_forever()

    async with scheduler:
        await scheduler.start()
        for _ in range(2):
            scheduler.background()(work)
            scheduler.background()(work)
            shots = scheduler.status()
            assert [shot.name for shot in shots] == ["work", "work-2"]
            for shot in shots:
                await scheduler.remove_task(shot.task_id)
