"""Every writer leaves nothing half written on a disk that is really full."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import fill

from paretovid.platform.execution.context import keep_checkpoint
from paretovid.platform.fronts.build import read_front
from paretovid.platform.records.failure import record_failure
from paretovid.platform.records.front_files import TABLE
from paretovid.platform.records.journal import SweepJournal
from paretovid.platform.search.storage import connect_storage
from paretovid.platform.storage.faults import infrastructure_fault
from paretovid.platform.storage.home import SweepPaths
from paretovid.platform.sweeps.run import write_front
from paretovid.platform.testing.sweeps import synthetic_sweep, write_trial
from paretovid.trainables.backbones.catalog import FAMILIES, component, save_backbone
from paretovid.trainables.data.dataset import write_json
from paretovid.trainables.data.moving_digits.contact_sheet import contact_sheet
from paretovid.trainables.data.moving_digits.generate import MovingDigitsConfig, make_moving_digits
from paretovid.trainables.data.partial_files import partial_file
from paretovid.trainables.features.store import write_shard


def shard(disk: Path) -> None:
    rows = {"v": np.zeros((100, 64), np.float32)}
    write_shard(disk, 0, rows, asked=["v"], skipped={}, width=64, dtype="float32")


def document(disk: Path) -> None:
    write_json(disk / "manifest.json", list(range(5000)))


def failure(disk: Path) -> None:
    record_failure(SweepPaths(disk).trial("t0000"), "x" * 9000)


def backbone(disk: Path) -> None:
    name = FAMILIES["small"]["coarse"]
    save_backbone(disk, name, component(name).build(3))


def checkpoint(disk: Path) -> None:
    made = disk.parent / "made"
    made.mkdir()
    (made / "checkpoint.safetensors").write_bytes(b"0" * 9000)
    keep_checkpoint(SweepPaths(disk).trial("t0000"), made)


def sheet(disk: Path) -> None:
    config = MovingDigitsConfig(
        videos_train=1, videos_val=1, videos_test=2, min_seconds=3.0, max_seconds=4.0, difficulty=0.0
    )
    contact_sheet(make_moving_digits(config, disk.parent / "set"), disk / "sheet.png")


WRITERS = [shard, document, failure, backbone, checkpoint, sheet]


@pytest.mark.parametrize("write", WRITERS, ids=[each.__name__ for each in WRITERS])
def test_a_full_disk_is_told_as_that_and_takes_nothing(
    small_disk: Path, write: Callable[[Path], None]
) -> None:
    SweepPaths(small_disk).trial("t0000").folder.mkdir(parents=True)
    filler = fill(small_disk)
    with pytest.raises(Exception) as raised:
        write(small_disk)
    fault = infrastructure_fault(raised.value)
    assert fault is not None and fault.is_full and str(small_disk) in fault.reason
    assert [path for path in small_disk.rglob("*") if path.is_file()] == [filler]


def test_features_that_find_the_disk_full_after_a_part_name_the_file_and_what_is_free(
    small_disk: Path,
) -> None:
    """NumPy's own error has neither: the first blocks fit, the others do not."""
    filler = fill(small_disk)
    os.truncate(filler, filler.stat().st_size - 2**20)
    rows = {"v": np.zeros((2**15, 64), np.float32)}  # 8 MiB
    with pytest.raises(OSError, match="No space left on device") as raised:
        write_shard(small_disk, 3, rows, asked=["v"], skipped={}, width=64, dtype="float32")
    fault = infrastructure_fault(raised.value)
    assert fault is not None and fault.is_full
    assert fault.reason.startswith(str(small_disk / "shard_00003.")), fault.reason
    assert fault.reason.endswith("No space left on device (1.0 MiB free)")
    assert [path for path in small_disk.rglob("*") if path.is_file()] == [filler]


def test_journal_and_study_go_on_where_they_were_when_there_is_room_again(small_disk: Path) -> None:
    journal = SweepJournal(SweepPaths(small_disk))
    study, _ = connect_storage(f"journal://{small_disk}/optuna.journal")
    journal.write("state", state="running")
    filler = fill(small_disk)
    for write in (
        lambda: journal.write("start", trial="t" * 9000),
        lambda: study.create_new_study([], "s" * 9000),
    ):
        with pytest.raises(OSError, match="No space left"):
            write()
    filler.unlink()
    journal.write("finish", trial="t0000")
    assert study.get_all_studies() == []


def test_what_was_written_before_an_error_is_gone_with_it(tmp_path: Path) -> None:
    for make in (Path.touch, Path.mkdir):
        with pytest.raises(KeyboardInterrupt), partial_file(tmp_path / "x.partial") as partial:
            make(partial)
            raise KeyboardInterrupt
        assert list(tmp_path.iterdir()) == []
    with partial_file(tmp_path / "x.partial") as partial:
        partial.write_text("x")
        partial.replace(tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.slow
def test_the_table_of_a_front_is_replaced_not_written_over(tmp_path: Path) -> None:
    """Whoever reads it, or finds the disk full in the middle, has the former one whole."""
    sweep = synthetic_sweep(tmp_path / "s", trials=1)
    write_front(sweep, read_front([sweep]))
    before = (sweep.folder / TABLE).read_text()
    os.link(sweep.folder / TABLE, tmp_path / "former")
    write_trial(sweep, "t0001", [(0.9, 0.001)])
    write_front(sweep, read_front([sweep]))
    assert (sweep.folder / TABLE).read_text() != before == (tmp_path / "former").read_text()
    assert not list(tmp_path.rglob("*.partial"))
