"""The code that travels with a model: what it needs, nothing else, under a name of its own content."""

import subprocess
import sys
from pathlib import Path

import pytest

from paretovid.platform.registry.runtime_code import needed_modules, write_runtime_package


def test_only_what_prediction_needs_travels() -> None:
    modules = set(needed_modules())
    assert {"", "recognizer", "methods.lite_eval", "baselines.uniform", "data.videos", "provider"} <= modules
    assert "backbones.paper" in modules, "catalogs name their entries by import strings"
    left = {"trial", "testing", "features.extract", "data.moving_digits", "backbones.training"}
    assert not left & modules


@pytest.mark.slow
def test_package_runs_without_paretovid(tmp_path: Path) -> None:
    package = write_runtime_package(tmp_path)
    assert "paretovid.trainables" not in "".join(path.read_text() for path in tmp_path.rglob("*.py"))
    code = (
        f"import sys; sys.modules['paretovid'] = None; sys.path.insert(0, {str(tmp_path)!r})\n"
        f"from {package}.recognizer import knobs_of\n"
        "print(len(knobs_of('lite_eval')))\n"
        "loaded = {name.split('.')[0] for name in sys.modules}\n"
        "assert not loaded & {'ray', 'optuna', 'mlflow', 'hydra', 'sklearn', 'pytorchvideo'}, loaded"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) >= 3


@pytest.mark.slow
def test_a_loaded_package_needs_its_folder_no_more(tmp_path: Path) -> None:
    """MLflow loads a model's code from a download that is gone when the next version is loaded."""
    package = write_runtime_package(tmp_path / "code")
    code = (
        f"import sys, shutil; sys.path.insert(0, {str(tmp_path / 'code')!r})\n"
        f"from {package}.recognizer import knobs_of\n"
        f"from {package}.backbones.catalog import component\n"
        f"shutil.rmtree({str(tmp_path / 'code')!r})\n"
        "print(len(knobs_of('uniform')), component('resnet50@224').name)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def small_source(root: Path, answer: int) -> Path:
    root.mkdir()
    (root / "__init__.py").write_text("")
    (root / "recognizer.py").write_text("from paretovid.trainables.values import ANSWER\n")
    (root / "values.py").write_text(f"ANSWER = {answer}\n")
    (root / "unused.py").write_text("import ray\n")
    return root


def test_name_follows_content_and_versions_live_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = []
    for answer in (1, 2):
        source = small_source(tmp_path / f"source{answer}", answer)
        names.append(write_runtime_package(tmp_path / f"out{answer}", root=source))
        assert write_runtime_package(tmp_path / f"again{answer}", root=source) == names[-1]
        monkeypatch.syspath_prepend(str(tmp_path / f"out{answer}"))
        assert not (tmp_path / f"out{answer}" / names[-1] / "unused.py").exists()
    assert names[0] != names[1]
    answers = [__import__(f"{name}.values", fromlist=["ANSWER"]).ANSWER for name in names]
    assert answers == [1, 2]


def test_what_does_not_travel_is_an_error(tmp_path: Path) -> None:
    source = small_source(tmp_path / "source", 1)
    (source / "values.py").write_text("from paretovid.platform.storage.home import Home\n")
    with pytest.raises(ValueError, match=r"paretovid\.platform\.storage\.home"):
        write_runtime_package(tmp_path / "out", root=source)
