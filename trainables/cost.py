"""The one owner of cost: component calls in, GFLOPs out.

A **component** is a thing that costs compute when it is called: a backbone at an input size
(`mobilenet_v2_w025@16`), a recurrent cell, a gate. Its cost is measured, on the real module at its real
input, with PyTorch's FLOP counter (convolutions and matrix products; additions, normalisation and
activations are left out, as in the papers).

Unit: multiply-accumulates. The papers call giga-multiply-accumulates "GFLOPs", and so do we wherever a
figure is shown. The counter counts a multiply-accumulate as two operations, hence the division by two.

Padded steps and steps that are decoded but not looked at cost nothing here; decoding is reported apart.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from paretovid.trainables.documents import Fields
from paretovid.trainables.errors import UnknownCostError, UsageError

Accounting = Literal["honest", "paper"]
ACCOUNTINGS: tuple[Accounting, ...] = ("honest", "paper")


def measure_macs(module: nn.Module, *inputs: Any) -> int:
    """Multiply-accumulates of `module(*inputs)`, all inputs of batch size 1.

    The module is run as it is, in eval mode, and put back. Returns an exact integer.
    """
    was_training = module.training
    module.eval()
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), counter:
            module(*inputs)
    finally:
        module.train(was_training)
    flops = counter.get_total_flops()
    assert flops % 2 == 0, "the counter counts two operations per multiply-accumulate"
    return flops // 2


@dataclass(frozen=True, kw_only=True, slots=True)
class ComponentCost:
    """What one call of a component costs, and where the figure comes from."""

    macs: int
    """Multiply-accumulates per call, measured."""
    input: str
    """The input it was measured at, for example `3x64x64`."""
    provenance: str = "torch.utils.flop_counter"
    published_gmacs: float | None = None
    """What a paper gives for the same component at the same input, if any does."""
    published_source: str | None = None

    @classmethod
    def read(cls, data: Fields) -> ComponentCost:
        """From a JSON document. Raises `DataError` for a field that is missing or of another type."""
        return cls(
            macs=data.count("macs"),
            input=data.text("input"),
            provenance=data.text("provenance", "torch.utils.flop_counter"),
            published_gmacs=data.optional_number("published_gmacs"),
            published_source=data.text("published_source") if "published_source" in data else None,
        )

    @property
    def gmacs(self) -> float:
        """Giga multiply-accumulates per call."""
        return self.macs / 1e9


class CostTable:
    """Costs by component name. Asking for a component that is not in it is an error."""

    def __init__(self, costs: Mapping[str, ComponentCost] | None = None) -> None:
        self._costs: dict[str, ComponentCost] = dict(costs or {})

    def add(self, name: str, cost: ComponentCost) -> None:
        """Adds a component. Raises `ValueError` if the name has another cost already."""
        if self._costs.get(name, cost) != cost:
            raise ValueError(f"component {name!r} has a cost already: {self._costs[name]}, not {cost}")
        self._costs[name] = cost

    def __getitem__(self, name: str) -> ComponentCost:
        try:
            return self._costs[name]
        except KeyError:
            raise UnknownCostError(
                f"the cost of component {name!r} is unknown",
                f"Measured components: {', '.join(sorted(self._costs)) or '(none)'}. "
                "Add it to the table with measure_macs; an unknown cost is never counted as zero.",
            ) from None

    def __contains__(self, name: str) -> bool:
        return name in self._costs

    def __iter__(self) -> Iterator[str]:
        return iter(self._costs)

    def gflops(self, calls: Mapping[str, Tensor]) -> Tensor:
        """GFLOPs per video.

        Arguments:
            calls: component name to the number of calls, each of shape `[B]` (or any one shape).

        Returns a float64 tensor of that shape.
        """
        if not calls:
            raise ValueError("no component was called: an outcome without any call has no cost")
        total = torch.zeros_like(next(iter(calls.values())), dtype=torch.float64)
        for name, count in calls.items():
            total += count.to(torch.float64) * self[name].macs
        return total / 1e9

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Plain data for a JSON file; `from_json` reads it."""
        return {name: asdict(cost) for name, cost in self._costs.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Mapping[str, Any]]) -> CostTable:
        """The table that `to_json` wrote."""
        return cls({name: ComponentCost(**cost) for name, cost in data.items()})


def check_accounting(accounting: str) -> Accounting:
    """Raises `UsageError` unless `accounting` is a known convention."""
    for known in ACCOUNTINGS:
        if accounting == known:
            return known
    raise UsageError(f"unknown accounting: {accounting!r}", f"Allowed: {', '.join(ACCOUNTINGS)}.")


@contextlib.contextmanager
def deterministic_eval(module: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients for the block; the mode before it is restored."""
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(was_training)
