"""The backbones of a data set: trained here on its videos, or loaded from files and, if asked for, fine-tuned on them.

home/backbones/<dataset>/<component>/               what features are made with
home/backbones/<dataset>/.loaded/<component>/       weights as they came, of one that is fine-tuned
home/backbones/<dataset>/.checkpoints/<component>/  of a fine-tuning that is not over
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from paretovid.infra.local_copy import digest_of
from paretovid.infra.ray_cluster import Cluster
from paretovid.platform.config.resolve import PreparationPlan
from paretovid.platform.console.progress import Progress, Stage
from paretovid.platform.execution.cluster import cluster_of
from paretovid.platform.execution.ray_errors import cause_of_train_failure
from paretovid.platform.preparation.interruptible_trainer import interruptible
from paretovid.platform.storage.home import Home, HomeReference
from paretovid.search_spaces.schema import SweepConfig
from paretovid.trainables.backbones.catalog import component, save_backbone
from paretovid.trainables.backbones.description import BackboneDescription, BackboneOrigin
from paretovid.trainables.backbones.fine_tuning import FineTuningConfig, fine_tune, is_fine_tuned
from paretovid.trainables.backbones.training import BackboneTrainingConfig, labels_taught, train_backbones
from paretovid.trainables.backbones.weights import build_with_weights
from paretovid.trainables.data.dataset import Dataset, load_dataset
from paretovid.trainables.data.partial_files import partial_file
from paretovid.trainables.errors import UsageError, errors_redacted
from paretovid.trainables.redaction.texts import redact_logs
from paretovid.trainables.redaction.urls import recorded_url


def train_own(
    plan: PreparationPlan, home: Home, dataset: Dataset, names: Sequence[str], progress: Progress
) -> None:
    # Not with the sweep's seed: sweeps over seeds share the backbones, and promotion needs them as they were.
    config, training = plan.config, plan.backbones.training
    out_root = home.backbone(dataset.name, names[0]).parent
    with progress.stage("backbones", unit="% trained") as stage:
        for name in names:
            home.store.download(out_root / name)
        missing = [name for name in names if not _is_trained(out_root / name, training, dataset)]
        if not missing:
            stage.reused(f"{len(names)} backbones")
            return
        stage.total = 100
        with cluster_of(config) as cluster:
            settings = {
                "training": training,
                "names": missing,
                "dataset": str(dataset.root),
                "limits": dataset.limits,
            }
            left_out = _run_group(
                _training_worker, settings, config, cluster, home, out_root, stage, len(missing)
            )
        for name in missing:
            home.store.download(out_root / name)
        stage.done(f"trained {', '.join(missing)}")
    _say_left_out(left_out, "backbones were trained", progress)


def _say_left_out(left_out: Mapping[str, str], when: str, progress: Progress) -> None:
    for path, reason in sorted(left_out.items()):
        progress.say(f"  left out while {when}: {path}: {reason}")


def _is_trained(folder: Path, training: BackboneTrainingConfig, dataset: Dataset) -> bool:
    """Whether a backbone was trained on these videos with these settings, by however many workers."""
    described = BackboneDescription.find(folder)
    if described is None:
        return False
    asked = {**asdict(training), "labels": labels_taught(training, dataset)}
    found = {key: described.origin.training.get(key) for key in asked}
    return found == asked and described.origin.dataset_fingerprint == dataset.fingerprint


def load_given(
    plan: PreparationPlan,
    home: Home,
    dataset: Dataset,
    names: Mapping[str, str],
    folders: Mapping[str, Path],
    progress: Progress,
) -> None:
    """Fetches, checks and keeps the weights of components that are not trained here; fine-tunes them if that is asked
    for. Both mappings: by source."""
    given = {source: name for source, name in names.items() if component(name).weights is not None}
    config, tuning = plan.config, plan.backbones.fine_tuning
    locations, digests = plan.backbones.weights, config.backbones.sha256
    with progress.stage("weights", unit="backbones") as stage:
        stage.total = len(given)
        fetched: list[str] = []
        for source, name in given.items():
            folder = folders[source] if tuning is None else _to_begin_with(folders[source])
            home.store.download(folder)
            there = _loaded(folder, dataset, locations[source], digests.get(source))
            home.store.download(folders[source])
            _check_replaces_nothing(folders[source], dataset, tuning, locations[source], digests.get(source))
            if there is None:
                spec = component(name)
                # Others are read below their classifier, which only fine-tuning trains.
                labels = dataset.classes if spec.classifies or tuning is not None else ()
                backbone, origin = build_with_weights(
                    spec,
                    locations[source],
                    sha256=digests.get(source),
                    num_classes=max(1, len(labels)),
                    with_classifier=tuning is None,
                    max_gigabytes=config.backbones.max_weights_gigabytes,
                )
                made_from = BackboneOrigin(
                    labels=tuple(labels),
                    training=origin,
                    dataset=dataset.name,
                    dataset_fingerprint=dataset.fingerprint,
                )
                save_backbone(folder, name, backbone, made_from)
                home.store.upload(folder)
                fetched.append(name)
            stage.advance()
        if fetched:
            stage.done(f"weights of {', '.join(fetched)}")
        else:
            stage.reused(f"{len(given)} backbones")
    if tuning is not None:
        for source, name in given.items():
            start = (locations[source], digests.get(source))
            _fine_tune(config, tuning, home, dataset, name, start, folders[source], progress)


def _to_begin_with(folder: Path) -> Path:
    """Where the weights are kept that the fine-tuning of a backbone begins with."""
    return folder.parent / ".loaded" / folder.name


def _checkpoint_of(folder: Path) -> Path:
    return folder.parent / ".checkpoints" / folder.name


def _fine_tune(
    config: SweepConfig,
    tuning: FineTuningConfig,
    home: Home,
    dataset: Dataset,
    name: str,
    start: tuple[str, str | None],
    folder: Path,
    progress: Progress,
) -> None:
    with progress.stage(f"fine-tuning {name}", unit="% trained") as stage:
        home.store.download(folder)
        there = _loaded(folder, dataset, *start)
        if there is not None and is_fine_tuned(there, tuning):
            stage.reused(name)
            return
        stage.total = 100
        with cluster_of(config) as cluster:
            settings = {
                "tuning": tuning,
                "name": name,
                "dataset": str(dataset.root),
                "limits": dataset.limits,
            }
            left_out = _run_group(
                _fine_tuning_worker, settings, config, cluster, home, folder.parent, stage, num_parts=1
            )
        home.store.download(folder)
        measured = BackboneDescription.read(folder).measured
        went_on = (
            f", from its checkpoint at step {first:.0f}" if (first := measured["went_on_at_step"]) else ""
        )
        stage.done(f"{measured['steps']:.0f} steps{went_on}, loss {measured['loss']:.3g}")
    _say_left_out(left_out, f"{name} was fine-tuned", progress)


def _check_replaces_nothing(
    folder: Path, dataset: Dataset, tuning: FineTuningConfig | None, location: str, sha256: str | None
) -> None:
    """Raises `UsageError` if the folder holds weights that were fine-tuned otherwise than is asked for now."""
    there = BackboneDescription.find(folder)
    if there is None or not there.is_fine_tuned:
        return
    if tuning is None or not is_fine_tuned(there, tuning):
        raise _would_replace(there, folder, "other settings" if tuning else "weights as they came")
    if _loaded(folder, dataset, location, sha256) is None:
        raise _would_replace(there, folder, "those of another file or other videos")


def _would_replace(described: BackboneDescription, folder: Path, by: str) -> UsageError:
    recorded = described.origin.training
    words = " ".join(
        f"backbones.fine_tuning.{field.name}={recorded.get(field.name)}"
        for field in fields(FineTuningConfig)
        if recorded.get(field.name) != field.default
    )
    return UsageError(
        f"{folder} holds weights that were fine-tuned, and this command would replace them by {by}",
        f"Continue with them: backbones.fine_tune=true {words}".rstrip()
        + ". Or take another home=, or remove that folder: what was made with it can then not be promoted any more.",
    )


def _loaded(folder: Path, dataset: Dataset, location: str, sha256: str | None) -> BackboneDescription | None:
    """What is recorded of a backbone, if its weights came from there."""
    described = BackboneDescription.find(folder)
    if described is None:
        return None
    origin = described.origin.training
    is_file = sha256 is None or origin.get("file_sha256") == sha256.lower()
    # An earlier version recorded the query too.
    is_same = is_file and recorded_url(str(origin.get("weights"))) == recorded_url(location)
    here = Path(location).expanduser()
    if is_same and "://" not in location and here.is_file():  # another file may have taken its place
        is_same = origin.get("file_sha256") == digest_of(here)
    return described if is_same and described.origin.dataset_fingerprint == dataset.fingerprint else None


def _workers(cluster: Cluster, asked: int | None) -> int:
    if asked is not None:
        return asked
    # Without GPUs more than two share too little: a backbone of the small family trains in seconds.
    return max(1, int(cluster.gpus) or min(2, int(cluster.cpus)))


def _run_group(
    worker: Callable[[dict[str, Any]], None],
    settings: Mapping[str, Any],
    config: SweepConfig,
    cluster: Cluster,
    home: Home,
    out_root: Path,
    stage: Stage,
    num_parts: int,
) -> dict[str, str]:
    """One Ray Train run, for all that is to be trained: starting one costs more than training a small backbone.

    Arguments:
        num_parts: of the training, after decoding, for the percentage shown.

    Returns path to reason of the videos that could not be read.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    out_root.mkdir(parents=True, exist_ok=True)
    progress_file = out_root / f".progress-{threading.get_native_id()}.json"
    workers = _workers(cluster, config.backbones.workers)
    # A file per worker: what is reported to Ray Train reaches this process of rank 0 alone, and with checkpoints.
    left_out_files = [
        progress_file.with_name(f"{progress_file.stem}-{rank}.left-out") for rank in range(workers)
    ]
    use_gpu = bool(cluster.gpus)
    trainer = interruptible(TorchTrainer)(
        worker,
        train_loop_config={
            **settings,
            "out_root": str(out_root),
            "progress_file": str(progress_file),
            "left_out_files": [str(file) for file in left_out_files],
            "home": home.reference(config.cluster.node_cache),
        },
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=use_gpu),
        run_config=RunConfig(
            name="backbones",
            # Of the group: a lost worker ends all of them, and fine-tuning resumes from its checkpoint.
            failure_config=FailureConfig(max_failures=2),
            **home.store.ray_storage(out_root / ".ray"),
        ),
    )
    try:
        with _shown(progress_file, stage, num_parts):
            trainer.fit()
        return _collected(left_out_files, home)
    except KeyboardInterrupt:
        trainer.abort()
        raise
    except Exception as error:
        raise cause_of_train_failure(error) from error
    finally:
        progress_file.unlink(missing_ok=True)
        for file in left_out_files:
            with contextlib.suppress(OSError):
                home.store.remove(file)


def _collected(files: Sequence[Path], home: Home) -> dict[str, str]:
    """What the workers have left in these files together."""
    found: dict[str, str] = {}
    for file in files:
        found |= json.loads(home.store.read_text(file, must_answer=True))
    return found


def _leave_out(home: HomeReference, files: Sequence[str], rank: int, skipped: Mapping[str, str]) -> None:
    """Path to reason of this worker's videos that could not be read, for the command that waits."""
    home.home.store.write_text(home.here(files[rank]), json.dumps(dict(skipped)))


class _TrainContext:
    """A `TrialContext` over Ray Train that reports its progress through a file.

    Reports to Ray Train end in its controller, a process of its own; the command that waits for `fit()` sees
    none of them before the end.
    """

    def __init__(self, progress_file: Path) -> None:
        import ray.train.torch

        session = ray.train.get_context()
        self.rank = session.get_world_rank()
        self.world_size = session.get_world_size()
        self.device = ray.train.torch.get_device()
        self._progress_file = progress_file

    def report(self, progress: Mapping[str, float], checkpoint: Path | None = None) -> None:
        """Rank 0 writes the progress file."""
        if self.rank == 0:
            with partial_file(self._progress_file.with_suffix(".partial")) as partial:
                partial.write_text(json.dumps(dict(progress)))
                partial.replace(self._progress_file)

    def get_checkpoint(self) -> Path | None:
        """None: a backbone that is not finished is trained from the start, in seconds."""
        return None

    def heartbeat(self) -> bool:
        """False: it is not asked to end."""
        return False


@errors_redacted()
def _training_worker(config: dict[str, Any]) -> None:
    redact_logs()
    reference: HomeReference = config["home"]
    here, store = reference.here, reference.home.store
    dataset, out_root = here(config["dataset"]), here(config["out_root"])
    store.download(dataset)
    out_root.mkdir(parents=True, exist_ok=True)
    context = _TrainContext(here(config["progress_file"]))
    videos = replace(load_dataset(dataset), limits=config["limits"])
    trained = train_backbones(config["training"], videos, config["names"], out_root, context)
    _leave_out(reference, config["left_out_files"], context.rank, trained.skipped)
    if context.rank == 0:
        for name in config["names"]:
            store.upload(out_root / name)


@errors_redacted()
def _fine_tuning_worker(config: dict[str, Any]) -> None:
    redact_logs()
    reference: HomeReference = config["home"]
    here, store = reference.here, reference.home.store
    dataset, out_root = here(config["dataset"]), here(config["out_root"])
    context = _TrainContext(here(config["progress_file"]))
    folder, name = out_root / config["name"], config["name"]
    start, checkpoint = _to_begin_with(folder), _checkpoint_of(folder)
    store.download(dataset)
    if context.rank == 0:
        store.download(start)
        store.download(checkpoint)
    fine_tune(
        config["tuning"],
        replace(load_dataset(dataset), limits=config["limits"]),
        name,
        start,
        folder,
        context,
        checkpoint=checkpoint,
        on_checkpoint=store.upload,
        on_skipped=lambda skipped: _leave_out(reference, config["left_out_files"], context.rank, skipped),
    )
    if context.rank == 0:
        store.upload(folder)
        store.remove_folder(checkpoint)


@contextlib.contextmanager
def _shown(progress_file: Path, stage: Stage, num_backbones: int) -> Iterator[None]:
    """Passes on what the training reports, as a percentage over decoding and all backbones."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            with contextlib.suppress(OSError, ValueError):
                state = json.loads(progress_file.read_text())
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
