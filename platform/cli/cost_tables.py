"""What `paretovid flops` shows: costs of components, and the papers' cost tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paretovid.trainables.backbones.catalog import all_components, component, family, measure_component
from paretovid.trainables.backbones.spec import describe_input
from paretovid.trainables.catalog import default_component_costs
from paretovid.trainables.cost import ComponentCost
from paretovid.trainables.errors import UsageError
from paretovid.trainables.published.tables import published_rows, summary

Entry = dict[str, Any]


def component_entries(num_classes: int) -> list[Entry]:
    """Every backbone, and what methods add to the small family with heads for `num_classes`, as plain data.

    A backbone of a library that is not installed has no `gmacs`; its `source` says what to install.
    """
    entries = [_backbone_entry(name, num_classes) for name in all_components()]
    sources = {**family("small"), **family("localization")}
    widths = {source: component(name).feature_width for source, name in sources.items()}
    widths |= dict.fromkeys(family("x3d_pool"), num_classes)
    return entries + [
        _entry(name, cost) for name, cost in default_component_costs(widths, num_classes).items()
    ]


def _backbone_entry(name: str, num_classes: int) -> Entry:
    try:
        return _entry(name, measure_component(name, num_classes))
    except UsageError as error:
        spec = component(name)
        return {
            "name": name,
            "input": describe_input(spec.input),
            "gmacs": None,
            "published": spec.published_gmacs,
            "source": f"not measured: {error.message}; {error.hint}",
        }


def _entry(name: str, cost: ComponentCost) -> Entry:
    return {
        "name": name,
        "input": cost.input,
        "gmacs": cost.gmacs,
        "published": cost.published_gmacs,
        "source": cost.published_source or cost.provenance,
    }


def component_cells(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Name, input, measured, published, difference and source, for people."""
    measured, published = entry["gmacs"], entry["published"]
    return (
        entry["name"],
        entry["input"],
        "-" if measured is None else f"{measured:.6f}",
        "-" if published is None else f"{published:.4g}",
        "-" if measured is None or published is None else f"{measured / published - 1:+.1%}",
        entry["source"],
    )


def published_entries() -> tuple[list[Entry], str]:
    """Every cost row of the papers' tables as plain data, and how closely they are met."""
    rows = published_rows()
    return [row.to_json() for row in rows], summary(rows)


def published_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Paper, table, row, published, computed, difference and note, for people."""
    computed, error = row["computed"], row["relative_error"]
    return (
        row["paper"],
        row["table"],
        row["row"],
        f"{row['published']:.6g}",
        "-" if computed is None else f"{computed:.2f}",
        "-" if error is None else f"{error:+.2%}",
        row["note"],
    )
