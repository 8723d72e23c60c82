from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
from ray.exceptions import RayTaskError
from safetensors.torch import load_file
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError
from tests.conftest import fill

from paretovid.platform.storage.faults import infrastructure_fault, was_infrastructure, while_away
from paretovid.platform.tracking.store import StoreError
from paretovid.trainables.data.dataset import load_dataset
from paretovid.trainables.data.s3 import ObjectStoreError
from paretovid.trainables.errors import DataError, InfrastructureError, StaleFeaturesError, UsageError
from paretovid.trainables.features.store import FeatureStore

HOME = "/mnt/home"


def answered(number: int, path: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), path) if path else OSError(number, os.strerror(number))


def raised_from(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (answered(errno.ENOENT, f"{HOME}/features/x"), f"{HOME}/features/x: No such file or directory"),
        (answered(errno.EACCES, f"{HOME}/data"), f"{HOME}/data: Permission denied"),
        (answered(errno.ENOTCONN, f"{HOME}/data"), f"{HOME}/data: Transport endpoint is not connected"),
        (answered(errno.ETIMEDOUT, f"{HOME}/data"), f"{HOME}/data: Connection timed out"),
        (answered(errno.ESTALE, "/elsewhere/x"), "/elsewhere/x: Stale file handle"),
        (answered(errno.EIO), "[Errno 5] Input/output error"),
        (answered(errno.ENOENT, "/tmp/of-a-method"), None),
        (answered(errno.EACCES), None),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), None),
        (StaleFeaturesError("no features in /f", "make them"), "no features in /f"),
        (InfrastructureError("first line\nsecond"), "first line"),
        (ObjectStoreError("s3://b cannot be reached (X)", is_passing=True), "s3://b cannot be reached (X)"),
        (raised_from(RuntimeError("a loader died"), answered(errno.EIO, "/x")), "/x: Input/output error"),
        (raised_from(UsageError("cannot be opened"), answered(errno.ESTALE, "/x")), "/x: Stale file handle"),
        (DataError("videos of one class", "add some"), None),
        (ValueError("the mount is stale"), None),
        (MemoryError("x"), None),
    ],
)
def test_whose_fault_an_error_is(error: Exception, reason: str | None) -> None:
    found = infrastructure_fault(error, [Path(HOME)])
    assert (found.reason if found else None) == reason
    assert found is None or not found.is_full


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_without_room_is_told_from_one_that_is_away(number: int) -> None:
    found = infrastructure_fault(answered(number, "/x"))
    assert found is not None and found.is_full
    wrapped = infrastructure_fault(raised_from(InfrastructureError("no room for /x"), answered(number)))
    assert wrapped is not None and wrapped.is_full and wrapped.reason == "no room for /x"


def test_another_processs_error_is_told_in_its_own_words() -> None:
    """Ray raises what passes for an OSError, with a traceback of the worker as its text."""
    said = (
        "\x1b[36mray::_apply()\x1b[39m (pid=7)\n  File ...\nOSError: [Errno 28] No space left on device: '/x'"
    )
    raised = RayTaskError("_apply", said, answered(errno.ENOSPC, "/x")).as_instanceof_cause()
    assert isinstance(raised, OSError)
    found = infrastructure_fault(raised)
    assert found is not None and found.is_full and found.reason == "/x: No space left on device"


def test_a_write_that_a_full_disk_cuts_short_and_a_folder_that_is_not_copied_whole() -> None:
    """In NumPy's words and in shutil's, neither of which has a number."""
    cut = infrastructure_fault(OSError("26816 requested and 3040 written"))
    assert cut is not None and cut.is_full
    assert cut.reason == "No space left on device (26816 requested and 3040 written)"
    copied = infrastructure_fault(
        shutil.Error([("/a/x", "/home/x", "[Errno 28] No space left on device: '/a/x' -> '/home/x'")])
    )
    assert copied is not None and copied.is_full and copied.reason == "/home/x: No space left on device"


def test_what_safetensors_raises_has_its_number_in_its_text(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        load_file(tmp_path / "gone.safetensors")
    assert infrastructure_fault(missing.value, [tmp_path]) is not None
    assert infrastructure_fault(missing.value, ["/elsewhere"]) is None
    said = 'Error while serializing: I/O error: Os { code: 5, kind: Other, message: "x" }'
    assert infrastructure_fault(RuntimeError(said)) is not None
    full = infrastructure_fault(RuntimeError("I/O error: No space left on device (os error 28)"))
    assert full is not None and full.is_full


def test_what_sqlite_says_of_a_full_disk_is_told_from_its_other_errors(small_disk: Path) -> None:
    """As MLflow's store meets it, with what SQLAlchemy and our own error for the store put around it."""
    engine = create_engine(f"sqlite:///{small_disk / 'x.db'}")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE x (y TEXT)"))
    fill(small_disk)
    with pytest.raises(OperationalError) as full, engine.begin() as connection:
        connection.execute(text("INSERT INTO x VALUES (:y)"), {"y": "y" * 100_000})
    engine.dispose()
    for error in (full.value, raised_from(StoreError("the MLflow store cannot be used"), full.value)):
        found = infrastructure_fault(error)
        assert found is not None and found.is_full and "database or disk is full" in found.reason
    assert infrastructure_fault(RuntimeError("(sqlite3.OperationalError) no such table: x")) is None


def test_a_chain_that_bites_its_tail_ends() -> None:
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__cause__, second.__cause__ = second, first
    assert infrastructure_fault(first) is None


def test_what_is_missing_of_data_and_features_is_the_places_fault(tmp_path: Path) -> None:
    for call in (lambda: load_dataset(tmp_path / "no"), lambda: FeatureStore.open(tmp_path / "no@1")):
        with pytest.raises(InfrastructureError) as raised:
            call()
        assert isinstance(raised.value, DataError) and raised.value.hint


@pytest.mark.parametrize(
    ("reason", "is_it"),
    [
        ("features are missing: /home/features/d/c@1/shard_00000.npy", True),
        ("no features in /home/features/d/c@1", True),
        ("features are damaged (their digest differs): /x", True),
        ("no data set at /home/data/d: the folder does not exist", True),
        ("FileNotFoundError: [Errno 2] No such file or directory: '/x'", True),
        ("OSError: [Errno 116] Stale file handle: '/x'", True),
        ("s3://b cannot be reached (ConnectionError)", True),
        ("no permission to read s3://b/k", True),
        ("the loss became nan at step 3", False),
        ("ValueError: features are missing", False),
        ("OSError: [Errno 98] Address already in use", False),
    ],
)
def test_reasons_of_earlier_versions_say_whose_fault_it_was(reason: str, is_it: bool) -> None:
    assert was_infrastructure(reason) is is_it


def test_what_is_away_for_a_moment_is_waited_for(tmp_path: Path) -> None:
    tries: list[int] = []

    def comes_back() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise answered(errno.ENOENT, str(tmp_path / "x"))
        return "here"

    assert while_away(comes_back, places=[tmp_path], seconds=5) == "here" and len(tries) == 3
    for error, seconds in ((answered(errno.ENOSPC, str(tmp_path)), 5), (answered(errno.EIO), 0)):
        tries.clear()

        def fails(error: OSError = error) -> None:
            tries.append(1)
            raise error

        with pytest.raises(OSError, match=error.strerror):
            while_away(fails, places=[tmp_path], seconds=seconds)
        assert len(tries) == 1
