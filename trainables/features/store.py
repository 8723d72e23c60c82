"""Features on disk: written once, never changed; a view of a video's maps its file, a trial reads those that it needs.

A store is a folder `<component>@<fingerprint>/`:

    shard_00000.npy   [rows, D] float32 or float16: the steps of some videos, one video after the other
    shard_00000.json  what the shard holds, with its digest; a shard with this file is whole
    index.json        made last: what determined the bytes, where each video is, the shards' digests
    verified.json     sizes and times at which digests were checked within the last day, so that opening stays quick

The fingerprint covers the videos, what the decoder shows, the weights, the type and the code that computes
features. `open` refuses what is missing, damaged or made otherwise, and names the command that repairs it. The
documents are in `features/index.py`.

N videos, T steps (padded to the longest of the videos asked for), C classes, D the width of a source.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal, final

import numpy as np
import torch
from torch import Tensor

from paretovid.trainables.backbones.catalog import BACKBONES, component, component_family
from paretovid.trainables.data.dataset import Dataset, VideoRecord
from paretovid.trainables.data.partial_files import partial_file
from paretovid.trainables.data.video_keys import video_key
from paretovid.trainables.errors import (
    DataError,
    InfrastructureError,
    NonFiniteError,
    StaleFeaturesError,
    UsageError,
    VersionError,
)
from paretovid.trainables.features.checked import check_shards, file_digest, write_whole
from paretovid.trainables.features.index import (
    INDEX_FILE,
    FeaturesHeader,
    FeaturesIndex,
    Place,
    ShardDescription,
    ShardFile,
)
from paretovid.trainables.plugins.catalog import plugin_digest

FeatureType = Literal["float32", "float16"]
FEATURE_TYPES: tuple[FeatureType, ...] = ("float32", "float16")
_DETERMINING_CODE = (
    "backbones/catalog.py",
    "backbones/networks/i3d.py",
    "backbones/networks/libraries.py",
    "backbones/networks/same_padding.py",
    "backbones/networks/shufflenet_3d.py",
    "backbones/networks/yamnet.py",
    "backbones/paper.py",
    "backbones/precision.py",
    "backbones/small.py",
    "backbones/spec.py",
    "data/audio.py",
    "data/audioset_mel.py",
    "data/containers.py",
    "data/decoding.py",
    "data/display.py",
    "data/flow.py",
    "data/timeline.py",
    "data/videos.py",
    "features/extract.py",
)


@functools.cache
def feature_code_version() -> str:
    """Digest of the source files that determine features; other changes of the package leave them valid."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for name in _DETERMINING_CODE:
        digest.update(name.encode() + b"\0" + (root / name).read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _code_version_of(component_name: str) -> str:
    """`feature_code_version`, together with the files of the plug-in that brings the component, if one does."""
    brought_by = component_family(component_name)
    if brought_by is None:
        return feature_code_version()
    theirs = plugin_digest((BACKBONES.entry(brought_by).module,))
    return hashlib.sha256(feature_code_version().encode() + theirs).hexdigest()[:12]


def check_feature_type(dtype: str) -> FeatureType:
    """Raises `UsageError` unless features can be stored as `dtype`."""
    for known in FEATURE_TYPES:
        if dtype == known:
            return known
    raise UsageError(f"features cannot be stored as {dtype!r}", f"Allowed: {', '.join(FEATURE_TYPES)}.")


def features_header(
    dataset: Dataset,
    component_name: str,
    weights_sha256: str,
    dtype: str,
    video_share: float = 1.0,
    precision: str = "float32",
) -> FeaturesHeader:
    """Everything that determines the bytes of a store. Raises `UsageError` for a type that cannot be.

    Arguments:
        video_share: of the training split, that the weights were trained on: what is learnt from these features may
            have to keep to the other videos.
        precision: that the backbone computed in.
    """
    return FeaturesHeader(
        component=component_name,
        dataset=dataset.name,
        dataset_fingerprint=dataset.fingerprint,
        weights_sha256=weights_sha256,
        video_share=video_share,
        sampling={**asdict(component(component_name).input), "step_seconds": dataset.step_seconds},
        dtype=check_feature_type(dtype),
        precision=precision,
        code_version=_code_version_of(component_name),
        limits=dataset.limits.differing(),
    )


def write_shard(
    folder: Path,
    shard_index: int,
    videos: Mapping[str, np.ndarray],
    *,
    asked: Sequence[str],
    skipped: Mapping[str, str],
    width: int,
    dtype: str,
    notes: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> None:
    """Writes one shard, whole or not at all.

    Arguments:
        videos: id to features `[T, D]`, of the videos that could be read.
        asked: ids of all videos of the shard, to tell later whether the shard is the one that is wanted.
        skipped: id to the reason why a video could not be read.
        width: D.
        notes: id to what was not as expected in a video that could be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = np.concatenate([np.zeros((0, width), dtype), *videos.values()]).astype(dtype, copy=False)
    if not np.isfinite(rows).all():
        bad = [video for video, values in videos.items() if not np.isfinite(values.astype(dtype)).all()]
        raise DataError(
            f"features of {', '.join(bad[:3])}{' and others' if len(bad) > 3 else ''} are not finite as {dtype}",
            "Store and compute them in more: backbones.dtype=float32 extraction.precision=float32. If they are so "
            "already, the backbone's training diverged: train it again.",
        )
    path = folder / _shard_name(shard_index)
    ends = np.cumsum([len(values) for values in videos.values()], dtype=int).tolist()
    with partial_file(path.with_suffix(f".{os.getpid()}.partial")) as partial:
        with partial.open("wb") as file:
            np.save(file, rows, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        described = ShardDescription(
            rows=ShardFile(
                file=path.name,
                sha256=file_digest(partial),
                num_bytes=partial.stat().st_size,
                asked=_ids_digest(asked),
            ),
            width=width,
            videos={
                video_id: (shard_index, end - len(values), len(values))
                for (video_id, values), end in zip(videos.items(), ends, strict=True)
            },
            skipped=skipped,
            notes={video_id: tuple(said) for video_id, said in notes.items()},
        )
        partial.replace(path)
    write_whole(path.with_suffix(".json"), described.to_json())


def shard_is_whole(folder: Path, shard_index: int, asked: Sequence[str]) -> bool:
    """Whether this shard was written already, for the same videos, and its file is as it was written."""
    path = folder / _shard_name(shard_index)
    description = path.with_suffix(".json")
    try:
        described = find_shard_description(description.read_bytes(), str(description))
        if described is None or not describes_shard(described, asked):
            return False
        return file_digest(path) == described.rows.sha256
    except OSError:
        return False


def find_shard_description(content: bytes, where: str) -> ShardDescription | None:
    """What a shard says of itself; None if that is damaged, or of a version that told too little.

    Raises `VersionError` if a later version has written it; `where`: the file, for messages.
    """
    try:
        return ShardDescription.parse(content, where, "")
    except VersionError:
        raise
    except (DataError, NonFiniteError):
        return None


def read_shard_description(folder: Path, shard_index: int) -> ShardDescription:
    """What a shard says of itself.

    Raises `DataError` if there is none that can be read, `VersionError` for one of a later version.
    """
    path = (folder / _shard_name(shard_index)).with_suffix(".json")
    repair = _repair(folder.parent.name)
    try:
        return ShardDescription.parse(path.read_bytes(), str(path), repair)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}", repair) from error


def describes_shard(described: ShardDescription, asked: Sequence[str]) -> bool:
    """Whether the description of a shard says that it was asked for these videos."""
    return described.rows.asked == _ids_digest(asked) and described.width > 0


def skipped_videos(folder: Path, num_shards: int) -> dict[str, str]:
    """Video id to reason, of the videos that the written shards `0 … num_shards - 1` had to leave out."""
    skipped: dict[str, str] = {}
    for shard in range(num_shards):
        skipped |= read_shard_description(folder, shard).skipped
    return skipped


def noted_videos(folder: Path, num_shards: int) -> dict[str, tuple[str, ...]]:
    """Video id to what was not as expected in it, of the written shards `0 … num_shards - 1`."""
    notes: dict[str, tuple[str, ...]] = {}
    for shard in range(num_shards):
        notes |= read_shard_description(folder, shard).notes
    return notes


def finish(folder: Path, header: FeaturesHeader, num_shards: int) -> None:
    """Writes the index over shards `0 … num_shards - 1`, which makes the store complete.

    Only the descriptions of the shards are read: the rows may lie on the disks of the nodes that made them.

    Raises `DataError` if a shard is missing, or if not one video could be read.
    """
    shards: list[ShardFile] = []
    videos: dict[str, Place] = {}
    skipped: dict[str, str] = {}
    notes: dict[str, tuple[str, ...]] = {}
    width = 0
    for shard in range(num_shards):
        try:
            described = read_shard_description(folder, shard)
        except VersionError:
            raise
        except DataError as error:
            raise DataError(
                f"shard {shard} of {num_shards} is missing in {folder}", _repair(header.dataset)
            ) from error
        videos |= described.videos
        skipped |= described.skipped
        notes |= described.notes
        width = described.width
        shards.append(described.rows)
    if not videos:
        reasons = "; ".join(sorted(set(skipped.values()))[:3])
        raise DataError(
            f"not one of {len(skipped)} videos of {header.dataset} could be read",
            f"Reasons: {reasons}. Check that the files are videos that FFmpeg can decode.",
        )
    index = FeaturesIndex(
        fingerprint=header.fingerprint,
        header=header,
        width=width,
        shards=tuple(shards),
        videos=videos,
        skipped=skipped,
        notes=notes,
        made_with={"torch": str(torch.__version__), "numpy": np.__version__},
    )
    write_whole(folder / INDEX_FILE, index.to_json())


@final
class FeatureStore:
    """Features of one component over all videos of a data set, memory-mapped. Made by `open`."""

    def __init__(self, folder: Path, index: FeaturesIndex) -> None:
        self.folder = folder
        self.index = index
        self.header = index.header
        self.fingerprint = index.fingerprint
        self.component = index.header.component
        self.width = index.width
        self.skipped = index.skipped
        """Videos that could not be read, with the reason."""
        self._places = index.videos
        self._shards = [
            np.load(folder / shard.file, mmap_mode="r", allow_pickle=False) for shard in index.shards
        ]

    @classmethod
    def open(cls, folder: Path, expected: str | None = None, *, check_all: bool = False) -> FeatureStore:
        """Opens a store after checking it.

        Arguments:
            expected: the fingerprint that it must have (`FeaturesHeader.fingerprint`), if that is known.
            check_all: digests of all files, whenever they were checked last.

        Raises `StaleFeaturesError` if it is missing, unfinished, damaged or made by something else, `VersionError` if
        a later version has made it, `InfrastructureError` if the disk does not let it be read.
        """
        with _disk_faults(folder):
            return cls._checked(folder, expected, check_all=check_all)

    @classmethod
    def _checked(cls, folder: Path, expected: str | None, *, check_all: bool) -> FeatureStore:
        index = FeaturesIndex.read(folder, _repair(folder.parent.name))
        repair = _repair(index.header.dataset)
        if expected not in (None, index.fingerprint):
            raise StaleFeaturesError(
                f"the features in {folder} have fingerprint {index.fingerprint}, not {expected}: "
                "other videos, weights, sampling, type or code made them",
                repair,
            )
        check_shards(folder, index.shards, repair, all_of_them=check_all)
        return cls(folder, index)

    def video(self, video_id: str) -> np.ndarray:
        """Features `[T, D]` of a video, a read-only view of the file.

        Raises `StaleFeaturesError` if it has none, with the reason if it could not be read.
        """
        try:
            shard, offset, num_steps = self._places[video_id]
        except KeyError:
            reason = self.skipped.get(video_id)
            why = f": it could not be read ({reason})" if reason else ""
            raise StaleFeaturesError(
                f"no {self.component} features of video {video_id!r}{why}", _repair(self.header.dataset)
            ) from None
        values: np.ndarray = self._shards[shard][offset : offset + num_steps]
        return values

    def read(self, video_ids: Sequence[str], into: np.ndarray) -> None:
        """Fills the first steps of `[N, T, D]` with the features of N videos, read from their files.

        Not by way of the mapping: where a disk fails or a file has become shorter, touching that kills the process
        with SIGBUS, or gives zeros.

        Raises `StaleFeaturesError` as `video`, `InfrastructureError` if the disk does not let them be read.
        """
        with contextlib.ExitStack() as opened:
            path, file = Path(), None
            for row, video_id in zip(into, video_ids, strict=True):
                mapped = self.video(video_id)
                shard, offset, num_steps = self._places[video_id]
                if file is None or path != self.folder / self.index.shards[shard].file:
                    opened.close()
                    path = self.folder / self.index.shards[shard].file
                    with _disk_faults(self.folder):
                        file = opened.enter_context(path.open("rb"))
                with _disk_faults(self.folder):
                    file.seek(self._shards[shard].offset + offset * mapped.shape[1] * mapped.itemsize)
                    values = file.read(mapped.nbytes)
                if len(values) < mapped.nbytes:
                    raise InfrastructureError(
                        f"the features in {self.folder} cannot be read: {path.name} has become shorter",
                        "Is its disk mounted and whole?",
                    )
                row[:num_steps] = np.frombuffer(values, mapped.dtype).reshape(mapped.shape)

    def __contains__(self, video_id: object) -> bool:
        return video_id in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


@dataclass(frozen=True, slots=True)
class FeatureSplit:
    """Padded features of N videos, with their ground truth."""

    features: dict[str, Tensor]
    """Source to `[N, T, D_s]` float32, zero at padded steps."""
    mask: Tensor
    """`[N, T]` bool: true at the steps that a video has."""
    num_steps: Tensor
    """`[N]` int64."""
    targets: Tensor
    """`[N, C]` float32, one-hot or multi-hot."""
    video_keys: Tensor
    """`[N]` int64: a hash of each video's id."""
    video_ids: tuple[str, ...]


def load_padded(
    stores: Mapping[str, FeatureStore], records: Sequence[VideoRecord], dataset: Dataset
) -> FeatureSplit:
    """Reads the features of `records` from `stores` (by source) into one padded batch.

    Raises `StaleFeaturesError` if a video has no features, `InfrastructureError` if the disk does not let them be read.
    """
    first = next(iter(stores.values()))
    lengths = [len(first.video(record.video_id)) for record in records]
    longest = max(lengths, default=0)
    features: dict[str, Tensor] = {}
    for source, store in stores.items():
        padded = np.zeros((len(records), longest, store.width), np.float32)
        store.read([record.video_id for record in records], padded)
        features[source] = torch.from_numpy(padded)
    targets = torch.zeros(len(records), len(dataset.classes))
    for row, record in zip(targets, records, strict=True):
        row[list(record.labels)] = 1
    num_steps = torch.tensor(lengths, dtype=torch.int64)
    return FeatureSplit(
        features=features,
        mask=torch.arange(longest)[None] < num_steps[:, None],
        num_steps=num_steps,
        targets=targets,
        video_keys=torch.tensor([video_key(record.video_id) for record in records], dtype=torch.int64),
        video_ids=tuple(record.video_id for record in records),
    )


def shard_files(shard_index: int) -> tuple[str, str]:
    """The names of a shard's files: its rows, and what it says of them."""
    name = _shard_name(shard_index)
    return name, str(Path(name).with_suffix(".json"))


def _shard_name(shard_index: int) -> str:
    return f"shard_{shard_index:05d}.npy"


def _repair(dataset_name: str) -> str:
    # Only the built-in sets have configurations of their own; any other lies in its folder.
    built_in = dataset_name.startswith("moving_digits")
    choice = dataset_name if built_in else f"folder {shlex.quote(f'data.name={dataset_name}')}"
    return f"Run `paretovid extract data={choice}`, which makes what is missing or out of date."


def _ids_digest(video_ids: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(video_ids).encode()).hexdigest()


@contextlib.contextmanager
def _disk_faults(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # Not stale: what is there must not be made again because a mount is ill for a moment.
        raise InfrastructureError(
            f"the features in {folder} cannot be read: {error.strerror or error}",
            "Is its disk mounted, and may this user read it?",
        ) from error
