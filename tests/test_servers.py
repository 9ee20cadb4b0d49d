"""docs/how-to/servers.md, under the servers that it names, with clients that stay when they stop."""

from __future__ import annotations

import http.client
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from documented import DOCS, FENCED
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

IN_TIME = 30.0
"""How long a process may take to start, in seconds."""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs SIGTERM")

PAGE = DOCS / "how-to" / "servers.md"
APPLICATION, UVICORN, HYPERCORN = [
    block[2] for block in FENCED.finditer(PAGE.read_text("utf-8")) if block[1] == "python"
]
ON_ASYNCIO = HYPERCORN.replace("hypercorn.trio", "hypercorn.asyncio").replace(
    'anyio.run(main, backend="trio")', "anyio.run(main)"
)
ON_UVLOOP = UVICORN.replace(
    "anyio.run(main)", 'anyio.run(main, backend_options={"use_uvloop": True})'
)
PROGRAMS = {
    "uvicorn": UVICORN,
    "uvicorn+uvloop": ON_UVLOOP,
    "hypercorn": ON_ASYNCIO,
    "hypercorn+trio": HYPERCORN,
}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


@contextmanager
def served(command: list[str], folder: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-u", *command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            give_up = time.monotonic() + IN_TIME
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    assert time.monotonic() < give_up
                    assert process.poll() is None, process.communicate()[0]
                    time.sleep(0.05)
            yield process
        finally:
            process.kill()


@contextmanager
def events(port: int) -> Iterator[Callable[[], str]]:
    """A client that reads server-sent events, and stays; gives what reads the rest."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=IN_TIME)
    connection.request("GET", "/events")
    response = connection.getresponse()
    assert response.readline() == b"data: 20.5\n"
    try:
        yield lambda: response.read().decode()
    finally:
        response.close()
        connection.close()


@pytest.mark.parametrize("server", PROGRAMS)
def test_a_server_whose_clients_stay_ends_in_time(server: str, tmp_path: Path) -> None:
    port = free_port()
    changes = {"8000": str(port)}
    if "uvicorn" in server:
        changes["timeout_graceful_shutdown=5"] = "timeout_graceful_shutdown=60"
    (tmp_path / "live.py").write_text(APPLICATION, "utf-8")
    (tmp_path / "main.py").write_text(with_changes(PROGRAMS[server], changes), "utf-8")
    with (
        served(["main.py"], tmp_path, port) as process,
        events(port) as rest_of_events,
        connect(f"ws://127.0.0.1:{port}/socket") as web_socket,
    ):
        assert web_socket.recv(IN_TIME) == "20.5"
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        said = rest_of_events()
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                web_socket.recv(IN_TIME)
        printed, _ = process.communicate(timeout=IN_TIME)
        took = time.monotonic() - began
    assert said.endswith("event: end\ndata:\n\n")
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1001
    assert "the thread has ended" in printed
    assert "Traceback" not in printed
    assert process.returncode == 0, printed
    assert took < 20, "it waited for a time-out of uvicorn"


def with_changes(program: str, changes: dict[str, str]) -> str:
    for before, after in changes.items():
        assert before in program
        program = program.replace(before, after)
    return program


IN_LIFESPAN = re.sub(
    r"app = Starlette\(\n.*?\n\)",
    """
@contextlib.asynccontextmanager
async def lifespan(app):
    async with scheduler:
        await scheduler.start()
        yield


app = Starlette(lifespan=lifespan, routes=[Route("/events", server_sent_events)])
""",
    "import contextlib\n" + APPLICATION,
    flags=re.DOTALL,
)
COMMANDS = {
    "uvicorn": ["uvicorn", "live:app", "--timeout-graceful-shutdown", "1", "--port"],
    "hypercorn": ["hypercorn", "live:app", "--graceful-timeout", "1", "--bind"],
    "hypercorn+trio": ["hypercorn", "live:app", "--graceful-timeout", "1", "-k", "trio", "--bind"],
}


@pytest.mark.parametrize("server", COMMANDS)
def test_a_server_of_the_command_line_ends_within_its_time_out(server: str, tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "live.py").write_text(IN_LIFESPAN, "utf-8")
    command = COMMANDS[server]
    address = str(port) if command[-1] == "--port" else f"127.0.0.1:{port}"
    with served(["-m", *command, address], tmp_path, port) as process, events(port):
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        printed, _ = process.communicate(timeout=IN_TIME)
        assert time.monotonic() - began < 20
    assert "the thread has ended" in printed


def test_the_page_names_the_options() -> None:
    text = PAGE.read_text("utf-8")
    for option in ("--timeout-graceful-shutdown", "--graceful-timeout"):
        assert option in text
