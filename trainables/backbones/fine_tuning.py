"""Fine-tuning of a backbone whose weights come from elsewhere, on a data set's videos: plain PyTorch.

As the papers do before they extract features (LiteEval 4.1, HCMS 4.1.3, VideoEpitoma 3.1): the network is trained on as
a classifier of single steps, each with its video's labels. One or several workers; `DistributedDataParallel` averages
the gradients. What a batch holds follows from seed, rank and step alone, so that a training that resumed from its
checkpoint ends, on the same kind of machine, with the weights of one that was never interrupted.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from paretovid.trainables.backbones.catalog import component, load_backbone, save_backbone
from paretovid.trainables.backbones.description import BackboneDescription, BackboneOrigin
from paretovid.trainables.backbones.precision import Precision, check_precision
from paretovid.trainables.backbones.spec import Backbone, ComponentSpec
from paretovid.trainables.backbones.training import (
    BackboneTrainingConfig,
    Samples,
    StepClassifier,
    check_finite,
    decode_samples,
    report,
    step_bytes,
    varied,
)
from paretovid.trainables.data.dataset import Dataset
from paretovid.trainables.data.partial_files import partial_file
from paretovid.trainables.documents import Fields, JsonObject, JsonValue, parse_json, save_tensors
from paretovid.trainables.errors import DataError, NonFiniteError, UsageError, VersionError
from paretovid.trainables.layers.functional import classification_loss
from paretovid.trainables.ranges import Count, Decay, Positive, PositiveFraction, Seed, check_ranges

if TYPE_CHECKING:
    from paretovid.trainables.context import TrialContext

_STATE, _ABOUT = "state.safetensors", "about.json"
_VERSION = 1
"""Of `about.json`; those without a version are of version 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FineTuningConfig:
    """How a backbone is fine-tuned."""

    samples: Count = 200_000
    """Steps drawn in all, over all workers."""
    batch_size: Count = 64
    """Over all workers."""
    learning_rate: Positive = 1e-4
    """The highest: it rises over the first tenth and falls as a cosine to nothing."""
    weight_decay: Decay = 0.02
    precision: Precision = "float32"
    """`float32`, or `bfloat16` or `float16` by autocast; weights stay float32, float16 scales its loss."""
    checkpoint_every_steps: Count = 200
    video_share: PositiveFraction = 1.0
    """Share of the training split's videos (`is_for_backbones`)."""
    memory_mb: Count = 16_384
    """Decoded inputs kept, over all workers; beyond it, a part of each video's steps is kept."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_ranges(self, "backbones.fine_tuning")
        check_precision(self.precision)

    @property
    def total_steps(self) -> int:
        """Steps of the optimizer."""
        return max(1, round(self.samples / self.batch_size))

    def decoding(self) -> BackboneTrainingConfig:
        """What of it decides which steps are kept."""
        return BackboneTrainingConfig(
            labels="video", video_share=self.video_share, memory_mb=self.memory_mb, seed=self.seed
        )

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        rise = max(1, self.total_steps // 10)
        if step < rise:
            return self.learning_rate * (step + 1) / rise
        return (
            self.learning_rate
            * 0.5
            * (1 + math.cos(math.pi * (step - rise) / max(1, self.total_steps - rise)))
        )


@dataclass(frozen=True, slots=True)
class _State:
    """What a step changes, and a checkpoint keeps."""

    backbone: Backbone
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler

    @classmethod
    def of(cls, backbone: Backbone, config: FineTuningConfig, context: TrialContext) -> _State:
        """That of a backbone before the first step."""
        backbone = backbone.to(context.device).train()
        scales = config.precision == "float16" and context.device.type == "cuda"
        return cls(
            backbone=backbone,
            optimizer=torch.optim.AdamW(
                backbone.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
            ),
            scaler=torch.amp.GradScaler(context.device.type, enabled=scales),
        )


def fine_tune(
    config: FineTuningConfig,
    dataset: Dataset,
    name: str,
    start: Path,
    out_folder: Path,
    context: TrialContext,
    *,
    checkpoint: Path,
    on_checkpoint: Callable[[Path], object] = lambda folder: None,
    on_skipped: Callable[[Mapping[str, str]], object] = lambda skipped: None,
) -> dict[str, float]:
    """Fine-tunes the component `name` and saves it in `out_folder`.

    Arguments:
        start: folder of the backbone to begin with, whose classifier has the data set's classes.
        checkpoint: folder that rank 0 keeps the state in, `<steps done>/`, and resumes from if it is of this training.
        on_checkpoint: called with it whenever it was written.
        on_skipped: called once, with path to reason of this rank's videos that could not be read.

    With `context.world_size > 1` a torch process group must be there, and every rank calls this. Returns how it went,
    by name. Raises `DataError` if the backbone or not one video can be read, `VersionError` for a checkpoint of a later
    version, `NonFiniteError` if the loss stops being a number.
    """
    torch.set_num_threads(1)
    began = time.perf_counter()
    backbone, origin = _begin(config, dataset, name, start, context)
    _check_memory(config, dataset, component(name))
    samples = decode_samples(dataset, [component(name)], "video", config.decoding(), context)
    on_skipped(samples.skipped)
    state = _State.of(backbone, config, context)
    first = _restore(checkpoint, origin, state, context)

    def keep(done: int) -> None:
        if context.rank == 0:
            _keep(checkpoint, origin, done, state)
            on_checkpoint(checkpoint)

    losses = _train(config, name, samples, state, context, first=first, keep=keep)
    last = losses[-max(1, config.total_steps // 10) :]
    measured = {
        "steps": float(config.total_steps),
        "went_on_at_step": float(first),
        "loss": float(np.mean(last)) if last else float("nan"),
        "seconds": time.perf_counter() - began,
    }
    if context.rank == 0:
        save_backbone(
            out_folder, name, backbone.eval(), origin, measured=measured, skipped=len(samples.skipped)
        )
        shutil.rmtree(checkpoint, ignore_errors=True)
    return measured


def _begin(
    config: FineTuningConfig, dataset: Dataset, name: str, start: Path, context: TrialContext
) -> tuple[Backbone, BackboneOrigin]:
    """The backbone before its first step, and what it is made from."""
    came_from: JsonObject = {}
    # The others get their weights, as they get everything, from rank 0.
    if context.rank == 0:
        backbone, loaded = load_backbone(start)
        came_from = loaded.origin.training
    else:
        backbone = component(name).build(len(dataset.classes))
    workers = context.world_size
    return backbone, BackboneOrigin(
        labels=tuple(dataset.classes),
        training={**asdict(config), **came_from, "fine_tuned": True, "labels": "video", "workers": workers},
        dataset=dataset.name,
        dataset_fingerprint=dataset.fingerprint,
    )


def _train(
    config: FineTuningConfig,
    name: str,
    samples: Samples,
    state: _State,
    context: TrialContext,
    *,
    first: int,
    keep: Callable[[int], None],
) -> list[float]:
    """Takes the steps from `first` on; returns the loss of each. `keep`: called with the steps done."""
    classifier: nn.Module = StepClassifier(state.backbone)
    if context.world_size > 1:
        classifier = nn.parallel.DistributedDataParallel(classifier)
    losses: list[float] = []
    for done in range(first + 1, config.total_steps + 1):
        for group in state.optimizer.param_groups:
            group["lr"] = config.rate(done - 1)
        inputs, targets = _batch(samples, name, config, context, done - 1)
        with _lower(config.precision, context.device):
            logits = classifier(inputs.to(context.device))
        targets = targets.to(context.device)
        loss = classification_loss(
            logits.float(),
            (targets > 0).float() if samples.multi_label else targets,
            multi_label=samples.multi_label,
        )
        state.optimizer.zero_grad()
        state.scaler.scale(loss).backward()
        state.scaler.step(state.optimizer)
        state.scaler.update()
        losses.append(float(loss.detach()))
        if done % max(1, config.total_steps // 100) == 0 or done == config.total_steps:
            check_finite(name, losses[-1])
            report(context, stage=1.0, done=done, total=config.total_steps, loss=losses[-1])
        if done % config.checkpoint_every_steps == 0 and done < config.total_steps:
            check_finite(name, losses[-1])
            keep(done)
    return losses


def _check_memory(config: FineTuningConfig, dataset: Dataset, spec: ComponentSpec) -> None:
    """Raises `UsageError` if not even one step of each video can be kept."""
    videos = len(dataset.split("train")) * config.video_share
    wanted = math.ceil(videos * step_bytes(spec) / 2**20)
    if wanted > config.memory_mb:
        raise UsageError(
            f"one step of each of {videos:.0f} videos is {wanted} MB for {spec.name}, more than memory_mb="
            f"{config.memory_mb}",
            f"Allow more (backbones.fine_tuning.memory_mb, over all workers), or take fewer videos: "
            f"backbones.fine_tuning.video_share={max(0.01, math.floor(90 * config.memory_mb / wanted) / 100):g}.",
        )


def is_fine_tuned(described: BackboneDescription, config: FineTuningConfig) -> bool:
    """Whether what is recorded of a backbone says that it was fine-tuned so, by however many workers."""
    asked, recorded = asdict(config), described.origin.training
    return described.is_fine_tuned and {key: recorded.get(key) for key in asked} == asked


def _lower(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))


def _batch(
    samples: Samples, name: str, config: FineTuningConfig, context: TrialContext, step: int
) -> tuple[Tensor, Tensor]:
    """This rank's share of a step's batch, `[B, ...]` and `[B, C]`."""
    generator = np.random.default_rng((config.seed, context.rank, step))
    torch.manual_seed(int(generator.integers(2**31)))
    # Batch normalisation needs two samples.
    size = max(2, config.batch_size // context.world_size)
    chosen = generator.choice(len(samples.targets), size)
    inputs = varied(torch.from_numpy(samples.inputs[name][chosen]), component(name))
    return inputs, torch.from_numpy(samples.targets[chosen])


@dataclass(frozen=True, kw_only=True, slots=True)
class _Checkpoint:
    """What `about.json` of a checkpoint says of the tensors beside it."""

    origin: BackboneOrigin
    done: int
    """Steps."""
    scale: float
    """Of the loss, in float16."""

    def to_json(self) -> dict[str, JsonValue]:
        return {
            "version": _VERSION,
            "about": self.origin.to_json(),
            "done": self.done,
            "scale": self.scale,
        }

    @classmethod
    def find(cls, folder: Path) -> _Checkpoint | None:
        """That of a checkpoint; None if it is damaged. Raises `VersionError` for one of a later version."""
        path = folder / _ABOUT
        try:
            fields = Fields(parse_json(path.read_text()), str(path), "")
            fields.check_version(_VERSION)
            return cls(
                origin=BackboneOrigin.from_json(fields.fields("about")),
                done=fields.whole("done"),
                scale=fields.number("scale"),
            )
        except VersionError:
            raise
        except (OSError, ValueError, DataError, NonFiniteError):
            return None


def _tensors(state: _State) -> dict[str, Tensor]:
    """Every tensor that the next step depends on, by name."""
    kept = {f"backbone.{name}": value for name, value in state.backbone.state_dict().items()}
    for index, values in state.optimizer.state_dict()["state"].items():
        kept |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in values.items()}
    return {name: value.detach().cpu().contiguous() for name, value in kept.items()}


def _keep(folder: Path, origin: BackboneOrigin, done: int, state: _State) -> None:
    """Writes `folder/<steps done>/`, whole or not at all; those before it go when it is there."""
    target = folder / f"{done:08d}"
    scale = state.scaler.get_scale() if state.scaler.is_enabled() else 1.0
    about = _Checkpoint(origin=origin, done=done, scale=scale)
    with partial_file(folder / f".{target.name}.{uuid.uuid4().hex[:6]}.partial") as partial:
        partial.mkdir(parents=True)
        save_tensors(_tensors(state), partial / _STATE)
        (partial / _ABOUT).write_text(json.dumps(about.to_json()))
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    for other in folder.iterdir():
        if other != target:
            shutil.rmtree(other, ignore_errors=True)


def _newest(folder: Path, origin: BackboneOrigin) -> tuple[int, dict[str, Tensor], float]:
    """Steps done, state and scale of the last checkpoint of this training; 0 if there is none.

    Raises `UsageError` for one by another number of workers, which would be lost otherwise, `VersionError` for one of a
    later version.
    """
    asked = origin.training["workers"]
    for kept in sorted(folder.glob("[0-9]*"), reverse=True):
        found = _Checkpoint.find(kept)
        if found is None:
            continue
        if found.origin == origin:
            with contextlib.suppress(OSError, SafetensorError):  # its state cannot be read
                return found.done, load_file(kept / _STATE), found.scale
        elif replace(found.origin, training={**found.origin.training, "workers": asked}) == origin:
            workers = found.origin.training.get("workers")
            raise UsageError(
                f"the fine-tuning in {kept} was begun by {workers} workers, not {asked}",
                f"Resume with backbones.workers={workers}, or remove that folder to begin anew.",
            )
    return 0, {}, 1.0


def _restore(folder: Path, origin: BackboneOrigin, state: _State, context: TrialContext) -> int:
    """Brings all ranks to the state of rank 0's checkpoint. Returns how many steps are done."""
    done, tensors, scale = _newest(folder, origin) if context.rank == 0 else (0, {}, 1.0)
    if context.world_size > 1:
        shared = torch.tensor([float(done), scale], device=context.device)
        torch.distributed.broadcast(shared, src=0)
        done, scale = int(shared[0].item()), float(shared[1].item())
    if done == 0:
        return 0
    if context.world_size > 1:
        names: list[Any] = [{name: list(value.shape) for name, value in tensors.items()}]
        torch.distributed.broadcast_object_list(names, src=0, device=context.device)
        tensors = {
            name: _from_rank_0(tensors.get(name), shape, name, state.backbone, context)
            for name, shape in names[0].items()
        }
    _load(tensors, state)
    if state.scaler.is_enabled():
        state.scaler.load_state_dict({**state.scaler.state_dict(), "scale": scale})
    return done


def _from_rank_0(
    value: Tensor | None, shape: list[int], name: str, backbone: Backbone, context: TrialContext
) -> Tensor:
    whole = name.startswith("backbone.")
    dtype = backbone.state_dict()[name.removeprefix("backbone.")].dtype if whole else torch.float32
    here = torch.empty(shape, dtype=dtype, device=context.device)
    if value is not None:
        here.copy_(value)
    torch.distributed.broadcast(here, src=0)
    return here


def _load(tensors: Mapping[str, Tensor], state: _State) -> None:
    state.backbone.load_state_dict(
        {
            name.removeprefix("backbone."): value
            for name, value in tensors.items()
            if name.startswith("backbone.")
        }
    )
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            moments.setdefault(int(index), {})[key] = value
    state.optimizer.load_state_dict({**state.optimizer.state_dict(), "state": moments})
