"""What does not show in throughput: sending to many, memory, starting and stopping many tasks.

python benchmarks/costs.py [--backend asyncio|trio ...]
"""

from __future__ import annotations

import argparse
import gc
import sys
import tracemalloc
from statistics import median
from time import perf_counter

import anyio

from orchestrio import (
    BackgroundTask,
    BroadcastReceiveStream,
    EventTask,
    Scheduler,
    Topic,
    create_broadcast_stream,
)

NUMBERS = Topic("numbers", int)


def send_cost(receivers: int, items: int) -> float:
    """Return the seconds of one `send_nowait` while all receivers have unread items."""
    send, first = create_broadcast_stream[int](capacity=1024)
    streams = [first, *(first.clone() for _ in range(receivers - 1))]
    send.send_nowait(0)
    start = perf_counter()
    for number in range(items):
        send.send_nowait(number)
    seconds = (perf_counter() - start) / items
    for stream in streams:
        stream.close()
    send.close()
    return seconds


def memory_of_receivers(receivers: int, capacity: int) -> float:
    """Return the bytes that a full channel and its receivers take beyond the payloads."""
    payloads = [object() for _ in range(capacity)]
    gc.collect()
    tracemalloc.start()
    send, first = create_broadcast_stream[object](capacity=capacity)
    streams: list[BroadcastReceiveStream[object]] = [first]
    streams += (first.clone() for _ in range(receivers - 1))
    send.send_many_nowait(payloads)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    for stream in streams:
        stream.close()
    send.close()
    return used


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
    return perf_counter() - start


class Subscriber(EventTask[int]):
    @property
    def subscribed_event(self) -> Topic[int]:
        return NUMBERS

    async def handle_event(self, event: int) -> None: ...


async def one_cycle() -> None:
    async with Scheduler() as scheduler:
        scheduler.add_channel(NUMBERS)
        for _ in range(25):
            scheduler.register_background_task(Trivial())
            scheduler.register_event_task(Subscriber())
        await scheduler.start()
        for number in range(100):
            await scheduler.publish(NUMBERS, number)


async def leak_over_cycles(cycles: int) -> tuple[float, int]:
    """Return by how much memory (bytes) and objects grew from the first half to the second."""
    for _ in range(10):
        await one_cycle()
    tracemalloc.start()
    marks: list[tuple[int, int]] = []
    for _ in range(2):
        for _ in range(cycles // 2):
            await one_cycle()
        gc.collect()
        marks.append((tracemalloc.get_traced_memory()[0], len(gc.get_objects())))
    tracemalloc.stop()
    return marks[1][0] - marks[0][0], marks[1][1] - marks[0][1]


async def tasks_table(backend: str) -> None:
    for n in (1_000, 10_000, 20_000):
        pairs = [(await scheduled_tasks(n), await bare_tasks(n)) for _ in range(7)]
        times = median(ours / bare for ours, bare in pairs)
        each = median(ours for ours, _ in pairs) / n * 1e6
        word = "reached" if times <= 3 else "NOT reached"
        print(
            f"| {backend}: start and stop {n:,} trivial tasks | at most 3 x bare"
            f" | {times:.2f} ({word}), {each:.0f} us a task |"
        )
    memory, objects = await leak_over_cycles(100)
    print(
        f"| {backend}: 50 cycles of 50 tasks more | flat |"
        f" {memory / 1024:+.1f} KiB, {objects:+d} objects |",
        flush=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", nargs="*", default=["asyncio", "trio"])
    options = parser.parse_args()
    print(f"CPython {sys.version.split()[0]}\n")
    print("| what | goal | measured |\n|---|---|---|")
    costs = [(send_cost(10_000, 20_000), send_cost(1, 20_000)) for _ in range(7)]
    print(
        "| `send_nowait` to 10,000 receivers with unread items, against 1 | at most 2 x |"
        f" {median(many / one for many, one in costs):.2f} |"
    )
    memory = memory_of_receivers(1_000, 65_536)
    print(
        "| 1,000 receivers on a full channel of 65,536, beyond the payloads | under 3 MB |"
        f" {memory / 1e6:.2f} MB |"
    )
    for backend in options.backend:
        anyio.run(tasks_table, backend, backend=backend)
