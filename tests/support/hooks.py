"""Tasks that write their hooks down: one that works for ever, and those that do not do as well."""

from __future__ import annotations

import anyio
from anyio import Event

from orchestrio import BackgroundTask, EventTask, Topic

from . import NUMBERS, TroubleError


class Forever(BackgroundTask):
    """Writes down each of its hooks, after which comes its name if it has one; works for ever."""

    def __init__(self, name: str = "", hooks: list[str] | None = None) -> None:
        self.name = name
        self.hooks = [] if hooks is None else hooks

    @property
    def default_name(self) -> str:
        return self.name or super().default_name

    def note(self, hook: str) -> None:
        self.hooks.append(f"{hook} {self.name}" if self.name else hook)

    async def initialize(self) -> None:
        self.note("initialize")

    async def execute(self) -> None:
        self.note("execute")
        await anyio.sleep_forever()

    async def shutdown(self) -> None:
        self.note("shutdown")


class Brief(Forever):
    """Has nothing to do."""

    async def execute(self) -> None:
        self.note("execute")


class Broken(Forever):
    """Cannot be initialised."""

    async def initialize(self) -> None:
        raise TroubleError("no disk")


class Failing(Forever):
    """Cannot do its work."""

    async def execute(self) -> None:
        raise TroubleError("boom")


class Messy(Forever):
    """Cannot be shut down."""

    async def shutdown(self) -> None:
        raise TroubleError("messy")


class Stuck(Forever):
    """Is never done with its initialisation."""

    async def initialize(self) -> None:
        await anyio.sleep_forever()


class SlowToStart(Forever):
    """Is initialised when its gate is opened."""

    def __init__(self, name: str = "", hooks: list[str] | None = None) -> None:
        super().__init__(name, hooks)
        self.gate = Event()

    async def initialize(self) -> None:
        await self.gate.wait()
        await super().initialize()


class SlowToStop(Forever):
    """Is shut down when its gate is opened."""

    def __init__(self, name: str = "", hooks: list[str] | None = None) -> None:
        super().__init__(name, hooks)
        self.gate = Event()

    async def shutdown(self) -> None:
        await self.gate.wait()
        await super().shutdown()


class Collector(EventTask[int]):
    """Keeps the numbers that it hears, and which of its hooks ran."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.hooks: list[str] = []

    @property
    def subscribed_event(self) -> Topic[int]:
        return NUMBERS

    async def initialize(self) -> None:
        self.hooks.append("initialize")

    async def handle_event(self, event: int, /) -> None:
        self.seen.append(event)

    async def shutdown(self) -> None:
        self.hooks.append("shutdown")
