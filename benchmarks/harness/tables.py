"""Means and intervals over seeds, and the tables of the pages, as declarations."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.harness.results import Results, Row, Rows, Value


def interval(values: Iterable[float]) -> tuple[float, float, float]:
    """Mean and 95 % interval of the mean over seeds (Student's t): mean, low, high."""
    from scipy.stats import t  # comes with scikit-learn

    array = np.array(list(values))
    half = (
        float(t.ppf(0.975, len(array) - 1) * array.std(ddof=1) / np.sqrt(len(array)))
        if len(array) > 1
        else 0.0
    )
    return float(array.mean()), float(array.mean() - half), float(array.mean() + half)


def span(values: Iterable[float], percent: bool = False, digits: int = 3) -> str:
    """`mean [low, high]` for a table."""
    mean, low, high = (100 * v if percent else v for v in interval(values))
    digits = 2 if percent else digits
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def table(title: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(title)} |", "|" + "---|" * len(title)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


@dataclass(frozen=True)
class Cell:
    """What a table says of a column over the rows of a group, as a rule its seeds: mean and interval."""

    column: str
    title: str = ""
    """Default: the column's name."""
    percent: bool = False
    """In points, with two digits."""
    digits: int = 3
    only_mean: bool = False
    minus: str = ""
    """Another column of the same row, which is taken away."""
    against: tuple[str, Value] | None = None
    """A column and a value: the rows of the table with this value are taken away, seed by seed."""

    @property
    def name(self) -> str:
        return self.title or self.column

    def values(self, group: Rows, everything: Rows) -> list[float]:
        """A number per row of the group."""
        values = group.numbers(self.column)
        if self.minus:
            values = [a - b for a, b in zip(values, group.numbers(self.minus), strict=True)]
        if self.against:
            rivals = everything.matching(dict([self.against])).numbers(self.column)
            values = [a - b for a, b in zip(values, rivals, strict=True)]
        return values

    def numbers(self, group: Rows, everything: Rows) -> tuple[float, ...]:
        """Mean, low and high, in points where the cell is; nothing where no row has the column."""
        values = self.values(group, everything)
        scale = 100 if self.percent else 1
        return tuple(scale * each for each in interval(values)) if values else ()

    def text(self, group: Rows, everything: Rows) -> str:
        """The cell; empty where no row has the column."""
        values = self.values(group, everything)
        if not values:
            return ""
        if self.only_mean:
            scale, digits = (100, 2) if self.percent else (1, self.digits)
            return f"{scale * float(np.mean(values)):.{digits}f}"
        return span(values, self.percent, self.digits)


@dataclass(frozen=True)
class Shown:
    """A table that is printed: a line per group of rows."""

    title: str
    table: str
    by: tuple[str, ...]
    """Columns whose values make a group; the line begins with them."""
    cells: tuple[Cell, ...]
    where: Mapping[str, Value] = field(default_factory=dict)
    turned: bool = False
    """Groups side by side, a line per cell."""
    across: str = ""
    """A column whose values stand side by side, for tables with one cell."""

    def text(self, results: Results) -> str:
        """In Markdown; empty if the results have no such table."""
        if self.table not in results.tables:
            return ""
        everything = results[self.table].matching(self.where)
        groups = everything.groups(self.by)
        names = {key: ", ".join(map(_word, key)) for key in groups}
        if self.turned:
            lines = [
                [cell.name, *(cell.text(group, everything) for group in groups.values())]
                for cell in self.cells
            ]
            return table([self.title, *names.values()], lines)
        if self.across:
            (cell,) = self.cells
            places = list(everything.groups((self.across,)))
            lines = [
                [
                    names[key],
                    *(cell.text(group.matching({self.across: place}), everything) for (place,) in places),
                ]
                for key, group in groups.items()
            ]
            return table([self.title, *(_word(place) for (place,) in places)], lines)
        lines = [
            [names[key], *(cell.text(group, everything) for cell in self.cells)]
            for key, group in groups.items()
        ]
        return table([self.title, *(cell.name for cell in self.cells)], lines)


def _word(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e-?\d+)?")
_WITHOUT_BRACKETS = str.maketrans("()", "  ")
_REMARK = re.compile(r"\([^)]*\)")


@dataclass(frozen=True)
class PageTable:
    """A table of a page, in the page's own words, that must say what the stored results say."""

    header: str
    """How its first line begins."""
    table: str | Callable[[Results], Rows]
    """Its name, or what makes it of the others."""
    rows: Mapping[str, Mapping[str, Value]]
    """The page's name of a line to what its rows have in common. All lines of the page's table."""
    cells: tuple[Cell | tuple[Cell, ...] | None, ...]
    """Of the columns after the first; None: not of these results. Remarks in round brackets are not compared. Several
    cells are the means that one column gives, one after the other, in brackets or not."""
    elsewhere: tuple[str, ...] = ()
    """Lines that another declaration has, or that have no figures."""
    below: str = ""
    """The heading after which it is looked for, where two tables of a page begin alike."""
    named_by: int = 1
    """How many columns, from the first on, name a line."""

    def differences(self, page: str, results: Results) -> list[str]:
        """What the page says otherwise; each number is compared to the digits that the page gives."""
        lines = _lines_below(page, self.header, self.below, self.named_by)
        everything = results[self.table] if isinstance(self.table, str) else self.table(results)
        found = [f"no table begins with {self.header!r}"] if not lines else []
        found += [f"the page lacks a line {name!r}" for name in self.rows if name not in lines]
        for name, texts in lines.items():
            if name in self.elsewhere:
                continue
            if name not in self.rows:
                found.append(f"not declared: line {name!r}")
                continue
            group = everything.matching(self.rows[name])
            if not group.rows:
                found.append(f"{name}: no such rows in the results")
                continue
            for cell, text in zip(self.cells, texts, strict=True):
                if isinstance(cell, Cell):
                    found += _wrong(name, cell, text, cell.numbers(group, everything))
                elif cell is not None:
                    means = [mean for each in cell for mean in each.numbers(group, everything)[:1]]
                    found += _wrong(name, cell[0], text.translate(_WITHOUT_BRACKETS), means)
        return found

    def begins_at(self, page: str) -> int | None:
        """The number of its first line in the page, from 0; None if it is not there."""
        return _begin(page, self.header, self.below)


def side_by_side(rows: Rows, by: Sequence[str], across: str) -> Rows:
    """A row for each group, in which a column stands once for each value of `across`, as `COLUMN.VALUE`."""
    found: list[Row] = []
    for key, group in rows.groups(by).items():
        wide = dict(zip(by, key, strict=True))
        for row in group.rows:
            place = _word(row[across])
            wide |= {f"{name}.{place}": value for name, value in row.items() if name not in (*by, across)}
        found.append(wide)
    return Rows(tuple(found))


def _begin(page: str, header: str, below: str) -> int | None:
    lines = page.splitlines()
    first = lines.index(below) if below in lines else 0
    return next((i for i, line in enumerate(lines) if i >= first and line.startswith(header)), None)


def _lines_below(page: str, header: str, below: str, named_by: int) -> dict[str, list[str]]:
    """A page's table: what names each line to its other cells, without emphasis."""
    start = _begin(page, header, below)
    found: dict[str, list[str]] = {}
    before = ""
    for line in page.splitlines()[start + 2 :] if start is not None else []:
        if not line.startswith("|"):
            break
        name, *cells = (cell.strip() for cell in line.replace("**", "").strip().strip("|").split("|"))
        before = name or before
        # A line without a name is another of the one above, and is told from it by its next cell.
        named = " ".join([before, *cells[: named_by - 1]]) if name else f"{before} {cells[0]}"
        found[named] = cells[named_by - 1 :]
    return found


def _wrong(name: str, cell: Cell, text: str, expected: Sequence[float]) -> list[str]:
    numbers = _NUMBER.findall(_REMARK.sub("", text))
    if not text and not expected:
        return []
    if not numbers or not expected:
        return [f"{name}, {cell.name}: no number in {text!r}, or none in the results"]
    wrong = []
    for said, value in zip(numbers, expected, strict=False):
        digits = len(said.partition(".")[2])
        # Half a unit of the last digit, and a little for what was rounded twice.
        if abs(float(said) - value) > 0.5 * 10**-digits * 1.02:
            wrong.append(f"{name}, {cell.name}: the page says {said}, the results {value:.6g}")
    return wrong
