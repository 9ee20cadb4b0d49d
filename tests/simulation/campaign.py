"""A campaign: the simulation of our own programs over as many seeds as there is time for.

    python tests/simulation/campaign.py --seeds 10000 --backend trio --order defer

Seeds run in child processes, so that one that spins or blocks ends its child alone. It prints each
seed that breaks a rule, shrunk if asked, and a table of the rules that were broken. Exit status: 0
if nothing was found but what `expected` lists, 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrio.testing import SimulationFailure, shrink, simulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from simulation.expected import EXPECTED  # the path comes first
from simulation.programs import program

CHUNK = 50  # seeds of one child
LIMIT = 60.0  # virtual seconds of one run
SECONDS = 20.0  # real seconds of one run, at most


def play(seeds: range, backend: str, order: str, *, small: bool) -> Iterator[dict[str, Any]]:
    """Play seeds in this process; return what broke a rule."""
    for seed in seeds:
        print(json.dumps({"at": seed}), flush=True)
        try:
            simulate(
                program,
                seeds=[seed],
                backends=[backend],  # type: ignore[list-item]  # argparse has seen to it
                order=order,  # type: ignore[arg-type]  # likewise
                limit=LIMIT,
                seconds=SECONDS,
            )
        except SimulationFailure as failure:
            found = shrink(failure, seconds=20) if small else failure
            yield {
                "seed": seed,
                "kind": failure.kind,
                "what": found.what,
                "scenario": str(found.scenario),
            }


def child(arguments: argparse.Namespace) -> None:
    """Be the child: play some seeds, and print what is found as JSON."""
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    for found in play(seeds, arguments.backend, arguments.order, small=arguments.shrink):
        print(json.dumps(found), flush=True)


def in_children(arguments: argparse.Namespace, backend: str) -> Iterator[dict[str, Any]]:
    """Play seeds in children, one after the other; return what broke a rule."""
    first, stop = arguments.first, arguments.first + arguments.seeds
    while first < stop:
        count = min(CHUNK, stop - first)
        command = [sys.executable, __file__, "--child", f"--first={first}", f"--seeds={count}"]
        command += [f"--backend={backend}", f"--order={arguments.order}"]
        command += ["--shrink"] if arguments.shrink else []
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        at = first
        for line in ended.stdout.splitlines():
            found = json.loads(line)
            at = found.get("at", at)
            if "kind" in found:
                yield found
        if ended.returncode:  # the watchdog, or a crash
            words = ended.stderr.strip()
            yield {"seed": at, "kind": f"ended with {ended.returncode}", "what": words}
            first = at + 1
        else:
            first += count


def main() -> int:
    """Play a campaign; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--backend", choices=["asyncio", "trio", "both"], default="both")
    parser.add_argument("--order", choices=["stock", "shuffle", "defer"], default="shuffle")
    parser.add_argument("--shrink", action="store_true", help="make what is found smaller")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments)
        return 0
    backends = ["asyncio", "trio"] if arguments.backend == "both" else [arguments.backend]
    began = time.monotonic()
    kinds: Counter[str] = Counter()
    new = 0
    for backend in backends:
        for found in in_children(arguments, backend):
            kinds[found["kind"]] += 1
            known = EXPECTED.get((arguments.order, backend, found["seed"]))
            new += known is None or known.kind != found["kind"]
            mark = "" if known is None else f" (expected: {known.fault})"
            print(f"seed {found['seed']} on {backend}: {found['kind']}: {found['what']}{mark}")
            if arguments.shrink:
                print(found.get("scenario", ""))
    runs = arguments.seeds * len(backends)
    print(f"{runs} runs in {time.monotonic() - began:.0f} s; {sum(kinds.values())} broke a rule:")
    for kind, count in kinds.most_common():
        print(f"  {count:6} {kind}")
    return 1 if new else 0


if __name__ == "__main__":
    sys.exit(main())
