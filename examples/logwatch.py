"""Follows an access log and hands each line to three tasks: a rate, an alerter, a database.

    python examples/logwatch.py                          # ten seconds of a demonstration
    python examples/logwatch.py /var/log/nginx/access.log --database hits.db    # until Ctrl-C

    Traffic ──▶ access.log ──▶ Follower ──▶ "stored" (waits when full) ──▶ Database
                                       ╰──▶ "live" (overwrites when full) ──▶ Rate, Alerter

What must not be lost goes through a channel that blocks; what may be skipped goes through one
that does not, so that a slow alerter holds nobody up. At the end the numbers are compared, and
the exit status is 1 if a line was lost. Rotation by renaming needs a POSIX system.
"""

from __future__ import annotations

import logging
import os
import random
import re
import sqlite3
import sys
import time
from argparse import ArgumentParser, Namespace
from collections import Counter, deque
from contextlib import closing
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

from anyio import Event, Lock, get_cancelled_exc_class, move_on_after, sleep, to_thread
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from orchestrio import BackgroundTask, ChannelConfig, EventTask, Scheduler, Topic

TIME_FORMAT = "%d/%b/%Y:%H:%M:%S %z"
LINE = re.compile(
    r'(?P<host>\S+) \S+ \S+ \[(?P<time>[^]]+)\] "(?P<method>\S+) (?P<path>\S+)[^"]*"'
    r" (?P<status>\d+) (?P<size>\d+|-)"
)


class Hit(BaseModel):
    """One line of an access log in Common Log Format, or a longer one that begins so."""

    model_config = ConfigDict(frozen=True)

    host: str
    time: Annotated[datetime, BeforeValidator(lambda text: datetime.strptime(text, TIME_FORMAT))]
    method: str
    path: str
    status: Annotated[int, Field(ge=100, le=599)]
    size: Annotated[int, BeforeValidator(lambda text: 0 if text == "-" else text)]


def parse(line: bytes) -> Hit | None:
    match = LINE.match(line.decode(errors="replace"))
    try:
        return Hit.model_validate(match.groupdict()) if match else None
    except ValidationError:
        return None


STORED = Topic("stored", Hit)
LIVE = Topic("live", Hit)


class Tail:
    """The whole lines of a file that grows, is renamed away, or is cut to nothing.

    A last line without its newline is kept until the rest of it comes. A file that was cut and
    has grown beyond its old size between two looks cannot be told from one that only grew.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rotations = 0
        self._file = path.open("rb", buffering=0)
        self._partial = b""

    def read(self, size: int = 65536) -> list[bytes]:
        renamed = self._was_renamed()  # looked at first: nothing is added to it after that
        chunk = self._file.read(size)
        if not chunk and (renamed or self._was_cut()):
            self.rotations += 1
            self._file.close()
            self._file = self.path.open("rb", buffering=0)
            chunk = self._file.read(size)
            if self._partial:  # nothing will complete it any more
                chunk = b"\n" + chunk
        *lines, self._partial = (self._partial + chunk).split(b"\n")
        return lines

    def close(self) -> None:
        self._file.close()

    def _was_renamed(self) -> bool:
        try:
            return not os.path.samestat(self.path.stat(), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            return False  # the new file is still to come

    def _was_cut(self) -> bool:
        return os.fstat(self._file.fileno()).st_size < self._file.tell()


class Traffic(BackgroundTask):
    """Stands for a web server: some 2,000 lines a second, a few of them bad, and one rotation."""

    def __init__(self, path: Path, lines: int | None) -> None:
        self.path = path
        self.lines = sys.maxsize if lines is None else lines
        self.produced = 0
        self.over = Event()
        self._rotate_at = min(1000, self.lines // 2)

    async def initialize(self) -> None:
        await to_thread.run_sync(self.path.touch)

    async def execute(self) -> None:
        try:
            while self.produced < self.lines:
                await to_thread.run_sync(self._write_some)
                await sleep(0.04)
        finally:
            self.over.set()

    def _write_some(self) -> None:
        goal = self._rotate_at if self.produced < self._rotate_at else self.lines
        count = min(100, goal - self.produced)
        text = "".join(self._line(self.produced + n) for n in range(count))
        with self.path.open("a") as file:
            file.write(text[:-20])
            file.flush()
            time.sleep(0.01)  # whoever reads now finds a line without its end
            file.write(text[-20:])
        self.produced += count
        if self.produced == self._rotate_at:
            self.path.rename(self.path.with_suffix(".log.1"))

    def _line(self, number: int) -> str:
        if number % 250 == 99:
            return f"upstream timed out while reading request {number}\n"
        status = 503 if number % 400 == 199 else random.choice([200, 200, 200, 304, 404])
        now = datetime.now().astimezone().strftime(TIME_FORMAT)
        size = random.choice(["-", "512", "20480"])
        return f'192.0.2.{number % 250} - - [{now}] "GET /item/{number} HTTP/1.1" {status} {size}\n'


class Follower(BackgroundTask):
    """Reads the file, parses its lines, and publishes them on both channels."""

    def __init__(
        self, scheduler: Scheduler, path: Path, traffic: Traffic | None, limit: int | None = None
    ) -> None:
        self.scheduler = scheduler
        self.path = path
        self.traffic = traffic
        self.limit = limit
        self.parsed = self.bad = 0
        self._pending: deque[bytes] = deque()
        self._stored = scheduler.clone_sender(STORED)
        self._live = scheduler.clone_sender(LIVE)

    async def initialize(self) -> None:
        self.tail = await to_thread.run_sync(Tail, self.path)
        print(f"following {self.path}; Ctrl-C stops", flush=True)

    async def execute(self) -> None:
        try:
            while self.limit is None or self.parsed + self.bad < self.limit:
                over = self.traffic is not None and self.traffic.over.is_set()
                if not await self._publish_some():
                    if over:
                        break
                    await sleep(0.05)
        except get_cancelled_exc_class():
            # A stop cancels all background tasks at once, and then lets event tasks handle what
            # was published. The demonstration wants every line it wrote to be among that.
            if self.traffic is not None:
                with move_on_after(5, shield=True):
                    await self.traffic.over.wait()
                    while await self._publish_some():
                        pass
            raise
        await self.scheduler.shutdown()  # all is read: the timers need not go on

    async def _publish_some(self) -> bool:
        if not self._pending:
            self._pending.extend(await to_thread.run_sync(self.tail.read))
        some = bool(self._pending)
        while self._pending and self.parsed + self.bad != self.limit:
            hit = parse(self._pending[0])
            if hit is None:
                self.bad += 1
            else:
                await self._stored.send(hit)  # waits for room; if cancelled, it was not sent
                self._live.send_nowait(hit)  # never waits
                self.parsed += 1
            self._pending.popleft()
        return some

    async def shutdown(self) -> None:
        self.tail.close()


class Database(EventTask[Hit]):
    """Writes each hit into SQLite, in batches: enough of them, a while passed, or the end."""

    subscribed_event = STORED

    def __init__(self, path: Path) -> None:
        self.path = path
        self._buffer: list[Hit] = []
        self._lock = Lock()

    async def initialize(self) -> None:
        await to_thread.run_sync(self._open)

    async def handle_event(self, hit: Hit) -> None:
        self._buffer.append(hit)
        if len(self._buffer) >= 500:
            await self.flush()

    async def flush_regularly(self) -> None:
        while True:
            await sleep(0.5)
            await self.flush()

    async def flush(self) -> None:
        async with self._lock:
            if batch := self._buffer.copy():
                await to_thread.run_sync(self._insert, batch)
                del self._buffer[: len(batch)]  # not before: a cancelled flush has lost nothing

    async def shutdown(self) -> None:
        with closing(self._connection):
            await self.flush()

    def _open(self) -> None:
        # Any worker thread may use the connection; the lock lets one at a time.
        self._connection = sqlite3.connect(self.path, check_same_thread=False)
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS hits (host, time, method, path, status, size)"
        )
        self._rows_before = self._count()

    def _insert(self, hits: list[Hit]) -> None:
        with self._connection:  # one transaction
            self._connection.executemany(
                "INSERT INTO hits VALUES (:host, :time, :method, :path, :status, :size)",
                [hit.model_dump(mode="json") for hit in hits],
            )

    def _count(self) -> int:
        with closing(sqlite3.connect(self.path)) as connection:
            return int(connection.execute("SELECT COUNT(*) FROM hits").fetchone()[0])

    def new_rows(self) -> int:
        return self._count() - self._rows_before


class Alerter(EventTask[Hit]):
    """Tells somebody of each server error, which takes its time."""

    subscribed_event = LIVE

    def __init__(self) -> None:
        self.alerts = 0

    async def handle_event(self, hit: Hit) -> None:
        if hit.status >= 500:
            await sleep(0.5)  # stands for a call to a pager
            self.alerts += 1
            print(f"alert: {hit.status} for {hit.method} {hit.path}")

    async def handle_lag(self, missed: int) -> None:
        print(f"alerter: {missed} hits went by meanwhile")


def watch(options: Namespace, folder: Path) -> bool:
    """Run all of it and print a summary; return whether every line can be accounted for."""
    scheduler = Scheduler()
    scheduler.add_channel(STORED, ChannelConfig(capacity=1000, overflow="block"))
    scheduler.add_channel(LIVE, ChannelConfig(capacity=200, overflow="drop_oldest"))

    # Tasks are initialised in the order of registration and shut down in the reverse one.
    database = Database(options.database or folder / "hits.db")
    scheduler.register_event_task(database, name="database")
    alerter = Alerter()
    scheduler.register_event_task(alerter, name="alerter")
    seconds: Counter[datetime] = Counter()

    @scheduler.on(LIVE, name="rate")
    async def count_by_second(hit: Hit) -> None:
        seconds[hit.time] += 1

    if options.path is None:
        traffic = Traffic(folder / "access.log", options.lines)
        scheduler.register_background_task(traffic)
        follower = Follower(scheduler, traffic.path, traffic)
    else:
        traffic = None
        follower = Follower(scheduler, options.path, None, options.lines)
    scheduler.register_background_task(follower)
    scheduler.background(name="flush timer")(database.flush_regularly)
    if options.seconds is not None:

        @scheduler.background(name="time limit")
        async def stop_in_time() -> None:
            await sleep(options.seconds)
            await scheduler.shutdown()

    scheduler.run_sync(options.backend)

    status = {snapshot.name: snapshot for snapshot in scheduler.status()}
    read = follower.parsed + follower.bad
    produced = traffic.produced if traffic else read
    rows = database.new_rows()
    complete = produced == read == rows + follower.bad
    summary = {
        "lines produced": produced if traffic else "by others",
        "lines read": read,
        "  parsed": follower.parsed,
        "  bad": follower.bad,
        "rotations": follower.tail.rotations,
        "rows in the database": rows,
        "hits in the best second": max(seconds.values(), default=0),
        "  hits not counted": status["rate"].missed,
        "alerts": alerter.alerts,
        "  hits looked at": status["alerter"].handled,
        "  hits missed by lag": status["alerter"].missed,
    }
    print("\n" + "\n".join(f"{label:<24}{number:>10}" for label, number in summary.items()))
    print("nothing was lost" if complete else "LINES WERE LOST")
    return complete


def main() -> int:
    parser = ArgumentParser(description="Follow an access log; without a path, a demonstration.")
    parser.add_argument("path", type=Path, nargs="?", help="a log file, read from its beginning")
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    parser.add_argument("--database", type=Path, help="an SQLite file to keep the hits in")
    parser.add_argument("--seconds", type=float, help="stop after so long")
    parser.add_argument("--lines", type=int, help="stop after so many lines")
    options = parser.parse_args()
    if options.path is not None and not options.path.is_file():
        parser.error(f"no such file: {options.path}")
    if options.path is None and options.lines is None and options.seconds is None:
        options.seconds = 10.0
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)-7s %(message)s", datefmt="%H:%M:%S"
    )
    with TemporaryDirectory() as folder:
        return 0 if watch(options, Path(folder)) else 1


if __name__ == "__main__":
    raise SystemExit(main())
