"""A TCP proxy that drops, delays, half-closes and answers what goes through it, in a thread."""

from __future__ import annotations

import re
import select
import socket
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Self


class Proxy:
    """Listens on a free port of the loopback interface, and passes all on to another one.

    :param port: where to
    """

    def __init__(self, port: int) -> None:
        self.target = port
        #: seconds by which each piece of the server's answers comes later
        self.delay = 0.0
        #: whether to swallow all that comes, in both directions
        self.silent = False
        #: how to answer each command of Redis, in place of the server
        self.answer: bytes | None = None
        self._lost: set[socket.socket] = set()  # of what was sent here something is missing
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._over = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over = True
        self._thread.join()
        self._listener.close()
        for pair in self._pairs:
            for end in pair:
                end.close()

    def drop(self) -> None:
        """Break all connections, with a reset."""
        for pair in self._pairs:
            for end in pair:
                with suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    end.shutdown(socket.SHUT_RDWR)

    def half_close(self) -> None:
        """End what the server says, and leave the other direction open."""
        for client, _ in self._pairs:
            with suppress(OSError):
                client.shutdown(socket.SHUT_WR)

    def _run(self) -> None:
        while not self._over:
            ends = [end for pair in self._pairs for end in pair]
            ready, _, _ = select.select([self._listener, *ends], [], [], 0.02)
            for end in ready:
                if end is self._listener:
                    client, _ = self._listener.accept()
                    try:
                        server = socket.create_connection(("127.0.0.1", self.target), 5)
                    except OSError:
                        client.close()
                        continue
                    self._pairs.append((client, server))
                else:
                    self._pass_on(end)

    def _pass_on(self, end: socket.socket) -> None:
        for pair in list(self._pairs):
            if end not in pair:
                continue
            client, server = pair
            other = server if end is client else client
            try:
                data = end.recv(65536)
                if data and self.answer is not None and end is client:
                    client.sendall(self.answer * _commands(data))
                elif data and self.silent:
                    self._lost.add(client)  # nothing comes after what is missing
                elif data and client not in self._lost:
                    if end is server and self.delay:
                        time.sleep(self.delay)
                    other.sendall(data)
            except OSError:
                data = b""
            if not data:
                self._pairs.remove(pair)
                client.close()
                server.close()


def _commands(data: bytes) -> int:
    """How many commands of Redis there are in some bytes, if none of their words has a star."""
    return len(re.findall(rb"(?:^|\n)\*\d", data))
