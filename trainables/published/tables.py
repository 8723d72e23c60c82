"""The papers' cost tables, computed: usage figures times component costs, by the code that costs everything else.

`tables.toml` holds the figures that the papers state, table by table. A row is computed from those and
from component costs: the paper's own where it states them with three digits or more, else measured
(`backbones/paper.py`). What methods add comes from the methods themselves, built at the paper's sizes and costed
under `accounting=paper`. The published figure of a row is only ever compared with.
"""

from __future__ import annotations

import functools
import itertools
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from paretovid.trainables.backbones.catalog import component, measure_component
from paretovid.trainables.catalog import build_method
from paretovid.trainables.cost import ComponentCost, CostTable, measure_macs
from paretovid.trainables.documents import JsonValue
from paretovid.trainables.errors import DataError
from paretovid.trainables.method import Method

TABLES_FILE = Path(__file__).with_suffix(".toml")
CLOSE, CLOSEST = 0.01, 0.005
"""The differences that derivable rows should stay within: all of them, and nine of ten."""

_NUM_CLASSES = 200  # ActivityNet's; a head costs a ten-thousandth of a row
Usage = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedRow:
    """A cost in a paper's table, and what it comes to here. In GFLOPs as that table counts them."""

    paper: str
    table: str
    row: str
    published: float
    computed: float | None
    """None: it does not follow from what the paper states; the note says why."""
    contradicts: bool
    """The paper's own figures of this row do not agree with each other."""
    note: str

    @property
    def relative_error(self) -> float | None:
        """(computed - published) / published."""
        return None if self.computed is None else (self.computed - self.published) / self.published

    def to_json(self) -> dict[str, JsonValue]:
        """A row as `flops --published --json` prints it."""
        return {
            "paper": self.paper,
            "table": self.table,
            "row": self.row,
            "published": self.published,
            "computed": self.computed,
            "relative_error": self.relative_error,
            "note": self.note,
        }


def published_rows(
    tables: Mapping[str, Any] | None = None, *, all_measured: bool = False
) -> list[PublishedRow]:
    """Every cost row of the five papers' tables.

    Arguments:
        tables: contents of `tables.toml`; None: of the file.
        all_measured: with measured component costs even where a paper states its own.

    Raises `DataError` for a table that names what is not there.
    """
    data = read_tables() if tables is None else tables
    rows = []
    for table in data["tables"]:
        paper = data["papers"][table["paper"]]
        costs = _Costs(paper, all_measured=all_measured)
        common = {key: value for key, value in table.items() if key not in ("paper", "table", "rows")}
        for row in table["rows"]:
            rows.append(_row(paper["title"], table["table"], {**common, **row}, costs))
    return rows


def read_tables() -> dict[str, Any]:
    """Contents of `tables.toml`."""
    return tomllib.loads(TABLES_FILE.read_text(encoding="utf-8"))


def _row(paper: str, table: str, usage: Usage, costs: _Costs) -> PublishedRow:
    computed = None
    if "not_derivable" not in usage:
        system = usage.get("system")
        if system not in _SYSTEMS:
            raise DataError(
                f"{paper}, {table}, {usage['row']}: unknown system {system!r}",
                f"Known: {', '.join(_SYSTEMS)}.",
            )
        computed = _SYSTEMS[system](usage, costs)
    notes = [f"not derivable: {usage['not_derivable']}"] if "not_derivable" in usage else []
    notes += [f"the paper contradicts itself: {usage['contradicts']}"] if "contradicts" in usage else []
    notes += [usage["note"]] if "note" in usage else []
    return PublishedRow(
        paper=paper,
        table=table,
        row=usage["row"],
        published=float(usage["published"]),
        computed=computed,
        contradicts="contradicts" in usage,
        note="; ".join(notes),
    )


class _Costs:
    """What one call of a component costs in a paper's tables."""

    def __init__(self, paper: Mapping[str, Any], *, all_measured: bool) -> None:
        self._given: Mapping[str, float] = paper["given"]
        self._classifiers: Mapping[str, int] = paper.get("classifiers", {})
        self._title = paper["title"]
        self._all_measured = all_measured

    def __getitem__(self, name: str) -> ComponentCost:
        # Parts that are given but no component have no other cost.
        is_part = "@" not in name
        if name in self._given and (is_part or not self._all_measured):
            macs = round(self._given[name] * 1e9)
            return ComponentCost(macs=macs, input="-", provenance=f"given by {self._title}")
        if is_part:
            raise DataError(f"{self._title} states no cost of {name!r}", f"Known: {', '.join(self._given)}.")
        classes, spec = self._classifiers.get(name, 0), component(name)
        measured = measure_component(name, classes) if spec.classifies else measure_component(name)
        classifier = 0 if spec.classifies else spec.feature_width * classes
        return ComponentCost(macs=measured.macs + classifier, input=measured.input)

    def table(self, names: Sequence[str], own: Mapping[str, ComponentCost] | None = None) -> CostTable:
        """Costs of these components, and of what a method adds."""
        return CostTable({**{name: self[name] for name in names}, **(own or {})})


def _gflops(table: CostTable, calls: Mapping[str, float]) -> float:
    """Of one video, with mean calls."""
    return float(table.gflops({name: torch.tensor([float(n)]).double() for name, n in calls.items()})[0])


def _calls(usage: Usage, costs: _Costs) -> float:
    return _gflops(costs.table(list(usage["calls"])), usage["calls"])


def _lstm(usage: Usage, costs: _Costs) -> float:
    names = usage["components"]
    widths = [component(name).feature_width for name in names]
    step = _lstm_step(sum(usage.get("inputs", widths)), usage["hidden"])
    table = costs.table(names, {"lstm.rnn": step})
    return _gflops(table, dict.fromkeys([*names, "lstm.rnn"], float(usage["frames"])))


@functools.cache
def _lstm_step(width: int, hidden: int) -> ComponentCost:
    with torch.device("meta"):
        macs = measure_macs(nn.LSTMCell(width, hidden), torch.zeros(1, width))
    return ComponentCost(macs=macs, input=f"{width} values, {hidden} units")


def _lite_eval(usage: Usage, costs: _Costs) -> float:
    names = {"coarse": usage["coarse"], "fine": usage["fine"]}
    (coarse_projection, fine_projection), (coarse_hidden, fine_hidden) = usage["projections"], usage["hidden"]
    network = {
        "coarse_projection": coarse_projection,
        "fine_projection": fine_projection,
        "coarse_hidden": coarse_hidden,
        "fine_hidden": fine_hidden,
    }
    own = _method_costs("lite_eval", {"network": network}, names, costs)
    steps, frames = usage["steps"], usage["frames"]
    calls = {
        names["coarse"]: steps,
        names["fine"]: frames,
        "lite_eval.coarse_rnn": steps,
        "lite_eval.gate": steps,
        "lite_eval.fine_rnn": frames,
        "lite_eval.head": 1,
    }
    return _gflops(costs.table(list(names.values()), own), calls)


def _ada_frame(usage: Usage, costs: _Costs) -> float:
    names = {"coarse": usage["coarse"], "fine": usage["fine"]}
    entries, frames = usage["memory_frames"], usage["frames"]
    agent = {"memory": {"kind": "visual", "frames": entries, "projection": 0}}
    own = _method_costs("ada_frame", {"agent": agent}, names, costs)
    # Under accounting=paper, a step pays for the whole memory again.
    calls = dict.fromkeys(own, 0.0) | {
        names["coarse"]: entries,
        names["fine"]: frames,
        "ada_frame.step": frames,
        "ada_frame.memory_reuse": entries * (frames - 1),
    }
    return _gflops(costs.table(list(names.values()), own), calls)


def _hcms(usage: Usage, costs: _Costs) -> float:
    sources = [f"level_{level}" for level in range(len(usage["components"]))]
    names = dict(zip(sources, usage["components"], strict=True))
    hierarchy = {"projections": usage["projections"], "hidden": usage["hidden"]}
    skips = {f"skip_{level}": skip for level, skip in enumerate(usage["skipped"], start=1)}
    own = _method_costs("hcms", {"sources": sources, "network": hierarchy, **skips}, names, costs)
    steps = usage["steps"]
    runs = dict(zip(sources, (steps, *(steps * (1 - skip) for skip in usage["skipped"])), strict=True))
    calls = {names[source]: count for source, count in runs.items()}
    calls |= {f"hcms.{source}_rnn": count for source, count in runs.items()}
    # A gate is asked wherever the level below it ran.
    calls |= {f"hcms.{above}_gate": runs[below] for below, above in itertools.pairwise(sources)}
    return _gflops(costs.table(list(names.values()), own), {**calls, "hcms.head": 1})


_SYSTEMS: dict[str, Callable[[Usage, _Costs], float]] = {
    "calls": _calls,
    "lstm": _lstm,
    "lite_eval": _lite_eval,
    "ada_frame": _ada_frame,
    "hcms": _hcms,
}


def _method_costs(
    name: str, fields: Mapping[str, Any], components: Mapping[str, str], costs: _Costs
) -> dict[str, ComponentCost]:
    """What a method adds to its backbones under `accounting=paper`. `components`: by source."""
    widths = {source: component(each).feature_width for source, each in components.items()}
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        method: Method = build_method(
            name, fields, widths=widths, num_classes=_NUM_CLASSES, multi_label=False
        )
        return method.paper_component_costs({source: costs[each] for source, each in components.items()})


def summary(rows: Sequence[PublishedRow]) -> str:
    """How many rows follow, and how closely."""
    errors = {row: row.relative_error for row in rows if row.relative_error is not None}
    judged = [abs(error) for row, error in errors.items() if not row.contradicts]
    lines = [
        f"{len(rows)} rows: {len(judged)} derivable, {len(errors) - len(judged)} whose figures contradict each other, "
        f"{len(rows) - len(errors)} not derivable.",
        f"Of the derivable rows {_share(judged, CLOSE)} are within {CLOSE:.1%} and {_share(judged, CLOSEST)} within "
        f"{CLOSEST:.1%}; the largest difference is {max(judged, default=0):.2%}.",
    ]
    return "\n".join(lines)


def _share(errors: Sequence[float], bound: float) -> str:
    return f"{sum(error <= bound for error in errors)} of {len(errors)}"
