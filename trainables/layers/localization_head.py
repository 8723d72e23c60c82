"""Weakly supervised localization of actions: heads that learn from video labels when something happens.

S. Paul, S. Roy, A. K. Roy-Chowdhury: "W-TALC: Weakly-supervised Temporal Activity Localization and Classification",
ECCV 2018. A head scores every clip for every class; a video's score is the mean of its k = ceil(T / 8) best clips
(multiple-instance learning), and videos that share a class are to look alike where it is active and unlike where it
is not (co-activity similarity). Instances are runs of clips above half of a class's range in the video.

Symbols: x_t `[D]` features of clip t, a(t, c) activations `[T, C]`, s_c video scores `[C]`.

Activations are the softmax of the logits over classes, in training and evaluation: the heads of two sources are
trained apart, and their logits have no common scale; a clip that says nothing has 1 / C for every class whichever
head judges it. Scaling by a video's own range instead would need all clips of it, also those that a method saved.

Departures from W-TALC: classes are kept whose video score is above chance (1 / C), where it asks for logits above 0;
scores are divided by their largest value, 1.7, which changes no order. Shorter videos are not cut or repeated.

B videos, T clips (padded), D width of a source, H hidden units, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, final

import torch
from torch import Tensor, nn

from paretovid.trainables.cost import ComponentCost, measure_macs
from paretovid.trainables.errors import NonFiniteError
from paretovid.trainables.layers.whole_batch import rows_of_all_workers
from paretovid.trainables.outcome import Batch, Detection, Outcome
from paretovid.trainables.provider import Provider
from paretovid.trainables.ranges import (
    Count,
    Dropout,
    NonNegative,
    OpenFraction,
    Range,
    Weight,
    Whole,
    Width,
    check_ranges,
)

APPEARANCE = "appearance"
MOTION_SOURCES = ("flow", "difference")


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadConfig:
    """A localization head and its losses."""

    hidden: Width = 64
    dropout: Dropout = 0.5
    """Of the embedded clips in training; W-TALC has 0.7 for 2048 units."""
    clips_per_best: Count = 8
    """k = ceil(T / this): how many clips stand for a video."""
    similarity_weight: Annotated[
        float, Range(0, 1, below=True), "W-TALC has 0.5; 0 leaves the co-activity similarity out."
    ] = 0.5
    """Share of the co-activity similarity loss; the rest goes to the multiple-instance loss."""
    similarity_margin: NonNegative = 0.5

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class ProposalConfig:
    """How activations become instances."""

    threshold: OpenFraction = 0.5
    """Where between a class's smallest and largest activation in a video an instance begins."""
    least_clips: Count = 2
    """Shorter runs are no instance; a video of fewer clips may be one."""
    class_weight: Weight = 0.7
    """Weight of the class's video score in an instance's score, beside its largest activation."""
    snap_clips: Whole = 0
    """Moves both ends of an instance to the sharpest change of appearance within so many clips; 0: leaves them. After
    ActionBytes (Jain et al., CVPR 2020), which cuts videos where features change; the step that Conditional Model
    Selection takes with it is not described, so this one is ours."""

    def __post_init__(self) -> None:
        check_ranges(self)


@final
class LocalizationHead(nn.Module):
    """Clips of one source to an embedding and class logits; each clip by itself.

    Arguments:
        width: D of the source.
        component: the name under which its calls are counted, one per clip.
    """

    def __init__(self, config: HeadConfig, *, width: int, num_classes: int, component: str) -> None:
        super().__init__()
        self.component = component
        self.width = width
        self.embed = nn.Sequential(nn.Linear(width, config.hidden), nn.ReLU(), nn.Dropout(config.dropout))
        self.classify = nn.Linear(config.hidden, num_classes)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Embedding `[..., H]` and logits `[..., C]` of features `[..., D]`."""
        embedded = self.embed(features)
        return embedded, self.classify(embedded)

    def activations(self, features: Tensor) -> Tensor:
        """a `[..., C]` between 0 and 1, on the scale that all heads share."""
        return torch.softmax(self(features)[1], dim=-1)

    def component_cost(self) -> dict[str, ComponentCost]:
        """Measured cost per clip."""
        example = self.classify.weight.new_zeros(1, self.width)
        return {
            self.component: ComponentCost(macs=measure_macs(self, example), input=f"{self.width} features")
        }


def best_clips_mean(values: Tensor, mask: Tensor, clips_per_best: int) -> Tensor:
    """`[B, C]`: mean of the k = ceil(T / clips_per_best) largest of `values` `[B, T, C]` where `mask` `[B, T]`."""
    count = mask.sum(dim=1)
    k = (count + clips_per_best - 1).div(clips_per_best, rounding_mode="floor")
    ranked = values.masked_fill(~mask[..., None], -torch.inf).sort(dim=1, descending=True).values
    taken = torch.arange(values.shape[1], device=values.device) < k[:, None]
    return ranked.masked_fill(~taken[..., None], 0.0).sum(dim=1) / k.clamp(min=1)[:, None]


def multiple_instance_loss(video_logits: Tensor, targets: Tensor) -> Tensor:
    """Scalar: cross-entropy of `[B, C]` logits with targets normalised to sum 1. A video without labels counts 0."""
    share = targets / targets.sum(dim=1, keepdim=True).clamp(min=1)
    return -(share * torch.log_softmax(video_logits, dim=1)).sum(dim=1).mean()


def co_activity_loss(
    embedded: Tensor, logits: Tensor, mask: Tensor, targets: Tensor, margin: float, workers: int = 1
) -> Tensor:
    """Scalar: the co-activity similarity loss over all pairs of the batch that share a class (Eq. 6-8 of W-TALC).

    Where a class is active (softmax of its logits over time) two videos of it are to be closer to each other, in
    cosine distance, than the active part of either is to the inactive part of the other, by `margin`.

    Arguments:
        embedded: `[B, T, H]`.
        logits: `[B, T, C]`.
        workers: that share the batch (`Batch.workers`); pairs are of all its videos.

    Videos of one clip have no inactive part and are left out; without a pair the loss is 0.
    """
    long = mask.sum(dim=1) > 1
    attention = torch.softmax(logits.masked_fill(~mask[..., None], -torch.inf), dim=1)
    rest = (1 - attention) * mask[..., None] / (mask.sum(dim=1) - 1).clamp(min=1)[:, None, None]
    active, inactive = (
        rows_of_all_workers(
            nn.functional.normalize(torch.einsum("btc,bth->bch", weights, embedded), dim=-1), workers
        ).transpose(0, 1)
        for weights in (attention, rest)
    )
    shared = rows_of_all_workers(((targets > 0) & long[:, None]).float(), workers)
    pair = torch.triu(torch.einsum("bc,dc->cbd", shared, shared), diagonal=1)
    together = 1 - active @ active.transpose(1, 2)  # [C, B, B]
    apart = 1 - active @ inactive.transpose(1, 2)
    hinges = torch.relu(together - apart + margin) + torch.relu(together - apart.transpose(1, 2) + margin)
    return 0.5 * (hinges * pair).sum() / pair.sum().clamp(min=1)


def head_loss(
    head: LocalizationHead, features: Tensor, batch: Batch, config: HeadConfig
) -> tuple[Tensor, Tensor]:
    """Multiple-instance and co-activity loss of one head, both weighted scalars: what is minimised is their sum.

    Arguments:
        features: `[B, T, D]`.
    """
    embedded, logits = head(features)
    instance = multiple_instance_loss(
        best_clips_mean(logits, batch.mask, config.clips_per_best), batch.targets
    )
    weight = config.similarity_weight
    if weight == 0:
        return instance, instance.new_zeros(())
    similarity = co_activity_loss(
        embedded, logits, batch.mask, batch.targets, config.similarity_margin, batch.workers
    )
    return (1 - weight) * instance, weight * similarity


def instances(
    activations: Tensor,
    scores: Tensor,
    config: ProposalConfig,
    step_seconds: float,
    change: Tensor | None = None,
) -> tuple[Detection, ...]:
    """Instances of one video, the surest first.

    Arguments:
        activations: `[T, C]`, valid clips only.
        scores: `[C]` video scores on the activations' scale; classes not above 1 / C have no instance.
        change: `[T]` how much appearance changes from the clip before, for `snap_clips`.
    """
    count, num_classes = activations.shape
    least = min(config.least_clips, count)
    low, high = activations.min(dim=0).values, activations.max(dim=0).values
    threshold = low + config.threshold * (high - low)
    # A class that is equally active everywhere is everywhere, if it is there at all.
    above = (activations >= threshold).T.tolist()
    found = []
    for label in torch.nonzero(scores > 1 / num_classes).flatten().tolist():
        for start, end in _runs(above[label]):
            if end - start < least:
                continue
            peak = float(activations[start:end, label].max())
            score = (peak + config.class_weight * float(scores[label])) / (1 + config.class_weight)
            first, last = _snapped(start, end, config.snap_clips, change)
            found.append(
                Detection(
                    label=label,
                    start_seconds=first * step_seconds,
                    end_seconds=last * step_seconds,
                    score=score,
                )
            )
    return tuple(sorted(found, key=lambda d: (-d.score, d.label, d.start_seconds)))


def _runs(above: Sequence[bool]) -> list[tuple[int, int]]:
    """First clip and the one after the last of each run."""
    runs, start = [], None
    for clip, is_above in enumerate((*above, False)):
        if is_above and start is None:
            start = clip
        elif not is_above and start is not None:
            runs.append((start, clip))
            start = None
    return runs


def _snapped(start: int, end: int, reach: int, change: Tensor | None) -> tuple[int, int]:
    if reach == 0 or change is None:
        return start, end
    count = len(change)

    def sharpest(edge: int) -> int:
        # The video's own ends change nothing, but nothing is before or after them.
        candidates = range(max(1, edge - reach), min(count - 1, edge + reach) + 1)
        return max(candidates, key=lambda e: (float(change[e]), -abs(e - edge)), default=edge)

    first = start if start == 0 else sharpest(start)
    last = end if end == count else sharpest(end)
    return (first, last) if last > first else (start, end)


def feature_change(features: Tensor) -> Tensor:
    """`[B, T]`: cosine distance of each clip's features `[B, T, D]` from those before; 0 at the first."""
    change = 1 - nn.functional.cosine_similarity(features[:, 1:], features[:, :-1], dim=-1)
    return nn.functional.pad(change, (1, 0))


def read_all(provider: Provider, source: str) -> Tensor:
    """Features of a source at every clip of every video, `[B, T, D]`."""
    provider.expect(source)
    return torch.stack(
        [provider.read(source, step, provider.valid(step)) for step in range(provider.max_steps)], dim=1
    )


def valid_clips(provider: Provider) -> Tensor:
    """`[B, T]` bool."""
    steps = torch.arange(provider.max_steps, device=provider.num_steps.device)
    return steps < provider.num_steps[:, None]


def localized(
    activations: Tensor,
    valid: Tensor,
    *,
    calls: Mapping[str, Tensor],
    decisions: Tensor,
    trace: dict[str, Tensor],
    heads: HeadConfig,
    proposals: ProposalConfig,
    multi_label: bool,
) -> Outcome:
    """The outcome of one activation per clip, whoever made it.

    Arguments:
        activations: `[B, T, C]`.
        valid: `[B, T]` bool.
        trace: `step_seconds` is needed, `change` `[B, T]` is used.

    Raises `NonFiniteError` for activations that are not finite.
    """
    if not bool(torch.isfinite(activations[valid]).all()):
        raise NonFiniteError(
            "activations of the localization heads are not finite",
            "The features or the weights hold values that are not finite; train again at a lower "
            "training.learning_rate.",
        )
    scores = best_clips_mean(activations, valid, heads.clips_per_best)
    counts = valid.sum(dim=1).tolist()
    step_seconds = float(trace["step_seconds"])
    change = trace.get("change")
    found = tuple(
        instances(
            activations[i, :count],
            scores[i],
            proposals,
            step_seconds,
            None if change is None else change[i, :count],
        )
        for i, count in enumerate(counts)
    )
    return Outcome(
        scores=scores.clamp(0, 1) if multi_label else scores / scores.sum(dim=1, keepdim=True),
        calls=dict(calls),
        decisions=decisions * valid,
        trace={**trace, "activations": activations},
        detections=found,
    )
