"""A picture of what a model of localization found in a video: frames, activations, who judged which clip, instances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paretovid.trainables.data.dataset import Event
from paretovid.trainables.data.partial_files import partial_file
from paretovid.trainables.data.videos import InputSpec, VideoReader

MOST_FRAMES = 40
"""A longer video is shown by as many of its clips, at even distances."""
_THUMBNAIL = InputSpec(kind="frame", size=96)
_APPEARANCE, _MOTION, _NEUTRAL, _GROUND_TRUTH = "#4c78a8", "#f58518", "#555555", "#54a24b"
_LINES = {"appearance": _APPEARANCE, "motion": _MOTION}


def draw_timeline(
    video: str | Path,
    prediction: Mapping[str, Any],
    path: Path,
    *,
    ground_truth: Sequence[Event] | None = None,
    classes: Sequence[str] = (),
    disparity: Sequence[float] | None = None,
) -> None:
    """Writes a PNG for one prediction of `Recognizer.predict`.

    Arguments:
        prediction: its `details()`: `timeline`, `instances`, `steps`, `labels`, `gflops`, `step_seconds`.
        ground_truth: true instances, if they are known; `classes` then names their labels.
        disparity: D per step, if both models were asked everywhere.

    Raises `VideoError` if the video cannot be read again.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    step_seconds, timeline = prediction["step_seconds"], prediction["timeline"]
    with VideoReader(video, step_seconds=step_seconds) as reader:
        count = reader.num_steps
        shown = sorted(set(np.linspace(0, count - 1, min(count, MOST_FRAMES)).round().astype(int).tolist()))
        frames = [reader.read(step, _THUMBNAIL) for step in shown]
    rows = _rows(prediction["instances"], ground_truth, classes)
    height = 4.0 + 0.24 * len(rows)
    figure = Figure(figsize=(max(8.0, 0.42 * min(count, MOST_FRAMES) + 2.6), height), dpi=110)
    FigureCanvasAgg(figure)
    pictures, lines, chosen, spans = figure.subplots(
        4, 1, sharex=True, height_ratios=[0.9, 1.6, 0.35, 0.24 * len(rows) + 0.1], squeeze=True
    )
    figure.subplots_adjust(
        left=2.3 / figure.get_figwidth(), right=0.985, top=1 - 0.38 / height, bottom=0.5 / height, hspace=0.1
    )
    width = count * step_seconds / len(shown)
    for place, frame in enumerate(frames):
        pictures.imshow(frame, extent=(place * width, (place + 0.96) * width, 0, 1), aspect="auto")
    pictures.set_axis_off()
    _draw_lines(lines, timeline, disparity, step_seconds)
    _draw_choice(chosen, prediction["steps"], step_seconds)
    _draw_spans(spans, rows)
    spans.set_xlim(0, count * step_seconds)
    spans.set_xlabel("seconds", fontsize=8)
    best = f"{timeline['label']} {prediction['labels'][0]['score']:.2f}"
    title = f"{Path(str(video)).name}: {best}, {prediction['gflops']:.3g} GFLOPs"
    pictures.set_title(title, fontsize=9, loc="left")
    path.parent.mkdir(parents=True, exist_ok=True)
    with partial_file(path.with_name(f".{path.name}.partial")) as partial:
        figure.savefig(partial, format="png")
        partial.replace(path)


Row = tuple[str, str, list[tuple[float, float, float]]]
"""Name, colour, and start, end and opacity of each interval."""


def _rows(
    instances: Sequence[Mapping[str, Any]], ground_truth: Sequence[Event] | None, classes: Sequence[str]
) -> list[Row]:
    rows: list[Row] = []
    if ground_truth is not None:
        for label in sorted({event.label for event in ground_truth}):
            spans = [(e.start_seconds, e.end_seconds, 1.0) for e in ground_truth if e.label == label]
            rows.append((f"true: {classes[label]}", _GROUND_TRUTH, spans))
    for label in dict.fromkeys(each["label"] for each in instances):
        spans = [
            (each["start_seconds"], each["end_seconds"], 0.15 + 0.85 * min(1.0, max(0.0, each["score"])))
            for each in instances
            if each["label"] == label
        ]
        rows.append((f"found: {label}", _MOTION, spans))
    return rows[:12] or [("found: nothing", _NEUTRAL, [])]


def _draw_lines(
    axes: Any, timeline: Mapping[str, Any], disparity: Sequence[float] | None, step_seconds: float
) -> None:
    """Activations of the video's best class, and what was made of them."""

    def middle(values: Sequence[Any]) -> list[float]:
        return [(step + 0.5) * step_seconds for step in range(len(values))]

    for name, colour in _LINES.items():
        values = timeline.get(name)
        if values is not None:
            known = [np.nan if value is None else value for value in values]
            axes.plot(middle(known), known, "-o", color=colour, markersize=3, linewidth=1.2, label=name)
    if timeline.get("appearance") is None:
        values = timeline["activations"]
        axes.plot(middle(values), values, "-o", color=_NEUTRAL, markersize=3, label="activation")
    if timeline.get("confidence") is not None:
        values = timeline["confidence"]
        axes.plot(
            middle(values), values, ":", color=_NEUTRAL, linewidth=1.2, label="confidence in appearance"
        )
    if disparity is not None:
        axes.bar(
            middle(disparity),
            disparity,
            width=0.8 * step_seconds,
            color="#bbbbbb",
            alpha=0.5,
            label="disparity",
        )
    axes.set_ylim(-0.04, 1.04)
    axes.set_ylabel(str(timeline["label"]), fontsize=8)
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=7, frameon=False, loc="upper right", ncols=4)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_choice(axes: Any, steps: Sequence[str], step_seconds: float) -> None:
    words = [word for word in dict.fromkeys(steps) if word != "none"]
    for step, word in enumerate(steps):
        if word != "none":
            colour = _APPEARANCE if word == "appearance" else _MOTION
            axes.barh(0, step_seconds, left=step * step_seconds, color=colour, edgecolor="white", height=0.8)
    axes.set_yticks([0], [f"judged by {' or '.join(sorted(words))}"], fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _draw_spans(axes: Any, rows: Sequence[Row]) -> None:
    for place, (_, colour, spans) in enumerate(rows):
        for start, end, opacity in spans:
            axes.barh(-place, end - start, left=start, color=colour, alpha=opacity, height=0.7)
    axes.set_yticks([-place for place in range(len(rows))], [name for name, _, _ in rows], fontsize=8)
    axes.set_ylim(-len(rows) + 0.4, 0.6)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=7)
    axes.spines[["top", "right", "left"]].set_visible(False)
