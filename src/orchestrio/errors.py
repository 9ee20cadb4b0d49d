"""The tree of errors: everything orchestrio raises of its own is a `SchedulerError`.

Bad configuration is Pydantic's `ValidationError`, and a stream that ended or was closed speaks
AnyIO's words (`EndOfStream`, `ClosedResourceError`, `WouldBlock`), as every AnyIO stream does.
"""

from __future__ import annotations

from .models import TaskId

__all__ = [
    "EventReceiveError",
    "EventSendError",
    "InvalidChannelError",
    "LaggedError",
    "LifecycleError",
    "SchedulerError",
    "TaskExecutionError",
    "TaskInitializationError",
    "TaskNotFoundError",
    "TaskShutdownError",
]


class SchedulerError(Exception):
    """Base of every error that orchestrio raises.

    The first argument is a full sentence; data follows it, so that errors survive pickling.
    """

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class LifecycleError(SchedulerError):
    """Something was asked for at the wrong time or twice.

    Raised by starting a scheduler twice, registering a name that is taken, using a scheduler
    that has stopped, or naming a dependency that does not exist. The message says which.
    """


class _TaskError(SchedulerError):
    """What the three failures of a task's life have in common."""

    def __init__(self, message: str, task_id: TaskId, task_name: str) -> None:
        super().__init__(message, task_id, task_name)
        #: identity of the task that failed
        self.task_id = task_id
        #: name of the task that failed
        self.task_name = task_name


class TaskInitializationError(_TaskError):
    """A task could not start; the cause is chained.

    Its ``initialize()`` raised or ran out of ``start_timeout``, it was not ready in that time, or
    one that it depends on was not. In `start`, nothing that follows it in the order of start was
    started, and what had been initialised before it has been shut down again. Mend the cause and
    start a new scheduler.
    """


class TaskExecutionError(_TaskError):
    """A task failed while it worked, and no rule says to go on; the cause is chained.

    Its ``execute()`` or ``handle_event()`` raised, its ``watchdog`` ran out, or it failed more often
    than its restart policy allows: then the cause is an `ExceptionGroup` of all these failures.
    The scheduler has shut down everything else in order. Mend the cause, give the task a
    ``restart`` policy, or say with ``on_error`` what a failing handler means.
    """


class TaskShutdownError(_TaskError):
    """A task's ``shutdown()`` raised or ran out of ``shutdown_timeout``; the cause is chained.

    All other tasks were shut down nevertheless. Arrives in an `ExceptionGroup`.
    """


class TaskNotFoundError(SchedulerError):
    """No task has this identity: it was never registered here, or it has been removed."""

    def __init__(self, message: str, task_id: TaskId) -> None:
        super().__init__(message, task_id)
        #: the identity that was looked for
        self.task_id = task_id


class InvalidChannelError(SchedulerError):
    """The bus has no channel for this event, or has one already. The message lists near names."""

    def __init__(self, message: str, event: object) -> None:
        super().__init__(message, event)
        #: the event that was asked for
        self.event = event


class EventSendError(SchedulerError):
    """The item was not sent: nobody has seen it.

    The channel was full (``overflow="error"``), had no receiver (``require_receivers=True``), or
    the item is not a valid payload of its topic (``validate=True``).
    """

    def __init__(self, message: str, event: object = None) -> None:
        super().__init__(message, event)
        #: the event whose channel refused the item; `None` for a stream that is on no bus
        self.event = event


class EventReceiveError(SchedulerError):
    """Something that should have been received was not."""


class LaggedError(EventReceiveError):
    """The receiver was too slow: `missed` items were overwritten before it read them.

    Raised once for each gap; the next receive goes on at the oldest item still held. Give the
    channel a larger ``capacity``, make the receiver faster, or choose ``overflow="block"``.
    """

    def __init__(self, message: str, missed: int) -> None:
        super().__init__(message, missed)
        #: how many items this receiver did not get, exactly
        self.missed = missed
