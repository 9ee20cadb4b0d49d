"""Commands: what users ask for, one task or one group at a time, and what they hear of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Hashable, Iterable, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Generic, final

from anyio import create_task_group
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled
from typing_extensions import TypeVar

from .._model.errors import LifecycleError, TaskNotFoundError, TaskShutdownError
from .._workers.phases import Outcome
from .._workers.run import Run
from .._workers.tree import Branch
from .._workers.wanted import Wanted
from .._workers.worker import Worker
from .dependencies import workers_below
from .outcome import raise_together
from .stopping import runs_of, wait_down
from .supervisor import Stage, Supervisor

__all__ = ["Commands"]

E = TypeVar("E", bound=Hashable, default=Hashable)


@final
class Commands(Generic[E]):
    """Says what is wanted of tasks and groups, and waits until it is so.

    A task that gives a command that concerns itself is not waited for. One that is being stopped
    itself does not wait for those that shut down after it.
    """

    def __init__(self, supervisor: Supervisor[E]) -> None:
        self._supervisor = supervisor

    async def stop_tasks(self, workers: Sequence[Worker], *, remove: bool = False) -> None:
        """Stop tasks, and forget them if that is wished for; see `Scheduler.stop_task`.

        :raises TaskShutdownError: if one ``shutdown()`` fails
        :raises ExceptionGroup: if several do
        """
        own = self._supervisor.own_worker()
        await checkpoint()
        await self._stop(workers, own, remove=remove)

    async def _stop(self, workers: Sequence[Worker], own: Worker | None, *, remove: bool) -> None:
        supervisor = self._supervisor
        if supervisor.takes_part:
            supervisor.stop(workers, Wanted.REMOVE if remove else Wanted.STOP, own)
        elif supervisor.stage is Stage.STOPPING:
            for worker in workers:
                if remove and not worker.is_gone:
                    worker.want(Wanted.REMOVE)
        if supervisor.takes_part or supervisor.stage is Stage.STOPPING:
            if own in workers:
                return
            await self._wait_and_raise(workers, own)
        if remove:
            for worker in workers:
                supervisor.forget(worker)

    async def restart_task(self, worker: Worker) -> None:
        """Stop a task and start it again, be it up or not; see `Scheduler.restart_task`.

        :raises LifecycleError: if the scheduler does not run, its group has ended, or it is stopped
            meanwhile
        :raises InvalidChannelError: if its event has no channel any more
        :raises TaskNotFoundError: if it is removed
        :raises TaskShutdownError: if its ``shutdown()`` fails
        """

        def see_that_it_may_run() -> None:
            self._see_that_scheduler_runs()
            if worker.is_gone or worker.wanted is Wanted.REMOVE:
                raise TaskNotFoundError(
                    f"{worker.title} has been removed, or is being removed", worker.entry.task_id
                )
            if worker.parent is not None:
                worker.parent.see_that_it_runs(f"{worker.title} cannot be restarted")
            _see_that_it_ends(worker)

        async with self._as_a_task() as own:
            see_that_it_may_run()
            await checkpoint()
            see_that_it_may_run()
            await self._restart([worker], None, own)

    async def restart_group(self, branch: Branch) -> None:
        """Stop a group and start all of it again; see `Group.restart`."""

        def see_that_it_may_run() -> None:
            if branch.parent is None:
                raise _not_inside()
            self._see_that_scheduler_runs()
            if branch.is_removed:
                raise LifecycleError(f"{branch.title} has been removed: make a new one")
            branch.parent.see_that_it_runs(f"{branch.title} cannot be restarted")
            for worker in workers_below(branch):
                _see_that_it_ends(worker)

        async with self._as_a_task() as own:
            see_that_it_may_run()
            await checkpoint()
            see_that_it_may_run()
            workers = [one for one in workers_below(branch) if one.wanted is not Wanted.REMOVE]
            await self._restart(workers, branch, own)

    @asynccontextmanager
    async def _as_a_task(self) -> AsyncGenerator[Worker | None]:
        """Have the end of the task that gives a command come before the error that this end makes.

        A stop takes tasks down one after the other: it may well refuse or overtake the command just
        before it cancels the task that gave it. A handler that finishes its message is not cancelled.

        :return: the task, if it is one of ours
        """
        own = self._supervisor.own_worker()
        try:
            yield own
        except (LifecycleError, TaskNotFoundError):
            run = None if own is None or own.wanted is Wanted.RUN else own.run
            if own is not None and run is not None:
                handles = own.kind == "event" and run.is_working
                while not (handles or run.is_over or run.cancel_asked or run.listens):
                    await own.changed.wait()
                await checkpoint_if_cancelled()
            raise

    def _see_that_scheduler_runs(self) -> None:
        if self._supervisor.stage is not Stage.RUNNING:
            raise LifecycleError("only a running scheduler can restart its tasks")

    async def _restart(
        self, workers: Sequence[Worker], branch: Branch | None, own: Worker | None
    ) -> None:
        supervisor = self._supervisor
        before = [worker.run for worker in workers]
        _subscribe(workers)
        if branch is not None:
            branch.revive()
        restart = supervisor.restarts.by_hand(workers, branch)
        supervisor.bring_down(restart.concerned, own, drain=True)
        supervisor.restarts.go_on(restart)
        if own in restart.concerned:
            return
        with self._waiting_for(workers) as errors:
            for worker, run in zip(workers, before, strict=True):
                await worker.wait_until(partial(_is_back, worker, run))
        raise_together("tasks did not shut down well", errors)
        for worker, run in zip(workers, before, strict=True):
            if worker.run is run or worker.run is None or worker.run.outcome is Outcome.STOPPED:
                raise LifecycleError(f"{worker.title} was stopped while it was being restarted")

    async def stop_group(self, branch: Branch, *, remove: bool = False) -> None:
        """Stop a group; see `Group.stop` and `Group.remove`."""
        if branch.parent is None:
            raise _not_inside()
        own = self._supervisor.own_worker()
        await checkpoint()
        workers = list(workers_below(branch))
        if remove or self._supervisor.takes_part:
            branch.end()
        if remove:
            branch.leave()
        try:
            await self._stop(workers, own, remove=remove)
        finally:
            if remove:
                self._supervisor.forget_group(branch)

    async def _wait_and_raise(self, workers: Sequence[Worker], own: Worker | None) -> None:
        with self._waiting_for(workers) as errors:
            if own is None:
                await wait_down(runs_of(workers))
            else:
                await self._wait_as_a_task(workers, own)
        raise_together("tasks did not shut down well", errors)

    async def _wait_as_a_task(self, workers: Sequence[Worker], own: Worker) -> None:
        """Wait as a task, which others may wait for: not for these, once it is being stopped."""
        await wait_down(runs_of(worker for worker in workers if worker.rank > own.rank))
        rest = runs_of(worker for worker in workers if worker.rank < own.rank)
        async with create_task_group() as group:

            async def wait_for_rest() -> None:
                await wait_down(rest)
                group.cancel_scope.cancel()

            group.start_soon(wait_for_rest)
            await own.wait_until(lambda: own.wanted is not Wanted.RUN)
            group.cancel_scope.cancel()

    @contextmanager
    def _waiting_for(self, workers: Sequence[Worker]) -> Generator[list[TaskShutdownError]]:
        """Collect what goes wrong in a ``shutdown()``, as long as somebody waits for that.

        The log says every few seconds what that is.

        :return: the errors, when the block has been left
        """
        errors: list[TaskShutdownError] = []
        runs = [(worker, worker.run) for worker in workers if worker.run is not None]
        for _, run in runs:
            run.expect_report()
        try:
            with self._supervisor.telling(workers):
                yield errors
            for _, run in runs:
                errors += run.report()
        finally:
            for worker, run in runs:
                run.expect_report_no_more()
                self._supervisor.say_what_went_wrong(worker, run)


def _subscribe(workers: Iterable[Worker]) -> None:
    """Have tasks that are to come back miss nothing from now on: all of them, or none."""
    subscribed: list[Worker] = []
    try:
        for worker in workers:
            subscribed.append(worker)
            worker.subscribe()
    except BaseException:
        for worker in subscribed:
            worker.update_subscription()
        raise


def _see_that_it_ends(worker: Worker) -> None:
    if worker.run is not None and worker.run.is_stuck:
        raise LifecycleError(
            f"{worker.title} cannot be restarted: it was cancelled, and has not ended yet"
        )


def _not_inside() -> LifecycleError:
    return LifecycleError("the scheduler is no group of another: it is stopped with shutdown()")


def _is_back(worker: Worker, before: Run | None) -> bool:
    """Whether a task has been restarted, or will not be."""
    run = worker.run
    return (
        (run is not before and run is not None and run.is_initialized)
        or worker.is_done
        or worker.is_gone
    )
