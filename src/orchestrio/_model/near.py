"""What somebody who misspelt a name may have meant."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator

__all__ = ["near_names"]

_COMPARED = 16  # letter by letter: each costs 10 to 50 µs, and the more the longer it is
_LETTERS = 12  # that are compared at either end
_SEARCHED = 500_000  # letters of all names together: more than 10,000 names should have
_BETWEEN = "\0"


def near_names(name: str, names: Collection[str]) -> list[str]:
    """Return the names that are nearest to one that does not exist; of 10,000 in a millisecond.

    Of many names only those are compared letter by letter that have the longest beginning or the
    longest end in common with it, and of long ones only both ends.

    :param name: what was looked for
    :param names: what there is
    :return: three at most, the nearest first
    """
    from difflib import get_close_matches  # seldom needed, and then there is time

    alike = names if len(names) <= _COMPARED else _alike(name, names)
    by_ends: dict[str, str] = {}
    for known in alike:
        by_ends.setdefault(_ends(known), known)
    near = get_close_matches(_ends(name), list(by_ends), n=3, cutoff=0.5)
    return [by_ends[ends] for ends in near]


def _alike(name: str, names: Collection[str]) -> Iterator[str]:
    """Find some that begin as a name does, or end so, for as many letters as any does.

    They are searched for in one text: a loop over 10,000 names takes longer than all the rest.
    """
    text = _BETWEEN.join(["", *names, ""])
    if text.count(_BETWEEN) > len(names) + 1:  # a name in which it is would be cut in two
        text = _BETWEEN.join(["", *(known for known in names if _BETWEEN not in known), ""])
    text = text[: text.find(_BETWEEN, _SEARCHED) + 1] or text
    sizes = range(1, len(name) + 1)
    parts = [_BETWEEN + name[:size] for size in sizes], [name[-size:] + _BETWEEN for size in sizes]
    for ever_longer in parts:
        longest = bisect_left(ever_longer, True, key=lambda part: part not in text) - 1
        at = 0
        for _ in range(_COMPARED // 2 if longest >= 0 else 0):
            at = text.find(ever_longer[longest], at)
            if at < 0:
                break
            start = text.rfind(_BETWEEN, 0, at + 1) + 1
            at = text.index(_BETWEEN, start)
            yield text[start:at]


def _ends(name: str) -> str:
    return name if len(name) <= 2 * _LETTERS else name[:_LETTERS] + name[-_LETTERS:]
