"""`Observation`: sees what becomes of the messages of a scheduler, for `Harness` and simulations."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast, final

from anyio.abc import TaskGroup

from orchestrio import (
    TASK_EVENTS,
    RestartScheduled,
    Scheduler,
    StateChanged,
    Subscriber,
    Task,
    TaskEvent,
    TaskState,
)

from .._broadcast.bus import subscribe_until_closed
from .._model._loops.wakeup import Wakeup
from .._workers.tree import Branch
from .._workers.worker import Worker
from ._probe import Hook, Observer, observe
from ._recorder import Recorder

#: Where a task that has messages to handle will come to it.
_AT_IT = frozenset(
    {
        TaskState.REGISTERED,
        TaskState.INITIALIZING,
        TaskState.READY,
        TaskState.RUNNING,
        TaskState.BACKING_OFF,
        TaskState.STOPPING,
    }
)


@final
class Observation:
    """Subscribes a recorder to each event, and stands in between whenever a hook is called.

    :param scheduler: the scheduler, entered
    :param group: in which the recorders run
    :param around: who else stands in between
    """

    def __init__(
        self, scheduler: Scheduler[Any], group: TaskGroup, around: Observer | None = None
    ) -> None:
        self._scheduler = scheduler
        self._supervisor: Any = cast("Any", scheduler)._supervisor
        self._group = group
        self._around = around
        #: the recorder of each event that had a channel at the begin
        self.recorders: dict[object, Recorder[Any]] = {}
        #: how many receivers of each event are recorders
        self.receivers: dict[object, int] = {}
        #: task, event and message, for each handler that has returned, in that order
        self.handled: list[tuple[str, object, object]] = []
        #: handlers that run just now
        self.inside: int = 0
        #: notified when anything has happened
        self.changed: Wakeup = Wakeup()
        self._coming_back: set[str] = set()  # tasks whose restart was announced
        self._events_seen = 0
        self._observed: list[tuple[Task, type[Task]]] = []  # with their own classes
        self._names: dict[int, tuple[Task, str]] = {}
        tasks = [entry.task for entry in scheduler.registry]
        for task in tasks:
            # What one object does under two names could not be told apart.
            if sum(task is other for other in tasks) == 1:
                self._observe(task)
        self._observe_newcomers()
        for event, config in scheduler.bus.channels.items():
            if not config.require_receivers:
                self.recorders[event] = self.record(event)

    def _observe(self, task: Task) -> None:
        self._observed.append((task, type(task)))
        observe(task, self)

    def _observe_newcomers(self) -> None:
        """Observe what is registered from now on, too, be it with the scheduler or with a group."""
        adopt = self._supervisor.adopt

        def observed(worker: Worker, parent: Branch) -> None:
            self._observe(worker.entry.task)
            adopt(worker, parent)

        # All that is registered comes by here, before anything of it is called.
        self._supervisor.adopt = observed

    def record(self, event: object) -> Recorder[Any]:
        """Subscribe a recorder, which gets all that is published from now on."""
        stream = subscribe_until_closed(self._scheduler.bus, event)
        recorder = Recorder[Any](stream, self.changed.notify_all)
        self.receivers[event] = self.receivers.get(event, 0) + 1
        self._group.start_soon(recorder.run)
        return recorder

    async def call(
        self, task: Task, hook: Hook, work: Callable[[], Awaitable[object]], message: object
    ) -> object:
        """Keep which messages were handled; this is the `Observer` of the tasks."""
        inside = hook != "execute"  # which goes on for as long as the task does
        self.inside += inside
        try:
            if self._around is None:
                result = await work()
            else:
                result = await self._around.call(task, hook, work, message)
        finally:
            self.inside -= inside
            self.changed.notify_all()
        if hook == "handle_event":
            event = cast("Subscriber[Any]", task).subscribed_event
            self.handled.append((self.name_of(task), event, message))
        return result

    def name_of(self, task: Task) -> str:
        """Return what a task is called in the scheduler, or was before it was removed."""
        known = self._names.get(id(task))
        if known is None:
            found = (entry.name for entry in self._scheduler.registry if entry.task is task)
            known = self._names[id(task)] = task, next(found, task.default_name)
        return known[1]

    def is_idle(self) -> bool:
        """Whether all that was published has been handled, as far as it will be."""
        self._read_task_events()
        return not any(
            (task.unread or task.in_hand)
            and (task.state in _AT_IT or task.name in self._coming_back)
            for task in self._scheduler.status()
            if task.kind == "event"
        )

    def _read_task_events(self) -> None:
        """Find out who will come back."""
        recorder = self.recorders.get(TASK_EVENTS)
        events: list[TaskEvent] = [] if recorder is None else recorder.messages
        for event in events[self._events_seen :]:
            if isinstance(event, RestartScheduled):
                self._coming_back.add(event.task_name)
            elif isinstance(event, StateChanged) and event.state in (
                TaskState.INITIALIZING,
                TaskState.STOPPED,
            ):
                self._coming_back.discard(event.task_name)
        self._events_seen = len(events)

    def close(self) -> None:
        """Read what is left, and leave the tasks as they were."""
        for task, kind in self._observed:
            object.__setattr__(task, "__class__", kind)
        del self._supervisor.adopt
        for recorder in self.recorders.values():
            recorder.close()
