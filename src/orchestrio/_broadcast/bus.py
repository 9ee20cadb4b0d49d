"""`EventBus`: a broadcast channel for each event, found by its key."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from inspect import iscoroutinefunction
from itertools import islice
from threading import get_ident
from types import MappingProxyType
from typing import Any, Generic, NoReturn, cast, final, overload

from anyio import EndOfStream
from pydantic import (
    ConfigDict,
    PydanticSchemaGenerationError,
    PydanticUndefinedAnnotation,
    PydanticUserError,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import SchemaError
from typing_extensions import TypeVar

from .._model.errors import EventReceiveError, EventSendError, InvalidChannelError, LifecycleError
from .._model.near import near_names
from .._model.refusals import in_short, require_instance
from .._model.settings import ChannelConfig
from .._model.topics import Topic, is_hashable, require_event
from .._model.words import in_words
from ._streams.receive import BroadcastReceiveStream
from ._streams.send import (
    BroadcastSendStream,
    channel_of,
    create_sender,
    send_and_count,
    send_at_once,
    send_slowly,
    shut_channel,
    subscribe_for_good,
)
from .channel import ChannelStatistics
from .home import Home

__all__ = ["EventBus"]

E = TypeVar("E", bound=Hashable, default=Hashable)
T = TypeVar("T")

_LISTED = 10_000  # of so many channels a near name is looked for


def _names_of(events: Iterable[object]) -> list[str]:
    """Return what events are called, a topic by its key; there may be many."""
    keys: list[object] = [event.key if type(event) is Topic else event for event in events]
    if {*map(type, keys)} == {str}:
        return cast("list[str]", keys)
    return [key if type(key) is str else in_words(key) for key in keys]


def _checker(event: object) -> Callable[[object], object] | None:
    """Return what checks the payloads of a topic with ``validate=True``; `None` for others."""
    if not isinstance(event, Topic):
        return None
    topic = cast("Topic[object]", event)
    if not topic.validate:
        return None
    try:
        try:
            adapter = TypeAdapter[object](topic.payload)
        except PydanticSchemaGenerationError:  # a class that Pydantic knows nothing of: isinstance
            anything = ConfigDict(arbitrary_types_allowed=True)
            adapter = TypeAdapter[object](topic.payload, config=anything)
        adapter.rebuild()  # or it says with the first message what it does not know
    except (PydanticUserError, PydanticUndefinedAnnotation, SchemaError) as error:
        raise InvalidChannelError(
            f"event {in_words(topic, repr)} cannot be validated: Pydantic does not understand its payload."
            f" {str(error).splitlines()[0]}",
            topic,
        ) from error

    validate = adapter.validator.validate_python  # the adapter's own looks at ten options first
    passed = _passed_as_it_is(adapter)

    def check(message: object) -> object:
        if type(message) is passed:
            return message
        try:
            return validate(message, strict=True)
        except ValidationError as error:
            raise EventSendError(
                f"a message for {in_words(topic)} is not valid and was not sent: {error}", topic
            ) from error

    return check


def _passed_as_it_is(adapter: TypeAdapter[Any]) -> type | None:
    """Return the class of which Pydantic hands back each instance without looking into it, if any.

    Such is a plain model, unless it asks for more: to ask Pydantic takes three times as long.
    """
    schema = cast("dict[str, Any]", adapter.core_schema)
    if schema["type"] != "model" or schema.get("root_model"):
        return None
    revalidate = schema.get("revalidate_instances") or schema.get("config", {}).get(
        "revalidate_instances", "never"
    )
    return cast("type", schema["cls"]) if revalidate == "never" else None


@final
class EventBus(Generic[E]):
    """Publish/subscribe: what is published on one of its channels goes to all who subscribed.

    A key is a `Topic`, which carries its payload type, or any plain hashable (an enum member, a
    string), which carries `str`. `E` narrows the plain keys: ``EventBus[MyEnum]()``.

    Use it from the event loop's thread: another one opens channels and makes senders, whose
    ``send_from_thread`` it calls. What else it calls raises `LifecycleError`, and does nothing.

    Example::

        import anyio

        from orchestrio import ChannelConfig, EventBus

        async def main() -> None:
            bus = EventBus()
            bus.add_channel("news", ChannelConfig(capacity=16, overflow="block"))
            with bus.subscribe("news") as first, bus.subscribe("news") as second:
                print(await bus.publish("news", "it rains"))  # 2
                print(await first.receive(), "/", await second.receive())  # it rains / it rains

        anyio.run(main)
    """

    __slots__ = ("_closed", "_configs", "_ended", "_home", "_senders")

    def __init__(self) -> None:
        self._configs: dict[object, ChannelConfig] = {}
        self._senders: dict[object, BroadcastSendStream[Any]] = {}
        self._closed = False
        self._ended = False  # for its guests: nobody can subscribe any more
        self._home = Home()

    @property
    def channels(self) -> Mapping[object, ChannelConfig]:
        """The settings of each channel, by event: a live, read-only view."""
        return MappingProxyType(self._configs)

    @overload
    def add_channel(self, event: Topic[T], config: ChannelConfig | None = None) -> None: ...
    @overload
    def add_channel(self, event: E, config: ChannelConfig | None = None) -> None: ...
    def add_channel(self, event: object, config: ChannelConfig | None = None) -> None:
        """Open a channel for an event.

        :param event: the key
        :param config: its settings; those of ``ChannelConfig()`` if not given
        :raises InvalidChannelError: if the event has a channel already, can be no key, or is to be
            validated and Pydantic does not know how
        :raises LifecycleError: if the bus has been closed, or `config` is something else
        """
        self._require_open()
        require_event(event)
        if event in self._senders:
            raise InvalidChannelError(
                f"event {in_words(event, repr)} has a channel already: remove it first, or use it.",
                event,
            )
        config = ChannelConfig() if config is None else config
        require_instance(config, ChannelConfig, "the config of a channel")
        self._home.note()
        sender = create_sender(config, event, _checker(event), self._home)
        if self._ended:
            channel_of(sender).end_guests()
        self._senders[event] = sender
        self._configs[event] = config

    @overload
    def remove_channel(self, event: Topic[T]) -> None: ...
    @overload
    def remove_channel(self, event: E) -> None: ...
    def remove_channel(self, event: object) -> None:
        """Close the channel of an event: its senders are closed, its receivers drain and end.

        :param event: the key
        :raises InvalidChannelError: if the event has no channel
        :raises LifecycleError: if a bridge carries the event: what comes in would go nowhere
        """
        sender = self._sender(event)
        self._home.require_thread("the bus")
        channel = channel_of(sender)
        if channel.relayed_to is not None:
            raise LifecycleError(
                f"{channel} cannot be removed while a bridge carries it: remove the task of the"
                " bridge first, with remove_task()"
            )
        del self._senders[event], self._configs[event]
        shut_channel(sender)

    @overload
    def clone_sender(self, event: Topic[T]) -> BroadcastSendStream[T]: ...
    @overload
    def clone_sender(self, event: E) -> BroadcastSendStream[str]: ...
    def clone_sender(self, event: object) -> BroadcastSendStream[Any]:
        """Return a sender of the event's channel: the fastest way to publish often.

        The bus closes it with the channel; closing it earlier is allowed.

        :param event: the key
        :return: the sender
        :raises InvalidChannelError: if the event has no channel
        :raises LifecycleError: if the bus has been closed
        """
        self._home.note()
        return self._sender(event).clone()

    @overload
    def subscribe(self, event: Topic[T]) -> BroadcastReceiveStream[T]: ...
    @overload
    def subscribe(self, event: E) -> BroadcastReceiveStream[str]: ...
    def subscribe(self, event: object) -> BroadcastReceiveStream[Any]:
        """Return a new receiver of the event; it gets all that is published from now on.

        :param event: the key
        :return: the receiver, to be closed by the caller; it gets the channel's `replay` first
        :raises InvalidChannelError: if the event has no channel
        :raises LifecycleError: if the bus has been closed, or its scheduler is stopping and has
            handled what was published: that is when all receivers end; or if a bridge with
            ``mode="compete"`` carries the event, whose messages are for event tasks
        """
        return self._guests_sender(event).subscribe()

    @overload
    def publish_nowait(self, event: Topic[T], item: T) -> int: ...
    @overload
    def publish_nowait(self, event: E, item: str) -> int: ...
    def publish_nowait(self, event: object, item: object) -> int:
        """Publish one message without waiting.

        :param event: the key
        :param item: the payload, a message
        :return: how many receivers it went to; 0 if ``overflow="drop_newest"`` dropped it
        :raises InvalidChannelError: if the event has no channel
        :raises LifecycleError: if the bus has been closed
        :raises ~anyio.WouldBlock: if the channel is full and ``overflow="block"``
        :raises EventSendError: if the channel refused the message, or it is not valid
        """
        return send_and_count(self._sender(event), item)

    @overload
    async def publish(self, event: Topic[T], item: T) -> int: ...
    @overload
    async def publish(self, event: E, item: str) -> int: ...
    async def publish(self, event: object, item: object) -> int:
        """Publish one message, waiting for room if ``overflow="block"``.

        If this is cancelled, the message was not sent, unless a bridge with an outbox on disk has it
        already.

        :param event: the key
        :param item: the payload, a message
        :return: how many receivers it went to; 0 if ``overflow="drop_newest"`` dropped it
        :raises InvalidChannelError: if the event has no channel
        :raises LifecycleError: if the bus has been closed
        :raises ~anyio.ClosedResourceError: if the channel is removed while this waits for room
        :raises EventSendError: if the channel refused the message, or it is not valid
        """
        sender = self._sender(event)
        receivers = send_at_once(sender, item)
        return await send_slowly(sender, item) if receivers is None else receivers

    @overload
    async def wait_for(
        self, event: Topic[T], predicate: Callable[[T], bool] | None = None
    ) -> T: ...
    @overload
    async def wait_for(self, event: E, predicate: Callable[[str], bool] | None = None) -> str: ...
    async def wait_for(
        self, event: object, predicate: Callable[[T], bool] | None = None
    ) -> T | str:
        """Wait for the next message that matches; it is subscribed before the first await.

        Only what is published from now on counts, also on a channel with `replay`.

        :param event: the key
        :param predicate: called with each message; `None` takes the first
        :return: the message
        :raises InvalidChannelError: if the event has no channel
        :raises LifecycleError: as `subscribe` does, or if `predicate` is no plain function
        :raises EventReceiveError: if the channel is closed first, or its scheduler stops
        :raises LaggedError: if messages were overwritten unseen: one of them may have matched
        """
        sender = cast("BroadcastSendStream[T]", self._guests_sender(event))
        if predicate is not None and (not callable(predicate) or iscoroutinefunction(predicate)):
            raise LifecycleError(
                "the predicate of wait_for() must be a plain function of one message that returns"
                f" a bool, not {in_short(predicate)}."
            )
        with sender.subscribe() as replayed, replayed.resubscribe() as receiver:
            replayed.close()
            try:
                while True:
                    message = await receiver.receive()
                    if predicate is None or predicate(message):
                        return message
            except EndOfStream:
                raise EventReceiveError(
                    f"channel {in_words(event, repr)} was closed, or its scheduler stopped, before a"
                    " matching message was published"
                ) from None

    def statistics(self) -> Mapping[object, ChannelStatistics]:
        """Return how each channel stands now, by event."""
        return {event: sender.statistics() for event, sender in self._senders.items()}

    def close(self) -> None:
        """Close every channel; receivers drain and then end. Doing it again does nothing."""
        self._home.require_thread("the bus")
        self._closed = True
        for sender in self._senders.values():
            shut_channel(sender)

    def _sender(self, event: object) -> BroadcastSendStream[Any]:
        try:
            sender = self._senders.get(event)
        except TypeError:
            if is_hashable(event):
                raise  # it comes from a key of the user's own
            sender = None
        if sender is None or self._closed:
            self._require_open()
            self._no_channel(event)
        return sender

    def _guests_sender(self, event: object) -> BroadcastSendStream[Any]:
        sender = self._sender(event)
        if self._ended:
            raise LifecycleError(
                "the scheduler is stopping, and has handled what was published: nobody can"
                " subscribe any more"
            )
        return sender

    def _require_open(self) -> None:
        if self._closed:
            raise LifecycleError("the bus has been closed: its channels take nothing any more")

    def _no_channel(self, event: object) -> NoReturn:
        require_event(event)
        known = list(islice(self._senders, _LISTED))
        names = _names_of(known)
        [wrong] = _names_of([event])
        near = near_names(wrong, names)
        if near:
            meant = (known[names.index(name)] for name in near)
            hint = "did you mean " + " or ".join(in_words(one, repr) for one in meant) + "?"
        elif known:
            hint = "known events: " + ", ".join(in_words(some) for some in known[:10]) + "."
        else:
            hint = "the bus has no channels yet."
        raise InvalidChannelError(
            f"event {in_words(event, repr)} has no channel: {hint} Open one with add_channel().",
            event,
        )


# For those who run tasks on a bus. They are friends, in this module.


def note_home(bus: EventBus[Any]) -> None:
    """Have other threads reach a bus in the event loop that runs here, until that ends."""
    bus._home.settle()  # pyright: ignore[reportPrivateUsage]


def require_thread(bus: EventBus[Any], what: str, cure: str) -> None:
    """See that a call is made in the thread of a bus; see `Home.require_thread`.

    :raises LifecycleError: if it is made in another one
    """
    home = bus._home  # pyright: ignore[reportPrivateUsage]
    if home.thread != get_ident():  # of ten thousand tasks, each would look for its event loop
        home.require_thread(what, cure)


def senders_of(bus: EventBus[Any]) -> Mapping[object, BroadcastSendStream[Any]]:
    """Return what a bus sends with, by event: a live view. A channel in it may be closed."""
    return bus._senders  # pyright: ignore[reportPrivateUsage]


def subscribe_until_closed(bus: EventBus[Any], event: object) -> BroadcastReceiveStream[Any]:
    """Return a receiver that ends with the bus: it is of a task, or of who looks on to the end.

    :raises InvalidChannelError: as `EventBus.subscribe` does, as are the others
    :raises LifecycleError: if the bus has been closed
    """
    return subscribe_for_good(bus._sender(event))  # pyright: ignore[reportPrivateUsage]


def begin_to_end(bus: EventBus[Any]) -> None:
    """Note that the scheduler stops: threads send to nobody no more, once readers have left."""
    bus._home.is_stopping = True  # pyright: ignore[reportPrivateUsage]


def end_guests(bus: EventBus[Any]) -> None:
    """End all receivers but those; they read the rest, and threads cannot send any more."""
    bus._ended = True  # pyright: ignore[reportPrivateUsage]
    for sender in bus._senders.values():  # pyright: ignore[reportPrivateUsage]
        channel_of(sender).end_guests()
