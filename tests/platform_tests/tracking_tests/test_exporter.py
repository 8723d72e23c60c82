"""MLflow away: nobody waits, nothing is lost, nothing is there twice, and the order is kept."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from paretovid.platform.records.journal import SweepJournal
from paretovid.platform.storage.home import Home, SweepPaths
from paretovid.platform.testing.sweeps import write_sweep, write_trial
from paretovid.platform.tracking import exporter as tracking_sender
from paretovid.platform.tracking.exporter import Delivery, TrackingSender, last_sent, replay
from paretovid.platform.tracking.store import Store, StoreError, open_store
from paretovid.trainables.errors import DataError

TRIALS = ("t0000", "t0001", "t0002")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """One store for all tests, each with a sweep of its own: making a store takes longer than any of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr(tracking_sender, "_RETRY_SECONDS", (0.05,))
        yield Home(tmp_path_factory.mktemp("home"))


@pytest.fixture
def name(home: Home, request: pytest.FixtureRequest) -> str:
    chosen = re.sub(r"\W", "-", request.node.name)[:60]
    write_sweep(home.sweep(chosen), {"state": "running"})
    return chosen


def finish(home: Home, journal: SweepJournal, trial: str) -> Any:
    number = int(trial[1:])
    write_trial(SweepPaths(journal.path.parent), trial, [(0.3 + 0.1 * number, 0.01 + 0.01 * number)])
    return journal.write("finish", trial=trial, map=0.5, gflops=0.1)


def runs(home: Home, name: str, kind: str) -> list[Any]:
    store = open_store(home)
    condition = f"tags.`paretovid.kind` = '{kind}' AND tags.`paretovid.sweep` = '{name}'"
    found: list[Any] = store.client.search_runs([store.experiment_id], condition)
    return sorted(found, key=lambda run: run.info.start_time)


def away(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes the store refuse, as a server that is down does; returns what brings it back."""
    is_away = [True]

    def opened(home: Home, uri: str | None) -> Store:
        if is_away[0]:
            raise StoreError("nobody answers")
        return open_store(home, uri)

    monkeypatch.setattr(tracking_sender, "open_store", opened)
    return lambda: is_away.__setitem__(0, False)


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.time() + 40
    while not condition():
        assert time.time() < until
        time.sleep(0.02)


def test_a_store_that_is_away_is_reported_later_once_and_in_order(
    home: Home, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    come_back = away(monkeypatch)
    journal, said = SweepJournal(home.sweep(name)), list[str]()
    sender = TrackingSender(home, name, None, said.append)
    sender.start()
    started = time.perf_counter()
    sender.put(journal.write("driver"))
    for trial in TRIALS[:2]:
        sender.put(finish(home, journal, trial))
    assert time.perf_counter() - started < 2, "sending waits for nobody"
    wait_until(lambda: bool(said))
    assert said[0].startswith("  MLflow takes nothing for now") and sender.waiting == 3
    come_back()
    wait_until(lambda: not sender.waiting)
    sender.put(journal.write("fault", trial="t0007", reason="boom", again=False, knobs={"gamma": 0.1}))
    sender.put(finish(home, journal, TRIALS[2]))
    sender.put(journal.write("state", state="interrupted"))
    assert sender.close(None) == 0
    children = runs(home, name, "trial")
    assert [run.data.tags["paretovid.trial"] for run in children] == [*TRIALS[:2], "t0007", TRIALS[2]]
    assert [run.info.status for run in children] == ["FINISHED", "FINISHED", "FAILED", "FINISHED"]
    failed = children[2].data
    assert (failed.tags["paretovid.reason"], failed.params["gamma"]) == ("boom", "0.1")
    (parent,) = runs(home, name, "sweep")
    assert parent.info.status == "KILLED"
    assert [line.split(";")[0].strip() for line in said] == [
        "MLflow takes nothing for now",
        "MLflow answers again",
    ]
    assert last_sent(home.sweep(name)) == 6


def test_what_was_not_taken_is_replayed_and_nothing_is_there_twice(
    home: Home, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    come_back = away(monkeypatch)
    journal, said = SweepJournal(home.sweep(name)), list[str]()
    sender = TrackingSender(home, name, None, said.append)
    sender.start()
    for trial in TRIALS:
        sender.put(finish(home, journal, trial))
    started = time.perf_counter()
    assert sender.close(None) == 3
    assert time.perf_counter() - started < 10
    with pytest.raises(StoreError):
        replay(home, name, None, said.append)
    come_back()
    assert replay(home, name, None, said.append) == 3
    assert replay(home, name, None, said.append) == 0
    assert replay(home, name, None, said.append, whole=True) == 3
    assert [run.data.tags["paretovid.trial"] for run in runs(home, name, "trial")] == list(TRIALS)


def test_a_driver_killed_between_sending_and_noting_it_sends_twice_and_makes_once(
    home: Home, name: str
) -> None:
    journal = SweepJournal(home.sweep(name))
    entries = [finish(home, journal, trial) for trial in TRIALS]
    Delivery(home, name, None).send(entries[:2])
    home.sweep(name).tracked.unlink()
    assert replay(home, name, None, print) == 3
    assert len(runs(home, name, "trial")) == 3


def test_what_a_later_version_has_noted_is_refused_before_anything_is_sent(home: Home, name: str) -> None:
    journal = SweepJournal(home.sweep(name))
    finish(home, journal, "t0000")
    home.sweep(name).tracked.write_text(json.dumps({"version": 3}))
    for begin in (TrackingSender(home, name, None, print).start, lambda: replay(home, name, None, print)):
        with pytest.raises(DataError, match=r"tracked\.json is of version 3"):
            begin()
    home.sweep(name).tracked.unlink()
    assert replay(home, name, None, print) == 1, "nothing had been sent"


def test_a_run_that_a_lost_answer_has_made_twice_is_discarded(home: Home, name: str) -> None:
    journal = SweepJournal(home.sweep(name))
    Delivery(home, name, None).send([finish(home, journal, "t0000")])
    store, (child,) = open_store(home), runs(home, name, "trial")
    tags = {k: v for k, v in child.data.tags.items() if k != "paretovid.complete"}
    store.client.create_run(store.experiment_id, tags=tags)
    assert len(runs(home, name, "trial")) == 2
    Delivery(home, name, None).send([journal.write("state", state="interrupted")])
    (kept,) = runs(home, name, "trial")
    assert kept.info.run_id == child.info.run_id


def test_a_damaged_line_is_reported_and_its_trial_reported_all_the_same(home: Home, name: str) -> None:
    journal, said = SweepJournal(home.sweep(name)), list[str]()
    for trial in TRIALS:
        finish(home, journal, trial)
    journal.write("state", state="interrupted")
    lines = journal.path.read_text().splitlines()
    lines[1] = lines[1].replace("t0001", "t9999")
    journal.path.write_text("\n".join(lines) + "\n")
    assert replay(home, name, None, said.append) == 3
    assert "line 2 is damaged" in said[0]
    # At the end of a sweep all that lies in its folder is sent.
    assert {run.data.tags["paretovid.trial"] for run in runs(home, name, "trial")} == set(TRIALS)


def test_a_result_that_cannot_be_read_is_left_out_and_the_rest_continues(home: Home, name: str) -> None:
    journal, said = SweepJournal(home.sweep(name)), list[str]()
    for trial in TRIALS:
        finish(home, journal, trial)
    home.trial(name, "t0001").result.write_text(json.dumps({"points": 3}))
    home.trial(name, "t0002").result.unlink()
    replay(home, name, None, said.append)
    assert len(said) == 1 and "t0001/result.json has no field" in said[0]
    assert [run.data.tags["paretovid.trial"] for run in runs(home, name, "trial")] == ["t0000"]
