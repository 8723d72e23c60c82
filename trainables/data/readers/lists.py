"""Lists of videos with label numbers, as the published training code of several methods reads them.

A line is a path (or id), mostly a number of frames, and one or several label numbers, after commas or after spaces:

    v_QOlSCBRmfWY,2067,0           train/air drumming/abc_000012_000022 250 3

Paths may contain spaces where spaces divide, so a line is read from its end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from paretovid.trainables.data.readers.files import UnexpectedFileError, read_lines

_COMMAS = re.compile(r"(?P<path>[^,]*[^,\s])\s*,\s*(?P<frames>-?\d+)\s*(?P<labels>(?:,\s*-?\d+\s*)+)")
_SPACES = re.compile(r"(?P<path>.*\S)\s+(?P<frames>\d+)\s+(?P<labels>-?\d+)")
_PADDING = "-1"  # some lists pad to a fixed number of labels


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedVideo:
    """One line. `labels` are the numbers as they are written."""

    path: str
    labels: tuple[str, ...]
    where: str


def read_list(path: Path) -> Iterator[ListedVideo]:
    """Raises `DataError` for a line of another form."""
    for where, line in read_lines(path):
        match = _COMMAS.fullmatch(line) or _SPACES.fullmatch(line)
        labels = re.findall(r"-?\d+", match["labels"]) if match else []
        labels = [label for label in labels if label != _PADDING]
        if match is None or not labels:
            raise UnexpectedFileError(
                f"{where}: not a line of a video list: {line[:80]!r}",
                "Expected: PATH,FRAMES,LABEL[,LABEL] or PATH FRAMES LABEL, labels as numbers.",
                path,
            )
        yield ListedVideo(path=match["path"], labels=tuple(labels), where=where)
