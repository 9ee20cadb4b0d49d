"""The load of a soak: everything that a scheduler can do, all at once and all the time."""

from __future__ import annotations

from typing import Final, cast

import anyio
from anyio import sleep

from orchestrio import (
    DEAD_LETTERS,
    TASK_EVENTS,
    BackgroundTask,
    DeadLetter,
    RestartPolicy,
    Strategy,
    TaskEvent,
    TaskOptions,
    current_task_context,
)

from .handlers import AGAIN, AT_ONCE, KINDS, TroubleError
from .hosts import Host
from .publishers import add_publishers
from .stage import CHANNELS, MUST, STREAM, TIMEOUTS, TOPICS, Stage, timed

HOSTS: Final = 3
TICK: Final = 0.05
TICKING: Final = ("ticks", "crashing ticks")

STRATEGIES: Final[tuple[Strategy, ...]] = ("one_for_one", "one_for_all", "rest_for_one")
ONCE: Final = RestartPolicy(max_restarts=1, within=1000, initial_delay=0.01, max_delay=0.1)
ALWAYS: Final = RestartPolicy(mode="always", initial_delay=0.05, max_delay=0.05, max_restarts=None)


def build(stage: Stage) -> None:
    """Register all that is there from the beginning."""
    for topic, config in CHANNELS.items():
        stage.scheduler.add_channel(topic, config)
    add_listeners(stage)
    add_handlers(stage)
    for strategy in STRATEGIES:
        add_group(stage, strategy)
    add_brief_tasks(stage)
    add_clocks(stage)
    add_publishers(stage)
    for number in range(HOSTS):
        stage.scheduler.register_background_task(Host(stage), **timed(name=f"host {number}"))


def add_listeners(stage: Stage) -> None:
    """Register who hears of dead letters and of what happens to tasks."""

    @stage.scheduler.on(DEAD_LETTERS, **TIMEOUTS)
    async def bury(letter: DeadLetter) -> None:
        stage.books.bury(letter)

    @stage.scheduler.on(TASK_EVENTS, **TIMEOUTS)
    async def listen(event: TaskEvent) -> None: ...


def add_handlers(stage: Stage) -> None:
    """Register a handler of each kind on each topic, but for those that leave by themselves."""
    for topic in TOPICS:
        for name, kind in KINDS.items():
            if name != "quitting":
                task = stage.add_handler(
                    stage.scheduler, topic, kind, name=f"{name} on {topic.key}"
                )
                stage.cast.append(task)


def add_group(stage: Stage, strategy: Strategy) -> None:
    """Register a group in which one task crashes, and two outside that depend on it."""
    group = stage.scheduler.group(strategy, strategy=strategy, restart=AGAIN)
    first = f"first of {strategy}"
    group.background(**timed(name=first))(anyio.sleep_forever)
    stage.cast.append(stage.scheduler.registry.get_by_name(first).task_id)
    stage.cast.append(stage.add_handler(group, STREAM, KINDS["slow"], name=f"second of {strategy}"))
    third = f"third of {strategy}"
    group.register_background_task(Crashing(stage), **timed(name=third, restart=AGAIN))
    stage.cast.append(stage.add_handler(group, MUST, KINDS["pool"], name=f"fourth of {strategy}"))
    dependant = f"restarted with {strategy}"
    options = timed(name=dependant, depends_on=[first], restart_with_dependencies=True)
    stage.scheduler.background(**options)(anyio.sleep_forever)
    options = timed(name=f"listener to {strategy}", depends_on=[strategy])
    stage.scheduler.background(**options)(hear_of_restarts)


async def hear_of_restarts() -> None:
    """Hear of each restart of a task that this one depends on."""
    while True:
        await current_task_context().dependency_restarted()


def add_brief_tasks(stage: Stage) -> None:
    """Register a task that fails too often for its own policy, and one that has little to do."""
    group = stage.scheduler.group("outer", restart=AGAIN).group("inner")
    group.register_background_task(Crashing(stage), **timed(name="escalating", restart=ONCE))

    @stage.scheduler.background(**timed(restart=ALWAYS))
    async def brief() -> None:
        async with stage.gate:
            pass


def add_clocks(stage: Stage) -> None:
    """Register periodic tasks, in whose ticks something goes wrong now and then."""

    async def tick() -> None:
        if stage.gate.is_open.is_set() and stage.dice.random() < 0.1:
            raise TroubleError

    ticks, crashing_ticks = TICKING
    forgiving = cast("TaskOptions", timed(name=ticks))
    forgiving.update({"on_error": "skip", "retries": 1, "retry_backoff": AT_ONCE})
    stage.scheduler.every(TICK, **forgiving)(tick)
    stage.scheduler.every(TICK, **timed(name=crashing_ticks, restart=AGAIN))(tick)
    stage.scheduler.cron("* * * * * *", **timed(name="cron"))(tick_of_cron)


async def tick_of_cron() -> None: ...


class Crashing(BackgroundTask):
    """Works for some time, and fails, again and again; sometimes it does not shut down well."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    async def execute(self) -> None:
        await sleep(0.4 * self.stage.dice.random())
        async with self.stage.gate:
            raise TroubleError

    async def shutdown(self) -> None:
        if self.stage.dice.random() < 0.1 and not self.stage.stopping:
            raise TroubleError
