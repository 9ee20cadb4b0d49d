"""Wrong use of every public call: refused there and then, with a typed error, and no harm is done.

Each case is one call and one kind of wrong value, drawn by Hypothesis, or one call in the wrong
place. The right answer is an error of the library, Pydantic's `ValidationError` that names the
field, or what the documentation of the call announces. Afterwards what the call was made on is
unchanged, and works.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from anyio import Event, create_task_group, to_thread
from fuzz.calls import (
    ANYTHING_GOES,
    CALLED,
    CALLS,
    LEFT_OUT,
    Call,
    parameters_of,
    takes_or_refuses,
)
from fuzz.places import Place, nowhere
from hypothesis import HealthCheck, Phase, Verbosity, given, settings, strategies as st
from pydantic import ValidationError
from support import settle

from orchestrio import BroadcastReceiveStream, BroadcastSendStream, SchedulerError, TaskOptions
from orchestrio.redis import BridgeOptions

quick = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],  # the kind says what is wrong: no need to look for less of it
    report_multiple_bugs=False,
    verbosity=Verbosity.quiet,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@dataclass(frozen=True, repr=False)
class Case:
    """One call, and one kind of wrong value for one of its parameters, or the wrong place."""

    call: Call
    parameter: str
    kind: str
    values: st.SearchStrategy[Any]

    def __repr__(self) -> str:
        if not self.parameter:
            return f"{self.call.name}, {self.kind}"
        return f"{self.call.name}, {self.parameter}: {self.kind}"

    def arguments(self, value: object) -> dict[str, object]:
        return {self.parameter: value} if self.parameter else {}

    def fault_of(self, error: Exception) -> str | None:
        """What is wrong with an error as the answer to this; `None` if it is the right one."""
        if isinstance(error, ValidationError):
            named = {place for details in error.errors() for place in details["loc"][:1]}
            return None if self.parameter in named else f"it names another field: {error}"
        if isinstance(error, SchedulerError) or type(error).__name__ in self.call.documented:
            return None
        return f"{type(error).__name__}: {error}"


def all_cases() -> Iterator[Case]:
    for call in CALLS:
        if call.misuse:
            yield Case(call, "", call.misuse, st.none())
        for parameter, kinds in call.wrong.items():
            for kind, values in kinds.items():
                yield Case(call, parameter, kind, values)


CASES = list(all_cases())


def parameters(*, pure: bool) -> list[Any]:
    """The cases of calls that are made on nothing, or of those that are not."""
    return [
        pytest.param(case, id=repr(case))
        for case in CASES
        if (case.call.places == (nowhere,)) == pure
    ]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    """Without uvloop, which has no part in what is refused."""
    return request.param


# -- wrong calls ---------------------------------------------------------------------------------


class Waits(Exception):
    """A call that should have answered is still waiting for something."""


async def in_time(awaitable: Awaitable[object]) -> object:
    """Await what should answer at once, and not for longer than that takes."""
    answers: list[object] = []
    errors: list[Exception] = []
    ended = Event()

    async def wait() -> None:
        try:
            answers.append(await awaitable)
        except Exception as error:
            errors.append(error)
        ended.set()

    async with create_task_group() as group:
        group.start_soon(wait)
        for turns in (1, 5, 50):
            if not ended.is_set():
                await settle(turns)
        if not ended.is_set():
            errors.append(Waits("it has no reason to"))
        group.cancel_scope.cancel()
    if errors:
        raise errors[0]
    return answers[0]


async def answer(call: Call, owner: Any, **wrong: object) -> object:
    """Make a call, and wait for what it returns if that is to be awaited."""
    if call.in_thread:
        return await to_thread.run_sync(partial(call.make, owner, **wrong))
    found = call.make(owner, **wrong)
    return await in_time(found) if inspect.isawaitable(found) else found


def close(answer: object) -> None:
    """Close the streams that a call has returned."""
    for stream in answer if isinstance(answer, tuple) else (answer,):
        if isinstance(stream, (BroadcastSendStream, BroadcastReceiveStream)):
            stream.close()


class Left(Exception):
    """The way out of a place that need not work any more."""


async def fault_at(place: Place, case: Case, value: object) -> str | None:
    """Make a call in one place; return what is wrong with the answer, or with the place then."""
    fault: str | None = None
    try:
        async with place() as owner:
            try:
                close(await answer(case.call, owner, **case.arguments(value)))
            except Exception as error:
                fault = case.fault_of(error)
            else:
                fault = f"it was accepted: {value!r}"
            if fault is not None:
                raise Left
    except Left:
        pass
    except Exception as error:
        fault = fault or f"harm was done: {error!r}"
    return fault


@pytest.mark.parametrize("case", parameters(pure=True))
@quick
@given(data=st.data())
def test_wrong_use_is_refused(case: Case, data: st.DataObject) -> None:
    value = data.draw(case.values)
    try:
        case.call.make(None, **case.arguments(value))
    except Exception as error:
        fault = case.fault_of(error)
    else:
        fault = f"it was accepted: {value!r}"
    if fault is not None:
        pytest.fail(fault, pytrace=False)


@pytest.mark.parametrize("case", parameters(pure=False))
@quick
@given(data=st.data())
async def test_wrong_use_is_refused_and_does_no_harm(case: Case, data: st.DataObject) -> None:
    value = data.draw(case.values)
    for place in case.call.places:
        fault = await fault_at(place, case, value)
        if fault is not None:
            pytest.fail(fault, pytrace=False)


# -- what these tests stand on -------------------------------------------------------------------

RIGHT = [call for call in CALLS if call.is_complete and not call.misuse and not call.in_thread]


@pytest.mark.parametrize("call", RIGHT, ids=lambda call: f"{call.name}-{'-'.join(call.wrong)}")
async def test_right_use_is_accepted(call: Call) -> None:
    """Or it would prove nothing that wrong use is refused."""
    with suppress(Left, Waits):
        async with call.places[-1]() as owner:
            close(await answer(call, owner))
            raise Left


def test_every_public_call_is_used_wrongly() -> None:
    asked = {name for name in CALLED if takes_or_refuses(name)}
    assert asked - {call.name for call in CALLS} == set(LEFT_OUT)


@pytest.mark.parametrize("name", sorted({call.name for call in CALLS}))
def test_every_parameter_is_given_a_wrong_value(name: str) -> None:
    given = {parameter for call in CALLS if call.name == name for parameter in call.wrong}
    if given & {*TaskOptions.__annotations__, *BridgeOptions.__annotations__}:
        given.add("options")
    assert parameters_of(name) - given - ANYTHING_GOES == set()


def test_the_public_calls_are_found() -> None:
    assert {
        "Scheduler",
        "Scheduler.publish",
        "Group.every",
        "BroadcastReceiveStream.aclose",
        "create_broadcast_stream",
        "current_task_context",
        "RedisBridge",
    } <= set(CALLED)


def test_no_case_is_there_twice() -> None:
    names = [repr(case) for case in CASES]
    assert len(names) == len(set(names))
