"""`Play`: one run of a program under a scenario, in one event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from math import isfinite
from random import Random
from typing import Any, Final, TypeAlias, cast

from anyio import (
    CancelScope,
    ClosedResourceError,
    EndOfStream,
    Event,
    WouldBlock,
    create_task_group,
    current_time,
    get_cancelled_exc_class,
    move_on_after,
    sleep,
)
from anyio.lowlevel import checkpoint

from orchestrio import (
    TASK_EVENTS,
    LifecycleError,
    RestartScheduled,
    Scheduler,
    SchedulerError,
    StateChanged,
    Task,
    TaskEvent,
    TaskState,
)

from ..._broadcast.bus import subscribe_until_closed
from ..._model.words import counted, in_words
from ..._tasks.context import current_run
from .._harness import Harness
from .._observation import Observation
from .._probe import Hook
from .._rules.audit import Audit
from .._rules.ledger import Ledger, Visit, alone, shown
from .._rules.promises import see_that_it_may_begin
from .._rules.rules import RULES
from .._rules.waiting import see_that_it_ends, see_that_nobody_is_forgotten
from .commands import Commands
from .injection import Injection
from .roll import Roll
from .scenario import AtTime, Command, OnState, Scenario

Drive: TypeAlias = Callable[[Harness[Any], Random], Awaitable[None]]
Check: TypeAlias = Callable[[Harness[Any]], None]

#: How many seconds after the sum of its time-outs a stop must be over.
GRACE: Final = 2.0


class Play:
    """One run of a program: starts it, injects the faults, watches, and stops it."""

    def __init__(
        self,
        build: Callable[[], Scheduler[Any]],
        drive: Drive | None,
        check: Sequence[Check],
        limit: float,
        hung: Callable[[], None],
    ) -> None:
        self.ledger = Ledger()
        self._build = build
        self._drive = drive
        self._check = check
        self._limit = limit
        self._hung = hung  # called, and does not return, when the run cannot be ended
        self._seen: Observation | None = None  # once it is entered
        self._open: dict[int, Visit] = {}  # hooks that run just now
        self._driven = False  # whether the drive has returned
        self._at_rest_since = 0.0  # when all tasks waited, the last time before the clock jumped
        self._states: dict[tuple[str, TaskState], int] = {}

    async def run(self, scenario: Scenario, draw: Callable[[Scheduler[Any]], Scenario]) -> Scenario:
        """Run the program once.

        :param scenario: what is to happen, without the faults if these are to be drawn
        :param draw: returns the scenario with its faults, once the program is known
        :return: the scenario that was played
        """
        self._quiet = Event()  # set when something has to be looked at
        scheduler = self._scheduler = self._build()
        if not isinstance(cast("object", scheduler), Scheduler):
            raise TypeError(f"build() must return a Scheduler, not {scheduler!r}")
        scenario = draw(scheduler)
        self._faults = scenario.faults
        self._random = Random(f"{scenario.seed} drives")
        for name in scenario.without:
            await scheduler.remove_task(scheduler.registry.get_by_name(name).task_id)
        self._audit = Audit(scheduler, self.ledger)
        self._roll = Roll(scheduler, self.ledger)
        async with create_task_group() as self._outside:
            self._commands = Commands(
                scheduler, self._outside, self.ledger, self._interrupt, self._look
            )
            self._injection = Injection(scenario.faults, self._commands, self.ledger)
            self._outside.start_soon(self._end_it)
            self._outside.start_soon(self._look_closely)
            with CancelScope() as self._around:
                try:
                    await self._run_program()
                except BaseException as error:
                    # A cancellation that nobody asked for must not come out, and end the play.
                    if self._is_cancellation(error):
                        raise
                    if self._seen is None:
                        raise  # it could not even be entered
                    self.ledger.raised.append(error)
                    self.ledger.say(f"raised {type(error).__name__}: {in_words(error)}")
            assert self._seen is not None
            await self._wait_for_commands()
            self._seen.close()
            self._read_events()
            self._events.close()
            self._close_books()
            self._outside.cancel_scope.cancel()
        return scenario

    async def _run_program(self) -> None:
        scheduler = self._scheduler
        async with scheduler:
            channels = scheduler.bus.channels
            sent = {
                event: now.sent - min(now.buffered, channels[event].replay)  # which are replayed
                for event, now in scheduler.bus.statistics().items()
            }
            seen = Observation(scheduler, self._outside, self)
            self._harness: Harness[Any] = Harness(scheduler, seen)
            self.ledger.recorders = {
                event: (recorder, sent[event]) for event, recorder in seen.recorders.items()
            }
            self._events = subscribe_until_closed(scheduler.bus, TASK_EVENTS)
            self._seen = seen
            for entry in scheduler.registry:
                self.ledger.metadata[entry.name] = entry.metadata
            self._outside.start_soon(self._watch_events)
            for fault in self._faults:
                if isinstance(fault.when, AtTime) and isinstance(fault.what, Command):
                    self._commands.start(fault.what, after=fault.when.seconds)
            try:
                if self._drive is None:
                    await scheduler.run()
                elif await self._has_started():
                    await scheduler.stopping.wait()
                    await scheduler.shutdown()
            finally:
                self._note_stop()

    async def _has_started(self) -> bool:
        """Start the program, so that there is something to drive; return whether it did start."""
        assert self._drive is not None
        try:
            await self._scheduler.start()
        except LifecycleError:
            if self._scheduler.stopping.is_set():
                return False  # it was stopped meanwhile
            raise
        self._outside.start_soon(self._drive_it, self._drive)
        return True

    # -- the hooks -----------------------------------------------------------------------------

    async def call(
        self, task: Task, hook: Hook, work: Callable[[], Awaitable[object]], message: object
    ) -> object:
        """Have a hook called, with its faults; this is the `Observer` of the tasks."""
        ledger = self.ledger
        assert self._seen is not None
        name = self._seen.name_of(task)
        self._look()
        words = "" if message is None else f" {shown(message)}"
        visit = Visit(name, hook, message, ledger.say(f"{name}.{hook}(){words}"))
        visit.registration = self._roll.find(task)
        visit.run = current_run.get()
        ledger.visits.append(visit)
        self._open[id(visit)] = visit
        self._see_that_it_is_there(task, visit)
        self._audit.note_begin(visit)
        try:
            return await self._injection.perform(visit, work)
        except BaseException as error:
            visit.cancelled = self._is_cancellation(error)
            visit.error = error
            raise
        finally:
            del self._open[id(visit)]
            self._read_events()
            visit.end = ledger.say(f"{name}.{hook}() ends{_how(visit)}")
            self._audit.note_end(visit)
            if visit.error is not None:
                self._quiet.set()

    def _is_cancellation(self, error: BaseException) -> bool:
        """Whether this is a cancellation that somebody asked for."""
        return isinstance(error, get_cancelled_exc_class()) and not self.ledger.is_injected(error)

    def _look(self) -> None:
        """Note all that has happened so far."""
        self._read_events()
        self._roll.call()
        self._note_stop()

    def _see_that_it_is_there(self, task: Task, visit: Visit) -> None:
        """See that a task whose hook is called is registered."""
        if visit.hook != "shutdown" and not self._roll.is_registered(task):
            self.ledger.violate(
                "nothing_left", f"{visit.hook}() of {visit.task} began after it was removed"
            )
        if visit.hook == "initialize" and visit.registration is not None:
            see_that_it_may_begin(self._scheduler, self.ledger, visit.registration)

    # -- what happens to the tasks -------------------------------------------------------------

    async def _watch_events(self) -> None:
        """Read what happens to tasks as soon as it can be."""
        with self._events as events, suppress(ClosedResourceError):
            async for event in events:
                self._note_event(event)

    def _read_events(self) -> None:
        with suppress(WouldBlock, EndOfStream, ClosedResourceError):
            while True:
                for event in self._events.receive_many_nowait(256):
                    self._note_event(event)

    def _note_event(self, event: TaskEvent) -> None:
        self.ledger.note_event(event)
        self._quiet.set()
        if isinstance(event, RestartScheduled):
            self._audit.note_restart(event)
        if not isinstance(event, StateChanged):
            return
        self._audit.note_state(event)
        key = (event.task_name, event.state)
        nth = self._states[key] = self._states.get(key, 0) + 1
        for fault in self._faults:
            if isinstance(fault.what, Command) and fault.when == OnState(*key, nth):
                self._commands.start(fault.what)

    # -- the end -------------------------------------------------------------------------------

    def _note_stop(self) -> None:
        """Note that everything is to stop, as soon as it is seen."""
        if self.ledger.stop_asked is None and self._scheduler.stopping.is_set():
            self.ledger.stop_asked = self.ledger.say("all is to stop")

    @property
    def _is_meddled_with(self) -> bool:
        """Whether commands stop and remove tasks that somebody else may ask for."""
        return any(isinstance(fault.what, Command) for fault in self._faults)

    def _interrupt(self) -> None:
        self._around.cancel()

    async def _drive_it(self, drive: Drive) -> None:
        try:
            await drive(self._harness, self._random)
            await self._harness.idle()
        except Exception as error:
            # What it asks of a scheduler that a fault has stopped, it does not get.
            for one in alone(error):
                refused = isinstance(one, (SchedulerError, ClosedResourceError))
                if not refused or not (self._scheduler.stopping.is_set() or self._is_meddled_with):
                    self.ledger.violate("drive", f"{type(one).__name__}: {in_words(one)}")
        except (KeyboardInterrupt, SystemExit) as error:
            # Raised here, it would end the event loop, and leave the rest of the run to itself.
            self.ledger.violate("drive", f"{type(error).__name__}: {in_words(error)}")
        self._driven = True
        await self._stop_it()

    async def _end_it(self) -> None:
        """Stop the program when its time is over, and see that it does stop."""
        with move_on_after(self._limit) as scope:
            await self._scheduler.stopping.wait()
        if scope.cancelled_caught:
            self._see_that_nothing_waits_for_ever()
        self._note_stop()
        self._outside.start_soon(self._stop_it)
        await sleep(self._allowed())
        self.ledger.violate(
            "stop_in_time",
            f"{self._allowed():g} s after the stop was asked for, it is not over",
        )
        self._hung()

    def _see_that_nothing_waits_for_ever(self) -> None:
        """See, when a run has come to its limit, that nobody is in the middle of something."""
        since = f"nothing has happened since {self._at_rest_since:g} s"
        if self._drive is not None and not self._driven:
            self.ledger.violate(
                "drive", f"it has not returned within limit ({self._limit:g} s); {since}"
            )
        if current_time() - self._at_rest_since < self._limit / 2:
            return  # something does go on
        for task in self._scheduler.status():
            if task.in_hand:
                held_up = f", waits for {task.waiting_for}" if task.waiting_for else ""
                in_hand = counted(task.in_hand, "messages")
                what = f"{task.name} has {in_hand} in hand{held_up}, and {since}"
                self.ledger.violate("no_deadlock", what)

    async def _stop_it(self) -> None:
        try:
            await self._scheduler.shutdown()
        except Exception as error:
            self.ledger.raised.append(error)

    def _allowed(self) -> float:
        """How long a stop may take: the sum of all time-outs, and a little."""
        times = (
            time
            for metadata in self.ledger.metadata.values()
            for time in (
                *(metadata.stop_timeout, metadata.stop_timeout),
                *(metadata.drain_timeout, metadata.shutdown_timeout),
            )
        )
        return sum(time if isfinite(time) else self._limit for time in times) + GRACE

    async def _wait_for_commands(self) -> None:
        with move_on_after(GRACE):
            await self._commands.wait_ended()
        if self._commands.running:
            self.ledger.violate("stop_in_time", "all has stopped, and a command has not ended")

    def _close_books(self) -> None:
        ledger, scheduler = self.ledger, self._scheduler
        ledger.status = scheduler.status()
        for event, statistics in scheduler.bus.statistics().items():
            ledger.receivers_left[event] = statistics.receivers
            ledger.sent[event] = statistics.sent
        for rule, broken in RULES.items():
            for what in broken(ledger):
                ledger.violate(rule, what)
        for check in self._check:
            try:
                check(self._harness)
            except Exception as error:
                ledger.violate("check", in_words(error) or type(error).__name__)

    # -- looking -------------------------------------------------------------------------------

    async def _look_closely(self) -> None:
        """Look at the counters again and again for a while after something has happened."""
        while True:
            await self._quiet.wait()
            self._quiet = Event()
            for _ in range(3):
                await checkpoint()
                self._read_events()
                self._audit.look()

    def at_rest(self) -> None:
        """Look at everything, as all tasks wait and the clock is about to jump."""
        if self._seen is None:
            return
        scheduler = self._scheduler
        self._at_rest_since = current_time()
        self._read_events()
        self._audit.look_at_rest()
        handling = {visit.task for visit in self._open.values()}
        see_that_nobody_is_forgotten(scheduler, self.ledger, handling, self._seen.receivers)
        if self._drive is None and not handling:
            see_that_it_ends(scheduler, self.ledger)


def _how(visit: Visit) -> str:
    """Say how the call of a hook ends, if not well."""
    if visit.error is None:
        return ""
    words = f"{type(visit.error).__name__}: {in_words(visit.error)}"
    return ": cancelled" if visit.cancelled else f": {words}"
