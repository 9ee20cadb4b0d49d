"""The processes of the chaos: what publishes, what works, and two that are forks of one.

    python tests/chaos/programs.py ROLE BACKEND URL FILE NAME [OUTBOX]

Each writes a line to its file for all that it has done, as soon as it is done: ``accepted 7`` when
``publish()`` has returned, ``handled 7``, ``lost 3`` for what its bridge has counted as lost.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final, Literal

import anyio
from anyio import sleep
from pydantic import BaseModel, ConfigDict
from typing_extensions import override

from orchestrio import ChannelConfig, Scheduler, Topic
from orchestrio.redis import BridgeOptions, RedisBridge, RedisSettings

NAMESPACE: Final = "chaos"
CLAIM_AFTER: Final = 2.0


class OldJob(BaseModel):
    """A job as the first version of the program knew it; it takes no other."""

    model_config = ConfigDict(extra="forbid")

    name: str


class Job(BaseModel):
    """A job of the second version, which reads those of the first."""

    model_config = ConfigDict(extra="forbid")

    name: str
    note: str | None = None


OLD: Final = Topic("jobs", OldJob)
NEW: Final = Topic("jobs", Job)


class Losses(logging.Handler):
    """Writes down how many messages the bridge says that were lost."""

    def __init__(self, output: IO[str]) -> None:
        super().__init__(logging.WARNING)
        self._output = output

    @override
    def emit(self, record: logging.LogRecord) -> None:
        found = re.search(r" has lost ([\d,]+) messages?", record.getMessage())
        if found is not None:
            self._output.write(f"lost {found[1].replace(',', '')}\n")
        self._output.write(f"# {record.levelname} {record.getMessage()}\n")


def bridge(url: str, topic: Topic[OldJob] | Topic[Job], outbox: str | None = None) -> RedisBridge:
    settings = RedisSettings.from_url(url).model_copy(
        update={"response_timeout": 2.0, "connect_timeout": 2.0}
    )
    options: BridgeOptions = {
        "mode": "compete",
        "claim_after": CLAIM_AFTER,
        "prefetch": 32,
        "outbox": outbox,
        "max_deliveries": 1000,  # kills and pauses by the hundred are no fault of the message
    }
    return RedisBridge(settings, topics=[topic], namespace=NAMESPACE, **options)


def publisher(url: str, output: IO[str], name: str, outbox: str | None) -> Scheduler:
    """A program that publishes for as long as it lives; names ending in ``2`` are of version 2."""
    scheduler = Scheduler()
    new = name.endswith("2")
    if new:
        scheduler.add_channel(NEW, ChannelConfig(capacity=256, overflow="block"))
    else:
        scheduler.add_channel(OLD, ChannelConfig(capacity=256, overflow="block"))
    scheduler.register_background_task(bridge(url, NEW if new else OLD, outbox))

    @scheduler.background(stop_timeout=1)
    async def publish() -> None:
        number = 0
        me = f"{name}-{os.getpid()}"
        while True:
            number += 1
            job = f"{me}-{number}"
            if new:
                await scheduler.publish(NEW, Job(name=job, note="new"))
            else:
                await scheduler.publish(OLD, OldJob(name=job))
            if outbox is not None:
                output.write(f"accepted {job}\n")
            else:
                output.write(f"sent {job}\n")  # in memory: gone if it is killed
            await sleep(0.003)

    return scheduler


def worker(url: str, output: IO[str], name: str) -> Scheduler:
    """A program that handles jobs; names ending in ``2`` are of version 2."""
    scheduler = Scheduler()
    wide = ChannelConfig(capacity=256, overflow="block")
    handled: Callable[[str], object] = lambda job: output.write(f"handled {job}\n")
    if name.endswith("2"):
        scheduler.add_channel(NEW, wide)
        scheduler.register_background_task(bridge(url, NEW))

        @scheduler.on(NEW, concurrency=4, on_error="skip", drain_timeout=2)
        async def work(job: Job) -> None:
            await sleep(0.002)
            handled(job.name)

    else:
        scheduler.add_channel(OLD, wide)
        scheduler.register_background_task(bridge(url, OLD))

        @scheduler.on(OLD, concurrency=4, on_error="skip", drain_timeout=2)
        async def work_as_before(job: OldJob) -> None:
            await sleep(0.002)
            handled(job.name)

    return scheduler


async def few(url: str, output: IO[str], name: str, scheduler: Scheduler) -> None:
    """Publish a hundred jobs, and end in a graceful way."""
    async with scheduler:
        await scheduler.start()
        for number in range(100):
            job = f"{name}-{os.getpid()}-{number}"
            await scheduler.publish(OLD, OldJob(name=job))
            output.write(f"accepted {job}\n")


def forks(url: str, file: str, name: str, backend: Literal["asyncio", "trio"]) -> None:
    """Build a scheduler and a bridge, and fork; both use them."""
    scheduler = Scheduler()
    scheduler.add_channel(OLD, ChannelConfig(capacity=256, overflow="block"))
    scheduler.register_background_task(bridge(url, OLD), shutdown_timeout=120)
    child = os.fork()
    with Path(f"{file}.{os.getpid()}").open("a", buffering=1) as output:
        logging.getLogger("orchestrio").addHandler(Losses(output))
        anyio.run(few, url, output, name, scheduler, backend=backend)
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def main(role: str, backend: str, url: str, file: str, name: str, outbox: str = "") -> None:
    loop: Literal["asyncio", "trio"] = "trio" if backend == "trio" else "asyncio"
    if role == "forks":
        forks(url, file, name, loop)
        return
    with Path(file).open("a", buffering=1) as output:
        logging.getLogger("orchestrio").addHandler(Losses(output))
        if role == "worker":
            scheduler = worker(url, output, name)
        else:
            scheduler = publisher(url, output, name, outbox or None)
        scheduler.run_sync(loop)


if __name__ == "__main__":
    main(*sys.argv[1:])
