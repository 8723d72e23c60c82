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
from paretovid.platform.execution.trial_process import Trainable
from paretovid.platform.preparation.prepare import Prepared, is_whole_store
from paretovid.platform.records.trial import find_trial
from paretovid.platform.search.study import Suggestion
from paretovid.platform.storage.mirror import (
    SharedRoot,
    fetch,
    fetch_result,
    is_trial_part,
    share,
    some_of_dataset,
)
from paretovid.search_spaces.schema import SweepConfig
from paretovid.trainables.config import typed_config
from paretovid.trainables.context import TrialContext
from paretovid.trainables.errors import DataError, UsageError
from paretovid.trainables.evaluation.results import TrialResult
from paretovid.trainables.provenance import code_version
from paretovid.trainables.training.config import TrainingConfig, TrialConfig
from paretovid.trainables.trial import run_trial


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
            output=str(self._prepared.home.trial(self._sweep, trial)),
            accounting=self._config.accounting,
        )
        return asdict(config)


def trainable_on(cache: str | None, code: str, home: Path | None = None) -> Trainable:
    """What a worker runs for each trial.

    Arguments:
        cache: folder on the worker's node that features are copied to first; None: read where they are. Where the
            home is in a bucket, its mirror is kept there.
        code: version of the driver's code.
        home: its root, if it may be in a bucket.

    A trial whose result is there already (its driver died before it heard of it) is not trained again.
    """

    shared = SharedRoot.of(home or Path(), cache)

    def run(config: dict[str, Any], context: TrialContext) -> TrialResult | None:
        if code_version() != code:
            raise UsageError(
                f"this node runs paretovid {code_version()}, the driver {code}",
                "Install the driver's version on every node.",
            )
        trial = trial_config(config)
        if shared.url is not None:
            trial = _fetched(trial, shared, context.heartbeat)
        else:
            trial = _localised(trial, node_cache(cache), context.heartbeat)
        result = finished_result(trial)
        if result is None:
            result = run_trial(trial, context)
        if context.rank == 0:
            share(Path(trial.output), is_trial_part)
        return result

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


def _fetched(trial: TrialConfig, shared: SharedRoot, heartbeat: Callable[[], object]) -> TrialConfig:
    """The trial with everything that it reads on this node's disk, out of the bucket."""
    dataset, output = shared.here(trial.dataset), shared.here(trial.output)
    features = {source: shared.here(folder) for source, folder in trial.features.items()}
    fetch(dataset, some_of_dataset, heartbeat)
    for folder in features.values():
        fetch(folder, heartbeat=heartbeat)
    fetch_result(output)
    return replace(
        trial,
        dataset=str(dataset),
        output=str(output),
        features={source: str(folder) for source, folder in features.items()},
    )


def finished_result(trial: TrialConfig) -> TrialResult | None:
    """The result that is there already of a trial with this configuration.

    One that an older version of the code has made counts: what is finished is never trained again.
    """
    result = find_trial(Path(trial.output))
    return result if result and result.digest == trial.digest_by(result.code_version) else None


def trial_config(config: Mapping[str, Any]) -> TrialConfig:
    """The typed form of a configuration that was sent as plain data."""
    return TrialConfig(**{**config, "training": TrainingConfig(**config["training"])})
