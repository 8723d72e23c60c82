"""What a trial is configured with."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from paretovid.trainables.layers.timestep_selector import by_content
from paretovid.trainables.provenance import code_version
from paretovid.trainables.ranges import Count, Decay, Finite, Positive, Range, Seed, check_ranges


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
    model: dict[str, Any] = field(default_factory=dict)
    """Fields of the method's Config, the knobs' values included."""
    training_knobs: dict[str, Finite | str] = field(default_factory=dict)
    """The knobs as the search knows them (`gamma`), for the record."""
    inference_setting: dict[str, Finite | str] | None = None
    """Evaluate this setting only, with inference knobs searched by the study (`search.inference_knobs=study`)."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    seed: Seed = 0
    dataset: str
    """Folder of the data set."""
    features: dict[str, str]
    """Source to the folder of its features."""
    output: str
    """Folder for the trial's results."""
    accounting: str = "honest"

    def __post_init__(self) -> None:
        check_ranges(self, f"trial {self.trial}")

    @property
    def digest(self) -> str:
        """Twelve hex digits over what determines the result: all but where it is kept. Features are named by
        their fingerprints, so these stand for the data."""
        return self.digest_by(code_version())

    def digest_by(self, code: str) -> str:
        """The digest as another version of the code would give it."""
        described = asdict(self) | {"dataset": "", "output": "", "code": code}
        described["model"] = by_content(self.model)
        described["features"] = {source: Path(path).name for source, path in self.features.items()}
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]
