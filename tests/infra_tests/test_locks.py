"""Exclusive locks between processes: held, waited for, refused, asked about, freed by death."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from paretovid.infra.locks import LockHeldError, exclusive_lock, is_locked
from paretovid.trainables.errors import UsageError

HOLDER = """
import sys, time
from pathlib import Path
from paretovid.infra.locks import exclusive_lock
with exclusive_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "some" / "folder" / "x.lock"


@pytest.fixture
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_nobody_else_gets_it_and_death_frees_it(path: Path, holder: subprocess.Popen[str]) -> None:
    assert is_locked(path)
    with (
        pytest.raises(LockHeldError, match="is locked by another process"),
        exclusive_lock(path, wait_seconds=0),
    ):
        pass
    refusal = UsageError("the sweep runs", "Wait.")
    began = time.monotonic()
    with (
        pytest.raises(UsageError, match="the sweep runs"),
        exclusive_lock(path, wait_seconds=0.2, refusal=refusal),
    ):
        pass
    assert time.monotonic() - began >= 0.2
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert not is_locked(path)
    with exclusive_lock(path, wait_seconds=0):
        assert is_locked(path), "also by this process itself"
    assert not is_locked(path) and path.exists()


def test_a_wait_reports_progress_and_ends_when_the_lock_is_free(path: Path) -> None:
    held, beats = threading.Event(), list[int]()

    def hold() -> None:
        with exclusive_lock(path):
            held.set()
            while len(beats) < 3:
                time.sleep(0.01)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    with exclusive_lock(path, waiting=lambda: beats.append(1)):
        assert len(beats) >= 3
    thread.join()


def test_asking_makes_no_file_and_needs_no_right_to_write(path: Path) -> None:
    assert not is_locked(path) and not path.parent.exists()
    with exclusive_lock(path):
        path.chmod(stat.S_IRUSR)
        assert is_locked(path)
    assert not os.access(path, os.W_OK) or os.geteuid() == 0
    assert not is_locked(path)
