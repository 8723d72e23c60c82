from __future__ import annotations

import ast
import dataclasses
import errno
import io
import json
import os
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.odd_videos import CASES

from paretovid.trainables.backbones.catalog import component, family, load_backbone, save_backbone
from paretovid.trainables.backbones.description import BackboneOrigin
from paretovid.trainables.data.limits import VideoLimitsConfig
from paretovid.trainables.data.video_keys import video_key
from paretovid.trainables.data.videos import read_all_steps
from paretovid.trainables.documents import Fields
from paretovid.trainables.errors import (
    DataError,
    InfrastructureError,
    StaleFeaturesError,
    UnavailableDataError,
    UsageError,
)
from paretovid.trainables.features import checked as checked_module
from paretovid.trainables.features import store as store_module
from paretovid.trainables.features.checked import file_digest
from paretovid.trainables.features.extract import compute_features, extract_shard, headers
from paretovid.trainables.features.index import FeaturesHeader, FeaturesIndex
from paretovid.trainables.features.store import (
    _DETERMINING_CODE,
    FeatureStore,
    describes_shard,
    feature_code_version,
    features_header,
    finish,
    load_padded,
    noted_videos,
    read_shard_description,
    shard_files,
    shard_is_whole,
    skipped_videos,
    write_shard,
)
from paretovid.trainables.plugins.catalog import plugin_digest, use_plugins

COARSE = family("small")["coarse"]
HEADER = FeaturesHeader(
    component=COARSE,
    dataset="some",
    dataset_fingerprint="3a46fd007c08",
    weights_sha256="ab" * 32,
    video_share=0.5,
    sampling={"kind": "frame", "step_seconds": 0.5},
    dtype="float16",
    precision="bfloat16",
    code_version="270bbd0050a7",
)


@pytest.fixture
def backbone(tmp_path):
    """A folder with an untrained coarse backbone."""
    torch.manual_seed(0)
    save_backbone(tmp_path / "backbone", COARSE, component(COARSE).build(3).eval())
    return tmp_path / "backbone"


def extracted(videos, backbone: Path, root: Path, dtype: str = "float32") -> Path:
    """A store over two shards."""
    header = headers(videos, {COARSE: backbone}, dtype)[COARSE]
    folder = root / f"{COARSE}@{header.fingerprint}"
    for index, records in enumerate((videos.records[:7], videos.records[7:])):
        assert extract_shard(videos, records, {COARSE: backbone}, {COARSE: folder}, index, dtype) == []
    finish(folder, header, 2)
    return folder


def test_features_are_those_of_the_backbone_on_the_decoded_steps(videos, backbone, tmp_path):
    store = FeatureStore.open(extracted(videos, backbone, tmp_path / "features"))
    assert len(store) == len(videos.records) and store.width == component(COARSE).feature_width
    network, _ = load_backbone(backbone)
    for record in videos.records:
        steps = read_all_steps(
            videos.video_path(record), {"c": component(COARSE).input}, step_seconds=videos.step_seconds
        )
        np.testing.assert_array_equal(store.video(record.video_id), compute_features(network, steps["c"]))


def test_padding_masks_targets_and_keys(videos, backbone, tmp_path):
    store = FeatureStore.open(extracted(videos, backbone, tmp_path / "features"))
    split = load_padded({"coarse": store}, videos.records, videos)
    lengths = [record.num_steps for record in videos.records]
    assert split.num_steps.tolist() == lengths and split.mask.sum(dim=1).tolist() == lengths
    assert split.features["coarse"].shape == (10, max(lengths), store.width)
    assert not split.features["coarse"][~split.mask].any()
    assert [row.nonzero().flatten().tolist() for row in split.targets] == [
        list(r.labels) for r in videos.records
    ]
    assert split.video_keys.tolist() == [video_key(record.video_id) for record in videos.records]


def test_features_are_mapped_not_copied(videos, backbone, tmp_path):
    store = FeatureStore.open(extracted(videos, backbone, tmp_path / "features"))
    values = store.video(videos.records[0].video_id)
    assert isinstance(values, np.memmap) and not values.flags.writeable


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_is_read_is_what_is_mapped(videos, backbone, tmp_path, dtype):
    """In any order: from one shard, from the other, and back."""
    store = FeatureStore.open(extracted(videos, backbone, tmp_path / "features", dtype))
    ids = [videos.records[number].video_id for number in (8, 0, 9, 3, 1)]
    longest = max(len(store.video(video_id)) for video_id in ids)
    into = np.full((len(ids), longest, store.width), -7, np.float32)
    store.read(ids, into)
    for row, video_id in zip(into, ids, strict=True):
        mapped = store.video(video_id)
        np.testing.assert_array_equal(row[: len(mapped)], mapped)
        assert (row[len(mapped) :] == -7).all()


@pytest.mark.parametrize("left_bytes", [0, 3000])
def test_a_shard_that_becomes_shorter_after_its_opening_is_the_places_fault(
    videos, backbone, tmp_path, left_bytes
):
    """To touch what is mapped of it is SIGBUS where a whole page is gone, and zeros within the last one."""
    folder = extracted(videos, backbone, tmp_path / "features")
    store = FeatureStore.open(folder)
    os.truncate(folder / "shard_00001.npy", left_bytes)
    with pytest.raises(InfrastructureError, match=r"shard_00001\.npy has become shorter"):
        load_padded({"coarse": store}, videos.records, videos)
    (folder / "shard_00001.npy").unlink()
    with pytest.raises(InfrastructureError, match="cannot be read: No such file"):
        load_padded({"coarse": store}, videos.records, videos)


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE])
def test_a_disk_that_fails_while_features_are_read_is_the_places_fault(
    videos, backbone, tmp_path, monkeypatch, code
):
    """Injected just below our code: the first block can be read, what follows cannot."""
    store = FeatureStore.open(extracted(videos, backbone, tmp_path / "features"))

    class Failing(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "open", lambda path, mode: Failing())
    with pytest.raises(InfrastructureError, match=f"cannot be read: {os.strerror(code)}"):
        load_padded({"coarse": store}, videos.records, videos)


def test_float16_is_half_as_large_and_close(videos, backbone, tmp_path):
    full = FeatureStore.open(extracted(videos, backbone, tmp_path / "features"))
    folder = extracted(videos, backbone, tmp_path / "features", "float16")
    half = FeatureStore.open(folder)
    video = videos.records[0].video_id
    assert half.video(video).dtype == np.float16 and full.fingerprint != half.fingerprint
    np.testing.assert_allclose(half.video(video), full.video(video), atol=2e-3, rtol=2e-3)
    with pytest.raises(UsageError, match="int8"):
        headers(videos, {COARSE: backbone}, "int8")


def test_a_shard_that_is_whole_is_not_made_again(videos, backbone, tmp_path):
    folder = extracted(videos, backbone, tmp_path / "features")
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("shard_*.npy")}
    extracted(videos, backbone, tmp_path / "features")
    assert stamps == {path: path.stat().st_mtime_ns for path in folder.glob("shard_*.npy")}


@pytest.mark.parametrize("harm", ["byte", "short", "gone", "index", "no JSON", "no header", "no index"])
def test_damage_is_refused_with_the_command_that_repairs_it(videos, backbone, tmp_path, harm):
    folder = extracted(videos, backbone, tmp_path / "features" / "moving_digits")
    shard, index = folder / "shard_00001.npy", folder / "index.json"
    content = shard.read_bytes()
    if harm == "byte":
        shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif harm == "short":
        shard.write_bytes(content[:-8])
    elif harm == "gone":
        shard.unlink()
    elif harm == "index":
        changed = json.loads(index.read_text())
        changed["header"]["weights_sha256"] = "0" * 64
        index.write_text(json.dumps(changed))
    elif harm.startswith("no "):
        index.write_text("{" if harm == "no JSON" else "{}")
        if harm == "no index":
            index.unlink()
    with pytest.raises(StaleFeaturesError) as error:
        FeatureStore.open(folder)
    assert "paretovid extract data=moving_digits" in error.value.hint
    said = {
        "no JSON": "index .* is damaged",
        "no header": "index .* is damaged",
        "no index": "no features in",
    }
    assert re.search(said.get(harm, "missing" if harm == "gone" else "damaged|changed"), error.value.message)
    if harm in ("byte", "short", "gone"):
        extracted(videos, backbone, tmp_path / "features" / "moving_digits")
        assert len(FeatureStore.open(folder)) == len(videos.records), "the command repairs it"


def test_a_byte_that_turns_after_the_first_opening_is_noticed_at_the_next(videos, backbone, tmp_path):
    folder = extracted(videos, backbone, tmp_path / "features")
    FeatureStore.open(folder)
    shard = folder / "shard_00000.npy"
    for place in (-1, 200):
        content, times = shard.read_bytes(), shard.stat()
        turned = bytearray(content)
        turned[place] ^= 1
        shard.write_bytes(turned)  # as large as before
        with pytest.raises(StaleFeaturesError, match="damaged"):
            FeatureStore.open(folder)
        with pytest.raises(StaleFeaturesError, match="damaged"):
            FeatureStore.open(folder)  # a refusal is not taken for a check that was passed
        shard.write_bytes(content)
        os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
        assert len(FeatureStore.open(folder)) == len(videos.records)


def test_what_was_checked_is_not_read_again_until_it_changes(videos, backbone, tmp_path, monkeypatch):
    folder = extracted(videos, backbone, tmp_path / "features")
    read: list[str] = []

    def digest(path: Path) -> str:
        read.append(path.name)
        return file_digest(path)

    monkeypatch.setattr(checked_module, "file_digest", digest)
    FeatureStore.open(folder)
    FeatureStore.open(folder)
    assert read == ["shard_00000.npy", "shard_00001.npy"]
    os.utime(folder / "shard_00001.npy", ns=(1, 1))
    FeatureStore.open(folder)
    assert read[2:] == ["shard_00001.npy"]
    (folder / "verified.json").write_text("[damaged")
    FeatureStore.open(folder)
    assert read[3:] == ["shard_00000.npy", "shard_00001.npy"]


def test_an_edit_that_leaves_size_and_time_is_noticed_after_a_day(videos, backbone, tmp_path):
    folder = extracted(videos, backbone, tmp_path / "features")
    FeatureStore.open(folder)
    shard = folder / "shard_00000.npy"
    content, times = bytearray(shard.read_bytes()), shard.stat()
    content[-1] ^= 1
    shard.write_bytes(content)
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))
    FeatureStore.open(folder)
    with pytest.raises(StaleFeaturesError, match="damaged"):
        FeatureStore.open(folder, check_all=True)
    # As a day later, and as by a clock that is ahead: a check that is still to come is none.
    verified = json.loads((folder / "verified.json").read_text())
    for hours in (-25, 1):
        about = {**verified, "checked": time.time() + hours * 3600}
        (folder / "verified.json").write_text(json.dumps(about))
        with pytest.raises(StaleFeaturesError, match="damaged"):
            FeatureStore.open(folder)
    # A file that is checked anew in between does not put off the day of the others.
    about = {**verified, "checked": time.time() - 23 * 3600}
    (folder / "verified.json").write_text(json.dumps(about))
    os.utime(folder / "shard_00001.npy", ns=(1, 1))
    FeatureStore.open(folder)
    assert json.loads((folder / "verified.json").read_text())["checked"] == about["checked"]


def test_precision_type_and_share_are_part_of_the_fingerprint(videos, backbone, tmp_path):
    save_backbone(
        tmp_path / "half", COARSE, load_backbone(backbone)[0], BackboneOrigin(training={"video_share": 0.5})
    )
    found = [
        headers(videos, {COARSE: folder}, dtype, precision)[COARSE].fingerprint
        for folder, dtype, precision in (
            (backbone, "float32", "float32"),
            (backbone, "float16", "float32"),
            (backbone, "float32", "bfloat16"),
            (backbone, "float32", "float16"),
            (tmp_path / "half", "float32", "float32"),
        )
    ]
    assert len(set(found)) == len(found)
    assert all(len(each) == 12 for each in found)


NO_PART_IN_FEATURES = {
    "cost.py": "counts, computes nothing",
    "data/limits.py": "refuses, changes nothing; those that are not the usual ones are in the header",
    "data/dataset.py": "names, lengths and labels, which the fingerprint of the data set holds",
    "data/partial_files.py": "what becomes of a file that could not be written",
    "data/regular_files.py": "refuses what is no file, changes nothing",
    "data/s3.py": "brings bytes as they are",
    "backbones/description.py": "what is written beside the weights",
    "errors.py": "words",
    "features/checked.py": "whether the rows are those that were written",
    "features/index.py": "what is written beside the rows",
    "ranges.py": "refuses settings, changes none",
    "documents.py": "reads and writes JSON",
    "features/store.py": "writes rows as they are; what it says of them is its header",
    "data/video_keys.py": "the hash of a video's id, for the data set",
    "plugins/catalog.py": "finds modules by name",
    "plugins/packed.py": "what a promoted model carries",
    "redaction/texts.py": "words of messages",
    "redaction/urls.py": "words of messages, and what is recorded of a URL",
}
"""Modules that extraction imports and whose changes leave features valid, with the reason."""


def test_every_module_that_extraction_imports_is_in_the_version_of_the_code():
    root = Path(store_module.__file__).parents[1]
    found: set[str] = set()
    # The catalog finds the papers' backbones by their names.
    waiting = ["features/extract.py", "backbones/paper.py"]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += imported_by(root / name, root)
    assert set(_DETERMINING_CODE) == found - NO_PART_IN_FEATURES.keys()
    assert NO_PART_IN_FEATURES.keys() <= found
    assert feature_code_version() == feature_code_version() and len(feature_code_version()) == 12


def imported_by(path: Path, root: Path) -> list[str]:
    """The modules of `trainables/` that a file imports, inside functions too."""
    modules: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules += [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
    names = [m.removeprefix("paretovid.trainables.").replace(".", "/") + ".py" for m in modules]
    return [name for name in names if (root / name).is_file()]


def test_a_change_of_any_of_these_files_is_another_version(tmp_path, monkeypatch):
    for name in _DETERMINING_CODE:
        (tmp_path / "trainables" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "trainables" / name).write_text("as it was")
    monkeypatch.setattr(store_module, "__file__", str(tmp_path / "trainables" / "features" / "store.py"))

    def version() -> str:
        feature_code_version.cache_clear()
        return feature_code_version()

    try:
        versions = {version()}
        for name in _DETERMINING_CODE:
            (tmp_path / "trainables" / name).write_text("changed")
            versions.add(version())
        assert len(versions) == len(_DETERMINING_CODE) + 1
    finally:
        feature_code_version.cache_clear()


PLUGIN = """
import dataclasses
from paretovid.trainables.backbones.catalog import component, register_family
register_family({name!r}, {{"fine": dataclasses.replace(component("resnet8_w16@64"), name="{name}@64")}})
"""


def test_the_code_of_a_plugin_is_part_of_the_features_of_its_backbones_only(videos, no_plugins, tmp_path):
    before = features_header(videos, COARSE, "weights", "float32")
    for name in ("mine", "other"):
        (tmp_path / f"{name}.py").write_text(PLUGIN.format(name=name))
    use_plugins(["mine", "other"])

    def fingerprints() -> list[str]:
        plugin_digest.cache_clear()
        names = (COARSE, "mine@64", "other@64")
        return [features_header(videos, name, "weights", "float32").fingerprint for name in names]

    built_in, mine, other = fingerprints()
    assert before.code_version == feature_code_version() and built_in == before.fingerprint
    (tmp_path / "mine.py").write_text(PLUGIN.format(name="mine") + "WIDTH = 32\n")
    changed = fingerprints()
    assert changed[1] != mine and [changed[0], changed[2]] == [built_in, other]


def test_other_weights_other_videos_or_other_sampling_are_other_features(videos, backbone, tmp_path):
    folder = extracted(videos, backbone, tmp_path / "features")
    mine = headers(videos, {COARSE: backbone})[COARSE]
    torch.manual_seed(1)
    save_backbone(tmp_path / "other", COARSE, component(COARSE).build(3).eval())
    other_weights = headers(videos, {COARSE: tmp_path / "other"})[COARSE]
    other_videos = headers(dataclasses.replace(videos, records=videos.records[1:]), {COARSE: backbone})[
        COARSE
    ]
    other_steps = headers(dataclasses.replace(videos, step_seconds=0.25), {COARSE: backbone})[COARSE]
    found = {h.fingerprint for h in (mine, other_weights, other_videos, other_steps)}
    assert len(found) == 4
    with pytest.raises(StaleFeaturesError, match="other videos, weights, sampling"):
        FeatureStore.open(folder, expected=other_weights.fingerprint)


def test_a_video_that_cannot_be_read_is_named_and_has_no_features(videos, backbone, tmp_path):
    broken = dataclasses.replace(videos, root=tmp_path / "copy")
    (broken.root / "videos").mkdir(parents=True)
    for record in videos.records:
        broken.video_path(record).write_bytes(videos.video_path(record).read_bytes())
    bad = broken.records[2]
    broken.video_path(bad).write_text("this is text")
    header = headers(broken, {COARSE: backbone})[COARSE]
    folder = tmp_path / "features"
    ((path, reason),) = extract_shard(broken, broken.records, {COARSE: backbone}, {COARSE: folder}, 0)
    finish(folder, header, 1)
    store = FeatureStore.open(folder)
    assert path == str(broken.video_path(bad)) and reason
    others = [record.video_id for record in videos.records if record is not videos.records[2]]
    assert list(store) == others and others[0] in store and skipped_videos(folder, 1) == store.skipped
    assert bad.video_id not in store and len(store) == len(videos.records) - 1
    with pytest.raises(StaleFeaturesError, match="could not be read"):
        store.video(bad.video_id)


def test_a_video_that_is_missing_is_skipped_and_with_its_whole_folder_it_is_away(videos, backbone, tmp_path):
    part = dataclasses.replace(videos, root=tmp_path / "copy")
    shutil.copytree(videos.root, part.root)
    path = part.video_path(videos.records[2])
    path.unlink()
    made = {COARSE: tmp_path / "features"}
    ((skipped, reason),) = extract_shard(part, part.records, {COARSE: backbone}, made, 0)
    assert skipped == str(path) and "no such file" in reason
    path.parent.rename(tmp_path / "aside")
    made = {COARSE: tmp_path / "away"}
    for folder in (None, path.parent):
        if folder is not None:
            folder.mkdir()
        with pytest.raises(UnavailableDataError, match="is not there, and its folder is gone or empty"):
            extract_shard(part, part.records, {COARSE: backbone}, made, 0)
    assert not list(tmp_path.glob("away/*"))


def test_a_video_that_the_disk_does_not_let_be_read_is_not_recorded_as_skipped(
    videos, backbone, tmp_path, monkeypatch
):
    """Injected below the reader: tests may run as root, who may read everything."""

    def refuse(path):
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(io, "FileIO", refuse)
    for code in (errno.EACCES, errno.EIO, errno.ESTALE):
        with pytest.raises(UnavailableDataError, match=os.strerror(code)):
            extract_shard(videos, videos.records, {COARSE: backbone}, {COARSE: tmp_path / "features"}, 0)
    assert not list(tmp_path.glob("features/*"))


def test_features_that_float16_cannot_hold_are_refused_not_written(tmp_path):
    videos = {"a": np.full((2, 4), 1e6, np.float32)}
    with pytest.raises(DataError, match="not finite as float16") as error:
        write_shard(tmp_path, 0, videos, asked=["a"], skipped={}, width=4, dtype="float16")
    assert "float32" in error.value.hint and not list(tmp_path.iterdir())


def test_a_shard_of_other_videos_is_made_again_and_a_missing_one_is_named(videos, backbone, tmp_path):
    folder = extracted(videos, backbone, tmp_path / "features")
    ids = [record.video_id for record in videos.records]
    assert shard_is_whole(folder, 0, ids[:7]) and not shard_is_whole(folder, 0, ids[:6])
    with pytest.raises(DataError, match="shard 2 of 3 is missing"):
        finish(folder, headers(videos, {COARSE: backbone})[COARSE], 3)


def test_a_fingerprint_is_of_what_is_said_not_of_the_order_in_which_it_is(videos, backbone):
    header = headers(videos, {COARSE: backbone})[COARSE]
    other_way = dataclasses.replace(header, sampling=dict(reversed(list(header.sampling.items()))))
    assert list(other_way.sampling) != list(header.sampling) and other_way.fingerprint == header.fingerprint
    assert header.sampling["step_seconds"] == videos.step_seconds and header.component == COARSE


def test_a_shard_is_described_by_the_videos_that_it_was_asked_for_and_its_width(tmp_path):
    write_shard(
        tmp_path, 3, {"a": np.ones((2, 4))}, asked=["a", "b"], skipped={"b": "why"}, width=4, dtype="float32"
    )
    rows, description = shard_files(3)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([rows, description])
    described = json.loads((tmp_path / description).read_text())
    assert described["videos"] == {"a": [3, 0, 2]} and described["skipped"] == {"b": "why"}
    assert described["bytes"] == (tmp_path / rows).stat().st_size
    found = read_shard_description(tmp_path, 3)
    assert describes_shard(found, ["a", "b"]) and not describes_shard(found, ["a"])
    for earlier in ({**described, "width": 0}, {k: v for k, v in described.items() if k != "width"}):
        (tmp_path / description).write_text(json.dumps(earlier))
        assert not shard_is_whole(tmp_path, 3, ["a", "b"]), "as earlier versions left them"
    (tmp_path / description).write_text(json.dumps({**described, "version": 2}))
    for read in (
        lambda: shard_is_whole(tmp_path, 3, ["a", "b"]),
        lambda: read_shard_description(tmp_path, 3),
    ):
        with pytest.raises(DataError):
            read()
    (tmp_path / description).write_text(json.dumps(described))
    assert shard_is_whole(tmp_path, 3, ["a", "b"]) and not shard_is_whole(tmp_path, 2, ["a", "b"])
    (tmp_path / rows).write_bytes(b"other")
    assert not shard_is_whole(tmp_path, 3, ["a", "b"])


def test_videos_of_a_store_whose_rows_cannot_all_be_had_are_named(tmp_path):
    videos = {name: np.full((2, 4), np.nan) for name in "abcd"} | {"good": np.ones((1, 4))}
    with pytest.raises(DataError, match=r"^features of a, b, c and others are not finite as float32"):
        write_shard(tmp_path, 0, videos, asked=[*videos], skipped={}, width=4, dtype="float32")
    three = {name: videos[name] for name in ("a", "b", "c", "good")}
    with pytest.raises(DataError, match=r"^features of a, b, c are not finite"):
        write_shard(tmp_path, 0, three, asked=[*three], skipped={}, width=4, dtype="float32")


def test_a_store_without_one_video_is_none_and_says_why(tmp_path):
    for shard, reason in ((0, "no file"), (1, "no frame")):
        write_shard(tmp_path, shard, {}, asked=[reason], skipped={reason: reason}, width=4, dtype="float32")
    assert skipped_videos(tmp_path, 2) == {"no file": "no file", "no frame": "no frame"}
    with pytest.raises(DataError, match="not one of 2 videos of some could be read") as error:
        finish(tmp_path, HEADER, 2)
    assert "no file; no frame" in error.value.hint and not (tmp_path / "index.json").exists()


def test_what_was_odd_in_a_video_is_kept_beside_its_features(videos, backbone, tmp_path):
    odd = dataclasses.replace(videos, root=tmp_path / "copy")
    (odd.root / "videos").mkdir(parents=True)
    cases = {1: "apac_only.mp4", 3: "transpose.mp4", 4: "far.mkv"}
    for number, record in enumerate(odd.records):
        source = CASES / cases[number] if number in cases else videos.video_path(record)
        odd.video_path(record).write_bytes(source.read_bytes())
    ids = [record.video_id for record in odd.records]
    folder = tmp_path / "features"
    assert extract_shard(odd, odd.records, {COARSE: backbone}, {COARSE: folder}, 0) == []
    notes = noted_videos(folder, 1)
    # The coarse backbone hears nothing: that there is no decoder for the sound is nothing to it.
    assert (
        notes.keys() == {ids[3], ids[4]} and "mirrored" in notes[ids[3]][0] and "364.0 s" in notes[ids[4]][0]
    )
    finish(folder, headers(odd, {COARSE: backbone})[COARSE], 1)
    assert FeaturesIndex.read(folder, "").notes == notes

    strict = dataclasses.replace(odd, limits=VideoLimitsConfig(max_steps=100))
    ((path, reason),) = extract_shard(
        strict, strict.records, {COARSE: backbone}, {COARSE: tmp_path / "strict"}, 0
    )
    assert path == str(odd.video_path(odd.records[4])) and "728 steps" in reason
    header = headers(strict, {COARSE: backbone})[COARSE]
    usual = headers(odd, {COARSE: backbone})[COARSE]
    assert header.limits == {"max_steps": 100} and "limits" not in usual.to_json()
    assert FeaturesHeader.from_json(Fields(header.to_json(), "header", "")) == header
    assert header.fingerprint != usual.fingerprint
