"""Documents of a home with anything in them: each is refused by name or passed over; nothing else is ever raised.

Every field of a real document of every kind is replaced by everything that JSON can say, one at a time.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paretovid.platform.execution.heartbeat import heartbeat_of
from paretovid.platform.execution.outcome import Finished, outcome_text, parse_outcome
from paretovid.platform.records.control_requests import StopRequest, TakeOverRequest
from paretovid.platform.records.delivered import Delivered
from paretovid.platform.records.failure import TrialFailure, failure_of
from paretovid.platform.records.journal import (
    Entry,
    FailedStart,
    FinishedTrial,
    SweepJournal,
    _crc,
    read_journal,
)
from paretovid.platform.records.lease import DriverLease, TrialHeartbeat
from paretovid.platform.records.sweep import SweepRecord, read_record
from paretovid.platform.records.trial import find_trial, read_trial
from paretovid.platform.storage.home import Home, SweepPaths
from paretovid.platform.sweeps.lock import driver_of
from paretovid.platform.testing.sweeps import synthetic_sweep
from paretovid.trainables.backbones.description import BackboneDescription, BackboneOrigin
from paretovid.trainables.data.dataset import MANIFEST, Dataset, Event, VideoRecord, load_dataset
from paretovid.trainables.documents import JsonObject
from paretovid.trainables.errors import DataError, ParetovidError
from paretovid.trainables.evaluation.results import TrialResult
from paretovid.trainables.features.index import FeaturesHeader, FeaturesIndex, ShardDescription, ShardFile
from paretovid.trainables.testing import synthetic_result

DEEP = json.loads("[" * 300 + "]" * 300)
ANYTHING: tuple[Any, ...] = (
    float("nan"),
    float("inf"),
    -float("inf"),
    10**400,
    -1,
    2.0,
    1e308,
    True,
    None,
    "7",
    "a\0b",
    "\ud800",
    "../../x",
    [],
    {},
    DEEP,
    {"a": DEEP},
    [[1]],
)
WHERE = "the/file.json"


def changed(document: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """All places in a document, with what lies there."""
    yield at, document
    if isinstance(document, dict):
        for key, value in document.items():
            yield from changed(value, (*at, key))
    elif isinstance(document, list):
        for place, value in enumerate(document[:2]):
            yield from changed(value, (*at, place))


def mutants(document: Any) -> Iterator[tuple[str, Any]]:
    """The document with one place changed, and what was changed in words."""
    for at, found in changed(document):
        values = [*ANYTHING, *([{**found, "a\0": 1}] if isinstance(found, dict) else [])]
        for value in values:
            if not at:
                yield f"all of it: {value!r:.20}", value
                continue
            mutant = copy.deepcopy(document)
            inner = mutant
            for step in at[:-1]:
                inner = inner[step]
            inner[at[-1]] = value
            yield f"{at}: {value!r:.20}", mutant


def finished_entry(data: Any, where: str) -> object:
    return FinishedTrial.in_entry(
        Entry(n=1, at=0.0, event="finish", info=data if isinstance(data, dict) else {})
    )


def failed_entry(data: Any, where: str) -> object:
    return FailedStart.in_entry(
        Entry(n=1, at=0.0, event="fault", info=data if isinstance(data, dict) else {})
    )


def features_index() -> FeaturesIndex:
    header = FeaturesHeader(
        component="c@16",
        dataset="d",
        dataset_fingerprint="f",
        weights_sha256="0" * 64,
        video_share=1.0,
        sampling={"size": 16},
        dtype="float32",
        precision="float32",
        code_version="v",
    )
    return FeaturesIndex(
        fingerprint=header.fingerprint,
        header=header,
        width=8,
        shards=(ShardFile(file="shard_00000.npy", sha256="0" * 64, num_bytes=9, asked="a"),),
        videos={"v": (0, 0, 3)},
        skipped={"w": "damaged"},
    )


def shard() -> ShardDescription:
    index = features_index()
    return ShardDescription(rows=index.shards[0], width=8, videos=index.videos, skipped=index.skipped)


def sweep_record() -> SweepRecord:
    config: JsonObject = {
        "search": {"trials": 4},
        "baselines": [{"name": "uniform"}],
        "tracking": {"uri": "x"},
    }
    return SweepRecord(
        name="s",
        uid="u",
        method="m",
        data="d",
        created="2026-01-01T00:00:00",
        seed=1,
        state="running",
        config=config,
        code_version="v",
        knobs=("gamma",),
        asked=(4, 2),
        failures={"t0001": "boom"},
        hypervolume=0.5,
        tracked=True,
    )


def backbone() -> BackboneDescription:
    return BackboneDescription(
        component="c@16",
        num_outputs=4,
        feature_width=8,
        input={"kind": "frames", "size": 16},
        weights_sha256="0" * 64,
        origin=BackboneOrigin(labels=("a", "b"), training={"seed": 1}, dataset="d", dataset_fingerprint="f"),
        measured={"loss": 0.5},
    )


def data_set() -> Dataset:
    records = [
        VideoRecord(
            video_id=f"{split}_{label}",
            path=f"videos/{split}_{label}.mp4",
            split=split,
            labels=(label,),
            num_steps=2,
            duration_seconds=1.2,
            step_labels=(-1, label),
            events=(Event(label=label, start_seconds=0.5, end_seconds=1.0),),
            ambiguous=((0.0, 0.25),),
            content="abc",
        )
        for split in ("train", "val", "test")
        for label in (0, 1)
    ]
    return Dataset(
        name="d",
        root=Path(WHERE).parent,
        classes=("a", "b"),
        step_seconds=0.5,
        multi_label=False,
        records=tuple(records),
        class_groups={"a": "easy"},
        generator={"reader": "table"},
    )


Reader = Callable[[Any, str], object]
DRIVER = DriverLease(name="a", host="vm", pid=7, started=100.0, heartbeat=160.5, beats=9)
HEARTBEAT = TrialHeartbeat(lease="b", host="vm", pid=8, at=1.0, beats=3, progress={"epoch": 2.0})
KINDS: dict[str, tuple[Callable[[], Any], Reader]] = {
    "sweep.json": (lambda: sweep_record().to_json(), SweepRecord.from_json),
    "driver.json": (lambda: DRIVER.to_json(), DriverLease.from_json),
    "alive.json": (lambda: HEARTBEAT.to_json(), TrialHeartbeat.from_json),
    "stop.json": (lambda: StopRequest(reason="x", at=1.0).to_json(), StopRequest.from_json),
    "take-over.json": (lambda: TakeOverRequest(by="x", at=1.0).to_json(), TakeOverRequest.from_json),
    "failure.json": (lambda: TrialFailure(reason="x").to_json(), TrialFailure.from_json),
    "tracked.json": (lambda: Delivered(last_events={"x": 3}).to_json(), Delivered.from_json),
    "result.json": (lambda: synthetic_result().to_json(), TrialResult.from_json),
    "outcome.json": (
        lambda: json.loads(outcome_text(Finished(result=synthetic_result()))),
        lambda data, where: parse_outcome(json.dumps(data)),
    ),
    "finish": (lambda: FinishedTrial.of(synthetic_result()).to_json(), finished_entry),
    "fault": (lambda: FailedStart(reason="x", will_retry=True, knobs={"k": 1.0}).to_json(), failed_entry),
    "index.json": (
        lambda: features_index().to_json(),
        lambda data, where: FeaturesIndex.from_json(data, where, "hint"),
    ),
    "shard.json": (
        lambda: shard().to_json(),
        lambda data, where: ShardDescription.from_json(data, where, "hint"),
    ),
    "manifest.json": (
        lambda: data_set().to_json(),
        lambda data, where: Dataset.from_json(data, Path(where).parent),
    ),
    "backbone.json": (lambda: backbone().to_json(), BackboneDescription.from_json),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_document_with_anything_in_it_is_read_or_refused_by_name(kind: str) -> None:
    make, read = KINDS[kind]
    document = json.loads(json.dumps(make()))
    assert read(document, WHERE) is not None
    refused = 0
    for what, mutant in mutants(document):
        try:
            found = read(mutant, WHERE)
        except ParetovidError as error:
            refused += 1
            assert (len(error.message) < 500 and error.message.isprintable()) or "\ud800" in error.message, (
                what
            )
            continue
        except Exception as error:
            raise AssertionError(f"{kind}, {what}: {type(error).__name__}: {error}") from error
        # What was read can be written again, by a JSON parser of any kind.
        assert json.dumps(found.to_json(), allow_nan=False), what  # type: ignore[attr-defined]
    assert refused > 20


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("map", 2.0),
        ("map", -0.1),
        ("top1", 1.5),
        ("gflops", -1.0),
        ("gflops_p95", -1e-3),
        ("calls", {"x": -1}),
    ],
)
def test_a_figure_that_cannot_be_measured_is_refused(field: str, value: object) -> None:
    document: Any = json.loads(json.dumps(synthetic_result().to_json()))
    document["points"][0]["val"][field] = value
    with pytest.raises(DataError, match=rf"points\[0\]: val: {field}") as refused:
        TrialResult.from_json(document, WHERE)
    assert WHERE in refused.value.message and refused.value.hint


TEXTS = {
    "empty": b"",
    "half": b'{"version": 1, "name": ',
    "deep": b'{"a":' * 100_000,
    "deep and whole": b'{"config": ' + b"[" * 800 + b"]" * 800 + b"}",
    "long number": b'{"pid": ' + b"9" * 5000 + b"}",
    "400 digits": b'{"pid": ' + b"9" * 400 + b', "heartbeat": ' + b"9" * 400 + b"}",
    "no UTF-8": b'{"name": "\xff\xfe"}',
    "NULs": b"\0" * 4096,
    "a list": b"[1, 2]",
    "NaN": b"NaN",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_file_with_any_bytes_in_it_is_passed_over_or_refused_by_name(tmp_path: Path, text: bytes) -> None:
    home = Home(tmp_path)
    sweep = synthetic_sweep(home.sweep("s"), trials=1)
    trial = sweep.trial("t0000")
    readers: dict[Path, Callable[[], object]] = {
        sweep.record: lambda: read_record(sweep),
        sweep.lease: lambda: driver_of(sweep),
        trial.heartbeat: lambda: heartbeat_of(trial),
        trial.failure: lambda: failure_of(trial),
        trial.result: lambda: find_trial(trial.folder),
        home.data("d") / MANIFEST: lambda: load_dataset(home.data("d")),
        home.features("d") / "c@16-f" / "index.json": lambda: FeaturesIndex.read(
            home.features("d") / "c@16-f", "hint"
        ),
        home.backbone("d", "c") / "backbone.json": lambda: BackboneDescription.find(home.backbone("d", "c")),
    }
    for path, read in readers.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)
        try:
            read()
        except ParetovidError as error:
            assert path.name in error.message or path.parent.name in error.message
        except Exception as error:
            raise AssertionError(f"{path.name}: {type(error).__name__}: {error}") from error
    with pytest.raises(ParetovidError):
        read_trial(trial.folder)


def test_lines_of_a_journal_with_anything_in_them_cost_themselves(tmp_path: Path) -> None:
    sweep = SweepPaths(tmp_path / "s")
    journal = SweepJournal(sweep)
    journal.write("driver", cpus=1)
    whole = json.loads(sweep.journal.read_text())
    lines = [json.dumps(mutant) for _, mutant in mutants(whole)]
    # Also with the right checksum, as whoever edits by a program makes it.
    for at in (float("inf"), 10**400, DEEP):
        content: Any = {**whole, "at": at}
        content.pop("crc")
        lines.append(json.dumps({**content, "crc": _crc(content)}))
    with sweep.journal.open("a") as file:
        file.write("\n".join(lines) + "\n" + "[" * 100_000 + "\n")
    SweepJournal(sweep).write("state", state="finished")
    reading = read_journal(sweep)
    assert [entry.event for entry in reading.entries][:1] == ["driver"] and reading.entries[
        -1
    ].event == "state"
    assert len(reading.damaged) >= len(lines) - 2


def test_the_index_names_only_files_of_its_folder(tmp_path: Path) -> None:
    from paretovid.trainables.features.store import FeatureStore

    index = features_index()
    index = replace(index, shards=(replace(index.shards[0], file="../../secret.npy"),))
    folder = tmp_path / "features" / "d" / "c@16-f"
    folder.mkdir(parents=True)
    (tmp_path / "features" / "secret.npy").write_bytes(b"x")
    (folder / "index.json").write_text(json.dumps(index.to_json()))
    with pytest.raises(DataError, match="features are missing"):
        FeatureStore.open(folder)
