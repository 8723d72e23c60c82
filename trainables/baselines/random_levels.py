"""Control for HCMS: the same levels, with the steps at which each runs drawn at random.

At the same shares of steps used, what HCMS gains over this is what its gates know about *where* each source is
worth its price. The network is trained under random gates of all usages, so that it is at home at each of them.
One number is drawn per video and step, from the video's id and the step alone; level l runs where it is below
`usage_l`. So decisions are the same whatever the batch, and nested as HCMS's are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from paretovid.trainables.cost import ComponentCost
from paretovid.trainables.data.video_keys import uniform_hash
from paretovid.trainables.errors import UsageError
from paretovid.trainables.layers.caps import DEFAULT_CAPS, KNOBS_WITH_CHEAP, Cap, CapUnits, check_caps
from paretovid.trainables.layers.coarse_to_fine import levels_under_caps
from paretovid.trainables.layers.conditioned.gates import Given
from paretovid.trainables.layers.functional import classification_loss
from paretovid.trainables.layers.gated_stack import Decide, Gate
from paretovid.trainables.method import Method, register
from paretovid.trainables.methods.hcms import (
    MOST_LEVELS,
    HierarchyConfig,
    hierarchy,
    run_capped,
)
from paretovid.trainables.outcome import Batch, InferenceKnob, Loss, Outcome, Progress, Setting
from paretovid.trainables.provider import Provider
from paretovid.trainables.ranges import Fraction, check_ranges

LEAST_TRAINED_USAGE = 0.03
USAGES = tuple(
    InferenceKnob(
        name=f"usage_{level}",
        default=default,
        low=0.0,
        high=1.0,
        description=f"probability that gated level {level} runs at a step; at most that of the level below",
    )
    for level, default in zip(range(1, MOST_LEVELS), (0.3, 0.1, 0.05), strict=True)
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RandomLevelsConfig:
    """Training settings of the random levels."""

    sources: tuple[str, ...] = ("audio", "fine", "motion")
    """As HCMS's."""
    network: HierarchyConfig = field(default_factory=HierarchyConfig)
    training_usages: tuple[Fraction, ...] = ()
    """Usages of the gated levels to train with; empty: others per batch, log-uniform between 0.03 and 1."""
    usages: tuple[tuple[Fraction, ...], ...] = ()
    """Inference settings to evaluate, a usage per gated level each; the first is the default one. Empty: the
    knobs' defaults, then a grid."""
    caps: tuple[CapUnits, ...] = DEFAULT_CAPS
    """As HCMS's, at the default setting alone."""

    def __post_init__(self) -> None:
        check_ranges(self)
        self.network.sizes(self.sources)
        check_caps(self.caps)
        for usages in (*self.usages, *([self.training_usages] if self.training_usages else [])):
            _check_usages(usages, self.sources)
        if len(set(self.usages)) != len(self.usages):
            raise UsageError(f"usages cannot be {[list(u) for u in self.usages]}", "Give each once.")


def _check_usages(usages: Sequence[float], sources: Sequence[str]) -> None:
    falling = all(above <= below for below, above in zip((1.0, *usages), usages, strict=False))
    if len(usages) != len(sources) - 1 or not falling:
        raise UsageError(
            f"usages cannot be {list(usages)}",
            f"Give one for each of {', '.join(sources[1:])}, from 1 to 0, none above that of the level below.",
        )


@register
@final
class RandomLevels(Method):
    """See the module's text."""

    name: ClassVar[str] = "random_levels"
    Config: ClassVar[type[Any]] = RandomLevelsConfig
    inference_knobs = (*USAGES, *KNOBS_WITH_CHEAP)
    is_baseline: ClassVar[bool] = True

    @classmethod
    def sources_of(cls, config: RandomLevelsConfig) -> tuple[str, ...]:
        return config.sources

    def __init__(
        self, config: RandomLevelsConfig, *, widths: Mapping[str, int], num_classes: int, multi_label: bool
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

    def reads(self) -> tuple[str, ...]:
        return ("none", *self.config.sources)

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        drawn = torch.rand(batch.mask.shape, device=batch.mask.device)
        gates = [Given(use=drawn < usage) for usage in self._training_usages()]
        logits, share = self.network.train_through(batch.features, batch.mask, gates)
        loss = classification_loss(logits, batch.targets, self.multi_label)
        parts = {"classification": float(loss.detach())}
        parts |= {f"skip_{level}": 1 - float(used) for level, used in enumerate(share.mean(dim=0), start=1)}
        return Loss(loss, parts)

    def _training_usages(self) -> tuple[float, ...]:
        if self.config.training_usages:
            return self.config.training_usages
        drawn = LEAST_TRAINED_USAGE ** torch.rand(len(self.config.sources) - 1)
        return tuple(drawn.sort(descending=True).values.tolist())

    def run(self, provider: Provider, setting: Setting) -> Outcome:
        def below(usage: float) -> Decide:
            def decide(step: int, _: Tensor) -> Tensor:
                return uniform_hash(provider.video_keys, step) < usage

            return decide

        usages = [float(setting.get(knob.name, knob.default)) for knob in self._knobs()]
        gates = [Gate(decide=below(usage), component=None) for usage in usages]
        return run_capped(self.network, provider, gates, Cap.of(setting, self))

    def _knobs(self) -> tuple[InferenceKnob, ...]:
        return USAGES[: len(self.config.sources) - 1]

    def settings(self) -> list[Setting]:
        gated = len(self._knobs())
        default = tuple(float(knob.default) for knob in self._knobs())
        grid = [(first, *(first * share**i for i in range(1, gated))) for first, share in _GRID]
        usages = self.config.usages or tuple(dict.fromkeys((default, *grid)))
        return [
            {knob.name: usage for knob, usage in zip(self._knobs(), each, strict=True)} | {"max_gflops": 0.0}
            for each in usages
        ]

    def stop_points(self, outcome: Outcome, setting: Setting) -> list[tuple[Setting, Outcome]]:
        if setting != self.settings()[0]:
            return []
        return levels_under_caps(self.network, outcome, setting, self.config.caps)

    def component_costs(self) -> dict[str, ComponentCost]:
        return self.network.component_costs()


_GRID = tuple(
    (first, share) for first in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0) for share in (0.1, 0.3, 1.0)
)
"""Usage of the first gated level, and of each above as a share of the one below."""
