"""`Timetable` and its kinds: fixed rate, fixed delay, cron; on a virtual clock."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

import pytest
from anyio import CancelScope, create_task_group, current_time, move_on_after, sleep
from anyio.lowlevel import checkpoint
from support import cancelled

from orchestrio._tasks.timetables import Cron, FixedDelay, FixedRate, Timetable
from orchestrio.testing import virtual_time

BERLIN = ZoneInfo("Europe/Berlin")
MIDDAY = datetime(2025, 6, 2, 12, tzinfo=UTC)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return virtual_time(request.param)


class Wall:
    """A wall clock that goes with the event loop's, and can be put forward and back."""

    def __init__(self, start: datetime) -> None:
        self.start = start
        self.began = current_time()

    def __call__(self) -> datetime:
        return self.start + timedelta(seconds=current_time() - self.began)

    def put(self, **change: float) -> None:
        self.start += timedelta(**change)


def rate() -> Timetable:
    return FixedRate(1)


def delay() -> Timetable:
    return FixedDelay(1)


def cron() -> Timetable:
    return Cron("* * * * * *", now=Wall(MIDDAY))


every_timetable = pytest.mark.parametrize("make", [rate, delay, cron])


# -- what holds for all of them ----------------------------------------------------------------


@every_timetable
async def test_a_tick_is_a_checkpoint_also_if_it_is_due(make: Callable[[], Timetable]) -> None:
    timetable = make()
    await timetable.next_tick()
    with move_on_after(0.5):
        await timetable.next_tick()
    await sleep(1)
    with cancelled() as scope:
        await timetable.next_tick()
    assert scope.cancelled_caught
    before = current_time()
    await timetable.next_tick()
    assert current_time() == before


@every_timetable
async def test_the_first_tick_is_a_checkpoint(make: Callable[[], Timetable]) -> None:
    with cancelled() as scope:
        await make().next_tick()
    assert scope.cancelled_caught


@every_timetable
async def test_a_cancelled_call_leaves_the_tick_to_the_next(make: Callable[[], Timetable]) -> None:
    timetable = make()
    await timetable.next_tick()
    due = current_time() + 1
    while current_time() < due - 0.01:
        with move_on_after(0.3) as scope:
            await timetable.next_tick()
        if not scope.cancelled_caught:
            break
    assert current_time() == pytest.approx(due, abs=1e-5)
    assert await timetable.next_tick() == 0
    assert current_time() == pytest.approx(due + 1, abs=1e-5)


@every_timetable
async def test_a_tick_that_came_due_after_a_cancelled_call_happens_at_once(
    make: Callable[[], Timetable],
) -> None:
    timetable = make()
    await timetable.next_tick()
    with move_on_after(0.5):
        await timetable.next_tick()
    await sleep(0.7)
    before = current_time()
    assert await timetable.next_tick() == 0
    assert current_time() == before


@every_timetable
async def test_many_cancelled_calls_lose_no_tick_and_repeat_none(
    make: Callable[[], Timetable],
) -> None:
    timetable = make()
    await timetable.next_tick()
    start = current_time()
    ticks = missed = 0
    waits = random.Random(7)
    while current_time() < start + 200:
        with move_on_after(waits.random()) as scope:
            missed += await timetable.next_tick()
            ticks += 1
        if scope.cancelled_caught and waits.random() < 0.05:
            await sleep(waits.random() * 4)
    if not isinstance(timetable, FixedDelay):
        assert missed > 0
        assert ticks + missed in (199, 200, 201)
    else:
        assert missed == 0


# -- a fixed rate ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [FixedRate, FixedDelay])
async def test_the_first_tick_comes_at_once(kind: type[FixedRate | FixedDelay]) -> None:
    start = current_time()
    assert await kind(5).next_tick() == 0
    assert current_time() == start


async def test_a_fixed_rate_does_not_drift() -> None:
    timetable = FixedRate(0.1)
    start = current_time()
    worst = 0.0
    for number in range(10_000):
        assert await timetable.next_tick() == 0
        worst = max(worst, abs(current_time() - (start + number * 0.1)))
    assert worst < 1e-6


async def test_the_time_that_work_takes_is_no_drift() -> None:
    timetable = FixedRate(0.1)
    start = current_time()
    for number in range(1000):
        assert await timetable.next_tick() == 0
        assert current_time() == pytest.approx(start + number * 0.1, abs=1e-6)
        await sleep(number % 10 / 100)


@pytest.mark.parametrize(
    ("work", "missed", "tick"),
    [
        (0.5, 0, 1),
        (1, 0, 1),
        (1.001, 1, 2),
        (1.5, 1, 2),
        (2, 1, 2),
        (3.7, 3, 4),
        (1000.5, 1000, 1001),
    ],
)
async def test_after_an_overrun_the_next_multiple_is_next(
    work: float, missed: int, tick: int
) -> None:
    timetable = FixedRate(1)
    start = current_time()
    await timetable.next_tick()
    await sleep(work)
    assert await timetable.next_tick() == missed
    assert current_time() == pytest.approx(start + tick, abs=1e-6)
    assert await timetable.next_tick() == 0
    assert current_time() == pytest.approx(start + tick + 1, abs=1e-6)


async def test_work_that_ends_when_the_next_tick_is_due_has_not_missed_it() -> None:
    timetable = FixedRate(0.1)
    for _ in range(1000):
        assert await timetable.next_tick() == 0
        await sleep(0.1)


async def test_each_multiple_happens_or_is_missed() -> None:
    timetable = FixedRate(0.3)
    start = current_time()
    works = random.Random(3)
    number = -1
    for _ in range(2000):
        number += 1 + await timetable.next_tick()
        assert current_time() == pytest.approx(start + number * 0.3, abs=1e-6)
        await sleep(works.choice([0, 0.1, 0.3, 0.6, works.random() * 2]))


async def test_a_cancelled_call_keeps_count_of_what_was_missed() -> None:
    timetable = FixedRate(1)
    await timetable.next_tick()
    await sleep(3.7)
    with move_on_after(0.1):
        await timetable.next_tick()
    assert await timetable.next_tick() == 3
    assert await timetable.next_tick() == 0


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan")])
def test_a_rate_is_above_zero_and_finite(seconds: float) -> None:
    with pytest.raises(
        ValueError, match=r"^a fixed rate is a finite time above 0 seconds, not .*\.$"
    ):
        FixedRate(seconds)


# -- a fixed delay -----------------------------------------------------------------------------


async def test_a_fixed_delay_counts_from_the_end_of_the_work() -> None:
    timetable = FixedDelay(2)
    await timetable.next_tick()
    for work in (0, 1, 5, 100):
        await sleep(work)
        ended = current_time()
        assert await timetable.next_tick() == 0
        assert current_time() == pytest.approx(ended + 2, abs=1e-6)


async def test_without_delay_others_run_between_ticks() -> None:
    timetable = FixedDelay(0)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await checkpoint()
            turns += 1

    async with create_task_group() as tasks:
        tasks.start_soon(other)
        for _ in range(100):
            await timetable.next_tick()
        tasks.cancel_scope.cancel()
    assert turns >= 50


@pytest.mark.parametrize("seconds", [-0.1, float("inf"), float("nan")])
def test_a_delay_is_not_negative_and_finite(seconds: float) -> None:
    with pytest.raises(ValueError, match=r"^a fixed delay is a finite time of 0 .*, not .*\.$"):
        FixedDelay(seconds)


# -- cron --------------------------------------------------------------------------------------


async def ticks(
    expression: str, start: datetime, count: int, tz: tzinfo | None = None
) -> list[datetime]:
    """When the first ticks happen, to the second."""
    wall = Wall(start)
    timetable = Cron(expression, tz, wall)
    found: list[datetime] = []
    for _ in range(count):
        assert await timetable.next_tick() == 0
        found.append((wall() + timedelta(milliseconds=1)).replace(microsecond=0))
    return found


async def test_cron_ticks_at_the_times_that_match() -> None:
    found = await ticks("*/20 * * * *", MIDDAY + timedelta(seconds=1.5), 4, UTC)
    assert found == [MIDDAY + timedelta(minutes=20 * number) for number in (1, 2, 3, 4)]


async def test_cron_has_no_first_tick_at_once() -> None:
    assert await ticks("0 12 * * *", MIDDAY, 1, UTC) == [MIDDAY + timedelta(days=1)]


async def test_a_tick_is_never_early_by_the_wall_clock() -> None:
    wall = Wall(MIDDAY + timedelta(microseconds=333_333))
    timetable = Cron("* * * * * *", UTC, wall)
    for number in range(1, 500):
        await timetable.next_tick()
        assert timedelta() <= wall() - MIDDAY - timedelta(seconds=number) < timedelta(seconds=0.001)


@pytest.mark.parametrize(
    ("work", "missed", "minute"), [(0.5, 0, 1), (1, 0, 1), (1.5, 1, 2), (2, 1, 2), (90.5, 90, 91)]
)
async def test_times_that_match_while_the_work_runs_are_missed(
    work: float, missed: int, minute: int
) -> None:
    wall = Wall(MIDDAY - timedelta(seconds=5))
    timetable = Cron("* * * * *", UTC, wall)
    await timetable.next_tick()
    first = current_time()
    wall.start = MIDDAY - timedelta(seconds=current_time() - wall.began)
    await sleep(work * 60)
    assert await timetable.next_tick() == missed
    assert current_time() == pytest.approx(first + minute * 60, abs=0.01)
    assert await timetable.next_tick() == 0


async def test_a_clock_put_forward_past_a_tick_misses_it() -> None:
    wall = Wall(MIDDAY)
    timetable = Cron("30 * * * *", UTC, wall)
    await timetable.next_tick()
    with move_on_after(600):
        await timetable.next_tick()
    wall.put(hours=3)  # it is 15:40: 13:30, 14:30 and 15:30 have passed
    assert await timetable.next_tick() == 3
    assert wall() - MIDDAY == pytest.approx(
        timedelta(hours=4, minutes=30), abs=timedelta(seconds=1)
    )


async def test_what_was_missed_before_a_jump_is_not_counted_again() -> None:
    wall = Wall(MIDDAY)
    timetable = Cron("30 * * * *", UTC, wall)
    await timetable.next_tick()
    await sleep(2.2 * 3600)  # it is 14:42: 13:30 and 14:30 have passed
    with move_on_after(60):
        await timetable.next_tick()
    wall.put(hours=2)  # it is 16:43: 15:30 and 16:30 too
    assert await timetable.next_tick() == 4


async def test_a_clock_put_forward_during_the_wait_is_noticed_within_a_minute() -> None:
    wall = Wall(MIDDAY)
    timetable = Cron("0 0 * * *", UTC, wall)
    start = current_time()
    async with create_task_group() as tasks:
        tasks.start_soon(timetable.next_tick)
        await sleep(100)
        wall.put(hours=11, minutes=57)  # it is 23:58:40
    assert current_time() - start == pytest.approx(180, abs=0.01)


async def test_a_clock_put_forward_just_past_a_tick_does_not_skip_it() -> None:
    wall = Wall(MIDDAY)
    timetable = Cron("0 0 * * *", UTC, wall)
    async with create_task_group() as tasks:
        tasks.start_soon(timetable.next_tick)
        await sleep(12 * 3600 - 0.2)
        wall.put(seconds=0.4)
    assert wall() - MIDDAY < timedelta(hours=12, seconds=1)
    assert await timetable.next_tick() == 0
    assert wall() - MIDDAY == pytest.approx(timedelta(hours=36), abs=timedelta(seconds=1))


@pytest.mark.parametrize(("seconds", "wait"), [(0, 0), (30, 30)])
async def test_a_jump_of_ten_years_is_counted_up_to_a_bound(seconds: float, wait: float) -> None:
    wall = Wall(MIDDAY)
    timetable = Cron("* * * * *", UTC, wall)
    await timetable.next_tick()
    wall.put(days=3653, seconds=seconds)
    before, looked = current_time(), time.perf_counter()
    assert await timetable.next_tick() == 1000
    assert time.perf_counter() - looked < 10
    assert current_time() - before == pytest.approx(wait, abs=0.01)
    assert await timetable.next_tick() == 0


@pytest.mark.parametrize("back", [1, 30, 179])
async def test_a_clock_put_back_repeats_no_tick(back: int) -> None:
    wall = Wall(MIDDAY - timedelta(minutes=5))
    timetable = Cron("0 12,13 * * *", UTC, wall)
    await timetable.next_tick()
    wall.put(minutes=-back)
    assert await timetable.next_tick() == 0
    assert wall() - MIDDAY == pytest.approx(timedelta(hours=1), abs=timedelta(seconds=1))


async def test_a_clock_put_back_by_a_year_counts_as_the_new_time() -> None:
    wall = Wall(MIDDAY)
    timetable = Cron("0 * * * *", UTC, wall)
    await timetable.next_tick()
    wall.put(days=-365)
    assert await timetable.next_tick() == 0
    expected = MIDDAY + timedelta(days=-365, hours=2)
    assert wall() - expected == pytest.approx(timedelta(), abs=timedelta(seconds=1))


async def test_a_clock_put_back_by_a_day_during_the_wait_counts_as_the_new_time() -> None:
    wall = Wall(MIDDAY)
    timetable = Cron("0 * * * *", UTC, wall)
    async with create_task_group() as tasks:
        tasks.start_soon(timetable.next_tick)
        await sleep(600)
        wall.put(days=-1)
    expected = MIDDAY + timedelta(days=-1, hours=1)
    assert wall() - expected == pytest.approx(timedelta(), abs=timedelta(seconds=1))


async def test_a_clock_that_goes_wild_repeats_nothing_within_three_hours() -> None:
    wall = Wall(MIDDAY)
    timetable = Cron("*/10 * * * *", UTC, wall)
    jumps = random.Random(11)
    last = MIDDAY
    for _ in range(200):
        with CancelScope() as scope:
            scope.deadline = current_time() + jumps.random() * 2000
            await timetable.next_tick()
            this = wall().replace(second=0, microsecond=0)
            assert this > last
            last = this
        wall.put(seconds=jumps.uniform(-1800, 1800))


async def test_work_at_a_time_that_is_left_out_happens_right_after() -> None:
    found = await ticks("30 2 * * *", datetime(2025, 3, 29, 1, tzinfo=UTC), 3, BERLIN)
    assert [tick.astimezone(BERLIN).strftime("%d %H:%M %z") for tick in found] == [
        "29 02:30 +0100",
        "30 03:00 +0200",
        "31 02:30 +0200",
    ]


async def test_work_at_a_time_that_comes_twice_happens_once() -> None:
    found = await ticks("30 2 * * *", datetime(2025, 10, 25, tzinfo=UTC), 3, BERLIN)
    assert [tick.astimezone(BERLIN).strftime("%d %H:%M %z") for tick in found] == [
        "25 02:30 +0200",
        "26 02:30 +0200",
        "27 02:30 +0100",
    ]


async def test_work_that_begins_between_two_equal_times_does_not_wait_for_the_past() -> None:
    start = datetime(2025, 10, 26, 2, 15, fold=1, tzinfo=BERLIN).astimezone(UTC)
    (tick,) = await ticks("30 2 * * *", start, 1, BERLIN)
    assert tick.astimezone(BERLIN).strftime("%d %H:%M %z") == "27 02:30 +0100"


@pytest.mark.parametrize("month", [3, 10])
async def test_work_every_half_hour_goes_by_the_time_that_has_passed(month: int) -> None:
    start = datetime(2025, month, 30 if month == 3 else 26, tzinfo=UTC) - timedelta(minutes=15)
    found = await ticks("*/30 * * * *", start, 6, BERLIN)
    assert found == [start + timedelta(minutes=15 + 30 * number) for number in range(6)]


async def test_six_fields_have_no_tick_in_the_gap_and_two_at_equal_times() -> None:
    spring = await ticks("0 30 2 * * *", datetime(2025, 3, 29, 12, tzinfo=UTC), 1, BERLIN)
    assert spring == [datetime(2025, 3, 31, 0, 30, tzinfo=UTC)]
    autumn = await ticks("0 30 2 * * *", datetime(2025, 10, 25, 12, tzinfo=UTC), 2, BERLIN)
    assert autumn == [datetime(2025, 10, 26, hour, 30, tzinfo=UTC) for hour in (0, 1)]


async def test_a_zone_may_be_a_fixed_offset() -> None:
    found = await ticks("0 12 * * *", MIDDAY, 1, timezone(timedelta(hours=-3)))
    assert found == [MIDDAY + timedelta(hours=3)]


@pytest.fixture
def in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The system's local time is that of Berlin."""
    if sys.platform == "win32":
        pytest.skip("the time zone of a process cannot be changed here")
    else:
        with monkeypatch.context() as patch:
            patch.setenv("TZ", "Europe/Berlin")
            time.tzset()
            yield
        time.tzset()


@pytest.mark.parametrize(
    ("expression", "start"),
    [
        ("30 2 * * *", datetime(2025, 3, 29, tzinfo=UTC)),
        ("30 2 * * *", datetime(2025, 10, 25, tzinfo=UTC)),
        ("*/30 * * * *", datetime(2025, 10, 25, 23, 45, tzinfo=UTC)),
        ("0 30 2 * * *", datetime(2025, 10, 25, 12, tzinfo=UTC)),
        ("0 12 * * *", MIDDAY),
    ],
)
@pytest.mark.usefixtures("in_berlin")
async def test_without_a_zone_local_time_is_meant_with_its_rules(
    expression: str, start: datetime
) -> None:
    assert await ticks(expression, start, 4) == await ticks(expression, start, 4, BERLIN)


@pytest.mark.usefixtures("in_berlin")
async def test_a_wall_clock_without_a_zone_is_local_time() -> None:
    wall = Wall(datetime(2025, 6, 2, 11, 30))
    start = current_time()
    await Cron("0 12 * * *", BERLIN, wall).next_tick()
    assert current_time() - start == pytest.approx(1800, abs=0.01)


async def test_the_wall_clock_is_that_of_the_system_by_default() -> None:
    start = current_time()
    timetable = Cron("* * * * * *")
    with move_on_after(1e-9):
        await timetable.next_tick()
    assert current_time() - start < 1


def test_without_the_library_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "cronsim", None)
    with pytest.raises(ImportError, match=r"pip install 'orchestrio\[cron\]'"):
        Cron("* * * * *")


@pytest.mark.parametrize(
    "expression",
    ["", "* * * *", "60 * * * *", "@daily", "0 0 31 2 *", "*/0 * * * *", "1" * 5000 + " * * * *"],
)
def test_a_bad_expression_is_refused_when_it_is_written(expression: str) -> None:
    with pytest.raises(ValueError, match="is not a valid cron expression") as caught:
        Cron(expression)
    assert repr(expression) in str(caught.value)


def test_an_expression_that_never_matches_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"no time matches the cron expression '\* \* \*/20 \* 1L'"
    ):
        Cron("* * */20 * 1L")
