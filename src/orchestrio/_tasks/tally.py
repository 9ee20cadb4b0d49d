"""`Tally`: tells what happens often in a few lines of the log, and the rest as a number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, final

__all__ = ["AT_ONCE", "Tally"]

#: How many failures of each window are in the log by themselves: messages or ticks that were
#: skipped, or are tried again. So many tracebacks of restarts end at one line.
AT_ONCE: Final = 5

#: How long a window is, in seconds: the first one, and the longest.
_FIRST: Final = 10.0
_LONGEST: Final = 600.0


@final
class Tally:
    """Decides which of many alike are told by themselves: the first few in a window of ten seconds.

    The others are counted, and told together when the next one comes after that, and when there
    will be no more: no timer is needed. While it goes on, each window is twice as long as the one
    before, up to ten minutes.

    Which of them are the same error, and need no traceback again, is known to `Repeats`.
    """

    __slots__ = (
        "_amount",
        "_at_once",
        "_left",
        "_tell",
        "_times",
        "_until",
        "_window",
    )

    def __init__(self, at_once: int, tell: Callable[[int, int], None]) -> None:
        """Make a tally.

        :param at_once: how many in each window are told by themselves
        :param tell: called with how often it happened beside these, and what that adds up to
        """
        self._at_once = at_once
        self._tell = tell
        self._left = 0  # how many may still be told by themselves
        self._window = _FIRST
        self._until = 0.0  # when the window is over, in seconds on the event loop's clock
        self._times = self._amount = 0  # what has not been told

    def note(self, now: float, amount: int = 1) -> bool:
        """Count one more; return whether it is to be told by itself.

        :param now: the present, in seconds on the event loop's clock
        :param amount: how much it is
        """
        if now >= self._until:
            self._window = min(2 * self._window, _LONGEST) if self._times else _FIRST
            self.settle()
            self._until = now + self._window
            self._left = self._at_once
        if self._left:
            self._left -= 1
            return True
        self._times += 1
        self._amount += amount
        return False

    def settle(self) -> None:
        """Tell what was only counted so far."""
        times, amount = self._times, self._amount
        self._times = self._amount = 0
        if times:
            self._tell(times, amount)
