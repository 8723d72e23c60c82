"""`paretovid predict`: a registered model, or a folder of one, on videos.

MLflow replaces a misspelt parameter by its default and warns, and lets NaN through; here parameters are
checked against the model's signature before anything runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, final

from paretovid.platform.storage.home import Home
from paretovid.platform.tracking.store import has_registry, open_registry, quiet_mlflow
from paretovid.trainables.config import typed_config
from paretovid.trainables.data.limits import VideoLimitsConfig
from paretovid.trainables.documents import JsonObject
from paretovid.trainables.errors import DataError, ParetovidError, UsageError
from paretovid.trainables.layers.caps import no_cap_error
from paretovid.trainables.recognizer import CHEAPEST_ONLY
from paretovid.trainables.redaction.texts import redacted
from paretovid.trainables.redaction.urls import recorded_url

KEYS = ("path", "labels", "instances", "gflops", "calls", "steps", "stopped_by", "notes", "error")
"""Of a video's entry in `predict --json`; `instances` only of a model of localization, `stopped_by` only of a model
that was promoted since there is one."""

Answer = Mapping[str, Any]
"""What a model says of one video, as its card describes it."""


@final
class Predictor:
    """A loaded model with checked parameters.

    Arguments:
        home: whose registry is asked; unused for a folder.
        model: `models:/NAME@ALIAS`, `models:/NAME/VERSION` or a folder.
        on_demand: read a backbone's weights when a video first needs it.
        limits: names of `VideoLimitsConfig` to values; those left out are as when the model was promoted.

    Raises `UsageError` for on_demand or limits of a version that was promoted before there was such a choice.
    """

    def __init__(
        self,
        home: Home,
        model: str,
        *,
        on_demand: bool = False,
        limits: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        quiet_mlflow()
        import mlflow

        self.model = model
        typed_config(VideoLimitsConfig, limits, "limits")
        wanted = {**limits, **({"on_demand": True} if on_demand else {})}
        self._loaded = mlflow.pyfunc.load_model(_resolved(home, model), model_config=wanted or None)
        taken = self._loaded.model_config or {}
        if ignored := sorted(name for name in limits if name not in taken):
            raise UsageError(
                f"{model} knows no {', '.join(ignored)}: it was promoted before there was that choice",
                "Promote its point again, or leave them out.",
            )
        if on_demand and not taken.get("on_demand"):
            raise UsageError(
                f"{model} cannot load backbones on demand: it was promoted before there was that choice",
                "Promote its point again, or leave --on-demand out.",
            )
        schema = self._loaded.metadata.get_params_schema()
        self.params: dict[str, float | str] = (
            {} if schema is None else {p.name: p.default for p in schema.params}
        )

    @property
    def dial(self) -> list[JsonObject]:
        """What settings of the model cost, the cheapest first, as it was measured: `params` for `predict`, and
        `quality` and mean `gflops` on `val` and `test`; none of a model that was trained for one budget."""
        about = (self._loaded.metadata.metadata or {}).get("paretovid") or {}
        found: list[JsonObject] = json.loads(about.get("dial", "[]"))
        return found

    def predict(self, videos: Sequence[str | Path | bytes], **params: float | str) -> list[Answer]:
        """One mapping per video, as the model's card says.

        Raises `UnknownNameError` for a parameter that the model has not, `UsageError` for a value that is
        not a finite number in its range, or none of its words, and for a cap that the model's method cannot have.
        """
        checked = self._checked(params)
        try:
            answers: list[Answer] = self._loaded.predict(list(videos), params=checked)
        except Exception as error:
            raise _as_ours(error) from error
        return answers

    def _checked(self, params: Mapping[str, Any]) -> dict[str, float | str]:
        for name, value in params.items():
            if name not in self.params:
                about = (self._loaded.metadata.metadata or {}).get("paretovid") or {}
                raise no_cap_error(name, about.get("no_cap"), self.params)
            if isinstance(self.params[name], str):  # which words there are, the model's own code knows
                if not isinstance(value, str):
                    raise UsageError(
                        f"{name} cannot be {value!r}", f"Give a word, such as {self.params[name]}."
                    )
            elif isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise UsageError(f"{name} cannot be {value!r}", "Give a finite number.")
        return {name: value if isinstance(value, str) else float(value) for name, value in params.items()}


def _as_ours(error: Exception) -> Exception:
    """The model's code raises its own copies of our errors; they carry the same message and hint."""
    if hasattr(error, "message") and hasattr(error, "hint") and hasattr(error, "exit_status"):
        kind = UsageError if error.exit_status == 2 else ParetovidError
        return kind(error.message, error.hint)
    return error


def _resolved(home: Home, model: str) -> str:
    """What MLflow can load. Raises `UsageError` that lists what there is."""
    if not model.startswith("models:/"):
        if (Path(model) / "MLmodel").is_file():
            return model
        raise UsageError(
            f"{model!r} is no model",
            "Give models:/NAME@ALIAS, models:/NAME/VERSION, or a model's folder (it has an MLmodel).",
        )
    from mlflow.exceptions import MlflowException

    if not has_registry(home):
        raise _no_model(model, ())
    store = open_registry(home)
    client = store.client
    name, at, alias = model.removeprefix("models:/").partition("@")
    name, _, version = (name, "", "") if at else name.rpartition("/")
    try:
        found = (
            client.get_model_version_by_alias(name, alias) if at else client.get_model_version(name, version)
        )
    except MlflowException as error:
        known = sorted(f"models:/{m.name}@{a}" for m in client.search_registered_models() for a in m.aliases)
        raise _no_model(model, known) from error
    if store.places is None or not store.is_moved:
        return model
    location = str(client.get_model_version_download_uri(name, found.version))
    here = store.places.path_of(location)
    return str(here) if here is not None else location


def _no_model(model: str, known: Sequence[str]) -> UsageError:
    return UsageError(
        f"there is no {model}",
        f"Known: {', '.join(known) or '(none)'}. `paretovid models` lists versions; `paretovid promote` registers one.",
    )


def answers_of(
    home: Home,
    model: str,
    videos: Sequence[str | Path],
    *,
    max_gflops: float | None = None,
    budget: float | None = None,
    params: Mapping[str, float | str] | None = None,
    on_demand: bool = False,
    limits: Mapping[str, float] = MappingProxyType({}),
) -> list[Answer]:
    """All that the model says of each video, what it read among it.

    Arguments:
        budget: of a model that was trained for several.
        params: inference knobs by name; those left out are as promoted.
        on_demand: read a backbone's weights when a video first needs it.
        limits: what a video may ask for, as `Predictor` takes them.

    Raises `UsageError` for a model or parameter that does not exist, `DataError` without videos.
    """
    if not videos:
        raise DataError("no video was given", "Name at least one file.")
    named = {"max_gflops": max_gflops, "budget": budget}
    given = {**(params or {}), **{name: value for name, value in named.items() if value is not None}}
    predictor = Predictor(home, model, on_demand=on_demand, limits=limits)
    return predictor.predict([str(video) for video in videos], **given)


def document_of(model: str, answers: Sequence[Answer]) -> dict[str, Any]:
    """The document that `predict --json` prints, of a model's answers."""
    videos = [_without_secrets({key: answer[key] for key in KEYS if key in answer}) for answer in answers]
    warnings = [
        {"file": recorded_url(str(answer["path"])), "reason": note}
        for answer in answers
        for note in answer.get("notes", ())
    ]
    return {"model": model, "videos": videos, "notes": _notes(answers), "warnings": warnings}


def _without_secrets(video: Mapping[str, object]) -> dict[str, object]:
    """What is said of a video that was named by a URL; the code of a model may be of an earlier version."""
    shown = {"path": recorded_url(str(video["path"]))} if "path" in video else {}
    error = {"error": redacted(str(video["error"]))} if video.get("error") else {}
    return {**video, **shown, **error}


def predict(home: Home, model: str, videos: Sequence[str | Path], **given: Any) -> dict[str, Any]:
    """`document_of` what `answers_of` gives; it says what can be given, and what is raised."""
    return document_of(model, answers_of(home, model, videos, **given))


def _notes(answers: Sequence[Answer]) -> list[str]:
    """What holds of all videos together: how many of them a cap left the cheapest reads only."""
    notes = [note for answer in answers for note in answer.get("notes", ()) if note.startswith(CHEAPEST_ONLY)]
    if not notes:
        return []
    answered = sum(not answer["error"] for answer in answers)
    source = notes[0].removeprefix(CHEAPEST_ONLY).split(":")[0].strip()
    return [
        f"the cap pays for no closer read: {len(notes)} of {answered} videos answered from {source} reads only; "
        "raise it to use what the model was chosen for"
    ]
