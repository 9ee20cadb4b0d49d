"""What a snapshot says of a task: since when, what went wrong, what it waits for; and in JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from math import inf
from typing import Any

import anyio
import pytest
from support import NUMBERS, SOON, TroubleError
from support.hooks import SlowToStart, SlowToStop

from orchestrio import (
    ChannelConfig,
    GroupSnapshot,
    HealthReport,
    ProbeReport,
    RestartPolicy,
    Scheduler,
    TaskExecutionError,
    TaskId,
    TaskMetadata,
    TaskSnapshot,
    TaskState,
    current_task_context,
)
from orchestrio.testing import virtual_time

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    return virtual_time(request.param, start=START)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def of(scheduler: Scheduler, name: str) -> TaskSnapshot:
    return scheduler.status(scheduler.registry.get_by_name(name).task_id)


# -- when, and what went wrong ---------------------------------------------------------------------


async def test_a_snapshot_says_since_when_a_task_works(scheduler: Scheduler) -> None:
    @scheduler.background()
    async def worker() -> None:
        await anyio.sleep(10)

    assert of(scheduler, "worker").started_at is None
    async with scheduler:
        await anyio.sleep(5)
        await scheduler.start()
        assert of(scheduler, "worker").started_at == at(5)
        await anyio.sleep(20)
    assert of(scheduler, "worker").started_at == at(5)
    assert of(scheduler, "worker").started_at is not None


async def test_a_task_that_backs_off_says_why_and_until_when(scheduler: Scheduler) -> None:
    @scheduler.background(restart=RestartPolicy(initial_delay=30, jitter=0))
    async def flaky() -> None:
        await anyio.sleep(10)
        if current_task_context().run == 1:
            raise TroubleError("boom")
        await anyio.sleep_forever()

    async with scheduler:
        await scheduler.start()
        await anyio.sleep(20)
        shot = of(scheduler, "flaky")
        assert shot.state is TaskState.BACKING_OFF
        assert shot.next_retry_at == at(40)
        assert shot.waiting_for == "its restart"
        assert shot.last_error == shot.error
        assert "TroubleError: boom" in (shot.last_error or "")
        assert shot.last_error_at == at(10)
        assert shot.started_at is None
        await anyio.sleep(30)
        shot = of(scheduler, "flaky")
        assert (shot.state, shot.error, shot.next_retry_at) == (TaskState.RUNNING, None, None)
        assert shot.started_at == at(40)
        assert "TroubleError: boom" in (shot.last_error or ""), "it is kept"
        assert shot.last_error_at == at(10)


async def test_an_error_that_says_very_much_is_cut(scheduler: Scheduler) -> None:
    @scheduler.background(restart=RestartPolicy(initial_delay=30, jitter=0))
    async def wordy() -> None:
        raise TroubleError("boom" * 1_000_000)

    async with scheduler:
        await scheduler.start()
        await anyio.sleep(1)
        shot = of(scheduler, "wordy")
        assert "TroubleError: boomboom" in (shot.error or "")
        assert len(shot.model_dump_json()) < 50_000


async def test_a_stop_in_the_back_off_leaves_no_retry(scheduler: Scheduler) -> None:
    @scheduler.background(restart=SOON)
    async def flaky() -> None:
        raise TroubleError("boom")

    async with scheduler:
        await scheduler.start()
        await anyio.sleep(0.5)
        assert of(scheduler, "flaky").next_retry_at is not None
        await scheduler.stop_task(of(scheduler, "flaky").task_id)
        shot = of(scheduler, "flaky")
        assert (shot.next_retry_at, shot.waiting_for) == (None, None)


async def test_a_message_or_tick_that_was_skipped_is_a_last_error(
    scheduler: Scheduler, concurrency: int
) -> None:
    @scheduler.on(NUMBERS, on_error="skip", concurrency=concurrency)
    async def handler(number: int) -> None:
        raise TroubleError(f"bad {number}")

    @scheduler.every(3600, on_error="skip")
    async def tick() -> None:
        raise TroubleError("no tick")

    async with scheduler:
        await scheduler.start()
        await anyio.sleep(7)
        await scheduler.publish(NUMBERS, 1)
        await anyio.sleep(1)
        shot = of(scheduler, "handler")
        assert (shot.last_error, shot.last_error_at) == ("TroubleError: bad 1", at(7))
        assert (shot.error, shot.ready) == (None, True)
        assert of(scheduler, "tick").last_error == "TroubleError: no tick"
        assert of(scheduler, "tick").waiting_for == "its next tick"


async def test_a_shutdown_that_fails_is_a_last_error(scheduler: Scheduler) -> None:
    class Messy(SlowToStop):
        async def shutdown(self) -> None:
            raise TroubleError("messy")

    task = scheduler.register_background_task(Messy())
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(3)
        with pytest.raises(Exception, match="messy"):
            await scheduler.stop_task(task)
        assert "messy" in (scheduler.status(task).last_error or "")
        assert scheduler.status(task).last_error_at == at(3)


# -- what it waits for -----------------------------------------------------------------------------


async def test_a_task_waits_for_its_dependency_then_for_the_start_of_the_others(
    scheduler: Scheduler,
) -> None:
    slow, slower = SlowToStart("slow"), SlowToStart("slower")

    scheduler.register_background_task(slow)

    @scheduler.background(depends_on=["slow"])
    async def client() -> None: ...

    async with scheduler, anyio.create_task_group() as group:
        group.start_soon(scheduler.start)
        await anyio.sleep(1)
        assert of(scheduler, "slow").waiting_for is None, "it is in its hook"
        scheduler.register_background_task(slower, depends_on=["slow"])
        await anyio.sleep(1)
        assert of(scheduler, "slower").waiting_for == "task 'slow'"
        slow.gate.set()
        await anyio.sleep(1)
        assert of(scheduler, "client").waiting_for == "the start of the others"
        slower.gate.set()
        await anyio.sleep(1)
        assert of(scheduler, "client").waiting_for is None


async def test_a_task_waits_until_its_dependency_says_that_it_is_ready(
    scheduler: Scheduler,
) -> None:
    @scheduler.background(reports_ready=True)
    async def database() -> None:
        await anyio.sleep(10)
        current_task_context().ready()
        await anyio.sleep_forever()

    @scheduler.background(depends_on=["database"])
    async def client() -> None:
        await anyio.sleep_forever()

    async with scheduler, anyio.create_task_group() as group:
        group.start_soon(scheduler.start)
        await anyio.sleep(5)
        assert of(scheduler, "client").waiting_for == "task 'database'"
        await anyio.sleep(10)
        assert of(scheduler, "client").waiting_for is None


async def test_many_dependencies_are_not_all_named(scheduler: Scheduler) -> None:
    names = [f"task-{number}" for number in range(5)]
    group = scheduler.group("all")
    for name in names:

        @group.background(name=name, reports_ready=True)
        async def never() -> None:
            await anyio.sleep_forever()

    @scheduler.background(depends_on=["all"])
    async def client() -> None: ...

    async with scheduler, anyio.create_task_group() as tasks:
        tasks.start_soon(scheduler.start)
        await anyio.sleep(1)
        waiting_for = of(scheduler, "client").waiting_for
        assert waiting_for == "task 'task-0', task 'task-1', task 'task-2' and 2 more"
        tasks.cancel_scope.cancel()


async def test_a_task_waits_for_its_turn_to_shut_down(scheduler: Scheduler) -> None:
    first, last = SlowToStop("first"), SlowToStop("last")
    scheduler.register_background_task(first)
    scheduler.register_background_task(last)
    async with scheduler, anyio.create_task_group() as group:
        await scheduler.start()
        group.start_soon(scheduler.shutdown)
        await anyio.sleep(1)
        assert of(scheduler, "first").waiting_for == "its turn to shut down"
        assert of(scheduler, "last").waiting_for is None
        first.gate.set()
        last.gate.set()


async def test_a_sender_waits_for_room() -> None:
    scheduler = Scheduler()
    scheduler.add_channel(NUMBERS, ChannelConfig(capacity=1, overflow="block"))

    @scheduler.on(NUMBERS, drain_timeout=0)
    async def slow(number: int) -> None:
        await anyio.sleep(100)

    @scheduler.background()
    async def producer() -> None:
        for number in range(3):
            await scheduler.publish(NUMBERS, number)

    async with scheduler:
        await scheduler.start()
        await anyio.sleep(10)
        waiting_for = of(scheduler, "producer").waiting_for
        assert waiting_for == "room in channel numbers (int)"
        assert of(scheduler, "producer").ready


# -- JSON ------------------------------------------------------------------------------------------


def refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def strict(model: Any) -> object:
    """Return what is in the JSON of a model, the same by either way, or raise."""
    loaded = json.loads(model.model_dump_json(), parse_constant=refuse)
    dumped = json.loads(json.dumps(model.model_dump(mode="json"), allow_nan=False))
    assert loaded == dumped
    return loaded


async def test_all_reports_are_strict_json_and_survive_it(scheduler: Scheduler) -> None:
    group = scheduler.group("group", restart=RestartPolicy(within=inf))

    @group.background(stop_timeout=inf, drain_timeout=inf, shutdown_timeout=inf, restart=SOON)
    async def worker() -> None:
        if current_task_context().run == 1:
            raise TroubleError("boom")
        await anyio.sleep_forever()

    @scheduler.on(NUMBERS)
    async def handler(number: int) -> None: ...

    try:
        async with scheduler:
            await scheduler.start()
            for _ in range(3):
                await anyio.sleep(0.4)
                for report in (
                    scheduler.health(),
                    scheduler.probe(),
                    scheduler.groups["group"],
                    *scheduler.status(),
                ):
                    strict(report)
                    again = type(report).model_validate_json(report.model_dump_json())
                    assert again == report
            for shot in scheduler.status():
                await scheduler.remove_task(shot.task_id)
    except TaskExecutionError:
        pytest.fail("it was to be restarted")


def test_infinity_is_null_in_json_and_back() -> None:
    metadata = TaskMetadata(restart=RestartPolicy(within=inf), stop_timeout=inf, watchdog=3)
    loaded: Any = strict(metadata)
    assert (loaded["stop_timeout"], loaded["watchdog"]) == (None, 3.0)
    assert loaded["restart"]["within"] is None
    assert TaskMetadata.model_validate_json(json.dumps(loaded)) == metadata
    assert metadata.model_dump()["stop_timeout"] == inf, "what stays in Python stays as it is"


@pytest.mark.parametrize("mode", ["validation", "serialization"])
@pytest.mark.parametrize("model", [HealthReport, GroupSnapshot, TaskMetadata, ProbeReport])
def test_a_schema_is_strict_json(model: Any, mode: str) -> None:
    json.dumps(model.model_json_schema(mode=mode), allow_nan=False)


def test_what_is_no_unicode_does_not_break_a_report() -> None:
    """As in the message of an `OSError` about a file whose name is not UTF-8."""
    shot = TaskSnapshot(
        task_id=TaskId("a#1"),
        name="a",
        kind="background",
        state=TaskState.FAILED,
        metadata=TaskMetadata(description="of \udc80", tags=("\udc81",)),
        error="no such file: '\udce9.txt'",
    )
    loaded: Any = strict(shot)
    assert loaded["error"] == r"no such file: '\udce9.txt'"
    assert loaded["metadata"]["tags"] == [r"\udc81"]


async def test_an_event_that_cannot_say_what_it_is_called_does_not_break_a_report() -> None:
    class Key:
        def __str__(self) -> str:
            raise TroubleError

    scheduler = Scheduler()
    key = Key()
    scheduler.add_channel(key, ChannelConfig(capacity=1, overflow="block"))

    @scheduler.on(key, drain_timeout=0)
    async def crawler(word: str) -> None:
        for _ in range(3):
            await scheduler.publish(key, word)

    async with scheduler:
        await scheduler.start()
        await scheduler.publish(key, "a")
        await anyio.sleep(10)
        strict(scheduler.health())
        assert not scheduler.health().ready


# -- probes ----------------------------------------------------------------------------------------


async def test_a_probe_says_as_much_as_health_in_a_few_lines(scheduler: Scheduler) -> None:
    def never(name: str) -> Callable[[], Any]:
        @scheduler.background(name=name, reports_ready=True)
        async def work() -> None:
            await anyio.sleep_forever()

        return work

    for number in range(30):
        never(f"late-{number}")

    @scheduler.background()
    async def job() -> None: ...

    async with scheduler, anyio.create_task_group() as group:
        group.start_soon(scheduler.start)
        await anyio.sleep(1)
        probe, health = scheduler.probe(), scheduler.health()
        assert (probe.live, probe.ready) == (health.live, health.ready) == (True, False)
        assert probe.tasks == {TaskState.RUNNING: 30, TaskState.COMPLETED: 1}
        assert probe.not_ready == tuple(f"late-{number}" for number in range(10))
        assert strict(probe) == {
            "live": True,
            "ready": False,
            "tasks": {"running": 30, "completed": 1},
            "not_ready": list(probe.not_ready),
        }
        group.cancel_scope.cancel()
