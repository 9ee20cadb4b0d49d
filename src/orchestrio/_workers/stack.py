"""Where a coroutine stands, on any event loop: the line of each function that it awaits in."""

from __future__ import annotations

from collections.abc import Iterator
from traceback import StackSummary
from types import FrameType

from .._model.tracebacks import is_internal, shows_all

__all__ = ["awaits", "frames", "task_stack"]


def task_stack(coroutine: object, *, without: str) -> str:
    """Say which line of which function a coroutine awaits, outermost first, as a traceback does.

    Those of the library and of event loops are left out as well, unless there are no others.

    :param coroutine: one that is suspended
    :param without: a source file whose functions are left out
    """
    stack = [
        (frame, line) for frame, line in frames(coroutine) if frame.f_code.co_filename != without
    ]
    users = [] if shows_all() else [at for at in stack if not is_internal(at[0])]
    return "".join(StackSummary.extract(iter(users or stack)).format())


def frames(awaiting: object) -> Iterator[tuple[FrameType, int]]:
    """Follow a coroutine through what it awaits, down to what it waits for: frames and lines."""
    for _, frame in awaits(awaiting):
        if frame is not None:
            yield frame, frame.f_lineno


def awaits(awaiting: object) -> Iterator[tuple[object, FrameType | None]]:
    """Follow a coroutine through what it awaits: each, with its frame if it has one."""
    while awaiting is not None:
        following = found = None
        for kind, link in (("cr", "await"), ("gi", "yieldfrom"), ("ag", "await")):
            frame: FrameType | None = getattr(awaiting, f"{kind}_frame", None)
            if frame is not None:
                found = frame
                following = getattr(awaiting, f"{kind}_{link}")
                break
        yield awaiting, found
        awaiting = following
