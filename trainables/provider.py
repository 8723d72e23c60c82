"""Who supplies a method with what it asks for, and counts it.

Two providers with one contract: `FeatureProvider` reads features that were extracted before (training,
evaluation); `VideoProvider` decodes a video and runs a backbone **only when asked** (production). A method
cannot tell which it has; scores and calls are the same up to floating-point rounding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import final

import torch
from torch import Tensor

from paretovid.trainables.cost import CostTable
from paretovid.trainables.errors import UsageError, unknown_name


class Provider(ABC):
    """Supplies features of B videos and counts component calls.

    Arguments:
        num_steps: `[B]` int64, the steps that each video has.
        video_keys: `[B]` int64, a hash of each video's id.
        components: source to component name, for counting.
        costs: of every component that may be called, the method's own included.
        targets: `[B, C]`, only where the ground truth is known and may be used (an oracle); otherwise None.
        step_seconds: how long a step is, for methods that say when something happens.
    """

    def __init__(
        self,
        *,
        num_steps: Tensor,
        video_keys: Tensor,
        components: Mapping[str, str],
        costs: CostTable,
        targets: Tensor | None = None,
        step_seconds: float = 1.0,
    ) -> None:
        self.num_steps = num_steps
        self.step_seconds = step_seconds
        self.video_keys = video_keys
        self.components = dict(components)
        self.costs = costs
        self.targets = targets
        self.calls: dict[str, Tensor] = {}

    @property
    def batch_size(self) -> int:
        """B."""
        return len(self.num_steps)

    @property
    def max_steps(self) -> int:
        """T: the steps of the longest video."""
        return int(self.num_steps.max())

    def valid(self, step: int) -> Tensor:
        """`[B]` bool: the videos that have this step."""
        return self.num_steps > step

    @final
    def read(self, source: str, steps: int | Tensor, wanted: Tensor) -> Tensor:
        """Features of one step per video.

        Arguments:
            source: for example `coarse`.
            steps: one step for all videos, or `[B]` int64, one each.
            wanted: `[B]` bool. A video that does not want, or has no such step, costs nothing.

        Returns `[B, D]`, zero for videos that were not read. A step read twice is computed and paid once.
        """
        if source not in self.components:
            raise unknown_name("source", source, self.components)
        index = torch.full_like(self.num_steps, steps) if isinstance(steps, int) else steps
        wanted = wanted & (index < self.num_steps) & (index >= 0)
        values, is_new = self._read(source, index, wanted)
        self.charge(self.components[source], is_new)
        return values

    def expect(self, source: str) -> None:
        """Says that this source will be read at every step of every video, whatever is seen.

        A provider may then compute it in one batch. Only what is read is counted, so whoever might stop early
        must not say this.
        """
        _ = self.components[source]

    def peek(self, source: str) -> Tensor:
        """All features of a source, `[B, T, D]`, unpaid. Only where the ground truth is known too: for an oracle."""
        raise UsageError(f"{source} cannot be looked at before it is paid for", "Only an evaluation can.")

    @final
    def charge(self, component: str, count: Tensor) -> None:
        """Counts calls of a component: `count` `[B]`, bool or int64. Unknown cost: `UnknownCostError`."""
        _ = self.costs[component]
        before = self.calls.get(component)
        count = count.to(torch.int64)
        self.calls[component] = count.clone() if before is None else before + count

    @abstractmethod
    def _read(self, source: str, index: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, D]` features and `[B]` bool: which of them had not been read before."""


@final
class FeatureProvider(Provider):
    """Supplies cached features, `features[source]` of shape `[B, T, D_s]`."""

    def __init__(
        self,
        features: Mapping[str, Tensor],
        *,
        num_steps: Tensor,
        video_keys: Tensor,
        components: Mapping[str, str],
        costs: CostTable,
        targets: Tensor | None = None,
        step_seconds: float = 1.0,
    ) -> None:
        super().__init__(
            num_steps=num_steps,
            video_keys=video_keys,
            components=components,
            costs=costs,
            targets=targets,
            step_seconds=step_seconds,
        )
        self._features = dict(features)
        self._seen: dict[str, Tensor] = {}

    def peek(self, source: str) -> Tensor:
        return self._features[source] if self.targets is not None else super().peek(source)

    def _read(self, source: str, index: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        features = self._features[source]
        seen = self._seen.setdefault(
            source, torch.zeros(features.shape[:2], dtype=torch.bool, device=features.device)
        )
        rows = torch.arange(self.batch_size, device=features.device)
        index = index.clamp(0, features.shape[1] - 1)
        is_new = wanted & ~seen[rows, index]
        seen[rows, index] |= wanted
        return features[rows, index] * wanted[:, None], is_new


@final
class VideoProvider(Provider):
    """Supplies features of one raw video: decodes and computes a step when it is first asked for.

    Arguments:
        compute: `(source, step) -> [D]`; decodes the step and runs the source's backbone.
        compute_all: `source -> [T, D]`; the same for all steps at once, for sources that are expected.
    """

    def __init__(
        self,
        compute: Callable[[str, int], Tensor],
        *,
        widths: Mapping[str, int],
        num_steps: int,
        video_key: int,
        components: Mapping[str, str],
        costs: CostTable,
        compute_all: Callable[[str], Tensor] | None = None,
        step_seconds: float = 1.0,
    ) -> None:
        super().__init__(
            num_steps=torch.tensor([num_steps]),
            video_keys=torch.tensor([video_key]),
            components=components,
            costs=costs,
            step_seconds=step_seconds,
        )
        self._compute = compute
        self._widths = dict(widths)
        self._compute_all = compute_all
        self._cache: dict[tuple[str, int], Tensor] = {}
        self.reads: list[tuple[str, int]] = []
        """Source and step of what was read, in the order of reading, each once."""
        self._seen: set[tuple[str, int]] = set()

    def expect(self, source: str) -> None:
        super().expect(source)
        if self._compute_all is not None and self.max_steps > 0:
            for step, features in enumerate(self._compute_all(source)):
                self._cache[source, step] = features

    def _read(self, source: str, index: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        if not bool(wanted[0]):
            return torch.zeros(1, self._widths[source]), torch.zeros(1, dtype=torch.bool)
        key = (source, int(index[0]))
        is_new = key not in self._seen
        self._seen.add(key)
        if is_new:
            self.reads.append(key)
        if key not in self._cache:
            self._cache[key] = self._compute(*key)
        return self._cache[key][None], torch.tensor([is_new])
