"""`Ledger`: all that was seen of one run, in the order in which it happened."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from logging import LogRecord
from typing import Any, Final, cast

from anyio import current_time

from orchestrio import (
    SchedulerError,
    StateChanged,
    TaskEvent,
    TaskId,
    TaskMetadata,
    TaskSnapshot,
    TaskState,
)

from ..._model.words import in_words
from ..._tasks.context import RunInfo
from ..._tasks.failures import ForeignCancellationError
from .._probe import Hook
from .._recorder import Recorder

_ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+")


class InjectedError(Exception):
    """What a simulation has a hook raise."""


@dataclass(slots=True, eq=False)
class Registration:
    """One task, from when it is registered until its name is free again."""

    task_id: TaskId
    name: str
    metadata: TaskMetadata
    #: the groups that it is in, from the outside in
    groups: tuple[str, ...]
    #: its place in the order of registration
    number: int
    #: the places of its begin and its end in the order of all that happened
    begin: int
    end: int | None = None
    #: when it was given up, since it ignored its cancellation
    abandoned: list[int] = field(default_factory=list[int])

    def is_there_at(self, moment: int) -> bool:
        """Whether it is registered then."""
        return self.begin <= moment and (self.end is None or moment < self.end)


@dataclass(slots=True, eq=False)
class Visit:
    """One call of a hook."""

    task: str
    hook: Hook
    message: object
    #: the places of its begin and its end in the order of all that happened
    begin: int
    end: int | None = None
    error: BaseException | None = None
    #: whether that is a cancellation, and not one that was made to go astray
    cancelled: bool = False
    #: of which task it is a hook; `None` if that is not registered
    registration: Registration | None = None
    #: what is known of the run
    run: RunInfo | None = None

    @property
    def returned(self) -> bool:
        """Whether it has come to its end without an error."""
        return self.end is not None and self.error is None

    def is_over_at(self, moment: int) -> bool:
        """Whether it has come to its end by then."""
        return self.end is not None and self.end < moment


@dataclass(slots=True, eq=False)
class Ledger:
    """What was seen of one run."""

    #: in words, for people; the same for the same scenario
    trace: list[str] = field(default_factory=list[str])
    visits: list[Visit] = field(default_factory=list[Visit])
    #: what happened to tasks, each with its place in the order of all that happened
    events: list[tuple[int, TaskEvent]] = field(default_factory=list[tuple[int, TaskEvent]])
    #: log records of the library, of INFO and above
    records: list[LogRecord] = field(default_factory=list[LogRecord])
    #: what the interpreter warned of
    warnings: list[str] = field(default_factory=list[str])
    #: what hooks were made to raise: `InjectedError`, and cancellations that nobody asked for
    injected: list[BaseException] = field(default_factory=list[BaseException])
    #: what was raised to whoever ran the scheduler, or gave a command
    raised: list[BaseException] = field(default_factory=list[BaseException])
    #: what each task was registered with, by name; the last one that had the name
    metadata: dict[str, TaskMetadata] = field(default_factory=dict[str, TaskMetadata])
    #: all tasks that there ever were, once the first hook was called
    registrations: dict[TaskId, Registration] = field(default_factory=dict[TaskId, Registration])
    #: how the tasks stood in the end
    status: list[TaskSnapshot] = field(default_factory=list[TaskSnapshot])
    #: receivers that were open in the end, by event, without those of the harness
    receivers_left: dict[object, int] = field(default_factory=dict[object, int])
    #: the recorder of each event, and how much had been sent before it began
    recorders: dict[object, tuple[Recorder[Any], int]] = field(
        default_factory=dict[object, tuple[Recorder[Any], int]]
    )
    #: how much was sent on each event
    sent: dict[object, int] = field(default_factory=dict[object, int])
    #: tasks that had more than one subscription, of which each may begin with a replay
    resubscribed: set[str] = field(default_factory=set[str])
    #: the calls of handlers after which a message was not tried again
    failed: list[Visit] = field(default_factory=list[Visit])
    #: how many messages failed for good in each task, by what its handlers did
    dead: dict[str, int] = field(default_factory=dict[str, int])
    #: tasks of which it cannot be told from outside what became of some message
    unsure: set[str] = field(default_factory=set[str])
    #: rules that were broken, with what happened, in words
    violations: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    #: the place at which the stop of everything was asked for, as far as that is known
    stop_asked: int | None = None
    moments: int = 0
    #: the time of the last of them, in virtual seconds
    now: float = 0.0
    #: where the tasks of a run stand that hangs
    stacks: str = ""

    def say(self, what: str) -> int:
        """Note that something happens, and return its place in the order of all that does."""
        self.moments += 1
        self.now = current_time()
        self.trace.append(f"{self.now:10.3f}  {without_addresses(what)}")
        return self.moments

    def note_warnings(self) -> None:
        """Note as broken what the interpreter has warned of when all was over."""
        if self.warnings and not self.violations:
            self.violations.append(("no_warnings", without_addresses(self.warnings[0])))

    def violate(self, rule: str, what: str) -> None:
        """Note that a rule was broken; of each rule, the first time counts."""
        if all(rule != broken for broken, _ in self.violations):
            self.violations.append((rule, what))
            self.say(f"BROKEN {rule}: {what}")

    def note_event(self, event: TaskEvent) -> None:
        """Note what happened to a task."""
        if isinstance(event, StateChanged):
            place = self.say(f"{event.task_name}: {event.previous.value} -> {event.state.value}")
        else:
            cause = getattr(event, "error", None) or getattr(event, "cause", None)
            words = "" if cause is None else f" {type(cause).__name__}: {in_words(cause)}"
            place = self.say(f"{event.task_name}: {type(event).__name__}{words}")
        self.events.append((place, event))

    def note_tasks(self, there: Sequence[TaskSnapshot]) -> None:
        """Note who has come, and who has gone.

        :param there: all tasks that are registered now, in the order of registration
        """
        known = self.registrations
        anybody = bool(known)
        here = {task.task_id for task in there}
        for task_id, gone in known.items():
            if gone.end is None and task_id not in here:
                gone.end = self.say(f"{gone.name} is gone")
        for task in there:
            if task.task_id not in known:
                groups = () if task.group is None else tuple(task.group.split("/"))
                place = self.say(f"{task.name} is registered") if anybody else self.moments
                known[task.task_id] = Registration(
                    task.task_id, task.name, task.metadata, groups, len(known), place
                )
                self.metadata[task.name] = task.metadata

    def note_record(self, record: LogRecord) -> None:
        """Note what the library logs."""
        self.records.append(record)
        words = record_in_words(record)
        self.moments += 1
        if hasattr(record, "stack"):  # where a task stands that is given up
            task_id = TaskId(getattr(record, "task_id", ""))
            if task_id in self.registrations:
                self.registrations[task_id].abandoned.append(self.moments)
        words = without_addresses(words.partition("\n")[0])
        self.trace.append(f"{'':10}  log {record.levelname}: {words}")

    def is_injected(self, error: BaseException) -> bool:
        """Whether a hook was made to raise this very error."""
        return any(error is one for one in self.injected)

    def is_given_up(self, task: Registration, moment: int) -> bool:
        """Whether the run of a task that is up at a moment ignores its cancellation."""
        begun = [visit.begin for visit in self.of(task, "initialize") if visit.begin < moment]
        return any(max(begun, default=0) < abandoned < moment for abandoned in task.abandoned)

    def of(self, task: Registration, *hooks: Hook) -> list[Visit]:
        """Return the calls of some hooks of a task, in the order in which they began."""
        return [
            visit for visit in self.visits if visit.registration is task and visit.hook in hooks
        ]


def without_addresses(text: str) -> str:
    """Return a text without the addresses in it, which are others each time."""
    return _ADDRESS.sub("", text)


def record_in_words(record: LogRecord) -> str:
    """Return what a log record says, whatever it is made of."""
    try:
        return record.getMessage()
    except Exception as trouble:
        return f"(it raised {type(trouble).__name__})"


def shown(message: object) -> str:
    """Return what a message looks like, whatever it is like."""
    try:
        return repr(message)
    except Exception as trouble:
        return f"<{type(message).__name__}, whose __repr__ raised {type(trouble).__name__}>"


def causes(error: BaseException) -> Iterator[BaseException]:
    """Return what an error comes from: the errors at the ends of its causes and groups.

    A task that failed too often comes from its last failure: the others were reported before. What
    nobody asked for comes from the cancellation itself.
    """
    for one in alone(error):
        yield from origins(one)


def origins(error: BaseException) -> Iterator[BaseException]:
    """Return what one error comes from, and not what came with it; see `causes`."""
    mine = isinstance(error, (SchedulerError, ForeignCancellationError))
    cause = error.__cause__ if mine else None
    if cause is None:
        yield error
    elif in_words(cause).startswith("the failures of"):
        yield from causes(members(cause)[-1])
    else:
        yield from causes(cause)


def notes(error: BaseException) -> Iterator[str]:
    """Iterate over the notes of an error, and of what it comes from.

    A task that is cancelled for what it did wrong may raise on its way out, which is but a note.
    What went wrong at the stop that followed is no mere note: the error carries it.
    """
    for one in alone(error):
        carried = [in_words(after) for after in getattr(one, "shutdown_errors", ())]
        for note in getattr(one, "__notes__", ()):
            if not any(words in note for words in carried):
                yield note
        if one.__cause__ is not None:
            yield from notes(one.__cause__)


def members(error: BaseException) -> tuple[BaseException, ...]:
    """Return the errors that a group is made of, one level deep; of any other, itself.

    With a failure that ended a run comes what went wrong at the stop that followed.
    """
    if isinstance(error, BaseExceptionGroup):
        return cast("BaseExceptionGroup[BaseException]", error).exceptions
    return (error, *getattr(error, "shutdown_errors", ()))


def alone(error: BaseException) -> Iterator[BaseException]:
    """Iterate over the errors in a group and in those within it; of any other, itself."""
    for one in members(error):
        yield from [one] if one is error else alone(one)


#: The changes of a task's state that there are; all others are faults of the scheduler.
TRANSITIONS: dict[TaskState, frozenset[TaskState]] = {
    TaskState.REGISTERED: frozenset(
        {TaskState.INITIALIZING, TaskState.STOPPING, TaskState.STOPPED, TaskState.FAILED}
    ),
    TaskState.INITIALIZING: frozenset({TaskState.READY, TaskState.STOPPING, TaskState.FAILED}),
    TaskState.READY: frozenset({TaskState.RUNNING, TaskState.STOPPING, TaskState.FAILED}),
    TaskState.RUNNING: frozenset({TaskState.COMPLETED, TaskState.STOPPING, TaskState.FAILED}),
    TaskState.COMPLETED: frozenset({TaskState.STOPPED, TaskState.BACKING_OFF}),
    TaskState.STOPPING: frozenset(
        {TaskState.STOPPED, TaskState.FAILED, TaskState.COMPLETED, TaskState.BACKING_OFF}
    ),
    TaskState.FAILED: frozenset({TaskState.STOPPED, TaskState.BACKING_OFF, TaskState.INITIALIZING}),
    TaskState.BACKING_OFF: frozenset(
        {TaskState.INITIALIZING, TaskState.STOPPING, TaskState.STOPPED, TaskState.FAILED}
    ),
    TaskState.STOPPED: frozenset({TaskState.INITIALIZING, TaskState.BACKING_OFF}),
}
