"""The life of a scheduler in the log: what starts, what is waited for, why it stops, what was done."""

from __future__ import annotations

import logging
import os
import signal

import anyio
import pytest
from anyio import CancelScope, create_task_group
from support import NUMBERS, ONCE, SOON, TroubleError, posix_signals, settle
from support.hooks import Broken, Failing, Forever, Messy, SlowToStop

from orchestrio import BackgroundTask, RestartPolicy, Scheduler, current_task_context


class Slow(BackgroundTask):
    """Takes some seconds for each of its hooks."""

    def __init__(self, begin: float = 0, leave: float = 0, end: float = 0) -> None:
        self.begin, self.leave, self.end = begin, leave, end

    async def initialize(self) -> None:
        await anyio.sleep(self.begin)

    async def execute(self) -> None:
        stopping = current_task_context().stopping if self.leave else anyio.Event()
        await stopping.wait()
        await anyio.sleep(self.leave)

    async def shutdown(self) -> None:
        await anyio.sleep(self.end)


@pytest.fixture(autouse=True)
def told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "orchestrio")


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


async def start_and_stop(scheduler: Scheduler) -> None:
    async with scheduler:
        await scheduler.start()
        await scheduler.shutdown()


async def test_a_life_is_told_from_its_begin_to_its_end(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    @scheduler.on(NUMBERS, on_error="skip")
    async def divide(number: int) -> None:
        print(100 // number)

    @scheduler.background(restart=SOON)
    async def count() -> None:
        await anyio.sleep(1)
        if current_task_context().run == 1:
            raise TroubleError("boom")
        for number in range(5):
            await scheduler.publish(NUMBERS, number)
        await anyio.sleep(1)

    await scheduler.run()
    first, restart, skipped, reason, last = lines(caplog)
    assert first == "started 2 tasks, ready in 0 s"
    assert "restarts in 1 s" in restart
    assert reason == "stopping because all work is done"
    assert "skipped a message" in skipped
    assert last == "stopped in 0 s: 2 tasks, 4 messages handled, 1 failed, 0 missed, 1 restart"
    assert {"tasks": 2, "handled": 4, "failed": 1}.items() <= vars(caplog.records[-1]).items()


async def test_a_slow_start_says_what_it_waits_for(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler.register_background_task(Slow(begin=5), name="db", start_timeout=8)

    @scheduler.background(depends_on=["db"], reports_ready=True)
    async def web() -> None:
        await anyio.sleep(2.5)
        current_task_context().ready()
        await anyio.sleep_forever()

    scheduler.register_background_task(Forever("page"), depends_on=["web"])
    await start_and_stop(scheduler)
    assert lines(caplog)[:5] == [
        "still waiting for db.initialize(): 2 s of 8 s",
        "still waiting for db.initialize(): 4 s of 8 s",
        "still waiting for web to say that it is ready: 1 s; page, which waits for task 'web': 1 s",
        "started 3 tasks, ready in 7.5 s",
        "stopping because shutdown() was called",
    ]
    assert vars(caplog.records[0])["task_name"] == "db"


async def test_a_slow_stop_says_what_it_waits_for(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler.register_background_task(Slow(end=2.5), name="db", shutdown_timeout=7)
    scheduler.register_background_task(Slow(leave=3), name="poller", stop_timeout=9)

    @scheduler.on(NUMBERS, drain_timeout=30)
    async def audit(number: int) -> None:
        await anyio.sleep(4.5)

    async with scheduler:
        await scheduler.start()
        await settle()
        for number in range(2):
            await scheduler.publish(NUMBERS, number)
    assert lines(caplog)[1:] == [
        "stopping because its block was left",
        "still waiting for poller.execute(): 2 s of 9 s",
        "still waiting for audit to handle 2 messages: 1 s of 30 s",
        "still waiting for audit to handle a message: 3 s of 30 s",
        "still waiting for audit to handle a message: 5 s of 30 s",
        "still waiting for db.shutdown(): 1 s of 7 s",
        "stopped in 11.5 s: 3 tasks, 2 messages handled, 0 failed, 0 missed, 0 restarts",
    ]


async def test_who_was_cancelled_and_does_not_end_is_named(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    @scheduler.background(stop_timeout=5)
    async def rollback() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with CancelScope(shield=True):
                await anyio.sleep(3)

    await start_and_stop(scheduler)
    assert lines(caplog)[2] == (
        "still waiting for rollback.execute(), which was cancelled: 2 s of 5 s"
    )


async def test_who_ignores_its_cancellation_is_named_for_as_long_as_it_goes_on(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    @scheduler.background(name="x", stop_timeout=1)
    async def stubborn() -> None:
        with CancelScope(shield=True):
            await anyio.sleep(30)

    with pytest.raises(ExceptionGroup, match="shut down well"):
        await start_and_stop(scheduler)
    waits = [line for line in lines(caplog) if line.startswith("still waiting")]
    assert waits[:3] == [
        f"still waiting for x.execute(), which ignores its cancellation: {passed} s"
        for passed in (2, 4, 6)
    ]
    assert 6 < len(waits) < 15, "less and less often"
    assert lines(caplog)[-1].startswith("stopped in 30 s"), "the end is told last"


@posix_signals
async def test_who_is_waited_for_with_signals_says_what_ends_the_process(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    @scheduler.background(name="x", stop_timeout=1)
    async def stubborn() -> None:
        with CancelScope(shield=True):
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)
                await anyio.sleep(10)

    with pytest.raises(ExceptionGroup, match="shut down well"):
        await scheduler.run()
    waits = [line for line in lines(caplog) if line.startswith("still waiting")]
    assert list(dict.fromkeys(line.rpartition(" (")[2] for line in waits)) == [
        "two signals more end the process)",
        "one signal more ends the process)",
    ]


@pytest.mark.parametrize("command", ["stop_task", "restart_task", "remove_task", "group"])
async def test_a_command_that_takes_long_says_what_it_waits_for(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture, command: str
) -> None:
    group = scheduler.group("storage")
    task = group.register_background_task(Slow(begin=3, end=5), name="db", shutdown_timeout=9)
    scheduler.register_background_task(Forever("other"))
    async with scheduler:
        await scheduler.start()
        caplog.clear()
        await (group.stop() if command == "group" else getattr(scheduler, command)(task))
        told = [line for line in lines(caplog) if line.startswith("still")]
        expected = [
            "still waiting for db.shutdown(): 2 s of 9 s",
            "still waiting for db.shutdown(): 4 s of 9 s",
        ]
        if command == "restart_task":
            expected.append("still waiting for db.initialize(): 2 s")
        assert told == expected[: len(told)]
        assert len(told) >= 2 + (command == "restart_task")
        caplog.clear()
        await anyio.sleep(60)
        assert not caplog.records, "nothing is left of what tells it"


class SlowAgain(BackgroundTask):
    """Is lost once, and takes some seconds to begin again."""

    def __init__(self, begin: float) -> None:
        self.begin = begin

    async def initialize(self) -> None:
        if current_task_context().run > 1:
            await anyio.sleep(self.begin)

    async def execute(self) -> None:
        if current_task_context().run == 1:
            await anyio.sleep(60)
            raise TroubleError("lost")
        await anyio.sleep_forever()


async def test_a_restart_that_takes_long_says_what_it_waits_for(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    patient = RestartPolicy(initial_delay=30, jitter=0)
    scheduler.register_background_task(SlowAgain(7), name="db", restart=patient, start_timeout=9)
    async with scheduler:
        await scheduler.start()
        caplog.clear()
        await anyio.sleep(600)
        _, *told = lines(caplog)
        await scheduler.shutdown()
    assert told == [
        "still waiting for db.initialize(): 2 s of 9 s",
        "still waiting for db.initialize(): 4 s of 9 s",
        "still waiting for db.initialize(): 6 s of 9 s",
        "task 'db' is ready again, after 7 s",
    ]


async def test_a_restart_that_is_quick_says_nothing_of_it(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler.register_background_task(SlowAgain(1), name="db", restart=SOON)
    async with scheduler:
        await scheduler.start()
        caplog.clear()
        await anyio.sleep(600)
        assert len(lines(caplog)) == 1


async def test_a_command_that_waits_for_a_back_off_says_so(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    class Lost(BackgroundTask):
        async def initialize(self) -> None:
            if current_task_context().run == 2:
                raise TroubleError("lost")

        async def execute(self) -> None:
            await anyio.sleep_forever()

    patient = RestartPolicy(initial_delay=5, jitter=0)
    group = scheduler.group("storage")
    group.register_background_task(Lost(), name="db", restart=patient)
    async with scheduler:
        await scheduler.start()
        caplog.clear()
        await group.restart()
        told = [line for line in lines(caplog) if line.startswith("still")]
    assert told == ["still waiting for db, which backs off after a failure"] * 2


async def test_a_late_task_that_takes_long_says_what_it_waits_for(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    async with scheduler:
        await scheduler.start()
        caplog.clear()
        scheduler.register_background_task(Slow(begin=4.5), name="db")
        await anyio.sleep(1)
        scheduler.register_background_task(Slow(begin=1.5), name="quick")
        scheduler.register_background_task(Slow(), name="web", depends_on=["db"])
        await anyio.sleep(600)
        web = "web, which waits for task 'db': "
        assert lines(caplog) == [
            "still waiting for db.initialize(): 2 s; quick.initialize(): 1 s; " + web + "1 s",
            "still waiting for db.initialize(): 3 s; " + web + "2 s",
            "still waiting for db.initialize(): 4 s; " + web + "3 s",
            "task 'db' is ready, after 4.5 s",
            "task 'web' is ready, after 3.5 s",
        ]


async def test_many_restarts_that_wait_are_told_together_and_less_and_less_often(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(20):
        scheduler.register_background_task(SlowAgain(1e9), name=f"db {number}", restart=SOON)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(62)
        caplog.clear()
        await anyio.sleep(3600)
        told = lines(caplog)
        assert 10 < len(told) < 40
        assert told[0].endswith("and 17 more")
        for _ in range(100):
            await anyio.sleep(80_000)
        assert len(lines(caplog)) < 100, "and a clock that jumps comes to rest"
        caplog.clear()
        await scheduler.shutdown()
    assert not [line for line in lines(caplog) if line.startswith("still")]


async def test_a_command_that_a_stop_overtakes_is_told_of_once(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    task = scheduler.register_background_task(Slow(end=6), name="db", shutdown_timeout=9)
    async with scheduler:
        await scheduler.start()
        async with create_task_group() as group:
            group.start_soon(scheduler.stop_task, task)
            await anyio.sleep(1)
            await scheduler.shutdown()
    told = [line for line in lines(caplog) if line.startswith("still")]
    assert told == [f"still waiting for db.shutdown(): {passed} s of 9 s" for passed in (3, 5)]


async def test_of_many_that_are_waited_for_a_few_are_named(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(5):
        scheduler.register_background_task(Slow(leave=3), name=f"worker {number}")
    await start_and_stop(scheduler)
    assert lines(caplog)[2] == (
        "still waiting for worker 0.execute(): 2 s of 10 s; worker 1.execute(): 2 s of 10 s;"
        " worker 2.execute(): 2 s of 10 s; and 2 more"
    )


async def test_the_longer_a_wait_the_less_often_it_is_told(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler.register_background_task(Slow(begin=86_400), name="db")
    await start_and_stop(scheduler)
    waits = [line for line in lines(caplog) if line.startswith("still waiting")]
    assert 20 < len(waits) < 60


async def test_a_wait_that_never_ends_lets_the_clock_rest(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    """Otherwise nothing would be seen of a test that hangs, but a log that grows and grows."""
    scheduler.register_background_task(Slow(begin=1e9), name="db")
    await start_and_stop(scheduler)
    assert len(lines(caplog)) < 100


@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING])
async def test_nothing_is_left_of_what_tells_it(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture, level: int
) -> None:
    """When all is started, no timer of the library goes on."""
    caplog.set_level(level, "orchestrio")
    scheduler.register_background_task(Slow(begin=1, end=1))
    async with scheduler:
        await scheduler.start()
        began = anyio.current_time()
        with anyio.move_on_after(1000):
            await scheduler.stopping.wait()
        assert anyio.current_time() == began + 1000
        await scheduler.shutdown()
    assert bool(caplog.records) == (level == logging.INFO)


async def test_tasks_that_were_removed_count_as_well(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    async def handle(number: int) -> None: ...

    async with scheduler:
        await scheduler.start()
        for name in ("first", "second"):
            scheduler.on(NUMBERS, name=name)(handle)
            await settle()
            await scheduler.publish(NUMBERS, 1)
            await scheduler.remove_task(scheduler.registry.get_by_name(name).task_id)
    assert lines(caplog)[-1].endswith(
        ": 2 tasks, 2 messages handled, 0 failed, 0 missed, 0 restarts"
    )


# -- why -------------------------------------------------------------------------------------


def why(caplog: pytest.LogCaptureFixture) -> str:
    (line,) = [line for line in lines(caplog) if line.startswith("stopping because ")]
    return line.removeprefix("stopping because ")


async def test_a_failure_is_why(scheduler: Scheduler, caplog: pytest.LogCaptureFixture) -> None:
    scheduler.register_background_task(Failing())
    with pytest.raises(Exception, match="boom"):
        await scheduler.run()
    assert why(caplog) == "task 'Failing' failed: its execute() raised TroubleError: boom"


async def test_too_many_failures_are_why(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler.register_background_task(Failing(), restart=ONCE)
    with pytest.raises(Exception, match="boom"):
        await scheduler.run()
    assert why(caplog).startswith(
        "task 'Failing' failed 2 times: max_restarts=1 within 16 min 40 s"
    )


async def test_a_start_that_fails_is_why(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler.register_background_task(Broken())
    with pytest.raises(Exception, match="no disk"):
        await scheduler.run()
    assert why(caplog).startswith("task 'Broken' could not start")
    assert not [line for line in lines(caplog) if line.startswith("started")]


async def test_a_task_that_calls_shutdown_is_why(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler.background(name="boss")(scheduler.shutdown)
    await scheduler.run()
    assert why(caplog) == "shutdown() was called by task 'boss'"


async def test_the_end_of_a_significant_task_is_why(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler.register_background_task(Forever("other"))

    @scheduler.background(significant=True)
    async def main() -> None: ...

    await scheduler.run()
    assert why(caplog) == "task 'main' has ended, which is significant"


async def test_an_error_in_the_block_is_why(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(TroubleError):
        async with scheduler:
            await scheduler.start()
            raise TroubleError
    assert why(caplog) == "its block raised TroubleError"


async def test_a_cancellation_is_why(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler.register_background_task(Forever())
    with anyio.move_on_after(5):
        await scheduler.run()
    assert why(caplog) == "it was cancelled"


async def test_a_cancelled_start_is_why(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler.register_background_task(Slow(begin=20))
    with anyio.move_on_after(5):
        await scheduler.run()
    assert why(caplog) == "its start was cancelled"


@posix_signals
async def test_a_signal_is_why(scheduler: Scheduler, caplog: pytest.LogCaptureFixture) -> None:
    async def stop() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await anyio.sleep_forever()

    scheduler.background()(stop)
    await scheduler.run()
    assert why(caplog).startswith("of SIGTERM")


async def test_an_exit_is_why(scheduler: Scheduler, caplog: pytest.LogCaptureFixture) -> None:
    @scheduler.background()
    async def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        await scheduler.run()
    assert why(caplog) == "a task raised SystemExit"


async def test_a_scheduler_that_never_started_has_nothing_to_tell(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    async with scheduler:
        await scheduler.publish(NUMBERS, 1)
    assert lines(caplog) == []


async def test_of_two_who_stop_it_the_first_is_why(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    task = SlowToStop()
    scheduler.register_background_task(task)
    async with create_task_group() as group, scheduler:
        await scheduler.start()
        group.start_soon(scheduler.shutdown)
        group.start_soon(scheduler.shutdown)
        await settle()
        task.gate.set()
    assert why(caplog) == "shutdown() was called"


# -- each task -------------------------------------------------------------------------------


async def test_each_task_is_told_of_when_debugging(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "orchestrio")
    scheduler.register_background_task(Slow(begin=1.5, leave=3, end=0.25), name="db")
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(7)
    records = [record for record in caplog.records if record.levelno == logging.DEBUG]
    assert [record.getMessage() for record in records] == [
        "task 'db' initialised in 1.5 s",
        "task 'db' begins to work",
        "task 'db' ended its work after 10 s: it was stopped",
        "task 'db' shut down in 0.25 s",
    ]
    assert {vars(record)["task_name"] for record in records} == {"db"}


async def test_a_task_that_fails_is_told_of_when_debugging(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "orchestrio")
    scheduler.register_background_task(Failing(), on_error="stop")
    await scheduler.run()
    assert "task 'Failing' ended its work after 0 s: it failed" in lines(caplog)


async def test_a_shutdown_that_fails_is_not_told_as_done_when_debugging(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "orchestrio")
    scheduler.register_background_task(Messy(), name="db")
    with pytest.raises(ExceptionGroup):
        await start_and_stop(scheduler)
    assert "task 'db' failed to shut down in 0 s" in lines(caplog)
    assert "task 'db' shut down in 0 s" not in lines(caplog)
