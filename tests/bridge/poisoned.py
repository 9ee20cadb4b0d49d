"""A process that a message kills while its handler runs, before anything else can happen.

Arguments: backend, URL, file to write down what was handled.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from orchestrio import ChannelConfig, Scheduler, Topic
from orchestrio.redis import RedisBridge

JOBS = Topic("jobs", int)
POISON = 7


def main(backend: str, url: str, file: str) -> None:
    scheduler = Scheduler()
    scheduler.add_channel(JOBS, ChannelConfig(overflow="block"))
    scheduler.register_background_task(
        RedisBridge(
            url, topics=[JOBS], namespace="test", mode="compete", claim_after=0.4, max_deliveries=3
        )
    )

    with Path(file).open("a", buffering=1) as output:

        @scheduler.on(JOBS)
        async def work(number: int) -> None:
            if number == POISON:
                os.kill(os.getpid(), signal.SIGKILL)
            output.write(f"{number}\n")

        if backend == "trio":
            scheduler.run_sync("trio")
        else:
            scheduler.run_sync("asyncio")


if __name__ == "__main__":
    main(*sys.argv[1:])
