"""Rivals of AdaFrame that learn *when to stop* as an action of its own, instead of by an expected gain.

* `frame_glimpse`: jumps to a place, as AdaFrame does (S. Yeung, O. Russakovsky, G. Mori, L. Fei-Fei: "End-to-end
  Learning of Action Detection from Frame Glimpses in Videos", CVPR 2016).
* `fast_forward`: makes one of a few fixed jumps, forward or back (H. Fan, Z. Xu, L. Zhu, C. Yan, J. Ge, Y. Yang:
  "Watching a Small Portion could be as Good as Watching All", IJCAI 2018).

Both in the form in which AdaFrame compares with them (section 4.2): the same network, its margin reward, and with a
memory the variants "-G". What a further frame gains is set against `frame_price`, which is their budget knob: without
a price nobody would learn to stop.

B episodes, K steps, H hidden units. An episode ends at the first step where "stop" is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor

from paretovid.trainables.cost import ComponentCost
from paretovid.trainables.errors import UsageError
from paretovid.trainables.layers.caps import KNOBS, Cap, CapUnits, check_caps
from paretovid.trainables.layers.frame_agent import (
    AgentConfig,
    Decision,
    Episodes,
    FrameAgent,
    agent_reads,
    agent_sources,
)
from paretovid.trainables.layers.frame_policies import FramePolicy, GaussianPolicy, JumpPolicy
from paretovid.trainables.layers.functional import classification_loss, probabilities
from paretovid.trainables.layers.global_memory import GlobalMemory, MemoryConfig
from paretovid.trainables.layers.placing.lines import cap_evidence, cap_lines, quantiles, within_range
from paretovid.trainables.layers.policy_gradient import returns, rewards
from paretovid.trainables.method import Method, PlacesSettings, check_listed, register
from paretovid.trainables.outcome import Batch, InferenceKnob, Line, Loss, Outcome, Progress, Setting
from paretovid.trainables.provider import Provider
from paretovid.trainables.ranges import Count, Fraction, Positive, Range, Weight, check_ranges

STOP_THRESHOLD = InferenceKnob(
    name="stop_threshold",
    default=0.5,
    low=0.0,
    high=1.0,
    description="stop when the learned probability of stopping is above this; 1: never",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class JumpingAgentConfig:
    """Training settings of both agents."""

    agent: AgentConfig = field(default_factory=lambda: AgentConfig(memory=MemoryConfig(kind="none")))
    steps: Annotated[int, Range(1, 100), "It is K."] = 10
    """K: most steps of a walk."""
    frame_price: Weight = 0.02
    """Reward that a further frame costs."""
    discount: Fraction = 0.9
    location_deviation: Positive = 0.1
    """Of `frame_glimpse`: standard deviation of the place in training, as a share of the video."""
    jumps: tuple[Annotated[float, Range(-1, 1), "A share of the video, none of them 0."], ...] = (
        -0.25,
        -0.125,
        0.0625,
        0.125,
        0.25,
        0.5,
    )
    """Of `fast_forward`: shares of the video to go forward (above 0) or back."""
    rollouts: Count = 1
    """Walks per video in a batch."""
    thresholds: tuple[Annotated[float, STOP_THRESHOLD.range], ...] | None = None
    """Values of `stop_threshold` to answer besides the default one and 1. null here and below: placed by what they cost
    on validation (`search.points`)."""
    caps: tuple[CapUnits, ...] | None = None
    """Caps to evaluate, in units of what one read costs, at the default `stop_threshold` and at 1; placed: at 1."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.jumps or 0 in self.jumps:
            raise UsageError(
                f"jumps cannot be {list(self.jumps)}", "Give shares from -1 to 1, none of them 0."
            )
        check_listed("thresholds", self.thresholds)
        check_caps(self.caps)


class _JumpingAgent(Method, PlacesSettings):
    """What both agents share: all but the policy."""

    Config: ClassVar[type[Any]] = JumpingAgentConfig
    inference_knobs = (STOP_THRESHOLD, *KNOBS)
    is_baseline: ClassVar[bool] = True

    @classmethod
    def sources_of(cls, config: JumpingAgentConfig) -> tuple[str, ...]:
        return agent_sources(config.agent)

    def __init__(
        self, config: JumpingAgentConfig, *, widths: Mapping[str, int], num_classes: int, multi_label: bool
    ) -> None:
        super().__init__(config, widths=widths, num_classes=num_classes, multi_label=multi_label)
        self.config = config
        self.multi_label = multi_label
        self.agent = FrameAgent(
            config.agent,
            widths=widths,
            num_classes=num_classes,
            multi_label=multi_label,
            policy=self._policy,
            deciders={"stop": 1, "value": 1},
            prefix=self.name,
        )

    def _policy(self, memory: GlobalMemory | None) -> FramePolicy:
        raise NotImplementedError

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        config = self.config
        walk = self.agent.walk(batch, config.steps, config.rollouts)
        there = Episodes(batch, config.rollouts)
        hidden, targets = there.select(walk.hidden), there.targets
        rows = torch.arange(len(hidden), device=hidden.device)
        stop = self.agent.deciders["stop"](hidden).squeeze(-1)
        drawn = torch.rand_like(stop) < torch.sigmoid(stop.detach())
        drawn[:, -1] = True  # the last step ends the walk, whatever is drawn
        last = drawn.long().argmax(dim=1)
        going = torch.arange(config.steps, device=last.device) < last[:, None]
        logits = self.agent.head(hidden)
        classification = classification_loss(logits[rows, last], targets, self.multi_label)

        gained = rewards(probabilities(logits, self.multi_label), targets, "margin") - config.frame_price
        # What comes after a step belongs to it if the walk continues there.
        following = F.pad(gained[:, 1:] * going[:, :-1], (0, 1))
        value = returns(following, config.discount)
        acted = going | (torch.arange(config.steps, device=last.device) == last[:, None])
        estimate = self.agent.deciders["value"](hidden).squeeze(-1)
        regression = 0.5 * ((estimate - value).square() * acted).sum(dim=1).mean()

        log_probability = F.logsigmoid(torch.where(going, -stop, stop))
        log_probability = (
            log_probability + F.pad(there.select(self.agent.log_probability(walk)), (0, 1)) * going
        )
        # The step that always ends the walk decided nothing.
        acted = acted & (torch.arange(config.steps, device=last.device) < config.steps - 1)
        policy = -((value - estimate.detach()) * log_probability * acted).sum(dim=1).mean()
        parts = {
            "classification": classification,
            "value": regression,
            "policy": policy,
            "steps": (last + 1).float().mean(),
        }
        total = classification + regression + policy
        return Loss(total, {name: float(part.detach()) for name, part in parts.items()})

    def run(self, provider: Provider, setting: Setting) -> Outcome:
        threshold = float(setting.get("stop_threshold", STOP_THRESHOLD.default))

        def decide(_: int, hidden: Tensor, scores: Tensor) -> Decision:
            stop = torch.sigmoid(self.agent.deciders["stop"](hidden)).squeeze(-1)
            return Decision(stop=stop > threshold, trace={"stop": stop})

        return self.agent.run(provider, self.config.steps, decide, Cap.of(setting, self))

    def settings(self) -> list[Setting]:
        return [{"stop_threshold": STOP_THRESHOLD.default}, {"stop_threshold": STOP_THRESHOLD.high}]

    def stop_points(self, outcome: Outcome, setting: Setting) -> list[tuple[Setting, Outcome]]:
        if setting not in self.settings():
            return []
        answered = self.agent.under_caps(outcome, setting, self.config.caps or ())
        if setting == self.settings()[0]:
            return answered
        known = [point["stop_threshold"] for point in self.settings()]
        for threshold in (each for each in self.config.thresholds or () if each not in known):
            reads = self._reads(outcome, threshold)
            answered.append(({"stop_threshold": threshold}, self.agent.stopped(outcome, reads)))
        return answered

    def _reads(self, outcome: Outcome, threshold: float) -> Tensor:
        """How many steps of a recorded walk it would have made, `[B]` int64."""
        continues = (outcome.trace["stop"] <= threshold).long().cumprod(dim=1)
        return (continues.sum(dim=1) + 1).clamp(max=continues.shape[1])

    # Where settings are placed

    def places(self) -> bool:
        return None in (self.config.thresholds, self.config.caps)

    def probes(self) -> list[Setting]:
        return self.settings()[1:]

    def evidence(self, outcome: Outcome, setting: Setting) -> dict[str, Tensor]:
        return {"stop": outcome.trace["stop"].flatten(), **cap_evidence(outcome)}

    def lines(self, evidence: Mapping[str, Tensor]) -> list[Line]:
        thresholds = self.config.thresholds
        if thresholds is None:
            thresholds = tuple(within_range([0.0, *quantiles(evidence["stop"])], STOP_THRESHOLD))
        threshold = Line(
            name=STOP_THRESHOLD.name,
            settings=tuple({"stop_threshold": each} for each in thresholds),
            is_listed=self.config.thresholds is not None,
        )
        return [threshold, *cap_lines(evidence, self.settings()[1], listed=self.config.caps)]

    def runs_at(self, setting: Setting) -> Setting:
        return self.settings()[1]

    def answer(self, outcome: Outcome, setting: Setting) -> Outcome:
        reads = self._reads(outcome, float(setting["stop_threshold"]))
        return self.agent.cut(outcome, reads, setting)

    def reads(self) -> tuple[str, ...]:
        return agent_reads(self.config.agent)

    def component_costs(self) -> dict[str, ComponentCost]:
        return self.agent.component_costs()

    def paper_component_costs(self, backbones: Mapping[str, ComponentCost]) -> dict[str, ComponentCost]:
        return self.agent.paper_component_costs(backbones)


@register
@final
class FrameGlimpse(_JumpingAgent):
    """See the module's text."""

    name: ClassVar[str] = "frame_glimpse"

    def _policy(self, memory: GlobalMemory | None) -> FramePolicy:
        return GaussianPolicy(self.config.agent.hidden, self.config.location_deviation)


@register
@final
class FastForward(_JumpingAgent):
    """See the module's text."""

    name: ClassVar[str] = "fast_forward"

    def _policy(self, memory: GlobalMemory | None) -> FramePolicy:
        return JumpPolicy(self.config.agent.hidden, self.config.jumps)
