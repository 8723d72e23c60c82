"""Text files of instances, one file a class, as THUMOS'14 and MultiTHUMOS publish them.

    video_validation_0000266  72.8 76.4

Name, start and end, any white space between them (THUMOS has two spaces after the name).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from paretovid.trainables.data.readers.annotations import AnnotatedVideo, Interval
from paretovid.trainables.data.readers.files import UnexpectedFileError, interval, read_lines
from paretovid.trainables.errors import DataError

SPLITS = {"video_validation_": "train", "video_test_": "test"}
"""Of THUMOS'14: its training clips are of another task, so its validation videos train, as in the papers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line of such a file."""

    video_id: str
    start_seconds: float
    end_seconds: float
    where: str


def read_instances(path: Path) -> Iterator[Line]:
    """Raises `DataError`, naming file and line."""
    for where, line in read_lines(path):
        words = line.split()
        if len(words) != 3:
            raise UnexpectedFileError(
                f"{where}: not NAME START END: {line[:80]!r}",
                "Expected, for example: video_test_0000004  0.2 1.1.",
                path,
            )
        start, end = interval(words[1], words[2], where)
        yield Line(video_id=words[0], start_seconds=start, end_seconds=end, where=where)


def split_of(video_id: str, where: str) -> str:
    """Split of a THUMOS'14 video, by its name. Raises `DataError`."""
    for prefix, split in SPLITS.items():
        if video_id.startswith(prefix):
            return split
    raise DataError(
        f"{where}: video {video_id!r}", f"THUMOS'14 has only names as {', '.join(SPLITS)}0000001."
    )


def gather(
    instances: Iterable[tuple[int, Line]],
    ambiguous: Iterable[Line] = (),
    annotated_seconds: Mapping[str, float] | None = None,
) -> tuple[AnnotatedVideo, ...]:
    """One record per video, by name, from (class, line) of all files."""
    events: dict[str, list[Interval]] = defaultdict(list)
    for label, line in instances:
        events[line.video_id].append(
            Interval(
                label=label,
                start_seconds=line.start_seconds,
                end_seconds=line.end_seconds,
                where=line.where,
            )
        )
    vague: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for line in ambiguous:
        vague[line.video_id].append((line.start_seconds, line.end_seconds))
    return tuple(
        AnnotatedVideo(
            video_id=id_,
            split=split_of(id_, found[0].where),
            labels=tuple(dict.fromkeys(event.label for event in found)),
            names=(id_,),
            where=found[0].where,
            events=tuple(found),
            ambiguous=tuple(vague[id_]),
            annotated_seconds=(annotated_seconds or {}).get(id_),
        )
        for id_, found in sorted(events.items())
    )
