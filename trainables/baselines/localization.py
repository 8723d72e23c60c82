"""Localization without a choice, or with a random one: what model selection has to beat, with the same heads.

* `appearance_only`, `motion_only`: one W-TALC head on one source at every clip (M_rgb, M_motion of Conditional Model
  Selection, Table 2's "flow").
* `two_stream`: both heads at every clip, the mean of their activations; as expensive as it gets.
* `random_clips`: motion at a random share of the clips, appearance at the others ("random selection", Figs. 5 and 6).
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, final

import torch
from torch import Tensor, nn

from paretovid.trainables.cost import ComponentCost, deterministic_eval
from paretovid.trainables.data.video_keys import uniform_hash
from paretovid.trainables.layers.localization_head import (
    APPEARANCE,
    HeadConfig,
    LocalizationHead,
    ProposalConfig,
    feature_change,
    head_loss,
    localized,
    read_all,
    valid_clips,
)
from paretovid.trainables.method import Method, Task, check_distinct, register
from paretovid.trainables.methods.model_selection_localization import (
    BY_APPEARANCE,
    BY_MOTION,
    Motion,
    check_motion,
)
from paretovid.trainables.outcome import Batch, InferenceKnob, Loss, Outcome, Progress, Setting
from paretovid.trainables.provider import Provider
from paretovid.trainables.ranges import check_ranges

SHARE = InferenceKnob(
    name="share",
    default=0.5,
    low=0.0,
    high=1.0,
    description="of the clips that motion is computed for, at random",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipBaselineConfig:
    """Settings of all of them."""

    motion: Motion = "flow"
    heads: HeadConfig = field(default_factory=HeadConfig)
    proposals: ProposalConfig = field(default_factory=ProposalConfig)
    shares: tuple[Annotated[float, SHARE.range], ...] = (0.5, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9)
    """Of `random_clips`: inference settings to evaluate, all answered from one run; 0.5 is the default one."""

    def __post_init__(self) -> None:
        check_ranges(self)
        check_motion(self.motion)
        check_distinct("shares", self.shares)


class _ClipBaseline(Method, ABC):
    """Heads on the sources that a baseline reads."""

    task: ClassVar[Task] = "localization"
    Config: ClassVar[type[Any]] = ClipBaselineConfig
    is_baseline: ClassVar[bool] = True

    def __init__(
        self, config: ClipBaselineConfig, *, widths: Mapping[str, int], num_classes: int, multi_label: bool
    ) -> None:
        super().__init__(config, widths=widths, num_classes=num_classes, multi_label=multi_label)
        self.config = config
        self.multi_label = multi_label
        self.heads = nn.ModuleDict(
            {
                source: LocalizationHead(
                    config.heads,
                    width=widths[source],
                    num_classes=num_classes,
                    component=f"{self.name}.{source}_head",
                )
                for source in self.sources_of(config)
            }
        )

    @final
    def loss(self, batch: Batch, progress: Progress) -> Loss:
        parts: dict[str, Tensor] = {}
        for source, head in self._heads().items():
            instance, similarity = head_loss(head, batch.features[source], batch, self.config.heads)
            parts |= {f"{source}_instance": instance, f"{source}_similarity": similarity}
        total = torch.stack(list(parts.values())).sum()
        return Loss(total, {name: float(value.detach()) for name, value in parts.items()})

    def _heads(self) -> dict[str, LocalizationHead]:
        return {source: head for source, head in self.heads.items() if isinstance(head, LocalizationHead)}

    def _outcome(
        self,
        provider: Provider,
        features: Mapping[str, Tensor],
        activations: Tensor,
        decisions: Tensor,
        trace: Mapping[str, Tensor],
    ) -> Outcome:
        seen = features.get(APPEARANCE)
        more = {"step_seconds": torch.tensor(provider.step_seconds, dtype=torch.float64)}
        if seen is not None:
            more["change"] = feature_change(seen)
        return self._localized(
            activations, valid_clips(provider), provider.calls, decisions, {**trace, **more}
        )

    def _localized(
        self,
        activations: Tensor,
        valid: Tensor,
        calls: Mapping[str, Tensor],
        decisions: Tensor,
        trace: dict[str, Tensor],
    ) -> Outcome:
        return localized(
            activations,
            valid,
            calls=calls,
            decisions=decisions,
            trace=trace,
            heads=self.config.heads,
            proposals=self.config.proposals,
            multi_label=self.multi_label,
        )

    def settings(self) -> list[Setting]:
        return [{}]

    def reads(self) -> tuple[str, ...]:
        return ("none", *self.sources_of(self.config))

    def component_costs(self) -> dict[str, ComponentCost]:
        return {name: cost for head in self._heads().values() for name, cost in head.component_cost().items()}

    def paper_component_costs(self, backbones: Mapping[str, ComponentCost]) -> dict[str, ComponentCost]:
        return {
            name: ComponentCost(macs=0, input=cost.input, provenance="left out by the paper")
            for name, cost in self.component_costs().items()
        }


class _OneStream(_ClipBaseline, ABC):
    """One source at every clip."""

    def run(self, provider: Provider, setting: Setting) -> Outcome:
        ((source, head),) = self._heads().items()
        features = read_all(provider, source)
        provider.charge(head.component, provider.num_steps)
        decisions = torch.full(features.shape[:2], BY_APPEARANCE)
        return self._outcome(provider, {source: features}, head.activations(features), decisions, {})


@register
@final
class AppearanceOnly(_OneStream):
    """See the module's text."""

    name: ClassVar[str] = "appearance_only"

    @classmethod
    def sources_of(cls, config: ClipBaselineConfig) -> tuple[str, ...]:
        return (APPEARANCE,)


@register
@final
class MotionOnly(_OneStream):
    """See the module's text."""

    name: ClassVar[str] = "motion_only"

    @classmethod
    def sources_of(cls, config: ClipBaselineConfig) -> tuple[str, ...]:
        return (config.motion,)


@register
@final
class TwoStream(_ClipBaseline):
    """See the module's text."""

    name: ClassVar[str] = "two_stream"

    @classmethod
    def sources_of(cls, config: ClipBaselineConfig) -> tuple[str, ...]:
        return (APPEARANCE, config.motion)

    def run(self, provider: Provider, setting: Setting) -> Outcome:
        features = {source: read_all(provider, source) for source in self.heads}
        for head in self._heads().values():
            provider.charge(head.component, provider.num_steps)
        each = [head.activations(features[source]) for source, head in self._heads().items()]
        decisions = torch.full(each[0].shape[:2], BY_MOTION)
        return self._outcome(provider, features, torch.stack(each).mean(dim=0), decisions, {})


@register
@final
class RandomClips(_ClipBaseline):
    """See the module's text."""

    name: ClassVar[str] = "random_clips"
    inference_knobs = (SHARE,)

    @classmethod
    def sources_of(cls, config: ClipBaselineConfig) -> tuple[str, ...]:
        return (APPEARANCE, config.motion)

    def run(self, provider: Provider, setting: Setting) -> Outcome:
        motion = self.config.motion
        appearance_head, motion_head = self._heads()[APPEARANCE], self._heads()[motion]
        seen = read_all(provider, APPEARANCE)
        drawn = torch.stack(
            [uniform_hash(provider.video_keys, step) for step in range(provider.max_steps)], dim=1
        )
        to_motion = valid_clips(provider) & (drawn < float(setting.get("share", SHARE.default)))
        moved = torch.stack(
            [provider.read(motion, step, wanted) for step, wanted in enumerate(to_motion.T)], dim=1
        )
        provider.charge(appearance_head.component, provider.num_steps)
        provider.charge(motion_head.component, to_motion.sum(dim=1))
        trace = {
            "appearance": appearance_head.activations(seen),
            "motion": motion_head.activations(moved),
            "drawn": drawn,
            "valid": valid_clips(provider),
            # By name, because what a component is called only the provider knows.
            f"per_motion/{provider.components[motion]}": torch.ones_like(provider.num_steps),
            f"per_motion/{motion_head.component}": torch.ones_like(provider.num_steps),
        }
        spliced = torch.where(to_motion[..., None], trace["motion"], trace["appearance"])
        decisions = torch.where(to_motion, BY_MOTION, BY_APPEARANCE)
        return self._outcome(provider, {APPEARANCE: seen}, spliced, decisions, trace)

    def settings(self) -> list[Setting]:
        # All others are answered from the second, which computes motion everywhere.
        return [{"share": SHARE.default}, {"share": SHARE.high}]

    def stop_points(self, outcome: Outcome, setting: Setting) -> list[tuple[Setting, Outcome]]:
        if setting != self.settings()[1]:
            return []
        others: list[Setting] = [{"share": share} for share in self.config.shares]
        with deterministic_eval(self):
            return [(o, self._narrowed(outcome, o)) for o in others if o not in self.settings()]

    def _narrowed(self, outcome: Outcome, setting: Setting) -> Outcome:
        trace = outcome.trace
        to_motion = trace["valid"] & (trace["drawn"] < float(setting["share"]))
        calls = {
            name: to_motion.sum(dim=1) if f"per_motion/{name}" in trace else count
            for name, count in outcome.calls.items()
        }
        spliced = torch.where(to_motion[..., None], trace["motion"], trace["appearance"])
        decisions = torch.where(to_motion, BY_MOTION, BY_APPEARANCE)
        return self._localized(spliced, trace["valid"], calls, decisions, trace)
