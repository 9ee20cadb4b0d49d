"""The worker of a background task: its work is one call, of a task that may tick."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, final

from anyio import current_time
from typing_extensions import override

from .._model.errors import LifecycleError
from .._model.log import logger
from .._tasks.bridge import Bridge
from .._tasks.periodic import PeriodicTask
from .._tasks.registry import RegisteredTask
from .._tasks.task import BackgroundTask
from .run import Run
from .tree import Branch
from .wanted import Wanted
from .worker import Supervision, Worker

__all__ = ["BackgroundWorker"]


@final
class BackgroundWorker(Worker):
    """The worker of a background task."""

    __slots__ = ("_task",)

    def __init__(
        self,
        entry: RegisteredTask,
        task: BackgroundTask,
        parent: Branch,
        supervision: Supervision,
    ) -> None:
        super().__init__(entry, parent, supervision)
        self._task = task

    @property
    @override
    def doing(self) -> str:
        return "execute()"

    @override
    def work(self) -> Awaitable[None]:
        if self.entry.metadata.singleton:
            return self._work_alone()
        return self._task.execute()

    async def _work_alone(self) -> None:
        """Work while no other process of the cluster does, again and again if the lease is lost."""
        leases = self.supervision.services.leases
        if not leases:
            raise LifecycleError(
                "singleton=True needs to know of the other processes: register a RedisBridge"
            )
        while not await leases[0].while_held(self.entry.name, self._work_under):
            logger.warning(
                "task %r has lost its lease, and was cancelled: it waits for another",
                self.entry.name,
                extra=self.extra(),
            )

    async def _work_under(self, token: int) -> None:
        assert self.run is not None
        info = self.run.info
        info.fencing_token = token
        info.beat(current_time())  # what it waited before is not its own
        logger.info(
            "task %r has the lease, with fencing token %d",
            self.entry.name,
            token,
            extra=self.extra(fencing_token=token),
        )
        try:
            await self._task.execute()
        finally:
            info.fencing_token = None

    @override
    def receive_no_more(self) -> bool:
        bridge = self._task
        if not isinstance(bridge, Bridge):
            return False
        bridge.receive_no_more()
        return True

    @override
    async def catch_up(self) -> None:
        if isinstance(self._task, Bridge):
            await self._task.catch_up()

    @property
    @override
    def is_fit(self) -> bool:
        return super().is_fit and self._cut_off is None

    @property
    def _cut_off(self) -> str | None:
        """What it has waited for too long, if it is a bridge."""
        return self._task.cut_off if isinstance(self._task, Bridge) else None

    @override
    def want(self, wanted: Wanted) -> None:
        super().want(wanted)
        if wanted is Wanted.REMOVE and isinstance(self._task, Bridge):
            self._task.let_go()

    @override
    def be_gone(self) -> None:
        super().be_gone()
        if isinstance(self._task, Bridge):
            self._task.close()

    @override
    def scheduler_ended(self) -> None:
        if isinstance(self._task, Bridge):
            self._task.say_last()

    @override
    def update_subscription(self) -> None:
        pass  # it has none

    @override
    def release(self, run: Run) -> None:
        # What fails before the work is a failure of the start, whatever is said of the work.
        run.spares_others = self.entry.metadata.on_error == "stop" and run.came_to_work

    @property
    def _waits_for_lease(self) -> bool:
        assert self.run is not None
        return self.entry.metadata.singleton and self.run.info.fencing_token is None

    @override
    def last_beat(self) -> float:
        assert self.run is not None
        info = self.run.info
        # No code of its own could beat there.
        if info.resting or self._waits_for_lease or isinstance(self._task, Bridge):
            info.beat(current_time())
        return info.last_beat

    @override
    def waiting_for(self) -> str | None:
        run = self.run
        if run is not None and run.is_working:
            if self._waits_for_lease:
                return f"the lease {self.entry.name!r}"
            if run.info.resting:
                return "its next tick"
            if self._cut_off is not None:
                return self._cut_off
        return super().waiting_for()

    @override
    def facts(self) -> dict[str, Any]:
        facts = super().facts()
        if isinstance(self._task, PeriodicTask):
            facts |= self._task.counts()
        return facts
