"""The rules of a reader of annotations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from paretovid.trainables.contracts.base import Contract
from paretovid.trainables.data.readers.annotations import TO_DIVIDE
from paretovid.trainables.data.readers.catalog import read_annotations, reader_config


class ReaderContract(Contract):
    """The rules of a reader; a plug-in's tests inherit them and write an example of its format."""

    settings: ClassVar[Mapping[str, object]]
    """Of its config; paths are below the folder of the example."""

    def write_example(self, folder: Path) -> None:
        """Writes annotations, and files in the place of videos, into the current folder."""
        raise NotImplementedError

    def test_it_reads_its_example(self, tmp_path: Path, monkeypatch: Any) -> None:
        monkeypatch.chdir(tmp_path)
        self.write_example(tmp_path)
        found = read_annotations(self.name, reader_config(self.name, dict(self.settings)))
        assert found.videos, "rule: read gives at least one video"
        ids = [video.video_id for video in found.videos]
        assert len(set(ids)) == len(ids), "rule: each video_id once"
        for video in found.videos:
            wrong = [label for label in video.labels if not 0 <= label < len(found.classes)]
            assert not wrong, f"rule: labels are numbers of classes; {video.where} has {wrong}"
            assert video.split in ("train", "val", "test", TO_DIVIDE), (
                f"rule: splits; {video.where}: {video.split}"
            )
            assert video.where, "rule: where names file and line, for messages"
