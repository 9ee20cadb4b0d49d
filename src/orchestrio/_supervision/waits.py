"""What a start or a stop waits for just now, in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import inf
from typing import NamedTuple

from .._model.words import counted, in_seconds
from .._workers.host import Host
from .._workers.phases import Phase
from .._workers.run import Run
from .._workers.waiting import what_holds_up
from .._workers.worker import Worker

__all__ = ["Wait", "waits_for_stuck", "waits_of_back_off", "waits_of_start", "waits_of_stop"]


class Wait(NamedTuple):
    """Something that is waited for."""

    #: whose it is
    worker: Host
    #: what it is, to be read after "waiting for"
    what: str
    #: when it began, in seconds on the event loop's clock, if that is known
    since: float | None
    #: how long it may take, in seconds
    timeout: float
    #: what ends it all the same, if there is something to do about it
    way_out: str = ""

    def in_words(self, now: float) -> str:
        """Return what it is, for how long, and of how long.

        :param now: the present, in seconds on the event loop's clock
        """
        if self.since is None:
            return self.what
        limit = "" if self.timeout == inf else f" of {in_seconds(self.timeout)}"
        hint = f" ({self.way_out})" if self.way_out else ""
        return f"{self.what}: {in_seconds(round(max(0.0, now - self.since)))}{limit}{hint}"


def waits_of_start(workers: Iterable[Worker]) -> Iterator[Wait]:
    """Iterate over what holds up tasks that start.

    :param workers: the tasks, in order
    """
    for worker in workers:
        run = worker.run
        if run is not None and not run.is_over and not run.stop_asked:
            what = _holds_up(worker, run)
            if what:
                since = run.works_since if run.is_working else run.since
                yield Wait(worker, what, since, worker.entry.metadata.start_timeout)


def _holds_up(worker: Worker, run: Run) -> str | None:
    name = worker.entry.name
    if run.phase is Phase.INITIALIZING:
        return f"{name}.initialize()"
    if run.phase is Phase.WORKING:
        return None if worker.is_ready else f"{name} to say that it is ready"
    if run.waits_for_others or not worker.entry.metadata.depends_on:
        return None
    waits_for = what_holds_up(run, worker.supervision.dependencies_of(worker))
    return None if waits_for is None else f"{name}, which waits for {waits_for}"


def waits_of_back_off(workers: Iterable[Worker]) -> Iterator[Wait]:
    """Iterate over tasks that begin again after a delay.

    :param workers: the tasks, in order
    """
    for worker in workers:
        run = worker.run
        if run is not None and run.retry_at is not None and not run.stop_asked:
            what = f"{worker.entry.name}, which backs off after a failure"
            yield Wait(worker, what, None, inf)


def waits_of_stop(workers: Iterable[Worker]) -> Iterator[Wait]:
    """Iterate over what holds up tasks that stop; who waits for the turn of another is not named.

    :param workers: the tasks, in order
    """
    for worker in workers:
        run = worker.run
        if run is None or run.is_down:
            continue
        name, metadata = worker.entry.name, worker.entry.metadata
        if run.phase is Phase.SHUTTING_DOWN:
            cut = ", which was cancelled" if run.is_cut_short else ""
            yield Wait(worker, f"{name}.shutdown(){cut}", run.since, metadata.shutdown_timeout)
        elif run.is_over:
            continue
        elif run.cancel_asked:
            hook = "initialize()" if run.phase is Phase.INITIALIZING else worker.doing
            what = f"{name}.{hook}, which was cancelled"
            yield Wait(worker, what, run.since, metadata.stop_timeout)
        elif run.is_working and run.stop_asked and not worker.is_drained:
            yield Wait(
                worker, f"{name} to handle {_left(worker)}", run.since, metadata.drain_timeout
            )
        elif run.stop_asked and run.listens:
            yield Wait(worker, f"{name}.{worker.doing}", run.since, metadata.stop_timeout)


def waits_for_stuck(runs: Iterable[Run], way_out: str) -> Iterator[Wait]:
    """Iterate over runs that nobody waits for any more, but the event loop does.

    :param runs: those that ignore their cancellation
    :param way_out: what ends the process all the same, if anything does
    """
    for run in runs:
        if run.is_stuck:
            what = f"{run.host.entry.name}.{run.hook}, which ignores its cancellation"
            yield Wait(run.host, what, run.since, inf, way_out)


def _left(worker: Worker) -> str:
    facts = worker.facts()
    left = facts["in_hand"] + facts["unread"]
    return "a message" if left == 1 else counted(left, "messages")
