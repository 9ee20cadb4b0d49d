# What the benchmarks use of bubus (https://github.com/browser-use/bubus), which ships no types.

from collections.abc import Awaitable, Callable, Generator
from typing import Any, Generic, Self, TypeVar

from pydantic import BaseModel

R = TypeVar("R")
E = TypeVar("E", bound=BaseEvent[Any])

class BaseEvent(BaseModel, Generic[R]):
    def __await__(self) -> Generator[Any, Any, Self]: ...

class EventBus:
    def __init__(self, name: str | None = None) -> None: ...
    def on(self, event_pattern: type[E], handler: Callable[[E], Awaitable[object]]) -> None: ...
    def dispatch(self, event: E) -> E: ...
    async def stop(self, timeout: float | None = None, clear: bool = False) -> None: ...
