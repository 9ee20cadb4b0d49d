"""Three processes and a Redis server: the bridge, and coredis as one would use it by hand.

    python benchmarks/bridge.py [--backend asyncio|uvloop|trio ...] [--quick]

Needs redis-server or valkey-server on PATH. One process publishes messages of 200 bytes, two
compete for them in a consumer group and acknowledge what they have handled. By hand that is
pipelines of 100 XADDs, XREADGROUP with COUNT 100, and one XACK for what was read. Both are measured
in turn, on the same server; each figure is the median of the ratios of a round.

Then one process takes over what another had in hand when it died: how long its event loop stands
still, and whether the time grows in proportion.

The latency is that of single messages, some milliseconds apart, from ``publish()`` to the handler
in another process.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median, quantiles
from typing import Final, cast

import anyio
from coredis import Redis
from rows import at_most, print_head

from orchestrio import ChannelConfig, Scheduler, Topic
from orchestrio.redis import RedisBridge

BODY: Final = "x" * 200
TEXTS: Final = Topic("texts", str)
BATCH: Final = 100
CONSUMERS: Final = 2
BACKENDS: Final[dict[str, tuple[str, dict[str, object]]]] = {
    "asyncio": ("asyncio", {}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}


# -- what the processes do -------------------------------------------------------------------


def say(what: object) -> None:
    print(json.dumps(what), flush=True)


async def heard(word: str) -> None:
    """Wait for the parent to say a word."""
    line = await anyio.to_thread.run_sync(sys.stdin.readline)
    assert line.strip() == word, line


async def publish_by_hand(port: int, count: int) -> None:
    async with Redis(port=port) as client:
        await client.ping()
        say("ready")
        await heard("go")
        began = time.monotonic()
        for _ in range(count // BATCH):
            async with client.pipeline(transaction=False) as pipeline:
                for _ in range(BATCH):
                    pipeline.xadd("hand", {"m": BODY})
        say(began)


async def consume_by_hand(port: int, count: int) -> None:
    async with Redis(port=port) as client:
        await client.ping()
        name = f"{time.monotonic_ns()}"
        handled, last = 0, 0.0
        say("ready")
        while True:
            found = await client.xreadgroup("group", name, {"hand": ">"}, count=BATCH, block=1000)
            if found is None:
                if handled:
                    break
                continue
            for entries in found.values():
                for entry in entries:
                    handled += len(entry.field_values) > 0
                await client.xack("hand", "group", [entry.identifier for entry in entries])
            last = time.monotonic()
        say([handled, last])


def bridged(port: int) -> tuple[Scheduler, RedisBridge]:
    scheduler = Scheduler()
    scheduler.add_channel(TEXTS, ChannelConfig(capacity=4096, overflow="block"))
    bridge = RedisBridge(
        f"redis://127.0.0.1:{port}",
        topics=[TEXTS],
        namespace="bench",
        mode="compete",
        prefetch=1000,
    )
    scheduler.register_background_task(bridge)
    return scheduler, bridge


async def publish_by_bridge(port: int, count: int) -> None:
    scheduler, _ = bridged(port)
    async with scheduler:
        await scheduler.start()
        say("ready")
        await heard("go")
        began = time.monotonic()
        for _ in range(count):
            await scheduler.publish(TEXTS, BODY)
    say(began)


async def consume_by_bridge(port: int, count: int) -> None:
    scheduler, bridge = bridged(port)
    handled, last = 0, 0.0

    @scheduler.on(TEXTS)
    async def handle(text: str) -> None:
        nonlocal handled
        handled += len(text) > 0

    async with scheduler:
        await scheduler.start()
        say("ready")
        acknowledged, quiet = 0, time.monotonic()
        while time.monotonic() - quiet < 1 or not acknowledged:
            await anyio.sleep(0.02)
            if acknowledged != (now := bridge.statistics().acknowledged):
                acknowledged, quiet = now, time.monotonic()
                last = quiet
    say([handled, last])


async def publish_slowly(port: int, count: int) -> None:
    scheduler, _ = bridged(port)
    async with scheduler:
        await scheduler.start()
        say("ready")
        await heard("go")
        for _ in range(count):
            await scheduler.publish(TEXTS, f"{time.monotonic_ns():<200}")
            await anyio.sleep(0.005)
    say(0)


async def time_what_comes(port: int, count: int) -> None:
    scheduler, _ = bridged(port)
    times: list[float] = []
    all_came = anyio.Event()

    @scheduler.on(TEXTS)
    async def handle(text: str) -> None:
        times.append((time.monotonic_ns() - int(text)) / 1e6)
        if len(times) == count:
            all_came.set()

    async with scheduler:
        await scheduler.start()
        say("ready")
        with anyio.move_on_after(count * 0.005 + 3):
            await all_came.wait()
    say([len(times), *times])


async def take_over(port: int, count: int) -> None:
    """Take over what a dead process had in hand, with all of it in hand at once."""
    stream = "{bench:texts}"
    head = '{"v":1,"id":"x","topic":"texts","time":1,"origin":"x","type":"application/json","data"'
    async with Redis(port=port) as client:
        await client.xgroup_create(stream, "workers", "0", mkstream=True)
        async with client.pipeline(transaction=False) as pipeline:
            for _ in range(count):
                pipeline.xadd(stream, {"m": f'{head}:"{BODY}"}}'})
        await client.xreadgroup("workers", "dead", {stream: ">"}, count=count)
    scheduler = Scheduler()
    scheduler.add_channel(TEXTS, ChannelConfig(capacity=10_000, overflow="block"))
    bridge = RedisBridge(
        f"redis://127.0.0.1:{port}",
        topics=[TEXTS],
        namespace="bench",
        mode="compete",
        prefetch=10_000,
        claim_after=0.2,
    )
    scheduler.register_background_task(bridge)
    scheduler.on(TEXTS)(ignore)
    stalls: list[float] = []
    since = 0.0
    async with scheduler:
        await scheduler.start()
        gc.collect()
        gc.freeze()
        last = time.perf_counter()
        while bridge.statistics().acknowledged < count:
            await anyio.sleep(0.0005)
            now = time.perf_counter()
            if bridge.statistics().received and not since:
                since = last
            stalls.append(now - last)
            last = now
    say([last - since, max(stalls)])


async def ignore(_: str) -> None: ...


ROLES: Final = {
    role.__name__: role
    for role in (
        publish_by_hand,
        consume_by_hand,
        publish_by_bridge,
        consume_by_bridge,
        publish_slowly,
        time_what_comes,
        take_over,
    )
}


# -- what is measured ------------------------------------------------------------------------


@contextmanager
def server() -> Iterator[int]:
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    if binary is None:
        sys.exit("this benchmark needs redis-server or valkey-server on PATH")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        options = ["--port", str(port), "--save", "", "--dir", folder, "--bind", "127.0.0.1"]
        process = subprocess.Popen([binary, *options], stdout=subprocess.DEVNULL)
        try:
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    time.sleep(0.02)
            yield port
        finally:
            process.kill()
            process.wait()


class Process:
    """One of the three, in a role."""

    def __init__(self, role: str, backend: str, port: int, count: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--role", role, backend, str(port), str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def hear(self) -> object:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a process has ended with {self._process.wait()}")
        return cast("object", json.loads(line))

    def tell(self, word: str) -> None:
        assert self._process.stdin is not None
        print(word, file=self._process.stdin, flush=True)


def run(publish: str, consume: str, backend: str, port: int, count: int) -> list[list[float]]:
    """Start a publisher and its consumers; return when it began, and what these say."""
    consumers = [
        Process(consume, backend, port, count)
        for _ in range(CONSUMERS if publish != "publish_slowly" else 1)
    ]
    for consumer in consumers:
        assert consumer.hear() == "ready"
    publisher = Process(publish, backend, port, count)
    assert publisher.hear() == "ready"
    publisher.tell("go")
    began = cast("float", publisher.hear())
    return [[began], *(cast("list[float]", consumer.hear()) for consumer in consumers)]


def throughput(publish: str, consume: str, backend: str, port: int, count: int) -> float:
    """Messages a second, from the first publish to the last acknowledgement."""
    [began], *consumed = run(publish, consume, backend, port, count)
    assert sum(handled for handled, _ in consumed) == count, consumed
    return count / (max(last for _, last in consumed) - began)


def command(port: int, *words: str) -> None:
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall((" ".join(words) + "\r\n").encode())
        connection.recv(4096)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--backend", nargs="*", choices=list(BACKENDS), default=list(BACKENDS))
    parser.add_argument("--quick", action="store_true", help="a smoke test of half a minute")
    parser.add_argument("--role", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        role, backend, port, count = options.role
        name, settings = BACKENDS[backend]
        anyio.run(ROLES[role], int(port), int(count), backend=name, backend_options=settings)
        return
    count, rounds, singles = (4_000, 1, 100) if options.quick else (60_000, 5, 1000)
    print("| backend | relative to coredis by hand | messages/s | by hand | p50 | p99 |")
    print("|---|---:|---:|---:|---:|---:|")
    with server() as port:
        for backend in options.backend:
            ratios: list[float] = []
            rates: list[tuple[float, float]] = []
            for _ in range(rounds):
                command(port, "FLUSHALL")
                command(port, "XGROUP", "CREATE", "hand", "group", "0", "MKSTREAM")
                by_hand = throughput("publish_by_hand", "consume_by_hand", backend, port, count)
                ours = throughput("publish_by_bridge", "consume_by_bridge", backend, port, count)
                ratios.append(ours / by_hand)
                rates.append((ours, by_hand))
            command(port, "FLUSHALL")
            _, times = run("publish_slowly", "time_what_comes", backend, port, singles)
            cuts = quantiles(times[1:], n=100)
            ours, by_hand = (median(column) for column in zip(*rates, strict=True))
            print(
                f"| {backend} | {median(ratios):.2f} | {ours:,.0f} | {by_hand:,.0f}"
                f" | {cuts[49]:.2f} ms | {cuts[98]:.2f} ms |",
                flush=True,
            )
        print()
        print_head()
        for backend in options.backend:
            take_overs(backend, port, 500 if options.quick else 5_000, rounds)


def take_overs(backend: str, port: int, count: int, rounds: int) -> None:
    """Print what taking over costs, and whether that grows with how many there are."""
    growth: list[float] = []
    stalls: list[float] = []
    for _ in range(rounds):
        seconds: list[float] = []
        for messages in (count // 5, count):
            command(port, "FLUSHALL")
            took, stall = cast("list[float]", Process("take_over", backend, port, messages).hear())
            seconds.append(took / messages)
        growth.append(seconds[1] / seconds[0])
        stalls.append(stall * 1000)
    of = f"{count:,} messages of a dead process"
    at_most(f"{backend}: taking over {of}: the longest stall of the event loop", 10, stalls, " ms")
    at_most(f"{backend}: the time for one of {of}, against one of {count // 5:,}", 1.5, growth)


if __name__ == "__main__":
    main()
