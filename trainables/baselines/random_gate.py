"""Control for LiteEval: the same networks, with steps to look at closely drawn at random.

At the same number of close reads, what LiteEval gains over this is what its gate knows about *where* to
look. The network is trained under random gates of all usages, so that it is at home at each of them.
Decisions hang on the video's id and the step alone: the same in every run, whatever the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, final

import torch
from torch import Tensor

from paretovid.trainables.cost import ComponentCost
from paretovid.trainables.data.video_keys import uniform_hash
from paretovid.trainables.layers.caps import DEFAULT_CAPS, KNOBS_WITH_CHEAP, Cap, CapUnits, check_caps
from paretovid.trainables.layers.coarse_to_fine import (
    COARSE,
    FINE,
    NetworkConfig,
    coarse_to_fine,
    levels_under_caps,
    paper_component_costs,
    run_setting,
)
from paretovid.trainables.layers.conditioned.gates import Given
from paretovid.trainables.layers.functional import classification_loss
from paretovid.trainables.layers.gated_stack import Gate
from paretovid.trainables.method import Method, check_distinct, register
from paretovid.trainables.methods.lite_eval import ONLINE_K
from paretovid.trainables.outcome import Batch, InferenceKnob, Loss, Outcome, Progress, Setting
from paretovid.trainables.provider import Provider
from paretovid.trainables.ranges import Fraction, check_ranges

USAGE = InferenceKnob(
    name="usage",
    default=0.2,
    low=0.0,
    high=1.0,
    description="probability of looking closely at a step",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RandomGateConfig:
    """Training settings of the random gate."""

    network: NetworkConfig = field(default_factory=NetworkConfig)
    training_usage: Annotated[Fraction, "0 varies it."] = 0.0
    """Usage to train with; 0: another one per batch, log-uniform between 0.03 and 1."""
    usages: tuple[Annotated[float, USAGE.range], ...] = (0.2, 0.05, 0.1, 0.15, 0.3, 0.4, 0.5, 0.75, 1.0)
    """Inference settings to evaluate; the first is the default one."""
    caps: tuple[CapUnits, ...] = DEFAULT_CAPS
    """As LiteEval's, at each of the `usages`."""

    def __post_init__(self) -> None:
        check_ranges(self)
        check_distinct("usages", self.usages)
        check_caps(self.caps)


@register
@final
class RandomGate(Method):
    """See the module's text."""

    name: ClassVar[str] = "random_gate"
    Config: ClassVar[type[Any]] = RandomGateConfig
    inference_knobs = (USAGE, ONLINE_K, *KNOBS_WITH_CHEAP)
    is_baseline: ClassVar[bool] = True

    @classmethod
    def sources_of(cls, config: RandomGateConfig) -> tuple[str, ...]:
        return (COARSE, FINE)

    def __init__(
        self, config: RandomGateConfig, *, widths: Mapping[str, int], num_classes: int, multi_label: bool
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

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        usage = self.config.training_usage or float(0.03 ** torch.rand(()))
        use = torch.rand(batch.mask.shape, device=batch.mask.device) < usage
        logits, share = self.network.train_through(batch.features, batch.mask, [Given(use=use)])
        loss = classification_loss(logits, batch.targets, self.multi_label)
        return Loss(loss, {"classification": float(loss.detach()), "usage": float(share.mean())})

    def run(self, provider: Provider, setting: Setting) -> Outcome:
        usage = float(setting.get("usage", USAGE.default))

        def decide(step: int, _: Tensor) -> Tensor:
            return uniform_hash(provider.video_keys, step) < usage

        gate = Gate(decide=decide, component=None)
        return run_setting(self.network, provider, gate, setting, Cap.of(setting, self))

    def settings(self) -> list[Setting]:
        return [{"usage": usage, "online_k": 0} for usage in self.config.usages]

    def stop_points(self, outcome: Outcome, setting: Setting) -> list[tuple[Setting, Outcome]]:
        return levels_under_caps(self.network, outcome, setting, self.config.caps)

    def component_costs(self) -> dict[str, ComponentCost]:
        return self.network.component_costs()

    def paper_component_costs(self, backbones: Mapping[str, ComponentCost]) -> dict[str, ComponentCost]:
        return paper_component_costs(self.network)
