"""What the tests share: letting other tasks run, without a clock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from anyio import CancelScope
from anyio.lowlevel import checkpoint


async def settle(turns: int = 20) -> None:
    """Let every other task run until it waits for something; no time passes."""
    for _ in range(turns):
        await checkpoint()


@contextmanager
def cancelled() -> Iterator[CancelScope]:
    """A block in which the first checkpoint is cancelled."""
    with CancelScope() as scope:
        scope.cancel()
        yield scope
