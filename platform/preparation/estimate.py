"""What features of a data set will take, before anything is made: arithmetic over its length and measured costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from paretovid.platform.config.resolve import PreparationPlan, SweepPlan
from paretovid.platform.storage.home import open_home
from paretovid.trainables.backbones.catalog import component
from paretovid.trainables.cost import ComponentCost
from paretovid.trainables.data.dataset import MANIFEST, load_dataset
from paretovid.trainables.data.readers.catalog import read_annotations
from paretovid.trainables.data.videos import count_steps
from paretovid.trainables.errors import DataError

_BYTES = {"float32": 4, "float16": 2}


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSize:
    """How much there is to look at."""

    videos: int
    steps: int | None
    """Of all videos; None: not known before they are looked at."""
    step_seconds: float
    source: str
    """Where this is known from, for people."""
    classes: int


def data_size(plan: PreparationPlan) -> DataSize | None:
    """From the manifest, the annotations or the settings, in this order; None: there is nothing yet to know it from.

    Raises `DataError` and `UsageError` for annotations that cannot be read.
    """
    data = plan.data
    wanted = data.settings or data.generated
    if (root := open_home(plan.config.home).data(data.name) / MANIFEST).is_file():
        try:
            made = load_dataset(root.parent)
        except DataError:  # half made: what it will be follows from the settings
            pass
        else:
            # Another length of steps makes the set anew.
            if wanted is None or wanted.step_seconds == made.step_seconds:
                return DataSize(
                    videos=len(made.records),
                    steps=sum(record.num_steps for record in made.records),
                    step_seconds=made.step_seconds,
                    source="as they are",
                    classes=len(made.classes),
                )
    if data.reader is not None and data.settings is not None:
        annotations = read_annotations(data.reader, data.settings)
        videos = annotations.videos
        lengths = [video.annotated_seconds for video in videos]
        known = [count_steps(length, data.settings.step_seconds) for length in lengths if length is not None]
        return DataSize(
            videos=len(videos),
            steps=sum(known) if len(known) == len(videos) else None,
            step_seconds=data.settings.step_seconds,
            source="by the annotations",
            classes=len(annotations.classes),
        )
    made_of = data.generated
    if made_of is None:
        return None
    count = sum(made_of.num_videos(split) for split in ("train", "val", "test"))
    mean = (made_of.min_seconds + made_of.max_seconds) / 2 / made_of.step_seconds
    return DataSize(
        videos=count,
        steps=round(count * mean),
        step_seconds=made_of.step_seconds,
        source="by the settings, about",
        classes=made_of.num_classes,
    )


def estimate(plan: SweepPlan, size: DataSize | None, costs: Mapping[str, ComponentCost]) -> list[str]:
    """Lines of a plan.

    Arguments:
        size: of the data set, if it is known.
        costs: source to the measured cost of one call.
    """
    if size is None:
        return ["how long its videos are is known once they are there"]
    if size.steps is None:
        return [f"{size.videos:,} videos ({size.source}), whose length is known once they are looked at"]
    per_step = sum(cost.gmacs for cost in costs.values())
    config, read = plan.config, plan.method.sources
    of_method = sum(costs[source].gmacs for source in read)
    mean = size.steps / max(1, size.videos)
    widths = [_width(name, size.classes) for name in plan.preparation.backbones.components.values()]
    gigabytes = size.steps * sum(widths) * _BYTES[config.backbones.dtype] / 1e9
    total = size.steps * per_step
    at_once = f"{size.videos:,} videos, {size.steps:,} steps of {size.step_seconds:g} s ({size.source})"
    # Devices are rated in operations of which a multiply-accumulate is two.
    seconds = 2 * total / 1000
    return [
        f"{at_once}; once, for all trials:",
        f"  every source at every step   {_large(total)}FLOPs; {_time(seconds)} of a device that reaches 1 TFLOP/s "
        "(its makers count two for one of ours), and decoding",
        f"  features on disk           {gigabytes:.3g} GB of {config.backbones.dtype}",
        *(["  fine-tuning              comes before it"] if config.backbones.fine_tune else []),
        f"all reads of {config.method.name} ({', '.join(read)}) of a video of {mean:.4g} steps are "
        f"{mean * of_method:.4g} GFLOPs, which it is there to save",
    ]


def _width(name: str, classes: int) -> int:
    spec = component(name)
    return classes if spec.classifies else spec.feature_width


def _large(gflops: float) -> str:
    names = ["G", "T", "P", "E"]
    place = min(len(names) - 1, max(0, int(math.log10(max(1.0, gflops)) // 3)))
    return f"{gflops / 1000**place:.3g} {names[place]}"


def _time(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"
