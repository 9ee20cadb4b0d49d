"""Tasks that notice when a hook of theirs begins at a time at which it must not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import anyio

from orchestrio import BackgroundTask, EventTask, Topic, current_task_context

from . import NUMBERS, TroubleError


class Account:
    """The hooks of one task, and what was wrong with them: one at a time, and in their order."""

    def __init__(self) -> None:
        self.hooks: list[str] = []
        self.wrong: list[str] = []
        self.inside: list[str] = []
        self.is_up = False  # initialised, and not shut down yet

    @contextmanager
    def hook(self, name: str) -> Iterator[None]:
        if self.inside:
            self.wrong.append(f"{name} began inside of {self.inside}")
        if self.is_up == (name == "initialize"):
            self.wrong.append(f"{name} after {self.hooks}")
        self.hooks.append(name)
        self.inside.append(name)
        if name == "shutdown":
            self.is_up = False
        try:
            yield
            if name == "initialize":
                self.is_up = True
        finally:
            self.inside.remove(name)

    @property
    def runs(self) -> int:
        """How many runs have begun."""
        return self.hooks.count("initialize")


class Witness(BackgroundTask):
    """Takes its time for each hook, in seconds; works for ever, or fails in its first run."""

    def __init__(
        self,
        account: Account,
        *,
        begin: float = 0,
        fails_after: float | None = None,
        ready_after: float | None = None,
        leave: float = 0,
        end: float = 0,
    ) -> None:
        self.account = account
        self.begin = begin
        self.fails_after = fails_after
        self.ready_after = ready_after  # when it says so, if it does
        self.leave = leave  # how long it takes to end when it is asked to
        self.end = end

    async def initialize(self) -> None:
        with self.account.hook("initialize"):
            await anyio.sleep(self.begin)

    async def execute(self) -> None:
        with self.account.hook("execute"):
            context = current_task_context()
            if self.fails_after is not None and context.run == 1:
                await anyio.sleep(self.fails_after)
                raise TroubleError
            if self.ready_after is not None:
                await anyio.sleep(self.ready_after)
                context.ready()
            if self.leave:
                await context.stopping.wait()
                await anyio.sleep(self.leave)
            else:
                await anyio.sleep_forever()

    async def shutdown(self) -> None:
        with self.account.hook("shutdown"):
            await anyio.sleep(self.end)


class Reader(EventTask[int]):
    """Takes some seconds for each number that it reads, and for its shutdown."""

    def __init__(
        self, account: Account, *, begin: float = 0, each: float = 0, end: float = 0
    ) -> None:
        self.account = account
        self.begin = begin
        self.each = each
        self.end = end
        self.read: list[int] = []

    @property
    def subscribed_event(self) -> Topic[int]:
        return NUMBERS

    async def initialize(self) -> None:
        with self.account.hook("initialize"):
            await anyio.sleep(self.begin)

    async def handle_event(self, event: int, /) -> None:
        with self.account.hook("handle_event"):
            await anyio.sleep(self.each)
            self.read.append(event)

    async def shutdown(self) -> None:
        with self.account.hook("shutdown"):
            await anyio.sleep(self.end)
