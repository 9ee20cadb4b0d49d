"""What the tests share: a topic or two, a trouble, and turns of the event loop."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from anyio import CancelScope, fail_after, sleep
from anyio.lowlevel import checkpoint

from orchestrio import RestartPolicy, Topic

NUMBERS = Topic("numbers", int)
WORDS = Topic("words")

#: A restart one second after each failure, however many there are.
SOON = RestartPolicy(initial_delay=1, multiplier=1, jitter=0, max_restarts=None)
ONCE = RestartPolicy(initial_delay=1, multiplier=1, jitter=0, max_restarts=1, within=1000)
NEVER = RestartPolicy(mode="never")

posix_signals = pytest.mark.skipif(
    sys.platform == "win32", reason="Windows has no signals that a process can send itself"
)


IN_TIME = 60.0
"""How long anything that a test waits for may take, in seconds."""


class TroubleError(Exception):
    """What goes wrong in a task of a test."""


async def settle(turns: int = 20) -> None:
    """Let every other task run until it waits for something; no time passes."""
    for _ in range(turns):
        await checkpoint()


async def until(true: Callable[[], bool]) -> None:
    """Wait for something that tells nobody, such as what happens in another process."""
    with fail_after(IN_TIME):
        while not true():  # noqa: ASYNC110  # see above
            await sleep(0.01)


def errors(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What was logged as an error, or worse."""
    return [record for record in caplog.records if record.levelno >= logging.ERROR]


@contextmanager
def cancelled() -> Iterator[CancelScope]:
    """A block in which the first checkpoint is cancelled."""
    with CancelScope() as scope:
        scope.cancel()
        yield scope
