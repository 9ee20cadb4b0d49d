"""A session with a server, as the parts of the bridge use it: what it takes, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from anyio import create_task_group, current_time, fail_after, move_on_after
from anyio.lowlevel import checkpoint
from redis_server import Cluster, RedisServer, slot_of
from support import until

from orchestrio.redis import RedisSettings
from orchestrio.redis._server.connection import Connection, Refused, Script, connected

COUNT = Script("return redis.call('INCR', KEYS[1])")
ADD = Script("return redis.call('XADD', KEYS[1], '*', 'n', ARGV[1])")


def settings_of(server: RedisServer) -> RedisSettings:
    return RedisSettings(host="127.0.0.1", port=server.port)


async def at_once(connection: Connection, times: int, key: str = "k") -> None:
    async def count() -> None:
        await connection.run(COUNT, [key], [])

    async with create_task_group() as group:
        for _ in range(times):
            group.start_soon(count)


async def test_a_session_has_one_connection_however_much_is_asked_at_once(
    server: RedisServer,
) -> None:
    async with connected(settings_of(server)) as connection:
        await at_once(connection, 100)
        assert len(server.clients()) == 1
        assert server.ask("GET", "k") == b"100"
    await until(lambda: server.clients() == [])


async def test_a_reader_and_a_writer_are_two(server: RedisServer) -> None:
    async with (
        connected(settings_of(server)) as reader,
        connected(settings_of(server)) as writer,
        create_task_group() as group,
    ):

        async def read() -> None:
            found = await reader.read({"a": b"0", "b": b"0"}, 10, 10)
            assert [(name, [e.fields for e in entries]) for name, entries in found] == [
                ("b", [{b"n": b"1"}])
            ]

        group.start_soon(read)
        await until(lambda: "xread" in [each["cmd"] for each in server.clients()])
        began = current_time()
        await at_once(writer, 50)
        assert current_time() - began < 8  # it does not wait for the reader
        assert len(server.clients()) == 2
        await writer.run(ADD, ["b"], [1])


@pytest.mark.parametrize(("block", "least"), [(0, 0.0), (0.0001, 0.0), (0.3, 0.29)])
async def test_a_read_waits_for_as_long_as_it_is_told(
    server: RedisServer, block: float, least: float
) -> None:
    server.ask("XGROUP", "CREATE", "s", "g", "0", "MKSTREAM")
    async with connected(settings_of(server)) as connection:
        await connection.ping([])
        began = current_time()
        with fail_after(5):
            assert await connection.read({"s": b"0"}, 10, block) == []
            assert await connection.read_group("g", "me", ["s"], 10, block) == []
        assert 2 * least <= current_time() - began < 2 * least + 1.9


async def test_what_a_read_that_was_cancelled_has_taken_is_not_lost(server: RedisServer) -> None:
    """The server must not hand entries to a reader that has gone: its connection is closed."""
    server.ask("XGROUP", "CREATE", "s", "g", "0", "MKSTREAM")
    async with connected(settings_of(server)) as connection:
        with move_on_after(0.1):
            await connection.read_group("g", "me", ["s"], 10, 10)
        await until(lambda: server.clients() == [])
        server.ask("XADD", "s", "*", "n", "1")
        ((_, (entry,)),) = await connection.read_group("g", "me", ["s"], 10, 10)
        assert entry.fields == {b"n": b"1"}


async def test_a_session_needs_few_rights(server: RedisServer) -> None:
    rights = ("resetkeys", "~k", "+hello", "+ping", "+eval", "+evalsha", "+incr")
    server.ask("ACL", "SETUSER", "me", "on", ">pw", "nocommands", *rights)
    settings = RedisSettings.from_url(f"redis://me:pw@127.0.0.1:{server.port}")
    async with connected(settings) as connection:
        await connection.ping([])
        assert await connection.run(COUNT, ["k"], []) == 1


# -- credentials that change -----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["function", "coroutine function"])
async def test_credentials_are_asked_for_each_connection(
    server: RedisServer, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    tokens: list[str] = []

    def token() -> tuple[str | None, str]:
        tokens.append(f"token-{len(tokens) + 1}")
        server.ask("ACL", "SETUSER", "me", "reset", "on", f">{tokens[-1]}", "~*", "&*", "+@all")
        return "me", tokens[-1]

    async def later() -> tuple[str | None, str]:
        await checkpoint()
        return token()

    settings = RedisSettings(
        host="127.0.0.1",
        port=server.port,
        credentials=token if kind == "function" else later,
    )
    for number in (1, 2):
        async with connected(settings) as connection:
            await connection.ping([])
            assert len(tokens) == number
            assert server.clients()[0]["user"] == "me"
    said = caplog.text + repr(settings) + str(settings) + settings.model_dump_json()
    assert "token" not in said
    assert "credentials" not in settings.model_dump()


async def test_what_credentials_return_is_checked_and_not_shown(server: RedisServer) -> None:
    def wrong() -> tuple[str | None, str]:
        return "a secret"  # type: ignore[return-value]  # that is the point

    settings = RedisSettings(host="127.0.0.1", port=server.port, credentials=wrong)
    with pytest.raises(TypeError, match="returns a user, or None, and a password") as raised:
        async with connected(settings) as connection:
            await connection.ping([])
    assert "secret" not in str(raised.value)


def test_credentials_and_a_password_contradict_each_other() -> None:
    with pytest.raises(ValueError, match="give credentials, or username and password") as raised:
        RedisSettings(username="me", credentials=lambda: (None, "secret"))
    assert "secret" not in str(raised.value)


# -- a cluster -------------------------------------------------------------------------------


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path).start()
    try:
        yield cluster
    finally:
        cluster.kill()


async def test_a_session_with_a_cluster_asks_the_nodes_that_have_the_keys(
    cluster: Cluster,
) -> None:
    async with connected(RedisSettings.from_url(cluster.url)) as connection:
        await connection.ping(["{n:1}", "{n:2}"])
        for number in range(20):
            await at_once(connection, 5, f"{{n:{number}}}")
        assert all(len(node.clients()) <= 1 for node in cluster.nodes)
        slot = slot_of("n:7")
        source = cluster.owner(slot)
        target = next(node for node in cluster.nodes if node is not source)
        cluster.begin_move(slot, target)
        await connection.run(COUNT, ["{n:7}"], [])  # is still there
        await connection.run(COUNT, ["{n:7}:new"], [])  # is not: ASK
        with pytest.raises(Refused, match="TRYAGAIN"):
            script = Script("return redis.call('EXISTS', KEYS[1], KEYS[2])")
            await connection.run(script, ["{n:7}", "{n:7}:new"], [])
        cluster.end_move(slot, source, target)
        assert await connection.run(COUNT, ["{n:7}"], []) == 7
        assert await connection.run(COUNT, ["{n:7}:new"], []) == 2
        assert await connection.read({"{n:8}:stream": b"0"}, 1, 0) == []
        assert all(len(node.clients()) <= 1 for node in cluster.nodes)
