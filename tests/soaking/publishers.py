"""The publishers of a soak: those that wait, those that do not, and a thread."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import sleep as sleep_in_thread
from typing import final

from anyio import (
    CancelScope,
    WouldBlock,
    move_on_after,
    sleep,
    to_thread,
)

from orchestrio import (
    BackgroundTask,
    BroadcastSendStream,
    EventSendError,
    Topic,
    current_task_context,
)

from .handlers import Parcel
from .stage import TIMEOUTS, TOPICS, Stage

Publish = Callable[[Topic[Parcel]], Awaitable[None]]


def add_publishers(stage: Stage) -> None:
    """Register publishers of all kinds."""
    publishers = Publishers(stage)
    for publish in (
        publishers.publish_nowait,
        publishers.send_nowait,
        publishers.publish,
        publishers.publish_many,
        publishers.lose_patience,
    ):
        stage.scheduler.background(**TIMEOUTS)(publishers.again_and_again(publish))
    stage.scheduler.register_background_task(Shouter(stage), **TIMEOUTS)


@final
class Publishers:
    """Ways to publish: each counts what was not refused."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.bus = stage.scheduler.bus
        self.books = stage.books

    def again_and_again(self, publish: Publish) -> Callable[[], Awaitable[None]]:
        """Return a function that publishes on any topic, in bursts, for ever."""
        dice = self.stage.dice

        async def publish_again_and_again() -> None:
            while True:
                async with self.stage.gate:
                    for _ in range(dice.randrange(1, 20)):
                        await publish(dice.choice(TOPICS))
                await sleep(0.01 * dice.random())

        return publish_again_and_again

    async def publish_nowait(self, topic: Topic[Parcel]) -> None:
        with suppress(WouldBlock, EventSendError):
            self.bus.publish_nowait(topic, self.stage.parcel())
            self.books.accept(1, topic)

    async def send_nowait(self, topic: Topic[Parcel]) -> None:
        with self.bus.clone_sender(topic) as sender, suppress(WouldBlock, EventSendError):
            sender.send_nowait(self.stage.parcel())
            self.books.accept(1, topic)

    async def publish(self, topic: Topic[Parcel]) -> None:
        with suppress(EventSendError):
            await self.bus.publish(topic, self.stage.parcel())
            self.books.accept(1, topic)

    async def publish_many(self, topic: Topic[Parcel]) -> None:
        batch = [self.stage.parcel() for _ in range(self.stage.dice.randrange(10))]
        with self.bus.clone_sender(topic) as sender, suppress(WouldBlock, EventSendError):
            sender.send_many_nowait(batch)
            self.books.accept(len(batch), topic)

    async def lose_patience(self, topic: Topic[Parcel]) -> None:
        """Publish, unless that takes too long: what was cancelled was not sent."""
        with move_on_after(0.002):
            await self.publish(topic)


class Shouter(BackgroundTask):
    """Has a thread that publishes, and that AnyIO knows nothing of."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.over = threading.Event()

    async def execute(self) -> None:
        senders = {topic: self.stage.scheduler.clone_sender(topic) for topic in TOPICS}
        thread = threading.Thread(target=self.shout, args=[senders])
        thread.start()
        try:
            await current_task_context().stopping.wait()
        finally:
            self.over.set()
            with CancelScope(shield=True):
                await to_thread.run_sync(thread.join)
            for sender in senders.values():
                sender.close()

    def shout(self, senders: dict[Topic[Parcel], BroadcastSendStream[Parcel]]) -> None:
        """Publish until it is over."""
        while not self.over.is_set():
            if self.stage.gate.is_open.wait(0.1):
                self.stage.busy_threads += 1
                self.shout_once(senders)
                self.stage.busy_threads -= 1
                sleep_in_thread(0.002)

    def shout_once(self, senders: dict[Topic[Parcel], BroadcastSendStream[Parcel]]) -> None:
        for topic, sender in senders.items():
            with suppress(EventSendError):
                sender.send_from_thread(self.stage.parcel())
                self.stage.books.accept(1, topic)
