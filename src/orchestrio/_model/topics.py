"""`Topic`: the key of a channel that knows the type of what the channel carries."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import partial
from types import BuiltinFunctionType, FunctionType, GenericAlias, MethodType
from typing import Any, Generic, cast, final, get_origin, overload

from typing_extensions import TypeForm, TypeVar

from .errors import InvalidChannelError
from .refusals import in_short, invalid

__all__ = ["Topic", "is_hashable", "require_event"]

T = TypeVar("T", default=str)

#: Where the classes of all types live that are no classes themselves: unions, literals and so on.
_OF_TYPES = {"types", "typing", "typing_extensions"}

_FUNCTIONS = {FunctionType, MethodType, BuiltinFunctionType, partial}


@final
@dataclass(frozen=True, init=False, match_args=False)
class Topic(Generic[T]):
    """A typed event key: ``Topic("orders", Order)`` carries `Order`, ``Topic("log")`` carries `str`.

    Two topics are the same event if key and payload are equal. A topic hashes like any key, but
    to a type checker it is not a `collections.abc.Hashable`: that is what keeps a topic out of
    the overloads for plain keys, so that publishing a `str` on a ``Topic[Order]`` is an error.

    Example::

        import anyio

        from orchestrio import EventBus, Topic

        PRICES = Topic("prices", float)

        async def main() -> None:
            bus = EventBus()
            bus.add_channel(PRICES)
            with bus.subscribe(PRICES) as prices:
                await bus.publish(PRICES, 9.5)
                print(await prices.receive())  # 9.5

        anyio.run(main)

    :param key: what the event is called, unique on its bus
    :param payload: type of each message: a class, or any other type, such as ``Order | Refund`` or
        ``Literal["up", "down"]``
    :param validate: whether Pydantic checks each message, strictly, before anyone sees it
    :raises ~pydantic.ValidationError: if the key does not hash, or the payload is no type
    """

    key: Hashable
    """What the event is called, unique on its bus."""
    payload: TypeForm[T]
    """Type of each message."""
    validate: bool = field(compare=False)
    """Whether Pydantic checks each message, strictly, before anyone sees it."""
    _hash: int = field(repr=False, compare=False)

    @overload
    def __init__(self: "Topic[str]", key: Hashable, *, validate: bool = False) -> None: ...
    @overload
    def __init__(self, key: Hashable, payload: TypeForm[T], *, validate: bool = False) -> None: ...
    def __init__(self, key: Hashable, payload: Any = str, *, validate: bool = False) -> None:
        if not is_hashable(key):
            raise invalid(
                "Topic()",
                "key",
                key,
                "an unhashable key finds nothing: take a text, a tuple, or the member of an Enum",
            )
        if not (
            isinstance(payload, (type, GenericAlias))  # that of a `Callable` is one elsewhere
            or payload is None
            or type(payload).__module__ in _OF_TYPES
        ):
            raise invalid(
                "Topic()",
                "payload",
                payload,
                "a payload is a type: a class, or a union such as int | str, not the name of one",
            )
        if not isinstance(cast("object", validate), bool):
            raise invalid("Topic()", "validate", validate, "validate is True or False")
        self.__setstate__((key, payload, validate))

    # A hash of strings means nothing in another process: it is not a part of the state.
    def __getstate__(self) -> tuple[Hashable, Any, bool]:
        return self.key, self.payload, self.validate

    def __setstate__(self, state: tuple[Hashable, Any, bool]) -> None:
        key, payload, validate = state
        object.__setattr__(self, "key", key)
        object.__setattr__(self, "payload", payload)
        object.__setattr__(self, "validate", validate)
        object.__setattr__(self, "_hash", hash((Topic, key)))  # a payload may not hash

    # Declared as `object`, see above: mypy and pyright then take it for no `Hashable`.
    def __hash__(self) -> object:  # type: ignore[override]
        return self._hash

    def __str__(self) -> str:
        payload = cast("object", self.payload)
        return f"{self.key} ({payload.__name__ if isinstance(payload, type) else payload})"


def is_hashable(key: object) -> bool:
    """Return whether something can be a key; a tuple can only if all that is in it can."""
    try:
        hash(key)
    except TypeError:
        return False
    return True


def require_event(event: object) -> None:
    """See that something can be the key of a channel.

    :param event: the key
    :raises InvalidChannelError: if it does not hash, or is sure to be a slip of the pen
    """
    if not is_hashable(event):
        raise InvalidChannelError(
            f"{in_short(event)} is no event, since it is not hashable: use a Topic, a text, a tuple"
            " or the member of an Enum.",
            event,
        )
    if event is None:
        raise InvalidChannelError(
            'None is no event: make one, such as Topic("orders", Order), or take a text.', event
        )
    if (get_origin(event) or event) is Topic:
        raise InvalidChannelError(
            'the class Topic is no event: make a topic, such as Topic("orders", Order).', event
        )
    if type(event) in _FUNCTIONS:
        raise InvalidChannelError(
            f"{in_short(event)} is no event: a handler is registered with its event, as in"
            " @scheduler.on(topic).",
            event,
        )
