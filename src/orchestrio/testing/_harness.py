"""`harness`: a scheduler that runs for the time of a test, and tells what became of each message."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Hashable, Iterable
from contextlib import asynccontextmanager
from difflib import ndiff
from typing import Any, Generic, cast, final, overload

from anyio import create_task_group, get_cancelled_exc_class
from anyio.lowlevel import checkpoint
from typing_extensions import TypeVar

from orchestrio import (
    DEAD_LETTERS,
    TASK_EVENTS,
    DeadLetter,
    InvalidChannelError,
    Scheduler,
    TaskEvent,
    TaskSnapshot,
    Topic,
)

from ._observation import Observation
from ._recorder import Recorder

E = TypeVar("E", bound=Hashable, default=Hashable)
T = TypeVar("T")

#: How many turns of the others `Harness.idle` waits for the books of a task to be closed.
_TURNS = 100


@final
class Harness(Generic[E]):
    """What a test asks about a scheduler that runs; see `harness`."""

    def __init__(self, scheduler: Scheduler[E], observation: Observation) -> None:
        self._scheduler = scheduler
        self._observation = observation

    # -- what it is given ----------------------------------------------------------------------

    @property
    def scheduler(self) -> Scheduler[E]:
        """The scheduler."""
        return self._scheduler

    @overload
    async def publish(self, event: Topic[T], message: T) -> int: ...
    @overload
    async def publish(self, event: E, message: str) -> int: ...
    async def publish(self, event: Topic[T] | E, message: T | str) -> int:
        """Publish one message on the bus of the scheduler; see `Scheduler.publish`.

        :param event: the key
        :param message: the payload
        :return: how many receivers it went to, without the harness's own
        :raises InvalidChannelError: as `Scheduler.publish` does, as are all other errors
        """
        receivers = await self._scheduler.bus.publish(event, cast("Any", message))
        return max(0, receivers - self._observation.receivers.get(event, 0))

    @overload
    def record(self, event: Topic[T]) -> Recorder[T]: ...
    @overload
    def record(self, event: E) -> Recorder[str]: ...
    def record(self, event: Topic[T] | E) -> Recorder[T] | Recorder[str]:
        """Subscribe a recorder, which gets all that is published from now on.

        :param event: the key
        :return: the recorder; it is closed with the harness
        :raises InvalidChannelError: if the event has no channel
        """
        return self._observation.record(event)

    # -- what it has seen ----------------------------------------------------------------------

    async def idle(self) -> None:
        """Wait until everything that was published has been handled.

        Messages of a task that is being restarted wait for it, and so does this; those of a task
        that has ended for good are not waited for. What a background task will publish later is
        not foreseen, and those who subscribe by themselves, without being event tasks, are not
        known. A handler that calls this waits for itself.
        """
        await checkpoint()
        seen = self._observation
        turns = _TURNS
        while not seen.is_idle():
            # The last handler may have returned, and its task not have closed the books yet.
            if not seen.inside and turns:
                turns -= 1
                await checkpoint()
            else:
                await seen.changed.wait()
                turns = _TURNS

    @overload
    def handled(self, event: Topic[T], *, by: str | None = None) -> list[T]: ...
    @overload
    def handled(self, event: E, *, by: str | None = None) -> list[str]: ...
    def handled(self, event: object, *, by: str | None = None) -> list[Any]:
        """Return the messages of an event whose handler has returned, in that order.

        :param event: the key
        :param by: the name of a task, to ask about its handler alone; otherwise a message is there
            once for each task that has handled it
        :raises InvalidChannelError: if the event has no channel
        :raises TaskNotFoundError: if there is no task of that name
        """
        self._require_channel(event)
        if by is not None and all(task != by for task, _, _ in self._observation.handled):
            self._scheduler.registry.get_by_name(by)
        return [
            message
            for task, key, message in self._observation.handled
            if key == event and by in (None, task)
        ]

    @overload
    def published(self, event: Topic[T]) -> list[T]: ...
    @overload
    def published(self, event: E) -> list[str]: ...
    def published(self, event: object) -> list[Any]:
        """Return the messages published on an event since the harness was opened, in order.

        :param event: the key; its channel was there when the harness was opened
        :raises InvalidChannelError: if it was not, or asks for receivers of its own
            (``require_receivers``): use `record`
        :raises AssertionError: if some were overwritten before the harness could read them
        """
        self._require_channel(event)
        recorder = self._observation.recorders.get(event)
        if recorder is None:
            raise InvalidChannelError(
                f"the harness has no recorder of {event!s}, which came later or has"
                " require_receivers=True: subscribe one with record()",
                event,
            )
        if recorder.missed:
            raise AssertionError(
                f"{recorder.missed} messages of {event!s} were overwritten before the harness read"
                " them: give its channel more capacity"
            )
        return recorder.messages

    def _require_channel(self, event: object) -> None:
        if event not in self._scheduler.bus.channels:
            raise InvalidChannelError(f"event {event!s} has no channel", event)

    @property
    def dead_letters(self) -> list[DeadLetter]:
        """The messages whose handler failed for good, in order."""
        return self.published(DEAD_LETTERS)

    @property
    def task_events(self) -> list[TaskEvent]:
        """What happened to tasks, in order; see `TASK_EVENTS`."""
        return self.published(TASK_EVENTS)

    def task(self, name: str) -> TaskSnapshot:
        """Return how a task stands, by its name.

        :param name: the name
        :raises TaskNotFoundError: if there is no task of that name; the message lists near names
        """
        return self._scheduler.status(self._scheduler.registry.get_by_name(name).task_id)

    # -- assertions ----------------------------------------------------------------------------

    @overload
    def assert_handled(
        self, event: Topic[T], expected: Iterable[T], *, by: str | None = None
    ) -> None: ...
    @overload
    def assert_handled(
        self, event: E, expected: Iterable[str], *, by: str | None = None
    ) -> None: ...
    def assert_handled(
        self, event: Any, expected: Iterable[object], *, by: str | None = None
    ) -> None:
        """Assert that exactly these messages of an event were handled, in this order.

        :param event: the key
        :param expected: the messages
        :param by: the name of a task, to ask about its handler alone
        :raises AssertionError: if others were; it shows what is missing and what is too much
        """
        _compare(f"handled of {event!s}", self.handled(event, by=by), list(expected))

    @overload
    def assert_published(self, event: Topic[T], expected: Iterable[T]) -> None: ...
    @overload
    def assert_published(self, event: E, expected: Iterable[str]) -> None: ...
    def assert_published(self, event: Any, expected: Iterable[object]) -> None:
        """Assert that exactly these messages were published on an event, in this order.

        :param event: the key
        :param expected: the messages
        :raises AssertionError: if others were; it shows what is missing and what is too much
        """
        _compare(f"published on {event!s}", self.published(event), list(expected))


@asynccontextmanager
async def harness(scheduler: Scheduler[E], /) -> AsyncGenerator[Harness[E]]:
    """Run a scheduler for the time of a test: all is initialised when the block begins.

    It is the scheduler as ever, but for a recorder on each of its channels that does not ask for
    receivers of its own: ``publish()`` counts it, and where a full channel blocks or fails, it takes
    its turn. What its tasks handle is kept, also of those that are registered later. A task that
    fails for good ends the block, and the test in it, with that failure. Leaving the block stops all
    tasks.

    Example::

        import anyio

        from orchestrio import Scheduler, Topic
        from orchestrio.testing import harness

        ORDERS = Topic("orders", int)
        BILLS = Topic("bills", str)
        scheduler = Scheduler()
        scheduler.add_channel(ORDERS)
        scheduler.add_channel(BILLS)

        @scheduler.on(ORDERS)
        async def bill(order: int) -> None:
            await scheduler.publish(BILLS, f"bill for {order}")

        async def main() -> None:
            async with harness(scheduler) as h:
                await h.publish(ORDERS, 7)
                await h.idle()
                h.assert_handled(ORDERS, [7])
                print(h.published(BILLS))  # ['bill for 7']

        anyio.run(main)

    :param scheduler: the scheduler, not entered yet
    :return: a context manager; its value is the `Harness`
    :raises TypeError: if it is no scheduler
    :raises LifecycleError: if the scheduler was entered before
    :raises TaskExecutionError: if a task fails for good, as `Scheduler.run` does
    """
    if not isinstance(cast("object", scheduler), Scheduler):
        raise TypeError(f"a harness is for a Scheduler, not for {scheduler!r}")
    error: BaseException | None = None
    observation: Observation | None = None
    try:
        async with create_task_group() as recorders:
            try:
                async with scheduler:
                    observation = Observation(scheduler, recorders)
                    await scheduler.start()
                    yield Harness(scheduler, observation)
            except get_cancelled_exc_class():
                raise
            except BaseException as raised:  # goes out below, or the task group would wrap it
                error = raised
            finally:
                if observation is not None:
                    observation.close()
                recorders.cancel_scope.cancel()
    finally:
        if error is not None:
            raise error


def _compare(what: str, actual: list[Any], expected: list[object]) -> None:
    if actual != expected:
        lines = ndiff([repr(item) for item in expected], [repr(item) for item in actual])
        raise AssertionError("\n".join([f"{what}: - is missing, + is too much", *lines]))
