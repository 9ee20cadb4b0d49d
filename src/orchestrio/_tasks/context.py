"""What a running task may ask of its scheduler: `current_task_context`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, Protocol, final

from anyio import Event, current_time
from anyio.lowlevel import checkpoint

from .._broadcast.backpressure import Waits
from .._broadcast.bus import EventBus, require_thread
from .._model._loops.wakeup import Bell, Wakeup
from .._model.errors import LifecycleError
from .._model.snapshots import TaskId
from .events import Publisher, TaskEvent
from .message import Message, message_in_hand

__all__ = [
    "Leases",
    "RunInfo",
    "Services",
    "TaskContext",
    "current_run",
    "current_task_context",
]


_IN_LOOP: Final = "have that event loop call this, by anyio.from_thread.run_sync()"


class Leases(Protocol):
    """What lets a task run in one process of a cluster alone; a bridge provides it."""

    async def while_held(self, name: str, work: Callable[[int], Awaitable[None]]) -> bool:
        """Wait for the lease of a name, and work for as long as it is held.

        :param name: what the lease is for
        :param work: called with the fencing token; cancelled when the lease is lost
        :return: whether the work came to its end; otherwise the lease was lost
        """
        ...


@final
class Services:
    """What all tasks of a scheduler share."""

    __slots__ = (
        "bus",
        "cancellations",
        "leases",
        "new_bell",
        "task_events",
        "waits",
        "wall_clock",
    )

    def __init__(self, bus: EventBus[Any], task_events: Publisher[TaskEvent]) -> None:
        self.bus: EventBus[Any] = bus
        self.task_events: Publisher[TaskEvent] = task_events
        #: which of them wait for room in a channel
        self.waits: Waits = Waits()
        #: those of the bridges that have been initialised: the first ones are used, or two processes
        #: might hold the same lease, each of another bridge
        self.leases: list[Leases] = []
        #: makes what a run waits on; asked for in the event loop, before the first one begins
        self.new_bell: Callable[[], Bell]
        #: counts the cancellations of the task that runs which no scope has asked for
        self.cancellations: Callable[[], int]
        #: returns the present in UTC; the event loop may have a clock of its own
        self.wall_clock: Callable[[], datetime] = partial(datetime.now, UTC)


class RunOwner(Protocol):
    """Whom a run tells what its task has said."""

    def run_is_ready(self) -> None:
        """Hear that those that depend on the task may work."""

    def extra(self) -> dict[str, object]:
        """What a log record about the task carries beside the text."""
        ...

    def note_error(self, error: BaseException) -> None:
        """Keep in mind what went wrong last."""


@final
class RunInfo:
    """What one run of a task said and was told, from ``initialize()`` to ``shutdown()``."""

    __slots__ = (
        "_owner",
        "fencing_token",
        "has_dependencies",
        "is_ready",
        "last_beat",
        "number",
        "restarted",
        "resting",
        "services",
        "stop_asked",
        "stopping",
        "task_id",
        "task_name",
        "told",
    )

    def __init__(
        self,
        task_id: TaskId,
        task_name: str,
        services: Services,
        owner: RunOwner,
        has_dependencies: bool,
    ) -> None:
        self.task_id: TaskId = task_id
        self.task_name: str = task_name
        self.has_dependencies: bool = has_dependencies
        self.services: Services = services
        self.fencing_token: int | None = None  # of the lease that it works under
        self.number: int = 0  # 1 for the first run, known when it begins
        self.is_ready: bool = False
        self.last_beat: float = 0.0
        self.stop_asked: bool = False
        #: whether it waits for its next tick, and may be cancelled at once
        self.resting: bool = False
        #: made when the task first asks for it: whoever does not ask is cancelled at once
        self.stopping: Event | None = None
        # Few tasks ask for these, and ten thousand are not unusual:
        self.restarted: dict[str, None] | None = None  # dependencies that are back, in order
        self.told: Wakeup | None = None  # that another one is back
        self._owner = owner

    def extra(self) -> dict[str, object]:
        """What a log record about the task carries beside the text."""
        return self._owner.extra()

    def note_error(self, error: BaseException) -> None:
        """Keep in mind what went wrong last, if it does not end the run."""
        self._owner.note_error(error)

    def begin(self, number: int) -> None:
        """Note which run it is."""
        self.number = number

    def beat(self, now: float) -> None:
        """Note that the task shows that it is alive."""
        self.last_beat = now

    def become_ready(self) -> None:
        """Note that the task is ready, and tell those who wait for it."""
        if not self.is_ready:
            self.is_ready = True
            self._owner.run_is_ready()

    def ask_to_stop(self) -> None:
        """Tell the task that it is to stop, if it listens."""
        self.stop_asked = True
        if self.stopping is not None:
            self.stopping.set()

    def tell_restarted(self, dependency: str) -> None:
        """Tell the task that one it depends on is back, if it listens or will."""
        if self.restarted is None:
            self.restarted = {}
        self.restarted[dependency] = None
        if self.told is not None:
            self.told.notify_all()


current_run: Final[ContextVar[RunInfo | None]] = ContextVar("orchestrio_current_run", default=None)


@final
class TaskContext:
    """A task's own view of its run; see `current_task_context`. Use it in the event loop."""

    __slots__ = ("_run",)

    def __init__(self, run: RunInfo) -> None:
        self._run = run

    @property
    def task_id(self) -> TaskId:
        """Identity of the task."""
        return self._run.task_id

    @property
    def task_name(self) -> str:
        """Name of the task."""
        return self._run.task_name

    @property
    def bus(self) -> EventBus[Hashable]:
        """The bus of the task's scheduler."""
        return self._run.services.bus

    @property
    def fencing_token(self) -> int:
        """The number of the lease that a task with ``singleton=True`` works under.

        Each lease of a name has a higher one than the lease before. Give it to whatever the task
        changes, and have that refuse a lower one than it has seen: so a process that was thought
        dead, and has not noticed yet, does no harm (https://martin.kleppmann.com/2016/02/08/
        how-to-do-distributed-locking.html).

        :raises LifecycleError: if the task works under no lease
        """
        token = self._run.fencing_token
        if token is None:
            raise LifecycleError(
                f"task {self.task_name!r} works under no lease: only execute() of a background"
                " task with singleton=True does"
            )
        return token

    @property
    def run(self) -> int:
        """Which run of the task this is: 1 for the first, 2 after one restart."""
        return self._run.number

    @property
    def message(self) -> Message:
        """What is known of the message that is being handled: its number, which attempt it is.

        It is for the handler of an event task, and the tasks that it starts. One that outlives the
        handler is to be given it, for later there is another message, or none. It costs nothing
        where nobody asks.

        :raises LifecycleError: if no message is being handled here
        """
        message = message_in_hand()
        if message is None:
            raise LifecycleError(
                f"task {self.task_name!r} handles no message here: handle_event(), or the function"
                " that @scheduler.on() registers, may ask for it, not another hook, nor a"
                " background task"
            )
        return message

    @property
    def stopping(self) -> Event:
        """Set when the task is to stop.

        A task that has asked for it gets ``stop_timeout`` seconds to end by itself before it is
        cancelled; one that never did is cancelled at once.
        """
        run = self._run
        if run.stopping is None:
            run.stopping = Event()
            if run.stop_asked:
                run.stopping.set()
        return run.stopping

    def ready(self) -> None:
        """Say that the task is ready, for one registered with ``reports_ready=True``.

        Tasks that depend on it begin to work, and `start` returns, when all are ready. Saying it
        again does nothing.

        :raises LifecycleError: if another thread says so
        """
        self._require_thread()
        self._run.become_ready()

    def beat(self) -> None:
        """Say that the task is alive, for one registered with a ``watchdog``.

        :raises LifecycleError: if another thread says so
        """
        self._require_thread()
        self._run.beat(current_time())

    def _require_thread(self) -> None:
        what = f"the context of task {self.task_name!r}"
        require_thread(self._run.services.bus, what, _IN_LOOP)

    async def dependency_restarted(self) -> str:
        """Wait until a task that this one depends on was restarted.

        Several restarts of one task that were not waited for are told once. A task with
        ``restart_with_dependencies=True`` is restarted itself instead. If this is cancelled,
        nothing is lost.

        :return: the name of the task that was restarted
        :raises LifecycleError: if the task depends on no other
        """
        run = self._run
        if not run.has_dependencies:
            raise LifecycleError(
                f"task {run.task_name!r} depends on no other, and would wait for ever: name those"
                " it depends on when it is registered, with depends_on"
            )
        await checkpoint()
        if run.told is None:
            run.told = Wakeup()
        while not run.restarted:
            await run.told.wait()
        name = next(iter(run.restarted))
        del run.restarted[name]
        return name


def current_task_context() -> TaskContext:
    """Return what the task that is running may ask of its scheduler.

    It works in the hooks and handlers of a task, and in the tasks that these start.

    Example::

        from anyio import Event

        from orchestrio import Scheduler, current_task_context

        scheduler = Scheduler()
        working = Event()

        @scheduler.background(stop_timeout=5)
        async def worker() -> None:
            context = current_task_context()
            working.set()
            await context.stopping.wait()  # up to 5 seconds to leave, before it is cancelled
            print(context.task_name, "leaves in peace")  # worker leaves in peace

        @scheduler.background()
        async def boss() -> None:
            await working.wait()
            await scheduler.shutdown()

        scheduler.run_sync()

    :return: the context of this run of the task
    :raises LifecycleError: if it is called outside a task of a scheduler
    """
    run = current_run.get()
    if run is None:
        raise LifecycleError(
            "current_task_context() is for the hooks and handlers of a scheduler's tasks: no such"
            " task is running here"
        )
    return TaskContext(run)
