"""What a scheduler's run comes to: all that went wrong, raised once to whoever asks first."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import final

from .._model.errors import TaskShutdownError

__all__ = ["RunOutcome", "raise_together"]

logger: logging.Logger = logging.getLogger("orchestrio")


@final
class RunOutcome:
    """The errors that have not been raised yet."""

    __slots__ = ("failures", "shutdown_errors")

    def __init__(self) -> None:
        #: what ended the run
        self.failures: list[BaseException] = []
        #: what went wrong after the work
        self.shutdown_errors: list[TaskShutdownError] = []

    def raise_failures(self) -> None:
        """Raise what ended the run, once."""
        failures, self.failures = self.failures, []
        raise_together("several tasks failed", failures)

    def raise_all(self, error: BaseException | None = None) -> None:
        """Raise all that went wrong and was not raised yet, alone or as a group.

        :param error: what the caller would raise anyway
        """
        failures = self.failures if error is None else [error, *self.failures]
        shutdown_errors = self.shutdown_errors
        self.failures, self.shutdown_errors = [], []
        if shutdown_errors and not failures:
            raise ExceptionGroup("tasks did not shut down well", shutdown_errors)
        raise_together("the scheduler stopped", [*failures, *shutdown_errors])


def raise_together(what: str, errors: Sequence[BaseException]) -> None:
    """Raise an error alone, or several as a group.

    What means the process, such as `SystemExit`, is raised alone, or its exit code would be lost;
    the others are in the log then.
    """
    for way_out in errors:
        if not isinstance(way_out, (Exception, BaseExceptionGroup)):
            for error in errors:
                if error is not way_out:
                    logger.error("%s, when the process was ended", error, exc_info=error)
            raise way_out
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise BaseExceptionGroup(what, errors)
