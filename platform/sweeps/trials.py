"""The trials of a sweep: their configurations, as plain data that Ray can send, and what a worker does with one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, final

from paretovid.infra.node_cache import NodeCacheError, node_cache
from paretovid.infra.node_cache import fetch as copy_to_node
from paretovid.platform.config.load import model_with_knobs
from paretovid.platform.config.resolve import SweepPlan, plugins_in_use
from paretovid.platform.console.warnings import say_on_stderr
from paretovid.platform.execution.outcome import FixedTrial
from paretovid.platform.execution.patience import Probe
from paretovid.platform.execution.trial_process import Trainable
from paretovid.platform.preparation.prepare import Prepared, is_copy_of_store
from paretovid.platform.records.trial import find_trial
from paretovid.platform.search.study import Suggestion
from paretovid.platform.storage.home import HomeReference, TrialPaths, some_of_dataset
from paretovid.platform.storage.trial_names import confirmation_name
from paretovid.trainables.context import TrialContext
from paretovid.trainables.data.dataset import load_dataset
from paretovid.trainables.documents import JsonObject
from paretovid.trainables.errors import InfrastructureError
from paretovid.trainables.evaluation.results import TrialResult
from paretovid.trainables.features.store import FeatureStore
from paretovid.trainables.plugins.catalog import use_plugins
from paretovid.trainables.training.config import TrialConfig
from paretovid.trainables.trial import run_trial


@final
class SweepTrials:
    """Makes the configurations of a sweep's trials."""

    def __init__(self, plan: SweepPlan, sweep: str, prepared: Prepared) -> None:
        self._plan = plan
        self._sweep = sweep
        self._prepared = prepared
        self._plugins = plugins_in_use(plan.config)

    def searched(self, suggestion: Suggestion) -> JsonObject:
        """A suggestion of the study, measured at rungs if the search stops trials there."""
        search = self._plan.config.search
        rungs = list(search.rungs) if search.stopping == "curve" else []
        return {**self.unjudged(suggestion).to_json(), "rungs": rungs}

    def unjudged(self, suggestion: Suggestion) -> TrialConfig:
        """The same, trained to its end in any case."""
        method = self._plan.config.method
        trained = {*method.training_knobs, *self._plan.hyperparameters}
        training: dict[str, float | str] = {n: v for n, v in suggestion.knobs.items() if n in trained}
        setting: dict[str, float | str] = {n: v for n, v in suggestion.knobs.items() if n not in trained}
        return replace(
            self._trial(
                suggestion.trial_id,
                method.name,
                model_with_knobs(method, training),
                training,
                setting or None,
            ),
            training=self._plan.search_training(training),
        )

    def baselines(self) -> list[FixedTrial]:
        """The configured baselines."""
        return [
            FixedTrial(trial_id=trial, config=self._trial(trial, each.name, each.model).to_json())
            for trial, each in self._plan.baselines.items()
        ]

    def confirming(
        self, trial: TrialResult, seed: int, knobs: Mapping[str, float | str]
    ) -> TrialConfig | None:
        """A training of a finished trial's configuration with another seed, measured at the settings of its points.
        None if it would be another configuration: the trial was made from other features or settings than there are.

        Arguments:
            knobs: the trial's, as the study has them; of a baseline there are none.
        """
        name, baseline = trial.trial, self._plan.baselines.get(trial.trial)
        same = (
            self.unjudged(Suggestion(trial_id=name, knobs=dict(knobs), origin="", attempt=1))
            if baseline is None
            else self._trial(name, baseline.name, baseline.model)
        )
        if same.digest_by(trial.code_version) != trial.digest:
            return None
        training = confirmation_name(name, seed)
        return replace(
            same,
            trial=training,
            seed=seed,
            confirms=name,
            settings=tuple(dict(point.inference_knobs) for point in trial.points),
            output=str(self._prepared.home.trial(self._sweep, training).folder),
        )

    def _trial(
        self,
        trial: str,
        method: str,
        model: JsonObject,
        training_knobs: Mapping[str, float | str] | None = None,
        inference_setting: Mapping[str, float | str] | None = None,
    ) -> TrialConfig:
        config = self._plan.config
        return TrialConfig(
            sweep=self._sweep,
            trial=trial,
            method=method,
            model=model,
            training_knobs=dict(training_knobs or {}),
            inference_setting=None if inference_setting is None else dict(inference_setting),
            points=config.search.points,
            training=self._plan.training,
            seed=config.seed,
            dataset=str(self._prepared.dataset.root),
            features={source: str(folder) for source, folder in self._prepared.features.items()},
            output=str(self._prepared.home.trial(self._sweep, trial).folder),
            accounting=config.accounting,
            plugins=self._plugins,
        )


def trainable_on(
    cache: str | None, code: str, home: HomeReference | None = None, plugins: Sequence[str] = ()
) -> Trainable:
    """What a worker runs for each trial.

    Arguments:
        cache: folder on the worker's node that features are copied to first; None: read where they are. Where the
            home is in a bucket, its mirror is kept there.
        code: version of the driver's code, with the plug-ins that its trials name.
        home: that the paths in configurations are of; None: one that is a folder.
        plugins: modules to import before anything else.

    A trial whose result is there already (its driver died before it heard of it) is not trained again.
    """

    reference = home or HomeReference(url=None, root=Path())

    def run(config: dict[str, Any], context: TrialContext) -> TrialResult | None:
        use_plugins(plugins)
        trial = TrialConfig.from_json(config)
        _check_code(trial, code)
        if reference.url is not None:
            trial = _downloaded(trial, reference, context.heartbeat)
        else:
            trial = _localised(trial, node_cache(cache), context.heartbeat)
        result = finished_result(trial)
        if result is None:
            result = run_trial(trial, context)
        if context.rank == 0:
            TrialPaths(Path(trial.output), reference.home.store).upload()
        return result

    return run


def probe_on(code: str, home: HomeReference, plugins: Sequence[str] = ()) -> Probe:
    """What tells, wherever it is called, whether a trial of a configuration could work there: it reads what the trial
    would read, copies nothing, and raises what is wrong. Arguments as of `trainable_on`."""

    def probe(config: JsonObject) -> None:
        use_plugins(plugins)
        trial = TrialConfig.from_json(config)
        _check_code(trial, code)
        if home.url is not None:
            _downloaded(trial, home, lambda: None)  # what is here already is not fetched again
            return
        load_dataset(Path(trial.dataset))
        for folder in trial.features.values():
            FeatureStore.open(Path(folder))

    return probe


def _check_code(trial: TrialConfig, code: str) -> None:
    if trial.code_version != code:
        raise InfrastructureError(
            f"this node runs paretovid {trial.code_version}, the driver {code}",
            "Install the driver's version, and its plug-ins', on every node.",
        )


def _localised(trial: TrialConfig, cache: Path | None, heartbeat: Callable[[], object]) -> TrialConfig:
    """The trial with features on this node's disk. Their folders keep their names, and the trial its digest."""
    if cache is None:
        return trial
    try:
        features = {
            source: str(copy_to_node(Path(folder), cache, is_copy=is_copy_of_store, heartbeat=heartbeat))
            for source, folder in trial.features.items()
        }
    except NodeCacheError as error:
        # Slower, and right: the home has them all the same.
        say_on_stderr(f"{error}: features are read under home (cluster.node_cache=)")
        return trial
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


def finished_result(trial: TrialConfig) -> TrialResult | None:
    """The result that is there already of a trial with this configuration.

    One that an older version of the code has made counts: what is finished is never trained again.
    """
    result = find_trial(Path(trial.output))
    return result if result and result.digest == trial.digest_by(result.code_version) else None
