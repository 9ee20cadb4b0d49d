"""What a run waits for, in words, for those who ask why it does not work."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from .phases import Phase
from .run import Run
from .wanted import Wanted

__all__ = ["what_holds_up"]

#: How many dependencies are named.
_MOST: Final = 3


class Dependency(Protocol):
    """What a run may wait for: another worker."""

    @property
    def title(self) -> str:
        """What messages call it."""
        ...

    @property
    def run(self) -> Run | None:
        """The run it is in."""
        ...

    @property
    def is_done(self) -> bool:
        """Whether it is waited for no more."""
        ...

    @property
    def is_ready(self) -> bool:
        """Whether those that depend on it may work."""
        ...


def what_holds_up(run: Run, dependencies: Iterable[Dependency]) -> str | None:
    """Say what a run waits for before it works, or after that; `None` if it is in a hook.

    :param run: the run
    :param dependencies: what its task depends on
    """
    if run.is_over:
        is_stopped = run.waits_for_turn and run.host.wanted is not Wanted.RUN
        return "its turn to shut down" if is_stopped else None
    if run.retry_at is not None:
        return "its restart"
    if run.phase is Phase.PENDING:
        late = [one for one in dependencies if not (_is_initialized(one) or one.is_done)]
        return _named(late)
    if run.waits_for_others:
        return "the start of the others"
    if run.phase is Phase.INITIALIZED:
        return _named([one for one in dependencies if not (one.is_ready or one.is_done)])
    return None


def _is_initialized(one: Dependency) -> bool:
    return one.run is not None and one.run.is_initialized


def _named(late: list[Dependency]) -> str | None:
    if not late:
        return None
    names = ", ".join(one.title for one in late[:_MOST])
    return names if len(late) <= _MOST else f"{names} and {len(late) - _MOST} more"
