"""Virtual time for trio: its own mock clock, told when it may jump."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf
from typing import final

import trio
from anyio.to_thread import current_default_thread_limiter
from trio.testing import MockClock

from ..._scheduler.signals import SIGNALS
from . import trio_order
from .clock import Watch

# What trio's statistics count, by platform. A task of its own always waits to be woken.
WAITING = ("tasks_waiting_read", "tasks_waiting_write", "tasks_waiting_overlapped", "tasks_waiting")
OWN_TASKS = 1


def virtual_options(watch: Watch) -> dict[str, object]:
    """Return the options for AnyIO's trio backend.

    :raises RuntimeError: if there is a seed, and trio has nothing any more that could take it
    """
    if watch.seed is not None:
        trio_order.require_private_names()
    clock = MockClock(autojump_threshold=0)
    return {"clock": clock, "instruments": [Course(watch), JumpControl(clock, watch)]}


def task_lister() -> Callable[[], list[tuple[str, object]]]:
    """Return what lists the tasks of this event loop, by name and coroutine, in any thread."""
    root = trio.lowlevel.current_root_task()

    def below(task: trio.lowlevel.Task) -> Iterator[trio.lowlevel.Task]:
        yield task
        for nursery in list(task.child_nurseries):
            for child in list(nursery.child_tasks):
                yield from below(child)

    return lambda: [(task.name, task.coro) for task in below(root)] if root else []


@final
class Course(trio.abc.Instrument):
    """Sees to the order of the steps and to the wall clock, from the begin of a run to its end."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def before_run(self) -> None:
        """Set both."""
        self._watch.run_begins()
        if self._watch.seed is not None:
            trio_order.take_over(self._watch.seed, self._watch.order)

    def after_run(self) -> None:
        """Leave trio as it was."""
        if self._watch.seed is not None:
            trio_order.put_back()


@final
class JumpControl(trio.abc.Instrument):
    """Keeps setting how long, in real time, nothing must have happened for the clock to jump."""

    def __init__(self, clock: MockClock, watch: Watch) -> None:
        self._clock = clock
        self._watch = watch

    # trio decides on a jump just before it would wait, and `before_io_wait` comes after that. All
    # that counts here changes in a task's step, the end of a thread too.
    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Set it after each step, as this may have been the last."""
        self._set_threshold()

    # But a deadline may pass with no task that it wakes. With none left, trio would not wait at all.
    def before_io_wait(self, timeout: float) -> None:
        """Set it for the next time."""
        self._set_threshold()
        if self._watch.before_jump is None or self._clock.autojump_threshold == inf:
            return
        statistics = trio.lowlevel.current_statistics()
        if not statistics.tasks_runnable and statistics.seconds_to_next_deadline > 0:
            self._watch.before_jump()

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
        own_tasks = OWN_TASKS + SIGNALS.files_waited_for
        return 0, self._watch.io_grace if waiting > own_tasks else 0
