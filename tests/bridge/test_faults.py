"""What goes wrong between processes, for real: after it, every accepted message was handled."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer

import pytest
from anyio import Event, create_task_group, current_time, fail_after, sleep
from processes import Inbox, process
from redis_server import RedisServer
from support import IN_TIME, until
from tcp_proxy import Proxy

from orchestrio import ChannelConfig, Scheduler, Topic
from orchestrio.redis import RedisBridge, RedisSettings

JOBS = Topic("jobs", int)
STREAM = "{test:jobs}"
WORKER = Path(__file__).parent / "worker.py"
BLOCK = ChannelConfig(capacity=64, overflow="block")


def bridge(server: RedisServer, mode: str = "broadcast", *, port: int | None = None) -> RedisBridge:
    settings = RedisSettings(host="127.0.0.1", port=port or server.port, response_timeout=0.5)
    if mode == "broadcast":
        return RedisBridge(settings, topics=[JOBS], namespace="test")
    return RedisBridge(settings, topics=[JOBS], namespace="test", mode="compete", claim_after=0.3)


def count(text: str) -> Counter[int]:
    return Counter(int(line) for line in text.split() if line.isdecimal())


@contextmanager
def worker(
    server: RedisServer, file: Path, milliseconds: float, mode: str, backend: str
) -> Iterator[subprocess.Popen[bytes]]:
    file.touch()
    command = [
        *(sys.executable, str(WORKER), backend),
        *(server.url, str(file), str(milliseconds), mode),
    ]
    with subprocess.Popen(command) as running:
        try:
            yield running
        finally:
            running.kill()


async def is_ready(file: Path) -> None:
    await until(lambda: "ready" in file.read_text())


# -- processes -------------------------------------------------------------------------------


async def test_the_messages_of_a_killed_process_are_handled_by_another(
    server: RedisServer, tmp_path: Path, anyio_backend_name: str
) -> None:
    """It is killed in the middle of a batch."""
    files = [tmp_path / "first", tmp_path / "second"]
    with (
        worker(server, files[0], 5, "compete", anyio_backend_name) as victim,
        worker(server, files[1], 1, "compete", anyio_backend_name),
    ):
        for file in files:
            await is_ready(file)
        async with process(bridge(server, "compete"), JOBS, config=BLOCK) as publisher:
            for number in range(500):
                await publisher.publish(JOBS, number)
                if number == 200:
                    await until(lambda: len(files[0].read_text().split()) > 5)
                    victim.send_signal(signal.SIGKILL)
        await until(lambda: len(count("".join(f.read_text() for f in files))) == 500)
    handled = count("".join(file.read_text() for file in files))
    assert set(handled) == set(range(500))
    # Only what the victim had handled and not acknowledged comes twice.
    assert handled.total() - 500 <= 16 + 1


async def test_a_process_that_is_stopped_hands_over_at_once(
    server: RedisServer, tmp_path: Path, anyio_backend_name: str
) -> None:
    """What it had read and not begun is not left until it would be claimed."""
    file = tmp_path / "first"
    with worker(server, file, 5, "compete", anyio_backend_name) as stopped:
        await is_ready(file)
        async with process(bridge(server, "compete"), JOBS) as publisher:
            for number in range(100):
                await publisher.publish(JOBS, number)
            await until(lambda: len(file.read_text().split()) > 5)
            stopped.terminate()
            await until(lambda: stopped.poll() is not None)
    assert stopped.returncode == 0
    inbox = Inbox[int]()
    here = set(count(file.read_text()))
    async with process(bridge(server, "compete"), JOBS, inbox.put):
        await inbox.wait_for(100 - len(here))
    assert here | set(inbox.items) == set(range(100))
    assert not here & set(inbox.items)


# -- the server ------------------------------------------------------------------------------


async def survives(
    server: RedisServer, mode: str, harm: Callable[[int], object], *, port: int | None = None
) -> tuple[list[list[int]], list[RedisBridge]]:
    """Publish a thousand messages to two processes while harm is done; return what they got."""
    inboxes = [Inbox[int](), Inbox[int]()]
    bridges = [bridge(server, mode, port=port) for _ in range(3)]
    async with (
        process(bridges[0], JOBS, config=BLOCK) as publisher,
        process(bridges[1], JOBS, inboxes[0].put, config=BLOCK),
        process(bridges[2], JOBS, inboxes[1].put, config=BLOCK),
    ):
        with fail_after(60):
            for number in range(1000):
                await publisher.publish(JOBS, number)
                harm(number)

        def all_came() -> bool:
            got = [set(inbox.items) for inbox in inboxes]
            if mode == "broadcast":
                return all(len(items) == 1000 for items in got)
            return len(got[0] | got[1]) == 1000

        await until(all_came)
        await until(lambda: bridges[0].statistics().unsent == 0)
    return [inbox.items for inbox in inboxes], bridges


def check(mode: str, got: list[list[int]]) -> None:
    if mode == "broadcast":  # everything, in order, once
        assert got == [list(range(1000)), list(range(1000))]
    else:
        handled = Counter(got[0] + got[1])
        assert set(handled) == set(range(1000))
        assert handled.total() <= 1000 + 2 * 64 * 4  # what was in hand when it went wrong


MODES = pytest.mark.parametrize("mode", ["broadcast", "compete"])


@MODES
async def test_the_server_is_killed_and_comes_back(server: RedisServer, mode: str) -> None:
    starts: list[Timer] = []

    def harm(number: int) -> None:
        if number in {300, 600}:
            for earlier in starts:
                earlier.join()
            server.kill()
            # Not at once: one whose connection was idle would not even see that it was away.
            starts.append(Timer(0.5, server.start))
            starts[-1].start()

    got, bridges = await survives(server, mode, harm)
    check(mode, got)
    assert bridges[0].statistics().outages >= 1


@MODES
async def test_connections_are_killed(server: RedisServer, mode: str) -> None:
    def harm(number: int) -> None:
        if number % 100 == 50:
            server.ask("CLIENT", "KILL", "TYPE", "normal")

    got, _ = await survives(server, mode, harm)
    check(mode, got)


@MODES
async def test_the_server_pauses(server: RedisServer, mode: str) -> None:
    """For longer than an answer may take: what was sent is sent again, and known to the server."""

    def harm(number: int) -> None:
        if number == 300:
            server.ask("CLIENT", "PAUSE", 3500, "ALL")

    got, _ = await survives(server, mode, harm)
    check(mode, got)


@MODES
@pytest.mark.parametrize("fault", ["drop", "half_close", "delay"])
async def test_the_network_fails(server: RedisServer, mode: str, fault: str) -> None:
    with Proxy(server.port) as proxy:

        def harm(number: int) -> None:
            if fault == "delay":
                proxy.delay = 0.02 if number % 200 < 100 else 0.0
            elif number % 100 == 50:
                getattr(proxy, fault)()

        got, _ = await survives(server, mode, harm, port=proxy.port)
    check(mode, got)


@MODES
async def test_the_network_is_silent_for_a_while(server: RedisServer, mode: str) -> None:
    with Proxy(server.port) as proxy:
        inbox = Inbox[int]()
        async with process(
            bridge(server, mode, port=proxy.port), JOBS, inbox.put, config=BLOCK
        ) as publisher:
            await publisher.publish(JOBS, 0)
            await inbox.wait_for(1)
            proxy.silent = True
            for number in range(1, 50):
                await publisher.publish(JOBS, number)
            await sleep(0.05)
            assert inbox.items == [0]
            proxy.silent = False
            assert (await inbox.wait_for(50))[:50] == list(range(50))  # none twice


@MODES
async def test_a_stop_does_not_wait_for_a_server_that_is_away(
    server: RedisServer, mode: str
) -> None:
    """Unless there is something to send, and then for no longer than a stop may take."""
    inbox, carrier = Inbox[int](), bridge(server, mode)
    async with process(carrier, JOBS, inbox.put) as publisher:
        await publisher.publish(JOBS, 1)
        await inbox.wait_for(1)
        await until(lambda: carrier.statistics().acknowledged == (mode == "compete"))
        await until(lambda: carrier.statistics().unsent == 0)
        server.kill()
        await until(lambda: not carrier.statistics().connected)
        began = current_time()
    assert current_time() - began < 9  # a stop may take ten


async def test_what_a_stop_could_not_send_is_said(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ExceptionGroup) as raised:
        async with Scheduler() as scheduler:
            scheduler.add_channel(JOBS)
            scheduler.register_background_task(bridge(server), shutdown_timeout=0.3)
            await scheduler.start()
            server.kill()
            await scheduler.publish(JOBS, 1)
    assert "longer than shutdown_timeout" in str(raised.value.exceptions[0])
    assert "1 message did not reach Redis" in caplog.text


# -- its memory ------------------------------------------------------------------------------


async def test_a_full_server_holds_publishers_up_and_loses_nothing(server: RedisServer) -> None:
    texts = Topic("texts", str)
    carrier = RedisBridge(server.url, topics=[texts], namespace="test")
    async with process(carrier, texts, config=ChannelConfig(capacity=8, overflow="block")) as here:
        server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
        done = Event()

        async def publish() -> None:
            for number in range(600):
                await here.publish(texts, f"{number} ".ljust(10_000, "x"))
            done.set()

        async with create_task_group() as group:
            group.start_soon(publish)
            await until(lambda: carrier.statistics().sent > 100)
            server.ask("CONFIG", "SET", "maxmemory", "1")  # full, and not on the verge of it
            await until(lambda: carrier.statistics().outages > 0)
            await sleep(0.3)
            assert not done.is_set()
            assert carrier.statistics().outages == 1  # one, however often it is asked
            assert not carrier.statistics().connected
            server.ask("CONFIG", "SET", "maxmemory", "0")
            with fail_after(IN_TIME):
                await done.wait()
    entries = server.entries("{test:texts}")
    assert len(entries) == 600
    assert [int(entry["n"]) for entry in entries] == list(range(1, 601))
