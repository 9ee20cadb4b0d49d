"""What users configure: bad values are named at once, good ones are kept as they are."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from orchestrio import (
    BackgroundTask,
    Backoff,
    ChannelConfig,
    RestartPolicy,
    Scheduler,
    TaskId,
    TaskMetadata,
    TaskSnapshot,
    TaskState,
    create_broadcast_stream,
)

NAN = math.nan
TIMEOUTS = ("start_timeout", "stop_timeout", "drain_timeout", "shutdown_timeout")

STREAM_MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"capacity": 0}, "capacity"),
    ({"capacity": -1}, "capacity"),
    ({"capacity": 1.5}, "capacity"),
    ({"capacity": 1.0}, "capacity"),
    ({"capacity": "x"}, "capacity"),
    ({"capacity": "8"}, "capacity"),
    ({"capacity": True}, "capacity"),
    ({"capacity": None}, "capacity"),
    ({"capacity": math.inf}, "capacity"),
    ({"capacity": 2**70}, "capacity"),
    ({"capacity": 4, "replay": 5}, "replay"),
    ({"replay": -1}, "replay"),
    ({"replay": True}, "replay"),
    ({"replay": 0.5}, "replay"),
    ({"overflow": "drop"}, "overflow"),
    ({"overflow": "DROP_OLDEST"}, "overflow"),
    ({"overflow": None}, "overflow"),
    ({"require_receivers": "yes"}, "require_receivers"),
    ({"require_receivers": 1}, "require_receivers"),
]
CHANNEL_MISTAKES = [
    *STREAM_MISTAKES,
    ({"description": 5}, "description"),
    ({"capacityy": 5}, "capacityy"),
]
TASK_MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"name": ""}, "name"),
    ({"name": "n" * 10_000}, "name"),
    ({"name": 5}, "name"),
    ({"description": None}, "description"),
    ({"tags": "one"}, "tags"),
    ({"depends_on": "one"}, "depends_on"),
    ({"concurrency": 0}, "concurrency"),
    ({"concurrency": -1}, "concurrency"),
    ({"concurrency": 1.5}, "concurrency"),
    ({"concurrency": True}, "concurrency"),
    ({"concurrency": "2"}, "concurrency"),
    ({"concurrency": 2**70}, "concurrency"),
    ({"on_error": "ignore"}, "on_error"),
    ({"restart": "always"}, "restart"),
    ({"attempt_timeout": 0}, "attempt_timeout"),
    ({"watchdog": 0}, "watchdog"),
    ({"retries": -1}, "retries"),
    ({"restart_with_dependencies": 1}, "restart_with_dependencies"),
    ({"nmae": "clock"}, "nmae"),
    *[
        ({timeout: value}, timeout)
        for timeout in TIMEOUTS
        for value in (NAN, -0.1, -math.inf, "x", "5", True, None)
    ],
]


class Idle(BackgroundTask):
    async def execute(self) -> None:
        """Have nothing to do."""


def fields_at_fault(raised: pytest.ExceptionInfo[ValidationError]) -> set[object]:
    return {error["loc"][0] for error in raised.value.errors()}


def described(value: object) -> str:
    return repr(value)[:60] if isinstance(value, dict) else ""


@pytest.fixture
def snapshot() -> TaskSnapshot:
    scheduler = Scheduler()
    task_id = scheduler.register_background_task(
        Idle(), name="clock", tags=["time", "core"], start_timeout=2.5
    )
    return scheduler.status(task_id)


# -- refusing --------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "field"), CHANNEL_MISTAKES, ids=described)
def test_a_mistake_in_a_channel_config_is_named(options: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as raised:
        ChannelConfig(**options)
    assert fields_at_fault(raised) == {field}


@pytest.mark.parametrize(("options", "field"), STREAM_MISTAKES, ids=described)
def test_a_mistake_in_a_stream_is_named(options: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as raised:
        create_broadcast_stream[str](**options)
    assert fields_at_fault(raised) == {field}


@pytest.mark.parametrize(("options", "field"), TASK_MISTAKES, ids=described)
def test_a_mistake_in_task_metadata_is_named(options: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as raised:
        TaskMetadata(**options)
    assert fields_at_fault(raised) == {field}


@pytest.mark.parametrize(("options", "field"), TASK_MISTAKES, ids=described)
def test_a_mistake_in_a_registration_is_named_and_nothing_is_registered(
    options: dict[str, Any], field: str
) -> None:
    scheduler = Scheduler()
    with pytest.raises(ValidationError) as raised:
        scheduler.register_background_task(Idle(), **options)
    assert fields_at_fault(raised) == {field}
    assert scheduler.status() == []


def test_every_mistake_is_named_at_once() -> None:
    with pytest.raises(ValidationError) as raised:
        TaskMetadata.model_validate({"name": "", "concurrency": 0, "stop_timeout": NAN})
    assert fields_at_fault(raised) == {"name", "concurrency", "stop_timeout"}


@pytest.mark.parametrize("mode", ["sometimes", "", None, False])
def test_a_restart_policy_knows_three_modes(mode: object) -> None:
    with pytest.raises(ValidationError) as raised:
        RestartPolicy.model_validate({"mode": mode})
    assert fields_at_fault(raised) == {"mode"}


def test_a_restart_policy_refuses_fields_it_does_not_have() -> None:
    with pytest.raises(ValidationError) as raised:
        RestartPolicy.model_validate({"retries": 3})
    assert fields_at_fault(raised) == {"retries"}


# -- accepting -------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [1, 2, 2**20])
def test_a_capacity_is_kept_as_given(capacity: int) -> None:
    assert ChannelConfig(capacity=capacity).capacity == capacity


def test_replay_may_be_all_of_the_capacity() -> None:
    assert ChannelConfig(capacity=1, replay=1).replay == 1


@pytest.mark.parametrize("overflow", ["drop_oldest", "block", "drop_newest", "error"])
def test_an_overflow_is_one_of_four(overflow: str) -> None:
    assert ChannelConfig.model_validate({"overflow": overflow}).overflow == overflow


@pytest.mark.parametrize("timeout", TIMEOUTS)
@pytest.mark.parametrize("seconds", [0, 0.0, 3, 0.25, math.inf])
def test_a_timeout_is_zero_or_more_seconds_or_infinity(timeout: str, seconds: float) -> None:
    assert getattr(TaskMetadata.model_validate({timeout: seconds}), timeout) == seconds


@pytest.mark.parametrize("on_error", ["restart", "skip", "stop", None])
def test_on_error_is_one_of_three_or_left_to_the_policy(on_error: str | None) -> None:
    assert TaskMetadata.model_validate({"on_error": on_error}).on_error == on_error


def test_a_name_may_be_in_any_language() -> None:
    assert TaskMetadata(name="时钟 ⏰").name == "时钟 ⏰"


def test_tags_keep_their_order() -> None:
    metadata = TaskMetadata.model_validate({"tags": ["z", "a", "m"]})
    assert metadata.tags == ("z", "a", "m")


def test_registration_keywords_are_the_fields_of_the_metadata() -> None:
    scheduler = Scheduler()
    task_id = scheduler.register_background_task(
        Idle(),
        name="clock",
        description="ticks",
        tags=["time"],
        restart=RestartPolicy(),
        depends_on=["quartz"],
        on_error="stop",
        start_timeout=1,
        stop_timeout=2,
        drain_timeout=3,
        shutdown_timeout=math.inf,
    )
    assert scheduler.status(task_id).metadata == TaskMetadata(
        name="clock",
        description="ticks",
        tags=("time",),
        restart=RestartPolicy(),
        depends_on=("quartz",),
        on_error="stop",
        start_timeout=1.0,
        stop_timeout=2.0,
        drain_timeout=3.0,
        shutdown_timeout=math.inf,
    )


# -- defaults --------------------------------------------------------------------------------


def test_the_defaults_of_a_channel_are_those_of_the_contract() -> None:
    assert ChannelConfig().model_dump() == {
        "capacity": 1024,
        "description": "",
        "overflow": "drop_oldest",
        "replay": 0,
        "require_receivers": False,
    }


def test_a_stream_has_the_defaults_of_a_channel() -> None:
    send, receive = create_broadcast_stream[str]()
    with send, receive:
        assert send.statistics().capacity == ChannelConfig().capacity


def test_a_task_has_no_name_labels_or_dependencies_of_its_own() -> None:
    metadata = TaskMetadata()
    assert metadata.name is None
    assert (metadata.description, metadata.tags, metadata.depends_on) == ("", (), ())


def test_a_task_handles_one_message_at_a_time_and_leaves_failures_to_the_policy() -> None:
    metadata = TaskMetadata()
    assert metadata.concurrency == 1
    assert metadata.on_error is None
    assert metadata.restart is None
    assert metadata.policy is None


def test_a_task_may_start_for_as_long_as_it_likes_and_must_end_in_bounds() -> None:
    metadata = TaskMetadata()
    assert metadata.start_timeout == math.inf
    for timeout in (metadata.stop_timeout, metadata.drain_timeout, metadata.shutdown_timeout):
        assert 0 < timeout < math.inf


def test_a_policy_restarts_after_failures_with_growing_delays_and_a_limit() -> None:
    assert RestartPolicy().model_dump() == {
        "mode": "on_failure",
        "max_restarts": 5,
        "within": 60.0,
        "initial_delay": 1.0,
        "max_delay": 60.0,
        "multiplier": 2.0,
        "jitter": 1.0,
    }


def test_a_handler_that_asks_for_a_restart_gets_the_default_policy() -> None:
    assert TaskMetadata(on_error="restart").policy == RestartPolicy()
    always = RestartPolicy(mode="always")
    assert TaskMetadata(on_error="restart", restart=always).policy == always


@pytest.mark.parametrize(
    ("attempt", "random", "delay"),
    [
        (1, 0.0, 1.0),
        (2, 0.0, 2.0),
        (3, 0.0, 4.0),
        (4, 0.0, 5.0),
        (10_000, 0.0, 5.0),
        (3, 0.75, 1.0),
    ],
)
def test_delays_grow_up_to_a_cap_and_jitter_takes_off_a_random_share(
    attempt: int, random: float, delay: float
) -> None:
    assert Backoff(max_delay=5.0).delay(attempt, random) == delay


def test_without_jitter_delays_are_not_random() -> None:
    assert Backoff(jitter=0).delay(1, 0.9) == 1.0


# -- frozen ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "field"),
    [
        (ChannelConfig(), "capacity"),
        (TaskMetadata(), "name"),
        (RestartPolicy(), "mode"),
    ],
)
def test_a_setting_cannot_be_assigned_later(model: BaseModel, field: str) -> None:
    with pytest.raises(ValidationError) as raised:
        setattr(model, field, getattr(model, field))
    assert fields_at_fault(raised) == {field}


def test_a_snapshot_cannot_be_changed(snapshot: TaskSnapshot) -> None:
    field = "state"
    with pytest.raises(ValidationError) as raised:
        setattr(snapshot, field, TaskState.RUNNING)
    assert fields_at_fault(raised) == {field}


def test_equal_settings_are_equal_and_hash_alike() -> None:
    assert ChannelConfig(capacity=4) == ChannelConfig(capacity=4)
    assert hash(ChannelConfig(capacity=4)) == hash(ChannelConfig(capacity=4))


# -- JSON ------------------------------------------------------------------------------------


def test_a_snapshot_survives_json(snapshot: TaskSnapshot) -> None:
    assert snapshot.metadata.start_timeout == 2.5
    assert TaskSnapshot.model_validate_json(snapshot.model_dump_json()) == snapshot


def test_a_task_id_survives_json_as_a_task_id(snapshot: TaskSnapshot) -> None:
    again = TaskSnapshot.model_validate_json(snapshot.model_dump_json())
    assert type(again.task_id) is TaskId
    assert again.task_id == snapshot.task_id


def test_the_metadata_of_every_task_survives_json() -> None:
    metadata = TaskMetadata()  # no start_timeout: infinity
    assert TaskMetadata.model_validate_json(metadata.model_dump_json()) == metadata


def test_a_channel_config_survives_json() -> None:
    config = ChannelConfig(capacity=4, overflow="block", replay=2)
    assert ChannelConfig.model_validate_json(config.model_dump_json()) == config


def test_a_snapshot_has_a_json_schema() -> None:
    schema = TaskSnapshot.model_json_schema()
    assert schema["properties"]["task_id"]["type"] == "string"


# -- TaskId, TaskState -----------------------------------------------------------------------


def test_a_task_id_prints_as_itself_and_says_what_it_is_in_a_repr() -> None:
    task_id = TaskId("clock#1")
    assert f"{task_id}" == str(task_id) == "clock#1"
    assert "TaskId" in repr(task_id)
    assert "clock#1" in repr(task_id)


@pytest.mark.parametrize("state", TaskState)
def test_a_state_is_the_lower_case_word_of_its_name(state: TaskState) -> None:
    assert isinstance(state, str)
    assert str(state) == f"{state}" == state == state.name.lower()


def test_a_state_is_found_by_its_word() -> None:
    assert TaskState("running") is TaskState.RUNNING


def test_a_state_is_a_word_in_json() -> None:
    assert json.dumps({"state": TaskState.FAILED}) == '{"state": "failed"}'
