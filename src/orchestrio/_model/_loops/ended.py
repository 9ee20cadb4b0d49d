"""Whether an event loop, of whatever thread, has ended."""

from __future__ import annotations

from anyio import RunFinishedError
from anyio.lowlevel import EventLoopToken

__all__ = ["has_ended", "nothing"]


def has_ended(loop: EventLoopToken) -> bool:
    """Return whether an event loop will never run anything any more.

    It may be called in any thread, and in a signal handler. One that goes on turns once for it.

    :param loop: the event loop
    """
    try:
        loop.backend_class.run_sync_soon(nothing, (), loop.native_token)
    except RunFinishedError:
        return True
    return False


def nothing() -> None:
    """Do nothing, for a turn of an event loop."""
