"""AdaFrame: jump through the video, and stop when no more gain is expected.

Z. Wu, H. Li, C. Xiong, Y.-G. Jiang, L. S. Davis: "A Dynamic Frame Selection Framework for Fast Video Recognition",
TPAMI 2020 (first version: "AdaFrame", CVPR 2019).

A recurrent network looks at one frame per step, with what it asks of a global memory of cheap features. From its
hidden state come a prediction, the place of the next frame, and a utility: the gain in confidence that is still to
come. It is trained for K steps; at test time it stops where the utility has fallen, so that one training gives a
whole curve of operating points.

Symbols: v_t `[B, P]` the frame, u_t `[B, D]` the memory's answer, h_t `[B, H]`, s_t `[B, C]` probabilities, a_t `[B]`
the mean of the policy's Gaussian over places in [0, 1], r_t `[B]` reward, V_t `[B]` return, mu = `mu`, p = `patience`.

Departures from the paper, and why:
* Algorithm 2 with the stated patience always runs min(p, K) steps, and so cannot give most rows of Table 2. Default:
  stop when the utility is more than mu below its maximum *or* after p steps without a new maximum
  (`stop_rule` 0, margin_or_patience); the algorithm as printed is `stop_rule` 1 (algorithm2).
* Eq. 7 prints a norm that is not squared; the loss is half the squared difference, as half a norm suggests.
* m_0 in Eq. 4 is undefined: r_1 = 0, the running maximum starts at m_1. Step 1 reads the first frame.
* The place is clamped to [0, 1] for indexing only; the policy's density is that of the unclamped sample.
* u_t averages entries with their positions; `memory.values=raw` is the formula as printed.
* Frames and memory go through learned projections with layer norm; the paper takes features of 2048 values as they
  are. `memory.projection=0` comes closest.

Ours, off by default: `prediction_loss=every` trains the prediction of every step, because an early exit uses it (Eq. 3
trains the last only); `rollouts` walks each video several times per batch; `initial_state=learned`
(`trainables/layers/frame_agent.py`); `max_entropy`, the stop signal that section 4.3 compares with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, final

import torch
from torch import Tensor

from paretovid.trainables.cost import ComponentCost
from paretovid.trainables.errors import NonFiniteError, UsageError
from paretovid.trainables.layers.caps import KNOBS, Cap, CapUnits, check_caps
from paretovid.trainables.layers.frame_agent import (
    AgentConfig,
    Decision,
    Episodes,
    FrameAgent,
    agent_reads,
    agent_sources,
)
from paretovid.trainables.layers.frame_policies import BlindPolicy, FramePolicy, GaussianPolicy, PointerPolicy
from paretovid.trainables.layers.functional import classification_loss, probabilities
from paretovid.trainables.layers.global_memory import GlobalMemory
from paretovid.trainables.layers.placing.lines import (
    cap_evidence,
    cap_lines,
    quantiles,
    whole_counts,
    within_range,
)
from paretovid.trainables.layers.policy_gradient import ReturnsFrom, RewardKind, returns, rewards
from paretovid.trainables.method import Method, PlacesSettings, check_listed, register
from paretovid.trainables.outcome import Batch, InferenceKnob, Line, Loss, Outcome, Progress, Setting
from paretovid.trainables.provider import Provider
from paretovid.trainables.ranges import Count, Fraction, Positive, Range, Weight, check_ranges

MARGIN_OR_PATIENCE, ALGORITHM2 = 0, 1
NEVER = 1000.0
"""A mu that no utility falls by."""
PATIENCE_OFF = 10_000
"""More steps than there are."""

MU = InferenceKnob(
    name="mu",
    default=0.7,
    low=0.0,
    high=NEVER,
    description="stop when the expected gain is this far below its maximum: higher looks at more frames; "
    f"{NEVER:g}: never for this reason",
)
PATIENCE = InferenceKnob(
    name="patience",
    default=0,
    low=0,
    high=PATIENCE_OFF,
    whole=True,
    description="p: stop after this many steps without a new maximum; 0: the paper's, K/2+1 below mu 0.7, else K",
)
STOP_RULE = InferenceKnob(
    name="stop_rule",
    default=MARGIN_OR_PATIENCE,
    low=MARGIN_OR_PATIENCE,
    high=ALGORITHM2,
    whole=True,
    description="0, margin_or_patience: margin mu passed or patience at its end; 1, algorithm2: passed p times",
)
MAX_ENTROPY = InferenceKnob(
    name="max_entropy",
    default=0.0,
    low=0.0,
    high=1.0,
    description="stop when the prediction's entropy, as a share of the largest possible, is below this; 0: off",
)
_OWN_KNOBS = (MU, PATIENCE, STOP_RULE, MAX_ENTROPY)


@dataclass(frozen=True, kw_only=True, slots=True)
class AdaFrameConfig:
    """Training settings of AdaFrame."""

    agent: AgentConfig = field(default_factory=AgentConfig)
    steps: Annotated[int, Range(1, 100), "It is K: 3, 5, 8 or 10 in the paper."] = 10
    """K: steps of the walk, 1 to 100. A video may be shorter; the walk then comes back to frames it has seen."""
    reward: RewardKind = "margin"
    returns_from: ReturnsFrom = "current"
    discount: Fraction = 0.9
    policy: Literal["gaussian", "pointer", "uniform", "random"] = "gaussian"
    """`gaussian`: a place (the paper). `pointer`: an entry of the memory, ours; needs a memory. `uniform` and
    `random` choose without looking: the same network as a control."""
    location_deviation: Positive = 0.1
    """Standard deviation of the Gaussian policy in training, as a share of the video."""
    prediction_loss: Literal["last", "every"] = "last"
    rollouts: Count = 1
    """Walks per video in a batch."""
    policy_weight: Weight = 1.0
    """Weight of the policy's objective; the paper's is 1."""
    mus: tuple[Annotated[float, MU.range], ...] | None = None
    """Inference settings to answer from one walk; further patiences, rules and entropies as well. null: placed by what
    they cost on validation (`search.points`). Of `mus`, `patiences` and `stop_rules` all combinations are measured; if
    one of them lists values, those that list none have their default."""
    patiences: tuple[Annotated[int, PATIENCE.range], ...] | None = None
    stop_rules: tuple[Annotated[int, STOP_RULE.range], ...] | None = None
    max_entropies: tuple[Annotated[float, MAX_ENTROPY.range], ...] | None = None
    caps: tuple[CapUnits, ...] | None = None
    """Caps to evaluate, in units of what one read costs, at the default setting and where the utility stops nobody."""

    def __post_init__(self) -> None:
        check_ranges(self)
        for name, value, allowed in (
            ("reward", self.reward, ("margin", "prediction", "transition")),
            ("returns_from", self.returns_from, ("current", "next")),
            ("prediction_loss", self.prediction_loss, ("last", "every")),
            ("policy", self.policy, ("gaussian", "pointer", "uniform", "random")),
        ):
            if value not in allowed:
                raise UsageError(f"unknown {name}: {value!r}", f"Allowed: {', '.join(allowed)}.")
        if self.policy == "pointer" and self.agent.memory.source is None:
            raise UsageError(
                "policy=pointer needs a memory to point into", "Set agent.memory.kind to visual or audio."
            )
        check_listed("mus", self.mus)
        check_listed("patiences", self.patiences)
        check_listed("stop_rules", self.stop_rules)
        check_listed("max_entropies", self.max_entropies)
        check_caps(self.caps)


@final
class UtilityStop:
    """Stopping by the utility, step by step (section 3.2). The same object judges a run and a recorded walk.

    Arguments:
        setting: `mu`, `patience`, `stop_rule`.
        steps: K.
    """

    def __init__(self, setting: Setting, steps: int) -> None:
        self._mu = float(setting.get("mu", MU.default))
        self._is_algorithm2 = int(setting.get("stop_rule", STOP_RULE.default)) == ALGORITHM2
        self._patience = int(setting.get("patience", 0)) or paper_patience(self._mu, steps)
        self._largest: Tensor | None = None
        self._count: Tensor | None = None

    def update(self, utility: Tensor) -> Tensor:
        """Takes the utility of the next step, `[B]`; returns who stops after this step, `[B]` bool."""
        if self._largest is None or self._count is None:
            self._largest = torch.full_like(utility, 0.0 if self._is_algorithm2 else -torch.inf)
            self._count = torch.zeros_like(utility, dtype=torch.int64)
        has_fallen = self._largest - utility > self._mu
        if self._is_algorithm2:
            self._count = self._count + has_fallen
            stop = self._count >= self._patience
        else:
            is_new = utility > self._largest
            self._count = torch.where(is_new, torch.zeros_like(self._count), self._count + 1)
            stop = has_fallen | (self._count >= self._patience)
        self._largest = torch.maximum(self._largest, utility)
        return stop


def paper_patience(mu: float, steps: int) -> int:
    """p of section 4.1 for a model of K = `steps`."""
    return steps // 2 + 1 if mu < 0.7 else steps


def relative_entropy(scores: Tensor, multi_label: bool) -> Tensor:
    """Entropy of `[B, C]` probabilities as a share of the largest possible, `[B]`; multi-label: mean over classes."""
    if multi_label:
        answer: Tensor = (torch.special.entr(scores) + torch.special.entr(1 - scores)).mean(
            dim=-1
        ) / math.log(2)
        return answer
    # A single class leaves nothing to doubt.
    answer = torch.special.entr(scores).sum(dim=-1) / math.log(max(2, scores.shape[-1]))
    return answer


@register
@final
class AdaFrame(Method, PlacesSettings):
    """See the module's text."""

    name: ClassVar[str] = "ada_frame"
    Config: ClassVar[type[Any]] = AdaFrameConfig
    inference_knobs = (*_OWN_KNOBS, *KNOBS)

    @classmethod
    def sources_of(cls, config: AdaFrameConfig) -> tuple[str, ...]:
        return agent_sources(config.agent)

    def __init__(
        self, config: AdaFrameConfig, *, widths: Mapping[str, int], num_classes: int, multi_label: bool
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
            deciders={"utility": 1},
            prefix=self.name,
        )

    def _policy(self, memory: GlobalMemory | None) -> FramePolicy:
        hidden = self.config.agent.hidden
        if self.config.policy == "pointer" and memory is not None:
            return PointerPolicy(hidden, memory.width)
        if self.config.policy in ("uniform", "random"):
            return BlindPolicy(self.config.steps, is_random=self.config.policy == "random")
        return GaussianPolicy(hidden, self.config.location_deviation)

    def _utility(self, hidden: Tensor) -> Tensor:
        """V_t as estimated from `[..., H]`, `[...]`."""
        answer: Tensor = self.agent.deciders["utility"](hidden).squeeze(-1)
        return answer

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        config = self.config
        walk = self.agent.walk(batch, config.steps, config.rollouts)
        there = Episodes(batch, config.rollouts)
        hidden, targets = there.select(walk.hidden), there.targets
        if config.prediction_loss == "last":
            classification = classification_loss(self.agent.head(hidden[:, -1]), targets, self.multi_label)
            with torch.no_grad():
                logits = self.agent.head(hidden)
        else:
            logits = self.agent.head(hidden)
            classification = classification_loss(
                logits.flatten(0, 1), targets.repeat_interleave(config.steps, 0), self.multi_label
            )
        gained = rewards(probabilities(logits, self.multi_label), targets, config.reward)
        value = returns(gained, config.discount, config.returns_from)
        utility = self._utility(hidden)
        regression = 0.5 * (utility - value).square().sum(dim=1).mean()
        # The last step chooses nothing.
        advantage = (value - utility.detach())[:, :-1]
        policy = -(advantage * there.select(self.agent.log_probability(walk))).sum(dim=1).mean()
        total = classification + regression + config.policy_weight * policy
        parts = {
            "classification": classification,
            "utility": regression,
            "policy": policy,
            "reward": gained.sum(dim=1).mean(),
        }
        return Loss(total, {name: float(part.detach()) for name, part in parts.items()})

    def run(self, provider: Provider, setting: Setting) -> Outcome:
        stop = UtilityStop(setting, self.config.steps)
        max_entropy = float(setting.get("max_entropy", MAX_ENTROPY.default))

        def decide(t: int, hidden: Tensor, scores: Tensor) -> Decision:
            utility = self._utility(hidden)
            if not bool(torch.isfinite(utility).all()):
                raise NonFiniteError(
                    f"AdaFrame's utility is not a finite number at step {t + 1}",
                    "The features or the weights hold values that are not finite; train again at a lower "
                    "training.learning_rate.",
                )
            entropy = relative_entropy(scores, self.multi_label)
            return Decision(
                stop=stop.update(utility) | (entropy < max_entropy),
                trace={"utility": utility, "entropy": entropy},
            )

        return self.agent.run(provider, self.config.steps, decide, Cap.of(setting, self))

    def settings(self) -> list[Setting]:
        default = {knob.name: knob.default for knob in _OWN_KNOBS}
        # All others are answered from the second: a walk that the utility never ends.
        return [default, {**default, "mu": NEVER}]

    def stop_points(self, outcome: Outcome, setting: Setting) -> list[tuple[Setting, Outcome]]:
        if setting not in self.settings():
            return []
        capped = self.agent.under_caps(outcome, setting, self.config.caps or ())
        if setting == self.settings()[0]:
            return capped
        others = [*self._listed_rules(), *self._listed_entropies()]
        known = self.settings()
        return [(other, self._stopped(outcome, other)) for other in others if other not in known] + capped

    def _listed_rules(self) -> list[Setting]:
        config, (default, walk) = self.config, self.settings()
        if config.mus is config.patiences is config.stop_rules is None:
            return []
        return [
            {**walk, "mu": mu, "patience": patience, "stop_rule": rule}
            for rule in config.stop_rules or (int(default["stop_rule"]),)
            for patience in config.patiences or (int(default["patience"]),)
            for mu in config.mus or (float(default["mu"]),)
        ]

    def _listed_entropies(self) -> list[Setting]:
        _, walk = self.settings()
        return [{**walk, "max_entropy": entropy} for entropy in self.config.max_entropies or ()]

    def _reads(self, outcome: Outcome, setting: Setting) -> Tensor:
        """How many steps of a recorded walk another setting would have made, `[B]` int64."""
        stop = UtilityStop(setting, self.config.steps)
        max_entropy = float(setting.get("max_entropy", MAX_ENTROPY.default))
        utilities, entropies = outcome.trace["utility"], outcome.trace["entropy"]
        going = torch.ones(len(utilities), dtype=torch.bool, device=utilities.device)
        reads = torch.zeros(len(utilities), dtype=torch.int64, device=utilities.device)
        for utility, entropy in zip(utilities.T, entropies.T, strict=True):
            reads += going
            going = going & ~(stop.update(utility) | (entropy < max_entropy))
        return reads

    def _stopped(self, outcome: Outcome, setting: Setting) -> Outcome:
        """What a recorded walk would have given at another setting."""
        return self.agent.stopped(outcome, self._reads(outcome, setting))

    # Where settings are placed

    def places(self) -> bool:
        config = self.config
        lists_rules = not config.mus is config.patiences is config.stop_rules is None
        return not lists_rules or config.max_entropies is None or config.caps is None

    def probes(self) -> list[Setting]:
        return self.settings()[1:]

    def evidence(self, outcome: Outcome, setting: Setting) -> dict[str, Tensor]:
        walked = outcome.trace["steps"] >= 0
        utility = outcome.trace["utility"]
        fallen = (utility.cummax(dim=1).values - utility)[:, 1:]
        return {
            "fallen": fallen[walked[:, 1:]],
            "entropy": outcome.trace["entropy"][walked],
            **cap_evidence(outcome),
        }

    def lines(self, evidence: Mapping[str, Tensor]) -> list[Line]:
        config, walk = self.config, self.settings()[1]
        decisions = [
            Line(
                name=MU.name,
                settings=tuple(
                    {**walk, "mu": mu, "patience": PATIENCE_OFF}
                    for mu in within_range(quantiles(evidence["fallen"]), MU)
                ),
            ),
            Line(
                name=MAX_ENTROPY.name,
                # The lower, the surer: it stops later.
                settings=tuple(
                    {**walk, "max_entropy": entropy}
                    for entropy in reversed(within_range(quantiles(evidence["entropy"]), MAX_ENTROPY))
                ),
            ),
        ]
        patience = Line(
            name=PATIENCE.name,
            settings=tuple({**walk, "patience": p} for p in whole_counts(config.steps - 1)),
            cuts_short=True,
        )
        if rules := self._listed_rules():
            decisions[0] = Line(name=MU.name, settings=tuple(rules), is_listed=True)
        if config.max_entropies is not None:
            decisions[1] = Line(
                name=MAX_ENTROPY.name, settings=tuple(self._listed_entropies()), is_listed=True
            )
        return [
            *decisions,
            *([] if rules else [patience]),
            *cap_lines(evidence, walk, listed=config.caps),
        ]

    def runs_at(self, setting: Setting) -> Setting:
        return self.settings()[1]

    def answer(self, outcome: Outcome, setting: Setting) -> Outcome:
        return self.agent.cut(outcome, self._reads(outcome, setting), setting)

    def reads(self) -> tuple[str, ...]:
        return agent_reads(self.config.agent)

    def component_costs(self) -> dict[str, ComponentCost]:
        return self.agent.component_costs()

    def paper_component_costs(self, backbones: Mapping[str, ComponentCost]) -> dict[str, ComponentCost]:
        return self.agent.paper_component_costs(backbones)
