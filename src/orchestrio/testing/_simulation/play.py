"""`Play`: one run of a program under a scenario, in one event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from math import isfinite
from random import Random
from typing import Any, Final, cast

from anyio import (
    CancelScope,
    ClosedResourceError,
    Event,
    create_task_group,
    current_time,
    get_cancelled_exc_class,
    move_on_after,
    sleep,
)
from anyio.lowlevel import checkpoint

from orchestrio import (
    TASK_EVENTS,
    BackgroundTask,
    EventTask,
    LifecycleError,
    Scheduler,
    SchedulerError,
    StateChanged,
    Task,
    TaskMetadata,
    TaskState,
    Topic,
)

from .._harness import Harness
from .._observation import Observation
from .._probe import Hook
from .audit import Audit
from .ledger import InjectedError, Ledger, Visit, in_words, members
from .rules import RULES, dead_letters
from .scenario import (
    NEWCOMER,
    AtTime,
    Command,
    Crash,
    Delay,
    Fault,
    InHook,
    OnState,
    Scenario,
)
from .stepping import stepped

Drive = Callable[[Harness[Any], Random], Awaitable[None]]
Check = Callable[[Harness[Any]], None]

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
        self.faults: tuple[Fault, ...] = ()
        self._build = build
        self._drive = drive
        self._check = check
        self._limit = limit
        self._hung = hung  # called, and does not return, when the run cannot be ended
        self._calls: dict[tuple[str, Hook], int] = {}
        self._states: dict[tuple[str, TaskState], int] = {}
        self._commands = 0  # that are being carried out
        self._newcomers = 0

    async def run(self, scenario: Scenario, draw: Callable[[Scheduler[Any]], Scenario]) -> Scenario:
        """Run the program once.

        :param scenario: what is to happen, without the faults if these are to be drawn
        :param draw: returns the scenario with its faults, once the program is known
        :return: the scenario that was played
        """
        self._quiet = Event()  # set when something has to be looked at
        scheduler = self._scheduler = self._build()
        scenario = draw(scheduler)
        self.faults = scenario.faults
        self._random = Random(f"{scenario.seed} drives")
        for name in scenario.without:
            await scheduler.remove_task(scheduler.registry.get_by_name(name).task_id)
        self._audit = Audit(scheduler, self.ledger)
        async with create_task_group() as self._outside:
            self._outside.start_soon(self._end_it)
            self._outside.start_soon(self._look_closely)
            with CancelScope() as self._around:
                try:
                    await self._run_program()
                except get_cancelled_exc_class():
                    raise
                except BaseException as error:
                    self.ledger.raised.append(error)
                    self.ledger.say(f"raised {type(error).__name__}: {in_words(error)}")
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
            sent = {event: stat.sent for event, stat in scheduler.bus.statistics().items()}
            self._seen = Observation(scheduler, self._outside, self)
            self._harness: Harness[Any] = Harness(scheduler, self._seen)
            self.ledger.recorders = {
                event: (recorder, sent[event]) for event, recorder in self._seen.recorders.items()
            }
            self._events = scheduler.subscribe(TASK_EVENTS)
            for entry in scheduler.registry:
                self.ledger.metadata[entry.name] = entry.metadata
            self._outside.start_soon(self._watch_events)
            for fault in self.faults:
                # A task more or less would change the order of the others' steps.
                if isinstance(fault.when, AtTime) and isinstance(fault.what, Command):
                    self._outside.start_soon(self._obey_later, fault.when.seconds, fault.what)
            try:
                if self._drive is None or await self._has_started():
                    await scheduler.run()
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
        name = self._seen.name_of(task)
        number = self._calls[name, hook] = self._calls.get((name, hook), 0) + 1
        self._read_events()
        words = "" if message is None else f" {message!r}"
        visit = Visit(name, hook, message, ledger.say(f"{name}.{hook}(){words}"), current_time())
        ledger.visits.append(visit)
        self._see_that_it_belongs(task, visit)
        self._audit.note_begin(visit)
        cancelled = False
        try:
            return await self._with_faults(visit, number, work)
        except BaseException as error:
            cancelled = isinstance(error, get_cancelled_exc_class())
            visit.error = error
            raise
        finally:
            visit.ended = current_time()
            how = "" if visit.error is None else f": {_kind(visit.error, cancelled=cancelled)}"
            visit.end = ledger.say(f"{name}.{hook}() ends{how}")
            self._audit.note_end(visit, cancelled=cancelled)
            if visit.error is not None:
                self._quiet.set()

    def _see_that_it_belongs(self, task: Task, visit: Visit) -> None:
        if visit.hook != "shutdown" and not any(
            entry.task is task for entry in self._scheduler.registry
        ):
            self.ledger.violate(
                "nothing_left", f"{visit.hook}() of {visit.task} began after it was removed"
            )

    async def _with_faults(
        self, visit: Visit, number: int, work: Callable[[], Awaitable[object]]
    ) -> object:
        faults = [
            fault
            for fault in self.faults
            if isinstance(fault.when, InHook)
            and (fault.when.task, fault.when.hook) == (visit.task, visit.hook)
            and fault.when.call == number
        ]
        for fault in faults:
            work = self._with_fault(fault, work)
        return await work()

    def _with_fault(
        self, fault: Fault, work: Callable[[], Awaitable[object]]
    ) -> Callable[[], Awaitable[object]]:
        assert isinstance(fault.when, InHook)
        at = fault.when.checkpoint

        async def faulty() -> object:
            if not at:
                await self._do(fault)
                return await work()
            result = None
            reached = False
            with CancelScope() as scope:

                def come_to_it() -> None:
                    nonlocal reached
                    reached = True
                    if isinstance(fault.what, Command):
                        self._outside.start_soon(self._obey, fault.what)
                    elif not isinstance(fault.what, Delay):
                        scope.cancel()

                result = await stepped(_as_coroutine(work), at, come_to_it)
            if not (reached and isinstance(fault.what, Command)):
                await self._do(fault)
            return result

        return faulty

    async def _do(self, fault: Fault) -> None:
        self.ledger.say(f"fault: {fault}")
        if isinstance(fault.what, Crash):
            error = InjectedError(f"crash {len(self.ledger.injected) + 1}, {fault.when}")
            self.ledger.injected.append(error)
            raise error
        if isinstance(fault.what, Delay):
            await sleep(fault.what.seconds)
        elif isinstance(fault.what, Command):
            await self._obey(fault.what)

    # -- the commands --------------------------------------------------------------------------

    async def _watch_events(self) -> None:
        """Read what happens to tasks as soon as it can be."""
        with self._events as events, suppress(ClosedResourceError):
            async for event in events:
                self._note_event(event)

    def _read_events(self) -> None:
        while True:
            try:
                events = self._events.receive_many_nowait(256)
            except Exception:
                return
            for event in events:
                self._note_event(event)

    def _note_event(self, event: Any) -> None:
        self.ledger.note_event(event)
        self._quiet.set()
        if not isinstance(event, StateChanged):
            return
        self._audit.note_state(event)
        key = (event.task_name, event.state)
        nth = self._states[key] = self._states.get(key, 0) + 1
        for fault in self.faults:
            if isinstance(fault.what, Command) and fault.when == OnState(*key, nth):
                self._outside.start_soon(self._obey, fault.what)

    async def _obey_later(self, seconds: float, command: Command) -> None:
        await sleep(seconds)
        await self._obey(command)

    async def _obey(self, command: Command) -> None:
        """Give a command, and be cancelled if it is to be."""
        place = self.ledger.say(f"command: {command}")
        self._commands += 1
        try:
            with CancelScope() as scope:
                if command.patience is None:
                    await self._give(command)
                else:
                    async with create_task_group() as group:
                        group.start_soon(_cancel_after, command.patience, scope)
                        await self._give(command)
                        group.cancel_scope.cancel()
        except Exception as error:
            for one in _alone(error):
                refused = isinstance(one, (SchedulerError, ClosedResourceError))
                if not refused or one.__cause__ is not None:
                    self.ledger.raised.append(one)
                self.ledger.say(f"command {place}: {type(one).__name__}: {in_words(one)}")
        else:
            self.ledger.say(f"command {place} is done")
        finally:
            self._commands -= 1
            self._quiet.set()

    async def _give(self, command: Command) -> None:
        scheduler = self._scheduler
        if command.name == "interrupt":
            self._note_stop()
            self._around.cancel()
        elif command.name == "shutdown":
            self._note_stop()
            await scheduler.shutdown()
        elif command.name == "register":
            self._register(command)
        else:
            give = {
                "stop": scheduler.stop_task,
                "restart": scheduler.restart_task,
                "remove": scheduler.remove_task,
            }[command.name]
            assert command.task is not None
            await give(scheduler.registry.get_by_name(command.task).task_id)

    def _register(self, command: Command) -> None:
        self._newcomers += 1
        metadata = TaskMetadata(
            name=NEWCOMER.format(self._newcomers),
            depends_on=() if command.task is None else (command.task,),
        )
        assert metadata.name is not None
        events = [event for event in self._scheduler.bus.channels if event != TASK_EVENTS]
        if command.event is None or not events:
            self._scheduler.register_background_task(Newcomer(), metadata)
        else:
            event = events[command.event % len(events)]
            self._scheduler.register_event_task(Listener(event), metadata)
        self.ledger.metadata[metadata.name] = metadata

    # -- the end -------------------------------------------------------------------------------

    def _note_stop(self) -> None:
        """Note that everything is to stop, if this is the first to say so."""
        if self.ledger.stop_asked is None:
            self.ledger.stop_asked = self.ledger.say("all is to stop")

    async def _drive_it(self, drive: Drive) -> None:
        try:
            await drive(self._harness, self._random)
            await self._harness.idle()
        except Exception as error:
            # What it asks of a scheduler that a fault has stopped, it does not get.
            for one in _alone(error):
                if self.ledger.stop_asked is None or not isinstance(
                    one, (SchedulerError, ClosedResourceError)
                ):
                    self.ledger.violate("drive", f"{type(one).__name__}: {in_words(one)}")
        self._note_stop()
        await self._stop_it()

    async def _end_it(self) -> None:
        """Stop the program when its time is over, and see that it does stop."""
        with move_on_after(self._limit):
            await self._scheduler.stopping.wait()
        self._note_stop()
        self._outside.start_soon(self._stop_it)
        await sleep(self._allowed())
        self.ledger.violate(
            "stop_in_time",
            f"{self._allowed():g} s after the stop was asked for, it is not over",
        )
        self._hung()

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
            while self._commands:
                self._quiet = Event()
                await self._quiet.wait()
        if self._commands:
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
        for what in dead_letters(ledger, self._audit.dead, self._audit.unsure):
            ledger.violate("dead_letters", what)
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
                self._audit.look()

    def at_rest(self) -> None:
        """Look at everything, as all tasks wait and the clock is about to jump."""
        if not hasattr(self, "_events"):
            return
        self._read_events()
        self._audit.look_at_rest()
        self._see_that_nobody_is_forgotten()

    def _see_that_nobody_is_forgotten(self) -> None:
        """Nobody waits who could go on: a wake-up was lost."""
        handling = {visit.task for visit in self.ledger.visits if visit.end is None}
        unread: dict[str, list[int]] = {}
        for task in self._scheduler.status():
            if task.kind != "event" or task.event is None:
                continue
            unread.setdefault(task.event, []).append(task.unread)
            idle = task.state is TaskState.RUNNING and not task.in_hand
            if idle and task.unread and task.name not in handling:
                self.ledger.violate(
                    "no_deadlock",
                    f"{task.name} waits for a message, and has {task.unread} to read",
                )
        for event, statistics in self._scheduler.bus.statistics().items():
            known = unread.get(str(event), [])
            others = statistics.receivers - len(known) - self._seen.receivers.get(event, 0)
            full = max(known, default=0) >= statistics.capacity
            if statistics.tasks_waiting_send and not full and others <= 0:
                self.ledger.violate(
                    "no_deadlock", f"a sender waits for room on {event!s}, and there is room"
                )


class Newcomer(BackgroundTask):
    """A task that somebody registers while the scheduler runs."""

    async def initialize(self) -> None:
        """Take a moment."""
        await checkpoint()

    async def execute(self) -> None:
        """Work for a while."""
        await sleep(3)

    async def shutdown(self) -> None:
        """Take a moment."""
        await checkpoint()


class Listener(EventTask[Any]):
    """An event task that somebody registers while the scheduler runs."""

    def __init__(self, event: Any) -> None:
        self._event = event

    @property
    def subscribed_event(self) -> Topic[Any]:
        """Any event of the program."""
        return cast("Topic[Any]", self._event)

    async def handle_event(self, event: Any) -> None:
        """Take a moment."""
        await checkpoint()


async def _as_coroutine(work: Callable[[], Awaitable[object]]) -> object:
    return await work()


async def _cancel_after(checkpoints: int, scope: CancelScope) -> None:
    for _ in range(checkpoints):
        await checkpoint()
    scope.cancel()


def _alone(error: BaseException) -> Iterable[BaseException]:
    """Iterate over the errors in a group and in those within it."""
    for one in members(error):
        yield from [one] if one is error else _alone(one)


def _kind(error: BaseException, *, cancelled: bool) -> str:
    return "cancelled" if cancelled else f"{type(error).__name__}: {in_words(error)}"
