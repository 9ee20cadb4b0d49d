"""Links from a page to the repository, and from a docstring to what it names."""

from __future__ import annotations

import builtins
import inspect
import pydoc
import re
import sys
import types
from pathlib import Path

from docutils import nodes
from pydantic import BaseModel
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

import orchestrio
import orchestrio.logs
import orchestrio.redis
import orchestrio.testing

HERE = Path(__file__).parents[1]
ROOT = HERE.parent
REPOSITORY = "https://github.com/orchestrio/orchestrio"
MODULES = [orchestrio, orchestrio.logs, orchestrio.redis, orchestrio.testing]

#: A block of code, an image, or the target of a link that leads out of the page's folder.
OUTWARD = re.compile(
    r"^(```+).*?^\1$|!\[[^]]*\]\([^)]*\)|(?<=\]\()(?:\.\./)+[^)#\s]+", re.MULTILINE | re.DOTALL
)


def link_to_the_repository(app: Sphinx, page: str, source: list[str]) -> None:
    """Have a link to a file beside ``docs/`` lead to the repository, where that file is shown."""
    folder = (HERE / page).parent

    def there(found: re.Match[str]) -> str:
        target = (folder / found[0]).resolve()
        is_link = found[1] is None and not found[0].startswith("!")
        if not is_link or target.is_relative_to(HERE) or not target.exists():
            return found[0]
        kind = "tree" if target.is_dir() else "blob"
        return f"{REPOSITORY}/{kind}/main/{target.relative_to(ROOT).as_posix()}"

    source[0] = OUTWARD.sub(there, source[0])


def words() -> set[str]:
    """Return what docstrings name without a link: parameters, fields, and type variables."""
    values = [value for module in MODULES for value in vars(module).values()]
    classes = [value for value in values if inspect.isclass(value)]
    values += [value for cls in classes for value in vars(cls).values()]
    calls = [value for value in values if inspect.isfunction(value)]
    found = {name for call in calls for name in inspect.signature(call).parameters}
    found |= {name for cls in classes for name in (*vars(cls), *inspect.get_annotations(cls))}
    found |= {name for name in dir(BaseModel) if name.startswith("model_")}
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


def setup(app: Sphinx) -> None:
    """Register both."""
    app.connect("source-read", link_to_the_repository)
    app.connect("missing-reference", resolve)
