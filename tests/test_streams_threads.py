"""Sending from threads: those that AnyIO started, and those that it knows nothing of."""

from __future__ import annotations

import threading
from collections.abc import Callable

import anyio
import pytest
from anyio import ClosedResourceError, RunFinishedError, create_task_group, to_thread
from support import settle

from orchestrio import (
    BroadcastSendStream,
    EventSendError,
    LifecycleError,
    Scheduler,
    Topic,
    create_broadcast_stream,
)


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


async def test_eight_threads_send_ten_thousand_items_each_and_none_is_lost() -> None:
    send, receive = create_broadcast_stream[tuple[int, int]](64, overflow="block")
    got: list[list[int]] = [[] for _ in range(8)]

    def publish(name: int) -> None:
        for number in range(10_000):
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
    assert got == [list(range(10_000))] * 8, "each thread's items in its order"


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
