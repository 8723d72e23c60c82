"""All methods and baselines by name, those of plug-ins among them. One is imported when it is first asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paretovid.trainables.config import typed_config
from paretovid.trainables.cost import ComponentCost
from paretovid.trainables.documents import JsonObject
from paretovid.trainables.errors import UsageError
from paretovid.trainables.method import METHODS, Method
from paretovid.trainables.outcome import InferenceKnob
from paretovid.trainables.ranges import type_hints

__all__ = [
    "ConfiguredMethod",
    "build_method",
    "default_component_costs",
    "method_class",
    "method_config",
    "method_names",
]

METHODS.own(
    {
        "ada_frame": "paretovid.trainables.methods.ada_frame:AdaFrame",
        "hcms": "paretovid.trainables.methods.hcms:Hcms",
        "lite_eval": "paretovid.trainables.methods.lite_eval:LiteEval",
        "model_selection": "paretovid.trainables.methods.model_selection:ModelSelection",
        "model_selection_localization": (
            "paretovid.trainables.methods.model_selection_localization:ModelSelectionLocalization"
        ),
        "video_epitoma": "paretovid.trainables.methods.video_epitoma:VideoEpitoma",
        "early_fusion": "paretovid.trainables.baselines.early_fusion:EarlyFusion",
        "frame_exit": "paretovid.trainables.baselines.frame_exit:FrameExit",
        "frame_glimpse": "paretovid.trainables.baselines.glimpse_agents:FrameGlimpse",
        "fast_forward": "paretovid.trainables.baselines.glimpse_agents:FastForward",
        "late_fusion": "paretovid.trainables.baselines.late_fusion:LateFusion",
        "appearance_only": "paretovid.trainables.baselines.localization:AppearanceOnly",
        "motion_only": "paretovid.trainables.baselines.localization:MotionOnly",
        "two_stream": "paretovid.trainables.baselines.localization:TwoStream",
        "random_clips": "paretovid.trainables.baselines.localization:RandomClips",
        "lstm": "paretovid.trainables.baselines.lstm:Lstm",
        "single_model": "paretovid.trainables.baselines.model_pool:SingleModel",
        "random_model": "paretovid.trainables.baselines.model_pool:RandomModel",
        "model_cascade": "paretovid.trainables.baselines.model_pool:ModelCascade",
        "model_ensemble": "paretovid.trainables.baselines.model_pool:ModelEnsemble",
        "model_oracle": "paretovid.trainables.baselines.model_pool:ModelOracle",
        "random_gate": "paretovid.trainables.baselines.random_gate:RandomGate",
        "random_levels": "paretovid.trainables.baselines.random_levels:RandomLevels",
        "epitoma_sampled": "paretovid.trainables.baselines.sampled_timesteps:EpitomaSampled",
        "top_k": "paretovid.trainables.baselines.top_k:TopK",
        "uniform": "paretovid.trainables.baselines.uniform:Uniform",
        "oracle": "paretovid.trainables.baselines.uniform:Oracle",
    }
)
CONDITION = "condition"
"""The field of a method's Config that says what its gates are told."""
_CONDITIONED = ("hcms", "lite_eval")
"""Our own methods that have it."""


def method_names() -> tuple[str, ...]:
    """Names of all methods and baselines, sorted."""
    return METHODS.names()


def method_class(name: str) -> type[Method]:
    """The class of a method.

    Raises `UnknownNameError` that lists the known names, `UsageError` for a plug-in's that cannot be used.
    """
    return METHODS.get(name)


def method_config(name: str, fields: Mapping[str, Any]) -> Any:
    """A method's typed configuration from plain values. Raises `UsageError` for a bad one."""
    config = method_class(name).Config
    if CONDITION in fields and CONDITION not in type_hints(config):
        raise UsageError(
            f"{name} cannot be conditioned on a budget: it has no gate that can be told one",
            f"Leave method.model.{CONDITION} out. Methods that can be: {', '.join(_CONDITIONED)}.",
        )
    return typed_config(config, fields, f"method {name}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfiguredMethod:
    """A method with a typed configuration, before it is built."""

    method: type[Method]
    config: Any
    """Of the class `method.Config`."""

    @classmethod
    def of(cls, name: str, fields: JsonObject) -> ConfiguredMethod:
        """The method of a name, configured with plain values. Raises as `method_class` and `method_config`."""
        return cls(method=method_class(name), config=method_config(name, fields))

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources that it reads."""
        return self.method.sources_of(self.config)

    @property
    def knobs(self) -> tuple[InferenceKnob, ...]:
        """Its inference knobs."""
        return self.method.knobs_of(self.config)

    def build(self, *, widths: Mapping[str, int], num_classes: int, multi_label: bool) -> Method:
        """It with fresh weights (PyTorch's global random state). `widths`: source to feature width."""
        return self.method(self.config, widths=widths, num_classes=num_classes, multi_label=multi_label)


def build_method(
    name: str, fields: Mapping[str, Any], *, widths: Mapping[str, int], num_classes: int, multi_label: bool
) -> Method:
    """A method with fresh weights (PyTorch's global random state). `widths`: source to feature width."""
    configured = ConfiguredMethod.of(name, fields)
    return configured.build(widths=widths, num_classes=num_classes, multi_label=multi_label)


def default_component_costs(widths: Mapping[str, int], num_classes: int) -> dict[str, ComponentCost]:
    """Measured cost of what each method adds to its backbones, at its default configuration.

    Arguments:
        widths: source to feature width; methods that read another source are left out.
    """
    costs: dict[str, ComponentCost] = {}
    for name in method_names():
        sources = method_class(name).sources_of(method_config(name, {}))
        if set(sources) <= set(widths):
            own = {source: widths[source] for source in sources}
            costs |= build_method(
                name, {}, widths=own, num_classes=num_classes, multi_label=False
            ).component_costs()
    return costs
