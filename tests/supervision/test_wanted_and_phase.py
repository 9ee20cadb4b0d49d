"""What is wanted of a task, by how far its run is: each command in each phase, and what comes of it.

The tables are the engine's. This test walks them: it brings a task into a phase, with gates in its
hooks, gives a command there, opens the gates, and looks at what the task has come to.
"""

from __future__ import annotations

from itertools import product
from typing import Final, NamedTuple

import anyio
import pytest
from anyio import CancelScope, Event, create_task_group
from anyio.abc import TaskGroup
from support import NEVER, TroubleError, settle
from support.commands import COMMANDS, Command, give
from support.witness import Account

from orchestrio import (
    BackgroundTask,
    LifecycleError,
    Scheduler,
    TaskId,
    TaskState,
    current_task_context,
)
from orchestrio._workers.phases import NEXT, Phase
from orchestrio._workers.wanted import MAY_FOLLOW, Wanted

WANTS: Final[dict[Command, Wanted]] = {
    "stop": Wanted.STOP,
    "restart": Wanted.RESTART,
    "remove": Wanted.REMOVE,
    "shutdown": Wanted.STOP,
}

# -- the tables ------------------------------------------------------------------------------------------


def test_every_phase_is_in_the_table_and_leads_on_to_the_last_one() -> None:
    assert NEXT.keys() == set(Phase)
    order = list(Phase)
    for phase, following in NEXT.items():
        assert all(order.index(after) > order.index(phase) for after in following), "never back"
        assert following or phase is Phase.ENDED
    reached = {Phase.PENDING}.union(*NEXT.values())
    assert reached == set(Phase)


def test_a_run_that_was_initialised_does_not_end_without_a_shutdown() -> None:
    before_the_end = {phase for phase, following in NEXT.items() if Phase.ENDED in following}
    assert before_the_end == {Phase.PENDING, Phase.INITIALIZING, Phase.SHUTTING_DOWN}


def test_what_is_to_be_removed_is_wanted_back_no_more_and_what_was_stopped_by_a_restart() -> None:
    assert MAY_FOLLOW.keys() == set(Wanted)
    assert MAY_FOLLOW[Wanted.REMOVE] == {Wanted.REMOVE}
    assert MAY_FOLLOW[Wanted.STOP] == {Wanted.STOP, Wanted.RESTART, Wanted.REMOVE}
    assert MAY_FOLLOW[Wanted.RUN] == {Wanted.STOP, Wanted.RESTART, Wanted.REMOVE}
    assert MAY_FOLLOW[Wanted.RESTART] == set(Wanted)


# -- the walk --------------------------------------------------------------------------------------------


class Gated(BackgroundTask):
    """Waits for a gate in some of its hooks, in its first run, whoever cancels it there."""

    def __init__(self, account: Account, *closed: str, work: str = "for ever") -> None:
        self.account = account
        self.gates = {hook: Event() for hook in closed}
        self.work = work

    def open(self) -> None:
        for gate in self.gates.values():
            gate.set()

    async def _pass(self, hook: str) -> None:
        if hook in self.gates and current_task_context().run == 1:
            with CancelScope(shield=True):
                await self.gates[hook].wait()

    async def initialize(self) -> None:
        with self.account.hook("initialize"):
            await self._pass("initialize")
            if self.work == "never" and current_task_context().run == 1:
                raise TroubleError

    async def execute(self) -> None:
        with self.account.hook("execute"):
            await self._pass("ready")
            current_task_context().ready()
            if self.work == "returns" and current_task_context().run == 1:
                return
            try:
                await anyio.sleep_forever()
            finally:
                await self._pass("execute")

    async def shutdown(self) -> None:
        with self.account.hook("shutdown"):
            await self._pass("shutdown")


class Stage:
    """A scheduler, a task in a certain situation, and those that hold it there."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.account = Account()
        self.gated: list[Gated] = []
        self.ids: dict[str, TaskId] = {}

    def add(
        self,
        name: str,
        *closed: str,
        depends_on: str = "",
        work: str = "for ever",
        reports_ready: bool = False,
    ) -> None:
        account = self.account if name == "task" else Account()
        gated = Gated(account, *closed, work=work)
        self.gated.append(gated)
        self.ids[name] = self.scheduler.register_background_task(
            gated,
            name=name,
            depends_on=[depends_on] if depends_on else [],
            restart_with_dependencies=True,
            reports_ready=reports_ready,
            restart=NEVER,
            stop_timeout=1000,
            shutdown_timeout=1000,
        )

    async def give(self, command: Command, name: str = "task") -> str:
        """Give a command, and return what came of it in a word."""
        return await give(command, self.scheduler, self.ids[name])

    @property
    def state(self) -> TaskState | None:
        """How the task stands, or `None` if it is gone."""
        by_name = {shot.name: shot.state for shot in self.scheduler.status()}
        return by_name.get("task")


class Situation(NamedTuple):
    """Where a task stands when it is given a command."""

    #: what was asked for before, if anything
    asked: Command | None
    phase: Phase
    #: what users see of it
    state: TaskState
    #: the hook that it is in
    inside: str | None = None

    def __str__(self) -> str:
        return f"{self.phase}-after-{self.asked or 'nothing'}"


SITUATIONS: Final = (
    Situation(None, Phase.PENDING, TaskState.REGISTERED),
    Situation(None, Phase.INITIALIZING, TaskState.INITIALIZING, "initialize"),
    Situation(None, Phase.INITIALIZED, TaskState.READY),
    Situation(None, Phase.WORKING, TaskState.RUNNING, "execute"),
    Situation(None, Phase.STOPPING, TaskState.COMPLETED),
    Situation(None, Phase.ENDED, TaskState.FAILED),
    *(Situation(one, Phase.INITIALIZING, TaskState.INITIALIZING, "initialize") for one in COMMANDS),
    *(Situation(one, Phase.WORKING, TaskState.STOPPING, "execute") for one in COMMANDS),
    *(Situation(one, Phase.STOPPING, TaskState.STOPPING) for one in COMMANDS),
    *(Situation(one, Phase.SHUTTING_DOWN, TaskState.STOPPING, "shutdown") for one in COMMANDS),
    Situation("stop", Phase.ENDED, TaskState.STOPPED),
    Situation("restart", Phase.ENDED, TaskState.BACKING_OFF),
    Situation("shutdown", Phase.ENDED, TaskState.STOPPED),
)

#: What lasts for no time: nothing of the user's runs there, or there is no task any more.
PASSING: Final[set[tuple[Command | None, Phase]]] = {
    (None, Phase.SHUTTING_DOWN),
    ("remove", Phase.ENDED),
    *product(COMMANDS, (Phase.PENDING, Phase.INITIALIZED)),
}


def test_the_walk_leaves_nothing_out() -> None:
    walked = {(situation.asked, situation.phase) for situation in SITUATIONS}
    assert walked | PASSING == set(product((None, *COMMANDS), Phase))
    assert not walked & PASSING


async def arrange(stage: Stage, asked: Command | None, phase: Phase, others: TaskGroup) -> None:
    """Bring the task into a phase, and have something asked of it there."""
    target = "task"
    if phase is Phase.PENDING:
        stage.add("before", "initialize")
        stage.add("task", depends_on="before")
    elif phase is Phase.INITIALIZING:
        stage.add("task", "initialize")
    elif phase is Phase.INITIALIZED:
        stage.add("before", "ready", reports_ready=True)
        stage.add("task", depends_on="before")
    elif phase is Phase.WORKING:
        stage.add("task", *(["execute"] if asked else []))
    elif phase is Phase.STOPPING and asked is None:
        stage.add("task", work="returns")
    elif phase is Phase.STOPPING:
        stage.add("task")
        stage.add("after", "shutdown")
        await settle()
        others.start_soon(stage.give, "stop", "after")
    elif phase is Phase.SHUTTING_DOWN:
        stage.add("task", "shutdown")
    elif asked is None:
        stage.add("task", work="never")
    elif asked == "stop":
        stage.add("task")
    else:
        stage.add("before", "shutdown")
        stage.add("task", depends_on="before")
        target = "before"
    await settle()
    if asked is not None:
        others.start_soon(stage.give, asked, target)
        await settle()


def what_follows(situation: Situation, command: Command) -> tuple[Wanted, str]:
    """Return what is wanted of the task in the end, and what is said to who gave the command."""
    wanted = Wanted.RUN if situation.asked is None else WANTS[situation.asked]
    if command == "restart" and situation.asked == "shutdown":
        return wanted, "refused"
    if WANTS[command] is wanted or WANTS[command] in MAY_FOLLOW[wanted]:
        return WANTS[command], "done"
    return wanted, "unknown" if command == "restart" else "done"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("situation", SITUATIONS, ids=str)
async def test_each_command_has_its_way_in_each_phase(
    scheduler: Scheduler, situation: Situation, command: Command
) -> None:
    stage = Stage(scheduler)
    said: list[str] = []

    async def give_it() -> None:
        said.append(await stage.give(command))

    async with create_task_group() as others, scheduler:
        await scheduler.start()
        await arrange(stage, situation.asked, situation.phase, others)
        assert stage.state == situation.state
        assert stage.account.inside == ([situation.inside] if situation.inside else [])
        others.start_soon(give_it)
        await settle()
        for gated in stage.gated:
            gated.open()
        await anyio.sleep(1)
        wanted, answer = what_follows(situation, command)
        assert said == [answer]
        has_failed = situation.phase is Phase.ENDED and situation.asked is None
        assert stage.state is {
            Wanted.STOP: TaskState.FAILED if has_failed else TaskState.STOPPED,
            Wanted.RESTART: TaskState.RUNNING,
            Wanted.REMOVE: None,
        }.get(wanted)
        assert stage.account.inside == (["execute"] if wanted is Wanted.RESTART else [])
        runs = (situation.phase is not Phase.PENDING) + (wanted is Wanted.RESTART)
        assert stage.account.runs == runs
    assert stage.account.wrong == []
    assert not stage.account.is_up


# -- while the scheduler starts --------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("phase", [None, Phase.PENDING, Phase.INITIALIZING, Phase.INITIALIZED])
async def test_each_command_has_its_way_in_each_phase_of_the_start(
    scheduler: Scheduler, phase: Phase | None, command: Command
) -> None:
    stage = Stage(scheduler)
    said: list[str] = []
    started: list[str] = []

    async def give_it() -> None:
        said.append(await stage.give(command))

    async def start() -> None:
        try:
            await scheduler.start()
        except LifecycleError:
            started.append("refused")
        else:
            started.append("done")

    async with create_task_group() as others, scheduler:
        stage.add("first", *([] if phase is Phase.INITIALIZING else ["initialize"]))
        if phase is Phase.INITIALIZED:
            stage.gated[0].open()
        if phase is not Phase.PENDING:
            stage.add("task", *(["initialize"] if phase is Phase.INITIALIZING else []))
        stage.add("last", *(["initialize"] if phase is Phase.INITIALIZED else []))
        others.start_soon(start)
        await settle()
        if phase is Phase.PENDING:  # in a start, only who comes meanwhile waits for another
            stage.add("task", depends_on="last")
            await settle()
        assert stage.state is {
            Phase.INITIALIZING: TaskState.INITIALIZING,
            Phase.INITIALIZED: TaskState.READY,
        }.get(phase or Phase.PENDING, TaskState.REGISTERED)
        others.start_soon(give_it)
        await settle()
        for gated in stage.gated:
            gated.open()
        await anyio.sleep(1)
        assert said == ["refused" if command == "restart" else "done"]
        assert started == ["refused" if command == "shutdown" else "done"]
        assert stage.state is {
            "stop": TaskState.STOPPED,
            "restart": TaskState.RUNNING,
            "remove": None,
            "shutdown": TaskState.STOPPED,
        }.get(command)
        begins = command == "restart" or phase in (Phase.INITIALIZING, Phase.INITIALIZED)
        assert stage.account.runs == (1 if begins else 0)
    assert stage.account.wrong == []
    assert not stage.account.is_up
