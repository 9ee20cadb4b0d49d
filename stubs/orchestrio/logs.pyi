import logging
from typing import final

from rich.console import Console
from typing_extensions import override

__all__ = ["JsonFormatter", "LiveHandler", "TaskFilter", "task_fields"]

def task_fields() -> dict[str, str | int | None]: ...

@final
class TaskFilter(logging.Filter):
    @override
    def filter(self, record: logging.LogRecord) -> bool: ...

@final
class JsonFormatter(logging.Formatter):
    @override
    def format(self, record: logging.LogRecord) -> str: ...

@final
class LiveHandler(logging.Handler):
    def __init__(self, console: Console | None = None) -> None: ...
    @override
    def emit(self, record: logging.LogRecord) -> None: ...
    @override
    def close(self) -> None: ...
