"""`RedisBridge`: a task through which the channels of a bus go on in other processes."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any, Final, TypeVar, cast, final
from uuid import uuid4
from weakref import WeakSet

from anyio import (
    CancelScope,
    current_time,
    get_cancelled_exc_class,
    move_on_after,
)
from typing_extensions import Unpack, override

from .._broadcast.bus import EventBus
from .._broadcast.relay import Relay
from .._model._loops.wakeup import Wakeup
from .._model.errors import EventSendError, InvalidChannelError
from .._model.log import logger
from .._model.topic_names import SHARED, names_of
from .._model.topics import Topic
from .._model.words import counted
from .._tasks.bridge import Bridge
from .._tasks.context import Services, current_run
from .._tasks.events import TaskLagged
from ._carriers.broadcast import Broadcast
from ._carriers.carrier import Carrier, Limits
from ._carriers.compete import Compete
from ._carriers.reading import read_broadcasts, read_group
from ._leases import RedisLeases
from ._options import BridgeOptions, BridgeSettings
from ._outbox.database import Database, new_origin
from ._outbox.outbox import DiskOutbox, MemoryOutbox
from ._server.connection import Connection, RedisSettings, together
from ._server.sessions import Sessions
from ._wire.envelope import Format, Outgoing
from ._wire.keys import Keys

__all__ = ["BridgeStatistics", "RedisBridge"]

C = TypeVar("C", bound=Carrier[Any])

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
        names = names_of(topics)
        self._formats = [
            Format[Any](topic, checked.namespace, checked.max_bytes) for topic in topics
        ]
        self._database = (
            None
            if checked.outbox is None
            else Database(checked.outbox, limit=checked.max_outbox, topics=set(names))
        )
        self._services: Services | None = None
        self._left_at: int | None = None  # how many had been published when its last run ended
        self._origin = ""  # of the process that uses it, which may be a fork of this one
        self._consumer = ""
        self._process = 0  # in which it works
        self._carriers: list[Carrier[Any]] = []
        self._broadcasts: list[Broadcast[Any]] = []
        self._competes: list[Compete[Any]] = []
        self._is_leaving = False  # it is being removed
        self._changed = Wakeup()  # there is room for what comes in
        self._receiving: CancelScope | None = None
        self._sessions = Sessions(
            self._settings, lambda: [carrier.keys.stream for carrier in self._carriers]
        )
        self._leases = RedisLeases(checked.namespace, checked.lease, self._sessions.keep)

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
            connected=self._sessions.connected,
            outages=self._sessions.outages,
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
        self._services = self._settle(carrier.relay for carrier in self._carriers)
        self._left_at = None
        self._process = os.getpid()
        with _lock:
            _at_work.add(self)
        self._receiving = CancelScope()
        if not self._origin:
            self._origin, self._consumer = new_origin(), uuid4().hex
        is_first = not self._carriers
        try:
            if self._database is not None:
                await self._database.open()
            for format in self._formats[len(self._carriers) :]:
                self._carriers.append(self._take_over(format, self._services.bus))
            for competing in self._competes:
                competing.open()
            for carrier in self._carriers:
                await carrier.outbox.load()
            await self._sessions.keep(self._join)
        except BaseException as error:
            if isinstance(error, get_cancelled_exc_class()) and not self._sessions.connected:
                error.add_note(f"it waited for {self._settings} to answer")
            if is_first:  # nobody has counted on it yet
                self.close()
                for carriers in (self._carriers, self._broadcasts, self._competes):
                    carriers.clear()
            if self._database is not None:
                with CancelScope(shield=True):
                    await self._database.close()
            raise
        if self._leases not in self._services.leases:
            self._services.leases.append(self._leases)

    def _take_over(self, format: Format[Any], bus: EventBus[Any]) -> Carrier[Any]:
        options = self._options
        keys = Keys(options.namespace, format.name)
        with _lock:
            others = list(_at_work)
        for other in others:
            if other._bus is bus and other._settings == self._settings and other._has(format, keys):
                raise InvalidChannelError(
                    f"another bridge of this scheduler carries another topic that is called"
                    f" {format.name!r} in the namespace {options.namespace!r}: {SHARED}, or each"
                    " bridge a namespace",
                    format.event,
                )
        admit = partial(self._pack, format)
        relay = Relay[Any, Any](bus, format.event, admit, keep=self._database is not None)
        if self._database is None:
            outbox: MemoryOutbox | DiskOutbox = MemoryOutbox(relay.outgoing, self._origin)
        else:
            outbox = DiskOutbox(relay.outgoing, self._database, format.name)
            relay.confirm(outbox.wait_safe)
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

    def _pack(self, format: Format[Any], message: Any) -> Outgoing:
        if os.getpid() != self._process:
            raise EventSendError(
                f"a message for {format.event} was not sent: this process was forked from the one in"
                " which the bridge works, and has none of its own. Fork before the scheduler is"
                " started, or have the parent publish it.",
                format.event,
            )
        return format.pack(message)

    def _has(self, format: Format[Any], keys: Keys) -> bool:
        """Whether it carries another event that has the keys of a topic."""
        return any(
            carrier.relay.is_taken and carrier.event != format.event
            for carrier in self._carriers
            if carrier.keys.stream == keys.stream
        )

    async def _join(self, connection: Connection) -> None:
        for carrier in self._carriers:
            await carrier.join(connection)

    @override
    async def execute(self) -> None:
        await together(
            partial(self._sessions.keep, self._serve),
            self._receive,
            *(carrier.outbox.spool for carrier in self._carriers),
        )

    async def _receive(self) -> None:
        """Bring in what others publish, until that is to end."""
        assert self._receiving is not None
        with self._receiving:
            await together(
                *(partial(self._sessions.keep, read) for read in self._readers()),
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
            while not self._sessions.is_awaited and any(
                carrier.is_awaited for carrier in self._broadcasts
            ):
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
        if self._services is not None and self._leases in self._services.leases:
            self._services.leases.remove(self._leases)
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
        since = self._sessions.away_since
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
                for carrier in self._carriers:
                    carrier.outbox.end(for_good=carrier.relay.is_ending)
                if self._database is not None:
                    await self._database.close()

    @override
    def say_last(self) -> None:
        published = sum(carrier.relay.published for carrier in self._carriers)
        late = 0 if self._left_at is None else published - self._left_at
        if late:
            logger.warning(
                "%s, published after the bridge to %s had ended, never left this process. Register"
                " the bridge before the tasks that publish in shutdown(): it ends after them",
                counted(late, "messages"),
                self._settings,
            )

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
        await self._sessions.keep(self._finish, once=not owes)

    def _say_what_is_left(self) -> None:
        self._left_at = sum(carrier.relay.published for carrier in self._carriers)
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

    async def _serve(self, connection: Connection) -> None:
        """Send, and tell and ask what has to be."""
        await self._join(connection)  # the server may have lost what there was
        await together(
            *(
                partial(self._sessions.send, partial(carrier.send, connection))
                for carrier in self._carriers
            ),
            *(
                partial(loop, connection)
                for carrier in self._carriers
                for loop in (carrier.tell, carrier.maintain)
            ),
        )

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


#: The bridges that have a bus, of whatever thread.
_lock: Final = Lock()
_at_work: Final[WeakSet[RedisBridge]] = WeakSet()


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
