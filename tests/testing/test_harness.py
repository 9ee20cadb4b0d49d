"""The harness: what a test asks about a scheduler that runs."""

from __future__ import annotations

from dataclasses import dataclass

import anyio
import pytest
from anyio import Event, sleep

from orchestrio import (
    DEAD_LETTERS,
    BackgroundTask,
    Backoff,
    ChannelConfig,
    EventTask,
    InvalidChannelError,
    LifecycleError,
    RestartPolicy,
    Scheduler,
    TaskExecutionError,
    TaskNotFoundError,
    TaskState,
    Topic,
)
from orchestrio.testing import harness, virtual_time

NUMBERS = Topic("numbers", int)
WORDS = Topic("words", str)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    return virtual_time(request.param)


@pytest.fixture
def scheduler() -> Scheduler:
    scheduler = Scheduler(random=lambda: 0.0)
    scheduler.add_channel(NUMBERS)
    scheduler.add_channel(WORDS)
    return scheduler


class TroubleError(Exception):
    pass


# -- idle ------------------------------------------------------------------------------------


async def test_idle_waits_for_all_that_was_published_and_what_follows_from_it(
    scheduler: Scheduler,
) -> None:
    @scheduler.on(NUMBERS)
    async def spell(number: int) -> None:
        await sleep(1)
        await scheduler.publish(WORDS, "one" * number)

    @scheduler.on(WORDS)
    async def read(word: str) -> None:
        await sleep(1)

    async with harness(scheduler) as h:
        for number in (1, 2):
            await h.publish(NUMBERS, number)
        await h.idle()
        assert h.handled(NUMBERS) == [1, 2]
        assert h.handled(WORDS) == h.published(WORDS) == ["one", "oneone"]
        assert anyio.current_time() == 3


async def test_idle_with_nothing_to_do_takes_no_time(scheduler: Scheduler) -> None:
    scheduler.on(NUMBERS, name="handler")(nothing)
    async with harness(scheduler) as h:
        await h.idle()
        assert anyio.current_time() == 0


async def nothing(number: int) -> None:
    pass


async def test_idle_waits_for_retries(scheduler: Scheduler) -> None:
    attempts: list[int] = []

    @scheduler.on(NUMBERS, retries=2, retry_backoff=Backoff(initial_delay=5, jitter=0))
    async def moody(number: int) -> None:
        attempts.append(number)
        if len(attempts) < 3:
            raise TroubleError

    async with harness(scheduler) as h:
        await h.publish(NUMBERS, 1)
        await h.idle()
        assert attempts == [1, 1, 1]
        assert h.handled(NUMBERS) == [1]


async def test_idle_waits_for_a_pool_to_finish(scheduler: Scheduler) -> None:
    @scheduler.on(NUMBERS, concurrency=3)
    async def work(number: int) -> None:
        await sleep(number)

    async with harness(scheduler) as h:
        for number in (5, 1, 2, 3):
            await h.publish(NUMBERS, number)
        await h.idle()
        assert h.handled(NUMBERS) == [1, 2, 3, 5]


async def test_idle_waits_for_a_task_that_is_restarted(scheduler: Scheduler) -> None:
    crashed = False

    @scheduler.on(NUMBERS, restart=RestartPolicy(initial_delay=60, max_delay=60, jitter=0))
    async def fragile(number: int) -> None:
        nonlocal crashed
        if not crashed:
            crashed = True
            raise TroubleError

    async with harness(scheduler) as h:
        await h.publish(NUMBERS, 1)
        await h.publish(NUMBERS, 2)
        await h.idle()
        assert h.handled(NUMBERS, by="fragile") == [2]
        assert h.task("fragile").restarts == 1
        assert anyio.current_time() == 60


async def test_idle_does_not_wait_for_a_task_that_has_ended(scheduler: Scheduler) -> None:
    @scheduler.on(NUMBERS, on_error="stop")
    async def fragile(number: int) -> None:
        raise TroubleError

    async with harness(scheduler) as h:
        await h.publish(NUMBERS, 1)
        await h.publish(NUMBERS, 2)
        await h.idle()
        assert h.task("fragile").unread == 1


async def test_idle_is_back_after_a_skipped_message(scheduler: Scheduler) -> None:
    @scheduler.on(NUMBERS, on_error="skip")
    async def fragile(number: int) -> None:
        raise TroubleError

    async with harness(scheduler) as h:
        for number in range(3):
            await h.publish(NUMBERS, number)
            await h.idle()
        assert h.task("fragile").failed == 3


# -- what it has seen ------------------------------------------------------------------------


async def test_handled_tells_tasks_and_events_apart(scheduler: Scheduler) -> None:
    class Reader(EventTask[str]):
        @property
        def subscribed_event(self) -> Topic[str]:
            return WORDS

        async def handle_event(self, event: str) -> None:
            if event == "bad":
                raise TroubleError

    scheduler.register_event_task(Reader(), name="reader", on_error="skip")
    scheduler.on(WORDS, name="other")(hear)
    async with harness(scheduler) as h:
        await h.publish(WORDS, "good")
        await h.publish(WORDS, "bad")
        await h.idle()
        assert h.handled(WORDS, by="reader") == ["good"]
        assert h.handled(WORDS, by="other") == ["good", "bad"]
        assert len(h.handled(WORDS)) == 3
        assert h.handled(NUMBERS) == []


async def hear(word: str) -> None:
    pass


async def test_dead_letters_are_kept(scheduler: Scheduler) -> None:
    @scheduler.on(NUMBERS, on_error="skip")
    async def fragile(number: int) -> None:
        if number == 2:
            raise TroubleError("no twos")

    async with harness(scheduler) as h:
        for number in range(4):
            await h.publish(NUMBERS, number)
        await h.idle()
        assert [(letter.message, str(letter.error)) for letter in h.dead_letters] == [
            (2, "no twos")
        ]
        assert h.published(DEAD_LETTERS) == h.dead_letters


async def test_what_happened_to_tasks_is_kept(scheduler: Scheduler) -> None:
    scheduler.on(NUMBERS, name="handler")(nothing)
    async with harness(scheduler) as h:
        names = {event.task_name for event in h.task_events}
    assert names == {"handler"}
    assert h.task("handler").state is TaskState.STOPPED


async def test_publish_counts_the_receivers_but_the_harness(scheduler: Scheduler) -> None:
    scheduler.on(NUMBERS)(nothing)
    async with harness(scheduler) as h:
        assert await h.publish(NUMBERS, 1) == 1
        assert await h.publish(WORDS, "nobody listens") == 0
        h.record(WORDS)
        assert await h.publish(WORDS, "nobody listens") == 0


async def test_a_channel_that_needs_receivers_is_not_given_one(scheduler: Scheduler) -> None:
    events = Topic("events", int)
    scheduler.add_channel(events, ChannelConfig(require_receivers=True))
    async with harness(scheduler) as h:
        with pytest.raises(Exception, match="has no receiver"):
            await h.publish(events, 1)
        with pytest.raises(InvalidChannelError, match="subscribe one with record"):
            h.published(events)


async def test_messages_that_the_harness_missed_are_an_error_not_a_wrong_answer(
    scheduler: Scheduler,
) -> None:
    value = Topic("value", int)
    scheduler.add_channel(value, ChannelConfig(capacity=1, replay=1))
    async with harness(scheduler) as h:
        for number in range(3):
            scheduler.bus.publish_nowait(value, number)
        with pytest.raises(AssertionError, match="2 messages of value"):
            h.published(value)


async def test_a_recorder_gets_what_is_published_from_then_on(scheduler: Scheduler) -> None:
    async with harness(scheduler) as h:
        await h.publish(NUMBERS, 1)
        recorder = h.record(NUMBERS)
        await h.publish(NUMBERS, 2)
        assert recorder.messages == [2]

        async def later() -> None:
            await sleep(5)
            await h.publish(NUMBERS, 3)

        async with anyio.create_task_group() as group:
            group.start_soon(later)
            assert await recorder.wait_for(2) == [2, 3]
        scheduler.bus.remove_channel(NUMBERS)
        with pytest.raises(anyio.EndOfStream):
            await recorder.wait_for(3)


async def test_a_task_registered_later_is_seen_as_well(scheduler: Scheduler) -> None:
    async with harness(scheduler) as h:
        scheduler.on(NUMBERS, name="late")(nothing)
        await h.publish(NUMBERS, 7)
        await h.idle()
        h.assert_handled(NUMBERS, [7], by="late")


async def test_a_task_that_a_group_registers_later_is_seen_as_well(scheduler: Scheduler) -> None:
    group = scheduler.group("group")
    async with harness(scheduler) as h:
        group.group("within").on(NUMBERS, name="late")(nothing)
        await h.publish(NUMBERS, 7)
        await h.idle()
        h.assert_handled(NUMBERS, [7], by="late")


async def test_an_unknown_task_is_an_error_that_names_those_that_are_near(
    scheduler: Scheduler,
) -> None:
    scheduler.on(NUMBERS, name="handler")(nothing)
    async with harness(scheduler) as h:
        with pytest.raises(TaskNotFoundError, match="'handler'"):
            h.task("handle")


async def test_what_is_misspelt_is_an_error_and_not_an_empty_answer(scheduler: Scheduler) -> None:
    scheduler.on(NUMBERS, name="handler")(nothing)
    async with harness(scheduler) as h:
        with pytest.raises(TaskNotFoundError, match="'handler'"):
            h.assert_handled(NUMBERS, [], by="handlr")
        for event in (Topic("numbrs", int), Topic("numbers", float)):
            with pytest.raises(InvalidChannelError, match="has no channel"):
                h.handled(event)
            with pytest.raises(InvalidChannelError, match="has no channel"):
                h.published(event)


# -- assertions ------------------------------------------------------------------------------


async def test_a_failed_assertion_shows_what_is_missing_and_what_is_too_much(
    scheduler: Scheduler,
) -> None:
    scheduler.on(NUMBERS)(nothing)
    async with harness(scheduler) as h:
        for number in (1, 3):
            await h.publish(NUMBERS, number)
        await h.idle()
        h.assert_handled(NUMBERS, [1, 3])
        h.assert_published(NUMBERS, (1, 3))
        for fails in (h.assert_handled, h.assert_published):
            with pytest.raises(AssertionError) as failed:
                fails(NUMBERS, [1, 2])
            assert str(failed.value).splitlines()[1:] == ["  1", "- 2", "+ 3"]


# -- failures --------------------------------------------------------------------------------


async def test_a_task_that_fails_ends_the_block_with_its_own_error(scheduler: Scheduler) -> None:
    @scheduler.background()
    async def doomed() -> None:
        await sleep(1)
        raise TroubleError("it had to come")

    with pytest.raises(TaskExecutionError, match="it had to come") as failed:
        async with harness(scheduler):
            await anyio.sleep_forever()
    assert isinstance(failed.value.__cause__, TroubleError)


async def test_a_failed_assertion_in_the_block_comes_out_as_it_is(scheduler: Scheduler) -> None:
    scheduler.on(NUMBERS)(nothing)
    with pytest.raises(AssertionError, match="as it is"):
        async with harness(scheduler):
            raise AssertionError("as it is")


async def test_a_cancelled_block_is_cancelled(scheduler: Scheduler) -> None:
    with anyio.move_on_after(3) as scope:
        async with harness(scheduler):
            await anyio.sleep_forever()
    assert scope.cancelled_caught


async def test_a_scheduler_that_was_entered_is_refused(scheduler: Scheduler) -> None:
    async with scheduler:
        pass
    with pytest.raises(LifecycleError):
        async with harness(scheduler):
            pytest.fail("it lives once")


async def test_what_is_no_scheduler_is_refused() -> None:
    with pytest.raises(TypeError, match="for a Scheduler, not for 7"):
        async with harness(7):  # type: ignore[arg-type]  # on purpose
            pytest.fail("it is none")


async def test_a_full_channel_that_blocks_goes_on_while_all_stops() -> None:
    scheduler = Scheduler()
    scheduler.add_channel(NUMBERS, ChannelConfig(capacity=1, overflow="block"))

    class Last(BackgroundTask):
        async def execute(self) -> None:
            await anyio.sleep_forever()

        async def shutdown(self) -> None:
            for number in range(5):
                await scheduler.publish(NUMBERS, number)

    scheduler.register_background_task(Last())
    async with harness(scheduler) as h:
        pass
    assert h.published(NUMBERS) == [0, 1, 2, 3, 4]


# -- what is observed stays what it is -------------------------------------------------------


class Slotted(EventTask[int]):
    __slots__ = ("seen",)

    def __init__(self) -> None:
        self.seen: list[int] = []

    @property
    def subscribed_event(self) -> Topic[int]:
        return NUMBERS

    async def handle_event(self, event: int) -> None:
        self.seen.append(event)

    async def handle_lag(self, missed: int) -> None:
        self.seen.append(-missed)


@dataclass(frozen=True, slots=True)
class Frozen(EventTask[int]):
    seen: list[int]

    @property
    def subscribed_event(self) -> Topic[int]:
        return NUMBERS

    async def handle_event(self, event: int) -> None:
        self.seen.append(event)


async def test_a_frozen_task_is_observed_as_well(scheduler: Scheduler) -> None:
    task = Frozen([])
    scheduler.register_event_task(task, name="frozen")
    async with harness(scheduler) as h:
        await h.publish(NUMBERS, 3)
        await h.idle()
        h.assert_handled(NUMBERS, task.seen, by="frozen")


async def test_an_observed_task_is_still_of_its_class() -> None:
    scheduler = Scheduler()
    scheduler.add_channel(NUMBERS, ChannelConfig(capacity=2))
    task = Slotted()
    scheduler.register_event_task(task)
    started = Event()

    @scheduler.background()
    async def burst() -> None:
        await started.wait()
        for number in range(5):
            scheduler.bus.publish_nowait(NUMBERS, number)

    async with harness(scheduler) as h:
        started.set()
        await sleep(1)
        await h.idle()
        assert isinstance(task, Slotted)
        assert type(task).__name__ == "Slotted"
        assert task.seen == [-3, 3, 4]
        h.assert_handled(NUMBERS, [3, 4])
