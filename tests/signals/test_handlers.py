"""Signal handlers: whose are in place, who hears of a signal, and what is put back."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Literal

import anyio
import pytest
from anyio import Event, create_task_group, fail_after, to_thread
from support import posix_signals, settle

from orchestrio import BackgroundTask, Scheduler, TaskState
from orchestrio.testing import virtual_time

pytestmark = posix_signals

STOP = [signal.SIGINT, signal.SIGTERM]


def kill(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


class Work(BackgroundTask):
    """Works until it is stopped, and says when it is down."""

    def __init__(self) -> None:
        self.works = Event()
        self.hooks: list[str] = []

    async def execute(self) -> None:
        self.works.set()
        await anyio.sleep_forever()

    async def shutdown(self) -> None:
        await settle()
        self.hooks.append("shutdown")


class Program:
    """A scheduler with one task, which runs until it is stopped."""

    def __init__(self) -> None:
        self.work = Work()
        self.scheduler = Scheduler()
        self.scheduler.register_background_task(self.work)

    async def run(self) -> None:
        with fail_after(20):
            await self.scheduler.run()

    async def works(self) -> None:
        with fail_after(20):
            await self.work.works.wait()

    @property
    def is_down(self) -> bool:
        return self.work.hooks == ["shutdown"]


@pytest.fixture
def heard() -> Iterator[list[int]]:
    """What handlers of the program's own hear; those before are back after the test."""
    before = {number: signal.getsignal(number) for number in STOP}
    heard: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        heard.append(number)

    for number in STOP:
        signal.signal(number, handler)
    yield heard
    for number in STOP:
        signal.signal(number, before[number])


# -- whose handlers are in place -------------------------------------------------------------


@pytest.mark.parametrize("number", STOP)
async def test_the_program_s_own_handler_is_back_after_the_run(
    heard: list[int], number: signal.Signals
) -> None:
    program = Program()
    before = signal.getsignal(number)
    async with create_task_group() as group:
        group.start_soon(program.run)
        await program.works()
        assert signal.getsignal(number) != before
        kill(number)
    assert program.is_down
    assert heard == []
    assert signal.getsignal(number) is before
    kill(number)
    await settle()
    assert heard == [number]


async def test_the_wakeup_file_is_as_it_was_after_the_run() -> None:
    before = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(before, warn_on_full_buffer=False)
    await Scheduler().run()
    assert signal.set_wakeup_fd(before, warn_on_full_buffer=False) == before


async def test_the_handlers_are_back_as_soon_as_a_run_in_a_block_is_cancelled(
    heard: list[int],
) -> None:
    program = Program()
    before = signal.getsignal(signal.SIGTERM)
    async with program.scheduler:
        async with create_task_group() as group:
            group.start_soon(program.run)
            await program.works()
            group.cancel_scope.cancel()
        assert signal.getsignal(signal.SIGTERM) is before
        kill()
        await settle()
        assert heard == [signal.SIGTERM]
        assert not program.scheduler.stopping.is_set()


async def test_a_handler_that_the_program_installs_meanwhile_stays(heard: list[int]) -> None:
    program = Program()

    def other(number: int, frame: FrameType | None) -> None: ...

    async with create_task_group() as group:
        group.start_soon(program.run)
        await program.works()
        signal.signal(signal.SIGTERM, other)
        kill(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is other


async def test_one_who_puts_a_handler_of_the_run_back_too_late_does_no_harm(
    heard: list[int],
) -> None:
    """As a signal receiver on trio that is opened in the run and closed after it."""
    found: list[signal.Handlers | Callable[[int, FrameType | None], object] | int | None] = []
    for _ in range(2):
        program = Program()
        async with create_task_group() as group:
            group.start_soon(program.run)
            await program.works()
            found.append(signal.getsignal(signal.SIGTERM))
            kill()
        assert program.is_down
        signal.signal(signal.SIGTERM, found[-1])
    kill()
    await settle()
    assert heard == [signal.SIGTERM]


async def test_a_signal_that_the_program_ignores_stays_ignored(heard: list[int]) -> None:
    program = Program()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    async with create_task_group() as group:
        group.start_soon(program.run)
        await program.works()
        for _ in range(3):
            kill(signal.SIGINT)
        await settle()
        assert not program.scheduler.stopping.is_set()
        kill(signal.SIGTERM)
    assert program.is_down
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


async def test_a_handler_that_could_not_be_put_back_is_left_alone(
    heard: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`getsignal` knows none for a handler that was there before Python was."""
    real = signal.getsignal
    monkeypatch.setattr(
        signal, "getsignal", lambda number: None if number == signal.SIGTERM else real(number)
    )
    program = Program()
    async with create_task_group() as group:
        group.start_soon(program.run)
        await program.works()
        kill(signal.SIGTERM)
        await settle()
        assert heard == [signal.SIGTERM]
        kill(signal.SIGINT)
    assert program.is_down


# -- other handlers on the loop --------------------------------------------------------------


class Listener:
    """A signal receiver of the program's own on the event loop."""

    def __init__(self, number: signal.Signals) -> None:
        self._number = number
        self.opened = Event()
        self._heard = Event()

    async def listen(self) -> None:
        with anyio.open_signal_receiver(self._number) as signals:
            self.opened.set()
            async for _ in signals:
                self._heard.set()

    async def hears(self) -> None:
        with fail_after(20):
            await self._heard.wait()
        self._heard = Event()


async def test_a_receiver_that_was_on_the_loop_hears_too_and_is_kept(heard: list[int]) -> None:
    program, listener = Program(), Listener(signal.SIGTERM)
    async with create_task_group() as group:
        group.start_soon(listener.listen)
        await listener.opened.wait()
        async with create_task_group() as inner:
            inner.start_soon(program.run)
            await program.works()
            kill()
            await listener.hears()
        assert program.is_down
        kill()
        await listener.hears()
        group.cancel_scope.cancel()


@pytest.mark.parametrize("before", [True, False], ids=["opened before", "opened meanwhile"])
async def test_a_receiver_of_another_signal_hears_it(before: bool) -> None:
    program, listener = Program(), Listener(signal.SIGHUP)
    async with create_task_group() as group:
        if before:
            group.start_soon(listener.listen)
            await listener.opened.wait()
        async with create_task_group() as inner:
            inner.start_soon(program.run)
            await program.works()
            if not before:
                group.start_soon(listener.listen)
                await listener.opened.wait()
            for _ in range(3):
                kill(signal.SIGHUP)
                await listener.hears()
            assert not program.scheduler.stopping.is_set()
            kill()
        assert program.is_down
        kill(signal.SIGHUP)
        await listener.hears()
        group.cancel_scope.cancel()


async def test_signals_are_heard_after_a_receiver_of_another_one_has_gone() -> None:
    """On asyncio it takes the wakeup file for itself, and leaves none."""
    program, listener = Program(), Listener(signal.SIGHUP)
    async with create_task_group() as group:
        group.start_soon(program.run)
        await program.works()
        async with create_task_group() as inner:
            inner.start_soon(listener.listen)
            await listener.opened.wait()
            inner.cancel_scope.cancel()
        kill()
    assert program.is_down


# -- several runs ----------------------------------------------------------------------------


async def test_two_runs_side_by_side_stop_on_one_signal() -> None:
    programs = [Program(), Program()]
    async with create_task_group() as group:
        for program in programs:
            group.start_soon(program.run)
            await program.works()
        kill()
    assert [program.is_down for program in programs] == [True, True]


async def test_the_run_that_is_left_goes_on_listening(heard: list[int]) -> None:
    """Whoever of them began first: one of them reads the signals for all."""
    before = signal.getsignal(signal.SIGTERM)
    for first_to_go in (0, 1):
        programs = [Program(), Program()]
        async with create_task_group() as group:
            for program in programs:
                group.start_soon(program.run)
                await program.works()
            gone = programs.pop(first_to_go)
            await gone.scheduler.shutdown()
            await settle()
            assert signal.getsignal(signal.SIGTERM) != before
            kill()
        assert programs[0].is_down
        assert signal.getsignal(signal.SIGTERM) is before


async def test_a_run_in_a_task_of_another_one_stops_with_it() -> None:
    inner, outer = Program(), Scheduler()
    outer.background(name="inner", stop_timeout=10)(inner.run)
    async with create_task_group() as group:
        group.start_soon(outer.run)
        await inner.works()
        kill()
    assert inner.is_down


async def test_a_run_that_begins_while_a_signal_stops_another_one_stops_too() -> None:
    slow, late = Scheduler(), Program()
    gate = Event()

    class Slow(Work):
        async def shutdown(self) -> None:
            await gate.wait()

    work = Slow()
    slow.register_background_task(work)
    async with create_task_group() as group:
        group.start_soon(slow.run)
        await work.works.wait()
        kill()
        with fail_after(20):
            await slow.stopping.wait()
        await late.run()  # by itself; whether its task comes to work is a matter of turns
        assert slow.status()[0].state is TaskState.STOPPING
        gate.set()


async def test_signals_are_counted_anew_when_no_run_is_left() -> None:
    for _ in range(4):
        program = Program()
        async with create_task_group() as group:
            group.start_soon(program.run)
            await program.works()
            kill()
        assert program.is_down


async def test_the_first_signal_is_graceful_in_a_stop_that_has_begun_without_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hooks: list[str] = []
    scheduler = Scheduler()

    class Slow(BackgroundTask):
        async def execute(self) -> None: ...

        async def shutdown(self) -> None:
            kill()
            await settle()
            hooks.append("shutdown")

    scheduler.register_background_task(Slow())
    with fail_after(20), caplog.at_level(logging.INFO, "orchestrio"):
        await scheduler.run()
    assert hooks == ["shutdown"]
    assert "SIGTERM: it is stopping already; another one stops it at once" in caplog.messages


async def test_a_run_in_another_thread_is_not_stopped_by_signals(heard: list[int]) -> None:
    works, end = threading.Event(), threading.Event()
    states: list[TaskState] = []

    def run_another() -> None:
        scheduler = Scheduler()

        @scheduler.background()
        async def work() -> None:
            works.set()
            await to_thread.run_sync(end.wait, 20)
            states.append(scheduler.status()[0].state)

        scheduler.run_sync()

    program = Program()
    async with create_task_group() as group:
        group.start_soon(to_thread.run_sync, run_another)
        assert await to_thread.run_sync(works.wait, 20)
        async with create_task_group() as inner:
            inner.start_soon(program.run)
            await program.works()
            kill()
        end.set()
    assert program.is_down
    assert states == [TaskState.RUNNING]
    kill()
    await settle()
    assert heard == [signal.SIGTERM]


# -- time ------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_virtual_time_does_not_wait_for_signals(backend: Literal["asyncio", "trio"]) -> None:
    scheduler = Scheduler()

    @scheduler.background()
    async def sleeper() -> None:
        for _ in range(100):
            await anyio.sleep(1)

    name, options = virtual_time(backend, io_grace=0.2)
    began = time.monotonic()
    anyio.run(scheduler.run, backend=name, backend_options=options)
    assert time.monotonic() - began < 10  # and not 20


# -- processes -------------------------------------------------------------------------------

BACKENDS = ["asyncio", "asyncio+uvloop", "trio"]

COMMON = """
import os, signal, sys, time
import anyio
from orchestrio import Scheduler

name, _, uvloop = sys.argv[1].partition("+")
signal.signal(signal.SIGINT, signal.default_int_handler)
scheduler = Scheduler()

@scheduler.background(stop_timeout=60)
async def work() -> None:
    {work}

scheduler.run_sync(name, {{"use_uvloop": True}} if uvloop else None)
"""


@pytest.fixture
def ends_of() -> Callable[..., tuple[int, str]]:
    """Run a program whose one task does this, and return how it ended and what it said."""

    def run(work: str, backend: str, *wrapper: str) -> tuple[int, str]:
        program = COMMON.format(work=textwrap.indent(textwrap.dedent(work), "    ").strip())
        ended = subprocess.run(
            [*wrapper, sys.executable, "-c", program, backend],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return ended.returncode, ended.stdout + ended.stderr

    return run


CLOSED_OVER_A_RUN = """
import asyncio, os, signal, sys, time
import anyio
from orchestrio import Scheduler

def new_loop():
    if sys.argv[1] == "asyncio":
        return asyncio.new_event_loop()
    import uvloop
    return uvloop.new_event_loop()

async def begin():
    scheduler = Scheduler()

    @scheduler.background()
    async def work():
        works.set()
        await asyncio.sleep(100)

    works = asyncio.Event()
    kept.append(asyncio.ensure_future(scheduler.run()))
    await works.wait()

def handler(*_):
    heard.append(1)

kept, heard = [], []
signal.signal(signal.SIGTERM, handler)
loop = new_loop()
loop.run_until_complete(begin())
"""

THEN = {
    "the program's handler runs": """
loop.close()
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(0.1)
assert heard == [1], heard
assert signal.getsignal(signal.SIGTERM) is handler
os._exit(7)
""",
    "the process ends": """
loop.close()
os.kill(os.getpid(), signal.SIGINT)  # as a KeyboardInterrupt
""",
    "another run hears": """
loop.close()
async def main():
    for _ in range(2):
        scheduler = Scheduler()

        @scheduler.background()
        async def work():
            os.kill(os.getpid(), signal.SIGTERM)
            await anyio.sleep(30)

        with anyio.fail_after(10):
            await scheduler.run()
anyio.run(main)
assert heard == []
assert signal.getsignal(signal.SIGTERM) is handler
os._exit(7)
""",
    "another run hears beside one that stands still": """
async def main():
    scheduler = Scheduler()

    @scheduler.background()
    async def work():
        os.kill(os.getpid(), signal.SIGTERM)
        await anyio.sleep(30)

    with anyio.fail_after(10):
        await scheduler.run()
anyio.run(main)
loop.close()
os.kill(os.getpid(), signal.SIGTERM)
assert heard == [1]
os._exit(7)
""",
}


@pytest.mark.parametrize("backend", ["asyncio", "asyncio+uvloop"])
@pytest.mark.parametrize("then", THEN)
def test_a_run_that_was_lost_with_its_event_loop_swallows_no_signal(
    backend: str, then: str
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", CLOSED_OVER_A_RUN + THEN[then], backend],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    interrupted = then == "the process ends"
    assert ended.returncode == (-signal.SIGINT if interrupted else 7), ended.stderr
    assert ("KeyboardInterrupt" in ended.stderr) is interrupted


THREE_TIMES = """
for _ in range(3):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.01)
time.sleep(30)
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_first_process_of_a_container_ends_as_well(
    backend: str, ends_of: Callable[..., tuple[int, str]]
) -> None:
    """The kernel spares it the signals that it sends itself; it gets the shell's status of one."""
    container = ["unshare", "--user", "--map-root-user", "--fork", "--pid"]
    try:
        subprocess.run([*container, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine makes no containers")
    status, said = ends_of(THREE_TIMES, backend, *container)
    assert status == 128 + signal.SIGTERM, said


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_forked_process_has_no_part_in_the_run(
    backend: str, ends_of: Callable[..., tuple[int, str]]
) -> None:
    """It ends by its first signal, as it would without a scheduler, and its parent goes on."""
    status, said = ends_of(
        """
        import gc, warnings
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        reader, writer = os.pipe()
        warnings.simplefilter("always")
        pid = os.fork()
        if not pid:
            gc.collect()
            os.write(writer, b"I live")
            time.sleep(20)
            os._exit(1)
        os.read(reader, 10)
        os.kill(pid, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM
        await anyio.sleep(0.1)
        assert not scheduler.stopping.is_set()
        os.kill(os.getpid(), signal.SIGTERM)
        await anyio.sleep(30)
        """,
        backend,
    )
    assert status == 0, said
    assert "ResourceWarning" not in said
