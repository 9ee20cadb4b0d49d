"""Tests of the bridge run against a real server, and say loudly if there is none."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis_server import BINARY, RedisServer


@pytest.fixture(scope="module", autouse=True)
def pass_over_what_was_there() -> Iterator[None]:
    """Keep the thousands of tests from the collector, which else is what takes longest here."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
    gc.collect()


@pytest.fixture(autouse=True)
def leave_nothing_behind() -> Iterator[None]:
    """Collect what is left behind here, after all other fixtures, and not in a later test."""
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def the_client_logs_nothing() -> Iterator[None]:
    """A broken connection is told by the bridge, in one line; the client would give tracebacks."""
    records: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record.getMessage())

    logger, handler = logging.getLogger("coredis"), Keep()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield
    logger.removeHandler(handler)
    logger.setLevel(level)
    assert records == []


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
