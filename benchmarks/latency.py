"""How soon a message is handled, and what threads can send: orchestrio, and queues for threads.

    python benchmarks/latency.py [--backend asyncio|uvloop|trio ...] [--quick]

A latency is from the call that sends to the first line of the handler, which waits for one message
at a time; the peer is a task at a bare queue. Of many such latencies the median and the 99th of a
hundred are compared. A thread sends as fast as it can, and the handler adds one to a counter.

All take turns within one run, in several rounds, and a figure is the median of the ratios. janus
and culsans are queues with an end for threads and one for the event loop, without a bound.
"""

from __future__ import annotations

import argparse
import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from statistics import median, quantiles
from time import perf_counter
from typing import Any, Final

import anyio
import anyio.to_thread
import culsans
import janus
import trio
from anyio.lowlevel import checkpoint
from rows import at_least, at_most, print_head, print_row

from orchestrio import ChannelConfig, Scheduler, Topic

TIMES: Final = Topic("times", float)
BATCH: Final = 256

#: Sends one message, in the event loop.
Send = Callable[[float], object]
#: Sends messages in a thread.
SendAll = Callable[[list[float]], object]
Handle = Callable[[float], Awaitable[None]]


# -- contestants ------------------------------------------------------------------------------


@asynccontextmanager
async def scheduled(handle: Handle) -> AsyncIterator[Scheduler]:
    async with Scheduler() as scheduler:
        scheduler.add_channel(TIMES, ChannelConfig(capacity=1024, overflow="block"))
        scheduler.on(TIMES)(handle)
        await scheduler.start()
        yield scheduler


@asynccontextmanager
async def ours(handle: Handle) -> AsyncIterator[Send]:
    async with scheduled(handle) as scheduler, scheduler.clone_sender(TIMES) as sender:
        yield sender.send_nowait


@asynccontextmanager
async def consumed(get: Callable[[], Awaitable[Any]], handle: Handle) -> AsyncIterator[None]:
    async def consume() -> None:
        while True:
            await handle(await get())

    async with anyio.create_task_group() as group:
        group.start_soon(consume)
        yield
        group.cancel_scope.cancel()


@asynccontextmanager
async def asyncio_queue(handle: Handle) -> AsyncIterator[Send]:
    queue: asyncio.Queue[float] = asyncio.Queue()
    async with consumed(queue.get, handle):
        yield queue.put_nowait


@asynccontextmanager
async def trio_channel(handle: Handle) -> AsyncIterator[Send]:
    send, receive = trio.open_memory_channel[float](math.inf)
    async with consumed(receive.receive, handle):
        yield send.send_nowait


@asynccontextmanager
async def ours_each(handle: Handle) -> AsyncIterator[SendAll]:
    async with scheduled(handle) as scheduler, scheduler.clone_sender(TIMES) as sender:

        def send_all(items: list[float]) -> None:
            for item in items:
                sender.send_from_thread(item)

        yield send_all


@asynccontextmanager
async def ours_many(handle: Handle) -> AsyncIterator[SendAll]:
    async with scheduled(handle) as scheduler, scheduler.clone_sender(TIMES) as sender:

        def send_all(items: list[float]) -> None:
            for begin in range(0, len(items), BATCH):
                sender.send_many_from_thread(items[begin : begin + BATCH])

        yield send_all


@asynccontextmanager
async def janus_queue(handle: Handle) -> AsyncIterator[SendAll]:
    queue: janus.Queue[float] = janus.Queue()

    def send_all(items: list[float]) -> None:
        for item in items:
            queue.sync_q.put(item)

    async with consumed(queue.async_q.get, handle):
        yield send_all
    await queue.aclose()


@asynccontextmanager
async def culsans_queue(handle: Handle) -> AsyncIterator[SendAll]:
    queue: culsans.Queue[float] = culsans.Queue()

    def send_all(items: list[float]) -> None:
        for item in items:
            queue.sync_q.put(item)

    async with consumed(queue.async_q.get, handle):
        yield send_all
    queue.shutdown()


# -- measuring --------------------------------------------------------------------------------


async def latencies(
    contestant: Callable[[Handle], AbstractAsyncContextManager[Send]], messages: int
) -> tuple[float, float]:
    """Return the median and the 99th of a hundred latencies, in seconds."""
    took: list[float] = []

    async def handle(since: float) -> None:
        took.append(perf_counter() - since)

    async with contestant(handle) as send:
        for number in range(messages):
            for _ in range(3):  # it is back at its place, and waits
                await checkpoint()
            send(perf_counter())
            while len(took) <= number:
                await checkpoint()
    cuts = quantiles(took[messages // 10 :], n=100)
    return cuts[49], cuts[98]


async def threaded(
    contestant: Callable[[Handle], AbstractAsyncContextManager[SendAll]], messages: int
) -> float:
    """Return the seconds until what a thread has sent was handled."""
    count = 0
    done = anyio.Event()

    async def handle(_: float) -> None:
        nonlocal count
        count += 1
        if count == messages:
            done.set()

    async with contestant(handle) as send_all:
        since = perf_counter()
        await anyio.to_thread.run_sync(send_all, [0.0] * messages)
        await done.wait()
        return perf_counter() - since


async def main(backend: str, quick: bool) -> None:
    rounds, messages = (2, 500) if quick else (7, 5_000)
    peer = trio_channel if backend == "trio" else asyncio_queue
    name = "a trio memory channel" if backend == "trio" else "`asyncio.Queue`"
    ratios: list[tuple[float, float]] = []
    for _ in range(rounds):
        theirs, mine = await latencies(peer, messages), await latencies(ours, messages)
        ratios.append((mine[0] / theirs[0], mine[1] / theirs[1]))
    for share, figures in zip(("p50", "p99"), zip(*ratios, strict=True), strict=True):
        what = f"{backend}: latency from `send_nowait` to an idle handler, {share}, against {name}"
        at_most(what, 1.6, figures)

    # A thread that sends one at a time waits for the event loop each time; a queue takes it as is.
    queues = {"culsans": culsans_queue} | ({} if backend == "trio" else {"janus": janus_queue})
    each: dict[str, list[float]] = {name: [] for name in queues}
    many: dict[str, list[float]] = {name: [] for name in queues}
    for _ in range(rounds):
        mine_each = await threaded(ours_each, messages)
        mine_many = await threaded(ours_many, messages)
        for name, queue in queues.items():
            theirs_all = await threaded(queue, messages)
            each[name].append(theirs_all / mine_each)
            many[name].append(theirs_all / mine_many)
    for name in queues:
        what = f"{backend}: speed of `send_from_thread`, against {name}"
        print_row(what, "none: it returns when it was sent", f"{median(each[name]):.2f}", None)
        what = f"{backend}: speed of `send_many_from_thread` of {BATCH}, against {name}"
        at_least(what, 1, many[name])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--backend",
        nargs="+",
        choices=["asyncio", "uvloop", "trio"],
        default=["asyncio", "uvloop", "trio"],
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds, as a smoke test")
    options = parser.parse_args()
    print_head()
    for backend in options.backend:
        anyio.run(
            main,
            backend,
            options.quick,
            backend="trio" if backend == "trio" else "asyncio",
            backend_options={"use_uvloop": True} if backend == "uvloop" else {},
        )
