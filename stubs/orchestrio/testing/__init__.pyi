from typing import Literal

__all__ = ["virtual_time"]

def virtual_time(
    backend: Literal["asyncio", "trio"], *, io_grace: float = 0.05
) -> tuple[str, dict[str, object]]: ...
