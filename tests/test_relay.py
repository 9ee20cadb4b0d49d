"""A bridge's end of a channel: what it holds, what it refuses, and how it gives the channel back."""

from __future__ import annotations

from functools import partial

import pytest
from anyio import (
    CancelScope,
    ClosedResourceError,
    EndOfStream,
    Event,
    WouldBlock,
    create_task_group,
    fail_after,
    to_thread,
)
from support import IN_TIME, NUMBERS, TroubleError, settle
from typing_extensions import override

from orchestrio import (
    ChannelConfig,
    EventBus,
    EventSendError,
    EventTask,
    LaggedError,
    LifecycleError,
    Overflow,
    RestartPolicy,
    Scheduler,
)
from orchestrio._broadcast.acknowledgements import Acknowledgements
from orchestrio._broadcast.bus import subscribe_until_closed
from orchestrio._broadcast.relay import Relay

OVERFLOWS: list[Overflow] = ["drop_oldest", "block", "drop_newest", "error"]


def same(number: int) -> int:
    return number


def nothing(*_: object) -> None:
    """Nobody wants to know."""


def taken_over(
    overflow: Overflow = "block", capacity: int = 2, *, keep: bool = False
) -> tuple[EventBus, Relay[int, int]]:
    bus = EventBus()
    bus.add_channel(NUMBERS, ChannelConfig(capacity=capacity, overflow=overflow))
    return bus, Relay[int, int](bus, NUMBERS, same, keep=keep)


def compete(relay: Relay[int, int]) -> Acknowledgements:
    acknowledgements = Acknowledgements(nothing, nothing, nothing)
    relay.acknowledge(acknowledgements, lossless=True)
    return acknowledgements


# -- what it holds ---------------------------------------------------------------------------


@pytest.mark.parametrize("overflow", OVERFLOWS)
async def test_what_is_kept_on_its_way_out_is_not_overwritten(overflow: Overflow) -> None:
    bus, relay = taken_over(overflow, keep=True)
    for number in range(2):
        assert bus.publish_nowait(NUMBERS, number) == 1
    with pytest.raises(WouldBlock):
        bus.publish_nowait(NUMBERS, 2)
    with bus.clone_sender(NUMBERS) as sender, pytest.raises(WouldBlock):
        sender.send_many_nowait([2, 3])
    async with create_task_group() as group:
        for number in range(2, 4):
            group.start_soon(bus.publish, NUMBERS, number)
            await settle()
        assert relay.outgoing.take(10) == [0, 1]
        await settle()
        assert relay.outgoing.take(10) == [2, 3]
    assert bus.statistics()[NUMBERS].dropped == 0


# -- who may read what is acknowledged -------------------------------------------------------


async def test_nobody_subscribes_to_what_event_tasks_acknowledge() -> None:
    bus, relay = taken_over()
    compete(relay)
    with bus.clone_sender(NUMBERS) as sender:
        for subscribe in (partial(bus.subscribe, NUMBERS), sender.subscribe):
            with pytest.raises(LifecycleError, match=r"(?s)numbers.*event task.*broadcast"):
                subscribe()
    with pytest.raises(LifecycleError, match="acknowledge nothing|acknowledge none"):
        await bus.wait_for(NUMBERS)
    relay.release()
    bus.subscribe(NUMBERS).close()


async def test_a_channel_with_a_subscriber_is_not_taken_over_to_be_acknowledged() -> None:
    bus, relay = taken_over()
    with bus.subscribe(NUMBERS) as stream:
        with pytest.raises(LifecycleError, match="somebody has subscribed"):
            compete(relay)
        await bus.publish(NUMBERS, 1)  # it is as it was
        assert stream.receive_nowait() == 1
    compete(Relay[int, int](bus, NUMBERS, same))


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_handlers_at_work_are_not_taken_over(concurrency: int) -> None:
    handled: list[int] = []
    scheduler = Scheduler()
    scheduler.add_channel(NUMBERS, ChannelConfig(capacity=4, overflow="block"))

    @scheduler.on(NUMBERS, concurrency=concurrency)
    async def keep(number: int) -> None:
        handled.append(number)

    async with scheduler:
        early = Relay[int, int](scheduler.bus, NUMBERS, same)
        compete(early)  # before they work
        early.release()
        task = scheduler.registry.get_by_name("keep").task_id
        await scheduler.start()
        await settle()
        with pytest.raises(LifecycleError, match="handler of it works already"):
            compete(Relay[int, int](scheduler.bus, NUMBERS, same))
        await scheduler.publish(NUMBERS, 1)  # it is as it was
        await settle()
        assert handled == [1]
        await scheduler.stop_task(task)
        relay = Relay[int, int](scheduler.bus, NUMBERS, same)
        acknowledgements = compete(relay)
        await scheduler.restart_task(task)
        await settle()
        assert len(acknowledgements.readers) == 1


class Restarted(EventTask[int]):
    """Fails once, and waits in the `initialize` that follows."""

    subscribed_event = NUMBERS

    def __init__(self) -> None:
        self.again = Event()
        self.go = Event()

    @override
    async def initialize(self) -> None:
        if self.again.is_set():
            await self.go.wait()

    @override
    async def handle_event(self, event: int, /) -> None:
        if not self.again.is_set():
            self.again.set()
            raise TroubleError


async def test_a_task_that_acknowledged_does_so_for_the_next_bridge() -> None:
    settled: list[tuple[int, BaseException | None]] = []
    scheduler = Scheduler()
    scheduler.add_channel(NUMBERS, ChannelConfig(capacity=4, overflow="block"))
    task = Restarted()
    at_once = RestartPolicy(initial_delay=0)
    scheduler.register_event_task(task, restart=at_once)
    async with scheduler:
        first = Relay[int, int](scheduler.bus, NUMBERS, same)
        compete(first)
        await scheduler.start()
        await settle()
        first.release()
        await scheduler.publish(NUMBERS, 1)
        with fail_after(IN_TIME):
            await task.again.wait()
        await settle()
        second = Relay[int, int](scheduler.bus, NUMBERS, same)
        acknowledgements = Acknowledgements(
            nothing, lambda number, error: settled.append((number, error)), nothing
        )
        second.acknowledge(acknowledgements, lossless=True)
        task.go.set()
        with fail_after(IN_TIME):
            while not acknowledgements.readers:
                await settle(1)
        number = await second.deliver(7)
        assert number is not None
        acknowledgements.expect(number)
        await settle()
        assert settled == [(1, None)]


# -- giving it back --------------------------------------------------------------------------


async def test_a_channel_that_is_given_back_is_as_it_was() -> None:
    bus, relay = taken_over("drop_oldest")
    before = bus.statistics()[NUMBERS].senders
    compete(relay)
    relay.release()
    relay.release()
    assert bus.statistics()[NUMBERS].senders == before - 1
    with bus.subscribe(NUMBERS) as stream:
        for number in range(3):
            assert await bus.publish(NUMBERS, number) == 1
        with pytest.raises(LaggedError) as lag:
            stream.receive_nowait()
        assert lag.value.missed == 1
        assert await stream.receive() == 1
        stats = bus.statistics()[NUMBERS]
        assert (stats.receivers, stats.missed, stats.sent) == (1, 1, 3)
        again = Relay[int, int](bus, NUMBERS, same)
        await bus.publish(NUMBERS, 9)
        assert again.outgoing.take(1) == [9]
        relay.release()  # which is over, and touches nothing
        await bus.publish(NUMBERS, 10)
        assert again.outgoing.take(1) == [10]


async def test_receivers_end_with_the_last_sender_after_a_bridge_was_there() -> None:
    bus, relay = taken_over()
    with bus.subscribe(NUMBERS) as stream:
        relay.release()
        await bus.publish(NUMBERS, 1)
        bus.remove_channel(NUMBERS)
        assert await stream.receive() == 1
        with pytest.raises(EndOfStream):
            await stream.receive()


async def test_the_bridge_reads_the_rest_of_what_it_was_given() -> None:
    bus, relay = taken_over()
    await bus.publish(NUMBERS, 1)
    relay.release()
    await bus.publish(NUMBERS, 2)
    assert relay.outgoing.take(10) == [1]
    with pytest.raises(EndOfStream):
        relay.outgoing.take(10)
    assert relay.close() == 0


async def test_what_the_bridge_does_not_read_is_counted() -> None:
    bus, relay = taken_over()
    await bus.publish(NUMBERS, 1)
    assert relay.close() == 1


@pytest.mark.parametrize("overflow", OVERFLOWS)
async def test_those_who_wait_for_room_go_on_without_the_bridge(overflow: Overflow) -> None:
    bus, relay = taken_over(overflow, capacity=4, keep=True)
    for number in range(4):
        await bus.publish(NUMBERS, number)
    cancelled = CancelScope()
    done = Event()

    async def give_up() -> None:
        with cancelled:
            await bus.publish(NUMBERS, 99)

    async def send_many() -> None:
        with bus.clone_sender(NUMBERS) as sender:
            await to_thread.run_sync(sender.send_many_from_thread, [6, 7])
        done.set()

    with bus.subscribe(NUMBERS) as stream:
        async with create_task_group() as group:
            group.start_soon(bus.publish, NUMBERS, 4)
            await settle()
            group.start_soon(give_up)
            await settle()
            group.start_soon(bus.publish, NUMBERS, 5)
            await settle()
            group.start_soon(send_many)
            await settle()
            cancelled.cancel()
            relay.release()
            with fail_after(IN_TIME):
                await done.wait()
        got = stream.receive_many_nowait(10)
        assert sorted(got) == [4, 5, 6, 7]
        assert relay.outgoing.take(10) == [0, 1, 2, 3]


async def test_a_delivery_that_waits_goes_on_when_the_channel_overwrites_again() -> None:
    bus, relay = taken_over("drop_oldest")
    with subscribe_until_closed(bus, NUMBERS):  # as an event task does
        compete(relay)
        for number in range(2):
            await relay.deliver(number)
        with fail_after(IN_TIME):
            async with create_task_group() as group:
                group.start_soon(relay.deliver, 2)
                await settle()
                assert bus.statistics()[NUMBERS].sent == 2
                relay.release()
        assert bus.statistics()[NUMBERS].sent == 3


async def test_those_who_wait_for_a_message_to_be_safe_are_told() -> None:
    bus, relay = taken_over("drop_oldest", keep=True)
    channel = relay.outgoing.channel

    async def wait_safe(number: int) -> None:
        while not relay.outgoing.closed:
            await channel.changed.wait()
        raise EventSendError(f"message {number} was not sent", NUMBERS)

    relay.confirm(wait_safe)
    errors: list[Exception] = []

    async def publish() -> None:
        try:
            await bus.publish(NUMBERS, 1)
        except EventSendError as error:
            errors.append(error)

    async def from_thread() -> None:
        with bus.clone_sender(NUMBERS) as sender:
            try:
                await to_thread.run_sync(sender.send_from_thread, 2)
            except EventSendError as error:
                errors.append(error)

    with fail_after(IN_TIME):
        async with create_task_group() as group:
            group.start_soon(publish)
            await settle()
            group.start_soon(from_thread)
            while len(relay.outgoing) < 2:
                await settle(1)
            assert relay.close() == 2
    assert len(errors) == 2
    assert await bus.publish(NUMBERS, 3) == 0  # nobody is there, and nothing holds it up


async def test_a_closed_bus_is_closed_for_a_bridge_that_leaves_later() -> None:
    bus, relay = taken_over()
    bus.close()
    relay.release()
    with pytest.raises(ClosedResourceError, match="numbers.* closed while a bridge carries it"):
        await relay.deliver(1)


@pytest.mark.parametrize("acknowledged", [False, True])
async def test_a_channel_is_not_removed_while_a_bridge_carries_it(acknowledged: bool) -> None:
    bus, relay = taken_over()
    if acknowledged:
        compete(relay)
    with pytest.raises(LifecycleError, match=r"numbers.* bridge carries it.*remove_task\(\)"):
        bus.remove_channel(NUMBERS)
    assert bus.publish_nowait(NUMBERS, 1) == 1  # it is as it was
    assert relay.outgoing.take(10) == [1]
    relay.release()
    bus.remove_channel(NUMBERS)
    bus.add_channel(NUMBERS)
