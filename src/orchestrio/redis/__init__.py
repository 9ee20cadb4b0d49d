"""The same bus in several processes, over the streams of Redis or Valkey: `RedisBridge`.

Needs the extra: ``pip install 'orchestrio[redis]'``.
"""

try:
    import coredis as _coredis
except ImportError:  # pragma: no cover  # a test runs this in an interpreter of its own
    raise ImportError(
        "orchestrio.redis needs coredis, which is an extra: pip install 'orchestrio[redis]'"
    ) from None

from .admin import ConsumerGroup as ConsumerGroup, TopicAdmin as TopicAdmin
from .bridge import BridgeStatistics as BridgeStatistics, RedisBridge as RedisBridge
from .database import OutboxError as OutboxError
from .dead_letters import (
    BuriedMessage as BuriedMessage,
    DeadLetterOutcome as DeadLetterOutcome,
    DeadLetterReport as DeadLetterReport,
)
from .envelope import traceparent as traceparent
from .options import BridgeOptions as BridgeOptions
from .settings import RedisSettings as RedisSettings

for _value in (
    BridgeOptions,
    BridgeStatistics,
    BuriedMessage,
    ConsumerGroup,
    DeadLetterOutcome,
    DeadLetterReport,
    OutboxError,
    RedisBridge,
    RedisSettings,
    TopicAdmin,
):
    _value.__module__ = __name__
del _coredis
