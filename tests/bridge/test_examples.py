"""The examples of the documentation that need a server, against one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from documented import Example, docstring_examples, page_examples, readme_examples
from redis_server import RedisServer

ALL = readme_examples() + page_examples() + docstring_examples()
EXAMPLES = [example for example in ALL if example.runs_under == "Redis"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_an_example_prints_what_it_says(
    example: Example,
    backend: str,
    server: RedisServer,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    source = example.source.replace("redis://localhost:6379/0", server.url)
    assert source != example.source
    replace(example, source=source).run_on(backend, tmp_path)
    assert capsys.readouterr().out == example.output
    assert example.output
