"""`Keys`: what the keys of one topic in the server are called, and what each of them is for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final
from urllib.parse import quote

__all__ = ["GroupKeys", "Keys"]


@final
@dataclass(frozen=True, slots=True)
class GroupKeys:
    """The keys of a group of processes that compete for a topic."""

    tries: str
    """A hash: of each entry, how many deliveries began; with ``!`` the last error, with ``?`` since
    when it could not be read.
    """
    later: str
    """A sorted set: entries that are to come again, by when."""
    alive: str
    """A sorted set: consumers, by when they were last heard of."""


@final
class Keys:
    """The keys of one topic; all begin alike, so that a cluster keeps them on one server.

    :param namespace: of the bridge
    :param topic: name of the topic
    """

    def __init__(self, namespace: str, topic: str) -> None:
        #: the stream
        self.stream: str = f"{{{quote(namespace, safe='')}:{quote(topic, safe='')}}}"
        #: a hash: the mode, when the topic was made, and the attributes that all its messages share
        self.about: str = f"{self.stream}:about"
        #: the ordinal of the last entry
        self.count: str = f"{self.stream}:count"
        #: a stream: the dead letters
        self.dead: str = f"{self.stream}:dead"
        #: a sorted set: in broadcast, which entries are there already, by when
        self.buried: str = f"{self.stream}:buried"

    def origin(self, origin: str) -> str:
        """Return the key of the number of the last message that was taken from an origin."""
        return f"{self.stream}:from:{origin}"

    def group(self, group: str) -> GroupKeys:
        """Return the keys of a group."""
        place = f"{self.stream}:{quote(group, safe='')}"
        return GroupKeys(f"{place}:tries", f"{place}:later", f"{place}:alive")
