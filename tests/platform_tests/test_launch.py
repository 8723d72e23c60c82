from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import tune

from paretovid.infra.ray_cluster import connect
from paretovid.platform import launch
from paretovid.platform.launch import TrialResources, launch_trials
from paretovid.platform.searcher import FixedTrial, Hooks
from paretovid.platform.study import ParetoStudy
from paretovid.platform.trial_context import _finite, keep_checkpoint, kept_checkpoint
from paretovid.search_spaces.schema import KnobConfig
from paretovid.trainables.errors import NonFiniteError, ParetovidError, UsageError

KNOBS = {"gamma": KnobConfig(field="gamma", low=0.01, high=0.5, log=True)}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with connect(cpus=2):
        yield


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


def make_trainable(folder: Path) -> Callable[[dict[str, Any], Any], dict[str, Any]]:
    """A trial of a few milliseconds that can be told to misbehave. A closure: workers cannot import tests."""

    def trainable(config: dict[str, Any], context: Any) -> dict[str, Any]:
        import os
        import signal
        import tempfile
        import time
        from pathlib import Path

        from paretovid.trainables.errors import NonFiniteError

        gamma = config["knobs"]["gamma"]
        marks = folder / "starts" / config["trial"]
        marks.mkdir(parents=True, exist_ok=True)
        start = len(list(marks.iterdir()))
        (marks / f"{start}-{context.rank}").touch()
        found = context.get_checkpoint()
        first = int((found / "epoch").read_text()) if found else 0
        for epoch in range(first, 3):
            if epoch == 2 and config.get("hold"):
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
            if epoch >= 1 and act == "nan":
                return {"map": float("nan"), "gflops": 1.0}
            if epoch == 1 and act == "die once" and start == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return {
            "map": gamma**0.5,
            "gflops": 10 * gamma,
            "first": first,
            "pid": os.getpid(),
            "world": context.world_size,
            "device": str(context.device),
        }

    return trainable


def hooks(seen: dict[str, Any], **extra: Any) -> Hooks:
    def on_result(trial_id: str, config: Any, result: Any, error: str | None) -> None:
        assert trial_id not in seen
        seen[trial_id] = result if error is None else error

    return Hooks(configure=lambda suggestion: {"knobs": suggestion.knobs, **extra}, on_result=on_result)


FIXED = FixedTrial(trial_id="uniform", config={"knobs": {"gamma": 0.3}})


@pytest.mark.ray
def test_fixed_and_searched_trials_share_reused_processes(cluster: None, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}
    progress: list[tuple[str, float]] = []
    watching = hooks(seen)
    watching.on_progress = lambda trial_id, values: progress.append((trial_id, values["epoch"]))
    searched = study(tmp_path, 6)
    summary = launch_trials(
        make_trainable(tmp_path), storage=tmp_path / "s", study=searched, fixed=[FIXED], hooks=watching
    )
    assert (summary.succeeded, summary.failed, summary.is_out_of_time) == (7, 0, False)
    assert set(seen) == {"uniform", *(f"t{i:04d}" for i in range(6))}
    assert len({result["pid"] for result in seen.values()}) <= 2
    assert os.getpid() not in {result["pid"] for result in seen.values()}
    assert searched.counts().complete == 6
    assert {("uniform", 1.0), ("t0000", 3.0)} <= set(progress)
    assert not list((tmp_path / "s").rglob("checkpoint-*"))
    # Nothing is left to do, which is no error and no interrupt.
    assert launch_trials(make_trainable(tmp_path), storage=tmp_path / "s", study=searched).succeeded == 0


@pytest.mark.ray
def test_failures_of_every_kind_do_not_end_the_sweep(cluster: None, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}
    act = {"t0000": "raise", "t0001": "diverge", "t0002": "nan", "t0003": "die once", "uniform": "raise"}
    fixed = [FixedTrial(trial_id="uniform", config={"knobs": {"gamma": 0.3}, "act": act})]
    searched = study(tmp_path, 5)
    summary = launch_trials(
        make_trainable(tmp_path),
        storage=tmp_path / "s",
        study=searched,
        fixed=fixed,
        hooks=hooks(seen, act=act),
    )
    assert seen["t0000"] == "ValueError: no such thing"
    assert seen["t0001"] == "the loss became nan"
    assert "not finite" in seen["t0002"]
    assert seen["t0003"]["first"] == 2  # went on from its checkpoint
    assert seen["t0004"]["first"] == 0
    assert seen["uniform"] == "ValueError: no such thing"
    starts = {path.name: len(list(path.iterdir())) for path in (tmp_path / "starts").iterdir()}
    assert starts == {"t0000": 2, "t0001": 1, "t0002": 1, "t0003": 2, "t0004": 1, "uniform": 2}
    assert (summary.succeeded, summary.failed) == (2, 4)
    counts = searched.counts()
    assert (counts.complete, counts.failed, counts.running) == (2, 3, 0)
    assert "no such thing" in (tmp_path / "s" / "trials" / "t0000" / "error.txt").read_text()


@pytest.mark.ray
def test_a_sweep_in_which_all_fail_says_why(cluster: None, tmp_path: Path) -> None:
    with pytest.raises(
        ParetovidError, match=r"all 2 trials failed, most often: ValueError: no such thing"
    ) as caught:
        launch_trials(
            make_trainable(tmp_path),
            storage=tmp_path / "s",
            study=study(tmp_path, 2, max_failures=0),
            hooks=hooks({}, act_all="raise"),
        )
    assert "error.txt" in caught.value.hint


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(180)
def test_several_workers_are_a_train_run(cluster: None, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}
    searched = study(tmp_path, 2, max_failures=0)
    summary = launch_trials(
        make_trainable(tmp_path),
        storage=tmp_path / "s",
        study=searched,
        resources=TrialResources(workers=2),
        hooks=hooks(seen, act={"t0001": "diverge"}),
    )
    assert (summary.succeeded, summary.failed) == (1, 1)
    assert seen["t0000"]["world"] == 2
    assert seen["t0000"]["map"] == 0.5**0.5
    assert seen["t0001"] == "the loss became nan"
    assert searched.counts().reasons == ("the loss became nan",)


@pytest.mark.ray
def test_no_room_and_no_second_driver(cluster: None, tmp_path: Path) -> None:
    trainable = make_trainable(tmp_path)
    with pytest.raises(UsageError, match=r"no room for a trial of 3 x \(1 CPU"):
        launch_trials(trainable, storage=tmp_path / "s", resources=TrialResources(workers=3))
    with (
        launch.alone(tmp_path / "s"),
        pytest.raises(UsageError, match="running already"),
    ):
        launch_trials(trainable, storage=tmp_path / "s")


@pytest.mark.ray
def test_a_run_that_ray_ends_for_memory_is_taken_up_again(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
        make_trainable(tmp_path), storage=tmp_path / "s", study=searched, hooks=hooks(seen), concurrent=1
    )
    assert (summary.succeeded, len(calls)) == (2, 2)
    assert searched._study.trials[0].user_attrs["failures"] == 1

    def broken(tuner: tune.Tuner) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(tune.Tuner, "fit", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        launch_trials(
            make_trainable(tmp_path), storage=tmp_path / "s", study=study(tmp_path, 3), hooks=hooks({})
        )


@pytest.mark.ray
def test_time_limit_starts_nothing_more(cluster: None, tmp_path: Path) -> None:
    summary = launch_trials(
        make_trainable(tmp_path),
        storage=tmp_path / "s",
        study=study(tmp_path, 3),
        hours=1e-9,
        hooks=hooks({}),
    )
    assert (summary.succeeded, summary.is_out_of_time) == (0, True)


DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_launch import hooks, make_trainable, study, FIXED
from paretovid.infra.ray_cluster import connect
from paretovid.platform.launch import launch_trials
folder = Path({folder!r})
seen = {{}}
with connect(cpus=2):
    try:
        launch_trials(make_trainable(folder), storage=folder / "s", study=study(folder, 4),
                      hooks=hooks(seen, hold={hold}))
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        sys.exit(130)
print("finished", {{name: result["first"] for name, result in seen.items()}})
"""


def drive(folder: Path, *, hold: bool) -> subprocess.Popen[str]:
    code = DRIVER.format(tests=str(Path(__file__).parent), folder=str(folder), hold=hold)
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_checkpoints(folder: Path, number: int) -> None:
    until = time.time() + 60
    while len(list(folder.glob("s/trials/t*/checkpoint-*1"))) < number:
        assert time.time() < until
        time.sleep(0.05)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_sweeps_go_on_from_checkpoints(tmp_path: Path, how: signal.Signals) -> None:
    first = drive(tmp_path, hold=True)
    wait_for_checkpoints(tmp_path, 2)
    first.send_signal(how)
    output, errors = first.communicate(timeout=60)
    assert "finished" not in output
    if how == signal.SIGINT:
        assert (first.returncode, output) == (130, "interrupted\n")
        assert errors == ""
    assert study(tmp_path, 4).counts().running == 2
    second = drive(tmp_path, hold=False)
    output, errors = second.communicate(timeout=120)
    assert second.returncode == 0, errors
    assert errors == ""
    began = output.removeprefix("finished ").replace("'", '"')
    assert json.loads(began) == {"t0000": 2, "t0001": 2, "t0002": 0, "t0003": 0}
    counts = study(tmp_path, 4).counts()
    assert (counts.complete, counts.failed, counts.running) == (4, 0, 0)


def test_checkpoints_are_whole_and_only_the_last_is_kept(tmp_path: Path) -> None:
    folder, made = tmp_path / "t0000", tmp_path / "made"
    made.mkdir()
    assert kept_checkpoint(folder) is None
    for epoch in range(12):
        (made / "epoch").write_text(str(epoch))
        keep_checkpoint(folder, made)
    (folder / "checkpoint-000099.partial").mkdir()  # killed while copying
    kept = kept_checkpoint(folder)
    assert kept is not None and (kept / "epoch").read_text() == "11"
    assert len(list(folder.glob("checkpoint-*[0-9]"))) == 1


def test_slots() -> None:
    assert TrialResources().slots(2, 0, 8) == 2
    assert TrialResources(cpus=0.1).slots(0.3, 0, 8) == 3
    assert TrialResources(workers=2).slots(5, 0, 8) == 2
    assert TrialResources(cpus=1, gpus=0.5).slots(16, 1, 64) == 2
    assert TrialResources(memory_gigabytes=3).slots(16, 0, 8) == 2
    assert TrialResources(workers=4).slots(2, 0, 8) == 0


def test_results_and_progress_must_be_finite() -> None:
    with pytest.raises(NonFiniteError):
        launch._to_json({"points": [{"map": math.nan}]})
    with pytest.raises(NonFiniteError, match="loss became inf"):
        _finite({"loss": math.inf})
