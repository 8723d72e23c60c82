"""The promoted model as MLflow runs it ("models from code"): copied beside the weights, imports rewritten.

Needs mlflow-skinny and the model's own requirements, nothing else of the platform.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc import PyFuncModel, PythonModel

from paretovid.trainables.config import typed_config
from paretovid.trainables.data.limits import VideoLimitsConfig
from paretovid.trainables.errors import UsageError
from paretovid.trainables.recognizer import Recognizer, VideoSource, checked_setting


def asked_params() -> Mapping[str, Any]:
    """The `params` that the caller of `PyFuncModel.predict` gave, before MLflow dropped unknown names.

    MLflow replaces a misspelt parameter by its default and only logs a warning; the caller's frame is the one
    place that still has it. Called in another way there is nothing to check: `{}`.
    """
    frame = sys._getframe()
    while (frame := frame.f_back) is not None:  # type: ignore[assignment]
        if frame.f_code is PyFuncModel.predict.__code__:
            given = frame.f_locals.get("params")
            return given if isinstance(given, Mapping) else {}
    return {}


def as_videos(model_input: Any) -> list[VideoSource]:
    """Paths or bytes from what callers of MLflow pass: one, a list, an array, a column or a table of one."""
    if isinstance(model_input, (str, bytes, Path)):
        return [model_input]
    if hasattr(model_input, "columns"):
        if len(model_input.columns) != 1:
            raise UsageError(f"{len(model_input.columns)} columns were given", "Give one, of paths.")
        model_input = model_input.iloc[:, 0]
    if hasattr(model_input, "tolist"):
        model_input = model_input.tolist()
    videos = list(model_input) if isinstance(model_input, Iterable) else [model_input]
    for video in videos:
        if not isinstance(video, (str, bytes, Path)):
            raise UsageError(f"a video cannot be {type(video).__name__}", "Give paths or bytes of files.")
    return videos


class RecognizerModel(PythonModel):
    """Videos (paths or bytes) to one mapping each: labels, scores, GFLOPs spent, steps looked at."""

    # No type hint that MLflow knows means "path or bytes"; it would warn every consumer of that.
    _skip_type_hint_validation = True

    def load_context(self, context: Any) -> None:
        """Loads the weights that lie beside this file; those of backbones on demand, if the caller says so.

        Raises `UsageError` for a limit that is none.
        """
        asked = context.model_config or {}
        limits = {name: asked[name] for name in VideoLimitsConfig.names() if name in asked}
        self.recognizer = Recognizer.load(
            Path(context.artifacts["model"]),
            on_demand=bool(asked.get("on_demand", False)),
            limits=typed_config(VideoLimitsConfig, limits, "model_config"),
        )

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """See the model's card. Raises `UsageError` for an unknown or impossible parameter."""
        recognizer = self.recognizer
        checked_setting(recognizer.knobs, asked_params(), recognizer.defaults)
        return [answer.details() for answer in recognizer.predict(as_videos(model_input), params or {})]


set_model(RecognizerModel())
