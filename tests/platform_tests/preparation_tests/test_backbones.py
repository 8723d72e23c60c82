"""`backbones=paper` from the command line's words to features, and fine-tuned."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from paretovid.infra.ray_cluster import Cluster
from paretovid.platform.config.load import group_options, load_sweep_config
from paretovid.platform.config.resolve import resolve_preparation
from paretovid.platform.console.progress import Progress
from paretovid.platform.preparation import backbones as stage
from paretovid.platform.preparation import datasets, extraction
from paretovid.platform.storage.home import open_home
from paretovid.trainables.backbones.catalog import component, family
from paretovid.trainables.backbones.description import BackboneDescription
from paretovid.trainables.catalog import method_class, method_config
from paretovid.trainables.data.dataset import Dataset, load_dataset
from paretovid.trainables.data.moving_digits.generate import MovingDigitsConfig, make_moving_digits
from paretovid.trainables.errors import DataError, UsageError
from paretovid.trainables.features.extract import extract_shard, headers
from paretovid.trainables.features.store import FeatureStore, finish

PAPER_METHODS = {
    "ada_frame": {"coarse": "mobilenet_v2@112", "fine": "resnet101@224"},
    "hcms": {"audio": "yamnet@64x96", "fine": "efficientnet_b3@224", "motion": "slowfast_8x8_r50@32x256"},
    "lite_eval": {"coarse": "mobilenet_v2@112", "fine": "resnet101@224"},
    "video_epitoma": {"coarse": "mobilenet_v3_small@224", "fine": "i3d_rgb@8x224"},
}


@pytest.mark.parametrize("method", PAPER_METHODS)
def test_each_method_takes_its_papers_backbones(method: str) -> None:
    config = load_sweep_config([f"method={method}", "backbones=paper", "backbones.weights=random"])
    assert family(config.backbones.family) == PAPER_METHODS[method]
    fields = method_config(method, config.method.model)
    assert set(method_class(method).sources_of(fields)) <= PAPER_METHODS[method].keys()
    resolve_preparation(config)


@pytest.mark.parametrize("name", [name for name in group_options("backbones") if name.startswith("paper")])
def test_every_choice_names_a_family(name: str) -> None:
    config = load_sweep_config([f"backbones={name}", "backbones.weights=random"])
    locations = resolve_preparation(config).backbones.weights
    assert locations == dict.fromkeys(family(config.backbones.family), "random")


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ([], "mobilenet_v2@112 needs weights", "backbones.weights.coarse="),
        (["backbones.weights.coarse=a.pth"], "resnet101@224 needs weights", "resnet101-63fe2227.pth"),
        (["backbones.weights=none.pth"], "backbones.weights=none.pth", "backbones.weights.fine=PATH"),
        (["backbones.weights.motion=a.pth"], "unknown source in backbones.weights", "coarse, fine"),
        (["backbones.weights=random", "backbones.sha256.fine=12"], "is no SHA-256", "64 hex digits"),
        (["backbones.weights=random", "backbones.sha256.best=12"], "unknown source in backbones.sha256", ""),
    ],
)
def test_weights_that_are_not_right_are_reported_before_anything_starts(
    words: list[str], message: str, hint: str
) -> None:
    with pytest.raises(UsageError, match=message) as error:
        resolve_preparation(load_sweep_config(["backbones=paper", *words]))
    assert hint in error.value.hint


def test_the_small_family_takes_no_weights() -> None:
    resolve_preparation(load_sweep_config([]))
    with pytest.raises(UsageError, match="the family small is trained here"):
        resolve_preparation(load_sweep_config(["backbones.weights=random"]))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    config = MovingDigitsConfig(videos_train=4, videos_val=1, videos_test=1, min_seconds=2.0, max_seconds=2.0)
    return make_moving_digits(config, tmp_path_factory.mktemp("data") / "moving_digits")


def load(home: Path, videos: Dataset, words: list[str]) -> tuple[dict[str, str], dict[str, Path]]:
    """Source to component, and source to folder."""
    config = load_sweep_config(["backbones=paper", f"home={home}", *words])
    names = family(config.backbones.family)
    opened = open_home(config.home)
    folders = {source: opened.backbone(videos.name, name) for source, name in names.items()}
    stage.load_given(resolve_preparation(config), opened, videos, names, folders, Progress.silent())
    return names, folders


@pytest.mark.slow
def test_weights_are_fetched_once_and_again_when_another_file_is_named(
    videos: Dataset, tmp_path: Path
) -> None:
    paths = {}
    for source, name in (("coarse", "mobilenet_v2@112"), ("fine", "resnet101@224")):
        torch.manual_seed(len(name))
        paths[source] = tmp_path / f"{source}.pth"
        torch.save(component(name).build(1).trunk.state_dict(), paths[source])
    words = [f"backbones.weights.{source}={path}" for source, path in paths.items()]
    _, folders = load(tmp_path / "home", videos, words)
    origin = BackboneDescription.read(folders["coarse"]).origin
    assert origin.training["weights"] == str(paths["coarse"])
    assert origin.dataset_fingerprint == videos.fingerprint
    changed = {source: (folder / "backbone.json").stat().st_mtime_ns for source, folder in folders.items()}
    load(tmp_path / "home", videos, words)
    assert changed == {s: (folder / "backbone.json").stat().st_mtime_ns for s, folder in folders.items()}
    # A digest that the kept file does not have is not passed over.
    with pytest.raises(DataError, match="has the SHA-256"):
        load(tmp_path / "home", videos, [*words, f"backbones.sha256.coarse={'0' * 64}"])
    other = tmp_path / "other.pth"
    other.write_bytes(paths["coarse"].read_bytes())
    load(tmp_path / "home", videos, [f"backbones.weights.coarse={other}", words[1]])
    assert BackboneDescription.read(folders["coarse"]).origin.training["weights"] == str(other)
    # Another file under the same name.
    torch.manual_seed(1)
    torch.save(component("mobilenet_v2@112").build(1).trunk.state_dict(), other)
    before = BackboneDescription.read(folders["coarse"]).weights_sha256
    load(tmp_path / "home", videos, [f"backbones.weights.coarse={other}", words[1]])
    assert BackboneDescription.read(folders["coarse"]).weights_sha256 != before


@pytest.mark.slow
def test_features_of_real_videos_through_real_backbones(videos: Dataset, tmp_path: Path) -> None:
    words = ["method=hcms", "backbones.weights=random"]
    names, folders = load(tmp_path / "home", videos, words)
    # SlowFast takes seconds a step on a CPU; the cheap two show the way for all.
    backbones = {names[source]: folders[source] for source in ("audio", "fine")}
    described = headers(videos, backbones, "float16")
    stores = {name: tmp_path / f"{name}@{header.fingerprint}" for name, header in described.items()}
    assert extract_shard(videos, videos.records, backbones, stores, 0, "float16") == []
    for name, folder in stores.items():
        finish(folder, described[name], 1)
        store = FeatureStore.open(folder)
        assert store.width == component(name).feature_width and len(store) == len(videos.records)
        values = np.asarray(store.video(videos.records[0].video_id), np.float32)
        assert np.isfinite(values).all() and values.std() > 0
    sampling = described["efficientnet_b3@224"].sampling
    assert json.loads(json.dumps(sampling))["short_side"] == 256


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(180)
def test_fine_tuning_is_a_ray_train_run_and_done_once(
    shared_cluster: Cluster,
    videos: Dataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name, folder = "mobilenet_v2@112", tmp_path / "home" / "backbones" / "moving_digits" / "mobilenet_v2@112"
    words = ["backbones=paper", "backbones.weights=random", f"home={tmp_path / 'home'}", "cluster.cpus=2"]
    tuned = [*words, "backbones.fine_tune=true", "backbones.workers=1"]
    brief = [
        *tuned,
        *(f"backbones.fine_tuning.{word}" for word in ("samples=8", "batch_size=4", "precision=bfloat16")),
    ]

    def made(words: list[str]) -> tuple[BackboneDescription, str]:
        config = load_sweep_config(words)
        home, progress = open_home(config.home), Progress(2, terminal=False)
        plan = resolve_preparation(config)
        stage.load_given(plan, home, videos, {"coarse": name}, {"coarse": folder}, progress)
        return BackboneDescription.read(folder), capsys.readouterr().err

    loaded, _ = made(words)
    assert loaded.origin.labels == () and not loaded.is_fine_tuned
    tuned_one, said = made(brief)
    assert "fine-tuning mobilenet_v2@112: 2 steps, loss" in said
    assert tuned_one.origin.labels == videos.classes
    assert tuned_one.origin.training["weights"] == "random"
    assert tuned_one.weights_sha256 != loaded.weights_sha256
    again, said = made(brief)
    assert again == tuned_one and "reused mobilenet_v2@112" in said
    # What a day was spent on is not lost to a forgotten word.
    for other in (words, tuned, [*brief, "backbones.fine_tuning.seed=1"]):
        with pytest.raises(UsageError, match="would replace them") as refused:
            made(other)
        assert "backbones.fine_tuning.samples=8" in refused.value.hint
    another = tmp_path / "other.pth"
    torch.save(component(name).build(1).trunk.state_dict(), another)
    files = [f"backbones.weights.coarse={another}", f"backbones.weights.fine={another}"]
    with pytest.raises(UsageError, match="another file"):
        made([*(word for word in brief if word != "backbones.weights=random"), *files])
    assert BackboneDescription.read(folder) == tuned_one


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_videos_that_backbones_are_trained_without_are_named(
    shared_cluster: Cluster, videos: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """That of rank 1, which alone has opened it, too."""
    home = tmp_path / "home"
    root = shutil.copytree(videos.root, home / "data" / "moving_digits")
    broken = [root / record.path for record in videos.split("train")[1:3]]
    for path in broken:
        path.write_bytes(b"no video")
    words = [f"home={home}", "cluster.cpus=2", "backbones.workers=2", "backbones.training.effort=0.001"]
    config = load_sweep_config(words)
    plan, name = resolve_preparation(config), family("small")["coarse"]
    stage.train_own(plan, open_home(config.home), load_dataset(root), [name], Progress(1, terminal=False))
    said = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert len(said) == 2
    for path, line in zip(broken, said, strict=True):
        assert line.startswith(f"  left out while backbones were trained: {path}: ")
        assert "cannot be read as a video" in line
    assert sorted(path.name for path in (home / "backbones" / "moving_digits").glob(".progress*")) == []


@pytest.mark.parametrize(
    "entered",
    [
        lambda: stage._training_worker({}),
        lambda: stage._fine_tuning_worker({}),
        lambda: list(extraction._decode({}, None)),  # type: ignore[arg-type]
        lambda: extraction._Compute(None),  # type: ignore[arg-type]
        lambda: datasets._apply(None, [None]),  # type: ignore[arg-type]
    ],
)
def test_processes_that_prepare_write_no_secret_into_their_logs(entered: Callable[[], object]) -> None:
    before = logging.getLogRecordFactory()
    threads = torch.get_num_threads()
    try:
        with pytest.raises((AttributeError, KeyError, TypeError)):
            entered()  # on nothing, for it is what comes first that is asked for
        assert getattr(logging.getLogRecordFactory(), "redacts", False)
    finally:
        logging.setLogRecordFactory(before)
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["backbones.fine_tune=true"], "the family small is trained here"),
        (["backbones.fine_tuning.samples=8"], "backbones.fine_tune is false"),
        (["backbones.fine_tune=true", "backbones.fine_tuning.epochs=8"], "epochs"),
        (["extraction.precision=int4"], "int4"),
    ],
)
def test_settings_that_cannot_be(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve_preparation(load_sweep_config(words))
