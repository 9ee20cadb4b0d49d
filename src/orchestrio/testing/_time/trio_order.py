"""A seed for the order in which trio steps its tasks. It needs names that trio keeps to itself.

trio takes the tasks that are ready in batches, and reverses each batch or not, by a random number.
It has a second rule, for Hypothesis: sort the batch by the age of the tasks, so that nothing depends
on where they lie in memory, and shuffle it by a random generator. That rule, with a generator of
our own, is what makes a run repeatable. Both are put back when the run has ended.
"""

from __future__ import annotations

from random import Random
from typing import Any, Final, cast, final

import trio
import trio._core._run as trio_run

from .order import Order, Victim

#: What is replaced for the time of a run.
NAMES: Final = ("_ALLOW_DETERMINISTIC_SCHEDULING", "_r")

_before: list[dict[str, object]] = []  # what was there, while something else is in its place


def require_private_names() -> None:
    """See whether trio still has what this needs.

    :raises RuntimeError: if it has not
    """
    missing = [name for name in (*NAMES, "GLOBAL_RUN_CONTEXT") if not hasattr(trio_run, name)]
    if missing:
        raise RuntimeError(
            f"trio {trio.__version__} has no {' and no '.join(missing)} any more, and without"
            " that the order of its tasks cannot have a seed: leave out seed=, or use asyncio"
        )


@final
class BatchOrder(Random):
    """What trio asks for the order of each batch of tasks, sorted by age."""

    def __init__(self, seed: int, order: Order) -> None:
        super().__init__(seed)
        self._order = order
        self._victim = Victim(self)

    # trio takes the tasks from the end of the batch.
    def shuffle(self, x: Any) -> None:
        """Put a batch of tasks into order."""
        if self._order == "shuffle":
            super().shuffle(x)
            return
        if self.random() < 0.5:
            x.reverse()
        if self._order == "defer" and len(x) > 1:
            self._victim.choose([task._counter for task in x])
            for held in [task for task in x if self._victim.waits(task._counter)]:
                x.remove(held)
                runner: Any = cast("Any", trio_run).GLOBAL_RUN_CONTEXT.runner
                runner.runq.append(held)


def take_over(seed: int, order: Order) -> None:
    """Let a seed decide from now on.

    :param seed: the seed
    :param order: which order
    """
    _before.append({name: getattr(trio_run, name) for name in NAMES})
    _set(_ALLOW_DETERMINISTIC_SCHEDULING=True, _r=BatchOrder(seed, order))


def put_back() -> None:
    """Let decide again what did before: trio, or the seed of a run around this one."""
    _set(**_before.pop())


def _set(**values: object) -> None:
    for name, value in values.items():
        setattr(trio_run, name, value)
