"""Where the operating points of a network lie that was trained for several budgets."""

from __future__ import annotations

from collections.abc import Sequence

from paretovid.trainables.layers.conditioned.budget import BUDGET, Budgets
from paretovid.trainables.outcome import Line, Setting

_BUDGETS = 129
"""Of a line. Few of them are measured."""


def budget_probes(default: Setting, budgets: Budgets | None) -> list[Setting]:
    """The default setting, and that at either end of the budgets."""
    if budgets is None:
        return [default]
    return [default, *({**default, BUDGET: budget} for budget in (budgets.low, budgets.high))]


def budget_lines(lines: Sequence[Line], budgets: Budgets | None) -> list[Line]:
    """Lines of gate offsets as one through the whole range: from where those of the first close all gates at the lowest
    budget, by way of all budgets without offset, to where they open all at the highest. Offsets of one gate alone are
    left out: a network that was trained for each cost is better there than one that is pushed to it.

    Arguments:
        lines: of offsets at the default budget, from closed to open; without settings where logits are constant.
    """
    if budgets is None or not lines or len(lines[0].settings) < 2:
        return list(lines)
    first = lines[0]
    offsets = [{k: v for k, v in setting.items() if k != BUDGET} for setting in first.settings]
    names = first.name.split(", ")
    below = [each for each in offsets if all(float(each[name]) < 0 for name in names)]
    above = [each for each in offsets if all(float(each[name]) > 0 for name in names)]
    plain = {**offsets[0], **dict.fromkeys(names, 0.0)}
    path: list[Setting] = [
        *({BUDGET: budgets.low, **each} for each in below),
        *({BUDGET: budget, **plain} for budget in budgets.spread(_BUDGETS)),
        *({BUDGET: budgets.high, **each} for each in above),
    ]
    return [Line(name=f"{BUDGET}, {first.name}", settings=tuple(path))]
