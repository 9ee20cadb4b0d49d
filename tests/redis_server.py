"""A Redis or Valkey server of the tests' own, on a free port of the loopback interface."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from io import BufferedRWPair
from pathlib import Path
from typing import Self

BINARY = shutil.which("redis-server") or shutil.which("valkey-server")
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
        with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            stream = connection.makefile("rwb")
            answer: Reply = None
            for command in ([before] if before else []) + [words]:
                stream.write(b"*%d\r\n" % len(command))
                for word in command:
                    raw = word if isinstance(word, bytes) else str(word).encode()
                    stream.write(b"$%d\r\n%b\r\n" % (len(raw), raw))
                stream.flush()
                answer = _read(stream)
            stream.close()
            return answer

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


class RedisError(Exception):
    """The server has answered with an error."""


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
