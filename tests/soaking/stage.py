"""The stage of a soak: its channels, its books, and the gate that keeps the load out at rest."""

from __future__ import annotations

import threading
from itertools import count
from random import Random
from types import TracebackType
from typing import Final, final

from anyio import Event, current_time, sleep
from typing_extensions import Unpack

from orchestrio import (
    DEAD_LETTERS,
    BackgroundOptions,
    ChannelConfig,
    Group,
    Scheduler,
    TaskId,
    TaskOptions,
    Topic,
)

from .books import Books, has_left
from .handlers import Handler, Kind, Parcel

STREAM: Final = Topic("stream", Parcel)
MUST: Final = Topic("must", Parcel)
OFFERS: Final = Topic("offers", Parcel)
STRICT: Final = Topic("strict", Parcel)
STATE: Final = Topic("state", Parcel, validate=True)

CHANNELS: Final = {
    STREAM: ChannelConfig(capacity=64),
    MUST: ChannelConfig(capacity=32, overflow="block"),
    OFFERS: ChannelConfig(capacity=32, overflow="drop_newest"),
    STRICT: ChannelConfig(capacity=64, overflow="error"),
    STATE: ChannelConfig(capacity=1, replay=1),
}
TOPICS: Final = tuple(CHANNELS)

#: Short ones, since trio keeps what had a deadline until that has passed.
TIMEOUTS: Final[BackgroundOptions] = {"stop_timeout": 2, "drain_timeout": 2, "shutdown_timeout": 2}

#: How long a stop may take: to end, to drain, to shut down, and 2 s.
LONGEST_STOP: Final = 8.0


def timed(**options: Unpack[BackgroundOptions]) -> BackgroundOptions:
    """Add the time-outs that all tasks of a soak have."""
    return {**TIMEOUTS, **options}


@final
class Gate:
    """Lets the load in, and keeps it out while somebody looks at what is left."""

    def __init__(self) -> None:
        #: how many are inside
        self.inside = 0
        #: for threads, which cannot wait at the gate itself
        self.is_open = threading.Event()
        self._opened = Event()
        self.open()

    def open(self) -> None:
        self.is_open.set()
        self._opened.set()

    def close(self) -> None:
        self.is_open.clear()
        self._opened = Event()

    async def __aenter__(self) -> None:
        while not self.is_open.is_set():
            await self._opened.wait()
        self.inside += 1

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.inside -= 1


@final
class Stage:
    """What all that goes on in a soak shares."""

    def __init__(self, scheduler: Scheduler, seed: int, *, leak: bool) -> None:
        self.scheduler = scheduler
        self.dice = Random(seed)
        #: whether one receiver in each round is not closed, so that the soak must fail
        self.leak = leak
        self.books = Books(scheduler)
        self.gate = Gate()
        #: whether the scheduler has been asked to stop
        self.stopping = False
        #: threads that are just sending
        self.busy_threads = 0
        #: tasks that are there from the beginning and may be restarted by hand
        self.cast: list[TaskId] = []
        self._numbers = count(1)
        self._serial = count(1)

    def parcel(self) -> Parcel:
        """Return a new parcel."""
        return Parcel(next(self._numbers))

    def new_name(self, what: str) -> str:
        """Return a name that nobody has had."""
        return f"{what} {next(self._serial)}"

    def add_handler(
        self, group: Group, topic: Topic[Parcel], kind: Kind, **options: Unpack[BackgroundOptions]
    ) -> TaskId:
        """Register an event task, and begin its account."""
        handler = Handler(topic, kind)
        described: TaskOptions = {**TIMEOUTS, **kind.options, **options}
        task = group.register_event_task(handler, **described)
        self.books.open(task)
        return task

    async def come_to_rest(self, within: float) -> bool:
        """Keep the load out until all that was sent is handled and all tasks are well again.

        :param within: for how long that may take, in seconds
        :return: whether it is so
        """
        self.gate.close()
        deadline = current_time() + within
        while not self._is_quiet():
            if current_time() > deadline:
                return False
            await sleep(0.02)
        return True

    def _is_quiet(self) -> bool:
        return (
            not self.gate.inside
            and not self.busy_threads
            and self.books.letters == self.scheduler.bus.statistics()[DEAD_LETTERS].sent
            and all(
                has_left(shot) or (shot.ready and not shot.unread)
                for shot in self.scheduler.status()
            )
            and self.books.nothing_in_hand()
        )
