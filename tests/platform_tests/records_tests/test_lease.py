"""`driver.json` and `alive.json`: what is written is read, what earlier versions wrote too, and the rest refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from paretovid.platform.records.lease import DriverLease, TrialHeartbeat
from paretovid.trainables.errors import DataError, NonFiniteError

DRIVER = DriverLease(name="a", host="vm", pid=7, started=100.0, heartbeat=160.5, beats=9)
TRIAL = TrialHeartbeat(
    lease="b", host="vm", pid=8, at=170.25, beats=3, progress={"epoch": 2.0, "epochs": 40.0}
)


def test_what_is_written_is_read() -> None:
    assert DriverLease.from_json(json.loads(json.dumps(DRIVER.to_json())), "here") == DRIVER
    assert TrialHeartbeat.from_json(json.loads(json.dumps(TRIAL.to_json())), "here") == TRIAL


def test_what_earlier_versions_wrote_is_read() -> None:
    driver = {"name": "a", "host": "vm", "pid": 7, "started": 100.0, "heartbeat": 160.5, "ended": False}
    assert DriverLease.from_json(driver, "here") == replace(DRIVER, beats=0)
    trial = {"claim": "b", "host": "vm", "pid": 8, "at": 170.25, "beats": 3, "epoch": 2.0, "epochs": 40.0}
    assert TrialHeartbeat.from_json(trial, "here") == TRIAL


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"version": 2}, "here is of version 2"),
        ({"pid": "7"}, "pid must be a whole number"),
        ({"host": None}, "has no field 'host'"),
        ({"heartbeat": float("nan"), "at": float("nan")}, "is nan"),
    ],
)
def test_what_cannot_be_read_is_refused(changed: dict[str, Any], said: str) -> None:
    for document in (DRIVER, TRIAL):
        with pytest.raises((DataError, NonFiniteError)) as refused:
            type(document).from_json({**document.to_json(), **changed}, "here")
        assert said in refused.value.message and refused.value.hint
