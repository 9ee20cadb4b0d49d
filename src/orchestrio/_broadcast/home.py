"""`Home`: the event loop to which channels belong, as other threads and finalizers reach it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from threading import get_ident
from typing import Final, TypeVar, final

from anyio import NoEventLoopError, RunFinishedError, from_thread
from anyio.lowlevel import EventLoopToken, current_token

from .._model._loops.ended import has_ended, nothing
from .._model.errors import LifecycleError

__all__ = ["Home"]

T = TypeVar("T")

_SEND: Final = (
    "threads send with send_from_thread() of a sender, from clone_sender(); have the event loop do the"
    " rest, by anyio.from_thread.run_sync(..., token=...) or loop.call_soon_threadsafe()"
)

_LOOK: Final = 0.2
"""How often a thread that waits looks whether anybody is left to wait for, in seconds."""


@final
class Home:
    """The event loop in which something is used; the channels of a bus share one.

    It is the first one, until that ends. One in another thread that comes by meanwhile does not
    take it over, or what threads send would be handled there.
    """

    __slots__ = ("_is_settled", "_loop", "is_stopping", "thread")

    def __init__(self) -> None:
        self._loop: tuple[EventLoopToken, int] | None = None
        #: the thread of the event loop; for whoever cannot afford a call to compare it
        self.thread: int | None = None
        self._is_settled = False
        #: whether the scheduler stops that it is the home of
        self.is_stopping: bool = False
        self.note()

    def note(self) -> None:
        """Remember the event loop that runs here, if one does and no other goes on."""
        try:
            here = (current_token(), get_ident())
        except RuntimeError:  # also that of asyncio or trio, where a context says that one ran
            return
        if self._loop is None or (
            self._loop != here
            # Of two in one thread the other one stands still, and may never have been closed.
            and ((self._loop[1] == here[1] and not self._is_settled) or has_ended(self._loop[0]))
        ):
            self._loop = here
            self.thread = here[1]
            self._is_settled = False

    def settle(self) -> None:
        """Remember the event loop that runs here in any case, until it ends."""
        self._loop = (current_token(), get_ident())
        self.thread = self._loop[1]
        self._is_settled = True

    @property
    def token(self) -> EventLoopToken | None:
        """The event loop; `None` if it was never used in one."""
        return None if self._loop is None else self._loop[0]

    @property
    def is_here(self) -> bool:
        """Whether this is the thread of the event loop."""
        return self._loop is not None and self._loop[1] == get_ident()

    @property
    def is_elsewhere(self) -> bool:
        """Whether this is not the thread of the event loop, and there is one."""
        return self._loop is not None and self._loop[1] != get_ident()

    def require_thread(self, what: object, cure: str = _SEND) -> None:
        """See that this is the thread of the event loop, if there is one that goes on.

        What another thread stores wakes nobody there, and in debug mode only half of it is done.

        :param what: what belongs there, for the message
        :param cure: what to do instead
        :raises LifecycleError: if it is another thread
        """
        self.note()
        if self._loop is not None and self.is_elsewhere and not has_ended(self._loop[0]):
            raise LifecycleError(
                f"{what} belongs to the event loop of another thread, and nothing was done: {cure}"
            )

    def hand_over(self, function: Callable[[], object]) -> None:
        """Have the event loop call a function soon; wait for nothing, in whatever thread.

        :raises ~anyio.RunFinishedError: if it has ended
        """
        if self._loop is not None:
            token = self._loop[0]
            token.backend_class.run_sync_soon(function, (), token.native_token)

    def wait_for(self, result: Future[T], look: Callable[[], object]) -> T:
        """Wait, in another thread, for what the event loop is to do.

        AnyIO's `from_thread` waits for ever if an event loop of asyncio ends before it comes to it.

        :param result: set in the event loop
        :param look: called now and then
        :raises ~anyio.RunFinishedError: if it has ended, and never will
        """
        while True:
            with suppress(TimeoutError):
                return result.result(_LOOK)
            if result.done():  # just now, or with a time-out of its own
                return result.result()
            look()
            try:
                self.hand_over(nothing)
            except RunFinishedError:
                if not result.done():
                    raise


def see_whether_cancelled() -> None:
    """Raise a cancellation in a thread that AnyIO runs for a task, if that was cancelled."""
    with suppress(NoEventLoopError):
        from_thread.check_cancelled()
