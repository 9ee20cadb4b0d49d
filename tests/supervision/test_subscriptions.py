"""The place of an event task in its channel: who keeps it, gives it up, and takes a new one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Unpack

import anyio
import pytest
from anyio import create_task_group
from support import NUMBERS, TroubleError, settle

from orchestrio import (
    EventTask,
    Group,
    InvalidChannelError,
    LifecycleError,
    RestartPolicy,
    Scheduler,
    TaskId,
    TaskNotFoundError,
    TaskOptions,
    TaskState,
    Topic,
)

LATER = RestartPolicy(initial_delay=30, jitter=0)
ALWAYS = RestartPolicy(mode="always", initial_delay=1, jitter=0)


class Reader(EventTask[int]):
    """Keeps what it has read; fails at 0."""

    def __init__(self) -> None:
        self.read: list[int] = []

    @property
    def subscribed_event(self) -> Topic[int]:
        return NUMBERS

    async def handle_event(self, event: int, /) -> None:
        if event == 0:
            raise TroubleError
        self.read.append(event)


@pytest.fixture
def reader() -> Reader:
    return Reader()


@pytest.fixture
def scheduler(scheduler: Scheduler) -> Scheduler:
    """One with a task that works on, whatever happens to the others."""
    scheduler.background(name="neighbour")(anyio.sleep_forever)
    return scheduler


Register = Callable[..., TaskId]


@pytest.fixture
def register(scheduler: Scheduler, reader: Reader, concurrency: int) -> Register:
    """Registers the reader, in a group if that is given."""

    def register(group: Group | None = None, **options: Unpack[TaskOptions]) -> TaskId:
        options |= {"name": "reader", "concurrency": concurrency}
        return (group or scheduler).register_event_task(reader, **options)

    return register


# -- that is given up ------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["stop_task", "remove_task", "shutdown"])
async def test_what_waits_for_a_restart_that_does_not_come_is_warned_of(
    scheduler: Scheduler,
    reader: Reader,
    register: Register,
    command: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    group = scheduler.group("group", strategy="one_for_all")

    @group.background(restart=LATER)
    async def fragile() -> None:
        await anyio.sleep(1)
        raise TroubleError

    task = register(group)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(2)
        for number in range(3):
            await scheduler.publish(NUMBERS, number)
        await settle()
        assert scheduler.status(task).unread == 3
        await (scheduler.shutdown() if command == "shutdown" else getattr(scheduler, command)(task))
    assert caplog.messages.count("task 'reader' ended with 3 messages unhandled") == 1
    assert reader.read == []


# -- in a channel that has been removed ------------------------------------------------------


async def test_a_task_that_always_runs_stays_stopped_without_its_channel(
    scheduler: Scheduler, reader: Reader, register: Register, caplog: pytest.LogCaptureFixture
) -> None:
    task = register(restart=ALWAYS)
    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 1)
        scheduler.bus.remove_channel(NUMBERS)
        await anyio.sleep(100)
        assert reader.read == [1], "what was published is handled"
        assert scheduler.status(task).state is TaskState.STOPPED
        assert scheduler.status()[0].state is TaskState.RUNNING
    assert caplog.text.count("task 'reader' stays stopped: ") == 1


@pytest.mark.parametrize("unread", [False, True])
@pytest.mark.parametrize("how", ["by itself", "by hand", "with its group", "after a failure"])
async def test_a_task_that_runs_again_reads_the_channel_that_there_is_now(
    scheduler: Scheduler, reader: Reader, register: Register, how: str, unread: bool
) -> None:
    group = scheduler.group("group")
    task = register(group, restart=ALWAYS)
    async with scheduler:
        await scheduler.start()
        if how == "after a failure":
            await scheduler.publish(NUMBERS, 0)
            await settle()
        if unread:
            await scheduler.publish(NUMBERS, 1)
        scheduler.bus.remove_channel(NUMBERS)
        scheduler.add_channel(NUMBERS)
        if how == "by hand":
            await scheduler.restart_task(task)
        elif how == "with its group":
            await group.restart()
        await anyio.sleep(10)
        assert await scheduler.publish(NUMBERS, 2) == 1
        await settle()
        assert reader.read == ([1, 2] if unread else [2])
        now = scheduler.status(task)
        assert (now.handled, now.failed, now.unread) == (1, 0, 0), "since it has subscribed"


async def test_a_restart_of_a_task_whose_channel_is_gone_is_refused(
    scheduler: Scheduler, register: Register
) -> None:
    task = register()
    async with scheduler:
        await scheduler.start()
        scheduler.bus.remove_channel(NUMBERS)
        with pytest.raises(InvalidChannelError):
            await scheduler.restart_task(task)
        await settle()
        assert scheduler.status(task).state in (TaskState.STOPPED, TaskState.COMPLETED)


# -- when a restart crosses a stop ---------------------------------------------------------------


class Slow(Reader):
    """Stops its task at 9, and handles each message for eight seconds."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__()
        self.scheduler = scheduler

    async def handle_event(self, event: int, /) -> None:
        if event == 9:
            own = self.scheduler.registry.get_by_name("reader").task_id
            await self.scheduler.stop_task(own)  # it gets no other message from now on
        await anyio.sleep(8)
        await super().handle_event(event)


class TestCrossing:
    """A stop is under way, and lets the handler finish what it has in hand, until 8 s."""

    @pytest.fixture
    def reader(self, scheduler: Scheduler) -> Reader:
        return Slow(scheduler)

    @pytest.mark.parametrize("whole", [False, True])
    async def test_what_is_published_from_then_on_waits_for_the_restart(
        self, scheduler: Scheduler, reader: Reader, register: Register, whole: bool
    ) -> None:
        group = scheduler.group("group")
        task = register(group)
        async with scheduler, create_task_group() as restarts:
            await scheduler.start()
            await scheduler.publish(NUMBERS, 9)
            await anyio.sleep(1)
            assert await scheduler.publish(NUMBERS, 1) == 0, "this is for nobody"
            if whole:
                restarts.start_soon(group.restart)
            else:
                restarts.start_soon(scheduler.restart_task, task)
            await settle()
            assert await scheduler.publish(NUMBERS, 2) == 1
            assert scheduler.status(task).unread == 1
            await anyio.sleep(5)
            assert await scheduler.publish(NUMBERS, 3) == 1
            await anyio.sleep(30)
            assert sorted(reader.read) == [2, 3, 9]
            now = scheduler.status(task)
            assert (now.handled, now.failed, now.unread, now.missed) == (2, 0, 0, 0)

    @pytest.mark.parametrize("command", ["stop_task", "remove_task", "shutdown"])
    async def test_what_waits_for_it_is_warned_of_if_it_does_not_come(
        self,
        scheduler: Scheduler,
        reader: Reader,
        register: Register,
        command: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        async def restart() -> None:
            with pytest.raises((LifecycleError, TaskNotFoundError)):
                await scheduler.restart_task(task)

        task = register()
        async with scheduler, create_task_group() as restarts:
            await scheduler.start()
            await scheduler.publish(NUMBERS, 9)
            await anyio.sleep(1)
            restarts.start_soon(restart)
            await settle()
            await scheduler.publish(NUMBERS, 2)
            if command == "shutdown":
                await scheduler.shutdown()
            else:
                await getattr(scheduler, command)(task)
                assert await scheduler.publish(NUMBERS, 3) == 0
        assert reader.read == [9]
        assert caplog.messages.count("task 'reader' ended with 1 message unhandled") == 1

    async def test_a_restart_that_is_refused_leaves_no_subscription_behind(
        self, scheduler: Scheduler, reader: Reader, register: Register
    ) -> None:
        group = scheduler.group("group")
        register(group)
        scheduler.add_channel("words")

        @group.on("words")
        async def other(word: str) -> None: ...

        async with scheduler:
            await scheduler.start()
            await scheduler.publish(NUMBERS, 9)
            await settle()
            scheduler.bus.remove_channel("words")
            await settle()
            with pytest.raises(InvalidChannelError):
                await group.restart()
            assert await scheduler.publish(NUMBERS, 2) == 0
            await anyio.sleep(20)
        assert reader.read == [9]
