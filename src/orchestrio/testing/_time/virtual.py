"""`virtual_time`: the options for AnyIO that run an event loop in virtual time."""

from __future__ import annotations

from datetime import UTC, datetime
from math import inf
from typing import Literal, TypeAlias, cast, get_args

from .clock import Watch
from .order import Order

Backend: TypeAlias = Literal["asyncio", "trio"]
"""An event loop that can run in virtual time."""


def virtual_time(
    backend: Backend,
    *,
    seed: int | None = None,
    order: Order = "stock",
    start: datetime | None = None,
    io_grace: float = 0.05,
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
    :param seed: decides which of the tasks that are ready steps next, and on trio all that is
        random in it; the same seed, the same run. `None` leaves it to the event loop
    :param order: what the seed may choose: ``"stock"`` keeps to the event loop's own rule,
        ``"shuffle"`` takes any task, ``"defer"`` holds a random task back for some time
    :param start: what the wall clock of the library says at virtual time 0, with a time zone; the
        real present if not given
    :param io_grace: how long, in real seconds, nothing must have arrived for the clock to jump
        while something waits for a socket or pipe
    :return: the name and the options, for the ``anyio_backend`` fixture or for ``anyio.run``
    :raises ValueError: if virtual time does not support the backend, `io_grace` is no duration,
        `start` has no time zone, or there is an `order` and no seed that could decide on it
    :raises TypeError: if the seed is no number
    :raises ModuleNotFoundError: if the backend is trio, and it is not installed
    :raises RuntimeError: if there is a seed, and this version of trio has nothing to take it
    """
    if seed is not None and not isinstance(cast("object", seed), int):
        raise TypeError(f"a seed is a whole number, not {seed!r}")
    if not 0 <= io_grace < inf:
        raise ValueError(f"io_grace must be a number of seconds, not {io_grace!r}")
    if order not in get_args(Order):
        raise ValueError(f'order must be "stock", "shuffle" or "defer", not {order!r}')
    if order != "stock" and seed is None:
        raise ValueError(f"order={order!r} needs a seed that decides on it: give seed=0, say")
    if start is None:
        start = datetime.now(UTC)
    elif start.utcoffset() is None:
        raise ValueError(f"start must have a time zone, such as tzinfo=UTC: {start!r} has none")
    return backend, virtual_options(backend, Watch(io_grace, seed, order, start.astimezone(UTC)))


def virtual_options(backend: Backend, watch: Watch) -> dict[str, object]:
    """Return the options for AnyIO of one run.

    :param backend: the event loop
    :param watch: what the run is to be like
    :raises ValueError: if virtual time does not support the backend
    """
    # Each event loop is imported only when asked for: nobody needs both.
    if backend == "asyncio":
        from .asyncio_loop import virtual_options as asyncio_options

        return asyncio_options(watch)
    if backend == "trio":
        from .trio_clock import virtual_options as trio_options

        return trio_options(watch)
    raise ValueError(
        f'virtual time supports "asyncio" and "trio", not {backend!r}: no other event loop lets'
        " its clock be replaced"
    )
