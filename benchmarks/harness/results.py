"""Results of a benchmark on disk: tables as CSV, a row per point and seed, and `about.json` with what holds for all.

A file has at most 200 kB, so that it stays easy to read and to compare in git; a longer table continues in
`NAME.2.csv`, `NAME.3.csv`, each with the header.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paretovid.trainables.errors import DataError

MAX_BYTES = 200_000
ABOUT_FILE = "about.json"
Value = str | float | int | bool
Row = Mapping[str, Value]
"""Column to value; a column that a row does not have is an empty cell."""


@dataclass(frozen=True)
class Rows:
    """Some rows of one table, in order."""

    rows: tuple[Row, ...]

    def where(self, **values: Value) -> Rows:
        """Those with these values. Columns with other than plain names: `matching`."""
        return self.matching(values)

    def matching(self, values: Mapping[str, Value]) -> Rows:
        """Those with these values."""
        return Rows(tuple(row for row in self.rows if all(row.get(k) == v for k, v in values.items())))

    def groups(self, by: Sequence[str]) -> dict[tuple[Value, ...], Rows]:
        """Rows by the values of some columns, in order of appearance."""
        found: dict[tuple[Value, ...], list[Row]] = {}
        for row in self.rows:
            found.setdefault(tuple(row[name] for name in by), []).append(row)
        return {key: Rows(tuple(each)) for key, each in found.items()}

    def numbers(self, column: str) -> list[float]:
        """A column's numbers; rows without it are left out."""
        return [float(row[column]) for row in self.rows if column in row]


@dataclass(frozen=True)
class Results:
    """Everything that a benchmark reports."""

    about: Mapping[str, Any]
    """Data set, version of the code, and what has no rows. Plain JSON."""
    tables: Mapping[str, Rows]

    def __getitem__(self, table: str) -> Rows:
        return self.tables[table]


def cell_text(value: Value) -> str:
    """A value as it stands in a file; `value_of` reads it. Floats have all their digits."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else str(value)


def value_of(text: str) -> Value:
    """What `cell_text` wrote. A text that looks like a number becomes one."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def write_results(results: Results, folder: Path) -> None:
    """Writes all tables into a folder; tables of an earlier run that are not among them are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.csv"):
        old.unlink()
    about = json.dumps(dict(results.about), indent=1, sort_keys=True, allow_nan=False)
    (folder / ABOUT_FILE).write_text(about + "\n")
    for name, table in results.tables.items():
        for part, text in enumerate(_parts(table.rows), start=1):
            (folder / (f"{name}.csv" if part == 1 else f"{name}.{part}.csv")).write_text(text)


def read_results(folder: Path) -> Results:
    """What `write_results` wrote. Raises `DataError` for a folder without results."""
    if not (folder / ABOUT_FILE).exists():
        raise DataError(f"no results in {folder}", "Measure them: python -m benchmarks NAME")
    names = sorted({path.name.split(".")[0] for path in folder.glob("*.csv")})
    about = json.loads((folder / ABOUT_FILE).read_text())
    return Results(about, {name: _read_table(folder, name) for name in names})


def _read_table(folder: Path, name: str) -> Rows:
    rows: list[Row] = []
    part, path = 1, folder / f"{name}.csv"
    while path.exists():
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                rows.append({column: value_of(text) for column, text in row.items() if text != ""})
        part += 1
        path = folder / f"{name}.{part}.csv"
    return Rows(tuple(rows))


def _parts(rows: Iterable[Row]) -> list[str]:
    """The text of each file."""
    rows = list(rows)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    header = _line(columns)
    parts = [header]
    for row in rows:
        line = _line([cell_text(row[name]) if name in row else "" for name in columns])
        if len(parts[-1].encode()) + len(line.encode()) > MAX_BYTES:
            parts.append(header)
        parts[-1] += line
    return parts


def _line(cells: Sequence[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue()
