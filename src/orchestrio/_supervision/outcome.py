"""What a scheduler's run comes to: all that went wrong, raised once to whoever asks first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

from .._model.errors import TaskExecutionError, TaskInitializationError, TaskShutdownError
from .._model.log import logger
from .._model.tracebacks import leaves_of, own_line, point_to, show_once
from .._tasks.failures import failed_at, to_show

__all__ = ["RunOutcome", "raise_together"]

#: What ends a run, and carries what went wrong afterwards.
_CARRIERS: Final = (TaskExecutionError, TaskInitializationError)


@final
class RunOutcome:
    """The errors that have not been raised yet."""

    __slots__ = ("_ended_by", "failures", "shutdown_errors")

    def __init__(self) -> None:
        #: what ended the run
        self.failures: list[BaseException] = []
        #: what went wrong after the work
        self.shutdown_errors: list[TaskShutdownError] = []
        self._ended_by: BaseException | None = None  # the first failure, raised or not

    def fail(self, failure: BaseException) -> None:
        """Take what ends the run."""
        self._ended_by = self._ended_by or failure
        self.failures.append(failure)

    def raise_failures(self) -> None:
        """Raise what ended the run, once."""
        failures, self.failures = self.failures, []
        raise_together("several tasks failed", failures)

    def raise_all(self, error: BaseException | None = None) -> None:
        """Raise all that went wrong and was not raised yet, alone or as a group.

        The failure that ended the run carries what went wrong afterwards.

        :param error: what the caller would raise anyway
        """
        failures = self.failures if error is None else [error, *self.failures]
        shutdown_errors = self.shutdown_errors
        self.failures, self.shutdown_errors = [], []
        if shutdown_errors and not failures:
            for one in shutdown_errors:
                _point_out(one)
            raise ExceptionGroup("tasks did not shut down well", shutdown_errors) from None
        for failure in failures:
            if failure is self._ended_by and isinstance(failure, _CARRIERS):
                failure.shutdown_errors += tuple(shutdown_errors)
                shutdown_errors = []
        raise_together("the scheduler stopped", [*failures, *shutdown_errors])


def raise_together(what: str, errors: Sequence[BaseException]) -> None:
    """Raise an error alone, or several as a group.

    What means the process, such as `SystemExit`, is raised alone, or its exit code would be lost;
    the others are in the log then.
    """
    for error in errors:
        _point_out(error)
    for way_out in errors:
        if not isinstance(way_out, (Exception, BaseExceptionGroup)):
            for error in errors:
                if error is not way_out:
                    logger.error("%s, when the process was ended", error, exc_info=error)
            raise way_out
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise BaseExceptionGroup(what, errors) from None  # the cancellation that it comes with


def _point_out(error: BaseException) -> None:
    """Have a traceback end where the task failed, and say what went wrong afterwards.

    The cause stands at the top of what Python prints, where nobody looks first; and of a task that
    failed again and again, it would be there again and again.
    """
    if not isinstance(error, (*_CARRIERS, TaskShutdownError)):
        return
    if error.__cause__ is not None:
        show_once(shown for one in leaves_of(error.__cause__) if (shown := to_show(one)))
    line = failed_at(error)
    if line is not None:
        point_to(error, line)
    if isinstance(error, _CARRIERS):
        said: Sequence[str] = getattr(error, "__notes__", ())
        for after in error.shutdown_errors:
            note = f"Then {after}{_where(after)}"
            if note not in said:  # it may have been raised before
                error.add_note(note)


def _where(error: BaseException) -> str:
    """Say in which line of the program something went wrong, as a traceback does."""
    line = None if error.__cause__ is None else own_line(error.__cause__)
    if line is None:
        return ""
    code = line.tb_frame.f_code
    return f'\n  File "{code.co_filename}", line {line.tb_lineno}, in {code.co_name}'
