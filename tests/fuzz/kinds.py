"""Kinds of wrong values: what is wrong for a parameter, by what it should be."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from typing import Any

from hypothesis import strategies as st

from orchestrio import (
    BackgroundTask,
    Backoff,
    ChannelConfig,
    EventTask,
    RestartPolicy,
    Scheduler,
    TaskMetadata,
    Topic,
)

#: Wrong values by what they are, in words.
Kinds = dict[str, st.SearchStrategy[Any]]

NEWS = Topic("news")


# -- right things in the wrong place -----------------------------------------------------------


async def nothing() -> None:
    """A background task's function, or none at all for an event."""


async def swallow(message: object) -> None:
    """A handler, or too much for a background task."""


async def merge(one: object, other: object) -> None:
    """Takes too much for either."""


def plain(*_: object) -> None:
    """Is not async: what calls it gets nothing to await."""


async def generate(*_: object) -> AsyncGenerator[int]:
    """Is async, and nothing that can be awaited."""
    yield 1


class Worker(BackgroundTask):
    async def execute(self) -> None:
        pass


class Reader(EventTask[str]):
    @property
    def subscribed_event(self) -> Topic[str]:
        return NEWS

    async def handle_event(self, event: str) -> None:
        pass


# -- kinds -------------------------------------------------------------------------------------

LIST = st.lists(st.integers(), min_size=1)
COLLECTION = LIST | st.dictionaries(st.text(), st.integers(), min_size=1)
UNHASHABLE = COLLECTION | st.tuples(LIST)

#: A value of each type there is, as far as this library is concerned.
TYPES: Kinds = {
    "nothing": st.none(),
    "a bool": st.booleans(),
    "a number": st.integers() | st.floats(),
    "a text": st.text(),
    "a collection": COLLECTION,
    "an object": st.builds(object),
    "a class": st.sampled_from([int, ValueError, Scheduler]),
    "a function": st.just(nothing),
}


def a_type_but(*right: str) -> st.SearchStrategy[Any]:
    """Return values of all types but those that are right."""
    assert set(right) <= set(TYPES)
    return st.one_of([values for name, values in TYPES.items() if name not in right])


def wrong(*right: str, **others: st.SearchStrategy[Any]) -> Kinds:
    """Return what is wrong: another type, and kinds of the right one, named with underscores."""
    return {"another type": a_type_but(*right)} | only(**others)


def only(**kinds: st.SearchStrategy[Any]) -> Kinds:
    """Return these kinds alone."""
    return {name.replace("_", " "): values for name, values in kinds.items()}


def count(least: int, most: int | None = None) -> Kinds:
    """What is wrong for a whole number in these bounds."""
    return wrong(
        "a number",
        no_whole_number=st.sampled_from([least + 0.5, least + 1.0, math.nan, math.inf]),
        too_few=st.integers(max_value=least - 1),
        **({} if most is None else {"too_many": st.integers(min_value=most + 1)}),
    )


def seconds(**others: st.SearchStrategy[Any]) -> Kinds:
    """What is wrong for a time in seconds."""
    return wrong(
        "a number",
        less_than_nothing=st.floats(max_value=0, exclude_max=True),
        no_number=st.just(math.nan),
        **others,
    )


def lenient(kinds: Kinds, **others: st.SearchStrategy[Any]) -> Kinds:
    """What is wrong for a number that Pydantic also reads from a text: a text of letters is."""
    letters = a_type_but("a number", "a bool", "a text") | st.text("xyz", min_size=1)
    return kinds | {"another type": letters, "a bool": st.booleans()} | others


INFINITY = st.just(math.inf)
ZERO = st.sampled_from([0, 0.0])

ANY = wrong()
TEXT = wrong("a text")
TEXT_OR_NOTHING = wrong("a text", "nothing")
_LENGTHS = only(an_empty_text=st.just(""), a_long_text=st.text("x", min_size=201))
NAME = TEXT | _LENGTHS
NAME_OR_NOTHING = TEXT_OR_NOTHING | _LENGTHS
BOOL = wrong("a bool")


def word(misspelt: str, *right: str) -> Kinds:
    """What is wrong for one of a few words."""
    return wrong("a text", *right, a_misspelt_word=st.text() | st.just(misspelt))


#: A plain key may be anything that hashes, but the class of topics is a slip of the pen.
KEY = only(an_unhashable_value=UNHASHABLE, the_class_of_topics=st.sampled_from([Topic, Topic[int]]))
UNKNOWN_KEY = only(
    an_unknown_key=a_type_but("a collection") | st.sampled_from([Topic, Topic("news", int)]),
    an_unhashable_value=UNHASHABLE,
)
#: What identifies no task, be it of the right type or not.
TASK_ID = only(
    an_unknown_identity=a_type_but("a collection", "nothing") | st.builds(Worker),
    an_unhashable_value=UNHASHABLE,
)


def model(kind: type[Any], *right: str) -> Kinds:
    """What is wrong for an instance of a model."""
    another = ChannelConfig() if kind is not ChannelConfig else RestartPolicy()
    return wrong(*right, its_class=st.just(kind), another_model=st.just(another))


CONFIG = model(ChannelConfig, "nothing")
METADATA = model(TaskMetadata, "nothing")
POLICY = model(RestartPolicy, "nothing") | only(
    a_mode=st.just("always"), its_base=st.builds(Backoff)
)
BACKOFF = model(Backoff)
DEFAULTS = model(TaskMetadata, "nothing") | only(
    a_misspelt_option=st.just({"on_eror": "skip"}),
    a_wrong_value=st.just({"on_error": "ignore"}),
    an_option_of_one_task=st.sampled_from(
        [{"name": "one"}, {"description": ""}, {"depends_on": ()}, {"significant": True}]
    ),
    options_that_disagree=st.just({"on_error": "restart", "restart": RestartPolicy(mode="never")}),
)

_FUNCTION = wrong(
    "a function",
    a_plain_function=st.just(plain),
    an_async_generator=st.just(generate),
    one_that_takes_too_much=st.just(merge),
)
FUNCTION = _FUNCTION | only(a_handler=st.just(swallow))
HANDLER = _FUNCTION | only(one_that_takes_nothing=st.just(nothing))
PREDICATE = wrong("nothing", "a class", "a function", an_async_function=st.just(swallow))

_TASK: dict[str, dict[str, object]] = {
    "its name is a number": {"default_name": 5},
    "its name is empty": {"default_name": ""},
    "its initialize is no function": {"initialize": 5},
    "its initialize is plain": {"initialize": plain},
    "its shutdown is plain": {"shutdown": plain},
}
_WORKER: dict[str, dict[str, object]] = {
    "its execute is plain": {"execute": plain},
    "its execute is a generator": {"execute": generate},
}
_READER: dict[str, dict[str, object]] = {
    "its handler is plain": {"handle_event": plain},
    "its handler is a generator": {"handle_event": generate},
    "its handler takes nothing": {"handle_event": nothing},  # not even the task
    "its event is unhashable": {"subscribed_event": ["news"]},
}


def varied(task: type[Any], variants: dict[str, dict[str, object]]) -> Kinds:
    """Tasks of a class that have something else in place of one of its hooks."""
    return {
        kind: st.builds(type(task.__name__, (task,), hooks)) for kind, hooks in variants.items()
    }


BACKGROUND_TASK = wrong(its_class=st.just(Worker), an_event_task=st.builds(Reader)) | varied(
    Worker, _TASK | _WORKER
)
EVENT_TASK = wrong(its_class=st.just(Reader), a_background_task=st.builds(Worker)) | varied(
    Reader, _TASK | _READER
)
TASK = wrong(its_class=st.just(Worker))
