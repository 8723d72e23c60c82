"""A picture of what a model looked at in a video: its steps, what each read saw, and the prediction after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paretovid.trainables.data.partial_files import partial_file
from paretovid.trainables.data.videos import InputSpec, VideoReader

MOST_STEPS = 40
"""A longer video is drawn by as many of its steps: those that were looked at most closely, others in between."""
_THUMBNAIL = InputSpec(kind="frame", size=96)
_NOT_SEEN = ("none", "coarse", "audio")
"""Words for steps whose frame was not looked at, or only in passing."""
_COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2")


def draw_storyboard(
    video: str | Path, prediction: Mapping[str, Any], path: Path, *, ground_truth: str = ""
) -> None:
    """Writes a PNG for one prediction of `Recognizer.predict`.

    Arguments:
        prediction: its `details()`: `steps`, `looks` (what was read), `answers`, `labels`, `gflops`, `step_seconds`.
        ground_truth: the true labels, if they are known, for the title.

    Raises `VideoError` if the video cannot be read again.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    reads, answers = prediction["looks"], prediction["answers"]
    step_seconds = prediction["step_seconds"]
    with VideoReader(video, step_seconds=step_seconds) as reader:
        shown = _shown_steps(reader.num_steps, reads)
        frames = [reader.read(step, _THUMBNAIL) for step in shown]
    columns = {step: column for column, step in enumerate(shown)}
    sources = list(dict.fromkeys(read["source"] for read in reads))
    rows = max(len(answers), 1)
    height = 2.1 + 0.28 * len(sources) + 0.3 * rows
    figure = Figure(figsize=(max(7.0, 0.62 * len(shown) + 2.6), height), dpi=110)
    FigureCanvasAgg(figure)
    parts = figure.subplots(
        3, 1, sharex=True, height_ratios=[1.0, 0.28 * len(sources) + 0.1, 0.3 * rows + 0.2], squeeze=True
    )
    figure.subplots_adjust(
        left=1.7 / figure.get_figwidth(), right=0.985, top=1 - 0.42 / height, bottom=0.5 / height, hspace=0.08
    )
    _draw_frames(
        parts[0],
        frames,
        shown,
        {step for step, word in enumerate(prediction["steps"]) if word not in _NOT_SEEN},
    )
    _draw_reads(parts[1], reads, sources, columns)
    _draw_answers(parts[2], answers, columns)
    parts[2].set_xticks(range(len(shown)), [str(step) for step in shown], fontsize=7)
    parts[2].set_xlabel(f"step of the video ({step_seconds:g} s each)", fontsize=8)
    parts[2].set_xlim(-0.6, len(shown) - 0.4)
    best = prediction["labels"][0] if prediction["labels"] else {"label": "no answer", "score": 0.0}
    title = f"{Path(str(video)).name}: {best['label']} {best['score']:.2f}, {prediction['gflops']:.3g} GFLOPs"
    parts[0].set_title(
        title + (f" (ground truth: {ground_truth})" if ground_truth else ""), fontsize=9, loc="left"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with partial_file(path.with_name(f".{path.name}.partial")) as partial:
        figure.savefig(partial, format="png")
        partial.replace(path)


def _shown_steps(num_steps: int, reads: Sequence[Mapping[str, Any]]) -> list[int]:
    if num_steps <= MOST_STEPS:
        return list(range(num_steps))
    closely = dict.fromkeys(read["step"] for read in reads if read["source"] == _most_expensive(reads))
    spread = np.linspace(0, num_steps - 1, MOST_STEPS).round().astype(int).tolist()
    return sorted(list(dict.fromkeys([*closely, *spread]))[:MOST_STEPS])


def _most_expensive(reads: Sequence[Mapping[str, Any]]) -> str:
    """The source that was first asked for last: methods go from the cheap to the expensive."""
    return next(reversed(dict.fromkeys(read["source"] for read in reads)), "")


def _draw_frames(axes: Any, frames: Sequence[np.ndarray], shown: Sequence[int], looked: set[int]) -> None:
    for column, (frame, step) in enumerate(zip(frames, shown, strict=True)):
        extent = (column - 0.46, column + 0.46, 0.0, 1.0)
        axes.imshow(frame, extent=extent, aspect="auto", alpha=1.0 if step in looked else 0.3)
        if step in looked:
            axes.add_patch(_frame(extent))
    axes.set_ylim(-0.03, 1.03)
    axes.set_axis_off()


def _frame(extent: tuple[float, float, float, float]) -> Any:
    from matplotlib.patches import Rectangle

    left, right, bottom, top = extent
    return Rectangle(
        (left, bottom), right - left, top - bottom, fill=False, edgecolor=_COLOURS[1], linewidth=2
    )


def _draw_reads(
    axes: Any, reads: Sequence[Mapping[str, Any]], sources: Sequence[str], columns: Mapping[int, int]
) -> None:
    """One row per source, with the order in which its steps were looked at."""
    for row, source in enumerate(sources):
        mine = [read["step"] for read in reads if read["source"] == source]
        for order, step in enumerate(mine, start=1):
            if step in columns:
                colour = _COLOURS[row % len(_COLOURS)]
                axes.plot(columns[step], -row, "s", color=colour, markersize=11)
                axes.text(
                    columns[step], -row, str(order), ha="center", va="center", fontsize=6.5, color="white"
                )
    axes.set_yticks([-row for row in range(len(sources))], [f"{s} (order)" for s in sources], fontsize=8)
    axes.set_ylim(-len(sources) + 0.4, 0.6)
    axes.tick_params(length=0, labelbottom=False)
    axes.spines[:].set_visible(False)


def _draw_answers(axes: Any, answers: Sequence[Mapping[str, Any]], columns: Mapping[int, int]) -> None:
    """The walk from top to bottom: where each read was, and what was believed after it."""
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    if not answers:
        axes.set_yticks([0], ["one answer, at the end"], fontsize=8)
        axes.set_ylim(-0.5, 0.5)
        return
    answers = [answer for answer in answers if answer["step"] in columns]
    places = [columns[answer["step"]] for answer in answers]
    axes.plot(places, [-i for i in range(len(answers))], "-o", color="#777777", linewidth=1, markersize=4)
    last = max(columns.values())
    for i, (place, answer) in enumerate(zip(places, answers, strict=True)):
        is_right = place <= last * 0.6
        text = f"{answer['label']} {answer['score']:.2f}"
        axes.annotate(
            text,
            (place, -i),
            xytext=(6 if is_right else -6, 0),
            textcoords="offset points",
            ha="left" if is_right else "right",
            va="center",
            fontsize=7.5,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )
    axes.set_yticks(
        [-i for i in range(len(answers))], [f"after read {i + 1}" for i in range(len(answers))], fontsize=7
    )
    axes.set_ylim(-len(answers) + 0.4, 0.6)
