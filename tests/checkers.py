"""What mypy and pyright say of files that use orchestrio, by its inline types or by its stubs."""

from __future__ import annotations

import atexit
import json
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from documented import docstring_examples, page_examples, readme_examples
from interpreter import where_python_is_this_one

import orchestrio

ROOT = Path(__file__).parents[1]
SAMPLES = Path(__file__).parent / "typing"
CACHE = ROOT / ".mypy_cache"
SOURCES = {"inline": Path(orchestrio.__file__).parents[1], "stubs": ROOT / "stubs"}

Checker = Literal["mypy", "pyright"]
Types = Literal["inline", "stubs"]


@dataclass(frozen=True)
class Remark:
    """What a checker said of a line of a file."""

    file: str
    line: int
    is_error: bool
    message: str

    @property
    def revealed(self) -> str | None:
        """The type that `reveal_type` shows here, in words that both checkers have."""
        match = re.fullmatch(r'(?:Revealed type|Type of ".*") is "(.*)"', self.message)
        if match is None:
            return None
        return without_places(match[1]).removeprefix("def ").replace("CoroutineType[", "Coroutine[")

    @property
    def gist(self) -> str:
        """The message without what the stubs call otherwise: inner modules, type parameters."""
        return re.sub(r"\b\w+(?=@)|\b_(?=[A-Z])", "", without_places(self.message))


def without_places(text: str) -> str:
    """Return what a checker says with the names of the modules left out."""
    return re.sub(r"\b(?:[a-z_]\w*\.)+(?=\w)", "", text)


@cache
def files() -> Path:
    """A folder with the samples, and the examples of the README, the pages and the docstrings."""
    folder = Path(tempfile.mkdtemp(prefix="orchestrio-typing-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for sample in SAMPLES.glob("*.py"):
        shutil.copy(sample, folder)
    for example in readme_examples() + page_examples() + docstring_examples():
        # Not the servers' own programs: what hypercorn takes and Starlette is are two types.
        if "from live import" not in example.source:
            example.write(folder)
    return folder


def run(*command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a checker, which fails itself if its exit code is above 1."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=files(),
        env=where_python_is_this_one() | variables,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    return done


def mypy(types: Types) -> list[Remark]:
    """Return what ``mypy --strict`` says of all files."""
    done = run(
        *("mypy", "--strict", "--config-file=", f"--cache-dir={CACHE / types}"),
        *("--no-color-output", "--no-error-summary", "--hide-error-context", "--no-pretty", "."),
        MYPYPATH=str(SOURCES[types]),
    )
    remarks: list[Remark] = []
    for line in done.stdout.splitlines():
        match = re.fullmatch(r"(.+?)\.py:(\d+): (error|note): (.*)", line)
        assert match, f"not understood: {line}"
        remarks.append(Remark(match[1], int(match[2]), match[3] == "error", match[4]))
    return remarks


def pyright(types: Types) -> list[Remark]:
    """Return what pyright says of all files in its strict mode."""
    (files() / "pyrightconfig.json").write_text(
        json.dumps({"typeCheckingMode": "strict", "extraPaths": [str(SOURCES[types])]}), "utf-8"
    )
    done = run("pyright", "--pythonpath", sys.executable, "--outputjson")
    return [
        Remark(
            Path(found["file"]).stem,
            found["range"]["start"]["line"] + 1,
            found["severity"] == "error",
            found["message"],
        )
        for found in json.loads(done.stdout)["generalDiagnostics"]
    ]


@cache
def remarks(checker: Checker, types: Types) -> list[Remark]:
    """Return what a checker says of all files, each checker and kind of types once."""
    return mypy(types) if checker == "mypy" else pyright(types)
