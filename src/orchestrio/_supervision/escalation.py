"""What a failure means: a restart, the end of the task alone, a failure of its group, or of all.

The rules are those of the `tree`; what they ask for, the supervisor does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast, final

from anyio import current_time

from .._model.errors import LifecycleError, TaskExecutionError
from .._model.log import logger
from .._workers.phases import Outcome
from .._workers.run import Run
from .._workers.tree import Branch, Failure, Node
from .._workers.wanted import Wanted
from .._workers.worker import Worker

__all__ = ["Escalation"]


class Measures(Protocol):
    """What can be done about a failure."""

    @property
    def random(self) -> Callable[[], float]:
        """The source of randomness for delays."""
        ...

    @property
    def is_stopping(self) -> bool:
        """Whether everything is being stopped."""
        ...

    def restart(self, node: Node, failure: Failure, delay: float) -> None:
        """Restart a task or group that failed, and whom its group's strategy adds to it."""

    def end_group(self, branch: Branch) -> None:
        """Stop the tasks of one group."""

    def end_the_run(self, failure: BaseException) -> None:
        """Stop everything, and raise this to whoever waits for the run."""

    def ask_to_stop(self, why: str) -> None:
        """Have everything stop, without an error."""


@final
class Escalation:
    """Decides what is done about the failures and the ends of tasks and groups."""

    __slots__ = ("_measures",)

    def __init__(self, measures: Measures) -> None:
        self._measures = measures

    def failed(self, node: Node, failure: Failure) -> None:
        """Do what the policy of a task or group says to a failure of it."""
        history = node.history
        if node.parent is None:
            self._measures.end_the_run(failure)
        elif history is None:
            self._escalate(node.parent, failure)
        elif history.policy.mode == "never":
            self.left_alone(node, failure)
        else:
            now = current_time()
            delay = history.next_delay(failure, now, now - node.up_since, self._measures.random)
            if delay is None:
                self._escalate(node.parent, history.exhausted(node.title, failure))
            else:
                self._measures.restart(node, failure, delay)

    def _escalate(self, branch: Branch, failure: Failure) -> None:
        if branch.parent is not None:
            failure.add_note(f"It was too much for {branch.title}.")
        self.failed(branch, failure)

    def failed_while_stopping(self, worker: Worker, run: Run, failure: Exception) -> None:
        """Log the failure of a task that was to end anyway, or raise it if nothing mends it.

        A policy does not mend it either where messages are left that no other run will handle. That
        the stop refuses a command of a background task which hears of it needs no mending.
        """
        node: Node | None = worker
        while node is not None and node.policy is None:
            node = node.parent
        mends = (
            node is not None
            and node.policy is not None
            and (node.policy.mode == "never" or worker.is_drained or not self._measures.is_stopping)
        )
        is_refused = worker.kind == "background" and isinstance(failure.__cause__, LifecycleError)
        if (
            mends
            or is_refused
            or worker.wanted is Wanted.RESTART
            or run.outcome is Outcome.ABANDONED
            or run.spares_others
        ):
            logger.error(
                "%s, while it was stopping", failure, exc_info=failure, extra=worker.extra()
            )
        else:
            self._measures.end_the_run(failure)

    def left_alone(self, node: Node, failure: Exception) -> None:
        """Log what ends one task or group alone, and see what its end means to its group."""
        logger.error(
            "%s stopped, the others go on: %s",
            node.title,
            failure,
            exc_info=failure,
            extra=node.extra() if isinstance(node, Worker) else {"task_group": node.title},
        )
        self._ended(node, _has_ended(node, cast("Failure", failure)))

    def returned(self, worker: Worker) -> None:
        """Do what the policies say when a task has come to its end by itself."""
        if worker.policy is not None and worker.policy.mode == "always":
            self.failed(worker, worker.execution_error(": its work has ended"))
        elif worker.significant:
            self._ended(worker, worker.execution_error(" has ended"))

    def _ended(self, node: Node, why: Failure) -> None:
        """End the groups that end with a task or group, or run that one again which always comes back.

        Those in it are not ended for good: they would stay out of the restart whose cause they are.

        :param node: what has ended
        :param why: what that is to the policy of a group around it
        """
        over = [node] if isinstance(node, Branch) else []
        while node.significant:
            branch = node.parent
            assert branch is not None
            if branch.parent is None:
                break
            if branch.policy is not None and branch.policy.mode == "always":
                self.failed(branch, why)
                return
            over.append(branch)
            node, why = branch, _has_ended(branch, why)
        for branch in over:
            self._measures.end_group(branch)
        if node.significant:
            self._measures.ask_to_stop(f"{why}, which is significant")


def _has_ended(node: Node, why: Failure) -> Failure:
    """Say that a task or group has ended, as what ends its group; why, is in the log already."""
    return TaskExecutionError(f"{node.title} has ended", why.task_id, why.task_name)
