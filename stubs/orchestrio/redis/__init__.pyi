from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Self, TypeAlias, TypedDict, final

from pydantic import BaseModel, ConfigDict, SecretStr
from typing_extensions import Unpack

from .. import BackgroundTask, Topic

_Mode: TypeAlias = Literal["broadcast", "compete"]

traceparent: Final[ContextVar[str | None]]

class RedisSettings(BaseModel, frozen=True):
    model_config: ClassVar[ConfigDict]
    host: str = "localhost"
    port: int = 6379
    socket: str | None = None
    database: int = 0
    username: str | None = None
    password: SecretStr | None = None
    tls: bool = False
    tls_ca: Path | None = None
    tls_certificate: Path | None = None
    connect_timeout: float = 5.0
    response_timeout: float = 10.0
    @classmethod
    def from_url(cls, url: str) -> Self: ...

class BridgeOptions(TypedDict, total=False):
    mode: _Mode
    group: str
    outbox: str | Path | None
    max_bytes: int
    max_length: int
    prefetch: int
    claim_after: float | timedelta
    max_deliveries: int
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
