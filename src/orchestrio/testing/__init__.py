"""The test kit: a harness, a simulation, and virtual time, on asyncio and trio alike.

`harness` runs a scheduler for the time of a test and tells what became of each message; `simulate`
plays a whole program under many seeds and breaks it on purpose; `MemoryBridge` stands in for a
bridge. Below all of them is `virtual_time`, in which a day of sleeping takes milliseconds.

Return it from the ``anyio_backend`` fixture, and the tests that AnyIO's pytest plugin runs live in
virtual time::

    import anyio
    import pytest

    from orchestrio.testing import virtual_time

    pytestmark = pytest.mark.anyio  # not needed with anyio_mode = "auto"

    @pytest.fixture(params=["asyncio", "trio"])
    def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
        return virtual_time(request.param)

    async def test_the_report_comes_every_hour() -> None:
        await anyio.sleep(3600)  # over at once
        assert anyio.current_time() == 3600

Without pytest it is ``anyio.run(main, backend=name, backend_options=options)``.

The rules:

- The clock stands still while any task can run. When all wait, it jumps to the next deadline.
- With no deadline left, the event loop really waits, as any event loop does.
- While a worker thread of ``anyio.to_thread.run_sync`` is busy, or one that looks up a host name,
  the clock runs as fast as any clock, and does not jump: a thread takes the time that it takes.
- While something waits for a socket or pipe, the clock jumps only after nothing has arrived for
  `io_grace` real seconds. That much is then the price of each jump.

What it does not know of:

- Threads that AnyIO did not start, and worker threads with a ``limiter`` of their own. They may
  call in, but a deadline does not wait for them. Wait for such a thread with
  ``await anyio.to_thread.run_sync(thread.join)``, and the clock waits too.
- Threads that were abandoned when cancelled (``abandon_on_cancel=True``): the clock still waits
  for them on trio, and not on asyncio.
- Other processes (``anyio.run_process``, ``anyio.to_process``), and signals. At best a process is
  seen as the pipes to it: a deadline is likely to pass before it answers.
- uvloop, which keeps a clock of its own.

Which of the tasks that are ready steps next is nothing to rely on. ``virtual_time(backend, seed=7,
order="shuffle")`` lets a seed decide: any order that an event loop may choose, and the same one for
the same seed, so that what a test found once it finds again. On asyncio the steps of tasks alone
move, among each other; other callbacks keep their places in between, and with eager tasks the first
step comes at once, as ever. What has no seed is the user's: threads, sockets, sets of strings.

The wall clock of the library, by which cron goes, is virtual as well: it stands at `start` when the
run begins. ``datetime.now()`` is the system's, as ever.

``anyio.wait_all_tasks_blocked()`` takes no time on trio; on asyncio AnyIO sleeps between two looks,
so some tenths of a virtual second may pass.
"""

from __future__ import annotations

from ._bridge import MemoryBridge as MemoryBridge, MemoryServer as MemoryServer
from ._harness import Harness as Harness, harness as harness
from ._recorder import Recorder as Recorder
from ._rules.ledger import InjectedError as InjectedError
from ._simulation.scenario import Faults as Faults, Scenario as Scenario
from ._simulation.shrink import shrink as shrink
from ._simulation.simulate import (
    SimulationFailure as SimulationFailure,
    SimulationReport as SimulationReport,
    replay as replay,
    simulate as simulate,
)
from ._time.order import Order as Order
from ._time.virtual import virtual_time as virtual_time

__all__ = [
    "Faults",
    "Harness",
    "InjectedError",
    "MemoryBridge",
    "MemoryServer",
    "Order",
    "Recorder",
    "Scenario",
    "SimulationFailure",
    "SimulationReport",
    "harness",
    "replay",
    "shrink",
    "simulate",
    "virtual_time",
]

# Public names say where users find them, in tracebacks and help().
for _name in __all__:
    _value = globals()[_name]
    if callable(_value) and getattr(_value, "__module__", "").startswith(__name__ + "."):
        _value.__module__ = __name__
