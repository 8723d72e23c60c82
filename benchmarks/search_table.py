"""A table of real trainings with their whole curves, on which searchers are compared without training.

    python -m benchmarks search_table home=bench-home --rows 120

Anchors, published settings and scrambled Sobol points over the training knobs of a method's file, learning rate,
weight decay, epochs and hidden size. Each is trained once, with its number as seed, and measured at placed settings: 12
after a quarter and half of its own schedule, 24 at its end. Trainings alternate between the methods; what is there is
not trained again. `results/search_table/METHOD.npz` holds them; the page is `search.md`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from scipy.stats import qmc

from benchmarks.harness.document import Layout
from benchmarks.harness.measurement import Measurement
from benchmarks.harness.reported import Document
from benchmarks.harness.tables import Cell, Shown
from benchmarks.peers.curve_table import CurveTable, TableKnob, TableRow, rung_epochs
from paretovid.platform.config.load import load_sweep_config
from paretovid.platform.config.resolve import resolve_preparation
from paretovid.platform.console.progress import Progress
from paretovid.platform.preparation.prepare import Prepared, prepare
from paretovid.trainables.context import LocalContext
from paretovid.trainables.evaluation.results import TrialResult
from paretovid.trainables.training.config import TrainingConfig, TrialConfig
from paretovid.trainables.trial import run_trial

METHODS = ("lite_eval", "hcms")
POINTS_AT_RUNGS = 12
"""Settings placed at the rungs before the last one, half of those of a finished training: measuring takes as long as
training does."""
TABLES = Path(__file__).parent / "results" / "search_table"
HYPERPARAMETERS = (
    TableKnob(name="learning_rate", low=5e-4, high=1.2e-2, log=True),
    TableKnob(name="weight_decay", low=1e-6, high=3e-3, log=True),
    TableKnob(name="epochs", low=10, high=80, choices=(10, 20, 40, 80)),
    TableKnob(name="hidden", low=64, high=192, choices=(64, 128, 192)),
)
"""`hidden`: units of the level that sees most."""
DEFAULTS: Mapping[str, float] = {"learning_rate": 3e-3, "weight_decay": 1e-4, "epochs": 40, "hidden": 128}
"""Of anchors and published settings: those of the platform."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A row before it is trained."""

    number: int
    origin: str
    knobs: Mapping[str, float]


def knobs_of(method: str) -> tuple[TableKnob, ...]:
    """The dimensions of a method's table: its training knobs, then hyperparameters."""
    own = load_sweep_config([f"method={method}"]).method.training_knobs
    return (
        *(
            TableKnob(name=name, low=float(knob.low or 0), high=float(knob.high or 0), log=knob.log)
            for name, knob in own.items()
        ),
        *HYPERPARAMETERS,
    )


def planned(method: str, count: int) -> list[Planned]:
    """The first `count` rows of a method's table, the same whatever the count."""
    preset = load_sweep_config([f"method={method}"]).method
    ends = [
        {
            name: float((knob.high if (knob.cheapest == "low") == most_expensive else knob.low) or 0)
            for name, knob in preset.training_knobs.items()
        }
        for most_expensive in (True, False)
    ]
    first = [("anchor", each) for each in ends]
    first += [
        ("published", {name: float(value) for name, value in each.items()}) for each in preset.published
    ]
    rows = [Planned(number=i, origin=o, knobs={**each, **DEFAULTS}) for i, (o, each) in enumerate(first)]
    knobs = knobs_of(method)
    # Powers of two keep Sobol points balanced; more are drawn than are trained.
    units = qmc.Sobol(len(knobs), scramble=True, seed=METHODS.index(method)).random_base2(9)
    for unit in units:
        own = {knob.name: knob.value(float(u)) for knob, u in zip(knobs, unit, strict=True)}
        rows.append(Planned(number=len(rows), origin="drawn", knobs=own))
    return rows[:count]


def _model(method: str, knobs: Mapping[str, float]) -> dict[str, Any]:
    """Fields of the method's configuration."""
    preset = load_sweep_config([f"method={method}"]).method
    hidden = int(knobs["hidden"])
    sizes = (
        {"coarse_hidden": hidden // 4, "fine_hidden": hidden}
        if method == "lite_eval"
        else {"hidden": [hidden // 4, hidden // 2, hidden]}
    )
    own = {knob.field: knobs[name] for name, knob in preset.training_knobs.items()}
    return {**preset.model, **own, "network": sizes}


@final
class _Snapshots:
    """A trial's context that keeps the checkpoints after some epochs, or gives one of them.

    Arguments:
        folder: of the checkpoints, by their epochs.
        epochs: to keep.
        given: the epochs of the checkpoint to go on from.
    """

    rank, world_size = 0, 1

    def __init__(self, folder: Path, epochs: Sequence[int], given: int | None = None) -> None:
        self._folder, self._epochs, self._given = folder, epochs, given
        self.device = LocalContext().device

    def report(self, progress: Mapping[str, float], checkpoint: Path | None = None) -> None:
        """Keeps the checkpoint if it is one of those wanted."""
        epoch = int(progress["epoch"])
        if checkpoint is not None and epoch in self._epochs:
            shutil.copytree(checkpoint, self._folder / str(epoch), dirs_exist_ok=True)

    def get_checkpoint(self) -> Path | None:
        """What was given."""
        return None if self._given is None else self._folder / str(self._given)

    def heartbeat(self) -> bool:
        """Nobody asks it to end."""
        return False


def _curve(result: TrialResult | None) -> dict[str, list[tuple[float, float]]]:
    assert result is not None, "a single process has the result"
    return {
        "val": [(point.val.gflops, point.val.quality) for point in result.points],
        "test": [(point.test.gflops, point.test.quality) for point in result.points],
    }


def train_row(method: str, row: Planned, prepared: Prepared, folder: Path) -> None:
    """Trains one row and writes `METHOD-NUMBER.json`; nothing is done if it is there.

    Arguments:
        folder: of the rows.
    """
    path = folder / f"{method}-{row.number:04d}.json"
    if path.exists():
        return
    work = folder / "work" / f"{method}-{os.getpid()}"
    shutil.rmtree(work, ignore_errors=True)
    started, epochs = time.process_time(), int(row.knobs["epochs"])
    rungs = rung_epochs(epochs)
    config = TrialConfig(
        sweep="table",
        trial=f"{method}-{row.number:04d}",
        method=method,
        model=_model(method, row.knobs),
        training=TrainingConfig(
            epochs=epochs,
            learning_rate=row.knobs["learning_rate"],
            weight_decay=row.knobs["weight_decay"],
            checkpoint_every_epochs=math.gcd(*rungs),
        ),
        seed=row.number,
        dataset=str(prepared.dataset.root),
        features={source: str(each) for source, each in prepared.features.items()},
        output=str(work / "trial"),
    )
    last = run_trial(config, _Snapshots(work, rungs))
    # A trial that has as many epochs behind it as it is to have is only measured.
    earlier = [
        run_trial(
            replace(config, training=replace(config.training, epochs=rung), points=POINTS_AT_RUNGS),
            _Snapshots(work, (), given=rung),
        )
        for rung in rungs[:-1]
    ]
    document = {
        "number": row.number,
        "origin": row.origin,
        "knobs": dict(row.knobs),
        "curves": [_curve(result) for result in (*earlier, last)],
        "cpu_seconds": time.process_time() - started,
    }
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(document, allow_nan=False))
    partial.replace(path)
    shutil.rmtree(work)


def table_of(method: str, folder: Path) -> CurveTable:
    """All rows of a method that are trained."""
    documents = [json.loads(path.read_text()) for path in sorted(folder.glob(f"{method}-*.json"))]
    rows = (
        TableRow(**{name: each[name] for name in ("number", "origin", "knobs", "curves")})
        for each in documents
    )
    return CurveTable(method=method, knobs=knobs_of(method), rows=tuple(rows))


def measure(arguments: argparse.Namespace) -> Document:
    """Trains what is missing, packs the tables."""
    prepared = prepare(
        resolve_preparation(load_sweep_config([*arguments.overrides, "method=hcms"])), Progress(3)
    )
    folder = prepared.home.root / "benchmarks" / "search_table"
    folder.mkdir(parents=True, exist_ok=True)
    plans = {method: planned(method, arguments.rows) for method in METHODS}
    if not arguments.only_pack:
        for place in range(arguments.rows):
            for method in METHODS:
                train_row(method, plans[method][place], prepared, folder)
                print(f"\r{method} {place + 1}/{arguments.rows}", end="", flush=True)
        print()
    target = arguments.out / "search_table"
    target.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for method in METHODS:
        table_of(method, folder).pack(target / f"{method}.npz")
        for path in sorted(folder.glob(f"{method}-*.json")):
            each = json.loads(path.read_text())
            rows.append({"method": method, "cpu_seconds": each["cpu_seconds"], **_about_row(each)})
    return {"rows": rows, "dataset": prepared.dataset.fingerprint}


def _about_row(document: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of a row beside its curves."""
    last = document["curves"][-1]
    return {
        "row": document["number"],
        "origin": document["origin"],
        "epochs": int(document["knobs"]["epochs"]),
        "points": len(last["val"]),
        "map": last["test"][0][1],
        "gflops": last["test"][0][0],
    }


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=120, help="trainings of each method")
    parser.add_argument("--only-pack", action="store_true", help="trains nothing, packs what is there")
    parser.add_argument("overrides", nargs="*", help="home=..., as of paretovid sweep")


MEASUREMENTS = (
    Measurement(
        name="search_table",
        about="a table of real trainings of LiteEval and HCMS with their whole curves",
        measure=measure,
        arguments=_arguments,
        alone=("dataset",),
        page="search.md",
        layouts={"rows": Layout("rows.*", ("",))},
        shown=(
            Shown(
                "method, origin",
                "rows",
                ("method", "origin"),
                (
                    Cell("epochs", "mean epochs", only_mean=True, digits=1),
                    Cell("points", "points of a curve", only_mean=True, digits=1),
                    Cell("map", "test mAP at the default setting", percent=True, only_mean=True),
                    Cell("gflops", "test GFLOPs there", only_mean=True),
                    Cell("cpu_seconds", "CPU seconds", only_mean=True, digits=1),
                ),
            ),
        ),
        is_verbatim=True,
    ),
)
