"""The dial of a model that was trained for a range of budgets: what its settings cost, as they were measured."""

from __future__ import annotations

import json
from collections.abc import Sequence

from paretovid.platform.records.trial import knob_text, objective_text
from paretovid.trainables.evaluation.results import OperatingPoint, TrialResult
from paretovid.trainables.model_description import DialPoint

BUDGET = "budget"
_CUTS = ("max_gflops", "online_k")
"""Knobs that end a run whatever the network would decide: any of them goes with any budget."""


def dial_of(trial: TrialResult) -> tuple[DialPoint, ...]:
    """The settings of a trial at which its network decides by itself, from the cheapest on validation; none of a model
    that was trained for one budget."""
    points = sorted((p for p in trial.points if _is_own(p)), key=lambda p: p.val.gflops)
    return tuple(
        DialPoint(
            params={name: value for name, value in p.inference_knobs.items() if name not in _CUTS},
            objective=p.val.objective,
            val_quality=p.val.quality,
            val_gflops=p.val.gflops,
            test_quality=p.test.quality,
            test_gflops=p.test.gflops,
        )
        for p in points
    )


def _is_own(point: OperatingPoint) -> bool:
    knobs = point.inference_knobs
    return BUDGET in knobs and not any(knobs.get(name) for name in _CUTS)


def dial_json(dial: Sequence[DialPoint]) -> str:
    """As text, for the model's metadata."""
    return json.dumps([each.to_json() for each in dial])


def dial_section(dial: Sequence[DialPoint]) -> list[str]:
    """Lines of the model's card; none without a dial."""
    if not dial:
        return []
    what = objective_text(dial[0].objective)
    return [
        "",
        "## Dial",
        "One model for a range of budgets: give these parameters to spend so much on a video, on average. Between the "
        "rows a budget costs between what its neighbours cost, as a rule; `max_gflops` bounds each video besides.",
        "",
        f"| parameters | {what}, test | GFLOPs, test | {what}, validation | GFLOPs, validation |",
        "|---|---|---|---|---|",
        *(
            f"| {', '.join(f'{name} = {knob_text(value, 6)}' for name, value in each.params.items())} "
            f"| {100 * each.test_quality:.2f} % | {each.test_gflops:.5g} "
            f"| {100 * each.val_quality:.2f} % | {each.val_gflops:.5g} |"
            for each in dial
        ),
    ]
