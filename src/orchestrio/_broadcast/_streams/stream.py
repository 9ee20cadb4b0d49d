"""`BroadcastStream`: what both ends of a channel have in common."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn, Self, SupportsIndex
from warnings import warn

from anyio.lowlevel import checkpoint_if_cancelled
from typing_extensions import override

from ..channel import Channel

__all__ = ["BroadcastStream"]


class BroadcastStream(ABC):
    """What both streams do: close once, also as garbage, and warn then; work in ``with``."""

    __slots__ = ()

    _channel: Channel[Any]
    _closed: bool

    _has_owner = False
    """Whether somebody else closes it in the end."""

    @property
    @abstractmethod
    def _finalizer(self) -> Callable[[], None] | None:
        """What closes it when it is garbage; see `Channel.forget`."""

    @abstractmethod
    def close(self) -> None:
        """Close this stream; doing it again does nothing."""

    async def aclose(self) -> None:
        """Close this stream, as `close` does; a checkpoint for cancellation only."""
        self.close()
        await checkpoint_if_cancelled()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.close()

    @override
    def __reduce_ex__(self, protocol: SupportsIndex, /) -> NoReturn:
        # A copy would have a channel of its own, or close that of this one when it is garbage.
        raise TypeError(f"{self!r} cannot be copied or pickled: clone() makes another one")

    def __del__(self) -> None:
        if getattr(self, "_closed", True):  # or it was called without a channel, and never made
            return
        channel = self._channel
        if not sys.is_finalizing():
            channel.forget(self._finalizer, wake=not self._has_owner)
        if not (channel.shut or self._has_owner):
            warn(
                f"unclosed {self!r}: call close() or use it in a 'with' block",
                ResourceWarning,
                stacklevel=1,
                source=self,
            )

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<{type(self).__name__} of {self._channel}, {state}>"
