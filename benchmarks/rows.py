"""The one table of all benchmarks: what was measured, its goal, and whether that was reached.

What is compared is timed in turn within one run, and a figure is the median of the ratios: so write
a loop over the rounds, append one ratio in each, and give them to `at_most` or `at_least`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from statistics import median

__all__ = ["at_least", "at_most", "print_head", "print_row"]


def print_head() -> None:
    """Print what measures, and the head of the table."""
    print(f"CPython {sys.version.split()[0]}\n")
    print("| what | goal | measured | reached |\n|---|---|---:|---|", flush=True)


def print_row(what: str, goal: str, measured: str, reached: bool | None) -> None:
    """Print one row; one that has no goal was not missed either."""
    verdict = "" if reached is None else "yes" if reached else "**NO**"
    print(f"| {what} | {goal} | {measured} | {verdict} |", flush=True)


def at_most(what: str, limit: float, figures: Sequence[float], unit: str = "") -> None:
    """Print a row whose figure, the median, is to be so much or less."""
    value = median(figures)
    print_row(what, f"at most {limit:g}{unit or ' times'}", f"{value:.2f}{unit}", value <= limit)


def at_least(what: str, limit: float, figures: Sequence[float], unit: str = "") -> None:
    """Print a row whose figure, the median, is to be so much or more."""
    value = median(figures)
    print_row(what, f"at least {limit:g}{unit or ' times'}", f"{value:.2f}{unit}", value >= limit)
