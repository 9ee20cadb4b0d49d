"""The same bus in several processes, over the streams of Redis or Valkey: `RedisBridge`.

Needs the extra: ``pip install 'orchestrio[redis]'``.
"""

try:
    import coredis as _coredis
except ImportError:  # pragma: no cover  # a test runs this in an interpreter of its own
    raise ImportError(
        "orchestrio.redis needs coredis, which is an extra: pip install 'orchestrio[redis]'"
    ) from None

from .._model.traces import traceparent as traceparent
from ._admin import ConsumerGroup as ConsumerGroup, TopicAdmin as TopicAdmin
from ._bridge import BridgeStatistics as BridgeStatistics, RedisBridge as RedisBridge
from ._options import BridgeOptions as BridgeOptions
from ._outbox.database import OutboxError as OutboxError
from ._server.settings import RedisSettings as RedisSettings
from ._wire.dead_letters import (
    BuriedMessage as BuriedMessage,
    DeadLetterOutcome as DeadLetterOutcome,
    DeadLetterReport as DeadLetterReport,
)

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

# Public names say where users find them, in tracebacks and help().
for _name in __all__:
    _value = globals()[_name]
    if callable(_value):
        _value.__module__ = __name__
del _coredis
