"""`TaskRegistry`: the tasks of a scheduler, by identity and by name."""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any, Generic, cast, final

from typing_extensions import TypeVar

from .._model.errors import LifecycleError, TaskNotFoundError
from .._model.near import near_names
from .._model.refusals import in_short, require_instance
from .._model.settings import TaskMetadata
from .._model.snapshots import TaskId, TaskKind
from .checks import require_hooks, require_task
from .task import EventTask, Task, event_of

__all__ = ["RegisteredTask", "TaskRegistry", "is_registered"]

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
        return event_of(cast("EventTask[object]", self.task))

    @property
    def kind(self) -> TaskKind:
        """Whether it runs in the background or handles events."""
        return "event" if isinstance(self.task, EventTask) else "background"


@final
class TaskRegistry(Generic[E]):
    """The tasks of one scheduler, in the order of registration. `E` is as in `Scheduler`."""

    __slots__ = ("_by_name", "_by_task", "_numbered", "_numbers", "_tasks")

    def __init__(self) -> None:
        self._tasks: dict[TaskId, RegisteredTask] = {}
        self._by_name: dict[str, RegisteredTask] = {}
        self._by_task: dict[int, RegisteredTask] = {}  # by the identity of the object
        self._numbers: dict[str, int] = {}  # the last number given to each default name
        self._numbered: dict[str, int] = {}  # how many tasks have such a name

    def add(self, task: Task, metadata: TaskMetadata | None = None) -> RegisteredTask:
        """Keep a task.

        :param task: the task
        :param metadata: its description; without a name it is called after its class or
            function, numbered from the second of that name on
        :return: the task as it is kept, with its new identity
        :raises LifecycleError: if the name is taken by another task, the task is registered
            already, or it or its metadata is something else
        """
        require_task(task)
        require_hooks(task)
        if id(task) in self._by_task:
            raise LifecycleError(
                f"this very task is registered already, as {self._by_task[id(task)].name!r}: make"
                f" another {type(task).__name__} for another task"
            )
        metadata = TaskMetadata() if metadata is None else metadata
        require_instance(metadata, TaskMetadata, "the metadata of a task")
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
        self._by_name[name] = self._by_task[id(task)] = entry
        return entry

    def remove(self, task_id: TaskId) -> RegisteredTask:
        """Forget a task; its name is free again.

        :param task_id: its identity
        :return: the task as it was kept
        :raises TaskNotFoundError: if there is none
        """
        entry = self.get(task_id)
        del self._tasks[task_id], self._by_name[entry.name], self._by_task[id(entry.task)]
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
        except (KeyError, TypeError):  # it need not even be hashable
            pass
        raise TaskNotFoundError(self._why_not(task_id), task_id)

    def get_by_name(self, name: str) -> RegisteredTask:
        """Look a task up by its name.

        :param name: the name
        :return: the task
        :raises TaskNotFoundError: if there is none; the message lists near names
        """
        try:
            return self._by_name[name]
        except (KeyError, TypeError):
            pass
        raise TaskNotFoundError(self._why_not_by_name(name), TaskId(name))

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

    def _why_not(self, task_id: object) -> str:
        """Say why nothing was found by what should be an identity."""
        if isinstance(task_id, str) and task_id in self._by_name:
            return (
                f"{str(task_id)!r} is the name of a task, and not its identity: take the TaskId that"
                " registering it returned, or registry.get_by_name(name).task_id."
            )
        if not isinstance(task_id, TaskId):
            return (
                f"{in_short(task_id)} identifies no task: take the TaskId that registering one"
                " returned."
            )
        return f"no task {task_id!r} is registered: it never was here, or it has been removed."

    def _why_not_by_name(self, name: object) -> str:
        """Say why nothing was found by what should be a name."""
        if not isinstance(name, str):
            return f"{in_short(name)} is no name of a task: a name is a text."
        if name in self._tasks:
            return f"{str(name)!r} is the identity of a task, and not its name: use get()."
        near = near_names(name, self._by_name)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        return f"no task named {name!r} is registered.{hint}"

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


def is_registered(registry: TaskRegistry[Any], task: Task) -> bool:
    """Whether a registry keeps this very task."""
    return id(task) in registry._by_task  # pyright: ignore[reportPrivateUsage]


def _base(task: Task) -> str:
    """Return what a task is called before it is numbered."""
    return task.default_name[:180]
