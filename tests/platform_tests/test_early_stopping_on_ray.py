"""A sweep that stops trials on real parts: real trainings are measured at a rung and judged; its driver is killed on
the way and the sweep resumed. Who is stopped and why: test_early_stopping.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.platform_tests.conftest import SMALL_DATA, copied
from tests.platform_tests.test_resume import events, start, wait_until
from tests.platform_tests.test_sweep import paretovid

from paretovid.platform.records.judgement import stopped_trials
from paretovid.platform.records.learning import read_learning
from paretovid.platform.storage.home import Home
from paretovid.platform.testing.audit import audit
from paretovid.platform.testing.sweeps import kill_with_children

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("shared_cluster"),
]

SETTINGS = [
    *SMALL_DATA,
    "training.epochs=20",
    "training.checkpoint_every_epochs=4",
    "search.trials=7",
    "search.sampler=random",
    "search.concurrent=1",
    "search.stopping=curve",
    "search.rungs=[0.25]",
    "search.keep=0.01",
    "baselines=[]",
    "cluster.cpus=1",
    "name=s",
]
"""Of those that are judged only one that is the best of all goes on."""


def test_trials_are_stopped_and_a_kill_neither_repeats_nor_contradicts_it(
    prepared_home: Path, tmp_path: Path
) -> None:
    home = copied(prepared_home, tmp_path / "home")
    sweep = Home(home).sweep("s")

    def judged() -> dict[str, bool]:
        """Trial to whether it goes on."""
        found = [(entry.trial, entry.fields.flag("goes_on")) for entry in events(home, "rung")]
        assert len(dict(found)) == len(found), "a rung is judged once"
        return dict(found)

    process = start("sweep", *SETTINGS, home=home)
    wait_until(lambda: len(judged()) >= 5, process)
    assert kill_with_children(process.pid) > 1
    process.communicate()
    before = judged()
    paretovid("resume", "s", home=home)
    after = judged()
    assert len(after) == 7 and {trial: after[trial] for trial in before} == before
    out = [trial for trial, goes_on in after.items() if not goes_on]
    stopped = stopped_trials(sweep)
    assert out and [each.trial for each in stopped] == sorted(out)
    assert all(5 <= each.epoch < 20 and each.epochs == 20 for each in stopped)
    assert {trial.name for trial in sweep.with_result()} == set(after) - set(out)
    assert not list(sweep.folder.glob("trials/*/checkpoint-*"))
    found = audit(Home(home), "s")
    assert found.study == {"COMPLETE": 7 - len(out), "PRUNED": len(out)}
    assert found.mlflow == {"FINISHED": 7 - len(out), "KILLED": len(out)} and found.mlflow_duplicates == 0
    learning = read_learning(sweep.trial(out[0]))
    assert learning is not None and len(learning.history) >= 5 and learning.rungs[0].epoch == 5
    text, _ = paretovid("sweeps", "s", "--json", home=home)
    assert [each["trial"] for each in json.loads(text)["stopped"]] == sorted(out)
    _, err = paretovid("promote", "s", "--point", f"{out[0]}-p00", "--as", "m", home=home, status=2)
    assert f"{out[0]} was stopped at epoch" in err
