"""These tests live in virtual time, on asyncio and on trio."""

from __future__ import annotations

import pytest

from orchestrio.testing import virtual_time


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    return virtual_time(request.param)
