"""Throughput at paper sizes on one device: backbones, and a training step of each method.

    python -m benchmarks gpu                         on a GPU: everything
    python -m benchmarks gpu --quick --print-only    on any device: three backbones and tiny batches, written nowhere

Three rounds of everything, a row each; shares refer to the rate at which the same device multiplies large matrices in
the same precision in this very run. Inputs are random; features do not care.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.harness.document import Layout
from benchmarks.harness.measurement import Measurement
from benchmarks.harness.reported import Document
from benchmarks.harness.tables import Cell, Shown
from paretovid.platform.config.load import load_sweep_config
from paretovid.trainables.backbones.catalog import component, family, measure_component
from paretovid.trainables.backbones.paper import PAPER_SPECS
from paretovid.trainables.catalog import build_method, method_class, method_config
from paretovid.trainables.errors import ParetovidError, UsageError
from paretovid.trainables.features.extract import STEPS_PER_BATCH, VALUES_PER_BATCH
from paretovid.trainables.outcome import Batch, Progress

PRECISIONS = ("float32", "bfloat16", "float16")
METHODS = {
    "lite_eval_paper_size": (128, 129),
    "ada_frame_paper_size": (64, 129),
    "hcms_paper_size": (128, 128),
    "video_epitoma_paper_size": (32, 32),
}
"""Preset to B and T, as the papers have them (a second a step, videos of ActivityNet; HCMS: 128 segments)."""
CLASSES = 200
LSTM_UNITS = 512
QUICK_SECONDS, QUICK_SHAPE = 0.05, (4, 9)
QUICK_BACKBONES = ("mobilenet_v2@112", "yamnet@64x96", "x3d_xs@4x160")


def timed(work: Callable[[], object], device: torch.device, seconds: float) -> list[float]:
    """Seconds of one call, in each of three rounds of about `seconds`."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    for _ in range(2):
        work()
    wait()
    rounds = []
    for _ in range(3):
        calls, began = 0, time.perf_counter()
        while calls == 0 or time.perf_counter() - began < seconds:
            work()
            calls += 1
            wait()
        rounds.append((time.perf_counter() - began) / calls)
    return rounds


def lowered(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Autocast to the precision."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))


def peak(precision: str, device: torch.device, seconds: float) -> list[float]:
    """Tera multiply-accumulates a second of a large matrix product, in each round."""
    size = 8192 if device.type == "cuda" else 1024
    dtype = getattr(torch, precision)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return [size**3 / each / 1e12 for each in timed(lambda: a @ b, device, seconds)]


def backbone_rates(
    name: str, device: torch.device, peaks: Mapping[str, float], seconds: float
) -> list[dict[str, Any]]:
    """Steps a second of one component, in the batches that extraction makes; a row per precision and round."""
    spec = component(name)
    count = max(1, min(STEPS_PER_BATCH, VALUES_PER_BATCH // int(np.prod(spec.input.shape))))
    inputs = torch.randint(0, 255, (count, *spec.input.shape), device=device, dtype=torch.uint8)
    if spec.input.kind == "logmel":
        inputs = torch.randn(count, *spec.input.shape, device=device)
    macs = measure_component(name, CLASSES).macs
    backbone = spec.build(CLASSES).to(device).eval()
    rows = []
    for precision, best in peaks.items():

        def look(precision: str = precision) -> None:
            with torch.inference_mode(), lowered(precision, device):
                backbone(inputs)

        for number, each in enumerate(timed(look, device, seconds)):
            rate = count / each
            about = {"component": name, "gmacs": macs / 1e9, "batch": count, "precision": precision}
            share = rate * macs / 1e12 / best
            rows.append({**about, "round": number, "steps_per_second": rate, "share_of_peak": share})
    return rows


def training_rates(
    preset: str, shape: tuple[int, int], device: torch.device, precisions: Sequence[str], seconds: float
) -> list[dict[str, Any]]:
    """Videos a second of a training step (loss, gradients, optimizer), and of an LSTM of PyTorch over the same
    features; a row per precision and round.

    Arguments:
        shape: B and T.
    """
    config = load_sweep_config([f"method={preset}", "backbones=paper", "backbones.weights=random"])
    name, fields = config.method.name, dict(config.method.model)
    sources = method_class(name).sources_of(method_config(name, fields))
    components = family(config.backbones.family)
    widths = {source: component(components[source]).feature_width for source in sources}
    torch.manual_seed(0)
    method = build_method(name, fields, widths=widths, num_classes=CLASSES, multi_label=False).to(device)
    count, steps = shape
    batch = Batch(
        features={s: torch.randn(count, steps, width, device=device) for s, width in widths.items()},
        mask=torch.ones(count, steps, dtype=torch.bool, device=device),
        targets=nn.functional.one_hot(torch.arange(count, device=device) % CLASSES, CLASSES).float(),
        video_keys=torch.arange(count, device=device),
    )
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-4)
    rows: list[dict[str, Any]] = []

    def add(what: str, precision: str, rounds: Iterable[float]) -> None:
        about = {"preset": preset, "what": what, "B": count, "T": steps, "precision": precision}
        rows.extend(
            {**about, "round": number, "videos_per_second": count / each}
            for number, each in enumerate(rounds)
        )

    for precision in precisions:

        def step(precision: str = precision) -> None:
            optimizer.zero_grad()
            with lowered(precision, device):
                loss = method.loss(batch, Progress(1, 10)).total
            loss.backward()
            optimizer.step()

        try:
            add("training step", precision, timed(step, device, seconds))
        except (ParetovidError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            rows.append({"preset": preset, "what": "training step", "precision": precision, "error": reason})
    lstm = nn.LSTM(sum(widths.values()), LSTM_UNITS, batch_first=True).to(device)
    inputs = torch.cat(list(batch.features.values()), dim=-1)

    def plain() -> None:
        lstm.zero_grad()
        lstm(inputs)[0].sum().backward()

    add(f"nn.LSTM, {LSTM_UNITS} units", "float32", timed(plain, device, seconds))
    return rows


def measure(arguments: argparse.Namespace) -> Document:
    """Peaks, backbones and training steps.

    Raises `UsageError` without a GPU, and for quick figures that would be kept.
    """
    is_quick = arguments.quick
    if is_quick and not arguments.print_only:
        raise UsageError(
            "--quick only tries whether this runs", "Its figures are not kept: add --print-only."
        )
    if not torch.cuda.is_available() and not is_quick:
        raise UsageError("no GPU is here", "Try the measurement on a CPU: --quick --print-only.")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    seconds = QUICK_SECONDS if is_quick else arguments.seconds
    precisions = PRECISIONS[:2] if is_quick else PRECISIONS
    peaks = {precision: peak(precision, device, seconds) for precision in precisions}
    best = {precision: max(rounds) for precision, rounds in peaks.items()}
    names = QUICK_BACKBONES if is_quick else tuple(spec.name for spec in PAPER_SPECS)
    backbones, training = [], []
    for name in names:
        backbones += backbone_rates(name, device, best, seconds)
        print(name, flush=True)
    for preset, shape in METHODS.items():
        training += training_rates(preset, QUICK_SHAPE if is_quick else shape, device, precisions, seconds)
        print(preset, flush=True)
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "torch": torch.__version__,
        "peaks": {
            precision: [{"round": number, "tmacs_per_second": rate} for number, rate in enumerate(rounds)]
            for precision, rounds in peaks.items()
        },
        "backbones": backbones,
        "training": training,
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How long, and whether it is only a try."""
    parser.add_argument("--quick", action="store_true", help="a try on any device, with --print-only")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a round")


MEASUREMENTS = (
    Measurement(
        name="gpu",
        about="throughput of backbones and of training steps at the papers' sizes, on a GPU",
        measure=measure,
        arguments=add_arguments,
        alone=("device", "torch"),
        layouts={
            "peaks": Layout("peaks.*.*", ("precision", "")),
            "backbones": Layout("backbones.*", ("",)),
            "training": Layout("training.*", ("",)),
        },
        shown=(
            Shown("peak", "peaks", ("precision",), (Cell("tmacs_per_second"),)),
            Shown(
                "component, precision",
                "backbones",
                ("component", "precision"),
                (Cell("steps_per_second", digits=1), Cell("share_of_peak", percent=True)),
            ),
            Shown(
                "method, what, precision",
                "training",
                ("preset", "what", "precision"),
                (Cell("videos_per_second", digits=1),),
            ),
        ),
    ),
)
