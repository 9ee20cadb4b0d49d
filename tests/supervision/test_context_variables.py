"""Each run begins with the context variables of the registration, and none that another run set."""

from __future__ import annotations

from contextvars import ContextVar

import anyio
import pytest
from support import NUMBERS, SOON, TroubleError, settle

from orchestrio import (
    BackgroundTask,
    EventTask,
    RestartPolicy,
    Scheduler,
    TaskId,
    Topic,
    current_task_context,
)

tenant: ContextVar[str] = ContextVar("tenant", default="nobody")
region: ContextVar[str] = ContextVar("region", default="nowhere")

Seen = list[tuple[str, str]]


class Setter(BackgroundTask):
    """Writes down what it finds in each hook, and leaves something else behind."""

    def __init__(self, *, fails: bool = True) -> None:
        self.fails = fails
        self.seen: Seen = []

    def look(self, hook: str) -> None:
        run = current_task_context().run
        self.seen.append((f"{hook} {run}", tenant.get()))
        tenant.set(f"{hook} {run}")

    async def initialize(self) -> None:
        self.look("initialize")

    async def execute(self) -> None:
        self.look("execute")
        if self.fails and current_task_context().run < 3:
            raise TroubleError
        await anyio.sleep_forever()

    async def shutdown(self) -> None:
        self.look("shutdown")


def of_run(number: int, begins_with: str = "registered") -> Seen:
    return [
        (f"initialize {number}", begins_with),
        (f"execute {number}", f"initialize {number}"),
        (f"shutdown {number}", f"execute {number}"),
    ]


def register(scheduler: Scheduler, task: BackgroundTask, policy: RestartPolicy | None) -> TaskId:
    token = tenant.set("registered")
    try:
        return scheduler.register_background_task(task, name="setter", restart=policy)
    finally:
        tenant.reset(token)


async def test_a_run_does_not_see_what_the_one_before_has_set(scheduler: Scheduler) -> None:
    task = Setter()
    register(scheduler, task, SOON)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(10)
    assert task.seen == [*of_run(1), *of_run(2), *of_run(3)]
    assert tenant.get() == "nobody"


async def test_a_task_that_comes_late_begins_with_those_of_its_registration_too(
    scheduler: Scheduler,
) -> None:
    task = Setter()
    async with scheduler:
        await scheduler.start()
        register(scheduler, task, SOON)
        tenant.set("later")
        await anyio.sleep(10)
    assert task.seen == [*of_run(1), *of_run(2), *of_run(3)]


async def test_a_restart_by_hand_brings_none_of_the_callers(scheduler: Scheduler) -> None:
    task = Setter(fails=False)
    shot = register(scheduler, task, None)
    async with scheduler:
        await scheduler.start()
        await settle()
        tenant.set("the caller's")
        await scheduler.restart_task(shot)
        await settle()
        await scheduler.stop_task(shot)
        await scheduler.restart_task(shot)
        await settle()
    assert task.seen == [*of_run(1), *of_run(2), *of_run(3)]


async def test_a_task_that_restarts_itself_leaves_nothing_behind(scheduler: Scheduler) -> None:
    class Restless(Setter):
        async def execute(self) -> None:
            self.look("execute")
            if current_task_context().run == 1:
                await scheduler.restart_task(current_task_context().task_id)
            await anyio.sleep_forever()

    task = Restless()
    register(scheduler, task, None)
    async with scheduler:
        await scheduler.start()
        await settle(50)
    assert task.seen == [*of_run(1), *of_run(2)]


async def test_a_restart_with_its_group_brings_none_of_the_siblings(scheduler: Scheduler) -> None:
    group = scheduler.group("group", strategy="one_for_all", restart=SOON)
    task, sibling = Setter(fails=False), Setter()
    for one in (task, sibling):
        token = tenant.set("registered")
        group.register_background_task(one)
        tenant.reset(token)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(1.5)
        await scheduler.shutdown()
    assert task.seen[:3] == of_run(1)
    assert task.seen[3] == ("initialize 2", "registered")


async def test_what_the_start_has_set_is_there_in_each_run(scheduler: Scheduler) -> None:
    found: list[tuple[str, str]] = []

    class Looker(Setter):
        async def initialize(self) -> None:
            found.append((tenant.get(), region.get()))
            tenant.set("mine")
            region.set("mine")

    task = Looker()
    register(scheduler, task, SOON)
    async with scheduler:
        region.set("started")
        await scheduler.start()
        region.set("later")
        await anyio.sleep(10)
    assert found == [("registered", "started")] * 3


async def test_a_task_registered_by_another_sees_what_that_one_has_set(
    scheduler: Scheduler,
) -> None:
    child = Setter()

    @scheduler.background()
    async def parent() -> None:
        tenant.set("parent's")
        scheduler.register_background_task(child, name="child", restart=SOON)
        tenant.set("afterwards")
        await anyio.sleep_forever()

    async with scheduler:
        await scheduler.start()
        await anyio.sleep(10)
    assert child.seen == [seen for run in (1, 2, 3) for seen in of_run(run, "parent's")]


class Handler(EventTask[int]):
    """Writes down what it finds, and leaves something behind, with each message."""

    def __init__(self) -> None:
        self.seen: Seen = []

    @property
    def subscribed_event(self) -> Topic[int]:
        return NUMBERS

    async def initialize(self) -> None:
        self.seen.append((f"initialize {current_task_context().run}", tenant.get()))
        tenant.set("initialised")

    async def handle_event(self, event: int, /) -> None:
        self.seen.append((f"handle {event}", tenant.get()))
        tenant.set(f"left by {event}")
        if event == 1:
            raise TroubleError


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_the_handler_of_the_next_run_sees_nothing_of_the_last_one(
    scheduler: Scheduler, concurrency: int
) -> None:
    task = Handler()
    token = tenant.set("registered")
    scheduler.register_event_task(task, restart=SOON, concurrency=concurrency)
    tenant.reset(token)
    async with scheduler:
        await scheduler.start()
        tenant.set("the publisher's")
        await scheduler.publish(NUMBERS, 1)
        await anyio.sleep(5)
        await scheduler.publish(NUMBERS, 2)
        await settle()
    assert task.seen == [
        ("initialize 1", "registered"),
        ("handle 1", "initialised"),
        ("initialize 2", "registered"),
        ("handle 2", "initialised"),
    ]


async def test_each_run_knows_its_own_context_whatever_it_was_registered_in(
    scheduler: Scheduler,
) -> None:
    names: list[str] = []

    async def child() -> None:
        names.append(current_task_context().task_name)

    @scheduler.background(name="parent")
    async def parent() -> None:
        scheduler.background(name="child")(child)
        await settle()
        names.append(current_task_context().task_name)

    await scheduler.run()
    assert names == ["child", "parent"]
