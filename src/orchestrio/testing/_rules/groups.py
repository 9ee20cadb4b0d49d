"""The rules about groups: in one that has ended nothing goes on, and nothing begins.

They are looked at while the scheduler runs, as a group may be restarted at any moment.
"""

from __future__ import annotations

from typing import Any

from orchestrio import RestartScheduled, Scheduler, StateChanged, TaskId, TaskState

from .ledger import Ledger, Registration

#: Where a task of a group may be that was stopped, and waited for.
_DOWN = (TaskState.STOPPED, TaskState.FAILED)


def see_that_it_is_down(scheduler: Scheduler[Any], ledger: Ledger, group: str, since: int) -> None:
    """See that nothing in a group goes on, when a stop of it has been waited for.

    What somebody has restarted since is another's affair, and so is a group that has not ended: it
    was restarted as a whole, or was stopped when nothing had been started yet.

    :param scheduler: the scheduler
    :param ledger: what was seen so far
    :param group: its name
    :param since: the place at which the stop was asked for
    """
    known = scheduler.groups.get(group)
    if known is None or not known.ended:
        return
    for task in scheduler.status():
        is_in = group in (task.group or "").split("/")
        if is_in and task.state not in _DOWN and not _begins(ledger, task.task_id, since):
            what = f"{group} was stopped, and {task.name} in it is {task.state.value}"
            ledger.violate("nothing_left", what)


def see_that_it_is_gone(scheduler: Scheduler[Any], ledger: Ledger, group: str) -> None:
    """See that a group that was removed is forgotten, and all that was in it."""
    if group in scheduler.groups:
        ledger.violate("nothing_left", f"{group} was removed, and is still there")
    for task in scheduler.status():
        if group in (task.group or "").split("/"):
            ledger.violate("nothing_left", f"{group} was removed, and {task.name} is still there")


def see_that_it_may_begin(scheduler: Scheduler[Any], ledger: Ledger, task: Registration) -> None:
    """See that no group has ended that a task is in which begins."""
    for name in task.groups:
        known = scheduler.groups.get(name)
        if known is not None and known.ended:
            ledger.violate("nothing_left", f"{task.name} begins in {name}, which has ended")


def _begins(ledger: Ledger, task_id: TaskId, since: int) -> bool:
    """Whether a task was restarted, or has begun, after some place."""
    for place, event in ledger.events:
        if place > since and event.task_id == task_id:
            if isinstance(event, RestartScheduled):
                return True
            if isinstance(event, StateChanged) and event.state is TaskState.INITIALIZING:
                return True
    return False
