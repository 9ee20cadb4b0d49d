"""A connection that ends while it begins says nothing in the name of the client library."""

from __future__ import annotations

from typing import final

import pytest
from anyio import EndOfStream, Event, create_task_group, sleep_forever, wait_all_tasks_blocked
from anyio.abc import ByteStream
from anyio.lowlevel import checkpoint
from typing_extensions import override

from orchestrio.redis._server.links import Link

GREETING = b"%3\r\n$7\r\nversion\r\n$5\r\n7.0.0\r\n$5\r\nproto\r\n:3\r\n$2\r\nid\r\n:1\r\n"


@final
class Greeted(ByteStream):
    """A server that greets when it is told to, and then hangs up, or is silent."""

    def __init__(self, *, hangs_up: bool) -> None:
        self.greet = Event()
        self._greeted = False
        self._hangs_up = hangs_up

    @override
    async def receive(self, max_bytes: int = 65536) -> bytes:
        if not self._greeted:
            await self.greet.wait()
            self._greeted = True
            return GREETING
        if self._hangs_up:
            raise EndOfStream
        await sleep_forever()
        raise AssertionError

    @override
    async def send(self, item: bytes) -> None:
        await checkpoint()

    @override
    async def send_eof(self) -> None:
        await checkpoint()

    @override
    async def aclose(self) -> None:
        await checkpoint()


@pytest.mark.parametrize("hangs_up", [False, True])
async def test_a_connection_may_end_as_its_greeting_arrives(hangs_up: bool) -> None:
    # Many, each in a turn of its own: trio throws a coin for the order of a turn.
    servers = [Greeted(hangs_up=hangs_up) for _ in range(30)]
    links = [Link("here", server) for server in servers]
    async with create_task_group() as group:
        for link in links:
            group.start_soon(link.run)
        await wait_all_tasks_blocked()
        for server, link in zip(servers, links, strict=True):
            server.greet.set()
            if not hangs_up:
                link.close()
            await checkpoint()
    assert not any(link.usable for link in links)
