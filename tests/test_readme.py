"""Every Python example of the README runs as it is printed there, and prints what it says."""

from __future__ import annotations

import re
import runpy
from dataclasses import dataclass
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

#: How an example says which backend it runs on, and how it would say trio.
ON_TRIO = {
    "run_sync()": 'run_sync("trio")',
    'virtual_time("asyncio")': 'virtual_time("trio")',
    "anyio.run(main)": 'anyio.run(main, backend="trio")',
}


@dataclass(frozen=True)
class Example:
    """A block of Python, the line it begins at, and what the block after it says is printed."""

    line: int
    source: str
    output: str

    def run_on(self, backend: str, folder: Path) -> None:
        source = self.source
        if backend == "trio":
            for plain, on_trio in ON_TRIO.items():
                source = source.replace(plain, on_trio)
            assert source != self.source, f"the example at line {self.line} runs on no backend"
        # Empty lines before it give it the README's line numbers in tracebacks.
        program = folder / "README.py"
        program.write_text("\n" * (self.line - 1) + source, encoding="utf-8")
        runpy.run_path(str(program), run_name="__main__")


def examples() -> list[Example]:
    text = README.read_text(encoding="utf-8")
    blocks = list(FENCED.finditer(text))
    found: list[Example] = []
    for block, following in zip(blocks, [*blocks[1:], None], strict=True):
        if block[1] == "python":
            line = text.count("\n", 0, block.start(2)) + 1
            said = following is not None and following[1] == "text"
            found.append(Example(line, block[2], following[2] if following and said else ""))
    return found


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("example", examples(), ids=lambda example: f"line{example.line}")
def test_example_prints_what_the_readme_says(
    example: Example, backend: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    example.run_on(backend, tmp_path)
    assert capsys.readouterr().out == example.output


def test_readme_has_examples() -> None:
    assert len(examples()) >= 5


def test_links_of_the_readme_lead_somewhere() -> None:
    prose = FENCED.sub("", README.read_text(encoding="utf-8"))
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
    blocks = [block[2].strip() for block in FENCED.finditer(README.read_text(encoding="utf-8"))]
    assert command in blocks
