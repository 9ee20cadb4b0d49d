"""What a scheduler has to do with its process: the signals that stop it, and systemd's watchdog."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import anyio
from anyio import CancelScope, ClosedResourceError
from anyio.abc import TaskStatus

from .._model.log import logger
from .._supervision.supervisor import Supervisor
from .signals import SIGNALS
from .systemd import Notifier

__all__ = ["feed_watchdog", "heed_signals"]


async def heed_signals(supervisor: Supervisor[Any]) -> None:
    """Stop everything when the first SIGINT or SIGTERM comes, and at once when the second does."""
    if not SIGNALS.is_heard_here:
        return
    with suppress(ClosedResourceError):
        supervisor.way_out = "the third SIGINT or SIGTERM ends the process"
        first = await SIGNALS.wait_for(1)
        if supervisor.is_stopping:
            logger.info("%s: it is stopping already; another one stops it at once", first.name)
        supervisor.ask_to_stop(f"of {first.name}; another one stops it at once")
        supervisor.way_out = "two signals more end the process"
        await SIGNALS.wait_for(2)
        supervisor.way_out = "one signal more ends the process"
        supervisor.force_stop()
        await SIGNALS.wait_for(3)  # which ends the process; meanwhile others get theirs


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
