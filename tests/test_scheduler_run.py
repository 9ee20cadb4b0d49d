"""`run` and `run_sync`: when a run is over, and what signals do to it."""

from __future__ import annotations

import os
import signal
from typing import Literal

import anyio
import pytest
from anyio import Event, create_task_group, to_thread
from support import WORDS, TroubleError, posix_signals, settle
from support.hooks import Broken

from orchestrio import (
    BackgroundTask,
    ChannelConfig,
    LifecycleError,
    Scheduler,
    TaskExecutionError,
    TaskInitializationError,
    TaskShutdownError,
    TaskState,
)


@pytest.fixture
def scheduler() -> Scheduler:
    scheduler = Scheduler()
    scheduler.add_channel(WORDS, ChannelConfig(capacity=64))
    return scheduler


@pytest.fixture
def seen(scheduler: Scheduler) -> list[str]:
    """What an event task of the scheduler has handled."""
    seen: list[str] = []

    @scheduler.on(WORDS)
    async def collect(word: str) -> None:
        await settle(2)
        seen.append(word)

    return seen


async def test_run_is_over_when_the_background_tasks_have_ended_and_all_is_handled(
    scheduler: Scheduler, seen: list[str]
) -> None:
    @scheduler.background()
    async def produce() -> None:
        for number in range(3):
            await scheduler.publish(WORDS, str(number))

    with anyio.fail_after(10):
        await scheduler.run()
    assert seen == ["0", "1", "2"]
    assert {shot.state for shot in scheduler.status()} == {TaskState.STOPPED}


async def test_run_without_background_tasks_is_over_when_the_events_end(
    scheduler: Scheduler, seen: list[str]
) -> None:
    async with scheduler, create_task_group() as group:
        group.start_soon(scheduler.run)
        await settle()
        await scheduler.publish(WORDS, "last")
        await settle()
        assert scheduler.status()[0].state is TaskState.RUNNING, "waits for more"
        scheduler.bus.remove_channel(WORDS)
    assert seen == ["last"]


async def test_run_without_any_task_is_over_at_once(scheduler: Scheduler) -> None:
    with anyio.fail_after(10):
        await scheduler.run()


async def test_run_works_inside_the_block_also_after_start(
    scheduler: Scheduler, seen: list[str]
) -> None:
    go = Event()

    @scheduler.background()
    async def produce() -> None:
        await go.wait()
        await scheduler.publish(WORDS, "word")

    async with scheduler:
        await scheduler.start()
        go.set()
        await scheduler.run()
        assert seen == ["word"]


async def test_run_raises_what_start_raises(scheduler: Scheduler) -> None:
    scheduler.register_background_task(Broken())
    with pytest.raises(TaskInitializationError):
        await scheduler.run()


async def test_run_raises_the_failure_of_a_task(scheduler: Scheduler) -> None:
    @scheduler.background()
    async def failing() -> None:
        raise TroubleError("boom")

    with pytest.raises(TaskExecutionError, match="boom"):
        await scheduler.run()


async def test_run_with_a_circle_of_dependencies_says_so(scheduler: Scheduler) -> None:
    scheduler.background(name="a", depends_on=["a"])(settle)
    with pytest.raises(LifecycleError, match="circle"):
        await scheduler.run()


async def test_cancelling_run_shuts_down_in_order(scheduler: Scheduler) -> None:
    hooks: list[str] = []

    class Task(BackgroundTask):
        async def execute(self) -> None:
            await anyio.sleep_forever()

        async def shutdown(self) -> None:
            await settle(2)
            hooks.append("shutdown")

    scheduler.register_background_task(Task())
    async with create_task_group() as group:
        group.start_soon(scheduler.run)
        await settle()
        group.cancel_scope.cancel()
    assert hooks == ["shutdown"]


async def test_a_listener_that_goes_away_leaves_the_failure_to_the_block(
    scheduler: Scheduler,
) -> None:
    """Whoever waits in run() is told of a failure; if it is cancelled first, the block is."""
    gate = Event()

    class Failing(BackgroundTask):
        async def execute(self) -> None:
            raise TroubleError("boom")

        async def shutdown(self) -> None:
            await gate.wait()

    scheduler.register_background_task(Failing())
    with pytest.raises(TaskExecutionError, match="boom"):
        async with scheduler:
            try:
                async with create_task_group() as group:
                    group.start_soon(scheduler.run)
                    await settle()
                    group.cancel_scope.cancel()
                await anyio.sleep_forever()
            finally:
                gate.set()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_run_sync_runs_on_either_backend(
    scheduler: Scheduler, seen: list[str], backend: Literal["asyncio", "trio"]
) -> None:
    @scheduler.background()
    async def produce() -> None:
        await scheduler.publish(WORDS, backend)

    scheduler.run_sync(backend)
    assert seen == [backend]


def test_run_sync_passes_options_to_the_backend(scheduler: Scheduler) -> None:
    loops: list[bool] = []

    @scheduler.background()
    async def look() -> None:
        loops.append(True)

    scheduler.run_sync("asyncio", {"debug": True})
    assert loops == [True]


async def test_run_works_in_a_thread_that_cannot_have_signals(
    scheduler: Scheduler, seen: list[str]
) -> None:
    @scheduler.background()
    async def produce() -> None:
        await scheduler.publish(WORDS, "from a thread")

    await to_thread.run_sync(scheduler.run_sync)
    assert seen == ["from a thread"]


# -- signals -----------------------------------------------------------------------------------------


@posix_signals
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_stops_the_run_in_order(
    scheduler: Scheduler, seen: list[str], signum: signal.Signals
) -> None:
    @scheduler.background()
    async def produce() -> None:
        for number in range(10):
            await scheduler.publish(WORDS, str(number))
        os.kill(os.getpid(), signum)
        await anyio.sleep_forever()

    with anyio.fail_after(10):
        await scheduler.run()
    assert seen == [str(number) for number in range(10)]


@posix_signals
async def test_a_signal_during_start_ends_the_run_without_an_error(scheduler: Scheduler) -> None:
    hooks: list[str] = []

    class Stuck(BackgroundTask):
        async def initialize(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            hooks.append("initialize")
            await anyio.sleep_forever()

        async def execute(self) -> None:
            hooks.append("execute")

    scheduler.register_background_task(Stuck())
    with anyio.fail_after(10):
        await scheduler.run()
    assert hooks == ["initialize"]


@posix_signals
async def test_a_second_signal_stops_at_once(scheduler: Scheduler) -> None:
    hooks: list[str] = []

    class Endless(BackgroundTask):
        async def execute(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            await anyio.sleep_forever()

        async def shutdown(self) -> None:
            hooks.append("shutdown begins")
            os.kill(os.getpid(), signal.SIGTERM)
            await anyio.sleep_forever()

    class Other(BackgroundTask):
        async def execute(self) -> None:
            await anyio.sleep_forever()

        async def shutdown(self) -> None:
            hooks.append("other begins")
            await anyio.sleep_forever()

    scheduler.register_background_task(Other(), name="other")
    scheduler.register_background_task(Endless(), name="endless")
    with anyio.fail_after(10), pytest.raises(ExceptionGroup) as caught:
        await scheduler.run()
    assert hooks == ["shutdown begins", "other begins"]
    errors = caught.value.exceptions
    assert all(isinstance(error, TaskShutdownError) for error in errors)
    assert ["cut short by a second request" in str(error) for error in errors] == [True, True]


@posix_signals
async def test_a_second_signal_ends_a_drain(scheduler: Scheduler) -> None:
    @scheduler.on(WORDS)
    async def stuck(word: str) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        await settle()
        os.kill(os.getpid(), signal.SIGINT)
        await anyio.sleep_forever()

    @scheduler.background()
    async def produce() -> None:
        await scheduler.publish(WORDS, "word")
        await anyio.sleep_forever()

    with anyio.fail_after(5):  # drain_timeout is 10 s
        await scheduler.run()
    assert scheduler.status()[0].failed == 1


@posix_signals
async def test_signals_are_as_they_were_after_the_run(scheduler: Scheduler) -> None:
    before = signal.getsignal(signal.SIGTERM)
    await scheduler.run()
    assert signal.getsignal(signal.SIGTERM) == before
