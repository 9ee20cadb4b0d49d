"""Every message and every failure is counted once, told once, and told for what it is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from anyio import Event, current_time
from anyio.lowlevel import checkpoint
from support import NEVER, NUMBERS, SOON, TroubleError, errors, settle

from orchestrio import (
    TASK_EVENTS,
    BackgroundTask,
    Backoff,
    ChannelConfig,
    DeadLetter,
    EventTask,
    OnError,
    RestartPolicy,
    Scheduler,
    TaskExecutionError,
    TaskFailed,
    TaskId,
    TaskInitializationError,
    TaskShutdownError,
    TaskSnapshot,
    TaskState,
    Topic,
    current_task_context,
)

EXACT = Backoff(initial_delay=1, multiplier=1, jitter=0)


@pytest.fixture
def _neighbour(scheduler: Scheduler) -> None:
    scheduler.background(name="neighbour")(anyio.sleep_forever)


def of(scheduler: Scheduler, name: str) -> TaskSnapshot:
    (snapshot,) = [task for task in scheduler.status() if task.name == name]
    return snapshot


# -- counts ----------------------------------------------------------------------------------


class Watched:
    """Looks at the counters of an event task at every turn, and that they add up."""

    def __init__(self, scheduler: Scheduler, shot: TaskId) -> None:
        self.scheduler, self.shot = scheduler, shot
        self.sent = 0
        self.before: TaskSnapshot | None = None

    def look(self) -> TaskSnapshot:
        now = self.scheduler.status(self.shot)
        assert min(now.handled, now.failed, now.in_hand, now.missed, now.unread) >= 0
        if self.before is not None:
            assert now.handled >= self.before.handled
            assert now.failed >= self.before.failed
        assert now.handled + now.failed + now.in_hand + now.missed + now.unread == self.sent
        self.before = now
        return now

    async def turns(self, count: int) -> None:
        for _ in range(count):
            self.look()
            await checkpoint()

    async def publish(self, number: int) -> None:
        self.sent += await self.scheduler.publish(NUMBERS, number)


@pytest.mark.parametrize("fails_at_once", [True, False])
async def test_the_counters_add_up_and_never_go_down_at_any_turn(
    scheduler: Scheduler, concurrency: int, fails_at_once: bool
) -> None:
    @scheduler.on(NUMBERS, name="odd", on_error="skip", concurrency=concurrency)
    async def odd(number: int) -> None:
        if not fails_at_once:
            await checkpoint()
        if number % 2:
            raise TroubleError
        await checkpoint()

    async with scheduler:
        await scheduler.start()
        watched = Watched(scheduler, of(scheduler, "odd").task_id)
        for number in range(20):
            await watched.publish(number)
            await watched.turns(12)
        now = watched.look()
        assert (now.handled, now.failed) == (10, 10)


@pytest.mark.parametrize("turns", range(12))
async def test_a_failure_that_meets_a_stop_is_counted_once_whenever_that_comes(
    scheduler: Scheduler, letters: list[DeadLetter], concurrency: int, turns: int
) -> None:
    @scheduler.on(NUMBERS, name="odd", on_error="skip", concurrency=concurrency)
    async def odd(number: int) -> None:
        await checkpoint()
        if number % 2:
            raise TroubleError

    async with scheduler:
        await scheduler.start()
        watched = Watched(scheduler, of(scheduler, "odd").task_id)
        for number in range(4):
            await watched.publish(number)
        await watched.turns(turns)
        await scheduler.stop_task(watched.shot)
        now = watched.look()
        assert (now.handled, now.failed, now.unread) == (2, 2, 0)
    assert [letter.message for letter in letters] == [1, 3]


async def test_a_handler_that_fails_as_a_stop_cancels_it_is_counted_once(
    scheduler: Scheduler,
    letters: list[DeadLetter],
    concurrency: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    @scheduler.on(
        NUMBERS,
        name="slow",
        on_error="skip",
        concurrency=concurrency,
        drain_timeout=1,
        stop_timeout=1,
    )
    async def slow(number: int) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise TroubleError

    async with scheduler:
        await scheduler.start()
        watched = Watched(scheduler, of(scheduler, "slow").task_id)
        for number in range(5):
            await watched.publish(number)
        await settle()
        await scheduler.stop_task(watched.shot)
        now = watched.look()
        assert (now.handled, now.failed, now.unread) == (0, concurrency, 5 - concurrency)
    assert len(letters) == concurrency
    assert len(errors(caplog)) == concurrency
    assert "was cancelled while it handled" not in caplog.text, "each of them is told as a failure"


async def test_a_message_that_a_stop_cuts_off_between_two_attempts_is_counted_once(
    scheduler: Scheduler, letters: list[DeadLetter], concurrency: int
) -> None:
    @scheduler.on(
        NUMBERS,
        name="fragile",
        on_error="skip",
        concurrency=concurrency,
        retries=3,
        retry_backoff=Backoff(initial_delay=60, jitter=0),
        drain_timeout=1,
    )
    async def fragile(number: int) -> None:
        if number == 1:
            raise TroubleError

    async with scheduler:
        await scheduler.start()
        watched = Watched(scheduler, of(scheduler, "fragile").task_id)
        for number in range(2):
            await watched.publish(number)
        await settle()
        assert watched.look().in_hand == 1
        await scheduler.stop_task(watched.shot)
        now = watched.look()
        assert (now.handled, now.failed) == (1, 1)


@pytest.mark.parametrize("on_error", ["skip", "stop", "restart"])
async def test_a_failure_counts_as_one_whatever_it_means(
    scheduler: Scheduler, letters: list[DeadLetter], concurrency: int, on_error: OnError
) -> None:
    @scheduler.on(NUMBERS, name="fragile", on_error=on_error, concurrency=concurrency)
    async def fragile(number: int) -> None:
        await checkpoint()
        if number == 1:
            raise TroubleError

    async with scheduler:
        await scheduler.start()
        for number in range(2):
            await scheduler.publish(NUMBERS, number)
        await anyio.sleep(10)
        now = of(scheduler, "fragile")
        assert (now.handled, now.failed, now.in_hand, now.unread) == (1, 1, 0, 0)
    assert [letter.message for letter in letters] == [1]


# -- failures of what is being removed -------------------------------------------------------


class Late(BackgroundTask):
    """Heeds a stop, and fails as it does, or in its shutdown()."""

    def __init__(self, hook: str) -> None:
        self.hook = hook

    async def execute(self) -> None:
        await current_task_context().stopping.wait()
        await anyio.sleep(1)
        if self.hook == "execute":
            raise TroubleError("too late")

    async def shutdown(self) -> None:
        if self.hook == "shutdown":
            raise TroubleError("too late")


@pytest.mark.parametrize("command", ["stop_task", "remove_task"])
@pytest.mark.usefixtures("_neighbour")
async def test_a_failure_after_a_command_is_raised_where_no_policy_is_for_it(
    scheduler: Scheduler, command: str, caplog: pytest.LogCaptureFixture
) -> None:
    shot = scheduler.register_background_task(Late("execute"), name="late")
    with pytest.raises(TaskExecutionError, match="'late' failed: its execute.*too late"):
        async with scheduler:
            await scheduler.start()
            await settle()
            await getattr(scheduler, command)(shot)
            await anyio.sleep(10)
    assert not errors(caplog)


@pytest.mark.parametrize("command", ["stop_task", "remove_task"])
@pytest.mark.parametrize("options", [{"restart": SOON}, {"restart": NEVER}, {"on_error": "stop"}])
@pytest.mark.usefixtures("_neighbour")
async def test_a_failure_after_a_command_is_logged_where_one_is(
    scheduler: Scheduler, command: str, options: Any, caplog: pytest.LogCaptureFixture
) -> None:
    shot = scheduler.register_background_task(Late("execute"), name="late", **options)
    async with scheduler:
        await scheduler.start()
        await settle()
        await getattr(scheduler, command)(shot)
        await anyio.sleep(10)
        assert of(scheduler, "neighbour").state is TaskState.RUNNING
    (record,) = errors(caplog)
    assert "'late' failed: its execute() raised TroubleError: too late" in record.message
    assert record.exc_info is not None


@pytest.mark.usefixtures("_neighbour")
async def test_a_failure_after_a_command_whose_caller_is_gone_is_told_all_the_same(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    shot = scheduler.register_background_task(Late("shutdown"), name="late")
    async with scheduler:
        await scheduler.start()
        await settle()
        with anyio.move_on_after(0.5):
            await scheduler.remove_task(shot)
        await anyio.sleep(10)
        assert [task.name for task in scheduler.status()] == ["neighbour"]
        (record,) = errors(caplog)
        assert "'late' did not shut down well" in record.message
        assert "too late" in record.message
        assert record.exc_info is not None


class SelfEnding(BackgroundTask):
    """Stops or removes itself, and fails."""

    def __init__(self, scheduler: Scheduler, command: str, hook: str) -> None:
        self.scheduler, self.command, self.hook = scheduler, command, hook

    async def execute(self) -> None:
        await getattr(self.scheduler, self.command)(current_task_context().task_id)
        if self.hook == "execute":
            raise TroubleError("my own fault")
        await anyio.sleep(1)

    async def shutdown(self) -> None:
        if self.hook == "shutdown":
            raise TroubleError("my own fault")


@pytest.mark.parametrize("command", ["stop_task", "remove_task"])
@pytest.mark.usefixtures("_neighbour")
async def test_a_task_that_ends_itself_and_fails_in_its_shutdown_is_in_the_log_at_once(
    scheduler: Scheduler, command: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with scheduler:
        await scheduler.start()
        scheduler.register_background_task(SelfEnding(scheduler, command, "shutdown"), name="job")
        await settle(50)
        (record,) = errors(caplog)
        assert "'job' did not shut down well" in record.message
        assert "my own fault" in record.message
        assert record.exc_info is not None
        await anyio.sleep(10)
    assert len(errors(caplog)) == 1


@pytest.mark.parametrize("command", ["stop_task", "remove_task"])
@pytest.mark.parametrize("policy", [None, SOON])
@pytest.mark.usefixtures("_neighbour")
async def test_a_task_that_ends_itself_and_fails_is_told_of(
    scheduler: Scheduler,
    command: str,
    policy: RestartPolicy | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    task = SelfEnding(scheduler, command, "execute")
    raised: list[BaseException] = []
    try:
        async with scheduler:
            await scheduler.start()
            scheduler.register_background_task(task, name="job", restart=policy)
            await anyio.sleep(10)
    except TaskExecutionError as error:
        raised.append(error)
    told = [*map(str, raised), *(record.message for record in errors(caplog))]
    assert len(told) == 1
    assert "'job' failed: its execute() raised TroubleError: my own fault" in told[0]
    assert len(raised) == (policy is None)


@pytest.mark.parametrize("command", ["stop_task", "remove_task", "restart_task"])
@pytest.mark.usefixtures("_neighbour")
async def test_a_handler_that_ends_its_own_task_and_fails_is_told_of(
    scheduler: Scheduler,
    letters: list[DeadLetter],
    command: str,
    concurrency: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    @scheduler.on(NUMBERS, name="job", restart=SOON, concurrency=concurrency)
    async def job(number: int) -> None:
        if number == 1:
            await getattr(scheduler, command)(current_task_context().task_id)
            raise TroubleError("my own fault")

    async with scheduler:
        await scheduler.start()
        for number in range(2):
            await scheduler.publish(NUMBERS, number)
        await anyio.sleep(10)
    assert [letter.message for letter in letters] == [1]
    (record,) = errors(caplog)
    assert "'job' failed: its handle_event() raised TroubleError: my own fault" in record.message


# -- errors without words --------------------------------------------------------------------


class MuteError(Exception):
    """Has no words for what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


class SilentError(MuteError):
    """Nor anything else."""

    def __repr__(self) -> str:
        raise RuntimeError("nothing at all")


class LeavingError(MuteError):
    """Ends the program instead."""

    def __str__(self) -> str:
        raise SystemExit("RuntimeError")


class CancelledWordsError(MuteError):
    """Is cancelled instead."""

    def __str__(self) -> str:
        raise asyncio.CancelledError("RuntimeError")


Mute = Callable[[], Exception]


@pytest.fixture(params=[MuteError, SilentError, LeavingError, CancelledWordsError])
def mute(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Mute:
    # The traceback module prints such an error; but a handler of the log that shows arguments may
    # not, and that is not what is looked at here.
    monkeypatch.setattr(logging, "raiseExceptions", False)
    made: Mute = request.param
    return made


class Raising(BackgroundTask):
    """Raises in one of its hooks, in its first run."""

    def __init__(self, hook: str, error: Mute) -> None:
        self.hook, self.error = hook, error
        self.hooks: list[str] = []

    async def in_hook(self, hook: str) -> None:
        self.hooks.append(f"{hook} {current_task_context().run}")
        if hook == self.hook and current_task_context().run == 1:
            raise self.error()

    async def initialize(self) -> None:
        await self.in_hook("initialize")

    async def execute(self) -> None:
        await self.in_hook("execute")
        await anyio.sleep_forever()

    async def shutdown(self) -> None:
        await self.in_hook("shutdown")


async def test_an_error_without_words_in_initialize_fails_the_start(
    scheduler: Scheduler, mute: Mute
) -> None:
    scheduler.register_background_task(Raising("initialize", mute), name="mute")
    with pytest.raises(TaskInitializationError, match="'mute' could not start.*__str__ raised"):
        await scheduler.run()


async def test_an_error_without_words_in_execute_ends_the_run(
    scheduler: Scheduler, mute: Mute
) -> None:
    task = Raising("execute", mute)
    scheduler.register_background_task(task, name="mute")
    with pytest.raises(TaskExecutionError, match="'mute' failed.*__str__ raised") as caught:
        await scheduler.run()
    assert isinstance(caught.value.__cause__, MuteError)
    assert task.hooks == ["initialize 1", "execute 1", "shutdown 1"]


async def test_an_error_without_words_in_execute_is_mended_by_a_policy(
    scheduler: Scheduler, mute: Mute
) -> None:
    task = Raising("execute", mute)
    shot = scheduler.register_background_task(task, restart=SOON)
    async with scheduler:
        await scheduler.start()
        await settle()
        assert scheduler.status(shot).state is TaskState.BACKING_OFF
        assert "Error, whose __str__ raised" in (scheduler.status(shot).error or "")
        await anyio.sleep(1.5)
        assert scheduler.status(shot).state is TaskState.RUNNING
        assert task.hooks[-2:] == ["initialize 2", "execute 2"]


async def test_an_error_without_words_in_shutdown_is_an_error_of_it(
    scheduler: Scheduler, mute: Mute
) -> None:
    scheduler.register_background_task(Raising("shutdown", mute), name="mute")
    with pytest.raises(ExceptionGroup) as caught:
        async with scheduler:
            await scheduler.start()
    (error,) = caught.value.exceptions
    assert isinstance(error, TaskShutdownError)
    assert isinstance(error.__cause__, MuteError)


@pytest.mark.parametrize("retries", [0, 1])
async def test_a_message_with_an_error_without_words_is_skipped(
    scheduler: Scheduler, letters: list[DeadLetter], concurrency: int, mute: Mute, retries: int
) -> None:
    handled: list[int] = []

    @scheduler.on(
        NUMBERS,
        name="mute",
        on_error="skip",
        concurrency=concurrency,
        retries=retries,
        retry_backoff=EXACT,
    )
    async def handle(number: int) -> None:
        if number == 0:
            raise mute()
        handled.append(number)

    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 0)
        await scheduler.publish(NUMBERS, 1)
        await anyio.sleep(5)
        now = of(scheduler, "mute")
        assert now.state is TaskState.RUNNING
        assert (now.handled, now.failed) == (1, 1)
    assert handled == [1]
    assert [type(letter.error) for letter in letters] == [mute]


async def test_a_handler_with_an_error_without_words_is_restarted_or_ends_the_run(
    scheduler: Scheduler, concurrency: int, mute: Mute
) -> None:
    @scheduler.on(NUMBERS, name="mended", restart=SOON, concurrency=concurrency)
    async def mended(number: int) -> None:
        if number == 0:
            raise mute()

    @scheduler.on(NUMBERS, name="mute", concurrency=concurrency)
    async def handle(number: int) -> None:
        if number == 1:
            raise mute()

    with pytest.raises(TaskExecutionError, match="'mute' failed: its handle_event") as caught:
        async with scheduler:
            await scheduler.start()
            await scheduler.publish(NUMBERS, 0)
            await anyio.sleep(5)
            assert of(scheduler, "mended").state is TaskState.RUNNING
            assert of(scheduler, "mended").restarts == 1
            await scheduler.publish(NUMBERS, 1)
            await anyio.sleep(5)
    assert isinstance(caught.value.__cause__, MuteError)


async def test_a_tick_with_an_error_without_words_is_skipped(
    scheduler: Scheduler, mute: Mute
) -> None:
    ticks: list[int] = []

    @scheduler.every(1, name="tick", on_error="skip")
    async def tick() -> None:
        ticks.append(len(ticks))
        if len(ticks) == 1:
            raise mute()

    async with scheduler:
        await scheduler.start()
        await anyio.sleep(2.5)
        assert (of(scheduler, "tick").handled, of(scheduler, "tick").failed) == (2, 1)


async def test_an_error_without_words_that_is_too_much_carries_its_history(
    scheduler: Scheduler, mute: Mute
) -> None:
    @scheduler.background(name="mute", restart=RestartPolicy(max_restarts=1, initial_delay=0))
    async def always() -> None:
        raise mute()

    with pytest.raises(TaskExecutionError, match="'mute' failed 2 times") as caught:
        await scheduler.run()
    assert isinstance(caught.value.__cause__, ExceptionGroup)


# -- which hook it was -----------------------------------------------------------------------


class Laggard(EventTask[int]):
    """Fails in one of two hooks."""

    def __init__(self, hook: str) -> None:
        self.hook = hook
        self.lags: list[int] = []

    @property
    def subscribed_event(self) -> Topic[int]:
        return NUMBERS

    async def handle_event(self, event: int, /) -> None:
        if self.hook == "handle_event" and event == 99:
            raise TroubleError("no words for 99")

    async def handle_lag(self, missed: int) -> None:
        self.lags.append(missed)
        await checkpoint()
        if self.hook == "handle_lag":
            raise TroubleError("too slow")


@pytest.mark.parametrize("hook", ["handle_lag", "handle_event"])
async def test_an_error_is_told_as_one_of_the_hook_that_raised_it(
    hook: str, concurrency: int
) -> None:
    scheduler = Scheduler()
    scheduler.add_channel(NUMBERS, ChannelConfig(capacity=1))
    task = Laggard(hook)
    scheduler.register_event_task(task, name="laggard", concurrency=concurrency)
    with pytest.raises(TaskExecutionError, match=rf"'laggard' failed: its {hook}\(\) raised"):
        async with scheduler:
            await scheduler.start()
            for number in range(5):
                scheduler.bus.publish_nowait(NUMBERS, number)
            await settle(50)
            await scheduler.publish(NUMBERS, 99)
            await anyio.sleep(1)
    assert task.lags == [4]


async def test_after_an_error_of_handle_lag_the_next_run_tells_its_own(concurrency: int) -> None:
    scheduler = Scheduler()
    scheduler.add_channel(NUMBERS, ChannelConfig(capacity=1))
    told: list[str] = []

    @scheduler.on(TASK_EVENTS)
    async def listen(event: object) -> None:
        if isinstance(event, TaskFailed):
            told.append(str(event.error))

    task = Laggard("handle_lag")
    shot = scheduler.register_event_task(
        task, name="laggard", concurrency=concurrency, restart=SOON
    )
    async with scheduler:
        await scheduler.start()
        for number in range(5):
            scheduler.bus.publish_nowait(NUMBERS, number)
        await anyio.sleep(5)
        task.hook = "handle_event"
        await scheduler.publish(NUMBERS, 99)
        await anyio.sleep(5)
        assert scheduler.status(shot).restarts == 2
    assert told == [
        "task 'laggard' failed: its handle_lag() raised TroubleError: too slow",
        "task 'laggard' failed: its handle_event() raised TroubleError: no words for 99",
    ]


# -- pools -----------------------------------------------------------------------------------


class Slow:
    """A handler whose messages last as long as they say, and of which some fail."""

    def __init__(self, lasts: dict[int, float], fails: int) -> None:
        self.lasts, self.fails = lasts, fails
        self.calls: list[int] = []
        self.done: list[tuple[int, float]] = []

    async def handle(self, number: int) -> None:
        self.calls.append(number)
        await anyio.sleep(self.lasts.get(number, 0))
        if number == self.fails:
            raise TroubleError(f"trouble with {number}")
        self.done.append((number, current_time()))


@pytest.mark.parametrize("options", [{"restart": SOON}, {"on_error": "restart"}])
async def test_when_one_worker_fails_the_others_finish_what_they_have_in_hand(
    scheduler: Scheduler,
    letters: list[DeadLetter],
    options: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    slow = Slow({0: 4, 1: 1, 2: 3, 3: 1}, fails=1)
    scheduler.on(NUMBERS, name="pool", concurrency=3, stop_timeout=5, **options)(slow.handle)
    async with scheduler:
        await scheduler.start()
        for number in range(4):
            await scheduler.publish(NUMBERS, number)
        await anyio.sleep(20)
        now = of(scheduler, "pool")
        assert (now.handled, now.failed, now.in_hand, now.unread) == (3, 1, 0, 0)
    assert slow.done[:2] == [(2, 3), (0, 4)], "the others of them finish"
    assert [number for number, _ in slow.done] == [2, 0, 3], "and the next run handles the rest"
    assert slow.calls == [0, 1, 2, 3], "each of them once"
    assert [letter.message for letter in letters] == [1]
    assert "was cancelled while" not in caplog.text


async def test_those_that_take_too_long_after_a_failure_are_cut_off_with_a_word(
    scheduler: Scheduler, letters: list[DeadLetter], caplog: pytest.LogCaptureFixture
) -> None:
    slow = Slow({0: 100, 1: 1, 2: 3, 3: 100}, fails=1)
    scheduler.on(NUMBERS, name="pool", concurrency=4, stop_timeout=5, restart=SOON)(slow.handle)
    async with scheduler:
        await scheduler.start()
        for number in range(4):
            await scheduler.publish(NUMBERS, number)
        await anyio.sleep(20)
        now = of(scheduler, "pool")
        assert now.restarts == 1
        assert (now.handled, now.failed, now.in_hand, now.unread) == (1, 3, 0, 0)
    assert slow.done == [(2, 3)]
    assert caplog.text.count("task 'pool' was cancelled while it handled 2 messages") == 1


async def test_a_second_worker_that_fails_meanwhile_is_told_of_as_well(
    scheduler: Scheduler, letters: list[DeadLetter]
) -> None:
    @scheduler.on(NUMBERS, name="pool", concurrency=3, stop_timeout=5)
    async def pool(number: int) -> None:
        await anyio.sleep(number)
        if number:
            raise TroubleError(f"trouble with {number}")

    with pytest.raises(TaskExecutionError) as caught:
        async with scheduler:
            await scheduler.start()
            for number in range(3):
                await scheduler.publish(NUMBERS, number)
            await anyio.sleep(20)
    cause = caught.value.__cause__
    assert isinstance(cause, ExceptionGroup)
    assert [str(error) for error in cause.exceptions] == ["trouble with 1", "trouble with 2"]
    assert [letter.message for letter in letters] == [1, 2]


@pytest.mark.parametrize("stop", ["stop_task", "remove_task", "restart_task", "shutdown"])
async def test_a_pool_that_is_stopped_warns_of_what_it_cut_off(
    scheduler: Scheduler, stop: str, caplog: pytest.LogCaptureFixture
) -> None:
    @scheduler.on(NUMBERS, name="pool", concurrency=3, drain_timeout=2, stop_timeout=1)
    async def pool(number: int) -> None:
        await anyio.sleep(1 if number == 1 else 100)

    async with scheduler:
        await scheduler.start()
        for number in range(3):
            await scheduler.publish(NUMBERS, number)
        await settle()
        shot = of(scheduler, "pool").task_id
        command: Callable[..., Awaitable[None]] = getattr(scheduler, stop)
        await (command() if stop == "shutdown" else command(shot))
        if stop != "remove_task":
            assert (of(scheduler, "pool").handled, of(scheduler, "pool").failed) == (1, 2)
        assert caplog.text.count("task 'pool' was cancelled while it handled 2 messages") == 1


async def test_a_single_worker_that_is_stopped_warns_in_the_same_words(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    @scheduler.on(NUMBERS, name="single", drain_timeout=2, stop_timeout=1)
    async def single(number: int) -> None:
        await anyio.sleep(100)

    async with scheduler:
        await scheduler.start()
        for number in range(3):
            await scheduler.publish(NUMBERS, number)
        await settle()
        await scheduler.stop_task(of(scheduler, "single").task_id)
        now = of(scheduler, "single")
        assert (now.handled, now.failed, now.unread) == (0, 1, 2)
    assert caplog.text.count("task 'single' was cancelled while it handled a message") == 1


async def test_a_pool_loses_nothing_that_no_worker_has_begun(
    scheduler: Scheduler, letters: list[DeadLetter]
) -> None:
    go = Event()
    handled: list[int] = []

    @scheduler.on(NUMBERS, name="pool", concurrency=3, restart=SOON)
    async def pool(number: int) -> None:
        if number == 1:
            await go.wait()
            raise TroubleError
        await checkpoint()
        handled.append(number)

    async with scheduler:
        await scheduler.start()
        for number in range(10):
            await scheduler.publish(NUMBERS, number)
        go.set()
        await anyio.sleep(10)
        now = of(scheduler, "pool")
        assert (now.handled, now.failed, now.in_hand, now.unread) == (9, 1, 0, 0)
    assert sorted(handled) == [0, 2, 3, 4, 5, 6, 7, 8, 9]


# -- who ignores its cancellation, and what is left of a run -----------------------------------------------


async def test_a_message_in_a_handler_that_ignores_its_cancellation_is_in_hand(
    scheduler: Scheduler, concurrency: int
) -> None:
    @scheduler.on(NUMBERS, name="stuck", concurrency=concurrency, drain_timeout=1, stop_timeout=1)
    async def stuck(number: int) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(30)

    async with scheduler:
        await scheduler.start()
        watched = Watched(scheduler, of(scheduler, "stuck").task_id)
        for number in range(5):
            await watched.publish(number)
        await settle()
        watched.look()
        with pytest.raises(TaskShutdownError, match="went on for more than stop_timeout"):
            await scheduler.stop_task(watched.shot)
        now = watched.look()
        assert now.stuck
        assert (now.handled, now.failed, now.in_hand) == (0, 0, concurrency)
        await anyio.sleep(30)
        now = watched.look()
        assert (now.handled, now.failed, now.in_hand) == (concurrency, 0, 0)


async def test_run_waits_for_no_restart_that_has_nothing_to_handle(
    scheduler: Scheduler, concurrency: int
) -> None:
    @scheduler.on(NUMBERS, concurrency=concurrency, restart=RestartPolicy(initial_delay=60))
    async def fragile(number: int) -> None:
        raise TroubleError

    @scheduler.background()
    async def publish() -> None:
        await scheduler.publish(NUMBERS, 1)
        await anyio.sleep(1)

    await scheduler.run()
    assert current_time() == 1


async def test_run_waits_for_a_restart_before_which_messages_were_read_ahead(
    scheduler: Scheduler, concurrency: int
) -> None:
    handled: list[int] = []

    @scheduler.on(NUMBERS, concurrency=concurrency, restart=SOON)
    async def fragile(number: int) -> None:
        if number == 0:
            raise TroubleError
        handled.append(number)

    @scheduler.background()
    async def publish() -> None:
        for number in range(9):
            scheduler.bus.publish_nowait(NUMBERS, number)
        await settle()

    await scheduler.run()
    assert current_time() == 1
    assert handled == list(range(1, 9))
