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
    Group,
    RestartPolicy,
    Scheduler,
    SchedulerError,
    StateChanged,
    TaskFailed,
    TaskId,
    TaskMetadata,
    TaskSnapshot,
    TaskState,
    Topic,
)
from orchestrio._supervision.dependencies import Dependencies
from orchestrio._supervision.supervisor import Supervisor
from orchestrio._tasks.events import Publisher
from orchestrio._tasks.tally import Tally
from orchestrio.testing import Faults, Harness, SimulationFailure, simulate
from orchestrio.testing._rules.ledger import Ledger
from orchestrio.testing._rules.promises import see_that_they_are_down
from orchestrio.testing._simulation.commands import Commands
from orchestrio.testing._simulation.scenario import Command

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
    assert "0 messages failed for good in listener, and its dead letters are 1" in failure.what


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


def test_messages_that_are_skipped_and_only_counted_are_told(backend: Backend) -> None:
    def make() -> Scheduler:
        scheduler = Scheduler()
        scheduler.add_channel(NUMBERS)

        @scheduler.on(NUMBERS, name="listener", on_error="skip")
        async def listener(number: int) -> None:
            raise ValueError(f"no {number}")  # enough of them that the faults are only counted

        @scheduler.background(restart=RestartPolicy(max_restarts=None))
        async def source() -> None:
            for number in range(20):
                await scheduler.publish(NUMBERS, number)

        return scheduler

    crashes = Faults(strays=0, delays=0, cancellations=0, commands=0)
    simulate(make, backends=[backend], seeds=range(20), faults=crashes)


def test_attempts_that_are_repeated_and_only_counted_are_told(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make() -> Scheduler:
        scheduler = Scheduler()
        scheduler.add_channel(NUMBERS)
        calls = 0

        @scheduler.on(NUMBERS, name="listener", retries=20)
        async def listener(number: int) -> None:
            nonlocal calls
            calls += 1
            await checkpoint()
            if calls < 12:  # enough of them that the faults are only counted
                raise ValueError(f"no {number}")

        @scheduler.background(restart=RestartPolicy(max_restarts=None))
        async def source() -> None:
            await scheduler.publish(NUMBERS, 1)

        return scheduler

    crashes = Faults(strays=0, delays=0, cancellations=0, commands=0)
    simulate(make, backends=[backend], seeds=range(20), faults=crashes)
    monkeypatch.setattr(Tally, "settle", lambda self: None)
    failure = find(make, backend, seeds=range(20), faults=crashes)
    assert failure.kind == "errors_told_once"
    assert "of listener.handle_event()" in failure.what
    assert "was told 0 times" in failure.what


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
    # What is wrong with them first depends on when they are looked at, and so on the seed.
    failures = [find(build, backend, seeds=[seed]) for seed in range(20)]
    assert {failure.kind for failure in failures} <= {"accounts", "no_deadlock"}
    assert any(words in failure.what for failure in failures)


def test_a_task_that_has_something_to_do_and_sleeps_is_found(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    lie(monkeypatch, lambda task: {"unread": task.handled, "handled": 0})
    failure = find(build, backend)
    assert failure.kind in ("no_deadlock", "accounts")


def test_a_run_that_goes_on_with_nothing_left_to_run_for_is_found(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Supervisor, "is_finished", property(lambda self: self.is_stopping))
    failure = find(build, backend)
    assert failure.kind == "no_deadlock"
    assert failure.what == "run() goes on, though nothing is left to run for"


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


def depends_on(name: str) -> Lie:
    return lambda task: {"metadata": task.metadata.model_copy(update={"depends_on": (name,)})}


def test_a_dependency_that_is_shut_down_before_its_dependant_is_found(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    lie(monkeypatch, depends_on("source"))
    failure = find(build, backend)
    assert failure.kind == "shutdown_order"
    assert "shutdown() of source began before that of listener, which depends on it" in failure.what


@pytest.fixture
def _the_first_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a scheduler shut its tasks down from the first to the last."""
    in_order = Dependencies.in_order_of_start

    def reversed_order(self: Dependencies, workers: Any) -> Any:
        workers = in_order(self, workers)
        for worker in workers:
            worker.rank = -worker.rank
        return workers

    monkeypatch.setattr(Dependencies, "in_order_of_start", reversed_order)


@pytest.mark.usefixtures("_the_first_goes_first")
def test_a_task_that_is_shut_down_before_one_that_came_later_is_found(backend: Backend) -> None:
    failure = find(build, backend)
    assert failure.kind == "shutdown_order"
    assert "shutdown() of listener began before that of source, which came after" in failure.what


class Slow(BackgroundTask):
    """Takes its time for shutdown()."""

    async def execute(self) -> None:
        await sleep_forever()

    async def shutdown(self) -> None:
        await sleep(2)


@pytest.mark.parametrize("by", ["stop_task", "restart_task", "remove_task"])
@pytest.mark.usefixtures("_the_first_goes_first")
def test_two_commands_that_shut_tasks_down_in_the_wrong_order_are_found(
    by: str, backend: Backend
) -> None:
    def make() -> Scheduler:
        scheduler = Scheduler()
        first = scheduler.register_background_task(Slow(), name="first")
        second = scheduler.register_background_task(Slow(), name="second")

        @scheduler.background()
        async def somebody() -> None:
            async with anyio.create_task_group() as group:
                group.start_soon(getattr(scheduler, by), second)
                await sleep(1)
                group.start_soon(scheduler.stop_task, first)
            await sleep(5)

        return scheduler

    failure = find(make, backend)
    assert failure.kind == "shutdown_order"
    assert "shutdown() of first began before that of second, which came after" in failure.what


def test_a_task_that_nobody_stops_holds_nobody_up(backend: Backend) -> None:
    def make() -> Scheduler:
        scheduler = Scheduler()
        first = scheduler.register_background_task(Slow(), name="first")
        scheduler.register_background_task(Slow(), name="second", depends_on=["first"])

        @scheduler.background()
        async def somebody() -> None:
            await scheduler.stop_task(first)

        return scheduler

    simulate(make, seeds=[1], backends=[backend], faults=Faults(most=0), limit=60)


def test_a_task_that_was_given_up_holds_nobody_up_and_has_no_turn(backend: Backend) -> None:
    def make() -> Scheduler:
        scheduler = Scheduler()

        @scheduler.background(name="deaf", restart=RestartPolicy(), stop_timeout=1)
        async def deaf() -> None:
            try:
                await sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await sleep(3)

        scheduler.register_background_task(Slow(), name="web", depends_on=["deaf"])
        scheduler.register_background_task(Slow(), name="last")
        return scheduler

    with pytest.raises(SimulationFailure) as found:
        simulate(make, seeds=[1], backends=[backend], limit=60, check=[fail], faults=Faults(most=0))
    assert any("'deaf' did not shut down well" in line for line in found.value.trace)
    assert found.value.kind == "check"


def fail(h: Harness[Any]) -> None:
    raise AssertionError


@pytest.mark.parametrize("kind", ["background", "event"])
def test_a_task_that_works_before_its_dependency_is_ready_is_found(
    kind: str, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make() -> Scheduler:
        scheduler = Scheduler()
        scheduler.add_channel(NUMBERS)

        @scheduler.background(name="late", reports_ready=True)
        async def late() -> None:
            await scheduler.publish(NUMBERS, 1)
            await sleep(3)

        if kind == "event":
            scheduler.register_event_task(Listener(), name="listener")
        else:
            scheduler.register_background_task(Slow(), name="listener")
        return scheduler

    lie(monkeypatch, depends_on("late"))
    failure = find(make, backend)
    assert failure.kind == "dependencies_first"
    assert "of listener began, and late had not been ready: it was running" in failure.what


def test_a_task_that_works_before_its_dependency_has_begun_is_found(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Patient(BackgroundTask):
        async def execute(self) -> None:
            await sleep(3)

    def make() -> Scheduler:
        scheduler = Scheduler()

        @scheduler.background(name="slow", reports_ready=True)
        async def slow() -> None:
            await sleep(10)

        @scheduler.background()
        async def somebody() -> None:
            scheduler.register_background_task(Patient(), name="late", depends_on=["slow"])
            scheduler.register_background_task(Patient(), name="listener")
            await sleep(5)

        return scheduler

    lie(monkeypatch, depends_on("late"))
    failure = find(make, backend)
    assert failure.kind == "dependencies_first"
    assert "execute() of listener began, and late had not begun: it was reg" in failure.what


def test_a_dependency_that_was_ready_and_failed_is_as_good_as_one_that_is(
    backend: Backend,
) -> None:
    def make() -> Scheduler:
        scheduler = Scheduler()

        @scheduler.background(name="brief", restart=RestartPolicy(mode="never"))
        async def brief() -> None:
            raise RuntimeError("it worked, and failed")

        scheduler.register_background_task(Slow(), name="web", depends_on=["brief"])
        return scheduler

    simulate(make, seeds=range(20), backends=[backend], faults=Faults(most=0), limit=60)


Swallow = Callable[[BaseException], None]


@pytest.fixture(params=["in silence", "in the log"])
def swallow(request: pytest.FixtureRequest) -> Swallow:
    def log(error: BaseException) -> None:
        if request.param == "in the log":
            logging.getLogger("orchestrio").error("%s", error, exc_info=error)

    return log


@pytest.mark.parametrize("fault", ["crashes", "strays"])
def test_a_run_that_a_failure_ends_without_an_error_is_found(
    fault: str, swallow: Swallow, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Scheduler.run

    async def quiet(self: Scheduler) -> None:
        try:
            await run(self)
        except SchedulerError as error:
            swallow(error)

    def make() -> Scheduler:
        scheduler = Scheduler()
        scheduler.register_background_task(Slow())
        return scheduler

    weights: dict[str, float] = dict.fromkeys(("crashes", "delays", "cancellations"), 0)
    faults = Faults(**{**weights, "commands": 0, "strays": 0, fault: 1})  # type: ignore[arg-type]
    simulate(make, seeds=range(20), backends=[backend], faults=faults, limit=60)
    monkeypatch.setattr(Scheduler, "run", quiet)
    failure = find(make, backend, seeds=range(20), faults=faults)
    assert failure.kind == "failures_raised"
    assert "it has no policy, and that was not raised" in failure.what


def test_a_failure_after_which_the_run_goes_on_is_found(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Supervisor,
        "work_ended",
        lambda self, worker, run: logging.getLogger("orchestrio").error("%s", run.failure),
    )

    def make() -> Scheduler:
        scheduler = Scheduler()

        @scheduler.background()
        async def brief() -> None:
            await sleep(5)

        scheduler.register_background_task(Slow())
        return scheduler

    failure = find(make, backend, seeds=range(20), faults=Faults(crashes=1, commands=0, delays=0))
    assert failure.kind == "failures_raised"


def test_a_task_that_is_cancelled_though_nobody_stops_it_is_found(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = Publisher.publish

    def hide(self: Publisher[Any], event: object) -> None:
        if getattr(event, "state", None) not in (TaskState.STOPPING, TaskState.STOPPED):
            publish(self, event)

    def make() -> Scheduler:
        scheduler = Scheduler()
        scheduler.register_background_task(Slow(), name="victim")
        return scheduler

    monkeypatch.setattr(Publisher, "publish", hide)
    failure = find(make, backend)
    assert failure.kind == "no_silent_end"
    assert failure.what == "execute() of victim was cancelled, and nobody had asked for its end"


def test_an_event_task_that_is_told_to_be_over_before_its_event_is_found(
    backend: Backend,
) -> None:
    def make() -> Scheduler:
        scheduler = build()

        @scheduler.background()
        async def liar() -> None:
            await sleep(2.5)
            (task,) = (task for task in scheduler.status() if task.name == "listener")
            event = StateChanged(
                task_id=task.task_id,
                task_name=task.name,
                group=None,
                time=current_time(),
                previous=TaskState.RUNNING,
                state=TaskState.COMPLETED,
            )
            await scheduler.publish(TASK_EVENTS, event)

        return scheduler

    failure = find(make, backend)
    assert failure.kind == "no_silent_end"
    assert failure.what == "listener has ended, and its event numbers (int) has not"


def test_a_failure_that_passes_for_an_end_is_found(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make() -> Scheduler:
        scheduler = Scheduler()

        @scheduler.background(name="failing", restart=RestartPolicy(mode="never"))
        async def failing() -> None:
            raise RuntimeError("as it had to be")

        return scheduler

    simulate(make, seeds=[1], backends=[backend], faults=Faults(most=0))
    monkeypatch.setattr("orchestrio._workers.run.error_in", lambda error: None)
    failure = find(make, backend)
    assert failure.kind == "no_silent_end"
    assert failure.what == "failing is told to have ended, and its execute() has not returned"


def test_a_stray_cancellation_that_nobody_hears_of_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def make() -> Scheduler:
        scheduler = Scheduler()
        scheduler.background(restart=RestartPolicy(max_restarts=None))(anyio.sleep_forever)
        return scheduler

    monkeypatch.setattr(logging.Logger, "warning", lambda *args, **options: None)
    strays = Faults(crashes=0, delays=0, cancellations=0, commands=0)
    failure = find(make, "asyncio", seeds=range(20), faults=strays)
    assert failure.kind == "errors_told_once"
    assert "stray 1, in call 1 of sleep_forever.execute()" in failure.what


def test_a_stray_cancellation_of_a_handler_without_a_dead_letter_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def make() -> Scheduler:
        scheduler = Scheduler()
        scheduler.add_channel(NUMBERS)
        scheduler.register_event_task(Listener(), name="listener", on_error="skip")

        @scheduler.background(restart=RestartPolicy(max_restarts=None))
        async def source() -> None:
            for number in range(5):
                await scheduler.publish(NUMBERS, number)

        return scheduler

    strays = Faults(crashes=0, delays=0, cancellations=0, commands=0)
    simulate(make, backends=["asyncio"], seeds=range(40), faults=strays)
    monkeypatch.setattr(Publisher, "publish", lambda self, message: None)
    failure = find(make, "asyncio", seeds=range(40), faults=strays)
    assert failure.kind == "dead_letters"
    assert "1 message failed for good in listener, and its dead letters are 0" in failure.what


# -- commands --------------------------------------------------------------------------------


def grouped() -> Scheduler:
    scheduler = Scheduler()
    storage = scheduler.group("storage")
    storage.register_background_task(Slow(), name="database", restart=RestartPolicy())
    scheduler.register_background_task(Slow(), name="web")
    return scheduler


COMMANDS = Faults(crashes=0, delays=0, cancellations=0, strays=0)


async def do_nothing(*args: Any) -> None:
    await checkpoint()


async def only_say_so(self: Group) -> None:
    await checkpoint()
    self._branch.end()


def test_commands_that_do_what_they_say_break_no_rule(backend: Backend) -> None:
    simulate(grouped, seeds=range(20), backends=[backend], faults=COMMANDS, limit=60)


@pytest.mark.parametrize(
    ("whose", "command", "words"),
    [
        (Scheduler, "stop_task", "was stopped, and is "),
        (Scheduler, "remove_task", "was removed, and is "),
        (Scheduler, "restart_task", "was restarted, and has not begun again: it is "),
        (Group, "stop", "database was stopped, and is "),
        (Group, "remove", "storage was removed, and is still there"),
        (Group, "restart", "database was restarted, and has not begun again: it is "),
    ],
)
def test_a_command_that_does_not_do_what_it_says_is_found(
    whose: type, command: str, words: str, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whose, command, do_nothing)
    failure = find(grouped, backend, seeds=range(200), faults=COMMANDS)
    assert failure.kind == "done_as_told"
    assert words in failure.what


async def test_a_task_that_was_given_up_is_as_good_as_one_that_is_down() -> None:
    ledger = Ledger()
    deaf = TaskSnapshot(
        task_id=TaskId("deaf#1"),
        name="deaf",
        kind="background",
        state=TaskState.STOPPING,
        metadata=TaskMetadata(),
    )
    see_that_they_are_down(ledger, [deaf.model_copy(update={"stuck": True})], 0)
    assert not ledger.violations
    see_that_they_are_down(ledger, [deaf], 0)
    assert ledger.violations == [("done_as_told", "deaf was stopped, and is stopping")]


async def test_a_restart_of_a_group_may_leave_out_whom_somebody_removes() -> None:
    scheduler = Scheduler()
    removed = anyio.Event()

    class Lasting(BackgroundTask):
        async def execute(self) -> None:
            await sleep_forever()

        async def shutdown(self) -> None:
            await removed.wait()

    scheduler.group("storage").register_background_task(Lasting(), name="database")
    ledger = Ledger()
    async with scheduler, anyio.create_task_group() as group:
        await scheduler.start()
        commands = Commands(scheduler, group, ledger, removed.set, lambda: None)
        commands.start(Command("remove", "database"))
        while scheduler.status()[0].state is not TaskState.STOPPING:
            await checkpoint()
        await commands.obey(Command("restart", group="storage"))
        removed.set()
    assert any("command 2 is done" in line for line in ledger.trace)
    assert not ledger.violations


def awaiting() -> Scheduler:
    """Return a scheduler with a task that backs off for longer than another may wait for it."""
    scheduler = Scheduler()
    often = RestartPolicy(mode="always", max_restarts=None, initial_delay=9, jitter=0)

    @scheduler.background(name="database", restart=often)
    async def database() -> None:
        await sleep(1)

    storefront = scheduler.group("storefront")
    storefront.register_background_task(
        Slow(),
        name="web",
        depends_on=["database"],
        start_timeout=2,
        restart=RestartPolicy(mode="never"),
    )
    return scheduler


def test_a_task_that_was_restarted_and_has_failed_to_start_breaks_no_rule(backend: Backend) -> None:
    simulate(awaiting, seeds=range(60), backends=[backend], faults=COMMANDS, limit=60)


@pytest.mark.parametrize(("whose", "command"), [(Scheduler, "restart_task"), (Group, "restart")])
def test_a_failure_to_start_does_not_hide_that_a_task_was_not_restarted(
    whose: type, command: str, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whose, command, do_nothing)
    failure = find(awaiting, backend, seeds=range(200), faults=COMMANDS)
    assert failure.kind == "done_as_told"
    assert "was restarted, and has not begun again: it is " in failure.what


def test_a_task_that_a_removed_group_leaves_behind_is_found(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def forget(self: Group) -> None:
        await checkpoint()
        self._supervisor.forget_group(self._branch)

    monkeypatch.setattr(Group, "remove", forget)
    failure = find(grouped, backend, seeds=range(200), faults=COMMANDS)
    assert failure.kind == "done_as_told"
    assert "database was removed, and is " in failure.what


def test_a_task_that_begins_in_a_group_that_has_ended_is_found(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make() -> Scheduler:
        scheduler = Scheduler()
        storage = scheduler.group("storage")

        @storage.background(name="brief", restart=RestartPolicy(mode="always", max_restarts=2))
        async def brief() -> None:
            await sleep(2)

        @scheduler.background()
        async def somebody() -> None:
            await storage.stop()
            await sleep(5)

        return scheduler

    simulate(make, seeds=[1], backends=[backend], faults=Faults(most=0), limit=60)
    monkeypatch.setattr(Group, "stop", only_say_so)
    failure = find(make, backend)
    assert failure.kind == "nothing_left"
    assert failure.what == "brief begins in storage, which has ended"


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
