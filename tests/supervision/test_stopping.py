"""How tasks end: asked first, cancelled then, named if they do not; and what comes between."""

from __future__ import annotations

import logging
import os
import signal
import threading

import anyio
import pytest
from anyio import CancelScope, create_task_group, current_time, to_thread
from support import TroubleError, posix_signals, settle
from support.diary import Diary, add
from support.hooks import Forever

from orchestrio import (
    BackgroundTask,
    RestartPolicy,
    Scheduler,
    TaskExecutionError,
    TaskShutdownError,
    TaskState,
    current_task_context,
)

LATER = RestartPolicy(initial_delay=1000, max_delay=1000, jitter=0)


class Failing(Forever):
    """Fails in its first run, and works for ever in the next."""

    async def execute(self) -> None:
        self.note("execute")
        if current_task_context().run == 1:
            raise TroubleError
        await anyio.sleep_forever()


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


@posix_signals
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


# -- asked first: single tasks, and runs -----------------------------------------------------------------


@pytest.mark.parametrize("remove", [False, True])
async def test_a_single_task_that_is_stopped_may_end_by_itself(
    scheduler: Scheduler, remove: bool
) -> None:
    ended: list[float] = []

    @scheduler.background(stop_timeout=5)
    async def polite() -> None:
        await current_task_context().stopping.wait()
        await anyio.sleep(4)
        ended.append(current_time())

    scheduler.background(name="other")(anyio.sleep_forever)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(1)
        task = scheduler.status()[0].task_id
        await (scheduler.remove_task if remove else scheduler.stop_task)(task)
        assert ended == [current_time()] == [5]


async def test_each_run_has_a_stopping_of_its_own(scheduler: Scheduler) -> None:
    heard: list[tuple[int, bool]] = []

    @scheduler.background()
    async def polite() -> None:
        context = current_task_context()
        heard.append((context.run, context.stopping.is_set()))
        await context.stopping.wait()

    async with scheduler:
        await scheduler.start()
        await settle()
        await scheduler.restart_task(scheduler.status()[0].task_id)
        await settle()
        assert scheduler.status()[0].state is TaskState.RUNNING
        assert current_time() == 0
    assert heard == [(1, False), (2, False)]


async def test_all_that_listen_have_their_time_at_once(scheduler: Scheduler) -> None:
    async def slow() -> None:
        await current_task_context().stopping.wait()
        await anyio.sleep(4)

    for number in range(3):
        scheduler.background(name=f"slow {number}", stop_timeout=5)(slow)
    async with scheduler:
        await scheduler.start()
        await settle()
        await scheduler.shutdown()
        assert current_time() == 4


async def test_a_task_that_listens_and_then_fails_says_so(scheduler: Scheduler) -> None:
    @scheduler.background()
    async def clumsy() -> None:
        await current_task_context().stopping.wait()
        raise TroubleError("clumsy end")

    with pytest.raises(TaskExecutionError, match="clumsy end"):
        async with scheduler:
            await scheduler.start()
            await settle()


async def test_a_task_with_a_policy_that_fails_when_asked_to_stop_is_not_restarted(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    runs: list[int] = []

    @scheduler.background(restart=RestartPolicy(mode="always", initial_delay=0))
    async def clumsy() -> None:
        runs.append(current_task_context().run)
        await current_task_context().stopping.wait()
        raise TroubleError("clumsy end")

    async with scheduler:
        await scheduler.start()
        await settle()
    assert runs == [1]
    assert "clumsy end, while it was stopping" in caplog.text


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("how", ["stop", "restart", "remove", "shutdown"])
async def test_an_idle_event_task_whose_handler_listened_ends_at_once(
    scheduler: Scheduler, how: str, concurrency: int
) -> None:
    """Its handler has returned: nobody is there who could heed `stopping`."""
    scheduler.add_channel("words")

    @scheduler.on("words", concurrency=concurrency)
    async def listen(word: str) -> None:
        assert not current_task_context().stopping.is_set()

    scheduler.background(name="other")(anyio.sleep_forever)
    async with scheduler:
        await scheduler.start()
        await scheduler.publish("words", "word")
        await anyio.sleep(1)
        task = scheduler.status()[0].task_id
        if how == "stop":
            await scheduler.stop_task(task)
        elif how == "restart":
            await scheduler.restart_task(task)
        elif how == "remove":
            await scheduler.remove_task(task)
        else:
            await scheduler.shutdown()
        assert current_time() == 1


async def test_a_handler_hears_that_its_task_stops_while_it_is_drained(
    scheduler: Scheduler,
) -> None:
    scheduler.add_channel("words")
    ended: list[float] = []

    @scheduler.on("words", drain_timeout=5)
    async def listen(word: str) -> None:
        await current_task_context().stopping.wait()
        ended.append(current_time())

    async with scheduler:
        await scheduler.start()
        await scheduler.publish("words", "word")
        await anyio.sleep(1)
        await scheduler.shutdown()
    assert ended == [1]


# -- that do not end: what becomes of them ---------------------------------------------------------------


async def test_a_task_that_ends_late_after_all_shuts_down(scheduler: Scheduler) -> None:
    events: list[tuple[str, float]] = []

    class Stubborn(BackgroundTask):
        async def execute(self) -> None:
            await swallow_cancellations(10)
            events.append(("end", current_time()))

        async def shutdown(self) -> None:
            events.append(("shutdown", current_time()))

    task = scheduler.register_background_task(Stubborn(), stop_timeout=3)
    with pytest.raises(ExceptionGroup):
        async with scheduler:
            await scheduler.start()
            await settle()
    assert [name for name, _ in events] == ["end", "shutdown"]
    assert events[0][1] >= 10
    shot = scheduler.status(task)
    assert not shot.stuck
    assert shot.error is not None
    assert "stop_timeout (3 s)" in shot.error


async def test_a_task_that_ends_within_its_time_after_all_is_no_error(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    @scheduler.background(stop_timeout=30)
    async def reluctant() -> None:
        await swallow_cancellations(10)

    async with scheduler:
        await scheduler.start()
        await settle()
    assert scheduler.status()[0].error is None
    assert "It stands here" not in caplog.text


async def test_others_shut_down_in_spite_of_one_that_does_not_end(
    scheduler: Scheduler, diary: Diary
) -> None:
    add(scheduler, diary, "other")

    @scheduler.background(stop_timeout=3)
    async def stubborn() -> None:
        await swallow_cancellations(100)

    with pytest.raises(ExceptionGroup):
        async with scheduler:
            await scheduler.start()
            await settle()
    assert diary.when("down", "other") == [3]


# -- in back-off, in a restart, by hand ------------------------------------------------------------------


async def test_wait_stopped_returns_when_a_task_is_stopped_in_its_back_off(
    scheduler: Scheduler,
) -> None:
    task = scheduler.register_background_task(Failing(), restart=LATER)
    ended: list[tuple[TaskState, float]] = []

    async def wait() -> None:
        shot = await scheduler.wait_stopped(task)
        ended.append((shot.state, current_time()))

    async with scheduler, create_task_group() as group:
        await scheduler.start()
        group.start_soon(wait)
        await anyio.sleep(1)
        assert scheduler.status(task).state is TaskState.BACKING_OFF
        assert not ended, "it is to come back"
        await scheduler.stop_task(task)
    assert [when for _, when in ended] == [1]
    assert scheduler.status(task).state is TaskState.STOPPED


class SlowHooks(BackgroundTask):
    """Fails in its first run, and takes 5 s in a hook of its restart."""

    def __init__(self, slow: str) -> None:
        self.slow = slow
        self.hooks: list[str] = []

    async def _hook(self, name: str) -> None:
        self.hooks.append(f"{name} begins")
        if name == self.slow and len(self.hooks) > 1:
            await anyio.sleep(5)
        self.hooks.append(f"{name} ends")

    async def initialize(self) -> None:
        await self._hook("initialize")

    async def execute(self) -> None:
        if current_task_context().run == 1:
            raise TroubleError
        await anyio.sleep_forever()

    async def shutdown(self) -> None:
        await self._hook("shutdown")


ONE_RUN = ["initialize begins", "initialize ends", "shutdown begins", "shutdown ends"]


@pytest.mark.parametrize("remove", [False, True])
async def test_a_task_stopped_while_its_restart_initializes_is_cancelled_there(
    scheduler: Scheduler, remove: bool
) -> None:
    slow = SlowHooks("initialize")
    task = scheduler.register_background_task(slow, restart=RestartPolicy(initial_delay=0))
    scheduler.background(name="other")(anyio.sleep_forever)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(2)
        assert slow.hooks[-1] == "initialize begins"
        await (scheduler.remove_task if remove else scheduler.stop_task)(task)
        assert current_time() == 2
        await anyio.sleep(100)
    assert slow.hooks == [*ONE_RUN, "initialize begins"]
    assert [shot.name for shot in scheduler.status()] == ["SlowHooks", "other"][remove:]


@pytest.mark.parametrize("remove", [False, True])
async def test_a_task_stopped_while_its_restart_shuts_down_ends_with_that(
    scheduler: Scheduler, remove: bool
) -> None:
    slow = SlowHooks("shutdown")
    task = scheduler.register_background_task(slow, restart=RestartPolicy(initial_delay=0))
    scheduler.background(name="other")(anyio.sleep_forever)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(2)
        assert slow.hooks[-1] == "shutdown begins"
        await (scheduler.remove_task if remove else scheduler.stop_task)(task)
        assert current_time() == 5
        await anyio.sleep(100)
    assert slow.hooks == ONE_RUN


async def test_every_hook_of_a_run_knows_its_number(scheduler: Scheduler) -> None:
    runs: list[int] = []

    class Counting(BackgroundTask):
        async def initialize(self) -> None:
            runs.append(current_task_context().run)

        async def execute(self) -> None:
            runs.append(current_task_context().run)
            await anyio.sleep_forever()

        async def shutdown(self) -> None:
            runs.append(current_task_context().run)

    task = scheduler.register_background_task(Counting())
    async with scheduler:
        await scheduler.start()
        await settle()
        await scheduler.restart_task(task)
        await settle()
    assert runs == [1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
async def test_an_interrupt_in_a_task_ends_run_and_shuts_the_others_down(
    scheduler: Scheduler, kind: type[BaseException]
) -> None:
    other = Failing()
    scheduler.register_background_task(other, restart=LATER)

    @scheduler.background(restart=RestartPolicy(mode="always", initial_delay=0))
    async def interrupted() -> None:
        await anyio.sleep(1)
        raise kind

    with pytest.raises(kind):
        await scheduler.run()
    assert other.hooks == ["initialize", "execute", "shutdown"]
    assert current_time() == 1


# -- signals ---------------------------------------------------------------------------------------------


async def really(happened: threading.Event) -> None:
    """Wait in real time, in which signals arrive: a busy thread keeps the clock from jumping."""
    assert await to_thread.run_sync(happened.wait, 30)


@posix_signals
async def test_a_task_in_back_off_is_stopped_after_a_signal(scheduler: Scheduler) -> None:
    failing = Failing()
    task = scheduler.register_background_task(failing, restart=LATER)
    over = threading.Event()

    async def run() -> None:
        await scheduler.run()
        over.set()

    async with create_task_group() as group:
        group.start_soon(run)
        await anyio.sleep(1)
        assert scheduler.status(task).state is TaskState.BACKING_OFF
        os.kill(os.getpid(), signal.SIGTERM)
        await really(over)
    assert scheduler.status(task).state is TaskState.STOPPED
    assert failing.hooks == ["initialize", "execute", "shutdown"]
    assert current_time() < 1000


@posix_signals
async def test_a_second_signal_cuts_the_time_of_a_task_that_listens(scheduler: Scheduler) -> None:
    asked, cancelled = threading.Event(), threading.Event()

    @scheduler.background(stop_timeout=1000)
    async def slow() -> None:
        await current_task_context().stopping.wait()
        asked.set()
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    async with create_task_group() as group:
        group.start_soon(scheduler.run)
        await settle()
        os.kill(os.getpid(), signal.SIGTERM)
        await really(asked)
        assert not cancelled.is_set()
        os.kill(os.getpid(), signal.SIGTERM)
        await really(cancelled)
    assert current_time() < 1000
