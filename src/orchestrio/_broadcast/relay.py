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
from ._streams.send import channel_of
from .acknowledgements import Acknowledgements
from .backpressure import append_in_turn
from .bus import EventBus
from .channel import FOR_TASKS, Channel
from .cursor import Cursor

__all__ = ["Relay"]

T = TypeVar("T")
U = TypeVar("U")


@final
class Relay(Generic[T, U]):
    """The two ends of a channel that a bridge has taken over, until it is released.

    The outgoing channel has the capacity and the overflow policy of the one it was made for: the
    backpressure of a slow bridge is that of a slow receiver.

    :param bus: the bus
    :param event: the event; it has a channel
    :param admit: called with each message in the sender's own task; returns what to store for the
        bridge, or raises `EventSendError`
    :param keep: whether nothing that was accepted is overwritten or dropped on its way out, but
        senders wait for room, whatever the channel does when it is full
    :raises InvalidChannelError: if the event has no channel
    :raises LifecycleError: if another bridge has taken it over
    """

    __slots__ = ("_acknowledgements", "_front", "outgoing")

    def __init__(
        self, bus: EventBus[Hashable], event: Any, admit: Callable[[T], U], *, keep: bool = False
    ) -> None:
        with bus.clone_sender(event) as sender:
            front = cast("Channel[T]", channel_of(sender))
        if front.relayed_to is not None:
            raise LifecycleError(f"{front} has a bridge already: one is all that it can have")
        check = front.check

        def check_and_admit(message: T) -> U:
            return admit(message if check is None else check(message))

        outbox = Channel[Any](
            ChannelConfig(capacity=front.capacity, overflow="block" if keep else front.overflow),
            event,
            cast("Callable[[Any], Any]", check_and_admit),
            front.home,
            owned=True,
        )
        outbox.senders = 1
        self.outgoing: Cursor[U] = Cursor(outbox)
        self._front = front
        self._acknowledgements: Acknowledgements | None = None
        front.senders += 1  # the bridge is one, so receivers do not end with the last local sender
        front.relayed_to = outbox
        front.set_limits()
        front.wake_everybody()  # those who wait for room do so in the outgoing channel from now on

    def acknowledge(self, acknowledgements: Acknowledgements, *, lossless: bool) -> None:
        """Have event tasks tell when they have handled a message.

        It holds for tasks whose work begins after this.

        :param acknowledgements: who is told
        :param lossless: whether each message is to be acknowledged: `deliver` waits for room from
            now on, whatever the channel does with what is sent when it is full, so that nothing is
            overwritten or dropped, and nobody but event tasks may subscribe
        :raises LifecycleError: if somebody reads the channel who would acknowledge nothing, if it
            is to be `lossless`; then the channel has been released
        """
        front = self._front
        if lossless:
            readers = [*front.readers]
            why = None
            if any(reader.is_guest for reader in readers):
                why = f"somebody has subscribed to {front}, and {FOR_TASKS}"
            elif any(reader.is_at_work for reader in readers):
                why = (
                    f'a bridge with mode="compete" comes too late for {front}: a handler of it works'
                    " already, and would acknowledge nothing. Register the bridge before the"
                    " scheduler starts, or before the tasks that handle what it carries."
                )
            if why is not None:
                self.close()
                raise LifecycleError(why)
        front.acknowledgements = self._acknowledgements = acknowledgements
        front.is_for_tasks = lossless
        self._set_keeps()

    def _set_keeps(self) -> None:
        front = self._front
        front.keeps = front.is_for_tasks or front.overflow != "drop_oldest"
        front.find_oldest()

    def confirm(self, confirmation: Callable[[int], Awaitable[None]]) -> None:
        """Let no ``send()`` return before the message is safe.

        :param confirmation: awaited with the number of the message in the outgoing channel
        """
        self.outgoing.channel.confirmation = confirmation

    def release(self) -> None:
        """Give the channel back: what is sent from now on goes to its receivers, without the bridge.

        Whoever waits for room in the outgoing channel goes on there, too. The bridge may still read
        what it was given before, up to the end of the stream, and hears what becomes of what it has
        delivered. Doing it again does nothing.
        """
        front, outgoing = self._front, self.outgoing.channel
        if not self.is_taken:
            return
        front.relayed_to = None
        front.is_for_tasks = False
        self._set_keeps()
        front.lose_sender()
        outgoing.lose_sender()

    @property
    def is_ending(self) -> bool:
        """Whether the scheduler stops, so that a bridge which has ended does not come back."""
        return self._front.home.is_stopping

    @property
    def published(self) -> int:
        """How many messages were published, to be sent by the bridge."""
        return self.outgoing.channel.tail

    @property
    def is_taken(self) -> bool:
        """Whether the bridge still has the channel."""
        return self._front.relayed_to is self.outgoing.channel

    def close(self) -> int:
        """Release the channel, and let go of what was not read; who waits for it to be safe is told.

        :return: how many messages were accepted, and are lost
        """
        self.release()
        if self._front.acknowledgements is self._acknowledgements:
            self._front.acknowledgements = None
        left = len(self.outgoing)
        self.outgoing.close()
        return left

    @property
    def capacity(self) -> int:
        """How many messages the receivers' channel holds."""
        return self._front.capacity

    async def deliver(self, message: T) -> int | None:
        """Give a message to all receivers; wait for room unless the channel overwrites or drops.

        :param message: the message
        :return: its number in the receivers' channel; `None` if that was full, and drops the newest
        :raises ~anyio.ClosedResourceError: if the channel has been closed
        """
        front = self._front
        drops = front.overflow == "drop_newest" and not front.is_for_tasks
        if front.shut:
            raise ClosedResourceError(
                f"{front} has been closed while a bridge carries it: stop the scheduler instead"
            )
        if (front.blocked or front.is_full()) and not drops:
            await append_in_turn(front, message, lambda: True)
        elif front.is_full():
            front.refuse()
            return None
        else:
            front.append(message)
        return front.tail - 1
