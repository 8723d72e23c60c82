"""VideoEpitoma: look at all timesteps lightly, and heavily at the few that tell what the video is about.

"VideoEpitoma: Efficient Recognition of Long-range Actions" (anonymous, under review).

A selector reads a light network's features of all T timesteps and opens few of them (`layers/timestep_selector.py`). A
heavy network sees those alone, and a classifier with self-attention over them answers (`layers/temporal_attention.py`).

Symbols: x `[B, T, D_light]`, y `[B, T, D_heavy]`, alpha `[B, T]` the selector's logits, z `[B, T]` gates, lambda =
`l0_weight`, T = `timesteps`, T' the number that is open.

Two regimes: `end_to_end` trains the selector with the heavy classifier (section 4.3). `stand_alone` trains it with the
light network in both roles, then freezes it and trains the heavy classifier on what it selects (section 4.2); the first
`selector_share` of training goes to the selector.

A selector that was trained stand-alone is written beside its trial's result. `selector` names one, to put it frozen in
front of another heavy network or another `classifier` (VideoEpitoma's own, the mean of what each timestep says, an
LSTM); `top_k` takes one as well (`saliency=selector`).

A timestep of a 3-D heavy network (`heavy=motion`) is a snippet; the light network sees the frame in its middle, which
is how `coarse` and `motion` of one step are laid out.

Departures from the paper, and why:
* Features are pooled over space before the selector: a dot product of a kernel with a map is not defined. Both sources
  go through a projection with layer norm; gates multiply what comes out of it.
* Closed timesteps are masked as attention keys, in training and evaluation. Multiplying by a gate of 0 alone, as
  printed, leaves them a share of attention in training that they do not have at test time.
* "Gumbel noise" on one logit is logistic noise; the temperature is not given: `temperature`.
* The L0 penalty of the paper's source belongs to another gate (hard concrete). Default: the exact chance that this gate
  is open, sigmoid(alpha); `l0_form=hard_concrete` is the source's. Its weight is not given: it is the budget knob.
* If nothing is selected, the best timestep is; in training, too, where its gate is then below 0.5 but has a gradient.
* Frozen means frozen: in the second phase of `stand_alone` gates are those of evaluation, without noise.
* Training leaves out steps at random (`step_dropout`); the paper samples 32 of many more.

Budget knobs: lambda, kernels and context in training; at inference `gate_threshold` (on the sigmoid; 0.5 is the paper's
step function), `top_k` (exactly the k best, for the fixed budgets of Tables 1 and 2) and `timesteps` (T).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, final

import torch
from torch import Tensor

from paretovid.trainables.cost import ComponentCost, deterministic_eval
from paretovid.trainables.documents import JsonObject
from paretovid.trainables.errors import NonFiniteError, UsageError
from paretovid.trainables.layers.coarse_to_fine import COARSE, FINE, READ_COARSE, READ_FINE
from paretovid.trainables.layers.frame_sampling import gathered, uniform_steps, without_some
from paretovid.trainables.layers.functional import classification_loss, probabilities
from paretovid.trainables.layers.placing.lines import quantiles, whole_counts
from paretovid.trainables.layers.temporal_attention import (
    CLASSIFIERS,
    ClassifierKind,
    LstmClassifier,
    MeanClassifier,
    VideoClassifier,
    build_classifier,
)
from paretovid.trainables.layers.timestep_selector import (
    CLIP,
    SELECTOR_FOLDER,
    L0Form,
    SavedSelector,
    SelectorShape,
    best_open,
    build_selector,
    by_content,
    l0_penalty,
    located,
    save_selector,
    step_open,
)
from paretovid.trainables.measurement import Metrics
from paretovid.trainables.method import (
    ChecksFeatures,
    Exports,
    Method,
    NeedsFiles,
    PlacesSettings,
    TrainsInStages,
    Warns,
    check_distinct,
    check_listed,
    register,
)
from paretovid.trainables.outcome import Batch, InferenceKnob, Line, Loss, Outcome, Progress, Setting
from paretovid.trainables.provider import Provider
from paretovid.trainables.ranges import Dropout, OpenFraction, Positive, Range, Weight, Width, check_ranges

MOTION = "motion"
Heavy = Literal["fine", "motion"]
HEAVY_SOURCES = (FINE, MOTION)

GATE_THRESHOLD = InferenceKnob(
    name="gate_threshold",
    default=CLIP,
    low=0.0,
    high=1.0,
    description="look heavily where the gate's sigmoid reaches this: higher looks less; 0: everywhere",
)
TOP_K = InferenceKnob(
    name="top_k",
    default=0,
    low=0,
    high=10_000,
    whole=True,
    description="look heavily at exactly this many timesteps, the best first; 0: by gate_threshold",
)
TIMESTEPS = InferenceKnob(
    name="timesteps",
    default=0,
    low=0,
    high=10_000,
    whole=True,
    description="choose from this many timesteps at even distances; 0: from as many as in training",
)
ALL, ONE = 0.98, 1.05
"""A selector has collapsed from this share of all timesteps on, or if it opens so few on average."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoEpitomaConfig:
    """Training settings of VideoEpitoma."""

    light: str = COARSE
    heavy: Heavy = "fine"
    regime: Literal["end_to_end", "stand_alone"] = "end_to_end"
    selector_share: OpenFraction = 0.5
    """Stand-alone: share of training that goes to the selector; the rest goes to the heavy classifier."""
    selector: str = ""
    """Folder of a selector that was trained before (or of its trial): it stays as it is, and decides its own shape.
    `sha256:...`: one whose weights are in this model's own file."""
    classifier: ClassifierKind = "attention"
    """What answers from the selected timesteps; the paper's own is `attention`."""
    timesteps: Annotated[int, TIMESTEPS.range, "0: every step."] = 0
    """T: timesteps at even distances, in training and evaluation; 0: every step of the video."""
    l0_weight: Annotated[Weight, "It is lambda; 0 is allowed."] = 0.1
    """lambda: weight of the penalty for open gates."""
    l0_form: L0Form = "open_probability"
    kernels: Width = 32
    """N: concept kernels."""
    context: Literal["self_attention", "none"] = "self_attention"
    """`none`: each timestep is judged by itself ("frame gating", Fig. 6)."""
    temperature: Annotated[Positive, "1 is the plain sigmoid."] = 1.0
    """Of the gates in training."""
    light_projection: Width = 32
    heavy_projection: Width = 64
    gate_hidden: Width = 32
    classifier_hidden: Width = 64
    dropout: Dropout = 0.0
    """Of projected features and in the classifier, in training. Not in the paper."""
    step_dropout: Dropout = 0.4
    """Share of a video's steps that training leaves out, others each time."""
    gate_thresholds: tuple[Annotated[float, GATE_THRESHOLD.range], ...] | None = None
    """Inference settings to evaluate, all answered from one run; 0.5 is the default one, 0 is there anyway. null here
    and below: placed by what they cost on validation (`search.points`)."""
    top_ks: tuple[Annotated[int, Range(1, TOP_K.high)], ...] | None = None
    timestep_counts: tuple[Annotated[int, Range(1, TIMESTEPS.high)], ...] | None = None
    """Further T to evaluate, each with all of the above; one more pass each. An empty list: none; placed: half of the
    default one."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.heavy not in HEAVY_SOURCES:
            raise UsageError(
                f"heavy cannot be {self.heavy!r}",
                f"Allowed: {', '.join(HEAVY_SOURCES)}; audio has no timestep.",
            )
        if self.light == self.heavy:
            raise UsageError(f"light and heavy are both {self.light!r}", "light=coarse is the usual one.")
        if self.regime not in ("end_to_end", "stand_alone"):
            raise UsageError(f"unknown regime: {self.regime!r}", "Allowed: end_to_end, stand_alone.")
        if self.classifier not in CLASSIFIERS:
            raise UsageError(
                f"unknown classifier: {self.classifier!r}", f"Allowed: {', '.join(CLASSIFIERS)}."
            )
        if self.selector and self.regime != "stand_alone":
            raise UsageError(
                f"regime is {self.regime} with a selector that was trained before",
                "Such a selector stays as it is: add method.model.regime=stand_alone.",
            )
        SavedSelector.named(self.selector)  # raises if there is none
        if self.context not in ("self_attention", "none"):
            raise UsageError(f"unknown context: {self.context!r}", "Allowed: self_attention, none.")
        if self.l0_form not in ("open_probability", "hard_concrete"):
            raise UsageError(
                f"unknown l0_form: {self.l0_form!r}", "Allowed: open_probability, hard_concrete."
            )
        check_listed("gate_thresholds", self.gate_thresholds)
        check_listed("top_ks", self.top_ks)
        if self.timestep_counts:
            check_distinct("timestep_counts", self.timestep_counts)

    @property
    def shape(self) -> SelectorShape:
        """Of a selector that this configuration trains."""
        return SelectorShape(
            light=self.light,
            projection=self.light_projection,
            kernels=self.kernels,
            hidden=self.gate_hidden,
            has_context=self.context == "self_attention",
        )


@register
@final
class VideoEpitoma(Method, ChecksFeatures, Exports, NeedsFiles, PlacesSettings, TrainsInStages, Warns):
    """See the module's text."""

    name: ClassVar[str] = "video_epitoma"
    Config: ClassVar[type[Any]] = VideoEpitomaConfig
    inference_knobs = (GATE_THRESHOLD, TOP_K, TIMESTEPS)

    @classmethod
    def sources_of(cls, config: VideoEpitomaConfig) -> tuple[str, ...]:
        return (config.light, config.heavy)

    def __init__(
        self, config: VideoEpitomaConfig, *, widths: Mapping[str, int], num_classes: int, multi_label: bool
    ) -> None:
        super().__init__(config, widths=widths, num_classes=num_classes, multi_label=multi_label)
        self.config = config
        self.multi_label = multi_label
        self.saved = SavedSelector.named(config.selector)
        """The selector that was trained before, where its files are."""
        self.selector = (
            build_selector(config.shape, widths[config.light], prefix=self.name, dropout=config.dropout)
            if self.saved is None
            else self.saved.build(config.light, widths[config.light], prefix=self.name)
        )
        self.selector.requires_grad_(not config.selector)

        def classifier(
            kind: ClassifierKind, source: str, projection: int, prefix: str
        ) -> VideoClassifier | MeanClassifier | LstmClassifier:
            return build_classifier(
                kind,
                width=widths[source],
                projection=projection,
                hidden=config.classifier_hidden,
                dropout=config.dropout,
                num_classes=num_classes,
                multi_label=multi_label,
                prefix=prefix,
            )

        self.classifier = classifier(config.classifier, config.heavy, config.heavy_projection, self.name)
        self.light_classifier = (
            classifier("attention", config.light, config.light_projection, f"{self.name}.light")
            if config.regime == "stand_alone" and not config.selector
            else None
        )
        """Only trains the stand-alone selector; no answer comes from it."""

    # Training

    @classmethod
    def last_stage(cls, config: VideoEpitomaConfig) -> float:
        return config.selector_share if config.regime == "stand_alone" and not config.selector else 0.0

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        config = self.config
        index = torch.stack(uniform_steps(batch.mask.sum(dim=1), config.timesteps), dim=1)
        valid = without_some(index >= 0, config.step_dropout)
        light = gathered(batch.features[config.light], index)
        is_frozen = config.regime == "stand_alone" and (
            self.light_classifier is None or progress.fraction >= config.selector_share
        )
        # So that neither weight decay nor a mean over workers moves what is not trained in this phase.
        self.selector.requires_grad_(not is_frozen)
        if self.light_classifier is not None:
            self.light_classifier.requires_grad_(not is_frozen)
            self.classifier.requires_grad_(is_frozen)
        if is_frozen:
            with deterministic_eval(self.selector):
                alpha = self.selector(light, valid)
            gates = step_open(alpha, valid, CLIP).to(light.dtype)
        else:
            alpha = self.selector(light, valid)
            gates = self.selector.gates(alpha, valid, config.temperature)
        if self.light_classifier is not None and not is_frozen:
            logits = self.light_classifier(self.light_classifier.project(light), gates)
        else:
            heavy = gathered(batch.features[config.heavy], index)
            logits = self.classifier(self.classifier.project(heavy), gates)
        classification = classification_loss(logits, batch.targets, self.multi_label)
        penalty = l0_penalty(alpha, valid, config.l0_form, batch.workers)
        parts = {
            "classification": classification,
            "l0": penalty,
            "selected": (gates > 0).sum() / valid.sum().clamp(min=1),
        }
        total = classification if is_frozen else classification + config.l0_weight * penalty
        return Loss(total, {name: float(value.detach()) for name, value in parts.items()})

    def check_features(self, features: Mapping[str, str]) -> None:
        if self.saved is not None:
            self.saved.check_features(features)

    def export(self, folder: Path, about: Mapping[str, Any]) -> None:
        if self.light_classifier is not None:
            save_selector(folder / SELECTOR_FOLDER, self.selector, self.config.shape, about)

    @classmethod
    def located(cls, model: JsonObject) -> JsonObject:
        return located(model)

    @classmethod
    def by_content(cls, model: JsonObject) -> JsonObject:
        return by_content(model)

    def portable(self, model: JsonObject) -> JsonObject:
        if self.saved is None:
            return dict(model)
        shape = self.saved.shape
        return {
            **model,
            "selector": self.saved.digest,
            "light_projection": shape.projection,
            "kernels": shape.kernels,
            "gate_hidden": shape.hidden,
            "context": "self_attention" if shape.has_context else "none",
        }

    # Evaluation and production

    def run(self, provider: Provider, setting: Setting) -> Outcome:
        config = self.config
        timesteps = int(setting.get("timesteps", TIMESTEPS.default)) or config.timesteps
        steps = uniform_steps(provider.num_steps, timesteps)
        if not 0 < timesteps < provider.max_steps:
            provider.expect(config.light)
        light = torch.stack([provider.read(config.light, index, index >= 0) for index in steps], dim=1)
        index = torch.stack(steps, dim=1)
        valid = index >= 0
        alpha = self.selector(light, valid)
        if not bool(torch.isfinite(alpha[valid]).all()):
            raise NonFiniteError(
                "VideoEpitoma's gates are not finite numbers",
                "The features or the weights hold values that are not finite; train again at a lower "
                "training.learning_rate.",
            )
        for name, count in self.selector.calls(valid).items():
            provider.charge(name, count)
        is_open = self._open(alpha, valid, setting)
        heavy = torch.stack(
            [provider.read(config.heavy, at, wanted) for at, wanted in zip(steps, is_open.T, strict=True)],
            dim=1,
        )
        projected = self.classifier.project(heavy)
        self.classifier.charge(provider, is_open)
        trace = {
            "alpha": alpha,
            "index": index,
            "projected": projected,
            # By name, because what a component is called only the provider knows.
            f"per_read/{provider.components[config.heavy]}": torch.ones_like(provider.num_steps),
        }
        return self._outcome(provider.calls, trace, is_open, provider.max_steps)

    def _open(self, alpha: Tensor, valid: Tensor, setting: Setting) -> Tensor:
        """What to look at heavily, `[B, T]` bool."""
        top_k = int(setting.get("top_k", TOP_K.default))
        if top_k > 0:
            return best_open(alpha, valid, top_k)
        return step_open(alpha, valid, float(setting.get("gate_threshold", GATE_THRESHOLD.default)))

    def _outcome(
        self, calls: Mapping[str, Tensor], trace: dict[str, Tensor], is_open: Tensor, max_steps: int
    ) -> Outcome:
        logits = self.classifier(trace["projected"], is_open.to(trace["projected"].dtype))
        index = trace["index"]
        decisions = torch.zeros(len(index), max_steps + 1, dtype=torch.int64, device=index.device)
        # What a short video lacks lands behind the last step and is cut off.
        decisions.scatter_(1, torch.where(index >= 0, index, max_steps), READ_COARSE + is_open.long())
        return Outcome(
            scores=probabilities(logits, self.multi_label),
            calls=dict(calls),
            decisions=decisions[:, :max_steps],
            trace=trace,
        )

    def settings(self) -> list[Setting]:
        default = {knob.name: knob.default for knob in self.inference_knobs}
        # All others are answered from those that look at everything, one for each T.
        others = [T for T in self.config.timestep_counts or () if self.config.timesteps != T]
        return [default, *({**default, "gate_threshold": 0.0, "timesteps": T} for T in (0, *others))]

    def stop_points(self, outcome: Outcome, setting: Setting) -> list[tuple[Setting, Outcome]]:
        if setting not in self.settings()[1:]:
            return []
        everything = {**self.settings()[0], "timesteps": setting["timesteps"]}
        others: list[Setting] = [
            {**everything, "gate_threshold": t} for t in self.config.gate_thresholds or ()
        ]
        others += [{**everything, "top_k": k} for k in self.config.top_ks or ()]
        with deterministic_eval(self):
            return [(o, self._narrowed(outcome, o)) for o in others if o not in self.settings()]

    def _narrowed(self, outcome: Outcome, setting: Setting) -> Outcome:
        """What a run that looked at everything would have given at another setting."""
        trace = outcome.trace
        is_open = self._open(trace["alpha"], trace["index"] >= 0, setting)
        calls = {
            name: is_open.sum(dim=1) if f"per_read/{name}" in trace else count
            for name, count in outcome.calls.items()
        }
        calls |= self.classifier.calls(is_open)
        return self._outcome(calls, trace, is_open, outcome.decisions.shape[1])

    # Where settings are placed

    def places(self) -> bool:
        return None in (self.config.gate_thresholds, self.config.top_ks, self.config.timestep_counts)

    def probes(self) -> list[Setting]:
        return [self.runs_at(self.settings()[0])]

    def evidence(self, outcome: Outcome, setting: Setting) -> dict[str, Tensor]:
        valid = outcome.trace["index"] >= 0
        return {"gates": outcome.trace["alpha"][valid].sigmoid(), "timesteps": valid.sum(dim=1)}

    def lines(self, evidence: Mapping[str, Tensor]) -> list[Line]:
        config, default = self.config, self.settings()[0]
        most = int(evidence["timesteps"].max())
        counts = (0, *(config.timestep_counts or ()))
        if config.timestep_counts is None and most > 1:
            counts = (0, most // 2)
        thresholds, top_ks = config.gate_thresholds, config.top_ks
        if thresholds is None:  # the lower, the more is opened
            found = quantiles(evidence["gates"])
            thresholds = tuple(reversed([0.0, *(t for t in found if 0 < t < 1), 1.0])) if found else ()
        lines = []
        for count in counts:
            # A selector that decides alike everywhere may still rank by rounding: no choice at all is to be had.
            ks = (whole_counts((count or most) - 1) if thresholds else ()) if top_ks is None else top_ks
            about = {**default, "timesteps": count}
            lines += [
                Line(
                    name=f"gate_threshold of {count or 'all'} timesteps",
                    settings=tuple({**about, "gate_threshold": threshold} for threshold in thresholds),
                    is_listed=config.gate_thresholds is not None,
                ),
                Line(
                    name=f"top_k of {count or 'all'} timesteps",
                    settings=tuple({**about, "top_k": k} for k in ks),
                    is_listed=top_ks is not None,
                ),
            ]
        return lines

    def runs_at(self, setting: Setting) -> Setting:
        return {
            **self.settings()[0],
            "gate_threshold": 0.0,
            "timesteps": setting.get("timesteps", TIMESTEPS.default),
        }

    def answer(self, outcome: Outcome, setting: Setting) -> Outcome:
        with deterministic_eval(self):
            return self._narrowed(outcome, setting)

    def reads(self) -> tuple[str, ...]:
        assert READ_FINE == READ_COARSE + 1
        return ("none", self.config.light, self.config.heavy)

    def warnings(self, at_default: Metrics) -> list[str]:
        calls = at_default.calls
        opened, seen = calls[self.classifier.step_component], calls[self.selector.step_component]
        if seen <= ONE:  # nothing to choose from
            return []
        about = f"on average {opened:.2f} of {seen:.2f} timesteps"
        higher, lower = (
            ("train another selector",) * 2
            if self.config.selector
            else ("raise l0_weight", "lower l0_weight")
        )
        if opened >= ALL * seen:
            return [
                f"collapsed: the selector opens nearly every timestep ({about}): nothing is saved; {higher}."
            ]
        if opened <= ONE:
            return [
                f"collapsed: the selector opens one timestep, or none, of nearly every video ({about}); {lower}."
            ]
        return []

    def component_costs(self) -> dict[str, ComponentCost]:
        return {**self.selector.component_costs(), **self.classifier.component_costs()}
