"""Training of backbones on the videos of the training split: plain PyTorch, on one or several workers.

Every video is decoded once, for all backbones, and what they are shown is kept in memory as it was decoded
(a part of the steps if a limit demands it). Each worker decodes and keeps its share of the videos and draws
its share of every batch from them; `DistributedDataParallel` averages the gradients.

Labels, `config.labels`:

* `step` (default; falls back to `video` where a data set does not know them): each step carries the label of
  what is seen or heard *in it*, and steps without evidence are one further class, "background". This stands
  in for what the papers' backbones know before they are fine-tuned: theirs were pre-trained on ImageNet or
  Kinetics, ours start from nothing, and the built-in set knows what each of its steps shows.
* `video`: every step is labelled with its video's label, as the papers fine-tune. On sparse evidence most of
  these labels are wrong, and backbones that start from nothing learn far less from them: on `moving_digits`
  the fine one names 21 % of the digits of the test split (a guess: 17 %), with `step` 94 %.

* `trimmed`: only steps with evidence, each with its label, and no class "background": what a network knows that was
  pre-trained on trimmed clips (Kinetics), as those of weakly supervised localization are. Where the action is and
  where only its context, nobody has labelled it.

Components that classify (`ComponentSpec.classifies`) take `video` or `trimmed`: their outputs are the data set's
classes and nothing else. With several labels a video they learn each class by itself (binary cross-entropy), as they
are read.

With `video_share` below 1, a part of the training split, chosen by a hash of the videos' ids, is kept from the
backbones: what a model selector learns from must not have been seen by the models that it selects among.

A class that a source cannot perceive (a sound, in a still frame) stays unlearned by that backbone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from paretovid.trainables.backbones.catalog import component, save_backbone
from paretovid.trainables.backbones.description import BackboneDescription, BackboneOrigin
from paretovid.trainables.backbones.spec import Backbone, ComponentSpec
from paretovid.trainables.data.dataset import Dataset, VideoRecord, is_for_backbones
from paretovid.trainables.data.flow import ZERO
from paretovid.trainables.data.regular_files import away, check_folder_is_there
from paretovid.trainables.data.s3 import ObjectStoreError
from paretovid.trainables.data.video_keys import video_key
from paretovid.trainables.data.videos import VideoReader
from paretovid.trainables.errors import DataError, NonFiniteError, UsageError, VideoError
from paretovid.trainables.layers.functional import classification_loss
from paretovid.trainables.ranges import (
    Count,
    Decay,
    OpenFraction,
    Positive,
    PositiveFraction,
    Seed,
    check_ranges,
)

if TYPE_CHECKING:
    from paretovid.trainables.context import TrialContext

BACKGROUND = "background"
Labels = Literal["step", "video", "trimmed"]
LABELS: tuple[Labels, ...] = ("step", "video", "trimmed")


@dataclass(frozen=True, kw_only=True, slots=True)
class BackboneTrainingConfig:
    """How backbones are trained."""

    labels: Labels = "step"
    effort: Positive = 1.0
    """Multiplies the samples that each component's training draws."""
    weight_decay: Decay = 0.02
    background_share: OpenFraction = 0.3
    """Share of the samples without evidence, with `labels=step`."""
    own_share: OpenFraction = 0.7
    """Share of the samples with evidence that are of a component's own class groups, where those are known."""
    video_share: Annotated[PositiveFraction, "1: all videos."] = 1.0
    """Share of the training split's videos that backbones are trained on (`is_for_backbones`)."""
    memory_mb: Count = 2048
    """Decoded inputs kept, over all workers; beyond it, a part of each video's steps is kept."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_ranges(self, "backbones.training")
        if self.labels not in LABELS:
            raise UsageError(f"backbones.labels cannot be {self.labels!r}", f"Allowed: {', '.join(LABELS)}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedBackbones:
    """What a training of backbones came to."""

    trained: Mapping[str, Mapping[str, float]]
    """Component to how its training went, by name."""
    kept: tuple[str, ...]
    """Components that were there, trained alike."""
    skipped: Mapping[str, str]
    """Path to the reason, of this rank's videos that could not be read."""


def train_backbones(
    config: BackboneTrainingConfig,
    dataset: Dataset,
    names: Sequence[str],
    out_root: Path,
    context: TrialContext,
) -> TrainedBackbones:
    """Trains components and saves each in `out_root/<name>/`; one that is there, trained alike, is kept.

    With `context.world_size > 1`, a torch process group must be there, and every rank calls this. The result
    depends on the seed and the number of workers, not on where they run.

    Returns the same on every rank, but for the videos that were skipped. Raises `DataError` if not one video can be
    read, `UnavailableDataError` if one is missing with its whole folder, `VersionError` for a backbone that a later
    version has left.
    """
    # The sums of a matrix product depend on the number of threads; results must not.
    torch.set_num_threads(1)
    check_labels(config, names)
    labels = labels_taught(config, dataset)
    origin = BackboneOrigin(
        labels=(*dataset.classes, *([BACKGROUND] if labels == "step" else [])),
        training={**asdict(config), "labels": labels, "workers": context.world_size},
        dataset=dataset.name,
        dataset_fingerprint=dataset.fingerprint,
    )
    kept = tuple(name for name in names if _is_trained(out_root / name, origin, context))
    wanted = [component(name) for name in names if name not in kept]
    if not wanted:
        return TrainedBackbones(trained={}, kept=kept, skipped={})
    samples = decode_samples(dataset, wanted, labels, config, context)
    trained: dict[str, Mapping[str, float]] = {}
    for stage, spec in enumerate(wanted, start=1):
        backbone, measured = _train_one(spec, samples, len(origin.labels), config, context, float(stage))
        if context.rank == 0:
            save_backbone(out_root / spec.name, spec.name, backbone, origin, measured=measured)
        trained[spec.name] = measured
    return TrainedBackbones(trained=trained, kept=kept, skipped=samples.skipped)


def check_labels(config: BackboneTrainingConfig, names: Sequence[str]) -> None:
    """Raises `UsageError` if components are among `names` that these labels do not teach to classify."""
    classifying = [name for name in names if component(name).classifies]
    if classifying and config.labels == "step":
        raise UsageError(
            f"{classifying[0]} classifies by itself, which backbones.training.labels=step does not teach: it has a "
            "class more, background",
            "Set backbones.training.labels=video, or trimmed (where the labels of steps are known).",
        )


def _training_videos(dataset: Dataset, config: BackboneTrainingConfig) -> tuple[VideoRecord, ...]:
    """Raises `DataError` if the share is so small that no video is left."""
    records = dataset.split("train")
    keys = torch.tensor([video_key(record.video_id) for record in records])
    is_chosen = is_for_backbones(keys, config.video_share).tolist()
    chosen = tuple(record for record, taken in zip(records, is_chosen, strict=True) if taken)
    if not chosen:
        raise DataError(
            f"none of {len(records)} training videos is among the share of {config.video_share} for backbones",
            "Raise backbones.training.video_share, or take more videos.",
        )
    return chosen


def labels_taught(config: BackboneTrainingConfig, dataset: Dataset) -> Labels:
    """What `config.labels` becomes on these videos."""
    knows_steps = all(record.step_labels is not None for record in dataset.split("train"))
    return config.labels if knows_steps else "video"


def _is_trained(folder: Path, origin: BackboneOrigin, context: TrialContext) -> bool:
    """What rank 0 finds: ranks on other machines may not see the folder."""
    described = BackboneDescription.find(folder)
    found = described is not None and described.origin == origin
    if context.world_size == 1:
        return found
    shared = torch.tensor([float(found)], device=context.device)
    torch.distributed.broadcast(shared, src=0)
    return bool(shared.item())


@final
@dataclass(frozen=True, slots=True)
class Samples:
    """This rank's decoded steps."""

    inputs: dict[str, np.ndarray]
    """Component to `[steps, ...]`."""
    targets: np.ndarray
    """`[steps, classes]` float32, rows add up to one (one-hot, or several labels of equal weight)."""
    groups: tuple[str, ...]
    """Group of each column of `targets`: `background` for steps without evidence, "" where unknown."""
    multi_label: bool
    skipped: dict[str, str]


def decode_samples(
    dataset: Dataset,
    wanted: Sequence[ComponentSpec],
    labels: Labels,
    config: BackboneTrainingConfig,
    context: TrialContext,
) -> Samples:
    videos = _training_videos(dataset, config)
    mine = videos[context.rank :: context.world_size]
    specs = {spec.name: spec.input for spec in wanted}
    limit = _steps_that_fit(wanted, config.memory_mb // context.world_size, len(mine))
    generator = np.random.default_rng((config.seed, context.rank))
    inputs: dict[str, list[np.ndarray]] = {spec.name: [] for spec in wanted}
    targets: list[np.ndarray] = []
    skipped: dict[str, str] = {}
    for number, record in enumerate(mine):
        path = dataset.video_path(record)
        try:
            with VideoReader(path, step_seconds=dataset.step_seconds, limits=dataset.limits) as reader:
                target = _targets(record, reader.num_steps, len(dataset.classes), labels)
                chosen = _choose_steps(target.sum(axis=1) > 0, limit, generator)
                # Not more than is kept: all steps of a long video may take gigabytes.
                read = [
                    {name: reader.read(step, spec) for name, spec in specs.items()}
                    for step in chosen.tolist()
                ]
        except VideoError as error:
            if isinstance(path, Path):
                check_folder_is_there(path)
            skipped[str(path)] = error.message
            continue
        except ObjectStoreError:
            raise
        except OSError as error:
            raise away(path, error) from error
        targets.append(target[chosen])
        for name in specs if read else ():
            inputs[name].append(np.stack([values[name] for values in read]))
        # Every rank must report equally often; shares differ by at most one video.
        if (number + 1) % 20 == 0 and number < len(videos) // context.world_size:
            report(context, stage=0.0, done=number + 1, total=len(mine))
    if not targets:
        reason = next(iter(skipped.values()), "it has none for this worker")
        raise DataError(
            f"not one training video of {dataset.name} could be read: {reason}",
            "Check the files, and that there are at least as many videos as workers.",
        )
    joined = {name: np.concatenate(values) for name, values in inputs.items()}
    return Samples(
        inputs=joined,
        targets=np.concatenate(targets),
        groups=_groups(dataset, labels),
        multi_label=dataset.multi_label,
        skipped=skipped,
    )


def _groups(dataset: Dataset, labels: Labels) -> tuple[str, ...]:
    own = [dataset.class_groups.get(name, "") for name in dataset.classes]
    return tuple(own) + ((BACKGROUND,) if labels == "step" else ())


def _steps_that_fit(wanted: Sequence[ComponentSpec], memory_mb: int, num_videos: int) -> int:
    """Steps of each video that can be kept, at least one."""
    each = sum(step_bytes(spec) for spec in wanted)
    return max(1, memory_mb * 2**20 // (each * max(1, num_videos)))


def step_bytes(spec: ComponentSpec) -> int:
    """Of one decoded step."""
    return (4 if spec.input.kind == "logmel" else 1) * math.prod(spec.input.shape)


def _targets(record: VideoRecord, num_steps: int, num_classes: int, labels: Labels) -> np.ndarray:
    """`[num_steps, outputs]` of one video; a file may hold fewer steps than its record says."""
    if labels == "video":
        row = np.zeros(num_classes, np.float32)
        row[list(record.labels)] = 1 / max(1, len(record.labels))
        return np.tile(row, (num_steps, 1))
    assert record.step_labels is not None
    known = np.full(num_steps, -1)
    known[: len(record.step_labels)] = record.step_labels[:num_steps]
    targets = np.zeros((num_steps, num_classes + 1), np.float32)
    targets[np.arange(num_steps), known] = 1  # -1, nothing, is the last column: background
    return targets[:, :-1] if labels == "trimmed" else targets


def _choose_steps(is_labelled: np.ndarray, limit: int, generator: np.random.Generator) -> np.ndarray:
    """At most `limit` of the steps that have a label."""
    steps = np.flatnonzero(is_labelled)
    return steps if len(steps) <= limit else np.sort(generator.choice(steps, limit, replace=False))


def _train_one(
    spec: ComponentSpec,
    samples: Samples,
    num_outputs: int,
    config: BackboneTrainingConfig,
    context: TrialContext,
    stage: float,
) -> tuple[Backbone, dict[str, float]]:
    """The trained backbone in eval mode, and how its training went."""
    started = time.perf_counter()
    torch.manual_seed(config.seed)
    backbone = spec.build(num_outputs)
    if spec.input.kind == "logmel":  # sound has no fixed range, as pixels have
        values = samples.inputs[spec.name]
        backbone.input_mean.fill_(float(values.mean()))
        backbone.input_std.fill_(float(values.std()) + 1e-3)
    classifier: nn.Module = StepClassifier(backbone.to(context.device)).train()
    if context.world_size > 1:
        # Every rank starts from the weights and input statistics of rank 0.
        classifier = nn.parallel.DistributedDataParallel(classifier)
    # The schedule cannot divide fewer steps into a rise and a fall.
    total = max(10, round(spec.recipe.samples * config.effort / spec.recipe.batch_size))
    optimizer = torch.optim.AdamW(
        classifier.parameters(), lr=spec.recipe.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, spec.recipe.learning_rate, total_steps=total, pct_start=0.2
    )
    torch.manual_seed(config.seed * 1009 + context.rank + 1)
    losses: list[float] = []
    hits: list[float] = []
    batches = _batches(samples, spec, total, config, context)
    has_tags = spec.classifies and samples.multi_label
    for step, (inputs, targets) in enumerate(batches):
        logits = classifier(inputs.to(context.device))
        targets = targets.to(context.device)
        # Members of a pool are read as they are trained: each class by itself if a video may have several.
        loss = classification_loss(
            logits,
            (targets > 0).float() if has_tags else targets,
            multi_label=has_tags,
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        hits.append(float((logits.argmax(-1) == targets.argmax(-1)).float().mean()))
        if (step + 1) % max(1, total // 10) == 0:
            check_finite(spec.name, losses[-1])
            report(context, stage=stage, done=step + 1, total=total, loss=losses[-1])
    check_finite(spec.name, losses[-1])
    last = max(1, total // 10)
    return backbone.eval(), {
        "steps": float(total),
        "loss": float(np.mean(losses[-last:])),
        "accuracy": float(np.mean(hits[-last:])),
        "seconds": time.perf_counter() - started,
    }


@final
class StepClassifier(nn.Module):
    """Inputs to logits in one `forward`, which is what DistributedDataParallel wraps."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, inputs: Tensor) -> Tensor:
        """Samples `[B, ...]`, as the backbone reads them, to logits `[B, C]`."""
        return self.backbone.classify(self.backbone.features(inputs))


def _batches(
    samples: Samples,
    spec: ComponentSpec,
    total: int,
    config: BackboneTrainingConfig,
    context: TrialContext,
) -> Iterator[tuple[Tensor, Tensor]]:
    """This rank's share of each batch, drawn from its own steps, lightly varied."""
    generator = np.random.default_rng((config.seed, context.rank, 1))
    probabilities = _sampling(samples.targets, samples.groups, spec.recipe.own_groups, config)
    # Batch normalisation needs two samples.
    size = max(2, spec.recipe.batch_size // context.world_size)
    for _ in range(total):
        chosen = generator.choice(len(samples.targets), size, p=probabilities)
        inputs = varied(torch.from_numpy(samples.inputs[spec.name][chosen]), spec)
        yield inputs, torch.from_numpy(samples.targets[chosen])


def _sampling(
    targets: np.ndarray, groups: Sequence[str], own_groups: Sequence[str], config: BackboneTrainingConfig
) -> np.ndarray:
    """`[steps]` probabilities: evidence, and evidence for this component, is drawn more often than it occurs."""
    step_groups = np.array(groups)[targets.argmax(axis=1)]
    is_background = step_groups == BACKGROUND
    is_own = np.isin(step_groups, own_groups)
    evidence = 1 - config.background_share
    is_other = ~is_background & ~is_own
    own_share = config.own_share if is_own.any() and is_other.any() else float(is_own.any())
    weights = np.zeros(len(targets))
    for chosen, share in (
        (is_background, config.background_share),
        (is_own, evidence * own_share),
        (is_other, evidence * (1 - own_share)),
    ):
        weights[chosen] = share / max(1, chosen.sum())
    answer: np.ndarray = weights / weights.sum()
    return answer


def varied(inputs: Tensor, spec: ComponentSpec) -> Tensor:
    """N samples `[N, ...]` as float32, slightly changed, from torch's global generator; the shape stays.

    Pictures are moved by up to a tenth, turned, scaled, brightened and given noise, all frames of a snippet
    alike; they are never mirrored, which would change digits and directions. Flow is moved, made faster or slower and
    given noise. Sounds are moved in time and made louder or softer.
    """
    count, kind = len(inputs), spec.input.kind
    inputs = inputs.float()
    column = (count, *(1 for _ in inputs.shape[1:]))
    if kind == "logmel":
        shift = int(torch.randint(-2, 3, ()))
        return inputs.roll(shift, dims=2) + torch.empty(column).uniform_(-0.5, 0.5)
    angle, move = torch.empty(count).uniform_(-0.15, 0.15), torch.empty(count, 2).uniform_(-0.2, 0.2)
    scale = torch.empty(count).uniform_(0.9, 1.1)
    if kind == "flow":
        angle, scale = torch.zeros(count), torch.ones(count)  # its directions would have to turn with it
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    affine = torch.stack([cosine, -sine, move[:, 0], sine, cosine, move[:, 1]], dim=1).view(count, 2, 3)
    size = spec.input.size
    flat = inputs.movedim(-1, 1).reshape(count, -1, size, size)  # colours and frames as channels
    grid = functional.affine_grid(affine, [count, 1, size, size], align_corners=False)
    moved = functional.grid_sample(flat, grid, padding_mode="border", align_corners=False)
    varied = moved.view(count, inputs.shape[-1], *inputs.shape[1:-1]).movedim(1, -1)
    if kind == "flow":
        faster = torch.empty(column).uniform_(0.8, 1.2)
        return ZERO + (varied - ZERO) * faster + 3 * torch.randn(varied.shape)
    varied = varied * torch.empty(column).uniform_(0.8, 1.2) + torch.empty(column).uniform_(-20, 20)
    return varied + 4 * torch.randn(varied.shape)


def check_finite(name: str, loss: float) -> None:
    if not np.isfinite(loss):
        raise NonFiniteError(
            f"the loss of backbone {name} became {loss}",
            "Check its inputs; a lower backbones.effort or another seed may help.",
        )


def report(context: TrialContext, *, stage: float, done: int, total: int, **more: float) -> None:
    context.report({"stage": stage, "done": float(done), "total": float(total), **more})
