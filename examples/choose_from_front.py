"""Reads the front of a finished sweep, chooses within a budget, and promotes the choice to the model registry.

    python examples/choose_from_front.py HOME SWEEP [--max-gflops 0.05] [--name digits]

Without a budget it takes the cheapest point that is within `--margin` of the best quality on validation. Choices are
made on validation; what they are worth is then read on test.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from paretovid.platform.fronts.build import read_front
from paretovid.platform.fronts.front import Front, FrontPoint
from paretovid.platform.fronts.selection import choose
from paretovid.platform.registry.promotion import Promotion, promote
from paretovid.platform.storage.home import open_home


def pick(front: Front, *, max_gflops: float | None, margin: float) -> FrontPoint:
    """The best within a budget in GFLOPs per video, or the cheapest that is as good as the best, less a margin.

    Raises `UsageError` if nothing is within the budget; it says what the cheapest point costs.
    """
    if max_gflops is not None:
        return choose(front, max_gflops=max_gflops)
    best = max(point.record.val.quality for point in front.front)
    return choose(front, min_map=best - margin)


def main(words: Sequence[str] | None = None) -> Promotion:
    """Chooses, shows what the choice is worth, and promotes it as `NAME@champion`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("home", type=Path)
    parser.add_argument("sweep")
    parser.add_argument("--max-gflops", type=float)
    parser.add_argument("--margin", type=float, default=0.01, help="of the objective, as a fraction")
    parser.add_argument("--name", default="digits")
    arguments = parser.parse_args(words)
    home = open_home(str(arguments.home))
    front = read_front([home.sweep(arguments.sweep)])
    point = pick(front, max_gflops=arguments.max_gflops, margin=arguments.margin)
    for split in ("val", "test"):
        figures = point.record.on(split)
        print(f"{point.id} on {split}: {100 * figures.quality:.2f} %, {figures.gflops:.4f} GFLOPs per video")
    for baseline in front.best_baselines():
        print(f"  against {baseline.name}: {100 * baseline.record.test.quality:.2f} %")
    promoted = promote(
        home, arguments.sweep, name=arguments.name, alias="champion", point=f"{point.trial.sweep}/{point.id}"
    )
    print(promoted)
    return promoted


if __name__ == "__main__":
    main()
