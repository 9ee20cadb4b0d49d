"""A process of a cluster: handles jobs, writes down what it did, until it is killed or stopped.

Arguments: backend, URL, file to write to, milliseconds for each job, mode.
"""

from __future__ import annotations

import sys
from pathlib import Path

from anyio import sleep

from orchestrio import ChannelConfig, Scheduler, Topic
from orchestrio.redis import RedisBridge

JOBS = Topic("jobs", int)


def main(backend: str, url: str, file: str, milliseconds: str, mode: str) -> None:
    scheduler = Scheduler()
    scheduler.add_channel(JOBS, ChannelConfig(overflow="block"))
    if mode == "broadcast":
        bridge = RedisBridge(url, topics=[JOBS], namespace="test")
    else:
        bridge = RedisBridge(
            url, topics=[JOBS], namespace="test", mode="compete", claim_after=0.5, prefetch=16
        )
    scheduler.register_background_task(bridge)

    with Path(file).open("a", buffering=1) as output:

        @scheduler.on(JOBS)
        async def work(number: int) -> None:
            await sleep(float(milliseconds) / 1000)
            output.write(f"{number}\n")

        @scheduler.background()
        async def say_so() -> None:
            output.write("ready\n")
            await sleep(3600)

        if backend == "trio":
            scheduler.run_sync("trio")
        else:
            scheduler.run_sync("asyncio")


if __name__ == "__main__":
    main(*sys.argv[1:])
