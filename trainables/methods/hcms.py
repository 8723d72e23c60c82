"""HCMS: which modality, when.

Z. Weng, Z. Wu, H. Li, J. Chen, Y.-G. Jiang: "HCMS: Hierarchical and Conditional Modality Selection for Efficient
Video Recognition", ACM TOMM, December 2022, doi 10.1145/3572776.

An LSTM hears every step. A gate decides whether the step deserves to be looked at, and a second whether it
deserves the motion network as well, which costs a hundred times the sound. A level that is skipped takes over
the state of the level below, so the last one knows all that was seen; the answer is read from it. The levels
are those of `layers/gated_stack.py`; here any two to four different sources in any order make them (Table 6).

Symbols: sources 0..L-1 in order (the paper's A, I, M), x_l `[B, T, D_l]`, projected to P_l; h_l, c_l `[B, H_l]`;
gate logits g_l `[B, 2]` (skip, use), l >= 1; G_l in {0, 1}; gamma_l = `skip_l`, the share of steps at which
level l is to be skipped; lambda = `usage_weight`. B videos, T steps, L levels.

Departures from the paper, and why:
* Eq. 10 compares gamma with the share of steps *used*. Its values are shares *skipped*: section 4.3.5 and Fig. 7
  call them skip ratios, Table 6 reports skips, and read as use its row of 576.7 GFLOPs would cost 7,980. The
  loss here is the sum over levels of (share skipped - gamma_l)^2.
* Eq. 5-6 need x_I, which is not there if appearance was skipped; the text says that HCMS then goes to the next
  step. So gates are nested: level l can only run where level l - 1 ran, and a gate behind a skipped level is
  neither asked nor paid. Skips count these effective decisions, so no level is skipped less often than the one
  below, and targets in the other order pull both to their middle.
* Eq. 4 and 6 keep the state at a skip; the paragraph "Fusing hidden states" overrides that: the first H_(l-1)
  entries are replaced. The paper says so of hidden states; cell states are copied too, as in LiteEval's code,
  from which HCMS descends.
* The paper does not say whether gates see raw or projected features. Projected, which do not depend on how wide
  a backbone happens to be.
* Eq. 9 takes the log of the gates' raw outputs, which may be negative; the logits are used as logits. Training
  samples straight through; evaluation takes the larger logit, without noise.
* Eq. 10 is per video, which punishes the adaptivity that the method is about. Default: the batch mean
  (`usage_reduction=batch`); `video` is the paper's.
* Layer norm, dropout of steps, the fall of the temperature and of the learning rate are LiteEval's of this
  repository (`lite_eval.py`), so that both are compared on equal terms. The paper: Adam at 1e-4, times 0.92
  per epoch.

Budget knobs: gamma_l and lambda in training; with `condition=budget` gammas are drawn in training and chosen at
inference, by `budget` (`layers/conditioned/budget.py`). At inference `gate_offset_l` (ours: added to the "use" logit of
level l) and `max_gflops`, a cap per video (Table 2). Under a cap (`caps.py`; `cap_rule=stop`), **a video is answered
right before the first run of a level that would take its cost past the cap**: the backbone, projection, cell and next
gate of that level together, with the cost of the answer itself held in reserve. What was read at that step before
counts; the level that was refused, and those above, are skipped there as any skipped level is. Until then the run is
the run without a cap, so one pass answers every cap. With `cap_rule=cheap` the refused level alone is skipped, and the
video continues. A cap below the cheapest answer is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn

from paretovid.trainables.cost import ComponentCost
from paretovid.trainables.errors import UsageError
from paretovid.trainables.layers.caps import KNOBS_WITH_CHEAP, Cap, CapUnits, check_caps
from paretovid.trainables.layers.coarse_to_fine import level_under_cap, levels_under_caps
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
from paretovid.trainables.layers.gated_stack import Gate, GatedLevels, LevelSize, Limits
from paretovid.trainables.layers.placing.lines import STOP_AND_CHEAP, cap_evidence, cap_lines, is_cut
from paretovid.trainables.layers.placing.offset_gates import OffsetGates, margin_evidence, offset_lines
from paretovid.trainables.layers.recurrent import CellKind
from paretovid.trainables.layers.whole_batch import sum_over_workers
from paretovid.trainables.method import Method, PlacesSettings, UsesSourceInfo, check_listed, register
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
from paretovid.trainables.ranges import (
    Dropout,
    OpenFraction,
    PositiveFraction,
    Weight,
    Width,
    check_ranges,
)

MOST_LEVELS = 4
DEFAULT_SKIPS = (0.7, 0.95, 0.98)
"""gamma of levels 1, 2 and 3. The paper: 0.6 to 0.85 and 0.94 to 0.98; it has no third."""
GATE_OFFSETS = tuple(
    InferenceKnob(
        name=f"gate_offset_{level}",
        default=0.0,
        low=-100.0,
        high=100.0,
        description=f"added to the 'use' logit of gated level {level}: higher runs it more often and costs more",
    )
    for level in range(1, MOST_LEVELS)
)


@dataclass(frozen=True, kw_only=True, slots=True)
class HierarchyConfig:
    """Sizes of the levels, in the order of the sources. The paper's: P 512, 1024, 2048 and H 128, 512, 2048."""

    cell: CellKind = "lstm"
    projections: tuple[Width, ...] = ()
    """P_l. Empty: 32, then 64 each."""
    hidden: tuple[Width, ...] = ()
    """H_l, rising. Empty: 32, and twice as many at each level above."""
    dropout: Dropout = 0.0
    """Of projected features, in training. Not in the paper, which trains on far more videos."""
    step_dropout: Dropout = 0.4
    """Share of a video's steps that training leaves out, others each time. Not in the paper either."""
    synchronize: bool = True
    """False: the state of a skipped level stays as it is."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.cell not in ("lstm", "gru"):
            raise UsageError(f"unknown cell: {self.cell!r}", "Allowed: lstm, gru.")
        if any(above <= below for below, above in zip(self.hidden, self.hidden[1:], strict=False)):
            raise UsageError(
                f"hidden must rise from level to level, not {list(self.hidden)}",
                "The state of a skipped level's neighbour below is copied into its first entries.",
            )

    def sizes(self, sources: Sequence[str]) -> tuple[LevelSize, ...]:
        """A size for each source. Raises `UsageError` if there are not as many, or not two to four sources."""
        check_sources(sources)
        if len(sources) < 2 or len(sources) > MOST_LEVELS:
            raise UsageError(
                f"a hierarchy cannot be made of {list(sources)}",
                f"Give 2 to {MOST_LEVELS} sources, in order.",
            )
        for name in ("projections", "hidden"):
            given = getattr(self, name)
            if given and len(given) != len(sources):
                raise UsageError(
                    f"{name} has {len(given)} values for {len(sources)} sources ({', '.join(sources)})",
                    "Give one each, or none for the defaults.",
                )
        projections = self.projections or (32, *(64 for _ in sources[1:]))
        hidden = self.hidden or tuple(32 * 2**level for level in range(len(sources)))
        return tuple(
            LevelSize(source=s, projection=p, hidden=h)
            for s, p, h in zip(sources, projections, hidden, strict=True)
        )


def check_sources(sources: Sequence[str]) -> None:
    """Raises `UsageError` for no source at all, or one that is there twice."""
    if not sources or len(set(sources)) != len(sources):
        raise UsageError(
            f"sources cannot be {list(sources)}", "Give one or more, each once, such as audio, fine, motion."
        )


Skip = Annotated[
    OpenFraction, "gamma is the share of steps at which the level is skipped; a share u used is skip = 1 - u."
]


@dataclass(frozen=True, kw_only=True, slots=True)
class HcmsConfig:
    """Training settings of HCMS. Level 0 runs at every step; levels 1, 2, ... are gated."""

    sources: tuple[str, ...] = ("audio", "fine", "motion")
    """The levels' sources, the one that is read at every step first."""
    network: HierarchyConfig = field(default_factory=HierarchyConfig)
    skip_1: Skip | None = None
    """gamma_1: share of steps at which level 1 is to be skipped, between 0 and 1. null: 0.7."""
    skip_2: Skip | None = None
    """The same for level 2, if there is one. null: 0.95."""
    skip_3: Skip | None = None
    """The same for level 3, if there is one. null: 0.98."""
    usage_weight: Annotated[Weight, "It is lambda; the paper: 2."] = 2.0
    """lambda: weight of the usage loss."""
    condition: Condition = "none"
    """`budget`: one network for all budgets between these two ends, which the inference knob `budget` chooses from; it
    takes the place of the skips."""
    condition_on: ConditionOn = "target"
    """What a budget b is. `target`: level l is to be used at the share b**l of the steps, b of those of the level below
    it (the paper's pairs of gammas lie near that). `price`: the share of the cost of all gated levels that is worth
    lambda in loss."""
    budget_low: BudgetEnd | None = None
    """null: 0.05, and 0.4 of a price."""
    budget_high: BudgetEnd | None = None
    """null: 0.7, and 20 of a price."""
    usage_reduction: Literal["batch", "video"] = "batch"
    temperature_floor: PositiveFraction = 0.5
    """The Gumbel temperature falls from 1 to this, which it reaches after 60 % of training."""
    gate_offsets: tuple[Annotated[float, GATE_OFFSETS[0].range], ...] | None = None
    """Inference settings to evaluate: each at all gates together and at each gate alone. 0, the default one, is there
    anyway. null here and below: placed by what they cost on validation (`search.points`)."""
    caps: tuple[CapUnits, ...] | None = None
    """Caps to evaluate, in units of what one step with every source costs, the answer not counted; an empty list:
    none."""

    def __post_init__(self) -> None:
        check_ranges(self)
        self.network.sizes(self.sources)
        for level, target in enumerate((self.skip_1, self.skip_2, self.skip_3), start=1):
            _check_skip(level, target, self.sources)
        for level, target in enumerate((self.skip_1, self.skip_2, self.skip_3), start=1):
            if self.budgets is not None and target is not None:
                raise replaced_by_budget(f"skip_{level}", target)
        if self.usage_reduction not in ("batch", "video"):
            raise UsageError(f"unknown usage_reduction: {self.usage_reduction!r}", "Allowed: batch, video.")
        check_listed("gate_offsets", self.gate_offsets)
        check_caps(self.caps)

    @property
    def budgets(self) -> Budgets | None:
        """That are trained; None without conditioning."""
        return Budgets.of_config(
            self.condition, self.condition_on, self.budget_low, self.budget_high, targets=(0.05, 0.7)
        )

    @property
    def skips(self) -> tuple[float, ...]:
        """gamma of every gated level."""
        given = (self.skip_1, self.skip_2, self.skip_3)[: len(self.sources) - 1]
        return tuple(d if s is None else s for s, d in zip(given, DEFAULT_SKIPS, strict=False))


def _check_skip(level: int, target: float | None, sources: Sequence[str]) -> None:
    if target is None:
        return
    if level >= len(sources):
        raise UsageError(
            f"skip_{level} is {target:g}, but {', '.join(sources)} have no gated level {level}",
            f"Level 0 ({sources[0]}) is never skipped. Leave skip_{level} out (of a sweep: "
            f"~method.training_knobs.skip_{level}), or give more sources.",
        )


def hierarchy(
    sources: Sequence[str],
    config: HierarchyConfig,
    *,
    widths: Mapping[str, int],
    num_classes: int,
    multi_label: bool,
    prefix: str,
) -> GatedLevels:
    """The levels over these sources. `prefix`: the method's name, in front of its components' names."""
    return GatedLevels(
        config.sizes(sources),
        cell=config.cell,
        dropout=config.dropout,
        step_dropout=config.step_dropout,
        synchronize=config.synchronize,
        widths=widths,
        num_classes=num_classes,
        multi_label=multi_label,
        prefix=prefix,
    )


def run_capped(network: GatedLevels, provider: Provider, gates: Sequence[Gate], cap: Cap) -> Outcome:
    """A run under a cap; without one it keeps what `levels_under_caps` needs."""
    return network.run(provider, gates, Limits(cap=cap), traces_every_level=not cap.is_set)


@register
@final
class Hcms(Method, UsesSourceInfo, PlacesSettings):
    """See the module's text."""

    name: ClassVar[str] = "hcms"
    Config: ClassVar[type[Any]] = HcmsConfig
    inference_knobs = (*GATE_OFFSETS, *KNOBS_WITH_CHEAP)

    @classmethod
    def sources_of(cls, config: HcmsConfig) -> tuple[str, ...]:
        return config.sources

    def __init__(
        self, config: HcmsConfig, *, widths: Mapping[str, int], num_classes: int, multi_label: bool
    ) -> None:
        super().__init__(config, widths=widths, num_classes=num_classes, multi_label=multi_label)
        self.config = config
        self.multi_label = multi_label
        self.network = hierarchy(
            config.sources,
            config.network,
            widths=widths,
            num_classes=num_classes,
            multi_label=multi_label,
            prefix=self.name,
        )
        self._gates: tuple[nn.Linear | BudgetGate, ...] = tuple(self.network.gates())
        if config.budgets is not None:
            budgets = config.budgets
            self._gates = tuple(
                BudgetGate(self.network.gate_width(level), budgets) for level in range(1, len(config.sources))
            )
        self.gates = nn.ModuleList(self._gates)  # the same
        self.register_buffer("cost_shares", torch.zeros(len(config.sources) - 1), persistent=False)

    @classmethod
    def knobs_of(cls, config: HcmsConfig) -> tuple[InferenceKnob, ...]:
        return with_budget(cls.inference_knobs, config.budgets, config.condition_on)

    def use_source_info(self, info: Mapping[str, SourceInfo]) -> None:
        costs = torch.tensor([info[source].gmacs for source in self.config.sources[1:]])
        self.cost_shares = costs / costs.sum()

    def reads(self) -> tuple[str, ...]:
        return ("none", *self.config.sources)

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        temperature = self.config.temperature_floor ** min(1.0, progress.fraction / 0.6)
        drawn = None if self.config.budgets is None else self.config.budgets.drawn(batch)
        gates = [training_gate(gate, drawn, temperature) for gate in self._gates]
        logits, usage = self.network.train_through(batch.features, batch.mask, gates)
        skips = 1 - usage
        classification = classification_loss(logits, batch.targets, self.multi_label)
        if drawn is None:
            penalty = self._usage_loss(skips, batch.workers)
        elif self.config.condition_on == "target":
            penalty = target_penalty(usage, drawn, self.config.usage_reduction)
        else:
            penalty = price_penalty(usage, drawn, self.cost_shares)
        parts = {"classification": classification, "usage_penalty": penalty}
        parts |= {f"skip_{level}": skip for level, skip in enumerate(skips.mean(dim=0), start=1)}
        total = classification + self.config.usage_weight * penalty
        return Loss(total, {name: float(value.detach()) for name, value in parts.items()})

    def _usage_loss(self, skips: Tensor, workers: int = 1) -> Tensor:
        """Eq. 10 over `[B, L - 1]` shares of steps skipped, per video or for the mean of the whole batch, whatever
        part a worker holds."""
        if self.config.usage_reduction == "batch":
            videos = sum_over_workers(skips.new_tensor(len(skips)), workers)
            skips = sum_over_workers(skips.sum(dim=0, keepdim=True), workers) / videos
        targets = skips.new_tensor(self.config.skips)
        return (skips - targets).square().sum(dim=1).mean()

    def run(self, provider: Provider, setting: Setting) -> Outcome:
        gates = OffsetGates()
        outcome = run_capped(self.network, provider, self._gates_at(setting, gates), Cap.of(setting, self))
        return gates.noted(outcome)

    def _gates_at(self, setting: Setting, gates: OffsetGates) -> list[Gate]:
        """The gates with the setting's offsets. Raises `UsageError` for one of a level that is not there."""
        offsets = [float(setting.get(knob.name, knob.default)) for knob in GATE_OFFSETS]
        for knob, offset in zip(GATE_OFFSETS[len(self.gates) :], offsets[len(self.gates) :], strict=True):
            if offset:
                raise UsageError(
                    f"{knob.name}={offset:g}, but {', '.join(self.config.sources)} have {len(self.gates)} "
                    f"gated level{'s' * (len(self.gates) > 1)}",
                    f"Leave {knob.name} at 0.",
                )

        return [
            Gate(
                decide=gates.decide(level, plain_gate(gate, setting), offset),
                component=f"{self.name}.{source}_gate",
            )
            for level, (gate, offset, source) in enumerate(
                zip(self._gates, offsets, self.config.sources[1:], strict=False), start=1
            )
        ]

    @property
    def _offsets(self) -> tuple[InferenceKnob, ...]:
        return GATE_OFFSETS[: len(self.gates)]

    def settings(self) -> list[Setting]:
        names = [knob.name for knob in self._offsets]
        budget = {} if self.config.budgets is None else {BUDGET: self.config.budgets.middle}
        default = budget | dict.fromkeys(names, 0.0) | {"max_gflops": 0.0}
        found = [default]
        for offset in self.config.gate_offsets or ():
            for chosen in (names, *([name] for name in names)):
                setting = default | dict.fromkeys(chosen, offset)
                found += [] if setting in found else [setting]
        return list(found)

    def stop_points(self, outcome: Outcome, setting: Setting) -> list[tuple[Setting, Outcome]]:
        return levels_under_caps(self.network, outcome, setting, self.config.caps or ())

    # Where settings are placed

    def places(self) -> bool:
        return None in (self.config.gate_offsets, self.config.caps)

    def probes(self) -> list[Setting]:
        default = self.settings()[0]
        # At the second every gate is asked at every step, also one that the levels below never reach.
        return [
            *budget_probes(default, self.config.budgets),
            {**default, **{knob.name: knob.high for knob in self._offsets}},
        ]

    def evidence(self, outcome: Outcome, setting: Setting) -> dict[str, Tensor]:
        if setting != self.settings()[0]:
            return margin_evidence(outcome)
        return {**margin_evidence(outcome), **cap_evidence(outcome)}

    def lines(self, evidence: Mapping[str, Tensor]) -> list[Line]:
        default = self.settings()[0]
        decisions = budget_lines(offset_lines(evidence, default, self._offsets), self.config.budgets)
        if self.config.gate_offsets is not None:
            decisions = [Line(name="gate_offsets", settings=tuple(self.settings()), is_listed=True)]
        return [*decisions, *cap_lines(evidence, default, rules=STOP_AND_CHEAP, listed=self.config.caps)]

    def runs_at(self, setting: Setting) -> Setting:
        if not is_cut(setting):
            return setting
        return {name: value for name, value in setting.items() if name != "cap_rule"} | {"max_gflops": 0.0}

    def answer(self, outcome: Outcome, setting: Setting) -> Outcome:
        return level_under_cap(self.network, outcome, float(setting["max_gflops"]))

    def component_costs(self) -> dict[str, ComponentCost]:
        gates = {
            f"{self.name}.{source}_gate": self.network.gate_cost(plain_gate(gate, {}), level)
            for level, (source, gate) in enumerate(
                zip(self.config.sources[1:], self._gates, strict=True), start=1
            )
        }
        return {**self.network.component_costs(), **gates}
