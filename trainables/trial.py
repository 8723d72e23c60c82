"""A trial: one training of one method, and the operating points that its checkpoint gives.

`run_trial` is a plain function. Whoever launches it (a Ray Tune trial, a Ray Train worker group, a test)
hands it a `TrialContext`; it knows nothing else of where it runs. For a seed and one worker the result is
the same wherever it runs. It resumes from its own checkpoint, made at the ends of epochs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from paretovid.trainables.backbones.catalog import measure_component
from paretovid.trainables.catalog import ConfiguredMethod
from paretovid.trainables.context import TrialContext, TrialStopped
from paretovid.trainables.cost import CostTable, check_accounting
from paretovid.trainables.data.dataset import Dataset, Event, load_dataset
from paretovid.trainables.data.partial_files import partial_file
from paretovid.trainables.documents import JsonObject, save_tensors
from paretovid.trainables.evaluation.detection import GroundTruth, Segments
from paretovid.trainables.evaluation.evaluate import (
    CHEAPEST,
    OBJECTIVES,
    Measured,
    answer_settings,
    measure,
    run_settings,
    same_answers,
    true_instances,
)
from paretovid.trainables.evaluation.placement import Placement, place_settings
from paretovid.trainables.evaluation.results import (
    RESULT_FILE,
    SCORES_FILE,
    SPLITS,
    WEIGHTS_FILE,
    DataReference,
    Metrics,
    OperatingPoint,
    Split,
    TrialResult,
)
from paretovid.trainables.features.store import FeatureSplit, FeatureStore
from paretovid.trainables.layers.caps import check_known, complete
from paretovid.trainables.method import (
    ChecksFeatures,
    Exports,
    Method,
    NeedsFiles,
    PlacesSettings,
    UsesSourceInfo,
    Warns,
)
from paretovid.trainables.outcome import Detection, Outcome, Setting, SourceInfo
from paretovid.trainables.training.checkpoint import _keep
from paretovid.trainables.training.config import TrialConfig
from paretovid.trainables.training.dataset import _Data
from paretovid.trainables.training.loop import _train

RUNG_POINTS = 12
"""Placed settings that are measured at a rung, at most: half of a trial's usual ones, which a comparison of curves does
not need all of."""


def run_trial(config: TrialConfig, context: TrialContext) -> TrialResult | None:
    """Trains, evaluates, and writes `result.json`, `scores.safetensors` and `model.safetensors`.

    Returns the result on rank 0, None on others. Raises `NonFiniteError` if the loss diverges, `StaleFeaturesError` or
    `DataError` for features or videos that cannot be used, `TrialStopped` if the context asked it to end,
    `StoppedAtRung` if it was judged at one of `config.rungs`.
    """
    started = time.perf_counter()
    # The sums of a matrix product depend on the number of threads; results must not.
    torch.set_num_threads(1)
    dataset = load_dataset(Path(config.dataset))
    configured = config.configured_method()
    check_known(configured.method, tuple(config.inference_setting or ()))
    data = _Data(
        dataset, {source: FeatureStore.open(Path(config.features[source])) for source in configured.sources}
    )
    method = _built(configured, data, config).to(context.device)
    if method.task == "localization":  # what cannot be measured is not trained first
        for name in SPLITS:
            true_instances(dataset, data.records(name))
    history = _train(method, data, config, context, lambda: _validation_points(method, data, config, context))
    if context.rank != 0:
        return None
    costs = cost_table(method, data.components, config.accounting, len(dataset.classes))
    placement = _place(method.cpu(), data, config, costs, context)
    points = _evaluate(method, data, config, costs, context, placement)
    warnings = (
        method.warnings(_at_default(method, data, config, costs, points)) if isinstance(method, Warns) else []
    )
    warnings += [] if placement is None else placement.warnings
    result = _result(
        config,
        data,
        method,
        costs=costs,
        points=points,
        history=history,
        warnings=warnings,
        seconds=time.perf_counter() - started,
    )
    _write(Path(config.output), result, method)
    return result


def _built(configured: ConfiguredMethod, data: _Data, config: TrialConfig) -> Method:
    """The method before its first step. Raises `UsageError` if it cannot be trained on these features."""
    torch.manual_seed(config.seed)
    method = configured.build(
        widths=data.widths, num_classes=len(data.dataset.classes), multi_label=data.dataset.multi_label
    )
    if isinstance(method, UsesSourceInfo):
        method.use_source_info(_source_info(data.stores, len(data.dataset.classes)))
    if isinstance(method, ChecksFeatures):
        method.check_features({source: Path(config.features[source]).name for source in data.stores})
    return method


def _result(
    config: TrialConfig,
    data: _Data,
    method: Method,
    *,
    costs: CostTable,
    points: Sequence[OperatingPoint],
    history: Sequence[Mapping[str, float]],
    warnings: Sequence[str],
    seconds: float,
) -> TrialResult:
    """What is recorded of the trial."""
    return TrialResult(
        trial=config.trial,
        digest=config.digest,
        sweep=config.sweep,
        method=config.method,
        objective=OBJECTIVES[method.task],
        is_baseline=method.is_baseline,
        deployable=method.deployable,
        seed=config.seed,
        training_knobs=config.training_knobs,
        model=_portable(method, config.model),
        training_config=asdict(config.training),
        sources=data.components,
        widths=data.widths,
        data=_reference(config, data.dataset, tuple(data.stores)),
        code_version=config.code_version,
        torch_version=torch.__version__,
        costs={name: costs[name] for name in costs},
        accounting=config.accounting,
        parameters=sum(parameter.numel() for parameter in method.parameters()),
        history=tuple(history),
        points=tuple(points),
        warnings=tuple(warnings),
        seconds=seconds,
        confirms=config.confirms,
    )


def _source_info(stores: Mapping[str, FeatureStore], num_classes: int) -> dict[str, SourceInfo]:
    return {
        source: SourceInfo(
            gmacs=measure_component(store.component, num_classes).gmacs,
            video_share=store.header.video_share,
        )
        for source, store in stores.items()
    }


def cost_table(
    method: Method, components: Mapping[str, str], accounting: str, num_classes: int | None = None
) -> CostTable:
    """Costs of the backbones behind the sources and of the method's own components.

    Arguments:
        num_classes: of the data set; may be left out where no component classifies.
    """
    backbones = {source: measure_component(name, num_classes) for source, name in components.items()}
    own = (
        method.paper_component_costs(backbones)
        if check_accounting(accounting) == "paper"
        else method.component_costs()
    )
    return CostTable({**{components[source]: cost for source, cost in backbones.items()}, **own})


def _portable(method: Method, model: JsonObject) -> JsonObject:
    """The fields of the method's Config, as they are built from where its files are not."""
    return method.portable(model) if isinstance(method, NeedsFiles) else model


def _reference(config: TrialConfig, dataset: Dataset, sources: Sequence[str]) -> DataReference:
    return DataReference(
        name=dataset.name,
        fingerprint=dataset.fingerprint,
        features={source: Path(config.features[source]).name for source in sources},
        classes=tuple(dataset.classes),
        multi_label=dataset.multi_label,
        step_seconds=dataset.step_seconds,
    )


def _place(
    method: Method, data: _Data, config: TrialConfig, costs: CostTable, context: TrialContext
) -> Placement | None:
    """The settings to measure, by what they cost on validation; None if the method or its configuration names them."""
    is_open = config.inference_setting is None and not config.confirms
    if not is_open or not isinstance(method, PlacesSettings) or not method.places():
        return None

    def answers(settings: Sequence[Setting]) -> Iterator[list[tuple[Setting, Outcome]]]:
        for split in _while_wanted(data.batches("val"), context):
            yield _placed_answers(method, data, split, settings, costs)

    return place_settings(method, method.settings()[0], answers, costs, config.points)


def _validation_points(
    method: Method, data: _Data, config: TrialConfig, context: TrialContext
) -> tuple[tuple[float, float], ...]:
    """Quality and GFLOPs on validation of the settings that would be measured if training ended here, the default one
    first; of placed ones at most `RUNG_POINTS`. The method is where it was afterwards."""
    fewer = replace(config, points=min(config.points, RUNG_POINTS))
    costs = cost_table(method, data.components, config.accounting, len(data.dataset.classes))
    method.cpu()
    try:
        placement = _place(method, data, fewer, costs, context)
        measured, targets, instances = _on_split("val", method, data, fewer, costs, context, placement)
    finally:
        method.to(context.device)
    figures = (
        each.metrics(targets.targets.numpy(), targets.num_steps.numpy(), instances=instances)
        for each in measured
    )
    return tuple((found.quality, found.gflops) for found in figures)


def _evaluate(
    method: Method,
    data: _Data,
    config: TrialConfig,
    costs: CostTable,
    context: TrialContext,
    placement: Placement | None,
) -> list[OperatingPoint]:
    """Measures every setting on validation and test; writes the scores; returns the operating points."""
    settings = _settings(method, config, placement)
    measured: dict[Split, list[Measured]] = {}
    ground_truth: dict[Split, FeatureSplit] = {}
    instances: dict[Split, GroundTruth] = {}
    for name in SPLITS:
        measured[name], ground_truth[name], found = _on_split(
            name, method, data, config, costs, context, placement
        )
        if found is not None:
            instances[name] = found
    kept = _in_order(measured["val"], settings) if config.confirms else _distinct(measured)
    _write_scores(
        Path(config.output), {n: [measured[n][i] for i in kept] for n in measured}, ground_truth, instances
    )

    def metrics(split: Split, i: int) -> Metrics:
        return measured[split][i].metrics(
            ground_truth[split].targets.numpy(),
            ground_truth[split].num_steps.numpy(),
            used_above=min(CHEAPEST, len(method.reads()) - 2),
            instances=instances.get(split),
            dataset=data.dataset,
        )

    return [
        OperatingPoint(
            id=f"{config.trial}-p{place:02d}",
            index=place,
            is_default=place == 0,
            inference_knobs=dict(measured["val"][i].setting),
            val=metrics("val", i),
            test=metrics("test", i),
        )
        for place, i in enumerate(kept)
    ]


def _settings(method: Method, config: TrialConfig, placement: Placement | None) -> list[Setting]:
    """The settings to measure."""
    if config.confirms:
        return list(config.settings)
    if config.inference_setting is not None:
        knobs = config.configured_method().knobs
        default = {knob.name: knob.default for knob in knobs if knob.name != "max_gflops"}
        return [complete({**default, **config.inference_setting})]
    return method.settings() if placement is None else list(placement.settings)


def _on_split(
    name: Split,
    method: Method,
    data: _Data,
    config: TrialConfig,
    costs: CostTable,
    context: TrialContext,
    placement: Placement | None,
) -> tuple[list[Measured], FeatureSplit, GroundTruth | None]:
    """Every setting on one split, what it is measured against, and the true instances, of localization."""
    settings = _settings(method, config, placement)
    splits = list(data.batches(name))
    is_localization = method.task == "localization"
    instances = true_instances(data.dataset, data.records(name)) if is_localization else None
    expand = config.inference_setting is None
    answered = (
        (
            split,
            _answers(method, data, split, settings, costs, expand=expand)
            if placement is None and not config.confirms
            else _placed_answers(method, data, split, settings, costs),
        )
        for split in _while_wanted(splits, context)
    )
    measured = measure(answered, costs, max_steps=max(s.mask.shape[1] for s in splits))
    return measured, _concatenated(splits), instances


def _answers(
    method: Method,
    data: _Data,
    split: FeatureSplit,
    settings: Sequence[Setting],
    costs: CostTable,
    *,
    expand: bool,
) -> list[tuple[Setting, Outcome]]:
    return run_settings(
        method,
        split,
        settings,
        components=data.components,
        costs=costs,
        expand=expand,
        step_seconds=data.dataset.step_seconds,
    )


def _placed_answers(
    method: Method, data: _Data, split: FeatureSplit, settings: Sequence[Setting], costs: CostTable
) -> list[tuple[Setting, Outcome]]:
    return answer_settings(
        method,
        split,
        settings,
        components=data.components,
        costs=costs,
        step_seconds=data.dataset.step_seconds,
    )


def _at_default(
    method: Method, data: _Data, config: TrialConfig, costs: CostTable, points: Sequence[OperatingPoint]
) -> Metrics:
    """The figures of the default setting on validation, whatever setting the study asked for."""
    if config.inference_setting is None:
        return points[0].val
    splits, default = list(data.batches("val")), method.settings()[:1]
    answered = ((split, _answers(method, data, split, default, costs, expand=False)) for split in splits)
    (measured,) = measure(answered, costs, max_steps=max(s.mask.shape[1] for s in splits))
    ground_truth = _concatenated(splits)
    instances = true_instances(data.dataset, data.records("val")) if method.task == "localization" else None
    return measured.metrics(ground_truth.targets.numpy(), ground_truth.num_steps.numpy(), instances=instances)


def _while_wanted(splits: Iterable[FeatureSplit], context: TrialContext) -> Iterator[FeatureSplit]:
    for split in splits:
        if context.heartbeat():
            raise TrialStopped  # trained it is: the last checkpoint is that of the last epoch
        yield split


def _concatenated(splits: list[FeatureSplit]) -> FeatureSplit:
    """Targets, lengths and ids of all batches; the features are left out."""
    return FeatureSplit(
        features={},
        mask=torch.zeros(0, 0, dtype=torch.bool),
        num_steps=torch.cat([split.num_steps for split in splits]),
        targets=torch.cat([split.targets for split in splits]),
        video_keys=torch.cat([split.video_keys for split in splits]),
        video_ids=tuple(video_id for split in splits for video_id in split.video_ids),
    )


def _in_order(measured: Sequence[Measured], settings: Sequence[Setting]) -> list[int]:
    """Indices of these settings, all of which were measured."""
    places = {json.dumps(each.setting, sort_keys=True): i for i, each in enumerate(measured)}
    return [places[json.dumps(setting, sort_keys=True)] for setting in settings]


def _distinct(measured: Mapping[Split, list[Measured]]) -> list[int]:
    """Indices of settings whose answers or cost differ, on any split, from those of all settings before."""
    kept: list[int] = []
    for i in range(len(measured["val"])):
        if not any(all(same_answers(points[i], points[j]) for points in measured.values()) for j in kept):
            kept.append(i)
    return kept


def _write_scores(
    folder: Path,
    measured: Mapping[Split, list[Measured]],
    ground_truth: Mapping[Split, FeatureSplit],
    instances: Mapping[Split, GroundTruth],
) -> None:
    tensors: dict[str, Tensor] = {}
    for name, points in measured.items():
        tensors[f"{name}/scores"] = torch.from_numpy(np.stack([point.scores for point in points]))
        tensors[f"{name}/gflops"] = torch.from_numpy(np.stack([point.gflops for point in points]))
        tensors[f"{name}/decisions"] = torch.from_numpy(np.stack([point.decisions for point in points]))
        tensors[f"{name}/targets"] = ground_truth[name].targets
        tensors[f"{name}/num_steps"] = ground_truth[name].num_steps
        if name in instances:
            tensors[f"{name}/events"] = _rows(instances[name].events)
            tensors[f"{name}/ambiguous"] = _segment_rows(instances[name].ambiguous)
            for i, point in enumerate(points):
                tensors[f"{name}/detections/{i}"] = _rows(point.detections or ())
    folder.mkdir(parents=True, exist_ok=True)
    videos: dict[str, str] = {name: json.dumps(list(split.video_ids)) for name, split in ground_truth.items()}
    with partial_file(folder / f"{SCORES_FILE}.partial") as partial:
        save_tensors(tensors, partial, metadata=videos)
        _keep(partial, folder / SCORES_FILE)


def _rows(videos: Sequence[Sequence[Event | Detection]]) -> Tensor:
    """`[rows, 5]` float64: the video's place, class, start and end in seconds, and score (1 for a true instance)."""
    rows = [
        (place, each.label, each.start_seconds, each.end_seconds, getattr(each, "score", 1.0))
        for place, found in enumerate(videos)
        for each in found
    ]
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 5)


def _segment_rows(videos: Segments) -> Tensor:
    """`[rows, 3]` float64: the video's place, start and end in seconds."""
    rows = [(place, start, end) for place, found in enumerate(videos) for start, end in found]
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 3)


def _write(folder: Path, result: TrialResult, method: Method) -> None:
    """Weights first, `result.json` last: a folder with a result is complete."""
    with partial_file(folder / f"{WEIGHTS_FILE}.partial") as partial:
        save_tensors({name: value.contiguous() for name, value in method.state_dict().items()}, partial)
        _keep(partial, folder / WEIGHTS_FILE)
    document = result.to_json()
    if isinstance(method, Exports):
        about = {key: document[key] for key in ("sweep", "trial", "seed", "data", "code_version")}
        method.export(folder, about)
    with partial_file(folder / f"{RESULT_FILE}.partial") as partial:
        partial.write_text(json.dumps(document, indent=1, allow_nan=False))
        _keep(partial, folder / RESULT_FILE)
