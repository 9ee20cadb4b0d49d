"""`Database`: the SQLite file in which an outbox keeps what was published.

What goes wrong with it comes in two kinds. A disk that is full, or does not answer, may be mended
while this waits: it is logged once, and tried again. For anything else waiting is no help, and an
`OutboxError` says what is.
"""

from __future__ import annotations

import os
import random
import sqlite3
from base64 import urlsafe_b64encode
from collections.abc import Callable, Collection
from contextlib import suppress
from math import inf
from pathlib import Path
from threading import Lock
from typing import Final, TypeVar, final

from anyio import CancelScope, CapacityLimiter, current_time, sleep, to_thread

from ..._model._loops.wakeup import Wakeup
from ..._model.errors import SchedulerError
from ..._model.log import logger
from ..._model.settings import Backoff, wait_before
from ..._model.words import counted
from .._wire.envelope import Outgoing
from .layout import how_to_prepare, pragma, transaction, used

__all__ = ["BATCH", "BATCH_BYTES", "Batch", "Database", "OutboxError", "new_origin"]

R = TypeVar("R")

#: How many messages go to the server, or to the disk, in one step, and about how many bytes.
BATCH: Final = 256
BATCH_BYTES: Final = 1_000_000

Batch = tuple[str, list[tuple[int, Outgoing]]]
"""Messages of one origin, in order, each with its number."""

#: How long another process may take to let go of the file, in seconds: a restart may overlap.
_OVERLAP: Final = 1.0

_BACKOFF: Final = Backoff(initial_delay=0.1, max_delay=5.0)

#: How long nothing is said of a file that is full, after it was said, in seconds.
_AGAIN: Final = 60.0

#: Pages that may be free in the file, and how many are given back at a time.
_SLACK: Final = 256
_STEP: Final = 1024

#: How long the log of SQLite stays once it was longer, in bytes.
_LOG: Final = 4_000_000

#: How much is set aside beside the file, in bytes, to be given up when the disk is full: to delete
#: what was sent takes room, too, at most that of the log, which must be written back first.
_SPARE: Final = 2 * _LOG

_PASSING: Final = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM})

_WHY: Final = {
    sqlite3.SQLITE_BUSY: "is locked: another process has it open, or another bridge of this one, and"
    " a message must not be sent by two. Give each a file of its own, or stop the other one.",
    sqlite3.SQLITE_CORRUPT: "is damaged. Move it away, with the files beside it that begin with its"
    " name, and start again; 'sqlite3 FILE .recover' may save what is in it.",
    sqlite3.SQLITE_NOTADB: "is not a database of SQLite, or is encrypted. Give the bridge a path of"
    " its own.",
    sqlite3.SQLITE_READONLY: "is read-only: give this process the right to write to the file and to"
    " its folder, on a file system that can be written.",
    sqlite3.SQLITE_IOERR_LOCK: "cannot be locked: it is read-only, or its file system knows no locks."
    " Give this process the right to write to the file and to its folder, on a disk of this machine.",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened: this process needs the right to read and write the"
    " file and its folder, on a file system that can be written.",
}


class OutboxError(SchedulerError):
    """The file of a bridge's outbox cannot be used, and waiting would not help.

    Cause: another process has it open, or another bridge of this one; it is damaged, read-only, was
    deleted while it was in use, is no outbox or that of a newer version; or its folder is missing.
    A full disk is none: that is waited for.

    Cure: the message names the file, and says what to do. What is in the file is sent when a bridge
    opens it that carries the topics.
    """

    path: Path
    """The file."""

    def __init__(self, message: str, path: Path) -> None:
        super().__init__(message, path)
        self.path = path


def new_origin() -> str:
    """Return who sends messages, known to nobody before: 8 letters and digits, ``-`` and ``_``.

    Numbers count up from one origin, and the server takes none of them twice. So what may be copied
    (the memory by a fork, a file by a backup) must not go on with the same one.
    """
    return urlsafe_b64encode(os.urandom(6)).decode()


@final
class Database:
    """An SQLite file with what was published, for all topics of one bridge.

    It is locked for as long as it is open: two processes must not send the same messages. A fork
    of the process does not have that lock, which SQLite does not know: there the connection is not
    used, and never closed, since it would take the log of the file with it.

    :param path: the file; it is made if it is not there
    :param limit: from how many bytes on nothing more is to be stored
    :param topics: the names of those that the bridge carries
    """

    def __init__(self, path: Path, *, limit: int, topics: Collection[str]) -> None:
        self.path: Final = path.absolute()
        self._limit: Final = limit
        self._topics: Final = topics
        self._connection: sqlite3.Connection | None = None
        self._turn: Final = CapacityLimiter(1)  # other threads of the process may all be in use
        self._lock: Final = Lock()  # a thread may be left alone by a native cancellation
        self._process = 0  # which has opened it
        self._files: dict[Path, int] = {}  # it and its log, and which ones they were then
        self._origin = ""
        self._last = 0  # the number that was given last; it never goes back
        self._used = 0  # bytes
        self._freed: Final = Wakeup()
        self._spare: Final = self.path.with_name(f"{self.path.name}-spare")
        #: whether that was given up, and what there is of room is for deleting
        self._is_short = False
        self._in_trouble: set[object] = set()  # what is tried again
        self._told_full = -inf  # when it was last said to be full

    # -- opening -------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open the file, and make it if it is not there.

        What is stored from now on has an origin of its own; what is there keeps that which it has.

        :raises OutboxError: if the file cannot be used
        """
        if self._connection is not None:
            return
        others = await self._run(self._open, frees=True)
        await self.shrink()
        if others:
            logger.warning(
                "outbox %s holds %s, which no bridge of this file carries: they wait there. Carry"
                " the topic under its old name until they are sent, or delete the rows.",
                self.path,
                " and ".join(
                    f"{counted(count, 'messages')} of topic {name!r}" for name, count in others
                ),
            )

    def _open(self) -> list[tuple[str, int]]:
        self._look_for_the_folder()
        connection = sqlite3.connect(
            self.path, timeout=_OVERLAP, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # for a file that is new
            prepare = how_to_prepare(connection)  # before anything is done to it
            if isinstance(prepare, str):
                raise self._error(prepare)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA journal_size_limit = {_LOG}")
            with transaction(connection):
                prepare(connection)
            if pragma(connection, "auto_vacuum") == 0:
                with suppress(sqlite3.OperationalError):  # there may be no room for a second one
                    connection.execute("VACUUM")
            found = connection.execute("SELECT topic, COUNT(*), MAX(number) FROM outbox GROUP BY 1")
            counts = found.fetchall()
            self._last = max([self._last, *(int(last) for _, _, last in counts)])
            self._used = used(connection)
            log = Path(f"{self.path.resolve()}-wal")  # it lies where a link leads to
            self._files = {path: path.stat().st_ino for path in (self.path, log)}
            # SQLite keeps that function, and it the connection: no garbage collection closes it,
            # not that of a fork which ends, either.
            connection.create_function("keep", 0, lambda: connection.total_changes)
        except BaseException:
            connection.close()
            raise
        self._origin = new_origin()
        self._process = os.getpid()
        self._connection = connection
        return [(name, count) for name, count, _ in counts if name not in self._topics]

    def _look_for_the_folder(self) -> None:
        """See what SQLite would not tell."""
        try:
            self.path.parent.stat()
            if self.path.is_dir():
                raise self._error("is a folder: give the path of a file in it.")
            if self.path.exists() and not self.path.is_file():
                raise self._error("is a device, a pipe or a socket: give the path of a file.")
        except FileNotFoundError:
            why = f"cannot be made: there is no folder {self.path.parent}. Make it first."
            raise self._error(why) from None
        except OSError as error:
            raise self._error(_WHY[sqlite3.SQLITE_CANTOPEN]) from error

    async def close(self) -> None:
        """Close the file; what is in it is sent when it is opened again.

        In a fork of the process that opened it, this does nothing.
        """
        if self._is_of_another:
            return
        connection, self._connection = self._connection, None
        if connection is not None:
            await self._once(connection.close)

    # -- what is in it -------------------------------------------------------------------------

    def number(self, messages: list[Outgoing]) -> Batch:
        """Give messages their numbers, and an origin."""
        first = self._last + 1
        self._last += len(messages)
        return self._origin, list(enumerate(messages, first))

    async def wait_for_room(self) -> None:
        """Wait until there is room below the limit; some of it may be exceeded by one batch."""
        while self._used >= self._limit:
            if current_time() - self._told_full >= _AGAIN:
                self._told_full = current_time()
                logger.warning(
                    "outbox %s is full: it has %d bytes, and max_outbox is %d. Publishers wait until"
                    " the server has taken some.",
                    self.path,
                    self._used,
                    self._limit,
                )
            await self._freed.wait()

    async def store(self, topic: str, batch: Batch) -> None:
        """Store messages; to store the same ones again does nothing."""
        origin, messages = batch
        rows = [
            (number, topic, origin, message.time, message.traceparent, message.data)
            for number, message in messages
        ]

        def insert() -> int:
            self._require_file()
            connection = self._opened
            with transaction(connection):
                connection.executemany(
                    "INSERT OR IGNORE INTO outbox VALUES (?, ?, ?, ?, ?, ?)", rows
                )
            return used(connection)

        self._used = await self._run(insert, takes=True)

    async def count(self, topic: str) -> int:
        """Return how many messages of a topic there are."""

        def count() -> int:
            rows = self._opened.execute("SELECT COUNT(*) FROM outbox WHERE topic = ?", (topic,))
            return int(rows.fetchone()[0])

        return await self._run(count)

    async def first(self, topic: str) -> Batch:
        """Return the first messages of a topic; none if there are none."""

        def select() -> Batch:
            rows = self._opened.execute(
                "SELECT number, origin, time, traceparent, data FROM outbox WHERE topic = ?"
                " ORDER BY number LIMIT ?",
                (topic, BATCH),
            )
            batch: list[tuple[int, Outgoing]] = []
            of = ""
            size = 0
            for number, origin, time, trace, data in rows:
                if size > BATCH_BYTES or (batch and origin != of):
                    break
                of = origin
                size += len(data)
                batch.append((number, Outgoing(data, time, trace)))
            return of, batch

        return await self._run(select)

    async def forget(self, topic: str, last: int) -> None:
        """Delete the messages of a topic up to a number."""

        def delete() -> int:
            connection = self._opened
            if self._is_short:
                connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
            with transaction(connection):
                connection.execute(
                    "DELETE FROM outbox WHERE topic = ? AND number <= ?", (topic, last)
                )
            return used(connection)

        self._used = await self._run(delete, frees=True)
        if self._is_short:
            self._is_short = not await self._run(self._has_room)
        if self._used < self._limit:
            self._freed.notify_all()

    def _has_room(self) -> bool:
        """Whether there are free pages in the file, or nothing is in it any more."""
        connection = self._opened
        return pragma(connection, "freelist_count") > _SLACK or used(connection) < BATCH_BYTES

    async def shrink(self) -> None:
        """Give space back to the file system, if more than half of the file is free."""
        while await self._run(self._shrink, frees=True):
            pass
        if self._used < _SPARE and not self._is_short:
            await self._once(self._set_aside)

    def _set_aside(self) -> None:
        """Have something to give up when the disk is full, if it is not full now."""
        with suppress(OSError):
            if self._spare.stat().st_size == _SPARE:
                return
        try:
            with self._spare.open("wb") as file:
                for _ in range(_SPARE // _LOG):
                    file.write(bytes(_LOG))
        except OSError:
            self._give_up_spare()

    def _give_up_spare(self) -> bool:
        """Return whether there was something to give up."""
        try:
            self._spare.unlink()
        except OSError:
            return False
        return True

    def _shrink(self) -> bool:
        """Give some free pages back; return whether there are more to give."""
        connection = self._opened
        free = pragma(connection, "freelist_count")
        if free <= _SLACK or free * 2 <= pragma(connection, "page_count"):
            return False
        # Not `execute`, which would stop after the first of them.
        connection.executescript(f"PRAGMA incremental_vacuum({_STEP})")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return pragma(connection, "freelist_count") < free

    # -- trouble -------------------------------------------------------------------------------

    async def _run(
        self, function: Callable[[], R], *, takes: bool = False, frees: bool = False
    ) -> R:
        """Do something in a worker thread, again and again for as long as the disk is in trouble.

        Each time it happens or it does not; only the wait in between can be cancelled.

        :param function: what to do
        :param takes: whether it takes room: it waits while there is none but to delete
        :param frees: whether it gives room: what was set aside is for it
        :raises OutboxError: if waiting does not help
        """
        attempt = 0
        step = object()
        try:
            while True:
                while takes and self._is_short:
                    await self._freed.wait()
                try:
                    result = await self._once(function)
                except sqlite3.Error as error:
                    code = getattr(error, "sqlite_errorcode", 0)
                    why = _WHY.get(code) or _WHY.get(code & 0xFF)
                    if why is not None or code & 0xFF not in _PASSING:
                        raise self._error(why or f"cannot be used: {error}") from error
                    if not self._in_trouble:
                        logger.warning(
                            "outbox %s cannot be used now, and publishers wait: %s. See to the disk;"
                            " it is tried again and again.",
                            self.path,
                            error,
                        )
                    self._in_trouble.add(step)
                    is_full = code & 0xFF == sqlite3.SQLITE_FULL
                    if frees and is_full and await self._once(self._give_up_spare):
                        self._is_short = True
                        continue
                else:
                    if self._in_trouble == {step}:
                        logger.info("outbox %s can be used again", self.path)
                    return result
                attempt += 1
                await sleep(wait_before(attempt, _BACKOFF, random.random()))
        finally:
            self._in_trouble.discard(step)

    async def _once(self, function: Callable[[], R]) -> R:
        if self._is_of_another:
            raise self._error(
                "is in use by the process from which this one was forked. Fork before the scheduler"
                " is started, or have the parent publish."
            )
        with CancelScope(shield=True):
            return await to_thread.run_sync(self._alone, function, limiter=self._turn)
        raise AssertionError("nobody cancels that scope")

    def _alone(self, function: Callable[[], R]) -> R:
        with self._lock:
            return function()

    @property
    def _is_of_another(self) -> bool:
        """Whether it was opened before a fork, by the parent."""
        return self._connection is not None and self._process != os.getpid()

    @property
    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise self._error("has been closed: its bridge has ended.")
        return self._connection

    def _error(self, why: str) -> OutboxError:
        return OutboxError(f"outbox {self.path} {why}", self.path)

    def _require_file(self) -> None:
        """See that the file is still there: SQLite would go on with one that was deleted."""
        with suppress(OSError):
            if all(path.stat().st_ino == number for path, number in self._files.items()):
                return
        raise self._error(
            "was deleted or replaced while it was in use, or the file beside it that ends in -wal."
            " What it held and was not sent may be gone with it; start the bridge again, and leave"
            " its files alone meanwhile."
        )
