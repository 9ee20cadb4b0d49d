"""The rules about waiting, for when all tasks wait and the clock is about to jump."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from orchestrio import Scheduler, TaskSnapshot, TaskState

from .audit import SUBSCRIBED
from .ledger import Ledger


def see_that_it_ends(scheduler: Scheduler[Any], ledger: Ledger) -> None:
    """See that run() does not go on when no background task is left and all is handled."""
    if scheduler.stopping.is_set():
        return
    tasks = scheduler.status()
    if any(task.kind == "background" for task in tasks) and all(map(_is_over_or_idle, tasks)):
        ledger.violate("no_deadlock", "run() goes on, though nothing is left to run for")


def _is_over_or_idle(task: TaskSnapshot) -> bool:
    """Whether run() need not wait for a task."""
    if task.state in (TaskState.COMPLETED, TaskState.STOPPED, TaskState.FAILED):
        return True
    idle = task.state is TaskState.RUNNING and not (task.unread or task.in_hand)
    return task.kind == "event" and idle


def see_that_nobody_is_forgotten(
    scheduler: Scheduler[Any],
    ledger: Ledger,
    handling: Collection[str],
    recorders: Mapping[object, int],
) -> None:
    """See that nobody waits who could go on: a wake-up was lost.

    :param scheduler: the scheduler
    :param ledger: what was seen so far
    :param handling: the tasks that are in one of their hooks
    :param recorders: how many receivers of each event are recorders
    """
    unread: dict[str, list[int]] = {}
    for task in scheduler.status():
        if task.kind != "event" or task.event is None:
            continue
        if task.state in SUBSCRIBED:  # of one that is being stopped, this cannot be told
            unread.setdefault(task.event, []).append(task.unread)
        idle = task.state is TaskState.RUNNING and not task.in_hand
        if idle and task.unread and task.name not in handling:
            what = f"{task.name} waits for a message, and has {task.unread} to read"
            ledger.violate("no_deadlock", what)
    for event, statistics in scheduler.bus.statistics().items():
        known = unread.get(str(event), [])
        others = statistics.receivers - len(known) - recorders.get(event, 0)
        full = max(known, default=0) >= statistics.capacity
        if statistics.tasks_waiting_send and not full and others <= 0:
            what = f"a sender waits for room on {event!s}, and there is room"
            ledger.violate("no_deadlock", what)
