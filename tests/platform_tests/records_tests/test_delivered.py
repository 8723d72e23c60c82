"""`tracked.json`: what is written is read, what earlier versions wrote too, and the rest refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from paretovid.platform.records.delivered import Delivered, read_delivered, write_delivered
from paretovid.platform.storage.home import SweepPaths
from paretovid.trainables.errors import DataError

SENT = Delivered(last_events={"home": 7, "http://server:5000": 5})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    sweep = SweepPaths(tmp_path)
    write_delivered(sweep, SENT)
    assert read_delivered(sweep) == SENT and SENT.latest == 7
    later = SENT.with_event("http://server:5000", 9)
    assert later.last_events == {"home": 7, "http://server:5000": 9} and later.latest == 9


def test_nothing_was_sent_where_there_is_no_file_or_half_of_one(tmp_path: Path) -> None:
    sweep = SweepPaths(tmp_path)
    assert read_delivered(sweep) == Delivered() and Delivered().latest == 0
    sweep.tracked.write_text('{"home": 7')
    assert read_delivered(sweep) == Delivered()


def test_what_earlier_versions_wrote_is_read(tmp_path: Path) -> None:
    sweep = SweepPaths(tmp_path)
    sweep.tracked.write_text('{"home": 7, "http://server:5000": 5}')
    assert read_delivered(sweep) == SENT


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"version": 3, "last_events": {"home": 7}}, "tracked.json is of version 3"),
        ({"version": 0, "home": 7}, "tracked.json is of version 0"),
        ({"version": 2}, "has no field 'last_events'"),
        ({"version": 2, "last_events": {"home": 7.5}}, "home must be a whole number"),
        ({"home": "seven"}, "home must be a whole number"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, document: dict[str, Any], said: str) -> None:
    sweep = SweepPaths(tmp_path)
    sweep.tracked.write_text(json.dumps(document))
    with pytest.raises(DataError) as refused:
        read_delivered(sweep)
    assert said in refused.value.message and refused.value.hint
