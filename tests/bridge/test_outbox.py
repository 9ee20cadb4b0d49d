"""The outbox: what was published stays there until the server has it, on disk if asked."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import pytest
from anyio import (
    CancelScope,
    Event,
    WouldBlock,
    create_task_group,
    fail_after,
    sleep_forever,
    to_thread,
)
from processes import Inbox, process
from redis_server import RedisServer
from support import IN_TIME, settle, until

from orchestrio import (
    BackgroundTask,
    ChannelConfig,
    EventBus,
    EventSendError,
    LifecycleError,
    Scheduler,
    TaskInitializationError,
    Topic,
)
from orchestrio._broadcast.relay import Relay
from orchestrio.redis import RedisBridge
from orchestrio.redis._outbox.database import Database
from orchestrio.redis._outbox.outbox import DiskOutbox
from orchestrio.redis._wire.envelope import Format, Outgoing

JOBS = Topic("jobs", int)
STREAM = "{test:jobs}"
PUBLISHER = Path(__file__).parent / "publisher.py"
BLOCK = ChannelConfig(capacity=8, overflow="block")


def bridge(server: RedisServer, outbox: Path | None = None) -> RedisBridge:
    return RedisBridge(server.url, topics=[JOBS], namespace="test", outbox=outbox)


def on_disk(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as database:
        rows = database.execute("SELECT data FROM outbox ORDER BY number").fetchall()
    return [json.loads(data) for (data,) in rows]


def in_stream(server: RedisServer) -> list[int]:
    return [json.loads(entry["data"]) for entry in server.entries(STREAM)]


# -- in memory -------------------------------------------------------------------------------


async def test_a_full_outbox_holds_publishers_up(server: RedisServer) -> None:
    carrier = bridge(server)
    async with process(carrier, JOBS, config=BLOCK) as publisher:
        server.kill()
        done = Event()

        async def publish() -> None:
            for number in range(600):
                await publisher.publish(JOBS, number)
            done.set()

        async with create_task_group() as group:
            group.start_soon(publish)
            await until(lambda: carrier.statistics().outages >= 1)
            await until(lambda: carrier.statistics().unsent >= 8)
            await settle()
            assert carrier.statistics().unsent <= 8 + 256
            assert not done.is_set()
            server.start()
            with fail_after(IN_TIME):
                await done.wait()
    assert in_stream(server) == list(range(600))


async def test_an_outbox_that_overwrites_counts_what_was_lost(server: RedisServer) -> None:
    carrier = bridge(server)
    config = ChannelConfig(capacity=8, overflow="drop_oldest")
    async with process(carrier, JOBS, config=config) as publisher:
        server.kill()
        for number in range(100):
            await publisher.publish(JOBS, number)
        await until(lambda: carrier.statistics().unsent > 0)
        server.start()
        await until(lambda: carrier.statistics().unsent == 0)
        missed = carrier.statistics().missed
    assert missed >= 100 - 8 - 256
    assert len(in_stream(server)) == 100 - missed
    assert in_stream(server)[-8:] == list(range(92, 100))


@pytest.mark.parametrize("overflow", ["error", "drop_newest"])
async def test_a_full_outbox_answers_as_the_channel_would(
    server: RedisServer, overflow: str
) -> None:
    carrier = bridge(server)
    config = ChannelConfig.model_validate({"capacity": 8, "overflow": overflow})
    async with process(carrier, JOBS, config=config) as publisher:
        server.kill()
        await until(lambda: not carrier.statistics().connected)
        accepted, refused = 0, 0
        for number in range(1000):
            try:
                accepted += publisher.bus.publish_nowait(JOBS, number)
            except EventSendError:
                refused += 1
            if number == 500:
                await settle()
        assert accepted < 600
        if overflow == "error":
            assert refused == 1000 - accepted
        server.start()
        await until(lambda: carrier.statistics().unsent == 0)
    assert len(in_stream(server)) == accepted


async def test_what_a_channel_was_told_before_the_bridge_came_stays_here(
    server: RedisServer,
) -> None:
    """A sender that was waiting for room goes on through the bridge."""
    inbox = Inbox[int]()
    async with Scheduler() as scheduler:
        scheduler.add_channel(JOBS, ChannelConfig(capacity=1, overflow="block"))
        with scheduler.subscribe(JOBS) as stream:
            await scheduler.publish(JOBS, 1)
            async with create_task_group() as group:
                group.start_soon(scheduler.publish, JOBS, 2)
                await settle()
                scheduler.register_background_task(bridge(server))
                await scheduler.start()
                with fail_after(IN_TIME):
                    assert await stream.receive() == 1
                    assert await stream.receive() == 2
    assert in_stream(server) == [2]
    assert inbox.items == []


# -- on disk ---------------------------------------------------------------------------------


async def test_what_was_published_is_on_disk_when_publish_returns(
    server: RedisServer, tmp_path: Path
) -> None:
    file = tmp_path / "outbox.db"
    async with process(bridge(server, file), JOBS, config=BLOCK) as publisher:
        server.kill()
        for number in range(50):  # more than the channel holds
            await publisher.publish(JOBS, number)
        await to_thread.run_sync(publisher.clone_sender(JOBS).send_from_thread, 50)
    # The process has ended in order, and the server was away.
    assert on_disk(file)[-40:] == list(range(11, 51))
    server.start()
    before = in_stream(server)
    async with process(bridge(server, file), JOBS):
        await until(lambda: len(in_stream(server)) == 51)
    assert in_stream(server) == list(range(51))
    assert before == list(range(len(before)))
    assert on_disk(file) == []


async def test_what_is_sent_without_waiting_gets_to_the_disk_as_well(
    server: RedisServer, tmp_path: Path
) -> None:
    file = tmp_path / "outbox.db"
    async with process(bridge(server, file), JOBS, config=BLOCK) as publisher:
        server.kill()
        for number in range(8):
            publisher.bus.publish_nowait(JOBS, number)
    assert on_disk(file) == list(range(8))


OVERFLOWS = ["drop_oldest", "block", "drop_newest", "error"]


@pytest.mark.parametrize("overflow", OVERFLOWS)
@pytest.mark.parametrize("how", ["publish", "send", "thread"])
async def test_whatever_the_policy_what_returned_is_on_disk(
    server: RedisServer, tmp_path: Path, overflow: str, how: str
) -> None:
    """Many at once, in a channel that holds few, while the server is away."""
    file = tmp_path / "outbox.db"
    config = ChannelConfig.model_validate({"capacity": 4, "overflow": overflow})
    returned: list[int] = []
    async with process(bridge(server, file), JOBS, config=config) as publisher:
        server.kill()
        sender = publisher.clone_sender(JOBS)

        async def request(number: int) -> None:
            if how == "publish":
                assert await publisher.publish(JOBS, number) == 1
            elif how == "send":
                await sender.send(number)
            else:
                await to_thread.run_sync(sender.send_from_thread, number)
            assert number in await to_thread.run_sync(seen_on_disk, file)
            returned.append(number)

        with fail_after(IN_TIME):
            async with create_task_group() as group:
                for number in range(30):
                    group.start_soon(request, number)
        assert publisher.bus.statistics()[JOBS].dropped == 0
    assert sorted(on_disk(file)) == sorted(returned) == list(range(30))


def seen_on_disk(file: Path) -> list[int]:
    """What a crash at this moment would leave: what lies in a copy of the files."""
    with TemporaryDirectory() as folder:
        for part in file.parent.glob(file.name + "*"):
            # Not from this process: to close a file there would give up its locks.
            subprocess.run(["cp", str(part), folder], check=True)
        return on_disk(Path(folder) / file.name)


@pytest.mark.parametrize("overflow", OVERFLOWS)
async def test_whatever_the_policy_what_was_accepted_without_waiting_is_stored(
    server: RedisServer, tmp_path: Path, overflow: str
) -> None:
    """Accepted is what raised nothing; what finds no room raises, and is dropped by nobody."""
    file = tmp_path / "outbox.db"
    config = ChannelConfig.model_validate({"capacity": 8, "overflow": overflow})
    async with process(bridge(server, file), JOBS, config=config) as publisher:
        server.kill()
        sender = publisher.clone_sender(JOBS)
        for number in range(4):
            sender.send_nowait(number)
        sender.send_many_nowait([4, 5])
        for number in (6, 7):
            assert publisher.bus.publish_nowait(JOBS, number) == 1
        with pytest.raises(WouldBlock):
            sender.send_nowait(8)
        with pytest.raises(WouldBlock):
            publisher.bus.publish_nowait(JOBS, 8)
        with pytest.raises(WouldBlock):
            sender.send_many_nowait([8, 9])
        assert publisher.bus.statistics()[JOBS].dropped == 0
    assert on_disk(file) == list(range(8))


class Announcing(BackgroundTask):
    """Says when it comes and goes."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler

    async def initialize(self) -> None:
        await self.scheduler.publish(JOBS, 1)

    async def execute(self) -> None:
        await sleep_forever()

    async def shutdown(self) -> None:
        await self.scheduler.publish(JOBS, 2)
        await self.scheduler.publish(JOBS, 3)


@pytest.mark.parametrize("mode", ["broadcast", "compete"])
async def test_hooks_publish_to_disk_before_and_after_the_bridge_works(
    server: RedisServer, tmp_path: Path, mode: Literal["broadcast", "compete"]
) -> None:
    scheduler = Scheduler()
    scheduler.add_channel(JOBS)
    file = tmp_path / "outbox.db"
    scheduler.register_background_task(
        RedisBridge(server.url, topics=[JOBS], namespace="test", mode=mode, outbox=file)
    )
    scheduler.register_background_task(Announcing(scheduler))
    with fail_after(IN_TIME):
        async with scheduler:
            await scheduler.start()
    assert in_stream(server) == [1, 2, 3]


@pytest.mark.parametrize("disk", [True, False], ids=["disk", "memory"])
async def test_what_is_published_when_the_bridge_has_ended_is_not_lost_in_silence(
    server: RedisServer, tmp_path: Path, disk: bool, caplog: pytest.LogCaptureFixture
) -> None:
    class Last(BackgroundTask):
        async def execute(self) -> None:
            await sleep_forever()

        async def shutdown(self) -> None:
            if disk:
                with pytest.raises(EventSendError, match="Register the bridge before"):
                    await scheduler.publish(JOBS, 4)
            else:
                await scheduler.publish(JOBS, 4)

    scheduler = Scheduler()
    scheduler.add_channel(JOBS)
    scheduler.register_background_task(Last())
    scheduler.register_background_task(bridge(server, tmp_path / "outbox.db" if disk else None))
    with fail_after(IN_TIME):
        async with scheduler:
            await scheduler.start()
    assert in_stream(server) == []
    assert "1 message, published after the bridge to" in caplog.text


async def test_what_is_published_while_the_bridge_is_stopped_is_told_of_in_the_end(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    carrier = bridge(server)
    async with process(carrier, JOBS) as publisher:
        await publisher.stop_task(publisher.registry.get_by_name("redis-broadcast").task_id)
        for number in range(3):
            await publisher.publish(JOBS, number)
        assert "published after" not in caplog.text
    assert "3 messages, published after the bridge to" in caplog.text


async def test_publishers_end_with_a_bridge_that_cannot_store_any_more(tmp_path: Path) -> None:
    """Those who wait for the disk are told, those who wait for room go on in the process."""
    bus = EventBus()
    bus.add_channel(JOBS, ChannelConfig(capacity=2))
    relay = Relay[int, Outgoing](bus, JOBS, Format(JOBS, "test", 1000).pack, keep=True)
    database = Database(tmp_path / "outbox.db", limit=1_000_000, topics=["jobs"])
    outbox = DiskOutbox(relay.outgoing, database, "jobs")
    relay.confirm(outbox.wait_safe)
    refused: list[int] = []

    async def publish(number: int) -> None:
        try:
            await bus.publish(JOBS, number)
        except EventSendError:
            refused.append(number)

    with bus.subscribe(JOBS) as here, fail_after(IN_TIME):
        async with create_task_group() as group:
            for number in range(4):
                group.start_soon(publish, number)
                await settle()
            relay.close()
        assert sorted(here.receive_many_nowait(10)) == [2, 3]
    assert sorted(refused) == [0, 1]


async def test_what_a_bridge_was_given_is_stored_after_it_was_released(tmp_path: Path) -> None:
    bus = EventBus()
    bus.add_channel(JOBS, ChannelConfig(capacity=2))
    relay = Relay[int, Outgoing](bus, JOBS, Format(JOBS, "test", 1000).pack, keep=True)
    database = Database(tmp_path / "outbox.db", limit=1_000_000, topics=["jobs"])
    outbox = DiskOutbox(relay.outgoing, database, "jobs")
    relay.confirm(outbox.wait_safe)
    await database.open()
    with fail_after(IN_TIME):
        async with create_task_group() as group:
            group.start_soon(bus.publish, JOBS, 1)
            await settle()
            bus.publish_nowait(JOBS, 2)
            relay.release()
            await outbox.spool_rest()
    assert relay.close() == 0
    await database.close()
    assert on_disk(tmp_path / "outbox.db") == [1, 2]


@contextmanager
def publishing(
    server: RedisServer, outbox: Path, accepted: Path, first: int, backend: str
) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, str(PUBLISHER), backend, server.url, str(outbox), str(accepted)]
    with subprocess.Popen([*command, str(first)]) as running:
        try:
            yield running
        finally:
            running.kill()


def reached(numbers: Callable[[], list[int]], count: int) -> bool:
    return len(numbers()) >= count


async def test_a_crash_loses_nothing_that_was_accepted_and_sends_nothing_twice(
    server: RedisServer, tmp_path: Path, anyio_backend_name: str
) -> None:
    outbox, accepted = tmp_path / "outbox.db", tmp_path / "accepted"
    accepted.touch()

    def numbers() -> list[int]:
        return [int(line) for line in accepted.read_text().splitlines()]

    first = 0
    for crash in range(3):
        with publishing(server, outbox, accepted, first, anyio_backend_name) as process_:
            await until(partial(reached, numbers, first + 100))
            if crash == 1:
                server.kill()  # it dies during an outage
                await until(partial(reached, numbers, len(numbers()) + 20))
            process_.send_signal(signal.SIGKILL)
            process_.wait()
        if crash == 1:
            server.start()
        first = numbers()[-1] + 1
    last = numbers()[-1]
    async with process(bridge(server, outbox), JOBS):
        await until(lambda: last in in_stream(server))
    sent = in_stream(server)
    assert set(numbers()) <= set(sent)
    assert sent == sorted(sent)
    # A number that was stored and not yet noted as accepted is published again by the next.
    assert len(sent) - len(set(sent)) <= 3


async def test_two_processes_cannot_share_an_outbox(server: RedisServer, tmp_path: Path) -> None:
    file = tmp_path / "outbox.db"
    async with process(bridge(server, file), JOBS):
        with pytest.raises(TaskInitializationError, match=f"{file} is locked: another process"):
            async with process(bridge(server, file), JOBS):
                pass


async def test_a_file_that_is_no_database_is_refused(server: RedisServer, tmp_path: Path) -> None:
    file = tmp_path / "outbox.db"
    file.write_text("something else, and long enough to be taken for a header of a database")
    with pytest.raises(TaskInitializationError, match="not a database"):
        async with process(bridge(server, file), JOBS):
            pass


async def test_a_publisher_that_is_cancelled_may_have_published(
    server: RedisServer, tmp_path: Path
) -> None:
    """It cannot be otherwise: the disk does not forget."""
    carrier = bridge(server, tmp_path / "outbox.db")
    async with process(carrier, JOBS, config=BLOCK) as publisher:
        with CancelScope() as scope:
            scope.cancel()
            await publisher.publish(JOBS, 1)
        assert scope.cancelled_caught
        await publisher.publish(JOBS, 2)
        await until(lambda: carrier.statistics().unsent == 0)
    assert in_stream(server) in ([1, 2], [2])


async def test_a_bridge_is_for_a_scheduler() -> None:
    carrier = RedisBridge("redis://localhost", topics=[JOBS], namespace="test")
    with pytest.raises(LifecycleError, match="register it with a scheduler"):
        await carrier.initialize()


@pytest.mark.parametrize("durable", [False, True], ids=["memory", "disk"])
@pytest.mark.parametrize("mode", ["broadcast", "compete"])
async def test_a_restart_of_the_bridge_loses_nothing(
    server: RedisServer, tmp_path: Path, mode: Literal["broadcast", "compete"], *, durable: bool
) -> None:
    """Publishers go on meanwhile, and wait for room."""
    inbox = Inbox[int]()
    other = RedisBridge(server.url, topics=[JOBS], namespace="test", mode=mode)
    carrier = RedisBridge(
        server.url,
        topics=[JOBS],
        namespace="test",
        mode=mode,
        outbox=tmp_path / "outbox.db" if durable else None,
    )
    async with process(other, JOBS, inbox.put, config=BLOCK), Scheduler() as scheduler:
        scheduler.add_channel(JOBS, BLOCK)
        task_id = scheduler.register_background_task(carrier)
        await scheduler.start()

        async def publish() -> None:
            for number in range(500):
                await scheduler.publish(JOBS, number)

        with fail_after(IN_TIME):
            async with create_task_group() as group:
                group.start_soon(publish)
                for part in range(1, 4):
                    await inbox.wait_for(part * 100)
                    await scheduler.restart_task(task_id)
        assert await inbox.wait_for(500) == list(range(500))
        await until(lambda: carrier.statistics().unsent == 0)


@pytest.mark.parametrize("durable", [False, True], ids=["memory", "disk"])
async def test_topics_of_one_bridge_do_not_mix(
    server: RedisServer, tmp_path: Path, *, durable: bool
) -> None:
    numbers_in, words_in = Inbox[int](), Inbox[str]()
    carrier = RedisBridge(
        server.url,
        topics=[JOBS, "words"],
        namespace="test",
        outbox=tmp_path / "outbox.db" if durable else None,
    )
    async with Scheduler() as scheduler:
        scheduler.add_channel(JOBS, BLOCK)
        scheduler.add_channel("words", BLOCK)
        scheduler.register_background_task(carrier)
        scheduler.on(JOBS)(numbers_in.put)
        scheduler.on("words")(words_in.put)
        await scheduler.start()

        async def publish_words() -> None:
            for number in range(300):
                await scheduler.publish("words", str(number))

        async with create_task_group() as group:
            group.start_soon(publish_words)
            for number in range(300):
                await scheduler.publish(JOBS, number)
        assert await numbers_in.wait_for(300) == list(range(300))
        assert await words_in.wait_for(300) == [str(number) for number in range(300)]
        await until(lambda: carrier.statistics().unsent == 0)
    assert len(server.entries("{test:words}")) == 300
