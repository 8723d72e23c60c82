"""The command: `python -m benchmarks NAME [--seeds 5] [--resume] [home=...] [data...]`."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.harness.benchmark import Benchmark, Study, measured_points
from benchmarks.harness.results import Results, read_results, write_results
from paretovid.platform.config.load import load_sweep_config, training_settings
from paretovid.platform.config.resolve import resolve_preparation
from paretovid.platform.console.progress import Progress
from paretovid.platform.preparation.prepare import prepare
from paretovid.trainables.errors import ParetovidError, UsageError, unknown_name
from paretovid.trainables.evaluation.results import RESULT_FILE
from paretovid.trainables.provenance import code_version
from paretovid.trainables.training.config import TrainingConfig

HERE = Path(__file__).parents[1]
RESULTS = HERE / "results"
MODULES = (
    "lite_eval",
    "ada_frame",
    "hcms",
    "video_epitoma",
    "model_selection",
    "model_selection_localization",
)
"""Files that declare benchmarks."""


def benchmarks() -> dict[str, Benchmark]:
    """All of them, by name."""
    found: dict[str, Benchmark] = {}
    for module in MODULES:
        declared: Sequence[Benchmark] = importlib.import_module(f"benchmarks.{module}").BENCHMARKS
        found |= {each.name: each for each in declared}
    return found


def study_of(benchmark: Benchmark, arguments: argparse.Namespace) -> Study:
    """Prepared data and trained trials.

    Raises `UsageError` if trials are there already and `--resume` was not given: they would be taken for these.
    """
    config = load_sweep_config([*benchmark.overrides, *arguments.overrides])
    prepared = prepare(resolve_preparation(config), Progress(3))
    training = {**training_settings(config), **benchmark.training}
    epochs = arguments.epochs or benchmark.epochs or TrainingConfig(**training).epochs
    folder = prepared.home.root / "benchmarks" / f"{benchmark.folder or benchmark.name}-e{epochs}"
    if not arguments.resume and any(folder.glob(f"*/{RESULT_FILE}")):
        raise UsageError(
            f"{folder} holds trials of an earlier run", "Continue with them: --resume. Or use another home=."
        )
    study = Study(
        prepared=prepared,
        folder=folder,
        seeds=arguments.seeds,
        epochs=epochs,
        workers=arguments.workers,
        training={key: value for key, value in training.items() if key != "epochs"},
    )
    if benchmark.train is not None:
        return replace(study, runs=benchmark.train(study))
    return study.trained(benchmark.trials) if benchmark.trials else study


def measure(benchmark: Benchmark, arguments: argparse.Namespace) -> Results:
    """Trains what is missing, writes results and pictures."""
    study = study_of(benchmark, arguments)
    document = {
        "dataset": study.prepared.dataset.fingerprint,
        "generator": dict(study.prepared.dataset.generator),
        "code_version": code_version(),
        **benchmark.document(study),
    }
    made = benchmark.results(document)
    tables = {**made.tables, **({"points": measured_points(study.runs)} if study.runs else {})}
    results = Results(made.about, tables)
    write_results(results, arguments.out / benchmark.name)
    if arguments.pictures and benchmark.draw is not None:
        arguments.pictures.mkdir(parents=True, exist_ok=True)
        benchmark.draw(study, document, arguments.pictures)
    return results


def parser() -> argparse.ArgumentParser:
    """Words of the command line."""
    names = "\n".join(f"  {name:<36} {each.about}" for name, each in benchmarks().items())
    made = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures a claim on the built-in videos, over several seeds, at measured cost: trains, selects on "
        "validation, measures on test.",
        epilog=f"benchmarks:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("name", help="of a benchmark below")
    made.add_argument("--seeds", type=int, default=5)
    made.add_argument("--workers", type=int, default=2, help="processes that train")
    made.add_argument("--epochs", type=int, help="default: the benchmark's")
    made.add_argument("--resume", action="store_true", help="keeps trials that an earlier run has finished")
    made.add_argument("--stored", action="store_true", help="only prints the tables of the stored results")
    made.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    made.add_argument("--pictures", type=Path, help="draws into this folder")
    made.add_argument("overrides", nargs="*", help="home=..., data..., as of paretovid sweep")
    return made


def run(words: Sequence[str] | None = None) -> None:
    """Measures, or reads what is stored, and prints the tables.

    Raises `UnknownNameError` for another benchmark, and what a sweep's configuration raises.
    """
    arguments = parser().parse_intermixed_args(words)
    known = benchmarks()
    if arguments.name not in known:
        raise unknown_name("benchmark", arguments.name, known)
    benchmark = known[arguments.name]
    results = (
        read_results(arguments.out / benchmark.name) if arguments.stored else measure(benchmark, arguments)
    )
    print(benchmark.text(results))


def main() -> None:
    """For a shell: errors of use are shown in words."""
    try:
        run()
    except ParetovidError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_status) from error
