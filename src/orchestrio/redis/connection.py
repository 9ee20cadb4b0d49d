"""A session with a Redis server: how to reach it, and the few things that are asked of it.

What goes wrong comes in two kinds. `TROUBLE` passes: the server is away, slow, full or about to be
replaced, and whoever asked tries again in a new session. Anything else (a wrong password, a right
that is missing, a key of another type) is for the user to see.
"""

import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha1
from typing import Annotated, Any, ClassVar, Final, Self, cast, final
from urllib.parse import unquote, urlsplit

from anyio import (
    BrokenResourceError,
    ClosedResourceError,
    connect_tcp,
    connect_unix,
    create_task_group,
    fail_after,
)
from anyio.abc import SocketStream
from coredis import Redis
from coredis.exceptions import (
    ConnectionError as RedisConnectionError,
    NoScriptError,
    ReadOnlyError,
    ResponseError,
    StreamConsumerGroupError,
    UnblockedError,
)
from coredis.retry import NoRetryPolicy
from coredis.typing import StringT, ValueT
from pydantic import BaseModel, ConfigDict, Field, FilePath, SecretStr

from .._model.settings import Deadline

__all__ = [
    "TROUBLE",
    "Connection",
    "Entry",
    "RedisSettings",
    "Refused",
    "Script",
    "connected",
    "together",
]

#: How long a read waits in the server, in seconds. Long enough to cost nothing, short enough that
#: a connection that is dead and does not know it is noticed.
BLOCK: Final = 1.0

_FULL: Final = ("OOM ", "NOREPLICAS ", "MASTERDOWN ", "TRYAGAIN ", "CLUSTERDOWN ", "MISSING ", "NOGROUP ")


class Untrusted(Exception):
    """The server's certificate is not one to trust."""


class Refused(Exception):
    """The server is there, and does not take this now: its memory is full, or a replica is away."""


TROUBLE: Final = (
    RedisConnectionError,
    Refused,
    TimeoutError,
    OSError,
    ClosedResourceError,
    BrokenResourceError,
)


class RedisSettings(BaseModel, frozen=True):
    """How to reach a Redis server, for those who do not want it all in one URL.

    Secrets are shown as stars wherever it is printed, and are never logged.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    host: str = "localhost"
    """Name or address of the server."""
    port: Annotated[int, Field(strict=True, ge=1, le=65535)] = 6379
    """Its TCP port."""
    socket: str | None = None
    """Path of a Unix socket to use instead."""
    database: Annotated[int, Field(strict=True, ge=0)] = 0
    """Number of the database."""
    username: str | None = None
    """Name of the ACL user; that of the server's default user if not given."""
    password: SecretStr | None = None
    """Its password."""
    tls: bool = False
    """Whether to encrypt; the certificate and the name of the host are verified."""
    tls_ca: FilePath | None = None
    """Certificates to trust, as a PEM file; those of the system if not given."""
    tls_certificate: FilePath | None = None
    """Certificate to show to the server, as a PEM file with its key."""
    connect_timeout: Annotated[Deadline, Field(allow_inf_nan=False)] = 5.0
    """How long connecting may take, in seconds."""
    response_timeout: Annotated[Deadline, Field(allow_inf_nan=False)] = 10.0
    """How long an answer may take before the connection is given up, in seconds."""

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Read a URL: ``redis://user:password@host:port/database``, ``rediss://`` or ``unix://``.

        :param url: the URL; signs with a meaning in URLs are written as ``%40`` and the like
        :return: the settings
        :raises ValueError: if it is no such URL; the message does not repeat it
        """
        try:
            parts = urlsplit(url) if isinstance(cast("object", url), str) else None
            port = parts.port if parts else None
        except ValueError:
            parts, port = None, None
        if parts is None or parts.scheme not in ("redis", "rediss", "unix"):
            raise ValueError(
                "not a URL of a Redis server: it looks like redis://user:password@host:6379/0,"
                " rediss://... with TLS, or unix:///path, with special signs as %40 and the like"
            )
        if parts.query or parts.fragment:
            raise ValueError(
                "the URL of a Redis server has no options here: use RedisSettings for them"
            )
        found: dict[str, object] = {
            "username": unquote(parts.username) if parts.username else None,
            "password": unquote(parts.password) if parts.password else None,
        }
        if parts.scheme == "unix":
            return cls.model_validate(found | {"socket": unquote(parts.path)})
        database = parts.path.strip("/")
        if not parts.hostname or not (database == "" or database.isdecimal()):
            raise ValueError("the URL of a Redis server has a host, and a number as its path")
        return cls.model_validate(
            found
            | {
                "host": parts.hostname,
                "port": port or 6379,
                "database": int(database or 0),
                "tls": parts.scheme == "rediss",
            }
        )

    def __str__(self) -> str:
        place = self.socket or f"{self.host}:{self.port}"
        return f"Redis at {place}, database {self.database}"


def client_of(settings: RedisSettings) -> Redis[bytes]:
    """Return a new client of a server; it does nothing until it is entered."""
    context: ssl.SSLContext | None = None
    if settings.tls:
        context = ssl.create_default_context(cafile=settings.tls_ca)
        if settings.tls_certificate is not None:
            context.load_cert_chain(settings.tls_certificate)
    return Redis(
        host=settings.host,
        port=settings.port,
        unix_socket_path=settings.socket,
        db=settings.database,
        username=settings.username,
        password=None if settings.password is None else settings.password.get_secret_value(),
        ssl_context=context,
        connect_timeout=settings.connect_timeout,
        # The answer to a read that waits in the server comes up to that much later.
        stream_timeout=settings.response_timeout + BLOCK,
        decode_responses=False,
        # What was sent may have been done: only the bridge knows what is safe to do again.
        retry_policy=NoRetryPolicy(),
    )


@final
class Script:
    """A Lua script that the server runs as one step."""

    def __init__(self, source: str) -> None:
        self.source: str = source
        self.digest: str = sha1(source.encode(), usedforsecurity=False).hexdigest()


@final
@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a stream, as read."""

    identifier: bytes
    fields: Mapping[bytes, bytes]


@final
class Connection:
    """What a bridge asks of a server."""

    def __init__(self, client: Redis[bytes]) -> None:
        self._client = client
        self._done: Callable[[], None] | None = None

    def when_done(self, call: Callable[[], None]) -> None:
        """Have something called, once, when a script has run."""
        self._done = call

    async def ping(self) -> None:
        """Make sure that the server answers."""
        await self._client.ping()

    async def run(
        self, script: Script, keys: Sequence[str], args: Sequence[str | bytes | int]
    ) -> Any:
        """Run a script, and teach it to the server first if it does not know it.

        :param script: the script
        :param keys: the keys it works on
        :param args: its arguments
        :return: what it returns
        """
        names = cast("list[StringT]", list(keys))
        values = cast("list[ValueT]", list(args))
        try:
            try:
                result = await self._client.evalsha(script.digest, names, values)
            except NoScriptError:
                result = await self._client.eval(script.source, names, values)
        except ReadOnlyError as error:
            raise Refused(str(error)) from None
        except ResponseError as error:
            if str(error).startswith(_FULL):
                raise Refused(str(error).partition("\n")[0]) from None
            raise
        if self._done is not None:
            self._done()
            self._done = None
        return result

    async def read(
        self, positions: Mapping[str, bytes], count: int, block: float = BLOCK
    ) -> list[tuple[str, list[Entry]]]:
        """Wait for what comes after some positions in some streams, but not for long.

        :param positions: the identifier of the last entry that was read, by stream
        :param count: how many entries of each stream at most
        :return: streams with their new entries, if there are any
        """
        found = await self._client.xread(
            cast("Mapping[str | bytes, ValueT]", positions), count=count, block=int(block * 1000) or None
        )
        return _entries(found)

    async def read_group(
        self, group: str, consumer: str, streams: Sequence[str], count: int, block: float = BLOCK
    ) -> list[tuple[str, list[Entry]]]:
        """Wait for entries that nobody of a group has got, but not for long.

        :param group: the consumer group
        :param consumer: who asks
        :param streams: the streams
        :param count: how many entries of each stream at most
        :return: streams with entries that now are this consumer's to handle
        """
        try:
            found = await self._client.xreadgroup(
                group, consumer, dict.fromkeys(streams, ">"), count=count, block=int(block * 1000) or None
            )
        except (StreamConsumerGroupError, UnblockedError) as error:
            # Somebody has deleted the stream: a new session makes it anew.
            raise Refused(str(error)) from None
        return _entries(found)


def _entries(found: Mapping[bytes, Sequence[Any]] | None) -> list[tuple[str, list[Entry]]]:
    if found is None:
        return []
    return [
        (name.decode(), [Entry(entry.identifier, entry.field_values) for entry in entries])
        for name, entries in found.items()
    ]


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
        raise next((it for it in errors if not isinstance(it, TROUBLE)), errors[0]) from None


def _each(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _each(cast("BaseExceptionGroup[BaseException]", error))
        else:
            yield error


async def _knock(settings: RedisSettings) -> None:
    """Find out whether there is somebody, before a client is made.

    A client that does not get through logs a traceback each time, and leaves streams unclosed.
    """
    with fail_after(settings.connect_timeout):
        if settings.socket is not None:
            stream: SocketStream = await connect_unix(settings.socket)
        else:
            stream = await connect_tcp(settings.host, settings.port)
        await stream.aclose()


@asynccontextmanager
async def connected(settings: RedisSettings) -> AsyncGenerator[Connection]:
    """Have a session with a server; each is a client of its own, since one that broke may leak.

    An exception leaves it as it was raised, not in a group.

    :param settings: the server
    :return: the connection
    """
    await _knock(settings)
    client = client_of(settings)
    failure: Exception | None = None
    try:
        async with client:
            try:
                yield Connection(client)
            except RedisConnectionError as error:
                cause = error.__cause__
                failure = error
                if isinstance(cause, ssl.SSLCertVerificationError):
                    failure = Untrusted(f"{settings} cannot be trusted: {cause.verify_message}")
            except Exception as error:
                failure = error
    except BaseExceptionGroup as group:
        if failure is None and not group.split(TROUBLE)[1]:
            raise Refused("the connection was lost") from group
        raise
    if failure is not None:
        raise failure
