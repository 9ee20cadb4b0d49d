"""`shrink`: makes a scenario smaller for as long as the same rule is broken."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from .._rules.ledger import Ledger
from .scenario import Cancel, Command, Crash, Fault, InHook, OnState, Scenario, Stray, tasks_of
from .simulate import SimulationFailure
from .stage import Outcome, Stage

#: How many orders of steps are tried with one fault or task less.
VARIANTS: Final = 6


def shrink(failure: SimulationFailure, /, *, seconds: float = 60) -> SimulationFailure:
    """Look for the smallest run that breaks the same rule: fewer tasks, fewer and simpler faults.

    :param failure: what `simulate` found
    :param seconds: how long to look, in real seconds
    :return: the smallest that was found, perhaps the same
    """
    deadline = time.monotonic() + seconds
    smallest = failure
    with Stage(failure.program) as stage:
        tasks = _tasks_of_the_program(stage, failure)
        again = True
        while again:
            again = False
            for smaller in _smaller(smallest.scenario, tasks):
                if time.monotonic() > deadline:
                    return smallest
                outcome = _try(stage, smaller)
                if outcome is not None and _breaks(outcome.ledger, failure):
                    smallest = SimulationFailure(failure.program, outcome)
                    again = True
                    break
    return smallest


def _tasks_of_the_program(stage: Stage, failure: SimulationFailure) -> list[str]:
    names: list[str] = []
    outcome = stage.play(replace(failure.scenario, faults=(), without=()))
    names += outcome.ledger.metadata
    return names


def _try(stage: Stage, scenario: Scenario) -> Outcome | None:
    try:
        return stage.play(scenario)
    except Exception:
        return None  # no program any more: a task that another one needs is missing


def _breaks(ledger: Ledger, failure: SimulationFailure) -> bool:
    """Whether a run breaks the same rule; of what the program itself raised, it must be the same."""
    if not ledger.violations or ledger.violations[0][0] != failure.kind:
        return False
    own = failure.kind in ("check", "drive", "no_other_errors")
    return not own or _gist(ledger.violations[0][1]) == _gist(failure.what)


def _gist(what: str) -> str:
    """Return what an error says, without the numbers and the details that vary with the run."""
    return re.sub(r"\d+", "", what.partition("\n")[0])


def _smaller(scenario: Scenario, tasks: list[str]) -> Iterator[Scenario]:
    """Iterate over scenarios that are a little smaller, the best first."""
    faults = scenario.faults
    for index in range(len(faults)):
        yield from _in_other_orders(replace(scenario, faults=faults[:index] + faults[index + 1 :]))
    needed = set[str]().union(*(tasks_of(fault) for fault in faults))
    for name in tasks:
        if name not in scenario.without and name not in needed:
            yield from _in_other_orders(replace(scenario, without=(*scenario.without, name)))
    for index, fault in enumerate(faults):
        for simpler in _simpler(fault):
            yield replace(scenario, faults=(*faults[:index], simpler, *faults[index + 1 :]))


def _in_other_orders(scenario: Scenario) -> Iterator[Scenario]:
    """Iterate over a scenario in its order of steps, and in some others.

    With less to do, the order in which it broke may be no order any more.
    """
    for variant in range(scenario.variant, scenario.variant + VARIANTS):
        yield replace(scenario, variant=variant)


def _simpler(fault: Fault) -> Iterator[Fault]:
    when, what = fault.when, fault.what
    if isinstance(when, InHook) and when.call > 1:
        yield replace(fault, when=replace(when, call=1))
    if isinstance(when, InHook) and when.checkpoint > 0:
        yield replace(fault, when=replace(when, checkpoint=0))
    if isinstance(when, OnState) and when.nth > 1:
        yield replace(fault, when=replace(when, nth=1))
    if isinstance(what, (Cancel, Stray)):
        yield replace(fault, what=Crash())
    if isinstance(what, Command) and what.patience is not None:
        yield replace(fault, what=replace(what, patience=None))
    if isinstance(what, Command) and what.anew is not None:
        yield replace(fault, what=replace(what, anew=None))
    if isinstance(what, Command) and what.name == "register" and what.group is not None:
        yield replace(fault, what=replace(what, group=None))
    if isinstance(what, Command) and what.event is not None:
        yield replace(fault, what=replace(what, event=None))
