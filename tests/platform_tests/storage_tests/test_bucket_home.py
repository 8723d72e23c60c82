"""A home in a bucket, seen from several machines: each is a cache folder of its own, and the S3 server is real."""

from __future__ import annotations

import copy
import os
import shutil
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import fill

from paretovid.infra.object_store import ObjectStore
from paretovid.infra.testing import S3Server, s3_server
from paretovid.platform.config.load import load_sweep_config
from paretovid.platform.execution.context import ProcessContext, forget_checkpoints, keep_checkpoint
from paretovid.platform.fronts.build import read_front
from paretovid.platform.records.control_requests import ask_to_stop, take_back_stop
from paretovid.platform.records.failure import failure_of, record_failure
from paretovid.platform.records.journal import SweepJournal, read_journal
from paretovid.platform.records.sweep import known_record, write_record
from paretovid.platform.records.trial import read_sweep
from paretovid.platform.registry.package import backbone_folders
from paretovid.platform.search.bucket_journal import ObjectJournal
from paretovid.platform.search.study import ParetoStudy
from paretovid.platform.storage.faults import infrastructure_fault
from paretovid.platform.storage.home import MODEL_FILE, Home, open_home
from paretovid.platform.sweeps.naming import started_record
from paretovid.platform.sweeps.status import list_sweeps
from paretovid.platform.tracking.store import open_registry
from paretovid.search_spaces.schema import KnobConfig
from paretovid.trainables.errors import UsageError
from paretovid.trainables.evaluation.results import Metrics
from paretovid.trainables.testing import synthetic_metrics

Machine = Callable[[str], Home]
POLICY = Path(__file__).parents[3] / "infra" / "s3-policy.json"


@pytest.fixture
def machine(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The home in a bucket as the machine of this name sees it."""

    def on(name: str) -> Home:
        monkeypatch.setenv("PARETOVID_CACHE", str(tmp_path / name))
        return open_home(f"{bucket}/home")

    return on


@pytest.fixture(scope="module")
def made(small_home_copy: Callable[[Path], Home], tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home that is a folder: real videos, backbones, features, and a sweep of three trials."""
    return small_home_copy(tmp_path_factory.mktemp("made"))


def send(made: Home, home: Home) -> None:
    """Everything of a folder's home into a bucket's, as the platform sends it."""
    shutil.copytree(made.root, home.root, dirs_exist_ok=True)
    home.store.upload(home.data("moving_digits"))
    for folder in [
        *(home.root / "backbones" / "moving_digits").iterdir(),
        *home.features("moving_digits").iterdir(),
    ]:
        home.store.upload(folder)
    for trial in home.sweep("tiny").with_result():
        trial.upload()
    home.store.upload_file(home.sweep("tiny").record)


@pytest.mark.slow
def test_what_one_machine_made_another_one_uses(made: Home, machine: Machine) -> None:
    send(made, machine("first"))
    home = machine("second")
    assert not home.sweep("tiny").folder.exists()
    front = read_front([home.sweep("tiny")])
    assert front.to_json() == read_front([made.sweep("tiny")]).to_json()
    assert [(entry.name, entry.trials) for entry in list_sweeps(home)] == [("tiny", 3)]
    sweep = read_sweep(home.sweep("tiny"))
    trial = next(trial for trial in sweep.trials if trial.method == "lite_eval")
    paths = home.trial("tiny", trial.trial)
    assert not paths.model.exists(), "a front needs no weights"
    paths.download((MODEL_FILE,))
    assert paths.model.is_file()
    assert set(backbone_folders(home, trial)) == {"coarse", "fine"}


@pytest.mark.slow
def test_a_download_that_finds_the_disk_full_leaves_nothing(
    bucket: str, small_disk: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = machine("first")
    document = first.root / "sweeps" / "s" / "sweep.json"
    document.parent.mkdir(parents=True)
    first.store.write_text(document, "x" * 20_000)
    monkeypatch.setenv("PARETOVID_CACHE", str(small_disk))
    home = open_home(f"{bucket}/home")
    here = home.root / document.relative_to(first.root)
    here.parent.mkdir(parents=True)
    filler = fill(small_disk)
    with pytest.raises(OSError, match="No space left") as raised:
        home.store.download_file(here)
    fault = infrastructure_fault(raised.value)
    assert fault is not None and fault.is_full and str(here.parent) in fault.reason
    assert list(here.parent.iterdir()) == []
    filler.unlink()
    home.store.download_file(here)
    assert here.read_text() == "x" * 20_000


@pytest.mark.slow
def test_documents_are_read_where_other_machines_write_them(machine: Machine) -> None:
    home = machine("driver")
    write_record(home.sweep("s"), started_record(load_sweep_config(), "s", None))
    ask_to_stop(home.sweep("s"), "enough")
    there = machine("worker")
    assert known_record(there.sweep("s")).state == "running"
    assert known_record(there.sweep("s")) == known_record(home.sweep("s"))
    context = ProcessContext(there.trial("s", "t0000"), torch.device("cpu"))
    assert context.heartbeat(), "the driver has asked it to stop"
    driver = machine("driver")
    assert (driver.store.read_document(driver.trial("s", "t0000").heartbeat) or {})["pid"] == os.getpid()
    take_back_stop(driver.sweep("s"))
    again = ProcessContext(machine("worker").trial("s", "t0001"), torch.device("cpu"))
    assert not again.heartbeat()
    again.end()
    driver = machine("driver")
    assert driver.store.read_document(driver.trial("s", "t0001").heartbeat) is None


@pytest.mark.slow
def test_a_trial_resumes_from_its_checkpoint_on_another_machine(machine: Machine, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    for epoch in (1, 2):
        (checkpoint / "history.json").write_text(f"[{epoch}]")
        home = machine("first")
        keep_checkpoint(home.trial("s", "t0000"), checkpoint)
    home = machine("second")
    found = ProcessContext(home.trial("s", "t0000"), torch.device("cpu")).get_checkpoint()
    assert found is not None and found.is_relative_to(home.root)
    assert (found / "history.json").read_text() == "[2]"
    forget_checkpoints(home.trial("s", "t0000"))
    assert ProcessContext(machine("third").trial("s", "t0000"), torch.device("cpu")).get_checkpoint() is None


def test_the_journal_follows_the_sweep(machine: Machine) -> None:
    journal = SweepJournal(machine("first").sweep("s"))
    journal.write("driver", cpus=1)
    journal.write("start", trial="t0000")
    journal.write("state", state="interrupted")
    home = machine("second")
    home.sweep("s").refresh()
    assert [entry.event for entry in read_journal(home.sweep("s")).entries] == ["driver", "start", "state"]
    assert SweepJournal(home.sweep("s")).write("driver").n == 4


KNOBS = {"gamma": KnobConfig(field="gamma", low=0.05, high=0.95), "K": KnobConfig(low=1, high=9, whole=True)}


def a_study(home: Home, storage: str | None = None) -> ParetoStudy:
    return ParetoStudy(storage=storage or f"{home.optuna_url}/s", name="s", knobs=KNOBS, trials=6, seed=3)


@pytest.mark.slow
def test_a_study_in_the_bucket_resumes_elsewhere(machine: Machine, tmp_path: Path) -> None:
    def result(knobs: dict[str, Any]) -> Metrics:
        return synthetic_metrics(knobs["gamma"], knobs["gamma"] + knobs["K"])

    def search(study: ParetoStudy, trials: int) -> list[dict[str, Any]]:
        asked: list[Any] = []
        while len(asked) < trials and (suggestion := study.ask()) is not None:
            study.report(suggestion.trial_id, result(suggestion.knobs))
            asked.append(suggestion.knobs)
        return asked

    first = a_study(machine("first"))
    knobs = search(first, 3)
    running = first.ask()
    assert running is not None
    second = a_study(machine("second"))
    again = second.ask()
    assert again is not None
    assert (again.trial_id, again.knobs, again.attempt) == (running.trial_id, running.knobs, 2)
    second.report(again.trial_id, result(again.knobs))
    knobs += [again.knobs, *search(second, 9)]
    assert knobs == search(a_study(machine("second"), f"journal://{tmp_path / 'optuna.journal'}"), 9)


@pytest.mark.slow
def test_two_writers_of_a_journal_lose_nothing(bucket: str) -> None:
    journals = [ObjectJournal(ObjectStore(f"{bucket}/log")) for _ in range(2)]

    def write(number: int) -> None:
        for index in range(20):
            journals[number].append_logs([record(str(number), index)])

    threads = [threading.Thread(target=write, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    logs = list(ObjectJournal(ObjectStore(f"{bucket}/log")).read_logs(0))
    assert len(logs) == 40
    for number in range(2):
        assert [log["index"] for log in logs if log["worker_id"] == str(number)] == list(range(20))


def test_a_writer_that_wrote_before_it_read_leaves_no_hole(bucket: str) -> None:
    """It read again what it had written itself, counted that twice, and wrote its next record beyond the end."""
    said: list[str] = []
    mine, others, reader = (ObjectJournal(ObjectStore(f"{bucket}/log"), said.append) for _ in range(3))
    mine.append_logs([record("mine", 0)])
    others.append_logs([record("others", 0)])
    mine.append_logs([record("mine", 1)])
    others.append_logs([record("others", 1)])
    order = [("mine", 0), ("others", 0), ("mine", 1), ("others", 1)]
    assert [(log["worker_id"], log["index"]) for log in reader.read_logs(0)] == order
    assert [(log["worker_id"], log["index"]) for log in mine.read_logs(0)][:3] == order[:3]
    assert sorted(ObjectStore(f"{bucket}/log").names("")) == [f"{number:08d}.json" for number in range(4)]
    assert said == []


@pytest.mark.parametrize("content", [None, b"", b"\0" * 60, b'{"logs": [{"op_code":', b"[" * 100_000, b"[]"])
def test_a_record_that_is_damaged_or_gone_costs_itself(bucket: str, content: bytes | None) -> None:
    store, said = ObjectStore(f"{bucket}/log"), list[str]()
    for index in range(4):
        ObjectJournal(store).append_logs([record("x", index)])
    store.write("notes.txt", b"not of the journal")
    store.remove("00000002.json") if content is None else store.write("00000002.json", content)
    found = ObjectJournal(store, said.append).read_logs(0)
    assert [log["index"] for log in found] == [0, 1, 3]
    assert said == [f"{bucket}/log: record 2 cannot be read and is left out"]
    ObjectJournal(store, said.append).append_logs([record("x", 4)])
    assert store.read("00000004.json") is not None, "and the next is written behind all of them"


def record(writer: str, index: int) -> dict[str, Any]:
    """One that Optuna takes, and that changes no study."""
    return {"op_code": 10, "worker_id": writer, "index": index}


@pytest.mark.slow
def test_models_need_a_registry_that_all_machines_see(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UsageError, match="has no registry of its own") as raised:
        open_registry(machine("first"))
    assert "MLFLOW_TRACKING_URI" in raised.value.hint


def test_a_bucket_that_is_not_there(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARETOVID_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match="there is no bucket not-there") as raised:
        open_home("s3://not-there/home")
    assert "aws s3 mb" in raised.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """An S3 server that asks for credentials and rights. Gives a function that makes this process a user with the
    rights of `infra/s3-policy.json` to a bucket and prefix."""
    import boto3

    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with s3_server() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "root")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "root")
        for bucket in ("mine", "others"):
            boto3.client("s3").create_bucket(Bucket=f"{bucket}-bucket")
        user = boto3.client("iam")
        user.create_user(UserName="worker")
        keys = user.create_access_key(UserName="worker")["AccessKey"]

        def become(bucket: str, prefix: str) -> None:
            policy = POLICY.read_text().replace("BUCKET", bucket).replace("PREFIX", prefix)
            user.put_user_policy(UserName="worker", PolicyName="home", PolicyDocument=policy)
            # From now on the server asks.
            request = urllib.request.Request(f"{server.endpoint}/moto-api/reset-auth", b"0")
            request.add_header("Content-Type", "text/plain")
            urllib.request.urlopen(request).close()
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys["AccessKeyId"])
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys["SecretAccessKey"])
            monkeypatch.setenv("PARETOVID_CACHE", str(tmp_path / "cache"))

        yield become


@pytest.mark.slow
def test_the_least_rights_are_enough(guarded: Callable[[str, str], None]) -> None:
    guarded("mine-bucket", "home")
    home = open_home("s3://mine-bucket/home")
    folder = home.root / "data" / "x"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    home.store.upload(folder)
    shutil.rmtree(folder)
    assert home.store.download(folder)
    home.store.remove_folder(folder)
    assert not home.store.is_complete(folder)
    assert a_study(home).ask() is not None


@pytest.mark.slow
def test_another_bucket_is_refused_with_what_is_needed(guarded: Callable[[str, str], None]) -> None:
    guarded("mine-bucket", "home")
    with pytest.raises(UsageError, match="no permission to list s3://others-bucket/home") as raised:
        open_home("s3://others-bucket/home")
    assert "infra/s3-policy.json" in raised.value.hint


@pytest.mark.slow
def test_wrong_credentials_are_refused_without_showing_them(
    guarded: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    guarded("mine-bucket", "home")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-wrong-secret-of-the-tests")
    with pytest.raises(UsageError, match=r"refuses the credentials|no permission") as raised:
        open_home("s3://mine-bucket/home")
    assert "a-wrong-secret" not in str(raised.value)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "NOBODY")
    with pytest.raises(UsageError, match=r"refuses the credentials \(InvalidAccessKeyId\)|no permission"):
        open_home("s3://mine-bucket/home")


def a_sweep(home: Home, name: str) -> None:
    write_record(home.sweep(name), started_record(load_sweep_config(), name, None))
    record_failure(home.trial(name, "t0000"), f"the reason of {name}")
    ProcessContext(home.trial(name, "t0001"), torch.device("cpu"))


@pytest.mark.slow
def test_homes_of_every_kind_are_open_at_once_and_know_nothing_of_each_other(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARETOVID_CACHE", str(tmp_path / "cache"))
    places = {"one": f"{bucket}/one", "two": f"{bucket}/two", "local": str(tmp_path / "local")}
    homes = {name: open_home(place) for name, place in places.items()}
    for name, home in homes.items():
        a_sweep(home, name)
    objects = ObjectStore(bucket).names("")
    for name, home in homes.items():
        assert home.sweep_names() == [name]
        assert failure_of(home.trial(name, "t0000")) == f"the reason of {name}"
        assert [trial.name for trial in home.sweep(name).with_heartbeat()] == ["t0001"]
        assert (f"{name}/sweeps/{name}/sweep.json" in objects) == home.store.is_remote
    assert not any("local" in name for name in objects)
    assert not (tmp_path / "local").is_relative_to(tmp_path / "cache")


@pytest.mark.slow
def test_a_worker_opens_the_home_that_it_is_given_where_it_runs(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARETOVID_CACHE", str(tmp_path / "driver"))
    home = open_home(f"{bucket}/home")
    a_sweep(home, "s")
    assert home.reference("/nowhere").__reduce__()[1] == (home.url, home.root, "/nowhere")
    driver = [home.reference("/nowhere"), home.sweep("s").reference("/nowhere")]
    assert driver[0] == driver[1]
    monkeypatch.setenv("PARETOVID_NODE_CACHE", str(tmp_path / "node"))
    for reference in copy.deepcopy(driver):
        trial = reference.trial(home.trial("s", "t0000").folder)
        assert trial.folder.is_relative_to(tmp_path / "node")
        assert trial.folder == reference.here(home.trial("s", "t0000").folder)
        assert failure_of(trial) == "the reason of s"
        assert reference.home is reference.home, "one connection"
    local = Home(tmp_path / "local")
    there = copy.deepcopy(local.sweep("s").reference())
    assert there.sweep(local.sweep("s").folder) == local.sweep("s")
