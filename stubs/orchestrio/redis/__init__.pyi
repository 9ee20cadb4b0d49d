from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Self, TypeAlias, TypedDict, final

from pydantic import BaseModel, ConfigDict, SecretStr
from typing_extensions import Unpack

from .. import BackgroundTask, SchedulerError, Topic

__all__ = [
    "BridgeOptions",
    "BridgeStatistics",
    "BuriedMessage",
    "ConsumerGroup",
    "DeadLetterOutcome",
    "DeadLetterReport",
    "OutboxError",
    "RedisBridge",
    "RedisSettings",
    "TopicAdmin",
    "traceparent",
]

_Mode: TypeAlias = Literal["broadcast", "compete"]
_UserAndPassword: TypeAlias = tuple[str | None, str]

traceparent: Final[ContextVar[str | None]]

class RedisSettings(BaseModel, frozen=True):
    model_config: ClassVar[ConfigDict]
    host: str = "localhost"
    port: int = 6379
    socket: str | None = None
    sentinels: tuple[str, ...] = ()
    service: str | None = None
    cluster: tuple[str, ...] = ()
    database: int = 0
    username: str | None = None
    password: SecretStr | None = None
    credentials: Callable[[], _UserAndPassword | Awaitable[_UserAndPassword]] | None = None
    sentinel_username: str | None = None
    sentinel_password: SecretStr | None = None
    tls: bool = False
    tls_ca: Path | None = None
    tls_certificate: Path | None = None
    connect_timeout: float = 5.0
    response_timeout: float = 10.0
    @classmethod
    def from_url(cls, url: str) -> Self: ...

class OutboxError(SchedulerError):
    path: Path
    def __init__(self, message: str, path: Path) -> None: ...

class BridgeOptions(TypedDict, total=False):
    mode: _Mode
    group: str
    outbox: str | Path | None
    max_outbox: int
    max_bytes: int
    max_length: int
    prefetch: int
    claim_after: float | timedelta
    max_deliveries: int
    max_dead_letters: int
    lease: float | timedelta

@final
@dataclass(frozen=True, slots=True)
class BridgeStatistics:
    connected: bool
    outages: int
    sent: int
    unsent: int
    received: int
    in_hand: int
    acknowledged: int
    failed: int
    buried: int
    missed: int

@final
class RedisBridge(BackgroundTask):
    def __init__(
        self,
        url: str | RedisSettings,
        *,
        topics: Sequence[Topic[Any] | str],
        namespace: str,
        **options: Unpack[BridgeOptions],
    ) -> None: ...
    @property
    def default_name(self) -> str: ...
    def statistics(self) -> BridgeStatistics: ...
    async def initialize(self) -> None: ...
    async def execute(self) -> None: ...
    async def shutdown(self) -> None: ...

@final
@dataclass(frozen=True, slots=True)
class BuriedMessage:
    id: str
    buried_at: datetime
    deliveries: int
    group: str | None
    error: str
    entry: str
    ordinal: int | None
    message: str | None

@final
@dataclass(frozen=True, slots=True)
class DeadLetterReport:
    total: int
    trimmed: int
    by_error: Mapping[str, int]
    letters: Sequence[BuriedMessage]
    topic_exists: bool

@final
@dataclass(frozen=True, slots=True)
class DeadLetterOutcome:
    done: Sequence[str]
    refused: Mapping[str, str]

@final
@dataclass(frozen=True, slots=True)
class ConsumerGroup:
    name: str
    alive: int
    pending: int
    lag: int | None
    last_heartbeat: datetime | None

@final
class TopicAdmin:
    def __init__(
        self, url: str | RedisSettings, topic: Topic[Any] | str, *, namespace: str
    ) -> None: ...
    async def dead_letters(self, *, limit: int = 100) -> DeadLetterReport: ...
    async def dead_letter(self, id: str) -> BuriedMessage | None: ...
    async def requeue(self, *ids: str, every_group: bool = False) -> DeadLetterOutcome: ...
    async def requeue_all(self, *, every_group: bool = False) -> DeadLetterOutcome: ...
    async def drop(self, *ids: str) -> DeadLetterOutcome: ...
    async def drop_all(self) -> DeadLetterOutcome: ...
    async def groups(self, *, alive_within: float | timedelta = 60.0) -> list[ConsumerGroup]: ...
    async def drop_group(
        self, name: str, *, force: bool = False, alive_within: float | timedelta = 60.0
    ) -> bool: ...
