"""`TopicAdmin`: what those who run a cluster do with a topic in the server, beside its bridges."""

import re
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, final

from .._model.topic_names import name_of
from .._model.topics import Topic
from ._options import BridgeSettings
from ._scripts.admin import DROP_GROUP, GROUPS, HEARTBEATS, LETTERS, STANDING, TAKE
from ._server.connection import TROUBLE, Connection, RedisSettings, connected
from ._wire.dead_letters import (
    BuriedMessage,
    DeadLetterOutcome,
    DeadLetterReport,
    entry_fields,
    kind_of,
    time_of,
)
from ._wire.keys import Keys

__all__ = ["ConsumerGroup", "TopicAdmin"]

#: Of how many dead letters the server tells at a time: it does nothing else meanwhile.
_PAGE: Final = 64

_IDENTIFIER: Final = re.compile(r"\d{1,20}-\d{1,20}")


@final
@dataclass(frozen=True, slots=True)
class ConsumerGroup:
    """Those that compete for the messages of a topic, as the server knows them."""

    name: str
    """The `group` of their bridges."""
    alive: int
    """How many were heard of lately."""
    pending: int
    """Messages that were delivered and are not acknowledged."""
    lag: int | None
    """Messages that were not delivered yet; not known if others write to the stream, too."""
    last_heartbeat: datetime | None
    """When one of them was last heard of, in UTC, by the server's clock."""


@final
class TopicAdmin:
    """A topic as it lies in the server, for those who run a cluster.

    ``python -m orchestrio.redis`` does the same from a shell. Each call has a session of its own
    with the server.

    Example::

        import anyio

        from orchestrio.redis import TopicAdmin

        async def main() -> None:
            orders = TopicAdmin("redis://localhost:6379/0", "orders", namespace="shop")
            report = await orders.dead_letters(limit=20)
            print("dead letters:", report.total)  # dead letters: 0
            outcome = await orders.requeue_all()
            print("put back:", len(outcome.done))  # put back: 0

        anyio.run(main)

    :param url: the server: a URL as a `RedisBridge` takes it, or `RedisSettings`
    :param topic: the topic, or its name
    :param namespace: that of its bridges
    :raises ValueError: if the URL is none
    :raises ~pydantic.ValidationError: if the namespace is no name
    :raises InvalidChannelError: if the topic has no name that can lie in a server
    """

    def __init__(
        self, url: str | RedisSettings, topic: Topic[Any] | str, *, namespace: str
    ) -> None:
        self._settings = url if isinstance(url, RedisSettings) else RedisSettings.from_url(url)
        checked = BridgeSettings.model_validate({"namespace": namespace})
        self._keys: Final = Keys(checked.namespace, name_of(topic))
        self._stream: Final = self._keys.stream
        self._dead: Final = self._keys.dead
        self._counter: Final = self._keys.count

    # -- dead letters --------------------------------------------------------------------------

    async def dead_letters(self, *, limit: int = 100) -> DeadLetterReport:
        """Return the last dead letters, and how many there are of each sort.

        :param limit: how many of them at most; those before are counted only
        :return: the report
        :raises ConnectionError: if the server does not answer
        """
        async with self._session() as connection:
            known, _, _, last = await connection.run(STANDING, [self._dead, self._stream], [])
            letters = deque[BuriedMessage](maxlen=limit)
            kinds = Counter[str]()
            async for letter in self._each(connection, last.decode()):
                kinds[kind_of(letter.error)] += 1
                letters.append(letter)
            _, total, added, _ = await connection.run(STANDING, [self._dead, self._stream], [])
        return DeadLetterReport(
            total, max(added - total, 0), dict(kinds.most_common()), tuple(letters), bool(known)
        )

    async def dead_letter(self, id: str) -> BuriedMessage | None:
        """Return one dead letter whole, with its message.

        :param id: its identifier
        :return: the dead letter, or None if there is none of that identifier
        :raises ConnectionError: if the server does not answer
        :raises ValueError: if it is no identifier
        """
        async with self._session() as connection:
            return await self._letter(connection, _checked(id))

    async def requeue(self, *ids: str, every_group: bool = False) -> DeadLetterOutcome:
        """Put dead letters back into the topic, behind what is there, to be delivered again.

        Each in one step, so that it is neither lost nor doubled if this is interrupted. It keeps
        its CloudEvents `id`. A message that failed in a group goes to that group again, and to
        no other.

        :param ids: identifiers of dead letters
        :param every_group: whether all groups get them, whatever they failed in
        :return: which were put back, and why others were not
        :raises ConnectionError: if the server stops answering; those put back are so
        :raises ValueError: if one is no identifier
        """
        checked = [_checked(id) for id in ids]
        done: list[str] = []
        refused: dict[str, str] = {}
        async with self._session() as connection:
            for id in checked:
                why = await self._put_back(connection, id, every_group=every_group)
                if why:
                    refused[id] = why
                else:
                    done.append(id)
        return DeadLetterOutcome(done, refused)

    async def requeue_all(self, *, every_group: bool = False) -> DeadLetterOutcome:
        """Put back what is there now; see `requeue`.

        :param every_group: whether all groups get them, whatever they failed in
        :return: which were put back, and why others were not
        :raises ConnectionError: if the server stops answering; those put back are so
        """
        return await self.requeue(*await self._identifiers(), every_group=every_group)

    async def drop(self, *ids: str) -> DeadLetterOutcome:
        """Delete dead letters for good.

        :param ids: identifiers of dead letters
        :return: which were deleted, and why others were not
        :raises ConnectionError: if the server stops answering; those deleted are so
        :raises ValueError: if one is no identifier
        """
        checked = [_checked(id) for id in ids]
        done: list[str] = []
        refused: dict[str, str] = {}
        async with self._session() as connection:
            for id in checked:
                if await self._take(connection, id, "", []):
                    done.append(id)
                else:
                    refused[id] = _UNKNOWN
        return DeadLetterOutcome(done, refused)

    async def drop_all(self) -> DeadLetterOutcome:
        """Delete what is there now; see `drop`.

        :return: which were deleted, and why others were not
        :raises ConnectionError: if the server stops answering; those deleted are so
        """
        return await self.drop(*await self._identifiers())

    async def _identifiers(self) -> list[str]:
        """All dead letters there are: what comes while they are put back is not among them."""
        async with self._session() as connection:
            return [letter.id async for letter in self._each(connection, "+")]

    async def _each(self, connection: Connection, last: str) -> AsyncIterator[BuriedMessage]:
        first = "-"
        while True:
            found = await connection.run(LETTERS, [self._dead], [first, last, _PAGE, 0])
            for entry in found:
                yield _read(entry)
            if len(found) < _PAGE:
                return
            first = f"({found[-1][0].decode()}"

    async def _letter(self, connection: Connection, id: str) -> BuriedMessage | None:
        found = await connection.run(LETTERS, [self._dead], [id, id, 1, 1])
        return _read(found[0]) if found else None

    async def _put_back(self, connection: Connection, id: str, *, every_group: bool) -> str:
        """Put one back, and return why it cannot be."""
        letter = await self._letter(connection, id)
        if letter is None:
            return _UNKNOWN
        group = None if every_group else letter.group
        try:
            fields = entry_fields(letter.message, group)
        except ValueError as error:
            return f"it cannot be put back, only shown and dropped: {error}"
        taken = await self._take(connection, id, group or "", fields)
        if taken < 0:
            return (
                f"its group {group!r} is not there any more: start a bridge of that group, or put"
                " it back for every group"
            )
        return "" if taken else _UNKNOWN

    async def _take(self, connection: Connection, id: str, group: str, fields: list[str]) -> int:
        keys = [self._dead, self._stream, self._counter]
        return int(await connection.run(TAKE, keys, [id, group, *fields]))

    # -- groups --------------------------------------------------------------------------------

    async def groups(self, *, alive_within: float | timedelta = 60.0) -> list[ConsumerGroup]:
        """Return the groups that compete for the messages, also those that nobody uses any more.

        What was not handled in each group stays in the server, so one that nobody uses fills it.

        :param alive_within: for how long, in seconds, a consumer that is not heard of counts as
            alive
        :return: the groups, by name
        :raises ConnectionError: if the server does not answer
        """
        within = _milliseconds(alive_within)
        groups: list[ConsumerGroup] = []
        async with self._session() as connection:
            for raw, pending, following, last in await connection.run(GROUPS, [self._stream], []):
                name = raw.decode(errors="replace")
                alive, heard = await connection.run(
                    HEARTBEATS, [self._keys.group(name).alive], [within]
                )
                heartbeat = time_of(heard.decode().partition(".")[0]) if heard else None
                groups.append(ConsumerGroup(name, alive, pending, _lag(following, last), heartbeat))
        return sorted(groups, key=lambda group: group.name)

    async def drop_group(
        self, name: str, *, force: bool = False, alive_within: float | timedelta = 60.0
    ) -> bool:
        """Forget a group, and what it has not handled, so that the stream can be trimmed.

        A bridge of that group that comes later begins with what is in the stream then.

        :param name: the group
        :param force: whether to do so while it is in use; its bridges make it anew
        :param alive_within: for how long, in seconds, a consumer that is not heard of counts as
            alive
        :return: whether there was such a group
        :raises ConnectionError: if the server does not answer
        :raises RuntimeError: if a consumer of the group is alive
        """
        group = self._keys.group(name)
        keys = [self._stream, self._keys.about, group.alive, group.tries, group.later]
        within = -1 if force else _milliseconds(alive_within)
        async with self._session() as connection:
            alive = int(await connection.run(DROP_GROUP, keys, [name, within]))
        if alive > 0:
            raise RuntimeError(
                f"group {name!r} was not dropped: {alive} of its consumers are alive. Stop their"
                " bridges first, or force it."
            )
        return alive < 0

    @asynccontextmanager
    async def _session(self) -> AsyncGenerator[Connection]:
        try:
            async with connected(self._settings) as connection:
                yield connection
        except TROUBLE as error:
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            said = f"{type(cause).__name__}: {cause}".removesuffix(": ")
            raise ConnectionError(
                f"{self._settings} does not answer as it should: {said}. See that it runs, can be"
                " reached from here and has memory left, and try again."
            ) from error


_UNKNOWN: Final = "there is no such dead letter"


def _checked(identifier: str) -> str:
    if _IDENTIFIER.fullmatch(identifier) is None:
        raise ValueError(
            f"{identifier!r} is no identifier of a dead letter: these look like 1764159510123-0"
        )
    return identifier


def _milliseconds(time: float | timedelta) -> int:
    seconds = time.total_seconds() if isinstance(time, timedelta) else time
    if not 0 <= seconds <= 1e9:
        raise ValueError(f"alive_within is a number of seconds, and not {seconds}")
    return int(seconds * 1000)


def _lag(following: bytes, last: bytes) -> int | None:
    if following == b"0":
        return 0
    return int(last) - int(following) + 1 if following.isdigit() and last.isdigit() else None


def _read(entry: tuple[bytes, list[bytes]]) -> BuriedMessage:
    """Return a dead letter, whoever has written it."""
    identifier = entry[0].decode()
    fields = dict(zip(entry[1][::2], entry[1][1::2], strict=True))

    def text(name: bytes) -> str:
        # What was no text must not look like some: the escapes are no JSON.
        return fields.get(name, b"").decode(errors="backslashreplace")

    ordinal, deliveries = text(b"n"), text(b"deliveries")
    return BuriedMessage(
        id=identifier,
        buried_at=time_of(identifier),
        deliveries=int(deliveries) if deliveries.isdecimal() else 0,
        group=text(b"group") or None,
        error=text(b"error"),
        entry=text(b"entry"),
        ordinal=int(ordinal) if ordinal.isdecimal() else None,
        message=text(b"m") if b"m" in fields else None,
    )
