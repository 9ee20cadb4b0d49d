"""The rules that a finished run is held against, each with its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from logging import LogRecord
from math import inf
from typing import Final, cast

from orchestrio import (
    DEAD_LETTERS,
    TASK_EVENTS,
    DeadLetter,
    LifecycleError,
    RestartScheduled,
    SchedulerError,
    StateChanged,
    TaskExecutionError,
    TaskInitializationError,
    TaskShutdownError,
    TaskState,
)

from ..._tasks.failures import in_words
from .dependencies import dependencies_first, shutdown_order
from .ledger import (
    TRANSITIONS,
    InjectedError,
    Ledger,
    Visit,
    alone,
    causes,
    notes,
    record_in_words,
    shown,
)


def no_overlap(ledger: Ledger) -> Iterator[str]:
    """Two runs of one task never overlap: from ``initialize()`` to the end of ``shutdown()``."""
    for task in ledger.registrations.values():
        up: Visit | None = None  # the initialize() of the run that is not over
        for visit in ledger.of(task, "initialize", "shutdown"):
            if visit.hook == "initialize":
                if up is not None:
                    yield f"{task.name} was initialised for another run while it ran"
                up = None if visit.end is not None and visit.error is not None else visit
            elif visit.hook == "shutdown":
                up = None
        for earlier, later in pairwise(ledger.of(task, "initialize", "execute", "shutdown")):
            if earlier.end is None or later.begin < earlier.end:
                yield f"{later.hook}() of {task.name} began while {earlier.hook}() of it ran"
        handlers = ledger.of(task, "handle_event")
        for begun in ledger.of(task, "initialize"):
            if any(one.begin < begun.begin and not one.is_over_at(begun.begin) for one in handlers):
                yield f"{task.name} was initialised for another run while it handled a message"


def one_shutdown(ledger: Ledger) -> Iterator[str]:
    """Every ``initialize()`` that returned has exactly one ``shutdown()``."""
    for task in ledger.registrations.values():
        owed = 0
        for visit in ledger.of(task, "initialize", "shutdown"):
            if visit.hook == "initialize":
                owed += visit.returned
            else:
                owed -= 1
                if owed < 0:
                    yield f"{task.name} was shut down without a run that was initialised"
                    return
        if owed:
            yield f"{owed} runs of {task.name} were initialised and never shut down"


def nothing_left(ledger: Ledger) -> Iterator[str]:
    """When all has stopped, no task is left over, and no receiver."""
    for task in ledger.status:
        if task.state not in (TaskState.STOPPED, TaskState.FAILED):
            yield f"task {task.name} is still {task.state.value} when all has stopped"
    for event, count in ledger.receivers_left.items():
        if count:
            yield f"{count} receivers of {event!s} are left when all has stopped"
    for visit in ledger.visits:
        if visit.end is None:
            yield f"{visit.hook}() of {visit.task} still runs when all has stopped"


def legal_states(ledger: Ledger) -> Iterator[str]:
    """A task's state changes as the table says, and each change is told."""
    states: dict[object, TaskState] = {}
    for _, event in ledger.events:
        if not isinstance(event, StateChanged):
            continue
        known = states.get(event.task_id, TaskState.REGISTERED)
        if event.previous is not known:
            yield f"{event.task_name} went on from {event.previous.value}, it was {known.value}"
        elif event.state not in TRANSITIONS[event.previous]:
            yield f"{event.task_name} went from {event.previous.value} to {event.state.value}"
        states[event.task_id] = event.state
    for task in ledger.status:
        known = states.get(task.task_id, TaskState.REGISTERED)
        if task.state is not known and (task.task_id in states or not _unheard(task.state)):
            yield f"{task.name} is {task.state.value} in the end, the last event said {known.value}"


def _unheard(state: TaskState) -> bool:
    """Whether a task comes to a state when its channel may have been closed already."""
    return state in (TaskState.STOPPED, TaskState.REGISTERED)


def one_order(ledger: Ledger) -> Iterator[str]:
    """Each receiver gets messages of one order, with gaps at most, and none of them twice."""
    for event, (recorder, _) in ledger.recorders.items():
        if recorder.missed or event in (TASK_EVENTS, DEAD_LETTERS):
            continue
        order = recorder.messages
        for task in _first_attempts(ledger, event):
            if not _is_part(task[1], order):
                yield f"{task[0]} got {_short(task[1])}, sent was {_short(order)} on {event!s}"


def _first_attempts(ledger: Ledger, event: object) -> Iterator[tuple[str, list[object]]]:
    for task in ledger.registrations.values():
        visits = ledger.of(task, "handle_event")
        if task.metadata.retries or task.metadata.concurrency > 1:
            continue  # which attempts belong to one message cannot be told from outside
        if (
            visits
            and task.name not in ledger.resubscribed
            and any(
                entry.task_id == task.task_id and entry.event == str(event)
                for entry in ledger.status
            )
        ):
            yield task.name, [visit.message for visit in visits]


def _is_part(items: list[object], whole: list[object]) -> bool:
    rest = iter(whole)
    return all(any(item is other or item == other for other in rest) for item in items)


def _short(items: list[object]) -> str:
    words = [shown(item) for item in items]
    return "[" + ", ".join(words if len(words) < 20 else [*words[:10], "...", *words[-8:]]) + "]"


def receivers_add_up(ledger: Ledger) -> Iterator[str]:
    """What was sent is what a receiver got, missed, and has not read."""
    for event, (recorder, before) in ledger.recorders.items():
        got, missed = len(recorder.messages), recorder.missed
        sent = ledger.sent.get(event)
        if sent is not None and got + missed != sent - before:
            yield f"{sent - before} were sent on {event!s}; a receiver got {got}, missed {missed}"


def dead_letters(ledger: Ledger) -> Iterator[str]:
    """There is one dead letter for each message whose handler failed for good."""
    recorder, _ = ledger.recorders.get(DEAD_LETTERS, (None, 0))
    if recorder is None or recorder.missed:
        return
    dead = ledger.dead
    told: dict[str, int] = {}
    letters: list[DeadLetter] = recorder.messages
    for letter in letters:
        told[letter.task_name] = told.get(letter.task_name, 0) + 1
    for task in {**told, **dead}:
        if task not in ledger.unsure and told.get(task, 0) != dead.get(task, 0):
            yield (
                f"{dead.get(task, 0)} messages failed for good in {task}, and there are"
                f" {told.get(task, 0)} dead letters of it"
            )


def errors_told_once(ledger: Ledger) -> Iterator[str]:
    """Each error that a hook was made to raise is logged or raised, and once.

    So is each cancellation that nobody asked for: it is a failure, and no end.
    """
    told: dict[int, list[str]] = {}
    noted: dict[str, str] = {}
    for record in ledger.records:
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
    for error in ledger.injected:
        times = told.get(id(error), [])
        times += [where for note, where in noted.items() if in_words(error) in note]
        if len(times) != 1:
            where = "".join(f"\n    {one}" for one in times)
            yield f"{error} was told {len(times)} times{where}"


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
            for cause in causes(one):
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


Rule = Callable[[Ledger], Iterator[str]]

#: What a finished run is held against, in this order; the first that is broken is its failure.
RULES: Final[Mapping[str, Rule]] = {
    "no_overlap": no_overlap,
    "one_shutdown": one_shutdown,
    "shutdown_order": shutdown_order,
    "dependencies_first": dependencies_first,
    "failures_raised": failures_raised,
    "nothing_left": nothing_left,
    "legal_states": legal_states,
    "one_order": one_order,
    "accounts": receivers_add_up,
    "errors_told_once": errors_told_once,
    "no_other_errors": no_other_errors,
    "dead_letters": dead_letters,
}
