"""Chaos: all that happens to a bridge in production, for minutes; then: is anything missing?

    python tests/chaos/run.py [--minutes 10] [--seed 1] [--backend asyncio|trio]

Needs redis-server on PATH. Publishers with an outbox on disk, and workers of two versions of a
program, talk over a primary with a replica, through a proxy that always leads to the primary, as a
virtual address does. Meanwhile processes are killed, paused and stopped, forked and replaced by
another version; the primary is demoted, killed and frozen, its memory is full, connections break
and fall silent, and now and then somebody empties the server.

At the end all is mended, and the workers have two minutes. Every job that was accepted was handled,
or is in the dead letters, or is among those that the bridges counted as lost; otherwise it says
which are missing, and ends with status 1. The failover is that of the command ``FAILOVER``, which
waits for the replica: without it Redis itself may lose what it has just accepted.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from redis_server import RedisError, RedisServer
from tcp_proxy import Proxy

PROGRAM: Final = Path(__file__).with_name("programs.py")
STREAM: Final = "{chaos:jobs}"
PATIENCE: Final = 120.0


@dataclass
class Program:
    """A process that is begun anew when it has ended."""

    role: str
    name: str
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    paused: bool = False

    def begin(self) -> None:
        if self.process is None or self.process.poll() is not None:
            self.process = subprocess.Popen(self.command)

    def send(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)


@dataclass
class Chaos:
    """The cluster, and what is done to it."""

    folder: Path
    backend: str
    dice: random.Random
    counts: Counter[str] = field(default_factory=Counter)
    flushed: bool = False

    def __post_init__(self) -> None:
        folders = [self.folder / "one", self.folder / "two"]
        for place in folders:
            place.mkdir()
        # With a backlog that a replica goes on from after it was away.
        options = ("--repl-diskless-sync-delay", "0", "--repl-backlog-size", "64mb")
        self.primary, self.replica = (RedisServer(place, *options).start() for place in folders)
        self.follow()
        self.proxy = Proxy(self.primary.port)
        self.proxy.__enter__()
        self.url = f"redis://127.0.0.1:{self.proxy.port}/0"
        self.programs = [
            *(self.program("publisher", name, outbox=True) for name in ("first1", "second2")),
            *(self.program("worker", name) for name in ("a1", "b1", "c2")),
        ]

    def follow(self) -> None:
        """Make the one a replica of the other, and wait until it has all."""
        self.replica.ask("REPLICAOF", "127.0.0.1", self.primary.port)
        self.until(self.is_followed, "the replica to follow")

    def is_followed(self) -> bool:
        found = self.primary.ask("INFO", "replication")
        return isinstance(found, bytes) and b"state=online" in found

    def until(self, true: Callable[[], bool], what: str, seconds: float = 30) -> None:
        since = time.monotonic()
        while True:
            try:
                if true():
                    return
            except (OSError, RedisError):
                pass
            if time.monotonic() - since > seconds:
                raise TimeoutError(f"waited {seconds:g} s for {what}")
            time.sleep(0.05)

    def program(self, role: str, name: str, *, outbox: bool = False) -> Program:
        file = self.folder / f"{role}-{name}.txt"
        command = [*(sys.executable, str(PROGRAM), role, self.backend), self.url, str(file), name]
        if outbox:
            command.append(str(self.folder / f"{name}.db"))
        return Program(role, name, command)

    # -- what happens --------------------------------------------------------------------------

    def any(self, role: str) -> Program:
        return self.dice.choice([one for one in self.programs if one.role == role])

    def kill_worker(self) -> None:
        self.any("worker").send(signal.SIGKILL)

    def kill_publisher(self) -> None:
        self.any("publisher").send(signal.SIGKILL)

    def stop_worker(self) -> None:
        self.any("worker").send(signal.SIGTERM)

    def pause_worker(self) -> None:
        worker = self.any("worker")
        worker.send(signal.SIGSTOP)
        time.sleep(self.dice.uniform(1, 5))
        worker.send(signal.SIGCONT)

    def upgrade(self) -> None:
        """Stop a worker of one version, and begin one of the other."""
        worker = self.any("worker")
        worker.send(signal.SIGTERM)
        if worker.process is not None:
            worker.process.wait()
        old = [one for one in self.programs if one.role == "worker" and one.name.endswith("1")]
        version = 2 if worker in old or len(old) > 1 else 1  # and never none of the second
        self.programs.remove(worker)
        name = f"u{self.counts.total()}{version}"
        self.programs.append(self.program("worker", name))

    def fork(self) -> None:
        self.programs.append(self.program("forks", f"f{self.counts.total()}"))
        self.programs[-1].begin()

    def demote(self) -> None:
        self.primary.ask("FAILOVER", "TO", "127.0.0.1", self.replica.port)
        self.until(lambda: self.replica.ask("ROLE") is not None and self.is_primary(), "failover")
        self.primary, self.replica = self.replica, self.primary
        time.sleep(self.dice.uniform(0, 1.5))  # for so long all is READONLY
        self.proxy.target = self.primary.port
        self.proxy.drop()
        self.until(self.is_followed, "the demoted primary to follow")

    def is_primary(self) -> bool:
        role = self.replica.ask("ROLE")
        return isinstance(role, list) and role[0] == b"master"

    def crash_primary(self) -> None:
        self.primary.kill()
        time.sleep(self.dice.uniform(0, 2))
        self.primary.start()
        self.until(self.is_followed, "the replica to follow")

    def freeze_primary(self) -> None:
        self.primary.signal(signal.SIGSTOP)
        time.sleep(self.dice.uniform(0.5, 4))
        self.primary.signal(signal.SIGCONT)

    def break_connections(self) -> None:
        self.proxy.drop()

    def half_close(self) -> None:
        self.proxy.half_close()

    def fall_silent(self) -> None:
        self.proxy.silent = True
        time.sleep(self.dice.uniform(0.5, 4))
        self.proxy.drop()
        self.proxy.silent = False

    def fill_memory(self) -> None:
        self.primary.ask("CONFIG", "SET", "maxmemory", "1mb")
        time.sleep(self.dice.uniform(1, 4))
        self.primary.ask("CONFIG", "SET", "maxmemory", "0")

    def lose_group(self) -> None:
        self.primary.ask("XGROUP", "DESTROY", STREAM, "workers")

    def flush(self) -> None:
        """Empty the server, when the bridges have heard how far the others are."""
        time.sleep(4)
        self.flushed = True
        self.primary.ask("FLUSHALL")

    def strike(self) -> None:
        weights: dict[Callable[[], None], int] = {
            self.kill_worker: 4,
            self.kill_publisher: 4,
            self.stop_worker: 4,
            self.pause_worker: 2,
            self.upgrade: 3,
            self.fork: 2,
            self.demote: 3,
            self.crash_primary: 2,
            self.freeze_primary: 2,
            self.break_connections: 2,
            self.half_close: 1,
            self.fall_silent: 2,
            self.fill_memory: 2,
            self.lose_group: 1,
            self.flush: 1,
        }
        (what,) = self.dice.choices(list(weights), list(weights.values()))
        self.counts[what.__name__] += 1
        print(f"{time.monotonic() - self.since:6.1f} s  {what.__name__}", flush=True)
        try:
            what()
        except (OSError, RedisError) as error:
            print(f"          {type(error).__name__}: {error}", flush=True)

    def play(self, minutes: float) -> bool:
        self.since = time.monotonic()
        for program in self.programs:
            program.begin()
        time.sleep(3)
        while time.monotonic() - self.since < 60 * minutes:
            self.strike()
            time.sleep(self.dice.uniform(0.5, 4))
            for program in self.programs:
                if program.role != "forks":
                    program.begin()
        return self.account()

    # -- the account ---------------------------------------------------------------------------

    def read(self) -> dict[str, Counter[str]]:
        found: dict[str, Counter[str]] = {"accepted": Counter(), "handled": Counter()}
        found["lost"] = Counter()
        for file in self.folder.glob("*.txt*"):
            for line in file.read_text(errors="replace").splitlines():
                word, _, rest = line.partition(" ")
                if word == "lost":
                    found["lost"]["messages"] += int(rest)
                elif word in found:
                    found[word][rest] += 1
        for letter in self.primary.entries(f"{STREAM}:dead"):
            found["handled"][json.loads(letter["m"]).get("data", {}).get("name", "?")] += 1
            self.counts["dead letters"] += 1
        return found

    def account(self) -> bool:
        for program in self.programs:
            program.send(signal.SIGCONT)
            if program.role == "publisher":
                program.send(signal.SIGTERM)
        for program in self.programs:
            if program.role in ("publisher", "forks") and program.process is not None:
                program.process.wait(PATIENCE)
        for name in ("last2", "rest2"):
            self.programs.append(self.program("worker", name))
        senders = [self.program("publisher", name, outbox=True) for name in ("first1", "second2")]
        for program in (*self.programs[-2:], *senders):  # what waits on disk is sent
            program.begin()
        time.sleep(10)
        for program in senders:
            program.send(signal.SIGTERM)
            assert program.process is not None
            program.process.wait(PATIENCE)
        since = time.monotonic()
        while True:
            self.counts.pop("dead letters", None)
            found = self.read()
            missing = set(found["accepted"]) - set(found["handled"])
            lost = found["lost"]["messages"]
            if len(missing) <= lost * self.flushed or time.monotonic() - since > PATIENCE:
                break
            time.sleep(1)
        twice = sum(times - 1 for times in found["handled"].values())
        print(
            f"\n{len(found['accepted']):,} jobs accepted, {len(found['handled']):,} handled,"
            f" {twice:,} of them again; {len(missing):,} never, and {lost:,} counted as lost\n"
            + ", ".join(f"{name} {times}" for name, times in sorted(self.counts.items()))
        )
        if len(missing) <= lost * self.flushed:
            return True
        print(f"missing: {sorted(missing)[:50]}", file=sys.stderr)
        return False

    def end(self) -> None:
        for program in self.programs:
            program.send(signal.SIGCONT)
            program.send(signal.SIGKILL)
        self.proxy.__exit__(None, None, None)
        self.primary.kill()
        self.replica.kill()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    parser.add_argument("--keep", action="store_true", help="keep the files of the processes")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    chaos = Chaos(folder, options.backend, random.Random(options.seed))
    right = False
    try:
        right = chaos.play(options.minutes)
    finally:
        chaos.end()
        if options.keep or not right:
            print(f"the files are in {folder}")
        else:
            shutil.rmtree(folder)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
