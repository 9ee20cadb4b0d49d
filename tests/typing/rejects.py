"""What a type checker must refuse: each line marked ``# error``, and no other. Never run."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

from orchestrio import (
    DEAD_LETTERS,
    BackgroundTask,
    BroadcastReceiveStream,
    BroadcastSendStream,
    ChannelConfig,
    EventBus,
    EventTask,
    RestartPolicy,
    Scheduler,
    TaskMetadata,
    Topic,
    create_broadcast_stream,
)
from orchestrio.redis import BridgeOptions, RedisBridge, TopicAdmin


@dataclass
class Order:
    number: int


class Channel(Enum):
    LOG = "log"


ORDERS = Topic("orders", Order)


def topics() -> None:
    ORDERS.key = "refunds"  # error
    Topic("orders", Order(1))  # error
    Topic(["orders"], Order)  # error
    Topic("orders", Order, True)  # error
    wrong: Topic[int] = Topic("orders", Order)  # error
    plain: Topic[Order] = Topic("orders")  # error
    narrow: Topic[int] = Topic("count", int | str)  # error
    Topic("count", 5)  # error
    Topic("lamp", ("on", "off"))  # error
    Topic[int]("count", str)  # error
    print(wrong, plain, narrow)


async def streams(rush: BroadcastSendStream[bool]) -> None:
    send, receive = create_broadcast_stream[Order](capacity=4)
    await send.send("words")  # error
    send.send_nowait("words")  # error
    send.send_many_nowait(["words"])  # error
    send.send_from_thread("words")  # error
    text: str = await receive.receive()  # error
    wider: BroadcastSendStream[int] = rush  # error
    create_broadcast_stream[Order](overflow="drop")  # error
    create_broadcast_stream[Order](capacity="4")  # error
    create_broadcast_stream[Order](size=4)  # error
    create_broadcast_stream[Order](4, "block")  # error
    print(text, wider)


async def bus() -> None:
    bus = EventBus()
    await bus.publish(ORDERS, "words")  # error
    bus.publish_nowait(ORDERS, "words")  # error
    bus.clone_sender(ORDERS).send_nowait("words")  # error
    await bus.wait_for(ORDERS, lambda order: order.nmber > 1)  # error
    bus.publish_nowait(Topic("numbers", int | float), "words")  # error
    bus.publish_nowait(Topic("lamp", Literal["on", "off"]), "dim")  # error
    numbers: BroadcastReceiveStream[int] = bus.subscribe(ORDERS)  # error
    text: str = await bus.wait_for(ORDERS)  # error
    bus.channels["log"] = ChannelConfig()  # error
    print(numbers, text)


async def plain_keys_carry_str() -> None:
    bus = EventBus()
    await bus.publish("log", 5)  # error
    bus.publish_nowait("log", Order(1))  # error
    bus.clone_sender("log").send_nowait(5)  # error
    numbers: BroadcastReceiveStream[int] = bus.subscribe("log")  # error
    bus.subscribe(["log"])  # error
    print(numbers)


async def narrowed_keys() -> None:
    scheduler = Scheduler[Channel]()
    scheduler.add_channel("log")  # error
    scheduler.subscribe("log")  # error
    scheduler.clone_sender(7)  # error
    await scheduler.publish("log", "words")  # error
    await scheduler.publish(Channel.LOG, 5)  # error
    scheduler.bus.add_channel("log")  # error


def settings(name: Any) -> None:  # of its type nothing is said: mypy's cache sorts the options
    ChannelConfig(overflow="drop")  # error
    ChannelConfig(capacityy=4)  # error
    TaskMetadata(on_error="ignore")  # error
    RestartPolicy(mode="sometimes")  # error
    RestartPolicy(max_restart=3)  # error
    TaskMetadata(name)  # error
    ChannelConfig().capacity = 5  # error
    TaskMetadata(name="clock").name = "watch"  # error


class Clock(BackgroundTask):
    async def execute(self) -> None: ...


class Collector(EventTask[Order]):
    @property
    def subscribed_event(self) -> Topic[Order]:
        return ORDERS

    async def handle_event(self, event: str) -> None: ...  # error


async def by_its_name(task: EventTask[Order]) -> None:
    await task.handle_event(event=Order(1))  # error


class Stray(EventTask[Order]):
    @property
    def subscribed_event(self) -> Topic[int]:
        return Topic("count", int)

    async def handle_event(self, event: Order) -> None: ...


class StrayToo(EventTask[Order]):
    subscribed_event = Topic("count", int)

    async def handle_event(self, event: Order) -> None: ...


class Direct(EventTask[Order]):
    subscribed_event = ORDERS

    async def handle_event(self, event: str) -> None: ...  # error


class Silent(EventTask[Order]):
    async def handle_event(self, event: Order) -> None: ...


class Unfinished(BackgroundTask):
    pass


def tasks() -> None:
    scheduler = Scheduler()
    Unfinished()  # error
    scheduler.register_background_task(Clock(), nmae="clock")  # error
    scheduler.register_background_task(Clock(), stop_timeout="2")  # error
    scheduler.register_background_task(Clock(), concurrency=2)  # error
    scheduler.register_background_task(Clock(), on_error="skip")  # error
    scheduler.background(retries=3)  # error
    scheduler.background(attempt_timeout=3)  # error
    scheduler.on(ORDERS, print)  # error
    scheduler.register_background_task(Clock(), on_error="ignore")  # error
    scheduler.register_background_task(Collector())  # error
    scheduler.register_event_task(Clock())  # error
    scheduler.register_event_task(Stray())  # error
    scheduler.register_event_task(StrayToo())  # error
    scheduler.register_event_task(Silent())  # error
    scheduler.register_event_task(EventTask[Order])  # error
    scheduler.register_background_task(Clock(), stop_timeout="5s")  # error
    scheduler.status("clock")  # error


def bridges() -> None:
    RedisBridge("redis://localhost", topics=[ORDERS])  # error
    RedisBridge("redis://localhost", topics=[ORDERS], namespace="shop", leese=5)  # error
    RedisBridge("redis://localhost", topics=[ORDERS], namespace="shop", mode="both")  # error
    RedisBridge("redis://localhost", topics=[ORDERS], namespace="shop", lease="5")  # error
    RedisBridge("redis://localhost", [ORDERS], namespace="shop")  # error
    BridgeOptions(prefetched=5)  # error
    TopicAdmin("redis://localhost", "log")  # error
    TopicAdmin("redis://localhost", "log", namespace="shop").requeue(["1-1"])  # error


def decorators() -> None:
    scheduler = Scheduler()

    @scheduler.on(ORDERS)  # error
    async def handle_words(event: str) -> None: ...

    @scheduler.on("log")  # error
    async def handle_number(event: int) -> None: ...

    @scheduler.on(ORDERS)  # error
    def handle_at_once(event: Order) -> None: ...

    @scheduler.background()  # error
    async def needs_something(event: str) -> None: ...

    @scheduler.background  # error
    async def needs_it_too(event: str) -> None: ...

    @scheduler.background  # error
    def works_at_once() -> None: ...

    @scheduler.every  # error
    async def how_often() -> None: ...

    @scheduler.on(ORDERS, nmae="handler")  # error
    async def handle(event: Order) -> None: ...


def defaults() -> None:
    Scheduler(defaults={"on_eror": "skip"})  # error
    Scheduler(defaults={"on_error": "ignore"})  # error
    Scheduler(defaults={"name": "all"})  # error
    Scheduler().group("jobs", defaults={"depends_on": ["storage"]})  # error
    Scheduler().group("jobs", defaults=TaskMetadata(retries=3))  # error


def supervision() -> None:
    scheduler = Scheduler(strategy="all")  # error
    scheduler.group("storage", strategy="one_for_two")  # error
    scheduler.every(5, fixed="interval")  # error
    scheduler.every("5s")  # error

    @scheduler.on(DEAD_LETTERS)  # error
    async def bury(letter: str) -> None: ...

    @scheduler.every(5)  # error
    async def tick(number: int) -> None: ...
