"""What users of asyncio may rely on in tasks: its own tools, its cancellation, its test cases."""

from __future__ import annotations

import asyncio
import logging
import sys
import unittest
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import suppress
from contextvars import ContextVar, copy_context
from types import TracebackType
from typing import Any, cast

import anyio
import pytest
from anyio import move_on_after
from support import NUMBERS, TroubleError, settle

from orchestrio import (
    BackgroundTask,
    LifecycleError,
    Scheduler,
    TaskExecutionError,
    TaskShutdownError,
    current_task_context,
)
from orchestrio._broadcast.acknowledgements import Acknowledgements
from orchestrio._broadcast.relay import Relay
from orchestrio.testing import harness

LOOPS = [pytest.param(("asyncio", {}), id="asyncio")]
if sys.platform != "win32":
    LOOPS.append(pytest.param(("asyncio", {"use_uvloop": True}), id="asyncio+uvloop"))
if sys.version_info >= (3, 12):

    def eager_loop() -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        loop.set_task_factory(asyncio.eager_task_factory)
        return loop

    LOOPS.append(pytest.param(("asyncio", {"loop_factory": eager_loop}), id="eager tasks"))


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@pytest.fixture
def scheduler() -> Scheduler:
    scheduler = Scheduler()
    scheduler.add_channel(NUMBERS)
    return scheduler


class Database:
    """A transaction, as libraries for asyncio have them: its end takes a round trip."""

    def __init__(self) -> None:
        self.log: list[str] = []

    async def __aenter__(self) -> None:
        await asyncio.sleep(0)
        self.log.append("BEGIN")

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        word = "COMMIT" if kind is None else "ROLLBACK"
        self.log.append(f"{word}?")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        self.log.append(word)


async def stopped_in(scheduler: Scheduler, work: Callable[[], Awaitable[object]]) -> None:
    """Run this as a task, and stop the scheduler in the midst of it."""

    class Work(BackgroundTask):
        async def execute(self) -> None:
            await work()

    scheduler.register_background_task(Work(), stop_timeout=5)
    async with scheduler:
        await scheduler.start()
        await settle()


# -- cancellation ----------------------------------------------------------------------------


async def test_a_rollback_that_awaits_is_cancelled_again(scheduler: Scheduler) -> None:
    database = Database()

    async def work() -> None:
        async with database:
            await asyncio.sleep(60)

    await stopped_in(scheduler, work)
    assert database.log == ["BEGIN", "ROLLBACK?"]


async def test_a_bounded_shield_lets_it_come_to_its_end(scheduler: Scheduler) -> None:
    log: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            with move_on_after(5, shield=True) as scope:
                await asyncio.sleep(0.01)
                log.append("ROLLBACK")
            assert not scope.cancelled_caught
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
                log.append("not reached")

    await stopped_in(scheduler, work)
    assert log == ["ROLLBACK"]


async def test_shutdown_is_shielded(scheduler: Scheduler) -> None:
    database = Database()

    class Work(BackgroundTask):
        async def execute(self) -> None:
            await asyncio.sleep(60)

        async def shutdown(self) -> None:
            async with database:
                await asyncio.sleep(0.01)

    scheduler.register_background_task(Work())
    async with scheduler:
        await scheduler.start()
        await settle()
    assert database.log == ["BEGIN", "COMMIT?", "COMMIT"]


async def test_what_asyncio_shields_goes_on_unattended(scheduler: Scheduler) -> None:
    log: list[str] = []

    async def rollback() -> None:
        await asyncio.sleep(0.05)
        log.append("ROLLBACK")

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            inner.append(asyncio.ensure_future(rollback()))
            await asyncio.shield(inner[0])

    inner: list[asyncio.Future[None]] = []
    await stopped_in(scheduler, work)
    assert log == []  # the scheduler has stopped, and did not wait
    await inner[0]
    assert log == ["ROLLBACK"]


# -- asyncio's own tools in hooks ------------------------------------------------------------


async def test_timeouts_of_asyncio_work_in_every_hook(scheduler: Scheduler) -> None:
    hooks: list[str] = []

    async def times_out(hook: str) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await anyio.sleep(60)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.sleep(60), 0.01)
        await anyio.sleep(0.01)  # and leave no cancellation behind
        hooks.append(hook)

    class Work(BackgroundTask):
        async def initialize(self) -> None:
            await times_out("initialize")

        async def execute(self) -> None:
            await times_out("execute")
            executed.set()

        async def shutdown(self) -> None:
            await times_out("shutdown")

    executed = asyncio.Event()

    @scheduler.on(NUMBERS)
    async def handle(number: int) -> None:
        await times_out("handler")

    scheduler.register_background_task(Work())
    async with harness(scheduler) as h:
        await h.publish(NUMBERS, 1)
        await h.idle()
        await executed.wait()
    assert sorted(hooks) == ["execute", "handler", "initialize", "shutdown"]


async def test_a_task_group_of_asyncio_ends_with_its_task(scheduler: Scheduler) -> None:
    log: list[str] = []

    async def child(name: str) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)  # a native task is cancelled once
            log.append(name)

    async def work() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(child("a"))
            group.create_task(child("b"))

    await stopped_in(scheduler, work)
    assert sorted(log) == ["a", "b"]
    assert scheduler.status()[0].error is None


async def test_a_failure_in_a_task_group_of_asyncio_is_one_of_the_task(
    scheduler: Scheduler,
) -> None:
    async def failing() -> None:
        raise TroubleError("boom")

    @scheduler.background()
    async def work() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(failing())

    with pytest.raises(TaskExecutionError) as caught:
        await scheduler.run()
    assert isinstance(caught.value.__cause__, ExceptionGroup)
    assert caught.value.__cause__.subgroup(TroubleError)


async def test_a_created_task_is_its_creator_s_to_end(scheduler: Scheduler) -> None:
    class Work(BackgroundTask):
        async def initialize(self) -> None:
            self.cancelled = False
            self.name = ""
            self.helper = asyncio.create_task(self.help())

        async def help(self) -> None:
            self.name = current_task_context().task_name
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.cancelled = True
                raise

        async def execute(self) -> None:
            await anyio.sleep(0.01)

        async def shutdown(self) -> None:
            assert not self.helper.done()  # nobody has
            self.helper.cancel()
            await asyncio.wait([self.helper])

    work = Work()
    scheduler.register_background_task(work, name="work")
    await scheduler.run()
    assert work.cancelled
    assert work.name == "work"


async def test_queues_locks_and_threads_of_asyncio_work(scheduler: Scheduler) -> None:
    queue = asyncio.Queue[int](1)
    lock = asyncio.Lock()
    got: list[int] = []

    @scheduler.background()
    async def produce() -> None:
        for number in range(3):
            async with lock:
                await queue.put(await asyncio.to_thread(abs, -number))

    @scheduler.background()
    async def consume() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(3):
            got.append(await loop.run_in_executor(None, abs, await queue.get()))

    await scheduler.run()
    assert got == [0, 1, 2]


async def test_a_scheduler_runs_in_a_native_task_and_is_cancelled_as_one(
    scheduler: Scheduler,
) -> None:
    hooks: list[str] = []

    class Work(BackgroundTask):
        async def execute(self) -> None:
            await asyncio.sleep(60)

        async def shutdown(self) -> None:
            await asyncio.sleep(0.01)
            hooks.append("shutdown")

    scheduler.register_background_task(Work())
    run = asyncio.create_task(scheduler.run())
    while not scheduler.health().ready:  # noqa: ASYNC110  # nobody tells
        await asyncio.sleep(0.01)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert hooks == ["shutdown"]


# -- context variables -----------------------------------------------------------------------

tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


async def test_a_handler_sees_the_variables_of_its_registration_not_of_the_publisher(
    scheduler: Scheduler,
) -> None:
    seen: list[str] = []

    async def handle(number: int) -> None:
        seen.append(tenant.get())
        tenant.set("the handler")

    def register() -> None:
        tenant.set("the registration")
        scheduler.on(NUMBERS)(handle)

    copy_context().run(register)
    async with harness(scheduler) as h:
        tenant.set("the publisher")
        await h.publish(NUMBERS, 1)
        await h.publish(NUMBERS, 2)
        await h.idle()
    assert seen == ["the registration", "the handler"]


# -- debug mode ------------------------------------------------------------------------------


@pytest.mark.parametrize("uvloop", [False, sys.platform != "win32"])
def test_debug_mode_has_nothing_to_complain_of(
    uvloop: bool, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler = Scheduler()
    scheduler.add_channel(NUMBERS)
    seen: list[int] = []

    @scheduler.background()
    async def count() -> None:
        assert asyncio.get_running_loop().get_debug()
        for number in range(10):
            await scheduler.publish(NUMBERS, number)

    @scheduler.on(NUMBERS)
    async def collect(number: int) -> None:
        seen.append(number)

    with caplog.at_level(logging.WARNING):
        scheduler.run_sync("asyncio", {"debug": True, "use_uvloop": uvloop})
    assert seen == [*range(10)]
    assert [one.message for one in caplog.records if "took" not in one.message] == []


# -- test cases of other people --------------------------------------------------------------


def scheduler_that_waits(hooks: list[str]) -> Scheduler:
    scheduler = Scheduler()

    class Work(BackgroundTask):
        async def execute(self) -> None:
            await asyncio.sleep(60)

        async def shutdown(self) -> None:
            hooks.append("shutdown")

    scheduler.register_background_task(Work())
    return scheduler


def errors_of(case: type[unittest.TestCase]) -> list[str]:
    """Run a case, and return the last line of each of its errors."""
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
    assert result.testsRun
    return [error.splitlines()[-1] for _, error in result.errors + result.failures]


@pytest.mark.parametrize("through_the_harness", [False, True])
def test_a_scheduler_across_set_up_and_tear_down_says_what_to_do(
    through_the_harness: bool,
) -> None:
    hooks: list[str] = []

    class Case(unittest.IsolatedAsyncioTestCase):
        async def asyncSetUp(self) -> None:
            scheduler = scheduler_that_waits(hooks)
            if through_the_harness:
                await self.enterAsyncContext(harness(scheduler))
            else:
                await self.enterAsyncContext(scheduler)
                await scheduler.start()

        async def test_something(self) -> None:
            await asyncio.sleep(0)

    (error,) = errors_of(Case)
    assert error.startswith("orchestrio.LifecycleError: the scheduler was entered in one task")
    assert "'async with' in the test" in error
    assert hooks == ["shutdown"]


@pytest.fixture
async def running() -> AsyncGenerator[Scheduler]:
    async with scheduler_that_waits([]) as scheduler:
        await scheduler.start()
        yield scheduler


async def test_a_fixture_of_anyio_s_plugin_enters_and_leaves_in_one_task(
    running: Scheduler,
) -> None:
    assert running.health().ready


async def test_a_failure_comes_out_beside_the_error_of_leaving_elsewhere() -> None:
    scheduler = Scheduler()

    class Bad(BackgroundTask):
        async def execute(self) -> None:
            await asyncio.sleep(60)

        async def shutdown(self) -> None:
            raise TroubleError("boom")

    scheduler.register_background_task(Bad())

    async def enter() -> None:
        await scheduler.__aenter__()
        await scheduler.start()

    await asyncio.create_task(enter())
    with pytest.raises(ExceptionGroup) as caught:
        await scheduler.__aexit__(None, None, None)
    assert caught.value.subgroup(LifecycleError)
    assert "boom" in str(caught.value.exceptions[-1])


def test_a_scheduler_in_a_test_of_unittest_works() -> None:
    hooks: list[str] = []

    class Case(unittest.IsolatedAsyncioTestCase):
        async def test_in_the_test(self) -> None:
            async with harness(scheduler_that_waits(hooks)):
                await asyncio.sleep(0)

    assert errors_of(Case) == []
    assert hooks == ["shutdown"]


class LoopAround:
    """Does as an event loop of asyncio, and is none by its class, as one that wraps another."""

    def __init__(self) -> None:
        self.inner = asyncio.SelectorEventLoop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=cast("asyncio.AbstractEventLoop", self))

    def create_task(
        self, coroutine: Coroutine[Any, Any, object], **options: Any
    ) -> asyncio.Task[Any]:
        return asyncio.Task(coroutine, loop=cast("asyncio.AbstractEventLoop", self), **options)


def test_a_scheduler_runs_in_what_does_as_an_event_loop_of_asyncio() -> None:
    import trio  # noqa: F401  # that it is there makes no loop one of its own

    around = LoopAround()
    loop = cast("asyncio.AbstractEventLoop", around)
    scheduler = Scheduler()
    done: list[str] = []

    @scheduler.background()
    async def work() -> None:
        await asyncio.sleep(0)
        done.append("worked")

    async def run() -> None:
        await scheduler.run()
        done.append("ran")

    def begin() -> None:
        asyncio._set_running_loop(loop)
        task = loop.create_task(run())
        task.add_done_callback(lambda _: around.inner.stop())

    around.inner.call_soon(begin)
    around.inner.run_forever()
    around.inner.close()
    assert done == ["worked", "ran"]


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_a_bridge_hears_of_a_stray_cancellation_as_of_a_failure(concurrency: int) -> None:
    settled: list[BaseException | None] = []
    scheduler = Scheduler()
    scheduler.add_channel(NUMBERS)

    @scheduler.on(NUMBERS, on_error="skip", concurrency=concurrency)
    async def handle(_: int) -> None:
        raise asyncio.CancelledError

    async with scheduler:
        relay = Relay[int, int](scheduler.bus, NUMBERS, lambda number: number)
        acknowledgements = Acknowledgements(
            lambda _: None, lambda _, error: settled.append(error), lambda: None
        )
        relay.acknowledge(acknowledgements, lossless=True)
        await scheduler.start()
        await settle()
        number = await relay.deliver(7)
        assert number is not None
        acknowledgements.expect(number)
        await settle()
    assert [isinstance(error, Exception) for error in settled] == [True]


async def test_a_cancellation_in_the_last_step_of_shutdown_is_a_failure_of_that_task(
    scheduler: Scheduler,
) -> None:
    """A client's close() may cancel all that use it."""
    beats: list[int] = []

    class Closing(BackgroundTask):
        async def execute(self) -> None:
            await anyio.sleep_forever()

        async def shutdown(self) -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()

    @scheduler.background()
    async def neighbour() -> None:
        while True:
            await anyio.lowlevel.checkpoint()
            beats.append(1)

    async with scheduler:
        task_id = scheduler.register_background_task(Closing(), name="closing")
        await scheduler.start()
        with pytest.raises(TaskShutdownError, match="cancelled by something other"):
            await scheduler.stop_task(task_id)
        beats.clear()
        await settle()
        assert beats
