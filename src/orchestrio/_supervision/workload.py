"""For which tasks a scheduler runs: when none of them is left, `run` is over."""

from __future__ import annotations

from typing import final

from .._workers.worker import Worker

__all__ = ["Workload"]


@final
class Workload:
    """Keeps count of the tasks that have work, or will."""

    __slots__ = ("_consumers", "_on_their_way", "_produced", "_producers")

    def __init__(self) -> None:
        self._producers: set[Worker] = set()  # background tasks that are not done
        self._produced = False  # whether there ever was one
        self._consumers: set[Worker] = set()  # event tasks that are not done
        self._on_their_way: set[Worker] = set()  # those of them that do not work yet

    def note(self, worker: Worker) -> None:
        """Look at a task again: it has begun, ended, or is wanted otherwise."""
        is_done = worker.is_done or worker.is_gone
        if worker.kind == "background":
            if is_done:
                self._producers.discard(worker)
            else:
                self._producers.add(worker)
                self._produced = True
        elif is_done:
            self._consumers.discard(worker)
            self._on_their_way.discard(worker)
        else:
            self._consumers.add(worker)
            if worker.run is not None and worker.run.is_working:
                self._on_their_way.discard(worker)
            else:
                self._on_their_way.add(worker)

    @property
    def is_done(self) -> bool:
        """Whether nobody has work: no background task, or if there was none, no event task."""
        return (
            not self._producers
            and (self._produced or not self._consumers)
            # Whoever is to work soon handles what was published for it.
            and all(worker.is_drained for worker in self._on_their_way)
        )
