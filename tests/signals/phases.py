"""Programs that are killed in each phase of their life, many at a time.

    python phases.py BACKEND

Each is a process of its own, forked before any event loop has run, which is cheap. It says when it
is where it is to be, gets its signals, and how it ends is printed as JSON, one line each.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TypeAlias

import anyio
import anyio.lowlevel
from anyio import CancelScope, Event, create_task_group, sleep, sleep_forever, to_thread

from orchestrio import BackgroundTask, RestartPolicy, Scheduler, Topic, current_task_context

Run: TypeAlias = Callable[[], Awaitable[None]]
Phase: TypeAlias = Callable[[Scheduler], "Run | None"]

WORDS = Topic("words")
LONG = 40.0
"""Longer than any test waits, in seconds."""

IN_TIME = 20.0
"""How long after the last signal a process may live, in seconds."""

GAP = 0.3
"""Between two signals, in seconds."""

BOUND = 0.5
"""Each of the time-outs of the tasks, in seconds."""

AT_ONCE = 16
"""How many processes run at a time."""

TERM, INT = int(signal.SIGTERM), int(signal.SIGINT)
SIGNALS = ((TERM,), (INT,), (TERM, INT), (INT, INT, INT), (TERM, INT, TERM))


@dataclass
class End:
    """How a process ended."""

    phase: str
    signals: tuple[int, ...]
    status: int | None
    """Its exit status, as `subprocess` would give it; `None` if it had to be killed."""
    seconds: float
    """From the last signal to the end."""
    said: list[str]


def here() -> None:
    """Say that the phase has come."""
    say("here")


def say(what: str) -> None:
    os.write(1, f"{what}\n".encode())


class Beside(BackgroundTask):
    """Stands beside the task in trouble, and is to be shut down whatever that one does."""

    async def execute(self) -> None:
        await sleep_forever()

    async def shutdown(self) -> None:
        say("beside is down")


# -- the phases: each makes a task that is going to be there -----------------------------------


def before_run(scheduler: Scheduler) -> None:
    here()
    time.sleep(LONG)


def closed_loop(scheduler: Scheduler) -> None:
    """An event loop of asyncio was closed over a run() that nobody waited for."""
    loop = asyncio.new_event_loop()
    running = loop.create_task(scheduler.run())
    while not scheduler.health().ready:
        loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    here()
    time.sleep(LONG)
    print(running)  # it is kept to the end


def ended_loop(scheduler: Scheduler) -> None:
    """An event loop has ended with its run(), and the program goes on."""
    other = Scheduler()
    other.background(anyio.lowlevel.checkpoint)
    anyio.run(other.run)
    here()
    time.sleep(LONG)


def log_that_raises(scheduler: Scheduler) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("no space left on device")

    logger = logging.getLogger("orchestrio")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(Broken())
    logging.raiseExceptions = False  # it would print each

    execute(scheduler)


def initialize(scheduler: Scheduler) -> None:
    class Slow(BackgroundTask):
        async def initialize(self) -> None:
            here()
            await sleep_forever()

        async def execute(self) -> None: ...

    scheduler.register_background_task(Slow())


def waits_for_dependency(scheduler: Scheduler) -> None:
    @scheduler.background(name="never ready", reports_ready=True, start_timeout=LONG)
    async def never() -> None:
        here()
        await sleep_forever()

    @scheduler.background(depends_on=["never ready"], start_timeout=LONG)
    async def dependant() -> None: ...


def execute(scheduler: Scheduler) -> None:
    @scheduler.background()
    async def work() -> None:
        here()
        await sleep_forever()


def handler(scheduler: Scheduler) -> None:
    @scheduler.on(WORDS, drain_timeout=BOUND)
    async def handle(word: str) -> None:
        here()
        await sleep_forever()

    @scheduler.background()
    async def publish() -> None:
        await scheduler.publish(WORDS, "word")
        await sleep_forever()


def back_off(scheduler: Scheduler) -> None:
    @scheduler.background(restart=RestartPolicy(initial_delay=LONG, max_delay=LONG, jitter=0))
    async def failing() -> None:
        try:
            raise ConnectionError
        finally:
            threading.Timer(0.1, here).start()


def drain(scheduler: Scheduler) -> None:
    @scheduler.on(WORDS, drain_timeout=2 * BOUND)
    async def handle(word: str) -> None:
        await scheduler.stopping.wait()
        here()
        await sleep_forever()

    @scheduler.background()
    async def publish() -> None:
        await scheduler.publish(WORDS, "word")
        await scheduler.shutdown()


def slow_stop(scheduler: Scheduler) -> None:
    @scheduler.background(stop_timeout=BOUND)
    async def slow() -> None:
        stopping = current_task_context().stopping
        here()
        await stopping.wait()
        await sleep_forever()


def slow_shutdown(scheduler: Scheduler) -> None:
    class Slow(BackgroundTask):
        async def execute(self) -> None: ...

        async def shutdown(self) -> None:
            here()
            await sleep_forever()

    scheduler.register_background_task(Slow(), shutdown_timeout=2 * BOUND)

    @scheduler.background(depends_on=["Slow"])
    async def main() -> None:
        await scheduler.shutdown()


def shielded_clean_up(scheduler: Scheduler) -> None:
    @scheduler.background(stop_timeout=BOUND)
    async def work() -> None:
        try:
            here()
            await sleep_forever()
        finally:
            with CancelScope(shield=True):
                await sleep(LONG)


def worker_thread(scheduler: Scheduler) -> None:
    def block() -> None:
        here()
        time.sleep(LONG)

    @scheduler.background(stop_timeout=BOUND)
    async def work() -> None:
        await to_thread.run_sync(block)


def blocked_loop(scheduler: Scheduler) -> None:
    @scheduler.background(stop_timeout=BOUND)
    async def work() -> None:
        here()
        time.sleep(LONG)  # noqa: ASYNC251  # the point of it


def spinning_loop(scheduler: Scheduler) -> None:
    @scheduler.background(stop_timeout=BOUND)
    async def work() -> None:
        here()
        while True:
            with suppress(BaseException):  # whoever catches all catches no signal either
                time.monotonic()


def lock_in_loop(scheduler: Scheduler) -> None:
    @scheduler.background(stop_timeout=BOUND)
    async def work() -> None:
        lock = threading.Lock()
        with lock:
            here()
            lock.acquire()


def long_calls_into_c(scheduler: Scheduler) -> None:
    @scheduler.background(stop_timeout=BOUND)
    async def work() -> None:
        here()
        for _ in range(10):
            sum(range(10**8))  # takes longer than all signals


def cancelled_run(scheduler: Scheduler) -> Run:
    """The stop of a run() that was cancelled is a stop like any other."""

    @scheduler.background(stop_timeout=2 * BOUND)
    async def slow() -> None:
        stopping = current_task_context().stopping
        works.set()
        await stopping.wait()
        here()
        await sleep_forever()

    works = Event()

    async def main() -> None:
        async with create_task_group() as group:
            group.start_soon(scheduler.run)
            await works.wait()
            group.cancel_scope.cancel()

    return main


ENDING = (
    before_run,
    closed_loop,
    ended_loop,
    log_that_raises,
    initialize,
    waits_for_dependency,
    execute,
    handler,
    back_off,
    drain,
    slow_stop,
    slow_shutdown,
    cancelled_run,
)
STUCK = (
    shielded_clean_up,
    worker_thread,
    blocked_loop,
    spinning_loop,
    lock_in_loop,
    long_calls_into_c,
)

#: Where each phase ends by itself, within the time-outs; and where it is stuck, up to the third.
CASES = [(phase, signals) for phase in ENDING for signals in SIGNALS] + [
    (phase, signals) for phase in STUCK for signals in SIGNALS if len(signals) == 3
]


# -- the processes ---------------------------------------------------------------------------


def program(phase: Phase, backend: str) -> None:
    """What a child does, to its very end."""
    logging.basicConfig(level=logging.CRITICAL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    scheduler = Scheduler()
    scheduler.add_channel(WORDS)
    scheduler.register_background_task(Beside(), name="beside")
    run = phase(scheduler) or scheduler.run
    name, _, uvloop = backend.partition("+")
    anyio.run(run, backend=name, backend_options={"use_uvloop": True} if uvloop else {})


class Child:
    """One of the processes, from its birth to its end."""

    def __init__(self, phase: Phase, backend: str, signals: tuple[int, ...]) -> None:
        self.phase, self.signals = phase.__name__, signals
        self.reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.reader)
            os.dup2(writer, 1)
            program(phase, backend)
            sys.exit()
        os.close(writer)

    def watch(self, ends: list[End]) -> None:
        """Send the signals when it is where it is to be, and see it end."""
        with os.fdopen(self.reader) as said:
            assert said.readline() == "here\n", self.phase
            status: int | None = None
            last = 0.0
            for number in self.signals:
                os.kill(self.pid, number)
                last = time.monotonic()
                if (status := self._ends(last + GAP)) is not None:
                    break
            if status is None:
                status = self._ends(last + IN_TIME)
            took = time.monotonic() - last
            if status is None:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
            lines = said.read().splitlines()
        ends.append(End(self.phase, self.signals, status, took, lines))

    def _ends(self, until: float) -> int | None:
        while time.monotonic() < until:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        return None


def main(backend: str) -> None:
    gc.collect()
    gc.freeze()  # what they share need not be looked at by each
    cases = CASES
    ends: list[End] = []
    while cases:
        now, cases = cases[:AT_ONCE], cases[AT_ONCE:]
        children = [Child(phase, backend, signals) for phase, signals in now]
        watchers = [threading.Thread(target=child.watch, args=[ends]) for child in children]
        for watcher in watchers:
            watcher.start()
        for watcher in watchers:
            watcher.join()
    for end in ends:
        say(json.dumps(asdict(end)))


if __name__ == "__main__":
    main(sys.argv[1])
