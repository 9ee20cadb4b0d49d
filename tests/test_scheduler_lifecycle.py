"""The lifecycle rules 1 to 7 of the scheduler, one behaviour a test."""

from __future__ import annotations

import logging
import math
from contextvars import ContextVar
from typing import Literal

import anyio
import pytest
from anyio import CancelScope, Event, create_task_group
from support import WORDS, TroubleError, settle
from support.hooks import (
    Brief,
    Broken,
    Failing,
    Forever,
    Messy,
    SlowToStart,
    SlowToStop,
    Stuck,
)
from trio.testing import MockClock

from orchestrio import (
    BackgroundTask,
    ChannelConfig,
    EventTask,
    InvalidChannelError,
    LifecycleError,
    Scheduler,
    TaskExecutionError,
    TaskInitializationError,
    TaskShutdownError,
    TaskState,
    Topic,
)


class Listener(EventTask[str]):
    """Writes down what it hears, and its hooks if it is given a list for them."""

    def __init__(self, log: list[str] | None = None) -> None:
        self.log = [] if log is None else log
        self.seen: list[str] = []

    @property
    def subscribed_event(self) -> Topic[str]:
        return WORDS

    async def handle_event(self, event: str) -> None:
        self.seen.append(event)

    async def shutdown(self) -> None:
        self.log.append("shutdown listener")


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def scheduler() -> Scheduler:
    scheduler = Scheduler()
    scheduler.add_channel(WORDS)
    return scheduler


# -- rule 1: start ---------------------------------------------------------------------------------


async def test_all_tasks_are_initialised_in_order_before_any_executes(
    scheduler: Scheduler, log: list[str]
) -> None:
    for name in "abc":
        scheduler.register_background_task(Forever(name, log))
    async with scheduler:
        await scheduler.start()
        assert log == ["initialize a", "initialize b", "initialize c"]
        await settle()
        assert sorted(log[3:]) == ["execute a", "execute b", "execute c"]


async def test_a_slow_initialize_holds_up_those_that_follow(
    scheduler: Scheduler, log: list[str]
) -> None:
    slow = SlowToStart("slow", log)
    scheduler.register_background_task(slow)
    scheduler.register_background_task(Forever("next", log))
    async with scheduler, create_task_group() as group:
        group.start_soon(scheduler.start)
        await settle()
        assert log == []
        slow.gate.set()
        await settle()
        assert log[:2] == ["initialize slow", "initialize next"]


async def test_a_task_starts_after_those_it_depends_on(
    scheduler: Scheduler, log: list[str]
) -> None:
    scheduler.register_background_task(Forever("web", log), depends_on=["database", "cache"])
    scheduler.register_background_task(Forever("other", log))
    scheduler.register_background_task(Forever("cache", log), depends_on=["database"])
    scheduler.register_background_task(Forever("database", log))
    async with scheduler:
        await scheduler.start()
        await scheduler.shutdown()
    starts = [line for line in log if line.startswith("initialize")]
    stops = [line.split()[1] for line in log if line.startswith("shutdown")]
    assert starts == [f"initialize {name}" for name in ("other", "database", "cache", "web")]
    assert stops == ["web", "cache", "database", "other"]


async def test_a_circle_of_dependencies_is_an_error_before_anything_starts(
    scheduler: Scheduler, log: list[str]
) -> None:
    scheduler.register_background_task(Forever("hen", log), depends_on=["egg"])
    scheduler.register_background_task(Forever("egg", log), depends_on=["hen"])
    async with scheduler:
        with pytest.raises(LifecycleError, match=r"circle: .*'hen'.*'egg'"):
            await scheduler.start()
    assert log == []


async def test_an_unknown_dependency_is_an_error_that_names_near_ones(
    scheduler: Scheduler, log: list[str]
) -> None:
    scheduler.register_background_task(Forever("database", log))
    scheduler.register_background_task(Forever("web", log), depends_on=["databse"])
    async with scheduler:
        with pytest.raises(LifecycleError, match=r"'web'.*'databse'.*Did you mean 'database'"):
            await scheduler.start()
    assert log == []


async def test_what_is_published_during_initialize_is_not_missed(scheduler: Scheduler) -> None:
    class Early(BackgroundTask):
        async def initialize(self) -> None:
            assert await scheduler.publish(WORDS, "early") == 1

        async def execute(self) -> None:
            await scheduler.publish(WORDS, "at start")

    listener = Listener()
    scheduler.register_background_task(Early())
    scheduler.register_event_task(listener)
    async with scheduler:
        await scheduler.start()
        await settle()
        assert listener.seen == ["early", "at start"]


async def test_an_event_without_a_channel_stops_start_and_can_be_mended(
    scheduler: Scheduler, log: list[str]
) -> None:
    scheduler.bus.remove_channel(WORDS)
    scheduler.register_background_task(Forever("first", log))
    listener = Listener()
    scheduler.register_event_task(listener)
    async with scheduler:
        with pytest.raises(InvalidChannelError, match="words"):
            await scheduler.start()
        assert log == []
        scheduler.add_channel(WORDS)
        await scheduler.start()
        await scheduler.publish(WORDS, "mended")
    assert listener.seen == ["mended"]


async def test_start_twice_is_a_lifecycle_error(scheduler: Scheduler) -> None:
    async with scheduler:
        await scheduler.start()
        with pytest.raises(LifecycleError, match="started before"):
            await scheduler.start()


async def test_start_outside_the_block_says_what_to_do(scheduler: Scheduler) -> None:
    with pytest.raises(LifecycleError, match="async with"):
        await scheduler.start()


async def test_a_scheduler_lives_once(scheduler: Scheduler) -> None:
    async with scheduler:
        pass
    with pytest.raises(LifecycleError, match="lives once"):
        async with scheduler:
            pass
    with pytest.raises(LifecycleError, match="lives once"):
        await scheduler.run()


async def test_of_two_runs_begun_at_once_the_second_is_a_lifecycle_error(
    scheduler: Scheduler,
) -> None:
    scheduler.background(anyio.sleep_forever)
    errors: list[LifecycleError] = []

    async def run() -> None:
        try:
            await scheduler.run()
        except LifecycleError as error:
            errors.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        group.start_soon(run)
        await anyio.wait_all_tasks_blocked()
        assert scheduler.health().ready
        await scheduler.shutdown()
    assert [str(error).partition(":")[0] for error in errors] == [
        "the scheduler has been entered already"
    ]


async def test_a_shutdown_while_the_scheduler_is_entered_is_not_lost(scheduler: Scheduler) -> None:
    scheduler.background(anyio.sleep_forever)
    entering = anyio.Event()

    async def run() -> None:
        entering.set()
        await scheduler.run()

    async with anyio.create_task_group() as group:

        async def stop() -> None:
            await entering.wait()
            await scheduler.shutdown()
            stopped.set()

        stopped = anyio.Event()
        group.start_soon(stop)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(run)
        with anyio.move_on_after(5):
            await stopped.wait()
        await anyio.wait_all_tasks_blocked()
        assert all(task.state is not TaskState.RUNNING for task in scheduler.status())
        group.cancel_scope.cancel()


async def test_to_enter_a_scheduler_in_its_own_block_is_a_lifecycle_error(
    scheduler: Scheduler,
) -> None:
    async with scheduler:
        await scheduler.start()
        with pytest.raises(LifecycleError, match="entered already"):
            async with scheduler:
                pass
        assert scheduler.health().ready, "it does not mind"


async def test_run_sync_in_an_event_loop_says_what_to_await(scheduler: Scheduler) -> None:
    with pytest.raises(LifecycleError, match=r"await scheduler\.run\(\)"):
        scheduler.run_sync()
    await scheduler.run()


# -- rule 2: a failing start -----------------------------------------------------------------------


async def test_a_failing_initialize_shuts_down_what_was_initialised_in_reverse(
    scheduler: Scheduler, log: list[str]
) -> None:
    scheduler.register_background_task(Forever("a", log))
    scheduler.register_background_task(Forever("b", log))
    broken = scheduler.register_background_task(Broken("broken", log))
    scheduler.register_background_task(Forever("never", log))
    async with scheduler:
        with pytest.raises(TaskInitializationError, match="'broken'.*no disk") as caught:
            await scheduler.start()
        assert caught.value.task_id == broken
        assert caught.value.task_name == "broken"
        assert isinstance(caught.value.__cause__, TroubleError)
        assert log == ["initialize a", "initialize b", "shutdown b", "shutdown a"]
        assert [shot.state for shot in scheduler.status()] == [
            TaskState.STOPPED,
            TaskState.STOPPED,
            TaskState.FAILED,
            TaskState.STOPPED,
        ]


async def test_a_failing_start_leaves_the_block_as_it_is_if_nobody_catches_it(
    scheduler: Scheduler, log: list[str]
) -> None:
    scheduler.register_background_task(Broken("broken", log))
    with pytest.raises(TaskInitializationError):
        async with scheduler:
            await scheduler.start()


async def test_initialize_that_outlasts_start_timeout_fails(
    scheduler: Scheduler, log: list[str]
) -> None:
    scheduler.register_background_task(Stuck("stuck", log), start_timeout=0)
    async with scheduler:
        with pytest.raises(TaskInitializationError, match="start_timeout .0 s") as caught:
            await scheduler.start()
    assert isinstance(caught.value.__cause__, TimeoutError)


async def test_a_shutdown_that_fails_after_a_failed_start_is_reported_too(
    scheduler: Scheduler, log: list[str]
) -> None:
    scheduler.register_background_task(Messy("messy", log))
    scheduler.register_background_task(Broken("broken", log))
    with pytest.raises(TaskInitializationError, match="broken") as caught:
        async with scheduler:
            await scheduler.start()
    assert [error.task_name for error in caught.value.shutdown_errors] == ["messy"]


async def test_cancelling_start_shuts_down_what_was_initialised(
    scheduler: Scheduler, log: list[str]
) -> None:
    scheduler.register_background_task(Forever("a", log))
    scheduler.register_background_task(Stuck("stuck", log))
    async with scheduler, create_task_group() as group:
        group.start_soon(scheduler.start)
        await settle()
        assert log == ["initialize a"]
        group.cancel_scope.cancel()
    assert log == ["initialize a", "shutdown a"]


async def test_a_stop_asked_for_during_start_ends_it(scheduler: Scheduler, log: list[str]) -> None:
    scheduler.register_background_task(Forever("a", log))
    scheduler.register_background_task(Stuck("stuck", log))
    outcome: list[str] = []

    async def start() -> None:
        with pytest.raises(LifecycleError, match="stopped while it was starting"):
            await scheduler.start()
        outcome.append("told")

    async with scheduler, create_task_group() as group:
        group.start_soon(start)
        await settle()
        await scheduler.shutdown()
    assert log == ["initialize a", "shutdown a"]
    assert outcome == ["told"]


# -- rule 3: execute -------------------------------------------------------------------------------


async def test_returning_from_execute_is_success(scheduler: Scheduler, log: list[str]) -> None:
    brief = scheduler.register_background_task(Brief("brief", log))
    scheduler.register_background_task(Forever("other", log))
    async with scheduler:
        await scheduler.start()
        shot = await scheduler.wait_stopped(brief)
        assert shot.state is TaskState.COMPLETED
        await settle()
        assert "shutdown brief" not in log, "its turn comes with everybody's"
    assert log[-2:] == ["shutdown other", "shutdown brief"]


async def test_a_failing_task_stops_everything_and_cancels_the_body(
    scheduler: Scheduler, log: list[str]
) -> None:
    scheduler.register_background_task(Forever("a", log))
    failing = scheduler.register_background_task(Failing("failing", log))
    with pytest.raises(TaskExecutionError, match="'failing' failed.*execute.*boom") as caught:
        async with scheduler:
            await scheduler.start()
            await anyio.sleep_forever()
    assert caught.value.task_id == failing
    assert isinstance(caught.value.__cause__, TroubleError)
    assert log[-2:] == ["shutdown failing", "shutdown a"]
    assert scheduler.status(failing).state is TaskState.FAILED
    assert "boom" in str(scheduler.status(failing).error)


async def test_several_failures_arrive_as_a_group(scheduler: Scheduler, log: list[str]) -> None:
    scheduler.register_background_task(Failing("a", log))
    scheduler.register_background_task(Failing("b", log))
    with pytest.raises(ExceptionGroup) as caught:
        async with scheduler:
            await scheduler.start()
            await anyio.sleep_forever()
    assert all(isinstance(error, TaskExecutionError) for error in caught.value.exceptions)
    assert {getattr(error, "task_name", "") for error in caught.value.exceptions} == {"a", "b"}


async def test_a_failure_is_raised_to_whoever_runs_the_scheduler(
    scheduler: Scheduler, log: list[str]
) -> None:
    scheduler.register_background_task(Failing("failing", log))
    async with scheduler:
        with pytest.raises(TaskExecutionError):
            await scheduler.run()
        await settle()  # and the body is not cancelled: it was told


async def test_a_failure_does_not_hide_an_error_of_the_body(
    scheduler: Scheduler, log: list[str]
) -> None:
    class FailingLate(Forever):
        async def execute(self) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                raise TroubleError("at the end")

    scheduler.register_background_task(FailingLate("failing", log))
    with pytest.raises(ExceptionGroup) as caught:
        async with scheduler:
            await scheduler.start()
            await settle()
            raise ValueError("of the body")
    assert [type(error) for error in caught.value.exceptions] == [ValueError, TaskExecutionError]


async def test_an_error_of_the_body_passes_through_unwrapped(
    scheduler: Scheduler, log: list[str]
) -> None:
    scheduler.register_background_task(Forever("a", log))
    with pytest.raises(ValueError, match="of the body"):
        async with scheduler:
            await scheduler.start()
            raise ValueError("of the body")
    assert log[-1] == "shutdown a"


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
async def test_a_task_that_raises_a_base_exception_stops_all_in_order(
    scheduler: Scheduler, log: list[str], kind: type[BaseException]
) -> None:
    class Exiting(Forever):
        async def execute(self) -> None:
            raise kind

    scheduler.register_background_task(Forever("a", log))
    scheduler.register_background_task(Exiting("exiting", log))
    with pytest.raises(kind):
        async with scheduler:
            await scheduler.start()
            await anyio.sleep_forever()
    assert log[-2:] == ["shutdown exiting", "shutdown a"]


# -- rule 5: shutdown ------------------------------------------------------------------------------


async def test_leaving_the_block_shuts_down_in_reverse_order(
    scheduler: Scheduler, log: list[str]
) -> None:
    for name in "abc":
        scheduler.register_background_task(Brief(name, log))
    async with scheduler:
        await scheduler.start()
    assert log[-3:] == ["shutdown c", "shutdown b", "shutdown a"]


async def test_producers_stop_first_and_what_they_published_is_handled(
    scheduler: Scheduler, log: list[str]
) -> None:
    class LastWords(Forever):
        async def execute(self) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                for number in range(100):
                    scheduler.bus.publish_nowait(WORDS, str(number))
                log.append("stopped producing")

    class Slow(Listener):
        async def handle_event(self, event: str) -> None:
            await settle(2)
            await super().handle_event(event)

    listener = Slow(log)
    scheduler.register_event_task(listener)
    scheduler.register_background_task(LastWords("words", log))
    async with scheduler:
        await scheduler.start()
        await settle()
    assert listener.seen == [str(number) for number in range(100)]
    assert log == [
        "initialize words",
        "stopped producing",
        "shutdown words",
        "shutdown listener",
    ]


async def test_a_chain_of_handlers_is_drained_to_its_end(scheduler: Scheduler) -> None:
    numbers = Topic("numbers", int)
    scheduler.add_channel(numbers, ChannelConfig(capacity=1000))
    got: list[int] = []

    # The end of the chain is registered first: order of registration must not matter.
    @scheduler.on(numbers)
    async def last(number: int) -> None:
        await settle(2)
        got.append(number)

    @scheduler.on(WORDS)
    async def first(word: str) -> None:
        await settle(10)  # meanwhile, the last one has nothing to do
        await scheduler.publish(numbers, int(word))

    async with scheduler:
        await scheduler.start()
        for number in range(20):
            await scheduler.publish(WORDS, str(number))
    assert got == list(range(20))


async def test_draining_ends_at_drain_timeout_and_says_what_is_left(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    class StuckListener(Listener):
        async def handle_event(self, event: str) -> None:
            await anyio.sleep_forever()

    task = scheduler.register_event_task(StuckListener(), drain_timeout=0)
    async with scheduler:
        await scheduler.start()
        for word in ("one", "two", "three"):
            await scheduler.publish(WORDS, word)
        await settle()
    shot = scheduler.status(task)
    assert (shot.handled, shot.failed, shot.unread) == (0, 1, 2)
    assert "ended with 2 messages unhandled" in caplog.text


async def test_shutdown_errors_arrive_as_one_group_and_all_hooks_run(
    scheduler: Scheduler, log: list[str]
) -> None:
    class MessyAfterAll(Forever):
        async def shutdown(self) -> None:
            await super().shutdown()
            raise TroubleError(self.name)

    for name in "abc":
        scheduler.register_background_task(MessyAfterAll(name, log))
    async with scheduler:
        await scheduler.start()
        with pytest.raises(ExceptionGroup) as caught:
            await scheduler.shutdown()
    assert [type(error) for error in caught.value.exceptions] == [TaskShutdownError] * 3
    assert [str(error.__cause__) for error in caught.value.exceptions] == ["c", "b", "a"]
    assert log[-3:] == ["shutdown c", "shutdown b", "shutdown a"]


async def test_a_single_shutdown_error_is_a_group_as_well(
    scheduler: Scheduler, log: list[str]
) -> None:
    scheduler.register_background_task(Messy("messy", log))
    with pytest.raises(ExceptionGroup, match="did not shut down well") as caught:
        async with scheduler:
            await scheduler.start()
    assert isinstance(caught.value.exceptions[0], TaskShutdownError)


async def test_shutdown_is_cut_at_shutdown_timeout(scheduler: Scheduler, log: list[str]) -> None:
    class Endless(Forever):
        async def shutdown(self) -> None:
            await anyio.sleep_forever()

    scheduler.register_background_task(Forever("a", log))
    scheduler.register_background_task(Endless("endless", log), shutdown_timeout=0)
    async with scheduler:
        await scheduler.start()
        with pytest.raises(ExceptionGroup) as caught:
            await scheduler.shutdown()
    (error,) = caught.value.exceptions
    assert isinstance(error, TaskShutdownError)
    assert error.task_name == "endless"
    assert "shutdown_timeout (0 s)" in str(error)
    assert log[-1] == "shutdown a"


async def test_shutdown_without_a_limit_is_possible(scheduler: Scheduler, log: list[str]) -> None:
    scheduler.register_background_task(Forever("a", log), shutdown_timeout=math.inf)
    async with scheduler:
        await scheduler.start()
    assert log[-1] == "shutdown a"


async def test_shutdown_twice_and_from_two_tasks_is_the_same_as_once(
    scheduler: Scheduler, log: list[str]
) -> None:
    scheduler.register_background_task(Forever("a", log))
    async with scheduler:
        await scheduler.start()
        async with create_task_group() as group:
            group.start_soon(scheduler.shutdown)
            group.start_soon(scheduler.shutdown)
        await scheduler.shutdown()
    assert log.count("shutdown a") == 1


async def test_shutdown_before_anything_is_entered_does_nothing(scheduler: Scheduler) -> None:
    await scheduler.shutdown()
    async with scheduler:
        await scheduler.start()


async def test_nothing_starts_after_shutdown(scheduler: Scheduler, log: list[str]) -> None:
    async with scheduler:
        await scheduler.shutdown()
        with pytest.raises(LifecycleError):
            await scheduler.start()
        with pytest.raises(LifecycleError, match="takes no new tasks"):
            scheduler.register_background_task(Forever("late", log))


async def test_a_task_may_ask_for_the_stop_of_its_own_scheduler(
    scheduler: Scheduler, log: list[str]
) -> None:
    class Finisher(Forever):
        async def execute(self) -> None:
            await scheduler.shutdown()
            log.append("asked")
            await anyio.sleep_forever()

    scheduler.register_background_task(Finisher("finisher", log))
    with anyio.fail_after(10):
        await scheduler.run()
    assert log[-2:] == ["asked", "shutdown finisher"]


async def test_a_handler_may_ask_for_the_stop_of_its_own_scheduler(scheduler: Scheduler) -> None:
    seen: list[str] = []

    @scheduler.on(WORDS)
    async def handle(word: str) -> None:
        seen.append(word)
        await scheduler.shutdown()

    async with scheduler:
        await scheduler.start()
        for word in ("one", "two"):
            await scheduler.publish(WORDS, word)
        with anyio.fail_after(10):
            await scheduler.shutdown()
    assert seen == ["one", "two"], "what was published is handled all the same"


async def test_cancelling_the_call_of_shutdown_does_not_stop_the_stop(
    scheduler: Scheduler, log: list[str]
) -> None:
    slow = SlowToStop("slow", log)
    scheduler.register_background_task(slow)
    async with scheduler:
        await scheduler.start()
        with CancelScope() as scope:
            async with create_task_group() as group:
                group.start_soon(scheduler.shutdown)
                await settle()
                scope.cancel()
        slow.gate.set()
    assert log[-1] == "shutdown slow"


async def test_a_task_that_ignores_its_cancellation_is_named(
    scheduler: Scheduler, log: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    gate = Event()

    class Stubborn(Forever):
        async def execute(self) -> None:
            with CancelScope(shield=True):
                await gate.wait()

    class Opener(Forever):
        async def shutdown(self) -> None:
            gate.set()

    scheduler.register_background_task(Stubborn("stubborn", log), stop_timeout=0)
    scheduler.register_background_task(Opener("opener", log))
    async with scheduler:
        await scheduler.start()
        await settle()
        with caplog.at_level(logging.WARNING), pytest.raises(ExceptionGroup) as caught:
            await scheduler.shutdown()
    (error,) = caught.value.exceptions
    assert isinstance(error, TaskShutdownError)
    assert error.task_name == "stubborn"
    assert "stop_timeout (0 s)" in str(error)
    assert "'stubborn'" in caplog.text
    assert log[-1] == "shutdown stubborn", "its hook runs when it ends after all"


# -- rule 6: cancellation from outside ---------------------------------------------------------------


async def test_cancelling_the_block_from_outside_still_stops_in_order(
    scheduler: Scheduler, log: list[str]
) -> None:
    class Shielded(Forever):
        async def shutdown(self) -> None:
            await settle(3)
            await super().shutdown()

    listener = Listener(log)
    scheduler.register_event_task(listener)
    scheduler.register_background_task(Shielded("a", log))
    scheduler.register_background_task(Shielded("b", log))
    with CancelScope() as scope:
        async with scheduler:
            await scheduler.start()
            await scheduler.publish(WORDS, "last")
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert log[-3:] == ["shutdown b", "shutdown a", "shutdown listener"]
    assert listener.seen == ["last"]


async def test_entering_in_a_cancelled_scope_starts_nothing(
    scheduler: Scheduler, log: list[str]
) -> None:
    scheduler.register_background_task(Forever("a", log))
    with CancelScope() as scope:
        scope.cancel()
        async with scheduler:
            await scheduler.start()
    assert scope.cancelled_caught
    assert log == [] or log == ["initialize a", "shutdown a"]


async def test_a_failure_wins_over_a_cancellation(scheduler: Scheduler, log: list[str]) -> None:
    class FailingLate(Forever):
        async def execute(self) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                raise TroubleError("on the way out")

    scheduler.register_background_task(FailingLate("failing", log))
    with pytest.raises(TaskExecutionError), CancelScope() as scope:
        async with scheduler:
            await scheduler.start()
            await settle()
            scope.cancel()
            await anyio.sleep_forever()


# -- rule 7: context and names -----------------------------------------------------------------------

tenant: ContextVar[str] = ContextVar("tenant", default="nobody")
region: ContextVar[str] = ContextVar("region", default="nowhere")


class Looker(BackgroundTask):
    def __init__(self) -> None:
        self.found: list[str] = []

    async def initialize(self) -> None:
        self.found.append(f"{tenant.get()} {region.get()}")

    async def execute(self) -> None:
        self.found.append(anyio.get_current_task().name or "")

    async def shutdown(self) -> None:
        self.found.append(f"{tenant.get()} {region.get()}")


async def test_context_variables_of_registration_and_of_start_are_visible(
    scheduler: Scheduler,
) -> None:
    task = Looker()
    token = tenant.set("registered")
    scheduler.register_background_task(task, name="looker")
    tenant.reset(token)
    async with scheduler:
        region.set("started")
        await scheduler.start()
        await settle()
        await scheduler.shutdown()
    assert task.found == ["registered started", "looker", "registered started"]


async def test_what_initialize_sets_is_visible_in_the_other_hooks(scheduler: Scheduler) -> None:
    class Setter(Looker):
        async def initialize(self) -> None:
            tenant.set("initialised")

    task = Setter()
    scheduler.register_background_task(task)
    async with scheduler:
        await scheduler.start()
    assert task.found[-1] == "initialised nowhere"
    assert tenant.get() == "nobody", "and stays inside"


# -- tasks that will not end ---------------------------------------------------------------------------


async def test_a_task_that_is_stuck_does_not_hold_up_the_shutdown_of_the_others(
    scheduler: Scheduler, log: list[str]
) -> None:
    gate = Event()

    class Opener(Forever):
        async def shutdown(self) -> None:
            await super().shutdown()
            gate.set()

    class Stubborn(Forever):
        async def execute(self) -> None:
            with CancelScope(shield=True):
                await gate.wait()

    scheduler.register_background_task(Opener("opener", log))
    scheduler.register_background_task(Stubborn("stubborn", log), stop_timeout=0)
    with anyio.fail_after(10), pytest.raises(ExceptionGroup):
        async with scheduler:
            await scheduler.start()
            await settle()
    assert log[-2:] == ["shutdown opener", "shutdown stubborn"]


def test_a_shutdown_that_ignores_its_cancellation_is_given_up() -> None:
    log: list[str] = []
    gate: list[Event] = []

    class Opener(Forever):
        async def shutdown(self) -> None:
            await super().shutdown()
            gate[0].set()

    class Stubborn(Forever):
        async def shutdown(self) -> None:
            with CancelScope(shield=True):
                await gate[0].wait()
            await super().shutdown()

    async def main() -> None:
        gate.append(Event())
        scheduler = Scheduler()
        scheduler.register_background_task(Opener("opener", log))
        scheduler.register_background_task(Stubborn("stubborn", log), shutdown_timeout=5)
        with pytest.raises(ExceptionGroup) as caught:
            async with scheduler:
                await scheduler.start()
                await settle()
        (error,) = caught.value.exceptions
        assert isinstance(error, TaskShutdownError)
        assert "ignores its cancellation" in str(error)
        assert anyio.current_time() - began == pytest.approx(6)

    clock = MockClock(autojump_threshold=0)
    began = clock.current_time()
    anyio.run(main, backend="trio", backend_options={"clock": clock})
    assert log[-2:] == ["shutdown opener", "shutdown stubborn"]


@pytest.mark.parametrize("later", ["asyncio", "trio"])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_what_has_stopped_may_be_stopped_again_in_any_event_loop(
    backend: Literal["asyncio", "trio"], later: str
) -> None:
    scheduler = Scheduler()
    scheduler.run_sync(backend)
    anyio.run(scheduler.shutdown, backend=later)
