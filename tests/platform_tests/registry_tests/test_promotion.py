"""From a real (small) sweep to a registered model that predicts on raw videos, and back."""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from safetensors.torch import load_file, save_file
from tests.conftest import fill
from tests.odd_videos import CASES

from paretovid.platform.registry import prediction
from paretovid.platform.registry import promotion as registry
from paretovid.platform.registry.package import REQUIRED
from paretovid.platform.storage.faults import infrastructure_fault
from paretovid.platform.storage.home import Home
from paretovid.platform.tracking.store import open_store
from paretovid.trainables.errors import StaleFeaturesError, UnknownNameError, UsageError

CALLS_OF_A_PROMOTION = (
    "create_logged_model",
    "log_model_artifacts",
    "create_registered_model",
    "create_model_version",
    "set_registered_model_alias",
)


@pytest.fixture(scope="module")
def home(small_home_copy: Callable[[Path], Home], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield small_home_copy(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def promoted(home: Home) -> list[registry.Promotion]:
    """Version 1: a point of lite_eval. Version 2: a baseline. `champion` went from one to the other."""
    return [
        registry.promote(home, "tiny", name="digits", alias="champion", point=point)
        for point in ("t0000-p00", "b0000-p02")
    ]


@pytest.fixture(scope="module")
def videos(home: Home) -> list[str]:
    return [str(path) for path in sorted(home.data("moving_digits").rglob("test_*.mp4"))[:2]]


@pytest.mark.slow
def test_promotion_passes_gates_and_moves_the_alias(promoted: list[registry.Promotion], home: Home) -> None:
    assert [p.version for p in promoted] == ["1", "2"]
    assert [p.previous for p in promoted] == [None, "1"]
    assert {gate.name for gate in promoted[0].gates} == {"finite", "deployable", "raw_video"}
    next_command = f"paretovid predict models:/digits@champion VIDEO.mp4 home={home.root}"
    assert str(promoted[0]).endswith(f"Next: {next_command}")
    newest, oldest = registry.list_models(home)
    assert (newest["version"], newest["aliases"], newest["method"]) == (2, ["champion"], "uniform")
    assert (oldest["version"], oldest["aliases"], oldest["point"]) == (1, [], "tiny/t0000-p00")
    point = json.loads(home.trial("tiny", "t0000").result.read_text())["points"][0]["test"]
    assert (oldest["map"], oldest["gflops"]) == (point["map"], point["gflops"])
    assert oldest["gates"] == newest["gates"] == ["deployable", "finite", "raw_video"]
    assert promoted[0].uri == "models:/digits@champion"
    assert dataclasses.replace(promoted[0], alias=None).uri == "models:/digits/1"
    assert "was nothing before" in str(promoted[0]) and "was version 1 before" in str(promoted[1])
    assert not any("home was moved" in str(each) for each in promoted)


def test_a_version_stands_on_a_model_of_its_own_and_its_moves_are_numbered(
    promoted: list[registry.Promotion], home: Home
) -> None:
    client = open_store(home).client
    version = client.get_model_version("digits", "1")
    model = client.get_logged_model(str(version.source).rpartition("/")[2])
    assert (model.name, model.model_type, str(model.status)) == ("digits", "promoted", "READY")
    assert model.tags.items() >= {"paretovid.point": "t0000-p00", "paretovid.sweep": "tiny"}.items()
    events = {k: json.loads(v) for k, v in client.get_registered_model("digits").tags.items()}
    assert sorted(events) == ["paretovid.event.00001", "paretovid.event.00002"]
    moves = [events[key] for key in sorted(events)]
    assert [(e["action"], e["alias"], e["from"], e["to"]) for e in moves] == [
        ("promote", "champion", None, "1"),
        ("promote", "champion", "1", "2"),
    ]


def test_the_store_that_a_sweep_gives_is_the_one(home: Home) -> None:
    path = home.sweep("tiny").record
    original = path.read_text()
    assert registry._tracking_uri(home, "tiny") is None
    try:
        for config, given in (
            ({"tracking": {"uri": "http://host"}}, "http://host"),
            ({}, None),
        ):
            path.write_text(json.dumps(json.loads(original) | {"config": config}))
            assert registry._tracking_uri(home, "tiny") == given
    finally:
        path.write_text(original)


def test_versions_keep_their_own_code_and_weights(promoted: list[registry.Promotion], home: Home) -> None:
    first = prediction.Predictor(home, "models:/digits/1")
    second = prediction.Predictor(home, "models:/digits/2")
    assert "gate_offset" in first.params and list(second.params) == ["num_frames", "max_gflops", "cap_rule"]
    assert second.params["num_frames"] == 2.0


def test_prediction_document(promoted: list[registry.Promotion], home: Home, videos: list[str]) -> None:
    bad = home.root / "words.mp4"
    bad.write_text("not a video")
    document = json.loads(
        json.dumps(prediction.predict(home, "models:/digits/1", [videos[0], str(bad), videos[1]]))
    )
    assert list(document) == ["model", "videos", "notes", "warnings"] and document["notes"] == []
    good, broken, other = document["videos"]
    assert list(good) == [*("path", "labels", "gflops", "calls", "steps", "stopped_by", "notes", "error")]
    assert (good["stopped_by"], broken["stopped_by"]) == ("end", None)
    assert broken["error"] and broken["labels"] == [] and "words.mp4" in broken["error"]
    assert good["error"] is None and other["error"] is None
    scores = [label["score"] for label in good["labels"]]
    assert scores == sorted(scores, reverse=True) and sum(scores) == pytest.approx(1, abs=1e-4)
    assert set(good["steps"]) <= {"none", "coarse", "fine"} and good["gflops"] > 0


@pytest.mark.slow
def test_odd_videos_are_told_and_limits_are_kept(
    promoted: list[registry.Promotion], home: Home, videos: list[str]
) -> None:
    odd = [str(CASES / name) for name in ("transpose.mp4", "far.mkv", "plain.mp4")]
    document = prediction.predict(home, "models:/digits/1", odd, limits={"max_steps": 100})
    assert [bool(each["error"]) for each in document["videos"]] == [False, True, False]
    reason = "mirrored and rotated by 90 degrees counter-clockwise, as its metadata says"
    assert document["warnings"] == [{"file": odd[0], "reason": reason}]
    assert "max_steps=100" in document["videos"][1]["error"]
    assert prediction.predict(home, "models:/digits/1", odd[1:2])["videos"][0]["error"] is None
    with pytest.raises(UsageError, match="max_pixels must be"):
        prediction.Predictor(home, "models:/digits/1", limits={"max_pixels": 0})


def test_a_cap_is_kept(promoted: list[registry.Promotion], home: Home, videos: list[str]) -> None:
    free = prediction.predict(home, "models:/digits/1", videos, params={"gate_offset": 100})["videos"]
    capped = prediction.predict(
        home, "models:/digits/1", videos, max_gflops=0.02, params={"gate_offset": 100}
    )["videos"]
    assert all(video["gflops"] > 0.02 and video["stopped_by"] == "end" for video in free)
    assert all(video["gflops"] <= 0.02 and video["stopped_by"] == "cap" for video in capped)


def test_a_cap_below_one_close_read_is_said(
    promoted: list[registry.Promotion], home: Home, videos: list[str]
) -> None:
    answers = {
        rule: prediction.predict(
            home,
            "models:/digits/1",
            videos,
            max_gflops=0.001,
            params={"gate_offset": 100, "cap_rule": rule},
        )
        for rule in ("stop", "cheap")
    }
    for rule, document in answers.items():
        reads = [sum(step != "none" for step in video["steps"]) for video in document["videos"]]
        assert all(count == 1 if rule == "stop" else count > 1 for count in reads)
        assert document["notes"] == [
            f"the cap pays for no closer read: {len(videos)} of {len(videos)} videos answered from coarse reads "
            "only; raise it to use what the model was chosen for"
        ]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"max_glops": 0.05}, "max_glops"),
        ({"max_gflops": float("nan")}, "nan"),
        ({"max_gflops": float("inf")}, "inf"),
        ({"online_k": 1.5}, "online_k"),
        ({"max_gflops": 1e-9}, "coarse read"),
        ({"cap_rule": "both"}, "cap_rule cannot be 'both'"),
        ({"cap_rule": 1.0}, "cap_rule"),
        ({"online_k": "cheap"}, "online_k"),
    ],
)
def test_wrong_parameters_are_errors(
    promoted: list[registry.Promotion], home: Home, videos: list[str], params: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        prediction.Predictor(home, "models:/digits/1").predict(videos, **params)
    open_store(home)
    model = mlflow.pyfunc.load_model("models:/digits/1")
    with pytest.raises(Exception, match=message):  # MLflow alone would take the default
        model.predict(videos, params=params)


@pytest.mark.slow
def test_a_consumer_has_neither_platform_nor_pickle(
    promoted: list[registry.Promotion], home: Home, videos: list[str], tmp_path: Path
) -> None:
    open_store(home)
    folder = mlflow.artifacts.download_artifacts("models:/digits/1", dst_path=str(tmp_path))
    assert not list(Path(folder).rglob("*.pkl"))
    required = (Path(folder) / "requirements.txt").read_text().split()
    assert {line.split("==")[0] for line in required} == set(REQUIRED)
    forbidden = ("paretovid", "ray", "optuna", "hydra", "sklearn", "matplotlib", "pytorchvideo")
    code = (
        "import sys, json\n"
        f"for name in {forbidden!r}: sys.modules[name] = None\n"
        "import mlflow\n"
        f"model = mlflow.pyfunc.load_model({str(folder)!r})\n"
        f"answer = model.predict([{videos[0]!r}], params={{'max_gflops': 0.05}})[0]\n"
        "print(json.dumps(answer))"
    )
    environment = {**os.environ, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=False, env=environment, cwd=tmp_path,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    here = prediction.Predictor(home, "models:/digits/1").predict(videos[:1], max_gflops=0.05)[0]
    there = json.loads(ran.stdout)
    assert there["labels"] == here["labels"] and there["gflops"] == here["gflops"]
    assert there["compute_seconds"] > 0 and there["decode_seconds"] > 0


def test_card_carries_the_numbers(promoted: list[registry.Promotion], home: Home) -> None:
    version = open_store(home).client.get_model_version("digits", "1")
    card = version.description or ""
    # What stands in its rows: test_card.py. Here, that it is the card of this version's point.
    point = json.loads(home.trial("tiny", "t0000").result.read_text())["points"][0]
    for line in (
        f"| top-1 | {100 * point['test']['top1']:.2f} % | {100 * point['val']['top1']:.2f} % |",
        f"| GFLOPs per video, mean | {point['test']['gflops']:.5g} | {point['val']['gflops']:.5g} |",
        *(f"* {gate.name}: {gate.detail}" for gate in promoted[0].gates),
    ):
        assert line in card.splitlines()
    assert version.tags["paretovid.gflops"] == repr(point["test"]["gflops"])
    assert len(version.tags["paretovid.manifest_sha256"]) == 64


@pytest.mark.slow
def test_rollback_follows_the_journal(home: Home) -> None:
    for point in ("t0000-p00", "b0000-p00"):
        registry.promote(home, "tiny", name="other", alias="live", point=point)
    back = registry.rollback(home, "other", "live")
    assert (back.version, back.previous) == ("1", "2")
    assert (back.point, back.uri) == ("tiny/t0000-p00", "models:/other@live")
    assert "moved" not in str(back)
    with pytest.raises(UsageError, match="no other before"):
        registry.rollback(home, "other", "live")
    with pytest.raises(UnknownNameError, match="live"):
        registry.rollback(home, "other", "liv")
    with pytest.raises(UnknownNameError, match="model"):
        registry.rollback(home, "nothing", "live")


def test_an_oracle_is_refused(home: Home) -> None:
    with pytest.raises(registry.GateError, match="reads the ground truth"):
        registry.promote(home, "tiny", name="oracle", point="b0001-p00")
    assert "oracle" not in {entry["name"] for entry in registry.list_models(home)}


@pytest.mark.slow
def test_other_answers_than_measured_are_refused(home: Home) -> None:
    path = home.trial("tiny", "b0000").model
    original = path.read_bytes()
    tensors = load_file(path)
    save_file(
        {
            name: value + 1.0 * (value.dim() > 1) * value.abs().max() * value.sign()
            for name, value in tensors.items()
        },
        path,
    )
    try:
        with pytest.raises(registry.GateError, match=r"raw_video: .*apart"):
            registry.promote(home, "tiny", name="tampered", point="b0000-p02")
    finally:
        path.write_bytes(original)
    assert "tampered" not in {entry["name"] for entry in registry.list_models(home)}


def test_other_backbones_are_refused(home: Home, tmp_path: Path) -> None:
    (path,) = home.backbone("moving_digits", "mobilenet_v2_w025@16").glob("backbone.json")
    original = path.read_text()
    path.write_text(original.replace('"weights_sha256": "', '"weights_sha256": "0'))
    try:
        with pytest.raises(StaleFeaturesError, match="trained anew"):
            registry.promote(home, "tiny", name="stale", point="t0000-p00")
    finally:
        path.write_text(original)


@pytest.mark.parametrize(
    ("name", "alias"), [("a/b", None), ("", None), ("a", "latest"), ("a", "v1"), ("a", "x y")]
)
def test_bad_names(home: Home, name: str, alias: str | None) -> None:
    with pytest.raises(UsageError, match="cannot be called"):
        registry.promote(home, "tiny", name=name, alias=alias, knee=True)


def test_unknown_models_list_the_known(
    promoted: list[registry.Promotion], home: Home, videos: list[str]
) -> None:
    for model in ("models:/digits@nobody", "models:/digits/99", "models:/nothing@champion"):
        with pytest.raises(UsageError) as error:
            prediction.predict(home, model, videos)
        assert "models:/digits@champion" in error.value.hint
    with pytest.raises(UsageError, match="is no model"):
        prediction.predict(home, "digits", videos)


@pytest.mark.slow
@pytest.mark.parametrize("full_at", ["TemporaryDirectory", *CALLS_OF_A_PROMOTION])
def test_a_full_disk_is_told_and_leaves_nothing_of_a_promotion(
    home: Home, small_disk: Path, monkeypatch: pytest.MonkeyPatch, full_at: str
) -> None:
    """Filled right before each call of MLflow's that takes room, and before the package is written."""
    tight = Home(small_disk / "home")
    tight.root.mkdir()
    for part in ("sweeps", "data", "backbones", "features"):
        (tight.root / part).symlink_to(home.root / part)
    (small_disk / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk / "tmp"))
    open_store(tight)
    before = _files(small_disk)
    owner, called = (tempfile, full_at) if full_at == "TemporaryDirectory" else (mlflow.MlflowClient, full_at)
    call = getattr(owner, called)
    fillers: list[Path] = []

    def filled(*args: Any, **given: Any) -> Any:
        if not fillers:
            fillers.append(fill(small_disk))
        return call(*args, **given)

    monkeypatch.setattr(owner, called, filled)
    with pytest.raises(Exception) as raised:
        registry.promote(tight, "tiny", name="digits", alias="champion", point="t0000-p00")
    fault = infrastructure_fault(raised.value)
    assert fault is not None and fault.is_full and str(small_disk) in fault.reason
    fillers[0].unlink()
    assert _files(small_disk) - before <= {"home/mlflow.lock"}
    store = open_store(tight)
    assert [*store.client.search_registered_models(), *store.client.search_model_versions()] == []
    # The row of a model may stay, where there was no room to forget it either: without a name, and never finished.
    models = store.client.search_logged_models(experiment_ids=[store.experiment_id])
    assert {str(model.status) for model in models} <= {"PENDING"}
    made = registry.promote(tight, "tiny", name="digits", alias="champion", point="t0000-p00")
    assert made.version == "1" and registry.list_models(tight)[0]["aliases"] == ["champion"]


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
