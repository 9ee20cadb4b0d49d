"""`Carrier`: what carries one topic of a bridge, and its two modes: `Broadcast` and `Compete`.

Sending is the same in both. What they differ in is who gets a message, and when it is done with.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, Generic, TypeVar, cast, final

from anyio import EndOfStream, current_time, sleep
from pydantic import ValidationError
from typing_extensions import override

from .._broadcast.acknowledgements import Acknowledgements
from .._broadcast.relay import Relay
from .._model.log import logger
from .._model.wakeup import Wakeup
from .connection import Connection, Entry, together
from .envelope import Envelope, Format, Outgoing, traceparent
from .outbox import Outbox
from .scripts import ACKNOWLEDGE, CLAIM, DEAD_LETTER, JOIN, LEAVE, POSITION, PUBLISH, RECOVER, RENEW

__all__ = ["Broadcast", "Carrier", "Compete"]

T = TypeVar("T")

#: How many entries are read or taken over at a time: the event loop does nothing else meanwhile.
COUNT: Final = 128

#: How long the server knows what it took from a bridge, so that nothing is taken twice: a day.
_MEMORY: Final = 86_400_000

#: Of how many messages the server is told at a time that they were handled, or still are.
_TOLD: Final = 1000

#: After how long a consumer that has nothing to handle, and is not heard of, is forgotten: an hour.
_AWAY: Final = 3_600_000


@dataclass(slots=True)
class Counts:
    """How many messages there were of each sort."""

    sent: int = 0
    received: int = 0
    acknowledged: int = 0
    failed: int = 0
    buried: int = 0
    trimmed: int = 0  # by the server, before they were read


class Carrier(ABC, Generic[T]):
    """One topic: what is published here goes to its stream, what lies there comes in.

    :param place: what its keys in the server begin with
    :param format: how messages look there
    :param relay: its channel on the bus
    :param outbox: what has to be sent
    :param origin: who sends it
    """

    def __init__(
        self,
        place: str,
        format: Format[T],
        relay: Relay[T, Outgoing],
        outbox: Outbox,
        origin: str,
    ) -> None:
        self.stream: Final = place
        self.errors: Final = f"{place}:errors"
        self._counter: Final = f"{place}:count"
        self._dead: Final = f"{place}:dead"
        self._from: Final = f"{place}:from:{origin}"
        self.outbox: Final = outbox
        self._format: Final = format
        self._relay: Final = relay
        self.counts: Final = Counts()
        self._traces: dict[int, str] = {}  # of the last messages that have one

    @property
    def missed(self) -> int:
        """Messages that never came through."""
        return self.outbox.missed + self.counts.trimmed

    @property
    def in_hand(self) -> int:
        """Messages that are being handled here."""
        return 0

    @property
    def owes(self) -> bool:
        """Whether there is something that the server has to be told."""
        return self.outbox.unsent > 0

    @property
    @abstractmethod
    def _keep(self) -> int:
        """How many entries the server keeps of the stream; 0 for all."""

    async def send(self, connection: Connection) -> None:
        """Send what is published, in order, until nothing is any more."""
        try:
            while True:
                await self._send_batch(connection)
        except EndOfStream:
            return

    async def _send_batch(self, connection: Connection) -> int:
        batch = await self.outbox.next_batch()
        arguments: list[str | bytes | int] = [self._keep, _MEMORY]
        for number, body in batch:
            arguments += (number, body)
        await connection.run(PUBLISH, [self.stream, self._counter, self._from], arguments)
        self.counts.sent += len(batch)
        await self.outbox.sent()
        return len(batch)

    @abstractmethod
    async def join(self, connection: Connection) -> None:
        """Find the place in the stream from which on messages come in; once."""

    @abstractmethod
    async def receive(self, connection: Connection) -> None:
        """Take in what lies in the stream, for ever."""

    async def maintain(self, connection: Connection) -> None:
        """Do from time to time what must be done, for ever."""

    async def finish(self, connection: Connection) -> None:
        """Send what is left, and leave."""
        left = self.outbox.ready  # now: what is published meanwhile is for the next run
        while left > 0:
            left -= await self._send_batch(connection)

    async def _deliver(self, message: Envelope[T]) -> int:
        number = await self._relay.deliver(message.data)
        if message.traceparent is not None:
            self._traces[number] = message.traceparent
            while len(self._traces) > self._relay.capacity:  # these were read, or overwritten
                del self._traces[next(iter(self._traces))]
        return number

    def _begun(self, number: int) -> None:
        traceparent.set(self._traces.get(number))

    def _open(self, entry: Entry) -> Envelope[T] | str:
        """Return the message in an entry, or what is wrong with it."""
        encoded = entry.fields.get(b"m")
        if encoded is None:
            return "it has no field 'm': no bridge has written it"
        try:
            return self._format.decode(encoded)
        except ValidationError as error:
            return str(error)

    async def _dead_letter(
        self, connection: Connection, entry: Entry, why: str, *, deliveries: int, group: str
    ) -> None:
        """Move an entry to the dead letters."""
        fields: list[str | bytes | int] = ["error", why[:10_000], "entry", entry.identifier]
        fields += ["deliveries", deliveries, "group", group]
        fields += ["m", entry.fields.get(b"m", b"")]
        mark = f"{self.stream}:buried:{group}:{entry.identifier.decode()}"
        keys = [self.stream, self._dead, self.errors, mark]
        if await connection.run(DEAD_LETTER, keys, [group, entry.identifier, *fields]):
            self.counts.buried += 1
            logger.error(
                "message %s of %s was moved to the dead letters, %s: %s",
                entry.identifier.decode(),
                self.stream,
                self._dead,
                why.partition("\n")[0],
            )


@final
class Broadcast(Carrier[T]):
    """Every process gets every message, and goes on where it stood."""

    def __init__(
        self,
        place: str,
        format: Format[T],
        relay: Relay[T, Outgoing],
        outbox: Outbox,
        origin: str,
        *,
        max_length: int,
        lagged: Callable[[int], None],
    ) -> None:
        super().__init__(place, format, relay, outbox, origin)
        self._max_length = max_length
        self._lagged = lagged
        relay.acknowledge(Acknowledgements(self._begun, _ignore, _ignore), lossless=False)
        self._position: bytes | None = None  # the last entry that was taken in
        self._ordinal = 0  # and its ordinal

    @property
    @override
    def _keep(self) -> int:
        return self._max_length

    @override
    async def join(self, connection: Connection) -> None:
        if self._position is None:
            position, ordinal = await connection.run(POSITION, [self.stream, self._counter], [])
            self._position = position
            self._ordinal = int(ordinal)

    @override
    async def receive(self, connection: Connection) -> None:
        while True:
            assert self._position is not None
            for _, entries in await connection.read({self.stream: self._position}, COUNT):
                for entry in entries:
                    await self._take_in(connection, entry)

    async def _take_in(self, connection: Connection, entry: Entry) -> None:
        ordinal = int(entry.fields.get(b"n", 0))
        if ordinal > self._ordinal + 1:
            self._lag(ordinal - self._ordinal - 1)
        message = self._open(entry)
        if isinstance(message, str):
            await self._dead_letter(connection, entry, message, deliveries=1, group="")
        else:
            await self._deliver(message)
            self.counts.received += 1
        self._position = entry.identifier
        if ordinal:
            self._ordinal = ordinal

    def _lag(self, missed: int) -> None:
        self.counts.trimmed += missed
        self._lagged(missed)
        logger.warning(
            "%d messages of %s were trimmed before they were read here: this process was slow or"
            " away. Raise max_length.",
            missed,
            self.stream,
        )


@final
class Compete(Carrier[T]):
    """Each message is handled in one process of a group, and acknowledged afterwards.

    A message of a consumer that is alive is renewed in the server again and again; what nobody
    has renewed for some time is claimed by whoever sees it first.
    """

    def __init__(
        self,
        place: str,
        format: Format[T],
        relay: Relay[T, Outgoing],
        outbox: Outbox,
        origin: str,
        *,
        group: str,
        consumer: str,
        prefetch: int,
        claim_after: float,
        max_deliveries: int,
    ) -> None:
        super().__init__(place, format, relay, outbox, origin)
        self._group = group
        self._consumer = consumer
        self._prefetch = prefetch
        self._claim_after = claim_after
        self._max_deliveries = max_deliveries
        self._hand: dict[int, Entry] = {}  # what is being handled, by its number on the bus
        self._here: set[bytes] = set()  # that, and what was handled and is not acknowledged
        self._failed: dict[bytes, float] = {}  # not handled, and when
        self._done: list[bytes] = []  # handled, to be acknowledged
        self._failures: dict[bytes, str] = {}  # not handled, to be told
        self._changed: Final = Wakeup()
        self._acknowledgements = Acknowledgements(
            self._begun, self._settled, self._changed.notify_all
        )
        relay.acknowledge(self._acknowledgements, lossless=True)

    @property
    @override
    def _keep(self) -> int:
        return 0  # what was not handled must not be trimmed

    @property
    @override
    def in_hand(self) -> int:
        return len(self._hand)

    @property
    @override
    def owes(self) -> bool:
        return super().owes or bool(self._done)

    def _settled(self, number: int, error: BaseException | None) -> None:
        entry = self._hand.pop(number)
        if error is None:
            self._done.append(entry.identifier)
        else:
            self._here.discard(entry.identifier)
            self.counts.failed += 1
            self._failed[entry.identifier] = current_time()
            self._failures[entry.identifier] = f"{type(error).__name__}: {error}"
        self._changed.notify_all()

    @override
    async def join(self, connection: Connection) -> None:
        await connection.run(JOIN, [self.stream], [self._group])

    @override
    async def receive(self, connection: Connection) -> None:
        await self.join(connection)  # the server may have lost it
        await self._recover(connection)
        while True:
            if not self._acknowledgements.readers or not self._room:
                await self._changed.wait()
                continue
            for _, entries in await connection.read_group(
                self._group, self._consumer, [self.stream], min(self._room, COUNT)
            ):
                for entry in entries:
                    await self._take_in(connection, entry, 1)

    @property
    def _room(self) -> int:
        return self._prefetch - len(self._hand)

    async def _take_in(
        self, connection: Connection, entry: Entry, deliveries: int, before: str = ""
    ) -> None:
        if entry.identifier in self._here:
            return
        if deliveries > self._max_deliveries:
            why = f"it was delivered {self._max_deliveries} times. {before}".strip()
            await self._dead_letter(
                connection, entry, why, deliveries=self._max_deliveries, group=self._group
            )
            return
        message = self._open(entry)
        if isinstance(message, str):
            await self._dead_letter(
                connection, entry, message, deliveries=deliveries, group=self._group
            )
            return
        number = await self._deliver(message)
        self._hand[number] = entry
        self._here.add(entry.identifier)
        self.counts.received += 1
        self._acknowledgements.expect(number)

    async def _recover(self, connection: Connection) -> None:
        """Take in what the server has given to this consumer and did not arrive."""
        position = b"-"
        while position:
            position, found = await connection.run(
                RECOVER, [self.stream], [self._group, self._consumer, position, COUNT]
            )
            for identifier, deliveries, fields in cast(
                "list[tuple[bytes, int, list[bytes]]]", found
            ):
                if identifier not in self._failed:
                    await self._take_in(connection, Entry(identifier, pairs(fields)), deliveries)

    @override
    async def send(self, connection: Connection) -> None:
        await together(
            partial(super().send, connection), partial(self._acknowledge_all, connection)
        )

    async def _acknowledge_all(self, connection: Connection) -> None:
        """Tell the server what was handled, for ever."""
        while True:
            if not self._done:
                await self._changed.wait()
                continue
            await self._acknowledge_some(connection)

    async def _acknowledge_some(self, connection: Connection) -> None:
        done = self._done[:_TOLD]
        await connection.run(ACKNOWLEDGE, [self.stream, self.errors], [self._group, *done])
        del self._done[: len(done)]
        self._here.difference_update(done)
        self.counts.acknowledged += len(done)

    @override
    async def maintain(self, connection: Connection) -> None:
        """Renew what is being handled here, and claim what nobody renews, for ever."""
        await self.join(connection)
        while True:
            await self._renew(connection)
            if self._acknowledgements.readers and self._room:
                await self._claim(connection)
            await self._remove_idle_consumers(connection, leave=False)
            await sleep(self._claim_after / 3)

    async def _renew(self, connection: Connection) -> None:
        in_hand = [entry.identifier for entry in self._hand.values()]
        failures = list(self._failures.items())
        while True:
            arguments: list[str | bytes | int] = [self._group, self._consumer]
            arguments.append(len(failures[:_TOLD]))
            for identifier, why in failures[:_TOLD]:
                arguments += (identifier, why[:1000])
            arguments += in_hand[:_TOLD]
            await connection.run(RENEW, [self.stream, self.errors], arguments)
            for identifier, _ in failures[:_TOLD]:
                del self._failures[identifier]
            del failures[:_TOLD], in_hand[:_TOLD]
            if not (failures or in_hand):
                break
        # What failed that long ago has been claimed by somebody, and is no more for this one.
        since = current_time() - 3 * self._claim_after
        self._failed = {which: when for which, when in self._failed.items() if when > since}

    async def _claim(self, connection: Connection) -> None:
        idle = int(self._claim_after * 1000)
        position = b"0-0"
        while self._room > 0:
            position, found = await connection.run(
                CLAIM,
                [self.stream, self.errors],
                [self._group, self._consumer, idle, position, min(self._room, COUNT)],
            )
            await self._take_over(connection, found)
            if position == b"0-0":  # the server has looked at all of them
                return

    async def _take_over(
        self, connection: Connection, found: list[tuple[bytes, int, list[bytes], bytes]]
    ) -> None:
        for identifier, deliveries, fields, before in found:
            self._failed.pop(identifier, None)
            await self._take_in(
                connection,
                Entry(identifier, pairs(fields)),
                deliveries,
                before.decode(errors="replace"),
            )

    async def _remove_idle_consumers(self, connection: Connection, *, leave: bool) -> None:
        word = "leave" if leave else "stay"
        await connection.run(LEAVE, [self.stream], [self._group, self._consumer, _AWAY, word])

    @override
    async def finish(self, connection: Connection) -> None:
        await super().finish(connection)
        while self._done:
            await self._acknowledge_some(connection)
        if self._failures or self._hand:
            await self._renew(connection)
        await self._remove_idle_consumers(connection, leave=True)


def _ignore(*_: object) -> None:
    """Nobody waits for what happens."""


def pairs(fields: list[bytes]) -> Mapping[bytes, bytes]:
    """Return the fields of an entry as scripts return them: name, value, name, value."""
    return dict(zip(fields[::2], fields[1::2], strict=True))
