"""Runs a coroutine and counts the checkpoints at which it waits."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from functools import partial
from itertools import count
from types import coroutine
from typing import Any, TypeVar

T = TypeVar("T")


@coroutine
def stepped(
    work: Coroutine[Any, Any, T], checkpoint: int, reached: Callable[[], None]
) -> Generator[Any, Any, T]:
    """Run a coroutine, and call something when it has come to a checkpoint.

    :param work: the coroutine
    :param checkpoint: which of those at which it really waits, 1 for the first
    :param reached: called just before it waits there
    :return: what the coroutine returns
    """
    step: Callable[[], Any] = partial(work.send, None)
    for number in count(1):
        try:
            request = step()
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]  # a coroutine's own type of result
        if number == checkpoint:
            reached()
        try:
            answer = yield request
        except BaseException as error:
            step = partial(work.throw, error)
        else:
            step = partial(work.send, answer)
    raise AssertionError("a count has no end")
