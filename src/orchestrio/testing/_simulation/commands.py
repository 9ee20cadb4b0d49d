"""`Commands`: what somebody tells a scheduler to do, in the middle of whatever it does."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from types import NoneType
from typing import Any, cast, final

from anyio import (
    CancelScope,
    ClosedResourceError,
    Event,
    create_task_group,
    sleep,
)
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from orchestrio import (
    TASK_EVENTS,
    BackgroundTask,
    EventTask,
    Group,
    LifecycleError,
    Scheduler,
    SchedulerError,
    TaskId,
    TaskMetadata,
    TaskNotFoundError,
    Topic,
)

from ..._model.words import in_words
from ..._tasks.context import current_run
from ..._workers.tree import Branch
from .._rules.ledger import Ledger, alone
from .._rules.promises import (
    is_being_removed,
    see_that_they_are_back,
    see_that_they_are_down,
    see_that_they_are_gone,
)
from .scenario import NEWCOMER, Command


@final
class Commands:
    """Gives commands to one scheduler, each in a task of its own.

    :param scheduler: the scheduler
    :param group: in which commands run that nobody waits for
    :param ledger: where they are noted
    :param interrupt: cancels the scope around the scheduler
    :param look: takes note of what has happened so far
    """

    def __init__(
        self,
        scheduler: Scheduler[Any],
        group: TaskGroup,
        ledger: Ledger,
        interrupt: Callable[[], None],
        look: Callable[[], None],
    ) -> None:
        self._scheduler = scheduler
        self._group = group
        self._ledger = ledger
        self._interrupt = interrupt
        self._look = look
        self._outside = copy_context()
        self._supervisor: Any = cast("Any", scheduler)._supervisor
        self._branches: dict[str, Branch] = dict(self._supervisor.groups)
        self._removed: set[str] = set()  # groups whose removal was asked for
        self._newcomers = 0
        #: how many are being carried out
        self.running: int = 0
        #: set, and taken off, when one has ended
        self.ended: Event = Event()

    def start(self, command: Command, *, after: float = 0) -> None:
        """Give a command, in a task of its own.

        :param command: the command
        :param after: in how many seconds
        """
        # By somebody outside, whoever's step it is just now.
        if after:
            self._outside.run(self._group.start_soon, self._obey_later, after, command)
        else:
            self._outside.run(self._group.start_soon, self.obey, command)

    async def _obey_later(self, seconds: float, command: Command) -> None:
        await sleep(seconds)
        await self.obey(command)

    async def obey(self, command: Command) -> None:
        """Give a command, wait for it, and be cancelled meanwhile if that is to be."""
        place = self._ledger.say(f"command: {command}")
        self.running += 1
        try:
            with CancelScope() as scope:
                if command.patience is None:
                    await self._give_and_note(command, place)
                else:
                    async with create_task_group() as group:
                        group.start_soon(_cancel_after, command.patience, scope)
                        await self._give_and_note(command, place)
                        group.cancel_scope.cancel()
            if scope.cancelled_caught:
                self._ledger.say(f"command {place} is cancelled")
        finally:
            self.running -= 1
            self.ended.set()
            self.ended = Event()

    async def _give_and_note(self, command: Command, place: int) -> None:
        concerned = self._concerned(command)
        try:
            await self._give(command)
        except Exception as error:
            for one in alone(error):
                refused = isinstance(one, (SchedulerError, ClosedResourceError))
                # One that depends on a task that is not there is refused with that as the cause.
                if not refused or not isinstance(one.__cause__, (NoneType, TaskNotFoundError)):
                    self._ledger.raised.append(one)
                self._ledger.say(f"command {place}: {type(one).__name__}: {in_words(one)}")
        else:
            self._ledger.say(f"command {place} is done")
            self._see_that_it_is_done(command, place, concerned)

    def _concerned(self, command: Command) -> set[TaskId]:
        """Return the tasks that a command is about, which are there now."""
        return {
            task.task_id
            for task in self._scheduler.status()
            if (task.name == command.task and command.group is None)
            or command.group in (task.group or "").split("/")
        }

    def _see_that_it_is_done(self, command: Command, place: int, tasks: set[TaskId]) -> None:
        """See that a command that is done has done what it says."""
        if current_run.get() is not None:
            return  # a task does not wait for what concerns itself
        self._look()
        ledger, scheduler = self._ledger, self._scheduler
        left = [task for task in scheduler.status() if task.task_id in tasks]
        if command.name == "stop":
            see_that_they_are_down(ledger, left, place)
        elif command.name == "remove":
            name = command.group
            if name is not None and self._supervisor.groups.get(name) is self._branches[name]:
                ledger.violate("done_as_told", f"{name} was removed, and is still there")
            see_that_they_are_gone(ledger, left)
        elif command.name == "restart":
            if command.group is not None and command.group not in self._removed:
                left = [task for task in left if not is_being_removed(scheduler, task.task_id)]
            see_that_they_are_back(ledger, left, place)

    async def wait_ended(self) -> None:
        """Wait until none is being carried out."""
        while self.running:
            await self.ended.wait()

    async def _give(self, command: Command) -> None:
        scheduler = self._scheduler
        if command.name == "interrupt":
            self._interrupt()
        elif command.name == "shutdown":
            await scheduler.shutdown()
        elif command.name == "register":
            if command.anew is not None:
                await self._free_name(command.anew)
            self._register(command)
        elif command.group is not None:
            group = self._group_named(command.group)
            if command.name == "remove" and command.patience is None:
                self._removed.add(command.group)
            await {"stop": group.stop, "restart": group.restart, "remove": group.remove}[
                command.name
            ]()
        else:
            give = {
                "stop": scheduler.stop_task,
                "restart": scheduler.restart_task,
                "remove": scheduler.remove_task,
            }[command.name]
            assert command.task is not None
            await give(scheduler.registry.get_by_name(command.task).task_id)

    async def _free_name(self, name: str) -> None:
        """Remove the task of a name, if there is one."""
        entry = next((one for one in self._scheduler.registry if one.name == name), None)
        if entry is not None:
            await self._scheduler.remove_task(entry.task_id)

    def _group_named(self, name: str) -> Group[Any]:
        """Return a group as whoever made it has it, even when it has been removed."""
        self._branches |= self._supervisor.groups  # one may have been made anew
        if name not in self._branches:
            raise LifecycleError(f"there is no group named {name!r}")
        return Group(self._branches[name], self._supervisor, self._scheduler.bus, {})

    def _register(self, command: Command) -> None:
        name = command.anew
        if name is None:
            self._newcomers += 1
            name = NEWCOMER.format(self._newcomers)
        metadata = TaskMetadata(
            name=name, depends_on=() if command.task is None else (command.task,)
        )
        self._look()
        events = [event for event in self._scheduler.bus.channels if event != TASK_EVENTS]
        group = self._scheduler if command.group is None else self._group_named(command.group)
        if command.event is None or not events:
            group.register_background_task(Newcomer(), metadata)
        else:
            event = events[command.event % len(events)]
            group.register_event_task(Listener(event), metadata)
        self._ledger.metadata[name] = metadata
        self._look()


async def _cancel_after(checkpoints: int, scope: CancelScope) -> None:
    for _ in range(checkpoints):
        await checkpoint()
    scope.cancel()


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
