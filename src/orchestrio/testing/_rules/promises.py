"""The rules about commands: one that is done has done what it says, and an ended group stays down.

They are looked at while the scheduler runs: what holds when a command returns may not hold for
long, as somebody may give another.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from orchestrio import (
    RestartScheduled,
    Scheduler,
    StateChanged,
    TaskFailed,
    TaskId,
    TaskInitializationError,
    TaskSnapshot,
    TaskState,
)

from ..._workers.wanted import Wanted
from ..._workers.worker import Worker
from .ledger import Ledger, Registration

#: Where a task may be that was stopped; before the start, there is nothing to stop.
_DOWN = (TaskState.STOPPED, TaskState.FAILED, TaskState.REGISTERED)


def see_that_they_are_down(ledger: Ledger, tasks: Iterable[TaskSnapshot], since: int) -> None:
    """See that tasks are down that were stopped, but for those that ignore their cancellation.

    :param ledger: what was seen so far
    :param tasks: how those that were stopped stand now
    :param since: the place at which that was asked for: who was restarted later is up again
    """
    for task in tasks:
        is_down = task.stuck or task.state in _DOWN
        if not (is_down or _is_back(ledger, task.task_id, since, announced=True)):
            ledger.violate("done_as_told", f"{task.name} was stopped, and is {task.state.value}")


def see_that_they_are_gone(ledger: Ledger, tasks: Iterable[TaskSnapshot]) -> None:
    """See that none is left of the tasks that were removed.

    :param ledger: what was seen so far
    :param tasks: those that were removed, and are there all the same
    """
    for task in tasks:
        ledger.violate("done_as_told", f"{task.name} was removed, and is {task.state.value}")


def see_that_they_are_back(ledger: Ledger, tasks: Iterable[TaskSnapshot], since: int) -> None:
    """See that tasks have begun again that were restarted, or have failed before they could.

    The wait for what a task depends on is part of its start: where that takes too long, or comes to
    nothing, its failure is told, as any other is, and ends the command.

    :param ledger: what was seen so far
    :param tasks: how those that were restarted stand now
    :param since: the place at which that was asked for
    """
    for task in tasks:
        if not (
            _is_back(ledger, task.task_id, since) or _has_failed_to(ledger, task.task_id, since)
        ):
            what = f"{task.name} was restarted, and has not begun again: it is {task.state.value}"
            ledger.violate("done_as_told", what)


def is_being_removed(scheduler: Scheduler[Any], task_id: TaskId) -> bool:
    """Whether somebody has asked for the removal of a task: a restart of its group leaves it out."""
    inside: Any = scheduler
    worker: Worker = inside._supervisor.workers[task_id]
    return worker.wanted is Wanted.REMOVE


def _is_back(ledger: Ledger, task_id: TaskId, since: int, *, announced: bool = False) -> bool:
    """Whether a task has begun after some place, or if that will do, was announced to."""
    for place, event in ledger.events:
        if place > since and event.task_id == task_id:
            if isinstance(event, StateChanged) and event.state is TaskState.INITIALIZING:
                return True
            if announced and isinstance(event, RestartScheduled):
                return True
    return False


def _has_failed_to(ledger: Ledger, task_id: TaskId, since: int) -> bool:
    """Whether a task was told to begin after some place, by hand, and then could not start."""
    announced = False
    for place, event in ledger.events:
        if place > since and event.task_id == task_id:
            if isinstance(event, RestartScheduled) and event.cause is None:
                announced = True
            elif isinstance(event, TaskFailed) and announced:
                return isinstance(event.error, TaskInitializationError)
    return False


def see_that_it_may_begin(scheduler: Scheduler[Any], ledger: Ledger, task: Registration) -> None:
    """See that no group has ended that a task is in which begins."""
    for name in task.groups:
        known = scheduler.groups.get(name)
        if known is not None and known.ended:
            ledger.violate("nothing_left", f"{task.name} begins in {name}, which has ended")
