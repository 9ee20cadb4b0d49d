"""What comes late: a stop that is cancelled, an end that nobody waited for, a beat after the end."""

from __future__ import annotations

import gc
import logging
import weakref
from itertools import pairwise

import anyio
import pytest
from anyio import CancelScope, create_task_group, current_time
from support import TroubleError, settle
from support.diary import Diary, Worker, add

from orchestrio import (
    ChannelConfig,
    EventTask,
    RestartPolicy,
    Scheduler,
    TaskExecutionError,
    TaskState,
    Topic,
    current_task_context,
)

ORDERS = Topic("orders", int)
PATIENT = RestartPolicy(initial_delay=2, jitter=0)


@pytest.mark.parametrize("pause", [0, 1, 2.5])
@pytest.mark.parametrize("numbers", [1, 3])
async def test_run_ends_when_the_event_task_that_it_waited_for_has_come_back(
    scheduler: Scheduler, pause: float, numbers: int
) -> None:
    scheduler.add_channel(ORDERS)
    handled: list[int] = []

    @scheduler.on(ORDERS, restart=PATIENT)
    async def handle(number: int) -> None:
        if number == 0:
            raise TroubleError
        handled.append(number)

    @scheduler.background()
    async def publish() -> None:
        for number in range(numbers):
            await scheduler.publish(ORDERS, number)
        await settle(5)
        await anyio.sleep(pause)

    with anyio.fail_after(100):
        await scheduler.run()
    assert handled == list(range(1, numbers))


@pytest.mark.parametrize("how", ["stop", "remove"])
async def test_a_command_for_a_group_that_is_cancelled_at_once_has_done_nothing(
    scheduler: Scheduler, diary: Diary, how: str
) -> None:
    group = scheduler.group("group")
    task = add(group, diary, "a")
    async with scheduler:
        await scheduler.start()
        with CancelScope() as scope:
            scope.cancel()
            await (group.stop() if how == "stop" else group.remove())
        await settle()
        assert scheduler.status(task).state is TaskState.RUNNING
        assert not scheduler.groups["group"].ended
        add(group, diary, "b")


async def test_what_goes_wrong_in_a_later_run_is_told_while_somebody_waits_for_another(
    scheduler: Scheduler, diary: Diary, caplog: pytest.LogCaptureFixture
) -> None:
    class Fragile(Worker):
        async def shutdown(self) -> None:
            if current_task_context().run == 2:
                raise TroubleError("the second time")

    class Slow(Worker):
        async def initialize(self) -> None:
            await anyio.sleep(20 if current_task_context().run > 1 else 0)

    group = scheduler.group("group")
    fragile = Fragile("fragile", diary, 1000, 1)
    group.register_background_task(fragile, name="fragile", restart=PATIENT)
    group.register_background_task(Slow("slow", diary), name="slow")
    async with scheduler:
        await scheduler.start()
        await settle()
        with caplog.at_level(logging.ERROR):
            await group.restart()
        assert "the second time" in caplog.text


async def test_a_group_whose_tasks_fail_to_start_waits_longer_and_longer(
    scheduler: Scheduler,
) -> None:
    begun: list[float] = []

    class Hopeless(Worker):
        async def initialize(self) -> None:
            begun.append(current_time())
            if current_task_context().run > 1:
                raise TroubleError

    policy = RestartPolicy(max_restarts=None, initial_delay=1, max_delay=4, jitter=0)
    group = scheduler.group("group", restart=policy)
    group.register_background_task(Hopeless("hopeless", Diary(), 0))
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(50)
    waits = [later - earlier for earlier, later in pairwise(begun)]
    assert waits[:8] == [1, 2, 4, 4, 4, 4, 4, 4]


async def test_a_task_that_is_stopped_in_its_initialize_does_not_begin_to_work(
    scheduler: Scheduler,
) -> None:
    did: list[str] = []

    class Listening(EventTask[int]):
        @property
        def subscribed_event(self) -> Topic[int]:
            return ORDERS

        async def initialize(self) -> None:
            assert not current_task_context().stopping.is_set()
            await anyio.sleep(3)
            did.append("initialised")

        async def handle_event(self, event: int, /) -> None:
            did.append(f"handled {event}")

        async def shutdown(self) -> None:
            did.append("shut down")

    scheduler.add_channel(ORDERS, ChannelConfig(overflow="block"))
    async with scheduler, create_task_group() as group:
        await scheduler.start()
        task = scheduler.register_event_task(Listening(), stop_timeout=60)
        await anyio.sleep(1)
        group.start_soon(scheduler.publish, ORDERS, 1)
        await scheduler.stop_task(task)
        assert current_time() == 3
        assert did == ["initialised", "shut down"]
        assert await scheduler.publish(ORDERS, 2) == 0


async def test_a_task_that_was_cancelled_need_not_beat(scheduler: Scheduler) -> None:
    class Careful(Worker):
        async def execute(self) -> None:
            try:
                while True:
                    current_task_context().beat()
                    await anyio.sleep(0.5)
            finally:
                with CancelScope(shield=True):
                    await anyio.sleep(5)

    task = scheduler.register_background_task(
        Careful("careful", Diary()), watchdog=1, stop_timeout=10
    )
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(3)
        await scheduler.stop_task(task)
        shot = scheduler.status(task)
        assert (shot.state, shot.error) == (TaskState.STOPPED, None)


async def test_a_drain_goes_on_without_a_handler_that_was_given_up(
    scheduler: Scheduler, diary: Diary
) -> None:
    @scheduler.on(ORDERS, name="stuck", watchdog=2, stop_timeout=2, drain_timeout=50)
    async def stuck(number: int) -> None:
        with CancelScope(shield=True):
            await anyio.sleep(30)

    class Other(EventTask[int]):
        @property
        def subscribed_event(self) -> Topic[int]:
            return ORDERS

        async def handle_event(self, event: int, /) -> None: ...

        async def shutdown(self) -> None:
            diary.note("down", "other")

    scheduler.add_channel(ORDERS)
    scheduler.register_event_task(Other(), drain_timeout=50)
    with pytest.raises(TaskExecutionError) as caught:
        async with scheduler:
            await scheduler.start()
            await scheduler.publish(ORDERS, 1)
            await settle()
    assert [error.task_name for error in caught.value.shutdown_errors] == ["stuck"]
    (down,) = diary.when("down", "other")
    assert down < 10


async def test_one_that_was_given_up_and_ends_after_all_is_told_of_once(
    scheduler: Scheduler, diary: Diary, caplog: pytest.LogCaptureFixture
) -> None:
    class Late(Worker):
        async def execute(self) -> None:
            with CancelScope(shield=True):
                await anyio.sleep(10)

        async def shutdown(self) -> None:
            await super().shutdown()
            with CancelScope(shield=True):
                await anyio.sleep(5)

    task = scheduler.register_background_task(
        Late("late", diary), stop_timeout=1, shutdown_timeout=1
    )
    async with scheduler:
        await scheduler.start()
        with anyio.move_on_after(0.5):
            await scheduler.stop_task(task)
        await anyio.sleep(20)
    assert diary.hooks == ["up late", "down late"]
    messages = [one.message for one in caplog.records if "did not shut down well" in one.message]
    assert len(messages) == 2
    assert "its execute() went on for more than stop_timeout" in messages[0]
    assert "it ignores its cancellation 1 s after shutdown_timeout" in messages[1]


async def test_those_that_have_ended_are_let_go_of_while_another_one_takes_long_to_stop(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, logger="orchestrio")  # or the records would keep them
    failures: list[weakref.ref[TroubleError]] = []

    class Failing(Worker):
        async def initialize(self) -> None:
            trouble = TroubleError()
            failures.append(weakref.ref(trouble))
            raise trouble

    @scheduler.background(name="first")
    async def first() -> None:
        await anyio.sleep_forever()

    async with create_task_group() as group, scheduler:
        await scheduler.start()
        scheduler.register_background_task(
            Failing("failing", Diary()), restart=RestartPolicy(max_restarts=None, max_delay=1)
        )

        @scheduler.background(name="slow", stop_timeout=100)
        async def slow() -> None:
            await current_task_context().stopping.wait()
            await anyio.sleep(90)

        await settle()
        group.start_soon(scheduler.stop_task, scheduler.registry.get_by_name("slow").task_id)
        await anyio.sleep(80)
        gc.collect()
        assert len(failures) > 50
        assert len([failure for failure in failures if failure() is not None]) < 5
