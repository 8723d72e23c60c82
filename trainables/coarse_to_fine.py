"""The coarse and the fine recurrent network of LiteEval, without the rule that decides when to look closer.

LiteEval learns that rule (`lite_eval.py`), its control draws it at random (`random_gate.py`); the network,
its cost and its way through a video are the same, and live here.

B videos, T steps, C classes, H_c < H_f hidden units, P_c and P_f projected widths, S states of a cell
(hidden and cell: 2 for an LSTM, 1 for a GRU).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from paretovid.trainables.cost import ComponentCost, measure_macs
from paretovid.trainables.errors import UsageError
from paretovid.trainables.gated_recurrence import (
    Cell,
    CellKind,
    Projection,
    mix,
    state_as_features,
    synchronize,
)
from paretovid.trainables.method import Outcome, Setting, last_valid, probabilities, stack_steps
from paretovid.trainables.provider import Provider

COARSE, FINE = "coarse", "fine"
LOOKED_COARSE, LOOKED_FINE = 1, 2

Decide = Callable[[int, Tensor], Tensor]
"""`(step, gate input [B, G]) -> use [B]`: 0/1 floats with gradient in training, bool in evaluation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkConfig:
    """Sizes of the two networks. The papers' for ActivityNet: hidden units 64 and 512."""

    cell: CellKind = "lstm"
    coarse_projection: int = 32
    fine_projection: int = 64
    coarse_hidden: int = 32
    fine_hidden: int = 128
    dropout: float = 0.0
    """Of projected features, in training. Not in the papers, which train on far more videos."""
    step_dropout: float = 0.4
    """Share of a video's steps that training leaves out, others each time. Not in the papers either."""
    synchronize: bool = True
    """False: the fine state stays as it is at skipped steps (the paper's ablation, Table 8)."""

    def __post_init__(self) -> None:
        if self.cell not in ("lstm", "gru"):
            raise UsageError(f"unknown cell: {self.cell!r}", "Allowed: lstm, gru.")
        for name in ("coarse_projection", "fine_projection", "coarse_hidden", "fine_hidden"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}", "Raise it.")
        if self.coarse_hidden >= self.fine_hidden:
            raise UsageError(
                f"coarse_hidden ({self.coarse_hidden}) must be smaller than fine_hidden ({self.fine_hidden})",
                "Synchronisation copies the coarse state into the first entries of the fine one.",
            )


@final
class CoarseToFine(nn.Module):
    """Projections, the two cells and the head.

    Arguments:
        config: sizes.
        widths: D of the sources `coarse` and `fine`.
        prefix: the method's name, in front of its components' names.
    """

    def __init__(
        self,
        config: NetworkConfig,
        *,
        widths: Mapping[str, int],
        num_classes: int,
        multi_label: bool,
        prefix: str,
    ) -> None:
        super().__init__()
        self.config = config
        self.multi_label = multi_label
        self.prefix = prefix
        self.widths = dict(widths)
        self.project_coarse = Projection(widths[COARSE], config.coarse_projection, config.dropout)
        self.project_fine = Projection(widths[FINE], config.fine_projection, config.dropout)
        self.coarse = Cell(config.cell, config.coarse_projection, config.coarse_hidden)
        self.fine = Cell(config.cell, config.coarse_projection + config.fine_projection, config.fine_hidden)
        self.head = nn.Linear(config.fine_hidden, num_classes)

    @property
    def gate_width(self) -> int:
        """G: projected coarse features and the fine state of the step before."""
        return self.config.coarse_projection + self.fine.num_states * self.config.fine_hidden

    def train_through(
        self, features: Mapping[str, Tensor], mask: Tensor, decide: Decide
    ) -> tuple[Tensor, Tensor]:
        """All steps with all features present.

        Returns logits at each video's last step `[B, C]` and the share of its steps that were used, `[B]`.
        """
        coarse_all = self.project_coarse(features[COARSE])
        fine_all = self.project_fine(features[FINE])
        coarse = self.coarse.initial(len(mask), coarse_all)
        fine = self.fine.initial(len(mask), fine_all)
        kept = mask & self._kept_steps(mask)
        uses, states = [], []
        for t in range(mask.shape[1]):
            x_c, there = coarse_all[:, t], kept[:, t].float()
            new_coarse = self.coarse(x_c, coarse)
            use = decide(t, torch.cat([x_c, state_as_features(fine)], dim=-1))
            # Both branches run in training; what is paid for is decided in evaluation.
            used = self.fine(torch.cat([x_c, fine_all[:, t]], dim=-1), fine)
            new_fine = mix(use, used, self._skipped(fine, new_coarse))
            coarse, fine = mix(there, new_coarse, coarse), mix(there, new_fine, fine)
            uses.append(use * there)
            states.append(fine[0])
        last = last_valid(stack_steps(states), mask.sum(dim=1))
        # As a share of the steps that were there, so that leaving some out does not look like thrift.
        usage = stack_steps(uses).sum(dim=1) / kept.sum(dim=1).clamp(min=1)
        return self.head(last), usage

    def _kept_steps(self, mask: Tensor) -> Tensor:
        """`[B, T]` bool: the steps of this batch that training does not leave out."""
        if not self.training or self.config.step_dropout == 0:
            return torch.ones_like(mask)
        return torch.rand(mask.shape, device=mask.device) >= self.config.step_dropout

    def _skipped(self, fine: Tensor, coarse: Tensor) -> Tensor:
        return synchronize(fine, coarse) if self.config.synchronize else fine

    def run(self, provider: Provider, decide: Decide, setting: Setting, gate: str | None) -> Outcome:
        """Through the videos, asking only for what `decide` wants.

        Arguments:
            decide: gets the step and the gate input, returns bool `[B]`.
            setting: `online_k` (stop right after the K-th fine read; 0: never) and `max_gflops` (answer before
                a video's cost would pass this; 0: no cap).
            gate: the gate's component name, charged per step; None if deciding costs nothing.

        Raises `UsageError` if `max_gflops` does not pay for the first coarse step.
        """
        online_k = int(setting.get("online_k", 0))
        budget = _Budget(self, provider, float(setting.get("max_gflops", 0)), gate)
        if not online_k and not budget.is_limited:
            provider.expect(COARSE)
        device = provider.num_steps.device
        example = torch.zeros(1, device=device)
        coarse = self.coarse.initial(provider.batch_size, example)
        fine = self.fine.initial(provider.batch_size, example)
        nobody = torch.zeros(provider.batch_size, dtype=torch.int64, device=device)
        stopped, looks, reads = nobody.bool(), nobody.clone(), nobody.clone()
        states, uses, looked = [], [], []
        for t in range(provider.max_steps):
            active = provider.valid(t) & ~stopped
            if budget.is_limited:
                affordable = budget.affords_coarse(looks, reads)
                stopped = stopped | (active & ~affordable)
                active = active & affordable
            if provider.batch_size == 1 and not bool(active):
                break
            x_c = self.project_coarse(provider.read(COARSE, t, active))
            new_coarse = self.coarse(x_c, coarse)
            looks += active
            use = active & decide(t, torch.cat([x_c, state_as_features(fine)], dim=-1))
            if budget.is_limited:
                use = use & budget.affords_fine(looks, reads)
            new_fine = self._skipped(fine, new_coarse)
            if bool(use.any()):
                x_f = self.project_fine(provider.read(FINE, t, use))
                closely = self.fine(torch.cat([x_c, x_f], dim=-1), fine)
                new_fine = torch.where(use[None, :, None], closely, new_fine)
            coarse = torch.where(active[None, :, None], new_coarse, coarse)
            fine = torch.where(active[None, :, None], new_fine, fine)
            reads += use
            states.append(fine[0])
            uses.append(use)
            looked.append(active)
            if online_k:
                stopped = stopped | (reads >= online_k)
        provider.charge(f"{self.prefix}.coarse_rnn", looks)
        if gate is not None:
            provider.charge(gate, looks)
        provider.charge(f"{self.prefix}.fine_rnn", reads)
        provider.charge(f"{self.prefix}.head", torch.ones_like(looks))
        trace = {"states": stack_steps(states), "use": stack_steps(uses), "looked": stack_steps(looked)}
        cheap = [provider.components[COARSE], f"{self.prefix}.coarse_rnn", *([gate] if gate else [])]
        dear = [provider.components[FINE], f"{self.prefix}.fine_rnn"]
        trace |= {f"calls/{name}": trace["looked"] for name in cheap}
        trace |= {f"calls/{name}": trace["use"] for name in dear}
        return Outcome(
            scores=probabilities(self.head(fine[0]), self.multi_label),
            calls={name: count.clone() for name, count in provider.calls.items()},
            decisions=trace["looked"].long() * LOOKED_COARSE + trace["use"].long(),
            trace=trace,
        )

    def stopped_after(self, outcome: Outcome, reads: int) -> Outcome:
        """The outcome that `online_k = reads` would have given, from one that read on."""
        use, looked = outcome.trace["use"], outcome.trace["looked"]
        # A step counts if fewer than `reads` fine reads came before it.
        kept = looked & (use.long().cumsum(dim=1) - use.long() < reads)
        calls = dict(outcome.calls)
        for name in calls:
            if f"calls/{name}" in outcome.trace:
                calls[name] = (outcome.trace[f"calls/{name}"] & kept).sum(dim=1)
        return Outcome(
            scores=probabilities(
                self.head(last_valid(outcome.trace["states"], kept.sum(dim=1))), self.multi_label
            ),
            calls=calls,
            decisions=kept.long() * LOOKED_COARSE + (kept & use).long(),
        )

    def component_costs(self) -> dict[str, ComponentCost]:
        """Measured cost of the projections, cells and head, all four LSTM gates included."""
        config = self.config
        example = next(self.parameters())
        x_c = example.new_zeros(1, config.coarse_projection)
        x_f = example.new_zeros(1, config.fine_projection)
        coarse = measure_macs(self.project_coarse, example.new_zeros(1, self.widths[COARSE]))
        coarse += measure_macs(self.coarse, x_c, self.coarse.initial(1, example))
        fine = measure_macs(self.project_fine, example.new_zeros(1, self.widths[FINE]))
        fine += measure_macs(self.fine, torch.cat([x_c, x_f], dim=-1), self.fine.initial(1, example))
        head = measure_macs(self.head, example.new_zeros(1, config.fine_hidden))
        return self._costs(coarse, fine, head)

    def paper_component_costs(self) -> dict[str, ComponentCost]:
        """As LiteEval's code counts: one gate of four, `in*out + out^2 + out`; no projection, gate or head."""
        config = self.config
        fine_in, c, f = (
            config.coarse_projection + config.fine_projection,
            config.coarse_hidden,
            config.fine_hidden,
        )
        coarse = config.coarse_projection * c + c * c + c
        return self._costs(coarse, fine_in * f + f * f + f, 0, provenance="formula of the paper's code")

    def _costs(
        self, coarse: int, fine: int, head: int, provenance: str = "torch.utils.flop_counter"
    ) -> dict[str, ComponentCost]:
        config = self.config
        inputs = {
            "coarse_rnn": (coarse, f"{self.widths[COARSE]} features, {config.coarse_hidden} units"),
            "fine_rnn": (fine, f"{self.widths[FINE]} features, {config.fine_hidden} units"),
            "head": (head, f"{config.fine_hidden} units"),
        }
        return {
            f"{self.prefix}.{name}": ComponentCost(macs=macs, input=given, provenance=provenance)
            for name, (macs, given) in inputs.items()
        }


@final
class _Budget:
    """Keeps each video's cost under a cap: what is not affordable is not asked for."""

    def __init__(
        self, network: CoarseToFine, provider: Provider, max_gflops: float, gate: str | None
    ) -> None:
        self._cap = max_gflops
        self.is_limited = bool(max_gflops)
        """True if there is a cap."""
        if not self.is_limited:
            return
        costs, components, prefix = provider.costs, provider.components, network.prefix
        # The answer itself must still be affordable.
        self._head = costs[f"{prefix}.head"].macs
        self._coarse = costs[components[COARSE]].macs + costs[f"{prefix}.coarse_rnn"].macs
        self._coarse += costs[gate].macs if gate else 0
        self._fine = costs[components[FINE]].macs + costs[f"{prefix}.fine_rnn"].macs
        if self._coarse + self._head > max_gflops * 1e9:
            raise UsageError(
                f"max_gflops={max_gflops:g} does not pay for one coarse look",
                f"The cheapest answer costs {(self._coarse + self._head) / 1e9:.3g} GFLOPs; raise the cap.",
            )

    def affords_coarse(self, looks: Tensor, reads: Tensor) -> Tensor:
        """`[B]` bool: after so many coarse and fine looks, another coarse one fits."""
        return self._macs(looks + 1, reads) <= self._cap * 1e9

    def affords_fine(self, looks: Tensor, reads: Tensor) -> Tensor:
        """`[B]` bool: a fine look fits as well."""
        return self._macs(looks, reads + 1) <= self._cap * 1e9

    def _macs(self, looks: Tensor, reads: Tensor) -> Tensor:
        return looks * self._coarse + reads * self._fine + self._head
