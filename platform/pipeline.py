"""From nothing to features: makes what is missing, reuses what is there.

videos (home/data) -> backbones (home/backbones) -> features (home/features). Every stage leaves a record of
what it was made from; what does not fit is made anew or refused, never reused silently.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import ray
import torch

from paretovid.infra.ray_cluster import LOCAL, connected_once
from paretovid.platform.backbones import fine_tuning, load_given, train_own, weight_locations
from paretovid.platform.cluster_check import cluster_of
from paretovid.platform.config import data_settings
from paretovid.platform.extraction import check_extraction, extract_shards
from paretovid.platform.home import Home, open_home
from paretovid.platform.progress import Progress, Stage
from paretovid.platform.shared_home import (
    SharedRoot,
    fetch,
    is_in_bucket,
    seal,
    send,
    share,
    some_of_dataset,
)
from paretovid.search_spaces.schema import SweepConfig
from paretovid.trainables.backbone_training import BackboneTrainingConfig, check_labels
from paretovid.trainables.components import component, family, measure_component
from paretovid.trainables.data.dataset import MANIFEST, Dataset, load_dataset
from paretovid.trainables.data.extract import headers
from paretovid.trainables.data.features import (
    INDEX_FILE,
    FeatureStore,
    check_feature_type,
    finish,
    header_fingerprint,
    skipped_videos,
)
from paretovid.trainables.data.moving_digits import MovingDigitsConfig, is_made, make_moving_digits
from paretovid.trainables.data.readers.annotations import ReaderConfig
from paretovid.trainables.data.readers.assemble import LEFT_OUT, Assembled, read_dataset
from paretovid.trainables.data.readers.registry import reader, reader_config
from paretovid.trainables.errors import DataError, StaleFeaturesError, UsageError
from paretovid.trainables.method import SourceFacts
from paretovid.trainables.objects import is_object
from paretovid.trainables.typed_config import typed_config

_PROBED_HERE = 500
"""Up to so many new files are looked at without a cluster, which takes longer to start."""

_UNREADABLE_SHARE = 0.5
"""Of the videos that extraction may leave out, where the data set does not say (`data.max_missing_share`)."""

_SOME_CLASSES = 10

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """Everything that a trial reads."""

    home: Home
    dataset: Dataset
    backbones: dict[str, Path]
    """Source to the folder of its backbone."""
    features: dict[str, Path]
    """Source to the folder of its features."""


def make_data(config: SweepConfig, progress: Progress) -> Dataset:
    """The data set that the configuration names: made if it is the built-in one and not whole yet, read from its
    annotation files if it is a public one.

    Raises `UsageError` for settings that do not fit what is there, `DataError` for a folder without one.
    """
    home = open_home(config.home)
    name, settings = str(config.data["name"]), data_settings(config)
    root = home.data(name)
    with progress.stage("videos", unit="videos") as stage:
        if settings.get("reader") is not None:
            assembled = _read_data(config, home, stage)
            share(root, lambda part: part in (MANIFEST, LEFT_OUT))
            _tell(assembled, root, progress)
            return assembled.dataset
        is_shared_set = fetch(root, some_of_dataset)
        if settings.pop("generator", None) is None:
            dataset = load_dataset(root)
            if dataset.name != name:
                raise DataError(
                    f"the manifest in {root} is of {dataset.name!r}, not {name!r}",
                    "Give the folder and the manifest's name the same name: features are kept under it.",
                )
            stage.reused(f"{len(dataset.records)} videos of {name}")
            return dataset
        wanted = typed_config(MovingDigitsConfig, settings, "data")
        found = _made_before(root, wanted, is_whole=is_shared_set)
        if found is not None:
            stage.reused(f"{len(found.records)} videos of {name}")
            return found
        stage.total = sum(wanted.num_videos(split) for split in ("train", "val", "test"))
        with _mapping(config, home) as map_parallel:
            dataset = make_moving_digits(
                wanted, root, name=name, map_parallel=map_parallel, progress=lambda done, _: stage.advance()
            )
        share(root)
        stage.done(f"made {len(dataset.records)} videos of {len(dataset.classes)} classes")
    return dataset


def _reader_of(config: SweepConfig) -> tuple[str, ReaderConfig] | None:
    """Name and settings of the reader, if the data set has one."""
    settings = data_settings(config)
    name = settings.pop("reader", None)
    return None if name is None else (str(name), reader_config(str(name), settings))


def _read_data(config: SweepConfig, home: Home, stage: Stage) -> Assembled:
    """Annotations are read every time, in seconds (HVU: half a minute); a video is looked at once."""
    found = _reader_of(config)
    assert found is not None

    def probed(function: Callable[[_Item], _Made], items: Sequence[_Item]) -> Iterable[_Made]:
        stage.total = len(items)
        with contextlib.nullcontext() if len(items) <= _PROBED_HERE else cluster_of(config):
            for each in map(function, items) if len(items) <= _PROBED_HERE else _ray_map(function, items):
                stage.advance()
                yield each

    name = str(config.data["name"])
    assembled = read_dataset(*found, home.data(name), name=name, map_parallel=probed)
    sizes = {split: len(assembled.dataset.split(split)) for split in ("train", "val", "test")}
    said = ", ".join(f"{size} {split}" for split, size in sizes.items())
    (stage.done if stage.count else stage.reused)(
        f"{len(assembled.dataset.records)} videos of {name} ({said})"
    )
    return assembled


def _tell(assembled: Assembled, root: Path, progress: Progress) -> None:
    for note in assembled.notes:
        progress.say(f"  note: {note}")
    if assembled.left_out:
        first = assembled.left_out[0]
        progress.say(
            f"  left out: {len(assembled.left_out)} of {assembled.annotated} annotated videos, listed in "
            f"{root / LEFT_OUT}; the first: {first.where}: {first.reason}"
        )


def upload_data(home: Home, folder: Path) -> Dataset:
    """Sends a data set to a home in a bucket, under its own name.

    Raises `UsageError` for a home that is a folder, or a video that cannot go with it; `DataError` for a folder
    without a data set, or one of which a video is missing.
    """
    if home.url is None:
        raise UsageError(
            "this home is a folder, which needs no upload", f"Put the videos into {home.root / 'data'}/NAME."
        )
    dataset = load_dataset(folder)
    # Videos of another bucket stay there.
    names = {MANIFEST, *(record.path for record in dataset.records if not is_object(record.path))}
    for name in sorted(names):
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise UsageError(
                f"{name} does not lie in {folder}", "Put all videos below the manifest's folder."
            )
        if not path.is_file():
            raise DataError(f"{path} is missing", f"Put it back, or take it out of {MANIFEST}.")
    send(folder, home.data(dataset.name), names)
    return dataset


def _made_before(root: Path, wanted: MovingDigitsConfig, *, is_whole: bool) -> Dataset | None:
    """The set if it is there and made so. `is_whole`: the bucket has all of its videos, whatever is here."""
    try:
        dataset = load_dataset(root)
    except DataError:
        return None
    whole = is_whole or all(Path(dataset.video_path(record)).is_file() for record in dataset.records)
    return dataset if whole and is_made(wanted, dataset) else None


@contextlib.contextmanager
def _mapping(config: SweepConfig, home: Home) -> Iterator[Any]:
    """A parallel `map` whose results, files under home, are here when it has ended."""
    if home.url is None or config.cluster.address == LOCAL:
        with cluster_of(config):
            yield _ray_map
        return
    # What the cluster's nodes write is on their disks.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=context) as pool:
        yield lambda function, items: pool.map(function, items, chunksize=10)


def _ray_map(function: Callable[[_Item], _Made], items: Sequence[_Item]) -> Iterable[_Made]:
    """`map` over the cluster's CPUs, results in any order, a few items a task."""
    remote: Any = ray.remote(num_cpus=1, max_retries=2)(_apply)
    chunks = [items[i : i + 10] for i in range(0, len(items), 10)]
    pending = [remote.remote(function, chunk) for chunk in chunks]
    while pending:
        ready, pending = ray.wait(pending)
        for made in ray.get(ready):
            yield from made


def _apply(function: Callable[[_Item], _Made], items: Sequence[_Item]) -> list[_Made]:
    torch.set_num_threads(1)
    return [function(item) for item in items]


def prepare(config: SweepConfig, progress: Progress) -> Prepared:
    """Data set, backbones and features; three stages of progress.

    Raises `UsageError` or `DataError`, with what to do next.
    """
    home = open_home(config.home)
    dataset = make_data(config, progress)
    names = family(config.backbones.family)
    folders = {source: home.backbone(dataset.name, name) for source, name in names.items()}
    trained = tuple(name for name in names.values() if component(name).weights is None)
    if trained:
        train_own(config, home, dataset, trained, progress)
    if len(trained) < len(names):
        load_given(config, dataset, names, folders, progress)
    features = _extract(config, home, dataset, {names[s]: folder for s, folder in folders.items()}, progress)
    return Prepared(
        home=home,
        dataset=dataset,
        backbones=folders,
        features={source: features[name] for source, name in names.items()},
    )


def extract(config: SweepConfig, progress: Progress) -> dict[str, Path]:
    """`paretovid extract`: everything up to the features, on one cluster. Returns source to folder."""
    with connected_once():
        return prepare(config, progress).features


def _extract(
    config: SweepConfig, home: Home, dataset: Dataset, backbones: Mapping[str, Path], progress: Progress
) -> dict[str, Path]:
    """Component to the folder of its features; every video is decoded once for all that are missing."""
    described = headers(dataset, backbones, config.backbones.dtype, config.extraction.precision)
    folders = {
        name: home.features(dataset.name) / f"{name}@{header_fingerprint(header)}"
        for name, header in described.items()
    }
    with progress.stage("features", unit="videos") as stage:
        is_made = is_whole_store if home.url is None else is_in_bucket
        missing = {name: folder for name, folder in folders.items() if not is_made(folder)}
        if not missing:
            stage.reused(f"features of {len(folders)} components")
            return folders
        total = stage.total = len(dataset.records)
        shared = SharedRoot.of(home.root, config.cluster.node_cache)
        with cluster_of(config) as cluster:
            writer = extract_shards(
                cluster,
                shared,
                dataset,
                {name: backbones[name] for name in missing},
                missing,
                config.backbones.dtype,
                config.extraction,
                stage,
            )
        failures = _failures(dataset, next(iter(missing.values())), writer.num_shards)
        # Before the stores are whole: the same command must not go on with them.
        found = _reader_of(config)
        allowed = found[1].max_missing_share if found else _UNREADABLE_SHARE
        if len(failures) > total * allowed:
            writer.forget_skipped()
        _check_enough(failures, total, allowed)
        for name, folder in missing.items():
            finish(folder, described[name], writer.num_shards)
            seal(folder, writer.parts[name], INDEX_FILE)
        read = total - len(failures)
        stage.done(f"{len(missing)} components of {read} videos, each decoded once")
    for path, reason in failures:
        progress.say(f"  left out: {path}: {reason}")
    return folders


def is_whole_store(folder: Path) -> bool:
    """Whether a folder holds features, all of them, as they were written."""
    try:
        FeatureStore.open(folder)
    except StaleFeaturesError:
        return False
    return True


def _failures(dataset: Dataset, folder: Path, num_shards: int) -> list[tuple[str, str]]:
    """Path and reason of each video that could not be read, those of an interrupted extraction included."""
    skipped = skipped_videos(folder, num_shards)
    paths = {record.video_id: str(dataset.video_path(record)) for record in dataset.records}
    return sorted((paths[video_id], reason) for video_id, reason in skipped.items())


def _check_enough(failures: Sequence[tuple[str, str]], total: int, allowed_share: float) -> None:
    if len(failures) > total * allowed_share:
        raise DataError(
            f"{len(failures)} of {total} videos could not be read",
            f"The first: {failures[0][0]}: {failures[0][1]}. Check the files and the decoder.",
        )


def expected_facts(config: SweepConfig) -> dict[str, SourceFacts]:
    """Source to what trials will find of it: costs are right but for the width of classifiers."""
    names = family(config.backbones.family)
    own = typed_config(BackboneTrainingConfig, config.backbones.training, "backbones.training").video_share
    tuning = fine_tuning(config)
    given = 1.0 if tuning is None else tuning.video_share
    return {
        source: SourceFacts(
            gmacs=measure_component(name, _SOME_CLASSES).gmacs,
            video_share=own if component(name).weights is None else given,
        )
        for source, name in names.items()
    }


def check_settings(config: SweepConfig) -> None:
    """Builds the typed settings of data and backbones, so that a bad one is told before anything starts.

    Annotation files are read, too; videos are not looked at.
    """
    settings = data_settings(config)
    if (found := _reader_of(config)) is not None:
        reader(found[0]).read(found[1])
    elif settings.pop("generator", None) is not None:
        typed_config(MovingDigitsConfig, settings, "data")
    elif settings:
        raise UsageError(
            f"data={config.data['name']} takes no settings, but has {', '.join(settings)}",
            "They belong to the built-in set: data=moving_digits.",
        )
    training = typed_config(BackboneTrainingConfig, config.backbones.training, "backbones.training")
    names = family(config.backbones.family).values()
    check_labels(training, [name for name in names if component(name).weights is None])
    weight_locations(config)
    fine_tuning(config)
    check_feature_type(config.backbones.dtype)
    check_extraction(config.extraction)
