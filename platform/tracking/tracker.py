"""Sweeps in MLflow, so that `mlflow ui` reads without our documentation. Written by the driver only.

One experiment; a parent run per sweep; a child run per trial; a LoggedModel per operating point on or near
the front, its metrics linked to the data set. What is logged is read from the sweep's folder, and everything
is looked up by tags before it is made: calling again after a crash completes, and repeats nothing.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from paretovid.platform.fronts.front import Front, FrontPoint
from paretovid.platform.records.front_files import FRONT_FILES, TABLE
from paretovid.platform.records.journal import FailedStart, StoppedStart
from paretovid.platform.records.trial import SweepResults, knob_text
from paretovid.platform.storage.home import Home
from paretovid.platform.tracking.store import Store, StoreError, open_store, store_uri
from paretovid.platform.tracking.tags import (
    TRIAL_KINDS,
    UID_TAG,
    confirmation_tag,
    dataset_name,
    environment,
    failure_tags,
    flat,
    learning_figures,
    main_figures,
    metrics_of,
    near_front,
    point_tags,
    running_tags,
    sweep_note,
    sweep_tags,
    trial_figures,
    trial_name,
    trial_note,
    trial_tags,
    yaml_text,
)
from paretovid.trainables.context import Learning
from paretovid.trainables.evaluation.results import TrialResult

if TYPE_CHECKING:
    from mlflow.entities import Metric

__all__ = ["StoreError", "Tracker", "log_sweep", "open_store", "store_uri"]


METRICS_PER_REQUEST = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class _Child:
    run_id: str
    is_complete: bool
    is_running: bool = False


@final
class Tracker:
    """Writes one sweep. Every method may be called again at any time."""

    def __init__(self, store: Store, sweep: SweepResults) -> None:
        self.store = store
        self.client = store.client
        self.sweep = sweep.name
        self._uid = sweep.record.uid
        self._known: dict[str, _Child] | None = None
        self._sent: dict[str, tuple[set[int], set[int]]] = {}
        """Trial to the epochs and rungs that its run has."""
        with _store_errors(store, sweep.name):
            self.run_id = self._parent(sweep)

    def log_learning(
        self, trial: str, method: str, knobs: Mapping[str, float | str], learning: Learning
    ) -> None:
        """What a running trial has measured of itself, in a child run that is running. What the run has already is not
        sent again; one that has ended is left alone."""
        with _store_errors(self.store, self.sweep):
            children = self._children()
            child = children.get(trial)
            if child is not None and child.is_complete:
                return
            if child is None:
                tags = {**running_tags(self.sweep, trial, method, knobs), "mlflow.parentRunId": self.run_id}
                tags["mlflow.note.content"] = "This trial is being trained."
                name = " ".join([trial, method, *(f"{k}={knob_text(v, 3)}" for k, v in knobs.items())])
                run = self.client.create_run(self.store.experiment_id, tags=tags, run_name=name)
                child = _Child(run_id=str(run.info.run_id), is_complete=False, is_running=True)
            elif not child.is_running:
                self.client.update_run(child.run_id, status="RUNNING")
                child = replace(child, is_running=True)
            children[trial] = child
            self._log_series(child.run_id, trial, learning)

    def log_stopped(self, trial: str, stopped: StoppedStart, learning: Learning | None) -> None:
        """A child run that was KILLED at a rung, with what it has measured until then."""
        with _store_errors(self.store, self.sweep):
            children = self._children()
            child = children.get(trial)
            if child is not None and child.is_complete:
                return
            where = f"epoch {stopped.epoch} of {stopped.epochs}"
            if child is None:
                tags = running_tags(self.sweep, trial, stopped.method, stopped.knobs)
                tags["mlflow.parentRunId"] = self.run_id
                run = self.client.create_run(
                    self.store.experiment_id, tags=tags, run_name=f"{trial} stopped at {where}"
                )
                child = _Child(run_id=str(run.info.run_id), is_complete=False)
            knobs = {name: str(value) for name, value in stopped.knobs.items()}
            self._log_batch(child.run_id, {}, params=knobs)
            if learning is not None:
                self._log_series(child.run_id, trial, learning)
            note = f"Stopped at a rung, at {where}: its curve was in the lower part of those measured there."
            self._set_tags(child.run_id, {"paretovid.stopped": where, "mlflow.note.content": note})
            self.client.set_terminated(child.run_id, status="KILLED")
            self.client.set_tag(child.run_id, "paretovid.complete", "true")
            children[trial] = _Child(run_id=child.run_id, is_complete=True)

    def _log_series(self, run_id: str, trial: str, learning: Learning) -> None:
        epochs, rungs = self._steps(run_id, trial)
        self._log_batch(run_id, {}, series=learning_figures(learning, epochs, rungs))
        epochs.update(range(len(learning.history)))
        rungs.update(rung.epoch for rung in learning.rungs)

    def _steps(self, run_id: str, trial: str) -> tuple[set[int], set[int]]:
        """The epochs and rungs that a trial's run has. Looked up once, as an earlier driver may have sent them."""
        if trial not in self._sent:
            epochs, rungs = (
                {int(metric.step) for metric in self.client.get_metric_history(run_id, name)}
                for name in ("train/loss", "rung/quality")
            )
            self._sent[trial] = epochs, rungs
        return self._sent[trial]

    def log_trials(
        self, trials: Sequence[TrialResult], learning: Mapping[str, Learning] | None = None
    ) -> None:
        """A finished child run per trial; those that are whole already are left alone.

        Arguments:
            learning: what trials have measured at their rungs, which their results do not hold.

        Raises `StoreError` if the store does not take it, `NonFiniteError` for NaN among the figures.
        """
        with _store_errors(self.store, self.sweep):
            children = self._children()
            for trial in trials:
                child = children.get(trial.trial)
                if child is None or not child.is_complete:
                    rungs = (learning or {}).get(trial.trial)
                    run_id = self._log_trial(trial, None if child is None else child.run_id, rungs)
                    children[trial.trial] = _Child(run_id=run_id, is_complete=True)

    def log_failure(self, trial: str, failed: FailedStart) -> None:
        """A child run that FAILED, with the reason as a tag, for a trial that has no result."""
        with _store_errors(self.store, self.sweep):
            children = self._children()
            child = children.get(trial)
            if child is not None and child.is_complete:
                return
            tags = failure_tags(self.sweep, trial, failed)
            if child is None:
                tags["mlflow.parentRunId"] = self.run_id
                run = self.client.create_run(
                    self.store.experiment_id, tags=tags, run_name=f"{trial} failed: {failed.reason[:80]}"
                )
                child = _Child(run_id=str(run.info.run_id), is_complete=False)
                children[trial] = child
            knobs = {name: str(value) for name, value in failed.knobs.items()}
            self._log_batch(child.run_id, {}, params=knobs)
            self.client.set_tag(child.run_id, "paretovid.reason", failed.reason[:500])
            self.client.set_terminated(child.run_id, status="FAILED")

    def begin(self) -> None:
        """The parent run is running, again if it had ended."""
        with _store_errors(self.store, self.sweep):
            self.client.update_run(self.run_id, status="RUNNING")
            self.client.set_tag(self.run_id, "paretovid.state", "running")

    def finish(self, sweep: SweepResults, front: Front | None, state: str | None = None) -> None:
        """Logs what is new, the front's LoggedModels and figures, and ends the parent run.

        The front's pictures, table and document are uploaded as the sweep has rendered them into its folder.

        Arguments:
            state: the sweep's; None: as its record says.

        Raises as `log_trials` does.
        """
        self._known = None  # looked up again: what a lost answer has made twice is discarded
        self.log_trials((*sweep.trials, *sweep.confirmations))
        state = state or sweep.record.state
        with _store_errors(self.store, self.sweep):
            if sweep.record.failures:
                text = json.dumps(dict(sweep.record.failures), indent=1)
                self._log_text(self.run_id, "failed-trials.json", text)
            if front is not None:
                self._log_models(front)
                self._log_front(front, sweep)
            self._set_tags(self.run_id, {**sweep_tags(sweep), "paretovid.state": state})
            if state != "running":
                self._end_followed()
            status = {"failed": "FAILED", "interrupted": "KILLED", "running": "RUNNING"}
            self.client.set_terminated(self.run_id, status=status.get(state, "FINISHED"))

    def _end_followed(self) -> None:
        """The runs of trials that were followed and have not come to an end; they run again when the sweep does."""
        children = self._children()
        for trial, child in list(children.items()):
            if child.is_running and not child.is_complete:
                self.client.set_terminated(child.run_id, status="KILLED")
                children[trial] = replace(child, is_running=False)

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

    def _parent(self, sweep: SweepResults) -> str:
        found = self._search(f"tags.`paretovid.sweep` = '{sweep.name}' AND tags.`paretovid.kind` = 'sweep'")
        run = self._only([run for run in found if self._is_ours(run.data.tags)])
        if run is None:
            tags = {**sweep_tags(sweep), "paretovid.kind": "sweep"}
            tags["mlflow.note.content"] = f"Sweep {sweep.name}: running or interrupted; trials are below."
            run = self.client.create_run(self.store.experiment_id, tags=tags, run_name=sweep.name)
        run_id = str(run.info.run_id)
        if run.data.tags.get("paretovid.described") != "true":
            config = sweep.record.config
            self._log_batch(run_id, {}, params=flat(config))
            self._log_text(run_id, "config.yaml", yaml_text(config))
            self._log_text(run_id, "environment.json", json.dumps(environment(), indent=1))
            self.client.set_tag(run_id, "paretovid.described", "true")
        return run_id

    def _is_ours(self, tags: Mapping[str, str]) -> bool:
        """Whether something of a sweep of this name is of this sweep: a server may be shared by several homes."""
        return tags.get(UID_TAG, self._uid) == self._uid

    def _only(self, runs: Sequence[Any]) -> Any:
        """The first of the runs for one thing. More than one are there if the store has made a run and its
        answer was lost; those that came later are discarded."""
        if not runs:
            return None
        is_whole = {id(run): _is_complete(run) for run in runs}
        kept, *others = sorted(runs, key=lambda run: (not is_whole[id(run)], run.info.start_time))
        for other in others:
            self.client.delete_run(other.info.run_id)
        return kept

    def _children(self) -> dict[str, _Child]:
        """Trial to its run. Looked up once: with many trials that takes longer than notifying of one."""
        if self._known is None:
            found: dict[str, list[Any]] = {}
            for run in self._search(f"tags.`mlflow.parentRunId` = '{self.run_id}'"):
                if run.data.tags.get("paretovid.kind") in TRIAL_KINDS:
                    found.setdefault(run.data.tags["paretovid.trial"], []).append(run)
            self._known = {
                trial: _Child(
                    run_id=str(run.info.run_id),
                    is_complete=_is_complete(run),
                    is_running=run.info.status == "RUNNING",
                )
                for trial, runs in found.items()
                if (run := self._only(runs)) is not None
            }
        return self._known

    def _log_trial(self, trial: TrialResult, run_id: str | None, learning: Learning | None) -> str:
        default = trial.default_point
        tags = {**trial_tags(trial), "mlflow.note.content": trial_note(trial)}
        if run_id is None:
            tags["mlflow.parentRunId"] = self.run_id
            run = self.client.create_run(self.store.experiment_id, tags=tags, run_name=trial_name(trial))
            run_id = str(run.info.run_id)
            self._sent[trial.trial] = set(), set()
        else:  # of a start that failed, or followed while it was trained
            self._set_tags(run_id, tags)
            self.client.update_run(run_id, name=trial_name(trial))
        figures = trial_figures(default.val, default.test)
        figures |= {"seconds": trial.seconds, "points": float(len(trial.points))}
        trained = flat(trial.training_config, "training.")
        params = {**trial.training_knobs, **flat(trial.model, "model."), **trained, "seed": trial.seed}
        rungs = () if learning is None else learning.rungs
        whole = Learning(epochs=len(trial.history), history=trial.history, rungs=rungs)
        series = learning_figures(whole, *self._steps(run_id, trial.trial))
        self._log_batch(run_id, figures, params={k: str(v) for k, v in params.items()}, series=series)
        self._log_inputs(run_id, trial)
        # In this order: a driver killed in between must not leave a run that is complete and runs for ever.
        self.client.set_terminated(run_id)
        self.client.set_tag(run_id, "paretovid.complete", "true")
        return str(run_id)

    def _log_inputs(self, run_id: str, trial: TrialResult) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(
                dataset=Dataset(
                    name=dataset_name(trial, split),
                    digest=trial.data.fingerprint,
                    source_type="local",
                    source=json.dumps({"data": trial.data.name, "split": split}),
                ),
                tags=[InputTag("mlflow.data.context", "validation" if split == "val" else split)],
            )
            for split in ("train", "val", "test")
        ]
        self.client.log_inputs(run_id, inputs)

    def _log_models(self, front: Front) -> None:
        """The figures of all models go in one request: a server answers some ten a second, one with users fewer."""
        from mlflow.entities import LoggedModelStatus

        children, known, chosen = self._children(), self._models(), near_front(front)
        points_run, metrics, begun = self._points_run(), [], []
        for place, point in enumerate(sorted(chosen, key=lambda p: p.record.val.gflops)):
            model = known.get(point.id)
            tags = {"paretovid.on_front": str(point.on_front).lower()}
            tags["paretovid.knee"] = str((point.trial.sweep, point.id) == front.knee_id).lower()
            if point.confirmation is not None:
                tags["paretovid.confirmation"] = confirmation_tag(point.confirmation)
            if model is not None and model.status == LoggedModelStatus.READY:
                self._set_model_tags(model, tags)
            elif point.trial.trial in children:
                run_id = children[point.trial.trial].run_id
                model_id = self._logged_model(point, run_id, tags) if model is None else model.model_id
                metrics += _model_metrics(point, points_run, model_id, place)
                begun.append(model_id)
        for start in range(0, len(metrics), METRICS_PER_REQUEST):
            self.client.log_batch(points_run, metrics=metrics[start : start + METRICS_PER_REQUEST])
        for model_id in begun:  # ready is what has its figures
            self.client.finalize_logged_model(model_id, LoggedModelStatus.READY)
        self.client.set_terminated(points_run)
        chosen_ids = {point.id for point in chosen}
        for point_id, model in known.items():  # a resumed sweep may have pushed a point off the front
            if point_id not in chosen_ids:
                self._set_model_tags(model, {"paretovid.on_front": "false"})

    def _set_model_tags(self, model: Any, tags: Mapping[str, str]) -> None:
        if any(model.tags.get(name) != value for name, value in tags.items()):
            self.client.set_logged_model_tags(model.model_id, dict(tags))

    def _models(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        token = None
        condition = f"tags.`paretovid.sweep` = '{self.sweep}' AND tags.`paretovid.kind` = 'operating_point'"
        while True:
            page = self.client.search_logged_models(
                [self.store.experiment_id], filter_string=condition, max_results=100, page_token=token
            )
            found |= {model.tags["paretovid.point"]: model for model in page if self._is_ours(model.tags)}
            token = page.token
            if not token:
                return found

    def _points_run(self) -> str:
        """The nested run that the LoggedModels' metrics are written through.

        MLflow writes a model's metric to a run as well; the trials' own figures would be overwritten.
        """
        condition = f"tags.`mlflow.parentRunId` = '{self.run_id}' AND tags.`paretovid.kind` = 'points'"
        if (run := self._only(self._search(condition))) is not None:
            return str(run.info.run_id)
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
            tags={**trial_tags(point.trial), **tags, **point_tags(point), UID_TAG: self._uid},
            params={name: str(value) for name, value in knobs.items()},
        )
        return str(model.model_id)

    def _log_front(self, front: Front, sweep: SweepResults) -> None:
        chosen = front.front
        figures = {
            "hypervolume": front.hypervolume,
            "front_points": float(len(chosen)),
            "trials": float(len(sweep.trials)),
            f"best_{front.objective}": max(p.shown.quality for p in chosen),
            "cheapest_gflops": min(p.shown.gflops for p in chosen),
        }
        self._log_batch(self.run_id, figures)
        rendered = [sweep.folder / name for name in FRONT_FILES if (sweep.folder / name).is_file()]
        with tempfile.TemporaryDirectory() as folder:
            for path in rendered:
                shutil.copyfile(path, Path(folder) / path.name)
            self.store.put_into_run(self.run_id, Path(folder), "front")
        table = next((path.read_text().rstrip("\n") for path in rendered if path.name == TABLE), "")
        self.client.set_tag(self.run_id, "mlflow.note.content", sweep_note(front, table))

    def _set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])

    def _log_text(self, run_id: str, name: str, text: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / name).write_text(text)
            self.store.put_into_run(run_id, Path(folder))

    def _log_batch(
        self,
        run_id: str,
        figures: Mapping[str, float],
        params: Mapping[str, str] | None = None,
        series: Sequence[tuple[str, float, int]] = (),
    ) -> None:
        from mlflow.entities import Param

        metrics = metrics_of(figures)
        for name, value, step in series:
            metrics += metrics_of({name: value}, step=step)
        pairs = [Param(name, value[:500]) for name, value in (params or {}).items()]
        # MLflow takes at most 1000 metrics and 100 parameters at a time.
        for start in range(0, max(len(metrics), 5 * len(pairs), 1), METRICS_PER_REQUEST):
            part = pairs[start // 5 : start // 5 + 100]
            self.client.log_batch(run_id, metrics=metrics[start : start + METRICS_PER_REQUEST], params=part)


def _model_metrics(point: FrontPoint, run_id: str, model_id: str, step: int) -> list[Metric]:
    metrics: list[Metric] = []
    for split, measured in (("val", point.record.val), ("test", point.record.test)):
        dataset = (dataset_name(point.trial, split), point.trial.data.fingerprint)
        figures = {f"{split}/{name}": value for name, value in measured.numbers().items()}
        if split == "test":
            figures |= main_figures(measured)
        metrics += metrics_of(figures, step=step, run_id=run_id, model_id=model_id, dataset=dataset)
    return metrics


def _is_complete(run: Any) -> bool:
    answer: bool = run.data.tags.get("paretovid.complete") == "true" and run.info.status != "RUNNING"
    return answer


def log_sweep(home: Home, sweep: SweepResults, front: Front | None, uri: str | None = None) -> str:
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
