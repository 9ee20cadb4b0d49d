"""`BuriedMessage`: a dead letter as it lies in the server, and how it becomes a message again."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from json.decoder import JSONDecoder
from typing import Final, NoReturn, final

from .envelope import VERSION

__all__ = [
    "BuriedMessage",
    "DeadLetterOutcome",
    "DeadLetterReport",
    "entry_fields",
    "kind_of",
    "time_of",
]

_TIMES: Final = re.compile(r"it was delivered [\d,]+ times?\. ?")
_SPACE: Final = re.compile(r"[ \t\n\r]*")


@final
@dataclass(frozen=True, slots=True)
class BuriedMessage:
    """A message among the dead letters of a topic."""

    id: str
    """Identifier among the dead letters; others are older if it is smaller."""
    buried_at: datetime
    """When it was moved there, in UTC, by the server's clock."""
    deliveries: int
    """How often its handling began."""
    group: str | None
    """The group in which it failed, with ``mode="compete"``."""
    error: str
    """Why; in a report its first line alone."""
    entry: str
    """Identifier that it had in the stream of the topic."""
    ordinal: int | None
    """Which message of the topic it was, counted from 1."""
    message: str | None
    """The message, as structured JSON of CloudEvents 1.0; left out of a report."""


@final
@dataclass(frozen=True, slots=True)
class DeadLetterReport:
    """How the dead letters of a topic stand."""

    total: int
    """How many there are."""
    trimmed: int
    """How many older ones the server has let go, since it keeps a limited number."""
    by_error: Mapping[str, int]
    """How many there are with each error, by its type or its first words; the most come first."""
    letters: Sequence[BuriedMessage]
    """The last of them, newest last."""
    topic_exists: bool
    """Whether the server knows the topic at all; if not, see to the namespace and the name."""


@final
@dataclass(frozen=True, slots=True)
class DeadLetterOutcome:
    """What became of the dead letters that were to be put back, or dropped."""

    done: Sequence[str]
    """Identifiers of those that are dead letters no more."""
    refused: Mapping[str, str]
    """Why not, by the identifier of each of the others."""


def time_of(identifier: str) -> datetime:
    """Return when an entry was made, from its identifier."""
    return datetime.fromtimestamp(int(identifier.partition("-")[0]) / 1000, UTC)


def kind_of(error: str) -> str:
    """Return what errors of one kind have in common: the name of the type, or the first words."""
    head = _TIMES.sub("", error.partition("\n")[0], count=1)
    return head.partition(": ")[0].strip()[:100] or "no error is known"


def entry_fields(message: str | None, group: str | None) -> list[str]:
    """Return the fields of the entry that a dead letter becomes again; that of ``n`` is empty.

    :param message: the message, as it was buried
    :param group: the only group that is to get it, if there is one
    :return: name, value, name, value
    :raises ValueError: if it cannot be a message again; says why
    """
    try:
        members = _members(message or "")
        if "specversion" in members:
            fields = ["v", str(VERSION), "n", "", *_text("id", members), *_text("time", members)]
            fields += ["data", members["data"]]  # byte for byte: numbers stay as they were written
            if "traceparent" in members:
                fields += _text("traceparent", members)
        elif members.get("v") == "1" and "data" in members:
            fields = ["n", "", "m", message or ""]
        else:
            raise ValueError("no bridge has written it")
    except KeyError as error:
        raise ValueError(f"it has no attribute {error}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return [*fields, "group", group] if group else fields


def _text(name: str, members: Mapping[str, str]) -> tuple[str, str]:
    value = json.loads(members[name])
    if isinstance(value, str):
        value.encode()  # half of a sign, which JSON may have, cannot be sent
        return name, value
    raise ValueError(f"its attribute '{name}' is no text")


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


#: Reads no number, so that none is too long.
_DECODER: Final = JSONDecoder(parse_int=str, parse_float=str, parse_constant=_constant)


def _members(text: str) -> dict[str, str]:
    """Return the members of a JSON object, each value as it is written."""
    found: dict[str, str] = {}
    at = _after("{", text, 0)
    while not (not found and text.startswith("}", at)):
        name, at = _DECODER.raw_decode(text, at)
        begin = _after(":", text, at)
        _, end = _DECODER.raw_decode(text, begin)
        found[str(name)] = text[begin:end]
        at = _space(text, end)
        if not text.startswith(",", at):
            break
        at = _after(",", text, at)
    if _after("}", text, at) != len(text):
        raise ValueError("it is no JSON object")
    return found


def _after(sign: str, text: str, at: int) -> int:
    at = _space(text, at)
    if not text.startswith(sign, at):
        raise ValueError("it is no JSON object")
    return _space(text, at + len(sign))


def _space(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    assert space is not None
    return space.end()
