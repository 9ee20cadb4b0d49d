"""`Compete`: each message is handled in one process of a group, and acknowledged afterwards.

Only a delivery whose handler began counts. That is noted in the server as soon as it is known here,
together with what was handled meanwhile. What a consumer had that died is noted before its handler
begins, so that what kills processes within a moment is counted, too.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from itertools import islice
from math import inf
from typing import Any, Final, TypeVar, final

from anyio import current_time, get_cancelled_exc_class
from typing_extensions import override

from ..._broadcast.acknowledgements import Acknowledgements, MessageInfo
from ..._broadcast.relay import Relay
from ..._model._loops.wakeup import Wakeup
from ..._model.log import logger
from ..._model.traces import traceparent
from ..._model.words import counted
from .._outbox.outbox import Outbox
from .._scripts.groups import CLAIM, LEAVE, PENDING, RECOVER, RENEW, SWEEP, TELL
from .._server.connection import Connection, Entry, pairs
from .._wire.envelope import Envelope, Format, Outgoing, Unreadable
from .._wire.keys import Keys
from .carrier import COUNT, Carrier, Joined, Limits

__all__ = ["Compete"]

T = TypeVar("T")

#: Of how many messages the server is told, or tells, at a time.
_TOLD: Final = 1000

#: How often, in seconds, the server hears of a consumer, and is asked what is due again.
_BEAT: Final = 1.0

#: How often at least, in seconds, what is done with is removed from the stream.
_SWEEP: Final = 10.0

#: For how many times `claim_after` what cannot be read here is left to others.
_UNREADABLE: Final = 10

#: After how long, in seconds, what cannot be read here is tried again.
_AGAIN: Final = 1.0

#: For how long messages wait in a group that nobody seems to use, in milliseconds: a day.
_OLD: Final = 86_400_000

#: How long, in seconds, the processes of a group may take to notice that a topic is gone: each looks
#: once in a beat. Then what was lost is counted.
_SETTLED: Final = 2.0

#: For how long, in seconds, this process may be too busy to be heard of.
_HICCUP: Final = 1.0

#: How long at most, in seconds, others may take to be heard of when the server has been away: to
#: wait until they try again, and to connect.
_REUNION: Final = 10.0

_EMPTIED: Final = "somebody has emptied the server"
_TRIMMED: Final = "they were removed from the stream before they were handled"


@dataclass(slots=True, eq=False)
class _Job:
    """A message that is this process's to handle."""

    entry: Entry
    age: int  # how often the topic had begun anew when it was read
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
        self._done: Final[dict[bytes, bool]] = {}  # done with, and whether it was handled here
        self._returns: Final[dict[bytes, _Return]] = {}  # to come again
        self._begun: Final[dict[bytes, _Job]] = {}  # handlers that have begun: not told yet
        self._marked: Final = Wakeup()  # that it was told
        self._is_open = True
        self._is_served = True  # whether somebody tells the server
        #: after which entry to look for what did not arrive; empty if that is done
        self._recovering = b""
        self._next_recovery = -inf
        #: how often the topic began anew: what was read of it before is nowhere in the server
        self._age = 0
        # The last entry that this one was the first to get, and its ordinal.
        self._last: tuple[bytes, int] = (b"", 0)
        self._was_alone = False  # when it was last heard how many consumers there are
        self._gap = 0  # entries that this one has not got, nor anybody, if it was alone
        self._got = 0  # the ordinal of the last entry that somebody of the group has got
        self._again = 0  # how many entries of the group were to come again when that was asked
        self._since = 0  # and how many more, or less, by what was done here since
        self._silent = 0  # how many entries silent consumers of the group have
        #: whether there is more to claim than there was room for
        self.has_more: bool = True
        self._next_claim = -inf
        self._heard = current_time()  # when the server has last answered that it heard of this one
        self._reunion = -inf  # until when others may be silent since the server was away
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
        return self._prefetch - len(self._hand) - len(self._inbox) - len(self._burials)

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
        self._is_open = self._is_served = True

    def end(self) -> None:
        """Have no handler wait for the server any more: nobody is there to tell it."""
        self._is_served = False
        self._marked.notify_all()

    async def settled(self) -> None:
        """Wait until what was delivered here has been handled, or never will be."""
        while self._hand:
            await self._changed.wait()

    def close(self) -> None:
        """Take no more messages in; what waits here is handed back at the end."""
        self._is_open = False

    # -- joining -------------------------------------------------------------------------------

    @override
    def _joined(self, joined: Joined) -> None:
        if not self._born:
            self._is_heard()
        elif joined.made or joined.born != self._born:
            self._begin_anew(joined)

    def _begin_anew(self, joined: Joined) -> None:
        """Count what was lost here; what the group has lost, the server does."""
        self._age += 1
        self._done.clear()
        self._begun.clear()
        self._marked.notify_all()
        gone = len(self._returns) + len(self._burials)
        self._returns.clear()
        self._burials.clear()
        self._here.clear()
        self._here.update(job.identifier for job in (*self._hand.values(), *self._inbox))
        self._got = joined.ordinal if joined.made else 0
        self._again = self._since = self._silent = 0
        self._last = (b"", 0)
        self._gap = 0
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
        silence = 0 if now < self._reunion else int(self._claim_after * 1000)
        lost, more, found = await connection.run(
            CLAIM, keys, [self._born, self._name, self._consumer, most, silence]
        )
        self.has_more = bool(more)
        self._next_claim = now + self.beat
        for what in found:
            if what[4]:
                self._silent = max(0, self._silent - 1)
            else:
                self._since -= 1
        self._take_over(lost, found)

    def begin_to_recover(self) -> None:
        """Look anew for what the server has given to this consumer and did not arrive."""
        self._recovering = b"-"
        self._next_recovery = current_time() + self._claim_after

    async def recover(self, connection: Connection) -> None:
        """Take in what the server has given to this consumer and did not arrive, if there is room.

        It may also do so later: when something reaches it that was asked for in an earlier session.
        """
        if not self._recovering and current_time() >= self._next_recovery:
            self.begin_to_recover()
        keys = [self.keys.stream, self.keys.about]
        who = [self._born, self._name, self._consumer]
        while self._recovering and (room := min(self.room, COUNT)) > 0:
            ids: list[bytes] = await connection.run(PENDING, keys, [*who, self._recovering, _TOLD])
            missing = [one for one in ids if one not in self._here][:room]
            last = missing[-1] if len(missing) == room else ids[-1] if len(ids) == _TOLD else b""
            self._recovering = last and b"(" + last
            if missing:
                # Some may have been here when that was asked, and are not any more since they were
                # told of: whose they are now, the server knows.
                lost, found = await connection.run(
                    RECOVER, [*keys, self._at.tries], [*who, *missing]
                )
                self._take_over(lost, found)

    @property
    def wants(self) -> bool:
        """Whether what is new may come in."""
        return self.room > 0 and not self._recovering

    @override
    def take_in(self, entries: Sequence[Entry]) -> None:
        self._see_that_it_goes_on(entries, self._last[1])
        last = 0
        if self._got and entries[0].ordinal > self._got + 1:
            self._gap += entries[0].ordinal - self._got - 1
        for entry in entries:
            ordinal = entry.ordinal
            # Between two entries of one answer there is none that another one has got.
            if last and ordinal > last + 1:
                self._lose(ordinal - last - 1, _TRIMMED)
            last = ordinal or last
            self._add(_Job(entry, self._age))
        self._got = max(self._got, last)
        self._last = entries[-1].identifier, last

    def _add(self, job: _Job) -> None:
        if job.identifier in self._here:
            return
        self._here.add(job.identifier)
        if job.entry.fields.get(b"group", self._raw) == self._raw:
            self._inbox.append(job)
            self._arrived.notify_all()
        else:  # it was put back for another group
            self._done[job.identifier] = False
            self._news.notify_all()

    def _take_over(
        self, lost: int, found: list[tuple[bytes, int, bytes, int, int, list[bytes]]]
    ) -> None:
        self._lose(lost, _TRIMMED)
        for identifier, deliveries, why, unreadable, suspect, fields in found:
            self._add(
                _Job(
                    Entry(identifier, pairs(fields)),
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
                assert number is not None, "nothing is dropped of what is to be acknowledged"
                self._hand[number] = job
                self.counts.received += 1
                self._acknowledgements.expect(number)
        self._inbox.popleft()
        self._changed.notify_all()  # there may be room, if it went elsewhere

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
        # Not always this one first: others look at the same time, since the server wakes them so.
        self._next_claim = current_time() + (1 + random.random()) * (delay + self.beat)

    def _give_up(self, job: _Job, why: str, deliveries: int) -> None:
        if job.age == self._age:
            self.bury(job.entry, why, deliveries)
        else:
            self._here.discard(job.identifier)
            self._lose(1, _EMPTIED)

    def _return(self, what: _Return) -> None:
        self._returns[what.job.identifier] = what
        self._news.notify_all()

    # -- handling ------------------------------------------------------------------------------

    def _begin(self, number: int) -> Awaitable[None] | None:
        job = self._hand.get(number)
        if job is None:  # it was settled before this task came
            traceparent.set(None)
            return None
        assert job.message is not None
        traceparent.set(job.message.traceparent)
        if job.age != self._age:
            job.begun = True
            return None
        if not job.begun:  # by another event task
            self._begun[job.identifier] = job
            self._news.notify_all()
        if job.suspect and self._is_served:
            return self._wait_marked(job)
        job.begun = True
        return None

    def _about(self, number: int) -> MessageInfo | None:
        job = self._hand.get(number)
        if job is None or job.message is None:
            return None
        return job.message.info(job.deliveries)

    async def _wait_marked(self, job: _Job) -> None:
        """Wait until the server has noted that the handler begins."""
        while self._begun.get(job.identifier) is job and self._is_served:
            await self._marked.wait()
        job.begun = True

    def _settled(self, number: int, error: BaseException | None) -> None:
        job = self._hand.pop(number)
        if error is not None:
            self._not_handled(job, error)
        elif job.age == self._age:
            self._done[job.identifier] = True
            self._begun.pop(job.identifier, None)
        else:
            self._here.discard(job.identifier)
        self._news.notify_all()
        self._changed.notify_all()

    def _not_handled(self, job: _Job, error: BaseException) -> None:
        self._begun.pop(job.identifier, None)  # what comes of it is told
        if job.age != self._age:
            self._here.discard(job.identifier)
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
            times = job.deliveries + 1
            self._give_up(job, f"it was delivered {counted(times, 'times')}. {job.why}", times)
        else:
            self._return(_Return(job, delay))

    # -- telling -------------------------------------------------------------------------------

    @override
    async def tell_some(self, connection: Connection) -> bool:
        told = await super().tell_some(connection)
        done = dict(islice(self._done.items(), _TOLD))
        begun = list(islice(self._begun.values(), _TOLD))
        returns = list(islice(self._returns.values(), _TOLD))
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
            arguments.append(job.deliveries + job.begun)
        keys = [self.keys.stream, self.keys.about, self._at.tries, self._at.later]
        self._lose(await connection.run(TELL, keys, arguments), _TRIMMED)
        self.counts.acknowledged += sum(done.values())
        for identifier in done:
            self._done.pop(identifier, None)
        for job in begun:
            if self._begun.get(job.identifier) is job:
                del self._begun[job.identifier]
        for one in returns:
            if self._returns.get(one.job.identifier) is one:
                del self._returns[one.job.identifier]
        self._here.difference_update(done, (one.job.identifier for one in returns))
        self._since += len(returns)
        self._marked.notify_all()
        return True

    # -- looking after -------------------------------------------------------------------------

    @override
    async def maintain(self, connection: Connection) -> None:
        """Say that this consumer is alive, and look for what nobody looks after, for ever."""
        swept = -inf
        while True:
            await self.renew(connection)
            now = current_time()
            if now - swept >= min(self._claim_after / 3, _SWEEP):
                swept = now
                await self._sweep(connection)
            await self._wait_to_look(self.beat)

    async def _sweep(self, connection: Connection) -> None:
        keys = [self.keys.stream, self._at.later, self._at.alive]
        idle: list[bytes]
        self._silent, idle = await connection.run(SWEEP, keys, [self._name, _OLD])
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

    async def renew(self, connection: Connection, patience: float = _SETTLED) -> None:
        """Say that this consumer is alive, and learn how its group stands.

        :param connection: to whom
        :param patience: how long others may take to tell how far a topic had come that is gone
        """
        keys = [self.keys.stream, self.keys.about, self.keys.count]
        keys += [self._at.alive, self._at.later]
        wait = int(patience * 1000)
        head, got, lost, self._again, consumers, gone, away = await connection.run(
            RENEW, keys, [self._born, self._name, self._consumer, *self._last, wait]
        )
        self._is_heard(away / 1000)
        self._since = 0
        self._lose(gone, _EMPTIED)
        self._head = max(self._head, head)
        self._got = max(self._got, got + lost if got else 0)
        is_alone = consumers == 1
        if self._gap and self._was_alone and is_alone:
            lost += self._gap
        self._gap = 0
        self._was_alone = is_alone
        self._lose(lost, _TRIMMED)

    def _is_heard(self, away: float = 0.0) -> None:
        """Give others the time to be heard of, if the server was not there for this one either.

        :param away: for how long, in seconds, as far as the server knows: its clock may have jumped
        """
        now = current_time()
        away = max(away, now - self._heard)
        self._heard = now
        if away > max(2 * self.beat, _HICCUP):  # the longer, the longer they wait to try again
            self._reunion = max(self._reunion, now + min(4 * away, _REUNION))

    @property
    @override
    def _known(self) -> tuple[int, int, int, int]:
        return (self._got, self._again, self._since, self._silent)

    @override
    async def leave(self, connection: Connection) -> None:
        await self.renew(connection, 0)  # nobody may be left to count what is gone
        await self._sweep(connection)
        await super().leave(connection)
        # If it is stopped alone, handlers go on; and some have ended since it was told last.
        keeps = {*self._done, *self._returns, *(one.entry.identifier for one in self._burials)}
        keeps.update(job.identifier for job in self._hand.values())
        keys = [self.keys.stream, self._at.later, self._at.alive]
        lost = await connection.run(LEAVE, keys, [self._name, self._consumer, *keeps])
        self._lose(lost, _TRIMMED)
        self._here.intersection_update(keeps)
        self._inbox.clear()
