"""A pool of models that classify by themselves, and what its members say about a video.

A **clip** is one step of the video: a member sees the step (a frame, or frames spread over it) and gives logits over
the classes, which are cached and read like features. A video's clips are the centres of equal parts, so that n clips
are at the same places for every member; its score under a member is the mean of the member's class probabilities.

B videos, T steps, n clips, C classes, K members in order of cost, cheapest first.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, final

import torch
from torch import Tensor, nn

from paretovid.trainables.errors import UsageError
from paretovid.trainables.layers.frame_sampling import uniform_steps
from paretovid.trainables.layers.functional import probabilities
from paretovid.trainables.method import check_distinct
from paretovid.trainables.outcome import InferenceKnob, SourceInfo
from paretovid.trainables.provider import Provider

X3D_POOL = ("xs", "s", "m", "l")
CLIP_COUNTS = (3, 1, 2, 5, 10)
CLIPS = InferenceKnob(
    name="clips",
    default=3,
    low=1,
    high=10,
    whole=True,
    description="clips of the video that are classified and averaged, spread evenly; a shorter video gives all it has",
)


def check_pool(pool: Sequence[str]) -> None:
    """Raises `UsageError` unless a pool names one or more different sources."""
    if not pool or len(set(pool)) != len(pool):
        raise UsageError(
            f"pool cannot be {list(pool)}", "Name one or more different sources, cheapest first."
        )


ClipCount = Annotated[int, CLIPS.range]


def check_clip_counts(clip_counts: Sequence[int] | None) -> None:
    """Raises `UsageError` unless the numbers of clips to evaluate are different and begin with the default one. None:
    they are placed."""
    if clip_counts is None:
        return
    check_distinct("clip_counts", clip_counts)
    if clip_counts[0] != CLIPS.default:
        raise UsageError(
            f"clip_counts cannot be {list(clip_counts)}", f"Begin with the default one, {CLIPS.default:g}."
        )


@final
@dataclass(frozen=True, slots=True)
class Clips:
    """Which steps of each video are classified."""

    steps: tuple[Tensor, ...]
    """`[B]` each: the steps of one clip, -1 for a video that is shorter."""
    count: Tensor
    """`[B]` int64: clips of each video."""

    @classmethod
    def of(cls, num_steps: Tensor, clips: int) -> Clips:
        """`clips` of each video, or as many as it has steps (`num_steps` `[B]`)."""
        return cls(tuple(uniform_steps(num_steps, clips)), num_steps.clamp(max=clips))

    def index(self) -> Tensor:
        """`[B, n]`: the steps of all clips, -1 where there is none."""
        return torch.stack(self.steps, dim=1)


def check_order(pool: Sequence[str], info: Mapping[str, SourceInfo]) -> None:
    """Raises `UsageError` if a pool is not in order of cost. Members of equal cost may stand either way."""
    gmacs = [info[source].gmacs for source in pool]
    if any(after < before for before, after in itertools.pairwise(gmacs)):
        ordered = sorted(pool, key=lambda source: info[source].gmacs)
        raise UsageError(
            f"the pool {list(pool)} is not in order of cost",
            f"Cheapest first: {', '.join(ordered)}.",
        )


@final
class ModelPool(nn.Module):
    """The members of a pool: what they say and what they cost. Nothing in it is trained.

    Arguments:
        pool: sources, cheapest first.
        widths: source to width, which must be the number of classes.

    Raises `UsageError` for a source that does not classify.
    """

    cost_shares: Tensor

    def __init__(
        self, pool: Sequence[str], *, widths: Mapping[str, int], num_classes: int, multi_label: bool
    ) -> None:
        super().__init__()
        for source in pool:
            if widths[source] != num_classes:
                raise UsageError(
                    f"{source!r} gives {widths[source]} features, not a score for each of {num_classes} classes",
                    "A pool is made of sources that classify: backbones=x3d_pool has xs, s, m and l.",
                )
        self.pool = tuple(pool)
        self.num_classes = num_classes
        self.multi_label = multi_label
        self.register_buffer("cost_shares", torch.zeros(len(pool)))
        self.video_share = 1.0
        """Share of the training videos that the members were trained on; only training needs it."""

    def use_source_info(self, info: Mapping[str, SourceInfo]) -> None:
        """Takes the members' cost, F_k of Eq. 2 (`cost_shares` `[K]`, sum 1), and what they were trained on.

        Raises `UsageError` if the pool is not in order of cost. Members of equal cost may stand either way.
        """
        check_order(self.pool, info)
        gmacs = [info[source].gmacs for source in self.pool]
        self.cost_shares.copy_(torch.tensor(gmacs, dtype=torch.float64) / sum(gmacs))
        self.video_share = max(info[source].video_share for source in self.pool)

    def say(self, logits: Tensor) -> Tensor:
        """Class probabilities `[..., C]` of logits."""
        return probabilities(logits, self.multi_label)

    def read(self, provider: Provider, source: str, clips: Clips, wanted: Tensor) -> Tensor:
        """A member's score of each video `[B, C]`, zero where it was not `wanted` `[B]`."""
        total = torch.zeros(provider.batch_size, self.num_classes, device=wanted.device)
        for steps in clips.steps:
            asked = wanted & (steps >= 0)
            total = total + self.say(provider.read(source, steps, asked)) * asked[:, None]
        return total / clips.count[:, None]

    def read_all(self, provider: Provider, clips: Clips) -> Tensor:
        """Every member's score of every video, `[K, B, C]`, all paid."""
        everyone = torch.ones_like(clips.count, dtype=torch.bool)
        return torch.stack([self.read(provider, source, clips, everyone) for source in self.pool])

    def of_features(self, features: Mapping[str, Tensor], clips: Clips) -> Tensor:
        """The same from all features, `[B, T, C]` by source, where they are known: `[K, B, C]`."""
        index = clips.index()
        rows = torch.arange(len(index), device=index.device)[:, None]
        there = (index >= 0)[..., None]
        scores = [self.say(features[source][rows, index.clamp(min=0)]) * there for source in self.pool]
        return torch.stack(scores).sum(dim=2) / clips.count[:, None]

    def decisions(self, clips: Clips, most_expensive: Tensor, max_steps: int) -> Tensor:
        """`[B, max_steps]`: 1 + `most_expensive` `[B]`, a place in the pool, at the steps of the clips, 0 elsewhere."""
        index = clips.index()
        decisions = torch.zeros(len(index), max_steps + 1, dtype=torch.int64, device=index.device)
        # What a short video lacks lands behind the last step and is cut off.
        decisions.scatter_(
            1, torch.where(index >= 0, index, max_steps), (1 + most_expensive)[:, None].expand_as(index)
        )
        return decisions[:, :max_steps]

    def reads(self) -> tuple[str, ...]:
        """As `Method.reads`: a step's decision is the most expensive member that saw it."""
        return ("none", *self.pool)


def member_losses(scores: Tensor, targets: Tensor, multi_label: bool) -> Tensor:
    """L_cls of Eq. 2 for scores `[K, B, C]` and targets `[B, C]`: `[K, B]`.

    Cross-entropy, or binary cross-entropy averaged over classes, so that alpha means the same for any number of tags.
    """
    scores = scores.clamp(1e-6, 1 - 1e-6)
    if multi_label:
        losses = -(targets * scores.log() + (1 - targets) * (1 - scores).log())
        return losses.mean(dim=-1)
    return -(targets * scores.log()).sum(dim=-1)


def picked(scores: Tensor, choice: Tensor) -> Tensor:
    """Of `scores [K, B, ...]` that of the chosen member `[B]`: `[B, ...]`."""
    return scores[choice, torch.arange(len(choice), device=choice.device)]


def all_agree(scores: Tensor, multi_label: bool) -> Tensor:
    """Videos on which all members give the same answer, `[B]`: the best class, or the set of tags above a half."""
    answers = scores > 0.5 if multi_label else scores.argmax(dim=-1, keepdim=True)
    return (answers == answers[:1]).all(dim=0).all(dim=-1)


def choose(confidence: Tensor, theta: float, order: Tensor) -> Tensor:
    """The first member, in this order `[K]`, whose confidence reaches theta, else the most confident one.

    Arguments:
        confidence: of each member, `[..., K]`.

    Returns places in the pool, `[...]` int64.
    """
    confidence = confidence[..., order]
    reaches = confidence >= theta
    place = torch.where(reaches.any(dim=-1), reaches.int().argmax(dim=-1), confidence.argmax(dim=-1))
    return order[place]


@final
class SelectorBank(nn.Module):
    """A selectors, each an MLP from a member's prediction to confidences, as batched matrix products.

    All start from the same weights.
    """

    def __init__(self, selectors: int, *, num_classes: int, hidden: int, members: int) -> None:
        super().__init__()
        first, second = nn.Linear(num_classes, hidden), nn.Linear(hidden, members)

        def repeated(values: Tensor) -> nn.Parameter:
            return nn.Parameter(values.detach().repeat(selectors, 1, 1))

        self.first_weight = repeated(first.weight.T.contiguous())
        self.first_bias = repeated(first.bias[None])
        self.second_weight = repeated(second.weight.T.contiguous())
        self.second_bias = repeated(second.bias[None])

    def forward(self, scores: Tensor) -> Tensor:
        """Scores `[B, C]` (0 to 1) to log P_k by every selector, `[A, B, K]`."""
        return self._logits(scores, slice(None)).log_softmax(dim=-1)

    def confidence(self, scores: Tensor, selector: int) -> Tensor:
        """P_k by one of them, `[B, K]`; the others are not computed."""
        return self._logits(scores, slice(selector, selector + 1))[0].softmax(dim=-1)

    def _logits(self, scores: Tensor, chosen: slice) -> Tensor:
        x = scores.clamp(min=1e-4).log()
        weight = self.first_weight[chosen]
        hidden = torch.baddbmm(self.first_bias[chosen], x.expand(len(weight), *x.shape), weight).relu()
        return torch.baddbmm(self.second_bias[chosen], hidden, self.second_weight[chosen])
