"""What a bridge does with payloads: each arrives as it was sent, or is refused where it is sent."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel, RootModel, field_serializer
from support.payloads import ARRIVES, REFUSED, Bare, Fraction

from orchestrio import EventSendError, Scheduler, Topic
from orchestrio.testing import MemoryBridge, MemoryServer, harness, virtual_time


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    return virtual_time(request.param)


def is_same(sent: Any, got: Any) -> bool:
    """Whether two values are the same, where ``==`` says so, and where it cannot know."""
    if isinstance(sent, float) and math.isnan(sent):
        return isinstance(got, float) and math.isnan(got)
    if isinstance(sent, datetime) and sent.tzinfo is not None:
        return bool(sent.astimezone(UTC) == got)
    if isinstance(sent, list):
        return len(sent) == len(got) and all(map(is_same, sent, got))
    if isinstance(sent, (BaseModel, Bare, Fraction)) and sent != got:
        return type(sent) is type(got) and all(
            is_same(value, vars(got)[name]) for name, value in vars(sent).items()
        )
    return bool(sent == got)


async def carry(payload: Any, message: object) -> list[Any]:
    topic = Topic[Any]("things", payload)
    server = MemoryServer()
    scheduler = Scheduler()
    scheduler.add_channel(topic)
    scheduler.register_background_task(MemoryBridge(server, topics=[topic]))
    async with harness(scheduler) as h:
        received = h.record(topic)
        await h.publish(topic, message)
        return await received.wait_for(1)


@pytest.mark.parametrize(
    ("payload", "message"),
    [pytest.param(payload, message, id=name) for name, payload, message in ARRIVES],
)
async def test_what_is_published_arrives_as_it_is(payload: Any, message: object) -> None:
    [got] = await carry(payload, message)
    assert is_same(message, got)


@pytest.mark.parametrize(
    ("payload", "message"),
    [pytest.param(payload, message, id=name) for name, payload, message in REFUSED],
)
async def test_what_would_arrive_as_something_else_is_refused(
    payload: Any, message: object
) -> None:
    with pytest.raises(EventSendError, match="does not go through JSON"):
        await carry(payload, message)


async def test_what_arrives_as_it_is_is_written_once() -> None:
    written: list[int] = []

    class Numbers(RootModel[list[int]]):
        @field_serializer("root")
        def note(self, root: list[int]) -> list[int]:
            written.extend(root)
            return root

    assert await carry(Numbers, Numbers([7])) == [Numbers([7])]
    assert written == [7]
