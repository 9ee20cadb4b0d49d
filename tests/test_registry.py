"""`TaskRegistry`: tasks by identity, by name, by event, in the order they came."""

from __future__ import annotations

import pytest

from orchestrio import (
    BackgroundTask,
    EventTask,
    LifecycleError,
    Scheduler,
    TaskId,
    TaskMetadata,
    TaskNotFoundError,
    TaskRegistry,
    Topic,
)

TICKS = Topic("ticks", int)


class Ticker(BackgroundTask):
    async def execute(self) -> None:
        """Have nothing to do."""


class Collector(EventTask[int]):
    def __init__(self, event: Topic[int] | str = TICKS) -> None:
        self.event = event

    @property
    def subscribed_event(self) -> Topic[int] | str:
        return self.event

    async def handle_event(self, event: int) -> None:
        """Forget it."""


@pytest.fixture
def registry() -> TaskRegistry:
    return TaskRegistry()


# -- adding ----------------------------------------------------------------------------------


def test_a_new_registry_is_empty(registry: TaskRegistry) -> None:
    assert len(registry) == 0
    assert list(registry) == []


def test_a_task_is_kept_with_its_metadata(registry: TaskRegistry) -> None:
    task, metadata = Ticker(), TaskMetadata(name="clock", tags=("time",))
    entry = registry.add(task, metadata)
    assert entry.task is task
    assert entry.metadata is metadata
    assert entry.name == "clock"


def test_a_task_without_metadata_has_the_default_ones(registry: TaskRegistry) -> None:
    assert registry.add(Ticker()).metadata == TaskMetadata()


def test_a_background_task_has_no_event(registry: TaskRegistry) -> None:
    entry = registry.add(Ticker())
    assert entry.kind == "background"
    assert entry.event is None


def test_an_event_task_has_the_event_it_subscribes_to(registry: TaskRegistry) -> None:
    entry = registry.add(Collector())
    assert entry.kind == "event"
    assert entry.event == TICKS


def test_every_task_gets_an_identity_of_its_own(registry: TaskRegistry) -> None:
    ids = {registry.add(Ticker()).task_id for _ in range(100)}
    assert len(ids) == 100
    assert all(type(task_id) is TaskId for task_id in ids)


def test_an_identity_is_not_used_again_after_a_removal(registry: TaskRegistry) -> None:
    first = registry.add(Ticker(), TaskMetadata(name="clock")).task_id
    registry.remove(first)
    assert registry.add(Ticker(), TaskMetadata(name="clock")).task_id != first


def test_identities_are_unique_across_registries() -> None:
    assert TaskRegistry().add(Ticker()).task_id != TaskRegistry().add(Ticker()).task_id


# -- names -----------------------------------------------------------------------------------


def test_a_name_defaults_to_that_of_the_class_numbered_from_the_second(
    registry: TaskRegistry,
) -> None:
    names = [registry.add(task).name for task in (Ticker(), Ticker(), Collector(), Ticker())]
    assert names == ["Ticker", "Ticker-2", "Collector", "Ticker-3"]


def test_a_default_name_goes_around_explicit_ones(registry: TaskRegistry) -> None:
    registry.add(Ticker(), TaskMetadata(name="Ticker"))
    registry.add(Ticker(), TaskMetadata(name="Ticker-2"))
    assert registry.add(Ticker()).name == "Ticker-3"


def test_a_default_name_of_any_length_is_made_unique(registry: TaskRegistry) -> None:
    long = type("T" * 500, (Ticker,), {})
    names = {registry.add(long()).name for _ in range(3)}
    assert len(names) == 3


def test_the_name_of_a_decorated_function_is_its_own() -> None:
    scheduler = Scheduler()

    @scheduler.background()
    async def tick() -> None:
        """Have nothing to do."""

    scheduler.background()(tick)
    assert [entry.name for entry in scheduler.registry] == ["tick", "tick-2"]


def test_an_explicit_name_is_taken_once(registry: TaskRegistry) -> None:
    first = registry.add(Ticker(), TaskMetadata(name="clock"))
    with pytest.raises(LifecycleError, match="'clock'"):
        registry.add(Collector(), TaskMetadata(name="clock"))
    assert list(registry) == [first]


def test_an_explicit_name_must_not_be_a_default_one_in_use(registry: TaskRegistry) -> None:
    registry.add(Ticker())
    with pytest.raises(LifecycleError, match="'Ticker'"):
        registry.add(Ticker(), TaskMetadata(name="Ticker"))


# -- finding ---------------------------------------------------------------------------------


def test_a_task_is_found_by_identity_and_by_name(registry: TaskRegistry) -> None:
    registry.add(Collector())
    entry = registry.add(Ticker(), TaskMetadata(name="clock"))
    assert registry.get(entry.task_id) is entry
    assert registry.get_by_name("clock") is entry


def test_an_unknown_identity_is_not_found(registry: TaskRegistry) -> None:
    registry.add(Ticker())
    with pytest.raises(TaskNotFoundError, match="nobody#1") as raised:
        registry.get(TaskId("nobody#1"))
    assert raised.value.task_id == "nobody#1"


def test_a_misspelt_name_is_not_found_and_the_near_ones_are_listed(
    registry: TaskRegistry,
) -> None:
    for name in ("collector", "collector-2", "wholly different"):
        registry.add(Ticker(), TaskMetadata(name=name))
    with pytest.raises(TaskNotFoundError) as raised:
        registry.get_by_name("colector")
    message = str(raised.value)
    assert "'colector'" in message
    assert "'collector'" in message
    assert "'collector-2'" in message
    assert "wholly different" not in message


def test_a_name_unlike_any_other_is_not_found_and_nothing_is_suggested(
    registry: TaskRegistry,
) -> None:
    registry.add(Ticker())
    with pytest.raises(TaskNotFoundError, match="'xyz'") as raised:
        registry.get_by_name("xyz")
    assert "Ticker" not in str(raised.value)


def test_a_registry_contains_the_identities_of_its_tasks(registry: TaskRegistry) -> None:
    entry = registry.add(Ticker())
    other = TaskRegistry().add(Ticker())
    assert entry.task_id in registry
    assert other.task_id not in registry


def test_tasks_come_in_the_order_of_registration(registry: TaskRegistry) -> None:
    entries = [registry.add(Ticker(), TaskMetadata(name=name)) for name in "zamk"]
    assert list(registry) == entries
    assert len(registry) == 4


# -- removing --------------------------------------------------------------------------------


def test_a_removed_task_is_returned_and_forgotten(registry: TaskRegistry) -> None:
    entry = registry.add(Ticker(), TaskMetadata(name="clock"))
    kept = registry.add(Ticker())
    assert registry.remove(entry.task_id) is entry
    assert entry.task_id not in registry
    assert list(registry) == [kept]
    with pytest.raises(TaskNotFoundError):
        registry.get(entry.task_id)
    with pytest.raises(TaskNotFoundError):
        registry.get_by_name("clock")


def test_removing_twice_is_not_found(registry: TaskRegistry) -> None:
    entry = registry.add(Ticker())
    registry.remove(entry.task_id)
    with pytest.raises(TaskNotFoundError) as raised:
        registry.remove(entry.task_id)
    assert raised.value.task_id == entry.task_id


def test_the_name_of_a_removed_task_is_free_again(registry: TaskRegistry) -> None:
    registry.remove(registry.add(Ticker(), TaskMetadata(name="clock")).task_id)
    assert registry.add(Collector(), TaskMetadata(name="clock")).name == "clock"


def test_tasks_may_be_removed_while_iterating(registry: TaskRegistry) -> None:
    for _ in range(3):
        registry.add(Ticker())
    seen = [registry.remove(entry.task_id).name for entry in registry]
    assert seen == ["Ticker", "Ticker-2", "Ticker-3"]
    assert len(registry) == 0


def test_tasks_added_while_iterating_are_not_iterated(registry: TaskRegistry) -> None:
    registry.add(Ticker())
    assert [registry.add(Ticker()).name for _ in registry] == ["Ticker-2"]
    assert len(registry) == 2


# -- subscribers -----------------------------------------------------------------------------


def test_the_subscribers_of_an_event_come_in_the_order_of_registration(
    registry: TaskRegistry,
) -> None:
    first = registry.add(Collector())
    registry.add(Ticker())
    registry.add(Collector(Topic("others", int)))
    second = registry.add(Collector(Topic("ticks", int, validate=True)))
    assert registry.subscribers(TICKS) == [first, second]


def test_the_subscribers_of_a_plain_key_are_not_those_of_the_topic(
    registry: TaskRegistry,
) -> None:
    plain = registry.add(Collector("ticks"))
    typed = registry.add(Collector())
    assert registry.subscribers("ticks") == [plain]
    assert registry.subscribers(TICKS) == [typed]


def test_an_event_that_nobody_subscribes_to_has_no_subscribers(registry: TaskRegistry) -> None:
    registry.add(Ticker())
    assert registry.subscribers("nobody's") == []
    assert registry.subscribers(None) == []


# -- a scheduler's registry ------------------------------------------------------------------


def test_a_scheduler_keeps_its_tasks_in_its_registry() -> None:
    scheduler = Scheduler()
    task_id = scheduler.register_background_task(Ticker())
    assert [entry.task_id for entry in scheduler.registry] == [task_id]


async def test_a_task_removed_from_its_scheduler_leaves_the_registry() -> None:
    async with Scheduler() as scheduler:
        task_id = scheduler.register_background_task(Ticker(), name="clock")
        await scheduler.remove_task(task_id)
        assert task_id not in scheduler.registry
        with pytest.raises(TaskNotFoundError):
            scheduler.registry.get_by_name("clock")
