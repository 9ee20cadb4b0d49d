"""`Roll`: who is registered with a scheduler, and has been."""

from __future__ import annotations

from typing import Any, cast, final

from orchestrio import Scheduler, Task, TaskId

from ..._workers.tree import Branch, leaves
from ..._workers.worker import Worker
from .._rules.ledger import Ledger, Registration


@final
class Roll:
    """Notes who comes and who goes, as soon as it is seen."""

    def __init__(self, scheduler: Scheduler[Any], ledger: Ledger) -> None:
        self._scheduler = scheduler
        self._ledger = ledger
        self._there: set[TaskId] = set()  # who is registered, as far as it was noted
        self._ids: dict[int, tuple[Task, TaskId]] = {}  # by the identity of the object

    def call(self) -> None:
        """Note who has come and who has gone; for the first time when the first hook is called."""
        there = {entry.task_id for entry in self._scheduler.registry}
        if there == self._there:
            return
        tasks = self._scheduler.status()
        if not self._there:
            place = {task_id: index for index, task_id in enumerate(_in_order(self._scheduler))}
            tasks.sort(key=lambda task: place[task.task_id])
        self._there = there
        self._ledger.note_tasks(tasks)

    def is_registered(self, task: Task) -> bool:
        """Whether a task is registered now."""
        for entry in self._scheduler.registry:
            if entry.task is task:
                self._ids[id(task)] = task, entry.task_id
                return True
        return False

    def find(self, task: Task) -> Registration | None:
        """Return what is known of a task that is, or was, registered."""
        if not self.is_registered(task) and id(task) not in self._ids:
            return None
        return self._ledger.registrations[self._ids[id(task)][1]]


def _in_order(scheduler: Scheduler[Any]) -> list[TaskId]:
    """Return the tasks of a scheduler in order: what is in a group has the place of that group."""
    root: Branch = cast("Any", scheduler)._branch
    return [cast("Worker", leaf).entry.task_id for leaf in leaves(root)]
