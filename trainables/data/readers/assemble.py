"""From annotations and files to a data set: which video is where, how long, in which split.

Videos that are missing or cannot be decoded are left out and listed, up to a share. What would make results wrong is
refused: one video in two splits, two files that are the same video in two splits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from paretovid.trainables.data.dataset import (
    MANIFEST,
    SPLITS,
    Dataset,
    Event,
    VideoRecord,
    content_hash,
    load_dataset,
    save_manifest,
    write_json,
)
from paretovid.trainables.data.limits import USUAL_LIMITS, VideoLimitsConfig
from paretovid.trainables.data.notes import grouped_notes
from paretovid.trainables.data.readers.annotations import (
    TO_DIVIDE,
    AnnotatedVideo,
    Annotations,
    ReaderConfig,
)
from paretovid.trainables.data.readers.catalog import read_annotations
from paretovid.trainables.data.readers.files import composed, existing, read_lines
from paretovid.trainables.data.readers.matching import VIDEO_SUFFIXES, VideoFiles
from paretovid.trainables.data.readers.probing import MapParallel, Probe, probe, probe_all
from paretovid.trainables.data.s3 import is_object
from paretovid.trainables.data.video_keys import video_key
from paretovid.trainables.data.videos import count_steps
from paretovid.trainables.errors import DataError, UnavailableDataError, UsageError, VideoError

LEFT_OUT = "left_out.json"
_SHOWN = 3
_LOOKED_INTO = 50  # files with other suffixes than those of videos
_OTHER_SUFFIXES = (
    "7z aac bmp bz2 csv doc docx flac gz h5 html ini jpeg jpg json jsonl lrc m3u md mp3 npy npz oga opus parquet pdf "
    "pkl png pt pth py rar sh srt sub svg tar tgz tif tiff toml tsv txt url vtt wav webp xls xlsx xml xz yaml yml zip"
)
_NO_VIDEOS = frozenset(f".{suffix}" for suffix in _OTHER_SUFFIXES.split())
"""Suffixes of files that lie beside videos and are not looked into."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """A video that the annotations name and the data set lacks."""

    video_id: str
    where: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Warned:
    """A video of the data set that is not as expected."""

    video_id: str
    file: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Assembled:
    """A data set, and what was not as expected.

    Arguments:
        notes: one sentence each, for people.
        annotated: videos that the annotations have in the splits that are used.
        warnings: the same of single videos' files.
    """

    dataset: Dataset
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    annotated: int
    warnings: tuple[Warned, ...] = ()


def read_dataset(
    reader_name: str,
    config: ReaderConfig,
    root: Path,
    *,
    name: str,
    map_parallel: MapParallel = map,
    limits: VideoLimitsConfig = USUAL_LIMITS,
) -> Assembled:
    """Reads annotations, finds the videos, and writes `root/manifest.json` and `root/left_out.json`.

    Arguments:
        limits: what each video may ask for.

    The manifest is left alone where nothing changed. Raises `DataError` and `UsageError`, naming file and line.
    """
    before = _written_before(root, reader_name)
    annotations = read_annotations(reader_name, config)
    assembled = assemble(annotations, config, root, name=name, map_parallel=map_parallel, limits=limits)
    dataset = dataclasses.replace(assembled.dataset, generator=_generator(reader_name))
    assembled = dataclasses.replace(assembled, dataset=dataset)
    if before is not None and not {r.path for r in before.records} & {r.path for r in dataset.records}:
        count = len(before.records)
        replaced = f"{name} had {count} videos in other places until now; data.name=NAME would have kept both"
        assembled = dataclasses.replace(assembled, notes=(replaced, *assembled.notes))
    listed = [dataclasses.asdict(each) for each in assembled.left_out]
    warned = [dataclasses.asdict(each) for each in assembled.warnings]
    write_json(root / LEFT_OUT, {"notes": assembled.notes, "left_out": listed, "warnings": warned})
    if before != dataset:
        save_manifest(dataset)
        load_dataset(root)
    return assembled


def _written_before(root: Path, reader_name: str) -> Dataset | None:
    """The data set that is there, if it can be used. Raises `UsageError` for one that something else wrote."""
    if not (root / MANIFEST).is_file():
        return None
    made_by = None
    with contextlib.suppress(ValueError, AttributeError):
        made_by = json.loads((root / MANIFEST).read_bytes()).get("generator")
    if made_by != _generator(reader_name):
        raise UsageError(
            f"{root / MANIFEST} is of another data set: it was not made by reader {reader_name}",
            f"Give this one another name, data.name=NAME; or use what is there: data=folder data.name={root.name}.",
        )
    try:
        return load_dataset(root)
    except DataError:  # the videos have gone elsewhere, for one: what is read now replaces it
        return None


def _generator(reader_name: str) -> dict[str, str]:
    return {"reader": reader_name}


def assemble(
    annotations: Annotations,
    config: ReaderConfig,
    root: Path,
    *,
    name: str,
    map_parallel: MapParallel = map,
    limits: VideoLimitsConfig = USUAL_LIMITS,
) -> Assembled:
    """The data set of the annotated videos that are there, with absolute paths. Writes only `root/probed.jsonl`."""
    notes = list(annotations.notes)
    videos = _once(_without(annotations.videos, config, notes), annotations.multi_label, notes)
    videos = divide(videos, config.val_share, annotations.test_share)
    files = VideoFiles(config.videos)
    _note_ignored(files, notes)
    found = _match(videos, files, notes)
    probes = probe_all(list(found.values()), root, map_parallel, files.status, limits)
    probes = {path: _within(limits, each, config.step_seconds) for path, each in probes.items()}
    left_out = _left_out(videos, found, probes, files)
    _check_share(left_out, len(videos), files, config)
    gone = {each.video_id for each in left_out}
    there = [video for video in videos if video.video_id not in gone]
    _check_copies(there, found, probes)
    records = tuple(_record(video, probes[str(found[video.video_id])], config, notes) for video in there)
    _check_splits(there, left_out, annotations, notes)
    warnings = _warnings(there, found, probes)
    dataset = Dataset(
        name=name,
        root=root,
        classes=annotations.classes,
        class_groups=dict(annotations.categories),
        step_seconds=config.step_seconds,
        multi_label=annotations.multi_label,
        records=records,
    )
    return Assembled(
        dataset=dataset,
        left_out=tuple(left_out),
        notes=(*_grouped(notes), *grouped_notes((each.file, each.reason) for each in warnings)),
        annotated=len(videos),
        warnings=warnings,
    )


def _within(limits: VideoLimitsConfig, found: Probe, step_seconds: float) -> Probe:
    """What was found out, with a problem if the video has too many steps of this length."""
    try:
        limits.check_steps(
            found.path, found.duration_seconds, count_steps(found.duration_seconds, step_seconds)
        )
    except VideoError as error:
        return dataclasses.replace(found, problem=error.message)
    return found


def _warnings(
    videos: Iterable[AnnotatedVideo], found: Mapping[str, Path | str], probes: Mapping[str, Probe]
) -> tuple[Warned, ...]:
    return tuple(
        Warned(video_id=video.video_id, file=str(found[video.video_id]), reason=note)
        for video in videos
        for note in probes[str(found[video.video_id])].notes
    )


# One video, one record


def _without(
    videos: Sequence[AnnotatedVideo], config: ReaderConfig, notes: list[str]
) -> list[AnnotatedVideo]:
    if config.leave_out is None:
        return list(videos)
    listed = {
        composed(line): where for where, line in read_lines(existing(config.leave_out, "data.leave_out"))
    }
    if unknown := sorted(set(listed) - {composed(video.video_id) for video in videos}):
        raise DataError(
            f"{listed[unknown[0]]}: the annotations have no video {unknown[0]!r}",
            "data.leave_out lists one video id on each line, as the annotations write it.",
        )
    notes.append(f"{len(listed)} videos are left out as {config.leave_out} says")
    return [video for video in videos if composed(video.video_id) not in listed]


def _once(videos: Sequence[AnnotatedVideo], multi_label: bool, notes: list[str]) -> list[AnnotatedVideo]:
    """Entries that say the same of a video become one; such that contradict each other are an error."""
    first: dict[str, AnnotatedVideo] = {}
    repeated = 0
    for video in videos:
        other = first.setdefault(composed(video.video_id), video)
        if other is video:
            continue
        if other.split != video.split:
            raise DataError(
                f"{video.where}: video {video.video_id!r} of {video.split} is also in {other.split}: {other.where}",
                f"What is trained on must not be tested on. Remove one of the two. {_LEAVE_OUT}",
            )
        if set(other.labels) != set(video.labels):
            raise DataError(
                f"{video.where}: video {video.video_id!r} has other labels than at {other.where}",
                f"Remove one of the two lines. {_LEAVE_OUT}",
            )
        repeated += 1
    if repeated:
        notes.append(f"{repeated} entries repeat another one of the same video, and were taken once")
    return list(first.values())


_LEAVE_OUT = "Videos to ignore can be listed: data.leave_out=FILE, an id on each line."


# Splits


def divide(videos: Sequence[AnnotatedVideo], val_share: float, test_share: float) -> list[AnnotatedVideo]:
    """Gives every video one of the three splits.

    Decided by a hash of ids (or groups) alone, class by class: the same on every machine, whichever videos are there.
    """
    open_ = [video for video in videos if video.split == TO_DIVIDE]
    to_test = _chosen(open_, test_share, "test")
    decided = [
        dataclasses.replace(video, split="test" if video.video_id in to_test else "train")
        if video.split == TO_DIVIDE
        else video
        for video in videos
    ]
    if any(video.split == "val" for video in decided):
        return decided
    to_val = _chosen([video for video in decided if video.split == "train"], val_share, "val")
    return [
        dataclasses.replace(video, split="val") if video.video_id in to_val else video for video in decided
    ]


def _chosen(videos: Sequence[AnnotatedVideo], share: float, purpose: str) -> set[str]:
    """Ids of a share of the videos: whole groups, and of each class at least one where it has two groups."""
    strata: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for video in videos:
        # Groups mix classes, so they are drawn from all together.
        stratum = -1 if video.group else min(video.labels, default=-1)
        strata[stratum][video.group or video.video_id].append(video.video_id)
    chosen: set[str] = set()
    for groups in strata.values():
        by_hash = sorted(groups, key=lambda group: video_key(f"{purpose}/{group}"))
        count = min(len(by_hash) - 1, max(1, round(share * len(by_hash))))
        for group in by_hash[: max(0, count)]:
            chosen.update(groups[group])
    return chosen


# Files


def _match(videos: Sequence[AnnotatedVideo], files: VideoFiles, notes: list[str]) -> dict[str, Path | str]:
    """Video id to its file, of those that there is one of."""
    found: dict[str, Path | str] = {}
    owner: dict[Path | str, AnnotatedVideo] = {}
    for video in videos:
        path = files.find(video.names)
        if path is None:
            continue
        other = owner.setdefault(path.resolve() if isinstance(path, Path) else path, video)
        if other is not video:
            raise DataError(
                f"{path} would be both {other.video_id!r} ({other.where}) and {video.video_id!r} ({video.where})",
                f"Each video needs a file of its own, such as {_names(video)}. {_LEAVE_OUT}",
            )
        found[video.video_id] = path
    if files.ambiguous:
        notes.append(
            f"{len(files.ambiguous)} names fit several files, as {files.ambiguous[0]!r}: the first by path was taken"
        )
    unused = len(files.paths) - len(found)
    if unused > 0:
        notes.append(f"{unused} files of {files.source} are of no annotated video, and were ignored")
    return found


def _note_ignored(files: VideoFiles, notes: list[str]) -> None:
    """Files with a suffix that no video has, and that can be decoded all the same."""
    others = [name for name in files.others if Path(name).suffix.lower() not in _NO_VIDEOS]
    ignored = [name for name in others[:_LOOKED_INTO] if _is_decodable(files.at(name))]
    if ignored:
        of = f" (of the first {_LOOKED_INTO} that were looked into)" if len(others) > _LOOKED_INTO else ""
        notes.append(
            f"{len(ignored)} files of {files.source} are videos with another suffix, and were ignored{of}; give them "
            f"one of {', '.join(sorted(VIDEO_SUFFIXES))}: {', '.join(ignored[:_SHOWN])}"
        )


def _is_decodable(location: Path | str) -> bool:
    try:
        return not probe(location).problem
    except UnavailableDataError:  # nobody has asked for this file
        return False


def _names(video: AnnotatedVideo) -> str:
    name = video.names[0]
    return name if Path(name).suffix else f"{name}.mp4"


def _left_out(
    videos: Iterable[AnnotatedVideo],
    found: Mapping[str, Path | str],
    probes: Mapping[str, Probe],
    files: VideoFiles,
) -> list[LeftOut]:
    left_out = []
    for video in videos:
        path = found.get(video.video_id)
        reason = f"no {_names(video)} in {files.source}" if path is None else probes[str(path)].problem
        if reason:
            left_out.append(LeftOut(video_id=video.video_id, where=video.where, reason=reason))
    return left_out


def _check_share(
    left_out: Sequence[LeftOut], annotated: int, files: VideoFiles, config: ReaderConfig
) -> None:
    if not annotated:
        raise DataError("the annotations have no video", "Give the whole annotation files.")
    share = len(left_out) / annotated
    if share <= config.max_missing_share and share < 1:
        return
    first = "; ".join(f"{each.where}: {each.reason}" for each in left_out[:_SHOWN])
    raise DataError(
        f"{len(left_out)} of {annotated} annotated videos ({share:.0%}) are missing or cannot be decoded",
        f"Allowed is data.max_missing_share={config.max_missing_share:g}. The first: {first}. "
        f"{files.source} has {len(files.paths)} videos, such as {files.paths[0]}.",
    )


def _check_copies(
    videos: Sequence[AnnotatedVideo], found: Mapping[str, Path | str], probes: Mapping[str, Probe]
) -> None:
    """The same bytes in two splits are one video under two names."""
    alike: dict[tuple[int, str], list[AnnotatedVideo]] = defaultdict(list)
    for video in videos:
        probe = probes[str(found[video.video_id])]
        alike[probe.bytes, probe.edges].append(video)
    for same in alike.values():
        if len({video.split for video in same}) < 2:
            continue
        first: dict[str, AnnotatedVideo] = {}
        for video in same:
            other = first.setdefault(content_hash(found[video.video_id]), video)
            if other.split != video.split:
                raise DataError(
                    f"{found[video.video_id]} of {video.split} ({video.where}) is the same video as "
                    f"{found[other.video_id]} of {other.split} ({other.where})",
                    f"What is trained on must not be tested on. Remove one of the two. {_LEAVE_OUT}",
                )


# Records


def _record(video: AnnotatedVideo, probe: Probe, config: ReaderConfig, notes: list[str]) -> VideoRecord:
    duration = probe.duration_seconds
    if video.annotated_seconds and duration < 0.9 * video.annotated_seconds - 1:
        notes.append(
            f"shorter than annotated: {video.where}: {duration:.1f} s of {video.annotated_seconds:.1f} s"
        )
    if video.annotated_seconds and duration > 1.5 * video.annotated_seconds + 1:
        notes.append(
            f"longer than annotated, perhaps not cut: {video.where}: {duration:.1f} s of "
            f"{video.annotated_seconds:.1f} s"
        )
    return VideoRecord(
        video_id=video.video_id,
        path=probe.path,
        split=video.split,
        labels=tuple(sorted(set(video.labels))),
        num_steps=count_steps(duration, config.step_seconds),
        # Of a file it is looked up, whenever it is asked for.
        content=probe.edges if is_object(probe.path) else "",
        duration_seconds=duration,
        events=tuple(_events(video, duration, notes)),
        ambiguous=tuple(
            (start, min(end, duration)) for start, end in video.ambiguous if start < min(end, duration)
        ),
    )


def _events(video: AnnotatedVideo, duration: float, notes: list[str]) -> Iterable[Event]:
    for event in video.events:
        end = min(event.end_seconds, duration)
        span = f"{event.start_seconds:g} to {event.end_seconds:g} s"
        if event.end_seconds == event.start_seconds:
            notes.append(f"empty interval left out: {event.where}: {span}")
        elif event.start_seconds >= duration:
            notes.append(f"interval after the end left out: {event.where}: {span} of {duration:.1f} s")
        else:
            # Annotations are written to tenths of a second: the last one is no news.
            if event.end_seconds > duration + 0.1:
                notes.append(f"interval clipped at the end: {event.where}: {span} of {duration:.1f} s")
            yield Event(label=event.label, start_seconds=event.start_seconds, end_seconds=end)


def _check_splits(
    videos: Sequence[AnnotatedVideo],
    left_out: Sequence[LeftOut],
    annotations: Annotations,
    notes: list[str],
) -> None:
    sizes = Counter(video.split for video in videos)
    if empty := [split for split in SPLITS if not sizes[split]]:
        raise DataError(
            f"no video is in {', '.join(empty)} (train {sizes['train']}, val {sizes['val']}, test {sizes['test']})",
            f"Each split needs a video; {len(left_out)} annotated ones were left out. Training needs two videos or "
            "more, for val is taken from them.",
        )
    for split in ("train", "test"):
        seen = {label for video in videos if video.split == split for label in video.labels}
        unseen = [name for number, name in enumerate(annotations.classes) if number not in seen]
        if unseen:
            shown = ", ".join(unseen[:_SHOWN]) + (", ..." if len(unseen) > _SHOWN else "")
            notes.append(
                f"{len(unseen)} of {len(annotations.classes)} classes have no video in {split}: {shown}"
            )


def _grouped(notes: Sequence[str]) -> tuple[str, ...]:
    """Notes about single places (`KIND: PLACE`), counted per kind with the first as an example."""
    kinds = Counter(note.partition(": ")[0] for note in notes)
    kept: dict[str, str] = {}
    for note in notes:
        kind = note.partition(": ")[0]
        kept.setdefault(kind, note if kinds[kind] == 1 else f"{kinds[kind]} times {note}")
    return tuple(kept.values())
