"""Backpressure: how those who send into a full channel wait for room, each in its turn.

When there is room, the first of them alone is woken, and lets the next one look when it is done,
whether it has sent or was cancelled. There is no other place that waits for room.

Those above may want to know who waits, since two that wait for each other do so for ever: a
`Sender`, found by the context variable, is noted in its `Waits` for as long as it waits.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from math import inf
from threading import get_ident
from typing import Any, Final, Protocol, TypeVar, final

from anyio import ClosedResourceError, current_effective_deadline
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from .._model._loops.wakeup import Wakeup
from .channel import Channel, Waiter

__all__ = ["Sender", "Waits", "append_in_turn", "current_sender"]

T = TypeVar("T")


class Sender(Protocol):
    """Who sends, to those above; all that is sent in its context is sent by it."""

    @property
    def waits(self) -> Waits:
        """Where it is noted."""
        ...


@final
class Waits:
    """Which senders wait for room, and in which channels."""

    __slots__ = ("changed", "deadlocked", "is_new", "of", "thread", "until")

    def __init__(self) -> None:
        #: by sender: what it waits with, and the channel; only those that wait are in here
        self.of: dict[Sender, dict[Waiter, Channel[Any]]] = {}
        #: when they end by a time-out, on the event loop's clock; those that do not are not in here
        self.until: dict[Waiter, float] = {}
        #: whether any has begun or ended since somebody last looked, and set this to `False`
        self.is_new: bool = False
        #: notified when that becomes so
        self.changed: Wakeup = Wakeup()
        #: those that whoever looks has found to wait for each other, or for themselves
        self.deadlocked: dict[Sender, None] = {}
        #: the thread of whoever looks. An event loop in another one may have been started in the
        #: context of a sender, and its waits are none of this
        self.thread: int | None = None

    def begin(
        self, sender: Sender, waiter: Waiter, channel: Channel[Any], deadline: float = inf
    ) -> bool:
        """Note that a sender waits for room in a channel, until a deadline at most.

        :return: whether somebody looks there
        """
        if self.thread != get_ident():
            return False
        self.of.setdefault(sender, {})[waiter] = channel
        if deadline < inf:
            self.until[waiter] = deadline
        channel.wait_ended = self.look_again
        self._note()
        return True

    def end(self, sender: Sender, waiter: Waiter) -> None:
        """Note that it does so no more."""
        waiters = self.of[sender]
        del waiters[waiter]
        self.until.pop(waiter, None)
        if not waiters:
            del self.of[sender]
        self.look_again()

    def look_again(self) -> None:
        """Note that those who wait may wait for others now, since one does so no more."""
        if (self.of or self.deadlocked) and self.thread == get_ident():
            self._note()

    def channels_of(self, sender: Sender) -> list[Channel[Any]]:
        """Return the channels in which a sender waits for room."""
        return list(self.of.get(sender, {}).values())

    def _note(self) -> None:
        if not self.is_new:
            self.is_new = True
            self.changed.notify_all()


current_sender: Final[ContextVar[Sender | None]] = ContextVar(
    "orchestrio_current_sender", default=None
)


async def append_in_turn(channel: Channel[T], item: T, is_wanted: Callable[[], bool]) -> bool:
    """Store an item as soon as there is room, behind those that came first.

    If this is cancelled, the item was not stored.

    :param channel: the channel, full, or with others that wait for room in it
    :param item: the item
    :param is_wanted: asked whenever this is woken: whether to wait on; it may also raise
    :return: whether the item was stored; otherwise it was not wanted any more
    :raises ~anyio.ClosedResourceError: if the channel is closed meanwhile
    """
    await checkpoint_if_cancelled()  # asyncio would not say so if there is room at once
    channel.arrive()
    waiter = Wakeup()
    sender = current_sender.get()
    if sender is not None:
        deadline = current_effective_deadline()
        if not sender.waits.begin(sender, waiter, channel, deadline):
            sender = None
    channel.wait_in_turn(waiter)
    try:
        while True:
            if channel.blocked[0] is waiter and not channel.is_full():
                await checkpoint()  # what was in its way was garbage
            else:
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
        channel.wait_no_more(waiter)
        if sender is not None:
            sender.waits.end(sender, waiter)
        elif channel.wait_ended is not None:
            channel.wait_ended()
