"""`Relay`: how a bridge takes over a channel, so that neither senders nor receivers notice.

Taken over, a channel of a bus is two: what is sent goes to an outgoing one, which only the bridge
reads; what the receivers get is what the bridge delivers to them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Generic, TypeVar, cast, final

from anyio import ClosedResourceError

from .._model.errors import LifecycleError
from .._model.settings import ChannelConfig
from .acknowledgements import Acknowledgements
from .backpressure import append_in_turn
from .bus import EventBus
from .channel import Channel
from .cursor import Cursor
from .streams import channel_of

__all__ = ["Relay"]

T = TypeVar("T")
U = TypeVar("U")


@final
class Relay(Generic[T, U]):
    """The two ends of a channel that a bridge has taken over, for as long as the bus lives.

    The outgoing channel has the capacity and the overflow policy of the one it was made for: the
    backpressure of a slow bridge is that of a slow receiver.

    :param bus: the bus
    :param event: the event; it has a channel
    :param admit: called with each message in the sender's own task; returns what to store for the
        bridge, or raises `EventSendError`
    :raises InvalidChannelError: if the event has no channel
    :raises LifecycleError: if another bridge has taken it over
    """

    __slots__ = ("_front", "_lossless", "outgoing")

    def __init__(self, bus: EventBus[Hashable], event: Any, admit: Callable[[T], U]) -> None:
        with bus.clone_sender(event) as sender:
            front = cast("Channel[T]", channel_of(sender))
        if front.relayed_to is not None:
            raise LifecycleError(f"{front} has a bridge already: one is all that it can have")
        check = front.check

        def check_and_admit(message: T) -> U:
            return admit(message if check is None else check(message))

        outbox = Channel[Any](
            ChannelConfig(capacity=front.capacity, overflow=front.overflow),
            event,
            cast("Callable[[Any], Any]", check_and_admit),
            front.home,
            owned=True,
        )
        outbox.senders = 1
        self.outgoing: Cursor[U] = Cursor(outbox)
        self._front = front
        self._lossless = False
        front.senders += 1  # the bridge is one, so receivers do not end with the last local sender
        front.relayed_to = outbox
        front.set_limits()
        front.wake_everybody()  # those who wait for room do so in the outgoing channel from now on

    def acknowledge(self, acknowledgements: Acknowledgements, *, lossless: bool) -> None:
        """Have event tasks tell when they have handled a message.

        It holds for tasks whose work begins after this.

        :param acknowledgements: who is told
        :param lossless: whether `deliver` waits for room from now on, whatever the channel does
            with what is sent when it is full, so that nothing is overwritten or dropped
        """
        front = self._front
        front.acknowledgements = acknowledgements
        self._lossless = lossless
        if lossless:
            front.keeps = True
            front.find_oldest()

    def confirm(self, confirmation: Callable[[int], Awaitable[None]]) -> None:
        """Let no ``send()`` return before the message is safe.

        :param confirmation: awaited with the number of the message in the outgoing channel
        """
        self.outgoing.channel.confirmation = confirmation

    @property
    def capacity(self) -> int:
        """How many messages the receivers' channel holds."""
        return self._front.capacity

    async def deliver(self, message: T) -> int:
        """Give a message to all receivers; wait for room unless the channel overwrites or drops.

        :param message: the message
        :return: its number in the receivers' channel
        :raises ~anyio.ClosedResourceError: if the channel has been closed
        """
        front = self._front
        drops = front.overflow == "drop_newest" and not self._lossless
        if front.shut:
            raise ClosedResourceError
        if (front.blocked or front.is_full()) and not drops:
            await append_in_turn(front, message, lambda: True)
        elif front.is_full():
            front.refuse()
        else:
            front.append(message)
        return front.tail - 1
