"""Cancellations that no scope has asked for, as asyncio has them."""

from __future__ import annotations

from collections.abc import Callable

from anyio.lowlevel import current_token

from .asyncio_loop import asyncio_cancellations
from .trio_loop import trio_cancellations

__all__ = ["cancellations_here"]


def cancellations_here() -> Callable[[], int]:
    """Return what says how often the task that runs was cancelled; one that is new may be to come."""
    return trio_cancellations(current_token().native_token) or asyncio_cancellations()
