"""`Message`: what a handler may know of the message it handles, beside its payload."""

from dataclasses import dataclass
from datetime import datetime
from typing import final

from .._broadcast.hand import current_hand

__all__ = ["Message", "message_in_hand"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What is known of the message that a handler has in hand; its payload the handler has."""

    topic: object
    """The event it was published on: the topic, or the plain key."""
    number: int
    """Which message of its channel it is: 1 for the first since the channel was added to the bus.

    Through a bridge it counts what came in here: in another process it is another one.
    """
    attempt: int
    """Which time it is handled: 1 for the first, 2 for the first of ``retries``.

    With a bridge whose processes compete, each time that handling began before counts as one.
    """
    id: str | None = None
    """Unique among the messages of all processes; `None` if no bridge brought it."""
    published_at: datetime | None = None
    """When it was published, in UTC; `None` if no bridge brought it."""
    origin: str | None = None
    """Which bridge published it; `None` if none did."""
    traceparent: str | None = None
    """The trace it belongs to, as a ``traceparent`` of W3C Trace Context; `None` if to none."""


def message_in_hand() -> Message | None:
    """Return what is known of the message that is being handled here; `None` if none is."""
    hand = current_hand.get()
    number = None if hand is None else hand.number()
    if hand is None or number is None:
        return None
    channel = hand.channel
    acknowledgements = channel.acknowledgements
    about = None if acknowledgements is None else acknowledgements.about(number)
    if about is None:
        return Message(topic=channel.event, number=number + 1, attempt=hand.attempt)
    return Message(
        topic=channel.event,
        number=number + 1,
        attempt=about.deliveries + hand.attempt,
        id=about.id,
        published_at=about.published_at,
        origin=about.origin,
        traceparent=about.traceparent,
    )
