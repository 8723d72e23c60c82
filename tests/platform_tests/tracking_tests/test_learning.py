"""Learning curves in MLflow: shown while a trial trains, each epoch once, and never at a trial's cost."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from paretovid.platform.records.journal import StoppedStart, SweepJournal
from paretovid.platform.records.learning import learning_json, learning_of, read_learning, write_learning
from paretovid.platform.storage.home import Home
from paretovid.platform.testing.sweeps import write_sweep, write_trial
from paretovid.platform.tracking import exporter
from paretovid.platform.tracking.exporter import Delivery, Followed, TrackingSender
from paretovid.platform.tracking.store import StoreError, open_store
from paretovid.platform.tracking.tags import learning_figures
from paretovid.trainables.context import Learning, Rung
from paretovid.trainables.errors import DataError


def followed(trial: str = "t0000") -> Followed:
    return Followed(trial=trial, method="lite_eval", knobs={"gamma": 0.1})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield Home(tmp_path_factory.mktemp("home"))


@pytest.fixture
def name(home: Home, request: pytest.FixtureRequest) -> str:
    chosen = re.sub(r"\W", "-", request.node.name)[:60]
    write_sweep(home.sweep(chosen), {"state": "running"})
    home.trial(chosen, "t0000").folder.mkdir(parents=True)
    return chosen


def learned(epochs: int, *rungs: int) -> Learning:
    """Of a training of four epochs, whose loss is half of what it was after each."""
    points = ((0.5, 0.02), (0.4, 0.01))
    return Learning(
        epochs=4,
        history=tuple({"loss": 1.0 / 2**epoch} for epoch in range(epochs)),
        rungs=tuple(Rung(share=each / 4, epoch=each, points=points) for each in rungs),
    )


def write(home: Home, name: str, learning: Learning) -> None:
    write_learning(home.trial(name, "t0000"), learning)


def child(home: Home, name: str) -> Any:
    store = open_store(home)
    condition = f"tags.`paretovid.kind` = 'trial' AND tags.`paretovid.sweep` = '{name}'"
    (found,) = store.client.search_runs([store.experiment_id], condition)
    return found


def series(home: Home, run: Any, metric: str) -> list[tuple[int, float]]:
    found = open_store(home).client.get_metric_history(run.info.run_id, metric)
    return sorted((each.step, each.value) for each in found)


def begun(home: Home, name: str) -> tuple[Delivery, SweepJournal]:
    journal, delivery = SweepJournal(home.sweep(name)), Delivery(home, name, None)
    delivery.send([journal.write("driver")])
    return delivery, journal


def test_a_running_trial_shows_its_epochs_and_a_finished_one_has_each_once(home: Home, name: str) -> None:
    delivery, journal = begun(home, name)
    write(home, name, learned(2))
    delivery.send_learning([followed()])
    running = child(home, name)
    assert running.info.status == "RUNNING"
    assert running.data.tags["paretovid.trial"] == "t0000" and "gamma=0.1" in running.info.run_name
    assert series(home, running, "train/loss") == [(0, 1.0), (1, 0.5)]
    write(home, name, learned(3, 2))
    delivery.send_learning([followed()])
    assert series(home, running, "rung/quality") == [(2, 0.5)]
    assert series(home, running, "rung/gflops") == [(2, 0.02)]
    assert series(home, running, "rung/hypervolume") == [(2, pytest.approx(0.01 * 0.4))]
    # Another driver, which does not know what this one has sent.
    history = [{"loss": 1.0 / 2**epoch} for epoch in range(4)]
    write(home, name, learned(4, 2))
    write_trial(home.sweep(name), "t0000", [(0.5, 0.02)], training={"history": history})
    Delivery(home, name, None).send([journal.write("finish", trial="t0000")])
    done = child(home, name)
    assert done.info.run_id == running.info.run_id and done.info.status == "FINISHED"
    assert series(home, done, "train/loss") == [(epoch, 1.0 / 2**epoch) for epoch in range(4)]
    assert len(series(home, done, "rung/quality")) == 1
    assert done.data.tags["paretovid.data"] and "being trained" not in done.data.tags["mlflow.note.content"]


def test_what_was_never_sent_while_it_trained_comes_with_the_result(home: Home, name: str) -> None:
    delivery, journal = begun(home, name)
    write(home, name, learned(2, 1))
    write_trial(home.sweep(name), "t0000", [(0.5, 0.02)])
    delivery.send([journal.write("finish", trial="t0000")])
    done = child(home, name)
    assert series(home, done, "train/loss") == [(0, 1.0), (1, 0.5)]
    assert series(home, done, "rung/quality") == [(1, 0.5)]


def test_a_stopped_trial_is_a_run_of_its_own_that_says_where(home: Home, name: str) -> None:
    delivery, journal = begun(home, name)
    write(home, name, learned(1))
    delivery.send_learning([followed()])
    write(home, name, learned(2, 1))
    stopped = StoppedStart(epoch=2, epochs=4, method="lite_eval", knobs={"gamma": 0.1})
    entry = journal.write("stopped", trial="t0000", **stopped.to_json())
    for _ in range(2):  # as after a driver was killed between sending and noting it
        Delivery(home, name, None).send([entry])
    run = child(home, name)
    assert run.info.status == "KILLED" and run.data.tags["paretovid.stopped"] == "epoch 2 of 4"
    assert run.data.params["gamma"] == "0.1"
    assert series(home, run, "train/loss") == [(0, 1.0), (1, 0.5)]
    assert series(home, run, "rung/quality") == [(1, 0.5)]


def test_an_interrupted_trial_does_not_run_for_ever_and_runs_again_when_it_is_resumed(
    home: Home, name: str
) -> None:
    delivery, journal = begun(home, name)
    write(home, name, learned(2))
    delivery.send_learning([followed()])
    delivery.send([journal.write("state", state="interrupted")])
    assert child(home, name).info.status == "KILLED"
    again = Delivery(home, name, None)
    again.send([journal.write("driver")])
    write(home, name, learned(3))
    again.send_learning([followed()])
    run = child(home, name)
    assert run.info.status == "RUNNING"
    assert series(home, run, "train/loss") == [(0, 1.0), (1, 0.5), (2, 0.25)]


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.time() + 60
    while not condition():
        assert time.time() < until
        time.sleep(0.02)


class Counted:
    """In the place of a delivery: keeps what it is asked to send of running trials."""

    sent = 0

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    def send(self, entries: Any) -> list[str]:
        return []

    def send_learning(self, running: Any) -> None:
        self.asked.append(tuple(each.trial for each in running))
        raise StoreError("nobody answers")


def test_running_trials_are_sent_a_few_at_a_time_by_turns_and_a_lost_server_stops_nothing(
    home: Home, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "LEARNING_SECONDS", 0.01)
    monkeypatch.setattr(exporter, "_RETRY_SECONDS", (0.01,))
    monkeypatch.setattr(exporter, "LEARNING_TRIALS", 2)
    counted = Counted()
    monkeypatch.setattr(exporter, "Delivery", lambda *words: counted)
    sender = TrackingSender(home, name, None, print)
    for number in range(3):
        sender.follow(followed(f"t{number:04d}"))
    sender.start()
    wait_until(lambda: len(counted.asked) >= 3)
    assert counted.asked[:3] == [("t0000", "t0001"), ("t0002", "t0000"), ("t0001", "t0002")]
    for number in range(3):
        sender.unfollow(f"t{number:04d}")
    wait_until(lambda: not counted.asked[-1])
    assert sender.close(None) == 0


def test_what_the_store_has_is_left_out() -> None:
    found = learning_figures(learned(3, 1, 2), {0, 1}, {1})
    assert {(name, step) for name, _, step in found} == {
        ("train/loss", 2),
        ("rung/quality", 2),
        ("rung/gflops", 2),
        ("rung/hypervolume", 2),
    }


def test_the_document_is_read_as_it_was_written_and_numbers_that_are_not_finite_are_left_out(
    tmp_path: Path,
) -> None:
    whole = learned(3, 1, 2)
    assert learning_of(learning_json(whole), "here") == whole
    odd = Learning(
        epochs=2,
        history=({"loss": float("nan"), "usage": 1.0},),
        rungs=(Rung(share=0.5, epoch=1, points=((float("nan"), 1.0), (0.5, 1.0))),),
    )
    read = learning_of(learning_json(odd), "here")
    assert read.history == ({"usage": 1.0},) and read.rungs[0].points == ((0.5, 1.0),)
    trial = Home(tmp_path).trial("s", "t0000")
    assert read_learning(trial) is None
    trial.folder.mkdir(parents=True)
    trial.learning.write_text('{"version": 1, "epo')
    assert read_learning(trial) is None
    trial.learning.write_text('{"version": 9}')
    with pytest.raises(DataError, match="version 9"):
        read_learning(trial)
