"""Virtual time for asyncio: a selector that jumps where others sleep, and a loop with an order."""

from __future__ import annotations

import asyncio
import time
from asyncio import Handle, TimerHandle
from collections.abc import Callable
from concurrent.futures import Executor
from contextvars import Context, copy_context
from functools import partial
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf, nextafter
from random import Random
from selectors import DefaultSelector, SelectorKey
from typing import Any, TypeAlias, TypeVar, TypeVarTuple, final
from weakref import WeakKeyDictionary

from anyio.to_thread import current_default_thread_limiter

from ..._scheduler.signals import SIGNALS
from .clock import Watch
from .order import Steps, steps

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

Step: TypeAlias = Callable[[], object]

RESOLUTION = time.get_clock_info("monotonic").resolution  # as asyncio sees it
FEW_TIMERS = 100

#: How a callback of the event loop is called that steps a task. The first is that of a task of
#: the C implementation before its first step, which has no name.
STEPS = (None, "task_wakeup", "__step", "__wakeup")


def virtual_options(watch: Watch) -> dict[str, object]:
    """Return the options for AnyIO's asyncio backend."""
    return {"loop_factory": partial(VirtualTimeLoop, watch)}


def task_lister() -> Callable[[], list[tuple[str, object]]]:
    """Return what lists the tasks of this event loop, by name and coroutine, in any thread."""
    loop = asyncio.get_running_loop()
    return lambda: [(task.get_name(), task.get_coro()) for task in asyncio.all_tasks(loop)]


@final
class VirtualTimeSelector(DefaultSelector):
    """Keeps the time, and waits for files only as long as virtual time allows."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.now: float = 0.0
        self.own_files = 0
        self.executor_jobs = 0
        self._watch = watch
        self._timers: list[tuple[float, int, TimerHandle]] = []  # a heap
        self._numbers = count()  # so that no two timers are compared, nor the arguments they hold
        self._room = FEW_TIMERS

    def add_timer(self, when: float, timer: TimerHandle) -> None:
        """Let the clock stop at a timer on its way."""
        if len(self._timers) >= self._room:
            # Most timers are timeouts, cancelled long before their time would have come.
            self._timers = [known for known in self._timers if not known[2].cancelled()]
            heapify(self._timers)
            self._room = FEW_TIMERS + 2 * len(self._timers)
        heappush(self._timers, (when, next(self._numbers), timer))

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        """Poll if a task can run; if all wait, really wait for files, or jump to the next timer."""
        deadline = self._next_deadline()
        if timeout is not None and timeout <= 0:
            if deadline == nextafter(self.now, inf):  # see `call_at`
                self.now = deadline
            return super().select(0)
        if deadline == inf:
            return super().select(None)
        if self.executor_jobs or current_default_thread_limiter().borrowed_tokens:
            return self._select_in_real_time(deadline)
        watch = self._watch
        own_files = self.own_files + SIGNALS.files_waited_for
        events = super().select(watch.io_grace if len(self.get_map()) > own_files else 0)
        if not events:
            if watch.before_jump is not None:
                watch.before_jump()
            self.now = deadline
        return events

    def _select_in_real_time(self, deadline: float) -> list[tuple[SelectorKey, int]]:
        """Wait for files and threads, and let the clock run as any clock does."""
        began = time.monotonic()
        events = super().select(deadline - self.now)
        if events:
            self.now = min(self.now + time.monotonic() - began, deadline)
        else:
            self.now = deadline
        return events

    def _next_deadline(self) -> float:
        timers = self._timers
        while timers and (timers[0][0] <= self.now or timers[0][2].cancelled()):
            heappop(timers)
        return timers[0][0] if timers else inf


@final
class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop of asyncio whose time is that of its selector, and whose order has a seed."""

    def __init__(self, watch: Watch) -> None:
        self._clock = VirtualTimeSelector(watch)
        self._steps: Steps[Step] | None = None
        if watch.seed is not None:
            self._steps = steps(watch.order, Random(watch.seed))
        self._numbers: WeakKeyDictionary[asyncio.Task[object], int] = WeakKeyDictionary()
        self._made = count()
        self._callback: object = None  # that which runs just now, as far as it is known
        self._neutral = Context()
        super().__init__(self._clock)
        self._clock.own_files = len(self._clock.get_map())  # what wakes it from other threads
        self.call_soon(watch.run_begins)  # before anything else

    def time(self) -> float:
        """Return the virtual time."""
        return self._clock.now

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> TimerHandle:
        """Schedule a callback, and tell the clock."""
        # asyncio runs what is due before now plus its clock's resolution. Where floats are coarser
        # than that (after half a year), what is due just now would never run. So tell it the float
        # before. If that is now, it only polls, and `select` takes the smallest step there is.
        due = when if when + RESOLUTION > when else nextafter(when, -inf)
        timer = super().call_at(due, callback, *args, context=context)
        self._clock.add_timer(when, timer)
        return timer

    # The event loop calls this for every step of a task. A seed decides which of the steps that are
    # ready is taken when one of them would be; all other callbacks keep their place among these.
    def call_soon(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> Handle:
        """Schedule a callback; a step of a task is scheduled as a step of any task."""
        task: asyncio.Task[object] | None = getattr(callback, "__self__", None)
        if (
            self._steps is None
            or not isinstance(task, asyncio.Task)
            or getattr(callback, "__name__", None) not in STEPS
        ):
            return super().call_soon(callback, *args, context=context)
        number = self._number_of(task)
        cancelled = task.cancelling() or any(
            isinstance(arg, asyncio.Future) and arg.cancelled() for arg in args
        )
        run = copy_context().run if context is None else context.run
        step = partial(run, callback, *args)
        self._steps.add(number, step, self._callback if cancelled else None)
        return super().call_soon(self._take_a_step, context=self._neutral)

    def _number_of(self, task: asyncio.Task[object]) -> int:
        """Return the number of a task; new ones are counted as they come."""
        if (number := self._numbers.get(task)) is None:
            number = self._numbers[task] = next(self._made)
        return number

    # An eager task takes its first step as it is made, and may be heard of by a wake-up only.
    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        """Make a task, and give it its number."""
        task = super().create_task(coro, **options)
        if self._steps is not None:
            self._number_of(task)
        return task

    def _take_a_step(self) -> None:
        assert self._steps is not None
        self._callback = step = self._steps.take()
        step()

    # asyncio looks up host names here, and not in AnyIO's threads.
    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Run a function in an executor; the clock runs as any clock does meanwhile."""
        future = super().run_in_executor(executor, func, *args)
        self._clock.executor_jobs += 1
        future.add_done_callback(self._executor_job_done)
        return future

    def _executor_job_done(self, future: asyncio.Future[T]) -> None:
        self._clock.executor_jobs -= 1

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Wait for the threads of the executor, however long it takes."""
        # A timeout would be over at once, and warn of threads that are only about to end.
        await super().shutdown_default_executor()
