"""Restarts: some tasks end together, the last one first, and begin again, the first one first.

Where two restarts want the same task the newer one has it. One that somebody stops meanwhile is in
none any more, and holds none up.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from math import inf
from operator import attrgetter
from typing import final

from anyio import current_time

from .._model.log import logger
from .._model.words import in_seconds
from .._tasks.events import RestartScheduled
from .._tasks.failures import to_show
from .._tasks.tally import AT_ONCE
from .._workers.tree import Branch, Failure, Node
from .._workers.wanted import Wanted
from .._workers.worker import Worker
from .dependencies import Dependencies, workers_below
from .starting import StartRun

__all__ = ["Restart", "Restarts"]


@final
class Restart:
    """Tasks that begin again one after the other, when all of them have ended."""

    __slots__ = ("branch", "concerned", "members", "not_before", "starting", "up")

    def __init__(
        self,
        concerned: list[Worker],
        members: Iterable[Worker],
        not_before: float,
        branch: Branch | None,
    ) -> None:
        #: all that are to end, some of them for good, in order of start
        self.concerned: list[Worker] = concerned
        #: those that are still to be started, in order
        self.members: dict[Worker, None] = dict.fromkeys(members)
        #: those that it concerns and that have not ended yet
        self.up: set[Worker] = {worker for worker in concerned if not worker.is_down}
        #: when the first may start again, in seconds on the event loop's clock
        self.not_before: float = not_before
        #: the group that is restarted as a whole
        self.branch: Branch | None = branch
        #: whether one has been started, and the next waits for it
        self.starting: bool = False


@final
class Restarts:
    """All restarts that are under way."""

    __slots__ = ("_dependencies", "_of", "_start_run", "_whole")

    def __init__(self, dependencies: Dependencies, start_run: StartRun) -> None:
        self._dependencies = dependencies
        self._start_run = start_run
        self._of: dict[Worker, Restart] = {}  # those that are to end, or to be started
        self._whole: dict[Branch, Restart] = {}  # of groups as a whole; the newest one counts

    def schedule(self, node: Node, branch: Branch, failure: Failure, delay: float) -> Restart:
        """Restart a task or group that failed, and whom the strategy and dependencies add to it.

        :param node: the task or group
        :param branch: the group it is in
        :param failure: what happened to it
        :param delay: how many seconds to wait before the restart
        :return: the restart: the caller ends those that it concerns, and then lets it `go_on`
        """
        own = dict.fromkeys(workers_below(node))
        children = branch.affected_by(node)
        for child in children:
            if isinstance(child, Branch):
                child.begin_anew()
        affected = self._with_dependants(
            worker for child in children for worker in workers_below(child)
        )
        concerned = [
            one
            for one in affected
            if one.wanted is Wanted.RESTART
            or (one.wanted is Wanted.RUN and (one in own or not one.is_down))
        ]
        back = [one for one in concerned if one in own or one.comes_back]
        whole = node if isinstance(node, Branch) else None
        settled = inf if node.policy is None else node.policy.max_delay
        return self._claim(concerned, back, delay, failure, whole, settled)

    def by_hand(self, workers: Iterable[Worker], branch: Branch | None = None) -> Restart:
        """Restart tasks that somebody asked to restart, up or not, and those that go with them.

        :param workers: the tasks
        :param branch: the group that they are all of
        :return: the restart, as by `schedule`
        """
        if branch is not None:
            branch.begin_anew()
        named = dict.fromkeys(workers)
        concerned = [
            one
            for one in self._with_dependants(named)
            if one in named
            or one.wanted is Wanted.RESTART
            or (one.wanted is Wanted.RUN and not one.is_down)
        ]
        return self._claim(concerned, concerned, 0.0, None, branch)

    def _with_dependants(self, workers: Iterable[Worker]) -> list[Worker]:
        """Add those that are to be restarted with what they depend on, and so on."""
        found = dict.fromkeys(workers)
        queue = list(found)
        while queue:
            for dependant in self._dependencies.dependants_of(queue.pop()):
                if dependant.entry.metadata.restart_with_dependencies and dependant not in found:
                    found[dependant] = None
                    queue.append(dependant)
        return list(found)

    def _claim(
        self,
        concerned: list[Worker],
        back: list[Worker],
        delay: float,
        failure: Failure | None,
        branch: Branch | None,
        settled: float = inf,
    ) -> Restart:
        concerned.sort(key=attrgetter("rank"))
        back.sort(key=attrgetter("rank"))
        not_before = current_time() + delay if delay else 0.0
        restart = Restart(concerned, back, not_before, branch)
        older = [self._take_out(worker) for worker in concerned]
        for worker in concerned:
            self._of[worker] = restart
        for worker in back:
            worker.want(Wanted.RESTART)
            self._announce(worker, delay, failure)
        if failure is None:
            for worker in back:
                if logger.isEnabledFor(logging.INFO) and worker.restarts_told.note(current_time()):
                    logger.info("%s restarts: it was asked to", worker.title, extra=worker.extra())
        else:
            _tell(back, delay, failure, settled)
        for worker in concerned:
            if worker not in restart.members:
                worker.want(Wanted.STOP)
        for one in older:
            if one is not None:
                self.go_on(one)
        if branch is not None:
            self._whole[branch] = restart
            branch.comes_down()
        return restart

    def _announce(self, worker: Worker, delay: float, failure: Failure | None) -> None:
        publisher = worker.supervision.task_events
        if publisher.wanted:
            event = RestartScheduled(delay=delay, cause=failure, **worker.identity())
            publisher.publish(event)

    def drop(self, workers: Iterable[Worker]) -> None:
        """Take tasks out of their restarts, which go on without: they are wanted otherwise."""
        for restart in [self._take_out(worker) for worker in workers]:
            if restart is not None:
                self.go_on(restart)

    def _take_out(self, worker: Worker) -> Restart | None:
        restart = self._of.pop(worker, None)
        if restart is not None:
            restart.members.pop(worker, None)
            restart.up.discard(worker)
        return restart

    def drop_all(self) -> None:
        """Start nothing again."""
        for restart in self._of.values():
            restart.members.clear()
        self._of.clear()

    def advance(self, worker: Worker) -> None:
        """Go on with the restart of a task that has ended, if there is one."""
        restart = self._of.get(worker)
        if restart is not None:
            restart.up.discard(worker)
            if worker not in restart.members:
                del self._of[worker]
            self.go_on(restart)

    def go_on(self, restart: Restart) -> None:
        """Start the next one, if none that is to end is still up."""
        while not (restart.starting or restart.up) and restart.members:
            worker = next(iter(restart.members))
            del restart.members[worker], self._of[worker]

            def begun() -> None:
                restart.starting = False
                self.go_on(restart)

            restart.starting = self._start_run(worker, not_before=restart.not_before, begun=begun)
        branch = restart.branch
        is_over = not (restart.starting or restart.members)
        if is_over and branch is not None and self._whole.get(branch) is restart:
            del self._whole[branch]
            branch.comes_up(current_time())


def _tell(workers: list[Worker], delay: float, failure: Failure, settled: float) -> None:
    """Log that tasks restart after a failure: whose it is, with the lines of the program, once.

    :param workers: the tasks, in order of start
    :param delay: how many seconds they wait before they begin again
    :param failure: what happened
    :param settled: after how many seconds of work what happened before is forgotten
    """
    # That a task has ended, and that its policy does not want it to, is no failure.
    level = logging.INFO if failure.__cause__ is None else logging.WARNING
    if not logger.isEnabledFor(level):
        return
    log = logger.info if level == logging.INFO else logger.warning
    mine = [worker for worker in workers if worker.entry.task_id == failure.task_id] or workers[:1]
    now = current_time()
    for worker in workers:
        is_told = worker.restarts_told.note(now)
        extra = worker.extra(delay=delay)
        if worker not in mine:
            if not is_told:
                continue
            what = "%s restarts in %s, with task %r"
            log(what, worker.title, in_seconds(delay), failure.task_name, extra=extra)
            continue
        if now - worker.up_since >= settled:
            worker.repeats.forget()
        shown = to_show(failure)
        times = worker.repeats.count(shown or failure)
        at_line = 0 if shown is None else worker.repeats.count_lines(shown)
        what = "%s restarts in %s: %s"
        if times == 1 and at_line <= AT_ONCE:
            log(what, worker.title, in_seconds(delay), failure, exc_info=shown, extra=extra)
        elif is_told:
            same, times = ("the same", times) if times > 1 else ("at the same line", at_line)
            what += " (%s as before, %d times by now)"
            log(what, worker.title, in_seconds(delay), failure, same, times, extra=extra)
