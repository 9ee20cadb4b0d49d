"""Which task logs: the filter, the formatter, what structlog needs, and the page about them."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import anyio
import pytest
from anyio import get_current_task, to_thread
from rich.console import Console

from orchestrio import RestartPolicy, Scheduler, Topic, current_task_context
from orchestrio.logs import JsonFormatter, LiveHandler, TaskFilter, task_fields
from orchestrio.testing import virtual_time

NUMBERS = Topic("numbers", int)
PAGE = Path(__file__).parent.parent / "docs" / "logging.md"


class Text(io.StringIO):
    """What was logged."""

    @property
    def lines(self) -> list[str]:
        return self.getvalue().splitlines()


@pytest.fixture
def shop() -> Iterator[logging.Logger]:
    logger = logging.getLogger("shop")
    yield logger
    logger.handlers.clear()
    logger.filters.clear()


def log_to(logger: logging.Logger, formatter: logging.Formatter, *filters: logging.Filter) -> Text:
    text = Text()
    handler = logging.StreamHandler(text)
    handler.setFormatter(formatter)
    for one in filters:
        handler.addFilter(one)
    logger.addHandler(handler)
    return text


PLAIN = "%(task_name)s of %(task_group)s, run %(task_run)s: %(message)s"


async def test_the_filter_says_which_task_logs(shop: logging.Logger) -> None:
    text = log_to(shop, logging.Formatter(PLAIN), TaskFilter())
    scheduler = Scheduler()
    scheduler.add_channel(NUMBERS)
    group = scheduler.group("outer").group("inner")

    @scheduler.on(NUMBERS, name="reader", concurrency=2)
    async def read(number: int) -> None:
        await to_thread.run_sync(shop.warning, "in a thread of its own")

    @group.background(restart=RestartPolicy(initial_delay=0))
    async def writer() -> None:
        if current_task_context().run == 1:
            raise ConnectionError
        async with anyio.create_task_group() as children:
            children.start_soon(scheduler.publish, NUMBERS, 1)
        shop.warning("written")

    shop.warning("before")
    await scheduler.run()
    assert sorted(text.lines) == [
        "- of -, run -: before",
        "reader of -, run 1: in a thread of its own",
        "writer of outer/inner, run 2: written",
    ]


async def test_the_filter_leaves_the_records_of_the_library_as_they_are() -> None:
    logger = logging.getLogger("orchestrio")
    text = log_to(logger, logging.Formatter(PLAIN), TaskFilter())
    try:
        scheduler = Scheduler()

        @scheduler.background(restart=RestartPolicy(mode="never"))
        async def failing() -> None:
            raise ConnectionError("lost")

        await scheduler.run()
    finally:
        logger.handlers.clear()
    assert text.lines[0].startswith("failing of -, run 1: task 'failing' stopped")


async def test_a_line_of_json_has_the_task_the_extra_and_the_traceback(
    shop: logging.Logger,
) -> None:
    text = log_to(shop, JsonFormatter())
    scheduler = Scheduler()

    @scheduler.background()
    async def clerk() -> None:
        try:
            raise ConnectionError("lost")
        except ConnectionError:
            shop.exception("no %s", "luck", extra={"sku": 7, "parts": {"a": float("nan")}})

    await scheduler.run()
    line = json.loads(text.getvalue())
    assert line["exception"].endswith("ConnectionError: lost")
    assert datetime.fromisoformat(line["time"]).utcoffset() is not None
    del line["exception"], line["time"]
    assert line == {
        "level": "ERROR",
        "logger": "shop",
        "message": "no luck",
        "task_id": scheduler.status()[0].task_id,
        "task_name": "clerk",
        "task_group": None,
        "task_run": 1,
        "sku": 7,
        "parts": "{'a': nan}",
    }


class Unspeakable:
    def __repr__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (float("inf"), "inf"),
        (1.5, 1.5),
        (True, True),
        ((1, {2: "two"}), [1, {"2": "two"}]),
        (ConnectionError("lost"), "ConnectionError('lost')"),
        (Unspeakable(), "<Unspeakable, whose __repr__ raised ValueError>"),
    ],
)
def test_what_is_no_json_is_said_in_words(value: object, said: object) -> None:
    record = logging.makeLogRecord({"msg": "x", "value": value})
    assert json.loads(JsonFormatter().format(record))["value"] == said


def test_a_traceback_that_was_formatted_before_and_a_stack_are_written() -> None:
    """As a queue handler leaves them."""
    record = logging.makeLogRecord({"msg": "x", "exc_text": "Traceback", "stack_info": "Stack"})
    line = json.loads(JsonFormatter().format(record))
    assert (line["exception"], line["stack"]) == ("Traceback", "Stack")


def test_what_is_given_as_extra_does_not_hide_what_a_record_says() -> None:
    record = logging.makeLogRecord({"msg": "x", "level": "mine", "time": 0, "logger": None})
    line = json.loads(JsonFormatter().format(record))
    assert line["level"] == record.levelname
    assert isinstance(line["time"], str)


def test_nothing_is_running_outside_of_tasks() -> None:
    assert task_fields() == {}


# -- on a terminal ---------------------------------------------------------------------------


@pytest.mark.parametrize("is_terminal", [True, False])
def test_what_is_waited_for_takes_one_line_on_a_terminal(is_terminal: bool) -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=is_terminal, width=100)
    handler = LiveHandler(console)
    logger = logging.getLogger("orchestrio")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    scheduler = Scheduler()

    @scheduler.background(reports_ready=True)
    async def web() -> None:
        await anyio.sleep(5)
        current_task_context().ready()

    try:
        backend, options = virtual_time("asyncio")
        anyio.run(scheduler.run, backend=backend, backend_options=options)
    finally:
        logger.setLevel(logging.NOTSET)
        logger.removeHandler(handler)
        handler.close()
    printed = re.sub(r"\x1b\[[0-9;?]*\w", "", text.getvalue())  # without colours
    assert "still waiting for web to say that it is ready: 4 s" in printed
    assert "started 1 task, ready in 5 s" in printed
    lines = [line for line in printed.splitlines() if "INFO" in line and "still" in line]
    assert len(lines) == (0 if is_terminal else 2)


def test_a_line_that_is_up_to_date_is_taken_away_at_the_end() -> None:
    text = io.StringIO()
    handler = LiveHandler(Console(file=text, force_terminal=True, width=100))
    handler.handle(logging.makeLogRecord({"msg": "waiting for [db]", "waits": 1}))
    handler.close()
    assert "waiting for [db]" in text.getvalue()
    assert text.getvalue().endswith("\x1b[?25h\r\x1b[1A\x1b[2K"), "and the cursor is back"


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    with pytest.raises(ImportError, match=r"pip install 'orchestrio\[rich\]'"):
        LiveHandler()


class BrokenTerminal(io.StringIO):
    """A terminal that is gone."""

    def write(self, text: str, /) -> int:
        raise OSError("gone")


def test_what_goes_wrong_on_a_terminal_is_told_as_for_any_handler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[logging.LogRecord] = []
    handler = LiveHandler(Console(file=BrokenTerminal(), force_terminal=True))
    monkeypatch.setattr(handler, "handleError", told.append)
    handler.handle(logging.makeLogRecord({"msg": "open"}))
    handler.handle(logging.makeLogRecord({"msg": "still waiting", "waits": 1}))
    assert [record.msg for record in told] == ["still waiting"]


def test_text_that_is_no_unicode_is_escaped() -> None:
    record = logging.makeLogRecord({"msg": "no such file: '\udce9.txt'"})
    line = JsonFormatter().format(record)
    assert "\\udce9" in line
    line.encode()


def test_a_filter_and_the_formatter_together_do_not_mix_types() -> None:
    record = logging.makeLogRecord({"msg": "open"})
    TaskFilter().filter(record)
    assert "task_run" not in json.loads(JsonFormatter().format(record))


# -- debuggers -------------------------------------------------------------------------------


async def test_a_debugger_sees_the_name_of_the_task() -> None:
    names: list[str | None] = []
    scheduler = Scheduler()
    scheduler.add_channel(NUMBERS)

    @scheduler.on(NUMBERS, name="pool", concurrency=2)
    async def pool(number: int) -> None:
        names.append(get_current_task().name)
        await anyio.sleep(0.01)

    @scheduler.every(0.01, name="tick")
    async def tick() -> None:
        names.append(get_current_task().name)
        for number in range(2):
            await scheduler.publish(NUMBERS, number)
        await scheduler.shutdown()

    await scheduler.run()
    assert sorted(map(str, names)) == ["pool, worker 1", "pool, worker 2", "tick"]
