"""What a trial is configured with."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

from paretovid.trainables.catalog import ConfiguredMethod, method_class
from paretovid.trainables.config import typed_config
from paretovid.trainables.documents import Fields, JsonObject, JsonValue
from paretovid.trainables.method import NeedsFiles
from paretovid.trainables.provenance import code_version
from paretovid.trainables.ranges import (
    Count,
    Decay,
    Finite,
    OpenFraction,
    Positive,
    Range,
    Seed,
    check_ranges,
)

DEFAULT_POINTS = 24
"""Operating points of a trial."""


def rung_epoch(share: float, epochs: int) -> int:
    """The epoch, of `epochs`, after which a rung at this share of them is measured; 0 or `epochs`: there is none."""
    return round(share * epochs)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """How a method's own parameters are trained on cached features."""

    epochs: Count = 40
    batch_size: Count = 64
    """Videos per step, over all workers."""
    learning_rate: Positive = 3e-3
    weight_decay: Decay = 1e-4
    clip_norm: Positive = 5.0
    warmup_fraction: Annotated[float, Range(0, 1, below=True)] = 0.1
    """Share of the steps in which the learning rate rises; it falls to zero over the rest."""
    checkpoint_every_epochs: Count = 10

    def __post_init__(self) -> None:
        check_ranges(self, "training")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialConfig:
    """Everything that determines a trial's result, and where it is written."""

    sweep: str
    trial: str
    method: str
    model: JsonObject = field(default_factory=dict)
    """Fields of the method's Config, the knobs' values included."""
    training_knobs: dict[str, Finite | str] = field(default_factory=dict)
    """The knobs as the search knows them (`gamma`), for the record."""
    inference_setting: dict[str, Finite | str] | None = None
    """Evaluate this setting only, with inference knobs searched by the study (`search.inference_knobs=study`)."""
    points: Count = DEFAULT_POINTS
    """Operating points to place on validation, the default setting among them; settings that the method's configuration
    lists are measured as they are listed."""
    confirms: str = ""
    """The trial whose operating points are measured again, at `settings`, after a training with another seed. Empty:
    none."""
    settings: tuple[dict[str, Finite | str], ...] = ()
    """The settings of that trial's operating points in their order, all of which are measured, nothing else."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    seed: Seed = 0
    dataset: str
    """Folder of the data set."""
    features: dict[str, str]
    """Source to the folder of its features."""
    output: str
    """Folder for the trial's results."""
    accounting: str = "honest"
    plugins: tuple[str, ...] = ()
    """Modules of the plug-ins whose code counts in the result."""
    rungs: tuple[OpenFraction, ...] = ()
    """Shares of the training's epochs at which the curve is measured on validation, for whoever follows the trial
    (`FollowedContext`) and judges it. A training that is not stopped has the same result without them."""

    def __post_init__(self) -> None:
        check_ranges(self, f"trial {self.trial}")

    def to_json(self) -> dict[str, JsonValue]:
        """Plain data, which Ray can send; `from_json` reads it."""
        settings = [{"inference_knobs": setting} for setting in self.settings]
        return {
            **asdict(self),
            "plugins": list(self.plugins),
            "settings": settings,
            "rungs": list(self.rungs),
        }

    @classmethod
    def from_json(cls, data: object) -> TrialConfig:
        """What `to_json` wrote; fields that others have added are passed over.

        Raises `DataError` for a field that is missing or wrong, `UsageError` for a number out of its range.
        """
        fields = Fields(
            data, "a trial's configuration", "Node and driver must run the same version of paretovid."
        )
        is_one_setting = "inference_setting" in fields
        settings = fields.list_of_fields("settings", ())
        return cls(
            sweep=fields.text("sweep"),
            trial=fields.text("trial"),
            method=fields.text("method"),
            model=fields.json("model"),
            training_knobs=fields.values_by_name("training_knobs"),
            inference_setting=fields.values_by_name("inference_setting") if is_one_setting else None,
            points=fields.whole("points", DEFAULT_POINTS),
            confirms=fields.text("confirms", ""),
            settings=tuple(each.values_by_name("inference_knobs") for each in settings),
            training=typed_config(TrainingConfig, fields.json("training"), "training"),
            seed=fields.whole("seed"),
            dataset=fields.text("dataset"),
            features=fields.text_by_name("features"),
            output=fields.text("output"),
            accounting=fields.text("accounting"),
            plugins=fields.texts("plugins", ()),
            rungs=fields.numbers("rungs", ()),
        )

    def configured_method(self) -> ConfiguredMethod:
        """The method with its typed configuration. Raises `UsageError` for fields that it does not take."""
        return ConfiguredMethod.of(self.method, self.model)

    @property
    def code_version(self) -> str:
        """Of this package and of the plug-ins that have a part in the trial."""
        return code_version(self.plugins)

    @property
    def digest(self) -> str:
        """Twelve hex digits over what determines the result: all but where it is kept. Features are named by
        their fingerprints, so these stand for the data."""
        return self.digest_by(self.code_version)

    def digest_by(self, code: str) -> str:
        """The digest as another version of the code would give it."""
        described = asdict(self) | {"dataset": "", "output": "", "code": code}
        del described["plugins"]  # the code's version stands for them
        del described["rungs"]  # nothing of a result depends on them
        if self.points == DEFAULT_POINTS:
            # As in trials from before there was a choice, which are not trained again.
            del described["points"]
        if not self.confirms:  # the same
            del described["confirms"], described["settings"]
        method = method_class(self.method)
        described["model"] = (
            method.by_content(self.model) if issubclass(method, NeedsFiles) else dict(self.model)
        )
        described["features"] = {source: Path(path).name for source, path in self.features.items()}
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]
