"""`EventBus`: a broadcast channel for each event, found by its key."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, cast

import pytest
from anyio import (
    TASK_STATUS_IGNORED,
    CancelScope,
    ClosedResourceError,
    EndOfStream,
    WouldBlock,
    create_task_group,
    fail_after,
)
from anyio.abc import TaskStatus
from anyio.lowlevel import checkpoint
from pydantic import BaseModel
from support import cancelled, settle

from orchestrio import (
    ChannelConfig,
    EventBus,
    EventReceiveError,
    EventSendError,
    InvalidChannelError,
    LaggedError,
    LifecycleError,
    Scheduler,
    SchedulerError,
    Topic,
)


class Order(BaseModel):
    number: int


class Channel(Enum):
    ORDERS = "orders"
    REFUNDS = "refunds"


ORDERS = Topic("orders", Order, validate=True)
COUNT = Topic("count", int)


@pytest.fixture
def bus() -> Iterator[EventBus]:
    bus = EventBus()
    yield bus
    bus.close()


# -- channels --------------------------------------------------------------------------------


def test_a_new_bus_has_no_channels(bus: EventBus) -> None:
    assert bus.channels == {}
    assert bus.statistics() == {}


def test_a_channel_has_the_default_settings_if_none_are_given(bus: EventBus) -> None:
    bus.add_channel("log")
    assert bus.channels == {"log": ChannelConfig()}


def test_the_channels_are_shown_with_their_settings_in_the_order_they_came(bus: EventBus) -> None:
    settings = {"b": ChannelConfig(capacity=1), "a": ChannelConfig(overflow="block")}
    for event, config in settings.items():
        bus.add_channel(event, config)
    assert list(bus.channels.items()) == list(settings.items())


def test_the_mapping_of_channels_is_live(bus: EventBus) -> None:
    channels = bus.channels
    bus.add_channel("log")
    assert "log" in channels
    bus.remove_channel("log")
    assert "log" not in channels


def test_the_mapping_of_channels_is_read_only(bus: EventBus) -> None:
    bus.add_channel("log")
    channels = cast("dict[object, ChannelConfig]", bus.channels)
    with pytest.raises(TypeError):
        channels["log"] = ChannelConfig(capacity=1)
    with pytest.raises(TypeError):
        del channels["log"]


def test_an_event_has_one_channel(bus: EventBus) -> None:
    bus.add_channel("log", ChannelConfig(capacity=2))
    with pytest.raises(InvalidChannelError, match="'log'") as raised:
        bus.add_channel("log", ChannelConfig(capacity=3))
    assert raised.value.event == "log"
    assert bus.channels["log"].capacity == 2


def test_a_topic_that_differs_only_in_validation_is_the_same_channel(bus: EventBus) -> None:
    bus.add_channel(ORDERS)
    with pytest.raises(InvalidChannelError):
        bus.add_channel(Topic("orders", Order))


def test_a_removed_channel_may_be_added_again(bus: EventBus) -> None:
    bus.add_channel("log", ChannelConfig(capacity=2))
    bus.remove_channel("log")
    bus.add_channel("log", ChannelConfig(capacity=3))
    assert bus.channels["log"].capacity == 3


def test_a_channel_added_again_has_nothing_of_the_old_one(bus: EventBus) -> None:
    bus.add_channel("log", ChannelConfig(replay=1))
    bus.publish_nowait("log", "old")
    bus.remove_channel("log")
    bus.add_channel("log", ChannelConfig(replay=1))
    with bus.subscribe("log") as receiver, pytest.raises(WouldBlock):
        receiver.receive_nowait()


async def test_a_removed_channel_lets_its_receivers_drain(bus: EventBus) -> None:
    bus.add_channel("log")
    with bus.subscribe("log") as receiver:
        bus.publish_nowait("log", "last words")
        bus.remove_channel("log")
        assert await receiver.receive() == "last words"
        with pytest.raises(EndOfStream):
            await receiver.receive()


async def test_a_removed_channel_ends_a_receiver_that_waits(bus: EventBus) -> None:
    bus.add_channel("log")
    seen: list[str] = []

    async def read() -> None:
        with bus.subscribe("log") as receiver:
            seen.extend([item async for item in receiver])
        seen.append("the end")

    async with create_task_group() as group:
        group.start_soon(read)
        await settle()
        bus.remove_channel("log")
    assert seen == ["the end"]


def test_a_removed_channel_takes_nothing_any_more_from_its_senders(bus: EventBus) -> None:
    bus.add_channel("log")
    with bus.clone_sender("log") as sender:
        bus.remove_channel("log")
        with pytest.raises(ClosedResourceError):
            sender.send_nowait("too late")


def test_removing_one_channel_leaves_the_others(bus: EventBus) -> None:
    for event in ("log", "clock"):
        bus.add_channel(event)
    with bus.subscribe("clock") as receiver:
        bus.remove_channel("log")
        bus.publish_nowait("clock", "tick")
        assert receiver.receive_nowait() == "tick"


async def test_removing_a_channel_frees_a_sender_that_waits_for_room(bus: EventBus) -> None:
    bus.add_channel("log", ChannelConfig(capacity=1, overflow="block"))
    refused: list[str] = []

    async def send(item: str) -> None:
        with bus.clone_sender("log") as sender:
            try:
                await sender.send(item)
            except ClosedResourceError:
                refused.append(item)

    async def publish(item: str) -> None:
        try:
            await bus.publish("log", item)
        except ClosedResourceError:
            refused.append(item)

    with bus.subscribe("log") as receiver:
        await bus.publish("log", "first")
        with fail_after(5):
            async with create_task_group() as group:
                group.start_soon(send, "sent")
                group.start_soon(publish, "published")
                await settle()
                assert bus.statistics()["log"].tasks_waiting_send == 2
                bus.remove_channel("log")
        assert sorted(refused) == ["published", "sent"]
        assert [item async for item in receiver] == ["first"]


# -- keys ------------------------------------------------------------------------------------


def test_keys_of_all_kinds_live_side_by_side(bus: EventBus) -> None:
    plain = ["orders", Channel.ORDERS, ("orders", 1), 7, frozenset({"orders"})]
    for key in plain:
        bus.add_channel(key)
    bus.add_channel(Topic("orders"))
    bus.add_channel(Topic("orders", int))
    readers = [bus.subscribe(key) for key in plain]
    with bus.subscribe(Topic("orders")) as words, bus.subscribe(Topic("orders", int)) as numbers:
        for index, key in enumerate(plain):
            assert bus.publish_nowait(key, f"item {index}") == 1
        bus.publish_nowait(Topic("orders"), "word")
        bus.publish_nowait(Topic("orders", int), 5)
        got = [reader.receive_many_nowait(10) for reader in readers]
        assert got == [[f"item {index}"] for index in range(len(plain))]
        assert words.receive_many_nowait(10) == ["word"]
        assert numbers.receive_many_nowait(10) == [5]
    for reader in readers:
        reader.close()


def test_a_narrowed_bus_takes_the_members_of_an_enum() -> None:
    bus = EventBus[Channel]()
    bus.add_channel(Channel.REFUNDS)
    with bus.subscribe(Channel.REFUNDS) as receiver:
        bus.publish_nowait(Channel.REFUNDS, "sorry")
        assert receiver.receive_nowait() == "sorry"
    bus.close()


ACCESSES: list[Callable[[EventBus, Any], object]] = [
    EventBus.remove_channel,
    EventBus.clone_sender,
    EventBus.subscribe,
    lambda bus, event: bus.publish_nowait(event, "item"),
]


@pytest.mark.parametrize("access", ACCESSES)
def test_an_event_without_a_channel_is_invalid(
    bus: EventBus, access: Callable[[EventBus, Any], object]
) -> None:
    topic = Topic("nobody", int)
    with pytest.raises(InvalidChannelError) as raised:
        access(bus, topic)
    assert raised.value.event is topic


async def test_an_event_without_a_channel_is_invalid_to_publish_and_to_wait_for(
    bus: EventBus,
) -> None:
    with pytest.raises(InvalidChannelError):
        await bus.publish("nobody", "item")
    with pytest.raises(InvalidChannelError):
        await bus.wait_for("nobody")


@pytest.mark.parametrize(
    ("key", "asked"),
    [
        ("orders", "ordrs"),
        (Channel.ORDERS, "Channel.ORDER"),
        (("orders", 1), ("order", 1)),
        (Topic("orders", Order), Topic("order", Order)),
        (Topic("orders", Order), Topic("orders", str)),
        (Topic("orders"), "orders"),
        ("orders", Topic("orders")),
    ],
)
def test_an_unknown_event_is_answered_with_near_names(bus: EventBus, key: Any, asked: Any) -> None:
    bus.add_channel("wholly different")
    bus.add_channel(key)
    with pytest.raises(InvalidChannelError) as raised:
        bus.subscribe(asked)
    message = str(raised.value)
    assert repr(asked) in message
    assert repr(key) in message
    assert "wholly different" not in message


class Letter(str, Enum):  # noqa: UP042  # whose str() is not its text
    ORDERS = "o"
    ORDERED = "x"


def test_near_are_names_as_they_are_shown_and_not_the_text_in_a_key(bus: EventBus) -> None:
    bus.add_channel("wholly different")
    bus.add_channel(Letter.ORDERS)
    with pytest.raises(InvalidChannelError, match=r"did you mean <Letter.ORDERS: 'o'>\?"):
        bus.subscribe(Letter.ORDERED)


def test_an_event_unlike_any_other_is_answered_with_the_known_ones(bus: EventBus) -> None:
    bus.add_channel("orders")
    bus.add_channel("refunds")
    with pytest.raises(InvalidChannelError, match=r"orders.*refunds"):
        bus.subscribe("xyz")


def test_an_event_on_a_bus_without_channels_is_answered_with_that(bus: EventBus) -> None:
    with pytest.raises(InvalidChannelError, match="no channels"):
        bus.subscribe("orders")


# -- publishing ------------------------------------------------------------------------------


async def test_what_is_published_goes_to_every_subscriber_and_is_counted(bus: EventBus) -> None:
    bus.add_channel("log")
    with bus.subscribe("log") as one, bus.subscribe("log") as two, one.clone() as three:
        assert await bus.publish("log", "a") == 3
        assert bus.publish_nowait("log", "b") == 3
        assert [stream.receive_many_nowait(9) for stream in (one, two, three)] == [["a", "b"]] * 3


async def test_what_nobody_subscribed_to_goes_to_0(bus: EventBus) -> None:
    bus.add_channel("log")
    assert bus.publish_nowait("log", "a") == 0
    assert await bus.publish("log", "b") == 0


async def test_a_closed_subscriber_is_not_counted(bus: EventBus) -> None:
    bus.add_channel("log")
    with bus.subscribe("log"):
        bus.subscribe("log").close()
        assert bus.publish_nowait("log", "a") == 1
    assert await bus.publish("log", "b") == 0


async def test_what_drop_newest_did_not_store_goes_to_0_and_is_counted_as_dropped(
    bus: EventBus,
) -> None:
    bus.add_channel("log", ChannelConfig(capacity=1, overflow="drop_newest"))
    with bus.subscribe("log") as receiver:
        assert await bus.publish("log", "a") == 1
        assert await bus.publish("log", "b") == 0
        assert bus.publish_nowait("log", "c") == 0
        assert receiver.receive_many_nowait(9) == ["a"]
    assert bus.statistics()["log"].dropped == 2


async def test_what_is_stored_is_counted_even_if_others_had_something_dropped_meanwhile(
    bus: EventBus,
) -> None:
    bus.add_channel("log", ChannelConfig(capacity=1, overflow="drop_newest"))

    async def have_items_dropped(receiver: Callable[[], str]) -> None:
        while True:
            bus.publish_nowait("log", "theirs")
            bus.publish_nowait("log", "theirs, dropped")
            receiver()
            await checkpoint()

    with bus.subscribe("log") as receiver:
        async with create_task_group() as group:
            group.start_soon(have_items_dropped, receiver.receive_nowait)
            for _ in range(1000):  # some of these let the other task run
                count = await bus.publish("log", "ours")
                assert (count, receiver.receive_nowait()) == (1, "ours")
            group.cancel_scope.cancel()


def test_a_channel_that_overwrites_counts_each_item(bus: EventBus) -> None:
    bus.add_channel("log", ChannelConfig(capacity=1))
    with bus.subscribe("log"):
        assert [bus.publish_nowait("log", item) for item in "abc"] == [1, 1, 1]


async def test_a_full_channel_that_fails_shows_nobody_the_item(bus: EventBus) -> None:
    bus.add_channel("log", ChannelConfig(capacity=1, overflow="error"))
    with bus.subscribe("log") as receiver:
        bus.publish_nowait("log", "a")
        with pytest.raises(EventSendError) as raised:
            await bus.publish("log", "b")
        assert raised.value.event == "log"
        assert receiver.receive_many_nowait(9) == ["a"]


async def test_a_channel_that_requires_receivers_says_when_it_has_none(bus: EventBus) -> None:
    bus.add_channel("log", ChannelConfig(require_receivers=True))
    with pytest.raises(EventSendError):
        bus.publish_nowait("log", "a")
    with pytest.raises(EventSendError):
        await bus.publish("log", "a")
    with bus.subscribe("log"):
        assert bus.publish_nowait("log", "b") == 1


async def test_publish_waits_for_the_slowest_receiver_of_a_blocking_channel(
    bus: EventBus,
) -> None:
    bus.add_channel("log", ChannelConfig(capacity=1, overflow="block"))
    counts: list[int] = []

    async def publish() -> None:
        counts.append(await bus.publish("log", "b"))

    with bus.subscribe("log") as quick, bus.subscribe("log") as slow:
        await bus.publish("log", "a")
        async with create_task_group() as group:
            group.start_soon(publish)
            await settle()
            assert quick.receive_nowait() == "a"
            await settle()
            assert counts == []
            assert slow.receive_nowait() == "a"
        assert counts == [2]
        assert (quick.receive_nowait(), slow.receive_nowait()) == ("b", "b")


def test_publish_nowait_does_not_wait_for_room(bus: EventBus) -> None:
    bus.add_channel("log", ChannelConfig(capacity=1, overflow="block"))
    with bus.subscribe("log") as receiver:
        bus.publish_nowait("log", "a")
        with pytest.raises(WouldBlock):
            bus.publish_nowait("log", "b")
        assert receiver.receive_many_nowait(9) == ["a"]


async def test_a_publish_cancelled_while_it_waits_for_room_was_not_sent(bus: EventBus) -> None:
    bus.add_channel("log", ChannelConfig(capacity=1, overflow="block"))
    with bus.subscribe("log") as receiver:
        await bus.publish("log", "a")
        with cancelled() as scope:
            await bus.publish("log", "b")
        assert scope.cancelled_caught
        assert receiver.receive_many_nowait(9) == ["a"]
        assert bus.statistics()["log"].sent == 1


async def test_a_publisher_that_never_waits_still_lets_others_run(bus: EventBus) -> None:
    bus.add_channel("log")
    with CancelScope() as scope:
        async with create_task_group() as group:
            group.start_soon(_cancel, scope)
            while True:
                await bus.publish("log", "a")
    assert scope.cancelled_caught


@pytest.mark.parametrize("of_scheduler", [False, True], ids=["bus", "scheduler"])
async def test_a_publisher_lets_receivers_keep_up_and_waits_in_a_cancelled_scope(
    of_scheduler: bool,
) -> None:
    scheduler = Scheduler()
    publish = scheduler.publish if of_scheduler else scheduler.bus.publish
    scheduler.add_channel("log", ChannelConfig(capacity=100))
    with scheduler.subscribe("log") as receiver:
        sent = 0

        async def read() -> None:
            while True:  # a lag would be raised
                await receiver.receive()

        async with create_task_group() as group:
            group.start_soon(read)
            while sent < 1000:
                assert await publish("log", "a") == 1
                sent += 1
            group.cancel_scope.cancel()
            while sent < 5000:  # nothing that waits is sent
                await publish("log", "a")
                sent += 1
        assert 1000 <= sent < 1050
        assert scheduler.bus.statistics()["log"].sent == sent


@pytest.mark.parametrize("of_scheduler", [False, True], ids=["bus", "scheduler"])
async def test_what_cannot_be_published_is_refused_also_after_what_was(
    of_scheduler: bool,
) -> None:
    scheduler = Scheduler()
    bus = scheduler.bus
    publish: Any = scheduler.publish if of_scheduler else bus.publish
    bus.add_channel("log")
    with bus.subscribe("log") as receiver:
        assert await publish("log", "a") == 1
        with pytest.raises(InvalidChannelError):
            await publish(["log"], "b")
        bus.remove_channel("log")
        with pytest.raises(InvalidChannelError):
            await publish("log", "c")
        bus.add_channel("log")
        assert await publish("log", "d") == 0  # the receiver is one of the channel before
        bus.close()
        with pytest.raises(LifecycleError):
            await publish("log", "e")
        assert receiver.receive_many_nowait(9) == ["a"]


async def _cancel(scope: CancelScope) -> None:
    scope.cancel()


# -- senders, subscribers --------------------------------------------------------------------


async def test_what_a_cloned_sender_sends_is_published(bus: EventBus) -> None:
    bus.add_channel(COUNT)
    with bus.clone_sender(COUNT) as sender, bus.subscribe(COUNT) as receiver:
        sender.send_nowait(1)
        await sender.send(2)
        sender.send_many_nowait([3, 4])
        assert receiver.receive_many_nowait(9) == [1, 2, 3, 4]


def test_closing_a_cloned_sender_does_not_close_its_channel(bus: EventBus) -> None:
    bus.add_channel("log")
    bus.clone_sender("log").close()
    with bus.subscribe("log") as receiver:
        bus.publish_nowait("log", "a")
        assert receiver.receive_nowait() == "a"


def test_a_subscriber_gets_what_is_published_from_now_on(bus: EventBus) -> None:
    bus.add_channel("log")
    with bus.subscribe("log") as early:
        bus.publish_nowait("log", "a")
        with bus.subscribe("log") as late:
            bus.publish_nowait("log", "b")
            assert early.receive_many_nowait(9) == ["a", "b"]
            assert late.receive_many_nowait(9) == ["b"]


def test_a_subscriber_gets_the_last_items_of_a_channel_with_replay(bus: EventBus) -> None:
    bus.add_channel("log", ChannelConfig(replay=2))
    for item in "abc":
        bus.publish_nowait("log", item)
    with bus.subscribe("log") as receiver:
        assert receiver.receive_many_nowait(9) == ["b", "c"]


async def test_a_consumer_may_publish_the_event_it_consumes(bus: EventBus) -> None:
    bus.add_channel(COUNT)
    seen: list[int] = []
    with bus.subscribe(COUNT) as receiver:
        bus.publish_nowait(COUNT, 3)
        async for number in receiver:
            seen.append(number)
            if number == 0:
                break
            await bus.publish(COUNT, number - 1)
    assert seen == [3, 2, 1, 0]


async def test_a_consumer_may_subscribe_to_the_event_it_consumes(bus: EventBus) -> None:
    bus.add_channel("log")
    with bus.subscribe("log") as receiver:
        bus.publish_nowait("log", "a")
        async for item in receiver:
            if item == "b":
                break
            with bus.subscribe("log") as inner:
                assert bus.publish_nowait("log", "b") == 2
                assert await inner.receive() == "b"


def test_statistics_tell_how_each_channel_stands(bus: EventBus) -> None:
    bus.add_channel("log", ChannelConfig(capacity=2))
    bus.add_channel(COUNT)
    with bus.subscribe("log") as receiver, bus.subscribe("log"):
        for item in "abc":
            bus.publish_nowait("log", item)
        with pytest.raises(LaggedError):
            receiver.receive_nowait()
        statistics = bus.statistics()
    assert set(statistics) == {"log", COUNT}
    log = statistics["log"]
    assert (log.capacity, log.buffered, log.sent) == (2, 2, 3)
    assert (log.missed, log.dropped, log.receivers) == (1, 0, 2)
    assert statistics[COUNT].sent == 0


def test_statistics_are_of_one_moment(bus: EventBus) -> None:
    bus.add_channel("log")
    before = bus.statistics()
    bus.publish_nowait("log", "a")
    bus.remove_channel("log")
    assert before["log"].sent == 0


# -- waiting for one item --------------------------------------------------------------------


class Waiter:
    """Waits for an item in a task of its own, and says what came of it."""

    def __init__(self, wait: Callable[[], Any]) -> None:
        self.wait = wait
        self.item: object = None
        self.error: Exception | None = None

    async def __call__(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        task_status.started()  # no other task runs before `wait` awaits something
        try:
            self.item = await self.wait()
        except (SchedulerError, ZeroDivisionError) as error:
            self.error = error


async def test_wait_for_returns_the_next_item(bus: EventBus) -> None:
    bus.add_channel("log")
    waiter = Waiter(lambda: bus.wait_for("log"))
    async with create_task_group() as group:
        group.start_soon(waiter)
        await settle()
        bus.publish_nowait("log", "a")
        bus.publish_nowait("log", "b")
    assert waiter.item == "a"


async def test_wait_for_returns_the_next_item_that_matches(bus: EventBus) -> None:
    bus.add_channel(COUNT)
    waiter = Waiter(lambda: bus.wait_for(COUNT, lambda number: number > 2))
    async with create_task_group() as group:
        group.start_soon(waiter)
        await settle()
        for number in (1, 5, 7):
            bus.publish_nowait(COUNT, number)
            await settle()
    assert waiter.item == 5


async def test_wait_for_has_subscribed_before_it_awaits_anything(bus: EventBus) -> None:
    bus.add_channel("log")
    waiter = Waiter(lambda: bus.wait_for("log"))
    async with create_task_group() as group:
        await group.start(waiter)
        assert bus.publish_nowait("log", "at once") == 1
    assert waiter.item == "at once"


@pytest.mark.parametrize("overflow", ["drop_oldest", "block", "drop_newest", "error"])
async def test_wait_for_takes_nothing_that_is_replayed(bus: EventBus, overflow: str) -> None:
    config = ChannelConfig.model_validate({"capacity": 2, "replay": 2, "overflow": overflow})
    bus.add_channel("log", config)
    for item in "abc":
        bus.publish_nowait("log", item)
    waiter = Waiter(lambda: bus.wait_for("log"))
    async with create_task_group() as group:
        group.start_soon(waiter)
        await settle()
        assert waiter.item is None
        assert bus.publish_nowait("log", "new") == 1
    assert waiter.item == "new"


async def test_wait_for_says_that_it_lagged_and_may_have_missed_the_match(bus: EventBus) -> None:
    bus.add_channel(COUNT, ChannelConfig(capacity=2))
    waiter = Waiter(lambda: bus.wait_for(COUNT, lambda number: number == 1))
    async with create_task_group() as group:
        group.start_soon(waiter)
        await settle()
        for number in range(5):
            bus.publish_nowait(COUNT, number)
    assert isinstance(waiter.error, LaggedError)
    assert waiter.error.missed == 3


@pytest.mark.parametrize("close", [lambda bus: bus.remove_channel("log"), EventBus.close])
async def test_wait_for_fails_when_its_channel_is_closed_first(
    bus: EventBus, close: Callable[[EventBus], None]
) -> None:
    bus.add_channel("log")
    waiter = Waiter(lambda: bus.wait_for("log", lambda item: item == "match"))
    async with create_task_group() as group:
        group.start_soon(waiter)
        await settle()
        bus.publish_nowait("log", "other")
        close(bus)
    assert type(waiter.error) is EventReceiveError
    assert "'log'" in str(waiter.error)


async def test_wait_for_finds_a_match_published_just_before_its_channel_is_removed(
    bus: EventBus,
) -> None:
    bus.add_channel("log")
    waiter = Waiter(lambda: bus.wait_for("log"))
    async with create_task_group() as group:
        group.start_soon(waiter)
        await settle()
        bus.publish_nowait("log", "last words")
        bus.remove_channel("log")
    assert waiter.item == "last words"


async def test_an_error_of_the_predicate_is_raised(bus: EventBus) -> None:
    bus.add_channel(COUNT)
    waiter = Waiter(lambda: bus.wait_for(COUNT, lambda number: 1 // number > 0))
    async with create_task_group() as group:
        group.start_soon(waiter)
        await settle()
        bus.publish_nowait(COUNT, 0)
    assert isinstance(waiter.error, ZeroDivisionError)
    assert bus.statistics()[COUNT].receivers == 0


async def test_wait_for_unsubscribes_when_it_has_its_item(bus: EventBus) -> None:
    bus.add_channel("log")
    async with create_task_group() as group:
        group.start_soon(Waiter(lambda: bus.wait_for("log")))
        await settle()
        assert bus.statistics()["log"].receivers == 1
        bus.publish_nowait("log", "a")
    assert bus.statistics()["log"].receivers == 0


async def test_wait_for_unsubscribes_when_it_is_cancelled(bus: EventBus) -> None:
    bus.add_channel("log", ChannelConfig(replay=1))
    with cancelled() as scope:
        await bus.wait_for("log")
    assert scope.cancelled_caught
    assert bus.statistics()["log"].receivers == 0


# -- closing ---------------------------------------------------------------------------------


async def test_a_closed_bus_lets_its_receivers_drain(bus: EventBus) -> None:
    bus.add_channel("log")
    bus.add_channel(COUNT)
    with bus.subscribe("log") as words, bus.subscribe(COUNT) as numbers:
        bus.publish_nowait("log", "a")
        bus.publish_nowait(COUNT, 1)
        bus.close()
        assert [item async for item in words] == ["a"]
        assert [item async for item in numbers] == [1]


def test_closing_twice_is_the_same_as_once(bus: EventBus) -> None:
    bus.add_channel("log")
    bus.close()
    bus.close()


def test_the_senders_of_a_closed_bus_are_closed(bus: EventBus) -> None:
    bus.add_channel("log")
    with bus.clone_sender("log") as sender:
        bus.close()
        with pytest.raises(ClosedResourceError):
            sender.send_nowait("too late")


@pytest.mark.parametrize("access", [EventBus.add_channel, *ACCESSES])
@pytest.mark.parametrize("event", ["log", "nobody"])
def test_using_a_closed_bus_is_a_lifecycle_error(
    bus: EventBus, access: Callable[[EventBus, Any], object], event: str
) -> None:
    bus.add_channel("log")
    bus.close()
    with pytest.raises(LifecycleError, match="closed"):
        access(bus, event)


async def test_publishing_on_and_waiting_for_a_closed_bus_is_a_lifecycle_error(
    bus: EventBus,
) -> None:
    bus.add_channel("log")
    bus.close()
    with pytest.raises(LifecycleError):
        await bus.publish("log", "too late")
    with pytest.raises(LifecycleError):
        await bus.wait_for("log")


def warnings_of(forget: Callable[[], None]) -> list[str]:
    gc.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        forget()
        gc.collect()
    return [str(warning.message) for warning in caught if warning.category is ResourceWarning]


def test_a_cloned_sender_needs_no_closing(bus: EventBus) -> None:
    bus.add_channel("log")
    senders = [bus.clone_sender("log")]
    senders.append(senders[0].clone())
    assert warnings_of(senders.clear) == []


@pytest.mark.parametrize("close", [EventBus.close, lambda bus: bus.remove_channel("log")])
def test_the_senders_of_a_closed_channel_need_no_closing(
    bus: EventBus, close: Callable[[EventBus], None]
) -> None:
    bus.add_channel("log")
    senders = [bus.clone_sender("log")]
    close(bus)
    assert warnings_of(senders.clear) == []


def test_a_receiver_that_is_lost_while_its_channel_is_open_warns(bus: EventBus) -> None:
    bus.add_channel("log")
    receivers = [bus.subscribe("log")]
    (warning,) = warnings_of(receivers.clear)
    assert "'log'" in warning


async def test_a_scheduler_closes_its_bus() -> None:
    async with Scheduler() as scheduler:
        scheduler.add_channel("log")
        with scheduler.subscribe("log") as receiver:
            await scheduler.publish("log", "a")
            await scheduler.shutdown()
            with fail_after(5):
                assert [item async for item in receiver] == ["a"]
    with pytest.raises(LifecycleError):
        scheduler.bus.publish_nowait("log", "too late")


async def test_a_scheduler_offers_what_its_bus_does() -> None:
    async with Scheduler() as scheduler:
        scheduler.add_channel(COUNT, ChannelConfig(capacity=4))
        assert scheduler.bus.channels[COUNT].capacity == 4
        with scheduler.bus.subscribe(COUNT) as receiver, scheduler.clone_sender(COUNT) as sender:
            sender.send_nowait(1)
            assert await scheduler.publish(COUNT, 2) == 1
            assert receiver.receive_many_nowait(9) == [1, 2]


# -- validation ------------------------------------------------------------------------------


BAD = cast("Order", {"number": "one"})
GOOD = Order(number=1)


@pytest.mark.parametrize("overflow", ["drop_oldest", "block", "drop_newest", "error"])
async def test_a_bad_item_is_refused_before_anyone_sees_it(bus: EventBus, overflow: str) -> None:
    bus.add_channel(ORDERS, ChannelConfig.model_validate({"overflow": overflow}))
    with bus.subscribe(ORDERS) as receiver, bus.clone_sender(ORDERS) as sender:
        with pytest.raises(EventSendError):
            bus.publish_nowait(ORDERS, BAD)
        with pytest.raises(EventSendError):
            await bus.publish(ORDERS, BAD)
        with pytest.raises(EventSendError):
            sender.send_nowait(BAD)
        with pytest.raises(EventSendError):
            await sender.send(BAD)
        with pytest.raises(WouldBlock):
            receiver.receive_nowait()
    assert bus.statistics()[ORDERS].sent == 0


def test_one_bad_item_keeps_back_all_of_its_batch(bus: EventBus) -> None:
    bus.add_channel(ORDERS)
    with bus.subscribe(ORDERS) as receiver, bus.clone_sender(ORDERS) as sender:
        with pytest.raises(EventSendError):
            sender.send_many_nowait([GOOD, BAD, GOOD])
        assert len(receiver) == 0


async def test_a_bad_item_is_refused_without_waiting_for_room(bus: EventBus) -> None:
    bus.add_channel(ORDERS, ChannelConfig(capacity=1, overflow="block"))
    with bus.subscribe(ORDERS) as receiver:
        await bus.publish(ORDERS, GOOD)
        with pytest.raises(EventSendError):
            await bus.publish(ORDERS, BAD)
        assert receiver.receive_many_nowait(9) == [GOOD]


def test_a_bad_item_is_refused_even_if_nobody_would_get_it(bus: EventBus) -> None:
    bus.add_channel(ORDERS)
    with pytest.raises(EventSendError):
        bus.publish_nowait(ORDERS, BAD)


def test_the_refusal_of_a_bad_item_says_what_is_wrong_with_it(bus: EventBus) -> None:
    bus.add_channel(ORDERS)
    with pytest.raises(EventSendError, match="orders") as raised:
        bus.publish_nowait(ORDERS, BAD)
    assert raised.value.event == ORDERS
    assert "Order" in str(raised.value.__cause__)


async def test_a_good_item_reaches_everyone(bus: EventBus) -> None:
    bus.add_channel(ORDERS)
    with bus.subscribe(ORDERS) as receiver, bus.clone_sender(ORDERS) as sender:
        assert await bus.publish(ORDERS, GOOD) == 1
        sender.send_many_nowait([GOOD, GOOD])
        assert receiver.receive_many_nowait(9) == [GOOD] * 3


@pytest.mark.parametrize("item", ["5", 5.0, True, None])
def test_validation_converts_nothing(bus: EventBus, item: Any) -> None:
    checked = Topic("count", int, validate=True)
    bus.add_channel(checked)
    with pytest.raises(EventSendError):
        bus.publish_nowait(checked, item)


def test_validation_belongs_to_the_channel_not_to_the_key_that_finds_it(bus: EventBus) -> None:
    bus.add_channel(ORDERS)
    with pytest.raises(EventSendError):
        bus.publish_nowait(Topic("orders", Order), BAD)


def test_a_topic_without_validation_carries_what_it_is_given(bus: EventBus) -> None:
    topic = Topic("orders", Order)
    bus.add_channel(topic)
    with bus.subscribe(topic) as receiver:
        bus.publish_nowait(topic, BAD)
        assert receiver.receive_nowait() is BAD


class Plain:
    """A class that Pydantic has no schema for."""


async def test_a_plain_class_is_checked_as_well() -> None:
    topic = Topic("plain", Plain, validate=True)
    bus = EventBus()
    bus.add_channel(topic)
    with bus.subscribe(topic) as receiver:
        item = Plain()
        await bus.publish(topic, item)
        with pytest.raises(EventSendError):
            await bus.publish(topic, "not plain")  # type: ignore[misc]
        assert await receiver.receive() is item
        assert len(receiver) == 0
    bus.close()
