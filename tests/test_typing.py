"""Static types follow the key: what mypy must accept, and what it must refuse."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import orchestrio

SAMPLES = Path(__file__).parent / "typing"
CACHE = Path(__file__).parents[1] / ".mypy_cache" / "samples"


@pytest.fixture(scope="module")
def reported() -> dict[tuple[str, int], str]:
    """What ``mypy --strict`` reports, by file and line; one run for all samples."""
    environment = dict(os.environ)
    source = Path(orchestrio.__file__).parents[1]
    if str(source) not in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        environment["MYPYPATH"] = str(source)
    command = [
        *(sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={CACHE}"),
        *("--no-color-output", "--no-error-summary", "--hide-error-context", "--no-pretty"),
        *("accepts.py", "rejects.py"),
    ]
    run = subprocess.run(
        command, cwd=SAMPLES, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 1, run.stdout + run.stderr  # 0: nothing refused; 2: mypy failed
    found: dict[tuple[str, int], str] = {}
    for line in run.stdout.splitlines():
        match = re.fullmatch(r"(.+?):(\d+): (error|note): (.*)", line)
        assert match, f"not understood: {line}"
        file, number, severity, message = match.groups()
        if severity == "error":
            found[file, int(number)] = message
    return found


def lines(file: str) -> list[str]:
    return (SAMPLES / file).read_text("utf-8").splitlines()


def test_good_code_is_accepted_with_the_types_it_says(
    reported: dict[tuple[str, int], str],
) -> None:
    complaints = {place: text for place, text in reported.items() if place[0] != "rejects.py"}
    assert complaints == {}


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(number, id=line.removesuffix("# error").strip())
        for number, line in enumerate(lines("rejects.py"), 1)
        if line.endswith("# error")
    ],
)
def test_a_mistake_is_refused(reported: dict[tuple[str, int], str], number: int) -> None:
    assert ("rejects.py", number) in reported


def test_nothing_else_is_refused(reported: dict[tuple[str, int], str]) -> None:
    marked = {
        number for number, line in enumerate(lines("rejects.py"), 1) if line.endswith("# error")
    }
    others = {
        place: text
        for place, text in reported.items()
        if place[0] == "rejects.py" and place[1] not in marked
    }
    assert others == {}


def test_the_samples_use_every_mark() -> None:
    assert not [line for line in lines("accepts.py") if line.endswith("# error")]
    assert not re.search(r"# type: ignore|# pyright:", "\n".join(lines("rejects.py")))
