"""`Stage`: where runs are played, in a thread of their own, so that nothing can hang the caller.

The thread that waits sees when a run hangs: in virtual time, since the run says so itself and its
thread is left behind as it stands; in real time, when it takes too long. Then it says where every
task stands, and ends the process: there is no other way to end a loop that spins.
"""

from __future__ import annotations

import gc
import logging
import os
import random
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import itemgetter
from queue import Empty, SimpleQueue
from typing import Any, Final, NoReturn, Self

import anyio

from orchestrio import Scheduler

from ..._workers.stack import task_stack
from .._rules.ledger import Ledger
from .._time.clock import Watch
from .._time.virtual import Backend, virtual_options
from .play import Check, Drive, Play
from .scenario import Scenario

START: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""What the wall clock says when a run begins."""

WATCHDOG_STATUS: Final = 70
"""The exit status of a process that the watchdog ended."""


@dataclass(frozen=True, slots=True)
class Program:
    """What is played: all that a simulation was given, but for seeds and backends."""

    build: Callable[[], Scheduler[Any]]
    drive: Drive | None
    check: tuple[Check, ...]
    limit: float
    seconds: float


@dataclass(slots=True)
class Outcome:
    """What came of one run."""

    scenario: Scenario
    ledger: Ledger


class Stage:
    """Plays runs, one after the other."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._jobs: SimpleQueue[Callable[[], None] | None] | None = None
        self._thread: threading.Thread | None = None
        self._last: Scheduler[Any] | None = None

    def __enter__(self) -> Self:
        # When the collector runs by itself depends on what was made before, and what it finalises
        # in the middle of a run is a part of that run.
        self._collects = gc.isenabled()
        gc.disable()
        gc.freeze()  # what is here already need not be looked through after each run
        return self

    def __exit__(self, *args: object) -> None:
        gc.unfreeze()
        if self._collects:
            gc.enable()
        if self._jobs is not None:
            self._jobs.put(None)
            assert self._thread is not None
            self._thread.join()

    def play(
        self, scenario: Scenario, draw: Callable[[Scheduler[Any]], Scenario] | None = None
    ) -> Outcome:
        """Play one run, and wait for it.

        :param scenario: what is to happen
        :param draw: returns it with its faults, once the program is known
        :return: what was seen
        """
        program = self._program
        results: SimpleQueue[Outcome | BaseException] = SimpleQueue()
        parked = threading.Event()  # never set
        lister: list[Callable[[], list[tuple[str, object]]]] = []

        played = scenario

        def hung() -> NoReturn:
            play.ledger.stacks = _stacks(lister[0]())
            results.put(Outcome(played, play.ledger))
            while True:
                parked.wait()

        def choose(scheduler: Scheduler[Any]) -> Scenario:
            nonlocal played
            if scheduler is self._last:
                raise TypeError("build() must return a new scheduler each time, as it lives once")
            self._last = scheduler
            lister.append(_task_lister(scenario.backend))
            played = scenario if draw is None else draw(scheduler)
            return played

        def job() -> None:
            try:
                random.seed(scenario.seed)
                anyio.run(
                    play.run, scenario, choose, backend=scenario.backend, backend_options=options
                )
                results.put(Outcome(played, play.ledger))
            except BaseExceptionGroup as group:  # of the task group around it all
                results.put(group.exceptions[0] if len(group.exceptions) == 1 else group)
            except BaseException as error:
                results.put(error)

        play = Play(program.build, program.drive, program.check, program.limit, hung)
        watch = Watch(0.05, scenario.order_seed, scenario.order, START, play.at_rest)
        options = virtual_options(scenario.backend, watch)
        state = random.getstate()
        with _witness(play.ledger):
            self._give(job)
            try:
                result = results.get(timeout=program.seconds)
            except Empty:
                self._end_the_process(scenario, lister)
            except BaseException:  # Ctrl-C, say: the run may never end
                self._leave_behind(scenario.backend)
                raise
            finally:
                random.setstate(state)
            if isinstance(result, Outcome) and result.ledger.stacks:
                self._leave_behind(scenario.backend)
            else:
                gc.collect()  # while what it finds is still seen
                play.ledger.note_warnings()
        if isinstance(result, BaseException):
            raise result
        return result

    def _give(self, job: Callable[[], None]) -> None:
        if self._jobs is None:
            jobs = self._jobs = SimpleQueue()
            context = copy_context()
            self._thread = threading.Thread(
                target=context.run, args=(_work, jobs), name="simulation", daemon=True
            )
            self._thread.start()
        self._jobs.put(job)

    def _leave_behind(self, backend: Backend) -> None:
        """Let the thread of a run that hangs stand where it is, for ever."""
        self._jobs = self._thread = None
        if backend == "trio":
            from .._time.trio_order import put_back

            put_back()

    def _end_the_process(
        self, scenario: Scenario, lister: list[Callable[[], list[tuple[str, object]]]]
    ) -> NoReturn:
        silence = f"a run has not ended after {self._program.seconds:g} real seconds"
        lines = [f"simulation: {silence}; the process ends. {scenario}"]
        if self._thread is not None and self._thread.ident is not None:
            # The one way to see what another thread does just now, documented in spite of its name.
            frame = sys._current_frames().get(self._thread.ident)  # pyright: ignore[reportPrivateUsage]
            lines += ["what runs:", *traceback.format_stack(frame)]
        try:
            if lister:
                lines += ["where the tasks stand:", _stacks(lister[0]())]
        finally:
            # Under pytest the plugin knows where standard error is.
            plugin = sys.modules.get("_orchestrio_pytest")
            os.write(getattr(plugin, "stderr", 2), ("\n".join(lines) + "\n").encode())
            os._exit(WATCHDOG_STATUS)


def _work(jobs: SimpleQueue[Callable[[], None] | None]) -> None:
    # The context is the caller's, and may say that an event loop runs; not in this thread.
    if (sniffio := sys.modules.get("sniffio")) is not None:
        sniffio.current_async_library_cvar.set(None)
    while (job := jobs.get()) is not None:
        job()


def _stacks(tasks: list[tuple[str, object]]) -> str:
    """Say where each task stands, but for those of the simulation itself."""
    return "".join(
        f"task {name!r}:\n{task_stack(coro, without='')}"
        for name, coro in sorted(tasks, key=itemgetter(0))
        if not name.startswith("orchestrio.testing.")
    )


def _task_lister(backend: Backend) -> Callable[[], list[tuple[str, object]]]:
    if backend == "asyncio":
        from .._time.asyncio_loop import task_lister as asyncio_lister

        return asyncio_lister()
    from .._time.trio_clock import task_lister as trio_lister

    return trio_lister()


@contextmanager
def _witness(ledger: Ledger) -> Generator[None]:
    """Have the ledger see what is logged, warned of and cannot be raised, meanwhile."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.name == "orchestrio":
                ledger.note_record(record)
            elif record.levelno >= logging.WARNING:
                ledger.warnings.append(f"{record.name}: {record.getMessage()}")

    def show(message: Any, category: type[Warning], *place: Any, **where: Any) -> None:
        if issubclass(category, ResourceWarning) or "never awaited" in str(message):
            ledger.warnings.append(f"{category.__name__}: {message}")
        else:
            warn(message, category, *place, **where)

    def unraisable(told: Any) -> None:
        ledger.warnings.append(f"{told.err_msg or 'not raised'}: {told.exc_value!r}")

    handler = Handler(logging.INFO)
    loggers = [logging.getLogger("orchestrio"), logging.getLogger("asyncio")]
    before = [(logger.level, logger.propagate, logger.disabled) for logger in loggers]
    disabled = logging.root.manager.disable
    hook = sys.unraisablehook
    with warnings.catch_warnings():
        warnings.simplefilter("always", ResourceWarning)
        warnings.filterwarnings("always", message=".*never awaited", category=RuntimeWarning)
        warn, warnings.showwarning = warnings.showwarning, show
        for logger in loggers:
            logger.addHandler(handler)
            logger.setLevel(logging.INFO)
            logger.disabled = False
            logger.propagate = False  # thousands of runs would flood the console
        sys.unraisablehook = unraisable
        logging.disable(logging.NOTSET)
        try:
            yield
        finally:
            sys.unraisablehook = hook
            logging.disable(disabled)
            for logger, (level, propagate, off) in zip(loggers, before, strict=True):
                logger.removeHandler(handler)
                logger.setLevel(level)
                logger.propagate = propagate
                logger.disabled = off
