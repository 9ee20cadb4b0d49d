"""`Link`: one connection to one server, on which requests follow each other without waiting.

The client library brings the protocol, with its handshake; pools, retries and routes of its own
are left out, since what a bridge needs is known here: one connection a session, and nothing sent
twice unless the bridge says so.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any, Final, final

from anyio import (
    BrokenResourceError,
    CancelScope,
    ClosedResourceError,
    EndOfStream,
    Event,
    aclose_forcefully,
    connect_tcp,
    connect_unix,
    move_on_after,
    sleep_forever,
)
from anyio.abc import ByteStream
from anyio.lowlevel import checkpoint
from coredis.connection import BaseConnection, TCPLocation
from coredis.exceptions import InvalidResponse, RedisError
from coredis.typing import RedisValueT
from typing_extensions import override

from .outages import Rejected, distrust, is_answer, verdict
from .settings import Address

__all__ = ["Link", "dial"]

#: How long a server has to object to the certificate that it was shown, in seconds.
_OBJECTION: Final = 0.05


async def dial(where: Address | str, context: ssl.SSLContext | None) -> ByteStream:
    """Connect to a server, with or without TLS.

    :param where: its address, or the path of its socket
    :param context: how to encrypt, if one is to
    :raises OSError: if nobody is there
    :raises Rejected: if one of both does not trust the other
    """
    try:
        if isinstance(where, str):
            return await connect_unix(where)
        if context is None:
            return await connect_tcp(where.host, where.port)
        stream = await connect_tcp(
            where.host,
            where.port,
            tls=True,
            ssl_context=context,
            tls_standard_compatible=False,
        )
        await _hear_objection(stream)
        return stream
    except (OSError, BrokenResourceError, EndOfStream) as error:
        rejected = _without_trust(where, error)
        raise rejected or _unreachable(where, error) from None


async def _hear_objection(stream: ByteStream) -> None:
    """Wait for what a server has to say of the certificate that it was shown, or was not.

    With TLS 1.3 it does so when the handshake is over, and what it says is lost if it finds, as it
    closes the connection, that something was sent to it.
    """
    try:
        with move_on_after(_OBJECTION):
            await stream.receive()
    except BaseException:
        await aclose_forcefully(stream)
        raise


def _unreachable(where: Address | str, error: Exception) -> ConnectionError:
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return ConnectionError(f"cannot connect to {where}: {str(cause) or type(cause).__name__}")


def _without_trust(where: Address | str, error: BaseException | None) -> Rejected | None:
    why = distrust(error)
    return None if why is None else Rejected(f"the server at {where} cannot be trusted: {why}")


@final
class Link:
    """A connection; a task runs it, and anybody asks.

    :param where: who is at the other end
    :param stream: the connection
    :param username: who to log in as, if with a password
    :param password: and with what
    :param database: the number of the database
    """

    def __init__(
        self,
        where: Address | str,
        stream: ByteStream,
        username: str | None = None,
        password: str | None = None,
        database: int = 0,
    ) -> None:
        self.where: Final = where
        self._wire = _Wire(stream)
        self._protocol = _Protocol(self._wire, username, password, database)
        self._settled = Event()  # when the handshake is over, for better or worse
        self._error: Exception | None = None

    @property
    def usable(self) -> bool:
        """Whether it is there, as far as is known."""
        return self._protocol.usable and self._wire.broken is None

    async def run(self) -> None:
        """Keep it until it breaks or is closed; nothing is raised here."""
        # The client takes a cancellation for a fault of the server, and logs it: it is hung up.
        with CancelScope(shield=True):
            try:
                await self._protocol.run(task_status=self)
            except Exception as error:
                self._error = error
            finally:
                self._settled.set()

    def started(self, value: None = None) -> None:
        """Note that the handshake is over."""
        self._wire.greeted = True
        if self._wire.over:
            self._protocol.invalidate()
        self._settled.set()

    async def opened(self) -> None:
        """Wait until one can ask.

        :raises Refused: if the server does not take us now
        :raises Rejected: or never will
        :raises OSError: if the connection broke
        """
        await self._settled.wait()
        if self.usable:
            return
        error = self._error
        if isinstance(error, InvalidResponse):
            raise Rejected(f"what listens at {self.where} does not speak the protocol of Redis")
        if isinstance(error, RedisError) and is_answer(error):
            raise verdict(error, self.where, "logging in")
        raise self._lost()

    def close(self) -> None:
        """Have it end at once, whatever the server does."""
        self._wire.close()

    async def ask(
        self,
        command: bytes,
        *words: RedisValueT,
        timeout: float,
        blocks: bool = False,
        asking: bool = False,
    ) -> Any:
        """Send a command, and return the answer.

        :param command: its name
        :param words: its arguments
        :param timeout: how long the answer may take, in seconds
        :param blocks: whether it waits in the server, and may have taken something if it is
            cancelled: then the connection is closed, so that the server knows
        :param asking: whether to say ASKING before: the slot is just moving there
        :raises RedisError: if the server answers with an error
        :raises OSError: if it does not answer
        """
        try:
            if asking:
                self._protocol.create_request(b"ASKING")
            return await self._protocol.create_request(
                command,
                *words,
                decode=False,
                timeout=timeout,
                disconnect_on_cancellation=blocks,
            )
        except TimeoutError:
            raise
        except Exception as error:
            if is_answer(error):
                raise
            raise self._lost() from None

    def _lost(self) -> Exception:
        broken = self._wire.broken
        rejected = _without_trust(self.where, broken)
        if rejected is not None:
            return rejected
        why = "" if broken is None or isinstance(broken, EndOfStream) else f": {broken!r}"
        return ConnectionResetError(f"the connection to {self.where} was lost{why}")


@final
class _Protocol(BaseConnection):
    """The protocol of Redis on a connection that is there already."""

    def __init__(
        self, wire: _Wire, username: str | None, password: str | None, database: int
    ) -> None:
        # What is waited for, and how long, is said with each request.
        super().__init__(TCPLocation("", 0), username=username, password=password, db=database)
        self._wire = wire
        wire.hang_up = self.invalidate

    @override
    async def _connect(self) -> ByteStream:
        return self._wire

    @override
    def describe(self) -> str:
        return "a connection"

    # The client asks newer servers to note its own name, for which not every user has the right.
    @property
    def server_version(self) -> str:
        return ""

    @server_version.setter
    def server_version(  # pyright: ignore[reportIncompatibleVariableOverride]  # a variable there
        self, value: str | None
    ) -> None:
        pass


@final
class _Wire(ByteStream):
    """A connection that ends in silence.

    The client logs a traceback for each one that breaks. So what breaks is kept here, and
    the client sees one that was closed on purpose.
    """

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._receiving = CancelScope()
        self.hang_up: Callable[[], None]
        self.greeted = False  # whether the handshake is over
        self.over = False
        self.broken: Exception | None = None

    def close(self) -> None:
        """Have it end at once."""
        self.over = True
        if self.greeted:
            self.hang_up()
        else:
            self._receiving.cancel()

    @override
    async def receive(self, max_bytes: int = 65536) -> bytes:
        try:
            if self.greeted:
                return await self._stream.receive(max_bytes)
            if not self.over:
                with CancelScope() as self._receiving:
                    return await self._stream.receive(max_bytes)
        except Exception as error:
            self.broken = self.broken or error
        raise await self._end()

    @override
    async def send(self, item: bytes) -> None:
        try:
            await self._stream.send(item)
        except Exception as error:
            self.broken = self.broken or error
            raise await self._end() from None

    async def _end(self) -> ClosedResourceError:
        """End what the client is doing; only before the handshake is over it does not log that."""
        # What came last may have been the end of the handshake: that goes on in the next turn of the
        # event loop, and with trio, which has no order in a turn, before the one after that.
        await checkpoint()
        await checkpoint()
        if self.greeted:
            self.hang_up()
            await sleep_forever()  # which has been cancelled
        return ClosedResourceError()

    @override
    async def send_eof(self) -> None:
        await self._stream.send_eof()

    @override
    async def aclose(self) -> None:
        await self._stream.aclose()
