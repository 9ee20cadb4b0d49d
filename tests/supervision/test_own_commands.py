"""Tasks that stop, restart or remove themselves, or each other, from any of their hooks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import product
from typing import Final, Literal, get_args

import anyio
import pytest
from anyio import current_time, fail_after
from support import NUMBERS, settle
from support.commands import COMMANDS, Command, give, what_became_of
from support.witness import Account, Reader, Witness

from orchestrio import (
    BackgroundOptions,
    ChannelConfig,
    Scheduler,
    TaskId,
    current_task_context,
)

Hook = Literal["initialize", "execute", "shutdown"]

HOOKS: Final[tuple[Hook, ...]] = get_args(Hook)


@pytest.fixture
def scheduler() -> Scheduler:
    scheduler = Scheduler(random=lambda: 0.0)
    scheduler.add_channel(NUMBERS, ChannelConfig(capacity=8, overflow="block"))
    return scheduler


class Commander(Witness):
    """Gives a command in one hook of its first run, as often as is said, and goes on."""

    def __init__(
        self,
        account: Account,
        hook: Hook,
        order: Callable[[], Awaitable[None]],
        *,
        times: int = 1,
        end: float = 0,
    ) -> None:
        super().__init__(account, end=end)
        self.hook = hook
        self.order = order
        self.times = times
        self.went_on: list[Hook] = []

    async def _order(self, hook: Hook) -> None:
        if hook == self.hook and current_task_context().run == 1:
            for _ in range(self.times):
                await self.order()
            self.went_on.append(hook)

    async def initialize(self) -> None:
        with self.account.hook("initialize"):
            await self._order("initialize")

    async def execute(self) -> None:
        with self.account.hook("execute"):
            await self._order("execute")
            await anyio.sleep_forever()

    async def shutdown(self) -> None:
        with self.account.hook("shutdown"):
            await self._order("shutdown")
            await anyio.sleep(self.end)


BECOMES: Final = {"stop": "down", "restart": "up", "remove": "gone", "shutdown": "down"}


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("hook", HOOKS)
async def test_a_background_task_may_command_itself_in_any_hook(
    scheduler: Scheduler, hook: Hook, command: Command, times: int
) -> None:
    account = Account()

    async def order() -> None:
        await give(command, scheduler, current_task_context().task_id)

    async with scheduler:
        await scheduler.start()
        commander = Commander(account, hook, order, times=times)
        task = scheduler.register_background_task(commander, name="task")
        await settle()
        if hook == "shutdown":
            with fail_after(5):
                await scheduler.stop_task(task)
        await anyio.sleep(100)
        assert what_became_of(scheduler, task) == BECOMES[command]
        assert account.inside == (["execute"] if command == "restart" else [])
        assert account.runs == (2 if command == "restart" else 1)
    assert account.wrong == []
    assert not account.is_up


def outcome(first: Command, second: Command) -> str:
    """What a task comes to that hears of two commands in this order."""
    if "remove" in (first, second):
        return "gone"
    return "down" if "shutdown" in (first, second) else BECOMES[second]


PAIRS: Final = pytest.mark.parametrize(("first", "second"), list(product(COMMANDS, COMMANDS)))


@PAIRS
async def test_a_shutdown_may_command_its_own_task_twice(
    scheduler: Scheduler, first: Command, second: Command
) -> None:
    account = Account()

    async def order() -> None:
        for command in (first, second):
            await give(command, scheduler, current_task_context().task_id)

    async with scheduler:
        await scheduler.start()
        commander = Commander(account, "shutdown", order, end=2)
        task = scheduler.register_background_task(commander, name="task")
        await settle()
        with fail_after(5):
            await scheduler.stop_task(task)
        await anyio.sleep(100)
        assert what_became_of(scheduler, task) == outcome(first, second)
    assert commander.went_on == ["shutdown"]
    assert account.wrong == []
    assert not account.is_up


class Bossy(Reader):
    """Gives some commands when it reads its first number, and finishes it afterwards."""

    def __init__(self, account: Account, order: Callable[[], Awaitable[None]]) -> None:
        super().__init__(account, each=3)
        self.order = order

    async def handle_event(self, event: int, /) -> None:
        if event == 0:
            await self.order()
        await super().handle_event(event)


@pytest.mark.parametrize("command", COMMANDS)
async def test_a_handler_that_commands_its_own_task_finishes_its_message(
    scheduler: Scheduler, command: Command
) -> None:
    account = Account()

    async def order() -> None:
        await give(command, scheduler, current_task_context().task_id)

    reader = Bossy(account, order)
    async with scheduler:
        task = scheduler.register_event_task(reader)
        await scheduler.start()
        for number in range(3):
            await scheduler.publish(NUMBERS, number)
        await anyio.sleep(100)
        assert what_became_of(scheduler, task) == BECOMES[command]
        if command in ("stop", "restart"):
            shot = scheduler.status(task)
            assert (shot.handled, shot.failed) == (len(reader.read), 0)
            assert shot.handled + shot.unread == 3
        if command != "shutdown":
            receivers = scheduler.bus.statistics()[NUMBERS].receivers
            assert receivers == (1 if command == "restart" else 0)
    # A restart keeps the rest for the next run, and the stop of everything drains.
    assert reader.read == ([0] if command in ("stop", "remove") else [0, 1, 2])
    assert account.wrong == []


@PAIRS
async def test_a_handler_may_command_its_own_task_twice(
    scheduler: Scheduler, first: Command, second: Command
) -> None:
    account = Account()

    async def order() -> None:
        for command in (first, second):
            await give(command, scheduler, current_task_context().task_id)

    reader = Bossy(account, order)
    async with scheduler:
        task = scheduler.register_event_task(reader)
        await scheduler.start()
        for number in range(3):
            await scheduler.publish(NUMBERS, number)
        await anyio.sleep(100)
        assert what_became_of(scheduler, task) == outcome(first, second)
        if "shutdown" not in (first, second):
            up = outcome(first, second) == "up"
            assert scheduler.bus.statistics()[NUMBERS].receivers == (1 if up else 0)
            with fail_after(20):
                for _ in range(20):  # more than there is room for
                    await scheduler.publish(NUMBERS, 9) if not up else None
    assert reader.read[0] == 0, "it was not cut off"
    assert account.wrong == []
    assert not account.is_up


# -- each other ------------------------------------------------------------------------------------------

#: How the other one stands to the one that commands it.
Relation = Literal["before", "after", "dependency", "dependant", "restarted with it"]


@pytest.mark.parametrize("command", ["stop", "restart", "remove"])
@pytest.mark.parametrize(
    ("relation", "hook"),
    # A dependant begins when initialize() is over, and cannot be waited for there.
    [*product(get_args(Relation), ["execute"]), *product(["before", "dependency"], ["initialize"])],
)
async def test_a_task_may_command_another_one(
    scheduler: Scheduler, relation: Relation, hook: Hook, command: Command
) -> None:
    own, others = Account(), Account()

    async def order() -> None:
        await anyio.sleep(1)  # both are there
        await give(command, scheduler, other)

    async with scheduler:
        await scheduler.start()
        commander = Commander(own, hook, order)
        options = BackgroundOptions(name="commander")
        if relation == "dependency":
            options["depends_on"] = ["other"]
        if relation == "restarted with it":
            options["depends_on"] = ["other"]
            options["restart_with_dependencies"] = True
        witness = Witness(others, end=2)
        if relation in ("after", "dependant"):
            task = scheduler.register_background_task(commander, **options)
            needs = ["commander"] if relation == "dependant" else []
            other = scheduler.register_background_task(witness, name="other", depends_on=needs)
        else:
            other = scheduler.register_background_task(witness, name="other")
            task = scheduler.register_background_task(commander, **options)
        await settle()
        await anyio.sleep(100)
        assert what_became_of(scheduler, other) == BECOMES[command]
        assert what_became_of(scheduler, task) == "up"
        both = command == "restart" and relation == "restarted with it"
        assert own.runs == (2 if both else 1)
        assert others.runs == (2 if command == "restart" else 1)
    assert own.wrong == others.wrong == []
    assert not own.is_up
    assert not others.is_up


@pytest.mark.parametrize("command", ["stop", "restart", "remove"])
async def test_a_handler_may_command_a_task_that_publishes_to_it(
    scheduler: Scheduler, command: Command
) -> None:
    own, others = Account(), Account()

    class Publisher(Witness):
        async def execute(self) -> None:
            with self.account.hook("execute"):
                for number in range(20):  # more than there is room for
                    await scheduler.publish(NUMBERS, number)
                await anyio.sleep_forever()

    async def order() -> None:
        if others.runs == 1:
            await anyio.sleep(1)  # now the publisher waits for room
            await give(command, scheduler, other)

    reader = Bossy(own, order)
    async with scheduler:
        scheduler.register_event_task(reader)
        other = scheduler.register_background_task(Publisher(others), name="publisher")
        await scheduler.start()
        await anyio.sleep(200)
        assert what_became_of(scheduler, other) == BECOMES[command]
        assert reader.read[:8] == list(range(8))
        assert scheduler.status()[0].unread == 0
    assert own.wrong == others.wrong == []


@PAIRS
@pytest.mark.parametrize("depends", [False, True])
async def test_two_tasks_command_each_other_at_once(
    scheduler: Scheduler, first: Command, second: Command, depends: bool
) -> None:
    accounts = Account(), Account()
    tasks: list[TaskId] = []

    async def order_first() -> None:
        await anyio.sleep(1)
        await give(first, scheduler, tasks[1])

    async def order_second() -> None:
        await anyio.sleep(1)
        await give(second, scheduler, tasks[0])

    async with scheduler:
        one = Commander(accounts[0], "execute", order_first, end=1)
        two = Commander(accounts[1], "execute", order_second, end=1)
        tasks.append(scheduler.register_background_task(one, name="one"))
        tasks.append(
            scheduler.register_background_task(
                two, name="two", depends_on=["one"] if depends else []
            )
        )
        await scheduler.start()
        await anyio.sleep(100)
        became = [what_became_of(scheduler, task) for task in tasks]
        # Who is cancelled first may not have come to give its own command.
        assert became[1] in (BECOMES[first], "up", "down" if second == "shutdown" else "up")
        assert became[0] in (BECOMES[second], "up", "down" if first == "shutdown" else "up")
        assert became != ["up", "up"] or "restart" in (first, second)
    for account in accounts:
        assert account.wrong == []
        assert not account.is_up


@pytest.mark.parametrize("command", ["stop", "restart", "remove"])
async def test_a_shutdown_may_command_a_task_that_shuts_down_before_it(
    scheduler: Scheduler, command: Command
) -> None:
    own, others = Account(), Account()

    async def order() -> None:
        await give(command, scheduler, other)

    async with scheduler:
        commander = Commander(own, "shutdown", order)
        task = scheduler.register_background_task(commander, name="commander")
        other = scheduler.register_background_task(Witness(others, end=2), name="other")
        await scheduler.start()
        with fail_after(5):
            await scheduler.stop_task(task)
        assert what_became_of(scheduler, other) == BECOMES[command]
        assert what_became_of(scheduler, task) == "down"
    assert commander.went_on == ["shutdown"]
    assert own.wrong == others.wrong == []


async def test_a_shutdown_does_not_wait_for_one_that_waits_for_it(
    scheduler: Scheduler,
) -> None:
    own, others = Account(), Account()

    async def order() -> None:
        await scheduler.stop_task(other)

    async with scheduler:
        other = scheduler.register_background_task(Witness(others), name="other")
        commander = Commander(own, "shutdown", order)
        task = scheduler.register_background_task(commander, name="commander", shutdown_timeout=3)
        await scheduler.start()
        await scheduler.stop_task(task)
        assert current_time() == 0
        await settle()
        assert what_became_of(scheduler, other) == "down"
    assert own.wrong == others.wrong == []
