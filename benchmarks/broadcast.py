"""One publisher, N handlers, every message handled: orchestrio and its peers in one run.

    python benchmarks/broadcast.py [--backend asyncio|uvloop|trio ...] [--quick]

The handler is one ``async def`` that adds one to a counter, the same for all. The limit is a bare
``for`` loop that awaits each handler for each message: no queue, no other task, nothing that could
be slow. Every figure is a ratio of times taken in the same run, in turn, and the median of several
rounds; a contestant is told nothing of the others. What a peer does not offer is said beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import math
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from statistics import median
from time import perf_counter
from typing import Final

import anyio
import bubus
import psygnal
import pyee.asyncio
import trio
from anyio.lowlevel import checkpoint
from anyio.streams.memory import MemoryObjectReceiveStream
from blinker import Signal
from psygnal._async import clear_async_backend  # its public face sets a backend, but only once

from orchestrio import ChannelConfig, EventTask, Scheduler, Topic

BURST: Final = 256
NUMBERS: Final = Topic("numbers", int)


class Counter(EventTask[int]):
    """What handles a message, for orchestrio and for all others."""

    def __init__(self) -> None:
        self.count = 0

    @property
    def subscribed_event(self) -> Topic[int]:
        return NUMBERS

    async def handle_event(self, event: int) -> None:
        self.count += 1

    def count_it(self, number: int) -> None:
        """The handler as a plain function."""
        self.count += 1


#: Publishes one burst of so many messages; returns when all of it has been handled.
Publish = Callable[[int], Awaitable[None]]
Contestant = Callable[[list[Counter]], AbstractAsyncContextManager[Publish]]


async def until(counters: list[Counter], count: int) -> None:
    """Let the handlers work until each has handled `count` messages."""
    for counter in counters:
        while counter.count < count:
            await checkpoint()


# -- the limit, and orchestrio ----------------------------------------------------------------


@asynccontextmanager
async def bare_loop(counters: list[Counter]) -> AsyncIterator[Publish]:
    handlers = [counter.handle_event for counter in counters]

    async def publish(burst: int) -> None:
        for number in range(burst):
            for handle in handlers:
                await handle(number)
        await checkpoint()

    yield publish


@asynccontextmanager
async def scheduler_of(counters: list[Counter]) -> AsyncIterator[Scheduler]:
    async with Scheduler() as scheduler:
        scheduler.add_channel(NUMBERS, ChannelConfig(capacity=1024))
        for counter in counters:
            scheduler.register_event_task(counter)
        await scheduler.start()
        yield scheduler


@asynccontextmanager
async def orchestrio_each(counters: list[Counter]) -> AsyncIterator[Publish]:
    async with scheduler_of(counters) as scheduler:
        send = scheduler.clone_sender(NUMBERS).send_nowait

        async def publish(burst: int) -> None:
            goal = counters[0].count + burst
            for number in range(burst):
                send(number)
            await until(counters, goal)

        yield publish


@asynccontextmanager
async def orchestrio_many(counters: list[Counter]) -> AsyncIterator[Publish]:
    async with scheduler_of(counters) as scheduler:
        send_many = scheduler.clone_sender(NUMBERS).send_many_nowait

        async def publish(burst: int) -> None:
            goal = counters[0].count + burst
            send_many(range(burst))
            await until(counters, goal)

        yield publish


@asynccontextmanager
async def orchestrio_publish(counters: list[Counter]) -> AsyncIterator[Publish]:
    async with scheduler_of(counters) as scheduler:

        async def publish(burst: int) -> None:
            goal = counters[0].count + burst
            for number in range(burst):
                await scheduler.publish(NUMBERS, number)
            await until(counters, goal)

        yield publish


# -- peers with a queue for each subscriber ---------------------------------------------------


@asynccontextmanager
async def asyncio_queues(counters: list[Counter]) -> AsyncIterator[Publish]:
    queues: list[asyncio.Queue[int]] = [asyncio.Queue() for _ in counters]

    async def consume(counter: Counter, queue: asyncio.Queue[int]) -> None:
        handle = counter.handle_event
        while True:
            await handle(await queue.get())

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
async def anyio_streams(counters: list[Counter]) -> AsyncIterator[Publish]:
    streams = [anyio.create_memory_object_stream[int](math.inf) for _ in counters]

    async def consume(counter: Counter, receive: MemoryObjectReceiveStream[int]) -> None:
        handle = counter.handle_event
        async with receive:
            async for number in receive:
                await handle(number)

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
async def trio_channels(counters: list[Counter]) -> AsyncIterator[Publish]:
    channels = [trio.open_memory_channel[int](math.inf) for _ in counters]

    async def consume(counter: Counter, receive: trio.MemoryReceiveChannel[int]) -> None:
        handle = counter.handle_event
        async with receive:
            async for number in receive:
                await handle(number)

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


# -- event libraries --------------------------------------------------------------------------


@asynccontextmanager
async def pyee_emitter(counters: list[Counter]) -> AsyncIterator[Publish]:
    emitter = pyee.asyncio.AsyncIOEventEmitter()
    for counter in counters:
        emitter.on("numbers", counter.handle_event)

    async def publish(burst: int) -> None:
        goal = counters[0].count + burst
        for number in range(burst):
            emitter.emit("numbers", number)
        await until(counters, goal)

    yield publish


@asynccontextmanager
async def blinker_signal(counters: list[Counter]) -> AsyncIterator[Publish]:
    signal = Signal()
    for counter in counters:  # a weak receiver, the default, would take it twice as long
        signal.connect(counter.handle_event, weak=False)

    async def publish(burst: int) -> None:
        for number in range(burst):
            await signal.send_async(number)
        await checkpoint()

    yield publish


class Emitter:
    numbers = psygnal.Signal(int)


@asynccontextmanager
async def psygnal_plain(counters: list[Counter]) -> AsyncIterator[Publish]:
    emitter = Emitter()
    for counter in counters:
        emitter.numbers.connect(counter.count_it)
    emit = emitter.numbers.emit_fast  # without the checks that ours would not make either

    async def publish(burst: int) -> None:
        for number in range(burst):
            emit(number)
        await checkpoint()

    yield publish


@asynccontextmanager
async def psygnal_async(counters: list[Counter]) -> AsyncIterator[Publish]:
    emitter = Emitter()
    for counter in counters:
        emitter.numbers.connect(counter.handle_event)
    emit = emitter.numbers.emit_fast

    async def publish(burst: int) -> None:
        goal = counters[0].count + burst
        for number in range(burst):
            emit(number)
        await until(counters, goal)

    yield publish


@asynccontextmanager
async def psygnal_on_asyncio(counters: list[Counter]) -> AsyncIterator[Publish]:
    backend = psygnal.set_async_backend("asyncio")
    while not backend.running.is_set():
        await checkpoint()
    async with psygnal_async(counters) as publish:
        yield publish
    clear_async_backend()


@asynccontextmanager
async def psygnal_on_trio(counters: list[Counter]) -> AsyncIterator[Publish]:
    async with trio.open_nursery() as nursery:
        backend = psygnal.set_async_backend("trio")
        nursery.start_soon(backend.run)
        while not backend.running.is_set():
            await checkpoint()
        async with psygnal_async(counters) as publish:
            yield publish
        clear_async_backend()


class NumberEvent(bubus.BaseEvent[None]):
    number: int


@asynccontextmanager
async def bubus_bus(counters: list[Counter]) -> AsyncIterator[Publish]:
    bus = bubus.EventBus(name=f"Bench{len(counters)}")
    for index, counter in enumerate(counters):

        async def handle(event: NumberEvent, counter: Counter = counter) -> None:
            await counter.handle_event(event.number)

        handle.__name__ = f"handle_{index}"  # it warns of handlers with the same name
        bus.on(NumberEvent, handle)

    async def publish(burst: int) -> None:
        for number in range(burst):
            await bus.dispatch(NumberEvent(number=number))

    yield publish
    await bus.stop(timeout=1)


#: What all are measured against: the limit, and the queues that one would write oneself.
BARE: Final = "bare loop (the limit)"
OURS: Final = "**orchestrio**, `send_nowait` for each message"
QUEUES: Final = "`asyncio.Queue` for each"
STREAMS: Final = "AnyIO memory stream for each"
CHANNELS: Final = "trio memory channel for each"

PUBLISH: Final = "**orchestrio**, `await scheduler.publish`"
PSYGNAL: Final = "psygnal, async functions (one queue for all)"

ASYNCIO: Final = frozenset({"asyncio", "uvloop"})
ALL: Final = ASYNCIO | {"trio"}

#: name, contestant, backends, messages a burst, most handlers; the last two bound the slow ones
CONTESTANTS: Final[list[tuple[str, Contestant, frozenset[str], int, int]]] = [
    (BARE, bare_loop, ALL, BURST, 1000),
    (OURS, orchestrio_each, ALL, BURST, 1000),
    ("**orchestrio**, `send_many_nowait`", orchestrio_many, ALL, BURST, 1000),
    (PUBLISH, orchestrio_publish, ALL, BURST, 1000),
    (QUEUES, asyncio_queues, ASYNCIO, BURST, 1000),
    (STREAMS, anyio_streams, ALL, BURST, 1000),
    (CHANNELS, trio_channels, frozenset({"trio"}), BURST, 1000),
    ("pyee (a task for each call)", pyee_emitter, ASYNCIO, BURST, 1000),
    ("blinker `send_async` (no queue)", blinker_signal, ALL, BURST, 1000),
    ("psygnal, plain functions (no queue)", psygnal_plain, ALL, BURST, 1000),
    (PSYGNAL, psygnal_on_asyncio, ASYNCIO, BURST, 1000),
    (PSYGNAL, psygnal_on_trio, frozenset({"trio"}), BURST, 1000),
    ("bubus (history, results; bursts of 4)", bubus_bus, ASYNCIO, 4, 10),
]


# -- idle wake-up -----------------------------------------------------------------------------


@asynccontextmanager
async def bare_event(counters: list[Counter]) -> AsyncIterator[Publish]:
    bell = anyio.Event()
    item = 0

    async def consume(handle: Callable[[int], Awaitable[None]]) -> None:
        while True:
            await bell.wait()
            await handle(item)

    async def publish(burst: int) -> None:
        nonlocal bell, item
        goal = counters[0].count + 1
        item = burst
        ringing, bell = bell, anyio.Event()
        ringing.set()
        await until(counters, goal)

    async with anyio.create_task_group() as group:
        for counter in counters:
            group.start_soon(consume, counter.handle_event)
        for _ in range(3):
            await checkpoint()
        yield publish
        group.cancel_scope.cancel()


# -- measuring --------------------------------------------------------------------------------


async def seconds_a_message(contestant: Contestant, n: int, burst: int, budget: float) -> float:
    """Time bursts for about `budget` seconds; return the seconds a message took."""
    counters = [Counter() for _ in range(n)]
    async with contestant(counters) as publish:
        await publish(burst)
        gc.collect()
        bursts = 0
        start = now = perf_counter()
        while now - start < budget:
            await publish(burst)
            bursts += 1
            now = perf_counter()
    assert all(counter.count == (bursts + 1) * burst for counter in counters)
    return (now - start) / bursts / burst


Times = dict[str, list[float]]


async def compare(
    contestants: Mapping[str, tuple[Contestant, int]], n: int, rounds: int, budget: float
) -> Times:
    """Time all of them in turn, several times."""
    times: Times = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, (contestant, burst) in contestants.items():
            times[name].append(await seconds_a_message(contestant, n, burst, budget))
    return times


def ratio(times: Times, slow: str, fast: str) -> float:
    """Return how many times as long `slow` took as `fast`: the median over the rounds."""
    return median(a / b for a, b in zip(times[slow], times[fast], strict=True))


def verdict(value: float, reached: bool) -> str:
    return f"{value:.2f}, {'yes' if reached else '**NO**'}"


def print_table(title: str, counts: Sequence[int], rows: list[list[str]]) -> None:
    print(f"\n### {title}\n")
    print("| | " + " | ".join(f"N = {n:,}" for n in counts) + " |")
    print("|---|" + "---:|" * len(counts))
    for row in rows:
        print("| " + " | ".join(row) + " |")


#: what a goal is measured against, the least and the greatest N, and how many times as fast
GOALS: Final = [
    (BARE, 10, 1000, 0.7),
    (QUEUES, 1, 1, 1.8),
    (QUEUES, 10, 1000, 3.5),
    (CHANNELS, 1, 1, 1.8),
    (CHANNELS, 10, 1000, 3.5),
    (STREAMS, 10, 1000, 15),
]
#: by backend
IDLE_GOALS: Final = {"asyncio": 1.05, "uvloop": 1.05, "trio": 1.25}

#: the speed of `await scheduler.publish` against the bare loop, by N
PUBLISH_GOALS: Final = {1: 0.38, 10: 0.75, 100: 0.82}


async def main(backend: str, counts: Sequence[int], rounds: int, budget: float) -> None:
    columns: dict[int, Times] = {}
    wake_ups: dict[int, float] = {}
    for n in counts:
        chosen = {
            name: (contestant, burst)
            for name, contestant, backends, burst, most in CONTESTANTS
            if n <= most and backend in backends
        }
        columns[n] = await compare(chosen, n, rounds, budget)
        if n > 1:
            idle = {"bare event": (bare_event, 1), OURS: (orchestrio_each, 1)}
            times = await compare(idle, n, 2 * rounds, budget)
            wake_ups[n] = ratio(times, OURS, "bare event")

    rows = []
    for name in columns[1]:
        cells = [f"{ratio(t, BARE, name):#.2g}" if name in t else "-" for t in columns.values()]
        rows.append([name, *cells])
    print_table(f"{backend}: speed relative to the bare loop", counts, rows)

    rows = []
    for peer, least, most, goal in GOALS:
        if peer in columns[1]:
            values = {n: ratio(t, peer, OURS) for n, t in columns.items() if least <= n <= most}
            cells = [verdict(values[n], values[n] >= goal) if n in values else "-" for n in counts]
            rows.append([f"at least {goal:g} times as fast as {peer}", *cells])
    values = {n: ratio(t, BARE, PUBLISH) for n, t in columns.items() if n in PUBLISH_GOALS}
    cells = [verdict(v, v >= PUBLISH_GOALS[n]) for n, v in values.items()]
    cells += ["-"] * (len(counts) - len(cells))
    of = " / ".join(f"{goal:g}" for goal in PUBLISH_GOALS.values())
    rows.append([f"{PUBLISH}: at least {of} of {BARE}", *cells])
    idle_goal = IDLE_GOALS[backend]
    cells = [verdict(v, v <= idle_goal) for v in wake_ups.values()]
    rows.append([f"idle wake-up: at most {idle_goal} times as long as a bare `Event`", "-", *cells])
    print_table(f"{backend}: goals of {OURS}, and whether they were reached", counts, rows)
    sys.stdout.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--backend",
        nargs="+",
        choices=["asyncio", "uvloop", "trio"],
        default=["asyncio", "uvloop", "trio"],
    )
    parser.add_argument("--quick", action="store_true", help="one short round, N up to 100")
    options = parser.parse_args()
    print(f"CPython {sys.version.split()[0]}, bursts of {BURST}")
    for backend in options.backend:
        anyio.run(
            main,
            backend,
            (1, 10, 100) if options.quick else (1, 10, 100, 1000),
            1 if options.quick else 5,
            0.02 if options.quick else 0.2,
            backend="trio" if backend == "trio" else "asyncio",
            backend_options={"use_uvloop": True} if backend == "uvloop" else {},
        )
