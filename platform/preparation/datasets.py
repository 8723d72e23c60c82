"""Data sets: made here, or read from annotation files, once."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import ray
import torch

from paretovid.infra.ray_cluster import LOCAL
from paretovid.platform.config.load import check_name
from paretovid.platform.config.resolve import DataPlan
from paretovid.platform.console.progress import Progress, Stage
from paretovid.platform.execution.cluster import cluster_of
from paretovid.platform.storage.home import Home, open_home, some_of_dataset
from paretovid.search_spaces.schema import SweepConfig
from paretovid.trainables.data.dataset import MANIFEST, Dataset, load_dataset
from paretovid.trainables.data.moving_digits.generate import MovingDigitsConfig, is_made, make_moving_digits
from paretovid.trainables.data.readers.assemble import LEFT_OUT, Assembled, read_dataset
from paretovid.trainables.data.s3 import is_object
from paretovid.trainables.errors import DataError, UsageError
from paretovid.trainables.redaction.texts import redact_logs

_PROBED_HERE = 500
"""Up to so many new files are looked at without a cluster, which takes longer to start."""

_MADE_HERE = 60
"""Up to so many videos are made in this process: a worker takes as long to start as it takes to make 40."""

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


def make_data(config: SweepConfig, data: DataPlan, progress: Progress) -> Dataset:
    """The data set of this plan: made if it is the built-in one and not whole yet, read from its
    annotation files if it is a public one.

    Raises `UsageError` for settings that do not fit what is there, `DataError` for a folder without one.
    """
    return replace(_made_or_read(config, data, progress), limits=data.limits)


def _made_or_read(config: SweepConfig, data: DataPlan, progress: Progress) -> Dataset:
    home, name, wanted = open_home(config.home), data.name, data.generated
    root = home.data(name)
    with progress.stage("videos", unit="videos") as stage:
        if data.reader is not None:
            assembled = _read_data(config, data, home, stage)
            home.store.upload(root, lambda name: name in (MANIFEST, LEFT_OUT))
            _report(assembled, root, progress)
            return assembled.dataset
        is_downloaded = home.store.download(root, some_of_dataset)
        if wanted is None:
            dataset = load_dataset(root)
            if dataset.name != name:
                raise DataError(
                    f"the manifest in {root} is of {dataset.name!r}, not {name!r}",
                    "Give the folder and the manifest's name the same name: features are kept under it.",
                )
            stage.reused(f"{len(dataset.records)} videos of {name}")
            return dataset
        found = _made_before(root, wanted, is_complete=is_downloaded)
        if found is not None:
            stage.reused(f"{len(found.records)} videos of {name}")
            return found
        stage.total = count = sum(wanted.num_videos(split) for split in ("train", "val", "test"))
        with _mapping(config, home, count) as map_parallel:
            dataset = make_moving_digits(
                wanted, root, name=name, map_parallel=map_parallel, progress=lambda done, _: stage.advance()
            )
        home.store.upload(root)
        stage.done(f"made {len(dataset.records)} videos of {len(dataset.classes)} classes")
    return dataset


def _read_data(config: SweepConfig, data: DataPlan, home: Home, stage: Stage) -> Assembled:
    """Annotations are read every time, in seconds (HVU: half a minute); a video is looked at once."""
    assert data.reader is not None and data.settings is not None

    def probed(function: Callable[[_Item], _Made], items: Sequence[_Item]) -> Iterable[_Made]:
        stage.total = len(items)
        with contextlib.nullcontext() if len(items) <= _PROBED_HERE else cluster_of(config):
            for each in map(function, items) if len(items) <= _PROBED_HERE else _ray_map(function, items):
                stage.advance()
                yield each

    name = data.name
    assembled = read_dataset(
        data.reader, data.settings, home.data(name), name=name, map_parallel=probed, limits=data.limits
    )
    sizes = {split: len(assembled.dataset.split(split)) for split in ("train", "val", "test")}
    said = ", ".join(f"{size} {split}" for split, size in sizes.items())
    (stage.done if stage.count else stage.reused)(
        f"{len(assembled.dataset.records)} videos of {name} ({said})"
    )
    return assembled


def _report(assembled: Assembled, root: Path, progress: Progress) -> None:
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
            "this home is a folder, which needs no upload", f"Put the videos into {home.data('NAME')}."
        )
    dataset = load_dataset(folder)
    check_name(dataset.name, f"{folder / MANIFEST}: name")
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
    home.store.upload_from(folder, home.data(dataset.name), names)
    return dataset


def _made_before(root: Path, wanted: MovingDigitsConfig, *, is_complete: bool) -> Dataset | None:
    """The set if it is there and made so. `is_complete`: the bucket has all of its videos, whatever is here."""
    try:
        dataset = load_dataset(root)
    except DataError:
        return None
    has_videos = is_complete or all(Path(dataset.video_path(record)).is_file() for record in dataset.records)
    return dataset if has_videos and is_made(wanted, dataset) else None


@contextlib.contextmanager
def _mapping(config: SweepConfig, home: Home, count: int) -> Iterator[Any]:
    """A `map` for so many videos whose results, files under home, are here when it has ended."""
    if count <= _MADE_HERE:
        yield map
        return
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
    redact_logs()
    torch.set_num_threads(1)
    return [function(item) for item in items]
