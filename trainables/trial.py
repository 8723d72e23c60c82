"""A trial: one training of one method, and the operating points that its checkpoint gives.

`run_trial` is a plain function. Whoever launches it (a Ray Tune trial, a Ray Train worker group, a test)
hands it a `TrialContext`; it knows nothing else of where it runs. For a seed and one worker the result is
the same wherever it runs. It resumes from its own checkpoint, made at the ends of epochs.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, final

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from paretovid.trainables.caps import check_known, complete
from paretovid.trainables.components import measure_component
from paretovid.trainables.cost import CostTable, check_accounting
from paretovid.trainables.data.dataset import Dataset, Event, VideoRecord, load_dataset
from paretovid.trainables.data.features import FeatureSplit, FeatureStore, load_padded
from paretovid.trainables.detection import Detection
from paretovid.trainables.errors import NonFiniteError, UsageError
from paretovid.trainables.evaluation import (
    CHEAPEST,
    OBJECTIVES,
    Measured,
    measure,
    run_settings,
    same_answers,
    true_instances,
)
from paretovid.trainables.method import Batch, Method, Progress, Setting, SourceFacts
from paretovid.trainables.methods import build_method, method_class, method_config
from paretovid.trainables.provenance import code_version
from paretovid.trainables.timestep_selector import by_content

EVALUATED_SPLITS = ("val", "test")


class TrialStopped(Exception):
    """The trial was asked to end before it was done. It goes on from its checkpoint when it is started again."""


class TrialContext(Protocol):
    """Where a trial runs. Every rank calls `report`; only rank 0 passes a checkpoint folder."""

    rank: int
    world_size: int
    device: torch.device

    def report(self, progress: Mapping[str, float], checkpoint: Path | None = None) -> None:
        """Tells how far training has come, and hands over a checkpoint folder to keep."""

    def get_checkpoint(self) -> Path | None:
        """The folder of the last checkpoint of this trial, if it was interrupted."""

    def heartbeat(self) -> bool:
        """Tells that the trial gets on; cheap, for every step. True: it should end, with a checkpoint."""


@final
class LocalContext:
    """A context for one process without Ray. Keeps no checkpoint."""

    rank = 0
    world_size = 1

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")

    def report(self, progress: Mapping[str, float], checkpoint: Path | None = None) -> None:
        """Does nothing."""

    def get_checkpoint(self) -> Path | None:
        """None: always from the start."""
        return None

    def heartbeat(self) -> bool:
        """False: nobody asks it to end."""
        return False


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """How a method's own parameters are trained on cached features."""

    epochs: int = 40
    batch_size: int = 64
    """Videos per step, over all workers."""
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    clip_norm: float = 5.0
    warmup_fraction: float = 0.1
    """Share of the steps in which the learning rate rises; it falls to zero over the rest."""
    checkpoint_every_epochs: int = 10

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "learning_rate", "clip_norm", "checkpoint_every_epochs"):
            if getattr(self, name) <= 0:
                raise UsageError(f"training.{name} must be above 0, not {getattr(self, name)}", "Raise it.")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialConfig:
    """Everything that determines a trial's result, and where it is written."""

    sweep: str
    trial: str
    method: str
    model: dict[str, Any] = field(default_factory=dict)
    """Fields of the method's Config, the knobs' values included."""
    training_knobs: dict[str, float | str] = field(default_factory=dict)
    """The knobs as the search knows them (`gamma`), for the record."""
    inference_setting: dict[str, float | str] | None = None
    """Evaluate this setting only, with inference knobs searched by the study (`search.inference_knobs=study`)."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    seed: int = 0
    dataset: str
    """Folder of the data set."""
    features: dict[str, str]
    """Source to the folder of its features."""
    output: str
    """Folder for the trial's results."""
    accounting: str = "honest"

    @property
    def digest(self) -> str:
        """Twelve hex digits over what determines the result: all but where it is kept. Features are named by
        their fingerprints, so these stand for the data."""
        return self.digest_by(code_version())

    def digest_by(self, code: str) -> str:
        """The digest as another version of the code would give it."""
        described = asdict(self) | {"dataset": "", "output": "", "code": code}
        described["model"] = by_content(self.model)
        described["features"] = {source: Path(path).name for source, path in self.features.items()}
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]


def run_trial(config: TrialConfig, context: TrialContext) -> dict[str, Any]:
    """Trains, evaluates, and writes `result.json`, `scores.safetensors` and `model.safetensors`.

    Returns the content of `result.json` on rank 0, `{}` on others. Raises `NonFiniteError` if the loss
    diverges, `StaleFeaturesError` or `DataError` for features or videos that cannot be used, `TrialStopped` if
    the context asked it to end.
    """
    started = time.perf_counter()
    # The sums of a matrix product depend on the number of threads; results must not.
    torch.set_num_threads(1)
    dataset = load_dataset(Path(config.dataset))
    check_known(method_class(config.method), tuple(config.inference_setting or ()))
    sources = method_class(config.method).sources_of(method_config(config.method, config.model))
    stores = {source: FeatureStore.open(Path(config.features[source])) for source in sources}
    torch.manual_seed(config.seed)
    method = build_method(
        config.method,
        config.model,
        widths={source: store.width for source, store in stores.items()},
        num_classes=len(dataset.classes),
        multi_label=dataset.multi_label,
    )
    method.use_facts(_facts(stores, len(dataset.classes)))
    method = method.to(context.device)
    method.check_features({source: Path(config.features[source]).name for source in sources})
    if method.task == "localization":  # what cannot be measured is not trained first
        for name in EVALUATED_SPLITS:
            true_instances(dataset, _Data(dataset, stores).records(name))
    history = _train(method, _Data(dataset, stores), config, context)
    if context.rank != 0:
        return {}
    result = _describe(config, dataset, stores, method) | {"training": {"history": history}}
    result["points"] = _evaluate(method.cpu(), _Data(dataset, stores), config, result, context)
    result["remarks"] = method.remarks(_natural(method, _Data(dataset, stores), config, result))
    result["seconds"] = time.perf_counter() - started
    _write(Path(config.output), result, method)
    return result


def _facts(stores: Mapping[str, FeatureStore], num_classes: int) -> dict[str, SourceFacts]:
    return {
        source: SourceFacts(
            gmacs=measure_component(store.component, num_classes).gmacs,
            video_share=float(store.header.get("video_share", 1.0)),
        )
        for source, store in stores.items()
    }


@final
class _Data:
    """The data set with the features that a method reads."""

    def __init__(self, dataset: Dataset, stores: Mapping[str, FeatureStore]) -> None:
        self.dataset = dataset
        self.stores = stores

    def records(self, split: str) -> list[VideoRecord]:
        """Videos of a split that have features: one that could not be decoded has none."""
        first = next(iter(self.stores.values()))
        return [record for record in self.dataset.split(split) if record.video_id in first]

    def load(self, records: list[VideoRecord]) -> FeatureSplit:
        return load_padded(self.stores, records, self.dataset)

    def batches(self, split: str, size: int = 256) -> Iterator[FeatureSplit]:
        records = self.records(split)
        for start in range(0, len(records), size):
            yield self.load(records[start : start + size])


def _train(method: Method, data: _Data, config: TrialConfig, context: TrialContext) -> list[dict[str, float]]:
    training = config.training
    if not any(parameter.requires_grad for parameter in method.parameters()):
        return []
    records = data.records("train")
    steps_per_epoch = -(-len(records) // training.batch_size)
    total_steps = training.epochs * steps_per_epoch
    optimizer = torch.optim.Adam(
        method.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
    )
    history = _restore(context.get_checkpoint(), method, optimizer)
    method.train()
    for epoch in range(len(history), training.epochs):
        order = np.random.default_rng((config.seed, epoch)).permutation(len(records))
        # Noise restarts from a seed per epoch, so that a resumed trial sees what it would have seen.
        torch.manual_seed((config.seed * 100_003 + epoch) * 1009 + context.rank)
        parts: list[dict[str, float]] = []
        for i in range(steps_per_epoch):
            chosen = order[i * training.batch_size : (i + 1) * training.batch_size]
            progress = Progress(epoch * steps_per_epoch + i, total_steps)
            for group in optimizer.param_groups:
                group["lr"] = training.learning_rate * _rate(progress.fraction, training.warmup_fraction)
            mine = _share(chosen, context.rank, context.world_size)
            batch = _batch(data.load([records[j] for j in mine]), context.device)
            parts.append(_step(method, optimizer, batch, progress, training.clip_norm, context))
            context.heartbeat()
        history.append({name: float(np.mean([part[name] for part in parts])) for name in parts[0]})
        stopping = _asked_to_stop(context)
        if stopping or (epoch + 1) % training.checkpoint_every_epochs == 0 or epoch + 1 == training.epochs:
            _report(training, method, optimizer, history, context)
        if stopping:
            raise TrialStopped
    return history


def _asked_to_stop(context: TrialContext) -> bool:
    """Whether any worker of the group was asked: one that went on alone would wait for the others for ever."""
    asked = context.heartbeat()
    if context.world_size == 1:
        return asked
    flag = torch.tensor([float(asked)], device=context.device)
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
    return bool(flag.item())


def _rate(fraction: float, warmup: float) -> float:
    """One rise and one cosine fall of the learning rate, between 0 and 1."""
    if fraction < warmup:
        return max(fraction / warmup, 1e-3)
    return max(0.5 * (1 + np.cos(np.pi * (fraction - warmup) / (1 - warmup))), 1e-3)


def _share(chosen: Any, rank: int, world_size: int) -> Any:
    """This worker's part of a batch; a batch smaller than the group gives every worker all of it."""
    return chosen if len(chosen) < world_size else chosen[rank::world_size]


def _batch(split: FeatureSplit, device: torch.device) -> Batch:
    return Batch(
        features={source: values.to(device) for source, values in split.features.items()},
        mask=split.mask.to(device),
        targets=split.targets.to(device),
        video_keys=split.video_keys.to(device),
    )


def _step(
    method: Method,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    progress: Progress,
    clip_norm: float,
    context: TrialContext,
) -> dict[str, float]:
    loss = method.loss(batch, progress)
    if not bool(torch.isfinite(loss.total)):
        raise NonFiniteError(
            f"the loss became {float(loss.total.detach())} at step {progress.step}",
            "Lower training.learning_rate or the knob's range.",
        )
    optimizer.zero_grad()
    loss.total.backward()
    if context.world_size > 1:
        _average_gradients(method, context.world_size)
    torch.nn.utils.clip_grad_norm_(method.parameters(), clip_norm)
    optimizer.step()
    return {"loss": float(loss.total.detach()), **loss.parts}


def _average_gradients(method: torch.nn.Module, world_size: int) -> None:
    # DistributedDataParallel wraps `forward`, which a method has not; its parameters are few.
    # A frozen one keeps no gradient, or else weight decay would move it.
    parameters = [parameter for parameter in method.parameters() if parameter.requires_grad]
    gradients = [
        torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in parameters
    ]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(flat)
    flat /= world_size
    for parameter, part in zip(parameters, flat.split([g.numel() for g in gradients]), strict=True):
        parameter.grad = part.view_as(parameter)


def _report(
    training: TrainingConfig,
    method: Method,
    optimizer: torch.optim.Optimizer,
    history: list[dict[str, float]],
    context: TrialContext,
) -> None:
    progress = {"epoch": float(len(history)), "epochs": float(training.epochs), "loss": history[-1]["loss"]}
    if context.rank != 0:
        return context.report(progress)
    with tempfile.TemporaryDirectory() as folder:
        _save_checkpoint(Path(folder), method, optimizer, history)
        context.report(progress, Path(folder))
    return None


def _save_checkpoint(
    folder: Path, method: Method, optimizer: torch.optim.Optimizer, history: list[dict[str, float]]
) -> None:
    tensors = {f"model/{name}": value.contiguous() for name, value in method.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": value for name, value in state.items()}
    save_file(tensors, folder / "checkpoint.safetensors")
    (folder / "history.json").write_text(json.dumps(history, allow_nan=False))


def _restore(folder: Path | None, method: Method, optimizer: torch.optim.Optimizer) -> list[dict[str, float]]:
    if folder is None:
        return []
    tensors = load_file(folder / "checkpoint.safetensors")
    method.load_state_dict(
        {name.removeprefix("model/"): value for name, value in tensors.items() if name.startswith("model/")}
    )
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer/"):
            _, index, key = name.split("/", 2)
            state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    history: list[dict[str, float]] = json.loads((folder / "history.json").read_text())
    return history


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


def _describe(
    config: TrialConfig, dataset: Dataset, stores: Mapping[str, FeatureStore], method: Method
) -> dict[str, Any]:
    components = {source: store.component for source, store in stores.items()}
    return {
        "trial": config.trial,
        "digest": config.digest,
        "sweep": config.sweep,
        "method": config.method,
        "objective": OBJECTIVES[method.task],
        "is_baseline": method.is_baseline,
        "deployable": method.deployable,
        "seed": config.seed,
        "training_knobs": config.training_knobs,
        "model": method.portable(config.model),
        "training_config": asdict(config.training),
        "sources": components,
        "widths": {source: store.width for source, store in stores.items()},
        "data": {
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "features": {source: Path(config.features[source]).name for source in components},
            "classes": list(dataset.classes),
            "multi_label": dataset.multi_label,
            "step_seconds": dataset.step_seconds,
        },
        "code_version": code_version(),
        "torch_version": torch.__version__,
        "costs": cost_table(method, components, config.accounting, len(dataset.classes)).to_json(),
        "accounting": config.accounting,
        "parameters": sum(parameter.numel() for parameter in method.parameters()),
    }


def _evaluate(
    method: Method, data: _Data, config: TrialConfig, result: Mapping[str, Any], context: TrialContext
) -> list[dict[str, Any]]:
    """Measures every setting on validation and test; writes the scores; returns the operating points."""
    costs = CostTable.from_json(result["costs"])
    natural = {knob.name: knob.default for knob in method.inference_knobs if knob.name != "max_gflops"}
    settings: list[Setting] = method.settings()
    if config.inference_setting is not None:
        settings = [complete({**natural, **config.inference_setting})]
    measured: dict[str, list[Measured]] = {}
    truth: dict[str, FeatureSplit] = {}
    events: dict[str, tuple[tuple[Event, ...], ...]] = {}
    for name in EVALUATED_SPLITS:
        splits = list(data.batches(name))
        truth[name] = _concatenated(splits)
        if method.task == "localization":
            events[name] = true_instances(data.dataset, data.records(name))
        answered = (
            (
                split,
                run_settings(
                    method,
                    split,
                    settings,
                    components=result["sources"],
                    costs=costs,
                    expand=config.inference_setting is None,
                    step_seconds=data.dataset.step_seconds,
                ),
            )
            for split in _while_wanted(splits, context)
        )
        measured[name] = measure(answered, costs, max_steps=max(s.mask.shape[1] for s in splits))
    kept = _distinct(measured)
    _write_scores(Path(config.output), {n: [measured[n][i] for i in kept] for n in measured}, truth, events)
    return [
        {
            "id": f"{config.trial}-p{place:02d}",
            "natural": i == 0,
            "inference_knobs": dict(measured["val"][i].setting),
            **{
                name: measured[name][i].metrics(
                    truth[name].targets.numpy(),
                    truth[name].num_steps.numpy(),
                    used_above=min(CHEAPEST, len(method.looks()) - 2),
                    events=events.get(name),
                    dataset=data.dataset,
                )
                for name in EVALUATED_SPLITS
            },
        }
        for place, i in enumerate(kept)
    ]


def _natural(method: Method, data: _Data, config: TrialConfig, result: Mapping[str, Any]) -> dict[str, Any]:
    """The natural setting's figures on validation, whatever setting the study asked for."""
    if config.inference_setting is None:
        figures: dict[str, Any] = result["points"][0]["val"]
        return figures
    splits, costs = list(data.batches("val")), CostTable.from_json(result["costs"])
    natural = method.settings()[:1]
    answered = (
        (
            split,
            run_settings(
                method,
                split,
                natural,
                components=result["sources"],
                costs=costs,
                expand=False,
                step_seconds=data.dataset.step_seconds,
            ),
        )
        for split in splits
    )
    (measured,) = measure(answered, costs, max_steps=max(s.mask.shape[1] for s in splits))
    truth = _concatenated(splits)
    return measured.metrics(truth.targets.numpy(), truth.num_steps.numpy())


def _while_wanted(splits: list[FeatureSplit], context: TrialContext) -> Iterator[FeatureSplit]:
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


def _distinct(measured: Mapping[str, list[Measured]]) -> list[int]:
    """Indices of settings whose answers or cost differ, on any split, from those of all settings before."""
    kept: list[int] = []
    for i in range(len(measured["val"])):
        if not any(all(same_answers(points[i], points[j]) for points in measured.values()) for j in kept):
            kept.append(i)
    return kept


def _write_scores(
    folder: Path,
    measured: Mapping[str, list[Measured]],
    truth: Mapping[str, FeatureSplit],
    events: Mapping[str, tuple[tuple[Event, ...], ...]],
) -> None:
    tensors: dict[str, Tensor] = {}
    for name, points in measured.items():
        tensors[f"{name}/scores"] = torch.from_numpy(np.stack([point.scores for point in points]))
        tensors[f"{name}/gflops"] = torch.from_numpy(np.stack([point.gflops for point in points]))
        tensors[f"{name}/decisions"] = torch.from_numpy(np.stack([point.decisions for point in points]))
        tensors[f"{name}/targets"] = truth[name].targets
        tensors[f"{name}/num_steps"] = truth[name].num_steps
        if name in events:
            tensors[f"{name}/events"] = _rows(events[name])
            for i, point in enumerate(points):
                tensors[f"{name}/detections/{i}"] = _rows(point.detections or ())
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / "scores.safetensors.partial"
    save_file(
        tensors,
        temporary,
        metadata={name: json.dumps(list(split.video_ids)) for name, split in truth.items()},
    )
    _keep(temporary, folder / "scores.safetensors")


def _rows(videos: Sequence[Sequence[Event | Detection]]) -> Tensor:
    """`[rows, 5]` float64: the video's place, class, start and end in seconds, and score (1 for a true instance)."""
    rows = [
        (place, each.label, each.start_seconds, each.end_seconds, getattr(each, "score", 1.0))
        for place, found in enumerate(videos)
        for each in found
    ]
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 5)


def _write(folder: Path, result: Mapping[str, Any], method: Method) -> None:
    """Weights first, `result.json` last: a folder with a result is whole."""
    temporary = folder / "model.safetensors.partial"
    save_file({name: value.contiguous() for name, value in method.state_dict().items()}, temporary)
    _keep(temporary, folder / "model.safetensors")
    about = {key: result[key] for key in ("sweep", "trial", "seed", "data", "code_version")}
    method.export(folder, about)
    partial = folder / "result.json.partial"
    partial.write_text(json.dumps(result, indent=1, allow_nan=False))
    _keep(partial, folder / "result.json")


def _keep(partial: Path, path: Path) -> None:
    """Renames a file once its bytes are on the disk: a machine that dies leaves it whole or not at all."""
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)
