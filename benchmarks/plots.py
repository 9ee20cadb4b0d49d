"""Draw the plots of the README and of the page on performance, over the number of handlers.

    python benchmarks/plots.py [--quick]     # about 5 minutes

They are `plots/throughput.svg` and `plots/wakeup.svg`, on asyncio; what is drawn is what
`broadcast.py` measures, and as it does it: by ratios of times taken in turn.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

import anyio
import matplotlib as mpl
from broadcast import (
    BARE,
    BURST,
    CONTESTANTS,
    OURS,
    PUBLISH,
    QUEUES,
    STREAMS,
    bare_event,
    compare,
    orchestrio_each,
    ratio,
)
from matplotlib.figure import Figure

PLOTS: Final = Path(__file__).parent / "plots"
#: What is drawn, how it is called there, and in which colour; ours stand out.
LINES: Final = {
    OURS: ("orchestrio, send_nowait", "#c2410c"),
    PUBLISH: ("orchestrio, await publish", "#f59e0b"),
    QUEUES: ("asyncio.Queue for each", "#1d4ed8"),
    STREAMS: ("AnyIO memory stream for each", "#0891b2"),
    "blinker `send_async` (no queue)": ("blinker, send_async (no queue)", "#6b7280"),
    "pyee (a task for each call)": ("pyee (a task for each call)", "#a3a3a3"),
}
EVENT: Final = "bare event"


def figure(title: str, unit: str, points: dict[str, dict[int, float]]) -> Figure:
    """Draw lines over N, with what they are called beside them if there are several."""
    figure = Figure(figsize=(7, 4))
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xscale("log")
    axes.set_xlabel("handlers")
    axes.set_ylabel(unit)
    for name, line in points.items():
        label, colour = LINES[name]
        mine = name in (OURS, PUBLISH)
        axes.plot(
            list(line),
            list(line.values()),
            marker="o",
            color=colour,
            label=label,
            linewidth=2.2 if mine else 1.2,
            markersize=4,
        )
    counts = sorted({n for line in points.values() for n in line})
    axes.set_xticks(counts, [f"{n:,}" for n in counts])
    axes.minorticks_off()
    axes.axhline(1, color="black", linewidth=0.8, linestyle=":")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="#e5e7eb")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if len(points) > 1:
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.patch.set_facecolor("white")  # also on a dark page
    return figure


async def measure(
    counts: tuple[int, ...], rounds: int, budget: float
) -> tuple[dict[str, dict[int, float]], dict[str, dict[int, float]]]:
    """Return the speeds relative to the bare loop, and the time of an idle wake-up."""
    contestants = {name: (each, burst) for name, each, _, burst, _ in CONTESTANTS}
    speeds: dict[str, dict[int, float]] = {name: {} for name in LINES}
    wakeups: dict[int, float] = {}
    for n in counts:
        chosen = {name: contestants[name] for name in (BARE, *LINES)}
        times = await compare(chosen, n, rounds, budget)
        for name in LINES:
            speeds[name][n] = ratio(times, BARE, name)
        idle = {EVENT: (bare_event, 1), OURS: (orchestrio_each, 1)}
        wakeups[n] = ratio(await compare(idle, n, 2 * rounds, budget), OURS, EVENT)
    return speeds, {OURS: wakeups}


async def main(quick: bool) -> None:
    counts = (1, 10, 100) if quick else (1, 3, 10, 30, 100, 300, 1000)
    speeds, wakeups = await measure(counts, 1 if quick else 5, 0.02 if quick else 0.2)
    mpl.rcParams["svg.hashsalt"] = "orchestrio"  # so that the same figures make the same file
    mpl.rcParams["svg.fonttype"] = "none"  # text, not outlines: smaller, and found by a search
    PLOTS.mkdir(exist_ok=True)
    for name, drawn in (
        (
            "throughput",
            figure(
                f"Messages a second, bursts of {BURST}, every message handled",
                "speed; a bare loop over the handlers is 1",
                speeds,
            ),
        ),
        (
            "wakeup",
            figure(
                "From a message to the last of so many idle handlers",
                "time; of tasks at one bare anyio.Event it is 1",
                wakeups,
            ),
        ),
    ):
        drawn.savefig(PLOTS / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one short round, N up to 100")
    anyio.run(main, parser.parse_args().quick)
