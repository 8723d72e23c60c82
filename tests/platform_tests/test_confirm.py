"""`paretovid confirm` on real trainings, as users run it: killed while it trains, and resumed. At every other moment,
without a cluster: sweeps_tests/test_confirmation.py.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
from tests.platform_tests.conftest import SMALL_DATA, copied
from tests.platform_tests.test_resume import start, wait_until
from tests.platform_tests.test_sweep import paretovid

from paretovid.platform.records.journal import read_journal
from paretovid.platform.storage.home import Home
from paretovid.platform.testing.audit import audit
from paretovid.platform.testing.sweeps import kill_with_children

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("shared_cluster"),
]

SEEDS = 4
SETTINGS = [
    *SMALL_DATA,
    "training.epochs=120",
    "training.checkpoint_every_epochs=5",
    "search.trials=2",
    "search.concurrent=1",
    "baselines=[]",
    "name=s",
]


def test_killed_while_it_trains_it_goes_on_from_its_checkpoint(prepared_home: Path, tmp_path: Path) -> None:
    home = copied(prepared_home, tmp_path / "home")
    sweep = Home(home).sweep("s")
    paretovid("sweep", *SETTINGS, home=home)
    before = json.loads(paretovid("front", "s", "--json", home=home)[0])

    def is_amid() -> bool:
        return bool(sweep.confirmations()) and bool(list(sweep.trials.glob("*@seed*/checkpoint-*[0-9]")))

    process = start("confirm", "s", "--points", "t0000-p00", "--seeds", str(SEEDS), home=home)
    wait_until(is_amid, process)
    assert kill_with_children(process.pid) > 2
    process.communicate()
    done = {training.name for training in sweep.confirmations()}
    assert 0 < len(done) < SEEDS
    status = json.loads(paretovid("sweeps", "s", "--json", home=home)[0])
    assert (status["state"], status["confirmations"]["finished"]) == ("interrupted", len(done))

    _, err = paretovid("resume", "s", home=home)
    assert "] confirmation" in err and "] search" not in err
    entries = read_journal(sweep).entries
    finished = [entry.trial for entry in entries if entry.event == "finish"]
    names = [f"t0000@seed{seed}" for seed in range(1, SEEDS + 1)]
    assert sorted(finished) == sorted(["t0000", "t0001", *names]), "each once"
    second = max(entry.n for entry in entries if entry.event == "driver")
    assert not done & {entry.trial for entry in entries if entry.event == "start" and entry.n > second}
    found = audit(Home(home), "s")
    assert found.study == {"COMPLETE": 2} and found.mlflow == {"FINISHED": 2}
    assert (found.parent, found.zombies, found.mlflow_duplicates) == ("FINISHED", 0, 0)

    out, _ = paretovid("front", "s", "--json", home=home)
    after = json.loads(out)
    assert after["hypervolume"] == before["hypervolume"]
    (point,) = [each for each in after["points"] if each["id"] == "t0000-p00"]
    confirmed = point["confirmation"]
    measured = [_measured(sweep.trial(name).result) for name in names]
    assert [each["seed"] for each in confirmed["seeds"]] == list(range(1, SEEDS + 1))
    assert confirmed["map_mean"] == pytest.approx(statistics.mean(m["test"]["map"] for m in measured))
    assert confirmed["gflops_mean"] == pytest.approx(statistics.mean(m["test"]["gflops"] for m in measured))
    assert all(m["inference_knobs"] == point["inference_knobs"] for m in measured)
    assert len({m["test"]["gflops"] for m in measured}) > 1, "other seeds are other trainings"


def _measured(result: Path) -> dict[str, Any]:
    point: dict[str, Any] = json.loads(result.read_text())["points"][0]
    return point
