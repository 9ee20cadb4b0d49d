"""Two commands for one task at nearly the same time: the later one has it, and nothing is lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import product
from typing import Final, Literal, get_args

import anyio
import pytest
from anyio import (
    CancelScope,
    ClosedResourceError,
    create_task_group,
    current_time,
    fail_after,
)
from anyio.lowlevel import checkpoint
from support import NUMBERS, TroubleError, settle
from support.commands import COMMANDS, Command, give, what_became_of
from support.witness import Account, Reader, Witness

from orchestrio import (
    ChannelConfig,
    LifecycleError,
    RestartPolicy,
    Scheduler,
    Strategy,
    TaskExecutionError,
    TaskId,
    TaskNotFoundError,
    TaskShutdownError,
    TaskState,
    current_task_context,
)

PATIENT: Final = RestartPolicy(initial_delay=50, max_delay=50, jitter=0)


def new_scheduler() -> Scheduler:
    scheduler = Scheduler(random=lambda: 0.0)
    scheduler.add_channel(NUMBERS, ChannelConfig(capacity=1, overflow="block"))
    return scheduler


# -- situations ----------------------------------------------------------------------------------------


async def with_a_slow_shutdown(scheduler: Scheduler, account: Account) -> TaskId:
    return scheduler.register_background_task(Witness(account, end=2), name="task")


async def that_takes_its_time_to_leave(scheduler: Scheduler, account: Account) -> TaskId:
    return scheduler.register_background_task(Witness(account, leave=2, end=1), name="task")


async def that_is_being_initialised(scheduler: Scheduler, account: Account) -> TaskId:
    return scheduler.register_background_task(Witness(account, begin=2), name="task")


async def that_waits_for_its_dependency(scheduler: Scheduler, account: Account) -> TaskId:
    scheduler.register_background_task(Witness(Account(), begin=5), name="dependency")
    return scheduler.register_background_task(
        Witness(account), name="task", depends_on=["dependency"]
    )


async def that_waits_until_its_dependency_is_ready(
    scheduler: Scheduler, account: Account
) -> TaskId:
    dependency = Witness(Account(), ready_after=5)
    scheduler.register_background_task(dependency, name="dependency", reports_ready=True)
    return scheduler.register_background_task(
        Witness(account), name="task", depends_on=["dependency"]
    )


async def that_backs_off(scheduler: Scheduler, account: Account) -> TaskId:
    failing = Witness(account, fails_after=0)
    return scheduler.register_background_task(failing, name="task", restart=PATIENT)


async def that_shuts_down_before_its_restart(scheduler: Scheduler, account: Account) -> TaskId:
    failing = Witness(account, fails_after=0, end=2)
    return scheduler.register_background_task(failing, name="task", restart=PATIENT)


SITUATIONS: Final[tuple[Callable[[Scheduler, Account], Awaitable[TaskId]], ...]] = (
    with_a_slow_shutdown,
    that_takes_its_time_to_leave,
    that_is_being_initialised,
    that_waits_for_its_dependency,
    that_waits_until_its_dependency_is_ready,
    that_backs_off,
    that_shuts_down_before_its_restart,
)


def outcomes(first: Command, second: Command) -> set[str]:
    """What a task may come to that hears of two commands in this order."""
    if "remove" in (first, second):
        return {"gone"}
    if "shutdown" in (first, second) or second == "stop":
        return {"down"}
    return {"up"}


PAIRS: Final = pytest.mark.parametrize(("first", "second"), list(product(COMMANDS, COMMANDS)))
STEPS: Final = range(9)
"""How many checkpoints lie between two commands."""


async def cross(
    scheduler: Scheduler, task: TaskId, first: Command, second: Command, steps: int
) -> str:
    """Give two commands one after the other, and say what became of the task."""
    with fail_after(100):
        async with create_task_group() as group:
            group.start_soon(give, first, scheduler, task)
            for _ in range(steps):
                await checkpoint()
            await give(second, scheduler, task)
    await anyio.sleep(200)  # nothing is still to come
    expected = outcomes(first, second)
    if steps < 2:  # either may have been heard first
        expected |= outcomes(second, first)
    became = what_became_of(scheduler, task)
    assert became in expected, f"it is {became}, with {steps} checkpoints in between"
    return became


@PAIRS
@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda one: one.__name__)
async def test_two_commands_cross_at_a_background_task(
    situation: Callable[[Scheduler, Account], Awaitable[TaskId]], first: Command, second: Command
) -> None:
    for steps in STEPS:
        account = Account()
        async with new_scheduler() as scheduler:
            await scheduler.start()
            task = await situation(scheduler, account)
            await settle()
            became = await cross(scheduler, task, first, second, steps)
            assert account.inside == (["execute"] if became == "up" else [])
        assert account.wrong == []
        assert not account.is_up, "what was initialised was shut down"


async def publish(scheduler: Scheduler, *numbers: int) -> None:
    """Publish until the scheduler stops."""
    with suppress(LifecycleError, ClosedResourceError):
        for number in numbers:
            await scheduler.publish(NUMBERS, number)


@PAIRS
async def test_two_commands_cross_at_an_event_task_with_messages_before_it(
    first: Command, second: Command
) -> None:
    for steps in STEPS:
        account = Account()
        reader = Reader(account, each=3, end=1)
        async with create_task_group() as publishers, new_scheduler() as scheduler:
            task = scheduler.register_event_task(reader)
            await scheduler.start()
            await publish(scheduler, 0, 1)  # one is in hand, one unread
            await settle()
            publishers.start_soon(publish, scheduler, 2, 3)  # there is no room
            await settle()
            became = await cross(scheduler, task, first, second, steps)
            assert reader.read[:2] == [0, 1], "all that was published before is handled"
            assert reader.read == list(range(len(reader.read))), "each once, and in order"
            if "shutdown" not in (first, second):
                receivers = scheduler.bus.statistics()[NUMBERS].receivers
                assert receivers == (1 if became == "up" else 0)
                with fail_after(50):
                    assert await scheduler.publish(NUMBERS, 4) == receivers
        assert account.wrong == []
        assert not account.is_up


@PAIRS
@pytest.mark.parametrize("begin", [0, 30], ids=["for its time", "for another one"])
@pytest.mark.parametrize("end", [0, 2], ids=["it waits", "it shuts down"])
async def test_two_commands_cross_at_an_event_task_before_its_restart(
    first: Command, second: Command, end: float, begin: float
) -> None:
    class Failing(Reader):
        async def handle_event(self, event: int, /) -> None:
            await super().handle_event(event)
            if event == 0:
                raise TroubleError

    for steps in STEPS:
        account = Account()
        reader = Failing(account, end=end)
        async with create_task_group() as publishers, new_scheduler() as scheduler:
            group = scheduler.group("group", strategy="one_for_all")
            group.register_background_task(Witness(Account(), begin=begin))
            task = group.register_event_task(reader, restart=PATIENT)
            await scheduler.start()
            await publish(scheduler, 0, 1)
            publishers.start_soon(publish, scheduler, 2, 3)
            await settle()
            became = await cross(scheduler, task, first, second, steps)
            if "shutdown" not in (first, second):
                receivers = scheduler.bus.statistics()[NUMBERS].receivers
                assert receivers == (1 if became == "up" else 0)
                with fail_after(50):
                    assert await scheduler.publish(NUMBERS, 4) == receivers
        assert account.wrong == []
        assert not account.is_up


# -- one of them is cancelled, or meets a task that does not do as it is told ----------------------------


@pytest.mark.parametrize("command", COMMANDS)
async def test_a_command_that_is_cancelled_on_its_way_leaves_no_subscription_behind(
    command: Command,
) -> None:
    for steps in STEPS:
        account = Account()
        reader = Reader(account, each=3, end=1)
        async with new_scheduler() as scheduler:
            task = scheduler.register_event_task(reader)
            await scheduler.start()
            await publish(scheduler, 0, 1)
            async with create_task_group() as group:
                group.start_soon(give, command, scheduler, task)
                for _ in range(steps):
                    await checkpoint()
                group.cancel_scope.cancel()
            await anyio.sleep(100)
            if command == "shutdown" and scheduler.stopping.is_set():
                continue
            became = what_became_of(scheduler, task)
            receivers = scheduler.bus.statistics()[NUMBERS].receivers
            assert receivers == (1 if became == "up" else 0)
            await scheduler.stop_task(task) if became != "gone" else None
            with fail_after(50):
                assert await scheduler.publish(NUMBERS, 2) == 0
        assert account.wrong == []
        assert not account.is_up


@pytest.mark.parametrize("at", [0, 1, 3.5, 4.5, 6, 7.5])
async def test_a_restart_that_is_cancelled_goes_on(at: float) -> None:
    account = Account()
    reader = Reader(account, each=2, end=1, begin=1)
    async with new_scheduler() as scheduler:
        task = scheduler.register_event_task(reader)
        await scheduler.start()
        await publish(scheduler, 0, 1)
        with anyio.move_on_after(at):
            await scheduler.restart_task(task)
        await anyio.sleep(50)
        if account.runs > 1:
            assert scheduler.status(task).state is TaskState.RUNNING
        assert scheduler.bus.statistics()[NUMBERS].receivers == 1
        await scheduler.stop_task(task)
        assert scheduler.bus.statistics()[NUMBERS].receivers == 0
    assert reader.read == [0, 1]
    assert account.wrong == []


async def test_a_restart_of_a_stopped_task_that_is_cancelled_leaves_no_subscription_behind() -> (
    None
):
    for steps in STEPS:
        account = Account()
        async with new_scheduler() as scheduler:
            task = scheduler.register_event_task(Reader(account, begin=3))
            await scheduler.start()
            await scheduler.stop_task(task)
            async with create_task_group() as group:
                group.start_soon(scheduler.restart_task, task)
                for _ in range(steps):
                    await checkpoint()
                group.cancel_scope.cancel()
            await anyio.sleep(100)
            became = what_became_of(scheduler, task)
            receivers = scheduler.bus.statistics()[NUMBERS].receivers
            assert receivers == (1 if became == "up" else 0)
            await scheduler.stop_task(task)
            assert scheduler.bus.statistics()[NUMBERS].receivers == 0
        assert account.wrong == []


async def test_a_restart_that_is_cancelled_as_it_begins_leaves_what_is_told_of_the_task() -> None:
    async with new_scheduler() as scheduler:
        task = scheduler.register_event_task(Reader(Account()))
        await scheduler.start()
        await publish(scheduler, 1, 2, 3)
        await scheduler.stop_task(task)
        with CancelScope() as scope:
            scope.cancel()
            await scheduler.restart_task(task)
        assert scheduler.status(task).handled == 3


async def test_a_task_that_waits_for_its_dependency_is_restarted_as_one_run() -> None:
    account = Account()
    async with new_scheduler() as scheduler:
        await scheduler.start()
        task = await that_waits_for_its_dependency(scheduler, account)
        await anyio.sleep(1)
        with fail_after(5):
            await scheduler.restart_task(task)
        assert current_time() == 5, "when its dependency is there"
        await anyio.sleep(50)
        assert account.hooks == ["initialize", "execute"]
    assert account.wrong == []


class Stubborn(Witness):
    """Does not heed its cancellation for half a minute."""

    async def execute(self) -> None:
        with self.account.hook("execute"):
            try:
                await anyio.sleep_forever()
            finally:
                with CancelScope(shield=True):
                    await anyio.sleep(30)


async def test_a_task_that_ignores_its_cancellation_is_not_restarted_beside_itself() -> None:
    account = Account()
    with pytest.raises(TaskExecutionError, match="'task' cannot be restarted.*does not end"):
        async with new_scheduler() as scheduler:
            task = scheduler.register_background_task(
                Stubborn(account), name="task", stop_timeout=1
            )
            await scheduler.start()
            with pytest.raises(TaskShutdownError, match="stop_timeout"):
                await scheduler.restart_task(task)
            assert current_time() == 1
            await anyio.sleep(100)
    assert account.hooks == ["initialize", "execute", "shutdown"], "it is shut down at last"
    assert account.wrong == []


class StubbornToTheEnd(Witness):
    """Does not heed the cancellation of its shutdown for half a minute."""

    async def shutdown(self) -> None:
        with self.account.hook("shutdown"), CancelScope(shield=True):
            await anyio.sleep(30)


@pytest.mark.parametrize("kind", [Stubborn, StubbornToTheEnd])
async def test_a_task_that_was_given_up_is_not_restarted_beside_itself(kind: type[Witness]) -> None:
    account = Account()
    async with new_scheduler() as scheduler:
        task = scheduler.register_background_task(kind(account), stop_timeout=1, shutdown_timeout=1)
        await scheduler.start()
        with pytest.raises(TaskShutdownError):
            await scheduler.stop_task(task)
        with pytest.raises(LifecycleError):
            await scheduler.restart_task(task)
        await anyio.sleep(100)
        assert scheduler.status(task).state is TaskState.STOPPED
        await scheduler.restart_task(task)
        assert scheduler.status(task).state is TaskState.RUNNING
        with pytest.raises(TaskShutdownError):
            await scheduler.stop_task(task)
    assert account.wrong == []


async def test_a_task_that_was_given_up_can_be_restarted_when_it_has_ended_after_all() -> None:
    account = Account()
    async with new_scheduler() as scheduler:
        task = scheduler.register_background_task(Stubborn(account), stop_timeout=1)
        await scheduler.start()
        with pytest.raises(TaskShutdownError, match="stop_timeout"):
            await scheduler.stop_task(task)
        assert scheduler.status(task).stuck
        await anyio.sleep(30)
        assert not scheduler.status(task).stuck
        await scheduler.restart_task(task)
        assert account.hooks == ["initialize", "execute", "shutdown", "initialize", "execute"]
        with pytest.raises(TaskShutdownError, match="stop_timeout"):
            await scheduler.stop_task(task)
    assert account.wrong == []


async def test_a_restart_waits_for_one_that_heeds_its_cancellation_late() -> None:
    account = Account()
    async with new_scheduler() as scheduler:
        task = scheduler.register_background_task(Stubborn(account), stop_timeout=40)
        await scheduler.start()
        await scheduler.restart_task(task)
        assert current_time() == 30
        assert account.hooks == ["initialize", "execute", "shutdown", "initialize", "execute"]
    assert account.wrong == []


# -- the restart of a task that is being removed --------------------------------------------------------


@pytest.mark.parametrize("strategy", ["one_for_one", "one_for_all", "rest_for_one"])
async def test_a_task_that_is_being_removed_does_not_come_back_with_its_group(
    strategy: Strategy,
) -> None:
    account, other = Account(), Account()
    async with new_scheduler() as scheduler:
        group = scheduler.group("group", strategy=strategy)
        failing = Witness(other, fails_after=1)
        group.register_background_task(failing, name="failing", restart=PATIENT)
        slow = Witness(account, end=2)
        task = group.register_background_task(slow, name="slow", restart=PATIENT)
        await scheduler.start()
        with fail_after(10):
            await scheduler.remove_task(task)  # from 0 to 2, and the other one fails at 1
        await anyio.sleep(100)
        assert [shot.name for shot in scheduler.status()] == ["failing"]
        assert (account.runs, other.runs) == (1, 2)
    assert account.wrong == other.wrong == []


async def test_the_restart_of_a_task_that_is_being_removed_is_refused() -> None:
    account = Account()
    async with new_scheduler() as scheduler, create_task_group() as group:
        task = scheduler.register_background_task(Witness(account, end=2), name="task")
        await scheduler.start()
        group.start_soon(scheduler.remove_task, task)
        await anyio.sleep(1)
        with pytest.raises(TaskNotFoundError, match="'task' has been removed, or is being removed"):
            await scheduler.restart_task(task)
        await anyio.sleep(50)
        assert scheduler.status() == []
    assert account.hooks == ["initialize", "execute", "shutdown"]


async def test_a_member_that_is_stopped_holds_the_restart_of_its_group_up_no_more() -> None:
    accounts = {name: Account() for name in ("outside", "waiting", "failing")}
    patient = RestartPolicy(initial_delay=1000, max_delay=1000, jitter=0)
    soon = RestartPolicy(initial_delay=1, jitter=0)
    async with new_scheduler() as scheduler:
        outside = Witness(accounts["outside"], fails_after=1)
        scheduler.register_background_task(outside, name="outside", restart=patient)
        group = scheduler.group("group", strategy="one_for_all")
        task = group.register_background_task(
            Witness(accounts["waiting"]), name="waiting", depends_on=["outside"]
        )
        failing = Witness(accounts["failing"], fails_after=2)
        group.register_background_task(failing, name="failing", restart=soon)
        await scheduler.start()
        await anyio.sleep(10)
        assert accounts["failing"].runs == 1, "it begins after the one that waits"
        await scheduler.stop_task(task)
        await settle()
        assert accounts["failing"].runs == 2
        assert current_time() == 10


# -- a command, and something that happens to the task or its group ---------------------------------------

Incident = Literal["the task fails", "a sibling fails", "the group ends"]


class Told(Witness):
    """Fails when it is told to, as often as that is."""

    def __init__(self, account: Account, *, end: float = 0) -> None:
        super().__init__(account, end=end)
        self.told = anyio.Event()

    async def execute(self) -> None:
        with self.account.hook("execute"):
            self.told = anyio.Event()
            await self.told.wait()
            raise TroubleError


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("incident", get_args(Incident))
@pytest.mark.parametrize("command_first", [True, False])
@pytest.mark.parametrize("end", [0, 2])
async def test_a_command_crosses_what_happens_to_the_task_or_its_group(
    incident: Incident, command: Command, command_first: bool, end: float
) -> None:
    policy = RestartPolicy(initial_delay=1, multiplier=1, jitter=0, max_restarts=None)
    for steps in STEPS:
        account, others = Account(), Account()
        async with create_task_group() as commands, new_scheduler() as scheduler:
            group = scheduler.group("group", strategy="one_for_all")
            leader = anyio.Event()
            group.background(significant=True)(leader.wait)
            told, sibling = Told(account, end=end), Told(others, end=end)
            task = group.register_background_task(told, name="task", restart=policy)
            group.register_background_task(sibling, name="sibling", restart=policy)
            await scheduler.start()
            await settle()
            if command_first:
                commands.start_soon(give, command, scheduler, task)
                for _ in range(steps):
                    await checkpoint()
            if incident == "the group ends":
                leader.set()
            else:
                (told if incident == "the task fails" else sibling).told.set()
            if not command_first:
                for _ in range(steps):
                    await checkpoint()
                commands.start_soon(give, command, scheduler, task)
            await anyio.sleep(100)
            became = what_became_of(scheduler, task)
            if incident == "the group ends" and command != "remove":
                assert became == "down"
            else:
                assert {became} == outcomes(command, command)
            assert account.inside == (["execute"] if became == "up" else [])
            over = command == "shutdown" or incident == "the group ends"
            assert others.inside == ([] if over else ["execute"])
        for one in (account, others):
            assert one.wrong == []
            assert not one.is_up


@pytest.mark.parametrize("command", COMMANDS)
async def test_two_commands_cross_at_an_event_task_with_several_workers(command: Command) -> None:
    for second, steps in product(COMMANDS, STEPS):
        handled: list[int] = []
        async with create_task_group() as publishers, new_scheduler() as scheduler:

            @scheduler.on(NUMBERS, name="task", concurrency=3)
            async def handle(number: int, handled: list[int] = handled) -> None:
                await anyio.sleep(2)
                handled.append(number)

            task = scheduler.registry.get_by_name("task").task_id
            await scheduler.start()
            publishers.start_soon(publish, scheduler, *range(8))
            await settle()
            became = await cross(scheduler, task, command, second, steps)
            assert sorted(set(handled)) == sorted(handled), "none twice"
            assert set(handled) >= {0, 1, 2}, "what was in hand was finished"
            if "shutdown" not in (command, second):
                receivers = scheduler.bus.statistics()[NUMBERS].receivers
                assert receivers == (1 if became == "up" else 0)
                if became == "up" and "stop" not in (command, second):
                    assert sorted(handled) == list(range(8)), "nothing is lost over a restart"


@pytest.mark.parametrize("what", ["task", "group"])
@pytest.mark.parametrize("end", ["shutdown", "stop of the group around"])
@pytest.mark.parametrize("slow", [False, True])
async def test_a_restart_that_a_stop_overtakes_is_no_failure_of_the_task_that_asked_for_it(
    what: str, end: str, slow: bool
) -> None:
    scheduler = new_scheduler()
    around = scheduler.group("around")
    inner = around.group("inner")
    account = Account()
    scheduler.background(name="neighbour")(anyio.sleep_forever)
    async with scheduler:
        await scheduler.start()
        around.register_background_task(Witness(Account(), begin=1000 if slow else 1), name="gate")
        watched = inner.register_background_task(
            Witness(account), name="watched", depends_on=["gate"]
        )

        @around.background()
        async def keeper() -> None:
            if what == "task":
                await scheduler.restart_task(watched)
            else:
                await inner.restart()
            await anyio.sleep_forever()

        await anyio.sleep(1)
        await (scheduler.shutdown() if end == "shutdown" else around.stop())
        (shot,) = [task for task in scheduler.status() if task.name == "keeper"]
        assert (shot.state, shot.error) == (TaskState.STOPPED, None)
    assert account.wrong == []
    assert not account.is_up


@pytest.mark.parametrize("shielded", [False, True])
async def test_a_restart_that_comes_after_the_stop_has_begun_ends_with_the_task(
    caplog: pytest.LogCaptureFixture, shielded: bool
) -> None:
    scheduler = new_scheduler()
    watched = scheduler.register_background_task(Witness(Account()), name="watched")

    @scheduler.background()
    async def keeper() -> None:
        await scheduler.stopping.wait()
        with CancelScope(shield=shielded):
            await scheduler.restart_task(watched)

    async with scheduler:
        await scheduler.start()
        await settle()
        with fail_after(1):
            await scheduler.shutdown()
    (shot,) = [task for task in scheduler.status() if task.name == "keeper"]
    assert shot.state is (TaskState.FAILED if shielded else TaskState.STOPPED)
    assert ("only a running scheduler" in caplog.text) is shielded


async def test_a_task_that_hears_of_the_stop_and_commands_all_the_same_fails_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scheduler = new_scheduler()

    @scheduler.background(stop_timeout=5)
    async def listening() -> None:
        await current_task_context().stopping.wait()
        scheduler.background(name="more")(anyio.sleep_forever)

    async with scheduler:
        await scheduler.start()
        await settle()
        await scheduler.shutdown()
    assert "takes no new tasks, while it was stopping" in caplog.text
