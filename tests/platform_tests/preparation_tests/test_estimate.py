"""What a plan says that features will take."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paretovid.platform.config.load import load_sweep_config
from paretovid.platform.config.resolve import resolve, resolve_preparation
from paretovid.platform.preparation.estimate import DataSize, data_size, estimate
from paretovid.platform.sweeps.summary import DryRun
from paretovid.trainables.backbones.catalog import family, measure_component
from paretovid.trainables.cost import ComponentCost

VIDEOS = {"a1": ("training", 61.5), "a2": ("training", 30.0), "a3": ("validation", 120.0)}


@pytest.fixture
def activitynet(tmp_path: Path) -> list[str]:
    taxonomy = [{"nodeId": 0, "nodeName": "Root", "parentId": None}] + [
        {"nodeId": i, "nodeName": name, "parentId": 0, "parentName": "Root"}
        for i, name in enumerate(("Jump", "Run"), 1)
    ]
    database = {
        name: {"subset": subset, "duration": length, "annotations": [{"label": "Run", "segment": [1, 9]}]}
        for name, (subset, length) in VIDEOS.items()
    }
    file = tmp_path / "activity_net.v1-3.min.json"
    file.write_text(json.dumps({"version": "VERSION 1.3", "taxonomy": taxonomy, "database": database}))
    return [
        "data=activitynet",
        f"data.annotations={file}",
        f"data.videos={tmp_path}",
        f"home={tmp_path / 'home'}",
    ]


def test_annotations_say_the_steps_before_a_video_is_looked_at(activitynet: list[str]) -> None:
    size = data_size(resolve_preparation(load_sweep_config(activitynet)))
    assert size == DataSize(
        videos=3, steps=61 + 30 + 120, step_seconds=1.0, source="by the annotations", classes=2
    )


@pytest.mark.slow
def test_it_is_steps_times_the_measured_cost_of_each_read(activitynet: list[str]) -> None:
    paper = ["backbones=paper", "backbones.weights=random"]
    config = load_sweep_config([*activitynet, *paper])
    names = family("paper")
    costs = {source: measure_component(name, 2) for source, name in names.items()}
    text = "\n".join(estimate(resolve(config), data_size(resolve_preparation(config)), costs))
    per_step = sum(cost.gmacs for cost in costs.values())
    assert f"{211 * per_step / 1000:.3g} TFLOPs" in text
    assert f"{211 / 3 * per_step:.4g} GFLOPs" in text
    # 1280 and 2048 values a step, of two bytes
    assert f"{211 * (1280 + 2048) * 2 / 1e9:.3g} GB of float16" in text
    assert text in str(DryRun(name="s", plan=resolve(config), state=None))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["data=moving_digits", "data.min_seconds=4", "data.max_seconds=8", "data.videos_train=100"],
            (400, 4800),
        ),
        (["data=folder", "data.name=none"], None),
    ],
)
def test_what_is_not_made_yet(tmp_path: Path, words: list[str], expected: tuple[int, int] | None) -> None:
    config = load_sweep_config([*words, f"home={tmp_path}"])
    size = data_size(resolve_preparation(config))
    assert (None if size is None else (size.videos, size.steps)) == expected
    if expected is None:
        (line,) = estimate(resolve(config), size, {})
        assert "once they are there" in line


def test_a_length_that_annotations_do_not_state_is_not_guessed(tmp_path: Path) -> None:
    for label in ("run", "jump"):
        (tmp_path / "videos" / label).mkdir(parents=True)
        (tmp_path / "videos" / label / "a.mp4").touch()
    config = load_sweep_config(
        ["data=class_folders", "data.name=mine", f"data.videos={tmp_path / 'videos'}", f"home={tmp_path}"]
    )
    (line,) = estimate(
        resolve(config), data_size(resolve_preparation(config)), {"fine": ComponentCost(macs=1, input="x")}
    )
    assert "2 videos" in line and "FLOPs" not in line


@pytest.mark.slow
def test_a_pool_stores_the_classes_of_its_data_set(activitynet: list[str]) -> None:
    words = ["method=model_selection", "backbones=paper", "backbones.weights=random"]
    words += ["method.model.selector_videos=all"]
    text = str(DryRun(name="s", plan=resolve(load_sweep_config([*activitynet, *words])), state=None))
    assert f"{211 * 4 * 2 * 2 / 1e9:.3g} GB of float16" in text  # four members, two classes


def test_steps_of_another_length_are_not_those_of_the_manifest(activitynet: list[str]) -> None:
    config = load_sweep_config([*activitynet, "data.step_seconds=0.5"])
    root = Path(str(config.home)) / "data" / "activitynet"
    root.mkdir(parents=True)
    record = {"video_id": "a", "path": "a.mp4", "labels": [0], "num_steps": 7, "duration_seconds": 7.0}
    videos = [
        {**record, "video_id": split, "path": f"{split}.mp4", "split": split, "labels": [place % 2]}
        for place, split in enumerate(("train", "val", "test"))
    ]
    described = {
        "format": 1,
        "name": "activitynet",
        "classes": ["Jump", "Run"],
        "step_seconds": 1.0,
        "multi_label": False,
        "videos": videos,
    }
    (root / "manifest.json").write_text(json.dumps(described))
    for each in videos:
        (root / str(each["path"])).touch()
    size = data_size(resolve_preparation(config))
    assert size is not None and (size.steps, size.source) == (123 + 60 + 240, "by the annotations")
    same = data_size(resolve_preparation(load_sweep_config(activitynet)))
    assert same is not None and (same.steps, same.source) == (21, "as they are")
