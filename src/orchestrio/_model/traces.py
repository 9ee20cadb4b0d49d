"""`traceparent`: the trace that work belongs to, and that its messages take along."""

import re
from contextvars import ContextVar
from typing import Final

__all__ = ["trace_in", "traceparent"]

traceparent: Final[ContextVar[str | None]] = ContextVar("orchestrio_traceparent", default=None)
"""The trace that the present work belongs to, as a ``traceparent`` of W3C Trace Context.

What is set when a message is published travels with it, and is set where it is handled. See
https://www.w3.org/TR/trace-context/#traceparent-header. Anything that is none does not travel.
"""

#: The version ff is none, and neither is an id of zeros.
_TRACEPARENT: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)


def trace_in(found: object) -> str | None:
    """Return what was found, if it is a ``traceparent``, and `None` otherwise."""
    return found if isinstance(found, str) and _TRACEPARENT.fullmatch(found) else None
