"""One network for the whole front: a gate that is told a budget, drawn anew in training and chosen at inference.

As "You Only Train Once" (A. Dosovitskiy, J. Djolonga, ICLR 2020) does for the weights of a loss, after FiLM (E. Perez
et al., AAAI 2018). The gate's weights are a polynomial of degree 2 in z, the logarithm of the budget. Giving z to the
gate as one more input instead moves its bias alone, and was worse by 5 points of hypervolume.

A batch is parted into groups, each with a budget of its own; the penalty for usage is taken over a group. What training
aims at with a budget b (`condition_on`):

    target    usage b: (mean usage of the group - b)^2 / b
    price     usage / b: b is the usage that is worth the penalty's weight in loss

B videos, G inputs of a gate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self, final, get_args

import torch
from torch import Tensor, nn

from paretovid.trainables.errors import UsageError
from paretovid.trainables.layers.conditioned.gates import Conditioned, Sampled, TrainingGate
from paretovid.trainables.layers.whole_batch import same_for_workers, shares_of_places, sum_over_workers
from paretovid.trainables.outcome import Batch, InferenceKnob, Setting
from paretovid.trainables.ranges import Range

Condition = Literal["none", "budget"]
ConditionOn = Literal["target", "price"]

BudgetEnd = Annotated[float, Range(1e-4, 1e4)]

BUDGET = "budget"
"""The inference knob."""
_GROUPS = 4
"""Of a batch."""
_PRICES = (0.4, 20.0)
"""Budgets of a price, for the default weight of penalties, 2. From a lower end, such as 0.06, gates close for good
before the network has learned what they are for."""
_TERMS = 3
"""Of a polynomial of degree 2."""


@final
@dataclass(frozen=True, slots=True)
class Budgets:
    """The budgets that a network is trained for, `low` to `high`, above 0."""

    low: float
    high: float

    @classmethod
    def of_config(
        cls,
        condition: str,
        on: str,
        low: float | None,
        high: float | None,
        *,
        targets: tuple[float, float],
    ) -> Self | None:
        """As a method is configured: None without conditioning.

        Arguments:
            low, high: None: `targets`, or of a price `_PRICES`.

        Raises `UsageError` for words that are none, and for an impossible range.
        """
        for name, word, kind in (("condition", condition, Condition), ("condition_on", on, ConditionOn)):
            if word not in get_args(kind):
                raise UsageError(f"unknown {name}: {word!r}", f"Allowed: {', '.join(get_args(kind))}.")
        if condition == "none":
            return None
        ends = targets if on == "target" else _PRICES
        low, high = ends[0] if low is None else low, ends[1] if high is None else high
        if not low < high:
            raise UsageError(
                f"budget_low is {low:g} and budget_high {high:g}", "Give a low end below the high one."
            )
        if on == "target" and high > 1:
            raise UsageError(
                f"budget_high is {high:g}, and a budget is a share of steps",
                "Give one of at most 1, or condition_on=price.",
            )
        return cls(low, high)

    @property
    def middle(self) -> float:
        """The default one."""
        # As short as users read it; in a narrow range the short one may lie beyond an end.
        return min(max(float(f"{math.sqrt(self.low * self.high):.2g}"), self.low), self.high)

    def at(self, z: Tensor) -> Tensor:
        """Budgets `[...]` of places z `[...]` from -1 to 1, even in the logarithm."""
        low, high = math.log(self.low), math.log(self.high)
        return torch.exp((low + high) / 2 + z * (high - low) / 2)

    def place(self, budget: float) -> float:
        """z of a budget."""
        low, high = math.log(self.low), math.log(self.high)
        return (2 * math.log(budget) - low - high) / (high - low)

    def spread(self, count: int) -> list[float]:
        """`count` of them, rising, even in the logarithm, both ends included, as short as users read them."""
        inner = self.at(torch.linspace(-1, 1, count, dtype=torch.float64))[1:-1].tolist()
        return [self.low, *dict.fromkeys(float(f"{each:.3g}") for each in inner), self.high]

    def of(self, setting: Setting) -> float:
        """A setting's budget. Raises `UsageError` for one that was not trained."""
        budget = float(setting.get(BUDGET, self.middle))
        if not self.low <= budget <= self.high:
            raise UsageError(
                f"{BUDGET} cannot be {budget:g}: the model was trained for {self.low:g} to {self.high:g}",
                f"Give a number from {self.low:g} to {self.high:g}.",
            )
        return budget

    def drawn(self, batch: Batch) -> Drawn:
        """New budgets for a batch: of each group another quarter of the range, in any order; the same on all workers
        that share the batch."""
        device, workers = batch.mask.device, batch.workers
        quarter = torch.randperm(_GROUPS, device=device)
        z = 2 * (quarter + torch.rand(_GROUPS, device=device)) / _GROUPS - 1
        z = same_for_workers(z, workers)
        group = (shares_of_places(batch.mask, workers) * _GROUPS).long()
        return Drawn(z=z, group=group, budgets=self.at(z), workers=workers)


def replaced_by_budget(name: str, value: object) -> UsageError:
    """The error of a setting that has no meaning where budgets are drawn."""
    return UsageError(
        f"{name} is {value}, but with condition=budget the budget takes its place",
        "Leave it out, and say between which ends budgets are drawn: budget_low, budget_high. Sweeps without its knob: "
        "method=lite_eval_dial, method=hcms_dial.",
    )


_ABOUT: Mapping[str, str] = {
    "target": "what each video may use: the share of the steps of the level below that a gated level is aimed at",
    "price": "what each video may use: the share of the cost of everything that is worth the penalty's weight in loss",
}


def with_budget(
    knobs: Sequence[InferenceKnob], budgets: Budgets | None, on: ConditionOn
) -> tuple[InferenceKnob, ...]:
    """A method's inference knobs, with that of the budget if it was trained for several."""
    if budgets is None:
        return tuple(knobs)
    about = f"{_ABOUT[on]}; higher sees more and costs more"
    return (
        InferenceKnob(
            name=BUDGET, default=budgets.middle, low=budgets.low, high=budgets.high, description=about
        ),
        *knobs,
    )


@final
@dataclass(frozen=True, slots=True)
class Drawn:
    """The budgets of a batch."""

    z: Tensor
    """`[groups]`, -1 to 1."""
    group: Tensor
    """`[B]` int64: of each video."""
    budgets: Tensor
    """`[groups]`"""
    workers: int

    @property
    def of_videos(self) -> Tensor:
        """`[B]`"""
        return self.budgets[self.group]

    def group_means(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Means `[groups, ...]` of values `[B, ...]`, and the groups' shares of the videos `[groups]`, over all
        workers."""
        count = values.new_zeros(_GROUPS).index_add(0, self.group, values.new_ones(len(values)))
        total = values.new_zeros(_GROUPS, *values.shape[1:]).index_add(0, self.group, values)
        count, total = (sum_over_workers(each, self.workers) for each in (count, total))
        shape = (_GROUPS, *(1 for _ in values.shape[1:]))
        return total / count.clamp(min=1).view(shape), count / count.sum()


def target_penalty(usage: Tensor, drawn: Drawn, reduction: Literal["batch", "video"]) -> Tensor:
    """How far the usage of groups, or of videos, is from what their budgets aim at, a mean over videos: squares, as a
    share of what is aimed at. Plain squares hardly tell small budgets apart, so that the cheaper half of the range
    would cost the same.

    Arguments:
        usage: `[B, L]`, the share of its steps at which a video used each of L levels. Of a budget b level l, counted
            from 1, is to use b**l: the share b of those that the level below used.
    """
    levels = torch.arange(1, usage.shape[1] + 1, device=usage.device)
    if reduction == "video":
        wanted = drawn.of_videos[:, None] ** levels
        return ((usage - wanted).square() / wanted).sum(dim=1).mean()
    means, shares = drawn.group_means(usage)
    wanted = drawn.budgets[:, None] ** levels
    return (((means - wanted).square() / wanted).sum(dim=1) * shares).sum()


def price_penalty(usage: Tensor, drawn: Drawn, weights: Tensor) -> Tensor:
    """What the usage costs in units of the budget, a mean over videos.

    Arguments:
        usage: `[B, L]`, as `target_penalty` takes it.
        weights: `[L]`, sum 1: what part of the cost of everything each level is.
    """
    return ((usage @ weights) / drawn.of_videos).mean()


@final
class BudgetGate(nn.Module):
    """`[B, G]` to logits `[B, 2]` (skip, use), its weights a polynomial in z.

    It begins as the plain gate that the same random state gives.
    """

    def __init__(self, width: int, budgets: Budgets) -> None:
        super().__init__()
        self.budgets = budgets
        self.terms = nn.ModuleList([nn.Linear(width, 2) for _ in range(_TERMS)])
        for term in list(self.terms)[1:]:
            for parameter in term.parameters():
                nn.init.zeros_(parameter)

    def sampled(self, drawn: Drawn, temperature: float) -> Conditioned:
        """The gate in training."""
        z = drawn.z[drawn.group]
        factors = torch.stack([z**power for power in range(_TERMS)], dim=1)
        terms = [term for term in self.terms if isinstance(term, nn.Linear)]
        return Conditioned(terms=terms, factors=factors, temperature=temperature)

    def at(self, budget: float) -> nn.Linear:
        """The plain gate that it is at a budget: what runs, and costs, at inference."""
        z = self.budgets.place(budget)
        terms = [term for term in self.terms if isinstance(term, nn.Linear)]
        folded = nn.Linear(terms[0].in_features, 2, device=terms[0].weight.device)
        with torch.no_grad():
            for name, into in folded.named_parameters():
                each = [term.get_parameter(name) * z**power for power, term in enumerate(terms)]
                into.copy_(torch.stack(each).sum(dim=0))
        return folded.eval()


def training_gate(gate: nn.Linear | BudgetGate, drawn: Drawn | None, temperature: float) -> TrainingGate:
    """A gate in training, at the budgets of a batch if it knows any."""
    if isinstance(gate, nn.Linear):
        return Sampled(gate=gate, temperature=temperature)
    assert drawn is not None
    return gate.sampled(drawn, temperature)


def plain_gate(gate: nn.Linear | BudgetGate, setting: Setting) -> nn.Linear:
    """A gate at a setting's budget.

    Raises `UsageError` for a budget that was not trained, and for any if the gate knows none.
    """
    if isinstance(gate, BudgetGate):
        return gate.at(gate.budgets.of(setting))
    if BUDGET in setting:
        raise UsageError(
            f"this model has no {BUDGET}: it was trained for one", "Train with method.model.condition=budget."
        )
    return gate
