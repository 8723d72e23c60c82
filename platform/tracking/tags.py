"""What a sweep is in MLflow's words: names, tags, figures and notes. Nothing here talks to a store."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import math
import sys
import time
from collections.abc import Container, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from paretovid.platform.fronts.confirmation import Confirmation
from paretovid.platform.fronts.front import Front, FrontPoint
from paretovid.platform.records.journal import FailedStart
from paretovid.platform.records.trial import SweepResults, knob_text
from paretovid.platform.storage.trial_names import confirmed_trial
from paretovid.trainables.context import Learning
from paretovid.trainables.errors import NonFiniteError
from paretovid.trainables.evaluation.pareto import Reference, hypervolume
from paretovid.trainables.evaluation.results import MAP, Metrics, TrialResult

if TYPE_CHECKING:
    from mlflow.entities import Metric

Figure: TypeAlias = tuple[str, float, int]
"""A metric's name, value and step."""
NEAR_MAP = 0.01
"""A point whose mAP on validation is at most this far below the front at its cost is near it."""
MAX_MODELS = 50
"""LoggedModels per sweep; those on the front first."""
VERSIONS_OF = (
    "torch",
    "torchvision",
    "pytorchvideo",
    "av",
    "opencv-python-headless",
    "numpy",
    "safetensors",
    "ray",
    "optuna",
    "mlflow",
)


def near_front(front: Front) -> list[FrontPoint]:
    """The points on the front and those at most `NEAR_MAP` below it on validation; at most `MAX_MODELS`."""
    chosen = list(front.front)

    def behind(point: FrontPoint) -> float:
        reachable = [p.record.val.quality for p in chosen if p.record.val.gflops <= point.record.val.gflops]
        return max(reachable) - point.record.val.quality if reachable else math.inf

    near = [(behind(p), p) for p in front.points if not p.on_front]
    near = sorted((pair for pair in near if pair[0] <= NEAR_MAP), key=lambda pair: (pair[0], pair[1].id))
    return [*chosen, *(p for _, p in near)][:MAX_MODELS]


def metrics_of(
    figures: Mapping[str, float],
    *,
    step: int = 0,
    run_id: str | None = None,
    model_id: str | None = None,
    dataset: tuple[str, str] | None = None,
) -> list[Metric]:
    """MLflow metrics. Raises `NonFiniteError` before any is written: the store would turn NaN into 0."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    linked: dict[str, Any] = {"model_id": model_id, "run_id": run_id} if model_id else {}
    if dataset is not None:
        linked |= {"dataset_name": dataset[0], "dataset_digest": dataset[1]}
    for name, value in figures.items():
        if not math.isfinite(value):
            raise NonFiniteError(f"metric {name} is {value}", "It was not logged; find out what made it.")
    return [Metric(_metric_name(name), float(value), now, step, **linked) for name, value in figures.items()]


def _metric_name(name: str) -> str:
    # Components are named `net@64`; MLflow allows letters, digits and _-. :/ in a metric's name.
    return name.replace("@", "_at_")


def main_figures(measured: Metrics) -> dict[str, float]:
    """What an operating point is judged by, under names without a split."""
    names = ("map", "top1", "gflops") if measured.objective == MAP else (measured.objective, "gflops")
    return {name: value for name, value in measured.numbers().items() if name in names}


def trial_figures(val: Metrics, test: Metrics) -> dict[str, float]:
    figures = main_figures(test)
    for split, measured in (("val", val), ("test", test)):
        figures |= {f"{split}/{name}": value for name, value in measured.numbers().items()}
        figures |= {f"{split}/calls/{name}": count for name, count in measured.calls.items()}
    return figures


def dataset_name(trial: TrialResult, split: str) -> str:
    return f"{trial.data.name}-{split}"


UID_TAG = "paretovid.uid"
TRIAL_KINDS = ("trial", "confirmation")
"""What a run of one training is: a trial of the sweep, or a training that confirms one with another seed."""


def _kind(name: str) -> dict[str, str]:
    confirmed = confirmed_trial(name)
    if not confirmed:
        return {"paretovid.kind": "trial"}
    return {"paretovid.kind": "confirmation", "paretovid.confirms": confirmed}


def confirmation_tag(confirmation: Confirmation) -> str:
    """Means and spreads over seeds, and the seeds, as JSON; each seed's own figures are in its run."""
    document = confirmation.to_json()
    figures = {name: value for name, value in document.items() if name not in ("seeds", "failed", "to_come")}
    seeds = [each.seed for each in confirmation.seeds]
    return json.dumps({**figures, "seeds": seeds, "failed": list(confirmation.failed)})


def sweep_tags(sweep: SweepResults) -> dict[str, str]:
    record = sweep.record
    values = {
        "uid": record.uid,
        "method": record.method,
        "data": record.data,
        "code_version": record.code_version,
        "state": record.state,
        "seed": str(record.seed),
        "created": record.created,
    }
    # A record of an earlier version may lack some: no tag, rather than an empty one.
    return {"paretovid.sweep": sweep.name} | {
        f"paretovid.{name}": value for name, value in values.items() if value
    }


def trial_tags(trial: TrialResult) -> dict[str, str]:
    return {
        **_kind(trial.trial),
        "paretovid.sweep": trial.sweep,
        "paretovid.trial": trial.trial,
        "paretovid.method": trial.method,
        "paretovid.baseline": str(trial.is_baseline).lower(),
        "paretovid.knobs": json.dumps(trial.training_knobs),
        "paretovid.data": str(trial.data),
        "paretovid.features": json.dumps(trial.data.features),
        "paretovid.code_version": trial.code_version,
        "paretovid.accounting": trial.accounting,
        "paretovid.seed": str(trial.seed),
    }


def failure_tags(sweep: str, trial: str, failed: FailedStart) -> dict[str, str]:
    """Tags of a trial that has no result."""
    return {
        **running_tags(sweep, trial, failed.method, failed.knobs),
        "paretovid.baseline": str(failed.is_baseline).lower(),
        "paretovid.reason": failed.reason[:500],
        "mlflow.note.content": f"This trial failed for good: {failed.reason}",
    }


def running_tags(sweep: str, trial: str, method: str, knobs: Mapping[str, float | str]) -> dict[str, str]:
    """Tags of a trial that has no result yet, or none at all."""
    return {
        **_kind(trial),
        "paretovid.sweep": sweep,
        "paretovid.trial": trial,
        "paretovid.method": method,
        "paretovid.baseline": str(not knobs).lower(),
        "paretovid.knobs": json.dumps(dict(knobs)),
    }


def learning_figures(learning: Learning, epochs: Container[int], rungs: Container[int]) -> list[Figure]:
    """What a training has measured of itself: `train/...` by epoch, from 0, and `rung/...` at the epochs of its rungs.

    `rung/quality` and `rung/gflops` are those of its default setting on validation; `rung/hypervolume` is that of its
    curve, from quality 0 and its own most expensive point.

    Arguments:
        epochs, rungs: steps that are left out, as the store has them.
    """
    found = [
        (f"train/{name}", value, epoch)
        for epoch, parts in enumerate(learning.history)
        if epoch not in epochs
        for name, value in parts.items()
    ]
    for rung in learning.rungs:
        if rung.epoch not in rungs and rung.points:
            qualities, costs = [q for q, _ in rung.points], [cost for _, cost in rung.points]
            covered = hypervolume(costs, qualities, Reference(gflops=max(costs)))
            figures = {"quality": qualities[0], "gflops": costs[0], "hypervolume": covered}
            found += [(f"rung/{name}", value, rung.epoch) for name, value in figures.items()]
    return found


def point_tags(point: FrontPoint) -> dict[str, str]:
    return {
        "paretovid.kind": "operating_point",
        "paretovid.point": point.id,
        "paretovid.inference_knobs": json.dumps(point.record.inference_knobs),
    }


def trial_name(trial: TrialResult) -> str:
    knobs = " ".join(f"{name}={knob_text(value, 3)}" for name, value in trial.training_knobs.items())
    return " ".join(part for part in (trial.trial, trial.method, knobs) if part)


def trial_note(trial: TrialResult) -> str:
    if trial.confirms:
        return (
            f"{trial.confirms} trained again with seed {trial.seed} and measured at the same inference settings. It is "
            "no trial of the search, and none of its points is on the front. Figures as of a trial's run."
        )
    return (
        f"One training of {trial.method}{' (baseline)' if trial.is_baseline else ''} with "
        f"{len(trial.points)} operating points. `{trial.objective}` and `gflops` are those of its default "
        "operating point on the test split (fractions; giga multiply-accumulates per video); `val/…` is what "
        "the search sees."
    )


def sweep_note(front: Front, table: str) -> str:
    return (
        f"Sweep **{', '.join(front.sweeps)}**: quality (`{front.objective}`) against cost (GFLOPs per video, giga "
        "multiply-accumulates).\n\nArtifacts: `front/front.html` (with hover), `front/front.png`. "
        "Models: one per operating point on or near the front. Nested runs: one per trial.\n\n"
        + (f"```\n{table}\n```\n" if table else "")
    )


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    texts: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            texts |= flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            texts[f"{prefix}{name}"] = json.dumps(value)
        else:
            texts[f"{prefix}{name}"] = str(value)
    return texts


def yaml_text(values: Mapping[str, Any]) -> str:
    import yaml  # MLflow and Hydra both bring it

    text: str = yaml.safe_dump(json.loads(json.dumps(values)), sort_keys=False)
    return text


def environment() -> dict[str, str]:
    """Python and the versions of the packages that matter for a result."""
    found = {"python": sys.version.split()[0]}
    for name in VERSIONS_OF:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
