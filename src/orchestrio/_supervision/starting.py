"""How a scheduler starts: tasks are initialised one after the other, and then all begin to work."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, final

from anyio import Event, current_time

from .._model._loops.wakeup import Wakeup
from .._workers.wanted import Wanted
from .._workers.worker import Worker

__all__ = ["Start", "StartRun"]


class StartRun(Protocol):
    """What starts a run."""

    def __call__(
        self,
        worker: Worker,
        *,
        not_before: float = ...,
        begun: Callable[[], None] | None = ...,
    ) -> bool:
        """Start the next run of a task.

        :param worker: the task
        :param not_before: when it may begin, in seconds on the event loop's clock
        :param begun: called when it is initialised, or never will be
        :return: whether there is a run; if not, nothing is called
        """
        ...


@final
class Start:
    """The start of a scheduler, with all tasks that belong to it."""

    __slots__ = ("_all_initialized", "_beginning", "_start_run", "_workers", "is_on", "over")

    def __init__(self, start_run: StartRun) -> None:
        self._start_run = start_run
        self._workers: list[Worker] = []  # those that belong to it
        self._beginning = 0  # how many of them are to be initialised yet
        self._all_initialized = Event()  # or never will be
        #: whether nobody works yet, since not all are initialised
        self.is_on: bool = True
        #: notified when they may
        self.over: Wakeup = Wakeup()

    async def initialize(self, workers: Iterable[Worker]) -> None:
        """Initialise tasks in order, and wait until they and all that `add` adds are."""
        self._workers += workers
        # Each starts the next when it is initialised: nobody in between has to be woken.
        remaining = iter(self._workers[:])

        def start_next() -> None:
            for worker in remaining:
                if worker.wanted is Wanted.RUN:
                    self._start_run(worker, begun=start_next)
                    return
            self._one_has_begun()

        self._beginning += 1
        start_next()
        await self._all_initialized.wait()

    def add(self, worker: Worker) -> None:
        """Initialise a task that comes while the others are initialised, beside them."""
        self._workers.append(worker)
        self._beginning += 1
        self._start_run(worker, begun=self._one_has_begun)

    def _one_has_begun(self) -> None:
        self._beginning -= 1
        if not self._beginning:
            self._all_initialized.set()

    def stop_waiting(self) -> None:
        """Wait for none of them any more."""
        self._workers = []
        self._all_initialized.set()

    def begin_work(self) -> None:
        """Let all of them work."""
        self.is_on = False
        self.over.notify_all()
        now = current_time()
        for worker in self._workers:
            if worker.run is not None:
                worker.run.begin_work(now)

    async def wait_ready(self) -> None:
        """Wait until each of them is ready, or never will be."""
        workers, self._workers = self._workers, []
        for worker in workers:
            while not (worker.is_ready or worker.is_done or worker.is_gone):
                await worker.changed.wait()
