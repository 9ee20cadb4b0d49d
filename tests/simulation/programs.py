"""Programs for the simulation: one for each seed, of tasks, groups, channels and policies."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

from anyio import sleep, sleep_forever
from anyio.lowlevel import checkpoint

from orchestrio import (
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
    Strategy,
    TaskOptions,
    Topic,
    current_task_context,
)

T = TypeVar("T")

OVERFLOWS: Sequence[Overflow] = ("drop_oldest", "drop_oldest", "block", "block", "drop_newest")
STRATEGIES: Sequence[Strategy] = ("one_for_one", "one_for_all", "rest_for_one")
MODES: Sequence[RestartMode] = ("on_failure", "on_failure", "on_failure", "always", "never")
ON_ERROR: Sequence[OnError | None] = (None, None, "skip", "skip", "stop", "restart")


class Publisher(BackgroundTask):
    """Publishes so many messages, at once or with pauses, and returns or goes on for ever."""

    def __init__(self, scheduler: Scheduler, topic: Topic[tuple[str, int]], name: str) -> None:
        self.scheduler, self.topic, self.name = scheduler, topic, name
        self.count = random.choice((0, 1, 3, 6, 10))
        self.pause = random.choice((0.0, 0.0, 0.5, 1.0))
        self.for_ever = random.random() < 0.3
        self.sent = 0

    async def initialize(self) -> None:
        await checkpoint()

    async def execute(self) -> None:
        for _ in range(self.count):
            self.sent += 1
            await self.scheduler.publish(self.topic, (self.name, self.sent))
            if self.pause:
                await sleep(self.pause)
        if self.for_ever:
            await sleep_forever()

    async def shutdown(self) -> None:
        await checkpoint()


class Listener(BackgroundTask):
    """Leaves by itself when it is asked to, or does not."""

    def __init__(self) -> None:
        self.heeds = random.random() < 0.5
        self.says_ready = random.random() < 0.8
        self.lasts = random.choice((0.0, 2.0, 5.0, None))

    async def initialize(self) -> None:
        await sleep(random.choice((0, 0, 1)))

    async def execute(self) -> None:
        context = current_task_context()
        if self.says_ready:
            await checkpoint()
            context.ready()
        if self.heeds:
            await context.stopping.wait()
            await sleep(0.25)
        elif self.lasts is None:
            await sleep_forever()
        else:
            await sleep(self.lasts)

    async def shutdown(self) -> None:
        await sleep(random.choice((0, 0, 0.5)))


class Handler(EventTask[tuple[str, int]]):
    """Handles messages at once or slowly, and publishes some on."""

    def __init__(
        self, scheduler: Scheduler, topic: Topic[tuple[str, int]], on: Topic[tuple[str, int]] | None
    ) -> None:
        self.scheduler, self.topic, self.on = scheduler, topic, on
        self.takes = random.choice((0.0, 0.0, 0.0, 0.2, 1.0))

    @property
    def subscribed_event(self) -> Topic[tuple[str, int]]:
        return self.topic

    async def initialize(self) -> None:
        await checkpoint()

    async def handle_event(self, event: tuple[str, int]) -> None:
        if self.takes:
            await sleep(self.takes)
        if self.on is not None:
            await self.scheduler.publish(self.on, event)

    async def shutdown(self) -> None:
        await checkpoint()


def maybe(chance: float, value: T) -> T | None:
    return value if random.random() < chance else None


def policy() -> RestartPolicy:
    return RestartPolicy(
        mode=random.choice(MODES),
        max_restarts=random.choice((1, 2, 5, None)),
        within=random.choice((5.0, 60.0)),
        initial_delay=random.choice((0.1, 0.5, 2.0)),
        max_delay=4.0,
        jitter=random.choice((0.0, 1.0)),
    )


def options(name: str, others: Sequence[str]) -> TaskOptions:
    chosen: TaskOptions = {
        "name": name,
        "stop_timeout": random.choice((0.5, 2.0)),
        "shutdown_timeout": 3.0,
        "drain_timeout": random.choice((0.5, 3.0)),
    }
    if random.random() < 0.6:
        chosen["restart"] = policy()
    if others and random.random() < 0.4:
        chosen["depends_on"] = random.sample(others, 1)
        chosen["restart_with_dependencies"] = random.random() < 0.3
    if random.random() < 0.1:
        chosen["significant"] = True
    if random.random() < 0.3:
        chosen["start_timeout"] = random.choice((1.0, 5.0))
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
    groups: list[Group] = [scheduler]
    names: list[str] = []
    for number in range(random.randint(1, 6)):
        if random.random() < 0.25:
            groups.append(
                random.choice(groups).group(
                    f"group {number}",
                    strategy=random.choice(STRATEGIES),
                    restart=maybe(0.5, policy()),
                    significant=random.random() < 0.1,
                )
            )
        group = random.choice(groups)
        kind = random.choice((publisher, publisher, listener, handler, handler, handler))
        names.append(kind(scheduler, group, topics, f"task {number}", names))
    return scheduler


Make = Callable[[Scheduler, Group, Sequence[Topic[tuple[str, int]]], str, Sequence[str]], str]


def publisher(
    scheduler: Scheduler,
    group: Group,
    topics: Sequence[Topic[tuple[str, int]]],
    name: str,
    others: Sequence[str],
) -> str:
    task = Publisher(scheduler, random.choice(topics), name)
    group.register_background_task(task, **options(name, others))
    return name


def listener(
    scheduler: Scheduler,
    group: Group,
    topics: Sequence[Topic[tuple[str, int]]],
    name: str,
    others: Sequence[str],
) -> str:
    chosen = options(name, others)
    chosen["reports_ready"] = random.random() < 0.4
    group.register_background_task(Listener(), **chosen)
    return name


def handler(
    scheduler: Scheduler,
    group: Group,
    topics: Sequence[Topic[tuple[str, int]]],
    name: str,
    others: Sequence[str],
) -> str:
    number = random.randrange(len(topics))
    later = topics[number + 1 :]  # never in a circle, which would feed itself
    on = random.choice(later) if later and random.random() < 0.4 else None
    chosen = options(name, others)
    chosen["on_error"] = random.choice(ON_ERROR)
    restart = chosen.get("restart")
    if chosen["on_error"] == "restart" and restart is not None and restart.mode == "never":
        chosen["on_error"] = "skip"
    chosen["concurrency"] = random.choice((1, 1, 1, 2))
    chosen["retries"] = random.choice((0, 0, 0, 2))
    chosen["retry_backoff"] = Backoff(initial_delay=0.1, max_delay=0.5)
    group.register_event_task(Handler(scheduler, topics[number], on), **chosen)
    return name
