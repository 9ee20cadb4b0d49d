"""`Injection`: has hooks called with the faults that a scenario has for them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial
from itertools import count
from types import coroutine
from typing import Any, TypeVar, final

from anyio import CancelScope, get_cancelled_exc_class, sleep
from anyio.lowlevel import checkpoint_if_cancelled

from .._rules.ledger import InjectedError, Ledger, Visit
from .commands import Commands
from .scenario import Cancel, Command, Crash, Delay, Fault, InHook, Stray

T = TypeVar("T")

Work = Callable[[], Awaitable[object]]


@final
class Injection:
    """The faults of one run that are in hooks."""

    def __init__(self, faults: tuple[Fault, ...], commands: Commands, ledger: Ledger) -> None:
        self._faults = [fault for fault in faults if isinstance(fault.when, InHook)]
        self._commands = commands
        self._ledger = ledger
        self._calls: dict[tuple[str, str], int] = {}

    async def perform(self, visit: Visit, work: Work) -> object:
        """Do the work of a hook, with the faults of this call of it."""
        place = (visit.task, visit.hook)
        number = self._calls[place] = self._calls.get(place, 0) + 1
        for fault in self._faults:
            assert isinstance(fault.when, InHook)
            if (fault.when.task, fault.when.hook, fault.when.call) == (*place, number):
                if isinstance(fault.what, Stray) and fault.what.clean_up:
                    work = partial(self._with_clean_up, fault, work)
                else:
                    work = partial(self._with_fault, fault, fault.when.checkpoint, work)
        return await work()

    async def _with_fault(self, fault: Fault, checkpoint: int, work: Work) -> object:
        if not checkpoint:
            await self._do(fault)
            return await work()
        result = None
        reached = False
        with CancelScope() as scope:

            def come_to_it() -> None:
                nonlocal reached
                reached = True
                if isinstance(fault.what, Command):
                    self._commands.start(fault.what)
                elif not isinstance(fault.what, Delay):
                    scope.cancel()

            result = await stepped(_as_coroutine(work), checkpoint, come_to_it)
        if not (reached and isinstance(fault.what, Command)):
            await self._do(fault)
        return result

    async def _with_clean_up(self, fault: Fault, work: Work) -> object:
        """Do the work, and fail at the clean-up if it is cancelled.

        This is what comes out of a task group, on trio, of which a child raises on its way out.
        """
        try:
            return await work()
        except get_cancelled_exc_class() as cancelled:
            if self._ledger.is_injected(cancelled):
                raise
            self._ledger.say(f"fault: {fault}")
            error = self._injected(fault, InjectedError)
            raise BaseExceptionGroup("a clean-up failed", [error, cancelled]) from None

    async def _do(self, fault: Fault) -> None:
        if isinstance(fault.what, Stray):
            await checkpoint_if_cancelled()  # with one that was asked for, this one is as good
        self._ledger.say(f"fault: {fault}")
        if isinstance(fault.what, Stray):
            raise self._injected(fault, get_cancelled_exc_class())
        if isinstance(fault.what, (Crash, Cancel)):
            raise self._injected(fault, InjectedError)
        if isinstance(fault.what, Delay):
            await sleep(fault.what.seconds)
        else:
            await self._commands.obey(fault.what)

    def _injected(self, fault: Fault, kind: type[BaseException]) -> BaseException:
        """Make the error of a fault, and take note of it."""
        assert isinstance(fault.what, (Crash, Cancel, Stray))
        number = len(self._ledger.injected) + 1
        error = kind(f"{fault.what.do} {number}, {fault.when}")
        self._ledger.injected.append(error)
        return error


async def _as_coroutine(work: Work) -> object:
    return await work()


@coroutine
def stepped(
    work: Coroutine[Any, Any, T], checkpoint: int, reached: Callable[[], None]
) -> Generator[Any, Any, T]:
    """Run a coroutine, and call something when it has come to a checkpoint.

    :param work: the coroutine
    :param checkpoint: which of those at which it really waits, 1 for the first
    :param reached: called just before it waits there
    :return: what the coroutine returns
    """
    step: Callable[[], Any] = partial(work.send, None)
    for number in count(1):
        try:
            request = step()
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]  # a coroutine's own type of result
        if number == checkpoint:
            reached()
        try:
            answer = yield request
        except BaseException as error:
            step = partial(work.throw, error)
        else:
            step = partial(work.send, answer)
    raise AssertionError("a count has no end")
