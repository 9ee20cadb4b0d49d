"""The how-tos for other people's programs: servers, systemd, tokio's names."""

from __future__ import annotations

import configparser
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from documented import DOCS, Example, blocks_of, examples_of

import orchestrio
from orchestrio import LaggedError, create_broadcast_stream

IN_TIME = 30.0
"""How long a process may take to start or to end, in seconds."""

only_posix = pytest.mark.skipif(sys.platform == "win32", reason="needs SIGTERM")


HOW_TO = DOCS / "how-to"


def the_example_of(page: str, mark: str = "") -> Example:
    """The one with that mark that a page has for something else to run."""
    (example,) = [
        example
        for example in examples_of(HOW_TO / page)
        if example.runs_under and mark in example.source
    ]
    return example


# -- Starlette and FastAPI --------------------------------------------------------------------


class Server:
    """A real server of the page's application, on a port of its own choice."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.address = self._wait_for_address()

    def _wait_for_address(self) -> str:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if match := re.search(r"http://127\.0\.0\.1:[1-9]\d*", line):
                return match[0]
        raise AssertionError(f"the server did not start: exit code {self.process.wait()}")

    def ask(self, path: str, method: str = "GET", body: object = None) -> tuple[int, object]:
        request = urllib.request.Request(self.address + path, method=method)
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=IN_TIME) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def stop(self) -> str:
        """Stop it as a service manager would, and return what it printed."""
        self.process.send_signal(signal.SIGTERM)
        printed, _ = self.process.communicate(timeout=IN_TIME)
        return printed


@contextmanager
def serving(example: Example, command: list[str], folder: Path) -> Iterator[Server]:
    (folder / "shop.py").write_text(example.source, "utf-8")
    with subprocess.Popen(
        [sys.executable, "-u", "-m", *command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Server(process)
        finally:
            process.kill()


UVICORN = ["uvicorn", "shop:app", "--port", "0", "--no-access-log"]
HYPERCORN = ["hypercorn", "shop:app", "-k", "trio", "--bind", "127.0.0.1:0"]


@only_posix
@pytest.mark.parametrize("command", [UVICORN, HYPERCORN], ids=["asyncio", "trio"])
def test_the_application_publishes_what_it_is_sent(command: list[str], tmp_path: Path) -> None:
    with serving(the_example_of("starlette.md", "Starlette("), command, tmp_path) as server:
        for number in range(3):
            assert server.ask(f"/orders/{number}", "POST") == (202, {"receivers": 1})
        status, report = server.ask("/health")
        assert status == 200
        assert isinstance(report, dict)
        assert report["ready"]
        assert report["tasks"] == {"running": 1}
        assert server.stop() == "shipped 0\nshipped 1\nshipped 2\nstopped\n"


@only_posix
@pytest.mark.parametrize("command", [UVICORN, HYPERCORN], ids=["asyncio", "trio"])
def test_an_application_of_fastapi_publishes_models(command: list[str], tmp_path: Path) -> None:
    with serving(the_example_of("starlette.md", "FastAPI("), command, tmp_path) as server:
        tea = {"number": 1, "item": "tea"}
        assert server.ask("/orders", "POST", tea) == (202, 1)
        assert server.ask("/returns", "POST", tea | {"item": "milk"}) == (202, None)
        assert server.ask("/orders", "POST", {"number": "none"})[0] == 422
        status, report = server.ask("/health")
        assert status == 200
        assert isinstance(report, dict)
        assert report["ready"]
        assert server.stop() == "shipped tea\nshipped milk\nstopped\n"


@pytest.fixture
def failing() -> Example:
    """The application with a handler that fails at the order of number 0."""
    example = the_example_of("starlette.md", "Starlette(")
    source = example.source.replace('"shipped", number', "1 / number")
    assert source != example.source
    return replace(example, source=source)


@only_posix
def test_the_health_of_the_application_tells_of_a_failure(failing: Example, tmp_path: Path) -> None:
    with serving(failing, UVICORN, tmp_path) as server:
        assert server.ask("/health")[0] == 200
        assert server.ask("/orders/0", "POST")[0] == 202
        while (answer := server.ask("/health"))[0] == 200:
            pass  # the handler has not failed yet
        status, report = answer
        assert status == 503
        assert isinstance(report, dict)
        assert not report["ready"]
        assert report["not_ready"] == ["ship"]


@only_posix
def test_hypercorn_on_trio_ends_with_a_failure(failing: Example, tmp_path: Path) -> None:
    with serving(failing, HYPERCORN, tmp_path) as server:
        assert server.ask("/orders/0", "POST")[0] == 202
        _, complaints = server.process.communicate(timeout=IN_TIME)
        assert "TaskExecutionError: task 'ship' failed" in complaints


def test_the_page_has_the_commands_that_serve_the_application() -> None:
    text = (HOW_TO / "starlette.md").read_text("utf-8")
    assert "`uvicorn shop:app`" in text
    assert "`hypercorn shop:app -k trio`" in text


# -- systemd ---------------------------------------------------------------------------------


@pytest.fixture
def unit() -> configparser.SectionProxy:
    """The service of the page, as systemd would read it."""
    (text,) = [text for language, text, _ in blocks_of(HOW_TO / "systemd.md") if language == "ini"]
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # as documented
    parser.read_string(text)
    return parser["Service"]


@only_posix
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_service_tells_systemd_how_it_is(
    backend: str, unit: configparser.SectionProxy, tmp_path: Path
) -> None:
    assert unit["Type"] == "notify"
    program = the_example_of("systemd.md").write(tmp_path, backend)
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(IN_TIME)
        environment = os.environ | {
            "NOTIFY_SOCKET": address,
            "WATCHDOG_USEC": str(int(unit["WatchdogSec"]) * 1_000_000),
        }
        with subprocess.Popen(
            [sys.executable, program], env=environment, stdout=subprocess.PIPE, text=True
        ) as service:
            assert manager.recv(4096) == b"READY=1"
            assert manager.recv(4096) == b"WATCHDOG=1"
            service.terminate()
            assert manager.recv(4096) == b"STOPPING=1"
            printed, _ = service.communicate(timeout=IN_TIME)
    assert service.returncode == 0
    assert printed.startswith("polled\n")
    assert printed.endswith("polled\nfinished gracefully\n")


def test_the_service_has_the_time_that_its_tasks_may_take(
    unit: configparser.SectionProxy,
) -> None:
    match = re.search(r"stop_timeout=(\d+)", the_example_of("systemd.md").source)
    assert match
    defaults = orchestrio.TaskMetadata()
    longest = float(match[1]) + defaults.drain_timeout + defaults.shutdown_timeout
    assert longest <= float(unit["TimeoutStopSec"])


# -- containers ------------------------------------------------------------------------------


def longest_stop() -> float:
    """How long a task may take to stop that says nothing else, in seconds."""
    defaults = orchestrio.TaskMetadata()
    return defaults.stop_timeout + defaults.drain_timeout + defaults.shutdown_timeout + 2


def test_kubernetes_and_docker_wait_for_as_long_as_a_stop_may_take() -> None:
    manifest = (HOW_TO / "kubernetes.md").read_text("utf-8")
    (grace,) = re.findall(r"^ +terminationGracePeriodSeconds: (\d+)", manifest, re.MULTILINE)
    (before,) = re.findall(r"sleep: \{ seconds: (\d+) \}", manifest)
    assert int(before) + longest_stop() <= int(grace)
    (limit,) = re.findall(r"--stop-timeout (\d+)", (HOW_TO / "docker.md").read_text("utf-8"))
    assert longest_stop() <= int(limit)


def test_the_probes_of_the_manifest_are_those_that_the_program_answers() -> None:
    manifest = (HOW_TO / "kubernetes.md").read_text("utf-8")
    asked = set(re.findall(r"httpGet: \{ path: (\S+), port: 8080 \}", manifest))
    assert asked == {"/live", "/ready"}
    assert all(f"GET {path}" in manifest for path in asked)


# -- tokio -----------------------------------------------------------------------------------


def names_beside_those_of_tokio() -> list[str]:
    """What the second column of the table has of our streams, such as ``send.clone``."""
    text = (HOW_TO / "from-tokio.md").read_text("utf-8")
    table = text[text.index("| tokio | orchestrio |") :].partition("\n\n")[0]
    ours = [line.split(" | ", 1)[1] for line in table.splitlines()[2:]]
    return sorted(set(re.findall(r"\b(?:send|receive)(?:\.\w+(?:\(\))?)+", "\n".join(ours))))


@pytest.mark.parametrize("name", names_beside_those_of_tokio())
def test_a_name_beside_one_of_tokio_is_there(name: str) -> None:
    send, receive = create_broadcast_stream[int](2)
    with send, receive:
        found: object = {"send": send, "receive": receive}[name.split(".")[0]]
        for part in name.split(".")[1:]:
            found = getattr(found, part.removesuffix("()"))
            if part == "statistics()":
                assert callable(found)
                found = found()


def test_there_are_names_beside_those_of_tokio() -> None:
    assert {"send.subscribe()", "receive.resubscribe()", "send.statistics().buffered"} <= {
        *names_beside_those_of_tokio()
    }


def test_what_the_streams_count_is_what_the_page_says() -> None:
    send, receive = create_broadcast_stream[int](2)
    with send, receive, receive.clone() as other:
        send.send_nowait(1)
        assert (send.statistics().receivers, send.statistics().buffered) == (2, 1)
        receive.receive_nowait()
        assert (len(receive), len(other)) == (0, 1)
        assert send.statistics().buffered == 1  # until the last receiver has read it
        other.receive_nowait()
        assert send.statistics().buffered == 0
        assert receive.statistics().channel.senders == 1
        for number in range(2, 5):
            send.send_nowait(number)
        assert len(other) == 2  # tokio has 3: it counts what was overwritten
        with pytest.raises(LaggedError) as lag:
            other.receive_nowait()
        assert lag.value.missed == 1
        receive.close()
        other.receive_nowait()
        assert send.statistics().buffered == 2  # tokio has 1: everybody has read the other
        other.receive_nowait()
        assert send.statistics().buffered == 0
        send.close()
        assert other.statistics().channel.senders == 0
