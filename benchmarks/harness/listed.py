"""Inference settings that claims are measured at, a list per method.

A trial places its settings by what its own network costs, so that no two seeds have the same. A claim is about the mean
of a setting over seeds, and names settings (`gate_offset=-2`): the trials of a benchmark list them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CAPS = (0.5, 1.0, 2.0, 4.0, 8.0)
_JUMPS: dict[str, Any] = {"thresholds": (0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9), "caps": _CAPS}

LISTED: Mapping[str, Mapping[str, Any]] = {
    "lite_eval": {
        "gate_offsets": (0.0, -2.0, -1.0, -0.5, 0.5, 1.0, 2.0),
        "online_ks": (1, 2, 3, 4, 6, 8),
        "caps": _CAPS,
    },
    "hcms": {"gate_offsets": (0.0, -2.0, -1.0, 1.0, 2.0), "caps": _CAPS},
    "ada_frame": {
        "mus": (0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.9, 1000.0),
        "patiences": (0, 1, 2, 3, 10_000),
        "stop_rules": (0, 1),
        "max_entropies": (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7),
        "caps": _CAPS,
    },
    "video_epitoma": {
        "gate_thresholds": (0.5, 0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0),
        "top_ks": (1, 2, 3, 4, 6, 8, 12),
        "timestep_counts": (8,),
    },
    "model_selection": {
        "thetas": (0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05, 0.0),
        "clip_counts": (3, 1, 2, 5, 10),
    },
    "model_selection_localization": {
        "thetas": (0.5, 0.0, *(round(0.025 * k, 3) for k in range(4, 37) if k != 20), 0.95, 1.0)
    },
    "frame_exit": {
        "thresholds": (0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99),
        "confidences": (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99),
        "caps": _CAPS,
    },
    "frame_glimpse": _JUMPS,
    "fast_forward": _JUMPS,
}


def listed(method: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a method's configuration with its lists, unless they are among the fields."""
    return {**LISTED.get(method, {}), **fields}
