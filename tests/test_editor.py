"""What an editor shows and offers, asked of pyright's language server."""

from __future__ import annotations

import typing
from collections.abc import Iterator

import pytest
from language_server import Editor

from orchestrio import BackgroundOptions, ChannelConfig, OnError, Overflow, TaskOptions
from orchestrio.redis import BridgeOptions

BEGIN = """\
from dataclasses import dataclass

from orchestrio import ChannelConfig, Scheduler, Topic, create_broadcast_stream
from orchestrio.redis import RedisBridge

@dataclass
class Order:
    number: int

ORDERS = Topic("orders", Order)
scheduler = Scheduler()
PERIOD = 0.5
"""
OPTIONS = [f"{name}=" for name in typing.get_type_hints(TaskOptions)]
OF_BACKGROUND_TASKS = [f"{name}=" for name in typing.get_type_hints(BackgroundOptions)]


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Editor]:
    with Editor(tmp_path_factory.mktemp("editor")) as editor:
        yield editor


# -- hovering --------------------------------------------------------------------------------


def test_a_topic_shows_its_payload(editor: Editor) -> None:
    assert "Topic[Order]" in editor.hover(BEGIN + "print(ORD|ERS)")


def test_what_is_received_shows_its_type(editor: Editor) -> None:
    source = "async def main() -> None:\n    async for ord|er in scheduler.subscribe(ORDERS): ...\n"
    assert "order: Order" in editor.hover(BEGIN + source)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("Sched|uler()", "Owns tasks and an event bus"),
        ("scheduler.subs|cribe(ORDERS)", "Return a new receiver of the event"),
        ("ChannelConfig().over|flow", "What happens to one item more"),
        ("Topic('log').pay|load", "Type of each message"),
        ("RedisBridge('redis://', topics=[ORDERS], namespace='shop', lea|se=5)", "in seconds"),
    ],
)
def test_a_name_shows_its_docstring(editor: Editor, source: str, words: str) -> None:
    assert words in editor.hover(BEGIN + source)


# -- completion ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        "scheduler.background(|)",
        "scheduler.on(ORDERS, |)",
        "scheduler.every(PERIOD, |)",
        "scheduler.cron('* * * * *', |)",
        "scheduler.group('inner').background(|)",
    ],
)
def test_every_option_of_a_task_is_offered(editor: Editor, call: str) -> None:
    offered = editor.complete(BEGIN + call)
    there_are = OF_BACKGROUND_TASKS if "background" in call else OPTIONS
    assert [option for option in OPTIONS if (option in offered) != (option in there_are)] == []


def test_every_option_of_a_bridge_is_offered(editor: Editor) -> None:
    offered = editor.complete(BEGIN + 'RedisBridge("redis://localhost", |)')
    names = ["topics", "namespace", *typing.get_type_hints(BridgeOptions)]
    assert [name for name in names if f"{name}=" not in offered] == []


def test_every_setting_of_a_channel_is_offered(editor: Editor) -> None:
    offered = editor.complete(BEGIN + "ChannelConfig(|)")
    assert {f"{name}=" for name in ChannelConfig.model_fields} <= set(offered)


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ('ChannelConfig(overflow="|")', typing.get_args(Overflow)),
        ('create_broadcast_stream[int](overflow="|")', typing.get_args(Overflow)),
        ('scheduler.on(ORDERS, on_error="|")', typing.get_args(OnError)),
        ('RedisBridge("redis://localhost", mode="|")', ("broadcast", "compete")),
    ],
)
def test_the_names_that_an_option_knows_are_offered(
    editor: Editor, source: str, names: tuple[str, ...]
) -> None:
    offered = {label.strip("\"'") for label in editor.complete(BEGIN + source)}
    assert set(names) <= offered
