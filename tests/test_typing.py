"""Static types follow the key: what mypy and pyright must accept, refuse and show.

Each file is checked four times: by both checkers in their strict modes, against the inline types
and against the stubs.
"""

from __future__ import annotations

import ast
import json
import re
import sys

import pytest
from checkers import SAMPLES, SOURCES, Checker, Types, files, remarks, run

import orchestrio

CHECKED: list[tuple[Checker, Types]] = [
    ("mypy", "inline"),
    ("mypy", "stubs"),
    ("pyright", "inline"),
    ("pyright", "stubs"),
]
WITH_EACH = pytest.mark.parametrize(("checker", "types"), CHECKED)


def lines(sample: str) -> list[str]:
    return (SAMPLES / f"{sample}.py").read_text("utf-8").splitlines()


def refused(checker: Checker, types: Types) -> dict[str, set[int]]:
    """The lines of each file in which a checker found an error."""
    found: dict[str, set[int]] = {}
    for remark in remarks(checker, types):
        if remark.is_error:
            found.setdefault(remark.file, set()).add(remark.line)
    return found


MARKED = [
    pytest.param(number, id=line.removesuffix("# error").strip())
    for number, line in enumerate(lines("rejects"), 1)
    if line.endswith("# error")
]


@WITH_EACH
def test_good_code_is_accepted(checker: Checker, types: Types) -> None:
    """The samples of good code, and each example of the README, the pages and the docstrings."""
    complaints = [
        remark
        for remark in remarks(checker, types)
        if remark.is_error and remark.file not in {"rejects", "inner"}
    ]
    assert complaints == []


@WITH_EACH
@pytest.mark.parametrize("number", MARKED)
def test_a_mistake_is_refused(checker: Checker, types: Types, number: int) -> None:
    assert number in refused(checker, types)["rejects"]


@WITH_EACH
def test_nothing_else_is_refused(checker: Checker, types: Types) -> None:
    marked = {number for number, line in enumerate(lines("rejects"), 1) if "# error" in line}
    assert refused(checker, types)["rejects"] - marked == set()


@WITH_EACH
def test_a_name_shows_its_type(checker: Checker, types: Types) -> None:
    shown = {remark.line: remark.revealed for remark in remarks(checker, types) if remark.revealed}
    expected = {
        number: match[1]
        for number, line in enumerate(lines("reveals"), 1)
        if (match := re.fullmatch(r" *reveal_type\(.*\)  # (.*)", line))
    }
    assert shown == expected


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_stubs_and_inline_types_are_the_same_to_a_user(checker: Checker) -> None:
    by_types = [
        {
            (found.file, found.line, found.gist)
            for found in remarks(checker, types)
            if found.is_error or found.revealed
        }
        for types in ("inline", "stubs")
    ]
    different = {place for place in by_types[0] ^ by_types[1] if place[0] != "inner"}
    assert different == set()


@WITH_EACH
def test_the_types_are_those_that_the_test_says(checker: Checker, types: Types) -> None:
    """The sample makes what only the library makes, and the stubs do not say how."""
    assert ("inner" in refused(checker, types)) == (types == "inline")


def test_the_samples_use_every_mark() -> None:
    assert len(MARKED) >= 60
    assert not [line for line in lines("accepts") if line.endswith("# error")]
    assert not re.search(r"# type: ignore|# pyright:", "\n".join(lines("rejects")))
    assert len(list(files().glob("*.py"))) >= 60


def test_the_defaults_in_the_stubs_are_those_of_the_models() -> None:
    """What checkers and `mypy.stubtest` do not compare."""
    tree = ast.parse((SOURCES["stubs"] / "orchestrio" / "__init__.pyi").read_text("utf-8"))
    said = {
        (model.name, ast.unparse(field.target)): ast.literal_eval(field.value)
        for model in tree.body
        if isinstance(model, ast.ClassDef)
        for field in model.body
        if isinstance(field, ast.AnnAssign) and field.value and ast.unparse(field.value) != "..."
    }
    real = {
        (name, field): getattr(orchestrio, name).model_fields[field].default for name, field in said
    }
    assert said == real
    assert said["ChannelConfig", "capacity"] == 1024


def test_every_public_type_is_complete() -> None:
    """Those of Pydantic are not counted: they are not all complete."""
    done = run(
        *("pyright", "--pythonpath", sys.executable, "--outputjson"),
        *("--verifytypes", "orchestrio", "--ignoreexternal"),
    )
    report = json.loads(done.stdout)["typeCompleteness"]
    incomplete = [symbol["name"] for symbol in report["symbols"] if not symbol["isTypeKnown"]]
    assert report["completenessScore"] == 1, incomplete
    assert report["exportedSymbolCounts"]["withKnownType"] >= 90
