"""Throughput at paper sizes on one device: backbones, and a training step of each method.

    python benchmarks/gpu.py            on a GPU: everything, written to benchmarks/gpu_results.json
    python benchmarks/gpu.py --quick    on any device: two backbones and tiny batches, written nowhere

Every rate is the best of three rounds, beside the rate at which the same device multiplies large matrices in the same
precision in this very run: that is the peak that shares refer to. Inputs are random; features do not care.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from paretovid.platform.config.load import load_sweep_config
from paretovid.trainables.backbones.catalog import component, family, measure_component
from paretovid.trainables.backbones.paper import PAPER_SPECS
from paretovid.trainables.catalog import build_method, method_class, method_config
from paretovid.trainables.errors import ParetovidError
from paretovid.trainables.features.extract import STEPS_PER_BATCH, VALUES_PER_BATCH
from paretovid.trainables.outcome import Batch, Progress

RESULTS = Path(__file__).with_name("gpu_results.json")
PRECISIONS = ("float32", "bfloat16", "float16")
METHODS = {
    "lite_eval_paper_size": (128, 129),
    "ada_frame_paper_size": (64, 129),
    "hcms_paper_size": (128, 128),
    "video_epitoma_paper_size": (32, 32),
}
"""Preset to B and T, as the papers have them (a second a step, videos of ActivityNet; HCMS: 128 segments)."""
CLASSES = 200


def timed(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Seconds of one call, the best of three rounds of about `seconds` each."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    for _ in range(2):
        work()
    wait()
    best = float("inf")
    for _ in range(3):
        calls, began = 0, time.perf_counter()
        while calls == 0 or time.perf_counter() - began < seconds:
            work()
            calls += 1
            wait()
        best = min(best, (time.perf_counter() - began) / calls)
    return best


def lowered(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))


def peak(precision: str, device: torch.device, seconds: float) -> float:
    """Tera multiply-accumulates a second of a large matrix product."""
    size = 8192 if device.type == "cuda" else 1024
    dtype = getattr(torch, precision)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return size**3 / timed(lambda: a @ b, device, seconds) / 1e12


def backbone_rates(
    name: str, device: torch.device, peaks: dict[str, float], seconds: float
) -> dict[str, Any]:
    """Steps a second of one component, in the batches that extraction makes."""
    spec = component(name)
    count = max(1, min(STEPS_PER_BATCH, VALUES_PER_BATCH // int(np.prod(spec.input.shape))))
    inputs = torch.randint(0, 255, (count, *spec.input.shape), device=device, dtype=torch.uint8)
    if spec.input.kind == "logmel":
        inputs = torch.randn(count, *spec.input.shape, device=device)
    macs = measure_component(name, CLASSES).macs
    backbone = spec.build(CLASSES).to(device).eval()
    found: dict[str, Any] = {"gmacs": macs / 1e9, "batch": count}

    def look() -> None:
        with torch.inference_mode(), lowered(precision, device):
            backbone(inputs)

    for precision in peaks:
        per_second = count / timed(look, device, seconds)
        share = per_second * macs / 1e12 / peaks[precision]
        found[precision] = {"steps_per_second": per_second, "share_of_peak": share}
    return found


def training_rates(
    preset: str, shape: tuple[int, int], device: torch.device, precisions: tuple[str, ...], seconds: float
) -> dict[str, Any]:
    """Videos a second of a training step: loss, gradients, optimizer."""
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
    found: dict[str, Any] = {"B": count, "T": steps, "widths": widths}

    def step() -> None:
        optimizer.zero_grad()
        with lowered(precision, device):
            loss = method.loss(batch, Progress(1, 10)).total
        loss.backward()
        optimizer.step()

    for precision in precisions:
        try:
            found[precision] = {"videos_per_second": count / timed(step, device, seconds)}
        except (RuntimeError, ParetovidError) as error:
            found[precision] = {"error": str(error).splitlines()[0]}
    hidden = 512
    lstm = nn.LSTM(sum(widths.values()), hidden, batch_first=True).to(device)
    inputs = torch.cat(list(batch.features.values()), dim=-1)

    def plain() -> None:
        lstm.zero_grad()
        lstm(inputs)[0].sum().backward()

    found["nn.LSTM over the same features"] = {
        "hidden": hidden,
        "videos_per_second": count / timed(plain, device, seconds),
    }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a round")
    arguments = parser.parse_args()
    if not torch.cuda.is_available() and not arguments.quick:
        parser.error("no GPU is here; --quick tries the script on a CPU")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    seconds = 0.05 if arguments.quick else arguments.seconds
    precisions = PRECISIONS[:2] if arguments.quick else PRECISIONS
    peaks = {precision: peak(precision, device, seconds) for precision in precisions}
    names = [spec.name for spec in PAPER_SPECS]
    if arguments.quick:
        names = ["mobilenet_v2@112", "yamnet@64x96", "x3d_xs@4x160"]
    card = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    found: dict[str, Any] = {"device": card, "torch": torch.__version__, "peak_tmacs_per_second": peaks}
    found["backbones"] = {}
    for name in names:
        found["backbones"][name] = backbone_rates(name, device, peaks, seconds)
        print(name, json.dumps(found["backbones"][name]), flush=True)
        if not arguments.quick:
            RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    found["training"] = {}
    for preset, shape in METHODS.items():
        chosen = (4, 9) if arguments.quick else shape
        found["training"][preset] = training_rates(preset, chosen, device, precisions, seconds)
        print(preset, json.dumps(found["training"][preset]), flush=True)
    if not arguments.quick:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
