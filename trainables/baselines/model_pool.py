"""Baselines over a pool of models that classify by themselves (`model_pool.py`), to hold against their selection.

* `single_model`: one member answers every video.
* `random_model`: a coin decides between two members that are neighbours in cost, at no cost of its own: what a
  selection at equal cost must beat.
* `model_cascade`: the cheapest member answers, and as long as the last answer is not confident enough, the next one is
  asked; every member that ran is paid. The heuristic that the paper's introduction sets itself apart from.
* `model_ensemble`: all members answer, and are averaged (the upper end of committees).
* `model_oracle`: the member that makes the fewest mistakes plus price per compute, by the video's true labels, without
  paying to find out; of equals the one of lowest loss. It needs the ground truth: at price 0 no choice of one member
  names the right class (or the right set of tags) more often. Of mAP, which ranks videos among each other, it is no
  strict bound.

None has anything to train. B videos, K members in order of cost, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, final

import torch
from torch import Tensor

from paretovid.trainables.cost import ComponentCost
from paretovid.trainables.data.video_keys import uniform_hash
from paretovid.trainables.errors import UsageError
from paretovid.trainables.layers.model_pool import (
    CLIP_COUNTS,
    CLIPS,
    X3D_POOL,
    ClipCount,
    Clips,
    ModelPool,
    check_clip_counts,
    check_pool,
    member_losses,
    picked,
)
from paretovid.trainables.method import (
    Method,
    UsesSourceInfo,
    check_distinct,
    register,
)
from paretovid.trainables.outcome import Batch, InferenceKnob, Loss, Outcome, Progress, Setting, SourceInfo
from paretovid.trainables.provider import Provider
from paretovid.trainables.ranges import Count, check_ranges

MOST_MEMBERS = 100
MEMBER = InferenceKnob(
    name="member",
    default=0,
    low=0,
    high=MOST_MEMBERS,
    whole=True,
    description="place in the pool of the member that answers, 0: the cheapest",
)
LEVEL = InferenceKnob(
    name="level",
    default=0,
    low=0,
    high=MOST_MEMBERS,
    description="place in the pool; 1.25: of four videos one goes to member 2, the others to member 1",
)
CONFIDENCE = InferenceKnob(
    name="confidence",
    default=0.9,
    low=0.0,
    high=1.0,
    description="go on to the next member while the answer is less confident than this; 1: ask all",
)
PRICE = InferenceKnob(
    name="price",
    default=0.01,
    low=0.0,
    high=1e6,
    description="price of the whole pool's compute in mistakes (of tags: a share of them); 0: the fewest at any cost",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SingleModelConfig:
    """Settings of single members."""

    pool: tuple[str, ...] = X3D_POOL
    clip_counts: tuple[ClipCount, ...] = (3, 1, 2, 4, 5, 6, 7, 8, 9, 10)
    """Inference settings to evaluate, with every member; the first is the default one."""

    def __post_init__(self) -> None:
        check_ranges(self)
        check_pool(self.pool)
        check_clip_counts(self.clip_counts)


class _PoolBaseline(Method, UsesSourceInfo):
    """What the baselines share: a pool and no parameters."""

    is_baseline: ClassVar[bool] = True

    @classmethod
    def sources_of(cls, config: Any) -> tuple[str, ...]:
        pool: tuple[str, ...] = config.pool
        return pool

    def __init__(
        self, config: Any, *, widths: Mapping[str, int], num_classes: int, multi_label: bool
    ) -> None:
        super().__init__(config, widths=widths, num_classes=num_classes, multi_label=multi_label)
        self.config = config
        self.multi_label = multi_label
        self.pool = ModelPool(config.pool, widths=widths, num_classes=num_classes, multi_label=multi_label)

    def use_source_info(self, info: Mapping[str, SourceInfo]) -> None:
        self.pool.use_source_info(info)

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        raise AssertionError(f"{self.name} has nothing to train")

    def reads(self) -> tuple[str, ...]:
        return self.pool.reads()

    def component_costs(self) -> dict[str, ComponentCost]:
        return {}

    def _by_one(self, provider: Provider, clips: Clips, choice: Tensor) -> Outcome:
        """Every video by the member at its place `[B]` of the pool."""
        scores = None
        for k, source in enumerate(self.pool.pool):
            answers = self.pool.read(provider, source, clips, choice == k)
            scores = answers if scores is None else scores + answers
        assert scores is not None
        return Outcome(
            scores=scores,
            calls=dict(provider.calls),
            decisions=self.pool.decisions(clips, choice, provider.max_steps),
        )

    def _last(self, clips: Clips) -> Tensor:
        return torch.full_like(clips.count, len(self.pool.pool) - 1)


def _clips(provider: Provider, setting: Setting) -> Clips:
    return Clips.of(provider.num_steps, int(setting.get("clips", CLIPS.default)))


@register
@final
class SingleModel(_PoolBaseline):
    """See the module's text."""

    name: ClassVar[str] = "single_model"
    Config: ClassVar[type[Any]] = SingleModelConfig
    inference_knobs = (MEMBER, CLIPS)

    def run(self, provider: Provider, setting: Setting) -> Outcome:
        member = int(setting.get("member", MEMBER.default))
        if member >= len(self.pool.pool):
            raise UsageError(
                f"there is no member {member}",
                f"The pool has {', '.join(f'{k}: {s}' for k, s in enumerate(self.pool.pool))}.",
            )
        clips = _clips(provider, setting)
        return self._by_one(provider, clips, torch.full_like(clips.count, member))

    def settings(self) -> list[Setting]:
        return [
            {"member": k, "clips": n} for k in range(len(self.pool.pool)) for n in self.config.clip_counts
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class RandomModelConfig:
    """Settings of random members."""

    pool: tuple[str, ...] = X3D_POOL
    steps_per_member: Annotated[Count, "1: no mixtures."] = 4
    """Inference settings to evaluate: mixtures between neighbours in so many equal parts."""
    clip_counts: tuple[ClipCount, ...] = CLIP_COUNTS
    """The first is the default one."""

    def __post_init__(self) -> None:
        check_ranges(self)
        check_pool(self.pool)
        check_clip_counts(self.clip_counts)


@register
@final
class RandomModel(_PoolBaseline):
    """See the module's text."""

    name: ClassVar[str] = "random_model"
    Config: ClassVar[type[Any]] = RandomModelConfig
    inference_knobs = (LEVEL, CLIPS)

    def run(self, provider: Provider, setting: Setting) -> Outcome:
        level = float(setting.get("level", LEVEL.default))
        if level > len(self.pool.pool) - 1:
            raise UsageError(
                f"there is no level {level:g}",
                f"The pool's most expensive member is {len(self.pool.pool) - 1}.",
            )
        lower = int(level)
        drawn = uniform_hash(provider.video_keys, 0) < level - lower
        return self._by_one(provider, _clips(provider, setting), lower + drawn.long())

    def settings(self) -> list[Setting]:
        parts = self.config.steps_per_member
        levels = [i / parts for i in range(parts * (len(self.pool.pool) - 1) + 1)]
        return [{"level": level, "clips": n} for n in self.config.clip_counts for level in levels]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCascadeConfig:
    """Settings of the cascade."""

    pool: tuple[str, ...] = X3D_POOL
    confidences: tuple[Annotated[float, CONFIDENCE.range], ...] = (
        0.9,
        0.05,
        0.1,
        0.15,
        0.2,
        0.25,
        0.3,
        0.35,
        0.4,
        0.5,
        0.6,
        0.7,
        0.8,
        0.95,
    )
    """Inference settings to evaluate, all answered from one run per number of clips, in which nobody stops early."""
    clip_counts: tuple[ClipCount, ...] = CLIP_COUNTS
    """The first is the default one."""

    def __post_init__(self) -> None:
        check_ranges(self)
        check_pool(self.pool)
        check_clip_counts(self.clip_counts)
        check_distinct("confidences", self.confidences)


@register
@final
class ModelCascade(_PoolBaseline):
    """See the module's text. With several labels a video, the least certain of them decides: |2 p - 1|, from 0 to 1."""

    name: ClassVar[str] = "model_cascade"
    no_cap: ClassVar[str] = (
        "it asks whole models one after another, each over all of its clips, not step by step"
    )
    Config: ClassVar[type[Any]] = ModelCascadeConfig
    inference_knobs = (CONFIDENCE, CLIPS)

    def run(self, provider: Provider, setting: Setting) -> Outcome:
        threshold = float(setting.get("confidence", CONFIDENCE.default))
        clips = _clips(provider, setting)
        asking = torch.ones_like(clips.count, dtype=torch.bool)
        said: list[Tensor] = []
        last = torch.zeros_like(clips.count)
        scores = torch.zeros(len(asking), self.pool.num_classes, device=asking.device)
        for k, source in enumerate(self.pool.pool):
            answers = self.pool.read(provider, source, clips, asking)
            said.append(answers)
            scores = torch.where(asking[:, None], answers, scores)
            last = torch.where(asking, k, last)
            asking = asking & ~self._is_sure(answers, threshold)
        return Outcome(
            scores=scores,
            calls=dict(provider.calls),
            decisions=self.pool.decisions(clips, last, provider.max_steps),
            trace={
                "members": torch.stack(said),
                **{
                    f"member/{provider.components[source]}": torch.tensor(k)
                    for k, source in enumerate(self.pool.pool)
                },
            },
        )

    def _is_sure(self, scores: Tensor, threshold: float) -> Tensor:
        """Whether scores `[B, C]` are as confident as the threshold, `[B]`; never at 1."""
        if threshold == CONFIDENCE.high:
            return torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
        if self.multi_label:
            return (2 * scores - 1).abs().amin(dim=-1) >= threshold
        return scores.amax(dim=-1) >= threshold

    def settings(self) -> list[Setting]:
        default = {"confidence": CONFIDENCE.default, "clips": CLIPS.default}
        return [default, *({"confidence": CONFIDENCE.high, "clips": n} for n in self.config.clip_counts)]

    def stop_points(self, outcome: Outcome, setting: Setting) -> list[tuple[Setting, Outcome]]:
        if float(setting["confidence"]) < CONFIDENCE.high:
            return []  # it stopped early: what came later was not seen
        further: list[Setting] = [{**setting, "confidence": value} for value in self.config.confidences]
        known = self.settings()
        return [(each, self._stopped(outcome, each)) for each in further if each not in known]

    def _stopped(self, outcome: Outcome, setting: Setting) -> Outcome:
        members = outcome.trace["members"]
        is_sure = torch.stack([self._is_sure(each, float(setting["confidence"])) for each in members])
        is_sure[-1] = True
        last = is_sure.int().argmax(dim=0)
        calls = {n: count * (last >= outcome.trace[f"member/{n}"]) for n, count in outcome.calls.items()}
        looked = outcome.decisions > 0
        return Outcome(scores=picked(members, last), calls=calls, decisions=looked * (1 + last)[:, None])


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelEnsembleConfig:
    """Settings of the ensemble."""

    pool: tuple[str, ...] = X3D_POOL
    clip_counts: tuple[ClipCount, ...] = CLIP_COUNTS
    """Inference settings to evaluate; the first is the default one."""

    def __post_init__(self) -> None:
        check_ranges(self)
        check_pool(self.pool)
        check_clip_counts(self.clip_counts)


@register
@final
class ModelEnsemble(_PoolBaseline):
    """See the module's text."""

    name: ClassVar[str] = "model_ensemble"
    Config: ClassVar[type[Any]] = ModelEnsembleConfig
    inference_knobs = (CLIPS,)

    def run(self, provider: Provider, setting: Setting) -> Outcome:
        clips = _clips(provider, setting)
        scores = self.pool.read_all(provider, clips).mean(dim=0)
        return Outcome(
            scores=scores,
            calls=dict(provider.calls),
            decisions=self.pool.decisions(clips, self._last(clips), provider.max_steps),
        )

    def settings(self) -> list[Setting]:
        return [{"clips": n} for n in self.config.clip_counts]


def _mistakes(scores: Tensor, targets: Tensor, multi_label: bool) -> Tensor:
    """Of each member on each video, `[K, B]`: 1 if its best class is wrong, or the share of wrong tags."""
    if multi_label:
        return ((scores > 0.5) != (targets > 0)).float().mean(dim=-1)
    return (scores.argmax(dim=-1) != targets.argmax(dim=-1)).float()


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelOracleConfig:
    """Settings of the oracle."""

    pool: tuple[str, ...] = X3D_POOL
    prices: tuple[Annotated[float, PRICE.range], ...] = (0.01, 0.0, 0.5, 1.0, 1.2, 1.5, 2.0, 3.0, 5.0, 20.0)
    """Inference settings to evaluate."""
    clip_counts: tuple[ClipCount, ...] = CLIP_COUNTS
    """The first is the default one."""

    def __post_init__(self) -> None:
        check_ranges(self)
        check_pool(self.pool)
        check_clip_counts(self.clip_counts)
        check_distinct("prices", self.prices)
        if self.prices[0] != PRICE.default:
            raise UsageError(
                f"prices cannot be {list(self.prices)}", f"Begin with the default one, {PRICE.default:g}."
            )


@register
@final
class ModelOracle(_PoolBaseline):
    """Chooses by the ground truth: see the module's text."""

    name: ClassVar[str] = "model_oracle"
    Config: ClassVar[type[Any]] = ModelOracleConfig
    inference_knobs = (PRICE, CLIPS)
    deployable: ClassVar[bool] = False

    def run(self, provider: Provider, setting: Setting) -> Outcome:
        if provider.targets is None:
            raise UsageError("the oracle needs the ground truth", "It is an upper bound for evaluation only.")
        clips = _clips(provider, setting)
        features = {source: provider.peek(source) for source in self.pool.pool}
        scores = self.pool.of_features(features, clips)
        losses = member_losses(scores, provider.targets, self.multi_label)
        price = float(setting.get("price", PRICE.default))
        total = _mistakes(scores, provider.targets, self.multi_label) + price * self.pool.cost_shares[:, None]
        # What loss adds is less than any difference of mistakes and prices that matters.
        choice = (total + 1e-6 * losses).argmin(dim=0)
        return self._by_one(provider, clips, choice)

    def settings(self) -> list[Setting]:
        return [{"price": price, "clips": n} for n in self.config.clip_counts for price in self.config.prices]
