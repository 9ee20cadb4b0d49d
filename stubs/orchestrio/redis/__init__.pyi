from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Self, final

from pydantic import BaseModel, ConfigDict, SecretStr

from .. import BackgroundTask, Topic

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
        mode: Literal["broadcast", "compete"] = "broadcast",
        group: str = "workers",
        outbox: str | Path | None = None,
        max_bytes: int = 1_000_000,
        max_length: int = 100_000,
        prefetch: int = 64,
        claim_after: float = 30.0,
        max_deliveries: int = 5,
        lease: float = 10.0,
    ) -> None: ...
    @property
    def default_name(self) -> str: ...
    def statistics(self) -> BridgeStatistics: ...
    async def initialize(self) -> None: ...
    async def execute(self) -> None: ...
    async def shutdown(self) -> None: ...
