"""One publisher, N handlers, every message handled: orchestrio and its peers in one run.

    python benchmarks/broadcast.py [--backend asyncio|uvloop|trio ...] [--quick]

The handler is an ``async def`` that adds one to a counter. The limit is a bare ``for`` loop that
awaits each handler for each message: no queue, no other task, nothing that could be slow. Every
figure is a ratio of times taken in the same run, in turn, and the median of several rounds; a
contestant is told nothing of the others. What a peer does not offer is said beside its name.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import math
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from statistics import median
from time import perf_counter
from typing import Any

import anyio
import bubus  # type: ignore[import-untyped]  # ships no types
import psygnal
import pyee.asyncio
import trio
from anyio.lowlevel import checkpoint
from blinker import Signal

from orchestrio import ChannelConfig, EventTask, Scheduler, Topic

BURST = 256
NUMBERS = Topic("numbers", int)

#: Publishes one burst; returns when every handler has handled all of it.
Round = Callable[[int], Awaitable[None]]
Contestant = Callable[[int], AbstractAsyncContextManager[Round]]


class Counter:
    def __init__(self) -> None:
        self.count = 0

    async def handle(self, number: int) -> None:
        self.count += 1


async def until(counters: Sequence[Counter], count: int) -> None:
    """Let the handlers work until each has handled `count` messages."""
    for counter in counters:
        while counter.count < count:
            await checkpoint()


# -- the limit, and orchestrio -------------------------------------------------------------------------


@asynccontextmanager
async def bare_loop(n: int) -> AsyncIterator[Round]:
    handlers = [counter.handle for counter in [Counter() for _ in range(n)]]

    async def publish(burst: int) -> None:
        for number in range(burst):
            for handle in handlers:
                await handle(number)
        await checkpoint()

    yield publish


class Subscriber(EventTask[int], Counter):
    @property
    def subscribed_event(self) -> Topic[int]:
        return NUMBERS

    async def handle_event(self, event: int) -> None:
        self.count += 1


@asynccontextmanager
async def scheduler_of(n: int) -> AsyncIterator[tuple[Scheduler, list[Subscriber]]]:
    counters = [Subscriber() for _ in range(n)]
    async with Scheduler() as scheduler:
        scheduler.add_channel(NUMBERS, ChannelConfig(capacity=1024))
        for counter in counters:
            scheduler.register_event_task(counter)
        await scheduler.start()
        await until(counters, 0)
        yield scheduler, counters


@asynccontextmanager
async def orchestrio_each(n: int) -> AsyncIterator[Round]:
    async with scheduler_of(n) as (scheduler, counters):
        send = scheduler.clone_sender(NUMBERS).send_nowait

        async def publish(burst: int) -> None:
            goal = counters[0].count + burst
            for number in range(burst):
                send(number)
            await until(counters, goal)

        yield publish


@asynccontextmanager
async def orchestrio_many(n: int) -> AsyncIterator[Round]:
    async with scheduler_of(n) as (scheduler, counters):
        send_many = scheduler.clone_sender(NUMBERS).send_many_nowait

        async def publish(burst: int) -> None:
            goal = counters[0].count + burst
            send_many(range(burst))
            await until(counters, goal)

        yield publish


@asynccontextmanager
async def orchestrio_publish(n: int) -> AsyncIterator[Round]:
    async with scheduler_of(n) as (scheduler, counters):

        async def publish(burst: int) -> None:
            goal = counters[0].count + burst
            for number in range(burst):
                await scheduler.publish(NUMBERS, number)
            await until(counters, goal)

        yield publish


# -- peers -----------------------------------------------------------------------------------------------


@asynccontextmanager
async def asyncio_queues(n: int) -> AsyncIterator[Round]:
    counters = [Counter() for _ in range(n)]
    queues: list[asyncio.Queue[int]] = [asyncio.Queue() for _ in counters]

    async def consume(counter: Counter, queue: asyncio.Queue[int]) -> None:
        while True:
            await counter.handle(await queue.get())

    async def publish(burst: int) -> None:
        goal = counters[0].count + burst
        for number in range(burst):
            for queue in queues:
                queue.put_nowait(number)
        await until(counters, goal)

    async with anyio.create_task_group() as group:
        for counter, queue in zip(counters, queues, strict=True):
            group.start_soon(consume, counter, queue)
        yield publish
        group.cancel_scope.cancel()


@asynccontextmanager
async def anyio_streams(n: int) -> AsyncIterator[Round]:
    counters = [Counter() for _ in range(n)]
    streams = [anyio.create_memory_object_stream[int](math.inf) for _ in counters]

    async def consume(counter: Counter, receive: Any) -> None:
        async with receive:
            async for number in receive:
                await counter.handle(number)

    async def publish(burst: int) -> None:
        goal = counters[0].count + burst
        for number in range(burst):
            for send, _ in streams:
                send.send_nowait(number)
        await until(counters, goal)

    async with anyio.create_task_group() as group:
        for counter, (_, receive) in zip(counters, streams, strict=True):
            group.start_soon(consume, counter, receive)
        yield publish
        for send, _ in streams:
            send.close()


@asynccontextmanager
async def trio_channels(n: int) -> AsyncIterator[Round]:
    counters = [Counter() for _ in range(n)]
    channels = [trio.open_memory_channel[int](math.inf) for _ in counters]

    async def consume(counter: Counter, receive: trio.MemoryReceiveChannel[int]) -> None:
        async with receive:
            async for number in receive:
                await counter.handle(number)

    async def publish(burst: int) -> None:
        goal = counters[0].count + burst
        for number in range(burst):
            for send, _ in channels:
                send.send_nowait(number)
        await until(counters, goal)

    async with trio.open_nursery() as nursery:
        for counter, (_, receive) in zip(counters, channels, strict=True):
            nursery.start_soon(consume, counter, receive)
        yield publish
        for send, _ in channels:
            send.close()


@asynccontextmanager
async def pyee_emitter(n: int) -> AsyncIterator[Round]:
    counters = [Counter() for _ in range(n)]
    emitter = pyee.asyncio.AsyncIOEventEmitter()
    for counter in counters:
        emitter.on("numbers", counter.handle)

    async def publish(burst: int) -> None:
        goal = counters[0].count + burst
        for number in range(burst):
            emitter.emit("numbers", number)
        await until(counters, goal)

    yield publish


@asynccontextmanager
async def blinker_signal(n: int) -> AsyncIterator[Round]:
    counters = [Counter() for _ in range(n)]
    signal = Signal()
    receivers: list[Callable[[int], Awaitable[None]]] = []
    for counter in counters:

        async def receive(number: int, counter: Counter = counter) -> None:
            await counter.handle(number)

        receivers.append(receive)  # blinker itself holds them weakly
        signal.connect(receive)

    async def publish(burst: int) -> None:
        for number in range(burst):
            await signal.send_async(number)
        await checkpoint()

    yield publish
    receivers.clear()


class Emitter:
    numbers = psygnal.Signal(int)


@asynccontextmanager
async def psygnal_signal(n: int) -> AsyncIterator[Round]:
    counters = [Counter() for _ in range(n)]
    emitter = Emitter()
    for counter in counters:

        def slot(number: int, counter: Counter = counter) -> None:
            counter.count += 1

        emitter.numbers.connect(slot)

    async def publish(burst: int) -> None:
        for number in range(burst):
            emitter.numbers.emit(number)
        await checkpoint()

    yield publish


class NumberEvent(bubus.BaseEvent[None]):  # type: ignore[misc]  # see the import
    number: int


@asynccontextmanager
async def bubus_bus(n: int) -> AsyncIterator[Round]:
    counters = [Counter() for _ in range(n)]
    bus = bubus.EventBus(name=f"Bench{n}")
    for index, counter in enumerate(counters):

        async def handle(event: NumberEvent, counter: Counter = counter) -> None:
            await counter.handle(event.number)

        handle.__name__ = f"handle_{index}"
        bus.on(NumberEvent, handle)

    async def publish(burst: int) -> None:
        for number in range(burst):
            await bus.dispatch(NumberEvent(number=number))

    yield publish
    await bus.stop(timeout=1)


#: name, contestant, backends, messages a burst, most handlers; the last two bound the slow ones
CONTESTANTS: list[tuple[str, Contestant, str, int, int]] = [
    ("bare loop (the limit)", bare_loop, "both", BURST, 1000),
    ("**orchestrio**, `send_nowait` for each", orchestrio_each, "both", BURST, 1000),
    ("**orchestrio**, `send_many_nowait`", orchestrio_many, "both", BURST, 1000),
    ("**orchestrio**, `await scheduler.publish`", orchestrio_publish, "both", BURST, 1000),
    ("`asyncio.Queue` for each", asyncio_queues, "asyncio", BURST, 1000),
    ("AnyIO memory stream for each", anyio_streams, "both", BURST, 1000),
    ("trio memory channel for each", trio_channels, "trio", BURST, 1000),
    ("pyee (a task for each call)", pyee_emitter, "asyncio", BURST, 1000),
    ("blinker `send_async` (no queue)", blinker_signal, "both", BURST, 1000),
    ("psygnal (plain functions, no queue)", psygnal_signal, "both", BURST, 1000),
    ("bubus (history, results)", bubus_bus, "asyncio", 4, 10),
]


# -- idle wake-up ----------------------------------------------------------------------------------------


@asynccontextmanager
async def bare_event(n: int) -> AsyncIterator[Round]:
    counters = [Counter() for _ in range(n)]
    bell = anyio.Event()

    async def consume(handle: Callable[[int], Awaitable[None]]) -> None:
        while True:
            await bell.wait()
            await handle(1)

    async def publish(burst: int) -> None:
        nonlocal bell
        goal = counters[0].count + 1
        ringing, bell = bell, anyio.Event()
        ringing.set()
        await until(counters, goal)

    async with anyio.create_task_group() as group:
        for counter in counters:
            group.start_soon(consume, counter.handle)
        for _ in range(3):
            await checkpoint()
        yield publish
        group.cancel_scope.cancel()


# -- measuring -------------------------------------------------------------------------------------------


async def seconds_a_message(contestant: Contestant, n: int, burst: int, budget: float) -> float:
    """Time bursts for about `budget` seconds; return the seconds a message took."""
    async with contestant(n) as publish:
        await publish(burst)
        gc.collect()
        bursts = 0
        start = now = perf_counter()
        while now - start < budget:
            await publish(burst)
            bursts += 1
            now = perf_counter()
    return (now - start) / bursts / burst


async def compare(
    contestants: dict[str, tuple[Contestant, int]], n: int, rounds: int, budget: float
) -> dict[str, list[float]]:
    """Time all of them in turn, several times."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, (contestant, burst) in contestants.items():
            times[name].append(await seconds_a_message(contestant, n, burst, budget))
    return times


def ratio(times: dict[str, list[float]], slow: str, fast: str) -> float:
    """Return how many times as long `slow` took as `fast`: the median over the rounds."""
    return median(a / b for a, b in zip(times[slow], times[fast], strict=True))


def verdict(value: float, goal: float, *, at_most: bool = False) -> str:
    reached = value <= goal if at_most else value >= goal
    return f"{value:.2f} ({'reached' if reached else 'NOT reached'})"


async def main(backend: str, rounds: int, budget: float) -> None:
    counts = (1, 10, 100, 1000)
    columns: list[dict[str, list[float]]] = []
    for n in counts:
        chosen = {
            name: (contestant, burst)
            for name, contestant, where, burst, most in CONTESTANTS
            if n <= most and where in ("both", "trio" if backend == "trio" else "asyncio")
        }
        columns.append(await compare(chosen, n, rounds, budget))
    limit, ours = CONTESTANTS[0][0], CONTESTANTS[1][0]

    print(f"\n### {backend}: speed relative to the bare loop (1.00 is the limit)\n")
    print("| | " + " | ".join(f"N = {n}" for n in counts) + " |")
    print("|---|" + "---:|" * len(counts))
    for name in columns[0]:
        cells = [f"{ratio(c, limit, name):.3f}" if name in c else "-" for c in columns]
        print(f"| {name} | " + " | ".join(cells) + " |")

    print(f"\n### {backend}: goals, for `send_nowait` for each message\n")
    print("| goal | " + " | ".join(f"N = {n}" for n in counts) + " |")
    print("|---|" + "---:|" * len(counts))
    goals: list[tuple[str, str, float, tuple[int, ...]]] = [
        ("of the bare loop", limit, 0.7, (10, 100, 1000))
    ]
    if backend == "trio":
        goals.append(("times trio's channels", CONTESTANTS[6][0], 3.5, (10, 100, 1000)))
    else:
        goals.append(("times `asyncio.Queue`", CONTESTANTS[4][0], 1.8, (1,)))
        goals.append(("times `asyncio.Queue`", CONTESTANTS[4][0], 3.5, (10, 100, 1000)))
    goals.append(("times AnyIO streams", CONTESTANTS[5][0], 15, (10, 100, 1000)))
    for text, peer, goal, wanted in goals:
        cells = [
            verdict(ratio(c, peer, ours), goal) if n in wanted else "-"
            for n, c in zip(counts, columns, strict=True)
        ]
        print(f"| at least {goal} {text} | " + " | ".join(cells) + " |")

    cells = ["-"]
    for n in counts[1:]:
        idle = await compare(
            {"event": (bare_event, 1), "orchestrio": (orchestrio_each, 1)}, n, rounds, budget
        )
        cells.append(verdict(ratio(idle, "orchestrio", "event"), 1.25, at_most=True))
    print(
        "| idle wake-up, at most 1.25 of a bare `Event` | " + " | ".join(cells) + " |", flush=True
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", nargs="*", default=["asyncio", "uvloop", "trio"])
    parser.add_argument("--quick", action="store_true", help="one short round, as a smoke test")
    options = parser.parse_args()
    print(f"CPython {sys.version.split()[0]}, AnyIO, bursts of {BURST}")
    for backend in options.backend:
        anyio.run(
            main,
            backend,
            1 if options.quick else 5,
            0.05 if options.quick else 0.25,
            backend="trio" if backend == "trio" else "asyncio",
            backend_options={"use_uvloop": True} if backend == "uvloop" else {},
        )
