"""Features of a data set, made over a Ray cluster with Ray Data: read, decode, compute, write, all at once.

    videos ──> decode (CPUs) ──> compute (GPUs) ──> shards, written here

Without GPUs, decoding and computing are one task, so that pixels never leave a process. With them, pieces of decoded
video stream from the nodes' CPUs to one actor per GPU; Ray Data holds decoding back when the GPUs or this command
fall behind, so that memory does not grow with the number of videos. Only features come to this command. It writes a
shard whenever all of its videos have arrived; a shard that is whole is never made again, whatever was killed.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import socket
import time
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, final

import numpy as np
import torch

from paretovid.infra.ray_cluster import Cluster
from paretovid.platform.config.resolve import check_extraction
from paretovid.platform.console.progress import Stage
from paretovid.platform.preparation.crash_counter import start_attempts
from paretovid.platform.preparation.hanging import Hang, ended_if_it_hangs, longest_wait_seconds
from paretovid.platform.preparation.shard_writer import Cell, ShardWriter
from paretovid.platform.storage.home import Home, HomeReference
from paretovid.search_spaces.schema import ExtractionConfig
from paretovid.trainables.backbones.catalog import component, load_backbone
from paretovid.trainables.backbones.description import BackboneDescription
from paretovid.trainables.backbones.precision import Precision
from paretovid.trainables.data.dataset import Dataset, VideoRecord, located
from paretovid.trainables.data.limits import USUAL_LIMITS, VideoLimitsConfig
from paretovid.trainables.data.regular_files import check_folder_is_there
from paretovid.trainables.data.s3 import ObjectStoreError
from paretovid.trainables.data.videos import InputSpec
from paretovid.trainables.errors import (
    DataError,
    ParetovidError,
    UnavailableDataError,
    UsageError,
    VideoError,
    errors_redacted,
)
from paretovid.trainables.features.extract import Piece, compute_features, read_pieces, why_unreadable
from paretovid.trainables.redaction.texts import redact_logs

_MOST_VIDEOS_PER_TASK = 16
_TASKS_PER_WORKER = 6
"""At least, if there are as many videos: workers that are done early take from what others have not begun."""
_BLOCK_BYTES = 32 * 2**20
_MAX_RETRIES = 2
"""Of a task whose process died. Infinite ones would feed the same poisonous video to one worker after the other."""
_SECONDS_TO_NOTE = 10.0


def extract_shards(
    cluster: Cluster,
    home: Home,
    dataset: Dataset,
    backbones: Mapping[str, Path],
    folders: Mapping[str, Path],
    dtype: str,
    config: ExtractionConfig,
    stage: Stage,
    *,
    cache: str | None = None,
) -> ShardWriter:
    """Writes all shards that are missing; Ray must be connected.

    Arguments:
        backbones, folders: component to the folder of its weights, and of its features.
        cache: folder on each node for its mirror of a home in a bucket; None: the user's cache folder.

    Returns what has written them. Raises `DataError` if a node does not see a video, or a worker died again and again.
    """
    precision = check_extraction(config)
    writer = ShardWriter.over(dataset, folders, config.videos_per_shard, dtype, home.store)
    writer.widths = {name: _width(folder) for name, folder in backbones.items()}
    shards, done = writer.open_shards()
    stage.begin_at(done)
    if shards:
        job = _Job(
            home=home.reference(cache),
            root=dataset.root,
            step_seconds=dataset.step_seconds,
            limits=dataset.limits,
            backbones={name: backbones[name] for name in folders},
            precision=precision,
            steps=config.steps_per_batch,
        )
        numbers = [number for shard in shards for number in writer.numbers(shard)]
        began, before = time.monotonic(), done
        for row in _rows_of_all(job, writer, numbers, cluster, config):
            if writer.add(row):
                done += 1
                rate = (done - before) / max(1e-3, time.monotonic() - began)
                stage.advance(note=f"{rate:.3g} videos/s")
    writer.fetch_descriptions()
    return writer


def _width(backbone: Path) -> int:
    described = BackboneDescription.read(backbone)
    spec = component(described.component)
    return max(1, len(described.origin.labels)) if spec.classifies else spec.feature_width


Column: TypeAlias = list[int] | list[str] | list[np.ndarray] | np.ndarray
"""Of a batch of rows, as Ray Data has it."""


_KEYS = ("number", "first", "total", "error", "notes")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    """What every worker is given. Paths are the driver's."""

    home: HomeReference
    root: Path
    step_seconds: float
    limits: VideoLimitsConfig = USUAL_LIMITS
    backbones: dict[str, Path]
    precision: Precision
    steps: int

    def __hash__(self) -> int:
        return hash((self.root, *self.backbones.items(), self.precision))


@final
class _Compute:
    """Decoded pieces to features, on this process's device. Ray Data keeps one per GPU."""

    def __init__(self, job: _Job) -> None:
        redact_logs()
        torch.set_num_threads(1)
        self._job = job
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self._backbones = {}
        for name, path in job.backbones.items():
            folder = job.home.here(path)
            _home_of(job).store.download(folder)
            self._backbones[name] = load_backbone(folder)[0].to(self.device)

    def __call__(self, piece: Mapping[str, Column]) -> dict[str, Column]:
        row: dict[str, Column] = {key: piece[key] for key in _KEYS}
        for name, backbone in self._backbones.items():
            inputs = np.asarray(piece[f"in {name}"][0])
            empty = np.zeros((0, backbone.width), np.float32)
            row[f"out {name}"] = [self.features(name, inputs) if len(inputs) else empty]
        return row

    def features(self, name: str, inputs: np.ndarray) -> np.ndarray:
        """Of one component and piece."""
        return compute_features(
            self._backbones[name], inputs, precision=self._job.precision, steps=self._job.steps
        )

    @property
    def widths(self) -> dict[str, int]:
        """Component to D."""
        return {name: backbone.width for name, backbone in self._backbones.items()}


@functools.lru_cache(maxsize=1)
def _home_of(job: _Job) -> Home:
    """Kept by a worker from task to task, as every task brings a reference of its own."""
    return job.home.home


@functools.lru_cache(maxsize=1)
def _compute(job: _Job) -> _Compute:
    """Kept by a worker from task to task."""
    return _Compute(job)


def _decode(batch: Mapping[str, np.ndarray], job: _Job, attempts: Any = None) -> Iterator[dict[str, Column]]:
    """Rows of decoded pieces; the last of a video that cannot be read says why, and holds nothing.

    `attempts`: the handle of an `Attempts`.
    """
    redact_logs()
    with errors_redacted():  # Ray writes what a worker raises into its logs
        yield from _decoded(batch, job, attempts)


def _decoded(batch: Mapping[str, np.ndarray], job: _Job, attempts: Any) -> Iterator[dict[str, Column]]:
    torch.set_num_threads(1)
    root, here = job.home.here(job.root), socket.gethostname()
    wanted = set(batch["path"].tolist())
    _home_of(job).store.download(root, lambda names: [name for name in names if name in wanted])
    specs = {name: component(name).input for name in job.backbones}
    for number, path, seen in zip(*(batch[key].tolist() for key in ("number", "path", "seen")), strict=True):
        location = located(root, path)
        hung = "" if attempts is None else _note_begin(attempts, number)
        if hung == "file":
            raise UnavailableDataError(
                f"{location} gives no answer on {here}: a read of it has not come back",
                "Is its disk mounted, and its server there? Repair it, and the same command resumes.",
            )
        try:
            if hung:
                waited = longest_wait_seconds(job.limits.max_decode_seconds)
                raise VideoError(f"{location}: its decoder has not come back within {waited:g} s")
            for piece in _pieces(location, specs, job, attempts, number):
                inputs = {f"in {name}": [values] for name, values in piece.inputs.items()}
                about = (number, piece.first, piece.total, "", "\n".join(piece.notes))
                yield {**{key: [value] for key, value in zip(_KEYS, about, strict=True)}, **inputs}
        except UsageError:
            raise  # of the worker: it lacks a package, for one
        except ObjectStoreError as error:
            raise UnavailableDataError(f"{error.message}, seen from {here}", error.hint) from error
        except OSError as error:
            # A disk or a bucket that is away says nothing of the video: it must not be recorded as unreadable.
            raise UnavailableDataError(
                f"{location} cannot be read on {here}: {error}",
                "Every node must see the videos. Repair it, and the same command resumes.",
            ) from error
        except Exception as error:  # whatever a broken file makes a decoder raise
            if seen and isinstance(location, Path) and not location.exists():
                raise UnavailableDataError(
                    f"{location} is not there, seen from {here}",
                    "Every node must see what the driver sees. Mount it there, and the same command resumes.",
                ) from error
            if isinstance(location, Path):
                check_folder_is_there(location)
            empty = {
                f"in {name}": [np.zeros((0, *spec.shape), np.float32 if spec.kind == "logmel" else np.uint8)]
                for name, spec in specs.items()
            }
            about = (number, 0, 0, why_unreadable(error) or "unknown", "")
            yield {**{key: [value] for key, value in zip(_KEYS, about, strict=True)}, **empty}
        if attempts is not None:
            attempts.end.remote(number)


def _pieces(
    location: Path | str, specs: Mapping[str, InputSpec], job: _Job, attempts: Any, number: int
) -> Iterator[Piece]:
    """Those of `read_pieces`; none is waited for longer than all of the video may take."""
    import ray

    pieces = read_pieces(location, specs, step_seconds=job.step_seconds, steps=job.steps, limits=job.limits)

    def notify(what: Hang) -> None:
        if attempts is not None:
            ray.get(attempts.hangs.remote(number, what), timeout=_SECONDS_TO_NOTE)

    while True:
        with ended_if_it_hangs(job.limits.max_decode_seconds, notify):
            piece = next(pieces, None)
        if piece is None:
            return
        yield piece


def _note_begin(attempts: Any, number: int) -> str:
    """Waits until it is noted: a file may kill its decoder within a millisecond, and what had not left is lost.

    Returns what has not come back of it before, if that is known.
    """
    import ray

    # Not missed if the actor is gone.
    with contextlib.suppress(ray.exceptions.RayError):
        return str(ray.get(attempts.begin.remote(number), timeout=_SECONDS_TO_NOTE))
    return ""


def _decode_and_compute(
    batch: Mapping[str, np.ndarray], job: _Job, attempts: Any
) -> Iterator[dict[str, Column]]:
    compute = _compute(job)
    for piece in _decode(batch, job, attempts):
        yield compute(piece)


def _rows_of_all(
    job: _Job,
    writer: ShardWriter,
    numbers: Sequence[int],
    cluster: Cluster,
    config: ExtractionConfig,
) -> Iterator[dict[str, Cell]]:
    """As `_rows`; a video whose worker dies whenever it is read is reported as unreadable, and the others continue."""
    import ray

    while wanted := [number for number in numbers if writer.lacks(number)]:
        # Anew for every round: when one ends, videos are under way whose failure counts against nobody.
        attempts = start_attempts()
        try:
            with contextlib.closing(_rows(job, writer.records, wanted, cluster, config, attempts)) as rows:
                yield from rows
            return
        except _WorkerFailed as error:
            try:
                failed = ray.get(attempts.failed.remote(_MAX_RETRIES + 1), timeout=60)
            except ray.exceptions.RayError:  # the actor was on a node that is gone
                raise error from None
            if not failed:
                raise
            for number in sorted(failed):
                reason = f"its decoder's process died {_MAX_RETRIES + 1} times: it crashed, or had too little memory"
                yield {"number": number, "first": 0, "total": 0, "error": reason, "notes": ""}


def _rows(
    job: _Job,
    records: Sequence[VideoRecord],
    numbers: Sequence[int],
    cluster: Cluster,
    config: ExtractionConfig,
    attempts: Any,
) -> Generator[dict[str, Cell]]:
    """Rows of features, in any order. Raises `_WorkerFailed` if a task's process died at each of its attempts."""
    import ray.data
    from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    # Decoding is limited by what its blocks are thought to take of the store: with the default of 128 MiB hardly
    # more than one decoder would run beside a GPU.
    context.target_max_block_size = _BLOCK_BYTES
    # Each is logged at level info otherwise.
    context.print_on_execution_start = False
    in_bucket = job.home.url is not None
    workers = min(config.workers or len(numbers), len(numbers), max(1, int(cluster.cpus)))
    per_task = max(1, min(_MOST_VIDEOS_PER_TASK, len(numbers) // (_TASKS_PER_WORKER * workers)))
    num_tasks = -(-len(numbers) // per_task)
    videos: Any = ray.data.from_items(
        [
            {"number": number, "path": records[number].path, "seen": in_bucket or (job.root / path).exists()}
            for number, path in ((number, records[number].path) for number in numbers)
        ],
        override_num_blocks=num_tasks,
    )
    by_tasks = {"fn_args": (job, attempts), "num_cpus": 1, "compute": TaskPoolStrategy(size=workers)}
    with warnings.catch_warnings():
        # Limits of retries have no named parameters in Ray 2.60, which announces that they will get them.
        warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
        if cluster.gpus >= 1 if config.separate_compute is None else config.separate_compute:
            made = videos.map_batches(_decode, **by_tasks, max_retries=_MAX_RETRIES).map_batches(
                _Compute,
                fn_constructor_args=(job,),
                batch_size=1,
                compute=ActorPoolStrategy(min_size=1, max_size=max(1, int(cluster.gpus))),
                **({"num_gpus": 1} if cluster.gpus >= 1 else {"num_cpus": 0.5}),
                max_restarts=-1,
                max_task_retries=_MAX_RETRIES,
            )
        else:
            made = videos.map_batches(_decode_and_compute, **by_tasks, max_retries=_MAX_RETRIES)
    try:
        yield from made.iter_rows()
    except ParetovidError:
        raise
    except Exception as error:
        raise _cause(error) from error


class _WorkerFailed(DataError):
    """A task, in a way that is nobody's fault as far as is known: its process died, for one."""


def _cause(error: BaseException) -> Exception:
    """What went wrong in a worker, below what Ray has wrapped it in."""
    seen: list[BaseException] = []
    each: BaseException | None = error
    while each is not None and each not in seen:
        if isinstance(each, ParetovidError):
            return each
        seen.append(each)
        each = getattr(each, "cause", None) or each.__cause__
    text = str(seen[-1]).strip().splitlines() or [type(seen[-1]).__name__]
    return _WorkerFailed(
        f"extraction has failed on a worker: {type(seen[-1]).__name__}: {text[-1]}",
        "What is whole is kept: the same command resumes. If workers die again and again, one may have had too little "
        "memory: extraction.steps_per_batch=16 and extraction.workers=1 need less.",
    )
