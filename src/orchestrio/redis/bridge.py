"""`RedisBridge`: a task through which the channels of a bus go on in other processes."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar, cast, final
from uuid import uuid4

from anyio import CancelScope, current_time, move_on_after, sleep
from typing_extensions import Unpack, override

from .._broadcast.bus import EventBus
from .._broadcast.relay import Relay
from .._model.errors import InvalidChannelError, LifecycleError
from .._model.log import logger
from .._model.settings import Backoff, wait_before
from .._model.topics import Topic
from .._model.wakeup import Wakeup
from .._model.words import counted
from .._tasks.bridge import Bridge
from .._tasks.context import current_run
from .._tasks.events import TaskLagged
from .broadcast import Broadcast
from .carrier import Carrier, Limits
from .compete import Compete
from .connection import (
    TROUBLE,
    Connection,
    RedisSettings,
    Refused,
    connected,
    together,
)
from .database import Database, new_origin
from .envelope import Format
from .keys import Keys
from .leases import RedisLeases
from .options import BridgeOptions, BridgeSettings
from .outages import Full
from .outbox import DiskOutbox, MemoryOutbox
from .reading import read_broadcasts, read_group

__all__ = ["BridgeStatistics", "RedisBridge"]

C = TypeVar("C", bound=Carrier[Any])

_BACKOFF: Final = Backoff(initial_delay=0.1, max_delay=5.0)

#: How soon, in seconds, to look again whether what was sent has come back.
_AGAIN: Final = 0.02

#: For how long, in seconds, the server may be away before the task is not ready any more.
_GRACE: Final = 5.0


@final
@dataclass(frozen=True, slots=True)
class BridgeStatistics:
    """How a bridge stands at one moment; all numbers but `unsent` and `in_hand` count up."""

    connected: bool
    """Whether the server answered when it was last asked something."""
    outages: int
    """How often it stopped answering."""
    sent: int
    """Messages that the server has taken."""
    unsent: int
    """Messages published here that have not reached the server."""
    received: int
    """Messages from the server given to the receivers here."""
    in_hand: int
    """Messages that handlers here have and have not acknowledged."""
    acknowledged: int
    """Messages handled here and acknowledged."""
    failed: int
    """Deliveries to handlers here that failed; the message is delivered again."""
    buried: int
    """Messages moved to the dead letters from here."""
    missed: int
    """Messages that never came through: lost in the server before they were read or handled, or
    overwritten here before they were sent.
    """


@final
class RedisBridge(Bridge):
    """A task that carries topics between processes, over streams of Redis (7 or later) or Valkey.

    Every process registers one with the same `namespace`. Publishers and handlers stay as they
    are: what is published in any of them goes to the server, and from there to the receivers in
    all of them, in one order. That holds for the process that publishes too: its own receivers
    get a message when the server has it, once. What comes in is on the channel as ever.

    - ``mode="broadcast"``: every process gets every message.
    - ``mode="compete"``: each message is handled in one process. It is acknowledged when its event
      tasks have handled it. If they fail, or the process dies, it is delivered again after
      `claim_after` seconds, to whoever is there; when handlers have begun it `max_deliveries` times
      it is moved to the stream of dead letters. A message may be handled twice, and no crash of a
      process loses it: *at least once*.

    Register it before the tasks that handle and publish, and do not restart it by hand: while it
    is away, what is published waits in the outbox. That has the capacity and the overflow policy
    of the channel, so a server that is slow or away is felt as a slow receiver is: with
    ``overflow="block"`` publishers wait. With ``outbox="some.db"`` it is on disk, and what
    ``publish()`` or ``send()`` has accepted outlives a crash of this process as well.

    Example::

        from orchestrio import Scheduler, Topic
        from orchestrio.redis import RedisBridge

        ORDERS = Topic("orders", int)
        scheduler = Scheduler()
        scheduler.add_channel(ORDERS)
        scheduler.register_background_task(
            RedisBridge("redis://localhost:6379/0", topics=[ORDERS], namespace="shop")
        )

        @scheduler.background()
        async def shop() -> None:
            await scheduler.publish(ORDERS, 7)

        @scheduler.on(ORDERS)
        async def ship(number: int) -> None:
            print("ship", number)  # ship 7
            await scheduler.shutdown()

        scheduler.run_sync()

    :param url: a URL such as ``redis://user:password@host:6379/0``, ``rediss://`` with TLS or
        ``unix:///path``; or `RedisSettings`
    :param topics: what to carry: topics whose payload has JSON by Pydantic, or plain `str` keys;
        each has a channel on the bus
    :param namespace: keeps programs apart that share a server
    :param options: the fields of `BridgeOptions`, which explains each. Those not given are
        ``mode="broadcast"``; ``group="workers"``, of those that compete; ``outbox=None``, a path;
        ``max_outbox=1_000_000_000`` bytes; ``max_bytes=1_000_000``, of a payload;
        ``max_length=100_000`` messages of a topic in the server; ``prefetch=64`` messages of a
        topic in hand; ``claim_after=30.0`` seconds; ``max_deliveries=5``, of a message;
        ``max_dead_letters=10_000`` of a topic;
        ``lease=10.0`` seconds, of a singleton
    :raises ~pydantic.ValidationError: if an option is not valid; it names the field
    :raises ValueError: if the URL is none, or no topic is given
    :raises InvalidChannelError: if a topic cannot leave the process, or two have the same name
    """

    def __init__(
        self,
        url: str | RedisSettings,
        *,
        topics: Sequence[Topic[Any] | str],
        namespace: str,
        **options: Unpack[BridgeOptions],
    ) -> None:
        self._settings = url if isinstance(url, RedisSettings) else RedisSettings.from_url(url)
        checked = BridgeSettings.model_validate({"namespace": namespace, **options})
        self._options = checked
        if not _are_several(topics):
            raise ValueError("topics is a list of at least one topic")
        self._formats = [
            Format[Any](topic, checked.namespace, checked.max_bytes) for topic in topics
        ]
        names = Counter(format.name for format in self._formats)
        for format in self._formats:
            if names[format.name] > 1:
                raise InvalidChannelError(
                    f"{names[format.name]} of the topics are called {format.name!r}: they would"
                    " share one stream, and each read what is the others'. Give each a key of its"
                    " own",
                    format.event,
                )
        self._database = (
            None
            if checked.outbox is None
            else Database(checked.outbox, limit=checked.max_outbox, topics=set(names))
        )
        self._origin = ""  # of the process that uses it, which may be a fork of this one
        self._consumer = ""
        self._carriers: list[Carrier[Any]] = []
        self._broadcasts: list[Broadcast[Any]] = []
        self._competes: list[Compete[Any]] = []
        self._bus: EventBus[Any] | None = None
        self._is_leaving = False  # it is being removed
        self._changed = Wakeup()  # there is room for what comes in
        self._receiving: CancelScope | None = None
        self._leases = RedisLeases(checked.namespace, checked.lease, self._keep)
        self._connected = False
        self._outages = 0
        self._down: set[object] = set()  # the loops that wait for it to answer
        self._sessions = 0
        self._away_since: float | None = None  # in seconds on the event loop's clock

    @property
    @override
    def default_name(self) -> str:
        return f"redis-{self._options.mode}"

    def statistics(self) -> BridgeStatistics:
        """Return how the bridge stands now.

        :return: numbers over all its topics
        """
        carriers = self._carriers
        return BridgeStatistics(
            connected=self._connected,
            outages=self._outages,
            sent=sum(carrier.counts.sent for carrier in carriers),
            unsent=sum(carrier.outbox.unsent for carrier in carriers),
            received=sum(carrier.counts.received for carrier in carriers),
            in_hand=sum(carrier.in_hand for carrier in carriers),
            acknowledged=sum(carrier.counts.acknowledged for carrier in carriers),
            failed=sum(carrier.counts.failed for carrier in carriers),
            buried=sum(carrier.counts.buried for carrier in carriers),
            missed=sum(carrier.missed for carrier in carriers),
        )

    # -- life ----------------------------------------------------------------------------------

    @override
    async def initialize(self) -> None:
        run = current_run.get()
        if run is None:
            raise LifecycleError("a bridge is a task: register it with a scheduler")
        gone = any(not carrier.relay.is_taken for carrier in self._carriers)
        if gone or self._bus not in (None, run.services.bus):
            raise LifecycleError(
                "a bridge that was removed, or has worked in another scheduler, cannot be used"
                " again: make a new RedisBridge"
            )
        self._bus = run.services.bus
        self._receiving = CancelScope()
        if not self._origin:
            self._origin, self._consumer = new_origin(), uuid4().hex
        is_first = not self._carriers
        try:
            if self._database is not None:
                await self._database.open()
            for format in self._formats[len(self._carriers) :]:
                self._carriers.append(self._take_over(format, run.services.bus))
            for competing in self._competes:
                competing.open()
            for carrier in self._carriers:
                await carrier.outbox.load()
            await self._keep(self._join)
        except BaseException:
            if is_first:  # nobody has counted on it yet
                self.close()
                for carriers in (self._carriers, self._broadcasts, self._competes):
                    carriers.clear()
            if self._database is not None:
                with CancelScope(shield=True):
                    await self._database.close()
            raise
        run.services.leases = self._leases

    def _take_over(self, format: Format[Any], bus: EventBus[Any]) -> Carrier[Any]:
        options = self._options
        relay = Relay[Any, Any](bus, format.event, format.pack, keep=self._database is not None)
        if self._database is None:
            outbox: MemoryOutbox | DiskOutbox = MemoryOutbox(relay.outgoing, self._origin)
        else:
            outbox = DiskOutbox(relay.outgoing, self._database, format.name)
            relay.confirm(outbox.wait_safe)
        keys = Keys(options.namespace, format.name)
        broadcasts = options.mode == "broadcast"
        limits = Limits(options.max_length if broadcasts else 0, options.max_dead_letters)
        if broadcasts:
            broadcast = Broadcast(
                keys, format, relay, outbox, limits, self._changed, lagged=_lagged
            )
            self._broadcasts.append(broadcast)
            return broadcast
        competing = Compete(
            keys,
            format,
            relay,
            outbox,
            limits,
            self._changed,
            group=options.group,
            consumer=self._consumer,
            prefetch=min(options.prefetch, relay.capacity),
            claim_after=options.claim_after,
            max_deliveries=options.max_deliveries,
        )
        self._competes.append(competing)
        return competing

    async def _join(self, connection: Connection) -> None:
        for carrier in self._carriers:
            await carrier.join(connection)

    @override
    async def execute(self) -> None:
        await together(
            partial(self._keep, self._serve),
            self._receive,
            *(carrier.outbox.spool for carrier in self._carriers),
        )

    async def _receive(self) -> None:
        """Bring in what others publish, until that is to end."""
        assert self._receiving is not None
        with self._receiving:
            await together(
                *(partial(self._keep, read) for read in self._readers()),
                *(carrier.deliver for carrier in self._carriers),
            )

    def _readers(self) -> Iterator[Callable[[Connection], Awaitable[None]]]:
        """What reads all topics, each over a connection of its own."""
        # Where the topics lie apart, one request cannot name two.
        apart = bool(self._settings.cluster)
        if self._broadcasts:
            for broadcasts in _each_or_all(self._broadcasts, apart=apart):
                yield partial(self._read_broadcasts, broadcasts)
        else:
            for competes in _each_or_all(self._competes, apart=apart):
                yield partial(self._read_group, competes)

    @override
    def receive_no_more(self) -> None:
        for carrier in self._competes:
            carrier.close()
        if self._competes:
            self._end_receiving()

    @override
    async def catch_up(self) -> None:
        try:
            while not self._down and any(carrier.is_awaited for carrier in self._broadcasts):
                with move_on_after(_AGAIN):
                    await self._changed.wait()
        finally:
            self._end_receiving()

    def _end_receiving(self) -> None:
        if self._receiving is not None:
            self._receiving.cancel()

    @override
    def let_go(self) -> None:
        self._is_leaving = True
        for carrier in self._carriers:
            carrier.relay.release()

    @override
    def close(self) -> None:
        lost = sum(carrier.relay.close() for carrier in self._carriers)
        if lost:
            logger.warning(
                "%s were accepted and are lost: the bridge to %s has been removed before it could"
                " take them",
                counted(lost, "messages"),
                self._settings,
            )

    @property
    @override
    def cut_off(self) -> str | None:
        since = self._away_since
        if since is None or current_time() - since < _GRACE:
            return None
        return f"{self._settings} to answer"

    @override
    async def shutdown(self) -> None:
        """Send what is left, acknowledge what was handled, and leave."""
        try:
            await together(*(carrier.outbox.spool_rest for carrier in self._carriers))
        finally:
            try:
                await self._leave()
            finally:
                self._say_what_is_left()
                if self._database is not None:
                    await self._database.close()

    async def _leave(self) -> None:
        for carrier in self._competes:
            carrier.end()
        if not self._carriers:
            return
        if self._is_leaving:  # handlers go on, and what they have is told while it can be
            with move_on_after(_GRACE):
                await together(*(carrier.settled for carrier in self._competes))
        # What is on disk can wait for the next process; with nothing to lose, so can all.
        unsent = self._database is None and any(one.outbox.unsent for one in self._carriers)
        owes = unsent or any(carrier.owes for carrier in self._carriers)
        await self._keep(self._finish, once=not owes)

    def _say_what_is_left(self) -> None:
        unsent = sum(carrier.outbox.unsent for carrier in self._carriers)
        on_disk = 0
        if self._database is not None:
            on_disk = sum(carrier.outbox.ready for carrier in self._carriers)
        if unsent:
            logger.warning(
                "%s did not reach %s: %d on disk, %d in memory alone",
                counted(unsent, "messages"),
                self._settings,
                on_disk,
                unsent - on_disk,
            )

    async def _finish(self, connection: Connection) -> None:
        await self._join(connection)  # the server may have lost what there was
        for carrier in self._carriers:
            await carrier.leave(connection)
        for carrier in self._carriers:
            await carrier.send_rest(connection)

    # -- sessions ------------------------------------------------------------------------------

    async def _keep(
        self, use: Callable[[Connection], Awaitable[None]], *, once: bool = False
    ) -> None:
        """Have sessions with the server, one after the other, until one comes to its end."""
        loop = object()
        attempt = 0
        refused = False

        def is_up() -> None:
            nonlocal attempt
            attempt = 0
            self._is_up(loop)

        try:
            while True:
                answers = False
                try:
                    async with connected(self._settings) as connection:
                        await connection.ping([carrier.keys.stream for carrier in self._carriers])
                        answers = True
                        self._sessions += 1
                        if refused:  # and only doing it will tell whether it still is
                            connection.when_done(is_up)
                        else:
                            is_up()
                        await use(connection)
                        return
                except TROUBLE as error:
                    # A connection that broke is worth a new one soon; a server that is away, or
                    # refuses what it is asked, needs time.
                    refused = isinstance(error, Refused)
                    attempt = 1 if answers and not refused else attempt + 1
                    self._is_down(loop, error)
                    if once:
                        return
                    await sleep(wait_before(attempt, _BACKOFF, random.random()))
                finally:
                    self._sessions -= answers
        finally:
            if loop in self._down:  # it has been given up
                self._down.discard(loop)
                if not self._down:
                    self._away_since = None
                    self._connected = self._sessions > 0

    def _is_up(self, loop: object) -> None:
        self._down.discard(loop)
        if not self._down:
            self._away_since = None
        if not (self._down or self._connected):
            self._connected = True
            logger.info("%s answers", self._settings)

    def _is_down(self, loop: object, error: Exception) -> None:
        self._down.add(loop)
        if self._away_since is None:
            waited = self._settings.response_timeout if isinstance(error, TimeoutError) else 0.0
            self._away_since = current_time() - waited
        if self._connected or not self._outages:
            self._connected = False
            self._outages += 1
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            logger.warning(
                "%s does not answer as it should, and is asked again: %s: %s",
                self._settings,
                type(cause).__name__,
                cause,
            )

    async def _serve(self, connection: Connection) -> None:
        """Send, and tell and ask what has to be."""
        await self._join(connection)  # the server may have lost what there was
        await together(
            *(partial(self._send, carrier, connection) for carrier in self._carriers),
            *(
                partial(loop, connection)
                for carrier in self._carriers
                for loop in (carrier.tell, carrier.maintain)
            ),
        )

    async def _send(self, carrier: Carrier[Any], connection: Connection) -> None:
        """Send what is published; a server that is full takes all but that."""
        attempt = 0

        def sent() -> None:
            nonlocal attempt
            if attempt:
                attempt = 0
                self._is_up(carrier)

        try:
            while True:
                try:
                    await carrier.send(connection, sent)
                    return
                except Full as error:
                    attempt += 1
                    self._is_down(carrier, error)
                    await sleep(wait_before(attempt, _BACKOFF, random.random()))
        finally:
            self._down.discard(carrier)

    async def _read_broadcasts(
        self, carriers: Sequence[Broadcast[Any]], connection: Connection
    ) -> None:
        for carrier in carriers:
            await carrier.join(connection)
        await read_broadcasts(connection, carriers, self._changed)

    async def _read_group(self, carriers: Sequence[Compete[Any]], connection: Connection) -> None:
        for carrier in carriers:
            await carrier.join(connection)
        group = self._options.group
        await read_group(connection, carriers, group, self._consumer, self._changed)


def _each_or_all(carriers: list[C], *, apart: bool) -> list[list[C]]:
    return [[carrier] for carrier in carriers] if apart else [carriers]


def _lagged(missed: int) -> None:
    """Publish that the bridge has missed messages, as an event task's lag is published."""
    run = current_run.get()
    assert run is not None
    run.services.task_events.publish(
        TaskLagged(
            task_id=run.task_id,
            task_name=run.task_name,
            group=cast("str | None", run.extra()["task_group"]),
            time=current_time(),
            missed=missed,
        )
    )


def _are_several(topics: object) -> bool:
    """Return whether something is a collection, with something in it, and not one text."""
    several = cast("Collection[object]", topics) if isinstance(topics, Collection) else ()
    return len(several) > 0 and not isinstance(several, (str, Mapping))
