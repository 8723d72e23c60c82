"""A training that is followed and judged at rungs: what it says of itself, and that it is the same training."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from paretovid.platform.records.trial import read_trial
from paretovid.trainables.context import (
    FollowedContext,
    Learning,
    LocalContext,
    StoppedAtRung,
    TrialStopped,
)
from paretovid.trainables.training.config import TrainingConfig, TrialConfig, rung_epoch
from paretovid.trainables.trial import RUNG_POINTS, run_trial


class Following:
    """A context that keeps checkpoints and all that a training says; judged out once so many rungs are measured."""

    rank, world_size, device = 0, 1, torch.device("cpu")

    def __init__(self, folder: Path, *, out_after: int = 99, late: int = 0, ends_at: int = -1) -> None:
        self.folder, self.out_after, self.late, self.ends_at = folder, out_after, late, ends_at
        self.said: list[Learning] = []
        self.waited: list[int] = []

    def report(self, progress, checkpoint=None):
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(checkpoint, self.folder)

    def get_checkpoint(self):
        return self.folder if self.folder.exists() else None

    def heartbeat(self):
        return 0 <= self.ends_at <= len(self.said)

    def follow(self, learning):
        self.said.append(learning)

    def followed(self):
        return self.said[-1] if self.said else None

    def is_judged_out(self, *, is_waiting=False):
        if is_waiting:
            self.waited.append(len(self.said[-1].history))
        last = self.said[-1] if self.said else None
        if last is None or len(last.rungs) < self.out_after:
            return False
        return len(last.history) >= last.rungs[self.out_after - 1].epoch + self.late


@pytest.fixture(scope="module")
def base(lite_eval_trial: TrialConfig) -> TrialConfig:
    training = TrainingConfig(epochs=8, batch_size=4, checkpoint_every_epochs=3)
    return dataclasses.replace(lite_eval_trial, training=training, rungs=(0.25, 0.5))


def run(base: TrialConfig, folder: Path, context: Any, **changes: Any) -> Path:
    run_trial(dataclasses.replace(base, output=str(folder), **changes), context)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def is_same(first: Path, second: Path) -> bool:
    a, b = weights(first), weights(second)
    results = [dataclasses.replace(read_trial(folder), seconds=0.0) for folder in (first, second)]
    return results[0] == results[1] and all(torch.equal(a[key], b[key]) for key in a)


def test_measuring_at_rungs_changes_nothing_of_the_training(base: TrialConfig, tmp_path: Path) -> None:
    context = Following(tmp_path / "kept")
    assert isinstance(context, FollowedContext) and not isinstance(LocalContext(), FollowedContext)
    plain = run(base, tmp_path / "plain", LocalContext(), rungs=())
    followed = run(base, tmp_path / "followed", context)
    assert is_same(plain, followed)
    assert [len(each.history) for each in context.said] == list(range(1, 9))
    last = context.said[-1]
    assert last.history == read_trial(followed).history and last.epochs == 8
    assert [(rung.share, rung.epoch) for rung in last.rungs] == [(0.25, 2), (0.5, 4)]
    assert context.waited == [2, 4]


def test_a_rung_has_the_points_that_a_training_of_so_many_epochs_would_have(
    base: TrialConfig, tmp_path: Path
) -> None:
    """Up to the schedule, which is that of the whole training: so the whole one is measured at its end as well."""
    context = Following(tmp_path / "kept")
    run(base, tmp_path / "out", context, rungs=(0.5,), points=5)
    (rung,) = context.said[-1].rungs
    assert 1 < len(rung.points) <= min(5, RUNG_POINTS)
    assert all(0 <= quality <= 1 and cost > 0 for quality, cost in rung.points)
    assert len(set(rung.points)) > 1


def test_one_that_is_judged_out_ends_at_its_rung(base: TrialConfig, tmp_path: Path) -> None:
    context = Following(tmp_path / "kept", out_after=1)
    with pytest.raises(StoppedAtRung) as ended:
        run(base, tmp_path / "out", context)
    assert (ended.value.epoch, ended.value.epochs) == (2, 8)
    assert not (tmp_path / "out" / "result.json").exists()


def test_a_judgement_that_comes_late_ends_it_at_the_next_epoch(base: TrialConfig, tmp_path: Path) -> None:
    context = Following(tmp_path / "kept", out_after=1, late=3)
    with pytest.raises(StoppedAtRung) as ended:
        run(base, tmp_path / "out", context)
    assert ended.value.epoch == 5


def test_one_that_is_interrupted_keeps_its_rungs_and_its_history(base: TrialConfig, tmp_path: Path) -> None:
    plain = run(base, tmp_path / "plain", LocalContext(), rungs=())
    context = Following(tmp_path / "kept", ends_at=3)
    with pytest.raises(TrialStopped):
        run(base, tmp_path / "out", context)
    measured = context.said[-1].rungs
    assert [rung.epoch for rung in measured] == [2]
    context.ends_at = -1
    assert is_same(plain, run(base, tmp_path / "out", context))
    last = context.said[-1]
    assert [rung.epoch for rung in last.rungs] == [2, 4] and last.rungs[0] == measured[0]
    assert last.history == read_trial(plain).history
    assert context.waited == [2, 4], "a rung that was measured is not waited for again"


def test_one_whose_checkpoint_is_at_a_rung_is_measured_there_after_all(
    base: TrialConfig, tmp_path: Path
) -> None:
    context = Following(tmp_path / "kept", ends_at=2)
    with pytest.raises(TrialStopped):
        run(base, tmp_path / "out", context, rungs=())
    context.ends_at = -1
    run(base, tmp_path / "out", context)
    assert [rung.epoch for rung in context.said[-1].rungs] == [2, 4]


def test_one_that_was_judged_out_before_its_process_died_does_not_train_again(
    base: TrialConfig, tmp_path: Path
) -> None:
    context = Following(tmp_path / "kept")
    context.is_judged_out = lambda is_waiting=False: True  # type: ignore[method-assign, misc]
    with pytest.raises(StoppedAtRung) as ended:
        run(base, tmp_path / "out", context)
    assert ended.value.epoch == 0 and context.said == []


def test_nothing_of_a_result_depends_on_rungs(base: TrialConfig) -> None:
    assert dataclasses.replace(base, rungs=()).digest == base.digest
    assert TrialConfig.from_json(base.to_json()) == base


@pytest.mark.parametrize(
    ("share", "epochs", "epoch"), [(0.25, 40, 10), (0.01, 40, 0), (0.99, 40, 40), (0.5, 3, 2)]
)
def test_the_epoch_of_a_rung(share: float, epochs: int, epoch: int) -> None:
    assert rung_epoch(share, epochs) == epoch
