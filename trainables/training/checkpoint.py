"""A training's checkpoint: saved whole, restored exactly."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from paretovid.trainables.data.partial_files import partial_file
from paretovid.trainables.documents import save_tensors
from paretovid.trainables.method import Method


def _save_checkpoint(
    folder: Path, method: Method, optimizer: torch.optim.Optimizer, history: list[dict[str, float]]
) -> None:
    tensors = {f"model/{name}": value.contiguous() for name, value in method.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": value for name, value in state.items()}
    with partial_file(folder / "checkpoint.safetensors") as path:
        save_tensors(tensors, path)
    (folder / "history.json").write_text(json.dumps(history, allow_nan=False))


def _restore(folder: Path | None, method: Method, optimizer: torch.optim.Optimizer) -> list[dict[str, float]]:
    if folder is None:
        return []
    tensors = load_file(folder / "checkpoint.safetensors")
    method.load_state_dict(
        {name.removeprefix("model/"): value for name, value in tensors.items() if name.startswith("model/")}
    )
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer/"):
            _, index, key = name.split("/", 2)
            state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    history: list[dict[str, float]] = json.loads((folder / "history.json").read_text())
    return history


def _keep(partial: Path, path: Path) -> None:
    """Renames a file once its bytes are on the disk: a machine that dies leaves it whole or not at all."""
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)
