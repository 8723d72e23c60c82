"""Pieces of videos as they come from workers, collected into shards: what `extraction.py` writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np

from paretovid.infra.local_copy import Blob
from paretovid.platform.storage.store import Store
from paretovid.trainables.data.dataset import Dataset, VideoRecord
from paretovid.trainables.features.store import (
    describes_shard,
    find_shard_description,
    read_shard_description,
    shard_files,
    shard_is_whole,
    write_shard,
)

Cell: TypeAlias = int | str | np.ndarray
"""Of a row: `number`, `first`, `total`, `error`, `notes` (a line each), per component `out NAME`, features `[T, D]`."""


@dataclass(kw_only=True)
class ShardWriter:
    """Collects the pieces of videos into shards, each written when all of its videos are there.

    Shard k of every component holds videos `k * size … (k + 1) * size - 1` of the manifest.
    """

    records: Sequence[VideoRecord]
    folders: dict[str, Path]
    size: int
    dtype: str
    store: Store
    widths: dict[str, int] = field(default_factory=dict)
    blobs: dict[str, dict[str, Blob]] = field(default_factory=dict)
    """Component to the blobs of its features in the bucket; none if the home is a folder."""
    _pieces: dict[int, dict[int, dict[str, np.ndarray]]] = field(default_factory=dict)
    """Video to first step to row, of videos that are not whole."""
    _videos: dict[int, dict[int, dict[str, np.ndarray]]] = field(default_factory=dict)
    """Shard to video to its features, of shards that are not whole."""
    _skipped: dict[int, dict[str, str]] = field(default_factory=dict)
    _notes: dict[int, dict[str, list[str]]] = field(default_factory=dict)
    """Shard to video id to what was not as expected in it."""
    _written: set[int] = field(default_factory=set)
    _in_bucket: dict[str, dict[str, list[tuple[Blob, bytes]]]] = field(default_factory=dict)

    @classmethod
    def over(
        cls, dataset: Dataset, folders: Mapping[str, Path], size: int, dtype: str, store: Store
    ) -> ShardWriter:
        blobs: dict[str, dict[str, Blob]] = {name: {} for name in folders}
        return cls(
            records=dataset.records, folders=dict(folders), size=size, dtype=dtype, store=store, blobs=blobs
        )

    @property
    def num_shards(self) -> int:
        """Of a whole store."""
        return -(-len(self.records) // self.size)

    def numbers(self, shard: int) -> range:
        """Places of a shard's videos in the manifest."""
        return range(shard * self.size, min(len(self.records), (shard + 1) * self.size))

    def asked(self, shard: int) -> list[str]:
        return [self.records[number].video_id for number in self.numbers(shard)]

    def open_shards(self) -> tuple[list[int], int]:
        """Shards that some component lacks, and how many videos are in the others."""
        lacking = [
            shard for shard in range(self.num_shards) if not all(self._has(n, shard) for n in self.folders)
        ]
        return lacking, len(self.records) - sum(len(self.numbers(shard)) for shard in lacking)

    def _has(self, name: str, shard: int) -> bool:
        folder, asked = self.folders[name], self.asked(shard)
        if not self.store.is_remote:
            return shard_is_whole(folder, shard, asked)
        rows, description = shard_files(shard)
        if description in self.blobs[name]:
            return True
        # Of an extraction that was interrupted, on whatever machine.
        for blob, content in self._uploaded(name).get(description, ()):
            described = find_shard_description(content, f"{description} of {name}")
            if described is not None and describes_shard(described, asked):
                rows_blob = Blob(bytes=described.rows.num_bytes, sha256=described.rows.sha256)
                self.blobs[name] |= {description: blob, rows: rows_blob}
                return True
        return False

    def _uploaded(self, name: str) -> dict[str, list[tuple[Blob, bytes]]]:
        if name not in self._in_bucket:
            self._in_bucket[name] = self.store.uncommitted(self.folders[name], ".json")
        return self._in_bucket[name]

    def lacks(self, number: int) -> bool:
        """Whether a video of an open shard has not come whole."""
        shard = number // self.size
        return shard not in self._written and number not in self._videos.get(shard, {})

    def add(self, row: Mapping[str, Cell]) -> bool:
        """Takes a row. True if its video is finished."""
        number, total = int(row["number"]), int(row["total"])
        shard = number // self.size
        if shard in self._written:
            return False  # a task that was tried again gives its rows again
        videos = self._videos.setdefault(shard, {})
        if number in videos:
            return False
        if row["error"]:
            self._pieces.pop(number, None)
            self._skipped.setdefault(shard, {})[self.records[number].video_id] = str(row["error"])
            videos[number] = {}
        else:
            if row["notes"]:
                notes = self._notes.setdefault(shard, {})
                notes[self.records[number].video_id] = str(row["notes"]).split("\n")
            pieces = self._pieces.setdefault(number, {})
            pieces[int(row["first"])] = {name: np.asarray(row[f"out {name}"]) for name in self.folders}
            if sum(len(next(iter(piece.values()))) for piece in pieces.values()) < total:
                return False
            ordered = [pieces[first] for first in sorted(pieces)]
            videos[number] = {name: np.concatenate([each[name] for each in ordered]) for name in self.folders}
            del self._pieces[number]
        if len(videos) == len(self.numbers(shard)):
            self._write(shard)
        return True

    def _write(self, shard: int) -> None:
        self._written.add(shard)
        videos, skipped = self._videos.pop(shard), self._skipped.pop(shard, {})
        notes = self._notes.pop(shard, {})
        readable = [number for number in self.numbers(shard) if videos[number]]
        for name, folder in self.folders.items():
            if self._has(name, shard):
                continue
            write_shard(
                folder,
                shard,
                {self.records[number].video_id: videos[number][name] for number in readable},
                asked=self.asked(shard),
                skipped=skipped,
                notes=notes,
                width=self.widths[name],
                dtype=self.dtype,
            )
            self.blobs[name] |= self.store.upload_blobs(folder, shard_files(shard))

    def forget_skipped(self) -> int:
        """Takes back all shards that leave a video out: the same command looks again. Returns how many."""
        forgotten = 0
        for name, folder in self.folders.items():
            for shard in range(self.num_shards):
                description = folder / shard_files(shard)[1]
                if description.exists() and read_shard_description(folder, shard).skipped:
                    description.unlink()
                    blobs = [self.blobs[name].pop(file, None) for file in shard_files(shard)]
                    if blobs[1] is not None:
                        self.store.remove_blob(folder, description.name, blobs[1])
                    forgotten += 1
        return forgotten

    def fetch_descriptions(self) -> None:
        """Brings here what was written elsewhere, but for the rows."""
        for name, folder in self.folders.items():
            self.store.download_blobs(
                folder, {file: blob for file, blob in self.blobs[name].items() if file.endswith(".json")}
            )
