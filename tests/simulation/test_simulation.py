"""The library under its own simulation: what is listed breaks a rule, and nothing else does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CAMPAIGN = Path(__file__).with_name("campaign.py")
SEEDS = 300


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_no_rule_is_broken_but_where_it_is_expected(backend: str) -> None:
    # In a process of its own: a watchdog may end it, and coverage would make it slow.
    ended = subprocess.run(
        [sys.executable, str(CAMPAIGN), f"--seeds={SEEDS}", f"--backend={backend}", "--listed"],
        capture_output=True,
        text=True,
        check=False,
    )
    print(ended.stdout)
    assert ended.returncode == 0, ended.stdout + ended.stderr
