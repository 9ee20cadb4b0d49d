"""What autodoc is told of the public packages: they show what is written in rooms behind them."""

from __future__ import annotations

import inspect
import sys
from typing import get_origin, get_type_hints, is_typeddict

from pydantic import BaseModel
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer

import orchestrio
import orchestrio.logs
import orchestrio.redis
import orchestrio.testing

MODULES = [orchestrio, orchestrio.logs, orchestrio.redis, orchestrio.testing]

#: What users do not build themselves: who asks for one need not know what it takes.
MADE_BY_THE_LIBRARY = {
    orchestrio.BroadcastReceiveStream,
    orchestrio.BroadcastSendStream,
    orchestrio.Group,
    orchestrio.TaskContext,
    orchestrio.testing.Harness,
    orchestrio.testing.Recorder,
    orchestrio.testing.SimulationFailure,
}


def sign(
    app: Sphinx, what: str, name: str, value: object, options: object, signature: str, returns: str
) -> tuple[str, str] | None:
    """Leave out the signature of what has its fields below it, or is not for users to build."""
    if inspect.isclass(value) and (
        issubclass(value, (BaseModel, dict)) or value in MADE_BY_THE_LIBRARY
    ):
        return "", ""
    return None


def show_public_bases(
    app: Sphinx, name: str, value: object, options: object, bases: list[object]
) -> None:
    """Have those that a class inherits from by way of a private one."""

    def public(base: object) -> list[object]:
        kind = get_origin(base) or base
        if not isinstance(kind, type) or "._" not in kind.__module__:
            return [kind]
        return [found for inner in kind.__bases__ for found in public(inner)]

    bases[:] = [found for base in bases for found in public(base)]


def show_plain_types() -> None:
    """Leave out of the types of fields what Pydantic is to check: the text tells it."""
    for value in [value for module in MODULES for value in vars(module).values()]:
        if is_typeddict(value):
            value.__signature__ = inspect.Signature()  # it has none, and autodoc asks for one
        elif inspect.isclass(value) and issubclass(value, BaseModel):
            plain = get_type_hints(value)
            value.__annotations__ = {name: plain[name] for name in inspect.get_annotations(value)}


def look_into_the_rooms() -> None:
    """Let autodoc find the fields, overloads and order of a name where it is written.

    Public names say that they live in the package that shows them, and it looks only there.
    """
    for face in MODULES:
        faced = ModuleAnalyzer.for_module(face.__name__)
        faced.analyze()
        for name, module in sorted(sys.modules.items()):
            if name.startswith(f"{face.__name__}.") and inspect.ismodule(module):
                room = ModuleAnalyzer.for_module(name)
                room.analyze()
                faced.attr_docs |= room.attr_docs
                faced.annotations |= room.annotations
                faced.overloads |= room.overloads
                faced.tagorder |= room.tagorder


def setup(app: Sphinx) -> None:
    """Tell it."""
    look_into_the_rooms()
    show_plain_types()
    app.connect("autodoc-process-signature", sign)
    app.connect("autodoc-process-bases", show_public_bases)
