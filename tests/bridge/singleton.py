"""A process that writes down when it works alone, until it is killed.

Arguments: backend, URL, file to write to.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from anyio import sleep

from orchestrio import Scheduler, Topic, current_task_context
from orchestrio.redis import RedisBridge

NOTHING = Topic("nothing", int)


def main(backend: str, url: str, file: str) -> None:
    scheduler = Scheduler()
    scheduler.add_channel(NOTHING)
    scheduler.register_background_task(
        RedisBridge(url, topics=[NOTHING], namespace="test", lease=0.5)
    )
    with Path(file).open("a", buffering=1) as output:

        @scheduler.background(singleton=True, name="leader")
        async def lead() -> None:
            token = current_task_context().fencing_token
            while True:
                output.write(f"{token} {time.time()}\n")
                await sleep(0.01)

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
