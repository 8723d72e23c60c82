"""LiteEval: look at every step coarsely, and at few of them closely.

Z. Wu, H. Li, Y. Zheng, C. Xiong, Y.-G. Jiang, L. S. Davis: "A Coarse-to-Fine Framework for Resource Efficient
Video Recognition", IJCV 2021 (first version: NeurIPS 2019, "LiteEval").

A coarse RNN reads cheap features of every step. A gate looks at them and at the state of a fine RNN and
decides whether the step deserves the expensive features; if not, the fine RNN's first entries are overwritten
with the coarse state (Eq. 5). The answer is read from the fine state at the last step.

Symbols: v_c `[B, T, D_c]`, v_f `[B, T, D_f]`, h_c `[B, H_c]`, h_f `[B, H_f]`, gate logits z `[B, 2]` (skip, use),
gamma = `target_usage`, the share of steps to look at closely, lambda = `usage_weight`.

Departures from the paper, and why:
* Eq. 4 (keep the fine state) is overridden by Eq. 5 (synchronise); Eq. 5 lacks a superscript. Hidden and cell
  state are both synchronised and both seen by the gate, as in the authors' code.
* Eq. 8-9 take the log of the gate's raw outputs, which may be negative; the logits are used as logits.
* Eq. 7 penalises each video's usage, which punishes the very adaptivity that the method is about (the
  penalty is (mean - gamma)^2 plus the variance over videos). Default: the batch mean, as in the code
  (`usage_reduction=batch`); `video` is the paper's.
* Evaluation takes the larger gate logit, without noise.
* Layer norm instead of batch norm in the projections; padded steps change nothing (`trainables/layers/recurrent.py`).
* The temperature falls over global steps. The reference code restarts its schedule every epoch by accident,
  so that it stays near 1: `temperature_floor=1` gives that.

Budget knobs: gamma and lambda in training; at inference `gate_offset` (ours: added to the "use" logit),
`online_k` (the paper's online mode: answer right after the K-th close read) and a cap per video (`caps.py`): `cap_rule`
`stop` answers right before the first read that would pass `max_gflops`, `cheap` leaves out the close read and continues
coarsely. With `condition=budget` gamma is drawn in training and chosen at inference, by `budget`
(`layers/conditioned/budget.py`). (Versions that were promoted before there was a `cap_rule` do what is now `cheap`.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, final

from torch import Tensor, nn

from paretovid.trainables.cost import ComponentCost
from paretovid.trainables.errors import UsageError
from paretovid.trainables.layers.caps import KNOBS_WITH_CHEAP, Cap, CapUnits, check_caps
from paretovid.trainables.layers.coarse_to_fine import (
    COARSE,
    FINE,
    NetworkConfig,
    coarse_to_fine,
    level_under_cap,
    levels_under_caps,
    paper_component_costs,
    run_setting,
    stopped_after,
)
from paretovid.trainables.layers.conditioned.budget import (
    BUDGET,
    BudgetEnd,
    BudgetGate,
    Budgets,
    Condition,
    ConditionOn,
    plain_gate,
    price_penalty,
    replaced_by_budget,
    target_penalty,
    training_gate,
    with_budget,
)
from paretovid.trainables.layers.conditioned.lines import budget_lines, budget_probes
from paretovid.trainables.layers.functional import classification_loss
from paretovid.trainables.layers.gated_stack import Gate
from paretovid.trainables.layers.placing.lines import (
    STOP_AND_CHEAP,
    cap_evidence,
    cap_lines,
    is_cut,
    whole_counts,
)
from paretovid.trainables.layers.placing.offset_gates import OffsetGates, margin_evidence, offset_lines
from paretovid.trainables.layers.whole_batch import sum_over_workers
from paretovid.trainables.method import Method, PlacesSettings, check_listed, register
from paretovid.trainables.outcome import Batch, InferenceKnob, Line, Loss, Outcome, Progress, Setting
from paretovid.trainables.provider import Provider
from paretovid.trainables.ranges import Fraction, PositiveFraction, Range, Weight, check_ranges

ONLINE_K = InferenceKnob(
    name="online_k",
    default=0,
    low=0,
    high=10_000,
    whole=True,
    description="answer right after this many close looks; 0: read on to the end of the video",
)
GATE_OFFSET = InferenceKnob(
    name="gate_offset",
    default=0.0,
    low=-100.0,
    high=100.0,
    description="added to the gate's 'look closer' logit: higher looks closer more often and costs more",
)
_TARGET_USAGE = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class LiteEvalConfig:
    """Training settings of LiteEval."""

    network: NetworkConfig = field(default_factory=NetworkConfig)
    target_usage: Annotated[
        Fraction,
        "gamma is the share of steps that are looked at closely; a skip ratio s is target_usage = 1 - s.",
    ] = _TARGET_USAGE
    """gamma: share of steps to look at closely, between 0 and 1."""
    usage_weight: Weight = 2.0
    """lambda: weight of the usage penalty."""
    condition: Condition = "none"
    """`budget`: one network for all budgets between these two ends, which the inference knob `budget` chooses from; it
    takes the place of `target_usage`."""
    condition_on: ConditionOn = "target"
    """What a budget is: `target`: gamma; `price`: the share of steps whose close reading is worth lambda in loss."""
    budget_low: BudgetEnd | None = None
    """null: 0.01, and 0.4 of a price."""
    budget_high: BudgetEnd | None = None
    """null: 0.5, and 20 of a price."""
    usage_reduction: Literal["batch", "video"] = "batch"
    temperature_floor: PositiveFraction = 0.5
    """The Gumbel temperature falls from 1 to this, which it reaches after 60 % of training."""
    gate_offsets: tuple[Annotated[float, GATE_OFFSET.range], ...] | None = None
    """Inference settings to evaluate; 0, the default one, is there anyway. null here and below: placed by what they
    cost on validation (`search.points`)."""
    online_ks: tuple[Annotated[int, Range(1, ONLINE_K.high)], ...] | None = None
    """The same for `online_k`: at each of the `gate_offsets`, or at the default one if they are placed."""
    caps: tuple[CapUnits, ...] | None = None
    """The same for caps, in units of what one step with both reads costs; an empty list: none."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.usage_reduction not in ("batch", "video"):
            raise UsageError(f"unknown usage_reduction: {self.usage_reduction!r}", "Allowed: batch, video.")
        if self.budgets is not None and self.target_usage != _TARGET_USAGE:
            raise replaced_by_budget("target_usage", self.target_usage)
        check_listed("gate_offsets", self.gate_offsets)
        check_listed("online_ks", self.online_ks)
        check_caps(self.caps)

    @property
    def budgets(self) -> Budgets | None:
        """That are trained; None without conditioning."""
        return Budgets.of_config(
            self.condition, self.condition_on, self.budget_low, self.budget_high, targets=(0.01, 0.5)
        )


@register
@final
class LiteEval(Method, PlacesSettings):
    """See the module's text."""

    name: ClassVar[str] = "lite_eval"
    Config: ClassVar[type[Any]] = LiteEvalConfig
    inference_knobs = (GATE_OFFSET, ONLINE_K, *KNOBS_WITH_CHEAP)

    @classmethod
    def sources_of(cls, config: LiteEvalConfig) -> tuple[str, ...]:
        return (COARSE, FINE)

    def __init__(
        self, config: LiteEvalConfig, *, widths: Mapping[str, int], num_classes: int, multi_label: bool
    ) -> None:
        super().__init__(config, widths=widths, num_classes=num_classes, multi_label=multi_label)
        self.config = config
        self.multi_label = multi_label
        self.network = coarse_to_fine(
            config.network,
            widths=widths,
            num_classes=num_classes,
            multi_label=multi_label,
            prefix=self.name,
        )
        self.gate: nn.Linear | BudgetGate
        if config.budgets is None:
            (self.gate,) = self.network.gates()
        else:
            self.gate = BudgetGate(self.network.gate_width(1), config.budgets)

    @classmethod
    def knobs_of(cls, config: LiteEvalConfig) -> tuple[InferenceKnob, ...]:
        return with_budget(cls.inference_knobs, config.budgets, config.condition_on)

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        temperature = self.config.temperature_floor ** min(1.0, progress.fraction / 0.6)
        drawn = None if self.config.budgets is None else self.config.budgets.drawn(batch)
        gate = training_gate(self.gate, drawn, temperature)
        logits, usage = self.network.train_through(batch.features, batch.mask, [gate])
        classification = classification_loss(logits, batch.targets, self.multi_label)
        if drawn is None:
            penalty = self._usage_penalty(usage[:, 0], batch.workers)
        elif self.config.condition_on == "target":
            penalty = target_penalty(usage, drawn, self.config.usage_reduction)
        else:
            penalty = price_penalty(usage, drawn, usage.new_ones(1))
        total = classification + self.config.usage_weight * penalty
        parts = {"classification": classification, "usage_penalty": penalty, "usage": usage.mean()}
        return Loss(total, {name: float(value.detach()) for name, value in parts.items()})

    def _usage_penalty(self, usage: Tensor, workers: int = 1) -> Tensor:
        """Eq. 7 over `[B]` usages, per video or for the mean of the whole batch, whatever part a worker holds."""
        if self.config.usage_reduction == "batch":
            videos = sum_over_workers(usage.new_tensor(len(usage)), workers)
            usage = sum_over_workers(usage.sum(), workers) / videos
        return (usage - self.config.target_usage).square().mean()

    def run(self, provider: Provider, setting: Setting) -> Outcome:
        offset = float(setting.get("gate_offset", GATE_OFFSET.default))

        gates = OffsetGates()
        gate = Gate(
            decide=gates.decide(1, plain_gate(self.gate, setting), offset), component=f"{self.name}.gate"
        )
        return gates.noted(run_setting(self.network, provider, gate, setting, Cap.of(setting, self)))

    def settings(self) -> list[Setting]:
        offsets = (0.0, *(offset for offset in self.config.gate_offsets or () if offset != 0.0))
        budget = {} if self.config.budgets is None else {BUDGET: self.config.budgets.middle}
        return [{**budget, "gate_offset": offset, "online_k": 0} for offset in offsets]

    def stop_points(self, outcome: Outcome, setting: Setting) -> list[tuple[Setting, Outcome]]:
        online: list[tuple[Setting, Outcome]] = [
            ({**setting, "online_k": k}, stopped_after(self.network, outcome, k))
            for k in self.config.online_ks or ()
        ]
        return online + levels_under_caps(self.network, outcome, setting, self.config.caps or ())

    # Where settings are placed

    def places(self) -> bool:
        return None in (self.config.gate_offsets, self.config.online_ks, self.config.caps)

    def probes(self) -> list[Setting]:
        default = self.settings()[0]
        return [*budget_probes(default, self.config.budgets), {**default, "gate_offset": GATE_OFFSET.high}]

    def evidence(self, outcome: Outcome, setting: Setting) -> dict[str, Tensor]:
        if setting != self.settings()[0]:
            return margin_evidence(outcome)
        reads = outcome.trace["ran"][..., 1].sum(dim=1)
        return {**margin_evidence(outcome), **cap_evidence(outcome), "reads": reads}

    def lines(self, evidence: Mapping[str, Tensor]) -> list[Line]:
        default, config = self.settings()[0], self.config
        decisions = budget_lines(offset_lines(evidence, default, [GATE_OFFSET]), config.budgets)
        if config.gate_offsets is not None:
            decisions = [Line(name=GATE_OFFSET.name, settings=tuple(self.settings()), is_listed=True)]
        ks = config.online_ks
        online = Line(
            name=ONLINE_K.name,
            # As many as the most that any video has would stop nobody.
            settings=tuple(
                {**default, "online_k": k}
                for k in (whole_counts(int(evidence["reads"].max()) - 1) if ks is None else ks)
            ),
            cuts_short=True,
            is_listed=ks is not None,
        )
        return [
            *decisions,
            online,
            *cap_lines(evidence, default, rules=STOP_AND_CHEAP, listed=config.caps),
        ]

    def runs_at(self, setting: Setting) -> Setting:
        if bool(setting.get("online_k")) != is_cut(setting):
            kept = {name: setting[name] for name in (BUDGET,) if name in setting}
            return {
                **kept,
                "gate_offset": setting.get("gate_offset", GATE_OFFSET.default),
                "online_k": 0,
            }
        return setting

    def answer(self, outcome: Outcome, setting: Setting) -> Outcome:
        if is_cut(setting):
            return level_under_cap(self.network, outcome, float(setting["max_gflops"]))
        return stopped_after(self.network, outcome, int(setting["online_k"]))

    def component_costs(self) -> dict[str, ComponentCost]:
        gate = self.network.gate_cost(plain_gate(self.gate, {}), 1)
        return {**self.network.component_costs(), f"{self.name}.gate": gate}

    def paper_component_costs(self, backbones: Mapping[str, ComponentCost]) -> dict[str, ComponentCost]:
        uncounted = ComponentCost(
            macs=0, input=f"{self.network.gate_width(1)} values", provenance="not counted by the paper's code"
        )
        return {**paper_component_costs(self.network), f"{self.name}.gate": uncounted}
