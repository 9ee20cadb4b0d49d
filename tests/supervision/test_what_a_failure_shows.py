"""What people see of a failure: their own lines, the last lines first, each of them once."""

from __future__ import annotations

import logging
import pickle
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from support import NEVER, NUMBERS, SOON, TroubleError
from support.hooks import Broken, Failing, Forever, Messy

from orchestrio import (
    BackgroundTask,
    ChannelConfig,
    RestartPolicy,
    Scheduler,
    TaskExecutionError,
    TaskInitializationError,
    TaskShutdownError,
    current_task_context,
)

THIS_FILE = __file__


def line_of(function: Callable[..., object], offset: int = 1) -> str:
    """How a traceback names a line of a function of this file."""
    return f'File "{THIS_FILE}", line {function.__code__.co_firstlineno + offset}'


async def divide(number: int) -> None:
    print(100 // number)


async def divide_in_a_group() -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(divide, 0)


async def wrong_password() -> None:
    raise ConnectionError("the password is wrong")


def printed(error: BaseException) -> list[str]:
    """What Python prints of an error that nobody catches, without the marks below a line of code.

    Where it draws them differs from one version to the next.
    """
    lines = "".join(traceback.format_exception(error)).splitlines()
    return [line for line in lines if line.strip(" |~^") or not line.strip(" |")]


def internal_frames(lines: list[str]) -> list[str]:
    return [
        line
        for line in lines
        if "File" in line and any(part in line for part in ("/orchestrio/_", "/anyio/", "asyncio/"))
    ]


def add_failing_handler(scheduler: Scheduler, **options: Any) -> None:
    scheduler.on(NUMBERS, **options)(divide)

    @scheduler.background()
    async def publish() -> None:
        await scheduler.publish(NUMBERS, 0)


# -- what ends the run -----------------------------------------------------------------------


async def run(scheduler: Scheduler) -> None:
    await scheduler.run()


async def use_a_block(scheduler: Scheduler) -> None:
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)


@pytest.mark.parametrize("way", [run, use_a_block])
@pytest.mark.parametrize(
    "options", [{}, {"retries": 2}, {"attempt_timeout": 9}, {"concurrency": 2}]
)
async def test_the_error_that_ends_the_run_shows_where_the_handler_failed(
    scheduler: Scheduler, way: Callable[[Scheduler], Awaitable[None]], options: dict[str, Any]
) -> None:
    add_failing_handler(scheduler, **options)
    with pytest.raises(TaskExecutionError) as caught:
        await way(scheduler)
    lines = printed(caught.value)
    assert line_of(divide) in lines[-3]
    assert "ZeroDivisionError" in lines[-1]
    assert sum(line_of(divide) in line for line in lines[:-4]) == 1
    # That of the block is AnyIO's, which calls what leaves it.
    assert len(internal_frames(lines)) <= (way is use_a_block)


async def test_of_a_group_of_errors_the_error_itself_is_named(scheduler: Scheduler) -> None:
    scheduler.background()(divide_in_a_group)
    with pytest.raises(TaskExecutionError) as caught:
        await scheduler.run()
    assert "raised ZeroDivisionError: integer division or modulo by zero" in str(caught.value)
    lines = printed(caught.value)
    assert line_of(divide) in lines[-3]
    assert internal_frames(lines) == []


async def test_each_error_of_a_group_is_named_with_its_line(scheduler: Scheduler) -> None:
    @scheduler.background()
    async def both() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(divide, 0)
            group.start_soon(wrong_password)

    with pytest.raises(
        TaskExecutionError, match="ConnectionError: the password is wrong"
    ) as caught:
        await scheduler.run()
    lines = printed(caught.value)
    for function in (divide, wrong_password):
        assert any(line_of(function) in line for line in lines)
    ends = "".join(lines[-4:])
    assert line_of(divide) in ends or line_of(wrong_password) in ends, "the first of them"


async def test_an_error_of_many_lines_is_named_in_one(scheduler: Scheduler) -> None:
    @scheduler.background()
    async def check() -> None:
        ChannelConfig.model_validate({"capacity": "none"})

    with pytest.raises(TaskExecutionError, match="1 validation error for ChannelConfig") as caught:
        await scheduler.run()
    assert "\n" not in str(caught.value)
    assert line_of(check, 2) in printed(caught.value)[-3]


async def test_an_initialisation_that_fails_shows_its_line(scheduler: Scheduler) -> None:
    scheduler.register_background_task(Broken())
    with pytest.raises(TaskInitializationError) as caught:
        await scheduler.run()
    assert printed(caught.value)[-3].endswith("in initialize")


async def test_a_shutdown_that_fails_shows_its_line(scheduler: Scheduler) -> None:
    scheduler.register_background_task(Messy())
    with pytest.raises(ExceptionGroup, match="did not shut down well") as caught:
        async with scheduler:
            await scheduler.start()
    lines = printed(caught.value)
    assert any(line.endswith("in shutdown") for line in lines[-4:])
    assert len(internal_frames(lines)) <= 1


async def test_a_task_that_failed_too_often_shows_its_lines_once(scheduler: Scheduler) -> None:
    policy = RestartPolicy(initial_delay=1, max_restarts=3, within=1000)
    scheduler.background(restart=policy)(divide_in_a_group)
    with pytest.raises(TaskExecutionError, match="failed 4 times") as caught:
        await scheduler.run()
    history = caught.value.__cause__
    assert isinstance(history, ExceptionGroup)
    assert len(history.exceptions) == 1, "they were the same"
    lines = printed(caught.value)
    assert line_of(divide) in lines[-3]
    assert sum(line_of(divide) in line for line in lines[:-4]) == 1


async def test_an_error_that_a_task_raises_again_and_again_keeps_its_line(
    scheduler: Scheduler,
) -> None:
    trouble = TroubleError("the very same")
    policy = RestartPolicy(initial_delay=1, max_restarts=1, within=1000)

    @scheduler.background(restart=policy)
    async def failing() -> None:
        raise trouble

    with pytest.raises(TaskExecutionError) as caught:
        await scheduler.run()
    assert line_of(failing, 2) in printed(caught.value)[-3]


async def never_ends() -> None:
    await anyio.sleep_forever()


class Waiting(BackgroundTask):
    async def initialize(self) -> None:
        await never_ends()

    async def execute(self) -> None: ...


async def test_what_takes_too_long_shows_where_it_stood() -> None:
    stood = f"  {line_of(never_ends)}, in never_ends"

    async def handle(_: int) -> None:
        await never_ends()

    too_long = " raised TimeoutError: it took longer than its"
    cases: list[tuple[Callable[[Scheduler], object], str]] = [
        (
            lambda one: one.on(NUMBERS, attempt_timeout=2, name="it")(handle),
            f"task 'it' failed: its handle_event(){too_long} attempt_timeout (2 s)",
        ),
        (
            lambda one: one.every(60, attempt_timeout=2, name="it")(never_ends),
            f"task 'it' failed: its execute(){too_long} attempt_timeout (2 s)",
        ),
        (
            lambda one: one.register_background_task(Waiting(), start_timeout=2, name="it"),
            f"task 'it' could not start: its initialize(){too_long} start_timeout (2 s)",
        ),
    ]
    for register, sentence in cases:
        one = Scheduler()
        one.add_channel(NUMBERS, ChannelConfig(replay=1))
        one.bus.publish_nowait(NUMBERS, 1)
        register(one)
        with pytest.raises((TaskExecutionError, TaskInitializationError)) as caught:
            await one.run()
        lines = printed(caught.value)
        assert lines[-3] == stood
        assert lines[-1].endswith(sentence)
        assert not internal_frames(lines)
        assert len(lines) < 25


async def test_the_same_failure_too_often_is_there_once(scheduler: Scheduler) -> None:
    @scheduler.background(restart=RestartPolicy(max_restarts=5, initial_delay=0))
    async def connect() -> None:
        await wrong_password()

    with pytest.raises(TaskExecutionError, match="failed 6 times") as caught:
        await scheduler.run()
    assert isinstance(caught.value.__cause__, ExceptionGroup)
    (failure,) = caught.value.__cause__.exceptions
    assert failure.__notes__ == ["It was the same 6 times."]
    assert len(printed(caught.value)) < 30


async def test_where_a_task_stands_that_ignores_its_cancellation_is_in_its_own_lines(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    @scheduler.background(stop_timeout=1)
    async def stubborn() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(3)

    with pytest.raises(ExceptionGroup):
        async with scheduler:
            await scheduler.start()
    (record,) = [one for one in caplog.records if "It stands here" in one.message]
    stack = vars(record)["stack"].splitlines()
    assert [line for line in stack if "File" in line] == [f"  {line_of(stubborn, 3)}, in stubborn"]


async def test_what_others_raise_shows_the_line_of_the_program(scheduler: Scheduler) -> None:
    @scheduler.background()
    async def parse() -> None:
        import json

        json.loads("{")

    with pytest.raises(TaskExecutionError) as caught:
        await scheduler.run()
    lines = printed(caught.value)
    assert line_of(parse, 4) in lines[-3]
    assert any("decoder.py" in line for line in lines), "where it was raised is above"


async def test_an_error_of_the_body_keeps_its_own_frames(scheduler: Scheduler) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        async with scheduler:
            await divide(0)
    lines = printed(caught.value)
    assert line_of(divide) in lines[-3] + lines[-3]
    assert internal_frames(lines) == []


@pytest.mark.parametrize("value", ["1", "yes"])
async def test_all_frames_are_there_if_the_environment_says_so(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("ORCHESTRIO_FULL_TRACEBACKS", value)
    add_failing_handler(scheduler)
    with pytest.raises(TaskExecutionError) as caught:
        await scheduler.run()
    lines = printed(caught.value)
    assert len(internal_frames(lines)) > 3
    assert line_of(divide) in lines[-3]


async def test_what_has_no_line_of_the_program_is_shown_whole(scheduler: Scheduler) -> None:
    """As when the library itself is wrong: nothing is hidden then."""

    @scheduler.background()
    async def call() -> None: ...

    scheduler.status()  # nothing runs yet
    task = scheduler.registry.get_by_name("call").task
    task.execute = None  # type: ignore[attr-defined]  # which nobody can call
    with pytest.raises(TaskExecutionError) as caught:
        await scheduler.run()
    assert "run.py" in "".join(printed(caught.value)) or "worker.py" in "".join(
        printed(caught.value)
    )


# -- what went wrong afterwards --------------------------------------------------------------


async def test_a_failure_carries_what_went_wrong_in_the_stop_that_followed(
    scheduler: Scheduler,
) -> None:
    scheduler.register_background_task(Messy())
    scheduler.register_background_task(Failing())
    with pytest.raises(TaskExecutionError, match="'Failing' failed") as caught:
        await scheduler.run()
    (after,) = caught.value.shutdown_errors
    assert isinstance(after, TaskShutdownError)
    assert after.task_name == "Messy"
    (note,) = caught.value.__notes__
    assert note.startswith("Then task 'Messy' did not shut down well: its shutdown() raised")
    assert "hooks.py" in note
    assert note.endswith("in shutdown"), "and where"
    assert any(line.endswith("in execute") for line in printed(caught.value)[-5:])
    copy = pickle.loads(pickle.dumps(caught.value))
    assert [str(error) for error in copy.shutdown_errors] == [str(after)]


async def test_a_start_that_fails_carries_it_as_well(scheduler: Scheduler) -> None:
    scheduler.register_background_task(Messy())
    scheduler.register_background_task(Broken())
    with pytest.raises(TaskInitializationError) as caught:
        await scheduler.run()
    assert [error.task_name for error in caught.value.shutdown_errors] == ["Messy"]
    assert len(caught.value.__notes__) == 1, "said once, however often it is raised"


async def test_several_failures_stay_a_group_and_the_first_carries_it(
    scheduler: Scheduler,
) -> None:
    scheduler.register_background_task(Messy())
    scheduler.register_background_task(Failing("first"))
    scheduler.register_background_task(Failing("second"))
    with pytest.raises(ExceptionGroup) as caught:
        await scheduler.run()
    first, second = caught.value.exceptions
    assert isinstance(first, TaskExecutionError)
    assert isinstance(second, TaskExecutionError)
    assert [error.task_name for error in first.shutdown_errors] == ["Messy"]
    assert second.shutdown_errors == ()


async def test_an_error_of_the_body_comes_beside_it(scheduler: Scheduler) -> None:
    """That is nobody's to write on."""
    scheduler.register_background_task(Messy())
    with pytest.raises(ExceptionGroup) as caught:
        async with scheduler:
            await scheduler.start()
            raise TroubleError("of the body")
    assert [type(error) for error in caught.value.exceptions] == [TroubleError, TaskShutdownError]


async def test_the_failure_of_another_scheduler_carries_nothing_of_this_one(
    scheduler: Scheduler,
) -> None:
    scheduler.register_background_task(Messy())
    other = Scheduler()
    other.register_background_task(Failing())
    with pytest.raises(ExceptionGroup) as caught:
        async with scheduler:
            await scheduler.start()
            await other.run()
    failure, after = caught.value.exceptions
    assert isinstance(failure, TaskExecutionError)
    assert failure.shutdown_errors == ()
    assert isinstance(after, TaskShutdownError)


# -- restarts in the log ---------------------------------------------------------------------


def restarts(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [
        record
        for record in caplog.records
        if "task " in record.getMessage() and " restarts" in record.getMessage()
    ]


async def test_a_restart_names_the_error_and_its_line_once(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    @scheduler.background(restart=SOON)
    async def work() -> None:
        if current_task_context().run == 1:
            async with anyio.create_task_group() as group:
                group.start_soon(wrong_password)

    await scheduler.run()
    (record,) = restarts(caplog)
    assert record.levelno == logging.WARNING
    assert "raised ConnectionError: the password is wrong" in record.getMessage()
    assert caplog.text.count(line_of(wrong_password)) == 1
    assert internal_frames(caplog.text.splitlines()) == []


async def test_the_same_failure_is_counted_and_another_is_shown(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    @scheduler.background(restart=SOON)
    async def work() -> None:
        run = current_task_context().run
        if run in (1, 2, 4):
            await wrong_password()
        if run == 3:
            await divide(0)

    await scheduler.run()
    assert [record.exc_info is not None for record in restarts(caplog)] == [
        True,
        False,
        True,
        False,
    ]
    ends = [
        record.getMessage().partition(" (the same as before, ")[2] for record in restarts(caplog)
    ]
    assert ends == ["", "2 times by now)", "", "3 times by now)"]


async def test_an_error_that_is_kept_and_raised_again_is_the_same_failure(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    """As a client library does; its traceback grows each time."""
    lost = ConnectionError("connection is closed")

    async def ask() -> None:
        raise lost

    @scheduler.background(restart=SOON)
    async def work() -> None:
        if current_task_context().run < 6:
            await ask()

    await scheduler.run()
    assert [record.exc_info is not None for record in restarts(caplog)] == [True] + [False] * 4
    assert restarts(caplog)[-1].getMessage().endswith("(the same as before, 5 times by now)")


async def test_of_failures_at_one_line_that_read_differently_the_first_few_are_shown(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    @scheduler.background(restart=SOON)
    async def work() -> None:
        run = current_task_context().run
        if run == 30:
            await divide(0)
        if run < 32:
            raise ConnectionError(f"lost connection {run}")

    await scheduler.run()
    shown = [record.exc_info is not None for record in restarts(caplog)]
    assert shown == [True] * 5 + [False] * 24 + [True, False], "another line is shown"
    messages = [record.getMessage() for record in restarts(caplog)]
    assert messages[4].endswith("lost connection 5")
    assert messages[5].endswith("lost connection 6 (at the same line as before, 6 times by now)")
    assert messages[-1].endswith("lost connection 31 (at the same line as before, 30 times by now)")


async def test_after_a_long_time_the_same_failure_is_shown_again(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    policy = RestartPolicy(initial_delay=1, max_delay=10, max_restarts=None)

    @scheduler.background(restart=policy)
    async def work() -> None:
        await anyio.sleep(20)
        if current_task_context().run < 3:
            await wrong_password()

    await scheduler.run()
    assert [record.exc_info is not None for record in restarts(caplog)] == [True, True]


async def test_those_that_are_restarted_with_it_only_say_so(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    group = scheduler.group("group", strategy="one_for_all")

    @group.background(restart=SOON)
    async def work() -> None:
        if current_task_context().run == 1:
            await wrong_password()
        await scheduler.shutdown()

    group.register_background_task(Forever("other"))
    await scheduler.run()
    first, second = restarts(caplog)
    assert first.exc_info is not None
    assert second.getMessage() == "task 'other' restarts in 1 s, with task 'work'"
    assert caplog.text.count(line_of(wrong_password)) == 1


async def test_a_group_that_is_restarted_shows_no_line_again(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    group = scheduler.group("group", restart=SOON)
    once = RestartPolicy(initial_delay=1, max_restarts=1, within=1000)

    @group.background(restart=once)
    async def work() -> None:
        if current_task_context().run < 6:
            await wrong_password()

    await scheduler.run()
    assert len(restarts(caplog)) == 5
    assert caplog.text.count(line_of(wrong_password)) == 1


async def test_a_restart_by_hand_is_no_warning(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "orchestrio")
    task_id = scheduler.register_background_task(Forever())
    async with scheduler:
        await scheduler.start()
        await scheduler.restart_task(task_id)
    (record,) = restarts(caplog)
    assert record.levelno == logging.INFO
    assert record.getMessage() == "task 'Forever' restarts: it was asked to"


async def test_a_task_that_is_to_run_always_has_not_failed_when_it_returns(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "orchestrio")

    @scheduler.background(restart=RestartPolicy(mode="always", initial_delay=1))
    async def work() -> None:
        if current_task_context().run == 2:
            await scheduler.shutdown()

    await scheduler.run()
    assert restarts(caplog)[0].levelno == logging.INFO


@pytest.mark.parametrize("kind", ["message", "tick"])
async def test_what_is_skipped_again_and_again_shows_its_line_once(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    if kind == "message":
        scheduler.on(NUMBERS, on_error="skip")(divide)
    else:

        @scheduler.every(1, on_error="skip")
        async def tick() -> None:
            await divide(0)

    async with scheduler:
        await scheduler.start()
        for _ in range(4):
            await scheduler.publish(NUMBERS, 0)
            await anyio.sleep(1)
    skipped = [record for record in caplog.records if "skipped" in record.getMessage()]
    assert len(skipped) >= 4
    assert caplog.text.count(line_of(divide)) == 1


async def test_a_policy_that_leaves_it_alone_shows_its_line_once(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler.background(restart=NEVER)(wrong_password)
    await scheduler.run()
    assert caplog.text.count(line_of(wrong_password)) == 1
    assert internal_frames(caplog.text.splitlines()) == []


# -- where it stood when its time was up -----------------------------------------------------


async def hang() -> None:
    await anyio.sleep(1000)


async def hang_in_a_group() -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(hang)


class Hanging(BackgroundTask):
    """Hangs in its ``shutdown()``."""

    def __init__(self, way: Callable[[], Awaitable[None]]) -> None:
        self.way = way

    async def execute(self) -> None:
        """Return at once."""

    async def shutdown(self) -> None:
        await self.way()


def check_that_it_shows_where_it_hung(error: BaseException) -> None:
    lines = printed(error)
    assert any(line_of(hang) in line for line in lines[-5:])
    assert sum(line_of(hang) in line for line in lines) <= 2
    assert not internal_frames(lines)


@pytest.mark.parametrize("way", [hang, hang_in_a_group])
@pytest.mark.parametrize("option", ["watchdog", "start_timeout"])
async def test_a_task_whose_time_is_up_shows_where_it_stood(
    scheduler: Scheduler, way: Callable[[], Awaitable[None]], option: str
) -> None:
    if option == "watchdog":
        scheduler.background(name="stuck", watchdog=5)(way)
    else:
        scheduler.background(name="stuck", reports_ready=True, start_timeout=5)(way)
    with pytest.raises((TaskExecutionError, TaskInitializationError)) as caught:
        await scheduler.run()
    if way is hang:
        check_that_it_shows_where_it_hung(caught.value)
    lines = printed(caught.value)
    assert any(THIS_FILE in line for line in lines[-5:]), "in a group, at least where that stands"
    assert not internal_frames(lines)


async def test_a_handler_that_hangs_shows_where_it_stood(scheduler: Scheduler) -> None:
    @scheduler.on(NUMBERS, watchdog=5, drain_timeout=100)
    async def stuck(_: int) -> None:
        await hang()

    @scheduler.background()
    async def publish() -> None:
        await scheduler.publish(NUMBERS, 0)

    with pytest.raises(TaskExecutionError, match="its watchdog") as caught:
        await scheduler.run()
    check_that_it_shows_where_it_hung(caught.value)


async def test_a_shutdown_whose_time_is_up_shows_where_it_stood(scheduler: Scheduler) -> None:
    scheduler.register_background_task(Hanging(hang), shutdown_timeout=5)
    with pytest.raises(ExceptionGroup, match="did not shut down well") as caught:
        await scheduler.run()
    check_that_it_shows_where_it_hung(caught.value)
