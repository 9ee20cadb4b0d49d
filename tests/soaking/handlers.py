"""The handlers of a soak: quick and slow ones, and those that fail, each in a way of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from anyio import get_cancelled_exc_class, sleep

from orchestrio import Backoff, EventTask, RestartPolicy, TaskOptions, Topic

#: Restarts without end, soon.
AGAIN: Final = RestartPolicy(initial_delay=0.02, max_delay=0.1, max_restarts=None)

AT_ONCE: Final = Backoff(initial_delay=0.005, max_delay=0.01)


class TroubleError(Exception):
    """What goes wrong in a soak, on purpose."""


@dataclass(slots=True)
class Parcel:
    """A message; its number says which handlers will have trouble with it."""

    number: int


#: What a handler does with the number of a parcel, in its first attempt, its second, and so on.
Act = Callable[[int, int], Awaitable[None]]


async def be_quick(number: int, attempt: int) -> None: ...


async def be_slow(number: int, attempt: int) -> None:
    await sleep(0.002)


async def fail_at_first(number: int, attempt: int) -> None:
    if number % 97 == 0 or (number % 31 == 0 and attempt == 1):
        raise TroubleError(f"{number}, attempt {attempt}")


async def dawdle(number: int, attempt: int) -> None:
    if number % 61 == 0:
        await sleep(1)


async def fail(number: int, attempt: int) -> None:
    await sleep(0.001)
    if number % 211 == 0:
        raise TroubleError(str(number))


class Kind(NamedTuple):
    """What a handler does, and the options of its task."""

    act: Act
    options: TaskOptions


KINDS: Final[dict[str, Kind]] = {
    "quick": Kind(be_quick, {}),
    "slow": Kind(be_slow, {}),
    "pool": Kind(be_slow, {"concurrency": 4}),
    "trying": Kind(fail_at_first, {"retries": 2, "retry_backoff": AT_ONCE, "on_error": "skip"}),
    "timed": Kind(dawdle, {"attempt_timeout": 0.02, "on_error": "skip"}),
    "skipping": Kind(fail, {"on_error": "skip"}),
    "skipping pool": Kind(fail, {"on_error": "skip", "concurrency": 3}),
    "crashing": Kind(fail, {"restart": AGAIN}),
    "crashing pool": Kind(fail, {"restart": AGAIN, "concurrency": 3}),
    "quitting": Kind(fail, {"on_error": "stop"}),
}


class Handler(EventTask[Parcel]):
    """Handles parcels as its kind does, and counts what it could not handle."""

    def __init__(self, topic: Topic[Parcel], kind: Kind) -> None:
        self.topic = topic
        #: messages with which it had trouble in the last attempt
        self.given_up = 0
        self._cancelled = 0  # messages in whose handling it was cancelled
        self._act = kind.act
        self._attempts = kind.options.get("retries", 0) + 1
        self._failures = 0  # with the message in hand

    @property
    def cut_off(self) -> int:
        """In how many messages it was cut off: while it handled them, or between two attempts."""
        return self._cancelled + (self._failures > 0)

    @property
    def subscribed_event(self) -> Topic[Parcel]:
        return self.topic

    async def initialize(self) -> None:
        self._cancelled = self.cut_off
        self._failures = 0

    async def handle_event(self, event: Parcel) -> None:
        try:
            await self._act(event.number, self._failures + 1)
        except TroubleError:
            self._failures = (self._failures + 1) % self._attempts
            self.given_up += not self._failures
            raise
        except get_cancelled_exc_class():
            self._failures = 0
            self._cancelled += 1
            raise
        self._failures = 0
