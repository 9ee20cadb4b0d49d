"""Cancellation at every turn: an operation happened or it did not, and nothing is in between."""

from __future__ import annotations

import asyncio

import anyio
import pytest
from anyio import CancelScope, WouldBlock, create_task_group
from anyio.lowlevel import checkpoint
from support import cancelled, settle

from orchestrio import create_broadcast_stream

TURNS = range(8)


async def cancel_after(turns: int, scope: CancelScope) -> None:
    for _ in range(turns):
        await checkpoint()
    scope.cancel()


@pytest.mark.parametrize("send_at", TURNS)
@pytest.mark.parametrize("cancel_at", TURNS)
async def test_a_cancelled_receive_returned_the_item_or_left_it(
    send_at: int, cancel_at: int
) -> None:
    send, receive = create_broadcast_stream[int](4)
    got: list[int] = []

    async def publish() -> None:
        for _ in range(send_at):
            await checkpoint()
        send.send_nowait(1)
        send.send_nowait(2)

    with send, receive:
        async with create_task_group() as group:
            group.start_soon(publish)
            with CancelScope() as scope:
                group.start_soon(cancel_after, cancel_at, scope)
                got.append(await receive.receive())
            await settle()
        while len(receive):
            got.append(receive.receive_nowait())
    assert got == [1, 2]


@pytest.mark.parametrize("read_at", TURNS)
@pytest.mark.parametrize("cancel_at", TURNS)
async def test_a_cancelled_send_sent_the_item_or_did_not_and_passes_its_turn_on(
    read_at: int, cancel_at: int
) -> None:
    send, receive = create_broadcast_stream[str](1, overflow="block")
    returned = False
    got: list[str] = []

    async def read() -> None:
        for _ in range(read_at):
            await checkpoint()
        assert receive.receive_nowait() == "first"

    with send, receive:
        send.send_nowait("first")
        async with create_task_group() as group:
            group.start_soon(read)
            with CancelScope() as scope:
                group.start_soon(cancel_after, cancel_at, scope)
                await send.send("cancelled")
                returned = True
            await settle()
            group.start_soon(send.send, "behind")
            await settle()
            got.append(receive.receive_nowait())
            await settle()
            if len(receive):
                got.append(receive.receive_nowait())
        assert got == (["cancelled", "behind"] if returned else ["behind"])
        with pytest.raises(WouldBlock):
            receive.receive_nowait()


def test_on_asyncio_a_woken_sender_that_is_cancelled_lets_the_next_one_go() -> None:
    async def main() -> list[int]:
        send, receive = create_broadcast_stream[int](1, overflow="block")
        with send, receive:
            send.send_nowait(0)
            first = asyncio.create_task(send.send(1))
            await asyncio.sleep(0)
            second = asyncio.create_task(send.send(2))
            await asyncio.sleep(0)
            assert receive.receive_nowait() == 0  # wakes the first ...
            first.cancel()  # ... which is cancelled before it gets to run
            await asyncio.wait([first, second], timeout=5)
            assert first.cancelled()
            return receive.receive_many_nowait(10)

    assert anyio.run(main, backend="asyncio") == [2]


@pytest.mark.parametrize("way", ["receive", "receive_many", "async for"])
async def test_nothing_is_received_in_a_cancelled_scope_though_it_comes_at_once(way: str) -> None:
    send, receive = create_broadcast_stream[int](4)
    got: list[object] = []

    async def publish() -> None:
        send.send_nowait(1)

    with send, receive:
        async with create_task_group() as group:
            group.start_soon(publish)
            with cancelled():
                if way == "receive":
                    got.append(await receive.receive())
                elif way == "receive_many":
                    got.append(await receive.receive_many(1))
                else:
                    got.append(await anext(receive))
        assert got == []
        assert receive.receive_nowait() == 1


async def test_nothing_is_sent_in_a_cancelled_scope_though_there_is_room_at_once() -> None:
    send, receive = create_broadcast_stream[int](1, overflow="block")

    async def read() -> None:
        assert receive.receive_nowait() == 1

    with send, receive:
        send.send_nowait(1)
        async with create_task_group() as group:
            group.start_soon(read)
            with cancelled() as scope:
                await send.send(2)
            assert scope.cancelled_caught
        assert send.statistics().sent == 1
        await send.send(3)  # its turn was given up
        assert receive.receive_nowait() == 3


async def test_waiting_again_after_a_cancelled_wait_works() -> None:
    send, receive = create_broadcast_stream[int](2)
    with send, receive:
        for number in range(3):
            with cancelled() as scope:
                await receive.receive()
            assert scope.cancelled_caught
            async with create_task_group() as group:
                group.start_soon(settle, 3)
                send.send_nowait(number)
                assert await receive.receive() == number
        assert send.statistics().tasks_waiting_receive == 0


async def test_closing_is_possible_in_a_cancelled_scope() -> None:
    send, receive = create_broadcast_stream[int](2)
    with cancelled():
        await receive.aclose()
    with cancelled():
        await send.aclose()
    assert send.statistics().receivers == 0
    assert send.statistics().senders == 0


@pytest.mark.parametrize("cancel_at", TURNS)
def test_on_asyncio_a_native_cancellation_loses_nothing_either(cancel_at: int) -> None:
    async def main() -> list[int]:
        send, receive = create_broadcast_stream[int](4)
        got: list[int] = []

        async def read() -> None:
            while True:
                got.append(await receive.receive())

        with send, receive:
            task = asyncio.create_task(read())
            for turn in range(8):
                if turn == 3:
                    send.send_nowait(1)
                if turn == cancel_at:
                    task.cancel()
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            while len(receive):
                got.append(receive.receive_nowait())
        return got

    assert anyio.run(main, backend="asyncio") == [1]
