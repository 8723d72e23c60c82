"""`failure.json`: what is written is read, what earlier versions wrote too, and the rest refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from paretovid.platform.records.failure import failure_of, record_failure
from paretovid.platform.storage.home import Home
from paretovid.trainables.errors import DataError


def test_what_is_written_is_read(tmp_path: Path) -> None:
    trial = Home(tmp_path).trial("s", "t0000")
    assert failure_of(trial) is None
    record_failure(trial, "the loss became nan")
    assert failure_of(trial) == "the loss became nan"


def test_what_earlier_versions_wrote_is_read(tmp_path: Path) -> None:
    trial = Home(tmp_path).trial("s", "t0000")
    trial.folder.mkdir(parents=True)
    trial.failure.write_text('{"reason": "boom"}')
    assert failure_of(trial) == "boom"


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"version": 2, "reason": "boom"}, "t0000/failure.json is of version 2"),
        ({"version": 0, "reason": "boom"}, "is of version 0"),
        ({"reason": 3}, "reason must be a text"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, document: dict[str, Any], said: str) -> None:
    trial = Home(tmp_path).trial("s", "t0000")
    trial.folder.mkdir(parents=True)
    trial.failure.write_text(json.dumps(document))
    with pytest.raises(DataError) as refused:
        failure_of(trial)
    assert said in refused.value.message and refused.value.hint
