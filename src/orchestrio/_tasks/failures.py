"""What a hook raised: a failure, a cancellation that was asked for, or the end of the process.

A cancellation that no scope around the hook asked for is an error like any other: a library that
cancels a request of its own, and lets the `CancelledError` out, means nobody's end. One that was
asked for is no error; but a clean-up may fail on the way, and then both arrive in one group.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from math import inf
from types import TracebackType
from typing import Final, cast

from anyio import current_effective_deadline, current_time, get_cancelled_exc_class, move_on_at
from typing_extensions import TypeVarTuple, Unpack

from .._model.errors import TaskExecutionError, TaskInitializationError, TaskShutdownError
from .._model.tracebacks import has_users_frames, leaves_of, own_line
from .._model.words import in_seconds, in_words

__all__ = [
    "ForeignCancellationError",
    "error_in",
    "failed_at",
    "failure_in",
    "raised",
    "to_show",
    "undisturbed",
    "within",
]

Args = TypeVarTuple("Args")

#: How many errors of a group are named in a sentence.
_MOST: Final = 3

#: What says what became of a task; why, is its cause.
_OF_TASKS: Final = (TaskInitializationError, TaskExecutionError, TaskShutdownError)


class ForeignCancellationError(RuntimeError):
    """What a cancellation is that nobody here asked for; the cancellation itself is its cause."""


def error_in(error: BaseException) -> BaseException | None:
    """Find what went wrong in what a hook raised; to be called where it was caught.

    :param error: what it raised
    :return: an `Exception` if it failed; `None` if it was only cancelled, as it was asked to be;
        anything else, such as `SystemExit`, means the process
    """
    if isinstance(error, Exception):
        return error
    cancelled = get_cancelled_exc_class()
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        if (way_out := _way_out(group, cancelled)) is not None:
            return way_out
        # Without the cancellations, what is left are the errors of clean-ups.
        rest = group.split(cancelled)[1]
        if rest is not None:
            return rest
    elif not isinstance(error, cancelled):
        return error
    if current_effective_deadline() == -inf:  # a scope around it was cancelled
        return None
    foreign = ForeignCancellationError("it was cancelled by something other than its scheduler")
    foreign.__cause__ = error
    return foreign


async def undisturbed(function: Callable[[Unpack[Args]], Awaitable[None]], *args: *Args) -> None:
    """Do something whatever cancels it but a scope around it.

    asyncio cancels all that is left in a loop that closes, shielded or not.

    :param function: called again after a cancellation that no scope asked for
    """
    while True:
        try:
            await function(*args)
        except get_cancelled_exc_class() as error:
            if error_in(error) is None:
                raise
        else:
            return


async def within(
    timeout: float,
    option: str,
    function: Callable[[Unpack[Args]], Awaitable[object]],
    *args: *Args,
    clock: Callable[[], float] = current_time,
) -> None:
    """Await a hook, for so long at most.

    :param timeout: how long it may take, in seconds
    :param option: what says so
    :param function: the hook; what it notes on its cancellation is a part of the error
    :param clock: tells the time of the event loop
    :raises TimeoutError: if it takes longer; its traceback shows where it stood then
    """
    stood: TracebackType | None = None
    notes: tuple[str, ...] = ()
    with move_on_at(clock() + timeout) as scope:
        try:
            await function(*args)
        except get_cancelled_exc_class() as cancelled:
            stood = cancelled.__traceback__
            notes = tuple(getattr(cancelled, "__notes__", ()))
            raise
    if scope.cancelled_caught:
        what = ": ".join([f"it took longer than its {option} ({in_seconds(timeout)})", *notes])
        try:
            raise TimeoutError(what).with_traceback(stood)
        finally:
            del stood  # or this frame would keep itself


def failure_in(error: BaseException) -> Exception | None:
    """Find the failure in what a hook raised, as `error_in` does; `None` if there is none."""
    failure = error_in(error)
    return failure if isinstance(failure, Exception) else None


def _way_out(
    group: BaseExceptionGroup[BaseException], cancelled: type[BaseException]
) -> BaseException | None:
    """Return what means the process in a group, such as `SystemExit`; it must not lose its code."""
    for one in group.exceptions:
        if isinstance(one, BaseExceptionGroup):
            within = _way_out(cast("BaseExceptionGroup[BaseException]", one), cancelled)
            if within is not None:
                return within
        elif not isinstance(one, (Exception, cancelled)):
            return one
    return None


def raised(error: BaseException) -> str:
    """Say what was raised, for the middle of a sentence; of a group, what it is made of."""
    if isinstance(error, ForeignCancellationError):
        return "was cancelled by something other than its scheduler"
    leaves = leaves_of(error)
    words = [f"{type(leaf).__name__}: {_first_line(in_words(leaf))}" for leaf in leaves[:_MOST]]
    if leaves[0] is error:
        return f"raised {words[0]}"
    if len(leaves) == 1:
        return f"raised {words[0]} (in an {type(error).__name__})"
    more = f"; and {len(leaves) - _MOST} more" if len(leaves) > _MOST else ""
    return (
        f"raised {type(error).__name__}: {_first_line(in_words(error))}: {'; '.join(words)}{more}"
    )


def _first_line(words: str) -> str:
    """Return the first line: an error that says more says it in its traceback."""
    first, newline, _ = words.partition("\n")
    return f"{first} ..." if newline else first


def to_show(failure: BaseException) -> BaseException | None:
    """Return that whose traceback shows where the program failed; `None` if none does.

    Of a task that failed too often, it is the last failure: the others were told before.

    :param failure: what became of a task, in the words of the library
    """
    cause = failure.__cause__
    if isinstance(failure, _OF_TASKS) and cause is not None:
        last = leaves_of(cause)[-1]
        return to_show(last if isinstance(last, _OF_TASKS) else cause)
    shows = has_users_frames(failure) or (cause is not None and has_users_frames(cause))
    return failure if shows else None


def failed_at(failure: BaseException) -> TracebackType | None:
    """Return the line of the program in which it failed, if there is one; see `to_show`.

    :param failure: what became of a task, in the words of the library
    """
    error = to_show(failure)
    if error is None:
        return None
    cause = error.__cause__
    return own_line(error) or (None if cause is None else own_line(cause))
