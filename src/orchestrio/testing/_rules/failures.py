"""The rules about failures: each is told, once, to those whom it concerns, and ends nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from logging import LogRecord
from math import inf
from typing import Final, cast

from orchestrio import (
    LifecycleError,
    RestartScheduled,
    SchedulerError,
    StateChanged,
    TaskExecutionError,
    TaskInitializationError,
    TaskShutdownError,
    TaskState,
)

from ..._model.words import in_words
from .ledger import (
    InjectedError,
    Ledger,
    Registration,
    Visit,
    alone,
    causes,
    notes,
    origins,
    record_in_words,
)


def errors_told_once(ledger: Ledger) -> Iterator[str]:
    """Each error that a hook was made to raise is logged or raised, and once.

    So is each cancellation that nobody asked for: it is a failure, and no end. Of many messages
    that one task skips, some are only counted, and so are attempts that are repeated.
    """
    counted: dict[tuple[str, str], int] = {}  # by task, and what it did after it
    told: dict[int, list[str]] = {}
    noted: dict[str, str] = {}
    for record in ledger.records:
        for done in ("skipped", "retried"):
            if times := getattr(record, done, 0):
                key = getattr(record, "task_name", ""), done
                counted[key] = counted.get(key, 0) + times
        for error in _told_by(record):
            owner = getattr(error, "task_name", None)
            if owner is not None and getattr(record, "task_name", owner) != owner:
                continue  # of a task that is restarted with the one that failed
            for cause in causes(error):
                told.setdefault(id(cause), []).append(f"log: {record_in_words(record)}")
            noted |= dict.fromkeys(notes(error), f"log: {record_in_words(record)}")
    for raised in ledger.raised:
        for cause in causes(raised):
            told.setdefault(id(cause), []).append(f"raised: {in_words(raised)}")
        noted |= dict.fromkeys(notes(raised), f"raised: {in_words(raised)}")
    handled = {
        id(cause): visit
        for visit in ledger.visits
        if visit.error is not None and visit.hook == "handle_event"
        for cause in causes(visit.error)
    }
    for error in ledger.injected:
        places = told.get(id(error), [])
        places += [where for note, where in noted.items() if in_words(error) in note]
        visit = None if places else handled.get(id(error))
        may_be = [] if visit is None else [(visit.task, "skipped")]
        if visit is not None and visit not in ledger.failed:
            may_be.append((visit.task, "retried"))
        if known := next((key for key in may_be if counted.get(key, 0)), None):
            counted[known] -= 1
        elif len(places) != 1:
            where = "".join(f"\n    {one}" for one in places)
            yield f"{error} was told {len(places)} times{where}"


def _told_by(record: LogRecord) -> set[BaseException]:
    if record.exc_info and record.exc_info[1] is not None:
        return {record.exc_info[1]}
    carried = (*cast("tuple[object, ...]", record.args or ()), getattr(record, "error", None))
    return {one for one in carried if isinstance(one, BaseException)}


def failures_raised(ledger: Ledger) -> Iterator[str]:
    """What a task raises that no policy is for ends the run, and is raised; no log will do instead.

    What policies the groups have cannot be told from outside: it is so for tasks in none of them.
    """
    raised = {id(cause) for error in ledger.raised for cause in causes(error)}
    noted = "\n".join(note for error in ledger.raised for note in notes(error))
    for visit in ledger.visits:
        task, error = visit.registration, visit.error
        if task is None or error is None or task.groups or task.metadata.policy is not None:
            continue
        at_work = visit.hook in ("execute", "handle_event")
        if visit.hook == "shutdown" or (at_work and task.metadata.on_error is not None):
            continue
        if visit.hook == "handle_event" and visit not in ledger.failed:
            continue
        for one in alone(error):
            if not isinstance(one, Exception) and not ledger.is_injected(one):
                continue  # a cancellation that was asked for
            told = id(one) in raised or in_words(one) in noted
            excused = _is_restarted(ledger, visit) or ledger.is_given_up(task, visit.end or 0)
            if not (told or excused):
                yield (
                    f"{visit.hook}() of {task.name} raised {type(one).__name__}: {in_words(one)};"
                    " it has no policy, and that was not raised"
                )


def _is_restarted(ledger: Ledger, visit: Visit) -> bool:
    """Whether somebody else has had the task restarted, when a hook of it fails.

    It may begin nevertheless, before the word reaches it.
    """
    restarted = again = False
    assert visit.registration is not None
    assert visit.end is not None
    for place, event in ledger.events:
        if place > visit.end:
            break
        if event.task_id == visit.registration.task_id:
            if isinstance(event, RestartScheduled):
                restarted = again = True
            elif isinstance(event, StateChanged) and event.state is TaskState.BACKING_OFF:
                again = False
            elif isinstance(event, StateChanged) and event.state is TaskState.INITIALIZING:
                restarted = again
    return restarted


#: What a task comes to whose hook was cancelled.
_CANCELLED: Final = frozenset(
    {TaskState.STOPPING, TaskState.STOPPED, TaskState.FAILED, TaskState.BACKING_OFF}
)


def no_silent_end(ledger: Ledger) -> Iterator[str]:
    """No task ends without a word: by the cancellation of another one, say, or of one of its own.

    It has returned, or has failed, or its end was asked for.
    """
    for visit in ledger.visits:
        task = visit.registration
        if task is None or not visit.cancelled or visit.hook == "shutdown":
            continue
        if visit.hook == "handle_event" and task.metadata.attempt_timeout < inf:
            continue
        if not _CANCELLED & _states_around(ledger, task, visit.end or 0):
            yield f"{visit.hook}() of {task.name} was cancelled, and nobody had asked for its end"
    for place, event in ledger.events:
        if not isinstance(event, StateChanged) or event.state is not TaskState.COMPLETED:
            continue
        task = ledger.registrations.get(event.task_id)
        worked = [] if task is None else ledger.of(task, "execute")
        before = [visit for visit in worked if visit.begin < place]
        if before and not before[-1].returned:
            yield f"{event.task_name} is told to have ended, and its execute() has not returned"


def _states_around(ledger: Ledger, task: Registration, moment: int) -> set[TaskState]:
    """Return the state of a task at a moment, as far as it was told, and the one after it."""
    state = TaskState.REGISTERED
    for place, event in ledger.events:
        if event.task_id == task.task_id and isinstance(event, StateChanged):
            if place > moment:
                return {state, event.state}
            state = event.state
    return {state}


#: What faults may lead to, as the cause of an error: a task fails, or finds the bus closed.
_LED_TO: Final = (
    InjectedError,
    TaskExecutionError,
    TaskInitializationError,
    TaskShutdownError,
    LifecycleError,
)


def no_other_errors(ledger: Ledger) -> Iterator[str]:
    """What is raised in the end comes from the faults, or says what they led to."""
    for raised in ledger.raised:
        for one in alone(raised):
            for cause in origins(one):
                mine = (InjectedError, SchedulerError) if cause is one else _LED_TO
                stray = cause is not one and ledger.is_injected(cause)
                if not (isinstance(cause, mine) or stray or _is_due(ledger, one, cause)):
                    yield f"{type(cause).__name__}: {in_words(cause)}"


def _is_due(ledger: Ledger, error: BaseException, cause: BaseException) -> bool:
    """Whether an error is a time-out that its task was given."""
    metadata = ledger.metadata.get(getattr(error, "task_name", ""))
    limits = () if metadata is None else (metadata.attempt_timeout, metadata.start_timeout)
    watched = metadata is not None and metadata.watchdog < inf
    return isinstance(cause, TimeoutError) and (
        isinstance(error, TaskShutdownError) or watched or any(limit < inf for limit in limits)
    )
