"""What a soak measures of its process, and when it calls that flat.

A sample is taken at rest, so that what is left is what is kept, and not what is just under way.
Of the second half of the samples the slope is taken, by Theil and Sen: the median of the slopes
between any two of them, which a few outliers do not bend. Flat is what grows by less than its
tolerance over that half, so the longer a soak is, the smaller a leak it finds.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import threading
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Final

import anyio
from pydantic_core import from_json

PROC: Final = Path("/proc/self")


@dataclass(frozen=True, slots=True)
class Sample:
    """How the process stands at one moment."""

    time: float
    """Seconds since the begin."""
    operations: int
    """What the library was asked for until then: messages sent, and orders given."""
    memory: int
    """Bytes in RAM."""
    blocks: int
    """Blocks of memory that the interpreter has given out; counts strings and numbers too."""
    objects: int
    """Python objects that the garbage collector knows."""
    files: int
    """Open file handles."""
    tasks: int
    """Tasks of the event loop."""
    threads: int
    """Threads."""


#: By how much each may grow over the second half.
TOLERANCES: Final = {
    "memory": 2**20,
    "blocks": 500,
    "objects": 150,
    "files": 1,
    "tasks": 1,
    "threads": 1,
}


def take_sample(time: float, operations: int) -> Sample:
    """Look at the process, after a garbage collection."""
    sys._clear_type_cache()  # which would fill with names of attributes, for half an hour
    gc.collect()
    return Sample(
        time=time,
        operations=operations,
        memory=bytes_in_ram(),
        blocks=sys.getallocatedblocks(),
        objects=len(gc.get_objects()),
        files=open_files(),
        tasks=len(anyio.get_running_tasks()),
        threads=threading.active_count(),
    )


def fill_caches() -> None:
    """Let Pydantic have the strings that it keeps to save making them, some 16,000 of any."""
    for some in range(100):  # at a time, since memory that is free again would hide a leak
        from_json(json.dumps([f"string {some}.{number}" for number in range(2000)]))


def bytes_in_ram() -> int:
    """Return what the process holds in RAM; where nobody says so, the most it ever held."""
    if (PROC / "statm").exists():
        return int((PROC / "statm").read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def open_files() -> int:
    """Return how many file handles are open; the one that looks is among them."""
    directory = PROC / "fd" if PROC.exists() else Path("/dev/fd")
    return len(os.listdir(directory))


def describe(sample: Sample) -> str:
    """Put a sample in one line of a table."""
    return (
        f"{sample.time:6.1f} s {sample.operations:10,} operations {sample.memory / 2**20:6.1f} MiB"
        f" {sample.blocks:8,} blocks {sample.objects:7,} objects {sample.files:3} files"
        f" {sample.tasks:4} tasks {sample.threads:2} threads"
    )


def kinds_of_objects() -> Counter[str]:
    """Return how many objects there are of each type, to tell what a leak is made of."""
    return Counter(type(thing).__qualname__ for thing in gc.get_objects())


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the median of the slopes between any two points."""
    return median(
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for earlier, later in combinations(points, 2)
        if later[0] > earlier[0]
    )


@dataclass(frozen=True, slots=True)
class Trend:
    """How one measure went in the second half of a soak."""

    measure: str
    last: float
    per_second: float
    seconds: float
    operations: float

    @property
    def growth(self) -> float:
        """By how much it grew."""
        return self.per_second * self.seconds

    @property
    def is_flat(self) -> bool:
        """Whether it grew by no more than its tolerance."""
        return self.growth <= TOLERANCES[self.measure]

    def __str__(self) -> str:
        return (
            f"{self.measure}: {self.growth:+,.0f} in {self.seconds:,.0f} s, tolerance"
            f" {TOLERANCES[self.measure]:,}; {self.growth / self.operations * 1000:+,.2f} per"
            f" 1,000 operations, {self.last:,.0f} in the end"
        )


class Record:
    """The samples of a soak, kept in arrays so that they are no leak themselves."""

    def __init__(self) -> None:
        self._columns = {field.name: array("d") for field in fields(Sample)}

    def add(self, sample: Sample) -> None:
        """Keep one more sample."""
        for name, column in self._columns.items():
            column.append(getattr(sample, name))

    def trends(self) -> list[Trend]:
        """Return how each measure went in the second half; nothing if that is too short."""
        if len(self._columns["time"]) < 4:
            return []
        half = {name: column[len(column) // 2 :] for name, column in self._columns.items()}
        times, operations = half["time"], half["operations"]
        return [
            Trend(
                measure=measure,
                last=half[measure][-1],
                per_second=slope(list(zip(times, half[measure], strict=True))),
                seconds=times[-1] - times[0],
                operations=operations[-1] - operations[0],
            )
            for measure in TOLERANCES
        ]
