"""The examples do what they say, at small sizes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from examples import choose_from_front, sweep_from_python
from tests.platform_tests.conftest import SMALL_DATA, copied

from paretovid.platform.fronts.build import read_front
from paretovid.platform.registry.promotion import Promotion
from paretovid.platform.storage.home import Home
from paretovid.trainables.errors import UsageError

ROOT = Path(__file__).parents[2]
FORBIDDEN = ("paretovid", "ray", "optuna", "hydra", "sklearn", "matplotlib", "pytorchvideo")
"""What a consumer does not have."""


@pytest.fixture(scope="module")
def home(small_home_copy: Callable[[Path], Home], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield small_home_copy(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def promoted(home: Home) -> Promotion:
    """The choice without a budget, from the example."""
    return choose_from_front.main([str(home.root), "tiny", "--name", "digits"])


@pytest.mark.slow
def test_a_choice_without_a_budget_is_the_cheapest_within_the_margin(home: Home, promoted: Promotion) -> None:
    front = read_front([home.sweep("tiny")])
    best = max(point.record.val.quality for point in front.front)
    good = [point for point in front.front if point.record.val.quality >= best - 0.01]
    cheapest = min(good, key=lambda point: point.record.val.gflops)
    assert (promoted.uri, promoted.point) == ("models:/digits@champion", f"tiny/{cheapest.id}")


def test_a_choice_within_a_budget_keeps_it_and_too_small_a_one_is_refused(home: Home) -> None:
    front = read_front([home.sweep("tiny")])
    most_gflops = max(point.record.val.gflops for point in front.front)
    assert choose_from_front.pick(front, max_gflops=most_gflops, margin=0).record.val.gflops <= most_gflops
    with pytest.raises(UsageError):
        choose_from_front.pick(front, max_gflops=1e-9, margin=0)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_consumer_predicts_without_the_platform(home: Home, promoted: Promotion, tmp_path: Path) -> None:
    video = min(home.data("moving_digits").rglob("test_*.mp4"))
    example = ROOT / "examples" / "predict_as_consumer.py"
    (tmp_path / "notes.mp4").write_text("no video")
    words = [str(example), promoted.uri, str(video), "notes.mp4", "--max-gflops", "0.05"]
    code = (
        "import runpy, sys\n"
        f"for name in {FORBIDDEN!r}: sys.modules[name] = None\n"
        f"sys.argv = {words!r}\n"
        f"runpy.run_path({str(example)!r}, run_name='__main__')\n"
    )
    environment = {**os.environ, "MLFLOW_TRACKING_URI": promoted.tracking_uri}
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=tmp_path,
    )
    assert ran.returncode == 0, ran.stderr
    answer, unreadable = map(json.loads, ran.stdout.splitlines())
    assert unreadable["video"] == "notes.mp4" and unreadable["error"] and "best" not in unreadable
    assert answer["video"] == str(video) and answer["best"] and 0 < answer["gflops"] <= 0.05


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(420)
@pytest.mark.usefixtures("shared_cluster")
def test_a_sweep_from_python(
    prepared_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    home = copied(prepared_home, tmp_path / "home")
    words = [*SMALL_DATA, "training.epochs=1", "search.trials=2", "baselines=[]", f"home={home}"]
    sweep_from_python.main(words)
    first, *points = capsys.readouterr().out.splitlines()
    front = read_front([Home(home).sweep("lite_eval-moving_digits-1")])
    assert first.startswith(f"lite_eval-moving_digits-1: {len(front.points)} operating points")
    assert [line.split()[0] for line in points] == [point.id for point in front.front]
