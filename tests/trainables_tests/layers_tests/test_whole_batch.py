"""Several workers that share a batch train like one that has it whole."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from paretovid.trainables.context import LocalContext
from paretovid.trainables.layers import timestep_selector
from paretovid.trainables.method import Method
from paretovid.trainables.outcome import Batch, Progress
from paretovid.trainables.testing import synthetic_method, synthetic_split
from paretovid.trainables.training.loop import _share, _step

WORKERS, VIDEOS = 2, 7  # parts of four and three
CASES: dict[str, tuple[dict[str, Any], int]] = {
    "lite_eval": ({"network": {"step_dropout": 0.0}, "usage_weight": 30.0}, 0),
    "hcms": ({"network": {"step_dropout": 0.0}, "usage_weight": 30.0}, 0),
    "lite_eval, at budgets": (
        {"network": {"step_dropout": 0.0}, "usage_weight": 30.0, "condition": "budget"},
        0,
    ),
    "hcms, at budgets": ({"network": {"step_dropout": 0.0}, "usage_weight": 30.0, "condition": "budget"}, 0),
    "video_epitoma": ({"step_dropout": 0.0, "l0_weight": 30.0}, 0),
    "model_selection": ({}, 0),
    "model_selection_localization": ({"heads": {"dropout": 0.0}}, 0),
    "model_selection_localization, its selector": ({"heads": {"dropout": 0.0}, "selector_dropout": 0.0}, 9),
    "frame_exit": ({}, 0),
    "early_fusion": ({"training_frames": 3}, 0),
}
"""Name to settings without noise that differs by worker, and the step of ten."""


def _gradients(name: str, part: slice, workers: int) -> list[Tensor]:
    fields, step = CASES[name]
    method: Method = synthetic_method(name.partition(",")[0], fields)
    split = synthetic_split(num_videos=VIDEOS, seed=1)
    batch = Batch(
        {source: values[part] for source, values in split.features.items()},
        split.mask[part],
        split.targets[part],
        split.video_keys[part],
        workers,
    )
    context = LocalContext()
    context.world_size = workers
    optimizer = torch.optim.SGD(method.parameters(), lr=0.0)
    weight = len(batch.mask) * workers / VIDEOS
    torch.manual_seed(0)
    # Noise would differ by worker: gates open where it is likelier.
    with (
        mock.patch.object(torch.Tensor, "exponential_", lambda self: self.fill_(0.5)),
        mock.patch.object(timestep_selector, "logistic_noise", torch.zeros_like),
    ):
        _step(method, optimizer, batch, Progress(step, 10), 1e9, context, weight)
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in method.parameters()]


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORKERS
    )
    found = {name: _gradients(name, slice(rank, None, WORKERS), WORKERS) for name in CASES}
    if rank == 0:
        tensors = {f"{name}/{i}": g for name, gs in found.items() for i, g in enumerate(gs)}
        save_file({key: value.contiguous() for key, value in tensors.items()}, Path(folder) / "gradients")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """What two processes made of their parts, by name and number of the parameter."""
    folder = tmp_path_factory.mktemp("group")
    torch.multiprocessing.spawn(_worker, args=(str(folder),), nprocs=WORKERS)
    return load_file(folder / "gradients")


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_workers_have_the_gradients_of_one(name: str, shared: dict[str, Tensor]) -> None:
    whole = _gradients(name, slice(None), 1)
    assert any(bool(gradient.any()) for gradient in whole)
    for index, gradient in enumerate(whole):
        torch.testing.assert_close(shared[f"{name}/{index}"], gradient, rtol=1e-4, atol=1e-6)


def test_a_batch_smaller_than_the_group_is_whole_on_every_worker() -> None:
    assert list(_share([3], 1, 2)) == [3] and list(_share([3, 4, 5], 1, 2)) == [4]
    assert {field.name: field.default for field in dataclasses.fields(Batch)}["workers"] == 1
