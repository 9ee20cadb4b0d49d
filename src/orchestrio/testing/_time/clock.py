"""`Watch`: what a run in virtual time is asked for, and what it tells, on any event loop."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from anyio import NoEventLoopError, current_time

from ..._tasks.timetables import WALL_CLOCK
from .order import Order


@dataclass(frozen=True, slots=True)
class Watch:
    """What one run in virtual time is to be like."""

    #: how long, in real seconds, nothing must have arrived for the clock to jump
    io_grace: float
    #: what decides on the order of steps; `None` leaves it to the event loop
    seed: int | None
    order: Order
    #: the wall clock's time at virtual time 0
    start: datetime
    #: called when all tasks wait, before the clock jumps
    before_jump: Callable[[], None] | None = None

    def run_begins(self) -> None:
        """Set the wall clock; to be called in the event loop before anything else runs in it."""
        start = self.start  # all else that this has leads to the loop, which would live for ever
        with suppress(NoEventLoopError):  # a loop that AnyIO did not start: nobody can ask there
            WALL_CLOCK.set(lambda: start + timedelta(seconds=current_time()))
