"""Every Python example of the README, of the other pages and of the docstrings runs and prints what it says."""

from __future__ import annotations

import logging
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from documented import (
    DOCS,
    FENCED,
    PAGES,
    README,
    Example,
    docstring_examples,
    examples_of,
    page_examples,
    readme_blocks,
    readme_examples,
)

from orchestrio import Backoff, TaskMetadata


@pytest.fixture(autouse=True)
def root_logger_as_before() -> Iterator[None]:
    """Examples set up the log of their program."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def name_of(page: Path) -> str:
    """Return a page's path as the name of a test."""
    return page.relative_to(README.parent).with_suffix("").as_posix()


IN_README = readme_examples()
IN_PAGES = page_examples()
IN_DOCSTRINGS = docstring_examples()
EXAMPLES = IN_README + IN_PAGES + IN_DOCSTRINGS
PROGRAMS = [example for example in EXAMPLES if example.runs_under is None]


@pytest.mark.parametrize(
    ("example", "backend"),
    [
        pytest.param(example, backend, id=f"{example}-{backend}")
        for example in PROGRAMS
        for backend in example.backends
    ],
)
def test_an_example_prints_what_it_says(
    example: Example, backend: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    example.run_on(backend, tmp_path)
    assert capsys.readouterr().out == example.output


@pytest.mark.parametrize("example", PROGRAMS, ids=str)
def test_an_example_says_what_it_prints(example: Example) -> None:
    assert example.output


def those_under(what: str) -> pytest.MarkDecorator:
    """Run a test with each example that something else runs."""
    chosen = [example for example in EXAMPLES if example.runs_under == what]
    return pytest.mark.parametrize("example", chosen, ids=str)


@those_under("pytest")
def test_an_example_for_pytest_passes_under_pytest(example: Example, tmp_path: Path) -> None:
    """On both backends: the example parametrises its fixture itself."""
    command = [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-p", "no:asyncio"]  # that of pytest-asyncio, which is for one test alone
    run = subprocess.run(
        [*command, str(example.write(tmp_path))],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "2 passed" in run.stdout, run.stdout + run.stderr


@those_under("unittest")
def test_an_example_for_unittest_passes_under_unittest(example: Example, tmp_path: Path) -> None:
    program = example.write(tmp_path)
    run = subprocess.run(
        [sys.executable, "-W", "error", "-m", "unittest", program.name],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert re.search(r"^Ran [1-9]\d* tests? in ", run.stderr, re.MULTILINE)
    assert run.stderr.endswith("\nOK\n")


@those_under("pytest-asyncio")
def test_an_example_for_pytest_asyncio_passes_under_it(example: Example, tmp_path: Path) -> None:
    pytest.importorskip("pytest_asyncio")
    program = example.write(tmp_path)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 passed" in run.stdout, run.stdout + run.stderr


#: What is run with what it needs: by test_how_tos and by test_servers, in the pages that they name.
RUN_ELSEWHERE = {"a server": {"starlette.md", "servers.md"}, "systemd": {"systemd.md"}}


def test_every_other_example_is_run_by_a_test() -> None:
    """Those for tests above, those for Redis in bridge/test_examples, wherever they are."""
    others = {"Redis", "pytest", "pytest-asyncio", "unittest"}
    left = [example for example in EXAMPLES if example.runs_under not in {None, *others}]
    assert {(example.runs_under, example.file.name) for example in left} == {
        (kind, name) for kind, names in RUN_ELSEWHERE.items() for name in names
    }
    assert others <= {example.runs_under for example in EXAMPLES}


#: How a page would show Python so that it is coloured and yet nobody runs it.
PYTHON = re.compile(
    r"^[ >\t]*(?:[-*+] +|\d+\. +)?(?:`{3,}|~{3,}|:{3,}) *(?:\{[\w-]+\} *)?py\w*.*$", re.MULTILINE
)


@pytest.mark.parametrize("page", [README, *PAGES], ids=name_of)
def test_python_on_a_page_is_in_a_block_that_the_tests_run(page: Path) -> None:
    assert {*PYTHON.findall(page.read_text("utf-8"))} <= {"```python"}


def test_there_are_examples() -> None:
    assert len(IN_README) >= 2
    assert len(IN_PAGES) >= 40
    assert len(IN_DOCSTRINGS) >= 8
    assert {"scheduler", "topics", "task"} <= {example.file.stem for example in IN_DOCSTRINGS}


BESIDE = [
    page
    for folder in ("", "benchmarks", ".github")
    for page in README.parent.glob(f"{folder}/*.md".lstrip("/"))
]


@pytest.mark.parametrize("page", [*BESIDE, *PAGES], ids=name_of)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"`[^`]*`", "", FENCED.sub("", page.read_text(encoding="utf-8")))
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", prose)
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("page", [page for page in PAGES if page != DOCS / "index.md"], ids=name_of)
def test_a_page_is_in_a_table_of_contents(page: Path) -> None:
    """That of its folder; the folder's own, and what is in none, in that of the whole."""
    folder = page.parent if page.stem != "index" else page.parent.parent
    contents = (folder / "index.md").read_text("utf-8")
    assert page.relative_to(folder).with_suffix("").as_posix() in contents.splitlines()


@pytest.mark.parametrize(
    "command",
    [
        "pip install '.[trio]' && python examples/logwatch.py",
        "pip install -e '.[test]' && pytest -n auto --cov",
    ],
)
def test_readme_has_a_command_for_the_job_and_one_for_the_tests(command: str) -> None:
    assert command in [text.strip() for _, text, _ in readme_blocks()]


WORDS = {"asyncio", "trio", "graceful shutdown", "fan-out", "backpressure", "publish/subscribe"} | {
    "supervision tree"
}


def test_the_readme_is_read_to_its_end_and_found() -> None:
    text = README.read_text("utf-8")
    assert len(text.splitlines()) <= 200
    assert {word for word in WORDS if word not in text} == set()


def test_the_readme_asks_first_whether_it_is_what_you_need() -> None:
    headings = re.findall("^## (.*)$", README.read_text("utf-8"), re.MULTILINE)
    assert headings[:2] == ["The one idea", "Is it what you need?"]


def test_the_tutorial_has_six_steps_and_each_is_a_program() -> None:
    contents = (DOCS / "tutorial" / "index.md").read_text("utf-8")
    (listed,) = re.findall(
        r"^```\{toctree\}\n.*?\n\n(.*?)\n```$", contents, re.MULTILINE | re.DOTALL
    )
    steps = [DOCS / "tutorial" / f"{name}.md" for name in listed.split()]
    assert [len(examples_of(step)) for step in steps] == [1] * 6
    for number, step in enumerate(steps, 1):
        assert step.read_text("utf-8").startswith(f"# {number}. ")


def test_all_options_of_a_task_are_in_a_table_with_their_defaults() -> None:
    page = next(page for page in PAGES if page.stem == "options").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    told = {row[0].strip("| `"): row[2].strip("`") for row in rows}
    defaults = {name: field.default for name, field in TaskMetadata.model_fields.items()}
    as_written = {
        name: "no limit" if value == math.inf else f"{value:g}" if type(value) is float else value
        for name, value in defaults.items()
    }
    as_written["name"] = "that of the function or class"
    as_written["description"] = '""'
    as_written["retry_backoff"] = "Backoff(initial_delay=0.1, max_delay=10)"
    assert defaults["retry_backoff"] == Backoff(initial_delay=0.1, max_delay=10)
    assert told == {name: str(value) for name, value in as_written.items()}
