"""The suite of readers: one that breaks a rule fails, and is told which; ours keep them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

import pytest

from paretovid.trainables.contracts.readers import ReaderContract
from paretovid.trainables.data.readers.annotations import (
    TO_DIVIDE,
    AnnotatedVideo,
    Annotations,
    Reader,
    ReaderConfig,
)
from paretovid.trainables.data.readers.catalog import register_reader

pytestmark = pytest.mark.usefixtures("no_plugins")

VIDEO = AnnotatedVideo(video_id="a", split=TO_DIVIDE, labels=(0,), names=("a.mp4",), where="list.txt:1")
READS = "test_it_reads_its_example"
BROKEN: list[tuple[str, tuple[AnnotatedVideo, ...]]] = [
    ("read gives at least one video", ()),
    ("each video_id once", (VIDEO, dataclasses.replace(VIDEO, where="list.txt:2"))),
    (r"labels are numbers of classes; list.txt:1 has \[2\]", (dataclasses.replace(VIDEO, labels=(0, 2)),)),
    (r"labels are numbers of classes; list.txt:1 has \[-1\]", (dataclasses.replace(VIDEO, labels=(-1,)),)),
    ("splits; list.txt:1: training", (dataclasses.replace(VIDEO, split="training"),)),
    ("where names file and line", (dataclasses.replace(VIDEO, where=""),)),
]


class MineContract(ReaderContract):
    """Of a reader whose files say nothing: a test registers it with what it gives."""

    name = "mine"
    settings: ClassVar[dict[str, object]] = {"videos": "."}

    def write_example(self, folder: Path) -> None:
        (folder / "a.mp4").touch()


def suite_of(*videos: AnnotatedVideo) -> MineContract:
    found = Annotations(classes=("run", "jump"), multi_label=True, videos=videos)
    register_reader(Reader(name="mine", config=ReaderConfig, read=lambda config: found))
    suite = MineContract()
    suite.setup_method()
    return suite


@pytest.mark.parametrize(("rule", "videos"), BROKEN, ids=[rule[:12] for rule, _ in BROKEN])
def test_a_reader_that_breaks_a_rule_is_told_which(
    rule: str, videos: tuple[AnnotatedVideo, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AssertionError, match=rf"^rule: {rule}"):
        suite_of(*videos).test_it_reads_its_example(tmp_path, monkeypatch)


def test_a_reader_that_keeps_them_passes_and_every_test_was_seen_to_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = suite_of(VIDEO, dataclasses.replace(VIDEO, video_id="b", split="test", labels=(1,)))
    suite.test_it_reads_its_example(tmp_path, monkeypatch)
    assert [name for name in dir(suite) if name.startswith("test_")] == [READS]


class TestTable(ReaderContract):
    name = "table"
    settings: ClassVar[dict[str, object]] = {"videos": ".", "annotations": "table.csv"}

    def write_example(self, folder: Path) -> None:
        (folder / "table.csv").write_text("path,label,split\na.mp4,run,train\nb.mp4,jump,test\n")
        for name in ("a.mp4", "b.mp4"):
            (folder / name).touch()
