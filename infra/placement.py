"""What one trial takes of a cluster, and how many of them its nodes have room for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

GIB = 1024**3


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialResources:
    """What one trial takes."""

    workers: int = 1
    cpus: float = 1
    """Per worker."""
    gpus: float = 0
    """Per worker; a fraction shares one."""
    memory_gigabytes: float | None = None
    """Of the whole trial."""
    custom: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Per worker: resources that the nodes were started with, by name."""

    @property
    def is_nested(self) -> bool:
        """True if a trial is a Ray Train run."""
        return self.workers > 1

    def per_worker(self) -> dict[str, float]:
        """What Ray reserves for one worker, by its names."""
        return {"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {}), **self.custom}

    def bundle(self) -> dict[str, float]:
        """What Ray reserves for the Tune trial itself."""
        memory = {"memory": float(int(self.memory_gigabytes * GIB))} if self.memory_gigabytes else {}
        if self.is_nested:
            # Without a CPU: drivers that hold all of them wait for ever for their workers' share.
            return memory or {"memory": 200.0 * 1024**2}
        return {**self.per_worker(), **memory}

    def workers_on(self, node: Mapping[str, float]) -> int:
        """Workers that a node has room for. `node`: its resources, by Ray's names."""
        return _fitting(self.per_worker() if self.is_nested else self.bundle(), node)

    def slots(self, nodes: Sequence[Mapping[str, float]]) -> int:
        """Trials for which these nodes have room at a time.

        Arguments:
            nodes: the resources of each, by Ray's names (`CPU`, `GPU`, `memory` in bytes, custom ones).

        A trial's workers may be spread over nodes, a single worker may not.
        """
        if not self.is_nested:
            return sum(_fitting(self.bundle(), node) for node in nodes)
        workers = sum(_fitting(self.per_worker(), node) for node in nodes)
        return min(workers // self.workers, sum(_fitting(self.bundle(), node) for node in nodes))

    def __str__(self) -> str:
        each = ", ".join(f"{amount:g} {name}" for name, amount in self.per_worker().items())
        memory = f", {self.memory_gigabytes:g} GB" if self.memory_gigabytes else ""
        return f"{self.workers} x ({each}){memory}"


def _fitting(wanted: Mapping[str, float], node: Mapping[str, float]) -> int:
    # Fractions that should add up to a whole do so only nearly.
    room = [node.get(name, 0.0) / amount + 1e-9 for name, amount in wanted.items() if amount]
    return math.floor(min(room)) if room else 0
