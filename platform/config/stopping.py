"""What early stopping can judge: checked before anything is made."""

from __future__ import annotations

import itertools

from paretovid.platform.config.load import ends, model_with_knobs
from paretovid.search_spaces.schema import LEAST_OTHERS, MethodConfig, SweepConfig
from paretovid.trainables.catalog import method_config
from paretovid.trainables.errors import UsageError
from paretovid.trainables.method import Method, TrainsInStages
from paretovid.trainables.training.config import rung_epoch

_OFF = "Or search.stopping=none."


def check_stopping(config: SweepConfig, trainings: int, epochs: int, method: type[Method]) -> None:
    """Raises `UsageError` for rungs that stop no trial, or at which a curve says nothing.

    Arguments:
        trainings: of the search.
        epochs: of one of them.
    """
    search = config.search
    if search.stopping == "none":
        return
    if trainings <= LEAST_OTHERS:
        raise UsageError(
            f"search.stopping={search.stopping} with {trainings} trials stops none: the first {LEAST_OTHERS} at a "
            "rung go on",
            f"Ask for more: search.trials={2 * LEAST_OTHERS}. {_OFF}",
        )
    begins = _last_stage(config.method, method)
    seen: dict[int, float] = {}
    for share in search.rungs:
        epoch = rung_epoch(share, epochs)
        if not 0 < epoch < epochs:
            raise UsageError(
                f"search.rungs: {share:g} of {epochs} epochs is epoch {epoch}, and must lie after the first "
                "and before the last",
                f"Give shares from {1 / epochs:.3g} to {1 - 1 / epochs:.3g}, or more training.epochs. {_OFF}",
            )
        if epoch in seen:
            raise UsageError(
                f"search.rungs: {seen[epoch]:g} and {share:g} of {epochs} epochs are both epoch {epoch}",
                f"Leave one of them out, or train for more epochs. {_OFF}",
            )
        if share <= begins:
            raise UsageError(
                f"search.rungs: {share:g} lies in a stage of the training of {method.name} that ends at {begins:g} of "
                "it; a part that decides or answers is not trained yet",
                f"Give shares above {begins:g}. {_OFF}",
            )
        seen[epoch] = share


def _last_stage(searched: MethodConfig, method: type[Method]) -> float:
    """The share of a training after which all of the method is trained, whatever the knobs that are words say."""
    if not issubclass(method, TrainsInStages):
        return 0.0
    knobs = searched.training_knobs
    values = [knob.choices or [ends(knob)[0]] for knob in knobs.values()]
    return max(
        method.last_stage(
            method_config(searched.name, model_with_knobs(searched, dict(zip(knobs, chosen, strict=True))))
        )
        for chosen in itertools.product(*values)
    )
