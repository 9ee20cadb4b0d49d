"""Handlers that fail: time limits, retries, dead letters, and what a restart keeps of messages."""

from __future__ import annotations

import anyio
import pytest
from anyio import create_task_group, current_time
from support import NUMBERS, TroubleError, settle

from orchestrio import (
    DEAD_LETTERS,
    Backoff,
    ChannelConfig,
    DeadLetter,
    EventTask,
    RestartPolicy,
    Scheduler,
    TaskExecutionError,
    TaskState,
    Topic,
    current_task_context,
)

EXACT = Backoff(initial_delay=1, max_delay=60, jitter=0)
SOON = RestartPolicy(initial_delay=1, jitter=0, max_restarts=None)


@pytest.fixture
def scheduler() -> Scheduler:
    scheduler = Scheduler()
    scheduler.add_channel(NUMBERS, ChannelConfig(capacity=64))
    return scheduler


class Fragile(EventTask[int]):
    """Fails for some messages, as often as is said, and keeps when it was called with what."""

    def __init__(self, **failures: int) -> None:
        self.failures = {int(number.removeprefix("on_")): n for number, n in failures.items()}
        self.calls: list[tuple[int, float]] = []
        self.handled: list[int] = []

    @property
    def subscribed_event(self) -> Topic[int]:
        return NUMBERS

    async def handle_event(self, event: int) -> None:
        self.calls.append((event, current_time()))
        if self.failures.get(event, 0):
            self.failures[event] -= 1
            raise TroubleError(f"trouble with {event}")
        self.handled.append(event)


# -- retries and time limits ---------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_a_handler_is_called_again_after_growing_delays(
    scheduler: Scheduler, letters: list[DeadLetter], concurrency: int
) -> None:
    task = Fragile(on_7=2)
    shot = scheduler.register_event_task(
        task, retries=2, retry_backoff=EXACT, concurrency=concurrency
    )
    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 7)
        await anyio.sleep(100)
        assert task.calls == [(7, 0), (7, 1), (7, 3)]
        assert (scheduler.status(shot).handled, scheduler.status(shot).failed) == (1, 0)
    assert letters == [], "what a retry helped is no dead letter"


async def test_the_order_of_messages_is_kept_through_retries(scheduler: Scheduler) -> None:
    task = Fragile(on_1=3)
    scheduler.register_event_task(task, retries=3, retry_backoff=EXACT)
    async with scheduler:
        await scheduler.start()
        for number in range(3):
            await scheduler.publish(NUMBERS, number)
        await anyio.sleep(100)
    assert task.handled == [0, 1, 2]


async def test_what_no_retry_helped_fails_and_is_a_dead_letter(
    scheduler: Scheduler, letters: list[DeadLetter]
) -> None:
    task = Fragile(on_7=5)
    scheduler.register_event_task(
        task, name="fragile", retries=1, retry_backoff=EXACT, on_error="skip"
    )
    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 7)
        await scheduler.publish(NUMBERS, 8)
        await anyio.sleep(100)
    assert task.handled == [8]
    (letter,) = letters
    assert (letter.task_name, letter.event, letter.message) == ("fragile", NUMBERS, 7)
    assert (str(letter.error), letter.attempts, letter.time) == ("trouble with 7", 2, 1)


async def test_an_attempt_ends_at_its_timeout(scheduler: Scheduler) -> None:
    begun: list[float] = []

    @scheduler.on(NUMBERS, attempt_timeout=5, retries=1, retry_backoff=EXACT)
    async def slow(number: int) -> None:
        begun.append(current_time())
        await anyio.sleep(10)

    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 1)
        with pytest.raises(
            TaskExecutionError, match=r"longer than its attempt_timeout \(5 s\)"
        ) as caught:
            await scheduler.run()
    assert isinstance(caught.value.__cause__, TimeoutError)
    assert begun == [0, 6]


async def test_a_handler_quick_enough_is_not_bothered_by_its_timeout(scheduler: Scheduler) -> None:
    done: list[int] = []

    @scheduler.on(NUMBERS, attempt_timeout=5)
    async def slow(number: int) -> None:
        await anyio.sleep(4)
        done.append(number)

    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 1)
    assert done == [1]


async def test_a_group_from_the_handlers_own_tasks_is_the_cause(
    scheduler: Scheduler, letters: list[DeadLetter]
) -> None:
    async def fail() -> None:
        raise TroubleError

    @scheduler.on(NUMBERS)
    async def parallel(number: int) -> None:
        async with create_task_group() as group:
            group.start_soon(fail)

    with pytest.raises(TaskExecutionError) as caught:
        async with scheduler:
            await scheduler.start()
            await scheduler.publish(NUMBERS, 1)
            await anyio.sleep_forever()
    assert isinstance(caught.value.__cause__, ExceptionGroup)
    assert len(letters) == 1


async def test_a_failing_handler_of_dead_letters_does_not_feed_itself(
    scheduler: Scheduler,
) -> None:
    calls: list[object] = []

    @scheduler.on(DEAD_LETTERS, on_error="skip")
    async def bury(letter: DeadLetter) -> None:
        calls.append(letter.message)
        raise TroubleError

    scheduler.register_event_task(Fragile(on_1=1), on_error="skip")
    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 1)
        await anyio.sleep(1)
    assert calls == [1]


async def test_dead_letters_are_sent_to_nobody_without_harm(scheduler: Scheduler) -> None:
    scheduler.bus.remove_channel(DEAD_LETTERS)
    task = Fragile(on_1=1)
    scheduler.register_event_task(task, on_error="skip")
    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 1)
        await scheduler.publish(NUMBERS, 2)
    assert task.handled == [2]


async def test_dead_letters_that_do_not_fit_are_in_the_log(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler.bus.remove_channel(DEAD_LETTERS)
    scheduler.add_channel(DEAD_LETTERS, ChannelConfig(capacity=1, overflow="error"))
    scheduler.register_event_task(Fragile(on_1=1, on_2=1), on_error="skip")
    with scheduler.subscribe(DEAD_LETTERS):
        async with scheduler:
            await scheduler.start()
            for number in (1, 2):
                await scheduler.publish(NUMBERS, number)
    assert caplog.text.count("is full: not published") == 1


# -- restarts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_the_subscription_survives_and_the_failed_message_does_not_come_again(
    scheduler: Scheduler, letters: list[DeadLetter], concurrency: int
) -> None:
    task = Fragile(on_1=1)
    shot = scheduler.register_event_task(task, restart=SOON, concurrency=concurrency)
    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 0)
        await settle()
        await scheduler.publish(NUMBERS, 1)
        await settle()
        assert scheduler.status(shot).state is TaskState.BACKING_OFF
        await scheduler.publish(NUMBERS, 2)
        await scheduler.publish(NUMBERS, 3)
        assert scheduler.status(shot).unread == 2
        await anyio.sleep(10)
        assert sorted(task.handled) == [0, 2, 3]
        status = scheduler.status(shot)
        assert (status.handled, status.failed, status.unread, status.restarts) == (3, 1, 0, 1)
    assert [letter.message for letter in letters] == [1]


async def test_what_a_batch_still_held_is_handled_by_the_next_run(scheduler: Scheduler) -> None:
    task = Fragile(on_1=1)
    scheduler.register_event_task(task, restart=SOON)
    async with scheduler:
        await scheduler.start()
        with scheduler.clone_sender(NUMBERS) as sender:
            sender.send_many_nowait(range(5))
        await anyio.sleep(10)
    assert task.calls == [(0, 0), (1, 0), (2, 1), (3, 1), (4, 1)]


async def test_what_is_overwritten_during_the_back_off_is_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scheduler = Scheduler()
    scheduler.add_channel(NUMBERS, ChannelConfig(capacity=2))
    task = Fragile(on_0=1)
    shot = scheduler.register_event_task(task, restart=SOON)
    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 0)
        await settle()
        for number in range(1, 6):
            await scheduler.publish(NUMBERS, number)
        await anyio.sleep(10)
        status = scheduler.status(shot)
        assert (status.handled, status.failed, status.missed) == (2, 1, 3)
    assert task.handled == [4, 5]


async def test_publishers_wait_for_a_task_in_back_off_if_the_channel_blocks() -> None:
    scheduler = Scheduler()
    scheduler.add_channel(NUMBERS, ChannelConfig(capacity=1, overflow="block"))
    task = Fragile(on_0=1)
    scheduler.register_event_task(task, restart=SOON)
    async with scheduler:
        await scheduler.start()
        for number in range(4):
            await scheduler.publish(NUMBERS, number)
        assert current_time() == 1, "until the next run had made room"
    assert task.handled == [1, 2, 3]


async def test_on_error_restart_without_a_policy_restarts_by_the_default_one(
    scheduler: Scheduler,
) -> None:
    task = Fragile(on_1=1)
    shot = scheduler.register_event_task(task, on_error="restart")
    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 1)
        await anyio.sleep(10)
        assert scheduler.status(shot).restarts == 1
        assert scheduler.status(shot).state is TaskState.RUNNING


async def test_on_error_stop_ends_the_task_whatever_the_policy(scheduler: Scheduler) -> None:
    shot = scheduler.register_event_task(Fragile(on_1=1), on_error="stop", restart=SOON)
    other = Fragile()
    scheduler.register_event_task(other, name="other")
    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 1)
        status = await scheduler.wait_stopped(shot)
        assert (status.state, status.restarts) == (TaskState.FAILED, 0)
        await scheduler.publish(NUMBERS, 2)
    assert other.handled == [1, 2]


async def test_a_task_whose_event_has_ended_stays_stopped_when_its_group_restarts(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    group = scheduler.group("group", strategy="one_for_all")
    listener = group.register_event_task(Fragile())

    @group.background(restart=SOON)
    async def failing() -> None:
        await anyio.sleep(1)
        if current_task_context().run == 1:
            raise TroubleError
        await anyio.sleep_forever()

    async with scheduler:
        await scheduler.start()
        scheduler.bus.remove_channel(NUMBERS)
        await anyio.sleep(10)
        states = {shot.name: shot.state for shot in scheduler.status()}
        assert states == {"Fragile": TaskState.STOPPED, "failing": TaskState.RUNNING}
        assert scheduler.status(listener).restarts == 0
    assert "stays stopped" in caplog.text


async def test_a_pool_of_workers_is_there_again_after_a_restart(scheduler: Scheduler) -> None:
    active: list[int] = []
    most = 0

    @scheduler.on(NUMBERS, concurrency=3, restart=SOON)
    async def work(number: int) -> None:
        nonlocal most
        if number == 0 and current_task_context().run == 1:
            raise TroubleError
        active.append(number)
        most = max(most, len(active))
        await anyio.sleep(1)
        active.remove(number)

    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 0)
        await anyio.sleep(5)
        for number in range(1, 10):
            await scheduler.publish(NUMBERS, number)
        await anyio.sleep(10)
        (status,) = scheduler.status()
        assert (status.handled, status.failed) == (9, 1)
    assert most == 3


async def test_a_restart_loses_no_message_that_waited_for_a_worker(scheduler: Scheduler) -> None:
    calls: list[int] = []

    @scheduler.on(NUMBERS, concurrency=2, restart=SOON)
    async def work(number: int) -> None:
        calls.append(number)
        if number == 0:
            await anyio.sleep(1)
            raise TroubleError
        await anyio.sleep(5)

    async with scheduler:
        await scheduler.start()
        for number in range(6):
            await scheduler.publish(NUMBERS, number)
        await anyio.sleep(100)
        (status,) = scheduler.status()
        assert (status.handled, status.failed, status.unread) == (5, 1, 0), "1 was finished"
    assert sorted(calls) == [0, 1, 2, 3, 4, 5]


async def test_what_is_overwritten_is_counted_also_if_the_task_never_runs_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scheduler = Scheduler()
    scheduler.add_channel(NUMBERS, ChannelConfig(capacity=2))
    shot = scheduler.register_event_task(Fragile(on_0=1), restart=SOON)
    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 0)
        await settle()
        for number in range(1, 6):
            await scheduler.publish(NUMBERS, number)
        counts = (0, 1, 2, 3)
        status = scheduler.status(shot)
        assert (status.handled, status.failed, status.unread, status.missed) == counts
        await scheduler.stop_task(shot)
        status = scheduler.status(shot)
        assert (status.handled, status.failed, status.unread, status.missed) == counts
    assert "was cancelled while it handled a message" not in caplog.text


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_every_message_is_counted_once_over_many_restarts(concurrency: int) -> None:
    scheduler = Scheduler()
    scheduler.add_channel(NUMBERS, ChannelConfig(capacity=4))

    @scheduler.on(NUMBERS, concurrency=concurrency, restart=SOON)
    async def work(number: int) -> None:
        if number % 10 == 0:
            raise TroubleError

    async with scheduler:
        await scheduler.start()
        for published in range(1, 61):
            await scheduler.publish(NUMBERS, published)
            await anyio.sleep(0.15)
            await settle()  # the handler rests now, or the task is in its back-off
            (shot,) = scheduler.status()
            if shot.state is TaskState.RUNNING:
                assert shot.handled + shot.failed + shot.unread + shot.missed == published
        await anyio.sleep(100)
        (shot,) = scheduler.status()
        assert shot.restarts > 1
        assert shot.failed >= shot.restarts
        assert shot.missed > 1
        assert shot.handled + shot.failed + shot.missed == 60


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_a_message_that_failed_is_counted_once_if_the_task_is_stopped_in_its_back_off(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture, concurrency: int
) -> None:
    shot = scheduler.register_event_task(Fragile(on_1=1), restart=SOON, concurrency=concurrency)
    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 1)
        await settle()
        assert scheduler.status(shot).state is TaskState.BACKING_OFF
        await scheduler.stop_task(shot)
        status = scheduler.status(shot)
        assert (status.handled, status.failed) == (0, 1)
    assert "while it handled a message" not in caplog.text


async def test_a_message_that_failed_is_counted_once_if_the_next_run_cannot_start(
    scheduler: Scheduler,
) -> None:
    class Unstable(Fragile):
        async def initialize(self) -> None:
            if current_task_context().run == 2:
                raise TroubleError

    shot = scheduler.register_event_task(Unstable(on_1=1), restart=SOON)
    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 1)
        await anyio.sleep(50)
        await scheduler.publish(NUMBERS, 2)
        await settle()
        status = scheduler.status(shot)
        assert (status.handled, status.failed, status.restarts) == (1, 1, 2)


# -- attempts ------------------------------------------------------------------------------------------


async def test_an_attempt_that_takes_too_long_is_cancelled_and_the_next_may_succeed(
    scheduler: Scheduler, letters: list[DeadLetter]
) -> None:
    cancelled: list[float] = []
    done: list[float] = []

    @scheduler.on(NUMBERS, name="slow", attempt_timeout=5, retries=1, retry_backoff=EXACT)
    async def slow_at_first(number: int) -> None:
        try:
            await anyio.sleep(4 if cancelled else 100)
        except anyio.get_cancelled_exc_class():
            cancelled.append(current_time())
            raise
        done.append(current_time())

    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 1)
        await anyio.sleep(50)
        (shot,) = [shot for shot in scheduler.status() if shot.name == "slow"]
        assert (shot.handled, shot.failed) == (1, 0)
    assert (cancelled, done) == ([5], [10])
    assert letters == []


async def test_a_timeout_of_the_handlers_own_is_told_in_its_own_words(
    scheduler: Scheduler, letters: list[DeadLetter]
) -> None:
    own = TimeoutError("the database is slow")

    @scheduler.on(NUMBERS, attempt_timeout=5, on_error="skip")
    async def impatient(number: int) -> None:
        raise own

    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 1)
        await anyio.sleep(1)
    assert [letter.error for letter in letters] == [own]


async def test_each_worker_has_a_time_limit_and_retries_of_its_own(scheduler: Scheduler) -> None:
    begun: list[tuple[int, float]] = []

    @scheduler.on(
        NUMBERS, concurrency=2, attempt_timeout=5, retries=1, retry_backoff=EXACT, on_error="skip"
    )
    async def slow(number: int) -> None:
        begun.append((number, current_time()))
        await anyio.sleep(100 if number == 1 else 3)

    async with scheduler:
        await scheduler.start()
        for number in (1, 2, 3):
            await scheduler.publish(NUMBERS, number)
        await anyio.sleep(50)
        (shot,) = scheduler.status()
        assert (shot.handled, shot.failed) == (2, 1)
    assert sorted(begun) == [(1, 0), (1, 6), (2, 0), (3, 3)]


async def test_the_back_off_of_a_retry_has_jitter_from_the_schedulers_random() -> None:
    scheduler = Scheduler(random=lambda: 0.5)
    scheduler.add_channel(NUMBERS)
    task = Fragile(on_7=2)
    backoff = Backoff(initial_delay=4, multiplier=1, jitter=0.5)
    scheduler.register_event_task(task, retries=2, retry_backoff=backoff)
    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 7)
        await anyio.sleep(50)
    assert task.calls == [(7, 0), (7, 3), (7, 6)]


async def test_a_stop_waits_for_the_retries_of_what_was_published(scheduler: Scheduler) -> None:
    task = Fragile(on_7=2)
    scheduler.register_event_task(task, retries=2, retry_backoff=EXACT, drain_timeout=5)
    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 7)
        await scheduler.shutdown()
        assert current_time() == 3
    assert task.handled == [7]


async def test_a_retry_that_a_drain_does_not_wait_for_is_a_failure(scheduler: Scheduler) -> None:
    task = Fragile(on_7=2)
    late = Backoff(initial_delay=60, jitter=0)
    shot = scheduler.register_event_task(task, retries=2, retry_backoff=late, drain_timeout=5)
    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 7)
        await scheduler.publish(NUMBERS, 8)
        await settle()
        await scheduler.shutdown()
        assert current_time() == 5
    assert task.calls == [(7, 0)]
    status = scheduler.status(shot)
    assert (status.handled, status.failed, status.unread) == (0, 1, 1)


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_on_error_stop_comes_after_the_last_attempt(
    scheduler: Scheduler, letters: list[DeadLetter], concurrency: int
) -> None:
    task = Fragile(on_7=5)
    shot = scheduler.register_event_task(
        task, on_error="stop", retries=2, retry_backoff=EXACT, concurrency=concurrency
    )
    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 7)
        status = await scheduler.wait_stopped(shot)
        assert (status.state, status.failed) == (TaskState.FAILED, 1)
        assert task.calls == [(7, 0), (7, 1), (7, 3)]
        await anyio.sleep(1)
    assert [letter.attempts for letter in letters] == [3]


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_on_error_restart_comes_after_the_last_attempt(
    scheduler: Scheduler, letters: list[DeadLetter], concurrency: int
) -> None:
    task = Fragile(on_7=5)
    scheduler.register_event_task(
        task,
        on_error="restart",
        restart=SOON,
        retries=1,
        retry_backoff=EXACT,
        concurrency=concurrency,
    )
    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 7)
        await anyio.sleep(1.5)
        await scheduler.publish(NUMBERS, 8)
        await anyio.sleep(50)
    assert task.calls == [(7, 0), (7, 1), (8, 2)]
    assert [(letter.message, letter.attempts) for letter in letters] == [(7, 2)]


async def test_without_a_policy_the_last_attempt_ends_the_run(scheduler: Scheduler) -> None:
    scheduler.register_event_task(Fragile(on_7=5), retries=1, retry_backoff=EXACT)
    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 7)
        with pytest.raises(TaskExecutionError, match="trouble with 7"):
            await scheduler.run()
        assert current_time() == 1


# -- dead letters --------------------------------------------------------------------------------------


async def test_a_dead_letter_says_what_failed_where_and_when(scheduler: Scheduler) -> None:
    shot = scheduler.register_event_task(Fragile(on_7=1), name="fragile", on_error="skip")
    with scheduler.subscribe(DEAD_LETTERS) as letters:
        async with scheduler:
            await scheduler.start()
            await anyio.sleep(3)
            await scheduler.publish(NUMBERS, 7)
            letter = await letters.receive()
    assert isinstance(letter.error, TroubleError)
    assert letter == DeadLetter(
        task_id=shot,
        task_name="fragile",
        event=NUMBERS,
        message=7,
        error=letter.error,
        attempts=1,
        time=3,
    )


async def test_each_task_that_fails_for_a_message_sends_a_letter_of_its_own(
    scheduler: Scheduler, letters: list[DeadLetter]
) -> None:
    for name in ("one", "two"):
        scheduler.register_event_task(Fragile(on_7=1), name=name, on_error="skip")
    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 7)
        await anyio.sleep(1)
    assert sorted(letter.task_name for letter in letters) == ["one", "two"]


async def test_nobody_has_to_subscribe_to_dead_letters(scheduler: Scheduler) -> None:
    task = Fragile(on_1=1)
    scheduler.register_event_task(task, on_error="skip")
    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 1)
        await scheduler.publish(NUMBERS, 2)
        await settle()
        assert scheduler.bus.statistics()[DEAD_LETTERS].sent == 0
    assert task.handled == [2]


async def test_a_handler_of_dead_letters_may_publish_the_message_again(
    scheduler: Scheduler,
) -> None:
    task = Fragile(on_1=3)
    scheduler.register_event_task(task, on_error="skip")

    @scheduler.on(DEAD_LETTERS)
    async def again(letter: DeadLetter) -> None:
        assert isinstance(letter.message, int)
        await scheduler.publish(NUMBERS, letter.message)

    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 1)
        await anyio.sleep(1)
    assert task.calls == [(1, 0)] * 4
    assert task.handled == [1]


async def test_the_group_that_a_handlers_tasks_raised_is_in_the_letter(
    scheduler: Scheduler, letters: list[DeadLetter]
) -> None:
    async def fail() -> None:
        raise TroubleError

    @scheduler.on(NUMBERS, concurrency=2, on_error="skip")
    async def parallel(number: int) -> None:
        async with create_task_group() as group:
            group.start_soon(fail)
            group.start_soon(fail)

    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 1)
        await anyio.sleep(1)
    (letter,) = letters
    assert isinstance(letter.error, ExceptionGroup)
    assert {type(error) for error in letter.error.exceptions} == {TroubleError}


async def test_an_interrupt_in_a_handler_is_neither_retried_nor_a_dead_letter(
    scheduler: Scheduler, letters: list[DeadLetter]
) -> None:
    calls: list[int] = []

    @scheduler.on(NUMBERS, retries=3, on_error="skip", restart=SOON)
    async def interrupted(number: int) -> None:
        calls.append(number)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        async with scheduler:
            await scheduler.start()
            await scheduler.publish(NUMBERS, 1)
            await anyio.sleep_forever()
    assert calls == [1]
    assert letters == []


async def test_a_failure_in_the_last_drain_is_the_cause_by_itself(scheduler: Scheduler) -> None:
    """Also if the others of the pool are still busy, and cancelled for it."""

    @scheduler.background
    async def publish() -> None:
        for number in range(3):
            await scheduler.publish(NUMBERS, number)

    @scheduler.on(NUMBERS, concurrency=3, stop_timeout=1)
    async def handle(number: int) -> None:
        await anyio.sleep(0.02 if number == 0 else 60)
        raise TroubleError(f"trouble with {number}")

    with pytest.raises(TaskExecutionError) as raised:
        await scheduler.run()
    assert repr(raised.value.__cause__) == repr(TroubleError("trouble with 0"))
