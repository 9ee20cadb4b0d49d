"""A cancellation that nobody asked for is a failure of its task like any other.

asyncio alone has such: a library cancels a request of its own, or a task awaits what somebody else
has cancelled, and a native ``CancelledError`` comes out of a hook. It never ends other tasks, nor
the run without a word.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from asyncio import CancelledError
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from anyio import current_time, move_on_after
from support import NUMBERS, settle, until

from orchestrio import (
    DEAD_LETTERS,
    BackgroundTask,
    Backoff,
    ChannelConfig,
    DeadLetter,
    EventTask,
    OnError,
    RestartPolicy,
    Scheduler,
    TaskExecutionError,
    TaskId,
    TaskInitializationError,
    TaskShutdownError,
    TaskState,
    Topic,
    current_task_context,
)
from orchestrio.testing import virtual_time

SOON = RestartPolicy(initial_delay=0.01, multiplier=1, jitter=0, max_restarts=None)
EXACT = Backoff(initial_delay=0.01, multiplier=1, jitter=0)

LOOPS = [pytest.param(virtual_time("asyncio"), id="asyncio")]
if sys.platform != "win32":
    LOOPS.append(pytest.param(("asyncio", {"use_uvloop": True}), id="asyncio+uvloop"))


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


# -- how it comes about ----------------------------------------------------------------------


async def await_a_cancelled_request() -> None:
    request = asyncio.ensure_future(asyncio.sleep(60))
    await asyncio.sleep(0)
    request.cancel()
    await request


async def await_what_was_cancelled_before() -> None:
    request = asyncio.get_running_loop().create_future()
    request.cancel()
    await request


async def raise_it() -> None:
    raise CancelledError


async def raise_it_in_a_group() -> None:
    raise BaseExceptionGroup("all requests were cancelled", [CancelledError(), CancelledError()])


async def raise_it_with_an_error() -> None:
    raise BaseExceptionGroup("closing failed", [OSError("lost"), CancelledError()])


Stray = Callable[[], Awaitable[None]]

STRAYS: list[Stray] = [
    await_a_cancelled_request,
    await_what_was_cancelled_before,
    raise_it,
    raise_it_in_a_group,
    raise_it_with_an_error,
]


@pytest.fixture(params=STRAYS, ids=lambda stray: stray.__name__)
def stray(request: pytest.FixtureRequest) -> Stray:
    made: Stray = request.param
    return made


def tells_of(error: BaseException | None, stray: Stray) -> bool:
    """Whether the error of a task says what has happened to it, and what came of that."""
    assert error is not None
    cause = error.__cause__
    if stray is raise_it_with_an_error:
        assert isinstance(cause, ExceptionGroup)
        return str(cause.exceptions[0]) == "lost"
    assert isinstance(cause, Exception)
    assert "was cancelled by something other than its scheduler" in str(error)
    within = cause.__cause__
    if isinstance(within, BaseExceptionGroup):
        within = within.exceptions[0]
    return isinstance(within, CancelledError)


async def come_to(true: Callable[[], bool]) -> None:
    """Wait for what is to come, and then for a while, in which nothing more is to."""
    await until(true)
    await anyio.sleep(0.05)


def is_up_again(scheduler: Scheduler, task: TaskId) -> bool:
    now = scheduler.status(task)
    return now.restarts > 0 and now.state is TaskState.RUNNING


class Astray(BackgroundTask):
    """Goes astray in one of its hooks, in its first runs."""

    def __init__(self, hook: str, stray: Stray, runs: int = 1) -> None:
        self.hook, self.stray, self.runs = hook, stray, runs
        self.hooks: list[str] = []

    async def in_hook(self, hook: str) -> None:
        number = current_task_context().run
        self.hooks.append(f"{hook} {number}")
        if hook == self.hook and number <= self.runs:
            await self.stray()

    async def initialize(self) -> None:
        await self.in_hook("initialize")

    async def execute(self) -> None:
        await self.in_hook("execute")
        await anyio.sleep_forever()

    async def shutdown(self) -> None:
        await self.in_hook("shutdown")


class Neighbour(BackgroundTask):
    """Works on, whatever others do, until it is stopped."""

    def __init__(self) -> None:
        self.hooks: list[str] = []

    async def initialize(self) -> None:
        self.hooks.append("up")

    async def execute(self) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            self.hooks.append("cancelled")

    async def shutdown(self) -> None:
        self.hooks.append("down")


@pytest.fixture
def neighbour(scheduler: Scheduler) -> Neighbour:
    task = Neighbour()
    scheduler.register_background_task(task, name="neighbour")
    return task


# -- initialize() ----------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [None, SOON])
async def test_in_initialize_it_fails_the_start(
    scheduler: Scheduler, neighbour: Neighbour, stray: Stray, policy: RestartPolicy | None
) -> None:
    task = Astray("initialize", stray)
    scheduler.register_background_task(task, name="astray", restart=policy)
    with pytest.raises(TaskInitializationError, match="'astray' could not start") as caught:
        await scheduler.run()
    assert tells_of(caught.value, stray)
    assert task.hooks == ["initialize 1"], "what was not initialised is not shut down"
    assert neighbour.hooks == ["up", "down"]


async def test_in_initialize_of_a_late_task_it_ends_the_run(
    scheduler: Scheduler, neighbour: Neighbour, stray: Stray
) -> None:
    with pytest.raises(TaskInitializationError, match="'astray' could not start") as caught:
        async with scheduler:
            await scheduler.start()
            scheduler.register_background_task(Astray("initialize", stray), name="astray")
            await anyio.sleep(1)
    assert tells_of(caught.value, stray)
    assert neighbour.hooks == ["up", "cancelled", "down"]


async def test_in_initialize_of_a_late_task_with_a_policy_it_is_tried_again(
    scheduler: Scheduler, neighbour: Neighbour, stray: Stray
) -> None:
    task = Astray("initialize", stray, runs=2)
    async with scheduler:
        await scheduler.start()
        scheduler.register_background_task(task, name="astray", restart=SOON)
        await come_to(lambda: len(task.hooks) >= 4)
        assert task.hooks == ["initialize 1", "initialize 2", "initialize 3", "execute 3"]
        assert neighbour.hooks == ["up"]


# -- execute() -------------------------------------------------------------------------------


async def test_in_execute_it_ends_the_run_and_is_raised(
    scheduler: Scheduler, neighbour: Neighbour, stray: Stray
) -> None:
    task = Astray("execute", stray)
    scheduler.register_background_task(task, name="astray")
    with pytest.raises(TaskExecutionError, match="'astray' failed: its execute") as caught:
        await scheduler.run()
    assert tells_of(caught.value, stray)
    assert task.hooks == ["initialize 1", "execute 1", "shutdown 1"]
    assert neighbour.hooks == ["up", "cancelled", "down"]


async def test_in_execute_it_is_raised_by_the_block_as_well(
    scheduler: Scheduler, neighbour: Neighbour, stray: Stray
) -> None:
    scheduler.register_background_task(Astray("execute", stray), name="astray")
    with pytest.raises(TaskExecutionError) as caught:
        async with scheduler:
            await scheduler.start()
            await anyio.sleep(1)
    assert tells_of(caught.value, stray)
    assert neighbour.hooks == ["up", "cancelled", "down"]


async def test_with_a_policy_the_task_is_restarted_and_its_neighbour_goes_on(
    scheduler: Scheduler, neighbour: Neighbour, stray: Stray, caplog: pytest.LogCaptureFixture
) -> None:
    task = Astray("execute", stray, runs=2)
    shot = scheduler.register_background_task(task, name="astray", restart=SOON)
    async with scheduler:
        await scheduler.start()
        await come_to(lambda: len(task.hooks) >= 8)
        runs = [f"{hook} {run}" for run in (1, 2) for hook in ("initialize", "execute", "shutdown")]
        assert task.hooks == [*runs, "initialize 3", "execute 3"]
        assert scheduler.status(shot).state is TaskState.RUNNING
        assert neighbour.hooks == ["up"]
    restarts = [r for r in caplog.messages if "'astray' restarts in 0.01 s: task 'astray'" in r]
    assert len(restarts) == 2


async def test_a_task_that_goes_astray_too_often_ends_the_run(
    scheduler: Scheduler, neighbour: Neighbour, stray: Stray
) -> None:
    once = RestartPolicy(initial_delay=0, max_restarts=1)
    task = Astray("execute", stray, runs=9)
    scheduler.register_background_task(task, name="astray", restart=once)
    with pytest.raises(TaskExecutionError, match="'astray' failed 2 times") as caught:
        await scheduler.run()
    history = caught.value.__cause__
    assert isinstance(history, ExceptionGroup)
    assert all(tells_of(failure, stray) for failure in history.exceptions)
    assert neighbour.hooks == ["up", "cancelled", "down"]


@pytest.mark.parametrize(
    "options", [{"restart": RestartPolicy(mode="never")}, {"on_error": "stop"}]
)
async def test_where_nobody_else_is_concerned_it_is_logged_and_the_others_go_on(
    scheduler: Scheduler,
    neighbour: Neighbour,
    stray: Stray,
    caplog: pytest.LogCaptureFixture,
    options: Any,
) -> None:
    task = Astray("execute", stray)
    shot = scheduler.register_background_task(task, name="astray", **options)
    async with scheduler:
        await scheduler.start()
        await settle()
        assert scheduler.status(shot).state is TaskState.FAILED
        assert neighbour.hooks == ["up"]
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "'astray' stopped, the others go on" in record.message
    assert record.exc_info is not None
    assert tells_of(record.exc_info[1], stray)


async def test_its_group_is_restarted_as_after_any_failure(
    scheduler: Scheduler, neighbour: Neighbour, stray: Stray
) -> None:
    group = scheduler.group("group", strategy="one_for_all", restart=SOON)
    task, sibling = Astray("execute", stray), Neighbour()
    group.register_background_task(task, name="astray")
    group.register_background_task(sibling, name="sibling")
    async with scheduler:
        await scheduler.start()
        await come_to(lambda: len(task.hooks) >= 5 and len(sibling.hooks) >= 4)
        runs = ["initialize 1", "execute 1", "shutdown 1", "initialize 2", "execute 2"]
        assert task.hooks == runs
        assert sibling.hooks == ["up", "cancelled", "down", "up"]
        assert neighbour.hooks == ["up"]


async def test_a_group_that_no_policy_is_for_passes_it_on(
    scheduler: Scheduler, neighbour: Neighbour, stray: Stray
) -> None:
    group = scheduler.group("group", strategy="one_for_all")
    group.register_background_task(Astray("execute", stray), name="astray")
    with pytest.raises(TaskExecutionError) as caught:
        await scheduler.run()
    assert tells_of(caught.value, stray)
    assert neighbour.hooks == ["up", "cancelled", "down"]


async def test_the_cancellation_of_a_child_of_its_own_task_group_is_none(
    scheduler: Scheduler, neighbour: Neighbour
) -> None:
    ended: list[str] = []

    async def child(scope: anyio.CancelScope) -> None:
        with scope:
            await anyio.sleep_forever()

    @scheduler.background()
    async def careful() -> None:
        scope = anyio.CancelScope()
        async with anyio.create_task_group() as group:
            group.start_soon(child, scope)
            await settle(2)
            scope.cancel()
        with move_on_after(0.01):
            await anyio.sleep_forever()
        request = asyncio.ensure_future(asyncio.sleep(60))
        await asyncio.sleep(0)
        request.cancel()
        await asyncio.wait([request])
        ended.append("careful")

    async with scheduler:
        await scheduler.start()
        await come_to(lambda: bool(ended))
        assert ended == ["careful"]
        assert neighbour.hooks == ["up"]


# -- while it is being stopped ---------------------------------------------------------------


@pytest.mark.parametrize("command", ["stop_task", "restart_task", "remove_task", "shutdown"])
async def test_a_cancellation_that_was_asked_for_is_no_failure(
    scheduler: Scheduler, neighbour: Neighbour, command: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def request() -> None:
        await asyncio.ensure_future(asyncio.sleep(60))  # cancelled as the task is that awaits it

    shot = scheduler.register_background_task(Astray("execute", request), name="astray")
    async with scheduler:
        await scheduler.start()
        await settle()
        await (scheduler.shutdown() if command == "shutdown" else getattr(scheduler, command)(shot))
        assert neighbour.hooks == (["up", "cancelled", "down"] if command == "shutdown" else ["up"])
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_one_that_was_asked_to_stop_and_not_cancelled_yet_may_go_astray(
    scheduler: Scheduler, neighbour: Neighbour, stray: Stray
) -> None:
    @scheduler.background(name="astray", stop_timeout=5)
    async def astray() -> None:
        await current_task_context().stopping.wait()
        await stray()

    with pytest.raises(TaskExecutionError) as caught:
        async with scheduler:
            await scheduler.start()
            await settle()
    assert tells_of(caught.value, stray)
    assert neighbour.hooks == ["up", "cancelled", "down"]


async def test_a_native_cancellation_of_the_task_itself_is_a_failure_of_it(
    scheduler: Scheduler, neighbour: Neighbour
) -> None:
    own: list[asyncio.Task[Any]] = []

    @scheduler.background(name="astray", restart=SOON)
    async def astray() -> None:
        task = asyncio.current_task()
        assert task is not None
        own.append(task)
        await anyio.sleep_forever()

    async with scheduler:
        await scheduler.start()
        await settle()
        own[0].cancel()
        await come_to(lambda: len(own) >= 2)
        assert len(own) == 2
        assert neighbour.hooks == ["up"]
    assert neighbour.hooks == ["up", "cancelled", "down"]


# -- shutdown() ------------------------------------------------------------------------------


async def test_in_shutdown_it_is_an_error_of_that_hook_at_once(
    scheduler: Scheduler, neighbour: Neighbour, stray: Stray
) -> None:
    task, last = Astray("shutdown", stray), Neighbour()
    scheduler.register_background_task(task, name="astray", shutdown_timeout=5)
    scheduler.register_background_task(last, name="last")
    began = 0.0
    with pytest.raises(ExceptionGroup) as caught:
        async with scheduler:
            await scheduler.start()
            began = current_time()
    assert current_time() - began < 4, "nobody waits for its time-out"
    (error,) = caught.value.exceptions
    assert isinstance(error, TaskShutdownError)
    assert error.task_name == "astray"
    assert tells_of(error, stray)
    assert last.hooks[-1] == neighbour.hooks[-1] == "down", "the others are shut down all the same"


@pytest.mark.parametrize("command", ["stop_task", "remove_task"])
async def test_a_command_raises_what_went_wrong_in_shutdown_and_the_others_go_on(
    scheduler: Scheduler, neighbour: Neighbour, stray: Stray, command: str
) -> None:
    shot = scheduler.register_background_task(Astray("shutdown", stray), name="astray")
    async with scheduler:
        await scheduler.start()
        with pytest.raises(TaskShutdownError) as caught:
            await getattr(scheduler, command)(shot)
        assert tells_of(caught.value, stray)
        await settle()
        assert neighbour.hooks == ["up"]


async def test_a_restart_by_hand_goes_on_after_it(
    scheduler: Scheduler, neighbour: Neighbour, stray: Stray
) -> None:
    task = Astray("shutdown", stray)
    shot = scheduler.register_background_task(task, name="astray")
    async with scheduler:
        await scheduler.start()
        await settle()
        with pytest.raises(TaskShutdownError) as caught:
            await scheduler.restart_task(shot)
        assert tells_of(caught.value, stray)
        await settle()
        runs = ["initialize 1", "execute 1", "shutdown 1", "initialize 2", "execute 2"]
        assert task.hooks == runs
        assert neighbour.hooks == ["up"]


async def test_a_restart_by_a_policy_goes_on_after_it(
    scheduler: Scheduler, neighbour: Neighbour, stray: Stray, caplog: pytest.LogCaptureFixture
) -> None:
    class Twice(Astray):
        async def execute(self) -> None:
            await self.in_hook("execute")
            if current_task_context().run == 1:
                raise OSError("down")
            await anyio.sleep_forever()

    task = Twice("shutdown", stray)
    scheduler.register_background_task(task, name="astray", restart=SOON)
    async with scheduler:
        await scheduler.start()
        await come_to(lambda: len(task.hooks) >= 5)
        assert task.hooks[-2:] == ["initialize 2", "execute 2"]
        assert neighbour.hooks == ["up"]
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.exc_info is not None
    assert tells_of(record.exc_info[1], stray)


# -- between two messages --------------------------------------------------------------------


class Late(EventTask[int]):
    """For the number 1, the worker is cancelled by a timer of some library, so many turns later."""

    def __init__(self, turns: int = 0) -> None:
        self.turns = turns
        self.calls: list[int] = []
        self.handled: list[int] = []

    @property
    def subscribed_event(self) -> Topic[int]:
        return NUMBERS

    async def handle_event(self, number: int, /) -> None:
        self.calls.append(number)
        if number == 1:
            task = asyncio.current_task()
            assert task is not None
            self.cancel_later(task, self.turns)
        elif number == 0:
            await anyio.sleep(0.02)
        self.handled.append(number)

    def cancel_later(self, task: asyncio.Task[Any], turns: int) -> None:
        if turns:
            asyncio.get_running_loop().call_soon(self.cancel_later, task, turns - 1)
        else:
            task.cancel()


async def test_a_worker_of_a_pool_that_is_cancelled_between_two_messages_fails_its_task(
    scheduler: Scheduler, neighbour: Neighbour
) -> None:
    late = Late()
    scheduler.register_event_task(late, name="pool", concurrency=2)
    with pytest.raises(TaskExecutionError, match="'pool' failed: its handle_event") as caught:
        async with scheduler:
            await scheduler.start()
            await publish(scheduler, range(2))
            await anyio.sleep(1)
    assert "was cancelled by something other than its scheduler" in str(caught.value)
    assert late.handled == [1, 0], "the other one has finished what it had in hand"
    assert neighbour.hooks == ["up", "cancelled", "down"]


@pytest.mark.parametrize("turns", range(8))
async def test_a_pool_goes_on_after_such_a_cancellation_as_its_policy_says_and_loses_nothing(
    scheduler: Scheduler, neighbour: Neighbour, turns: int, caplog: pytest.LogCaptureFixture
) -> None:
    late = Late(turns)
    shot = scheduler.register_event_task(
        late, name="pool", concurrency=2, restart=SOON, stop_timeout=5
    )
    async with scheduler:
        await scheduler.start()
        await publish(scheduler, range(2))
        await settle(turns)
        await publish(scheduler, range(2, 5))
        await come_to(lambda: is_up_again(scheduler, shot) and len(late.handled) >= 5)
        assert await scheduler.publish(NUMBERS, 5) == 1
        await settle()
        now = scheduler.status(shot)
        assert (now.restarts, now.handled, now.failed, now.in_hand) == (1, 6, 0, 0)
        assert neighbour.hooks == ["up"]
    assert sorted(late.calls) == sorted(late.handled) == list(range(6)), "each once"
    assert "was cancelled while it handled" not in caplog.text


async def test_when_the_task_of_a_pool_is_cancelled_its_workers_finish_what_they_have(
    scheduler: Scheduler, neighbour: Neighbour
) -> None:
    late = Late()
    shot = scheduler.register_event_task(late, name="pool", concurrency=2, restart=SOON)
    async with scheduler:
        await scheduler.start()
        await publish(scheduler, range(1))
        await settle()
        (own,) = [task for task in asyncio.all_tasks() if task.get_name() == "pool"]
        own.cancel()
        await come_to(lambda: is_up_again(scheduler, shot))
        now = scheduler.status(shot)
        assert (now.restarts, now.handled, now.failed) == (1, 1, 0)
        assert neighbour.hooks == ["up"]


# -- handle_event() --------------------------------------------------------------------------


class Handler(EventTask[int]):
    """Goes astray over some messages, each so many times."""

    def __init__(self, stray: Stray, **times: int) -> None:
        self.stray = stray
        self.times = {int(name.removeprefix("on_")): count for name, count in times.items()}
        self.calls: list[int] = []
        self.handled: list[int] = []

    @property
    def subscribed_event(self) -> Topic[int]:
        return NUMBERS

    async def handle_event(self, event: int, /) -> None:
        self.calls.append(event)
        await asyncio.sleep(0)
        if self.times.get(event, 0):
            self.times[event] -= 1
            await self.stray()
        self.handled.append(event)


async def publish(scheduler: Scheduler, numbers: range) -> None:
    for number in numbers:
        await scheduler.publish(NUMBERS, number)


async def test_a_handler_that_goes_astray_ends_the_run_by_default(
    scheduler: Scheduler,
    neighbour: Neighbour,
    letters: list[DeadLetter],
    stray: Stray,
    concurrency: int,
) -> None:
    task = Handler(stray, on_1=1)
    scheduler.register_event_task(task, name="astray", concurrency=concurrency)
    with pytest.raises(TaskExecutionError, match="'astray' failed: its handle_event") as caught:
        async with scheduler:
            await scheduler.start()
            await publish(scheduler, range(3))
            await anyio.sleep(1)
    assert tells_of(caught.value, stray)
    assert [letter.message for letter in letters] == [1]
    assert neighbour.hooks == ["up", "cancelled", "down"]


async def test_a_message_is_skipped_and_the_next_ones_are_handled(
    scheduler: Scheduler,
    neighbour: Neighbour,
    letters: list[DeadLetter],
    stray: Stray,
    concurrency: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    task = Handler(stray, on_1=1, on_3=1)
    shot = scheduler.register_event_task(
        task, name="astray", on_error="skip", concurrency=concurrency
    )
    async with scheduler:
        await scheduler.start()
        await publish(scheduler, range(3))
        await settle(50)
        await publish(scheduler, range(3, 6))
        await settle(50)
        snapshot = scheduler.status(shot)
        assert snapshot.state is TaskState.RUNNING
        assert (snapshot.handled, snapshot.failed, snapshot.in_hand, snapshot.unread) == (
            4,
            2,
            0,
            0,
        )
        assert neighbour.hooks == ["up"]
    assert sorted(task.handled) == [0, 2, 4, 5]
    assert sorted(task.calls) == list(range(6))
    assert [letter.message for letter in letters] == [1, 3]
    assert all(isinstance(letter.error, Exception) for letter in letters)
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 2
    assert all("'astray' skipped a message: its handler" in error.message for error in errors)


@pytest.mark.parametrize(
    ("on_error", "policy"), [("restart", None), ("restart", SOON), (None, SOON)]
)
async def test_a_restart_loses_that_message_alone(
    stray: Stray, concurrency: int, on_error: OnError | None, policy: RestartPolicy | None
) -> None:
    scheduler = Scheduler(random=lambda: 1.0)  # jitter takes all off the wait of the default policy
    scheduler.add_channel(NUMBERS)
    letters: list[object] = []

    @scheduler.on(DEAD_LETTERS, name="undertaker")
    async def bury(letter: DeadLetter) -> None:
        letters.append(letter.message)

    task = Handler(stray, on_1=1)
    shot = scheduler.register_event_task(
        task, name="astray", on_error=on_error, restart=policy, concurrency=concurrency
    )
    async with scheduler:
        await scheduler.start()
        await publish(scheduler, range(3))
        await come_to(lambda: is_up_again(scheduler, shot))
        await publish(scheduler, range(3, 6))
        await come_to(lambda: len(task.handled) >= 5)
        snapshot = scheduler.status(shot)
        assert (snapshot.handled, snapshot.failed, snapshot.restarts) == (5, 1, 1)
    assert sorted(task.handled) == [0, 2, 3, 4, 5]
    assert letters == [1]


async def test_a_task_that_stops_on_errors_stops_and_the_others_go_on(
    scheduler: Scheduler,
    neighbour: Neighbour,
    letters: list[DeadLetter],
    stray: Stray,
    concurrency: int,
) -> None:
    task, other = Handler(stray, on_1=1), Handler(stray)
    shot = scheduler.register_event_task(
        task, name="astray", on_error="stop", restart=SOON, concurrency=concurrency
    )
    scheduler.register_event_task(other, name="other")
    async with scheduler:
        await scheduler.start()
        await publish(scheduler, range(2))
        await settle(50)
        assert scheduler.status(shot).state is TaskState.FAILED
        await publish(scheduler, range(2, 4))
        await settle(50)
        assert other.handled == [0, 1, 2, 3]
        assert neighbour.hooks == ["up"]
    assert task.handled == [0]
    assert [letter.message for letter in letters] == [1]


async def test_the_log_shows_the_line_that_was_cancelled_and_none_of_the_library(
    scheduler: Scheduler, stray: Stray, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler.register_event_task(Handler(stray, on_0=1), name="astray", on_error="stop")
    async with scheduler:
        await scheduler.start()
        await publish(scheduler, range(1))
        await settle(50)
    assert "'astray' stopped, the others go on" in caplog.text
    assert __file__ in caplog.text
    assert "/orchestrio/_" not in caplog.text


async def test_a_handler_that_went_astray_is_called_again(
    scheduler: Scheduler,
    letters: list[DeadLetter],
    stray: Stray,
    concurrency: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    task = Handler(stray, on_1=2)
    shot = scheduler.register_event_task(
        task, name="astray", retries=2, retry_backoff=EXACT, concurrency=concurrency
    )
    async with scheduler:
        await scheduler.start()
        await publish(scheduler, range(3))
        await come_to(lambda: len(task.handled) >= 3)
        assert (scheduler.status(shot).handled, scheduler.status(shot).failed) == (3, 0)
    assert sorted(task.handled) == [0, 1, 2]
    assert task.calls.count(1) == 3
    assert letters == []
    assert len([line for line in caplog.messages if "of 3 failed, the next in 0.01 s" in line]) == 2


async def test_what_goes_astray_each_time_is_a_dead_letter_after_the_last_attempt(
    scheduler: Scheduler,
    neighbour: Neighbour,
    letters: list[DeadLetter],
    stray: Stray,
    concurrency: int,
) -> None:
    task = Handler(stray, on_1=9)
    scheduler.register_event_task(
        task,
        name="astray",
        retries=1,
        retry_backoff=EXACT,
        on_error="skip",
        concurrency=concurrency,
        attempt_timeout=5,
    )
    async with scheduler:
        await scheduler.start()
        await publish(scheduler, range(3))
        await come_to(lambda: len(task.handled) >= 2 and bool(letters))
        assert neighbour.hooks == ["up"]
    assert sorted(task.handled) == [0, 2]
    assert task.calls.count(1) == 2
    (letter,) = letters
    assert (letter.task_name, letter.message, letter.attempts) == ("astray", 1, 2)
    assert isinstance(letter.error, Exception)


async def test_a_handler_in_a_group_has_its_group_restarted(
    scheduler: Scheduler, neighbour: Neighbour, stray: Stray, concurrency: int
) -> None:
    group = scheduler.group("group", strategy="one_for_all", restart=SOON)
    task, sibling = Handler(stray, on_1=1), Neighbour()
    group.register_background_task(sibling, name="sibling")
    group.register_event_task(task, name="astray", concurrency=concurrency)
    async with scheduler:
        await scheduler.start()
        await publish(scheduler, range(3))
        await come_to(lambda: len(task.handled) >= 2 and len(sibling.hooks) >= 4)
        assert sibling.hooks == ["up", "cancelled", "down", "up"]
        assert neighbour.hooks == ["up"]
    assert sorted(task.handled) == [0, 2]


async def test_the_other_workers_of_a_pool_finish_what_they_have_in_hand(
    scheduler: Scheduler, stray: Stray
) -> None:
    done: list[int] = []

    @scheduler.on(NUMBERS, name="astray", concurrency=3, restart=SOON, stop_timeout=5)
    async def work(number: int) -> None:
        if number == 1:
            await stray()
        await anyio.sleep(0.05)
        done.append(number)

    async with scheduler:
        await scheduler.start()
        await publish(scheduler, range(6))
        await come_to(lambda: len(done) >= 5)
    assert sorted(done) == [0, 2, 3, 4, 5]


# -- handle_lag() ----------------------------------------------------------------------------


class Laggard(Handler):
    """Goes astray when it hears that it lags."""

    def __init__(self, stray: Stray) -> None:
        super().__init__(stray)
        self.lags = 0

    async def handle_lag(self, missed: int) -> None:
        self.lags += 1
        if self.lags == 1:
            await self.stray()


async def test_in_handle_lag_it_ends_the_run_and_that_hook_is_named(
    neighbour: Neighbour, stray: Stray, concurrency: int
) -> None:
    scheduler = Scheduler()
    scheduler.add_channel(NUMBERS, ChannelConfig(capacity=1))
    scheduler.register_event_task(Laggard(stray), name="astray", concurrency=concurrency)
    with pytest.raises(TaskExecutionError, match="'astray' failed: its handle_lag") as caught:
        async with scheduler:
            await scheduler.start()
            for number in range(9):
                scheduler.bus.publish_nowait(NUMBERS, number)
            await anyio.sleep(1)
    assert tells_of(caught.value, stray)


async def test_in_handle_lag_with_a_policy_the_task_is_restarted_and_goes_on(
    stray: Stray, concurrency: int
) -> None:
    scheduler = Scheduler()
    scheduler.add_channel(NUMBERS, ChannelConfig(capacity=1))
    task = Laggard(stray)
    shot = scheduler.register_event_task(task, name="astray", concurrency=concurrency, restart=SOON)
    async with scheduler:
        await scheduler.start()
        for number in range(9):
            scheduler.bus.publish_nowait(NUMBERS, number)
        await come_to(lambda: is_up_again(scheduler, shot) and bool(task.handled))
        assert scheduler.status(shot).restarts == 1
        assert scheduler.status(shot).missed == 8
    assert task.handled == [8]


# -- ticks -----------------------------------------------------------------------------------


async def test_a_tick_that_goes_astray_ends_the_run_by_default(
    scheduler: Scheduler, neighbour: Neighbour, stray: Stray
) -> None:
    scheduler.every(10, name="astray")(stray)
    with pytest.raises(TaskExecutionError) as caught:
        await scheduler.run()
    assert tells_of(caught.value, stray)
    assert neighbour.hooks == ["up", "cancelled", "down"]


async def test_a_tick_that_goes_astray_may_be_skipped(
    scheduler: Scheduler, neighbour: Neighbour, stray: Stray, caplog: pytest.LogCaptureFixture
) -> None:
    ticks: list[int] = []

    @scheduler.every(0.01, name="astray", on_error="skip")
    async def tick() -> None:
        ticks.append(len(ticks))
        if len(ticks) == 2:
            await stray()

    async with scheduler:
        await scheduler.start()
        await come_to(lambda: len(ticks) > 3)
        (snapshot,) = [task for task in scheduler.status() if task.name == "astray"]
        assert snapshot.failed == 1
        assert snapshot.handled > 1
        assert neighbour.hooks == ["up"]
    assert caplog.text.count("skipped a tick: it ") == 1


@pytest.mark.parametrize("retries", [0, 1])
async def test_a_tick_that_goes_astray_is_retried_or_restarted(
    scheduler: Scheduler, neighbour: Neighbour, stray: Stray, retries: int
) -> None:
    ticks: list[int] = []

    @scheduler.every(0.01, name="astray", retries=retries, retry_backoff=EXACT, restart=SOON)
    async def tick() -> None:
        ticks.append(len(ticks))
        if len(ticks) == 2:
            await stray()

    async with scheduler:
        await scheduler.start()
        await come_to(lambda: len(ticks) > 3)
        (snapshot,) = [task for task in scheduler.status() if task.name == "astray"]
        assert (snapshot.failed, snapshot.restarts) == ((0, 0) if retries else (1, 1))
        assert snapshot.handled > 1
        assert neighbour.hooks == ["up"]


async def test_a_task_cancelled_when_its_work_is_over_ends_nobody_and_is_shut_down() -> None:
    down: list[str] = []

    class Brief(BackgroundTask):
        async def execute(self) -> None:
            me = asyncio.current_task()
            assert me is not None
            asyncio.get_running_loop().call_later(0.01, me.cancel)

        async def shutdown(self) -> None:
            down.append("brief")

    class Other(BackgroundTask):
        async def execute(self) -> None:
            await anyio.sleep(0.05)

        async def shutdown(self) -> None:
            down.append("other")

    scheduler = Scheduler()
    scheduler.register_background_task(Brief(), name="brief")
    scheduler.register_background_task(Other(), name="other")
    await scheduler.run()
    assert down == ["other", "brief"]
    assert {shot.state for shot in scheduler.status()} == {TaskState.STOPPED}


EXIT_IN_A_CHILD = """
import sys
import anyio
from orchestrio import BackgroundTask, Scheduler

class Idle(BackgroundTask):
    async def execute(self):
        await anyio.sleep_forever()
    async def shutdown(self):
        await anyio.sleep(0)

scheduler = Scheduler()
scheduler.register_background_task(Idle())

async def leave():
    sys.exit(3)

@scheduler.background()
async def leaver():
    async with anyio.create_task_group() as group:
        group.start_soon(leave)

scheduler.run_sync(backend_options={"use_uvloop": sys.argv[1] == "uvloop"})
"""


@pytest.mark.parametrize("loop", ["asyncio", *(["uvloop"] if sys.platform != "win32" else [])])
def test_an_exit_in_a_child_task_for_which_asyncio_cancels_all_ends_the_process(loop: str) -> None:
    command = [sys.executable, "-c", EXIT_IN_A_CHILD, loop]
    ended = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert ended.returncode == 3, ended.stderr.decode()


# -- those around the scheduler ----------------------------------------------------------------


@pytest.mark.parametrize("enters", ["the block", "run()"])
@pytest.mark.parametrize("turns", range(12))
async def test_a_task_that_is_cancelled_while_it_enters_the_scheduler_stops_it(
    turns: int, enters: str
) -> None:
    hooks: list[str] = []

    class Task(BackgroundTask):
        async def initialize(self) -> None:
            hooks.append("up")

        async def execute(self) -> None:
            await anyio.sleep(60)

        async def shutdown(self) -> None:
            hooks.append("down")

    scheduler = Scheduler()
    scheduler.register_background_task(Task())

    async def enter() -> None:
        if enters == "run()":
            await scheduler.run()
        else:
            async with scheduler:
                await anyio.sleep(60)

    entering = asyncio.ensure_future(enter())
    for _ in range(turns):
        await asyncio.sleep(0)
    entering.cancel()
    with anyio.fail_after(5):
        ended = await asyncio.gather(entering, return_exceptions=True)
    assert isinstance(ended[0], CancelledError)
    assert hooks in ([], ["up", "down"])


LEFT_BEHIND = """
import asyncio
import sys
import anyio
from orchestrio import BackgroundTask, Scheduler

class Idle(BackgroundTask):
    async def execute(self):
        await anyio.sleep_forever()
    async def shutdown(self):
        await anyio.sleep(0.01)
        print("down", flush=True)

async def main():
    scheduler = Scheduler()
    for name in sys.argv[1:]:
        scheduler.register_background_task(Idle(), name=name)
    running = asyncio.ensure_future(scheduler.run())
    await asyncio.sleep(0.05)

asyncio.run(main())
"""


def test_a_scheduler_that_is_left_behind_in_a_loop_that_closes_is_shut_down() -> None:
    command = [sys.executable, "-c", LEFT_BEHIND, "first", "second"]
    ended = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert ended.stdout.split() == [b"down", b"down"], ended.stderr.decode()
    assert ended.returncode == 0
