"""What is not refused as it should be yet: the issue "manners" mends it, and empties this list."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Finding(NamedTuple):
    """One fault, and the kinds of wrong values that have it."""

    fault: str
    call: str
    #: nothing if the call is in the wrong place
    parameter: str
    kinds: tuple[str, ...]

    def names(self) -> Iterator[str]:
        """The names of the cases that fail for it."""
        for kind in self.kinds:
            yield (
                f"{self.call}, {self.parameter}: {kind}"
                if self.parameter
                else (f"{self.call}, {kind}")
            )


TYPE = "another type"
MODEL = (TYPE, "its class", "another model")
WORD = (TYPE, "a misspelt word")
UNHASHABLE = ("an unhashable value",)
TOPIC_CLASS = ("the class of topics",)
NO_WHOLE_NUMBER = ("no whole number",)
BOOL = ("a bool",)

HASH = "TypeError of hash(), which its docstring does not announce"
KEPT = "accepted; it fails when the task runs"
PLAIN = "accepted; awaiting what it returns fails when the task runs"
ATTRIBUTE = "AttributeError from within"
NUMBER = "accepted, and taken for 0 or 1"

_MODELS = [
    *(
        Finding(NUMBER, call, field, BOOL)
        for call, fields in {
            "Backoff": ("multiplier", "jitter"),
            "RestartPolicy": ("multiplier", "jitter"),
            "RedisBridge": ("claim_after", "lease"),
            "RedisSettings": ("port", "database", "connect_timeout", "response_timeout"),
        }.items()
        for field in fields
    ),
    *(
        Finding("accepted if it is a float such as 2.0", "RedisSettings", field, NO_WHOLE_NUMBER)
        for field in ("port", "database")
    ),
    Finding("TypeError from within", "Backoff.delay", "attempt", (TYPE,)),
    Finding("accepted", "Backoff.delay", "attempt", (*NO_WHOLE_NUMBER, "too few")),
    Finding("TypeError from within", "Backoff.delay", "random", (TYPE,)),
    Finding(
        "accepted, and the delay is negative, infinite or no number",
        "Backoff.delay",
        "random",
        ("less than nothing", "no number", "infinity", "more than all"),
    ),
    Finding(HASH, "Topic", "key", UNHASHABLE),
    Finding("accepted; add_channel() fails if it validates", "Topic", "payload", (TYPE,)),
    Finding("accepted, and taken for a bool", "Topic", "validate", (TYPE,)),
]

_STREAMS = [
    Finding(
        "TypeError of list(), which its docstring does not announce",
        "BroadcastSendStream.send_many_nowait",
        "items",
        (TYPE,),
    ),
    *(
        Finding(fault, f"BroadcastReceiveStream.{method}", "max_items", kinds)
        for method in ("receive_many_nowait", "receive_many")
        for fault, kinds in (
            ("TypeError from within", (TYPE,)),
            ("TypeError from within, and nothing if the channel is empty", NO_WHOLE_NUMBER),
        )
    ),
]

_EVENTS = [
    *(
        Finding(HASH, f"{owner}.{method}", "event", UNHASHABLE)
        for owner, methods in {
            "EventBus": (
                "add_channel",
                "remove_channel",
                "clone_sender",
                "subscribe",
                "publish",
                "publish_nowait",
                "wait_for",
            ),
            "Scheduler": ("add_channel", "clone_sender", "subscribe", "publish"),
        }.items()
        for method in methods
    ),
    *(
        finding
        for owner in ("EventBus", "Scheduler")
        for finding in (
            Finding("accepted as a key", f"{owner}.add_channel", "event", TOPIC_CLASS),
            Finding(ATTRIBUTE, f"{owner}.add_channel", "config", MODEL),
        )
    ),
    Finding("accepted; it fails at the first message", "EventBus.wait_for", "predicate", (TYPE,)),
    Finding(
        "accepted; the first message matches, and the predicate is never awaited",
        "EventBus.wait_for",
        "predicate",
        ("an async function",),
    ),
]

_REGISTRY = [
    Finding("AttributeError or TypeError from within", "TaskRegistry.add", "task", (TYPE,)),
    Finding("TypeError from within", "TaskRegistry.add", "task", ("its class",)),
    Finding(ATTRIBUTE, "TaskRegistry.add", "metadata", MODEL),
    Finding(HASH, "TaskRegistry.remove", "task_id", UNHASHABLE),
    Finding(HASH, "TaskRegistry.get", "task_id", UNHASHABLE),
    Finding("TypeError from within", "TaskRegistry.get_by_name", "name", (TYPE,)),
]

_GROUPS = [
    Finding("accepted", "Group.group", "name", (TYPE, "an empty text", "a long text")),
    Finding("accepted, and taken for rest_for_one", "Group.group", "strategy", WORD),
    Finding(
        "accepted; AttributeError when the group fails",
        "Group.group",
        "restart",
        (*MODEL, "a mode", "its base"),
    ),
    Finding("accepted, and taken for a bool", "Group.group", "significant", (TYPE,)),
    *(
        finding
        for method in ("register_background_task", "register_event_task")
        for finding in (
            Finding(ATTRIBUTE, f"Group.{method}", "metadata", MODEL),
            Finding(ATTRIBUTE, f"Group.{method}", "task", (TYPE,)),
            Finding(
                "TypeError from within",
                f"Group.{method}",
                "task",
                ("its class", "its name is a number"),
            ),
            Finding("accepted", f"Group.{method}", "task", ("its name is empty",)),
            Finding(
                PLAIN,
                f"Group.{method}",
                "task",
                (
                    "its initialize is no function",
                    "its initialize is plain",
                    "its shutdown is plain",
                ),
            ),
        )
    ),
    Finding(KEPT, "Group.register_background_task", "task", ("an event task",)),
    Finding(
        PLAIN,
        "Group.register_background_task",
        "task",
        ("its execute is plain", "its execute is a generator"),
    ),
    Finding(
        "AttributeError, and the task stays in the registry",
        "Group.register_event_task",
        "task",
        ("a background task",),
    ),
    Finding(
        PLAIN,
        "Group.register_event_task",
        "task",
        ("its handler is plain", "its handler is a generator", "its handler takes nothing"),
    ),
    Finding(
        "accepted; start() raises TypeError",
        "Group.register_event_task",
        "task",
        ("its event is unhashable",),
    ),
    *(
        finding
        for method in ("background", "every", "cron", "on")
        for finding in (
            Finding(KEPT, f"Group.{method}", "function", (TYPE, "one that takes too much")),
            Finding(
                PLAIN, f"Group.{method}", "function", ("a plain function", "an async generator")
            ),
        )
    ),
    *(
        Finding(KEPT, f"Group.{method}", "function", ("a handler",))
        for method in ("background", "every", "cron")
    ),
    Finding(KEPT, "Group.on", "function", ("one that takes nothing",)),
    Finding("accepted; start() raises TypeError", "Group.on", "event", UNHASHABLE),
    Finding("accepted as a key", "Group.on", "event", TOPIC_CLASS),
    Finding("TypeError from within", "Group.every", "seconds", (TYPE,)),
    Finding("accepted, and taken for a delay", "Group.every", "fixed", WORD),
    Finding(ATTRIBUTE, "Group.cron", "expression", (TYPE,)),
    Finding(KEPT, "Group.cron", "tz", (TYPE, "the name of a zone")),
]

_SCHEDULER = [
    Finding("accepted, and taken for rest_for_one", "Scheduler", "strategy", WORD),
    Finding("accepted; it fails at the first restart", "Scheduler", "random", (TYPE,)),
    *(
        Finding(HASH, f"Scheduler.{method}", "task_id", UNHASHABLE)
        for method in ("status", "wait_stopped", "stop_task", "restart_task", "remove_task")
    ),
    Finding(
        "LookupError of AnyIO, which its docstring does not announce",
        "Scheduler.run_sync",
        "backend",
        WORD,
    ),
    Finding("TypeError from within", "Scheduler.run_sync", "backend_options", (TYPE,)),
    Finding(
        "it waits for ever",
        "TaskContext.dependency_restarted",
        "",
        ("it depends on no other",),
    ),
]

_BRIDGE = [
    Finding(KEPT, "RedisBridge", "url", (TYPE,)),
    Finding("TypeError from within", "RedisBridge", "topics", (TYPE,)),
    Finding(ATTRIBUTE, "RedisSettings.from_url", "url", (TYPE,)),
]

FINDINGS = [
    *_MODELS,
    *_STREAMS,
    *_EVENTS,
    *_REGISTRY,
    *_GROUPS,
    *_SCHEDULER,
    *_BRIDGE,
]
