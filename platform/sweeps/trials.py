"""The trials of a sweep: their configurations, as plain data that Ray can send, and what a worker does with one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, final

from paretovid.infra.node_cache import NodeCacheError, node_cache
from paretovid.infra.node_cache import fetch as copy_to_node
from paretovid.platform.config.load import model_with_knobs, training_settings
from paretovid.platform.execution.outcome import FixedTrial
from paretovid.platform.preparation.prepare import Prepared, is_whole_store
from paretovid.platform.search.study import Suggestion
from paretovid.platform.storage.documents import read_json_object
from paretovid.platform.storage.home import RESULT_FILE, HomeReference, TrialPaths, some_of_dataset
from paretovid.search_spaces.schema import SweepConfig
from paretovid.trainables.config import typed_config
from paretovid.trainables.errors import DataError, UsageError
from paretovid.trainables.evaluation.pareto import non_dominated
from paretovid.trainables.provenance import code_version
from paretovid.trainables.training.config import TrainingConfig, TrialConfig
from paretovid.trainables.trial import EVALUATED_SPLITS, run_trial


@final
class SweepTrials:
    """Makes the configurations of a sweep's trials."""

    def __init__(self, config: SweepConfig, sweep: str, prepared: Prepared) -> None:
        self._config = config
        self._sweep = sweep
        self._prepared = prepared

    def searched(self, suggestion: Suggestion) -> dict[str, Any]:
        """A suggestion of the study."""
        method = self._config.method
        training = {n: v for n, v in suggestion.knobs.items() if n in method.training_knobs}
        setting = {n: v for n, v in suggestion.knobs.items() if n not in method.training_knobs}
        return self._trial(
            suggestion.trial_id,
            method.name,
            model_with_knobs(method, training),
            training_knobs=training,
            inference_setting=setting or None,
        )

    def baselines(self) -> list[FixedTrial]:
        """The configured baselines."""
        return [
            FixedTrial(trial_id=each.name, config=self._trial(each.name, each.method, dict(each.model)))
            for each in self._config.baselines
        ]

    def _trial(
        self,
        trial: str,
        method: str,
        model: dict[str, Any],
        *,
        training_knobs: dict[str, Any] | None = None,
        inference_setting: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        config = TrialConfig(
            sweep=self._sweep,
            trial=trial,
            method=method,
            model=model,
            training_knobs=training_knobs or {},
            inference_setting=inference_setting,
            training=typed_config(TrainingConfig, training_settings(self._config), "training"),
            seed=self._config.seed,
            dataset=str(self._prepared.dataset.root),
            features={source: str(folder) for source, folder in self._prepared.features.items()},
            output=str(self._prepared.home.trial(self._sweep, trial).folder),
            accounting=self._config.accounting,
        )
        return asdict(config)


def trainable_on(
    cache: str | None, code: str, home: HomeReference | None = None
) -> Callable[[dict[str, Any], Any], dict[str, Any]]:
    """What a worker runs for each trial.

    Arguments:
        cache: folder on the worker's node that features are copied to first; None: read where they are. Where the
            home is in a bucket, its mirror is kept there.
        code: version of the driver's code.
        home: that the paths in configurations are of; None: one that is a folder.

    A trial whose result is there already (its driver died before it heard of it) is not trained again.
    """

    reference = home or HomeReference(url=None, root=Path())

    def run(config: dict[str, Any], context: Any) -> dict[str, Any]:
        if code_version() != code:
            raise UsageError(
                f"this node runs paretovid {code_version()}, the driver {code}",
                "Install the driver's version on every node.",
            )
        trial = trial_config(config)
        if reference.url is not None:
            trial = _downloaded(trial, reference, context.heartbeat)
        else:
            trial = _localised(trial, node_cache(cache), context.heartbeat)
        result = finished_result(trial)
        if result is None:
            result = run_trial(trial, context)
        if context.rank == 0:
            TrialPaths(Path(trial.output), reference.home.store).upload()
        return summary_of(result) if result else {}

    return run


def _localised(trial: TrialConfig, cache: Path | None, heartbeat: Callable[[], object]) -> TrialConfig:
    """The trial with features on this node's disk. Their folders keep their names, and the trial its digest."""
    if cache is None:
        return trial
    try:
        features = {
            source: str(copy_to_node(Path(folder), cache, is_whole=is_whole_store, heartbeat=heartbeat))
            for source, folder in trial.features.items()
        }
    except NodeCacheError as error:
        raise DataError(str(error), "Free space there, or name another disk: cluster.node_cache=.") from error
    return replace(trial, features=features)


def _downloaded(trial: TrialConfig, home: HomeReference, heartbeat: Callable[[], object]) -> TrialConfig:
    """The trial with everything that it reads on this node's disk, out of the bucket."""
    dataset, output, store = home.here(trial.dataset), home.trial(trial.output), home.home.store
    features = {source: home.here(folder) for source, folder in trial.features.items()}
    store.download(dataset, some_of_dataset, heartbeat)
    for folder in features.values():
        store.download(folder, heartbeat=heartbeat)
    output.download()
    return replace(
        trial,
        dataset=str(dataset),
        output=str(output.folder),
        features={source: str(folder) for source, folder in features.items()},
    )


def summary_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """What the driver wants to know of a trial's result."""
    objectives = (result["objective"], "gflops")
    return {
        "objectives": {name: result["points"][0]["val"][name] for name in objectives},
        "swept": [
            {"setting": p["inference_knobs"], **{name: p["val"][name] for name in objectives}}
            for p in result["points"][1:]
        ],
        "figures": figures_of(result),
    }


def figures_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """What the journal keeps of a trial's result: its natural point, and the front of all its points on validation;
    `dearest` of them on either split, and what kind of trial it is, as a hypervolume needs them.
    """
    name = result["objective"]
    points = [(float(point["val"][name]), float(point["val"]["gflops"])) for point in result["points"]]
    kept = non_dominated([gflops for _, gflops in points], [quality for quality, _ in points])
    quality, gflops = points[0]
    seconds = float(result.get("seconds", 0.0))
    return {
        "quality": quality,
        "gflops": gflops,
        "seconds": seconds,
        "front": [points[i] for i in kept],
        "dearest": max(float(p[split]["gflops"]) for p in result["points"] for split in EVALUATED_SPLITS),
        "is_baseline": bool(result["is_baseline"]),
        "deployable": bool(result["deployable"]),
    }


def finished_result(trial: TrialConfig) -> dict[str, Any] | None:
    """The result that is there already of a trial with this configuration.

    One that an older version of the code has made counts: what is finished is never trained again.
    """
    result = read_json_object(Path(trial.output) / RESULT_FILE)
    if result is None or "points" not in result:
        return None
    made_by = str(result.get("code_version", ""))
    return result if result.get("digest") == trial.digest_by(made_by) else None


def trial_config(config: Mapping[str, Any]) -> TrialConfig:
    """The typed form of a configuration that was sent as plain data."""
    return TrialConfig(**{**config, "training": TrainingConfig(**config["training"])})
