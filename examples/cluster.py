"""Three worker processes compete for orders over Redis; one is killed, and nothing is lost.

    python examples/cluster.py [--backend trio] [--orders 300]

    this process ──▶ "orders", compete  ──▶ worker-1, worker-2, worker-3; the quickest is killed
    this process ──▶ "closing", broadcast ──▶ all that are left, which then stop

It starts a Redis of its own, so redis-server or valkey-server has to be on PATH. Each worker prints
the orders it has packed, and this process counts them. At the end the exit status is 1 if an order
was lost. An order that the killed worker had packed and not acknowledged is packed twice: that is
what *at least once* means.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections import Counter

import anyio
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream
from pydantic import BaseModel

from orchestrio import BackgroundTask, ChannelConfig, EventTask, Scheduler, Topic
from orchestrio.redis import RedisBridge


class Order(BaseModel):
    number: int


class Packed(BaseModel):
    worker: str
    order: int


ORDERS = Topic("orders", Order)
CLOSING = Topic("closing", str)
PACKED = Topic("packed", Packed)  # stays in this process
WAITS = ChannelConfig(capacity=64, overflow="block")


def scheduler_with_bridges(url: str) -> Scheduler:
    """What all processes have in common."""
    scheduler = Scheduler()
    scheduler.add_channel(ORDERS, WAITS)
    scheduler.add_channel(CLOSING, WAITS)
    scheduler.register_background_task(
        RedisBridge(
            url, topics=[ORDERS], namespace="shop", mode="compete", prefetch=8, claim_after=1
        )
    )
    scheduler.register_background_task(RedisBridge(url, topics=[CLOSING], namespace="shop"))
    return scheduler


# -- a worker --------------------------------------------------------------------------------


def work(url: str, backend: str) -> None:
    scheduler = scheduler_with_bridges(url)

    @scheduler.on(ORDERS)
    async def pack(order: Order) -> None:
        await anyio.sleep(0.005)
        print(order.number, flush=True)

    @scheduler.on(CLOSING)
    async def close(reason: str) -> None:
        await scheduler.shutdown()

    scheduler.run_sync("trio" if backend == "trio" else "asyncio")


# -- this process ----------------------------------------------------------------------------


class Worker(BackgroundTask):
    """Starts a worker process, and passes on what it prints until it ends."""

    def __init__(self, name: str, url: str, backend: str, scheduler: Scheduler) -> None:
        self.name = name
        self.command = [sys.executable, __file__, "--work", url, "--backend", backend]
        self.packed = scheduler.clone_sender(PACKED)
        self.process: Process | None = None

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()

    async def execute(self) -> None:
        async with await anyio.open_process(self.command, stderr=None) as self.process:
            assert self.process.stdout is not None
            line = ""
            async for text in TextReceiveStream(self.process.stdout):
                *lines, line = (line + text).split("\n")
                for number in lines:
                    await self.packed.send(Packed(worker=self.name, order=int(number)))


class Tally(EventTask[Packed]):
    """Counts what is packed; kills who has packed a tenth first, and closes when all is done."""

    subscribed_event = PACKED

    def __init__(self, scheduler: Scheduler, workers: list[Worker], orders: int) -> None:
        self.scheduler = scheduler
        self.workers = {worker.name: worker for worker in workers}
        self.orders = orders
        self.killed = False
        self.by_order: Counter[int] = Counter()
        self.by_worker: Counter[str] = Counter()

    async def handle_event(self, packed: Packed) -> None:
        self.by_order[packed.order] += 1
        self.by_worker[packed.worker] += 1
        so_far = self.by_worker[packed.worker]
        if so_far == self.orders // 10 and not self.killed:
            print(f"{packed.worker} is killed: it has packed {so_far} orders")
            self.killed = True
            self.workers[packed.worker].kill()
        if len(self.by_order) == self.orders and self.by_order.total() >= self.orders:
            await self.scheduler.publish(CLOSING, "all is packed")

    def report(self) -> bool:
        for worker, count in sorted(self.by_worker.items()):
            print(f"{worker} has packed {count} orders")
        lost = self.orders - len(self.by_order)
        twice = self.by_order.total() - len(self.by_order)
        print(f"of {self.orders} orders, {lost} were lost, and {twice} were packed twice")
        return not lost


async def run(url: str, options: Namespace) -> bool:
    async with scheduler_with_bridges(url) as scheduler:
        scheduler.add_channel(PACKED, WAITS)
        workers = [
            Worker(f"worker-{number}", url, options.backend, scheduler) for number in (1, 2, 3)
        ]
        tally = Tally(scheduler, workers, options.orders)
        scheduler.register_event_task(tally)
        ids = [scheduler.register_background_task(worker, name=worker.name) for worker in workers]
        await scheduler.start()
        for number in range(options.orders):
            await scheduler.publish(ORDERS, Order(number=number))
        for task_id in ids:
            await scheduler.wait_stopped(task_id)
    return tally.report()


def start_redis(folder: str) -> tuple[subprocess.Popen[bytes], str]:
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    if binary is None:
        sys.exit("this example needs redis-server or valkey-server on PATH")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = ["--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
    # The bridges wait for it to answer.
    return subprocess.Popen(
        [binary, *where], stdout=subprocess.DEVNULL
    ), f"redis://127.0.0.1:{port}"


def main() -> None:
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    parser.add_argument("--orders", type=int, default=300, help="how many, at least 30")
    parser.add_argument("--work", metavar="URL", help="be a worker")
    options = parser.parse_args()
    if options.work:
        work(options.work, options.backend)
        return
    with tempfile.TemporaryDirectory() as folder:
        server, url = start_redis(folder)
        try:
            well = anyio.run(run, url, options, backend=options.backend)
        finally:
            server.terminate()
            server.wait()
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
