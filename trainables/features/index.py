"""What is written beside stored features: the index that makes a store complete, and what each shard says of itself.

`features/store.py` says what lies in a store.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from paretovid.trainables.documents import Fields, JsonObject, JsonValue, parse_json, unreadable
from paretovid.trainables.errors import DataError, NonFiniteError, StaleFeaturesError, VersionError

INDEX_FILE = "index.json"
VERSION = 1
"""Of the index and of the descriptions of shards; those without a version are of version 1."""

Place = tuple[int, int, int]
"""Where a video's steps lie: its shard, its first row there, and how many rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FeaturesHeader:
    """Everything that determines the bytes of a store."""

    component: str
    dataset: str
    dataset_fingerprint: str
    weights_sha256: str
    video_share: float
    """Share of the training split that the weights were trained on."""
    sampling: JsonObject
    """What the backbone is shown of a step, and `step_seconds`."""
    dtype: str
    precision: str
    """That the backbone computed in."""
    code_version: str
    """Of the source files that determine features."""
    limits: Mapping[str, float | str] = field(default_factory=dict)
    """Those of `VideoLimitsConfig` that were not the usual ones: they decide which videos were left out."""

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits over all fields."""
        return _fingerprint(self.to_json())

    def to_json(self) -> dict[str, JsonValue]:
        """Its share of the index; `from_json` reads it. It has no version of its own: the fingerprint is over it."""
        return {
            "component": self.component,
            "dataset": self.dataset,
            "dataset_fingerprint": self.dataset_fingerprint,
            "weights_sha256": self.weights_sha256,
            "video_share": self.video_share,
            "sampling": dict(self.sampling),
            "dtype": self.dtype,
            "precision": self.precision,
            "code_version": self.code_version,
            **({"limits": dict(self.limits)} if self.limits else {}),
        }

    @classmethod
    def from_json(cls, fields: Fields) -> FeaturesHeader:
        """What `to_json` wrote, or an earlier version, which had no share and no precision."""
        return cls(
            component=fields.text("component"),
            dataset=fields.text("dataset"),
            dataset_fingerprint=fields.text("dataset_fingerprint"),
            weights_sha256=fields.text("weights_sha256"),
            video_share=fields.number("video_share", 1.0),
            sampling=fields.json("sampling"),
            dtype=fields.text("dtype", "float32"),
            precision=fields.text("precision", "float32"),
            code_version=fields.text("code_version"),
            limits=fields.values_by_name("limits", {}),
        )


def _fingerprint(header: JsonObject) -> str:
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardFile:
    """The rows of a shard, as the index names them."""

    file: str
    sha256: str
    num_bytes: int
    asked: str
    """Digest of the ids of all videos of the shard, readable or not."""

    def to_json(self) -> dict[str, JsonValue]:
        """Plain data; `from_json` reads it."""
        return {"file": self.file, "sha256": self.sha256, "bytes": self.num_bytes, "asked": self.asked}

    @classmethod
    def from_json(cls, fields: Fields) -> ShardFile:
        """What `to_json` wrote. Raises `DataError` for what cannot be read."""
        return cls(
            file=fields.text("file"),
            sha256=fields.text("sha256"),
            num_bytes=fields.whole("bytes"),
            asked=fields.text("asked"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardDescription:
    """The content of `shard_00000.json`: a shard with this file is whole."""

    rows: ShardFile
    width: int
    """D."""
    videos: Mapping[str, Place]
    skipped: Mapping[str, str]
    """Videos that could not be read, with the reason."""
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Videos that were read and in which something was not as expected."""

    def to_json(self) -> dict[str, JsonValue]:
        """The content of the file; `from_json` reads it."""
        return {
            "version": VERSION,
            **self.rows.to_json(),
            "width": self.width,
            "videos": {video_id: list(place) for video_id, place in self.videos.items()},
            "skipped": dict(self.skipped),
            "notes": {video_id: list(said) for video_id, said in self.notes.items()},
        }

    @classmethod
    def from_json(cls, data: object, where: str, hint: str) -> ShardDescription:
        """What `to_json` wrote. Raises `DataError` for what cannot be read, `VersionError` for a later version.

        Arguments:
            where: the file, for messages.
            hint: what to do about a damaged one.
        """
        fields = Fields(data, where, hint)
        fields.check_version(VERSION)
        return cls(
            rows=ShardFile.from_json(fields),
            width=fields.whole("width"),
            videos=_places(fields),
            skipped=fields.text_by_name("skipped"),
            notes=_notes(fields),
        )

    @classmethod
    def parse(cls, text: str | bytes, where: str, hint: str) -> ShardDescription:
        """The description in a file's text. Raises `DataError` for what is no JSON, and as `from_json`."""
        try:
            data = parse_json(text)
        except ValueError as error:
            raise DataError(f"{where} cannot be read: {error}", hint) from error
        return cls.from_json(data, where, hint)


@dataclass(frozen=True, kw_only=True, slots=True)
class FeaturesIndex:
    """The content of `index.json`, which makes a store complete."""

    fingerprint: str
    header: FeaturesHeader
    width: int
    """D."""
    shards: tuple[ShardFile, ...]
    videos: Mapping[str, Place]
    skipped: Mapping[str, str]
    """Videos that could not be read, with the reason."""
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Videos that were read and in which something was not as expected."""
    made_with: Mapping[str, str] = field(default_factory=dict)
    """Library to its version, for the record."""

    def to_json(self) -> dict[str, JsonValue]:
        """The content of the file; `from_json` reads it."""
        return {
            "version": VERSION,
            "fingerprint": self.fingerprint,
            "header": self.header.to_json(),
            "width": self.width,
            "shards": [shard.to_json() for shard in self.shards],
            "videos": {video_id: list(place) for video_id, place in self.videos.items()},
            "skipped": dict(self.skipped),
            "notes": {video_id: list(said) for video_id, said in self.notes.items()},
            "made_with": dict(self.made_with),
        }

    @classmethod
    def from_json(cls, data: object, where: str, hint: str) -> FeaturesIndex:
        """What `to_json` wrote, or a file without a version.

        Arguments:
            where: the file, for messages.
            hint: what to do about a damaged one.

        Raises `VersionError` for a later version, `DataError` for a field that is missing or wrong, and for a header
        that does not have the fingerprint.
        """
        fields = Fields(data, where, hint)
        fields.check_version(VERSION)
        header, fingerprint = FeaturesHeader.from_json(fields.fields("header")), fields.text("fingerprint")
        # Over the fields that are there: earlier versions had fewer of them.
        if _fingerprint(fields.json("header")) != fingerprint:
            raise DataError(
                f"{where}: the header was changed, it has not the fingerprint {fingerprint}", hint
            )
        return cls(
            fingerprint=fingerprint,
            header=header,
            width=fields.whole("width"),
            shards=tuple(ShardFile.from_json(each) for each in fields.list_of_fields("shards")),
            videos=_places(fields),
            skipped=fields.text_by_name("skipped"),
            notes=_notes(fields),
            made_with=fields.text_by_name("made_with", {}),
        )

    @classmethod
    def read(cls, folder: Path, hint: str) -> FeaturesIndex:
        """The index of the features in a folder.

        Arguments:
            hint: the command that makes them anew.

        Raises `StaleFeaturesError` if it is missing or damaged, `VersionError` for one of a later version,
        `UnreadableError` if the disk does not let it be read.
        """
        path = folder / INDEX_FILE
        try:
            return cls.from_json(parse_json(path.read_text()), str(path), hint)
        except FileNotFoundError:
            raise StaleFeaturesError(f"no features in {folder}", hint) from None
        except VersionError:
            raise
        except OSError as error:
            raise unreadable(path, error) from error
        except (ValueError, DataError, NonFiniteError) as error:
            raise StaleFeaturesError(
                f"the index of the features in {folder} is damaged: {getattr(error, 'message', error)}", hint
            ) from error


def _notes(fields: Fields) -> dict[str, tuple[str, ...]]:
    notes = fields.fields("notes", {})  # earlier versions had none
    return {video_id: notes.texts(video_id) for video_id in notes.names()}


def _places(fields: Fields) -> dict[str, Place]:
    places: dict[str, Place] = {}
    for video_id, found in fields.whole_lists_by_name("videos").items():
        if len(found) != 3:
            raise DataError(f"{fields.where}: videos.{video_id} must be 3 numbers, not {found}", fields.hint)
        places[video_id] = found[0], found[1], found[2]
    return places
