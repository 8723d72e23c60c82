"""All methods and baselines by name. Importing this module registers them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paretovid.trainables.baselines import (
    early_fusion,
    frame_exit,
    late_fusion,
    lstm,
    random_gate,
    random_levels,
    top_k,
    uniform,
)
from paretovid.trainables.baselines import glimpse_agents as jumping_agents
from paretovid.trainables.baselines import localization as clip_baselines
from paretovid.trainables.baselines import model_pool as pool_baselines
from paretovid.trainables.baselines import sampled_timesteps as epitoma_sampled
from paretovid.trainables.config import typed_config
from paretovid.trainables.cost import ComponentCost
from paretovid.trainables.errors import unknown_name
from paretovid.trainables.method import METHODS, Method
from paretovid.trainables.methods import (
    ada_frame,
    hcms,
    lite_eval,
    model_selection,
    model_selection_localization,
    video_epitoma,
)

__all__ = ["build_method", "default_component_costs", "method_class", "method_config", "method_names"]

# One line per method file; the modules register their classes when they are imported.
_MODULES = (
    ada_frame,
    clip_baselines,
    early_fusion,
    epitoma_sampled,
    frame_exit,
    hcms,
    jumping_agents,
    late_fusion,
    lite_eval,
    lstm,
    model_selection_localization,
    model_selection,
    pool_baselines,
    random_gate,
    random_levels,
    top_k,
    uniform,
    video_epitoma,
)


def method_names() -> tuple[str, ...]:
    """Names of all registered methods and baselines, sorted."""
    return tuple(sorted(METHODS))


def method_class(name: str) -> type[Method]:
    """The class of a method. Raises `UnknownNameError` that lists the known names."""
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    return METHODS[name]


def method_config(name: str, fields: Mapping[str, Any]) -> Any:
    """A method's typed configuration from plain values. Raises `UsageError` for a bad one."""
    return typed_config(method_class(name).Config, fields, f"method {name}")


def build_method(
    name: str, fields: Mapping[str, Any], *, widths: Mapping[str, int], num_classes: int, multi_label: bool
) -> Method:
    """A method with fresh weights (PyTorch's global random state). `widths`: source to feature width."""
    config = method_config(name, fields)
    return method_class(name)(config, widths=widths, num_classes=num_classes, multi_label=multi_label)


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
