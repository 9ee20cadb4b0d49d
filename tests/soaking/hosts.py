"""The hosts of a soak: guests come and go all the time, and tasks are restarted by hand."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from itertools import cycle
from typing import Final

import anyio
from anyio import move_on_after, sleep

from orchestrio import (
    BackgroundTask,
    BroadcastReceiveStream,
    LaggedError,
    LifecycleError,
    TaskId,
    create_broadcast_stream,
)

from .handlers import KINDS, Parcel
from .stage import STREAM, TIMEOUTS, TOPICS, Stage

GUESTS: Final = len(KINDS)


class Host(BackgroundTask):
    """Receives one visit after the other."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.scheduler = stage.scheduler
        self.bus = stage.scheduler.bus
        self.books = stage.books
        self.dice = stage.dice
        self.kinds = cycle(KINDS)
        self.guests: deque[tuple[TaskId, str]] = deque()
        self.forgotten: list[BroadcastReceiveStream[Parcel]] = []

    async def execute(self) -> None:
        visits: list[Callable[[], Awaitable[None]]] = [
            self.let_a_guest_in,
            self.let_a_guest_in,
            self.let_workers_in,
            self.call_a_guest_back,
            self.restart_somebody,
            self.listen_for_a_while,
            self.wait_for_a_parcel,
            self.stream_without_a_bus,
        ]
        for _ in range(GUESTS):
            await self.let_a_guest_in()
        while True:
            async with self.stage.gate:
                await self.receive(self.dice.choice(visits))
                if self.stage.leak:
                    self.forgotten.append(self.scheduler.subscribe(STREAM))
            await sleep(0.02 * self.dice.random())

    async def receive(self, visit: Callable[[], Awaitable[None]]) -> None:
        self.books.order()
        try:
            await visit()
        except LifecycleError:
            if not self.stage.stopping:  # then nobody is let in any more
                raise

    async def let_a_guest_in(self) -> None:
        """Register an event task that depends on the one before it; the oldest leaves."""
        depends_on = [name for _, name in list(self.guests)[-1:]]
        name = self.stage.new_name("guest")
        topic = self.dice.choice(TOPICS)
        kind = KINDS[next(self.kinds)]
        task = self.stage.add_handler(self.scheduler, topic, kind, name=name, depends_on=depends_on)
        self.guests.append((task, name))
        if len(self.guests) > GUESTS:
            await self.see_off(self.guests.popleft()[0])

    async def see_off(self, task: TaskId) -> None:
        """Stop a guest, and remove it."""
        await self.end_the_account(task)
        await self.scheduler.remove_task(task)

    async def end_the_account(self, task: TaskId) -> None:
        """Stop a guest, and look at what it leaves."""
        self.books.ask(task)
        if self.dice.random() < 0.3:
            await self.stop_twice(task)
        else:
            await self.scheduler.stop_task(task)
        self.books.close(task)

    async def stop_twice(self, task: TaskId) -> None:
        """Stop a task from two tasks at once, while a third waits for its end."""
        async with anyio.create_task_group() as group:
            group.start_soon(self.scheduler.stop_task, task)
            group.start_soon(self.scheduler.wait_stopped, task)
            group.start_soon(self.scheduler.stop_task, task)

    async def let_workers_in(self) -> None:
        """Register some background tasks under default names that are new, and remove them."""

        async def work() -> None:
            await sleep(0.01 * self.dice.random())

        for _ in range(self.dice.randrange(10)):
            work.__name__ = self.stage.new_name("worker")
            self.scheduler.background(**TIMEOUTS)(work)
            task = self.scheduler.registry.get_by_name(work.__name__).task_id
            if self.dice.random() < 0.5:
                await self.scheduler.wait_stopped(task)
            await self.scheduler.remove_task(task)

    async def restart_somebody(self) -> None:
        """Restart any task of the cast by hand, whatever it is doing, or others with it."""
        await self.scheduler.restart_task(self.dice.choice(self.stage.cast))

    async def call_a_guest_back(self) -> None:
        """Stop a guest and restart it: its subscription is a new one."""
        if not self.guests:
            return
        task, _ = self.dice.choice(self.guests)
        await self.end_the_account(task)
        if not self.stage.stopping:
            self.books.open(task)
            await self.scheduler.restart_task(task)

    async def listen_for_a_while(self) -> None:
        """Subscribe, listen with clones and newcomers, and go."""
        topic = self.dice.choice(TOPICS)
        with self.scheduler.subscribe(topic) as receiver:
            await self.receive_some(receiver)
            with receiver.clone() as clone, receiver.resubscribe() as newcomer:
                await self.receive_some(clone)
                await self.receive_some(newcomer)
                await self.receive_some(receiver)

    async def receive_some(self, receiver: BroadcastReceiveStream[Parcel]) -> None:
        with move_on_after(0.02):
            for _ in range(self.dice.randrange(5)):
                try:
                    await receiver.receive_many(self.dice.randrange(1, 50))
                    await receiver.receive()
                except LaggedError:
                    continue

    async def wait_for_a_parcel(self) -> None:
        digit = self.dice.randrange(10)
        topic = self.dice.choice(TOPICS)
        with move_on_after(0.1):
            try:
                parcel = await self.bus.wait_for(topic, lambda one: one.number % 10 == digit)
            except LaggedError:
                return
            assert parcel.number % 10 == digit

    async def stream_without_a_bus(self) -> None:
        """Send some numbers to two receivers, and compare what they got."""
        send, receive = create_broadcast_stream[int](capacity=8, overflow="block")
        got: list[list[int]] = []

        async def collect(receiver: BroadcastReceiveStream[int]) -> None:
            with receiver:
                got.append([number async for number in receiver])

        async with anyio.create_task_group() as group:
            with send, receive:
                group.start_soon(collect, receive.clone())
                group.start_soon(collect, receive.clone())
                receive.close()
                for number in range(50):
                    await send.send(number)
        if got != [list(range(50))] * 2:
            self.books.find("a stream that blocks did not carry all", str(got))
