"""Broadcast memory object streams (fan-out): each clone of a receive stream gets every item.

AnyIO's own memory object streams are queues: clones of a receive stream *compete*, and each item
reaches one of them. Here all senders write to one bounded log, and each receiver reads it at a
cursor of its own:

    send, send, send ──▶ [ 5 | 6 | 7 | 8 | 9 ]
                               ▲           ▲
                     slow receiver      fast receiver, waiting for the next

A receiver that falls more than `capacity` items behind is told exactly how many it missed
(`LaggedError`) and goes on at the oldest item still held, unless the channel was asked to block
(backpressure), to refuse, or to fail instead (`overflow`).

Every ``await`` here is a checkpoint on a budget: an operation that need not wait lets other tasks
run after at most 256 items, and no more than half of the capacity. All operations are atomic under
cancellation: an item was sent or it was not, was returned or is still to be read.
"""

from __future__ import annotations

from typing import final

from typing_extensions import TypeVar

from ..._model.settings import ChannelConfig, Overflow
from ..channel import Channel
from ..home import Home
from .receive import BroadcastReceiveStream
from .send import BroadcastSendStream

__all__ = ["create_broadcast_stream"]

T = TypeVar("T")


@final
class create_broadcast_stream(tuple[BroadcastSendStream[T], BroadcastReceiveStream[T]]):
    """Create a broadcast channel; return its first sender and its first receiver.

    Say what it carries in brackets: ``create_broadcast_stream[Order](capacity=64)``.

    Example::

        import anyio

        from orchestrio import create_broadcast_stream

        async def main() -> None:
            send, first = create_broadcast_stream[int](capacity=16)
            with send, first, first.clone() as second:
                await send.send(7)
                print(await first.receive(), await second.receive())  # 7 7

        anyio.run(main)

    :param capacity: how many items the channel holds: exact, at least 1
    :param overflow: what happens to one item more: ``"drop_oldest"`` (a slow receiver lags and is
        told), ``"block"`` (senders wait), ``"drop_newest"`` (counted) or ``"error"``
    :param replay: how many of the last items a new subscriber gets first, at most `capacity`
    :param require_receivers: whether sending to nobody is an `EventSendError`
    :return: a tuple ``(send stream, receive stream)``
    :raises ~pydantic.ValidationError: if an option is not valid; it names the field
    """

    __slots__ = ()

    def __new__(  # type: ignore[misc]  # returns the plain tuple that it describes
        cls,
        capacity: int = 1024,
        *,
        overflow: Overflow = "drop_oldest",
        replay: int = 0,
        require_receivers: bool = False,
    ) -> tuple[BroadcastSendStream[T], BroadcastReceiveStream[T]]:
        config = ChannelConfig(
            capacity=capacity,
            overflow=overflow,
            replay=replay,
            require_receivers=require_receivers,
        )
        send = BroadcastSendStream[T](Channel(config, None, None, Home()))
        return send, send.subscribe()
