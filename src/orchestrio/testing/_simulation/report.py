"""`SimulationReport`: what a simulation did that found nothing."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SimulationReport:
    """What a simulation did that found nothing."""

    runs: int
    """How often the program ran: once for each seed on each backend."""
    faults: Mapping[str, int]
    """How many faults of each kind were drawn; not all of them came to pass."""
    virtual_seconds: float
    """How long the program ran, in all, by its own clock."""
    real_seconds: float
    """How long that took."""
    digest: str
    """A hash over all that happened, in order: the same for the same simulation."""
