"""From the nested document that an analysis returns to tables. Every figure of it lands in exactly one place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.harness.results import Results, Row, Rows, Value, value_of

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Layout:
    """Where a table's rows lie in a document, and what the ways there are called."""

    path: str
    """Names joined by dots; `*` stands for every entry of a list or mapping. What lies there is a row (a mapping), or
    one value, which becomes the column `value`. A mapping in a row becomes columns `name.part`."""
    keys: tuple[str, ...] = ()
    """A column per `*`: its index or name. Empty: no column. `=name`: the entry's own field of that name."""
    unzip: str = ""
    """Lists in the row are taken apart: a row per place, which this column counts; other values are repeated."""


def results_of(document: Mapping[str, Any], layouts: Mapping[str, Layout], about: Sequence[str]) -> Results:
    """The tables of a document.

    Arguments:
        layouts: table to where its rows lie. A table whose place the document lacks is left out.
        about: names of the document that belong to all tables.

    Raises `ValueError` that names what no table holds.
    """
    paths = [layout.path.split(".") for layout in layouts.values()]
    used: set[Path] = {
        where for name in about if name in document for where, _ in _leaves(document[name], (name,))
    }
    tables: dict[str, Rows] = {}
    for table, layout in layouts.items():
        rows: list[Row] = []
        for where, found, keys in _places(document, layout.path.split("."), list(layout.keys), (), {}, used):
            deeper = [path for path in paths if len(path) > len(where) and _fits(where, path)]
            rows += _rows(where, found, keys, layout.unzip, deeper, used)
        if rows:
            tables[table] = Rows(tuple(rows))
    left = [".".join(map(str, where)) for where, _ in _leaves(document, ()) if where not in used]
    if left:
        raise ValueError(f"no table holds {', '.join(left[:5])} ({len(left)} values in all)")
    return Results({name: document[name] for name in about if name in document}, tables)


def _leaves(value: Any, where: Path) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from _leaves(each, (*where, name))
    elif isinstance(value, (list, tuple)):
        for index, each in enumerate(value):
            yield from _leaves(each, (*where, index))
    else:
        yield where, value


def _fits(where: Path, path: Sequence[str]) -> bool:
    """Whether a path goes through this place."""
    return len(where) <= len(path) and all(
        step in ("*", str(own)) for own, step in zip(where, path[: len(where)], strict=True)
    )


def _places(
    value: Any, path: Sequence[str], keys: Sequence[str], where: Path, columns: Row, used: set[Path]
) -> Iterator[tuple[Path, Any, Row]]:
    """Everything at a path, with the columns of the way there."""
    if not path:
        yield where, value, columns
        return
    step, *rest = path
    if step != "*":
        if isinstance(value, Mapping) and step in value:
            yield from _places(value[step], rest, keys, (*where, step), columns, used)
        return
    entries = value.items() if isinstance(value, Mapping) else enumerate(value)
    for key, each in entries:
        own: dict[str, Value] = {}
        if keys[0].startswith("="):
            field = keys[0][1:]
            own[field] = each[field]
            used.add((*where, key, field))
        elif keys[0]:
            own[keys[0]] = value_of(str(key))
        yield from _places(each, rest, keys[1:], (*where, key), {**columns, **own}, used)


def _rows(
    where: Path, found: Any, keys: Row, unzip: str, deeper: Sequence[Sequence[str]], used: set[Path]
) -> list[Row]:
    """The rows that one place gives."""
    row: dict[str, Value] = dict(keys)
    lists: dict[str, Sequence[Value]] = {}
    for name, each, place in _fields(found, where):
        if any(_fits(place, path) for path in deeper):
            continue
        if isinstance(each, (list, tuple)):
            if not unzip:
                continue  # reported as left over
            lists[name] = each
            used.update((*place, index) for index in range(len(each)))
        else:
            row[name] = each
            used.add(place)
    if not lists:
        return [row]
    zipped = zip(*lists.values(), strict=True)
    return [row | {unzip: place, **dict(zip(lists, each, strict=True))} for place, each in enumerate(zipped)]


def _fields(found: Any, where: Path) -> Iterator[tuple[str, Any, Path]]:
    """Columns of what lies at a place: name, value, and its own place."""
    if not isinstance(found, Mapping):
        yield "value", found, where
        return
    for name, each in found.items():
        if isinstance(each, Mapping):
            for part, value, place in _fields(each, (*where, name)):
                yield f"{name}.{part}", value, place
        else:
            yield name, each, (*where, name)
