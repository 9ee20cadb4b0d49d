"""The books of a soak: what each subscription was sent, beside what its task says of it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

from orchestrio import (
    DEAD_LETTERS,
    ChannelStatistics,
    DeadLetter,
    Scheduler,
    TaskId,
    TaskSnapshot,
)

from .handlers import Handler

#: What only grows in one subscription.
GROWING: Final = ("handled", "failed", "missed", "restarts")


@final
@dataclass(slots=True)
class Account:
    """One subscription of one event task."""

    handler: Handler
    workers: int
    first: int
    """How many messages had been sent when it began."""
    given_up: int
    """How many messages the handler had given up by then."""
    cut_off: int
    """In how many it had been cut off by then."""
    asked_at: int | None = None
    """How many messages had been sent when it was asked to end; `None` as long as it was not."""
    last: TaskSnapshot | None = None
    """How the task stood when it was looked at last."""


@final
class Books:
    """Keeps an account of each event task of a scheduler, and finds what does not add up."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.accounts: dict[TaskId, Account] = {}
        #: messages sent and orders given so far
        self.operations = 0
        self._accepted: Counter[object] = Counter()  # messages that were not refused, by topic
        #: dead letters that have arrived
        self.letters = 0
        self._timeouts = 0  # of these
        self._given_up = 0  # messages, in accounts that are closed
        self._first: dict[str, str] = {}
        self._times: Counter[str] = Counter()
        self._lock = threading.Lock()

    # -- findings --------------------------------------------------------------------------

    def find(self, rule: str, how: str) -> None:
        """Note that a rule does not hold, and how that was when it was found first."""
        self._first.setdefault(rule, how)
        self._times[rule] += 1

    @property
    def findings(self) -> list[str]:
        """The rules that did not hold."""
        return [
            f"{rule}, seen {self._times[rule]} times; first: {how}"
            for rule, how in self._first.items()
        ]

    # -- keeping accounts ------------------------------------------------------------------

    def accept(self, count: int, topic: object) -> None:
        """Note that messages were published and not refused; the channel may have dropped them."""
        with self._lock:  # a thread publishes too
            self._accepted[topic] += count
            self.operations += count

    def order(self) -> None:
        """Note that the library was asked for something else than to publish."""
        with self._lock:
            self.operations += 1

    def open(self, task: TaskId) -> None:
        """Begin the account of a task that subscribes just now."""
        entry = self.scheduler.registry.get(task)
        handler = entry.task
        assert isinstance(handler, Handler)
        sent = self._sent(handler)
        self.accounts[task] = Account(
            handler=handler,
            workers=entry.metadata.concurrency,
            first=sent - min(sent, self.scheduler.bus.channels[handler.topic].replay),
            given_up=handler.given_up,
            cut_off=handler.cut_off,
        )

    def ask(self, task: TaskId) -> None:
        """Note that a subscription is about to be asked to end."""
        account = self.accounts[task]
        if account.asked_at is None:
            account.asked_at = self._sent(account.handler)

    def close(self, task: TaskId) -> None:
        """End the account of a task that has ended, after a last look at it."""
        account = self.accounts.pop(task)
        shot = self.scheduler.status(task)
        asked_at = account.first if account.asked_at is None else account.asked_at
        earliest = 0 if has_left(shot) else asked_at - account.first
        latest = self._sent(account.handler) - account.first
        if not earliest <= total(shot) <= latest:
            self.find(
                "the counters of a stopped task do not add up",
                f"{said(shot)}, of {earliest} to {latest} sent until it stopped",
            )
        self._compare_failures(account, shot)
        self._given_up += account.handler.given_up - account.given_up

    def bury(self, letter: DeadLetter) -> None:
        """Note that a dead letter has arrived."""
        self.letters += 1
        self._timeouts += isinstance(letter.error, TimeoutError)

    # -- comparing -------------------------------------------------------------------------

    def nothing_in_hand(self) -> bool:
        """Whether each task accounts for all that it was sent."""
        return not any(
            self._in_hand(account, self.scheduler.status(task))
            for task, account in self.accounts.items()
        )

    def check(self, *, at_rest: bool = False) -> None:
        """Compare all accounts with what the scheduler says, without letting it run meanwhile."""
        for task, account in self.accounts.items():
            shot = self.scheduler.status(task)
            # A pool may have taken one more than it has workers: the next to be given out.
            most = 0 if at_rest else account.workers + (account.workers > 1)
            in_hand = self._in_hand(account, shot)
            if not 0 <= in_hand <= most:
                self.find("counters do not add up", f"{said(shot)}, which leaves {in_hand} in hand")
            self._compare_with_last(account, shot)
            if at_rest:
                self._compare_failures(account, shot)
        if at_rest:
            self.compare_letters()
            self._compare_channels(self.scheduler.bus.statistics())

    def compare_letters(self) -> None:
        """Compare the dead letters with what handlers have given up, once all have arrived."""
        sent = self.scheduler.bus.statistics()[DEAD_LETTERS].sent
        given_up = self._given_up + sum(
            account.handler.given_up - account.given_up for account in self.accounts.values()
        )
        if not sent == self.letters == given_up + self._timeouts:
            self.find(
                "dead letters are not the failures for good",
                f"{sent} were sent and {self.letters} arrived, when handlers gave {given_up}"
                f" messages up and {self._timeouts} timed out",
            )

    def _sent(self, handler: Handler) -> int:
        return self.scheduler.bus.statistics()[handler.topic].sent

    def _in_hand(self, account: Account, shot: TaskSnapshot) -> int:
        """Return how many messages a task has to account for, but for those it was sent too late."""
        in_hand = self._sent(account.handler) - account.first - total(shot)
        if in_hand > 0 and (account.asked_at is not None or has_left(shot)):
            return 0  # its channel goes on without it
        return in_hand

    def _compare_with_last(self, account: Account, shot: TaskSnapshot) -> None:
        if min(shot.handled, shot.failed, shot.missed, shot.unread) < 0:
            self.find("a counter is negative", said(shot))
        last = account.last
        if last is not None and any(getattr(shot, it) < getattr(last, it) for it in GROWING):
            self.find("a counter went back", f"{said(last)}; then {said(shot)}")
        account.last = shot

    def _compare_failures(self, account: Account, shot: TaskSnapshot) -> None:
        given_up = account.handler.given_up - account.given_up
        cut_off = account.handler.cut_off - account.cut_off
        if shot.failed != given_up + cut_off:
            self.find(
                "failures do not add up",
                f"{said(shot)}, but its handler gave {given_up} up and was cut off in {cut_off}",
            )

    def _compare_channels(self, channels: Mapping[object, ChannelStatistics]) -> None:
        subscribed: Counter[object] = Counter(
            account.handler.topic
            for task, account in self.accounts.items()
            if not has_left(self.scheduler.status(task))
        )
        for topic, accepted in self._accepted.items():
            channel = channels[topic]
            if channel.sent + channel.dropped != accepted:
                self.find(
                    "a channel did not count what was sent",
                    f"{topic}: {channel.sent} sent and {channel.dropped} dropped, of {accepted}",
                )
            if channel.receivers != subscribed[topic]:
                self.find(
                    "receivers are left",
                    f"{topic}: {channel.receivers}, but {subscribed[topic]} tasks subscribe",
                )


def has_left(shot: TaskSnapshot) -> bool:
    """Whether a task has ended by itself, since it is to do so after a failure."""
    return shot.metadata.on_error == "stop" and shot.failed > 0


def total(shot: TaskSnapshot) -> int:
    """Return how many messages a task accounts for."""
    return shot.handled + shot.failed + shot.missed + shot.unread


def said(shot: TaskSnapshot) -> str:
    """Put a snapshot in words."""
    return (
        f"{shot.name}, {shot.state}: {shot.handled} handled + {shot.failed} failed +"
        f" {shot.missed} missed + {shot.unread} unread, after {shot.restarts} restarts"
    )
