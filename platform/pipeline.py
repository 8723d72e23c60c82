"""From nothing to features: makes what is missing, reuses what is there.

videos (home/data) -> backbones (home/backbones) -> features (home/features). Every stage leaves a record of
what it was made from; what does not fit is made anew or refused, never reused silently.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import ray
import torch

from paretovid.infra.local_copy import Part
from paretovid.infra.ray_cluster import LOCAL, Cluster, connect
from paretovid.platform.cluster_check import check_nodes, code_to_send
from paretovid.platform.config import data_settings
from paretovid.platform.home import Home, open_home
from paretovid.platform.progress import Progress, Stage
from paretovid.platform.shared_home import (
    SharedRoot,
    fetch,
    fetch_parts,
    is_in_bucket,
    ray_storage,
    seal,
    send,
    share,
    share_parts,
    some_of_dataset,
)
from paretovid.platform.trial_process import cause_of_train_failure
from paretovid.search_spaces.schema import SweepConfig
from paretovid.trainables.backbone_training import BackboneTrainingConfig, train_backbones
from paretovid.trainables.backbone_weights import RANDOM, build_with_weights, missing_weights
from paretovid.trainables.components import component, family, read_backbone_meta, save_backbone
from paretovid.trainables.data.dataset import MANIFEST, Dataset, VideoRecord, load_dataset
from paretovid.trainables.data.extract import extract_shard, headers
from paretovid.trainables.data.features import (
    INDEX_FILE,
    FeatureStore,
    check_feature_type,
    finish,
    header_fingerprint,
    shard_files,
    skipped_videos,
)
from paretovid.trainables.data.moving_digits import MovingDigitsConfig, is_made, make_moving_digits
from paretovid.trainables.data.readers.annotations import ReaderConfig
from paretovid.trainables.data.readers.assemble import LEFT_OUT, Assembled, read_dataset
from paretovid.trainables.data.readers.registry import reader, reader_config
from paretovid.trainables.errors import DataError, StaleFeaturesError, UsageError, unknown_name
from paretovid.trainables.typed_config import typed_config

VIDEOS_PER_SHARD = 50
"""A shard is what one worker makes in one piece, and what is lost of the work if it is killed."""

_PROBED_HERE = 500
"""Up to so many new files are looked at without a cluster, which takes longer to start."""

_UNREADABLE_SHARE = 0.5
"""Of the videos that extraction may leave out, where the data set does not say (`data.max_missing_share`)."""

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


@contextlib.contextmanager
def cluster_of(config: SweepConfig) -> Iterator[Cluster]:
    """The Ray cluster that the configuration names, connected for the block.

    Raises `DataError` if it cannot be reached, `UsageError` if its nodes cannot run our trials.
    """
    cluster = config.cluster
    is_local = cluster.address == LOCAL
    is_there = ray.is_initialized()
    try:
        connection = connect(
            cluster.address,
            cpus=cluster.cpus,
            gpus=cluster.gpus,
            object_store_megabytes=cluster.object_store_megabytes,
            py_modules=() if is_local else code_to_send(),
        )
        connected = connection.__enter__()
    except ConnectionError as error:
        raise DataError(str(error), "Run `paretovid doctor`, or see what cluster.address= names.") from error
    with contextlib.ExitStack() as stack:
        stack.push(connection)
        if not is_local and not is_there:
            check_nodes(open_home(config.home))
        yield connected


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
    names = {MANIFEST, *(record.path for record in dataset.records)}
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
    whole = is_whole or all(dataset.video_path(record).is_file() for record in dataset.records)
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
        _train_backbones(config, home, dataset, trained, progress)
    if len(trained) < len(names):
        _load_backbones(config, dataset, names, folders, progress)
    features = _extract(config, home, dataset, {names[s]: folder for s, folder in folders.items()}, progress)
    return Prepared(
        home=home,
        dataset=dataset,
        backbones=folders,
        features={source: features[name] for source, name in names.items()},
    )


def extract(config: SweepConfig, progress: Progress) -> dict[str, Path]:
    """`paretovid extract`: everything up to the features. Returns source to folder."""
    return prepare(config, progress).features


def _train_backbones(
    config: SweepConfig, home: Home, dataset: Dataset, names: Sequence[str], progress: Progress
) -> None:
    # Not with the sweep's seed: sweeps over seeds share the backbones, and promotion needs them as they were.
    training = typed_config(BackboneTrainingConfig, config.backbones.training, "backbones.training")
    out_root = home.backbone(dataset.name, names[0]).parent
    with progress.stage("backbones", unit="% trained") as stage:
        for name in names:
            fetch(out_root / name)
        missing = [name for name in names if not _is_trained(out_root / name, training, dataset)]
        if not missing:
            stage.reused(f"{len(names)} backbones")
            return
        stage.total = 100
        with cluster_of(config) as cluster:
            shared = SharedRoot.of(home.root, config.cluster.node_cache)
            workers, use_gpu = _workers(cluster), bool(cluster.gpus)
            _run_training(training, dataset, missing, out_root, shared, workers, use_gpu, stage)
        for name in missing:
            fetch(out_root / name)
        stage.done(f"trained {', '.join(missing)}")


def _is_trained(folder: Path, training: BackboneTrainingConfig, dataset: Dataset) -> bool:
    """Whether a backbone was trained on these videos with these settings, by however many workers."""
    try:
        meta = read_backbone_meta(folder)
    except DataError:
        return False
    # What `labels` became is recorded in place of what was asked for; `step` may become `video`.
    asked = {key: value for key, value in asdict(training).items() if key != "labels"}
    found = {key: meta["training"].get(key) for key in asked}
    return found == asked and meta["dataset_fingerprint"] == dataset.fingerprint


def _load_backbones(
    config: SweepConfig,
    dataset: Dataset,
    names: Mapping[str, str],
    folders: Mapping[str, Path],
    progress: Progress,
) -> None:
    """Fetches, checks and keeps the weights of components that are not trained here. Both mappings: by source."""
    given = {source: name for source, name in names.items() if component(name).weights is not None}
    locations = weight_locations(config)
    with progress.stage("weights", unit="backbones") as stage:
        stage.total = len(given)
        fetched = 0
        for source, name in given.items():
            location, digest = locations[source], config.backbones.sha256.get(source)
            fetch(folders[source])
            if not _is_loaded(folders[source], dataset, location, digest):
                spec = component(name)
                # Others are read below their classifier, which is never trained.
                labels = dataset.classes if spec.classifies else ()
                backbone, origin = build_with_weights(
                    spec, location, sha256=digest, num_classes=max(1, len(labels))
                )
                meta = {
                    "labels": list(labels),
                    "training": origin,
                    "dataset": dataset.name,
                    "dataset_fingerprint": dataset.fingerprint,
                }
                save_backbone(folders[source], name, backbone, meta)
                share(folders[source])
                fetched += 1
            stage.advance()
        if fetched:
            stage.done(f"weights of {', '.join(given.values())}")
        else:
            stage.reused(f"{len(given)} backbones")


def _is_loaded(folder: Path, dataset: Dataset, location: str, sha256: str | None) -> bool:
    try:
        meta = read_backbone_meta(folder)
    except DataError:
        return False
    origin = meta["training"]
    is_file = sha256 is None or origin.get("file_sha256") == sha256.lower()
    return (
        is_file and origin.get("weights") == location and meta["dataset_fingerprint"] == dataset.fingerprint
    )


def weight_locations(config: SweepConfig) -> dict[str, str]:
    """Source to where its weights come from, for the components that are not trained here.

    Raises `UsageError` for one without, and for a source that has no use for weights.
    """
    specs = {source: component(name) for source, name in family(config.backbones.family).items()}
    takes = [source for source, spec in specs.items() if spec.weights is not None]
    given = config.backbones.weights
    if given and not takes:
        raise UsageError(
            f"backbones.weights is set, but the family {config.backbones.family} is trained here",
            "Leave it out, or choose backbones=paper.",
        )
    if isinstance(given, str):
        if given != RANDOM:
            raise UsageError(
                f"backbones.weights={given} is not allowed",
                f"Name a file for each source: {', '.join(f'backbones.weights.{s}=PATH' for s in takes)}; "
                f"or backbones.weights={RANDOM}.",
            )
        given = dict.fromkeys(takes, RANDOM)
    for name, values in (("weights", given), ("sha256", config.backbones.sha256)):
        for source in values:
            if source not in takes:
                raise unknown_name(f"source in backbones.{name}", source, takes)
    for source, digest in config.backbones.sha256.items():
        if not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
            raise UsageError(
                f"backbones.sha256.{source}={digest} is no SHA-256",
                "It has 64 hex digits: sha256sum FILE prints it.",
            )
    for source in takes:
        if not given.get(source):
            raise missing_weights(specs[source], source)
    return {source: str(given[source]) for source in takes}


def _workers(cluster: Cluster) -> int:
    # More than two share too little: a backbone of the small family trains in seconds.
    return max(1, min(2, int(cluster.gpus or cluster.cpus)))


def _run_training(
    training: BackboneTrainingConfig,
    dataset: Dataset,
    names: Sequence[str],
    out_root: Path,
    shared: SharedRoot,
    workers: int,
    use_gpu: bool,
    stage: Stage,
) -> None:
    """One Ray Train run for all backbones: starting one costs more than training a small backbone."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    out_root.mkdir(parents=True, exist_ok=True)
    told = out_root / f".progress-{threading.get_native_id()}.json"
    trainer = TorchTrainer(
        _backbone_worker,
        train_loop_config={
            "training": training,
            "dataset": str(dataset.root),
            "names": list(names),
            "out_root": str(out_root),
            "told": str(told),
            "shared": shared,
        },
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=use_gpu),
        run_config=RunConfig(name="backbones", **ray_storage(out_root / ".ray")),
    )
    try:
        with _shown(told, stage, len(names)):
            trainer.fit()
    except Exception as error:
        raise cause_of_train_failure(error) from error
    finally:
        told.unlink(missing_ok=True)


class _TrainContext:
    """A `TrialContext` over Ray Train that tells its progress through a file.

    Reports to Ray Train end in its controller, a process of its own; the command that waits for `fit()` sees
    none of them before the end.
    """

    def __init__(self, told: Path) -> None:
        import ray.train.torch

        session = ray.train.get_context()
        self.rank = session.get_world_rank()
        self.world_size = session.get_world_size()
        self.device = ray.train.torch.get_device()
        self._told = told

    def report(self, progress: Mapping[str, float], checkpoint: Path | None = None) -> None:
        """Rank 0 writes the progress file."""
        if self.rank == 0:
            partial = self._told.with_suffix(".partial")
            partial.write_text(json.dumps(dict(progress)))
            partial.replace(self._told)

    def get_checkpoint(self) -> Path | None:
        """None: a backbone that is not finished is trained from the start, in seconds."""
        return None

    def heartbeat(self) -> bool:
        """False: it is not asked to end."""
        return False


def _backbone_worker(config: dict[str, Any]) -> None:
    here = config["shared"].here
    dataset, out_root = here(config["dataset"]), here(config["out_root"])
    fetch(dataset)
    out_root.mkdir(parents=True, exist_ok=True)
    context = _TrainContext(here(config["told"]))
    train_backbones(config["training"], load_dataset(dataset), config["names"], out_root, context)
    if context.rank == 0:
        for name in config["names"]:
            share(out_root / name)


@contextlib.contextmanager
def _shown(told: Path, stage: Stage, num_backbones: int) -> Iterator[None]:
    """Passes on what the training tells, as a percentage over decoding and all backbones."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            with contextlib.suppress(OSError, ValueError):
                state = json.loads(told.read_text())
                part = state["stage"] + state["done"] / max(1.0, state["total"])
                percent = int(100 * min(1.0, part / (num_backbones + 1)))
                stage.advance(max(0, percent - stage.count))

    thread = threading.Thread(target=watch, name="backbone-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _extract(
    config: SweepConfig, home: Home, dataset: Dataset, backbones: Mapping[str, Path], progress: Progress
) -> dict[str, Path]:
    """Component to the folder of its features; every video is decoded once for all that are missing."""
    described = headers(dataset, backbones, config.backbones.dtype)
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
        records = dataset.records
        shards = [records[i : i + VIDEOS_PER_SHARD] for i in range(0, len(records), VIDEOS_PER_SHARD)]
        stage.total = len(records)
        shared = SharedRoot.of(home.root, config.cluster.node_cache)
        with cluster_of(config):
            parts = _extract_shards(
                shared, dataset, shards, backbones, missing, config.backbones.dtype, stage
            )
        failures = _failures(dataset, next(iter(missing.values())), len(shards))
        # Before the stores are whole: the same command must not go on with them.
        found = _reader_of(config)
        _check_enough(failures, len(records), found[1].max_missing_share if found else _UNREADABLE_SHARE)
        for name, folder in missing.items():
            finish(folder, described[name], len(shards))
            seal(folder, parts[name], INDEX_FILE)
        read = len(records) - len(failures)
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


def _extract_shards(
    shared: SharedRoot,
    dataset: Dataset,
    shards: Sequence[Sequence[VideoRecord]],
    backbones: Mapping[str, Path],
    folders: Mapping[str, Path],
    dtype: str,
    stage: Stage,
) -> dict[str, dict[str, Part]]:
    """Component to the parts of its store that were sent to the bucket; none if the home is a folder."""
    remote: Any = ray.remote(num_cpus=1, max_retries=2)(_extract_one)
    pending = {
        remote.remote(shared, dataset, shard, dict(backbones), dict(folders), index, dtype): len(shard)
        for index, shard in enumerate(shards)
    }
    parts: dict[str, dict[str, Part]] = {name: {} for name in folders}
    while pending:
        (ready,), _ = ray.wait(list(pending))
        for name, sent in ray.get(ready).items():
            parts[name] |= sent
        stage.advance(pending.pop(ready))
    for name, folder in folders.items():
        fetch_parts(folder, {part: each for part, each in parts[name].items() if part.endswith(".json")})
    return parts


def _failures(dataset: Dataset, folder: Path, num_shards: int) -> list[tuple[str, str]]:
    """Path and reason of each video that could not be read, those of an interrupted extraction included."""
    skipped = skipped_videos(folder, num_shards)
    paths = {record.video_id: str(dataset.video_path(record)) for record in dataset.records}
    return sorted((paths[video_id], reason) for video_id, reason in skipped.items())


def _extract_one(
    shared: SharedRoot,
    dataset: Dataset,
    shard: Sequence[VideoRecord],
    backbones: dict[str, Path],
    folders: dict[str, Path],
    index: int,
    dtype: str,
) -> dict[str, dict[str, Part]]:
    """One shard of every component, on a worker. Returns what of it was sent to the bucket."""
    torch.set_num_threads(1)
    dataset = replace(dataset, root=shared.here(dataset.root))
    backbones = {name: shared.here(folder) for name, folder in backbones.items()}
    folders = {name: shared.here(folder) for name, folder in folders.items()}
    videos = {record.path for record in shard}
    fetch(dataset.root, lambda names: [name for name in names if name in videos])
    for folder in backbones.values():
        fetch(folder)
    extract_shard(dataset, shard, backbones, folders, index, dtype)
    files = shard_files(index)
    return {name: share_parts(folder, files) for name, folder in folders.items()}


def _check_enough(failures: Sequence[tuple[str, str]], total: int, allowed_share: float) -> None:
    if len(failures) > total * allowed_share:
        raise DataError(
            f"{len(failures)} of {total} videos could not be read",
            f"The first: {failures[0][0]}: {failures[0][1]}. Check the files and the decoder.",
        )


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
    typed_config(BackboneTrainingConfig, config.backbones.training, "backbones.training")
    weight_locations(config)
    check_feature_type(config.backbones.dtype)
