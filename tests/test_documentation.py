"""Every Python example of the README and of the docstrings runs and prints what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from documented import (
    FENCED,
    README,
    Example,
    docstring_examples,
    readme_blocks,
    readme_examples,
)

IN_README = readme_examples()
IN_DOCSTRINGS = docstring_examples()
PROGRAMS = [example for example in IN_README + IN_DOCSTRINGS if example.runs_under is None]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("example", PROGRAMS, ids=str)
def test_an_example_prints_what_it_says(
    example: Example, backend: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    example.run_on(backend, tmp_path)
    assert capsys.readouterr().out == example.output


@pytest.mark.parametrize("example", PROGRAMS, ids=str)
def test_an_example_says_what_it_prints(example: Example) -> None:
    assert example.output


@pytest.mark.parametrize(
    "example",
    [example for example in IN_README + IN_DOCSTRINGS if example.runs_under == "pytest"],
    ids=str,
)
def test_an_example_for_pytest_passes_under_pytest(example: Example, tmp_path: Path) -> None:
    """On both backends: the example parametrises its fixture itself."""
    command = [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [*command, str(example.write(tmp_path))],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "2 passed" in run.stdout, run.stdout + run.stderr


def test_every_other_example_is_run_by_a_test() -> None:
    """Those for pytest above, for Redis in bridge/test_examples, the others in test_how_tos."""
    left = [example.runs_under for example in IN_README + IN_DOCSTRINGS if example.runs_under]
    assert sorted(set(left)) == ["Redis", "a server", "pytest", "systemd"]


def test_there_are_examples() -> None:
    assert len(IN_README) >= 12
    assert len(IN_DOCSTRINGS) >= 8
    assert {"scheduler", "topics", "task"} <= {example.file.stem for example in IN_DOCSTRINGS}


def test_links_of_the_readme_lead_somewhere() -> None:
    prose = re.sub(r"`[^`]*`", "", FENCED.sub("", README.read_text(encoding="utf-8")))
    targets = re.findall(r"\]\(([^)#:]+)\)", prose)
    missing = [target for target in targets if not (README.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize(
    "command",
    [
        "pip install '.[trio]' && python examples/logwatch.py",
        "pip install -e '.[test]' && coverage run -m pytest && coverage report",
    ],
)
def test_readme_has_a_command_for_the_job_and_one_for_the_tests(command: str) -> None:
    assert command in [text.strip() for _, text, _ in readme_blocks()]
