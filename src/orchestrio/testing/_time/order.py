"""In which order tasks that are ready step: what a seed decides, on any event loop.

A queue of this module takes the steps of an event loop that has none of its own, one step a task.
Tasks are known by numbers, given in the order in which they were made, so that nothing depends on
where in memory they lie.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import insort
from operator import itemgetter
from random import Random
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar, final

Order: TypeAlias = Literal["stock", "shuffle", "defer"]
"""Which of the tasks that are ready steps next: the event loop's own choice (``"stock"``), any
(``"shuffle"``), or its own choice, but one task, picked at random, is held back for some time, as
if the machine had forgotten it (``"defer"``).
"""

T = TypeVar("T")

#: How many steps of others a task is held back for, at most.
LONGEST_WAIT: Final = 30


class Steps(ABC, Generic[T]):
    """The steps that are ready."""

    @abstractmethod
    def add(self, number: int, step: T, together: object) -> None:
        """Take one more step.

        :param number: the number of its task
        :param step: the step
        :param together: the same for tasks that were woken by one cancellation, `None` for others:
            event loops keep them in sets, so theirs is no order at all, until it is made one here
        """

    @abstractmethod
    def take(self) -> T:
        """Give the step whose turn it is."""


class Stock(Steps[T]):
    """First come, first served, as asyncio does it."""

    def __init__(self) -> None:
        self._ready: list[tuple[int, T, object]] = []

    def add(self, number: int, step: T, together: object) -> None:
        """Take one more step."""
        ready = self._ready
        place = len(ready)
        if together is not None:
            while place and ready[place - 1][2] is together and ready[place - 1][0] > number:
                place -= 1
        ready.insert(place, (number, step, together))

    def take(self) -> T:
        """Give the step that came first."""
        return self._ready.pop(0)[1]


@final
class Defer(Stock[T]):
    """First come, first served, but for one task that has to wait."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self._victim = Victim(random)

    def take(self) -> T:
        """Give the step that came first, unless its task has to wait."""
        ready = self._ready
        place = 0
        if len(ready) > 1:
            self._victim.choose([number for number, _, _ in ready])
            place = int(self._victim.waits(ready[0][0]))
        return ready.pop(place)[1]


@final
class Shuffle(Steps[T]):
    """Any step."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._ready: list[tuple[int, T]] = []  # by number, so that how they came does not matter

    def add(self, number: int, step: T, together: object) -> None:
        """Take one more step."""
        insort(self._ready, (number, step), key=itemgetter(0))

    def take(self) -> T:
        """Give any of the steps."""
        return self._ready.pop(self._random.randrange(len(self._ready)))[1]


@final
class Victim:
    """A task that is held back, for some steps of the others; then it is another's turn.

    It is a random change of priorities, as in "A Randomized Scheduler with Probabilistic
    Guarantees of Finding Bugs" (Burckhardt and others, ASPLOS 2010).
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._number = -1
        self._patience = 0

    def choose(self, ready: list[int]) -> None:
        """Pick another victim if the last one has waited long enough.

        :param ready: the numbers of the tasks that are ready
        """
        if self._patience <= 0:
            self._number = self._random.choice(ready)
            self._patience = self._random.randrange(1, LONGEST_WAIT)
        self._patience -= 1

    def waits(self, number: int) -> bool:
        """Whether a task has to wait, by its number."""
        return number == self._number


def steps(order: Order, random: Random) -> Steps[Any]:
    """Return an empty queue of steps.

    :param order: in which order it gives them back
    :param random: what decides
    """
    if order == "shuffle":
        return Shuffle(random)
    return Stock() if order == "stock" else Defer(random)
