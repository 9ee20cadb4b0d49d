"""Virtual time for tests: a day of sleeping takes milliseconds, on asyncio and trio alike.

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

``anyio.wait_all_tasks_blocked()`` takes no time on trio; on asyncio AnyIO sleeps between two looks,
so some tenths of a virtual second may pass.
"""

from __future__ import annotations

from math import inf
from typing import Literal

__all__ = ["virtual_time"]


def virtual_time(
    backend: Literal["asyncio", "trio"], *, io_grace: float = 0.05
) -> tuple[str, dict[str, object]]:
    """Return the backend and options for AnyIO that run an event loop in virtual time.

    Each call returns a clock of its own, which starts at 0. On trio it goes on from where it stands
    if the same options are used for a second run.

    Example::

        import anyio

        from orchestrio.testing import virtual_time

        async def main() -> None:
            await anyio.sleep(24 * 60 * 60)
            print(anyio.current_time())  # 86400.0

        backend, options = virtual_time("asyncio")
        anyio.run(main, backend=backend, backend_options=options)

    :param backend: the event loop: ``"asyncio"`` or ``"trio"``
    :param io_grace: how long, in real seconds, nothing must have arrived for the clock to jump
        while something waits for a socket or pipe
    :return: the name and the options, for the ``anyio_backend`` fixture or for ``anyio.run``
    :raises ValueError: if virtual time does not support the backend, or `io_grace` is no duration
    :raises ModuleNotFoundError: if the backend is trio, and it is not installed
    """
    if not 0 <= io_grace < inf:
        raise ValueError(f"io_grace must be a number of seconds, not {io_grace!r}")
    # Each event loop is imported only when asked for: nobody needs both.
    if backend == "asyncio":
        from .asyncio_clock import virtual_options as asyncio_options

        return backend, asyncio_options(io_grace)
    if backend == "trio":
        from .trio_clock import virtual_options as trio_options

        return backend, trio_options(io_grace)
    raise ValueError(
        f'virtual time supports "asyncio" and "trio", not {backend!r}: no other event loop lets'
        " its clock be replaced"
    )
