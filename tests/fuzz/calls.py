"""Every public call, with right arguments for it, and the kinds of wrong ones for each parameter."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

from fuzz.kinds import (
    ANY,
    BACKGROUND_TASK,
    BACKOFF,
    BOOL,
    CONFIG,
    DEFAULTS,
    EVENT_TASK,
    FUNCTION,
    HANDLER,
    INFINITY,
    KEY,
    METADATA,
    NAME,
    NAME_OR_NOTHING,
    NEWS,
    POLICY,
    PREDICATE,
    TASK,
    TASK_ID,
    TEXT,
    TEXT_OR_NOTHING,
    TYPES,
    UNHASHABLE,
    UNKNOWN_KEY,
    ZERO,
    Kinds,
    Reader,
    Worker,
    a_type_but,
    count,
    lenient,
    nothing,
    only,
    seconds,
    swallow,
    word,
    wrong,
)
from fuzz.places import (
    CHECKED,
    Place,
    a_backoff,
    a_bus,
    a_closed_bus,
    a_closed_receiver,
    a_closed_sender,
    a_full_sender,
    a_new_group,
    a_new_scheduler,
    a_receiver,
    a_receiver_at_the_end,
    a_receiver_with_items,
    a_registry,
    a_running_scheduler,
    a_scheduler_with,
    a_sender,
    a_stopped_scheduler,
    a_task_on_its_own,
    nowhere,
)
from hypothesis import strategies as st
from public_names import members, public

import orchestrio
import orchestrio.redis
from orchestrio import ChannelConfig, TaskMetadata, TaskOptions

Arguments = dict[str, Any]

#: What users of the library call; what they call in tests, `orchestrio.testing`, is not among it.
PUBLIC = public(orchestrio) | public(orchestrio.redis)


def public_calls() -> Iterator[tuple[str, Any]]:
    """The functions, classes and methods of `orchestrio`, a method with the class that it is of."""
    for name, value in PUBLIC.items():
        if inspect.isclass(value):
            yield name, value
            for method, function in members(value):
                above = [base for base in value.__mro__[1:] if base in PUBLIC.values()]
                if callable(function) and not any(hasattr(base, method) for base in above):
                    yield f"{name}.{method}", function
        elif inspect.isfunction(value):
            yield name, value


CALLED = MappingProxyType(dict(public_calls()))


def parameters_of(name: str) -> set[str]:
    """The names of what a call takes; of a class without a constructor of its own, anything."""
    try:
        return {*inspect.signature(CALLED[name]).parameters} - {"self"}
    except ValueError:
        return {"anything"}


def takes_or_refuses(name: str) -> bool:
    """Whether there is a wrong way of making a call at all."""
    return bool(parameters_of(name)) or ":raises" in (inspect.getdoc(CALLED[name]) or "")


#: Parameters for which no value is wrong, or each is: `on()` takes nothing else by position.
ANYTHING_GOES = {"item", "given"}

_MADE_INSIDE = "made by the library alone; users read it, or ask for one by a call that is here"
_HOOK = "a hook: users write it, and the library calls it"
_ERROR = "an error, which the library raises"
_SERVER = "asks a server: the tests of the bridge have one, and use it wrongly there"

LEFT_OUT = {
    "BroadcastReceiveStream": _MADE_INSIDE,
    "BroadcastSendStream": _MADE_INSIDE,
    "BridgeStatistics": _MADE_INSIDE,
    "BuriedMessage": _MADE_INSIDE,
    "ChannelStatistics": _MADE_INSIDE,
    "ConsumerGroup": _MADE_INSIDE,
    "DeadLetter": _MADE_INSIDE,
    "DeadLetterOutcome": _MADE_INSIDE,
    "DeadLetterReport": _MADE_INSIDE,
    "Group": _MADE_INSIDE,
    "GroupSnapshot": _MADE_INSIDE,
    "HealthReport": _MADE_INSIDE,
    "Message": _MADE_INSIDE,
    "ProbeReport": _MADE_INSIDE,
    "ReceiverStatistics": _MADE_INSIDE,
    "RegisteredTask": _MADE_INSIDE,
    "RestartScheduled": _MADE_INSIDE,
    "StateChanged": _MADE_INSIDE,
    "TaskContext": _MADE_INSIDE,
    "TaskEvent": _MADE_INSIDE,
    "TaskFailed": _MADE_INSIDE,
    "TaskLagged": _MADE_INSIDE,
    "TaskSnapshot": _MADE_INSIDE,
    "EventTask.handle_event": _HOOK,
    "EventTask.handle_lag": _HOOK,
    "Subscriber": "what type checkers look for",
    "Subscriber.handle_event": _HOOK,
    "Subscriber.handle_lag": _HOOK,
    "TopicAdmin.dead_letter": _SERVER,
    "TopicAdmin.dead_letters": _SERVER,
    "TopicAdmin.drop": _SERVER,
    "TopicAdmin.drop_all": _SERVER,
    "TopicAdmin.drop_group": _SERVER,
    "TopicAdmin.groups": _SERVER,
    "TopicAdmin.requeue": _SERVER,
    "TopicAdmin.requeue_all": _SERVER,
    "OutboxError": _ERROR,
    "EventReceiveError": _ERROR,
    "EventSendError": _ERROR,
    "InvalidChannelError": _ERROR,
    "LaggedError": _ERROR,
    "LifecycleError": _ERROR,
    "SchedulerError": _ERROR,
    "TaskExecutionError": _ERROR,
    "TaskInitializationError": _ERROR,
    "TaskNotFoundError": _ERROR,
    "TaskShutdownError": _ERROR,
    "Scheduler.shutdown": "raises what went wrong before; there is no wrong time for it",
    "TaskId": "any text is one",
    "BridgeOptions": "a dictionary to all but type checkers",
    "BackgroundOptions": "a dictionary to all but type checkers",
    "TaskDefaults": "a dictionary to all but type checkers",
    "TaskOptions": "a dictionary to all but type checkers",
    "TaskRegistry.subscribers": "a question: nobody subscribes to what is no event",
    "TaskState": "an Enum, which says itself what it takes",
}


@dataclass(frozen=True)
class Call:
    """A call that can be made with a wrong value, or in the wrong place."""

    name: str
    places: tuple[Place, ...] = (nowhere,)
    #: what it is called with
    right: Arguments = field(default_factory=dict[str, Any])
    #: what one of these is replaced with, or added to them
    wrong: dict[str, Kinds] = field(default_factory=dict[str, Kinds])
    #: what is wrong with the places, if nothing else is
    misuse: str = ""
    #: whether it must not be made where an event loop runs
    in_thread: bool = False

    def make(self, owner: Any, **wrong: object) -> object:
        """Call it; what makes a decorator is also given a function to decorate."""
        method = self.name.rpartition(".")[2]
        call: Any = CALLED[self.name] if owner is None else getattr(owner, method)
        arguments = self.right | wrong
        decorates = "function" in arguments
        function = arguments.pop("function", None)
        answer = call(**arguments)
        return answer(function) if decorates else answer

    @property
    def is_complete(self) -> bool:
        """Whether it can be made with the right arguments alone."""
        return all(
            parameter.name in {*self.right, "self"}
            for parameter in inspect.signature(CALLED[self.name]).parameters.values()
            if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
        )

    @cached_property
    def documented(self) -> set[str]:
        """The names of the errors that its documentation announces."""
        text = inspect.getdoc(CALLED[self.name]) or ""
        return set(re.findall(r"^:raises (?:~?\w+\.)?(\w+):", text, re.MULTILINE))


# -- models --------------------------------------------------------------------------------------

_BACKOFF: dict[str, Kinds] = {
    "initial_delay": seconds(infinity=INFINITY),
    "max_delay": seconds(infinity=INFINITY),
    "multiplier": lenient(
        seconds(infinity=INFINITY), less_than_one=st.floats(0, 1, exclude_max=True)
    ),
    "jitter": lenient(seconds(infinity=INFINITY), more_than_all=st.floats(1, exclude_min=True)),
    "unknown": ANY,
}
_TEXTS = ANY  # a list of numbers among them
_DEADLINE = seconds(no_time=ZERO)

MODELS = [
    Call(
        "ChannelConfig",
        wrong={
            "capacity": count(1, 2**31 - 1),
            "description": TEXT,
            "overflow": word("drop_latest"),
            "replay": count(0, ChannelConfig().capacity),
            "require_receivers": BOOL,
            "unknown": ANY,
        },
    ),
    Call("Backoff", wrong=_BACKOFF),
    Call(
        "RestartPolicy",
        wrong=_BACKOFF
        | {
            "mode": word("sometimes"),
            "max_restarts": count(0) | {"another type": a_type_but("a number", "nothing")},
            "within": _DEADLINE,
        },
    ),
    Call(
        "TaskMetadata",
        wrong={
            "name": NAME_OR_NOTHING,
            "description": TEXT,
            "tags": _TEXTS,
            "restart": POLICY,
            "depends_on": _TEXTS,
            "restart_with_dependencies": BOOL,
            "significant": BOOL,
            "concurrency": count(1, 10_000),
            "attempt_timeout": _DEADLINE,
            "retries": count(0),
            "retry_backoff": BACKOFF,
            "on_error": word("ignore", "nothing"),
            "singleton": BOOL,
            "reports_ready": BOOL,
            "watchdog": _DEADLINE,
            "start_timeout": seconds(),
            "stop_timeout": seconds(),
            "drain_timeout": seconds(),
            "shutdown_timeout": seconds(),
            "unknown": ANY,
        },
    ),
    Call(
        "Backoff.delay",
        (a_backoff,),
        {"attempt": 1, "random": 0.5},
        {
            "attempt": count(1),
            "random": seconds(infinity=INFINITY, more_than_all=st.floats(1, exclude_min=True)),
        },
    ),
    Call(
        "Topic",
        right={"key": "news"},
        wrong={
            "key": only(an_unhashable_value=UNHASHABLE),
            "payload": wrong("a class", "nothing"),
            "validate": BOOL,
        },
    ),
]

# -- streams -------------------------------------------------------------------------------------

_SENDING: dict[str, Arguments] = {
    "send_nowait": {"item": "news"},
    "send": {"item": "news"},
    "send_many_nowait": {"items": ["news"]},
    "send_from_thread": {"item": "news"},
    "send_many_from_thread": {"items": ["news"]},
    "clone": {},
    "subscribe": {},
    "wait_no_receivers": {},
}
_RECEIVING: dict[str, Arguments] = {
    "receive_nowait": {},
    "receive": {},
    "receive_many_nowait": {"max_items": 1},
    "receive_many": {"max_items": 1},
    "clone": {},
    "resubscribe": {},
}

STREAMS = [
    Call(
        "create_broadcast_stream",
        wrong={
            "capacity": count(1, 2**31 - 1),
            "overflow": word("drop_latest"),
            "replay": count(0, 1024),
            "require_receivers": BOOL,
        },
    ),
    Call(
        "BroadcastSendStream.send_many_nowait",
        (a_sender,),
        wrong={"items": wrong("a text", "a collection")},
    ),
    Call(
        "BroadcastSendStream.send_many_from_thread",
        (a_sender,),
        wrong={"items": wrong("a text", "a collection")},
    ),
    Call(
        "BroadcastReceiveStream.receive_many_nowait",
        (a_receiver_with_items,),
        wrong={"max_items": count(1)},
    ),
    Call(
        "BroadcastReceiveStream.receive_many",
        (a_receiver_with_items, a_receiver),
        wrong={"max_items": count(1)},
    ),
    *(
        Call(f"BroadcastSendStream.{method}", (a_closed_sender,), right, misuse="it is closed")
        for method, right in _SENDING.items()
    ),
    *(
        Call(f"BroadcastReceiveStream.{method}", (a_closed_receiver,), right, misuse="it is closed")
        for method, right in _RECEIVING.items()
    ),
    *(
        Call(
            f"BroadcastReceiveStream.{method}",
            (a_receiver_at_the_end,),
            _RECEIVING[method],
            misuse="the senders are closed",
        )
        for method in ("receive_nowait", "receive", "receive_many_nowait", "receive_many")
    ),
    *(
        Call(f"BroadcastSendStream.{method}", (a_full_sender,), _SENDING[method], misuse="full")
        for method in ("send_nowait", "send_many_nowait")
    ),
    Call(
        "BroadcastSendStream.send_from_thread",
        (a_sender,),
        {"item": "news"},
        misuse="in the event loop's own thread",
    ),
    Call(
        "BroadcastSendStream.send_many_from_thread",
        (a_sender,),
        {"items": ["news"]},
        misuse="in the event loop's own thread",
    ),
]

# -- buses and registries ------------------------------------------------------------------------

#: The calls that a bus and a scheduler have in common, on an event with a channel.
_EVENT_CALLS: dict[str, Arguments] = {
    "add_channel": {"event": "another"},
    "clone_sender": {"event": NEWS},
    "subscribe": {"event": NEWS},
    "publish": {"event": NEWS, "item": "news"},
}
_BUS_CALLS = _EVENT_CALLS | {
    "remove_channel": {"event": NEWS},
    "publish_nowait": {"event": NEWS, "item": "news"},
    "wait_for": {"event": NEWS},
}
_BUS_WRONG: dict[str, dict[str, Kinds]] = {
    "add_channel": {"event": KEY, "config": CONFIG},
    "wait_for": {"event": UNKNOWN_KEY, "predicate": PREDICATE},
}
_NO_INTEGER = wrong("a number")


def event_calls(
    owner: str, calls: dict[str, Arguments], places: tuple[Place, ...]
) -> Iterator[Call]:
    """The calls about events of a bus, or of a scheduler."""
    for method, right in calls.items():
        wrong = _BUS_WRONG.get(method, {"event": UNKNOWN_KEY})
        yield Call(f"{owner}.{method}", places, right, wrong)
        if method.startswith("publish"):
            checked: Arguments = {"event": CHECKED, "item": 1}
            yield Call(f"{owner}.{method}", places, checked, {"item": _NO_INTEGER})


BUS = [
    *event_calls("EventBus", _BUS_CALLS, (a_bus,)),
    *(
        Call(f"EventBus.{method}", (a_closed_bus,), right, misuse="it is closed")
        for method, right in _BUS_CALLS.items()
    ),
    Call(
        "EventBus.add_channel", (a_bus,), {"event": NEWS}, misuse="the event has a channel already"
    ),
]

REGISTRY = [
    Call(
        "TaskRegistry.add",
        (a_registry,),
        {"task": Worker()},
        {"task": TASK, "metadata": METADATA},
    ),
    Call("TaskRegistry.remove", (a_registry,), wrong={"task_id": TASK_ID}),
    Call("TaskRegistry.get", (a_registry,), wrong={"task_id": TASK_ID}),
    Call(
        "TaskRegistry.get_by_name",
        (a_registry,),
        wrong={"name": wrong("a text", an_unknown_name=st.text())},
    ),
]

# -- schedulers and groups -----------------------------------------------------------------------

_ANY_SCHEDULER = (a_new_scheduler, a_running_scheduler)
_ANY_GROUP = (a_new_group, a_running_scheduler)

#: One wrong value for each option, and one for an option that there is not.
_OPTIONS: dict[str, Kinds] = {
    name: only(an_object=TYPES["an object"]) for name in [*TaskOptions.__annotations__, "retires"]
}
_SOME_OPTIONS = {name: _OPTIONS[name] for name in ("name", "retries", "retires")}

_GROUP_CALLS: dict[str, Arguments] = {
    "group": {"name": "another"},
    "register_background_task": {"task": Worker()},
    "register_event_task": {"task": Reader()},
    "background": {"function": nothing},
    "every": {"seconds": 1, "function": nothing},
    "cron": {"expression": "* * * * *", "function": nothing},
    "on": {"event": NEWS, "function": swallow},
}
_GROUP_WRONG: dict[str, dict[str, Kinds]] = {
    "group": {
        "name": NAME,
        "strategy": word("one_for_al"),
        "restart": POLICY,
        "significant": BOOL,
        "defaults": DEFAULTS,
    },
    "register_background_task": {"task": BACKGROUND_TASK, "metadata": METADATA} | _SOME_OPTIONS,
    "register_event_task": {"task": EVENT_TASK, "metadata": METADATA} | _SOME_OPTIONS,
    "background": {"function": FUNCTION} | _OPTIONS,
    "every": {
        "seconds": seconds(no_time=ZERO, infinity=INFINITY),
        "fixed": word("delayed"),
        "function": FUNCTION,
    }
    | _SOME_OPTIONS,
    "cron": {
        "expression": wrong(
            "a text",
            no_expression=st.sampled_from(["", "often", "* * * *", "99 * * * *", "0 0 31 2 *"]),
        ),
        "tz": wrong("nothing", the_name_of_a_zone=st.just("Europe/Rome")),
        "function": FUNCTION,
    }
    | _SOME_OPTIONS,
    "on": {"event": KEY, "function": HANDLER} | _SOME_OPTIONS,
}
_BOTH: dict[str, Kinds] = {"name": only(as_well_as_metadata=st.just("another"))}

GROUPS = [
    *(
        Call(f"Group.{method}", _ANY_GROUP, right, _GROUP_WRONG[method])
        for method, right in _GROUP_CALLS.items()
    ),
    *(
        Call(
            f"Group.{method}",
            _ANY_GROUP,
            _GROUP_CALLS[method] | {"metadata": TaskMetadata(name="same")},
            _BOTH,
        )
        for method in ("register_background_task", "register_event_task")
    ),
    *(
        Call(f"Group.{method}", (a_stopped_scheduler,), right, misuse="it has stopped")
        for method, right in _GROUP_CALLS.items()
    ),
    Call(
        "Group.on",
        (a_running_scheduler,),
        {"event": "nobody's", "function": swallow},
        misuse="the event has no channel",
    ),
    Call("Group.group", (a_new_group,), {"name": "inner"}, misuse="the name is taken"),
    *(
        Call(f"Group.{method}", (a_running_scheduler,), misuse="it is the scheduler itself")
        for method in ("stop", "restart", "remove")
    ),
    Call("Group.restart", (a_new_group,), misuse="the scheduler does not run"),
    Call(
        "Group.register_background_task",
        (a_running_scheduler,),
        {"task": Worker(), "name": "present"},
        misuse="the name is taken",
    ),
    Call(
        "Group.register_event_task",
        _ANY_GROUP,
        {"task": Reader(), "singleton": True},
        misuse="a singleton",
    ),
]

_OF_ONE_TASK = ("wait_stopped", "stop_task", "restart_task", "remove_task")

SCHEDULER = [
    Call(
        "Scheduler",
        wrong={
            "strategy": word("one_for_al"),
            "random": wrong("nothing", "a class", "a function"),
            "defaults": DEFAULTS,
        },
    ),
    *event_calls("Scheduler", _EVENT_CALLS, _ANY_SCHEDULER),
    *(
        Call(f"Scheduler.{method}", (a_stopped_scheduler,), right, misuse="it has stopped")
        for method, right in (_EVENT_CALLS | {"start": {}, "run": {}}).items()
    ),
    Call("Scheduler.start", (a_new_scheduler,), misuse="it is not entered"),
    Call("Scheduler.start", (a_running_scheduler,), misuse="it was started"),
    Call(
        "Scheduler.start",
        (a_scheduler_with(Worker(), depends_on=["nobody"]),),
        misuse="a task depends on one that there is not",
    ),
    Call(
        "Scheduler.start",
        (a_scheduler_with(Worker(), name="one", depends_on=["one"]),),
        misuse="a task depends on itself",
    ),
    Call("Scheduler.start", (a_scheduler_with(Reader()),), misuse="an event has no channel"),
    Call(
        "Scheduler.status",
        _ANY_SCHEDULER,
        wrong={"task_id": TASK_ID},
    ),
    *(
        Call(f"Scheduler.{method}", _ANY_SCHEDULER, wrong={"task_id": TASK_ID})
        for method in _OF_ONE_TASK
    ),
    Call(
        "Scheduler.run_sync",
        (a_new_scheduler,),
        wrong={"backend": word("gevent"), "backend_options": wrong("nothing")},
        in_thread=True,
    ),
    Call("Scheduler.run_sync", (a_new_scheduler,), misuse="in an event loop"),
]

CONTEXT = [
    Call("current_task_context", misuse="outside a task"),
    Call("TaskContext.dependency_restarted", (a_task_on_its_own,), misuse="it depends on no other"),
    *(
        Call(f"TaskContext.{method}", (a_task_on_its_own,), misuse="elsewhere", in_thread=True)
        for method in ("beat", "ready")
    ),
]

# -- the bridge ----------------------------------------------------------------------------------

_URL = "redis://localhost:6379/0"
_POSITIVE = seconds(no_time=ZERO, infinity=INFINITY)

BRIDGE = [
    Call(
        "RedisBridge",
        right={"url": _URL, "topics": [NEWS], "namespace": "shop"},
        wrong={
            "url": wrong("a text", no_url=st.text()),
            "topics": ANY | {"nothing in a list": st.just([])},
            "namespace": NAME,
            "mode": word("competing"),
            "group": NAME,
            "outbox": wrong("nothing", "a text"),
            "max_bytes": count(1),
            "max_length": count(1),
            "prefetch": count(1, 10_000),
            "claim_after": lenient(_POSITIVE),
            "max_deliveries": count(1),
            "max_outbox": count(1_000_000),
            "max_dead_letters": count(1),
            "lease": lenient(_POSITIVE),
        },
    ),
    Call(
        "TopicAdmin",
        right={"url": _URL, "topic": NEWS, "namespace": "shop"},
        wrong={
            "url": wrong("a text", no_url=st.text()),
            "topic": only(a_number=st.integers(), nothing_in_it=st.just("")),
            "namespace": NAME,
        },
    ),
    Call("RedisSettings.from_url", wrong={"url": wrong("a text", no_url=st.text())}),
    Call(
        "RedisSettings",
        wrong={
            "host": TEXT,
            "port": lenient(count(1, 65535)),
            "socket": TEXT_OR_NOTHING,
            "database": lenient(count(0)),
            "username": TEXT_OR_NOTHING,
            "password": TEXT_OR_NOTHING,
            "tls": BOOL,
            "sentinels": wrong(),
            "service": TEXT_OR_NOTHING,
            "cluster": wrong(),
            "credentials": only(text=st.text()),
            "sentinel_username": TEXT_OR_NOTHING,
            "sentinel_password": TEXT_OR_NOTHING,
            "tls_ca": wrong("nothing"),
            "tls_certificate": wrong("nothing"),
            "connect_timeout": lenient(_POSITIVE),
            "response_timeout": lenient(_POSITIVE),
            "unknown": ANY,
        },
    ),
]

CALLS = [
    *MODELS,
    *STREAMS,
    *BUS,
    *REGISTRY,
    *GROUPS,
    *SCHEDULER,
    *CONTEXT,
    *BRIDGE,
]
