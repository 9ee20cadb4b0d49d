"""The pytest plugin of orchestrio: fixtures for tests of programs that a scheduler runs.

It imports nothing of orchestrio until a fixture is used, so that a run of tests that use none of
them pays nothing, and coverage measured from within pytest sees all of the library.

Nothing here is entered for the test: a fixture that yields inside a scheduler, or inside any task
group, hangs pytest on trio when a task fails. Enter it in the test, with ``async with``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from orchestrio import Scheduler
    from orchestrio.testing import Harness

_SEED = "ORCHESTRIO_SEED"  # what `simulate` looks at, in processes of its own as well
stderr: int = 2
"""A descriptor of standard error that nobody captures."""
_OPTION = "--orchestrio-seed"
_BACKENDS = ["asyncio", *(["trio"] if find_spec("trio") else [])]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.getgroup("orchestrio").addoption(
        _OPTION,
        type=int,
        metavar="N",
        help="play the one seed N in each simulation, and step the tasks of tests with"
        " virtual_anyio_backend in the order that N decides on",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Hand the option on, and a way to standard error."""
    seed = config.getoption(_OPTION)
    if seed is not None:
        os.environ[_SEED] = str(seed)
    # While a test runs, standard error is captured, and a watchdog that ends the process would say
    # in vain why. Just now it is not.
    global stderr
    stderr = os.dup(2)
    config.add_cleanup(_forget)


def _forget() -> None:
    global stderr
    os.environ.pop(_SEED, None)
    os.close(stderr)
    stderr = 2


@pytest.fixture
def scheduler() -> Scheduler:
    """A new `orchestrio.Scheduler`, not entered."""
    from orchestrio import Scheduler

    return Scheduler()


@pytest.fixture
def harness() -> Callable[[Scheduler[Any]], AbstractAsyncContextManager[Harness[Any]]]:
    """`orchestrio.testing.harness`, to be used with ``async with`` in the test."""
    from orchestrio.testing import harness

    return harness


@pytest.fixture(params=_BACKENDS)
def virtual_anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    """Virtual time on each event loop, to be returned from the fixture ``anyio_backend``."""
    from orchestrio.testing import virtual_time

    seed = request.config.getoption(_OPTION)
    if seed is None:
        return virtual_time(request.param)
    return virtual_time(request.param, seed=seed, order="shuffle")
