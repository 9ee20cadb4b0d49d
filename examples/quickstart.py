"""A clock publishes once a second, three times; a collector gets what it publishes.

Run it with ``python examples/quickstart.py``, or on trio with ``python examples/quickstart.py trio``.
"""

import sys

from anyio import sleep

from orchestrio import BackgroundTask, BroadcastSendStream, EventTask, Scheduler, Topic

TICKS = Topic("ticks")  # carries str; Topic("orders", Order) would carry Order


class Clock(BackgroundTask):
    def __init__(self, ticks: BroadcastSendStream[str]) -> None:
        self.ticks = ticks

    async def execute(self) -> None:
        for number in range(1, 4):
            await sleep(1)
            await self.ticks.send(f"tick {number}")


class Collector(EventTask[str]):
    subscribed_event = TICKS

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def initialize(self) -> None:
        print("collector: ready")

    async def handle_event(self, event: str) -> None:
        print(f"collector: got {event}")
        self.seen.append(event)

    async def shutdown(self) -> None:
        print(f"collector: stopped with {self.seen}")


scheduler = Scheduler()
scheduler.add_channel(TICKS)
scheduler.register_event_task(Collector())
scheduler.register_background_task(Clock(scheduler.clone_sender(TICKS)))

if __name__ == "__main__":
    # Ends when the clock has: it is the only background task. Ctrl-C ends it earlier, gracefully.
    scheduler.run_sync("trio" if "trio" in sys.argv[1:] else "asyncio")
