"""The streams against a plain-list model: whatever is done to them, in whatever order.

First a state machine of all operations that do not wait, for each policy; then schedules of tasks
that block, wait and are cancelled, for which the whole promise is: every receiver gets every item,
once, in order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import anyio
import pytest
from anyio import CancelScope, EndOfStream, WouldBlock, create_task_group
from anyio.lowlevel import checkpoint
from hypothesis import HealthCheck, given, settings, strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
)

from orchestrio import (
    BroadcastReceiveStream,
    BroadcastSendStream,
    EventSendError,
    LaggedError,
    Overflow,
    create_broadcast_stream,
)

thorough = settings(
    max_examples=150,
    stateful_step_count=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@dataclass
class Model:
    """One receiver: what it may still read, as a list, without any ring or cursor."""

    unread: list[int]
    lag: int = 0
    missed: int = 0


@dataclass
class Reader:
    stream: BroadcastReceiveStream[int]
    model: Model = field(default_factory=lambda: Model([]))


class Streams(RuleBasedStateMachine):
    """A channel, and what a naive implementation with a list for each receiver would do."""

    senders = Bundle("senders")
    readers = Bundle("readers")

    @initialize(
        target=readers,
        capacity=st.integers(1, 5),
        overflow=st.sampled_from(["drop_oldest", "block", "drop_newest", "error"]),
        replay=st.integers(0, 5),
    )
    def create(self, capacity: int, overflow: Overflow, replay: int) -> Reader:
        self.capacity, self.overflow = capacity, overflow
        self.replay = min(replay, capacity)
        send, receive = create_broadcast_stream[int](
            capacity, overflow=overflow, replay=self.replay
        )
        self.keeper = send
        self.open_senders = [send]
        self.history: list[int] = []
        self.dropped = 0
        self.next = 0
        reader = Reader(receive)
        self.open_readers = [reader]
        return reader

    def teardown(self) -> None:
        if hasattr(self, "open_readers"):
            for sender in [*self.open_senders, self.keeper]:
                sender.close()
            for reader in self.open_readers:
                reader.stream.close()

    # -- the model -------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """How many items fit before a policy must act."""
        if self.overflow == "drop_oldest" or not self.open_readers:
            return 10**9
        return self.capacity - max(len(reader.model.unread) for reader in self.open_readers)

    def store(self, item: int) -> None:
        self.history.append(item)
        for reader in self.open_readers:
            reader.model.unread.append(item)
            if len(reader.model.unread) > self.capacity:
                reader.model.unread.pop(0)
                reader.model.lag += 1

    # -- operations --------------------------------------------------------------------------------

    @rule(target=senders)
    def clone_sender(self) -> BroadcastSendStream[int]:
        sender = self.keeper.clone()
        self.open_senders.append(sender)
        return sender

    @rule(sender=consumes(senders))
    def close_sender(self, sender: BroadcastSendStream[int]) -> None:
        sender.close()
        self.open_senders.remove(sender)

    @rule(sender=senders)
    def send(self, sender: BroadcastSendStream[int]) -> None:
        item, self.next = self.next, self.next + 1
        if self.room >= 1:
            sender.send_nowait(item)
            self.store(item)
        elif self.overflow == "drop_newest":
            sender.send_nowait(item)
            self.dropped += 1
        else:
            with pytest.raises(WouldBlock if self.overflow == "block" else EventSendError):
                sender.send_nowait(item)

    @rule(sender=senders, count=st.integers(0, 8))
    def send_many(self, sender: BroadcastSendStream[int], count: int) -> None:
        items = list(range(self.next, self.next + count))
        self.next += count
        if count > self.room and self.overflow in ("block", "error"):
            with pytest.raises(WouldBlock if self.overflow == "block" else EventSendError):
                sender.send_many_nowait(items)
            return
        room = self.room
        sender.send_many_nowait(items)
        for item in items[:room]:
            self.store(item)
        self.dropped += max(0, count - room)

    @rule(reader=readers)
    def receive_nowait(self, reader: Reader) -> None:
        self.receive_many(reader, 1)

    @rule(reader=readers, iterates=st.booleans())
    def receive(self, reader: Reader, iterates: bool) -> None:
        model = reader.model
        if reader not in self.open_readers or not (model.lag or model.unread):
            return
        stream = reader.stream
        receiving = aiter(stream).__anext__() if iterates else stream.receive()
        if model.lag:
            with pytest.raises(LaggedError) as caught:
                receiving.send(None)
            assert caught.value.missed == model.lag
            model.missed, model.lag = model.missed + model.lag, 0
        else:
            with pytest.raises(StopIteration) as returned:  # at once
                receiving.send(None)
            assert returned.value.value == model.unread.pop(0)

    @rule(reader=readers, count=st.integers(1, 8))
    def receive_many(self, reader: Reader, count: int) -> None:
        if reader not in self.open_readers:
            return
        model = reader.model
        if model.lag:
            with pytest.raises(LaggedError) as caught:
                reader.stream.receive_many_nowait(count)
            assert caught.value.missed == model.lag
            model.missed, model.lag = model.missed + model.lag, 0
        elif not model.unread:
            with pytest.raises(WouldBlock):
                reader.stream.receive_nowait()
        else:
            got = reader.stream.receive_many_nowait(count)
            assert got == model.unread[:count]
            del model.unread[:count]

    @rule(target=readers)
    def subscribe(self) -> Reader:
        replayed = self.history[-self.replay :] if self.replay else []
        reader = Reader(self.keeper.subscribe(), Model(list(replayed)))
        self.open_readers.append(reader)
        return reader

    @rule(target=readers, reader=readers)
    def clone(self, reader: Reader) -> Reader:
        if reader not in self.open_readers:
            return reader
        model = Model(list(reader.model.unread), reader.model.lag)
        clone = Reader(reader.stream.clone(), model)
        self.open_readers.append(clone)
        return clone

    @rule(target=readers, reader=readers)
    def resubscribe(self, reader: Reader) -> Reader:
        if reader not in self.open_readers:
            return reader
        fresh = Reader(reader.stream.resubscribe())
        self.open_readers.append(fresh)
        return fresh

    @rule(reader=consumes(readers))
    def close_reader(self, reader: Reader) -> None:
        reader.stream.close()
        if reader in self.open_readers:
            self.open_readers.remove(reader)

    # -- what always holds ---------------------------------------------------------------------------

    @invariant()
    def lengths_and_counts_agree(self) -> None:
        if not hasattr(self, "open_readers"):
            return
        statistics = self.keeper.statistics()
        assert statistics.buffered <= self.capacity
        assert statistics.receivers == len(self.open_readers)
        assert statistics.senders == len(self.open_senders)
        assert statistics.sent == len(self.history)
        assert statistics.dropped == self.dropped
        for reader in self.open_readers:
            assert len(reader.stream) == len(reader.model.unread)
            assert reader.stream.statistics().missed == reader.model.missed


Streams.TestCase.settings = thorough
TestStreams = Streams.TestCase


# -- tasks that wait -------------------------------------------------------------------------------------

Mode = Literal["asyncio", "trio"]


@dataclass(frozen=True)
class Plan:
    """What the tasks of one run do, and when which of them is interrupted."""

    capacity: int
    senders: list[int]  # how many items each sends
    readers: list[int]  # how many items each reads at once
    pauses: list[int]  # checkpoints between operations, taken in turn by all tasks
    cancels: list[int]  # after how many checkpoints an operation is cancelled, in turn


plans = st.builds(
    Plan,
    capacity=st.integers(1, 4),
    senders=st.lists(st.integers(1, 8), min_size=1, max_size=3),
    readers=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    pauses=st.lists(st.integers(0, 3), min_size=1, max_size=10),
    cancels=st.lists(st.integers(0, 6), min_size=1, max_size=10),
)


async def follow(plan: Plan) -> list[list[tuple[int, int]]]:
    """Run a plan; return what each reader got, as pairs of sender and number."""
    turn = 0

    async def pause() -> None:
        nonlocal turn
        turn += 1
        for _ in range(plan.pauses[turn % len(plan.pauses)]):
            await checkpoint()

    async def cancel_soon(scope: CancelScope) -> None:
        nonlocal turn
        turn += 1
        for _ in range(plan.cancels[turn % len(plan.cancels)]):
            await checkpoint()
        scope.cancel()

    send, first = create_broadcast_stream[tuple[int, int]](plan.capacity, overflow="block")
    receivers = [first, *(first.clone() for _ in plan.readers[1:])]
    got: list[list[tuple[int, int]]] = [[] for _ in receivers]

    async def write(sender: BroadcastSendStream[tuple[int, int]], name: int, count: int) -> None:
        with sender:
            number = 0
            while number < count:
                await pause()
                sent = False
                async with create_task_group() as interrupted:
                    interrupted.start_soon(cancel_soon, interrupted.cancel_scope)
                    await sender.send((name, number))
                    sent = True
                    interrupted.cancel_scope.cancel()
                number += sent  # what was cancelled was not sent: send it again

    async def read(index: int, most: int) -> None:
        ended = False
        with receivers[index] as receiver:
            while not ended:
                await pause()
                try:
                    async with create_task_group() as interrupted:
                        interrupted.start_soon(cancel_soon, interrupted.cancel_scope)
                        if most == 1:
                            got[index].append(await receiver.receive())
                        else:
                            got[index] += await receiver.receive_many(most)
                        interrupted.cancel_scope.cancel()
                except* EndOfStream:
                    ended = True

    async with create_task_group() as group:
        for index, most in enumerate(plan.readers):
            group.start_soon(read, index, most)
        for name, count in enumerate(plan.senders):
            group.start_soon(write, send.clone(), name, count)
        send.close()
    return got


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@settings(thorough, max_examples=60)
@given(plan=plans)
def test_with_block_everybody_gets_everything_once_whatever_is_cancelled(
    backend: Mode, plan: Plan
) -> None:
    got = anyio.run(follow, plan, backend=backend)
    assert all(items == got[0] for items in got), "one global order"
    for name, count in enumerate(plan.senders):
        assert [number for who, number in got[0] if who == name] == list(range(count))
