"""`simulate`: plays a program under many seeds, and raises what it finds."""

import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from inspect import iscoroutinefunction
from random import Random
from typing import Annotated, Any, ClassVar, Final, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, field_validator

from orchestrio import Scheduler

from .._harness import Harness
from .._rules.ledger import Ledger
from .._time.order import Order
from .._time.virtual import Backend
from .draws import Cast, draw
from .scenario import Faults, Scenario
from .stage import Outcome, Program, Stage

E = TypeVar("E", bound=Hashable)

SEED: Final = "ORCHESTRIO_SEED"
"""The environment variable that has one seed take the place of all."""

#: How many lines of a trace the message of a failure shows.
_LINES: Final = 40


@dataclass(frozen=True, slots=True)
class SimulationReport:
    """What a simulation did that found nothing."""

    runs: int
    """How often the program ran: once for each seed on each backend."""
    faults: Mapping[str, int]
    """How many faults of each kind were drawn; not all of them came to pass."""
    virtual_seconds: float
    """How long the program ran, in all, by its own clock."""
    real_seconds: float
    """How long that took."""
    digest: str
    """A hash over all that happened, in order: the same for the same simulation."""


class SimulationFailure(AssertionError):
    """A run of a simulation in which a rule was broken.

    It can be played again (`replay`) and made smaller (`shrink`).
    """

    kind: str
    """The rule that was broken."""
    what: str
    """What broke it, in words."""
    scenario: Scenario
    """What decides on the run, as plain data: seed, backend, order and faults."""
    trace: tuple[str, ...]
    """What happened in the run, in order."""
    stacks: str
    """Where each task stands, if the run hangs; empty otherwise."""

    def __init__(self, program: Program, outcome: Outcome) -> None:
        self.program = program
        self.kind, self.what = outcome.ledger.violations[0]
        self.scenario = outcome.scenario
        self.trace = tuple(outcome.ledger.trace)
        self.stacks = outcome.ledger.stacks
        broken = (place for place, line in enumerate(self.trace) if " BROKEN " in line)
        last = next(broken, len(self.trace)) + 1
        super().__init__(
            f"{self.kind}: {self.what}\n{self.scenario}\n"
            f"what led to it, of {len(self.trace)} lines (all of them are in .trace):\n"
            + "\n".join(self.trace[max(0, last - _LINES) : last])
            + ("\nwhere the tasks stand:\n" + self.stacks if self.stacks else "")
            + f"\nto play it again: seeds=[{self.seed}], backends=[{self.backend!r}], or replay()"
        )

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return self.scenario.seed

    @property
    def backend(self) -> Backend:
        """The event loop on which it ran."""
        return self.scenario.backend


class _Options(BaseModel, frozen=True):
    """What is checked of what a simulation is given."""

    model_config: ClassVar[ConfigDict] = ConfigDict(title="simulate()")

    build: Callable[..., Any]
    drive: Callable[..., Any] | None
    backends: Annotated[tuple[Backend, ...], Field(min_length=1)]
    order: Order
    faults: Faults
    limit: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    check: tuple[Callable[..., Any], ...]

    @field_validator("build", "check")
    @classmethod
    def _not_async(cls, value: object) -> object:
        functions = cast("tuple[object, ...]", value) if isinstance(value, tuple) else (value,)
        if any(map(iscoroutinefunction, functions)):
            raise ValueError("it is a plain function that is called, not an async one")
        return functions if isinstance(value, tuple) else value


def simulate(
    build: Callable[[], Scheduler[E]],
    /,
    *,
    seeds: Iterable[int],
    drive: Callable[[Harness[E], Random], Awaitable[None]] | None = None,
    backends: Sequence[Backend] = ("asyncio", "trio"),
    order: Order = "shuffle",
    faults: Faults | None = None,
    limit: float = 3600,
    seconds: float = 60,
    check: Sequence[Callable[[Harness[E]], None]] = (),
) -> SimulationReport:
    """Play a program under many seeds, in virtual time, and hold each run against the rules.

    A seed decides on everything: on the order in which tasks step, on what `random` returns, and on
    the faults that the run gets: hooks that raise, are slow or are cancelled, cancellations that go
    astray, and commands that cross what happens just then. What was found with a seed is found
    again with it. The wall clock of the library stands at 2026-01-01 when a run begins. What has no
    seed is the program's own affair: threads, sockets, ``datetime.now()``, the order of sets.

    The rules, by the names that a failure has: ``accounts`` (sent is what was handled, failed, in
    hand, missed or not read, and no counter is negative or goes down), ``one_order`` (of messages,
    none of them twice), ``one_shutdown`` (for each ``initialize()`` that returned),
    ``shutdown_order`` (of tasks that are being stopped, dependants first, otherwise the last one),
    ``dependencies_first`` (a task works when those that it depends on are ready), ``no_overlap``
    (of two runs of one task), ``nothing_left`` (no task, subscription or receiver outlives what it
    belongs to, and none begins in a group that has ended), ``no_deadlock`` (nobody waits who could
    go on, and at the limit no handler waits for what will never come), ``errors_told_once`` (each injected error is logged or raised),
    ``failures_raised`` (a failure that no policy is for is raised, and not just logged),
    ``done_as_told`` (a command that is done has done what it says), ``no_silent_end`` (a task ends when it has returned, has failed, or was asked to),
    ``dead_letters`` (one for each message that failed for good), ``legal_states``,
    ``stop_in_time``, ``no_warnings`` (nothing is left for the garbage collector to warn of),
    ``no_other_errors`` (what the run raises comes from the faults), ``drive`` and ``check`` (what
    yours raised).

    A run that hangs in virtual time breaks ``stop_in_time``. One that spins, or blocks, or is just
    long, cannot be ended: after so many real `seconds` the place of every task and the seed are written to standard
    error, and the process ends with status 70.

    Example::

        from random import Random

        from anyio.lowlevel import checkpoint

        from orchestrio import Scheduler, Topic
        from orchestrio.testing import Faults, Harness, SimulationFailure, simulate

        ORDERS = Topic("orders", int)

        def build() -> Scheduler:
            scheduler = Scheduler()
            scheduler.add_channel(ORDERS)
            stock = 1

            async def sell(order: int) -> None:
                nonlocal stock
                if stock:
                    await checkpoint()  # whatever it waits for here, others run meanwhile
                    stock -= 1
                    assert stock >= 0, "sold what was not there"

            scheduler.on(ORDERS, name="shop")(sell)
            scheduler.on(ORDERS, name="web shop")(sell)
            return scheduler

        async def one_order(h: Harness, random: Random) -> None:
            await h.publish(ORDERS, 1)

        try:
            simulate(build, seeds=range(100), drive=one_order, faults=Faults(most=0))
        except SimulationFailure as failure:
            print(failure.what)  # AssertionError: sold what was not there

    :param build: makes the scheduler, with its channels and tasks, anew for each run; it is called
        in the event loop, and may ask `random` for what is to vary with the seed
    :param seeds: a run for each; with ``pytest --orchestrio-seed=N``, or the environment variable
        ``ORCHESTRIO_SEED``, that one alone takes their place
    :param drive: awaited with a harness and a random generator of the seed once all is started;
        when it returns and all is handled, everything is stopped, and it must return within the
        limit. Without it, the scheduler's own tasks are all that publishes
    :param backends: the event loops
    :param order: in which order tasks that are ready step; see `virtual_time`
    :param faults: which faults are injected; those of ``Faults()`` if not given
    :param limit: when a run is stopped that does not end by itself, in virtual seconds
    :param seconds: after how many real seconds a run is given up, and the process ended
    :param check: called with the harness when a run has ended, to raise what is wrong
    :return: what was done, if nothing was found
    :raises SimulationFailure: at the first run that breaks a rule
    :raises ~pydantic.ValidationError: if an option is not valid; it names the field
    :raises ValueError: if ``ORCHESTRIO_SEED`` is no seed
    :raises TypeError: if a seed is no number, or `build` makes no scheduler, or not a new one
    :raises ModuleNotFoundError: if trio is one of the backends, and not installed
    :raises Exception: what `build` raises
    """
    options = _Options.model_validate(
        {
            "build": build,
            "drive": drive,
            "backends": backends,
            "order": order,
            "faults": Faults() if faults is None else faults,
            "limit": limit,
            "seconds": seconds,
            "check": check,
        }
    )
    program = Program(options.build, options.drive, options.check, options.limit, options.seconds)
    only = os.environ.get(SEED)
    if only is not None and not only.isdecimal():
        raise ValueError(f"the environment variable {SEED} must be a seed, not {only!r}")
    began = time.monotonic()
    counts: Counter[str] = Counter()
    digest = sha256()
    runs = 0
    virtual = 0.0
    with Stage(program) as stage:
        for seed in seeds if only is None else [int(only)]:
            if not isinstance(cast("object", seed), int):
                raise TypeError(f"a seed is a whole number, not {seed!r}")
            for backend in options.backends:
                scenario = Scenario(seed, backend, order)
                outcome = play_seed(stage, scenario, options.faults, program.limit)
                raise_broken(program, outcome)
                runs += 1
                counts.update(
                    type(fault.what).__name__.lower() for fault in outcome.scenario.faults
                )
                virtual += _length(outcome.ledger)
                digest.update("\n".join(outcome.ledger.trace).encode())
    return SimulationReport(runs, counts, virtual, time.monotonic() - began, digest.hexdigest())


def play_seed(stage: Stage, scenario: Scenario, faults: Faults, limit: float) -> Outcome:
    """Play the run of one seed, with the faults that it draws."""

    def with_faults(scheduler: Scheduler[Any]) -> Scenario:
        program = Cast(list(scheduler.registry), _tasks_by_group(scheduler))
        random = Random(f"{scenario.seed} breaks")
        drawn = draw(program, faults, random, limit=limit, backend=scenario.backend)
        return replace(scenario, faults=drawn)

    return stage.play(scenario, with_faults)


def _tasks_by_group(scheduler: Scheduler[Any]) -> Mapping[str, Sequence[str]]:
    """Return the names of the tasks in each group, and in those within it."""
    tasks = scheduler.status()
    return {
        name: [task.name for task in tasks if name in (task.group or "").split("/")]
        for name in scheduler.groups
    }


def raise_broken(program: Program, outcome: Outcome) -> None:
    """Raise the first rule that a run has broken.

    :raises SimulationFailure: if it has broken any
    """
    if outcome.ledger.violations:
        raise SimulationFailure(program, outcome)


def replay(failure: SimulationFailure, /) -> None:
    """Play the run of a failure once more, with the program as it is now.

    :param failure: what `simulate`, `replay` or `shrink` found
    :raises SimulationFailure: if it breaks a rule again; otherwise it is mended
    """
    with Stage(failure.program) as stage:
        raise_broken(failure.program, stage.play(failure.scenario))


def _length(ledger: Ledger) -> float:
    return ledger.now
