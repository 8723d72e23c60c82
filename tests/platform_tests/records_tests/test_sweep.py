"""`sweep.json`: what is written is read; what cannot be read is refused, with the file, the field and what to do."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paretovid.platform.records.sweep import (
    SweepRecord,
    SweepReference,
    known_record,
    read_record,
    write_record,
)
from paretovid.platform.storage.home import Home
from paretovid.platform.sweeps.status import list_sweeps
from paretovid.trainables.documents import JsonValue
from paretovid.trainables.errors import DataError, NonFiniteError, UnknownNameError
from paretovid.trainables.evaluation.pareto import Reference

FIXTURE = Path(__file__).parents[2] / "fixtures" / "old_home"
STOPPING: dict[str, JsonValue] = {"stopping": "none", "rungs": [0.25], "keep": 0.5}
"""What records from before there was early stopping were made with."""
RUNNING = SweepRecord(
    name="s",
    uid="abc",
    method="lite_eval",
    data="moving_digits",
    created="2026-11-27T20:40:37+00:00",
    seed=3,
    state="running",
    config={
        "search": {"trials": 24, "storage": "journal:///x", "guided_by": "curve", "plan": "wide", **STOPPING},
        "baselines": [{"name": "b"}],
        "tracking": {},
    },
    code_version="0123",
    knobs=("gamma", "lambda"),
)
FINISHED = replace(
    RUNNING,
    state="finished",
    asked=(16, 8),
    study="home",
    failures={"t0003": "out of memory"},
    hypervolume=0.125,
    reference=SweepReference(objective="map_iou_0.1_0.7", corner=Reference(quality=0.1, gflops=2.5)),
    tracked=False,
    error="none",
)


@pytest.mark.parametrize("record", [RUNNING, FINISHED])
def test_what_is_written_is_read(record: SweepRecord, tmp_path: Path) -> None:
    sweep = Home(tmp_path).sweep("s")
    write_record(sweep, record)
    assert read_record(sweep) == record == known_record(sweep)
    assert json.loads(sweep.record.read_text())["version"] == 2


def test_one_from_before_a_setting_has_what_it_was_made_with() -> None:
    before = {"name": "s", "state": "failed", "config": {"search": {"trials": 3}}}
    assert SweepRecord.from_json(before, "here").config == {
        "search": {"trials": 3, "guided_by": "point", "plan": "knobs", **STOPPING}
    }


def test_what_a_configuration_asks_for() -> None:
    assert (RUNNING.searched_trials, FINISHED.searched_trials) == (24, 24)
    assert (RUNNING.baselines, RUNNING.tracking_uri, RUNNING.study_storage) == (1, None, "journal:///x")
    bare = SweepRecord.from_json({"name": "s", "state": "failed", "config": {}}, "here")
    assert (bare.searched_trials, bare.baselines, bare.study_storage, bare.corner) == (0, 0, None, None)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"version": 3}, "is of version 3, and this code reads versions 1 to 2"),
        ({"version": 0}, "is of version 0, and this code reads versions 1 to 2"),
        ({"state": "done"}, "state cannot be 'done'"),
        ({"config": None}, "has no field 'config'"),
        ({"uid": None}, "has no field 'uid'"),
        ({"seed": "3"}, "seed must be a whole number, not '3'"),
        ({"asked": [16, 8.5]}, "asked must be a whole number, not 8.5"),
        ({"tracked": "yes"}, "tracked must be true or false"),
        ({"failures": {"t0001": 3}}, "failures.t0001 must be a text"),
        ({"hypervolume": float("nan")}, "hypervolume is nan"),
        ({"reference": {"map": 0.0, "gflops": float("inf")}}, "gflops is inf"),
    ],
)
def test_what_cannot_be_read_is_refused(changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    sweep = Home(tmp_path).sweep("s")
    sweep.folder.mkdir(parents=True)
    sweep.record.write_text(json.dumps({**FINISHED.to_json(), **changed}))
    with pytest.raises((DataError, NonFiniteError)) as refused:
        read_record(sweep)
    assert said in refused.value.message and str(sweep.record) in refused.value.message
    assert refused.value.hint


def test_half_of_one_is_none_and_an_unknown_one_names_the_others(tmp_path: Path) -> None:
    home = Home(tmp_path)
    write_record(home.sweep("other"), RUNNING)
    with pytest.raises(UnknownNameError, match="unknown sweep: 's'") as refused:
        known_record(home.sweep("s"))
    assert "other" in refused.value.hint
    home.sweep("s").folder.mkdir()
    home.sweep("s").record.write_text('{"name": ')
    assert read_record(home.sweep("s")) is None
    with pytest.raises(DataError, match="is damaged") as damaged:
        known_record(home.sweep("s"))
    assert "name=s" in damaged.value.hint


def test_one_that_cannot_be_read_hides_no_other_in_the_list(tmp_path: Path) -> None:
    home = Home(tmp_path)
    write_record(home.sweep("s"), FINISHED)
    home.sweep("later").folder.mkdir()
    home.sweep("later").record.write_text(json.dumps({**FINISHED.to_json(), "version": 3}))
    later, other = (listing.to_json() for listing in list_sweeps(home))
    assert (later["name"], later["state"], later["asked"]) == ("later", "unreadable", None)
    assert "version 3" in str(later["error"])
    assert (other["name"], other["state"], other["asked"], other["hypervolume"]) == (
        "s",
        "finished",
        25,
        0.125,
    )
    assert other["reference"] == {"map_iou_0.1_0.7": 0.1, "gflops": 2.5}


def test_those_of_an_earlier_version_are_read_and_keep_what_they_say() -> None:
    found = list(_of_the_fixture())
    assert {each["name"] for each in found} == {"finished", "interrupted", "localization"}
    for each in found:
        assert "version" not in each
        written = SweepRecord.from_json(each, "here").to_json()
        search = dict(each["config"]["search"])
        search["report_all_points"] = search.pop("tell_swept")
        search |= {"guided_by": "point", "plan": "knobs", **STOPPING}
        expected = {**each, "config": {**each["config"], "search": search}}
        assert {key: written[key] for key in each} == expected


def _of_the_fixture() -> Any:
    for first in sorted(FIXTURE.glob("*.tar.xz.0")):
        parts = sorted(FIXTURE.glob(f"{first.stem}.*"))
        with tarfile.open(fileobj=io.BytesIO(b"".join(part.read_bytes() for part in parts))) as archive:
            for member in archive.getmembers():
                file = archive.extractfile(member) if member.name.endswith("/sweep.json") else None
                if file is not None:
                    yield json.loads(file.read())


def test_a_list_is_refused() -> None:
    with pytest.raises(DataError, match="holds a list, not an object"):
        SweepRecord.from_json([], "here")
