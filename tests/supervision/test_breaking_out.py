"""What breaks out of a task's supervision stops all in order, and is told; nothing hangs."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Literal

import pytest
from anyio import CancelScope, fail_after, sleep_forever
from support import IN_TIME, NUMBERS, settle
from support.hooks import Forever
from typing_extensions import override

from orchestrio import (
    BackgroundTask,
    RestartPolicy,
    Scheduler,
    SchedulerError,
    TaskExecutionError,
    TaskShutdownError,
)

Hook = Literal["initialize", "execute", "shutdown"]
AT_ONCE = RestartPolicy(initial_delay=0)


@pytest.fixture
def scheduler() -> Scheduler:
    scheduler = Scheduler()
    scheduler.add_channel(NUMBERS)
    return scheduler


# -- scopes that are left open -----------------------------------------------------------------


async def careless() -> None:
    """Leave a scope open, as an async generator does that nobody closes."""
    CancelScope().__enter__()  # so that nothing closes it


class Careless(BackgroundTask):
    def __init__(self, hook: Hook) -> None:
        self.hook = hook

    @override
    async def initialize(self) -> None:
        if self.hook == "initialize":
            await careless()

    async def execute(self) -> None:
        if self.hook == "execute":
            await careless()
        await sleep_forever()

    @override
    async def shutdown(self) -> None:
        if self.hook == "shutdown":
            await careless()


@pytest.mark.parametrize("hook", ["initialize", "execute", "shutdown"])
async def test_a_scope_that_a_hook_leaves_open_ends_the_run_in_order(
    scheduler: Scheduler, hook: Hook
) -> None:
    neighbour = Forever()
    scheduler.register_background_task(neighbour)
    with fail_after(IN_TIME), pytest.raises(SchedulerError, match="broke out"):
        async with scheduler:
            await scheduler.start()
            task_id = scheduler.register_background_task(Careless(hook), restart=AT_ONCE)
            await settle()
            await scheduler.stop_task(task_id)
            await sleep_forever()
    assert neighbour.hooks == ["initialize", "execute", "shutdown"]


async def test_a_scope_that_a_handler_leaves_open_ends_the_run_in_order(
    scheduler: Scheduler,
) -> None:
    neighbour = Forever()
    scheduler.register_background_task(neighbour)
    handled: list[int] = []

    @scheduler.on(NUMBERS)
    async def handle(number: int) -> None:
        await careless()
        handled.append(number)

    with fail_after(IN_TIME), pytest.raises(SchedulerError, match="broke out"):
        async with scheduler:
            await scheduler.start()
            await scheduler.publish(NUMBERS, 1)
    assert handled == [1]
    assert neighbour.hooks == ["initialize", "execute", "shutdown"]


# -- errors that cannot be looked into ---------------------------------------------------------


class OddError(Exception):
    @override
    def with_traceback(self, traceback: TracebackType | None) -> OddError:
        raise RuntimeError("not with me")


def deep() -> Exception:
    error: Exception = ValueError("deep down")
    for _ in range(1000):
        error = ExceptionGroup[Exception]("more", [error])
    return error


class Raising(Forever):
    """Raises an odd error once."""

    def __init__(self, error: Exception, hook: Hook) -> None:
        super().__init__()
        self.error = error
        self.hook = hook

    @override
    async def execute(self) -> None:
        self.note("execute")
        if self.hook == "execute" and self.hooks.count("execute") == 1:
            raise self.error
        await sleep_forever()

    @override
    async def shutdown(self) -> None:
        if self.hook == "shutdown":
            raise self.error


@pytest.mark.parametrize("error", [OddError(), deep()], ids=["odd", "deep"])
async def test_an_error_that_cannot_be_looked_into_is_a_failure(
    scheduler: Scheduler, error: Exception
) -> None:
    task = Raising(error, "execute")
    with fail_after(IN_TIME):
        async with scheduler:
            scheduler.register_background_task(task, restart=AT_ONCE)
            await scheduler.start()
            await settle()
    assert task.hooks.count("execute") == 2


@pytest.mark.parametrize("error", [OddError(), deep()], ids=["odd", "deep"])
async def test_so_it_is_without_a_policy(scheduler: Scheduler, error: Exception) -> None:
    neighbour = Forever()
    scheduler.register_background_task(neighbour)
    scheduler.register_background_task(Raising(error, "execute"), name="odd")
    with fail_after(IN_TIME), pytest.raises(TaskExecutionError, match="'odd' failed"):
        async with scheduler:
            await scheduler.start()
            await sleep_forever()
    assert neighbour.hooks == ["initialize", "execute", "shutdown"]


@pytest.mark.parametrize("error", [OddError(), deep()], ids=["odd", "deep"])
async def test_so_it_is_in_shutdown(scheduler: Scheduler, error: Exception) -> None:
    scheduler.register_background_task(Raising(error, "shutdown"), name="odd")
    with fail_after(IN_TIME), pytest.raises(ExceptionGroup) as raised:
        async with scheduler:
            await scheduler.start()
    [wrong] = raised.value.exceptions
    assert isinstance(wrong, TaskShutdownError)
    assert "'odd' did not shut down well" in str(wrong)


# -- the end of the process, where a record is told --------------------------------------------


class Exiting(logging.Handler):
    @override
    def emit(self, record: logging.LogRecord) -> None:
        raise SystemExit(3)


async def test_a_log_handler_that_ends_the_process_in_a_stop_leaves_nobody_up(
    scheduler: Scheduler,
) -> None:
    neighbour = Forever()
    scheduler.register_background_task(neighbour)
    logger, handler = logging.getLogger("orchestrio"), Exiting(logging.WARNING)

    @scheduler.on(NUMBERS, drain_timeout=0, stop_timeout=0)
    async def handle(_: int) -> None:
        await sleep_forever()

    logger.addHandler(handler)
    try:
        with fail_after(IN_TIME), pytest.raises(SystemExit):
            async with scheduler:
                await scheduler.start()
                for number in range(3):
                    await scheduler.publish(NUMBERS, number)
    finally:
        logger.removeHandler(handler)
    assert neighbour.hooks == ["initialize", "execute", "shutdown"]
