"""The place of an event task in its channel: who keeps it, gives it up, and takes a new one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Unpack

import anyio
import pytest
from support import NUMBERS, TroubleError, settle

from orchestrio import (
    EventTask,
    Group,
    InvalidChannelError,
    RestartPolicy,
    Scheduler,
    TaskId,
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
