"""What some methods do besides: each is a base class beside `Method`, and is called only for those that have it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paretovid.trainables.documents import JsonObject
from paretovid.trainables.measurement import Metrics
from paretovid.trainables.outcome import Setting, SourceFacts


class UsesSourceInfo(ABC):
    """A method that must know more of its sources than their features."""

    @classmethod
    def check_source_info(cls, config: Any, info: Mapping[str, SourceFacts]) -> None:
        """Before anything is made: raises `UsageError` if a configuration does not fit its sources."""
        return None

    @abstractmethod
    def use_source_info(self, info: Mapping[str, SourceFacts]) -> None:
        """Called once, before training, with every source that it reads. What `run` needs of it is kept as a buffer."""


class ChecksFeatures(ABC):
    """A method that cannot be trained on any features: it takes up what was trained on certain ones."""

    @abstractmethod
    def check_features(self, features: Mapping[str, str]) -> None:
        """Before training: raises `UsageError` if the method cannot be trained on these features.

        Arguments:
            features: source to the name of its features, which holds their fingerprint.
        """


class Exports(ABC):
    """A method that leaves something that others may use without it."""

    @abstractmethod
    def export(self, folder: Path, about: Mapping[str, Any]) -> None:
        """After training: writes it beside the trial's result.

        Arguments:
            folder: of the trial; it exists.
            about: trial, features, data and code version, for the record.
        """


class NeedsFiles(ABC):
    """A method whose configuration names files that are not there where a promoted model runs."""

    @abstractmethod
    def portable(self, model: JsonObject) -> JsonObject:
        """The configuration's fields `model`, such that this method is built from them without the files."""


class Warns(ABC):
    """A method whose figures may need a word of warning, such as a gate that collapsed."""

    @abstractmethod
    def warnings(self, at_default: Metrics) -> list[str]:
        """What a reader of the result must know.

        Arguments:
            at_default: the figures of the default setting on validation.
        """


class RunsForOthers(ABC):
    """A method with settings that are run only because others follow from them (`Method.stop_points`)."""

    @abstractmethod
    def is_operating_point(self, setting: Setting) -> bool:
        """Whether a run at one of `settings` is an operating point itself."""
