"""What a server may answer: what passes is waited out; what does not names cause and cure."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from anyio import create_task_group, current_time, fail_after, sleep, sleep_forever
from processes import Inbox, process
from redis_server import RedisServer
from support import IN_TIME, until
from tcp_proxy import Proxy

from orchestrio import (
    ChannelConfig,
    Scheduler,
    TaskExecutionError,
    TaskInitializationError,
    Topic,
)
from orchestrio.redis import RedisBridge, RedisSettings

JOBS = Topic("jobs", int)
BLOCK = ChannelConfig(overflow="block")


def bridge(settings: int | RedisSettings, mode: str = "broadcast") -> RedisBridge:
    if isinstance(settings, int):
        settings = RedisSettings(host="127.0.0.1", port=settings, response_timeout=2)
    if mode == "broadcast":
        return RedisBridge(settings, topics=[JOBS], namespace="test")
    return RedisBridge(settings, topics=[JOBS], namespace="test", mode="compete", claim_after=0.6)


def outages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged of servers that do not answer as they should."""
    said = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    return [text for text in said if "does not answer" in text]


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[Proxy]:
    with Proxy(server.port) as proxy:
        yield proxy


# -- what passes -----------------------------------------------------------------------------

PASSING = [
    "ASK 5000 127.0.0.1:1",
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "CLUSTERDOWN Hash slot not served",
    "ERR max number of clients reached",
    "LOADING Redis is loading the dataset in memory",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist",
    "MOVED 5000 127.0.0.1:1",
    "NOGROUP No such key '{test:jobs}' or consumer group 'workers'",
    "NOREPLICAS Not enough good replicas to write.",
    "OOM command not allowed when used memory > 'maxmemory'.",
    "READONLY You can't write against a read only replica.",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "UNBLOCKED the stream key no longer exists",
    "ERR Error running script (call to f_0): @user_script:9: -READONLY You can't write",
]


@pytest.mark.parametrize("answer", PASSING, ids=lambda text: text.split()[0])
async def test_what_passes_is_waited_out_and_told_once(
    proxy: Proxy, answer: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever was asked, from the handshake on; at a start as well as later."""
    inbox, carrier = Inbox[int](), bridge(proxy.port, "compete")
    proxy.answer = f"-{answer}\r\n".encode()
    async with Scheduler() as scheduler, create_task_group() as group:
        scheduler.add_channel(JOBS, BLOCK)
        scheduler.register_background_task(carrier)
        scheduler.on(JOBS)(inbox.put)
        group.start_soon(scheduler.start)
        await until(lambda: carrier.statistics().outages >= 1)
        await sleep(0.1)  # it is asked again meanwhile
        proxy.answer = None
        await until(lambda: carrier.statistics().connected)
        await scheduler.publish(JOBS, 1)
        await inbox.wait_for(1)
        await until(lambda: carrier.statistics().unsent == 0)
        proxy.answer = f"-{answer}\r\n".encode()
        await scheduler.publish(JOBS, 2)
        await until(lambda: carrier.statistics().outages == 2)
        await sleep(0.1)
        proxy.answer = None
        assert await inbox.wait_for(2) == [1, 2]
        await until(lambda: carrier.statistics().connected)
    said = outages(caplog)
    assert 2 <= len(said) <= 3  # one more if a reader asks just when the writer got through again
    assert all(answer.split()[1] in text for text in said)


async def test_a_server_with_too_many_clients_is_waited_out(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    inbox, carrier = Inbox[int](), bridge(server.port)
    async with process(carrier, JOBS, inbox.put) as publisher:
        with server.session() as admin:
            admin.ask("CONFIG", "SET", "maxclients", 1)
            admin.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await publisher.publish(JOBS, 1)
            await until(lambda: carrier.statistics().outages >= 1)
            await sleep(0.3)
            admin.ask("CONFIG", "SET", "maxclients", 100)
        assert await inbox.wait_for(1) == [1]
    assert len(outages(caplog)) == 1


async def test_a_script_of_somebody_else_that_runs_too_long_is_waited_out(
    server: RedisServer,
) -> None:
    server.ask("CONFIG", "SET", "busy-reply-threshold", 10)
    inbox, carrier = Inbox[int](), bridge(server.port)
    async with process(carrier, JOBS, inbox.put) as publisher:
        with server.session() as busy:
            busy.begin("EVAL", "while true do end", 0)
            await sleep(0.1)
            await publisher.publish(JOBS, 1)
            await until(lambda: carrier.statistics().outages >= 1)
            server.ask("SCRIPT", "KILL")
        assert await inbox.wait_for(1) == [1]


async def test_connections_that_are_idle_for_too_long_are_made_anew_without_a_word(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """`timeout` in the server's configuration closes them, and nothing is lost with them."""
    inbox, carrier = Inbox[int](), bridge(server.port)
    async with process(carrier, JOBS, inbox.put) as publisher:
        await publisher.publish(JOBS, 1)
        await inbox.wait_for(1)
        idle = [each for each in server.clients() if not each["cmd"].startswith("xread")]
        for each in idle:
            server.ask("CLIENT", "KILL", "ID", each["id"])
        await sleep(0.1)
        await publisher.publish(JOBS, 2)
        assert await inbox.wait_for(2) == [1, 2]
    assert idle
    assert outages(caplog) == []


# -- what does not ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "cure"),
    [
        ("NOPERM User default has no permissions to run the 'ping' command", "ACL SETUSER"),
        ("NOAUTH Authentication required.", "give it username and password"),
        ("WRONGPASS invalid username-password pair or user is disabled.", "check username"),
        ("NOPROTO unsupported protocol version", "needs Redis 7 or Valkey"),
        ("CROSSSLOT Keys in request don't hash to the same slot", "redis+cluster://"),
        ("DENIED Redis is running in protected mode", "DENIED"),
    ],
    ids=lambda text: text.split()[0],
)
async def test_what_does_not_pass_ends_the_start_and_says_what_to_do(
    proxy: Proxy, answer: str, cure: str
) -> None:
    proxy.answer = f"-{answer}\r\n".encode()
    with pytest.raises(TaskInitializationError) as raised:
        async with process(bridge(proxy.port), JOBS):
            pass
    said = str(raised.value)
    assert answer.split()[0] in said
    assert cure in said
    assert str(proxy.port) in said


@pytest.mark.parametrize("mode", ["broadcast", "compete"])
async def test_a_key_of_another_type_is_named(server: RedisServer, mode: str) -> None:
    server.ask("SET", "{test:jobs}", "a page of some cache")
    with pytest.raises(TaskInitializationError, match="EVALSHA.*WRONGTYPE") as raised:
        async with process(bridge(server.port, mode), JOBS):
            pass
    assert "{test:jobs}" in str(raised.value)
    assert "remove it, or use another namespace" in str(raised.value)


async def test_a_right_that_is_missing_is_named_with_command_and_key(server: RedisServer) -> None:
    server.ask("ACL", "SETUSER", "me", "on", ">pw", "~*", "+@all", "-xadd")
    settings = RedisSettings.from_url(f"redis://me:pw@127.0.0.1:{server.port}")
    with pytest.raises(TaskExecutionError) as raised:
        async with Scheduler() as scheduler:
            scheduler.add_channel(JOBS)
            scheduler.register_background_task(bridge(settings))
            await scheduler.start()
            await scheduler.publish(JOBS, 1)
            with fail_after(IN_TIME):
                await scheduler.run()
    said = str(raised.value)
    assert "XADD" in said
    assert "{test:jobs}" in said
    assert "give the user this right" in said


async def test_what_is_no_redis_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as stack:
        port = listener.getsockname()[1]

        async def talk() -> None:
            listener.setblocking(False)
            while True:
                try:
                    stack.enter_context(listener.accept()[0]).sendall(b"220 mail.example.org\r\n")
                except BlockingIOError:
                    await sleep(0.01)

        async with create_task_group() as group:
            group.start_soon(talk)
            with pytest.raises(TaskInitializationError, match=f"{port} does not speak"):
                async with process(bridge(port), JOBS):
                    pass
            group.cancel_scope.cancel()


# -- what never answers ----------------------------------------------------------------------


@pytest.fixture
def hole() -> Iterator[int]:
    """A port at which connecting takes for ever, as one that a firewall silently drops."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            full = stack.enter_context(socket.socket())
            full.setblocking(False)
            full.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@pytest.mark.parametrize(
    "what", ["stopped", "stopped-tls", "sentinel", "cluster", "hole", "credentials"]
)
async def test_a_start_keeps_its_limit_in_time_whatever_does_not_answer(
    server: RedisServer, hole: int, what: str
) -> None:
    address = f"127.0.0.1:{server.port}"
    settings = {
        "stopped": RedisSettings(host="127.0.0.1", port=server.port),
        "stopped-tls": RedisSettings(host="127.0.0.1", port=server.port, tls=True),
        "sentinel": RedisSettings(sentinels=(address,), service="main"),
        "cluster": RedisSettings(cluster=(address,)),
        "hole": RedisSettings(host="127.0.0.1", port=hole),
        "credentials": RedisSettings(credentials=sleep_forever),  # type: ignore[arg-type]  # which never returns
    }
    server.signal(signal.SIGSTOP)
    try:
        began = current_time()
        with pytest.raises(
            TaskInitializationError, match="start_timeout .0.5 s.: it waited for Redis"
        ):
            async with Scheduler() as scheduler:
                scheduler.add_channel(JOBS)
                scheduler.register_background_task(bridge(settings[what]), start_timeout=0.5)
                await scheduler.start()
        assert current_time() - began < 4  # the other time-outs are longer
    finally:
        server.signal(signal.SIGCONT)


async def test_connect_timeout_is_for_the_handshake_as_well(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    settings = RedisSettings(host="127.0.0.1", port=server.port, connect_timeout=0.2)
    server.signal(signal.SIGSTOP)
    try:
        async with Scheduler() as scheduler, create_task_group() as group:
            scheduler.add_channel(JOBS)
            scheduler.register_background_task(bridge(settings))
            group.start_soon(scheduler.start)
            await until(lambda: outages(caplog) != [])
            server.signal(signal.SIGCONT)
    finally:
        server.signal(signal.SIGCONT)
    assert f"127.0.0.1:{server.port} did not answer within connect_timeout (0.2 s)" in caplog.text


@pytest.mark.parametrize("mode", ["broadcast", "compete"])
async def test_a_stop_leaves_a_server_that_hangs(server: RedisServer, mode: str) -> None:
    inbox = Inbox[int]()
    settings = RedisSettings(host="127.0.0.1", port=server.port, connect_timeout=0.5)
    try:
        async with process(bridge(settings, mode), JOBS, inbox.put) as publisher:
            await publisher.publish(JOBS, 1)
            await inbox.wait_for(1)
            await sleep(0.1)  # it was acknowledged
            server.signal(signal.SIGSTOP)
            began = current_time()
        assert current_time() - began < 8  # an answer has ten
    finally:
        server.signal(signal.SIGCONT)
