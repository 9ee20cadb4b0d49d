"""The rules about order: who is shut down before whom, and who works after whom.

A name in ``depends_on`` stands for whoever has it at that moment: a task, or all tasks of a group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import inf

from orchestrio import RestartScheduled, StateChanged, TaskState

from .ledger import Ledger, Registration, Visit


def shutdown_order(ledger: Ledger) -> Iterator[str]:
    """Of tasks that are being stopped, dependants are shut down first, otherwise the last one.

    It does not matter who asked for which stop, and restarts change no task's place. The last one
    is that which was registered last; a task that depends on one that came after it is put off
    behind that one, and has its place.
    """
    for visit in ledger.visits:
        task = visit.registration
        if visit.hook != "shutdown" or task is None:
            continue
        names = Names(ledger, visit.begin)
        for other in ledger.registrations.values():
            if other is task or not _is_being_stopped(ledger, other, visit.begin):
                continue
            if names.depends(other, task):
                why = f"{other.name}, which depends on it"
            elif names.places(other)[0] > names.places(task)[1] and not names.depends(task, other):
                why = f"{other.name}, which came after it"
            else:
                continue
            yield f"shutdown() of {task.name} began before that of {why}, had ended"


class Names:
    """Who is meant by which name at one moment."""

    def __init__(self, ledger: Ledger, moment: int) -> None:
        known = ledger.registrations.values()
        self._ever = [task for task in known if task.begin <= moment]
        self._there = [task for task in self._ever if task.is_there_at(moment)]

    def dependencies(self, task: Registration) -> list[Registration]:
        """Return the tasks that one depends on, directly."""
        return _dependencies(task, self._there)

    def depends(self, task: Registration, on: Registration) -> bool:
        """Whether a task depends on another one, or on one that does."""
        return on.number in _all_dependencies(task, self._there)

    def places(self, task: Registration) -> tuple[int, int]:
        """Return the first and the last place that a task may have in the order of start.

        It keeps its place when one that it depended on is removed, until places are given anew.
        """
        now = max([task.number, *_all_dependencies(task, self._there)])
        return now, max([task.number, *_all_dependencies(task, self._ever)])


def _dependencies(task: Registration, among: Sequence[Registration]) -> list[Registration]:
    found: list[Registration] = []
    for name in task.metadata.depends_on:
        tasks = [one for one in among if one.name == name]
        found += tasks or [one for one in among if name in one.groups]
    return found


def _all_dependencies(task: Registration, among: Sequence[Registration]) -> set[int]:
    """Return the numbers of the tasks that one depends on, directly or not."""
    found: set[int] = set()
    queue = _dependencies(task, among)
    while queue:
        one = queue.pop()
        if one.number not in found:
            found.add(one.number)
            queue += _dependencies(one, among)
    return found


def _is_being_stopped(ledger: Ledger, task: Registration, moment: int) -> bool:
    """Whether a task is surely being stopped at a moment, and has not been shut down."""
    shutdown = _shutdown_to_come(ledger, task, moment)
    if shutdown is None or ledger.is_given_up(task, moment):
        return False
    if shutdown.begin < moment or (ledger.stop_asked is not None and ledger.stop_asked < moment):
        return True
    stopped = False
    for place, event in ledger.events:
        if place < moment and event.task_id == task.task_id:
            if isinstance(event, StateChanged):
                if event.state is TaskState.INITIALIZING:
                    stopped = False
                elif event.state is TaskState.STOPPING and not _has_deadlines(task):
                    stopped = True
            elif isinstance(event, RestartScheduled):
                stopped = True
    return stopped


def _has_deadlines(task: Registration) -> bool:
    """Whether it may be cancelled for what it did wrong, which nobody calls a stop."""
    metadata = task.metadata
    return metadata.watchdog < inf or (metadata.reports_ready and metadata.start_timeout < inf)


def _shutdown_to_come(ledger: Ledger, task: Registration, moment: int) -> Visit | None:
    """Return the ``shutdown()`` of the run that is up at a moment, if it has not ended by then."""
    visits = ledger.of(task, "initialize", "shutdown")
    for begun, ended in pairwise(visits):
        is_run = begun.hook == "initialize" and ended.hook == "shutdown"
        if is_run and begun.begin < moment and not ended.is_over_at(moment):
            return ended
    return None


def dependencies_first(ledger: Ledger) -> Iterator[str]:
    """A task works only when each one that it depends on has been ready, or ended without a failure.

    That is so when it is told to be running. Handlers may be called much later, so of an event task
    that is held against all that was before the first of each run.
    """
    for task in ledger.registrations.values():
        if not task.metadata.depends_on:
            continue
        handles = False  # whether a handler of this run has been called
        for visit in ledger.of(task, "initialize", "execute", "handle_event"):
            if visit.hook == "initialize":
                handles = False
                continue
            if handles:
                continue
            handles = visit.hook == "handle_event"
            moment = _moment_of(ledger, task, TaskState.RUNNING, visit.begin)
            if moment is None:
                continue
            for one in Names(ledger, moment).dependencies(task):
                missing = _is_missing(ledger, one, moment, visit)
                if missing:
                    yield f"{visit.hook}() of {task.name} began, and {one.name} {missing}"


def _moment_of(ledger: Ledger, task: Registration, state: TaskState, until: int) -> int | None:
    """Return when a task came to a state, the last time until then."""
    found = None
    for place, event in _changes(ledger, task, until):
        if event.state is state:
            found = place
    return found


def _changes(ledger: Ledger, task: Registration, until: int) -> Iterator[tuple[int, StateChanged]]:
    """Iterate over the changes of a task's state until then, each with its place."""
    for place, event in ledger.events:
        if place < until and event.task_id == task.task_id and isinstance(event, StateChanged):
            yield place, event


#: A task in one of these has ended without a failure, or is about to.
_ENDED = (TaskState.COMPLETED, TaskState.STOPPING, TaskState.STOPPED)


def _is_missing(ledger: Ledger, task: Registration, moment: int, visit: Visit) -> str:
    """Say what a task lacks that others depend on; nothing if it was ready, or ended well."""
    state = TaskState.REGISTERED
    for _, event in _changes(ledger, task, moment):
        state = event.state
    if state in _ENDED:
        return ""
    begun = [one for one in ledger.of(task, "initialize") if one.begin < moment]
    if not begun:
        return f"had not begun: it was {state.value}"
    run = begun[-1].run
    return "" if run is None or run.is_ready else f"had not been ready: it was {state.value}"
