"""`paretovid doctor --deep`: whatever was changed in a home since it was written is found, and named."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from paretovid.platform.cli.deep_check import check_deeply
from paretovid.platform.cli.main import main
from paretovid.platform.console.progress import Progress
from paretovid.platform.storage.home import Home, open_home
from paretovid.platform.testing.sweeps import synthetic_sweep


def problems(home: Home) -> list[str]:
    return [check.found for check in check_deeply(home, Progress.silent()) if check.state == "fail"]


def flip(path: Path) -> None:
    """One bit, and neither size nor time: what `verified.json` goes by does not show it."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture
def home(small_home_copy: Callable[[Path], Home], tmp_path: Path) -> Home:
    return small_home_copy(tmp_path / "home")


def test_a_home_as_it_was_written_is_in_order_and_its_reading_is_shown(home: Home) -> None:
    shown = io.StringIO()
    (check,) = check_deeply(home, Progress(1, stream=shown, terminal=False))
    assert check.state == "ok" and "as they were written" in check.found
    assert "reading all that the home keeps" in shown.getvalue()


def test_each_thing_that_was_changed_is_named(home: Home) -> None:
    (features, *_) = sorted(home.root.glob("features/*/*/shard_*.npy"))
    (weights, *_) = sorted(home.root.glob("backbones/*/*/backbone.safetensors"))
    first, second, *_ = synthetic_sweep(home.sweep("s")).with_result()
    assert problems(home) == []
    flip(features)
    flip(weights)
    first.result.write_text(first.result.read_text().replace('"map": 0', '"map": 7', 1))
    second.scores.write_bytes(second.scores.read_bytes()[:-8])
    found = problems(home)
    assert len(found) == 4
    for path in (features, weights.parent, first.result, second.scores):
        assert any(str(path) in problem for problem in found), (path, found)


def test_a_result_that_says_something_else_than_its_scores_is_named(tmp_path: Path) -> None:
    home = Home(tmp_path)
    first, second, *_ = synthetic_sweep(home.sweep("s")).with_result()
    assert problems(home) == []
    for trial, name, value in ((first, "map", 0.901), (second, "gflops", 0.001)):
        document = json.loads(trial.result.read_text())
        document["points"][1]["test"][name] = value
        trial.result.write_text(json.dumps(document))
    found = problems(home)
    assert len(found) == 2
    assert f"{first.result}: {first.name}-p01 has map 0.901 on test, its scores give 0." in found[0]
    assert f"{second.result}: {second.name}-p01 has gflops 0.001 on test, its scores give 0.0" in found[1]


def test_every_command_to_repair_with_names_the_sweep_and_a_home_that_is_not_the_usual_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path / "my home")
    first, second, third, *_ = synthetic_sweep(home.sweep("s"), trials=3).with_result()
    document = json.loads(first.result.read_text())
    document["points"][1]["test"]["map"] = 0.901
    first.result.write_text(json.dumps(document))
    second.model.write_bytes(b"?")
    save_file({"weights": np.full(1, np.nan, np.float32)}, third.model)

    def commands() -> list[str]:
        repairs = [check.repair for check in check_deeply(home, Progress.silent())]
        assert len(repairs) == 3
        return [re.findall(r"`(.*)`", repair)[0] for repair in repairs]

    monkeypatch.delenv("PARETOVID_HOME", raising=False)
    assert commands() == [f"paretovid resume s 'home={home.root}'"] * 3
    monkeypatch.setenv("PARETOVID_HOME", str(home.root))
    assert commands() == ["paretovid resume s"] * 3


def test_the_command_says_so_and_its_status_is_that_of_a_failure(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("paretovid.platform.cli.doctor.run_checks", lambda *words: [])
    assert main(["doctor", "--deep", "--json", f"home={home.root}"]) == 0
    assert [check["state"] for check in json.loads(capsys.readouterr().out)["checks"]] == ["ok"]
    flip(sorted(home.root.glob("features/*/*/shard_*.npy"))[0])
    assert main(["doctor", "--deep", "--json", f"home={home.root}"]) == 1
    answer = capsys.readouterr()
    (check,) = json.loads(answer.out)["checks"]
    assert "their digest differs" in check["found"] and "paretovid extract" in check["mend"]
    assert "reading all that the home keeps" in answer.err


@pytest.mark.slow
def test_a_bucket_is_read_itself_not_its_mirror(
    home: Home, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARETOVID_CACHE", str(tmp_path / "cache"))
    there = open_home(f"{bucket}/home")
    (folder, *_) = sorted(home.root.glob("backbones/*/*"))
    name = folder.relative_to(home.root)
    there.store.upload_from(folder, there.root / name, [path.name for path in folder.iterdir()])
    assert problems(there) == []
    objects = there.store._objects  # type: ignore[attr-defined]
    key, blob = f"{name}/backbone.json", objects.manifest(str(name))["backbone.json"]
    objects.write(f"{name}/{blob.location}/backbone.json", b"?" * blob.bytes)
    assert [problem for problem in problems(there) if "backbone.json" in problem and "digest" in problem]
    objects.remove(f"{name}/{blob.location}/backbone.json")
    assert ["is missing" in problem for problem in problems(there)] == [True], key
