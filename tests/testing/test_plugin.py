"""The pytest plugin, in runs of pytest of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = """
import pytest

@pytest.fixture
def anyio_backend(virtual_anyio_backend):
    return virtual_anyio_backend
"""


def run_pytest(folder: Path, tests: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a file of tests in a process of its own."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_it.py").write_text(tests)
    settings = (
        *("-p", "no:cacheprovider", "-p", "no:asyncio", "-p", "no:hypothesispytest"),
        *("-o", "anyio_mode=auto", "-q", "-W", "error"),
    )
    environment = {**os.environ, "COLUMNS": "200"}
    environment.pop("ORCHESTRIO_SEED", None)
    return subprocess.run(
        [sys.executable, "-m", "pytest", *settings, *options, "test_it.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
    )


def test_the_fixtures_make_a_test_of_a_program(tmp_path: Path) -> None:
    ended = run_pytest(
        tmp_path,
        """
import anyio

from orchestrio import Topic

ORDERS = Topic("orders", int)

async def test_an_order_takes_an_hour(scheduler, harness):
    scheduler.add_channel(ORDERS)

    @scheduler.on(ORDERS)
    async def ship(order):
        await anyio.sleep(3600)

    async with harness(scheduler) as h:
        await h.publish(ORDERS, 7)
        await h.idle()
        h.assert_handled(ORDERS, [7])
        assert anyio.current_time() == 3600
""",
    )
    assert "2 passed" in ended.stdout, ended.stdout


def test_a_task_that_fails_while_the_test_waits_ends_the_test_with_its_own_error(
    tmp_path: Path,
) -> None:
    ended = run_pytest(
        tmp_path,
        """
import anyio

async def test_that_waits_for_ever(scheduler, harness):
    @scheduler.background()
    async def doomed():
        await anyio.sleep(1)
        raise ZeroDivisionError("it had to come")

    async with harness(scheduler):
        await anyio.sleep_forever()

async def test_after_it_runs_as_ever(scheduler, harness):
    async with harness(scheduler):
        pass
""",
    )
    assert "2 failed, 2 passed" in ended.stdout, ended.stdout
    for backend in ("asyncio", "trio"):
        assert (
            f"test_that_waits_for_ever[{backend}] - orchestrio.TaskExecutionError" in ended.stdout
        )
    assert (
        len(re.findall(r"^E +ZeroDivisionError: it had to come", ended.stdout, re.MULTILINE)) == 2
    )
    assert "Exception Group Traceback" not in ended.stdout


SIMULATION = """
from orchestrio import Scheduler
from orchestrio.testing import simulate

played = []

def build():
    return Scheduler()

def test_simulation():
    report = simulate(build, seeds=range(3), check=[lambda h: played.append(h)])
    assert len(played) == report.runs == {runs}
"""


@pytest.mark.parametrize(("options", "runs"), [((), 6), (("--orchestrio-seed=17",), 2)])
def test_the_option_plays_one_seed_alone(
    tmp_path: Path, options: tuple[str, ...], runs: int
) -> None:
    ended = run_pytest(tmp_path, SIMULATION.format(runs=runs), *options)
    assert "1 passed" in ended.stdout, ended.stdout


def test_the_option_decides_on_the_order_of_steps(tmp_path: Path) -> None:
    tests = """
import anyio

async def test_order():
    order = []

    async def step(number):
        order.append(number)

    async with anyio.create_task_group() as group:
        for number in range(8):
            group.start_soon(step, number)
    assert False, order
"""
    runs = [
        [line for line in run_pytest(tmp_path, tests, *option).stdout.splitlines() if "E  " in line]
        for option in ((), ("--orchestrio-seed=1",), ("--orchestrio-seed=1",))
    ]
    assert runs[1] == runs[2]
    assert runs[0][0] != runs[1][0]


def test_the_plugin_imports_nothing_until_a_fixture_is_used(tmp_path: Path) -> None:
    ended = run_pytest(
        tmp_path,
        """
import sys

def test_nothing_is_imported():
    assert "_orchestrio_pytest" in sys.modules
    assert "orchestrio" not in sys.modules

def test_the_library_does_not_import_the_kit():
    import orchestrio
    assert not [name for name in sys.modules if name.startswith("orchestrio.testing")]
""",
    )
    assert "2 passed" in ended.stdout, ended.stdout


def test_a_run_that_spins_says_why_it_ends_the_process_though_output_is_captured(
    tmp_path: Path,
) -> None:
    ended = run_pytest(
        tmp_path,
        """
from orchestrio import Scheduler
from orchestrio.testing import Faults, simulate

def build():
    scheduler = Scheduler()

    @scheduler.background()
    async def spinning():
        while True:
            pass

    return scheduler

def test_that_spins():
    simulate(build, seeds=[17], seconds=1, faults=Faults(most=0))
""",
    )
    assert ended.returncode == 70
    assert "seed 17 on asyncio" in ended.stderr
    assert "in spinning" in ended.stderr


def test_the_option_is_in_the_help(tmp_path: Path) -> None:
    ended = run_pytest(tmp_path, "", "--help")
    assert "--orchestrio-seed=N" in ended.stdout
