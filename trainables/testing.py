"""Features, methods and results for tests, made without a video.

`synthetic_split` makes features with known structure (needles of evidence in a hay of noise, and a cheap
source that says where they are but not what), so that a check takes milliseconds and needs no video. It is
for tests only: no result of the platform is ever made from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from paretovid.trainables.catalog import build_method, method_class, method_config
from paretovid.trainables.cost import ComponentCost, CostTable, deterministic_eval
from paretovid.trainables.documents import JsonObject
from paretovid.trainables.evaluation.results import DataReference, OperatingPoint, TrialResult
from paretovid.trainables.features.store import FeatureSplit
from paretovid.trainables.measurement import MAP, Metrics
from paretovid.trainables.method import (
    Method,
    UsesSourceInfo,
)
from paretovid.trainables.outcome import Batch, Outcome, Progress, Setting, SourceInfo
from paretovid.trainables.provider import FeatureProvider, VideoProvider

NUM_CLASSES = 4
WIDTHS = {"coarse": 8, "fine": 16, "motion": 24, "audio": 8, "appearance": 12, "flow": 20, "difference": 16}
POOL_SIGNAL = {"xs": 0.5, "s": 1.0, "m": 2.0, "l": 4.0}
"""Of models that classify: how far their logits of the true class stand out at a needle of evidence."""
WIDTHS |= dict.fromkeys(POOL_SIGNAL, NUM_CLASSES)
COMPONENTS = {source: f"synthetic_{source}@1" for source in WIDTHS}
MACS = {
    **{"coarse": 100_000, "fine": 10_000_000, "motion": 50_000_000, "audio": 50_000},
    **{"appearance": 4_000_000, "flow": 40_000_000, "difference": 20_000_000},
    **{"xs": 1_000_000, "s": 3_000_000, "m": 9_000_000, "l": 27_000_000},
}
SOURCE_INFO = {source: SourceInfo(gmacs=macs / 1e9, video_share=0.5) for source, macs in MACS.items()}


def synthetic_split(
    num_videos: int = 6,
    max_steps: int = 9,
    num_classes: int = NUM_CLASSES,
    seed: int = 0,
    multi_label: bool = False,
) -> FeatureSplit:
    """Features of `num_videos` videos of unequal length (one of a single step), zero at padded steps."""
    generator = torch.Generator().manual_seed(seed)
    codes = {
        s: torch.randn(num_classes, w, generator=torch.Generator().manual_seed(7)) for s, w in WIDTHS.items()
    }
    labels = torch.randint(num_classes, (num_videos,), generator=generator)
    num_steps = torch.randint(2, max_steps + 1, (num_videos,), generator=generator)
    num_steps[0], num_steps[-1] = max_steps, 1
    mask = torch.arange(max_steps) < num_steps[:, None]
    needle = torch.rand(num_videos, max_steps, generator=generator) < 0.3
    needle[:, 0] |= num_steps == 1
    features = {}
    for source, width in WIDTHS.items():
        signal = torch.ones(1, width) if source == "coarse" else codes[source][labels]
        if source in POOL_SIGNAL:
            signal = POOL_SIGNAL[source] * torch.nn.functional.one_hot(labels, width)
        noise = 0.5 * torch.randn(num_videos, max_steps, width, generator=generator)
        features[source] = (noise + needle[..., None] * signal[:, None]) * mask[..., None]
    targets = torch.nn.functional.one_hot(labels, num_classes).float()
    if multi_label:
        targets[torch.arange(num_videos), (labels + 1) % num_classes] = 1.0
    return FeatureSplit(
        features=features,
        mask=mask,
        num_steps=num_steps,
        targets=targets,
        video_keys=torch.arange(num_videos) * 7919 + 13,
        video_ids=tuple(f"video{i}" for i in range(num_videos)),
    )


def synthetic_method(
    name: str,
    fields: Mapping[str, Any] | None = None,
    num_classes: int = NUM_CLASSES,
    multi_label: bool = False,
    seed: int = 0,
) -> Method:
    """A method with fresh weights over the synthetic sources."""
    fields = dict(fields or {})
    sources = method_class(name).sources_of(method_config(name, fields))
    torch.manual_seed(seed)
    method = build_method(
        name,
        fields,
        widths={source: WIDTHS[source] for source in sources},
        num_classes=num_classes,
        multi_label=multi_label,
    )
    if isinstance(method, UsesSourceInfo):
        method.use_source_info({source: SOURCE_INFO[source] for source in sources})
    return method


def synthetic_costs(method: Method) -> CostTable:
    """Costs of the synthetic sources and of the method's own components."""
    sources = {
        COMPONENTS[s]: ComponentCost(macs=macs, input="synthetic", provenance="made up")
        for s, macs in MACS.items()
    }
    return CostTable({**sources, **method.component_costs()})


def run_cached(
    method: Method, split: FeatureSplit, setting: Setting, costs: CostTable | None = None
) -> Outcome:
    """A run over cached features.

    Arguments:
        costs: the method's `synthetic_costs`, if they are at hand: measuring them takes longer than a run.
    """
    provider = FeatureProvider(
        split.features,
        num_steps=split.num_steps,
        video_keys=split.video_keys,
        components=COMPONENTS,
        costs=costs or synthetic_costs(method),
        targets=split.targets,
    )
    with deterministic_eval(method):
        return method.run(provider, setting)


def run_one_by_one(
    method: Method, split: FeatureSplit, setting: Setting, costs: CostTable | None = None
) -> list[Outcome]:
    """A run over each video alone, through the provider of raw videos, with features on demand.

    Arguments:
        costs: as for `run_cached`.
    """
    outcomes = []
    costs = costs or synthetic_costs(method)
    for i in range(len(split.num_steps)):

        def compute(source: str, step: int, i: int = i) -> Tensor:
            return split.features[source][i, step]

        provider = VideoProvider(
            compute,
            widths=WIDTHS,
            num_steps=int(split.num_steps[i]),
            video_key=int(split.video_keys[i]),
            components=COMPONENTS,
            costs=costs,
        )
        with deterministic_eval(method):
            outcomes.append(method.run(provider, setting))
    return outcomes


def train_briefly(
    method: Method, split: FeatureSplit, steps: int = 20, learning_rate: float = 1e-2
) -> list[float]:
    """A few steps of training on one batch; returns the losses, none for a method without parameters."""
    if not any(True for _ in method.parameters()):
        return []
    batch = Batch(split.features, split.mask, split.targets, split.video_keys)
    optimizer = torch.optim.Adam(method.parameters(), lr=learning_rate)
    losses = []
    torch.manual_seed(0)
    for step in range(steps):
        loss = method.loss(batch, Progress(step, steps))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append(float(loss.total.detach()))
    return losses


def synthetic_metrics(
    quality: float = 0.5,
    gflops: float = 1.0,
    *,
    objective: str = MAP,
    calls: Mapping[str, float] | None = None,
) -> Metrics:
    """Figures that nobody has measured: `quality` (fraction) under the objective's name, a constant cost."""
    whole = dict.fromkeys((MAP, "map_present", "map_interpolated"), quality if objective == MAP else 0.0)
    return Metrics(
        objective=objective,
        qualities={objective: quality, **whole},
        top1=0.5,
        gflops=gflops,
        gflops_std=0.0,
        gflops_p95=gflops,
        calls=calls or {},
        videos=8,
    )


def synthetic_result(
    trial: str = "t0000",
    points: Sequence[tuple[float, float]] = ((0.5, 1.0),),
    *,
    objective: str = MAP,
    model: JsonObject | None = None,
) -> TrialResult:
    """A result that nobody has measured.

    Arguments:
        points: quality (fraction) and GFLOPs of each on both splits, the default one first.
        model: any plain data that a test wants to hand through.
    """
    measured = [synthetic_metrics(quality, gflops, objective=objective) for quality, gflops in points]
    return TrialResult(
        trial=trial,
        sweep="synthetic",
        digest="0" * 12,
        method="lite_eval",
        objective=objective,
        is_baseline=False,
        deployable=True,
        seed=0,
        training_knobs={},
        model=model or {},
        training_config={},
        sources={},
        widths={},
        data=DataReference(
            name="synthetic",
            fingerprint="0" * 12,
            features={},
            classes=("zero", "one"),
            multi_label=False,
            step_seconds=0.5,
        ),
        code_version="0" * 12,
        torch_version=torch.__version__,
        costs={},
        accounting="honest",
        parameters=0,
        history=(),
        points=tuple(
            OperatingPoint(
                id=f"{trial}-p{i:02d}",
                index=i,
                is_default=i == 0,
                inference_knobs={},
                val=each,
                test=each,
            )
            for i, each in enumerate(measured)
        ),
        warnings=(),
        seconds=1.0,
    )


def padded_by(split: FeatureSplit, extra: int) -> FeatureSplit:
    """The same videos with `extra` more padded steps, filled with values that must never be used."""
    features = {
        source: torch.cat([values, torch.full((len(values), extra, values.shape[2]), 1e3)], dim=1)
        for source, values in split.features.items()
    }
    mask = torch.cat([split.mask, torch.zeros(len(split.mask), extra, dtype=torch.bool)], dim=1)
    return FeatureSplit(
        features=features,
        mask=mask,
        num_steps=split.num_steps,
        targets=split.targets,
        video_keys=split.video_keys,
        video_ids=split.video_ids,
    )


def reloaded(
    method: Method, name: str, fields: Mapping[str, Any] | None = None, *, multi_label: bool = False
) -> Method:
    """A fresh method with the weights of `method`, by way of safetensors."""
    fresh = synthetic_method(name, fields, seed=123, multi_label=multi_label)
    fresh.load_state_dict(load(save({k: v.contiguous() for k, v in method.state_dict().items()})))
    return fresh
