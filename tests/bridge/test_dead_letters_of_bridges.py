"""Dead letters and groups as bridges leave them, put back for bridges to handle."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest
from processes import Inbox, process
from redis_server import RedisServer
from support import until

from orchestrio import Topic
from orchestrio.redis import BuriedMessage, RedisBridge, TopicAdmin

ORDERS = Topic("orders", int)
STREAM = "{shop:orders}"


def admin(server: RedisServer) -> TopicAdmin:
    return TopicAdmin(server.url, ORDERS, namespace="shop")


def compete(server: RedisServer, group: str = "workers") -> RedisBridge:
    return RedisBridge(
        server.url,
        topics=[ORDERS],
        namespace="shop",
        mode="compete",
        group=group,
        claim_after=0.2,
        max_deliveries=2,
    )


@dataclass
class Patient:
    """Handles what it gets, but for some of it, until it is mended."""

    inbox: Inbox[int] = field(default_factory=Inbox[int])
    mended: bool = False

    async def handle(self, number: int) -> None:
        if number == 13 and not self.mended:
            raise OSError("never")
        await self.inbox.put(number)


async def buried(server: RedisServer) -> BuriedMessage:
    await until(lambda: server.ask("XLEN", f"{STREAM}:dead") == 1)
    report = await admin(server).dead_letters()
    letter = await admin(server).dead_letter(report.letters[0].id)
    assert letter is not None
    return letter


async def test_a_message_is_buried_as_an_event_of_cloudevents(server: RedisServer) -> None:
    patient = Patient()
    async with process(compete(server), ORDERS, patient.handle) as publisher:
        await publisher.publish(ORDERS, 13)
        letter = await buried(server)
    assert (letter.deliveries, letter.group, letter.ordinal) == (2, "workers", 1)
    assert "OSError: never" in letter.error
    event = json.loads(letter.message or "")
    assert event["specversion"] == "1.0"
    assert (event["type"], event["source"], event["data"]) == ("orders", "/shop/orders", 13)


async def test_a_message_is_handled_once_it_can_be(server: RedisServer) -> None:
    patient = Patient()
    async with process(compete(server), ORDERS, patient.handle) as publisher:
        for number in (12, 13, 14):
            await publisher.publish(ORDERS, number)
        letter = await buried(server)
        assert await patient.inbox.wait_for(2) == [12, 14]
        patient.mended = True
        assert (await admin(server).requeue(letter.id)).done == [letter.id]
        assert await patient.inbox.wait_for(3) == [12, 14, 13]
        await until(lambda: pending(server, "workers") == 0)
    assert server.entries(f"{STREAM}:dead") == []


async def test_a_message_that_fails_again_has_all_its_deliveries_and_is_the_same_event(
    server: RedisServer,
) -> None:
    patient = Patient()
    async with process(compete(server), ORDERS, patient.handle) as publisher:
        await publisher.publish(ORDERS, 13)
        first = await buried(server)
        await admin(server).requeue(first.id)
        second = await buried(server)
    assert second.id != first.id
    assert second.deliveries == 2
    before, after = (json.loads(letter.message or "") for letter in (first, second))
    assert before == after


def pending(server: RedisServer, group: str) -> int:
    found = server.ask("XPENDING", STREAM, group)
    assert isinstance(found, list)
    assert isinstance(found[0], int)
    return found[0]


async def test_other_groups_pass_over_what_is_put_back_for_one(server: RedisServer) -> None:
    patient, mail = Patient(), Inbox[int]()
    async with (
        process(compete(server, "workers"), ORDERS, patient.handle) as publisher,
        process(compete(server, "mail"), ORDERS, mail.put),
    ):
        await publisher.publish(ORDERS, 13)
        letter = await buried(server)
        assert await mail.wait_for(1) == [13]
        patient.mended = True
        await admin(server).requeue(letter.id)
        await publisher.publish(ORDERS, 14)
        assert await patient.inbox.wait_for(2) == [13, 14]
        assert await mail.wait_for(2) == [13, 14]  # and not 13, 13
        await until(lambda: pending(server, "mail") + pending(server, "workers") == 0)
    groups = await admin(server).groups()
    assert [(group.name, group.lag) for group in groups] == [("mail", 0), ("workers", 0)]


async def test_every_group_gets_it_if_that_is_wanted(server: RedisServer) -> None:
    patient, mail = Patient(), Inbox[int]()
    async with (
        process(compete(server, "workers"), ORDERS, patient.handle) as publisher,
        process(compete(server, "mail"), ORDERS, mail.put),
    ):
        await publisher.publish(ORDERS, 13)
        letter = await buried(server)
        patient.mended = True
        await admin(server).requeue(letter.id, every_group=True)
        assert await patient.inbox.wait_for(1) == [13]
        assert await mail.wait_for(2) == [13, 13]


async def test_in_broadcast_every_process_gets_it(server: RedisServer) -> None:
    def bridge(topic: Topic[int] | Topic[str]) -> RedisBridge:
        return RedisBridge(server.url, topics=[topic], namespace="shop")

    inbox, words = Inbox[int](), Topic("orders", str)
    async with (
        process(bridge(words), words) as publisher,
        process(bridge(ORDERS), ORDERS, inbox.put),
    ):
        await publisher.publish(words, "no number")
        letter = await buried(server)
    assert letter.group is None
    heard = Inbox[str]()
    async with process(bridge(words), words, heard.put), process(bridge(words), words, heard.put):
        assert (await admin(server).requeue(letter.id)).done == [letter.id]
        assert await heard.wait_for(2) == ["no number"] * 2
    assert inbox.items == []


async def test_a_bridge_that_runs_is_known_to_be_alive(server: RedisServer) -> None:
    inbox = Inbox[int]()
    async with process(compete(server), ORDERS, inbox.put) as publisher:
        await publisher.publish(ORDERS, 1)
        await inbox.wait_for(1)
        (group,) = await admin(server).groups()
        assert group.alive == 1
        with pytest.raises(RuntimeError, match="1 of its consumers are alive"):
            await admin(server).drop_group("workers")
    assert [group.alive for group in await admin(server).groups()] == [0]
    assert await admin(server).drop_group("workers")
    assert not [key for key in server.all_keys() if ":workers:" in key]


async def test_a_bridge_whose_group_was_dropped_makes_it_anew(server: RedisServer) -> None:
    inbox = Inbox[int]()
    async with process(compete(server), ORDERS, inbox.put) as publisher:
        await publisher.publish(ORDERS, 1)
        await inbox.wait_for(1)
        assert await admin(server).drop_group("workers", force=True)
        await publisher.publish(ORDERS, 2)
        await until(lambda: 2 in inbox.items)
