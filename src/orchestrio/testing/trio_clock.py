"""Virtual time for trio: its own mock clock, told when it may jump."""

from __future__ import annotations

from math import inf
from typing import final

import trio
from anyio.to_thread import current_default_thread_limiter
from trio.testing import MockClock

# What trio's statistics count, by platform. A task of its own always waits to be woken.
WAITING = ("tasks_waiting_read", "tasks_waiting_write", "tasks_waiting_overlapped", "tasks_waiting")
OWN_TASKS = 1


def virtual_options(io_grace: float) -> dict[str, object]:
    """Return the options for AnyIO's trio backend."""
    clock = MockClock(autojump_threshold=0)
    return {"clock": clock, "instruments": [JumpControl(clock, io_grace)]}


@final
class JumpControl(trio.abc.Instrument):
    """Keeps setting how long, in real time, nothing must have happened for the clock to jump."""

    def __init__(self, clock: MockClock, io_grace: float) -> None:
        self._clock = clock
        self._io_grace = io_grace

    # trio decides on a jump just before it would wait, and `before_io_wait` comes after that. All
    # that counts here changes in a task's step, the end of a thread too.
    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Set it after each step, as this may have been the last."""
        self._set_threshold()

    # But a deadline may pass with no task that it wakes. With none left, trio would not wait at all.
    def before_io_wait(self, timeout: float) -> None:
        """Set it for the next time."""
        self._set_threshold()

    def _set_threshold(self) -> None:
        rate, threshold = self._rule()
        if rate != self._clock.rate:
            self._clock.rate = rate
        if threshold != self._clock.autojump_threshold:
            self._clock.autojump_threshold = threshold

    def _rule(self) -> tuple[float, float]:
        """How fast time runs by itself, and after how many idle real seconds it jumps."""
        if current_default_thread_limiter().borrowed_tokens:
            return 1, inf
        statistics = trio.lowlevel.current_statistics()
        if statistics.seconds_to_next_deadline == inf:
            return 0, inf
        waiting = sum(getattr(statistics.io_statistics, name, 0) for name in WAITING)
        return 0, self._io_grace if waiting > OWN_TASKS else 0
