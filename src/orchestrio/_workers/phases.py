"""How far a run has come, what may follow, and what became of its work."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, StrEnum, auto
from typing import Final

from .._model.snapshots import TaskState

__all__ = ["BEFORE_OUTCOME", "NEXT", "Outcome", "Phase"]


class Phase(StrEnum):
    """How far a run has come."""

    PENDING = auto()
    """Made; it waits for its time, and for what it depends on to be initialised."""
    INITIALIZING = auto()
    """Inside ``initialize()``."""
    INITIALIZED = auto()
    """It waits for those that start with it, and for what it depends on to be ready."""
    WORKING = auto()
    """Inside ``execute()``, or handling messages."""
    STOPPING = auto()
    """Its work is over; it waits for its turn to shut down."""
    SHUTTING_DOWN = auto()
    """Inside ``shutdown()``."""
    ENDED = auto()
    """Nothing is left of it but what is told of it."""


NEXT: Final[Mapping[Phase, frozenset[Phase]]] = {
    Phase.PENDING: frozenset({Phase.INITIALIZING, Phase.ENDED}),
    Phase.INITIALIZING: frozenset({Phase.INITIALIZED, Phase.ENDED}),
    Phase.INITIALIZED: frozenset({Phase.WORKING, Phase.STOPPING}),
    Phase.WORKING: frozenset({Phase.STOPPING}),
    Phase.STOPPING: frozenset({Phase.SHUTTING_DOWN}),
    Phase.SHUTTING_DOWN: frozenset({Phase.ENDED}),
    Phase.ENDED: frozenset(),
}
"""The phases that may follow each; all others are faults of the scheduler."""


BEFORE_OUTCOME: Final[Mapping[Phase, TaskState]] = {
    Phase.PENDING: TaskState.REGISTERED,
    Phase.INITIALIZING: TaskState.INITIALIZING,
    Phase.INITIALIZED: TaskState.READY,
    Phase.WORKING: TaskState.RUNNING,
}
"""How a task stands whose work has not come to its end."""


class Outcome(Enum):
    """What became of the work of a run; it stays, unless ``shutdown()`` is abandoned after it."""

    RETURNED = auto()
    """It came to its end by itself."""
    STOPPED = auto()
    """Its end was asked for."""
    FAILED = auto()
    """A hook raised, or a deadline was missed."""
    ABANDONED = auto()
    """It ignores its cancellation, and nobody waits for it any more."""
