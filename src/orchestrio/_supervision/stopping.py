"""How runs end: asked, drained, cancelled, and shut down in their turn.

There is one way. Who is stopped, and whether what was published is handled before, is all that a
`stop_task`, a group's stop, a restart and the stop of everything differ in.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from math import inf
from operator import attrgetter
from typing import Final, final

from anyio import create_task_group, current_time, move_on_at
from anyio.lowlevel import checkpoint

from .._model._loops.wakeup import Wakeup
from .._model.words import in_seconds
from .._workers.phases import Phase
from .._workers.run import Run
from .._workers.worker import Worker

__all__ = ["Turns", "ask_to_end", "end", "enough_rounds", "runs_of", "wait_cancelled", "wait_down"]

#: How long after its own deadline a ``shutdown()`` may still ignore its cancellation (seconds).
_LAST_RESORT: Final = 1.0

#: How long what was cancelled may take in any case, in seconds: the task groups of a task close one
#: after the other, and a ``stop_timeout`` of 0 is not to make a task that does so a stuck one.
_UNWIND: Final = 0.1

#: How long what was published may take to come back over a bridge, in seconds, before a drain.
_HOME: Final = 1.0

#: When a drain looks again whether those that get new messages all the time have handled those that
#: it waits for: after so many seconds, or after such a part of the time that it has taken. Looking
#: costs the delivery of messages nothing.
_LOOK_AGAIN: Final = 0.05
_PART: Final = 0.1


async def end(runs: Iterable[Run], rounds: float) -> None:
    """Bring the work of runs to its end, each within its own time-outs.

    Producers end first, then event tasks handle what was published, then they end as well, and
    bridges after them. Without a drain all end at once, and event tasks finish the message in hand.
    To shut down is up to the `Turns`.

    A drain goes by rounds: in the first one event tasks handle what was published before it, in the
    next one what that led to, and so on until nothing is left.

    :param runs: whose work is to end
    :param rounds: how many rounds there are at most, within ``drain_timeout``; 0 is for no drain
    """
    runs = [run for run in runs if not run.is_over]
    if not rounds:
        await _end_all(runs, finish=frozenset(runs))
        return
    consumers = [run for run in runs if run.host.kind == "event"]
    bridges = [run for run in runs if run.host.receive_no_more()]
    await _end_all([run for run in runs if run.host.kind == "background" and run not in bridges])
    if consumers:
        if bridges:
            await _catch_up([run for run in bridges if run.is_working])
        await _drain_and_end(consumers, rounds)
    if bridges:
        await _end_all(bridges)


async def _catch_up(bridges: Sequence[Run]) -> None:
    """Have bridges bring in what was published here, if that does not take long."""
    with move_on_at(current_time() + _HOME):
        async with create_task_group() as group:
            for run in bridges:
                group.start_soon(run.host.catch_up)


def enough_rounds(runs: Iterable[Run]) -> int:
    """Return how many rounds will do for any chain of handlers that is no circle.

    Whoever goes on publishing holds no stop up for longer than that.
    """
    return max(1, sum(run.host.kind == "event" for run in runs))


async def _drain_and_end(runs: list[Run], rounds: float) -> None:
    """End each when all have handled what was published, or when its own time is up."""
    since = current_time()
    for run in runs:
        run.ask()
    deadlines = {run: since + run.host.entry.metadata.drain_timeout for run in runs}
    goals = {run: run.host.published for run in runs}
    now = since
    async with create_task_group() as group:
        while True:
            busy = next(_behind(goals), None)
            if busy is None:
                goals = {run: run.host.published for run in deadlines}
                busy = next(_behind(goals), None)
                rounds -= 1
                if busy is None or not rounds:
                    break
            again = now + max(_LOOK_AGAIN, _PART * (now - since))
            with move_on_at(min(again, *deadlines.values())):
                await busy.host.wait_handled(goals[busy])
            now = current_time()
            late = [run for run, deadline in deadlines.items() if deadline <= now]
            for run in late:
                del deadlines[run], goals[run]
            if late:
                group.start_soon(_end_all, late)
        await _end_all(list(deadlines), frozenset(_behind(goals)))


def _behind(goals: Mapping[Run, int]) -> Iterator[Run]:
    """Find those that have not handled all messages before their goals yet."""
    for run, goal in goals.items():
        if run.is_working and not run.host.has_handled(goal):
            yield run


async def _end_all(runs: Sequence[Run], finish: Collection[Run] = ()) -> None:
    """End the work of runs at the same time, and wait until it is over.

    A task that listens gets its ``stop_timeout`` to end by itself. All others are cancelled.

    :param runs: whose work is to end
    :param finish: which event tasks may finish the message in hand within that time
    """
    since = current_time()
    for run in runs:
        if not run.is_over:
            ask_to_end(run, finish=run in finish)
    await checkpoint()
    await checkpoint()  # most are over by now, and need nobody to wait for them
    busy = [run for run in runs if not run.is_over]
    if busy:
        async with create_task_group() as group:
            for run in busy:
                group.start_soon(_wait_over, run, since)


def ask_to_end(run: Run, *, finish: bool) -> None:
    """Have the work of a run end by itself, if it can be asked to, or cancel it.

    :param run: the run
    :param finish: whether an event task may finish the message in hand
    """
    run.ask()
    listens = run.listens
    finishes = (finish or listens) and run.is_working and run.host.finish_current()
    if not (listens or finishes):
        run.cancel()


async def _wait_over(run: Run, since: float) -> None:
    if not run.cancel_asked:
        with move_on_at(since + run.host.entry.metadata.stop_timeout):
            while not (run.is_over or run.cancel_asked):  # everything may be told to end at once
                await run.host.changed.wait()
        run.cancel()
        since = current_time()
    await wait_cancelled(run, since)


async def wait_cancelled(run: Run, since: float) -> None:
    """Wait until a run that was cancelled is over, or abandon it.

    :param run: the run
    :param since: when it was cancelled, in seconds on the event loop's clock
    """
    timeout = run.host.entry.metadata.stop_timeout
    with move_on_at(since + max(timeout, _UNWIND)):
        await run.wait_over()
    if not run.is_over:
        what = f"its {run.hook} went on for more than stop_timeout ({in_seconds(timeout)}) after it"
        run.abandon(f"{what} was cancelled", "stop_timeout")


_rank = attrgetter("host.rank")


@final
class Turns:
    """Who shuts down when: of all that are being stopped, whoever has the last place goes first.

    It does not matter who asked for which stop. A task that nobody stops holds nobody up, and
    neither does one that was abandoned; if that ends after all, it has its turn as any other.
    """

    __slots__ = ("_changed", "_deadlines", "_due", "_late", "_order", "_ready", "_stopping")

    def __init__(self) -> None:
        self._order: list[Run] = []  # by rank: the last one has the turn
        self._stopping: set[Run] = set()  # the same, to know who is there
        self._ready: set[Run] = set()  # those with which nothing else is to end first
        self._late: set[Run] = set()  # those that were abandoned, and wait now
        # When the ``shutdown()`` of those that are in it is to be over, on the event loop's clock.
        self._deadlines: dict[Run, float] = {}
        self._due = inf  # when `watch` looks again, in seconds on the event loop's clock
        self._changed = Wakeup()

    def enter(self, runs: Iterable[Run]) -> None:
        """Add runs that are being stopped: those that have a place before theirs wait for them."""
        added = [run for run in runs if not run.is_down and run not in self._stopping]
        self._stopping.update(added)
        if len(added) == 1:
            insort(self._order, added[0], key=_rank)
        elif added:
            self._order += added
            self.sort()

    def allow(self, runs: Iterable[Run]) -> None:
        """Let runs shut down when it is their turn: all that ends with them is over."""
        self._ready.update(run for run in runs if not run.is_down)
        self.advance()

    def sort(self) -> None:
        """Look at the ranks again: they have changed."""
        self._order.sort(key=_rank)

    def leave(self, run: Run) -> None:
        """Take a run out that is down: those before it need not wait for it any more."""
        if run in self._stopping:
            self._stopping.discard(run)
            self._ready.discard(run)
            order = self._order
            if order[-1] is run:  # it had the turn: nearly always
                order.pop()
            else:
                at = bisect_right(order, run.host.rank, key=_rank) - 1
                if order[at] is not run:
                    at = order.index(run)  # it shares its rank with another one
                del order[at]
        self.advance()

    def advance(self) -> None:
        """Have whoever may have the turn now ask for it."""
        order = self._order
        for run in self._late:
            run.look_at_turn()
        if order:
            order[-1].look_at_turn()
        elif self._due < inf:
            self._changed.notify_all()  # nothing is due any more

    def take_turn(self, run: Run) -> bool:
        """Return whether it is the turn of a run; then its ``shutdown()`` begins at once."""
        last = self._order[-1] if self._order else run
        if run.is_stuck:
            if last.host.rank > run.host.rank:
                self._late.add(run)
                return False
            self._late.discard(run)
        elif run not in self._ready or last is not run:
            return False
        if run.has_hook:
            timeout = run.host.entry.metadata.shutdown_timeout
            deadline = current_time() + (_LAST_RESORT if run.is_cut_short else timeout)
            self._deadlines[run] = deadline
            if deadline < self._due:
                self._due = deadline
                self._changed.notify_all()
        return True

    async def watch(self) -> None:
        """See to it that each ``shutdown()`` ends within its bounds, until this is cancelled."""
        while True:
            for run in [run for run in self._deadlines if run.phase is not Phase.SHUTTING_DOWN]:
                del self._deadlines[run]
            due = min(self._deadlines.values(), default=inf)
            if due < inf or not self._order or self._due <= current_time():
                self._due = due  # otherwise the next one, which is not due before, wakes nobody
            with move_on_at(self._due):
                await self._changed.wait()
                continue
            now = current_time()
            for run, deadline in list(self._deadlines.items()):
                if deadline <= now and run.phase is Phase.SHUTTING_DOWN:
                    self._overdue(run)

    def _overdue(self, run: Run) -> None:
        timeout = run.host.entry.metadata.shutdown_timeout
        if run.is_cut_short:
            del self._deadlines[run]
            what = f"it ignores its cancellation {in_seconds(_LAST_RESORT)} after shutdown_timeout"
            run.abandon(
                f"{what} ({in_seconds(timeout)}); the others are shut down without it",
                "shutdown_timeout",
            )
        else:
            run.cancel_shutdown(
                f"its shutdown() ran longer than shutdown_timeout ({in_seconds(timeout)})"
            )
            self._deadlines[run] = current_time() + _LAST_RESORT

    def force(self, runs: Iterable[Run], why: str) -> None:
        """Cancel the work and the ``shutdown()`` of runs at once.

        :param runs: which
        :param why: what happened, for the error
        """
        for run in runs:
            if run.phase is not Phase.ENDED:
                run.cancel()
                run.cancel_shutdown(why)
                if run in self._deadlines:
                    self._deadlines[run] = current_time() + _LAST_RESORT
        self._changed.notify_all()


def runs_of(workers: Iterable[Worker]) -> list[Run]:
    """Return the runs of tasks that have not ended."""
    return [one.run for one in workers if one.run is not None and one.run.phase is not Phase.ENDED]


async def wait_down(runs: Iterable[Run]) -> None:
    """Wait until runs have come to their end, or nobody waits for that any more."""
    # Whoever has the first place is down last: most need not be waited for.
    for run in sorted(runs, key=lambda run: run.host.rank):
        if not run.is_down:
            await run.wait_down()
