"""The life of a background task: its work is one call, of a task that may tick."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, final

from typing_extensions import override

from .life import Life, Supervisor
from .periodic import PeriodicTask
from .registry import RegisteredTask
from .supervision import Branch
from .tasks import BackgroundTask

__all__ = ["BackgroundLife"]


@final
class BackgroundLife(Life):
    """The life of a background task."""

    __slots__ = ("_task",)

    def __init__(
        self, entry: RegisteredTask, task: BackgroundTask, parent: Branch, supervisor: Supervisor
    ) -> None:
        super().__init__(entry, parent, supervisor)
        self._task = task

    @property
    @override
    def doing(self) -> str:
        return "execute()"

    @override
    def work(self) -> Awaitable[None]:
        return self._task.execute()

    @override
    def _fail(self, error: BaseException) -> None:
        super()._fail(error)
        if self.entry.metadata.on_error == "stop" and self.initialized:
            self.fatal = False

    @override
    def facts(self) -> dict[str, Any]:
        facts = super().facts()
        if isinstance(self._task, PeriodicTask):
            facts |= self._task.counts()
        return facts
