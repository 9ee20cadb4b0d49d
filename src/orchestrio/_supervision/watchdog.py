"""Deadlines that a task has to keep while it works: to become ready, and to show signs of life."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from anyio import current_time, move_on_at
from anyio.lowlevel import checkpoint

from .._model.settings import TaskMetadata
from .._model.words import in_seconds
from .._workers.run import Run
from .._workers.worker import Worker
from .stopping import wait_cancelled

__all__ = ["needs_watching", "watch"]


def needs_watching(metadata: TaskMetadata) -> bool:
    """Whether a task has such a deadline."""
    return metadata.watchdog < inf or (metadata.reports_ready and metadata.start_timeout < inf)


async def watch(worker: Worker, run: Run, cannot_end: Callable[[BaseException], None]) -> None:
    """Watch one run of a task that works until it is over; one that misses a deadline fails.

    :param worker: the task
    :param run: its run
    :param cannot_end: called with the failure of a task that does not even end when cancelled
    """

    async def until(true: Callable[[], bool], deadline: float) -> bool:
        """Wait until something holds or the run is over; return whether in time."""
        with move_on_at(deadline):
            await worker.wait_until(lambda: true() or run.is_over or run.cancel_asked)
            return True
        return False

    async def fail(why: str) -> None:
        run.fail(TimeoutError(why))
        await wait_cancelled(run, current_time())
        if run.is_stuck:  # nothing but a new process helps
            what = f" failed: {why}; it was cancelled, and ignores it"
            cannot_end(worker.execution_error(what))

    metadata = worker.entry.metadata
    timeout = metadata.start_timeout
    if metadata.reports_ready:
        in_time = await until(lambda: run.info.is_ready, run.works_since + timeout)
        if not in_time:
            await fail(f"it was not ready within start_timeout ({in_seconds(timeout)})")
            return
    # Once it is cancelled it cannot beat, and has its stop_timeout.
    while not (run.is_over or run.cancel_asked) and metadata.watchdog < inf:
        due = worker.last_beat() + metadata.watchdog
        if await until(lambda: False, due):
            return
        await checkpoint()  # after a jump of the clock, many wake at once: let them beat first
        if run.is_over or run.cancel_asked:
            return
        if current_time() >= due + metadata.watchdog:
            # Nobody could beat: the clock has jumped, or something blocked the whole event loop.
            run.info.beat(current_time())
        elif worker.last_beat() + metadata.watchdog <= current_time():
            await fail(f"it gave no sign of life for {in_seconds(metadata.watchdog)}, its watchdog")
            return
