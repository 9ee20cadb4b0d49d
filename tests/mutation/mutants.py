"""Eighteen bugs, as data: each a slip of a line or two that somebody could make.

A mutant is a text that stands exactly once in a file of the package, and what is put in its place.
Whoever moves or changes such a text ports its mutant: ``tests/test_mutants.py`` holds them to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["MUTANTS", "Mutant", "MutantLostError"]


class MutantLostError(Exception):
    """The text of a mutant is not there, or is there more than once."""


@dataclass(frozen=True)
class Mutant:
    """One bug."""

    name: str
    #: below the root of the repository
    file: str
    #: what stands in the file, exactly once
    text: str
    #: what is planted in its place
    replacement: str
    #: arguments of pytest: the tests that are run against it
    tests: tuple[str, ...]
    #: what a user would suffer
    harm: str

    def planted(self, root: Path) -> str:
        """Return its file with the bug in it.

        :param root: of the repository, or of a copy of it
        :raises MutantLostError: if its text does not stand there exactly once
        """
        source = (root / self.file).read_text(encoding="utf-8")
        count = source.count(self.text)
        if count != 1:
            raise MutantLostError(
                f"{self.name}: its text stands {count} times in {self.file}, not once. Port it."
            )
        return source.replace(self.text, self.replacement)


STREAMS: Final = ("tests/test_streams.py",)
HANDLERS: Final = ("tests/supervision/test_handlers.py",)
TASKS: Final = ("tests/test_scheduler_tasks.py",)
GROUPS: Final = tuple(
    f"tests/supervision/test_group_{subject}.py" for subject in ("strategies", "overlaps", "events")
)
MESSAGES: Final = (*GROUPS, "-k", "over_a_group_restart")

MUTANTS: Final = (
    Mutant(
        name="lost wake-up on the fast path",
        file="src/orchestrio/_broadcast/_streams/send.py",
        text="""\
        channel.tail = tail + 1
        channel.caught_up = 0
        place = tail - channel.origin
        if place < channel.capacity:
            channel.items.append(item)
        else:
            channel.items[place % channel.capacity] = item
        if channel.changed.bell is not None:
            channel.changed.notify_all()

    async def send(""",
        replacement="""\
        channel.tail = tail + 1
        place = tail - channel.origin
        if place < channel.capacity:
            channel.items.append(item)
        else:
            channel.items[place % channel.capacity] = item
        if channel.changed.bell is not None and channel.caught_up == channel.receivers:
            channel.changed.notify_all()
        channel.caught_up = 0

    async def send(""",
        tests=STREAMS,
        harm="A receiver that waits sleeps on while another one has something left to read.",
    ),
    Mutant(
        name="blocked sender not woken when another is cancelled",
        file="src/orchestrio/_broadcast/backpressure.py",
        text="""\
    finally:
        channel.wait_no_more(waiter)
""",
        replacement="""\
    except BaseException:
        channel.blocked.remove(waiter)
        channel.look_closer()
        raise
    finally:
        if waiter in channel.blocked:  # it was sent
            channel.wait_no_more(waiter)
""",
        tests=("tests/test_streams_cancellation.py", "-k", "woken_sender"),
        harm="One publisher is cancelled as its turn comes, and those behind it wait for ever.",
    ),
    Mutant(
        name="lag off by one",
        file="src/orchestrio/_broadcast/cursor.py",
        text="            self.lag(count - channel.capacity)\n",
        replacement="            self.lag(count - channel.capacity + 1)\n",
        tests=STREAMS,
        harm="A slow receiver loses a message that is still held, and hears a wrong count.",
    ),
    Mutant(
        name="lag not counted at a stop",
        file="src/orchestrio/_broadcast/delivery.py",
        text="        cursor.skip(self._skipped)\n",
        replacement="",
        tests=HANDLERS,
        harm="A task ends behind, and what was overwritten is in no count: it vanished.",
    ),
    Mutant(
        name="no shield on shutdown()",
        file="src/orchestrio/_workers/run.py",
        text="            with CancelScope(shield=True) as scope:\n",
        replacement="            with CancelScope() as scope:\n",
        tests=GROUPS,
        harm="shutdown() ends at its first await: files stay open, buffers are not written.",
    ),
    Mutant(
        name="a dropped item not counted",
        file="src/orchestrio/_broadcast/channel.py",
        text="                self.dropped += len(items) - len(fit)\n",
        replacement="                self.dropped += len(fit) < len(items)\n",
        tests=STREAMS,
        harm="A batch that does not fit counts as one message dropped, however many it had.",
    ),
    Mutant(
        name="a stopped event task keeps its subscription",
        file="src/orchestrio/_workers/worker.py",
        text="        if over and self.wanted is not Wanted.RESTART:\n",
        replacement="        if over and self.wanted is Wanted.RUN:\n",
        tests=TASKS,
        harm="A task that was stopped still holds publishers up, for ever.",
    ),
    Mutant(
        name="restart order",
        file="src/orchestrio/_supervision/restarts.py",
        text='        back.sort(key=attrgetter("rank"))\n',
        replacement="",
        tests=GROUPS,
        harm="A task is started before one on which it depends, and waits for it for ever.",
    ),
    Mutant(
        name="window edge",
        file="src/orchestrio/_workers/tree.py",
        text="self._recent[0][0] <= now - policy.within:",
        replacement="self._recent[0][0] < now - policy.within:",
        tests=("tests/supervision/test_restarts.py",),
        harm="A failure that is just out of the window still counts, and ends the run.",
    ),
    Mutant(
        name="a walk over what was overwritten",
        file="src/orchestrio/_broadcast/channel.py",
        text="        until = reader.position + self.capacity\n",
        replacement="        until = reader.position + 2 * self.capacity\n",
        tests=("tests/test_capacity.py",),
        harm="A handler that fell behind gets a newer message in place of the one that is gone.",
    ),
    Mutant(
        name="acknowledge before handling",
        file="src/orchestrio/_workers/event_worker.py",
        text="""\
                await begun
            await self._handle(item)
        except BaseException as error:
            # A cancellation that nobody here has asked for is a failure as any other.
            acknowledgements.settle(reader, number, failure_in(error) or error)
            raise
        acknowledgements.settle(reader, number, None)
""",
        replacement="""\
                await begun
        except BaseException as error:
            acknowledgements.settle(reader, number, error)
            raise
        acknowledgements.settle(reader, number, None)
        await self._handle(item)
""",
        tests=("tests/bridge/test_compete.py", "-k", "after_it_was_handled"),
        harm="A process dies in its handler, and no other gets the message.",
    ),
    Mutant(
        name="a pause forgets the batch",
        file="src/orchestrio/_broadcast/cursor.py",
        text="            self.stop_walk(where)\n",
        replacement="            self.stop_walk(self.channel.tail)\n",
        tests=MESSAGES,
        harm="A task that is paused while it has more to read, as in a group restart, never reads it.",
    ),
    Mutant(
        name="drain looks once",
        file="src/orchestrio/_supervision/stopping.py",
        text='    return max(1, sum(run.host.kind == "event" for run in runs))\n',
        replacement="    return 1\n",
        tests=("tests/test_scheduler_lifecycle.py", "tests/supervision/test_drain.py"),
        harm="What a handler publishes during the stop is not handled any more.",
    ),
    Mutant(
        name="a failure counted twice",
        file="src/orchestrio/_workers/event_worker.py",
        text="            cut = 1 if delivery.in_hand and not self._accounted else 0\n",
        replacement="            cut = 1 if delivery.in_hand else 0\n",
        tests=HANDLERS,
        harm="Each message that ends a run counts as two failures, and a good one disappears.",
    ),
    Mutant(
        name="two restarts launch one task",
        file="src/orchestrio/_supervision/restarts.py",
        text="        older = [self._take_out(worker) for worker in concerned]\n",
        replacement="        older = [self._of.get(worker) for worker in concerned]\n",
        tests=GROUPS,
        harm="Two runs of one task work side by side: two servers on one port.",
    ),
    Mutant(
        name="closing a receiver frees no sender",
        file="src/orchestrio/_broadcast/channel.py",
        text="        self.leave(reader.where)\n",
        replacement="",
        tests=STREAMS,
        harm="A slow subscriber goes away, and publishers wait for it for ever.",
    ),
    Mutant(
        name="a state change without its event",
        file="src/orchestrio/_workers/run.py",
        text="""\
        self.info.ask_to_stop()
        self.host.tell()
""",
        replacement="""\
        self.info.ask_to_stop()
""",
        tests=("tests/supervision/test_task_events.py",),
        harm="A dashboard does not see that a task stops, and its history has a gap.",
    ),
    Mutant(
        name="a delivery that ignores a pause",
        file="src/orchestrio/_broadcast/cursor.py",
        text="""\
        self.stand()
        self.halted = True
        self.channel.changed.notify_all()
""",
        replacement="""\
        self.halted = True
        self.channel.changed.notify_all()
""",
        tests=MESSAGES,
        harm="A task that is being stopped goes on reading, and handles messages out of order.",
    ),
)
