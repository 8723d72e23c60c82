from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import tune
from tests.platform_tests.conftest import make_probe, make_reader

from paretovid.infra.placement import GIB, TrialResources
from paretovid.infra.ray_cluster import Cluster
from paretovid.platform.execution.context import _finite, keep_checkpoint, kept_checkpoint
from paretovid.platform.execution.heartbeat import HeartbeatWriter
from paretovid.platform.execution.launcher import launch_lock, launch_trials
from paretovid.platform.execution.outcome import FixedTrial, TrialCallback
from paretovid.platform.execution.patience import Waiting
from paretovid.platform.execution.stopping import StopSwitch, SweepStopped, on_signals
from paretovid.platform.execution.watchdog import cause_of_death, killed_for_memory
from paretovid.platform.records.control_requests import ask_to_stop, take_back_stop
from paretovid.platform.search.study import ParetoStudy
from paretovid.platform.storage.documents import read_json_object
from paretovid.platform.storage.home import SweepPaths, TrialPaths
from paretovid.search_spaces.schema import KnobConfig
from paretovid.trainables.errors import NonFiniteError, ParetovidError, UsageError
from paretovid.trainables.evaluation.results import TrialResult

KNOBS = {"gamma": KnobConfig(field="gamma", low=0.01, high=0.5, log=True)}


def study(folder: Path, trials: int, **changes: Any) -> ParetoStudy:
    return ParetoStudy(
        **{
            "storage": f"journal://{folder}/optuna.journal",
            "name": "s",
            "knobs": KNOBS,
            "trials": trials,
            **changes,
        }
    )


def make_trainable(folder: Path) -> Callable[[dict[str, Any], Any], TrialResult | None]:
    """A trial of a few milliseconds that can be made to misbehave. A closure: workers cannot import tests."""

    def trainable(config: dict[str, Any], context: Any) -> TrialResult | None:
        import os
        import signal
        import tempfile
        import time
        from pathlib import Path

        from paretovid.trainables.context import TrialStopped
        from paretovid.trainables.errors import NonFiniteError
        from paretovid.trainables.testing import synthetic_result

        gamma = config["knobs"]["gamma"]
        marks = folder / "starts" / config["trial"]
        marks.mkdir(parents=True, exist_ok=True)
        start = len(list(marks.iterdir()))
        (marks / f"{start}-{context.rank}").touch()
        found = context.get_checkpoint()
        first = int((found / "epoch").read_text()) if found else 0
        for epoch in range(first, 3):
            while epoch == 2 and config.get("hold"):
                if context.heartbeat() and config["hold"] != "deaf":
                    raise TrialStopped
                time.sleep(0.05)
            if epoch == 2 and config.get("act", {}).get(config["trial"]) == "hang once" and start == 0:
                time.sleep(300)
            if context.rank == 0:
                with tempfile.TemporaryDirectory() as kept:
                    (Path(kept) / "epoch").write_text(str(epoch + 1))
                    context.report({"epoch": float(epoch + 1)}, Path(kept))
            else:
                context.report({"epoch": float(epoch + 1)})
            act = config.get("act", {}).get(config["trial"], config.get("act_all"))
            if epoch >= 1 and act == "raise":
                raise ValueError("no such thing")
            if epoch >= 1 and act == "diverge":
                raise NonFiniteError("the loss became nan", "lower it")
            if epoch >= 1 and act == "full disk" and not (folder / "repaired").exists():
                raise OSError(28, "No space left on device", "model.safetensors")
            if epoch >= 1 and act == "nan":
                return synthetic_result(config["trial"], [(float("nan"), 1.0)])
            if act == "fork" and os.fork() == 0:
                time.sleep(1)
                os._exit(0)
            if act == "fill output":
                for _ in range(2000):
                    print("x" * 1000)
            if epoch == 1 and act == "die once" and start == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        if context.rank != 0:
            return None
        about = {"first": first, "pid": os.getpid(), "world": context.world_size}
        return synthetic_result(config["trial"], [(gamma**0.5, 10 * gamma)], model=about)

    return trainable


class Watching(TrialCallback):
    """Keeps what trials came to: what a result says of its process (`make_trainable`), or why it failed."""

    def __init__(self, seen: dict[str, Any]) -> None:
        self.seen = seen
        self.progress: list[tuple[str, float]] = []
        self.failures: list[tuple[str, str, bool]] = []

    def on_progress(self, trial_id: str, progress: Mapping[str, float]) -> None:
        self.progress.append((trial_id, progress["epoch"]))

    def on_result(self, trial_id: str, result: TrialResult) -> None:
        assert trial_id not in self.seen
        self.seen[trial_id] = {**result.model, "map": result.points[0].val.quality}

    def on_failure(self, trial_id: str, reason: str, will_retry: bool) -> None:
        self.failures.append((trial_id, reason, will_retry))
        if not will_retry:
            assert trial_id not in self.seen
            self.seen[trial_id] = reason


def watched(seen: dict[str, Any], **extra: Any) -> dict[str, Any]:
    """Arguments of `launch_trials`: trials are configured with `extra`, and what they come to is kept in `seen`."""
    return {
        "configure": lambda suggestion: {"knobs": suggestion.knobs, **extra},
        "callback": Watching(seen),
    }


FIXED = FixedTrial(trial_id="uniform", config={"knobs": {"gamma": 0.3}})


@pytest.mark.ray
def test_fixed_and_searched_trials_share_reused_processes(shared_cluster: Cluster, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}
    watching = Watching(seen)
    searched = study(tmp_path, 6)
    summary = launch_trials(
        make_trainable(tmp_path),
        sweep=SweepPaths(tmp_path / "s"),
        study=searched,
        fixed=[FIXED],
        callback=watching,
    )
    assert (summary.succeeded, summary.failed, summary.is_out_of_time) == (7, 0, False)
    assert set(seen) == {"uniform", *(f"t{i:04d}" for i in range(6))}
    assert len({result["pid"] for result in seen.values()}) <= 2
    assert os.getpid() not in {result["pid"] for result in seen.values()}
    assert searched.counts().complete == 6
    assert {("uniform", 1.0), ("t0000", 3.0)} <= set(watching.progress)
    assert not list((tmp_path / "s").rglob("checkpoint-*"))
    # Nothing is left to do, which is no error and no interrupt.
    assert (
        launch_trials(make_trainable(tmp_path), sweep=SweepPaths(tmp_path / "s"), study=searched).succeeded
        == 0
    )


@pytest.mark.ray
@pytest.mark.timeout(180)
def test_failures_of_every_kind_do_not_end_the_sweep(shared_cluster: Cluster, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}
    act = {"t0000": "raise", "t0001": "diverge", "t0002": "nan", "t0003": "die once", "uniform": "raise"}
    act |= {"t0005": "fork", "t0006": "fill output"}
    fixed = [FixedTrial(trial_id="uniform", config={"knobs": {"gamma": 0.3}, "act": act})]
    searched = study(tmp_path, 7)
    arguments = watched(seen, act=act)
    summary = launch_trials(
        make_trainable(tmp_path),
        sweep=SweepPaths(tmp_path / "s"),
        study=searched,
        fixed=fixed,
        **arguments,
        concurrent=1,
    )
    assert seen["t0000"] == "ValueError: no such thing"
    assert seen["t0001"] == "the loss became nan"
    assert "not finite" in seen["t0002"]
    assert seen["t0003"]["first"] == 2  # resumed from its checkpoint
    assert seen["t0004"]["first"] == seen["t0005"]["first"] == seen["t0006"]["first"] == 0
    once_more = {trial for trial, _, again in arguments["callback"].failures if again}
    assert once_more == {"uniform", "t0000", "t0003"}, "one that forks or fills its output is like others"
    assert seen["uniform"] == "ValueError: no such thing"
    starts = {path.name: len(list(path.iterdir())) for path in (tmp_path / "starts").iterdir()}
    assert starts == {"t0000": 2, "t0001": 1, "t0002": 1, "t0003": 2, "uniform": 2} | {
        f"t000{number}": 1 for number in (4, 5, 6)
    }
    assert (summary.succeeded, summary.failed) == (4, 4)
    counts = searched.counts()
    assert (counts.complete, counts.failed, counts.running) == (4, 3, 0)
    assert "no such thing" in (tmp_path / "s" / "trials" / "t0000" / "error.txt").read_text()


@pytest.mark.ray
def test_a_sweep_in_which_all_fail_says_why(shared_cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(
        ParetovidError, match=r"all 2 trials failed, most often: ValueError: no such thing"
    ) as caught:
        launch_trials(
            make_trainable(tmp_path),
            sweep=SweepPaths(tmp_path / "s"),
            study=study(tmp_path, 2, max_failures=0),
            **watched({}, act_all="raise"),
            concurrent=1,
        )
    assert "error.txt" in caught.value.hint


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(180)
def test_several_workers_are_a_train_run(shared_cluster: Cluster, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}
    searched = study(tmp_path, 2, max_failures=0)
    summary = launch_trials(
        make_trainable(tmp_path),
        sweep=SweepPaths(tmp_path / "s"),
        study=searched,
        resources=TrialResources(workers=2),
        **watched(seen, act={"t0001": "diverge"}),
    )
    assert (summary.succeeded, summary.failed) == (1, 1)
    assert seen["t0000"]["world"] == 2
    assert seen["t0000"]["map"] == 0.5**0.5
    assert seen["t0001"] == "the loss became nan"
    assert searched.counts().reasons == ("the loss became nan",)


@pytest.mark.ray
def test_no_room_and_no_second_driver(shared_cluster: Cluster, tmp_path: Path) -> None:
    trainable = make_trainable(tmp_path)
    with pytest.raises(UsageError, match=r"1 nodes \(.*2 CPU.*no room for a trial of 3 x \(1 CPU"):
        launch_trials(trainable, sweep=SweepPaths(tmp_path / "s"), resources=TrialResources(workers=3))
    with (
        launch_lock(SweepPaths(tmp_path / "s")),
        pytest.raises(UsageError, match="running already"),
    ):
        launch_trials(trainable, sweep=SweepPaths(tmp_path / "s"))


@pytest.mark.ray
def test_a_run_that_ray_ends_for_memory_is_taken_up_again(
    shared_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster with Ray's memory monitor on: Tune raises, and what ran has failed once."""
    seen: dict[str, Any] = {}
    fit, calls = tune.Tuner.fit, []

    def killed_once(tuner: Any) -> Any:
        calls.append(tuner)
        if len(calls) > 1:
            return fit(tuner)
        searcher = tuner._local_tuner._tune_config.search_alg
        assert searcher.suggest("a")["trial"] == "t0000"
        raise RuntimeError("Caught unexpected exception") from ray.exceptions.OutOfMemoryError(
            "worker killed"
        )

    monkeypatch.setattr(tune.Tuner, "fit", killed_once)
    searched = study(tmp_path, 2)
    summary = launch_trials(
        make_trainable(tmp_path),
        sweep=SweepPaths(tmp_path / "s"),
        study=searched,
        **watched(seen),
        concurrent=1,
    )
    assert (summary.succeeded, len(calls)) == (2, 2)
    assert searched._study.trials[0].user_attrs["failures"] == 1

    def broken(tuner: tune.Tuner) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(tune.Tuner, "fit", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        launch_trials(
            make_trainable(tmp_path),
            sweep=SweepPaths(tmp_path / "s"),
            study=study(tmp_path, 3),
            **watched({}),
        )


@pytest.mark.ray
def test_time_limit_starts_nothing_more(shared_cluster: Cluster, tmp_path: Path) -> None:
    summary = launch_trials(
        make_trainable(tmp_path),
        sweep=SweepPaths(tmp_path / "s"),
        study=study(tmp_path, 3),
        hours=1e-9,
        **watched({}),
    )
    assert (summary.succeeded, summary.is_out_of_time) == (0, True)


DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_launcher import make_trainable, study, watched
from paretovid.infra.ray_cluster import connect
from paretovid.platform.execution.launcher import launch_lock, launch_trials
from paretovid.platform.execution.stopping import StopSwitch, SweepStopped, on_signals
from paretovid.platform.storage.home import SweepPaths
folder = Path({folder!r})
seen, switch = {{}}, StopSwitch()
with on_signals(switch, lambda text: print(text.strip(), flush=True)), connect(cpus=2):
    switch.arm()
    try:
        launch_trials(make_trainable(folder), sweep=SweepPaths(folder / "s"), study=study(folder, 2),
                      **watched(seen, hold={hold!r}), switch=switch, concurrent=1)
    except SweepStopped as stopped:
        print(stopped.reason, flush=True)
        sys.exit(stopped.exit_status)
"""


def drive(folder: Path, *, hold: str) -> subprocess.Popen[str]:
    code = DRIVER.format(tests=str(Path(__file__).parent), folder=str(folder), hold=hold)
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_checkpoints(folder: Path, number: int) -> None:
    until = time.time() + 150
    while len(list(folder.glob("s/trials/t*/checkpoint-*1"))) < number:
        assert time.time() < until
        time.sleep(0.05)


def check_resumes(folder: Path, *, begun: int, trials: int) -> None:
    """In this process, on its cluster, whatever the first one was. `begun`: those that have a checkpoint."""
    seen: dict[str, Any] = {}
    launch_trials(
        make_trainable(folder),
        sweep=SweepPaths(folder / "s"),
        study=study(folder, trials),
        **watched(seen),
        concurrent=1,
    )
    first = {name: result["first"] for name, result in seen.items()}
    assert first == {f"t{number:04d}": 2 if number < begun else 0 for number in range(trials)}
    counts = study(folder, trials).counts()
    assert (counts.complete, counts.failed, counts.running) == (trials, 0, 0)


@pytest.mark.ray
@pytest.mark.timeout(180)
def test_a_signal_ends_the_run_in_order_and_it_resumes_from_checkpoints(
    shared_cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGTERM, to a command: test_resume.py."""
    switch = StopSwitch()

    def interrupt() -> None:
        wait_for_checkpoints(tmp_path, 2)
        os.kill(os.getpid(), signal.SIGINT)

    sending = threading.Thread(target=interrupt)
    with on_signals(switch, print):
        switch.arm()
        sending.start()
        with pytest.raises(SweepStopped, match="interrupted by ctrl-C") as stopped:
            launch_trials(
                make_trainable(tmp_path),
                sweep=SweepPaths(tmp_path / "s"),
                study=study(tmp_path, 3),
                **watched({}, hold="listens"),
                switch=switch,
            )
    sending.join()
    assert stopped.value.exit_status == 130
    written = capsys.readouterr()
    assert written.out.strip().startswith("stopping: running trials write a checkpoint")
    assert written.err == ""
    assert study(tmp_path, 3).counts().running == 0
    check_resumes(tmp_path, begun=2, trials=3)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_signals_end_the_run_at_once_though_its_trials_do_not_listen(
    shared_cluster: Cluster, tmp_path: Path
) -> None:
    first = drive(tmp_path, hold="deaf")
    wait_for_checkpoints(tmp_path, 1)
    for _ in range(2):
        first.send_signal(signal.SIGINT)
        time.sleep(1)
    output, errors = first.communicate(timeout=60)
    assert output.splitlines()[0].startswith("stopping: running trials write a checkpoint")
    assert output.splitlines()[1:] == ["interrupted by ctrl-C"]
    assert first.returncode == 130
    assert errors == ""
    assert study(tmp_path, 2).counts().running == 0
    check_resumes(tmp_path, begun=1, trials=2)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_killed_run_resumes_from_checkpoints(shared_cluster: Cluster, tmp_path: Path) -> None:
    first = drive(tmp_path, hold="listens")
    wait_for_checkpoints(tmp_path, 1)
    first.kill()
    first.communicate(timeout=60)
    assert study(tmp_path, 2).counts().running == 1
    check_resumes(tmp_path, begun=1, trials=2)


@pytest.mark.ray
@pytest.mark.timeout(120)
def test_a_trial_that_hangs_is_ended_and_resumes_from_its_checkpoint(
    shared_cluster: Cluster, tmp_path: Path
) -> None:
    seen: dict[str, Any] = {}
    arguments = watched(seen, act={"t0000": "hang once"})
    launch_trials(
        make_trainable(tmp_path),
        sweep=SweepPaths(tmp_path / "s"),
        study=study(tmp_path, 2),
        **arguments,
        hang_seconds=3,
        concurrent=1,
    )
    assert arguments["callback"].failures == [("t0000", "no progress for 3 s, its process was ended", True)]
    assert (seen["t0000"]["first"], seen["t0001"]["first"]) == (2, 0)


@pytest.mark.ray
def test_a_full_disk_ends_the_sweep_and_fails_no_trial(shared_cluster: Cluster, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}
    full = {f"t{i:04d}": "full disk" for i in range(3)}

    def run() -> None:
        launch_trials(
            make_trainable(tmp_path),
            sweep=SweepPaths(tmp_path / "s"),
            study=study(tmp_path, 3, max_failures=0),
            **watched(seen, act=full),
            concurrent=1,
        )

    with pytest.raises(ParetovidError, match=r"trials cannot work here.*No space left"):
        run()
    counts = study(tmp_path, 3).counts()
    assert (seen, counts.failed, counts.running) == ({}, 0, 0)
    (tmp_path / "repaired").touch()
    run()
    assert seen["t0000"]["first"] == 2 and study(tmp_path, 3).counts().complete == 3


def when(condition: Callable[[], bool], act: Callable[[], object]) -> threading.Thread:
    def watch() -> None:
        while not condition():
            time.sleep(0.05)
        act()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


@pytest.mark.ray
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("is_back", "workers", "trials"),
    # A group of workers takes many seconds to start.
    [(True, 1, 4), (False, 1, 4), pytest.param(True, 2, 1, marks=pytest.mark.slow)],
)
def test_features_that_are_away_cost_no_trial(
    shared_cluster: Cluster, tmp_path: Path, is_back: bool, workers: int, trials: int
) -> None:
    features, gone = tmp_path / "features", tmp_path / "gone"
    features.mkdir()
    (features / "index").touch()
    seen: dict[str, Any] = {}
    arguments = watched(seen, features={"coarse": str(features)})
    switch = StopSwitch()

    def lose() -> None:
        features.rename(gone)
        if is_back:
            time.sleep(1)
            gone.rename(features)

    def run(seconds: float) -> None:
        launch_trials(
            make_reader(tmp_path),
            sweep=SweepPaths(tmp_path / "home" / "sweeps" / "s"),
            study=study(tmp_path, trials, max_failures=0),
            **arguments,
            concurrent=2,
            resources=TrialResources(workers=workers),
            waiting=Waiting(seconds=seconds, probe=make_probe()),
            switch=switch,
        )

    reads = tmp_path / "reads"
    loses = when(lambda: reads.exists() and reads.read_text().count("\n") >= 3, lose)
    if is_back:
        run(30.0)
    else:
        with pytest.raises(ParetovidError, match=r"trials cannot work here.*index: No such file"):
            run(1.0)
        assert "trials cannot work here" in str(switch.reason) and switch.exit_status == 1
        counts = study(tmp_path, trials).counts()
        assert counts.failed == counts.running == 0
        gone.rename(features)
        switch = StopSwitch()
        run(30.0)
    loses.join()
    assert sorted(seen) == [f"t{number:04d}" for number in range(trials)]
    assert arguments["callback"].failures == [] and study(tmp_path, trials).counts().complete == trials
    done = [line.rsplit(" ", 1)[0] for line in reads.read_text().splitlines()]
    assert done.count("t0000 0") == workers or done.count("t0000 2") == workers, (
        "it resumes from its checkpoint"
    )


def test_what_ray_says_of_a_death_is_put_in_words() -> None:
    node = cause_of_death("ActorDiedError: The actor died because its node has died. Node Id: 4f")
    assert node.is_infrastructure and "node was lost" in node.reason
    killed = cause_of_death("Worker unexpectedly exits with a connection error code 2. End of file. SIGKILL")
    assert not killed.is_infrastructure and "killed" in killed.reason
    assert "memory" in cause_of_death("OutOfMemoryError: the node running low on memory").reason
    assert "process died" in cause_of_death("something new").reason


def test_only_the_process_that_ray_killed_for_memory_has_failed(tmp_path: Path) -> None:
    HeartbeatWriter(SweepPaths(tmp_path).trial("t0000"))
    sweep = SweepPaths(tmp_path)
    counted = killed_for_memory(f"1 worker(s) were killed: actor ID: 7, pid={os.getpid()}, memory", sweep)
    other = killed_for_memory("1 worker(s) were killed: actor ID: 7, pid=1, memory used", sweep)
    assert (counted("t0000"), other("t0000")) == (True, False)
    assert killed_for_memory("1 worker(s) were killed", sweep)("t0000")


def test_heartbeats_and_the_wish_to_stop(tmp_path: Path) -> None:
    sweep = SweepPaths(tmp_path)
    trial = sweep.trial("t0000")
    mine = HeartbeatWriter(trial)
    assert mine.heartbeat({"epoch": 3.0}) is False
    alive = read_json_object(trial.heartbeat)
    assert alive is not None and (alive["pid"], alive["epoch"]) == (os.getpid(), 3.0)
    ask_to_stop(sweep, "ctrl-C")
    listening = HeartbeatWriter(trial)
    assert listening.heartbeat() is True
    assert not mine.is_mine, "the second one has the lease"
    mine.end()
    assert trial.heartbeat.exists(), "it is not the first one's any more"
    take_back_stop(sweep)
    assert not sweep.stop.exists()
    listening.end()
    assert not trial.heartbeat.exists()


def test_checkpoints_are_whole_and_only_the_last_is_kept(tmp_path: Path) -> None:
    trial, made = TrialPaths(tmp_path / "t0000"), tmp_path / "made"
    made.mkdir()
    assert kept_checkpoint(trial) is None
    for epoch in range(12):
        (made / "epoch").write_text(str(epoch))
        keep_checkpoint(trial, made)
    (trial.folder / "checkpoint-000099.partial").mkdir()  # killed while copying
    kept = kept_checkpoint(trial)
    assert kept is not None and (kept / "epoch").read_text() == "11"
    assert len(list(trial.folder.glob("checkpoint-*[0-9]"))) == 1


def test_slots() -> None:
    def slots(nodes: list[dict[str, float]], **wanted: Any) -> int:
        return TrialResources(**wanted).slots(nodes)

    two = {"CPU": 2.0, "memory": 8.0 * GIB}
    assert slots([two]) == 2
    assert slots([two, two, two]) == 6
    assert slots([{"CPU": 0.3}], cpus=0.1) == 3
    assert slots([{**two, "CPU": 5.0}], workers=2) == 2
    assert slots([{"CPU": 16.0, "GPU": 1.0}], gpus=0.5) == 2
    assert slots([{"CPU": 16.0, "memory": 8.0 * GIB}], memory_gigabytes=3) == 2
    assert slots([two], workers=4) == 0
    # What is there in all is not what counts: a worker needs it in one place.
    assert slots([{"CPU": 1.0}] * 3, cpus=2) == 0
    assert slots([{**two, "CPU": 1.0}] * 4, workers=2) == 2
    assert slots([{"CPU": 8.0}, {"CPU": 8.0, "slot": 3.0}], custom={"slot": 1}) == 3


def test_progress_must_be_finite() -> None:
    with pytest.raises(NonFiniteError, match="loss became inf"):
        _finite({"loss": math.inf})
