"""Tables that are read off the code: errors, and the defaults of a model."""

from __future__ import annotations

import inspect
import pydoc
import re
from collections.abc import Iterable
from typing import ClassVar

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from pydantic import BaseModel
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer

import orchestrio
import orchestrio.logs
import orchestrio.redis
import orchestrio.testing

MODULES = [orchestrio, orchestrio.logs, orchestrio.redis, orchestrio.testing]
BASE = orchestrio.SchedulerError


class Table(Directive):
    """A table in reStructuredText, made of what the code says."""

    has_content = False
    titles: ClassVar[list[str]]
    widths: ClassVar = "auto"

    def rows(self) -> Iterable[list[str]]:
        """Return the rows, as reStructuredText in one line a cell."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {self.widths}", ""]
        for row in (self.titles, *self.rows()):
            lines += [f"   {'  -' if number else '* -'} {cell}" for number, cell in enumerate(row)]
        parent = nodes.Element()
        self.state.nested_parse(StringList(lines, source=__file__), self.content_offset, parent)
        return list(parent.children)


class Errors(Table):
    """All errors: what causes each, and what cures it."""

    titles: ClassVar = ["error", "cause", "cure"]
    widths: ClassVar = "24 38 38"

    def rows(self) -> Iterable[list[str]]:
        """Return a row for each error of the public modules, the base first."""
        values = [value for module in MODULES for value in vars(module).values()]
        kinds = {kind for kind in values if inspect.isclass(kind) and issubclass(kind, BASE)}
        for kind in sorted(kinds, key=lambda kind: (len(kind.__mro__), kind.__name__)):
            text = " ".join((inspect.getdoc(kind) or "").split())
            found = re.search(r"Cause: (.*) Cure: (.*)", text)
            assert found is not None
            said = [words[0].upper() + words[1:] for words in found.groups()]
            yield [f"`~{kind.__module__}.{kind.__name__}`", *said]


class Defaults(Table):
    """The fields of a model: their defaults, and what they say."""

    required_arguments = 1
    titles: ClassVar = ["option", "default", "what it says"]

    def rows(self) -> Iterable[list[str]]:
        """Return a row for each field."""
        model = pydoc.locate(self.arguments[0])
        assert isinstance(model, type)
        assert issubclass(model, BaseModel)
        for name, field in model.model_fields.items():
            default = "none: it must be given" if field.is_required() else f"``{field.default!r}``"
            yield [f"``{name}``", default, " ".join(documented(model, name).split())]


def documented(model: type, field: str) -> str:
    """Return the docstring of a field, where the class or a base of it has it."""
    for kind in model.__mro__:
        found = ModuleAnalyzer.for_module(kind.__module__).find_attr_docs()
        if (kind.__name__, field) in found:
            return "\n".join(found[kind.__name__, field])
    raise LookupError(f"{model.__name__}.{field} has no docstring")


def setup(app: Sphinx) -> None:
    """Register both."""
    app.add_directive("errors", Errors)
    app.add_directive("defaults", Defaults)
