"""What a sweep left on disk, as typed records: `sweeps/<sweep>/trials/<trial>/result.json` and its scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from paretovid.platform.records.confirmations import failed_confirmations
from paretovid.platform.records.judgement import StoppedTrial, stopped_trials
from paretovid.platform.records.sweep import SweepRecord, known_record
from paretovid.platform.storage.documents import read_json_object
from paretovid.platform.storage.home import SweepPaths
from paretovid.trainables.data.dataset import Event
from paretovid.trainables.documents import check_readable, parse_json, unreadable
from paretovid.trainables.errors import DataError, NonFiniteError, ParetovidError, UsageError
from paretovid.trainables.evaluation.detection import GroundTruth
from paretovid.trainables.evaluation.pareto import Reference
from paretovid.trainables.evaluation.results import RESULT_FILE, SCORES_FILE, SPLITS, TrialResult
from paretovid.trainables.measurement import MAP
from paretovid.trainables.outcome import Detection

_OVERLAPS = "map_iou_"
_DAMAGED = "Remove the trial's folder and run the sweep under another name=."


def objective_text(objective: str) -> str:
    """What an objective is called in prose: `mAP`, `mAP@IoU 0.1:0.7`."""
    if objective == MAP:
        return "mAP"
    return f"mAP@IoU {objective.removeprefix(_OVERLAPS).replace('_', ':')}"


def knob_text(value: float | str, digits: int = 4) -> str:
    """A knob's value for people; some knobs are words."""
    return value if isinstance(value, str) else f"{value:.{digits}g}"


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepResults:
    """One sweep and its finished trials, in the order of their names."""

    record: SweepRecord
    """The content of `sweep.json`."""
    folder: Path
    trials: tuple[TrialResult, ...]
    confirmations: tuple[TrialResult, ...] = ()
    """Trainings with other seeds that confirm some of the trials, in the order of their names."""
    failed_confirmations: Mapping[str, str] = field(default_factory=dict)
    """Those that failed for good, with their reasons."""
    stopped: tuple[StoppedTrial, ...] = ()
    """Trials that were stopped at a rung, which have no result."""

    @property
    def name(self) -> str:
        """The sweep's."""
        return self.record.name

    @property
    def reference(self) -> Reference | None:
        """The sweep's own reference corner, if it has one."""
        return self.record.corner

    def folder_of(self, trial: TrialResult) -> Path:
        """Where a trial's scores and weights lie."""
        return SweepPaths(self.folder).trial(trial.trial).folder


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """A trial's answers on one split: P points, N videos, C classes."""

    scores: NDArray[np.float64]
    """`[P, N, C]`"""
    gflops: NDArray[np.float64]
    """`[P, N]`"""
    targets: NDArray[np.float64]
    """`[N, C]`"""
    detections: tuple[tuple[tuple[Detection, ...], ...], ...] | None = None
    """Of localization: P points, N videos."""
    ground_truth: GroundTruth | None = None
    """Of localization: what the N videos' detections were measured against."""


def read_sweep(sweep: SweepPaths) -> SweepResults:
    """The sweep as its store has it now. Trials without a result (failed, still running) are left out.

    Raises `UsageError` if there is no such sweep (names those beside it), `DataError` for a damaged file.
    """
    sweep.refresh()
    record = known_record(sweep)
    trials = tuple(read_trial(trial.folder) for trial in sweep.with_result())
    confirmations = tuple(read_trial(trial.folder) for trial in sweep.confirmations())
    return SweepResults(
        record=record,
        folder=sweep.folder,
        trials=trials,
        confirmations=confirmations,
        failed_confirmations=failed_confirmations(sweep),
        stopped=stopped_trials(sweep),
    )


def read_trial(folder: Path) -> TrialResult:
    """The finished trial in `folder`. Raises `DataError` if it is damaged, `NonFiniteError` for NaN in it."""
    path = folder / RESULT_FILE
    return TrialResult.from_json(_read_json(path), str(path))


def find_trial(folder: Path) -> TrialResult | None:
    """As `read_trial`; None if there is no result, or half of one, for the trial can be run again.

    A whole one that cannot be understood is refused, not run over: a later version may have made it.
    """
    document = read_json_object(folder / RESULT_FILE)
    return None if document is None else TrialResult.from_json(document, str(folder / RESULT_FILE))


def read_scores(folder: Path, split: str, of: TrialResult | None = None) -> Scores:
    """The scores on `val` or `test` of the trial in `folder`.

    Arguments:
        of: the trial's result, where it is known: they must be of its points and classes.

    Raises `UsageError` for another split, `DataError` if they are damaged, of other shapes, or are such as nobody can
    measure (a cost below 0), `NonFiniteError` for NaN or infinity in them.
    """
    if split not in SPLITS:
        raise UsageError(f"unknown split: {split!r}", f"Allowed: {', '.join(SPLITS)}.")
    path = folder / SCORES_FILE
    check_readable(path)
    try:
        with safe_open(path, framework="np") as file:
            values = {name: file.get_tensor(f"{split}/{name}") for name in ("scores", "gflops", "targets")}
            arrays = {name: np.asarray(value, dtype=np.float64) for name, value in values.items()}
            _check_scores(path, split, arrays, of)
            found, ground_truth = _instances(file, split, *arrays["scores"].shape)
    except ParetovidError:
        raise
    except Exception as error:  # safetensors raises its own type, a subclass of Exception
        raise DataError(f"{path} cannot be read: {error}", _DAMAGED) from error
    return Scores(**arrays, detections=found, ground_truth=ground_truth)


def _check_scores(path: Path, split: str, arrays: Mapping[str, np.ndarray], of: TrialResult | None) -> None:
    """Raises `DataError` or `NonFiniteError` for what cannot have been measured, naming the array."""
    for name, values in arrays.items():
        if not np.isfinite(values).all():
            raise NonFiniteError(f"{path}: {split}/{name} holds NaN or infinite values", _DAMAGED)
    for name in ("gflops", "targets"):
        if (arrays[name] < 0).any():
            raise DataError(f"{path}: {split}/{name} holds {arrays[name].min():g}, below 0", _DAMAGED)
    shape = arrays["scores"].shape
    if (
        len(shape) != 3
        or 0 in shape
        or arrays["gflops"].shape != shape[:2]
        or arrays["targets"].shape != shape[1:]
    ):
        shapes = ", ".join(f"{name} {list(values.shape)}" for name, values in arrays.items())
        raise DataError(
            f"{path}: of {split}, {shapes} do not fit together; they are [points, videos, classes], "
            "[points, videos] and [videos, classes]",
            _DAMAGED,
        )
    if of is not None and (shape[0], shape[2]) != (len(of.points), len(of.data.classes)):
        raise DataError(
            f"{path} has scores of {shape[0]} points and {shape[2]} classes on {split}, {RESULT_FILE} has "
            f"{len(of.points)} and {len(of.data.classes)}",
            _DAMAGED,
        )


def _instances(
    file: Any, split: str, num_points: int, num_videos: int, num_classes: int
) -> tuple[tuple[tuple[tuple[Detection, ...], ...], ...] | None, GroundTruth | None]:
    """Detections of each point and what they were measured against, `(None, None)` of a trial that has none.

    Scores of earlier versions hold no ambiguous segments: those trials were measured without them.
    """
    names = set(file.keys())
    if f"{split}/events" not in names:
        return None, None

    def by_video(name: str, make: Any) -> tuple[tuple[Any, ...], ...]:
        videos: list[list[Any]] = [[] for _ in range(num_videos)]
        rows = file.get_tensor(name)
        if not np.isfinite(rows).all():
            raise ValueError(f"{name} holds NaN or infinite values")
        for video, *row in rows.tolist():
            if not 0 <= video < num_videos:
                raise ValueError(f"{name} is of a video {video:g}, of {num_videos}")
            videos[int(video)].append(make(*row))
        return tuple(tuple(found) for found in videos)

    def class_of(label: float) -> int:
        if not 0 <= label < num_classes:
            raise ValueError(f"an instance on {split} is of a class {label:g}, of {num_classes}")
        return int(label)

    def event(label: float, start: float, end: float, _: float) -> Event:
        return Event(label=class_of(label), start_seconds=start, end_seconds=end)

    def detection(label: float, start: float, end: float, score: float) -> Detection:
        return Detection(label=class_of(label), start_seconds=start, end_seconds=end, score=score)

    def segment(start: float, end: float) -> tuple[float, float]:
        return start, end

    points = tuple(by_video(f"{split}/detections/{i}", detection) for i in range(num_points))
    has_ambiguous = f"{split}/ambiguous" in names
    ambiguous = by_video(f"{split}/ambiguous", segment) if has_ambiguous else ((),) * num_videos
    return points, GroundTruth(events=by_video(f"{split}/events", event), ambiguous=ambiguous)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = parse_json(path.read_text())
    except PermissionError as error:
        raise unreadable(path, error) from error
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read: {error}",
            _DAMAGED,
        ) from error
    if not isinstance(data, dict):
        raise DataError(f"{path} holds a {type(data).__name__}, not an object", "Was it changed by hand?")
    return data
