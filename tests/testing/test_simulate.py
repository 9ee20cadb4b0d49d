"""The simulation finds what is planted, says where, and finds it again."""

from __future__ import annotations

import gc
import logging
import random
import subprocess
import sys
import warnings
import weakref
from collections.abc import Callable
from random import Random
from typing import Any, Literal

import anyio
import pytest
import sniffio
from anyio import CancelScope, current_time, sleep, sleep_forever
from anyio.lowlevel import checkpoint
from pydantic import TypeAdapter, ValidationError

from orchestrio import (
    BackgroundTask,
    BroadcastReceiveStream,
    ChannelConfig,
    RestartPolicy,
    Scheduler,
    Topic,
)
from orchestrio.testing import (
    Faults,
    Harness,
    Scenario,
    SimulationFailure,
    SimulationReport,
    replay,
    shrink,
    simulate,
)

ORDERS = Topic("orders", int)
BILLS = Topic("bills", int)

NO_FAULTS = Faults(most=0)
NO_COMMANDS = Faults(commands=0)


def healthy() -> Scheduler:
    """A program in which nothing goes wrong by itself, and what is made to is mended."""
    scheduler = Scheduler()
    scheduler.add_channel(ORDERS)
    scheduler.add_channel(BILLS)
    policy = RestartPolicy(max_restarts=None, initial_delay=1, max_delay=5)

    @scheduler.on(ORDERS, restart=policy)
    async def bill(order: int) -> None:
        await scheduler.publish(BILLS, order)

    @scheduler.on(BILLS, restart=policy)
    async def pay(bill: int) -> None:
        await sleep(random.random())

    @scheduler.background(restart=policy)
    async def shop() -> None:
        for number in range(5):
            await scheduler.publish(ORDERS, number)
            await sleep(1)

    return scheduler


def racy() -> Scheduler:
    """Two tasks look before they leap, and something may happen in between."""
    scheduler = Scheduler()
    scheduler.add_channel(ORDERS)
    stock = 1

    async def sell(order: int) -> None:
        nonlocal stock
        if stock > 0:
            for _ in range(order):
                await checkpoint()
            stock -= 1
            if stock < 0:
                raise RuntimeError("sold what was not there")

    scheduler.on(ORDERS, name="first")(sell)
    scheduler.on(ORDERS, name="second")(sell)
    scheduler.on(ORDERS, name="bystander")(no_matter)
    return scheduler


async def no_matter(order: int) -> None:
    await checkpoint()


async def order_one(h: Harness[Any], rng: Random) -> None:
    await h.publish(ORDERS, rng.randrange(2))


def find(build: Callable[[], Scheduler], **options: Any) -> SimulationFailure:
    """Simulate until something is found."""
    options = {"seeds": range(50), "limit": 60.0, "faults": NO_FAULTS, **options}
    with pytest.raises(SimulationFailure) as found:
        simulate(build, **options)
    return found.value


# -- what it does ----------------------------------------------------------------------------


def test_a_healthy_program_is_reported_as_such() -> None:
    report = simulate(healthy, seeds=range(20), faults=NO_COMMANDS, limit=100)
    assert report.runs == 40
    assert report.virtual_seconds > 40
    assert set(report.faults) == {"crash", "delay", "cancel", "stray"}


def test_the_same_seeds_give_the_same_report_to_the_last_step() -> None:
    def play(seeds: range, **options: Any) -> str:
        return simulate(healthy, seeds=seeds, faults=NO_COMMANDS, limit=100, **options).digest

    first = play(range(10))
    _clutter = [object() for _ in range(10_000)]
    assert play(range(10)) == first
    assert play(range(10, 20)) != first
    for order in ("stock", "defer"):
        assert play(range(10), order=order) == play(range(10), order=order) != first


def test_each_seed_builds_the_program_anew_and_random_has_its_seed() -> None:
    drawn: dict[str | None, list[float]] = {"asyncio": [], "trio": []}

    def build() -> Scheduler:
        drawn[sniffio.current_async_library()].append(random.random())
        return Scheduler()

    state = random.getstate()
    simulate(build, seeds=[3, 4, 3], faults=NO_FAULTS)
    assert random.getstate() == state
    assert drawn["asyncio"] == drawn["trio"]
    assert drawn["trio"][0] == drawn["trio"][2] != drawn["trio"][1]


def test_the_wall_clock_begins_in_2026(caplog: pytest.LogCaptureFixture) -> None:
    ticks: list[float] = []

    def build() -> Scheduler:
        scheduler = Scheduler()

        @scheduler.cron("0 0 * * *")
        async def midnight() -> None:
            ticks.append(current_time())

        return scheduler

    from datetime import UTC  # the default is the system's zone, which may be any

    def in_utc() -> Scheduler:
        scheduler = Scheduler()

        @scheduler.cron("0 0 * * *", tz=UTC)
        async def midnight() -> None:
            ticks.append(current_time())

        return scheduler

    simulate(build, seeds=[1], faults=NO_FAULTS, limit=2 * 24 * 3600)
    ticks.clear()
    simulate(in_utc, seeds=[1], faults=NO_FAULTS, limit=2.5 * 24 * 3600, backends=["asyncio"])
    assert ticks == [24 * 3600, 2 * 24 * 3600]


def test_a_run_ends_at_its_limit_or_when_the_program_does() -> None:
    ended: list[float] = []

    class Lasting(BackgroundTask):
        def __init__(self, seconds: float) -> None:
            self.seconds = seconds

        async def execute(self) -> None:
            await sleep(self.seconds)

        async def shutdown(self) -> None:
            ended.append(current_time())

    for seconds in (10.0, 1000.0):

        def build(seconds: float = seconds) -> Scheduler:
            scheduler = Scheduler()
            scheduler.register_background_task(Lasting(seconds))
            return scheduler

        simulate(build, seeds=[1], faults=NO_FAULTS, limit=100, backends=["trio"])
    assert ended == [10, 100]


def test_the_program_stops_when_the_drive_has_returned_and_all_is_handled() -> None:
    handled: list[int] = []

    def build() -> Scheduler:
        scheduler = Scheduler()
        scheduler.add_channel(ORDERS)

        @scheduler.on(ORDERS)
        async def slow(order: int) -> None:
            await sleep(10)
            handled.append(order)

        return scheduler

    async def drive(h: Harness[Any], rng: Random) -> None:
        for number in range(3):
            await h.publish(ORDERS, number)

    report = simulate(build, seeds=[1], drive=drive, faults=NO_FAULTS, backends=["asyncio"])
    assert handled == [0, 1, 2]
    assert report.virtual_seconds == 30


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_runs_that_are_over_are_forgotten(backend: Literal["asyncio", "trio"]) -> None:
    played: list[weakref.ref[Scheduler]] = []

    def build() -> Scheduler:
        scheduler = healthy()
        played.append(weakref.ref(scheduler))
        return scheduler

    simulate(build, seeds=range(5), faults=NO_FAULTS, backends=[backend])
    gc.collect()
    # Otherwise each run would look through what is left of all those before it.
    assert [ref() for ref in played] == [None] * 5


# -- what it finds ---------------------------------------------------------------------------


def test_a_race_is_found_with_its_seed_and_what_led_to_it() -> None:
    failure = find(racy, drive=order_one)
    assert failure.kind == "no_other_errors"
    assert "sold what was not there" in failure.what
    assert failure.backend in ("asyncio", "trio")
    assert failure.scenario.seed == failure.seed
    assert f"seeds=[{failure.seed}], backends=['{failure.backend}']" in str(failure)
    assert any("first.handle_event()" in line for line in failure.trace)


def test_a_failure_can_be_played_again_to_the_last_step() -> None:
    failure = find(racy, drive=order_one)
    with pytest.raises(SimulationFailure) as again:
        replay(failure)
    assert again.value.trace == failure.trace
    assert str(again.value) == str(failure)


def test_what_is_mended_is_not_found_again() -> None:
    broken = True

    def build() -> Scheduler:
        return racy() if broken else healthy()

    failure = find(build, drive=order_one)
    broken = False
    replay(failure)


def test_a_failure_shrinks_to_the_tasks_and_faults_that_it_needs() -> None:
    failure = find(racy, drive=order_one, faults=Faults(crashes=0, strays=0, commands=0, most=6))
    small = shrink(failure)
    assert small.kind == failure.kind
    assert small.scenario.without == ("bystander",)
    assert small.scenario.faults == ()
    with pytest.raises(SimulationFailure):
        replay(small)


def test_a_fault_is_made_as_simple_as_it_can_be() -> None:
    def check(h: Harness[Any]) -> None:
        assert not h.task("shop").restarts, "it was restarted"

    faults = Faults(commands=0, delays=0, most=6)
    failure = find(healthy, seeds=range(100), faults=faults, check=[check])
    assert failure.kind == "check"
    small = shrink(failure)
    (fault,) = small.scenario.faults
    assert str(fault) == "in call 1 of shop.execute(), checkpoint 0: crash"


def test_a_scenario_is_plain_data() -> None:
    def check(h: Harness[Any]) -> None:
        raise AssertionError("always")

    kinds: set[str] = set()
    for seed in range(20):
        failure = find(healthy, seeds=[seed], faults=Faults(), check=[check])
        adapter = TypeAdapter(Scenario)
        assert adapter.validate_json(adapter.dump_json(failure.scenario)) == failure.scenario
        kinds |= {type(fault.what).__name__ for fault in failure.scenario.faults}
    assert kinds == {"Crash", "Delay", "Cancel", "Stray", "Command"}


async def wait_for_a_stop() -> None:
    await sleep_forever()


def test_what_a_check_raises_is_a_failure() -> None:
    def check(h: Harness[Any]) -> None:
        assert h.handled(ORDERS) == [1], "not what was wanted"

    failure = find(healthy, check=[check])
    assert failure.kind == "check"
    assert "not what was wanted" in failure.what


def test_what_the_drive_raises_is_a_failure() -> None:
    async def drive(h: Harness[Any], rng: Random) -> None:
        raise KeyError("nothing there")

    failure = find(healthy, drive=drive)
    assert (failure.kind, failure.what) == ("drive", "KeyError: 'nothing there'")


def test_a_receiver_that_nobody_closed_is_found() -> None:
    kept: list[BroadcastReceiveStream[int]] = []

    def build() -> Scheduler:
        scheduler = healthy()

        @scheduler.background()
        async def forgetful() -> None:
            kept.append(scheduler.subscribe(ORDERS))

        return scheduler

    failure = find(build)
    for stream in kept:
        stream.close()
    assert failure.kind == "nothing_left"
    assert "1 receivers of orders (int)" in failure.what


def test_what_the_garbage_collector_warns_of_is_found() -> None:
    def build() -> Scheduler:
        scheduler = Scheduler()

        @scheduler.background()
        async def forgetful() -> None:
            sleep(1)  # type: ignore[unused-coroutine]  # that is the mistake

        return scheduler

    failure = find(build)
    assert failure.kind == "no_warnings"
    assert "'sleep' was never awaited" in failure.what


def stubborn() -> Scheduler:
    scheduler = Scheduler()

    @scheduler.background(stop_timeout=1)
    async def deaf() -> None:
        with CancelScope(shield=True):
            await sleep_forever()

    return scheduler


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_run_that_hangs_is_found_and_left_behind(backend: str) -> None:
    import trio._core._run as trio_run

    before = (trio_run._ALLOW_DETERMINISTIC_SCHEDULING, trio_run._r)
    failure = find(stubborn, backends=[backend])
    assert failure.kind == "stop_in_time"
    assert "task 'deaf':" in failure.stacks
    assert "await sleep_forever()" in failure.stacks
    assert failure.stacks in str(failure)
    assert (trio_run._ALLOW_DETERMINISTIC_SCHEDULING, trio_run._r) == before
    simulate(healthy, seeds=[1])  # goes on as if nothing had been


def test_a_run_that_spins_ends_the_process_with_its_seed_and_its_place() -> None:
    code = """
from orchestrio import Scheduler
from orchestrio.testing import Faults, simulate

def build():
    scheduler = Scheduler()

    @scheduler.background()
    async def waiting():
        await __import__("anyio").sleep(5)

    @scheduler.background()
    async def spinning():
        while True:
            pass

    return scheduler

simulate(build, seeds=[17], faults=Faults(most=0), seconds=1, backends=["{backend}"])
"""
    for backend in ("asyncio", "trio"):
        ended = subprocess.run(
            [sys.executable, "-c", code.replace("{backend}", backend)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == 70, ended.stderr
        assert f"seed 17 on {backend}" in ended.stderr
        assert "in spinning" in ended.stderr
        assert "task 'waiting':" in ended.stderr


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_handlers_that_wait_for_each_other_are_found(backend: str) -> None:
    def build() -> Scheduler:
        scheduler = Scheduler()
        scheduler.add_channel(ORDERS)
        locks = anyio.Lock(), anyio.Lock()

        def taking(first: anyio.Lock, second: anyio.Lock) -> Callable[[int], Any]:
            async def take(order: int) -> None:
                async with first:
                    await sleep(1)
                    async with second:
                        pass

            return take

        scheduler.on(ORDERS, name="one")(taking(*locks))
        scheduler.on(ORDERS, name="other")(taking(*reversed(locks)))
        return scheduler

    async def publish(h: Harness[Any], random: Random) -> None:
        await h.publish(ORDERS, 1)

    failure = find(build, drive=publish, backends=[backend])
    assert failure.kind in ("drive", "no_deadlock")
    assert "nothing has happened since 1 s" in failure.what

    def alone() -> Scheduler:
        scheduler = build()

        @scheduler.background()
        async def publisher() -> None:
            await scheduler.publish(ORDERS, 1)
            await sleep_forever()

        return scheduler

    failure = find(alone, backends=[backend])
    assert failure.kind == "no_deadlock"
    assert "one has 1 message in hand, and nothing has happened since 1 s" in failure.what


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_handler_that_waits_for_itself_is_found_with_what_it_waits_for(backend: str) -> None:
    def build() -> Scheduler:
        scheduler = Scheduler()
        scheduler.add_channel(ORDERS, ChannelConfig(capacity=2, overflow="block"))

        @scheduler.on(ORDERS, name="crawler")
        async def crawler(number: int) -> None:
            for _ in range(3):
                await scheduler.publish(ORDERS, number)

        @scheduler.background()
        async def publisher() -> None:
            await scheduler.publish(ORDERS, 1)
            await sleep_forever()

        return scheduler

    failure = find(build, backends=[backend])
    assert failure.kind == "no_deadlock"
    assert "crawler has 1 message in hand, waits for room in channel orders (int)" in failure.what


def test_a_drive_that_never_returns_is_found() -> None:
    async def drive(h: Harness[Any], random: Random) -> None:
        await sleep_forever()

    failure = find(healthy, drive=drive)
    assert failure.kind == "drive"
    assert "it has not returned within limit (60 s)" in failure.what


def test_a_drive_goes_on_when_all_background_tasks_have_ended() -> None:
    async def drive(h: Harness[Any], random: Random) -> None:
        await sleep(30)
        await h.publish(ORDERS, 99)

    def check(h: Harness[Any]) -> None:
        assert 99 in h.handled(ORDERS)

    simulate(healthy, seeds=[1, 2], drive=drive, check=[check], faults=NO_FAULTS)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_drive_that_asks_to_exit_ends_the_run(backend: str) -> None:
    async def drive(h: Harness[Any], random: Random) -> None:
        raise SystemExit(3)

    assert find(healthy, drive=drive, backends=[backend]).what == "SystemExit: 3"


def test_a_message_that_cannot_be_shown_is_handled_all_the_same() -> None:
    things = Topic("things", object)

    class Shy:
        def __repr__(self) -> str:
            raise ValueError("not now")

    def build() -> Scheduler:
        scheduler = Scheduler()
        scheduler.add_channel(things)
        scheduler.on(things)(look)
        return scheduler

    async def look(thing: object) -> None:
        pass

    async def drive(h: Harness[Any], random: Random) -> None:
        await h.publish(things, Shy())

    simulate(build, seeds=[1], drive=drive, faults=NO_FAULTS)


# -- faults ----------------------------------------------------------------------------------


def test_an_injected_crash_that_ends_the_run_is_no_failure() -> None:
    def build() -> Scheduler:
        scheduler = Scheduler()
        scheduler.background()(wait_for_a_stop)
        return scheduler

    report = simulate(build, seeds=range(10), faults=Faults(delays=0, commands=0), limit=50)
    assert report.faults["crash"] > 5


STRAYS = Faults(crashes=0, delays=0, cancellations=0, commands=0)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_stray_cancellation_that_ends_the_run_is_no_failure(
    backend: Literal["asyncio", "trio"],
) -> None:
    def build() -> Scheduler:
        scheduler = Scheduler()
        scheduler.background()(wait_for_a_stop)
        return scheduler

    report = simulate(build, seeds=range(10), faults=STRAYS, limit=50, backends=[backend])
    assert set(report.faults) == {"stray"}


def trace_of(build: Callable[[], Scheduler], seed: int, **options: Any) -> tuple[str, ...]:
    """What happens in a run of which nothing is wrong."""

    def check(h: Harness[Any]) -> None:
        raise AssertionError("to see the trace")

    return find(build, seeds=[seed], check=[check], **options).trace


def test_a_hook_raises_a_cancellation_that_nobody_asked_for() -> None:
    traces = [trace_of(healthy, seed, faults=STRAYS, backends=["asyncio"]) for seed in range(20)]
    ends = [line for trace in traces for line in trace if ") ends: CancelledError: stray" in line]
    hooks = {hook for hook in ("initialize", "execute", "shutdown") if any(hook in e for e in ends)}
    assert hooks == {"initialize", "execute", "shutdown"}
    assert any("was cancelled by something other" in line for trace in traces for line in trace)


def lasting() -> Scheduler:
    """A program whose one task works until it is stopped."""
    scheduler = Scheduler()
    scheduler.background(restart=RestartPolicy())(wait_for_a_stop)
    return scheduler


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_clean_up_raises_when_its_hook_is_cancelled(backend: str) -> None:
    traces = [trace_of(lasting, seed, faults=STRAYS, backends=[backend]) for seed in range(20)]
    lines = [line for trace in traces for line in trace]
    assert any("checkpoint 0: clean-up fails when it is cancelled" in line for line in lines)
    assert any("BaseExceptionGroup: a clean-up failed (2 sub-exceptions)" in line for line in lines)


def test_a_task_that_others_depend_on_is_replaced() -> None:
    def build() -> Scheduler:
        scheduler = Scheduler()
        scheduler.background(name="database")(wait_for_a_stop)
        scheduler.background(name="web", depends_on=["database"])(wait_for_a_stop)
        return scheduler

    commands = Faults(crashes=0, delays=0, cancellations=0, strays=0, most=2)
    traces = [trace_of(build, seed, faults=commands, limit=60) for seed in range(60)]
    lines = [line[10:].strip() for trace in traces for line in trace]
    assert any("in place of database" in line for line in lines)
    assert "database is gone" in lines
    assert "database is registered" in lines


COMMANDS = Faults(crashes=0, delays=0, cancellations=0, strays=0)


def grouped() -> Scheduler:
    """A program of one task in a group, and one in no group."""
    scheduler = Scheduler()
    scheduler.group("storage").background(name="database")(wait_for_a_stop)
    scheduler.background(name="web")(wait_for_a_stop)
    return scheduler


def test_commands_are_for_groups_as_well() -> None:
    traces = [trace_of(grouped, seed, faults=COMMANDS, limit=60) for seed in range(120)]
    lines = [line[10:].strip() for trace in traces for line in trace]
    for command in ("stop", "restart", "remove"):
        assert any(line.startswith(f"command: {command} group 'storage'") for line in lines)
        assert any(line.startswith(f"command: {command} database") for line in lines)
    assert any("register a background task in group 'storage'" in line for line in lines)


def test_a_command_to_a_group_is_what_is_left_if_it_is_all_that_is_needed() -> None:
    played: list[Scheduler] = []

    def build() -> Scheduler:
        played.append(grouped())
        return played[-1]

    def check(h: Harness[Any]) -> None:
        groups = played[-1].groups
        assert "storage" not in groups or not groups["storage"].restarts, "it was restarted"

    failure = find(build, seeds=range(200), faults=COMMANDS, check=[check])
    assert failure.kind == "check"
    (fault,) = shrink(failure).scenario.faults
    assert str(fault).endswith("restart group 'storage'")


def test_only_faults_with_a_weight_are_drawn() -> None:
    report = simulate(healthy, seeds=range(10), faults=Faults(crashes=0, strays=0, commands=0))
    assert set(report.faults) == {"delay", "cancel"}
    assert not simulate(healthy, seeds=range(3), faults=NO_FAULTS).faults


def test_faults_that_are_none_are_an_error() -> None:
    with pytest.raises(ValidationError, match="crash\n"):
        Faults(crash=1)  # type: ignore[call-arg]  # on purpose
    with pytest.raises(ValidationError, match="delays"):
        Faults(delays=-1)


def test_a_log_that_was_switched_off_is_read_all_the_same() -> None:
    logger = logging.getLogger("orchestrio")
    logger.disabled = True
    logging.disable(logging.CRITICAL)
    try:
        simulate(healthy, seeds=range(10), faults=NO_COMMANDS, limit=100)
        assert logger.disabled
        assert not logger.isEnabledFor(logging.CRITICAL)
    finally:
        logger.disabled = False
        logging.disable(logging.NOTSET)


# -- wrong use -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"backends": ["curio"]}, "backends"),
        ({"backends": []}, "backends"),
        ({"order": "random"}, "order"),
        ({"faults": 3}, "faults"),
        ({"limit": -1}, "limit"),
        ({"seconds": 0}, "seconds"),
        ({"check": [7]}, "check"),
        ({"check": [wait_for_a_stop]}, "check"),
        ({"drive": 7}, "drive"),
    ],
)
def test_a_wrong_option_is_an_error_that_names_it(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=rf"(?m)^{complaint}"):
        simulate(healthy, seeds=[1], **options)


def test_a_seed_or_a_program_that_is_none_is_an_error() -> None:
    with pytest.raises(TypeError, match="a seed is a whole number, not 'one'"):
        simulate(healthy, seeds=["one"])  # type: ignore[list-item]  # on purpose
    with pytest.raises(TypeError, match="build\\(\\) must return a Scheduler, not None"):
        simulate(lambda: None, seeds=[1])  # type: ignore[arg-type, return-value]  # on purpose
    with pytest.raises(ValidationError, match="build"):
        simulate(7, seeds=[1])  # type: ignore[arg-type]  # on purpose


# -- what it leaves alone --------------------------------------------------------------------


def test_what_the_library_logs_in_a_run_is_in_the_trace_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logger = logging.getLogger("orchestrio")
    before = logger.level, logger.propagate, logger.handlers[:]

    def build() -> Scheduler:
        scheduler = Scheduler()

        @scheduler.background(restart=RestartPolicy(mode="never"))
        async def doomed() -> None:
            raise RuntimeError("as it had to be")

        return scheduler

    def check(h: Harness[Any]) -> None:
        raise AssertionError

    failure = find(build, check=[check])
    assert any("log ERROR: task 'doomed' stopped" in line for line in failure.trace)
    assert not caplog.records
    assert (logger.level, logger.propagate, logger.handlers[:]) == before


def test_other_warnings_are_shown_as_ever() -> None:
    def build() -> Scheduler:
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        return Scheduler()

    with pytest.warns(DeprecationWarning, match="old"):
        simulate(build, seeds=[1], faults=NO_FAULTS)


def test_a_scheduler_that_is_not_new_is_an_error() -> None:
    scheduler = Scheduler()
    with pytest.raises(TypeError, match="must return a new scheduler each time"):
        simulate(lambda: scheduler, seeds=[1, 2])


def test_what_build_raises_comes_out_as_it_is() -> None:
    def build() -> Scheduler:
        raise ZeroDivisionError("a mistake")

    with pytest.raises(ZeroDivisionError, match="a mistake"):
        simulate(build, seeds=[1])


async def test_it_can_be_called_where_an_event_loop_runs() -> None:
    assert isinstance(simulate(healthy, seeds=[1]), SimulationReport)


def test_context_variables_of_the_caller_are_seen() -> None:
    from contextvars import ContextVar

    variable = ContextVar("variable", default="default")
    variable.set("the caller's")

    def build() -> Scheduler:
        assert variable.get() == "the caller's"
        return Scheduler()

    simulate(build, seeds=[1])
