"""The tree of errors: what is caught with what, what each carries, what each says."""

from __future__ import annotations

import pickle
from collections.abc import Awaitable, Callable

import pytest
from pydantic import ValidationError

from orchestrio import (
    BackgroundTask,
    ChannelConfig,
    EventBus,
    EventReceiveError,
    EventSendError,
    InvalidChannelError,
    LaggedError,
    LifecycleError,
    Scheduler,
    SchedulerError,
    TaskExecutionError,
    TaskId,
    TaskInitializationError,
    TaskNotFoundError,
    TaskShutdownError,
    Topic,
    create_broadcast_stream,
)

TaskError = TaskInitializationError | TaskExecutionError | TaskShutdownError
TASK_ERRORS: list[type[TaskError]] = [
    TaskInitializationError,
    TaskExecutionError,
    TaskShutdownError,
]
CLOCK = TaskId("clock#1")

ONE_OF_EACH: list[SchedulerError] = [
    SchedulerError("the scheduler is not well"),
    LifecycleError("the scheduler was started twice"),
    *[kind("task 'clock' failed", CLOCK, "clock") for kind in TASK_ERRORS],
    TaskNotFoundError("no task has this identity", CLOCK),
    InvalidChannelError("event 'orders' has no channel", "orders"),
    InvalidChannelError("event orders has no channel", Topic("orders", int)),
    EventSendError("the channel is full", ("orders", 7)),
    EventSendError("the stream is full"),
    EventReceiveError("the channel was closed"),
    LaggedError("the receiver missed 3 items", 3),
]


# -- tree ------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", ONE_OF_EACH, ids=lambda error: type(error).__name__)
def test_every_error_is_a_scheduler_error(error: SchedulerError) -> None:
    assert isinstance(error, SchedulerError)
    assert isinstance(error, Exception)


def test_lag_is_something_not_received() -> None:
    assert issubclass(LaggedError, EventReceiveError)


def test_the_kinds_do_not_catch_each_other() -> None:
    kinds = [type(error) for error in ONE_OF_EACH if type(error) is not SchedulerError]
    related = {
        (kind, other)
        for kind in kinds
        for other in kinds
        if kind is not other and issubclass(kind, other)
    }
    assert related == {(LaggedError, EventReceiveError)}


def test_bad_configuration_is_no_scheduler_error() -> None:
    with pytest.raises(ValidationError) as raised:
        ChannelConfig(capacity=0)
    assert not isinstance(raised.value, SchedulerError)


# -- data ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TASK_ERRORS)
def test_a_task_error_says_which_task(kind: type[TaskError]) -> None:
    error = kind("task 'clock' failed", CLOCK, "clock")
    assert (error.task_id, error.task_name) == (CLOCK, "clock")


def test_a_task_not_found_says_which_was_looked_for() -> None:
    assert TaskNotFoundError("no task", CLOCK).task_id == CLOCK


def test_a_channel_error_carries_the_event() -> None:
    topic = Topic("orders", int)
    assert InvalidChannelError("no channel", topic).event is topic
    assert EventSendError("refused", topic).event is topic


def test_a_refusal_of_a_stream_on_no_bus_has_no_event() -> None:
    assert EventSendError("the stream is full").event is None


def test_lag_carries_the_exact_number() -> None:
    assert LaggedError("the receiver missed 3 items", 3).missed == 3


@pytest.mark.parametrize("error", ONE_OF_EACH, ids=lambda error: type(error).__name__)
def test_an_error_reads_as_its_message_alone(error: SchedulerError) -> None:
    assert str(error) == error.args[0]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("error", ONE_OF_EACH, ids=lambda error: type(error).__name__)
def test_an_error_survives_pickling(error: SchedulerError, protocol: int) -> None:
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_an_unpickled_task_error_has_a_real_task_id() -> None:
    again = pickle.loads(pickle.dumps(TaskExecutionError("task 'clock' failed", CLOCK, "clock")))
    assert type(again.task_id) is TaskId


# -- words -----------------------------------------------------------------------------------


def say(error: SchedulerError, *, about: str, advice: str = "") -> None:
    """Check that a message is a sentence on a subject, with an advice."""
    message = str(error)
    assert about in message
    assert advice in message
    assert len(message.split()) >= 6, message
    assert message == message.strip()
    assert not message.endswith((":", ",", ";"))


def test_an_unknown_event_is_named_with_what_to_do() -> None:
    with pytest.raises(InvalidChannelError) as raised:
        EventBus().subscribe("orders")
    say(raised.value, about="'orders'", advice="add_channel()")
    assert raised.value.event == "orders"


def test_a_full_channel_is_named_with_what_to_do() -> None:
    bus = EventBus()
    bus.add_channel("orders", ChannelConfig(capacity=1, overflow="error"))
    with bus.subscribe("orders"):
        bus.publish_nowait("orders", "first")
        with pytest.raises(EventSendError) as raised:
            bus.publish_nowait("orders", "second")
    bus.close()
    say(raised.value, about="'orders'", advice="capacity")
    assert raised.value.event == "orders"


def test_a_channel_without_receivers_is_named_with_what_to_do() -> None:
    bus = EventBus()
    bus.add_channel("orders", ChannelConfig(require_receivers=True))
    with pytest.raises(EventSendError) as raised:
        bus.publish_nowait("orders", "first")
    bus.close()
    say(raised.value, about="'orders'", advice="Subscribe")


def test_lag_says_how_much_was_missed_and_what_to_do() -> None:
    send, receive = create_broadcast_stream[int](capacity=1)
    with send, receive:
        send.send_many_nowait([1, 2, 3])
        with pytest.raises(LaggedError) as raised:
            receive.receive_nowait()
    say(raised.value, about="2 items", advice="capacity")


def test_a_taken_name_is_said_with_what_to_do() -> None:
    scheduler = Scheduler()
    scheduler.register_background_task(Faulty(), name="clock")
    with pytest.raises(LifecycleError) as raised:
        scheduler.register_background_task(Faulty(), name="clock")
    say(raised.value, about="'clock'", advice="another name")


def test_an_unknown_task_is_named() -> None:
    with pytest.raises(TaskNotFoundError) as raised:
        Scheduler().status(CLOCK)
    say(raised.value, about="clock#1")
    assert raised.value.task_id == CLOCK


# -- where task errors come from -------------------------------------------------------------


class Faulty(BackgroundTask):
    """Raises in one of its hooks, and does nothing in the others."""

    def __init__(self, hook: str = "") -> None:
        self.hook = hook

    def _raise_in(self, hook: str) -> None:
        if self.hook == hook:
            raise OSError("the disk is full")

    async def initialize(self) -> None:
        self._raise_in("initialize")

    async def execute(self) -> None:
        self._raise_in("execute")

    async def shutdown(self) -> None:
        self._raise_in("shutdown")


async def run_to_the_end(scheduler: Scheduler) -> None:
    await scheduler.run()


async def start_only(scheduler: Scheduler) -> None:
    async with scheduler:
        await scheduler.start()


@pytest.mark.parametrize(
    ("hook", "kind", "use"),
    [
        ("initialize", TaskInitializationError, start_only),
        ("initialize", TaskInitializationError, run_to_the_end),
        ("execute", TaskExecutionError, run_to_the_end),
    ],
)
async def test_a_failing_hook_is_named_with_its_task_and_cause(
    hook: str, kind: type[TaskError], use: Callable[[Scheduler], Awaitable[None]]
) -> None:
    scheduler = Scheduler()
    task_id = scheduler.register_background_task(Faulty(hook), name="clock")
    with pytest.raises(kind) as raised:
        await use(scheduler)
    assert (raised.value.task_id, raised.value.task_name) == (task_id, "clock")
    assert isinstance(raised.value.__cause__, OSError)
    say(raised.value, about="'clock'", advice="the disk is full")


async def test_failing_shutdowns_come_in_one_group_with_their_tasks_and_causes() -> None:
    scheduler = Scheduler()
    ids = [scheduler.register_background_task(Faulty("shutdown")) for _ in range(2)]
    with pytest.raises(ExceptionGroup) as raised:
        await scheduler.run()
    errors = raised.value.exceptions
    assert {error.task_id for error in errors if isinstance(error, TaskShutdownError)} == set(ids)
    for error in errors:
        assert isinstance(error, TaskShutdownError)
        assert isinstance(error.__cause__, OSError)
        say(error, about=repr(error.task_name), advice="the disk is full")
