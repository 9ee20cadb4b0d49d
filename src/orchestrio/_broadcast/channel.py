"""`Channel`: a bounded log that senders append to, and that each receiver reads at its own cursor.

Sending stores one reference and wakes everybody that waits by one event, so it costs the same for
one reader as for ten thousand; memory is the log plus one cursor a reader. The semantics are those
of Rust's ``tokio::sync::broadcast``, with a choice of what a full channel does.

Nothing in here awaits: whatever it does happened or did not, also under cancellation. `streams`
puts the public halves on top, `delivery` hands batches to a handler.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from sys import maxsize
from threading import get_ident
from typing import Any, Final, Generic, Protocol, cast, final

from anyio import CancelScope, ClosedResourceError, RunFinishedError, WouldBlock
from typing_extensions import TypeVar

from .._model._loops.wakeup import Wakeup
from .._model.errors import EventSendError
from .._model.settings import ChannelConfig, Overflow
from .._model.words import in_words
from .acknowledgements import Acknowledgements
from .home import Home

__all__ = ["BUDGET", "FOR_TASKS", "Channel", "ChannelStatistics", "Reader", "Waiter"]

T = TypeVar("T")

BUDGET: Final = 256
"""How many items a stream hands over without letting other tasks run."""

FOR_TASKS: Final = (
    'a bridge with mode="compete" carries it, which gives each message to one process and asks its'
    " event tasks whether they have handled it. What subscribe() or wait_for() returns would see a"
    " part of them, and acknowledge none. Read them in an event task, as by @scheduler.on(), or give"
    ' the bridge mode="broadcast".'
)
"""Why event tasks alone may read what a bridge wants to have acknowledged, and what helps."""


@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    """How one channel stands at one moment. All numbers count items, streams or tasks."""

    capacity: int
    """How many items the channel may hold."""
    buffered: int
    """Items held now."""
    sent: int
    """Items stored since the channel was made."""
    dropped: int
    """Items that ``overflow="drop_newest"`` did not store."""
    missed: int
    """Items that receivers were told they missed, added up over all receivers."""
    senders: int
    """Open send streams."""
    receivers: int
    """Open receive streams."""
    tasks_waiting_send: int
    """Tasks blocked in ``send()``."""
    tasks_waiting_receive: int
    """Tasks waiting in a receive."""


class Waiter(Protocol):
    """Who waits for room in a channel."""

    def notify_all(self) -> None:
        """Say that its turn may have come."""


class Reader(Protocol):
    """Who reads a channel, from a position of its own."""

    channel: Any
    position: int
    is_guest: bool
    is_at_work: bool

    @property
    def where(self) -> int:
        """The number of the item that it reads next, at this very moment."""
        ...

    @property
    def has_caught_up(self) -> bool:
        """Whether it is counted as one that has read everything."""
        ...

    def stand(self) -> None:
        """Stop a walk, wherever it is."""


@final
class Channel(Generic[T]):
    """The state that the streams share: a bounded log, who reads it, and who waits.

    Items are numbered from 0 without end; `tail` is the number the next one gets. `items` is a
    ring: item `n` lies at ``(n - origin) % capacity``, and the list grows to `capacity` only as it
    is needed.
    """

    __slots__ = (
        "acknowledgements",
        "blocked",
        "capacity",
        "caught_up",
        "changed",
        "check",
        "clear_until",
        "confirmation",
        "dropped",
        "event",
        "forgotten",
        "holding",
        "home",
        "is_for_tasks",
        "items",
        "keeps",
        "kept",
        "missed",
        "no_receivers",
        "oldest",
        "origin",
        "overflow",
        "owned",
        "readers",
        "receivers",
        "relayed_to",
        "replay",
        "require_receivers",
        "rest",
        "senders",
        "shut",
        "tail",
        "threads",
        "valid_until",
        "wait_ended",
        "walked_until",
        "walkers",
    )

    def __init__(
        self,
        config: ChannelConfig,
        event: object,
        check: Callable[[T], T] | None,
        home: Home,
        *,
        owned: bool = False,
    ) -> None:
        self.capacity: int = config.capacity
        self.overflow: Overflow = config.overflow
        self.replay: int = config.replay
        self.require_receivers: bool = config.require_receivers
        self.event: object = event
        self.owned: bool = owned  # by a bus, which closes all senders in the end
        self.check: Callable[[T], T] | None = check
        self.items: list[T] = []
        self.origin: int = 0
        self.tail: int = 0
        self.kept: int = 0  # with replay: items before this number are released already
        self.senders: int = 0
        self.readers: set[Reader] = set()
        self.receivers: int = 0  # as many as `readers`; to count them takes a call
        self.caught_up: int = 0  # readers that have read everything
        self.dropped: int = 0
        self.missed: int = 0
        self.changed: Wakeup = Wakeup()  # by an item that was sent, or whatever else
        self.no_receivers: Wakeup = Wakeup()
        self.blocked: deque[Waiter] = deque()  # senders waiting for room, in order
        #: whether nothing is overwritten that somebody has still to read
        self.keeps: bool = self.overflow != "drop_oldest"
        #: no reader stands before this number. It is found anew when the log seems to be full
        self.oldest: int = 0
        #: how many readers stand there if the log is known to be full, never too many of them; 0 if
        #: not. A reader with less than `capacity` items to read is none of them, and need not tell
        self.holding: int = 0
        #: up to which tail a valid item may be stored without a closer look; -1 if none may
        self.valid_until: int = -1
        #: the same for an item that need not be valid; -1 if each has to be checked
        self.clear_until: int = -1
        #: those that may walk, see `begin_walk`
        self.walkers: set[Reader] = set()
        #: the first item that may take the place of one that a walk has still to come to
        self.walked_until: int = maxsize
        self.shut: bool = False  # closed as a whole by its owner, the bus
        #: what its guests read after their end, see `end_guests`; there is none before
        self.rest: Channel[T] | None = None
        #: what wait in a thread's stead, for more than room
        self.threads: set[CancelScope] = set()
        #: what closes the streams that are garbage, `None` for a sender: see `forget`
        self.forgotten: deque[Callable[[], None] | None] = deque()
        #: where sends go instead, if a bridge has taken over what reaches the receivers here
        self.relayed_to: Channel[Any] | None = None
        #: awaited with the number of each item before ``send()`` returns
        self.confirmation: Callable[[int], Awaitable[None]] | None = None
        #: who is told that an item has been handled, if anybody wants to know
        self.acknowledgements: Acknowledgements | None = None
        #: whether event tasks alone may read it: whoever else does would acknowledge nothing
        self.is_for_tasks: bool = False
        #: called when one no longer waits for room of whom nobody knows who it is: see `Waits`
        self.wait_ended: Callable[[], None] | None = None
        self.home: Home = home

    # -- sending ---------------------------------------------------------------------------

    @property
    def has_ended(self) -> bool:
        """Whether nobody can subscribe any more, and no thread can send."""
        return self.shut or self.rest is not None

    @property
    def destination(self) -> Channel[Any]:
        """Where a send goes."""
        return self if self.relayed_to is None else self.relayed_to

    def set_limits(self) -> None:
        """Set up to where sends need no closer look, when somebody comes, goes, or waits for room."""
        if self.shut or not self.receivers or self.relayed_to is not None or self.blocked:
            self.valid_until = -1
        elif self.keeps:
            self.valid_until = self.oldest + self.capacity
        else:
            self.valid_until = self.walked_until
        self.clear_until = self.valid_until if self.check is None else -1

    def send(self, item: T) -> int:
        """Send one item by all the rules, without waiting.

        :return: how many readers will get it; 0 if it was dropped
        """
        channel = self.destination
        item = channel.admit(item)
        if channel is not self.destination:
            return self.send(item)
        return channel.put(item)

    def put(self, item: T) -> int:
        """Store an item that was admitted, or refuse it."""
        self.require_open()
        if self.keeps and (self.blocked or self.is_full()):  # those who wait for room go first
            self.refuse()
            return 0
        self.append(item)
        return self.receivers

    def admit(self, item: T) -> T:
        """Apply the rules that do not depend on room; return the item to store."""
        if self.home.thread != get_ident():
            self.home.require_thread(self)
        self.require_open()
        return item if self.check is None else self.check(item)

    def require_open(self) -> None:
        """See that items are taken here."""
        if self.shut:
            raise ClosedResourceError
        if self.require_receivers and not self.receivers:
            raise EventSendError(
                f"{self} has no receiver and require_receivers=True: the item was not sent."
                " Subscribe before publishing.",
                self.event,
            )

    def is_full(self) -> bool:
        """Whether there is no room: the oldest item held is still to be read, and is kept."""
        if not self.keeps or self.tail - self.oldest < self.capacity:
            return False
        if self.forgotten:
            self.bury()
        if not self.holding:
            self.find_oldest()
        return self.holding > 0

    def is_to_wait(self) -> bool:
        """Whether a sender has to wait for room, or behind those that do."""
        return self.overflow == "block" and (bool(self.blocked) or self.is_full())

    def find_oldest(self) -> None:
        """Ask all readers where they are.

        Nobody notes it when they go on, for that would cost each of them more than this does: it
        happens once in `capacity` items at best, and once an item at worst, as their wake-up does.
        """
        oldest = self.tail
        holding = 0
        for reader in [*self.readers]:  # a finalizer may close one
            position = reader.where
            if position < oldest:
                oldest = position
                holding = 1
            elif position == oldest:
                holding += 1
        self.oldest = oldest
        self.holding = holding if self.tail - oldest >= self.capacity else 0
        if self.holding:
            self.stop_walks()  # or they would not tell
        else:
            self.set_limits()

    def leave(self, position: int) -> None:
        """Note that a reader has gone on from a position, which may free a sender."""
        if self.holding and position == self.oldest:
            self.holding -= 1
            if not self.holding:
                self.wake_sender()

    def room(self) -> int:
        """How many items may be stored before something must give way."""
        self.find_oldest()
        return max(0, self.capacity - (self.tail - self.oldest))

    def refuse(self) -> None:
        """A full channel's answer to one item more: count it, or raise."""
        if self.overflow == "drop_newest":
            self.dropped += 1
        elif self.overflow == "block":
            raise WouldBlock
        else:
            raise EventSendError(
                f"{self} is full: its slowest receiver has {self.capacity} items to read, so the"
                " item was not sent. Raise the capacity, or choose another overflow.",
                self.event,
            )

    # An item that goes may have a finalizer, and the garbage collector runs whenever something is
    # called: both may send. So all is as it should be before anything goes or is called.
    def append(self, item: T) -> None:
        """Store one item, and wake whoever waits for it. O(1)."""
        if self.tail >= self.walked_until:
            self.stop_walks()
        tail = self.tail
        self.tail = tail + 1
        self.caught_up = 0
        place = tail - self.origin
        if place < self.capacity:
            self.items.append(item)
        else:
            self.items[place % self.capacity] = item
        if self.changed.bell is not None:
            self.changed.notify_all()
        elif not self.receivers:
            self.release()

    def put_many(self, items: list[T]) -> None:
        """Store several items that were admitted, or refuse them: all or none.

        Those that are dropped by ``overflow="drop_newest"`` are the last ones.
        """
        while True:
            self.require_open()
            tail = self.tail
            if not self.keeps or not self.receivers:
                fit = items
            else:
                room = 0 if self.blocked else self.room()
                fit = items[:room]
                if len(fit) < len(items) and self.overflow != "drop_newest":
                    self.refuse()
            if self.append_many(fit, tail):
                self.dropped += len(items) - len(fit)
                return

    def append_many(self, items: list[T], tail: int) -> bool:
        """Store several items; those that wait are woken once.

        :param items: the items
        :param tail: the number that the first of them is to have
        :return: whether they were stored; not if something was sent or released meanwhile
        """
        count = len(items)
        if tail + count > self.walked_until:
            self.stop_walks()
        ring, origin = self.items, self.origin
        grow = items[: max(0, self.capacity - (tail - origin))]
        rest = items[len(grow) :][-self.capacity :]
        start = (tail + count - len(rest) - origin) % self.capacity
        first = rest[: self.capacity - start]
        there, here = slice(start, start + len(first)), slice(0, len(rest) - len(first))
        after = rest[len(first) :]
        gone = ring[there] + ring[here]  # goes last: it may send
        if self.tail != tail or self.origin != origin:
            return False
        self.tail = tail + count
        self.caught_up = 0 if count else self.caught_up
        ring += grow
        if rest:
            ring[there] = first
            ring[here] = after
        if count:
            self.changed.notify_all()
        if not self.receivers:
            self.release()
        del gone
        return True

    # Whoever walks looks at nothing but the items: to compare `tail` with each of them takes a tenth
    # of all that a message costs. So a sender that is about to overwrite one, or that finds the log
    # full, has them look. It does so once for many: the next walk begins with room to its end.
    def begin_walk(self, reader: Reader) -> None:
        """Note that a reader walks, from its position on."""
        self.walkers.add(reader)
        until = reader.position + self.capacity
        if self.walked_until > until:
            self.walked_until = until
            self.set_limits()

    def stop_walks(self) -> None:
        """Have all that walk stand where they are, and look before they read on."""
        for walker in [*self.walkers]:
            walker.stand()
        self.walkers.clear()
        self.walked_until = maxsize
        self.set_limits()

    def wait_in_turn(self, waiter: Waiter) -> None:
        """Let somebody wait for room, behind those that do."""
        self.blocked.append(waiter)
        self.set_limits()

    def wait_no_more(self, waiter: Waiter) -> None:
        """Let those behind look for room."""
        self.blocked.remove(waiter)
        self.set_limits()
        self.wake_sender()

    def wake_sender(self) -> None:
        """Let the first blocked sender look for room; the next one is woken by it."""
        if self.forgotten:
            self.bury()  # here, for these may leave `blocked`
        if self.blocked and not self.is_full():
            self.blocked[0].notify_all()

    # -- receiving -------------------------------------------------------------------------

    def attach(self, reader: Reader, replay: int | None = None) -> None:
        """Count one more reader.

        :param reader: who; it has a position, unless `replay` says where it begins
        :param replay: how many of the last items it reads first, if they are held
        """
        self.arrive()
        if replay is not None:
            # As in `append`, nothing is called until the reader is there.
            reader.position = self.tail - replay
            if reader.position < self.origin:  # noqa: PLR1730  # see above
                reader.position = self.origin
        self.receivers += 1
        if reader.position == self.tail:
            self.caught_up += 1
        self.readers.add(reader)
        if self.keeps:
            self.find_oldest()
        else:
            self.set_limits()

    def detach(self, reader: Reader) -> None:
        """Forget one reader, and what only it had still to read."""
        self.readers.discard(reader)
        self.walkers.discard(reader)
        self.receivers -= 1
        if reader.has_caught_up:
            self.caught_up -= 1
        self.set_limits()
        self.leave(reader.where)
        if not self.receivers:
            self.no_receivers.notify_all()
        self.changed.notify_all()
        if self.caught_up == self.receivers:
            self.release()

    def reach(self, position: int) -> None:
        """Note that a reader has come to a position, which may release what everybody has read."""
        if position == self.tail:
            self.caught_up += 1
            if self.caught_up == self.receivers:
                self.release()

    def release(self) -> None:
        """Let go of payloads that everybody has read, but for those a newcomer is to get."""
        if not self.replay:
            self.origin = self.tail
            self.items.clear()
            return
        stop = self.tail - self.replay
        first = max(self.kept, self.tail - len(self.items))
        self.kept = max(self.kept, stop)
        gone: list[T] = []  # goes last, or a finalizer would find a part of them done
        for number in range(first, stop):
            slot = (number - self.origin) % self.capacity
            gone.append(self.items[slot])
            self.items[slot] = cast("T", None)

    # -- the whole ------------------------------------------------------------------------

    def end_guests(self) -> None:
        """End the guests, and leave those that read until the bus is closed.

        What a guest has still to read is its own from now on: a channel that nobody writes to. It
        holds no sender up, and gets nothing that is sent later.
        """
        config = ChannelConfig(capacity=self.capacity)
        rest = Channel[T](config, self.event, None, self.home, owned=self.owned)
        while rest.tail != self.tail:  # a finalizer may send meanwhile
            rest.tail = self.tail
            rest.items = self.items.copy()
            rest.origin = self.origin
        rest.shut_down()
        self.rest = rest
        for guest in [reader for reader in self.readers if reader.is_guest]:
            guest.stand()
            self.detach(guest)
            guest.channel = rest
            rest.attach(guest)
        if rest.caught_up == rest.receivers:
            rest.release()
        self.wake_everybody()
        if self.relayed_to is not None:
            self.relayed_to.wake_everybody()  # threads wait there
        for waiting in self.threads:
            waiting.cancel()

    def arrive(self) -> None:
        """Note the event loop, before something waits in it, or is waited for."""
        self.home.require_thread(self)  # and note what was made before it, or in one that has ended
        self.bury()

    def forget(self, close: Callable[[], None] | None, *, wake: bool) -> None:
        """Have a stream closed that is garbage.

        A finalizer runs in any thread, and in the middle of anything: it does not touch the
        channel. The event loop does, here or before anybody waits.

        :param close: closes it; `None` stands for `lose_sender`, and makes no circle of references
        :param wake: whether somebody may wait for that already
        """
        self.forgotten.append(close)
        if wake:
            with suppress(RunFinishedError):  # whoever uses it in another loop comes by
                self.home.hand_over(self.bury)

    def close_by(self, close: Callable[[], None] | None) -> None:
        """Close a stream, in whatever thread: the event loop does it, at once if it is here."""
        self.forgotten.append(close)
        self.bury()

    def bury(self) -> None:
        """Close the streams that are garbage, in the event loop, which they may wake."""
        if self.forgotten and self.home.is_elsewhere:
            with suppress(RunFinishedError):  # nobody waits there any more
                self.home.hand_over(self.bury)
                return
        while self.forgotten:
            close = self.forgotten.popleft() or self.lose_sender
            close()

    def lose_sender(self) -> None:
        """Count one sender less."""
        if not self.shut:
            self.senders -= 1
            self.wake_everybody()

    def shut_down(self) -> None:
        """Close all send streams at once; receivers read what is left."""
        if not self.shut:
            self.shut = True
            self.senders = 0
            self.set_limits()
            self.wake_everybody()
            if self.relayed_to is not None:
                self.relayed_to.shut_down()

    def wake_everybody(self) -> None:
        self.changed.notify_all()
        for waiter in [*self.blocked]:
            waiter.notify_all()

    def statistics(self) -> ChannelStatistics:
        released = max(self.kept, self.tail - len(self.items))
        return ChannelStatistics(
            capacity=self.capacity,
            buffered=self.tail - released,
            sent=self.tail,
            dropped=self.dropped,
            missed=self.missed + (0 if self.rest is None else self.rest.missed),
            senders=self.senders,
            receivers=self.receivers + (0 if self.rest is None else self.rest.receivers),
            tasks_waiting_send=len(self.blocked),
            tasks_waiting_receive=self.changed.waiting,
        )

    def __str__(self) -> str:
        return f"channel {in_words(self.event, repr)}" if self.owned else "the broadcast stream"
