"""A process with an outbox on a disk that is full for a while, as a limit on files has it.

Arguments: backend, URL, outbox.
"""

from __future__ import annotations

import logging
import resource
import sys

from anyio import create_task_group, sleep

from orchestrio import ChannelConfig, Scheduler, Topic
from orchestrio.redis import RedisBridge

TEXTS = Topic("texts", str)


def main(backend: str, url: str, outbox: str) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    scheduler = Scheduler()
    scheduler.add_channel(TEXTS, ChannelConfig(capacity=8))
    bridge = RedisBridge(url, topics=[TEXTS], namespace="test", outbox=outbox)
    scheduler.register_background_task(bridge)
    accepted = 0

    async def publish(first: int, stop: int) -> None:
        nonlocal accepted
        for number in range(first, stop):
            await scheduler.publish(TEXTS, f"{number:04}" * 25_000)
            accepted += 1

    async def sent() -> None:
        while bridge.statistics().unsent:  # noqa: ASYNC110  # it tells nobody
            await sleep(0.01)

    @scheduler.background()
    async def fill() -> None:
        await publish(0, 3)
        await sent()
        print(accepted, "accepted")
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        async with create_task_group() as group:
            group.start_soon(publish, 3, 40)
            await sleep(0.5)  # it tries again meanwhile
            print(accepted, "accepted")
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        await sent()
        print(accepted, "accepted", flush=True)
        await scheduler.shutdown()

    scheduler.run_sync("trio" if backend == "trio" else "asyncio")


if __name__ == "__main__":
    main(*sys.argv[1:])
