"""A user's `kill`, in any phase of a program's life: it ends the process within its time-outs.

A third signal ends it at once, by itself, whatever Python code is in the way.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import posix_signals

pytestmark = posix_signals

PHASES = Path(__file__).with_name("phases.py")
BACKENDS = ["asyncio", "asyncio+uvloop", "trio"]

SLACK = 2 + 4.0
"""What a stop may take besides its time-outs, and what a busy machine may add, in seconds."""

SUM_OF_TIMEOUTS = 1.0
"""That of the longest one of the phases, in seconds."""

FORCED = {"slow_shutdown": 1}
"""Where a second signal does harm, so that the program ends with an error."""

STUCK = [
    "shielded_clean_up",
    "worker_thread",
    "blocked_loop",
    "spinning_loop",
    "lock_in_loop",
    "long_calls_into_c",
]
ENDING = {
    "initialize": 0,
    "waits_for_dependency": 0,
    "execute": 0,
    "log_that_raises": 0,
    "handler": 0,
    "back_off": 0,
    "drain": 0,
    "slow_stop": 0,
    "slow_shutdown": 1,
    "cancelled_run": 0,
}


class Ends(dict[tuple[str, tuple[int, ...]], dict[str, object]]):
    """How the processes ended, by phase and signals."""


@pytest.fixture(scope="module", params=BACKENDS)
def ends(request: pytest.FixtureRequest) -> Ends:
    run = subprocess.run(
        [sys.executable, PHASES, request.param], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    found = [json.loads(line) for line in run.stdout.splitlines()]
    return Ends({(end["phase"], tuple(end["signals"])): end for end in found})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("phase", ENDING)
def test_one_signal_ends_it_gracefully_within_its_timeouts(
    ends: Ends, phase: str, number: int
) -> None:
    end = ends[phase, (number,)]
    assert end["status"] == ENDING[phase]
    assert end["said"] == ["beside is down"]
    assert float(str(end["seconds"])) < SUM_OF_TIMEOUTS + SLACK


@pytest.mark.parametrize("phase", ENDING)
def test_a_second_signal_ends_it_at_once(ends: Ends, phase: str) -> None:
    end = ends[phase, (signal.SIGTERM, signal.SIGINT)]
    # Where the first one was enough, the second has found a program that has done its work.
    assert end["status"] in (ENDING[phase], -signal.SIGINT)
    assert end["said"] == ["beside is down"]
    assert float(str(end["seconds"])) < SLACK


THREE = [
    (signal.SIGINT, signal.SIGINT, signal.SIGINT),
    (signal.SIGTERM, signal.SIGINT, signal.SIGTERM),
]


@pytest.mark.parametrize("signals", THREE)
@pytest.mark.parametrize("phase", STUCK)
def test_a_third_signal_ends_by_itself_what_is_stuck(
    ends: Ends, phase: str, signals: tuple[int, ...]
) -> None:
    end = ends[phase, signals]
    assert end["status"] == -signals[-1]


@pytest.mark.parametrize("phase", ["shielded_clean_up", "worker_thread"])
def test_what_is_stuck_leaves_the_others_their_shutdown(ends: Ends, phase: str) -> None:
    assert ends[phase, THREE[0]]["said"] == ["beside is down"]


@pytest.mark.parametrize("signals", THREE)
@pytest.mark.parametrize("phase", ENDING)
def test_three_signals_end_it_in_any_phase(
    ends: Ends, phase: str, signals: tuple[int, ...]
) -> None:
    end = ends[phase, signals]
    assert end["status"] in (ENDING[phase], *(-number for number in signals))
    assert float(str(end["seconds"])) < SLACK


@pytest.mark.parametrize("phase", ["before_run", "closed_loop", "ended_loop"])
def test_before_and_after_run_the_signals_are_the_program_s(ends: Ends, phase: str) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        assert ends[phase, (number,)]["status"] == -number
