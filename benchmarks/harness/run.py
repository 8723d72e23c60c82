"""The command: `python -m benchmarks NAME [--seeds 5] [--resume] [home=...] [data...]`.

A measurement that trains no methods has words of its own: `python -m benchmarks NAME --help`.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.harness.benchmark import Benchmark, Study, measured_points
from benchmarks.harness.measurement import Measurement
from benchmarks.harness.reported import Document, Reported
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
METHODS = (
    "lite_eval",
    "ada_frame",
    "hcms",
    "video_epitoma",
    "model_selection",
    "model_selection_localization",
    "search_plans",
    "search_points",
    "budget_dial",
)
"""Files that declare benchmarks of methods."""
OTHERS = (
    "durability",
    "early_stopping",
    "extraction",
    "gpu",
    "overhead",
    "published_tables",
    "realised_saving",
    "search",
    "search_table",
    "training_step",
)
"""Files that declare other measurements."""


def benchmarks() -> dict[str, Benchmark]:
    """Those of methods, by name."""
    found: dict[str, Benchmark] = {}
    for module in METHODS:
        declared: Sequence[Benchmark] = importlib.import_module(f"benchmarks.{module}").BENCHMARKS
        found |= {each.name: each for each in declared}
    return found


def measurements() -> dict[str, Measurement]:
    """The others, by name."""
    found: dict[str, Measurement] = {}
    for module in OTHERS:
        declared: Sequence[Measurement] = importlib.import_module(f"benchmarks.{module}").MEASUREMENTS
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
        keeps_caps=benchmark.keeps_caps,
    )
    if benchmark.train is not None:
        return replace(study, runs=benchmark.train(study))
    return study.trained(benchmark.trials) if benchmark.trials else study


def measure_methods(benchmark: Benchmark, arguments: argparse.Namespace) -> Results:
    """Trains what is missing, writes results and pictures."""
    study = study_of(benchmark, arguments)
    document: Document = {
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


def measure_other(measurement: Measurement, arguments: argparse.Namespace) -> Results:
    """Measures, and writes results unless they are only to be printed."""
    results = measurement.results(measurement.document(arguments))
    if not arguments.print_only:
        write_results(results, arguments.out / measurement.name)
    return results


def _list(declared: Mapping[str, Reported]) -> str:
    return "\n".join(f"  {name:<36} {each.about}" for name, each in declared.items())


def parser() -> argparse.ArgumentParser:
    """Words of the command line for benchmarks of methods."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures a claim on the built-in videos, over several seeds, at measured cost: trains, selects on "
        "validation, measures on test.",
        epilog=f"benchmarks of methods:\n{_list(benchmarks())}\n\nother measurements, each with words of its own (NAME "
        f"--help):\n{_list(measurements())}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("name", help="of a benchmark below")
    made.add_argument("--seeds", type=int, default=5)
    made.add_argument("--workers", type=int, default=2, help="processes that train")
    made.add_argument("--epochs", type=int, help="default: the benchmark's")
    made.add_argument("--resume", action="store_true", help="keeps trials that an earlier run has finished")
    _add_common(made)
    made.add_argument("--pictures", type=Path, help="draws into this folder")
    made.add_argument("overrides", nargs="*", help="home=..., data..., as of paretovid sweep")
    return made


def measurement_parser(measurement: Measurement) -> argparse.ArgumentParser:
    """Words of the command line for one of the others, after its name."""
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks {measurement.name}", description=f"Measures {measurement.about}."
    )
    _add_common(made)
    made.add_argument("--print-only", action="store_true", help="writes no results")
    measurement.arguments(made)
    return made


def _add_common(made: argparse.ArgumentParser) -> None:
    made.add_argument("--stored", action="store_true", help="only prints the tables of the stored results")
    made.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")


def run(words: Sequence[str] | None = None) -> None:
    """Measures, or reads what is stored, and prints the tables.

    Raises `UnknownNameError` for another benchmark, and what a sweep's configuration raises.
    """
    words = sys.argv[1:] if words is None else words
    other = measurements().get(words[0]) if words else None
    if other is not None:
        arguments = measurement_parser(other).parse_args(words[1:])
        _print(other, arguments, lambda: measure_other(other, arguments))
        return
    arguments = parser().parse_intermixed_args(words)
    known = benchmarks()
    if arguments.name not in known:
        raise unknown_name("benchmark", arguments.name, {**known, **measurements()})
    benchmark = known[arguments.name]
    _print(benchmark, arguments, lambda: measure_methods(benchmark, arguments))


def _print(reported: Reported, arguments: argparse.Namespace, measure: Callable[[], Results]) -> None:
    print(reported.text(read_results(arguments.out / reported.name) if arguments.stored else measure()))


def main() -> None:
    """For a shell: errors of use are shown in words."""
    try:
        run()
    except ParetovidError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_status) from error
