"""`Recorder`: a subscriber that keeps what it gets, for tests to look at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar, final

from anyio import ClosedResourceError, EndOfStream, WouldBlock

from orchestrio import BroadcastReceiveStream, LaggedError

from .._model._loops.wakeup import Wakeup

T = TypeVar("T")


@final
class Recorder(Generic[T]):
    """Keeps each message of one event, as long as its harness is open; see `Harness.record`."""

    def __init__(self, stream: BroadcastReceiveStream[T], changed: Callable[[], None]) -> None:
        self._stream = stream
        self._changed = changed
        self._more: Wakeup = Wakeup()
        self._messages: list[T] = []
        self._ended = False

    @property
    def messages(self) -> list[T]:
        """What was published since it began, in order."""
        self.read()
        return list(self._messages)

    @property
    def missed(self) -> int:
        """How many messages were overwritten before it could read them."""
        self.read()
        return self._stream.statistics().missed

    async def wait_for(self, count: int) -> list[T]:
        """Wait until it has got so many messages.

        :param count: how many, from its begin on
        :return: all that it has got
        :raises EndOfStream: if the event ends before
        """
        while len(self.messages) < count:
            if self._ended:
                raise EndOfStream
            await self._more.wait()
        return self.messages

    def read(self) -> None:
        """Take over what has come in."""
        while not self._ended:
            try:
                self._messages += self._stream.receive_many_nowait(256)
            except LaggedError:
                continue  # counted by the stream
            except WouldBlock:
                return
            except (EndOfStream, ClosedResourceError):
                self._end()

    async def run(self) -> None:
        """Read whatever comes, so that nothing is overwritten, until the event ends."""
        with self._stream:
            while not self._ended:
                try:
                    self._messages += await self._stream.receive_many(256)
                except LaggedError:
                    continue
                except (EndOfStream, ClosedResourceError):
                    self._end()
                self._tell()
            self._end()

    def close(self) -> None:
        """Read the rest, and give up its place in the channel."""
        self.read()
        self._stream.close()
        self._end()

    def _end(self) -> None:
        self._ended = True
        self._tell()

    def _tell(self) -> None:
        self._more.notify_all()
        self._changed()
