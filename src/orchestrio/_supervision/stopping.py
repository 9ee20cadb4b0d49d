"""How tasks are stopped in order: what was published is handled, work ends, ``shutdown()`` runs."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Final

from anyio import current_time, move_on_after, move_on_at
from anyio.lowlevel import checkpoint

from .._model.errors import TaskShutdownError
from .._tasks.context import RunInfo
from .._workers.worker import Life

__all__ = ["HURRY", "drain", "end", "guard_shutdown", "held", "shut_down", "wait_cancelled"]

#: How long after its own deadline a ``shutdown()`` may still ignore its cancellation (seconds).
_LAST_RESORT: Final = 1.0

#: Why a ``shutdown()`` was cut short if nobody had the patience.
HURRY: Final = "its shutdown() was cut short by a second request to stop"


@contextmanager
def held(lives: Iterable[Life]) -> Generator[list[Life]]:
    """Let none of these be started again before the block is left; yields those that are up."""
    up = [life for life in lives if not life.gone]
    for life in up:
        life.holders += 1
    try:
        yield up
    finally:
        for life in up:
            life.let_go()


async def drain(lives: Iterable[Life]) -> None:
    """Wait until event tasks have handled all that was published, what they publish included.

    A handler may publish for another, so all of them must have come to rest in one look.
    """
    since = current_time()
    lives = list(lives)
    for life in lives:
        life.ask_to_stop()
    while waiting := [
        life
        for life in lives
        if life.is_working
        and not life.settled
        and current_time() < since + life.entry.metadata.drain_timeout
    ]:
        for life in waiting:
            with move_on_at(since + life.entry.metadata.drain_timeout):
                await life.wait_settled()


async def end(lives: Iterable[Life]) -> None:
    """End the work of each and wait until it is over, or say who does not end.

    A task that listens gets its ``stop_timeout`` to end by itself. All others are cancelled.
    """
    since = current_time()
    lives = [life for life in lives if not (life.over or life.gone)]
    for life in lives:
        life.ask_to_stop()
    listening: list[Life] = []
    for life in lives:
        if life.heeds_stopping and not life.end_asked:
            life.pause()  # an event task ends after the message in hand, or at once
            listening.append(life)
        else:
            life.end()
    for life in listening:
        with move_on_at(since + life.entry.metadata.stop_timeout):
            await life.wait_over()
        life.end()
    since = current_time()
    for life in lives:
        if not (life.over or life.stuck):
            await wait_cancelled(life, since)


async def wait_cancelled(life: Life, since: float) -> None:
    """Wait until a task that was cancelled has ended, or say that it does not.

    :param life: its life
    :param since: when it was cancelled, in seconds on the event loop's clock
    """
    run = life.run
    timeout = life.entry.metadata.stop_timeout
    with move_on_at(since + timeout):
        await life.wait_over()
    if life.run is run and not life.over:
        what = f"its {life.doing} went on for more than stop_timeout ({timeout:g} s) after it was"
        life.note_stuck(f"{what} cancelled", TimeoutError("stop_timeout"))


async def shut_down(lives: Sequence[Life]) -> list[TaskShutdownError]:
    """Let lives shut down one after the other, the last one first, and wait within bounds.

    :param lives: in order of start
    :return: what went wrong
    """
    failures: list[TaskShutdownError] = []
    waiting = [life for life in lives if not life.gone]
    for life in waiting:
        if not life.over:
            life.allow_shutdown()  # named already: it shuts down if it ends after all
            failures += life.report()
    waiting = [life for life in waiting if life.over]
    for life, earlier in zip(waiting[1:], waiting, strict=False):
        earlier.shut_down_after(life)
    if waiting:
        waiting[-1].allow_shutdown()
    alike = len({life.entry.metadata.shutdown_timeout for life in waiting}) == 1
    await checkpoint()  # most are gone when it returns, and need no timer
    while waiting:
        life = waiting[-1]  # the one that has its turn
        timeout = life.entry.metadata.shutdown_timeout
        if not life.gone:
            # Ten thousand wake-ups are dear: wait for the last turn, not for each, if no turn in
            # between can be over sooner than this one.
            final = next(life for life in waiting if not life.gone) if alike else life
            with move_on_at(life.turn_began + timeout):
                await final.wait_gone()
        if not life.gone and current_time() >= life.turn_began + timeout:
            await _cut_short(life, timeout)
        while waiting and (waiting[-1].gone or waiting[-1].given_up):
            failures += waiting.pop().report()
    return failures


async def _cut_short(life: Life, timeout: float) -> None:
    """Cancel a ``shutdown()`` that takes too long, and give it up if that does not help."""
    run = life.run
    life.cut_short(f"its shutdown() ran longer than shutdown_timeout ({timeout:g} s)")
    with move_on_after(_LAST_RESORT):
        await life.wait_left(run)
    if not life.has_left(run):
        what = f"it ignores its cancellation {_LAST_RESORT:g} s after shutdown_timeout ({timeout:g}"
        life.note_stuck(
            f"{what} s); the others are shut down without it", TimeoutError("shutdown_timeout")
        )
        life.give_up()


async def guard_shutdown(life: Life, run: RunInfo) -> bool:
    """See to it that a ``shutdown()`` on which nobody waits ends within its bounds.

    :param life: one that restarts itself
    :param run: its run that has failed
    :return: whether it has ended
    """
    if life.has_left(run):
        return True
    timeout = life.entry.metadata.shutdown_timeout
    with move_on_at(life.turn_began + timeout):
        await life.wait_left(run)
    if not life.has_left(run):
        await _cut_short(life, timeout)
    return life.has_left(run)
