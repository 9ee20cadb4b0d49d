"""The logger of the library: users' handlers and filters may raise, and end nothing by it.

A record is told in the middle of what the supervisor does, and who reads it is no part of that.
"""

from __future__ import annotations

import logging
import sys
from traceback import print_exc
from typing import Final

__all__ = ["logger"]

logger: Final[logging.Logger] = logging.getLogger("orchestrio")


def _handle(record: logging.LogRecord) -> None:
    """Handle a record; what goes wrong is on standard error, as for handlers of the library."""
    try:
        logging.Logger.handle(logger, record)
    except Exception:
        if logging.raiseExceptions and sys.stderr is not None:
            sys.stderr.write(f"--- Logging error, of {record.name}: {record.msg!r} ---\n")
            print_exc()


logger.handle = _handle  # type: ignore[method-assign]  # filters run in there, unguarded
