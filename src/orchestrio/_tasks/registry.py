"""`TaskRegistry`: the tasks of a scheduler, by identity and by name."""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import count
from typing import Generic, cast, final

from typing_extensions import TypeVar

from .._model.errors import LifecycleError, TaskNotFoundError
from .._model.settings import TaskMetadata
from .._model.snapshots import TaskId, TaskKind
from .task import EventTask, Task

__all__ = ["RegisteredTask", "TaskRegistry"]

E = TypeVar("E", bound=Hashable, default=Hashable)

_serial = count(1)


@final
@dataclass(frozen=True, slots=True, eq=False)
class RegisteredTask:
    """A task, what it is called, and what it was registered with."""

    task_id: TaskId
    """Its identity."""
    name: str
    """Its name, unique in the registry."""
    task: Task
    """The task itself."""
    metadata: TaskMetadata
    """What it was registered with."""

    @property
    def event(self) -> object:
        """The event it subscribes to; `None` for a background task."""
        if self.kind == "background":
            return None
        return cast("EventTask[object]", self.task).subscribed_event

    @property
    def kind(self) -> TaskKind:
        """Whether it runs in the background or handles events."""
        return "event" if isinstance(self.task, EventTask) else "background"


@final
class TaskRegistry(Generic[E]):
    """The tasks of one scheduler, in the order of registration. `E` is as in `Scheduler`."""

    __slots__ = ("_by_name", "_numbered", "_numbers", "_tasks")

    def __init__(self) -> None:
        self._tasks: dict[TaskId, RegisteredTask] = {}
        self._by_name: dict[str, RegisteredTask] = {}
        self._numbers: dict[str, int] = {}  # the last number given to each default name
        self._numbered: dict[str, int] = {}  # how many tasks have such a name

    def add(self, task: Task, metadata: TaskMetadata | None = None) -> RegisteredTask:
        """Keep a task.

        :param task: the task
        :param metadata: its description; without a name it is called after its class or
            function, numbered from the second of that name on
        :return: the task as it is kept, with its new identity
        :raises LifecycleError: if the name is taken by another task
        """
        metadata = TaskMetadata() if metadata is None else metadata
        name = metadata.name
        if name is None:
            name = self._free_name(_base(task))
        elif name in self._by_name:
            raise LifecycleError(
                f"a task named {name!r} is registered already: give this one another name, or"
                " remove the first; its name is free when remove_task() has returned"
            )
        entry = RegisteredTask(TaskId(f"{name}#{next(_serial)}"), name, task, metadata)
        self._tasks[entry.task_id] = entry
        self._by_name[name] = entry
        return entry

    def remove(self, task_id: TaskId) -> RegisteredTask:
        """Forget a task; its name is free again.

        :param task_id: its identity
        :return: the task as it was kept
        :raises TaskNotFoundError: if there is none
        """
        entry = self.get(task_id)
        del self._tasks[task_id], self._by_name[entry.name]
        if entry.metadata.name is None:
            self._give_up_name(_base(entry.task))
        return entry

    def get(self, task_id: TaskId) -> RegisteredTask:
        """Look a task up by its identity.

        :param task_id: the identity
        :return: the task
        :raises TaskNotFoundError: if there is none
        """
        try:
            return self._tasks[task_id]
        except KeyError:
            raise TaskNotFoundError(
                f"no task {task_id!r} is registered: it never was here, or it has been removed",
                task_id,
            ) from None

    def get_by_name(self, name: str) -> RegisteredTask:
        """Look a task up by its name.

        :param name: the name
        :return: the task
        :raises TaskNotFoundError: if there is none; the message lists near names
        """
        try:
            return self._by_name[name]
        except KeyError:
            near = get_close_matches(name, self._by_name, n=3, cutoff=0.5)
            hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise TaskNotFoundError(
                f"no task named {name!r} is registered.{hint}", TaskId(name)
            ) from None

    def subscribers(self, event: object) -> list[RegisteredTask]:
        """Return the event tasks that subscribe to an event, in the order of registration.

        :param event: the key
        :return: the tasks, none if nobody subscribes
        """
        return [entry for entry in self if entry.kind == "event" and entry.event == event]

    def __iter__(self) -> Iterator[RegisteredTask]:
        """Iterate in the order of registration, over the tasks of this moment."""
        return iter(list(self._tasks.values()))

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, task_id: object) -> bool:
        return task_id in self._tasks

    def _free_name(self, base: str) -> str:
        self._numbered[base] = self._numbered.get(base, 0) + 1
        number = self._numbers.get(base, 0)
        while True:
            number += 1
            name = base if number == 1 else f"{base}-{number}"
            if name not in self._by_name:
                self._numbers[base] = number
                return name

    def _give_up_name(self, base: str) -> None:
        """Count from 1 again when the last task of a default name is gone."""
        self._numbered[base] -= 1
        if not self._numbered[base]:
            del self._numbered[base], self._numbers[base]


def _base(task: Task) -> str:
    """Return what a task is called before it is numbered."""
    return task.default_name[:180]
