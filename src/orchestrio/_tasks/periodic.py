"""Periodic tasks: a function called at the times of a timetable, ticks counted like messages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import final

from anyio import current_time
from typing_extensions import override

from .._model.log import logger
from .._model.settings import TaskMetadata
from .._model.tracebacks import Repeats, trim
from .._model.words import counted
from .context import current_run
from .failures import failure_in, raised
from .retries import tally_of_retries, with_retries
from .tally import AT_ONCE, Tally
from .task import BackgroundTask, name_of
from .timetables import Timetable

__all__ = ["PeriodicTask"]


@final
class PeriodicTask(BackgroundTask):
    """A plain async function that is called again and again.

    The timetable goes on over restarts: what was missed meanwhile is counted, not made up for.
    """

    def __init__(
        self,
        function: Callable[[], Awaitable[object]],
        timetable: Timetable,
        metadata: TaskMetadata,
        random: Callable[[], float],
    ) -> None:
        self._function = function
        self._timetable = timetable
        self._on_error = metadata.on_error
        self._tries = tally_of_retries(metadata, _extra)
        self._call = with_retries(self._tick, metadata, random, _extra, self._tries)
        self._skips = Tally(AT_ONCE, self._tell_skips)
        self._repeats = Repeats()
        self._last_skip = ""  # what the last tick that was skipped raised
        #: ticks done
        self.handled: int = 0
        #: ticks that raised
        self.failed: int = 0
        #: ticks that were skipped, since the one before took too long
        self.missed: int = 0

    @property
    @override
    def default_name(self) -> str:
        return name_of(self._function)

    @override
    async def execute(self) -> None:
        try:
            await self._tick_on()
        finally:
            self._skips.settle()
            if self._tries is not None:
                self._tries.settle()

    async def _tick_on(self) -> None:
        run = current_run.get()
        assert run is not None
        while not run.stop_asked:
            run.resting = True
            self.missed += await self._timetable.next_tick()
            run.resting = False
            run.beat(current_time())
            try:
                await self._call(None)
            except BaseException as caught:
                error = failure_in(caught)
                if error is None:
                    raise
                self.failed += 1
                run.note_error(error)
                if self._on_error != "skip":
                    raise
                trim(error)
                again = self._repeats.count(error) > 1
                self._last_skip = raised(error)
                if self._skips.note(current_time()):
                    logger.error(
                        "task %r skipped a tick: it %s",
                        run.task_name,
                        self._last_skip,
                        exc_info=None if again else error,
                        extra=_extra() | {"error": error},
                    )
            else:
                self.handled += 1

    async def _tick(self, _: None) -> None:
        await self._function()

    def _tell_skips(self, times: int, _: int) -> None:
        about = _extra()
        logger.error(
            "task %r skipped %s more; the last one %s",
            about.get("task_name"),
            counted(times, "ticks"),
            self._last_skip,
            extra=about | {"skipped": times},
        )

    def counts(self) -> dict[str, int]:
        """The fields of the snapshot that count ticks."""
        return {"handled": self.handled, "failed": self.failed, "missed": self.missed}


def _extra() -> dict[str, object]:
    run = current_run.get()
    return {} if run is None else run.extra()
