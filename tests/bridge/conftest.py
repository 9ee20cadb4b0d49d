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


def collect() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", LEFT_BEHIND, ResourceWarning)
        gc.collect()


@pytest.fixture(scope="module", autouse=True)
def pass_over_what_was_there() -> Iterator[None]:
    """Keep the thousands of tests from the collector, which else is what takes longest here."""
    collect()
    gc.freeze()
    yield
    gc.unfreeze()
    collect()


@pytest.fixture(autouse=True)
def leave_nothing_behind() -> Iterator[None]:
    """Collect what clients leave behind here, after all other fixtures, and not in a later test."""
    yield
    collect()


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
