"""Virtual time: what takes none, what holds the clock, and that nothing hangs."""

from __future__ import annotations

import asyncio
import gc
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from math import inf, nextafter
from typing import Literal, cast

import anyio
import pytest
from anyio import (
    CancelScope,
    create_task_group,
    current_time,
    fail_after,
    from_thread,
    move_on_after,
    sleep,
    sleep_forever,
    to_thread,
)
from anyio.abc import SocketAttribute, SocketListener, SocketStream

from orchestrio import Scheduler, Topic
from orchestrio.testing import virtual_time

MINUTE = 60.0
HOUR = 60 * MINUTE
DAY = 24 * HOUR
LATE = 1e9  # where floats are coarser than the clock of asyncio claims to be

Backend = Literal["asyncio", "trio"]
BACKENDS: list[Backend] = ["asyncio", "trio"]
on_both = pytest.mark.parametrize("backend", BACKENDS)

NUMBERS = Topic("numbers", int)


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    return virtual_time(request.param)


def run_virtually(
    main: Callable[[], Awaitable[object]], backend: Backend, io_grace: float = 0.05
) -> object:
    name, options = virtual_time(backend, io_grace=io_grace)
    return anyio.run(main, backend=name, backend_options=options)


@contextmanager
def hardly_any_real_time() -> Iterator[None]:
    """A block that takes far less real time than the virtual time it is about."""
    start = time.monotonic()
    yield
    assert time.monotonic() - start < 5


def pause() -> None:
    """What a thread does that takes a while."""
    time.sleep(0.05)


# -- sleeping --------------------------------------------------------------------------------


async def test_time_starts_at_zero() -> None:
    assert current_time() == 0


async def test_a_day_of_sleeps_takes_hardly_any_real_time() -> None:
    with hardly_any_real_time():
        for _ in range(24 * 60):
            await sleep(60)
    assert current_time() == DAY


async def test_sleepers_wake_in_the_order_of_their_deadlines() -> None:
    woken: list[tuple[float, float]] = []

    async def sleeper(delay: float) -> None:
        await sleep(delay)
        woken.append((delay, current_time()))

    async with create_task_group() as group:
        for delay in (3 * DAY, 0.001, HOUR, 2.5, 0.002):
            group.start_soon(sleeper, delay)
    assert woken == [(delay, delay) for delay in (0.001, 0.002, 2.5, HOUR, 3 * DAY)]


async def test_time_stands_still_while_a_task_works() -> None:
    async with create_task_group() as group:
        group.start_soon(sleep, HOUR)
        for _ in range(1000):
            await anyio.lowlevel.checkpoint()
        assert current_time() == 0
        group.cancel_scope.cancel()


async def test_the_end_of_a_timeout_is_reached() -> None:
    with move_on_after(HOUR) as scope:
        await sleep_forever()
    assert scope.cancelled_caught
    assert current_time() == HOUR
    with pytest.raises(TimeoutError), fail_after(HOUR):
        await sleep(DAY)
    assert current_time() == 2 * HOUR


async def test_a_timeout_that_is_not_needed_does_not_pass() -> None:
    with fail_after(LATE):
        await sleep(1)
    assert current_time() == 1


async def test_a_timeout_that_was_left_takes_no_time() -> None:
    with fail_after(HOUR):
        await anyio.lowlevel.checkpoint()
    await sleep(1)
    assert current_time() == 1


async def test_time_passes_where_floats_are_coarse() -> None:
    with hardly_any_real_time():
        await sleep(LATE)
        assert current_time() == LATE
        for delay in (1e-3, 1e-6, 1e-9, 1e-12) * 10:  # the last ones are lost in rounding
            deadline = current_time() + delay
            await sleep(delay)
            assert current_time() == deadline
            with move_on_after(delay):
                await sleep_forever()
            await anyio.lowlevel.checkpoint()
            assert current_time() == deadline + delay
        await anyio.sleep_until(2 * LATE)
        assert current_time() == 2 * LATE


async def test_deadlines_as_near_as_floats_can_be_are_all_met() -> None:
    deadlines = [LATE]
    while len(deadlines) < 5:
        deadlines.append(nextafter(deadlines[-1], inf))
    woken: list[float] = []

    async def sleeper(deadline: float) -> None:
        await anyio.sleep_until(deadline)
        woken.append(current_time())

    async with create_task_group() as group:
        for deadline in deadlines:
            group.start_soon(sleeper, deadline)
    assert woken[-1] == pytest.approx(LATE)
    assert woken == sorted(woken)


# -- threads ---------------------------------------------------------------------------------


def took_a_real_while() -> bool:
    """Whether the clock ran while a thread did `pause`, and did not jump to a timeout."""
    return 0.04 < current_time() < MINUTE


async def test_a_busy_worker_thread_keeps_the_clock_from_jumping() -> None:
    with fail_after(MINUTE):
        await to_thread.run_sync(pause)
    assert took_a_real_while()


async def test_a_worker_thread_that_waits_for_a_deadline_gets_there() -> None:
    with fail_after(MINUTE):
        await to_thread.run_sync(from_thread.run, sleep, 0.05)
    assert took_a_real_while()


async def test_a_deadline_that_passes_while_a_thread_works_is_kept() -> None:
    waited: list[float] = []

    async def wait() -> None:
        await sleep(0.01)
        waited.append(current_time())

    async with create_task_group() as group:
        group.start_soon(wait)
        await to_thread.run_sync(pause)
    assert waited
    assert 0.01 <= waited[0] < MINUTE


async def test_a_sleeper_wakes_when_the_last_thread_is_done() -> None:
    done: list[str] = []

    async def work(name: str) -> None:
        await to_thread.run_sync(pause)
        done.append(name)

    async with create_task_group() as group:
        group.start_soon(work, "first")
        group.start_soon(work, "second")
        await sleep(MINUTE)
        assert len(done) == 2
    await sleep(HOUR)  # nothing holds it any more
    assert current_time() == pytest.approx(HOUR + MINUTE, abs=1)


async def test_a_worker_thread_may_call_in() -> None:
    event = anyio.Event()

    def call_in() -> float:
        pause()
        from_thread.run_sync(event.set)
        return from_thread.run_sync(current_time)

    async with create_task_group() as group:
        group.start_soon(to_thread.run_sync, call_in)
        with fail_after(MINUTE):
            await event.wait()
    assert took_a_real_while()


async def test_looking_up_a_host_name_keeps_the_clock_from_jumping(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    look_up = socket.getaddrinfo

    def slowly(*args: object, **options: object) -> object:
        pause()
        return look_up("127.0.0.1", 80)

    monkeypatch.setattr(socket, "getaddrinfo", slowly)
    with fail_after(MINUTE):
        assert await anyio.getaddrinfo("somewhere.invalid", 80)
    assert current_time() < MINUTE


async def test_a_thread_that_anyio_did_not_start_is_waited_for_with_join() -> None:
    joining = threading.Event()

    def pause_while_joined() -> None:
        joining.wait()
        pause()

    thread = threading.Thread(target=pause_while_joined)

    def join() -> None:
        joining.set()
        thread.join()

    with fail_after(MINUTE):
        thread.start()
        await to_thread.run_sync(join)
    assert took_a_real_while()


async def test_a_thread_that_anyio_did_not_start_may_send_while_all_wait_for_ever() -> None:
    async with Scheduler() as scheduler:
        scheduler.add_channel(NUMBERS)
        sender = scheduler.clone_sender(NUMBERS)

        def send() -> None:
            pause()
            sender.send_from_thread(7)

        thread = threading.Thread(target=send)
        with scheduler.subscribe(NUMBERS) as receiver:
            thread.start()
            assert await receiver.receive() == 7
        assert current_time() == 0
        await to_thread.run_sync(thread.join)


async def test_a_thread_sends_within_a_timeout_and_the_handler_takes_its_virtual_time() -> None:
    handled = anyio.Event()
    async with Scheduler() as scheduler:
        scheduler.add_channel(NUMBERS)
        sender = scheduler.clone_sender(NUMBERS)

        @scheduler.on(NUMBERS)
        async def take_an_hour(number: int) -> None:
            await sleep(HOUR)
            handled.set()

        await scheduler.start()
        thread = threading.Thread(target=lambda: sender.send_from_thread(7))
        with fail_after(60):
            thread.start()
            await to_thread.run_sync(thread.join)
        with fail_after(2 * HOUR):
            await handled.wait()
    assert HOUR <= current_time() < HOUR + MINUTE


@pytest.mark.parametrize("deadline", [inf, HOUR], ids=["none", "passed"])
async def test_without_a_deadline_to_jump_to_the_event_loop_waits_and_does_not_spin(
    deadline: float,
) -> None:
    event = anyio.Event()
    token = anyio.lowlevel.current_token()

    def call_in() -> None:
        time.sleep(0.3)
        from_thread.run_sync(event.set, token=token)

    thread = threading.Thread(target=call_in)
    with move_on_after(deadline), CancelScope(shield=True):
        busy = time.process_time()
        thread.start()
        await event.wait()
        assert time.process_time() - busy < 0.15
    await to_thread.run_sync(thread.join)


# -- sockets ---------------------------------------------------------------------------------


async def listen() -> tuple[SocketListener, int]:
    listener = (await anyio.create_tcp_listener(local_host="127.0.0.1")).listeners[0]
    return cast("SocketListener", listener), listener.extra(SocketAttribute.local_port)


async def echo_after(delay: float, stream: SocketStream) -> None:
    async with stream:
        async for data in stream:
            await sleep(delay)
            await stream.send(data)


async def test_sockets_in_one_event_loop_answer_within_their_timeout() -> None:
    listener, port = await listen()
    async with listener, create_task_group() as group:
        group.start_soon(listener.serve, lambda stream: echo_after(0, stream))
        with fail_after(0.001):
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                for number in range(100):
                    data = bytes([number]) * 10_000
                    await stream.send(data)
                    while data:
                        data = data.removeprefix(await stream.receive())
        assert current_time() == 0
        group.cancel_scope.cancel()


async def test_a_server_may_sleep_before_it_answers() -> None:
    listener, port = await listen()
    async with listener, create_task_group() as group:
        group.start_soon(listener.serve, lambda stream: echo_after(HOUR, stream))
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(b"?")
            with move_on_after(60):
                await stream.receive()
            assert current_time() == 60
            assert await stream.receive() == b"?"
        assert current_time() == HOUR
        group.cancel_scope.cancel()


def call(port: int) -> bytes:
    """Say hello to a server, slowly, and return what it answers."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        time.sleep(0.01)
        client.sendall(b"hello")
        return client.recv(16)


async def test_a_client_in_a_worker_thread_is_waited_for() -> None:
    listener, port = await listen()
    answers: list[bytes] = []

    async def client() -> None:
        answers.append(await to_thread.run_sync(call, port))

    async with listener, create_task_group() as group:
        group.start_soon(client)
        with fail_after(MINUTE):
            async with await listener.accept() as stream:
                await stream.send(await stream.receive())
    assert answers == [b"hello"]


@on_both
def test_a_client_in_any_other_thread_is_waited_for_until_the_grace_is_over(
    backend: Backend,
) -> None:
    answers: list[bytes] = []

    async def main() -> float:
        listener, port = await listen()
        async with listener:
            thread = threading.Thread(target=lambda: answers.append(call(port)))
            with fail_after(60):
                thread.start()
                async with await listener.accept() as stream:
                    await stream.send(await stream.receive())
            answered = current_time()
            await to_thread.run_sync(thread.join)
            return answered

    # Waiting ends with what arrives: a grace that is long for a busy machine costs nothing.
    assert run_virtually(main, backend, io_grace=30) == 0
    assert answers == [b"hello"]


async def test_a_server_that_nobody_calls_does_not_hold_the_clock_for_long() -> None:
    listener, _ = await listen()
    async with listener, create_task_group() as group:
        group.start_soon(listener.serve, lambda stream: echo_after(0, stream))
        with hardly_any_real_time():
            await sleep(DAY)
            await sleep(1000 * DAY)  # one jump, however far
        assert current_time() == 1001 * DAY
        group.cancel_scope.cancel()


@on_both
def test_the_clock_does_not_stop_at_timeouts_that_were_left(backend: Backend) -> None:
    async def main() -> None:
        listener, _ = await listen()
        async with listener, create_task_group() as group:
            group.start_soon(listener.serve, lambda stream: echo_after(0, stream))
            for seconds in range(1, 51):
                with fail_after(seconds):
                    await anyio.lowlevel.checkpoint()
            await sleep(HOUR)
            group.cancel_scope.cancel()

    with hardly_any_real_time():  # each stop would cost the grace
        run_virtually(main, backend, io_grace=0.2)


@on_both
def test_the_grace_is_real_time(backend: Backend) -> None:
    async def main() -> None:
        listener, _ = await listen()
        async with listener, create_task_group() as group:
            group.start_soon(listener.serve, lambda stream: echo_after(0, stream))
            await sleep(0.001)
            group.cancel_scope.cancel()

    start = time.monotonic()
    run_virtually(main, backend, io_grace=0.2)
    assert 0.19 < time.monotonic() - start < 5


# -- the options -----------------------------------------------------------------------------


@on_both
def test_anyio_run_takes_the_options(backend: Backend) -> None:
    async def main() -> float:
        with hardly_any_real_time():
            await sleep(DAY)
        return current_time()

    assert run_virtually(main, backend) == DAY


@on_both
def test_a_scheduler_runs_in_virtual_time(backend: Backend) -> None:
    scheduler = Scheduler()
    times: list[float] = []

    @scheduler.background()
    async def hourly() -> None:
        for _ in range(24):
            await sleep(HOUR)
            times.append(current_time())

    with hardly_any_real_time():
        run_virtually(scheduler.run, backend)
    assert times == [HOUR * hour for hour in range(1, 25)]


@on_both
def test_each_call_returns_a_clock_of_its_own(backend: Backend) -> None:
    starts: list[float] = []

    async def main() -> None:
        starts.append(current_time())
        await sleep(DAY)

    clocks = [virtual_time(backend), virtual_time(backend)]
    for name, options in clocks:
        anyio.run(main, backend=name, backend_options=options)
    assert starts == [0, 0]


@on_both
def test_another_run_with_the_same_options_works(backend: Backend) -> None:
    async def main() -> float:
        start = current_time()
        await to_thread.run_sync(pause)
        await sleep(DAY)
        return current_time() - start

    name, options = virtual_time(backend)
    for _ in range(2):
        took = anyio.run(main, backend=name, backend_options=options)
        assert DAY <= took < DAY + MINUTE


def test_a_backend_without_virtual_time_is_an_error_that_names_those_with() -> None:
    unknown = cast("Backend", "uvloop")
    with pytest.raises(ValueError, match=r'"asyncio" and "trio", not \'uvloop\''):
        virtual_time(unknown)


@pytest.mark.parametrize("io_grace", [-1, inf, float("nan")])
@on_both
def test_a_grace_that_is_no_duration_is_an_error(backend: Backend, io_grace: float) -> None:
    with pytest.raises(ValueError, match="io_grace"):
        virtual_time(backend, io_grace=io_grace)


def test_asking_for_asyncio_does_not_import_trio() -> None:
    check = (
        "import sys; from orchestrio.testing import virtual_time\n"
        "before = {'trio', 'uvloop', 'orchestrio.testing._time.asyncio_loop'} & {*sys.modules}\n"
        "virtual_time('asyncio')\n"
        "print(before, {'trio', 'uvloop'} & {*sys.modules})"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", check], capture_output=True, text=True, check=False
    )
    assert (run.stdout.strip(), run.stderr) == ("set() set()", "")


# -- asyncio alone ---------------------------------------------------------------------------


def test_an_executor_of_asyncio_does_as_threads_do_and_is_shut_down_without_a_warning() -> None:
    async def main() -> float:
        with fail_after(MINUTE):
            await asyncio.to_thread(pause)
        left_alone = asyncio.get_running_loop().run_in_executor(None, pause)
        assert not left_alone.done()  # so the thread is busy when the event loop is closed
        return current_time()

    assert 0.04 < cast("float", run_virtually(main, "asyncio")) < MINUTE


def test_a_callback_for_just_now_runs_where_floats_are_coarse() -> None:
    async def main() -> float:
        await sleep(LATE)
        event = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.call_at(loop.time(), event.set)
        await event.wait()
        return current_time()

    assert run_virtually(main, "asyncio") == LATE


def test_timeouts_that_were_left_do_not_pile_up() -> None:
    def timers() -> int:
        return sum(isinstance(known, asyncio.TimerHandle) for known in gc.get_objects())

    async def main() -> int:
        left = 0
        async with create_task_group() as group:
            group.start_soon(sleep, 1)  # before the timeouts would end
            for _ in range(5000):
                with fail_after(HOUR):
                    await anyio.lowlevel.checkpoint()
            left = timers()
        return left

    left = run_virtually(main, "asyncio")
    assert isinstance(left, int)
    assert left < 1000


def test_what_timers_hold_is_not_compared() -> None:
    class Incomparable:
        def __eq__(self, other: object) -> bool:
            raise AssertionError

    ran: list[Incomparable] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(3):
            loop.call_at(1, ran.append, Incomparable())
        await sleep(2)

    run_virtually(main, "asyncio")
    assert len(ran) == 3
