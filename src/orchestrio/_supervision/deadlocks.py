"""Deadlocks: tasks that wait for room in channels in which only they themselves can make room.

A handler that publishes on the channel it reads waits for itself once that is full, and two that
publish on each other's channels wait for each other. Nothing ends such a wait but a time-out or a
stop, so it is told.

What is looked at are the waits alone, a second after one has begun or ended; while nobody waits,
or nothing changes, nothing is done. A task never goes on if each of its handlers waits for room in
a channel that one of such tasks holds back, being the last to read there: the largest set of which
this holds is found by leaving out, again and again, those of whom it does not hold. What a task
does besides, such as a child task that it does not wait for, cannot be known from outside: who is
found is told only if each of its handlers is seen to stand in that wait, by itself or for child
tasks or a thread. One that will go on by a time-out of its own is told, once, but is no deadlock.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from threading import get_ident
from types import FrameType
from typing import Any, Final, Protocol, final

from anyio import sleep

from .._broadcast.backpressure import Waits, append_in_turn
from .._broadcast.channel import Channel, Waiter
from .._model.log import logger
from .._model.snapshots import TaskId
from .._model.words import in_words
from .._tasks.context import Services
from .._tasks.failures import within
from .._workers.asyncio_stack import coroutines_behind, has_timeout
from .._workers.phases import Phase
from .._workers.run import Run
from .._workers.stack import awaits
from .._workers.worker import Worker

__all__ = ["Deadlocks"]

#: How long nothing is looked at after a wait has begun or ended, in seconds; and how long a wait
#: lasts at least before it is told.
_PATIENCE: Final = 1.0

#: Where one stands that waits for what else sends for it: child tasks, or a thread.
_JOINS: Final = frozenset(
    {
        ("anyio", "TaskGroup.__aexit__"),
        ("asyncio", "TaskGroup.__aexit__"),
        ("trio", "NurseryManager.__aexit__"),
        ("asyncio", "wait"),
        ("asyncio", "wait_for"),
        ("anyio", "run_sync"),
        ("trio", "to_thread_run_sync"),
        ("asyncio", "to_thread"),
    }
)

#: What of these ends by itself if it is given a time-out: see `_has_timeout`.
_WITH_TIMEOUT: Final = {"wait", "wait_for"}

_CURE: Final = (
    "Give the channel room for all that one message leads to (capacity), another overflow than"
    ' "block", or leave the publishing to a task that does not read there.'
)

_CURE_OF_START: Final = (
    "No message is handled before initialize() is over: publish in execute() of a background task,"
    " or give the channel room for all that is published before (capacity)."
)


class Tasks(Protocol):
    """Whose deadlocks are looked for."""

    @property
    def workers(self) -> Mapping[TaskId, Worker]:
        """All tasks."""
        ...

    @property
    def services(self) -> Services:
        """Knows which of them wait."""
        ...

    @property
    def is_starting(self) -> bool:
        """Whether no task works before all are initialised."""
        ...


@final
class Deadlocks:
    """Looks for tasks that wait for each other, or for themselves, and says so in the log."""

    __slots__ = ("_again", "_seen", "_tasks", "_told")

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._seen: set[Waiter] = set()  # the waits there were at the last look
        self._again = False  # whether some of them had only begun
        self._told: set[TaskId] = set()  # those that were told to wait until a time-out

    async def watch(self) -> None:
        """Look a second after something has changed, until this is cancelled."""
        waits = self._tasks.services.waits
        waits.thread = get_ident()
        while True:
            while not (waits.is_new or self._again):
                await waits.changed.wait()
            waits.is_new = False
            await sleep(_PATIENCE)
            self._look(waits)

    def _look(self, waits: Waits) -> None:
        present = {waiter for waiters in waits.of.values() for waiter in waiters}
        lasting = present & self._seen
        self._again = len(lasting) < len(present)
        self._seen = present
        circles = _circles(self._waiting(waits, lasting)) if lasting else []
        for circle in [circle for circle in circles if circle.ends]:
            circles.remove(circle)
            members = {worker.entry.task_id for worker in circle}
            if not members <= self._told:
                self._told |= members
                _tell(circle)
        before = waits.deadlocked
        waits.deadlocked = {worker: None for circle in circles for worker in circle}
        for worker in before.keys() - waits.deadlocked.keys():
            assert isinstance(worker, Worker)
            logger.info(
                "%s is in no deadlock any more: it waits no longer, or for others",
                worker.title,
                extra=worker.extra(),
            )
        for circle in circles:
            if not circle.keys() <= before.keys():
                _tell(circle)

    def _waiting(self, waits: Waits, lasting: set[Waiter]) -> dict[Worker, _Waiting]:
        """Return the tasks that do nothing but wait, as far as the waits tell."""
        workers = self._tasks.workers
        waiting: dict[Worker, _Waiting] = {}
        for sender, waiters in waits.of.items():
            channels = [channel for waiter, channel in waiters.items() if waiter in lasting]
            worker = workers.get(sender.host.entry.task_id) if isinstance(sender, Run) else sender
            if not channels or not isinstance(worker, Worker) or worker.run is None:
                continue
            works = worker.run.phase is Phase.WORKING
            if works and worker.kind == "event" and sender is not worker:
                continue  # what initialize() has started goes on beside the work
            waiting[worker] = _Waiting(channels, worker.entry.metadata.concurrency if works else 1)
            waiting[worker].until = min(waits.until.get(waiter, inf) for waiter in waiters)
        if self._tasks.is_starting:
            for worker in workers.values():
                if worker.kind == "event" and worker not in waiting and not _initializes(worker):
                    waiting[worker] = _Waiting([], 1)
        return waiting


@final
class _Waiting:
    """What one task waits for: room in channels, or if there are none, the start of the others."""

    __slots__ = ("channels", "handlers", "has_timeout", "held_up_by", "limit", "until")

    def __init__(self, channels: list[Channel[Any]], handlers: int) -> None:
        self.channels = channels
        #: how many of its handlers have to wait if it is to be held up as a whole
        self.handlers = handlers
        #: when the first of its waits ends by a time-out, and when its handler would by an option
        self.until = self.limit = inf
        #: whether it is seen to stand in a time-out of asyncio's own
        self.has_timeout = False
        #: one of those without which it does not go on
        self.held_up_by: Worker | None = None

    @property
    def ends(self) -> bool:
        """Whether it goes on after a time-out of its own; one by an option is a failure."""
        return self.has_timeout or self.until < self.limit


class _Circle(dict[Worker, _Waiting]):
    """Tasks that wait for each other: each for the next one, and the last one for the first."""

    @property
    def ends(self) -> bool:
        """Whether a time-out ends it."""
        return any(what.ends for what in self.values())


def _circles(waiting: dict[Worker, _Waiting]) -> list[_Circle]:
    """Find those that wait for each other, and are seen to do nothing else."""
    while True:
        _leave_out_who_goes_on(waiting)
        circles: list[list[Worker]] = []
        done: set[Worker] = set()
        for one in waiting:
            way: dict[Worker, None] = {}
            worker: Worker | None = one
            while worker is not None and worker not in done and worker not in way:
                way[worker] = None
                worker = waiting[worker].held_up_by
            if worker in way:
                around = list(way)
                circles.append(around[around.index(worker) :])
            done |= way.keys()
        unsure = [
            member
            for circle in circles
            for member in circle
            if not _is_seen_to_wait(member, waiting[member])
        ]
        if not unsure:
            return [_Circle({one: waiting[one] for one in circle}) for circle in circles]
        for worker in unsure:
            del waiting[worker]


def _leave_out_who_goes_on(waiting: dict[Worker, _Waiting]) -> None:
    """Leave those that never go on unless one of them does, and say of each who holds it up."""
    while True:
        last: dict[Channel[Any], Worker] = {}
        starter: Worker | None = None
        for worker in waiting:
            if (channel := worker.holds_back) is not None:
                last[channel] = worker
            if _initializes(worker):
                starter = worker
        free: list[Worker] = []
        for worker, what in waiting.items():
            own = worker.holds_back
            held_up = [channel for channel in what.channels if channel in last]
            if held_up:
                what.held_up_by = worker if own in held_up else last[held_up[0]]
            else:
                what.held_up_by = None if what.channels else starter
            if what.held_up_by is None or len(held_up) < what.handlers * bool(what.channels):
                free.append(worker)
        if not free:
            return
        for worker in free:
            del waiting[worker]


def _initializes(worker: Worker) -> bool:
    return worker.run is not None and worker.run.phase is Phase.INITIALIZING


def _is_seen_to_wait(worker: Worker, what: _Waiting) -> bool:
    """Whether each handler of a task stands where it waits for room, or for those who do."""
    if not what.channels:
        return True  # it has not begun, or has not even a run: its turn to start comes later
    assert worker.run is not None
    if worker.pool is None or worker.run.phase is not Phase.WORKING:
        return _stands_in_wait(worker.run.coroutine, what)
    return sum(_stands_in_wait(one.coro, what) for one in worker.pool.workers) >= what.handlers


def _stands_in_wait(coroutine: object, what: _Waiting) -> bool:
    """Whether a coroutine waits for room, or for those who do; note whether a time-out ends that."""
    waits = False
    innermost: object = None
    for innermost, frame in awaits(coroutine):
        if frame is not None:
            called = (str(frame.f_globals.get("__name__")).partition(".")[0], _name_of(frame))
            joins = called in _JOINS
            waits = waits or joins or frame.f_code is append_in_turn.__code__
            what.has_timeout |= has_timeout(innermost) or (joins and _has_timeout(frame))
            if frame.f_code is within.__code__:
                what.limit = min(what.limit, frame.f_locals["scope"].deadline)
    return waits or any(_stands_in_wait(one, what) for one in coroutines_behind(innermost))


def _name_of(frame: FrameType) -> str:
    return frame.f_code.co_qualname


def _has_timeout(frame: FrameType) -> bool:
    return _name_of(frame) in _WITH_TIMEOUT and frame.f_locals.get("timeout") is not None


def _tell(circle: _Circle) -> None:
    """Log a deadlock: who waits for what, and what helps."""
    members = list(circle)
    ways: list[str] = []
    for worker, follower in zip(members, [*members[1:], members[0]], strict=True):
        channels = circle[worker].channels
        if not channels:
            ways.append(f"{worker.title} waits for the start of {follower.title}")
            continue
        channel = follower.holds_back if follower.holds_back in channels else channels[0]
        reader = "it" if follower is worker else follower.title
        ways.append(
            f"{worker.title} waits for room in channel {in_words(channel.event)}, which only {reader} can make"
        )
    logger.warning(
        "%s: %s. %s",
        "only a time-out ends this" if circle.ends else "deadlock",
        "; ".join(ways),
        _CURE_OF_START if any(map(_initializes, members)) else _CURE,
        extra=members[0].extra(tasks=[worker.entry.name for worker in members]),
    )
