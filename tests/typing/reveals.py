"""What a type checker, and so an editor, shows of a name: the comment at each line. Never run."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import reveal_type

from orchestrio import (
    DEAD_LETTERS,
    TASK_EVENTS,
    EventBus,
    Scheduler,
    Topic,
    create_broadcast_stream,
)


@dataclass
class Order:
    number: int


class Channel(Enum):
    LOG = "log"


ORDERS = Topic("orders", Order)
scheduler = Scheduler()

reveal_type(ORDERS)  # Topic[Order]
reveal_type(Topic("both", Order | int))  # Topic[Order | int]
reveal_type(Topic("row", list[int] | None))  # Topic[list[int] | None]
reveal_type(Topic("log"))  # Topic[str]
reveal_type(Topic("count", int, validate=True))  # Topic[int]
reveal_type(Topic("names", list[str]))  # Topic[list[str]]
reveal_type(DEAD_LETTERS)  # Topic[DeadLetter]
reveal_type(TASK_EVENTS)  # Topic[TaskEvent]

reveal_type(scheduler)  # Scheduler[Hashable]
reveal_type(Scheduler[Channel]())  # Scheduler[Channel]
reveal_type(scheduler.bus)  # EventBus[Hashable]
reveal_type(EventBus[Channel]().channels)  # Mapping[object, ChannelConfig]
reveal_type(scheduler.subscribe(ORDERS))  # BroadcastReceiveStream[Order]
reveal_type(scheduler.subscribe("log"))  # BroadcastReceiveStream[str]
reveal_type(scheduler.clone_sender(ORDERS))  # BroadcastSendStream[Order]
reveal_type(create_broadcast_stream[int]()[1])  # BroadcastReceiveStream[int]


async def messages() -> None:
    with scheduler.subscribe(ORDERS) as orders:
        reveal_type(await orders.receive())  # Order
        reveal_type(orders.receive_many_nowait(10))  # list[Order]
        async for order in orders:
            reveal_type(order)  # Order
    reveal_type(await scheduler.bus.wait_for(ORDERS))  # Order


@scheduler.on(ORDERS, concurrency=4)
async def ship(order: Order) -> int:
    return order.number


@scheduler.every(5)
async def tidy() -> None: ...


reveal_type(ship)  # (Order) -> Coroutine[Any, Any, int]
reveal_type(tidy)  # () -> Coroutine[Any, Any, None]
