"""Deadlines that a task has to keep while it works: to become ready, and to show signs of life."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from anyio import current_time, move_on_at
from anyio.lowlevel import checkpoint

from .._model.settings import TaskMetadata
from .._model.snapshots import TaskState
from .._workers.worker import Life
from .stopping import wait_cancelled

__all__ = ["needs_watching", "watch"]


def needs_watching(metadata: TaskMetadata) -> bool:
    """Whether a task has such a deadline."""
    return metadata.watchdog < inf or (metadata.reports_ready and metadata.start_timeout < inf)


async def watch(life: Life, end_the_run: Callable[[BaseException], None]) -> None:
    """Watch one run of a task until it is over; one that misses a deadline fails.

    :param life: its life
    :param end_the_run: called with the failure of a task that does not even end when cancelled
    """
    run = life.run

    async def until(true: Callable[[], bool], deadline: float) -> bool:
        """Wait until something holds or the run is over; return whether in time."""
        with move_on_at(deadline):
            await life.wait_until(lambda: true() or life.over or life.run is not run)
            return True
        return False

    metadata = life.entry.metadata
    await until(lambda: life.state is TaskState.RUNNING, inf)
    timeout = metadata.start_timeout
    if metadata.reports_ready and not await until(lambda: run.is_ready, life.works_since + timeout):
        await _kill(life, f"it was not ready within start_timeout ({timeout:g} s)", end_the_run)
        return
    while not life.over and life.run is run and metadata.watchdog < inf:
        due = life.last_beat() + metadata.watchdog
        if await until(lambda: False, due):
            return
        await checkpoint()  # after a jump of the clock, many wake at once: let them beat first
        if life.over or life.run is not run:
            return
        if current_time() >= due + metadata.watchdog:
            # Nobody could beat: the clock has jumped, or something blocked the whole event loop.
            run.last_beat = current_time()
        elif life.last_beat() + metadata.watchdog <= current_time():
            what = f"it gave no sign of life for {metadata.watchdog:g} s, its watchdog"
            await _kill(life, what, end_the_run)
            return


async def _kill(life: Life, why: str, end_the_run: Callable[[BaseException], None]) -> None:
    """Cancel a task as a failure; if it ignores that, nothing but a new process helps."""
    run = life.run
    life.kill(TimeoutError(why))
    await wait_cancelled(life, current_time())
    if life.stuck and life.run is run:
        end_the_run(life.execution_error(f" failed: {why}; it was cancelled, and ignores it"))
