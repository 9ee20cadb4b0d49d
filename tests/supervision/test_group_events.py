"""Groups: what a restart of a group means for the messages of its event tasks."""

from __future__ import annotations

import anyio
from support import NUMBERS, SOON
from support.diary import Diary, add

from orchestrio import EventTask, RestartPolicy, Scheduler, TaskState, Topic, current_task_context


class Slow(EventTask[int]):
    """Takes some seconds for each message."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.seen: list[tuple[int, int]] = []

    @property
    def subscribed_event(self) -> Topic[int]:
        return NUMBERS

    async def handle_event(self, event: int) -> None:
        await anyio.sleep(self.seconds)
        self.seen.append((current_task_context().run, event))


async def test_an_event_task_finishes_its_message_and_keeps_the_rest_over_a_group_restart(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group", strategy="one_for_all")
    slow = Slow(5)
    group.register_event_task(slow)
    add(group, diary, "failing", 1, restart=SOON)
    async with scheduler:
        await scheduler.start()
        for number in range(3):
            await scheduler.publish(NUMBERS, number)
        await anyio.sleep(100)
        assert slow.seen == [(1, 0), (2, 1), (2, 2)]
        assert diary.when("up", "failing") == [0, 5]


async def test_messages_published_while_it_finishes_one_are_kept_over_a_group_restart(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group", strategy="one_for_all")
    slow = Slow(5)
    group.register_event_task(slow)
    add(group, diary, "failing", 2, restart=SOON)
    async with scheduler:
        await scheduler.start()
        for number in range(4):
            await scheduler.publish(NUMBERS, number)
            await anyio.sleep(1)  # the last is published after the failure
        await anyio.sleep(100)
        assert slow.seen == [(1, 0), (2, 1), (2, 2), (2, 3)]


async def test_messages_are_kept_over_a_group_restart_that_meets_a_restart_by_hand(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group", strategy="one_for_all")
    slow = Slow(5)
    task = group.register_event_task(slow)
    add(group, diary, "failing", 1, restart=SOON)
    async with scheduler:
        await scheduler.start()
        for number in range(3):
            await scheduler.publish(NUMBERS, number)
        await anyio.sleep(2)  # it is to end since 1, with two messages that it has not begun
        await scheduler.restart_task(task)
        await anyio.sleep(100)
        assert slow.seen == [(1, 0), (2, 1), (2, 2)]


async def test_what_was_kept_over_a_group_restart_is_counted_when_the_task_is_stopped_instead(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group", strategy="one_for_all")
    slow = Slow(5)
    task = group.register_event_task(slow)
    add(group, diary, "failing", 1, restart=SOON)
    async with scheduler:
        await scheduler.start()
        for number in range(3):
            await scheduler.publish(NUMBERS, number)
        await anyio.sleep(2)
        await scheduler.stop_task(task)
        shot = scheduler.status(task)
        assert (shot.handled, shot.failed, shot.in_hand, shot.unread) == (1, 0, 0, 2)
    assert slow.seen == [(1, 0)]


async def test_messages_published_in_a_back_off_are_handled_after_it(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group", strategy="one_for_all")
    slow = Slow(0)
    task = group.register_event_task(slow)
    patient = RestartPolicy(initial_delay=10, jitter=0)
    add(group, diary, "failing", 1, restart=patient)
    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 1)
        await anyio.sleep(5)
        assert scheduler.status(task).state is TaskState.BACKING_OFF
        assert await scheduler.publish(NUMBERS, 2) == 1, "it is still a receiver"
        assert scheduler.status(task).unread == 1
        await anyio.sleep(5.5)
        assert slow.seen == [(1, 1)]
        await anyio.sleep(5)
        assert slow.seen == [(1, 1), (2, 2)]


async def test_a_concurrent_event_task_keeps_its_messages_over_a_group_restart(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group", strategy="one_for_all")
    slow = Slow(5)
    group.register_event_task(slow, concurrency=2)
    add(group, diary, "failing", 1, restart=SOON)
    async with scheduler:
        await scheduler.start()
        for number in range(5):
            await scheduler.publish(NUMBERS, number)
        await anyio.sleep(100)
        assert sorted(event for _, event in slow.seen) == list(range(5)), "each of them once"
        runs = {event: run for run, event in slow.seen}
        assert (runs[0], runs[1], runs[3], runs[4]) == (1, 1, 2, 2)
