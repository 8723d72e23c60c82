"""From videos to features: each video is decoded once, for all components, a piece at a time.

A piece is what is decoded, and then computed, before more of the video is looked at: memory does not grow with a
video's length. `extract_shard` does both in one process; `platform/preparation/extraction.py` spreads them over a
cluster.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from paretovid.trainables.backbones.catalog import component, load_backbone
from paretovid.trainables.backbones.description import BackboneDescription
from paretovid.trainables.backbones.precision import Precision
from paretovid.trainables.backbones.spec import Backbone
from paretovid.trainables.data.dataset import Dataset, VideoRecord
from paretovid.trainables.data.limits import USUAL_LIMITS, VideoLimitsConfig
from paretovid.trainables.data.regular_files import away, check_folder_is_there
from paretovid.trainables.data.s3 import ObjectStoreError
from paretovid.trainables.data.videos import InputSpec, VideoReader
from paretovid.trainables.errors import StaleFeaturesError, VideoError
from paretovid.trainables.features.index import FeaturesHeader
from paretovid.trainables.features.store import (
    check_feature_type,
    features_header,
    shard_is_whole,
    write_shard,
)

STEPS_PER_BATCH = 64
VALUES_PER_BATCH = STEPS_PER_BATCH * 224 * 224 * 3
"""A step of SlowFast is as large as forty frames, and its activations in proportion."""
_VALUES_PER_PIECE = 32 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """Consecutive steps of a video, decoded for some components."""

    first: int
    """The step it begins with."""
    total: int
    """T of the video."""
    inputs: dict[str, np.ndarray]
    """Component to `[n, ...]`, as `VideoReader.read`."""
    notes: tuple[str, ...] = ()
    """Of the last piece: what was not as expected in the video, as far as these components see or hear it."""


def read_pieces(
    path: Path | str,
    specs: Mapping[str, InputSpec],
    *,
    step_seconds: float,
    steps: int = STEPS_PER_BATCH,
    limits: VideoLimitsConfig = USUAL_LIMITS,
) -> Iterator[Piece]:
    """All steps of a video, decoded once for all of `specs`, in pieces of at most `steps` steps and 32 MiB.

    Raises `VideoError` or `OSError`, on the first piece or on a later one.
    """
    values = sum(int(np.prod(spec.shape)) for spec in specs.values())
    steps = max(1, min(steps, _VALUES_PER_PIECE // values))
    with VideoReader(path, step_seconds=step_seconds, limits=limits) as reader:
        for first in range(0, reader.num_steps, steps):
            wanted = range(first, min(first + steps, reader.num_steps))
            read = [{name: reader.read(step, spec) for name, spec in specs.items()} for step in wanted]
            inputs = {name: np.stack([values[name] for values in read]) for name in specs}
            is_last = wanted.stop == reader.num_steps
            notes = reader.notes_for(specs.values()) if is_last else ()
            yield Piece(first=first, total=reader.num_steps, inputs=inputs, notes=notes)


def compute_features(
    backbone: Backbone,
    inputs: np.ndarray,
    *,
    precision: Precision = "float32",
    steps: int = STEPS_PER_BATCH,
) -> np.ndarray:
    """Features `[T, D]` float32 of decoded steps `[T, ...]`, in batches that bound the memory.

    Arguments:
        precision: below float32 with autocast; what is stored is rounded accordingly.
        steps: of a batch, at most.
    """
    at_once = max(1, min(steps, VALUES_PER_BATCH // inputs[0].size))
    device = backbone.input_mean.device.type
    lower = (
        contextlib.nullcontext()
        if precision == "float32"
        else torch.autocast(device, dtype=getattr(torch, precision))
    )
    with torch.inference_mode(), lower:
        parts = [
            backbone(inputs[start : start + at_once]).float().cpu().numpy()
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
    """Writes one shard per component, in this process; components that have this shard already are left alone.

    Arguments:
        backbones: component name to the folder of its weights.
        out_folders: component name to the folder of its store, `<component>@<fingerprint>`.
        on_video: called after each video, for progress.

    Returns (path, reason) of each video that could not be read: it is skipped, the others continue. Raises
    `DataError` for a backbone that is missing or damaged, `StaleFeaturesError` if it is not the expected one,
    `UnavailableDataError` or `ObjectStoreError` for a disk or a bucket that does not let a video be read, and for
    one that is missing with its whole folder.
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
    notes: dict[str, tuple[str, ...]] = {}
    failures: list[tuple[str, str]] = []
    for record in records:
        path = dataset.video_path(record)
        read = _read(path, specs, loaded, dataset)
        if isinstance(read, str):
            skipped[record.video_id] = read
            failures.append((str(path), read))
        else:
            computed, noted = read
            for name in missing:
                features[name][record.video_id] = computed[name]
            if noted:
                notes[record.video_id] = noted
        if on_video is not None:
            on_video(record)
    for name in missing:
        write_shard(
            out_folders[name],
            shard_index,
            features[name],
            asked=asked,
            skipped=skipped,
            notes=notes,
            width=loaded[name].width,
            dtype=dtype,
        )
    return failures


def _read(
    path: Path | str, specs: Mapping[str, InputSpec], loaded: Mapping[str, Backbone], dataset: Dataset
) -> tuple[dict[str, np.ndarray], tuple[str, ...]] | str:
    """As `_features_of`, or why the video cannot be read."""
    try:
        return _features_of(path, specs, loaded, dataset)
    except ObjectStoreError:
        raise
    except OSError as error:
        raise away(path, error) from error
    except VideoError as error:
        if isinstance(path, Path):
            check_folder_is_there(path)
        return why_unreadable(error)


def _features_of(
    path: Path | str, specs: Mapping[str, InputSpec], loaded: Mapping[str, Backbone], dataset: Dataset
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Component to the features `[T, D]` of a video, and what was not as expected in it."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in specs}
    notes: tuple[str, ...] = ()
    for piece in read_pieces(path, specs, step_seconds=dataset.step_seconds, limits=dataset.limits):
        notes = (*notes, *piece.notes)
        for name in specs:
            parts[name].append(compute_features(loaded[name], piece.inputs[name]))
    return {name: np.concatenate(each) for name, each in parts.items()}, notes


def why_unreadable(error: Exception) -> str:
    """What is recorded of a video that could not be read."""
    return error.message if isinstance(error, VideoError) else str(error)


def headers(
    dataset: Dataset,
    backbones: Mapping[str, Path],
    dtype: str = "float32",
    precision: str = "float32",
) -> dict[str, FeaturesHeader]:
    """Component name to the header of the features that its present weights give.

    Raises `DataError` if a backbone is missing, `StaleFeaturesError` if a folder holds another component.
    """
    made = {}
    for name, folder in backbones.items():
        described = BackboneDescription.read(folder)
        if described.component != name:
            raise StaleFeaturesError(
                f"{folder} holds the backbone {described.component!r}, not {name!r}",
                f"Run `paretovid extract {shlex.quote(f'data={dataset.name}')}`, which trains the backbones that are "
                "missing.",
            )
        made[name] = features_header(
            dataset, name, described.weights_sha256, dtype, described.video_share, precision
        )
    return made
