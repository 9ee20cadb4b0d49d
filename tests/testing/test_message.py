"""``current_task_context().message`` of what a bridge has brought."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
from anyio import Event, sleep

from orchestrio import ChannelConfig, Message, Scheduler, Topic, current_task_context
from orchestrio.redis import traceparent
from orchestrio.testing import MemoryBridge, MemoryServer, harness, virtual_time

NUMBERS = Topic("numbers", int)
START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    return virtual_time(request.param, start=START)


def this() -> Message:
    return current_task_context().message


def process(
    server: MemoryServer,
    handler: Callable[[int], Awaitable[None]] | None = None,
    *,
    compete: bool = False,
    concurrency: int = 1,
    retries: int = 0,
    capacity: int = 8,
) -> Scheduler:
    scheduler = Scheduler()
    scheduler.add_channel(NUMBERS, ChannelConfig(capacity=capacity))
    mode = "compete" if compete else "broadcast"
    bridge = MemoryBridge(server, topics=[NUMBERS], mode=mode, max_deliveries=3)  # type: ignore[arg-type]  # one of two
    scheduler.register_background_task(bridge)
    if handler is not None:
        scheduler.on(NUMBERS, on_error="skip", concurrency=concurrency, retries=retries)(handler)
    return scheduler


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("compete", [False, True])
async def test_it_knows_where_a_message_comes_from(compete: bool, concurrency: int) -> None:
    seen = dict[int, Message]()

    async def keep(number: int) -> None:
        await sleep(5)
        seen[number] = this()

    with MemoryServer() as server:
        receiver = process(server, keep, compete=compete, concurrency=concurrency)
        sender = process(server, compete=compete)
        async with harness(receiver) as there, harness(sender) as here:
            received = there.record(NUMBERS)
            await sleep(60)
            for number in (1, 2, 3):
                await here.publish(NUMBERS, number)
                await sleep(1)
            await received.wait_for(3)
            await there.idle()
    assert {number: message.number for number, message in seen.items()} == {1: 1, 2: 2, 3: 3}
    assert all(message.topic == NUMBERS and message.attempt == 1 for message in seen.values())
    assert len({message.id for message in seen.values()} - {None}) == 3
    assert len({message.origin for message in seen.values()} - {None}) == 1
    times = [seen[number].published_at for number in (1, 2, 3)]
    assert times == [START + timedelta(seconds=60 + n) for n in range(3)]


async def test_a_slow_handler_knows_its_message_after_many_others() -> None:
    seen = list[Message]()

    async def keep(_: int) -> None:
        before = this()
        await sleep(100)
        assert this() == before
        seen.append(before)

    with MemoryServer() as server:
        async with harness(process(server, keep, capacity=2)) as there:
            received = there.record(NUMBERS)
            for number in range(10):
                await there.publish(NUMBERS, number)
                await sleep(1)
            await received.wait_for(10)
            await there.idle()
    assert seen[0].number == 1
    assert all(message.id for message in seen)


async def test_a_delivery_again_is_another_attempt_at_the_same_message() -> None:
    seen = list[tuple[int, str | None]]()

    async def keep(_: int) -> None:
        seen.append((this().attempt, this().id))
        if len(seen) < 4:
            raise ValueError

    with MemoryServer() as server:
        async with harness(process(server, keep, compete=True, retries=1)) as there:
            await there.publish(NUMBERS, 7)
            await sleep(60)
    # Handled twice at each delivery; the second one knows of one before it.
    assert [attempt for attempt, _ in seen] == [1, 2, 2, 3]
    assert len({identifier for _, identifier in seen}) == 1


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_no_handling_begins_before_the_server_knows(concurrency: int) -> None:
    begun = list[int]()
    first_is_there, go_on = Event(), Event()

    async def keep(number: int) -> None:
        begun.append(number)
        first_is_there.set()
        await go_on.wait()

    with MemoryServer() as server:
        stuck = process(server, keep, compete=True, concurrency=concurrency)
        async with harness(stuck) as there:
            for number in range(1, concurrency + 2):
                await there.publish(NUMBERS, number)
            await first_is_there.wait()
            await sleep(1)
            assert len(begun) == concurrency
            server.up = False
            go_on.set()
            await sleep(1)
            assert len(begun) == concurrency  # the last one waits for the server
            await there.scheduler.remove_task(there.task("keep").task_id)
            attempts = list[tuple[int, int]]()

            async def again(number: int) -> None:
                attempts.append((number, this().attempt))

            there.scheduler.on(NUMBERS)(again)
            await sleep(1)
            server.up = True
            await sleep(1)
            assert attempts == [(concurrency + 1, 1)]  # cancelled before it began: that is none


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_what_was_cancelled_before_it_began_comes_again(concurrency: int) -> None:
    attempts = list[tuple[int, int]]()
    go_on = Event()

    async def keep(number: int) -> None:
        attempts.append((number, this().attempt))
        await go_on.wait()

    with MemoryServer() as server:
        async with harness(process(server, keep, compete=True, concurrency=concurrency)) as there:
            for number in range(concurrency + 1):
                await there.publish(NUMBERS, number)
            await sleep(1)
            server.up = False
            go_on.set()  # the last one has come in, and nobody has begun to handle it
            await sleep(1)
            await there.scheduler.restart_task(there.task("keep").task_id)
            server.up = True
            await sleep(1)
    assert attempts == [(number, 1) for number in range(concurrency + 1)]


TRACE = f"00-{'a' * 32}-{'b' * 16}-01"


@pytest.mark.parametrize("compete", [False, True])
async def test_a_trace_travels_with_a_message(compete: bool) -> None:
    seen: list[tuple[str | None, str | None]] = []

    async def keep(_: int) -> None:
        seen.append((this().traceparent, traceparent.get()))

    with MemoryServer() as server:
        async with harness(process(server, keep, compete=compete)) as h:
            for trace in (TRACE, "no trace", None):
                token = traceparent.set(trace)
                await h.publish(NUMBERS, 1)
                traceparent.reset(token)
            await sleep(1)
    assert seen == [(TRACE, TRACE), (None, None), (None, None)]
