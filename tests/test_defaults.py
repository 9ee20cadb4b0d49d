"""Defaults: options of a scheduler or a group that its tasks take if they do not say otherwise."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError
from support import NUMBERS, TroubleError, settle

from orchestrio import (
    DEAD_LETTERS,
    BackgroundTask,
    Backoff,
    DeadLetter,
    EventTask,
    Group,
    LifecycleError,
    RestartPolicy,
    Scheduler,
    TaskDefaults,
    TaskMetadata,
)

NEVER = RestartPolicy(mode="never")


class Worker(BackgroundTask):
    async def execute(self) -> None: ...


class Reader(EventTask[int]):
    subscribed_event = NUMBERS

    async def handle_event(self, number: int) -> None: ...


async def work() -> None: ...
async def handle(number: int) -> None: ...


def metadata_of(
    scheduler: Scheduler,
    given: TaskMetadata | None = None,
    *,
    within: Group | None = None,
    **options: Any,
) -> TaskMetadata:
    """What a background task of the scheduler, or of a group in it, is registered with."""
    task_id = (within or scheduler).register_background_task(Worker(), given, **options)
    return scheduler.status(task_id).metadata


# -- who takes what ----------------------------------------------------------------------------


async def test_a_whole_app_skips_what_it_cannot_handle() -> None:
    scheduler = Scheduler(defaults={"on_error": "skip"})
    scheduler.add_channel(NUMBERS)
    letters: list[object] = []

    @scheduler.on(NUMBERS)
    async def fail(number: int) -> None:
        raise TroubleError

    @scheduler.group("group").on(NUMBERS)
    async def fail_too(number: int) -> None:
        raise TroubleError

    @scheduler.on(DEAD_LETTERS)
    async def watch(letter: DeadLetter) -> None:
        letters.append(letter.message)

    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 1)
        await scheduler.publish(NUMBERS, 2)
        await settle()
    assert letters == [1, 1, 2, 2]


def test_every_way_of_registering_takes_them() -> None:
    scheduler = Scheduler(defaults={"tags": ["all"], "stop_timeout": timedelta(seconds=3)})
    scheduler.add_channel(NUMBERS)
    scheduler.register_background_task(Worker())
    scheduler.register_event_task(Reader())
    scheduler.background(work)
    scheduler.background(name="named")(work)
    scheduler.on(NUMBERS)(handle)
    scheduler.every(1)(work)
    scheduler.cron("* * * * *")(work)
    told = [snapshot.metadata for snapshot in scheduler.status()]
    assert len(told) == 7
    assert {(metadata.tags, metadata.stop_timeout) for metadata in told} == {(("all",), 3.0)}


def test_a_task_that_says_otherwise_wins() -> None:
    scheduler = Scheduler(defaults={"retries": 3, "tags": ["all"], "restart": RestartPolicy()})
    own = metadata_of(scheduler, retries=0, tags=(), restart=None)
    assert (own.retries, own.tags, own.restart) == (0, (), None)
    assert metadata_of(scheduler, retries=0).tags == ("all",)


def test_groups_are_merged_from_the_outside_in_key_by_key() -> None:
    policy = RestartPolicy(max_restarts=1)
    scheduler = Scheduler(defaults={"retries": 1, "restart": policy, "stop_timeout": 1})
    outer = scheduler.group("outer", defaults={"retries": 2, "drain_timeout": 2})
    inner = outer.group("inner", defaults={"retries": 3, "restart": None})
    innermost = inner.group("innermost")

    def told(group: Group) -> tuple[object, ...]:
        metadata = metadata_of(scheduler, within=group)
        return (
            metadata.retries,
            metadata.restart,
            metadata.stop_timeout,
            metadata.drain_timeout,
            metadata.shutdown_timeout,
        )

    assert told(scheduler) == (1, policy, 1, 10, 10)
    assert told(outer) == (2, policy, 1, 2, 10)
    assert told(inner) == told(innermost) == (3, None, 1, 2, 10)


def test_metadata_take_what_they_do_not_set_themselves() -> None:
    scheduler = Scheduler(defaults={"retries": 3, "on_error": "skip", "watchdog": 5})
    given = TaskMetadata(name="own", retries=0, on_error=None)
    taken = metadata_of(scheduler, given)
    assert (taken.name, taken.retries, taken.on_error, taken.watchdog) == ("own", 0, None, 5)
    assert given.watchdog == float("inf")


def test_what_is_there_without_defaults_stays_the_same() -> None:
    given = TaskMetadata(watchdog=3)
    for defaults in (None, TaskDefaults()):
        scheduler = Scheduler(defaults=defaults)
        assert metadata_of(scheduler, given) is given
        assert metadata_of(scheduler, given, within=scheduler.group("group")) is given


def test_defaults_are_read_once() -> None:
    defaults: TaskDefaults = {"retries": 3}
    scheduler = Scheduler(defaults=defaults)
    defaults["retries"] = 5
    assert metadata_of(scheduler).retries == 3


# -- what is not for every task ----------------------------------------------------------------


def test_a_default_that_is_for_background_tasks_is_not_taken_by_others() -> None:
    scheduler = Scheduler(defaults={"singleton": True, "retries": 3})
    scheduler.register_event_task(Reader(), name="reader")
    scheduler.background(name="worker")(work)
    told = {snapshot.name: snapshot.metadata for snapshot in scheduler.status()}
    assert (told["reader"].singleton, told["worker"].singleton) == (False, True)
    assert told["reader"].retries == 3
    with pytest.raises(LifecycleError, match="cannot be a singleton"):
        scheduler.register_event_task(Reader(), singleton=True)


def test_a_default_that_contradicts_the_task_gives_way() -> None:
    restarting = Scheduler(defaults={"on_error": "restart"})
    assert metadata_of(restarting, restart=NEVER).on_error is None
    assert metadata_of(restarting, TaskMetadata(restart=NEVER)).on_error is None
    assert metadata_of(restarting).on_error == "restart"
    inner = restarting.group("inner", defaults={"restart": NEVER})
    taken = metadata_of(restarting, within=inner)
    assert (taken.restart, taken.on_error) == (NEVER, None)

    never = Scheduler(defaults={"restart": NEVER})
    assert metadata_of(never, on_error="restart").policy == RestartPolicy()
    with pytest.raises(ValidationError, match="contradicts"):
        metadata_of(never, on_error="restart", restart=NEVER)


# -- typos -------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [Scheduler, lambda **given: Scheduler().group("group", **given)])
@pytest.mark.parametrize(
    ("defaults", "words"),
    [
        ({"on_eror": "skip"}, r"defaults\.on_eror\n .*did you mean 'on_error'"),
        ({"on_error": "ignore"}, r"defaults\.on_error\n"),
        ({"retries": -1}, r"defaults\.retries\n"),
        ({"retry_backoff": 5}, r"defaults\.retry_backoff\n"),
        ({"name": "all"}, "name is for one task"),
        ({"description": ""}, "description is for one task"),
        ({"depends_on": ["storage"]}, "depends_on is for one task"),
        ({"significant": True}, "significant is for one task"),
        ({"on_error": "restart", "restart": NEVER}, "contradicts"),
        (TaskMetadata(retries=3), "dictionary of options"),
        (Backoff(), "dictionary of options"),
        ([("retries", 3)], "dictionary of options"),
    ],
    ids=str,
)
def test_a_wrong_default_is_refused_where_it_is_given(make: Any, defaults: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words) as caught:
        make(defaults=defaults)
    assert {error["loc"][0] for error in caught.value.errors()} == {"defaults"}


def test_a_group_that_is_refused_is_not_there() -> None:
    scheduler = Scheduler()
    wrong: Any = {"retires": 3}
    with pytest.raises(ValidationError):
        scheduler.group("group", defaults=wrong)
    assert scheduler.groups == {}
