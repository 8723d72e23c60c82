"""What three stores say about one sweep, side by side: folders, study, MLflow. For tests and benchmarks of
durability, and for whoever doubts.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import optuna
from optuna.trial import TrialState

from paretovid.platform.records.journal import read_journal
from paretovid.platform.records.sweep import known_record
from paretovid.platform.search.location import study_location
from paretovid.platform.search.storage import connect_storage
from paretovid.platform.storage.home import Home
from paretovid.platform.tracking.store import open_store


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """Counts of a sweep's trials. `searched` are those of the study, baselines left out."""

    searched_with_result: int
    baselines_with_result: int
    study: dict[str, int]
    """Optuna's state to how many trials are in it."""
    mlflow: dict[str, int]
    """Status of child runs to how many there are, baselines included."""
    mlflow_duplicates: int
    """Child runs of a trial that has another."""
    parent: str
    """Status of the parent run."""
    zombies: int
    """Trials that say they are running, in any store, though nobody runs the sweep."""
    repeated: int
    """Trials whose configuration another trial has had."""
    finished_again: int
    """Trials that were started after they had finished."""
    starts: int
    """All starts of trials, first ones included."""


def audit(home: Home, sweep: str, uri: str | None = None) -> Audit:
    """Reads all stores of a sweep that nobody runs now."""
    paths = home.sweep(sweep)
    paths.refresh()
    done = [trial.name for trial in paths.with_result()]
    record = known_record(paths)
    location = study_location(home, sweep, record.uid, record.study_storage, record.study)
    storage, _ = connect_storage(location.url)
    trials = optuna.load_study(study_name=location.name, storage=storage).get_trials(deepcopy=False)
    started = [trial for trial in trials if "starts" in trial.user_attrs]
    knobs = Counter(str(sorted(trial.params.items())) for trial in started)
    store = open_store(home, uri)
    runs = store.client.search_runs(
        [store.experiment_id], f"tags.`paretovid.sweep` = '{sweep}'", max_results=10_000
    )
    children = [run for run in runs if run.data.tags.get("paretovid.kind") == "trial"]
    parents = [run for run in runs if run.data.tags.get("paretovid.kind") == "sweep"]
    names = Counter(run.data.tags["paretovid.trial"] for run in children)
    running = sum(trial.state == TrialState.RUNNING for trial in trials)
    running += sum(run.info.status == "RUNNING" for run in runs)
    running += len(paths.with_heartbeat())
    finished: set[str] = set()
    again = starts = 0
    for entry in read_journal(paths).entries:
        if entry.event == "start":
            starts += 1
            again += entry.trial in finished
        elif entry.event == "finish":
            finished.add(entry.trial)
    return Audit(
        searched_with_result=sum(name[1:].isdigit() and name[0] == "t" for name in done),
        baselines_with_result=sum(not name[1:].isdigit() for name in done),
        study=dict(Counter(trial.state.name for trial in started)),
        mlflow=dict(Counter(run.info.status for run in children)),
        mlflow_duplicates=sum(count - 1 for count in names.values()),
        parent=", ".join(run.info.status for run in parents),
        zombies=running,
        repeated=sum(count - 1 for count in knobs.values()),
        finished_again=again,
        starts=starts,
    )
