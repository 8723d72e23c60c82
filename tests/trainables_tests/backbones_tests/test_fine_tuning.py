from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from paretovid.trainables.backbones import fine_tuning
from paretovid.trainables.backbones.catalog import (
    component,
    family,
    load_backbone,
    save_backbone,
)
from paretovid.trainables.backbones.description import BackboneDescription, BackboneOrigin
from paretovid.trainables.backbones.fine_tuning import FineTuningConfig, fine_tune, is_fine_tuned
from paretovid.trainables.context import LocalContext
from paretovid.trainables.errors import NonFiniteError, UsageError

# Fine-tuning does not ask where a network's weights come from; a small one takes seconds.
COARSE = family("small")["coarse"]
BRIEF = FineTuningConfig(samples=48, batch_size=8, checkpoint_every_steps=2, learning_rate=1e-3)


@pytest.fixture
def start(videos, tmp_path):
    torch.manual_seed(3)
    backbone = component(COARSE).build(len(videos.classes)).eval()
    origin = {"weights": "file.pth", "file_sha256": "ab" * 32}
    save_backbone(
        tmp_path / "start", COARSE, backbone, BackboneOrigin(labels=videos.classes, training=origin)
    )
    return tmp_path / "start"


def tuned(config, videos, start, out, context=None, **more):
    return fine_tune(
        config,
        videos,
        COARSE,
        start,
        out,
        context or LocalContext(),
        checkpoint=out.with_suffix(".kept"),
        **more,
    )


def weights(folder):
    return load_file(folder / "backbone.safetensors")


class Killed(Exception):
    pass


def done_in(kept):
    """Steps of the only checkpoint."""
    (only,) = kept.iterdir()
    return int(only.name)


def test_it_resumes_from_the_weights_and_says_where_they_came_from(videos, start, tmp_path):
    measured = tuned(BRIEF, videos, start, tmp_path / "out")
    described = BackboneDescription.read(tmp_path / "out")
    assert described.origin.training["weights"] == "file.pth" and described.is_fine_tuned
    assert measured["steps"] == 6 and np.isfinite(measured["loss"]) and described.measured == measured
    before, after = weights(start), weights(tmp_path / "out")
    name = next(name for name in before if name.startswith("trunk") and before[name].dim() == 4)
    moved = (after[name] - before[name]).abs().max()
    assert 0 < moved < 0.1, "trained on, not anew"
    assert is_fine_tuned(described, BRIEF)
    assert not is_fine_tuned(described, dataclasses.replace(BRIEF, seed=1))
    assert not is_fine_tuned(BackboneDescription.read(start), BRIEF)
    assert not (tmp_path / "out.kept").exists()
    assert load_backbone(tmp_path / "out")[0](np.zeros((1, 16, 16, 3), np.uint8)).shape == (
        1,
        component(COARSE).feature_width,
    )


@pytest.mark.slow
def test_it_learns(videos, start, tmp_path):
    config = dataclasses.replace(
        BRIEF, samples=1600, batch_size=16, learning_rate=5e-3, checkpoint_every_steps=1000
    )
    reported = []

    class Listening:
        rank, world_size, device = 0, 1, torch.device("cpu")

        def report(self, progress, checkpoint=None):
            reported.append(progress.get("loss"))

    tuned(config, videos, start, tmp_path / "out", Listening())
    losses = [loss for loss in reported if loss is not None]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def test_an_interrupted_one_ends_with_the_same_weights(videos, start, tmp_path):
    def killed(folder):
        if done_in(folder) == 4:
            raise Killed

    whole = tuned(BRIEF, videos, start, tmp_path / "whole")
    with pytest.raises(Killed):
        tuned(BRIEF, videos, start, tmp_path / "out", on_checkpoint=killed)
    assert not (tmp_path / "out").exists()
    again = tuned(BRIEF, videos, start, tmp_path / "out")
    assert again["went_on_at_step"] == 4 and whole["went_on_at_step"] == 0
    first, again = weights(tmp_path / "whole"), weights(tmp_path / "out")
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("left", ["other settings", "damaged", "none of the state", "half of it"])
def test_a_checkpoint_of_something_else_is_no_start(videos, start, tmp_path, left):
    def killed(folder):
        raise Killed

    config = dataclasses.replace(BRIEF, seed=5) if left == "other settings" else BRIEF
    with pytest.raises(Killed):
        tuned(config, videos, start, tmp_path / "out", on_checkpoint=killed)
    kept = tmp_path / "out.kept"
    if left == "damaged":
        (kept / "00000002" / "about.json").write_text("{")
    elif left == "none of the state":
        (kept / "00000002" / "state.safetensors").unlink()
    elif left == "half of it":
        (kept / "00000002" / "state.safetensors").write_bytes(b"half")
    assert tuned(BRIEF, videos, start, tmp_path / "out")["went_on_at_step"] == 0


def test_a_checkpoint_of_another_number_of_workers_is_not_thrown_away(videos, start, tmp_path):
    def killed(folder):
        raise Killed

    with pytest.raises(Killed):
        tuned(BRIEF, videos, start, tmp_path / "out", on_checkpoint=killed)
    about = tmp_path / "out.kept" / "00000002" / "about.json"
    written = json.loads(about.read_text())
    written["about"]["training"]["workers"] = 8
    about.write_text(json.dumps(written))
    with pytest.raises(UsageError, match="begun by 8 workers, not 1"):
        tuned(BRIEF, videos, start, tmp_path / "out")
    assert about.exists()


@pytest.mark.slow
def test_videos_that_do_not_fit_are_refused_not_squeezed_in(videos, start, tmp_path):
    many = dataclasses.replace(videos, records=videos.records * 2000)
    with pytest.raises(UsageError, match="more than memory_mb=1") as refused:
        tuned(dataclasses.replace(BRIEF, memory_mb=1), many, start, tmp_path / "out")
    assert "video_share=0." in refused.value.hint


def test_lower_precision_is_another_training_and_leaves_weights_whole(videos, start, tmp_path):
    config = dataclasses.replace(BRIEF, precision="bfloat16")
    tuned(config, videos, start, tmp_path / "low")
    tuned(BRIEF, videos, start, tmp_path / "full")
    low, full = weights(tmp_path / "low"), weights(tmp_path / "full")
    assert all(low[name].dtype == full[name].dtype for name in full)
    assert any(not torch.equal(low[name], full[name]) for name in full)


def test_a_loss_that_is_no_number_ends_it_before_it_is_kept(videos, start, tmp_path, monkeypatch):
    monkeypatch.setattr(
        fine_tuning, "classification_loss", lambda logits, *_, **__: logits.sum() * float("nan")
    )
    with pytest.raises(NonFiniteError, match=COARSE):
        tuned(BRIEF, videos, start, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.kept").exists()


@pytest.mark.parametrize(
    "wrong",
    [{"samples": 0}, {"batch_size": 0}, {"learning_rate": -1.0}, {"precision": "int8"}, {"video_share": 0.0}],
)
def test_settings_out_of_bounds(wrong):
    with pytest.raises(UsageError, match=str(next(iter(wrong.values())))):
        FineTuningConfig(**wrong)


def test_the_rate_rises_and_falls():
    config = FineTuningConfig(samples=1000, batch_size=10, learning_rate=0.5)
    rates = [config.rate(step) for step in range(config.total_steps)]
    assert len(rates) == 100 and rates[9] == max(rates) == 0.5 and rates[0] == 0.05 and rates[-1] < 0.001


WORKER = """
import json, shutil, sys
from pathlib import Path
import torch
from paretovid.trainables.data.dataset import load_dataset
from paretovid.trainables.backbones.fine_tuning import FineTuningConfig, fine_tune

class Context:
    rank, world_size, device = int(sys.argv[1]), 2, torch.device("cpu")
    def report(self, progress, checkpoint=None):
        pass

data, start, meeting, out, name = map(Path, sys.argv[2:7])
torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=Context.rank, world_size=2)
config = FineTuningConfig(samples=48, batch_size=8, checkpoint_every_steps=2, learning_rate=1e-3)

def remember(kept):
    if (kept / "00000004").exists():
        shutil.copytree(kept, out / "resumed.kept", dirs_exist_ok=True)

def run(folder):
    kept = folder.with_suffix(".kept")
    return fine_tune(config, load_dataset(data), name.name, start, folder, Context(), checkpoint=kept,
                     on_checkpoint=remember)["went_on_at_step"]

first = run(out / "whole")
torch.distributed.barrier()
print(json.dumps([first, run(out / "resumed")]))
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_workers_go_on_from_the_checkpoint_of_rank_0(videos, start, tmp_path):
    words = [str(path) for path in (videos.root, start, tmp_path / "meeting", tmp_path / "two")]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), *words, COARSE], stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    said = [worker.communicate(timeout=50)[0] for worker in workers]
    assert [json.loads(each) for each in said] == [[0, 4], [0, 4]]
    first, again = weights(tmp_path / "two" / "whole"), weights(tmp_path / "two" / "resumed")
    assert all(torch.equal(first[name], again[name]) for name in first)
