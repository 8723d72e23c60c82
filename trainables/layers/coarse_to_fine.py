"""The coarse and the fine recurrent network of LiteEval, without the rule that decides when to look closer.

LiteEval learns that rule (`methods/lite_eval.py`), its control draws it at random (`baselines/random_gate.py`). The
network is a stack of two levels (`gated_stack.py`); its sizes, its accounting and its way to stop live here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from paretovid.trainables.cost import ComponentCost
from paretovid.trainables.errors import UsageError
from paretovid.trainables.layers.caps import METHOD, Cap, points_under_caps, under_cap
from paretovid.trainables.layers.gated_stack import Gate, GatedLevels, LevelSize, Limits
from paretovid.trainables.layers.recurrent import CellKind
from paretovid.trainables.outcome import Outcome, Setting
from paretovid.trainables.provider import Provider
from paretovid.trainables.ranges import Dropout, Width, check_ranges

COARSE, FINE = "coarse", "fine"
READ_COARSE, READ_FINE = 1, 2
"""Values of a decision: how many of the two were looked at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkConfig:
    """Sizes of the two networks. The papers' for ActivityNet: hidden units 64 and 512."""

    cell: CellKind = "lstm"
    coarse_projection: Width = 32
    fine_projection: Width = 64
    coarse_hidden: Width = 32
    fine_hidden: Width = 128
    dropout: Dropout = 0.0
    """Of projected features, in training. Not in the papers, which train on far more videos."""
    step_dropout: Dropout = 0.4
    """Share of a video's steps that training leaves out, others each time. Not in the papers either."""
    synchronize: bool = True
    """False: the fine state stays as it is at skipped steps (the paper's ablation, Table 8)."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.cell not in ("lstm", "gru"):
            raise UsageError(f"unknown cell: {self.cell!r}", "Allowed: lstm, gru.")
        if self.coarse_hidden >= self.fine_hidden:
            raise UsageError(
                f"coarse_hidden ({self.coarse_hidden}) must be smaller than fine_hidden ({self.fine_hidden})",
                "Synchronisation copies the coarse state into the first entries of the fine one.",
            )


def coarse_to_fine(
    config: NetworkConfig, *, widths: Mapping[str, int], num_classes: int, multi_label: bool, prefix: str
) -> GatedLevels:
    """The network. `prefix`: the method's name, in front of its components' names."""
    return GatedLevels(
        (
            LevelSize(source=COARSE, projection=config.coarse_projection, hidden=config.coarse_hidden),
            LevelSize(source=FINE, projection=config.fine_projection, hidden=config.fine_hidden),
        ),
        cell=config.cell,
        dropout=config.dropout,
        step_dropout=config.step_dropout,
        synchronize=config.synchronize,
        widths=widths,
        num_classes=num_classes,
        multi_label=multi_label,
        prefix=prefix,
    )


def run_setting(network: GatedLevels, provider: Provider, gate: Gate, setting: Setting, cap: Cap) -> Outcome:
    """A run with `online_k` (stop right after the K-th fine read; 0: never) under a cap.

    Raises `UsageError` if the cap does not pay for the first coarse read.
    """
    limits = Limits(cap=cap, top_runs=int(setting.get("online_k", 0)))
    return network.run(provider, [gate], limits, traces_every_level=not cap.is_set)


def stopped_after(network: GatedLevels, outcome: Outcome, reads: int) -> Outcome:
    """The outcome that `online_k = reads` would have given, from one that read on."""
    use = outcome.trace["ran"][..., 1].long()
    # A step counts if fewer than `reads` fine reads came before it.
    kept = use.cumsum(dim=1) - use < reads
    cut = network.cut(outcome, outcome.trace["ran"] & kept[..., None])
    is_early = (cut.decisions > 0).sum(dim=1) < (outcome.decisions > 0).sum(dim=1)
    assert outcome.stopped_by is not None
    return dataclasses.replace(cut, stopped_by=torch.where(is_early, METHOD, outcome.stopped_by))


def levels_under_caps(
    network: GatedLevels, outcome: Outcome, setting: Setting, caps: Sequence[float]
) -> list[tuple[Setting, Outcome]]:
    """What a run would have given under each cap, in steps, from one without any that traced every level."""
    return points_under_caps(
        outcome, setting, caps, lambda fits: network.cut(outcome, fits.view(outcome.trace["ran"].shape))
    )


def level_under_cap(network: GatedLevels, outcome: Outcome, max_gflops: float) -> Outcome:
    """The same under one cap that stops, in GFLOPs."""
    return under_cap(
        outcome, max_gflops, lambda fits: network.cut(outcome, fits.view(outcome.trace["ran"].shape))
    )


def paper_component_costs(network: GatedLevels) -> dict[str, ComponentCost]:
    """As LiteEval's code counts: one gate of four, `in*out + out^2 + out`; no projection, gate or head."""
    macs, seen = {"head": 0}, 0
    for size in network.sizes:
        seen += size.projection
        macs[f"{size.source}_rnn"] = seen * size.hidden + size.hidden**2 + size.hidden
    return network.described(macs, provenance="formula of the paper's code")
