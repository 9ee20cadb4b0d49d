"""Which task depends on which: their order of start, and who is concerned by a restart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from heapq import heappop, heappush
from typing import cast, final

from .._model.errors import LifecycleError, TaskNotFoundError
from .._model.snapshots import TaskId
from .._tasks.registry import RegisteredTask
from .._workers.tree import Branch, Node, leaves
from .._workers.worker import Life

__all__ = ["Dependencies", "lives_below"]


def lives_below(node: Node) -> Iterator[Life]:
    """Iterate over the lives below a task or group, in order."""
    return cast("Iterator[Life]", leaves(node))


@final
class Dependencies:
    """What ``depends_on`` says, by the names of tasks and of groups."""

    __slots__ = ("_dependants", "_find", "_groups", "_lives")

    def __init__(
        self,
        find: Callable[[str], RegisteredTask],
        lives: Mapping[TaskId, Life],
        groups: Mapping[str, Branch],
    ) -> None:
        self._find = find
        self._lives = lives
        self._groups = groups
        self._dependants: dict[str, dict[Life, None]] = {}  # by the name that they depend on

    def add(self, life: Life) -> None:
        """Take note of what a life depends on."""
        for name in life.entry.metadata.depends_on:
            self._dependants.setdefault(name, {})[life] = None

    def remove(self, life: Life) -> None:
        """Forget what a life depends on."""
        for name in life.entry.metadata.depends_on:
            del self._dependants[name][life]

    def resolve(self, life: Life) -> None:
        """Find the lives that one depends on.

        :raises LifecycleError: if there is no task and no group of that name, or it is its own
        """
        found: dict[Life, None] = {}
        for name in life.entry.metadata.depends_on:
            if name == life.entry.name:
                raise _circle([name, name])
            try:
                found[self._lives[self._find(name).task_id]] = None
            except TaskNotFoundError as error:
                if name not in self._groups:
                    what = f"{life.title} depends on another: {error}"
                    raise LifecycleError(what) from error
                found |= dict.fromkeys(lives_below(self._groups[name]))
        life.dependencies = tuple(found)

    def dependants_of(self, life: Life) -> list[Life]:
        """Return the lives that depend on one, or on a group that it is in, directly."""
        if not self._dependants:
            return []
        found = dict(self._dependants.get(life.entry.name, {}))
        branch = life.parent
        while branch is not None and branch.parent is not None:  # the scheduler has no name
            found |= self._dependants.get(branch.name, {})
            branch = branch.parent
        return list(found)

    def in_order_of_start(self, root: Branch) -> list[Life]:
        """Return all lives in the order of registration, each after those it depends on.

        A group has the place at which it was made, and its tasks come together.

        :raises LifecycleError: if a name is unknown, or tasks depend on each other in a circle
        """
        lives = list(lives_below(root))
        if not self._dependants:
            return lives
        place = {life: index for index, life in enumerate(lives)}
        graph: dict[int, list[int]] = {}
        for index, life in enumerate(lives):
            self.resolve(life)
            graph[index] = [place[dependency] for dependency in life.dependencies]
        sorter = TopologicalSorter(graph)
        try:
            sorter.prepare()
        except CycleError as error:
            circle: list[int] = error.args[1]
            raise _circle([lives[index].entry.name for index in circle]) from None
        order: list[Life] = []
        ready: list[int] = []
        while sorter.is_active():
            for index in sorter.get_ready():
                heappush(ready, index)
            first = heappop(ready)
            order.append(lives[first])
            sorter.done(first)
        return order


def _circle(names: list[str]) -> LifecycleError:
    around = " -> ".join(map(repr, names))
    return LifecycleError(f"tasks depend on each other in a circle: {around}")
