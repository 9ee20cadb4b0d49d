"""`Notifier`: tells systemd how the service is doing, by the protocol of ``sd_notify(3)``."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Final, Self, final

from .._model.log import logger

__all__ = ["Notifier"]

_LONGEST_STATUS: Final = 1000  # characters; systemd ignores a datagram of more than 4096 bytes


@final
class Notifier:
    """The way to the service manager that started this process; without one, it does nothing.

    It never blocks, and never raises because of the socket: the first failure is logged, and each
    one is returned as `False`.

    :param environ: where ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` are looked up
        now; `os.environ` if not given
    """

    __slots__ = ("_address", "_socket", "_warned", "_watchdog_interval")

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        self._watchdog_interval = _watchdog_interval(environ)
        self._warned = False
        self._socket: socket.socket | None = None
        address = environ.get("NOTIFY_SOCKET", "")
        # An abstract name begins with a zero byte.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        family: int | None = getattr(socket, "AF_UNIX", None)
        if address and (family is None or address[0] not in "/@"):
            self._warn(f"NOTIFY_SOCKET={address!r} is no kind of socket that is supported")
        elif address and family is not None:
            try:
                self._socket = socket.socket(family, socket.SOCK_DGRAM)  # close-on-exec by PEP 446
                self._socket.setblocking(False)
            except OSError as error:
                self._warn(f"the service manager cannot be notified: {error}")

    @property
    def enabled(self) -> bool:
        """Whether there is a service manager to notify, and this is not closed."""
        return self._socket is not None

    @property
    def watchdog_interval(self) -> float | None:
        """Call `watchdog` every so many seconds, half of what is allowed; `None`: need not."""
        return self._watchdog_interval

    def notify(self, state: str) -> bool:
        """Send assignments as they are, such as ``"MAINPID=42"``, one on each line.

        :param state: the assignments
        :return: whether they were sent
        """
        if self._socket is None:
            return False
        try:
            self._socket.sendto(state.encode(errors="replace"), self._address)
        except OSError as error:
            self._warn(f"the service manager was not notified: {error}")
            return False
        return True

    def ready(self) -> bool:
        """Tell that the service has started."""
        return self.notify("READY=1")

    def stopping(self) -> bool:
        """Tell that the service begins to stop."""
        return self.notify("STOPPING=1")

    def watchdog(self) -> bool:
        """Tell that the service is alive."""
        return self.notify("WATCHDOG=1")

    def status(self, text: str) -> bool:
        """Set the text that ``systemctl status`` shows.

        :param text: one line: newlines become spaces, and it is cut after 1000 characters
        :return: whether it was sent
        """
        line = text[:_LONGEST_STATUS].translate(dict.fromkeys(b"\0\n", " "))
        return self.notify(f"STATUS={line}")

    def close(self) -> None:
        """Close the socket; doing it again does nothing."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _warn(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            logger.warning("%s", text)


def _watchdog_interval(environ: Mapping[str, str]) -> float | None:
    limit = environ.get("WATCHDOG_USEC", "")
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    if not limit.isascii() or not limit.isdigit() or len(limit) > 20:
        return None
    # 2**64 - 1 is how systemd writes that there is no limit.
    return int(limit) / 2 / 1_000_000 if 0 < int(limit) < 2**64 - 1 else None
