"""Homes that were moved or copied: what paretovid finds at once, and what MLflow alone finds after `relocate`."""

from __future__ import annotations

import fcntl
import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest

from paretovid.infra.object_store import ObjectStore
from paretovid.platform.cli import doctor
from paretovid.platform.cli.main import main
from paretovid.platform.console.shell import at_home
from paretovid.platform.execution.stopping import StopSwitch
from paretovid.platform.records.delivered import read_delivered
from paretovid.platform.records.sweep import SweepRecord, known_record, write_record
from paretovid.platform.registry import prediction
from paretovid.platform.registry import promotion as registry
from paretovid.platform.storage.home import Home
from paretovid.platform.storage.home_paths import from_home, to_home
from paretovid.platform.storage.store import BucketStore
from paretovid.platform.sweeps import relocate
from paretovid.platform.sweeps.lock import SweepLock
from paretovid.platform.testing.sweeps import small_home
from paretovid.platform.tracking.artifact_places import ArtifactPlaces, artifact_places, rewrite_locations
from paretovid.platform.tracking.exporter import Delivery
from paretovid.platform.tracking.store import open_store
from paretovid.trainables.errors import UsageError


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    # Set before it is deleted: what a test makes MLflow export ends with the test.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home with a registered model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        home = small_home(tmp_path_factory.mktemp("made") / "a home")
        registry.promote(home, "tiny", name="digits", alias="champion", point="t0000-p00")
        yield home


@pytest.fixture
def moved(made: Home, tmp_path: Path) -> Home:
    """A copy of it."""
    return Home(shutil.copytree(made.root, tmp_path / "moved ü"))


def texts(database: Path) -> list[str]:
    """Every text in a SQLite file."""
    with sqlite3.connect(database) as connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return [
            value
            for table in tables
            for row in connection.execute(f"SELECT * FROM {table}")
            for value in row
            if isinstance(value, str)
        ]


def video(home: Home) -> str:
    return str(min(home.data("moving_digits").rglob("test_*.mp4")))


@pytest.mark.slow
def test_a_moved_home_predicts_and_promotes_before_anybody_relocates_it(made: Home, moved: Home) -> None:
    expected = prediction.predict(made, "models:/digits@champion", [video(moved)])
    before = sorted(made.mlflow_artifacts.rglob("*"))
    database = made.mlflow_database.read_bytes()
    weights = list(moved.mlflow_artifacts.rglob("*.safetensors"))
    assert prediction.predict(moved, "models:/digits@champion", [video(moved)]) == expected
    second = registry.promote(moved, "tiny", name="digits", alias="champion", point="b0000-p02")
    assert second.version == "2" and f"paretovid relocate{at_home(str(moved.root))}\n" in str(second)
    assert prediction.predict(moved, "models:/digits@champion", [video(moved)]) != expected
    assert len(list(moved.mlflow_artifacts.glob("models/*"))) == 2
    assert (
        sorted(made.mlflow_artifacts.rglob("*")) == before and made.mlflow_database.read_bytes() == database
    )
    for path in weights:
        path.unlink()  # of the moved home: it was not the other one that answered
    with pytest.raises(Exception, match="safetensors"):
        prediction.predict(moved, "models:/digits/1", [video(moved)])


@pytest.mark.slow
def test_after_relocate_mlflow_alone_finds_everything(made: Home, moved: Home) -> None:
    expected = prediction.predict(made, "models:/digits@champion", [video(moved)])["videos"][0]
    done = relocate.relocate(moved)
    assert (done.before, done.now) == (made.root, moved.root)
    assert done.locations == {"experiments": 2, "logged_models": 1, "model_versions": 1}
    assert not [text for text in texts(moved.mlflow_database) if str(made.root) in text or "a%20home" in text]
    mlflow.set_tracking_uri(moved.mlflow_url)
    mlflow.set_registry_uri(moved.mlflow_url)
    location = mlflow.MlflowClient().get_model_version_download_uri("digits", "1")
    assert location.startswith(moved.root.as_uri())
    (answer,) = mlflow.pyfunc.load_model("models:/digits@champion").predict([video(moved)])
    assert answer["labels"] == expected["labels"] and answer["gflops"] == expected["gflops"]
    assert "paretovid relocate" not in str(
        registry.promote(moved, "tiny", name="digits", alias="champion", point="b0000-p02")
    )


def test_it_is_done_once_and_a_dry_run_changes_nothing(moved: Home) -> None:
    before = {path: path.read_bytes() for path in moved.root.rglob("*") if path.is_file()}
    planned = relocate.relocate(moved, dry_run=True)
    assert {path: path.read_bytes() for path in moved.root.rglob("*") if path.is_file()} == before
    assert "would change  mlflow.db: 2 in experiments" in str(planned)
    assert relocate.relocate(moved).locations == planned.locations
    again = relocate.relocate(moved)
    assert (again.locations, again.documents) == ({}, ()) and "nothing to do" in str(again)


def test_what_older_versions_wrote_with_absolute_paths_is_rewritten(made: Home, moved: Home) -> None:
    selector = made.trial("tiny", "t0001").folder
    sweep = moved.sweep("tiny")
    info = json.loads(sweep.record.read_text())
    info["config"] = {"home": str(made.root), "method": {"model": {"selector": str(selector)}}, "x": "/other"}
    sweep.record.write_text(json.dumps(info))
    sweep.tracked.write_text(json.dumps({made.mlflow_url: 7, "http://server": 5}))
    assert Delivery(moved, "tiny", None).sent == 7, "before it is relocated too"
    done = relocate.relocate(moved)
    assert done.documents == ("sweeps/tiny/sweep.json", "sweeps/tiny/tracked.json")
    config: Any = known_record(sweep).config
    assert config["method"]["model"]["selector"] == str(moved.trial("tiny", "t0001").folder)
    assert config["home"] == str(moved.root) and config["x"] == "/other"
    assert str(made.root) not in sweep.record.read_text()
    assert Delivery(moved, "tiny", None).sent == 7 and Delivery(moved, "tiny", "http://server").sent == 5


def test_a_record_written_now_follows_the_home_by_itself(tmp_path: Path) -> None:
    first = Home(tmp_path / "first")
    data = {"name": "s", "state": "finished", "config": {"m": [{"f": str(first.root / "a/b")}, "/z"]}}
    write_record(first.sweep("s"), SweepRecord.from_json(data, "here"))
    assert str(first.root) not in first.sweep("s").record.read_text()
    second = Home(first.root.rename(tmp_path / "second"))
    assert known_record(second.sweep("s")).config == {"m": [{"f": str(second.root / "a/b")}, "/z"]}


def test_a_neighbour_with_a_longer_name_is_not_in_the_home() -> None:
    root = Path("/a/b")
    assert to_home(["/a/bc", "/a/b", "/a/b/c"], root) == ["/a/bc", "home:", "home:c"]
    assert from_home(["/a/bc", "home:", "home:c"], Path("/x")) == ["/a/bc", "/x", "/x/c"]
    places = ArtifactPlaces(recorded=root, root=Path("/x"))
    assert places.path_of("file:///a/b/m%20n") == Path("/x/m n") and places.path_of("/a/b/c") == Path("/x/c")
    for other in ("file:///a/bc", "s3://a/b/c", "file://host/a/b/c", "mlflow-artifacts:/a/b"):
        assert places.path_of(other) is None


def test_locations_outside_of_the_home_stay(moved: Home, tmp_path: Path) -> None:
    open_store(moved)
    client = mlflow.MlflowClient()
    recorded = artifact_places(moved).recorded
    kept = [f"{recorded.as_uri()}-other/x", "s3://bucket/x"]
    for number, location in enumerate(kept):
        client.create_experiment(f"e{number}", artifact_location=location)
    relocate.relocate(moved)
    found = client.search_experiments(filter_string="name LIKE 'e_'", order_by=["name"])
    assert [experiment.artifact_location for experiment in found] == kept


def test_a_second_path_to_the_same_home_is_no_move(made: Home, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(made.root)
    assert not artifact_places(Home(link)).is_moved
    assert "nothing to do" in str(relocate.relocate(Home(link)))
    assert str(tmp_path) not in "".join(texts(made.mlflow_database))


def test_it_refuses_while_a_sweep_runs_or_the_store_is_in_use(
    moved: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = moved.mlflow_database.read_bytes()
    with (
        SweepLock(moved.sweep("tiny"), StopSwitch()).hold(),
        pytest.raises(UsageError, match="sweep tiny is being run by process"),
    ):
        relocate.relocate(moved)
    monkeypatch.setattr(relocate, "_LOCK_SECONDS", 0.1)
    with (moved.root / "mlflow.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="in use"):
            relocate.relocate(moved)
    with sqlite3.connect(moved.mlflow_database, isolation_level=None) as writer:
        writer.execute("BEGIN IMMEDIATE")
        with pytest.raises(UsageError, match="in use"):
            relocate.relocate(moved)
        writer.execute("ROLLBACK")
    assert moved.mlflow_database.read_bytes() == before
    with pytest.raises(UsageError, match="remembers no folder"):
        relocate.relocate(Home(moved.root, BucketStore(ObjectStore("s3://bucket/home"), moved.root)))


def test_killed_before_the_tables_are_written_it_does_the_rest_the_next_time(
    made: Home, moved: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracked = moved.sweep("tiny").tracked
    tracked.write_text(json.dumps({made.mlflow_url: 7}))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(relocate, "rewrite_locations", killed)
    with pytest.raises(KeyboardInterrupt):
        relocate.relocate(moved)
    assert read_delivered(moved.sweep("tiny")).last_events == {"home": 7} and artifact_places(moved).is_moved
    monkeypatch.setattr(relocate, "rewrite_locations", rewrite_locations)
    assert relocate.relocate(moved).documents == ()
    assert not artifact_places(moved).is_moved and Delivery(moved, "tiny", None).sent == 7


def test_on_the_command_line(
    made: Home, moved: Home, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    check = doctor._mlflow_store(moved)
    assert check.state == "warn" and str(made.root) in check.found and "paretovid relocate" in check.repair
    assert main(["relocate", f"home={moved.root}", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["before"] == str(made.root) and document["locations"]["model_versions"] == 1
    assert main(["relocate", f"home={moved.root}"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main(["relocate", f"home={tmp_path / 'nowhere'}"]) == 2
    assert "there is no home" in capsys.readouterr().err and not (tmp_path / "nowhere").exists()
    (moved.root / "mlflow.db").write_text("no database, but long enough to be taken for something")
    assert main(["relocate", f"home={moved.root}"]) == 1
    assert "cannot be used" in capsys.readouterr().err
