"""Copies of features on a node's disk: whole or not there, made once, checked, and repaired."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import pytest

from paretovid.infra import node_cache as cache_module
from paretovid.infra.node_cache import NodeCacheError, fetch, make_private, node_cache


def make_source(folder: Path, shards: int = 3) -> Path:
    source = folder / "home" / "features" / "digits" / "fine@64-abc"
    source.mkdir(parents=True)
    for index in range(shards):
        (source / f"shard_{index}.npy").write_bytes(bytes([index]) * 1000)
    (source / "index.json").write_text(json.dumps({"shards": shards}))
    (source / "shard_9.123.partial").write_text("left by a kill")
    return source


def is_whole(folder: Path) -> bool:
    return is_copy(folder, folder)


def is_copy(folder: Path, source: Path) -> bool:
    try:
        if (folder / "index.json").read_bytes() != (source / "index.json").read_bytes():
            return False
        shards = json.loads((folder / "index.json").read_text())["shards"]
        return all((folder / f"shard_{i}.npy").read_bytes() == bytes([i]) * 1000 for i in range(shards))
    except (OSError, ValueError):
        return False


def test_a_copy_is_made_once_under_the_names_of_its_source(tmp_path: Path) -> None:
    source = make_source(tmp_path)
    beats: list[int] = []
    copy = fetch(source, tmp_path / "cache", is_copy=is_copy, heartbeat=lambda: beats.append(1))
    assert copy == tmp_path / "cache" / "digits" / "fine@64-abc"
    assert {path.name for path in copy.iterdir()} == {"index.json", *(f"shard_{i}.npy" for i in range(3))}
    assert beats
    stamp = copy.stat().st_mtime_ns
    assert fetch(source, tmp_path / "cache", is_copy=is_copy) == copy
    assert copy.stat().st_mtime_ns == stamp


def test_a_damaged_copy_is_made_anew_and_what_a_kill_has_left_is_removed(tmp_path: Path) -> None:
    source, cache = make_source(tmp_path), tmp_path / "cache"
    copy = fetch(source, cache, is_copy=is_copy)
    (copy / "shard_1.npy").write_bytes(b"spoilt")
    left = copy.with_name(f"{copy.name}.0a1b2c.partial")
    left.mkdir()
    assert is_whole(fetch(source, cache, is_copy=is_copy))
    assert not left.exists()


def test_what_arrives_damaged_gets_no_name(tmp_path: Path) -> None:
    source = make_source(tmp_path)
    (source / "shard_0.npy").write_bytes(b"spoilt at its source")
    with pytest.raises(NodeCacheError, match="arrived damaged"):
        fetch(source, tmp_path / "cache", is_copy=is_copy)
    assert [path.name for path in (tmp_path / "cache" / "digits").iterdir()] == ["fine@64-abc.lock"]


def test_too_little_space_is_reported_before_anything_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "FREE_BYTES", 2**60)
    with pytest.raises(NodeCacheError, match="GiB free"):
        fetch(make_source(tmp_path), tmp_path / "cache", is_copy=is_copy)


def _fetch_and_count(source: str, cache: str, log: str) -> None:
    copy = cache_module._copy

    def counted(*words, **named):
        with Path(log).open("a") as file:
            file.write("copied\n")
        copy(*words, **named)

    cache_module._copy = counted
    fetch(Path(source), Path(cache), is_copy=is_copy)


def test_of_many_trials_of_a_node_one_copies(tmp_path: Path) -> None:
    source, log = make_source(tmp_path), tmp_path / "log"
    context = multiprocessing.get_context("fork")
    arguments = (str(source), str(tmp_path / "cache"), str(log))
    workers = [context.Process(target=_fetch_and_count, args=arguments) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert log.read_text() == "copied\n"


def test_a_node_may_name_its_own_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PARETOVID_NODE_CACHE", raising=False)
    assert node_cache(None) is None
    own = f"user-{os.geteuid()}"
    assert node_cache("/tmp/c") == Path("/tmp/c") / own
    monkeypatch.setenv("PARETOVID_NODE_CACHE", "/scratch/c")
    assert node_cache("/tmp/c") == Path("/scratch/c") / own
    assert node_cache(None) is None, "where the configuration wants no copies, there are none"


def test_the_folder_lets_in_nobody_else(tmp_path: Path) -> None:
    cache = tmp_path / "shared" / "user-1"
    fetch(make_source(tmp_path), cache, is_copy=is_copy)
    assert cache.stat().st_mode & 0o777 == 0o700
    cache.chmod(0o755)
    make_private(cache)
    assert cache.stat().st_mode & 0o777 == 0o700, "also where an earlier version has made it"


def test_where_everybody_can_write_others_can_make_theirs_beside_it(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    make_private(tmp_path / "tmp" / "cache" / "user-1")
    make_private(tmp_path / "private" / "cache" / "user-1")
    assert (tmp_path / "tmp" / "cache").stat().st_mode & 0o7777 == 0o1777
    assert not (tmp_path / "private" / "cache").stat().st_mode & 0o002


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "user-1").symlink_to(elsewhere)
    with pytest.raises(NodeCacheError, match="cannot be used"):
        fetch(make_source(tmp_path), tmp_path / "cache" / "user-1", is_copy=is_copy)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's folder")
def test_what_another_user_has_put_there_is_not_used(tmp_path: Path) -> None:
    source, cache = make_source(tmp_path), tmp_path / "cache" / "user-0"
    cache.mkdir(parents=True)
    os.chown(cache, 12345, 12345)
    with pytest.raises(NodeCacheError, match="belongs to user 12345"):
        fetch(source, cache, is_copy=is_copy)
    cache.rmdir()
    cache.parent.rmdir()
    (tmp_path / "elsewhere").mkdir()
    cache.parent.symlink_to(tmp_path / "elsewhere")
    os.lchown(cache.parent, 12345, 12345)
    with pytest.raises(NodeCacheError, match="is a link that another user has made"):
        fetch(source, cache, is_copy=is_copy)


def test_a_copy_that_is_whole_and_of_something_else_is_made_anew(tmp_path: Path) -> None:
    """It was changed with its own index, or made by features of the same name before these."""
    source, cache = make_source(tmp_path), tmp_path / "cache"
    copy = fetch(source, cache, is_copy=is_copy)
    (copy / "index.json").write_text(json.dumps({"shards": 1}))
    assert is_whole(copy)
    assert fetch(source, cache, is_copy=is_copy) == copy
    assert (copy / "index.json").read_bytes() == (source / "index.json").read_bytes()


def test_no_folder_at_all_is_the_caches_fault(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.write_text("a file where the folder should be")
    with pytest.raises(NodeCacheError, match="cannot be used"):
        fetch(make_source(tmp_path), cache / "user-1", is_copy=is_copy)
