"""`stop.json` and `take-over.json`: what is written is read, what earlier versions wrote too, and the rest refused."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from paretovid.platform.records.control_requests import (
    StopRequest,
    TakeOverRequest,
    ask_to_give_way,
    ask_to_stop,
    stop_request,
    take_back_stop,
    take_over_request,
)
from paretovid.platform.storage.home import SweepPaths
from paretovid.trainables.errors import DataError, NonFiniteError

STOP = StopRequest(reason="interrupted by ctrl-C", at=170.25)
TAKE_OVER = TakeOverRequest(by="process 7 on vm", at=170.25)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    sweep, before = SweepPaths(tmp_path), time.time()
    assert stop_request(sweep) is None and take_over_request(sweep) is None
    ask_to_stop(sweep, STOP.reason)
    ask_to_give_way(sweep, TAKE_OVER.by)
    asked, other = stop_request(sweep), take_over_request(sweep)
    assert asked is not None and asked.reason == STOP.reason and before <= asked.at <= time.time()
    assert other is not None and other.by == TAKE_OVER.by and before <= other.at <= time.time()
    take_back_stop(sweep)
    assert stop_request(sweep) is None and not sweep.stop.exists()


def test_what_earlier_versions_wrote_is_read() -> None:
    assert StopRequest.from_json({"reason": "interrupted by ctrl-C", "at": 170.25}, "here") == STOP
    assert TakeOverRequest.from_json({"by": "process 7 on vm", "at": 170.25}, "here") == TAKE_OVER


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"version": 2}, "json is of version 2"),
        ({"at": "170"}, "at must be a number"),
        ({"reason": None, "by": None}, "has no field"),
        ({"at": float("nan")}, "is nan"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    sweep = SweepPaths(tmp_path)
    sweep.stop.write_text(json.dumps({**STOP.to_json(), **changed}))
    sweep.take_over.write_text(json.dumps({**TAKE_OVER.to_json(), **changed}))
    for read, path in ((stop_request, sweep.stop), (take_over_request, sweep.take_over)):
        with pytest.raises((DataError, NonFiniteError)) as refused:
            read(sweep)
        assert said in refused.value.message and str(path) in refused.value.message and refused.value.hint
