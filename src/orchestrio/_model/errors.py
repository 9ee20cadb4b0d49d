"""The tree of errors: everything orchestrio raises of its own is a `SchedulerError`.

Each says in its docstring what causes it and what cures it, and in its message which task or
channel it is about. Several at once arrive as one `ExceptionGroup`: catch them with ``except*``.

Bad configuration is Pydantic's `ValidationError`, and a stream that ended or was closed speaks
AnyIO's words (`EndOfStream`, `ClosedResourceError`, `WouldBlock`), as every AnyIO stream does.
"""

from __future__ import annotations

from .snapshots import TaskId

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
    """Base of every error that orchestrio raises; catch it to catch them all.

    Cause: one of the kinds below; nothing raises this class itself.

    Cure: the message is a full sentence that says what to do. It is the first argument; data
    follows it, so that errors survive pickling.
    """

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class LifecycleError(SchedulerError):
    """Something was asked for at the wrong time, twice, or with the wrong kind of object.

    Cause: a scheduler was started twice or used before it was entered or after it stopped, a name
    is taken, a dependency does not exist or leads in a circle, a bus was used after it was closed,
    a task would wait for its own end, or a function was called where it cannot work (outside a
    task, in the wrong thread). Or a call was given what it cannot work with: a plain function where
    an async one belongs, a class in place of a task, an event task in place of a background task.
    The message says which.

    Cure: a mistake in the program, to be mended there; catching it seldom helps.
    """


class _TaskError(SchedulerError):
    """What the three failures of a task's life have in common."""

    task_id: TaskId
    """Identity of the task that failed."""
    task_name: str
    """Name of the task that failed."""

    def __init__(self, message: str, task_id: TaskId, task_name: str) -> None:
        super().__init__(message, task_id, task_name)
        self.task_id = task_id
        self.task_name = task_name


class TaskInitializationError(_TaskError):
    """A task could not start; what it raised is chained as ``__cause__``.

    Cause: its ``initialize()`` raised or ran out of ``start_timeout``, it was not ready in that
    time, or one that it depends on was not. In `start`, nothing that follows it in the order of
    start was started, and what had been initialised before it has been shut down again.

    Cure: mend what is chained, or give it a longer ``start_timeout``, and start a new scheduler.
    """

    shutdown_errors: tuple[TaskShutdownError, ...] = ()
    """What went wrong afterwards, when everything was shut down; each is a note as well."""


class TaskExecutionError(_TaskError):
    """A task failed while it worked, and no rule says to go on; what it raised is chained.

    Cause: its ``execute()`` or ``handle_event()`` raised, its ``watchdog`` ran out, or it failed
    more often than its restart policy allows: then ``__cause__`` is an `ExceptionGroup` of all
    these failures. The scheduler has shut down everything else gracefully.

    Cure: mend what is chained, give the task a ``restart`` policy, or say with ``on_error`` and
    ``retries`` what a failing handler means.
    """

    shutdown_errors: tuple[TaskShutdownError, ...] = ()
    """What went wrong afterwards, when everything was shut down; each is a note as well."""


class TaskShutdownError(_TaskError):
    """A task did not shut down well; what it raised is chained as ``__cause__``.

    Cause: its ``shutdown()`` raised or ran out of ``shutdown_timeout``, or the task went on after
    it was cancelled. All other tasks were shut down nevertheless. Arrives in an `ExceptionGroup`,
    or with the failure that ended the run, as one of its ``shutdown_errors``.

    Cure: mend what is chained, or give it a longer ``shutdown_timeout`` or ``stop_timeout``. A
    task must not catch its cancellation without raising it again.
    """


class TaskNotFoundError(SchedulerError):
    """No task of this scheduler has this identity, or this name.

    Cause: it was never registered here, or it has been removed.

    Cure: keep the `TaskId` that registering returned, or look at ``scheduler.status()``. If another
    task may have removed it first, catch this error.
    """

    task_id: TaskId
    """The identity that was looked for."""

    def __init__(self, message: str, task_id: TaskId) -> None:
        super().__init__(message, task_id)
        self.task_id = task_id


class InvalidChannelError(SchedulerError):
    """The bus has no channel for this event, has one already, or cannot have one.

    Cause: a name was misspelt (the message lists near ones), the channel was not opened yet or has
    been removed, or two parts of the program open the same one. Or it can be no event: it is not
    hashable, is a function, or is to be validated as a type that Pydantic does not understand.

    Cure: call ``add_channel`` once for each event, before anybody subscribes or publishes. A
    `Topic` in a module of its own cannot be misspelt.
    """

    event: object
    """The event that was asked for."""

    def __init__(self, message: str, event: object) -> None:
        super().__init__(message, event)
        self.event = event


class EventSendError(SchedulerError):
    """The item was not sent: nobody has seen it.

    Cause: the channel was full (``overflow="error"``), had no receiver
    (``require_receivers=True``), or the item is not a valid payload of its topic
    (``validate=True``; Pydantic's error is chained).

    Cure: give the channel a larger ``capacity`` or another ``overflow``, subscribe before
    publishing, or mend the item.
    """

    event: object
    """The event whose channel refused the item; `None` for a stream that is on no bus."""

    def __init__(self, message: str, event: object = None) -> None:
        super().__init__(message, event)
        self.event = event


class EventReceiveError(SchedulerError):
    """What was waited for cannot be received any more.

    Cause: the channel was closed while ``wait_for`` waited, or items were overwritten: see its
    subclass `LaggedError`.

    Cure: close a channel after those who wait on it, or take this error for the end.
    """


class LaggedError(EventReceiveError):
    """The receiver was too slow: `missed` items were overwritten before it read them.

    Cause: ``overflow="drop_oldest"`` and a receiver more than ``capacity`` items behind. Raised
    once for each gap; the next receive goes on at the oldest item still held.

    Cure: catch it and go on, give the channel a larger ``capacity``, make the receiver faster, or
    choose ``overflow="block"``.
    """

    missed: int
    """How many items this receiver did not get, exactly."""

    def __init__(self, message: str, missed: int) -> None:
        super().__init__(message, missed)
        self.missed = missed
