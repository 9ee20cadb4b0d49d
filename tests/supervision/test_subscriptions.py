"""The place of an event task in its channel: who keeps it, gives it up, and takes a new one."""

from __future__ import annotations

import anyio
import pytest
from support import NUMBERS, TroubleError, settle

from orchestrio import RestartPolicy, Scheduler

LATER = RestartPolicy(initial_delay=30, jitter=0)


@pytest.fixture
def handled() -> list[int]:
    return []


@pytest.fixture
def scheduler() -> Scheduler:
    scheduler = Scheduler(random=lambda: 0.0, strategy="one_for_all")
    scheduler.add_channel(NUMBERS)
    return scheduler


# -- that is given up ------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["stop_task", "remove_task", "shutdown"])
async def test_what_waits_for_a_restart_that_does_not_come_is_warned_of(
    scheduler: Scheduler,
    handled: list[int],
    concurrency: int,
    command: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    @scheduler.background(restart=LATER)
    async def fragile() -> None:
        await anyio.sleep(1)
        raise TroubleError

    @scheduler.on(NUMBERS, name="reader", concurrency=concurrency)
    async def reader(number: int) -> None:
        handled.append(number)

    async with scheduler:
        await scheduler.start()
        task = scheduler.status()[1].task_id
        await anyio.sleep(2)
        for number in range(3):
            await scheduler.publish(NUMBERS, number)
        await settle()
        assert scheduler.status(task).unread == 3
        await (scheduler.shutdown() if command == "shutdown" else getattr(scheduler, command)(task))
    assert caplog.messages.count("task 'reader' ended with 3 messages unhandled") == 1
    assert handled == []
