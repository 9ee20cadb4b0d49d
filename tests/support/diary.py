"""A diary of what tasks did and when, and workers that keep it."""

from __future__ import annotations

from dataclasses import dataclass, field

import anyio
from anyio import current_time
from typing_extensions import Unpack

from orchestrio import BackgroundOptions, BackgroundTask, Group, TaskId

from . import TroubleError


@dataclass
class Diary:
    """What the tasks of a test did, and when."""

    entries: list[tuple[str, str, float]] = field(default_factory=list)

    def note(self, what: str, who: str) -> None:
        self.entries.append((what, who, current_time()))

    def turn_the_page(self) -> None:
        self.entries.clear()

    @property
    def hooks(self) -> list[str]:
        return [f"{what} {who}" for what, who, _ in self.entries if what in ("up", "down")]

    def who(self, what: str) -> list[str]:
        return [who for event, who, _ in self.entries if event == what]

    def when(self, what: str, who: str) -> list[float]:
        return [time for event, name, time in self.entries if (event, name) == (what, who)]


class Worker(BackgroundTask):
    """Fails after each of some spans of time, then works for ever."""

    def __init__(self, name: str, diary: Diary, *spans: float) -> None:
        self.name = name
        self.diary = diary
        self.spans = list(spans)

    async def initialize(self) -> None:
        self.diary.note("up", self.name)

    async def execute(self) -> None:
        self.diary.note("work", self.name)
        if not self.spans:
            await anyio.sleep_forever()
        await anyio.sleep(self.spans.pop(0))
        self.diary.note("fail", self.name)
        raise TroubleError(f"trouble of {self.name}")

    async def shutdown(self) -> None:
        self.diary.note("down", self.name)


class Leisurely(Worker):
    """Takes its time for each hook."""

    def __init__(
        self, name: str, diary: Diary, *spans: float, begin: float = 0, end: float = 0
    ) -> None:
        super().__init__(name, diary, *spans)
        self.begin = begin
        self.end = end

    async def initialize(self) -> None:
        await anyio.sleep(self.begin)
        await super().initialize()

    async def shutdown(self) -> None:
        await anyio.sleep(self.end)
        await super().shutdown()


def every_hook_ran_in_its_turn(diary: Diary) -> bool:
    hooks: dict[str, list[str]] = {}
    for what, who, _ in diary.entries:
        if what in ("up", "down"):
            hooks.setdefault(who, []).append(what)
    return all(own == ["up", "down"] * (len(own) // 2) for own in hooks.values())


def add(
    group: Group, diary: Diary, who: str, *spans: float, **options: Unpack[BackgroundOptions]
) -> TaskId:
    """Register a worker under its name."""
    options["name"] = who
    return group.register_background_task(Worker(who, diary, *spans), **options)
