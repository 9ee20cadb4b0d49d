"""What wrong calls are made on: each place is seen to be unchanged and to work afterwards."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from anyio import Event, fail_after, sleep_forever
from fuzz.kinds import NEWS, Worker
from typing_extensions import Unpack

from orchestrio import (
    BackgroundOptions,
    BackgroundTask,
    Backoff,
    BroadcastReceiveStream,
    BroadcastSendStream,
    EventBus,
    Group,
    Scheduler,
    Subscriber,
    TaskContext,
    TaskRegistry,
    Topic,
    create_broadcast_stream,
    current_task_context,
)

#: Yields what a call is made on; what is left of it is looked at when the block ends.
Place = Callable[[], AbstractAsyncContextManager[Any]]

WORDS = Topic("words")
CHECKED = Topic("checked", int, validate=True)

#: How long may be waited for what works, in seconds.
IN_TIME = 10


@asynccontextmanager
async def nowhere() -> AsyncGenerator[None]:
    """For calls that are made on nothing."""
    yield None


@asynccontextmanager
async def a_backoff() -> AsyncGenerator[Backoff]:
    yield Backoff()


# -- streams -----------------------------------------------------------------------------------


@asynccontextmanager
async def a_channel() -> AsyncGenerator[tuple[Any, Any]]:
    """Both halves of one; afterwards what is sent comes, and nothing else."""
    send, receive = create_broadcast_stream[str](capacity=4)
    with send, receive:
        yield send, receive
        statistics = send.statistics()
        assert (statistics.sent, statistics.senders, statistics.receivers) == (0, 1, 1)
        await send.send("still there")
        with fail_after(IN_TIME):
            assert await receive.receive() == "still there"


@asynccontextmanager
async def a_sender() -> AsyncGenerator[BroadcastSendStream[str]]:
    async with a_channel() as (send, _):
        yield send


@asynccontextmanager
async def a_receiver() -> AsyncGenerator[BroadcastReceiveStream[str]]:
    async with a_channel() as (_, receive):
        yield receive


@asynccontextmanager
async def a_receiver_with_items() -> AsyncGenerator[BroadcastReceiveStream[str]]:
    """Afterwards they are all still to be read."""
    send, receive = create_broadcast_stream[str](capacity=4)
    with send, receive:
        send.send_many_nowait(["a", "b", "c"])
        yield receive
        assert receive.receive_many_nowait(9) == ["a", "b", "c"]


@asynccontextmanager
async def a_closed_sender() -> AsyncGenerator[BroadcastSendStream[str]]:
    async with a_channel() as (send, _):
        clone: BroadcastSendStream[str] = send.clone()
        clone.close()
        yield clone


@asynccontextmanager
async def a_closed_receiver() -> AsyncGenerator[BroadcastReceiveStream[str]]:
    async with a_channel() as (_, receive):
        clone: BroadcastReceiveStream[str] = receive.clone()
        clone.close()
        yield clone


@asynccontextmanager
async def a_receiver_at_the_end() -> AsyncGenerator[BroadcastReceiveStream[str]]:
    send, receive = create_broadcast_stream[str]()
    with receive:
        send.close()
        yield receive


@asynccontextmanager
async def a_full_sender() -> AsyncGenerator[BroadcastSendStream[str]]:
    """On a channel that blocks; what it has is read afterwards."""
    send, receive = create_broadcast_stream[str](1, overflow="block")
    with send, receive:
        send.send_nowait("first")
        yield send
        assert receive.receive_many_nowait(2) == ["first"]
        send.send_nowait("second")
        assert receive.receive_nowait() == "second"


# -- buses and registries ------------------------------------------------------------------------


def state_of_bus(bus: EventBus) -> object:
    """What a call that was refused may not have changed."""
    return [
        (event, channel.senders, channel.receivers, channel.sent)
        for event, channel in bus.statistics().items()
    ]


@asynccontextmanager
async def a_bus() -> AsyncGenerator[EventBus]:
    bus = EventBus()
    bus.add_channel(NEWS)
    bus.add_channel(CHECKED)
    before = state_of_bus(bus)
    yield bus
    assert state_of_bus(bus) == before
    with bus.subscribe(NEWS) as receiver:
        assert await bus.publish(NEWS, "still there") == 1
        assert await receiver.receive() == "still there"
    bus.close()


@asynccontextmanager
async def a_closed_bus() -> AsyncGenerator[EventBus]:
    bus = EventBus()
    bus.add_channel(NEWS)
    bus.close()
    yield bus


@asynccontextmanager
async def a_registry() -> AsyncGenerator[TaskRegistry]:
    registry = TaskRegistry()
    first = registry.add(Worker())
    yield registry
    assert [*registry] == [first]
    second = registry.add(Worker())
    assert registry.remove(second.task_id) is second


# -- schedulers --------------------------------------------------------------------------------


def state_of(scheduler: Scheduler) -> object:
    """What a call that was refused may not have changed."""
    return (
        [snapshot.name for snapshot in scheduler.status()],
        [entry.name for entry in scheduler.registry],
        state_of_bus(scheduler.bus),
    )


async def deliver(scheduler: Scheduler) -> None:
    """See that a scheduler starts, if it has not, delivers a message to a handler, and stops."""
    heard = Event()

    async def hear(word: str) -> None:
        assert word == "still there"
        heard.set()

    scheduler.add_channel(WORDS)
    scheduler.on(WORDS)(hear)
    with fail_after(IN_TIME):
        if not any(snapshot.name == "present" for snapshot in scheduler.status()):
            await scheduler.start()
        assert await scheduler.publish(WORDS, "still there") == 1
        await heard.wait()
        await scheduler.shutdown()


@asynccontextmanager
async def a_new_scheduler() -> AsyncGenerator[Scheduler]:
    """Not entered yet; afterwards it is, and works."""
    scheduler = Scheduler()
    scheduler.add_channel(NEWS)
    scheduler.add_channel(CHECKED)
    before = state_of(scheduler)
    yield scheduler
    assert state_of(scheduler) == before
    async with scheduler:
        await deliver(scheduler)


@asynccontextmanager
async def a_new_group() -> AsyncGenerator[Group]:
    async with a_new_scheduler() as scheduler:
        yield scheduler.group("inner")


@asynccontextmanager
async def a_running_scheduler() -> AsyncGenerator[Scheduler]:
    """Started, with a task that is "present"."""
    async with Scheduler() as scheduler:
        scheduler.background(name="present")(sleep_forever)
        scheduler.add_channel(NEWS)
        scheduler.add_channel(CHECKED)
        await scheduler.start()
        before = state_of(scheduler)
        yield scheduler
        assert state_of(scheduler) == before
        await deliver(scheduler)


def a_scheduler_with(
    task: BackgroundTask | Subscriber[str], **options: Unpack[BackgroundOptions]
) -> Place:
    """Entered, with a task that cannot start; afterwards it works without that."""

    @asynccontextmanager
    async def place() -> AsyncGenerator[Scheduler]:
        async with Scheduler() as scheduler:
            if isinstance(task, BackgroundTask):
                task_id = scheduler.register_background_task(task, **options)
            else:
                task_id = scheduler.register_event_task(task, **options)
            before = state_of(scheduler)
            yield scheduler
            assert state_of(scheduler) == before
            await scheduler.remove_task(task_id)
            await deliver(scheduler)

    return place


@asynccontextmanager
async def a_stopped_scheduler() -> AsyncGenerator[Scheduler]:
    """With a task that has stopped, and a channel that is closed."""
    async with Scheduler() as scheduler:
        scheduler.background(name="present")(sleep_forever)
        scheduler.add_channel(NEWS)
        await scheduler.start()
        await scheduler.shutdown()
        before = state_of(scheduler)
        yield scheduler
        assert state_of(scheduler) == before


@asynccontextmanager
async def a_task_on_its_own() -> AsyncGenerator[TaskContext]:
    """The context of a task that depends on no other."""
    contexts: list[TaskContext] = []

    async def work() -> None:
        contexts.append(current_task_context())
        contexts[0].ready()
        await sleep_forever()

    async with Scheduler() as scheduler:
        scheduler.background(name="present", reports_ready=True)(work)
        await scheduler.start()
        (context,) = contexts
        yield context
        await deliver(scheduler)
