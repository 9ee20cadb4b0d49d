"""Programs for the simulation: one for each seed, of tasks, groups, channels and policies."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TypeAlias, TypeVar, cast

from anyio import CancelScope, sleep, sleep_forever
from anyio.lowlevel import checkpoint

from orchestrio import (
    BackgroundOptions,
    BackgroundTask,
    Backoff,
    ChannelConfig,
    EventTask,
    Group,
    OnError,
    Overflow,
    RestartMode,
    RestartPolicy,
    Scheduler,
    SchedulerError,
    Strategy,
    TaskOptions,
    Topic,
    current_task_context,
)

T = TypeVar("T")

Event: TypeAlias = Topic[tuple[str, int]]

OVERFLOWS: Sequence[Overflow] = ("drop_oldest", "drop_oldest", "block", "block", "drop_newest")
STRATEGIES: Sequence[Strategy] = ("one_for_one", "one_for_all", "rest_for_one")
MODES: Sequence[RestartMode] = ("on_failure", "on_failure", "on_failure", "always", "never")
ON_ERROR: Sequence[OnError | None] = (None, None, "skip", "skip", "stop", "restart")


class Child(BackgroundTask):
    """Is registered by another task, works for a while, and returns."""

    async def initialize(self) -> None:
        await checkpoint()

    async def execute(self) -> None:
        await sleep(random.choice((0.0, 1.0, 4.0)))

    async def shutdown(self) -> None:
        await checkpoint()


class Ear(EventTask[tuple[str, int]]):
    """Is registered by another task, and hears what is published from then on."""

    def __init__(self, topic: Event) -> None:
        self.topic = topic

    @property
    def subscribed_event(self) -> Event:
        return self.topic

    async def handle_event(self, event: tuple[str, int], /) -> None:
        await checkpoint()


class Parent:
    """Registers a task at some time of its life, once, or never does."""

    def __init__(self, scheduler: Scheduler, group: Group, topic: Event, name: str) -> None:
        self.scheduler, self.group, self.topic, self.name = scheduler, group, topic, name
        self.when = random.choice(("never",) * 8 + ("first", "last"))

    def registers(self, when: str) -> None:
        if when != self.when:
            return
        self.when = "never"
        depends_on = random.choice(((), (), (self.name,)))
        with suppress(SchedulerError):  # it stops, or what it depends on is gone
            if random.random() < 0.3:
                self.scheduler.register_event_task(Ear(self.topic), depends_on=depends_on)
            else:
                self.group.register_background_task(Child(), depends_on=depends_on)


class Publisher(BackgroundTask):
    """Publishes so many messages, at once or with pauses, and returns or goes on for ever."""

    def __init__(self, scheduler: Scheduler, topic: Event, name: str, parent: Parent) -> None:
        self.scheduler, self.topic, self.name, self.parent = scheduler, topic, name, parent
        self.count = random.choice((0, 1, 3, 6, 10))
        self.pause = random.choice((0.0, 0.0, 0.5, 1.0))
        self.for_ever = random.random() < 0.3
        self.sent = 0

    async def initialize(self) -> None:
        await checkpoint()
        self.parent.registers("first")

    async def execute(self) -> None:
        for _ in range(self.count):
            self.sent += 1
            await self.scheduler.publish(self.topic, (self.name, self.sent))
            if self.pause:
                await sleep(self.pause)
        if self.for_ever:
            await sleep_forever()
        self.parent.registers("last")

    async def shutdown(self) -> None:
        await checkpoint()


class Listener(BackgroundTask):
    """Leaves by itself when it is asked to, or does not."""

    def __init__(self, parent: Parent, beats: float | None) -> None:
        self.parent, self.beats = parent, beats
        self.heeds = random.random() < 0.5
        self.says_ready = random.random() < 0.8
        self.lasts = random.choice((0.0, 2.0, 5.0, None))
        self.is_stubborn = random.random() < 0.05

    async def initialize(self) -> None:
        await sleep(random.choice((0, 0, 1)))
        self.parent.registers("first")

    async def execute(self) -> None:
        context = current_task_context()
        if self.says_ready:
            await checkpoint()
            context.ready()
        if self.beats is not None:
            for _ in range(random.randrange(5)):
                await sleep(self.beats)
                context.beat()
        if self.is_stubborn:  # too much so for a stop_timeout of 0.5 s
            try:
                await sleep_forever()
            finally:
                with CancelScope(shield=True):
                    await sleep(1.5)
        elif self.heeds:
            await context.stopping.wait()
            await sleep(0.25)
        elif self.lasts is None:
            await sleep_forever()
        else:
            await sleep(self.lasts)
        self.parent.registers("last")

    async def shutdown(self) -> None:
        await sleep(random.choice((0, 0, 0.5)))


class Handler(EventTask[tuple[str, int]]):
    """Handles messages at once or slowly, publishes some on, and rarely gives itself a command."""

    def __init__(
        self, scheduler: Scheduler, topic: Event, on: Event | None, name: str, parent: Parent
    ) -> None:
        self.scheduler, self.topic, self.on = scheduler, topic, on
        self.name, self.parent = name, parent
        self.takes = random.choice((0.0, 0.0, 0.0, 0.2, 1.0))
        self.turns_on_itself = random.randrange(1, 5) if random.random() < 0.1 else 0
        self.command = random.choice(("stop", "restart", "restart", "remove"))
        self.handled = 0

    @property
    def subscribed_event(self) -> Event:
        return self.topic

    async def initialize(self) -> None:
        await checkpoint()
        self.parent.registers("first")

    async def handle_event(self, event: tuple[str, int], /) -> None:
        if self.takes:
            await sleep(self.takes)
        if self.on is not None:
            await self.scheduler.publish(self.on, event)
        self.handled += 1
        if self.handled == self.turns_on_itself:
            await self.turn_on_itself()
        self.parent.registers("last")

    async def turn_on_itself(self) -> None:
        task_id = current_task_context().task_id
        scheduler = self.scheduler
        with suppress(SchedulerError):  # it stops, or somebody was quicker
            if self.command == "stop":
                await scheduler.stop_task(task_id)
            elif self.command == "restart":
                await scheduler.restart_task(task_id)
            else:
                await scheduler.remove_task(task_id)

    async def shutdown(self) -> None:
        await checkpoint()


def maybe(chance: float, value: T) -> T | None:
    return value if random.random() < chance else None


def policy(modes: Sequence[RestartMode] = MODES) -> RestartPolicy:
    return RestartPolicy(
        mode=random.choice(modes),
        max_restarts=random.choice((1, 2, 5, None)),
        within=random.choice((5.0, 60.0)),
        initial_delay=random.choice((0.1, 0.5, 2.0)),
        max_delay=4.0,
        jitter=random.choice((0.0, 1.0)),
    )


def options(name: str, others: Sequence[str]) -> BackgroundOptions:
    """The options that any task may have; it depends on some of the others, or on none."""
    chosen: BackgroundOptions = {
        "name": name,
        "stop_timeout": random.choice((0.5, 2.0)),
        "shutdown_timeout": 3.0,
        "drain_timeout": random.choice((0.5, 3.0)),
    }
    if random.random() < 0.6:
        chosen["restart"] = policy()
    if others and random.random() < 0.4:
        chosen["depends_on"] = random.sample(others, min(len(others), random.choice((1, 1, 2))))
        chosen["restart_with_dependencies"] = random.random() < 0.3
    if random.random() < 0.1:
        chosen["significant"] = True
    if random.random() < 0.3:
        chosen["start_timeout"] = random.choice((1.0, 5.0))
    if random.random() < 0.05:
        chosen["watchdog"] = random.choice((1.0, 6.0))
    return chosen


def program() -> Scheduler:
    """A scheduler of one to six tasks; what it is like, `random` decides, and so the seed does."""
    scheduler = Scheduler(strategy=random.choice(STRATEGIES))
    topics = [
        Topic(f"topic {number}", tuple[str, int]) for number in range(random.choice((1, 1, 2, 3)))
    ]
    for topic in topics:
        capacity = random.choice((1, 2, 4, 8))
        overflow = random.choice(OVERFLOWS)
        replay = random.choice((0, 0, 0, 1))
        config = ChannelConfig(capacity=capacity, overflow=overflow, replay=replay)
        scheduler.add_channel(topic, config)
    names = [f"task {number}" for number in range(random.randint(1, 6))]
    depends = who_may_depend_on_whom(names)
    groups: list[Group] = [scheduler]
    for number, name in enumerate(names):
        if random.random() < 0.25:
            groups.append(
                random.choice(groups).group(
                    f"group {number}",
                    strategy=random.choice(STRATEGIES),
                    restart=maybe(0.5, policy((*MODES, "always", "always"))),
                    significant=random.random() < 0.1,
                )
            )
        group = random.choice(groups)
        chosen = options(name, depends[name])
        if group is not scheduler and random.random() < 0.2:
            chosen["significant"] = True
        kind = random.choice((publisher, publisher, listener, handler, handler, handler))
        kind(scheduler, group, topics, name, chosen)
    return scheduler


def who_may_depend_on_whom(names: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """For each task those that it may depend on, mostly on earlier ones, and never in a circle."""
    order = list(names)
    if random.random() < 0.4:
        random.shuffle(order)
    return {name: order[:place] for place, name in enumerate(order)}


def publisher(
    scheduler: Scheduler,
    group: Group,
    topics: Sequence[Event],
    name: str,
    chosen: BackgroundOptions,
) -> None:
    topic = random.choice(topics)
    parent = Parent(scheduler, group, topic, name)
    task = Publisher(scheduler, topic, name, parent)
    group.register_background_task(task, **chosen)


def listener(
    scheduler: Scheduler,
    group: Group,
    topics: Sequence[Event],
    name: str,
    chosen: BackgroundOptions,
) -> None:
    chosen["reports_ready"] = random.random() < 0.4
    parent = Parent(scheduler, group, random.choice(topics), name)
    watchdog = chosen.get("watchdog", 0.0)
    assert not isinstance(watchdog, timedelta)
    beats = watchdog / 2 or None
    group.register_background_task(Listener(parent, beats), **chosen)


def handler(
    scheduler: Scheduler, group: Group, topics: Sequence[Event], name: str, given: BackgroundOptions
) -> None:
    chosen = cast("TaskOptions", {**given})
    number = random.randrange(len(topics))
    later = topics[number + 1 :]  # never in a circle, which would feed itself
    on = random.choice(later) if later and random.random() < 0.4 else None
    chosen["on_error"] = random.choice(ON_ERROR)
    restart = chosen.get("restart")
    if chosen["on_error"] == "restart" and restart is not None and restart.mode == "never":
        chosen["on_error"] = "skip"
    chosen["concurrency"] = random.choice((1, 1, 1, 1, 2, 3))
    chosen["retries"] = random.choice((0, 0, 0, 2))
    chosen["retry_backoff"] = Backoff(initial_delay=0.1, max_delay=0.5)
    if random.random() < 0.2:
        chosen["attempt_timeout"] = random.choice((0.1, 0.5, 3.0))
    parent = Parent(scheduler, group, topics[number], name)
    task = Handler(scheduler, topics[number], on, name, parent)
    group.register_event_task(task, **chosen)
