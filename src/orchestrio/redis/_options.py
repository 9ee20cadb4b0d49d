"""The options of a `RedisBridge`, as the model that checks them and as keywords."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal, TypeAlias, TypedDict

from pydantic import AfterValidator, ConfigDict, Field

from .._model.fields import Deadline, Model, Name

__all__ = ["BridgeOptions", "BridgeSettings", "Mode"]

Mode: TypeAlias = Literal["broadcast", "compete"]

#: What the server, and Lua in it, surely take as a number of entries or of seconds.
_MOST: Final = 1_000_000_000_000


def _is_path(path: Path) -> Path:
    if "\0" in str(path):
        raise ValueError("no path has a null character in it")
    return path


_Count: TypeAlias = Annotated[int, Field(strict=True, ge=1)]
_Entries: TypeAlias = Annotated[_Count, Field(le=_MOST)]
_Span: TypeAlias = Annotated[Deadline, Field(le=_MOST, allow_inf_nan=False)]


class BridgeSettings(Model, frozen=True):
    """What a bridge is given beside the server and the topics, checked."""

    model_config: ClassVar[ConfigDict] = ConfigDict(title="RedisBridge()")

    namespace: Name
    """Keeps programs apart that share a server."""
    mode: Mode = "broadcast"
    """Whether every process gets every message, or they compete."""
    group: Name = "workers"
    """With ``"compete"``: those that compete with each other; each group gets all."""
    outbox: Annotated[Path, AfterValidator(_is_path)] | None = None
    """Path of an SQLite file that keeps what is published until the server has it."""
    max_outbox: Annotated[int, Field(strict=True, ge=1_000_000)] = 1_000_000_000
    """How large that file may get, in bytes, but for a few megabytes; then publishers wait."""
    max_bytes: _Count = 1_000_000
    """How long a payload may be as JSON, in bytes; a longer one is refused at publish."""
    max_length: _Entries = 100_000
    """With ``"broadcast"``: about how many messages the server keeps of a topic for those that are
    slow or away.
    """
    prefetch: Annotated[int, Field(strict=True, ge=1, le=10_000)] = 64
    """With ``"compete"``: how many messages of a topic this process has in hand."""
    claim_after: _Span = 30.0
    """With ``"compete"``: for how long, in seconds, nothing is heard of the consumer of a message
    before another takes it over.
    """
    max_deliveries: _Count = 5
    """With ``"compete"``: how often handlers begin with a message, before it is a dead letter."""
    max_dead_letters: _Entries = 10_000
    """About how many dead letters of a topic the server keeps."""
    lease: Annotated[_Span, Field(ge=0.1)] = 10.0
    """How long, in seconds, a background task with ``singleton=True`` may go on when nothing is
    heard from its process; that, and a quarter more, is how soon after a crash another process
    takes over.
    """


class BridgeOptions(TypedDict, total=False):
    """The options of a `RedisBridge` as keywords.

    For functions of your own that pass them on: ``def mine(**options: Unpack[BridgeOptions])``.
    """

    mode: Mode
    """Whether every process gets every message, or they compete."""
    group: str
    """With ``"compete"``: those that compete with each other; each group gets all."""
    outbox: str | Path | None
    """Path of an SQLite file that keeps what is published until the server has it."""
    max_outbox: int
    """How large that file may get, in bytes, but for a few megabytes; then publishers wait."""
    max_bytes: int
    """How long a payload may be as JSON, in bytes; a longer one is refused at publish."""
    max_length: int
    """With ``"broadcast"``: about how many messages the server keeps of a topic for those that are
    slow or away.
    """
    prefetch: int
    """With ``"compete"``: how many messages of a topic this process has in hand."""
    claim_after: float | timedelta
    """With ``"compete"``: for how long, in seconds, nothing is heard of the consumer of a message
    before another takes it over.
    """
    max_deliveries: int
    """With ``"compete"``: how often handlers begin with a message, before it is a dead letter."""
    max_dead_letters: int
    """About how many dead letters of a topic the server keeps."""
    lease: float | timedelta
    """How long, in seconds, a background task with ``singleton=True`` may go on when nothing is
    heard from its process; that, and a quarter more, is how soon after a crash another process
    takes over.
    """
