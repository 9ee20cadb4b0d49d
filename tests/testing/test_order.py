"""The order in which tasks step: a seed decides, and nothing else."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from typing import Any, Literal

import anyio
import pytest
import trio
from anyio import create_task_group, current_time, sleep, sleep_forever
from anyio.lowlevel import checkpoint

from orchestrio import Scheduler
from orchestrio.testing import Order, virtual_time

Backend = Literal["asyncio", "trio"]
BACKENDS: list[Backend] = ["asyncio", "trio"]
ORDERS: list[Order] = ["stock", "shuffle", "defer"]
on_both = pytest.mark.parametrize("backend", BACKENDS)
in_each_order = pytest.mark.parametrize("order", ORDERS)


def play(
    main: Callable[[], Awaitable[list[int]]], backend: Backend, seed: int | None, order: Order
) -> list[int]:
    name, options = virtual_time(backend, seed=seed, order=order)
    return anyio.run(main, backend=name, backend_options=options)


async def steps() -> list[int]:
    """Tasks that step, that wake each other, and that are cancelled together."""
    done: list[int] = []
    go = anyio.Event()

    async def step(number: int) -> None:
        for _ in range(3):
            await checkpoint()
            done.append(number)

    async def wait(number: int) -> None:
        await go.wait()
        done.append(number)

    async def be_cancelled(number: int) -> None:
        try:
            await sleep_forever()
        finally:
            done.append(number)

    async with create_task_group() as group:
        for number in range(5):
            group.start_soon(step, number)
            group.start_soon(wait, 10 + number)
        async with create_task_group() as cancelled:
            for number in range(8):
                cancelled.start_soon(be_cancelled, 20 + number)
            await sleep(1)
            go.set()
            cancelled.cancel_scope.cancel()
    return done


@on_both
@in_each_order
def test_the_same_seed_gives_the_same_order(backend: Backend, order: Order) -> None:
    for seed in range(5):
        first = play(steps, backend, seed, order)
        # Something that lies elsewhere in memory now must not matter.
        _clutter = [object() for _ in range(1000 * (seed + 1))]
        assert play(steps, backend, seed, order) == first


@on_both
@pytest.mark.parametrize("order", ["shuffle", "defer"])
def test_other_seeds_give_other_orders(backend: Backend, order: Order) -> None:
    orders = {tuple(play(steps, backend, seed, order)) for seed in range(20)}
    assert len(orders) > 10
    assert len({tuple(sorted(one)) for one in orders}) == 1  # of the same steps


def test_stock_is_the_order_of_asyncio() -> None:
    seeded, unseeded = (play(steps, "asyncio", seed, "stock") for seed in (1, None))
    # What is cancelled together has no order of its own: asyncio's is that of a set.
    assert [who for who in seeded if who < 20] == [who for who in unseeded if who < 20]
    assert [who for who in seeded if who >= 20] == list(range(20, 28))


@on_both
def test_any_of_the_tasks_that_are_ready_may_be_the_first_and_the_last(backend: Backend) -> None:
    async def main() -> list[int]:
        done: list[int] = []

        async def step(number: int) -> None:
            done.append(number)

        async with create_task_group() as group:
            for number in range(4):
                group.start_soon(step, number)
        return done

    orders = [play(main, backend, seed, "shuffle") for seed in range(60)]
    assert {order[0] for order in orders} == {order[-1] for order in orders} == {0, 1, 2, 3}


@on_both
def test_a_task_that_is_held_back_does_step_in_the_end(backend: Backend) -> None:
    async def main() -> list[int]:
        done: list[int] = []

        async def spin(number: int) -> None:
            while len(done) < 2000:
                await checkpoint()
                done.append(number)

        async with create_task_group() as group:
            for number in range(3):
                group.start_soon(spin, number)
        return done

    done = play(main, backend, 3, "defer")
    assert all(done.count(number) > 300 for number in range(3))
    held = max(
        later - earlier
        for number in range(3)
        for places in [[place for place, who in enumerate(done) if who == number]]
        for earlier, later in pairwise(places)
    )
    assert held > 10


def test_callbacks_of_asyncio_that_step_no_task_keep_their_order() -> None:
    async def main() -> list[int]:
        done: list[int] = []
        loop = asyncio.get_running_loop()
        task = asyncio.create_task(asyncio.sleep(0))

        async def step() -> None:
            await asyncio.sleep(0)

        async with create_task_group() as group:
            for number in range(50):
                group.start_soon(step)
                loop.call_soon(done.append, number)
        loop.call_soon(task.cancel)
        await asyncio.wait([task])
        return done

    for seed in range(10):
        assert play(main, "asyncio", seed, "shuffle") == list(range(50))


@pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio has eager tasks since 3.12")
def test_an_eager_task_takes_its_first_step_at_once() -> None:
    factory: Any = vars(asyncio).get("eager_task_factory")

    async def main() -> list[int]:
        done: list[int] = []

        async def step(number: int) -> None:
            done.append(number)
            await asyncio.sleep(0)
            done.append(10 + number)

        asyncio.get_running_loop().set_task_factory(factory)
        tasks = [asyncio.create_task(step(number)) for number in range(4)]
        await asyncio.wait(tasks)
        return done

    orders = {tuple(play(main, "asyncio", seed, "shuffle")) for seed in range(20)}
    assert {order[:4] for order in orders} == {(0, 1, 2, 3)}
    assert len(orders) > 5


def test_a_step_runs_in_the_context_of_its_task() -> None:
    from contextvars import ContextVar

    variable = ContextVar("variable", default=0)

    async def main() -> list[int]:
        done: list[int] = []

        async def step(number: int) -> None:
            variable.set(number)
            await checkpoint()
            done.append(variable.get() - number)

        async with create_task_group() as group:
            for number in range(10):
                group.start_soon(step, number)
        return done

    for backend in BACKENDS:
        assert play(main, backend, 1, "shuffle") == [0] * 10


def test_what_a_task_of_asyncio_raises_comes_out() -> None:
    async def main() -> list[int]:
        async with create_task_group() as group:
            group.start_soon(fail)
        return []

    async def fail() -> None:
        raise KeyError("as ever")

    with pytest.raises(ExceptionGroup) as failed:
        play(main, "asyncio", 1, "shuffle")
    assert isinstance(failed.value.exceptions[0], KeyError)


# -- what trio keeps to itself ---------------------------------------------------------------


def test_trio_is_left_as_it_was() -> None:
    import trio._core._run as trio_run

    before = (trio_run._ALLOW_DETERMINISTIC_SCHEDULING, trio_run._r)
    inside: list[object] = []

    async def main() -> list[int]:
        inside.append(trio_run._r)
        return []

    for _ in range(2):
        play(main, "trio", 1, "shuffle")
    assert inside[0] is not before[1]
    assert (trio_run._ALLOW_DETERMINISTIC_SCHEDULING, trio_run._r) == before


def test_a_trio_that_has_changed_is_an_error_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr("trio._core._run._r")
    with pytest.raises(RuntimeError, match=rf"trio {trio.__version__} has no _r .* leave out seed"):
        virtual_time("trio", seed=1)
    virtual_time("trio")
    virtual_time("asyncio", seed=1)


# -- wrong use -------------------------------------------------------------------------------


def test_an_order_without_a_seed_is_an_error() -> None:
    with pytest.raises(ValueError, match="needs a seed"):
        virtual_time("asyncio", order="shuffle")


def test_a_seed_that_is_no_number_is_an_error() -> None:
    with pytest.raises(TypeError, match="a seed is a whole number, not 'one'"):
        virtual_time("asyncio", seed="one")  # type: ignore[arg-type]  # on purpose


def test_an_unknown_order_is_an_error_that_names_those_there_are() -> None:
    with pytest.raises(ValueError, match='"stock", "shuffle" or "defer"'):
        virtual_time("asyncio", seed=1, order="random")  # type: ignore[arg-type]  # on purpose


# -- the wall clock --------------------------------------------------------------------------

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def cron_ticks(backend: Backend, expression: str, start: datetime | None, seconds: float) -> int:
    """Let cron tick in virtual time; return how often it did."""
    ticks = 0

    async def main() -> None:
        scheduler = Scheduler()

        @scheduler.cron(expression, tz=UTC)
        async def tick() -> None:
            nonlocal ticks
            ticks += 1

        async with scheduler:
            await scheduler.start()
            await sleep(seconds)
            assert current_time() == seconds

    name, options = virtual_time(backend, start=start)
    anyio.run(main, backend=name, backend_options=options)
    return ticks


@on_both
def test_an_hourly_job_ticks_24_times_in_a_virtual_day(backend: Backend) -> None:
    # Between two full hours, or the tick of the last moment would be a matter of taste.
    begin = NOON + timedelta(minutes=30)
    assert cron_ticks(backend, "0 * * * *", begin, 24 * 3600) == 24
    assert cron_ticks(backend, "0 * * * *", None, 24 * 3600) in (24, 25)


@on_both
def test_the_wall_clock_begins_where_it_is_told(backend: Backend) -> None:
    at_noon_there = NOON.replace(tzinfo=timezone(timedelta(hours=2)))  # 10:00 in UTC
    assert cron_ticks(backend, "30 10 * * *", at_noon_there, 3600) == 1
    assert cron_ticks(backend, "30 12 * * *", at_noon_there, 3600) == 0


def test_a_start_without_a_time_zone_is_an_error() -> None:
    with pytest.raises(ValueError, match="must have a time zone"):
        virtual_time("asyncio", start=datetime(2026, 3, 1))
