"""Plug-ins on the command line, on other nodes and in promoted models; and one wheel of a plug-in of each kind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.conftest import Clusters

from paretovid.infra.nodes import NodeInfo, own_versions, version_differences
from paretovid.platform.cli.main import main
from paretovid.platform.config.load import group_options, load_sweep_config, to_record
from paretovid.platform.config.resolve import plugins_in_use
from paretovid.platform.console.progress import Progress
from paretovid.platform.execution import cluster as cluster_module
from paretovid.platform.execution.cluster import code_to_send, problems_of
from paretovid.platform.registry.promotion import promote
from paretovid.platform.registry.runtime_code import third_party_requirements, write_runtime_package
from paretovid.platform.storage.home import Home
from paretovid.platform.sweeps.sweep import extend_sweep, plan_sweep, resume_sweep, run_sweep
from paretovid.platform.sweeps.trials import trainable_on
from paretovid.platform.testing.simulated import simulated
from paretovid.trainables.backbones.catalog import BACKBONES
from paretovid.trainables.context import LocalContext
from paretovid.trainables.errors import InfrastructureError, ParetovidError, UnknownNameError, UsageError
from paretovid.trainables.method import METHODS
from paretovid.trainables.plugins.catalog import VARIABLE
from paretovid.trainables.provenance import code_version
from paretovid.trainables.training.config import TrialConfig

EXAMPLES = Path(__file__).parents[2] / "examples" / "plugins"
PACKAGE = "paretovid_example_plugins"
COMMANDS = """
import contextlib, io, json, sys
from paretovid.platform.cli.main import main

for words in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        status = main(words)
    print(json.dumps({"status": status, "out": out.getvalue()}))
"""
pytestmark = pytest.mark.usefixtures("no_plugins")


def with_method(folder: Path, name: str = "first_sure") -> str:
    """A method of one file and one YAML in a folder; returns the word that names it."""
    source = EXAMPLES / PACKAGE
    text = (source / "first_sure.py").read_text().replace('"first_sure"', f'"{name}"')
    (folder / "mine.py").write_text(text)
    spaces = folder / "search_spaces" / "method"
    spaces.mkdir(parents=True)
    yaml = (source / "search_spaces" / "method" / "first_sure.yaml").read_text()
    (spaces / f"{name}.yaml").write_text(yaml.replace("name: first_sure", f"name: {name}"))
    return "plugins=[mine]"


@pytest.mark.slow
def test_a_method_of_one_file_and_one_yaml_is_chosen_by_its_name(tmp_path: Path) -> None:
    word = with_method(tmp_path)
    with pytest.raises(UnknownNameError, match="'first_sure'"):
        load_sweep_config(["method=first_sure"])
    config = load_sweep_config([word, "method=first_sure", f"home={tmp_path / 'home'}"])
    assert config.method.name == "first_sure" and list(config.method.training_knobs) == ["stride"]
    assert to_record(config)["plugins"] == ["mine"]
    assert "first_sure" in group_options("method") and "lite_eval" in group_options("method")
    assert plan_sweep(config).name == "first_sure-moving_digits-1"


def test_a_sweep_without_plugins_is_recorded_as_before() -> None:
    assert "plugins" not in to_record(load_sweep_config([]))


def test_two_files_for_one_choice_are_named(tmp_path: Path) -> None:
    word = with_method(tmp_path)
    (tmp_path / "search_spaces" / "method" / "hcms.yaml").write_text("name: hcms\n")
    with pytest.raises(
        UsageError, match=r"method=hcms is there twice: .*method/hcms\.yaml, and .*search_spaces"
    ):
        load_sweep_config([word])


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("plugins=mine", "plugins is a list of modules, not 'mine'"),
        ("plugins=[nowhere]", "there is no module nowhere"),
        ("plugins=[1]", "'1' is no name of a module"),
    ],
)
def test_bad_words_are_refused_before_anything_is_made(word: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_sweep_config([word])


def test_what_only_this_process_has_imported_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_method(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    __import__("mine")
    config = load_sweep_config([f"home={tmp_path / 'home'}", "baselines=[]"])
    config.method.name, config.method.training_knobs, config.method.inference_knobs = "first_sure", {}, {}
    with pytest.raises(UsageError, match="method first_sure was registered by importing mine") as raised:
        plan_sweep(config)
    assert "plugins=[mine]" in raised.value.hint


def test_a_method_that_could_not_be_promoted_is_refused(tmp_path: Path) -> None:
    word = with_method(tmp_path)
    with (tmp_path / "mine.py").open("a") as file:
        file.write("\n\ndef home():\n    from paretovid.platform.storage.home import Home\n    return Home\n")
    config = load_sweep_config([word, "method=first_sure", f"home={tmp_path / 'home'}"])
    with pytest.raises(
        UsageError, match=r"cannot be promoted: .*mine\.py imports paretovid\.platform\.storage\.home"
    ):
        plan_sweep(config)


@pytest.mark.slow
def test_only_the_plugins_that_a_sweep_uses_have_a_part_in_it(tmp_path: Path) -> None:
    """Of its method, its baselines, its backbones, its reader and `plugins=`; whatever else this process knows."""
    word = with_method(tmp_path)
    for name in ("tiny_backbones", "file_names"):
        shutil.copy(EXAMPLES / PACKAGE / f"{name}.py", tmp_path)
    load_sweep_config(["plugins=[mine,tiny_backbones,file_names]"])

    def used(*words: str) -> tuple[str, ...]:
        return plugins_in_use(load_sweep_config([f"home={tmp_path / 'home'}", *words]))

    assert used() == ()
    assert used(word) == ("mine",), "asked for, if only for what happens when it is imported"
    assert used("method=first_sure") == ("mine",)
    assert used("baselines=[{name: b, method: first_sure}]") == ("mine",)
    assert used("backbones.family=example_tiny") == ("tiny_backbones",)
    read = ["data=table", "data.reader=file_names", "data.name=n", "data.annotations=a", "data.videos=v"]
    assert used(*read) == ("file_names",)
    mine = load_sweep_config([f"home={tmp_path / 'home'}", "method=first_sure"])
    assert plan_sweep(mine).plan.code_version == code_version(["mine"]) != code_version()


def test_nodes_are_sent_the_files_and_asked_for_them(tmp_path: Path) -> None:
    without = own_versions()
    assert str(tmp_path / "mine.py") not in code_to_send()
    load_sweep_config([with_method(tmp_path)])
    assert str(tmp_path / "mine.py") in code_to_send()
    there = NodeInfo(name="there", resources={}, versions=without)
    assert version_differences(there, own_versions()) == []
    (difference,) = version_differences(there, own_versions(["mine"]))
    assert re.fullmatch(r"plug-in mine missing \(here code [0-9a-f]{12}\)", difference)


def test_a_plugin_that_does_not_import_there_is_why_a_node_cannot_be_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The node is made up; `test_many_nodes.py` has real ones."""
    monkeypatch.setenv(VARIABLE, "nowhere")
    from paretovid.infra.nodes import _inspection

    assert _inspection()(None)["error"] == "plugins=[nowhere]: there is no module nowhere"
    lost = NodeInfo(
        name="there", resources={}, versions={}, error="plugins=[nowhere]: there is no module nowhere"
    )
    assert problems_of(lost) == ["there cannot be asked: plugins=[nowhere]: there is no module nowhere"]


def test_nodes_are_asked_for_the_plugins_of_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the cluster nor its answer is there; `test_many_nodes.py` has real ones."""
    word = with_method(tmp_path)
    asked = []
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr(cluster_module, "connect", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(cluster_module, "check_nodes", lambda home, plugins: asked.append(plugins))
    monkeypatch.setattr(cluster_module, "take_signals_again", lambda: None)
    address = ["cluster=address", "cluster.address=127.0.0.1:1", f"home={tmp_path / 'home'}"]
    with cluster_module.cluster_of(load_sweep_config([word, "method=first_sure", *address])):
        pass
    assert asked == [("mine",)]


def test_a_worker_with_another_edition_of_a_plugin_is_refused(tmp_path: Path) -> None:
    word = with_method(tmp_path)
    load_sweep_config([word])
    trial = TrialConfig(
        sweep="s", trial="t", method="first_sure", dataset="", features={}, output="", plugins=("mine",)
    )
    assert TrialConfig.from_json(json.loads(json.dumps(trial.to_json()))) == trial
    without = replace(trial, plugins=())
    assert trial.digest_by("c") == without.digest_by("c") and trial.digest != without.digest
    with pytest.raises(
        InfrastructureError, match=rf"runs paretovid {trial.code_version}, the driver {code_version()}"
    ):
        trainable_on(None, code_version(), plugins=("mine",))(dict(trial.to_json()), LocalContext())


def test_a_worker_imports_the_plugins_before_anything_else() -> None:
    run = trainable_on(None, code_version(), plugins=("nowhere",))
    with pytest.raises(UsageError, match="there is no module nowhere"):
        run({}, LocalContext())


@pytest.mark.slow
def test_a_plugins_code_travels_in_the_models_package(tmp_path: Path) -> None:
    package = tmp_path / "theirs"
    package.mkdir()
    for name in ("__init__", "first_sure", "tiny_backbones"):
        shutil.copy(EXAMPLES / PACKAGE / f"{name}.py", package)
    (package / "scale.py").write_text("FACTOR = 1\n")
    with (package / "first_sure.py").open("a") as file:
        file.write("\nimport av, theirs.scale\nimport theirs.scale as scale\nfrom . import scale as again\n")
        file.write("from theirs.scale import (\n    FACTOR,\n)\nSAME = theirs.scale is scale is again\n")
    load_sweep_config(["plugins=[theirs.first_sure,theirs.tiny_backbones]"])
    plugged = {
        "paretovid.methods": {"first_sure": METHODS.entry("first_sure").where},
        "paretovid.backbones": {"example_tiny": BACKBONES.entry("example_tiny").where},
    }
    runtime = write_runtime_package(tmp_path / "out", plugged=plugged)
    assert write_runtime_package(tmp_path / "again", plugged=plugged) == runtime
    assert write_runtime_package(tmp_path / "without") != runtime
    assert set(third_party_requirements(plugged)) == {"av", "torch"}
    code = (
        "import sys; sys.modules['paretovid'] = sys.modules['theirs'] = None\n"
        f"sys.path.insert(0, {str(tmp_path / 'out')!r})\n"
        f"from {runtime}.recognizer import knobs_of\n"
        f"from {runtime}.catalog import method_class\n"
        f"from {runtime}.backbones.catalog import component\n"
        "print(knobs_of('first_sure')[0].name, component('three_convolutions@48').feature_width)\n"
        "print(sys.modules[method_class('first_sure').__module__].SAME)\n"
    )
    environment = {**os.environ, VARIABLE: "nowhere"}  # of a consumer's own sweep, say
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["confidence", "48", "True"]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_new_process_finds_the_plugins_of_a_sweep_in_its_record(
    tmp_path: Path, no_plugins: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`resume`, `extend` and `promote` name no plug-ins. Simulated: what nobody has trained is not promoted."""
    word, home = with_method(tmp_path), str(tmp_path / "home")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    chosen = [word, "method=first_sure", "name=mine", "baselines=[]", "search.trials=2"]
    run_sweep(load_sweep_config([*chosen, f"home={home}"]), Progress.silent(), backend=simulated())
    commands: dict[str, Callable[[], object]] = {
        "resume": lambda: resume_sweep(home, "mine", (), Progress.silent(), backend=simulated()),
        "extend": lambda: extend_sweep(home, "mine", 1, (), Progress.silent(), backend=simulated()),
        "promote": lambda: promote(Home(tmp_path / "home"), "mine", name="mine", point="t0000-p00"),
    }
    for name, command in commands.items():
        no_plugins()
        with pytest.raises(UnknownNameError):
            METHODS.entry("first_sure")
        with pytest.raises(ParetovidError) if name == "promote" else contextlib.nullcontext():
            command()
        assert METHODS.entry("first_sure").plugin == "plugins=[mine]", name
    assert len(Home(tmp_path / "home").sweep("mine").with_result()) == 3

    (tmp_path / "mine.py").unlink()
    for name, command in commands.items():
        no_plugins()
        with pytest.raises(UsageError, match="there is no module mine") as raised:
            command()
        assert str(tmp_path) in raised.value.hint, name


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_modules_that_are_not_installed_are_swept_promoted_and_predicted(
    tmp_path: Path,
    clusters: Clusters,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A method of one file and one YAML, a family of backbones and a reader, in the current folder. The sweep starts a
    cluster of its own: workers find modules where they are found when Ray is connected.

    Whoever then uses the model has neither the files, nor paretovid, Ray or Optuna.
    """
    words = unpacked(tmp_path, monkeypatch)
    clusters.end()

    def paretovid(*typed: str) -> str:
        capsys.readouterr()
        assert main([*typed, f"home={tmp_path / 'home'}"]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    paretovid("sweep", "name=mine", *words, "training.epochs=2", "cluster.cpus=1")
    front = json.loads(paretovid("front", "mine", "--json"))
    best = next(point for point in front["points"] if point["trial"].startswith("t"))
    paretovid("promote", "mine", "--point", best["id"], "--as", "mine", "--alias", "champion")
    made_by = json.loads((tmp_path / "home" / "sweeps" / "mine" / "sweep.json").read_text())["code_version"]
    assert made_by == code_version(THREE)
    video = str(min((tmp_path / "videos").glob("*.mp4")))
    code = (
        "import json, sys\n"
        f"gone = {('paretovid', 'ray', 'optuna', 'hydra', *THREE)!r}\n"
        "for name in gone: sys.modules[name] = None\n"
        "import mlflow\n"
        "model = mlflow.pyfunc.load_model('models:/mine@champion')\n"
        f"print(json.dumps(model.predict([{video!r}])[0]))\n"
    )
    store = f"sqlite:///{tmp_path / 'home' / 'mlflow.db'}"
    environment = {**clean(), "MLFLOW_TRACKING_URI": store, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    environment.pop(VARIABLE, None)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=False, env=environment, cwd=elsewhere,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    answer = json.loads(ran.stdout)
    assert answer["error"] is None and answer["labels"] and answer["calls"]["three_convolutions@48"] > 0


THREE = ("first_sure", "tiny_backbones", "file_names")


def unpacked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A file of each kind and its YAML in a folder, with videos; returns the words of a small sweep with them."""
    for name in THREE:
        shutil.copy(EXAMPLES / PACKAGE / f"{name}.py", folder)
    shutil.copytree(EXAMPLES / PACKAGE / "search_spaces", folder / "search_spaces")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    chosen = ["method=first_sure", "backbones=example_tiny", "data=file_names", "data.name=mine"]
    less = ["search.trials=1", "baselines=[]", "backbones.training.effort=0.02"]
    return [f"plugins=[{','.join(THREE)}]", *chosen, f"data.videos={named_videos(folder / 'videos')}", *less]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_one_wheel_of_all_kinds_is_installed_swept_promoted_and_predicted(tmp_path: Path) -> None:
    """Into a new environment over the existing packages, without dependencies and without a network.

    Whoever then uses the model has neither the plug-in nor its entry points.
    """
    source = tmp_path / "source"
    shutil.copytree(EXAMPLES, source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "-w", str(tmp_path), str(source)], check=True, capture_output=True, text=True)
    (wheel,) = tmp_path.glob("*.whl")
    python = environment_over_this_one(tmp_path / "environment")
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
    ]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True, text=True)
    there = f"home={tmp_path / 'home'}"
    videos = named_videos(tmp_path / "videos")
    mine = ["method=first_sure", "backbones=example_tiny", "data=file_names", f"data.videos={videos}"]
    less = ["search.trials=1", "training.epochs=2", "backbones.training.effort=0.02", "cluster.cpus=1"]
    baseline = "baselines=[{name: uniform, method: uniform}]"
    suites = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "pyproject.toml", "tests"]
    ran = subprocess.run(suites, cwd=source, capture_output=True, text=True, check=False, env=clean())
    assert ran.returncode == 0, ran.stdout
    _, front, _ = typed(
        python,
        ["sweep", "name=mine", "data.name=mine", *mine, *less, baseline, there],
        ["front", "mine", "--json", there],
        ["promote", "mine", "--point", "t0000-p00", "--as", "mine", "--alias", "champion", there],
        folder=tmp_path,
    )
    assert {point["trial"] for point in json.loads(front)["points"]} == {"t0000"}
    video = str(next(videos.glob("*.mp4")))
    words = ["predict", "models:/mine@champion", video, "--json", there]
    (said,) = typed(Path(sys.executable), words, folder=tmp_path)
    (answer,) = json.loads(said)["videos"]
    assert answer["error"] is None and "three_convolutions@48" in answer["calls"]


def typed(python: Path, *commands: list[str], folder: Path) -> list[str]:
    """What the commands print that an environment's paretovid is given in a folder, in one process of its own."""
    ran = subprocess.run(
        [str(python), "-c", COMMANDS],
        input=json.dumps(commands), capture_output=True, text=True, check=False, cwd=folder, env=clean(),
    )  # fmt: skip
    answers = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [each["status"] for each in answers] == [0] * len(commands), ran.stdout + ran.stderr
    return [each["out"] for each in answers]


def clean() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": ""}


def environment_over_this_one(folder: Path) -> Path:
    """A new virtual environment that sees the packages of this one; returns its Python."""
    import sysconfig

    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    seen = [sysconfig.get_path("purelib"), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    # addsitedir: packages that are installed as links have .pth files of their own.
    lines = "".join(f"import site; site.addsitedir({path!r})\n" for path in seen)
    (site / "those_below.pth").write_text(lines)
    return folder / "bin" / "python"


def named_videos(folder: Path) -> Path:
    """Videos of the built-in set, named as the reader of the plug-in expects them."""
    from paretovid.trainables.data.moving_digits.generate import MovingDigitsConfig, make_moving_digits

    made = MovingDigitsConfig(
        videos_train=12,
        videos_val=6,
        videos_test=6,
        min_seconds=2.0,
        max_seconds=3.0,
        appearance_classes=2,
        motion_classes=0,
        sound_classes=0,
        easy_classes=0,
    )
    dataset = make_moving_digits(made, folder.parent / "made", name="made")
    folder.mkdir()
    for number, record in enumerate(dataset.records):
        shutil.copy(dataset.video_path(record), folder / f"class{record.labels[0]}-{number:03d}.mp4")
    return folder
