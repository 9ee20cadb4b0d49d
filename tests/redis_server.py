"""Redis or Valkey servers of the tests' own, on free ports of the loopback interface.

The server is ``REDIS_BINARY``, or the one on PATH.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from binascii import crc_hqx
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BufferedRWPair
from pathlib import Path
from typing import Self

_NAMES = (
    [os.environ["REDIS_BINARY"]]
    if "REDIS_BINARY" in os.environ
    else ["redis-server", "valkey-server"]
)
BINARY = next(filter(None, map(shutil.which, _NAMES)), None)
"""The server, if there is one on this machine."""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


Reply = int | bytes | None | list["Reply"]


class RedisServer:
    """A server process with its files in a folder; it outlives `kill` and `start` by its AOF.

    :param folder: for its files
    :param options: what else to tell it, as on its command line
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self.port: int = free_port()
        self.folder = folder
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self, *more: str) -> Self:
        assert BINARY is not None
        self.process = subprocess.Popen(
            [
                *(BINARY, "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""),
                *("--dir", str(self.folder), "--logfile", str(self.folder / "log")),
                *("--appendonly", "yes", "--appendfsync", "always", *self.options, *more),
            ]
        )
        deadline = time.monotonic() + 20
        while True:
            try:
                if self.ask("PING") == b"PONG":
                    return self
            except (OSError, RedisError) as error:
                if "NOAUTH" in str(error):
                    return self
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                time.sleep(0.01)

    def wait_until(self, true: Callable[[], bool]) -> None:
        """Wait for something that it may not answer yet."""
        deadline = time.monotonic() + 20
        while True:
            with suppress(OSError, RedisError):
                if true():
                    return
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def kill(self) -> None:
        """End it as ``kill -9`` does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def ask(self, *words: str | bytes | int, before: Sequence[str] = ()) -> Reply:
        """Send one command, and return the answer.

        :param words: the command
        :param before: a command to send before it, such as AUTH
        """
        with self.session() as session:
            if before:
                session.ask(*before)
            return session.ask(*words)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Have one connection for several commands."""
        with (
            socket.create_connection(("127.0.0.1", self.port), 5) as connection,
            connection.makefile("rwb") as stream,
        ):
            yield Session(stream)

    def info(self, name: str) -> str:
        """One value of INFO, or of CLUSTER INFO if its name begins so; empty if there is none."""
        words = ("CLUSTER", "INFO") if name.startswith("cluster_") else ("INFO",)
        text = self.ask(*words)
        assert isinstance(text, bytes)
        for line in text.decode().splitlines():
            if line.startswith(f"{name}:"):
                return line.partition(":")[2]
        return ""

    def wait_for(self, name: str, value: str) -> None:
        """Wait until INFO says something."""
        self.wait_until(lambda: self.info(name) == value)

    def clients(self) -> list[dict[str, str]]:
        """The connections of CLIENT LIST, without those that ask, or move keys."""
        text = self.ask("CLIENT", "LIST", "TYPE", "normal")
        assert isinstance(text, bytes)
        lines = [
            dict(pair.split("=", 1) for pair in line.split()) for line in text.decode().split("\n")
        ]
        return [
            line for line in lines if line and not line["cmd"].startswith(("client", "restore"))
        ]

    def all_keys(self) -> list[str]:
        found = self.ask("KEYS", "*")
        assert isinstance(found, list)
        return sorted(key.decode() for key in found if isinstance(key, bytes))

    def entries(self, stream: str) -> list[dict[str, bytes]]:
        """The fields of all entries of a stream."""
        found = self.ask("XRANGE", stream, "-", "+")
        assert isinstance(found, list)
        entries: list[dict[str, bytes]] = []
        for entry in found:
            assert isinstance(entry, list)
            fields = entry[1]
            assert isinstance(fields, list)
            names = [name.decode() for name in fields[::2] if isinstance(name, bytes)]
            values = [value for value in fields[1::2] if isinstance(value, bytes)]
            entries.append(dict(zip(names, values, strict=True)))
        return entries


class Session:
    """A connection to a server."""

    def __init__(self, stream: BufferedRWPair) -> None:
        self._stream = stream

    def ask(self, *words: str | bytes | int) -> Reply:
        """Send one command, and return the answer."""
        self.begin(*words)
        return _read(self._stream)

    def begin(self, *words: str | bytes | int) -> None:
        """Send one command, and wait for nothing."""
        self._stream.write(b"*%d\r\n" % len(words))
        for word in words:
            raw = word if isinstance(word, bytes) else str(word).encode()
            self._stream.write(b"$%d\r\n%b\r\n" % (len(raw), raw))
        self._stream.flush()


class Sentinel(RedisServer):
    """A sentinel that watches one primary, and its replicas.

    :param folder: for its files
    :param primary: which it watches, by the name of ``main``
    """

    def __init__(self, folder: Path, primary: RedisServer) -> None:
        super().__init__(folder)
        self.primary = primary

    def start(self, *more: str) -> Self:
        assert BINARY is not None
        file = self.folder / "sentinel.conf"
        lines = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f"dir {self.folder}",
            "logfile sentinel.log",
        ]
        lines += [f"sentinel monitor main 127.0.0.1 {self.primary.port} 1"]
        lines += [
            "sentinel down-after-milliseconds main 1000",
            "sentinel failover-timeout main 3000",
        ]
        file.write_text("\n".join([*lines, *more]) + "\n")
        self.process = subprocess.Popen([BINARY, str(file), "--sentinel"])
        self.wait_until(lambda: self.ask("PING") == b"PONG")
        for period in ("INFO", "PUBLISH"):  # or a failover takes it ten seconds
            self.ask("SENTINEL", "DEBUG", f"{period}-PERIOD", 500)
        return self

    def wait_for_replicas(self, count: int) -> None:
        """Wait until it knows some replicas, and could promote one."""

        def known() -> bool:
            found = self.ask("SENTINEL", "REPLICAS", "main")
            assert isinstance(found, list)
            flags = [dict(zip(each[::2], each[1::2], strict=True)) for each in _lists(found)]
            good = [each for each in flags if each[b"flags"] == b"slave"]
            return len([each for each in good if each[b"master-link-status"] == b"ok"]) >= count

        self.wait_until(known)


class Cluster:
    """Three nodes that share the slots.

    :param folder: for their files
    """

    def __init__(self, folder: Path) -> None:
        self.nodes: list[RedisServer] = []
        for number in range(3):
            (folder / f"node{number}").mkdir()
            bus = str(free_port())
            options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
            self.nodes.append(
                RedisServer(folder / f"node{number}", *options, "--cluster-port", bus)
            )

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def start(self) -> Self:
        for number, node in enumerate(self.nodes):
            node.start()
            first, last = 16384 * number // 3, 16384 * (number + 1) // 3 - 1
            node.ask("CLUSTER", "ADDSLOTSRANGE", first, last)
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in self.nodes[1:]:
            bus = node.options[-1]
            self.nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        self.wait_until_it_serves()
        return self

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()

    def wait_until_it_serves(self) -> None:
        for node in self.nodes:
            node.wait_for("cluster_state", "ok")

    def owner(self, slot: int) -> RedisServer:
        """Return the node that has a slot."""
        found = self.nodes[0].ask("CLUSTER", "SLOTS")
        assert isinstance(found, list)
        for first, last, owner, *_ in _lists(found):
            assert isinstance(first, int)
            assert isinstance(last, int)
            assert isinstance(owner, list)
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == owner[1])
        raise LookupError(slot)

    def begin_move(self, slot: int, target: RedisServer) -> RedisServer:
        """Begin to move a slot, and return the node that has had it."""
        source = self.owner(slot)
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", _text(source.ask("CLUSTER", "MYID")))
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", _text(target.ask("CLUSTER", "MYID")))
        return source

    def end_move(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """Move what lies in a slot, one key after the other, and tell all nodes."""
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 1):
            assert isinstance(keys, list)
            for key in keys:
                source.ask("MIGRATE", "127.0.0.1", target.port, _text(key), 0, 5000)
        new = _text(target.ask("CLUSTER", "MYID"))
        for node in (target, source, *self.nodes):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", new)


def slot_of(tag: str) -> int:
    """The slot of all keys with this in braces."""
    return crc_hqx(tag.encode(), 0) % 16384


class RedisError(Exception):
    """The server has answered with an error."""


def _text(reply: Reply) -> str:
    assert isinstance(reply, bytes)
    return reply.decode()


def _lists(reply: list[Reply]) -> list[list[Reply]]:
    return [each for each in reply if isinstance(each, list)]


def _read(stream: BufferedRWPair) -> Reply:
    head = stream.readline().rstrip()
    kind, rest = head[:1], head[1:]
    if kind == b"-":
        raise RedisError(rest.decode())
    if kind == b":":
        return int(rest)
    if kind == b"$":
        return None if rest == b"-1" else stream.read(int(rest) + 2)[:-2]
    if kind == b"*":
        return [_read(stream) for _ in range(int(rest))]
    if not kind:
        raise ConnectionResetError("the server has closed the connection")
    return rest
