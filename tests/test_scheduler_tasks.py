"""What single tasks do under a scheduler: handlers, workers, stop, restart, remove, registration."""

from __future__ import annotations

import enum
import gc
import logging
import weakref
from collections.abc import Awaitable, Callable
from itertools import pairwise

import anyio
import pytest
from anyio import Event, create_task_group, from_thread, to_thread
from support import NUMBERS, TroubleError, settle
from support.hooks import Broken, Collector, Forever, Messy, SlowToStart, SlowToStop, Stuck

from orchestrio import (
    ChannelConfig,
    InvalidChannelError,
    LifecycleError,
    Scheduler,
    TaskExecutionError,
    TaskId,
    TaskInitializationError,
    TaskMetadata,
    TaskNotFoundError,
    TaskShutdownError,
    TaskState,
    Topic,
)


@pytest.fixture
def scheduler() -> Scheduler:
    scheduler = Scheduler()
    scheduler.add_channel(NUMBERS, ChannelConfig(capacity=2048))
    return scheduler


# -- handling ----------------------------------------------------------------------------------------


async def test_every_event_task_gets_every_message_in_order(scheduler: Scheduler) -> None:
    collectors = [Collector() for _ in range(3)]
    for collector in collectors:
        scheduler.register_event_task(collector)
    async with scheduler:
        await scheduler.start()
        for number in range(1000):
            await scheduler.publish(NUMBERS, number)
    for collector in collectors:
        assert collector.seen == list(range(1000))


async def test_a_handler_may_call_its_message_what_it_likes(scheduler: Scheduler) -> None:
    class Adder(Collector):
        async def handle_event(self, number: int) -> None:
            await super().handle_event(number)

    adder = Adder()
    scheduler.register_event_task(adder)
    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 1)
    assert adder.seen == [1]


async def test_a_busy_handler_lets_other_tasks_run(scheduler: Scheduler) -> None:
    progress: list[int] = []
    collector = Collector()
    scheduler.register_event_task(collector)

    @scheduler.background()
    async def bystander() -> None:
        while True:
            progress.append(len(collector.seen))
            await anyio.lowlevel.checkpoint()

    async with scheduler:
        await scheduler.start()
        await settle()
        with scheduler.clone_sender(NUMBERS) as sender:
            sender.send_many_nowait(range(2048))
        await settle()
        await scheduler.shutdown()
    steps = [later - earlier for earlier, later in pairwise(progress)]
    assert max(steps) <= 2 * 256, "at most two batches in a row, if the loop shuffles"


async def test_a_slow_task_is_told_how_much_it_missed_and_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scheduler = Scheduler()
    scheduler.add_channel(NUMBERS, ChannelConfig(capacity=4))
    lags: list[int] = []

    class Slow(Collector):
        async def handle_lag(self, missed: int) -> None:
            lags.append(missed)

    slow = Slow()
    task = scheduler.register_event_task(slow)
    async with scheduler:
        await scheduler.start()
        for number in range(10):
            scheduler.bus.publish_nowait(NUMBERS, number)
    assert slow.seen == [6, 7, 8, 9]
    assert lags == [6]
    shot = scheduler.status(task)
    assert (shot.handled, shot.missed) == (4, 6)
    assert "lagged: 6 messages" in caplog.text


class Payload:
    pass


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("count", [1, 3])
async def test_messages_that_all_have_handled_are_released(concurrency: int, count: int) -> None:
    payloads = Topic("payloads", Payload)
    scheduler = Scheduler()
    scheduler.add_channel(payloads)

    @scheduler.on(payloads, concurrency=concurrency)
    async def handle(payload: Payload) -> None: ...

    async with scheduler:
        await scheduler.start()
        await settle()
        alive: list[weakref.ref[Payload]] = []
        for _ in range(count):
            payload = Payload()
            alive.append(weakref.ref(payload))
            scheduler.bus.publish_nowait(payloads, payload)
            del payload
        await settle()
        gc.collect()
        assert [reference() for reference in alive] == [None] * count


async def test_a_handler_may_publish_its_own_event(scheduler: Scheduler) -> None:
    seen: list[int] = []

    @scheduler.on(NUMBERS)
    async def count_down(number: int) -> None:
        seen.append(number)
        if number:
            await scheduler.publish(NUMBERS, number - 1)

    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 3)
    assert seen == [3, 2, 1, 0]


async def test_a_handler_may_subscribe_to_its_own_event(scheduler: Scheduler) -> None:
    late: list[int] = []

    @scheduler.on(NUMBERS)
    async def handle(number: int) -> None:
        if number == 0:

            @scheduler.on(NUMBERS, name="late")
            async def also(number: int) -> None:
                late.append(number)

    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 0)
        await settle()
        await scheduler.publish(NUMBERS, 1)
    assert late == [1]


async def test_a_handler_that_stops_its_own_task_gets_no_other_message(
    scheduler: Scheduler,
) -> None:
    seen: list[int] = []
    ids: list[TaskId] = []

    class Once(Collector):
        async def handle_event(self, event: int) -> None:
            await scheduler.stop_task(ids[0])
            await settle(2)
            seen.append(event)

    once = Once()
    ids.append(scheduler.register_event_task(once))
    async with scheduler:
        await scheduler.start()
        for number in range(5):
            await scheduler.publish(NUMBERS, number)
        shot = await scheduler.wait_stopped(ids[0])
        await settle()
        assert seen == [0], "the message in hand is finished"
        assert (shot.handled, shot.unread) == (1, 4)
        assert once.hooks == ["initialize", "shutdown"]
        assert await scheduler.publish(NUMBERS, 5) == 0


async def test_an_event_task_whose_channel_is_removed_completes(scheduler: Scheduler) -> None:
    collector = Collector()
    task = scheduler.register_event_task(collector)
    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 1)
        scheduler.bus.remove_channel(NUMBERS)
        shot = await scheduler.wait_stopped(task)
    assert collector.seen == [1]
    assert shot.state is TaskState.COMPLETED


async def test_blocked_publishers_wait_for_a_slow_task_and_nothing_is_lost() -> None:
    scheduler = Scheduler()
    scheduler.add_channel(NUMBERS, ChannelConfig(capacity=2, overflow="block"))
    seen: list[int] = []

    @scheduler.on(NUMBERS)
    async def slow(number: int) -> None:
        await settle(3)
        seen.append(number)

    async with scheduler:
        await scheduler.start()
        for number in range(50):
            await scheduler.publish(NUMBERS, number)
    assert seen == list(range(50))


async def test_a_stopped_task_is_no_receiver_any_more(scheduler: Scheduler) -> None:
    stopped, other = Collector(), Collector()
    task = scheduler.register_event_task(stopped)
    scheduler.register_event_task(other)
    async with scheduler:
        await scheduler.start()
        assert await scheduler.publish(NUMBERS, 1) == 2
        await scheduler.stop_task(task)
        assert await scheduler.publish(NUMBERS, 2) == 1
    assert (stopped.seen, other.seen) == ([1], [1, 2])


async def test_stopping_a_slow_task_frees_a_blocked_publisher() -> None:
    scheduler = Scheduler()
    scheduler.add_channel(NUMBERS, ChannelConfig(capacity=1, overflow="block"))

    class StuckCollector(Collector):
        async def handle_event(self, event: int) -> None:
            await anyio.sleep_forever()

    task = scheduler.register_event_task(StuckCollector(), drain_timeout=0)
    async with scheduler:
        await scheduler.start()
        published: list[int] = []

        async def publish() -> None:
            for number in range(4):
                await scheduler.publish(NUMBERS, number)
                published.append(number)

        async with create_task_group() as group:
            group.start_soon(publish)
            await settle()
            assert published == [0, 1]
            await scheduler.stop_task(task)
    assert published == [0, 1, 2, 3]


# -- on_error ----------------------------------------------------------------------------------------


def fails_on(bad: int, seen: list[int]) -> Callable[[int], Awaitable[None]]:
    async def handler(number: int) -> None:
        if number == bad:
            raise TroubleError(f"bad {number}")
        seen.append(number)

    return handler


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_a_failing_handler_ends_the_run_by_default(
    scheduler: Scheduler, concurrency: int
) -> None:
    seen: list[int] = []
    scheduler.on(NUMBERS, concurrency=concurrency)(fails_on(1, seen))
    with pytest.raises(
        TaskExecutionError, match=r"'handler' failed.*handle_event.*bad 1"
    ) as caught:
        async with scheduler:
            await scheduler.start()
            for number in range(3):
                await scheduler.publish(NUMBERS, number)
            await anyio.sleep_forever()
    assert isinstance(caught.value.__cause__, TroubleError)
    (shot,) = scheduler.status()
    assert shot.failed >= 1
    assert shot.handled + shot.failed + shot.unread == 3


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_skip_goes_on_with_the_next_message_and_counts(
    scheduler: Scheduler, concurrency: int, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[int] = []
    scheduler.on(NUMBERS, on_error="skip", concurrency=concurrency)(fails_on(1, seen))
    async with scheduler:
        await scheduler.start()
        for number in range(4):
            await scheduler.publish(NUMBERS, number)
    assert sorted(seen) == [0, 2, 3]
    (shot,) = scheduler.status()
    assert (shot.state, shot.handled, shot.failed) == (TaskState.STOPPED, 3, 1)
    assert "skipped a message" in caplog.text
    assert "bad 1" in caplog.text


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_stop_ends_the_task_with_a_word_and_the_others_go_on(
    scheduler: Scheduler, concurrency: int, caplog: pytest.LogCaptureFixture
) -> None:
    collector = Collector()
    scheduler.register_event_task(collector)
    stopping = Collector()
    stopping.handle_event = fails_on(1, stopping.seen)  # type: ignore[assignment]
    task = scheduler.register_event_task(
        stopping, name="stopping", on_error="stop", concurrency=concurrency
    )
    async with scheduler:
        await scheduler.start()
        for number in range(3):
            await scheduler.publish(NUMBERS, number)
        shot = await scheduler.wait_stopped(task)
        assert shot.state is TaskState.FAILED
        assert "bad 1" in str(shot.error)
        await scheduler.publish(NUMBERS, 3)
    assert collector.seen == [0, 1, 2, 3]
    assert stopping.hooks == ["initialize", "shutdown"]
    assert "'stopping' stopped, the others go on" in caplog.text


async def test_a_handler_that_always_fails_does_not_starve_the_others(
    scheduler: Scheduler,
) -> None:
    failed_at: list[int] = []
    handled: list[int] = []

    @scheduler.on(NUMBERS, on_error="skip")
    async def failing(number: int) -> None:
        handled.append(number)
        raise TroubleError

    @scheduler.background()
    async def bystander() -> None:
        for _ in range(5):
            failed_at.append(len(handled))
            await anyio.lowlevel.checkpoint()

    async with scheduler:
        await scheduler.start()
        for number in range(100):
            scheduler.bus.publish_nowait(NUMBERS, number)
        await settle()
        assert failed_at[-1] < 100
    assert len(handled) == 100


async def test_an_error_of_a_stream_in_the_handler_is_the_handlers(scheduler: Scheduler) -> None:
    @scheduler.on(NUMBERS)
    async def handler(number: int) -> None:
        raise anyio.EndOfStream

    with pytest.raises(TaskExecutionError) as caught:
        async with scheduler:
            await scheduler.start()
            await scheduler.publish(NUMBERS, 1)
            await anyio.sleep_forever()
    assert isinstance(caught.value.__cause__, anyio.EndOfStream)


# -- concurrency -------------------------------------------------------------------------------------


async def test_workers_of_one_task_share_its_messages(scheduler: Scheduler) -> None:
    gate = Event()
    running: list[int] = []
    done: list[int] = []

    @scheduler.on(NUMBERS, concurrency=3)
    async def work(number: int) -> None:
        running.append(number)
        await gate.wait()
        done.append(number)

    async with scheduler:
        await scheduler.start()
        for number in range(10):
            await scheduler.publish(NUMBERS, number)
        await settle()
        assert sorted(running) == [0, 1, 2], "three at a time"
        (shot,) = scheduler.status()
        assert (shot.handled, shot.failed) == (0, 0)
        gate.set()
    assert sorted(done) == list(range(10)), "each message goes to one worker, none is lost"
    (shot,) = scheduler.status()
    assert (shot.handled, shot.failed, shot.unread) == (10, 0, 0)


async def test_draining_waits_for_messages_in_the_hands_of_workers(scheduler: Scheduler) -> None:
    done: list[int] = []

    @scheduler.on(NUMBERS, concurrency=4)
    async def work(number: int) -> None:
        await settle(10)
        done.append(number)

    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 7)
    assert done == [7]


async def test_workers_whose_task_lags_go_on(caplog: pytest.LogCaptureFixture) -> None:
    scheduler = Scheduler()
    scheduler.add_channel(NUMBERS, ChannelConfig(capacity=2))
    done: list[int] = []

    @scheduler.on(NUMBERS, concurrency=2)
    async def work(number: int) -> None:
        done.append(number)

    async with scheduler:
        await scheduler.start()
        for number in range(5):
            scheduler.bus.publish_nowait(NUMBERS, number)
        await settle()
        await scheduler.publish(NUMBERS, 5)
    assert sorted(done) == [3, 4, 5]
    assert scheduler.status()[0].missed == 3


async def test_several_workers_that_fail_are_all_told_of(scheduler: Scheduler) -> None:
    gate = Event()

    @scheduler.on(NUMBERS, concurrency=2)
    async def work(number: int) -> None:
        await gate.wait()
        raise TroubleError(str(number))

    with pytest.raises(TaskExecutionError) as caught:
        async with scheduler:
            await scheduler.start()
            await scheduler.publish(NUMBERS, 1)
            await scheduler.publish(NUMBERS, 2)
            await settle()
            gate.set()
            await anyio.sleep_forever()
    cause = caught.value.__cause__
    assert isinstance(cause, ExceptionGroup)
    assert len(cause.exceptions) == 2


# -- stop, restart, remove ---------------------------------------------------------------------------


async def test_stop_task_drains_shuts_down_and_leaves_the_others_alone(
    scheduler: Scheduler,
) -> None:
    one, other = Collector(), Collector()
    task = scheduler.register_event_task(one)
    scheduler.register_event_task(other)
    async with scheduler:
        await scheduler.start()
        for number in range(10):
            await scheduler.publish(NUMBERS, number)
        await scheduler.stop_task(task)
        assert one.seen == list(range(10))
        assert one.hooks == ["initialize", "shutdown"]
        assert scheduler.status(task).state is TaskState.STOPPED
        await scheduler.publish(NUMBERS, 10)
        await scheduler.stop_task(task)  # again does nothing
    assert one.seen == list(range(10))
    assert other.seen == list(range(11))
    assert one.hooks == ["initialize", "shutdown"]


async def test_a_background_task_may_stop_itself(scheduler: Scheduler) -> None:
    ids: list[TaskId] = []

    class Quitter(Forever):
        async def execute(self) -> None:
            await scheduler.stop_task(ids[0])
            await anyio.sleep_forever()

    quitter = Quitter()
    ids.append(scheduler.register_background_task(quitter))
    async with scheduler:
        await scheduler.start()
        await scheduler.wait_stopped(ids[0])
        await settle()
        assert quitter.hooks == ["initialize", "shutdown"]


async def test_the_stop_of_a_task_goes_on_if_its_caller_is_cancelled(scheduler: Scheduler) -> None:
    slow = SlowToStop()
    task = scheduler.register_background_task(slow)
    async with scheduler:
        await scheduler.start()
        async with create_task_group() as group:
            group.start_soon(scheduler.stop_task, task)
            await settle()
            group.cancel_scope.cancel()
        slow.gate.set()
        await settle()
        assert slow.hooks[-1] == "shutdown"
        assert scheduler.status(task).state is TaskState.STOPPED


async def test_a_failing_shutdown_of_a_stopped_task_is_raised_there_and_only_there(
    scheduler: Scheduler,
) -> None:
    task = scheduler.register_background_task(Messy())
    async with scheduler:
        await scheduler.start()
        with pytest.raises(TaskShutdownError, match="messy") as caught:
            await scheduler.stop_task(task)
        assert caught.value.task_id == task
        assert "messy" in str(scheduler.status(task).error)


async def test_restart_runs_the_hooks_again_and_keeps_the_subscription(
    scheduler: Scheduler,
) -> None:
    class Restarted(Collector):
        async def shutdown(self) -> None:
            await super().shutdown()
            await scheduler.publish(NUMBERS, 99)  # nobody handles now; it waits

    collector = Restarted()
    task = scheduler.register_event_task(collector)
    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 1)
        await scheduler.restart_task(task)
        assert collector.hooks == ["initialize", "shutdown", "initialize"]
        await scheduler.publish(NUMBERS, 2)
        await settle()
        assert collector.seen == [1, 99, 2]
        shot = scheduler.status(task)
        assert (shot.state, shot.handled) == (TaskState.RUNNING, 3)


async def test_a_stopped_task_can_be_restarted(scheduler: Scheduler) -> None:
    collector, forever = Collector(), Forever()
    event = scheduler.register_event_task(collector)
    background = scheduler.register_background_task(forever)
    async with scheduler:
        await scheduler.start()
        for task in (event, background):
            await scheduler.stop_task(task)
            await scheduler.restart_task(task)
        await scheduler.publish(NUMBERS, 1)
        await settle()
        assert collector.seen == [1]
        assert forever.hooks[-2:] == ["initialize", "execute"]


async def test_a_completed_task_can_be_restarted(scheduler: Scheduler) -> None:
    runs: list[str] = []

    @scheduler.background()
    async def job() -> None:
        runs.append("run")

    scheduler.register_background_task(Forever())
    task = scheduler.registry.get_by_name("job").task_id
    async with scheduler:
        await scheduler.start()
        await scheduler.wait_stopped(task)
        await scheduler.restart_task(task)
        await scheduler.wait_stopped(task)
    assert runs == ["run", "run"]


async def test_a_task_may_restart_itself(scheduler: Scheduler) -> None:
    ids: list[TaskId] = []

    class Again(Forever):
        async def execute(self) -> None:
            await super().execute() if len(self.hooks) > 1 else await scheduler.restart_task(ids[0])

    again = Again()
    ids.append(scheduler.register_background_task(again))
    async with scheduler:
        await scheduler.start()
        await settle(40)
        assert again.hooks == ["initialize", "shutdown", "initialize", "execute"]


async def test_restarting_the_last_task_does_not_end_the_run(scheduler: Scheduler) -> None:
    forever = Forever()
    task = scheduler.register_background_task(forever)
    async with scheduler, create_task_group() as group:
        group.start_soon(scheduler.run)
        await settle()
        await scheduler.restart_task(task)
        await settle()
        assert forever.hooks[-1] == "execute"
        await scheduler.shutdown()


async def test_restart_fails_clearly_where_it_cannot_be_done(scheduler: Scheduler) -> None:
    task = scheduler.register_event_task(Collector())
    with pytest.raises(LifecycleError, match="running"):
        await scheduler.restart_task(task)
    async with scheduler:
        await scheduler.start()
        scheduler.bus.remove_channel(NUMBERS)
        await scheduler.wait_stopped(task)
        with pytest.raises(InvalidChannelError):
            await scheduler.restart_task(task)


async def test_a_restart_whose_initialize_fails_is_a_task_failure(scheduler: Scheduler) -> None:
    class Fragile(Forever):
        async def initialize(self) -> None:
            if self.hooks:
                raise TroubleError("only once")
            await super().initialize()

    task = scheduler.register_background_task(Fragile())
    with pytest.raises(TaskInitializationError, match="only once"):
        async with scheduler:
            await scheduler.start()
            await scheduler.restart_task(task)
            await anyio.sleep_forever()


async def test_a_removed_task_is_stopped_and_its_name_is_free(scheduler: Scheduler) -> None:
    forever = Forever()
    task = scheduler.register_background_task(forever, name="one")
    async with scheduler:
        await scheduler.start()
        await scheduler.remove_task(task)
        assert forever.hooks[-1] == "shutdown"
        assert len(scheduler.registry) == 0
        assert scheduler.status() == []
        with pytest.raises(TaskNotFoundError):
            scheduler.status(task)
        scheduler.register_background_task(Forever(), name="one")
        await settle()
        assert [shot.name for shot in scheduler.status()] == ["one"]


async def test_a_task_removed_before_start_never_starts(scheduler: Scheduler) -> None:
    forever = Forever()
    task = scheduler.register_background_task(forever)
    await scheduler.remove_task(task)
    async with scheduler:
        await scheduler.start()
    assert forever.hooks == []


@pytest.mark.parametrize("remove", [False, True])
async def test_tasks_stopped_during_the_start_do_not_hold_it_up(
    scheduler: Scheduler, remove: bool
) -> None:
    first, last, dropped = Forever(), Forever(), Forever()
    scheduler.register_background_task(first)
    stuck = scheduler.register_background_task(Stuck())
    never = scheduler.register_background_task(dropped)
    scheduler.register_background_task(last)
    end = scheduler.remove_task if remove else scheduler.stop_task
    async with scheduler:
        async with create_task_group() as group:
            group.start_soon(scheduler.start)
            await settle()
            await end(never)
            await end(stuck)
        await settle()
        assert first.hooks == last.hooks == ["initialize", "execute"]
        assert dropped.hooks == []


async def test_a_dependency_that_is_removed_is_not_waited_for(scheduler: Scheduler) -> None:
    dependant = Forever()
    async with scheduler:
        await scheduler.start()
        stuck = scheduler.register_background_task(Stuck(), name="stuck")
        gone = scheduler.register_background_task(Forever(), name="gone")
        scheduler.register_background_task(dependant, depends_on=["stuck", "gone"])
        await settle()
        await scheduler.remove_task(gone)
        await scheduler.remove_task(stuck)
        await settle()
        assert dependant.hooks == ["initialize", "execute"]


async def test_stopping_while_everything_stops_waits_for_that(scheduler: Scheduler) -> None:
    slow = SlowToStop()
    task = scheduler.register_background_task(slow)
    async with scheduler:
        await scheduler.start()
        async with create_task_group() as group:
            group.start_soon(scheduler.shutdown)
            await settle()
            group.start_soon(scheduler.remove_task, task)
            await settle()
            slow.gate.set()
    assert len(scheduler.registry) == 0
    assert slow.hooks.count("shutdown") == 1


async def test_unknown_tasks_are_an_error_everywhere(scheduler: Scheduler) -> None:
    unknown = TaskId("nobody")
    async with scheduler:
        await scheduler.start()
        for method in (
            scheduler.stop_task,
            scheduler.restart_task,
            scheduler.remove_task,
            scheduler.wait_stopped,
        ):
            with pytest.raises(TaskNotFoundError) as caught:
                await method(unknown)
            assert caught.value.task_id == unknown


async def test_a_task_cannot_wait_for_itself(scheduler: Scheduler) -> None:
    ids: list[TaskId] = []
    caught: list[str] = []

    @scheduler.background()
    async def waiter() -> None:
        for wait in (scheduler.wait_stopped(ids[0]), scheduler.run()):
            try:
                await wait
            except LifecycleError as error:
                caught.append(str(error))

    ids.append(scheduler.registry.get_by_name("waiter").task_id)
    async with scheduler:
        await scheduler.start()
        await settle()
    assert len(caught) == 2


def test_on_asyncio_a_cancellation_that_is_not_the_schedulers_is_a_failure() -> None:
    class Odd(Forever):
        async def execute(self) -> None:
            raise anyio.get_cancelled_exc_class()("a future of somebody else was cancelled")

    forever = Forever()

    async def main() -> None:
        scheduler = Scheduler()
        scheduler.register_background_task(forever)
        scheduler.register_background_task(Odd(), name="odd")
        async with scheduler:
            await scheduler.start()
            await anyio.sleep_forever()

    with pytest.raises(TaskExecutionError, match="'odd'.*cancelled by something other"):
        anyio.run(main, backend="asyncio")
    assert forever.hooks[-1] == "shutdown"


# -- registration ------------------------------------------------------------------------------------


async def test_a_task_registered_after_start_begins_at_once(scheduler: Scheduler) -> None:
    forever, collector = Forever(), Collector()
    async with scheduler:
        await scheduler.start()
        scheduler.register_background_task(forever)
        task = scheduler.register_event_task(collector)
        await scheduler.publish(NUMBERS, 1)  # subscribed when the registration returns
        assert scheduler.status(task).state is TaskState.REGISTERED
        await settle()
        assert forever.hooks == ["initialize", "execute"]
    assert collector.seen == [1]
    assert forever.hooks[-1] == "shutdown"


async def test_a_late_task_that_cannot_start_is_a_failure_like_any_other(
    scheduler: Scheduler,
) -> None:
    first = Forever()
    scheduler.register_background_task(first)
    with pytest.raises(TaskInitializationError, match="no disk"):
        async with scheduler:
            await scheduler.start()
            scheduler.register_background_task(Broken())
            await anyio.sleep_forever()
    assert first.hooks[-1] == "shutdown"


async def test_a_late_task_waits_for_those_it_depends_on(scheduler: Scheduler) -> None:
    slow = SlowToStart()
    dependant = Forever()
    async with scheduler:
        await scheduler.start()
        scheduler.register_background_task(slow, name="slow")
        scheduler.register_background_task(dependant, depends_on=["slow"])
        await settle()
        assert dependant.hooks == []
        slow.gate.set()
        await settle()
        assert dependant.hooks == ["initialize", "execute"]


async def test_a_late_task_still_waiting_for_another_is_let_go_at_shutdown(
    scheduler: Scheduler,
) -> None:
    dependant, second = Forever(), Forever()
    async with scheduler:
        await scheduler.start()
        scheduler.register_background_task(Stuck(), name="stuck")
        scheduler.register_background_task(dependant, name="dependant", depends_on=["stuck"])
        scheduler.register_background_task(second, depends_on=["dependant"])
        await settle()
    assert dependant.hooks == second.hooks == []
    assert {shot.state for shot in scheduler.status()} == {TaskState.STOPPED}


async def test_a_late_registration_that_is_wrong_leaves_nothing_behind(
    scheduler: Scheduler,
) -> None:
    async with scheduler:
        await scheduler.start()
        with pytest.raises(LifecycleError, match="'nobody'"):
            scheduler.register_background_task(Forever(), name="x", depends_on=["nobody"])
        with pytest.raises(InvalidChannelError):
            scheduler.on(Topic("nothing", int))(fails_on(0, []))
        assert len(scheduler.registry) == 0


async def test_a_task_registered_by_another_while_starting_works_with_the_others(
    scheduler: Scheduler,
) -> None:
    late = Forever()

    class Parent(Forever):
        async def initialize(self) -> None:
            scheduler.register_background_task(late)
            await settle()
            assert late.hooks == ["initialize"], "execute waits until all have started"

    scheduler.register_background_task(Parent())
    async with scheduler:
        await scheduler.start()
        await settle()
        assert late.hooks == ["initialize", "execute"]


async def test_tasks_can_be_registered_from_threads_through_a_portal(scheduler: Scheduler) -> None:
    async with scheduler, from_thread.BlockingPortal() as portal:
        await scheduler.start()
        tasks = [Forever() for _ in range(8)]

        def register(task: Forever) -> TaskId:
            return portal.call(scheduler.register_background_task, task)

        async with create_task_group() as group:
            for task in tasks:
                group.start_soon(to_thread.run_sync, register, task)
        await settle()
        assert len(scheduler.registry) == 8
        assert all(task.hooks == ["initialize", "execute"] for task in tasks)
        await portal.stop()


async def test_the_same_name_twice_is_an_error(scheduler: Scheduler) -> None:
    scheduler.register_background_task(Forever(), name="one")
    with pytest.raises(LifecycleError, match="'one' is registered already"):
        scheduler.register_background_task(Forever(), name="one")


async def test_default_names_are_numbered(scheduler: Scheduler) -> None:
    for _ in range(3):
        scheduler.register_background_task(Forever())
    assert [shot.name for shot in scheduler.status()] == ["Forever", "Forever-2", "Forever-3"]


async def test_metadata_may_be_given_whole_or_by_its_fields(scheduler: Scheduler) -> None:
    whole = TaskMetadata(name="whole", tags=("a",), description="all of it")
    first = scheduler.register_background_task(Forever(), whole)
    second = scheduler.register_background_task(Forever(), name="fields", tags=["a"])
    assert scheduler.status(first).metadata is whole
    assert scheduler.status(second).metadata == TaskMetadata(name="fields", tags=("a",))
    with pytest.raises(LifecycleError, match="not both"):
        scheduler.register_background_task(Forever(), whole, tags=["b"])


class Signal(enum.Enum):
    GO = "go"


async def test_plain_keys_carry_strings_to_their_handlers() -> None:
    scheduler = Scheduler[Signal]()
    scheduler.add_channel(Signal.GO)
    seen: list[str] = []

    @scheduler.on(Signal.GO)
    async def handle(word: str) -> None:
        seen.append(word)

    async with scheduler:
        await scheduler.start()
        with scheduler.subscribe(Signal.GO) as receiver:
            await scheduler.publish(Signal.GO, "now")
            assert await receiver.receive() == "now"
    assert seen == ["now"]
    assert scheduler.status()[0].event == "Signal.GO"


async def test_decorators_return_the_function(scheduler: Scheduler) -> None:
    async def work() -> None: ...

    async def handle(number: int) -> None: ...

    assert scheduler.background(tags=["x"])(work) is work
    assert scheduler.on(NUMBERS)(handle) is handle
    assert [shot.kind for shot in scheduler.status()] == ["background", "event"]


def test_a_scheduler_that_never_ran_leaves_no_warning(scheduler: Scheduler) -> None:
    scheduler.register_event_task(Collector())
    scheduler.clone_sender(NUMBERS)
    assert repr(scheduler) == "<Scheduler: 1 tasks, new>"
    del scheduler
    gc.collect()


async def test_many_tasks_start_and_stop(scheduler: Scheduler) -> None:
    tasks = [Forever() for _ in range(500)]
    for task in tasks:
        scheduler.register_background_task(task)
    async with scheduler:
        await scheduler.start()
        await settle()
    assert all(task.hooks == ["initialize", "execute", "shutdown"] for task in tasks)


async def test_a_lag_hook_that_fails_is_a_task_failure(caplog: pytest.LogCaptureFixture) -> None:
    scheduler = Scheduler()
    scheduler.add_channel(NUMBERS, ChannelConfig(capacity=1))

    class Touchy(Collector):
        async def handle_lag(self, missed: int) -> None:
            raise TroubleError(f"missed {missed}")

    scheduler.register_event_task(Touchy())
    with caplog.at_level(logging.WARNING), pytest.raises(TaskExecutionError, match="missed 2"):
        async with scheduler:
            await scheduler.start()
            for number in range(3):
                scheduler.bus.publish_nowait(NUMBERS, number)
            await anyio.sleep_forever()
