"""A soak: everything that a scheduler can do, for minutes, and then: is all flat, does it add up?

    python tests/soak.py [--minutes 10] [--backend asyncio|trio] [--uvloop] [--seed 1] [--leak]

In real time, with CPython on POSIX, and for two minutes at least, since caches fill first.
Publishers, one of them a thread, keep quick, slow and failing handlers busy on channels of all
overflow policies; tasks crash and are restarted, alone, in groups and by hand; tasks and receivers
come and go. Every few seconds the load pauses until all that was sent is handled, and what the
process holds then is measured. It ends with status 1 and a line for each finding if

- memory, objects, file handles, threads or tasks of the event loop grew in the second half, by
  more than the tolerances in ``soaking/measures.py``;
- the counters of a task do not say what became of each message that its subscription was sent, or
  go back, or there are not as many dead letters as failures for good;
- something does not come to rest, or the stop takes longer than its time-outs.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import logging
import os
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence
from time import perf_counter
from typing import Final, Literal

import anyio
from anyio import sleep
from soaking.load import TICK, TICKING, build
from soaking.measures import Record, describe, fill_caches, kinds_of_objects, take_sample
from soaking.stage import LONGEST_STOP, Stage

from orchestrio import Scheduler

#: Minutes without which there are too few samples.
SHORTEST: Final = 0.5

#: Seconds from one sample to the next, and from one look at the counters to the next.
PAUSE: Final = 4.0
LOOK: Final = 0.1

#: Seconds within which all that was sent must be handled once nobody sends any more.
LONGEST_REST: Final = 30.0

#: Seconds after which a soak that should be over is ended, with a traceback of each thread.
HUNG: Final = 90.0


class Options(argparse.Namespace):
    """What the command line says."""

    minutes: float
    backend: Literal["asyncio", "trio"]
    uvloop: bool
    seed: int
    leak: bool


class Soak:
    """One run of the load, and what came out."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.findings: list[str] = []
        self.record = Record()
        self.growth: Counter[str] = Counter()  # of objects by type, after the first quarter
        self.began = perf_counter()

    @property
    def time(self) -> float:
        return perf_counter() - self.began

    async def run(self) -> None:
        """Put a scheduler under load for as long as it is to be."""
        tasks_before = len(anyio.get_running_tasks())
        scheduler = Scheduler()
        stage = Stage(scheduler, self.options.seed, leak=self.options.leak)
        build(stage)
        async with scheduler:
            await scheduler.start()
            self.began = perf_counter()
            while self.time < self.options.minutes * 60:
                await self.look_on(stage, self.time + PAUSE)
                await self.look_at_rest(stage)
            await self.look_on(stage, self.time + PAUSE)
            self.check_ticks(scheduler)
            await self.stop(stage)
        self.close_the_books(stage)
        tasks = len(anyio.get_running_tasks())
        if tasks != tasks_before:
            self.findings.append(f"{tasks - tasks_before} tasks of the event loop are left")

    async def look_on(self, stage: Stage, until: float) -> None:
        """Compare the counters while the load goes on."""
        while self.time < until:
            await sleep(LOOK)
            stage.books.check()

    async def look_at_rest(self, stage: Stage) -> None:
        """Have the load pause, and take a sample."""
        if not await stage.come_to_rest(LONGEST_REST):
            self.findings.append(f"no rest within {LONGEST_REST:g} s, {self.time:.0f} s from begin")
        stage.books.check(at_rest=True)
        sample = take_sample(self.time, stage.books.operations)
        self.record.add(sample)
        print(describe(sample), flush=True)
        if not self.growth and self.time > self.options.minutes * 15:
            self.growth.subtract(kinds_of_objects())
        elif self.time > self.options.minutes * 60:
            self.growth.update(kinds_of_objects())
        stage.gate.open()

    def check_ticks(self, scheduler: Scheduler) -> None:
        """Compare the ticks of periodic tasks with the time that has passed."""
        expected = self.time / TICK
        for name in TICKING:
            shot = scheduler.status(scheduler.registry.get_by_name(name).task_id)
            ticks = shot.handled + shot.failed + shot.missed
            if abs(ticks - expected) > 20:  # a second
                self.findings.append(f"{name}: {ticks} ticks, when {expected:.0f} were due")

    async def stop(self, stage: Stage) -> None:
        """Stop in the middle of it all, and see how long that takes."""
        stage.stopping = True
        for task in stage.books.accounts:
            stage.books.ask(task)
        asked = perf_counter()
        await stage.scheduler.shutdown()
        took = perf_counter() - asked
        print(f"the stop took {took:.2f} s")
        if took > LONGEST_STOP:
            self.findings.append(f"the stop took {took:.1f} s, when {LONGEST_STOP:g} s is the most")

    def close_the_books(self, stage: Stage) -> None:
        """Compare all accounts for the last time."""
        for task in list(stage.books.accounts):
            stage.books.close(task)
        for topic, channel in stage.scheduler.bus.statistics().items():
            if channel.receivers:
                self.findings.append(f"{channel.receivers} receivers of {topic} are left")
        stage.books.compare_letters()
        self.findings += stage.books.findings
        print(f"{stage.books.operations:,} operations, {stage.books.letters:,} dead letters")

    def judge(self) -> None:
        """See what grew in the second half."""
        for trend in self.record.trends():
            print(trend)
            if not trend.is_flat:
                self.findings.append(f"not flat: {trend}")
        if any(finding.startswith("not flat: objects") for finding in self.findings):
            most = self.growth.most_common(5)
            print("what grew most:", ", ".join(f"{kind} {growth:+}" for kind, growth in most))


def parse(arguments: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    parser.add_argument("--uvloop", action="store_true", help="on asyncio, run on uvloop")
    parser.add_argument("--seed", type=int, default=1, help="of the dice that are thrown")
    parser.add_argument("--leak", action="store_true", help="leak receivers: this must fail")
    options = parser.parse_args(arguments, namespace=Options())
    if options.minutes < SHORTEST:
        parser.error(f"a soak takes {SHORTEST:g} minutes at least")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    # What goes wrong on purpose fills a log that nobody reads; it is written all the same.
    logger = logging.getLogger("orchestrio")
    logger.addHandler(logging.FileHandler(os.devnull))
    logger.propagate = False
    faulthandler.dump_traceback_later(options.minutes * 60 + HUNG, exit=True)
    soak = Soak(options)
    backend_options = {"use_uvloop": True} if options.uvloop else {}
    fill_caches()
    with warnings.catch_warnings(record=True) as complaints:
        warnings.simplefilter("always", ResourceWarning)
        try:
            anyio.run(soak.run, backend=options.backend, backend_options=backend_options)
        except (Exception, BaseExceptionGroup) as error:
            traceback.print_exception(error)
            soak.findings.append(f"the scheduler has failed: {error!r}")
        gc.collect()
    soak.judge()
    soak.findings += sorted({str(complaint.message) for complaint in complaints})
    for finding in soak.findings:
        print("FOUND", finding)
    print(f"{len(soak.findings)} findings" if soak.findings else "all is flat and adds up")
    return 1 if soak.findings else 0


if __name__ == "__main__":
    sys.exit(main())
