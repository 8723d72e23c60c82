"""A home made by an earlier commit is listed, shown, resumed, promoted and predicted with, wherever it is unpacked.

What it holds and how it was made: `tests/fixtures/old_home/README.md`.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import math
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.platform_tests.test_sweep import paretovid

from paretovid.platform.records.journal import read_journal
from paretovid.platform.registry import prediction
from paretovid.platform.registry import promotion as registry
from paretovid.platform.storage.home import Home
from paretovid.platform.testing.audit import audit
from paretovid.platform.tracking.artifact_places import artifact_places

needs_its_mlflow = pytest.mark.skipif(
    tuple(int(part) for part in importlib.metadata.version("mlflow").split(".")[:2]) < (3, 17),
    reason="its MLflow store is of MLflow 3.17, and older ones do not read a later schema",
)

FIXTURE = Path(__file__).parents[1] / "fixtures" / "old_home"
MADE_AT = Path("/srv/paretovid-home")
MODELS = ("old-digits", "old-moments")
CORRECTED = {
    "sweep": ("hypervolume",),
    "front_localization": ("hypervolume", "reference", "points.on_front"),
}
"""Figures of that day that were wrong, and are not compared: the hypervolume of a running sweep had another reference
point than its front's, and what lies on a front of localization was decided by the mAP of whole videos."""


def unpack(root: Path) -> Home:
    for archive in archives():
        with tarfile.open(fileobj=archive) as file:
            file.extractall(root, filter="data")
    return Home(root)


def archives() -> Iterator[io.BytesIO]:
    """Each archive, put together from its parts."""
    for first in sorted(FIXTURE.glob("*.tar.xz.0")):
        yield io.BytesIO(b"".join(part.read_bytes() for part in sorted(FIXTURE.glob(f"{first.stem}.*"))))


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """For tests that only read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield unpack(tmp_path_factory.mktemp("old"))


@pytest.fixture
def home(unpacked: Home, tmp_path: Path) -> Home:
    """For those that write."""
    return Home(shutil.copytree(unpacked.root, tmp_path / "copy"))


def stored(name: str) -> Any:
    """What the command answered then."""
    return json.loads((FIXTURE / f"{name}.json").read_text())


def answered(*words: str, home: Home) -> Any:
    return json.loads(paretovid(*words, "--json", home=home.root)[0])


def without(document: Any, names: Sequence[str]) -> Any:
    """The document without some fields: `name`, or `list.name` in every entry of a list."""
    for name in names:
        section, _, field = name.rpartition(".")
        for entry in document[section] if section else [document]:
            del entry[field]
    return document


def check_equal(found: Any, expected: Any, where: str = "", *, relative: float = 1e-9) -> None:
    """The same document; numbers but for their last digits, which another processor may round otherwise.

    Fields that later versions have added are allowed.
    """
    if isinstance(expected, dict):
        for key, value in expected.items():
            assert key in found, f"{where}: {key} is gone"
            check_equal(found[key], value, f"{where}.{key}", relative=relative)
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for place, (one, other) in enumerate(zip(found, expected, strict=True)):
            check_equal(one, other, f"{where}[{place}]", relative=relative)
    elif isinstance(expected, float):
        assert math.isclose(found, expected, rel_tol=relative, abs_tol=relative), (where, found, expected)
    else:
        assert found == expected, where


@pytest.mark.slow
def test_archives_are_small_and_hold_no_pickle_and_no_path_of_a_machine() -> None:
    for path in FIXTURE.iterdir():
        assert path.stat().st_size < (1_000_000 if ".tar.xz." in path.name else 200_000), path
    for archive in archives():
        with tarfile.open(fileobj=archive) as file:
            for member in file.getmembers():
                assert not member.name.endswith((".pkl", ".pt", ".pth")), member.name
                content = file.extractfile(member)
                text = b"" if content is None else content.read()
                for machine in (b"/home/", b"/root/", b"/Users/"):
                    assert machine not in text, (member.name, machine)


def test_its_sweeps_are_listed_and_shown(unpacked: Home) -> None:
    check_equal(answered("sweeps", home=unpacked), stored("sweeps"))
    for sweep in ("finished", "interrupted", "localization"):
        expected = without(stored(f"sweep_{sweep}"), CORRECTED["sweep"])
        found = answered("sweeps", sweep, home=unpacked)
        # Commands name the home since.
        found["waits"] = [wait.replace(unpacked.in_commands, "") for wait in found["waits"]]
        check_equal(found, expected)


@pytest.mark.parametrize("sweep", ["finished", "localization"])
def test_its_fronts_are_what_they_were(unpacked: Home, sweep: str) -> None:
    expected = without(stored(f"front_{sweep}"), CORRECTED.get(f"front_{sweep}", ()))
    found = answered("front", sweep, home=unpacked)
    for each in (found, expected):
        each["points"].sort(key=lambda point: point["id"])
    assert len(expected["points"]) >= 2
    check_equal(found, expected)


@pytest.mark.slow
@needs_its_mlflow
@pytest.mark.parametrize("model", MODELS)
def test_its_registered_models_predict_what_they_did(
    unpacked: Home, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_equal(answered("models", home=unpacked), stored("models"))
    assert artifact_places(unpacked).recorded == MADE_AT and artifact_places(unpacked).is_moved
    expected = stored(f"predict_{model}")
    monkeypatch.chdir(unpacked.root)
    videos = [video["path"] for video in expected["videos"]]
    assert videos and all(Path(video).is_file() for video in videos)
    found = answered("predict", f"models:/{model}@champion", *videos, home=unpacked)
    check_equal(found, expected, relative=1e-4)


CONSUMER = """
import json, sys
for name in ("paretovid", "ray", "optuna", "hydra"): sys.modules[name] = None
import mlflow
model = mlflow.pyfunc.load_model("models:/old-digits@champion")
answers = model.predict(sys.argv[1:])
print(json.dumps([{key: answer[key] for key in ("labels", "gflops", "steps")} for answer in answers]))
"""


@needs_its_mlflow
@pytest.mark.slow
def test_relocated_it_serves_consumers_who_have_mlflow_alone(home: Home) -> None:
    done = answered("relocate", home=home)
    assert (done["before"], done["now"]) == (str(MADE_AT), str(home.root))
    assert done["locations"]["model_versions"] == len(MODELS)
    assert sum("tracked.json" in name for name in done["documents"]) == 3
    expected = stored("predict_old-digits")["videos"]
    # MLflow exports the stores that this process has opened.
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "_MLFLOW"))}
    consumer = subprocess.run(
        [sys.executable, "-c", CONSUMER, *(each["path"] for each in expected)],
        cwd=home.root,
        env={**clean, "MLFLOW_TRACKING_URI": home.mlflow_url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert consumer.returncode == 0, consumer.stderr
    for found, answer in zip(json.loads(consumer.stdout.splitlines()[-1]), expected, strict=True):
        check_equal(found, {key: answer[key] for key in found}, relative=1e-4)


@pytest.mark.slow
@needs_its_mlflow
@pytest.mark.parametrize("is_relocated", [False, True])
def test_a_point_of_its_finished_sweep_is_promoted(home: Home, is_relocated: bool) -> None:
    if is_relocated:
        answered("relocate", home=home)
    promoted = registry.promote(home, "finished", name="old-digits", alias="champion", knee=True)
    assert (promoted.version, promoted.previous) == ("2", "1")
    assert all(gate.passed for gate in promoted.gates)
    videos = [home.root / video["path"] for video in stored("predict_old-digits")["videos"]]
    one, two = (prediction.predict(home, f"models:/old-digits/{n}", videos)["videos"] for n in (1, 2))
    check_equal(two, one, relative=1e-4)


@needs_its_mlflow
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(420)
@pytest.mark.usefixtures("shared_cluster")
def test_its_interrupted_sweep_resumes(home: Home) -> None:
    sweep = home.sweep("interrupted")
    folder = sweep.folder
    before = {path: path.read_bytes() for path in folder.glob("trials/*/result.json")}
    finished = {path.parent.name for path in before}
    assert len(finished) >= 2 and list(folder.glob("trials/*/checkpoint-*")), (
        "it was interrupted in the middle"
    )
    old = len(read_journal(sweep).entries)
    _, err = paretovid("resume", "interrupted", "search.concurrent=1", home=home.root)
    assert "[5/5]" in err and "MLflow takes nothing" not in err and "not tracked" not in err
    assert all(path.read_bytes() == content for path, content in before.items())
    started = [entry.trial for entry in read_journal(sweep).entries[old:] if entry.event == "start"]
    assert started and not finished & set(started)
    found = audit(home, "interrupted")
    assert (found.searched_with_result, found.baselines_with_result) == (4, 1)
    assert found.study == {"COMPLETE": 4} and found.mlflow == {"FINISHED": 5} and found.parent == "FINISHED"
    assert (found.mlflow_duplicates, found.zombies, found.repeated) == (0, 0, 0)
