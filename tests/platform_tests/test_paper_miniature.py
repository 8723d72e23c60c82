"""ActivityNet in miniature, in its own files, with the papers' backbones: from annotations to a model that predicts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.platform_tests.test_sweep import paretovid

from paretovid.infra.ray_cluster import Cluster
from paretovid.platform.config.load import group_options, load_sweep_config
from paretovid.platform.sweeps.sweep import plan_sweep
from paretovid.trainables.data.moving_digits.encoding import encode_mp4

CLASSES = ("Archery", "Drinking coffee", "Surfing")
COUNTS = {"training": 9, "validation": 3, "testing": 1}
ONE_AT_A_TIME = ["backbones.workers=1", "extraction.workers=1", "search.concurrent=1"]
"""Each further process takes longer to start than all of this takes to compute."""


@pytest.fixture(scope="module")
def activitynet(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Settings of `data=activitynet` for a dozen videos; one was taken down, one is cut short."""
    root, rng, database = tmp_path_factory.mktemp("activitynet"), np.random.default_rng(0), {}
    (root / "videos").mkdir()
    for subset, count in COUNTS.items():
        for number in range(count):
            name, seconds, label = f"{subset[:2]}{number}", 2 + number % 3, number % len(CLASSES)
            frames = rng.integers(0, 80, (8 * seconds, 48, 64), dtype=np.uint8)
            frames[:, 10 * label : 10 * label + 20] += 120
            silence = np.zeros(16_000 * seconds, np.float32)
            encode_mp4(root / "videos" / f"v_{name}.mp4", frames, silence, frames_per_second=8)
            segments = [{"label": CLASSES[label], "segment": [0.5, seconds + 3.0]}] * (subset != "testing")
            database[name] = {"subset": subset, "duration": float(seconds), "annotations": segments}
    gone = {"subset": "training", "duration": 5.0, "annotations": [{"label": "Surfing", "segment": [1, 2]}]}
    cut = root / "videos" / "v_tr3.mp4"
    cut.write_bytes(cut.read_bytes()[:-1500])
    nodes = [{"nodeName": "Root", "nodeId": 0, "parentName": None, "parentId": None}] + [
        {"nodeName": name, "nodeId": i, "parentName": "Root", "parentId": 0}
        for i, name in enumerate(CLASSES, 1)
    ]
    described = {"version": "VERSION 1.3", "taxonomy": nodes, "database": {**database, "gone": gone}}
    file = root / "activity_net.v1-3.min.json"
    file.write_text(json.dumps(described))
    return ["data=activitynet", f"data.annotations={file}", f"data.videos={root / 'videos'}"]


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name in group_options("method") if name.endswith("_paper_size")])
def test_a_sweep_at_paper_sizes_is_planned(method: str, activitynet: list[str], tmp_path: Path) -> None:
    words = [
        f"method={method}",
        *activitynet,
        "backbones=paper",
        "backbones.weights=random",
        f"home={tmp_path}",
    ]
    text = str(plan_sweep(load_sweep_config(words)))
    assert "13 videos" in text and "by the annotations" in text and "GB of float16" in text
    assert not list(tmp_path.iterdir()), "a plan leaves nothing behind"


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(420)
def test_every_stage_of_a_sweep_at_paper_sizes(
    shared_cluster: Cluster, activitynet: list[str], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    words = [
        "method=lite_eval_paper_size",
        "name=s",
        *activitynet,
        "backbones=paper",
        "backbones.weights=random",
        "backbones.fine_tune=true",
        "backbones.fine_tuning.samples=8",
        "backbones.fine_tuning.batch_size=4",
        "search.trials=2",
        "training.epochs=2",
        *ONE_AT_A_TIME,
        "baselines=[{name: uniform, method: uniform}]",
    ]
    _, err = paretovid("sweep", *words, home=home)
    assert "left out: 1 of 13 annotated videos" in err
    for name in ("mobilenet_v2@112", "resnet101@224"):
        meta = json.loads((home / "backbones/activitynet" / name / "backbone.json").read_text())
        assert meta["training"]["fine_tuned"] is True
    assert "2 components of 12 videos, each decoded once" in err
    document = json.loads(paretovid("front", "s", "--json", home=home)[0])
    point = max((p for p in document["points"] if p["on_front"]), key=lambda p: p["gflops"])
    # MobileNetV2 at 112 pixels and ResNet-101 at 224: what the papers' tables say they cost.
    costs = json.loads((home / "sweeps/s/trials/t0000/result.json").read_text())["costs"]
    assert costs["resnet101@224"]["macs"] / 1e9 == pytest.approx(7.82, rel=0.01)
    assert costs["mobilenet_v2@112"]["macs"] / 1e9 == pytest.approx(0.08, rel=0.05)
    paretovid("promote", "s", "--point", point["id"], "--as", "paper", "--alias", "champion", home=home)
    video = activitynet[2].partition("=")[2] + "/v_va0.mp4"
    out, _ = paretovid("predict", "models:/paper@champion", video, "--json", home=home)
    (answer,) = json.loads(out)["videos"]
    assert answer["error"] is None and answer["labels"][0]["label"] in CLASSES
    assert answer["gflops"] >= 2 * costs["mobilenet_v2@112"]["macs"] / 1e9
