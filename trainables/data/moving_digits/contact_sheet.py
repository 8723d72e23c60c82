"""A picture of a video set: one video per class, how each step looks and sounds, where the evidence is."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from paretovid.trainables.data.dataset import Dataset, VideoRecord
from paretovid.trainables.data.moving_digits.placing import matters
from paretovid.trainables.data.partial_files import partial_file
from paretovid.trainables.data.videos import InputSpec, read_all_steps
from paretovid.trainables.errors import DataError

_FINE, _COARSE, _SOUND = 64, 40, 24  # heights of the three strips of a class, pixels
_GAP, _LABEL, _TITLE = 4, 150, 22
_ROW = _FINE + _COARSE + _SOUND + 3 * _GAP
_MARK = (255, 150, 0)
_SPECS = {
    "fine": InputSpec(kind="frame", size=64),
    "coarse": InputSpec(kind="frame", size=16),
    "sound": InputSpec(kind="logmel", size=24, num_frames=24),
}


def contact_sheet(dataset: Dataset, path: Path, *, split: str = "test", max_steps: int = 16) -> None:
    """Write a PNG: per class one video as 64-pixel frames, as 16-pixel frames, and as sound; evidence framed.

    Arguments:
        max_steps: a longer video is cut there; of each class the video with most evidence before it is shown.

    Raises DataError when the split has no video of any class, VideoError when a video cannot be read.
    """
    chosen = {label: _choose(dataset, label, split, max_steps) for label in range(len(dataset.classes))}
    shown = {label: record for label, record in chosen.items() if record is not None}
    if not shown:
        raise DataError(f"split {split} of {dataset.name} has no videos", "Choose another split.")
    steps = min(max_steps, max(record.num_steps for record in shown.values()))
    sheet = Image.new("RGB", (_LABEL + steps * (_FINE + _GAP), _TITLE + _ROW * len(shown)), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=13)
    title = "each class: frames at 64 pixels, at 16 pixels, and sound (log-mel), one column per step; "
    draw.text((_GAP, 3), title + "orange: evidence", fill="black", font=font)
    for place, (label, record) in enumerate(shown.items()):
        top = _TITLE + place * _ROW
        group = dataset.class_groups.get(dataset.classes[label], "")
        draw.text((_GAP, top + 8), f"{dataset.classes[label]}\n({group})", fill="black", font=font)
        _draw_rows(sheet, dataset, record, top, steps, rows=1)
    _save(sheet, path)


def video_sheet(dataset: Dataset, records: Sequence[VideoRecord], path: Path, *, columns: int = 24) -> None:
    """Write a PNG of whole videos, each in rows of `columns` steps; the strips and the frames are a contact sheet's.

    Raises VideoError when a video cannot be read.
    """
    rows = [math.ceil(record.num_steps / columns) for record in records]
    sheet = Image.new("RGB", (_LABEL + columns * (_FINE + _GAP), _TITLE + _ROW * sum(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=13)
    title = (
        "whole videos, row by row: frames at 64 pixels, at 16 pixels, and sound; orange: steps that matter"
    )
    draw.text((_GAP, 3), title, fill="black", font=font)
    for place, record in enumerate(records):
        top = _TITLE + _ROW * sum(rows[:place])
        names = ", ".join(dataset.classes[label] for label in record.labels)
        draw.text((_GAP, top + 8), f"{names}\n({record.num_steps} steps)", fill="black", font=font)
        _draw_rows(sheet, dataset, record, top, columns, rows=rows[place])
    _save(sheet, path)


def _save(sheet: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with partial_file(path.with_name(f".{path.name}.{os.getpid()}.tmp")) as partial:
        sheet.quantize(128).save(partial, format="PNG", optimize=True)
        partial.replace(path)


def _choose(dataset: Dataset, label: int, split: str, max_steps: int) -> VideoRecord | None:
    videos = [record for record in dataset.split(split) if label in record.labels]
    return max(videos, key=lambda record: (record.step_labels or ())[:max_steps].count(label), default=None)


def _draw_rows(
    sheet: Image.Image, dataset: Dataset, record: VideoRecord, top: int, columns: int, *, rows: int
) -> None:
    """Draws a video's first `rows * columns` steps, the first row at `top` pixels."""
    views = read_all_steps(dataset.video_path(record), _SPECS, step_seconds=dataset.step_seconds)
    low, high = views["sound"].min(), max(views["sound"].max(), views["sound"].min() + 1e-6)
    groups = [dataset.class_groups.get(name, "") for name in dataset.classes]
    marked = matters(record.step_labels or (), record.labels, groups)
    draw = ImageDraw.Draw(sheet)
    for step in range(min(rows * columns, len(views["fine"]))):
        left, row_top = _LABEL + step % columns * (_FINE + _GAP), top + step // columns * _ROW
        if step < len(marked) and marked[step]:
            box = (left - 3, row_top - 3, left + _FINE + 2, row_top + _FINE + _COARSE + _SOUND + 2)
            draw.rectangle(box, outline=_MARK, width=3)
        sheet.paste(Image.fromarray(views["fine"][step]), (left, row_top))
        coarse = Image.fromarray(views["coarse"][step]).resize((_COARSE, _COARSE), Image.Resampling.NEAREST)
        sheet.paste(coarse, (left + (_FINE - _COARSE) // 2, row_top + _FINE))
        heard = 255 * (views["sound"][step][::-1] - low) / (high - low)
        picture = Image.fromarray(heard.astype(np.uint8)).resize((_FINE, _SOUND))
        sheet.paste(picture, (left, row_top + _FINE + _COARSE))
