"""Periodic tasks of a scheduler, and what `run` tells systemd meanwhile."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import anyio
import pytest
from anyio import current_time
from support import settle

from orchestrio import Backoff, RestartPolicy, Scheduler, TaskExecutionError, TaskId


class TroubleError(Exception):
    pass


@pytest.fixture
def scheduler() -> Scheduler:
    return Scheduler()


def named(scheduler: Scheduler, name: str) -> TaskId:
    return scheduler.registry.get_by_name(name).task_id


async def test_it_ticks_at_once_and_then_without_drift(scheduler: Scheduler) -> None:
    ticks: list[float] = []

    @scheduler.every(0.1)
    async def tick() -> None:
        ticks.append(current_time())
        await anyio.sleep(0.03)

    async with scheduler:
        await scheduler.start()
        await anyio.sleep(1000.05)
    assert ticks == pytest.approx([number / 10 for number in range(10_001)], abs=1e-6)


async def test_ticks_that_a_long_one_runs_into_are_counted_and_do_not_pile_up(
    scheduler: Scheduler,
) -> None:
    ticks: list[float] = []

    @scheduler.every(1)
    async def tick() -> None:
        ticks.append(current_time())
        if len(ticks) == 2:
            await anyio.sleep(3.5)

    async with scheduler:
        await scheduler.start()
        await anyio.sleep(6.5)
        shot = scheduler.status(named(scheduler, "tick"))
    assert ticks == [0, 1, 5, 6]
    assert (shot.handled, shot.missed, shot.failed) == (4, 3, 0)


async def test_a_fixed_delay_counts_from_the_end_of_a_tick(scheduler: Scheduler) -> None:
    ticks: list[float] = []

    @scheduler.every(1, fixed="delay")
    async def tick() -> None:
        ticks.append(current_time())
        await anyio.sleep(2)

    async with scheduler:
        await scheduler.start()
        await anyio.sleep(7)
    assert ticks == [0, 3, 6]


async def test_a_tick_that_fails_may_be_skipped(scheduler: Scheduler) -> None:
    ticks: list[float] = []

    @scheduler.every(1, on_error="skip", retries=1, retry_backoff=Backoff(initial_delay=0))
    async def tick() -> None:
        ticks.append(current_time())
        if current_time() == 1:
            raise TroubleError

    async with scheduler:
        await scheduler.start()
        await anyio.sleep(2.5)
        shot = scheduler.status(named(scheduler, "tick"))
    assert ticks == [0, 1, 1, 2], "tried again once"
    assert (shot.handled, shot.failed) == (2, 1)


async def test_a_tick_that_fails_ends_the_run_by_default(scheduler: Scheduler) -> None:
    @scheduler.every(1, timeout=0.5)
    async def tick() -> None:
        await anyio.sleep(0.6)

    with pytest.raises(TaskExecutionError, match="longer than its timeout"):
        await scheduler.run()


async def test_the_timetable_goes_on_over_restarts(scheduler: Scheduler) -> None:
    ticks: list[float] = []

    @scheduler.every(10, restart=RestartPolicy(initial_delay=15, jitter=0))
    async def tick() -> None:
        ticks.append(current_time())
        if len(ticks) == 1:
            raise TroubleError

    async with scheduler:
        await scheduler.start()
        await anyio.sleep(35)
        assert scheduler.status(named(scheduler, "tick")).missed == 1
    assert ticks == [0, 20, 30]


def test_a_rate_of_nothing_is_refused(scheduler: Scheduler) -> None:
    with pytest.raises(ValueError, match="above 0"):
        scheduler.every(0)


async def test_cron_is_registered_like_any_task(scheduler: Scheduler) -> None:
    @scheduler.cron("0 0 29 2 *", name="leap day")
    async def celebrate() -> None: ...

    async with scheduler:
        await scheduler.start()
        await settle()
        assert scheduler.status(named(scheduler, "leap day")).handled == 0
    with pytest.raises(ValueError, match="61 \\* \\* \\* \\*"):
        scheduler.cron("61 * * * *")


def test_cron_without_its_extra_says_which(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cronsim", None)
    with pytest.raises(ImportError, match=r"orchestrio\[cron\]"):
        scheduler.cron("* * * * *")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no systemd on Windows")
async def test_run_tells_systemd_how_it_goes(
    scheduler: Scheduler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler.background()(lambda: anyio.sleep(5))
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        monkeypatch.setenv("WATCHDOG_USEC", "4000000")
        await scheduler.run()
        heard: list[str] = []
        while True:
            try:
                heard.append(manager.recv(100).decode())
            except BlockingIOError:
                break
    assert heard == ["READY=1", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1", "STOPPING=1"]
