"""`resolve(SweepConfig) -> SweepPlan`: everything that a configuration says, checked once and typed from there on.

Nothing is made and no video is looked at; annotation files are read. Imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from paretovid.platform.config.load import (
    OF_TRAINING,
    data_settings,
    ends,
    hyperparameters,
    model_with_knobs,
    searched_knobs,
    training_settings,
)
from paretovid.platform.config.stopping import check_stopping
from paretovid.search_spaces.plans import LONGER, trainings_of
from paretovid.search_spaces.schema import (
    ExtractionConfig,
    KnobConfig,
    MethodConfig,
    SweepConfig,
)
from paretovid.trainables.backbones.catalog import (
    BACKBONES,
    component,
    component_family,
    family,
    measure_component,
)
from paretovid.trainables.backbones.fine_tuning import FineTuningConfig
from paretovid.trainables.backbones.precision import Precision, check_precision
from paretovid.trainables.backbones.training import BackboneTrainingConfig, check_labels
from paretovid.trainables.backbones.weights import RANDOM, missing_weights
from paretovid.trainables.catalog import ConfiguredMethod, method_class, method_config
from paretovid.trainables.config import typed_config
from paretovid.trainables.data.limits import USUAL_LIMITS, VideoLimitsConfig
from paretovid.trainables.data.moving_digits.generate import MovingDigitsConfig
from paretovid.trainables.data.readers.annotations import ReaderConfig
from paretovid.trainables.data.readers.catalog import READERS, read_annotations, reader_config
from paretovid.trainables.documents import JsonObject
from paretovid.trainables.errors import UsageError, unknown_name
from paretovid.trainables.evaluation.evaluate import OBJECTIVES
from paretovid.trainables.features.store import check_feature_type
from paretovid.trainables.layers.caps import check_known
from paretovid.trainables.method import (
    METHODS,
    Method,
    UsesSourceInfo,
)
from paretovid.trainables.outcome import SourceInfo
from paretovid.trainables.plugins.catalog import check_travels
from paretovid.trainables.provenance import code_version
from paretovid.trainables.ranges import Declared, check_ranges, field_number
from paretovid.trainables.redaction.urls import has_signature_alone
from paretovid.trainables.training.config import TrainingConfig

EPOCHS = f"{OF_TRAINING}epochs"
"""The field of the hyperparameter that says how long a training is."""
_SOME_CLASSES = 10
"""Where the data set's are not known yet: costs are right but for the width of classifiers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataPlan:
    """Where the videos come from. Neither of the last two: from a folder that has a manifest already."""

    name: str
    reader: str | None = None
    """The name of what reads a public set's annotations, with `settings`."""
    settings: ReaderConfig | None = None
    generated: MovingDigitsConfig | None = None
    """Of the built-in set."""
    limits: VideoLimitsConfig = USUAL_LIMITS
    """What each video may ask for: settings of every data set."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BackbonesPlan:
    """What turns videos into features."""

    components: Mapping[str, str]
    """Source to its component."""
    training: BackboneTrainingConfig
    """Of components that are trained here."""
    weights: Mapping[str, str]
    """Source to a path or URL, or `random`, of the others."""
    fine_tuning: FineTuningConfig | None
    """Of the others; None: they are taken as they came."""

    def info(self) -> dict[str, SourceInfo]:
        """Source to what trials will find of it."""
        given = 1.0 if self.fine_tuning is None else self.fine_tuning.video_share
        return {
            source: SourceInfo(
                gmacs=measure_component(name, _SOME_CLASSES).gmacs,
                video_share=self.training.video_share if component(name).weights is None else given,
            )
            for source, name in self.components.items()
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparationPlan:
    """Everything on the way to features."""

    config: SweepConfig
    """As it was composed: where it runs, and settings that need no other type."""
    data: DataPlan
    backbones: BackbonesPlan


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodPlan:
    """A method, or a baseline."""

    name: str
    method: type[Method]
    model: JsonObject
    """Fields of the method's `Config` that are not searched, as trials get them."""
    config: Any
    """The method's `Config` of these fields."""
    sources: tuple[str, ...]
    """What it reads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepPlan:
    """A sweep that can be started: nothing in it contradicts anything else."""

    preparation: PreparationPlan
    method: MethodPlan
    baselines: Mapping[str, MethodPlan]
    """By the name of the trial."""
    training: TrainingConfig
    """Of baselines, and of the method where nothing of it is searched or multiplied (`search_training`)."""
    knobs: Mapping[str, KnobConfig]
    """What the study searches, hyperparameters with the values that they can take among them."""
    hyperparameters: Mapping[str, str]
    """Those among the knobs, with the fields that they set."""
    objective: str
    """The name of the quality that decides."""

    @property
    def config(self) -> SweepConfig:
        """As it was composed."""
        return self.preparation.config

    @property
    def code_version(self) -> str:
        """Of this package, and of the plug-ins that have a part in the sweep."""
        return code_version(plugins_in_use(self.config))

    @property
    def trainings(self) -> int:
        """Of the method; at most, if their lengths are searched."""
        if self.epochs_knob is not None:
            return self.epochs // max(1, int(self.knobs[self.epochs_knob].low or 1))
        return trainings_of(self.config.search.plan, self.config.search.trials)

    @property
    def epochs(self) -> int:
        """What all trainings of the method may take together."""
        return self.config.search.trials * self.training.epochs

    @property
    def epochs_knob(self) -> str | None:
        """The knob that says how many epochs a training takes; None: all take the same."""
        return next((name for name, field in self.hyperparameters.items() if field == EPOCHS), None)

    @property
    def default_hyperparameters(self) -> dict[str, int | float]:
        """The values of searched fields of `TrainingConfig` that the method is trained with otherwise, or the nearest
        that they can take."""
        found = {}
        for name, field in self.hyperparameters.items():
            if field.startswith(OF_TRAINING):
                low, high = ends(self.knobs[name])
                found[name] = min(max(getattr(self.training, field.removeprefix(OF_TRAINING)), low), high)
        return found

    def search_training(self, knobs: Mapping[str, float | str]) -> TrainingConfig:
        """How a trial of the search is trained.

        Arguments:
            knobs: of the trial; hyperparameters among them are set.
        """
        if self.config.search.plan == "long":
            return replace(self.training, epochs=LONGER * self.training.epochs)
        changed: dict[str, float | str] = {
            field.removeprefix(OF_TRAINING): knobs[name]
            for name, field in self.hyperparameters.items()
            if field.startswith(OF_TRAINING) and name in knobs
        }
        return typed_config(TrainingConfig, {**asdict(self.training), **changed}, "training")

    def with_trials(self, trials: int) -> SweepPlan:
        """The same with another number of searched trials."""
        config = replace(self.config, search=replace(self.config.search, trials=trials))
        return replace(self, preparation=replace(self.preparation, config=config))


def resolve(config: SweepConfig) -> SweepPlan:
    """The plan of a sweep with this configuration.

    Raises `UsageError` (an unknown name, field or value, a knob that leaves the range of what it sets, things that do
    not fit each other) or `DataError` (annotations that cannot be read), with what to do about it.
    """
    preparation = resolve_preparation(config)
    method, baselines = resolve_methods(config)
    training = typed_config(TrainingConfig, training_settings(config), "training")
    searched = resolved_hyperparameters(hyperparameters(config), training)
    configured = {
        name: knob for name, knob in searched_knobs(config).items() if name not in hyperparameters(config)
    }
    plan = SweepPlan(
        preparation=preparation,
        method=method,
        baselines=baselines,
        training=training,
        knobs={**configured, **searched},
        hyperparameters={name: knob.field for name, knob in searched.items()},
        objective=OBJECTIVES[method.method.task],
    )
    if plan.trainings < 1:
        raise UsageError(
            f"search.trials={config.search.trials} pays for {plan.epochs} epochs, fewer than the shortest training has",
            "Give more trials, or lower hyperparameters.epochs.low.",
        )
    _check_inference_knobs(config.method, method)
    _check_tasks(plan)
    check_stopping(config, plan.trainings, plan.search_training({}).epochs, method.method)
    _check_sources(plan)
    _check_plugins(plan)
    return plan


def resolved_hyperparameters(
    searched: Mapping[str, KnobConfig], training: TrainingConfig
) -> dict[str, KnobConfig]:
    """Hyperparameters with the values that they can take, in place of multiples of what the method is trained with.

    Raises `UsageError` for a field that `TrainingConfig` has not, and for one that leaves its range.
    """
    found = {}
    for name, knob in searched.items():
        if not knob.field.startswith(OF_TRAINING):
            found[name] = knob
            continue
        field = knob.field.removeprefix(OF_TRAINING)
        number = field_number(TrainingConfig, field)
        if number is None:
            known = [each.name for each in fields(TrainingConfig) if field_number(TrainingConfig, each.name)]
            raise unknown_name(f"field of the hyperparameter {name}", field, known)
        base, is_whole = getattr(training, field), number.kind is int
        low, high = (float(end or 0.0) * base for end in (knob.low, knob.high))
        if is_whole:
            low, high = max(1, round(low)), round(high)
        if low >= high:  # multiples of 0, or of 1 epoch
            continue
        for end, value in (("low", low), ("high", high)):
            if problem := number.problem(value):
                raise UsageError(f"{end} of the hyperparameter {name} {problem}", number.hint)
        found[name] = replace(knob, low=low, high=high, whole=is_whole, unit="")
    return found


def plugins_in_use(config: SweepConfig) -> tuple[str, ...]:
    """The modules of the plug-ins that have a part in a sweep, sorted: those that bring its method, its baselines, its
    backbones and its reader, and those of `plugins=`. An installed one that it has no use for is none of them.

    Raises `UnknownNameError` for a method, family or reader that is not there.
    """
    chosen = config.backbones.family
    brought_by = {chosen, *filter(None, map(component_family, family(chosen).values()))}
    entries = [METHODS.entry(name) for name in (config.method.name, *(b.method for b in config.baselines))]
    entries += [BACKBONES.entry(name) for name in brought_by]
    if (reader := config.data.get("reader")) is not None:
        entries.append(READERS.entry(str(reader)))
    return tuple(sorted({*config.plugins, *(entry.module for entry in entries if not entry.is_own)}))


def resolve_preparation(config: SweepConfig) -> PreparationPlan:
    """The plan of everything up to features. Raises as `resolve`."""
    data = resolve_data(config)
    if data.reader is not None and data.settings is not None:
        read_annotations(data.reader, data.settings)
    backbones = _resolve_backbones(config)
    check_feature_type(config.backbones.dtype)
    check_extraction(config.extraction)
    return PreparationPlan(config=config, data=data, backbones=backbones)


def resolve_data(config: SweepConfig) -> DataPlan:
    """Where videos come from. Raises `UsageError` for settings that it does not take."""
    name, settings = str(config.data["name"]), data_settings(config)
    of_videos = {key: settings.pop(key) for key in VideoLimitsConfig.names() if key in settings}
    limits = typed_config(VideoLimitsConfig, of_videos, "data")
    chosen = settings.pop("reader", None)
    if chosen is not None:
        read_by = reader_config(str(chosen), settings)
        return DataPlan(name=name, reader=str(chosen), settings=read_by, limits=limits)
    if settings.pop("generator", None) is not None:
        generated = typed_config(MovingDigitsConfig, settings, "data")
        return DataPlan(name=name, generated=generated, limits=limits)
    if settings:
        raise UsageError(
            f"data={name} takes no settings, but has {', '.join(settings)}",
            "They belong to the built-in set: data=moving_digits. Every set takes "
            f"{', '.join(VideoLimitsConfig.names())}.",
        )
    return DataPlan(name=name, limits=limits)


def check_extraction(config: ExtractionConfig) -> Precision:
    """The precision to compute in. Raises `UsageError` for settings out of bounds."""
    check_ranges(config, "extraction")
    return check_precision(config.precision)


def resolve_methods(config: SweepConfig) -> tuple[MethodPlan, dict[str, MethodPlan]]:
    """The method and its baselines, by the names of their trials, with the knobs tried at both ends.

    Raises `UsageError` for an unknown method, field or value, and for a knob that leaves the range of what it sets.
    """
    searched = config.method
    _check_knob_ranges(searched)
    of_model = {n: k for n, k in hyperparameters(config).items() if not k.field.startswith(OF_TRAINING)}
    for end in (0, -1):
        values = {name: ends(knob)[end] for name, knob in {**searched.training_knobs, **of_model}.items()}
        method_config(searched.name, model_with_knobs(searched, values))
    method = _resolve_method(searched.name, searched.model)
    return method, {each.name: _resolve_method(each.method, each.model) for each in config.baselines}


def _resolve_method(name: str, model: JsonObject) -> MethodPlan:
    method, config = method_class(name), method_config(name, model)
    return MethodPlan(
        name=name, method=method, model=model, config=config, sources=tuple(method.sources_of(config))
    )


def _check_knob_ranges(method: MethodConfig) -> None:
    """Every value that a study may give a knob must be one that the knob's field takes."""
    cls = method_class(method.name)
    for name, knob in method.training_knobs.items():
        if (number := field_number(cls.Config, knob.field)) is not None:
            _check_inside(method, name, knob, f"method.training_knobs.{name}", number)
    for each in ConfiguredMethod.of(method.name, method.model).knobs:
        searched = method.inference_knobs.get(each.name)
        if searched is not None and not each.words:  # words have no range
            number = Declared(int if each.whole else float, each.range, each.description)
            _check_inside(method, each.name, searched, f"method.inference_knobs.{each.name}", number)


def _check_inside(method: MethodConfig, name: str, knob: KnobConfig, where: str, number: Declared) -> None:
    values = (
        {f"choices[{index}]": choice for index, choice in enumerate(knob.choices)}
        if knob.choices
        else {"low": knob.low, "high": knob.high}
    )
    named = {f"{where}.{end}": value for end, value in values.items()}
    named |= {f"method.published[{i}].{name}": point.get(name) for i, point in enumerate(method.published)}
    for at, value in named.items():
        if problem := number.problem(value):
            raise UsageError(f"{at} {problem}", number.hint)


def _check_inference_knobs(searched: MethodConfig, plan: MethodPlan) -> None:
    known = {knob.name: knob for knob in plan.method.knobs_of(plan.config)}
    check_known(plan.method, tuple(searched.inference_knobs))
    for name, knob in searched.inference_knobs.items():
        if name not in known:
            raise UsageError(
                f"{searched.name} has no inference knob {name!r}", f"Known: {', '.join(sorted(known))}."
            )
        unknown = [word for word in knob.choices or () if word not in known[name].words]
        if known[name].words and (unknown or not knob.choices):
            raise UsageError(
                f"method.inference_knobs.{name} of {searched.name} cannot be {knob.choices or 'a range'}",
                f"Give choices of {known[name].allowed}",
            )


def _check_tasks(plan: SweepPlan) -> None:
    task = plan.method.method.task
    for name, baseline in plan.baselines.items():
        other = baseline.method.task
        if other != task:
            raise UsageError(
                f"the baseline {name} is of {other}, {plan.method.name} of {task}",
                "Their qualities do not compare: leave it out of baselines, or give one of the same task.",
            )


def _check_sources(plan: SweepPlan) -> None:
    backbones, chosen = plan.preparation.backbones, plan.config.backbones.family
    info = backbones.info()
    readers = {plan.method.name: plan.method}
    readers |= {f"the baseline {name}": baseline for name, baseline in plan.baselines.items()}
    for who, reads in readers.items():
        for source in reads.sources:
            if source not in backbones.components:
                raise UsageError(
                    f"{who} reads the source {source!r}, which {chosen} has not",
                    f"It has: {', '.join(backbones.components)}. Choose other backbones, or say which baselines: "
                    "baselines=[…].",
                )
        if issubclass(reads.method, UsesSourceInfo):
            reads.method.check_source_info(reads.config, info)


def _check_plugins(plan: SweepPlan) -> None:
    """Raises `UsageError` if a worker would not know what this process knows, or no model could be made of it."""
    for each in (plan.method, *plan.baselines.values()):
        check_travels(METHODS.entry(each.name), f"method {each.name}")
    for name in plan.preparation.backbones.components.values():
        if (brought_by := component_family(name)) is not None:
            check_travels(BACKBONES.entry(brought_by), f"component {name}")


def _resolve_backbones(config: SweepConfig) -> BackbonesPlan:
    components = family(config.backbones.family)
    training = typed_config(BackboneTrainingConfig, config.backbones.training, "backbones.training")
    check_labels(training, [name for name in components.values() if component(name).weights is None])
    return BackbonesPlan(
        components=components,
        training=training,
        weights=_weight_locations(config),
        fine_tuning=_fine_tuning(config),
    )


def _fine_tuning(config: SweepConfig) -> FineTuningConfig | None:
    backbones = config.backbones
    tuning = typed_config(FineTuningConfig, backbones.fine_tuning, "backbones.fine_tuning")
    if not backbones.fine_tune:
        if backbones.fine_tuning:
            raise UsageError(
                "backbones.fine_tuning has settings, but backbones.fine_tune is false",
                "Add backbones.fine_tune=true, or leave them out.",
            )
        return None
    if all(component(name).weights is None for name in family(backbones.family).values()):
        raise UsageError(
            f"the family {backbones.family} is trained here, and has nothing to fine-tune",
            "Leave backbones.fine_tune out, or choose backbones=paper.",
        )
    return tuning


def _weight_locations(config: SweepConfig) -> dict[str, str]:
    """Source to where its weights come from, for the components that are not trained here.

    Raises `UsageError` for one without, and for a source that has no use for weights.
    """
    specs = {source: component(name) for source, name in family(config.backbones.family).items()}
    takes = [source for source, spec in specs.items() if spec.weights is not None]
    given = config.backbones.weights
    if given and not takes:
        raise UsageError(
            f"backbones.weights is set, but the family {config.backbones.family} is trained here",
            "Leave it out, or choose backbones=paper.",
        )
    if isinstance(given, str):
        if given != RANDOM:
            raise UsageError(
                f"backbones.weights={given} is not allowed",
                f"Name a file for each source: {', '.join(f'backbones.weights.{s}=PATH' for s in takes)}; "
                f"or backbones.weights={RANDOM}.",
            )
        given = dict.fromkeys(takes, RANDOM)
    for name, values in (("weights", given), ("sha256", config.backbones.sha256)):
        for source in values:
            if source not in takes:
                raise unknown_name(f"source in backbones.{name}", source, takes)
    for source, digest in config.backbones.sha256.items():
        if not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
            raise UsageError(
                f"backbones.sha256.{source}={digest} is no SHA-256",
                "It has 64 hex digits: sha256sum FILE prints it.",
            )
    for source in takes:
        if not given.get(source):
            raise missing_weights(specs[source], source)
        if not has_signature_alone(str(given[source])) and source not in config.backbones.sha256:
            raise UsageError(
                f"the query of backbones.weights.{source} may say which file it is, and is not recorded",
                f"Give the file's digest too (sha256sum FILE prints it): backbones.sha256.{source}=DIGEST.",
            )
    return {source: str(given[source]) for source in takes}
