"""Sees what the hooks of tasks are called with, without the tasks or the scheduler noticing.

A task that is observed gets a class of its own, made for it, whose hooks pass through an
`Observer`. The rest of it stays as it is, and so does what it is to `isinstance`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal, Protocol, TypeAlias, cast

from orchestrio import BackgroundTask, EventTask, Task

Hook: TypeAlias = Literal["initialize", "execute", "handle_event", "handle_lag", "shutdown"]
"""Where the library calls the user's code."""


class Observer(Protocol):
    """Is in between whenever a hook of a task is called."""

    async def call(
        self, task: Task, hook: Hook, work: Callable[[], Awaitable[object]], message: object
    ) -> object:
        """Do the work of a hook.

        :param task: whose hook it is
        :param hook: which
        :param work: does it
        :param message: the message that is handled, how many were missed, or `None`
        """
        ...


def observe(task: Task, observer: Observer) -> None:
    """Have an observer stand in between whenever a hook of a task is called from now on.

    :param task: the task; nothing happens if it is observed already
    :param observer: who is in between
    :raises TypeError: if the layout of its class does not let it have another
    """
    kind = type(task)
    if getattr(kind, "_is_observed", False):
        return

    def around(hook: Hook) -> Callable[[Any], Awaitable[object]]:
        inner = cast("Callable[[Any], Awaitable[object]]", getattr(kind, hook))

        async def call(self: Any) -> object:
            return await observer.call(self, hook, lambda: inner(self), None)

        return call

    def handler(self: Any) -> Callable[[Any], Awaitable[object]]:
        inner = cast("EventTask[Any]", super(observed, self)).handler

        async def handle(message: Any) -> object:
            return await observer.call(self, "handle_event", lambda: inner(message), message)

        return handle

    async def handle_lag(self: Any, missed: int) -> object:
        inner = cast("EventTask[Any]", super(observed, self)).handle_lag
        return await observer.call(self, "handle_lag", lambda: inner(missed), missed)

    body: dict[str, object] = {
        "__slots__": (),
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
        "_is_observed": True,
        "initialize": around("initialize"),
        "shutdown": around("shutdown"),
    }
    if isinstance(task, EventTask):
        body |= {"handler": property(handler), "handle_lag": handle_lag}
    elif isinstance(task, BackgroundTask):
        body["execute"] = around("execute")
    observed = cast("type[Any]", type(kind))(kind.__name__, (kind,), body)
    # Also if it is a frozen dataclass.
    object.__setattr__(cast("object", task), "__class__", observed)
