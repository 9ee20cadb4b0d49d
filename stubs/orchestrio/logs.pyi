import logging
from typing import final

from typing_extensions import override

__all__ = ["JsonFormatter", "TaskFilter", "task_fields"]

def task_fields() -> dict[str, str | int | None]: ...

@final
class TaskFilter(logging.Filter):
    @override
    def filter(self, record: logging.LogRecord) -> bool: ...

@final
class JsonFormatter(logging.Formatter):
    @override
    def format(self, record: logging.LogRecord) -> str: ...
