"""What a scheduler has to do with its process: the signals that stop it, and systemd's watchdog."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from typing import Any

import anyio
from anyio import CancelScope
from anyio.abc import TaskStatus

from .._supervision.supervisor import Supervisor
from .systemd import Notifier

__all__ = ["feed_watchdog", "watch_signals"]

logger: logging.Logger = logging.getLogger("orchestrio")


async def watch_signals(
    supervisor: Supervisor[Any], *, task_status: TaskStatus[CancelScope]
) -> None:
    """Stop everything when SIGINT or SIGTERM comes, and at once when another one does."""
    with CancelScope() as scope, ExitStack() as stack:
        signals: AsyncIterator[signal.Signals] | None = None
        if threading.current_thread() is threading.main_thread():
            # asyncio on Windows has no signal handlers: there, Ctrl-C cancels the run.
            with suppress(NotImplementedError):
                signals = stack.enter_context(
                    anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM)
                )
        task_status.started(scope)
        if signals is None:
            return
        async for signum in signals:
            if supervisor.is_stopping:
                logger.warning("%s again: stopping at once", signum.name)
                supervisor.force_stop()
            else:
                logger.info("%s: stopping; once more stops at once", signum.name)
                supervisor.ask_to_stop()


async def feed_watchdog(
    supervisor: Supervisor[Any], systemd: Notifier, *, task_status: TaskStatus[CancelScope]
) -> None:
    """Tell systemd that the service is alive, for as long as no task is stuck."""
    with CancelScope() as scope:
        task_status.started(scope)
        while systemd.enabled and systemd.watchdog_interval is not None:
            if supervisor.is_live:
                systemd.watchdog()
            await anyio.sleep(systemd.watchdog_interval)
