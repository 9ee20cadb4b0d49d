from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from random import Random
from typing import Any, ClassVar, Generic, Literal, Self, TypeAlias, final, overload

from pydantic import BaseModel, ConfigDict
from typing_extensions import TypeVar

from .. import (
    BackgroundTask,
    BroadcastReceiveStream,
    DeadLetter,
    Scheduler,
    TaskEvent,
    TaskSnapshot,
    Topic,
)

__all__ = [
    "Faults",
    "Harness",
    "InjectedError",
    "MemoryBridge",
    "MemoryServer",
    "Order",
    "Recorder",
    "Scenario",
    "SimulationFailure",
    "SimulationReport",
    "harness",
    "replay",
    "shrink",
    "simulate",
    "virtual_time",
]

_E = TypeVar("_E", bound=Hashable, default=Hashable)
_T = TypeVar("_T")

Order: TypeAlias = Literal["stock", "shuffle", "defer"]

def virtual_time(
    backend: Literal["asyncio", "trio"],
    *,
    seed: int | None = None,
    order: Order = "stock",
    start: datetime | None = None,
    io_grace: float = 0.05,
) -> tuple[str, dict[str, object]]: ...

@final
class Recorder(Generic[_T]):
    def __init__(self, stream: BroadcastReceiveStream[_T], changed: Callable[[], None]) -> None: ...
    @property
    def messages(self) -> list[_T]: ...
    @property
    def missed(self) -> int: ...
    async def wait_for(self, count: int) -> list[_T]: ...
    def read(self) -> None: ...
    async def run(self) -> None: ...
    def close(self) -> None: ...

@final
class Harness(Generic[_E]):
    @property
    def scheduler(self) -> Scheduler[_E]: ...
    @overload
    async def publish(self, event: Topic[_T], message: _T) -> int: ...
    @overload
    async def publish(self, event: _E, message: str) -> int: ...
    @overload
    def record(self, event: Topic[_T]) -> Recorder[_T]: ...
    @overload
    def record(self, event: _E) -> Recorder[str]: ...
    async def idle(self) -> None: ...
    @overload
    def handled(self, event: Topic[_T], *, by: str | None = None) -> list[_T]: ...
    @overload
    def handled(self, event: _E, *, by: str | None = None) -> list[str]: ...
    @overload
    def published(self, event: Topic[_T]) -> list[_T]: ...
    @overload
    def published(self, event: _E) -> list[str]: ...
    @property
    def dead_letters(self) -> list[DeadLetter]: ...
    @property
    def task_events(self) -> list[TaskEvent]: ...
    def task(self, name: str) -> TaskSnapshot: ...
    @overload
    def assert_handled(
        self, event: Topic[_T], expected: Iterable[_T], *, by: str | None = None
    ) -> None: ...
    @overload
    def assert_handled(
        self, event: _E, expected: Iterable[str], *, by: str | None = None
    ) -> None: ...
    @overload
    def assert_published(self, event: Topic[_T], expected: Iterable[_T]) -> None: ...
    @overload
    def assert_published(self, event: _E, expected: Iterable[str]) -> None: ...

def harness(scheduler: Scheduler[_E], /) -> AbstractAsyncContextManager[Harness[_E]]: ...

@final
class MemoryServer:
    def __init__(self) -> None: ...
    @property
    def dead_letters(self) -> list[tuple[str, bytes]]: ...
    @property
    def up(self) -> bool: ...
    @up.setter
    def up(self, up: bool) -> None: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *args: object) -> None: ...

@final
class MemoryBridge(BackgroundTask):
    def __init__(
        self,
        server: MemoryServer,
        *,
        topics: Sequence[Topic[Any] | str],
        mode: Literal["broadcast", "compete"] = "broadcast",
        group: str = "workers",
        max_deliveries: int = 5,
    ) -> None: ...
    async def initialize(self) -> None: ...
    async def execute(self) -> None: ...
    async def shutdown(self) -> None: ...

class InjectedError(Exception): ...

class Faults(BaseModel, frozen=True):
    model_config: ClassVar[ConfigDict]
    most: int = 4
    crashes: float = 2.0
    delays: float = 1.0
    cancellations: float = 0.5
    strays: float = 1.0
    commands: float = 4.0
    longest: float = 20.0

@dataclass(frozen=True, slots=True)
class Scenario:
    seed: int
    backend: Literal["asyncio", "trio"]
    order: Order
    faults: tuple[Any, ...] = ()
    without: tuple[str, ...] = ()
    variant: int = 0
    @property
    def order_seed(self) -> int: ...

@dataclass(frozen=True, slots=True)
class SimulationReport:
    runs: int
    faults: Mapping[str, int]
    virtual_seconds: float
    real_seconds: float
    digest: str

class SimulationFailure(AssertionError):
    kind: str
    what: str
    scenario: Scenario
    trace: tuple[str, ...]
    stacks: str
    @property
    def seed(self) -> int: ...
    @property
    def backend(self) -> Literal["asyncio", "trio"]: ...

def simulate(
    build: Callable[[], Scheduler[_E]],
    /,
    *,
    seeds: Iterable[int],
    drive: Callable[[Harness[_E], Random], Awaitable[None]] | None = None,
    backends: Sequence[Literal["asyncio", "trio"]] = ("asyncio", "trio"),
    order: Order = "shuffle",
    faults: Faults | None = None,
    limit: float = 3600,
    seconds: float = 60,
    check: Sequence[Callable[[Harness[_E]], None]] = (),
) -> SimulationReport: ...
def replay(failure: SimulationFailure, /) -> None: ...
def shrink(failure: SimulationFailure, /, *, seconds: float = 60) -> SimulationFailure: ...
