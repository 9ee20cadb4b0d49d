"""A capacity is exact: event tasks hold what their handlers have in hand, and no more than that."""

from __future__ import annotations

import gc
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio
import pytest
from anyio import WouldBlock, create_task_group
from anyio.lowlevel import checkpoint
from hypothesis import given, settings, strategies as st
from support import settle

from orchestrio import (
    ChannelConfig,
    EventTask,
    Overflow,
    Scheduler,
    Topic,
    create_broadcast_stream,
)

NUMBERS = Topic("numbers", int)
FRAMES = Topic("frames", object)


class Frame:
    """A payload that is not small."""


@dataclass
class Gated(EventTask[int]):
    """Handles a message for as long as nobody lets it go on."""

    begun: list[int] = field(default_factory=list)
    lags: list[int] = field(default_factory=list)
    gates: deque[anyio.Event] = field(default_factory=deque)

    @property
    def subscribed_event(self) -> Topic[int]:
        return NUMBERS

    async def handle_event(self, event: int) -> None:
        self.begun.append(event)
        gate = anyio.Event()
        self.gates.append(gate)
        await gate.wait()

    async def handle_lag(self, missed: int) -> None:
        self.lags.append(missed)

    def let_one_go(self) -> None:
        if self.gates:
            self.gates.popleft().set()

    def let_all_go(self) -> None:
        while self.gates:
            self.let_one_go()


def scheduler_with(capacity: int, overflow: Overflow = "drop_oldest") -> Scheduler:
    scheduler = Scheduler(defaults={"drain_timeout": 0, "stop_timeout": 0})
    scheduler.add_channel(NUMBERS, ChannelConfig(capacity=capacity, overflow=overflow))
    return scheduler


# -- memory and age ---------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_slow_tasks_share_the_payloads_of_the_channel(concurrency: int) -> None:
    capacity, tasks = 64, 5
    gates = [anyio.Event() for _ in range(tasks)]
    sent: list[weakref.ref[Frame]] = []
    scheduler = Scheduler()
    scheduler.add_channel(FRAMES, ChannelConfig(capacity=capacity))

    def register(number: int) -> None:
        @scheduler.on(FRAMES, concurrency=concurrency, drain_timeout=0, stop_timeout=0)
        async def show(frame: object) -> None:
            await gates[number].wait()

    def publish(count: int) -> None:
        for _ in range(count):
            frame = Frame()
            sent.append(weakref.ref(frame))
            scheduler.bus.publish_nowait(FRAMES, frame)

    for number in range(tasks):
        register(number)
    async with scheduler:
        await scheduler.start()
        for number in range(tasks):  # each looks at another time
            publish(capacity)
            gate, gates[number] = gates[number], anyio.Event()
            gate.set()
            await settle()
        publish(capacity)
        gc.collect()
        assert sum(frame() is not None for frame in sent) <= capacity + tasks * concurrency


async def test_a_handler_gets_no_message_that_a_receiver_would_have_missed() -> None:
    task = Gated()
    scheduler = scheduler_with(10)
    scheduler.register_event_task(task)
    async with scheduler:
        with scheduler.subscribe(NUMBERS) as receiver:
            await scheduler.start()
            for number in range(100):
                scheduler.bus.publish_nowait(NUMBERS, number)
                if number < 10:
                    receiver.receive_nowait()
            await settle()
            assert (task.begun, task.lags) == ([90], [90]), "it began when all was published"
            assert len(receiver) == 10
            for number in range(100, 105):
                scheduler.bus.publish_nowait(NUMBERS, number)
            task.let_one_go()
            await settle()
            assert (task.begun, task.lags) == ([90, 95], [90, 4])


# -- backpressure -----------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("capacity", [1, 2, 10])
async def test_a_publisher_is_held_at_the_capacity(capacity: int, concurrency: int) -> None:
    task = Gated()
    scheduler = scheduler_with(capacity, "block")
    scheduler.register_event_task(task, concurrency=concurrency)
    sent = 0

    async def publish() -> None:
        nonlocal sent
        while True:
            await scheduler.publish(NUMBERS, sent)
            sent += 1

    async with scheduler, create_task_group() as group:
        await scheduler.start()
        group.start_soon(publish)
        await settle()
        for handled in range(30):
            assert sent == handled + concurrency + capacity
            assert sorted(task.begun) == list(range(handled + concurrency))
            task.let_one_go()
            await settle()
        group.cancel_scope.cancel()


async def test_the_next_sender_goes_on_by_the_next_turn_of_the_loop() -> None:
    task = Gated()
    scheduler = scheduler_with(3, "block")
    scheduler.register_event_task(task)
    sent: list[int] = []

    async def publish(number: int) -> None:
        await scheduler.publish(NUMBERS, number)
        sent.append(number)

    async with scheduler, create_task_group() as group:
        await scheduler.start()
        for number in range(9):
            group.start_soon(publish, number)
            await settle()
        assert sent == [0, 1, 2, 3]
        for last in range(4, 9):
            task.let_one_go()
            await checkpoint()  # the handler ends, and the next one begins
            await checkpoint()  # the sender goes on
            await checkpoint()  # so does `publish`, on trio
            assert sent == list(range(last + 1)), "first in, first out"
        task.let_all_go()


@pytest.mark.parametrize("publish_nowait", [True, False])
async def test_who_need_not_wait_does_not_overtake(publish_nowait: bool) -> None:
    task = Gated()
    scheduler = scheduler_with(2, "block")
    scheduler.register_event_task(task)
    async with scheduler, create_task_group() as group:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 0)
        await settle()
        for number in (1, 2, 3):
            group.start_soon(scheduler.publish, NUMBERS, number)
            await settle()
        task.let_one_go()
        waiting = scheduler.bus.statistics()[NUMBERS].tasks_waiting_send
        while scheduler.bus.statistics()[NUMBERS].buffered == 2 and len(task.begun) == 1:
            await checkpoint()
        assert waiting == 1
        if publish_nowait:
            with pytest.raises(WouldBlock):
                scheduler.bus.publish_nowait(NUMBERS, 4)
        else:
            group.start_soon(scheduler.publish, NUMBERS, 4)
        for _ in range(5):
            await settle()
            task.let_one_go()
        assert task.begun == [0, 1, 2, 3] + [4] * (not publish_nowait)


async def test_a_full_log_is_found_to_have_room_again_by_who_sends_next() -> None:
    task = Gated()
    scheduler = scheduler_with(4, "block")
    scheduler.register_event_task(task)
    async with scheduler:
        await scheduler.start()
        for round_ in range(20):
            room = 0
            with pytest.raises(WouldBlock):
                while True:
                    scheduler.bus.publish_nowait(NUMBERS, round_)
                    room += 1
            await settle()
            assert room == (4 if round_ == 0 else 1)
            if round_:
                task.let_one_go()
            await settle()


async def test_a_drop_newest_channel_drops_what_does_not_fit_and_counts_it() -> None:
    task = Gated()
    scheduler = scheduler_with(4, "drop_newest")
    scheduler.register_event_task(task)
    async with scheduler:
        await scheduler.start()
        reached = [scheduler.bus.publish_nowait(NUMBERS, number) for number in range(6)]
        assert reached == [1, 1, 1, 1, 0, 0]
        await settle()
        reached = [scheduler.bus.publish_nowait(NUMBERS, number) for number in (10, 11)]
        assert reached == [1, 0], "one is in hand"
        for _ in range(6):
            task.let_one_go()
            await settle()
        assert task.begun == [0, 1, 2, 3, 10]
        assert scheduler.bus.statistics()[NUMBERS].dropped == 3


# -- against a model --------------------------------------------------------------------------

Step = tuple[str, int]
steps = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(1, 12)), st.tuples(st.just("go"), st.just(1))
    ),
    max_size=40,
)


async def follow(moves: list[Step], capacity: int, overflow: Overflow, concurrency: int) -> None:
    """Do what is said, and compare an event task with a list that is read one by one."""
    task = Gated()
    scheduler = scheduler_with(capacity, overflow)
    scheduler.register_event_task(task, concurrency=concurrency)
    log: list[int] = []  # of the model, what has still to be begun
    begun: list[int] = []
    lost = in_hand = number = dropped = 0

    def begin() -> None:
        nonlocal in_hand
        while log and in_hand < concurrency:
            begun.append(log.pop(0))
            in_hand += 1

    async with scheduler:
        await scheduler.start()
        for what, count in moves:
            if what == "go":
                if in_hand:
                    in_hand -= 1
                task.let_one_go()
            for _ in range(count if what == "publish" else 0):
                if overflow == "block" and len(log) == capacity:
                    with pytest.raises(WouldBlock):
                        scheduler.bus.publish_nowait(NUMBERS, number)
                    continue
                scheduler.bus.publish_nowait(NUMBERS, number)
                if overflow == "drop_newest" and len(log) == capacity:
                    dropped += 1
                else:
                    log.append(number)
                if len(log) > capacity:
                    del log[0]
                    lost += 1
                number += 1
            await settle()
            begin()
            assert sorted(task.begun) == begun
        (status,) = scheduler.status()
        assert sum(task.lags) <= lost, "it is told when it reads on"
        assert (status.missed, status.unread, status.in_hand) == (lost, len(log), in_hand)
        assert scheduler.bus.statistics()[NUMBERS].dropped == dropped


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("overflow", ["drop_oldest", "block", "drop_newest"])
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(steps, st.integers(1, 9), st.integers(1, 3))
def test_a_handler_reads_as_a_list_is_read_one_by_one(
    backend: str, overflow: Overflow, moves: list[Step], capacity: int, concurrency: int
) -> None:
    anyio.run(follow, moves, capacity, overflow, concurrency, backend=backend)


# -- re-entry ---------------------------------------------------------------------------------


class Last:
    """A payload that sends a word of its own when it goes."""

    def __init__(self, send: Callable[[object], object], name: str) -> None:
        self.send = send
        self.name = name

    def __del__(self) -> None:
        self.send(f"{self.name} is gone")


def word_of(item: object) -> str:
    return item.name if isinstance(item, Last) else str(item)


@pytest.mark.parametrize("overflow", ["drop_oldest", "block", "drop_newest", "error"])
@pytest.mark.parametrize("replay", [0, 1, 3])
@pytest.mark.parametrize("readers", [1, 2])
def test_a_payload_may_send_as_it_goes(overflow: Overflow, replay: int, readers: int) -> None:
    send, first = create_broadcast_stream[object](8, overflow=overflow, replay=replay)
    streams = [first, *(first.clone() for _ in range(readers - 1))]
    seen: list[list[str]] = [[] for _ in streams]
    names = [f"n{number}" for number in range(12)]

    def read_all() -> None:
        for stream, what in zip(streams, seen, strict=True):
            while True:
                try:
                    item = stream.receive_nowait()
                except WouldBlock:
                    break
                what.append(word_of(item))
                del item

    for name in names:
        send.send_nowait(Last(send.send_nowait, name))
        read_all()
    for _ in range(2 * replay + 2):  # let the last ones go
        send.send_nowait("end")
        read_all()
    for what in seen:
        words = [word for word in what if word != "end"]
        assert [word for word in words if word in names] == names
        assert sorted(word for word in words if word not in names) == sorted(
            f"{name} is gone" for name in names
        )
        assert len(words) == len(set(words)), "once each"
    for stream in streams:
        stream.close()
    send.close()


def test_what_is_overwritten_may_send_as_it_goes() -> None:
    send, receive = create_broadcast_stream[object](4)
    for number in range(4):
        send.send_nowait(Last(send.send_nowait, f"n{number}"))
    send.send_nowait("over")  # n0 goes, and its word takes the place of n1, and so on
    held = receive.statistics().unread
    with pytest.raises(Exception, match="missed 5 items"):
        receive.receive_nowait()
    items = [receive.receive_nowait() for _ in range(held)]
    assert items == ["n0 is gone", "n1 is gone", "n2 is gone", "n3 is gone"]
    receive.close()
    send.close()


async def test_a_payload_of_an_event_task_may_publish_as_it_goes() -> None:
    seen: list[str] = []
    scheduler = Scheduler()
    scheduler.add_channel(FRAMES, ChannelConfig(capacity=4))

    @scheduler.on(FRAMES)
    async def look(frame: object) -> None:
        seen.append(word_of(frame))

    async with scheduler:
        await scheduler.start()
        sender = scheduler.clone_sender(FRAMES)
        for number in range(3):
            sender.send_nowait(Last(sender.send_nowait, f"n{number}"))
        await settle()
        assert seen[:3] == ["n0", "n1", "n2"]
        assert sorted(seen[3:]) == ["n0 is gone", "n1 is gone", "n2 is gone"]


def test_the_garbage_collector_may_send_in_the_middle_of_a_receive() -> None:
    class Knot:
        """Goes when the garbage collector finds it."""

        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            send.send_nowait("from the garbage")

    send, receive = create_broadcast_stream[object](8)
    enabled = gc.isenabled()
    thresholds = gc.get_threshold()
    gc.freeze()  # what other tests have left is theirs
    gc.set_threshold(1)
    gc.enable()
    try:
        seen: list[object] = []
        for number in range(200):
            Knot()
            send.send_nowait(number)
            while len(receive):
                seen += receive.receive_many_nowait(3)
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
        if not enabled:
            gc.disable()
    gc.collect()
    numbers = [item for item in seen if isinstance(item, int)]
    assert numbers == list(range(200))
    assert "from the garbage" in seen
    receive.close()
    send.close()
