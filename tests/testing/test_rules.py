"""Each rule of the simulation finds what breaks it: programs and schedulers that misbehave."""

from __future__ import annotations

import logging
from collections.abc import Callable
from random import Random
from typing import Any, Literal

import anyio
import pytest
from anyio import current_time, sleep, sleep_forever
from anyio.lowlevel import checkpoint

from orchestrio import (
    DEAD_LETTERS,
    TASK_EVENTS,
    BackgroundTask,
    ChannelConfig,
    DeadLetter,
    EventTask,
    RestartPolicy,
    Scheduler,
    TaskFailed,
    TaskSnapshot,
    TaskState,
    Topic,
)
from orchestrio.testing import Faults, Harness, SimulationFailure, simulate

NUMBERS = Topic("numbers", int)


class Listener(EventTask[int]):
    """Handles numbers."""

    @property
    def subscribed_event(self) -> Topic[int]:
        return NUMBERS

    async def handle_event(self, event: int) -> None:
        await checkpoint()


class Meddler(BackgroundTask):
    """Does to another task what the scheduler alone should."""

    def __init__(self, meddle: Callable[[], Callable[[], Any]]) -> None:
        self.meddle = meddle

    async def execute(self) -> None:
        await sleep(5)
        await self.meddle()()


def build(meddle: Callable[[Listener], Callable[[], Any]] | None = None) -> Scheduler:
    scheduler = Scheduler()
    scheduler.add_channel(NUMBERS, ChannelConfig(capacity=4))
    listener = Listener()
    scheduler.register_event_task(listener, name="listener")
    if meddle is not None:
        meddler = Meddler(lambda: meddle(listener))
        scheduler.register_background_task(meddler, name="meddler")

    @scheduler.background()
    async def source() -> None:
        for number in range(5):
            await scheduler.publish(NUMBERS, number)
            await sleep(1)
        await sleep(5)

    return scheduler


Backend = Literal["asyncio", "trio"]


def find(make: Callable[[], Scheduler], backend: Backend, **options: Any) -> SimulationFailure:
    options = {"seeds": [1, 2, 3], "limit": 60.0, "faults": Faults(most=0), **options}
    with pytest.raises(SimulationFailure) as found:
        simulate(make, backends=[backend], **options)
    return found.value


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> Backend:
    name: Backend = request.param
    return name


def test_a_program_that_behaves_breaks_no_rule(backend: Backend) -> None:
    for order in ("stock", "shuffle", "defer"):
        simulate(build, seeds=[1, 2, 3], faults=Faults(most=0), order=order, limit=60)


# -- programs that misbehave -----------------------------------------------------------------


def test_a_message_that_is_handled_twice_is_found(backend: Backend) -> None:
    failure = find(lambda: build(lambda task: lambda: task.handler(3)), backend)
    assert failure.kind in ("one_order", "accounts")
    assert "listener" in failure.what


def test_a_run_that_begins_within_another_is_found(backend: Backend) -> None:
    failure = find(lambda: build(lambda task: task.initialize), backend)
    assert failure.kind == "no_overlap"
    assert "listener was initialised for another run while it ran" in failure.what


def test_a_run_that_is_shut_down_twice_is_found(backend: Backend) -> None:
    failure = find(lambda: build(lambda task: task.shutdown), backend)
    assert failure.kind == "one_shutdown"
    assert "listener was shut down without a run" in failure.what


def test_a_dead_letter_that_nobody_failed_at_is_found(backend: Backend) -> None:
    def make() -> Scheduler:
        scheduler = build()

        @scheduler.background()
        async def liar() -> None:
            (task,) = (task for task in scheduler.status() if task.name == "listener")
            letter = DeadLetter(
                task_id=task.task_id,
                task_name=task.name,
                event=NUMBERS,
                message=0,
                error=ValueError(),
                attempts=1,
                time=current_time(),
            )
            await scheduler.publish(DEAD_LETTERS, letter)

        return scheduler

    failure = find(make, backend)
    assert failure.kind == "dead_letters"
    assert "0 messages failed for good in listener, and there are 1 dead letters" in failure.what


def test_an_error_that_is_told_twice_is_found(backend: Backend) -> None:
    def make() -> Scheduler:
        scheduler = Scheduler()
        policy = RestartPolicy(max_restarts=None, initial_delay=0.5)

        @scheduler.background(restart=policy)
        async def fragile() -> None:
            await sleep(100)

        @scheduler.on(TASK_EVENTS)
        async def gossip(event: object) -> None:
            if isinstance(event, TaskFailed):
                logging.getLogger("orchestrio").error("again: %s", event.error)

        return scheduler

    faults = Faults(delays=0, cancellations=0, commands=0)
    failure = find(make, backend, faults=faults, seeds=range(50))
    assert failure.kind == "errors_told_once"
    assert "was told 2 times" in failure.what


def test_a_task_that_never_ends_is_found(backend: Backend) -> None:
    def make() -> Scheduler:
        scheduler = Scheduler()

        @scheduler.background(stop_timeout=1)
        async def deaf() -> None:
            with anyio.CancelScope(shield=True):
                await sleep_forever()

        return scheduler

    assert find(make, backend).kind == "stop_in_time"


# -- schedulers that lie ---------------------------------------------------------------------

Lie = Callable[[TaskSnapshot], dict[str, Any]]


def lie(monkeypatch: pytest.MonkeyPatch, what: Lie) -> None:
    """Have status() say something else of the listener."""
    status = Scheduler.status

    def lying(self: Scheduler, *task_id: Any) -> Any:
        told: Any = status(self, *task_id)
        if not isinstance(told, list):
            return told
        return [
            task.model_copy(update=what(task)) if task.name == "listener" else task for task in told
        ]

    monkeypatch.setattr(Scheduler, "status", lying)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (lambda task: {"handled": task.handled - 1}, "handled is -1"),
        (lambda task: {"missed": -1}, "missed is -1"),
        (lambda task: {"failed": 3 - task.handled}, "failed went down"),
        (lambda task: {"unread": task.unread + task.handled}, "to read"),
        (lambda task: {"handled": 0, "failed": task.handled}, "its handlers returned from"),
    ],
)
def test_books_that_are_wrong_are_found(
    what: Lie, words: str, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    lie(monkeypatch, what)
    failure = find(build, backend)
    assert failure.kind in ("accounts", "no_deadlock")
    assert words in failure.what


def test_a_task_that_has_something_to_do_and_sleeps_is_found(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    lie(monkeypatch, lambda task: {"unread": task.handled, "handled": 0})
    failure = find(build, backend)
    assert failure.kind in ("no_deadlock", "accounts")


def test_a_state_that_no_event_has_told_is_found(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_the_end(task: TaskSnapshot) -> dict[str, Any]:
        return {"state": TaskState.FAILED} if task.state is TaskState.STOPPED else {}

    lie(monkeypatch, in_the_end)
    failure = find(build, backend)
    assert failure.kind == "legal_states"
    assert "listener is failed in the end" in failure.what


def test_a_task_that_is_left_over_is_found(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_the_end(task: TaskSnapshot) -> dict[str, Any]:
        return {"state": TaskState.RUNNING} if task.state is TaskState.STOPPED else {}

    lie(monkeypatch, in_the_end)
    failure = find(build, backend)
    assert failure.kind == "nothing_left"
    assert "task listener is still running" in failure.what


# -- what a drive sees of faults -------------------------------------------------------------


def test_a_drive_that_meets_a_stopped_scheduler_is_no_failure(backend: Backend) -> None:
    async def drive(h: Harness[Any], random: Random) -> None:
        for number in range(100):
            await h.publish(NUMBERS, number)
            await sleep(1)

    def make() -> Scheduler:
        return build()

    faults = Faults(delays=0, commands=0, crashes=1, most=6)
    report = simulate(make, seeds=range(20), backends=[backend], faults=faults, drive=drive)
    assert report.faults["crash"] > 10
