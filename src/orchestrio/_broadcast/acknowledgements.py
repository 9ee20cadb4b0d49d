"""`Acknowledgements`: who has handled which message of a channel, for a bridge that must know."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container
from dataclasses import dataclass
from datetime import datetime
from typing import final

__all__ = ["Acknowledgements", "MessageInfo", "Reader"]


@final
@dataclass(frozen=True, slots=True)
class MessageInfo:
    """What a bridge knows of a message beside its payload."""

    id: str
    """Unique among all messages."""
    published_at: datetime
    """When it was published, in UTC."""
    origin: str
    """Which bridge published it."""
    traceparent: str | None
    """The trace it belongs to."""
    deliveries: int
    """How often its handling began before this time, here or in another process."""


def _nothing(_: int) -> MessageInfo | None:
    """Know nothing of any message."""


@final
class Reader:
    """One event task that is to handle every message of a channel."""

    __slots__ = ()


@final
class Acknowledgements:
    """Tells when every event task that was to handle a message has done so, or has not.

    Items are known by their numbers in the channel. All this happens in one event loop.

    :param begun: called with the number of a message, in the task that is about to handle it; that
        awaits what it returns, if anything, before the handler begins
    :param settled: called with the number of an expected message and what went wrong, `None` if
        nothing did
    :param changed: called when readers come or go
    :param about: returns what is known of a message, while it is handled, in the task that does it
        or one that this has started; called only if somebody asks
    """

    __slots__ = ("_changed", "_errors", "_settled", "_waiting", "about", "begun", "readers")

    def __init__(
        self,
        begun: Callable[[int], Awaitable[None] | None],
        settled: Callable[[int, BaseException | None], None],
        changed: Callable[[], None],
        *,
        about: Callable[[int], MessageInfo | None] = _nothing,
    ) -> None:
        self.begun: Callable[[int], Awaitable[None] | None] = begun
        self.about: Callable[[int], MessageInfo | None] = about
        self.readers: set[Reader] = set()
        self._settled = settled
        self._changed = changed
        self._waiting: dict[int, set[Reader]] = {}
        self._errors: dict[int, BaseException] = {}

    def join(self) -> Reader:
        """Count one more reader: what is expected from now on waits for it."""
        reader = Reader()
        self.readers.add(reader)
        self._changed()
        return reader

    def leave(self, reader: Reader, in_hand: Container[int] = ()) -> None:
        """Count one reader less: what it had still to handle, it will not.

        :param reader: who; it may leave twice
        :param in_hand: the messages that it has in hand; these it has still to settle
        """
        self.readers.discard(reader)
        left = [number for number, who in self._waiting.items() if reader in who]
        for number in left:
            if number not in in_hand:
                self.settle(reader, number, LookupError("its event task has ended"))
        self._changed()

    def expect(self, number: int) -> None:
        """Wait for all present readers to settle a message."""
        self._waiting[number] = set(self.readers)
        if not self.readers:
            self._end(number, LookupError("no event task is there to handle it"))

    def settle(self, reader: Reader, number: int, error: BaseException | None) -> None:
        """Note that a reader has done what it will with a message.

        :param reader: who
        :param number: the message; nothing happens for one that was not expected
        :param error: why it was not handled; `None` if it was
        """
        waiting = self._waiting.get(number)
        if waiting is None or reader not in waiting:
            return
        waiting.discard(reader)
        if error is not None:
            self._errors.setdefault(number, error)
        if not waiting:
            self._end(number, self._errors.pop(number, None))

    def _end(self, number: int, error: BaseException | None) -> None:
        del self._waiting[number]
        self._settled(number, error)
