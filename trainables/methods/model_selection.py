"""Conditional Model Selection for classification: which model of a pool is to recognize this video.

M. Jain, H. Ben Yahia, A. Ghodrati, A. Habibian, F. Porikli: "Conditional Model Selection for Efficient Video
Understanding", BMVC 2021. Sections 3.1, 3.2, 3.4 and 4; localization is another method.

A small selector reads what one member of the pool (the cheapest, as a rule) says about the video, and names the
member that is to answer. That member sees the same clips; if it is the one that was read, it has answered already. So
one member is always paid, and at most one more.

Symbols: B videos, K members M_k in order of cost, C classes, F_k the members' shares of the pool's cost (sum 1),
L_k their loss on a video, G_k(x) the affinity that the selector learns, P_k its confidence, A selectors in one bank.

* Affinity (Eq. 2): the member with the lowest L_k + alpha F_k. `label_rule=agree_then_cheapest` first gives a video
  to the cheapest member if all members answer alike, as the text below Eq. 2 wishes.
* Loss (Eq. 1): -sum_k G_k log P_k. `label_form=binary`: G is Eq. 2's indicator. `soft`: the paper allows any affinity
  in Eq. 1 but gives none for classification; ours is softmax(-(L_k + alpha F_k) / temperature).
* Inference (3.4): the cheapest member with P_k >= theta; if there is none, the member with the highest P_k. Cheapest is
  what adds least: first the member that was read, then the others in order of cost.
  From 0.5 upwards at most one member reaches theta, so every theta from there on is the selector's plain choice, the
  most expensive end of the curve; at 1 / K and below somebody always reaches it; at 0 the member that is read answers.

The members' outputs are computed once, so another alpha only needs another selector. With `alphas` (and
`alpha_multiples`, of `alpha`), one training fits one selector for each of them beside that of `alpha`, as one batched
matrix product; `trained_alpha` says which answers. They start from the same weights and share nothing but the bound on
the gradient's norm, which is that of all together: where it bites, a selector differs a little from one trained alone.

Departures from the paper, and why:
* The selector learns from videos that the pool has not seen (`selector_videos=unseen`; `video_share` of the pool's
  training says which). Members that overfit have next to no loss on videos that they were trained on; Eq. 2 would then
  compare prices alone. Where they do not overfit it makes no difference (benchmarks/model_selection.md).
* F_k counts as 0 for the member that the selector reads, which is paid whatever is chosen. Where it reads the cheapest
  this hardly matters; where it reads a larger one, Eq. 2 as printed would send videos on to a smaller one, for more
  compute and a worse answer (tried: such curves fall straight down at the reader's own cost).
* alpha is searched up to 1 and not to 5e-3: with sum F = 1 the paper's values only break near-ties.
* The selector reads the logarithm of the mean class probability, so that how sure a member is keeps apart near 1 and 0.
* Its training is the platform's (40 epochs and one rise and fall of the rate instead of 5 epochs and two drops).

Budget knobs: alpha and the selector's source in training; theta, clips and trained_alpha at inference. `ensemble`
asks every member and averages, at the whole pool's price: the run from which all thetas are answered, and no operating
point of a selection.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn

from paretovid.trainables.cost import ComponentCost, deterministic_eval, measure_macs
from paretovid.trainables.data.dataset import is_for_backbones
from paretovid.trainables.errors import UsageError
from paretovid.trainables.layers.model_pool import (
    CLIP_COUNTS,
    CLIPS,
    X3D_POOL,
    ClipCount,
    Clips,
    ModelPool,
    SelectorBank,
    all_agree,
    check_clip_counts,
    check_order,
    check_pool,
    choose,
    member_losses,
    picked,
)
from paretovid.trainables.layers.placing.lines import quantiles
from paretovid.trainables.layers.whole_batch import sum_over_workers
from paretovid.trainables.measurement import Metrics
from paretovid.trainables.method import (
    Method,
    PlacesSettings,
    RunsForOthers,
    UsesSourceInfo,
    Warns,
    check_listed,
    register,
)
from paretovid.trainables.outcome import (
    Batch,
    InferenceKnob,
    Line,
    Loss,
    Outcome,
    Progress,
    Setting,
    SourceInfo,
)
from paretovid.trainables.provider import Provider
from paretovid.trainables.ranges import Positive, Range, Width, check_ranges

THETA = InferenceKnob(
    name="theta",
    default=0.5,
    low=0.0,
    high=1.0,
    description="confidence that suffices for a member, cheapest first; lower is cheaper, 0: the one that is read",
)
OWN_ALPHA = -1.0
_SAME = 1e-6
"""Alphas that differ by less, relative, are one."""
TRAINED_ALPHA = InferenceKnob(
    name="trained_alpha",
    default=OWN_ALPHA,
    low=OWN_ALPHA,
    high=1e6,
    description="which of the alphas that were trained chooses; -1: the trial's own",
)
ENSEMBLE = InferenceKnob(
    name="ensemble",
    default=0,
    low=0,
    high=1,
    whole=True,
    description="1: no choice, all members answer and are averaged",
)

LabelRule = Literal["eq2", "agree_then_cheapest"]
LabelForm = Literal["binary", "soft"]


Alpha = Annotated[
    float,
    Range(0, TRAINED_ALPHA.high),
    "It is a price: 0 asks for the lowest loss at any cost, 1 is a high price.",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSelectionConfig:
    """Training settings of the selection."""

    pool: tuple[str, ...] = X3D_POOL
    """Sources that classify, cheapest first."""
    selector_source: str = ""
    """The member that the selector reads, always paid; empty: the cheapest."""
    alpha: Alpha = 5e-4
    """Price of the whole pool's compute, in units of the classification loss."""
    alphas: tuple[Alpha, ...] = ()
    """Further alphas to train selectors for, in the same training."""
    alpha_multiples: tuple[Annotated[Positive, "For example [0.3, 3]."], ...] = ()
    """The same, as multiples of `alpha`: a search over alpha then sees its surroundings with every trial."""
    label_rule: LabelRule = "eq2"
    label_form: LabelForm = "binary"
    temperature: Annotated[Positive, "Ours: 0.1."] = 0.1
    """Of `label_form=soft`, in units of the loss: lower is closer to binary."""
    selector_videos: Literal["unseen", "all"] = "unseen"
    """Training videos to learn from: those that the pool was not trained on, or all."""
    hidden: Width = 64
    """Width of the selector's hidden layer."""
    training_clips: ClipCount = 3
    """Clips per video in training."""
    thetas: tuple[Annotated[float, THETA.range], ...] | None = None
    """Inference settings to evaluate, all answered from one run per number of clips. null here and below: placed by
    what they cost on validation (`search.points`)."""
    clip_counts: tuple[ClipCount, ...] | None = None
    """The same for `clips`; the first is the default one."""

    def __post_init__(self) -> None:
        check_ranges(self)
        check_pool(self.pool)
        if len(self.pool) == 1:
            raise UsageError(
                f"a pool of {self.pool[0]} alone leaves nothing to select",
                "Give two sources or more; method single_model measures one by itself.",
            )
        check_clip_counts(self.clip_counts)
        check_listed("thetas", self.thetas)
        if self.selector_source and self.selector_source not in self.pool:
            raise UsageError(
                f"selector_source {self.selector_source!r} is not in the pool",
                f"Allowed: {', '.join(self.pool)}; empty: the cheapest.",
            )
        if 1 in self.alpha_multiples:
            raise UsageError(
                f"alpha_multiples cannot be {list(self.alpha_multiples)}",
                "1 is alpha itself, which is trained anyway: leave it out.",
            )
        for alpha in self.trained_alphas():
            if alpha > TRAINED_ALPHA.high:
                raise UsageError(
                    f"a multiple of alpha is {alpha:g}, more than {TRAINED_ALPHA.high:g}",
                    "Lower method.model.alpha_multiples.",
                )
        if len(set(self.alphas)) != len(self.alphas):
            raise UsageError(f"alphas cannot be {list(self.alphas)}", "Give each once.")
        for name, allowed in (
            ("label_rule", ("eq2", "agree_then_cheapest")),
            ("label_form", ("binary", "soft")),
            ("selector_videos", ("unseen", "all")),
        ):
            if getattr(self, name) not in allowed:
                raise UsageError(
                    f"{name} cannot be {getattr(self, name)!r}", f"Allowed: {', '.join(allowed)}."
                )

    def trained_alphas(self) -> tuple[float, ...]:
        """The alpha of each selector of the bank: first `alpha`, each once."""
        found: list[float] = []
        for alpha in (self.alpha, *self.alphas, *(self.alpha * each for each in self.alpha_multiples)):
            if not any(math.isclose(alpha, other, rel_tol=_SAME) for other in found):
                found.append(alpha)
        return tuple(found)


def affinity(
    losses: Tensor,
    cost_shares: Tensor,
    alphas: Tensor,
    *,
    agreed: Tensor | None,
    form: LabelForm,
    temperature: float,
) -> Tensor:
    """G_k(x) for each alpha, `[A, B, K]`, every row adding up to 1.

    Arguments:
        losses: L_k, `[K, B]`.
        cost_shares: F_k, `[K]`. Of members with equal L_k + alpha F_k the first counts as best.
        alphas: `[A]`.
        agreed: `[B]` bool, videos that go to the member of lowest F_k whatever Eq. 2 says; None: no such rule.
    """
    total = losses.T + alphas[:, None, None] * cost_shares  # Eq. 2
    if form == "binary":
        labels = nn.functional.one_hot(total.argmin(dim=-1), len(cost_shares)).to(losses.dtype)
    else:
        labels = torch.softmax(-total / temperature, dim=-1)
    if agreed is None:
        return labels
    cheapest = nn.functional.one_hot(cost_shares.argmin(), len(cost_shares)).to(losses.dtype)
    return torch.where(agreed[:, None], cheapest, labels)


@register
@final
class ModelSelection(Method, UsesSourceInfo, RunsForOthers, PlacesSettings, Warns):
    """See the module's text."""

    name: ClassVar[str] = "model_selection"
    Config: ClassVar[type[Any]] = ModelSelectionConfig
    inference_knobs = (THETA, CLIPS, TRAINED_ALPHA, ENSEMBLE)

    alphas: Tensor
    order: Tensor
    """Places in the pool by the cost that a choice adds."""

    @classmethod
    def sources_of(cls, config: ModelSelectionConfig) -> tuple[str, ...]:
        return config.pool

    def __init__(
        self, config: ModelSelectionConfig, *, widths: Mapping[str, int], num_classes: int, multi_label: bool
    ) -> None:
        super().__init__(config, widths=widths, num_classes=num_classes, multi_label=multi_label)
        self.config = config
        self.multi_label = multi_label
        self.num_classes = num_classes
        self.pool = ModelPool(config.pool, widths=widths, num_classes=num_classes, multi_label=multi_label)
        self.selector_member = config.pool.index(config.selector_source) if config.selector_source else 0
        """Place in the pool of the member that the selector reads."""
        others = [k for k in range(len(config.pool)) if k != self.selector_member]
        self.register_buffer("order", torch.tensor([self.selector_member, *others]), persistent=False)
        trained = config.trained_alphas()
        self.register_buffer("alphas", torch.tensor(trained), persistent=False)
        self.selectors = SelectorBank(
            len(trained), num_classes=num_classes, hidden=config.hidden, members=len(config.pool)
        )
        self.component = f"{self.name}.selector"

    @classmethod
    def check_source_info(cls, config: ModelSelectionConfig, info: Mapping[str, SourceInfo]) -> None:
        check_order(config.pool, info)
        if (
            config.selector_videos == "unseen"
            and max(info[source].video_share for source in config.pool) == 1
        ):
            raise UsageError(
                "the pool was trained on all training videos: none is left that a selector can learn from",
                "Set backbones.training.video_share=0.7, or method.model.selector_videos=all, which makes the "
                "selector learn from losses that mean little.",
            )

    def use_source_info(self, info: Mapping[str, SourceInfo]) -> None:
        self.check_source_info(self.config, info)
        self.pool.use_source_info(info)

    # Training

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        config = self.config
        clips = Clips.of(batch.mask.sum(dim=1), config.training_clips)
        scores = self.pool.of_features(batch.features, clips)
        agreed = all_agree(scores, self.multi_label) if config.label_rule == "agree_then_cheapest" else None
        labels = affinity(
            member_losses(scores, batch.targets, self.multi_label),
            self._added_shares(),
            self.alphas,
            agreed=agreed,
            form=config.label_form,
            temperature=config.temperature,
        )
        taken = torch.ones_like(batch.video_keys, dtype=torch.bool)
        if config.selector_videos == "unseen":
            taken = ~is_for_backbones(batch.video_keys, self.pool.video_share)
        weights = taken / sum_over_workers(taken.sum(), batch.workers).clamp(min=1)
        log_confidence = self.selectors(scores[self.selector_member])
        losses = -((labels * log_confidence).sum(dim=-1) * weights).sum(dim=-1)  # Eq. 1, as a mean
        losses = sum_over_workers(losses, batch.workers)
        labelled = sum_over_workers((labels[0] * weights[:, None]).sum(dim=0), batch.workers)
        parts = {f"labels_{source}": float(labelled[k]) for k, source in enumerate(config.pool)}
        # A sum: a selector's gradients are those that it would have alone, before their norm is bounded.
        return Loss(losses.sum(), {"selection": float(losses[0].detach()), **parts})

    def _added_shares(self) -> Tensor:
        """F_k, `[K]`, but 0 for what is paid in any case."""
        shares = self.pool.cost_shares.clone()
        shares[self.selector_member] = 0
        return shares

    # Evaluation and production

    def run(self, provider: Provider, setting: Setting) -> Outcome:
        clips = Clips.of(provider.num_steps, int(setting.get("clips", CLIPS.default)))
        if setting.get("ensemble", ENSEMBLE.default):
            return self._everyone(provider, clips)
        everyone = torch.ones_like(clips.count, dtype=torch.bool)
        scores = self.pool.read(provider, self.config.pool[self.selector_member], clips, everyone)
        choice = self._choice(scores, setting)
        provider.charge(self.component, everyone)
        for k, source in enumerate(self.config.pool):
            wanted = choice == k
            if k != self.selector_member and bool(wanted.any()):
                answers = self.pool.read(provider, source, clips, wanted)
                scores = torch.where(wanted[:, None], answers, scores)
        return Outcome(
            scores=scores,
            calls=dict(provider.calls),
            decisions=self._decisions(clips, choice, provider.max_steps),
        )

    def _everyone(self, provider: Provider, clips: Clips) -> Outcome:
        scores = self.pool.read_all(provider, clips)
        last = torch.full_like(clips.count, len(scores) - 1)
        places = {
            # By name, because what a component is called only the provider knows.
            f"member/{provider.components[source]}": torch.tensor(k)
            for k, source in enumerate(self.config.pool)
        }
        return Outcome(
            scores=scores.mean(dim=0),
            calls=dict(provider.calls),
            decisions=self.pool.decisions(clips, last, provider.max_steps),
            trace={"members": scores, **places},
        )

    def _choice(self, scores: Tensor, setting: Setting) -> Tensor:
        """Which member answers, `[B]` int64, from what the selector's source says, `[B, C]`."""
        confidence = self.selectors.confidence(scores, self._selector(setting))
        return choose(confidence, float(setting.get("theta", THETA.default)), self.order)

    def _selector(self, setting: Setting) -> int:
        wanted = float(setting.get("trained_alpha", OWN_ALPHA))
        if wanted == OWN_ALPHA:
            return 0
        trained = self.config.trained_alphas()
        for place, alpha in enumerate(trained):
            if math.isclose(alpha, wanted, rel_tol=_SAME):
                return place
        raise UsageError(
            f"no selector was trained for alpha {wanted:g}",
            f"Trained: {', '.join(f'{alpha:g}' for alpha in trained)}; {OWN_ALPHA:g} is the first.",
        )

    def _decisions(self, clips: Clips, choice: Tensor, max_steps: int) -> Tensor:
        return self.pool.decisions(clips, choice.clamp(min=self.selector_member), max_steps)

    def settings(self) -> list[Setting]:
        default = {knob.name: knob.default for knob in self.inference_knobs}
        # Those that are answered are answered from runs of everyone.
        return [default, *({**default, "clips": n, "ensemble": 1} for n in self._clip_counts)]

    @property
    def _clip_counts(self) -> tuple[int, ...]:
        return CLIP_COUNTS if self.config.clip_counts is None else self.config.clip_counts

    def is_operating_point(self, setting: Setting) -> bool:
        return not setting.get("ensemble", ENSEMBLE.default)

    def stop_points(self, outcome: Outcome, setting: Setting) -> list[tuple[Setting, Outcome]]:
        if "members" not in outcome.trace:
            return []
        default = self.settings()[0]
        further: list[Setting] = [
            {**default, "theta": theta, "clips": setting["clips"], "trained_alpha": alpha}
            for alpha in (OWN_ALPHA, *self.config.trained_alphas()[1:])
            for theta in self.config.thetas or ()
        ]
        with deterministic_eval(self):
            return [(each, self._chosen(outcome, each)) for each in further if each != default]

    def _chosen(self, outcome: Outcome, setting: Setting) -> Outcome:
        """What a choice at `setting` would have given, from a run in which everyone answered."""
        members = outcome.trace["members"]
        choice = self._choice(members[self.selector_member], setting)
        calls = {self.component: torch.ones_like(choice)}
        for name, count in outcome.calls.items():
            place = outcome.trace[f"member/{name}"]
            calls[name] = count * ((choice == place) | (place == self.selector_member))
        looked = outcome.decisions > 0
        most_expensive = 1 + choice.clamp(min=self.selector_member)
        return Outcome(
            scores=picked(members, choice), calls=calls, decisions=looked * most_expensive[:, None]
        )

    # Where settings are placed

    def places(self) -> bool:
        return None in (self.config.thetas, self.config.clip_counts)

    def probes(self) -> list[Setting]:
        return [self.runs_at(self.settings()[0])]

    def evidence(self, outcome: Outcome, setting: Setting) -> dict[str, Tensor]:
        said = outcome.trace["members"][self.selector_member]
        confidences = {
            f"confidence/{place}": self.selectors.confidence(said, place)[..., self.order[:-1]].flatten()
            for place in range(len(self.alphas))
        }
        return confidences | {"clips": (outcome.decisions > 0).sum(dim=1)}

    def lines(self, evidence: Mapping[str, Tensor]) -> list[Line]:
        return [
            Line(
                name=f"theta of {clips} clips" + (f", alpha {alpha:g}" if place else ""),
                settings=tuple(
                    {
                        **self.settings()[0],
                        "theta": theta,
                        "clips": clips,
                        "trained_alpha": alpha if place else OWN_ALPHA,
                    }
                    for theta in self._thetas(evidence[f"confidence/{place}"])
                ),
                is_listed=self.config.thetas is not None,
            )
            for place, alpha in enumerate(self.config.trained_alphas())
            for clips in self._clip_counts
        ]

    def _thetas(self, confidences: Tensor) -> Sequence[float]:
        if self.config.thetas is not None:
            return self.config.thetas
        plain = float(THETA.default)
        # From there on it is the plain choice; the last member in order is what remains, whatever its confidence.
        inside = [theta for theta in quantiles(confidences) if 0 < theta < plain]
        return [0.0, *inside, plain] if inside else []

    def runs_at(self, setting: Setting) -> Setting:
        return {**self.settings()[0], "clips": setting.get("clips", CLIPS.default), "ensemble": 1}

    def answer(self, outcome: Outcome, setting: Setting) -> Outcome:
        return self._chosen(outcome, setting)

    def reads(self) -> tuple[str, ...]:
        return self.pool.reads()

    def warnings(self, at_default: Metrics) -> list[str]:
        asked = [count for name, count in at_default.calls.items() if name != self.component and count > 0]
        if len(set(asked)) == 1:
            which = self.config.pool[self.selector_member] if len(asked) == 1 else "the same member"
            return [f"collapsed: every video goes to {which}; another alpha or selector_source may help."]
        return []

    def component_costs(self) -> dict[str, ComponentCost]:
        example = self.selectors.first_bias.new_zeros(1, self.num_classes)
        macs = measure_macs(self.selectors, example)
        assert macs % len(self.alphas) == 0, "all selectors cost the same"
        cost = ComponentCost(macs=macs // len(self.alphas), input=f"{self.num_classes} scores")
        return {self.component: cost}
