"""What a model read in each video, drawn: a storyboard, or a timeline of instances."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from paretovid.platform.registry.localization_plot import draw_timeline
from paretovid.platform.registry.prediction import Answer
from paretovid.platform.registry.storyboard import draw_storyboard
from paretovid.trainables.errors import UsageError


def draw_answers(answers: Sequence[Answer], folder: Path) -> None:
    """A picture per video that could be read, numbered as the answers are.

    Arguments:
        answers: of `Predictor.predict`.
        folder: made if it is not there.

    Raises `UsageError` for answers of a version that does not say in which order it reads.
    """
    if any("looks" not in answer for answer in answers):
        raise UsageError(
            "this version of the model does not say in which order it reads",
            "Promote its point again to draw it.",
        )
    for place, answer in enumerate(answers):
        if not answer["error"]:
            draw = draw_timeline if "timeline" in answer else draw_storyboard
            draw(answer["path"], answer, folder / f"{place:03d}-{Path(answer['path']).stem}.png")
