"""The papers' cost tables, computed, as Markdown: what `benchmarks/published_tables.md` holds below its text.

    python benchmarks/published_tables.py > tables.md

Needs the extra `paper` (timm): the second column of figures measures DPN-107 too.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from paretovid.platform.cli.cost_tables import component_cells, component_entries
from paretovid.trainables.backbones.catalog import COMPONENTS
from paretovid.trainables.published.tables import PublishedRow, published_rows, summary


def table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [columns, tuple("---" for _ in columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def difference(row: PublishedRow) -> str:
    """In percent, or a dash."""
    return "-" if row.relative_error is None else f"{row.relative_error:+.2%}"


def main() -> None:
    """Prints the component table, the summaries and a table for each paper."""
    backbones = [entry for entry in component_entries(200) if "@" in entry["name"]]
    cells = [component_cells(entry) for entry in backbones if entry["name"] not in COMPONENTS]
    print("## Components\n")
    print(table(("component", "input", "measured", "stated", "difference", "where, and why"), cells))
    given, measured = published_rows(), published_rows(all_measured=True)
    print("\n## How closely\n")
    print(f"With the costs that papers state, else measured:\n\n{summary(given)}\n")
    print(f"With every cost measured, whatever a paper states:\n\n{summary(measured)}")
    pairs = list(zip(given, measured, strict=True))
    for paper, of_paper in itertools.groupby(pairs, key=lambda pair: pair[0].paper):
        print(f"\n## {paper}\n")
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
        columns = ("table", "row", "published", "computed", "difference", "all measured", "note")
        print(table(columns, rows))


if __name__ == "__main__":
    main()
