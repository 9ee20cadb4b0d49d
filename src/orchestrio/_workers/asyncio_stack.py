"""What a coroutine awaits on asyncio that is no coroutine: tasks of its own, and time-outs."""

from __future__ import annotations

from collections.abc import Iterator
from gc import get_referents
from types import MethodType
from typing import cast

__all__ = ["coroutines_behind", "has_timeout"]


def coroutines_behind(awaiting: object) -> Iterator[object]:
    """Iterate over the coroutines of the tasks that are awaited, by themselves or by ``gather()``.

    :param awaiting: what the innermost coroutine awaits
    """
    import asyncio  # here: a program on trio needs none

    for future in get_referents(awaiting):
        if isinstance(future, asyncio.Task):
            yield future.get_coro()
        elif isinstance(future, asyncio.Future):
            group = cast("object", future)  # that of `gather()` has children
            for child in getattr(group, "_children", ()):
                if isinstance(child, asyncio.Task) and not child.done():
                    yield child.get_coro()


def has_timeout(awaiting: object) -> bool:
    """Whether a coroutine stands in an ``async with asyncio.timeout(...)`` that ends by itself.

    :param awaiting: the coroutine; what it is to call when it leaves a block is on its stack
    """
    import asyncio

    return any(
        isinstance(one, MethodType)
        and isinstance(one.__self__, asyncio.Timeout)
        and one.__self__.when() is not None
        for one in get_referents(awaiting)
    )
