"""From nothing to features: makes what is missing, reuses what is there.

videos (home/data) -> backbones (home/backbones) -> features (home/features). Every stage leaves a record of
what it was made from; what does not fit is made anew or refused, never reused silently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from paretovid.infra.ray_cluster import connected_once
from paretovid.platform.config.resolve import PreparationPlan, resolve_preparation
from paretovid.platform.console.progress import Progress
from paretovid.platform.execution.cluster import cluster_of
from paretovid.platform.preparation.backbones import load_given, train_own
from paretovid.platform.preparation.datasets import make_data
from paretovid.platform.preparation.extraction import extract_shards
from paretovid.platform.storage.home import Home, open_home
from paretovid.search_spaces.schema import SweepConfig
from paretovid.trainables.backbones.catalog import component
from paretovid.trainables.data.dataset import Dataset
from paretovid.trainables.data.notes import grouped_notes
from paretovid.trainables.errors import DataError, StaleFeaturesError
from paretovid.trainables.features.extract import headers
from paretovid.trainables.features.index import INDEX_FILE, FeaturesIndex
from paretovid.trainables.features.store import (
    FeatureStore,
    finish,
    noted_videos,
    skipped_videos,
)

_UNREADABLE_SHARE = 0.5
"""Of the videos that extraction may leave out, where the data set does not say (`data.max_missing_share`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """Everything that a trial reads."""

    home: Home
    dataset: Dataset
    backbones: dict[str, Path]
    """Source to the folder of its backbone."""
    features: dict[str, Path]
    """Source to the folder of its features."""


def prepare(plan: PreparationPlan, progress: Progress) -> Prepared:
    """Data set, backbones and features; three stages of progress.

    Raises `UsageError` or `DataError`, with what to do next.
    """
    home = open_home(plan.config.home)
    dataset = make_data(plan.config, plan.data, progress)
    names = plan.backbones.components
    folders = {source: home.backbone(dataset.name, name) for source, name in names.items()}
    trained = tuple(name for name in names.values() if component(name).weights is None)
    if trained:
        train_own(plan, home, dataset, trained, progress)
    if len(trained) < len(names):
        load_given(plan, home, dataset, names, folders, progress)
    features = _extract(plan, home, dataset, {names[s]: folder for s, folder in folders.items()}, progress)
    return Prepared(
        home=home,
        dataset=dataset,
        backbones=folders,
        features={source: features[name] for source, name in names.items()},
    )


def extract(config: SweepConfig, progress: Progress) -> dict[str, Path]:
    """`paretovid extract`: everything up to the features, on one cluster. Returns source to folder.

    Raises `UsageError` before anything is made for a bad setting, and as `prepare`.
    """
    plan = resolve_preparation(config)
    with connected_once():
        return prepare(plan, progress).features


def _extract(
    plan: PreparationPlan, home: Home, dataset: Dataset, backbones: Mapping[str, Path], progress: Progress
) -> dict[str, Path]:
    """Component to the folder of its features; every video is decoded once for all that are missing."""
    config = plan.config
    described = headers(dataset, backbones, config.backbones.dtype, config.extraction.precision)
    folders = {
        name: home.features(dataset.name) / f"{name}@{header.fingerprint}"
        for name, header in described.items()
    }
    with progress.stage("features", unit="videos") as stage:
        is_made = home.store.is_complete if home.store.is_remote else is_whole_store
        missing = {name: folder for name, folder in folders.items() if not is_made(folder)}
        if not missing:
            stage.reused(f"features of {len(folders)} components")
            return folders
        total = stage.total = len(dataset.records)
        with cluster_of(config) as cluster:
            writer = extract_shards(
                cluster,
                home,
                dataset,
                {name: backbones[name] for name in missing},
                missing,
                config.backbones.dtype,
                config.extraction,
                stage,
                cache=config.cluster.node_cache,
            )
        first = next(iter(missing.values()))
        failures = _failures(dataset, first, writer.num_shards)
        # Before the stores are whole: the same command must not resume with them.
        settings = plan.data.settings
        allowed = settings.max_missing_share if settings else _UNREADABLE_SHARE
        if len(failures) > total * allowed:
            writer.forget_skipped()
        _check_enough(failures, total, allowed)
        for name, folder in missing.items():
            finish(folder, described[name], writer.num_shards)
            home.store.commit(folder, writer.blobs[name], INDEX_FILE)
        read = total - len(failures)
        stage.done(f"{len(missing)} components of {read} videos, each decoded once")
    for path, reason in failures:
        progress.say(f"  left out: {path}: {reason}")
    for note in grouped_notes(_notes(dataset, first, writer.num_shards)):
        progress.say(f"  note: {note}")
    return folders


def is_whole_store(folder: Path) -> bool:
    """Whether a folder holds features, all of them, as they were written.

    Raises `InfrastructureError` if the disk does not let them be read: they are not to be made anew for that.
    """
    try:
        FeatureStore.open(folder)
    except StaleFeaturesError:
        return False
    return True


def is_copy_of_store(copy: Path, source: Path) -> bool:
    """Whether a folder holds the features of another one, by the digests in the other's index.

    Raises `StaleFeaturesError` if `source` has no index.
    """
    index = FeaturesIndex.read(source, "Run `paretovid extract`, which makes what is missing or out of date.")
    try:
        return FeatureStore.open(copy).index == index
    except DataError:
        return False


def _failures(dataset: Dataset, folder: Path, num_shards: int) -> list[tuple[str, str]]:
    """Path and reason of each video that could not be read, those of an interrupted extraction included."""
    skipped = skipped_videos(folder, num_shards)
    paths = {record.video_id: str(dataset.video_path(record)) for record in dataset.records}
    return sorted((paths[video_id], reason) for video_id, reason in skipped.items())


def _notes(dataset: Dataset, folder: Path, num_shards: int) -> list[tuple[str, str]]:
    """Path and what was not as expected, of each video that was read."""
    notes = noted_videos(folder, num_shards)
    return [
        (str(dataset.video_path(record)), note)
        for record in dataset.records
        for note in notes.get(record.video_id, ())
    ]


def _check_enough(failures: Sequence[tuple[str, str]], total: int, allowed_share: float) -> None:
    if len(failures) > total * allowed_share:
        raise DataError(
            f"{len(failures)} of {total} videos could not be read",
            f"The first: {failures[0][0]}: {failures[0][1]}. Check the files and the decoder.",
        )
