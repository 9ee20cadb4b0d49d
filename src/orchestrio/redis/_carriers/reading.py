"""How the entries of several topics come in over one connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from anyio import move_on_after

from ..._model._loops.wakeup import Wakeup
from .._server.connection import BLOCK, Connection
from .broadcast import Broadcast
from .carrier import COUNT, Carrier
from .compete import Compete

__all__ = ["read_broadcasts", "read_group"]

#: How soon, in seconds, to ask again for topics that have nothing, while another has no room, and
#: then ever later: a request that waits in the server cannot be added to when there is room.
_SOON: Final = 0.02


async def read_broadcasts(
    connection: Connection, carriers: Sequence[Broadcast[Any]], changed: Wakeup
) -> None:
    """Take in what comes after the positions of some topics, for ever.

    :param connection: what to read over
    :param carriers: the topics
    :param changed: notified when one has room again
    """
    soon = _SOON
    while True:
        wanted = {carrier.keys.stream: carrier for carrier in carriers if carrier.room}
        if not wanted:
            await changed.wait()
            continue
        waits = len(wanted) == len(carriers)
        positions = {stream: carrier.position for stream, carrier in wanted.items()}
        found = await connection.read(positions, COUNT, BLOCK if waits else 0)
        for stream, entries in found:
            wanted[stream].take_in(entries)
        soon = _SOON if found or waits else await _look_again(carriers, changed, soon)


async def read_group(
    connection: Connection,
    carriers: Sequence[Compete[Any]],
    group: str,
    consumer: str,
    changed: Wakeup,
) -> None:
    """Take in what is this consumer's to handle, for as much as there is room, for ever.

    What is due again comes first. It leaves half of the room to what is new, if there is any.

    :param connection: what to read over
    :param carriers: the topics
    :param group: the group
    :param consumer: who reads
    :param changed: notified when a topic has room again, or may be read at all
    """
    for carrier in carriers:
        await carrier.renew(connection)  # before it reads, so that nobody takes himself for alone
        carrier.begin_to_recover()
    patience = min(BLOCK, *(carrier.beat for carrier in carriers))
    busy = False
    soon = _SOON
    while True:
        for carrier in carriers:
            await carrier.recover(connection)
            room = carrier.room
            await carrier.claim(connection, most=(room + 1) // 2 if busy else room)
        wanted = {carrier.keys.stream: carrier for carrier in carriers if carrier.wants}
        if not wanted:
            await changed.wait()
            continue
        waits = not any(carrier.is_full for carrier in carriers)
        hurries = any(carrier.has_more for carrier in wanted.values())
        found = await connection.read_group(
            group,
            consumer,
            list(wanted),
            min(COUNT, *(carrier.room for carrier in wanted.values())),
            patience if waits and not hurries else 0,
        )
        busy = bool(found)
        for stream, entries in found:
            wanted[stream].take_in(entries)
        quick = busy or waits or hurries
        soon = _SOON if quick else await _look_again(carriers, changed, soon)


async def _look_again(carriers: Sequence[Carrier[Any]], changed: Wakeup, delay: float) -> float:
    """Wait until a topic has room that had none, or for a moment, for one that had nothing.

    :param carriers: the topics
    :param changed: notified when one has room
    :param delay: how long to wait, in seconds
    :return: how long to wait the next time, if nothing is there then
    """
    if any(carrier.is_full for carrier in carriers):  # it may have got room while it was read
        with move_on_after(delay):
            await changed.wait()
    return min(2 * delay, BLOCK)
