"""`Sessions`: the use of a server that may be away, again and again until it is done."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, final

from anyio import current_time, sleep

from ..._model.log import logger
from ..._model.settings import Backoff, wait_before
from .connection import TROUBLE, Connection, RedisSettings, Refused, connected
from .outages import Full

__all__ = ["Sessions"]

_BACKOFF: Final = Backoff(initial_delay=0.1, max_delay=5.0)


@final
class Sessions:
    """Keeps sessions with one server, and knows whether it answers; an outage is told of once.

    :param settings: which server
    :param keys: returns the keys that are used there, to ask whoever has them
    """

    def __init__(self, settings: RedisSettings, keys: Callable[[], Sequence[str]]) -> None:
        self._settings = settings
        self._keys = keys
        self._open = 0
        self._down: set[object] = set()  # the loops that wait for it to answer
        #: whether it answers
        self.connected: bool = False
        #: how often it has not, since there was a bridge
        self.outages: int = 0
        #: since when it does not, in seconds on the event loop's clock
        self.away_since: float | None = None

    @property
    def is_awaited(self) -> bool:
        """Whether something waits for it to answer."""
        return bool(self._down)

    async def keep(
        self, use: Callable[[Connection], Awaitable[None]], *, once: bool = False
    ) -> None:
        """Have sessions with the server, one after the other, until one comes to its end.

        :param use: what is done in one; begun anew in the next if that breaks
        :param once: whether to leave it at one
        """
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
                        await connection.ping(self._keys())
                        answers = True
                        self._open += 1
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
                    await _back_off(attempt)
                finally:
                    self._open -= answers
        finally:
            if loop in self._down:  # it has been given up
                self._down.discard(loop)
                if not self._down:
                    self.away_since = None
                    self.connected = self._open > 0

    async def send(self, send: Callable[[Callable[[], None]], Awaitable[None]]) -> None:
        """Send until that comes to its end, within one session; a full server takes all but that.

        :param send: sends, and calls what it is given whenever the server has taken something
        """
        loop = object()
        attempt = 0

        def sent() -> None:
            nonlocal attempt
            if attempt:
                attempt = 0
                self._is_up(loop)

        try:
            while True:
                try:
                    await send(sent)
                    return
                except Full as error:
                    attempt += 1
                    self._is_down(loop, error)
                    await _back_off(attempt)
        finally:
            self._down.discard(loop)  # how the server is, the session tells

    def _is_up(self, loop: object) -> None:
        self._down.discard(loop)
        if not self._down:
            self.away_since = None
        if not (self._down or self.connected):
            self.connected = True
            logger.info("%s answers", self._settings)

    def _is_down(self, loop: object, error: Exception) -> None:
        self._down.add(loop)
        if self.away_since is None:
            waited = self._settings.response_timeout if isinstance(error, TimeoutError) else 0.0
            self.away_since = current_time() - waited
        if self.connected or not self.outages:
            self.connected = False
            self.outages += 1
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            logger.warning(
                "%s does not answer as it should, and is asked again: %s: %s",
                self._settings,
                type(cause).__name__,
                cause,
            )


async def _back_off(attempt: int) -> None:
    await sleep(wait_before(attempt, _BACKOFF, random.random()))
