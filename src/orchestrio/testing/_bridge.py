"""`MemoryBridge`: stands in for a bridge in tests; the processes are schedulers in one event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from math import inf
from typing import Annotated, Any, ClassVar, Final, Generic, Literal, Self, TypeVar, cast, final
from uuid import uuid4

from anyio import (
    CancelScope,
    ClosedResourceError,
    EndOfStream,
    create_memory_object_stream,
    create_task_group,
    sleep,
)
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from pydantic import ConfigDict, Field
from typing_extensions import override

from orchestrio import (
    LaggedError,
    Topic,
    current_task_context,
)

from .._broadcast.acknowledgements import Acknowledgements, MessageInfo
from .._broadcast.bus import EventBus
from .._broadcast.relay import Relay
from .._model._loops.wakeup import Wakeup
from .._model.errors import InvalidChannelError
from .._model.fields import Model, Name
from .._model.log import logger
from .._model.payloads import PayloadCodec
from .._model.topic_names import names_of
from .._model.traces import trace_in, traceparent
from .._tasks.bridge import Bridge

T = TypeVar("T")


class _Options(Model, frozen=True):
    """The options of a `MemoryBridge`, checked as those of a `RedisBridge` are."""

    model_config: ClassVar[ConfigDict] = ConfigDict(title="MemoryBridge()")

    mode: Literal["broadcast", "compete"]
    group: Name
    max_deliveries: Annotated[int, Field(strict=True, ge=1)]


@dataclass(frozen=True, slots=True)
class _Sent:
    """A message as it was sent."""

    data: bytes
    time: datetime
    origin: str
    traceparent: str | None
    id: str = field(default_factory=lambda: uuid4().hex)


@dataclass(slots=True)
class _Job:
    """A message on its way to the one process that handles it."""

    sent: _Sent
    failures: int = 0

    @property
    def info(self) -> MessageInfo:
        """What is known of it."""
        sent = self.sent
        return MessageInfo(sent.id, sent.time, sent.origin, sent.traceparent, self.failures)


#: The message that is being handled here, with its number in the channel.
_handled: Final[ContextVar[tuple[int, MessageInfo] | None]] = ContextVar(
    "orchestrio_memory_bridge_handled", default=None
)


_Queue = tuple[MemoryObjectSendStream[_Job], MemoryObjectReceiveStream[_Job]]


class _Hub:
    """What a server knows: the queues of those that read, and whether it answers."""

    def __init__(self) -> None:
        self.dead_letters: list[tuple[str, bytes]] = []
        self.is_up = True
        self.changed = Wakeup()
        self._modes: dict[str, str] = {}  # by topic
        self._buried: set[tuple[str, str]] = set()  # by group, and the id of the message
        self._queues: dict[tuple[str, str], _Queue] = {}  # by process, or by group; and topic
        #: with ``"compete"``, by topic: which groups have still to handle a message
        self._owed: dict[str, dict[_Sent, set[str]]] = {}

    async def wait_up(self) -> None:
        """Wait until it answers."""
        while not self.is_up:
            await self.changed.wait()

    def begin(self, topic: str, mode: str) -> None:
        """Note how a topic is carried.

        :raises InvalidChannelError: if others carry it in another mode
        """
        other = self._modes.setdefault(topic, mode)
        if other != mode:
            raise InvalidChannelError(
                f'topic {topic!r} is carried with mode="{other}" by others, and here with'
                f' mode="{mode}". Give it the same mode everywhere, or another MemoryServer',
                topic,
            )

    def join(self, reader: str, topic: str) -> _Queue:
        """Make, or find, the queue that a process or a group of processes reads.

        That of a group begins with what others have still to handle.
        """
        key = (reader, topic)
        if key not in self._queues:
            send, _ = self._queues[key] = create_memory_object_stream[_Job](inf)
            for sent, groups in self._owed.get(topic, {}).items():
                groups.add(reader)
                send.send_nowait(_Job(sent))
        send, receive = self._queues[key]
        return send, receive.clone()

    def leave(self, reader: str, topic: str) -> None:
        """Let go of the queue of a process that is over."""
        for stream in self._queues.pop((reader, topic), ()):
            stream.close()

    def spread(self, topic: str, sent: _Sent) -> None:
        """Give a message to all processes and groups that have joined."""
        readers = {reader for reader, name in self._queues if name == topic}
        if self._modes[topic] == "compete":
            self._owed.setdefault(topic, {})[sent] = readers
        for reader in readers:
            self._queues[reader, topic][0].send_nowait(_Job(sent))

    def settle(self, group: str, topic: str, sent: _Sent) -> None:
        """Note that a group is done with a message."""
        groups = self._owed[topic][sent]
        groups.discard(group)
        if not groups:
            del self._owed[topic][sent]

    def bury(self, group: str, topic: str, sent: _Sent) -> None:
        """Make a message a dead letter, once in a group, or '' for all processes."""
        if (group, sent.id) not in self._buried:
            self._buried.add((group, sent.id))
            self.dead_letters.append((topic, sent.data))

    def close(self) -> None:
        """Let go of all queues."""
        for reader, topic in list(self._queues):
            self.leave(reader, topic)


@final
class MemoryServer:
    """What the bridges of a test have in common, in place of a server.

    Close it after a test with ``mode="compete"``, or use it in a ``with`` block: what nobody has
    handled waits there for whoever comes.
    """

    def __init__(self) -> None:
        self._hub = _Hub()

    @property
    def dead_letters(self) -> list[tuple[str, bytes]]:
        """Messages that no process could handle: the name of the topic, the payload as JSON."""
        return list(self._hub.dead_letters)

    @property
    def up(self) -> bool:
        """Whether it answers. While it does not, what is published waits where it was published."""
        return self._hub.is_up

    @up.setter
    def up(self, up: bool) -> None:
        self._hub.is_up = up
        self._hub.changed.notify_all()

    def close(self) -> None:
        """Let go of what is left."""
        self._hub.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()


@final
class MemoryBridge(Bridge):
    """A task that carries topics between schedulers, as `RedisBridge` does, without a server.

    What is published on a topic of one scheduler goes to the receivers of all whose bridges share
    the `server`: as JSON and back, in one order, its own receivers included. With
    ``mode="compete"`` each message is handled in one scheduler of the group, and goes to another
    one, or comes again, if its handler failed. What is not of the topic's type where it arrives is
    a dead letter at once, while `RedisBridge` leaves it to others of a group first. `Harness.idle`
    does not see what is on its way between schedulers: wait for it with a `Recorder`.

    Example::

        import anyio

        from orchestrio import Scheduler, Topic
        from orchestrio.testing import MemoryBridge, MemoryServer, harness

        ORDERS = Topic("orders", int)

        def process(server: MemoryServer) -> Scheduler:
            scheduler = Scheduler()
            scheduler.add_channel(ORDERS)
            scheduler.register_background_task(MemoryBridge(server, topics=[ORDERS]))
            return scheduler

        async def main() -> None:
            server = MemoryServer()
            async with harness(process(server)) as here, harness(process(server)) as there:
                received = there.record(ORDERS)
                await here.publish(ORDERS, 7)
                print(await received.wait_for(1))  # [7]

        anyio.run(main)

    :param server: what the bridges of a test share
    :param topics: what to carry: topics whose payload has JSON by Pydantic, or plain `str` keys
    :param mode: whether every scheduler gets every message, or they compete
    :param group: with ``"compete"``: those that compete with each other; each group gets all
    :param max_deliveries: with ``"compete"``: how often a message is handled at most, before it is
        one of the server's `dead_letters`
    :raises TypeError: if `server` is none
    :raises ~pydantic.ValidationError: if an option is not valid; it names the field
    :raises ValueError: if no topic is given
    :raises InvalidChannelError: if a topic cannot leave the process, or two have the same name
    """

    def __init__(
        self,
        server: MemoryServer,
        *,
        topics: Sequence[Topic[Any] | str],
        mode: Literal["broadcast", "compete"] = "broadcast",
        group: str = "workers",
        max_deliveries: int = 5,
    ) -> None:
        if not isinstance(cast("object", server), MemoryServer):
            raise TypeError(f"server must be a MemoryServer, not {server!r}")
        self._options = _Options(mode=mode, group=group, max_deliveries=max_deliveries)
        self._server = server
        self._topics = [
            (topic, name, PayloadCodec[Any](topic))
            for topic, name in zip(topics, names_of(topics), strict=True)
        ]
        self._carriers: list[_Carrier[Any]] = []

    @override
    async def initialize(self) -> None:
        context = current_task_context()
        services = self._settle(carrier.relay for carrier in self._carriers)
        options = self._options
        reader = options.group if options.mode == "compete" else str(context.task_id)
        hub = self._server._hub  # pyright: ignore[reportPrivateUsage]  # a friend, in this module
        try:
            for topic, name, codec in self._topics[len(self._carriers) :]:
                carrier = _Carrier[Any](hub, topic, name, codec, reader, services.wall_clock)
                carrier.take_over(services.bus, options)
                self._carriers.append(carrier)
            for _, name, _ in self._topics:
                hub.begin(name, options.mode)
        except BaseException:
            self.close()
            self._carriers.clear()
            raise
        for carrier in self._carriers:
            carrier.join()

    @override
    async def execute(self) -> None:
        async with create_task_group() as tasks:
            for carrier in self._carriers:
                tasks.start_soon(carrier.send)
                tasks.start_soon(carrier.receive)

    @override
    def receive_no_more(self) -> None:
        if self._options.mode == "compete":
            self._end_receiving()

    @override
    async def catch_up(self) -> None:
        try:
            for carrier in self._carriers:
                await carrier.catch_up()
        finally:
            self._end_receiving()

    def _end_receiving(self) -> None:
        for carrier in self._carriers:
            carrier.receive_no_more()

    @override
    def let_go(self) -> None:
        for carrier in self._carriers:
            carrier.relay.release()

    @override
    def close(self) -> None:
        for carrier in self._carriers:
            carrier.relay.close()

    @override
    async def shutdown(self) -> None:
        """Send what is left, if the server answers, and leave."""
        for carrier in self._carriers:
            carrier.leave(forget=self._options.mode == "broadcast")


class _Carrier(Generic[T]):
    """Carries one topic."""

    def __init__(
        self,
        hub: _Hub,
        topic: Topic[T] | str,
        name: str,
        codec: PayloadCodec[T],
        reader: str,
        now: Callable[[], datetime],
    ) -> None:
        self._hub = hub
        self._topic = topic
        self._reader = reader
        self._name = name
        self._codec = codec
        self._now = now
        self._origin = uuid4().hex[:8]
        self._competes = False
        self._taken: dict[int, _Job] = {}  # those that may not have been read here yet
        self._in_hand: dict[int, _Job] = {}
        self._begun: set[int] = set()
        self._max_deliveries = 1
        self._readers_changed = Wakeup()
        self._receiving: set[CancelScope] = set()

    def take_over(self, bus: EventBus[Any], options: _Options) -> None:
        """Take over the channel of the topic."""
        self.relay = Relay[T, _Sent](bus, self._topic, self._pack)
        self._max_deliveries = options.max_deliveries
        self._competes = options.mode == "compete"
        self._acknowledgements = Acknowledgements(
            self._begin, self._settled, self._readers_changed.notify_all, about=_about
        )
        self.relay.acknowledge(self._acknowledgements, lossless=self._competes)

    def join(self) -> None:
        """Read what is sent from now on, or what is left for the group."""
        self._again, self._incoming = self._hub.join(self._reader, self._name)

    def _pack(self, message: T) -> _Sent:
        trace = trace_in(traceparent.get())
        return _Sent(self._codec.encode(message), self._now(), self._origin, trace)

    async def send(self) -> None:
        """Send what is published here, for ever."""
        cursor = self.relay.outgoing
        while True:
            while cursor.must_wait:
                await cursor.wait()
            await self._hub.wait_up()
            try:
                self._send_all()
            except (EndOfStream, ClosedResourceError):
                return

    def _send_all(self) -> None:
        cursor = self.relay.outgoing
        while not cursor.must_wait:
            try:
                for sent in cursor.take(256):
                    self._hub.spread(self._name, sent)
            except LaggedError:
                continue  # counted by the channel

    async def receive(self) -> None:
        """Give what comes in to the receivers here, until that is to end."""
        with CancelScope() as scope:
            self._receiving.add(scope)
            await self._receive()
        self._receiving.discard(scope)

    async def catch_up(self) -> None:
        """Wait until what was sent here has come in, if it does."""
        while not self._competes and self._hub.is_up:
            is_sent = self.relay.outgoing.must_wait
            if is_sent and not self._incoming.statistics().current_buffer_used:
                return
            await sleep(0.01)

    def receive_no_more(self) -> None:
        """Leave what comes in to others."""
        for scope in self._receiving:
            scope.cancel()

    async def _receive(self) -> None:
        while True:
            while self._competes and not self._acknowledgements.readers:
                await self._readers_changed.wait()
            await self._hub.wait_up()
            job = await self._incoming.receive()
            try:
                await self._hub.wait_up()
                message = self._read(job)
                if message is None:
                    continue
                number = await self.relay.deliver(*message)
            except BaseException:
                self._again.send_nowait(job)
                raise
            if number is None:
                continue  # the channel was full, and drops the newest
            self._taken[number] = job
            while len(self._taken) > self.relay.capacity:  # these were read, or overwritten
                del self._taken[next(iter(self._taken))]
            if self._competes:
                self._in_hand[number] = job
                self._acknowledgements.expect(number)

    def _read(self, job: _Job) -> tuple[T] | None:
        """Return the message, or `None` if there is none for this process: it is a dead letter."""
        try:
            return (self._codec.decode(job.sent.data),)
        except Exception as error:  # also of a validator of the payload
            self._bury(job)
            logger.error(
                "message %s of topic %r cannot be read, and is a dead letter: %s",
                job.sent.id,
                self._name,
                str(error).partition("\n")[0],
            )
            return None

    def _begin(self, number: int) -> Awaitable[None] | None:
        job = self._taken.get(number)
        _handled.set(None if job is None else (number, job.info))
        traceparent.set(None if job is None else job.sent.traceparent)
        return self._note_begin(number) if self._competes else None

    async def _note_begin(self, number: int) -> None:
        """Have the server know that a message is being handled, before it is."""
        await self._hub.wait_up()
        self._begun.add(number)

    def _settled(self, number: int, error: BaseException | None) -> None:
        job = self._in_hand.pop(number, None)
        begun = number in self._begun
        self._begun.discard(number)
        if job is None:
            return
        if error is None:
            self._hub.settle(self._reader, self._name, job.sent)
            return
        job.failures += begun  # only a delivery whose handler began counts
        if job.failures < self._max_deliveries:
            self._again.send_nowait(job)
        else:
            self._bury(job)

    def _bury(self, job: _Job) -> None:
        self._hub.bury(self._reader if self._competes else "", self._name, job.sent)
        if self._competes:
            self._hub.settle(self._reader, self._name, job.sent)

    def leave(self, *, forget: bool) -> None:
        """Send the rest, hand back what is not handled, and leave the server."""
        if self._hub.is_up:
            with suppress(EndOfStream, ClosedResourceError):
                self._send_all()
        for job in self._in_hand.values():
            self._again.send_nowait(job)
        self._in_hand.clear()
        self._incoming.close()
        if forget:
            self._hub.leave(self._reader, self._name)


def _about(number: int) -> MessageInfo | None:
    """Return what is known of the message that is being handled here."""
    handled = _handled.get()
    return handled[1] if handled is not None and handled[0] == number else None
