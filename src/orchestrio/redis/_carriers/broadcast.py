"""`Broadcast`: every process gets every message of a topic, and goes on where it stood."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any, Final, TypeVar, final

from typing_extensions import override

from ..._broadcast.acknowledgements import Acknowledgements, MessageInfo
from ..._broadcast.relay import Relay
from ..._model._loops.wakeup import Wakeup
from ..._model.traces import traceparent
from .._outbox.outbox import Outbox
from .._scripts.topics import WHERE
from .._server.connection import Connection, Entry
from .._wire.envelope import Format, Outgoing, Unreadable
from .._wire.keys import Keys
from .carrier import COUNT, Carrier, Joined, Limits

__all__ = ["Broadcast"]

T = TypeVar("T")

#: How often, in seconds, to look whether the topic is still the one that it was.
_LOOK: Final = 1.0

#: The ordinal of an entry after which the numbers begin anew.
_UNKNOWN: Final = -1

#: What is known of the message that a handler has in hand.
_in_hand: Final[ContextVar[MessageInfo | None]] = ContextVar("orchestrio_in_hand", default=None)


@final
class Broadcast(Carrier[T]):
    """Every process gets every message, and goes on where it stood.

    :param lagged: called with how many messages it has missed, each time
    """

    def __init__(
        self,
        keys: Keys,
        format: Format[T],
        relay: Relay[T, Outgoing],
        outbox: Outbox,
        limits: Limits,
        changed: Wakeup,
        *,
        lagged: Callable[[int], None],
    ) -> None:
        super().__init__(keys, format, relay, outbox, limits, changed)
        self._lagged = lagged
        self._infos: dict[int, MessageInfo] = {}  # of the last messages
        acknowledgements = Acknowledgements(
            self._begun, _ignore, _ignore, about=lambda _: _in_hand.get()
        )
        relay.acknowledge(acknowledgements, lossless=False)
        self._ordinal = 0  # of the last entry that was read

    @property
    @override
    def _mode(self) -> str:
        return "broadcast"

    @property
    @override
    def in_hand(self) -> int:
        return 0

    @property
    @override
    def room(self) -> int:
        return 0 if self._inbox or self._burials else COUNT

    @property
    def is_awaited(self) -> bool:
        """Whether something that was published here has not come back yet."""
        return self.outbox.unsent > 0 or 0 <= self._ordinal < self.sent_to or bool(self._inbox)

    @override
    def _joined(self, joined: Joined) -> None:
        if not self._born:
            self._go_on_after(joined.last)
            self._ordinal = joined.ordinal
        elif joined.born != self._born:
            self._lag(self._head - self._ordinal, "somebody has emptied the server")
            self._go_on_after(b"0-0")
            self._ordinal = self.sent_to = 0
        else:
            self._see(joined)
            if self._doubts:
                self._ordinal = _UNKNOWN

    def _see(self, joined: Joined) -> None:
        """Go on from the end of the stream if it ends before one's place: it has lost its tail."""
        if joined.ordinal < joined.head:
            self._lag(joined.head - max(self._ordinal, joined.ordinal), "the server has lost them")
            self._head = joined.ordinal
        else:  # more may have been sent meanwhile
            self._head = max(self._head, joined.ordinal)
        if joined.at and _parts(joined.last) < _parts(joined.at):
            self._go_on_after(joined.last)
            self._ordinal = min(self._ordinal, joined.ordinal)

    @override
    async def maintain(self, connection: Connection) -> None:
        keys = [self.keys.stream, self.keys.about, self.keys.count]
        while True:
            await self._wait_to_look(_LOOK)
            # Of what is read and sent meanwhile the answer knows nothing.
            at, before = self.position, self._head
            head, last = await connection.run(WHERE, keys, [self._born])
            self._see(Joined(False, self._born, head, last, at, before))

    @override
    def take_in(self, entries: Sequence[Entry]) -> None:
        self._see_that_it_goes_on(entries, self._ordinal)
        for entry in entries:
            ordinal = entry.ordinal
            if self._ordinal >= 0 and ordinal > self._ordinal + 1:
                self._lag(
                    ordinal - self._ordinal - 1,
                    "they were trimmed before they were read here, since this process was slow or"
                    " away. Raise max_length",
                )
            if ordinal:
                self._ordinal = ordinal
        self._inbox.extend(entries)
        self._go_on_after(entries[-1].identifier)
        self._arrived.notify_all()

    @override
    async def deliver_next(self) -> None:
        entry: Entry = self._inbox[0]
        try:
            message = self._format.decode(entry.fields)
        except Unreadable as error:
            self.bury(entry, str(error), 0)
        else:
            number = await self.relay.deliver(message.data)
            if number is not None:
                self._infos[number] = message.info(0)
                if len(self._infos) > self.relay.capacity:  # that was read, or overwritten
                    del self._infos[next(iter(self._infos))]
                self.counts.received += 1
        self._inbox.popleft()
        if not self._inbox:
            self._changed.notify_all()

    def _begun(self, number: int) -> None:
        info = self._infos.get(number)
        _in_hand.set(info)  # it may be overwritten while it is handled
        traceparent.set(None if info is None else info.traceparent)

    def _lag(self, missed: int, how: str) -> None:
        if missed > 0:
            self._lagged(missed)
        self._lose(missed, how)


def _parts(identifier: bytes) -> tuple[int, int]:
    """Return the two numbers of an identifier, by which entries are in order."""
    time, _, number = identifier.partition(b"-")
    return int(time), int(number)


def _ignore(*_: Any) -> None:
    """Nobody waits for what happens."""
