"""What a search spends its epochs on (`search.plan`). A search of so many trials costs at most what that many trainings
at the method's own number of epochs cost, whatever the plan.

    knobs   trainings of the method's own length; the study searches its training knobs.
    long    a quarter as many, four times as long; the settings that are tried first are the published ones, as the
            anchors are the ends of the ranges.
    wide    the study searches hyperparameters beside the training knobs, a training's length among them
            (`search.hyperparameters`, and `method.hyperparameters` of a method's file), until the epochs are spent.
"""

from __future__ import annotations

from paretovid.trainables.errors import UsageError

PLANS = ("knobs", "long", "wide")
DEFAULT_PLAN = "knobs"
UNNAMED_PLAN = "knobs"
"""Of sweeps whose record names none: there was no other. Stays when the default changes."""
LONGER = 4
"""Times the method's own epochs that a training of the plan `long` takes."""


def trainings_of(plan: str, trials: int) -> int:
    """Trainings of the method that a search of so many trials makes; of `wide` this is no more than a guess, as their
    lengths differ.

    Raises `UsageError` if they are too few for the plan.
    """
    if plan != "long":
        return trials
    if trials < LONGER:
        raise UsageError(
            f"search.plan=long makes one training of {LONGER} trials, and search.trials is {trials}",
            f"Give search.trials={LONGER} or more.",
        )
    return trials // LONGER
