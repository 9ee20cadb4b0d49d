"""What the simulation finds today, by seed: strict expected failures, until they are mended."""

from __future__ import annotations

from typing import NamedTuple


class Expected(NamedTuple):
    """A seed that breaks a rule."""

    kind: str
    fault: str


EXPECTED: dict[tuple[str, str, int], Expected] = {}
