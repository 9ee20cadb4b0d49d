"""Backpressure: how those who send into a full channel wait for room, each in its turn.

When there is room, the first of them alone is woken, and lets the next one look when it is done,
whether it has sent or was cancelled. There is no other place that waits for room.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from anyio import ClosedResourceError

from .._model.wakeup import Wakeup
from .channel import Channel

__all__ = ["append_in_turn"]

T = TypeVar("T")


async def append_in_turn(channel: Channel[T], item: T, is_wanted: Callable[[], bool]) -> bool:
    """Store an item as soon as there is room, behind those that came first.

    If this is cancelled, the item was not stored.

    :param channel: the channel, full, or with others that wait for room in it
    :param item: the item
    :param is_wanted: asked whenever this is woken: whether to wait on; it may also raise
    :return: whether the item was stored; otherwise it was not wanted any more
    :raises ~anyio.ClosedResourceError: if the channel is closed meanwhile
    """
    waiter = Wakeup()
    channel.blocked.append(waiter)
    try:
        while True:
            await waiter.wait()
            if channel.shut:
                raise ClosedResourceError
            if not is_wanted():
                return False
            if channel.blocked[0] is waiter and not channel.is_full():
                channel.append(item)
                return True
            # Woken for nothing: another stream was closed, or a replay took the room.
    finally:
        channel.blocked.remove(waiter)
        channel.wake_sender()
