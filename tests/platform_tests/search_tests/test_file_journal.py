"""A journal of studies with damage of every kind: each line costs itself, and nobody waits for the dead."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from paretovid.platform.search import file_journal
from paretovid.platform.search.file_journal import FileJournal, LinkLock
from paretovid.platform.search.study import ParetoStudy
from paretovid.search_spaces.schema import KnobConfig
from paretovid.trainables.testing import synthetic_metrics

KNOBS = {
    "gamma": KnobConfig(field="target_usage", low=0.01, high=0.5, log=True, cheapest="low"),
    "lambda": KnobConfig(field="usage_weight", low=0.25, high=8, log=True, cheapest="high"),
}
SWEEPS = ("first", "second", "third")
TRIALS = 3


def study_of(journal: Path, sweep: str, trials: int = TRIALS) -> ParetoStudy:
    return ParetoStudy(storage=f"journal://{journal}", name=sweep, knobs=KNOBS, trials=trials, seed=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The journal of three sweeps that ran at the same time: their lines lie between each other's."""
    journal = tmp_path_factory.mktemp("made") / "optuna.journal"
    studies = {sweep: study_of(journal, sweep) for sweep in SWEEPS}
    for _ in range(TRIALS):
        asked = [(study, study.ask()) for study in studies.values()]
        for study, suggestion in asked:
            assert suggestion is not None
            gamma = suggestion.knobs["gamma"]
            assert isinstance(gamma, float)
            study.report(suggestion.trial_id, synthetic_metrics(gamma, 10 * gamma))
    return journal


@pytest.fixture
def journal(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(made, tmp_path / "optuna.journal"))


def trials_in(journal: Path) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """The trials of each study, in their order, and what was said of the journal."""
    said: list[str] = []
    storage = JournalStorage(FileJournal(journal, say=said.append))
    found = {}
    for study in optuna.get_all_study_summaries(storage):
        trials = optuna.load_study(study_name=study.study_name, storage=storage).get_trials(deepcopy=False)
        found[study.study_name] = [
            {"state": trial.state.name, "params": trial.params, "values": trial.values} for trial in trials
        ]
    return found, said


def as_nul(line: bytes) -> bytes:
    return b"\0" * (len(line) - 1) + b"\n"


def as_noise(line: bytes) -> bytes:
    return b"\xff#" * (len(line) // 2) + b"\n"


def without_its_end(line: bytes) -> bytes:
    return line[: len(line) * 3 // 4] + b"\n"


def with_a_letter_changed(line: bytes) -> bytes:
    return line.replace(b":", b";", 1)


def with_another_type(line: bytes) -> bytes:
    """Still JSON, and nothing that Optuna could apply."""
    record = json.loads(line)
    record["trial_id" if "trial_id" in record else "study_name" if "study_name" in record else "study_id"] = [
        7
    ]
    return json.dumps(record).encode() + b"\n"


def nested(line: bytes) -> bytes:
    return b"[" * 100_000 + b"\n"


@pytest.mark.parametrize(
    "harm", [as_nul, as_noise, without_its_end, with_a_letter_changed, with_another_type, nested]
)
def test_any_one_damaged_line_costs_itself_and_no_other_sweep(
    made: Path, journal: Path, harm: Callable[[bytes], bytes]
) -> None:
    before, said = trials_in(made)
    assert said == [] and [len(trials) for trials in before.values()] == [TRIALS] * 3
    lines = made.read_bytes().splitlines(keepends=True)
    assert len(lines) > 50
    for place, line in enumerate(lines):
        journal.write_bytes(b"".join([*lines[:place], harm(line), *lines[place + 1 :]]))
        after, said = trials_in(journal)
        assert said == [f"{journal}: line {place + 1} cannot be read and is left out"]
        whose = {sweep for sweep in SWEEPS if after.get(sweep) != before[sweep]}
        assert len(whose) <= 1, f"line {place + 1} of {line!r} has cost {whose}"
        for sweep in whose & after.keys():
            changed = [old != new for old, new in zip(before[sweep], after[sweep], strict=True)]
            assert sum(changed) <= 1, f"line {place + 1} of {line!r} has cost {sum(changed)} trials"


def test_a_sweep_goes_on_after_any_of_its_lines_was_lost(made: Path, journal: Path) -> None:
    lines = made.read_bytes().splitlines(keepends=True)
    for place in range(0, len(lines), 7):
        journal.write_bytes(b"".join([*lines[:place], as_noise(lines[place]), *lines[place + 1 :]]))
        for sweep in SWEEPS:
            study = study_of(journal, sweep, trials=TRIALS + 1)
            while (suggestion := study.ask()) is not None:
                study.report(suggestion.trial_id, synthetic_metrics(0.5, 1.0))
            assert study.counts().complete == TRIALS + 1


def test_a_page_of_nuls_costs_the_lines_that_were_in_it(made: Path, journal: Path) -> None:
    content = made.read_bytes()
    start = len(content) // 3
    journal.write_bytes(content[:start] + b"\0" * 600 + content[start + 600 :])
    before, after = trials_in(made)[0], trials_in(journal)[0]
    assert after.keys() == before.keys()
    assert {name: len(trials) for name, trials in after.items()} == dict.fromkeys(SWEEPS, TRIALS)
    changed = sum(old != new for name in SWEEPS for old, new in zip(before[name], after[name], strict=True))
    assert 0 < changed <= 3


def test_empty_lines_and_nuls_between_lines_cost_nothing(made: Path, journal: Path) -> None:
    lines = made.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"\n\r\n".join(lines))
    assert trials_in(journal) == (trials_in(made)[0], [])
    journal.write_bytes(b"".join([*lines[:9], b"\0" * 40, *lines[9:]]))
    assert trials_in(journal)[0] == trials_in(made)[0]


@pytest.mark.parametrize("tail", [b'{"op_code": 4, "study_id": 0', b"\0" * 200_000, b"x" * 2_000_000])
def test_an_unfinished_end_is_cut_off_by_the_next_writer(made: Path, journal: Path, tail: bytes) -> None:
    with journal.open("ab") as file:
        file.write(tail)
    assert trials_in(journal) == (trials_in(made)[0], []), (
        "somebody may be writing it: a reader leaves it alone"
    )
    study_of(journal, "second", trials=TRIALS + 1).ask()
    found, said = trials_in(journal)
    assert said == [] and [len(trials) for trials in found.values()] == [TRIALS, TRIALS + 1, TRIALS]
    assert journal.read_bytes().startswith(made.read_bytes() + b"{")


def test_a_line_that_the_disk_had_no_room_for_is_taken_back(journal: Path) -> None:
    """`RLIMIT_FSIZE` stops the write in the middle, as a full disk does."""
    before = journal.read_bytes()
    code = (
        "import resource, signal, sys\nfrom pathlib import Path\n"
        "from paretovid.platform.search.file_journal import FileJournal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "journal = Path(sys.argv[1])\n"
        "size = journal.stat().st_size + 20\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))\n"
        "try:\n    FileJournal(journal).append_logs([{'op_code': 10, 'worker_id': 'x' * 100}])\n"
        "except OSError as error:\n    print(type(error).__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(journal)], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("OSError\n", "")
    assert journal.read_bytes() == before and not LinkLock(journal)._link.is_symlink()


def test_records_of_another_process_are_read_as_they_come(journal: Path) -> None:
    said: list[str] = []
    mine = FileJournal(journal, say=said.append)
    first = list(mine.read_logs(0))
    with journal.open("ab") as file:
        file.write(b'{"op_code":10,"worker_id":"other"}\n{"op_code":10,"wor')
    assert mine.read_logs(len(first)) == [{"op_code": 10, "worker_id": "other"}]
    with journal.open("ab") as file:
        file.write(b'ker_id":"slow"}\n')
    assert mine.read_logs(len(first) + 1) == [{"op_code": 10, "worker_id": "slow"}]
    assert list(mine.read_logs(0))[: len(first)] == first and said == []


class StaleAt(io.BufferedReader):
    """A file whose disk is away after some of its lines."""

    place: int

    def __iter__(self) -> Iterator[bytes]:
        for _ in range(self.place):
            yield self.readline()
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), self.name)


@pytest.mark.parametrize("known", [0, 1])
def test_a_disk_that_goes_away_in_the_middle_of_a_reading_costs_no_record(
    journal: Path, known: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Injected just below our code, as no disk here is stale: one reading ends with ESTALE after some lines."""
    first, *others = journal.read_bytes().splitlines(keepends=True)
    whole = list(FileJournal(journal).read_logs(0))
    open_path = Path.open
    faults: list[int] = []

    def open_once_stale(path: Path, mode: str = "r", *words: Any, **named: Any) -> Any:
        if path != journal or mode != "rb" or not faults:
            return open_path(path, mode, *words, **named)
        file = StaleAt(io.FileIO(path))
        file.place = faults.pop()
        return file

    monkeypatch.setattr(Path, "open", open_once_stale)
    for place in (0, 1, len(others) // 2, len(others)):
        journal.write_bytes(first)
        reading = FileJournal(journal)
        assert list(reading.read_logs(0))[known:] == whole[known:1]
        journal.write_bytes(b"".join([first, *others]))
        faults.append(place)
        assert list(reading.read_logs(known)) == whole[known:], place
        assert not faults, "the fault was not met"
    damaged: list[str] = []
    journal.write_bytes(b"".join([first, as_noise(others[0]), *others]))
    faults.append(len(others))
    FileJournal(journal, say=damaged.append).read_logs(0)
    assert damaged == [f"{journal}: line 2 cannot be read and is left out"], "told once, by its own number"


def test_two_processes_write_one_journal_and_lose_nothing(tmp_path: Path) -> None:
    """One of them with Optuna's own backend and lock, as an earlier version has."""
    journal = tmp_path / "optuna.journal"
    writers = [FileJournal(journal), JournalFileBackend(str(journal))]

    def write(number: int) -> None:
        for index in range(25):
            writers[number].append_logs([{"op_code": 10, "worker_id": str(number), "index": index}])

    threads = [threading.Thread(target=write, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = list(FileJournal(journal).read_logs(0))
    for number in range(2):
        assert [log["index"] for log in found if log["worker_id"] == str(number)] == list(range(25))


def test_a_lock_whose_owner_saw_another_path_is_broken_after_its_time(journal: Path) -> None:
    link = journal.with_name("optuna.journal.lock")
    link.symlink_to("/mnt/of-another-host/home/optuna.journal")
    began = time.monotonic()
    FileJournal(journal, lock_seconds=0.3).append_logs([{"op_code": 10, "worker_id": "x"}])
    assert 0.3 <= time.monotonic() - began < 5
    assert not link.is_symlink() and [path.name for path in journal.parent.iterdir()] == [journal.name]


def test_a_lock_that_changes_hands_is_waited_for(journal: Path) -> None:
    """Others come and go, each for less than the time: none of them is dead."""
    link = journal.with_name("optuna.journal.lock")
    ended = threading.Event()

    def replace() -> None:
        until = time.monotonic() + 1.0
        link.symlink_to("/elsewhere/0")
        while time.monotonic() < until:
            new = link.with_name("new")
            new.symlink_to(f"/elsewhere/{time.monotonic_ns()}")
            new.rename(link)
            time.sleep(0.02)
        ended.set()
        link.unlink()

    thread = threading.Thread(target=replace)
    thread.start()
    while not link.is_symlink():
        time.sleep(0.001)
    with LinkLock(journal, patience=0.5).held():
        assert ended.is_set()
    thread.join()


def test_an_owner_that_was_taken_for_dead_does_not_free_the_lock_of_the_next(journal: Path) -> None:
    slow, quick = LinkLock(journal), LinkLock(journal, patience=0.1)
    with slow.held():
        with quick.held():
            mine = slow._identity(slow._link)
        assert slow._identity(slow._link) is None
        JournalFileSymlinkLock(str(journal)).acquire()
        other = slow._identity(slow._link)
        assert other not in (None, mine)
    assert slow._identity(slow._link) == other


def test_a_lock_that_was_replaced_while_it_was_broken_is_put_back(journal: Path) -> None:
    lock = LinkLock(journal)
    lock._link.symlink_to("/elsewhere/new")
    new = lock._identity(lock._link)
    lock._break((1, 2, 3))
    assert lock._identity(lock._link) == new
    assert sorted(path.name for path in journal.parent.iterdir()) == [journal.name, f"{journal.name}.lock"]


def test_the_time_of_a_lock_is_that_of_the_earlier_versions() -> None:
    assert JournalFileSymlinkLock("x").grace_period == file_journal.LOCK_SECONDS
