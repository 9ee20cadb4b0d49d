"""The examples run, end by themselves or on Ctrl-C, and lose nothing."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis_server import BINARY

EXAMPLES = Path(__file__).parent.parent / "examples"
PATIENCE = 30.0  # seconds; far more than any of them takes

#: What is no complaint: the life of the scheduler in the log, and that those lag whose channel
#: overwrites; the slow alerter always does, and where the machine is slow the rate does too.
TOLD = re.compile(r"\d\d:\d\d:\d\d (INFO    |WARNING task '(alerter|rate)' lagged)")

both_backends = pytest.mark.parametrize("backend", ["asyncio", "trio"])


@contextmanager
def running(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """An example that runs, with warnings as errors; killed in the end if it still does."""
    command = [sys.executable, "-W", "error", *map(str, arguments)]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def output_of(process: subprocess.Popen[str]) -> str:
    """What it prints until it ends, which it does well and with nothing to complain about."""
    output, log = process.communicate(timeout=PATIENCE)
    complaints = [line for line in log.splitlines() if not TOLD.match(line)]
    assert (process.returncode, complaints) == (0, [])
    return output


def summary_of(process: subprocess.Popen[str]) -> dict[str, int]:
    """The numbers of logwatch's table, by label."""
    output = output_of(process)
    assert output.endswith("\nnothing was lost\n")
    rows = re.findall(r"^ *(\w[\w ]*?) +(\d+)$", output, re.MULTILINE)
    return {label: int(number) for label, number in rows}


def log_lines(first: int, count: int) -> str:
    return "".join(
        f'192.0.2.1 - - [24/Nov/2026:13:00:00 +0000] "GET /{number} HTTP/1.1" 200 512\n'
        for number in range(first, first + count)
    )


def rows_in(database: Path) -> int:
    with closing(sqlite3.connect(database)) as connection:
        try:
            return int(connection.execute("SELECT COUNT(DISTINCT path) FROM hits").fetchone()[0])
        except sqlite3.OperationalError:  # the table is still to come
            return 0


def wait_for_rows(database: Path, count: int) -> None:
    """Wait for what another process does, which only its file tells."""
    deadline = time.monotonic() + PATIENCE
    while rows_in(database) < count:
        assert time.monotonic() < deadline, f"{rows_in(database)} rows instead of {count}"
        time.sleep(0.02)


@both_backends
def test_quickstart_collects_three_ticks_and_stops(backend: str) -> None:
    with running(EXAMPLES / "quickstart.py", backend) as process:
        assert output_of(process).splitlines() == [
            "collector: ready",
            "collector: got tick 1",
            "collector: got tick 2",
            "collector: got tick 3",
            "collector: stopped with ['tick 1', 'tick 2', 'tick 3']",
        ]


@dataclass
class Run:
    """A run of logwatch's demonstration that has ended."""

    summary: dict[str, int]
    database: Path


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def demonstration(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    database = tmp_path_factory.mktemp("logwatch") / "hits.db"
    options = ("--backend", request.param, "--database", database, "--lines", 4000)
    with running(EXAMPLES / "logwatch.py", *options) as process:
        return Run(summary_of(process), database)


@both_backends
def test_the_log_of_logwatch_tells_its_life(backend: str, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    log.write_text(log_lines(0, 100), "utf-8")
    options = ("--backend", backend, "--database", tmp_path / "hits.db", "--lines", 100)
    with running(EXAMPLES / "logwatch.py", log, *options) as process:
        _, told = process.communicate(timeout=PATIENCE)
    first, why, last = [line[17:] for line in told.splitlines()]
    assert re.fullmatch(r"started 5 tasks, ready in 0\.\d+ s", first)
    assert why == "stopping because shutdown() was called by task 'Follower'"
    pattern = r"stopped in \d.\d+ s: 5 tasks, 300 messages handled, 0 failed, 0 missed, 0 restarts"
    assert re.fullmatch(pattern, last)


def test_logwatch_accounts_for_every_line_it_wrote(demonstration: Run) -> None:
    summary = demonstration.summary
    assert summary["lines produced"] == summary["lines read"] == 4000
    assert summary["bad"] == 16
    assert summary["parsed"] == summary["rows in the database"] == 4000 - 16
    assert rows_in(demonstration.database) == 4000 - 16  # each of them once
    assert summary["rotations"] == 1


def test_logwatch_says_exactly_how_far_its_slow_alerter_lagged(demonstration: Run) -> None:
    summary = demonstration.summary
    assert summary["hits missed by lag"] > 0
    assert summary["hits looked at"] + summary["hits missed by lag"] == summary["parsed"]


@both_backends
def test_logwatch_follows_a_file_through_all_that_happens_to_it(
    backend: str, tmp_path: Path
) -> None:
    log, database = tmp_path / "access.log", tmp_path / "hits.db"
    log.write_text(log_lines(0, 100))
    options = ("--backend", backend, "--database", database, "--lines", 181)
    with running(EXAMPLES / "logwatch.py", log, *options) as process:
        wait_for_rows(database, 100)
        with log.open("a") as file:  # half a line, and the rest of it later
            line = log_lines(100, 1)
            file.write(log_lines(101, 1) + line[:30])
            file.flush()
            wait_for_rows(database, 101)
            file.write(line[30:])
        wait_for_rows(database, 102)
        if os.name == "posix":  # an open file cannot be renamed elsewhere
            log.rename(tmp_path / "access.log.1")
        log.write_text(log_lines(102, 50))
        wait_for_rows(database, 152)
        log.write_text(log_lines(152, 29))  # cut, and written from its beginning
        summary = summary_of(process)
    assert summary["lines read"] == summary["rows in the database"] == rows_in(database) == 181
    assert summary["rotations"] == (2 if os.name == "posix" else 1)


def test_logwatch_refuses_a_file_that_is_not_there(tmp_path: Path) -> None:
    with running(EXAMPLES / "logwatch.py", tmp_path / "no.log") as process:
        _, complaints = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert "no such file" in complaints


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C cannot be sent to one process here")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@both_backends
def test_logwatch_stopped_by_a_signal_ends_in_order(backend: str, sent: signal.Signals) -> None:
    with running(EXAMPLES / "logwatch.py", "--backend", backend, "--seconds", 600) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("following ")
        assert process.stdout.readline().startswith("alert: ")
        asked = time.monotonic()
        process.send_signal(sent)
        summary = summary_of(process)
        assert time.monotonic() - asked < 10
    assert summary["lines produced"] == summary["lines read"] > 0
    assert summary["parsed"] == summary["rows in the database"]


@both_backends
@pytest.mark.skipif(BINARY is None, reason="no redis-server and no valkey-server on PATH")
def test_cluster_loses_no_order_when_a_worker_is_killed(backend: str) -> None:
    with running(EXAMPLES / "cluster.py", "--backend", backend, "--orders", 100) as process:
        output, complaints = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, complaints
    killed = re.findall(r"^worker-\d is killed: it has packed (\d+) orders$", output, re.MULTILINE)
    assert killed == ["10"]
    packed = re.findall(r"^worker-\d has packed (\d+) orders$", output, re.MULTILINE)
    end = re.search(
        r"^of 100 orders, 0 were lost, and (\d+) were packed twice$", output, re.MULTILINE
    )
    assert end
    assert sum(map(int, packed)) == 100 + int(end[1])
    assert int(end[1]) <= 8
