"""Random crashes, stops and additions, held against a plain model of the rules of supervision.

The rules are those of Erlang/OTP's supervisors, with a count of restarts for each child. After
every step the set of running tasks, and who was started in which order, equal the model's. What a
group that has ended would have to start is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import anyio
import pytest
from anyio import current_time
from hypothesis import HealthCheck, example, given, settings, strategies as st
from support import settle

from orchestrio import (
    BackgroundTask,
    Group,
    LifecycleError,
    RestartPolicy,
    Scheduler,
    Strategy,
    TaskExecutionError,
    TaskId,
)

DELAY = 1.0
WITHIN = 3.0

#: How many restarts within the window; "never" restarts; `None` passes the failure on.
Rule = int | Literal["never"] | None


def policy(rule: Rule) -> RestartPolicy | None:
    if rule is None:
        return None
    if rule == "never":
        return RestartPolicy(mode="never")
    return RestartPolicy(
        max_restarts=rule, within=WITHIN, initial_delay=DELAY, max_delay=DELAY, jitter=0
    )


# -- the model -----------------------------------------------------------------------------------------


@dataclass(eq=False)
class Node:
    name: str
    rule: Rule
    parent: Branch | None
    restarts: list[float] = field(default_factory=list)
    has_ended: bool = False

    @property
    def is_over(self) -> bool:
        """Whether it, or a group around it, has ended: nothing in there is started any more."""
        return self.has_ended or (self.parent is not None and self.parent.is_over)

    def leaves(self) -> Iterator[Leaf]:
        raise NotImplementedError


@dataclass(eq=False)
class Leaf(Node):
    #: "completed" and "failed" are still to be shut down; "gone" is
    state: Literal["running", "waiting", "completed", "failed", "gone"] = "running"
    due: float = 0.0
    #: tasks that are restarted together, in order of start
    recovery: list[Leaf] = field(default_factory=list)
    rank: int = 0

    def leaves(self) -> Iterator[Leaf]:
        yield self


@dataclass(eq=False)
class Branch(Node):
    strategy: Strategy = "one_for_one"
    children: list[Node] = field(default_factory=list)

    def begin_anew(self) -> None:
        """Forget what the children have failed, and theirs."""
        for child in self.children:
            child.restarts.clear()
            if isinstance(child, Branch):
                child.begin_anew()

    def leaves(self) -> Iterator[Leaf]:
        for child in self.children:
            yield from child.leaves()

    def restarted_with(self, child: Node) -> list[Node]:
        if self.strategy == "one_for_one":
            return [child]
        return self.children[0 if self.strategy == "one_for_all" else self.children.index(child) :]


class Model:
    def __init__(self, root: Branch) -> None:
        self.root = root
        self.ended = False
        self.started: list[list[Leaf]] = []  # since the last look, in the order of each restart
        self.ranks = 0
        for leaf in root.leaves():
            self.start(leaf)

    def start(self, leaf: Leaf) -> None:
        if not leaf.rank:
            self.ranks = leaf.rank = self.ranks + 1
        leaf.state = "running"
        self.started.append([leaf])

    def fail(self, node: Node, now: float) -> None:
        if node.parent is None:
            self.ended = True
        elif node.rule is None:
            self.fail(node.parent, now)
        elif isinstance(node, Leaf) and node.rule == "never":
            node.state = "failed"
        elif isinstance(node, Branch) and node.rule == "never":
            node.has_ended = True
            for leaf in node.leaves():
                leaf.state = "gone"
        else:
            assert isinstance(node.rule, int)
            node.restarts = [time for time in node.restarts if time > now - WITHIN]
            if len(node.restarts) >= node.rule:
                node.restarts.clear()  # its group begins anew with it
                self.fail(node.parent, now)
            else:
                node.restarts.append(now)
                self.restart(node, node.parent, now)
                if isinstance(node, Branch):
                    node.begin_anew()

    def restart(self, node: Node, parent: Branch, now: float) -> None:
        own = set(node.leaves())
        recovery: list[Leaf] = []
        for child in parent.restarted_with(node):
            if isinstance(child, Branch):
                child.begin_anew()
        affected = [leaf for child in parent.restarted_with(node) for leaf in child.leaves()]
        for leaf in sorted(affected, key=lambda leaf: leaf.rank):
            if leaf.state == "gone":
                continue
            stays_down = leaf.rule == "never" or leaf.state == "failed"
            if leaf in own or leaf.state == "waiting" or not stays_down:
                leaf.state, leaf.due, leaf.recovery = "waiting", now + DELAY, recovery
                recovery.append(leaf)
            else:
                leaf.state = "gone"

    def pass_time(self, now: float) -> None:
        for leaf in self.root.leaves():
            if leaf.state == "waiting" and leaf.due <= now:
                together = [
                    other
                    for other in leaf.recovery
                    if other.state == "waiting" and other.recovery is leaf.recovery
                ]
                for other in together:
                    other.state = "running"
                self.started.append(together)


# -- the real thing ------------------------------------------------------------------------------------


class Puppet(BackgroundTask):
    """Does what it is told, and says when it starts."""

    def __init__(self, name: str, starts: list[str]) -> None:
        self.name = name
        self.starts = starts
        self.running = False
        self.order = ""
        self.ordered = anyio.Event()

    async def initialize(self) -> None:
        self.starts.append(self.name)

    async def execute(self) -> None:
        self.running = True
        self.ordered = anyio.Event()
        try:
            await self.ordered.wait()
            if self.order == "crash":
                raise RuntimeError(f"{self.name} was told to crash")
        finally:
            self.running = False

    def do(self, order: str) -> None:
        self.order = order
        self.ordered.set()


rules: st.SearchStrategy[Rule] = st.sampled_from([None, "never", 0, 1, 2, 3, 3, 3])
group_rules: st.SearchStrategy[Rule] = st.sampled_from([None, "never", 1, 2])
strategies: st.SearchStrategy[Strategy] = st.sampled_from(
    ["one_for_one", "one_for_all", "rest_for_one"]
)
steps = st.tuples(
    st.sampled_from(
        ["crash", "crash", "crash", "finish", "stop", "remove", "restart", "add", "wait", "wait"]
    ),
    st.integers(0, 1000),
    rules,
)


class GroupPlan(NamedTuple):
    strategy: Strategy
    rule: Rule
    children: list[GroupPlan | Rule]


def group_plans(depth: int) -> st.SearchStrategy[GroupPlan]:
    child = st.one_of(rules, group_plans(depth - 1)) if depth else rules
    return st.builds(GroupPlan, strategies, group_rules, st.lists(child, min_size=1, max_size=3))


class Play:
    """A scheduler of puppets, beside the model of it."""

    def __init__(self, plan: GroupPlan) -> None:
        self.starts: list[str] = []
        self.puppets: dict[Leaf, tuple[Puppet, TaskId]] = {}
        self.groups: list[tuple[Branch, Group]] = []
        self.names = 0  # how many tasks there have been
        self.scheduler = Scheduler(strategy=plan.strategy)
        root = Branch("scheduler", None, None, strategy=plan.strategy)
        self.fill(root, self.scheduler, plan.children)
        self.model = Model(root)

    def fill(self, branch: Branch, group: Group, children: list[GroupPlan | Rule]) -> None:
        self.groups.append((branch, group))
        for plan in children:
            if isinstance(plan, GroupPlan):
                name = f"group {len(self.groups)}"
                inner = Branch(name, plan.rule, branch, strategy=plan.strategy)
                branch.children.append(inner)
                restart = policy(plan.rule)
                made = group.group(name, strategy=plan.strategy, restart=restart)
                self.fill(inner, made, plan.children)
            else:
                self.add(branch, group, plan)

    def add(self, branch: Branch, group: Group, rule: Rule) -> Leaf:
        leaf = Leaf(f"task {self.names}", rule, branch)
        puppet = Puppet(leaf.name, self.starts)
        task = group.register_background_task(puppet, name=leaf.name, restart=policy(leaf.rule))
        branch.children.append(leaf)
        self.names += 1
        self.puppets[leaf] = puppet, task
        return leaf

    async def step(self, what: str, number: int, rule: Rule) -> None:
        leaf = list(self.puppets)[number % len(self.puppets)]
        puppet, task = self.puppets[leaf]
        if what == "add":
            branch, group = self.groups[number % len(self.groups)]
            if branch.is_over:
                with pytest.raises(LifecycleError, match="has ended"):
                    self.add(branch, group, rule)
            else:
                self.model.start(self.add(branch, group, rule))
        elif what == "wait":
            await anyio.sleep(number % 12 / 4)
        elif what == "stop":
            leaf.state = "gone"
            await self.scheduler.stop_task(task)
        elif what == "remove" and len(self.puppets) > 1:
            leaf.state = "gone"
            assert leaf.parent is not None
            leaf.parent.children.remove(leaf)
            del self.puppets[leaf]
            await self.scheduler.remove_task(task)
            assert task not in [shot.task_id for shot in self.scheduler.status()]
        elif what == "restart" and leaf.is_over:
            with pytest.raises(LifecycleError, match="has ended"):
                await self.scheduler.restart_task(task)
        elif what == "restart":
            self.model.start(leaf)
            await self.scheduler.restart_task(task)
        elif leaf.state == "running" and what != "remove":
            puppet.do(what)
            if what == "crash":
                self.model.fail(leaf, current_time())
            else:
                leaf.state = "completed"

    def compare(self) -> None:
        running = {leaf.name for leaf, (puppet, _) in self.puppets.items() if puppet.running}
        assert running == {leaf.name for leaf in self.puppets if leaf.state == "running"}
        expected = [[leaf.name for leaf in together] for together in self.model.started]
        assert sorted(self.starts) == sorted(name for together in expected for name in together)
        for together in expected:
            assert [name for name in self.starts if name in together] == together
        self.starts.clear()
        self.model.started.clear()


@pytest.mark.filterwarnings("error")
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(plan=group_plans(2), script=st.lists(steps, min_size=3, max_size=25))
@example(
    plan=GroupPlan("one_for_one", None, [GroupPlan("one_for_one", 1, [1])]),
    script=[(what, 0, None) for what in ("crash", "restart", "crash", "restart", "crash")],
)
@example(  # the restart of a group makes good what its tasks have failed
    plan=GroupPlan("one_for_one", None, [GroupPlan("one_for_one", 1, [1, 1])]),
    script=[
        ("crash", 0, None),
        ("crash", 1, None),
        ("wait", 4, None),
        ("crash", 1, None),
        ("wait", 4, None),
        ("crash", 0, None),
        ("wait", 4, None),
    ],
)
@example(  # a group that has ended takes nothing, and neither does one in it
    plan=GroupPlan(
        "one_for_one",
        None,
        [GroupPlan("one_for_one", "never", [None, GroupPlan("one_for_one", 1, [3])]), None],
    ),
    script=[(what, number, None) for what, number in (("crash", 0), ("add", 2), ("restart", 1))],
)
async def test_what_runs_is_what_the_rules_say(
    plan: GroupPlan, script: list[tuple[str, int, Rule]]
) -> None:
    play = Play(plan)
    try:
        async with play.scheduler:
            await play.scheduler.start()
            await settle(5)
            play.compare()
            for what, number, rule in script:
                await play.step(what, number, rule)
                play.model.pass_time(current_time())
                if play.model.ended:
                    await anyio.sleep(10_000)
                    pytest.fail("the rules say that this ends the run")
                await settle(40)
                play.compare()
    except TaskExecutionError:
        assert play.model.ended
