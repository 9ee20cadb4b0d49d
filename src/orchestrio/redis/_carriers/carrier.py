"""`Carrier`: what carries one topic of a bridge; `Broadcast` and `Compete` are its two modes.

Sending is the same in both. What they differ in is who gets a message, and when it is done with.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, NamedTuple, TypeVar

from anyio import EndOfStream, Lock, current_time, move_on_after, sleep

from ..._broadcast.relay import Relay
from ..._model._loops.wakeup import Wakeup
from ..._model.errors import InvalidChannelError
from ..._model.log import logger
from ..._model.topics import Topic
from ..._model.words import counted
from ..._tasks.tally import Tally
from .._outbox.outbox import Outbox
from .._scripts.topics import BURY, JOIN, OTHER_MODE, PUBLISH
from .._server.connection import Connection, Entry
from .._server.outages import Refused, Rejected
from .._wire.envelope import Format, Outgoing, time_text
from .._wire.keys import Keys

__all__ = ["COUNT", "Burial", "Carrier", "Joined", "Limits"]

T = TypeVar("T")

#: How many entries are read or taken over at a time: the event loop does nothing else meanwhile.
COUNT: Final = 128

#: How many dead letters and losses are told of one by one.
_AT_ONCE: Final = 10

#: How soon, in seconds, to ask how a topic stands when messages have to wait here, then ever later:
#: of those that wait in the server, nobody else may know if it loses them.
_SOON: Final = 0.01

#: How many dead letters are written in one step.
_STEP: Final = 32

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
    head: int
    """What was known then as the ordinal of the last entry: if it is less now, some are lost."""


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
        #: the ordinal of the last entry that was sent from here
        self.sent_to: int = 0
        #: which topic of that name it is; '' before it has joined
        self._born: str = ""
        #: the ordinal of the last entry in the stream, as far as is known here
        self._head: int = 0
        #: what has come in and was not given to the receivers yet
        self._inbox: Final[deque[Any]] = deque()
        self._arrived: Final = Wakeup()
        #: what is to be moved to the dead letters
        self._burials: Final[list[Burial]] = []
        #: whether the last session found that the ordinals go back
        self._doubts = False
        self._losses = Tally(_AT_ONCE, self._tell_losses)
        self._buried = Tally(_AT_ONCE, self._tell_burials)
        self._pause = _SOON
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
        """Whether there is something that the server has to be told of what it has delivered."""
        return bool(self._burials)

    def _lose(self, count: int, how: str) -> None:
        """Count messages that the server has lost, and say so."""
        if count > 0:
            self.counts.lost += count
            if self._losses.note(current_time(), count):
                logger.warning("%s has lost %s: %s", self.name, counted(count, "messages"), how)

    def _tell_losses(self, times: int, count: int) -> None:
        logger.warning("%s has lost %s more", self.name, counted(count, "messages"))

    def _tell_burials(self, times: int, count: int) -> None:
        logger.error(
            "%s more of %s were moved to the dead letters, %s",
            counted(times, "messages"),
            self.name,
            self.keys.dead,
        )

    def _go_on_after(self, identifier: bytes) -> None:
        """Read on after an entry."""
        self.position = identifier

    def _see_that_it_goes_on(self, entries: Sequence[Entry], after: int) -> None:
        """Have the session begin anew, and join, if the ordinals go back.

        Somebody has emptied the server; if the topic is the same nevertheless, it was a failover,
        or a group that was made anew, and they are taken as they come.

        :param after: the ordinal of the last entry that was read
        :raises Refused: to begin anew
        """
        first = entries[0].ordinal
        if self._doubts:
            self._doubts = False
        elif 0 < first <= after:
            self._doubts = True
            raise Refused(f"{self.name} begins with {first} again, after {after}")

    @property
    def event(self) -> Topic[T] | str:
        """The topic, or a plain key."""
        return self._format.event

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

    @property
    def _known(self) -> tuple[int, int, int, int]:
        """What is known of the group, in the order of `JOIN`; nothing if there is none."""
        return (0, 0, 0, 0)

    async def join(self, connection: Connection) -> None:
        """Make the topic, if it is not there, and find one's place in it.

        :raises InvalidChannelError: if others carry it in another mode
        """
        async with self._joining:
            at, head = self.position, self._head
            constants: list[str | bytes | int] = []
            for name, value in self._format.about.items():
                constants += (name, value)
            try:
                made, born, ordinal, last = await connection.run(
                    JOIN,
                    [self.keys.stream, self.keys.about, self.keys.count],
                    [self._mode, self._group, self._born, head, *self._known, *constants],
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
            joined = Joined(bool(made), born.decode(), ordinal, last, at, head)
            self._joined(joined)
            is_other, self._born = joined.born != self._born, joined.born
            if is_other or ordinal < head:
                self._head = ordinal
            else:  # more may have been sent meanwhile
                self._head = max(self._head, ordinal)

    @abstractmethod
    def _joined(self, joined: Joined) -> None:
        """Find the place to go on from; `_born` and `_head` are still those before."""

    # -- sending -------------------------------------------------------------------------------

    async def send(self, connection: Connection, sent: Callable[[], None]) -> None:
        """Send what is published, in order, until nothing is any more.

        :param connection: to whom
        :param sent: called each time that something has been
        """
        try:
            while True:
                await self._send_batch(connection)
                sent()
        except EndOfStream:
            return

    async def _send_batch(self, connection: Connection) -> int:
        origin, batch = await self.outbox.next_batch()
        arguments: list[str | bytes | int] = [self._born, self._limits.entries, _MEMORY, origin]
        for number, message in batch:
            arguments += (number, time_text(message.time), message.data, message.traceparent or "")
        keys = self.keys
        _, self._head = await connection.run(
            PUBLISH, [keys.stream, keys.about, keys.count, keys.origin(origin)], arguments
        )
        self.sent_to = self._head
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

    async def _wait_to_look(self, longest: float) -> None:
        """Wait until it is time to ask the server how the topic stands.

        :param longest: for how long, in seconds, if nothing waits here
        """
        with move_on_after(longest):
            await sleep(self._pause)
            while not self.is_full:
                self._pause = _SOON
                await self._arrived.wait()
                await sleep(_SOON)
        self._pause = min(2 * self._pause, longest)

    async def tell(self, connection: Connection) -> None:
        """Tell the server what has become of its messages, for ever."""
        while True:
            if not await self.tell_some(connection):
                await self._news.wait()

    async def tell_some(self, connection: Connection) -> bool:
        """Tell the server something; return whether there was anything to tell."""
        burials = self._burials[:_STEP]
        for burial in burials:
            await self._bury(connection, burial)
            if burial in self._burials:  # the topic may have begun anew meanwhile
                self._burials.remove(burial)
        if burials:
            self._changed.notify_all()
        return bool(burials)

    def bury(self, entry: Entry, why: str, deliveries: int) -> None:
        """Have an entry moved to the dead letters."""
        self._burials.append(Burial(entry, why, deliveries))
        self._news.notify_all()

    async def _bury(self, connection: Connection, burial: Burial) -> None:
        entry, why, deliveries = burial
        group = self._group
        keys = [self.keys.stream, self.keys.dead]
        keys.append(self.keys.group(group).tries if group else self.keys.buried)
        fields: list[str | bytes | int] = ["error", why[:10_000], "entry", entry.identifier]
        fields += ["deliveries", deliveries, "group", group]
        fields += ["n", entry.fields.get(b"n", b""), "m", self._format.export(entry.fields)]
        arguments = [self._limits.dead_letters, group, entry.identifier, *fields]
        if await connection.run(BURY, keys, arguments):
            self.counts.buried += 1
            if self._buried.note(current_time()):
                logger.error(
                    "message %s of %s was moved to the dead letters, %s: %s",
                    entry.identifier.decode(),
                    self.name,
                    self.keys.dead,
                    why.partition("\n")[0],
                )

    async def leave(self, connection: Connection) -> None:
        """Tell what is left to be told, and leave."""
        while await self.tell_some(connection):
            pass
        self._losses.settle()
        self._buried.settle()

    async def send_rest(self, connection: Connection) -> None:
        """Send what is left."""
        left = self.outbox.ready  # now: what is published meanwhile is for the next run
        while left > 0:
            left -= await self._send_batch(connection)
