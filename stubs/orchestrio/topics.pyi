from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Generic, final, overload

from typing_extensions import TypeVar

__all__ = ["Topic"]

T = TypeVar("T", default=str)

@final
@dataclass(frozen=True, init=False, match_args=False)
class Topic(Generic[T]):
    key: Hashable
    payload: type[T]
    validate: bool = ...
    @overload
    def __init__(self: Topic[str], key: Hashable, *, validate: bool = False) -> None: ...
    @overload
    def __init__(self, key: Hashable, payload: type[T], *, validate: bool = False) -> None: ...
    def __getstate__(self) -> tuple[Hashable, type[Any], bool]: ...
    def __setstate__(self, state: tuple[Hashable, type[Any], bool]) -> None: ...
    def __hash__(self) -> object: ...  # type: ignore[override]  # no Hashable to a checker: see the class
