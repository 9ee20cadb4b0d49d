"""A process that publishes numbers with a durable outbox and is killed while it does.

Arguments: backend, URL, outbox, file to write down what was accepted, first number.
"""

from __future__ import annotations

import sys
from pathlib import Path

from orchestrio import ChannelConfig, Scheduler, Topic
from orchestrio.redis import RedisBridge

JOBS = Topic("jobs", int)


def main(backend: str, url: str, outbox: str, file: str, first: str) -> None:
    scheduler = Scheduler()
    scheduler.add_channel(JOBS, ChannelConfig(capacity=64, overflow="block"))
    scheduler.register_background_task(
        RedisBridge(url, topics=[JOBS], namespace="test", outbox=outbox)
    )

    with Path(file).open("a", buffering=1) as output:

        @scheduler.background()
        async def publish() -> None:
            number = int(first)
            while True:
                await scheduler.publish(JOBS, number)
                output.write(f"{number}\n")
                number += 1

        if backend == "trio":
            scheduler.run_sync("trio")
        else:
            scheduler.run_sync("asyncio")


if __name__ == "__main__":
    main(*sys.argv[1:])
