"""A session with a Redis server, and the few things that are asked of it.

What goes wrong comes in two kinds, see `outages`. `TROUBLE` passes: the server is away, slow, full
or about to be replaced, and whoever asked tries again in a new session. Anything else (a wrong
password, a right that is missing, a key of another type) is for the user to see.
"""

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha1
from typing import Any, Final, cast, final

from anyio import create_task_group
from coredis.exceptions import NoScriptError, RedisError
from coredis.typing import RedisValueT

from .outages import TROUBLE, Refused, verdict
from .servers import Servers
from .settings import RedisSettings

__all__ = [
    "BLOCK",
    "TROUBLE",
    "Connection",
    "Entry",
    "RedisSettings",
    "Refused",
    "Script",
    "connected",
    "pairs",
    "together",
]

#: How long a read waits in the server, in seconds. Long enough to cost nothing, short enough that
#: a connection that is dead and does not know it is noticed.
BLOCK: Final = 1.0


@final
class Script:
    """A Lua script that the server runs as one step."""

    def __init__(self, source: str) -> None:
        self.source: str = source
        self.digest: str = sha1(source.encode(), usedforsecurity=False).hexdigest()

    def line_of(self, error: RedisError) -> str:
        """Return the line at which it failed, as far as the server tells."""
        found = re.search(r"@?user_script:(\d+)", str(error))
        lines = self.source.splitlines()
        if found is None or not 0 < int(found[1]) <= len(lines):
            return ""
        return lines[int(found[1]) - 1].strip()


#: Asks nothing of a node but whether it has the slot of a key, and needs no right of its own.
_NOTHING: Final = Script("return 0")


@final
@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a stream, as read."""

    identifier: bytes
    fields: Mapping[bytes, bytes]

    @property
    def ordinal(self) -> int:
        """The how-manieth of its topic it is; 0 if no bridge wrote it."""
        number = self.fields.get(b"n", b"")
        return int(number) if number.isdigit() and len(number) < 16 else 0


@final
class Connection:
    """What a bridge asks of a server, over one connection.

    Whoever asks while a read waits in the server waits as well: a session either reads, or runs
    scripts.
    """

    def __init__(self, servers: Servers, settings: RedisSettings) -> None:
        self._servers = servers
        self._settings = settings
        # An answer comes later by as much as a read before it waits in the server.
        self._timeout: Final = settings.response_timeout + BLOCK
        self._done: Callable[[], None] | None = None

    def when_done(self, call: Callable[[], None]) -> None:
        """Have something called, once, when the server has done something."""
        self._done = call

    async def ping(self, keys: Sequence[str]) -> None:
        """Make sure that the server answers, in a cluster each node that has one of some keys.

        :param keys: what is going to be asked for
        """
        if self._settings.cluster:
            for key in keys:
                await self.run(_NOTHING, [key], [])
            return
        try:
            await self._servers.ask(None, b"PING", timeout=self._timeout)
        except RedisError as error:
            raise self._verdict(error, "PING") from None

    async def run(
        self, script: Script, keys: Sequence[str], args: Sequence[str | bytes | int]
    ) -> Any:
        """Run a script, and teach it to the server first if it does not know it.

        :param script: the script
        :param keys: the keys it works on, all of one topic
        :param args: its arguments
        :return: what it returns
        """
        words: list[RedisValueT] = [len(keys), *keys, *args]
        ask = self._servers.ask
        try:
            try:
                result = await ask(
                    keys[0], b"EVALSHA", script.digest, *words, timeout=self._timeout
                )
            except NoScriptError:
                result = await ask(keys[0], b"EVAL", script.source, *words, timeout=self._timeout)
        except RedisError as error:
            line = script.line_of(error)
            doing = f"EVALSHA ({line})" if line else "EVALSHA"
            raise self._verdict(error, doing, *keys) from None
        self._succeeded()
        return result

    async def read(
        self, positions: Mapping[str, bytes], count: int, block: float
    ) -> list[tuple[str, list[Entry]]]:
        """Return what comes after some positions in some streams, and wait for it, but not long.

        :param positions: the identifier of the last entry that was read, by stream
        :param count: how many entries of each stream at most
        :param block: how long to wait for one, in seconds; 0 for not at all
        :return: streams with their new entries, if there are any
        """
        return await self._read(b"XREAD", [], positions, count, block)

    async def read_group(
        self, group: str, consumer: str, streams: Sequence[str], count: int, block: float
    ) -> list[tuple[str, list[Entry]]]:
        """Return entries that nobody of a group has got, and wait for them, but not for long.

        :param group: the consumer group
        :param consumer: who asks
        :param streams: the streams
        :param count: how many entries of each stream at most
        :param block: how long to wait for one, in seconds; 0 for not at all
        :return: streams with entries that now are this consumer's to handle
        """
        who: list[RedisValueT] = [b"GROUP", group, consumer]
        return await self._read(b"XREADGROUP", who, dict.fromkeys(streams, b">"), count, block)

    async def _read(
        self,
        command: bytes,
        who: list[RedisValueT],
        positions: Mapping[str, bytes],
        count: int,
        block: float,
    ) -> list[tuple[str, list[Entry]]]:
        words: list[RedisValueT] = [*who, b"COUNT", count]
        if block > 0:
            words += (b"BLOCK", max(1, int(block * 1000)))  # for ever, if it were 0
        words += (b"STREAMS", *positions, *positions.values())
        try:
            found = await self._servers.ask(
                next(iter(positions)),
                command,
                *words,
                timeout=self._settings.response_timeout + max(block, BLOCK),
                blocks=True,
            )
        except RedisError as error:
            raise self._verdict(error, command.decode(), *positions) from None
        self._succeeded()
        streams = cast("dict[bytes, list[tuple[bytes, list[bytes]]]]", found or {})
        return [
            (name.decode(), [Entry(identifier, pairs(fields)) for identifier, fields in entries])
            for name, entries in streams.items()
        ]

    def _succeeded(self) -> None:
        if self._done is not None:
            self._done()
            self._done = None

    def _verdict(self, error: RedisError, command: str, *keys: str) -> Exception:
        where = f" on {', '.join(keys)}" if keys else ""
        return verdict(error, self._settings, command + where)


def pairs(fields: Sequence[bytes]) -> dict[bytes, bytes]:
    """Return the fields of an entry as the server lists them: name, value, name, value."""
    return dict(zip(fields[::2], fields[1::2], strict=True))


async def together(*jobs: Callable[[], Awaitable[object]]) -> None:
    """Do several things at once; the first that fails cancels the others, and is raised alone."""

    async def do(job: Callable[[], Awaitable[object]]) -> None:
        await job()

    try:
        async with create_task_group() as group:
            for job in jobs:
                group.start_soon(do, job)
    except BaseExceptionGroup as group:
        errors = list(_each(group))
        # What passes must not hide what does not.
        first = next((it for it in errors if not isinstance(it, TROUBLE)), errors[0])
        raise first from first.__cause__


def _each(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _each(cast("BaseExceptionGroup[BaseException]", error))
        else:
            yield error


@asynccontextmanager
async def connected(settings: RedisSettings) -> AsyncGenerator[Connection]:
    """Have a session with a server.

    It has one connection, in a cluster one to each node that it asks; sentinels are asked for the
    primary first. An exception leaves it as it was raised, not in a group. However the server
    hangs, it is left at once.

    :param settings: the server
    :return: the connection
    """
    failure: Exception | None = None
    async with create_task_group() as group:
        servers = Servers(settings, group)
        try:
            yield Connection(servers, settings)
        except Exception as error:
            failure = error
        finally:
            servers.close()
    if failure is not None:
        raise failure
