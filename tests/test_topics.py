"""`Topic`: a key that knows what its channel carries."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Hashable
from dataclasses import FrozenInstanceError
from enum import Enum
from typing import cast

import pytest
from pydantic import ValidationError

from orchestrio import Topic


class Order:
    pass


class Channel(Enum):
    ORDERS = "orders"


def test_a_topic_knows_its_key_and_its_payload() -> None:
    topic = Topic("orders", Order)
    assert topic.key == "orders"
    assert topic.payload is Order


def test_a_topic_without_payload_carries_str() -> None:
    assert Topic("log").payload is str
    assert Topic("log") == Topic("log", str)


def test_a_topic_does_not_validate_unless_asked() -> None:
    assert Topic("orders", Order).validate is False
    assert Topic("orders", Order, validate=True).validate is True


@pytest.mark.parametrize("key", ["orders", ("shop", 7), Channel.ORDERS, 7, frozenset({1})])
def test_a_key_is_any_hashable(key: str | tuple[str, int] | Channel | int) -> None:
    assert Topic(key, Order) == Topic(key, Order)


def test_an_unhashable_key_is_refused_when_the_topic_is_made() -> None:
    key: Hashable = cast("Hashable", ["orders"])
    with pytest.raises(ValidationError, match=r"Topic\(\)\nkey\n  an unhashable key"):
        Topic(key, Order)


@pytest.mark.parametrize("field", ["key", "payload", "validate"])
def test_a_topic_is_frozen(field: str) -> None:
    topic = Topic("orders", Order)
    with pytest.raises(FrozenInstanceError):
        setattr(topic, field, None)
    with pytest.raises(FrozenInstanceError):
        delattr(topic, field)


def test_topics_with_the_same_key_and_payload_are_the_same_event() -> None:
    assert Topic("orders", Order) == Topic("orders", Order)
    assert hash(Topic("orders", Order)) == hash(Topic("orders", Order))


def test_topics_with_other_keys_are_other_events() -> None:
    assert Topic("orders", Order) != Topic("refunds", Order)


def test_topics_with_other_payloads_are_other_events() -> None:
    other: object = Topic("orders", int)
    assert Topic("orders", Order) != other


def test_validation_is_no_part_of_the_identity() -> None:
    plain, checked = Topic("orders", Order), Topic("orders", Order, validate=True)
    assert plain == checked
    assert hash(plain) == hash(checked)


def test_a_topic_is_not_its_plain_key() -> None:
    key: object = "log"
    topic: object = Topic("log")
    assert topic != key
    assert key != topic


def test_a_topic_is_found_in_a_dict_by_an_equal_topic() -> None:
    prices = {Topic("orders", Order): 1, Topic("orders", int): 2}
    assert prices[Topic("orders", Order, validate=True)] == 1


def test_a_topic_and_its_plain_key_live_side_by_side_in_a_dict() -> None:
    channels: dict[object, str] = {"log": "plain", Topic("log"): "topic"}
    assert channels["log"] == "plain"
    assert channels[Topic("log")] == "topic"


def test_a_topic_is_generic_at_run_time() -> None:
    topic = Topic[int]("count", int)
    assert topic == Topic("count", int)
    assert isinstance(topic, Topic)


def test_a_topic_reads_as_its_key_and_payload() -> None:
    assert str(Topic("orders", Order)) == "orders (Order)"


def test_the_repr_of_a_topic_says_how_it_was_made() -> None:
    text = repr(Topic("orders", Order, validate=True))
    assert text.startswith("Topic(")
    for part in ("'orders'", "Order", "validate=True"):
        assert part in text
    assert "hash" not in text


@pytest.mark.parametrize(
    "again",
    [copy.copy, copy.deepcopy, lambda topic: pickle.loads(pickle.dumps(topic))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_a_copied_topic_is_the_same_event(again: Callable[[Topic[int]], Topic[int]]) -> None:
    topic = Topic("count", int, validate=True)
    copied = again(topic)
    assert copied == topic
    assert copied in {topic}
    assert copied.validate is True


def test_a_topic_from_another_process_is_the_same_event() -> None:
    lookup = (
        "import pickle, sys; from orchestrio import Topic;"
        " topic = pickle.load(sys.stdin.buffer);"
        " assert topic == Topic('count', int), 'not equal';"
        " assert topic in {Topic('count', int)}, 'equal, but not found in a set'"
    )
    other = subprocess.run(
        [sys.executable, "-c", lookup],
        input=pickle.dumps(Topic("count", int)),
        env={**os.environ, "PYTHONHASHSEED": "4242"},
        capture_output=True,
        check=False,
    )
    assert other.returncode == 0, other.stderr.decode()
