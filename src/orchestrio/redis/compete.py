"""`Compete`: each message is handled in one process of a group, and acknowledged afterwards.

Only a delivery whose handler began counts. That is noted in the server as soon as it is known here,
together with what was handled meanwhile. What a consumer had that died is noted before its handler
begins, so that what kills processes within a moment is counted, too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from itertools import islice
from math import inf
from typing import Any, Final, TypeVar, final

from anyio import current_time, get_cancelled_exc_class, sleep
from typing_extensions import override

from .._broadcast.acknowledgements import Acknowledgements, MessageInfo
from .._broadcast.relay import Relay
from .._model.log import logger
from .._model.wakeup import Wakeup
from .carrier import COUNT, Burial, Carrier, Joined, Limits
from .connection import Connection, Entry
from .envelope import Envelope, Format, Outgoing, Unreadable, traceparent
from .keys import Keys
from .outbox import Outbox
from .scripts import CLAIM, LEAVE, RECOVER, RENEW, SWEEP, TELL

__all__ = ["Compete"]

T = TypeVar("T")

#: Of how many messages the server is told at a time.
_TOLD: Final = 1000

#: How often, in seconds, the server hears of a consumer, and is asked what is due again.
_BEAT: Final = 1.0

#: For how many times `claim_after` what cannot be read here is left to others.
_UNREADABLE: Final = 10

#: After how long, in seconds, what cannot be read here is tried again.
_AGAIN: Final = 1.0


#: For how long messages wait in a group that nobody seems to use, in milliseconds: a day.
_OLD: Final = 86_400_000

_EMPTIED: Final = "somebody has emptied the server"
_TRIMMED: Final = "they were removed from the stream before they were handled"


@dataclass(slots=True, eq=False)
class _Job:
    """A message that is this process's to handle."""

    entry: Entry
    age: int  # of the topic when it was read; see `Compete._age`
    deliveries: int = 0  # whose handler began, before this one
    suspect: bool = False  # whether its consumer died
    why: str = ""  # the last error
    unreadable: float = -1.0  # for how long, in seconds
    message: Envelope[Any] | None = None  # once it is delivered
    begun: bool = False

    @property
    def identifier(self) -> bytes:
        return self.entry.identifier


@dataclass(frozen=True, slots=True)
class _Return:
    """A message that is to come again."""

    job: _Job
    delay: float  # in seconds
    unreadable: bool = False


@final
class Compete(Carrier[T]):
    """Each message is handled in one process of a group, and acknowledged afterwards."""

    def __init__(
        self,
        keys: Keys,
        format: Format[T],
        relay: Relay[T, Outgoing],
        outbox: Outbox,
        limits: Limits,
        changed: Wakeup,
        *,
        group: str,
        consumer: str,
        prefetch: int,
        claim_after: float,
        max_deliveries: int,
    ) -> None:
        super().__init__(keys, format, relay, outbox, limits, changed)
        self._name: Final = group
        self._raw: Final = group.encode()
        self._consumer: Final = consumer
        self._prefetch: Final = prefetch
        self._claim_after: Final = claim_after
        self._max_deliveries: Final = max_deliveries
        self._at: Final = keys.group(group)
        self._hand: Final[dict[int, _Job]] = {}  # what is being handled, by its number on the bus
        self._here: Final[set[bytes]] = set()  # all that the server has not been told of as done
        self._done: Final[dict[bytes, None]] = {}  # handled
        self._returns: Final[list[_Return]] = []  # to come again
        self._begun: Final[dict[bytes, _Job]] = {}  # handlers that have begun: not told yet
        self._marked: Final = Wakeup()  # that it was told
        self._is_open = True
        #: how often the topic began anew: what was read of it before is nowhere in the server
        self._age = 0
        self._last: tuple[bytes, int] = (
            b"",
            0,
        )  # the last entry that this one was the first to get
        self._got = 0  # the ordinal of the last entry that somebody of the group has got
        self._unclaimed = 0  # how many entries of the group wait for somebody to claim them
        #: whether there is more to claim than there was room for
        self.has_more: bool = True
        self._next_claim = -inf
        self._told_unreadable = False
        self._told_idle: set[bytes] = set()  # groups that nobody seems to use
        self._acknowledgements = Acknowledgements(
            self._begin, self._settled, self._changed.notify_all, about=self._about
        )
        relay.acknowledge(self._acknowledgements, lossless=True)

    # -- how it stands -------------------------------------------------------------------------

    @property
    @override
    def _mode(self) -> str:
        return "compete"

    @property
    @override
    def _group(self) -> str:
        return self._name

    @property
    @override
    def in_hand(self) -> int:
        return len(self._hand)

    @property
    @override
    def room(self) -> int:
        if not (self._is_open and self._acknowledgements.readers):
            return 0
        return self._prefetch - len(self._hand) - len(self._inbox)

    @property
    @override
    def is_full(self) -> bool:
        return self._is_open and bool(self._acknowledgements.readers) and self.room <= 0

    @property
    @override
    def owes(self) -> bool:
        return super().owes or bool(self._done)

    def open(self) -> None:
        """Take messages in from now on."""
        self._is_open = True

    def close(self) -> None:
        """Take no more messages in; what waits here is handed back at the end."""
        self._is_open = False

    # -- joining -------------------------------------------------------------------------------

    @override
    def _joined(self, joined: Joined) -> None:
        if self._born and (joined.made or joined.born != self._born):
            self._begin_anew(joined)

    def _begin_anew(self, joined: Joined) -> None:
        """Count what was lost: who makes the topic anew does so for the group."""
        self._age += 1
        self._done.clear()
        self._begun.clear()
        self._marked.notify_all()
        gone = len(self._returns)
        self._returns.clear()
        if joined.made:
            gone += max(0, self._head - self._got) + self._unclaimed
        self._here.clear()
        self._here.update(job.identifier for job in (*self._hand.values(), *self._inbox))
        self._got = joined.ordinal if joined.made else 0
        self._unclaimed = 0
        self._lose(gone, _EMPTIED)

    # -- receiving -----------------------------------------------------------------------------

    async def claim(self, connection: Connection, *, most: int) -> None:
        """Claim what is due again or was left behind, if it is time to ask for that.

        :param most: how many at most
        """
        most = min(most, self.room, COUNT)
        now = current_time()
        if most <= 0 or not (self.has_more or now >= self._next_claim):
            return
        keys = [self.keys.stream, self.keys.about]
        keys += [self._at.tries, self._at.later, self._at.alive]
        silence = int(self._claim_after * 1000)
        lost, more, found = await connection.run(
            CLAIM, keys, [self._born, self._name, self._consumer, most, silence]
        )
        self.has_more = bool(more)
        self._next_claim = now + self.beat
        self._unclaimed = max(0, self._unclaimed - len(found))
        self._take_over(lost, found)

    async def recover(self, connection: Connection) -> None:
        """Take in what the server has given to this consumer and did not arrive."""
        position = "-"
        while position and self.room > 0:
            lost, position, found = await connection.run(
                RECOVER,
                [self.keys.stream, self.keys.about, self._at.tries],
                [self._born, self._name, self._consumer, position, min(self.room, COUNT)],
            )
            self._take_over(lost, found)

    @override
    def take_in(self, entries: Sequence[Entry]) -> None:
        last = 0
        for entry in entries:
            ordinal = int(entry.fields.get(b"n", 0))
            # Between two entries of one answer there is none that another one has got.
            if last and ordinal > last + 1:
                self._lose(ordinal - last - 1, _TRIMMED)
            last = ordinal
            if entry.fields.get(b"group", self._raw) == self._raw:
                self._add(_Job(entry, self._age))
            else:  # it was put back for another group
                self._done[entry.identifier] = None
                self._news.notify_all()
        self._got = max(self._got, last)
        self._last = entries[-1].identifier, last

    def _add(self, job: _Job) -> None:
        if job.identifier not in self._here:
            self._here.add(job.identifier)
            self._inbox.append(job)
            self._arrived.notify_all()

    def _take_over(
        self, lost: int, found: list[tuple[bytes, int, bytes, int, int, list[bytes]]]
    ) -> None:
        self._lose(lost, _TRIMMED)
        for identifier, deliveries, why, unreadable, suspect, fields in found:
            self._add(
                _Job(
                    Entry(identifier, dict(zip(fields[::2], fields[1::2], strict=True))),
                    self._age,
                    deliveries,
                    bool(suspect),
                    why.decode(errors="replace"),
                    unreadable / 1000,
                )
            )

    @override
    async def deliver_next(self) -> None:
        job: _Job = self._inbox[0]
        if job.deliveries >= self._max_deliveries:  # and nobody lived to tell why
            why = f"its handler began {job.deliveries} times. {job.why}".strip()
            self._give_up(job, why, job.deliveries)
        else:
            try:
                message = self._format.decode(job.entry.fields)
            except Unreadable as error:
                self._cannot_read(job, error)
            else:
                job.message = message
                number = await self.relay.deliver(message.data)
                self._hand[number] = job
                self.counts.received += 1
                self._acknowledgements.expect(number)
        self._inbox.popleft()

    def _cannot_read(self, job: _Job, error: Unreadable) -> None:
        """Leave it to others for a time, who may be of another version."""
        if not error.passing or job.unreadable >= _UNREADABLE * self._claim_after:
            self._give_up(job, str(error), job.deliveries)
            return
        if not self._told_unreadable:
            self._told_unreadable = True
            logger.warning(
                "message %s of %s cannot be read here, and is left to others for %g s: %s",
                job.identifier.decode(),
                self.name,
                _UNREADABLE * self._claim_after,
                str(error).partition("\n")[0],
            )
        job.why = str(error)
        delay = min(_AGAIN, self._claim_after)
        self._return(_Return(job, delay, unreadable=True))
        self.has_more = False
        self._next_claim = current_time() + 2 * delay + self.beat  # the others first

    def _give_up(self, job: _Job, why: str, deliveries: int) -> None:
        if job.age == self._age:
            self.bury(job.entry, why, deliveries)
        else:
            self._lose(1, _EMPTIED)

    def _return(self, what: _Return) -> None:
        self._returns.append(what)
        self._news.notify_all()

    # -- handling ------------------------------------------------------------------------------

    def _begin(self, number: int) -> Awaitable[None] | None:
        job = self._hand[number]
        assert job.message is not None
        traceparent.set(job.message.traceparent)
        if not job.begun:  # by another event task
            job.begun = True
            self._begun[job.identifier] = job
            self._news.notify_all()
        return self._wait_marked(job) if job.suspect else None

    def _about(self, number: int) -> MessageInfo | None:
        job = self._hand.get(number)
        if job is None or job.message is None:
            return None
        return job.message.info(job.deliveries)

    async def _wait_marked(self, job: _Job) -> None:
        """Wait until the server has noted that the handler begins."""
        while job.identifier in self._begun:
            await self._marked.wait()

    def _settled(self, number: int, error: BaseException | None) -> None:
        job = self._hand.pop(number)
        if error is None:
            if job.age == self._age:
                self._done[job.identifier] = None
                self._begun.pop(job.identifier, None)
        else:
            self._not_handled(job, error)
        self._news.notify_all()
        self._changed.notify_all()

    def _not_handled(self, job: _Job, error: BaseException) -> None:
        if job.age != self._age:
            self._lose(1, _EMPTIED)
            return
        if not job.begun:
            self._return(_Return(job, 0.0))
            return
        if isinstance(error, get_cancelled_exc_class()):
            job.why = "its handler was cancelled"
            delay = 0.0
        else:
            self.counts.failed += 1
            job.why = f"{type(error).__name__}: {error}"
            delay = self._claim_after
        if job.deliveries + 1 >= self._max_deliveries:
            self._begun.pop(job.identifier, None)
            times = job.deliveries + 1
            self._give_up(job, f"it was delivered {times} times. {job.why}", times)
        else:
            self._return(_Return(job, delay))

    # -- telling -------------------------------------------------------------------------------

    @override
    async def tell_some(self, connection: Connection) -> bool:
        told = await super().tell_some(connection)
        done = list(islice(self._done, _TOLD))
        begun = list(islice(self._begun.values(), _TOLD))
        returns = self._returns[:_TOLD]
        if not (done or begun or returns):
            return told
        arguments: list[str | bytes | int] = [self._born, self._name, self._consumer]
        arguments += (len(done), *done, len(begun))
        for job in begun:
            arguments += (job.identifier, job.deliveries + 1)
        for one in returns:
            job = one.job
            why = job.why[:1000] if job.begun or one.unreadable else ""
            arguments += (job.identifier, int(one.delay * 1000), int(one.unreadable), why)
        keys = [self.keys.stream, self.keys.about, self._at.tries, self._at.later]
        self._lose(await connection.run(TELL, keys, arguments), _TRIMMED)
        self.counts.acknowledged += len(done)
        for identifier in done:
            self._done.pop(identifier, None)
            self._here.discard(identifier)
        for job in begun:
            self._begun.pop(job.identifier, None)
        self._marked.notify_all()
        del self._returns[: len(returns)]
        self._here.difference_update(one.job.identifier for one in returns)
        return True

    # -- looking after -------------------------------------------------------------------------

    @override
    async def maintain(self, connection: Connection) -> None:
        """Say that this consumer is alive, and look for what nobody looks after, for ever."""
        swept = -inf
        while True:
            await self._renew(connection)
            now = current_time()
            if now - swept >= self._claim_after / 3:
                swept = now
                await self._sweep(connection)
            await sleep(self.beat)

    async def _sweep(self, connection: Connection) -> None:
        keys = [self.keys.stream, self._at.later, self._at.alive]
        idle: list[bytes] = await connection.run(SWEEP, keys, [self._name, _OLD])
        for group in set(idle) - self._told_idle:
            self._told_idle.add(group)
            logger.warning(
                "group %r of %s has messages that nobody has handled for a day, and keeps these and"
                " all that come in the server: if it is not used any more, drop it with"
                " 'python -m orchestrio.redis groups drop'",
                group.decode(errors="replace"),
                self.name,
            )

    @property
    def beat(self) -> float:
        """How often the server hears of this consumer, and is asked what is due, in seconds."""
        return min(_BEAT, self._claim_after / 4)

    async def _renew(self, connection: Connection) -> None:
        keys = [self.keys.stream, self.keys.about, self.keys.count]
        keys += [self._at.alive, self._at.later]
        head, got, lost, self._unclaimed = await connection.run(
            RENEW, keys, [self._born, self._name, self._consumer, *self._last]
        )
        self._head = max(self._head, head)
        self._got = max(self._got, got)
        self._lose(lost, _TRIMMED)

    @override
    async def _bury(self, connection: Connection, burial: Burial) -> None:
        await super()._bury(connection, burial)
        self._here.discard(burial.entry.identifier)

    @override
    async def finish(self, connection: Connection) -> None:
        await super().finish(connection)
        await self._sweep(connection)
        in_hand = [job.identifier for job in self._hand.values()]  # it is stopped alone
        keys = [self.keys.stream, self._at.later, self._at.alive]
        lost = await connection.run(LEAVE, keys, [self._name, self._consumer, *in_hand])
        self._lose(lost, _TRIMMED)
        self._here.intersection_update(in_hand)
        self._inbox.clear()
