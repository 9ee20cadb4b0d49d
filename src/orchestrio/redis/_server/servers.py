"""`Servers`: who is asked in a session, be it one server, a primary that sentinels know, a cluster."""

from __future__ import annotations

import random
from binascii import crc_hqx
from collections.abc import Sequence
from typing import Any, Final, final

from anyio import Lock, fail_after
from anyio.abc import TaskGroup
from coredis.exceptions import AskError, ClusterDownError, MovedError, RedisError
from coredis.typing import RedisValueT

from .links import Link, dial
from .outages import TROUBLE, Refused, verdict
from .settings import Address, RedisSettings, context_of, credentials_of

__all__ = ["Servers"]

#: How often a command is sent on to another node before somebody has to look what is wrong.
_REDIRECTIONS: Final = 5

_SLOTS: Final = 16384


@final
class Servers:
    """The connections of a session: one to each server that it asks, made when it is asked first.

    That is one server, but for a cluster, where it is the nodes that have the topics. Which those
    are is learned from what they answer: a slot that has moved is asked for where it went.

    :param settings: where
    :param group: in which the connections live
    """

    def __init__(self, settings: RedisSettings, group: TaskGroup) -> None:
        self._settings = settings
        self._group = group
        self._context = context_of(settings)
        self._links: dict[Address | str | None, Link] = {}  # None: whoever can be found
        self._alive: set[Link] = set()
        self._homes: dict[int | None, Address] = {}  # of slots, in a cluster
        self._cut_off: set[Address | str] = set()  # nodes that said that it is down
        self._opening = Lock()

    def close(self) -> None:
        """Close all connections at once."""
        for link in self._alive:
            link.close()

    async def ask(
        self,
        key: str | None,
        command: bytes,
        *words: RedisValueT,
        timeout: float,
        blocks: bool = False,
    ) -> Any:
        """Ask the server that has a key; see `Link.ask`.

        :param key: one of the keys; None for a command without any
        """
        slot = None if key is None or not self._settings.cluster else slot_of(key)
        home = self._homes.get(slot)
        asking = False
        asked: set[Address | str] = set()  # those that said that the cluster is down
        for _ in range(_REDIRECTIONS + len(self._settings.cluster)):
            link = await self._link(home)
            try:
                return await link.ask(
                    command, *words, timeout=timeout, blocks=blocks, asking=asking
                )
            except AskError as error:  # or MovedError, which is one
                if slot is None or not isinstance(link.where, Address):
                    raise
                home = Address(error.host or link.where.host, error.port)
                asking = not isinstance(error, MovedError)
                if not asking:
                    self._homes[slot] = home
            except ClusterDownError:
                # One that is cut off from the others, or has not heard yet that somebody is back,
                # says so of all: it is so if every node says it.
                self._cut_off.add(link.where)
                if link.where in asked or not self._others():
                    raise
                asked.add(link.where)
                home, asking = None, False
                found = self._links.get(None)
                if found is not None and found.where == link.where:
                    del self._links[None]
        raise Refused(f"{self._settings}: its nodes do not agree on who has {key}")

    async def _link(self, where: Address | None) -> Link:
        """Return a connection that is there, to a node of the cluster or to whom there is."""
        link = self._links.get(where)
        if link is not None and link.usable:
            return link
        async with self._opening:
            link = self._links.get(where)
            if link is None or not link.usable:
                link = await (self._find() if where is None else self._open(where))
                self._links[where] = self._links[link.where] = link
            return link

    async def _find(self) -> Link:
        settings = self._settings
        if settings.cluster:
            return await self._first(self._others() or _addresses(settings.cluster, 6379))
        if settings.sentinels:
            return await self._primary()
        return await self._open(settings.socket or Address(settings.host, settings.port))

    def _others(self) -> list[Address]:
        """Return the nodes of a cluster that may know how it is, in any order."""
        nodes = _addresses(self._settings.cluster, 6379)
        return [node for node in nodes if node not in self._cut_off]

    async def _first(self, nodes: Sequence[Address]) -> Link:
        """Return a connection to the first node that answers."""
        failure: Exception | None = None
        for node in nodes:
            try:
                return await self._open(node)
            except TROUBLE as error:
                failure = error
        assert failure is not None
        raise failure

    async def _primary(self) -> Link:
        """Return a connection to the primary, as the first sentinel that knows one says."""
        settings = self._settings
        failure: Exception = Refused(f"none of the sentinels knows {settings.service!r}")
        tried: set[Address] = set()
        for sentinel in _addresses(settings.sentinels, 26379):
            try:
                where = await self._ask_sentinel(sentinel)
                if where is None or where in tried:
                    continue
                tried.add(where)
                link = await self._open(where)
                await self._is_primary(link)
                return link
            except TROUBLE as error:
                failure = error
        raise failure

    async def _ask_sentinel(self, sentinel: Address) -> Address | None:
        settings = self._settings
        secret = settings.sentinel_password
        password = None if secret is None else secret.get_secret_value()
        link = await self._open(sentinel, (settings.sentinel_username, password))
        try:
            found = await link.ask(
                b"SENTINEL",
                b"GET-MASTER-ADDR-BY-NAME",
                settings.service or "",
                timeout=settings.response_timeout,
            )
        except RedisError as error:
            raise verdict(error, sentinel, "SENTINEL GET-MASTER-ADDR-BY-NAME") from None
        finally:
            link.close()
        return None if found is None else Address(found[0].decode(), int(found[1]))

    async def _is_primary(self, link: Link) -> None:
        """Make sure that it is one: the sentinel may not have heard yet, or the server itself."""
        # Its greeting says so; ROLE would need one more right.
        try:
            greeting = await link.ask(b"HELLO", timeout=self._settings.response_timeout)
        except RedisError as error:
            link.close()
            raise verdict(error, link.where, "HELLO") from None
        if greeting[b"role"] != b"master":
            link.close()
            raise Refused(f"{link.where}, which is to be {self._settings.service!r}, is a replica")

    async def _open(
        self, where: Address | str, log_in_as: tuple[str | None, str | None] | None = None
    ) -> Link:
        """Connect to a server, and log in.

        :param where: who it is
        :param log_in_as: user and password of a sentinel; those for the data if not given
        """
        settings = self._settings
        doing = "credentials() of the RedisSettings"
        try:
            with fail_after(settings.connect_timeout):
                user = log_in_as or await credentials_of(settings)
                doing = f"{where}, with TLS," if settings.tls else str(where)
                stream = await dial(where, self._context)
                link = Link(where, stream, *user, 0 if log_in_as else settings.database)
                self._alive.add(link)
                self._group.start_soon(self._run, link)
                try:
                    await link.opened()
                except BaseException:
                    link.close()
                    raise
        except TimeoutError:
            raise TimeoutError(
                f"{doing} did not answer within connect_timeout ({settings.connect_timeout:g} s)"
            ) from None
        return link

    async def _run(self, link: Link) -> None:
        try:
            await link.run()
        finally:
            self._alive.discard(link)


def _addresses(texts: Sequence[str], port: int) -> list[Address]:
    """Return some addresses in any order, so that one that hangs is not always asked first."""
    found = [Address.of(text, port) for text in texts]
    random.shuffle(found)
    return found


def slot_of(key: str) -> int:
    """Return the slot of a cluster in which a key lies, by its part in braces."""
    _, opened, rest = key.partition("{")
    tag, closed, _ = rest.partition("}")
    return crc_hqx((tag if opened and closed and tag else key).encode(), 0) % _SLOTS
