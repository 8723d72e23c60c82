"""What is promoted: a trained method with its backbones, from raw videos to labels with their cost.

It decodes a step and runs a backbone on it only when the method asks, through `VideoProvider`, and its
answers are those that were measured on cached features. Plain PyTorch and PyAV.

A model folder:

    model.json             method, its fields, sources, widths, costs, classes, operating point
    method.safetensors     the method's weights
    backbones/<source>/    weights and JSON per source, as `save_backbone` wrote them
"""

from __future__ import annotations

import hashlib
import math
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, final

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from paretovid.trainables.backbones.catalog import BACKBONES, component, load_backbone
from paretovid.trainables.backbones.spec import Backbone
from paretovid.trainables.catalog import ConfiguredMethod, build_method
from paretovid.trainables.cost import CostTable, deterministic_eval
from paretovid.trainables.data.limits import USUAL_LIMITS, VideoLimitsConfig
from paretovid.trainables.data.video_keys import video_key
from paretovid.trainables.data.videos import InputSpec, VideoReader, read_steps
from paretovid.trainables.documents import JsonObject, JsonValue
from paretovid.trainables.errors import DataError, UsageError, unknown_name
from paretovid.trainables.layers.caps import CAP, STOPPED_BY, check_known
from paretovid.trainables.method import METHODS, Method
from paretovid.trainables.model_description import MODEL_FILE, ModelDescription
from paretovid.trainables.outcome import InferenceKnob, Outcome
from paretovid.trainables.plugins.catalog import IS_COPY
from paretovid.trainables.provider import VideoProvider

WEIGHTS_FILE = "method.safetensors"
MOST_STEPS_AT_ONCE = 512
"""Longer videos are looked at step by step, so that their frames need not be kept."""

CHEAPEST_ONLY = "answered from one kind of look only,"
"""How the note begins of a video whose cap paid for no closer read."""

VideoSource = str | Path | bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """The answer for one video, or why there is none."""

    path: str
    """As it was asked for; `<bytes>` for bytes."""
    labels: tuple[tuple[str, float], ...] = ()
    """All classes with their scores (0 to 1), highest first."""
    gflops: float = 0.0
    """Spent on this video: giga multiply-accumulates."""
    calls: dict[str, int]
    """Component to the number of calls."""
    instances: tuple[tuple[str, float, float, float], ...] | None = None
    """Of a model of localization: class, start and end in seconds, and score of each instance, the surest first."""
    timeline: Mapping[str, Any] | None = None
    """Of such a model: per step, what its instances were cut out of, for pictures (`_timeline`)."""
    steps: tuple[str, ...] = ()
    """Per step: `none`, or the most expensive source read (`Method.reads`): `coarse` or `fine`, for example."""
    reads: tuple[tuple[str, int], ...] = ()
    """Source and step of everything that was computed, in the order in which it was asked for."""
    answers: tuple[tuple[int, str, float], ...] = ()
    """Of methods that walk through a video: step read, best label and its score, after each read."""
    step_seconds: float = 0.0
    """How long a step is."""
    decode_seconds: float = 0.0
    flow_seconds: float = 0.0
    """Optical flow, which no GFLOPs count."""
    compute_seconds: float = 0.0
    """Everything but decoding and flow."""
    notes: tuple[str, ...] = ()
    """Declared fallbacks of the decoder (no audio, truncated, rotated), and a cap that paid for cheap reads alone."""
    stopped_by: str | None = None
    """Why reading ended: `end`, `method` or `cap` (`caps.STOPPED_BY`); None of a method that does not read by the
    step."""
    error: str | None = None

    def to_json(self) -> dict[str, JsonValue]:
        """An entry of `videos` as `predict --json` prints it; `instances` only if the model localizes."""
        found = None if self.instances is None else [_instance(*each) for each in self.instances]
        return {
            "path": self.path,
            "labels": [{"label": label, "score": score} for label, score in self.labels],
            **({} if found is None else {"instances": found}),
            "gflops": self.gflops,
            "calls": self.calls,
            "steps": list(self.steps),
            "stopped_by": self.stopped_by,
            "error": self.error,
        }

    def details(self) -> dict[str, JsonValue]:
        """The same with the reads in their order (`looks`), seconds and notes."""
        names = ("decode_seconds", "flow_seconds", "compute_seconds")
        times = {name: getattr(self, name) for name in names}
        walk = {
            "step_seconds": self.step_seconds,
            "looks": [{"source": source, "step": step} for source, step in self.reads],
            "answers": [
                {"step": step, "label": label, "score": score} for step, label, score in self.answers
            ],
        }
        timeline = {} if self.timeline is None else {"timeline": dict(self.timeline)}
        return {**self.to_json(), **walk, **timeline, **times, "notes": list(self.notes)}


def _instance(label: str, start_seconds: float, end_seconds: float, score: float) -> dict[str, JsonValue]:
    return {"label": label, "start_seconds": start_seconds, "end_seconds": end_seconds, "score": score}


def checked_setting(
    knobs: Iterable[InferenceKnob], given: Mapping[str, Any], defaults: Mapping[str, float | str]
) -> dict[str, float | str]:
    """Values of all inference knobs: those given, else the defaults, else the knobs' own.

    Raises `UnknownNameError` for a name that is no knob, `UsageError` for a value that is not a finite
    number within the knob's range, or not one of its words.
    """
    by_name = {knob.name: knob for knob in knobs}
    for name in given:
        if name not in by_name:
            raise unknown_name("parameter of this model", name, by_name)
    values = {name: defaults.get(name, knob.default) for name, knob in by_name.items()}
    return {name: _in_range(knob, given.get(name, values[name])) for name, knob in by_name.items()}


def _in_range(knob: InferenceKnob, value: Any) -> float | str:
    # numpy's numbers have item(); a flag is not a number to a user.
    value = value.item() if hasattr(value, "item") else value
    if knob.words:
        if value not in knob.words:
            raise UsageError(f"{knob.name} cannot be {value!r}", f"Give {knob.allowed}")
        return str(value)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not knob.low <= value <= knob.high:
        raise UsageError(f"{knob.name} cannot be {value!r}", f"Give {knob.allowed}")
    if knob.whole and value != int(value):
        raise UsageError(f"{knob.name} cannot be {value!r}", f"Give {knob.allowed}")
    return float(value)


def write_model_folder(
    folder: Path, description: ModelDescription, weights: Path, backbones: Mapping[str, Path]
) -> None:
    """Makes a model folder from a trial's weights and the backbone folders of its sources."""
    folder.mkdir(parents=True)
    shutil.copyfile(weights, folder / WEIGHTS_FILE)
    for source, path in backbones.items():
        shutil.copytree(path, folder / "backbones" / source)
    description.write(folder)


@final
class BackbonesOnDemand(Mapping[str, Backbone]):
    """Source to backbone; the weights of one are read from its folder when it is first asked for, and then kept.

    Raises `DataError`, when asked, for a folder that is missing or damaged.
    """

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = dict(folders)
        self._loaded: dict[str, Backbone] = {}

    def __getitem__(self, source: str) -> Backbone:
        if source not in self._loaded:
            self._loaded[source] = load_backbone(self._folders[source])[0].eval()
        return self._loaded[source]

    def __iter__(self) -> Iterator[str]:
        return iter(self._folders)

    def __len__(self) -> int:
        return len(self._folders)

    @property
    def loaded(self) -> tuple[str, ...]:
        """The sources whose weights are in memory."""
        return tuple(self._loaded)

    def unload(self) -> None:
        """Gives all weights back; they are read again when they are asked for."""
        self._loaded.clear()


@final
class Recognizer:
    """A model folder, loaded. `predict` may be called from one thread at a time."""

    def __init__(
        self,
        description: ModelDescription,
        method: Method,
        backbones: Mapping[str, Backbone],
        limits: VideoLimitsConfig = USUAL_LIMITS,
    ) -> None:
        self.description = description
        self.method = method
        self.limits = limits
        self.backbones = backbones
        self.classes = description.classes
        self.knobs = knobs_of(description.method, description.config)
        self.reads = method.reads()
        """What a step's decision 0, 1, ... is called."""
        self.defaults: dict[str, float | str] = dict(description.setting)
        self._costs = CostTable(description.costs)
        self._specs = {source: component(name).input for source, name in description.sources.items()}
        # What was measured saw features as they were stored; the last bit can tip a decision.
        self._dtype = getattr(torch, description.feature_dtype)

    @classmethod
    def load(
        cls, folder: Path, *, on_demand: bool = False, limits: VideoLimitsConfig = USUAL_LIMITS
    ) -> Recognizer:
        """The model in `folder`. Raises `DataError` if it is not whole.

        Arguments:
            on_demand: read a backbone's weights when it is first run, for pools of which a video needs one or two.
                A damaged one is then found when it is needed.
            limits: what a video may ask for; one that is beyond them has an error.
        """
        description = ModelDescription.read(folder)
        try:
            weights = load_file(folder / WEIGHTS_FILE)
        except Exception as error:  # safetensors raises its own type, a subclass of Exception
            raise DataError(
                f"{folder} is not a model folder: {error}", f"It needs {MODEL_FILE} and {WEIGHTS_FILE}."
            ) from error
        method = build_method(
            description.method,
            description.config,
            widths=description.widths,
            num_classes=len(description.classes),
            multi_label=description.multi_label,
        )
        method.load_state_dict(weights)
        backbones: Mapping[str, Backbone] = BackbonesOnDemand(
            {source: folder / "backbones" / source for source in description.sources}
        )
        if not on_demand:
            backbones = dict(backbones)
        return cls(description, method.eval(), backbones, limits)

    def predict(
        self,
        videos: Sequence[VideoSource],
        setting: Mapping[str, Any] | None = None,
        *,
        ids: Sequence[str] | None = None,
    ) -> list[Prediction]:
        """Answers for videos given as paths, `s3://` URLs or bytes, one by one; a bad one does not stop the others.

        Arguments:
            setting: inference knobs by name; those left out are as at the promoted operating point.
            ids: the videos' ids in their data set; only methods with a random part depend on them.

        Raises `UsageError` for an unknown or impossible knob.
        """
        check_known(self.method, tuple(setting or {}))
        values = checked_setting(self.knobs, setting or {}, self.defaults)
        names = ids or [_video_id(video) for video in videos]
        return [self._predict_one(video, name, values) for video, name in zip(videos, names, strict=True)]

    def _predict_one(
        self, video: VideoSource, video_id: str, setting: Mapping[str, float | str]
    ) -> Prediction:
        shown = "<bytes>" if isinstance(video, bytes) else str(video)
        try:
            with VideoReader(
                video, step_seconds=self.description.step_seconds, name=shown, limits=self.limits
            ) as reader:
                return self._read(reader, shown, video_id, setting)
        except (MemoryError, RuntimeError) as error:  # PyTorch's own word for too little memory is the latter
            return Prediction(path=shown, calls={}, error=f"{shown}: {type(error).__name__}: {error}")
        except (DataError, OSError) as error:
            said = (getattr(error, "message", None) or str(error), getattr(error, "hint", ""))
            return Prediction(path=shown, calls={}, error=" ".join(". ".join(filter(None, said)).split()))

    def _frame_specs(self, expected: str) -> dict[str, InputSpec]:
        """The expected source's input, and those of others that are single frames and so cheap to keep.

        Sound is decoded without a single frame: whoever expects it may never read it.
        """
        if self._specs[expected].kind == "logmel":
            return {expected: self._specs[expected]}
        return {s: spec for s, spec in self._specs.items() if s == expected or spec.kind == "frame"}

    def _read(
        self, reader: VideoReader, shown: str, video_id: str, setting: Mapping[str, float | str]
    ) -> Prediction:
        started = time.perf_counter()
        decoded_before, flow_before = reader.decode_seconds, reader.flow_seconds

        frames: dict[str, np.ndarray] = {}

        def compute(source: str, step: int) -> Tensor:
            ready = frames.get(source)
            decoded = reader.read(step, self._specs[source]) if ready is None else ready[step]
            features: Tensor = self.backbones[source](torch.from_numpy(decoded)[None])[0]
            return features.to(self._dtype).float()

        def compute_all(source: str) -> Tensor:
            # A second pass over the video costs more than keeping the frames that a method may ask for.
            frames.update(read_steps(reader, self._frame_specs(source)))
            features: Tensor = self.backbones[source](torch.from_numpy(frames[source]))
            return features.to(self._dtype).float()

        provider = VideoProvider(
            compute,
            widths=self.description.widths,
            num_steps=reader.num_steps,
            video_key=video_key(video_id),
            components=self.description.sources,
            costs=self._costs,
            compute_all=compute_all if reader.num_steps <= MOST_STEPS_AT_ONCE else None,
            step_seconds=reader.step_seconds,
        )
        with deterministic_eval(self.method):
            outcome = self.method.run(provider, setting)
        decode_seconds = reader.decode_seconds - decoded_before
        flow_seconds = reader.flow_seconds - flow_before
        ranked = sorted(zip(self.classes, outcome.scores[0].tolist(), strict=True), key=lambda pair: -pair[1])
        calls = {name: int(count[0]) for name, count in outcome.calls.items()}
        return Prediction(
            path=shown,
            labels=tuple(ranked),
            gflops=float(self._costs.gflops(outcome.calls)[0]),
            calls=calls,
            instances=self._instances(outcome, reader.duration_seconds),
            timeline=self._timeline(outcome, reader.num_steps),
            steps=_words_of(outcome.decisions[0], reader.num_steps, self.reads),
            reads=tuple(provider.reads),
            answers=self._answers(outcome),
            step_seconds=reader.step_seconds,
            decode_seconds=decode_seconds,
            flow_seconds=flow_seconds,
            compute_seconds=max(0.0, time.perf_counter() - started - decode_seconds - flow_seconds),
            notes=(*reader.notes_for(self._specs.values()), *self._notes(outcome, setting)),
            stopped_by=None if outcome.stopped_by is None else STOPPED_BY[int(outcome.stopped_by[0])],
        )

    def _notes(self, outcome: Outcome, setting: Mapping[str, float | str]) -> tuple[str, ...]:
        """Whether a cap left nothing but the cheapest reads: the answer is then another than the method is for."""
        is_capped = outcome.stopped_by is not None and int(outcome.stopped_by[0]) == CAP
        if not is_capped or len(self.reads) < 3 or int(outcome.decisions[0].max()) > 1:
            return ()
        cheapest = self.reads[1]
        return (f"{CHEAPEST_ONLY} {cheapest}: max_gflops={float(setting['max_gflops']):g} paid for no other",)

    def _instances(
        self, outcome: Outcome, duration_seconds: float
    ) -> tuple[tuple[str, float, float, float], ...] | None:
        """Cut to the video: its only clip may be longer than it is."""
        if outcome.detections is None:
            return None
        return tuple(
            (self.classes[d.label], d.start_seconds, min(d.end_seconds, duration_seconds), d.score)
            for d in outcome.detections[0]
        )

    def _timeline(self, outcome: Outcome, num_steps: int) -> dict[str, Any] | None:
        """Of the video's best class: activations per step, of each model where it ran, and the confidence in
        appearance where a model chose; None for what a method does not have.
        """
        if outcome.detections is None:
            return None
        best, trace = int(outcome.scores[0].argmax()), outcome.trace
        decisions = outcome.decisions[0, :num_steps].tolist()

        def of(name: str, *, where: int = 0) -> list[float | None] | None:
            if name not in trace:
                return None
            values = trace[name][0, :num_steps]
            each = (values if values.ndim == 1 else values[:, best]).tolist()
            return [
                value if decision >= where else None for value, decision in zip(each, decisions, strict=True)
            ]

        return {
            "label": self.classes[best],
            "activations": of("activations"),
            "appearance": of("appearance"),
            "motion": of("motion", where=len(self.reads) - 1),
            "confidence": of("confidence"),
        }

    def _answers(self, outcome: Outcome) -> tuple[tuple[int, str, float], ...]:
        if not {"steps", "scores"} <= outcome.trace.keys():
            return ()
        walk = zip(outcome.trace["steps"][0].tolist(), outcome.trace["scores"][0], strict=True)
        return tuple(
            (step, self.classes[int(scores.argmax())], float(scores.max()))
            for step, scores in walk
            if step >= 0
        )


def _words_of(decisions: Tensor, num_steps: int, words: Sequence[str]) -> tuple[str, ...]:
    """A word per step; a method that answers early decides nothing about the steps that are left."""
    reads = [words[int(decision)] for decision in decisions[:num_steps]]
    return (*reads, *(words[0] for _ in range(num_steps - len(reads))))


def _video_id(video: VideoSource) -> str:
    if isinstance(video, bytes):
        return hashlib.sha256(video).hexdigest()
    return Path(video).stem


def knobs_of(method: str, fields: JsonObject = MappingProxyType({})) -> tuple[InferenceKnob, ...]:
    """The inference knobs of a registered method with this configuration."""
    return ConfiguredMethod.of(method, fields).knobs


if IS_COPY:
    # Nothing is imported later: the folder that this copy was loaded from may be gone by then.
    METHODS.get_all()
    BACKBONES.get_all()
