"""The programs that the README, the other pages and the docstrings show, and how to run them."""

from __future__ import annotations

import ast
import re
import runpy
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orchestrio

README = Path(__file__).parent.parent / "README.md"
DOCS = README.parent / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
PACKAGE = Path(orchestrio.__file__).parent
FENCED = re.compile(r"^```(\S+)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)

#: What follows a line that ends with two colons and is indented by more.
LITERAL = re.compile(r"^( *)(?:\S.*)?::\n\n((?:\1 +\S.*\n|\n)+)", re.MULTILINE)

#: How an example says which backend it runs on, and how it would say trio.
ON_TRIO = {
    "run_sync()": 'run_sync("trio")',
    'virtual_time("asyncio")': 'virtual_time("trio")',
    "anyio.run(main)": 'anyio.run(main, backend="trio")',
}

#: What in an example shows that it is for something else to run.
RUNS_UNDER = {
    "IsolatedAsyncioTestCase": "unittest",
    "pytest.mark.asyncio": "pytest-asyncio",
    "def test_": "pytest",
    "starlette.": "a server",
    "FastAPI(": "a server",
    "from live import": "a server",
    "watchdog=": "systemd",
    "redis://": "Redis",
}


@dataclass(frozen=True)
class Example:
    """A block of Python, where it begins, and what it says that it prints."""

    file: Path
    line: int
    source: str
    output: str

    def __str__(self) -> str:
        folder = f"{self.file.parent.name}_" if self.file.stem == "index" else ""
        return f"{folder}{self.file.stem}{self.line}".replace("-", "_")

    @property
    def runs_under(self) -> str | None:
        """What runs it, if it is not a program that ends by itself."""
        return next((name for mark, name in RUNS_UNDER.items() if mark in self.source), None)

    @property
    def backends(self) -> list[str]:
        """What it runs on: one that uses asyncio itself runs on nothing else."""
        return ["asyncio"] if "import asyncio" in self.source else ["asyncio", "trio"]

    def write(self, folder: Path, backend: str = "asyncio") -> Path:
        """Write it to a file, at the same line numbers, so that tracebacks can be followed."""
        source = self.source
        if backend == "trio":
            for plain, on_trio in ON_TRIO.items():
                source = source.replace(plain, on_trio)
        program = folder / f"{self}.py"
        program.write_text("\n" * (self.line - 1) + source, encoding="utf-8")
        return program

    def run_on(self, backend: str, folder: Path) -> None:
        """Run it, as ``python`` would."""
        runpy.run_path(str(self.write(folder, backend)), run_name="__main__")


def blocks_of(page: Path) -> list[tuple[str, str, int]]:
    """Return each block of a page: its language, its text, and the line it begins at."""
    text = page.read_text(encoding="utf-8")
    return [
        (block[1], block[2], text.count("\n", 0, block.start(2)) + 1)
        for block in FENCED.finditer(text)
    ]


def examples_of(page: Path) -> list[Example]:
    """Return the Python blocks of a page; a block of text after one is what it prints."""
    blocks = blocks_of(page)
    found: list[Example] = []
    for (language, source, line), following in zip(blocks, [*blocks, None][1:], strict=True):
        if language == "python":
            output = following[1] if following is not None and following[0] == "text" else ""
            found.append(Example(page, line, source, output))
    return found


def readme_blocks() -> list[tuple[str, str, int]]:
    """Return each block of the README."""
    return blocks_of(README)


def readme_examples() -> list[Example]:
    """Return the Python blocks of the README."""
    return examples_of(README)


def page_examples() -> list[Example]:
    """Return the Python blocks of all pages in docs/."""
    return [example for page in PAGES for example in examples_of(page)]


def docstrings(module: Path) -> Iterator[tuple[str, int]]:
    """Yield each docstring of a module as it is written, and the line it begins at."""
    text = module.read_text("utf-8")
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            first = node.body[0]
            yield ast.get_source_segment(text, first, padded=True) or "", first.lineno


def docstring_examples() -> list[Example]:
    """Return the literal blocks of the docstrings; a comment after a ``print`` is what it prints."""
    found: list[Example] = []
    for module in sorted(PACKAGE.rglob("*.py")):
        for text, line in docstrings(module):
            for block in LITERAL.finditer(text):
                source = textwrap.dedent(block[2])
                output = re.findall(r"^ *print\(.*\)  # (.+)$", source, re.MULTILINE)
                at = line + text.count("\n", 0, block.start(2))
                found.append(Example(module, at, source, "".join(f"{said}\n" for said in output)))
    return found
