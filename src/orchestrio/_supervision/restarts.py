"""Restarts: some lives are stopped, the last one first, and started again, the first one first.

Each restart is a `Recovery`. Where two of them want the same life the newer one has it, and the
older one passes it over; a life that somebody is still stopping is not started before that is done.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import cast, final

from anyio import CancelScope, current_time, sleep_until

from .._model.errors import SchedulerError, TaskShutdownError
from .._tasks.context import RunInfo
from .._tasks.events import RestartScheduled
from .._workers.tree import Branch, Failure, Node
from .._workers.worker import Life, Supervisor
from .dependencies import Dependencies, lives_below
from .stopping import drain, end, guard_shutdown, held, shut_down

__all__ = ["Recoveries"]

logger: logging.Logger = logging.getLogger("orchestrio")


@final
@dataclass(slots=True, eq=False)
class Recovery:
    """Lives that are stopped together, and started again not before some time."""

    #: all of them, in order of start; some may stay down
    lives: list[Life]
    #: when the first may start again, in seconds on the event loop's clock
    not_before: float
    #: how many lives it is still to start
    owed: int = 0
    #: the run that ended, if its life is the only one, and begins the next run by itself
    alone: RunInfo | None = None
    #: around the wait and the starts
    scope: CancelScope = field(default_factory=CancelScope)


@final
class Recoveries:
    """All restarts that are under way."""

    __slots__ = ("_dependencies", "_end_the_run", "_launch", "_of", "_supervisor")

    def __init__(
        self,
        supervisor: Supervisor,
        dependencies: Dependencies,
        launch: Callable[[Life], None],
        end_the_run: Callable[[BaseException], None],
    ) -> None:
        self._supervisor = supervisor
        self._dependencies = dependencies
        self._launch = launch
        self._end_the_run = end_the_run
        self._of: dict[Life, Recovery] = {}  # the lives that are still to be started

    def __bool__(self) -> bool:
        """Whether any life is still to be started again."""
        return bool(self._of)

    def schedule(self, node: Node, branch: Branch, failure: Failure, delay: float) -> Recovery:
        """Claim a task or group that failed, and those who are restarted with it.

        :param node: the task or group
        :param branch: the group it is in
        :param failure: what happened to it
        :param delay: how many seconds to wait before the restart
        :return: what is to be given to `recover`
        """
        recovery = self._of_all(cast("Iterator[Life]", branch.affected_by(node)), delay)
        own = set(lives_below(node))
        for life in recovery.lives:
            if life in own or life.comes_back:
                self._claim(life, recovery, failure)
        if recovery.lives == [node] and not recovery.lives[0].cancelled:
            recovery.alone = recovery.lives[0].run
            recovery.lives[0].restart_alone(recovery.not_before)
        return recovery

    def schedule_by_hand(self, life: Life) -> Recovery:
        """Claim a life that somebody asked to restart, and those restarted with it.

        :param life: the life, up or not
        :return: what is to be given to `recover_by_hand`
        """
        life.retired = False
        recovery = self._of_all([life], 0)
        if life not in recovery.lives:  # it had ended
            recovery.lives.append(life)
            recovery.lives.sort(key=lambda life: life.rank)
        for one in recovery.lives:
            self._claim(one, recovery, None)
        return recovery

    def _of_all(self, affected: Iterable[Life], delay: float) -> Recovery:
        """Return the recovery of those that are up, or to be, and of their dependants."""
        lives = dict.fromkeys(affected)
        queue = list(lives)
        while queue:
            for dependant in self._dependencies.dependants_of(queue.pop()):
                if dependant.entry.metadata.restart_with_dependencies and dependant not in lives:
                    lives[dependant] = None
                    queue.append(dependant)
        alive = [life for life in lives if life.recovering or not (life.gone or life.retired)]
        alive.sort(key=lambda life: life.rank)
        return Recovery(alive, current_time() + delay)

    def _claim(self, life: Life, recovery: Recovery, failure: Failure | None) -> None:
        self.give_up(life)
        self._of[life] = recovery
        recovery.owed += 1
        life.recovering = life.keep_subscription = True
        life.alone = False
        delay = max(0.0, recovery.not_before - current_time())
        what = "was asked to" if failure is None else failure
        logger.warning(
            "%s restarts in %.3g s: %s", life.title, delay, what, extra=life.extra(delay=delay)
        )
        publisher = self._supervisor.task_events
        if publisher.wanted:
            event = RestartScheduled(delay=delay, cause=failure, **life.identity())
            publisher.publish(event)

    def retire(self, life: Life) -> None:
        """Do not start a life again, nor with others: somebody wants it stopped."""
        self.give_up(life)
        life.retired = True

    def give_up(self, life: Life) -> None:
        """Do not start a life again; a recovery that has no other to start is over."""
        recovery = self._of.pop(life, None)
        if recovery is not None:
            life.recovering = life.keep_subscription = False
            recovery.owed -= 1
            if not recovery.owed:
                recovery.scope.cancel()

    def give_up_all(self) -> None:
        """Start nothing again."""
        for life in list(self._of):
            self.give_up(life)
            life.skip()

    async def recover(self, recovery: Recovery) -> None:
        """Stop the lives, the last one first; wait; start them again, the first one first.

        A life that is alone does all of this itself, sooner; it is only seen to that it does.
        """
        if recovery.alone is not None:
            life = recovery.lives[0]
            if not await guard_shutdown(life, recovery.alone):
                self._cannot_restart(life)
            return
        with held(recovery.lives) as lives:
            for life in lives:
                life.pause()
            failures = await self._bring_down(lives)
        extras = {life.entry.task_id: life.extra() for life in lives} if failures else {}
        for error in failures:
            logger.error("%s", error, exc_info=error, extra=extras[error.task_id])
        if not recovery.owed:
            return  # all of them were stopped or claimed meanwhile, or none was to come back
        with recovery.scope:
            await sleep_until(recovery.not_before)
            await self._bring_up(recovery)

    async def recover_by_hand(self, recovery: Recovery) -> list[TaskShutdownError]:
        """Do the same at once, after event tasks have handled what was published.

        :return: what went wrong in a ``shutdown()``
        """
        with held(recovery.lives) as lives:
            await drain(lives)
            failures = await self._bring_down(lives)
        with recovery.scope:
            await self._bring_up(recovery)
        return failures

    async def _bring_down(self, lives: list[Life]) -> list[TaskShutdownError]:
        await end(lives)
        failures = await shut_down(lives)
        for life in lives:
            if not life.gone:
                self._cannot_restart(life)
                break
        return failures

    def _cannot_restart(self, life: Life) -> None:
        what = " cannot be restarted: it was cancelled, and does not end"
        self._end_the_run(life.execution_error(what))

    async def _bring_up(self, recovery: Recovery) -> None:
        for life in recovery.lives:
            if self._of.get(life) is not recovery:
                continue  # it stays down, or a newer recovery has it
            for dependency in life.dependencies:
                await dependency.wait_initialized()
            await life.wait_free()
            if self._of.get(life) is not recovery:
                continue
            self.begin_again(life)
            self._launch(life)
            if recovery.owed:
                await life.wait_begun()

    def begin_again(self, life: Life) -> None:
        """Let the next run of a life begin, as far as it is claimed."""
        self._of.pop(life).owed -= 1
        life.prepare()
        try:
            life.subscribe()
        except SchedulerError as error:  # its event has ended: there is nothing to run for
            logger.warning("%s stays stopped: %s", life.title, error, extra=life.extra())
            life.end_asked = True
