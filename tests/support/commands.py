"""Commands for one task, which may lose to others, and what the task comes to."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias, get_args

from orchestrio import LifecycleError, Scheduler, TaskId, TaskNotFoundError, TaskState

Command: TypeAlias = Literal["stop", "restart", "remove", "shutdown"]

COMMANDS: Final[tuple[Command, ...]] = get_args(Command)


async def give(
    command: Command, scheduler: Scheduler, task: TaskId
) -> Literal["done", "refused", "unknown"]:
    """Give a command, the last one to everything; return what came of it."""
    try:
        if command == "stop":
            await scheduler.stop_task(task)
        elif command == "restart":
            await scheduler.restart_task(task)
        elif command == "remove":
            await scheduler.remove_task(task)
        else:
            await scheduler.shutdown()
    except TaskNotFoundError:
        return "unknown"
    except LifecycleError:
        return "refused"
    return "done"


def what_became_of(scheduler: Scheduler, task: TaskId) -> Literal["up", "down", "gone"]:
    """Say what a task came to, by all that tells of it, which must agree."""
    shots = {shot.task_id: shot for shot in scheduler.status()}
    assert shots.keys() == {entry.task_id for entry in scheduler.registry}
    if task not in shots:
        return "gone"
    assert shots[task].state in (TaskState.RUNNING, TaskState.STOPPED, TaskState.FAILED)
    return "up" if shots[task].state is TaskState.RUNNING else "down"
