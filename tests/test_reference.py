"""The reference in docs/: every public name, each once, and what a log record carries."""

from __future__ import annotations

import ast
import inspect
import re
from collections import Counter

import pytest
from documented import PACKAGE, PAGES, README
from public_names import public

import orchestrio
import orchestrio.logs
import orchestrio.redis
import orchestrio.testing

PUBLIC_MODULES = [orchestrio, orchestrio.logs, orchestrio.redis, orchestrio.testing]
STUBS = README.parent / "stubs"
REFERENCE = [page for page in PAGES if page.parent.name == "reference"]
SUBJECT = re.compile(r"^\.\. (?:(current)module|auto(?!module)\w+):: (\S+)$", re.MULTILINE)


def described() -> Counter[str]:
    """How often each name is described, as ``orchestrio.Scheduler``."""
    found: Counter[str] = Counter()
    for page in REFERENCE:
        module = ""
        for subject in SUBJECT.finditer(page.read_text("utf-8")):
            if subject[1]:
                module = subject[2]
            else:
                found[f"{module}.{subject[2]}"] += 1
    return found


DESCRIBED = described()


@pytest.mark.parametrize(
    "name", [f"{module.__name__}.{name}" for module in PUBLIC_MODULES for name in public(module)]
)
def test_a_public_name_is_described_once(name: str) -> None:
    assert DESCRIBED[name] == 1


def test_nothing_is_described_that_is_not_public() -> None:
    names = {f"{module.__name__}.{name}" for module in PUBLIC_MODULES for name in public(module)}
    assert set(DESCRIBED) == names


# -- methods ---------------------------------------------------------------------------------

CLASS = re.compile(r"^\.\. autoclass:: (\w+)\n((?: +:.*\n)*)", re.MULTILINE)
BOTH = {"EventTask.subscribed_event"}  # in the stub it is a property or an attribute


def methods_of_the_stubs() -> set[str]:
    trees = [ast.parse(stub.read_text("utf-8")) for stub in STUBS.rglob("*.pyi")]
    classes = [node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)]
    methods = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {
        f"{cls.name}.{node.name}"
        for cls in classes
        for node in cls.body
        if isinstance(node, methods)
    }


def test_a_method_that_users_do_not_call_is_not_described() -> None:
    """What the scheduler alone calls is in the class, and not in the stub."""
    excluded: dict[str, set[str]] = {}
    for page in REFERENCE:
        for name, options in CLASS.findall(page.read_text("utf-8")):
            given = re.search(r":exclude-members: (.*)", options)
            excluded[name] = set(given[1].split(", ")) if given else set()
    classes = [
        value
        for module in PUBLIC_MODULES
        for value in public(module).values()
        if isinstance(value, type) and value.__name__ in excluded
    ]
    own = {
        f"{cls.__name__}.{name}"
        for cls in classes
        for name, value in vars(cls).items()
        if not name.startswith("_") and (inspect.isroutine(value) or isinstance(value, property))
    }
    hidden = {f"{cls}.{name}" for cls, names in excluded.items() for name in names}
    assert hidden == own - methods_of_the_stubs() - BOTH
    assert "RedisBridge.let_go" in hidden


# -- log records -----------------------------------------------------------------------------


def fields_of_records() -> set[str]:
    """What the package gives log records beside the text: by ``extra=``, and by ``extra()``."""
    trees = [ast.parse(module.read_text("utf-8")) for module in PACKAGE.rglob("*.py")]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    by_method = [call for call in calls if ast.unparse(call.func).endswith(".extra")]
    given = [word.value for call in calls for word in call.keywords if word.arg == "extra"]
    dictionaries = [
        node for value in given for node in ast.walk(value) if isinstance(node, ast.Dict)
    ]
    keys = [key for one in dictionaries for key in one.keys if isinstance(key, ast.Constant)]
    return {str(key.value) for key in keys} | {
        word.arg for call in by_method for word in call.keywords if word.arg
    }


def test_the_fields_of_a_log_record_are_in_a_table() -> None:
    page = next(page for page in REFERENCE if page.stem == "logs").read_text("utf-8")
    rows = [line.split(" | ")[0] for line in page.splitlines() if line.startswith("| `")]
    told = set(re.findall(r"`(\w+)`", " ".join(rows)))
    used = fields_of_records()
    assert {"delay", "missed", "tasks", "fencing_token"} <= used
    assert used - told == set()
