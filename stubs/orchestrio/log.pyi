from dataclasses import dataclass
from typing import Generic, final

from typing_extensions import TypeVar

__all__ = ["ChannelStatistics"]

T = TypeVar("T")

@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    capacity: int
    buffered: int
    sent: int
    dropped: int
    missed: int
    senders: int
    receivers: int
    tasks_waiting_send: int
    tasks_waiting_receive: int

# What a stream reads and writes; only the library makes one.
@final
class Log(Generic[T]): ...
