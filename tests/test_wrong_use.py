"""Wrong use is refused at the call, and the error names the cure; `fuzz` has many more of them."""

from __future__ import annotations

import asyncio
import functools
import math
import re
import sys
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable
from contextlib import asynccontextmanager
from datetime import timedelta
from types import FrameType
from typing import Annotated, Any, Literal, cast
from unittest.mock import AsyncMock, MagicMock

import pytest
from anyio import to_thread
from pydantic import Field, ValidationError
from support import NUMBERS, WORDS

from orchestrio import (
    BackgroundTask,
    Backoff,
    ChannelConfig,
    EventBus,
    EventSendError,
    EventTask,
    InvalidChannelError,
    LifecycleError,
    RestartPolicy,
    Scheduler,
    TaskMetadata,
    TaskNotFoundError,
    TaskRegistry,
    Topic,
    create_broadcast_stream,
)

Function = Callable[..., Any]


@pytest.fixture
def scheduler() -> Scheduler:
    scheduler = Scheduler()
    scheduler.add_channel(NUMBERS)
    return scheduler


# -- functions ---------------------------------------------------------------------------------


class Told:
    """Keeps what its handlers were called with."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    async def method(self, number: int) -> None:
        self.numbers.append(number)

    async def both(self, _: object, number: int) -> None:
        self.numbers.append(number)


class AsyncCallable(Told):
    async def __call__(self, number: int) -> None:
        self.numbers.append(number)


def handlers(told: Told) -> dict[str, Function]:
    """All that is async, told apart by how it is made."""

    async def handle(number: int, _: int = 0) -> None:
        told.numbers.append(number)

    async def handle_any(*numbers: int, **_: int) -> None:
        told.numbers.extend(numbers)

    @functools.wraps(handle)
    def wrapper(number: int) -> Awaitable[None]:
        return handle(number)

    @functools.wraps(told.both)
    async def injected(number: int) -> None:
        told.numbers.append(number)

    callable_object = AsyncCallable()
    callable_object.numbers = told.numbers
    return {
        "a function": handle,
        "a function of any number": handle_any,
        "a method": told.method,
        "a partial": functools.partial(told.both, None),
        "a partial of a partial": functools.partial(functools.partial(told.both), None),
        "a callable object": callable_object,
        "a partial of a callable object": functools.partial(callable_object),
        "a plain wrapper": wrapper,
        "a wrapper that takes less": injected,
        "a static method": staticmethod(handle),
        "a mock": AsyncMock(side_effect=told.numbers.append),
    }


@pytest.mark.parametrize("kind", handlers(Told()))
async def test_what_is_async_is_a_handler(kind: str, scheduler: Scheduler) -> None:
    told = Told()
    handle = handlers(told)[kind]
    assert scheduler.on(NUMBERS)(handle) is handle
    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 7)
    assert told.numbers == [7]


def plain(*_: object) -> None:
    raise AssertionError("it ran")


async def generate(*_: object) -> AsyncGenerator[int]:
    yield 1


def generate_at_once(*_: object) -> Generator[int]:
    yield 1


@asynccontextmanager
async def manage(*_: object) -> AsyncGenerator[None]:
    yield


class PlainCallable:
    __call__ = plain


WRONG: dict[str, object] = {
    "a plain function": plain,
    "a lambda": lambda *_: plain(),  # pyright: ignore[reportUnknownLambdaType]
    "a partial of a plain function": functools.partial(plain),
    "a plain callable object": PlainCallable(),
    "an async generator": generate,
    "a partial of an async generator": functools.partial(generate),
    "a generator": generate_at_once,
    "a context manager": manage,
    "a built-in function": print,
    "a bound built-in function": [].append,  # pyright: ignore[reportUnknownMemberType]
    "a class": AsyncCallable,
    "a plain mock": MagicMock(),
    "nothing": None,
    "a number": 5,
    "a text": "handle",
}
REGISTER: dict[str, Callable[[Scheduler], Function]] = {
    "on": lambda scheduler: scheduler.on(NUMBERS),
    "background": lambda scheduler: scheduler.background(),
    "every": lambda scheduler: scheduler.every(1),
    "cron": lambda scheduler: scheduler.cron("* * * * *"),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("way", REGISTER)
def test_what_is_not_async_is_refused(way: str, kind: str, scheduler: Scheduler) -> None:
    with pytest.raises(LifecycleError, match="must be an async function"):
        REGISTER[way](scheduler)(WRONG[kind])
    assert scheduler.status() == []


class Compiled(weakref.ref[Any]):
    """What mypyc makes of an async function: it is callable, and seems to take nothing."""

    __name__ = "compiled"
    __code__ = (lambda: None).__code__
    __defaults__ = __kwdefaults__ = None
    __annotations__ = {}
    _is_coroutine = getattr(asyncio.coroutines, "_is_coroutine", None)


COMPILED: Any = Compiled(Compiled)


@pytest.mark.parametrize("function", [COMPILED, functools.partial(COMPILED, 1), max])
def test_what_is_compiled_and_says_nothing_is_taken_as_it_is(
    function: Any, scheduler: Scheduler
) -> None:
    scheduler.on(NUMBERS)(function)
    scheduler.background(function)
    assert len(scheduler.registry) == 2


def test_who_forgot_async_is_told_so(scheduler: Scheduler) -> None:
    with pytest.raises(LifecycleError, match=r"numbers \(int\).* plain is .*'async def'"):
        scheduler.on(NUMBERS)(WRONG["a plain function"])  # type: ignore[arg-type]


@pytest.mark.parametrize("way", REGISTER)
def test_who_called_the_function_is_told_so(way: str, scheduler: Scheduler) -> None:
    with pytest.raises(LifecycleError, match="give Told.method without calling it"):
        REGISTER[way](scheduler)(Told().method(1))


async def nothing() -> None: ...
async def two(one: object, other: object) -> None: ...
async def by_name(*, number: int) -> None: ...
async def by_name_too(number: int, *, other: int) -> None: ...


@pytest.mark.parametrize(
    "function",
    [nothing, two, by_name, by_name_too, Told.method, functools.partial(Told().method, 1)],
    ids=["none", "two", "by name", "by name too", "unbound", "partial"],
)
def test_a_handler_takes_one_message(function: Any, scheduler: Scheduler) -> None:
    with pytest.raises(LifecycleError, match=r"called with one message, by position, and .*cannot"):
        scheduler.on(NUMBERS)(function)
    assert scheduler.status() == []


@pytest.mark.parametrize("way", ["background", "every", "cron"])
@pytest.mark.parametrize("function", [two, by_name, Told().method], ids=["two", "by name", "one"])
def test_the_function_of_a_background_task_takes_nothing(
    way: str, function: Any, scheduler: Scheduler
) -> None:
    with pytest.raises(LifecycleError, match=r"called with no arguments, and .*cannot"):
        REGISTER[way](scheduler)(function)
    assert scheduler.status() == []


async def test_background_without_parentheses_registers_the_function() -> None:
    scheduler = Scheduler()
    done: list[str] = []

    @scheduler.background
    async def work() -> None:
        done.append("work")

    @scheduler.group("inner").background
    async def inner_work() -> None:
        done.append("inner work")

    await scheduler.run()
    assert sorted(done) == ["inner work", "work"]
    assert work.__name__ == "work"


@pytest.mark.parametrize(
    "bare",
    [nothing, Told().method, functools.partial(nothing), print],
    ids=["function", "method", "partial", "built-in"],
)
def test_on_without_an_event_is_refused(bare: Any, scheduler: Scheduler) -> None:
    with pytest.raises(InvalidChannelError, match=r"as in @scheduler.on\(topic\)"):
        scheduler.on(bare)


def test_every_and_cron_without_a_time_are_refused(scheduler: Scheduler) -> None:
    with pytest.raises(ValidationError, match=r"every\(\)\nseconds\n  Say when"):
        scheduler.every(nothing)  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match=r"cron\(\)\nexpression\n  Say when"):
        scheduler.cron(nothing)  # type: ignore[arg-type]


# -- tasks -------------------------------------------------------------------------------------


class Worker(BackgroundTask):
    async def execute(self) -> None: ...


class Reader(EventTask[int]):
    subscribed_event = NUMBERS

    async def handle_event(self, number: int) -> None: ...


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (Reader(), r"must be a BackgroundTask, .* It is an EventTask: use register_event_task\(\)"),
        (Worker, r"not the class Worker. Make one: Worker\(\)"),
        (nothing, "not .*nothing.*For a function, there is @scheduler.background"),
        (5, r"not 5 \(int\)"),
    ],
    ids=["an event task", "its class", "a function", "a number"],
)
def test_a_background_task_is_one(task: Any, words: str, scheduler: Scheduler) -> None:
    with pytest.raises(LifecycleError, match=words):
        scheduler.register_background_task(task)
    assert scheduler.status() == []
    assert len(scheduler.registry) == 0


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (Worker(), r"an EventTask, .* a BackgroundTask: use register_background_task\(\)"),
        (Reader, r"not the class Reader. Make one: Reader\(\)"),
        (nothing, r"For a function, there is @scheduler.on\(topic\)"),
    ],
    ids=["a background task", "its class", "a function"],
)
def test_an_event_task_is_one(task: Any, words: str, scheduler: Scheduler) -> None:
    with pytest.raises(LifecycleError, match=words):
        scheduler.register_event_task(task)
    assert scheduler.status() == []
    assert len(scheduler.registry) == 0


class Ambiguous(Worker, Reader): ...


@pytest.mark.parametrize("call", ["register_background_task", "register_event_task"])
def test_a_task_is_of_one_kind(call: str, scheduler: Scheduler) -> None:
    with pytest.raises(LifecycleError, match="Ambiguous is both .* make two tasks"):
        getattr(scheduler, call)(Ambiguous())
    assert len(scheduler.registry) == 0


def with_hook(base: type[Any], hook: str, value: object) -> Any:
    return type("Odd", (base,), {hook: value})()


@pytest.mark.parametrize("hook", ["initialize", "execute", "shutdown"])
@pytest.mark.parametrize("value", [plain, generate, 5], ids=["plain", "generator", "number"])
def test_a_hook_of_a_background_task_is_async(
    hook: str, value: object, scheduler: Scheduler
) -> None:
    with pytest.raises(LifecycleError, match=rf"{hook}\(\) of Odd must be an async function"):
        scheduler.register_background_task(with_hook(Worker, hook, value))
    assert len(scheduler.registry) == 0


@pytest.mark.parametrize("hook", ["initialize", "handle_event", "handle_lag", "shutdown"])
@pytest.mark.parametrize("value", [plain, generate], ids=["plain", "generator"])
def test_a_hook_of_an_event_task_is_async(hook: str, value: object, scheduler: Scheduler) -> None:
    with pytest.raises(LifecycleError, match=rf"{hook}\(\) of Odd must be an async function"):
        scheduler.register_event_task(with_hook(Reader, hook, value))


@pytest.mark.parametrize("event", [["numbers"], Topic, nothing], ids=["list", "class", "function"])
def test_the_event_of_an_event_task_can_be_a_key(event: object, scheduler: Scheduler) -> None:
    odd = with_hook(Reader, "subscribed_event", property(lambda _: event))
    with pytest.raises(InvalidChannelError, match="is no event"):
        scheduler.register_event_task(odd)


def test_an_event_task_says_which_event_it_subscribes_to() -> None:
    class Silent(EventTask[int]):
        async def handle_event(self, number: int) -> None: ...

    with pytest.raises(TypeError, match=r"Silent.*subscribed_event"):
        Silent()


async def test_the_event_of_a_task_is_an_attribute_or_a_property(scheduler: Scheduler) -> None:
    heard: list[object] = []

    class Direct(EventTask[int]):
        subscribed_event = NUMBERS

        async def handle_event(self, number: int) -> None:
            heard.append(number)

    class Chosen(EventTask[int]):
        def __init__(self, event: Topic[int]) -> None:
            self._event = event

        @property
        def subscribed_event(self) -> Topic[int]:
            return self._event

        async def handle_event(self, number: int) -> None:
            heard.append(number)

    class Plain(EventTask):
        subscribed_event = "words"

        async def handle_event(self, word: str) -> None:
            heard.append(word)

    scheduler.add_channel("words")
    scheduler.register_event_task(Direct())
    scheduler.register_event_task(Chosen(NUMBERS))
    scheduler.register_event_task(Plain())
    assert [snapshot.event for snapshot in scheduler.status()] == [
        "numbers (int)",
        "numbers (int)",
        "words",
    ]
    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 1)
        await scheduler.publish("words", "one")
    assert sorted(heard, key=str) == [1, 1, "one"]


@pytest.mark.parametrize(
    "metadata", [{"name": "one"}, TaskMetadata, RestartPolicy(), "one"], ids=lambda one: repr(one)
)
def test_metadata_are_some(metadata: Any, scheduler: Scheduler) -> None:
    with pytest.raises(LifecycleError, match="must be a TaskMetadata"):
        scheduler.register_background_task(Worker(), metadata)
    with pytest.raises(LifecycleError, match="must be a TaskMetadata"):
        scheduler.register_event_task(Reader(), metadata)
    with pytest.raises(LifecycleError, match="must be a TaskMetadata"):
        TaskRegistry().add(Worker(), metadata)


def test_metadata_and_options_are_either_or(scheduler: Scheduler) -> None:
    with pytest.raises(LifecycleError, match=r"not both.*tags"):
        scheduler.register_background_task(Worker(), TaskMetadata(name="one"), tags=["a"])


# -- what means nothing to a task --------------------------------------------------------------

NOTHING_TO_A_BACKGROUND_TASK = [
    ({"retries": 3}, "restart=RestartPolicy"),
    ({"attempt_timeout": 1}, "restart=RestartPolicy"),
    ({"retry_backoff": Backoff(initial_delay=5)}, "restart=RestartPolicy"),
    ({"concurrency": 2}, "several times"),
    ({"on_error": "skip"}, "no message to skip"),
]


@pytest.mark.parametrize(("options", "cure"), NOTHING_TO_A_BACKGROUND_TASK)
def test_an_option_that_means_nothing_to_a_background_task_is_refused(
    options: Any, cure: str, scheduler: Scheduler
) -> None:
    (name,) = options
    calls: list[Callable[[], object]] = [
        lambda: scheduler.background(**options),
        lambda: scheduler.group("inner").background(**options),
        lambda: scheduler.register_background_task(Worker(), **options),
        lambda: scheduler.register_background_task(Worker(), TaskMetadata(**options)),
    ]
    for call in calls:
        with pytest.raises(ValidationError, match=f"{name}\n .*{cure}"):
            call()
    assert len(scheduler.registry) == 0


def test_one_tick_at_a_time(scheduler: Scheduler) -> None:
    with pytest.raises(ValidationError, match="one tick ends before the next"):
        scheduler.every(1, concurrency=2)
    scheduler.every(1, retries=3, attempt_timeout=1, on_error="skip")(nothing)


def test_an_option_that_says_what_is_so_anyway_is_none_too_many(scheduler: Scheduler) -> None:
    scheduler.register_background_task(
        Worker(), TaskMetadata(retries=0, concurrency=1, on_error="stop", drain_timeout=1)
    )


async def test_defaults_for_handlers_do_background_tasks_no_harm() -> None:
    scheduler = Scheduler(defaults={"retries": 3, "concurrency": 2, "on_error": "skip"})
    scheduler.background(nothing)
    scheduler.every(1, name="tick")(nothing)
    scheduler.register_background_task(Worker())
    assert len(scheduler.registry) == 3


def test_one_task_is_registered_once(scheduler: Scheduler) -> None:
    worker, reader = Worker(), Reader()
    scheduler.register_background_task(worker, name="first")
    scheduler.register_event_task(reader, name="second")
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: scheduler.register_background_task(worker), "first"),
        (lambda: scheduler.group("inner").register_background_task(worker, name="own"), "first"),
        (lambda: scheduler.register_event_task(reader), "second"),
    ]
    for call, name in calls:
        with pytest.raises(LifecycleError, match=f"already, as '{name}': make another"):
            call()
    scheduler.registry.remove(scheduler.registry.get_by_name("first").task_id)
    scheduler.register_background_task(worker)


async def test_one_task_is_at_work_in_one_scheduler() -> None:
    task = Worker()
    first, second, third = Scheduler(), Scheduler(), Scheduler()
    first.register_background_task(task, name="it")
    second.register_background_task(task)
    async with first:
        await first.start()
        async with second:
            with pytest.raises(
                LifecycleError, match="'Worker' belongs to another scheduler, which runs"
            ):
                await second.start()
        async with third:
            await third.start()
            with pytest.raises(LifecycleError, match="belongs to another"):
                third.register_background_task(task)
            assert len(third.registry) == 0
    last = Scheduler()
    last.register_background_task(task)
    await last.run()


# -- arguments ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "field", "words"),
    [
        (lambda: Scheduler(strategy="all"), "strategy", "one_for_all"),  # type: ignore[arg-type]
        (lambda: Scheduler(random=0.5), "random", "callable"),  # type: ignore[arg-type]
        (lambda: Scheduler(random=nothing), "random", "plain function"),  # type: ignore[arg-type]
        (lambda: TaskMetadata(depends_on="db"), "depends_on", r"Give a list: \['db'\]"),
        (lambda: TaskMetadata(tags="db"), "tags", r"Give a list: \['db'\]"),
        (lambda: TaskMetadata(name=cast("Any", b"db")), "name", "valid string"),
        (lambda: TaskMetadata(depends_on=cast("Any", [b"db"])), "depends_on", "valid string"),
        (lambda: Scheduler().group("g", strategy="one_for_al"), "strategy", "one_for_all"),  # type: ignore[arg-type]
        (lambda: Scheduler().group("g", restart="always"), "restart", r"RestartPolicy\(mode='al"),  # type: ignore[arg-type]
        (lambda: Scheduler().group("g", significant=1), "significant", "boolean"),  # type: ignore[arg-type]
        (lambda: Scheduler().group(""), "name", "at least 1"),
        (lambda: Scheduler().group(5), "name", "string"),  # type: ignore[arg-type]
        (lambda: TaskMetadata(restart="always"), "restart", r"RestartPolicy\(mode='always'\)"),  # type: ignore[arg-type]
        (lambda: Scheduler().every("5s"), "seconds", "number of seconds, or a timedelta"),  # type: ignore[arg-type]
        (lambda: Scheduler().every(0), "seconds", "above 0"),
        (lambda: Scheduler().every(None), "seconds", "number of seconds, or a timedelta"),  # type: ignore[arg-type]
        (lambda: Scheduler().every(-1), "seconds", "greater"),
        (lambda: Scheduler().every(math.inf), "seconds", "finite"),
        (lambda: Scheduler().every(True), "seconds", "number of seconds"),
        (lambda: Scheduler().every(timedelta(seconds=-1)), "seconds", "greater"),
        (lambda: Scheduler().every(1, fixed="x"), "fixed", "'rate' or 'delay'"),  # type: ignore[arg-type]
        (lambda: Scheduler().cron("61 * * * *"), "expression", "not a valid cron"),
        (lambda: Scheduler().cron("* * * * *", tz="Europe/Rome"), "tz", r"ZoneInfo\('Europe/Rome'"),  # type: ignore[arg-type]
        (lambda: Scheduler().cron("* * * * *", tz=5), "tz", "tzinfo"),  # type: ignore[arg-type]
        (lambda: Scheduler().run_sync("uvloop"), "backend", "'asyncio' or 'trio'"),  # type: ignore[arg-type]
        (lambda: Scheduler().run_sync("trio", 5), "backend_options", "dict"),  # type: ignore[arg-type]
        (
            lambda: Scheduler().run_sync(backend_options={"use_uvlop": True}),
            "backend_options",
            "use_uvlop; there are debug, loop_factory, use_uvloop",
        ),
        (lambda: Topic(["orders"], int), "key", "unhashable"),  # type: ignore[call-overload]
        (lambda: Topic("orders", 5), "payload", "a payload is a type"),  # type: ignore[call-overload]
        (lambda: Topic("orders", "Order"), "payload", "not the name of one"),  # type: ignore[call-overload]
        (lambda: Topic("orders", int, validate="yes"), "validate", "True or False"),  # type: ignore[call-overload]
        (lambda: Backoff().delay(0, 0.5), "attempt", "greater"),
        (lambda: Backoff().delay(1, 1.5), "random", "less"),
        (lambda: Backoff(jitter=True), "jitter", "number"),
        (lambda: TaskMetadata(retires=3), "retires", "did you mean 'retries'"),  # type: ignore[call-arg]
        (lambda: cast("Any", TaskMetadata)(retires=3, name=5), "retires", "did you mean"),
        (lambda: Scheduler().every(1, retires=3), "retires", "did you mean 'retries'"),  # type: ignore[call-arg]
        (lambda: Scheduler().on("a", on_eror="skip"), "on_eror", "mean 'on_error'"),  # type: ignore[call-overload]
        (lambda: Scheduler().on("a", colour="red"), "colour", "there are name, description"),  # type: ignore[call-overload]
        (lambda: Scheduler(defaults={"on_eror": "skip"}), "defaults", "mean 'on_error'"),  # type: ignore[arg-type]
        (lambda: ChannelConfig(capcity=3), "capcity", "did you mean 'capacity'"),  # type: ignore[call-arg]
        (lambda: RestartPolicy(max_restart=3), "max_restart", "mean 'max_restarts'"),  # type: ignore[call-arg]
        (lambda: TaskMetadata(restart=True), "restart", r"such as RestartPolicy\(\), or None"),  # type: ignore[arg-type]
        (lambda: TaskMetadata(restart=RestartPolicy), "restart", r"such as RestartPolicy\(\)"),  # type: ignore[arg-type]
        (lambda: TaskMetadata(retry_backoff=0.5), "retry_backoff", r"Backoff\(initial_delay=0.5\)"),  # type: ignore[arg-type]
        (lambda: Scheduler(defaults=TaskMetadata()), "defaults", "a dictionary of options"),  # type: ignore[arg-type]
        (lambda: TaskMetadata(stop_timeout=None), "stop_timeout", "math.inf for no limit"),  # type: ignore[arg-type]
        (lambda: Backoff(initial_delay=5, max_delay=1), "initial_delay", "max_delay, which is 1 s"),
        (lambda: RestartPolicy(initial_delay=90), "initial_delay", "max_delay, which is 60 s"),
        (lambda: Scheduler().every(1e-300), "seconds", "microsecond"),
        (lambda: Scheduler().every(timedelta(0)), "seconds", "above 0"),
    ],
)
def test_a_wrong_value_is_named(call: Callable[[], object], field: str, words: str) -> None:
    with pytest.raises(ValidationError, match=words) as caught:
        call()
    assert {error["loc"][0] for error in caught.value.errors()} == {field}


def test_a_cap_below_the_default_delay_is_a_cap() -> None:
    brief = Backoff(max_delay=0.5)
    assert brief.delay(1, 0) == 0.5
    assert Backoff.model_validate_json(brief.model_dump_json()) == brief
    assert Backoff(initial_delay=5, max_delay=5).delay(3, 0) == 5


@pytest.mark.parametrize("text", ["abc", b"abc", bytearray(b"abc")], ids=repr)
async def test_a_text_is_one_item(text: Any) -> None:
    send, receive = create_broadcast_stream[Any]()
    with send, receive:
        with pytest.raises(ValidationError, match=r"send_many_nowait\(\)\nitems.*\n.*list of them"):
            send.send_many_nowait(text)
        with pytest.raises(ValidationError, match=r"send_many_from_thread\(\)\nitems"):
            await to_thread.run_sync(send.send_many_from_thread, text)
        send.send_many_nowait([text])
        assert receive.receive_nowait() == text


@pytest.mark.parametrize("max_items", [1.5, 1.0, True, 0, -1, "1", None], ids=repr)
async def test_a_number_of_items_is_a_whole_one(max_items: Any) -> None:
    send, receive = create_broadcast_stream[int]()
    with send, receive:
        for items in ([], [1, 2]):
            send.send_many_nowait(items)
            with pytest.raises(ValidationError, match=r"receive_many\(\)\nmax_items"):
                await receive.receive_many(max_items)
            with pytest.raises(ValidationError, match=r"receive_many_nowait\(\)\nmax_items"):
                receive.receive_many_nowait(max_items)
        assert receive.receive_many_nowait(9) == [1, 2]


async def test_several_items_are_several() -> None:
    def troubled() -> Generator[int]:
        yield 1
        raise TypeError("of the user's own")

    no_items: Any = 5
    send, receive = create_broadcast_stream[int]()
    with send, receive:
        with pytest.raises(ValidationError, match=r"send_many_nowait\(\)\nitems"):
            send.send_many_nowait(no_items)
        with pytest.raises(TypeError, match="of the user's own"):
            send.send_many_nowait(troubled())
        with pytest.raises(ValidationError, match=r"send_many_from_thread\(\)\nitems"):
            await to_thread.run_sync(send.send_many_from_thread, no_items)
        with pytest.raises(TypeError, match="of the user's own"):
            await to_thread.run_sync(send.send_many_from_thread, troubled())
        assert len(receive) == 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: RestartPolicy("always"), r"RestartPolicy\(mode=...\)"),  # type: ignore[call-arg]
        (lambda: ChannelConfig(16, "block"), r"ChannelConfig\(capacity=...\)"),  # type: ignore[call-arg]
        (lambda: cast("Any", TaskMetadata)("web"), r"TaskMetadata\(name=...\)"),
        (lambda: Backoff(1), r"Backoff\(initial_delay=...\)"),  # type: ignore[call-arg]
    ],
)
def test_settings_are_given_by_name(call: Callable[[], object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        call()


def test_a_task_is_no_function(scheduler: Scheduler) -> None:
    worker: Any = Worker()
    reader: Any = Reader()
    for decorate in (scheduler.background, scheduler.every(1), scheduler.on(NUMBERS)):
        with pytest.raises(LifecycleError, match=r"BackgroundTask: use register_background_task"):
            decorate(worker)
        with pytest.raises(LifecycleError, match=r"It is an EventTask: use register_event_task"):
            decorate(reader)


def test_a_handler_is_no_argument_of_on(scheduler: Scheduler) -> None:
    with pytest.raises(LifecycleError, match=r"@scheduler.on\(topic\), or scheduler.on\(topic\)\("):
        scheduler.on(NUMBERS, nothing)  # type: ignore[call-overload]


async def test_none_is_no_event(scheduler: Scheduler) -> None:
    nothing_at_all: Any = None
    for call in (scheduler.on, scheduler.add_channel, scheduler.subscribe, scheduler.bus.wait_for):
        with pytest.raises(InvalidChannelError, match="None is no event"):
            result = call(nothing_at_all)
            await result  # type: ignore[misc]


@pytest.mark.parametrize("event", [["news"], ("news", ["local"]), {"news": 1}], ids=str)
async def test_an_event_is_hashable(event: Any) -> None:
    bus = EventBus()
    for call in (bus.add_channel, bus.subscribe, bus.clone_sender, bus.remove_channel):
        with pytest.raises(InvalidChannelError, match="not hashable: use a Topic"):
            call(event)
    with pytest.raises(InvalidChannelError, match="not hashable"):
        await bus.publish(event, "words")
    with pytest.raises(InvalidChannelError, match="not hashable"):
        await bus.wait_for(event)
    with pytest.raises(InvalidChannelError, match="not hashable"):
        Scheduler().on(event)


@pytest.mark.parametrize("config", [ChannelConfig, {"capacity": 4}, 4, RestartPolicy()], ids=repr)
def test_the_config_of_a_channel_is_one(config: Any) -> None:
    bus = EventBus()
    with pytest.raises(LifecycleError, match="must be a ChannelConfig"):
        bus.add_channel("news", config)
    assert bus.channels == {}


@pytest.mark.parametrize("predicate", [5, generate, two], ids=["number", "generator", "async"])
async def test_a_predicate_is_a_plain_function(predicate: Any) -> None:
    bus = EventBus()
    bus.add_channel(WORDS)
    if predicate is generate:
        predicate = functools.partial(two, 1)
    with pytest.raises(LifecycleError, match="plain function of one message"):
        await bus.wait_for(WORDS, predicate)
    assert bus.statistics()[WORDS].receivers == 0


async def test_who_depends_on_nobody_waits_for_nobody() -> None:
    scheduler = Scheduler()

    @scheduler.background
    async def work() -> None:
        from orchestrio import current_task_context

        with pytest.raises(LifecycleError, match="'work' depends on no other"):
            await current_task_context().dependency_restarted()

    await scheduler.run()


# -- times -------------------------------------------------------------------------------------


def test_a_time_may_be_a_timedelta(scheduler: Scheduler) -> None:
    policy = RestartPolicy(within=timedelta(minutes=1), max_delay=timedelta(seconds=2))
    assert (policy.within, policy.max_delay) == (60, 2)
    scheduler.background(
        name="w", stop_timeout=timedelta(milliseconds=1500), watchdog=timedelta(hours=1)
    )(nothing)
    metadata = scheduler.registry.get_by_name("w").metadata
    assert (metadata.stop_timeout, metadata.watchdog) == (1.5, 3600)
    with pytest.raises(ValidationError, match="greater"):
        TaskMetadata(stop_timeout=timedelta(seconds=-1))


async def test_every_takes_a_timedelta(scheduler: Scheduler) -> None:
    ticks: list[int] = []

    @scheduler.every(timedelta(milliseconds=1))
    async def tick() -> None:
        ticks.append(1)
        if len(ticks) == 3:
            await scheduler.shutdown()

    await scheduler.run()
    assert len(ticks) >= 3  # another one may begin before it is cancelled


# -- payloads ----------------------------------------------------------------------------------


class Order:
    pass


ORDER = Order()


@pytest.mark.parametrize(
    ("topic", "right", "wrong"),
    [
        (Topic("x", int | str, validate=True), [1, "a"], [None, 1.5, [1]]),
        (Topic("x", Literal["on", "off"], validate=True), ["on"], ["dim", 1]),
        (Topic("x", list[int] | None, validate=True), [None, [1]], [["a"], 1]),
        (Topic("x", Annotated[int, Field(gt=0)], validate=True), [1], [0, "1"]),
        (Topic("x", Order | int, validate=True), [ORDER, 1], ["a", object()]),
        (Topic("x", None, validate=True), [None], [0, ""]),
        (Topic("x", Callable[[int], str], validate=True), [str], [0, ""]),
    ],
    ids=["union", "literal", "optional list", "annotated", "unknown class", "none", "callable"],
)
def test_a_payload_of_any_type_is_validated(
    topic: Topic[Any], right: list[object], wrong: list[object]
) -> None:
    bus = EventBus()
    bus.add_channel(topic)
    with bus.subscribe(topic) as receiver:
        for item in wrong:
            with pytest.raises(EventSendError, match="not valid"):
                bus.publish_nowait(topic, item)
        for item in right:
            assert bus.publish_nowait(topic, item) == 1
        assert receiver.receive_many_nowait(9) == right


@pytest.mark.parametrize("payload", [int | str, list[int], Annotated[int, Field(gt=0)], None])
def test_topics_of_the_same_type_are_the_same_event(payload: Any) -> None:
    one, other = Topic("x", payload), Topic("x", payload)
    assert one == other
    assert {one: 1}[other] == 1
    assert one != Topic("x", bytes)


def test_a_payload_that_pydantic_does_not_understand_is_refused_with_the_channel() -> None:
    anybody: Any = "Nobody"
    payload: Any = list.__class_getitem__(anybody)
    topic: Topic[Any] = Topic("x", payload, validate=True)
    bus = EventBus()
    with pytest.raises(InvalidChannelError, match=r"cannot be validated.*Nobody"):
        bus.add_channel(topic)
    assert bus.channels == {}


# -- messages ----------------------------------------------------------------------------------


def test_a_name_in_place_of_an_identity_is_recognised() -> None:
    registry = TaskRegistry()
    entry = registry.add(Worker(), TaskMetadata(name="clock"))
    with pytest.raises(TaskNotFoundError, match=r"'clock' is the name .*get_by_name\(name\)"):
        registry.get("clock")  # type: ignore[arg-type]
    with pytest.raises(TaskNotFoundError, match=r"is the identity .* use get\(\)"):
        registry.get_by_name(entry.task_id)
    with pytest.raises(TaskNotFoundError, match=r"\[\] \(list\) identifies no task"):
        registry.get([])  # type: ignore[arg-type]
    with pytest.raises(TaskNotFoundError, match="5 .* is no name"):
        registry.get_by_name(5)  # type: ignore[arg-type]


async def test_stopping_a_task_by_its_name_says_how_it_is_done(scheduler: Scheduler) -> None:
    scheduler.background(name="clock")(nothing)
    async with scheduler:
        for call in (scheduler.stop_task, scheduler.restart_task, scheduler.remove_task):
            with pytest.raises(TaskNotFoundError, match="'clock' is the name"):
                await call("clock")  # type: ignore[arg-type]


@pytest.mark.parametrize("names", [["orders"], ["orders", "refunds"], []], ids=str)
@pytest.mark.parametrize("wrong", ["ordres", "zzz"])
def test_what_is_said_of_an_unknown_event_are_full_sentences(names: list[str], wrong: str) -> None:
    bus = EventBus()
    for name in names:
        bus.add_channel(name)
    with pytest.raises(InvalidChannelError) as caught:
        bus.subscribe(wrong)
    assert re.search(r"[.?] Open one with add_channel\(\)\.$", str(caught.value))


def lines_of(call: Callable[[], object]) -> int:
    """How many lines of Python a call runs, each as often as it does: its time, without noise."""
    lines = 0

    def trace(frame: FrameType, event: str, argument: object) -> Callable[..., Any]:
        nonlocal lines
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return lines


def lines_of_a_refusal(names: Iterable[str], wrong: str, words: str, kind: Any = str) -> int:
    """How many lines it takes to refuse a name where there are others, in these words."""
    bus = EventBus[Any]()
    for name in names:
        bus.add_channel(kind(name))

    def subscribe() -> None:
        with pytest.raises(InvalidChannelError, match=words):
            bus.subscribe(kind(wrong))

    subscribe()  # and what is imported for it is there
    return lines_of(subscribe)


SENSORS = [f"sensor-{number}" for number in range(10_000)]


@pytest.mark.parametrize("wrong", ["sensr-7345", "sensor_7345", "sensor7345", "sensor-734S", "x"])
@pytest.mark.parametrize("kind", [str, Topic])
def test_a_near_name_is_found_among_ten_thousand_and_soon(kind: Any, wrong: str) -> None:
    near = {"x": "known events: ", "sensor-734S": "did you mean .*'sensor-734'"}
    match = near.get(wrong, "did you mean .*'sensor-7345'")
    # They are walked once: a call for each would be ten times that.
    assert lines_of_a_refusal(SENSORS, wrong, match, kind) < 1.5 * len(SENSORS)


def test_a_near_name_is_found_among_long_ones_and_soon() -> None:
    long = "x" * 170
    names = [f"building/{number}/{long}" for number in range(10_000)]
    match = "did you mean 'building/"
    assert lines_of_a_refusal(names, f"building/77y/{long}", match) < 4 * len(names)


def test_a_near_event_may_be_of_another_kind_and_its_name_any_text() -> None:
    bus = EventBus[Any]()
    bus.add_channel(Topic("orders", int))
    for number in range(100):
        bus.add_channel(f"\0{number}\0")
        bus.add_channel(number)
    for wrong in ("ordres", Topic("orders", str), "orders\0"):
        with pytest.raises(InvalidChannelError, match=r"did you mean Topic\(key='orders'"):
            bus.subscribe(wrong)
    with pytest.raises(InvalidChannelError, match="has no channel"):
        bus.subscribe("\x001\x002")


@pytest.mark.parametrize("method", ["__str__", "__repr__"])
def test_an_event_that_cannot_be_printed_is_an_event(method: str) -> None:
    def troubled(self: object) -> str:
        raise ZeroDivisionError

    key: Any = type("Key", (), {method: troubled})()
    other: Any = type("Key", (), {method: troubled})()
    bus = EventBus()
    bus.add_channel(key, ChannelConfig(require_receivers=True))
    for event in ("ordres", other):
        with pytest.raises(InvalidChannelError, match="has no channel"):
            bus.subscribe(event)
    with pytest.raises(InvalidChannelError, match="has a channel already"):
        bus.add_channel(key)
    with pytest.raises(EventSendError, match="has no receiver"):
        bus.publish_nowait(key, "")
