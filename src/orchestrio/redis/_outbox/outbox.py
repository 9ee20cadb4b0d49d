"""`Outbox`: what was published and has not reached the server: in memory, or on disk as well."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import suppress
from itertools import accumulate
from typing import Final, final

from anyio import ClosedResourceError, EndOfStream, Lock, WouldBlock
from typing_extensions import override

from ..._broadcast.cursor import Cursor
from ..._model._loops.wakeup import Wakeup
from ..._model.errors import EventSendError, LaggedError
from ..._model.log import logger
from .._wire.envelope import Outgoing
from .database import BATCH, BATCH_BYTES, Batch, Database, OutboxError

__all__ = ["DiskOutbox", "MemoryOutbox", "Outbox"]


class Outbox(ABC):
    """The messages of one topic on their way to the server, in order, each with its number.

    :param outgoing: what is published
    """

    def __init__(self, outgoing: Cursor[Outgoing]) -> None:
        self._outgoing = outgoing
        #: messages overwritten before they could be sent
        self.missed: int = 0

    def _lag(self, lag: LaggedError) -> None:
        self.missed += lag.missed
        logger.warning(
            "%d messages on %s were overwritten before they could be sent: the server is slow or"
            ' away. Raise the capacity, or choose overflow="block".',
            lag.missed,
            self._outgoing.channel,
        )

    async def _published(self) -> list[Outgoing]:
        """Wait for what is published next.

        :raises ~anyio.EndOfStream: if nothing is published any more
        """
        while True:
            while self._outgoing.must_wait:
                await self._outgoing.wait()
            try:
                return self._outgoing.take(BATCH)
            except LaggedError as lag:
                self._lag(lag)

    async def load(self) -> None:
        """Find out what an earlier process has left."""

    async def spool(self) -> None:
        """Bring to safety what is published, for as long as something is."""

    async def spool_rest(self) -> None:
        """Bring to safety what was published until now, without waiting for more."""

    def end(self, *, for_good: bool) -> None:
        """Bring nothing to safety any more, until `load` is called again.

        :param for_good: whether it never will be
        """

    @abstractmethod
    async def next_batch(self) -> Batch:
        """Wait for messages to send: the same ones again until `sent` is called.

        :return: who they are from, and at least one message, in order
        :raises ~anyio.EndOfStream: if there is none and nothing is published any more
        """

    @abstractmethod
    async def sent(self) -> None:
        """Forget the messages that `next_batch` returned last: the server has them."""

    @property
    @abstractmethod
    def ready(self) -> int:
        """How many messages `next_batch` can return without waiting."""

    @property
    @abstractmethod
    def unsent(self) -> int:
        """How many messages have not reached the server."""


@final
class MemoryOutbox(Outbox):
    """Keeps nothing that the channel does not, but for the batch in hand.

    :param outgoing: what is published
    :param origin: who it is from, in this process alone
    """

    def __init__(self, outgoing: Cursor[Outgoing], origin: str) -> None:
        super().__init__(outgoing)
        self._origin = origin
        self._number = 0
        self._in_hand: list[tuple[int, Outgoing]] = []
        self._rest: list[tuple[int, Outgoing]] = []

    @override
    async def next_batch(self) -> Batch:
        if not self._in_hand:
            if not self._rest:
                messages = await self._published()
                self._rest = list(enumerate(messages, self._number + 1))
                self._number += len(messages)
            stop = _fitting(self._rest)
            self._in_hand, self._rest = self._rest[:stop], self._rest[stop:]
        return self._origin, self._in_hand

    @override
    async def sent(self) -> None:
        self._in_hand = []

    @property
    @override
    def ready(self) -> int:
        return self.unsent

    @property
    @override
    def unsent(self) -> int:
        return len(self._in_hand) + len(self._rest) + len(self._outgoing)


@final
class DiskOutbox(Outbox):
    """Keeps on disk what was published until the server has it.

    `spool` moves what is published to the disk; ``send()`` returns when it is there. While nothing
    spools, as in the hooks before and after the bridge's work, whoever waits for that does it.

    :param outgoing: what is published; nothing of it is overwritten
    :param database: the file
    :param topic: which messages in it are these
    """

    def __init__(self, outgoing: Cursor[Outgoing], database: Database, topic: str) -> None:
        super().__init__(outgoing)
        self._database = database
        self._topic = topic
        self._safe = 0  # the number in the channel of the first message that is not on disk
        self._stored = 0  # messages on disk
        self._changed: Final = Wakeup()  # what is on disk
        self._in_hand: list[tuple[int, Outgoing]] = []  # of those
        self._ended = False
        self._taken: Batch = ("", [])  # on their way to the disk
        self._storing: Final = Lock()
        self._is_spooled = False
        self._is_open = False  # whether the file is
        self._is_over = False  # whether it will not be opened again

    @override
    async def load(self) -> None:
        self._stored = await self._database.count(self._topic)
        self._is_open = True

    @override
    def end(self, *, for_good: bool) -> None:
        self._is_open = False
        self._is_over = for_good
        self._outgoing.channel.changed.notify_all()

    @override
    async def spool(self) -> None:
        self._is_spooled = True
        try:
            while True:
                await self._store_all(wait=True)
                while self._outgoing.must_wait:
                    await self._outgoing.wait()
        except EndOfStream:
            self._ended = True
            self._changed.notify_all()
        finally:
            self._is_spooled = False
            self._outgoing.channel.changed.notify_all()

    @override
    async def spool_rest(self) -> None:
        with suppress(EndOfStream):
            await self._store_all(wait=False)  # there is nobody to make room

    async def _store_all(self, *, wait: bool) -> None:
        """Write to the disk what was published until now.

        :param wait: whether to wait for room in the file
        :raises ~anyio.EndOfStream: if nothing is published any more
        """
        async with self._storing:
            while True:
                await self._store(wait=wait)
                try:
                    self._taken = self._database.number(self._outgoing.take(BATCH))
                except LaggedError as lag:
                    self._lag(lag)
                except WouldBlock:
                    return

    async def _store(self, *, wait: bool) -> None:
        """Write to the disk what was taken; what is not there yet is still taken.

        :param wait: whether to wait for room in the file
        """
        origin, messages = self._taken
        while messages:
            part = messages[: _fitting(messages)]
            if wait:
                await self._database.wait_for_room()
            await self._database.store(self._topic, (origin, part))
            del messages[: len(part)]
            self._stored += len(part)
            self._safe = self._outgoing.position - len(messages)
            self._changed.notify_all()
            self._outgoing.channel.changed.notify_all()

    async def wait_safe(self, number: int) -> None:
        """Wait until a message is on disk, also while the bridge is restarted.

        :param number: the message's number in the channel
        :raises ~anyio.ClosedResourceError: if it may never be, because the channel was closed
        :raises EventSendError: if it never will be, because the bridge was removed, or has ended
        """
        channel = self._outgoing.channel
        while self._safe <= number:
            if self._outgoing.closed:
                raise EventSendError(
                    f"a message on {channel} was not sent: its bridge was removed before it could be"
                    " stored. Publish it again: it goes to the receivers in this process.",
                    channel.event,
                )
            if channel.shut:
                raise ClosedResourceError
            if self._is_over:
                raise EventSendError(
                    f"a message on {channel} was not sent: its bridge has ended before it could be"
                    " stored. Register the bridge before the tasks that publish in shutdown(): it"
                    " ends after them.",
                    channel.event,
                )
            if self._is_open and not self._is_spooled:
                try:
                    await self.spool_rest()
                    continue
                except OutboxError:  # it closes just now; or the bridge meets it, too, and says so
                    pass
            await channel.changed.wait()

    @override
    async def next_batch(self) -> Batch:
        while True:
            while not self._stored:
                if self._ended:
                    raise EndOfStream
                await self._changed.wait()
            origin, self._in_hand = await self._database.first(self._topic)
            if self._in_hand:
                return origin, self._in_hand
            await self.load()  # what was cancelled in the middle may have gone uncounted

    @override
    async def sent(self) -> None:
        await self._database.forget(self._topic, self._in_hand[-1][0])
        self._stored -= len(self._in_hand)  # now: meanwhile others were stored
        await self._database.shrink()

    @property
    @override
    def ready(self) -> int:
        return self._stored

    @property
    @override
    def unsent(self) -> int:
        return self._stored + len(self._taken[1]) + len(self._outgoing)


def _fitting(messages: list[tuple[int, Outgoing]]) -> int:
    """Return how many of the first messages are one step: all, or as many as reach its bytes."""
    sizes = accumulate(len(message.data) for _, message in messages)
    return next((count for count, size in enumerate(sizes, 1) if size > BATCH_BYTES), len(messages))
