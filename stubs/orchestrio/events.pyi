from dataclasses import dataclass
from typing import Final, final

from .models import TaskId, TaskState
from .topics import Topic

__all__ = [
    "DEAD_LETTERS",
    "TASK_EVENTS",
    "DeadLetter",
    "RestartScheduled",
    "StateChanged",
    "TaskEvent",
    "TaskFailed",
    "TaskLagged",
]

@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEvent:
    task_id: TaskId
    task_name: str
    group: str | None
    time: float

@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StateChanged(TaskEvent):
    previous: TaskState
    state: TaskState

@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RestartScheduled(TaskEvent):
    delay: float
    cause: BaseException | None

@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TaskLagged(TaskEvent):
    missed: int

@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFailed(TaskEvent):
    error: BaseException

@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    task_id: TaskId
    task_name: str
    event: object
    message: object
    error: Exception
    attempts: int
    time: float

TASK_EVENTS: Final[Topic[TaskEvent]]
DEAD_LETTERS: Final[Topic[DeadLetter]]
