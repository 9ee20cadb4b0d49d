"""`Bridge`: a background task through which channels go on in other processes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

from .._broadcast.bus import EventBus
from .._broadcast.relay import Relay
from .._model.errors import LifecycleError
from .context import Services, current_run
from .task import BackgroundTask

__all__ = ["Bridge"]


class Bridge(BackgroundTask):
    """A background task that takes over channels: it sends what is published, and brings in.

    A stop of all treats it as what serves the others. It is asked first to bring in nothing more of
    others, then for what was published here before, and works on until the event tasks have handled
    what is there: what they publish meanwhile goes out, and what they have in hand stays theirs.
    """

    #: the bus that it works on; it works on no other
    _bus: EventBus[Any] | None = None

    def _settle(self, relays: Iterable[Relay[Any, Any]]) -> Services:
        """See that it works where it has before, at the begin of a run.

        :param relays: what it took over in earlier runs
        :return: the services of its scheduler
        :raises LifecycleError: if it is not run by a scheduler, by another one than before, or has
            been removed
        """
        run = current_run.get()
        if run is None:
            raise LifecycleError("a bridge is a task: register it with a scheduler")
        bus = run.services.bus
        if self._bus not in (None, bus) or not all(relay.is_taken for relay in relays):
            raise LifecycleError(
                "a bridge that was removed, or has worked in another scheduler, cannot be used"
                f" again: make a new {type(self).__name__}"
            )
        self._bus = bus
        return run.services

    @abstractmethod
    def receive_no_more(self) -> None:
        """Bring in no work of others any more in this run; it may be called twice."""

    @abstractmethod
    async def catch_up(self) -> None:
        """Bring in what was published here, if it comes in here at all, and then nothing more.

        It is cancelled if that takes long.
        """

    @abstractmethod
    def let_go(self) -> None:
        """Give the channels back: it is being removed, and comes back no more.

        What it was given before it may still send, until `close` is called.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of what could not be sent: it has been removed."""

    def say_last(self) -> None:
        """Say what was published when it had ended, now that the scheduler has."""

    @property
    def cut_off(self) -> str | None:
        """What it waits for, if that has lasted for so long that its task is not ready any more."""
        return None
