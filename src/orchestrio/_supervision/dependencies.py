"""Which task depends on which: their order of start, and who is concerned by a restart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from heapq import heappop, heappush
from operator import attrgetter
from typing import cast, final

from .._model.errors import LifecycleError, TaskNotFoundError
from .._model.snapshots import TaskId
from .._tasks.registry import RegisteredTask
from .._workers.tree import Branch, Node, leaves
from .._workers.worker import Worker

__all__ = ["Dependencies", "workers_below"]


def workers_below(node: Node) -> Iterator[Worker]:
    """Iterate over the workers below a task or group, in order."""
    return cast("Iterator[Worker]", leaves(node))


@final
class Dependencies:
    """What ``depends_on`` says, by the names of tasks and of groups.

    A name stands for whoever has it just now: a task that was removed, and registered again, is
    the one that is meant from then on.
    """

    __slots__ = ("_dependants", "_find", "_groups", "_places", "_workers")

    def __init__(
        self,
        find: Callable[[str], RegisteredTask],
        workers: Mapping[TaskId, Worker],
        groups: Mapping[str, Branch],
    ) -> None:
        self._find = find
        self._workers = workers
        self._groups = groups
        self._dependants: dict[str, dict[Worker, None]] = {}  # by the name that they depend on
        self._places = 0  # how many have been given

    def add(self, worker: Worker) -> None:
        """Take note of what a task depends on."""
        for name in worker.entry.metadata.depends_on:
            self._dependants.setdefault(name, {})[worker] = None

    def remove(self, worker: Worker) -> None:
        """Forget what a task depends on."""
        for name in worker.entry.metadata.depends_on:
            dependants = self._dependants.get(name, {})
            dependants.pop(worker, None)
            if not dependants:
                self._dependants.pop(name, None)

    def of(self, worker: Worker) -> list[Worker]:
        """Return the tasks that one depends on, without those that have been removed."""
        found: dict[Worker, None] = {}
        for name in worker.entry.metadata.depends_on:
            found |= dict.fromkeys(self._named(name) or ())
        return list(found)

    def check(self, worker: Worker) -> None:
        """Refuse a task whose dependencies cannot be.

        :raises LifecycleError: if there is no task and no group of such a name, or it is its own or
            that of a group it is in
        """
        for name in worker.entry.metadata.depends_on:
            if name == worker.entry.name:
                raise _circle([name, name])
            try:
                self._find(name)
            except TaskNotFoundError as error:
                branch = self._groups.get(name)
                if branch is None:
                    what = f"{worker.title} depends on {name!r}, but no group has that name, and"
                    raise LifecycleError(f"{what} {error}") from error
                if branch in worker.groups_around():
                    what = f"{worker.title} depends on {branch.title}, which it is in"
                    raise LifecycleError(what) from None

    def _named(self, name: str) -> list[Worker] | None:
        """Return the task of a name, or those of the group of that name; `None` if there is none."""
        try:
            worker = self._workers.get(self._find(name).task_id)
        except TaskNotFoundError:
            branch = self._groups.get(name)
            return None if branch is None else list(workers_below(branch))
        return [] if worker is None else [worker]

    def _is_task(self, name: str) -> bool:
        try:
            self._find(name)
        except TaskNotFoundError:
            return False
        return True

    def dependants_of(self, worker: Worker) -> list[Worker]:
        """Return the tasks that depend on one, or on a group that it is in, directly.

        Where a task has the name of the group, that one is meant.
        """
        if not self._dependants:
            return []
        found = dict(self._dependants.get(worker.entry.name, {}))
        for branch in worker.groups_around():
            dependants = self._dependants.get(branch.name)
            if dependants and branch.parent is not None and not self._is_task(branch.name):
                found |= dependants  # the scheduler itself has no name
        return list(found)

    def in_order_of_start(self, workers: Iterable[Worker]) -> list[Worker]:
        """Give all tasks their places: as they come, each after those it depends on.

        :param workers: all that there are, in the order of registration
        :return: the same, in the order of start
        :raises LifecycleError: if a name is unknown, or tasks depend on each other in a circle
        """
        workers = list(workers)
        if self._dependants:
            for worker in workers:
                self.check(worker)
        return self._place(workers)

    def place_late(self, newcomer: Worker) -> bool:
        """Give a task that came late its place: the last one, unless others depend on it already.

        :param newcomer: the task
        :return: whether the places of others have changed
        :raises LifecycleError: if tasks depend on each other in a circle
        """
        if self.dependants_of(newcomer):
            self._place(sorted(self._workers.values(), key=attrgetter("number")))
            return True
        self._places += 1
        newcomer.put_at(self._places)
        return False

    def _place(self, workers: list[Worker]) -> list[Worker]:
        if self._dependants:
            workers = self._sorted(workers)
        for rank, worker in enumerate(workers, 1):
            worker.put_at(rank)
        self._places = len(workers)
        return workers

    def _sorted(self, workers: list[Worker]) -> list[Worker]:
        """Sort topologically; of several that may come next, the first one does."""
        place = {worker: index for index, worker in enumerate(workers)}
        graph = {
            index: [place[one] for one in self.of(worker)] for index, worker in enumerate(workers)
        }
        sorter = TopologicalSorter(graph)
        try:
            sorter.prepare()
        except CycleError as error:
            circle: list[int] = error.args[1]
            raise _circle([workers[index].entry.name for index in circle]) from None
        order: list[Worker] = []
        ready: list[int] = []
        while sorter.is_active():
            for index in sorter.get_ready():
                heappush(ready, index)
            first = heappop(ready)
            order.append(workers[first])
            sorter.done(first)
        return order


def _circle(names: list[str]) -> LifecycleError:
    around = " -> ".join(map(repr, names))
    return LifecycleError(f"tasks depend on each other in a circle: {around}")
