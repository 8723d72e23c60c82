"""The shape of a configuration: every setting with its type, unit and meaning.

The YAML files beside this one fill it in; `key=value` on the command line overrides them. An unknown key or a
value of another type is refused (`paretovid.platform.config.load`), and a number out of the range that its type
declares (`trainables/ranges.py`). Some sections are free here: `backbones.weights` and
`backbones.sha256`, whose settings are named by source, and these, whose settings belong to the dataclass that uses
them, which checks them and documents them:

    data            MovingDigitsConfig (built-in set)    trainables/data/moving_digits/config.py
    backbones.training    BackboneTrainingConfig         trainables/backbones/training.py
    backbones.fine_tuning    FineTuningConfig            trainables/backbones/fine_tuning.py
    method.model    the method's own Config              trainables/methods/, trainables/baselines/, or a plug-in
    training, method.training    TrainingConfig          trainables/training/config.py
    cluster.resources_per_trial    names that the cluster's nodes were started with, and numbers
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any

from omegaconf import MISSING

from paretovid.search_spaces.plans import DEFAULT_PLAN, UNNAMED_PLAN
from paretovid.trainables.documents import JsonValue
from paretovid.trainables.ranges import (
    Count,
    Finite,
    NonNegative,
    OpenFraction,
    Positive,
    Range,
    Seed,
    Whole,
)

# Neither frozen nor slotted: OmegaConf makes nodes of these, locks frozen ones against overrides and cannot
# read slots.


@dataclass(kw_only=True)
class KnobConfig:
    """A number that sets the budget, and where to search for it."""

    field: str = ""
    """The field of the method's Config that it sets, dotted if nested. Empty for an inference knob."""
    low: Finite | None = None
    high: Finite | None = None
    """Range, both ends included."""
    log: bool = False
    """Search on a logarithmic scale; the range must be above 0."""
    whole: bool = False
    """Only whole numbers."""
    choices: list[Any] = dataclasses.field(default_factory=list)
    """Instead of a range: the values allowed, in order from one end to the other."""
    cheapest: str = "low"
    """The end that spends least compute: `low` or `high` (of choices: the first or the last)."""
    unit: str = ""
    description: str = ""


@dataclass(kw_only=True)
class BaselineConfig:
    """A baseline that is trained and measured beside the search."""

    name: str = MISSING
    """Its trial's name, unique in the sweep."""
    method: str = MISSING
    model: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(kw_only=True)
class MethodConfig:
    """The method to search, and its knobs by the letters that its paper gives them."""

    name: str = MISSING
    model: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Fields of the method's Config that are not searched."""
    training: dict[str, Any] = dataclasses.field(default_factory=dict)
    """How it is trained, unless `training` of the whole configuration says otherwise."""
    training_knobs: dict[str, KnobConfig] = dataclasses.field(default_factory=dict)
    """Knobs that need a new training: what the study searches."""
    inference_knobs: dict[str, KnobConfig] = dataclasses.field(default_factory=dict)
    """Knobs that do not: searched by the study only with `search.inference_knobs=study`."""
    hyperparameters: dict[str, KnobConfig] = dataclasses.field(default_factory=dict)
    """For `search.plan=wide`: further ones than `search.hyperparameters` has, or others of the same name. Fields of the
    method's Config, too, whose ranges or choices are values."""
    published: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """The paper's settings, tried first. May leave knobs open."""
    baselines: list[BaselineConfig] = dataclasses.field(default_factory=list)
    """What the method is compared with, unless `baselines` of the whole configuration says otherwise."""


@dataclass(kw_only=True)
class BackbonesConfig:
    """The backbones that turn video into features."""

    family: str = MISSING
    """The name of a set of components, one for each source: `trainables/backbones/catalog.py`,
    `trainables/backbones/paper.py`."""
    by_method: dict[str, str] = dataclasses.field(default_factory=dict)
    """Method to the family that it takes instead."""
    weights: Any = dataclasses.field(default_factory=dict)
    """Source to a path or URL of weights, for components that are not trained here; or `random` for all of them."""
    sha256: dict[str, str] = dataclasses.field(default_factory=dict)
    """Source to the digest that its file of weights must have."""
    max_weights_gigabytes: Positive = 4.0
    """A larger file of weights is refused before it is read or downloaded."""
    dtype: str = "float32"
    """How features are stored: `float32`, or `float16` for half the space."""
    training: dict[str, Any] = dataclasses.field(default_factory=dict)
    fine_tune: bool = False
    """Train components whose weights come from elsewhere on, on the data set's videos, before features are made."""
    fine_tuning: dict[str, Any] = dataclasses.field(default_factory=dict)
    workers: Count | None = None
    """Workers that train or fine-tune backbones together; null: one per GPU, without GPUs at most two."""


@dataclass(kw_only=True)
class ExtractionConfig:
    """How features are made: `platform/preparation/extraction.py`."""

    precision: str = "float32"
    """What backbones compute in: `float32`, or `bfloat16` or `float16` by autocast. Other features than those of
    float32, and kept apart from them."""
    steps_per_batch: Count = 64
    """Of a video, that are decoded and then computed at a time, at most; fewer if they are large."""
    workers: Count | None = None
    """Videos decoded at a time, each on one core; null: as many as the cluster has cores."""
    videos_per_shard: Count = 50
    """Videos of one file of features, which is what a kill costs at most, beside what was under way."""
    separate_compute: bool | None = None
    """Compute in other processes than those that decode; null: where the cluster has GPUs, one process each."""


@dataclass(kw_only=True)
class SearchConfig:
    """How the knobs are searched."""

    trials: Count = 16
    """Trainings of the method, anchors and published settings included, baselines not. With another `plan` than
    `knobs`: what may be spent, in trainings of the method's own length."""
    sampler: str = "tpe"
    """`tpe`, `gp` (best for few and slow trials; a fraction of a second per suggestion), `curves` (a Gaussian process
    of quality at each cost, asked where another training's whole curve would add most to the front) or `random`."""
    guided_by: str = "point"
    """What `tpe` and `gp` see of a trial. `point`: quality and GFLOPs of its default setting, two objectives. `curve`:
    the hypervolume that the points of all its inference settings on validation add to those of all other trials, one
    objective, computed anew for each suggestion."""
    max_gflops: Positive | None = None
    """GFLOPs per video that a point worth finding may spend; null: no limit."""
    stopping: str = "none"
    """`none`: every trial is trained to its end. `curve`: at rungs it is measured on validation and compared with the
    trials that were measured there before it, and only those go on whose curve lies furthest above the others' at equal
    cost (`platform/search/rungs.py`). The first four at a rung go on, and so do the anchors and all baselines."""
    rungs: list[OpenFraction] = dataclasses.field(default_factory=lambda: [0.25])
    """Shares of the training's epochs at which trials are judged, with `stopping=curve`."""
    keep: OpenFraction = 0.5
    """The share that goes on at a rung."""
    hours: Positive | None = None
    """No trial is started after this time; running ones finish. null: no limit."""
    points: Count = 24
    """Operating points of a trial, its default setting among them: as many inference settings are placed where they
    spread its cost evenly, by what they cost on validation. Lists in the method's configuration (`gate_offsets`,
    `caps`) are measured as they are."""
    plan: str = DEFAULT_PLAN
    """`knobs`, `long` or `wide`: what the epochs of so many trials are spent on (`search_spaces/plans.py`)."""
    hyperparameters: dict[str, KnobConfig] = dataclasses.field(default_factory=dict)
    """What `plan=wide` searches beside the training knobs. Each `field` is `training.` and one of `TrainingConfig`; low
    and high are multiples of what the method is trained with."""
    seeds: Whole = 0
    """So many other seeds confirm the points of the front at the end of the sweep (`paretovid confirm`); 0: none."""
    inference_knobs: str = "sweep"
    """`sweep`: all settings of a training are measured inside its trial. `study`: one setting a trial."""
    concurrent: Count | None = None
    """Trials at a time; null: as many as the cluster has room for."""
    report_all_points: bool = False
    """Report all inference-time points of a trial to the sampler, not only its default one. Changes nothing with
    `guided_by=curve`, which sees them in any case."""
    storage: str | None = None
    """URL of a database for the study, without a password (`postgresql+psycopg2://user@host/database`); null: the
    variable PARETOVID_STUDY_STORAGE, else a store under home."""
    max_failures: Whole = 2
    """How often a trial that failed is started again, from its checkpoint, before it counts as failed. Losing its
    node, or the disk that its features are on, is no failure of a trial."""
    max_failures_in_a_row: Whole = 5
    """So many trials, one after the other, that fail for good within 30 seconds each and for one reason stop the
    sweep; `resume` starts them again. 0: never."""


@dataclass(kw_only=True)
class ClusterConfig:
    """Where trials run."""

    address: str = "local"
    """`local`: Ray on this machine, started and ended with the command. Else the address of a Ray cluster."""
    cpus: Count | None = None
    """CPU cores of a local cluster; null: all."""
    gpus: Whole | None = None
    """GPUs of a local cluster; null: all."""
    object_store_megabytes: Annotated[int, Range(75), "Ray refuses to start with less."] | None = None
    """Shared memory of a local cluster; null: 200, and where there are GPUs a tenth of the memory, for decoded video
    on its way to them. Features are memory-mapped files and need none of it."""
    workers_per_trial: Count = 1
    """Above 1, a trial is a Ray Train run with this many workers."""
    cpus_per_trial: Positive = 1
    """CPU cores per worker that Ray reserves. A trial computes on one thread, so that its sums are the same
    wherever it runs; more cores only keep others away."""
    gpus_per_trial: NonNegative = 0
    """GPUs per worker; a fraction shares one."""
    memory_per_trial_gigabytes: Positive | None = None
    """Memory that a trial is planned with; null: not planned. Fewer run at a time if there is less."""
    resources_per_trial: dict[str, Positive] = dataclasses.field(default_factory=dict)
    """Custom resources per worker, by the names that the nodes were started with."""
    hang_seconds: Positive | None = 600
    """A trial without a sign of progress for so long is ended and started again; null: never."""
    storage_wait_seconds: NonNegative = 30
    """A trial whose features, data set, home or bucket are away tries again for so long; then it waits for a node that
    sees them, and none has failed."""
    node_cache: str | None = None
    """Folder on each node that features are copied to once, for all its trials; null: they are read under home.
    A node may name its own: PARETOVID_NODE_CACHE."""


@dataclass(kw_only=True)
class TrackingConfig:
    """Where MLflow records."""

    uri: str | None = None
    """An MLflow tracking URI; null: a store under home."""


@dataclass(kw_only=True)
class SweepConfig:
    """Everything that a sweep, and every step before it, is configured with."""

    home: str | None = None
    """Where everything is kept. null: PARETOVID_HOME, else ./paretovid-home."""
    seed: Seed = 0
    name: str | None = None
    """The sweep's name. null: method, data and a number."""
    plugins: list[str] = dataclasses.field(default_factory=list)
    """Modules that add methods, backbones or readers and need not be installed: docs/plugins.md."""
    accounting: str = "honest"
    """`honest`: measured cost. `paper`: what the papers' tables count."""
    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    backbones: BackbonesConfig = dataclasses.field(default_factory=BackbonesConfig)
    extraction: ExtractionConfig = dataclasses.field(default_factory=ExtractionConfig)
    method: MethodConfig = dataclasses.field(default_factory=MethodConfig)
    training: dict[str, Any] = dataclasses.field(default_factory=dict)
    search: SearchConfig = dataclasses.field(default_factory=SearchConfig)
    baselines: list[BaselineConfig] = dataclasses.field(default_factory=list)
    """Unless set: those of the method."""
    cluster: ClusterConfig = dataclasses.field(default_factory=ClusterConfig)
    tracking: TrackingConfig = dataclasses.field(default_factory=TrackingConfig)


FREE_SECTIONS = (
    "data",
    "backbones.weights",
    "backbones.sha256",
    "backbones.training",
    "backbones.fine_tuning",
    "method.model",
    "method.training",
    "training",
    "cluster.resources_per_trial",
)
"""Dotted names of the sections whose keys this schema leaves open."""

LEAST_OTHERS = 4
"""Trials that were measured at a rung before one that may be stopped there (`search.stopping`)."""

RENAMED = {"search.tell_swept": "search.report_all_points"}
"""Former names of settings, dotted, to those of today. Read on command lines and in records of sweeps."""

ADDED: dict[str, JsonValue] = {
    "search.guided_by": "point",
    "search.plan": UNNAMED_PLAN,
    "search.stopping": "none",
    "search.rungs": [0.25],
    "search.keep": 0.5,
}
"""Settings, dotted, that records of sweeps may lack, and what these were made with: the default may change."""
