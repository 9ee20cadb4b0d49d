"""A bus or a stream that is used in one event loop after the other, each left tidily."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import pytest
from anyio import RunFinishedError, create_task_group, fail_after, move_on_after, to_thread
from support import NUMBERS, settle

from orchestrio import (
    BroadcastReceiveStream,
    BroadcastSendStream,
    ChannelConfig,
    EventBus,
    Scheduler,
    create_broadcast_stream,
)

LOOPS = [
    pytest.param((("asyncio", False), ("asyncio", False)), id="asyncio"),
    pytest.param((("trio", False), ("trio", False)), id="trio"),
    pytest.param((("asyncio", False), ("trio", False)), id="asyncio-trio"),
    pytest.param((("trio", False), ("asyncio", False)), id="trio-asyncio"),
]

Run = Callable[[Callable[[], Awaitable[object]]], None]


@pytest.fixture(params=LOOPS)
def in_two_loops(request: pytest.FixtureRequest) -> Run:
    """Runs a function in one event loop, and then in another."""

    def run(function: Callable[[], Awaitable[object]]) -> None:
        async def bounded() -> None:
            with fail_after(10):
                await function()

        for backend, _ in request.param:
            anyio.run(bounded, backend=backend)

    return run


@pytest.fixture
def bus() -> EventBus:
    """A bus at module level, as it were."""
    bus = EventBus()
    bus.add_channel(NUMBERS, ChannelConfig(capacity=2, overflow="block"))
    return bus


def test_a_thread_sends_in_both(in_two_loops: Run, bus: EventBus) -> None:
    seen: list[int] = []

    async def once() -> None:
        with bus.subscribe(NUMBERS) as receiver:
            await to_thread.run_sync(bus.clone_sender(NUMBERS).send_from_thread, 3)
            seen.append(await receiver.receive())

    in_two_loops(once)
    assert seen == [3, 3]


def test_a_thread_sends_to_a_receiver_of_the_first(in_two_loops: Run, bus: EventBus) -> None:
    receiver = bus.subscribe(NUMBERS)
    seen: list[int] = []

    async def once() -> None:
        sender = bus.clone_sender(NUMBERS)
        await to_thread.run_sync(sender.send_many_from_thread, [3, 4])
        seen.extend(await receiver.receive_many(5))

    with receiver:
        in_two_loops(once)
    assert seen == [3, 4, 3, 4]


def test_a_receiver_that_waited_in_the_first_waits_in_the_second(in_two_loops: Run) -> None:
    send, receive = create_broadcast_stream[int](2, overflow="block")
    seen: list[int] = []

    async def once() -> None:
        with move_on_after(0.01):
            await receive.receive()
        async with create_task_group() as group:
            group.start_soon(send.send, 1)
            seen.append(await receive.receive())

    with send, receive:
        in_two_loops(once)
    assert seen == [1, 1]


def test_a_sender_that_waited_in_the_first_waits_in_the_second(in_two_loops: Run) -> None:
    send, receive = create_broadcast_stream[int](1, overflow="block")

    async def once() -> None:
        with move_on_after(0.01):
            await send.wait_no_receivers()
        await send.send(1)
        with move_on_after(0.01) as scope:
            await send.send(2)
        assert scope.cancelled_caught
        async with create_task_group() as group:
            group.start_soon(send.send, 2)
            await settle()
            assert [await receive.receive() for _ in range(2)] == [1, 2]

    with send, receive:
        in_two_loops(once)


def test_wait_for_works_in_both(in_two_loops: Run, bus: EventBus) -> None:
    async def once() -> None:
        with move_on_after(0.01):
            await bus.wait_for(NUMBERS)
        async with create_task_group() as group:
            group.start_soon(bus.wait_for, NUMBERS)
            await settle()
            assert await bus.publish(NUMBERS, 1) == 1

    in_two_loops(once)


def test_two_schedulers_in_two_loops_share_a_stream(in_two_loops: Run) -> None:
    send, receive = create_broadcast_stream[int](4)
    seen: list[int] = []

    async def once() -> None:
        async with Scheduler() as scheduler:

            @scheduler.background()
            async def read() -> None:
                async for number in receive:
                    seen.append(number)

            await scheduler.start()
            await settle()
            await send.send(1)
            await settle()

    with send, receive:
        in_two_loops(once)
    assert seen == [1, 1]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_thread_that_cannot_know_the_second_is_told_what_to_do(backend: str) -> None:
    async def first() -> tuple[BroadcastSendStream[int], BroadcastReceiveStream[int]]:
        return create_broadcast_stream[int](2)

    send, receive = anyio.run(first, backend=backend)

    async def second() -> None:
        with pytest.raises(RunFinishedError) as told:
            await to_thread.run_sync(send.send_from_thread, 1)
        assert "in the new one" in "".join(told.value.__notes__)

    with send, receive:
        anyio.run(second, backend=backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_thread_that_sends_while_the_loop_ends_is_told_so(backend: str) -> None:
    told: list[BaseException] = []

    async def main(options: dict[str, Any]) -> None:
        send, receive = create_broadcast_stream[int](2, **options)

        def go_on() -> None:
            try:
                while True:
                    send.send_from_thread(1)
            except BaseException as error:
                told.append(error)

        async def read() -> None:
            async for _ in receive:
                pass

        threads.append(threading.Thread(target=go_on, daemon=True))
        streams.extend([send, receive])
        async with create_task_group() as group:
            group.start_soon(read)
            threads[-1].start()
            await anyio.sleep(0.002)
            group.cancel_scope.cancel()

    threads: list[Any] = []
    streams: list[Any] = []
    for options in ({"overflow": "drop_oldest"}, {"overflow": "block"}) * 25:
        anyio.run(partial(main, options), backend=backend)
        threads[-1].join(10)
        assert not threads[-1].is_alive()
    send, receive = streams[-2:]

    async def another() -> None:  # none of the threads waits in it any more
        with fail_after(10):
            for number in range(5):
                if len(receive):
                    receive.receive_many_nowait(5)
                await send.send(number)

    anyio.run(another, backend=backend)
    for stream in streams:
        stream.close()
    assert {type(error) for error in told} == {RunFinishedError}
