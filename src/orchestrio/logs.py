"""Which task logs: the fields of the task that is running, for the records of any logger.

The library's own records carry them already. These are for yours: in a hook or a handler, and in
whatever that calls. For structlog, `task_fields` is all that a processor needs.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any, Final, cast, final

from typing_extensions import override

from ._tasks.context import current_run

__all__ = ["JsonFormatter", "TaskFilter", "task_fields"]

#: What a record has by itself; all else comes from `extra`, or from a filter.
_OF_ANY_RECORD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"asctime", "message"}

_FIELDS: Final = ("task_id", "task_name", "task_group", "task_run")


def task_fields() -> dict[str, str | int | None]:
    """Return the task that is running: its id, name, group and run; nothing outside of tasks.

    It works in the hooks and handlers of a task, and in the tasks and threads that these start.

    Example::

        from orchestrio import Scheduler
        from orchestrio.logs import task_fields

        scheduler = Scheduler()

        @scheduler.group("storage").background()
        async def backup() -> None:
            fields = task_fields()
            print(fields["task_name"], "of", fields["task_group"])  # backup of storage

        scheduler.run_sync()
    """
    run = current_run.get()
    if run is None:
        return {}
    about = run.extra()
    return {
        "task_id": str(run.task_id),
        "task_name": run.task_name,
        "task_group": None if about["task_group"] is None else str(about["task_group"]),
        "task_run": run.number,
    }


@final
class TaskFilter(logging.Filter):
    """Gives each record the fields of the task that logs: ``task_name`` and so on.

    Put it on a *handler*: then it sees what all loggers say. Outside of tasks, and where a task is
    in no group, the field is ``"-"``.

    Example::

        import logging
        import sys

        from orchestrio import Scheduler
        from orchestrio.logs import TaskFilter

        handler = logging.StreamHandler(sys.stdout)
        handler.addFilter(TaskFilter())
        handler.setFormatter(logging.Formatter("%(task_name)s, run %(task_run)s: %(message)s"))
        logger = logging.getLogger("shop")
        logger.addHandler(handler)
        scheduler = Scheduler()

        @scheduler.background()
        async def clerk() -> None:
            logger.warning("sold out")

        scheduler.run_sync()
        print("done")  # done
    """

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields, and let every record pass.

        :param record: the record; the fields that it has already stay
        :return: `True`
        """
        fields = task_fields()
        for name in _FIELDS:
            if getattr(record, name, None) is None:
                value = fields.get(name)
                setattr(record, name, "-" if value is None else value)
        return True


@final
class JsonFormatter(logging.Formatter):
    """Writes each record as one line of JSON: time, level, logger, message, the task, the rest.

    The task is the one that is running when the record is formatted. Where that is done elsewhere,
    as behind a `logging.handlers.QueueHandler`, put a `TaskFilter` before it. What was given as
    `extra` comes under its own name, and what is no JSON as `repr` says it. Times are UTC.

    Example::

        import json
        import logging

        from orchestrio.logs import JsonFormatter

        record = logging.makeLogRecord({"msg": "order %d", "args": (7,), "customer": "Ada"})
        line = JsonFormatter().format(record)
        print(json.loads(line)["message"], json.loads(line)["customer"])  # order 7 Ada
    """

    @override
    def format(self, record: logging.LogRecord) -> str:
        """Return the line.

        :param record: the record
        """
        time = datetime.fromtimestamp(record.created, UTC)
        own = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        extra = {name: value for name, value in vars(record).items() if name not in _OF_ANY_RECORD}
        fields: dict[str, Any] = {**own, **task_fields(), **extra, **own}
        if record.exc_info and record.exc_info[0] is not None:
            fields["exception"] = self.formatException(record.exc_info)
        elif record.exc_text:
            fields["exception"] = record.exc_text
        if record.stack_info:
            fields["stack"] = self.formatStack(record.stack_info)
        return json.dumps(_plain(fields), ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    """Return what JSON can say of a value."""
    if value is None or isinstance(value, (str, bool, int)):
        return str(value) if isinstance(value, str) else value
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None  # JSON has no words for others
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in cast("dict[Any, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in cast("list[Any] | tuple[Any, ...]", value)]
    try:
        return repr(value)
    except Exception as trouble:
        return f"<{type(value).__name__}, whose __repr__ raised {type(trouble).__name__}>"
