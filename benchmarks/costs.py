"""What does not show in throughput: sending to many, memory, starting and stopping many tasks.

    python benchmarks/costs.py [--backend asyncio|trio ...] [--quick]

What is compared is timed in turn within one run, and a figure is the median of the ratios.
"""

from __future__ import annotations

import argparse
import gc
import tracemalloc
from collections.abc import Awaitable, Callable
from itertools import pairwise
from statistics import median
from time import perf_counter, sleep
from typing import Final

import anyio
import anyio.to_thread
from rows import at_most, print_head, print_row

from orchestrio import (
    BackgroundTask,
    EventTask,
    Scheduler,
    Topic,
    create_broadcast_stream,
)

NUMBERS: Final = Topic("numbers", int)


# -- sending and memory -----------------------------------------------------------------------


def send_cost(receivers: int, items: int) -> float:
    """Return the seconds of one `send_nowait` while all receivers have unread items."""
    send, first = create_broadcast_stream[int](capacity=1024)
    streams = [first, *(first.clone() for _ in range(receivers - 1))]
    send.send_nowait(0)
    start = perf_counter()
    for number in range(items):
        send.send_nowait(number)
    seconds = (perf_counter() - start) / items
    assert all(len(stream) == 1024 for stream in streams)
    for stream in streams:
        stream.close()
    send.close()
    return seconds


def memory_of_receivers(receivers: int, capacity: int) -> int:
    """Return the most bytes that a full channel and its receivers took beyond the payloads."""
    payloads = [object() for _ in range(capacity)]
    gc.collect()
    tracemalloc.start()
    send, first = create_broadcast_stream[object](capacity=capacity)
    streams = [first, *(first.clone() for _ in range(receivers - 1))]
    for payload in payloads:
        send.send_nowait(payload)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert all(len(stream) == capacity for stream in streams)
    for stream in streams:
        stream.close()
    send.close()
    return most


def sending_and_memory(rounds: int) -> None:
    items = 20_000
    value = median(send_cost(10_000, items) / send_cost(1, items) for _ in range(rounds))
    what = "`send_nowait` to 10,000 receivers with unread items, against 1 receiver"
    print_row(what, "at most 2 times", f"{value:.2f}", value <= 2)
    megabytes = memory_of_receivers(1_000, 65_536) / 1e6
    what = "1,000 receivers on a full channel of 65,536, beyond the payloads"
    print_row(what, "under 3 MB", f"{megabytes:.2f} MB", megabytes < 3)


# -- starting and stopping --------------------------------------------------------------------


class Trivial(BackgroundTask):
    async def initialize(self) -> None: ...
    async def execute(self) -> None: ...
    async def shutdown(self) -> None: ...


async def bare_tasks(n: int) -> float:
    tasks = [Trivial() for _ in range(n)]

    async def hooks(task: Trivial) -> None:
        await task.initialize()
        await task.shutdown()

    gc.collect()
    start = perf_counter()
    async with anyio.create_task_group() as group:
        for task in tasks:
            group.start_soon(hooks, task)
    return perf_counter() - start


async def scheduled_tasks(n: int) -> float:
    tasks = [Trivial() for _ in range(n)]
    gc.collect()
    start = perf_counter()
    async with Scheduler() as scheduler:
        for task in tasks:
            scheduler.register_background_task(task)
        await scheduler.start()
        await scheduler.shutdown()
    return perf_counter() - start


async def start_and_stop(backend: str, counts: tuple[int, ...], rounds: int) -> None:
    ours: dict[int, list[float]] = {n: [] for n in counts}
    bare: dict[int, list[float]] = {n: [] for n in counts}
    for _ in range(rounds):
        for n in counts:
            ours[n].append(await scheduled_tasks(n) / n)
            bare[n].append(await bare_tasks(n) / n)
    limit = 3 if backend == "asyncio" else 4.4  # what it was on trio before
    for n in counts:
        ratios = [a / b for a, b in zip(ours[n], bare[n], strict=True)]
        at_most(f"{backend}: start and stop {n:,} trivial tasks, against bare ones", limit, ratios)

    def growth(times: dict[int, list[float]]) -> float:
        pairs = zip(times[counts[-1]], times[counts[0]], strict=True)
        return median(many / few for many, few in pairs)

    # The event loop's own tasks get dearer too as they no longer fit into the caches.
    value, peer = growth(ours), growth(bare)
    print_row(
        f"{backend}: one of {counts[-1]:,} tasks, against one of {counts[0]:,}",
        "linear: at most 1.25 times what it is for bare tasks",
        f"{value:.2f}, bare {peer:.2f}",
        value <= 1.25 * peer,
    )


# -- leaks ------------------------------------------------------------------------------------


class Subscriber(EventTask[int]):
    def __init__(self) -> None:
        self.seen = 0

    @property
    def subscribed_event(self) -> Topic[int]:
        return NUMBERS

    async def handle_event(self, event: int) -> None:
        self.seen += 1


async def one_cycle() -> None:
    """Create, start, publish to and shut down 50 tasks."""
    subscribers = [Subscriber() for _ in range(25)]
    async with Scheduler() as scheduler:
        scheduler.add_channel(NUMBERS)
        for subscriber in subscribers:
            scheduler.register_background_task(Trivial())
            scheduler.register_event_task(subscriber)
        await scheduler.start()
        for number in range(100):
            await scheduler.publish(NUMBERS, number)
        await scheduler.shutdown()
    assert all(subscriber.seen == 100 for subscriber in subscribers)


async def growth_over(cycles: int, cycle: Callable[[], Awaitable[None]]) -> tuple[float, float]:
    """Return by how many bytes and objects each cycle left more behind than the one before.

    It is the median of three stretches: a table that is doubled once and for all is no leak, but
    would be one of 200 bytes a cycle if all were taken together.
    """

    async def look() -> tuple[int, int]:
        # Until it is idle, trio keeps the deadlines of scopes that were left long ago.
        await anyio.to_thread.run_sync(sleep, 0.01)
        gc.collect()
        return tracemalloc.get_traced_memory()[0], len(gc.get_objects())

    for _ in range(10):
        await cycle()
    tracemalloc.start()
    for _ in range(10):
        await cycle()
    looks = [await look()]
    for _ in range(3):
        for _ in range(cycles // 3):
            await cycle()
        looks.append(await look())
    tracemalloc.stop()
    memory, objects = (
        median((then - before) / (cycles // 3) for before, then in pairwise(figures))
        for figures in zip(*looks, strict=True)
    )
    return memory, objects


async def leaks(backend: str, cycles: int) -> None:
    memory, objects = await growth_over(cycles, one_cycle)
    print_row(
        f"{backend}: what each of {cycles} cycles of 50 tasks leaves behind",
        "flat: less than 1 object and 100 bytes",
        f"{objects:.2f} objects, {memory:.0f} bytes",
        objects < 1 and memory < 100,
    )


async def main(backend: str, quick: bool) -> None:
    await start_and_stop(backend, (1_000, 10_000, 20_000), 2 if quick else 7)
    await leaks(backend, 20 if quick else 100)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--backend", nargs="+", choices=["asyncio", "trio"], default=["asyncio", "trio"]
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds, as a smoke test")
    options = parser.parse_args()
    print_head()
    sending_and_memory(1 if options.quick else 7)
    for backend in options.backend:
        anyio.run(main, backend, options.quick, backend=backend)
