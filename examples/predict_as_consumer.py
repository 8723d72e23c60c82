"""Predicts with a promoted model, as somebody who has neither this package nor Ray, Optuna or Hydra.

    MLFLOW_TRACKING_URI=sqlite:////ABSOLUTE/PATH/paretovid-home/mlflow.db \\
        python examples/predict_as_consumer.py models:/digits@champion VIDEO.mp4 [--max-gflops 0.03]

Needs MLflow and what the version asks for (`mlflow.pyfunc.get_model_dependencies`). The version brings its own code.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

import mlflow


def predict(model: str, videos: Sequence[str], max_gflops: float | None = None) -> list[dict[str, Any]]:
    """An answer per video: labels with scores, GFLOPs spent, steps looked at, why reading ended.

    Arguments:
        model: where MLflow finds it (`models:/NAME@ALIAS`), or a folder.
        max_gflops: the most that one video may cost; default: as promoted.
    """
    loaded = mlflow.pyfunc.load_model(model)
    params = {} if max_gflops is None else {"max_gflops": max_gflops}
    return list(loaded.predict(list(videos), params=params))


def line_of(video: str, answer: Mapping[str, Any]) -> dict[str, Any]:
    """The best label of a video and what it cost; of one that could not be read, which has no labels, the reason."""
    if answer["error"] is not None:
        return {"video": video, "error": answer["error"]}
    return {"video": video, "best": answer["labels"][0], "gflops": answer["gflops"]}


def main(words: Sequence[str] | None = None) -> None:
    """Prints a JSON line per video."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("videos", nargs="+")
    parser.add_argument("--max-gflops", type=float)
    arguments = parser.parse_args(words)
    for video, answer in zip(
        arguments.videos, predict(arguments.model, arguments.videos, arguments.max_gflops), strict=True
    ):
        print(json.dumps(line_of(video, answer)))


if __name__ == "__main__":
    main()
