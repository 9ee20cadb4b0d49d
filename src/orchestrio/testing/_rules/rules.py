"""The rules that a finished run is held against, each with its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Final

from orchestrio import (
    DEAD_LETTERS,
    TASK_EVENTS,
    DeadLetter,
    StateChanged,
    TaskState,
)

from ..._model.words import counted
from .dependencies import dependencies_first, shutdown_order
from .failures import errors_told_once, failures_raised, no_other_errors, no_silent_end
from .ledger import (
    TRANSITIONS,
    Ledger,
    Visit,
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
                f"{counted(dead.get(task, 0), 'messages')} failed for good in {task}, and its dead"
                f" letters are {told.get(task, 0)}"
            )


Rule = Callable[[Ledger], Iterator[str]]

#: What a finished run is held against, in this order; the first that is broken is its failure.
RULES: Final[Mapping[str, Rule]] = {
    "no_overlap": no_overlap,
    "one_shutdown": one_shutdown,
    "shutdown_order": shutdown_order,
    "dependencies_first": dependencies_first,
    "failures_raised": failures_raised,
    "no_silent_end": no_silent_end,
    "nothing_left": nothing_left,
    "legal_states": legal_states,
    "one_order": one_order,
    "accounts": receivers_add_up,
    "errors_told_once": errors_told_once,
    "no_other_errors": no_other_errors,
    "dead_letters": dead_letters,
}
