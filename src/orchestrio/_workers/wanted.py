"""What is wanted of a task, and what may be wanted after what."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum, auto
from typing import Final

from .._model.snapshots import TaskState

__all__ = ["ENDS", "MAY_FOLLOW", "WITHOUT_RUN", "Wanted"]


class Wanted(StrEnum):
    """What is to become of a task: the desired state, which its run is brought to."""

    RUN = auto()
    """It is to work for as long as it has work."""
    STOP = auto()
    """It is to end, and to stay down."""
    RESTART = auto()
    """It is to end, and then to begin again."""
    REMOVE = auto()
    """It is to end, and then to be forgotten."""


# A member of an enumeration is found slowly on Python 3.11, and this is asked for with each task.
ENDS: Final = (Wanted.STOP, Wanted.REMOVE)
"""What does not bring a task back."""

MAY_FOLLOW: Final[Mapping[Wanted, frozenset[Wanted]]] = {
    Wanted.RUN: frozenset({Wanted.STOP, Wanted.RESTART, Wanted.REMOVE}),
    Wanted.STOP: frozenset({Wanted.STOP, Wanted.RESTART, Wanted.REMOVE}),
    Wanted.RESTART: frozenset({Wanted.RUN, Wanted.STOP, Wanted.RESTART, Wanted.REMOVE}),
    Wanted.REMOVE: frozenset({Wanted.REMOVE}),
}
"""What may be wanted after what: who is to be removed is not wanted back."""


#: How a task stands that has no run: it has not begun, or will not.
WITHOUT_RUN: Final[Mapping[Wanted, TaskState]] = {
    Wanted.RUN: TaskState.REGISTERED,
    Wanted.STOP: TaskState.STOPPED,
    Wanted.RESTART: TaskState.BACKING_OFF,
    Wanted.REMOVE: TaskState.STOPPED,
}
