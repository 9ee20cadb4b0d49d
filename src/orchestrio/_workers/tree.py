"""The rules of supervision: a tree of tasks and groups, and what a policy makes of failures.

Nothing in here waits or runs anything; the supervisor does what these rules say. They are those of the
supervisors of Erlang/OTP (https://www.erlang.org/doc/system/sup_princ.html), with one difference:
OTP counts the restarts of all children of a supervisor together, here each child has its own count.

    scheduler                    a child that fails more often than its policy allows is a failure
     ├─ task                     of its group, to which the group's own policy applies; what the
     └─ group                    scheduler itself cannot restart any more ends the run
         ├─ task
         └─ group …
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import pairwise
from math import inf
from typing import final

from .._model.errors import LifecycleError, TaskExecutionError, TaskInitializationError
from .._model.settings import RestartPolicy, Strategy, wait_before
from .._model.tracebacks import Repeats
from .._model.words import in_seconds
from .._tasks.failures import to_show

__all__ = ["Branch", "Failure", "Node", "RestartHistory", "leaves"]

#: How a task failed, with its identity and the cause.
Failure = TaskExecutionError | TaskInitializationError


@final
class RestartHistory:
    """What a policy makes of one failure after another: the next delay, or that it is enough."""

    __slots__ = ("_attempt", "_recent", "policy")

    def __init__(self, policy: RestartPolicy) -> None:
        self.policy: RestartPolicy = policy
        self._attempt = 0  # restarts since the back-off was reset
        self._recent: deque[tuple[float, Failure]] = deque()  # in the window, with what led to them

    def refresh(self) -> None:
        """Begin anew, as if nothing had failed yet."""
        self._attempt = 0
        self._recent.clear()

    def next_delay(
        self, failure: Failure, now: float, up_for: float, random: Callable[[], float]
    ) -> float | None:
        """Return how many seconds to wait before the restart; `None` if there were too many.

        A run that stayed up for as long as the longest delay resets the back-off.

        :param failure: what ended the run
        :param now: the present, in seconds of any clock
        :param up_for: how many seconds the run worked
        :param random: returns numbers from 0 up to 1, for the jitter
        """
        policy = self.policy
        if policy.max_restarts is not None:
            while self._recent and self._recent[0][0] <= now - policy.within:
                self._recent.popleft()
            if len(self._recent) >= policy.max_restarts:
                return None
            self._recent.append((now, failure))
        if up_for >= policy.max_delay:
            self._attempt = 0
        self._attempt += 1
        return wait_before(self._attempt, policy, random())

    def exhausted(self, title: str, failure: Failure) -> TaskExecutionError:
        """Forget it all, and return the failure of failures: what happened in the window, in order.

        What was the same again and again is in there once, with a note.

        :param title: who failed too often, such as ``task 'web'``
        :param failure: the one that was too much
        """
        history = [*(earlier for _, earlier in self._recent), failure]
        self.refresh()
        policy = self.policy
        error = TaskExecutionError(
            f"{title} failed {len(history)} times: max_restarts={policy.max_restarts} within"
            f" {in_seconds(policy.within)} allows no other restart. The last time: {failure}",
            failure.task_id,
            failure.task_name,
        )
        told = Repeats()
        last = [one for one in reversed(history) if told.count(to_show(one) or one) == 1]
        for one in last:
            times = told.count(to_show(one) or one) - 1
            if times > 1:
                one.add_note(f"It was the same {times} times.")
        what = f"the failures of {title}, first to last"
        error.__cause__ = ExceptionGroup(what, last[::-1])
        return error


class Node:
    """A task or a group, as the rules see it."""

    __slots__ = ("history", "parent", "policy", "significant", "title")

    def __init__(
        self, title: str, parent: Branch | None, policy: RestartPolicy | None, significant: bool
    ) -> None:
        #: what messages call it, such as ``task 'web'``
        self.title: str = title
        #: the group that it is in; `None` for the scheduler itself
        self.parent: Branch | None = parent
        #: when it runs again; `None`: never, and its failure is one of its group
        self.policy: RestartPolicy | None = policy
        self.history: RestartHistory | None = None if policy is None else RestartHistory(policy)
        #: whether its group ends when it does
        self.significant: bool = significant

    @property
    def up_since(self) -> float:
        """When it began to work after its last start, in seconds; infinity if it has not."""
        raise NotImplementedError

    def join(self) -> None:
        """Become the last child of its group."""
        if self.parent is not None:
            self.parent.children[self] = None

    def leave(self) -> None:
        """Be in its group no more."""
        if self.parent is not None:
            self.parent.children.pop(self, None)

    def groups_around(self) -> Iterator[Branch]:
        """Iterate over the groups that it is in, inside out; the last one is the scheduler."""
        branch = self.parent
        while branch is not None:
            yield branch
            branch = branch.parent


@final
class Branch(Node):
    """A group: children in the order of registration, and who is restarted with whom."""

    __slots__ = ("_up", "children", "has_ended", "name", "path", "restarted", "strategy")

    def __init__(
        self,
        name: str,
        parent: Branch | None,
        strategy: Strategy,
        policy: RestartPolicy | None = None,
        significant: bool = False,
    ) -> None:
        super().__init__(f"group {name!r}", parent, policy, significant)
        self.name: str = name
        self.strategy: Strategy = strategy
        #: its name after those of the groups around it; `None` for the scheduler itself
        self.path: str | None = None
        if parent is not None:
            self.path = name if parent.path is None else f"{parent.path}/{name}"
        self.join()
        #: in order; a dictionary, so that removing one of many is quick
        self.children: dict[Node, None] = {}
        #: whether it has been ended as a whole, so that nothing in it is started any more
        self.has_ended: bool = False
        #: how often it was restarted as a whole
        self.restarted: int = 0
        self._up = inf  # when all of it had begun, after its last start as a whole

    @property
    def up_since(self) -> float:
        return self._up

    def begin_anew(self) -> None:
        """Forget all failures below, as for a supervisor of Erlang/OTP that was restarted."""
        for child in self.children:
            if child.history is not None:
                child.history.refresh()
            if isinstance(child, Branch):
                child.begin_anew()

    def comes_down(self) -> None:
        """Count a restart of it as a whole, which begins."""
        self.restarted += 1
        self._up = inf

    def comes_up(self, now: float) -> None:
        """Note that all of it has begun.

        :param now: the present, in seconds on the event loop's clock
        """
        self._up = now

    @property
    def is_removed(self) -> bool:
        """Whether it, or a group around it, is in the tree no more."""
        way = (self, *self.groups_around())
        return any(inner not in outer.children for inner, outer in pairwise(way))

    def end(self) -> None:
        """Note that nothing in it is started any more, nor in the groups within it."""
        for branch in self.branches():
            branch.has_ended = True

    def revive(self) -> None:
        """Note that things may be started in it again."""
        for branch in self.branches():
            branch.has_ended = False

    def see_that_it_runs(self, what: str) -> None:
        """Refuse to start something in a group that has ended.

        :param what: what is refused, such as ``task 'web' cannot be registered``
        :raises LifecycleError: if this group has ended, or one around it
        """
        for branch in (self, *self.groups_around()):
            if branch.has_ended:
                hint = "It was removed: make a new one" if self.is_removed else "Restart it first"
                raise LifecycleError(f"{what}: {branch.title} has ended. {hint}.")

    def branches(self) -> Iterator[Branch]:
        """Iterate over this group and those within it."""
        yield self
        for child in list(self.children):
            if isinstance(child, Branch):
                yield from child.branches()

    def affected_by(self, child: Node) -> list[Node]:
        """Return the children that are stopped and started together with one, in order."""
        if self.strategy == "one_for_one":
            return [child]
        children = list(self.children)
        return children if self.strategy == "one_for_all" else children[children.index(child) :]


def leaves(node: Node) -> Iterator[Node]:
    """Iterate over the tasks below a node, in order; a task is below itself."""
    if not isinstance(node, Branch):
        yield node
        return
    for child in list(node.children):
        if isinstance(child, Branch):
            yield from leaves(child)
        else:
            yield child
