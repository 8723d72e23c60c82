"""Sweeps in MLflow, so that `mlflow ui` reads without our documentation. Written by the driver only.

One experiment; a parent run per sweep; a child run per trial; a LoggedModel per operating point on or near
the front, its metrics linked to the data set. What is logged is read from the sweep's folder, and everything
is looked up by tags before it is made: calling again after a crash completes, and repeats nothing.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from paretovid.platform import report
from paretovid.platform.front import Front, FrontPoint
from paretovid.platform.home import Home
from paretovid.platform.mlflow_store import Store, StoreError, open_store, store_uri
from paretovid.platform.results import MAP, Measurement, SweepRecord, TrialRecord, knob_text
from paretovid.trainables.errors import NonFiniteError

if TYPE_CHECKING:
    from mlflow.entities import Metric

__all__ = ["StoreError", "Tracker", "log_sweep", "near_front", "open_store", "store_uri"]

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


@final
class Tracker:
    """Writes one sweep. Every method may be called again at any time."""

    def __init__(self, store: Store, sweep: SweepRecord) -> None:
        self.store = store
        self.client = store.client
        self.sweep = sweep.name
        self._digest: str | None = None
        with _store_errors(store, sweep.name):
            self.run_id = self._parent(sweep)

    def log_trials(self, trials: Sequence[TrialRecord]) -> None:
        """A finished child run per trial; those that are whole already are left alone.

        Raises `StoreError` if the store does not take it, `NonFiniteError` for NaN among the figures.
        """
        with _store_errors(self.store, self.sweep):
            known = self._children()
            for trial in trials:
                run = known.get(trial.trial)
                if run is None or run.data.tags.get("paretovid.complete") != "true":
                    self._log_trial(trial, None if run is None else run.info.run_id)

    def finish(self, sweep: SweepRecord, front: Front | None) -> None:
        """Logs what is new, the front's LoggedModels, figures and artifacts, and ends the parent run.

        Raises as `log_trials` does.
        """
        self.log_trials(sweep.trials)
        state = str(sweep.info.get("state", "finished"))
        with _store_errors(self.store, self.sweep):
            if sweep.info.get("failures"):
                text = json.dumps(sweep.info["failures"], indent=1)
                self._log_text(self.run_id, "failed-trials.json", text)
            if front is not None:
                self._log_models(front)
                self._log_front(front, sweep)
            for key, value in _sweep_tags(sweep).items():
                self.client.set_tag(self.run_id, key, value)
            status = {"failed": "FAILED", "interrupted": "KILLED", "running": "RUNNING"}
            self.client.set_terminated(self.run_id, status=status.get(state, "FINISHED"))

    def _search(self, condition: str) -> list[Any]:
        found: list[Any] = []
        token = None
        while True:
            page = self.client.search_runs(
                [self.store.experiment_id], filter_string=condition, max_results=1000, page_token=token
            )
            found += page
            token = page.token
            if not token:
                return found

    def _parent(self, sweep: SweepRecord) -> str:
        found = self._search(f"tags.`paretovid.sweep` = '{sweep.name}' AND tags.`paretovid.kind` = 'sweep'")
        if found:
            return str(found[0].info.run_id)
        tags = {**_sweep_tags(sweep), "paretovid.kind": "sweep"}
        tags["mlflow.note.content"] = f"Sweep {sweep.name}: running or interrupted; trials are nested below."
        run = self.client.create_run(self.store.experiment_id, tags=tags, run_name=sweep.name)
        self._log_batch(run.info.run_id, {}, params=_flat(sweep.info.get("config") or {}))
        self._log_text(run.info.run_id, "config.yaml", _yaml(sweep.info.get("config") or {}))
        self._log_text(run.info.run_id, "environment.json", json.dumps(environment(), indent=1))
        return str(run.info.run_id)

    def _children(self) -> dict[str, Any]:
        condition = f"tags.`mlflow.parentRunId` = '{self.run_id}' AND tags.`paretovid.kind` = 'trial'"
        return {run.data.tags["paretovid.trial"]: run for run in self._search(condition)}

    def _log_trial(self, trial: TrialRecord, run_id: str | None) -> None:
        natural = trial.natural_point()
        if run_id is None:
            tags = {**_trial_tags(trial), "mlflow.parentRunId": self.run_id}
            tags["mlflow.note.content"] = _trial_note(trial)
            run_id = self.client.create_run(
                self.store.experiment_id, tags=tags, run_name=_trial_name(trial)
            ).info.run_id
        figures = _figures(natural.val, natural.test)
        figures |= {"seconds": trial.seconds, "points": float(len(trial.points))}
        params = {**trial.training_knobs, **_flat(trial.model, "model."), "seed": trial.seed}
        history = [
            (f"train/{name}", value, epoch)
            for epoch, parts in enumerate(trial.training.get("history") or [])
            for name, value in parts.items()
        ]
        self._log_batch(run_id, figures, params={k: str(v) for k, v in params.items()}, series=history)
        self._log_inputs(run_id, trial)
        self.client.set_tag(run_id, "paretovid.complete", "true")
        self.client.set_terminated(run_id)

    def _log_inputs(self, run_id: str, trial: TrialRecord) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(
                dataset=Dataset(
                    name=_dataset_name(trial, split),
                    digest=trial.data["fingerprint"],
                    source_type="local",
                    source=json.dumps({"data": trial.data["name"], "split": split}),
                ),
                tags=[InputTag("mlflow.data.context", "validation" if split == "val" else split)],
            )
            for split in ("train", "val", "test")
        ]
        self.client.log_inputs(run_id, inputs)

    def _log_models(self, front: Front) -> None:
        children = self._children()
        known = self._models()
        chosen = near_front(front)
        points_run = self._points_run()
        for place, point in enumerate(sorted(chosen, key=lambda p: p.record.val.gflops)):
            model = known.get(point.id)
            tags = {"paretovid.on_front": str(point.on_front).lower()}
            tags["paretovid.knee"] = str((point.trial.sweep, point.id) == front.knee_id).lower()
            if model is not None and model.tags.get("paretovid.complete") == "true":
                self.client.set_logged_model_tags(model.model_id, tags)
            elif point.trial.trial in children:
                run_id = children[point.trial.trial].info.run_id
                model_id = self._logged_model(point, run_id, tags) if model is None else model.model_id
                self._log_model_metrics(point, points_run, model_id, place)
        self.client.set_terminated(points_run)
        chosen_ids = {point.id for point in chosen}
        for point_id, model in known.items():  # a resumed sweep may have pushed a point off the front
            if point_id not in chosen_ids and model.tags.get("paretovid.on_front") == "true":
                self.client.set_logged_model_tags(model.model_id, {"paretovid.on_front": "false"})

    def _models(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        token = None
        condition = f"tags.`paretovid.sweep` = '{self.sweep}' AND tags.`paretovid.kind` = 'operating_point'"
        while True:
            page = self.client.search_logged_models(
                [self.store.experiment_id], filter_string=condition, max_results=100, page_token=token
            )
            found |= {model.tags["paretovid.point"]: model for model in page}
            token = page.token
            if not token:
                return found

    def _points_run(self) -> str:
        """The nested run that the LoggedModels' metrics are written through.

        MLflow writes a model's metric to a run as well; the trials' own figures would be overwritten.
        """
        condition = f"tags.`mlflow.parentRunId` = '{self.run_id}' AND tags.`paretovid.kind` = 'points'"
        if found := self._search(condition):
            return str(found[0].info.run_id)
        tags = {
            "paretovid.kind": "points",
            "paretovid.sweep": self.sweep,
            "mlflow.parentRunId": self.run_id,
            "mlflow.note.content": "Figures of the operating points on and near the front, a step each, "
            "cheapest first; each belongs to a model (tab Models), which knows its trial and knobs.",
        }
        run = self.client.create_run(self.store.experiment_id, tags=tags, run_name="operating points")
        return str(run.info.run_id)

    def _logged_model(self, point: FrontPoint, run_id: str, tags: Mapping[str, str]) -> str:
        knobs = {**point.trial.training_knobs, **point.record.inference_knobs}
        model = self.client.create_logged_model(
            self.store.experiment_id,
            name=f"{point.trial.method}-{point.id}",
            source_run_id=run_id,
            model_type="operating_point",
            tags={**_trial_tags(point.trial), **tags, **_point_tags(point)},
            params={name: str(value) for name, value in knobs.items()},
        )
        return str(model.model_id)

    def _log_model_metrics(self, point: FrontPoint, run_id: str, model_id: str, step: int) -> None:
        from mlflow.entities import LoggedModelStatus

        metrics: list[Metric] = []
        for split, measured in (("val", point.record.val), ("test", point.record.test)):
            dataset = (_dataset_name(point.trial, split), point.trial.data["fingerprint"])
            figures = {f"{split}/{name}": value for name, value in measured.numbers().items()}
            if split == "test":
                figures |= _main_figures(measured)
            metrics += _metrics(figures, step=step, run_id=run_id, model_id=model_id, dataset=dataset)
        self.client.log_batch(run_id, metrics=metrics)
        self.client.finalize_logged_model(model_id, LoggedModelStatus.READY)
        self.client.set_logged_model_tags(model_id, {"paretovid.complete": "true"})

    def _log_front(self, front: Front, sweep: SweepRecord) -> None:
        chosen = front.front
        figures = {
            "hypervolume": front.hypervolume,
            "front_points": float(len(chosen)),
            "trials": float(len(sweep.trials)),
            f"best_{front.objective}": max(p.shown.quality for p in chosen),
            "cheapest_gflops": min(p.shown.gflops for p in chosen),
        }
        self._log_batch(self.run_id, figures)
        table = report.front_table(front)
        with tempfile.TemporaryDirectory() as folder:
            report.write_png(front, Path(folder) / "front.png")
            report.write_html(front, Path(folder) / "front.html")
            (Path(folder) / "front.txt").write_text(table + "\n")
            (Path(folder) / "front.json").write_text(json.dumps(front.to_json(), indent=1, allow_nan=False))
            self.client.log_artifacts(self.run_id, folder, "front")
        self.client.set_tag(self.run_id, "mlflow.note.content", _sweep_note(front, table))

    def _log_text(self, run_id: str, name: str, text: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / name).write_text(text)
            self.client.log_artifact(run_id, str(Path(folder) / name))

    def _log_batch(
        self,
        run_id: str,
        figures: Mapping[str, float],
        params: Mapping[str, str] | None = None,
        series: Sequence[tuple[str, float, int]] = (),
    ) -> None:
        from mlflow.entities import Param

        metrics = _metrics(figures)
        for name, value, step in series:
            metrics += _metrics({name: value}, step=step)
        pairs = [Param(name, value[:500]) for name, value in (params or {}).items()]
        for start in range(0, max(len(metrics), 1), 500):
            part = pairs[:100] if start == 0 else []
            self.client.log_batch(run_id, metrics=metrics[start : start + 500], params=part)


def log_sweep(home: Home, sweep: SweepRecord, front: Front | None, uri: str | None = None) -> str:
    """Everything about a sweep in one call; again at any time. Returns the parent run's id.

    Raises `StoreError` if the store cannot be used. What is on disk is complete without it.
    """
    tracker = Tracker(open_store(home, uri), sweep)
    tracker.finish(sweep, front)
    return tracker.run_id


@contextlib.contextmanager
def _store_errors(store: Store, sweep: str) -> Iterator[None]:
    """MLflow's errors as one that says that nothing is lost."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        raise StoreError(
            f"MLflow at {store.uri} did not take sweep {sweep}: {error}",
            "The sweep's results are whole in its folder; the same `paretovid sweep` command logs them again.",
        ) from error


def near_front(front: Front) -> list[FrontPoint]:
    """The points on the front and those at most `NEAR_MAP` below it on validation; at most `MAX_MODELS`."""
    chosen = list(front.front)

    def behind(point: FrontPoint) -> float:
        reachable = [p.record.val.quality for p in chosen if p.record.val.gflops <= point.record.val.gflops]
        return max(reachable) - point.record.val.quality if reachable else math.inf

    near = [(behind(p), p) for p in front.points if not p.on_front]
    near = sorted((pair for pair in near if pair[0] <= NEAR_MAP), key=lambda pair: (pair[0], pair[1].id))
    return [*chosen, *(p for _, p in near)][:MAX_MODELS]


def _metrics(
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


def _main_figures(measured: Measurement) -> dict[str, float]:
    """What an operating point is judged by, under names without a split."""
    names = ("map", "top1", "gflops") if measured.objective == MAP else (measured.objective, "gflops")
    return {name: value for name, value in measured.numbers().items() if name in names}


def _figures(val: Measurement, test: Measurement) -> dict[str, float]:
    figures = _main_figures(test)
    for split, measured in (("val", val), ("test", test)):
        figures |= {f"{split}/{name}": value for name, value in measured.numbers().items()}
        figures |= {f"{split}/calls/{name}": count for name, count in measured.calls.items()}
    return figures


def _dataset_name(trial: TrialRecord, split: str) -> str:
    return f"{trial.data['name']}-{split}"


def _sweep_tags(sweep: SweepRecord) -> dict[str, str]:
    names = ("method", "data", "code_version", "state", "seed", "created")
    return {
        "paretovid.sweep": sweep.name,
        **{f"paretovid.{name}": str(sweep.info[name]) for name in names if name in sweep.info},
    }


def _trial_tags(trial: TrialRecord) -> dict[str, str]:
    return {
        "paretovid.kind": "trial",
        "paretovid.sweep": trial.sweep,
        "paretovid.trial": trial.trial,
        "paretovid.method": trial.method,
        "paretovid.baseline": str(trial.is_baseline).lower(),
        "paretovid.knobs": json.dumps(trial.training_knobs),
        "paretovid.data": f"{trial.data['name']}@{trial.data['fingerprint']}",
        "paretovid.features": json.dumps(trial.data.get("features", {})),
        "paretovid.code_version": trial.code_version,
        "paretovid.accounting": trial.accounting,
        "paretovid.seed": str(trial.seed),
    }


def _point_tags(point: FrontPoint) -> dict[str, str]:
    return {
        "paretovid.kind": "operating_point",
        "paretovid.point": point.id,
        "paretovid.inference_knobs": json.dumps(point.record.inference_knobs),
    }


def _trial_name(trial: TrialRecord) -> str:
    knobs = " ".join(f"{name}={knob_text(value, 3)}" for name, value in trial.training_knobs.items())
    return " ".join(part for part in (trial.trial, trial.method, knobs) if part)


def _trial_note(trial: TrialRecord) -> str:
    return (
        f"One training of {trial.method}{' (baseline)' if trial.is_baseline else ''} with "
        f"{len(trial.points)} operating points. `{trial.objective}` and `gflops` are those of its natural "
        "operating point on the test split (fractions; giga multiply-accumulates per video); `val/…` is what "
        "the search was told."
    )


def _sweep_note(front: Front, table: str) -> str:
    return (
        f"Sweep **{', '.join(front.sweeps)}**: quality (`{front.objective}`) against cost (GFLOPs per video, giga "
        "multiply-accumulates).\n\nArtifacts: `front/front.html` (with hover), `front/front.png`. "
        "Models: one per operating point on or near the front. Nested runs: one per trial.\n\n"
        f"```\n{table}\n```\n"
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            flat[f"{prefix}{name}"] = json.dumps(value)
        else:
            flat[f"{prefix}{name}"] = str(value)
    return flat


def _yaml(values: Mapping[str, Any]) -> str:
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
