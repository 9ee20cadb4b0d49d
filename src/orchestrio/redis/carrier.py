"""`Carrier`: what carries one topic of a bridge; `Broadcast` and `Compete` are its two modes.

Sending is the same in both. What they differ in is who gets a message, and when it is done with.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, NamedTuple, TypeVar

from anyio import EndOfStream, Lock

from .._broadcast.relay import Relay
from .._model.errors import InvalidChannelError
from .._model.log import logger
from .._model.wakeup import Wakeup
from .._model.words import counted
from .connection import Connection, Entry
from .envelope import Format, Outgoing, time_text
from .keys import Keys
from .outages import Rejected
from .outbox import Outbox
from .scripts import BURY, JOIN, OTHER_MODE, PUBLISH

__all__ = ["COUNT", "Burial", "Carrier", "Joined", "Limits"]

T = TypeVar("T")

#: How many entries are read or taken over at a time: the event loop does nothing else meanwhile.
COUNT: Final = 128

#: How long the server knows what it took from a bridge, so that nothing is taken twice: a day.
_MEMORY: Final = 86_400_000


@dataclass(slots=True)
class Counts:
    """How many messages there were of each sort."""

    sent: int = 0
    received: int = 0
    acknowledged: int = 0
    failed: int = 0
    buried: int = 0
    lost: int = 0  # by the server, before they were read or handled


@dataclass(frozen=True, slots=True)
class Limits:
    """How much the server keeps of a topic."""

    entries: int
    """How many entries of the stream; 0 for all."""
    dead_letters: int
    """How many dead letters."""


class Joined(NamedTuple):
    """What a bridge learns when it joins a topic."""

    made: bool
    """Whether there was no such topic."""
    born: str
    """When it was made, which tells it from others of that name."""
    ordinal: int
    """The ordinal of its last entry."""
    last: bytes
    """The identifier of its last entry."""
    at: bytes
    """The last entry that had been read when it was asked for that; empty if none had."""


class Burial(NamedTuple):
    """What is to be moved to the dead letters."""

    entry: Entry
    why: str
    deliveries: int


class Carrier(ABC, Generic[T]):
    """One topic: what is published here goes to its stream, what lies there comes in.

    :param keys: its keys in the server
    :param format: how messages look there
    :param relay: its channel on the bus
    :param outbox: what has to be sent
    :param limits: what the server keeps
    :param changed: where the bridge waits that reads for all its topics
    """

    def __init__(
        self,
        keys: Keys,
        format: Format[T],
        relay: Relay[T, Outgoing],
        outbox: Outbox,
        limits: Limits,
        changed: Wakeup,
    ) -> None:
        self.keys: Final = keys
        self.outbox: Final = outbox
        self.counts: Final = Counts()
        self._format: Final = format
        self.relay: Final = relay
        self._limits: Final = limits
        self._changed: Final = changed
        self._joining: Final = Lock()
        #: the last entry that was read; empty if none was
        self.position: bytes = b""
        #: which topic of that name it is; '' before it has joined
        self._born: str = ""
        #: the ordinal of the last entry in the stream, as far as is known here
        self._head: int = 0
        #: what has come in and was not given to the receivers yet
        self._inbox: Final[deque[Any]] = deque()
        self._arrived: Final = Wakeup()
        #: what is to be moved to the dead letters
        self._burials: Final[list[Burial]] = []
        #: there is something to tell the server
        self._news: Final = Wakeup()

    # -- how it stands -------------------------------------------------------------------------

    @property
    def missed(self) -> int:
        """Messages that never came through."""
        return self.outbox.missed + self.counts.lost

    @property
    @abstractmethod
    def in_hand(self) -> int:
        """How many messages are being handled here."""

    @property
    @abstractmethod
    def room(self) -> int:
        """How many entries may come in now."""

    @property
    def is_full(self) -> bool:
        """Whether entries may not come in now, and may soon."""
        return not self.room

    @property
    def owes(self) -> bool:
        """Whether there is something that the server has to be told."""
        return self.outbox.unsent > 0 or bool(self._burials)

    def _lose(self, count: int, how: str) -> None:
        """Count messages that the server has lost, and say so."""
        if count > 0:
            self.counts.lost += count
            logger.warning("%s of %s were lost: %s", counted(count, "messages"), self.name, how)

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"topic {self._format.name!r} ({self.keys.stream})"

    # -- joining -------------------------------------------------------------------------------

    @property
    @abstractmethod
    def _mode(self) -> str:
        """How it is carried."""

    @property
    def _group(self) -> str:
        """The group that it competes in, if any."""
        return ""

    async def join(self, connection: Connection) -> None:
        """Make the topic, if it is not there, and find one's place in it.

        :raises InvalidChannelError: if others carry it in another mode
        """
        async with self._joining:
            at = self.position
            constants: list[str | bytes | int] = []
            for name, value in self._format.about.items():
                constants += (name, value)
            try:
                made, born, ordinal, last = await connection.run(
                    JOIN,
                    [self.keys.stream, self.keys.about, self.keys.count],
                    [self._mode, self._group, *constants],
                )
            except Rejected as error:
                _, found, other = str(error).partition(f"{OTHER_MODE} ")
                if not found:
                    raise
                raise InvalidChannelError(
                    f'{self.name} is carried with mode="{other}" by others, and here with'
                    f' mode="{self._mode}": what one keeps the other would trim. Give it the same'
                    f" mode everywhere, or another namespace; if no such process is left, delete"
                    f" the key {self.keys.about}",
                    self._format.event,
                ) from None
            joined = Joined(bool(made), born.decode(), ordinal, last, at)
            self._joined(joined)
            self._born = joined.born
            self._head = joined.ordinal

    @abstractmethod
    def _joined(self, joined: Joined) -> None:
        """Find the place to go on from; `_born` and `_head` are still those before."""

    # -- sending -------------------------------------------------------------------------------

    async def send(self, connection: Connection) -> None:
        """Send what is published, in order, until nothing is any more."""
        try:
            while True:
                await self._send_batch(connection)
        except EndOfStream:
            return

    async def _send_batch(self, connection: Connection) -> int:
        origin, batch = await self.outbox.next_batch()
        arguments: list[str | bytes | int] = [self._limits.entries, _MEMORY, origin]
        for number, message in batch:
            arguments += (number, time_text(message.time), message.data, message.traceparent or "")
        keys = self.keys
        _, self._head = await connection.run(
            PUBLISH, [keys.stream, keys.about, keys.count, keys.origin(origin)], arguments
        )
        self.counts.sent += len(batch)
        await self.outbox.sent()
        return len(batch)

    # -- receiving -----------------------------------------------------------------------------

    @abstractmethod
    def take_in(self, entries: Sequence[Entry]) -> None:
        """Keep what was read, until it is delivered."""

    @abstractmethod
    async def deliver_next(self) -> None:
        """Give the first that has come in to the receivers; afterwards it is out of the inbox."""

    async def deliver(self) -> None:
        """Give what comes in to the receivers, for ever."""
        while True:
            while not self._inbox:
                await self._arrived.wait()
            await self.deliver_next()

    @abstractmethod
    async def maintain(self, connection: Connection) -> None:
        """Do from time to time what must be done, for ever."""

    async def tell(self, connection: Connection) -> None:
        """Tell the server what has become of its messages, for ever."""
        while True:
            if not await self.tell_some(connection):
                await self._news.wait()

    async def tell_some(self, connection: Connection) -> bool:
        """Tell the server something; return whether there was anything to tell."""
        if not self._burials:
            return False
        burial = self._burials[0]
        await self._bury(connection, burial)
        self._burials.remove(burial)
        return True

    def bury(self, entry: Entry, why: str, deliveries: int) -> None:
        """Have an entry moved to the dead letters."""
        self._burials.append(Burial(entry, why, deliveries))
        self._news.notify_all()

    async def _bury(self, connection: Connection, burial: Burial) -> None:
        entry, why, deliveries = burial
        group = self._group
        keys = [self.keys.stream, self.keys.dead]
        if group:
            keys.append(self.keys.group(group).tries)
        fields: list[str | bytes | int] = ["error", why[:10_000], "entry", entry.identifier]
        fields += ["deliveries", deliveries, "group", group]
        fields += ["n", entry.fields.get(b"n", b""), "m", self._format.export(entry.fields)]
        arguments = [self._limits.dead_letters, group, entry.identifier, *fields]
        if await connection.run(BURY, keys, arguments):
            self.counts.buried += 1
            logger.error(
                "message %s of %s was moved to the dead letters, %s: %s",
                entry.identifier.decode(),
                self.name,
                self.keys.dead,
                why.partition("\n")[0],
            )

    async def finish(self, connection: Connection) -> None:
        """Send what is left, and leave."""
        left = self.outbox.ready  # now: what is published meanwhile is for the next run
        while left > 0:
            left -= await self._send_batch(connection)
        while await self.tell_some(connection):
            pass
