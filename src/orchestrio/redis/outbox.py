"""`Outbox`: what was published and has not reached the server: in memory, or on disk as well."""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar, final
from uuid import uuid4

from anyio import (
    CancelScope,
    CapacityLimiter,
    ClosedResourceError,
    EndOfStream,
    WouldBlock,
    to_thread,
)
from typing_extensions import override

from .._broadcast.cursor import Cursor
from .._model.errors import LaggedError
from .._model.log import logger
from .._model.wakeup import Wakeup
from .envelope import Outgoing

__all__ = ["Database", "DiskOutbox", "MemoryOutbox", "Outbox"]

R = TypeVar("R")

#: How many messages go to the server, or to the disk, in one step, and about how many bytes.
BATCH: Final = 256
BATCH_BYTES: Final = 1_000_000

Batch = list[tuple[int, bytes]]


def new_origin() -> str:
    from secrets import token_urlsafe
    return token_urlsafe(6)



class Outbox(ABC):
    """The messages of one topic on their way to the server, in order, each with its number.

    :param outgoing: what is published
    :param encode: makes of a message and its number what lies in the stream
    """

    def __init__(
        self, outgoing: Cursor[Outgoing], encode: Callable[[Outgoing, int], bytes]
    ) -> None:
        self._outgoing = outgoing
        self._encode = encode
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

    @abstractmethod
    async def next_batch(self) -> Batch:
        """Wait for messages to send: the same ones again until `sent` is called.

        :return: at least one message, in order
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
    """Keeps nothing that the channel does not, but for the batch in hand."""

    def __init__(
        self, outgoing: Cursor[Outgoing], origin
    ) -> None:
        super().__init__(outgoing, None)
        self._origin = origin
        self._number = 0
        self._in_hand: Batch = []
        self._rest: Batch = []

    @override
    async def next_batch(self) -> Batch:
        if not self._in_hand:
            if not self._rest:
                for message in await self._published():
                    self._number += 1
                    self._rest.append((self._number, message))
            stop = size = 0
            while stop < len(self._rest) and size <= BATCH_BYTES:
                size += len(self._rest[stop][1].data)
                stop += 1
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
class Database:
    """An SQLite file with what was published, for all topics of one bridge.

    It is locked for as long as it is open: two processes must not send the same messages.

    :param path: the file; it is made if it is not there
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._turn = CapacityLimiter(1)  # a connection is for one thread at a time
        #: who the messages are from: the same for as long as the file lives, so that a message
        #: sent again after a crash is known to the server
        self.origin: str = ""

    async def open(self) -> None:
        """Open the file, and make it if it is not there.

        :raises ~sqlite3.Error: if it is no database, or another process has it open
        """
        if self._connection is None:
            await self.run(self._open)

    def _open(self) -> None:
        connection = sqlite3.connect(
            self._path, timeout=1.0, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS outbox (number INTEGER PRIMARY KEY AUTOINCREMENT,"
                " topic TEXT NOT NULL, body BLOB NOT NULL)"
            )
            connection.execute("CREATE INDEX IF NOT EXISTS by_topic ON outbox (topic, number)")
            connection.execute("CREATE TABLE IF NOT EXISTS origin (name TEXT NOT NULL)")
            row = connection.execute("SELECT name FROM origin").fetchone()
            if row is None:
                row = (uuid4().hex,)
                connection.execute("INSERT INTO origin VALUES (?)", row)
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        self.origin = str(row[0])
        self._connection = connection

    async def close(self) -> None:
        """Close the file; what is in it is sent when it is opened again."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await self.run(connection.close)

    async def run(self, function: Callable[[], R]) -> R:
        """Do something in a worker thread. It is not interrupted: it happened or it did not."""
        with CancelScope(shield=True):
            return await to_thread.run_sync(function, limiter=self._turn)
        raise AssertionError("nobody cancels that scope")

    @property
    def connection(self) -> sqlite3.Connection:
        """The open file; one thread at a time."""
        assert self._connection is not None
        return self._connection


@final
class DiskOutbox(Outbox):
    """Keeps on disk what was published until the server has it.

    `spool` moves what is published to the disk; ``send()`` returns when it is there.

    :param outgoing: what is published
    :param encode: see `Outbox`
    :param database: the file
    :param topic: which messages in it are these
    """

    def __init__(
        self,
        outgoing: Cursor[Outgoing],
        encode: Callable[[Outgoing, int], bytes],
        database: Database,
        topic: str,
    ) -> None:
        super().__init__(outgoing, encode)
        self._database = database
        self._topic = topic
        self._safe = 0  # the number in the channel of the first message that is not on disk
        self._stored = 0  # messages on disk
        self._changed: Final = Wakeup()  # what is on disk
        self._last = 0  # the number of the last message of the batch in hand
        self._ended = False
        self._taken: list[Outgoing] = []

    @override
    async def load(self) -> None:
        def count() -> int:
            (found,) = self._database.connection.execute(
                "SELECT COUNT(*) FROM outbox WHERE topic = ?", (self._topic,)
            ).fetchone()
            return int(found)

        self._stored = await self._database.run(count)

    @override
    async def spool(self) -> None:
        try:
            while True:
                await self._store()
                self._taken = await self._published()
        except EndOfStream:
            self._ended = True
            self._changed.notify_all()

    @override
    async def spool_rest(self) -> None:
        while True:
            await self._store()
            try:
                self._taken = self._outgoing.take(BATCH)
            except LaggedError as lag:
                self._lag(lag)
            except (WouldBlock, EndOfStream):
                return

    async def _store(self) -> None:
        """Write to the disk what was taken; if that fails, it is still taken."""
        messages = self._taken
        if not messages:
            return

        def insert() -> None:
            connection = self._database.connection
            connection.execute("BEGIN")
            try:
                row = connection.execute(
                    "SELECT seq FROM sqlite_sequence WHERE name = 'outbox'"
                ).fetchone()
                first = int(row[0]) + 1 if row else 1
                connection.executemany(
                    "INSERT INTO outbox VALUES (?, ?, ?)",
                    [
                        (number, self._topic, self._encode(message, number))
                        for number, message in enumerate(messages, first)
                    ],
                )
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise

        await self._database.run(insert)
        self._taken = []
        self._stored += len(messages)
        self._safe = self._outgoing.position
        self._changed.notify_all()
        self._outgoing.channel.changed.notify_all()

    async def wait_safe(self, number: int) -> None:
        """Wait until a message is on disk, also while the bridge is restarted.

        :param number: the message's number in the channel
        :raises ~anyio.ClosedResourceError: if it never will be, because the channel was closed
        """
        channel = self._outgoing.channel
        while self._safe <= number:
            if channel.shut:
                raise ClosedResourceError
            await channel.changed.wait()

    @override
    async def next_batch(self) -> Batch:
        while not self._stored:
            if self._ended:
                raise EndOfStream
            await self._changed.wait()

        def select() -> Batch:
            rows = self._database.connection.execute(
                "SELECT number, body FROM outbox WHERE topic = ? ORDER BY number LIMIT ?",
                (self._topic, BATCH),
            )
            batch: Batch = []
            size = 0
            for number, body in rows:
                batch.append((number, body))
                size += len(body)
                if size > BATCH_BYTES:
                    break
            return batch

        batch = await self._database.run(select)
        self._last = batch[-1][0]
        return batch

    @override
    async def sent(self) -> None:
        last = self._last

        def delete() -> int:
            return self._database.connection.execute(
                "DELETE FROM outbox WHERE topic = ? AND number <= ?", (self._topic, last)
            ).rowcount

        deleted = await self._database.run(delete)
        self._stored -= deleted  # read after the await: meanwhile others were stored

    @property
    @override
    def ready(self) -> int:
        return self._stored

    @property
    @override
    def unsent(self) -> int:
        return self._stored + len(self._taken) + len(self._outgoing)
