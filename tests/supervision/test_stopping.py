"""How tasks end: asked first, cancelled then, named if they do not; and what comes between."""

from __future__ import annotations

import logging
import os
import signal
import sys

import anyio
import pytest
from anyio import CancelScope, create_task_group, current_time
from support import settle

from orchestrio import (
    BackgroundTask,
    RestartPolicy,
    Scheduler,
    TaskShutdownError,
    TaskState,
    current_task_context,
)

LATER = RestartPolicy(initial_delay=1000, max_delay=1000, jitter=0)


class TroubleError(Exception):
    pass


class Failing(BackgroundTask):
    """Fails in its first run, and works for ever in the next."""

    def __init__(self) -> None:
        self.hooks: list[str] = []

    async def initialize(self) -> None:
        self.hooks.append("initialize")

    async def execute(self) -> None:
        self.hooks.append("execute")
        if current_task_context().run == 1:
            raise TroubleError
        await anyio.sleep_forever()

    async def shutdown(self) -> None:
        self.hooks.append("shutdown")


@pytest.fixture
def scheduler() -> Scheduler:
    return Scheduler()


# -- asked first ---------------------------------------------------------------------------------------


async def test_a_task_that_listens_may_end_by_itself(scheduler: Scheduler) -> None:
    ended: list[float] = []

    @scheduler.background(stop_timeout=5)
    async def polite() -> None:
        await current_task_context().stopping.wait()
        await anyio.sleep(4)
        ended.append(current_time())

    async with scheduler:
        await scheduler.start()
        await anyio.sleep(1)
        await scheduler.shutdown()
        assert ended == [current_time()] == [5]
    assert scheduler.status()[0].state is TaskState.STOPPED


async def test_a_task_that_listens_and_takes_too_long_is_cancelled(scheduler: Scheduler) -> None:
    events: list[tuple[str, float]] = []

    class Slow(BackgroundTask):
        async def execute(self) -> None:
            await current_task_context().stopping.wait()
            try:
                await anyio.sleep(100)
            finally:
                events.append(("end", current_time()))

        async def shutdown(self) -> None:
            events.append(("shutdown", current_time()))

    scheduler.register_background_task(Slow(), stop_timeout=5)
    async with scheduler:
        await scheduler.start()
        await settle()
    assert events == [("end", 5), ("shutdown", 5)]


async def test_a_task_that_never_listens_is_cancelled_at_once(scheduler: Scheduler) -> None:
    scheduler.background(stop_timeout=5)(anyio.sleep_forever)
    async with scheduler:
        await scheduler.start()
        await settle()
    assert current_time() == 0


async def test_who_asks_late_hears_that_it_is_stopping(scheduler: Scheduler) -> None:
    heard: list[bool] = []

    @scheduler.background()
    async def late() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            heard.append(current_task_context().stopping.is_set())

    async with scheduler:
        await scheduler.start()
        await settle()
    assert heard == [True]


# -- that do not end -------------------------------------------------------------------------------------


async def swallow_cancellations(seconds: float) -> None:
    """Go on for some time, whoever wants to end it."""
    end = current_time() + seconds
    while current_time() < end:
        try:
            await anyio.sleep(1)
        except anyio.get_cancelled_exc_class():
            with CancelScope(shield=True):
                await anyio.sleep(1)


async def test_a_task_that_swallows_its_cancellation_is_named_with_its_place(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    @scheduler.background(stop_timeout=3)
    async def stubborn() -> None:
        await swallow_cancellations(10)

    async with scheduler:
        await scheduler.start()
        await settle()
        with caplog.at_level(logging.WARNING), pytest.raises(ExceptionGroup) as caught:
            await scheduler.shutdown()
    (error,) = caught.value.exceptions
    assert isinstance(error, TaskShutdownError)
    assert "'stubborn'" in str(error)
    assert "in swallow_cancellations" in "".join(error.__notes__)
    assert "in swallow_cancellations" in caplog.text
    (record,) = [record for record in caplog.records if "It stands here" in record.message]
    assert getattr(record, "task_name", None) == "stubborn"


# -- in back-off -----------------------------------------------------------------------------------------


async def test_a_stop_does_not_wait_for_a_back_off(scheduler: Scheduler) -> None:
    failing = Failing()
    task = scheduler.register_background_task(failing, restart=LATER)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(1)
        await scheduler.shutdown()
        assert current_time() == 1
    assert failing.hooks == ["initialize", "execute", "shutdown"]
    shot = scheduler.status(task)
    assert (shot.state, shot.restarts) == (TaskState.STOPPED, 0)


@pytest.mark.parametrize("remove", [False, True])
async def test_a_task_stopped_in_its_back_off_does_not_come_back(
    scheduler: Scheduler, remove: bool
) -> None:
    failing = Failing()
    task = scheduler.register_background_task(failing, restart=LATER)
    scheduler.background(name="other")(anyio.sleep_forever)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(1)
        await (scheduler.remove_task if remove else scheduler.stop_task)(task)
        assert current_time() == 1
        await anyio.sleep(2000)
    assert failing.hooks == ["initialize", "execute", "shutdown"]
    assert len(scheduler.registry) == (1 if remove else 2)


async def test_a_restart_by_hand_cuts_a_back_off_short(scheduler: Scheduler) -> None:
    failing = Failing()
    task = scheduler.register_background_task(failing, restart=LATER)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(1)
        await scheduler.restart_task(task)
        await settle()
        assert current_time() == 1
        assert scheduler.status(task).state is TaskState.RUNNING
        await anyio.sleep(2000)
        assert failing.hooks == ["initialize", "execute", "shutdown", "initialize", "execute"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
async def test_a_signal_in_a_back_off_ends_the_run(scheduler: Scheduler) -> None:
    scheduler.register_background_task(Failing(), restart=LATER)

    async def interrupt() -> None:
        await anyio.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    async with create_task_group() as group:
        group.start_soon(interrupt)
        await scheduler.run()
    assert current_time() < 1000


# -- in a restart ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hook", ["initialize", "shutdown"])
async def test_a_stop_in_a_hook_of_a_restart_runs_every_shutdown_once(
    scheduler: Scheduler, hook: str
) -> None:
    hooks: list[str] = []

    class Slow(BackgroundTask):
        async def initialize(self) -> None:
            hooks.append("initialize")
            if hook == "initialize" and hooks.count("initialize") == 2:
                await anyio.sleep(5)

        async def execute(self) -> None:
            raise TroubleError

        async def shutdown(self) -> None:
            if hook == "shutdown":
                await anyio.sleep(5)
            hooks.append("shutdown")

    scheduler.register_background_task(Slow(), restart=RestartPolicy(initial_delay=0))
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(2)
    assert hooks == ["initialize", "shutdown"] + ["initialize"] * (hook == "initialize")


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
async def test_an_interrupt_is_never_restarted(
    scheduler: Scheduler, kind: type[BaseException]
) -> None:
    runs: list[int] = []

    @scheduler.background(restart=RestartPolicy(mode="always", initial_delay=0))
    async def interrupted() -> None:
        runs.append(current_task_context().run)
        raise kind

    with pytest.raises(kind):
        async with scheduler:
            await scheduler.start()
            await anyio.sleep_forever()
    assert runs == [1]


async def test_the_context_is_there_for_the_tasks_that_a_task_starts(scheduler: Scheduler) -> None:
    names: list[str] = []

    async def child() -> None:
        names.append(current_task_context().task_name)

    @scheduler.background()
    async def parent() -> None:
        async with create_task_group() as group:
            group.start_soon(child)

    await scheduler.run()
    assert names == ["parent"]
