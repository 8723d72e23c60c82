"""A sweep in MLflow: nested, linked to its data, complete after any number of calls, and free of NaN."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from paretovid.platform.console.progress import Progress
from paretovid.platform.fronts.build import build_front
from paretovid.platform.records.front_files import FRONT_FILES
from paretovid.platform.records.trial import SweepResults, read_sweep
from paretovid.platform.storage.home import Home
from paretovid.platform.sweeps.run import write_front
from paretovid.platform.sweeps.sweep import replay_sweep
from paretovid.platform.testing.sweeps import synthetic_sweep, write_trial
from paretovid.platform.tracking.store import Store, StoreError, open_store
from paretovid.platform.tracking.tags import environment, metrics_of, near_front
from paretovid.platform.tracking.tracker import Tracker, log_sweep
from paretovid.trainables.errors import NonFiniteError


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    root = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield Home(root)


@pytest.fixture(scope="module")
def sweep(home: Home) -> SweepResults:
    return read_sweep(synthetic_sweep(home.sweep("s1")))


@pytest.fixture(scope="module")
def store(home: Home, sweep: SweepResults) -> Store:
    Tracker(open_store(home), sweep).log_trials(sweep.trials[:2])  # as if the driver had died here
    write_front(home.sweep("s1"), build_front([sweep]))
    with (sweep.folder / "front.txt").open("a") as file:
        file.write("a line of the sweep's own\n")
    log_sweep(home, sweep, build_front([sweep]))
    return open_store(home)


def runs(store: Store, kind: str) -> list[Any]:
    found: list[Any] = store.client.search_runs([store.experiment_id], f"tags.`paretovid.kind` = '{kind}'")
    return found


@pytest.mark.slow
def test_trials_are_nested_in_the_sweep(store: Store, sweep: SweepResults) -> None:
    (parent,) = runs(store, "sweep")
    children = runs(store, "trial")
    assert parent.info.run_name == "s1" and parent.info.status == "FINISHED"
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    assert {child.data.tags["paretovid.trial"] for child in children} == {t.trial for t in sweep.trials}
    assert all(child.info.status == "FINISHED" for child in children)


def test_a_trial_has_its_knobs_figures_and_data(store: Store, sweep: SweepResults) -> None:
    child = next(run for run in runs(store, "trial") if run.data.tags["paretovid.trial"] == "t0001")
    default = next(t for t in sweep.trials if t.trial == "t0001").default_point
    assert child.info.run_name == "t0001 lite_eval gamma=0.1 lambda=2"
    assert child.data.params["gamma"] == "0.1"
    assert child.data.metrics["val/map"] == default.val.quality
    assert child.data.metrics["gflops"] == default.test.gflops
    history = store.client.get_metric_history(child.info.run_id, "train/loss")
    assert [(metric.step, metric.value) for metric in history] == [(0, 1.0), (1, 0.5)]
    named = {(i.dataset.name, i.dataset.digest) for i in child.inputs.dataset_inputs}
    assert ("moving_digits-test", "abcdef012345") in named and len(named) == 3


def test_one_query_finds_the_best_point_within_a_budget(store: Store, sweep: SweepResults) -> None:
    data = {"dataset_name": "moving_digits-test", "dataset_digest": "abcdef012345"}
    found = store.client.search_logged_models(
        [store.experiment_id],
        filter_string="metrics.gflops <= 0.03 AND tags.`paretovid.kind` = 'operating_point'",
        datasets=[data],
        order_by=[{"field_name": "metrics.map", "ascending": False, **data}],
        max_results=1,
    )
    kept = near_front(build_front([sweep]))
    best = max((p for p in kept if p.record.test.gflops <= 0.03), key=lambda p: p.record.test.quality)
    assert found[0].tags["paretovid.point"] == best.id


def test_artifacts_are_readable_alone(store: Store) -> None:
    (parent,) = runs(store, "sweep")
    names = {
        a.path for folder in ("", "front") for a in store.client.list_artifacts(parent.info.run_id, folder)
    }
    assert {"config.yaml", "environment.json", "front/front.png", "front/front.html"} <= names
    assert {"front/front.json", "front/front.txt"} <= names
    note = parent.data.tags["mlflow.note.content"]
    assert "Front of s1" in note and "a line of the sweep's own" in note, (
        "what is uploaded was rendered before"
    )
    assert environment()["torch"]


def test_again_adds_only_what_is_new(home: Home, store: Store) -> None:
    models = store.client.search_logged_models([store.experiment_id], max_results=100)
    before = {model.model_id for model in models}
    write_trial(home.sweep("s1"), "t0009", [(0.9, 0.005)])  # pushes the others off the front
    grown = read_sweep(home.sweep("s1"))
    log_sweep(home, grown, build_front([grown]))
    log_sweep(home, grown, build_front([grown]))
    assert len(runs(store, "sweep")) == 1
    assert len(runs(store, "trial")) == len(grown.trials)
    after = store.client.search_logged_models([store.experiment_id], max_results=100)
    assert len(after) == len(before) + 1
    marked = [model.tags["paretovid.point"] for model in after if model.tags["paretovid.on_front"] == "true"]
    assert marked == ["t0009-p00"]


def test_a_model_is_ready_once_it_has_its_figures_and_is_not_sent_them_again(
    home: Home, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.entities import LoggedModelStatus

    def models() -> list[Any]:
        return list(store.client.search_logged_models([store.experiment_id], max_results=100))

    assert {model.status for model in models()} == {LoggedModelStatus.READY}
    cut_short = models()[0].model_id
    sent: list[str] = []
    store.client.finalize_logged_model(cut_short, LoggedModelStatus.FAILED)
    log_batch = MlflowClient.log_batch

    def counted(client: MlflowClient, run_id: str, metrics: Any = (), **rest: Any) -> Any:
        sent.extend(metric.model_id for metric in metrics if metric.model_id)
        return log_batch(client, run_id, metrics=metrics, **rest)

    monkeypatch.setattr(MlflowClient, "log_batch", counted)
    grown = read_sweep(home.sweep("s1"))
    log_sweep(home, grown, build_front([grown]))
    assert set(sent) == {cut_short}
    assert {model.status for model in models()} == {LoggedModelStatus.READY}


def test_a_child_that_was_cut_short_is_completed(home: Home, store: Store) -> None:
    child = runs(store, "trial")[0]
    store.client.delete_tag(child.info.run_id, "paretovid.complete")
    grown = read_sweep(home.sweep("s1"))
    Tracker(store, grown).log_trials(grown.trials)
    assert len(runs(store, "trial")) == len(grown.trials)
    assert store.client.get_run(child.info.run_id).data.tags["paretovid.complete"] == "true"


@pytest.mark.parametrize("step", ["set_terminated", "set_tag"])
def test_a_driver_killed_at_the_end_of_a_trial_leaves_no_run_that_runs_for_ever(
    home: Home, store: Store, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    trial = {"set_terminated": "t0098", "set_tag": "t0099"}[step]
    write_trial(home.sweep("s1"), trial, [(0.5, 0.01)])
    grown = read_sweep(home.sweep("s1"))

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store.client, step, killed)
        with pytest.raises(KeyboardInterrupt):
            Tracker(store, grown).log_trials(grown.trials)
    Tracker(store, grown).log_trials(grown.trials)
    found = [run for run in runs(store, "trial") if run.data.tags["paretovid.trial"] == trial]
    assert [(run.info.status, run.data.tags.get("paretovid.complete")) for run in found] == [
        ("FINISHED", "true")
    ]


def test_no_parameter_is_left_out_however_many_there_are(store: Store, sweep: SweepResults) -> None:
    tracker = Tracker(store, sweep)
    tracker._log_batch(tracker.run_id, {"x": 1.0}, {f"p{number:03d}": str(number) for number in range(230)})
    found = store.client.get_run(tracker.run_id).data
    assert {name for name in found.params if name.startswith("p")} >= {
        f"p{number:03d}" for number in range(230)
    }
    assert found.metrics["x"] == 1.0


def test_non_finite_is_refused_before_it_is_written() -> None:
    with pytest.raises(NonFiniteError, match="map is nan"):
        metrics_of({"gflops": 1.0, "map": float("nan")})


def test_store_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "not.db").write_text(json.dumps({"no": "database"}) * 100)
    with pytest.raises(StoreError, match="cannot be used"):
        open_store(Home(tmp_path), f"sqlite:///{tmp_path / 'not.db'}")


@pytest.mark.slow
def test_a_process_killed_while_it_makes_the_store_leaves_none(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\n"
        "from paretovid.platform.storage.home import Home\nfrom paretovid.platform.tracking.store import open_store\n"
        "import mlflow.store.db.utils as utils\n"
        "upgrade = utils._upgrade_db\n"
        "utils._upgrade_db = lambda *words: (upgrade(*words), os._exit(9))\n"
        "open_store(Home(Path(sys.argv[1])))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    assert not (tmp_path / "mlflow.db").exists()
    assert list(tmp_path.glob("mlflow.db.*.partial")), "it was killed too early for this test"
    assert open_store(Home(tmp_path)).experiment_id
    assert not list(tmp_path.glob("mlflow.db.*.partial"))


def test_a_copied_home_writes_into_itself_and_not_into_the_first_one(tmp_path: Path) -> None:
    first = Home(tmp_path / "first")
    log_sweep(first, read_sweep(synthetic_sweep(first.sweep("s1"), trials=1)), None)
    before = sorted(first.mlflow_artifacts.rglob("*"))
    second = Home(shutil.copytree(first.root, tmp_path / "second"))
    run_id = log_sweep(second, read_sweep(synthetic_sweep(second.sweep("s2"), trials=1)), None)
    assert sorted(first.mlflow_artifacts.rglob("*")) == before
    assert (second.mlflow_artifacts / run_id / "artifacts" / "config.yaml").is_file()


@pytest.mark.slow
def test_sweeps_of_one_name_in_two_homes_share_a_server_and_nothing_else(tmp_path: Path) -> None:
    """Found by its name alone, the other one's run would be taken for a duplicate and discarded."""
    shared = f"sqlite:///{tmp_path / 'shared.db'}"
    for number in range(2):
        home = Home(tmp_path / f"home{number}")
        found = read_sweep(synthetic_sweep(home.sweep("s1"), trials=1))
        found = replace(found, record=replace(found.record, uid=f"uid{number}"))
        for _ in range(2):
            log_sweep(home, found, build_front([found]), shared)
    store = open_store(Home(tmp_path / "home0"), shared)
    parents = runs(store, "sweep")
    assert sorted(run.data.tags["paretovid.uid"] for run in parents) == ["uid0", "uid1"]
    assert len(runs(store, "trial")) == 2 * 3
    models = store.client.search_logged_models([store.experiment_id], max_results=100)
    of_each = [
        {m.tags["paretovid.point"] for m in models if m.tags["paretovid.uid"] == f"uid{n}"} for n in (0, 1)
    ]
    assert of_each[0] and of_each[0] == of_each[1]


@pytest.mark.slow
def test_a_replay_renders_what_an_older_sweep_has_not(home: Home) -> None:
    folder = synthetic_sweep(home.sweep("older")).folder
    assert not (folder / "front.png").exists()
    replay_sweep(str(home.root), "older", None, Progress.silent())
    assert all((folder / name).is_file() for name in FRONT_FILES)
    (run,) = (r for r in runs(open_store(home), "sweep") if r.info.run_name == "older")
    uploaded = {a.path for a in open_store(home).client.list_artifacts(run.info.run_id, "front")}
    assert uploaded == {f"front/{name}" for name in FRONT_FILES}
