"""The papers' cost tables, computed: what `published_tables.md` holds below its text.

    python -m benchmarks published_tables

Nothing is trained and nothing is timed, so there is neither a seed nor a repeat: a row per component and per row of a
paper's table, which anybody gets again to the last digit. Needs the extra `paper` (timm): the second column of figures
measures DPN-107 too.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable, Mapping, Sequence

from benchmarks.harness.document import Layout
from benchmarks.harness.measurement import Measurement
from benchmarks.harness.reported import Document
from benchmarks.harness.results import Results, Value
from paretovid.platform.cli.cost_tables import component_cells, component_entries
from paretovid.trainables.backbones.catalog import COMPONENTS
from paretovid.trainables.published.tables import PublishedRow, published_rows, summary


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [columns, tuple("---" for _ in columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def known(row: Mapping[str, Value | None]) -> dict[str, Value]:
    """Without what a row does not have."""
    return {name: value for name, value in row.items() if value is not None and value != ""}


def measure(_: argparse.Namespace) -> Document:
    """Components and the rows of all tables, in full precision."""
    backbones = [entry for entry in component_entries(200) if "@" in entry["name"]]
    given, measured = published_rows(), published_rows(all_measured=True)
    return {
        "components": [known(entry) for entry in backbones if entry["name"] not in COMPONENTS],
        "rows": [
            known(
                {
                    "paper": row.paper,
                    "table": row.table,
                    "row": row.row,
                    "published": row.published,
                    "computed": row.computed,
                    "all_measured": other.computed,
                    "contradicts": row.contradicts,
                    "note": row.note,
                }
            )
            for row, other in zip(given, measured, strict=True)
        ],
    }


def of_results(results: Results, column: str) -> list[PublishedRow]:
    """The rows with what is computed taken from a column: `computed`, or `all_measured`."""
    return [
        PublishedRow(
            paper=str(row["paper"]),
            table=str(row["table"]),
            row=str(row["row"]),
            published=float(row["published"]),
            computed=float(row[column]) if column in row else None,
            contradicts=bool(row["contradicts"]),
            note=str(row.get("note", "")),
        )
        for row in results["rows"].rows
    ]


def difference(row: PublishedRow) -> str:
    """In percent, or a dash."""
    return "-" if row.relative_error is None else f"{row.relative_error:+.2%}"


def components_text(results: Results) -> str:
    """The table of backbones."""
    empty = {"gmacs": None, "published": None}
    cells = [component_cells({**empty, **row}) for row in results["components"].rows]
    columns = ("component", "input", "measured", "stated", "difference", "where, and why")
    return f"## Components\n\n{table(columns, cells)}"


def summaries_text(results: Results) -> str:
    """How many rows follow, and how closely."""
    return "\n\n".join(
        (
            "## How closely",
            "With the costs that papers state, else measured:",
            summary(of_results(results, "computed")),
            "With every cost measured, whatever a paper states:",
            summary(of_results(results, "all_measured")),
        )
    )


def papers_text(results: Results) -> str:
    """A table for each paper."""
    given, measured = (of_results(results, column) for column in ("computed", "all_measured"))
    pairs = list(zip(given, measured, strict=True))
    columns = ("table", "row", "published", "computed", "difference", "all measured", "note")
    texts = []
    for paper, of_paper in itertools.groupby(pairs, key=lambda pair: pair[0].paper):
        rows = [
            (
                row.table,
                row.row,
                f"{row.published:.6g}",
                "-" if row.computed is None else f"{row.computed:.2f}",
                difference(row),
                difference(other),
                row.note,
            )
            for row, other in of_paper
        ]
        texts.append(f"## {paper}\n\n{table(columns, rows)}")
    return "\n\n".join(texts)


MEASUREMENTS = (
    Measurement(
        name="published_tables",
        about="the papers' cost tables, computed from what they state and from measured components",
        measure=measure,
        layouts={"components": Layout("components.*", ("",)), "rows": Layout("rows.*", ("",))},
        shown=(components_text, summaries_text, papers_text),
        is_verbatim=True,
    ),
)
