"""How the file of an outbox is laid out, and how one of an earlier version is brought up to date."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, Final

__all__ = ["how_to_prepare", "pragma", "transaction", "used"]

#: What says that a file is an outbox, and how it is laid out: see the pragmas of these names.
_APPLICATION: Final = int.from_bytes(b"orch", "big")
_VERSION: Final = 2

_LAYOUT: Final = (
    (
        "CREATE TABLE outbox (number INTEGER PRIMARY KEY, topic TEXT NOT NULL,"
        " origin TEXT NOT NULL, time REAL NOT NULL, traceparent TEXT, data BLOB NOT NULL)"
    ),
    "CREATE INDEX by_topic ON outbox (topic, number)",
    f"PRAGMA application_id = {_APPLICATION}",
    f"PRAGMA user_version = {_VERSION}",
)


def how_to_prepare(connection: sqlite3.Connection) -> Callable[[sqlite3.Connection], object] | str:
    """Return what makes an outbox of a file, in one transaction; if it cannot be one, return why."""
    tables = {
        name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE rootpage")
    }
    application = pragma(connection, "application_id")
    version = pragma(connection, "user_version")
    if application == _APPLICATION and version == _VERSION:
        return _leave
    if application == _APPLICATION:
        return (
            f"is of version {version}, and this is version {_VERSION}: it is from a newer orchestrio."
            " Go on with that, or give the bridge a path of its own."
        )
    if not (tables or application or version):
        return _make
    if {"outbox", "origin"} <= tables and not (application or version):
        return _migrate
    return (
        "is a database of another program, and was not touched. Give the bridge a path of its own."
    )


@contextmanager
def transaction(connection: sqlite3.Connection) -> Generator[None]:
    """All or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite has ended it by itself where it could not go on
            connection.execute("ROLLBACK")
        raise


def pragma(connection: sqlite3.Connection, name: str) -> int:
    """Return a number that SQLite knows of a file."""
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def used(connection: sqlite3.Connection) -> int:
    """Return how many bytes of the file are in use."""
    pages = pragma(connection, "page_count") - pragma(connection, "freelist_count")
    return pages * pragma(connection, "page_size")


def _leave(connection: sqlite3.Connection) -> None:
    """It is as it is to be."""


def _make(connection: sqlite3.Connection) -> None:
    """Make an outbox of an empty file."""
    for statement in _LAYOUT:
        connection.execute(statement)


def _migrate(connection: sqlite3.Connection) -> None:
    """Bring over what a file of version 1 holds; its origin and its numbers are known already."""
    connection.execute("DROP INDEX by_topic")
    connection.execute("ALTER TABLE outbox RENAME TO former")
    _make(connection)
    connection.executemany("INSERT INTO outbox VALUES (?, ?, ?, ?, ?, ?)", _former(connection))
    connection.execute("DROP TABLE former")
    connection.execute("DROP TABLE origin")


def _former(connection: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    """Return the rows of version 1, which had the payload as the last field of a JSON object."""
    for number, topic, body in connection.execute("SELECT number, topic, body FROM former"):
        head, _, rest = bytes(body).partition(b',"data":')
        about = json.loads(head + b"}")
        yield number, topic, about["origin"], about["time"], about.get("traceparent"), rest[:-1]
