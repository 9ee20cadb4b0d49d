"""How things are put in words, for messages and the log: in one way everywhere."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

__all__ = ["counted", "in_seconds", "in_words"]

#: How many characters of what an object says are worth telling.
_LONGEST = 10_000

_MINUTE = 60
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR


def in_words(thing: object, how: Callable[[object], str] = str) -> str:
    """Return what a user's object says of itself, also if that raises, or goes on for megabytes.

    :param thing: an error, or the key of an event, say
    :param how: `str` or `repr`
    """
    try:
        words = how(thing)
        return words if len(words) <= _LONGEST else f"{words[:_LONGEST]} ..."
    except BaseException as trouble:  # in the middle of a stop, not even `SystemExit` may get out
        return f"<{type(thing).__name__}, whose __{how.__name__}__ raised {type(trouble).__name__}>"


def in_seconds(duration: float) -> str:
    """Return a time span in words, as exact as people care for.

    :param duration: how many seconds it takes
    """
    if duration == inf:
        return "a while"
    if duration < 10 * _MINUTE:  # so most of what people give in seconds
        text = f"{duration:.{3 if duration < 1 else 1 if duration < 100 else 0}f}"
        return f"{text.rstrip('0').rstrip('.') if '.' in text else text} s"
    for unit, part, names in (
        (_DAY, _HOUR, "d h"),
        (_HOUR, _MINUTE, "h min"),
        (_MINUTE, 1, "min s"),
    ):
        if duration >= 2 * unit or unit == _MINUTE:
            parts = divmod(round(duration / part), unit // part)
            return " ".join(
                f"{n} {name}" for n, name in zip(parts, names.split(), strict=True) if n
            )
    raise AssertionError


def counted(count: int, what: str) -> str:
    """Return how many there are of something.

    :param count: how many
    :param what: what, in the plural, such as ``messages``
    """
    return f"1 {what.removesuffix('s')}" if count == 1 else f"{count:,} {what}"
