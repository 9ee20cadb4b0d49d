"""Dead letters: what lies there, and putting it back or dropping it, by functions."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from anyio import create_task_group, move_on_after
from redis_server import RedisServer, free_port

from orchestrio import InvalidChannelError, Topic
from orchestrio.redis import DeadLetterOutcome, RedisSettings, TopicAdmin

STREAM = "{shop:orders}"
DEAD = f"{STREAM}:dead"
TIME = "2026-11-26T12:18:30.123Z"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def event(data: str, *, number: int = 7, more: str = "") -> str:
    """A message as a bridge buries it."""
    return (
        f'{{"specversion":"1.0","id":"AbCd_-12{number}","source":"/shop/orders","type":"orders"'
        f',"time":"{TIME}","datacontenttype":"application/json"{more},"data":{data}}}'
    )


def bury(
    server: RedisServer,
    message: str | bytes,
    *,
    error: str = "OSError: never\n  in line 2",
    group: str = "",
    keep: int = 1000,
) -> str:
    found = server.ask(
        *("XADD", DEAD, "MAXLEN", keep, "*", "error", error, "entry", "1-1", "deliveries", 5),
        *("group", group, "n", 3, "m", message),
    )
    assert isinstance(found, bytes)
    return found.decode()


def admin(server: RedisServer) -> TopicAdmin:
    return TopicAdmin(server.url, Topic("orders", int), namespace="shop")


def only(outcome: DeadLetterOutcome) -> str:
    """Why one was refused."""
    assert not outcome.done
    (why,) = outcome.refused.values()
    return why


# -- to look ---------------------------------------------------------------------------------


async def test_where_nothing_was_buried_there_is_nothing(server: RedisServer) -> None:
    report = await admin(server).dead_letters()
    assert (report.total, report.trimmed, report.by_error, report.letters) == (0, 0, {}, ())
    assert not report.topic_exists
    server.ask("XADD", STREAM, "*", "n", 1)
    assert (await admin(server).dead_letters()).topic_exists
    assert await admin(server).dead_letter("1-1") is None
    assert server.all_keys() == [STREAM]


async def test_a_report_has_the_last_and_counts_all(server: RedisServer) -> None:
    errors = ["OSError: never\nmore", "it was delivered 5 times. OSError: no disk"] * 40
    errors += ["it was delivered 1 time. OSError: no disk"]
    errors += ["1 validation error for Order\nnumber\n  Input should be", "ValueError"]
    ids = [bury(server, event(str(number)), error=error) for number, error in enumerate(errors)]
    report = await admin(server).dead_letters(limit=3)
    assert report.total == 83
    assert report.by_error == {"OSError": 81, "1 validation error for Order": 1, "ValueError": 1}
    assert next(iter(report.by_error)) == "OSError"
    assert [letter.id for letter in report.letters] == ids[-3:]
    letter = report.letters[1]
    assert letter.error == "1 validation error for Order"
    assert letter.message is None
    assert (letter.deliveries, letter.group, letter.entry, letter.ordinal) == (5, None, "1-1", 3)
    assert abs((letter.buried_at - datetime.now(UTC)).total_seconds()) < 60


async def test_one_is_shown_whole(server: RedisServer) -> None:
    id = bury(server, event("[1]"), group="workers")
    letter = await admin(server).dead_letter(id)
    assert letter is not None
    assert letter.message == event("[1]")
    assert letter.error == "OSError: never\n  in line 2"
    assert letter.group == "workers"


async def test_what_anybody_else_has_written_there_is_shown(server: RedisServer) -> None:
    server.ask("XADD", DEAD, "1-1", "deliveries", "x", b"\xff", b"\xff")
    server.ask("XADD", DEAD, "1-2", "m", b"\xff", "error", b"\xfe")
    report = await admin(server).dead_letters()
    assert [letter.deliveries for letter in report.letters] == [0, 0]
    assert report.by_error == {"no error is known": 1, "\\xfe": 1}
    letter = await admin(server).dead_letter("1-2")
    assert letter is not None
    assert letter.message == "\\xff"


async def test_how_many_were_trimmed_is_known_whatever_else_was_taken_out(
    server: RedisServer,
) -> None:
    orders = admin(server)
    ids = [bury(server, event(str(number)), keep=5) for number in range(12)]
    assert (await orders.dead_letters()).trimmed == 7
    await orders.drop(ids[-1], ids[-3])
    await orders.requeue(ids[-2])
    report = await orders.dead_letters()
    assert (report.total, report.trimmed) == (2, 7)
    for number in range(5):
        bury(server, event(str(number)), keep=5)
    report = await orders.dead_letters()
    assert (report.total, report.trimmed) == (5, 9)
    await orders.drop_all()
    assert (await orders.dead_letters()).trimmed == 9
    server.ask("DEL", DEAD)
    assert (await orders.dead_letters()).trimmed == 0


async def test_a_name_is_part_of_one_key_whatever_is_in_it(server: RedisServer) -> None:
    server.ask("XADD", "{a%7Db:c%3Ad}:dead", "*", "m", event("1"))
    assert (await TopicAdmin(server.url, "c:d", namespace="a}b").dead_letters()).total == 1


# -- to put back -----------------------------------------------------------------------------


async def test_a_message_is_put_back_as_it_was(server: RedisServer) -> None:
    """With the bytes of its payload: numbers that no program reads as they are stay so, too."""
    server.ask("SET", f"{STREAM}:count", 41)
    data = '{"a" : 1.10, "b": 1e400,"c":12345678901234567890, "d":"\\u00e9é", "e":[]}'
    id = bury(server, event(data, more=f',"traceparent":"{TRACE}"'))
    outcome = await admin(server).requeue(id)
    assert (outcome.done, outcome.refused) == ([id], {})
    (entry,) = server.entries(STREAM)
    assert list(entry.items()) == [
        ("v", b"2"),
        ("n", b"42"),
        ("id", b"AbCd_-127"),
        ("time", TIME.encode()),
        ("data", data.encode()),
        ("traceparent", TRACE.encode()),
    ]
    assert server.entries(DEAD) == []
    assert only(await admin(server).requeue(id)) == "there is no such dead letter"
    assert len(server.entries(STREAM)) == 1


async def test_a_message_goes_to_the_group_in_which_it_failed(server: RedisServer) -> None:
    server.ask("XGROUP", "CREATE", STREAM, "workers", "0", "MKSTREAM")
    id = bury(server, event("1"), group="workers")
    assert (await admin(server).requeue(id)).done == [id]
    (entry,) = server.entries(STREAM)
    assert list(entry)[-1] == "group"
    assert entry["group"] == b"workers"


@pytest.mark.parametrize("others", [True, False])
async def test_a_message_of_a_group_that_is_gone_stays_unless_it_is_for_all(
    server: RedisServer, *, others: bool
) -> None:
    """Others would pass over it, and nobody would ever handle it."""
    if others:
        server.ask("XGROUP", "CREATE", STREAM, "others", "0", "MKSTREAM")
    id = bury(server, event("1"), group="workers")
    why = only(await admin(server).requeue(id))
    assert "its group 'workers' is not there any more" in why
    assert server.entries(STREAM) == []
    outcome = await admin(server).requeue(id, every_group=True)
    assert outcome.done == [id]
    (entry,) = server.entries(STREAM)
    assert "group" not in entry


async def test_all_are_put_back_in_their_order(server: RedisServer) -> None:
    ids = [bury(server, event(str(number), number=number)) for number in range(150)]
    outcome = await admin(server).requeue_all()
    assert outcome.done == ids
    entries = server.entries(STREAM)
    assert [int(entry["n"]) for entry in entries] == list(range(1, 151))
    assert [int(entry["data"]) for entry in entries] == list(range(150))


async def test_an_envelope_of_the_version_before_is_put_back_as_one(server: RedisServer) -> None:
    old = (
        '{"v":1,"id":"x-1","topic":"orders","time":1.5,"origin":"x","type":"application/json"'
        ',"data":7}'
    )
    id = bury(server, old)
    assert (await admin(server).requeue(id)).done == [id]
    assert server.entries(STREAM) == [{"n": b"1", "m": old.encode()}]


@pytest.mark.parametrize(
    "message",
    [
        "",
        "{",
        "[]",
        "{}",
        "7",
        '{"data_base64":"AAEC"}',
        event("1") + "x",
        event("NaN"),
        event("1,"),
        event("1").replace('"id"', '"di"'),
        event("1").replace(f'"{TIME}"', "7"),
        event("1").replace("AbCd", "\\ud800"),
        event("[" * 100_000 + "]" * 100_000),
        event('"\udcff"').encode("utf-8", "surrogateescape"),
    ],
    ids=range(14),
)
async def test_what_is_no_message_stays_and_says_why(
    server: RedisServer, message: str | bytes
) -> None:
    bad, good = bury(server, message), bury(server, event("1"))
    outcome = await admin(server).requeue_all()
    assert outcome.done == [good]
    assert outcome.refused[bad].startswith("it cannot be put back, only shown and dropped: ")
    assert len(server.entries(DEAD)) == 1


async def test_what_is_interrupted_or_done_by_two_neither_loses_nor_doubles(
    server: RedisServer,
) -> None:
    count = 300
    for number in range(count):
        bury(server, event(str(number)))
    async with create_task_group() as group:
        for _ in range(2):
            group.start_soon(admin(server).requeue_all)
        with move_on_after(0.1):
            await admin(server).requeue_all()
        group.cancel_scope.cancel()
    left = await admin(server).requeue_all()
    assert left.refused == {}
    assert sorted(int(entry["data"]) for entry in server.entries(STREAM)) == list(range(count))


async def test_a_server_whose_memory_is_full_keeps_them_and_lets_them_be_dropped(
    server: RedisServer,
) -> None:
    first, second = bury(server, event("1")), bury(server, event("2"))
    server.ask("CONFIG", "SET", "maxmemory", 1)
    with pytest.raises(ConnectionError, match=r"does not answer as it should.*OOM.*memory"):
        await admin(server).requeue(first)
    assert server.entries(STREAM) == []
    assert (await admin(server).drop(first)).done == [first]
    report = await admin(server).dead_letters()
    assert [letter.id for letter in report.letters] == [second]
    assert report.trimmed == 0


# -- to drop ---------------------------------------------------------------------------------


async def test_what_is_dropped_is_gone(server: RedisServer) -> None:
    first, second, third = (bury(server, event(str(number))) for number in range(3))
    outcome = await admin(server).drop(first, "1-1", third)
    assert outcome.done == [first, third]
    assert outcome.refused == {"1-1": "there is no such dead letter"}
    assert [letter.id for letter in (await admin(server).dead_letters()).letters] == [second]
    assert (await admin(server).drop_all()).done == [second]
    assert server.entries(STREAM) == []


# -- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize("id", ["", "7", "-", "+", "1-1-1", "(1-1", "x"])
async def test_what_is_no_identifier_is_refused(server: RedisServer, id: str) -> None:
    for call in (admin(server).requeue, admin(server).drop, admin(server).dead_letter):
        with pytest.raises(ValueError, match="is no identifier of a dead letter"):
            await call(id)


@pytest.mark.parametrize(
    ("topic", "namespace"), [("", "shop"), ("orders", ""), (Topic(("orders", 1), int), "shop")]
)
def test_a_topic_without_a_name_is_refused(topic: str, namespace: str) -> None:
    with pytest.raises((ValueError, InvalidChannelError), match="its key is|at least 1 character"):
        TopicAdmin("redis://localhost", topic, namespace=namespace)


async def test_a_server_that_is_away_is_a_connection_error_that_shows_no_secret() -> None:
    orders = TopicAdmin(f"redis://me:SECRET@127.0.0.1:{free_port()}", "orders", namespace="shop")
    with pytest.raises(ConnectionError, match="does not answer as it should") as raised:
        await orders.dead_letters()
    assert "SECRET" not in f"{raised.value!r}{raised.value.__cause__!r}{orders!r}"


async def test_settings_will_do_for_a_url(server: RedisServer) -> None:
    settings = RedisSettings(host="127.0.0.1", port=server.port)
    assert (await TopicAdmin(settings, "orders", namespace="shop").dead_letters()).total == 0
