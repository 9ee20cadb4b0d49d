"""`Host`: what a run asks of the worker that it is a run of, and what it tells it."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from .._model._loops.wakeup import Wakeup
from .._model.snapshots import TaskKind
from .._tasks.registry import RegisteredTask
from .wanted import Wanted

__all__ = ["Host", "Startup"]


class Startup(Protocol):
    """The start of all tasks, to which a run may belong."""

    @property
    def is_on(self) -> bool:
        """Whether nobody works yet, since not all are initialised."""
        ...

    @property
    def over(self) -> Wakeup:
        """Notified when they may."""
        ...


class Host(Protocol):
    """What a run asks of the worker that it is a run of."""

    @property
    def entry(self) -> RegisteredTask:
        """The task, and what it was registered with."""
        ...

    @property
    def title(self) -> str:
        """What messages call it."""
        ...

    @property
    def kind(self) -> TaskKind:
        """Whether it runs in the background or handles events."""
        ...

    @property
    def wanted(self) -> Wanted:
        """What is wanted of the task."""
        ...

    @property
    def rank(self) -> int:
        """Its place in the order of start."""
        ...

    @property
    def doing(self) -> str:
        """Which hook does the work, for messages."""
        ...

    @property
    def changed(self) -> Wakeup:
        """Where those wait who want to know how it stands."""
        ...

    def work(self) -> Awaitable[None]:
        """Do what the task is for, until it has ended or is cancelled."""
        ...

    def receive_no_more(self) -> bool:
        """Have a bridge bring in nothing more; return whether it is one."""
        ...

    async def catch_up(self) -> None:
        """Have a bridge bring in what was published here."""

    def finish_current(self) -> bool:
        """Have the work end after the message in hand; return whether there are messages."""
        ...

    @property
    def published(self) -> int:
        """The number that the next message gets."""
        ...

    def has_handled(self, goal: int) -> bool:
        """Whether all messages before this number have been handled."""
        ...

    async def wait_handled(self, goal: int) -> None:
        """Wait until `has_handled` holds or the work is over; look again now and then."""
        ...

    async def wait_for_dependencies(self) -> None:
        """Wait until all that it depends on is initialised."""
        ...

    async def wait_until_dependencies_are_ready(self) -> None:
        """Wait until all that it depends on is ready."""
        ...

    def are_dependencies_ready(self) -> bool:
        """Whether it need not wait for that."""
        ...

    def tell(self) -> None:
        """Tell how it stands now, if that has changed."""

    def extra(self, **more: object) -> dict[str, object]:
        """What a log record about it carries beside the text."""
        ...

    def note_error(self, error: BaseException) -> None:
        """Keep in mind what went wrong last."""

    def run_initializes(self) -> int:
        """Hear that ``initialize()`` is called; return which run this is."""
        ...

    def run_is_ready(self) -> None:
        """Hear that those that depend on it may work."""

    def run_works(self) -> None:
        """Hear that the work begins."""

    def work_ended(self) -> None:
        """Hear that the work has ended, and decide what that means."""

    def run_ended(self) -> None:
        """Hear that nothing is left of it, and decide what that means."""

    def run_abandoned(self) -> None:
        """Hear that nobody waits any more for the end of what it does."""

    def process_ends(self, error: BaseException) -> None:
        """Hear that a hook meant the end of the process, as by `SystemExit`."""
