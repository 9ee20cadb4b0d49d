"""What a type checker must accept, with the types it must find. Checked, never run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Hashable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, assert_type, cast

from anyio.abc import ObjectReceiveStream, ObjectSendStream
from pydantic import Field
from typing_extensions import Unpack

from orchestrio import (
    DEAD_LETTERS,
    TASK_EVENTS,
    BackgroundTask,
    BroadcastReceiveStream,
    BroadcastSendStream,
    ChannelConfig,
    ChannelStatistics,
    DeadLetter,
    EventBus,
    EventTask,
    Group,
    HealthReport,
    Message,
    ProbeReport,
    RegisteredTask,
    RestartPolicy,
    RestartScheduled,
    Scheduler,
    Subscriber,
    Task,
    TaskContext,
    TaskDefaults,
    TaskEvent,
    TaskId,
    TaskMetadata,
    TaskRegistry,
    TaskSnapshot,
    Topic,
    create_broadcast_stream,
    current_task_context,
)
from orchestrio.redis import (
    BridgeOptions,
    BuriedMessage,
    ConsumerGroup,
    DeadLetterReport,
    RedisBridge,
    RedisSettings,
    TopicAdmin,
)


@dataclass
class Order:
    number: int


class Rush(Order):
    pass


class Channel(Enum):
    LOG = "log"


Lines: TypeAlias = list[str]

ORDERS = Topic("orders", Order)
NUMBERS = Topic("numbers", int | float)
LOG = Topic("log")


def topics() -> None:
    assert_type(ORDERS, Topic[Order])
    assert_type(LOG, Topic[str])
    assert_type(Topic[int]("count", int, validate=True), Topic[int])
    assert_type(ORDERS.validate, bool)
    assert_type(Topic("any", Order | int), Topic[Order | int])
    assert_type(Topic("lamp", Literal["on", "off"]), Topic[Literal["on", "off"]])
    assert_type(Topic("row", list[int] | None), Topic[list[int] | None])
    assert_type(Topic("share", Annotated[float, Field(ge=0, le=1)], validate=True), Topic[float])
    assert_type(Topic("text", Lines | str, validate=True), Topic[list[str] | str])
    assert_type(Topic("tick", None), Topic[None])
    assert_type(Topic("any", cast("type[Order | int]", Order | int)), Topic[Order | int])
    prices: dict[Topic[Order], int] = {ORDERS: 1}
    assert_type(prices[ORDERS], int)


async def streams() -> None:
    send, receive = create_broadcast_stream[Order](capacity=4, overflow="block", replay=1)
    assert_type(send, BroadcastSendStream[Order])
    assert_type(receive, BroadcastReceiveStream[Order])
    sink: ObjectSendStream[Order] = send
    source: ObjectReceiveStream[Order] = receive
    await sink.send(Order(1))
    assert_type(await source.receive(), Order)
    send.send_nowait(Rush(2))
    send.send_many_nowait([Order(1), Rush(2)])
    send.send_from_thread(Order(3))
    assert_type(send.clone(), BroadcastSendStream[Order])
    assert_type(send.subscribe(), BroadcastReceiveStream[Order])
    assert_type(receive.clone(), BroadcastReceiveStream[Order])
    assert_type(receive.resubscribe(), BroadcastReceiveStream[Order])
    assert_type(receive.receive_nowait(), Order)
    assert_type(await receive.receive_many(3), list[Order])
    assert_type(send.statistics(), ChannelStatistics)
    assert_type(len(receive), int)
    with send as entered, receive:
        assert_type(entered, BroadcastSendStream[Order])
    async with receive as entered_too:
        assert_type(entered_too, BroadcastReceiveStream[Order])
    async for item in receive:
        assert_type(item, Order)


async def reads_any_order(stream: BroadcastReceiveStream[Rush]) -> BroadcastReceiveStream[Order]:
    return stream  # a receiver is covariant


async def bus() -> None:
    bus = EventBus()
    assert_type(bus, EventBus[Hashable])
    bus.add_channel(ORDERS, ChannelConfig(capacity=4))
    assert_type(bus.channels, Mapping[object, ChannelConfig])
    assert_type(bus.subscribe(ORDERS), BroadcastReceiveStream[Order])
    assert_type(bus.clone_sender(ORDERS), BroadcastSendStream[Order])
    assert_type(await bus.publish(ORDERS, Order(1)), int)
    assert_type(bus.publish_nowait(ORDERS, Rush(1)), int)
    assert_type(await bus.wait_for(ORDERS), Order)
    assert_type(await bus.wait_for(ORDERS, lambda order: order.number > 1), Order)
    async for order in bus.subscribe(ORDERS):
        assert_type(order.number, int)
    bus.remove_channel(ORDERS)


async def plain_keys_carry_str() -> None:
    bus = EventBus()
    bus.add_channel("log")
    bus.add_channel(("log", 7))
    bus.add_channel(Channel.LOG)
    assert_type(bus.subscribe("log"), BroadcastReceiveStream[str])
    assert_type(bus.clone_sender(("log", 7)), BroadcastSendStream[str])
    assert_type(await bus.publish(Channel.LOG, "words"), int)
    assert_type(await bus.wait_for("log", lambda text: text.startswith("x")), str)
    assert_type(bus.subscribe(LOG), BroadcastReceiveStream[str])


async def narrowed_keys() -> None:
    scheduler = Scheduler[Channel]()
    assert_type(scheduler.bus, EventBus[Channel])
    assert_type(scheduler.registry, TaskRegistry[Channel])
    scheduler.add_channel(Channel.LOG)
    assert_type(scheduler.subscribe(Channel.LOG), BroadcastReceiveStream[str])
    assert_type(scheduler.clone_sender(Channel.LOG), BroadcastSendStream[str])
    assert_type(await scheduler.publish(Channel.LOG, "words"), int)
    assert_type(scheduler.subscribe(ORDERS), BroadcastReceiveStream[Order])


class Clock(BackgroundTask):
    def __init__(self, sender: BroadcastSendStream[Order]) -> None:
        self.sender = sender

    async def execute(self) -> None:
        self.sender.send_nowait(Order(1))


class Collector(EventTask[Order]):
    @property
    def subscribed_event(self) -> Topic[Order]:
        return ORDERS

    async def handle_event(self, event: Order) -> None:
        assert_type(event.number, int)


class Direct(EventTask[Order]):
    """What is the same for all of them is an attribute of the class."""

    subscribed_event = ORDERS

    async def handle_event(self, event: Order) -> None:
        assert_type(event.number, int)


class Declared(EventTask[int | float]):
    subscribed_event: Topic[int | float] = NUMBERS

    async def handle_event(self, event: float) -> None: ...


class Chosen(EventTask[Order]):
    """What differs is an attribute, or a property."""

    def __init__(self, event: Topic[Order]) -> None:
        self._event = event

    @property
    def subscribed_event(self) -> Topic[Order]:
        return self._event

    async def handle_event(self, event: Order) -> None: ...


class Calmer(Direct):
    """And what one says may be said anew in either way."""

    subscribed_event = Topic("calm orders", Order)


class Plain(EventTask):
    subscribed_event = "log"

    async def handle_event(self, word: str) -> None:
        assert_type(word, str)


class Reader(EventTask):
    """An event task without a type parameter handles `str`."""

    @property
    def subscribed_event(self) -> str:
        return "log"

    async def handle_event(self, word: str) -> None:  # whatever it calls its message
        assert_type(word, str)


def add(scheduler: Scheduler, task: Subscriber[Order]) -> TaskId:
    """What passes event tasks on asks for what registering them does."""
    return scheduler.register_event_task(task, name="added")


async def unions() -> None:
    bus = EventBus()
    await bus.publish(NUMBERS, 1)
    await bus.publish(NUMBERS, 1.5)
    assert_type(await bus.wait_for(NUMBERS), int | float)
    bus.publish_nowait(Topic("lamp", Literal["on", "off"]), "on")
    bus.publish_nowait(Topic("row", list[int] | None), None)


async def tasks() -> None:
    async with Scheduler() as scheduler:
        assert_type(scheduler, Scheduler[Hashable])
        clock = scheduler.register_background_task(
            Clock(scheduler.clone_sender(ORDERS)),
            name="clock",
            description="ticks",
            tags=["time"],
            restart=RestartPolicy(),
            depends_on=("quartz",),
            on_error="stop",
            start_timeout=1,
            stop_timeout=timedelta(seconds=2.5),
            drain_timeout=3,
            shutdown_timeout=4,
        )
        assert_type(clock, TaskId)
        assert_type(scheduler.register_event_task(Collector(), TaskMetadata(name="c")), TaskId)
        assert_type(scheduler.register_event_task(Reader()), TaskId)
        assert_type(scheduler.register_event_task(Direct()), TaskId)
        assert_type(scheduler.register_event_task(Declared()), TaskId)
        assert_type(scheduler.register_event_task(Chosen(ORDERS)), TaskId)
        assert_type(scheduler.register_event_task(Calmer()), TaskId)
        assert_type(scheduler.register_event_task(Plain()), TaskId)
        add(scheduler, Direct())
        add(scheduler, Collector())
        await scheduler.start()
        assert_type(scheduler.status(), list[TaskSnapshot])
        assert_type(scheduler.status(clock), TaskSnapshot)
        assert_type(await scheduler.wait_stopped(clock), TaskSnapshot)
        for entry in scheduler.registry:
            assert_type(entry, RegisteredTask)
        assert_type(await scheduler.shutdown(), None)


def of_the_shop(*topics: Topic[Any], **options: Unpack[BridgeOptions]) -> RedisBridge:
    return RedisBridge(RedisSettings(), topics=topics, namespace="shop", **options)


def bridges() -> None:
    assert_type(of_the_shop(ORDERS, mode="compete", group="stock", claim_after=5), RedisBridge)
    assert_type(
        of_the_shop(ORDERS, LOG, outbox="outbox.db", lease=timedelta(seconds=2)), RedisBridge
    )
    assert_type(of_the_shop(outbox=Path("outbox.db"), max_bytes=1_000), RedisBridge)
    RedisBridge("redis://localhost", topics=["log", ORDERS], namespace="shop", prefetch=8)


async def dead_letters() -> None:
    orders = TopicAdmin(RedisSettings(), ORDERS, namespace="shop")
    report = await TopicAdmin("redis://localhost", "log", namespace="shop").dead_letters(limit=5)
    assert_type(report, DeadLetterReport)
    for letter in report.letters:
        assert_type(await orders.dead_letter(letter.id), BuriedMessage | None)
    outcome = await orders.requeue(*(letter.id for letter in report.letters), every_group=True)
    assert_type(outcome.refused, Mapping[str, str])
    assert_type(await orders.groups(alive_within=timedelta(minutes=5)), list[ConsumerGroup])


def decorators() -> None:
    scheduler = Scheduler()

    @scheduler.background(name="clock", on_error="stop")
    async def tick() -> None: ...

    @scheduler.on(ORDERS, concurrency=4)
    async def ship(order: Order) -> None: ...

    @scheduler.on(Topic("rush", Rush))
    async def ship_any(order: Order) -> None: ...  # takes more than it is given

    @scheduler.on("log")
    async def note(text: str) -> int:
        return len(text)

    @scheduler.background
    async def bare() -> int:
        return 1

    @scheduler.every(timedelta(minutes=5))
    async def tidy() -> None: ...

    work: Callable[[], Coroutine[Any, Any, int]] = bare
    print(tidy, work)

    both: list[Task] = [Collector(), Reader()]
    assert_type(both[0].default_name, str)
    clock: Callable[[], Awaitable[None]] = tick
    handle: Callable[[Order], Awaitable[object]] = ship
    write: Callable[[str], Awaitable[object]] = note
    print(clock, handle, write)


def defaults() -> None:
    calm: TaskDefaults = {"on_error": "skip", "retries": 3, "stop_timeout": timedelta(seconds=5)}
    scheduler = Scheduler(defaults=calm)
    assert_type(scheduler.group("jobs", defaults={**calm, "on_error": None}), Group[Hashable])
    RestartPolicy(mode="always", within=timedelta(hours=1), max_delay=5)
    assert_type(TaskMetadata(name=None, watchdog=timedelta(seconds=5)).watchdog, float)
    scheduler.group("more", defaults={"restart": RestartPolicy(), "tags": ["more"]})


def supervision() -> None:
    scheduler = Scheduler(strategy="rest_for_one", random=lambda: 0.5)
    storage = scheduler.group("storage", strategy="one_for_all", restart=RestartPolicy())
    assert_type(storage, Group[Hashable])
    assert_type(storage.group("inner"), Group[Hashable])
    assert_type(Scheduler[Channel]().group("typed"), Group[Channel])
    assert_type(scheduler.subscribe(TASK_EVENTS), BroadcastReceiveStream[TaskEvent])
    assert_type(scheduler.health(), HealthReport)
    assert_type(scheduler.probe(), ProbeReport)
    assert_type(current_task_context(), TaskContext)
    assert_type(current_task_context().message, Message)

    @storage.every(5, fixed="delay", attempt_timeout=1, retries=3)
    async def tidy() -> None: ...

    @storage.on(DEAD_LETTERS)
    async def bury(letter: DeadLetter) -> None:
        assert_type(letter.error, Exception)

    @storage.on(TASK_EVENTS)
    async def watch(event: TaskEvent) -> None:
        match event:
            case RestartScheduled(delay=delay):
                assert_type(delay, float)
            case _:
                pass

    clean: Callable[[], Awaitable[None]] = tidy
    print(clean, bury, watch)
