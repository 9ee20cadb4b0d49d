"""These tests live in virtual time, on asyncio and on trio."""

from __future__ import annotations

import pytest
from support import NUMBERS
from support.diary import Diary

from orchestrio import Scheduler
from orchestrio.testing import virtual_time


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    return virtual_time(request.param)


@pytest.fixture
def scheduler() -> Scheduler:
    """One whose delays have no jitter, with a channel; some files have another."""
    scheduler = Scheduler(random=lambda: 0.0)
    scheduler.add_channel(NUMBERS)
    return scheduler


@pytest.fixture
def diary() -> Diary:
    return Diary()
