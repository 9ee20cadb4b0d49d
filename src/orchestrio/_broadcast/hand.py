"""`Hand`: what a handler has in hand, for whoever asks while it runs."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final, final

from .channel import Channel

__all__ = ["Hand", "begin_attempt", "current_hand"]


# To note each message here would cost every handler something, for the few that ask.
@final
class Hand:
    """Says which item of a channel is being handled, one at a time.

    :param channel: where the items come from
    :param number: returns the number of the one that is being handled; `None` if none is
    """

    __slots__ = ("_attempt", "_attempted", "channel", "number")

    def __init__(self, channel: Channel[Any], number: Callable[[], int | None]) -> None:
        self.channel: Channel[Any] = channel
        self.number: Callable[[], int | None] = number
        self._attempt = 1
        self._attempted: int | None = None  # which item is being handled again

    @property
    def attempt(self) -> int:
        """How often the handler was called with the item, this time included."""
        return self._attempt if self._attempted == self.number() else 1

    def begin_attempt(self, attempt: int) -> None:
        """Note that the handler is called with the same item again.

        :param attempt: 2 for the second time
        """
        self._attempt = attempt
        self._attempted = self.number()


current_hand: Final[ContextVar[Hand | None]] = ContextVar("orchestrio_current_hand", default=None)


def begin_attempt(attempt: int) -> None:
    """Note that a handler is called with the item in hand again; see `Hand.begin_attempt`."""
    hand = current_hand.get()
    if hand is not None:
        hand.begin_attempt(attempt)
