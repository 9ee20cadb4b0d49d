"""What is garbage is closed, whoever collects it: nobody waits for what nobody holds."""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import EndOfStream, create_task_group, fail_after, to_thread
from support import NUMBERS, settle

from orchestrio import (
    BroadcastReceiveStream,
    BroadcastSendStream,
    ChannelConfig,
    EventBus,
    create_broadcast_stream,
)

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

IN_TIME = 10.0


def here(collect: Callable[[], object]) -> Any:
    async def run() -> None:
        collect()

    return run()


def in_a_thread(collect: Callable[[], object]) -> Any:
    return to_thread.run_sync(collect)


@pytest.fixture(params=[here, in_a_thread])
def where(request: pytest.FixtureRequest) -> Callable[[Callable[[], object]], Any]:
    """Who drops the last reference: the thread of the event loop, or another one."""
    return request.param  # type: ignore[no-any-return]


Where = Callable[[Callable[[], object]], Any]


async def waits_for_room(send: BroadcastSendStream[int]) -> None:
    while not send.statistics().tasks_waiting_send:
        await anyio.lowlevel.checkpoint()


async def test_a_loop_that_is_left_closes_its_receiver() -> None:
    bus = EventBus()
    bus.add_channel(NUMBERS, ChannelConfig(capacity=1, overflow="block"))

    async def first() -> int:
        async for number in bus.subscribe(NUMBERS):
            return number
        raise AssertionError

    async with create_task_group() as group:
        group.start_soon(first)
        await settle()
        with fail_after(IN_TIME):
            for number in range(5):
                await bus.publish(NUMBERS, number)
    assert bus.statistics()[NUMBERS].receivers == 0


async def test_a_sender_that_waits_is_freed(where: Where) -> None:
    send, receive = create_broadcast_stream[int](1, overflow="block")
    kept = [receive]
    del receive
    with send:
        send.send_nowait(1)
        async with create_task_group() as group:
            group.start_soon(send.send, 2)
            await waits_for_room(send)
            with fail_after(IN_TIME):
                await where(kept.clear)
                await send.wait_no_receivers()
        assert send.statistics().receivers == 0


async def test_a_receiver_in_a_cycle_is_closed(where: Where) -> None:
    class Connection:
        def __init__(self, stream: BroadcastReceiveStream[int]) -> None:
            self.stream = stream
            self.itself = self

    send, receive = create_broadcast_stream[int](1, overflow="block")
    kept = [Connection(receive)]
    del receive
    with send:
        send.send_nowait(1)
        kept.clear()
        async with create_task_group() as group:
            group.start_soon(send.send, 2)
            with fail_after(IN_TIME):
                await where(gc.collect)
                await send.wait_no_receivers()


async def test_only_what_is_garbage_is_closed(where: Where) -> None:
    send, receive = create_broadcast_stream[int](2, overflow="block")
    with send, receive:
        clones = [receive.clone() for _ in range(3)]
        send.send_nowait(1)
        await where(clones.clear)
        await settle()
        assert send.statistics().receivers == 1
        assert await receive.receive() == 1


async def test_the_last_sender_that_is_garbage_ends_the_stream(where: Where) -> None:
    send, receive = create_broadcast_stream[int](4)
    kept = [send, send.clone()]
    del send
    with receive:
        kept[0].send_nowait(7)

        async def drop() -> None:
            await settle()  # it waits already
            await where(kept.clear)

        async with create_task_group() as group:
            group.start_soon(drop)
            with fail_after(IN_TIME):
                assert [item async for item in receive] == [7]


async def test_a_sender_that_was_garbage_before_anybody_waited_ends_the_stream() -> None:
    def make() -> BroadcastReceiveStream[int]:  # where no event loop runs
        return create_broadcast_stream[int](4)[1]

    with await to_thread.run_sync(make) as receive, fail_after(IN_TIME), pytest.raises(EndOfStream):
        await receive.receive()


async def test_a_receiver_made_before_the_loop_is_closed(where: Where) -> None:
    def make() -> tuple[BroadcastSendStream[int], list[BroadcastReceiveStream[int]]]:
        send, receive = create_broadcast_stream[int](1, overflow="block")
        return send, [receive]

    send, kept = await to_thread.run_sync(make)
    with send:
        send.send_nowait(1)
        async with create_task_group() as group:
            group.start_soon(send.send, 2)
            await waits_for_room(send)
            with fail_after(IN_TIME):
                await where(kept.clear)


def test_without_an_event_loop_a_full_channel_has_room_again() -> None:
    send, receive = create_broadcast_stream[int](1, overflow="error")
    with send:
        send.send_nowait(1)
        del receive
        send.send_nowait(2)


async def test_senders_of_a_bus_that_are_garbage_are_not_counted() -> None:
    bus = EventBus()
    bus.add_channel(NUMBERS)
    for number in range(100):
        bus.clone_sender(NUMBERS).send_nowait(number)
    with bus.clone_sender(NUMBERS):
        assert bus.statistics()[NUMBERS].senders == 2  # with that of the bus


async def test_threads_that_drop_receivers_while_others_send_do_no_harm() -> None:
    send, receive = create_broadcast_stream[int](8, overflow="block")
    got: list[int] = []

    async def read() -> None:
        got.extend([number async for number in receive])

    async def drop() -> None:
        for _ in range(50):
            kept = [receive.clone() for _ in range(10)]
            await to_thread.run_sync(kept.clear)

    with send, receive:
        async with create_task_group() as group:
            group.start_soon(read)
            with fail_after(IN_TIME):
                async with create_task_group() as inner:
                    for _ in range(4):
                        inner.start_soon(drop)
                    for number in range(2000):
                        await send.send(number)
                await settle()
            assert send.statistics().receivers == 1
            send.close()
    assert got == list(range(2000))


BACKENDS = [("asyncio", {"debug": True}), ("trio", {})]


@pytest.mark.parametrize(("backend", "options"), BACKENDS)
def test_a_worker_thread_collects_in_debug_mode(backend: str, options: dict[str, Any]) -> None:
    async def main() -> None:
        send, receive = create_broadcast_stream[int](1, overflow="block")
        kept = [receive]
        del receive
        with send:
            send.send_nowait(1)
            async with create_task_group() as group:
                group.start_soon(send.send, 2)
                await waits_for_room(send)
                with fail_after(IN_TIME):
                    await to_thread.run_sync(kept.clear)
                    await send.wait_no_receivers()

    anyio.run(main, backend=backend, backend_options=options)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_what_was_collected_between_two_loops_is_closed_in_the_second(backend: str) -> None:
    send, receive = create_broadcast_stream[int](1, overflow="block")
    kept = [receive]
    del receive

    async def first() -> None:
        await send.send(1)
        with pytest.raises(anyio.WouldBlock):
            send.send_nowait(2)

    async def second() -> None:
        with fail_after(IN_TIME):
            await send.wait_no_receivers()
            await send.send(2)

    anyio.run(first, backend=backend)
    kept.clear()
    with send:
        anyio.run(second, backend=backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("dev", [[], ["-X", "dev"]], ids=["", "dev"])
def test_at_the_exit_it_warns_and_does_nothing_else(
    backend: str, dev: list[str], tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(f"""
        import anyio
        from orchestrio import EventBus, create_broadcast_stream

        bus = EventBus()
        bus.add_channel("news")
        kept = []

        async def main():
            send, receive = create_broadcast_stream(2, overflow="block")
            kept.extend([send, receive, receive.clone()])
            kept.extend([bus.subscribe("news"), bus.clone_sender("news")])
            kept.append(kept)  # a cycle

        anyio.run(main, backend={backend!r})
        outside = bus.subscribe("news")
        """)
    )
    ended = subprocess.run(
        [sys.executable, *dev, "-W", "default::ResourceWarning", program],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    assert "ResourceWarning: unclosed <BroadcastReceiveStream" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, pickle.dumps])
async def test_a_stream_cannot_be_copied_but_by_clone(how: Callable[[object], object]) -> None:
    # A copy would have a channel of its own, or close that of the other one as garbage.
    send, receive = create_broadcast_stream[int](2)
    with send, receive:
        for stream in (send, receive):
            with pytest.raises(TypeError, match=r"cannot be copied or pickled.*clone\(\)"):
                how(stream)


@pytest.mark.parametrize("kind", [BroadcastSendStream, BroadcastReceiveStream])
async def test_a_stream_that_was_never_made_is_garbage_without_a_word(
    kind: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    ignored: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    with pytest.raises(TypeError):
        kind()
    gc.collect()
    assert not ignored
