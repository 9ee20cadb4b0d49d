"""Sending from threads: those that AnyIO started, and those that it knows nothing of."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextvars import Context, copy_context
from typing import Any, Literal

import anyio
import pytest
from anyio import (
    ClosedResourceError,
    EndOfStream,
    RunFinishedError,
    create_task_group,
    fail_after,
    to_thread,
)
from support import NUMBERS, WORDS, settle

from orchestrio import (
    BroadcastSendStream,
    ChannelConfig,
    EventBus,
    EventSendError,
    Group,
    LifecycleError,
    Overflow,
    Scheduler,
    TaskId,
    Topic,
    create_broadcast_stream,
)

IN_TIME = 10.0


async def waits_for_room(send: BroadcastSendStream[Any]) -> None:
    while not send.statistics().tasks_waiting_send:
        await anyio.lowlevel.checkpoint()


async def in_a_plain_thread(function: Callable[[], None]) -> None:
    """Run a function in a thread of the standard library; raise what it raises."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    await to_thread.run_sync(thread.join)
    if raised:
        raise raised[0]


async def test_eight_threads_send_thousands_of_items_each_and_none_is_lost() -> None:
    send, receive = create_broadcast_stream[tuple[int, int]](64, overflow="block")
    got: list[list[int]] = [[] for _ in range(8)]

    def publish(name: int) -> None:
        for number in range(2_000):
            send.send_from_thread((name, number))

    async def read() -> None:
        async for name, number in receive:
            got[name].append(number)

    with send, receive:
        async with create_task_group() as group:
            group.start_soon(read)
            async with create_task_group() as writers:
                for name in range(8):
                    writers.start_soon(to_thread.run_sync, publish, name)
            send.close()
    assert got == [list(range(2_000))] * 8, "each thread's items in its order"


async def test_a_thread_that_anyio_did_not_start_may_send() -> None:
    send, receive = create_broadcast_stream[int](4)
    with send, receive:
        await in_a_plain_thread(lambda: send.send_from_thread(1))
        assert await receive.receive() == 1


async def test_a_thread_waits_for_room() -> None:
    send, receive = create_broadcast_stream[int](1, overflow="block")
    with send, receive:
        send.send_nowait(1)
        async with create_task_group() as group:
            group.start_soon(in_a_plain_thread, lambda: send.send_from_thread(2))
            while not send.statistics().tasks_waiting_send:
                await anyio.lowlevel.checkpoint()
            assert receive.receive_nowait() == 1
            assert await receive.receive() == 2


async def test_errors_reach_the_thread() -> None:
    send, receive = create_broadcast_stream[int](1, overflow="error")
    with receive:
        send.send_nowait(1)
        with pytest.raises(EventSendError):
            await in_a_plain_thread(lambda: send.send_from_thread(2))
        send.close()
        with pytest.raises(ClosedResourceError):
            await in_a_plain_thread(lambda: send.send_from_thread(3))


async def test_in_the_event_loops_own_thread_it_is_an_error_and_not_a_deadlock() -> None:
    send, receive = create_broadcast_stream[int](1)
    with send, receive, pytest.raises(LifecycleError, match="send_nowait"):
        send.send_from_thread(1)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_context_that_was_copied_from_an_event_loop_is_none(backend: str) -> None:
    contexts: list[Context] = []

    async def main() -> None:
        contexts.append(copy_context())

    anyio.run(main, backend=backend)
    send, receive = contexts[0].run(create_broadcast_stream[int], 1)
    with send, receive:
        assert len(receive) == 0


def test_before_any_event_loop_it_is_an_error() -> None:
    send, receive = create_broadcast_stream[int](1)
    with send, receive, pytest.raises(LifecycleError, match="no event loop"):
        send.send_from_thread(1)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_after_the_event_loop_has_ended_it_is_an_error(backend: str) -> None:
    senders: list[BroadcastSendStream[int]] = []

    async def main() -> None:
        send, receive = create_broadcast_stream[int](1)
        receive.close()
        senders.append(send)

    anyio.run(main, backend=backend)
    caught: list[BaseException] = []

    def publish() -> None:
        try:
            senders[0].send_from_thread(1)
        except RunFinishedError as error:
            caught.append(error)

    thread = threading.Thread(target=publish)
    thread.start()
    thread.join()
    senders[0].close()
    assert len(caught) == 1


async def test_a_channel_made_before_the_loop_learns_of_it_from_its_first_receiver() -> None:
    numbers = Topic("numbers", int)
    seen: list[int] = []

    def make() -> Scheduler:  # where no event loop runs
        scheduler = Scheduler()
        scheduler.add_channel(numbers)
        return scheduler

    scheduler = await to_thread.run_sync(make)
    sender = scheduler.clone_sender(numbers)

    @scheduler.on(numbers)
    async def collect(number: int) -> None:
        seen.append(number)

    async with scheduler:
        await scheduler.start()
        await in_a_plain_thread(lambda: sender.send_from_thread(5))
        await settle()
    assert seen == [5]


@pytest.mark.parametrize("other", ["asyncio", "trio"])
async def test_an_event_loop_in_another_thread_takes_nothing_over(other: str) -> None:
    """As that of a window or of a second server, which sends on the bus of a scheduler."""
    handled_in: list[int] = []
    async with Scheduler() as scheduler:
        scheduler.add_channel(NUMBERS)

        @scheduler.on(NUMBERS)
        async def handle(number: int) -> None:
            handled_in.append(threading.get_ident())

        await scheduler.start()

        async def send_there() -> None:
            sender = scheduler.clone_sender(NUMBERS)
            sender.send_from_thread(1)  # it is another thread's event loop
            await to_thread.run_sync(sender.send_from_thread, 2)

        await in_a_plain_thread(lambda: anyio.run(send_there, backend=other))
        await in_a_plain_thread(lambda: scheduler.clone_sender(NUMBERS).send_from_thread(3))
        await settle()
    assert handled_in == [threading.get_ident()] * 3


async def test_a_channel_that_is_used_in_another_thread_stays_where_it_is() -> None:
    bus = EventBus()
    bus.add_channel(NUMBERS)
    with bus.subscribe(NUMBERS) as receiver:

        async def send_there() -> None:
            bus.clone_sender(NUMBERS).send_from_thread(1)

        await in_a_plain_thread(lambda: anyio.run(send_there))
        assert await receiver.receive() == 1


def test_an_event_loop_that_stands_still_gives_way_to_another_of_its_thread() -> None:
    """It was never closed, so it has not ended."""
    bus = EventBus()
    first = asyncio.new_event_loop()

    async def open_channel() -> None:
        bus.add_channel(NUMBERS)

    async def go_on() -> None:
        with fail_after(IN_TIME), bus.subscribe(NUMBERS) as receiver:
            await to_thread.run_sync(bus.clone_sender(NUMBERS).send_from_thread, 1)
            assert await receiver.receive() == 1

    try:
        first.run_until_complete(open_channel())
        anyio.run(go_on)
    finally:
        first.close()


async def test_what_is_sent_as_the_thread_looks_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Future[int].result

    def result_too_late(future: Future[int], timeout: float | None = None) -> int:
        if timeout is None:
            return real(future)
        while not future.done():
            time.sleep(0.001)
        raise TimeoutError

    send, receive = create_broadcast_stream[int](1)
    with send, receive:
        with monkeypatch.context() as patched:
            patched.setattr(Future, "result", result_too_late)
            await in_a_plain_thread(lambda: send.send_from_thread(1))
        assert receive.receive_nowait() == 1


# -- many at a time ----------------------------------------------------------------------------


async def test_many_are_sent_in_order() -> None:
    send, receive = create_broadcast_stream[int](8)
    with send, receive:
        await in_a_plain_thread(lambda: send.send_many_from_thread(range(5)))
        await in_a_plain_thread(lambda: send.send_many_from_thread([]))
        assert receive.receive_many_nowait(10) == list(range(5))


async def test_what_is_to_be_sent_is_read_in_the_thread() -> None:
    send, receive = create_broadcast_stream[int](8)
    read_in: list[int] = []

    def items() -> Iterator[int]:
        for number in range(3):
            read_in.append(threading.get_ident())
            yield number

    with send, receive:
        await in_a_plain_thread(lambda: send.send_many_from_thread(items()))
        assert receive.receive_many_nowait(5) == [0, 1, 2]
    assert threading.get_ident() not in read_in


async def test_more_than_there_is_room_for_are_sent_as_there_is_room() -> None:
    send, receive = create_broadcast_stream[int](3, overflow="block")
    with send, receive:
        async with create_task_group() as group:
            group.start_soon(in_a_plain_thread, lambda: send.send_many_from_thread(range(100)))
            with fail_after(IN_TIME):
                assert [await receive.receive() for _ in range(100)] == list(range(100))


async def test_many_threads_and_tasks_share_the_room_and_keep_their_order() -> None:
    send, receive = create_broadcast_stream[tuple[int, int]](3, overflow="block")
    got: list[list[int]] = [[] for _ in range(8)]

    async def publish(name: int) -> None:
        for number in range(200):
            await send.send((name, number))

    def publish_many(name: int) -> None:
        for start in range(0, 200, 20):
            send.send_many_from_thread([(name, number) for number in range(start, start + 20)])

    async def read() -> None:
        async for name, number in receive:
            got[name].append(number)

    with send, receive:
        async with create_task_group() as group:
            group.start_soon(read)
            with fail_after(IN_TIME):
                async with create_task_group() as writers:
                    for name in range(4):
                        writers.start_soon(publish, name)
                        writers.start_soon(to_thread.run_sync, publish_many, name + 4)
            send.close()
    assert got == [list(range(200))] * 8


async def test_all_or_none_are_sent_where_a_full_channel_is_an_error() -> None:
    send, receive = create_broadcast_stream[int](3, overflow="error")
    with send, receive:
        with pytest.raises(EventSendError):
            await in_a_plain_thread(lambda: send.send_many_from_thread(range(4)))
        assert len(receive) == 0


async def test_what_finds_no_room_is_counted_where_it_is_dropped() -> None:
    send, receive = create_broadcast_stream[int](3, overflow="drop_newest")
    with send, receive:
        await in_a_plain_thread(lambda: send.send_many_from_thread(range(5)))
        assert receive.receive_many_nowait(5) == [0, 1, 2]
        assert send.statistics().dropped == 2


@pytest.mark.parametrize("overflow", ["block", "drop_oldest"])
async def test_one_that_is_not_valid_lets_none_through(
    overflow: Literal["block", "drop_oldest"],
) -> None:
    topic = Topic("checked", int, validate=True)
    bus = EventBus()
    bus.add_channel(topic, ChannelConfig(capacity=2, overflow=overflow))
    with bus.subscribe(topic) as receive, bus.clone_sender(topic) as send:
        items: list[Any] = [1, 2, 3, "four"]
        with pytest.raises(EventSendError):
            await in_a_plain_thread(lambda: send.send_many_from_thread(items))
        assert len(receive) == 0


async def test_the_stream_that_is_closed_meanwhile_says_so_to_the_thread() -> None:
    send, receive = create_broadcast_stream[int](1, overflow="block")
    with send, receive:
        send.send_nowait(0)

        async def wait() -> None:
            with pytest.raises(ClosedResourceError):
                await in_a_plain_thread(lambda: send.send_many_from_thread([1, 2]))

        with fail_after(IN_TIME):
            async with create_task_group() as group:
                group.start_soon(wait)
                await waits_for_room(send)
                send.close()


async def test_a_receiver_that_goes_away_frees_a_thread() -> None:
    send, receive = create_broadcast_stream[int](1, overflow="block")
    with send, receive:
        with fail_after(IN_TIME):
            async with create_task_group() as group:
                group.start_soon(in_a_plain_thread, lambda: send.send_many_from_thread(range(9)))
                await waits_for_room(send)
                receive.close()
        assert send.statistics().sent == 9


# -- threads that AnyIO runs for a task --------------------------------------------------------


async def test_a_thread_that_waits_for_room_is_cancelled_with_its_task() -> None:
    send, receive = create_broadcast_stream[int](1, overflow="block")
    with send, receive:
        send.send_nowait(1)
        with fail_after(IN_TIME):
            async with create_task_group() as group:
                group.start_soon(to_thread.run_sync, send.send_from_thread, 2)
                await waits_for_room(send)
                group.cancel_scope.cancel()
        assert receive.receive_many_nowait(2) == [1]
        assert send.statistics().tasks_waiting_send == 0


async def test_a_thread_that_sends_for_ever_is_cancelled_with_its_task() -> None:
    send, receive = create_broadcast_stream[int](4)

    def send_for_ever() -> None:
        while True:
            send.send_from_thread(1)

    with send, receive, fail_after(IN_TIME):
        async with create_task_group() as group:
            group.start_soon(to_thread.run_sync, send_for_ever)
            await receive.receive()
            group.cancel_scope.cancel()


# -- a scheduler -------------------------------------------------------------------------------


async def test_a_thread_sends_to_nobody_on_a_scheduler_that_runs() -> None:
    def make() -> Scheduler:  # where no event loop runs
        return Scheduler()

    scheduler = await to_thread.run_sync(make)
    scheduler.add_channel(NUMBERS)
    sender = scheduler.clone_sender(NUMBERS)

    def make_another() -> None:
        scheduler.add_channel(WORDS)
        scheduler.clone_sender(WORDS).send_from_thread("a word")

    async with scheduler:
        await in_a_plain_thread(lambda: sender.send_from_thread(1))
        await scheduler.start()
        await in_a_plain_thread(lambda: sender.send_many_from_thread([2, 3]))
        await in_a_plain_thread(make_another)
        sent = {event: channel.sent for event, channel in scheduler.bus.statistics().items()}
    assert (sent[NUMBERS], sent[WORDS]) == (3, 1)


async def test_a_thread_in_the_middle_of_many_hears_that_its_readers_have_left_in_a_stop() -> None:
    scheduler = Scheduler()
    scheduler.add_channel(NUMBERS, ChannelConfig(capacity=1, overflow="block"))
    sender = scheduler.clone_sender(NUMBERS)
    handled: list[int] = []
    ended: list[BaseException | None] = []

    @scheduler.on(NUMBERS, drain_timeout=0)
    async def handle(number: int) -> None:
        handled.append(number)
        if number == 3:
            scheduler_stops.set()

    def send() -> None:
        try:
            sender.send_many_from_thread(range(100_000))
        except BaseException as error:
            ended.append(error)
        else:
            ended.append(None)

    scheduler_stops = anyio.Event()
    with fail_after(IN_TIME):
        async with scheduler:
            await scheduler.start()
            thread = threading.Thread(target=send)
            thread.start()
            await scheduler_stops.wait()
        await to_thread.run_sync(thread.join)
    assert len(handled) < 100_000
    assert isinstance(ended[0], ClosedResourceError)
    with pytest.raises(ClosedResourceError):  # and not that it would wait for itself
        sender.send_from_thread(1)


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("overflow", ["drop_oldest", "block"])
async def test_a_handler_that_sends_from_a_thread_finishes_its_message_as_one_that_publishes(
    overflow: Overflow, many: bool
) -> None:
    """In its last one, it is itself no reader any more."""
    scheduler = Scheduler()
    scheduler.add_channel(NUMBERS, ChannelConfig(capacity=4, overflow=overflow))
    sender = scheduler.clone_sender(NUMBERS)
    finished: list[int] = []
    begun = anyio.Event()

    @scheduler.on(NUMBERS)
    async def crawl(number: int) -> None:
        begun.set()
        await scheduler.stopping.wait()
        await settle()
        if number == 1:
            await scheduler.publish(NUMBERS, 2)
        elif many:
            await to_thread.run_sync(sender.send_many_from_thread, [3, 4])
        else:
            await to_thread.run_sync(sender.send_from_thread, 3)
        finished.append(number)

    with fail_after(IN_TIME):
        async with scheduler:
            await scheduler.start()
            await scheduler.publish(NUMBERS, 1)
            await begun.wait()
            await scheduler.shutdown()
    assert finished[:2] == [1, 2]  # and it goes round until the drain is found to be over
    assert scheduler.status()[0].error is None


# -- what is for the event loop's own thread ---------------------------------------------------


groups: list[Group] = []  # the last one is that of the test

CALLS: dict[str, Callable[[Scheduler, BroadcastSendStream[int]], object]] = {
    "publish_nowait": lambda scheduler, _: scheduler.bus.publish_nowait(NUMBERS, 1),
    "publish": lambda scheduler, _: begin(scheduler.publish(NUMBERS, 1)),
    "publish on the bus": lambda scheduler, _: begin(scheduler.bus.publish(NUMBERS, 1)),
    "send_nowait": lambda _, sender: sender.send_nowait(1),
    "send": lambda _, sender: begin(sender.send(1)),
    "send_many_nowait": lambda _, sender: sender.send_many_nowait([1, 2]),
    "subscribe": lambda scheduler, _: scheduler.subscribe(NUMBERS),
    "subscribe to a sender": lambda _, sender: sender.subscribe(),
    "wait_for": lambda scheduler, _: begin(wait_for_one(scheduler)),
    "wait_no_receivers": lambda _, sender: begin(sender.wait_no_receivers()),
    "remove_channel": lambda scheduler, _: scheduler.bus.remove_channel(NUMBERS),
    "close of the bus": lambda scheduler, _: scheduler.bus.close(),
    "group": lambda scheduler, _: scheduler.group("more"),
    "background": lambda scheduler, _: scheduler.background(anyio.sleep_forever),
    "stop_task": lambda scheduler, _: begin(scheduler.stop_task(only_task(scheduler))),
    "restart_task": lambda scheduler, _: begin(scheduler.restart_task(only_task(scheduler))),
    "remove_task": lambda scheduler, _: begin(scheduler.remove_task(only_task(scheduler))),
    "wait_stopped": lambda scheduler, _: begin(scheduler.wait_stopped(only_task(scheduler))),
    "stop of a group": lambda scheduler, _: begin(groups[-1].stop()),
    "restart of a group": lambda scheduler, _: begin(groups[-1].restart()),
    "remove of a group": lambda scheduler, _: begin(groups[-1].remove()),
    "shutdown": lambda scheduler, _: begin(scheduler.shutdown()),
    "run": lambda scheduler, _: begin(scheduler.run()),
}


def only_task(scheduler: Scheduler) -> TaskId:
    return scheduler.status()[0].task_id


async def wait_for_one(scheduler: Scheduler) -> int:
    return await scheduler.bus.wait_for(NUMBERS)


def begin(coroutine: Coroutine[Any, Any, object]) -> None:
    """Do what a coroutine does before it waits, as a loop in that thread would."""
    try:
        coroutine.send(None)
    finally:
        coroutine.close()


@pytest.mark.parametrize("overflow", ["drop_oldest", "block"])
@pytest.mark.parametrize("call", CALLS)
async def test_a_call_for_the_event_loop_is_refused_in_another_thread(
    call: str, overflow: Overflow
) -> None:
    handled: list[int] = []

    async with Scheduler() as scheduler:
        scheduler.add_channel(NUMBERS, ChannelConfig(overflow=overflow))

        @scheduler.on(NUMBERS)
        async def handle(number: int) -> None:
            handled.append(number)

        groups.append(scheduler.group("inner"))
        await scheduler.start()
        sender = scheduler.clone_sender(NUMBERS)
        await settle()
        before = scheduler.bus.channels.keys(), len(scheduler.registry), sender.statistics()
        with pytest.raises(LifecycleError, match=r"another thread.*send_from_thread\(\)"):
            await in_a_plain_thread(lambda: void(CALLS[call](scheduler, sender)))
        await settle()
        after = scheduler.bus.channels.keys(), len(scheduler.registry), sender.statistics()
        assert after == before, "nothing is done"
        assert await scheduler.publish(NUMBERS, 2) == 1
    assert handled == [2]


def void(_: object) -> None:
    """Let a result go."""


@pytest.mark.parametrize("overflow", ["drop_oldest", "block"])
async def test_receiving_in_another_thread_is_refused(overflow: Overflow) -> None:
    send, receive = create_broadcast_stream[int](4, overflow=overflow)
    with send, receive:
        send.send_nowait(1)
        calls: list[Callable[[], object]] = [
            receive.receive_nowait,
            lambda: receive.receive_many_nowait(1),
            receive.clone,
            receive.resubscribe,
        ]
        for call in calls:
            with pytest.raises(LifecycleError, match="another thread"):
                await in_a_plain_thread(lambda call=call: void(call()))  # type: ignore[misc]
        assert await receive.receive() == 1
        with pytest.raises(LifecycleError, match="another thread"):
            await in_a_plain_thread(lambda: begin(receive.receive()))


async def test_a_sender_that_a_thread_closes_ends_the_stream() -> None:
    send, receive = create_broadcast_stream[int](4)

    def send_two() -> None:
        with send:
            send.send_many_from_thread([1, 2])

    with receive, fail_after(IN_TIME):
        await in_a_plain_thread(send_two)
        assert [item async for item in receive] == [1, 2]


async def test_a_receiver_that_a_thread_closes_frees_a_sender() -> None:
    send, receive = create_broadcast_stream[int](1, overflow="block")
    with send, fail_after(IN_TIME):
        send.send_nowait(1)
        async with create_task_group() as group:
            group.start_soon(send.send, 2)
            await waits_for_room(send)
            await in_a_plain_thread(receive.close)


def test_when_the_event_loop_has_ended_any_thread_may_read_and_send() -> None:
    send, receive = create_broadcast_stream[int](4)

    async def use() -> None:
        await send.send(1)
        assert await receive.receive() == 1

    thread = threading.Thread(target=anyio.run, args=[use])
    thread.start()
    thread.join()
    with receive:
        send.send_nowait(2)
        send.close()
        assert receive.receive_nowait() == 2
        with pytest.raises(EndOfStream):
            receive.receive_nowait()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_call_that_was_refused_holds_no_stop_up(backend: Literal["asyncio", "trio"]) -> None:
    scheduler = Scheduler()
    scheduler.add_channel(NUMBERS)
    handled: list[int] = []

    @scheduler.on(NUMBERS)
    async def handle(number: int) -> None:
        handled.append(number)

    @scheduler.background
    async def go_on_in_a_thread() -> None:
        with pytest.raises(LifecycleError, match="another thread"):
            await in_a_plain_thread(lambda: void(scheduler.bus.publish_nowait(NUMBERS, 1)))

    options = {"debug": True} if backend == "asyncio" else None
    scheduler.run_sync(backend, options)
    assert handled == []
