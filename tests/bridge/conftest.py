"""Tests of the bridge run against a real server, and say loudly if there is none."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis_server import BINARY, RedisServer

#: A client of coredis whose connection is refused leaves unclosed streams of AnyIO behind.
LEFT_BEHIND = "Unclosed <MemoryObject"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.filterwarnings(f"ignore:{LEFT_BEHIND}:ResourceWarning"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if BINARY is None:
        terminalreporter.write_line(
            "NOT TESTED: the bridge to Redis, for there is no redis-server and no valkey-server"
            " on PATH",
            red=True,
            bold=True,
        )


@pytest.fixture(autouse=True)
def leave_nothing_behind() -> Iterator[None]:
    """Collect what clients leave behind here, after all other fixtures, and not in a later test."""
    gc.freeze()  # thousands of tests are here already, and take longer to look through than to run
    yield
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", LEFT_BEHIND, ResourceWarning)
        gc.collect()
    gc.unfreeze()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that is empty, and there for one test."""
    if BINARY is None:
        pytest.skip("no redis-server and no valkey-server on PATH")
    server = RedisServer(tmp_path).start()
    try:
        yield server
    finally:
        server.kill()
