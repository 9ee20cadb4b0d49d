"""What topics are called where other processes find them: by the text that is their key."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, cast

from .errors import InvalidChannelError
from .topics import Topic

__all__ = ["SHARED", "name_of", "names_of"]

#: Why no two topics may have one name.
SHARED: Final = (
    "they would share one stream, and each read what is the others'. Give each a key of its own"
)


def names_of(topics: Sequence[Topic[Any] | str]) -> list[str]:
    """Return what the topics of a bridge are called in a server, in their order.

    :param topics: the topics, or plain keys
    :raises ValueError: if there is none
    :raises InvalidChannelError: as `name_of` does, or if two have the same name
    """
    if not _are_several(topics):
        raise ValueError("topics is a list of at least one topic")
    names = [name_of(topic) for topic in topics]
    for topic, name in zip(topics, names, strict=True):
        count = names.count(name)
        if count > 1:
            raise InvalidChannelError(f"{count} of the topics are called {name!r}: {SHARED}", topic)
    return names


def name_of(event: Topic[Any] | str) -> str:
    """Return what a topic is called in a server.

    :param event: the topic, or a plain key
    :raises InvalidChannelError: if its key is no text that can be
    """
    name = event.key if isinstance(event, Topic) else event
    if not isinstance(name, str):
        what = "its key is no text"
    elif not name:
        what = "its key is empty"
    else:
        try:
            name.encode()
        except UnicodeEncodeError:
            what = "its key has no UTF-8"
        else:
            return str.__str__(name)  # by which it hashes, whatever its class shows
    raise InvalidChannelError(f"event {event!r} cannot go to other processes: {what}", event)


def _are_several(topics: object) -> bool:
    """Return whether something is a collection, with something in it, and not one text."""
    several = cast("Collection[object]", topics) if isinstance(topics, Collection) else ()
    return len(several) > 0 and not isinstance(several, (str, Mapping))
