"""The whole chain on real parts, as a user runs it: a small video set, backbones trained for a moment, a real Ray
cluster, a real MLflow store. Quality means nothing at this size; everything else is as it will be.

The sweep that most tests look at and its prediction are commands in processes of their own, and so is the extraction
before it (`prepared_home`); the others, the promotion between the two among them, run in this process, on the cluster
that tests share.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from tests.platform_tests.conftest import SMALL_DATA, copied

from paretovid.platform.cli.main import main
from paretovid.platform.fronts.build import read_front
from paretovid.platform.storage.home import Home
from paretovid.platform.sweeps.status import status_of

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(420),
    pytest.mark.usefixtures("shared_cluster"),
]

SMALL = [
    *SMALL_DATA,
    "training.epochs=2",
    "search.trials=3",
    "search.concurrent=1",
]
"""One trial at a time: a second process of trials takes longer to start than all of these take to train."""
SWEEP = "lite_eval-moving_digits-1"


def paretovid(
    *words: str, home: Path, status: int = 0, timeout: float = 400, own_process: bool = False
) -> tuple[str, str]:
    """Runs the command; returns what it wrote on stdout and stderr.

    In this process and on its cluster, unless `own_process`: torch, Ray and MLflow take seconds to import and start.
    """
    settings = {"OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": ""}
    typed = [*words, f"home={home}"]
    if own_process:
        text, errors, found = apart(*typed, environment=settings, timeout=timeout)
    else:
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            for name, value in settings.items():
                patch.setenv(name, value)
            found = main(typed)
        text, errors = out.getvalue(), err.getvalue()
    assert found == status, f"status {found}\n{text}\n{errors}"
    return text, errors


def apart(*words: str, environment: Mapping[str, str], timeout: float = 400) -> tuple[str, str, int]:
    """stdout, stderr and status of the command in a process of its own."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("paretovid")), *words],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **environment},
        check=False,
    )
    return done.stdout, done.stderr, done.returncode


@pytest.fixture(scope="module")
def swept(prepared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A home with one finished sweep, and what the command wrote."""
    home = copied(prepared_home, tmp_path_factory.mktemp("swept") / "home")
    out, err = paretovid("sweep", *SMALL, home=home, own_process=True)
    return home, out, err


@pytest.fixture(scope="module")
def document(swept: tuple[Path, str, str]) -> dict[str, Any]:
    """What `front --json` says about it."""
    out, _ = paretovid("front", SWEEP, "--json", home=swept[0])
    loaded: dict[str, Any] = json.loads(out)
    return loaded


def test_it_shows_every_stage_the_front_its_baselines_and_what_to_type_next(swept):
    home, out, err = swept
    for stage in ("[1/5] videos", "[2/5] backbones", "[3/5] features", "[4/5] search", "[5/5] front"):
        assert stage in err
    for name in ("uniform", "lstm", "random_gate", "oracle"):
        assert name in out
    assert f"paretovid promote {SWEEP} --max-gflops" in out
    assert "paretovid predict models:/digits@champion" in out
    assert (home / "sweeps" / SWEEP / "front.png").stat().st_size > 10_000
    assert len(err.splitlines()) < 60, "nothing scrolls by that the user does not need"


def test_the_front_is_as_the_contract_says(document):
    assert set(document) == {
        "sweeps", "split", "accounting", "hypervolume", "reference", "points", "baselines", "warnings",
    }  # fmt: skip
    assert document["split"] == "test" and document["accounting"] == "honest"
    front = [point for point in document["points"] if point["on_front"]]
    assert front
    methods = {point["method"] for point in document["points"]}
    assert methods == {"lite_eval"}
    assert {baseline["method"] for baseline in document["baselines"]} == {
        "uniform", "lstm", "random_gate", "oracle",
    }  # fmt: skip
    for point in document["points"]:
        assert point["gflops"] > 0 and point["map_ci"][0] <= point["map_ci"][1]
        assert set(point["training_knobs"]) == {"gamma", "lambda"}


def test_gflops_are_the_sum_of_the_calls(swept, document):
    home = swept[0]
    for point in document["points"][:20]:
        result = json.loads((home / "sweeps" / SWEEP / "trials" / point["trial"] / "result.json").read_text())
        counted = sum(n * result["costs"][component]["macs"] for component, n in point["calls"].items()) / 1e9
        assert counted == pytest.approx(point["gflops"])


def test_the_anchors_and_the_first_published_setting_were_tried_first(swept):
    folder = swept[0] / "sweeps" / SWEEP / "trials"
    knobs = [
        json.loads((folder / t / "result.json").read_text())["training_knobs"]
        for t in ("t0000", "t0001", "t0002")
    ]
    assert knobs[0] == {"gamma": 0.5, "lambda": 0.25}
    assert knobs[1] == {"gamma": 0.01, "lambda": 8.0}
    assert knobs[2] == {"gamma": 0.1, "lambda": 2.0}


def test_a_second_run_reuses_everything(swept):
    home, first, _ = swept
    stamps = {p: p.stat().st_mtime_ns for p in home.rglob("*.safetensors")}
    out, err = paretovid("sweep", *SMALL, home=home, timeout=60)
    assert "is finished" in err
    assert out == first
    assert {p: p.stat().st_mtime_ns for p in home.rglob("*.safetensors")} == stamps


def test_another_seed_gives_another_sweep_with_the_same_data(swept):
    out, _ = paretovid("sweep", *SMALL, "seed=1", "--dry-run", home=swept[0])
    assert "lite_eval-moving_digits-2 (new)" in out
    assert "resnet8_w16@64" in out


def test_a_name_with_other_settings_is_refused(swept):
    _, err = paretovid("sweep", *SMALL, "search.sampler=random", f"name={SWEEP}", home=swept[0], status=2)
    assert "search.sampler was 'tpe', now 'random'" in err


def test_the_sweep_is_listed_with_its_state_and_hypervolume(swept):
    out, _ = paretovid("sweeps", "--json", home=swept[0])
    (sweep,) = json.loads(out)["sweeps"]
    assert (sweep["name"], sweep["state"], sweep["trials"]) == (SWEEP, "finished", 9)
    assert sweep["hypervolume"] > 0 and sweep["tracked"] is True
    # Progress, reported trial by trial, ends where the front of the same split begins from what is on disk.
    last = status_of(Home(swept[0]), SWEEP).validation_hypervolume[-1][1]
    assert last == read_front([Home(swept[0]).sweep(SWEEP)], split="val").hypervolume > 0


def test_mlflow_holds_the_parent_its_trials_and_their_points(swept):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{swept[0] / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'paretovid'")
    runs = client.search_runs([experiment.experiment_id], max_results=200)
    (parent,) = [run for run in runs if run.data.tags.get("paretovid.kind") == "sweep"]
    trials = [run for run in runs if run.data.tags.get("paretovid.kind") == "trial"]
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {parent.info.run_id}
    assert len(trials) == 9 and all(run.info.status == "FINISHED" for run in [parent, *trials])
    models = client.search_logged_models([experiment.experiment_id])
    assert models
    assert all({"map", "gflops"} <= {metric.key for metric in model.metrics or ()} for model in models)


def test_promoted_it_predicts_raw_videos_and_says_what_it_cost(swept, document):
    home = swept[0]
    point = max((p for p in document["points"] if p["on_front"]), key=lambda p: p["gflops"])
    out, _ = paretovid(
        "promote",
        SWEEP,
        "--point",
        point["id"],
        "--as",
        "digits",
        "--alias",
        "champion",
        home=home,
    )
    assert "raw_video" in out
    videos = sorted((home / "data" / "moving_digits" / "videos").glob("test_*.mp4"))
    text = home / "notes.txt"
    text.write_text("not a video")
    out, _ = paretovid(
        "predict",
        "models:/digits@champion",
        *map(str, videos[:2]),
        str(text),
        "--json",
        home=home,
        status=1,
        own_process=True,
    )
    first, second, bad = json.loads(out)["videos"]
    assert bad["labels"] == [] and "notes.txt" in bad["error"]
    for video in (first, second):
        assert video["error"] is None and video["gflops"] > 0
        assert sum(entry["score"] for entry in video["labels"]) == pytest.approx(1, abs=1e-4)
    folder = home / "sweeps" / SWEEP / "trials" / point["trial"]
    from safetensors.numpy import load_file

    recorded = load_file(folder / "scores.safetensors")["test/gflops"][int(point["id"][-2:])]
    assert [first["gflops"], second["gflops"]] == pytest.approx(recorded[:2].tolist())


def test_bounds_and_points_that_nothing_meets_say_what_there_is(swept):
    _, err = paretovid("promote", SWEEP, "--max-gflops", "1e-9", "--as", "digits", home=swept[0], status=2)
    assert "The cheapest is" in err
    _, err = paretovid("promote", SWEEP, "--point", "t0000-p99", "--as", "digits", home=swept[0], status=2)
    assert "t0000-p99" in err and "hint" in err


def test_a_corrupt_video_among_good_ones_is_left_out_and_reported(swept, tmp_path):
    home = copied(swept[0], tmp_path / "home", "data", "backbones")
    broken = home / "data" / "moving_digits" / "videos" / "train_00003.mp4"
    broken.write_bytes(b"\0" * 1000)
    _, err = paretovid("extract", *SMALL, home=home)
    assert "train_00003.mp4" in err
    assert "32 videos" in err and "31 videos" in err


def test_a_sweep_in_which_every_trial_fails_says_why_and_its_status_is_one(swept, tmp_path):
    home = copied(swept[0], tmp_path / "home")
    settings = (*SMALL, "training.learning_rate=1e30", "search.max_failures_in_a_row=0")
    _, err = paretovid("sweep", *settings, home=home, status=1)
    assert "all 3 trials failed" in err and "the loss became" in err
    out, _ = paretovid("sweeps", "--json", home=home)
    assert json.loads(out)["sweeps"][0]["state"] == "failed"


def test_videos_of_which_most_are_unreadable_are_refused_every_time(swept, tmp_path):
    home = copied(swept[0], tmp_path / "home", "data", "backbones")
    for path in sorted((home / "data" / "moving_digits" / "videos").glob("*.mp4"))[:20]:
        path.write_bytes(b"nothing")
    for _ in range(2):
        _, err = paretovid("extract", *SMALL, home=home, status=1)
        assert "20 of 32 videos could not be read" in err


def test_after_a_sweep_with_another_seed_the_first_can_still_be_promoted(swept, document):
    home = swept[0]
    paretovid("sweep", *SMALL, "seed=1", "search.trials=1", "baselines=[]", "name=seed-one", home=home)
    point = next(p["id"] for p in document["points"] if p["on_front"])
    out, _ = paretovid("promote", SWEEP, "--point", point, "--as", "again", home=home)
    assert "again version 1" in out
    out, _ = paretovid("front", SWEEP, "seed-one", "--json", home=home)
    assert {p["sweep"] for p in json.loads(out)["points"]} == {SWEEP, "seed-one"}
