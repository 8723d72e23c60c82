"""What every store of a home keeps to: a folder, and a bucket with a mirror, whose S3 server is real."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from time import time as time_now

import pytest

from paretovid.infra.local_copy import Blob, files_below
from paretovid.infra.object_store import ObjectStore
from paretovid.infra.testing import S3Server
from paretovid.platform.storage.growing_file import GrowingFile
from paretovid.platform.storage.home import open_home
from paretovid.platform.storage.store import BucketStore, LocalStore, Store, download_files
from paretovid.trainables.data.s3 import ObjectStoreError
from paretovid.trainables.errors import UsageError

Machine = Callable[[str], tuple[Store, Path]]


@pytest.fixture(params=["local", "bucket"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    """A store as the machine of this name sees it, and the root of its paths there."""
    if request.param == "local":
        return lambda name: (LocalStore(), tmp_path / "home")
    url = f"{request.getfixturevalue('bucket')}/home"

    def on(name: str) -> tuple[Store, Path]:
        store = BucketStore.open(url, tmp_path / name)
        return store, store.root

    return on


def a_folder(path: Path) -> Path:
    for name in ("a.bin", "deep/b.bin", ".hidden", "half.partial"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(name.encode())
    return path


def test_a_folder_that_one_machine_uploads_another_one_has(machine: Machine) -> None:
    store, root = machine("first")
    store.upload(a_folder(root / "data" / "x"))
    there, other = machine("second")
    assert there.download(other / "data" / "x") == there.is_remote
    assert {"a.bin", "deep/b.bin"} <= set(files_below(other / "data" / "x"))
    assert (other / "data" / "x" / "deep" / "b.bin").read_bytes() == b"deep/b.bin"


def test_only_a_committed_folder_is_complete_and_only_a_bucket_can_say(machine: Machine) -> None:
    store, root = machine("first")
    folder = a_folder(root / "x")
    blobs = store.upload_blobs(folder, ["a.bin"])
    assert not store.is_complete(folder)
    store.commit(folder, blobs, "deep/b.bin")
    assert store.is_complete(folder) == store.is_remote
    assert store.listing(root).complete == (("x",) if store.is_remote else ())
    there, other = machine("second")
    there.download(other / "x")
    assert (other / "x" / "deep" / "b.bin").is_file()


def test_what_is_wanted_comes(machine: Machine) -> None:
    store, root = machine("first")
    store.upload(a_folder(root / "x"), lambda name: name != "deep/b.bin")
    there, other = machine("second")
    there.download(other / "x", lambda names: [name for name in names if name == "a.bin"])
    assert (other / "x" / "a.bin").is_file()
    if there.is_remote:
        assert files_below(other / "x") == ["a.bin"]


@pytest.mark.slow
def test_a_folder_from_outside(machine: Machine, tmp_path: Path) -> None:
    store, root = machine("first")
    store.upload_from(a_folder(tmp_path / "outside"), root / "data" / "x", {"a.bin", "deep/b.bin"})
    there, other = machine("second")
    there.download(other / "data" / "x")
    assert files_below(other / "data" / "x") == ["a.bin", "deep/b.bin"]


def test_documents_are_read_where_other_machines_write_them(machine: Machine) -> None:
    store, root = machine("first")
    there, other = machine("second")
    document = Path("sweeps/s/sweep.json")
    (root / document).parent.mkdir(parents=True)
    (other / document).parent.mkdir(parents=True, exist_ok=True)
    with pytest.raises(FileNotFoundError):
        there.read_text(other / document)
    assert not there.exists(other / document)
    assert there.read_document(other / document, must_answer=True) is None
    for state in ("running", "finished"):
        store.write_text(root / document, f'{{"state": "{state}"}}')
        assert there.read_document(other / document) == {"state": state}
        assert there.exists(other / document)
    store.write_text(root / document, '["no object"]')
    assert there.read_document(other / document) is None
    there.remove(other / document)
    there.remove(other / document)  # it is gone already
    assert not store.exists(root / document)


def test_files_and_folders_are_listed(machine: Machine) -> None:
    store, root = machine("first")
    for name in ("one", "two"):
        (root / "sweeps" / name).mkdir(parents=True)
        (root / "sweeps" / name / "sweep.json").write_text("{}")
        store.upload_file(root / "sweeps" / name / "sweep.json")
    there, other = machine("second")
    assert there.folders(other / "sweeps") == ["one", "two"]
    assert there.folders(other / "nothing") == []
    assert there.listing(other / "sweeps").files == {"one/sweep.json": 2, "two/sweep.json": 2}
    assert there.listing(other / "nothing").files == {}
    download_files(there, [other / "sweeps" / name / "sweep.json" for name in ("one", "two", "three")])
    assert sorted(path.parent.name for path in other.glob("sweeps/*/sweep.json")) == ["one", "two"]


def test_a_removed_folder_is_gone_everywhere(machine: Machine) -> None:
    store, root = machine("first")
    store.upload(a_folder(root / "x"))
    store.remove_folder(root / "x")
    assert not (root / "x").exists()
    there, other = machine("second")
    assert not there.download(other / "x")
    assert not (other / "x").exists()
    there.remove_folder(other / "x")  # it is gone already


def test_blobs_of_an_interrupted_folder(machine: Machine) -> None:
    store, root = machine("first")
    folder = root / "features" / "x"
    folder.mkdir(parents=True)
    (folder / "shard.json").write_text("{}")
    (folder / "shard.bin").write_bytes(b"rows")
    blobs = store.upload_blobs(folder, ["shard.json", "shard.bin"])
    there, other = machine("second")
    found = there.uncommitted(other / "features" / "x", ".json")
    if not store.is_remote:
        assert blobs == found == {}, "a plain folder's files are read as files"
        return
    described = Blob(bytes=2, sha256=hashlib.sha256(b"{}").hexdigest())
    assert found == {"shard.json": [(described, b"{}")]}
    there.download_blobs(other / "features" / "x", blobs)
    assert (other / "features" / "x" / "shard.bin").read_bytes() == b"rows"
    store.remove_blob(folder, "shard.json", blobs["shard.json"])
    assert there.uncommitted(other / "features" / "x", ".json") == {}


def test_a_growing_file_is_there_when_it_must_be(machine: Machine) -> None:
    store, root = machine("first")
    root.mkdir(parents=True, exist_ok=True)
    growing = GrowingFile(root / "journal.jsonl", store)
    for line, now in (("1\n", False), ("2\n", False), ("3\n", True)):
        with (root / "journal.jsonl").open("a") as file:
            file.write(line)
        growing.grown(now=now)
    there, other = machine("second")
    there.download_file(other / "journal.jsonl")
    assert (other / "journal.jsonl").read_text() == "1\n2\n3\n"


def test_the_age_of_a_document_is_by_the_clock_of_whoever_keeps_it(machine: Machine) -> None:
    store, root = machine("first")
    (root / "sweeps").mkdir(parents=True)
    document = root / "sweeps" / "driver.json"
    assert store.age_seconds(document) is None
    store.write_text(document, "{}")
    hour_ahead = time_now() + 3600
    with pytest.MonkeyPatch.context() as patch:
        # Injected: this machine's clock is an hour ahead. (Requests are signed with another one.)
        patch.setattr(f"{BucketStore.__module__}.time.time", lambda: hour_ahead)
        age = store.age_seconds(document)
    assert age is not None and 0 <= age < 60
    assert [path.name for path in document.parent.iterdir()] == ["driver.json"], (
        "and nothing is left of the look"
    )


def test_ray_keeps_its_files_in_the_store(machine: Machine) -> None:
    store, root = machine("first")
    storage = store.ray_storage(root / "sweeps" / "s" / "ray")
    assert storage["storage_path"].endswith("home/sweeps/s/ray")
    assert ("storage_filesystem" in storage) == store.is_remote


@pytest.mark.slow
def test_a_path_outside_the_mirror_has_no_place_in_the_bucket(bucket: str, tmp_path: Path) -> None:
    store = BucketStore.open(bucket, tmp_path / "cache")
    with pytest.raises(ValueError, match="subpath"):
        store.upload(a_folder(tmp_path / "elsewhere"))


def test_a_bucket_that_is_not_there_is_reported_before_anything_is_made(s3: S3Server, tmp_path: Path) -> None:
    with pytest.raises(ObjectStoreError, match="there is no bucket not-there"):
        BucketStore.open("s3://not-there/home", tmp_path / "cache", check=True)
    assert not (tmp_path / "cache").exists()


def test_the_mirror_may_be_deleted(bucket: str, tmp_path: Path) -> None:
    store = BucketStore.open(bucket, tmp_path / "cache")
    store.upload(a_folder(store.root / "x"))
    shutil.rmtree(store.root)
    assert store.download(store.root / "x")
    assert files_below(store.root / "x") == ["a.bin", "deep/b.bin"]


@pytest.mark.parametrize("named", [True, False], ids=["PARETOVID_CACHE", "the user's cache folder"])
def test_a_mirror_is_this_users_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool) -> None:
    monkeypatch.delenv("PARETOVID_CACHE", raising=False)
    monkeypatch.setenv("PARETOVID_CACHE" if named else "XDG_CACHE_HOME", str(tmp_path / "shared"))
    root = BucketStore.open("s3://bucket/home").root
    assert root.parent == tmp_path / "shared" / (f"user-{os.geteuid()}" if named else "paretovid")
    assert root.is_dir() and root.parent.stat().st_mode & 0o777 == 0o700


def test_a_mirror_is_not_made_through_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where everybody can write, another user may have put one there."""
    (elsewhere := tmp_path / "elsewhere").mkdir()
    (shared := tmp_path / "shared").mkdir()
    monkeypatch.setenv("PARETOVID_CACHE", str(shared))
    (shared / f"user-{os.geteuid()}").symlink_to(elsewhere)
    with pytest.raises(OSError, match="cannot be used"):
        BucketStore.open("s3://bucket/home")
    assert list(elsewhere.iterdir()) == []
    monkeypatch.setattr(ObjectStore, "check", lambda store: None)
    with pytest.raises(UsageError, match=r"mirror of s3://bucket/home cannot be written in .*user-"):
        open_home("s3://bucket/home")
