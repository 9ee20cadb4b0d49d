"""The rights that the documentation gives a bridge suffice, and are not more than it needs."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager

import pytest
from anyio import fail_after, sleep_forever
from documented import PAGES
from processes import Inbox, process
from redis_server import RedisError, RedisServer
from support import IN_TIME, until

from orchestrio import Scheduler, Topic
from orchestrio.redis import RedisBridge, TopicAdmin, _leases
from orchestrio.redis._scripts import admin, groups, topics

ORDERS = Topic("orders", int)
STREAM = "{shop:orders}"
(PAGE,) = (page for page in PAGES if page.match("how-to/redis.md"))

#: The users that the page has a line for, with their rights.
LINES = dict(
    re.findall(r"^ACL SETUSER (\S+) on >secret (.+)$", PAGE.read_text("utf-8"), re.MULTILINE)
)
BROADCAST, COMPETE, ADMIN = "shop-broadcast", "shop-compete", "shop-admin"

#: What is asked outside of scripts.
ASKED = {
    BROADCAST: {"ping", "eval", "evalsha", "xread"},
    COMPETE: {"ping", "eval", "evalsha", "xreadgroup"},
    ADMIN: {"eval", "evalsha"},
}


def rights(user: str) -> set[str]:
    """The commands that a user may give."""
    return set(re.findall(r"\+(\S+)", LINES[user]))


def called(*modules: object) -> set[str]:
    """The commands in the scripts of modules, with the second word where that is part of it."""
    found: set[str] = set()
    for script in (value for module in modules for value in vars(module).values()):
        for first, second in re.findall(
            r"redis\.p?call\(\s*'(\w+)'(?:,\s*'(\w+)')?", getattr(script, "source", "")
        ):
            parts = [first, second] if first in {"XINFO", "XGROUP"} else [first]
            found.add("|".join(parts).lower())
    return found


def test_the_page_gives_what_scripts_call_and_nothing_else() -> None:
    asked = ASKED[BROADCAST] | ASKED[COMPETE]
    assert rights(BROADCAST) | rights(COMPETE) == called(topics, groups, _leases) | asked
    assert rights(ADMIN) == called(admin) | ASKED[ADMIN]


def test_each_user_may_use_the_keys_of_its_namespace_alone() -> None:
    assert set(LINES) == {BROADCAST, COMPETE, ADMIN}
    for line in LINES.values():
        assert line.startswith("~{shop:*}* -@all +")


# -- for real --------------------------------------------------------------------------------


@pytest.fixture(params=[BROADCAST, COMPETE, ADMIN])
def user(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def guarded(server: RedisServer) -> Iterator[RedisServer]:
    """A server that knows the users of the page, and has denied them nothing in the end."""
    for name, line in LINES.items():
        server.ask("ACL", "SETUSER", name, "on", ">secret", *line.split())
    yield server
    assert denied(server) == []


def denied(server: RedisServer) -> list[str]:
    """What somebody was not allowed to do, as the server has written it down."""
    found = server.ask("ACL", "LOG")
    assert isinstance(found, list)
    denied: list[str] = []
    for entry in found:
        assert isinstance(entry, list)
        facts = dict(zip(entry[::2], entry[1::2], strict=True))
        denied.append(f"{facts[b'username']!r}: {facts[b'reason']!r} {facts[b'object']!r}")
    return denied


def url(server: RedisServer, user: str) -> str:
    return f"redis://{user}:secret@127.0.0.1:{server.port}/0"


@asynccontextmanager
async def told(server: RedisServer) -> AsyncGenerator[None]:
    """Name the right that is missing rather than what came of it."""
    try:
        yield
    except (Exception, BaseExceptionGroup) as error:
        if missing := denied(server):
            server.ask("ACL", "LOG", "RESET")
            raise AssertionError(f"denied: {missing}") from error
        raise


async def test_a_bridge_in_broadcast_needs_no_more(guarded: RedisServer) -> None:
    def bridge() -> RedisBridge:
        where = url(guarded, BROADCAST)
        return RedisBridge(where, topics=[ORDERS], namespace="shop", lease=0.5)

    inbox, late = Inbox[int](), Inbox[int]()
    async with (
        told(guarded),
        process(bridge(), ORDERS) as publisher,
        process(bridge(), ORDERS, inbox.put),
    ):
        for number in range(100):
            await publisher.publish(ORDERS, number)
        assert len(await inbox.wait_for(100)) == 100
        guarded.ask("XADD", STREAM, "*", "no", "message")
        await until(lambda: guarded.ask("XLEN", f"{STREAM}:dead") == 1)
        guarded.ask("XTRIM", STREAM, "MAXLEN", 0)
        async with process(bridge(), ORDERS, late.put):  # begins in a stream that is empty
            await publisher.publish(ORDERS, 100)
            assert await late.wait_for(1) == [100]
        await hold_a_lease(bridge())


async def test_a_bridge_that_competes_needs_no_more(guarded: RedisServer) -> None:
    def bridge() -> RedisBridge:
        return RedisBridge(
            url(guarded, COMPETE),
            topics=[ORDERS],
            namespace="shop",
            mode="compete",
            claim_after=0.2,
            max_deliveries=2,
            lease=0.5,
        )

    inbox = Inbox[int]()

    async def handle(number: int) -> None:
        await inbox.put(number)
        if number == 13:
            raise OSError("never")

    guarded.ask("XGROUP", "CREATE", STREAM, "workers", "0", "MKSTREAM")
    async with told(guarded), process(bridge(), ORDERS) as publisher:
        await publisher.publish(ORDERS, 1)
        await until(lambda: guarded.ask("XLEN", STREAM) == 1)
        # Somebody takes it, and dies.
        guarded.ask("XREADGROUP", "GROUP", "workers", "dead", "STREAMS", STREAM, ">")
        async with process(bridge(), ORDERS, handle):
            for number in range(12, 15):
                await publisher.publish(ORDERS, number)
            guarded.ask("XADD", STREAM, "*", "no", "message")
            await until(lambda: guarded.ask("XLEN", f"{STREAM}:dead") == 2)
            await until(lambda: {1, 12, 13, 14} <= set(inbox.items))
        await hold_a_lease(bridge())
        async with process(bridge(), ORDERS, inbox.put):
            await publisher.publish(ORDERS, 15)
            await until(lambda: 15 in inbox.items)


async def hold_a_lease(bridge: RedisBridge) -> None:
    """Have a singleton, and stop it in order."""
    inbox = Inbox[int]()
    async with Scheduler() as scheduler:
        scheduler.add_channel(ORDERS)
        scheduler.register_background_task(bridge)

        @scheduler.background(singleton=True)
        async def lead() -> None:
            await inbox.put(1)
            await sleep_forever()

        with fail_after(IN_TIME):
            await scheduler.start()
            await inbox.wait_for(1)
            await scheduler.shutdown()


async def test_those_who_run_it_need_no_more(guarded: RedisServer) -> None:
    orders = TopicAdmin(url(guarded, ADMIN), ORDERS, namespace="shop")
    message = (
        '{"specversion":"1.0","id":"AbCd_-127","source":"/shop/orders","type":"orders"'
        ',"time":"2026-11-26T12:18:30.123Z","datacontenttype":"application/json","data":7}'
    )
    guarded.ask("XGROUP", "CREATE", STREAM, "workers", "0", "MKSTREAM")
    async with told(guarded):
        for number in range(3):
            guarded.ask("XADD", f"{STREAM}:dead", f"{number}-1", "group", "workers", "m", message)
        (first, second, third) = (await orders.dead_letters()).letters
        assert await orders.dead_letter(first.id) is not None
        assert (await orders.requeue(first.id)).done
        assert (await orders.requeue_all(every_group=True)).done == [second.id, third.id]
        guarded.ask("XADD", f"{STREAM}:dead", "9-1", "m", message)
        assert (await orders.drop("9-1")).done
        assert len(await orders.groups()) == 1
        assert await orders.drop_group("workers")


async def test_the_keys_of_another_namespace_are_not_for_it(server: RedisServer, user: str) -> None:
    server.ask("ACL", "SETUSER", user, "on", ">secret", *LINES[user].split())
    with pytest.raises(RedisError, match="NOPERM"):
        server.ask("EVAL", "return 1", 1, "{others:orders}", before=("AUTH", user, "secret"))
    assert server.ask("EVAL", "return 1", 1, STREAM, before=("AUTH", user, "secret")) == 1
