"""`Topic`: the key of a channel that knows the type of what the channel carries."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, cast, final, overload

from typing_extensions import TypeVar

__all__ = ["Topic"]

T = TypeVar("T", default=str)


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
    :param payload: type of each message; a type checker wants a class here, so for a union write
        ``Topic("orders", cast("type[Order | Refund]", Order | Refund))``
    :param validate: whether Pydantic checks each message, strictly, before anyone sees it
    """

    key: Hashable
    """What the event is called, unique on its bus."""
    payload: type[T]
    """Type of each message."""
    validate: bool = field(compare=False)
    """Whether Pydantic checks each message, strictly, before anyone sees it."""
    _hash: int = field(repr=False, compare=False)

    @overload
    def __init__(self: "Topic[str]", key: Hashable, *, validate: bool = False) -> None: ...
    @overload
    def __init__(self, key: Hashable, payload: type[T], *, validate: bool = False) -> None: ...
    def __init__(self, key: Hashable, payload: type[Any] = str, *, validate: bool = False) -> None:
        self.__setstate__((key, payload, validate))

    # A hash of strings means nothing in another process: it is not a part of the state.
    def __getstate__(self) -> tuple[Hashable, type[Any], bool]:
        return self.key, self.payload, self.validate

    def __setstate__(self, state: tuple[Hashable, type[Any], bool]) -> None:
        key, payload, validate = state
        object.__setattr__(self, "key", key)
        object.__setattr__(self, "payload", payload)
        object.__setattr__(self, "validate", validate)
        object.__setattr__(self, "_hash", hash((key, payload)))

    # Declared as `object`, see above: mypy and pyright then take it for no `Hashable`.
    def __hash__(self) -> object:  # type: ignore[override]
        return self._hash

    def __str__(self) -> str:
        # Not of all payloads is it true that they are classes: list[int], say.
        payload = cast("object", self.payload)
        return f"{self.key} ({payload.__name__ if isinstance(payload, type) else payload})"
