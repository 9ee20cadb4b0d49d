"""What the public modules offer: the names, and the methods of the classes among them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import ModuleType


def public(module: ModuleType) -> dict[str, object]:
    """What a public module offers, as it says itself."""
    return {name: getattr(module, name) for name in module.__all__}


def members(cls: type) -> Iterator[tuple[str, object]]:
    """The public methods and properties that orchestrio gives a class."""
    for base in cls.__mro__:
        if base.__module__.split(".")[0] == "orchestrio":
            for name, value in vars(base).items():
                is_method = inspect.isroutine(value) or isinstance(value, property)
                if not name.startswith("_") and is_method:
                    yield name, getattr(cls, name)
