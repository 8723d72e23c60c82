"""Reading annotation files: text, tables and class lists, with errors that name file and line."""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import json
import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paretovid.trainables.data.regular_files import what_else
from paretovid.trainables.errors import DataError, UnavailableDataError, UsageError

_NUMBERED = re.compile(r"(\d+)\s*[,;\s]\s*(.*\S)")
_CLEARLY_NUMBERED = re.compile(r"(\d+)\s*[,;\t]\s*(.*\S)")
_NAMES_SHOWN = 12
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}


def composed(name: str) -> str:
    """A name to compare: an accented letter may be one character (NFC) or two (NFD, as macOS writes file names)."""
    return unicodedata.normalize("NFC", name)


class UnexpectedFileError(DataError):
    """A file that is not what its reader reads. It may be of another format: who knows them all says so.

    Arguments:
        path: the file; None where the error has travelled between processes.
    """

    def __init__(self, message: str, hint: str = "", path: Path | None = None) -> None:
        super().__init__(message, hint)
        self.path = path


class UnexpectedFolderError(UsageError):
    """The same of a folder that lacks what its reader looks for in it."""

    def __init__(self, message: str, hint: str = "", path: Path | None = None) -> None:
        super().__init__(message, hint)
        self.path = path


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassList:
    """The classes of a set, in the order of their numbers.

    Arguments:
        source: the file (and key) that they are from, for messages.
        ids: the number that the file gives each class, where it gives one; else empty.
    """

    names: tuple[str, ...]
    source: str
    ids: tuple[int, ...] = ()
    _numbers: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        twice = [name for name, count in Counter(map(composed, self.names)).items() if count > 1]
        if twice:
            raise DataError(f"{self.source} names the class {twice[0]!r} twice", "Class names must differ.")
        if len(set(self.ids)) < len(self.ids):
            (id_, _), *_ = Counter(self.ids).most_common(1)
            raise DataError(
                f"{self.source} gives two classes the number {id_}", "Each number must be there once."
            )
        if len(self.names) < 2:
            raise DataError(
                f"{self.source} lists {len(self.names)} class: {', '.join(self.names)[:60] or '(none)'}",
                "Recognition needs two classes or more, one a line.",
            )
        object.__setattr__(
            self, "_numbers", {composed(name): number for number, name in enumerate(self.names)}
        )

    def number(self, name: str, where: str) -> int:
        """The number of a class. Raises `DataError` that names both files."""
        number = self._numbers.get(composed(name))
        if number is None:
            raise DataError(f"{where}: the label {name!r} is not in {self.source}", self._hint(name))
        return number

    def number_of_id(self, text: str, where: str, *, first: int = 0) -> int:
        """The number of a class that an annotation names by the list's own number, or by its place from `first`."""
        ids = self.ids or tuple(range(first, first + len(self.names)))
        if not re.fullmatch(r"\d+", text) or int(text) not in ids:
            raise DataError(
                f"{where}: the label {text!r} is not in {self.source}",
                f"Its {len(ids)} classes have the numbers {min(ids)} to {max(ids)}. {_OTHER_LIST}",
            )
        return ids.index(int(text))

    def _hint(self, name: str) -> str:
        close = difflib.get_close_matches(name, self.names, n=1)
        shown = ", ".join(self.names[:_NAMES_SHOWN]) + (", ..." if len(self.names) > _NAMES_SHOWN else "")
        meant = f"The closest is {close[0]!r}. " if close else ""
        return f"{meant}Allowed are its {len(self.names)} classes: {shown}. {_OTHER_LIST}"


_OTHER_LIST = "Repair the line, or name the list that belongs to these annotations: data.classes=FILE."


def read_text(path: Path) -> str:
    """A text file in UTF-8, with or without a byte order mark; any line ends.

    Raises `DataError` that names the line of the first byte that is not UTF-8.
    """
    try:
        if other := what_else(path):
            raise DataError(f"{path} is {other}, not a file", "Name a text file; `cp` makes one of a pipe.")
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}", "Check the path and its permissions."
        ) from error
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{path}:1: the text is UTF-16", "Convert it: iconv -f UTF-16 -t UTF-8 FILE.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}:{line}: byte 0x{data[error.start]:02x} is not UTF-8",
            "Convert the file, for example: iconv -f ISO-8859-1 -t UTF-8 FILE.",
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(
            f"{path}:{line}: a zero byte: this is no text file", "Give the annotation file itself."
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Each line that is not blank, stripped, as (where, line); where is `FILE:LINE`."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield f"{path}:{number}", line.strip()


def read_json(path: Path) -> Any:
    """A JSON file. Raises `DataError` that names the line; a key that is there twice is one, too."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
            raise DataError(f"{path}: the key {twice!r} is there twice", "Each video must be there once.")
        return made

    try:
        return json.loads(read_text(path), object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}:{error.lineno}: not JSON: {error.msg}", "Download the file again."
        ) from error


def read_table(
    path: Path, needed: Sequence[str], *, delimiter: str = ","
) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows of a table with a head, as (where, column to text); cells may be quoted and hold line breaks.

    Raises `DataError` for a head that lacks a column of `needed`, or a row of another length.
    """
    rows = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
    try:
        head = [name.strip() for name in next(rows, [])]
        if missing := [name for name in needed if name not in head]:
            if other := _other_delimiter(head, needed, delimiter):
                raise DataError(
                    f"{path}:1: the columns are divided by {other}, not by {_DELIMITERS[delimiter]}",
                    f"Save the table with {_DELIMITERS[delimiter]} between its cells.",
                )
            raise UnexpectedFileError(
                f"{path}:1: the column {', '.join(missing)} is missing (found: {', '.join(head)[:200] or '(none)'})",
                f"The first line must name the columns {', '.join(needed)}.",
                path,
            )
        first = rows.line_num + 1
        for row in rows:
            where, first = f"{path}:{first}", rows.line_num + 1
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != len(head):
                raise _misfit(row, head, where, delimiter)
            yield where, {name: cell.strip() for name, cell in zip(head, row, strict=True)}
    except csv.Error as error:
        raise DataError(f"{path}:{rows.line_num}: {error}", "Repair the quotes of this row.") from error


def _other_delimiter(head: Sequence[str], needed: Sequence[str], delimiter: str) -> str:
    """What divides a head in which the expected delimiter does not, in words; "" if nothing known does."""
    for other, words in _DELIMITERS.items():
        cells = {cell.strip().strip('"') for cell in delimiter.join(head).split(other)}
        if other != delimiter and cells >= set(needed):
            return words
    return ""


def _misfit(row: Sequence[str], head: Sequence[str], where: str, delimiter: str) -> DataError:
    """The error for a row that has more or fewer cells than the head."""
    counted = f"{len(row)} cells for {len(head)} columns"
    words = _DELIMITERS[delimiter]
    if len(row) > len(head) and not any(cell.strip() for cell in row[len(head) :]):
        return DataError(
            f"{where}: {counted}: the line ends in {len(row) - len(head)} of the {words} too many",
            "Remove what follows the last cell.",
        )
    for other, other_words in _DELIMITERS.items():
        if other != delimiter and len(row) == 1 and row[0].count(other) == len(head) - 1:
            return DataError(
                f"{where}: {counted}: this line is divided by {other_words}, not by {words}",
                f"Save the table with {words} between its cells.",
            )
    return DataError(
        f"{where}: {counted}", 'Put cells that hold the delimiter between double quotes: "a, b".'
    )


def read_class_list(path: Path, labels: Collection[str] = (), *, is_numbered: bool = False) -> ClassList:
    """One class a line: `NAME`, or a number and the name on every line, with a tab or a comma between them.

    Numbers decide the order; they need not be without gaps. `1 hand` is a name, unless `labels` or `is_numbered` say
    that it is the class `hand`.

    Arguments:
        labels: names that the annotations use. Where more of them are whole lines than names behind a number, as
            `1 hand` and `2 hands`, the numbers are parts of the names.
        is_numbered: whether the published list of this set has numbers with a space behind them.
    """
    lines = [line for _, line in read_lines(path)]
    # A CSV such as Kinetics' `id,name` begins with a head.
    if lines and lines[0].lower() in ("id,name", "id\tname"):
        lines = lines[1:]
    numbered = [_NUMBERED.fullmatch(line) for line in lines]
    is_clear = is_numbered or all(_CLEARLY_NUMBERED.fullmatch(line) for line in lines)
    whole = tuple(_unquoted(line) for line in lines)
    pairs = sorted((int(match[1]), _unquoted(match[2])) for match in numbered if match)
    behind = tuple(name for _, name in pairs)
    as_whole, as_numbered = _count(labels, whole), _count(labels, behind)
    if not all(numbered) or as_whole > as_numbered or (as_whole == as_numbered and not is_clear):
        return ClassList(names=whole, source=str(path))
    return ClassList(names=behind, ids=tuple(id_ for id_, _ in pairs), source=str(path))


def _count(labels: Collection[str], names: Collection[str]) -> int:
    known = set(map(composed, names))
    return sum(composed(label) in known for label in labels)


def _unquoted(name: str) -> str:
    return name[1:-1] if len(name) > 1 and name[0] == name[-1] == '"' else name


def seconds(text: object, where: str, what: str) -> float:
    """A time in seconds, 0 or more. Raises `DataError`."""
    try:
        value = float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        value = math.nan
    if isinstance(text, bool) or not (math.isfinite(value) and value >= 0):
        raise DataError(f"{where}: {what} is {text!r}", "A time in seconds is expected, 0 or more, as 12.5.")
    return value


def interval(start: object, end: object, where: str) -> tuple[float, float]:
    """(start, end) in seconds. Raises `DataError` if it ends before it starts."""
    begins, ends = seconds(start, where, "the start"), seconds(end, where, "the end")
    if ends < begins:
        raise DataError(
            f"{where}: the interval ends ({ends:g} s) before it starts ({begins:g} s)",
            "Repair or remove this entry, for example by exchanging the two times.",
        )
    return begins, ends


def existing(path: str, setting: str, *, folder: bool | None = None) -> Path:
    """The path of a setting. Raises `UsageError` if it is not there, or is a folder where a file is needed."""
    found = Path(path).expanduser()
    if not found.exists():
        above = found.parent
        inside = f"{above} holds {listed(above)}" if above.is_dir() else f"{above} is not there either"
        raise UsageError(f"{setting}={path}: there is no such file or folder", f"{inside}.")
    if folder is not None and found.is_dir() != folder:
        is_, wanted = ("a file", "a folder") if folder else ("a folder", "a file")
        raise UsageError(f"{setting}={path} is {is_}", f"Name {wanted}{' in it' if not folder else ''}.")
    return found


def walk(folder: Path, *, follow_links: bool = False) -> Iterator[tuple[str, list[str], list[str]]]:
    """As `os.walk`. Raises `UnavailableDataError` for a folder that cannot be listed, with all that is in it."""

    def refuse(error: OSError) -> None:
        raise UnavailableDataError(
            f"{error.filename} cannot be listed: {error.strerror}",
            "What is in it would be missing without a word. Is its disk mounted, and have you the right to read it?",
        ) from error

    return os.walk(folder, followlinks=follow_links, onerror=refuse)


def files_named(folder: Path, pattern: str) -> list[Path]:
    """The files anywhere below a folder whose paths end as a pattern says (`P*.txt`), in order. Raises as `walk`."""
    found = (Path(above, name) for above, _, names in walk(folder) for name in names)
    return sorted(path for path in found if path.match(pattern))


def file_in(folder: Path, name: str, what: str) -> Path:
    """A file of an annotation folder, anywhere below it. Raises `UsageError` that says what is there instead."""
    found = files_named(folder, name)
    if not found:
        raise UnexpectedFolderError(f"{folder} has no {name} ({what})", f"It holds {listed(folder)}.", folder)
    if len(found) > 1:
        raise UsageError(
            f"{folder} has {name} {len(found)} times: {found[0]}, {found[1]}",
            "Name the folder of one of them.",
        )
    return found[0]


def listed(folder: Path) -> str:
    """A few names of what is in a folder, for messages."""
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    return ", ".join(names[:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "") or "nothing"


def mapping(value: Any, where: str) -> Mapping[str, Any]:
    """A JSON object. Raises `DataError` for anything else."""
    if not isinstance(value, dict):
        raise DataError(f"{where} is {str(value)[:60]!r}, not a JSON object", "Download the file again.")
    return value


def sequence(value: Any, where: str) -> Sequence[Any]:
    """A JSON list. Raises `DataError` for anything else."""
    if not isinstance(value, list):
        raise DataError(f"{where} is {str(value)[:60]!r}, not a JSON list", "Download the file again.")
    return value
