"""Periodic tasks of a scheduler, and what `run` tells systemd meanwhile."""

from __future__ import annotations

import math
import socket
import sys
from collections.abc import Iterator
from datetime import UTC
from functools import partial
from pathlib import Path
from typing import Literal

import anyio
import pytest
from anyio import create_task_group, current_time
from support import TroubleError, settle
from support.hooks import Broken

from orchestrio import (
    BackgroundTask,
    Backoff,
    RestartPolicy,
    Scheduler,
    TaskExecutionError,
    TaskId,
    TaskInitializationError,
    current_task_context,
)


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
        await anyio.sleep(200.05)
    assert ticks == pytest.approx([number / 10 for number in range(2_001)], abs=1e-6)


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
    @scheduler.every(1, attempt_timeout=0.5)
    async def tick() -> None:
        await anyio.sleep(0.6)

    with pytest.raises(TaskExecutionError, match="longer than its attempt_timeout"):
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
    scheduler.background()(partial(anyio.sleep, 5))
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


# -- more of the timetable -----------------------------------------------------------------------------


async def test_it_may_be_in_a_group(scheduler: Scheduler) -> None:
    ticks: list[float] = []

    @scheduler.group("group").every(2, name="tick")
    async def tick() -> None:
        ticks.append(current_time())

    async with scheduler:
        await scheduler.start()
        await anyio.sleep(5)
        assert scheduler.status(named(scheduler, "tick")).group == "group"
    assert ticks == [0, 2, 4]


async def test_the_decorated_function_stays_what_it_is(scheduler: Scheduler) -> None:
    calls: list[None] = []

    @scheduler.every(60)
    async def tick() -> None:
        calls.append(None)

    await tick()
    assert calls == [None]
    assert scheduler.status(named(scheduler, "tick")).kind == "background"


async def test_retries_of_a_tick_come_after_exact_delays_and_count_once(
    scheduler: Scheduler,
) -> None:
    calls: list[float] = []

    @scheduler.every(10, retries=2, retry_backoff=Backoff(initial_delay=1, jitter=0))
    async def tick() -> None:
        calls.append(current_time())
        if current_time() < 3:
            raise TroubleError

    async with scheduler:
        await scheduler.start()
        await anyio.sleep(15)
        shot = scheduler.status(named(scheduler, "tick"))
    assert calls == [0, 1, 3, 10]
    assert (shot.handled, shot.failed, shot.missed) == (2, 0, 0)


async def test_a_tick_that_takes_too_long_is_cancelled_and_may_be_skipped(
    scheduler: Scheduler,
) -> None:
    cancelled: list[float] = []

    @scheduler.every(10, attempt_timeout=4, on_error="skip")
    async def tick() -> None:
        try:
            await anyio.sleep(100)
        finally:
            cancelled.append(current_time())

    async with scheduler:
        await scheduler.start()
        await anyio.sleep(25)
        shot = scheduler.status(named(scheduler, "tick"))
    assert cancelled == [4, 14, 24]
    assert (shot.handled, shot.failed, shot.missed) == (0, 3, 0)


async def test_retries_that_run_into_the_next_tick_cost_it(scheduler: Scheduler) -> None:
    calls: list[float] = []

    @scheduler.every(10, retries=1, retry_backoff=Backoff(initial_delay=15, max_delay=15, jitter=0))
    async def tick() -> None:
        calls.append(current_time())
        if len(calls) == 1:
            raise TroubleError

    async with scheduler:
        await scheduler.start()
        await anyio.sleep(35)
        shot = scheduler.status(named(scheduler, "tick"))
    assert calls == [0, 15, 20, 30]
    assert (shot.handled, shot.missed) == (3, 1)


async def test_on_error_stop_is_the_end_of_the_ticks_alone(scheduler: Scheduler) -> None:
    calls: list[float] = []

    @scheduler.every(1, on_error="stop")
    async def tick() -> None:
        calls.append(current_time())
        raise TroubleError

    scheduler.background(name="other")(anyio.sleep_forever)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(5)
        states = {shot.name: shot.state.value for shot in scheduler.status()}
    assert calls == [0]
    assert states["other"] == "running"


async def test_counts_go_on_over_restarts(scheduler: Scheduler) -> None:
    @scheduler.every(10, restart=RestartPolicy(initial_delay=0))
    async def tick() -> None:
        if current_time() == 20:
            raise TroubleError

    async with scheduler:
        await scheduler.start()
        await anyio.sleep(45)
        shot = scheduler.status(named(scheduler, "tick"))
    assert (shot.handled, shot.failed, shot.restarts) == (4, 1, 1)


async def test_a_restart_by_hand_does_not_tick_out_of_turn(scheduler: Scheduler) -> None:
    ticks: list[float] = []

    @scheduler.every(10)
    async def tick() -> None:
        ticks.append(current_time())

    async with scheduler:
        await scheduler.start()
        await anyio.sleep(5)
        await scheduler.restart_task(named(scheduler, "tick"))
        await anyio.sleep(10)
    assert ticks == [0, 10]


async def test_a_stop_cancels_a_tick(scheduler: Scheduler) -> None:
    ended: list[float] = []

    @scheduler.every(10)
    async def tick() -> None:
        try:
            await anyio.sleep(5)
        finally:
            ended.append(current_time())

    async with scheduler:
        await scheduler.start()
        await anyio.sleep(1)
        await scheduler.shutdown()
    assert ended == [1]


async def test_a_tick_that_listens_is_the_last_when_the_task_stops(scheduler: Scheduler) -> None:
    ticks: list[float] = []

    @scheduler.every(1, stop_timeout=10)
    async def tick() -> None:
        ticks.append(current_time())
        with anyio.move_on_after(0.5):
            await current_task_context().stopping.wait()

    async with scheduler:
        await scheduler.start()
        await anyio.sleep(0.2)
        await scheduler.shutdown()
        assert ticks == [0]
        assert current_time() < 1


async def test_a_task_whose_ticks_listened_ends_at_once_between_them(scheduler: Scheduler) -> None:
    @scheduler.every(100, stop_timeout=10)
    async def tick() -> None:
        assert not current_task_context().stopping.is_set()

    async with scheduler:
        await scheduler.start()
        await anyio.sleep(1)
        await scheduler.shutdown()
        assert current_time() == 1


async def test_an_interrupt_in_a_tick_ends_the_run_and_is_not_skipped(
    scheduler: Scheduler,
) -> None:
    calls: list[float] = []

    @scheduler.every(
        1, on_error="skip", retries=2, restart=RestartPolicy(mode="always", initial_delay=0)
    )
    async def tick() -> None:
        calls.append(current_time())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await scheduler.run()
    assert calls == [0]


@pytest.mark.parametrize("seconds", [-1.0, math.inf, math.nan])
@pytest.mark.parametrize("fixed", ["rate", "delay"])
def test_what_is_no_time_is_refused(
    scheduler: Scheduler, seconds: float, fixed: Literal["rate", "delay"]
) -> None:
    with pytest.raises(ValueError):
        scheduler.every(seconds, fixed=fixed)
    assert len(scheduler.registry) == 0


# -- cron ----------------------------------------------------------------------------------------------


async def test_cron_takes_a_time_zone_and_the_options_of_a_task(scheduler: Scheduler) -> None:
    @scheduler.group("group").cron("*/5 * * * *", tz=UTC, tags=["nightly"], attempt_timeout=30)
    async def report() -> None: ...

    shot = scheduler.status(named(scheduler, "report"))
    assert (shot.kind, shot.group) == ("background", "group")
    assert (shot.metadata.tags, shot.metadata.attempt_timeout) == (("nightly",), 30)


@pytest.mark.parametrize("expression", ["", "* * * *", "* * * * * * *", "a b c d e", "0 0 30 2 *"])
def test_a_cron_expression_that_means_nothing_is_refused(
    scheduler: Scheduler, expression: str
) -> None:
    with pytest.raises(ValueError):
        scheduler.cron(expression)
    assert len(scheduler.registry) == 0


# -- systemd -------------------------------------------------------------------------------------------


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket of a service manager that waits for news of this process."""
    if sys.platform == "win32":
        pytest.skip("there is no systemd on Windows")
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        monkeypatch.delenv("WATCHDOG_USEC", raising=False)
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        yield manager


def heard_by(manager: socket.socket) -> list[str]:
    """Return what has arrived since the last look."""
    heard: list[str] = []
    while True:
        try:
            heard.append(manager.recv(100).decode())
        except BlockingIOError:
            return heard


async def test_systemd_hears_that_all_is_ready_not_before_it_is(
    scheduler: Scheduler, manager: socket.socket
) -> None:
    early: list[str] = []

    class Slow(BackgroundTask):
        async def initialize(self) -> None:
            await anyio.sleep(5)
            early.extend(heard_by(manager))

        async def execute(self) -> None:
            await anyio.sleep(5)

    scheduler.register_background_task(Slow())
    await scheduler.run()
    assert early == []
    assert heard_by(manager) == ["READY=1", "STOPPING=1"]


async def test_systemd_hears_that_it_stops_before_it_has(
    scheduler: Scheduler, manager: socket.socket
) -> None:
    heard: list[str] = []

    class Slow(BackgroundTask):
        async def execute(self) -> None: ...

        async def shutdown(self) -> None:
            await anyio.sleep(5)
            heard.extend(heard_by(manager))

    scheduler.register_background_task(Slow())
    await scheduler.run()
    assert heard == ["READY=1", "STOPPING=1"]


async def test_systemd_hears_that_it_is_alive_also_while_it_stops(
    scheduler: Scheduler, manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "4000000")

    class Slow(BackgroundTask):
        async def execute(self) -> None:
            await anyio.sleep(1)

        async def shutdown(self) -> None:
            await anyio.sleep(6)

    scheduler.register_background_task(Slow())
    await scheduler.run()
    assert heard_by(manager) == ["READY=1", "WATCHDOG=1", "STOPPING=1", *["WATCHDOG=1"] * 3]


async def test_systemd_hears_that_it_stops_when_a_task_fails(
    scheduler: Scheduler, manager: socket.socket
) -> None:
    @scheduler.background()
    async def failing() -> None:
        await anyio.sleep(1)
        raise TroubleError

    with pytest.raises(TaskExecutionError):
        await scheduler.run()
    assert heard_by(manager) == ["READY=1", "STOPPING=1"]


async def test_systemd_does_not_hear_of_a_start_that_failed(
    scheduler: Scheduler, manager: socket.socket
) -> None:
    scheduler.register_background_task(Broken())
    with pytest.raises(TaskInitializationError):
        await scheduler.run()
    assert "READY=1" not in heard_by(manager)


async def test_systemd_does_not_hear_that_what_was_stopped_in_its_start_is_ready(
    scheduler: Scheduler, manager: socket.socket
) -> None:
    class Slow(BackgroundTask):
        async def initialize(self) -> None:
            await anyio.sleep(10)

        async def execute(self) -> None: ...

    scheduler.register_background_task(Slow())
    async with scheduler, create_task_group() as group:
        group.start_soon(scheduler.run)
        await anyio.sleep(1)
        await scheduler.shutdown()
    assert "READY=1" not in heard_by(manager)


async def test_systemd_is_not_told_of_a_restart(
    scheduler: Scheduler, manager: socket.socket
) -> None:
    @scheduler.background(restart=RestartPolicy(initial_delay=1, jitter=0))
    async def failing() -> None:
        if current_task_context().run < 3:
            raise TroubleError

    await scheduler.run()
    assert heard_by(manager) == ["READY=1", "STOPPING=1"]
