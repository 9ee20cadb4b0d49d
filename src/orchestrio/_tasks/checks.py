"""What can be a task, and what can be made one: looked at when it is registered, not when it runs.

A plain function where an async one belongs would do its work before it is found out, since what it
returns cannot be awaited; and a retry would do it again.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from types import FunctionType, MethodType
from typing import Any, Final, cast

from .._model.errors import LifecycleError
from .._model.refusals import in_short
from .._model.topics import require_event
from .task import BackgroundTask, EventTask, Task, event_of

__all__ = ["require_async", "require_hooks", "require_task"]


def require_async(function: object, what: str, messages: int) -> None:
    """See that something can be awaited when it is called, with so many messages.

    Async are ``async def``, a method or `functools.partial` of one, an object whose ``__call__`` is
    one, what `inspect.markcoroutinefunction` has marked, and what `functools.wraps` any of these.
    What is compiled and says nothing of itself is taken as it is.

    :param function: what is to be called
    :param what: what messages call it, such as ``a handler``
    :param messages: how many positional arguments it is called with
    :raises LifecycleError: if it is something else
    """
    if not _is_plainly_right(function, messages):
        _refuse_unless_async(function, what, messages)


def _refuse_unless_async(function: object, what: str, messages: int) -> None:
    name = _name(function)
    if inspect.iscoroutine(function):
        function.close()  # or it would warn that nobody awaits it
        raise LifecycleError(f"{what} must be an async function: give {name} without calling it.")
    if isinstance(function, type) or not callable(function):
        raise LifecycleError(
            f"{what} must be an async function, not {in_short(function)}.{_way_of(function)}"
        )
    inner = _unwrapped(function)
    if inspect.isasyncgenfunction(inner):
        raise LifecycleError(
            f"{what} must be an async function, and {name} is an async generator: it must not yield."
        )
    if not _is_async(inner):
        if _signature_of(inner) is None and not isinstance(inner, FunctionType):
            return  # it is compiled, and nobody can say what it returns
        raise LifecycleError(
            f"{what} must be an async function, and {name} is a plain one: define it with"
            " 'async def'. For what blocks, await anyio.to_thread.run_sync() in it; to give an async"
            " function its arguments, use functools.partial and no lambda."
        )
    called: Callable[..., object] = function
    given = messages
    if isinstance(function, MethodType):  # one without even a `self` has no signature
        called, given = function.__func__, messages + 1
    signature = _signature_of(called)
    if signature is None or (not signature.parameters and _is_compiled(called)):
        return  # what mypyc has compiled seems to take nothing, whatever it takes
    try:
        signature.bind(*range(given))
    except TypeError as error:
        takes = "one message, by position" if messages else "no arguments"
        raise LifecycleError(
            f"{what} is called with {takes}, and {name}{signature} cannot be: {error}."
        ) from None


def _name(function: object) -> str:
    """Say what a function is called, for the middle of a sentence."""
    if isinstance(function, partial):
        return f"a partial of {_name(cast('partial[object]', function).func)}"
    name = getattr(function, "__qualname__", "")
    return name.rpartition("<locals>.")[2] if isinstance(name, str) and name else in_short(function)


def _is_plainly_right(function: object, messages: int) -> bool:
    """Whether it is an ``async def`` that takes just that: of ten thousand tasks, nearly all."""
    if isinstance(function, MethodType):
        function, messages = function.__func__, messages + 1
    if not isinstance(function, FunctionType):
        return False
    code = function.__code__
    required = code.co_argcount - len(function.__defaults__ or ())
    return (
        bool(code.co_flags & inspect.CO_COROUTINE)
        and not code.co_kwonlyargcount
        and required <= messages <= code.co_argcount
    )


def _signature_of(function: Any) -> inspect.Signature | None:
    """Return what a function takes; `None` if it does not say, as what is compiled need not."""
    try:
        return inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError):
        return None


def _is_compiled(function: object) -> bool:
    """Whether what is called is no Python code."""
    while isinstance(function, partial):
        function = cast("partial[object]", function).func
    if not inspect.isroutine(function):
        function = type(function).__call__
    return not isinstance(getattr(function, "__func__", function), FunctionType)


def _is_async(function: object) -> bool:
    # The mark is asyncio's own; an AsyncMock has it, and what Cython has compiled.
    return inspect.iscoroutinefunction(function) or (
        type(getattr(function, "_is_coroutine", None)) is object
    )


def _unwrapped(function: Callable[..., object]) -> object:
    """Return what is called in the end: of a partial, an object, or a wrapper, what is inside."""
    inner: Any = function
    for _ in range(100):  # what wraps itself ends here
        if isinstance(inner, partial):
            inner = cast("partial[object]", inner).func
        elif _is_async(inner) or inspect.isasyncgenfunction(inner):
            break
        elif (wrapped := getattr(inner, "__wrapped__", None)) is not None:
            inner = wrapped
        elif not inspect.isroutine(inner) and not isinstance(inner, type):
            inner = type(inner).__call__
        else:
            break
    return inner


#: How what is one goes by: what it is, how it is registered, and how a function is.
_WAYS: Final[dict[type[Task], tuple[str, str, str]]] = {
    BackgroundTask: ("a BackgroundTask", "register_background_task()", "@scheduler.background"),
    EventTask: ("an EventTask", "register_event_task()", "@scheduler.on(topic)"),
}


def require_task(task: object, kind: type[Task] | None = None) -> None:
    """See that something is a task.

    :param task: the task
    :param kind: `BackgroundTask` or `EventTask`; either will do if not given
    :raises LifecycleError: if it is something else
    """
    if not isinstance(task, kind or (BackgroundTask, EventTask)):
        raise LifecycleError(_no_task(task, kind))


def require_hooks(task: Task) -> None:
    """See that what a task says of itself can be used, and that its hooks can be awaited.

    :param task: a background task or an event task
    :raises LifecycleError: if it is both, a hook is no async function, or its name no text
    :raises InvalidChannelError: if its event can be no key
    """
    name = cast("object", task.default_name)
    if not isinstance(name, str) or not name:
        raise LifecycleError(
            f"the default_name of a task must be a text, and that of {type(task).__name__} is"
            f" {in_short(name)}."
        )
    _require_hook(task, "initialize", task.initialize, 0)
    _require_hook(task, "shutdown", task.shutdown, 0)
    if isinstance(task, BackgroundTask):
        if isinstance(task, EventTask):
            raise LifecycleError(
                f"{type(task).__name__} is both a BackgroundTask and an EventTask, and a task is one"
                " of them: make two tasks, which may share an object."
            )
        _require_hook(task, "execute", task.execute, 0)
    else:
        reader = cast("EventTask[Any]", task)
        require_event(event_of(reader))
        _require_hook(task, "handle_event", reader.handler, 1)
        _require_hook(task, "handle_lag", reader.handle_lag, 1)


def _require_hook(task: Task, name: str, hook: object, messages: int) -> None:
    if not _is_plainly_right(hook, messages):
        _refuse_unless_async(hook, f"{name}() of {type(task).__name__}", messages)


def _way_of(task: object) -> str:
    """Say how a task is registered, if it is one."""
    way = next((way for kind, way in _WAYS.items() if isinstance(task, kind)), None)
    return "" if way is None else f" It is {way[0]}: use {way[1]}."


def _no_task(given: object, kind: type[Task] | None) -> str:
    """Say that something is no task of a kind, and what would be right."""
    wanted, _, decorator = _WAYS.get(kind or Task, ("a BackgroundTask or an EventTask", "", ""))
    what, hint = in_short(given), ""
    if isinstance(given, type):
        hint = f" Make one: {given.__name__}()." if issubclass(given, Task) else ""
    elif hint := _way_of(given):
        pass
    elif decorator and callable(given):
        hint = f" For a function, there is {decorator}."
    return f"the task must be {wanted}, not {what}.{hint}"
