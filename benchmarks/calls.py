"""The calls that programs make: publishing, limits of a handler, pools, checks, receiving, memory.

    python benchmarks/calls.py [--backend asyncio|trio ...] [--quick]

The limit is a bare loop that awaits the handler for each message. What is compared is timed in turn
within one run, and a figure is the median of the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import weakref
from collections import deque
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any, Final

import anyio
from anyio.lowlevel import checkpoint
from pydantic import BaseModel
from rows import at_least, at_most, print_head, print_row

from orchestrio import (
    ChannelConfig,
    EventTask,
    Overflow,
    Scheduler,
    TaskOptions,
    Topic,
    create_broadcast_stream,
)

BURST: Final = 256
NUMBERS: Final = Topic("numbers", int)


class Order(BaseModel):
    number: int


CHECKED: Final = Topic("orders", Order, validate=True)


class Counter(EventTask[Any]):
    """Counts what it handles."""

    topic: Topic[Any] = NUMBERS

    def __init__(self) -> None:
        self.seen = 0

    @property
    def subscribed_event(self) -> Topic[Any]:
        return self.topic

    async def handle_event(self, event: object) -> None:
        self.seen += 1


class CheckedCounter(Counter):
    topic = CHECKED


class Yielding(Counter):
    """Lets others run before it counts."""

    async def handle_event(self, event: object) -> None:
        await checkpoint()
        self.seen += 1


# -- handling ---------------------------------------------------------------------------------


async def bare(bursts: int, kind: type[Counter] = Counter, item: object = 0) -> float:
    handle = kind().handle_event
    start = perf_counter()
    for _ in range(bursts):
        for _ in range(BURST):
            await handle(item)
        await checkpoint()
    return perf_counter() - start


async def bare_in_scopes(bursts: int) -> float:
    handle = Counter().handle_event
    start = perf_counter()
    with anyio.CancelScope():  # as there is around every handler; it makes those within dearer
        for _ in range(bursts):
            for number in range(BURST):
                with anyio.move_on_after(60):
                    await handle(number)
            await checkpoint()
    return perf_counter() - start


async def bare_checked(bursts: int) -> float:
    """A bare loop that has Pydantic check each message."""
    handle = Counter().handle_event
    validate = Order.__pydantic_validator__.validate_python
    item = Order(number=1)
    start = perf_counter()
    for _ in range(bursts):
        for _ in range(BURST):
            await handle(validate(item, strict=True))
        await checkpoint()
    return perf_counter() - start


async def through(
    bursts: int,
    kind: type[Counter] = Counter,
    *,
    overflow: Overflow = "drop_oldest",
    awaits: bool = False,
    item: object = 0,
    n: int = 1,
    **options: Any,
) -> float:
    """Return the seconds from the first message sent until all were handled."""
    counters = [kind() for _ in range(n)]
    given: TaskOptions = options  # type: ignore[assignment]  # each call below gives such
    async with Scheduler() as scheduler:
        scheduler.add_channel(kind.topic, ChannelConfig(overflow=overflow))
        for counter in counters:
            scheduler.register_event_task(counter, **given)
        await scheduler.start()
        send = scheduler.clone_sender(kind.topic).send_nowait
        start = perf_counter()
        for burst in range(1, bursts + 1):
            if awaits:
                for _ in range(BURST):
                    await scheduler.publish(kind.topic, item)
            else:
                for _ in range(BURST):
                    send(item)
            for counter in counters:
                while counter.seen < burst * BURST:
                    await checkpoint()
        return perf_counter() - start


async def queue_of_workers(bursts: int) -> float:
    """What one would write oneself: a queue, and 8 workers that take from it."""
    queue: asyncio.Queue[int] = asyncio.Queue()
    counter = Counter()

    async def work() -> None:
        while True:
            await counter.handle_event(await queue.get())

    seconds = 0.0
    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(work)
        await checkpoint()
        start = perf_counter()
        for burst in range(1, bursts + 1):
            for number in range(BURST):
                queue.put_nowait(number)
            while counter.seen < burst * BURST:
                await checkpoint()
        seconds = perf_counter() - start
        group.cancel_scope.cancel()
    return seconds


Figures = dict[str, list[float]]


async def handling(backend: str, bursts: int, rounds: int) -> None:
    figures: Figures = {}

    def note(what: str, value: float) -> None:
        figures.setdefault(what, []).append(value)

    order = Order(number=1)
    for _ in range(rounds):
        gc.collect()
        limit = await bare(bursts)
        note("retries", await through(bursts, retries=3) / limit)
        timed = await through(bursts, attempt_timeout=60)
        note("attempt_timeout", timed / await bare_in_scopes(bursts))
        pool = await through(bursts, concurrency=8)
        note("pool", pool / await bare(bursts))
        if backend == "asyncio":
            note("pool and queue", pool / await queue_of_workers(bursts))
        yielding = await through(bursts, Yielding, concurrency=8)
        note("pool of yielding", yielding / await bare(bursts, Yielding))
        limit = await bare(bursts)
        note("publish block", limit / await through(bursts, overflow="block", awaits=True))
        note("block", await through(bursts, overflow="block") / limit)
        note("drop_newest", await through(bursts, overflow="drop_newest") / await bare(bursts))
        checked = await through(bursts, CheckedCounter, item=order)
        note("checked", checked / await bare(bursts))
        note("checked by hand", await bare_checked(bursts) / await bare(bursts))

    to_bare = "against a bare loop"
    at_most(f"{backend}: `retries=3` and no failure, {to_bare}", 3.5, figures["retries"])
    what = f"{backend}: `attempt_timeout`, against a loop with `move_on_after`"
    at_most(what, 1.05, figures["attempt_timeout"])
    at_most(f"{backend}: `concurrency=8`, {to_bare}", 8, figures["pool"])
    if backend == "asyncio":
        what = f"{backend}: `concurrency=8`, against `asyncio.Queue` with 8 workers"
        at_most(what, 1.1, figures["pool and queue"])
    what = f"{backend}: `concurrency=8`, handlers that `sleep(0)`, {to_bare} of them"
    at_most(what, 1.2, figures["pool of yielding"])
    what = f'{backend}: speed of `await scheduler.publish` on `overflow="block"`, {to_bare}'
    at_least(what, 0.28, figures["publish block"])
    for overflow in ("block", "drop_newest"):
        what = f'{backend}: `send_nowait` on `overflow="{overflow}"`, {to_bare}'
        at_most(what, 2.7, figures[overflow])
    at_most(f"{backend}: `validate=True` with a model, {to_bare}", 3, figures["checked"])
    what = f"{backend}: a bare loop with that check, {to_bare}"
    print_row(what, "none", f"{sorted(figures['checked by hand'])[rounds // 2]:.2f}", None)


# -- receiving --------------------------------------------------------------------------------


async def queue_gets(bursts: int) -> float:
    queue: asyncio.Queue[int] = asyncio.Queue()
    seconds = 0.0
    for _ in range(bursts):
        for number in range(BURST):
            queue.put_nowait(number)
        start = perf_counter()
        for _ in range(BURST):
            await queue.get()
        seconds += perf_counter() - start
    return seconds


async def receives(bursts: int) -> float:
    seconds = 0.0
    send, stream = create_broadcast_stream[int]()
    with send, stream:
        for _ in range(bursts):
            send.send_many_nowait(range(BURST))
            start = perf_counter()
            for _ in range(BURST):
                await stream.receive()
            seconds += perf_counter() - start
    return seconds


async def iterations(bursts: int) -> float:
    seconds = 0.0
    for _ in range(bursts):
        send, stream = create_broadcast_stream[int]()
        with send, stream:
            send.send_many_nowait(range(BURST))
            send.close()
            start = perf_counter()
            async for _ in stream:
                pass
            seconds += perf_counter() - start
    return seconds


async def waiting_gets(items: int) -> float:
    queue: asyncio.Queue[int] = asyncio.Queue()

    async def put() -> None:
        for number in range(items):
            queue.put_nowait(number)
            await asyncio.sleep(0)

    seconds = 0.0
    async with anyio.create_task_group() as group:
        start = perf_counter()
        group.start_soon(put)
        for _ in range(items):
            await queue.get()
        seconds = perf_counter() - start
    return seconds


async def waiting_receives(items: int) -> float:
    send, stream = create_broadcast_stream[int]()

    async def put() -> None:
        for number in range(items):
            send.send_nowait(number)
            await asyncio.sleep(0)

    with send, stream:
        seconds = 0.0
        async with anyio.create_task_group() as group:
            start = perf_counter()
            group.start_soon(put)
            for _ in range(items):
                await stream.receive()
            seconds = perf_counter() - start
    return seconds


Play = Callable[[int], Awaitable[float]]


async def ping_pong_of_tasks(times: int) -> float:
    """Two event tasks, each of which answers the other."""
    pings, pongs, over = Topic("pings", int), Topic("pongs", int), anyio.Event()
    async with Scheduler() as scheduler:
        scheduler.add_channel(pings)
        scheduler.add_channel(pongs)
        ping, pong = scheduler.clone_sender(pings), scheduler.clone_sender(pongs)

        @scheduler.on(pings)
        async def answer(number: int) -> None:
            pong.send_nowait(number)

        @scheduler.on(pongs)
        async def ask(number: int) -> None:
            if number == times:
                over.set()
            else:
                ping.send_nowait(number + 1)

        await scheduler.start()
        start = perf_counter()
        ping.send_nowait(0)
        await over.wait()
        return perf_counter() - start


async def ping_pong_of_queues(times: int) -> float:
    pings: asyncio.Queue[int] = asyncio.Queue()
    pongs: asyncio.Queue[int] = asyncio.Queue()
    over = anyio.Event()

    async def answer(number: int) -> None:
        pongs.put_nowait(number)

    async def ask(number: int) -> None:
        if number == times:
            over.set()
        else:
            pings.put_nowait(number + 1)

    async def read(queue: asyncio.Queue[int], handle: Callable[[int], Awaitable[None]]) -> None:
        while True:
            await handle(await queue.get())

    seconds = 0.0
    async with anyio.create_task_group() as group:
        group.start_soon(read, pings, answer)
        group.start_soon(read, pongs, ask)
        await checkpoint()
        start = perf_counter()
        pings.put_nowait(0)
        await over.wait()
        seconds = perf_counter() - start
        group.cancel_scope.cancel()
    return seconds


async def receiving(backend: str, bursts: int, rounds: int) -> None:
    speeds: Figures = {"receive()": [], "async for": []}
    waits: list[float] = []
    games: list[float] = []
    for _ in range(rounds):
        peer = await queue_gets(bursts)
        speeds["receive()"].append(peer / await receives(bursts))
        speeds["async for"].append(peer / await iterations(bursts))
        waits.append(await waiting_receives(50 * bursts) / await waiting_gets(50 * bursts))
        games.append(await ping_pong_of_tasks(20 * bursts) / await ping_pong_of_queues(20 * bursts))
    for call, figures in speeds.items():
        at_least(f"{backend}: speed of `{call}`, against `asyncio.Queue.get`", 1.25, figures)
    what = f"{backend}: `receive()` that waits for each item, against `asyncio.Queue.get`"
    print_row(what, "none", f"{sorted(waits)[rounds // 2]:.2f}", None)
    at_most(f"{backend}: ping-pong of two event tasks, against two queues", 1.6, games)


# -- capacity ---------------------------------------------------------------------------------


class Payload:
    """What can be seen to be alive."""


async def capacity(backend: str) -> None:
    """Publish much while 20 handlers are slow, and look what is alive, and how old it is."""
    size, tasks = 256, 20
    frames = Topic("frames", Payload)
    gates = [anyio.Event() for _ in range(tasks)]
    numbers: weakref.WeakKeyDictionary[Payload, int] = weakref.WeakKeyDictionary()
    ages: deque[int] = deque()
    sent = 0
    async with Scheduler() as scheduler:
        scheduler.add_channel(frames, ChannelConfig(capacity=size))

        def publish(number: int) -> None:
            frame = Payload()
            numbers[frame] = number
            scheduler.bus.publish_nowait(frames, frame)

        def register(number: int) -> None:
            @scheduler.on(frames, drain_timeout=0, stop_timeout=0)
            async def show(frame: Payload) -> None:
                ages.append(sent - numbers[frame])
                await gates[number].wait()

        for number in range(tasks):
            register(number)
        await scheduler.start()
        for number in range(tasks):
            for _ in range(2 * size):
                sent += 1
                publish(sent)
            gate, gates[number] = gates[number], anyio.Event()
            gate.set()
            for _ in range(10):
                await checkpoint()
        gc.collect()
        alive = len(numbers)
        what = f"{backend}: payloads alive of a channel of {size} with {tasks} slow handlers"
        print_row(what, f"at most {size + tasks}", str(alive), alive <= size + tasks)
        what = f"{backend}: how many messages ago what a handler gets there was published"
        print_row(what, f"at most {size}", str(max(ages)), max(ages) <= size)


async def main(backend: str, quick: bool) -> None:
    bursts, rounds = (5, 1) if quick else (50, 9)
    await handling(backend, bursts, rounds)
    if backend == "asyncio":  # the queue is only there
        await receiving(backend, bursts, rounds)
    await capacity(backend)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--backend", nargs="+", choices=["asyncio", "trio"], default=["asyncio", "trio"]
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds, as a smoke test")
    options = parser.parse_args()
    logging.disable()  # that slow handlers lag is what is measured
    print_head()
    for backend in options.backend:
        anyio.run(main, backend, options.quick, backend=backend)
