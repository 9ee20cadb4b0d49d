"""`RedisLeases`: one process of a cluster does it, and another soon after that one has died."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from math import inf
from typing import Final, final
from urllib.parse import quote
from uuid import uuid4

from anyio import CancelScope, create_task_group, current_time, move_on_after, sleep

from ._scripts.lua import ALSO_WHEN_FULL
from ._server.connection import Connection, Script

__all__ = ["RedisLeases"]


#: How long, in seconds, giving a lease up may take; then it is left to run out.
_PATIENCE: Final = 2.0

ACQUIRE: Final = Script(
    ALSO_WHEN_FULL
    + """
-- KEYS: lease, the last token; ARGV: who, for how long (ms)
-- Tokens go by the server's clock, so that they grow also if the last one is forgotten.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
    return 0
end
local time = redis.call('TIME')
local token = time[1] * 1000000 + time[2]
local last = tonumber(redis.call('GET', KEYS[2]) or '0')
if token <= last then
    token = last + 1
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('SET', KEYS[2], string.format('%.0f', token))
return token
"""
)
"""Take a lease if nobody has it; return its fencing token, or 0."""

PROLONG: Final = Script("""
-- KEYS: lease; ARGV: who, for how long (ms); 0 gives it up
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return 0
end
if ARGV[2] == '0' then
    return redis.call('DEL', KEYS[1])
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
""")
"""Keep a lease for longer, or give it up; return 0 if it was lost."""


@final
class RedisLeases:
    """Leases that are kept in a server, by one process at a time.

    A lease lasts for a fixed time and is prolonged in good time. A holder that cannot prolong it
    gives up on its own before the server lets another one have it; for the case that giving up
    takes long, there is the fencing token.

    :param namespace: of the bridge
    :param seconds: how long a lease lasts without being prolonged
    :param keep: has sessions with the server until one comes to its end
    """

    def __init__(
        self,
        namespace: str,
        seconds: float,
        keep: Callable[[Callable[[Connection], Awaitable[None]]], Coroutine[None, None, None]],
    ) -> None:
        self._namespace = quote(namespace, safe="")
        self._seconds = seconds
        self._keep = keep

    async def while_held(self, name: str, work: Callable[[int], Awaitable[None]]) -> bool:
        """Wait for a lease, and work for as long as it is held.

        :param name: what it is for
        :param work: called with the fencing token; cancelled when the lease is lost
        :return: whether the work came to its end; otherwise the lease was lost
        """
        place = f"{{{self._namespace}:lease:{quote(name, safe='')}}}"
        # Two tasks of this process may have the same name, in two schedulers.
        lease = _Lease(place, uuid4().hex, self._seconds)
        ended = False
        try:
            await self._keep(lease.acquire)
            async with create_task_group() as group:
                group.start_soon(self._keep, lease.prolong)
                with lease.scope:
                    await work(lease.token)
                    ended = True
                group.cancel_scope.cancel()
        except BaseExceptionGroup as errors:
            if len(errors.exceptions) == 1:
                raise errors.exceptions[0] from None
            raise
        finally:
            # Whoever waits for it should not have to wait for it to run out.
            with move_on_after(min(self._seconds, _PATIENCE), shield=True):
                await self._keep(lease.give_up)
        return ended


@final
class _Lease:
    """One lease, while it is wanted or held."""

    def __init__(self, place: str, who: str, seconds: float) -> None:
        self._place = place
        self._who = who
        self._seconds = seconds
        self.token = 0
        #: around the work; its deadline is when the lease runs out, as far as is known here
        self.scope = CancelScope(deadline=inf)

    async def acquire(self, connection: Connection) -> None:
        """Ask for it until it is there."""
        keys = [self._place, f"{self._place}:count"]
        while True:
            asked = current_time()
            self.token = int(await connection.run(ACQUIRE, keys, [self._who, self._milliseconds]))
            if self.token:
                self.scope.deadline = asked + self._seconds
                return
            await sleep(self._seconds / 4)

    async def prolong(self, connection: Connection) -> None:
        """Keep it, until it is lost."""
        while True:
            asked = current_time()
            if not await connection.run(PROLONG, [self._place], [self._who, self._milliseconds]):
                self.scope.cancel()
                return
            self.scope.deadline = asked + self._seconds
            await sleep(self._seconds / 4)

    async def give_up(self, connection: Connection) -> None:
        """Let another one have it, if it was not lost."""
        await connection.run(PROLONG, [self._place], [self._who, 0])

    @property
    def _milliseconds(self) -> int:
        return int(self._seconds * 1000)
