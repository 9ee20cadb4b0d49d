"""``KeyboardInterrupt`` and ``SystemExit`` mean the process, whichever hook raises them.

They end the run, with no restart, no retry and no dead letter; all others are shut down; and they
reach the caller as they are, with the exit code kept.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import anyio
import anyio.lowlevel
import pytest
from anyio import create_task_group
from support import NUMBERS, SOON, TroubleError, settle

from orchestrio import (
    DEAD_LETTERS,
    BackgroundTask,
    ChannelConfig,
    DeadLetter,
    EventTask,
    OnError,
    RestartPolicy,
    Scheduler,
    TaskId,
    Topic,
    current_task_context,
)


class Exit:
    """A way to leave, and how it is known again."""

    def __init__(self, name: str, make: Callable[[], BaseException]) -> None:
        self.name, self.make = name, make

    @property
    def kind(self) -> type[BaseException]:
        error = self.make()
        return type(error.exceptions[-1] if isinstance(error, BaseExceptionGroup) else error)

    async def leave(self) -> None:
        await anyio.lowlevel.checkpoint()
        raise self.make()

    def is_it(self, error: BaseException) -> bool:
        """Whether this is what was raised, with all that it carries."""
        return type(error) is self.kind and error.args == (3,)


EXITS = [
    Exit("exit", lambda: SystemExit(3)),
    Exit("interrupt", lambda: KeyboardInterrupt(3)),
    Exit("group", lambda: BaseExceptionGroup("both", [TroubleError(), SystemExit(3)])),
    Exit(
        "nested",
        lambda: BaseExceptionGroup(
            "all", [ExceptionGroup("some", [TroubleError()]), KeyboardInterrupt(3)]
        ),
    ),
]


@pytest.fixture(params=EXITS, ids=lambda way: way.name)
def way(request: pytest.FixtureRequest) -> Exit:
    chosen: Exit = request.param
    return chosen


class Neighbour(BackgroundTask):
    """Works until it is stopped."""

    def __init__(self) -> None:
        self.hooks: list[str] = []

    async def initialize(self) -> None:
        self.hooks.append("up")

    async def execute(self) -> None:
        await anyio.sleep_forever()

    async def shutdown(self) -> None:
        self.hooks.append("down")


class Leaver(BackgroundTask):
    """Leaves in one of its hooks, in one of its runs."""

    def __init__(self, way: Exit, hook: str, run: int = 1) -> None:
        self.way, self.hook, self.run = way, hook, run
        self.hooks: list[str] = []

    async def in_hook(self, hook: str) -> None:
        run = current_task_context().run
        self.hooks.append(f"{hook} {run}")
        if (hook, run) == (self.hook, self.run):
            await self.way.leave()

    async def initialize(self) -> None:
        await self.in_hook("initialize")

    async def execute(self) -> None:
        await self.in_hook("execute")
        await anyio.sleep_forever()

    async def shutdown(self) -> None:
        await self.in_hook("shutdown")


class Failing(Leaver):
    """Fails in its first run, so that a policy restarts it."""

    async def execute(self) -> None:
        await self.in_hook("execute")
        if current_task_context().run == 1:
            raise TroubleError
        await anyio.sleep_forever()


class Listener(EventTask[int]):
    """Leaves when it handles 1, or when it hears that it lags."""

    def __init__(self, way: Exit, hook: str = "handle_event") -> None:
        self.way, self.hook = way, hook
        self.calls: list[int] = []

    @property
    def subscribed_event(self) -> Topic[int]:
        return NUMBERS

    async def handle_event(self, event: int, /) -> None:
        self.calls.append(event)
        if event == 1 and self.hook == "handle_event":
            await self.way.leave()

    async def handle_lag(self, missed: int) -> None:
        if self.hook == "handle_lag":
            await self.way.leave()


Command = Callable[[Scheduler, TaskId], Awaitable[object]]


class Ends:
    """Runs a scheduler with a task between two others, and sees how that ends."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.first, self.last = Neighbour(), Neighbour()
        scheduler.register_background_task(self.first, name="first")

    async def with_exit(self, way: Exit, shot: TaskId, command: Command | None = None) -> None:
        scheduler = self.scheduler
        scheduler.register_background_task(self.last, name="last")
        with anyio.fail_after(100), pytest.raises(way.kind) as caught:
            async with scheduler:
                await scheduler.start()
                await settle()
                if command is not None:
                    await command(scheduler, shot)
                await anyio.sleep(50)
        assert way.is_it(caught.value)
        assert self.first.hooks == ["up", "down"]
        assert self.last.hooks in (["up", "down"], [])


@pytest.fixture
def ends(scheduler: Scheduler) -> Ends:
    return Ends(scheduler)


# -- initialize() ----------------------------------------------------------------------------


async def test_in_initialize_at_the_start(scheduler: Scheduler, ends: Ends, way: Exit) -> None:
    task = Leaver(way, "initialize")
    shot = scheduler.register_background_task(task, restart=SOON)
    await ends.with_exit(way, shot)
    assert task.hooks == ["initialize 1"]


async def test_in_initialize_of_a_late_task(scheduler: Scheduler, ends: Ends, way: Exit) -> None:
    task = Leaver(way, "initialize")

    async def register(scheduler: Scheduler, _: TaskId) -> None:
        scheduler.register_background_task(task, restart=SOON)

    await ends.with_exit(way, scheduler.register_background_task(Neighbour()), register)
    assert task.hooks == ["initialize 1"]


async def test_in_initialize_of_a_restart(scheduler: Scheduler, ends: Ends, way: Exit) -> None:
    task = Failing(way, "initialize", run=2)
    shot = scheduler.register_background_task(task, restart=SOON)
    await ends.with_exit(way, shot)
    assert task.hooks == ["initialize 1", "execute 1", "shutdown 1", "initialize 2"]


# -- execute() -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"restart": RestartPolicy(mode="always")},
        {"restart": RestartPolicy(mode="never")},
        {"on_error": "stop"},
    ],
)
async def test_in_execute(scheduler: Scheduler, ends: Ends, way: Exit, options: Any) -> None:
    task = Leaver(way, "execute")
    shot = scheduler.register_background_task(task, **options)
    await ends.with_exit(way, shot)
    assert task.hooks == ["initialize 1", "execute 1", "shutdown 1"]


async def test_in_execute_of_a_task_in_a_group(scheduler: Scheduler, ends: Ends, way: Exit) -> None:
    task, sibling = Leaver(way, "execute"), Neighbour()
    group = scheduler.group("group", strategy="one_for_all", restart=SOON)
    shot = group.register_background_task(task, restart=SOON)
    group.register_background_task(sibling)
    await ends.with_exit(way, shot)
    assert task.hooks == ["initialize 1", "execute 1", "shutdown 1"]
    assert sibling.hooks == ["up", "down"]


@pytest.mark.parametrize("command", ["stop_task", "restart_task", "remove_task"])
async def test_in_execute_when_it_is_being_stopped(
    scheduler: Scheduler, ends: Ends, way: Exit, command: str
) -> None:
    class Late(Leaver):
        async def execute(self) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                raise self.way.make()

    task = Late(way, "none")
    shot = scheduler.register_background_task(task, restart=SOON)
    await ends.with_exit(way, shot, lambda scheduler, shot: getattr(scheduler, command)(shot))
    assert task.hooks == ["initialize 1", "shutdown 1"]


# -- shutdown() ------------------------------------------------------------------------------


async def test_in_shutdown_at_the_stop_of_everything(
    scheduler: Scheduler, ends: Ends, way: Exit
) -> None:
    task = Leaver(way, "shutdown")
    shot = scheduler.register_background_task(task, restart=SOON)
    await ends.with_exit(way, shot)
    assert task.hooks == ["initialize 1", "execute 1", "shutdown 1"]


@pytest.mark.parametrize("command", ["stop_task", "restart_task", "remove_task"])
async def test_in_shutdown_by_a_command(
    scheduler: Scheduler, ends: Ends, way: Exit, command: str
) -> None:
    task = Leaver(way, "shutdown")
    shot = scheduler.register_background_task(task)
    await ends.with_exit(way, shot, lambda scheduler, shot: getattr(scheduler, command)(shot))
    assert task.hooks == ["initialize 1", "execute 1", "shutdown 1"], "it does not come back"


async def test_in_shutdown_of_a_restart_by_a_policy(
    scheduler: Scheduler, ends: Ends, way: Exit
) -> None:
    task = Failing(way, "shutdown")
    shot = scheduler.register_background_task(task, restart=SOON)
    await ends.with_exit(way, shot)
    assert task.hooks == ["initialize 1", "execute 1", "shutdown 1"], "it does not come back"


async def test_in_shutdown_of_a_sibling_that_is_restarted_with_its_group(
    scheduler: Scheduler, ends: Ends, way: Exit
) -> None:
    group = scheduler.group("group", strategy="one_for_all", restart=SOON)
    failing = Failing(way, "none")
    group.register_background_task(failing)
    task = Leaver(way, "shutdown")
    shot = group.register_background_task(task)
    await ends.with_exit(way, shot)
    assert task.hooks == ["initialize 1", "execute 1", "shutdown 1"]
    assert failing.hooks == ["initialize 1", "execute 1", "shutdown 1"]


# -- handle_event(), handle_lag() and ticks --------------------------------------------------


async def publish(scheduler: Scheduler, _: TaskId) -> None:
    for number in range(4):
        await scheduler.publish(NUMBERS, number)


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("on_error", [None, "skip", "stop", "restart"])
@pytest.mark.parametrize("retries", [0, 3])
async def test_in_a_handler(
    scheduler: Scheduler,
    ends: Ends,
    way: Exit,
    concurrency: int,
    on_error: OnError | None,
    retries: int,
) -> None:
    letters: list[DeadLetter] = []

    @scheduler.on(DEAD_LETTERS, name="undertaker")
    async def bury(letter: DeadLetter) -> None:
        letters.append(letter)

    task = Listener(way)
    shot = scheduler.register_event_task(
        task, on_error=on_error, concurrency=concurrency, retries=retries, restart=SOON
    )
    await ends.with_exit(way, shot, publish)
    assert task.calls.count(1) == 1, "it is not tried again"
    assert letters == [], "and it is no fault of the message"


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_in_handle_lag(way: Exit, concurrency: int) -> None:
    scheduler = Scheduler()
    scheduler.add_channel(NUMBERS, ChannelConfig(capacity=1))
    ends = Ends(scheduler)
    task = Listener(way, "handle_lag")
    shot = scheduler.register_event_task(task, concurrency=concurrency, restart=SOON)

    async def flood(scheduler: Scheduler, _: TaskId) -> None:
        for number in range(9):
            scheduler.bus.publish_nowait(NUMBERS, number)

    await ends.with_exit(way, shot, flood)


@pytest.mark.parametrize("options", [{}, {"on_error": "skip"}, {"retries": 3}, {"restart": SOON}])
async def test_in_a_tick(scheduler: Scheduler, ends: Ends, way: Exit, options: Any) -> None:
    ticks: list[int] = []

    @scheduler.every(1, name="tick", **options)
    async def tick() -> None:
        ticks.append(len(ticks))
        if len(ticks) == 2:
            await way.leave()

    (shot,) = [task.task_id for task in scheduler.status() if task.name == "tick"]
    await ends.with_exit(way, shot)
    assert ticks == [0, 1]


# -- with other failures ---------------------------------------------------------------------


async def test_what_failed_besides_is_in_the_log(
    scheduler: Scheduler, ends: Ends, way: Exit, caplog: pytest.LogCaptureFixture
) -> None:
    class Messy(Neighbour):
        async def shutdown(self) -> None:
            raise TroubleError("messy")

    scheduler.register_background_task(Messy(), name="messy")
    shot = scheduler.register_background_task(Leaver(way, "execute"), name="leaver")
    await ends.with_exit(way, shot)
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "'messy' did not shut down well" in record.message


async def test_of_two_exits_the_first_one_counts(scheduler: Scheduler, ends: Ends) -> None:
    one, other = Exit("one", lambda: SystemExit(3)), Exit("other", lambda: SystemExit(4))
    scheduler.register_background_task(Leaver(other, "shutdown"))
    shot = scheduler.register_background_task(Leaver(one, "execute"))
    await ends.with_exit(one, shot)


# -- how it reaches the caller ---------------------------------------------------------------


async def test_it_is_raised_by_run(scheduler: Scheduler, way: Exit) -> None:
    neighbour = Neighbour()
    scheduler.register_background_task(neighbour)
    scheduler.register_background_task(Leaver(way, "execute"))
    with pytest.raises(way.kind) as caught:
        await scheduler.run()
    assert way.is_it(caught.value)
    assert neighbour.hooks == ["up", "down"]


async def test_it_is_raised_by_a_run_in_a_block(scheduler: Scheduler, way: Exit) -> None:
    scheduler.register_background_task(Leaver(way, "execute"))
    async with scheduler:
        with pytest.raises(way.kind) as caught:
            await scheduler.run()
    assert way.is_it(caught.value)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("hook", ["initialize", "execute", "shutdown"])
def test_it_is_raised_by_run_sync(
    backend: Literal["asyncio", "trio"], hook: str, way: Exit
) -> None:
    scheduler = Scheduler()
    neighbour = Neighbour()
    scheduler.register_background_task(neighbour)
    task = Failing(way, hook, run=1 if hook == "shutdown" else 2)
    scheduler.register_background_task(task, restart=RestartPolicy(initial_delay=0))
    with pytest.raises(way.kind) as caught:
        scheduler.run_sync(backend)
    assert way.is_it(caught.value)
    assert neighbour.hooks == ["up", "down"]


async def test_a_block_that_waits_for_something_else_is_left_for_it(
    scheduler: Scheduler, way: Exit
) -> None:
    neighbour = Neighbour()
    scheduler.register_background_task(neighbour)
    left: list[str] = []

    async def body() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            left.append("body")

    with pytest.raises(way.kind) as caught:
        async with scheduler:
            await scheduler.start()
            scheduler.register_background_task(Leaver(way, "execute"))
            async with create_task_group() as group:
                group.start_soon(body)
    assert way.is_it(caught.value)
    assert left == ["body"]
    assert neighbour.hooks == ["up", "down"]
