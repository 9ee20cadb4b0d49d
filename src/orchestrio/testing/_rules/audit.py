"""`Audit`: looks at the counters of a scheduler while it runs, again and again.

For each event task, what was sent since it subscribed is what it handled, failed at, has in hand,
missed and has not read, at any moment; and no counter is ever negative or goes down.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, cast

from orchestrio import RestartScheduled, Scheduler, StateChanged, TaskSnapshot, TaskState

from .ledger import Ledger, Visit

COUNTERS: Final = ("handled", "failed", "in_hand", "missed", "unread")
GROWING: Final = ("handled", "failed", "missed", "restarts")

#: Where an event task has its place in the channel for sure.
SUBSCRIBED: Final = frozenset(
    {TaskState.INITIALIZING, TaskState.READY, TaskState.RUNNING, TaskState.BACKING_OFF}
)


@dataclass(slots=True)
class Account:
    """What is known of one subscription of an event task."""

    #: how much had been sent when it subscribed; `None`: not known yet
    before: int | None = None
    counts: dict[str, int] = field(default_factory=dict[str, int])
    #: what its handlers did, by the observer
    handled: int = 0
    failed: int = 0
    #: what it was told that it missed
    missed: int = 0
    #: how much was known to have been sent while it was subscribed
    sent: int = 0
    #: how often the handlers of messages that are to be tried again have failed
    attempts: dict[int, int] = field(default_factory=dict[int, int])
    #: whether it cannot be told from outside what became of some message
    unsure: bool = False
    suspect: str | None = None
    #: whether it ends to begin again; and whether that is so of the run that is to come as well,
    #: which may begin before the word reaches it
    restarts: bool = False
    again: bool = False


class Audit:
    """Holds the counters of one scheduler against what its handlers do."""

    def __init__(self, scheduler: Scheduler[Any], ledger: Ledger) -> None:
        self._scheduler = scheduler
        self._ledger = ledger
        self._accounts: dict[str, Account] = {}

    def _account(self, task: str) -> Account:
        return self._accounts.setdefault(task, Account())

    def note_state(self, event: StateChanged) -> None:
        """Note that a subscription is being given up, or that there may be a new one."""
        account = self._account(event.task_name)
        if event.state is TaskState.COMPLETED:
            self._see_that_its_event_has_ended(event)
        if event.state not in SUBSCRIBED:
            account.suspect = None
            if event.state is TaskState.STOPPED:
                account.restarts = account.again = False
        elif event.state is TaskState.BACKING_OFF:
            account.again = False
            if not account.restarts:  # it had ended for good, and somebody has it back
                self._accounts[event.task_name] = Account()
                self._ledger.resubscribed.add(event.task_name)
        elif event.state is TaskState.INITIALIZING and event.previous is TaskState.REGISTERED:
            # Another task may have had the name before.
            self._accounts[event.task_name] = Account(restarts=account.again)
        elif event.state is TaskState.INITIALIZING:
            account.restarts = account.again
            kept = event.previous is TaskState.BACKING_OFF
            for task in self._scheduler.status():
                if task.name == event.task_name and self._is_new(task, account, kept=kept):
                    self._accounts[task.name] = Account()
                    self._ledger.resubscribed.add(task.name)

    def _see_that_its_event_has_ended(self, event: StateChanged) -> None:
        """See that an event task that is told to be over has no event any more."""
        if self._scheduler.stopping.is_set():
            return
        there = {str(channel) for channel in self._scheduler.bus.channels}
        for task in self._scheduler.status():
            if task.task_id == event.task_id and task.event in there:
                self._ledger.violate(
                    "no_silent_end", f"{task.name} has ended, and its event {task.event} has not"
                )

    def note_restart(self, event: RestartScheduled) -> None:
        """Note that a task that has ended, or is about to, keeps its place in the channel."""
        account = self._account(event.task_name)
        account.restarts = account.again = True

    def _is_new(self, task: TaskSnapshot, account: Account, *, kept: bool) -> bool:
        """Whether a task that begins again has another subscription; `kept` if it should not.

        It counts anew then. With nothing counted yet, this cannot be told.
        """
        done = sum(getattr(task, name) for name in ("handled", "failed", "missed"))
        before = sum(account.counts.get(name, 0) for name in ("handled", "failed", "missed"))
        before = max(before, account.handled + account.failed)
        sent = self._sent(task)
        moved = sent is not None and account.before != sent - _total(task)
        return done < before or (moved and not (kept and done))

    def _sent(self, task: TaskSnapshot) -> int | None:
        """Return how much was sent on the event of a task; `None` if it has no channel."""
        for event, statistics in self._scheduler.bus.statistics().items():
            if str(event) == task.event:
                return statistics.sent
        return None

    def note_begin(self, visit: Visit) -> None:
        """Note that a handler begins."""
        account = self._account(visit.task)
        if visit.hook == "handle_event" and account.suspect is not None:
            self._ledger.violate("accounts", account.suspect)
        elif visit.hook == "handle_lag":
            account.missed += cast("int", visit.message)
            self._see_where_it_goes_on(visit.task)

    def _see_where_it_goes_on(self, name: str) -> None:
        """See that a task that has just been told of a lag has all to read that is still held."""
        for task in self._scheduler.status():
            for event, config in self._scheduler.bus.channels.items():
                if task.name == name and str(event) == task.event and task.unread < config.capacity:
                    self._ledger.violate(
                        "accounts",
                        f"{name} lagged, and goes on with {task.unread} messages where"
                        f" {config.capacity} are held",
                    )

    def note_end(self, visit: Visit) -> None:
        """Note what became of a message."""
        account = self._account(visit.task)
        if visit.hook in ("initialize", "shutdown"):
            account.failed += len(account.attempts)  # cut off while they waited for another attempt
            account.attempts.clear()
        if visit.hook != "handle_event":
            return
        metadata = self._ledger.metadata.get(visit.task)
        retries = 0 if metadata is None else metadata.retries
        timeout = float("inf") if metadata is None else metadata.attempt_timeout
        key = id(visit.message)
        if visit.error is None:
            account.handled += 1
            account.attempts.pop(key, None)
            return
        several = metadata is not None and metadata.concurrency > 1 and retries
        if several or (visit.cancelled and timeout < float("inf")):  # of which, nobody can tell
            account.unsure = True
            self._ledger.unsure.add(visit.task)
            return
        attempts = account.attempts.pop(key, 0) + 1
        if visit.cancelled:
            account.failed += 1
        elif attempts <= retries:
            account.attempts[key] = attempts
        else:
            account.failed += 1
            dead = self._ledger.dead
            dead[visit.task] = dead.get(visit.task, 0) + 1
            self._ledger.failed.append(visit)

    def look(self) -> None:
        """Look at all counters now."""
        for task in self._scheduler.status():
            account = self._account(task.name)
            sent = self._sent(task)
            subscribed = sent is not None and task.state in SUBSCRIBED
            if not subscribed:
                self._see_that_nothing_is_forgotten(task, account)
            self._see_that_they_grow(task, account)
            if sent is not None and subscribed:
                self._see_that_they_add_up(task, account, sent)

    def _see_that_they_grow(self, task: TaskSnapshot, account: Account) -> None:
        for name in COUNTERS:
            if getattr(task, name) < 0:
                self._ledger.violate("accounts", f"{task.name}: {name} is {getattr(task, name)}")
        if task.state is TaskState.BACKING_OFF:
            return  # with another subscription it counts anew; its next state tells
        for name in GROWING:
            count = getattr(task, name)
            before = account.counts.get(name, 0)
            if count < before and task.state in SUBSCRIBED and account.before is not None:
                self._ledger.violate(
                    "accounts", f"{task.name}: {name} went down from {before} to {count}"
                )
            account.counts[name] = count

    def _see_that_they_add_up(self, task: TaskSnapshot, account: Account, sent: int) -> None:
        total = _total(task)
        if account.before is None:
            account.before = sent - total
        if total == sent - account.before:
            account.sent = sent
        elif account.suspect is None:
            # If it is giving its place in the channel up just now, its state will say so.
            account.suspect = self._deficit(task, sent - account.before)

    def _see_that_nothing_is_forgotten(self, task: TaskSnapshot, account: Account) -> None:
        """See that a task that has no place any more still accounts for all that it had.

        One that begins to count anew has another subscription already, for its next run.
        """
        done = task.handled + task.failed
        anew = not done or done < account.counts.get("handled", 0) + account.counts.get("failed", 0)
        if account.before is not None and not anew and _total(task) < account.sent - account.before:
            what = self._deficit(task, account.sent - account.before)
            self._ledger.violate("accounts", what)

    def _deficit(self, task: TaskSnapshot, sent: int) -> str:
        parts = ", ".join(f"{name}={getattr(task, name)}" for name in COUNTERS)
        return (
            f"{task.name}: {sent} were sent since it subscribed, and {_total(task)} are accounted"
            f" for ({parts})"
        )

    def look_at_rest(self) -> None:
        """Look when all tasks wait: then the counters and the handlers must agree as well."""
        self.look()
        for task in self._scheduler.status():
            account = self._account(task.name)
            if task.kind != "event" or task.state is not TaskState.RUNNING or account.unsure:
                continue
            if task.missed < account.missed:
                self._ledger.violate(
                    "accounts",
                    f"{task.name} missed {task.missed} messages, and was told {account.missed}",
                )
            told = (task.handled, task.failed)
            if told != (account.handled, account.failed):
                self._ledger.violate(
                    "accounts",
                    f"{task.name} says that it handled {told[0]} and failed at {told[1]} messages;"
                    f" its handlers returned from {account.handled} and failed at {account.failed}",
                )


def _total(task: TaskSnapshot) -> int:
    return sum(getattr(task, name) for name in COUNTERS)
