"""How Sphinx builds these pages: ``sphinx-build -W --keep-going -n docs build/html``.

It needs no network. A page that is only in the repository, as an example is, is linked to there.
"""

from __future__ import annotations

import builtins
import inspect
import os
import pydoc
import re
import sys
import types
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, get_origin, get_type_hints, is_typeddict

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from pydantic import BaseModel
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.nodes import make_refnode

import orchestrio
import orchestrio.logs
import orchestrio.redis
import orchestrio.testing

HERE = Path(__file__).parent
ROOT = HERE.parent
REPOSITORY = "https://github.com/orchestrio/orchestrio"
MODULES = [orchestrio, orchestrio.logs, orchestrio.redis, orchestrio.testing]
ABOUT = "Long-running tasks that talk to each other, on asyncio and trio."

project = "orchestrio"
author = "The orchestrio developers"
project_copyright = author
release = version = orchestrio.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["build"]
nitpicky = True
nitpick_ignore = [
    ("py:class", "Console"),  # of rich
    ("py:class", "ContextVar"),
    ("py:exc", "EndOfStream"),  # of AnyIO
    ("py:class", "orchestrio.testing._simulation.scenario.Fault"),  # of a Scenario, to be printed
    ("py:obj", "timedelta"),
    ("py:obj", "extra"),  # of logging
]
default_role = "py:obj"  # in a docstring, what stands in single backticks is a name

myst_heading_anchors = 3  # links to a heading are those of the repository's pages
myst_links_external_new_tab = False

autodoc_default_options = {
    "members": True,
    "show-inheritance": True,
    "exclude-members": "extra, extra_attributes, model_config",
}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_use_type_comments = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"orchestrio {release}"
html_baseurl = os.environ.get("READTHEDOCS_CANONICAL_URL", "")
html_static_path = ["_static"]
html_css_files = ["orchestrio.css"]
html_theme_options = {
    "source_repository": REPOSITORY,
    "source_branch": "main",
    "source_directory": "docs/",
    "navigation_with_keys": True,
}
copybutton_exclude = ".linenos, .gp, .go"


# -- links -----------------------------------------------------------------------------------

FENCED = re.compile(r"^(```+).*?^\1$", re.MULTILINE | re.DOTALL)
OUTWARD = re.compile(r"\]\(((?:\.\./)+[^)#\s]+)")


def link_to_the_repository(app: Sphinx, page: str, source: list[str]) -> None:
    """Have a link to a file beside ``docs/`` lead to the repository, where that file is shown."""
    folder = (HERE / page).parent

    def there(link: re.Match[str]) -> str:
        target = (folder / link[1]).resolve()
        if target.is_relative_to(HERE) or not target.exists():
            return link[0]
        kind = "tree" if target.is_dir() else "blob"
        return f"]({REPOSITORY}/{kind}/main/{target.relative_to(ROOT).as_posix()}"

    text = source[0]
    ends = [0, *(end for block in FENCED.finditer(text) for end in block.span()), len(text)]
    parts = [text[begin:end] for begin, end in zip(ends, ends[1:], strict=False)]
    source[0] = "".join(
        part if number % 2 else OUTWARD.sub(there, part) for number, part in enumerate(parts)
    )


def words() -> set[str]:
    """Return what docstrings name without a link: parameters, fields, and type variables."""
    values = [value for module in MODULES for value in vars(module).values()]
    classes = [value for value in values if inspect.isclass(value)]
    values += [value for cls in classes for value in vars(cls).values()]
    calls = [value for value in values if inspect.isfunction(value)]
    found = {name for call in calls for name in inspect.signature(call).parameters}
    found |= {name for cls in classes for name in (*vars(cls), *inspect.get_annotations(cls))}
    inner = [module for name, module in sys.modules.items() if name.startswith("orchestrio._")]
    inner += MODULES
    values = [value for module in inner for value in vars(module).values()]
    return found | {value.__name__ for value in values if type(value).__name__ == "TypeVar"}


WORDS = words()


def resolve(
    app: Sphinx, env: BuildEnvironment, node: nodes.Element, shown: nodes.TextElement
) -> nodes.Element | None:
    """Link to a public name of another module; leave a name of another package as it is.

    What is neither, nor a word that docstrings may use, is a mistake, which nitpicking tells.
    """
    if node.get("refdomain") != "py":
        return None
    target = str(node["reftarget"])
    if "._" in target:  # a room, which is no address
        target = target.rpartition(".")[2]
    python = env.domains.python_domain
    for module in MODULES:
        if (name := f"{module.__name__}.{target}") in python.objects:
            place = python.objects[name]
            assert app.builder is not None
            return make_refnode(
                app.builder, node["refdoc"], place.docname, place.node_id, [shown], name
            )
    if target in WORDS or hasattr(builtins, target) or hasattr(types, target):
        return shown
    foreign = not target.startswith("orchestrio") and pydoc.locate(target) is not None
    return shown if foreign else None


# -- signatures ------------------------------------------------------------------------------

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


# -- tables that are read off the code -------------------------------------------------------


class Table(Directive):
    """A table in reStructuredText, made of what the code says."""

    has_content = False
    titles: ClassVar[list[str]]

    def rows(self) -> Iterable[list[str]]:
        """Return the rows, as reStructuredText in one line a cell."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        lines = [".. list-table::", "   :header-rows: 1", ""]
        for row in (self.titles, *self.rows()):
            lines += [f"   {'  -' if number else '* -'} {cell}" for number, cell in enumerate(row)]
        parent = nodes.Element()
        self.state.nested_parse(StringList(lines, source=__file__), self.content_offset, parent)
        return list(parent.children)


class Errors(Table):
    """All errors: what causes each, and what cures it."""

    titles: ClassVar = ["error", "cause", "cure"]

    def rows(self) -> Iterable[list[str]]:
        """Return a row for each error, the base first."""
        values = [getattr(orchestrio, name) for name in orchestrio.__all__]
        kinds = [v for v in values if inspect.isclass(v) and issubclass(v, Exception)]
        for kind in sorted(kinds, key=lambda kind: len(kind.__mro__)):
            text = " ".join(inspect.getdoc(kind).split())
            cause, cure = re.search(r"Cause: (.*) Cure: (.*)", text).groups()
            yield [f"`~orchestrio.{kind.__name__}`", cause, cure]


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


# -- llms.txt --------------------------------------------------------------------------------


def write_llms_txt(app: Sphinx, failure: Exception | None) -> None:
    """Write the list of pages that https://llmstxt.org describes: what each is, in a line.

    A page that is plain Markdown is linked to as that.
    """
    if failure is not None or app.builder.name not in {"html", "dirhtml"}:
        return
    lines = [f"# {project}", "", f"> {ABOUT}"]
    for part in app.env.toctree_includes[app.config.root_doc]:
        lines += ["", f"## {app.env.titles[part].astext()}", ""]
        for page in [part, *app.env.toctree_includes.get(part, [])]:
            source = app.env.doc2path(page).read_text("utf-8")
            is_markdown = not re.search(r"^```\{(?:eval-rst|include)\}", source, re.MULTILINE)
            where = f"_sources/{page}.md.txt" if is_markdown else app.builder.get_target_uri(page)
            first = next(app.env.get_doctree(page).findall(nodes.paragraph)).astext()
            what = " ".join(first.split()).partition(". ")[0].rstrip(".") + "."
            lines.append(f"- [{app.env.titles[page].astext()}]({html_baseurl}{where}): {what}")
    stub = f"{REPOSITORY}/blob/main/stubs/orchestrio/__init__.pyi"
    lines += ["", "## Optional", "", f"- [Stub]({stub}): Every public name with its signature."]
    Path(app.outdir, "llms.txt").write_text("\n".join(lines) + "\n", "utf-8")


def setup(app: Sphinx) -> None:
    """Register all of this."""
    look_into_the_rooms()
    show_plain_types()
    app.add_directive("errors", Errors)
    app.add_directive("defaults", Defaults)
    app.connect("source-read", link_to_the_repository)
    app.connect("missing-reference", resolve)
    app.connect("autodoc-process-signature", sign)
    app.connect("autodoc-process-bases", show_public_bases)
    app.connect("build-finished", write_llms_txt)
