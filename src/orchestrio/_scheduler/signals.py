"""`SIGNALS`: SIGINT and SIGTERM, counted for the process, and heard by every run of a scheduler.

A signal is counted where none is missed: at the moment it arrives Python writes its number into the
wakeup file (`signal.set_wakeup_fd`), also while one long call into C keeps all Python code waiting,
in which ten signals make one call of the handler. The handler runs in the main thread as soon as
Python code does, in whichever line that is, and asks nobody: it counts what is in the file, and the
third ends the process.

For all else the event loop is woken by the same file, which it cannot miss as it could miss a
handler that ran just before it went to sleep. One of those that listen reads it; when it goes,
another one takes over. What was in the place of the file, such as the loop's own, gets all of it
too, so that handlers that the program has on its loop run as ever.

An event loop may end with a run in it: `asyncio` closes one over tasks that nobody waits for. What
listened there hears nothing any more, and does not count.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Final, NoReturn, final

import anyio
from anyio import ClosedResourceError, NoEventLoopError
from anyio.lowlevel import EventLoopToken, current_token

from .._model._loops.ended import has_ended
from .._model._loops.wakeup import Wakeup
from .._model.log import logger

__all__ = ["SIGNALS", "Signals"]

#: SIGINT, SIGTERM, and what Ctrl-Break is on Windows.
_STOP: Final = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)
)
#: Where the handlers are made with which trio tells its loop, as asyncio's is told by the file.
_TRIO: Final = "trio._signals"
_LAST: Final = 3  # the one that ends the process
_MOST: Final = 4096  # bytes to read at once: as many signals


@final
class _Audience:
    """Those that listen in one event loop."""

    __slots__ = ("is_read", "listeners", "news")

    def __init__(self) -> None:
        self.listeners = 0  # how many want the handlers in place
        self.is_read = False  # whether one of them waits for the wakeup file
        self.news = Wakeup()


@final
class Signals:
    """The signals that stop a program, as long as anything runs that they are to stop."""

    def __init__(self) -> None:
        self._audiences: dict[EventLoopToken, _Audience] = {}
        self._received: list[int] = []  # as read from the file, since the handlers are in place
        self._handlers: dict[int, Any] = {}  # those of the program, to be put back
        self._file: tuple[socket.socket, socket.socket] | None = None  # to read, to write
        self._before: int = -1  # the wakeup file that was there before, if any

    @property
    def is_heard_here(self) -> bool:
        """Whether the handlers are in place, and this is the thread that they run in."""
        return self._file is not None and threading.current_thread() is threading.main_thread()

    @property
    def files_waited_for(self) -> int:
        """How many files this thread's event loop waits for on behalf of this."""
        is_read = any(audience.is_read for audience in self._audiences.values())
        return 1 if is_read and self.is_heard_here else 0

    @contextmanager
    def caught(self) -> Generator[None]:
        """Have the handlers in place, in the main thread; elsewhere this does nothing.

        The last one to leave puts back those of the program, unless the program has put others in
        their place meanwhile.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._leave_what_has_ended()
        loop = current_token()
        # Before the handlers are in place, as one of them puts all back if nobody listens.
        audience = self._audiences.setdefault(loop, _Audience())
        audience.listeners += 1
        if self._file is None:
            self._install()
        try:
            yield
        finally:
            audience.listeners -= 1
            if not audience.listeners and self._audiences.get(loop) is audience:
                del self._audiences[loop]
            # A run that was lost with its event loop may end as garbage, in any thread.
            file = self._file  # a signal just here puts it back as well
            if not self._audiences and file is not None and self.is_heard_here:
                with suppress(NoEventLoopError):
                    anyio.notify_closing(file[0])
                self._put_back()

    async def wait_for(self, number: int) -> signal.Signals:
        """Wait until so many signals have come since the handlers are in place.

        :param number: how many
        :return: the last one of them
        :raises ~anyio.ClosedResourceError: if the handlers are not in place any more
        """
        while len(self._received) < number:
            audience = self._audiences.get(current_token())
            if audience is None or self._file is None:
                raise ClosedResourceError
            if audience.is_read:
                await audience.news.wait()
                continue
            audience.is_read = True
            try:
                await anyio.wait_readable(self._file[0])
            finally:
                audience.is_read = False
                audience.news.notify_all()
            self._read()
        return signal.Signals(self._received[number - 1])

    def forget(self) -> None:
        """Put all back as it was, in a process just forked: none of the runs is its own."""
        self._before = -1  # that of the parent, which does not want the signals of this one
        self._audiences.clear()
        self._put_back(take=False)  # what is in the file is for the parent

    # -- in the event loop ---------------------------------------------------------------------

    def _read(self) -> None:
        if self._file is None:
            return
        for number in self._take(self._file[0]):
            if number in self._handlers:
                self._received.append(number)
                self._tell(signal.Signals(number).name)
        self._end_process_if_due()

    def _take(self, file: socket.socket) -> bytes:
        """Take out of the file what is in it, for the one that was there before as well."""
        try:
            numbers = file.recv(_MOST)
        except BlockingIOError:
            return b""
        if self._before != -1 and sys.platform != "win32":  # where no loop reads them
            with suppress(OSError):  # it is full, so that whoever reads it will be woken anyway
                os.write(self._before, numbers)
        return numbers

    def _tell(self, name: str) -> None:
        if len(self._received) > 1:  # the first one is told as the reason of the stop
            logger.warning("%s again: stopping at once; once more ends the process", name)

    # -- in the middle of any line -------------------------------------------------------------

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Take a signal. It must not wait, lock, log or raise: anything may be half done."""
        self._leave_what_has_ended()
        if self._file is None:  # nobody listens, or somebody has put this back too late
            signal.signal(number, self._handlers[number])
            os.kill(os.getpid(), number)
            return
        file = self._file[1].fileno()
        other = signal.set_wakeup_fd(file, warn_on_full_buffer=False)
        if other != file:  # the loop took its place back, and got this number
            self._before = other
            with suppress(BlockingIOError):
                self._file[1].send(bytes([number]))
        handler = self._handlers[number]
        if getattr(handler, "__module__", None) == _TRIO:
            handler(number, frame)
        self._end_process_if_due()

    def _end_process_if_due(self) -> None:
        assert self._file is not None
        received = self._received
        with suppress(BlockingIOError):
            unread = self._file[0].recv(_MOST, socket.MSG_PEEK)
            received = received + [number for number in unread if number in self._handlers]
        if len(received) >= _LAST:
            _end_process(received[-1])

    # -- coming and going ----------------------------------------------------------------------

    def _install(self) -> None:
        file = socket.socketpair()
        for end in file:
            end.setblocking(False)
        try:
            self._before = signal.set_wakeup_fd(file[1].fileno(), warn_on_full_buffer=False)
        except ValueError:  # the main thread of an interpreter inside another one
            for end in file:
                end.close()
            return
        self._file = file
        self._received.clear()
        for number in _STOP:
            handler = signal.getsignal(number)
            if handler == self._handle:  # still, or again: see there
                continue
            self._handlers.pop(number, None)
            # What the program ignores, as under `nohup` or in the background of a shell, stays
            # ignored. What was not installed from Python (None) could not be put back.
            if handler is not signal.SIG_IGN and handler is not None:
                self._handlers[number] = handler
                signal.signal(number, self._handle)

    def _leave_what_has_ended(self) -> None:
        """Put all back if those that listened were lost, each with its event loop."""
        for loop in list(self._audiences):
            if has_ended(loop):
                self._audiences.pop(loop, None)
        if not self._audiences:
            self._put_back(take=False)  # what was there before may be a file of such a loop

    def _put_back(self, *, take: bool = True) -> None:
        file, self._file = self._file, None
        if file is None:
            return
        for number, handler in self._handlers.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, handler)
        other = signal.set_wakeup_fd(-1)
        if other == file[1].fileno():  # nobody else has taken it
            other = self._before
        with suppress(OSError, ValueError):  # it was closed
            signal.set_wakeup_fd(other, warn_on_full_buffer=False)
        reader, writer = file
        if take:
            self._take(reader)
        reader.close()
        writer.close()


def _end_process(number: int) -> NoReturn:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    # The first process of a container is spared by the signals that it sends itself.
    os._exit(128 + number)


#: those of this process
SIGNALS: Final = Signals()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=SIGNALS.forget)
