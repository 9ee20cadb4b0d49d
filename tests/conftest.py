"""Every async test runs on asyncio, on asyncio with uvloop, and on trio."""

from __future__ import annotations

import os
import signal
import sys

import pytest
from redis_server import BINARY

# In the background of a shell Ctrl-C is ignored, and what a program ignores a scheduler does too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

BACKENDS = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("trio", {}), id="trio"),
]
if sys.platform != "win32":
    BACKENDS.insert(1, pytest.param(("asyncio", {"use_uvloop": True}), id="asyncio+uvloop"))


def pytest_xdist_auto_num_workers() -> int:
    """One process more than there are cores: the tests of the bridge wait most of their time."""
    return (os.cpu_count() or 1) + 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if BINARY is None:
        terminalreporter.write_line(
            "NOT TESTED: the bridge to Redis, for there is no redis-server and no valkey-server"
            " on PATH",
            red=True,
            bold=True,
        )


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param
