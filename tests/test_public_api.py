"""The face of the package: what it exports, that it is documented, and what it stays clear of."""

from __future__ import annotations

import ast
import inspect
import pydoc
import re
import subprocess
import sys
import typing
from collections.abc import Iterator
from dataclasses import is_dataclass
from datetime import timedelta
from enum import Enum
from graphlib import TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest
from public_names import members, public
from pydantic import BaseModel

import orchestrio
import orchestrio.logs
import orchestrio.redis
import orchestrio.testing
from orchestrio._model import errors
from orchestrio.redis import BridgeOptions, RedisBridge
from orchestrio.redis._options import BridgeSettings

ROOT = Path(__file__).parents[1]
PACKAGE = Path(orchestrio.__file__).parent

CONCEPTS = [
    "Scheduler",
    "TaskRegistry",
    "EventBus",
    "ChannelConfig",
    "TaskMetadata",
    "TaskSnapshot",
    "TaskState",
    "RestartPolicy",
    "Topic",
    "BackgroundTask",
    "EventTask",
    "TaskId",
    "create_broadcast_stream",
    "BroadcastSendStream",
    "BroadcastReceiveStream",
]
ERRORS = [
    "SchedulerError",
    "TaskInitializationError",
    "TaskExecutionError",
    "TaskShutdownError",
    "InvalidChannelError",
    "EventSendError",
    "EventReceiveError",
    "LaggedError",
    "TaskNotFoundError",
    "LifecycleError",
]

PUBLIC_MODULES = [orchestrio, orchestrio.logs, orchestrio.redis, orchestrio.testing]
PUBLIC = {name: value for module in PUBLIC_MODULES for name, value in public(module).items()}
CLASSES = {name: value for name, value in PUBLIC.items() if inspect.isclass(value)}
OBJECTS = {
    name: value
    for name, value in PUBLIC.items()
    if inspect.isclass(value) or inspect.isfunction(value)
}
MODULES = sorted(PACKAGE.rglob("*.py"))

METHODS = {
    f"{class_name}.{name}": value
    for class_name, cls in CLASSES.items()
    for name, value in members(cls)
}


# -- exports ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONCEPTS + ERRORS)
def test_a_name_of_the_contract_is_exported(name: str) -> None:
    assert name in PUBLIC


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_of_the_contract_is_an_exception(name: str) -> None:
    assert issubclass(CLASSES[name], orchestrio.SchedulerError)


def test_every_error_of_the_package_is_exported() -> None:
    public = {
        kind
        for kind in vars(errors).values()
        if inspect.isclass(kind)
        and issubclass(kind, orchestrio.SchedulerError)
        and not kind.__name__.startswith("_")
    }
    assert public == {CLASSES[name] for name in ERRORS}


@pytest.mark.parametrize("name", OBJECTS)
def test_a_public_object_says_where_users_find_it(name: str) -> None:
    (module,) = (module for module in PUBLIC_MODULES if name in public(module))
    assert OBJECTS[name].__module__ == module.__name__


def test_a_shell_that_completes_names_offers_the_public_ones_only() -> None:
    assert dir(orchestrio) == sorted(orchestrio.__all__)


def test_what_is_not_public_is_behind_an_underscore() -> None:
    shown = {
        name
        for name in map(module_name, MODULES)
        if not any(part.startswith("_") for part in name.split("."))
    }
    assert shown == {module.__name__ for module in PUBLIC_MODULES}


def test_the_package_is_marked_as_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()


# -- documentation ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", OBJECTS)
def test_a_public_object_is_documented_in_a_sentence(name: str) -> None:
    first_line = (OBJECTS[name].__doc__ or "").partition("\n")[0]
    assert first_line.endswith((".", "?"))
    assert not first_line.startswith(f"{name}(")  # what `dataclass` writes by itself


@pytest.mark.parametrize("name", METHODS)
def test_a_public_method_is_documented_in_a_sentence(name: str) -> None:
    first_line = (inspect.getdoc(METHODS[name]) or "").partition("\n")[0]
    assert first_line.endswith((".", "?"))


def test_methods_are_found_to_be_documented() -> None:
    assert {"Scheduler.run", "EventBus.publish", "BroadcastReceiveStream.clone"} <= set(METHODS)


CALLS = {
    name: value
    for name, value in (METHODS | OBJECTS).items()
    if inspect.isfunction(value) or inspect.ismethod(value)
}


@pytest.mark.parametrize("name", CALLS)
def test_a_public_call_says_what_it_takes_and_what_it_returns(name: str) -> None:
    documented = inspect.getdoc(CALLS[name]) or ""
    signature = inspect.signature(CALLS[name])
    expected = {f":param {parameter}:" for parameter in signature.parameters if parameter != "self"}
    if signature.return_annotation not in {None, "None"} and not documented.startswith("Return "):
        expected.add(":return:")
    assert {words for words in expected if words not in documented} == set()


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_says_where_it_comes_from_and_what_to_do(name: str) -> None:
    documented = inspect.getdoc(CLASSES[name]) or ""
    assert re.search(r"^Cause: \S", documented, re.MULTILINE)
    assert re.search(r"^Cure: \S", documented, re.MULTILINE)


def documented_names(module: Path) -> dict[str, str]:
    """The names with a docstring below them, which is where editors look for it."""
    found: dict[str, str] = {}
    tree = ast.parse(module.read_text("utf-8"))
    bodies = [("", tree.body)]
    bodies += [(f"{node.name}.", node.body) for node in tree.body if isinstance(node, ast.ClassDef)]
    for owner, body in bodies:
        for statement, below in pairwise(body):
            if isinstance(statement, (ast.Assign, ast.AnnAssign)):
                target = (
                    statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
                )
                if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                    found[f"{owner}{ast.unparse(target)}"] = inspect.cleandoc(
                        str(below.value.value)
                    )
    return found


DOCUMENTED = {name: text for module in MODULES for name, text in documented_names(module).items()}
# An option is documented once, where it is for the most of them.
DOCUMENTED |= {
    f"{kind}.{name.partition('.')[2]}": text
    for name, text in list(DOCUMENTED.items())
    for owner, kinds in {
        "_OfAnyTask": ("TaskDefaults", "TaskOptions", "BackgroundOptions"),
        "_OfOneTask": ("TaskOptions", "BackgroundOptions"),
        "TaskDefaults": ("TaskOptions",),
    }.items()
    for kind in kinds
    if name.startswith(f"{owner}.")
}
FIELDS = [
    f"{name}.{field}"
    for name, cls in CLASSES.items()
    if issubclass(cls, (BaseModel, Enum, dict)) or is_dataclass(cls)
    for field in (
        [member.name for member in cls] if issubclass(cls, Enum) else inspect.get_annotations(cls)
    )
    if not field.startswith("_") and field != "model_config"
]
CONSTANTS = [name for name, value in PUBLIC.items() if name not in OBJECTS]


@pytest.mark.parametrize("name", FIELDS + CONSTANTS)
def test_a_public_field_or_constant_is_documented(name: str) -> None:
    assert DOCUMENTED[name]


def test_fields_and_constants_are_found_to_be_documented() -> None:
    assert {"ChannelConfig.overflow", "TaskState.READY", "DeadLetter.error", "Topic.key"} <= {
        *FIELDS
    }
    assert {"TASK_EVENTS", "Overflow"} <= {*CONSTANTS}


@pytest.mark.parametrize(
    ("options", "model", "apart"),
    [
        (orchestrio.TaskOptions, orchestrio.TaskMetadata, set[str]()),
        (BridgeOptions, BridgeSettings, {"namespace"}),
    ],
    ids=["task", "bridge"],
)
def test_an_option_is_documented_as_the_field_of_the_model_is(
    options: type, model: type[BaseModel], apart: set[str]
) -> None:
    names = typing.get_type_hints(options)
    assert set(names) == set(model.model_fields) - apart
    different = [
        name
        for name in names
        if DOCUMENTED[f"{options.__name__}.{name}"] != DOCUMENTED[f"{model.__name__}.{name}"]
    ]
    assert different == []


def test_an_option_of_a_bridge_has_the_type_of_the_field_of_the_model() -> None:
    time = float | timedelta  # read as seconds
    read_as = {"outbox": str | Path | None, "claim_after": time, "lease": time}
    fields = typing.get_type_hints(BridgeSettings) | read_as
    options = typing.get_type_hints(BridgeOptions)
    assert options == {name: fields[name] for name in options}


def test_the_help_on_a_bridge_names_each_option_with_its_default() -> None:
    documented = re.search(r":param options:(.*?):raises", RedisBridge.__doc__ or "", re.DOTALL)
    assert documented
    said = re.findall(r"``(\w+)=(.+?)``", documented[1])
    listed = {name: ast.literal_eval(default) for name, default in said}
    fields = BridgeSettings.model_fields
    assert listed == {name: fields[name].default for name in fields if name != "namespace"}


def test_the_help_on_the_scheduler_reads_well() -> None:
    text = pydoc.plain(pydoc.render_doc(orchestrio.Scheduler))
    assert text.startswith("Python Library Documentation: class Scheduler in module orchestrio\n")
    assert re.findall(r".* at 0x.*|.*\bAny\b.*|.*orchestrio\.\w+\..*", text) == []
    for method in ("add_channel", "background", "on", "publish", "run_sync", "status"):
        # From Python 3.13 on, a long signature has a line for each parameter.
        signature = rf"{method}\((?:self.*|\n \|      self,\n(?: \|      .*\n)+ \|  \).*)"
        assert re.search(rf"^ \|  (?:async )?{signature}\n \|      [A-Z]", text, re.MULTILINE)


# -- generics --------------------------------------------------------------------------------


class Colour(Enum):
    RED = "red"


def test_generic_classes_work_at_run_time() -> None:
    scheduler = orchestrio.Scheduler[Colour](strategy="one_for_all")
    scheduler.add_channel(Colour.RED)
    assert list(scheduler.bus.channels) == [
        orchestrio.TASK_EVENTS,
        orchestrio.DEAD_LETTERS,
        Colour.RED,
    ]
    assert orchestrio.EventBus[Colour]().channels == {}
    assert len(orchestrio.TaskRegistry[Colour]()) == 0
    assert orchestrio.Topic[int]("count", int) == orchestrio.Topic("count", int)
    send, receive = orchestrio.create_broadcast_stream[int](capacity=2)
    with send, receive:
        send.send_nowait(1)
        assert receive.receive_nowait() == 1
    assert typing.get_args(orchestrio.EventTask[int]) == (int,)


@pytest.mark.parametrize("name", [path.relative_to(PACKAGE).as_posix() for path in MODULES])
def test_a_module_says_what_it_is_for(name: str) -> None:
    assert ast.get_docstring(ast.parse((PACKAGE / name).read_text("utf-8")))


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, cls in CLASSES.items()
        if (issubclass(cls, BaseModel) or is_dataclass(cls)) and not issubclass(cls, Enum)
    ],
)
def test_the_annotations_of_a_public_data_class_can_be_read(name: str) -> None:
    assert typing.get_type_hints(CLASSES[name])


# -- version ---------------------------------------------------------------------------------


def changelog_versions() -> list[str]:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    return re.findall(r"^## \[(\d+\.\d+\.\d+\S*)\] - \d{4}-\d{2}-\d{2}", text, re.MULTILINE)


def test_the_version_is_the_newest_of_the_changelog() -> None:
    assert changelog_versions()[0] == orchestrio.__version__


def test_the_changelog_has_the_newest_version_first() -> None:
    versions = [tuple(map(int, re.findall(r"\d+", text)[:3])) for text in changelog_versions()]
    assert versions == sorted(set(versions), reverse=True)


# -- independence ----------------------------------------------------------------------------


def imported(tree: ast.AST) -> set[str]:
    """The modules that code imports by absolute name, wherever it does."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module or "")
    return names


def is_for_one_event_loop(module: Path) -> bool:
    # By its parts: the name of the package itself ends in "trio".
    return any("asyncio" in part or "trio" in part for part in module.relative_to(PACKAGE).parts)


@pytest.mark.parametrize(
    "module",
    [path for path in MODULES if not is_for_one_event_loop(path)],
    ids=lambda path: path.relative_to(PACKAGE).as_posix(),
)
def test_a_module_imports_no_event_loop_unless_its_name_says_so(module: Path) -> None:
    names = imported(ast.parse(module.read_text("utf-8")))
    assert not {name for name in names if name.split(".")[0] in {"asyncio", "trio", "uvloop"}}


#: What few programs need, or nobody before a scheduler runs; asyncio itself imports `ssl`.
ON_DEMAND = (
    {"anyio._core._sockets", "asyncio", "difflib", "sqlite3", "ssl", "trio", "uvloop"}
    | {"coredis", "cronsim", "hypothesis", "pytest", "rich", "structlog"}
    | {"orchestrio.logs", "orchestrio.redis", "orchestrio.testing"}
)


def in_a_new_interpreter(code: str) -> str:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert run.stderr == ""
    return run.stdout.strip()


def test_importing_the_package_imports_nothing_that_few_need() -> None:
    more = in_a_new_interpreter(
        "import sys, anyio, pydantic; before = {*sys.modules}; import orchestrio;"
        "print(*{*sys.modules} - before)"
    )
    assert "orchestrio" in more.split()
    assert not ON_DEMAND & {*more.split()}


def test_importing_the_package_builds_no_model_before_it_is_used() -> None:
    built = in_a_new_interpreter(
        "import orchestrio;"
        "models = [vars(orchestrio)[name] for name in orchestrio.__all__];"
        "print(*[m.__name__ for m in models if getattr(m, '__pydantic_complete__', False)])"
    )
    assert built == ""


def module_name(path: Path) -> str:
    parts = ("orchestrio", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def statements_at_import(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that run when a module is imported, those for type checkers left out."""
    for statement in body:
        yield statement
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test):
            yield from statements_at_import(statement.orelse)
            continue
        for block in ("body", "orelse", "finalbody"):
            yield from statements_at_import(getattr(statement, block, []))
        for handler in getattr(statement, "handlers", []):
            yield from statements_at_import(handler.body)


def imports_of(path: Path, modules: set[str]) -> set[str]:
    """The modules of the package that importing one of them needs."""
    needed: set[str] = set()
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package.pop()
    for statement in statements_at_import(ast.parse(path.read_text("utf-8")).body):
        if isinstance(statement, ast.Import):
            needed |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom):
            base = package[: len(package) - statement.level + 1] if statement.level else []
            source = ".".join([*base, *([statement.module] if statement.module else [])])
            for alias in statement.names:
                whole = f"{source}.{alias.name}"
                needed.add(whole if whole in modules else source)
    return needed & modules


def import_graph() -> dict[str, set[str]]:
    modules = {module_name(path) for path in MODULES}
    return {module_name(path): imports_of(path, modules) for path in MODULES}


def test_no_modules_import_each_other_in_a_circle() -> None:
    TopologicalSorter(import_graph()).prepare()  # a circle is a CycleError, and names it


ROOMS = ["_model", "_broadcast", "_tasks", "_workers", "_supervision", "_scheduler"]


def test_a_room_needs_only_those_below_it() -> None:
    above = {room: ROOMS[number + 1 :] for number, room in enumerate(ROOMS)}
    faces = ["logs", "redis", "testing"]
    wrong = {
        (module, needed)
        for module, all_needed in import_graph().items()
        for room in ROOMS
        if module.startswith(f"orchestrio.{room}.")
        for needed in all_needed
        if needed.split(".")[1:2] in [[], *([other] for other in above[room] + faces)]
    }
    assert wrong == set()


def test_the_import_graph_is_that_of_the_package() -> None:
    graph = import_graph()
    assert {"orchestrio._scheduler.scheduler", "orchestrio._model.topics"} <= graph["orchestrio"]
    assert "orchestrio._broadcast.bus" in graph["orchestrio._scheduler.scheduler"]
    assert "orchestrio._tasks.registry" not in graph["orchestrio._workers.tree"]
