"""What somebody who misspelt a name may have meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from heapq import nlargest

__all__ = ["near_names"]

_COMPARED = 100  # each costs about 10 µs


def near_names(name: str, names: Iterable[str]) -> list[str]:
    """Return the names that are nearest to one that does not exist, in a few milliseconds.

    Of many names only those are compared letter by letter that begin and end as it does.

    :param name: what was looked for
    :param names: what there is
    :return: three at most, the nearest first
    """
    head, tail = name[:3], name[-3:]
    alike = nlargest(
        _COMPARED,
        names,
        key=lambda known: known.startswith(head) + known.endswith(tail),
    )
    return get_close_matches(name, alike, n=3, cutoff=0.5)
