"""From videos to features: each video is decoded once, for all components."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from paretovid.trainables.components import Backbone, component, load_backbone, read_backbone_meta
from paretovid.trainables.data.dataset import Dataset, VideoRecord
from paretovid.trainables.data.features import (
    check_feature_type,
    features_header,
    shard_is_whole,
    write_shard,
)
from paretovid.trainables.data.videos import read_all_steps
from paretovid.trainables.errors import StaleFeaturesError, VideoError

STEPS_PER_BATCH = 64
VALUES_PER_BATCH = STEPS_PER_BATCH * 224 * 224 * 3
"""A step of SlowFast is as large as forty frames, and its activations in proportion."""


def compute_features(backbone: Backbone, inputs: np.ndarray) -> np.ndarray:
    """Features `[T, D]` float32 of decoded steps `[T, ...]`, in batches that bound the memory."""
    at_once = max(1, min(STEPS_PER_BATCH, VALUES_PER_BATCH // inputs[0].size))
    with torch.inference_mode():
        parts = [
            backbone(inputs[start : start + at_once]).cpu().numpy()
            for start in range(0, len(inputs), at_once)
        ]
    return np.concatenate(parts)


def extract_shard(
    dataset: Dataset,
    records: Sequence[VideoRecord],
    backbones: Mapping[str, Path],
    out_folders: Mapping[str, Path],
    shard_index: int,
    dtype: str = "float32",
    *,
    device: str = "cpu",
    on_video: Callable[[VideoRecord], None] | None = None,
) -> list[tuple[str, str]]:
    """Writes one shard per component; components that have this shard already are left alone.

    Arguments:
        backbones: component name to the folder of its weights.
        out_folders: component name to the folder of its store, `<component>@<features_fingerprint>`.
        on_video: called after each video, for progress.

    Returns (path, reason) of each video that could not be read: it is skipped, the others go on. Raises
    `DataError` for a backbone that is missing or damaged, `StaleFeaturesError` if it is not the expected one.
    """
    check_feature_type(dtype)
    asked = [record.video_id for record in records]
    missing = [name for name, folder in out_folders.items() if not shard_is_whole(folder, shard_index, asked)]
    if not missing:
        return []
    loaded = {name: load_backbone(backbones[name])[0].to(device) for name in missing}
    specs = {name: component(name).input for name in missing}
    features: dict[str, dict[str, np.ndarray]] = {name: {} for name in missing}
    skipped: dict[str, str] = {}
    failures: list[tuple[str, str]] = []
    for record in records:
        path = dataset.video_path(record)
        try:
            decoded = read_all_steps(path, specs, step_seconds=dataset.step_seconds)
        except (VideoError, OSError) as error:
            reason = error.message if isinstance(error, VideoError) else str(error)
            skipped[record.video_id] = reason
            failures.append((str(path), reason))
        else:
            for name in missing:
                features[name][record.video_id] = compute_features(loaded[name], decoded[name])
        if on_video is not None:
            on_video(record)
    for name in missing:
        write_shard(
            out_folders[name],
            shard_index,
            features[name],
            asked=asked,
            skipped=skipped,
            width=loaded[name].width,
            dtype=dtype,
        )
    return failures


def headers(
    dataset: Dataset, backbones: Mapping[str, Path], dtype: str = "float32"
) -> dict[str, dict[str, Any]]:
    """Component name to the header of the features that its present weights give.

    Raises `DataError` if a backbone is missing, `StaleFeaturesError` if a folder holds another component.
    """
    made = {}
    for name, folder in backbones.items():
        meta = read_backbone_meta(folder)
        if meta["component"] != name:
            raise StaleFeaturesError(
                f"{folder} holds the backbone {meta['component']!r}, not {name!r}",
                f"Run `paretovid extract data={dataset.name}`, which trains the backbones that are missing.",
            )
        share = float(meta.get("training", {}).get("video_share", 1.0))
        made[name] = features_header(dataset, name, meta["weights_sha256"], dtype, share)
    return made
