"""What supervision costs: from a crash to running again, and an hour with 10,000 tasks that crash.

    python benchmarks/supervision.py [--backend asyncio|trio ...] [--quick]

The hour is one of virtual time. What is compared is timed in turn within one run.
"""

from __future__ import annotations

import argparse
import gc
import logging
import random
import tracemalloc
from statistics import median
from time import perf_counter
from typing import Final, Literal

import anyio
from anyio.lowlevel import checkpoint
from rows import print_head, print_row

from orchestrio import BackgroundTask, RestartPolicy, Scheduler
from orchestrio.testing import virtual_time

AT_ONCE: Final = RestartPolicy(initial_delay=0, max_restarts=None)


# -- latency ----------------------------------------------------------------------------------


class Crashing(BackgroundTask):
    """Fails again and again, and takes the time until it runs again."""

    def __init__(self, crashes: int) -> None:
        self.crashes = crashes
        self.crashed_at = 0.0
        self.latencies: list[float] = []
        self.done = anyio.Event()

    async def execute(self) -> None:
        if self.crashed_at:
            self.latencies.append(perf_counter() - self.crashed_at)
        if len(self.latencies) == self.crashes:
            self.done.set()
            await anyio.sleep_forever()
        await checkpoint()
        self.crashed_at = perf_counter()
        raise RuntimeError("crash")


async def restart_latency(crashes: int) -> float:
    task = Crashing(crashes)
    async with Scheduler() as scheduler:
        scheduler.register_background_task(task, restart=AT_ONCE)
        await scheduler.start()
        await task.done.wait()
    return median(task.latencies)


async def bare_latency(starts: int) -> float:
    latencies: list[float] = []

    async def run(asked_at: float, running: anyio.Event) -> None:
        latencies.append(perf_counter() - asked_at)
        running.set()

    async with anyio.create_task_group() as group:
        for _ in range(starts):
            running = anyio.Event()
            group.start_soon(run, perf_counter(), running)
            await running.wait()
    return median(latencies)


async def latency(backend: str, rounds: int) -> None:
    ratios = [await restart_latency(1000) / await bare_latency(1000) for _ in range(rounds)]
    print_row(
        f"{backend}: from a crash to running again, against a bare `start_soon`",
        "under 5 times",
        f"{median(ratios):.2f}",
        median(ratios) < 5,
    )


# -- a storm of an hour -----------------------------------------------------------------------


class Mortal(BackgroundTask):
    """Lives for some time, exponentially distributed, and then fails."""

    crashes = 0

    def __init__(self, mean_life: float, source: random.Random) -> None:
        self.mean_life = mean_life
        self.source = source

    async def execute(self) -> None:
        await anyio.sleep(self.source.expovariate(1 / self.mean_life))
        Mortal.crashes += 1
        raise RuntimeError("crash")


async def storm(backend: str, tasks: int, seconds: int) -> None:
    source = random.Random(1)
    Mortal.crashes = 0
    policy = RestartPolicy(initial_delay=0.1, max_delay=1, max_restarts=None)
    async with Scheduler(random=source.random) as scheduler:
        for _ in range(tasks):
            # 1 % of them each second
            scheduler.register_background_task(Mortal(100, source), restart=policy)
        await scheduler.start()
        tracemalloc.start()
        await anyio.sleep(seconds / 2)  # most tasks have crashed by then, and allocated anew
        gc.collect()
        early, crashes_then = tracemalloc.get_traced_memory()[0], Mortal.crashes
        await anyio.sleep(seconds / 2)
        gc.collect()
        late = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        crashes = Mortal.crashes
        shots = scheduler.status()
        down = sum(shot.state == "backing_off" for shot in shots)
        restarts = sum(shot.restarts for shot in shots)
    print_row(
        f"{backend}: {tasks:,} tasks of which 1 % crash each second, for {seconds:,} s",
        "every restart accounted for",
        f"{crashes:,} crashes, {restarts:,} restarts, {down} to come",
        crashes == restarts + down,
    )
    growth = (late - early) / (crashes - crashes_then)
    print_row(
        f"{backend}: memory that each of these crashes leaves behind",
        "flat: less than 10 bytes",
        f"{growth:.1f} bytes",
        growth < 10,
    )


def main(backend: Literal["asyncio", "trio"], quick: bool) -> None:
    anyio.run(latency, backend, 3 if quick else 9, backend=backend)
    name, options = virtual_time(backend)
    tasks, seconds = (200 if quick else 10_000), 3_600
    anyio.run(storm, backend, tasks, seconds, backend=name, backend_options=options)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--backend", nargs="+", choices=["asyncio", "trio"], default=["asyncio", "trio"]
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds, as a smoke test")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)  # a warning for each restart is not what is measured
    print_head()
    for backend in arguments.backend:
        main(backend, arguments.quick)
