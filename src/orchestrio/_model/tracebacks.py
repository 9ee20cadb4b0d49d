"""Tracebacks as users read them: their own frames, without those of the library and event loops.

What a task raises has come through ten frames that say nothing about it, and what a scheduler
raises goes out through as many. With the environment variable ``ORCHESTRIO_FULL_TRACEBACKS`` set
to anything but 0, all of them stay.
"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterable, Iterator
from functools import cache
from types import FrameType, TracebackType
from typing import Final, cast, final

from .errors import SchedulerError
from .words import in_words

__all__ = [
    "Repeats",
    "UsersFrames",
    "has_users_frames",
    "is_internal",
    "leaves_of",
    "own_line",
    "point_to",
    "show_once",
    "shows_all",
    "trim",
    "users_line",
]

FULL: Final = "ORCHESTRIO_FULL_TRACEBACKS"

#: Whose frames say nothing about a program.
_INTERNAL: Final = frozenset({"orchestrio", "anyio", "asyncio", "trio", "outcome", "uvloop"})

#: Where other people's code is installed.
_INSTALLED: Final = tuple(
    path + os.sep
    for path in {sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")}
)

#: How many kinds of error `Repeats` knows at a time.
_KINDS: Final = 16


def trim(error: BaseException) -> None:
    """Take the frames that are internal out of an error, and out of all that it comes from.

    Where nothing would be left, all is kept; but for errors of the library itself, and groups,
    which say what they have to say.

    :param error: what was raised
    """
    if shows_all():
        return
    for one in _family(error):
        users = _without_internal(one.__traceback__)
        if users is not None or _says_it_all(one):
            one.with_traceback(users)  # assigning would ask a class that refuses it


def _says_it_all(error: BaseException) -> bool:
    """Whether it needs no traceback: it is an error of the library, or a group."""
    own = isinstance(error, SchedulerError) or _is_module_internal(str(type(error).__module__))
    return own or isinstance(error, BaseExceptionGroup)


def shows_all() -> bool:
    """Whether nothing is to be taken out."""
    return os.environ.get(FULL, "0") not in ("", "0")


def _family(error: BaseException) -> Iterator[BaseException]:
    """Iterate over an error, its causes and contexts, and the members of groups, each once."""
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        one = queue.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            queue += [one.__cause__, one.__context__, *_members(one)]


def _members(error: BaseException) -> tuple[BaseException, ...]:
    if isinstance(error, BaseExceptionGroup):
        return cast("BaseExceptionGroup[BaseException]", error).exceptions
    return ()


def _without_internal(traceback: TracebackType | None) -> TracebackType | None:
    kept: list[TracebackType] = []
    while traceback is not None:
        if not is_internal(traceback.tb_frame):
            kept.append(traceback)
        traceback = traceback.tb_next
    trimmed: TracebackType | None = None
    for one in reversed(kept):
        trimmed = TracebackType(trimmed, one.tb_frame, one.tb_lasti, one.tb_lineno)
    return trimmed


def _entries(traceback: TracebackType | None) -> Iterator[TracebackType]:
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def is_internal(frame: FrameType) -> bool:
    """Whether a frame says nothing about a program: it is of the library, or an event loop."""
    return _is_module_internal(str(frame.f_globals.get("__name__")))


@cache  # a crash is not to cost much, and modules are few
def _is_module_internal(name: str) -> bool:
    return name.partition(".")[0] in _INTERNAL


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__")).partition(".")[0]


@final
class UsersFrames:
    """A block out of which errors come without the internal frames that they have come through.

    An error that leaves it by itself does not even have the frame of the block.
    """

    __slots__ = ()

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Trim what is raised."""
        if error is not None:
            trim(error)


def has_users_frames(error: BaseException) -> bool:
    """Whether a traceback of the error, or of what it is made of, would show a user's line."""
    return any(
        not is_internal(entry.tb_frame)
        for leaf in leaves_of(error)
        for entry in _entries(leaf.__traceback__)
    )


def users_line(error: BaseException) -> TracebackType | None:
    """Return the traceback of an error, or of one that it is made of, if a user's line is in it.

    :param error: a cancellation, say, which shows where it found the task
    """
    for leaf in leaves_of(error):
        users = _without_internal(leaf.__traceback__)
        if users is not None:
            return leaf.__traceback__ if shows_all() else users
    return None


def leaves_of(error: BaseException) -> list[BaseException]:
    """Return the errors that a group is made of, at any depth; of any other, itself."""
    members = _members(error)
    return [leaf for one in members for leaf in leaves_of(one)] if members else [error]


def own_line(error: BaseException) -> TracebackType | None:
    """Find in which line of the program an error was raised; of a group, its first one.

    What that has called into is not the user's: it is that of others, or of the interpreter.

    :param error: what was raised
    :return: that entry of its traceback alone, if there is one
    """
    for leaf in leaves_of(error):
        entries = [one for one in _entries(leaf.__traceback__) if not is_internal(one.tb_frame)]
        if entries:
            own = [one for one in entries if not _is_installed(one.tb_frame)]
            program = _package(entries[0].tb_frame)
            at = (own or [one for one in entries if _package(one.tb_frame) == program])[-1]
            return TracebackType(None, at.tb_frame, at.tb_lasti, at.tb_lineno)
    return None


def point_to(error: BaseException, line: TracebackType) -> None:
    """Have the traceback of an error end with a line, as if the error had been raised there.

    :param error: one that was made elsewhere, to say what was raised there
    :param line: the entry of a traceback
    """
    entries = [*_entries(error.__traceback__)]
    if not entries:
        error.with_traceback(line)
    elif (entries[-1].tb_frame, entries[-1].tb_lineno) != (line.tb_frame, line.tb_lineno):
        entries[-1].tb_next = line


def _is_installed(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith((*_INSTALLED, "<frozen"))


def show_once(errors: Iterable[BaseException]) -> None:
    """Take the tracebacks from errors that are the same as a later one; see `Repeats`.

    :param errors: what was raised one after the other
    """
    if shows_all():
        return
    told = Repeats()
    shown: set[int] = set()
    for error in reversed(list(errors)):
        again = told.count(error) > 1
        for one in _family(error):
            if not again:
                shown.add(id(one))
            elif id(one) not in shown:  # it may be the very same that was raised again
                one.with_traceback(None)


@final
class Repeats:
    """Counts errors that are the same: of one type, in the same words, from the same lines."""

    __slots__ = ("_times",)

    def __init__(self) -> None:
        self._times: dict[int, int] = {}  # the one that was seen last is last

    def count(self, error: BaseException) -> int:
        """Return how often an error has come by now, this time included."""
        return self._note(hash(tuple(map(_looks, leaves_of(error)))))  # the words may be long

    def count_lines(self, error: BaseException) -> int:
        """Return how often one has come by now that is the same but for its words.

        These may have a time, a port or an identity in them.
        """
        return self._note(hash(tuple((type(one), _lines(one)) for one in leaves_of(error))))

    def _note(self, kind: int) -> int:
        times = self._times.pop(kind, 0) + 1
        self._times[kind] = times
        if len(self._times) > _KINDS:
            del self._times[next(iter(self._times))]
        return times

    def forget(self) -> None:
        """Begin anew."""
        self._times.clear()


def _looks(error: BaseException) -> object:
    return type(error), in_words(error), _lines(error)


def _lines(error: BaseException) -> tuple[object, ...]:
    """Return the lines of a traceback, each once: that of an error raised again has them again."""
    entries = _entries(error.__traceback__)
    lines = ((entry.tb_frame.f_code.co_filename, entry.tb_lineno) for entry in entries)
    return tuple(dict.fromkeys(lines))
