"""A campaign: the simulation of our own programs over as many seeds as there is time for.

    python tests/simulation/campaign.py --seeds 10000 --backend trio --order defer

Seeds run in child processes, so that one that spins or blocks ends its child alone. It prints each
seed that breaks a rule, shrunk if asked, and how often each rule was broken. What `expected` lists
is expected strictly: exit status 0 says that these seeds broke these rules, and no others did.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal, TypedDict, cast

from orchestrio.testing import Order, SimulationFailure, shrink, simulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from simulation.expected import FAULTS, SEEDS, is_recorded_with_what_is_here
from simulation.programs import program

Backend = Literal["asyncio", "trio"]

CHUNK: Final = 100  # seeds of one child
LIMIT: Final = 60.0  # virtual seconds of one run
SECONDS: Final = 20.0  # real seconds of one run, at most
USUAL: Final = 0.03  # which share of the runs may find what is known, where seeds do not tell


class Found(TypedDict):
    """A seed that broke a rule."""

    seed: int
    kind: str
    what: str


def play(seed: int, backend: Backend, order: Order, *, small: bool) -> Found | None:
    """Play one seed in this process; return what broke a rule."""
    try:
        simulate(
            program, seeds=[seed], backends=[backend], order=order, limit=LIMIT, seconds=SECONDS
        )
    except SimulationFailure as failure:
        what = str(shrink(failure, seconds=20)) if small else failure.what
        return Found(seed=seed, kind=failure.kind, what=what)
    return None


def child(seeds: Sequence[int], backend: Backend, order: Order, *, small: bool) -> None:
    """Play seeds, and print which is being played and what is found, as JSON."""
    for seed in seeds:
        print(json.dumps({"at": seed}), flush=True)
        found = play(seed, backend, order, small=small)
        if found is not None:
            print(json.dumps(found), flush=True)


def in_children(
    seeds: Sequence[int], backend: Backend, order: Order, *, small: bool
) -> Iterator[Found]:
    """Play seeds in children, one after the other; return what broke a rule."""
    rest = list(seeds)
    while rest:
        chunk = rest[:CHUNK]
        command = [sys.executable, __file__, "--child", f"--backend={backend}", f"--order={order}"]
        command += ["--shrink"] if small else []
        command += ["--list", ",".join(map(str, chunk))]
        # A set of strings would otherwise have another order in each process.
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        ended = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment
        )
        at = chunk[0]
        for line in ended.stdout.splitlines():
            told = json.loads(line)
            at = told.get("at", at)
            if "kind" in told:
                yield cast("Found", told)
        if ended.returncode:  # the watchdog, or a crash
            yield Found(seed=at, kind="ended", what=ended.stderr.strip())
        rest = rest[chunk.index(at) + 1 if ended.returncode else len(chunk) :]


def campaign(
    seeds: Sequence[int], backend: Backend, order: Order, *, small: bool, changed: bool
) -> bool:
    """Play seeds, and print what is found; return whether it is what was expected."""
    began = time.monotonic()
    expected = SEEDS.get((order, backend), {})
    missing = {seed for seed in seeds if seed in expected}
    # With other versions, other seeds find the same faults, but not many.
    strict = not SEEDS or is_recorded_with_what_is_here()
    if not strict:
        print("the seeds were recorded with other versions: each rule may be broken now and then")
    rules: Counter[str] = Counter()
    good = True
    for found in in_children(seeds, backend, order, small=small):
        seed, rule = found["seed"], found["kind"]
        rules[rule] += 1
        missing.discard(seed)
        faults = [FAULTS[expected[seed]]] if seed in expected else []
        known = any(rule == fault.rule for fault in (faults if strict else FAULTS.values()))
        good = good and known
        fault = faults[0].what if known and faults else "known" if known else "NOT EXPECTED"
        print(f"seed {seed} on {backend}: {rule}: {found['what']} ({fault})", flush=True)
    print(f"{len(seeds)} seeds on {backend}, {order}, in {time.monotonic() - began:.0f} s;", end="")
    print(f" {rules.total()} broke a rule: {dict(rules.most_common())}")
    if not strict:
        return good and rules.total() <= max(3, USUAL * len(seeds))
    if changed:
        return good
    for seed in sorted(missing):
        print(f"seed {seed} on {backend} broke no rule, and was to: {expected[seed]}")
    return good and not missing


def main() -> int:
    """Play a campaign; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--backend", choices=["asyncio", "trio", "both"], default="both")
    parser.add_argument("--order", choices=["stock", "shuffle", "defer"], default="shuffle")
    parser.add_argument("--shrink", action="store_true", help="make what is found smaller")
    parser.add_argument("--listed", action="store_true", help="and all seeds that are listed")
    parser.add_argument("--list", help="play just these, with commas between")
    parser.add_argument(
        "--changed",
        action="store_true",
        help="the library is broken on purpose: what is listed need not be found",
    )
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    order: Order = arguments.order
    small: bool = arguments.shrink
    seeds: list[int] = list(range(arguments.first, arguments.first + arguments.seeds))
    if arguments.list:
        seeds = [int(seed) for seed in arguments.list.split(",")]
    if arguments.child:
        child(seeds, arguments.backend, order, small=small)
        return 0
    good = True
    backends: list[Backend] = ["asyncio", "trio"]
    if arguments.backend != "both":
        backends = [arguments.backend]
    for backend in backends:
        more = SEEDS.get((order, backend), {})
        played = sorted({*seeds, *more}) if arguments.listed else seeds
        good &= campaign(played, backend, order, small=small, changed=arguments.changed)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
