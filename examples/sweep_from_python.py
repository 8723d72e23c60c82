"""A sweep from Python: what `paretovid sweep` does, with the answer as objects instead of a table.

    python examples/sweep_from_python.py [home=FOLDER] [search.trials=8] [method=lite_eval] [...]

Takes the words of `paretovid sweep`. Small and quick: data.videos_train=16 data.videos_val=8 data.videos_test=8
backbones.training.effort=0.02 training.epochs=2 search.trials=3
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from paretovid.platform.config.load import load_sweep_config
from paretovid.platform.console.progress import Progress
from paretovid.platform.fronts.front import Front
from paretovid.platform.sweeps.sweep import plan_sweep, run_sweep

STAGES = 5
"""Videos, backbones, features, search, front."""


def sweep(words: Sequence[str]) -> tuple[str, Front]:
    """Runs a sweep, or resumes it if it is there unfinished: its name, and the front of what was measured."""
    config = load_sweep_config(words)
    name = plan_sweep(config).name  # refuses here what cannot work; nothing is started or made yet
    report = run_sweep(config, Progress(STAGES))
    return name, report.front


def main(words: Sequence[str]) -> None:
    """Prints the front, cheapest first."""
    name, front = sweep(words)
    print(f"{name}: {len(front.points)} operating points, {len(front.front)} of them on the front")
    for point in front.front:
        test = point.record.test
        print(
            f"  {point.id}  {front.objective} {100 * test.quality:.2f} %  {test.gflops:.4f} GFLOPs per video"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
