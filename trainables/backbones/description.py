"""`backbone.json`: what a trained backbone is and what it was made from. Written last: a folder with it is whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from paretovid.trainables.data.partial_files import partial_file
from paretovid.trainables.documents import Fields, JsonObject, JsonValue, parse_json, unreadable
from paretovid.trainables.errors import DataError, NonFiniteError, UnreadableError, VersionError

DESCRIPTION_FILE = "backbone.json"
VERSION = 1
"""Files without a version are of version 1."""
_HINT = "Run `paretovid extract`, which trains the backbones that are missing."


@dataclass(frozen=True, kw_only=True, slots=True)
class BackboneOrigin:
    """What a backbone was made from: one that was made from the same is not made again."""

    labels: tuple[str, ...] = ()
    """Names of what its classifier tells apart; none if nothing trained the classifier."""
    training: JsonObject = field(default_factory=dict)
    """The settings of its training (`labels`, `seed`, ...), where its weights came from (`weights`, `file_sha256`), or,
    where it was fine-tuned, both."""
    dataset: str = ""
    dataset_fingerprint: str = ""

    def to_json(self) -> dict[str, JsonValue]:
        """Its share of the file; `from_json` reads it."""
        return {
            "training": dict(self.training),
            "dataset": self.dataset,
            "dataset_fingerprint": self.dataset_fingerprint,
            "labels": list(self.labels),
        }

    @classmethod
    def from_json(cls, fields: Fields) -> BackboneOrigin:
        """What `to_json` wrote. Raises `DataError` for what cannot be read."""
        return cls(
            labels=fields.texts("labels", ()),
            training=fields.json("training", {}),
            dataset=fields.text("dataset", ""),
            dataset_fingerprint=fields.text("dataset_fingerprint", ""),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class BackboneDescription:
    """The content of `backbone.json`."""

    component: str
    num_outputs: int
    """Of the classifier."""
    feature_width: int
    input: JsonObject
    """What it is shown: `kind`, `size` and `num_frames`. For people: the component says it too."""
    weights_sha256: str
    """Of the file beside this one, in hex."""
    origin: BackboneOrigin
    measured: Mapping[str, float] = field(default_factory=dict)
    """How its training went, by name."""
    skipped: int = 0
    """Videos that could not be read."""

    @property
    def video_share(self) -> float:
        """Share of the training split's videos that it was trained on."""
        return self._training.number("video_share", 1.0)

    @property
    def is_fine_tuned(self) -> bool:
        """Whether its weights came from elsewhere and were trained on here."""
        return self._training.flag("fine_tuned", False)

    @property
    def _training(self) -> Fields:
        return Fields(self.origin.training, f"{DESCRIPTION_FILE} of {self.component}: training", _HINT)

    def to_json(self) -> dict[str, JsonValue]:
        """The content of the file; `from_json` reads it."""
        return {
            "version": VERSION,
            "component": self.component,
            "architecture": {"num_outputs": self.num_outputs, "feature_width": self.feature_width},
            "input": dict(self.input),
            **self.origin.to_json(),
            "measured": dict(self.measured),
            "skipped": self.skipped,
            "weights_sha256": self.weights_sha256,
        }

    @classmethod
    def from_json(cls, data: object, where: str) -> BackboneDescription:
        """What `to_json` wrote, or a file without a version.

        Arguments:
            where: the file, for messages.

        Raises `VersionError` for a later version, `DataError` for a field that is missing or wrong, `NonFiniteError`
        for a number that is not finite.
        """
        fields = Fields(data, where, _HINT)
        fields.check_version(VERSION)
        architecture = fields.fields("architecture")
        return cls(
            component=fields.text("component"),
            num_outputs=architecture.whole("num_outputs"),
            feature_width=architecture.whole("feature_width"),
            input=fields.json("input", {}),
            weights_sha256=fields.text("weights_sha256"),
            origin=BackboneOrigin.from_json(fields),
            measured=fields.number_by_name("measured", {}),
            skipped=fields.whole("skipped", 0),
        )

    @classmethod
    def read(cls, folder: Path) -> BackboneDescription:
        """The description in a backbone's folder.

        Raises `DataError` if there is none that can be read, `VersionError` for one of a later version.
        """
        path = folder / DESCRIPTION_FILE
        try:
            data = parse_json(path.read_text())
        except (FileNotFoundError, NotADirectoryError, ValueError) as error:
            raise DataError(f"no trained backbone in {folder} ({type(error).__name__})", _HINT) from error
        except OSError as error:
            raise unreadable(path, error) from error
        return cls.from_json(data, str(path))

    @classmethod
    def find(cls, folder: Path) -> BackboneDescription | None:
        """As `read`; None for none and for a damaged one, in whose place another may be made."""
        try:
            return cls.read(folder)
        except (VersionError, UnreadableError):
            raise
        except (DataError, NonFiniteError):
            return None

    def write(self, folder: Path) -> None:
        """Writes it into a backbone's folder, whole or not at all."""
        with partial_file(folder / f"{DESCRIPTION_FILE}.partial") as partial:
            partial.write_text(json.dumps(self.to_json(), indent=1, allow_nan=False))
            partial.replace(folder / DESCRIPTION_FILE)
