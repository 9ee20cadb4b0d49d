"""When periodic work is due: at a fixed rate, after a fixed delay, or by a cron expression.

A `Timetable` belongs to one loop of work in one event loop: `next_tick` waits for a tick, then the
work is done, and so on. What all of them hold to: ticks never pile up, those that cannot happen any more are counted once;
the first call decides on a tick, and a cancelled call takes nothing of it away: the next call waits
for the same tick, and returns at once if it came due meanwhile.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from functools import partial
from typing import Final, final

from anyio import current_time, sleep_until
from anyio.lowlevel import RunVar
from typing_extensions import override

__all__ = ["Cron", "FixedDelay", "FixedRate", "Timetable"]

_ROUNDING: Final = 1e-6  # seconds; work that is late by less has not missed its tick
_LONGEST_SLEEP: Final = 60.0  # seconds until a jump of the wall clock is noticed, at most
_LATEST: Final = timedelta(minutes=1)
_CLOCK_WAS_SET: Final = timedelta(hours=3)
_MOST_COUNTED: Final = 1000
_SYSTEM_CLOCK: Final = partial(datetime.now, UTC)

WALL_CLOCK: Final = RunVar[Callable[[], datetime]]("orchestrio.wall_clock", _SYSTEM_CLOCK)
"""The wall clock of an event loop: the system's, unless the loop runs in virtual time."""


def _wall_clock() -> datetime:
    return WALL_CLOCK.get()()


class Timetable(ABC):
    """When periodic work is due; subclass it for timings of your own."""

    __slots__ = ()

    @abstractmethod
    async def next_tick(self) -> int:
        """Wait until the next tick is due; this is a checkpoint also if it is due already.

        If this is cancelled, the tick is still to come: no tick is lost or counted twice.

        :return: how many ticks were missed between the last one and this one
        """


@final
class FixedRate(Timetable):
    """The first tick at once, and tick number n at n times `seconds` after that first call.

    It does not drift: due times are multiplied, not added up. Work that takes longer than
    `seconds` skips: the ticks that came due before it ended are missed, and the next tick is the
    next multiple, so work starts on a multiple, always. A tick is late only if the event loop is.

    :param seconds: the time from one tick to the next, above 0
    :raises ValueError: if `seconds` is not finite or not above 0
    """

    __slots__ = ("_missed", "_seconds", "_start", "_tick")

    def __init__(self, seconds: float) -> None:
        if not 0 < seconds < math.inf:
            raise ValueError(f"a fixed rate is a finite time above 0 seconds, not {seconds!r}.")
        self._seconds = seconds
        self._start: float | None = None
        self._tick = 0  # the number of the next tick
        self._missed: int | None = None  # before the next tick; None: that is not decided yet

    @override
    async def next_tick(self) -> int:
        now = current_time()
        if self._start is None:
            self._start = now
            self._missed = 0
        elif self._missed is None:
            first = math.ceil((now - self._start - _ROUNDING) / self._seconds)
            self._missed = max(first - self._tick, 0)
            self._tick += self._missed
        await sleep_until(self._start + self._tick * self._seconds)
        missed, self._missed = self._missed, None
        self._tick += 1
        return missed


@final
class FixedDelay(Timetable):
    """The first tick at once, and each other `seconds` after the work ended; it never misses one.

    Work has ended when `next_tick` is called again.

    :param seconds: the time from the end of the work to the next tick; 0 lets others run, no more
    :raises ValueError: if `seconds` is not finite or below 0
    """

    __slots__ = ("_delay", "_due", "_seconds")

    def __init__(self, seconds: float) -> None:
        if not 0 <= seconds < math.inf:
            raise ValueError(
                f"a fixed delay is a finite time of 0 seconds or more, not {seconds!r}."
            )
        self._seconds = seconds
        self._delay = 0.0  # before the next tick: none before the first
        self._due: float | None = None

    @override
    async def next_tick(self) -> int:
        if self._due is None:
            self._due = current_time() + self._delay
        await sleep_until(self._due)
        self._due = None
        self._delay = self._seconds
        return 0


@final
class _SystemTime(tzinfo):
    """The system's time zone with its rules: `datetime.astimezone` knows one moment's offset only."""

    @override
    def utcoffset(self, dt: datetime | None) -> timedelta | None:
        return None if dt is None else dt.replace(tzinfo=None).astimezone().utcoffset()

    @override
    def dst(self, dt: datetime | None) -> None:
        return None

    @override
    def tzname(self, dt: datetime | None) -> str:
        return "local"

    @override
    def fromutc(self, dt: datetime) -> datetime:
        fixed = dt.replace(tzinfo=UTC).astimezone()
        local = fixed.replace(tzinfo=self)
        # A wall time that comes twice means the first, unless it says otherwise.
        return local if local.utcoffset() == fixed.utcoffset() else local.replace(fold=1)


@final
class Cron(Timetable):
    """A tick at each wall clock time that matches a cron expression; the first is yet to come.

    Expressions are those of Debian's cron, and of the library ``cronsim``: five fields, or six with
    the seconds first; also ``L`` and ``LW`` as the day, ``5L`` and ``MON#1`` as the weekday.

    Daylight saving: work at set hours and minutes (``30 2 * * *``) happens once a day: right after
    the gap if its time is left out, and at the first of two equal times. If the minute or the hour
    starts with ``*``, or with six fields, a time that is left out has no tick, and one that comes
    twice has two.

    Times that pass while the work runs are missed. So is a tick that is more than a minute late
    when it is noticed, since the clock jumped ahead or the machine slept; up to a minute late, it
    happens. A clock put back by up to three hours repeats nothing: the next tick is the first that
    has not happened. By more than that, the clock was set, and its new time counts. A jump is
    noticed within a minute. Counting stops at 1000 missed ticks, which means that many or more.

    :param expression: the cron expression
    :param tz: the zone that it is meant in; the system's local time, with its rules, if not given
    :param now: the wall clock, that of the event loop if not given; without a time zone, what it
        returns is the system's local time
    :raises ValueError: if the expression is not valid, or matches no time at all
    :raises ImportError: if ``cronsim`` is not installed
    """

    __slots__ = ("_after", "_due", "_missed", "_now", "_simulate", "_tz")

    def __init__(
        self,
        expression: str,
        tz: tzinfo | None = None,
        now: Callable[[], datetime] = _wall_clock,
    ) -> None:
        try:
            from cronsim import CronSim, CronSimError
        except ImportError as error:
            raise ImportError(
                "cron expressions need the library cronsim: pip install 'orchestrio[cron]'"
            ) from error
        try:
            # Any fifty years do: it is how far the library looks, and leap years come around.
            found = next(CronSim(expression, datetime(2000, 1, 1)), None)
        except (CronSimError, ValueError) as error:
            raise ValueError(f"{expression!r} is not a valid cron expression: {error}.") from error
        if found is None:
            raise ValueError(f"no time matches the cron expression {expression!r}.")
        self._simulate = partial(CronSim, expression)
        self._tz = _SystemTime() if tz is None else tz
        self._now = now
        self._after: datetime | None = None  # all that matches until then has happened or is missed
        self._due: datetime | None = None
        self._missed = 0

    @override
    async def next_tick(self) -> int:
        left = math.inf
        while left > 0:
            now = self._now().astimezone(UTC)
            left = (self._decide(now) - now).total_seconds()
            await sleep_until(current_time() + min(max(left, 0.0), _LONGEST_SLEEP))
        missed, self._missed = self._missed, 0
        self._after, self._due = self._due, None
        return missed

    def _decide(self, now: datetime) -> datetime:
        """Return when the next tick is due; count those that it is too late for."""
        after, due = self._after, self._due
        if after is None or now < after - _CLOCK_WAS_SET:
            after = now
        elif due is not None and now <= due + _LATEST:
            return due
        times = self._times(after)
        due = next(times)
        while due < now:
            after = due
            self._missed += 1
            if self._missed >= _MOST_COUNTED:
                self._missed = _MOST_COUNTED
                times = self._times(now - timedelta.resolution)
            due = next(times)
        self._after, self._due = after, due
        return due

    def _times(self, after: datetime) -> Iterator[datetime]:
        for match in self._simulate(after.astimezone(self._tz)):
            due = match.astimezone(UTC)
            if due > after:  # the library goes back to the first of two equal times
                yield due
