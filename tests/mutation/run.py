"""Plant the mutants, one at a time, into a copy of the package, and see who finds them.

    python tests/mutation/run.py [--only NAME ...] [--tests-only | --simulation [--seeds N]]

The exit status is 0 if all were found, 1 if one survived, and 2 if that cannot be told: the text of
a mutant is lost, something is found without any mutant, or it is not the copy that would be tested.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from mutation.mutants import MUTANTS, Mutant, MutantLostError

ROOT: Final = Path(__file__).parents[2]
CAMPAIGN: Final = Path("tests", "simulation", "campaign.py")

#: What the finders need of the repository.
NEEDED: Final = ("src", "tests", "stubs", "examples", "pyproject.toml", "README.md")

#: A run with a mutant hangs if it takes that many times as long as without one.
MUCH_LONGER: Final = 5

Command = tuple[str, ...]


class CannotTellError(Exception):
    """Nothing can be said of the mutants."""


# -- copies of the repository, and processes in them -------------------------------------------


@contextmanager
def copied() -> Iterator[Path]:
    """Make a copy of what is needed, in a folder of its own, where no byte code is stale."""
    with tempfile.TemporaryDirectory(prefix="mutant-", ignore_cleanup_errors=True) as folder:
        place = Path(folder).resolve()
        for name in NEEDED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, place / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, place / name)
        yield place


@dataclass(frozen=True)
class Ended:
    """How a process has ended."""

    #: `None` if it had to be ended
    status: int | None
    output: str
    seconds: float


def run(place: Path, limit: float, command: Command) -> Ended:
    """Run Python in a copy, with the package of the copy, for some seconds at most."""
    environment = {**os.environ, "PYTHONPATH": str(place / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTEST_ADDOPTS", None)
    begin = time.monotonic()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=place,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        status: int | None = None
        try:
            with suppress(subprocess.TimeoutExpired):
                status = process.wait(limit)
        finally:
            with suppress(ProcessLookupError):  # servers that tests have started end with them
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        return Ended(status, output.read(), time.monotonic() - begin)


def check_import(place: Path) -> None:
    """See to it that the package of the copy is tested, and not one that is installed."""
    ended = run(place, 60, ("-c", "import orchestrio; print(orchestrio.__file__)"))
    if ended.status != 0 or not Path(ended.output.strip()).resolve().is_relative_to(place):
        raise CannotTellError(f"it is not the copy in {place} that is imported: {ended.output}")


# -- who looks for mutants ---------------------------------------------------------------------


@dataclass(frozen=True)
class Finder:
    """A command that finds mutants, and what its end means."""

    name: str
    command: Callable[[Mutant], Command]
    #: says whether the mutant was found, and how
    judge: Callable[[Ended], tuple[bool, str]]


def command_of_tests(mutant: Mutant) -> Command:
    # Verbose, since the last word of tests that hang is then the name of one. It is for this
    # script to say when they do.
    return (
        *("-m", "pytest", "-x", "-v", "--color=no", "-p", "no:cacheprovider"),
        *("-o", "faulthandler_timeout=0", *mutant.tests),
    )


def judge_tests(ended: Ended) -> tuple[bool, str]:
    if ended.status is None:
        begun = re.findall(r"^(\S+::.+?) *$", ended.output, re.MULTILINE)
        return True, f"{short(begun[-1])} hangs" if begun else "hangs"
    if ended.status == 0:
        skipped = re.search(r"\d+ skipped", ended.output)
        return False, "no" if skipped is None else f"no, {skipped[0]}"
    failed = re.search(r"^(?:FAILED|ERROR) (\S+::.+?)(?: - .*)?$", ended.output, re.MULTILINE)
    if failed is None:
        raise CannotTellError(f"no test has failed, but pytest has:\n{ended.output}")
    return True, short(failed[1])


def short(test: str) -> str:
    """Return the name of a test without the folders and the file that it is in."""
    return f"`{test.partition('::')[2]}`"


def judge_simulation(ended: Ended) -> tuple[bool, str]:
    if ended.status is None:
        return True, "hangs"
    unexpected = r"^seed \d+ on \w+: (\w+):.*NOT EXPECTED"
    broken = Counter(re.findall(unexpected, ended.output, re.MULTILINE)).most_common(1)
    found = [f"`{rule}` in {count} runs" for rule, count in broken]
    return ended.status != 0, found[0] if found else "no"


def chosen_finders(asked: argparse.Namespace) -> list[Finder]:
    """Return those who are to look for mutants.

    :raises CannotTellError: if one of them is not there
    """
    found = [Finder("tests", command_of_tests, judge_tests)]
    if asked.simulation:
        if not (ROOT / CAMPAIGN).exists():
            raise CannotTellError(f"there is no {CAMPAIGN}")
        command = (str(CAMPAIGN), "--changed", "--seeds", str(asked.seeds))
        found.append(Finder("simulation", lambda _: command, judge_simulation))
    return found


# -- the hunt ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """What one of the finders says of one mutant."""

    found: bool
    how: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.how} ({self.seconds:.0f} s)"


def look(place: Path, finder: Finder, mutant: Mutant, limit: float) -> Verdict:
    ended = run(place, limit, finder.command(mutant))
    found, how = finder.judge(ended)
    return Verdict(found, how, ended.seconds)


def limits(
    finders: Sequence[Finder], mutants: Sequence[Mutant], *, least: float, most: float
) -> dict[Command, float]:
    """Run all commands without a mutant; return how many seconds each may take with one.

    :raises CannotTellError: if something is found
    """
    allowed: dict[Command, float] = {}
    with copied() as place:
        check_import(place)
        for finder in finders:
            for mutant in mutants:
                command = finder.command(mutant)
                if command not in allowed:
                    verdict = look(place, finder, mutant, most)
                    if verdict.found:
                        raise CannotTellError(
                            f"{finder.name} found something without a mutant: {verdict.how}"
                        )
                    allowed[command] = max(least, MUCH_LONGER * verdict.seconds)
    return allowed


def hunt(finders: Sequence[Finder], mutant: Mutant, allowed: dict[Command, float]) -> list[Verdict]:
    """Have all look for one mutant, one after the other, and tell at once what they say."""
    verdicts: list[Verdict] = []
    with copied() as place:
        (place / mutant.file).write_text(mutant.planted(place), encoding="utf-8")
        check_import(place)
        for finder in finders:
            verdict = look(place, finder, mutant, allowed[finder.command(mutant)])
            print(f"{mutant.name}, {finder.name}: {verdict}", flush=True)
            verdicts.append(verdict)
    return verdicts


def table(finders: Sequence[Finder], results: dict[str, list[Verdict]]) -> str:
    """Return all verdicts as a table of Markdown."""
    rows = [["mutant", *(f"found by {finder.name}" for finder in finders)]]
    rows.append(["---"] * len(rows[0]))
    rows += [[name, *map(str, verdicts)] for name, verdicts in results.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


# -- the script --------------------------------------------------------------------------------


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    names = [mutant.name for mutant in MUTANTS]
    parser.add_argument(
        "--only", action="append", choices=names, metavar="NAME", help="this mutant and no other"
    )
    parser.add_argument("--list", action="store_true", help="tell the mutants, and run nothing")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--tests-only", action="store_true", help="as is done anyway")
    how.add_argument("--simulation", action="store_true", help="run the simulation as well")
    parser.add_argument("--seeds", type=int, default=200, metavar="N", help="of the simulation")
    parser.add_argument(
        "--patience",
        type=float,
        default=20,
        metavar="SECONDS",
        help=f"after which a run hangs, unless it takes a {MUCH_LONGER}th of that without a mutant",
    )
    return parser.parse_args(arguments)


def main() -> int:
    asked = parse()
    mutants = [mutant for mutant in MUTANTS if not asked.only or mutant.name in asked.only]
    if asked.list:
        print("\n".join(f"{mutant.name}: {mutant.harm}" for mutant in mutants))
        return 0
    try:
        for mutant in mutants:
            mutant.planted(ROOT)
        who = chosen_finders(asked)
        print("without a mutant ...", flush=True)
        allowed = limits(who, mutants, least=asked.patience, most=1800)
        results = {mutant.name: hunt(who, mutant, allowed) for mutant in mutants}
    except (CannotTellError, MutantLostError) as error:
        print(error, file=sys.stderr)
        return 2
    survivors = [
        name for name, verdicts in results.items() if not any(one.found for one in verdicts)
    ]
    print(f"\n{table(who, results)}\n")
    print(f"{len(mutants) - len(survivors)} of {len(mutants)} mutants were found")
    for name in survivors:
        print(f"SURVIVED: {name}")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
