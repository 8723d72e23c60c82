"""The object store against a real S3 server, also through a proxy that loses connections."""

from __future__ import annotations

import json
import pickle
import threading
import time

import numpy as np
import pytest

from paretovid.infra.object_store import MANIFEST, ObjectStore
from paretovid.infra.s3_server import OneNewObjectAtATime
from paretovid.infra.testing import FlakyProxy, free_port
from paretovid.trainables.data.s3 import ObjectStoreError


@pytest.fixture
def store(bucket):
    return ObjectStore(f"{bucket}/home")


def a_folder(path, seed=0, mebibytes=3):
    path.mkdir(parents=True)
    noise = np.random.default_rng(seed)
    for name in ("a.npy", "b.npy", "deep/c.npy"):
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_bytes(noise.bytes(mebibytes * 2**20 // 3))
    (path / "empty.txt").write_bytes(b"")
    return path


def content(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def test_a_folder_comes_back_as_it_was(store, tmp_path):
    there = a_folder(tmp_path / "there")
    (there / "half.npy.partial").write_bytes(b"half")
    store.upload_folder(there, "features/x")
    assert store.download_folder("features/x", tmp_path / "here")
    assert content(tmp_path / "here") == {k: v for k, v in content(there).items() if k != "half.npy.partial"}


def test_a_folder_without_its_manifest_is_not_there(store, tmp_path):
    there = a_folder(tmp_path / "there")
    for name in ("a.npy", "b.npy"):
        store.put_blob(there / name, "features/x", name)
    assert not store.download_folder("features/x", tmp_path / "here")
    assert not (tmp_path / "here").exists()


def test_blobs_that_have_not_arrived_are_not_committed(store, tmp_path):
    there = a_folder(tmp_path / "there")
    blob = store.put_blob(there / "a.npy", "x", "a.npy")
    store.remove(f"x/{blob.location}/a.npy")
    with pytest.raises(ObjectStoreError, match="has not arrived whole"):
        store.commit("x", {"a.npy": blob})
    assert store.manifest("x") is None


@pytest.mark.slow
def test_bytes_that_were_changed_in_the_bucket_are_refused(store, tmp_path):
    there = a_folder(tmp_path / "there")
    store.upload_folder(there, "x")
    blob = store.manifest("x")["a.npy"]
    store.write(f"x/{blob.location}/a.npy", b"?" * blob.bytes)
    with pytest.raises(ObjectStoreError, match="another digest") as raised:
        store.download_folder("x", tmp_path / "here")
    assert "Remove the folder" in raised.value.hint
    assert not (tmp_path / "here" / "a.npy").exists()


def test_only_what_differs_is_downloaded(store, tmp_path):
    there, here = a_folder(tmp_path / "there"), tmp_path / "here"
    store.upload_folder(there, "x")
    store.download_folder("x", here)
    before = (here / "b.npy").stat().st_mtime_ns
    (here / "a.npy").unlink()
    (there / "deep" / "c.npy").write_bytes(b"new")
    store.upload_folder(there, "x")
    store.download_folder("x", here)
    assert content(here) == content(there)
    assert (here / "b.npy").stat().st_mtime_ns == before


def test_wanted_parts_only(store, tmp_path):
    store.upload_folder(a_folder(tmp_path / "there"), "x")
    store.download_folder("x", tmp_path / "here", wanted=lambda names: [n for n in names if n == "a.npy"])
    assert list(content(tmp_path / "here")) == ["a.npy"]


def test_two_writers_and_many_readers_at_once(store, tmp_path):
    folders = [a_folder(tmp_path / f"writer{n}", seed=1) for n in range(2)]
    # The readers ask for it before it is there: whole or not at all.
    wrong: list[str] = []
    found: list[int] = []

    def write(folder):
        store.upload_folder(folder, "x")

    def read(number):
        until = time.monotonic() + 30
        while time.monotonic() < until:
            if store.download_folder("x", tmp_path / f"reader{number}"):
                found.append(number)
                if content(tmp_path / f"reader{number}") != content(folders[0]):
                    wrong.append(f"reader {number}")
                return
            time.sleep(0.01)

    threads = [threading.Thread(target=write, args=(folder,)) for folder in folders]
    threads += [threading.Thread(target=read, args=(number % 3,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert sorted(found) == [0, 0, 1, 1, 2, 2]


def test_lost_connections_in_the_middle_are_tried_again(bucket, s3, tmp_path, monkeypatch):
    with FlakyProxy(s3.port, rate=0.5, after_bytes=400_000) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        store = ObjectStore(f"{bucket}/home")
        there = a_folder(tmp_path / "there", mebibytes=12)
        store.upload_folder(there, "x")
        for number in range(3):
            assert store.download_folder("x", tmp_path / f"here{number}")
            assert content(tmp_path / f"here{number}") == content(there)
    assert proxy.cut > 3, f"{proxy.cut} of {proxy.connections} connections were cut"


def test_new_only(store):
    assert store.write_new("log/0", b"mine")
    assert not store.write_new("log/0", b"yours")
    assert store.read("log/0") == b"mine"


def test_names_and_removal(store, tmp_path):
    store.upload_folder(a_folder(tmp_path / "there"), "sweeps/s/trials/t0000")
    store.write("sweeps/s/sweep.json", b"{}")
    store.write("sweeps/s2/sweep.json", b"{}")
    assert store.folders("sweeps") == ["s", "s2"]
    assert store.folders("nothing") == []
    store.remove_folder("sweeps/s/trials/t0000")
    assert list(store.names("sweeps/s")) == ["sweep.json"]
    store.remove("sweeps/s/none")
    assert store.read("sweeps/s/none") is None


def test_an_object_that_is_missing_is_no_missing_bucket(store, bucket):
    store.write("a", b"1")
    store.write("c", b"3")
    assert store.read_many(["a", "b", "c"]) == [b"1", None, b"3"]
    assert (store.read_many(["b"]), store.read_many(["a"]), store.read_many([])) == ([None], [b"1"], [])
    with pytest.raises(ObjectStoreError, match=f"there is no object {bucket}/home/b") as raised:
        store._do("read", "b", lambda files: files.cat_file(store._path("b")))
    assert "aws s3 mb" not in raised.value.hint
    with pytest.raises(ObjectStoreError, match="there is no bucket nowhere-to-be-found"):
        ObjectStore("s3://nowhere-to-be-found/home").read_many(["a", "b"])


def test_of_two_writers_of_a_new_object_one_is_told_that_it_is_its():
    """Of the server that the tests use: by itself it looks, and then writes."""
    inside, most = 0, 0

    def application(environ, start_response):
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.02)
        inside -= 1
        return [b""]

    served = OneNewObjectAtATime(application)
    environ = {"REQUEST_METHOD": "PUT", "HTTP_IF_NONE_MATCH": "*"}
    threads = [threading.Thread(target=served, args=(environ, None)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


@pytest.mark.slow
def test_it_can_be_sent_to_a_worker(store):
    store.write("x", b"1")
    assert pickle.loads(pickle.dumps(store)).read("x") == b"1"  # noqa: S301


def test_check_of_a_good_bucket_leaves_nothing(store):
    store.check()
    assert store.names("") == {}


def test_a_bucket_that_is_not_there(s3):
    with pytest.raises(ObjectStoreError, match="there is no bucket nowhere-to-be-found") as raised:
        ObjectStore("s3://nowhere-to-be-found/home").check()
    assert "aws s3 mb" in raised.value.hint


@pytest.mark.parametrize("url", ["s3://", "s3:///x", "https://b/x", "s3://key:secret@b/x"])
def test_a_url_that_is_none_of_a_bucket(url):
    with pytest.raises(ObjectStoreError, match="not the URL of a bucket"):
        ObjectStore(url)


def test_a_server_that_is_not_there_is_reported_within_seconds(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-of-the-tests")
    began = time.monotonic()
    with pytest.raises(ObjectStoreError, match="cannot be reached") as raised:
        ObjectStore("s3://bucket/home").check()
    assert time.monotonic() - began < 15
    assert "a-secret-of-the-tests" not in f"{raised.value} {raised.value.hint}"


def test_no_credentials(s3, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(ObjectStoreError, match="no credentials") as raised:
        ObjectStore("s3://bucket/home").check()
    assert "AWS_ACCESS_KEY_ID" in raised.value.hint


def test_a_damaged_manifest_is_reported(store, tmp_path):
    store.write(f"x/{MANIFEST}", json.dumps({"parts": {"a": 1}}).encode())
    with pytest.raises(ObjectStoreError, match="is damaged"):
        store.download_folder("x", tmp_path / "here")


def test_a_manifest_of_another_format_is_not_taken_for_a_damaged_one(store):
    store.write(f"x/{MANIFEST}", json.dumps({"format": 2, "pieces": {}}).encode())
    with pytest.raises(ObjectStoreError, match=r"x/whole\.json is of format 2, and this code reads 1"):
        store.manifest("x")
