"""What a sweep left on disk, as typed records: `sweeps/<sweep>/trials/<trial>/result.json` and its scores."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from paretovid.platform.home_paths import from_home
from paretovid.platform.storage.home import RESULT_FILE, SCORES_FILE, SweepPaths
from paretovid.trainables.data.dataset import Event
from paretovid.trainables.errors import DataError, NonFiniteError, UnknownNameError, UsageError, unknown_name
from paretovid.trainables.evaluation.detection import GroundTruth
from paretovid.trainables.evaluation.pareto import Reference
from paretovid.trainables.outcome import Detection

SPLITS = ("val", "test")
MAP = "map"
"""The objective of results that name none."""
_FURTHER = ("map_charades", "map_category_")
_OVERLAPS = "map_iou_"


def objective_text(objective: str) -> str:
    """What an objective is called in prose: `mAP`, `mAP@IoU 0.1:0.7`."""
    if objective == MAP:
        return "mAP"
    return f"mAP@IoU {objective.removeprefix(_OVERLAPS).replace('_', ':')}"


def knob_text(value: float | str, digits: int = 4) -> str:
    """A knob's value for people; some knobs are words."""
    return value if isinstance(value, str) else f"{value:.{digits}g}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """What one operating point reached on one split. Qualities are fractions.

    mAPs without an overlap and top-1 are of whole videos, also where the task is localization.
    """

    map: float
    map_present: float
    map_interpolated: float
    top1: float
    gflops: float
    gflops_std: float
    gflops_p95: float
    calls: dict[str, float]
    """Component to its mean calls per video."""
    usage_std_over_mean: float | None = None
    overlaps: dict[str, float] = field(default_factory=dict)
    """Of localization: mAP of the instances by overlap (`map_iou_0.5`) and its mean (`map_iou_0.1_0.7`)."""
    further: dict[str, float] = field(default_factory=dict)
    """Of sets with several labels a video: `map_charades`, `map_category_<name>`."""
    objective: str = MAP
    """The name of the quality that decides."""

    @property
    def quality(self) -> float:
        """The objective's value: what fronts, choices and gates go by."""
        return self.map if self.objective == MAP else self.overlaps[self.objective]

    def numbers(self) -> dict[str, float]:
        """The figures by name, without calls; those that were not measured left out."""
        names = ("map", "map_present", "map_interpolated", "top1", "gflops", "gflops_std", "gflops_p95")
        values = {name: getattr(self, name) for name in names} | self.overlaps | self.further
        if self.usage_std_over_mean is not None:
            values["usage_std_over_mean"] = self.usage_std_over_mean
        return values


@dataclass(frozen=True, kw_only=True, slots=True)
class PointRecord:
    """One operating point of a trial."""

    id: str
    index: int
    """Its place in the trial's scores."""
    natural: bool
    inference_knobs: dict[str, float | str]
    val: Measurement
    test: Measurement

    def on(self, split: str) -> Measurement:
        """The measurement on `val` or `test`."""
        return self.val if split == "val" else self.test


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRecord:
    """One finished trial."""

    trial: str
    sweep: str
    method: str
    objective: str
    """The name of the quality that decides: `map`, `map_iou_0.1_0.7`."""
    is_baseline: bool
    deployable: bool
    seed: int
    training_knobs: dict[str, float | str]
    model: dict[str, Any]
    seconds: float
    sources: dict[str, str]
    data: dict[str, Any]
    code_version: str
    costs: dict[str, dict[str, Any]]
    accounting: str
    training: dict[str, Any]
    points: tuple[PointRecord, ...]
    folder: Path
    extra: dict[str, Any]
    """Whatever else the trial wrote."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader of the result must know, such as a gate that collapsed."""
        return tuple(self.extra.get("remarks") or ())

    def natural_point(self) -> PointRecord:
        """The point with every inference knob at its default; the first if none is marked."""
        return next((point for point in self.points if point.natural), self.points[0])


def stated_reference(info: Mapping[str, Any]) -> Reference | None:
    """The reference corner in a sweep's `sweep.json`; None where it has stated none, as while it runs."""
    stated = info.get("reference") or {}
    if stated.get("gflops") is None:
        return None
    quality = next((value for name, value in stated.items() if name != "gflops"), 0.0)
    return Reference(quality=float(quality or 0.0), gflops=float(stated["gflops"]))


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepRecord:
    """One sweep and its finished trials, in the order of their names."""

    name: str
    folder: Path
    info: dict[str, Any]
    """The content of `sweep.json`."""
    trials: tuple[TrialRecord, ...]

    @property
    def reference(self) -> Reference | None:
        """The sweep's own reference corner, if it has stated one."""
        return stated_reference(self.info)


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
    truth: GroundTruth | None = None
    """Of localization: what the N videos' detections were measured against."""


def read_sweep(sweep: SweepPaths) -> SweepRecord:
    """The sweep as its store has it now. Trials without a result (failed, still running) are left out.

    Raises `UsageError` if there is no such sweep (names those beside it), `DataError` for a damaged file.
    """
    sweep.refresh()
    if not sweep.record.is_file():
        error = unknown_name("sweep", sweep.name, sweep.siblings())
        raise UnknownNameError(error.message, f"{error.hint} `paretovid sweeps` lists them.")
    info = from_home(_read_json(sweep.record), sweep.home_root)
    trials = tuple(read_trial(trial.folder) for trial in sweep.with_result())
    return SweepRecord(name=str(info.get("name", sweep.name)), folder=sweep.folder, info=info, trials=trials)


def read_trial(folder: Path) -> TrialRecord:
    """The finished trial in `folder`. Raises `DataError` if it is damaged, `NonFiniteError` for NaN in it."""
    path = folder / RESULT_FILE
    data = _read_json(path)
    try:
        return _trial(data, folder)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is not the result of a trial: {type(error).__name__} {error}",
            "Another version made it, or a hand changed it; run the sweep under another name=.",
        ) from error


def read_scores(trial: TrialRecord, split: str) -> Scores:
    """The trial's scores on `val` or `test`. `UsageError` for another split, `DataError` if damaged."""
    if split not in SPLITS:
        raise UsageError(f"unknown split: {split!r}", f"Allowed: {', '.join(SPLITS)}.")
    path = trial.folder / SCORES_FILE
    try:
        with safe_open(path, framework="np") as file:
            values = {name: file.get_tensor(f"{split}/{name}") for name in ("scores", "gflops", "targets")}
            found, truth = _instances(file, split, *values["scores"].shape[:2])
    except Exception as error:  # safetensors raises its own type, a subclass of Exception
        raise DataError(
            f"{path} cannot be read: {error}",
            "Remove the trial's folder and run the sweep under another name=.",
        ) from error
    arrays = {name: np.asarray(value, dtype=np.float64) for name, value in values.items()}
    return Scores(**arrays, detections=found, truth=truth)


def _instances(
    file: Any, split: str, num_points: int, num_videos: int
) -> tuple[tuple[tuple[tuple[Detection, ...], ...], ...] | None, GroundTruth | None]:
    """Detections of each point and what they were measured against, `(None, None)` of a trial that has none.

    Scores of earlier versions hold no ambiguous segments: those trials were measured without them.
    """
    names = set(file.keys())
    if f"{split}/events" not in names:
        return None, None

    def by_video(name: str, make: Any) -> tuple[tuple[Any, ...], ...]:
        videos: list[list[Any]] = [[] for _ in range(num_videos)]
        for video, *row in file.get_tensor(name).tolist():
            videos[int(video)].append(make(*row))
        return tuple(tuple(found) for found in videos)

    def event(label: float, start: float, end: float, _: float) -> Event:
        return Event(label=int(label), start_seconds=start, end_seconds=end)

    def detection(label: float, start: float, end: float, score: float) -> Detection:
        return Detection(label=int(label), start_seconds=start, end_seconds=end, score=score)

    def segment(start: float, end: float) -> tuple[float, float]:
        return start, end

    points = tuple(by_video(f"{split}/detections/{i}", detection) for i in range(num_points))
    has_ambiguous = f"{split}/ambiguous" in names
    ambiguous = by_video(f"{split}/ambiguous", segment) if has_ambiguous else ((),) * num_videos
    return points, GroundTruth(events=by_video(f"{split}/events", event), ambiguous=ambiguous)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read: {error}",
            "Remove the trial's folder and run the sweep under another name=.",
        ) from error
    if not isinstance(data, dict):
        raise DataError(f"{path} holds a {type(data).__name__}, not an object", "Was it changed by hand?")
    return data


def _measurement(data: Mapping[str, Any], objective: str, where: str) -> Measurement:
    usage = data.get("usage_std_over_mean")
    measured = Measurement(
        map=float(data["map"]),
        map_present=float(data["map_present"]),
        map_interpolated=float(data["map_interpolated"]),
        top1=float(data["top1"]),
        gflops=float(data["gflops"]),
        gflops_std=float(data["gflops_std"]),
        gflops_p95=float(data["gflops_p95"]),
        calls={str(name): float(count) for name, count in data["calls"].items()},
        usage_std_over_mean=None if usage is None else float(usage),
        overlaps={str(name): float(value) for name, value in data.items() if name.startswith(_OVERLAPS)},
        further={str(name): float(value) for name, value in data.items() if name.startswith(_FURTHER)},
        objective=objective,
    )
    _ = measured.quality  # a KeyError here says what the file lacks
    for name, value in measured.numbers().items():
        if not math.isfinite(value):
            raise NonFiniteError(
                f"{where}: {name} is {value}",
                "Remove the trial's folder and run the sweep under another name=.",
            )
    return measured


def _setting(data: Mapping[str, Any], method: str) -> dict[str, float | str]:
    values: dict[str, float | str] = {
        str(name): value if isinstance(value, str) else float(value) for name, value in data.items()
    }
    if values.get("max_gflops") and "cap_rule" not in values:
        # Before there was a rule, LiteEval's cap was what is now `cheap`, and HCMS's what is now `stop`.
        values["cap_rule"] = "cheap" if method in ("lite_eval", "random_gate") else "stop"
    return values


def _point(data: Mapping[str, Any], index: int, objective: str, method: str, where: str) -> PointRecord:
    return PointRecord(
        id=str(data["id"]),
        index=index,
        natural=bool(data.get("natural", False)),
        inference_knobs=_setting(data["inference_knobs"], method),
        val=_measurement(data["val"], objective, f"{where} {data['id']} val"),
        test=_measurement(data["test"], objective, f"{where} {data['id']} test"),
    )


_FIELDS = frozenset(TrialRecord.__dataclass_fields__) - {"points", "folder", "extra", "training", "objective"}


def _trial(data: Mapping[str, Any], folder: Path) -> TrialRecord:
    where = f"{data['sweep']}/{data['trial']}"
    objective = str(data.get("objective", MAP))
    points = tuple(
        _point(point, index, objective, str(data["method"]), where)
        for index, point in enumerate(data["points"])
    )
    if not points:
        raise DataError(
            f"{where} holds no operating point",
            "Remove the trial's folder and run the sweep under another name=.",
        )
    extra = {
        name: value
        for name, value in data.items()
        if name not in _FIELDS | {"points", "training", "objective"}
    }
    known = {name: data[name] for name in _FIELDS}
    return TrialRecord(
        **known,
        objective=objective,
        training=dict(data.get("training") or {}),
        points=points,
        folder=folder,
        extra=extra,
    )
