"""Objects of a bucket, on a real S3 server."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import boto3
import numpy as np
import pytest
import torch
from safetensors.torch import save

from paretovid.infra.testing import FlakyProxy, free_port
from paretovid.trainables.backbones.weights import fetch, read_tensors
from paretovid.trainables.data import s3 as objects
from paretovid.trainables.data.s3 import (
    ObjectStoreError,
    downloaded,
    is_object,
    list_objects,
    open_object,
    read_object,
    read_part,
    status,
)
from paretovid.trainables.errors import DataError, UsageError


def put(bucket: str, **contents: bytes) -> None:
    client = boto3.client("s3")
    for key, content in contents.items():
        client.put_object(Bucket=bucket.removeprefix("s3://"), Key=key.replace("__", "/"), Body=content)


def test_what_is_an_object() -> None:
    assert is_object("s3://bucket/key")
    assert not any(is_object(each) for each in ("key", "/s3:/key", Path("s3://bucket/key"), b"s3://"))


def test_objects_are_listed_with_their_status_at_any_depth(bucket: str) -> None:
    put(bucket, a__one=b"1", a__deep__two=b"22", ab__three=b"333")
    found = list_objects(f"{bucket}/a/")
    assert {url: each.bytes for url, each in found.items()} == {
        f"{bucket}/a/deep/two": 2,
        f"{bucket}/a/one": 1,
    }
    assert found[f"{bucket}/a/one"] == status(f"{bucket}/a/one")
    assert found[f"{bucket}/a/one"].modified_nanoseconds > 1e18
    assert list_objects(f"{bucket}/none") == {}


def test_an_object_is_read_whole_in_part_and_as_a_file(bucket: str) -> None:
    content = np.random.default_rng(0).bytes(3 * 2**20)
    put(bucket, **{"a.mp4": content, "empty": b""})
    url = f"{bucket}/a.mp4"
    assert read_object(url) == content and read_object(f"{bucket}/empty") == b""
    assert read_part(url, 5, 9) == content[5:9] and read_part(url, 5, 5) == b""
    with open_object(url) as file:
        file.seek(-4, 2)
        assert file.read() == content[-4:]
    with downloaded(url) as path:
        assert path.read_bytes() == content and path.suffix == ".mp4"
    assert not path.exists()


def test_a_download_resumes_where_the_connection_was_lost(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = np.random.default_rng(0).bytes(4 * 2**20)
    put(bucket, a=content)
    monkeypatch.setattr(objects, "CHUNK_BYTES", 2**20)
    port = int(os.environ["AWS_ENDPOINT_URL"].rpartition(":")[2])
    with FlakyProxy(port, rate=0.4, after_bytes=100_000) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        assert read_object(f"{bucket}/a") == content
    assert proxy.cut > 0


def test_what_is_not_there(bucket: str) -> None:
    for read in (status, read_object, open_object, lambda url: read_part(url, 0, 4)):
        with pytest.raises(FileNotFoundError):
            read(f"{bucket}/none")
    with pytest.raises(ObjectStoreError, match="there is no bucket paretovid-none"):
        list_objects("s3://paretovid-none/a")
    with pytest.raises(ObjectStoreError, match="there is no bucket paretovid-none"):
        read_part("s3://paretovid-none/a", 0, 1)


def test_a_bucket_that_is_away(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(ObjectStoreError, match="cannot be reached") as caught:
        objects.patiently(lambda: objects._files().info(f"{bucket}/a"), f"{bucket}/a", "read", patience=0.5)
    assert caught.value.is_passing


def test_weights_come_from_a_bucket(bucket: str) -> None:
    tensors = {"a.weight": torch.arange(6.0).reshape(2, 3)}
    put(bucket, **{"w.safetensors": save(tensors)})
    location = f"{bucket}/w.safetensors"
    assert torch.equal(read_tensors(fetch(location), location)["a.weight"], tensors["a.weight"])
    with pytest.raises(DataError, match=f"there is no object {bucket}/none"):
        fetch(f"{bucket}/none")
    with pytest.raises(DataError, match="weights cannot be read: there is no bucket paretovid-none"):
        fetch("s3://paretovid-none/w.safetensors")


def test_s3_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    objects._files_at.cache_clear()
    with pytest.raises(UsageError, match="needs s3fs"):
        fetch("s3://bucket/weights.pth")
