"""Broadcast streams: what sections 1 and 2 of their promise say, one behaviour a test."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from anyio import (
    CancelScope,
    ClosedResourceError,
    EndOfStream,
    WouldBlock,
    create_task_group,
    fail_after,
)
from anyio.abc import ObjectReceiveStream, ObjectSendStream
from anyio.lowlevel import checkpoint
from pydantic import ValidationError
from support import settle

from orchestrio import (
    BroadcastReceiveStream,
    BroadcastSendStream,
    EventSendError,
    LaggedError,
    Overflow,
    create_broadcast_stream,
)

ReadOne = Callable[["BroadcastReceiveStream[int]"], Awaitable[int]]


async def next_of(stream: BroadcastReceiveStream[int]) -> int:
    return await anext(stream)


async def receive_from(stream: BroadcastReceiveStream[int]) -> int:
    return await stream.receive()


async def receive_list_from(stream: BroadcastReceiveStream[int]) -> int:
    (item,) = await stream.receive_many(1)
    return item


#: The ways to wait for one item.
READ_ONE = pytest.mark.parametrize("read_one", [next_of, receive_from, receive_list_from])

Pair = tuple[BroadcastSendStream[int], BroadcastReceiveStream[int]]


class Maker:
    """Makes streams, and closes what a test leaves open."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def __call__(
        self,
        capacity: int = 4,
        overflow: Overflow = "drop_oldest",
        replay: int = 0,
        require_receivers: bool = False,
    ) -> Pair:
        send, receive = create_broadcast_stream[int](
            capacity, overflow=overflow, replay=replay, require_receivers=require_receivers
        )
        self._stack.enter_context(send)
        return send, self.keep(receive)

    def keep(self, receive: BroadcastReceiveStream[int]) -> BroadcastReceiveStream[int]:
        return self._stack.enter_context(receive)


@pytest.fixture
def make() -> Iterator[Maker]:
    with ExitStack() as stack:
        yield Maker(stack)


def drain(receive: BroadcastReceiveStream[int]) -> list[int]:
    """Everything that can be read at once."""
    items: list[int] = []
    while len(receive):
        items += receive.receive_many_nowait(100)
    return items


# -- broadcasting ------------------------------------------------------------------------------------


async def test_every_clone_gets_every_item(make: Maker) -> None:
    send, first = make()
    second = make.keep(first.clone())
    await send.send(1)
    await send.send(2)
    assert [await first.receive(), await first.receive()] == [1, 2]
    assert [await second.receive(), await second.receive()] == [1, 2]


async def test_all_that_wait_are_woken_by_one_item(make: Maker) -> None:
    send, first = make()
    receivers = [first, *(make.keep(first.clone()) for _ in range(4))]
    got: list[int] = []

    async def wait(receive: BroadcastReceiveStream[int]) -> None:
        got.append(await receive.receive())

    async with create_task_group() as group:
        for receive in receivers:
            group.start_soon(wait, receive)
        await settle()
        assert send.statistics().tasks_waiting_receive == 5
        send.send_nowait(7)
    assert got == [7] * 5


async def test_one_that_waits_is_woken_though_another_has_something_left_to_read(
    make: Maker,
) -> None:
    send, waits = make()
    make.keep(waits.clone())  # never reads
    send.send_nowait(1)
    assert waits.receive_nowait() == 1
    got: list[int] = []

    async def wait() -> None:
        got.append(await waits.receive())

    async with create_task_group() as group:
        group.start_soon(wait)
        await settle()
        send.send_nowait(2)
        await settle()
        assert got == [2]
        group.cancel_scope.cancel()


def test_a_new_subscriber_gets_only_what_is_sent_after_it_subscribed(make: Maker) -> None:
    send, _ = make()
    send.send_nowait(1)
    late = make.keep(send.subscribe())
    send.send_nowait(2)
    assert drain(late) == [2]


def test_a_clone_starts_at_the_same_position(make: Maker) -> None:
    send, receive = make()
    for number in range(3):
        send.send_nowait(number)
    assert receive.receive_nowait() == 0
    assert drain(make.keep(receive.clone())) == [1, 2]
    assert len(receive) == 2, "and reading one does not move the other"


def test_resubscribing_starts_from_now_on(make: Maker) -> None:
    send, receive = make(replay=2)
    send.send_nowait(1)
    fresh = make.keep(receive.resubscribe())
    send.send_nowait(2)
    assert drain(fresh) == [2]


def test_all_receivers_see_one_global_order(make: Maker) -> None:
    send, first = make(capacity=100)
    other = send.clone()
    second = make.keep(first.clone())
    with other:
        for number in range(0, 20, 2):
            send.send_nowait(number)
            other.send_nowait(number + 1)
    assert drain(first) == drain(second) == list(range(20))


def test_sending_to_nobody_is_no_error_and_keeps_nothing(make: Maker) -> None:
    send, receive = make()
    receive.close()
    send.send_nowait(1)
    send.send_many_nowait([2, 3])
    assert send.statistics().buffered == 0
    assert drain(make.keep(send.subscribe())) == []


@pytest.mark.parametrize("overflow", ["drop_oldest", "block", "drop_newest", "error"])
async def test_required_receivers_are_required(make: Maker, overflow: Overflow) -> None:
    send, receive = make(overflow=overflow, require_receivers=True)
    send.send_nowait(1)
    receive.close()
    with pytest.raises(EventSendError, match="no receiver"):
        send.send_nowait(2)
    with pytest.raises(EventSendError, match="no receiver"):
        send.send_many_nowait([2])
    with pytest.raises(EventSendError, match="no receiver"):
        await send.send(2)


def test_they_are_streams_of_anyio(make: Maker) -> None:
    send, receive = make()
    assert isinstance(send, ObjectSendStream)
    assert isinstance(receive, ObjectReceiveStream)


# -- overflow ----------------------------------------------------------------------------------------


def test_capacity_is_exact(make: Maker) -> None:
    send, receive = make(capacity=3)
    for number in range(3):
        send.send_nowait(number)
    assert len(receive) == 3
    assert drain(receive) == [0, 1, 2]


def test_a_slow_receiver_is_told_how_much_it_missed_and_goes_on_at_the_oldest(make: Maker) -> None:
    send, slow = make(capacity=3)
    for number in range(10):
        send.send_nowait(number)
    with pytest.raises(LaggedError, match="missed 7") as caught:
        slow.receive_nowait()
    assert caught.value.missed == 7
    assert drain(slow) == [7, 8, 9], "and it is told only once"
    assert slow.statistics().missed == 7
    assert send.statistics().missed == 7


def test_each_gap_is_reported_by_itself(make: Maker) -> None:
    send, slow = make(capacity=2)
    for gap in (1, 5):
        for number in range(2 + gap):
            send.send_nowait(number)
        with pytest.raises(LaggedError) as caught:
            slow.receive_many_nowait(10)
        assert caught.value.missed == gap
        assert drain(slow) == [gap, gap + 1]


def test_lag_is_exact_after_many_times_around_the_ring(make: Maker) -> None:
    send, slow = make(capacity=3)
    quick = make.keep(slow.clone())
    for number in range(1000):
        send.send_nowait(number)
        assert quick.receive_nowait() == number
    with pytest.raises(LaggedError) as caught:
        slow.receive_nowait()
    assert caught.value.missed == 997
    assert drain(slow) == [997, 998, 999]


async def test_lag_then_close_still_drains(make: Maker) -> None:
    send, slow = make(capacity=2)
    send.send_many_nowait(range(5))
    send.close()
    with pytest.raises(LaggedError):
        await slow.receive()
    assert [await slow.receive(), await slow.receive()] == [3, 4]
    with pytest.raises(EndOfStream):
        await slow.receive()


def test_send_nowait_would_block_on_a_full_log(make: Maker) -> None:
    send, receive = make(capacity=2, overflow="block")
    send.send_many_nowait([1, 2])
    with pytest.raises(WouldBlock):
        send.send_nowait(3)
    receive.receive_nowait()
    send.send_nowait(3)
    assert drain(receive) == [2, 3]


async def test_a_blocked_sender_waits_for_the_slowest_receiver(make: Maker) -> None:
    send, quick = make(capacity=1, overflow="block")
    slow = make.keep(quick.clone())
    sent: list[int] = []

    async def publish() -> None:
        for number in range(3):
            await send.send(number)
            sent.append(number)

    async with create_task_group() as group:
        group.start_soon(publish)
        await settle()
        assert quick.receive_nowait() == 0
        await settle()
        assert sent == [0]
        assert send.statistics().tasks_waiting_send == 1
        for number in range(3):
            assert await slow.receive() == number
            await settle()
            if number:
                assert await quick.receive() == number
            await settle()
    assert sent == [0, 1, 2]


async def test_blocked_senders_are_served_in_order_and_nobody_jumps_the_queue(make: Maker) -> None:
    send, receive = make(capacity=1, overflow="block")
    send.send_nowait(0)
    got: list[int] = []
    async with create_task_group() as group:
        for number in range(1, 6):
            group.start_soon(send.send, number)
            await settle()
        got.append(receive.receive_nowait())
        with pytest.raises(WouldBlock):
            send.send_nowait(99)
        got += [await receive.receive() for _ in range(5)]
    assert got == [0, 1, 2, 3, 4, 5]


async def test_room_for_two_lets_two_blocked_senders_go(make: Maker) -> None:
    send, receive = make(capacity=2, overflow="block")
    send.send_many_nowait([0, 1])
    async with create_task_group() as group:
        for number in (2, 3):
            group.start_soon(send.send, number)
            await settle()
        assert receive.receive_many_nowait(2) == [0, 1]
        await settle()
        assert send.statistics().tasks_waiting_send == 0
    assert drain(receive) == [2, 3]


async def test_closing_a_slow_receiver_frees_a_blocked_sender(make: Maker) -> None:
    send, quick = make(capacity=1, overflow="block")
    slow = make.keep(quick.clone())
    send.send_nowait(1)
    assert quick.receive_nowait() == 1
    async with create_task_group() as group:
        group.start_soon(send.send, 2)
        await settle()
        assert len(quick) == 0
        slow.close()
        await settle()
        assert drain(quick) == [2]


async def test_closing_the_last_receiver_frees_a_blocked_sender(make: Maker) -> None:
    send, receive = make(capacity=1, overflow="block")
    send.send_nowait(1)
    with fail_after(5):
        async with create_task_group() as group:
            group.start_soon(send.send, 2)
            await settle()
            receive.close()


async def test_a_blocked_send_whose_required_receivers_leave_fails(make: Maker) -> None:
    send, receive = make(capacity=1, overflow="block", require_receivers=True)
    send.send_nowait(1)

    async def publish() -> None:
        with pytest.raises(EventSendError):
            await send.send(2)

    async with create_task_group() as group:
        group.start_soon(publish)
        await settle()
        receive.close()


async def test_a_subscriber_that_replays_takes_the_room_back(make: Maker) -> None:
    send, receive = make(capacity=2, overflow="block", replay=2)
    send.send_many_nowait([1, 2])
    async with create_task_group() as group:
        group.start_soon(send.send, 3)
        await settle()
        assert receive.receive_many_nowait(2) == [1, 2]
        late = make.keep(send.subscribe())  # before the sender gets to run
        await settle()
        assert send.statistics().tasks_waiting_send == 1
        assert late.receive_nowait() == 1
        await settle()
        assert drain(late) == [2, 3]


async def test_nothing_is_lost_with_block(make: Maker) -> None:
    send, first = make(capacity=3, overflow="block")
    receivers = [first, make.keep(first.clone())]
    got: list[list[int]] = [[], []]

    async def read(index: int) -> None:
        async for item in receivers[index]:
            got[index].append(item)
            await settle(index * 3)

    async with create_task_group() as group:
        group.start_soon(read, 0)
        group.start_soon(read, 1)
        for number in range(200):
            await send.send(number)
        send.close()
    assert got == [list(range(200))] * 2


def test_send_many_is_all_or_none_with_block(make: Maker) -> None:
    send, receive = make(capacity=3, overflow="block")
    send.send_nowait(0)
    with pytest.raises(WouldBlock):
        send.send_many_nowait([1, 2, 3])
    send.send_many_nowait([1, 2])
    assert drain(receive) == [0, 1, 2]


def test_send_many_is_all_or_none_with_error(make: Maker) -> None:
    send, receive = make(capacity=2, overflow="error")
    with pytest.raises(EventSendError, match="is full"):
        send.send_many_nowait([1, 2, 3])
    assert len(receive) == 0


def test_drop_newest_keeps_what_is_there_and_counts(make: Maker) -> None:
    send, receive = make(capacity=2, overflow="drop_newest")
    for number in range(3):
        send.send_nowait(number)
    send.send_many_nowait([3, 4])
    assert drain(receive) == [0, 1]
    assert send.statistics().dropped == 3
    send.send_many_nowait([5, 6, 7])
    assert drain(receive) == [5, 6]
    assert send.statistics().dropped == 4


def test_error_refuses_and_says_why(make: Maker) -> None:
    send, receive = make(capacity=1, overflow="error")
    send.send_nowait(1)
    with pytest.raises(EventSendError, match="slowest receiver has 1 items to read") as caught:
        send.send_nowait(2)
    assert caught.value.event is None
    assert drain(receive) == [1]
    send.send_nowait(3)
    assert drain(receive) == [3]


def test_send_many_overwrites_like_as_many_sends(make: Maker) -> None:
    send, receive = make(capacity=3)
    send.send_many_nowait(range(2))
    send.send_many_nowait(range(2, 10))
    send.send_many_nowait([])
    with pytest.raises(LaggedError) as caught:
        receive.receive_many_nowait(10)
    assert caught.value.missed == 7
    assert drain(receive) == [7, 8, 9]


# -- replay ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overflow", ["drop_oldest", "block", "drop_newest", "error"])
def test_a_new_subscriber_first_gets_the_last_items(make: Maker, overflow: Overflow) -> None:
    send, first = make(capacity=4, overflow=overflow, replay=2)
    for number in range(5):
        send.send_nowait(number)
        drain(first)
    assert drain(make.keep(send.subscribe())) == [3, 4]


def test_replay_gives_what_there_is_if_there_is_less(make: Maker) -> None:
    send, _ = make(replay=3)
    send.send_nowait(1)
    assert drain(make.keep(send.subscribe())) == [1]


def test_replay_works_without_any_receiver(make: Maker) -> None:
    send, receive = make(replay=2)
    receive.close()
    send.send_many_nowait([1, 2, 3])
    assert drain(make.keep(send.subscribe())) == [2, 3]


def test_capacity_one_with_replay_one_is_a_watch(make: Maker) -> None:
    send, watcher = make(capacity=1, replay=1)
    for state in (1, 2, 3):
        send.send_nowait(state)
    with pytest.raises(LaggedError):
        watcher.receive_nowait()
    assert watcher.receive_nowait() == 3
    assert drain(make.keep(send.subscribe())) == [3]


# -- closing -----------------------------------------------------------------------------------------


async def test_closing_the_last_sender_lets_receivers_drain_and_then_ends(make: Maker) -> None:
    send, receive = make()
    other = send.clone()
    await send.send(1)
    send.close()
    await other.send(2)
    other.close()
    assert [item async for item in receive] == [1, 2]
    with pytest.raises(EndOfStream):
        receive.receive_nowait()


async def test_closing_the_last_sender_wakes_those_that_wait(make: Maker) -> None:
    send, receive = make()

    async def wait() -> None:
        with pytest.raises(EndOfStream):
            await receive.receive()

    async with create_task_group() as group:
        group.start_soon(wait)
        await settle()
        send.close()


async def test_a_closed_receiver_says_so_also_to_the_task_that_waits_in_it(make: Maker) -> None:
    _, receive = make()
    other = make.keep(receive.clone())

    async def wait() -> None:
        with pytest.raises(ClosedResourceError):
            await receive.receive()

    async with create_task_group() as group:
        group.start_soon(wait)
        await settle()
        receive.close()
    receive.close()
    assert len(receive) == 0
    for attempt in (receive.receive_nowait, receive.clone, receive.resubscribe):
        with pytest.raises(ClosedResourceError):
            attempt()
    with pytest.raises(WouldBlock):
        other.receive_nowait()


async def test_a_closed_receiver_with_unread_items_is_closed(make: Maker) -> None:
    send, receive = make()
    send.send_nowait(1)
    receive.close()
    with pytest.raises(ClosedResourceError):
        await receive.receive_many(5)


async def test_a_closed_sender_says_so(make: Maker) -> None:
    send, _ = make(overflow="block")
    send.close()
    send.close()
    for attempt in (send.clone, send.subscribe):
        with pytest.raises(ClosedResourceError):
            attempt()
    with pytest.raises(ClosedResourceError):
        send.send_nowait(1)
    with pytest.raises(ClosedResourceError):
        send.send_many_nowait([1])
    with pytest.raises(ClosedResourceError):
        await send.send(1)
    with pytest.raises(ClosedResourceError):
        await send.wait_no_receivers()


async def test_closing_a_sender_ends_its_blocked_send_and_no_other(make: Maker) -> None:
    send, receive = make(capacity=1, overflow="block")
    other = send.clone()
    send.send_nowait(1)

    async def publish() -> None:
        with pytest.raises(ClosedResourceError):
            await send.send(2)

    async with create_task_group() as group:
        group.start_soon(publish)
        await settle()
        group.start_soon(other.send, 3)
        await settle()
        send.close()
        await settle()
        assert drain(receive) == [1]
        await settle()
        assert drain(receive) == [3]
    other.close()


async def test_waiting_for_no_receivers(make: Maker) -> None:
    send, receive = make()
    clone = receive.clone()
    gone: list[bool] = []

    async def wait() -> None:
        await send.wait_no_receivers()
        gone.append(True)

    async with create_task_group() as group:
        group.start_soon(wait)
        group.start_soon(wait)
        await settle()
        receive.close()
        await settle()
        assert gone == []
        clone.close()
    assert gone == [True, True]
    await send.wait_no_receivers()


async def test_both_are_context_managers_sync_and_async() -> None:
    send, receive = create_broadcast_stream[int](2)
    with send, receive:
        pass
    with pytest.raises(ClosedResourceError):
        send.send_nowait(1)
    send, receive = create_broadcast_stream[int](2)
    async with send, receive:
        pass
    with pytest.raises(ClosedResourceError):
        receive.receive_nowait()


def test_a_stream_that_nobody_closed_warns() -> None:
    send, receive = create_broadcast_stream[int](2)
    send.close()
    with pytest.warns(ResourceWarning, match="unclosed <BroadcastReceiveStream .* open>"):
        del receive
        gc.collect()
    send, receive = create_broadcast_stream[int](2)
    receive.close()
    with pytest.warns(ResourceWarning, match="unclosed <BroadcastSendStream .* open>"):
        del send
        gc.collect()


# -- reading -----------------------------------------------------------------------------------------


async def test_reading_many_takes_at_most_so_many(make: Maker) -> None:
    send, receive = make(capacity=10)
    send.send_many_nowait(range(5))
    assert await receive.receive_many(3) == [0, 1, 2]
    assert await receive.receive_many(3) == [3, 4]
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="1 or more"):
            await receive.receive_many(wrong)
        with pytest.raises(ValueError, match="1 or more"):
            receive.receive_many_nowait(wrong)


def test_reading_across_the_end_of_the_ring(make: Maker) -> None:
    send, receive = make(capacity=4)
    behind = make.keep(receive.clone())
    send.send_many_nowait(range(4))
    assert behind.receive_many_nowait(3) == [0, 1, 2]
    drain(receive)
    for number in (4, 5, 6):
        send.send_nowait(number)
    assert behind.receive_many_nowait(10) == [3, 4, 5, 6]


async def test_iteration_raises_lag_and_can_go_on(make: Maker) -> None:
    send, receive = make(capacity=2)
    send.send_many_nowait(range(4))
    send.close()
    with pytest.raises(LaggedError):
        async for _ in receive:
            pytest.fail("nothing comes before the lag")
    assert [item async for item in receive] == [2, 3]


def test_an_empty_stream_is_true_and_has_a_length(make: Maker) -> None:
    send, receive = make()
    assert receive
    assert len(receive) == 0
    send.send_nowait(1)
    assert len(receive) == 1


def test_statistics_say_how_both_halves_stand(make: Maker) -> None:
    send, receive = make(capacity=3)
    make.keep(receive.clone())
    send.send_many_nowait(range(2))
    receive.receive_nowait()
    own = receive.statistics()
    channel = send.statistics()
    assert (own.unread, own.missed, own.channel) == (1, 0, channel)
    assert (channel.capacity, channel.buffered, channel.sent) == (3, 2, 2)
    assert (channel.senders, channel.receivers, channel.dropped) == (1, 2, 0)
    assert (channel.tasks_waiting_send, channel.tasks_waiting_receive) == (0, 0)


def test_they_say_what_they_are(make: Maker) -> None:
    send, receive = make()
    assert repr(send) == "<BroadcastSendStream of the broadcast stream, open>"
    receive.close()
    assert repr(receive) == "<BroadcastReceiveStream of the broadcast stream, closed>"


@READ_ONE
async def test_each_way_to_read_goes_round_the_log_lags_and_ends_alike(
    make: Maker, read_one: ReadOne
) -> None:
    send, receive = make(capacity=4)
    make.keep(receive.clone())  # never reads, so that nothing is released

    send.send_many_nowait(range(3))
    assert [await read_one(receive), await read_one(receive)] == [0, 1]
    send.send_many_nowait(range(3, 6))  # the log has wrapped around
    assert [await read_one(receive) for _ in range(3)] == [2, 3, 4]
    send.send_many_nowait(range(6, 12))
    with pytest.raises(LaggedError) as lagged:
        await read_one(receive)
    assert lagged.value.missed == 3
    assert [await read_one(receive) for _ in range(3)] == [8, 9, 10]
    send.close()
    assert await read_one(receive) == 11
    with pytest.raises((EndOfStream, StopAsyncIteration)):
        await read_one(receive)
    receive.close()
    with pytest.raises(ClosedResourceError):
        await read_one(receive)


@READ_ONE
async def test_a_stream_that_is_closed_with_items_to_read_gives_none_of_them(
    make: Maker, read_one: ReadOne
) -> None:
    send, receive = make(capacity=4)
    send.send_many_nowait(range(3))
    await read_one(receive)
    receive.close()
    with pytest.raises(ClosedResourceError):
        await read_one(receive)


# -- fairness ----------------------------------------------------------------------------------------


@READ_ONE
async def test_a_receiver_that_always_has_data_lets_others_run_and_can_be_cancelled(
    make: Maker, read_one: ReadOne
) -> None:
    send, receive = make(capacity=5000)
    send.send_many_nowait(range(5000))
    read = 0
    seen: list[int] = []

    async def bystander() -> None:
        for _ in range(3):
            seen.append(read)
            await checkpoint()

    async with create_task_group() as group:
        group.start_soon(bystander)
        with CancelScope() as scope:
            while True:
                await read_one(receive)
                read += 1
                if read == 2000:
                    scope.cancel()
    assert seen[0] <= 512, "two turns at most, where the loop changes the order"
    assert seen[2] <= 3 * 512
    assert 2000 <= read <= 2256
    assert len(receive) == 5000 - read, "and nothing is lost by the cancellation"


async def test_a_sender_that_never_waits_lets_receivers_keep_up(make: Maker) -> None:
    send, receive = make(capacity=100)
    got: list[int] = []

    async def read() -> None:
        async for item in receive:
            got.append(item)

    async with create_task_group() as group:
        group.start_soon(read)
        await settle()
        for number in range(1000):
            await send.send(number)
        send.close()
    assert got == list(range(1000))


# -- memory ------------------------------------------------------------------------------------------


class Payload:
    pass


def test_payloads_that_everybody_has_read_are_released() -> None:
    send, first = create_broadcast_stream[Payload](4)
    with send, first, first.clone() as second:
        payload = Payload()
        alive = weakref.ref(payload)
        send.send_nowait(payload)
        del payload
        first.receive_nowait()
        assert alive() is not None
        second.receive_nowait()
        assert alive() is None


def test_with_replay_only_the_last_payloads_are_kept() -> None:
    send, receive = create_broadcast_stream[Payload](8, replay=2)
    with send, receive:
        payloads = [Payload() for _ in range(20)]
        alive = [weakref.ref(payload) for payload in payloads]
        while payloads:
            send.send_nowait(payloads.pop(0))
            receive.receive_nowait()
        assert [index for index in range(20) if alive[index]() is not None] == [18, 19]
        assert send.statistics().buffered == 2


def test_closing_the_last_receiver_releases_what_it_had_not_read() -> None:
    send, receive = create_broadcast_stream[Payload](4)
    with send:
        payload = Payload()
        alive = weakref.ref(payload)
        send.send_nowait(payload)
        del payload
        receive.close()
        assert alive() is None


def test_memory_is_that_of_the_log_and_not_of_its_product_with_the_receivers() -> None:
    tracemalloc.start()
    send, first = create_broadcast_stream[int](65_536)
    with ExitStack() as stack:
        stack.enter_context(send)
        receivers = [stack.enter_context(first)]
        receivers += (stack.enter_context(first.clone()) for _ in range(999))
        for _ in range(65_536):
            send.send_nowait(0)
        used, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert used < 3_000_000


# -- configuration -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"capacity": 0}, "capacity"),
        ({"capacity": True}, "capacity"),
        ({"capacity": 2**70}, "capacity"),
        ({"capacity": 2, "replay": 3}, "replay"),
        ({"overflow": "explode"}, "overflow"),
        ({"require_receivers": "yes"}, "require_receivers"),
    ],
)
def test_bad_options_are_a_validation_error_that_names_the_field(
    options: dict[str, Any], field: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        create_broadcast_stream[int](**options)
    assert caught.value.errors()[0]["loc"] == (field,)
