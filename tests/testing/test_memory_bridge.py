"""The stand-in for a bridge: schedulers of one test, as if they were processes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from socket import socket
from typing import Any, Literal, cast

import anyio
import pytest
from anyio import CancelScope, create_task_group, fail_after, sleep
from pydantic import BaseModel, ValidationError

from orchestrio import (
    ChannelConfig,
    EventSendError,
    InvalidChannelError,
    LifecycleError,
    RestartPolicy,
    Scheduler,
    TaskInitializationError,
    Topic,
)
from orchestrio.testing import Harness, MemoryBridge, MemoryServer, harness, virtual_time


class Order(BaseModel):
    number: int


ORDERS = Topic("orders", Order)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    return virtual_time(request.param)


class Process:
    """A scheduler with a bridge and a handler."""

    def __init__(
        self, server: MemoryServer, mode: Literal["broadcast", "compete"] = "broadcast"
    ) -> None:
        self.handled: list[int] = []
        self.fails = False
        self.takes = 0.0
        self.scheduler = Scheduler()
        self.scheduler.add_channel(ORDERS, ChannelConfig(capacity=8))
        bridge = MemoryBridge(server, topics=[ORDERS], mode=mode, max_deliveries=3)
        self.scheduler.register_background_task(bridge)
        self.scheduler.on(ORDERS, on_error="skip")(self.handle)

    async def handle(self, order: Order) -> None:
        await sleep(self.takes)
        if self.fails:
            raise RuntimeError("it fails")
        self.handled.append(order.number)


@asynccontextmanager
async def running(*processes: Process) -> AsyncGenerator[list[Harness]]:
    if not processes:
        yield []
        return
    first, *others = processes
    async with harness(first.scheduler) as h, running(*others) as rest:
        yield [h, *rest]


async def test_every_process_gets_every_message_in_one_order() -> None:
    server = MemoryServer()
    here, there = Process(server), Process(server)
    async with running(here, there) as (one, other):
        for number in range(4):
            await (one if number % 2 else other).publish(ORDERS, Order(number=number))
            await sleep(1)
        await one.idle()
        await other.idle()
    assert here.handled == there.handled == [0, 1, 2, 3]


async def test_each_message_is_handled_in_one_process_when_they_compete() -> None:
    server = MemoryServer()
    here, there = Process(server, "compete"), Process(server, "compete")
    here.takes = there.takes = 1.0
    async with running(here, there) as (one, _):
        for number in range(6):
            await one.publish(ORDERS, Order(number=number))
        await sleep(60)
    assert sorted(here.handled + there.handled) == list(range(6))
    assert here.handled
    assert there.handled
    server.close()


async def test_a_recorder_sees_what_is_handled_here_and_a_subscriber_is_refused() -> None:
    server = MemoryServer()
    process = Process(server, "compete")
    async with running(process) as (one,):
        received = one.record(ORDERS)
        with pytest.raises(LifecycleError, match="event task"):
            one.scheduler.subscribe(ORDERS)
        await one.publish(ORDERS, Order(number=1))
        assert await received.wait_for(1) == [Order(number=1)]
    server.close()


async def test_a_bridge_needs_no_sign_of_life() -> None:
    """A watchdog of all tasks means those that the user has written."""
    scheduler = Scheduler(defaults={"watchdog": 1.0})
    scheduler.add_channel(ORDERS)
    task_id = scheduler.register_background_task(MemoryBridge(MemoryServer(), topics=[ORDERS]))
    async with scheduler:
        await scheduler.start()
        await sleep(10)
        assert scheduler.status(task_id).state == "running"


async def test_a_bridge_is_too_late_for_handlers_that_work() -> None:
    server = MemoryServer()
    scheduler = Scheduler()
    scheduler.add_channel(ORDERS)
    handled: list[int] = []

    @scheduler.on(ORDERS)
    async def handle(order: Order) -> None:
        handled.append(order.number)

    with pytest.raises(TaskInitializationError, match=r"MemoryBridge") as raised:
        async with scheduler:
            await scheduler.start()
            await sleep(1)
            scheduler.register_background_task(
                MemoryBridge(server, topics=[ORDERS], mode="compete")
            )
            await sleep(1)
    server.close()
    assert "handler of it works already" in str(raised.value.__cause__)


async def test_a_message_whose_handler_failed_goes_to_another_process() -> None:
    server = MemoryServer()
    bad, good = Process(server, "compete"), Process(server, "compete")
    bad.fails = True
    async with running(bad, good) as (one, _):
        for number in range(6):
            await one.publish(ORDERS, Order(number=number))
            await sleep(1)
        await sleep(60)
    assert not bad.handled
    assert sorted(good.handled) + [
        Order.model_validate_json(data).number for _, data in server.dead_letters
    ] == list(range(6))
    server.close()


async def test_what_no_process_can_handle_is_a_dead_letter() -> None:
    server = MemoryServer()
    process = Process(server, "compete")
    process.fails = True
    async with running(process) as (one,):
        await one.publish(ORDERS, Order(number=7))
        await sleep(60)
        assert one.task("handle").failed == 3
    assert server.dead_letters == [("orders", b'{"number":7}')]
    server.close()


async def test_a_group_that_comes_later_begins_with_what_others_have_not_handled() -> None:
    server = MemoryServer()

    def of(group: str) -> Scheduler:
        bridge = MemoryBridge(
            server, topics=[ORDERS], mode="compete", group=group, max_deliveries=1
        )
        return lonely(bridge)

    handled: list[int] = []
    first, later = of("first"), of("later")

    @first.on(ORDERS, on_error="skip")
    async def handle(order: Order) -> None:
        if order.number == 2:
            raise RuntimeError("it fails")
        await sleep(1 if order.number < 3 else 1000)

    @later.on(ORDERS)
    async def keep(order: Order) -> None:
        handled.append(order.number)

    async with harness(first) as here:
        for number in range(1, 6):  # handled; a dead letter; in hand; and two that wait
            await here.publish(ORDERS, Order(number=number))
        await sleep(60)
        async with harness(later):
            await sleep(1)
            await here.publish(ORDERS, Order(number=6))
            await sleep(1)
            assert server.dead_letters == [("orders", b'{"number":2}')]
            await here.scheduler.stop_task(here.task("handle").task_id)
    server.close()
    assert handled == [3, 4, 5, 6]


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("finishes", [True, False])
async def test_what_a_stop_finds_in_hand_is_settled_when_its_handler_returns(
    concurrency: int, finishes: bool
) -> None:
    server = MemoryServer()
    here, there = Process(server, "compete"), Process(server, "compete")
    handled: list[int] = []

    @here.scheduler.on(ORDERS, name="slow", concurrency=concurrency, stop_timeout=5)
    async def slow(order: Order) -> None:
        if order.number == 0:
            await sleep(0.1)  # the other worker has one in hand by then
            await here.scheduler.stop_task(task)
        await sleep(1 if finishes else 50)
        handled.append(order.number)

    numbers = list(range(concurrency + 1))  # one that waits in the channel, too
    async with running(here) as (one,):
        task = one.task("slow").task_id
        await one.scheduler.stop_task(one.task("handle").task_id)
        for number in numbers:
            one.scheduler.bus.publish_nowait(ORDERS, Order(number=number))
        await sleep(4)
        async with running(there):
            await sleep(100)
    server.close()
    assert sorted(handled + there.handled) == numbers, "each is handled once"
    assert sorted(there.handled) == ([concurrency] if finishes else numbers)


async def test_what_a_handler_that_was_given_up_has_in_hand_goes_to_another_process() -> None:
    server = MemoryServer()
    here, there = Process(server, "compete"), Process(server, "compete")

    @here.scheduler.on(ORDERS, name="stuck", stop_timeout=5)
    async def stuck(order: Order) -> None:
        await here.scheduler.stop_task(task)
        with CancelScope(shield=True):
            await sleep(1000)

    async with running(there):
        there.takes = 1
        async with running(here) as (one,):
            task = one.task("stuck").task_id
            await one.scheduler.stop_task(one.task("handle").task_id)
            await there.scheduler.stop_task(there.scheduler.status()[1].task_id)
            await one.publish(ORDERS, Order(number=1))
            await sleep(1)
            await there.scheduler.restart_task(there.scheduler.status()[1].task_id)
            await sleep(20)
            assert there.handled == [1]
            await sleep(1000)
    server.close()


async def test_what_is_published_while_the_server_is_away_waits_for_it() -> None:
    server = MemoryServer()
    here, there = Process(server), Process(server)
    async with running(here, there) as (one, _):
        server.up = False
        await one.publish(ORDERS, Order(number=1))
        await sleep(60)
        assert not here.handled
        server.up = True
        await sleep(1)
        assert here.handled == there.handled == [1]


async def test_a_bridge_that_is_restarted_goes_on() -> None:
    server = MemoryServer()
    here, there = Process(server), Process(server)
    async with running(here, there) as (one, other):
        bridge = one.scheduler.registry.get_by_name("MemoryBridge").task_id
        await one.scheduler.restart_task(bridge)
        await one.publish(ORDERS, Order(number=1))
        await other.publish(ORDERS, Order(number=2))
        await sleep(1)
        assert here.handled == there.handled
        assert sorted(here.handled) == [1, 2]


async def test_what_does_not_go_through_json_is_refused_where_it_is_published() -> None:
    async with running(Process(MemoryServer())) as (one,):
        with pytest.raises(EventSendError, match="does not go through JSON"):
            await one.publish(ORDERS, cast("Order", "no order"))


async def test_what_was_published_last_is_sent_when_a_process_stops() -> None:
    server = MemoryServer()
    here, there = Process(server), Process(server)
    async with running(there):
        async with running(here) as (one,):
            await one.publish(ORDERS, Order(number=9))
        await anyio.lowlevel.checkpoint()
        await sleep(1)
        assert there.handled == [9]


async def test_a_delivery_cancelled_as_its_turn_comes_lets_the_next_one_go() -> None:
    scheduler = Scheduler()
    scheduler.add_channel(ORDERS, ChannelConfig(capacity=1, overflow="block"))
    bridge = MemoryBridge(MemoryServer(), topics=[ORDERS])
    scheduler.register_background_task(bridge)
    async with scheduler, create_task_group() as others:
        await scheduler.start()
        await sleep(1)
        others.start_soon(bridge.execute)  # a second one that delivers
        await sleep(1)
        with scheduler.subscribe(ORDERS) as slow:
            for number in range(3):  # one fits, each of the two waits with one
                await scheduler.publish(ORDERS, Order(number=number))
                await sleep(1)
            others.cancel_scope.cancel()
            assert slow.receive_nowait() == Order(number=0)  # the turn of one that is cancelled
            with CancelScope(shield=True), fail_after(60):
                assert await slow.receive() == Order(number=2)
                assert await slow.receive() == Order(number=1)  # it was given back


async def test_what_is_handled_during_a_drain_goes_out_at_once_and_nothing_comes_in() -> None:
    news = Topic("news", int)
    server = MemoryServer()
    heard: list[tuple[float, int]] = []
    begun: list[int] = []

    def process() -> Scheduler:
        scheduler = Scheduler()
        for topic in (ORDERS, news):
            scheduler.add_channel(topic)
        scheduler.register_background_task(MemoryBridge(server, topics=[ORDERS, news]))
        return scheduler

    here, there = process(), process()

    @here.on(ORDERS, drain_timeout=30)
    async def handle(order: Order) -> None:
        begun.append(order.number)
        await sleep(5)
        await here.publish(news, order.number)
        await sleep(5)

    @there.on(news)
    async def hear(number: int) -> None:
        heard.append((anyio.current_time(), number))

    async with harness(there) as other:
        async with harness(here):
            await other.publish(ORDERS, Order(number=1))
            await sleep(1)
            asked = anyio.current_time()
            async with create_task_group() as group:
                group.start_soon(here.shutdown)
                await sleep(1)
                await other.publish(ORDERS, Order(number=2))
        assert anyio.current_time() == pytest.approx(asked + 9)
        assert begun == [1]
        ((when, number),) = heard
        assert when == pytest.approx(asked + 4)
        assert number == 1


async def test_what_was_published_before_a_stop_is_handled_here_as_well() -> None:
    process = Process(MemoryServer())
    async with running(process) as (one,):
        for number in range(6):
            await one.publish(ORDERS, Order(number=number))
    assert process.handled == list(range(6))


# -- what `RedisBridge` refuses --------------------------------------------------------------


@pytest.mark.parametrize(
    ("topics", "why"),
    [
        ([Topic(7, int)], "its key is no text"),
        ([""], "its key is empty"),
        ([Topic("sockets", socket)], "Pydantic knows no JSON"),
        ([ORDERS, "orders"], "2 of the topics are called 'orders'"),
    ],
)
def test_a_topic_that_cannot_leave_the_process_is_refused(topics: list[str], why: str) -> None:
    with pytest.raises(InvalidChannelError, match=why):
        MemoryBridge(MemoryServer(), topics=topics)


@pytest.mark.parametrize(
    "options",
    [
        {"max_deliveries": 0},
        {"max_deliveries": 2.5},
        {"max_deliveries": True},
        {"group": ""},
        {"mode": "both"},
    ],
)
def test_an_option_that_is_not_valid_is_named(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=rf"(?s)MemoryBridge\(\).*{next(iter(options))}"):
        MemoryBridge(MemoryServer(), topics=[ORDERS], **options)


@pytest.mark.parametrize("topics", [[], "orders"])
def test_topics_are_a_list(topics: list[str]) -> None:
    with pytest.raises(ValueError, match="list of at least one topic"):
        MemoryBridge(MemoryServer(), topics=topics)


def lonely(bridge: MemoryBridge, *topics: Topic[Any]) -> Scheduler:
    """A scheduler with a bridge, and nobody who handles what it carries."""
    scheduler = Scheduler()
    for topic in topics or (ORDERS,):
        scheduler.add_channel(topic)
    scheduler.register_background_task(bridge)
    return scheduler


@pytest.mark.parametrize("mode", ["broadcast", "compete"])
async def test_what_is_of_another_type_is_a_dead_letter_and_others_go_on(
    mode: Literal["broadcast", "compete"], caplog: pytest.LogCaptureFixture
) -> None:
    server = MemoryServer()
    texts, numbers = Topic("values", str), Topic("values", int)
    received: list[int] = []
    here = lonely(MemoryBridge(server, topics=[texts], mode=mode), texts)
    others = [lonely(MemoryBridge(server, topics=[numbers], mode=mode), numbers) for _ in range(2)]
    for other in others:

        @other.on(numbers)
        async def handle(number: int) -> None:
            received.append(number)

    async with harness(here) as publisher, harness(others[0]), harness(others[1]):
        for text in ("no number", "5"):
            await publisher.publish(texts, text)
        await sleep(1)
    server.close()
    assert received == ([5, 5] if mode == "broadcast" else [5])
    assert server.dead_letters == [("values", b'"no number"')]
    assert "of topic 'values' cannot be read, and is a dead letter" in caplog.text


async def test_each_group_has_its_dead_letters() -> None:
    server = MemoryServer()
    texts, numbers = Topic("values", str), Topic("values", int)
    here = lonely(MemoryBridge(server, topics=[texts], mode="compete"), texts)
    groups: list[Scheduler] = []
    for group in ("one", "other"):
        bridge = MemoryBridge(server, topics=[numbers], mode="compete", group=group)
        groups.append(lonely(bridge, numbers))

        @groups[-1].on(numbers)
        async def handle(number: int) -> None:
            pass

    async with harness(here) as publisher, harness(groups[0]), harness(groups[1]):
        await publisher.publish(texts, "no number")
        await sleep(1)
    server.close()
    assert server.dead_letters == 2 * [("values", b'"no number"')]


async def test_a_topic_that_others_carry_in_another_mode_is_refused() -> None:
    with MemoryServer() as server:
        refused = lonely(MemoryBridge(server, topics=[ORDERS], mode="compete"))
        async with harness(lonely(MemoryBridge(server, topics=[ORDERS]))), refused:
            with pytest.raises(TaskInitializationError) as raised:
                await refused.start()
    cause = raised.value.__cause__
    assert isinstance(cause, InvalidChannelError)
    assert "'orders' is carried with mode=\"broadcast\" by others" in str(cause)


async def test_a_bridge_that_could_not_start_gives_its_channels_back() -> None:
    with MemoryServer() as server:
        other = Topic("other", int)
        bridge = MemoryBridge(server, topics=[other, ORDERS], mode="compete")
        async with harness(lonely(MemoryBridge(server, topics=[ORDERS]), ORDERS, other)) as h:
            temporary = RestartPolicy(mode="never")
            h.scheduler.register_background_task(bridge, name="late", restart=temporary)
            await sleep(1)
            assert "has a bridge already" in str(h.task("late").error)
            h.scheduler.bus.remove_channel(other)  # nothing carries it


async def test_a_bridge_that_has_worked_elsewhere_cannot_be_used_again() -> None:
    bridge = MemoryBridge(MemoryServer(), topics=[ORDERS])
    async with harness(lonely(bridge)):
        pass
    async with lonely(bridge) as other:
        with pytest.raises(TaskInitializationError, match="make a new MemoryBridge") as raised:
            await other.start()
    assert isinstance(raised.value.__cause__, LifecycleError)


async def test_a_bridge_that_was_removed_cannot_be_used_again() -> None:
    bridge = MemoryBridge(MemoryServer(), topics=[ORDERS])
    with pytest.raises(TaskInitializationError, match="make a new MemoryBridge"):
        async with lonely(bridge) as scheduler:
            await scheduler.start()
            await scheduler.remove_task(scheduler.registry.get_by_name("MemoryBridge").task_id)
            scheduler.register_background_task(bridge)
            await sleep(1)
