"""Every method beside LiteEval (test_sweep.py) through the whole chain: sweep, promote, predict from raw videos.

Model selection and localization, with videos and backbones of their own, do so on a Ray cluster; the trials of the
others train in this process. What a trial does in a process of its own is the same for all methods.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from tests.platform_tests.conftest import copied
from tests.platform_tests.test_sweep import SMALL, paretovid

from paretovid.platform.config.load import group_options
from paretovid.platform.sweeps import sweep
from paretovid.platform.testing.sequential import trained_here

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(420),
]

SETTINGS_OF_OTHERS = (
    "ada_frame_paper",
    *(name for name in group_options("method") if name.endswith("_paper_size")),
)
METHODS = [name for name in group_options("method") if name not in ("lite_eval", *SETTINGS_OF_OTHERS)]


UNTRIMMED = [
    *(
        word
        for word in SMALL
        if not word.startswith(("data.appearance", "data.motion", "data.easy", "data.max"))
    ),
    "data.action_classes=3",
    "data.min_seconds=4",
    "data.max_seconds=5",
]
POOL = [
    "baselines=[{name: single-model, method: single_model}, {name: oracle, method: model_oracle}]",
    "method.model.alphas=[0.01, 1.0]",
]
"""Of `model_selection`, which has a data set, backbones and baselines of its own."""


@pytest.fixture(scope="module")
def home(prepared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One home for all: its videos, backbones and features are made once."""
    return copied(prepared_home, tmp_path_factory.mktemp("home"))


def needs(method: str, home: Path) -> list[str]:
    """Overrides without which a method has no sweep."""
    if method != "video_epitoma_selected":
        return []
    # The cheapest anchor of a sweep of VideoEpitoma is a stand-alone training, which leaves its selector behind.
    trials = home / "sweeps" / "video_epitoma-moving_digits" / "trials"
    if not (trials / "t0001" / "selector").is_dir():
        few = ["search.trials=2", "baselines=[]", f"name={trials.parent.name}"]
        paretovid("sweep", "method=video_epitoma", *SMALL, *few, home=home)
    return [f"method.model.selector={trials / 't0001'}"]


@pytest.fixture
def place(method: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the method's trials train."""
    if method.startswith("model_selection"):
        request.getfixturevalue("shared_cluster")
    else:
        monkeypatch.setattr(sweep, "run_sweep", partial(sweep.run_sweep, backend=trained_here()))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.usefixtures("place")
def test_sweep_promote_predict(method: str, home: Path, tmp_path: Path) -> None:
    localizes = method.endswith("localization")
    baseline, data = ("motion_only", "moving_digits_untrimmed") if localizes else ("uniform", "moving_digits")
    few = ["search.trials=2", f"baselines=[{{name: {baseline}, method: {baseline}}}]", *needs(method, home)]
    if method == "model_selection":
        few, data = [few[0], *POOL], "moving_digits_trimmed"
    name = f"{method}-{data}"
    words = ["sweep", f"method={method}", f"name={name}", *(UNTRIMMED if localizes else SMALL), *few]
    out, _ = paretovid(*words, home=home)
    assert "promote" in out
    document = json.loads(paretovid("front", name, "--json", home=home)[0])
    assert document["baselines"] and {p["trial"] for p in document["points"]} == {"t0000", "t0001"}
    point = max((p for p in document["points"] if p["on_front"]), key=lambda p: p["gflops"])
    paretovid("promote", name, "--point", point["id"], "--as", method, "--alias", "champion", home=home)
    videos = sorted((home / "data" / data / "videos").glob("test_*.mp4"))[:2]
    pictures = tmp_path / "pictures"
    out, _ = paretovid(
        "predict",
        f"models:/{method}@champion",
        *map(str, videos),
        "--json",
        "--picture",
        str(pictures),
        home=home,
    )
    answers = json.loads(out)["videos"]
    scores = load_file(home / "sweeps" / name / "trials" / point["trial"] / "scores.safetensors")
    recorded = scores["test/gflops"][int(point["id"][-2:])]
    assert [answer["gflops"] for answer in answers] == pytest.approx(recorded[:2].tolist())
    assert len(list(pictures.glob("*.png"))) == 2
    assert all(("instances" in answer) == localizes for answer in answers)
    assert ("map_iou_0.1_0.7" in point) == localizes and ("map" in point) != localizes
