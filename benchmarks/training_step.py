"""What a training step costs beside what it computes: CPU seconds and operators of each recurrent method.

    python -m benchmarks training_step [--epochs 5] [--repeats 3] [--methods lite_eval,hcms] [--against CHECKOUT/src]

Every method trains as a trial does (features from disk, loss, gradients, optimizer), in its default configuration, on
random features of the built-in set's sizes. Beside it stands `nn.LSTM` of the sizes of its largest cell, forward and
backward over as many rows and steps, in the same process. With `--against` another version of the code takes turns
with this one. Each turn is a process of its own, on one core.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.harness.document import Layout
from benchmarks.harness.measurement import Measurement
from benchmarks.harness.reported import Document
from benchmarks.harness.tables import Cell, Shown
from paretovid.platform.config.load import load_sweep_config
from paretovid.trainables.backbones.catalog import component, family
from paretovid.trainables.catalog import build_method, method_class, method_config
from paretovid.trainables.context import TrialStopped
from paretovid.trainables.data.dataset import Dataset, VideoRecord, save_manifest
from paretovid.trainables.errors import UsageError, unknown_name
from paretovid.trainables.features.store import features_header, finish, write_shard
from paretovid.trainables.layers.recurrent import Cell as RecurrentCell
from paretovid.trainables.training.config import TrainingConfig, TrialConfig
from paretovid.trainables.trial import run_trial

CLASSES, VIDEOS, STEPS = 12, 400, (12, 20)
"""Of the built-in set: classes, training videos, and the least and most steps of one."""
METHODS: Mapping[str, tuple[str, str]] = {
    "lite_eval": ("lite_eval", ""),
    "random_gate": ("lite_eval", "random-gate"),
    "hcms": ("hcms", ""),
    "random_levels": ("hcms", "random-levels"),
    "early_fusion": ("hcms", "early-all-every-step"),
    "ada_frame": ("ada_frame", ""),
    "frame_glimpse": ("ada_frame", "frame-glimpse"),
    "fast_forward": ("ada_frame", "fast-forward"),
    "lstm": ("lite_eval", "lstm"),
    "lstm-memory": ("ada_frame", "lstm-memory"),
    "video_epitoma-lstm": ("video_epitoma", ""),
}
"""Row to the preset of a method, and which of its baselines, if one."""
CHANGES: Mapping[str, Mapping[str, Any]] = {
    # So that every step of the training does the same work.
    "lstm": {"training_frames": 0},
    "lstm-memory": {"training_frames": 0},
    "video_epitoma-lstm": {"classifier": "lstm"},
}
_SKIPPED_NAMES = (
    "as_strided as_strided_ view _unsafe_view reshape _reshape_alias slice select t transpose permute expand "
    "expand_as unsqueeze unsqueeze_ squeeze squeeze_ narrow split split_with_sizes chunk unbind detach detach_ "
    "alias flatten numpy_T movedim resolve_conj resolve_neg lift_fresh result_type to contiguous size view_as "
    "unflatten empty empty_strided empty_like new_empty resize_ is_nonzero item mT T diagonal"
)
SKIPPED = frozenset(_SKIPPED_NAMES.split())
"""Operators that only look at a tensor otherwise, ask for its properties, or reserve memory."""


def chosen(row: str) -> tuple[str, dict[str, Any], dict[str, str]]:
    """A row's method, its configuration, and source to component."""
    preset, baseline = METHODS[row]
    config = load_sweep_config([f"method={preset}"])
    name, model = config.method.name, config.method.model
    if baseline:
        (found,) = (each for each in config.baselines if each.name == baseline)
        name, model = found.method, found.model
    fields = {**dict(model), **CHANGES.get(row, {})}
    sources = method_class(name).sources_of(method_config(name, fields))
    components = family(config.backbones.by_method.get(preset, config.backbones.family))
    return name, fields, {source: components[source] for source in sources}


def write_features(folder: Path, components: Mapping[str, str]) -> tuple[Path, dict[str, str]]:
    """Random features of made-up videos, 0 to 1 as backbones give them: the data set's folder, and source to store."""
    generator = np.random.default_rng(0)
    splits = {"train": VIDEOS, "val": 1, "test": 1}
    records = tuple(
        VideoRecord(
            video_id=f"{split}{i}",
            path="none.mp4",
            split=split,
            labels=(int(generator.integers(CLASSES)),),
            num_steps=(steps := int(generator.integers(STEPS[0], STEPS[1] + 1))),
            duration_seconds=steps / 2,
        )
        for split, count in splits.items()
        for i in range(count)
    )
    dataset = Dataset(
        name="made_up",
        root=folder / "data",
        classes=tuple(f"class{i}" for i in range(CLASSES)),
        step_seconds=0.5,
        multi_label=False,
        records=records,
    )
    save_manifest(dataset)
    (dataset.root / "none.mp4").touch()
    stores = {}
    for source, name in components.items():
        store, width = folder / source, component(name).feature_width
        videos = {
            each.video_id: generator.random((each.num_steps, width), dtype=np.float32) for each in records
        }
        write_shard(store, 0, videos, asked=list(videos), skipped={}, width=width, dtype="float32")
        finish(store, features_header(dataset, name, "0" * 64, "float32"), 1)
        stores[source] = str(store)
    return dataset.root, stores


@final
class Clock:
    """A trial's context that notes CPU seconds at every step, profiles one, and ends the trial after some epochs.

    Arguments:
        epochs: measured, after one that warms up.
        steps: of an epoch.
    """

    rank, world_size = 0, 1
    device = torch.device("cpu")

    def __init__(self, epochs: int, steps: int) -> None:
        self._beats_per_epoch = steps + 1  # the loop asks once more at the end
        self._epochs, self._steps = epochs, steps
        self._seconds: list[float] = []
        self._profiler: profile | None = None
        self.operators = 0

    def heartbeat(self) -> bool:
        """True after the last epoch."""
        self._seconds.append(time.process_time())
        epoch, step = divmod(len(self._seconds), self._beats_per_epoch)
        if epoch > self._epochs and step == 1:
            self._profiler = profile(activities=[ProfilerActivity.CPU])
            self._profiler.start()
        elif self._profiler is not None:
            self._profiler.stop()
            self.operators, self._profiler = operators(self._profiler), None
        return epoch > self._epochs + 1

    def report(self, progress: Mapping[str, float], checkpoint: Path | None = None) -> None:
        """Nothing is kept."""

    def get_checkpoint(self) -> Path | None:
        """None: always from the start."""
        return None

    def seconds(self) -> list[float]:
        """CPU seconds of a step, mean over each measured epoch. The first one warmed up, the last was profiled."""
        ends = self._seconds[self._beats_per_epoch - 1 :: self._beats_per_epoch][: self._epochs + 1]
        return [(after - before) / self._steps for before, after in itertools.pairwise(ends)]


def operators(profiled: profile) -> int:
    """How many operators of ATen ran that are not in `SKIPPED`; of one that calls others, these."""

    def count(event: Any) -> int:
        inner = sum(count(child) for child in event.cpu_children)
        own = event.name.startswith("aten::") and event.name.removeprefix("aten::") not in SKIPPED
        return inner or int(own)

    return sum(count(event) for event in profiled.events() if event.cpu_parent is None)


def plain_lstm(
    row: str, fields: Mapping[str, Any], widths: Mapping[str, int], name: str, repeats: int
) -> list[float]:
    """CPU seconds of `nn.LSTM` of the sizes of the method's largest cell, forward and backward, a number per repeat."""
    method = build_method(name, fields, widths=widths, num_classes=CLASSES, multi_label=False)
    cells = [each.cell for each in method.modules() if isinstance(each, RecurrentCell)]
    largest = max(cells, key=lambda cell: cell.weight_ih.numel() + cell.weight_hh.numel())
    config = method_config(name, fields)
    videos = TrainingConfig().batch_size * getattr(config, "rollouts", 1)
    steps = config.steps if isinstance(getattr(config, "steps", None), int) else STEPS[1]
    lstm = nn.LSTM(largest.weight_ih.shape[1], largest.hidden_size, batch_first=True)
    inputs = torch.randn(videos, steps, lstm.input_size, requires_grad=True)

    def once() -> None:
        lstm.zero_grad()
        lstm(inputs)[0].sum().backward()

    found = []
    for _ in range(repeats + 1):
        began = time.process_time()
        for _ in range(10):
            once()
        found.append((time.process_time() - began) / 10)
    return found[1:]


def measure_row(row: str, epochs: int) -> dict[str, Any]:
    """One turn of one method: what this process's version of the code takes."""
    torch.set_num_threads(1)
    name, fields, components = chosen(row)
    training = TrainingConfig(epochs=40)
    clock = Clock(epochs, -(-VIDEOS // training.batch_size))
    with tempfile.TemporaryDirectory() as folder:
        root, stores = write_features(Path(folder), components)
        config = TrialConfig(
            sweep="training_step",
            trial=row,
            method=name,
            model=fields,
            training=training,
            dataset=str(root),
            features=stores,
            output=str(Path(folder) / "trial"),
        )
        with contextlib.suppress(TrialStopped):
            run_trial(config, clock)
    widths = {source: component(each).feature_width for source, each in components.items()}
    lstm = plain_lstm(row, fields, widths, name, epochs)
    return {"operators": clock.operators, "seconds": clock.seconds(), "lstm_seconds": lstm}


def in_turn(row: str, epochs: int, source: Path) -> dict[str, Any]:
    """`measure_row` in a process of its own that imports the package from `source`."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(source), str(Path(__file__).parents[1])])}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    answer = subprocess.run(
        [sys.executable, "-m", "benchmarks.training_step", row, str(epochs)],
        env={**environment, **threads},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    found: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return found


def measure(arguments: argparse.Namespace) -> Document:
    """Every chosen method in every turn, a row per turn and version of the code.

    Raises `UnknownNameError` for a method that is not listed, `UsageError` if nothing is at `--against`.
    """
    rows = arguments.methods.split(",") if arguments.methods else list(METHODS)
    for row in rows:
        if row not in METHODS:
            raise unknown_name("method", row, METHODS)
    sources = {"now": Path(__file__).parents[1] / "src"}
    if arguments.against is not None:
        if not (arguments.against / "paretovid").is_dir():
            raise UsageError(
                f"no paretovid in {arguments.against}", "Give the src folder of another checkout."
            )
        sources = {"before": arguments.against.absolute(), **sources}
    found: list[dict[str, Any]] = []
    for row in rows:
        for turn in range(arguments.repeats):
            for code, source in sources.items():
                took = in_turn(row, arguments.epochs, source)
                step, lstm = float(np.median(took["seconds"])), float(np.median(took["lstm_seconds"]))
                steps = TrainingConfig().epochs * -(-VIDEOS // TrainingConfig().batch_size)
                found.append(
                    {
                        "method": row,
                        "code": code,
                        "turn": turn,
                        "step_milliseconds": 1000 * step,
                        "training_seconds": steps * step,
                        "lstm_milliseconds": 1000 * lstm,
                        "ratio": step / lstm,
                        "operators": took["operators"],
                    }
                )
        print(row, flush=True)
    return {"torch": torch.__version__, "epochs": arguments.epochs, "steps": found}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How much is measured, and against what."""
    parser.add_argument("--epochs", type=int, default=5, help="measured per turn, after one that warms up")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each method")
    parser.add_argument("--methods", default="", help="names with commas between them; default: all")
    parser.add_argument("--against", type=Path, help="src folder of another checkout, which takes turns")


CELLS = (
    Cell("step_milliseconds", "CPU ms a step", digits=1, only_mean=True),
    Cell("training_seconds", "CPU s a training", digits=1, only_mean=True),
    Cell("lstm_milliseconds", "nn.LSTM, CPU ms", digits=1, only_mean=True),
    Cell("ratio", "times nn.LSTM", digits=2, only_mean=True),
    Cell("operators", "operators a step", digits=0, only_mean=True),
)
MEASUREMENTS = (
    Measurement(
        name="training_step",
        about="CPU seconds and operators of a training step of each recurrent method, beside nn.LSTM",
        measure=measure,
        arguments=add_arguments,
        alone=("torch", "epochs"),
        layouts={"steps": Layout("steps.*", ("",))},
        shown=(Shown("method, code", "steps", ("method", "code"), CELLS),),
        is_verbatim=True,
    ),
)

if __name__ == "__main__":
    print(json.dumps(measure_row(sys.argv[1], int(sys.argv[2]))))
