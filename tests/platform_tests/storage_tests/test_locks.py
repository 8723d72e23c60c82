"""Locks on files: one holder at a time, and none once it is gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from paretovid.platform.storage.locks import _flock, alone
from paretovid.trainables.errors import UsageError


def test_a_folder_is_one_holders_until_it_lets_go(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "for" / "it"
    for _ in range(2):
        with alone(folder):
            assert (folder / ".lock").is_file()
            with pytest.raises(UsageError, match=f"the sweep in {folder} is running already"), alone(folder):
                pytest.fail("two hold it")
            with alone(folder, "another"):
                pass
    with pytest.raises(RuntimeError), alone(folder):
        raise RuntimeError("on purpose")
    with alone(folder):
        pass


def test_a_lock_is_had_at_once_or_not_at_all(tmp_path: Path) -> None:
    held = _flock(tmp_path / "lock")
    assert held is not None and _flock(tmp_path / "lock") is None
    held.close()
    again = _flock(tmp_path / "lock")
    assert again is not None
    again.close()
