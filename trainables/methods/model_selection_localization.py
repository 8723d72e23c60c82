"""Conditional Model Selection for weakly supervised localization: where is the expensive motion model worth running?

M. Jain, H. Ben Yahia, A. Ghodrati, A. Habibian, F. Porikli: "Conditional Model Selection for Efficient Video
Understanding", BMVC 2021, sections 3.3, 3.4 and 5.

Two localization heads (`layers/localization_head.py`) are trained from video labels: M_rgb on appearance, M_motion on
motion. Where they disagree about a video's class, above all on **context** that looks like the action and does not move
like it, motion deserves to be asked. A class-agnostic MLP on the appearance features learns to tell such clips: it
looks at every clip's appearance, and motion is computed at the clips that it chooses. The two heads' activations are
spliced, and instances are cut out of the result.

Symbols: x a clip, c a class, a_rgb(x, c) and a_motion(x, c) activations, D(x) disparity in 0..1 (Eq. 3), tau_v the
threshold of a video that leaves the top beta share of its clips to motion, G_k(x) affinity (Eq. 4), P `[2]` the
selector's confidence in appearance and in motion.

Departures from the paper, and why:
* Eq. 3 has one class. With several labels D is the largest difference over them; the scale is the video's largest.
* The heads' activations have no common scale in the paper; here both are softmaxes over classes, in training and
  evaluation (`trainables/layers/localization_head.py`).
* Section 3.4: the cheapest model whose confidence reaches theta, and nothing on what happens if none does. Here the
  more expensive one, motion: with the larger one instead (`fallback=argmax`) no theta above 0.5 would change anything.
* Heads first, then the selector on frozen heads, in one training. The heads see nothing of beta: for a seed they are
  the same whatever it is, so that values of beta are compared on equal heads.
* Post-processing by ActionBytes is not described; `proposals.snap_clips` is our reading of it, off by default.

Budget knobs: beta in training; at inference theta: 0 leaves all clips to appearance, 1 gives all to motion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn

from paretovid.trainables.cost import ComponentCost, deterministic_eval, measure_macs
from paretovid.trainables.errors import UsageError
from paretovid.trainables.layers.localization_head import (
    APPEARANCE,
    MOTION_SOURCES,
    HeadConfig,
    LocalizationHead,
    ProposalConfig,
    feature_change,
    head_loss,
    localized,
    read_all,
    valid_clips,
)
from paretovid.trainables.layers.placing.lines import quantiles
from paretovid.trainables.layers.recurrent import Projection
from paretovid.trainables.layers.whole_batch import sum_over_workers
from paretovid.trainables.measurement import Metrics
from paretovid.trainables.method import (
    Method,
    PlacesSettings,
    Task,
    TrainsInStages,
    Warns,
    check_listed,
    register,
)
from paretovid.trainables.outcome import Batch, InferenceKnob, Line, Loss, Outcome, Progress, Setting
from paretovid.trainables.provider import Provider
from paretovid.trainables.ranges import Dropout, OpenFraction, Width, check_ranges

BY_APPEARANCE, BY_MOTION = 1, 2
"""Decisions: which model's activations a clip has."""
Motion = Literal["flow", "difference"]
THETA = InferenceKnob(
    name="theta",
    default=0.5,
    low=0.0,
    high=1.0,
    description="confidence that appearance alone must reach for a clip; higher asks motion more often and costs more",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSelectionLocalizationConfig:
    """Training settings."""

    beta: Annotated[OpenFraction, "The paper has 0.7."] = 0.7
    """Share of a training video's clips that pseudo-labels give to motion."""
    affinity: Literal["soft", "hard"] = "soft"
    """`soft` weights a pseudo-label with the distance of its disparity from the threshold (Eq. 4); `hard` does not."""
    motion: Motion = "flow"
    """`flow`: a network on optical flow; `difference`: one on RGB differences, cheaper and without flow."""
    fallback: Literal["motion", "argmax"] = "motion"
    """What is chosen if neither model's confidence reaches theta."""
    heads_share: OpenFraction = 0.7
    """Share of training that goes to the heads; the rest goes to the selector."""
    selector_hidden: Width = 32
    selector_dropout: Dropout = 0.1
    heads: HeadConfig = field(default_factory=HeadConfig)
    proposals: ProposalConfig = field(default_factory=ProposalConfig)
    thetas: tuple[Annotated[float, THETA.range], ...] | None = None
    """Inference settings to evaluate, all answered from one run; 0.5 is the default one, 1 is there anyway. null:
    placed by what they cost on validation (`search.points`)."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.affinity not in ("soft", "hard"):
            raise UsageError(f"unknown affinity: {self.affinity!r}", "Allowed: soft, hard.")
        if self.fallback not in ("motion", "argmax"):
            raise UsageError(f"unknown fallback: {self.fallback!r}", "Allowed: motion, argmax.")
        check_motion(self.motion)
        check_listed("thetas", self.thetas)


def check_motion(motion: str) -> None:
    """Raises `UsageError` unless `motion` is a source of motion."""
    if motion not in MOTION_SOURCES:
        raise UsageError(f"motion cannot be {motion!r}", f"Allowed: {', '.join(MOTION_SOURCES)}.")


def disparity(appearance: Tensor, motion: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """D `[B, T]` in 0..1 (Eq. 3): how much the heads disagree about a video's labels, relative to its largest.

    Arguments:
        appearance, motion: activations `[B, T, C]`.
        targets: `[B, C]` 0 or 1.
        mask: `[B, T]` bool.

    0 at padded clips, and throughout a video on which the heads agree or that has no label.
    """
    apart = ((appearance - motion).abs() * targets[:, None, :]).amax(dim=2) * mask
    largest = apart.amax(dim=1, keepdim=True)
    return torch.where(largest > 0, apart / largest.clamp(min=1e-12), 0.0)


def affinity(apart: Tensor, mask: Tensor, beta: float, *, is_soft: bool) -> Tensor:
    """G `[B, T, 2]`: weights of the pseudo-labels appearance and motion (Eq. 4), or 0 and 1 if not `is_soft`.

    tau_v is the largest disparity of the clips that are left when the top beta share, rounded, has gone to motion. Of
    clips that are tied with tau_v none goes there. 0 at padded clips.
    """
    count = mask.sum(dim=1)
    selected = (beta * count).round().long()
    ranked = apart.masked_fill(~mask, -torch.inf).sort(dim=1, descending=True).values
    at = ranked.gather(1, selected.clamp(max=ranked.shape[1] - 1)[:, None])
    tau = torch.where((selected < count)[:, None], at, -1e-6)  # all clips go to motion if none is left
    to_motion = apart > tau
    weight = (apart - tau).abs() + 1 if is_soft else torch.ones_like(apart)
    return torch.stack([weight * ~to_motion, weight * to_motion], dim=2) * mask[..., None]


@register
@final
class ModelSelectionLocalization(Method, PlacesSettings, TrainsInStages, Warns):
    """See the module's text."""

    name: ClassVar[str] = "model_selection_localization"
    task: ClassVar[Task] = "localization"
    Config: ClassVar[type[Any]] = ModelSelectionLocalizationConfig
    inference_knobs = (THETA,)

    @classmethod
    def sources_of(cls, config: ModelSelectionLocalizationConfig) -> tuple[str, ...]:
        return (APPEARANCE, config.motion)

    def __init__(
        self,
        config: ModelSelectionLocalizationConfig,
        *,
        widths: Mapping[str, int],
        num_classes: int,
        multi_label: bool,
    ) -> None:
        super().__init__(config, widths=widths, num_classes=num_classes, multi_label=multi_label)
        self.config = config
        self.multi_label = multi_label
        self.appearance, self.motion = (
            LocalizationHead(
                config.heads,
                width=widths[source],
                num_classes=num_classes,
                component=f"{self.name}.{role}_head",
            )
            for role, source in (("appearance", APPEARANCE), ("motion", config.motion))
        )
        self.selector = nn.Sequential(
            Projection(widths[APPEARANCE], config.selector_hidden, config.selector_dropout),
            nn.Linear(config.selector_hidden, 2),
        )
        self.selector_component = f"{self.name}.selector"
        self._appearance_width = widths[APPEARANCE]

    # Training

    @classmethod
    def last_stage(cls, config: ModelSelectionLocalizationConfig) -> float:
        return config.heads_share

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        config = self.config
        seen, moved = batch.features[APPEARANCE], batch.features[config.motion]
        is_frozen = progress.fraction >= config.heads_share
        # So that neither weight decay nor a mean over workers moves what is frozen.
        for head in (self.appearance, self.motion):
            head.requires_grad_(not is_frozen)
        if not is_frozen:
            parts = {
                f"{role}_{kind}": value
                for role, head, features in (("rgb", self.appearance, seen), ("motion", self.motion, moved))
                for kind, value in zip(
                    ("instance", "similarity"), head_loss(head, features, batch, config.heads), strict=True
                )
            }
            total = torch.stack(list(parts.values())).sum()
            named = {name: float(value.detach()) for name, value in parts.items()}
            return Loss(total, {**named, "selector": 0.0, "to_motion": 0.0})
        with deterministic_eval(self.appearance), deterministic_eval(self.motion):
            apart = disparity(
                self.appearance.activations(seen), self.motion.activations(moved), batch.targets, batch.mask
            )
        labelled = batch.mask & (batch.targets.sum(dim=1) > 0)[:, None]
        weights = affinity(apart, labelled, config.beta, is_soft=config.affinity == "soft")
        log_confidence = torch.log_softmax(self.selector(seen), dim=-1)
        clips = sum_over_workers(labelled.sum(), batch.workers).clamp(min=1)
        total = sum_over_workers(-(weights * log_confidence).sum(), batch.workers) / clips
        chosen = (log_confidence[..., 1] > log_confidence[..., 0]) & labelled
        kinds = ("rgb_instance", "rgb_similarity", "motion_instance", "motion_similarity")
        return Loss(
            total,
            {
                **dict.fromkeys(kinds, 0.0),
                "selector": float(total.detach()),
                "to_motion": float(sum_over_workers(chosen.sum(), batch.workers) / clips),
            },
        )

    # Evaluation and production

    def run(self, provider: Provider, setting: Setting) -> Outcome:
        valid = valid_clips(provider)
        seen = read_all(provider, APPEARANCE)
        confidence = torch.softmax(self.selector(seen), dim=-1)[..., 0]
        to_motion = self._to_motion(confidence, valid, float(setting.get("theta", THETA.default)))
        moved = torch.stack(
            [provider.read(self.config.motion, step, wanted) for step, wanted in enumerate(to_motion.T)],
            dim=1,
        )
        count = provider.num_steps
        for name in (self.appearance.component, self.selector_component):
            provider.charge(name, count)
        provider.charge(self.motion.component, to_motion.sum(dim=1))
        trace = {
            "valid": valid,
            "appearance": self.appearance.activations(seen),
            "motion": self.motion.activations(moved),
            "confidence": confidence,
            "change": feature_change(seen),
            "step_seconds": torch.tensor(provider.step_seconds, dtype=torch.float64),
            # By name, because what a component is called only the provider knows.
            f"per_motion/{provider.components[self.config.motion]}": torch.ones_like(count),
            f"per_motion/{self.motion.component}": torch.ones_like(count),
        }
        return self._spliced(provider.calls, trace, to_motion)

    def _to_motion(self, confidence: Tensor, valid: Tensor, theta: float) -> Tensor:
        """Which clips motion is computed for, `[B, T]` bool, from the confidence in appearance `[B, T]`."""
        if self.config.fallback == "argmax":
            # Below 0.5 one of the two always reaches theta; above, the larger one is as good as the one that does.
            theta = min(theta, 0.5)
        elif theta >= 1:  # a softmax may round to 1
            return valid
        return valid & (confidence < theta)

    def _spliced(self, calls: Mapping[str, Tensor], trace: dict[str, Tensor], to_motion: Tensor) -> Outcome:
        return localized(
            torch.where(to_motion[..., None], trace["motion"], trace["appearance"]),
            trace["valid"],
            calls=calls,
            decisions=torch.where(to_motion, BY_MOTION, BY_APPEARANCE),
            trace=trace,
            heads=self.config.heads,
            proposals=self.config.proposals,
            multi_label=self.multi_label,
        )

    def settings(self) -> list[Setting]:
        default: Setting = {"theta": THETA.default}
        if self.config.fallback == "argmax":  # then no theta computes motion everywhere
            return [default, *({"theta": t} for t in self.config.thetas or () if t < float(THETA.default))]
        # All others are answered from the second, which does.
        return [default, {"theta": THETA.high}]

    def stop_points(self, outcome: Outcome, setting: Setting) -> list[tuple[Setting, Outcome]]:
        if self.config.fallback == "argmax" or setting != self.settings()[1]:
            return []
        others: list[Setting] = [{"theta": theta} for theta in self.config.thetas or ()]
        with deterministic_eval(self):
            return [(o, self._narrowed(outcome, o)) for o in others if o not in self.settings()]

    def _narrowed(self, outcome: Outcome, setting: Setting) -> Outcome:
        """What a run that computed motion everywhere would have given at another setting."""
        trace = outcome.trace
        to_motion = self._to_motion(trace["confidence"], trace["valid"], float(setting["theta"]))
        calls = {
            name: to_motion.sum(dim=1) if f"per_motion/{name}" in trace else count
            for name, count in outcome.calls.items()
        }
        return self._spliced(calls, trace, to_motion)

    # Where settings are placed

    def places(self) -> bool:
        return self.config.thetas is None

    def probes(self) -> list[Setting]:
        return [self.runs_at(self.settings()[0])]

    def evidence(self, outcome: Outcome, setting: Setting) -> dict[str, Tensor]:
        return {"confidence": outcome.trace["confidence"][outcome.trace["valid"]]}

    def lines(self, evidence: Mapping[str, Tensor]) -> list[Line]:
        most = float(self.runs_at({})["theta"])
        inside = [theta for theta in quantiles(evidence["confidence"]) if 0 < theta < most]
        thetas = [0.0, *inside, most] if inside else []
        return [Line(name=THETA.name, settings=tuple({"theta": theta} for theta in thetas))]

    def runs_at(self, setting: Setting) -> Setting:
        # Of what motion is asked for there, every other theta asks for a part.
        return {"theta": THETA.default if self.config.fallback == "argmax" else THETA.high}

    def answer(self, outcome: Outcome, setting: Setting) -> Outcome:
        with deterministic_eval(self):
            return self._narrowed(outcome, setting)

    def reads(self) -> tuple[str, ...]:
        assert BY_MOTION == BY_APPEARANCE + 1
        return ("none", APPEARANCE, self.config.motion)

    def warnings(self, at_default: Metrics) -> list[str]:
        share = at_default.calls[self.motion.component] / at_default.calls[self.appearance.component]
        if share in (0, 1):
            which = "every clip" if share else "no clip"
            return [f"collapsed: at theta 0.5 motion is computed at {which}; other thetas may divide them."]
        return []

    def component_costs(self) -> dict[str, ComponentCost]:
        example = next(self.selector.parameters()).new_zeros(1, self._appearance_width)
        selector = ComponentCost(
            macs=measure_macs(self.selector, example), input=f"{self._appearance_width} features"
        )
        return {
            **self.appearance.component_cost(),
            **self.motion.component_cost(),
            self.selector_component: selector,
        }

    def paper_component_costs(self, backbones: Mapping[str, ComponentCost]) -> dict[str, ComponentCost]:
        # "We do not include relatively insignificant computational costs of different localization heads."
        return {
            name: ComponentCost(macs=0, input=cost.input, provenance="left out by the paper")
            for name, cost in self.component_costs().items()
        }
