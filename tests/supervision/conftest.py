"""These tests live in virtual time, on asyncio and on trio."""

from __future__ import annotations

import pytest
from support import NUMBERS
from support.diary import Diary

from orchestrio import DEAD_LETTERS, DeadLetter, Scheduler
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


@pytest.fixture
def letters(scheduler: Scheduler) -> list[DeadLetter]:
    """What could not be handled."""
    letters: list[DeadLetter] = []

    @scheduler.on(DEAD_LETTERS, name="undertaker")
    async def bury(letter: DeadLetter) -> None:
        letters.append(letter)

    return letters


@pytest.fixture(params=[1, 3])
def concurrency(request: pytest.FixtureRequest) -> int:
    """Of an event task: one message after the other, or a pool."""
    count: int = request.param
    return count
