"""Tests of the bridge run against a real server, and say loudly if there is none."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis_server import BINARY, RedisServer


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
        # A client whose connection is refused leaves unclosed streams of AnyIO behind.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Unclosed <MemoryObject", ResourceWarning)
            gc.collect()
