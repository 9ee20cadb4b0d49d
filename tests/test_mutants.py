"""The mutants fit the source: whoever moves code that a mutant changes ports the mutant.

They are hunted by ``tests/mutation/run.py``, which is no part of the suite.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from mutation.mutants import MUTANTS, Mutant

ROOT = Path(__file__).parents[1]


def test_there_are_eighteen_mutants_each_with_a_name_of_its_own() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) == 18


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_text_of_a_mutant_stands_once_in_its_file_and_what_replaces_it_is_python(
    mutant: Mutant,
) -> None:
    compile(mutant.planted(ROOT), mutant.file, "exec")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_tests_that_are_to_find_a_mutant_are_there(mutant: Mutant) -> None:
    files = [test for test in mutant.tests if test.endswith(".py")]
    assert files
    assert all((ROOT / file).is_file() for file in files)
