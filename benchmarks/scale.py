"""What ten thousand of a thing cost: memory, pauses of the garbage collector, a misspelt topic.

    python benchmarks/scale.py [--backend asyncio|trio ...] [--quick]

And what the import costs, which comes before the first of them. Memory is what `tracemalloc` sees,
by the difference of so many things and none.
"""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
import tracemalloc
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Final

import anyio
from anyio.lowlevel import checkpoint
from rows import at_most, print_head, print_row

from orchestrio import (
    BackgroundTask,
    BroadcastReceiveStream,
    EventBus,
    EventTask,
    InvalidChannelError,
    Scheduler,
    Topic,
)

NUMBERS: Final = Topic("numbers", int)


class Waiting(BackgroundTask):
    async def execute(self) -> None:
        await anyio.sleep_forever()


class Subscriber(EventTask[int]):
    subscribed_event = NUMBERS

    async def handle_event(self, event: int) -> None: ...


# -- the import -------------------------------------------------------------------------------

PEER: Final = """
import anyio, pydantic
class Model(pydantic.BaseModel):
    number: int
    text: str = ""
"""
#: AnyIO from 4.16 on imports what is in it when it is first asked for.
USED: Final = "from anyio import Event, create_task_group, from_thread, run, sleep, to_thread\n"


def seconds_of(code: str) -> float:
    timed = f"from time import perf_counter as now\nsince = now()\n{code}\nprint(now() - since)"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    run = subprocess.run(
        [sys.executable, "-c", timed], capture_output=True, check=True, env=environment
    )
    return float(run.stdout)


def imports(rounds: int) -> None:
    seconds_of("import orchestrio")  # compiled and in the cache of files
    ratios: list[tuple[float, float]] = []
    for _ in range(rounds):
        ours = seconds_of("import orchestrio")
        ratios.append((ours / seconds_of(PEER), ours / seconds_of(USED + PEER)))
    bare, used = zip(*ratios, strict=True)
    at_most("`import orchestrio`, against AnyIO and one Pydantic model", 1.25, bare)
    at_most("the same, where six names of AnyIO are used", 1.25, used)


# -- a topic that does not exist --------------------------------------------------------------


def unknown_topics(count: int, rounds: int) -> None:
    for kind in ("plain keys", "topics"):
        bus = EventBus()
        for number in range(count):
            name = f"sensor-{number}"
            bus.add_channel(name if kind == "plain keys" else Topic(name, int))
        took: list[float] = []
        said = ""
        for _ in range(rounds):
            since = perf_counter()
            try:
                bus.publish_nowait("sensr-734", "")
            except InvalidChannelError as error:
                took.append((perf_counter() - since) * 1000)
                said = str(error)
            assert "sensor-734" in said
        at_most(f"an unknown topic among {count:,} {kind}", 1, took, " ms")


# -- the garbage collector --------------------------------------------------------------------


@asynccontextmanager
async def tasks_of(count: int) -> AsyncIterator[Scheduler]:
    async with Scheduler() as scheduler:
        scheduler.add_channel(NUMBERS)
        for _ in range(count):
            scheduler.register_background_task(Waiting())
        await scheduler.start()
        yield scheduler


async def share_of_collector(messages: int) -> tuple[float, float]:
    """Have handlers allocate; return the longest pause (s), and which share of the time it took."""
    pauses: list[float] = []

    def note(phase: str, _: object) -> None:
        pauses.append(-perf_counter() if phase == "start" else pauses.pop() + perf_counter())

    kept = deque[object](maxlen=50_000)
    done = anyio.Event()
    async with Scheduler() as scheduler:
        scheduler.add_channel(NUMBERS)

        @scheduler.on(NUMBERS)
        async def allocate(number: int) -> None:
            kept.extend([{"number": number}, [number]] for _ in range(100))
            if number == messages - 1:
                done.set()

        await scheduler.start()
        gc.callbacks.append(note)
        since = perf_counter()
        for number in range(messages):
            await scheduler.publish(NUMBERS, number)
        await done.wait()
        took = perf_counter() - since
        gc.callbacks.remove(note)
    return max(pauses), sum(pauses) / took


async def collector(backend: str, count: int, messages: int) -> None:
    async with tasks_of(count):
        gc.collect()
        before = await share_of_collector(messages)
        gc.collect()
        gc.freeze()
        frozen = await share_of_collector(messages)
        gc.unfreeze()
    gc.collect()
    alone = await share_of_collector(messages)  # with hardly any task
    limit = 1.5
    for what, index, form in (
        ("the longest pause of the garbage collector", 0, "{:.4f} s"),
        ("its share of the time of a handler that allocates", 1, "{:.0%}"),
    ):
        as_it_is, best, peer = (form.format(it[index]) for it in (before, frozen, alone))
        print_row(
            f"{backend}: {count:,} tasks: {what}",
            f"frozen, at most {limit:g} times what it is without them",
            f"{as_it_is}, frozen {best}, without the tasks {peer}",
            frozen[index] <= limit * alone[index],
        )


# -- memory -----------------------------------------------------------------------------------


async def bytes_each(make: Callable[[int], Awaitable[object]], count: int) -> float:
    """Return how many bytes each of so many things takes; whatever `make` returns is kept."""
    await make(1)  # what is made once is not theirs
    gc.collect()
    tracemalloc.start()
    kept = await make(count)
    gc.collect()
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del kept
    return size / count


async def memory(backend: str, count: int) -> None:
    """Print what each takes; what a task or a topic of the user's takes by itself is in it."""
    print(f"\n| {backend}: of {count:,}, each | bytes |\n|---|---:|")

    def row(what: str, size: float) -> None:
        print(f"| {what} | {size:,.0f} |", flush=True)

    async with anyio.create_task_group() as group:

        async def bare(number: int) -> None:
            for _ in range(number):
                group.start_soon(anyio.sleep_forever)
            await checkpoint()
            await checkpoint()

        row("a bare task that sleeps, for comparison", await bytes_each(bare, count))
        group.cancel_scope.cancel()

    async def register(number: int) -> object:
        scheduler = Scheduler()
        for _ in range(number):
            scheduler.register_background_task(Waiting())
        return scheduler

    row("a background task, registered", await bytes_each(register, count))

    async with Scheduler() as scheduler:

        async def run_background(number: int) -> None:
            for _ in range(number):
                scheduler.register_background_task(Waiting())
            await started(scheduler)

        await scheduler.start()
        row("a background task, at work", await bytes_each(run_background, count))

    for workers in (1, 8):
        async with Scheduler() as scheduler:
            scheduler.add_channel(NUMBERS)

            async def run_event(number: int, workers: int = workers) -> None:
                for _ in range(number):
                    scheduler.register_event_task(Subscriber(), concurrency=workers)
                await started(scheduler)

            await scheduler.start()
            kind = "an event task" if workers == 1 else f"an event task with a pool of {workers}"
            n = count // workers
            row(f"{kind}, waiting for messages", await bytes_each(run_event, n))

    async def topics(number: int) -> object:
        bus = EventBus()
        for index in range(number):
            bus.add_channel(Topic(f"topic {index}", int))
        return bus

    row("a topic with its channel, empty", await bytes_each(topics, count))

    subscriptions: list[BroadcastReceiveStream[int]] = []

    async def subscribe(number: int) -> None:
        bus = EventBus()
        bus.add_channel(NUMBERS)
        subscriptions.extend(bus.subscribe(NUMBERS) for _ in range(number))

    row("a subscription", await bytes_each(subscribe, count))
    for stream in subscriptions:
        stream.close()


async def started(scheduler: Scheduler) -> None:
    while not scheduler.probe().ready:
        await checkpoint()
    await anyio.sleep(0.01)


async def main(backend: str, quick: bool) -> None:
    await collector(backend, 1_000 if quick else 10_000, 200 if quick else 2_000)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--backend", nargs="+", choices=["asyncio", "trio"], default=["asyncio", "trio"]
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds, as a smoke test")
    options = parser.parse_args()
    print_head()
    imports(2 if options.quick else 21)
    unknown_topics(1_000 if options.quick else 10_000, 3 if options.quick else 21)
    for backend in options.backend:
        anyio.run(main, backend, options.quick, backend=backend)
    for backend in options.backend:
        anyio.run(memory, backend, 1_000 if options.quick else 10_000, backend=backend)
