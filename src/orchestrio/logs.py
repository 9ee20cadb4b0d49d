"""Which task logs: the fields of the task that is running, for the records of any logger.

The library's own records carry them already. These are for yours: in a hook or a handler, and in
whatever that calls. For structlog, `task_fields` is all that a processor needs.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, final

from typing_extensions import override

from ._model.words import in_words
from ._tasks.context import current_run

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

__all__ = ["JsonFormatter", "LiveHandler", "TaskFilter", "task_fields"]

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

        from orchestrio import Scheduler
        from orchestrio.logs import TaskFilter

        handler = logging.StreamHandler()
        handler.addFilter(TaskFilter())
        handler.setFormatter(logging.Formatter("%(task_name)s, run %(task_run)s: %(message)s"))
        scheduler = Scheduler()

        @scheduler.background()
        async def clerk() -> None:
            record = logging.makeLogRecord({"msg": "sold out"})  # as any logger makes one
            handler.filter(record)
            print(handler.format(record))  # clerk, run 1: sold out

        scheduler.run_sync()
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
        extra = {
            name: value
            for name, value in vars(record).items()
            # Of a task that there is not, a filter says so in a word.
            if name not in _OF_ANY_RECORD and not (name in _FIELDS and value == "-")
        }
        fields: dict[str, object] = {**own, **task_fields(), **extra, **own}
        if record.exc_info and record.exc_info[0] is not None:
            fields["exception"] = self.formatException(record.exc_info)
        elif record.exc_text:
            fields["exception"] = record.exc_text
        if record.stack_info:
            fields["stack"] = self.formatStack(record.stack_info)
        plain = {name: _plain(value) for name, value in fields.items()}
        line = json.dumps(plain, ensure_ascii=False)
        return line.encode("utf-8", "backslashreplace").decode()  # what is no Unicode, escaped


@final
class LiveHandler(logging.Handler):
    """Prints the log on a terminal, where what is waited for takes one line that stays up to date.

    Elsewhere, as in a file, it prints line after line. Needs the extra: ``pip install
    'orchestrio[rich]'``.

    Example::

        import logging
        from io import StringIO

        from rich.console import Console

        from orchestrio.logs import LiveHandler

        text = StringIO()
        handler = LiveHandler(Console(file=text, width=100))
        handler.handle(logging.makeLogRecord({"msg": "open", "levelname": "INFO"}))
        print("open" in text.getvalue())  # True

    :param console: where to; standard error if not given
    :raises ImportError: if the extra is not installed
    """

    def __init__(self, console: Console | None = None) -> None:
        try:
            from rich.console import Console
            from rich.logging import RichHandler
        except ImportError as error:
            what = "LiveHandler needs rich: pip install 'orchestrio[rich]'"
            raise ImportError(what) from error
        super().__init__()
        self._console = Console(stderr=True) if console is None else console
        self._lines = RichHandler(console=self._console, show_path=False)
        self._live: Status | None = None  # the line that is up to date, while there is one

    @override
    def emit(self, record: logging.LogRecord) -> None:
        """Print a record, or bring the line up to date.

        :param record: the record
        """
        try:
            if hasattr(record, "waits") and self._console.is_terminal and self._keep(record):
                return
            if record.name == "orchestrio" and hasattr(record, "tasks"):
                self._end_of_wait()
            self._lines.handle(record)
        except Exception:
            self.handleError(record)

    def _keep(self, record: logging.LogRecord) -> bool:
        """Bring the line up to date; return whether there is one."""
        from rich.errors import LiveError
        from rich.text import Text

        if self._live is None:
            live = self._console.status("")
            try:
                live.start()
            except LiveError:  # the program shows something of its own
                return False
            self._live = live
        self._live.update(Text(record.getMessage()))
        return True

    def _end_of_wait(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    @override
    def close(self) -> None:
        """Take the line away, if there is one."""
        self._end_of_wait()
        super().close()


def _plain(value: object) -> object:
    """Return a value if JSON can say it, and otherwise what it looks like."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return in_words(value, repr)
    return value
