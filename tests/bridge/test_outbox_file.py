"""The file of an outbox: who may use it, what is wrong with it, how large it gets."""

from __future__ import annotations

import gc
import json
import logging
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from anyio import create_task_group, fail_after, sleep, to_thread
from processes import process
from redis_server import RedisServer
from support import IN_TIME, until

from orchestrio import (
    ChannelConfig,
    Scheduler,
    SchedulerError,
    TaskExecutionError,
    TaskInitializationError,
    Topic,
)
from orchestrio.redis import OutboxError, RedisBridge
from orchestrio.redis._outbox.database import Database

TEXTS = Topic("texts", str)
STREAM = "{test:texts}"
BLOCK = ChannelConfig(capacity=8, overflow="block")
FULL_DISK = Path(__file__).parent / "full_disk.py"


def bridge(
    server: RedisServer | str, outbox: Path | str, *, max_outbox: int = 1_000_000_000
) -> RedisBridge:
    url = server if isinstance(server, str) else server.url
    return RedisBridge(url, topics=[TEXTS], namespace="test", outbox=outbox, max_outbox=max_outbox)


def in_stream(server: RedisServer) -> list[str]:
    return [json.loads(entry["data"]) for entry in server.entries(STREAM)]


def size_of(file: Path) -> int:
    """The bytes of the file and its log, but for what is set aside."""
    return sum(
        Path(f"{file}{end}").stat().st_size for end in ("", "-wal") if Path(f"{file}{end}").exists()
    )


async def what_is_said_of(name: Path | str) -> str:
    """Start a bridge with a file that it cannot use, and return what is said."""
    with pytest.raises(TaskInitializationError) as raised, fail_after(IN_TIME):
        async with process(bridge("redis://127.0.0.1:9", name), TEXTS):
            pass
    error = raised.value.__cause__
    assert isinstance(error, OutboxError)
    assert isinstance(error, SchedulerError)
    assert error.path.is_absolute()
    assert str(error).startswith(f"outbox {error.path} ")
    return str(error)


@asynccontextmanager
async def away(server: RedisServer, carrier: RedisBridge) -> AsyncGenerator[Scheduler]:
    """A process whose server has gone."""
    async with process(carrier, TEXTS, config=BLOCK) as publisher:
        server.kill()
        await until(lambda: not carrier.statistics().connected)
        yield publisher


# -- what it can be --------------------------------------------------------------------------


async def test_a_file_is_locked_under_any_name(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "outbox.db"
    (tmp_path / "link.db").symlink_to(file)
    monkeypatch.chdir(tmp_path)
    async with process(bridge(server, file), TEXTS):
        for name in (
            file,
            tmp_path / "link.db",
            "outbox.db",
            "./../" + tmp_path.name + "/outbox.db",
        ):
            said = await what_is_said_of(name)
            assert "another process has it open, or another bridge of this one" in said


async def test_a_relative_path_is_that_of_where_the_bridge_was_made(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon goes elsewhere before it starts."""
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path)
    carrier = bridge(server, "outbox.db")
    monkeypatch.chdir(tmp_path / "there")
    async with process(carrier, TEXTS):
        assert (tmp_path / "outbox.db").exists()


async def test_a_restart_may_overlap(server: RedisServer, tmp_path: Path) -> None:
    file = tmp_path / "outbox.db"
    with closing(sqlite3.connect(file, isolation_level=None)) as old:
        old.execute("PRAGMA locking_mode = EXCLUSIVE")
        old.execute("BEGIN EXCLUSIVE")

        async def end() -> None:
            await sleep(0.3)  # what waits is a thread, in SQLite
            old.close()

        async with create_task_group() as group:
            group.start_soon(end)
            async with process(bridge(server, file), TEXTS) as publisher:
                await publisher.publish(TEXTS, "new")
    await until(lambda: in_stream(server) == ["new"])


async def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert "is a folder" in await what_is_said_of(tmp_path)


async def test_a_device_is_no_file() -> None:
    assert "is a device" in await what_is_said_of(Path(os.devnull))


async def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "missing"
    assert f"no folder {folder}. Make it" in await what_is_said_of(folder / "outbox.db")


async def test_what_is_no_database_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "outbox.db"
    text = "something else, and long enough to be taken for a header of a database " * 9
    file.write_text(text)
    assert "not a database of SQLite, or is encrypted" in await what_is_said_of(file)
    assert file.read_text() == text


@pytest.mark.parametrize("table", ["invoices", "outbox", "origin"])
async def test_a_database_of_another_program_is_left_alone(tmp_path: Path, table: str) -> None:
    file = tmp_path / "other.db"
    with closing(sqlite3.connect(file)) as other:
        other.execute(f"CREATE TABLE {table} (x)")
    before = file.read_bytes()
    assert "another program" in await what_is_said_of(file)
    assert file.read_bytes() == before


async def test_an_outbox_of_a_newer_version_is_refused(server: RedisServer, tmp_path: Path) -> None:
    file = tmp_path / "outbox.db"
    async with process(bridge(server, file), TEXTS):
        pass
    with closing(sqlite3.connect(file)) as newer:
        newer.execute("PRAGMA user_version = 3")
    said = await what_is_said_of(file)
    assert "version 3" in said
    assert "newer" in said


async def test_a_damaged_file_is_told_from_others(server: RedisServer, tmp_path: Path) -> None:
    file = tmp_path / "outbox.db"
    async with process(bridge(server, file), TEXTS):
        pass
    damaged = bytearray(file.read_bytes())
    damaged[100:4000] = b"\xff" * 3900
    file.write_bytes(damaged)
    said = await what_is_said_of(file)
    assert "is damaged" in said
    assert ".recover" in said


def in_a_process(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


AS_NOBODY = """
import os, sys, anyio
from orchestrio import Scheduler, TaskInitializationError
from orchestrio.redis import RedisBridge

async def main():
    carrier = RedisBridge("redis://localhost", topics=["texts"], namespace="n", outbox=sys.argv[2])
    async with Scheduler() as scheduler:
        scheduler.add_channel("texts")
        scheduler.register_background_task(carrier)
        if not os.geteuid():
            os.seteuid(65534)  # now, that all is imported
        await scheduler.start()

try:
    anyio.run(main, backend=sys.argv[1])
except TaskInitializationError as error:
    print(error.__cause__)
"""
"""A bridge in a process that may do less than others."""


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that others may look into, as those of pytest are not."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "in").mkdir()
        yield folder / "in"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other rights")
@pytest.mark.parametrize(
    ("file_mode", "folder_mode", "said"),
    [
        (0o444, 0o777, "cannot be locked: it is read-only"),
        (0o666, 0o555, "is read-only"),
        (0, 0o777, "cannot be opened: this process needs the right"),
        (0o666, 0, "cannot be opened: this process needs the right"),
    ],
)
async def test_a_missing_right_is_told(
    server: RedisServer, anyio_backend_name: str, file_mode: int, folder_mode: int, said: str
) -> None:
    with open_folder() as folder:
        file = folder / "outbox.db"
        async with process(bridge(server, file), TEXTS):
            pass
        file.chmod(file_mode)
        file.parent.chmod(folder_mode)
        command = [sys.executable, "-c", AS_NOBODY, anyio_backend_name, str(file)]
        run = await to_thread.run_sync(in_a_process, command)
        file.parent.chmod(0o755)
    assert run.stdout.startswith(f"outbox {file} {said}"), run.stderr


@pytest.mark.parametrize("name", ["outbox.db", "outbox.db-wal"])
async def test_a_file_that_goes_while_it_is_used_ends_the_task(
    server: RedisServer, tmp_path: Path, name: str
) -> None:
    """Or what is accepted from then on would be in a file that nobody finds."""
    (tmp_path / "link.db").symlink_to(tmp_path / "outbox.db")
    carrier = bridge(server, tmp_path / "link.db")
    with pytest.raises(TaskExecutionError) as raised, fail_after(IN_TIME):
        async with process(carrier, TEXTS) as publisher, create_task_group() as group:
            await publisher.publish(TEXTS, "kept")
            (tmp_path / name).unlink()
            group.start_soon(publisher.publish, TEXTS, "lost")
            await publisher.wait_stopped(publisher.registry.get_by_name("redis-broadcast").task_id)
            group.cancel_scope.cancel()
    assert "was deleted or replaced" in str(raised.value.__cause__)


FORKS = """
import os, signal, sys, anyio
from orchestrio import ChannelConfig, Scheduler
from orchestrio.redis import RedisBridge

async def main():
    carrier = RedisBridge(sys.argv[2], topics=["texts"], namespace="test", outbox=sys.argv[3])
    async with Scheduler() as scheduler:
        scheduler.add_channel("texts", ChannelConfig(overflow="block"))
        scheduler.register_background_task(carrier)
        await scheduler.start()
        os.kill(int(sys.argv[4]), signal.SIGKILL)  # of the server
        await scheduler.publish("texts", "before")
        child = os.fork()
        if not child:
            raise SystemExit(0)
        await anyio.to_thread.run_sync(os.waitpid, child, 0)
        await scheduler.publish("texts", "after")
        os.kill(os.getpid(), signal.SIGKILL)

anyio.run(main, backend=sys.argv[1])
"""
"""A bridge in a process of which a fork comes to its end in peace, and which is killed then."""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
async def test_a_fork_that_ends_takes_nothing_of_its_parent_with_it(
    server: RedisServer, tmp_path: Path, anyio_backend_name: str
) -> None:
    if anyio_backend_name == "trio":
        pytest.skip("a loop of trio does not come to an end in a fork")
    file = tmp_path / "outbox.db"
    assert server.process is not None
    of_the_server = [server.url, str(file), str(server.process.pid)]
    command = [sys.executable, "-c", FORKS, anyio_backend_name, *of_the_server]
    run = await to_thread.run_sync(in_a_process, command)
    assert run.returncode == -signal.SIGKILL, run.stderr
    server.kill()
    server.start()
    async with process(bridge(server, file), TEXTS):
        await until(lambda: in_stream(server)[-1:] == ["after"])
    assert in_stream(server) == ["before", "after"]


def in_a_fork(function: Callable[[], object]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which it does without
        child = os.fork()
    if child == 0:
        function()
        gc.collect()
        os._exit(0)
    os.waitpid(child, 0)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
async def test_what_a_fork_collects_leaves_the_file_alone(tmp_path: Path) -> None:
    databases = [Database(tmp_path / "outbox.db", limit=1_000_000, topics=())]
    await databases[0].open()
    await to_thread.run_sync(gc.collect)  # and the thread forgets what it did before
    in_a_fork(databases.clear)
    assert (tmp_path / "outbox.db-wal").exists()
    await databases[0].close()


# -- who it is from --------------------------------------------------------------------------


async def test_copies_and_backups_lose_nothing(server: RedisServer, tmp_path: Path) -> None:
    file, copy, backup = (tmp_path / name for name in ("outbox.db", "copy.db", "backup.db"))
    for number in range(3):
        async with process(bridge(server, file), TEXTS) as publisher:
            await publisher.publish(TEXTS, f"before {number}")
    await until(lambda: len(in_stream(server)) == 3)
    shutil.copy(file, copy)
    shutil.copy(file, backup)
    async with (
        process(bridge(server, file), TEXTS) as here,
        process(bridge(server, copy), TEXTS) as there,
    ):
        for number in range(20):
            await here.publish(TEXTS, f"here {number}")
            await there.publish(TEXTS, f"there {number}")
        await until(lambda: len(in_stream(server)) == 43)
    shutil.copy(backup, file)
    async with process(bridge(server, file), TEXTS) as restored:
        await restored.publish(TEXTS, "restored")
        await until(lambda: "restored" in in_stream(server))
    assert len({*in_stream(server)}) == len(in_stream(server)) == 44


async def test_what_is_in_two_copies_is_sent_once(server: RedisServer, tmp_path: Path) -> None:
    file, copy = tmp_path / "outbox.db", tmp_path / "copy.db"
    async with away(server, bridge(server, file)) as publisher:
        for number in range(20):
            await publisher.publish(TEXTS, str(number))
    shutil.copy(file, copy)
    server.start()
    carriers = [bridge(server, file), bridge(server, copy)]
    for carrier in carriers:
        async with process(carrier, TEXTS) as publisher:
            await publisher.publish(TEXTS, "new")
            await until(lambda carrier=carrier: carrier.statistics().unsent == 0)  # type: ignore[misc]
    assert sorted(in_stream(server), key=str) == sorted([*map(str, range(20)), "new", "new"])


def former_file(file: Path, texts: Iterable[str], *, origin: str = "f" * 32) -> None:
    """Make a file as versions before had it."""
    with closing(sqlite3.connect(file)) as former, former:
        former.execute("PRAGMA journal_mode = WAL")
        former.execute(
            "CREATE TABLE outbox (number INTEGER PRIMARY KEY AUTOINCREMENT,"
            " topic TEXT NOT NULL, body BLOB NOT NULL)"
        )
        former.execute("CREATE INDEX by_topic ON outbox (topic, number)")
        former.execute("CREATE TABLE origin (name TEXT NOT NULL)")
        former.execute("INSERT INTO origin VALUES (?)", (origin,))
        for number, text in enumerate(texts, 41):
            trace = f',"traceparent":"00-{"1" * 32}-{"2" * 16}-01"' if number % 2 else ""
            body = (
                f'{{"v":1,"id":"{origin}-{number}","topic":"texts","time":1700000000.250000'
                f',"origin":"{origin}","type":"application/json"{trace},"data":{json.dumps(text)}}}'
            )
            former.execute("INSERT INTO outbox VALUES (?, 'texts', ?)", (number, body.encode()))


async def test_what_an_earlier_version_has_left_is_sent(
    server: RedisServer, tmp_path: Path
) -> None:
    file = tmp_path / "outbox.db"
    texts = ["plain", 'a ,"data": in it', "", "ünï", "}"]
    former_file(file, texts)
    carrier = bridge(server, file)
    async with process(carrier, TEXTS) as publisher:
        await publisher.publish(TEXTS, "new")
        await until(lambda: carrier.statistics().unsent == 0)
    assert in_stream(server) == [*texts, "new"]
    entries = server.entries(STREAM)
    assert {entry["id"][:32] for entry in entries[:-1]} == {b"f" * 32}
    assert entries[0]["time"] == b"2023-11-14T22:13:20.250Z"
    assert ["traceparent" in entry for entry in entries[:2]] == [True, False]
    # They are known to the server by the name that they had: what it has taken is not taken again.
    former_file(tmp_path / "again.db", texts)
    again = bridge(server, tmp_path / "again.db")
    async with process(again, TEXTS):
        await until(lambda: again.statistics().unsent == 0)
    assert in_stream(server) == [*texts, "new"]


async def test_rows_of_other_topics_are_told_once(
    server: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "outbox.db"
    both = RedisBridge(server.url, topics=[TEXTS, "bills"], namespace="test", outbox=file)
    async with Scheduler() as scheduler:
        scheduler.add_channel(TEXTS)
        scheduler.add_channel("bills")
        scheduler.register_background_task(both)
        await scheduler.start()
        server.kill()
        for number in range(3):
            await scheduler.publish("bills", str(number))
        await scheduler.publish(TEXTS, "text")
    server.start()
    with caplog.at_level(logging.WARNING, "orchestrio"):
        async with process(bridge(server, file), TEXTS):
            await until(lambda: in_stream(server) == ["text"])
    said = [text for text in caplog.messages if "bills" in text]
    assert len(said) == 1
    assert f"outbox {file} holds 3 messages of topic 'bills'" in said[0]
    assert "texts" not in said[0]


# -- its size --------------------------------------------------------------------------------


async def test_space_is_given_back_while_it_is_used(server: RedisServer, tmp_path: Path) -> None:
    file = tmp_path / "outbox.db"
    carrier = bridge(server, file)
    async with away(server, carrier) as publisher:
        for number in range(8):
            async with create_task_group() as group:
                for _ in range(8):
                    group.start_soon(publisher.publish, TEXTS, f"{number}" * 200_000)
        assert size_of(file) > 8 * 8 * 200_000
        server.start()
        await until(lambda: carrier.statistics().unsent == 0)
        await until(lambda: size_of(file) < 2_000_000)
        await publisher.publish(TEXTS, "more")
    assert len(in_stream(server)) == 65


async def test_a_file_of_an_earlier_version_gives_space_back(
    server: RedisServer, tmp_path: Path
) -> None:
    file = tmp_path / "outbox.db"
    former_file(file, [f"{number}" * 200_000 for number in range(10, 30)])
    assert size_of(file) > 20 * 200_000
    carrier = bridge(server, file)
    async with process(carrier, TEXTS):
        await until(lambda: carrier.statistics().unsent == 0)
        await until(lambda: size_of(file) < 2_000_000)


async def test_a_full_outbox_holds_publishers_up(
    server: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "outbox.db"
    carrier = bridge(server, file, max_outbox=1_000_000)
    texts = [f"{number:02}" * 50_000 for number in range(60)]
    stored: list[str] = []
    with caplog.at_level(logging.WARNING, "orchestrio"):
        async with away(server, carrier) as publisher:

            async def publish() -> None:
                for text in texts:
                    await publisher.publish(TEXTS, text)
                    stored.append(text)

            async with create_task_group() as group:
                group.start_soon(publish)
                await until(lambda: any("is full" in text for text in caplog.messages))
                assert len(stored) < 30
                assert size_of(file) < 8_000_000
                server.start()
                with fail_after(IN_TIME):
                    await until(lambda: len(stored) == 60)
            await until(lambda: carrier.statistics().unsent == 0)
    assert in_stream(server) == texts
    said = [text for text in caplog.messages if "is full" in text]
    assert len(said) == 1
    assert str(file) in said[0]
    assert "max_outbox is 1000000" in said[0]


async def test_a_stop_stores_what_a_full_outbox_has_accepted(
    server: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "outbox.db"
    texts = [f"{number:02}" * 50_000 for number in range(40)]
    accepted: list[str] = []
    async with away(server, bridge(server, file, max_outbox=1_000_000)) as publisher:

        async def publish() -> None:
            for text in texts:
                accepted.append(text)
                await publisher.publish(TEXTS, text)

        async with create_task_group() as group:
            group.start_soon(publish)
            await until(lambda: any("is full" in text for text in caplog.messages))
            group.cancel_scope.cancel()
        for text in ("a", "b", "c"):
            publisher.bus.publish_nowait(TEXTS, text)
            accepted.append(text)
    server.start()
    async with process(bridge(server, file), TEXTS):
        await until(lambda: in_stream(server)[-1:] == ["c"])
    assert in_stream(server) == accepted


@pytest.mark.parametrize("size", [0, 999_999, "1", True])
def test_a_bound_is_a_number_of_bytes_with_room_for_something(size: int) -> None:
    with pytest.raises(ValueError, match="max_outbox"):
        bridge("redis://localhost", "outbox.db", max_outbox=size)


# -- trouble that passes ---------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="there is no RLIMIT_FSIZE")
async def test_a_full_disk_is_waited_for(
    server: RedisServer, tmp_path: Path, anyio_backend_name: str
) -> None:
    file = tmp_path / "outbox.db"
    command = [sys.executable, str(FULL_DISK), anyio_backend_name, server.url, str(file)]
    run = await to_thread.run_sync(in_a_process, command)
    assert run.stdout.splitlines() == ["3 accepted", "3 accepted", "40 accepted"], run.stderr
    assert run.returncode == 0, run.stderr
    warnings = [line for line in run.stderr.splitlines() if "cannot be used now" in line]
    assert len(warnings) == 1, run.stderr
    assert str(file) in warnings[0]
    assert run.stderr.count("can be used again") == 1
    assert len(in_stream(server)) == 40
    assert len({*in_stream(server)}) == 40


async def test_something_is_set_aside_to_give_up_when_the_disk_is_full(
    server: RedisServer, tmp_path: Path
) -> None:
    """What was sent could not be deleted otherwise; `full_disk.py` fills one."""
    file = tmp_path / "outbox.db"
    spare = tmp_path / "outbox.db-spare"
    async with process(bridge(server, file), TEXTS) as publisher:
        await publisher.publish(TEXTS, "one")
        assert spare.stat().st_size == 8_000_000
    spare.unlink()
    async with process(bridge(server, file), TEXTS):
        assert spare.stat().st_size == 8_000_000
